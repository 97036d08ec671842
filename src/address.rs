//! The URL of a server, which may hold a password.

use std::fmt;

/// The URL of a server with all that it holds, a password among it; written and printed without.
///
/// ```
/// use pubsub_pipeline::{Place, Scheme};
/// let place: Place = "redis://app:secret@127.0.0.1:6379/1?prefix=ci&required=true".parse()?;
/// assert_eq!(place.to_string(), "redis://127.0.0.1:6379/1?prefix=ci");
/// let Scheme::Redis(address) = place.scheme() else { panic!("it is one of Redis") };
/// assert_eq!(address.with_secrets(), "redis://app:secret@127.0.0.1:6379/1?prefix=ci");
/// # Ok::<(), pubsub_pipeline::Error>(())
/// ```
#[derive(Clone, PartialEq, Eq)]
pub struct Address(String);

impl Address {
    pub(crate) const fn new(url: String) -> Self {
        Self(url)
    }

    /// The whole URL.
    #[must_use]
    pub fn with_secrets(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some((scheme, rest)) = self.0.split_once("://") else { return Ok(()) };
        let (rest, options) = rest.split_once('?').unwrap_or((rest, ""));
        // A password may hold anything that is encoded, and is followed by the last @ before the path.
        let (authority, path) = match rest.rfind('@').map(|at| rest.split_at(at + 1)) {
            Some((_, after)) => after.find('/').map_or((after, ""), |slash| after.split_at(slash)),
            None => rest.find('/').map_or((rest, ""), |slash| rest.split_at(slash)),
        };
        write!(f, "{scheme}://{authority}{path}")?;
        // Of the options, which may hold a password as well, those that tell two places of one name apart.
        let tells = |option: &&str| ["prefix=", "endpoint="].iter().any(|name| option.starts_with(name));
        let told: Vec<&str> = options.split('&').filter(tells).collect();
        if told.is_empty() { Ok(()) } else { write!(f, "?{}", told.join("&")) }
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

#[cfg(test)]
mod tests {
    use super::Address;

    #[test]
    fn no_password_is_shown_wherever_it_stands() {
        for (url, shown) in [
            ("redis://h", "redis://h"),
            ("redis://u:geheim@h:1/2", "redis://h:1/2"),
            ("rediss://:gehe@im@h:1", "rediss://h:1"),
            ("redis://u:ge/heim@h", "redis://h"),
            (
                "s3://b/p?secret_access_key=geheim&endpoint=http://h:1&token=geheim",
                "s3://b/p?endpoint=http://h:1",
            ),
            ("redis+unix:///run/redis.sock?pass=geheim&prefix=ci", "redis+unix:///run/redis.sock?prefix=ci"),
        ] {
            let address = Address::new(url.to_owned());
            assert_eq!((address.to_string(), format!("{address:?}")), (shown.to_owned(), shown.to_owned()));
        }
    }
}
