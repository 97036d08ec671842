//! Scripts that run at the server, and commands on the connection that answers at once.

use std::fmt;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use pubsub_core::{Error, Result};
use redis::{Cmd, Pipeline, RedisError, RedisResult, ServerErrorKind, Value};

use crate::connect::{Link, Most, TooLong};
use crate::denied::Denied;
use crate::error::failed;
use crate::replicated::{Answered, Replicated, TooFew};

/// A script, which the server knows by its hash once it was loaded.
pub(crate) struct Script {
    code: &'static str,
    hash: String,
}

/// A script that is made when it is first needed.
pub(crate) type Lazy = LazyLock<Script>;

impl Script {
    pub(crate) fn new(code: &'static str) -> Self {
        Self { code, hash: redis::Script::new(code).get_hash().to_owned() }
    }

    /// A call of it with these keys; its arguments follow.
    pub(crate) fn call<'k>(&'static self, keys: impl IntoIterator<Item = &'k str>) -> Request {
        let keys: Vec<&str> = keys.into_iter().collect();
        let mut cmd = redis::cmd("EVALSHA");
        cmd.arg(&self.hash).arg(keys.len()).arg(&keys[..]);
        Request { cmd, script: Some(self) }
    }
}

/// One command, or one call of a script.
pub(crate) struct Request {
    cmd: Cmd,
    script: Option<&'static Script>,
}

impl Request {
    pub(crate) fn new(name: &str) -> Self {
        Self::with_room(name, 8, 128)
    }

    /// With room for so many arguments, and so many bytes of them: growing is what building a command costs most.
    pub(crate) fn with_room(name: &str, args: usize, bytes: usize) -> Self {
        let mut cmd = Cmd::with_capacity(1 + args, name.len() + bytes);
        cmd.arg(name);
        Self { cmd, script: None }
    }

    pub(crate) fn arg(mut self, arg: impl redis::ToRedisArgs) -> Self {
        self.cmd.arg(arg);
        self
    }

    pub(crate) fn push(&mut self, arg: impl redis::ToRedisArgs) {
        self.cmd.arg(arg);
    }

    /// What the server would not take of it.
    fn exceeds(&self, most: Most) -> Option<TooLong> {
        let bytes = |arg: redis::Arg<&[u8]>| if let redis::Arg::Simple(arg) = arg { arg.len() } else { 0 };
        most.exceeded(self.cmd.args_iter().map(bytes).max().unwrap_or(0))
    }
}

impl From<Cmd> for Request {
    fn from(cmd: Cmd) -> Self {
        Self { cmd, script: None }
    }
}

/// Whether the server does not know the script that was called.
fn lacks_script(answer: &RedisResult<Value>) -> bool {
    matches!(answer, Ok(Value::ServerError(error)) if error.kind() == Some(ServerErrorKind::NoScript))
}

/// The same call with the script itself in place of its hash.
fn with_code(script: &Script, call: &Cmd) -> Cmd {
    let mut cmd = redis::cmd("EVAL");
    cmd.arg(script.code);
    for arg in call.args_iter().skip(2) {
        if let redis::Arg::Simple(arg) = arg {
            cmd.arg(arg);
        }
    }
    cmd
}

/// Commands that answer at once. Clones share one connection, on which nothing ever waits.
#[derive(Clone)]
pub(crate) struct Commands {
    link: Link,
    /// Those of a connection of their own, which are answered once replicas have them.
    replicated: Option<Arc<Replicated>>,
}

impl fmt::Debug for Commands {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Commands").finish_non_exhaustive()
    }
}

impl Commands {
    pub(crate) const fn new(link: Link) -> Self {
        Self { link, replicated: None }
    }

    /// Commands that count once so many replicas have them; `link` is one that nobody else uses.
    pub(crate) fn replicated(link: Link, replicas: u16, limit: Duration) -> Self {
        Self { link, replicated: Some(Arc::new(Replicated::new(replicas, limit))) }
    }

    /// Sends all in one go and answers for each, or fails where one got no answer. A script that the server does not know is
    /// sent again, and nothing else is: for commands of which each must happen once.
    ///
    /// # Errors
    /// Where a server could not be asked, or its answer is lost: each may or may not have happened.
    pub(crate) async fn all(&self, requests: Vec<Request>, doing: &'static str) -> Result<Vec<Answer>> {
        self.answered(self.each(requests).await?, doing)
    }

    /// As [`all`](Self::all), where in a cluster what one node does not answer is no failure of the others.
    ///
    /// # Errors
    /// Where no server was asked.
    pub(crate) async fn each(&self, mut requests: Vec<Request>) -> Result<Vec<Answer>> {
        let most = self.link.check().await?;
        let refused: Vec<Option<TooLong>> = requests.iter().map(|request| request.exceeds(most)).collect();
        if refused.iter().all(Option::is_none) {
            return Ok(self.each_fitting(requests).await);
        }
        let mut fit = refused.iter().map(Option::is_none);
        requests.retain(|_| fit.next() == Some(true));
        let mut answers = self.each_fitting(requests).await.into_iter();
        let answer = |refused: Option<TooLong>| match refused {
            Some(refused) => Some(Answer::refused(refused)),
            None => answers.next(),
        };
        Ok(refused.into_iter().filter_map(answer).collect())
    }

    async fn each_fitting(&self, requests: Vec<Request>) -> Vec<Answer> {
        let (pipeline, scripts) = packed(requests);
        let (mut answers, mut few) = self.send(&pipeline).await;
        let is_missing = |(at, _): &&(usize, _)| answers.get(*at).is_some_and(lacks_script);
        let missing: Vec<_> = scripts.iter().filter(is_missing).collect();
        if !missing.is_empty() {
            // A server that was started anew, or told to forget its scripts: it is told them along with what they are to do.
            let mut whole = Pipeline::with_capacity(missing.len());
            let mut calls = (0..).zip(pipeline.cmd_iter());
            for (at, script) in &missing {
                let call = calls.find(|(of, _)| of == at);
                whole.add_command(call.map_or_else(Cmd::new, |(_, call)| with_code(script, call)));
            }
            let (repeated, also_few) = self.send(&Arc::new(whole)).await;
            few = few.or(also_few);
            for ((at, _), answer) in missing.into_iter().zip(repeated) {
                if let Some(place) = answers.get_mut(*at) {
                    *place = answer;
                }
            }
        }
        self.read(answers, &scripts, few)
    }

    /// As [`all`](Self::all), for commands that may be repeated: where the server does not know a script all are sent again,
    /// so that their order stays, and also where an idle connection turns out to be closed. Where the server would not take
    /// one of them, none is sent.
    ///
    /// # Errors
    /// As for [`all`](Self::all).
    pub(crate) async fn repeatable(
        &self,
        requests: Vec<Request>,
        doing: &'static str,
    ) -> Result<Vec<Answer>> {
        self.refuse(&requests, doing).await?;
        let (pipeline, scripts) = packed(requests);
        let (mut answers, mut few) = self.send(&pipeline).await;
        if answers.iter().any(is_cut) {
            (answers, few) = self.send(&pipeline).await;
        }
        if answers.iter().any(lacks_script) {
            let (mut whole, mut called) =
                (Pipeline::with_capacity(pipeline.len()), scripts.iter().peekable());
            for (at, call) in (0..).zip(pipeline.cmd_iter()) {
                let script = called.next_if(|(of, _)| *of == at);
                whole.add_command(script.map_or_else(|| call.clone(), |(_, script)| with_code(script, call)));
            }
            (answers, few) = self.send(&Arc::new(whole)).await;
        }
        self.answered(self.read(answers, &scripts, few), doing)
    }

    /// As [`repeatable`](Self::repeatable), of steps each of which needs that those before it are done: one round trip, or in a
    /// cluster, whose nodes work at the same time, one for each.
    ///
    /// # Errors
    /// As for [`all`](Self::all).
    pub(crate) async fn in_order<const N: usize>(
        &self,
        steps: [Vec<Request>; N],
        doing: &'static str,
    ) -> Result<Vec<Answer>> {
        if !self.link.is_cluster() {
            return self.repeatable(steps.into_iter().flatten().collect(), doing).await;
        }
        for step in &steps {
            self.refuse(step, doing).await?;
        }
        let mut answers = Vec::new();
        for step in steps {
            answers.extend(self.repeatable(step, doing).await?);
        }
        Ok(answers)
    }

    /// Sends one and answers.
    ///
    /// # Errors
    /// As [`all`](Self::all), and what the server says is wrong.
    pub(crate) async fn one(&self, request: Request, doing: &'static str) -> Result<Value> {
        let mut answers = self.all(vec![request], doing).await?;
        answers.pop().map_or_else(|| Ok(Value::Nil), |answer| answer.get(doing))
    }

    /// Refuses what the server would not take.
    async fn refuse(&self, requests: &[Request], doing: &'static str) -> Result<()> {
        let most = self.link.check().await?;
        let refused = requests.iter().find_map(|request| request.exceeds(most));
        refused.map_or(Ok(()), |refused| Err(refused.error(doing)))
    }

    /// Answers, with the right that is missing where one is refused.
    fn read(
        &self,
        answers: Vec<RedisResult<Value>>,
        scripts: &[(usize, &'static Script)],
        few: Option<TooFew>,
    ) -> Vec<Answer> {
        let read = |(at, value): (usize, RedisResult<Value>)| {
            let is_good = !matches!(value, Ok(Value::ServerError(_)) | Err(_));
            let denied = if is_good {
                None
            } else {
                let script = scripts.iter().find(|(of, _)| *of == at);
                Denied::read(&value, script.map(|(_, script)| script.code), self.link.user())
            };
            Answer { value, few, refused: None, denied }
        };
        (0..).zip(answers).map(read).collect()
    }

    /// The answers, where there is one to each.
    fn answered(&self, answers: Vec<Answer>, doing: &'static str) -> Result<Vec<Answer>> {
        match answers.iter().find(|answer| answer.value.is_err()) {
            Some(Answer { value: Err(error), denied, .. }) => Err(told(error.clone(), denied.clone(), doing)),
            _ => Ok(answers),
        }
    }

    async fn send(&self, pipeline: &Arc<Pipeline>) -> Answered {
        if pipeline.is_empty() {
            return (Vec::new(), None);
        }
        // On the heap: it is a part of the future of nearly every call.
        match &self.replicated {
            Some(replicated) => Box::pin(replicated.run(&self.link, Arc::clone(pipeline))).await,
            None => (Box::pin(self.link.commands().each(pipeline)).await, None),
        }
    }
}

fn told(error: RedisError, denied: Option<Box<Denied>>, doing: &'static str) -> Error {
    let error = failed(doing)(error);
    if let Some(denied) = denied { denied.told(error) } else { error }
}

/// The commands as one pipeline, and which of them are calls of scripts.
fn packed(requests: Vec<Request>) -> (Arc<Pipeline>, Vec<(usize, &'static Script)>) {
    let (mut pipeline, mut scripts) = (Pipeline::with_capacity(requests.len()), Vec::new());
    for (at, request) in (0..).zip(requests) {
        scripts.extend(request.script.map(|script| (at, script)));
        pipeline.add_command(request.cmd);
    }
    (Arc::new(pipeline), scripts)
}

/// Whether a connection that was there is not there any more: another one may be had at once.
fn is_cut(answer: &RedisResult<Value>) -> bool {
    let is_cut = |error: &RedisError| {
        error.is_connection_dropped() && !error.is_connection_refusal() && !error.is_timeout()
    };
    answer.as_ref().is_err_and(is_cut)
}

/// What the server answered to one request.
pub(crate) struct Answer {
    value: RedisResult<Value>,
    few: Option<TooFew>,
    /// It was not sent.
    refused: Option<TooLong>,
    /// On the heap, for it is seldom there.
    denied: Option<Box<Denied>>,
}

impl Answer {
    const fn refused(refused: TooLong) -> Self {
        Self { value: Ok(Value::Nil), few: None, refused: Some(refused), denied: None }
    }

    /// The value.
    ///
    /// # Errors
    /// What the server says is wrong, that it did not answer, that it would not take the request, and that too few replicas
    /// have what was asked for.
    pub(crate) fn get(self, doing: &'static str) -> Result<Value> {
        if let Some(refused) = self.refused {
            return Err(refused.error(doing));
        }
        let value = self.value.and_then(plain).map_err(|error| told(error, self.denied, doing))?;
        self.few.map_or(Ok(value), |few| Err(few.error(doing)))
    }

    /// The answer of the server alone, and whether too few replicas have what was asked for.
    pub(crate) fn apart(self) -> (Self, Option<TooFew>) {
        (Self { few: None, ..self }, self.few)
    }
}

/// The driver hands on as a value what the server says is wrong.
fn plain(value: Value) -> RedisResult<Value> {
    match value {
        Value::ServerError(error) => Err(RedisError::from(error)),
        value => Ok(value),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use services::{RedisCluster, RedisOptions};

    use super::{Commands, Request};
    use crate::RedisConfig;
    use crate::connect::Link;

    #[tokio::test(flavor = "multi_thread")]
    #[ignore = "needs Redis"]
    async fn a_step_waits_for_the_one_before_it_at_another_node_of_a_cluster() {
        let cluster = RedisCluster::start(0, &RedisOptions::new()).unwrap();
        let commands = Commands::new(Link::new(RedisConfig::from_url(&cluster.url()).unwrap()).unwrap());
        // Slots 12182 and 5061, of the third and of the first node.
        let steps = ["foo", "bar"].map(|key| vec![Request::new("SET").arg(key).arg(1)]);
        let [last, first] = [12182, 5061].map(|slot| cluster.serves(slot).unwrap());
        assert_ne!(last, first);
        let there = || cluster.nodes()[first].ask(&["EXISTS", "bar"]).unwrap();
        commands.one(Request::new("GET").arg("foo"), "warm up").await.unwrap();
        cluster.nodes()[last].pause().unwrap();
        let mut ordered = std::pin::pin!(commands.in_order(steps, "write both"));
        let early = tokio::time::timeout(Duration::from_millis(300), &mut ordered).await;
        assert!(early.is_err() && there() == "0", "the second before the first");
        cluster.nodes()[last].go_on().unwrap();
        let answers = ordered.await.unwrap().into_iter();
        assert_eq!(answers.filter_map(|answer| answer.get("write both").ok()).count(), 2);
        assert_eq!(there(), "1");
    }
}
