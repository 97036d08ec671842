//! Tasks of the workspace: `cargo xtask <task>`.
#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a program of the workspace talks to its terminal"
)]

mod api;
mod bench;
mod build_time;
mod chaos;
mod check;
mod crash;
mod curves;
mod dependencies;
mod facade;
mod features;
mod fuzz;
mod fuzz_seeds;
mod opensearch;
mod published;
mod readme;
mod run;
mod services;
mod style;
mod support_table;
mod versions;

use std::process::ExitCode;

use ::services::RedisVersion;

const USAGE: &str = "\
cargo xtask <task>

  bench [--curves | --save] [NAME..]
                           each benchmark beside its limit, as one table, or with --curves at several sizes;
                           --save writes both into README, where only some are named
                           in place of their rows alone
  test [--long]            every test, with the servers that they need; with --long also those marked `long: ...`,
                           those for Redis on Redis 8.2 and Valkey 9 too, those for
                           OpenSearch on four more engines, 1,000 rounds of `crash`, and 10 minutes of
                           `chaos`
  test redis [8.2|valkey-9]
                           those that need Redis alone, on the one that is installed or on this one
  test opensearch          those that need OpenSearch alone, on the engine that PIPELINE_SEARCH_ENGINE names
  test mongo               those that need MongoDB alone
  test s3                  those that need S3 alone
  test all-stores          those of all stores together, with the servers of all
  check [--long]           format, lints, docs, each feature alone, dependency guards, style, support table, packages;
                           with --long also `package`, `msrv`, `minimal` and `features`
  package                  packs the published crates and compiles what was packed
  msrv                     checks them with exactly the Rust that `rust-version` names
  minimal                  checks them with the oldest versions that Cargo.toml allows; needs a nightly compiler
  features                 checks every set of their features
  api [--check]            writes what is public in them into api/, or compares it; needs a nightly compiler and
                           cargo-public-api
  build-time               how long a clean release build of core and of the facade takes, and of how many crates
  crash [--rounds N] [--seed S] [--long]
                           scenes of a machine that fails, then 40 rounds of kills, at random and at fault points
                           (1,000 with --long); with --seed the rounds alone
  chaos redis [--seed S] [--seconds N] [--phase 1|2|3] [--long]
                           publisher, workers and followers over Redis while links fail, servers die, come back empty
                           or are replaced, and workers are killed: 60 s (10 minutes with --long), or one phase of it
  fuzz [--long] [TARGET..] fuzz targets for 15 s each, two at once (10 minutes each with --long)
  fuzz seeds               writes the seeds of the fuzz targets anew
  services up|down|status  starts the servers that tests need and prints the variables that name them, as a shell's
                           eval takes them; ends them; says what runs
  support-table [--check]  writes README's support table from the declared capabilities, or compares it";

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let done = match words.as_slice() {
        ["test"] => run::test(run::Form::Quick),
        ["test", "--long"] => run::test(run::Form::Long),
        ["test", "redis"] => run::redis(RedisVersion::Installed),
        ["test", "redis", "8.2"] => run::redis(RedisVersion::Redis82),
        ["test", "redis", "valkey-9"] => run::redis(RedisVersion::Valkey9),
        ["test", "opensearch"] => opensearch::of_environment(),
        ["test", "mongo"] => run::mongo(),
        ["test", "s3"] => run::s3(),
        ["test", "all-stores"] => run::all_stores(),
        ["bench", words @ ..] => match bench::Bench::parse(words) {
            Some(asked) => bench::bench(&asked),
            None => return usage(),
        },
        ["check"] => check::all(run::Form::Quick),
        ["check", "--long"] => check::all(run::Form::Long),
        ["package"] => published::package(),
        ["api"] => api::write(),
        ["api", "--check"] => api::check(),
        ["minimal"] => versions::minimal(),
        ["msrv"] => versions::rust(),
        ["features"] => features::powerset(),
        ["build-time"] => build_time::measure(),
        ["crash", words @ ..] => match crash::Crash::parse(words) {
            Some(crash) => crash::run(crash),
            None => return usage(),
        },
        ["chaos", "redis", words @ ..] => match chaos::Chaos::parse(words) {
            Some(chaos) => chaos::run(chaos),
            None => return usage(),
        },
        ["fuzz", "seeds"] => fuzz::seeds(),
        ["fuzz", words @ ..] => match fuzz::Fuzz::parse(words) {
            Some(fuzz) => fuzz::run(fuzz),
            None => return usage(),
        },
        ["services", "up"] => services::up(),
        ["services", "down"] => services::down(),
        ["services", "status"] => services::status(),
        ["support-table"] => support_table::write(),
        ["support-table", "--check"] => support_table::check(),
        _ => return usage(),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("xtask: {why}");
            ExitCode::FAILURE
        }
    }
}

fn usage() -> ExitCode {
    eprintln!("{USAGE}");
    ExitCode::from(2)
}
