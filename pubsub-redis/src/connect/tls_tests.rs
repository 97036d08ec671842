//! TLS: addresses, certificates, and what is told where one side speaks it and the other does not.

use std::sync::Arc;

use pubsub_core::ErrorKind;
use services::{Certificates, Place, Redis, RedisOptions, encoded};

use super::tests::{BRIEF, PASSWORD, all_work, link, none_tells, told, works};
use crate::config::RedisConfig;

fn certified() -> (Arc<Place>, Certificates) {
    let place = Arc::new(Place::new().unwrap());
    let certificates = Certificates::make(place.folder()).unwrap();
    (place, certificates)
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs Redis"]
async fn every_correct_form_of_an_address_connects() {
    let (place, certificates) = certified();
    let options = RedisOptions::new()
        .with_password(PASSWORD)
        .with_user(format!("user ci on >{PASSWORD} ~* &* +@all"))
        .with_tls(&certificates);
    let redis = Redis::start_in(&place, "open", &options).unwrap();
    let knowing = options.with_setting("tls-auth-clients", "yes");
    let knowing = Redis::start_in(&place, "knowing", &knowing).unwrap();
    // An older server, as many are.
    let older = RedisOptions::new().with_tls(&certificates).with_setting("tls-protocols", "TLSv1.2");
    let older = Redis::start_in(&place, "older", &older).unwrap();
    let (ca, word, at) = (certificates.authority(), encoded(PASSWORD), redis.port());
    let (certificate, key) = certificates.client();
    all_work([
        RedisConfig::new(format!("rediss://:{word}@127.0.0.1:{at}")).with_ca(&ca),
        RedisConfig::new(format!("rediss://localhost:{at}")).with_ca(&ca).with_password(PASSWORD),
        RedisConfig::new(redis.url()).with_ca(&ca).with_user("ci").with_password(PASSWORD),
        RedisConfig::from_url(&format!("rediss://:{word}@127.0.0.1:{at}?ca={}", ca.display())).unwrap(),
        RedisConfig::new(knowing.url())
            .with_ca(&ca)
            .with_certificate(&certificate, &key)
            .with_password(PASSWORD),
        RedisConfig::new(older.url()).with_ca(&ca),
    ])
    .await;
    let unknown = RedisConfig::new(knowing.url()).with_ca(&ca).with_password(PASSWORD);
    let error = works(&link(unknown)).await.unwrap_err();
    assert!(told(&error).to_lowercase().contains("certificate"), "{}", told(&error));
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs Redis"]
async fn no_failure_tells_the_password() {
    let (place, certificates) = certified();
    let options = RedisOptions::new().with_password("another").with_tls(&certificates);
    let redis = Redis::start_in(&place, "redis", &options).unwrap();
    let (word, at) = (encoded(PASSWORD), redis.port());
    let of = |url: String| RedisConfig::new(url);
    none_tells([
        (of(redis.url()).with_ca(certificates.authority()).with_password(PASSWORD), ErrorKind::Refused),
        // Known to no authority of the system.
        (of(format!("rediss://:{word}@127.0.0.1:{at}")), ErrorKind::Refused),
        (of(format!("redis://:{word}@127.0.0.1:{at}")), ErrorKind::Invalid),
    ])
    .await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs Redis"]
async fn what_is_needed_and_not_used_or_used_and_not_spoken_is_told() {
    let (place, certificates) = certified();
    let plain = Redis::start_in(&place, "plain", &RedisOptions::new()).unwrap();
    let tls = Redis::start_in(&place, "tls", &RedisOptions::new().with_tls(&certificates)).unwrap();
    for (url, says) in [
        (format!("redis://127.0.0.1:{}", tls.port()), "has to be rediss://"),
        (format!("rediss://127.0.0.1:{}", plain.port()), "has to be redis://"),
        (format!("rediss://127.0.0.1:{}", tls.port()), "the setting ca names"),
    ] {
        let error = works(&link(RedisConfig::new(&url).with_connect_limit(BRIEF))).await.unwrap_err();
        assert!(told(&error).contains(says), "{url}: {}", told(&error));
    }
}
