//! The support table of the README, made from what the backends declare.

use std::fmt::Write as _;
use std::fs;

use pubsub_pipeline::{
    BrokerCapabilities, Durability, FILE_BROKER, FILE_STORE, MEMORY_BROKER, MEMORY_STORE, Order,
    StoreCapabilities, Support,
};

use crate::run::{Done, root};

const BEGIN: &str = "<!-- support table: `cargo xtask support-table` writes it -->\n";
const END: &str = "<!-- end of the support table -->";

const BROKERS: [BrokerCapabilities; 2] = [FILE_BROKER, MEMORY_BROKER];

const STORES: [StoreCapabilities; 2] = [FILE_STORE, MEMORY_STORE];

pub(crate) fn write() -> Done {
    let (path, readme, wanted) = both()?;
    if readme != wanted {
        fs::write(&path, wanted).map_err(|e| e.to_string())?;
    }
    Ok(())
}

pub(crate) fn check() -> Done {
    let (_, readme, wanted) = both()?;
    if readme == wanted {
        Ok(())
    } else {
        Err("README's support table is not what the backends declare: run cargo xtask support-table"
            .to_owned())
    }
}

fn both() -> Result<(std::path::PathBuf, String, String), String> {
    let path = root().join("README.md");
    let readme = fs::read_to_string(&path).map_err(|e| e.to_string())?;
    let missing = || "README.md has no place for the support table".to_owned();
    let (before, rest) = readme.split_once(BEGIN).ok_or_else(missing)?;
    let (_, after) = rest.split_once(END).ok_or_else(missing)?;
    let wanted = format!("{before}{BEGIN}\n{}\n{END}{after}", table());
    Ok((path, readme.clone(), wanted))
}

fn table() -> String {
    format!("{}\n{}", brokers(), stores())
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
