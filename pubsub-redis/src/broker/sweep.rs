//! Removes events that every group has settled.

use std::collections::hash_map::DefaultHasher;
use std::collections::{BTreeMap, HashSet};
use std::hash::{BuildHasher as _, BuildHasherDefault};

use pubsub_core::{Result, Timestamp};

use super::depth::{Head, Heads, heads};
use super::keys::{EntryId, Partition};
use super::known::Known;
use super::page::{Brief, END, page, pages};
use super::scripts::{SET_ASIDE, TRIM};
use super::shared::Shared;
use crate::reply::{fixed, items, number, text};
use crate::script::Request;

/// Most pending entries that are asked for at once.
const MANY_PENDING: usize = 2000;

/// Which events a sweep may remove.
#[derive(Clone, Copy)]
pub(super) enum Which {
    /// Those published, and due, before this ms.
    Old(u64),
    All,
}

impl Which {
    /// The last entry that it looks at.
    fn end(self) -> String {
        match self {
            Self::Old(border) => EntryId::before_ms(border).to_string(),
            Self::All => END.to_owned(),
        }
    }
}

/// What a sweep found.
#[derive(Default)]
pub(super) struct Swept {
    pub(super) removed: u64,
    /// The first entry that was looked at and stays.
    pub(super) oldest: Option<EntryId>,
    /// How much each group has not settled of what was looked at.
    pub(super) unsettled: BTreeMap<String, u64>,
    /// The events that were looked at and stay; `None` where not all were looked at that may be removed.
    pub(super) kept: Option<Ids>,
}

/// Event ids, each as a number of its own: many may stay, and one that is taken for another stays longer.
#[derive(Default)]
pub(super) struct Ids(HashSet<u64>);

impl Ids {
    fn number(id: &str) -> u64 {
        BuildHasherDefault::<DefaultHasher>::default().hash_one(id)
    }

    fn insert(&mut self, id: &str) {
        self.0.insert(Self::number(id));
    }

    pub(super) fn contains(&self, id: &str) -> bool {
        self.0.contains(&Self::number(id))
    }
}

impl Swept {
    /// The group with the most that it has not settled.
    pub(super) fn holding(&self) -> Option<(String, u64)> {
        let most = self.unsettled.iter().max_by_key(|(_, unsettled)| **unsettled)?;
        Some((most.0.clone(), *most.1))
    }
}

/// A group as a sweep sees it.
struct Holder<'k> {
    known: &'k Known,
    head: Option<Head>,
    pending: HashSet<String>,
}

impl Holder<'_> {
    /// Reads which of the entries of a page it has not settled.
    async fn read_pending(&mut self, shared: &Shared, stream: &str, page: &[Brief]) -> Result<()> {
        self.pending.clear();
        let (Some(first), Some(last)) = (page.first(), page.last()) else { return Ok(()) };
        if self.head.is_none_or(|head| head.pending == 0) {
            return Ok(());
        }
        let mut from = first.entry.clone();
        loop {
            let request = Request::new("XPENDING").arg(stream).arg(self.known.name.as_str());
            let request = request.arg(&from).arg(&last.entry).arg(MANY_PENDING);
            let answers = items(shared.commands.one(request, "look what is settled").await?)?;
            let many = answers.len();
            for answer in answers {
                let [id, _, _, _] = fixed::<4>(answer)?;
                let id = text(id)?;
                from = format!("({id}");
                self.pending.insert(id);
            }
            if many < MANY_PENDING {
                return Ok(());
            }
        }
    }

    fn holds(&self, brief: &Brief) -> bool {
        if !brief.is_of(&self.known.noted.patterns, self.known.noted.stage.as_ref()) {
            return false;
        }
        let read = self.head.map(|head| head.read);
        EntryId::parse(&brief.entry) > read || self.pending.contains(&brief.entry)
    }
}

/// What a sweep begins with: where the groups of a partition are, and its first page.
pub(super) type Begin = (Heads, (Vec<Brief>, Option<String>));

/// What sweeps of these partitions begin with, in few round trips.
pub(super) async fn begin(shared: &Shared, partitions: &[Partition], which: Which) -> Result<Vec<Begin>> {
    // What the groups read after this only makes fewer events go.
    let heads = heads(shared, partitions, None).await?;
    let from: Vec<(&str, String)> =
        partitions.iter().map(|partition| (&*partition.events, "0-0".to_owned())).collect();
    Ok(heads.into_iter().zip(pages(shared, &from, &which.end()).await?).collect())
}

/// Removes what of a partition may go. The groups are as they were noted before it was begun.
pub(super) async fn sweep(
    shared: &Shared,
    partition: &Partition,
    all: &[Known],
    (heads, mut page_read): Begin,
    which: Which,
) -> Result<Swept> {
    // All that are noted here, also those that read other partitions.
    let (mut holders, mut noted) = (Vec::new(), 0_usize);
    for known in all {
        let is_here = known.places.iter().any(|place| place.of.n == partition.n);
        noted += usize::from(is_here || known.home.of.n == partition.n);
        if is_here {
            let head = heads.get(known.name.as_str()).copied();
            holders.push(Holder { known, head, pending: HashSet::new() });
        }
    }
    let (mut swept, mut kept) = (Swept::default(), Ids::default());
    loop {
        let (briefs, next) = page_read;
        for holder in &mut holders {
            holder.read_pending(shared, &partition.events, &briefs).await?;
        }
        let (mut free, mut damaged) = (Vec::new(), Vec::new());
        for brief in briefs {
            let id = EntryId::parse(&brief.entry);
            if let Which::Old(_) = which
                && brief.is_damaged()
            {
                damaged.push(brief);
            } else if is_held(&holders, &brief, &mut swept) || is_to_come(&brief, which) {
                swept.oldest = swept.oldest.or(id);
                kept.insert(&brief.id);
            } else {
                free.push(brief);
            }
        }
        set_aside(shared, partition, &damaged).await?;
        let Some(removed) = trim(shared, partition, noted, &free).await? else { break };
        swept.removed += removed;
        match next {
            Some(from) => page_read = page(shared, &partition.events, (&from, &which.end())).await?,
            None => {
                swept.kept = Some(kept);
                break;
            }
        }
    }
    Ok(swept)
}

/// The age of a delayed event counts from when it is due.
fn is_to_come(brief: &Brief, which: Which) -> bool {
    let Which::Old(border) = which else { return false };
    let border = Timestamp::from_micros(i64::try_from(border.saturating_mul(1000)).unwrap_or(i64::MAX));
    brief.due.is_some_and(|due| due >= border)
}

fn is_held(holders: &[Holder<'_>], brief: &Brief, swept: &mut Swept) -> bool {
    let mut held = false;
    for holder in holders.iter().filter(|holder| holder.holds(brief)) {
        held = true;
        *swept.unsettled.entry(holder.known.name.as_str().to_owned()).or_default() += 1;
    }
    held
}

/// `None` where there are other groups by now.
async fn trim(shared: &Shared, partition: &Partition, groups: usize, free: &[Brief]) -> Result<Option<u64>> {
    if free.is_empty() {
        return Ok(Some(0));
    }
    let keys = [&partition.events, &partition.ids, &partition.away, &partition.groups];
    let mut request = TRIM.call(keys.map(String::as_str)).arg(groups);
    for brief in free {
        request.push(&brief.entry);
        request.push(&brief.id);
    }
    let removed = number(shared.commands.one(request, "remove old events").await?)?.unwrap_or(0);
    Ok(u64::try_from(removed).ok())
}

async fn set_aside(shared: &Shared, partition: &Partition, damaged: &[Brief]) -> Result<()> {
    for brief in damaged {
        let id = if brief.id.is_empty() { format!("undecodable-{}", brief.entry) } else { brief.id.clone() };
        let keys = [&partition.events, &partition.dead, &partition.ids];
        let request = SET_ASIDE.call(keys.map(String::as_str)).arg(&brief.entry);
        let request = request.arg("it has no type or no subject").arg(id);
        shared.commands.one(request, "set an event aside").await?;
    }
    Ok(())
}
