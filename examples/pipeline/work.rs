//! Taking events and running a command at each: `work`.

use pubsub_pipeline::{Error, ErrorKind, FanOut, RetryPolicy, Stop, Worker};

use crate::args;
use crate::codes::{DONE, Done};
use crate::places::Places;
use crate::runs;
use crate::screen::{Screen, ended};
use crate::signals::{Asked, Signals};

pub(crate) async fn work(
    places: &Places,
    screen: &mut Screen,
    args: &args::Work,
    mut signals: Signals,
) -> Done {
    let command = runs::command(places, &args.command, &args.run)?;
    let execution = runs::execution(places, &args.run, screen)?;
    let start = async { Done::Ok((places.stores().await?, places.broker().await?)) };
    let (stores, broker) = match signals.unless(start).await? {
        Ok(started) => started,
        Err(asked) => return Ok(asked.code()),
    };
    let fan_out = FanOut::new(runs::sinks(&stores));
    let bringing = places.bring_tails(&stores);
    let form = screen.form;
    let mut worker = Worker::new(broker, fan_out, command, args.stage.clone(), args.on.iter().cloned())?
        .with_lease(args.lease)?
        .with_retry(policy(places, args))
        .with_execution(execution)
        .with_concurrency(usize::try_from(args.concurrency).unwrap_or(usize::MAX))
        .with_drain(args.drain)
        .with_observer(move |record| ended(form, record));
    if let Some(group) = &args.group {
        worker = worker.with_group(group.clone());
    }
    if let Some(then) = &args.then {
        worker = worker.with_then(then.clone());
    }
    if args.until_idle {
        worker = worker.until_idle();
    }
    let (stopper, stop) = Stop::pair();
    let working = tokio::spawn(worker.run(stop));
    let ended = async {
        let done = working.await;
        done.map_err(|e| Error::new(ErrorKind::Internal, "the worker panicked").with_source(e))??;
        Done::Ok(())
    };
    let draining = || Ok(screen.notice("nothing new is taken; what runs may end. A second signal cuts it")?);
    let (_, asked) = signals.watch(ended, &stopper, draining, None).await?;
    let asked = asked.or(runs::close(&stores, bringing, screen, &mut signals).await?);
    Ok(asked.map_or(DONE, Asked::code))
}

/// What the options do not say, the configuration says, which counts the tries after the first.
fn policy(places: &Places, args: &args::Work) -> RetryPolicy {
    let mut config = places.config.clone();
    if let Some(retry) = args.retry {
        config = config.with_retry(retry);
    }
    if let Some(attempts) = args.attempts {
        config = config.with_retry_attempts(attempts.saturating_sub(1));
    }
    config.retry()
}
