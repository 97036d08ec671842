//! Asks the server: several commands in one round trip, scripts among them.

use pubsub_core::{Error, ErrorKind, Result};
use redis::{Cmd, ErrorKind as Driver, Pipeline, RedisError, RedisResult, Script, ServerErrorKind, Value};

use super::layout::{FORMAT, RunKeys};
use crate::connect::Link;
use crate::error::failed;

/// How often scripts are loaded for one call: others may tell the server again and again to forget them.
const MAX_LOADS: usize = 5;

/// The scripts and the way to the server that runs them. All commands here may be repeated.
pub(super) struct Server {
    link: Link,
    pub(super) append: Script,
    pub(super) put: Script,
    pub(super) remove: Script,
    pub(super) numbers: Script,
}

impl std::fmt::Debug for Server {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Server").finish_non_exhaustive()
    }
}

/// What came back for each command, in order.
pub(super) type Answers = std::vec::IntoIter<RedisResult<Value>>;

/// A call of a script about one run; arguments follow.
pub(super) fn call(script: &Script, keys: &RunKeys) -> Cmd {
    let mut command = redis::cmd("EVALSHA");
    command.arg(script.get_hash()).arg(3).arg(&keys.record).arg(&keys.lines).arg(&keys.late);
    command.arg(FORMAT);
    command
}

impl Server {
    pub(super) fn new(link: Link) -> Self {
        Self {
            link,
            append: Script::new(include_str!("append.lua")),
            put: Script::new(include_str!("put.lua")),
            remove: Script::new(include_str!("remove.lua")),
            numbers: Script::new(include_str!("numbers.lua")),
        }
    }

    /// Runs all of these in one round trip, in a cluster only those of one hash tag in their order. A script that a server
    /// does not know is loaded, and all of them are run again; so they are where an idle connection turns out to be closed.
    pub(super) async fn run(&self, doing: &'static str, mut commands: Pipeline) -> Result<Answers> {
        commands.ignore_errors();
        self.link.check().await?;
        let mut connection = self.link.commands();
        let (mut loads, mut connected) = (0, false);
        loop {
            let answers: RedisResult<Vec<RedisResult<Value>>> = commands.query_async(&mut connection).await;
            match answers {
                Ok(answers) if loads < MAX_LOADS && answers.iter().any(is_unknown_script) => {
                    loads += 1;
                    self.load().await.map_err(failed(doing))?;
                }
                Ok(answers) => return Ok(answers.into_iter()),
                Err(error) if !connected && is_cut(&error) => {
                    connected = true;
                }
                Err(error) => return Err(failed(doing)(error)),
            }
        }
    }

    /// As [`run`](Self::run), of steps each of which needs that those before it are done: one round trip, or in a cluster,
    /// whose nodes work at the same time, one for each.
    pub(super) async fn run_in_order(
        &self,
        doing: &'static str,
        steps: impl IntoIterator<Item = Pipeline>,
    ) -> Result<Answers> {
        let steps = steps.into_iter().filter(|step| !step.is_empty());
        if !self.link.is_cluster() {
            let mut all = redis::pipe();
            for step in steps {
                for command in step.cmd_iter() {
                    all.add_command(command.clone());
                }
            }
            return self.run(doing, all).await;
        }
        let mut answers = Vec::new();
        for step in steps {
            answers.extend(self.run(doing, step).await?);
        }
        Ok(answers.into_iter())
    }

    /// As [`run`](Self::run), of one command.
    pub(super) async fn ask(&self, doing: &'static str, command: Cmd) -> Result<Value> {
        let mut commands = redis::pipe();
        commands.add_command(command);
        taken(doing, &mut self.run(doing, commands).await?)
    }

    async fn load(&self) -> RedisResult<()> {
        let mut connection = self.link.commands();
        for script in [&self.append, &self.put, &self.remove, &self.numbers] {
            script.load_async(&mut connection).await?;
        }
        Ok(())
    }
}

/// Whether a connection that was there is not there any more: another one may be had at once.
fn is_cut(error: &RedisError) -> bool {
    error.is_connection_dropped() && !error.is_connection_refusal() && !error.is_timeout()
}

fn is_unknown_script(answer: &RedisResult<Value>) -> bool {
    let no_script = |error: &RedisError| error.kind() == Driver::Server(ServerErrorKind::NoScript);
    answer.as_ref().is_err_and(no_script)
}

/// The next answer.
pub(super) fn taken(doing: &'static str, answers: &mut Answers) -> Result<Value> {
    answers.next().ok_or_else(|| strange(doing))?.map_err(failed(doing))
}

/// The next answer as a list.
pub(super) fn list(doing: &'static str, answers: &mut Answers) -> Result<Vec<Value>> {
    match taken(doing, answers)? {
        Value::Array(values) => Ok(values),
        Value::Nil => Ok(Vec::new()),
        _ => Err(strange(doing)),
    }
}

/// Texts of a list; what is none is left out.
pub(super) fn texts(values: Vec<Value>) -> Vec<Vec<u8>> {
    let text = |value| if let Value::BulkString(text) = value { Some(text) } else { None };
    values.into_iter().filter_map(text).collect()
}

pub(super) fn strange(doing: &'static str) -> Error {
    Error::new(ErrorKind::Internal, "the server answered something else than was asked").with("doing", doing)
}

/// What a script says of itself: its first word, and what comes after it.
pub(super) fn said(doing: &'static str, answer: Value) -> Result<(Said, Vec<Value>)> {
    let Value::Array(mut parts) = answer else { return Err(strange(doing)) };
    if parts.is_empty() {
        return Err(strange(doing));
    }
    let rest = parts.split_off(1);
    let said = match parts.pop() {
        Some(Value::BulkString(word)) => match word.as_slice() {
            b"done" => Said::Done,
            b"gone" => Said::Gone,
            b"other" => Said::Other,
            b"newer" => return Err(newer(doing, texts(rest).first().map(Vec::as_slice))),
            _ => return Err(strange(doing)),
        },
        _ => return Err(strange(doing)),
    };
    Ok((said, rest))
}

/// Of a run that a newer version wrote.
pub(super) fn newer(doing: &'static str, version: Option<&[u8]>) -> Error {
    let version = String::from_utf8_lossy(version.unwrap_or_default()).into_owned();
    Error::new(ErrorKind::TooNew, doing).with("version", version).with("newest known", FORMAT)
}

/// How a script ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Said {
    Done,
    /// The run is not there.
    Gone,
    /// Its record is another than was seen.
    Other,
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use services::{RedisCluster, RedisOptions};

    use super::Server;
    use crate::RedisConfig;
    use crate::connect::Link;

    #[tokio::test(flavor = "multi_thread")]
    #[ignore = "needs Redis"]
    async fn a_step_waits_for_the_one_before_it_at_another_node_of_a_cluster() {
        let cluster = RedisCluster::start(0, &RedisOptions::new()).unwrap();
        let server = Server::new(Link::new(RedisConfig::from_url(&cluster.url()).unwrap()).unwrap());
        // Slots 12182 and 5061, of the third and of the first node.
        let [slow, other] = ["foo", "bar"].map(|key| redis::cmd("SET").arg(key).arg(1).to_owned());
        let [last, first] = [12182, 5061].map(|slot| cluster.serves(slot).unwrap());
        assert_ne!(last, first);
        let there = || cluster.nodes()[first].ask(&["EXISTS", "bar"]).unwrap();
        server.ask("warm up", redis::cmd("GET").arg("foo").to_owned()).await.unwrap();
        cluster.nodes()[last].pause().unwrap();
        let steps = [slow, other].map(|command| redis::pipe().add_command(command).to_owned());
        let mut ordered = std::pin::pin!(server.run_in_order("write both", steps));
        let early = tokio::time::timeout(Duration::from_millis(300), &mut ordered).await;
        assert!(early.is_err() && there() == "0", "the second before the first");
        cluster.nodes()[last].go_on().unwrap();
        assert_eq!(ordered.await.unwrap().filter(Result::is_ok).count(), 2);
        assert_eq!(there(), "1");
    }
}
