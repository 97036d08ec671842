//! Scripts that run at the server, and commands on the connection that answers at once.

use std::fmt;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use pubsub_core::{Error, ErrorKind, Result};
use redis::aio::{ConnectionLike as _, MultiplexedConnection};
use redis::{Cmd, Pipeline, RedisError, RedisResult, ServerError, ServerErrorKind, Value};

use crate::connect::Link;
use crate::error::failed;
use crate::replicated::{Replicated, TooFew};

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
        Self { cmd: redis::cmd(name), script: None }
    }

    pub(crate) fn arg(mut self, arg: impl redis::ToRedisArgs) -> Self {
        self.cmd.arg(arg);
        self
    }

    pub(crate) fn push(&mut self, arg: impl redis::ToRedisArgs) {
        self.cmd.arg(arg);
    }

    /// The same call with the script itself in place of its hash.
    fn with_code(&self) -> Self {
        let Some(script) = self.script else { return Self { cmd: self.cmd.clone(), script: None } };
        let mut cmd = redis::cmd("EVAL");
        cmd.arg(script.code);
        for arg in self.cmd.args_iter().skip(2) {
            if let redis::Arg::Simple(arg) = arg {
                cmd.arg(arg);
            }
        }
        Self { cmd, script: None }
    }

    fn lacks_script(&self, answer: &Value) -> bool {
        let is_unknown = |error: &ServerError| error.kind() == Some(ServerErrorKind::NoScript);
        self.script.is_some() && matches!(answer, Value::ServerError(error) if is_unknown(error))
    }
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

    /// Sends all in one go and answers for each.
    ///
    /// # Errors
    /// Where the server could not be asked, or its answer is lost: each may or may not have happened.
    pub(crate) async fn all(&self, requests: &[Request], doing: &'static str) -> Result<Vec<Answer>> {
        let (mut answers, mut few) = self.send(requests.iter(), doing).await?;
        let told =
            |answers: Vec<Value>, few| answers.into_iter().map(|value| Answer { value, few }).collect();
        let again: Vec<usize> = (0..)
            .zip(requests.iter().zip(&answers))
            .filter_map(|(at, (request, answer))| request.lacks_script(answer).then_some(at))
            .collect();
        if again.is_empty() {
            return Ok(told(answers, few));
        }
        // A server that was started anew, or told to forget its scripts: it is told them along with what they are to do.
        let whole: Vec<Request> =
            again.iter().filter_map(|at| requests.get(*at)).map(Request::with_code).collect();
        let (repeated, also_few) = self.send(whole.iter(), doing).await?;
        few = few.or(also_few);
        for (at, answer) in again.into_iter().zip(repeated) {
            if let Some(place) = answers.get_mut(at) {
                *place = answer;
            }
        }
        Ok(told(answers, few))
    }

    /// Sends one and answers.
    ///
    /// # Errors
    /// As [`all`](Self::all), and what the server says is wrong.
    pub(crate) async fn one(&self, request: Request, doing: &'static str) -> Result<Value> {
        let mut answers = self.all(&[request], doing).await?;
        answers.pop().map_or_else(|| Ok(Value::Nil), |answer| answer.get(doing))
    }

    async fn send(
        &self,
        requests: impl Iterator<Item = &Request>,
        doing: &'static str,
    ) -> Result<(Vec<Value>, Option<TooFew>)> {
        let mut pipeline = Pipeline::new();
        for request in requests {
            pipeline.add_command(request.cmd.clone());
        }
        if pipeline.is_empty() {
            return Ok((Vec::new(), None));
        }
        self.link.check().await?;
        let answered = match &self.replicated {
            Some(replicated) => replicated.run(&self.link, Arc::new(pipeline)).await,
            None => {
                let answers = self.link.commands().req_packed_commands(&pipeline, 0, pipeline.len()).await;
                answers.map(|answers| (answers, None))
            }
        };
        answered.map_err(failed(doing))
    }
}

/// What the server answered to one request.
pub(crate) struct Answer {
    value: Value,
    few: Option<TooFew>,
}

impl Answer {
    /// The value.
    ///
    /// # Errors
    /// What the server says is wrong, and that too few replicas have what was asked for.
    pub(crate) fn get(self, doing: &'static str) -> Result<Value> {
        let value = plain(self.value).map_err(failed(doing))?;
        self.few.map_or(Ok(value), |few| Err(few.error(doing)))
    }

    /// The answer of the server alone, and whether too few replicas have what was asked for.
    pub(crate) fn apart(self) -> (Self, Option<TooFew>) {
        (Self { value: self.value, few: None }, self.few)
    }
}

/// The driver hands on as a value what the server says is wrong.
fn plain(value: Value) -> RedisResult<Value> {
    match value {
        Value::ServerError(error) => Err(RedisError::from(error)),
        value => Ok(value),
    }
}

/// Runs a command that may wait, on a connection of its own, at most so long.
///
/// # Errors
/// Where the server could not be asked or says what is wrong.
pub(crate) async fn waiting(
    connection: &mut MultiplexedConnection,
    cmd: &Cmd,
    limit: Duration,
    doing: &'static str,
) -> Result<Value> {
    let answer = tokio::time::timeout(limit, connection.req_packed_command(cmd)).await;
    let answer = answer.map_err(|_| Error::new(ErrorKind::TimedOut, doing))?;
    answer.and_then(plain).map_err(failed(doing))
}
