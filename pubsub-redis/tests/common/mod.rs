//! The server of the tests.

use pubsub_redis::RedisConfig;

/// The server that the variable names, with a prefix that no other test has.
pub fn config() -> RedisConfig {
    let url = std::env::var("PIPELINE_TEST_REDIS").expect("PIPELINE_TEST_REDIS names a server");
    RedisConfig::new(url).with_prefix(format!("test-{:016x}", fastrand::u64(..)))
}
