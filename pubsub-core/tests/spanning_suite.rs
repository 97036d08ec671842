//! Two stores that are asked as one pass the whole suite as a reader.
#![expect(clippy::indexing_slicing, reason = "a test")]

use std::sync::Arc;

use pubsub_core::conformance::store::{Share, Spanned, StoreFixture};
use pubsub_core::{MemoryStore, Store};

/// Two stores in memory, each with its share.
struct Two<const SHARE: usize>(Spanned);

const SHARES: [Share; 3] = [Share::Same, Share::Bounded, Share::InTurn];

#[async_trait::async_trait]
impl<const SHARE: usize> StoreFixture for Two<SHARE> {
    async fn new() -> Self {
        let [near, far] = [(); 2].map(|()| Arc::new(MemoryStore::new()) as Arc<dyn Store>);
        Self(Spanned::new(near, far, SHARES[SHARE]))
    }

    fn store(&self) -> Arc<dyn Store> {
        Arc::new(self.0.clone())
    }

    async fn reopen(&self) -> Arc<dyn Store> {
        self.store()
    }
}

mod both_have_all {
    use super::Two;
    use pubsub_core::MEMORY_STORE;

    pubsub_core::store_conformance!(Two<0>, MEMORY_STORE);
    pubsub_core::store_stress!(Two<0>, MEMORY_STORE, 2, 20);
}

mod the_near_one_is_bounded {
    use super::Two;
    use pubsub_core::MEMORY_STORE;

    pubsub_core::store_conformance!(Two<1>, MEMORY_STORE);
}

mod one_is_down_in_turn {
    use super::Two;
    use pubsub_core::MEMORY_STORE;

    pubsub_core::store_conformance!(Two<2>, MEMORY_STORE);
    pubsub_core::store_stress!(Two<2>, MEMORY_STORE, 2, 20);
}
