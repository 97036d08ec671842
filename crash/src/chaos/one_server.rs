//! One server that writes to its disk before it answers: here the promise is the strongest.

use std::time::{Duration, Instant};

use services::{Persistence, Redis, RedisOptions};

use super::crew::{Crew, Manner, Sent};
use super::onlooker::{Onlooker, begun};
use super::outcome::{Outcome, left};
use super::trouble::Links;
use super::workers::Workers;
use super::{LEASE, LIMIT, Stage, until};
use crate::nobody_is_left;
use crate::planned::Planned;

/// Within so long after the end of its lease a killed worker's event runs again.
const ONE_POLL: Duration = Duration::from_secs(2);

pub(super) fn play(mut stage: Stage<'_>) {
    let keeping = RedisOptions::new().with_persistence(Persistence::EachWrite);
    let mut links = Links::to(Redis::start(&keeping).unwrap());
    let mut workers = Workers::start(stage.place, links.workers());
    let manner = Manner { insists: true };
    let onlooker = Onlooker::at(&links.direct());
    onlooker.until_all_are_members();
    workers.have_joined();
    let first = kill_one(&onlooker, &mut workers, &mut stage);
    workers.complete();

    let mut crew = Crew::begin(stage.place, &links.crew(), manner, stage.chance.fork());
    crew.ledger.enter(first);
    links.trouble(&mut workers, stage.trouble, &mut stage.chance, stage.tally);
    crew.stop_publishing();
    onlooker.until_all_is_settled(|| left(&links.server));
    workers.end();
    nobody_is_left(stage.place);

    let outcome = crew.runtime.block_on(Outcome::read(stage.place, &links.direct(), crew.ledger.sent()));
    outcome.count(stage.tally);
    stage.tally.add("publishes that were repeated", crew.ledger.retried());
    outcome.none_is_lost(|sent| sent.is_published);
    outcome.attempts_have_a_reason(&workers, &links);
    outcome.each_is_concluded_once(|_| true);
    crew.runtime.block_on(async {
        outcome.lines_are_there_once(|_| true).await;
        outcome.nothing_is_left(&links.server).await;
        outcome.events_are_there_once().await;
    });
    outcome.check_followers(&crew, stage.tally);
}

/// Kills the worker that runs an event; another begins it again in time, as its second attempt.
fn kill_one(onlooker: &Onlooker, workers: &mut Workers<'_>, stage: &mut Stage<'_>) -> Sent {
    // Longer than it may take until it runs again.
    let planned = Planned { action: "killed".to_owned(), id: "0.600.30.0".to_owned(), lines: 600, code: 0 };
    let sent = onlooker.publish(planned);
    let place = stage.place;
    let begun = |attempt| begun(place, &sent.id, attempt);
    until("an event is begun", LIMIT, || begun(1).is_some());
    stage.chance.instant(LEASE);
    let worker = begun(1).unwrap().worker.unwrap();
    let complaints = workers.complaints();
    workers.kill(workers.place_of(worker).expect("it runs for a worker of ours"));
    stage.tally.count("kills of workers");
    let killed = Instant::now();
    until("the event of a killed worker runs again", 2 * LEASE + ONE_POLL, || begun(2).is_some());
    let took = killed.elapsed();
    // On a machine that is too busy to answer in time, members see an outage: then they leave leases alone for one more.
    let is_disturbed = workers.complaints() > complaints;
    assert!(
        took <= LEASE + ONE_POLL || is_disturbed,
        "the event of a killed worker ran again after {took:?}"
    );
    let again = begun(2).unwrap();
    assert_ne!(again.worker, Some(worker), "{again:?}");
    stage.tally.add("ms until a killed worker's event ran again", usize::try_from(took.as_millis()).unwrap());
    sent
}
