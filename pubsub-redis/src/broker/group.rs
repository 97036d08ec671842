//! Groups: what is noted of one, joining it, and where it begins.

use std::time::Duration;

use pubsub_core::{
    ActionId, Error, ErrorKind, Group, GroupName, Pattern, Position, Result, Stage, StartAt, Subscription,
};
use serde::{Deserialize, Serialize};

use super::keys::{EntryId, Keys, Place, partition_of_text, read_position};
use super::scripts::{FOUND, JOIN};
use super::shared::Shared;
use crate::reply::text;

/// What is noted of a group at the server.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Noted {
    pub(super) lease_ms: u64,
    pub(super) stage: Option<Stage>,
    pub(super) patterns: Vec<Pattern>,
    pub(super) start: Start,
    /// When it was made, by the server's clock.
    pub(super) made_ms: u64,
}

/// Where a group begins.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Start {
    Earliest,
    Latest,
    After(Position),
}

impl Noted {
    pub(super) fn read(text: &str) -> Result<Self> {
        serde_json::from_str(text)
            .map_err(|e| Error::new(ErrorKind::Corrupt, "read what is noted of a group").with_source(e))
    }

    pub(super) const fn lease(&self) -> Duration {
        Duration::from_millis(self.lease_ms)
    }

    /// # Errors
    /// [`Conflict`](ErrorKind::Conflict) with both sides where a subscription asks for another group.
    fn agree(&self, group: &Group, on: &Subscription) -> Result<()> {
        let differs = |what: &'static str, there: String, asked: String| {
            Err(Error::new(
                ErrorKind::Conflict,
                format!("join a group that has another {what}: ask for the same, or name another group"),
            )
            .with("group", &group.name)
            .with("there", there)
            .with("asked", asked))
        };
        if self.patterns != on.patterns() {
            return differs(
                "set of patterns",
                format!("{:?}", self.patterns),
                format!("{:?}", on.patterns()),
            );
        }
        if self.stage != group.stage {
            return differs("stage", format!("{:?}", self.stage), format!("{:?}", group.stage));
        }
        if self.lease_ms != millis(group.lease) {
            return differs("lease", format!("{:?}", self.lease()), format!("{:?}", group.lease));
        }
        Ok(())
    }
}

pub(super) fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// The actions that patterns can match, where all of them name one.
pub(super) fn literal_actions(patterns: &[Pattern]) -> Option<Vec<String>> {
    let mut actions: Vec<String> = patterns.iter().map(Pattern::literal_action).collect::<Option<_>>()?;
    actions.sort();
    actions.dedup();
    Some(actions)
}

/// The partitions that a group with these patterns reads.
pub(super) fn partitions_of(patterns: &[Pattern], partitions: u16) -> Vec<u16> {
    let Some(actions) = literal_actions(patterns) else { return (0..partitions).collect() };
    let mut read: Vec<u16> = actions.iter().map(|action| partition_of_text(action, partitions)).collect();
    read.sort_unstable();
    read.dedup();
    read
}

pub(super) fn places(keys: &Keys, name: &GroupName, patterns: &[Pattern], partitions: u16) -> Vec<Place> {
    partitions_of(patterns, partitions).into_iter().map(|n| keys.place(n, name)).collect()
}

fn start_of(at: &StartAt) -> Result<Start> {
    match at {
        StartAt::Earliest => Ok(Start::Earliest),
        StartAt::Latest => Ok(Start::Latest),
        StartAt::After(position) if read_position(position).is_some() => Ok(Start::After(position.clone())),
        StartAt::After(position) => {
            Err(Error::invalid("start after a position that this broker never gave")
                .with("position", position))
        }
        _ => Err(Error::unsupported("start a subscription there")),
    }
}

/// Whether a group is joined for the first time by this member, or again after the server lost it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Joining {
    New,
    Again,
}

/// Where the group begins in a partition, as the script takes it.
fn begin_in(noted: &Noted, n: u16, joining: Joining) -> String {
    match &noted.start {
        Start::Latest => format!("made:{}", noted.made_ms),
        // What was lost may have had events of it before those that are there now were counted.
        Start::Earliest if joining == Joining::New && literal_actions(&noted.patterns).is_some() => {
            "first".to_owned()
        }
        Start::Earliest => "0".to_owned(),
        Start::After(position) => match read_position(position) {
            Some((of, id)) if of == n => id.to_string(),
            Some((_, id)) => EntryId::before_ms(id.ms).to_string(),
            None => "0".to_owned(),
        },
    }
}

/// Joins a group, making it where it is new, and answers what is noted of it.
pub(super) async fn join(
    shared: &Shared,
    (home, places): (&Place, &[Place]),
    (group, on, owner): (&Group, &Subscription, &str),
    known: Option<&Noted>,
) -> Result<Noted> {
    let doing = "join a group";
    let internal = |e: serde_json::Error| Error::new(ErrorKind::Internal, doing).with_source(e);
    let start = known.map_or_else(|| start_of(on.start()), |known| Ok(known.start.clone()))?;
    let request = FOUND
        .call([&*home.of.groups, &*home.of.used])
        .arg(group.name.as_str())
        .arg(millis(group.lease))
        .arg(serde_json::to_string(&group.stage).map_err(internal)?)
        .arg(serde_json::to_string(on.patterns()).map_err(internal)?)
        .arg(serde_json::to_string(&start).map_err(internal)?)
        .arg(known.map_or_else(String::new, |known| known.made_ms.to_string()));
    let found = text(shared.commands.one(request, doing).await?)?;
    let noted = Noted::read(&found)?;
    noted.agree(group, on)?;
    let joining = if known.is_some() { Joining::Again } else { Joining::New };
    let actions = literal_actions(on.patterns()).unwrap_or_default();
    let partitions = shared.partitions().await?;
    let mut requests: Vec<_> = places
        .iter()
        .map(|place| {
            let of = &place.of;
            let keys = [&of.events, &place.again, &of.groups, &of.first];
            let mut request = JOIN
                .call(keys.map(String::as_str))
                .arg(group.name.as_str())
                .arg(&found)
                .arg(begin_in(&noted, of.n, joining));
            for action in actions.iter().filter(|action| partition_of_text(action, partitions) == of.n) {
                request.push(action);
            }
            request
        })
        .collect();
    requests.push(super::member::sign(home, &group.name, owner));
    for answer in shared.commands.all(requests, doing).await? {
        answer.get(doing)?;
    }
    Ok(noted)
}

/// Whether one of the patterns can match the action.
pub(super) fn can_match(patterns: &[Pattern], action: &ActionId) -> bool {
    patterns.iter().any(|pattern| pattern.matches_action(action))
}
