//! Retention: what every group has settled goes once it is old, and sooner where room is needed.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use pubsub_core::{Result, group_dropped};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::dead::oldest;
use super::depth::depths;
use super::group::millis;
use super::keys::{EntryId, Partition};
use super::known::known;
use super::page::page;
use super::scripts::FORGET;
use super::shared::Shared;
use super::sweep::{Which, sweep};
use crate::reply::{count, fixed, items, number, pairs, text};
use crate::script::Request;

/// Most dead letters that one pass removes.
const STEP_DEAD: usize = 1000;

/// Most claims that one call looks at.
const STEP_CLAIMS: u64 = 1000;

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
    let mut indexed = Instant::now();
    loop {
        // By chance, so that many processes do not come at once.
        tokio::time::sleep(every.mul_f64(0.75 + 0.5 * fastrand::f64())).await;
        let Some(shared) = shared.upgrade() else { return };
        if shared.is_closed() {
            return;
        }
        let index = indexed.elapsed() >= INDEX;
        if let Err(error) = pass(&shared, every, index).await {
            tracing::debug!(error = %error.chain(), "old events could not be looked for");
        }
        if index {
            indexed = Instant::now();
        }
    }
}

/// What time the server has, in ms since 1970.
async fn server_now(shared: &Shared) -> Result<u64> {
    let [seconds, micros] = fixed::<2>(shared.commands.one(Request::new("TIME"), "ask the time").await?)?;
    Ok(count(seconds)?.saturating_mul(1000).saturating_add(count(micros)? / 1000))
}

/// Looks at those partitions that nobody else has looked at lately.
async fn pass(shared: &Shared, every: Duration, index: bool) -> Result<()> {
    let doing = "look for what is old";
    let partitions: Vec<Partition> =
        (0..shared.partitions().await?).map(|n| shared.keys.partition(n)).collect();
    let lock = |partition: &Partition| {
        let pause = millis(every.mul_f64(0.5)).max(1);
        Request::new("SET").arg(&partition.upkeep).arg(1).arg("NX").arg("PX").arg(pause)
    };
    let requests: Vec<Request> = partitions.iter().map(lock).collect();
    let mut mine = Vec::new();
    for (partition, answer) in partitions.iter().zip(shared.commands.all(&requests, doing).await?) {
        if !matches!(answer.get(doing)?, redis::Value::Nil) {
            mine.push(partition);
        }
    }
    if mine.is_empty() {
        return Ok(());
    }
    let now = server_now(shared).await?;
    let is_mine = |n: u16| mine.iter().any(|partition| partition.n == n);
    drop_unused(shared, now, is_mine).await?;
    let border = now.saturating_sub(millis(shared.config.retention()));
    for partition in &mine {
        let swept = sweep(shared, partition, Which::Old(border)).await?;
        if swept.removed > 0 {
            tracing::debug!(
                events = swept.removed,
                "events that every group has settled are older than the retention"
            );
        }
        forget_claims(shared, partition, border).await?;
        forget_marks(shared, partition, border, swept.oldest).await?;
        if index {
            forget_firsts(shared, partition, border).await?;
        }
    }
    if is_mine(0) {
        drop_dead_letters(shared, border).await?;
    }
    Ok(())
}

async fn drop_unused(shared: &Shared, now: u64, is_mine: impl Fn(u16) -> bool) -> Result<()> {
    let since = now.saturating_sub(millis(shared.config.group_retention()));
    for known in known(shared, None).await? {
        if known.noted.made_ms > since || !is_mine(known.home.of.n) {
            continue;
        }
        if !known.is_unused(shared, since).await? {
            continue;
        }
        let unsettled = depths(shared, std::slice::from_ref(&known), None).await?.pop().unwrap_or_default();
        if known.drop_all(shared, Some(since)).await? {
            group_dropped(&known.name, unsettled);
        }
    }
    Ok(())
}

async fn forget_claims(shared: &Shared, partition: &Partition, border: u64) -> Result<()> {
    let of = partition;
    let keys = [&of.events, &of.claims, &of.touched, &of.away, &of.cancels].map(String::as_str);
    loop {
        let request = FORGET.call(keys).arg(border).arg(STEP_CLAIMS);
        if count(shared.commands.one(request, "forget old claims").await?)? < STEP_CLAIMS {
            return Ok(());
        }
    }
}

/// Removes the cancel marks that can cover nothing that is kept.
async fn forget_marks(
    shared: &Shared,
    partition: &Partition,
    border: u64,
    oldest: Option<EntryId>,
) -> Result<()> {
    let doing = "forget old cancels";
    let marks = pairs(shared.commands.one(Request::new("HGETALL").arg(&partition.cancels), doing).await?)?;
    if marks.is_empty() {
        return Ok(());
    }
    let away = items(shared.commands.one(Request::new("HKEYS").arg(&partition.away), doing).await?)?;
    let mut oldest = oldest;
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
    Ok(())
}

/// Removes from the index of first events the actions of which nothing is kept: the next event of such an action is noted
/// again.
async fn forget_firsts(shared: &Shared, partition: &Partition, border: u64) -> Result<()> {
    let doing = "forget the first events of old actions";
    let (mut kept, mut after) = (HashSet::new(), Some("0-0".to_owned()));
    while let Some(from) = after {
        let (briefs, next) = page(shared, &partition.events, &from).await?;
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

/// Removes some dead letters that are too old or too many.
async fn drop_dead_letters(shared: &Shared, border: u64) -> Result<()> {
    let doing = "remove old dead letters";
    let partitions: Vec<Partition> =
        (0..shared.partitions().await?).map(|n| shared.keys.partition(n)).collect();
    let requests: Vec<Request> =
        partitions.iter().map(|partition| Request::new("XLEN").arg(&partition.dead)).collect();
    let mut many = 0;
    for answer in shared.commands.all(&requests, doing).await? {
        many += count(answer.get(doing)?)?;
    }
    if many == 0 {
        return Ok(());
    }
    let excess = usize::try_from(many.saturating_sub(shared.config.max_dead_letters())).unwrap_or(STEP_DEAD);
    let (mut too_many, mut too_old) = (0_usize, 0_usize);
    let mut requests = Vec::new();
    for kept in oldest(shared, None, STEP_DEAD.max(1)).await? {
        if too_many < excess {
            too_many += 1;
        } else if kept.ms() < border {
            too_old += 1;
        } else {
            break;
        }
        requests.push(Request::new("XDEL").arg(shared.keys.partition(kept.n).dead).arg(&kept.entry.id));
    }
    for answer in shared.commands.all(&requests, doing).await? {
        answer.get(doing)?;
    }
    if too_many + too_old > 0 {
        tracing::warn!(too_old, too_many, "dead letters were removed by retention");
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
    drop_unused(shared, server_now(shared).await?, |_| true).await?;
    let swept = sweep(shared, &shared.keys.partition(n), Which::All).await?;
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
