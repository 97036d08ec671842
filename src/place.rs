//! Where a broker or a store is, written as a URL.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use pubsub_core::{Error, Result};

use crate::address::Address;

/// A broker or a store, named by a URL: `file:///absolute/path`, `file:relative/path`, `memory:`, or
/// `redis://[user[:password]@]host[:port][/database]` (`rediss` with TLS, `redis+unix:///path`, `redis+cluster://…`,
/// `redis+sentinel://…`); a store besides `elastic+http://[user:password@]host[:port]` (`elastic+https` with TLS),
/// `mongodb://…` or `mongodb+srv://…`, and `s3://bucket/prefix`, `gs://…` or `az://…`.
///
/// In the form with `//` the path may hold `%20` and the like; in the short form it is taken as it stands. Options
/// follow after a `?`: `required=true` or `required=false` says whether a store must have everything before an event is
/// acknowledged. What else a server's URL takes says its backend.
///
/// ```
/// use pubsub_pipeline::{Place, Scheme};
/// let place: Place = "file:///var/lib/my%20runs?required=true".parse()?;
/// assert_eq!(place.scheme(), &Scheme::File("/var/lib/my runs".into()));
/// assert_eq!(place.required(), Some(true));
/// assert_eq!(place.to_string(), "file:/var/lib/my runs");
/// let error = "mysql://host".parse::<Place>().unwrap_err();
/// assert!(error.to_string().contains("file:, memory:, redis:, elastic+http:, mongodb:, s3:"), "{error}");
/// # Ok::<(), pubsub_pipeline::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    scheme: Scheme,
    required: Option<bool>,
}

/// What kind of place.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Scheme {
    /// A folder.
    File(PathBuf),
    /// This process alone.
    Memory,
    /// A Redis deployment.
    Redis(Address),
    /// Elasticsearch or OpenSearch: a store alone.
    Elastic(Address),
    /// A MongoDB deployment, which is a store alone.
    Mongo(Address),
    /// A bucket of an object store, which is a store alone.
    Bucket(Address),
}

impl Place {
    /// A folder.
    pub fn folder(path: impl Into<PathBuf>) -> Self {
        Self { scheme: Scheme::File(path.into()), required: None }
    }

    /// This process alone: nothing outlives it.
    #[must_use]
    pub const fn memory() -> Self {
        Self { scheme: Scheme::Memory, required: None }
    }

    /// What kind of place.
    #[must_use]
    pub const fn scheme(&self) -> &Scheme {
        &self.scheme
    }

    /// Whether its URL says that it must have everything; `None` where it does not say.
    #[must_use]
    pub const fn required(&self) -> Option<bool> {
        self.required
    }
}

impl fmt::Display for Place {
    /// As a URL without its options, and never with a password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.scheme {
            Scheme::File(folder) => {
                let path = folder.display().to_string();
                // What the short form would take for a host, or for options.
                if path.starts_with("//") || (path.starts_with('/') && path.contains('?')) {
                    write!(f, "file://{}", path.replace('%', "%25").replace('?', "%3f"))
                } else {
                    write!(f, "file:{path}")
                }
            }
            Scheme::Memory => f.write_str("memory:"),
            Scheme::Redis(address)
            | Scheme::Elastic(address)
            | Scheme::Mongo(address)
            | Scheme::Bucket(address) => write!(f, "{address}"),
        }
    }
}

impl FromStr for Place {
    type Err = Error;

    fn from_str(url: &str) -> Result<Self> {
        let (scheme, rest) = url.split_once(':').ok_or_else(|| {
            Error::invalid(
                "a broker or a store is named by a URL, as in file:.pipeline or file:///var/lib/runs",
            )
            .with("url", url)
        })?;
        let (rest, options) =
            rest.split_once('?').map_or((rest, None), |(rest, options)| (rest, Some(options)));
        let options = options.into_iter().flat_map(|options| options.split('&'));
        let (own, others): (Vec<_>, Vec<_>) = options.partition(|option| option.starts_with("required="));
        let scheme = match scheme {
            "file" => Scheme::File(path(rest, url)?),
            "memory" if rest.is_empty() => Scheme::Memory,
            "memory" => return Err(Error::invalid("memory: takes no path").with("url", url)),
            _ => {
                let kind = server_kind(scheme).ok_or_else(|| {
                    // The rest may hold a password: it is not repeated.
                    Error::invalid(
                        "no broker or store is known by this scheme; there are file:, memory:, redis:, elastic+http:, \
                         mongodb:, s3:, gs:, az:",
                    )
                    .with("scheme", scheme)
                })?;
                kind(server(scheme, rest, &others)?)
            }
        };
        // A server has options of its own, which its backend reads.
        if let (Scheme::File(_) | Scheme::Memory, Some(option)) = (&scheme, others.first()) {
            return Err(Error::invalid("the options of a URL are required=true and required=false")
                .with("option", option));
        }
        Ok(Self { scheme, required: required(&own)? })
    }
}

fn server_kind(scheme: &str) -> Option<fn(Address) -> Scheme> {
    Some(match scheme {
        _ if is_redis(scheme) => Scheme::Redis,
        _ if is_elastic(scheme) => Scheme::Elastic,
        "mongodb" | "mongodb+srv" => Scheme::Mongo,
        "s3" | "gs" | "az" => Scheme::Bucket,
        _ => return None,
    })
}

fn server(scheme: &str, rest: &str, options: &[&str]) -> Result<Address> {
    if !rest.starts_with("//") {
        return Err(Error::invalid(format!("a server is named by {scheme}://host:port or the like")));
    }
    let options = if options.is_empty() { String::new() } else { format!("?{}", options.join("&")) };
    Ok(Address::new(format!("{scheme}:{rest}{options}")))
}

/// With or without TLS, and of any kind of deployment: which there are says the backend.
fn is_redis(scheme: &str) -> bool {
    matches!(scheme.split('+').next(), Some("redis" | "rediss"))
}

/// The plain names of it, HTTP, say nothing of what is behind them.
fn is_elastic(scheme: &str) -> bool {
    matches!(scheme, "elastic+http" | "elastic+https")
}

/// The last of these options stands.
fn required(options: &[&str]) -> Result<Option<bool>> {
    let mut required = None;
    for option in options {
        required = match *option {
            "required=true" => Some(true),
            "required=false" => Some(false),
            _ => {
                return Err(Error::invalid("required takes true and false").with("option", option));
            }
        };
    }
    Ok(required)
}

fn path(rest: &str, url: &str) -> Result<PathBuf> {
    let wrong = |what: &str| {
        Error::invalid(format!("{what}; a folder is file:///absolute/path or file:relative/path"))
            .with("url", url)
    };
    let path = match rest.strip_prefix("//") {
        None => rest.to_owned(),
        Some(rest) => {
            let rest = rest.strip_prefix("localhost").unwrap_or(rest);
            if !rest.starts_with('/') {
                return Err(wrong("this names a folder of another machine"));
            }
            decoded(rest).ok_or_else(|| wrong("a % is not followed by two hexadecimal digits of UTF-8"))?
        }
    };
    if path.is_empty() {
        return Err(wrong("the folder is missing"));
    }
    if path.contains('\0') {
        return Err(wrong("no path holds a NUL"));
    }
    Ok(path.into())
}

/// RFC 3986, section 2.1.
fn decoded(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte == b'%' {
            let high = char::from(rest.next()?).to_digit(16)?;
            let low = char::from(rest.next()?).to_digit(16)?;
            bytes.push(u8::try_from(high * 16 + low).ok()?);
        } else {
            bytes.push(byte);
        }
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::{Place, Scheme};
    use crate::Address;

    #[test]
    fn urls_name_folders_and_memory() {
        let table = [
            ("file:runs", Scheme::File("runs".into())),
            ("file:/a/b", Scheme::File("/a/b".into())),
            ("file:my%20runs", Scheme::File("my%20runs".into())),
            ("file:///a%20b", Scheme::File("/a b".into())),
            ("file://localhost/a", Scheme::File("/a".into())),
            ("memory:", Scheme::Memory),
            ("redis://h:1/2", Scheme::Redis(Address::new("redis://h:1/2".to_owned()))),
            ("elastic+https://h:1", Scheme::Elastic(Address::new("elastic+https://h:1".to_owned()))),
            (
                "mongodb://a,b/ci?required=true&w=1",
                Scheme::Mongo(Address::new("mongodb://a,b/ci?w=1".to_owned())),
            ),
            ("s3://b/p?required=true&region=r", Scheme::Bucket(Address::new("s3://b/p?region=r".to_owned()))),
        ];
        for (url, scheme) in table {
            assert_eq!(url.parse::<Place>().unwrap().scheme(), &scheme, "{url}");
        }
    }

    #[test]
    fn a_place_is_written_so_that_it_leads_there_again() {
        for url in ["file:runs", "file:my%20runs", "file:////-ar/lii03/", "file:///a%3fb%2525", "memory:"] {
            let place: Place = url.parse().unwrap();
            assert_eq!(place.to_string().parse::<Place>().unwrap(), place, "{url}: {place}");
        }
    }

    #[test]
    fn what_is_wrong_is_said_and_a_password_is_not_repeated() {
        let table = [
            ("runs", "named by a URL"),
            ("file:", "the folder is missing"),
            ("file://server/a", "another machine"),
            ("file:///a%2", "two hexadecimal digits"),
            ("file:a?requird=true", "required=true and required=false"),
            ("memory:x", "no path"),
            ("file:a?required=yes", "true and false"),
            ("mysql://user:geheim@host", "scheme=mysql"),
            ("redis+cluster:user:geheim@host", "redis+cluster://host:port"),
            ("elastic+http:user:geheim@host", "elastic+http://host:port"),
            ("elastic://user:geheim@host", "scheme=elastic"),
            ("mongodb:user:geheim@host", "mongodb://host:port"),
            ("s3:user:geheim@host", "s3://host:port"),
        ];
        for (url, part) in table {
            let text = url.parse::<Place>().unwrap_err().to_string();
            assert!(text.contains(part) && !text.contains("geheim"), "{url}: {text}");
        }
    }
}
