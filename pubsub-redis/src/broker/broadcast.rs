use std::sync::Arc;
use pubsub_core::{Error, Result, Subscribed, Subscription};
use super::shared::Shared;
pub(super) async fn subscribe(_: &Arc<Shared>, _: Subscription, _: u16) -> Result<Subscribed> { Err(Error::unsupported("x")) }
