//! Following output as it is printed: `stream-logs`.

use std::sync::Arc;

use futures::StreamExt as _;
use pubsub_pipeline::{Follow, FollowFrom, Followed, LineNumber, OutputItem, Target, follow};

use crate::args;
use crate::codes::{DONE, Done};
use crate::places::{Places, chosen, fresh, waits};
use crate::screen::Screen;

pub(crate) async fn stream_logs(places: &Places, screen: &mut Screen, args: &args::StreamLogs) -> Done {
    let store = places.reader().await?;
    let target = match &args.chosen.run {
        // Its name says that it began: a wrong one is not waited for.
        Some(_) => Target::Run(chosen(&*store, &args.chosen).await?.key.run_id),
        None => Target::Stage(args.chosen.action_id.clone(), args.chosen.stage.clone()),
    };
    let from = match (args.from, args.last) {
        (_, Some(last)) => FollowFrom::Last(last),
        (from, None) => FollowFrom::Line(from.unwrap_or(LineNumber::FIRST)),
    };
    if let Target::Stage(action, stage) = &target {
        waits(&*store, screen, action, Some(stage)).await?;
    }
    let mut followed = follow(Arc::clone(&store), Follow { target, from });
    let mut begun = 0_u32;
    while let Some(item) = followed.next().await {
        match item {
            Ok(Followed::Began(record)) => {
                begun = begun.saturating_add(1);
                if begun > 1 {
                    screen.notice(&format!("attempt {} begins", record.key.attempt))?;
                }
            }
            Ok(Followed::Item(OutputItem::Lines(batch))) => {
                screen.lines(&batch)?;
                screen.flush()?;
            }
            Ok(Followed::Item(OutputItem::Gap(gap))) => screen.gap(&gap)?,
            Ok(Followed::Ended(record)) => screen.ended(&fresh(&*store, record).await)?,
            Err(error) if error.is_retryable() => {
                screen.notice(&format!("the store is out of reach, trying on: {}", error.chain()))?;
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(DONE)
}
