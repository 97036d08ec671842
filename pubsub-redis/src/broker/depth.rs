//! How much each group has to do.

use std::collections::{BTreeMap, HashMap};

use pubsub_core::{ActionId, Depth, Error, ErrorKind, GroupInfo, GroupName, Result, Scope, Timestamp};

use super::group::can_match;
use super::keys::{EntryId, Partition, Place, partition_of};
use super::known::{Known, known, known_of};
use super::page::{Brief, END, page, pages};
use super::scripts::{BACK, HEADS, OF_ACTION};
use super::shared::Shared;
use crate::reply::{count, fixed, items, text};
use crate::script::Request;

/// Where a group is in the events of a partition.
#[derive(Clone, Copy, Debug)]
pub(super) struct Head {
    /// The last entry that it read.
    pub(super) read: EntryId,
    pub(super) pending: u64,
}

/// Where groups are, by their names.
pub(super) type Heads = HashMap<String, Head>;

/// Where the groups of each partition are, or the one of this name.
pub(super) async fn heads(
    shared: &Shared,
    partitions: &[Partition],
    only: Option<&GroupName>,
) -> Result<Vec<Heads>> {
    let doing = "look where the groups are";
    let name = only.map_or("", GroupName::as_str);
    let requests: Vec<Request> =
        partitions.iter().map(|partition| HEADS.call([&*partition.events]).arg(name)).collect();
    let mut all = Vec::with_capacity(partitions.len());
    for answer in shared.commands.all(requests, doing).await? {
        let mut heads = Heads::new();
        for head in items(answer.get(doing)?)? {
            let [name, read, pending] = fixed::<3>(head)?;
            if let Some(read) = EntryId::parse(&text(read)?) {
                heads.insert(text(name)?, Head { read, pending: count(pending)? });
            }
        }
        all.push(heads);
    }
    Ok(all)
}

/// A group in one partition that it reads.
struct Reader<'k> {
    /// Which of those that are asked about.
    index: usize,
    known: &'k Known,
    place: &'k Place,
    head: Option<Head>,
}

impl Reader<'_> {
    fn is_of(&self, brief: &Brief) -> bool {
        brief.is_of(&self.known.noted.patterns, self.known.noted.stage.as_ref())
    }
}

/// How much each of these groups has to do, of this action or in all.
pub(super) async fn depths(shared: &Shared, all: &[Known], action: Option<&ActionId>) -> Result<Vec<Depth>> {
    let partitions = shared.partitions().await?;
    let only = action.map(|action| partition_of(action, partitions));
    let is_asked = |place: &&Place| only.is_none_or(|only| only == place.of.n);
    let mut by_partition: BTreeMap<u16, Vec<Reader<'_>>> = BTreeMap::new();
    for (index, known) in all.iter().enumerate() {
        for place in known.places.iter().filter(is_asked) {
            by_partition.entry(place.of.n).or_default().push(Reader { index, known, place, head: None });
        }
    }
    let only = if let [known] = all { Some(&known.name) } else { None };
    let read: Vec<Partition> = by_partition.keys().map(|n| shared.keys.partition(*n)).collect();
    let heads = heads(shared, &read, only).await?;
    for (readers, heads) in by_partition.values_mut().zip(&heads) {
        for reader in readers {
            reader.head = heads.get(reader.known.name.as_str()).copied();
        }
    }
    let mut depths = vec![Depth::default(); all.len()];
    let by_partition: Vec<(Partition, Vec<Reader<'_>>)> =
        read.into_iter().zip(by_partition.into_values()).collect();
    unread(shared, &by_partition, action, &mut depths).await?;
    let readers: Vec<Reader<'_>> = by_partition.into_iter().flat_map(|(_, readers)| readers).collect();
    match action {
        None => back(shared, &readers, &mut depths).await?,
        Some(action) => of_action(shared, &readers, action, &mut depths).await?,
    }
    Ok(depths)
}

/// Counts what of the events the groups have not read.
async fn unread(
    shared: &Shared,
    by_partition: &[(Partition, Vec<Reader<'_>>)],
    action: Option<&ActionId>,
    depths: &mut [Depth],
) -> Result<()> {
    let now = Timestamp::now();
    let behind = |readers: &[Reader<'_>]| {
        readers
            .iter()
            .filter_map(|reader| reader.head)
            .map(|head| head.read)
            .min()
            .map(|read| read.to_string())
    };
    let from: Vec<(&str, String)> = by_partition
        .iter()
        .filter_map(|(partition, readers)| Some((&*partition.events, behind(readers)?)))
        .collect();
    let with_some = by_partition.iter().filter(|(_, readers)| behind(readers).is_some());
    for ((partition, readers), first) in with_some.zip(pages(shared, &from, END).await?) {
        let (mut briefs, mut after) = first;
        loop {
            for brief in &briefs {
                if action.is_none_or(|action| brief.action() == Some(action)) {
                    count_unread(brief, readers, now, depths);
                }
            }
            let Some(from) = after else { break };
            (briefs, after) = page(shared, &partition.events, (&from, END)).await?;
        }
    }
    Ok(())
}

fn count_unread(brief: &Brief, readers: &[Reader<'_>], now: Timestamp, depths: &mut [Depth]) {
    let Some(id) = EntryId::parse(&brief.entry) else { return };
    for reader in readers.iter().filter(|reader| reader.head.is_some_and(|head| id > head.read)) {
        let Some(depth) = depths.get_mut(reader.index).filter(|_| reader.is_of(brief)) else { continue };
        let is_later = brief.due.is_some_and(|due| due > now);
        *if is_later { &mut depth.delayed } else { &mut depth.waiting } += 1;
    }
}

/// Counts what is pending, what came back and what is to come later.
async fn back(shared: &Shared, readers: &[Reader<'_>], depths: &mut [Depth]) -> Result<()> {
    let doing = "count what came back";
    let request = |reader: &Reader<'_>| {
        BACK.call([&*reader.place.again, &*reader.place.due]).arg(reader.known.name.as_str())
    };
    let requests: Vec<Request> = readers.iter().map(request).collect();
    for (reader, answer) in readers.iter().zip(shared.commands.all(requests, doing).await?) {
        let [read, pending, ready, later] = fixed::<4>(answer.get(doing)?)?;
        let Some(depth) = depths.get_mut(reader.index) else { continue };
        depth.leased += count(pending)?;
        depth.waiting += count(ready)?;
        depth.delayed += count(later)?;
        // What is another's may be pending for a moment, until it is passed over.
        let mut after = reader.head.filter(|head| head.pending > 0).map(|_| "0-0".to_owned());
        while let Some(from) = after {
            let of = (&*reader.place.of.events, reader.known.name.as_str());
            let (briefs, next) = super::page::pending(shared, of, &from).await?;
            let own = briefs.iter().filter(|brief| reader.is_of(brief)).count();
            depth.leased += u64::try_from(own).unwrap_or(0);
            after = next;
        }
        let mut after = Some(text(read)?).filter(|read| !read.is_empty());
        while let Some(from) = after {
            let (briefs, next) = page(shared, &reader.place.again, (&from, END)).await?;
            depth.waiting += u64::try_from(briefs.len()).unwrap_or(0);
            after = next;
        }
    }
    Ok(())
}

/// As [`back`], of one action.
async fn of_action(
    shared: &Shared,
    readers: &[Reader<'_>],
    action: &ActionId,
    depths: &mut [Depth],
) -> Result<()> {
    let doing = "count what a group has to do";
    let request = |reader: &Reader<'_>| {
        let place = reader.place;
        let keys = [&place.of.events, &place.again, &place.due, &place.held];
        OF_ACTION.call(keys.map(String::as_str)).arg(reader.known.name.as_str()).arg(action.as_str())
    };
    let requests: Vec<Request> = readers.iter().map(request).collect();
    for (reader, answer) in readers.iter().zip(shared.commands.all(requests, doing).await?) {
        let [leased, ready, later] = fixed::<3>(answer.get(doing)?)?;
        let Some(depth) = depths.get_mut(reader.index) else { continue };
        depth.leased += count(leased)?;
        depth.waiting += count(ready)?;
        depth.delayed += count(later)?;
    }
    Ok(())
}

pub(super) async fn groups(shared: &Shared, scope: &Scope) -> Result<Vec<GroupInfo>> {
    let all = match (&scope.group, &scope.action) {
        (None, Some(action)) => known_of(shared, action).await?,
        (group, action) => {
            let mut all = known(shared, group.as_ref()).await?;
            all.retain(|known| action.as_ref().is_none_or(|action| can_match(&known.noted.patterns, action)));
            all
        }
    };
    let depths = depths(shared, &all, scope.action.as_ref()).await?;
    let members = super::known::members(shared, &all).await?;
    let info = |((known, depth), members): ((Known, Depth), u64)| GroupInfo {
        depth,
        members,
        lease: known.noted.lease(),
        name: known.name,
        stage: known.noted.stage,
        patterns: known.noted.patterns,
    };
    Ok(all.into_iter().zip(depths).zip(members).map(info).collect())
}

pub(super) async fn remove_group(shared: &Shared, name: &GroupName) -> Result<bool> {
    let all = known(shared, Some(name)).await?;
    let Some(known) = all.first() else { return Ok(false) };
    let members = super::known::members(shared, &all).await?.first().copied().unwrap_or(0);
    if members > 0 {
        return Err(Error::new(ErrorKind::Conflict, "remove a group that has members")
            .with("group", name)
            .with("members", members));
    }
    known.drop_all(shared, None).await?;
    Ok(true)
}
