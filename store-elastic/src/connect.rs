//! Requests and answers: one pool of connections to one cluster.

use std::fmt;
use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use elasticsearch::auth::Credentials;
use elasticsearch::cert::{Certificate, CertificateValidation};
use elasticsearch::http::Method;
use elasticsearch::http::headers::{CONTENT_ENCODING, CONTENT_TYPE, HeaderMap, HeaderValue};
use elasticsearch::http::transport::{MultiNodeConnectionPool, Transport, TransportBuilder};
use percent_encoding::percent_decode_str;
use pubsub_core::{Error, ErrorKind, Result};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use url::Url;

use crate::config::{ElasticStoreConfig, malformed};
use crate::error::{Complaint, failed, strange};

/// Asks one cluster.
pub(crate) struct Link {
    transport: Transport,
    answer_limit: Duration,
}

/// What is asked.
#[derive(Debug)]
pub(crate) struct Request {
    method: Method,
    path: String,
    query: Vec<(&'static str, String)>,
    body: Body,
}

#[derive(Debug)]
enum Body {
    None,
    Json(Value),
    /// Documents of JSON with a line feed after each, compressed with gzip.
    Lines(Bytes),
}

/// What came back, whatever it says.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) body: Bytes,
}

impl Request {
    pub(crate) fn get(path: impl Into<String>) -> Self {
        Self { method: Method::Get, path: path.into(), query: Vec::new(), body: Body::None }
    }

    pub(crate) fn post(path: impl Into<String>) -> Self {
        Self { method: Method::Post, ..Self::get(path) }
    }

    pub(crate) fn put(path: impl Into<String>) -> Self {
        Self { method: Method::Put, ..Self::get(path) }
    }

    pub(crate) fn delete(path: impl Into<String>) -> Self {
        Self { method: Method::Delete, ..Self::get(path) }
    }

    pub(crate) fn with(mut self, name: &'static str, value: impl fmt::Display) -> Self {
        self.query.push((name, value.to_string()));
        self
    }

    pub(crate) fn json(mut self, body: Value) -> Self {
        self.body = Body::Json(body);
        self
    }

    pub(crate) fn lines(mut self, body: Bytes) -> Self {
        self.body = Body::Lines(body);
        self
    }
}

impl Answer {
    pub(crate) const fn is_success(&self) -> bool {
        self.status >= 200 && self.status < 300
    }

    pub(crate) fn complaint(&self) -> Complaint {
        Complaint::of_answer(self.status, &self.body)
    }

    pub(crate) fn read<T: DeserializeOwned>(&self, doing: &'static str) -> Result<T> {
        serde_json::from_slice(&self.body).map_err(|e| strange(doing, e))
    }
}

impl Link {
    /// Reaches nothing yet.
    pub(crate) fn new(config: &ElasticStoreConfig) -> Result<Self> {
        let mut credentials = config
            .password()
            .map(|(user, password)| Credentials::Basic(user.to_owned(), password.to_owned()))
            .or_else(|| config.api_key().map(|key| Credentials::EncodedApiKey(key.to_owned())));
        let mut nodes = Vec::new();
        for text in config.urls() {
            let (node, own) = node(text)?;
            nodes.push(node);
            credentials = credentials.or(own);
        }
        let mut builder = TransportBuilder::new(MultiNodeConnectionPool::round_robin(nodes, None));
        if let Some(credentials) = credentials {
            builder = builder.auth(credentials);
        }
        if let Some(file) = config.ca() {
            builder = builder.cert_validation(CertificateValidation::Full(authority(file)?));
        }
        let transport = builder.build().map_err(|e| {
            Error::new(ErrorKind::Invalid, "set up connections to Elasticsearch").with_source(e)
        })?;
        Ok(Self { transport, answer_limit: config.answer_limit() })
    }

    /// The answer, also one that says no.
    pub(crate) async fn send(&self, doing: &'static str, request: Request) -> Result<Answer> {
        let mut headers = HeaderMap::new();
        let body = match request.body {
            Body::None => None,
            Body::Json(json) => Some(Bytes::from(json.to_string())),
            Body::Lines(lines) => {
                headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/x-ndjson"));
                headers.insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
                Some(lines)
            }
        };
        let query = Some(&request.query[..]).filter(|query| !query.is_empty());
        let limit = Some(self.answer_limit);
        let sent = self.transport.send(request.method, &request.path, headers, query, body, limit);
        let answer = sent.await.map_err(failed(doing))?;
        let status = answer.status_code().as_u16();
        let body = answer.bytes().await.map_err(failed(doing))?;
        Ok(Answer { status, body })
    }

    /// What was asked for; an error where the server says no.
    pub(crate) async fn ask<T: DeserializeOwned>(&self, doing: &'static str, request: Request) -> Result<T> {
        let answer = self.send(doing, request).await?;
        if answer.is_success() { answer.read(doing) } else { Err(answer.complaint().failed(doing)) }
    }

    /// As [`ask`](Self::ask), of something that need not be there.
    pub(crate) async fn find<T: DeserializeOwned>(
        &self,
        doing: &'static str,
        request: Request,
    ) -> Result<Option<T>> {
        let answer = self.send(doing, request).await?;
        match answer.status {
            404 => Ok(None),
            _ if answer.is_success() => answer.read(doing).map(Some),
            _ => Err(answer.complaint().failed(doing)),
        }
    }

    /// Does it.
    pub(crate) async fn run(&self, doing: &'static str, request: Request) -> Result<()> {
        let answer = self.send(doing, request).await?;
        if answer.is_success() { Ok(()) } else { Err(answer.complaint().failed(doing)) }
    }

    /// Asks the server what it is, and refuses what is too old.
    pub(crate) async fn check(&self) -> Result<()> {
        #[derive(Deserialize)]
        struct Root {
            version: Version,
        }
        #[derive(Deserialize)]
        struct Version {
            number: String,
            #[serde(default)]
            distribution: Option<String>,
        }
        let Root { version } = self.ask("ask the server what it is", Request::get("")).await?;
        let (name, least) = match version.distribution.as_deref() {
            Some("opensearch") => ("OpenSearch", (1, 0)),
            _ => ("Elasticsearch", (7, 10)),
        };
        if at_least(&version.number, least) {
            return Ok(());
        }
        let text = format!("{name} has to be {}.{} or later", least.0, least.1);
        Err(Error::unsupported(text).with("version", version.number))
    }
}

impl fmt::Debug for Link {
    /// Without the driver, which shows credentials.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Link").field("answer_limit", &self.answer_limit).finish_non_exhaustive()
    }
}

/// A URL without user and password, and these.
fn node(text: &str) -> Result<(Url, Option<Credentials>)> {
    let mut url = Url::parse(text).map_err(|_| malformed())?;
    let is_whole = matches!(url.scheme(), "http" | "https") && url.has_host();
    if !is_whole || url.query().is_some() || url.fragment().is_some() {
        return Err(malformed());
    }
    let decoded =
        |text: &str| percent_decode_str(text).decode_utf8().map(String::from).map_err(|_| malformed());
    let password = url.password().map(decoded).transpose()?;
    let user = decoded(url.username())?;
    let credentials = password.map(|password| Credentials::Basic(user.clone(), password));
    if credentials.is_none() && !user.is_empty() {
        return Err(malformed());
    }
    url.set_username("").and_then(|()| url.set_password(None)).map_err(|()| malformed())?;
    Ok((url, credentials))
}

fn authority(file: &Path) -> Result<Certificate> {
    let wrong = || Error::invalid("ca takes a PEM file with certificates").with("file", file.display());
    let pem = std::fs::read(file).map_err(|e| wrong().with_source(e))?;
    Certificate::from_pem(&pem).map_err(|e| wrong().with_source(e))
}

/// Whether a version as `7.10.2` is that or later. What cannot be read is none.
fn at_least(number: &str, least: (u32, u32)) -> bool {
    let mut parts = number.split(['.', '-']).map(str::parse::<u32>);
    match (parts.next(), parts.next()) {
        (Some(Ok(major)), Some(Ok(minor))) => (major, minor) >= least,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_gives_its_user_and_password_as_they_are_and_keeps_neither() {
        let (url, credentials) = node("https://c%40i:p%23%2F%40%2541+=:x@host:9200/base").unwrap();
        assert_eq!(url.as_str(), "https://host:9200/base");
        let Some(Credentials::Basic(user, password)) = credentials else { panic!("they are there") };
        assert_eq!((user.as_str(), password.as_str()), ("c@i", "p#/@%41+=:x"));
        assert!(node("http://host").unwrap().1.is_none());
    }

    #[test]
    fn what_is_no_url_is_refused_without_showing_it() {
        for text in
            ["secret", "ftp://u:secret@h", "http://secret@h", "http://u:secret@h?a", "http://u:secret@h#a"]
        {
            let error = node(text).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Invalid);
            assert!(!error.chain().contains("secret"), "{error}");
        }
    }

    #[test]
    fn nothing_shows_a_password() {
        let config = ElasticStoreConfig::new("http://u:secret@127.0.0.1:1").with_api_key("secret");
        let shown = format!("{:?} {config:?}", Link::new(&config).unwrap());
        assert!(!shown.contains("secret"), "{shown}");
    }

    #[test]
    fn versions_are_told_apart_by_their_numbers() {
        for (number, is_enough) in [
            ("7.10.2", true),
            ("7.9.3", false),
            ("6.8.0", false),
            ("8.0.0-SNAPSHOT", true),
            ("10.0.1", true),
            ("x", false),
        ] {
            assert_eq!(at_least(number, (7, 10)), is_enough, "{number}");
        }
    }
}
