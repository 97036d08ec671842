//! What the server and the driver say, as the family's errors.

use std::error::Error as StdError;
use std::fmt;
use std::io;

use pubsub_core::{Error, ErrorKind};
use serde::Deserialize;

/// Most characters of a server's words that an error repeats: it may quote what it was sent.
const SHOWN_CHARS: usize = 300;

/// What the server says is wrong: of a request, or of one item of a bulk.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Complaint {
    pub(crate) status: u16,
    /// Its name for it, as `cluster_block_exception`; empty where it gave none.
    pub(crate) name: String,
    pub(crate) reason: String,
}

/// The body of an answer that is none; some answers have a text in place of the inner one.
#[derive(Debug, Deserialize)]
struct Body {
    error: Inner,
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Inner {
    Named(Named),
    Text(String),
}

/// The server's words for one failure.
#[derive(Clone, Debug, Default, Deserialize)]
pub(crate) struct Named {
    #[serde(rename = "type", default)]
    name: String,
    #[serde(default)]
    reason: Option<String>,
    #[serde(default)]
    root_cause: Vec<Named>,
    #[serde(default)]
    caused_by: Option<Box<Named>>,
}

impl Complaint {
    /// Of a whole request.
    pub(crate) fn of_answer(status: u16, body: &[u8]) -> Self {
        match serde_json::from_slice(body) {
            Ok(Body { error: Inner::Named(named) }) => Self::of_item(status, &named),
            Ok(Body { error: Inner::Text(reason) }) => {
                Self { status, name: String::new(), reason: shown(&reason) }
            }
            // A proxy, or nothing at all.
            Err(_) => Self { status, name: String::new(), reason: shown(&String::from_utf8_lossy(body)) },
        }
    }

    /// Of one item. The innermost of its causes says it.
    pub(crate) fn of_item(status: u16, named: &Named) -> Self {
        let outer = named.root_cause.first().unwrap_or(named);
        let mut reason = outer.reason.clone().unwrap_or_default();
        let mut next = outer.caused_by.as_ref().or(named.caused_by.as_ref());
        while let Some(cause) = next {
            if let Some(more) = cause.reason.as_ref().filter(|more| !reason.contains(more.as_str())) {
                reason = format!("{reason}: {more}");
            }
            next = cause.caused_by.as_ref();
        }
        Self { status, name: outer.name.clone(), reason: shown(&reason) }
    }

    /// What kind of failure it is for whoever called.
    pub(crate) fn kind(&self) -> ErrorKind {
        match (self.status, self.name.as_str()) {
            // The index or all of them are read-only: by hand, or by the server because its disk is nearly full (429, which
            // is not load). It lasts until somebody makes room or lifts it. With 503 it has no master, or just started.
            (403 | 429, "cluster_block_exception") => ErrorKind::Full,
            (400, "index_closed_exception") | (401 | 403, _) => ErrorKind::Refused,
            (404, _) => ErrorKind::NotFound,
            (405 | 406 | 415, _) => ErrorKind::Unsupported,
            (408, _) => ErrorKind::TimedOut,
            (409, _) => ErrorKind::Conflict,
            (413, _) => ErrorKind::TooLarge,
            (429 | 500..=599, _) => ErrorKind::Unavailable,
            // What we send is ours to get right.
            _ => ErrorKind::Internal,
        }
    }

    /// The server's name and reason, or its status where it said nothing.
    pub(crate) fn text(&self) -> String {
        match (self.name.as_str(), self.reason.as_str()) {
            ("", "") => format!("the server answered {}", self.status),
            ("", reason) => format!("the server answered {}: {reason}", self.status),
            (name, reason) => format!("{name}: {reason}"),
        }
    }

    /// The failure of doing this.
    pub(crate) fn failed(&self, doing: &'static str) -> Error {
        let kind = self.kind();
        let error = Error::new(kind, doing).with("status", self.status).with_source(self.text());
        if kind == ErrorKind::Full { error.with("limit", "the index is read-only") } else { error }
    }
}

fn shown(text: &str) -> String {
    match text.char_indices().nth(SHOWN_CHARS) {
        Some((at, _)) => format!("{}…", text.get(..at).unwrap_or_default()),
        None => text.trim().to_owned(),
    }
}

/// What kind of failure of the driver it is: below it is the network.
pub(crate) fn kind_of(error: &elasticsearch::Error) -> ErrorKind {
    if error.is_timeout() {
        return ErrorKind::TimedOut;
    }
    if error.is_json() {
        return ErrorKind::Internal;
    }
    if wrong_setting(error).is_some() {
        return ErrorKind::Refused;
    }
    of_io(io_error(error))
}

/// The setting that is wrong where client and server cannot understand each other, however often it is tried.
fn wrong_setting(error: &elasticsearch::Error) -> Option<&'static str> {
    // The types of TLS and HTTP below the driver are not its own; their texts are what is left.
    let is_tls = io_error(error).is_some_and(|io| io.kind() == io::ErrorKind::InvalidData);
    let mut next = error.source();
    while let Some(cause) = next {
        let said = cause.to_string();
        // The second: by another authority of the same name.
        if is_tls && ["UnknownIssuer", "BadSignature"].iter().any(|why| said.contains(why)) {
            return Some("ca");
        }
        // TLS at a port without it, and the reverse.
        if (is_tls && said.contains("corrupt message")) || said.contains("invalid HTTP version") {
            return Some("url");
        }
        next = cause.source();
    }
    None
}

fn of_io(error: Option<&io::Error>) -> ErrorKind {
    match error.map(io::Error::kind) {
        Some(io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock) => ErrorKind::TimedOut,
        // TLS: a certificate that nobody vouches for, or no TLS at the other side.
        Some(io::ErrorKind::InvalidData) => ErrorKind::Refused,
        _ => ErrorKind::Unavailable,
    }
}

/// The failure of the network, wherever the driver and what is below it keep it.
fn io_error(error: &elasticsearch::Error) -> Option<&io::Error> {
    let mut next = error.source();
    while let Some(cause) = next {
        if let Some(io) = cause.downcast_ref() {
            return Some(innermost(io));
        }
        next = cause.source();
    }
    None
}

/// A failure of TLS comes within another one of no kind, which passes over it where it tells its source.
fn innermost(mut io: &io::Error) -> &io::Error {
    while let Some(inner) = io.get_ref().and_then(|inner| inner.downcast_ref()) {
        io = inner;
    }
    io
}

/// For `map_err`: the failure of doing this.
pub(crate) fn failed(doing: &'static str) -> impl Fn(elasticsearch::Error) -> Error {
    move |error| {
        let failure = Error::new(kind_of(&error), doing);
        let failure = match wrong_setting(&error) {
            Some(setting) => failure.with("setting", setting),
            None => failure,
        };
        failure.with_source(Driver(error))
    }
}

/// The driver's error shows what its source shows: in a chain that is said once.
#[derive(Debug)]
struct Driver(elasticsearch::Error);

impl fmt::Display for Driver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl StdError for Driver {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.0.source().and_then(StdError::source)
    }
}

/// Whether a connection that was there ended before an answer came.
pub(crate) fn was_cut(error: &Error) -> bool {
    let driver = error.source().and_then(|source| source.downcast_ref::<Driver>());
    driver.is_some_and(|Driver(driver)| {
        use io::ErrorKind::{ConnectionRefused, HostUnreachable, NetworkUnreachable};
        let network = io_error(driver).map(io::Error::kind);
        let never_was = matches!(network, Some(ConnectionRefused | HostUnreachable | NetworkUnreachable));
        kind_of(driver) == ErrorKind::Unavailable && !never_was
    })
}

/// Of an answer of another shape than was asked for.
pub(crate) fn strange(doing: &'static str, error: serde_json::Error) -> Error {
    Error::new(ErrorKind::Internal, "the server answered something else than was asked")
        .with("doing", doing)
        .with_source(error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_answer_of_a_server_has_a_kind() {
        let named =
            |name: &str, reason: &str| format!(r#"{{"error":{{"type":"{name}","reason":"{reason}"}}}}"#);
        let full = "index [a] blocked by: [TOO_MANY_REQUESTS/12/disk usage exceeded flood-stage watermark];";
        for (status, body, expected) in [
            (429, named("cluster_block_exception", full), ErrorKind::Full),
            (
                403,
                named("cluster_block_exception", "blocked by: [FORBIDDEN/8/index write (api)];"),
                ErrorKind::Full,
            ),
            (
                503,
                named("cluster_block_exception", "blocked by: [SERVICE_UNAVAILABLE/2/no master];"),
                ErrorKind::Unavailable,
            ),
            (429, named("es_rejected_execution_exception", "rejected execution"), ErrorKind::Unavailable),
            (429, named("circuit_breaking_exception", "Data too large"), ErrorKind::Unavailable),
            (503, named("no_shard_available_action_exception", "No shard available"), ErrorKind::Unavailable),
            (503, "busy".to_owned(), ErrorKind::Unavailable),
            (502, String::new(), ErrorKind::Unavailable),
            (504, "<html>".to_owned(), ErrorKind::Unavailable),
            (500, named("null_pointer_exception", "it"), ErrorKind::Unavailable),
            (401, named("security_exception", "missing authentication credentials"), ErrorKind::Refused),
            (403, named("security_exception", "no permissions"), ErrorKind::Refused),
            (400, named("index_closed_exception", "closed"), ErrorKind::Refused),
            (400, named("mapper_parsing_exception", "failed to parse"), ErrorKind::Internal),
            (404, named("index_not_found_exception", "no such index"), ErrorKind::NotFound),
            (405, r#"{"error":"Incorrect HTTP method"}"#.to_owned(), ErrorKind::Unsupported),
            (406, String::new(), ErrorKind::Unsupported),
            (408, String::new(), ErrorKind::TimedOut),
            (409, named("version_conflict_engine_exception", "it"), ErrorKind::Conflict),
            (413, String::new(), ErrorKind::TooLarge),
        ] {
            let complaint = Complaint::of_answer(status, body.as_bytes());
            assert_eq!(complaint.kind(), expected, "{status} {body}");
            let chain = complaint.failed("do it").chain();
            assert!(
                chain.contains(&complaint.text()) && chain.contains(&format!("status={status}")),
                "{chain}"
            );
        }
    }

    #[test]
    fn the_innermost_cause_is_told() {
        let body = br#"{"error":{"root_cause":[{"type":"mapper_parsing_exception","reason":"failed to parse field [a]"}],
            "type":"mapper_parsing_exception","reason":"failed to parse field [a]",
            "caused_by":{"type":"illegal_argument_exception","reason":"For input string: \"x\""}},"status":400}"#;
        let text = Complaint::of_answer(400, body).text();
        assert_eq!(text, "mapper_parsing_exception: failed to parse field [a]: For input string: \"x\"");
        let long = Complaint::of_answer(502, "é".repeat(10_000).as_bytes()).text();
        assert!(long.chars().count() < 400, "{long}");
    }

    #[test]
    fn what_a_setting_has_wrong_is_told_with_its_name_and_not_tried_again() {
        for (kind, said, setting) in [
            (io::ErrorKind::InvalidData, "invalid peer certificate: UnknownIssuer", Some("ca")),
            (io::ErrorKind::InvalidData, "invalid peer certificate: BadSignature", Some("ca")),
            (io::ErrorKind::InvalidData, "invalid peer certificate: Expired", None),
            (io::ErrorKind::InvalidData, "received corrupt message of type InvalidContentType", Some("url")),
            (io::ErrorKind::Other, "invalid HTTP version parsed", Some("url")),
            (io::ErrorKind::ConnectionReset, "connection reset", None),
        ] {
            let error = io::Error::other(io::Error::new(kind, said));
            let error = failed("do it")(elasticsearch::Error::from(error));
            let told = error.to_string();
            assert_eq!(setting.is_some(), told.contains("setting="), "{told}");
            assert!(setting.is_none_or(|setting| told.contains(&format!("setting={setting}"))), "{told}");
            assert_eq!(error.is_retryable(), kind == io::ErrorKind::ConnectionReset, "{told}");
        }
    }

    #[test]
    fn every_failure_of_the_network_has_a_kind() {
        for (kind, expected) in [
            (io::ErrorKind::TimedOut, ErrorKind::TimedOut),
            (io::ErrorKind::WouldBlock, ErrorKind::TimedOut),
            (io::ErrorKind::InvalidData, ErrorKind::Refused),
            (io::ErrorKind::ConnectionRefused, ErrorKind::Unavailable),
            (io::ErrorKind::ConnectionReset, ErrorKind::Unavailable),
            (io::ErrorKind::BrokenPipe, ErrorKind::Unavailable),
            (io::ErrorKind::UnexpectedEof, ErrorKind::Unavailable),
            (io::ErrorKind::HostUnreachable, ErrorKind::Unavailable),
            (io::ErrorKind::Other, ErrorKind::Unavailable),
        ] {
            let error = elasticsearch::Error::from(io::Error::from(kind));
            assert_eq!(kind_of(&error), expected, "{kind:?}");
            let (cause, error) = (error.to_string(), failed("do it")(error));
            let is_cut = expected == ErrorKind::Unavailable
                && !matches!(kind, io::ErrorKind::ConnectionRefused | io::ErrorKind::HostUnreachable);
            assert_eq!(was_cut(&error), is_cut, "{kind:?}");
            // What is the kind's own text is said once.
            let told = if cause == expected.to_string() { cause } else { format!("{expected}: {cause}") };
            assert_eq!(error.chain(), format!("do it: {told}"));
        }
    }
}
