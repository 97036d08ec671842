//! A master and its replica under sentinels: the master is killed, put to sleep, replaced.

use std::thread::sleep;
use std::time::{Duration, Instant};

use pubsub_pipeline::EventId;
use services::{Data, Persistence, Redis, RedisOptions, RedisSentinel};

use super::crew::{Crew, Ledger, Manner, Sent};
use super::onlooker::Onlooker;
use super::outcome::{Outcome, left};
use super::tally::Tally;
use super::workers::Workers;
use super::{PREFIX, Stage, WORKERS, now_ms, options};
use crate::{Chance, nobody_is_left};

/// Within so long after a failover an event that is published then has run.
const GOES_ON: Duration = Duration::from_secs(15);

/// A server counts as the master for so long after the sentinels named it, and a little more.
const NAMED: Duration = Duration::from_millis(1300);

/// For how long events are published once the master was replaced for the last time.
const AFTERWARDS: Duration = Duration::from_secs(2);

/// Within so long after its command ended an event is settled and its record in the store, where all is calm.
const SETTLES_MS: u64 = 2000;

/// How the master is replaced.
#[derive(Clone, Copy, Debug)]
enum Failover {
    /// It dies, and comes back as a replica.
    Kill,
    /// It sleeps, and wakes as one that does not know that it was replaced.
    Pause,
    /// The sentinels are asked to.
    Asked,
}

pub(super) fn play(mut stage: Stage<'_>) {
    let keeping = RedisOptions::new().with_persistence(Persistence::EachWrite);
    let mut servers = RedisSentinel::start(&keeping).unwrap();
    let address = format!("{}?{}", servers.url(), options());
    let mut workers = Workers::start(stage.place, vec![address.clone(); WORKERS]);
    let patient = format!("{}?prefix={PREFIX}", servers.url());
    let onlooker = Onlooker::at(&patient);
    onlooker.until_all_are_members();
    workers.have_joined();
    let mut crew = Crew::begin(stage.place, &address, Manner { insists: true }, stage.chance.fork());
    let (over, mut storms) = (Instant::now() + stage.trouble, Vec::new());
    // Each at least once.
    let mut left = vec![Failover::Kill, Failover::Pause];
    let (mut times, mut epoch) = (0, servers.epoch().unwrap());
    while times < 2 || Instant::now() < over {
        if left.is_empty() {
            left.extend([Failover::Kill, Failover::Pause, Failover::Asked]);
        }
        let failover = left.swap_remove(usize::try_from(stage.chance.below(left.len() as u64)).unwrap());
        sleep(Duration::from_millis(1000 + stage.chance.below(1500)));
        stays(&servers, epoch);
        storms.push(replace(&mut servers, failover, &crew.ledger, &mut stage.chance, stage.tally));
        epoch = servers.epoch().unwrap();
        times += 1;
        workers.none_has_ended();
        onlooker
            .until_a_sign_has_run((stage.place, &crew.ledger, times), GOES_ON, || left_at(&servers, epoch));
    }
    sleep(AFTERWARDS);
    crew.stop_publishing();
    onlooker.until_all_is_settled(|| left_at(&servers, epoch));
    stays(&servers, epoch);
    workers.end();
    nobody_is_left(stage.place);

    let outcome = crew.runtime.block_on(Outcome::read(stage.place, &patient, crew.ledger.sent()));
    outcome.count(stage.tally);
    stage.tally.add("publishes that were repeated", crew.ledger.retried());
    let counts = |sent: &Sent| sent.is_published && sent.calm.is_some();
    outcome.all_have_run(counts);
    // What is written while the master is replaced may be lost, also where its writer knows it as written.
    let is_clear = |event: &EventId| {
        outcome.life(event).is_some_and(|(from, to)| {
            storms.iter().all(|(begins, ends)| to + SETTLES_MS < *begins || from > *ends)
        })
    };
    stage
        .tally
        .add("events while nothing was replaced", outcome.runs.keys().filter(|id| is_clear(id)).count());
    outcome.none_is_lost(|sent| is_clear(&sent.id));
    outcome.each_is_concluded_once(is_clear);
    crew.runtime.block_on(outcome.lines_are_there_once(|run| is_clear(&run.key.event_id)));
    crew.is_over();
}

/// Fails where the sentinels replaced the master and were not asked to: then nothing can be said about what was lost.
fn stays(servers: &RedisSentinel, epoch: u64) {
    let now = servers.epoch().unwrap();
    assert_eq!(now, epoch, "the sentinels replaced the master by themselves: this machine is too busy");
}

/// What is left at each of the two.
fn left_at(servers: &RedisSentinel, epoch: u64) -> String {
    stays(servers, epoch);
    let of = |server: &Redis| {
        format!("{} ({}): {}", server.port(), server.info("role").unwrap_or_default(), left(server))
    };
    servers.servers().iter().map(of).collect::<Vec<_>>().join(" | ")
}

/// Replaces the master; answers from when to when what was acknowledged may be lost, in milliseconds since 1970.
fn replace(
    servers: &mut RedisSentinel,
    failover: Failover,
    ledger: &Ledger,
    chance: &mut Chance,
    tally: &mut Tally,
) -> (u64, u64) {
    let master = servers.master().unwrap();
    // The one that was replaced before has to be a replica by now.
    servers.servers()[master].replicated().unwrap();
    let from = now_ms();
    ledger.calm_ends();
    // What was acknowledged before this moment is replicated now.
    servers.servers()[master].replicated().unwrap();
    chance.instant(Duration::from_millis(300));
    match failover {
        Failover::Kill => {
            tally.count("kills of the master, and failovers");
            servers.servers_mut()[master].kill().unwrap();
            servers.until_not(master).unwrap();
            servers.servers_mut()[master].restart(Data::Kept).unwrap();
            // The sentinels say so as well, a while later.
            let port = servers.servers()[1 - master].port().to_string();
            servers.servers()[master].ask(&["REPLICAOF", "127.0.0.1", &port]).unwrap();
        }
        Failover::Pause => {
            tally.count("pauses of the master, and failovers");
            servers.servers()[master].pause().unwrap();
            servers.until_not(master).unwrap();
            servers.servers()[master].go_on().unwrap();
        }
        Failover::Asked => {
            tally.count("failovers that were asked for");
            servers.fail_over().unwrap();
        }
    }
    // Until then who asks one that does not know yet is led to the old one.
    servers.until_all_say_not(master).unwrap();
    sleep(NAMED);
    ledger.calm_begins();
    (from, now_ms())
}
