//! The program that `cargo xtask crash` kills: `PIPELINE_FAULT=<point>:<nth>` says where it dies.

#![expect(clippy::print_stdout, reason = "a program talks to its terminal")]

use std::process::ExitCode;

fn main() -> ExitCode {
    // What there is to choose from.
    if std::env::args().nth(1).as_deref() == Some("fault-points") {
        println!("{}", pubsub_pipeline::fault::POINTS.join("\n"));
        return ExitCode::SUCCESS;
    }
    pubsub_pipeline_examples::main()
}
