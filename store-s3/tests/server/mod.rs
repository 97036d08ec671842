//! The server of the tests: the one that a variable names, or one for all tests of this process.

#![allow(dead_code, reason = "each test file takes what it needs")]
#![allow(clippy::unwrap_used, reason = "a test")]

use std::sync::LazyLock;
use std::time::Duration;

use services::{HttpFaults, S3};
use store_s3::S3StoreConfig;

/// Ends with the process, however that ends.
static SERVER: LazyLock<S3> = LazyLock::new(|| S3::start().unwrap());

fn url() -> String {
    std::env::var("PIPELINE_TEST_S3").unwrap_or_else(|_| SERVER.url())
}

/// The bucket, at a prefix that no other test has.
pub(crate) fn config() -> S3StoreConfig {
    at_prefix(&url(), &fresh_prefix())
}

/// The port of the server.
pub(crate) fn port() -> u16 {
    let url = url();
    let port = url.split(['&', '?']).find_map(|option| option.strip_prefix("endpoint=http://127.0.0.1:"));
    port.unwrap().parse().unwrap()
}

/// A proxy in front of the server.
pub(crate) fn proxy() -> HttpFaults {
    HttpFaults::start(port()).unwrap()
}

/// This bucket at this prefix, looked at often.
pub(crate) fn at_prefix(url: &str, prefix: &str) -> S3StoreConfig {
    let (bucket, options) = url.split_once('?').unwrap();
    let config = S3StoreConfig::from_url(&format!("{bucket}/{prefix}?{options}")).unwrap();
    config.with_look_every(Duration::from_millis(50))
}

pub(crate) fn fresh_prefix() -> String {
    format!("test-{:016x}", fastrand::u64(..))
}
