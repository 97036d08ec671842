//! One connection, and what keeps it from being opened, in words that say what to change.

use std::io;
use std::time::Duration;

use pubsub_core::ErrorKind as Kind;
use redis::aio::MultiplexedConnection;
use redis::{
    AsyncConnectionConfig, Client, ConnectionAddr, ConnectionInfo, ErrorKind, RedisError, RedisResult,
};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::error::{io_error, kind_of};

/// Longest time that is spent on finding out why a connection could not be opened.
const PROBE: Duration = Duration::from_secs(1);

/// A TLS record with a message that no server takes at the start (RFC 8446, section 4: HelloRequest): one that speaks
/// TLS answers with an alert.
const TLS_PROBE: [u8; 9] = [0x16, 3, 1, 0, 4, 0, 0, 0, 0];

/// The first bytes of TLS records with a handshake and with an alert.
const TLS: [u8; 2] = [0x16, 0x15];

/// Opens a connection; `answer` is the limit on the time until a command is answered.
pub(crate) async fn open(
    info: &ConnectionInfo,
    connect: Duration,
    answer: Option<Duration>,
) -> RedisResult<MultiplexedConnection> {
    let settings = AsyncConnectionConfig::new().set_connection_timeout(None).set_response_timeout(answer);
    let client = Client::open(info.clone())?;
    let opening = client.get_multiplexed_async_connection_with_config(&settings);
    match timeout(connect, opening).await {
        Ok(Ok(connection)) => Ok(connection),
        Ok(Err(error)) => Err(explained(info, error).await),
        Err(_) => {
            let text = format!("no answer within {connect:?}");
            Err(explained(info, io::Error::new(io::ErrorKind::TimedOut, text).into()).await)
        }
    }
}

/// The same failure with the address, and with what is wrong where that can be seen.
pub(crate) async fn explained(info: &ConnectionInfo, error: RedisError) -> RedisError {
    let database = info.redis_settings().db();
    if database != 0 && kind_of(&error) == Kind::Invalid {
        let text =
            format!("database {database} is none of the server's, which the URL or db= names: {error}");
        return io::Error::new(io::ErrorKind::InvalidInput, text).into();
    }
    if !matches!(error.kind(), ErrorKind::Io | ErrorKind::Parse | ErrorKind::Client) {
        // What the server answered; the driver's text for a wrong password holds neither it nor the user.
        return error;
    }
    let (why, kind) = match info.addr() {
        ConnectionAddr::Tcp(host, port)
            if answer(host, *port, &TLS_PROBE).await.is_some_and(|byte| TLS.contains(&byte)) =>
        {
            (": the server takes TLS alone, so the URL has to be rediss://", io::ErrorKind::InvalidInput)
        }
        ConnectionAddr::TcpTls { host, port, .. }
            if answer(host, *port, b"PING\r\n").await.is_some_and(|byte| b"+-".contains(&byte)) =>
        {
            (
                ": the server does not speak TLS here, so the URL has to be redis://",
                io::ErrorKind::InvalidInput,
            )
        }
        ConnectionAddr::TcpTls { .. }
            if io_error(&error).is_some_and(|error| error.kind() == io::ErrorKind::InvalidData) =>
        {
            (
                ": where an authority of your own vouches for the server, the setting ca names its certificate",
                io::ErrorKind::InvalidData,
            )
        }
        _ => ("", io_error(&error).map_or(io::ErrorKind::NotConnected, io::Error::kind)),
    };
    io::Error::new(kind, format!("connect to {}: {error}{why}", info.addr())).into()
}

/// The first byte that comes back where these bytes are sent.
async fn answer(host: &str, port: u16, bytes: &[u8]) -> Option<u8> {
    let asked = async {
        let mut stream = TcpStream::connect((host, port)).await.ok()?;
        stream.write_all(bytes).await.ok()?;
        stream.read_u8().await.ok()
    };
    timeout(PROBE, asked).await.ok().flatten()
}
