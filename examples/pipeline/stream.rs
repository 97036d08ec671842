//! Running a command now, here: `stream`.

use std::sync::Arc;
use std::time::Duration;

use pubsub_pipeline::{
    ErrorKind, Event, EventType, Executed, FanOut, Finality, Outcome, RunKey, Stdin, Stop,
};

use crate::args;
use crate::codes::{Done, Failure, TIMED_OUT, of_run};
use crate::display::Display;
use crate::places::Places;
use crate::runs;
use crate::screen::{self, Form, Screen};
use crate::signals::{Asked, Signals};

/// Runs it, stores its output, and shows it. No event is published: the run has an id of its own.
pub(crate) async fn stream(
    places: &Places,
    screen: &mut Screen,
    args: &args::Stream,
    mut signals: Signals,
) -> Done {
    let command = runs::command(places, &args.command, &args.run)?.with_stdin(Stdin::Null);
    let execution = runs::execution(places, &args.run, screen)?;
    let display = Display::new(screen.form)?;
    let stores = match signals.unless(places.stores()).await? {
        Ok(stores) => stores,
        Err(asked) => return Ok(asked.code()),
    };
    let bringing = places.bring_tails(&stores);
    let mut sinks = runs::sinks(&stores);
    sinks.push(display.sink());
    let fan_out = Arc::new(limited(FanOut::new(sinks), runs::limit(places, &args.run)));
    let event = Event::new(EventType::new("stream")?, args.action_id.clone());
    let key = RunKey::new(args.action_id.clone(), args.stage.clone(), event.id.clone(), 1);
    let (stopper, stop) = Stop::pair();
    let run = {
        let fan_out = Arc::clone(&fan_out);
        // In a task of its own, so that a notice which blocks does not hold it up.
        tokio::spawn(async move {
            execution.run(&fan_out, &command, Arc::new(event), key, stop, Finality::Final).await
        })
    };
    let ended = async {
        let Executed { report, sinks, .. } = run.await.map_err(std::io::Error::other)??;
        drop(sinks);
        display.finished().await;
        Done::Ok(report.record)
    };
    // The command's own grace, and what a store needs that is in reach.
    let limit = args.run.grace.saturating_add(runs::LATE);
    let (record, asked) = match signals.watch(ended, &stopper, || Ok(()), Some(limit)).await {
        Err(failure) => return not_begun(failure, screen, args),
        Ok(watched) => watched,
    };
    let Some(record) = record else {
        screen.notice("its end was not stored in time; where the run had begun it will be told as lost")?;
        return Ok(asked.map_or(1, Asked::code));
    };
    let mut asked = asked;
    tokio::select! {
        late = fan_out.close(runs::LATE) => if let Err(error) = late {
            screen.notice(&format!("stores that are not required lack some of the output: {}", error.chain()))?;
        },
        now = signals.next() => asked = asked.or(Some(now)),
    }
    asked = asked.or(runs::close(&stores, bringing, screen, &mut signals).await?);
    for gap in &record.gaps {
        screen.gap(gap)?;
    }
    // A program wants the record of every run; people see themselves that one succeeded.
    if screen.form == Form::Json || record.outcome != Some(Outcome::Succeeded) {
        screen.ended(&record)?;
    }
    if record.output_incomplete {
        screen.notice(
            "a required store lacks lines of the output; those that it refused are in `pipeline dead-letters list`",
        )?;
    }
    Ok(asked.map_or_else(|| of_run(&record, args.run.pass_code), Asked::code))
}

/// A store that is away must not hold up for longer whoever limits the command.
fn limited(fan_out: FanOut, limit: Option<Duration>) -> FanOut {
    match limit {
        Some(limit) => fan_out.with_begin_limit(limit),
        None => fan_out,
    }
}

/// Nothing was run. Where that is for our limit, the command's own code for it is what --pass-code passes.
fn not_begun(failure: Failure, screen: &Screen, args: &args::Stream) -> Done {
    match failure {
        Failure::Error(error) if error.kind() == ErrorKind::TimedOut && args.run.pass_code => {
            screen::error(screen.form, &error);
            Ok(TIMED_OUT)
        }
        failure => Err(failure),
    }
}
