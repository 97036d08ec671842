//! How much each group has to do.

use std::collections::{BTreeMap, HashMap};

use pubsub_core::{ActionId, Depth, Error, ErrorKind, GroupInfo, GroupName, Result, Scope, Timestamp};

use super::group::can_match;
use super::keys::{EntryId, Partition, Place, partition_of};
use super::known::{Known, known};
use super::page::{Brief, page};
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

/// Where the groups of a partition are, or the one of this name.
pub(super) async fn heads(
    shared: &Shared,
    partition: &Partition,
    only: Option<&GroupName>,
) -> Result<HashMap<String, Head>> {
    let request = HEADS.call([&*partition.events]).arg(only.map_or("", GroupName::as_str));
    let mut heads = HashMap::new();
    for head in items(shared.commands.one(request, "look where the groups are").await?)? {
        let [name, read, pending] = fixed::<3>(head)?;
        if let Some(read) = EntryId::parse(&text(read)?) {
            heads.insert(text(name)?, Head { read, pending: count(pending)? });
        }
    }
    Ok(heads)
}

/// The groups that read one partition: by their number, each with what it has there.
type Readers<'k> = Vec<(usize, &'k Known, &'k Place)>;

/// How much each of these groups has to do, of this action or in all.
pub(super) async fn depths(shared: &Shared, all: &[Known], action: Option<&ActionId>) -> Result<Vec<Depth>> {
    let partitions = shared.partitions().await?;
    let only = action.map(|action| partition_of(action, partitions));
    let mut by_partition: BTreeMap<u16, Readers<'_>> = BTreeMap::new();
    for (index, known) in all.iter().enumerate() {
        for place in known.places.iter().filter(|place| only.is_none_or(|only| only == place.of.n)) {
            by_partition.entry(place.of.n).or_default().push((index, known, place));
        }
    }
    let mut depths = vec![Depth::default(); all.len()];
    for (n, readers) in by_partition {
        let partition = shared.keys.partition(n);
        let only = if let [known] = all { Some(&known.name) } else { None };
        let heads = heads(shared, &partition, only).await?;
        unread(shared, &partition, (&readers, &heads), action, &mut depths).await?;
        match action {
            None => back(shared, (&readers, &heads), &mut depths).await?,
            Some(action) => of_action(shared, &readers, action, &mut depths).await?,
        }
    }
    Ok(depths)
}

/// Counts what of the events of a partition the groups have not read.
async fn unread(
    shared: &Shared,
    partition: &Partition,
    (readers, heads): (&Readers<'_>, &HashMap<String, Head>),
    action: Option<&ActionId>,
    depths: &mut [Depth],
) -> Result<()> {
    let read = |known: &Known| heads.get(known.name.as_str()).map(|head| head.read);
    let behind: Vec<(usize, &Known, EntryId)> =
        readers.iter().filter_map(|(index, known, _)| Some((*index, *known, read(known)?))).collect();
    let mut after = behind.iter().map(|(.., read)| *read).min().map(|read| read.to_string());
    let now = Timestamp::now();
    while let Some(from) = after {
        let (briefs, next) = page(shared, &partition.events, &from).await?;
        for brief in briefs {
            let Some(id) = EntryId::parse(&brief.entry) else { continue };
            if action.is_some_and(|action| brief.action() != Some(action)) {
                continue;
            }
            for (index, known, _) in behind.iter().filter(|(.., read)| id > *read) {
                let Some(depth) = depths.get_mut(*index) else { continue };
                if !brief.is_of(&known.noted.patterns, known.noted.stage.as_ref()) {
                    continue;
                }
                let is_later = brief.due.is_some_and(|due| due > now);
                *if is_later { &mut depth.delayed } else { &mut depth.waiting } += 1;
            }
        }
        after = next;
    }
    Ok(())
}

/// Counts what is pending, what came back and what is to come later.
async fn back(
    shared: &Shared,
    (readers, heads): (&Readers<'_>, &HashMap<String, Head>),
    depths: &mut [Depth],
) -> Result<()> {
    let doing = "count what came back";
    let request = |(_, known, place): &(usize, &Known, &Place)| {
        BACK.call([&*place.again, &*place.due]).arg(known.name.as_str())
    };
    let requests: Vec<Request> = readers.iter().map(request).collect();
    let answers = shared.commands.all(&requests, doing).await?;
    for ((index, known, place), answer) in readers.iter().zip(answers) {
        let [read, pending, ready, later] = fixed::<4>(answer.get(doing)?)?;
        let Some(depth) = depths.get_mut(*index) else { continue };
        depth.leased += count(pending)?;
        let has_some = heads.get(known.name.as_str()).is_some_and(|head| head.pending > 0);
        // What is another's may be pending for a moment, until it is passed over.
        let mut after = has_some.then(|| "0-0".to_owned());
        while let Some(from) = after {
            let of = (&*place.of.events, known.name.as_str());
            let (briefs, next) = super::page::pending(shared, of, &from).await?;
            let is_of = |brief: &&Brief| brief.is_of(&known.noted.patterns, known.noted.stage.as_ref());
            depth.leased += u64::try_from(briefs.iter().filter(is_of).count()).unwrap_or(0);
            after = next;
        }
        depth.waiting += count(ready)?;
        depth.delayed += count(later)?;
        let mut after = Some(text(read)?).filter(|read| !read.is_empty());
        while let Some(from) = after {
            let (briefs, next) = page(shared, &place.again, &from).await?;
            depth.waiting += u64::try_from(briefs.len()).unwrap_or(0);
            after = next;
        }
    }
    Ok(())
}

/// As [`back`], of one action.
async fn of_action(
    shared: &Shared,
    readers: &Readers<'_>,
    action: &ActionId,
    depths: &mut [Depth],
) -> Result<()> {
    let doing = "count what a group has to do";
    let request = |(_, known, place): &(usize, &Known, &Place)| {
        let keys = [&place.of.events, &place.again, &place.due, &place.held];
        OF_ACTION.call(keys.map(String::as_str)).arg(known.name.as_str()).arg(action.as_str())
    };
    let requests: Vec<Request> = readers.iter().map(request).collect();
    for ((index, ..), answer) in readers.iter().zip(shared.commands.all(&requests, doing).await?) {
        let [leased, ready, later] = fixed::<3>(answer.get(doing)?)?;
        let Some(depth) = depths.get_mut(*index) else { continue };
        depth.leased += count(leased)?;
        depth.waiting += count(ready)?;
        depth.delayed += count(later)?;
    }
    Ok(())
}

pub(super) async fn groups(shared: &Shared, scope: &Scope) -> Result<Vec<GroupInfo>> {
    let mut all = known(shared, scope.group.as_ref()).await?;
    if let Some(action) = &scope.action {
        all.retain(|known| can_match(&known.noted.patterns, action));
    }
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
