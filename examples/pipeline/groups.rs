//! The groups of a broker, and how much each has to do: `groups`.

use clap::{Args, Subcommand};
use pubsub_pipeline::{ActionId, GroupInfo, GroupName, Scope};
use serde::Serialize;

use crate::codes::{DONE, Done, not_there};
use crate::events::only_read;
use crate::help;
use crate::places::Places;
use crate::screen::{Form, Screen};

#[derive(Debug, Args)]
pub(crate) struct Groups {
    #[command(subcommand)]
    pub(crate) command: GroupsCommand,
}

#[derive(Debug, Subcommand)]
pub(crate) enum GroupsCommand {
    /// The groups, with how many events each has waiting, delayed and leased
    #[command(after_help = help::GROUPS_LIST)]
    List {
        /// Those that take events of this action, and these events alone
        #[arg(long)]
        action: Option<ActionId>,
    },
    /// Drop a group that no worker is in, with all that it has not settled
    #[command(after_help = help::GROUPS_DROP)]
    Drop {
        /// Its name, as `groups list` has it
        group: GroupName,
    },
}

#[derive(Serialize)]
struct GroupDocument<'a> {
    group: &'a str,
    stage: Option<&'a str>,
    patterns: Vec<String>,
    lease_ms: u64,
    members: u64,
    waiting: u64,
    delayed: u64,
    leased: u64,
}

impl<'a> GroupDocument<'a> {
    fn new(group: &'a GroupInfo) -> Self {
        Self {
            group: group.name.as_str(),
            stage: group.stage.as_ref().map(AsRef::as_ref),
            patterns: group.patterns.iter().map(ToString::to_string).collect(),
            lease_ms: u64::try_from(group.lease.as_millis()).unwrap_or(u64::MAX),
            members: group.members,
            waiting: group.depth.waiting,
            delayed: group.depth.delayed,
            leased: group.depth.leased,
        }
    }

    fn cells(&self) -> [String; 7] {
        let Self { members, waiting, delayed, leased, .. } = self;
        [
            self.group.to_owned(),
            self.stage.unwrap_or("-").to_owned(),
            self.patterns.join(" "),
            format!("{members} members"),
            format!("{waiting} waiting"),
            format!("{delayed} delayed"),
            format!("{leased} leased"),
        ]
    }
}

pub(crate) async fn groups(places: &Places, screen: &mut Screen, args: &Groups) -> Done {
    let broker = places.existing_broker().await.map_err(only_read)?;
    match &args.command {
        GroupsCommand::List { action } => {
            let scope = Scope { action: action.clone(), group: None };
            for group in &broker.groups(&scope).await? {
                let document = GroupDocument::new(group);
                match screen.form {
                    Form::Json => screen.document(&document)?,
                    Form::Text => screen.text(&document.cells().join("\t"))?,
                }
            }
        }
        GroupsCommand::Drop { group } => {
            let scope = Scope { action: None, group: Some(group.clone()) };
            let known = broker.groups(&scope).await?.into_iter().next();
            let Some(known) = known.filter(|known| known.name == *group) else {
                return Err(not_there(format!("there is no group {group}; `pipeline groups list` has all")));
            };
            broker.remove_group(group).await?;
            let document = GroupDocument::new(&known);
            match screen.form {
                Form::Json => screen.document(&document)?,
                Form::Text => screen.text(&format!(
                    "{group} dropped, with {} waiting, {} delayed, {} leased",
                    document.waiting, document.delayed, document.leased
                ))?,
            }
        }
    }
    Ok(DONE)
}
