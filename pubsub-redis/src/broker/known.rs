//! The groups that are noted at the server.

use std::time::Duration;

use pubsub_core::{ActionId, GroupName, Result};

use super::group::{Noted, can_match, millis};
use super::keys::{Place, partition_of};
use super::scripts::{DROP, MEMBERS, UNUSED};
use super::shared::Shared;
use crate::reply::{count, pairs, text};
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
    pub(super) fn lately(&self) -> u64 {
        millis(self.noted.lease().max(LATELY))
    }

    fn unused(&self, since: u64) -> Request {
        let request = UNUSED.call([&*self.home.members, &*self.home.of.used]);
        request.arg(self.name.as_str()).arg(since).arg(self.lately())
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
            && unused(shared, &[self], since).await?.contains(&false)
        {
            return Ok(false);
        }
        let others = self.places.iter().filter(|place| place.of.n != self.home.of.n);
        let requests: Vec<Request> = others.map(|place| request(place, String::new())).collect();
        for answer in shared.commands.all(requests, doing).await? {
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
        let request =
            Request::new("HGET").arg(shared.keys.home(name, partitions).of.groups).arg(name.as_str());
        let noted = text(shared.commands.one(request, doing).await?)?;
        let known = (!noted.is_empty()).then(|| Known::new(shared, name.as_str(), &noted, partitions));
        return Ok(known.transpose()?.into_iter().collect());
    }
    let request = |n: u16| Request::new("HGETALL").arg(shared.keys.partition(n).groups);
    let requests: Vec<Request> = (0..partitions).map(request).collect();
    let mut all = Vec::new();
    for (n, answer) in (0..partitions).zip(shared.commands.all(requests, doing).await?) {
        for (name, noted) in pairs(answer.get(doing)?)? {
            let known = Known::new(shared, &name, &noted, partitions)?;
            if known.home.of.n == n {
                all.push(known);
            }
        }
    }
    Ok(in_order(all))
}

/// The groups that may read events of an action. Each is noted in every partition that it reads: one is asked.
pub(super) async fn known_of(shared: &Shared, action: &ActionId) -> Result<Vec<Known>> {
    let doing = "read the groups of an action";
    let partitions = shared.partitions().await?;
    let n = partition_of(action, partitions);
    let request = Request::new("HGETALL").arg(shared.keys.partition(n).groups);
    let mut all = Vec::new();
    for (name, noted) in pairs(shared.commands.one(request, doing).await?)? {
        let known = Known::new(shared, &name, &noted, partitions)?;
        if can_match(&known.noted.patterns, action) {
            all.push(known);
        }
    }
    Ok(in_order(all))
}

/// The oldest first.
fn in_order(mut all: Vec<Known>) -> Vec<Known> {
    all.sort_by(|a, b| (a.noted.made_ms, &a.name).cmp(&(b.noted.made_ms, &b.name)));
    all
}

/// How many members of each of these groups gave a sign of life lately.
pub(super) async fn members(shared: &Shared, all: &[Known]) -> Result<Vec<u64>> {
    let doing = "count members";
    let request = |known: &Known| MEMBERS.call([&*known.home.members]).arg(known.lately());
    let requests: Vec<Request> = all.iter().map(request).collect();
    let answers = shared.commands.all(requests, doing).await?;
    answers.into_iter().map(|answer| count(answer.get(doing)?)).collect()
}

/// Whether these groups had no member since this ms.
pub(super) async fn unused(shared: &Shared, all: &[&Known], since: u64) -> Result<Vec<bool>> {
    let doing = "look whether a group is used";
    let requests: Vec<Request> = all.iter().map(|known| known.unused(since)).collect();
    let answers = shared.commands.all(requests, doing).await?;
    answers.into_iter().map(|answer| Ok(count(answer.get(doing)?)? > 0)).collect()
}
