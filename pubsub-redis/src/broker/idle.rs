//! Names the groups without members for which old events are kept.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use pubsub_core::Result;
use tokio::time::Instant;

use super::known::{Known, members};
use super::shared::Shared;

/// How long a group is not named again.
const SILENCE: Duration = Duration::from_secs(60 * 60);

/// The groups that were named, and when.
#[derive(Default)]
pub(super) struct Idle(HashMap<String, Instant>);

impl Idle {
    /// Names those that have no member; `held` says how many events older than the retention each has not settled.
    pub(super) async fn tell(
        &mut self,
        shared: &Shared,
        all: &[Known],
        held: &BTreeMap<String, u64>,
    ) -> Result<()> {
        self.0.retain(|_, named| named.elapsed() < SILENCE);
        for known in all {
            let name = known.name.as_str();
            let Some(events) = held.get(name).filter(|_| !self.0.contains_key(name)) else { continue };
            if members(shared, std::slice::from_ref(known)).await?.iter().all(|members| *members == 0) {
                tracing::warn!(
                    group = name,
                    events,
                    dropped_after = ?shared.config.group_retention(),
                    "events older than the retention are kept for a group that has no member"
                );
                self.0.insert(name.to_owned(), Instant::now());
            }
        }
        Ok(())
    }
}
