//! The groups, and how much each has to do.

use std::time::Duration;

use pubsub_core::{ActionId, Depth, Error, ErrorKind, GroupInfo, GroupName, Result, Scope, Timestamp};

use super::group::{Noted, can_match, millis};
use super::keys::{Place, partition_of};
use super::page::page;
use super::scripts::{DROP, OF_ACTION, STATE, UNUSED};
use super::shared::Shared;
use crate::reply::{count, fixed, pairs, text};
use crate::script::Request;

/// A member is one as long as it gave a sign of life within this time, or within a lease where that is longer.
const LATELY: Duration = Duration::from_secs(60);

/// A group that is noted at the server.
pub(super) struct Known {
    pub(super) name: GroupName,
    pub(super) noted: Noted,
    /// Where it has what there is once.
    pub(super) home: Place,
    /// What it reads.
    pub(super) places: Vec<Place>,
}

impl Known {
    fn new(shared: &Shared, name: &str, noted: &str, partitions: u16) -> Result<Self> {
        let (name, noted) = (GroupName::new(name)?, Noted::read(noted)?);
        let places = super::group::places(&shared.keys, &name, &noted.patterns, partitions);
        let home = shared.keys.home(&name, partitions);
        Ok(Self { name, noted, home, places })
    }

    /// In ms, how long a member need not be seen.
    fn lately(&self) -> u64 {
        millis(self.noted.lease().max(LATELY))
    }

    /// Whether it had no member since this ms.
    pub(super) async fn is_unused(&self, shared: &Shared, since: u64) -> Result<bool> {
        let request = UNUSED.call([&*self.home.members, &*self.home.of.used]);
        let request = request.arg(self.name.as_str()).arg(since).arg(self.lately());
        Ok(count(shared.commands.one(request, "look whether a group is used").await?)? > 0)
    }

    /// Drops it with all that it has not settled; `false` where it has a member or was used later than this. What there is
    /// once goes last, so that whoever dies on the way leaves it to be dropped again.
    pub(super) async fn drop_all(&self, shared: &Shared, unused_since: Option<u64>) -> Result<bool> {
        let doing = "drop a group";
        let request = |place: &Place, since: String| {
            let of = &place.of;
            let keys = [
                &of.events,
                &place.again,
                &place.due,
                &place.held,
                &place.members,
                &of.groups,
                &of.used,
                &of.away,
            ];
            DROP.call(keys.map(String::as_str)).arg(self.name.as_str()).arg(since).arg(self.lately())
        };
        if let Some(since) = unused_since
            && !self.is_unused(shared, since).await?
        {
            return Ok(false);
        }
        let others = self.places.iter().filter(|place| place.of.n != self.home.of.n);
        let requests: Vec<Request> = others.map(|place| request(place, String::new())).collect();
        for answer in shared.commands.all(&requests, doing).await? {
            answer.get(doing)?;
        }
        let since = unused_since.map_or_else(String::new, |since| since.to_string());
        Ok(count(shared.commands.one(request(&self.home, since), doing).await?)? > 0)
    }
}

/// All groups, or the one of this name, each once.
pub(super) async fn known(shared: &Shared, name: Option<&GroupName>) -> Result<Vec<Known>> {
    let doing = "read the groups";
    let partitions = shared.partitions().await?;
    if let Some(name) = name {
        let request = Request::new("HGET").arg(shared.keys.home(name, partitions).of.groups).arg(name.as_str());
        let noted = text(shared.commands.one(request, doing).await?)?;
        let known = (!noted.is_empty()).then(|| Known::new(shared, name.as_str(), &noted, partitions));
        return Ok(known.transpose()?.into_iter().collect());
    }
    let request = |n: u16| Request::new("HGETALL").arg(shared.keys.partition(n).groups);
    let requests: Vec<Request> = (0..partitions).map(request).collect();
    let mut all = Vec::new();
    for (n, answer) in (0..partitions).zip(shared.commands.all(&requests, doing).await?) {
        for (name, noted) in pairs(answer.get(doing)?)? {
            let known = Known::new(shared, &name, &noted, partitions)?;
            if known.home.of.n == n {
                all.push(known);
            }
        }
    }
    all.sort_by(|a, b| (a.noted.made_ms, &a.name).cmp(&(b.noted.made_ms, &b.name)));
    Ok(all)
}

/// Where a group is in one place.
#[derive(Debug)]
pub(super) struct State {
    /// The last entry of `events` that it read; `None` where it is not there.
    pub(super) read: Option<String>,
    again: Option<String>,
    pending: (u64, u64),
    due: (u64, u64),
    members: u64,
}

pub(super) async fn states(shared: &Shared, known: &Known, places: &[&Place]) -> Result<Vec<State>> {
    let doing = "look where a group is";
    let request = |place: &&Place| {
        let keys = [&place.of.events, &place.again, &place.due, &place.members];
        STATE.call(keys.map(String::as_str)).arg(known.name.as_str()).arg(known.lately())
    };
    let requests: Vec<Request> = places.iter().map(request).collect();
    let mut states = Vec::with_capacity(places.len());
    for answer in shared.commands.all(&requests, doing).await? {
        let [read, again, events, agains, ready, later, members] = fixed::<7>(answer.get(doing)?)?;
        let there = |id: String| (!id.is_empty()).then_some(id);
        states.push(State {
            read: there(text(read)?),
            again: there(text(again)?),
            pending: (count(events)?, count(agains)?),
            due: (count(ready)?, count(later)?),
            members: count(members)?,
        });
    }
    Ok(states)
}

/// How much a group has to do, of this action or in all.
pub(super) async fn depth(shared: &Shared, known: &Known, action: Option<&ActionId>) -> Result<Depth> {
    let partitions = shared.partitions().await?;
    let is_asked = |place: &&Place| action.is_none_or(|action| partition_of(action, partitions) == place.of.n);
    let places: Vec<&Place> = known.places.iter().filter(is_asked).collect();
    let mut depth = Depth::default();
    for (place, state) in places.iter().zip(states(shared, known, &places).await?) {
        match action {
            None => {
                depth.leased += state.pending.0 + state.pending.1;
                depth.waiting += state.due.0;
                depth.delayed += state.due.1;
            }
            Some(action) => {
                let doing = "count what a group has to do";
                let keys = [&place.of.events, &place.again, &place.due, &place.held];
                let request = OF_ACTION.call(keys.map(String::as_str));
                let request = request.arg(known.name.as_str()).arg(action.as_str());
                let [leased, ready, later] = fixed::<3>(shared.commands.one(request, doing).await?)?;
                depth.leased += count(leased)?;
                depth.waiting += count(ready)?;
                depth.delayed += count(later)?;
            }
        }
        unread(shared, known, (&place.of.events, state.read.as_deref()), action, &mut depth).await?;
        unread(shared, known, (&place.again, state.again.as_deref()), action, &mut depth).await?;
    }
    Ok(depth)
}

/// Counts what of a stream the group has not read.
async fn unread(
    shared: &Shared,
    known: &Known,
    (stream, read): (&str, Option<&str>),
    action: Option<&ActionId>,
    depth: &mut Depth,
) -> Result<()> {
    let (mut after, now) = (read.map(str::to_owned), Timestamp::now());
    let is_again = stream.contains(":again:");
    while let Some(from) = after {
        let (briefs, next) = page(shared, stream, &from).await?;
        for brief in briefs {
            let is_asked = action.is_none_or(|action| brief.action() == Some(action));
            if !is_asked || !brief.is_of(&known.noted.patterns, known.noted.stage.as_ref()) {
                continue;
            }
            if !is_again && brief.due.is_some_and(|due| due > now) {
                depth.delayed += 1;
            } else {
                depth.waiting += 1;
            }
        }
        after = next;
    }
    Ok(())
}

async fn members(shared: &Shared, known: &Known) -> Result<u64> {
    Ok(states(shared, known, &[&known.home]).await?.first().map_or(0, |state| state.members))
}

pub(super) async fn groups(shared: &Shared, scope: &Scope) -> Result<Vec<GroupInfo>> {
    let mut infos = Vec::new();
    for known in known(shared, scope.group.as_ref()).await? {
        if scope.action.as_ref().is_some_and(|action| !can_match(&known.noted.patterns, action)) {
            continue;
        }
        infos.push(GroupInfo {
            depth: depth(shared, &known, scope.action.as_ref()).await?,
            members: members(shared, &known).await?,
            lease: known.noted.lease(),
            name: known.name,
            stage: known.noted.stage,
            patterns: known.noted.patterns,
        });
    }
    Ok(infos)
}

pub(super) async fn remove_group(shared: &Shared, name: &GroupName) -> Result<bool> {
    let Some(known) = known(shared, Some(name)).await?.pop() else { return Ok(false) };
    let members = members(shared, &known).await?;
    if members > 0 {
        return Err(Error::new(ErrorKind::Conflict, "remove a group that has members")
            .with("group", name)
            .with("members", members));
    }
    known.drop_all(shared, None).await?;
    Ok(true)
}
