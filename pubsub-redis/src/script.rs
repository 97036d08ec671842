//! Scripts that run at the server, and commands on the connection that answers at once.

use std::fmt;
use std::sync::LazyLock;

use pubsub_core::Result;
use redis::{Cmd, Pipeline, RedisError, RedisResult, ServerError, ServerErrorKind, Value};

use crate::connect::Link;
use crate::error::failed;

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

    fn lacks_script(&self, answer: &RedisResult<Value>) -> bool {
        let is_unknown = |error: &ServerError| error.kind() == Some(ServerErrorKind::NoScript);
        self.script.is_some() && matches!(answer, Ok(Value::ServerError(error)) if is_unknown(error))
    }
}

/// Commands that answer at once. Clones share one connection, on which nothing ever waits.
#[derive(Clone)]
pub(crate) struct Commands(Link);

impl fmt::Debug for Commands {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Commands").finish_non_exhaustive()
    }
}

impl Commands {
    pub(crate) const fn new(link: Link) -> Self {
        Self(link)
    }

    /// Sends all in one go and answers for each.
    ///
    /// # Errors
    /// Where a server could not be asked, or its answer is lost: each may or may not have happened.
    pub(crate) async fn all(&self, requests: &[Request], doing: &'static str) -> Result<Vec<Answer>> {
        let answers = self.each(requests).await?;
        match answers.iter().find_map(|answer| answer.0.as_ref().err()) {
            Some(error) => Err(failed(doing)(error.clone())),
            None => Ok(answers),
        }
    }

    /// As [`all`](Self::all), where in a cluster what one node does not answer is no failure of the others.
    ///
    /// # Errors
    /// Where no server was asked.
    pub(crate) async fn each(&self, requests: &[Request]) -> Result<Vec<Answer>> {
        if requests.is_empty() {
            return Ok(Vec::new());
        }
        self.0.check().await?;
        let mut answers = self.send(requests.iter()).await;
        let again: Vec<usize> = (0..)
            .zip(requests.iter().zip(&answers))
            .filter_map(|(at, (request, answer))| request.lacks_script(answer).then_some(at))
            .collect();
        if !again.is_empty() {
            // A server that was started anew, or told to forget its scripts: it is told them along with what they are to do.
            let whole: Vec<Request> =
                again.iter().filter_map(|at| requests.get(*at)).map(Request::with_code).collect();
            for (at, answer) in again.into_iter().zip(self.send(whole.iter()).await) {
                if let Some(place) = answers.get_mut(at) {
                    *place = answer;
                }
            }
        }
        Ok(answers.into_iter().map(Answer).collect())
    }

    /// Sends one and answers.
    ///
    /// # Errors
    /// As [`all`](Self::all), and what the server says is wrong.
    pub(crate) async fn one(&self, request: Request, doing: &'static str) -> Result<Value> {
        let mut answers = self.all(&[request], doing).await?;
        answers.pop().map_or_else(|| Ok(Value::Nil), |answer| answer.get(doing))
    }

    async fn send(&self, requests: impl Iterator<Item = &Request>) -> Vec<RedisResult<Value>> {
        let mut pipeline = Pipeline::new();
        for request in requests {
            pipeline.add_command(request.cmd.clone());
        }
        self.0.commands().each(&pipeline).await
    }
}

/// What the server answered to one request.
pub(crate) struct Answer(RedisResult<Value>);

impl Answer {
    /// The value.
    ///
    /// # Errors
    /// What the server says is wrong, or that it did not answer.
    pub(crate) fn get(self, doing: &'static str) -> Result<Value> {
        self.0.and_then(plain).map_err(failed(doing))
    }
}

/// The driver hands on as a value what the server says is wrong.
fn plain(value: Value) -> RedisResult<Value> {
    match value {
        Value::ServerError(error) => Err(RedisError::from(error)),
        value => Ok(value),
    }
}
