//! Who lives through a phase in this process: a publisher that goes on, and followers.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use pubsub_pipeline::{
    ActionId, Event, EventId, EventType, Payload, Publisher as _, RedisBroker, RedisBrokerConfig,
    RedisConfig, RedisStore, RedisStoreConfig, Timestamp,
};
use tokio::runtime::Runtime;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::sleep;

use super::followers::Follower;
use super::workers::STAGE;
use crate::planned::Planned;
use crate::{Chance, Place, Witness};

/// So many events may wait for workers at most.
const MOST_WAITING: usize = 24;

/// The first numbers are special to the rounds of kills.
const FIRST: u64 = 2;

/// An event that was sent.
#[derive(Clone, Debug)]
pub(super) struct Sent {
    pub(super) id: EventId,
    pub(super) planned: Planned,
    /// Whether it was told as published.
    pub(super) is_published: bool,
    /// Whether that counts: it was told in this time of calm, from its publish to the answer. What was told while the
    /// server was emptied or replaced may be gone.
    pub(super) calm: Option<u64>,
}

/// What was sent, and whether it counts.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    sent: Mutex<Vec<Sent>>,
    followers: Mutex<Vec<Follower>>,
    /// Even while it is calm.
    calm: AtomicU64,
    retried: AtomicU64,
}

impl Ledger {
    /// From now on what is told as published may be gone.
    pub(super) fn calm_ends(&self) {
        let before = self.calm.fetch_add(1, Ordering::SeqCst);
        assert_eq!(before % 2, 0, "it was calm");
    }

    /// From now on it counts again.
    pub(super) fn calm_begins(&self) {
        let before = self.calm.fetch_add(1, Ordering::SeqCst);
        assert_eq!(before % 2, 1, "it was not calm");
    }

    /// The time of calm, if it is one.
    pub(super) fn calm(&self) -> Option<u64> {
        Some(self.calm.load(Ordering::SeqCst)).filter(|calm| calm % 2 == 0)
    }

    pub(super) fn enter(&self, sent: Sent) {
        lock(&self.sent).push(sent);
    }

    pub(super) fn sent(&self) -> Vec<Sent> {
        lock(&self.sent).clone()
    }

    /// How often a publish was repeated.
    pub(super) fn retried(&self) -> usize {
        usize::try_from(self.retried.load(Ordering::SeqCst)).unwrap()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// How the crew behaves.
#[derive(Clone, Copy, Debug)]
pub(super) struct Manner {
    /// Whether some publishes are repeated until they are answered.
    pub(super) insists: bool,
}

/// Publisher and followers at one address.
#[derive(Debug)]
pub(super) struct Crew {
    pub(super) runtime: Runtime,
    pub(super) ledger: Arc<Ledger>,
    over: watch::Sender<bool>,
    publishing: Option<JoinHandle<()>>,
    stops: watch::Sender<bool>,
}

impl Crew {
    /// Everybody begins.
    pub(super) fn begin(place: &Place, url: &str, manner: Manner, chance: Chance) -> Self {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let ledger = Arc::<Ledger>::default();
        let (over, stops) = (watch::Sender::new(false), watch::Sender::new(false));
        let (broker, store) = runtime.block_on(connect(url));
        let publisher = Publisher {
            broker,
            store: Arc::new(store),
            ledger: Arc::clone(&ledger),
            folder: place.path().to_owned(),
            manner,
            chance,
            over: over.subscribe(),
        };
        let publishing = Some(runtime.spawn(publisher.go_on(stops.subscribe())));
        Self { runtime, ledger, over, publishing, stops }
    }

    /// Nothing new is published; what is being published is brought to its end.
    pub(super) fn stop_publishing(&mut self) {
        self.stops.send_replace(true);
        let Some(publishing) = self.publishing.take() else { return };
        let ended = self.runtime.block_on(async { tokio::time::timeout(super::LIMIT, publishing).await });
        match ended.expect("a publish is answered in the end, where everything answers") {
            Ok(()) => {}
            Err(error) => std::panic::resume_unwind(error.into_panic()),
        }
    }

    /// The followers so far. They end by themselves, or when all is over.
    pub(super) fn followers(&self) -> Vec<Follower> {
        std::mem::take(&mut *lock(&self.ledger.followers))
    }

    /// Followers that have nothing more to see end as well.
    pub(super) fn is_over(&self) {
        self.over.send_replace(true);
    }
}

/// A broker and a store at this address.
pub(super) async fn connect(url: &str) -> (RedisBroker, RedisStore) {
    let config = RedisConfig::from_url(url).unwrap();
    let broker = RedisBroker::connect(RedisBrokerConfig::new(config.clone())).await.unwrap();
    (broker, RedisStore::connect(RedisStoreConfig::new(config)).await.unwrap())
}

/// An event with this plan, whose commands read it from the payload.
pub(super) fn event(id: Option<EventId>, planned: &Planned) -> Event {
    let kind = EventType::new(format!("{STAGE}-requested")).unwrap();
    let event = Event::new(kind, ActionId::new(&planned.action).unwrap());
    let event = event.with_payload(Payload::from_value(&planned.id).unwrap());
    match id {
        Some(id) => event.with_id(id),
        None => event,
    }
}

struct Publisher {
    broker: RedisBroker,
    store: Arc<RedisStore>,
    ledger: Arc<Ledger>,
    folder: PathBuf,
    manner: Manner,
    chance: Chance,
    over: watch::Receiver<bool>,
}

impl Publisher {
    /// Publishes until it is stopped.
    async fn go_on(mut self, stops: watch::Receiver<bool>) {
        let mut n = FIRST;
        while !*stops.borrow() {
            if self.is_full() {
                sleep(Duration::from_millis(50)).await;
                continue;
            }
            let many = if self.chance.one_in(4) { 1 + self.chance.below(4) } else { 1 };
            self.publish(n..n + many).await;
            n += many;
            sleep(Duration::from_millis(self.chance.below(250))).await;
        }
    }

    /// Whether workers are so far behind that more would only wait.
    fn is_full(&self) -> bool {
        let witness = Witness::of(&self.folder);
        let ended: BTreeSet<&str> = witness.all("end").map(|said| said.event.as_str()).collect();
        // What was told before the server was emptied may never run.
        let calm = self.ledger.calm();
        let waits =
            |sent: &&Sent| sent.calm.is_some() && sent.calm == calm && !ended.contains(sent.id.as_str());
        lock(&self.ledger.sent).iter().filter(waits).count() >= MOST_WAITING
    }

    /// An event of this number. Whoever repeats a publish chooses its id.
    fn draw(&mut self, n: u64, insists: bool) -> (Event, Sent) {
        let mut planned = Planned::draw(n, false, &mut self.chance);
        let is_followed = self.chance.one_in(2);
        if is_followed {
            planned.action = format!("solo-{n}");
        }
        let is_chosen = insists || self.chance.one_in(2);
        let mut event = event(is_chosen.then(|| EventId::new(&planned.id).unwrap()), &planned);
        if self.chance.one_in(8) {
            let delay = Duration::from_millis(200 + self.chance.below(1300));
            event = event.with_deliver_at(Timestamp::now().plus(delay));
        }
        if is_followed {
            let of = (event.id.clone(), event.action_id.clone());
            let follower = Follower::begin(Arc::clone(&self.store), of, &mut self.chance, self.over.clone());
            lock(&self.ledger.followers).push(follower);
        }
        let sent = Sent { id: event.id.clone(), planned, is_published: false, calm: None };
        (event, sent)
    }

    async fn publish(&mut self, numbers: std::ops::Range<u64>) {
        let insists = self.manner.insists && self.chance.one_in(2);
        let mut left: Vec<(Event, Sent)> = numbers.map(|n| self.draw(n, insists)).collect();
        while !left.is_empty() {
            let calm = self.ledger.calm();
            let answers = self.broker.publish(left.iter().map(|(event, _)| event.clone()).collect()).await;
            let calm = calm.filter(|calm| Some(*calm) == self.ledger.calm());
            let mut again = Vec::new();
            for ((event, sent), answer) in left.into_iter().zip(answers) {
                match answer {
                    Ok(_) => self.ledger.enter(Sent { is_published: true, calm, ..sent }),
                    Err(error) if !error.is_retryable() => {
                        panic!("a publish fails for good: {}", error.chain())
                    }
                    Err(_) if insists => again.push((event, sent)),
                    Err(_) => self.ledger.enter(sent),
                }
            }
            left = again;
            if !left.is_empty() {
                self.ledger.retried.fetch_add(left.len() as u64, Ordering::SeqCst);
                sleep(Duration::from_millis(20 + self.chance.below(200))).await;
            }
        }
    }
}
