use pubsub_core::*;
use super::shared::Shared;
pub(super) async fn cancel(_: &Shared, _: &ActionId) -> Result<Position> { Err(Error::unsupported("x")) }
pub(super) async fn list(_: &Shared, _: Option<&GroupName>, _: usize) -> Result<Vec<DeadLetter>> { Err(Error::unsupported("x")) }
pub(super) async fn replay(_: &Shared, _: &str, _: Option<&GroupName>) -> Result<EventId> { Err(Error::unsupported("x")) }
