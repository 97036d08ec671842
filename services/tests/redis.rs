//! What the engines promise to the tests that start them.

use std::io;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use services::{
    Certificates, Data, Persistence, Place, Redis, RedisCluster, RedisOptions, RedisSentinel, is_running,
};

#[test]
#[ignore = "needs Redis"]
fn a_server_is_gone_with_its_value_and_so_is_its_folder() {
    let redis = Redis::start(&RedisOptions::new()).unwrap();
    let (id, folder) = (redis.id().unwrap(), redis.folder().to_owned());
    assert!(is_running(id, &folder));
    assert_eq!(redis.ask(&["SET", "key", "value"]).unwrap(), "OK");
    drop(redis);
    assert!(!is_running(id, &folder));
    assert!(!folder.exists());
}

#[test]
#[ignore = "needs Redis"]
fn a_restart_keeps_the_data_or_loses_it() {
    let mut redis = Redis::start(&RedisOptions::new().with_persistence(Persistence::EachWrite)).unwrap();
    redis.ask(&["SET", "key", "value"]).unwrap();
    redis.restart(Data::Kept).unwrap();
    assert_eq!(redis.ask(&["GET", "key"]).unwrap(), "value");
    redis.stop().unwrap();
    assert!(redis.ask(&["PING"]).is_err());
    redis.restart(Data::Lost).unwrap();
    assert_eq!(redis.ask(&["DBSIZE"]).unwrap(), "0");
}

#[test]
#[ignore = "needs Redis"]
fn users_passwords_and_certificates_of_tls_are_taken() {
    let place = Arc::new(Place::new().unwrap());
    let certificates = Certificates::make(place.folder()).unwrap();
    let options = RedisOptions::new()
        .with_password("p#/@%41+=:x")
        .with_user("user ci on >other ~pipeline:* &* +@all")
        .with_tls(&certificates)
        .with_max_memory(50_000_000, "allkeys-lru");
    let redis = Redis::start_in(&place, "redis", &options).unwrap();
    assert_eq!(redis.info("maxmemory_policy").unwrap(), "allkeys-lru");
    let port = redis.port().to_string();
    let tls = |words: &[&str]| -> io::Result<String> {
        let output = Command::new("redis-cli")
            .args(["-p", &port, "--tls", "--no-auth-warning", "--cacert"])
            .arg(certificates.authority())
            .args(words)
            .output()?;
        Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    assert_eq!(tls(&["--user", "ci", "-a", "other", "SET", "pipeline:x", "1"]).unwrap(), "OK");
    assert_eq!(tls(&["-a", "p#/@%41+=:x", "PING"]).unwrap(), "PONG");
    assert!(tls(&["PING"]).unwrap().contains("NOAUTH"));
}

#[test]
#[ignore = "needs Redis"]
fn a_paused_server_answers_once_it_goes_on() {
    let redis = Redis::start(&RedisOptions::new()).unwrap();
    redis.pause().unwrap();
    let began = Instant::now();
    std::thread::scope(|scope| {
        let asked = scope.spawn(|| redis.ask(&["PING"]));
        std::thread::sleep(Duration::from_millis(100));
        assert!(!asked.is_finished());
        redis.go_on().unwrap();
        assert_eq!(asked.join().unwrap().unwrap(), "PONG");
    });
    assert!(began.elapsed() >= Duration::from_millis(100));
}

#[test]
#[ignore = "needs Redis"]
fn the_replica_becomes_the_master_where_the_master_dies() {
    let mut watched = RedisSentinel::start(&RedisOptions::new()).unwrap();
    assert_eq!(watched.master().unwrap(), 0);
    watched.servers_mut()[0].kill().unwrap();
    watched.until_not(0).unwrap();
    assert_eq!(watched.master().unwrap(), 1);
}

#[test]
#[ignore = "needs Redis"]
fn a_cluster_serves_all_slots_and_moves_one() {
    let cluster = RedisCluster::start(0, &RedisOptions::new()).unwrap();
    let (slot, from) = (12182, cluster.serves(12182).unwrap()); // the slot of `foo`
    let to = (from + 1) % 3;
    cluster.nodes()[from].ask(&["SET", "foo", "bar"]).unwrap();
    cluster.begin_move(slot, to).unwrap();
    cluster.move_keys(slot, to).unwrap();
    assert!(cluster.nodes()[from].ask(&["GET", "foo"]).unwrap_err().to_string().contains("ASK"));
    cluster.end_move(slot, to).unwrap();
    assert_eq!(cluster.nodes()[to].ask(&["GET", "foo"]).unwrap(), "bar");
}

#[test]
#[ignore = "needs Redis"]
fn a_cluster_with_replicas_survives_the_death_of_a_master() {
    let mut cluster = RedisCluster::start(1, &RedisOptions::new()).unwrap();
    let slot = 12182;
    let master = cluster.serves(slot).unwrap();
    cluster.nodes_mut()[master].kill().unwrap();
    let began = Instant::now();
    while cluster.serves(slot).is_err() {
        assert!(began.elapsed() < Duration::from_secs(60), "nobody took over");
        std::thread::sleep(Duration::from_millis(50));
    }
    assert_ne!(cluster.serves(slot).unwrap(), master);
}

#[test]
#[ignore = "needs Redis"]
fn a_server_dies_with_the_process_that_started_it() {
    // The process that is killed is this test once more.
    if let Ok(told) = std::env::var("SERVICES_TOLD") {
        let redis = Redis::start(&RedisOptions::new()).unwrap();
        std::fs::write(&told, format!("{}\n{}\n", redis.id().unwrap(), redis.folder().display())).unwrap();
        std::thread::park();
    }
    let folder = tempfile::tempdir().unwrap();
    let told = folder.path().join("told");
    let mut process = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "a_server_dies_with_the_process_that_started_it", "--ignored"])
        .env("SERVICES_TOLD", &told)
        .spawn()
        .unwrap();
    let began = Instant::now();
    let text = loop {
        let text = std::fs::read_to_string(&told).unwrap_or_default();
        if text.lines().count() == 2 {
            break text;
        }
        assert!(began.elapsed() < Duration::from_secs(60), "it does not start");
        std::thread::sleep(Duration::from_millis(10));
    };
    let mut lines = text.lines();
    let id: u32 = lines.next().unwrap().parse().unwrap();
    let server = std::path::PathBuf::from(lines.next().unwrap());
    assert!(is_running(id, &server));
    process.kill().unwrap();
    process.wait().unwrap();
    while is_running(id, &server) || server.exists() {
        assert!(began.elapsed() < Duration::from_secs(120), "it is still there");
        std::thread::sleep(Duration::from_millis(10));
    }
}
