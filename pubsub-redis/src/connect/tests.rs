//! Connections to real servers: addresses, secrets, faults of the network.

use std::io;
use std::net::TcpListener;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use futures::future::join_all;
use pubsub_core::{Error, ErrorKind};
use redis::aio::ConnectionLike;
use redis::{AsyncCommands as _, Script};
use services::{Data, Persistence, Proxy, Redis, RedisOptions, Weather, encoded};

use super::{Connection, Link, MultiplexedConnection, Result, failed};
use crate::config::{Deployment, RedisConfig};
use crate::error::kind_of;

/// Every character that means something in a URL.
pub(super) const PASSWORD: &str = "p#/@%41+=:x";

/// Where the limit itself is waited for.
pub(super) const BRIEF: Duration = Duration::from_secs(4);

/// What a person may see of an error.
pub(super) fn told(error: &Error) -> String {
    format!("{error} {error:?} {}", error.chain())
}

/// With a limit that no busy machine exceeds; a connection that is refused is told long before.
pub(super) fn link(config: RedisConfig) -> Link {
    let is_default = config.connect_limit() == RedisConfig::new("").connect_limit();
    let limit = if is_default { Duration::from_secs(60) } else { config.connect_limit() };
    Link::new(config.with_connect_limit(limit)).unwrap()
}

/// A server that can be reached answers, runs a script, and takes a pipeline.
pub(super) async fn works(link: &Link) -> Result<()> {
    link.check().await?;
    let mut commands = link.commands();
    let answer: String = redis::cmd("PING").query_async(&mut commands).await.map_err(failed("ping"))?;
    assert_eq!(answer, "PONG");
    for key in 0..20 {
        let script = Script::new("return redis.call('INCRBY', KEYS[1], ARGV[1])");
        let key = format!("pipeline:{{{key}}}:counter");
        let counted: u64 =
            script.key(&key).arg(7).invoke_async(&mut commands).await.map_err(failed("run a script"))?;
        assert_eq!(counted, 7);
    }
    let mut pipeline = redis::pipe();
    for key in 0..20 {
        pipeline.cmd("GETDEL").arg(format!("pipeline:{{{key}}}:counter"));
    }
    let counted: Vec<u64> = pipeline.query_async(&mut commands).await.map_err(failed("ask many"))?;
    assert_eq!(counted, [7; 20]);
    Ok(())
}

/// Each of them is a correct form of an address.
pub(super) async fn all_work(configs: impl IntoIterator<Item = RedisConfig>) {
    for config in configs {
        let link = link(config);
        works(&link).await.unwrap_or_else(|error| panic!("{link:?}: {}", error.chain()));
        assert!(!format!("{link:?}").contains(PASSWORD));
    }
}

/// Each of them fails as this kind, and tells neither this password nor the right one, which is `another`.
pub(super) async fn none_tells(cases: impl IntoIterator<Item = (RedisConfig, ErrorKind)>) {
    for (config, kind) in cases {
        let link = link(config);
        let error = works(&link).await.unwrap_err();
        assert_eq!(error.kind(), kind, "{}", told(&error));
        for secret in [PASSWORD, &encoded(PASSWORD), "another"] {
            assert!(!told(&error).contains(secret), "{}", told(&error));
            assert!(!format!("{link:?}").contains(secret));
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs Redis"]
async fn every_correct_form_of_an_address_connects() {
    let options =
        RedisOptions::new().with_password(PASSWORD).with_user(format!("user ci on >{PASSWORD} ~* &* +@all"));
    let redis = Redis::start(&options).unwrap();
    let (at, word, socket) = (redis.port(), encoded(PASSWORD), redis.socket().display().to_string());
    all_work([
        RedisConfig::new(format!("redis://:{word}@127.0.0.1:{at}")),
        RedisConfig::new(format!("redis://ci:{word}@localhost:{at}/1")),
        RedisConfig::new(redis.url()).with_password(PASSWORD),
        RedisConfig::new(redis.url()).with_user("ci").with_password(PASSWORD),
        RedisConfig::new(format!("redis+unix://{socket}")).with_password(PASSWORD),
        RedisConfig::from_url(&format!("redis+unix://{socket}?user=ci&pass={word}&db=2")).unwrap(),
        RedisConfig::from_url(&format!("redis://:{word}@127.0.0.1:{at}/3")).unwrap(),
    ])
    .await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs Redis"]
async fn no_failure_tells_the_password() {
    let redis = Redis::start(&RedisOptions::new().with_password("another")).unwrap();
    let (at, word) = (redis.port(), encoded(PASSWORD));
    let nobody = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let of = |url: String| RedisConfig::new(url);
    none_tells([
        (of(format!("redis://:{word}@127.0.0.1:{at}")), ErrorKind::Refused),
        (of(format!("redis://ci:{word}@127.0.0.1:{at}")), ErrorKind::Refused),
        (of(redis.url()).with_password(PASSWORD), ErrorKind::Refused),
        // One more decoding would make it another password.
        (of(format!("redis://:{}@127.0.0.1:{at}", "%2561nother")), ErrorKind::Refused),
        (of(redis.url()).with_password("%61nother"), ErrorKind::Refused),
        (of(redis.url()), ErrorKind::Refused),
        (of(format!("redis://:{word}@127.0.0.1:{nobody}")), ErrorKind::Unavailable),
        (of(format!("rediss://:{word}@127.0.0.1:{nobody}")), ErrorKind::Unavailable),
        (of(format!("redis://:{word}@no-such-host.invalid:{nobody}")), ErrorKind::Unavailable),
        (of(format!("redis+unix:///no/such/socket?pass={word}")), ErrorKind::Unavailable),
        // A server without TLS waits for more of what it does not understand, until the limit.
        (of(format!("rediss://:{word}@127.0.0.1:{at}")).with_connect_limit(BRIEF), ErrorKind::Invalid),
    ])
    .await;
}

#[test]
fn a_malformed_address_is_refused_and_not_told() {
    for url in [
        "redis://:p#/@%41+=:x@127.0.0.1",
        "redis://:p@host:no-port-%41+=",
        "redis://:%41+=@127.0.0.1/no-database",
        "http://:%41+=@127.0.0.1",
        "rediss://:%41+=@127.0.0.1/#insecure",
        "%41+=",
        "",
    ] {
        let error = Link::new(RedisConfig::new(url)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid, "{url}");
        assert!(!told(&error).contains("41+="), "{}", told(&error));
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs Redis"]
async fn a_database_that_the_server_does_not_have_is_named() {
    let redis = Redis::start(&RedisOptions::new()).unwrap();
    works(&link(RedisConfig::new(format!("{}/15", redis.url())))).await.unwrap();
    let error = works(&link(RedisConfig::new(format!("{}/99", redis.url())))).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid, "{}", told(&error));
    assert!(told(&error).contains("database 99 "), "{}", told(&error));
}

#[test]
fn settings_that_contradict_each_other_are_refused() {
    let sentinel = || Deployment::Sentinel { master: "main".to_owned() };
    for config in [
        RedisConfig::new("redis://one").with_url("redis://two"),
        RedisConfig::new("redis://one").with_url("rediss://two").with_deployment(Deployment::Cluster),
        RedisConfig::new("redis+unix:///socket").with_deployment(sentinel()),
        RedisConfig::new("redis://one").with_ca("/dev/null"),
        RedisConfig::new("rediss://one").with_ca("/no/such/file"),
        RedisConfig::new("rediss://one").with_certificate("/dev/null", "/dev/null"),
        RedisConfig::from_url("rediss://one?key=/dev/null").unwrap(),
    ] {
        let error = Link::new(config).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid, "{}", told(&error));
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs Redis"]
async fn what_is_called_after_a_connection_was_lost_waits_for_the_new_one() {
    let mut redis = Redis::start(&RedisOptions::new().with_persistence(Persistence::EachWrite)).unwrap();
    let mut proxy = Proxy::start(redis.port()).unwrap();
    let url = format!("redis://127.0.0.1:{}", proxy.port());
    let link = link(RedisConfig::new(url).with_answer_limit(Duration::from_secs(2)));
    let mut commands = link.commands();
    let () = commands.set("key", 1).await.unwrap();

    proxy.cut();
    // Whoever comes first learns of it; nobody else does.
    let first = commands.get::<_, u64>("key").await;
    assert!(first.as_ref().map_err(kind_of).is_err_and(|kind| kind == ErrorKind::Unavailable), "{first:?}");
    assert_eq!(commands.get::<_, u64>("key").await.unwrap(), 1);

    // A connection that leads nowhere is given up after one answer that did not come.
    proxy.set(Weather::Stalled).unwrap();
    let stalled = commands.get::<_, u64>("key").await;
    assert!(stalled.as_ref().map_err(kind_of).is_err_and(|kind| kind == ErrorKind::TimedOut), "{stalled:?}");
    let before = proxy.accepted();
    proxy.set(Weather::Clear).unwrap();
    assert_eq!(commands.get::<_, u64>("key").await.unwrap(), 1);
    assert_eq!(proxy.accepted(), before + 1);

    redis.restart(Data::Kept).unwrap();
    let _ = commands.get::<_, u64>("key").await;
    assert_eq!(commands.get::<_, u64>("key").await.unwrap(), 1);
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs Redis"]
async fn what_was_under_way_fails_and_is_not_done_again() {
    let redis = Redis::start(&RedisOptions::new()).unwrap();
    let mut proxy = Proxy::start(redis.port()).unwrap();
    let link = link(RedisConfig::new(format!("redis://127.0.0.1:{}", proxy.port())));
    let mut commands = link.commands();
    // Of the bytes of two commands the first half is the first one.
    for (weather, done) in [(Weather::AnswersLost, "2"), (Weather::Halved, "1")] {
        redis.ask(&["FLUSHALL"]).unwrap();
        works(&link).await.unwrap();
        proxy.set(weather).unwrap();
        let mut pipeline = redis::pipe();
        pipeline.cmd("INCR").arg("pipeline:{1}:x").cmd("INCR").arg("pipeline:{1}:x");
        let error = pipeline.query_async::<Vec<u64>>(&mut commands).await.unwrap_err();
        assert_eq!(kind_of(&error), ErrorKind::Unavailable, "{weather:?}: {error}");
        proxy.set(Weather::Clear).unwrap();
        // The connection is a new one by then.
        works(&link).await.unwrap();
        assert_eq!(redis.ask(&["GET", "pipeline:{1}:x"]).unwrap(), done, "{weather:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs Redis"]
async fn a_server_that_is_away_is_told_by_its_address_and_found_once_it_is_back() {
    let mut redis = Redis::start(&RedisOptions::new()).unwrap();
    let link = link(RedisConfig::new(redis.url()));
    redis.kill().unwrap();
    let began = Instant::now();
    let error = works(&link).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!(told(&error).contains(&redis.port().to_string()), "{}", told(&error));
    assert!(began.elapsed() < Duration::from_secs(30), "{:?}", began.elapsed());
    redis.restart(Data::Lost).unwrap();
    works(&link).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs Redis"]
async fn those_who_wait_for_a_connection_share_one_and_its_failure() {
    let redis = Redis::start(&RedisOptions::new()).unwrap();
    let mut proxy = Proxy::start(redis.port()).unwrap();
    let url = format!("redis://127.0.0.1:{}", proxy.port());
    let link = link(RedisConfig::new(url));
    let all = |link: &Link| {
        join_all((0..50).map(|_| {
            let mut commands = link.commands();
            async move { redis::cmd("PING").query_async::<String>(&mut commands).await }
        }))
    };
    assert!(all(&link).await.iter().all(std::result::Result::is_ok));
    assert_eq!(proxy.accepted(), 1);
    proxy.set(Weather::Refused).unwrap();
    let began = Instant::now();
    assert!(all(&link).await.iter().all(std::result::Result::is_err));
    assert!(all(&link).await.iter().all(std::result::Result::is_err));
    assert!(began.elapsed() < Duration::from_secs(8), "one after the other: {:?}", began.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs Redis"]
async fn a_read_that_waits_holds_up_nothing() {
    let redis = Redis::start(&RedisOptions::new()).unwrap();
    let link = link(RedisConfig::new(redis.url()));
    let mut waiting = link.waiting(b"quiet").await.unwrap();
    let waits = tokio::spawn(async move {
        redis::cmd("XREAD").arg(&["BLOCK", "10000", "STREAMS", "quiet", "$"]).exec_async(&mut waiting).await
    });
    while !redis.ask(&["CLIENT", "LIST"]).unwrap().contains("cmd=xread") {
        tokio::task::yield_now().await;
    }
    let began = Instant::now();
    works(&link).await.unwrap();
    assert!(!waits.is_finished());
    assert!(began.elapsed() < Duration::from_secs(5));
    let clients = redis.ask(&["CLIENT", "LIST"]).unwrap();
    assert_eq!(
        clients.lines().filter(|line| !line.contains("laddr=?") && line.contains("127.0.0.1")).count(),
        2
    );
    redis.ask(&["XADD", "quiet", "*", "a", "b"]).unwrap();
    waits.await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs Redis"]
async fn what_is_published_on_a_channel_is_heard() {
    use futures::StreamExt as _;
    let redis = Redis::start(&RedisOptions::new()).unwrap();
    let link = link(RedisConfig::new(redis.url()));
    let mut listening = link.listening().await.unwrap();
    listening.subscribe("pipeline:cancels").await.unwrap();
    let heard: u64 = link.commands().publish("pipeline:cancels", "one").await.unwrap();
    assert_eq!(heard, 1);
    let message = listening.on_message().next().await.unwrap();
    assert_eq!(message.get_payload::<String>().unwrap(), "one");
}

/// A server that answers every command with this INFO.
fn fake(info: &'static str) -> u16 {
    use std::io::{Read as _, Write as _};
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for client in listener.incoming() {
            let mut client = client.unwrap();
            let mut bytes = [0; 4096];
            while let Ok(read @ 1..) = client.read(&mut bytes) {
                // Each command is one array.
                let asked = bytes[..read].iter().filter(|byte| **byte == b'*').count();
                let answer = format!("${}\r\n{info}\r\n", info.len()).repeat(asked);
                client.write_all(answer.as_bytes()).unwrap();
            }
        }
    });
    port
}

#[tokio::test]
async fn a_server_that_is_too_old_is_refused_by_one_sentence() {
    let port = fake("redis_version:6.2.14");
    let error = link(RedisConfig::new(format!("redis://127.0.0.1:{port}"))).check().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert_eq!(error.to_string(), "Redis 6.2.14 is too old: it takes 7.0 or later, or Valkey: unsupported");
}

#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
#[ignore = "needs Redis"]
async fn what_a_server_may_lose_is_warned_of_once() {
    let log = Log::default();
    let to = log.clone();
    let subscriber = tracing_subscriber::fmt().with_writer(move || to.clone()).with_ansi(false).finish();
    let _guard = tracing::subscriber::set_default(subscriber);
    let options = RedisOptions::new().with_max_memory(50_000_000, "allkeys-lru");
    let (careless, careful) = (
        Redis::start(&options).unwrap(),
        Redis::start(&RedisOptions::new().with_persistence(Persistence::EachWrite)).unwrap(),
    );
    link(RedisConfig::new(careful.url())).check().await.unwrap();
    assert_eq!(String::from_utf8(log.0.lock().unwrap().clone()).unwrap(), "");
    // Broker and store have a link each.
    for link in [(); 2].map(|()| link(RedisConfig::new(careless.url()))) {
        for _ in 0..2 {
            link.check().await.unwrap();
        }
    }
    let said = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
    assert_eq!(said.lines().count(), 2, "{said}");
    assert!(
        said.contains("maxmemory-policy is allkeys-lru") && said.contains("keeps nothing over a restart")
    );
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs Redis"]
async fn a_user_with_few_permissions_is_enough_and_what_it_lacks_is_refused() {
    let few = "user ci on >word ~pipeline:* &pipeline:* +@read +@write +@connection +@scripting -@dangerous";
    let redis = Redis::start(&RedisOptions::new().with_password("other").with_user(few)).unwrap();
    let link = link(RedisConfig::new(redis.url()).with_user("ci").with_password("word"));
    works(&link).await.unwrap();
    let error = link.commands().set::<_, _, ()>("elsewhere", 1).await.unwrap_err();
    assert_eq!(kind_of(&error), ErrorKind::Refused);
}

/// Both kinds of handles are what the helpers of broker and store take.
const _: fn(Connection, MultiplexedConnection) = |commands, waiting| {
    fn takes(_: impl ConnectionLike + Clone + Send + Sync + 'static) {}
    takes(commands);
    takes(waiting);
};
