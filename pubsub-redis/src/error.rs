//! What the driver says, as the family's errors.

use std::error::Error as StdError;
use std::io;
use std::sync::Arc;

use pubsub_core::{Error, ErrorKind};
use redis::{ErrorKind as Driver, ParsingError, RedisError, ServerError, ServerErrorKind};

/// What kind of failure it is for whoever called. Of a pipeline the first refusal says it.
pub(crate) fn kind_of(error: &RedisError) -> ErrorKind {
    let refusals = error.clone().into_server_errors();
    match refusals.as_deref().and_then(|refusals| refusals.first()) {
        Some((_, refusal)) => of_server(refusal),
        None => of_driver(error),
    }
}

/// By the code at the beginning of the server's answer.
fn of_server(error: &ServerError) -> ErrorKind {
    let text = error.details().unwrap_or_default();
    match error.code() {
        "OOM" => ErrorKind::Full,
        // It was blocked at a server that became a replica.
        "UNBLOCKED" if text.contains("instance state changed") => ErrorKind::Unavailable,
        "NOGROUP" | "UNBLOCKED" => ErrorKind::NotFound,
        "WRONGTYPE" | "BUSYGROUP" | "BUSYKEY" => ErrorKind::Conflict,
        "NOAUTH" | "WRONGPASS" | "NOPERM" | "DENIED" => ErrorKind::Refused,
        "NOPROTO" => ErrorKind::Unsupported,
        // READONLY is a master that was demoted a moment ago; BUSY a script that takes long.
        "LOADING" | "TRYAGAIN" | "CLUSTERDOWN" | "MASTERDOWN" | "MOVED" | "ASK" | "READONLY" | "BUSY"
        | "MISCONF" | "NOREPLICAS" => ErrorKind::Unavailable,
        "ERR" => of_text(text),
        _ => ErrorKind::Internal,
    }
}

/// By the text, where the code says nothing.
fn of_text(text: &str) -> ErrorKind {
    const KNOWN: [(&str, ErrorKind); 11] = [
        // What NOPERM is outside of scripts.
        ("can't run this command or subcommand", ErrorKind::Refused),
        ("can't access at least one of the keys", ErrorKind::Refused),
        ("max number of clients", ErrorKind::Unavailable),
        // It is no master any more.
        ("WAIT cannot be used with replica", ErrorKind::Unavailable),
        ("unknown command", ErrorKind::Unsupported),
        ("unknown subcommand", ErrorKind::Unsupported),
        ("invalid bulk length", ErrorKind::TooLarge),
        ("exceeds maximum allowed size", ErrorKind::TooLarge),
        ("DB index is out of range", ErrorKind::Invalid),
        ("SELECT is not allowed in cluster mode", ErrorKind::Invalid),
        ("cluster support disabled", ErrorKind::Invalid),
    ];
    let known = KNOWN.iter().find(|(part, _)| text.contains(part));
    known.map_or(ErrorKind::Internal, |(_, kind)| *kind)
}

fn of_driver(error: &RedisError) -> ErrorKind {
    match error.kind() {
        Driver::Io => of_io(io_error(error)),
        // An answer of another shape than was expected is a defect; bytes that are no answer are a cut.
        Driver::Parse if is_of_another_shape(error) => ErrorKind::Internal,
        Driver::Parse | Driver::ClusterConnectionNotFound | Driver::NoValidReplicasFoundBySentinel => {
            ErrorKind::Unavailable
        }
        Driver::AuthenticationFailed => ErrorKind::Refused,
        Driver::InvalidClientConfig | Driver::EmptySentinelList | Driver::MasterNameNotFoundBySentinel => {
            ErrorKind::Invalid
        }
        Driver::RESP3NotSupported => ErrorKind::Unsupported,
        // UnexpectedReturnType, Client, Extension, and what comes with a newer driver.
        _ => ErrorKind::Internal,
    }
}

/// The driver has one error for both; that of bytes which are no answer begins as its parser says it.
fn is_of_another_shape(error: &RedisError) -> bool {
    let parsing = error.source().and_then(|source| source.downcast_ref::<ParsingError>());
    parsing.is_some_and(|parsing| !parsing.to_string().contains("Parse error at"))
}

/// The failure of the network below; the driver keeps it behind a pointer.
pub(crate) fn io_error(error: &RedisError) -> Option<&io::Error> {
    error.source()?.downcast_ref::<Arc<dyn StdError + Send + Sync>>()?.downcast_ref()
}

fn of_io(error: Option<&io::Error>) -> ErrorKind {
    match error.map(io::Error::kind) {
        Some(io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock) => ErrorKind::TimedOut,
        // TLS where there is none, or none where it is needed.
        Some(io::ErrorKind::InvalidInput) => ErrorKind::Invalid,
        // A certificate that nobody vouches for; a socket that is another user's.
        Some(io::ErrorKind::InvalidData | io::ErrorKind::PermissionDenied) => ErrorKind::Refused,
        _ => ErrorKind::Unavailable,
    }
}

/// Whether a node of a cluster says that what was asked for is at another one, or on its way there.
pub(crate) fn is_elsewhere(error: &Error) -> bool {
    let driver = error.source().and_then(|source| source.downcast_ref::<RedisError>());
    driver.is_some_and(|driver| {
        matches!(
            driver.kind(),
            Driver::Server(ServerErrorKind::Moved | ServerErrorKind::Ask | ServerErrorKind::TryAgain)
        )
    })
}

/// For `map_err`: the failure of doing this.
pub(crate) fn failed(doing: &'static str) -> impl Fn(RedisError) -> Error {
    move |error| {
        let kind = kind_of(&error);
        let told = Error::new(kind, doing).with_source(error);
        if kind == ErrorKind::Full { told.with("limit", "maxmemory of the Redis server") } else { told }
    }
}

#[cfg(test)]
mod tests {
    use redis::{Pipeline, ServerErrorKind as Server, Value, parse_redis_value};
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    /// As a server sends it.
    fn sent(answer: &str) -> RedisError {
        parse_redis_value(format!("-{answer}\r\n").as_bytes()).unwrap().extract_error().unwrap_err()
    }

    #[test]
    fn every_code_of_a_server_has_a_kind() {
        for (answer, expected) in [
            ("OOM command not allowed when used memory > 'maxmemory'.", ErrorKind::Full),
            ("NOGROUP No such key 'x' or consumer group 'g'", ErrorKind::NotFound),
            ("UNBLOCKED the stream key no longer exists", ErrorKind::NotFound),
            (
                "UNBLOCKED force unblock from blocking operation, instance state changed (master -> replica?)",
                ErrorKind::Unavailable,
            ),
            ("WRONGTYPE Operation against a key holding the wrong kind of value", ErrorKind::Conflict),
            ("BUSYGROUP Consumer Group name already exists", ErrorKind::Conflict),
            ("BUSYKEY Target key name already exists.", ErrorKind::Conflict),
            ("NOAUTH Authentication required.", ErrorKind::Refused),
            ("WRONGPASS invalid username-password pair or user is disabled.", ErrorKind::Refused),
            ("NOPERM this user has no permissions to run the 'get' command", ErrorKind::Refused),
            ("DENIED Redis is running in protected mode", ErrorKind::Refused),
            ("NOPROTO unsupported protocol version", ErrorKind::Unsupported),
            ("LOADING Redis is loading the dataset in memory", ErrorKind::Unavailable),
            ("TRYAGAIN Multiple keys request during rehashing of slot", ErrorKind::Unavailable),
            ("CLUSTERDOWN The cluster is down", ErrorKind::Unavailable),
            ("MASTERDOWN Link with MASTER is down", ErrorKind::Unavailable),
            ("MOVED 3999 127.0.0.1:6381", ErrorKind::Unavailable),
            ("ASK 3999 127.0.0.1:6381", ErrorKind::Unavailable),
            ("READONLY You can't write against a read only replica.", ErrorKind::Unavailable),
            ("BUSY Redis is busy running a script.", ErrorKind::Unavailable),
            ("MISCONF Redis is configured to save RDB snapshots", ErrorKind::Unavailable),
            ("NOREPLICAS Not enough good replicas to write.", ErrorKind::Unavailable),
            ("ERR max number of clients reached", ErrorKind::Unavailable),
            ("ERR WAIT cannot be used with replica instances.", ErrorKind::Unavailable),
            ("ERR unknown command 'XACKDEL'", ErrorKind::Unsupported),
            ("ERR unknown subcommand 'SHARDS'. Try CLUSTER HELP.", ErrorKind::Unsupported),
            ("ERR Protocol error: invalid bulk length", ErrorKind::TooLarge),
            ("ERR string exceeds maximum allowed size (proto-max-bulk-len)", ErrorKind::TooLarge),
            ("ERR DB index is out of range", ErrorKind::Invalid),
            ("ERR SELECT is not allowed in cluster mode", ErrorKind::Invalid),
            ("ERR This instance has cluster support disabled", ErrorKind::Invalid),
            ("ERR The user executing the script can't run this command or subcommand", ErrorKind::Refused),
            ("ERR The user executing the script can't access at least one of the keys", ErrorKind::Refused),
            ("ERR syntax error", ErrorKind::Internal),
            ("NOSCRIPT No matching script. Please use EVAL.", ErrorKind::Internal),
            ("EXECABORT Transaction discarded because of previous errors.", ErrorKind::Internal),
            ("CROSSSLOT Keys in request don't hash to the same slot", ErrorKind::Internal),
            ("NOTBUSY No scripts in execution right now.", ErrorKind::Internal),
            ("NOSUB 'UNSUBSCRIBE' requires a subscription", ErrorKind::Internal),
            ("SOMETHING new", ErrorKind::Internal),
        ] {
            assert_eq!(kind_of(&sent(answer)), expected, "{answer}");
        }
    }

    #[test]
    fn what_is_at_another_node_is_told_from_what_cannot_be_had() {
        for (answer, expected) in [
            ("MOVED 3999 127.0.0.1:6381", true),
            ("ASK 3999 127.0.0.1:6381", true),
            ("TRYAGAIN Multiple keys request during rehashing of slot", true),
            ("CLUSTERDOWN The cluster is down", false),
            ("READONLY You can't write against a read only replica.", false),
        ] {
            assert_eq!(is_elsewhere(&failed("it")(sent(answer))), expected, "{answer}");
        }
        assert!(!is_elsewhere(&Error::new(ErrorKind::Unavailable, "it")));
    }

    /// What the driver itself raises, without a server's answer.
    #[test]
    fn every_kind_of_the_driver_has_a_kind() {
        for (kind, expected) in [
            (Driver::Parse, ErrorKind::Unavailable),
            (Driver::AuthenticationFailed, ErrorKind::Refused),
            (Driver::UnexpectedReturnType, ErrorKind::Internal),
            (Driver::InvalidClientConfig, ErrorKind::Invalid),
            (Driver::Io, ErrorKind::Unavailable),
            (Driver::Client, ErrorKind::Internal),
            (Driver::Extension, ErrorKind::Internal),
            (Driver::MasterNameNotFoundBySentinel, ErrorKind::Invalid),
            (Driver::NoValidReplicasFoundBySentinel, ErrorKind::Unavailable),
            (Driver::EmptySentinelList, ErrorKind::Invalid),
            (Driver::ClusterConnectionNotFound, ErrorKind::Unavailable),
            (Driver::RESP3NotSupported, ErrorKind::Unsupported),
            (Driver::Server(Server::ResponseError), ErrorKind::Internal),
        ] {
            assert_eq!(kind_of(&RedisError::from((kind, "it"))), expected, "{kind:?}");
        }
        let unlike = redis::from_redis_value::<u64>(Value::Okay).unwrap_err();
        assert_eq!(kind_of(&unlike.into()), ErrorKind::Internal);
    }

    /// What the driver says of a connection that ends after the first bytes of an answer.
    async fn cut_within(answer: &'static [u8]) -> RedisError {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let serving = tokio::spawn(async move {
            let (mut client, _) = listener.accept().await.unwrap();
            let mut asked = [0; 4096];
            let mut said = Vec::new();
            while !said.windows(4).any(|word| word == b"PING") {
                let read = client.read(&mut asked).await.unwrap();
                // All that comes before is about the client itself.
                let settings = asked[..read].windows(7).filter(|word| *word == b"SETINFO").count();
                client.write_all(&b"+OK\r\n".repeat(settings)).await.unwrap();
                said.extend_from_slice(&asked[..read]);
            }
            client.write_all(answer).await.unwrap();
        });
        let client = redis::Client::open(format!("redis://{address}")).unwrap();
        let mut connection = client.get_multiplexed_async_connection().await.unwrap();
        let answered: redis::RedisResult<Value> = redis::cmd("PING").query_async(&mut connection).await;
        serving.await.unwrap();
        answered.unwrap_err()
    }

    #[tokio::test]
    async fn an_answer_that_is_cut_within_can_be_asked_for_again() {
        for answer in [&b"+PO"[..], b"$5\r\nPO", b"*3\r\n:1\r\n", b":5", b"*"] {
            let error = cut_within(answer).await;
            assert_eq!(kind_of(&error), ErrorKind::Unavailable, "{error:?}");
        }
    }

    #[test]
    fn every_failure_of_the_network_has_a_kind() {
        for (kind, expected) in [
            (io::ErrorKind::TimedOut, ErrorKind::TimedOut),
            (io::ErrorKind::WouldBlock, ErrorKind::TimedOut),
            (io::ErrorKind::InvalidInput, ErrorKind::Invalid),
            (io::ErrorKind::InvalidData, ErrorKind::Refused),
            (io::ErrorKind::PermissionDenied, ErrorKind::Refused),
            (io::ErrorKind::ConnectionRefused, ErrorKind::Unavailable),
            (io::ErrorKind::ConnectionReset, ErrorKind::Unavailable),
            (io::ErrorKind::ConnectionAborted, ErrorKind::Unavailable),
            (io::ErrorKind::BrokenPipe, ErrorKind::Unavailable),
            (io::ErrorKind::UnexpectedEof, ErrorKind::Unavailable),
            (io::ErrorKind::NotConnected, ErrorKind::Unavailable),
            (io::ErrorKind::NotFound, ErrorKind::Unavailable),
            (io::ErrorKind::HostUnreachable, ErrorKind::Unavailable),
            (io::ErrorKind::NetworkUnreachable, ErrorKind::Unavailable),
            (io::ErrorKind::Other, ErrorKind::Unavailable),
        ] {
            assert_eq!(kind_of(&io::Error::from(kind).into()), expected, "{kind:?}");
        }
    }

    /// Answers with these, as a server would to a pipeline.
    struct Answers(Vec<Value>);

    impl redis::aio::ConnectionLike for Answers {
        fn req_packed_command<'a>(&'a mut self, _: &'a redis::Cmd) -> redis::RedisFuture<'a, Value> {
            Box::pin(async { Ok(Value::Nil) })
        }

        fn req_packed_commands<'a>(
            &'a mut self,
            _: &'a Pipeline,
            _: usize,
            _: usize,
        ) -> redis::RedisFuture<'a, Vec<Value>> {
            Box::pin(async { Ok(self.0.clone()) })
        }

        fn get_db(&self) -> i64 {
            0
        }
    }

    #[tokio::test]
    async fn a_refusal_within_a_pipeline_says_the_kind() {
        let mut pipeline = redis::pipe();
        pipeline.cmd("XADD").cmd("XADD");
        for (answer, expected) in [
            ("OOM command not allowed", ErrorKind::Full),
            ("READONLY You can't write", ErrorKind::Unavailable),
            ("NOGROUP No such key", ErrorKind::NotFound),
        ] {
            let refused = parse_redis_value(format!("-{answer}\r\n").as_bytes()).unwrap();
            let error = pipeline.exec_async(&mut Answers(vec![Value::Okay, refused])).await.unwrap_err();
            assert_eq!(kind_of(&error), expected, "{answer}");
        }
    }
}
