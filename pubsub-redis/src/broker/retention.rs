use std::sync::Arc;
use pubsub_core::Result;
use super::shared::Shared;
pub(super) struct Upkeep;
impl Upkeep { pub(super) fn begin(_: &Arc<Shared>) -> Self { Self } }
pub(super) async fn make_room(_: &Shared, _: u16) -> Result<Option<(String, u64)>> { Ok(None) }
