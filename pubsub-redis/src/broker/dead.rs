//! Dead letters and cancels.

use pubsub_core::{ActionId, DeadLetter, Error, ErrorKind, EventId, GroupName, Position, Result, Timestamp};

use super::batch::decode;
use super::keys::{partition_of, position};
use super::known::known;
use super::scripts::{CANCEL, LETTERS, REPLAY};
use super::shared::Shared;
use crate::reply::{Entry, count, entries, fixed, items, text};
use crate::script::Request;

/// Letters of one page.
const PAGE: usize = 500;

/// A dead letter and where it is kept.
pub(super) struct Kept {
    pub(super) n: u16,
    pub(super) entry: Entry,
    micros: i64,
}

impl Kept {
    fn new(n: u16, entry: Entry) -> Self {
        let micros = entry.text("_time").and_then(|time| time.parse().ok()).unwrap_or(0);
        Self { n, entry, micros }
    }

    fn letter(&self) -> Result<DeadLetter> {
        let of = |name: &str| self.entry.text(name).unwrap_or_default();
        let group = Some(of("_group")).filter(|group| !group.is_empty()).map(GroupName::new).transpose()?;
        let (action_id, bytes) = match decode(&self.entry) {
            Ok(event) => (Some(event.action_id.clone()), event.to_cloud_event()?.into_bytes()),
            Err(_) => (None, raw(&self.entry)),
        };
        Ok(DeadLetter {
            id: of("_id").to_owned(),
            group,
            action_id,
            reason: of("_reason").to_owned(),
            bytes,
            attempts: of("_attempts").parse().unwrap_or(0),
            crashes: of("_crashes").parse().unwrap_or(0),
            time: Timestamp::from_micros(self.micros),
        })
    }
}

/// The bytes of what cannot be decoded: its payload where it has one, otherwise all of its fields, each on a line.
fn raw(entry: &Entry) -> Vec<u8> {
    if let Some(data) = entry.field("data") {
        return data.to_vec();
    }
    let own = entry.fields().filter(|(name, _)| !name.starts_with(b"_"));
    own.flat_map(|(name, value)| [name, b"=".as_slice(), value, b"\n"].concat()).collect()
}

/// The oldest dead letters of all partitions, at most so many, of one group or of all.
pub(super) async fn oldest(shared: &Shared, group: Option<&GroupName>, limit: usize) -> Result<Vec<Kept>> {
    let mut all = Vec::new();
    for n in 0..shared.partitions().await? {
        all.extend(of_partition(shared, n, group, limit).await?);
    }
    all.sort_by_key(|kept: &Kept| kept.micros);
    all.truncate(limit);
    Ok(all)
}

async fn of_partition(shared: &Shared, n: u16, group: Option<&GroupName>, limit: usize) -> Result<Vec<Kept>> {
    let doing = "list the dead letters";
    let key = shared.keys.partition(n).dead;
    let (mut kept, mut after) = (Vec::new(), "-".to_owned());
    while kept.len() < limit {
        let many = if group.is_some() { PAGE } else { PAGE.min(limit - kept.len()) };
        let request = Request::new("XRANGE").arg(&key).arg(&after).arg("+").arg("COUNT").arg(many);
        let page = entries(shared.commands.one(request, doing).await?)?;
        let is_last = page.len() < many;
        if let Some(last) = page.last() {
            after = format!("({}", last.id);
        }
        let is_asked = |entry: &Entry| {
            group.is_none_or(|group| entry.field("_group") == Some(group.as_str().as_bytes()))
        };
        kept.extend(page.into_iter().filter(is_asked).map(|entry| Kept::new(n, entry)));
        if is_last {
            break;
        }
    }
    kept.truncate(limit);
    Ok(kept)
}

pub(super) async fn list(
    shared: &Shared,
    group: Option<&GroupName>,
    limit: usize,
) -> Result<Vec<DeadLetter>> {
    oldest(shared, group, limit).await?.iter().map(Kept::letter).collect()
}

/// The entries of the letters with this id, each with its partition and its group.
async fn find(shared: &Shared, id: &str, group: Option<&GroupName>) -> Result<Vec<(u16, String, String)>> {
    let doing = "find a dead letter";
    let mut found = Vec::new();
    for n in 0..shared.partitions().await? {
        let (key, mut after) = (shared.keys.partition(n).dead, "0-0".to_owned());
        loop {
            let request = LETTERS.call([&*key]).arg(id).arg(&after).arg(PAGE);
            let [last, letters] = fixed::<2>(shared.commands.one(request, doing).await?)?;
            for letter in items(letters)? {
                let [entry, of] = fixed::<2>(letter)?;
                let (entry, of) = (text(entry)?, text(of)?);
                if group.is_none_or(|group| group.as_str() == of) {
                    found.push((n, entry, of));
                }
            }
            after = text(last)?;
            if after.is_empty() {
                break;
            }
        }
    }
    Ok(found)
}

/// Makes a new event of a dead letter, for its group alone, and removes the letter.
pub(super) async fn replay(shared: &Shared, id: &str, group: Option<&GroupName>) -> Result<EventId> {
    let doing = "replay a dead letter";
    let gone = || Error::new(ErrorKind::NotFound, doing).with("id", id);
    let mut found = find(shared, id, group).await?;
    let groups: std::collections::BTreeSet<&String> = found.iter().map(|(_, _, group)| group).collect();
    if groups.len() > 1 {
        return Err(Error::new(ErrorKind::Conflict, "several groups have this dead letter; name one")
            .with("id", id)
            .with("groups", format!("{groups:?}")));
    }
    let (n, entry, name) = found.pop().ok_or_else(gone)?;
    let partition = shared.keys.partition(n);
    let request = Request::new("XRANGE").arg(&partition.dead).arg(&entry).arg(&entry);
    let letter = entries(shared.commands.one(request, doing).await?)?.pop().ok_or_else(gone)?;
    let mut event = decode(&letter).map_err(|reason| {
        Error::invalid("a dead letter that cannot be decoded cannot be replayed").with("reason", reason)
    })?;
    if name.is_empty() {
        return Err(Error::invalid("a dead letter of no group cannot be replayed").with("id", id));
    }
    let name = GroupName::new(name)?;
    event.replay_of = Some(event.id);
    event.id = EventId::generate();
    event.deliver_at = None;
    let place = shared.keys.place(n, &name);
    let of = &partition;
    let keys = [&of.dead, &of.events, &place.again, &of.groups, &of.away, &of.blanks];
    let mut request = REPLAY.call(keys.map(String::as_str)).arg(&entry).arg(name.as_str());
    for (field, value) in event.to_attributes()? {
        request.push(field);
        request.push(&*value);
    }
    if count(shared.durable.one(request, doing).await?)? == 0 {
        return Err(Error::new(ErrorKind::NotFound, "replay a dead letter that is gone, or whose group is")
            .with("id", id)
            .with("group", name));
    }
    Ok(event.id)
}

/// Marks an action up to now; answers up to where.
pub(super) async fn cancel(shared: &Shared, action: &ActionId) -> Result<Position> {
    let doing = "cancel an action";
    shared.refuse_closed()?;
    let partition = shared.keys.partition(partition_of(action, shared.partitions().await?));
    let mut keys = vec![partition.events.clone(), partition.cancels.clone()];
    for known in known(shared, None).await? {
        if let Some(place) = known.places.into_iter().find(|place| place.of.n == partition.n) {
            keys.extend([place.again, place.due, place.held]);
        }
    }
    let request =
        CANCEL.call(keys.iter().map(String::as_str)).arg(action.as_str()).arg(partition.n.to_string());
    let reach = text(shared.durable.one(request, doing).await?)?;
    let told = Request::new("PUBLISH").arg(shared.cancels.channel()).arg(action.as_str());
    if let Err(error) = shared.commands.one(told, doing).await {
        // The mark stands: members see it when they next renew.
        tracing::warn!(%action, error = %error.chain(), "a cancel was marked, and members could not be told");
    }
    Ok(position(partition.n, &reach))
}

#[cfg(test)]
mod tests {
    use super::raw;
    use crate::reply::Entry;

    #[test]
    fn what_cannot_be_decoded_keeps_its_payload_or_all_of_its_fields() {
        let entry = |fields: &[(&str, &str)]| Entry::new("1-0", fields);
        assert_eq!(raw(&entry(&[("_id", "x"), ("data", "{"), ("type", "t")])), b"{");
        assert_eq!(raw(&entry(&[("_id", "x"), ("a", "1"), ("b", "2")])), b"a=1\nb=2\n");
    }
}
