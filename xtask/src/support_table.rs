//! The support table of the README, made from what the backends declare.

use std::fmt::Write as _;

use pubsub_pipeline::{
    BrokerCapabilities, Durability, ELASTIC_STORE, FILE_BROKER, FILE_STORE, MEMORY_BROKER, MEMORY_STORE,
    MONGO_STORE, Order, REDIS_BROKER, REDIS_STORE, S3_STORE, StoreCapabilities, Support,
};

use crate::readme::{Place, Readme};
use crate::run::Done;

const PLACE: Place = Place {
    begin: "<!-- support table: `cargo xtask support-table` writes it -->",
    end: "<!-- end of the support table -->",
};

const BROKERS: [BrokerCapabilities; 3] = [FILE_BROKER, REDIS_BROKER, MEMORY_BROKER];

const STORES: [StoreCapabilities; 6] =
    [FILE_STORE, REDIS_STORE, ELASTIC_STORE, MONGO_STORE, S3_STORE, MEMORY_STORE];

pub(crate) fn write() -> Done {
    Readme::with(PLACE, &table())?.write()
}

pub(crate) fn check() -> Done {
    if Readme::with(PLACE, &table())?.is_as_wanted() {
        Ok(())
    } else {
        Err("README's support table is not what the backends declare: run cargo xtask support-table"
            .to_owned())
    }
}

fn table() -> String {
    format!("\n{}\n{}", brokers(), stores())
}

fn brokers() -> String {
    let mut text = String::from(
        "| broker | groups | broadcast | from any place | delay | dead letters | cancel | order of an action's events | an id is known | largest event | an acknowledged publish survives |\n\
         | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |\n",
    );
    for broker in BROKERS {
        let order = match broker.order {
            Order::Member => "within a member",
            Order::Group => "within a group",
        };
        let known =
            broker.dedupe_window.map_or("as long as its event".to_owned(), |time| format!("{time:?}"));
        let _ = writeln!(
            text,
            "| {} | {} | {} | {} | {} | {} | {} | {order} | {known} | {} KiB | {} |",
            broker.name,
            yes(broker.groups),
            yes(broker.broadcast),
            yes(broker.broadcast_start),
            yes(broker.delay),
            yes(broker.dead_letters),
            yes(broker.cancel),
            broker.max_event_bytes / 1024,
            durability(broker.durability)
        );
    }
    text
}

fn stores() -> String {
    let mut text = String::from(
        "| store | search | follow | remove | needs order | visible within | an acknowledged write survives |\n\
         | --- | --- | --- | --- | --- | --- | --- |\n",
    );
    for store in STORES {
        let _ = writeln!(
            text,
            "| {} | {} | {} | {} | {} | {} | {} |",
            store.name,
            yes(store.search),
            yes(store.follow),
            yes(store.remove),
            yes(store.ordered),
            if store.visible_within.is_zero() {
                "at once".to_owned()
            } else {
                format!("{:?}", store.visible_within)
            },
            durability(store.durability)
        );
    }
    text
}

const fn yes(support: Support) -> &'static str {
    if support.is_yes() { "yes" } else { "no" }
}

const fn durability(durability: Durability) -> &'static str {
    match durability {
        Durability::Memory => "nothing",
        Durability::ProcessCrash => "a killed process",
        Durability::PowerLoss => "a power loss",
    }
}
