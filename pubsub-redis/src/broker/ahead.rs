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

use super::batch::Raw;
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

/// How long what a read brought over the prefetch may lie: it is for others where this consumer is not quick any more.
const LEFT_MAY_LIE: Duration = Duration::from_millis(200);

/// How long nothing is looked for ahead after nobody had asked for it.
const RESTS: Duration = Duration::from_secs(60);

/// A look.
pub(super) struct Asked {
    /// At one place; `None` for what a read of several brought over the prefetch.
    pub(super) at: Option<usize>,
    /// Since when its leases count.
    pub(super) since: Instant,
    /// When it is given back, where nobody has asked for it by then.
    lies_until: Instant,
    /// Without a script.
    pub(super) plainly: bool,
    pub(super) call: BoxFuture<'static, Result<Look>>,
}

impl Asked {
    /// A look at one place, of a member whose leases are so long.
    pub(super) fn new(
        (at, plainly): (usize, bool),
        lease: Duration,
        call: BoxFuture<'static, Result<Look>>,
    ) -> Self {
        let since = Instant::now();
        // Its leases are kept from when it is asked for.
        Self { at: Some(at), since, lies_until: since + MAY_LIE.min(lease / 4), plainly, call }
    }

    /// What a read brought over the prefetch.
    pub(super) fn left(raws: Vec<Raw>, since: Instant) -> Self {
        let look = Look { raws, ..Look::default() };
        let (lies_until, call) = (Instant::now() + LEFT_MAY_LIE, Box::pin(std::future::ready(Ok(look))));
        Self { at: None, since, lies_until, plainly: false, call }
    }
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
        (prefetch >= FEWEST && self.is_for(needed)).then(|| MOST.min(prefetch / 2))
    }

    /// Whether a consumer that needed so long for the last batch gets what is taken in advance. Of what a read brought over
    /// the prefetch: giving it back and looking for it again takes longer than a quick consumer does.
    pub(super) fn is_for(&self, needed: Duration) -> bool {
        needed < QUICK.min(self.member.group.lease / 8)
            && self.rests().is_none_or(|until| until < Instant::now())
    }

    fn rests(&self) -> MutexGuard<'_, Option<Instant>> {
        self.rests.lock().unwrap_or_else(PoisonError::into_inner)
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
        let member = Arc::clone(&self.member);
        let (mut stopped, mut closing) = (member.stopped.subscribe(), member.shared.closing());
        loop {
            let until = self.state.lock().await.asked.as_ref().map(|asked| asked.lies_until);
            let late = async {
                match until {
                    Some(until) => sleep_until(until).await,
                    None => self.begun.notified().await,
                }
            };
            tokio::select! {
                () = late => {}
                () = told(&mut stopped) => break,
                () = told(&mut closing) => break,
            }
            self.give_back(|asked| asked.lies_until <= Instant::now()).await;
        }
        self.give_back(|_| true).await;
    }

    /// Gives back what a look brings, where it is such a one.
    pub(super) async fn give_back(&self, is_such: impl FnOnce(&Asked) -> bool) {
        // Until all is given back, nobody may ask for what the server has leased without this member's knowledge.
        let mut state = self.state.lock().await;
        let Some(asked) = state.asked.take_if(|asked| is_such(asked)) else { return };
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
        member_on(broker, on()).await
    }

    async fn member_on(broker: &RedisBroker, on: Subscription) -> (Arc<Ahead>, Box<Taker>, Arc<Keeper>) {
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
        ahead.begin(Asked::new((0, false), Duration::from_secs(30), call)).await;
        ahead.give_back(|_| true).await;
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

    /// Of a member that takes one at a time and waits at more than one partition, in which something is.
    async fn waiting(redis: &Redis) -> (RedisBroker, Arc<Ahead>, Box<Taker>) {
        let broker =
            RedisBroker::connect(RedisBrokerConfig::new(RedisConfig::new(redis.url()))).await.unwrap();
        let on = Subscription::for_stage(Stage::new("s").unwrap(), ["t:*".parse().unwrap()]).unwrap();
        let (ahead, mut taker, _keeper) = member_on(&broker, on).await;
        assert!(found(&mut taker, Duration::ZERO).await.is_empty(), "nothing is there yet");
        let event = |n: usize| {
            let (kind, action) = (EventType::new("t").unwrap(), ActionId::new(format!("a{n}")).unwrap());
            Event::new(kind, action).with_payload(n.to_string().parse().unwrap())
        };
        assert!(broker.publish((0..FEWEST).map(event).collect()).await.iter().all(Result::is_ok));
        (broker, ahead, taker)
    }

    #[tokio::test(flavor = "multi_thread")]
    #[ignore = "needs Redis"]
    async fn what_a_read_brings_over_the_prefetch_is_for_who_asks_at_once() {
        let redis = Redis::start(&RedisOptions::new()).unwrap();
        let (broker, ahead, mut taker) = waiting(&redis).await;
        let mut all = Vec::new();
        while all.len() < FEWEST {
            let found = found(&mut taker, Duration::ZERO).await;
            assert!(!all.is_empty() || ahead.is_begun().await, "one came alone");
            assert!(found.iter().all(|leased| leased.lease.as_ref().unwrap().count == 1), "given back");
            all.extend(numbers(&found));
        }
        all.sort_unstable();
        assert_eq!(all, (0..FEWEST).collect::<Vec<_>>());
        assert_eq!(leased(&broker).await, FEWEST as u64);
    }

    #[tokio::test(flavor = "multi_thread")]
    #[ignore = "needs Redis"]
    async fn what_a_read_brings_over_the_prefetch_is_for_others_where_the_consumer_is_slow() {
        let redis = Redis::start(&RedisOptions::new()).unwrap();
        let (broker, ahead, mut taker) = waiting(&redis).await;
        assert_eq!(found(&mut taker, QUICK).await.len(), 1);
        assert!(!ahead.is_begun().await);
        assert_eq!(leased(&broker).await, 1);
    }

    #[tokio::test(flavor = "multi_thread")]
    #[ignore = "needs Redis"]
    async fn what_a_read_brought_over_the_prefetch_is_soon_given_back() {
        let redis = Redis::start(&RedisOptions::new()).unwrap();
        let (broker, ahead, mut taker) = waiting(&redis).await;
        assert_eq!(found(&mut taker, Duration::ZERO).await.len(), 1);
        assert!(ahead.is_begun().await);
        while leased(&broker).await > 1 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        assert!(!ahead.is_begun().await);
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
