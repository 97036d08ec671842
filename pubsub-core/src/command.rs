//! What command is run, and how.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use crate::{Error, Finished, Handler, Result, RunContext, runner};

/// Longest payload that is also in `PIPELINE_PAYLOAD`; Linux takes at most 128 KiB in one variable.
pub const MAX_PAYLOAD_VARIABLE_BYTES: usize = 64 * 1024;

/// How long a command that is to stop may take, unless told otherwise.
pub const DEFAULT_GRACE: Duration = Duration::from_secs(10);

/// How long output must be quiet after the exit before what still holds it is given up, unless told otherwise.
pub const DEFAULT_SETTLE: Duration = Duration::from_millis(500);

/// Variables with credentials of brokers and stores: a command does not inherit them.
pub const WITHHELD: [&str; 17] = [
    "REDIS_URL",
    "REDIS_PASSWORD",
    "MONGODB_URL",
    "MONGODB_URI",
    "MONGODB_PASSWORD",
    "ELASTICSEARCH_URL",
    "ELASTICSEARCH_PASSWORD",
    "ELASTICSEARCH_API_KEY",
    "OPENSEARCH_URL",
    "OPENSEARCH_PASSWORD",
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "AWS_WEB_IDENTITY_TOKEN_FILE",
    "AWS_CONTAINER_AUTHORIZATION_TOKEN",
    "WEBHOOK_SECRET",
    "ACTIONS_RUNTIME_TOKEN",
];

/// A command, as a [`Handler`].
///
/// What it gets: the event's payload whole on its standard input (up to 64 KiB also in `PIPELINE_PAYLOAD`);
/// `PIPELINE_ACTION_ID`, `PIPELINE_STAGE`, `PIPELINE_RUN_ID`, `PIPELINE_ATTEMPT`, `PIPELINE_EVENT_TYPE` and
/// `PIPELINE_EVENT_ID`; and in `PIPELINE_OUTPUT` the name of an empty file, private to this user and removed afterwards.
/// Its lines `key=value` go with the outcome as values for the next stage: at most 64 keys (1 to 128 ASCII letters,
/// digits, `_`, `-`, `.`; the last line of a key counts), 64 KiB, no secrets. What is left out is told in a note.
///
/// How it ends: it leads a process group of its own. A timeout or a stop sends TERM to the group, waits one grace for
/// all of it, and sends KILL to what is left; what is printed meanwhile is kept, after a note `stop_requested`. When it
/// exits by itself, its output is read on while any comes: a descendant may still print. Once that is quiet for the
/// settle time, or has ended, what is left of the group is killed, and a note `descendant_left` says so. When the worker
/// dies, a small guardian process kills the group.
///
/// What it cannot do: processes that leave the group (`setsid`, daemons) are not stopped with it; a service that has to
/// outlive its command must do that. The output is read through pipes, and many programs hold back 4 to 8 KiB when they
/// do not print to a terminal: to see their lines live, switch that off in them (`python3 -u`, `stdbuf -oL`,
/// `grep --line-buffered`). A command that asks for a password at `/dev/tty` is stopped by the terminal and ends by a
/// timeout. Where there is no `/proc` (macOS), a command that was being started in the very instant in which the worker
/// was killed may be left running.
///
/// ```
/// # use std::sync::Arc;
/// use std::time::Duration;
/// use pubsub_core::{Command, Handler};
/// let build = Command::new("cargo").with_args(["build"]).with_timeout(Duration::from_secs(600));
/// assert_eq!(build.command(), ["cargo", "build"]);
/// let shell = Command::shell("make && ./deploy.sh");
/// assert_eq!(shell.command(), ["/bin/sh", "-c", "make && ./deploy.sh"]);
/// ```
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Command {
    pub(crate) program: String,
    #[serde(default)]
    pub(crate) args: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) working_dir: Option<PathBuf>,
    #[serde(default)]
    pub(crate) environment: Environment,
    #[serde(default)]
    pub(crate) variables: BTreeMap<String, String>,
    #[serde(default)]
    pub(crate) withhold: Vec<String>,
    #[serde(default)]
    pub(crate) stdin: Stdin,
    #[serde(default, with = "seconds::optional", skip_serializing_if = "Option::is_none")]
    pub(crate) timeout: Option<Duration>,
    #[serde(default, with = "seconds::optional", skip_serializing_if = "Option::is_none")]
    pub(crate) silence: Option<Duration>,
    #[serde(default = "default_grace", with = "seconds")]
    pub(crate) grace: Duration,
    #[serde(default = "default_settle", with = "seconds")]
    pub(crate) settle: Duration,
}

/// What a command inherits of the worker's environment.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Environment {
    /// All but credentials.
    #[default]
    Inherit,
    /// These variables, where they are set and no credentials.
    Listed(Vec<String>),
    /// Nothing.
    Cleared,
}

/// What a command reads on its standard input. The worker's own is never inherited.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Stdin {
    /// The event's payload.
    #[default]
    Payload,
    /// Nothing: it ends at once.
    Null,
}

const fn default_grace() -> Duration {
    DEFAULT_GRACE
}

const fn default_settle() -> Duration {
    DEFAULT_SETTLE
}

impl Command {
    /// A program without arguments, looked up in the command's `PATH` where the name has no slash.
    pub fn new(program: impl Into<String>) -> Self {
        Self {
            program: program.into(),
            args: Vec::new(),
            working_dir: None,
            environment: Environment::default(),
            variables: BTreeMap::new(),
            withhold: Vec::new(),
            stdin: Stdin::default(),
            timeout: None,
            silence: None,
            grace: DEFAULT_GRACE,
            settle: DEFAULT_SETTLE,
        }
    }

    /// A line for `/bin/sh -c`. Never put an event's values into it: they are in the environment.
    pub fn shell(line: impl Into<String>) -> Self {
        Self::new("/bin/sh").with_args(["-c".to_owned(), line.into()])
    }

    /// With more arguments.
    #[must_use]
    pub fn with_args(mut self, args: impl IntoIterator<Item = impl Into<String>>) -> Self {
        self.args.extend(args.into_iter().map(Into::into));
        self
    }

    /// In this folder instead of the worker's.
    #[must_use]
    pub fn with_working_dir(mut self, folder: impl Into<PathBuf>) -> Self {
        self.working_dir = Some(folder.into());
        self
    }

    /// With this of the worker's environment.
    #[must_use]
    pub fn with_environment(mut self, environment: Environment) -> Self {
        self.environment = environment;
        self
    }

    /// With a variable of its own. What is named here is passed on, credential or not.
    #[must_use]
    pub fn with_variable(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.variables.insert(name.into(), value.into());
        self
    }

    /// Without these variables of the worker's environment, besides [`WITHHELD`].
    #[must_use]
    pub fn with_withheld(mut self, names: impl IntoIterator<Item = impl Into<String>>) -> Self {
        self.withhold.extend(names.into_iter().map(Into::into));
        self
    }

    /// With this on its standard input.
    #[must_use]
    pub fn with_stdin(mut self, stdin: Stdin) -> Self {
        self.stdin = stdin;
        self
    }

    /// With a limit on its whole time; none by default.
    #[must_use]
    pub fn with_timeout(mut self, limit: Duration) -> Self {
        self.timeout = Some(limit);
        self
    }

    /// With a limit on the time in which it prints nothing; none by default. While a store holds up the output, this
    /// clock stands still.
    #[must_use]
    pub fn with_silence(mut self, limit: Duration) -> Self {
        self.silence = Some(limit);
        self
    }

    /// With so much time between TERM and KILL; [`DEFAULT_GRACE`] by default.
    #[must_use]
    pub fn with_grace(mut self, grace: Duration) -> Self {
        self.grace = grace;
        self
    }

    /// With so much quiet after the exit before descendants are given up; [`DEFAULT_SETTLE`] by default.
    #[must_use]
    pub fn with_settle(mut self, settle: Duration) -> Self {
        self.settle = settle;
        self
    }

    /// Looks for what no start could get right.
    ///
    /// # Errors
    /// [`Invalid`](crate::ErrorKind::Invalid) for an empty program, for a NUL anywhere, and for the name of a variable
    /// that is empty or holds `=`.
    pub fn check(&self) -> Result<()> {
        if self.program.is_empty() {
            return Err(Error::invalid("the command names no program"));
        }
        if let Some(name) = self.variables.keys().find(|name| name.is_empty() || name.contains('=')) {
            return Err(
                Error::invalid("the name of a variable is not empty and holds no =").with("name", name)
            );
        }
        let mut texts = self
            .variables
            .iter()
            .flat_map(|(name, value)| [name, value])
            .chain(&self.args)
            .chain([&self.program]);
        if texts.any(|text| text.contains('\0')) {
            return Err(Error::invalid("no part of a command can hold a NUL"));
        }
        Ok(())
    }

    /// The variables that are not inherited.
    pub(crate) fn withheld(&self) -> impl Iterator<Item = &str> {
        WITHHELD.into_iter().chain(self.withhold.iter().map(String::as_str))
    }
}

#[async_trait]
impl Handler for Command {
    async fn run(&self, context: RunContext) -> Finished {
        runner::run(self, context).await
    }

    fn command(&self) -> Vec<String> {
        std::iter::once(&self.program).chain(&self.args).cloned().collect()
    }
}

/// Arguments and values may be secrets: their number is shown, and the names of variables.
impl fmt::Debug for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Command")
            .field("program", &self.program)
            .field("args", &self.args.len())
            .field("working_dir", &self.working_dir)
            .field("environment", &self.environment)
            .field("variables", &self.variables.keys().collect::<Vec<_>>())
            .field("withhold", &self.withhold)
            .field("stdin", &self.stdin)
            .field("timeout", &self.timeout)
            .field("silence", &self.silence)
            .field("grace", &self.grace)
            .field("settle", &self.settle)
            .finish()
    }
}

/// Durations as numbers of seconds.
mod seconds {
    use std::time::Duration;

    use serde::de::Error;
    use serde::{Deserialize, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(time: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_f64(time.as_secs_f64())
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
        Duration::try_from_secs_f64(f64::deserialize(deserializer)?).map_err(D::Error::custom)
    }

    pub(super) mod optional {
        use std::time::Duration;

        use serde::de::Error;
        use serde::{Deserialize, Deserializer, Serialize, Serializer};

        pub(in super::super) fn serialize<S: Serializer>(
            time: &Option<Duration>,
            serializer: S,
        ) -> Result<S::Ok, S::Error> {
            time.map(|time| time.as_secs_f64()).serialize(serializer)
        }

        pub(in super::super) fn deserialize<'de, D: Deserializer<'de>>(
            deserializer: D,
        ) -> Result<Option<Duration>, D::Error> {
            let seconds: Option<f64> = Option::deserialize(deserializer)?;
            seconds.map(Duration::try_from_secs_f64).transpose().map_err(D::Error::custom)
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{Command, DEFAULT_GRACE, DEFAULT_SETTLE, Environment, Stdin};

    #[test]
    fn it_is_read_from_json_and_written_back() {
        let command: Command = serde_json::from_str(
            r#"{"program":"make","args":["all"],"environment":{"listed":["HOME"]},"stdin":"null","timeout":600,"grace":0.5}"#,
        )
        .unwrap();
        let expected = Command::new("make")
            .with_args(["all"])
            .with_environment(Environment::Listed(vec!["HOME".to_owned()]))
            .with_stdin(Stdin::Null)
            .with_timeout(Duration::from_secs(600))
            .with_grace(Duration::from_millis(500));
        assert_eq!(command, expected);
        let again: Command = serde_json::from_str(&serde_json::to_string(&command).unwrap()).unwrap();
        assert_eq!(again, command);
        let plain: Command = serde_json::from_str(r#"{"program":"make"}"#).unwrap();
        assert_eq!(plain, Command::new("make"));
        assert_eq!((plain.grace, plain.settle), (DEFAULT_GRACE, DEFAULT_SETTLE));
    }

    #[test]
    fn settings_that_cannot_be_are_refused() {
        for json in [
            r#"{}"#,
            r#"{"program":"make","timeout":-1}"#,
            r#"{"program":"make","timeout":1e300}"#,
            r#"{"program":"make","shell":"x"}"#,
        ] {
            assert!(serde_json::from_str::<Command>(json).is_err(), "{json}");
        }
        for command in [
            Command::new(""),
            Command::new("a\0b"),
            Command::new("a").with_args(["b\0"]),
            Command::new("a").with_variable("", "b"),
            Command::new("a").with_variable("b=c", "d"),
            Command::new("a").with_variable("b", "\0"),
        ] {
            assert!(command.check().is_err(), "{command:?}");
        }
        assert!(Command::shell("true").with_variable("A", "").check().is_ok());
    }

    #[test]
    fn debug_shows_neither_arguments_nor_values() {
        let command = Command::shell("login secret").with_variable("TOKEN", "secret");
        let text = format!("{command:?}");
        assert!(text.contains("TOKEN") && !text.contains("secret"), "{text}");
    }
}
