//! `cargo run --example migrate file:.pipeline s3://bucket/archive`: every run of one store is copied into another, and the
//! copy is read again. Repeated, it changes nothing but what is new.
#![expect(clippy::print_stdout, reason = "an example shows what it does")]

use pubsub_pipeline::{
    Error, Judgement, OutputReader, Result, RunQuery, Timestamp, connect_store, copy_verified,
};

#[tokio::main]
async fn main() -> Result<()> {
    let places: Vec<String> = std::env::args().skip(1).collect();
    let [from, to] = places.as_slice() else {
        return Err(Error::invalid("name the store to copy from, and the one to copy to"));
    };
    let from = connect_store(&from.parse()?).await?.store;
    let to = connect_store(&to.parse()?).await?.store;

    let (mut runs, mut lines) = (0, 0);
    // The oldest first, so that a copy that is cut short can go on where it was.
    for run in from.runs(&RunQuery::all()).await?.iter().rev() {
        if run.judge(Timestamp::now()) == Judgement::Running {
            println!("{} {}: is running, left for the next time", run.key.action_id, run.key.stage);
            continue;
        }
        let copied = copy_verified(&from, &run.key.run_id, &*to).await?;
        println!("{} {}: {} lines", run.key.action_id, run.key.stage, copied.lines);
        (runs, lines) = (runs + 1, lines + copied.lines);
    }
    println!("{runs} runs, {lines} lines");
    Ok(())
}
