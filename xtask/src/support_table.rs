//! The support table of the README, made from what the backends declare.

use std::fmt::Write as _;
use std::fs;

use pubsub_pipeline::{Durability, FILE_STORE, MEMORY_STORE, StoreCapabilities, Support};

use crate::run::{Done, root};

const BEGIN: &str = "<!-- support table: `cargo xtask support-table` writes it -->\n";
const END: &str = "<!-- end of the support table -->";

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
    let mut text = String::from(
        "| store | search | follow | remove | needs order | visible within | an acknowledged write survives |\n\
         | --- | --- | --- | --- | --- | --- | --- |\n",
    );
    for store in STORES {
        let _ = writeln!(
            text,
            "| {} | {} | {} | {} | {} | {:?} | {} |",
            store.name,
            yes(store.search),
            yes(store.follow),
            yes(store.remove),
            yes(store.ordered),
            store.visible_within,
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
