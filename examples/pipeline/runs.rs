//! What `stream` and `work` share: the command, what is masked, and where output goes.

use std::collections::BTreeMap;
use std::env::VarError;
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use pubsub_pipeline::{
    Cap, Command, Error, Execution, ExitTable, Masker, PipelineStore, SinkConfig, Spooled, Store,
};
use tokio::task::JoinSet;

use crate::args::RunOptions;
use crate::codes::Done;
use crate::places::Places;
use crate::screen::Screen;
use crate::signals::{Asked, Signals};

/// The command with its limits.
pub(crate) fn command(places: &Places, words: &[String], options: &RunOptions) -> Done<Command> {
    let (program, args) = words.split_first().ok_or_else(|| Error::invalid("the command is missing"))?;
    let mut command = Command::new(program).with_args(args).with_grace(options.grace);
    if let Some(limit) = limit(places, options) {
        command = command.with_timeout(limit);
    }
    if let Some(limit) = options.silence {
        command = command.with_silence(limit);
    }
    command.check()?;
    Ok(command)
}

/// Longest time that the command may take.
pub(crate) fn limit(places: &Places, options: &RunOptions) -> Option<Duration> {
    options.timeout.or(places.config.timeout())
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
    let table = Arc::new(ExitTable::new(places.config.escapes()));
    let mut execution =
        Execution::new().with_masker(masker).with_metadata(metadata).with_classification(table);
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

/// The stores as sinks.
pub(crate) fn sinks(stores: &[PipelineStore]) -> Vec<SinkConfig> {
    stores.iter().map(PipelineStore::sink).collect()
}

/// How long spools may go on after the last run, and how long where their store is away.
pub(crate) const LATE: Duration = Duration::from_secs(10);
const AWAY: Duration = Duration::from_secs(2);

/// Ends what brings output to the stores after its run, and says what is left in the spools; answers the signal that ended
/// the wait.
pub(crate) async fn close(
    stores: &[PipelineStore],
    mut bringing: JoinSet<()>,
    screen: &mut Screen,
    signals: &mut Signals,
) -> Done<Option<Asked>> {
    let spools = || stores.iter().filter_map(PipelineStore::spool);
    let closing = async {
        // What died before us is brought whole, or it is there for the next one.
        let brought = async { while bringing.join_next().await.is_some() {} };
        let _ = tokio::time::timeout(LATE, brought).await;
        let shipped = join_all(spools().map(|spool| shipped(spool)));
        let _ = tokio::time::timeout(LATE, shipped).await;
    };
    let asked = tokio::select! {
        () = closing => None,
        asked = signals.next() => Some(asked),
    };
    let closed = join_all(spools().map(|spool| spool.close(Duration::ZERO))).await;
    for error in closed.into_iter().filter_map(Result::err) {
        screen
            .notice(&format!("{}; the next `work` or `stream` with this --spool goes on", error.chain()))?;
    }
    Ok(asked)
}

/// Returns once the store has everything, or is away for a while: what is left waits for the next one.
async fn shipped(spool: &Spooled<Arc<dyn Store>>) {
    let is_away = async {
        tokio::time::sleep(AWAY).await;
        spool.is_away().await;
    };
    tokio::select! {
        () = spool.shipped() => {}
        () = is_away => {}
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::process::Command;
    use std::time::Instant;

    use pubsub_pipeline::{
        ActionId, EventId, Exit, ExitClassification as _, ExitTable, Place, RunKey, RunRecord, SealBuilder,
        Stage,
    };
    use tokio::task::JoinSet;

    use super::{LATE, close};
    use crate::args::Global;
    use crate::places::Places;
    use crate::screen::{Form, Screen};
    use crate::signals::{Asked, Signals};

    #[tokio::test(flavor = "multi_thread")]
    async fn a_signal_ends_the_wait_for_a_spool_that_is_not_shipped() {
        let folder = tempfile::tempdir().unwrap();
        let far = folder.path().join("far");
        let spool = Some(folder.path().join("spool"));
        let global = Global {
            dir: Some(folder.path().into()),
            config: None,
            broker: None,
            store: vec![Place::folder(&far)],
            spool,
            json: false,
        };
        let stores = Places::new(&global).unwrap().stores().await.unwrap();
        // A file in the place of its folder keeps the store away.
        fs::write(&far, "").unwrap();
        let (action, stage) = (ActionId::new("a").unwrap(), Stage::new("s").unwrap());
        let mut record = RunRecord::begun(RunKey::new(action, stage, EventId::generate(), 1), "w");
        stores[0].store.begin(&record).await.unwrap();
        let exit = Exit::code(0);
        record.complete(&exit, ExitTable::default().classify(&exit), &SealBuilder::new().seal());
        stores[0].store.finish(&record).await.unwrap();

        let mut signals = Signals::new().unwrap();
        let own = std::process::id().to_string();
        assert!(Command::new("kill").args(["-s", "TERM", &own]).status().unwrap().success());
        let (mut screen, asked) = (Screen::new(Form::Text).unwrap(), Instant::now());
        let ended_by = close(&stores, JoinSet::new(), &mut screen, &mut signals).await.unwrap();
        assert_eq!(ended_by, Some(Asked::Terminate));
        assert!(asked.elapsed() < LATE / 2, "{:?}", asked.elapsed());
        // It waits for the next one.
        let waiting = Places::new(&global).unwrap().spools().unwrap().remove(0).1;
        assert!(fs::read_dir(waiting).unwrap().count() > 0);
    }
}
