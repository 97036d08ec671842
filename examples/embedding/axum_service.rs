//! `cargo run --example axum-service`: a worker inside a web service. `POST /build/action-123` asks for a build, `GET` of the
//! same says how its runs stand; Ctrl-C ends both, once what is under way is done.
#![expect(clippy::print_stdout, reason = "an example shows what it does")]

use axum::extract::{Path, State};
use axum::{Json, Router, http::StatusCode, routing::get};
use pubsub_pipeline::{
    ActionId, Cause, Command, Error, Event, EventType, OutputReader, Pipeline, RunQuery, RunRecord, Stage,
    Stop,
};

type Answer<T> = Result<T, (StatusCode, String)>;
fn refused(error: Error) -> (StatusCode, String) {
    let retry = error.is_retryable();
    (if retry { StatusCode::SERVICE_UNAVAILABLE } else { StatusCode::BAD_REQUEST }, error.to_string())
}

async fn ask(State(pipeline): State<Pipeline>, Path(action): Path<String>) -> Answer<String> {
    let (wanted, action) = (EventType::new("build-requested"), ActionId::new(action).map_err(refused)?);
    let published = pipeline.publish(Event::new(wanted.map_err(refused)?, action)).await;
    published.map(|event| event.position.to_string()).map_err(refused)
}

async fn runs(State(of): State<Pipeline>, Path(action): Path<String>) -> Answer<Json<Vec<RunRecord>>> {
    let query = RunQuery::all().with_action(ActionId::new(action).map_err(refused)?);
    of.reader().runs(&query).await.map(Json).map_err(refused)
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let (pipeline, (stopper, stop)) = (Pipeline::from_env().await?, Stop::pair());
    let command = Command::shell("echo building");
    let worker = pipeline.worker(Stage::new("build")?, ["build-requested:*".parse()?], command)?;
    let app = Router::new().route("/build/{action}", get(runs).post(ask)).with_state(pipeline);
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    println!("listening on {}", listener.local_addr()?);
    let asked = async move { tokio::signal::ctrl_c().await.map_or((), |()| stopper.stop(Cause::Shutdown)) };
    let serving = axum::serve(listener, app).with_graceful_shutdown(asked);
    tokio::try_join!(async { Ok(serving.await?) }, async { Ok(worker.run(stop).await?) }).map(drop)
}
