//! Writes that count once replicas have them.
//!
//! `WAIT` waits for what its own connection wrote before, and the server reads nothing more from that connection meanwhile
//! ("WAIT" of the Redis documentation). So these calls have a connection of their own, and the one that all others share is
//! never held up; and each goes together with its wait, for of another connection, or of a later one, nobody knows whether it
//! leads to the server that has the write. On it a wait is shared: who comes while one call waits is in the next one.
//!
//! Most of the time a wait is one round trip from the server to its replicas: a server that is asked to wait asks them.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use pubsub_core::{Error, ErrorKind, Grouped};
use redis::{ErrorKind as Driver, Pipeline, RedisError, RedisResult, Value};

use crate::connect::{Goes, Link, goes};

/// What the server answered to each, and where too few replicas have it, how many.
pub(crate) type Answered = (Vec<RedisResult<Value>>, Option<TooFew>);

/// A call of which too few replicas said in time that they have it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TooFew {
    had: i64,
    wanted: u16,
    within: Duration,
}

impl TooFew {
    /// It is done at the server, and may be lost with it.
    pub(crate) fn error(self, doing: &'static str) -> Error {
        Error::new(ErrorKind::Unavailable, format!("{doing}: too few replicas had it in time"))
            .with("replicas", self.had)
            .with("wanted", self.wanted)
            .with("within", format!("{:?}", self.within))
    }
}

/// How many replicas have to have a call, and those that wait for it.
pub(crate) struct Replicated {
    wanted: u16,
    limit: Duration,
    calls: Grouped<Arc<Pipeline>, Answered>,
}

impl fmt::Debug for Replicated {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Replicated").field("wanted", &self.wanted).finish_non_exhaustive()
    }
}

impl Replicated {
    pub(crate) fn new(wanted: u16, limit: Duration) -> Self {
        Self { wanted, limit, calls: Grouped::new() }
    }

    /// Runs these commands by a link that nobody else uses.
    ///
    /// # Cancel safety
    /// What was dropped may be done, and may be done twice: what others called along with it is called again.
    pub(crate) async fn run(&self, link: &Link, commands: Arc<Pipeline>) -> Answered {
        let unanswered = || for_each(&commands, &(Driver::Io, "nothing was answered").into());
        self.calls
            .call(Arc::clone(&commands), |all| self.together(link, all))
            .await
            .unwrap_or_else(unanswered)
    }

    async fn together(&self, link: &Link, all: Vec<Arc<Pipeline>>) -> Vec<Answered> {
        let (whole, waits) = self.whole(link.is_cluster(), &all);
        match self.split(link.commands().each(&whole).await, &waits) {
            Ok((values, few)) => {
                let mut values = values.into_iter();
                all.iter().map(|own| (values.by_ref().take(own.len()).collect(), few)).collect()
            }
            Err(error) => all.iter().map(|own| for_each(own, &error)).collect(),
        }
    }

    /// All commands with a wait behind the last, in a cluster behind the last of each slot; and which of them are waits.
    fn whole(&self, is_cluster: bool, all: &[Arc<Pipeline>]) -> (Pipeline, Vec<bool>) {
        let commands = || all.iter().flat_map(|own| own.cmd_iter());
        let slots: Vec<Goes> =
            commands().map(|command| if is_cluster { goes(command) } else { Goes::Anywhere }).collect();
        let mut seen = Vec::new();
        let mut are_last: Vec<bool> = Vec::with_capacity(slots.len());
        for slot in slots.iter().rev() {
            let is_last = !seen.contains(slot);
            are_last.push(is_last);
            if is_last {
                seen.push(*slot);
            }
        }
        // A wait of 0 ms would have no end.
        let limit = u64::try_from(self.limit.as_millis()).unwrap_or(u64::MAX).max(1);
        let (mut whole, mut waits) = (Pipeline::with_capacity(slots.len() + seen.len()), Vec::new());
        for (command, is_last) in commands().zip(are_last.into_iter().rev()) {
            whole.add_command(command.clone());
            waits.push(false);
            if is_last {
                whole.cmd("WAIT").arg(self.wanted).arg(limit);
                waits.push(true);
            }
        }
        (whole, waits)
    }

    /// The answers without those of the waits, and what these say; a wait that was not answered is a failure of all.
    fn split(&self, answers: Vec<RedisResult<Value>>, waits: &[bool]) -> RedisResult<Answered> {
        let mut values = Vec::with_capacity(answers.len());
        let mut fewest = i64::MAX;
        for (answer, is_wait) in answers.into_iter().zip(waits) {
            if !is_wait {
                values.push(answer);
                continue;
            }
            match answer? {
                Value::Int(had) => fewest = fewest.min(had),
                Value::ServerError(error) => return Err(RedisError::from(error)),
                _ => return Err((Driver::UnexpectedReturnType, "WAIT answers a number").into()),
            }
        }
        let few = TooFew { had: fewest, wanted: self.wanted, within: self.limit };
        Ok((values, (fewest < i64::from(self.wanted)).then_some(few)))
    }
}

/// The same failure of each command.
fn for_each(commands: &Pipeline, error: &RedisError) -> Answered {
    (commands.cmd_iter().map(|_| Err(error.clone())).collect(), None)
}

#[cfg(test)]
mod tests {
    use redis::parse_redis_value;

    use super::*;

    fn words(pipeline: &Pipeline) -> Vec<String> {
        let text = |command: &redis::Cmd| {
            let words = command.args_iter().map(|arg| match arg {
                redis::Arg::Simple(word) => String::from_utf8_lossy(word).into_owned(),
                _ => String::new(),
            });
            words.collect::<Vec<_>>().join(" ")
        };
        pipeline.cmd_iter().map(text).collect()
    }

    fn incr(keys: &[&str]) -> Arc<Pipeline> {
        let mut pipeline = Pipeline::new();
        for key in keys {
            pipeline.cmd("INCR").arg(*key);
        }
        Arc::new(pipeline)
    }

    #[test]
    fn one_wait_is_behind_all_commands_and_in_a_cluster_behind_the_last_of_each_slot() {
        let replicated = Replicated::new(2, Duration::from_micros(10));
        let all = [incr(&["{1}a", "{2}a"]), incr(&["{1}b"])];
        let (whole, waits) = replicated.whole(false, &all);
        assert_eq!(words(&whole), ["INCR {1}a", "INCR {2}a", "INCR {1}b", "WAIT 2 1"]);
        assert_eq!(waits, [false, false, false, true]);
        let (whole, waits) = replicated.whole(true, &all);
        assert_eq!(words(&whole), ["INCR {1}a", "INCR {2}a", "WAIT 2 1", "INCR {1}b", "WAIT 2 1"]);
        assert_eq!(waits, [false, false, true, false, true]);
    }

    #[test]
    fn the_fewest_replicas_decide_and_a_refused_wait_is_an_error() {
        let replicated = Replicated::new(2, Duration::from_secs(1));
        let waits = [false, true, false, true];
        let all = |second: i64| {
            vec![Ok(Value::Int(7)), Ok(Value::Int(3)), Ok(Value::Int(8)), Ok(Value::Int(second))]
        };
        let (values, few) = replicated.split(all(2), &waits).unwrap();
        assert_eq!((values, few), (vec![Ok(Value::Int(7)), Ok(Value::Int(8))], None));
        let (values, few) = replicated.split(all(1), &waits).unwrap();
        assert_eq!(values, [Ok(Value::Int(7)), Ok(Value::Int(8))]);
        let error = few.unwrap().error("publish an event");
        assert_eq!(
            error.to_string(),
            "publish an event: too few replicas had it in time (replicas=1, wanted=2, within=1s): unavailable"
        );
        let refused =
            parse_redis_value(b"-NOPERM this user has no permissions to run the 'wait' command\r\n");
        let error = replicated.split(vec![Ok(Value::Int(7)), Ok(refused.unwrap())], &waits).unwrap_err();
        assert_eq!(crate::error::kind_of(&error), ErrorKind::Refused);
    }
}
