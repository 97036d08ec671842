//! All settings as one text: every one has a place in a URL, but the key.

use std::str::FromStr;
use std::time::Duration;

use pubsub_core::{Error, Result};

use super::{ElasticStoreConfig, SearchIndex};

/// What the options of a URL are called.
const OPTIONS: &str =
    "prefix, ca, search-index, shards, replicas, refresh, bulk-bytes, requests and answer-limit";

/// No part of the text goes into a message: any of them may hold a piece of a password.
pub(crate) fn malformed() -> Error {
    Error::invalid(
        "this is no URL of Elasticsearch or OpenSearch; it takes elastic+http://[user:password@]host[:port][/path], or \
         elastic+https://; what means something in a URL is percent-encoded in a password",
    )
    .with("setting", "url")
}

pub(super) fn parse(text: &str) -> Result<ElasticStoreConfig> {
    let plain = text.strip_prefix("elastic+").ok_or_else(malformed)?;
    let scheme = plain.split("://").next().unwrap_or_default();
    if !matches!(scheme, "http" | "https") || plain.contains('#') {
        return Err(malformed());
    }
    let (place, query) = plain.split_once('?').unwrap_or((plain, ""));
    let options = url::form_urlencoded::parse(query.as_bytes());
    options
        .into_iter()
        .try_fold(ElasticStoreConfig::new(place), |config, (name, value)| with_option(config, &name, &value))
}

fn with_option(config: ElasticStoreConfig, name: &str, value: &str) -> Result<ElasticStoreConfig> {
    Ok(match name {
        "prefix" => config.with_prefix(value),
        "ca" => config.with_ca(value),
        "search-index" => config.with_search_index(match value {
            "trigrams" => SearchIndex::Trigrams,
            "scan" => SearchIndex::Scan,
            _ => return Err(takes("search-index", "trigrams or scan")),
        }),
        "shards" => config.with_shards(number("shards", value)?),
        "replicas" => config.with_replicas(number("replicas", value)?),
        "bulk-bytes" => config.with_bulk_bytes(number("bulk-bytes", value)?),
        "requests" => config.with_requests(number("requests", value)?),
        "refresh" => config.with_refresh(duration("refresh", value)?),
        "answer-limit" => config.with_answer_limit(duration("answer-limit", value)?),
        _ => {
            let text = format!("a URL of Elasticsearch has an option that is none; there are {OPTIONS}");
            return Err(Error::invalid(text).with("setting", "url"));
        }
    })
}

fn takes(option: &'static str, what: &str) -> Error {
    Error::invalid(format!("{option} in a URL of Elasticsearch takes {what}")).with("setting", option)
}

fn number<T: FromStr>(option: &'static str, value: &str) -> Result<T> {
    value.parse().map_err(|_| takes(option, "a number"))
}

fn duration(option: &'static str, value: &str) -> Result<Duration> {
    let (number, unit): (&str, fn(u64) -> Duration) = match value.strip_suffix("ms") {
        Some(number) => (number, Duration::from_millis),
        None => (value.strip_suffix('s').unwrap_or_default(), Duration::from_secs),
    };
    number.parse().map(unit).map_err(|_| takes(option, "a number with ms or s, as 500ms or 5s"))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn every_setting_has_a_place_in_a_url() {
        let text = "elastic+https://u:p%23@h:9200/base?prefix=ci&ca=/etc/ca.pem&search-index=scan&shards=3&replicas=0\
                    &refresh=500ms&bulk-bytes=1000000&requests=2&answer-limit=5s";
        let expected = ElasticStoreConfig::new("https://u:p%23@h:9200/base")
            .with_prefix("ci")
            .with_ca("/etc/ca.pem")
            .with_search_index(SearchIndex::Scan)
            .with_shards(3)
            .with_replicas(0)
            .with_refresh(Duration::from_millis(500))
            .with_bulk_bytes(1_000_000)
            .with_requests(2)
            .with_answer_limit(Duration::from_secs(5));
        assert!(parse(text).unwrap() == expected);
    }

    #[test]
    fn what_is_no_such_url_is_refused_without_showing_it() {
        for text in [
            "http://:secret@h",
            "elastic://:secret@h",
            "elastic+ftp://:secret@h",
            "elastic+http://:secret#@h",
            "elastic+http://:secret@h?search-index=secret",
            "elastic+http://:secret@h?refresh=secret",
            "elastic+http://:secret@h?shards=secret",
            "elastic+http://:secret@h?secret=1",
        ] {
            let error = parse(text).unwrap_err();
            assert_eq!(error.kind(), pubsub_core::ErrorKind::Invalid);
            assert!(!error.chain().contains("secret"), "{error}");
        }
    }
}
