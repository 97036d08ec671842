//! How the keys of the broker are called, and which partition has what.
//!
//! All keys of a partition share its hash tag, so that a script has them in one slot of a cluster. An action's partition is
//! the CRC-32 (IEEE) of its id modulo the number of partitions.

use std::sync::Arc;

use pubsub_core::{ActionId, EventId, GroupName, Position, name};

/// The keys of one deployment and prefix.
#[derive(Clone, Debug)]
pub(super) struct Keys {
    prefix: Arc<str>,
}

impl Keys {
    pub(super) fn new(prefix: &str) -> Self {
        Self { prefix: prefix.into() }
    }

    /// What is known of the broker as a whole.
    pub(super) fn broker(&self) -> String {
        format!("{}:broker", self.prefix)
    }

    /// The channel on which cancels are told.
    pub(super) fn cancels_channel(&self) -> String {
        format!("{}:cancels", self.prefix)
    }

    pub(super) fn partition(&self, n: u16) -> Partition {
        let key = |what: &str| format!("{}:{{{n}}}:{what}", self.prefix);
        Partition {
            n,
            events: key("events"),
            blanks: key("blanks"),
            groups: key("groups"),
            used: key("used"),
            ids: key("ids"),
            first: key("first"),
            claims: key("claims"),
            touched: key("touched"),
            away: key("away"),
            cancels: key("cancels"),
            dead: key("dead"),
            upkeep: key("upkeep"),
        }
    }

    /// Where there is what a group has once: a partition by its name, whatever it reads.
    pub(super) fn home(&self, group: &GroupName, partitions: u16) -> Place {
        self.place(partition_of_text(group.as_str(), partitions), group)
    }

    /// What a group has in one partition.
    pub(super) fn place(&self, n: u16, group: &GroupName) -> Place {
        let group = name::encode(group.as_str());
        let key = |what: &str| format!("{}:{{{n}}}:{what}:{group}", self.prefix);
        Place {
            again: key("again"),
            due: key("due"),
            held: key("held"),
            members: key("members"),
            of: self.partition(n),
        }
    }
}

/// The keys of a partition.
#[derive(Clone, Debug)]
pub(super) struct Partition {
    pub(super) n: u16,
    /// Stream: an entry for each event.
    pub(super) events: String,
    /// String: how many entries of `events` never were an event, but the place of a replay.
    pub(super) blanks: String,
    /// Hash: group → what is noted of it, at its home and in each partition that it reads.
    pub(super) groups: String,
    /// Sorted set, at a group's home: group → ms when a member joined, left or was seen by upkeep.
    pub(super) used: String,
    /// Hash: id that somebody chose → its entry, as long as the event is kept.
    pub(super) ids: String,
    /// Hash: action → the entry id before its first event; under an empty name a token of this index.
    pub(super) first: String,
    /// Hash: event id and stage, as [`claim_name`] has them → a line with the entries of the event that it was begun at, of
    /// which a repeated publish may have left several, and behind it the claim as JSON.
    pub(super) claims: String,
    /// Sorted set: the claims, by ms when they were touched.
    pub(super) touched: String,
    /// Hash: entry → how many groups have it among what came back or is to come later.
    pub(super) away: String,
    /// Hash: action → the entry up to which it is cancelled.
    pub(super) cancels: String,
    /// Stream: dead letters.
    pub(super) dead: String,
    /// String that expires: somebody is looking for what is old.
    pub(super) upkeep: String,
}

/// The keys of a group in a partition.
#[derive(Clone, Debug)]
pub(super) struct Place {
    pub(super) of: Partition,
    /// Stream: what came back.
    pub(super) again: String,
    /// Sorted set: what is to come later, by ms.
    pub(super) due: String,
    /// Hash: its fields.
    pub(super) held: String,
    /// Sorted set, at the group's home: member → ms when it was seen, 0 once it left.
    pub(super) members: String,
}

impl Place {
    /// The stream that an entry is in.
    pub(super) fn stream(&self, kind: Kind) -> &str {
        match kind {
            Kind::Event => &self.of.events,
            Kind::Again => &self.again,
        }
    }
}

/// Which of the two streams an entry is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Kind {
    Event,
    Again,
}

/// What the claim of a stage at an event is called in its partition, in which an id is one event's. No id has a control
/// character.
pub(super) fn claim_name(event: &EventId, stage: &str) -> String {
    format!("{event}\n{stage}")
}

/// The event id in the name of a claim.
pub(super) fn event_of_claim(name: &str) -> &str {
    name.split_once('\n').map_or(name, |(event, _)| event)
}

/// The partition of an action.
pub(super) fn partition_of(action: &ActionId, partitions: u16) -> u16 {
    partition_of_text(action.as_str(), partitions)
}

pub(super) fn partition_of_text(action: &str, partitions: u16) -> u16 {
    let hash = crc32fast::hash(action.as_bytes()) % u32::from(partitions.max(1));
    u16::try_from(hash).unwrap_or(0)
}

/// Where an entry of `events` stands.
pub(super) fn position(n: u16, entry: &str) -> Position {
    named(n, ":", entry)
}

/// Each event has such a name, and the machinery of formats costs more than the text.
fn named(n: u16, kind: &str, id: &str) -> Position {
    let mut text = n.to_string();
    text.reserve_exact(kind.len() + id.len());
    text.push_str(kind);
    text.push_str(id);
    Position::new(text)
}

/// The name of a lease's entry.
pub(super) fn lease_entry(n: u16, kind: Kind, id: &str) -> Position {
    match kind {
        Kind::Event => position(n, id),
        Kind::Again => named(n, "a:", id),
    }
}

/// The id in its stream of a lease's entry.
pub(super) fn id_of(lease: &Position) -> &str {
    lease.as_str().split_once(':').map_or("", |(_, id)| id)
}

/// Partition, stream and id of a lease's entry; `None` for what this broker never named so.
pub(super) fn read_entry(text: &str) -> Option<(u16, Kind, &str)> {
    let (of, id) = text.split_once(':')?;
    EntryId::parse(id)?;
    let (of, kind) = of.strip_suffix('a').map_or((of, Kind::Event), |of| (of, Kind::Again));
    Some((of.parse().ok()?, kind, id))
}

/// Partition and id of a position.
pub(super) fn read_position(position: &Position) -> Option<(u16, EntryId)> {
    let (of, kind, id) = read_entry(position.as_str())?;
    (kind == Kind::Event).then(|| EntryId::parse(id).map(|id| (of, id)))?
}

/// The id of an entry, to be compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct EntryId {
    pub(super) ms: u64,
    pub(super) seq: u64,
}

impl EntryId {
    pub(super) fn parse(text: &str) -> Option<Self> {
        let (ms, seq) = text.split_once('-')?;
        Some(Self { ms: ms.parse().ok()?, seq: seq.parse().ok()? })
    }

    /// The last id before this millisecond.
    pub(super) const fn before_ms(ms: u64) -> Self {
        match ms.checked_sub(1) {
            Some(ms) => Self { ms, seq: u64::MAX },
            None => Self { ms: 0, seq: 0 },
        }
    }
}

impl std::fmt::Display for EntryId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}-{}", self.ms, self.seq)
    }
}

#[cfg(test)]
mod tests {
    use pubsub_core::{ActionId, EventId, GroupName, Position};

    use super::{
        EntryId, Keys, Kind, claim_name, event_of_claim, lease_entry, partition_of, position, read_entry,
        read_position,
    };

    #[test]
    fn an_action_stays_in_its_partition_in_every_version() {
        let of = |id: &str| partition_of(&ActionId::new(id).unwrap(), 16);
        assert_eq!(["a", "b", "action-123", "é{1}"].map(of), [3, 9, 5, 11]);
        let used: std::collections::BTreeSet<u16> = (0..200).map(|n| of(&format!("a{n}"))).collect();
        assert_eq!(used.len(), 16);
    }

    #[test]
    fn no_id_changes_the_hash_tag_of_a_key() {
        let place = Keys::new("p").place(3, &GroupName::new("{x}:{y}").unwrap());
        assert_eq!(place.again, "p:{3}:again:=7bx=7d=3a=7by=7d");
        assert_eq!(place.of.events, "p:{3}:events");
    }

    #[test]
    fn two_claims_never_have_one_name() {
        let name = |event: &str, stage: &str| claim_name(&EventId::new(event).unwrap(), stage);
        assert_ne!(name("a|b", "c"), name("a", "b|c"));
        assert_eq!(event_of_claim(&name("a|b {c}", "d")), "a|b {c}");
    }

    #[test]
    fn positions_and_entries_read_back_and_nothing_else_does() {
        assert_eq!(read_entry(lease_entry(3, Kind::Again, "5-1").as_str()), Some((3, Kind::Again, "5-1")));
        assert_eq!(read_position(&position(7, "5-1")), Some((7, EntryId { ms: 5, seq: 1 })));
        for other in ["17", "3a:5-1", "3:5", "x:5-1", ""] {
            assert_eq!(read_position(&Position::new(other)), None, "{other}");
        }
        assert_eq!(EntryId::before_ms(5).to_string(), "4-18446744073709551615");
    }
}
