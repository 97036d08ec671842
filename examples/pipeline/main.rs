//! `cargo run --example pipeline -- --help`

use std::process::ExitCode;

fn main() -> ExitCode {
    pubsub_pipeline_examples::main()
}
