//! Redis itself: the crate's commands, and a socket with nothing around it.

use std::time::{Duration, Instant};

use pubsub_pipeline::Event;
use redis::aio::MultiplexedConnection;
use redis::{Cmd, Pipeline, Value};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// The stream that the limits use.
pub(crate) const STREAM: &str = "raw";

/// Its group.
const GROUP: &str = "build";

/// The fields of an event's entry, as our broker writes them.
pub(crate) type Fields = Vec<(String, String)>;

pub(crate) fn fields(event: &Event) -> Fields {
    let attributes = event.to_attributes().unwrap();
    attributes.into_iter().map(|(name, text)| (name.to_owned(), text.into_owned())).collect()
}

pub(crate) async fn connect(url: &str) -> MultiplexedConnection {
    redis::Client::open(url).unwrap().get_multiplexed_async_connection().await.unwrap()
}

/// The command that adds an entry.
pub(crate) fn xadd(fields: &Fields) -> Cmd {
    let mut cmd = redis::cmd("XADD");
    cmd.arg(STREAM).arg("*");
    for (name, text) in fields {
        cmd.arg(name).arg(text);
    }
    cmd
}

/// One command after the other, each awaited.
pub(crate) async fn add_one_by_one(connection: &mut MultiplexedConnection, all: &[Fields]) {
    for fields in all {
        let _: String = xadd(fields).query_async(connection).await.unwrap();
    }
}

/// A pipeline for each batch, each awaited.
pub(crate) async fn add_batches(connection: &mut MultiplexedConnection, all: &[Fields], batch: usize) {
    for batch in all.chunks(batch) {
        let mut pipeline = Pipeline::new();
        for fields in batch {
            pipeline.add_command(xadd(fields));
        }
        let ids: Vec<String> = pipeline.query_async(connection).await.unwrap();
        assert_eq!(ids.len(), batch.len());
    }
}

/// A socket.
pub(crate) struct Socket {
    stream: TcpStream,
    read: Vec<u8>,
}

impl Socket {
    pub(crate) async fn open(port: u16) -> Self {
        let stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
        stream.set_nodelay(true).unwrap();
        Self { stream, read: vec![0; 256 * 1024] }
    }

    /// A pipeline for each batch, each awaited: an answer is one line for its length and one for the id.
    pub(crate) async fn add_batches(&mut self, all: &[Fields], batch: usize) {
        for batch in all.chunks(batch) {
            let packed: Vec<u8> = batch.iter().flat_map(|fields| xadd(fields).get_packed_command()).collect();
            self.stream.write_all(&packed).await.unwrap();
            let mut lines = 0;
            while lines < 2 * batch.len() {
                let many = self.stream.read(&mut self.read).await.unwrap();
                lines += self.read.iter().take(many).filter(|byte| **byte == b'\n').count();
            }
        }
    }
}

/// Adds what a group is to read.
pub(crate) async fn fill(connection: &mut MultiplexedConnection, all: &[Fields]) {
    let _: () = redis::cmd("FLUSHALL").query_async(connection).await.unwrap();
    add_batches(connection, all, 1000).await;
    let group = redis::cmd("XGROUP").arg("CREATE").arg(STREAM).arg(GROUP).arg("0").clone();
    let _: () = group.query_async(connection).await.unwrap();
}

fn xreadgroup(count: usize, block: Option<u64>) -> Cmd {
    let mut cmd = redis::cmd("XREADGROUP");
    cmd.arg("GROUP").arg(GROUP).arg("me").arg("COUNT").arg(count);
    if let Some(ms) = block {
        cmd.arg("BLOCK").arg(ms);
    }
    cmd.arg("STREAMS").arg(STREAM).arg(">");
    cmd
}

/// The entries of an answer to `XREADGROUP`: id and fields.
fn entries(answer: Value) -> Vec<Value> {
    let list = |value: Value| match value {
        Value::Array(list) => list,
        Value::Nil => Vec::new(),
        other => panic!("{other:?}"),
    };
    let stream = list(answer).pop().map(list);
    stream.and_then(|mut stream| stream.pop()).map(list).unwrap_or_default()
}

fn id(entry: &Value) -> Vec<u8> {
    match entry {
        Value::Array(parts) => match parts.first() {
            Some(Value::BulkString(id)) => id.clone(),
            other => panic!("{other:?}"),
        },
        other => panic!("{other:?}"),
    }
}

/// Reads all that is there and acknowledges it, each acknowledgement in front of the next read.
pub(crate) async fn consume(connection: &mut MultiplexedConnection, many: usize, count: usize) -> Duration {
    let begun = Instant::now();
    let (mut seen, mut ids) = (0, Vec::new());
    while seen < many || !ids.is_empty() {
        let mut pipeline = Pipeline::new();
        if !ids.is_empty() {
            pipeline.cmd("XACK").arg(STREAM).arg(GROUP).arg(&ids).ignore();
        }
        pipeline.add_command(xreadgroup(count, None));
        let mut answers: Vec<Value> = pipeline.query_async(connection).await.unwrap();
        let read = entries(answers.pop().unwrap());
        ids = read.iter().map(id).collect();
        seen += read.len();
    }
    begun.elapsed()
}

/// Waits for entries one by one and acknowledges each; answers the payload of each and when it was there.
pub(crate) async fn wait_for(
    connection: &mut MultiplexedConnection,
    many: usize,
    mut seen: impl FnMut(&str),
) {
    let mut left = many;
    while left > 0 {
        let answer: Value = xreadgroup(100, Some(5000)).query_async(connection).await.unwrap();
        let read = entries(answer);
        for entry in &read {
            seen(&payload(entry));
        }
        let ids: Vec<Vec<u8>> = read.iter().map(id).collect();
        if !ids.is_empty() {
            let _: u64 =
                redis::cmd("XACK").arg(STREAM).arg(GROUP).arg(&ids).query_async(connection).await.unwrap();
        }
        left = left.saturating_sub(ids.len());
    }
}

/// The last field's text.
fn payload(entry: &Value) -> String {
    let Value::Array(parts) = entry else { panic!("{entry:?}") };
    let Some(Value::Array(fields)) = parts.get(1) else { panic!("{entry:?}") };
    let Some(Value::BulkString(text)) = fields.last() else { panic!("{entry:?}") };
    String::from_utf8(text.clone()).unwrap()
}
