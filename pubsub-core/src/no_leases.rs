//! What a subscription without a group answers: it holds no leases and makes no claims.

use async_trait::async_trait;

use crate::{Begin, Claims, Conclusion, Error, LeaseId, Leases, Renewal, Result, Settlement};

/// The leases and claims of a subscription without a group, for every broker: there are none, and each call answers
/// [`Unsupported`](crate::ErrorKind::Unsupported).
#[derive(Clone, Copy, Debug)]
pub struct NoLeases;

fn no_group() -> Error {
    Error::unsupported("a subscription without a group has no leases and no runs")
}

#[async_trait]
impl Leases for NoLeases {
    async fn renew(&self, _: &[LeaseId]) -> Result<Vec<Renewal>> {
        Err(no_group())
    }

    async fn settle(&self, settlements: Vec<(LeaseId, Settlement)>) -> Vec<Result<()>> {
        settlements.iter().map(|_| Err(no_group())).collect()
    }

    async fn wake(&self) -> Result<()> {
        Err(no_group())
    }
}

#[async_trait]
impl Claims for NoLeases {
    async fn begin(&self, _: &LeaseId) -> Result<Begin> {
        Err(no_group())
    }

    async fn conclude(&self, _: &LeaseId, _: Conclusion) -> Result<()> {
        Err(no_group())
    }
}
