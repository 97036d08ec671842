//! What has to hold of lines, in the store and as followers got them.

use futures::StreamExt as _;
use pubsub_pipeline::{
    Cause, EventId, Lines, OutputItem, OutputReader as _, RedisStore, RunRecord, RunStatus, verify,
};
use tokio::time::timeout;

use super::crew::Crew;
use super::followers::{Follower, Given, Whom};
use super::outcome::{Outcome, shown};
use super::tally::Tally;

/// What of a run is in the store: its lines, each with its number.
async fn lines_of(store: &RedisStore, run: &RunRecord) -> Vec<(u64, String)> {
    let mut lines = Vec::new();
    let mut items = store.lines(&run.key.run_id, Lines::ALL).await.unwrap().items;
    while let Some(item) = items.next().await {
        match item.unwrap() {
            OutputItem::Lines(batch) => {
                lines.extend(batch.lines().map(|line| (line.number.get(), line.text().into_owned())));
            }
            OutputItem::Gap(gap) => panic!("lines are missing: {gap:?} of {}", shown(run)),
        }
    }
    lines
}

/// Whether its command ended by itself, so that it printed all that was planned.
fn has_printed_all(run: &RunRecord) -> bool {
    run.status == RunStatus::Completed && run.cause == Some(Cause::Exit)
}

impl Outcome {
    fn prints(&self, run: &RunRecord) -> Vec<(u64, String)> {
        (1..).zip(self.planned(&run.key.event_id).prints(&shown(run))).collect()
    }

    /// Each line of each of these runs is there once, in order, all of those of a command that ended by itself; a run that
    /// ended verifies.
    pub(super) async fn lines_are_there_once(&self, of: impl Fn(&RunRecord) -> bool) {
        for run in self.runs.values().flatten().filter(|run| of(run)) {
            let (lines, prints) = (lines_of(&self.store, run).await, self.prints(run));
            assert!(prints.starts_with(&lines), "{lines:?} of {}", shown(run));
            if has_printed_all(run) {
                assert_eq!(lines.len(), prints.len(), "all lines are there: {}", shown(run));
            }
            if run.status == RunStatus::Completed {
                let verified = verify(&self.store, &run.key.run_id).await.unwrap();
                assert!(verified.agrees(), "{:?}: {}", verified.problem(), shown(run));
            }
        }
    }

    /// Counts what there is.
    pub(super) fn count(&self, tally: &mut Tally) {
        let runs = || self.runs.values().flatten();
        tally.add("events sent", self.sent.len());
        tally.add("events told as published", self.sent.iter().filter(|sent| sent.is_published).count());
        tally.add("events run", self.runs.len());
        tally.add("runs", runs().count());
        tally.add("commands begun", self.witness.all("begin").count());
        tally.add("commands beside another attempt", self.witness.all("beside").count());
        let lines: u64 = runs().map(|run| run.counts.lines).sum();
        tally.add("lines", usize::try_from(lines).unwrap());
    }

    /// Whether a follower has to come to its end.
    fn ends(&self, follower: &Follower) -> bool {
        let runs = self.runs.get(&follower.event).map_or(&[][..], Vec::as_slice);
        match follower.whom {
            Whom::Stage => runs.iter().any(|run| run.is_final),
            Whom::FirstAttempt => {
                runs.iter().any(|run| run.key.attempt == 1 && run.status == RunStatus::Completed)
            }
        }
    }

    /// Followers got each line once, in order, and those of a run that has ended came to its end.
    pub(super) fn check_followers(&self, crew: &Crew, tally: &mut Tally) {
        let followers = crew.followers();
        tally.add("followers", followers.len());
        crew.runtime.block_on(async {
            let (whole, rest): (Vec<_>, Vec<_>) =
                followers.into_iter().partition(|follower| self.ends(follower));
            for Follower { event, whom, given } in whole {
                let given = timeout(super::LIMIT, given).await;
                let given = given
                    .unwrap_or_else(|_| panic!("a follower ({whom:?}) of {event} does not end"))
                    .unwrap();
                assert!(given.is_whole, "a follower ({whom:?}) of {event} failed: {given:?}");
                self.check_given(&event, whom, &given);
                let is_told = |run: &&RunRecord| !run.is_final || given.ended.contains(&run.key.run_id);
                assert!(
                    whom == Whom::FirstAttempt || self.runs[&event].iter().all(|run| is_told(&run)),
                    "{event}: {given:?}"
                );
                tally.add("pieces that were followed", given.pieces);
            }
            crew.is_over();
            for Follower { event, whom, given } in rest {
                self.check_given(&event, whom, &given.await.unwrap());
            }
        });
    }

    fn check_given(&self, event: &EventId, whom: Whom, given: &Given) {
        assert!(given.failure.is_none() && given.gaps.is_empty(), "{event} ({whom:?}): {given:?}");
        let runs = self.runs.get(event).map_or(&[][..], Vec::as_slice);
        for (id, lines) in &given.lines {
            let run = runs.iter().find(|run| run.key.run_id == *id);
            let run = run.unwrap_or_else(|| panic!("lines of {id} were given, which is not there"));
            let prints = self.prints(run);
            assert!(prints.starts_with(lines), "each once, in order: {lines:?} of {}", shown(run));
        }
        // One that was told as over, for a later attempt began, may still have printed.
        let is_over = |run: &&RunRecord| run.is_final || whom == Whom::FirstAttempt;
        let ended = runs.iter().filter(|run| given.ended.contains(&run.key.run_id) && has_printed_all(run));
        for run in ended.filter(is_over) {
            let lines = given.lines.get(&run.key.run_id).map_or(0, Vec::len) as u64;
            assert_eq!(lines, run.counts.lines, "all lines were given to {whom:?} of {}", shown(run));
        }
    }
}
