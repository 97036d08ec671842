//! Sentinels and clusters: failovers, and slots that move.

use std::time::{Duration, Instant};

use pubsub_core::{ErrorKind, Result};
use redis::{AsyncCommands as _, Script};
use services::{Data, Redis, RedisCluster, RedisOptions, RedisSentinel};

use super::tests::works;
use super::{Link, slots};
use crate::config::RedisConfig;
use crate::error::kind_of;
use crate::script::{Commands, Request};

const LIMIT: Duration = Duration::from_secs(60);

fn link(url: &str) -> Link {
    super::tests::link(RedisConfig::from_url(url).unwrap())
}

/// Counts one up, again and again until it is answered, as a program would; how often it was refused.
async fn counted(link: &Link, key: &str) -> (u64, usize) {
    let began = Instant::now();
    let mut refused = 0;
    loop {
        match link.commands().incr::<_, _, u64>(key, 1).await {
            Ok(count) => return (count, refused),
            Err(error) => {
                assert!(kind_of(&error).is_retryable(), "{error}");
                assert!(began.elapsed() < LIMIT, "{error}");
                refused += 1;
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs Redis"]
async fn the_master_is_found_by_its_name_and_again_after_it_died() {
    let mut watched = RedisSentinel::start(&RedisOptions::new().with_password("p#%41")).unwrap();
    let url = watched.url().replacen("://", "://:p%23%2541@", 1);
    let link = link(&url);
    works(&link).await.unwrap();
    assert_eq!(counted(&link, "counter").await, (1, 0));
    // One sentinel less is enough.
    watched.kill_sentinel(0).unwrap();
    let replica = watched.servers()[1].port();
    watched.servers()[0].replicated().unwrap();
    watched.servers_mut()[0].kill().unwrap();
    let (count, refused) = counted(&link, "counter").await;
    assert!(refused > 0);
    assert_eq!(watched.servers()[1].ask(&["GET", "counter"]).unwrap(), count.to_string());
    let waiting = link.serving(Some(b"counter")).await.unwrap();
    assert!(waiting.addr().to_string().ends_with(&replica.to_string()));
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs Redis"]
async fn a_name_that_the_sentinels_do_not_know_is_told() {
    let watched = RedisSentinel::start(&RedisOptions::new()).unwrap();
    let sentinel = watched.url().replace("+sentinel", "").split(',').next().unwrap().to_owned();
    let error = Link::new(RedisConfig::new(sentinel)).unwrap().check().await.unwrap_err();
    assert!(error.to_string().contains("redis+sentinel://"), "{error}");
    let link = link(&watched.url().replace("/main", "/other"));
    let error = works(&link).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
    assert!(error.chain().to_string().contains("other"), "{}", error.chain());
}

/// A master that sleeps while another takes its place takes writes again once it wakes, until the sentinels reach it: what
/// it answers then is not kept, so nobody may believe it.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs Redis"]
async fn nothing_is_acknowledged_by_a_master_that_was_replaced() {
    let watched = RedisSentinel::start(&RedisOptions::new()).unwrap();
    let link = link(&watched.url());
    counted(&link, "counter").await;
    let [old, new] = watched.servers();
    old.replicated().unwrap();
    old.pause().unwrap();
    watched.until_not(0).unwrap();
    old.go_on().unwrap();
    // The connection to it is there still.
    let (count, _) = counted(&link, "counter").await;
    assert_eq!(new.ask(&["GET", "counter"]).unwrap(), count.to_string());
    for _ in 0..50 {
        let (count, refused) = counted(&link, "counter").await;
        assert_eq!((new.ask(&["GET", "counter"]).unwrap(), refused), (count.to_string(), 0));
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs Redis"]
async fn a_forced_failover_is_followed() {
    let watched = RedisSentinel::start(&RedisOptions::new()).unwrap();
    let link = link(&watched.url());
    counted(&link, "counter").await;
    watched.servers()[0].replicated().unwrap();
    watched.fail_over().unwrap();
    let (count, _) = counted(&link, "counter").await;
    assert_eq!(watched.servers()[1].ask(&["GET", "counter"]).unwrap(), count.to_string());
}

/// As long as nobody else says who the master is, the one that is known goes on.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs Redis"]
async fn sentinels_that_are_away_hold_up_nothing() {
    let mut watched = RedisSentinel::start(&RedisOptions::new()).unwrap();
    let link = link(&watched.url());
    works(&link).await.unwrap();
    for number in 0..3 {
        watched.kill_sentinel(number).unwrap();
    }
    // The master was named a moment ago; only after that are the sentinels missed.
    tokio::time::sleep(Duration::from_millis(1100)).await;
    let began = Instant::now();
    for count in 1..20 {
        assert_eq!(counted(&link, "counter").await, (count, 0));
    }
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs Redis"]
async fn one_server_is_no_cluster_and_that_is_told() {
    let redis = Redis::start(&RedisOptions::new()).unwrap();
    let link = link(&redis.url().replace("redis://", "redis+cluster://"));
    let error = works(&link).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid, "{}", error.chain());
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs Redis"]
async fn a_cluster_runs_scripts_and_pipelines_over_all_its_nodes() {
    let cluster = RedisCluster::start(0, &RedisOptions::new().with_password("word")).unwrap();
    // One node is enough to find the others.
    let port = cluster.nodes()[2].port();
    let link = link(&format!("redis+cluster://:word@127.0.0.1:{port}"));
    works(&link).await.unwrap();
    for node in cluster.nodes() {
        assert_eq!(node.ask(&["DBSIZE"]).unwrap(), "0");
    }
    let mut transaction = redis::pipe();
    transaction.atomic().set("{a}x", 1).ignore().incr("{a}x", 1);
    assert_eq!(transaction.query_async::<Vec<u64>>(&mut link.commands()).await.unwrap(), [2]);
    let alone = Link::new(RedisConfig::new(cluster.nodes()[0].url()).with_password("word")).unwrap();
    let error = alone.check().await.unwrap_err();
    assert!(error.to_string().contains("redis+cluster://"), "{error}");
    // Refused by the server alone: two slots in one script.
    let script = Script::new("return 1");
    let error = script.key("a").key("b").invoke_async::<u64>(&mut link.commands()).await.unwrap_err();
    assert_eq!(error.code(), Some("CROSSSLOT"));
}

/// The first ids of a stream's entries and what they hold.
async fn entries(link: &Link, key: &str) -> Vec<u64> {
    let entries: Vec<(String, (String, u64))> =
        redis::cmd("XRANGE").arg(&[key, "-", "+"]).query_async(&mut link.commands()).await.unwrap();
    entries.into_iter().map(|(_, (_, number))| number).collect()
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs Redis"]
async fn a_slot_that_moves_loses_and_doubles_nothing() {
    let cluster = RedisCluster::start(0, &RedisOptions::new()).unwrap();
    let link = link(&cluster.url());
    let (slot, key) = (slots::slot(b"7"), |stream: u64| format!("pipeline:{{7}}:{stream}"));
    let from = cluster.serves(slot).unwrap();
    let to = (from + 1) % 3;
    let mut next = 0..;
    // Two streams, so that one has moved while the other has not.
    let mut add = async |link: &Link| -> Result<()> {
        let mut pipeline = redis::pipe();
        for number in next.by_ref().take(100) {
            pipeline.cmd("XADD").arg(key(number % 2)).arg("*").arg("n").arg(number).ignore();
            pipeline.cmd("INCR").arg("pipeline:{8}:others").ignore();
        }
        pipeline.exec_async(&mut link.commands()).await.map_err(crate::error::failed("add"))
    };
    add(&link).await.unwrap();
    cluster.begin_move(slot, to).unwrap();
    add(&link).await.unwrap();
    let port = cluster.nodes()[to].port().to_string();
    cluster.nodes()[from].ask(&["MIGRATE", "127.0.0.1", &port, &key(0), "0", "5000"]).unwrap();
    add(&link).await.unwrap();
    let error = link.commands().xlen::<_, u64>(key(0)).await;
    assert_eq!(error.unwrap(), 150, "asked for at the other node");
    // A key of each node: nobody has both until the move has ended.
    let script = Script::new("return redis.call('XLEN', KEYS[1]) + redis.call('XLEN', KEYS[2])");
    let mut commands = link.commands();
    let mut both = script.prepare_invoke();
    both.key(key(0)).key(key(1));
    let (both, moved) = tokio::join!(both.invoke_async::<u64>(&mut commands), async {
        tokio::time::sleep(Duration::from_millis(20)).await;
        cluster.move_keys(slot, to).and_then(|()| cluster.end_move(slot, to))
    });
    moved.unwrap();
    assert_eq!(both.unwrap(), 300, "asked again until it has ended");
    add(&link).await.unwrap();
    for stream in 0..2 {
        let expected: Vec<u64> = (0..400).filter(|number| number % 2 == stream).collect();
        assert_eq!(entries(&link, &key(stream)).await, expected);
    }
    assert_eq!(link.commands().get::<_, u64>("pipeline:{8}:others").await.unwrap(), 400);
    assert_eq!(cluster.nodes()[to].ask(&["CLUSTER", "COUNTKEYSINSLOT", &slot.to_string()]).unwrap(), "2");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs Redis"]
async fn a_slot_that_stays_half_moved_holds_up_a_command_for_as_long_as_an_answer_may_take() {
    let cluster = RedisCluster::start(0, &RedisOptions::new()).unwrap();
    let config = RedisConfig::from_url(&cluster.url()).unwrap().with_answer_limit(Duration::from_secs(1));
    let link = super::tests::link(config);
    let slot = slots::slot(b"7");
    let to = (cluster.serves(slot).unwrap() + 1) % 3;
    let () = link.commands().set("pipeline:{7}:there", 1).await.unwrap();
    cluster.begin_move(slot, to).unwrap();
    // One key is there and one is not: neither node can run it.
    let script = Script::new("return redis.call('EXISTS', KEYS[1], KEYS[2])");
    let mut commands = link.commands();
    let mut both = script.prepare_invoke();
    both.key("pipeline:{7}:there").key("pipeline:{7}:missing");
    let (began, before) = (Instant::now(), commands_of(&cluster));
    let error = both.invoke_async::<u64>(&mut commands).await.unwrap_err();
    assert_eq!((error.code(), kind_of(&error)), (Some("TRYAGAIN"), ErrorKind::Unavailable));
    assert!(began.elapsed() >= Duration::from_secs(1));
    let asked = commands_of(&cluster) - before;
    assert!(asked < 100 * (1 + began.elapsed().as_secs()), "{asked} commands in {:?}", began.elapsed());
    cluster.move_keys(slot, to).and_then(|()| cluster.end_move(slot, to)).unwrap();
    assert_eq!(both.invoke_async::<u64>(&mut commands).await.unwrap(), 1);
}

fn commands_of(cluster: &RedisCluster) -> u64 {
    let of = |node: &Redis| node.info("total_commands_processed").unwrap().parse::<u64>().unwrap();
    cluster.nodes().iter().map(of).sum()
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs Redis"]
async fn what_one_node_does_not_answer_is_no_failure_of_the_others() {
    let options = RedisOptions::new().with_setting("cluster-require-full-coverage", "no");
    let mut cluster = RedisCluster::start(0, &options).unwrap();
    let link = link(&cluster.url());
    works(&link).await.unwrap();
    let key = |number: u16| format!("pipeline:{{{number}}}:x");
    let away = |number: u16| cluster.serves(slots::slot(key(number).as_bytes())).unwrap() == 1;
    let away: Vec<bool> = (0..20).map(away).collect();
    assert!(away.contains(&true) && away.contains(&false));
    cluster.nodes_mut()[1].kill().unwrap();
    let mut pipeline = redis::pipe();
    for number in 0..20 {
        pipeline.cmd("INCR").arg(key(number));
    }
    let answers = link.commands().each(&pipeline).await;
    let failed: Vec<bool> = answers.iter().map(std::result::Result::is_err).collect();
    assert_eq!(failed, away);
    // As a whole it failed.
    assert!(pipeline.exec_async(&mut link.commands()).await.is_err());
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs Redis"]
async fn a_read_that_waits_is_ended_at_its_own_node() {
    let cluster = RedisCluster::start(0, &RedisOptions::new()).unwrap();
    let link = link(&cluster.url());
    for number in 0..20 {
        let key = format!("pipeline:{{{number}}}:events");
        let mut waiter = link.waiter(key.as_bytes()).await.unwrap();
        let mut cmd = redis::cmd("XREAD");
        cmd.arg(&["BLOCK", "60000", "STREAMS", &key, "0"]);
        let (ender, wait, began) = (waiter.ender(), Duration::from_secs(60), Instant::now());
        // Told before it can have reached the server.
        let answer = ender.end(waiter.ask(&cmd, wait, "wait")).await.unwrap();
        assert_eq!(answer, redis::Value::Nil);
        assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
        // The connection is as good as before.
        let () = link.commands().xadd(&key, "*", &[("a", "b")]).await.unwrap();
        let answer = waiter.ask(&cmd, wait, "wait").await.unwrap();
        assert!(!matches!(answer, redis::Value::Nil), "{answer:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs Redis"]
async fn a_read_that_waits_is_at_the_node_of_its_key_also_after_a_move() {
    let cluster = RedisCluster::start(0, &RedisOptions::new()).unwrap();
    let link = link(&cluster.url());
    let (slot, key) = (slots::slot(b"3"), "pipeline:{3}:events");
    for number in 0..20 {
        let key = format!("pipeline:{{{number}}}:events");
        let mut waiting = link.waiting(key.as_bytes()).await.unwrap();
        let read =
            redis::cmd("XREAD").arg(&["BLOCK", "1", "STREAMS", &key, "0"]).exec_async(&mut waiting).await;
        read.unwrap();
    }
    let to = (cluster.serves(slot).unwrap() + 1) % 3;
    let mut waiting = link.waiting(key.as_bytes()).await.unwrap();
    let waits = tokio::spawn(async move {
        redis::cmd("XREAD").arg(&["BLOCK", "0", "STREAMS", key, "0"]).exec_async(&mut waiting).await
    });
    while !cluster.nodes()[cluster.serves(slot).unwrap()].info("blocked_clients").unwrap().contains('1') {
        tokio::task::yield_now().await;
    }
    cluster.begin_move(slot, to).unwrap();
    cluster.end_move(slot, to).unwrap();
    let error = waits.await.unwrap().unwrap_err();
    assert_eq!((error.code(), kind_of(&error)), (Some("MOVED"), ErrorKind::Unavailable));
    let mut waiting = link.waiting(key.as_bytes()).await.unwrap();
    redis::cmd("XREAD").arg(&["BLOCK", "1", "STREAMS", key, "0"]).exec_async(&mut waiting).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs Redis"]
async fn a_replica_that_takes_over_in_a_cluster_is_found() {
    let mut cluster = RedisCluster::start(1, &RedisOptions::new()).unwrap();
    let link = link(&cluster.url());
    let slot = slots::slot(b"counter");
    assert_eq!(counted(&link, "counter").await, (1, 0));
    let master = cluster.serves(slot).unwrap();
    cluster.nodes()[master].replicated().unwrap();
    cluster.nodes_mut()[master].kill().unwrap();
    let (count, _) = counted(&link, "counter").await;
    assert_eq!(count, 2);
    // The one that comes back is a replica by then.
    cluster.nodes_mut()[master].restart(Data::Lost).unwrap();
    cluster.settled().unwrap();
    assert_eq!(counted(&link, "counter").await.0, 3);
}

/// Each master has replicas of its own: one that sleeps is missed by the writes of its master alone.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs Redis"]
async fn a_write_in_a_cluster_counts_once_a_replica_of_its_own_node_has_it() {
    let cluster = RedisCluster::start(1, &RedisOptions::new()).unwrap();
    let slot_of = |key: &str| cluster.serves(slots::slot(key.as_bytes())).unwrap();
    let key = |node: usize| (0..).map(|n| format!("key-{n}")).find(|key| slot_of(key) == node).unwrap();
    let masters = [slot_of("a"), slot_of("b"), slot_of("c")];
    let keys: Vec<String> = masters.iter().map(|node| key(*node)).collect();
    // On a busy machine also those that do not sleep need a while.
    let limit = Duration::from_secs(2);
    let commands = Commands::replicated(link(&cluster.url()), 1, limit);
    let all = |keys: &[String]| keys.iter().map(|key| Request::new("INCR").arg(key)).collect::<Vec<_>>();
    let answered = commands.all(all(&keys), "count").await.unwrap();
    let replicas = |master: usize| -> Vec<usize> {
        let told = cluster.nodes()[master].ask(&["INFO", "replication"]).unwrap();
        let is_of = |node: &Redis| told.contains(&format!("port={},", node.port()));
        (0..cluster.nodes().len()).filter(|node| is_of(&cluster.nodes()[*node])).collect()
    };
    assert!(answered.into_iter().all(|answer| answer.get("count").is_ok()));
    let [sleeper] = replicas(masters[0])[..] else { unreachable!("each master has one") };
    cluster.nodes()[sleeper].pause().unwrap();
    for answer in commands.all(all(&keys), "count").await.unwrap() {
        let error = answer.get("count").unwrap_err();
        assert!(error.to_string().contains("replicas=0, wanted=1"), "{error}");
    }
    let others: Vec<String> = keys.into_iter().filter(|key| slot_of(key) != masters[0]).collect();
    assert!(!others.is_empty());
    for answer in commands.all(all(&others), "count").await.unwrap() {
        answer.get("count").unwrap();
    }
    cluster.nodes()[sleeper].go_on().unwrap();
}
