//! What is told where the command line is wrong: the option, what was given, and what is accepted.

use std::error::Error as _;

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Command, CommandFactory as _, Parser as _};
use pubsub_pipeline::Error;

use crate::args::Cli;

/// Why a command line is not followed.
#[derive(Debug)]
pub(crate) enum Refused {
    /// It asks for a help text or the version, or for nothing.
    Shown(clap::Error),
    /// It is wrong.
    Wrong(String),
}

/// The command line of these words.
pub(crate) fn parsed(words: &[String]) -> Result<Cli, Refused> {
    Cli::try_parse_from(words).map_err(|error| match error.kind() {
        ErrorKind::DisplayHelp
        | ErrorKind::DisplayVersion
        | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => Refused::Shown(error),
        _ => Refused::Wrong(without_passwords(told(&error, words), words)),
    })
}

fn told(error: &clap::Error, words: &[String]) -> String {
    let own = match error.kind() {
        ErrorKind::UnknownArgument => dashed(error, words),
        _ => refused_value(error),
    };
    own.unwrap_or_else(|| {
        let text = error.render().to_string();
        text.strip_prefix("error: ").unwrap_or(&text).trim_end().to_owned()
    })
}

/// A value that is refused. A URL is not repeated, for it may hold a password, and neither is what stands where the name
/// of a variable belongs.
fn refused_value(error: &clap::Error) -> Option<String> {
    let arg = text(error, ContextKind::InvalidArg)?;
    let value = text(error, ContextKind::InvalidValue)?;
    let accepted = match (error.kind(), error.source()) {
        (ErrorKind::ValueValidation, Some(source)) => match source.downcast_ref::<Error>() {
            Some(ours) => ours.message().to_owned(),
            None => source.to_string(),
        },
        (ErrorKind::InvalidValue, _) if !value.is_empty() => match error.get(ContextKind::ValidValue) {
            Some(ContextValue::Strings(values)) => format!("it takes one of {}", values.join(", ")),
            _ => return None,
        },
        _ => return None,
    };
    let secret = arg.contains("URL>") || arg.starts_with("--mask-env") || arg.starts_with("--config");
    let given = if secret { "value".to_owned() } else { format!("value '{value}'") };
    Some(format!("invalid {given} for '{arg}': {accepted}"))
}

/// A value that begins with a dash and stands apart from its option: it was taken for an option itself.
fn dashed(error: &clap::Error, words: &[String]) -> Option<String> {
    let taken = text(error, ContextKind::InvalidArg)?;
    let known = Cli::command();
    let before_end = words.iter().take_while(|word| *word != "--").count();
    let at = (1..before_end).find(|at| {
        let pair = (words.get(at - 1), words.get(*at));
        matches!(pair, (Some(option), Some(value)) if value.starts_with(taken) && takes_value(&known, option))
    })?;
    let (option, value) = (words.get(at - 1)?, words.get(at)?);
    let mut joined = words.to_vec();
    joined.splice(at - 1..=at, [format!("{option}={value}")]);
    // Where the option does not take it anyhow, that is what there is to say.
    let refused = Cli::try_parse_from(joined).err().and_then(|error| refused_value(&error));
    Some(refused.unwrap_or_else(|| {
        format!(
            "'{value}' after {option} is taken for an option; a value that begins with a dash is written {option}={value}"
        )
    }))
}

fn takes_value(command: &Command, option: &str) -> bool {
    let here = command.get_arguments().any(|arg| {
        arg.get_long().is_some_and(|long| option.strip_prefix("--") == Some(long))
            && arg.get_action().takes_values()
    });
    here || command.get_subcommands().any(|command| takes_value(command, option))
}

fn text(error: &clap::Error, kind: ContextKind) -> Option<&str> {
    match error.get(kind) {
        Some(ContextValue::String(text)) => Some(text),
        _ => None,
    }
}

/// A URL that stands where none belongs is not repeated either where it may hold a password.
fn without_passwords(mut told: String, words: &[String]) -> String {
    let values = words.iter().filter_map(|word| word.split_once('=').map(|(_, value)| value));
    for word in words.iter().map(String::as_str).chain(values) {
        if let Some((scheme, rest)) = word.split_once("://")
            && rest.contains('@')
        {
            told = told.replace(word, &format!("{scheme}://***"));
        }
    }
    told
}

#[cfg(test)]
mod tests {
    use clap::{Arg, Command, CommandFactory as _};

    use super::{Refused, parsed};
    use crate::args::Cli;

    fn wrong(words: &[String]) -> String {
        match parsed(words) {
            Err(Refused::Wrong(text)) => text,
            other => panic!("{words:?}: {other:?}"),
        }
    }

    fn words(text: &str) -> Vec<String> {
        text.split(' ').map(str::to_owned).collect()
    }

    /// Values that an option or a word refuses; none where it takes any text.
    fn bad_values(arg: &Arg) -> &'static [&'static str] {
        match arg.get_id().as_str() {
            "dir" | "spool" => &["", "Cargo.toml"],
            "config" => &[
                "secret",
                "@secret/missing",
                "{\"timeuot\":\"secret\"}",
                "{\"timeout\":\"secret\"}",
                "{\"datastore_backends\":\"redis://u:secret@h\"}",
            ],
            "broker" | "store" | "against" | "to" => &[
                "",
                "user:secret",
                "mysql://user:secret@host",
                "redis:user:secret@host",
                "redis://user:secret@host?secret=1",
                "elastic+http://user:secret@host?secret=1",
                "file://user:secret@host/x",
                "file:x?secret=1",
                "memory:secret",
                "-secret",
            ],
            "action_id" | "event_type" | "stage" | "group" | "then" | "event" | "id" | "action" => {
                &["", "a\nb"]
            }
            "run" => &["", "x y", "-x"],
            "delay" | "timeout" | "silence" | "grace" | "drain" | "since" | "older_than" => {
                &["", "10", "soon", "-1s", "1x", "99999999999999999999s"]
            }
            "lease" => &["", "10", "soon", "-1s", "1ms", "25h"],
            "max_output" | "max_bytes" => &["", "-1", "0", "10G", "1.5GiB", "99999999999TiB"],
            "attempts" | "concurrency" | "max_runs" => {
                &["", "-1", "0", "many", "1.5", "99999999999999999999"]
            }
            "limit" | "last" | "n" | "from" => &["", "-1", "many", "1.5", "99999999999999999999"],
            "meta" => &["", "x", "=x"],
            "mask_env" => &["", "secret=secret"],
            "on" => &["", "ab", "-x"],
            "retry" => &["often", "-x"],
            "outcome" => &["", "good", "-x"],
            // A regular expression is read where it is used.
            "payload" | "regex" | "command" => &[],
            other => panic!("what does {other} refuse?"),
        }
    }

    /// Every command of the tree, with the words that lead to it.
    fn commands(command: &Command, path: &[String]) -> Vec<(Vec<String>, Command)> {
        let mut all = vec![(path.to_vec(), command.clone())];
        for inner in command.get_subcommands() {
            let path = [path, &[inner.get_name().to_owned()]].concat();
            all.extend(commands(inner, &path));
        }
        all
    }

    /// The command line that gives this value, in each of the ways in which it can be given.
    fn given(path: &[String], arg: &Arg, value: &str) -> Vec<Vec<String>> {
        if let Some(long) = arg.get_long() {
            let apart = [path, &[format!("--{long}"), value.to_owned()]].concat();
            return vec![[path, &[format!("--{long}={value}")]].concat(), apart];
        }
        let before = arg.get_index().unwrap_or(1) - 1;
        vec![[path, &vec!["a".to_owned(); before], &[value.to_owned()]].concat()]
    }

    #[test]
    fn every_option_and_word_that_is_refused_is_named_with_what_was_given_and_what_it_takes() {
        const BARE: [&str; 8] = [
            "invalid digit",
            "cannot parse",
            "too large to fit",
            "expected number",
            "time unit needed",
            "unknown time unit",
            ": invalid",
            "out of range",
        ];
        let mut root = Cli::command();
        root.build();
        let mut seen = 0;
        for (path, command) in commands(&root, &["pipeline".to_owned()]) {
            let args = command.get_arguments().filter(|arg| arg.get_action().takes_values());
            for arg in args.filter(|_| !path.contains(&"help".to_owned())) {
                // The dead letter's own id may be any text.
                let free = arg.get_id() == "id" && arg.get_long().is_none();
                for value in bad_values(arg).iter().filter(|_| !free) {
                    for words in given(&path, arg, value) {
                        seen += 1;
                        let told = wrong(&words);
                        let name = arg.get_long().map_or_else(
                            || arg.get_value_names().unwrap()[0].to_string(),
                            |long| format!("--{long}"),
                        );
                        assert!(told.contains(&name), "{words:?}: {told}");
                        assert!(!BARE.iter().any(|bare| told.contains(bare)), "{words:?}: {told}");
                        let hidden = value.contains("secret");
                        assert!(!hidden || !told.contains("secret"), "{words:?}: {told}");
                        assert!(hidden || told.contains(value), "{words:?}: {told}");
                        assert!(
                            told.split("': ").nth(1).is_some_and(|accepted| accepted.len() > 10),
                            "{told}"
                        );
                    }
                }
            }
        }
        assert!(seen > 300, "{seen}");
    }

    #[test]
    fn a_value_that_begins_with_a_dash_is_told_with_how_it_is_written() {
        let told = wrong(&words("p publish a t --id -x"));
        assert!(told.contains("after --id") && told.ends_with("--id=-x"), "{told}");
        assert!(parsed(&words("p publish a t --id=-x")).is_ok());
        let told = wrong(&words("p stream a s --max-output -1 -- true"));
        assert!(told.starts_with("invalid value '-1' for '--max-output <SIZE>': "), "{told}");
        let told = wrong(&words("p stream a s --silence -5m -- true"));
        assert!(told.starts_with("invalid value '-5m' for '--silence <D>': "), "{told}");
        let told = wrong(&words("p get-logs a s -5"));
        assert!(told.starts_with("invalid value '-5' for '[N]': "), "{told}");
        let told = wrong(&words("p work --on a:b --stage --group g -- true"));
        assert!(told.contains("a value is required for '--stage <STAGE>'"), "{told}");
    }

    #[test]
    fn a_password_is_repeated_nowhere() {
        for line in ["p list redis://u:secret@h", "p redis://u:secret@h", "p list --json=redis://u:secret@h"]
        {
            let told = wrong(&words(line));
            assert!(!told.contains("secret"), "{line}: {told}");
        }
    }
}
