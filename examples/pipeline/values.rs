//! Values of the command line that clap does not know.

use std::convert::Infallible;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use pubsub_pipeline::{
    ElasticStoreConfig, Error, LineNumber, MongoStoreConfig, PipelineConfig, Place, RedisBrokerConfig,
    RedisConfig, Retry, S3StoreConfig, Scheme, Stage, Subscription, check_broker,
};

/// A duration as people write it: `500ms`, `2m`, `1h 30m`.
pub(crate) type Span = Duration;

/// A name and a value.
pub(crate) type Entry = (String, String);

/// Where a payload comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum PayloadSource {
    Text(String),
    File(PathBuf),
    Stdin,
}

impl FromStr for PayloadSource {
    type Err = Infallible;

    fn from_str(text: &str) -> Result<Self, Infallible> {
        Ok(match text.strip_prefix('@') {
            Some(path) => Self::File(path.into()),
            None if text == "-" => Self::Stdin,
            None => Self::Text(text.to_owned()),
        })
    }
}

pub(crate) fn span(text: &str) -> Result<Span, String> {
    humantime::parse_duration(text)
        .map_err(|_| "a duration is a number with its unit, as in 500ms, 30s, 2m, 1h, 7days".to_owned())
}

/// A limit: a duration that is not nothing.
pub(crate) fn limit(text: &str) -> Result<Span, String> {
    match span(text)? {
        Span::ZERO => Err("a limit is longer than 0s; without the option there is none".to_owned()),
        limit => Ok(limit),
    }
}

/// A number of bytes as people write it: `1GiB`, `500MB`, `4096`; not nothing.
pub(crate) fn size(text: &str) -> Result<u64, String> {
    let wrong = || {
        // A letter alone means the one to some programs and the other to others.
        "a size is a whole number of bytes that is not 0, as in 4096, 500MB, 1GiB; the units are KB, MB, GB, TB (powers of \
         1000) and KiB, MiB, GiB, TiB (powers of 1024)"
            .to_owned()
    };
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at_checked(digits).ok_or_else(wrong)?;
    let unit: u64 = match unit.trim_start().to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "kb" => 1_000,
        "mb" => 1_000_000,
        "gb" => 1_000_000_000,
        "tb" => 1_000_000_000_000,
        "kib" => 1 << 10,
        "mib" => 1 << 20,
        "gib" => 1 << 30,
        "tib" => 1 << 40,
        _ => return Err(wrong()),
    };
    let number: u64 = number.parse().map_err(|_| wrong())?;
    number.checked_mul(unit).filter(|bytes| *bytes > 0).ok_or_else(wrong)
}

/// An `action_config`, or the file that has it.
pub(crate) fn config(text: &str) -> Result<PipelineConfig, String> {
    let json = match text.strip_prefix('@') {
        Some(path) => std::fs::read_to_string(path).map_err(|e| format!("its file cannot be read: {e}"))?,
        None => text.to_owned(),
    };
    PipelineConfig::from_json(&json).map_err(|e| match std::error::Error::source(&e) {
        Some(why) => format!("{}: {why}", e.message()),
        None => e.message().to_owned(),
    })
}

/// When work that failed is tried again.
pub(crate) fn retry(text: &str) -> Result<Retry, String> {
    Ok(match text {
        "none" => Retry::None,
        "fixed" => Retry::Fixed,
        "exponential" => Retry::Exponential,
        _ => return Err("it takes none, fixed or exponential".to_owned()),
    })
}

/// A broker that outlives this program.
pub(crate) fn broker(url: &str) -> Result<Place, String> {
    let place = outliving(url)?;
    checked(check_broker(&place))?;
    checked(match place.scheme() {
        Scheme::Redis(address) => RedisBrokerConfig::from_url(address.with_secrets()).map(drop),
        _ => Ok(()),
    })?;
    Ok(place)
}

/// A store that outlives this program.
pub(crate) fn store(url: &str) -> Result<Place, String> {
    let place = outliving(url)?;
    checked(match place.scheme() {
        Scheme::Redis(address) => RedisConfig::from_url(address.with_secrets()).map(drop),
        Scheme::Elastic(address) => ElasticStoreConfig::from_url(address.with_secrets()).map(drop),
        Scheme::Mongo(address) => MongoStoreConfig::from_url(address.with_secrets()).map(drop),
        Scheme::Bucket(address) => S3StoreConfig::from_url(address.with_secrets()).map(drop),
        _ => Ok(()),
    })?;
    Ok(place)
}

fn outliving(url: &str) -> Result<Place, String> {
    let place: Place = checked(url.parse())?;
    if is_outliving(&place) { Ok(place) } else { Err(NOT_OUTLIVING.to_owned()) }
}

/// Why a place is none for this program.
pub(crate) const NOT_OUTLIVING: &str = "what is kept in the memory of this program ends with it; name a folder: \
                                        file:///absolute/path or file:relative/path";

pub(crate) fn is_outliving(place: &Place) -> bool {
    *place.scheme() != Scheme::Memory
}

/// What is wrong with a URL, without the context, which repeats the URL: it may hold a password.
fn checked<T>(configured: Result<T, Error>) -> Result<T, String> {
    configured.map_err(|e| e.message().to_owned())
}

pub(crate) fn entry(text: &str) -> Result<Entry, String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err("it is name=value".to_owned()),
    }
}

/// A lease, as long as a broker gives one.
pub(crate) fn lease(text: &str) -> Result<Span, String> {
    let lease = span(text)?;
    // A broker's own rule, asked of a subscription to anything.
    let any = || Subscription::for_stage(Stage::new("any")?, ["*:*".parse()?])?.with_lease(lease);
    any().map_err(|e| e.message().to_owned())?;
    Ok(lease)
}

/// The name of an environment variable. What is given in its place is the secret itself, perhaps.
pub(crate) fn variable(text: &str) -> Result<String, String> {
    if text.is_empty() || text.contains(['=', '\0']) {
        return Err("it takes the name of an environment variable, not its value".to_owned());
    }
    Ok(text.to_owned())
}

/// A folder that is there, or can be made.
pub(crate) fn folder(text: &str) -> Result<PathBuf, String> {
    let path = PathBuf::from(text);
    if text.is_empty() || (path.exists() && !path.is_dir()) {
        return Err("it takes the path of a folder, which is made where there is none".to_owned());
    }
    Ok(path)
}

/// A whole number.
pub(crate) fn number<T: FromStr>(text: &str) -> Result<T, String> {
    text.parse().map_err(|_| "it takes a whole number from 0 up, as in 50".to_owned())
}

/// A whole number that is not 0.
pub(crate) fn some<const LAST: u32>(text: &str) -> Result<u32, String> {
    let number = text.parse().ok().filter(|number| (1..=LAST).contains(number));
    number.ok_or_else(|| format!("it takes a whole number from 1 to {LAST}"))
}

/// A number of runs that is not 0.
pub(crate) fn some_runs(text: &str) -> Result<u64, String> {
    let number = text.parse().ok().filter(|number| *number > 0);
    number.ok_or_else(|| "it takes a whole number from 1 up, as in 1000".to_owned())
}

pub(crate) fn line_number(text: &str) -> Result<LineNumber, String> {
    let number = text.parse().ok().and_then(LineNumber::new);
    number.ok_or_else(|| "it takes the number of a line: they are 1, 2, 3 …".to_owned())
}

/// Options that may stand anywhere, and whether a value follows.
const GLOBAL: [(&str, bool); 6] = [
    ("--dir", true),
    ("--config", true),
    ("--broker", true),
    ("--store", true),
    ("--spool", true),
    ("--json", false),
];

/// Moves the global options before the subcommand: clap forgets those before it where the same stands after it.
/// What follows `--` is the command's own.
pub(crate) fn hoisted(words: impl IntoIterator<Item = String>) -> Vec<String> {
    let mut words = words.into_iter();
    let (mut first, mut others) = (Vec::new(), Vec::new());
    first.extend(words.next());
    while let Some(word) = words.next() {
        let name = word.split('=').next().unwrap_or_default();
        match GLOBAL.iter().find(|(global, _)| *global == name) {
            Some((_, takes_value)) => {
                let value = (*takes_value && !word.contains('=')).then(|| words.next()).flatten();
                first.push(word);
                first.extend(value);
            }
            None => {
                let end = word == "--";
                others.push(word);
                if end {
                    others.extend(words.by_ref());
                }
            }
        }
    }
    first.extend(others);
    first
}

#[cfg(test)]
mod tests {
    use clap::{Args as _, Command};

    use super::{
        GLOBAL, PayloadSource, broker, entry, hoisted, lease, limit, line_number, size, span, store,
    };
    use crate::args::Global;
    use std::time::Duration;

    fn words(text: &str) -> Vec<String> {
        text.split(' ').map(str::to_owned).collect()
    }

    #[test]
    fn global_options_move_to_the_front_and_those_of_the_command_stay() {
        let moved = hoisted(words("p --store a work --store=b --stage s --json -- c --json --dir x"));
        assert_eq!(moved, words("p --store a --store=b --json work --stage s -- c --json --dir x"));
        let moved = hoisted(words("p --spool a stream x --spool b --spool=c -- d --spool e"));
        assert_eq!(moved, words("p --spool a --spool b --spool=c stream x -- d --spool e"));
        assert_eq!(hoisted(words("p list --dir")), words("p --dir list"));
    }

    #[test]
    fn every_global_option_is_moved() {
        let known = Global::augment_args(Command::new("p"));
        let options: Vec<(String, bool)> = known
            .get_arguments()
            .map(|arg| (format!("--{}", arg.get_long().unwrap()), arg.get_action().takes_values()))
            .collect();
        let moved: Vec<(String, bool)> =
            GLOBAL.iter().map(|(name, value)| ((*name).to_owned(), *value)).collect();
        assert_eq!(options, moved);
    }

    #[test]
    fn durations_entries_and_numbers_are_as_people_write_them() {
        assert_eq!(span("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(span("2m"), Ok(Duration::from_secs(120)));
        assert_eq!(lease("100ms"), Ok(Duration::from_millis(100)));
        assert!(lease("99ms").unwrap_err().contains("100 ms to 24 h"));
        assert!(span("10").is_err() && span("soon").is_err());
        assert_eq!(entry("a=b=c"), Ok(("a".to_owned(), "b=c".to_owned())));
        assert!(entry("=b").is_err() && entry("a").is_err());
        assert!(line_number("0").is_err() && line_number("7").is_ok());
    }

    #[test]
    fn sizes_are_as_people_write_them_and_never_nothing() {
        let table = [("1", 1), ("4096", 4096), ("7b", 7), ("500MB", 500_000_000), ("1GiB", 1 << 30)];
        for (text, bytes) in table {
            assert_eq!(size(text), Ok(bytes), "{text}");
        }
        assert_eq!(
            (size("2 kib"), size("3TB"), size("5Mib")),
            (Ok(2048), Ok(3_000_000_000_000), Ok(5 << 20))
        );
        for text in ["", "0", "0GiB", "MB", "-1", "1.5GiB", "1G", "1 gigabyte", "99999999999TiB", "1é"] {
            assert!(size(text).unwrap_err().contains("500MB, 1GiB"), "{text}");
        }
    }

    #[test]
    fn a_limit_is_not_nothing_and_a_place_outlives_the_program() {
        assert_eq!(limit("1ms"), Ok(Duration::from_millis(1)));
        assert!(limit("0s").unwrap_err().contains("longer than 0s"));
        assert!(store("file:runs").is_ok() && broker("redis://host?replicas=1").is_ok());
        assert!(store("redis://host?replicas=1").is_err() && broker("redis://host?nothing=1").is_err());
        assert!(store("memory:").unwrap_err().contains("file:///absolute/path"));
        assert!(store("memory:?required=true").is_err() && store("mysql://host").is_err());
    }

    #[test]
    fn a_payload_is_text_a_file_or_standard_input() {
        let of = |text: &str| text.parse::<PayloadSource>().unwrap();
        assert_eq!(of("-"), PayloadSource::Stdin);
        assert_eq!(of("@a.json"), PayloadSource::File("a.json".into()));
        assert_eq!(of("-1"), PayloadSource::Text("-1".to_owned()));
    }
}
