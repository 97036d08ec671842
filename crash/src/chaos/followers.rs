//! Followers of single runs and of stages, through the weather.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use pubsub_pipeline::{
    ActionId, EventId, Follow, FollowFrom, Followed, LineNumber, OutputItem, OutputReader, RedisStore, RunId,
    Stage as StageName, Target, follow,
};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::workers::STAGE;
use crate::Chance;

/// Whom a follower follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Whom {
    /// The stage of the event's action, through all attempts.
    Stage,
    /// The first attempt, again and again from the next line on.
    FirstAttempt,
}

/// A follower of an event that is its action's only one.
#[derive(Debug)]
pub(super) struct Follower {
    pub(super) event: EventId,
    pub(super) whom: Whom,
    pub(super) given: JoinHandle<Given>,
}

/// What a follower was given.
#[derive(Debug, Default)]
pub(super) struct Given {
    /// The lines by run.
    pub(super) lines: BTreeMap<RunId, Vec<(u64, String)>>,
    /// The runs whose end it was told.
    pub(super) ended: BTreeSet<RunId>,
    /// What it was told that was no line.
    pub(super) gaps: Vec<String>,
    /// Why it ended before the end.
    pub(super) failure: Option<String>,
    /// Whether it came to the end.
    pub(super) is_whole: bool,
    /// How often it began anew.
    pub(super) pieces: usize,
}

impl Follower {
    /// Follows until the end, or until all is over.
    pub(super) fn begin(
        store: Arc<RedisStore>,
        (event, action): (EventId, ActionId),
        chance: &mut Chance,
        over: watch::Receiver<bool>,
    ) -> Self {
        let stage = StageName::new(STAGE).unwrap();
        let whom = if chance.one_in(2) { Whom::Stage } else { Whom::FirstAttempt };
        let (target, cuts) = match whom {
            Whom::Stage => (Target::Stage(action, stage), None),
            Whom::FirstAttempt => (Target::Run(RunId::derived(&event, &stage, 1)), Some(chance.fork())),
        };
        let given = tokio::spawn(given(store, target, cuts, over));
        Self { event, whom, given }
    }
}

async fn given(
    store: Arc<RedisStore>,
    target: Target,
    mut cuts: Option<Chance>,
    mut over: watch::Receiver<bool>,
) -> Given {
    let mut given = Given::default();
    let mut run = None;
    loop {
        let last = run.as_ref().and_then(|run| given.lines.get(run)?.last());
        let next = last.map_or(LineNumber::FIRST, |(number, _)| LineNumber::FIRST.plus(*number));
        let what = Follow { target: target.clone(), from: FollowFrom::Line(next) };
        let mut followed = follow(Arc::<RedisStore>::clone(&store) as Arc<dyn OutputReader>, what);
        let piece = cuts.as_mut().map(|cuts| Duration::from_millis(100 + cuts.below(1500)));
        let cut = async {
            match piece {
                Some(piece) => tokio::time::sleep(piece).await,
                None => std::future::pending().await,
            }
        };
        let mut cut = std::pin::pin!(cut);
        given.pieces += 1;
        loop {
            let item = tokio::select! {
                item = followed.next() => item,
                () = &mut cut => break,
                _ = over.wait_for(|over| *over) => return given,
            };
            match item {
                None => {
                    given.is_whole = given.failure.is_none();
                    return given;
                }
                Some(Ok(followed)) => given.take(&mut run, followed),
                // It is told once for an outage.
                Some(Err(error)) if error.is_retryable() => {}
                Some(Err(error)) => given.failure = Some(error.chain()),
            }
        }
    }
}

impl Given {
    fn take(&mut self, run: &mut Option<RunId>, followed: Followed) {
        match followed {
            Followed::Began(record) => *run = Some(record.key.run_id),
            Followed::Ended(record) => {
                self.ended.insert(record.key.run_id);
            }
            Followed::Item(OutputItem::Gap(gap)) => self.gaps.push(format!("{gap:?}")),
            Followed::Item(OutputItem::Lines(batch)) => {
                let lines = self.lines.entry(run.clone().unwrap()).or_default();
                lines.extend(batch.lines().map(|line| (line.number.get(), line.text().into_owned())));
            }
        }
    }
}
