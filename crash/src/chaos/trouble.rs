//! What is done to one server, its links and its workers.

use std::thread::sleep;
use std::time::{Duration, Instant};

use services::{Data, Proxy, Redis, Weather};

use super::tally::Tally;
use super::workers::Workers;
use super::{ANSWER, WORKERS, in_ms, now_ms};
use crate::{Chance, signal};

/// One kind of trouble.
#[derive(Clone, Copy, Debug)]
enum Trouble {
    Cut,
    Delay,
    Stall,
    Halve,
    LoseAnswers,
    Refuse,
    KillServer,
    PauseServer,
    ForgetScripts,
    KillWorker,
    PauseWorker,
    CutOffWorker,
}

const TROUBLES: [Trouble; 12] = [
    Trouble::Cut,
    Trouble::Delay,
    Trouble::Stall,
    Trouble::Halve,
    Trouble::LoseAnswers,
    Trouble::Refuse,
    Trouble::KillServer,
    Trouble::PauseServer,
    Trouble::ForgetScripts,
    Trouble::KillWorker,
    Trouble::PauseWorker,
    Trouble::CutOffWorker,
];

/// Longer than a lease, and than every limit on an answer.
const LONG: Duration = Duration::from_millis(4500);

/// So long after a trouble everybody is known to have renewed what they hold: a third of a lease, and some tries.
const RECOVERS: Duration = Duration::from_millis(2500);

impl Trouble {
    /// Whether it is one of all workers at once.
    const fn is_common(self) -> bool {
        !matches!(
            self,
            Self::Delay | Self::ForgetScripts | Self::KillWorker | Self::PauseWorker | Self::CutOffWorker
        )
    }
}

/// A server and the links to it: one for each worker, the last for all who are in this process.
pub(super) struct Links {
    pub(super) server: Redis,
    proxies: Vec<Proxy>,
    /// From when to when all workers were in trouble, in milliseconds since 1970.
    common: Vec<(u64, u64)>,
}

impl Links {
    pub(super) fn to(server: Redis) -> Self {
        let proxies = (0..=WORKERS).map(|_| Proxy::start(server.port()).unwrap()).collect();
        Self { server, proxies, common: Vec::new() }
    }

    /// The addresses of the workers.
    pub(super) fn workers(&self) -> Vec<String> {
        self.proxies.iter().take(WORKERS).map(|proxy| super::url(proxy.port())).collect()
    }

    /// The address of publisher and followers.
    pub(super) fn crew(&self) -> String {
        super::url(self.proxies[WORKERS].port())
    }

    /// The address without a proxy.
    pub(super) fn direct(&self) -> String {
        super::patient_url(self.server.port())
    }

    fn everywhere(&mut self, weather: Weather) {
        for proxy in &mut self.proxies {
            proxy.set(weather).unwrap();
        }
    }

    /// Trouble of every kind in turn, in an order of chance, until the time is over.
    pub(super) fn trouble(
        &mut self,
        workers: &mut Workers<'_>,
        span: Duration,
        chance: &mut Chance,
        tally: &mut Tally,
    ) {
        let over = Instant::now() + span;
        let mut left = Vec::new();
        while Instant::now() < over {
            if left.is_empty() {
                left.extend(TROUBLES);
            }
            let trouble = left.swap_remove(usize::try_from(chance.below(left.len() as u64)).unwrap());
            let from = now_ms();
            self.make(trouble, workers, chance, tally);
            if trouble.is_common() {
                self.common.push((from, now_ms()));
            }
            workers.complete();
            let calm = if chance.one_in(2) { Duration::ZERO } else { RECOVERS };
            sleep(calm);
            chance.instant(Duration::from_millis(500));
        }
    }

    /// Whether between these times a trouble ended that had begun before everybody had recovered from the one before: then a
    /// worker may have lost a lease by bad luck alone.
    pub(super) fn followed_each_other(&self, from: u64, to: u64) -> bool {
        let soon = |pair: &[(u64, u64)]| pair[1].0 - pair[0].1 < in_ms(RECOVERS);
        self.common.windows(2).any(|pair| soon(pair) && (from..=to).contains(&pair[1].1))
    }

    fn make(&mut self, trouble: Trouble, workers: &mut Workers<'_>, chance: &mut Chance, tally: &mut Tally) {
        match trouble {
            Trouble::Cut => {
                for _ in 0..=chance.below(5) {
                    for proxy in &self.proxies {
                        proxy.cut();
                    }
                    tally.count("times that all links were cut");
                    chance.instant(Duration::from_millis(150));
                }
            }
            Trouble::Delay => {
                let by = Duration::from_millis(1 + chance.below(80));
                self.weather("delays", Weather::Delayed(by), 2000, chance, tally);
            }
            Trouble::Stall => {
                let most = if chance.one_in(2) { ANSWER / 2 } else { LONG };
                self.weather("stalls", Weather::Stalled, in_ms(most), chance, tally);
            }
            Trouble::Halve => self.weather("times of halved traffic", Weather::Halved, 800, chance, tally),
            Trouble::LoseAnswers => {
                self.weather("times of lost answers", Weather::AnswersLost, 800, chance, tally);
            }
            Trouble::Refuse => {
                self.weather("times of refused connections", Weather::Refused, 3000, chance, tally);
            }
            Trouble::KillServer | Trouble::PauseServer | Trouble::ForgetScripts => {
                self.hurt_server(trouble, chance, tally);
            }
            Trouble::KillWorker | Trouble::PauseWorker | Trouble::CutOffWorker => {
                self.hurt_worker(trouble, workers, chance, tally);
            }
        }
    }

    fn hurt_server(&mut self, trouble: Trouble, chance: &mut Chance, tally: &mut Tally) {
        match trouble {
            Trouble::PauseServer => {
                tally.count("pauses of the server");
                self.server.pause().unwrap();
                chance.instant(LONG);
                self.server.go_on().unwrap();
            }
            Trouble::ForgetScripts => {
                tally.count("times that the server forgot its scripts");
                self.server.ask(&["SCRIPT", "FLUSH", "SYNC"]).unwrap();
            }
            _ => {
                tally.count("kills of the server, and restarts with its data");
                self.server.kill().unwrap();
                chance.instant(Duration::from_millis(1500));
                self.server.restart(Data::Kept).unwrap();
            }
        }
    }

    fn hurt_worker(
        &mut self,
        trouble: Trouble,
        workers: &mut Workers<'_>,
        chance: &mut Chance,
        tally: &mut Tally,
    ) {
        let at = usize::try_from(chance.below(WORKERS as u64)).unwrap();
        match trouble {
            Trouble::PauseWorker => {
                tally.count("pauses of a worker");
                workers.alone(at, |worker| {
                    signal(worker, "STOP");
                    sleep(LONG);
                    signal(worker, "CONT");
                });
            }
            Trouble::CutOffWorker => {
                tally.count("workers that were cut off alone");
                let proxy = &mut self.proxies[at];
                workers.alone(at, |_| {
                    proxy.set(Weather::Stalled).unwrap();
                    sleep(LONG);
                    proxy.set(Weather::Clear).unwrap();
                });
            }
            _ => {
                tally.count("kills of workers");
                // Also while it cannot say so to anybody.
                let weather = if chance.one_in(2) { Weather::Clear } else { Weather::Stalled };
                self.proxies[at].set(weather).unwrap();
                chance.instant(Duration::from_millis(300));
                workers.kill(at);
                self.proxies[at].set(Weather::Clear).unwrap();
                chance.instant(Duration::from_millis(500));
            }
        }
    }

    /// This weather for a while at most, then a clear sky.
    fn weather(
        &mut self,
        what: &'static str,
        weather: Weather,
        most_ms: u64,
        chance: &mut Chance,
        tally: &mut Tally,
    ) {
        tally.count(what);
        self.everywhere(weather);
        chance.instant(Duration::from_millis(most_ms));
        self.everywhere(Weather::Clear);
    }
}
