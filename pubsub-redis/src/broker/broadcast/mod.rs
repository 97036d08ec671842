//! Subscriptions without a group: each event from the start on, at most once, leased by nobody.

mod heard;
mod listeners;
mod listening;
mod past;
mod reading;

use std::sync::Arc;
use std::time::Duration;

use pubsub_core::{Event, Leased, Result, StartAt, Subscribed, Subscription};

pub(super) use listening::Hub;

use super::keys::position;
use super::shared::Shared;

/// Most events of one partition that one read brings.
const MAX_READ: usize = 256;

/// Most delayed events that are waited for. What would be more comes at once rather than never.
const MAX_DELAYED: usize = 1_000_000;

/// Subscribes from now on, with the one reader of all such subscriptions; or from where it asks to start, with one of its own.
pub(super) async fn subscribe(shared: &Arc<Shared>, on: Subscription, partitions: u16) -> Result<Subscribed> {
    match on.start() {
        StartAt::Earliest | StartAt::After(_) => past::subscribe(shared, on, partitions),
        _ => listening::subscribe(shared, on, partitions).await,
    }
}

/// By chance, and longer the more often something failed in a row.
fn pause(failures: u32) -> Duration {
    let longest = 50_u64.saturating_mul(1 << failures.min(6));
    Duration::from_millis(fastrand::u64(10..=longest))
}

fn leased(n: u16, entry: &str, event: Event) -> Leased {
    Leased { event, position: position(n, entry), lease: None }
}
