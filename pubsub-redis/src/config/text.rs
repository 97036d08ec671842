//! A deployment as one text: every setting has a place in a URL.

use std::time::Duration;

use pubsub_core::{Error, Result};

use super::{Deployment, RedisConfig};

/// What the options of a URL are called.
const OPTIONS: &str = "prefix, ca, certificate, key, connect-limit, answer-limit, sentinel-user and \
                       sentinel-password, and for a broker replicas and replica-limit";

/// No part of the text goes into a message: any of them may hold a piece of a password.
fn malformed() -> Error {
    Error::invalid(
        "this is no URL of Redis; it takes redis://[user[:password]@]host[:port][/database], \
         redis+cluster://host:port,host:port, redis+sentinel://host:port,host:port/master[/database], each with \
         rediss for TLS, or redis+unix:///path[?db=0]; what means something in a URL is percent-encoded in a password",
    )
    .with("setting", "url")
}

pub(super) fn parse(text: &str) -> Result<RedisConfig> {
    let (scheme, rest) = text.split_once("://").ok_or_else(malformed)?;
    if rest.contains('#') {
        return Err(malformed());
    }
    let (place, query) = rest.split_once('?').unwrap_or((rest, ""));
    let (plain, kind) = scheme.split_once('+').unwrap_or((scheme, ""));
    let plain = match plain {
        "redis" | "valkey" => "redis",
        "rediss" | "valkeys" => "rediss",
        _ => return Err(malformed()),
    };
    let mut config = match kind {
        "unix" if plain == "redis" && place.starts_with('/') => {
            RedisConfig::new(format!("redis+unix://{place}"))
        }
        "" => at(plain, place, Deployment::Standalone)?,
        "cluster" => at(plain, place, Deployment::Cluster)?,
        "sentinel" => {
            let (hosts, path) = place.split_once('/').ok_or_else(malformed)?;
            let (master, database) = path.split_once('/').unwrap_or((path, ""));
            if master.is_empty() {
                return Err(malformed());
            }
            let master = Deployment::Sentinel { master: master.to_owned() };
            at(plain, &format!("{hosts}/{database}"), master)?
        }
        _ => return Err(malformed()),
    };
    for (name, value) in url::form_urlencoded::parse(query.as_bytes()) {
        config = with_option(config, &name, value.into_owned())?;
    }
    Ok(config)
}

/// Several hosts with one set of credentials, as one URL each.
fn at(scheme: &str, place: &str, deployment: Deployment) -> Result<RedisConfig> {
    let (authority, database) = place.split_once('/').unwrap_or((place, ""));
    let (credentials, hosts) =
        authority.rsplit_once('@').map_or(("", authority), |(own, hosts)| (own, hosts));
    if hosts.contains(',') && deployment == Deployment::Standalone {
        return Err(malformed());
    }
    let at = if credentials.is_empty() { "" } else { "@" };
    let mut urls = hosts.split(',').map(|host| format!("{scheme}://{credentials}{at}{host}/{database}"));
    let first = RedisConfig::new(urls.next().ok_or_else(malformed)?);
    Ok(urls.fold(first, RedisConfig::with_url).with_deployment(deployment))
}

fn with_option(config: RedisConfig, name: &str, value: String) -> Result<RedisConfig> {
    let is_socket = config.urls().iter().any(|url| url.starts_with("redis+unix"));
    Ok(match name {
        "prefix" => config.with_prefix(value),
        "ca" => config.with_ca(value),
        "certificate" => {
            let key = config.key.clone().unwrap_or_default();
            config.with_certificate(value, key)
        }
        "key" => {
            let certificate = config.certificate.clone().unwrap_or_default();
            config.with_certificate(certificate, value)
        }
        "connect-limit" => config.with_connect_limit(duration(&value)?),
        "answer-limit" => config.with_answer_limit(duration(&value)?),
        "sentinel-user" => config.with_sentinel_user(value),
        "sentinel-password" => config.with_sentinel_password(value),
        // Those of a socket, whose path leaves no place for them: as the driver has them.
        "user" if is_socket => config.with_user(value),
        "pass" if is_socket => config.with_password(value),
        "db" if is_socket => {
            let database: u32 = value.parse().map_err(|_| malformed())?;
            let urls = config.urls().iter().map(|url| format!("{url}?db={database}")).collect();
            RedisConfig { urls, ..config }
        }
        _ => {
            let text = format!("a Redis URL has an option that is none; there are {OPTIONS}");
            return Err(Error::invalid(text).with("setting", "url"));
        }
    })
}

/// A time in a URL.
pub(crate) fn duration(text: &str) -> Result<Duration> {
    let (number, unit): (&str, fn(u64) -> Duration) = match text.strip_suffix("ms") {
        Some(number) => (number, Duration::from_millis),
        None => (text.strip_suffix('s').unwrap_or_default(), Duration::from_secs),
    };
    let number = number.parse().map_err(|_| {
        Error::invalid("a limit in a Redis URL takes a number with ms or s, as 500ms or 5s")
            .with("setting", "url")
    })?;
    Ok(unit(number))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_setting_has_a_place_in_a_url() {
        let url = "rediss+sentinel://ci:p%23@one:1,two:2/main/3?prefix=x&ca=/ca.pem&certificate=/c.pem&key=/c.key\
                   &connect-limit=500ms&answer-limit=3s&sentinel-user=watch&sentinel-password=%2F";
        let by_fields = RedisConfig::new("rediss://ci:p%23@one:1/3")
            .with_url("rediss://ci:p%23@two:2/3")
            .with_deployment(Deployment::Sentinel { master: "main".to_owned() })
            .with_prefix("x")
            .with_ca("/ca.pem")
            .with_certificate("/c.pem", "/c.key")
            .with_connect_limit(Duration::from_millis(500))
            .with_answer_limit(Duration::from_secs(3))
            .with_sentinel_user("watch")
            .with_sentinel_password("/");
        assert!(parse(url).unwrap() == by_fields);
    }

    #[test]
    fn each_deployment_has_a_scheme() {
        for (url, plain, deployment) in [
            ("redis://h", "redis://h/", Deployment::Standalone),
            ("valkeys://h:1/2", "rediss://h:1/2", Deployment::Standalone),
            ("redis+cluster://:p@[::1]:1", "redis://:p@[::1]:1/", Deployment::Cluster),
            ("redis+unix:///run/redis?db=2", "redis+unix:///run/redis?db=2", Deployment::Standalone),
        ] {
            let config = parse(url).unwrap();
            assert_eq!(config.urls(), [plain]);
            assert_eq!(*config.deployment(), deployment);
        }
    }

    #[test]
    fn a_malformed_url_is_refused_and_none_of_it_is_told() {
        for url in [
            "h:6379",
            "http://secret",
            "redis://:secret#word@h",
            "redis://:secret?word@h",
            "redis://one,two?secret",
            "redis+sentinel://:secret@h",
            "redis+sentinel://:secret@h/",
            "redis+other://secret",
            "rediss+unix:///secret",
            "redis://h?connect-limit=secret",
            "redis://h?connect-limit=5",
            "redis+unix:///x?db=secret",
        ] {
            let error = parse(url).unwrap_err();
            assert!(!error.chain().to_string().contains("secret"), "{url}: {}", error.chain());
        }
    }
}
