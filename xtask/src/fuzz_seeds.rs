//! What the fuzz targets begin with, made of real values.

use pubsub_pipeline::{
    ActionId, Error, Event, EventId, EventType, Exit, ExitClassification, ExitTable, LineNumber, Origin,
    Position, Role, RunKey, RunRecord, SealBuilder, Stage, Timestamp,
};

/// Target, name, bytes.
type Seed = (&'static str, &'static str, Vec<u8>);

pub(crate) fn all() -> Result<Vec<Seed>, String> {
    made().map_err(|error| error.chain())
}

fn made() -> Result<Vec<Seed>, Error> {
    let mut seeds: Vec<Seed> = Vec::new();
    let mut add = |target, name, text: &str| seeds.push((target, name, text.as_bytes().to_vec()));
    add("pattern", "literal", "build-requested:action-123\0build-requested\0action-123");
    add("pattern", "stars", "*-build-*:action-?2*:x\0a-build-\0action-12é:x");
    add("pattern", "escaped", "a\\:b\\*:\\?\0a:b*\0?");
    add("ids", "plain", "action-123 build");
    add("ids", "hostile", "../../etc con.txt COM1");
    add("ids", "run", "0123456789abcdef0123456789abcdef-1");
    for (name, text) in [
        ("folder", "file:runs"),
        ("url", "file:///var/lib/my%20runs?required=true"),
        ("memory", "memory:?required=false"),
        ("foreign", "redis://user:word@host"),
        ("time", "2026-11-25T04:32:21.5+01:00"),
        ("outcome", "timed_out"),
        ("payload", "{\"a\":[1.0,\"\\u0000\"]}"),
    ] {
        add("config", name, text);
    }
    add("event", "plain", &event(false)?.to_cloud_event()?);
    add("event", "full", &event(true)?.to_cloud_event()?);
    add("event", "deep", &format!("{}{}", "[".repeat(200), "]".repeat(200)));
    for target in ["capture", "frame", "spool", "index"] {
        add(target, "log", "one\ntwo\r\nS3cr3t-Value-42 three\n\u{e9}\0\u{1}\u{7f}end of what was printed\n");
        add(target, "numbers", &(0..400).map(|n| format!("{n}\n")).collect::<String>());
        add(target, "zeros", &"\0".repeat(600));
    }
    let (running, ended) = records()?;
    seeds.push(("record", "running", running.to_json()?));
    seeds.push(("record", "ended", ended.to_json()?));
    Ok(seeds)
}

fn event(full: bool) -> Result<Event, Error> {
    let mut event = Event::new(EventType::new("build-requested")?, ActionId::new("action-123")?)
        .with_id(EventId::new("e-1")?)
        .with_payload(r#"{"branch": "main", "n": 1.0}"#.parse()?);
    event.time = Timestamp::from_micros(1_764_045_141_500_000);
    if full {
        event = event.with_header("traceparent", "00-0af7-b7ad-01").with_header("git_sha", "abc");
        event.deliver_at = Some(event.time);
        event.replay_of = Some(EventId::new("e-0")?);
        event.origin = Some(Origin {
            role: Role::Outcome,
            stage: Stage::new("build")?,
            cause: EventId::new("c")?,
            root: EventId::new("r")?,
            root_position: Position::new("17"),
            links: 2,
        });
    }
    Ok(event)
}

fn records() -> Result<(RunRecord, RunRecord), Error> {
    let key = RunKey::new(ActionId::new("action-123")?, Stage::new("build")?, EventId::new("e-1")?, 1);
    let mut record = RunRecord::begun(key, "worker-1");
    let time = Timestamp::from_micros(1_764_045_141_500_000);
    (record.started_at, record.beat_at) = (time, time);
    record.command = vec!["make".to_owned(), "all".to_owned()];
    let running = record.clone();
    record.note("repaired", "3 lines were found behind the index", Some(LineNumber::FIRST));
    let exit = Exit::code(3);
    record.complete(&exit, ExitTable::default().classify(&exit), &SealBuilder::new().seal());
    for (first, last) in [(2, 4), (9, 9)] {
        let [first, last] = [first, last].map(|n| LineNumber::new(n).unwrap_or(LineNumber::FIRST));
        let range = pubsub_pipeline::LineRange::new(first, last);
        record.holes.push(pubsub_pipeline::Gap { range, bytes: Some(20), reason: "refused".to_owned() });
        record.gaps.push(pubsub_pipeline::Gap { range, bytes: None, reason: "over the limit".to_owned() });
    }
    (record.finished_at, record.beat_at) = (Some(time), time);
    record.notes.iter_mut().for_each(|note| note.time = time);
    Ok((running, record))
}
