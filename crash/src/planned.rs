//! What a round is made of: its events, their commands, and its workers.

use serde_json::Value;

use crate::{BEGIN, Chance};

pub(crate) const ACTIONS: u64 = 4;

pub(crate) const EVENTS: u64 = 16;

/// So many lines are more than [`MOST_OUTPUT`].
const FLOOD: u64 = 40_000;

/// Of which the first half is kept, and of what comes after it more than one block.
const MOST_OUTPUT: &str = "1MB";

/// The first stage: prints numbered lines, with pauses in which it may be killed. The plan, the id of a planned event,
/// says how many, how long, and how it ends; what it writes for the next stage names the attempt.
pub(crate) const BUILD: &str = r#"
IFS=. read -r n lines pause code <<END
$plan
END
i=0
while [ $i -lt $lines ]; do
  i=$((i+1))
  echo "$i of $lines by $PIPELINE_RUN_ID"
  [ $((i % 25)) -ne 0 ] || [ $pause = 00 ] || sleep 0.$pause
done
echo "from=$PIPELINE_ATTEMPT" >>"$PIPELINE_OUTPUT"
say end
exit $code
"#;

/// The second stage: prints what it was given.
const TEST: &str = r#"
echo "$PIPELINE_PAYLOAD"
sleep 0.03
say end
"#;

/// A third stage, which nobody kills, writes down what is told of the others.
pub(crate) const TELL: [&str; 11] = [
    "work",
    "--stage",
    "tell",
    "--on",
    "build-completed:*",
    "--on",
    "test-completed:*",
    "--",
    "sh",
    "-c",
    r#"echo "$PIPELINE_PAYLOAD" >>told"#,
];

/// Where the output of a round goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stores {
    One,
    /// Both must have everything.
    Two,
    /// Both, and some workers have a spool in front of them.
    Spooled,
}

/// A store beside the folder's own.
pub(crate) const SECOND: [&str; 2] = ["--store", "file:second"];

/// What a worker of a stage is started with.
pub(crate) fn worker(stage: &str, stores: Stores) -> Vec<String> {
    let mut words = vec!["work", "--stage", stage, "--lease", "1s", "--concurrency", "2"];
    if stores != Stores::One {
        words.extend(["--store", "file:.pipeline", "--store", "file:second?required=true"]);
    }
    if stores == Stores::Spooled {
        words.extend(["--spool", "spool"]);
    }
    words.extend(match stage {
        "build" => [
            "--on",
            "build-requested:*",
            "--then",
            "tested",
            "--retry",
            "fixed",
            "--attempts",
            "2",
            "--max-output",
            MOST_OUTPUT,
        ]
        .as_slice(),
        _ => &["--on", "tested:*", "--retry", "none"],
    });
    let script = if stage == "build" {
        format!("{BEGIN}plan=$PIPELINE_EVENT_ID{BUILD}")
    } else {
        format!("{BEGIN}{TEST}")
    };
    words.extend(["--", "sh", "-c", &script]);
    words.into_iter().map(str::to_owned).collect()
}

/// An event of a round.
#[derive(Clone, Debug)]
pub(crate) struct Planned {
    pub(crate) action: String,
    pub(crate) id: String,
    pub(crate) lines: u64,
    pub(crate) code: u64,
}

impl Planned {
    /// Of actions each of which has several events but the first, which has one that succeeds.
    pub(crate) fn draw(n: u64, floods: bool, chance: &mut Chance) -> Self {
        let action = if n == 0 { 0 } else { 1 + chance.below(ACTIONS - 1) };
        // Many are short, so that a worker is often between two of its steps; some last longer than a lease, so that a
        // command which outlives its worker is seen.
        let (pause, lines) = match chance.below(8) {
            _ if n == 1 && floods => (0, FLOOD),
            0..4 => (0, chance.below(20)),
            4..7 => (1 + chance.below(8), chance.below(500)),
            _ => (30, 150),
        };
        let code = if n > 1 && chance.one_in(8) { [3, 42][usize::from(chance.one_in(2))] } else { 0 };
        // Nobody follows the last action.
        let action = if n == 1 && floods { ACTIONS - 1 } else { action };
        Self { action: format!("action-{action}"), id: format!("{n}.{lines}.{pause:02}.{code}"), lines, code }
    }

    pub(crate) fn words(&self) -> [&str; 6] {
        ["publish", &self.action, "build-requested", "[1]", "--id", &self.id]
    }

    /// What its command prints in this run.
    pub(crate) fn prints(&self, run: &Value) -> Vec<String> {
        let (run, lines) = (run["run_id"].as_str().unwrap(), self.lines);
        (1..=lines).map(|i| format!("{i} of {lines} by {run}")).collect()
    }
}

pub(crate) fn actions() -> impl Iterator<Item = String> {
    (0..ACTIONS).map(|n| format!("action-{n}"))
}
