//! What `stream` and `work` share: the command, what is masked, and where output goes.

use std::collections::BTreeMap;
use std::env::VarError;
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use pubsub_pipeline::{Cap, Command, Error, Execution, Masker, RefusedLines, SinkConfig};

use tokio::task::JoinSet;

use crate::args::RunOptions;
use crate::codes::Done;
use crate::places::{Places, Written};
use crate::screen::Screen;
use crate::signals::Signals;

/// The command with its limits.
pub(crate) fn command(words: &[String], options: &RunOptions) -> Done<Command> {
    let (program, args) = words.split_first().ok_or_else(|| Error::invalid("the command is missing"))?;
    let mut command = Command::new(program).with_args(args).with_grace(options.grace);
    if let Some(limit) = options.timeout {
        command = command.with_timeout(limit);
    }
    if let Some(limit) = options.silence {
        command = command.with_silence(limit);
    }
    command.check()?;
    Ok(command)
}

/// How each attempt is run.
pub(crate) fn execution(places: &Places, options: &RunOptions, screen: &mut Screen) -> Done<Execution> {
    let mut secrets = Vec::with_capacity(options.mask_env.len());
    for name in &options.mask_env {
        // A name that is misspelt must not print the secret.
        secrets.push(secret(name)?);
    }
    let masker = Masker::new(secrets);
    for warning in masker.warnings() {
        screen.notice(&named(warning, &options.mask_env))?;
    }
    let metadata: BTreeMap<String, String> = options.meta.iter().cloned().collect();
    let mut execution = Execution::new().with_masker(masker).with_metadata(metadata);
    if let Some(bytes) = options.max_output {
        let cap = Cap::new(bytes);
        // Not in a temporary folder, which may be in memory.
        execution = execution.with_max_output(match places.held_back() {
            Some(folder) => cap.with_dir(folder),
            None => cap,
        });
    }
    // A command has its own grace first; only then may it be given up.
    let stop_limit = execution.stop_limit.max(options.grace.saturating_mul(2));
    Ok(execution.with_stop_limit(stop_limit))
}

/// The value of a variable that is to be masked. No error shows it.
fn secret(name: &str) -> Result<String, Error> {
    std::env::var(name).map_err(|e| match e {
        VarError::NotPresent => {
            Error::invalid(format!("--mask-env: the environment variable {name} is not set"))
        }
        VarError::NotUnicode(_) => {
            Error::invalid(format!("--mask-env: the value of the environment variable {name} is not UTF-8"))
        }
    })
}

/// A warning about a secret, with the variable that holds it in place of its place in the list.
fn named(warning: &str, names: &[String]) -> String {
    let of = |(index, name): (usize, &String)| {
        let rest = warning.strip_prefix(&format!("secret {} ", index + 1))?;
        Some(format!("--mask-env: the value of {name} {rest}"))
    };
    names.iter().enumerate().find_map(of).unwrap_or_else(|| warning.to_owned())
}

/// The stores as sinks. Those that are not required hold up nothing: what they cannot keep up with is told as a hole.
pub(crate) fn sinks(places: &Places, stores: &[Written]) -> Vec<SinkConfig> {
    let refused = Arc::new(places.refused_lines());
    let sinks = stores.iter().map(|written| {
        let store = Arc::clone(&written.connected.store);
        let config = if written.required {
            SinkConfig::required(&written.name, store)
        } else {
            SinkConfig::best_effort(&written.name, store)
        };
        config.with_refused_lines(Arc::clone(&refused) as Arc<dyn RefusedLines>)
    });
    sinks.collect()
}

/// How long spools may go on after the last run.
pub(crate) const LATE: Duration = Duration::from_secs(10);

/// Ends what brings output to the stores after its run, and says what is left in the spools; a signal ends the wait.
pub(crate) async fn close(
    stores: &[Written],
    mut bringing: JoinSet<()>,
    screen: &mut Screen,
    signals: &mut Signals,
) -> Done<()> {
    let spools = || stores.iter().filter_map(|written| written.spool.as_ref());
    let closing = async {
        // What died before us is brought whole, or it is there for the next one.
        let brought = async { while bringing.join_next().await.is_some() {} };
        let _ = tokio::time::timeout(LATE, brought).await;
        join_all(spools().map(|spool| spool.close(LATE))).await
    };
    let closed = tokio::select! {
        closed = closing => closed,
        _ = signals.next() => join_all(spools().map(|spool| spool.close(Duration::ZERO))).await,
    };
    for error in closed.into_iter().filter_map(Result::err) {
        screen
            .notice(&format!("{}; the next `work` or `stream` with this --spool goes on", error.chain()))?;
    }
    Ok(())
}
