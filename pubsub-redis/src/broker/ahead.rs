//! A look that is under way while what the one before it brought is sorted and handed out.
//!
//! So the server, the driver and whoever handles events work at the same time. What such a look leases lies unkept until it is
//! asked for: so it is begun only for those who ask quickly, and is given back where nobody asks for it.

use std::sync::{Arc, MutexGuard, PoisonError};
use std::task::Poll;
use std::time::Duration;

use futures::future::BoxFuture;
use pubsub_core::{Error, Result};
use tokio::sync::{Mutex, Notify};
use tokio::time::{Instant, sleep_until};

use super::member::Member;
use super::take::Look;
use super::taker::told;

/// Where fewer are taken at once, asking twice as often costs more than what is done meanwhile.
const FEWEST: usize = 32;

/// Most that one such look asks for: more at a time leaves the processor's cache.
const MOST: usize = 250;

/// Who needs longer for a batch does not feel how long a look takes.
const QUICK: Duration = Duration::from_millis(100);

/// How long what was looked for may lie.
const MAY_LIE: Duration = Duration::from_secs(1);

/// How long nothing is looked for ahead after nobody had asked for it.
const RESTS: Duration = Duration::from_secs(60);

/// A look at one place.
pub(super) struct Asked {
    pub(super) at: usize,
    pub(super) since: Instant,
    /// Without a script.
    pub(super) plainly: bool,
    pub(super) call: BoxFuture<'static, Result<Look>>,
}

/// The look of a member that is ahead, where there is one.
pub(super) struct Ahead {
    member: Arc<Member>,
    state: Mutex<State>,
    begun: Notify,
    /// Nothing is looked for ahead until then.
    rests: std::sync::Mutex<Option<Instant>>,
}

#[derive(Default)]
struct State {
    asked: Option<Asked>,
    /// Why a look failed that nobody had asked for.
    failure: Option<Error>,
    is_watched: bool,
}

impl Ahead {
    pub(super) fn new(member: &Arc<Member>) -> Arc<Self> {
        let (state, rests) = (Mutex::default(), std::sync::Mutex::default());
        Arc::new(Self { member: Arc::clone(member), state, begun: Notify::new(), rests })
    }

    /// How many each look asks for, where a consumer that needed so long for the last batch is to have the next one looked for
    /// ahead: all that is taken in advance is at most the prefetch.
    pub(super) fn part(&self, needed: Duration) -> Option<usize> {
        let prefetch = self.member.on.prefetch();
        let is_quick = needed < QUICK.min(self.member.group.lease / 8);
        let is_for =
            is_quick && prefetch >= FEWEST && self.rests().is_none_or(|until| until < Instant::now());
        is_for.then(|| MOST.min(prefetch / 2))
    }

    fn rests(&self) -> MutexGuard<'_, Option<Instant>> {
        self.rests.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How long what was looked for may lie. Its leases are kept from when it is asked for.
    fn may_lie(&self) -> Duration {
        MAY_LIE.min(self.member.group.lease / 4)
    }

    /// The look that was begun last; waits for what is just given back.
    ///
    /// # Errors
    /// Where a look failed that nobody had asked for.
    pub(super) async fn take(&self) -> Result<Option<Asked>> {
        let mut state = self.state.lock().await;
        match state.failure.take() {
            Some(failure) => Err(failure),
            None => Ok(state.asked.take()),
        }
    }

    /// Whether there is something to [`take`](Self::take).
    pub(super) async fn is_begun(&self) -> bool {
        let state = self.state.lock().await;
        state.asked.is_some() || state.failure.is_some()
    }

    /// Sends off a look.
    pub(super) async fn begin(self: &Arc<Self>, mut asked: Asked) {
        let mut state = self.state.lock().await;
        if !state.is_watched {
            state.is_watched = true;
            self.member.shared.chores.begin(Arc::clone(self).watch());
        }
        if let Poll::Ready(answer) = futures::poll!(&mut asked.call) {
            asked.call = Box::pin(std::future::ready(answer));
        }
        state.asked = Some(asked);
        drop(state);
        self.begun.notify_one();
    }

    /// Gives back what lies for too long, until the stream has ended.
    async fn watch(self: Arc<Self>) {
        let (member, may_lie) = (Arc::clone(&self.member), self.may_lie());
        let (mut stopped, mut closing) = (member.stopped.subscribe(), member.shared.closing());
        loop {
            let since = self.state.lock().await.asked.as_ref().map(|asked| asked.since);
            let late = async {
                match since {
                    Some(since) => sleep_until(since + may_lie).await,
                    None => self.begun.notified().await,
                }
            };
            tokio::select! {
                () = late => {}
                () = told(&mut stopped) => break,
                () = told(&mut closing) => break,
            }
            let Some(late) = Instant::now().checked_sub(may_lie) else { continue };
            self.give_back(late).await;
        }
        self.give_back(Instant::now()).await;
    }

    /// Gives back what a look brings that was begun up to `late`.
    pub(super) async fn give_back(&self, late: Instant) {
        // Until all is given back, nobody may ask for what the server has leased without this member's knowledge.
        let mut state = self.state.lock().await;
        let Some(asked) = state.asked.take_if(|asked| asked.since <= late) else { return };
        *self.rests() = Some(Instant::now() + RESTS);
        let given = match asked.call.await {
            Ok(look) => self.member.sort(look.raws, asked.since).await.map(drop),
            Err(error) => Err(error),
        };
        state.failure = given.err();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use futures::StreamExt as _;
    use pubsub_core::{
        ActionId, BrokerAdmin as _, Error, ErrorKind, Event, EventType, LeaseId, Leased, Leases as _,
        Publisher as _, Scope, Settlement, Stage, Subscriber as _, Subscription,
    };
    use services::{Redis, RedisOptions};
    use tokio::time::Instant;

    use super::super::leases::Keeper;
    use super::super::taker::Taker;
    use super::{Ahead, Asked, FEWEST, QUICK};
    use crate::{RedisBroker, RedisBrokerConfig, RedisConfig};

    /// Of one action, so that all are in one partition.
    const MANY: usize = 10 * FEWEST;

    async fn filled(redis: &Redis) -> RedisBroker {
        let broker =
            RedisBroker::connect(RedisBrokerConfig::new(RedisConfig::new(redis.url()))).await.unwrap();
        let event = |n: usize| {
            let (kind, action) = (EventType::new("t").unwrap(), ActionId::new("a").unwrap());
            Event::new(kind, action).with_payload(n.to_string().parse().unwrap())
        };
        assert!(broker.publish((0..MANY).map(event).collect()).await.iter().all(Result::is_ok));
        broker
    }

    fn on() -> Subscription {
        let on = Subscription::for_stage(Stage::new("s").unwrap(), ["t:a".parse().unwrap()]).unwrap();
        on.with_prefetch(2 * FEWEST)
    }

    async fn member(broker: &RedisBroker) -> (Arc<Ahead>, Box<Taker>, Arc<Keeper>) {
        let on = on();
        let partitions = broker.shared.partitions().await.unwrap();
        let member = broker.join(on.group().unwrap().clone(), on, partitions).await.unwrap();
        let ahead = Ahead::new(&member);
        (Arc::clone(&ahead), Box::new(Taker::new(&member, &ahead)), Keeper::new(&member))
    }

    async fn found(taker: &mut Taker, needed: Duration) -> Vec<Leased> {
        taker.needed = needed;
        std::mem::take(&mut taker.find().await.unwrap().leased)
    }

    fn numbers(found: &[Leased]) -> Vec<usize> {
        found.iter().map(|leased| leased.event.payload.as_str().parse().unwrap()).collect()
    }

    async fn leased(broker: &RedisBroker) -> u64 {
        broker.groups(&Scope::default()).await.unwrap().iter().map(|group| group.depth.leased).sum()
    }

    async fn acknowledge(keeper: &Keeper, found: Vec<Leased>) {
        let leases: Vec<LeaseId> = found.into_iter().filter_map(|leased| leased.lease).collect();
        let settled = keeper.settle(leases.into_iter().map(|lease| (lease, Settlement::Ack)).collect()).await;
        assert!(settled.iter().all(Result::is_ok));
    }

    #[tokio::test(flavor = "multi_thread")]
    #[ignore = "needs Redis"]
    async fn all_that_is_taken_in_advance_is_the_prefetch_and_comes_in_order() {
        let redis = Redis::start(&RedisOptions::new()).unwrap();
        let broker = filled(&redis).await;
        let (ahead, mut taker, keeper) = member(&broker).await;
        let mut all = Vec::new();
        while all.len() < MANY {
            let found = found(&mut taker, Duration::ZERO).await;
            let is_last = all.len() + found.len() == MANY;
            assert!(is_last || (ahead.is_begun().await && found.len() == FEWEST), "{}", found.len());
            all.extend(numbers(&found));
            assert!(leased(&broker).await <= 2 * FEWEST as u64);
            acknowledge(&keeper, found).await;
        }
        assert_eq!(all, (0..MANY).collect::<Vec<_>>());
    }

    #[tokio::test(flavor = "multi_thread")]
    #[ignore = "needs Redis"]
    async fn nothing_is_looked_for_ahead_where_the_consumer_is_slow() {
        let redis = Redis::start(&RedisOptions::new()).unwrap();
        let broker = filled(&redis).await;
        let (ahead, mut taker, _keeper) = member(&broker).await;
        assert_eq!(found(&mut taker, QUICK).await.len(), 2 * FEWEST);
        assert!(!ahead.is_begun().await);
    }

    #[tokio::test(flavor = "multi_thread")]
    #[ignore = "needs Redis"]
    async fn what_nobody_asks_for_is_given_back_and_comes_again_in_order() {
        let redis = Redis::start(&RedisOptions::new()).unwrap();
        let broker = filled(&redis).await;
        let (ahead, mut taker, keeper) = member(&broker).await;
        let first = found(&mut taker, Duration::ZERO).await;
        assert!(ahead.is_begun().await);
        while ahead.is_begun().await || leased(&broker).await > FEWEST as u64 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let mut all = numbers(&first);
        acknowledge(&keeper, first).await;
        while all.len() < MANY {
            let found = found(&mut taker, Duration::ZERO).await;
            assert!(!ahead.is_begun().await, "it rests");
            all.extend(numbers(&found));
            acknowledge(&keeper, found).await;
        }
        assert_eq!(all, (0..MANY).collect::<Vec<_>>());
    }

    #[tokio::test(flavor = "multi_thread")]
    #[ignore = "needs Redis"]
    async fn a_broker_that_is_closed_has_given_back_what_was_looked_for_ahead() {
        let redis = Redis::start(&RedisOptions::new()).unwrap();
        let broker = filled(&redis).await;
        let (_ahead, mut taker, _keeper) = member(&broker).await;
        assert_eq!(found(&mut taker, Duration::ZERO).await.len(), FEWEST);
        broker.close().await.unwrap();
        let other =
            RedisBroker::connect(RedisBrokerConfig::new(RedisConfig::new(redis.url()))).await.unwrap();
        assert_eq!(leased(&other).await, FEWEST as u64);
    }

    #[tokio::test(flavor = "multi_thread")]
    #[ignore = "needs Redis"]
    async fn what_a_look_ahead_took_whose_answer_was_lost_is_asked_for() {
        let redis = Redis::start(&RedisOptions::new()).unwrap();
        let broker = filled(&redis).await;
        let (ahead, mut taker, keeper) = member(&broker).await;
        let asking = Arc::clone(&taker.member);
        let call = Box::pin(async move {
            asking.look(0, FEWEST).await?;
            Err(Error::new(ErrorKind::Unavailable, "the answer was lost"))
        });
        ahead.begin(Asked { at: 0, since: Instant::now(), plainly: false, call }).await;
        ahead.give_back(Instant::now()).await;
        assert_eq!(leased(&broker).await, FEWEST as u64);
        assert_eq!(taker.find().await.err().unwrap().kind(), ErrorKind::Unavailable);
        let mut all = Vec::new();
        while all.len() < MANY {
            let found = found(&mut taker, Duration::ZERO).await;
            all.extend(numbers(&found));
            acknowledge(&keeper, found).await;
        }
        assert_eq!(all, (0..MANY).collect::<Vec<_>>());
    }

    #[tokio::test(flavor = "multi_thread")]
    #[ignore = "needs Redis"]
    async fn a_stream_that_is_dropped_gives_back_what_it_did_not_hand_out() {
        let redis = Redis::start(&RedisOptions::new()).unwrap();
        let broker = filled(&redis).await;
        let subscribed = broker.subscribe(on()).await.unwrap();
        let mut entries = subscribed.entries;
        for _ in 0..=2 * FEWEST {
            entries.next().await.unwrap().unwrap();
        }
        drop(entries);
        while leased(&broker).await > 2 * FEWEST as u64 + 1 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        assert_eq!(leased(&broker).await, 2 * FEWEST as u64 + 1);
    }
}
