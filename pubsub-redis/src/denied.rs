//! What the server says of a user that lacks a right: who, and which.

use std::error::Error as _;

use pubsub_core::{Error, ErrorKind};
use redis::{RedisError, RedisResult, Value};

use crate::error::kind_of;

/// What the server calls a user without a name ("ACL", default user).
const NAMELESS: &str = "default";

/// A refusal for want of a password or a right.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Denied {
    user: String,
    right: Option<String>,
}

impl Denied {
    /// Where an answer is a refusal; `code` is that of the script that was called.
    pub(crate) fn read(
        answer: &RedisResult<Value>,
        code: Option<&str>,
        user: Option<&str>,
    ) -> Option<Box<Self>> {
        let refused = match answer {
            Ok(Value::ServerError(error)) => RedisError::from(error.clone()),
            Err(error) => error.clone(),
            Ok(_) => return None,
        };
        if !is_of_user(&refused) {
            return None;
        }
        let right = right(&refused.to_string(), code).map(|command| format!("+{}", command.to_lowercase()));
        Some(Box::new(Self { user: user.unwrap_or(NAMELESS).to_owned(), right }))
    }

    pub(crate) fn told(self, error: Error) -> Error {
        let error = error.with("user", self.user);
        if let Some(right) = self.right { error.with("right", right) } else { error }
    }
}

/// Says of a refusal by a server who was refused.
pub(crate) fn with_user(error: Error, user: Option<&str>) -> Error {
    let driver = error.source().and_then(|source| source.downcast_ref::<RedisError>());
    if driver.is_some_and(is_of_user) { error.with("user", user.unwrap_or(NAMELESS)) } else { error }
}

/// A certificate or a socket is no user's.
fn is_of_user(error: &RedisError) -> bool {
    error.kind() != redis::ErrorKind::Io && kind_of(error) == ErrorKind::Refused
}

/// The command that was denied: where the server says it, where a script of ours says it, or in the line of the script in
/// which it failed.
fn right<'t>(text: &'t str, code: Option<&'t str>) -> Option<&'t str> {
    let named = text.split_once(" run the '").or_else(|| text.split_once(" ('"));
    if let Some((_, name)) = named {
        return name.split('\'').next();
    }
    let (_, line) = text.rsplit_once("@user_script:")?;
    let line: usize = line.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()?;
    let (_, name) = code?.lines().nth(line.checked_sub(1)?)?.split_once("call('")?;
    name.split('\'').next()
}

#[cfg(test)]
mod tests {
    use redis::parse_redis_value;

    use super::{Denied, right};

    #[test]
    fn the_command_is_read_off_what_the_server_says() {
        let code = "local a = 1\nredis.call('HSET', KEYS[1], 'a', a)";
        for (text, expected) in [
            ("NOPERM this user has no permissions to run the 'config|get' command", Some("config|get")),
            ("NOPERM User ci has no permissions to run the 'xadd' command", Some("xadd")),
            (
                "The user executing the script can't run this command or subcommand script: 9a, on @user_script:2.",
                Some("HSET"),
            ),
            ("can't run this command or subcommand ('xack') script: 9a, on @user_script:2.", Some("xack")),
            ("can't run this command or subcommand script: 9a, on @user_script:1.", None),
            ("can't run this command or subcommand script: 9a, on @user_script:99.", None),
            ("can't run this command or subcommand script: 9a, on @user_script:.", None),
            ("NOPERM this user has no permissions to access one of the keys used as arguments", None),
        ] {
            assert_eq!(right(text, Some(code)), expected, "{text}");
        }
    }

    #[test]
    fn only_a_refusal_is_one() {
        let sent = |text: &str| parse_redis_value(format!("{text}\r\n").as_bytes());
        let read = |text: &str| Denied::read(&sent(text), None, Some("ci"));
        assert_eq!(read("+OK"), None);
        assert_eq!(read("-OOM no room"), None);
        let denied = read("-NOPERM this user has no permissions to run the 'xadd' command").unwrap();
        let error = denied.told(pubsub_core::Error::new(pubsub_core::ErrorKind::Refused, "append lines"));
        assert_eq!(error.to_string(), "append lines (user=ci, right=+xadd): refused");
    }
}
