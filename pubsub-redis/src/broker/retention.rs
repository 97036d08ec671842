//! Retention: what every group has settled goes once it is old, and sooner where room is needed.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use pubsub_core::{Result, group_dropped};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::dead::{Kept, oldest};
use super::depth::depths;
use super::group::millis;
use super::idle::Idle;
use super::keys::{EntryId, Partition, event_of_claim};
use super::known::{Known, known};
use super::page::{END, page};
use super::scripts::{FORGET, LOCK};
use super::shared::Shared;
use super::sweep::{Ids, Which, begin, sweep};
use crate::reply::{count, fixed, items, number, pairs, text};
use crate::script::Request;

/// Most dead letters that one pass removes.
const STEP_DEAD: usize = 1000;

/// Most claims that one call looks at.
const STEP_CLAIMS: usize = 1000;

/// How long after its work an event may be published again under an id of the library, and is still known.
const REPEATED: Duration = Duration::from_secs(60 * 60);

/// How often the index of first events is looked through.
const INDEX: Duration = Duration::from_secs(60 * 60);

/// How long "full" stands before everything is looked at again, in multiples of what looking took.
const FULL_STANDS: u32 = 5;

/// Looks for what is old, now and then, as long as the broker is there.
pub(super) struct Upkeep(JoinHandle<()>);

impl Upkeep {
    pub(super) fn begin(shared: &Arc<Shared>) -> Self {
        let every = shared.config.upkeep();
        Self(tokio::spawn(keep_up(Arc::downgrade(shared), every)))
    }
}

impl Drop for Upkeep {
    fn drop(&mut self) {
        self.0.abort();
    }
}

async fn keep_up(shared: Weak<Shared>, every: Duration) {
    let (mut indexed, mut idle) = (Instant::now(), Idle::default());
    loop {
        // By chance, so that many processes do not come at once.
        tokio::time::sleep(every.mul_f64(0.75 + 0.5 * fastrand::f64())).await;
        let Some(shared) = shared.upgrade() else { return };
        if shared.is_closed() {
            return;
        }
        let index = indexed.elapsed() >= INDEX;
        if let Err(error) = pass(&shared, every, index, &mut idle).await {
            tracing::debug!(error = %error.chain(), "old events could not be looked for");
        }
        if index {
            indexed = Instant::now();
        }
    }
}

/// What time the server has, in ms since 1970.
async fn server_now(shared: &Shared) -> Result<u64> {
    time(shared.commands.one(Request::new("TIME"), "ask the time").await?)
}

fn time(value: redis::Value) -> Result<u64> {
    let [seconds, micros] = fixed::<2>(value)?;
    Ok(count(seconds)?.saturating_mul(1000).saturating_add(count(micros)? / 1000))
}

/// Those partitions that nobody else has looked at lately, and what time the server has.
async fn lock(shared: &Shared, every: Duration) -> Result<(Vec<Partition>, u64)> {
    let doing = "look for what is old";
    let mut mine: Vec<Partition> =
        (0..shared.partitions().await?).map(|n| shared.keys.partition(n)).collect();
    let pause = millis(every.mul_f64(0.5)).max(1);
    let lock = |partition: &Partition| LOCK.call([&*partition.upkeep]).arg(pause);
    let mut requests: Vec<Request> = mine.iter().map(lock).collect();
    requests.push(Request::new("TIME"));
    let mut answers = shared.commands.all(requests, doing).await?;
    let now = answers.pop().map_or(Ok(redis::Value::Nil), |answer| answer.get(doing))?;
    let mut locked = Vec::with_capacity(answers.len());
    for answer in answers {
        locked.push(count(answer.get(doing)?)? > 0);
    }
    let mut locked = locked.into_iter();
    mine.retain(|_| locked.next() == Some(true));
    Ok((mine, time(now)?))
}

/// Looks at those partitions that nobody else has looked at lately.
async fn pass(shared: &Shared, every: Duration, index: bool, idle: &mut Idle) -> Result<()> {
    let (mine, now) = lock(shared, every).await?;
    if mine.is_empty() {
        return Ok(());
    }
    let is_mine = |n: u16| mine.iter().any(|partition| partition.n == n);
    let mut all = known(shared, None).await?;
    let dropped = drop_unused(shared, &all, now, is_mine).await?;
    all.retain(|known| !dropped.contains(known.name.as_str()));
    let border = now.saturating_sub(millis(shared.config.retention()));
    let (mut oldest, mut held) = (Vec::with_capacity(mine.len()), BTreeMap::<String, u64>::new());
    let mut swept_whole = Vec::with_capacity(mine.len());
    for (partition, begin) in mine.iter().zip(begin(shared, &mine, Which::Old(border)).await?) {
        let swept = sweep(shared, partition, &all, begin, Which::Old(border)).await?;
        if swept.removed > 0 {
            tracing::debug!(
                events = swept.removed,
                "events that every group has settled are older than the retention"
            );
        }
        oldest.push(swept.oldest);
        swept_whole.extend(swept.kept.map(|kept| (partition, kept)));
        for (group, events) in swept.unsettled {
            *held.entry(group).or_default() += events;
        }
    }
    idle.tell(shared, &all, &held).await?;
    // What of a double is not known to its claim is among what was swept, or later than this.
    let repeated = millis(REPEATED.min(shared.config.retention()));
    forget_claims(shared, swept_whole, border.saturating_sub(repeated)).await?;
    forget_marks(shared, &mine, border, &oldest).await?;
    if index {
        for partition in &mine {
            forget_firsts(shared, partition, border).await?;
        }
    }
    if is_mine(0) {
        drop_dead_letters(shared, border).await?;
    }
    Ok(())
}

/// Drops the groups that had no member for their time; answers their names.
async fn drop_unused(
    shared: &Shared,
    all: &[Known],
    now: u64,
    is_mine: impl Fn(u16) -> bool,
) -> Result<HashSet<String>> {
    let since = now.saturating_sub(millis(shared.config.group_retention()));
    let old: Vec<&Known> =
        all.iter().filter(|known| known.noted.made_ms <= since && is_mine(known.home.of.n)).collect();
    let mut dropped = HashSet::new();
    for (known, unused) in old.iter().zip(super::known::unused(shared, &old, since).await?) {
        if !unused {
            continue;
        }
        let unsettled = depths(shared, std::slice::from_ref(*known), None).await?.pop().unwrap_or_default();
        if known.drop_all(shared, Some(since)).await? {
            group_dropped(&known.name, unsettled);
            dropped.insert(known.name.as_str().to_owned());
        }
    }
    Ok(dropped)
}

async fn forget_claims(shared: &Shared, mut left: Vec<(&Partition, Ids)>, border: u64) -> Result<()> {
    let doing = "forget old claims";
    let old = |(of, _): &(&Partition, Ids)| {
        let range = Request::new("ZRANGE").arg(&of.touched).arg("-inf").arg(border).arg("BYSCORE");
        range.arg("LIMIT").arg(0).arg(STEP_CLAIMS)
    };
    while !left.is_empty() {
        let answers = shared.commands.all(left.iter().map(old).collect(), doing).await?;
        let (mut requests, mut more) = (Vec::new(), Vec::new());
        for ((of, kept), answer) in left.into_iter().zip(answers) {
            let names = items(answer.get(doing)?)?;
            if names.is_empty() {
                continue;
            }
            let is_last = names.len() < STEP_CLAIMS;
            let keys = [&of.events, &of.claims, &of.touched, &of.away].map(String::as_str);
            let mut request = FORGET.call(keys).arg(border);
            for name in names {
                let name = text(name)?;
                let is_kept = u8::from(kept.contains(event_of_claim(&name)));
                request.push((name, is_kept));
            }
            requests.push(request);
            if !is_last {
                more.push((of, kept));
            }
        }
        for answer in shared.commands.all(requests, doing).await? {
            answer.get(doing)?;
        }
        left = more;
    }
    Ok(())
}

/// Removes the cancel marks that can cover nothing that is kept; `oldest` are the first entries that stay.
async fn forget_marks(
    shared: &Shared,
    partitions: &[Partition],
    border: u64,
    oldest: &[Option<EntryId>],
) -> Result<()> {
    let doing = "forget old cancels";
    let requests: Vec<Request> =
        partitions.iter().map(|of| Request::new("HGETALL").arg(&of.cancels)).collect();
    let answers = shared.commands.all(requests, doing).await?;
    for ((partition, oldest), answer) in partitions.iter().zip(oldest).zip(answers) {
        let marks = pairs(answer.get(doing)?)?;
        if marks.is_empty() {
            continue;
        }
        let away = items(shared.commands.one(Request::new("HKEYS").arg(&partition.away), doing).await?)?;
        let mut oldest = *oldest;
        for entry in away {
            let id = EntryId::parse(&text(entry)?);
            oldest = [oldest, id].into_iter().flatten().min();
        }
        for (action, mark) in marks {
            let old = EntryId::parse(&mark)
                .is_none_or(|mark| mark.ms < border && oldest.is_none_or(|oldest| mark < oldest));
            if old {
                let request = Request::new("HDEL").arg(&partition.cancels).arg(&action);
                shared.commands.one(request, doing).await?;
            }
        }
    }
    Ok(())
}

/// Removes from the index of first events the actions of which nothing is kept: the next event of such an action is noted
/// again.
async fn forget_firsts(shared: &Shared, partition: &Partition, border: u64) -> Result<()> {
    let doing = "forget the first events of old actions";
    let (mut kept, mut after) = (HashSet::new(), Some("0-0".to_owned()));
    while let Some(from) = after {
        let (briefs, next) = page(shared, &partition.events, (&from, END)).await?;
        kept.extend(
            briefs.iter().filter_map(|brief| brief.action().map(|action| action.as_str().to_owned())),
        );
        after = next;
    }
    let mut cursor = 0_i64;
    loop {
        let request = Request::new("HSCAN").arg(&partition.first).arg(cursor).arg("COUNT").arg(1000);
        let [next, page] = fixed::<2>(shared.commands.one(request, doing).await?)?;
        for (action, first) in pairs(page)? {
            let old = !action.is_empty() && EntryId::parse(&first).is_none_or(|first| first.ms < border);
            if old && !kept.contains(&action) {
                let request = Request::new("HDEL").arg(&partition.first).arg(&action);
                shared.commands.one(request, doing).await?;
            }
        }
        cursor = number(next)?.unwrap_or(0);
        if cursor == 0 {
            return Ok(());
        }
    }
}

/// Removes the dead letters that are too old, and some of those that are too many.
async fn drop_dead_letters(shared: &Shared, border: u64) -> Result<()> {
    let doing = "remove old dead letters";
    let partitions: Vec<Partition> =
        (0..shared.partitions().await?).map(|n| shared.keys.partition(n)).collect();
    let both = |partition: &Partition| {
        let trim = Request::new("XTRIM").arg(&partition.dead).arg("MINID").arg(border);
        [trim, Request::new("XLEN").arg(&partition.dead)]
    };
    let requests: Vec<Request> = partitions.iter().flat_map(both).collect();
    let mut answers = shared.commands.all(requests, doing).await?.into_iter();
    let (mut too_old, mut many) = (0, 0);
    while let (Some(trimmed), Some(left)) = (answers.next(), answers.next()) {
        too_old += count(trimmed.get(doing)?)?;
        many += count(left.get(doing)?)?;
    }
    let excess = many.saturating_sub(shared.config.max_dead_letters());
    let excess = usize::try_from(excess).unwrap_or(STEP_DEAD).min(STEP_DEAD);
    if excess > 0 {
        let remove =
            |kept: &Kept| Request::new("XDEL").arg(shared.keys.partition(kept.n).dead).arg(&kept.entry.id);
        let requests: Vec<Request> = oldest(shared, None, excess).await?.iter().map(remove).collect();
        for answer in shared.commands.all(requests, doing).await? {
            answer.get(doing)?;
        }
    }
    if too_old > 0 || excess > 0 {
        tracing::warn!(too_old, too_many = excess, "dead letters were removed by retention");
    }
    Ok(())
}

/// The group that holds most back, and how much.
type Holding = Option<(String, u64)>;

/// Partitions in which there was no room, up to when that stands, and who holds most back there.
#[derive(Default)]
pub(super) struct Full(Mutex<HashMap<u16, (Instant, Holding)>>);

impl Full {
    fn stands(&self, n: u16) -> Option<Holding> {
        let full = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        full.get(&n).filter(|(until, _)| Instant::now() < *until).map(|(_, holding)| holding.clone())
    }

    fn note(&self, n: u16, until: Instant, holding: Holding) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(n, (until, holding));
    }
}

/// Removes from a partition what every group has settled; answers who holds most back.
pub(super) async fn make_room(shared: &Shared, n: u16) -> Result<Holding> {
    if let Some(holding) = shared.full.stands(n) {
        return Ok(holding);
    }
    let began = Instant::now();
    let mut all = known(shared, None).await?;
    let dropped = drop_unused(shared, &all, server_now(shared).await?, |_| true).await?;
    all.retain(|known| !dropped.contains(known.name.as_str()));
    let partition = [shared.keys.partition(n)];
    let [of] = &partition;
    let begin = begin(shared, &partition, Which::All).await?.pop().unwrap_or_default();
    let swept = sweep(shared, of, &all, begin, Which::All).await?;
    if swept.removed > 0 {
        tracing::warn!(
            events = swept.removed,
            "events that no group waits for were removed before their time, to make room for new ones"
        );
    }
    let holding = swept.holding();
    if swept.removed == 0 {
        shared.full.note(n, Instant::now() + began.elapsed() * FULL_STANDS, holding.clone());
    }
    Ok(holding)
}
