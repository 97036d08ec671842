//! A server that comes back without its data: what was acknowledged before may be gone, and everybody goes on.

use std::thread::sleep;
use std::time::{Duration, Instant};

use services::{Data, Redis, RedisOptions};

use super::crew::{Crew, Manner, Sent};
use super::onlooker::Onlooker;
use super::outcome::{Outcome, left};
use super::workers::Workers;
use super::{Stage, WORKERS, patient_url, url};
use crate::nobody_is_left;

/// Within so long after the server is back an event that is published then has run.
const GOES_ON: Duration = Duration::from_secs(10);

/// Most commands of all who are there, those of scripts counted, until an event has run after the server was emptied:
/// for joining anew, and for each second. A spin has many thousands a second.
const JOINING: u64 = 5000;
const A_SECOND: u64 = 1000;

/// Most commands a second while nothing is to be done.
const IDLE: u64 = 200;

/// For how long they are counted then.
const COUNTED: Duration = Duration::from_secs(2);

/// For how long events are published once the server was emptied for the last time.
const AFTERWARDS: Duration = Duration::from_secs(2);

/// Most warnings and errors of a worker for each time: a few of the outage, and one for each event that it lost.
const COMPLAINTS: usize = 10;

pub(super) fn play(mut stage: Stage<'_>) {
    let mut server = Redis::start(&RedisOptions::new()).unwrap();
    let address = url(server.port());
    let mut workers = Workers::start(stage.place, vec![address.clone(); WORKERS]);
    let onlooker = Onlooker::at(&patient_url(server.port()));
    onlooker.until_all_are_members();
    workers.have_joined();
    let mut crew = Crew::begin(stage.place, &address, Manner { insists: false }, stage.chance.fork());
    let over = Instant::now() + stage.trouble;
    let (mut times, mut joining) = (0, 0);
    while times == 0 || Instant::now() < over {
        sleep(Duration::from_millis(1000 + stage.chance.below(1500)));
        crew.ledger.calm_ends();
        let before = empty(&mut server, &mut stage);
        crew.ledger.calm_begins();
        times += 1;
        workers.none_has_ended();
        onlooker.until_a_sign_has_run((stage.place, &crew.ledger, times), GOES_ON, || left(&server));
        let (many, took) = (commands(&server) - before.0, before.1.elapsed());
        assert!(
            many < JOINING + A_SECOND * took.as_secs(),
            "{many} commands in {took:?} after the server was emptied"
        );
        joining = joining.max(many);
    }
    stage.tally.add("commands at most until an event had run again", usize::try_from(joining).unwrap());
    sleep(AFTERWARDS);
    crew.stop_publishing();
    onlooker.until_all_is_settled(|| left(&server));
    // Those who wait for a run that was lost ask for it once a second.
    crew.is_over();
    let rate = idle_rate(&server);
    stage.tally.add("commands a second while nothing was to be done", usize::try_from(rate).unwrap());
    assert!(rate < IDLE, "{rate} commands a second while nothing is to be done");
    let complaints = workers.complaints();
    stage.tally.add("warnings and errors of workers", complaints);
    let most = COMPLAINTS * WORKERS * times;
    assert!(
        complaints <= most,
        "{complaints} lines of warnings and errors, for {times} times at most {most}"
    );
    workers.end();
    nobody_is_left(stage.place);

    let outcome =
        crew.runtime.block_on(Outcome::read(stage.place, &patient_url(server.port()), crew.ledger.sent()));
    outcome.count(stage.tally);
    let last = crew.ledger.calm();
    let counts = |sent: &Sent| sent.is_published && sent.calm == last;
    let of_last = |event: &_| outcome.sent.iter().any(|sent| sent.id == *event && counts(sent));
    let many = outcome.sent.iter().filter(|sent| counts(sent)).count();
    stage.tally.add("events after the server was emptied for the last time", many);
    assert!(many > 1, "nothing but the sign was published after the server was emptied for the last time");
    outcome.none_is_lost(counts);
    outcome.witness.is_orderly();
    outcome.each_is_concluded_once(of_last);
    crew.runtime.block_on(outcome.lines_are_there_once(|run| of_last(&run.key.event_id)));
}

/// Empties the server; answers how many commands it had had then, and when that was.
fn empty(server: &mut Redis, stage: &mut Stage<'_>) -> (u64, Instant) {
    if stage.chance.one_in(3) {
        stage.tally.count("times that all data was deleted");
        server.ask(&["FLUSHALL"]).unwrap();
        return (commands(server), Instant::now());
    }
    stage.tally.count("kills of the server, and restarts without its data");
    server.kill().unwrap();
    stage.chance.instant(Duration::from_millis(1000));
    server.restart(Data::Lost).unwrap();
    (0, Instant::now())
}

/// How many commands the server has had.
fn commands(server: &Redis) -> u64 {
    server.info("total_commands_processed").unwrap().parse().unwrap()
}

/// How many commands the server gets in a second while nothing is to be done.
fn idle_rate(server: &Redis) -> u64 {
    let (before, began) = (commands(server), Instant::now());
    sleep(COUNTED);
    (commands(server) - before) * 1000 / u64::try_from(began.elapsed().as_millis()).unwrap()
}
