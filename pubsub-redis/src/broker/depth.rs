use pubsub_core::*;
use super::shared::Shared;
pub(super) async fn groups(_: &Shared, _: &Scope) -> Result<Vec<GroupInfo>> { Err(Error::unsupported("x")) }
pub(super) async fn remove_group(_: &Shared, _: &GroupName) -> Result<bool> { Err(Error::unsupported("x")) }
