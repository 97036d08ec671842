//! Chaos over Redis: publisher, workers and followers while links fail and servers die.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use services::{RedisVersion, redis_server};

use crate::crash::build;
use crate::run::{Done, Form};

/// What a call asks for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Chaos {
    seed: Option<u64>,
    seconds: u64,
    phase: Option<usize>,
    form: Form,
}

impl Chaos {
    pub(crate) const fn new(form: Form) -> Self {
        let seconds = match form {
            Form::Quick => 60,
            Form::Long => 600,
        };
        Self { seed: None, seconds, phase: None, form }
    }

    /// From the words of the command line; `None` for what is none of them.
    pub(crate) fn parse(words: &[&str]) -> Option<Self> {
        let form = if words.contains(&"--long") { Form::Long } else { Form::Quick };
        let mut chaos = Self::new(form);
        let mut words = words.iter().filter(|word| **word != "--long");
        while let Some(word) = words.next() {
            let number = words.next()?.parse().ok()?;
            match *word {
                "--seed" => chaos.seed = Some(number),
                "--seconds" => chaos.seconds = number,
                "--phase" => chaos.phase = number.try_into().ok(),
                _ => return None,
            }
        }
        Some(chaos)
    }
}

pub(crate) fn run(chaos: Chaos) -> Done {
    redis_server(RedisVersion::Installed).map_err(|e| e.to_string())?;
    let program = build(chaos.form)?;
    let Chaos { seconds, form, .. } = chaos;
    let seed = chaos.seed.unwrap_or_else(fresh_seed);
    let long = if form == Form::Long { "--long " } else { "" };
    println!("chaos from seed {seed}, about {seconds} s");
    let plan = ::crash::Chaos { program, seed, span: Duration::from_secs(seconds), phase: chaos.phase };
    let again = |(phase, why)| {
        let words = format!("{long}--seconds {seconds} --seed {seed} --phase {phase}");
        format!("{why}\ncargo xtask chaos redis {words} draws the same again")
    };
    let tally = ::crash::chaos(&plan).map_err(again)?;
    println!("{tally}seed {seed}");
    Ok(())
}

/// Another one each time, and short enough to be typed.
fn fresh_seed() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    now.as_millis().try_into().unwrap_or(u64::MAX) % 1_000_000
}
