//! Requests and answers of HTTP/1.1, as much of them as a proxy needs.

use std::io::{self, BufRead, Read as _, Write};

/// Longest line of a head; of longer ones there are none in the tests.
const MAX_LINE: u64 = 64 << 10;

/// A request as it came, its body in one piece.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpRequest {
    method: String,
    target: String,
    headers: Headers,
    body: Vec<u8>,
}

/// An answer, its body in one piece.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpAnswer {
    status: u16,
    headers: Headers,
    body: Vec<u8>,
    /// Said by an answer without a body, as to `HEAD`.
    length: Option<String>,
}

/// Names as they were written, without those that say how the body is framed.
type Headers = Vec<(String, String)>;

/// How a message says where its body ends.
#[derive(Debug, Default)]
struct Framing {
    length: Option<String>,
    chunked: bool,
    expects: bool,
}

impl HttpRequest {
    /// `GET`, `PUT` …
    #[must_use]
    pub fn method(&self) -> &str {
        &self.method
    }

    /// The path, without what follows a question mark.
    #[must_use]
    pub fn path(&self) -> &str {
        self.target.split('?').next().unwrap_or_default()
    }

    /// What follows the question mark.
    #[must_use]
    pub fn query(&self) -> &str {
        self.target.split_once('?').map_or("", |(_, query)| query)
    }

    /// The value of a header.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        header(&self.headers, name)
    }

    /// The body as it was sent: compressed where a header says so.
    #[must_use]
    pub fn body(&self) -> &[u8] {
        &self.body
    }

    /// With another body.
    #[must_use]
    pub fn with_body(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.body = body.into();
        self
    }

    /// The next request; `None` where the client has closed the connection. A client that waits for leave to send its body
    /// is given it.
    pub(super) fn read(from: &mut impl BufRead, answering: &mut impl Write) -> io::Result<Option<Self>> {
        let Some(first) = next_line(from)? else { return Ok(None) };
        let mut words = first.split(' ').map(str::to_owned);
        let (Some(method), Some(target)) = (words.next(), words.next()) else {
            return Err(io::Error::other(format!("no request: {first:?}")));
        };
        let (headers, framing) = head(from)?;
        if framing.expects {
            answering.write_all(b"HTTP/1.1 100 Continue\r\n\r\n")?;
        }
        let body = if framing.chunked { chunks(from)? } else { sized(from, framing.length.as_deref())? };
        Ok(Some(Self { method, target, headers, body }))
    }

    pub(super) fn write(&self, to: &mut impl Write) -> io::Result<()> {
        let mut text = format!("{} {} HTTP/1.1\r\n", self.method, self.target);
        push(&self.headers, &mut text);
        if !self.body.is_empty() || matches!(self.method.as_str(), "POST" | "PUT") {
            text.push_str(&format!("content-length: {}\r\n", self.body.len()));
        }
        text.push_str("\r\n");
        to.write_all(&[text.as_bytes(), &self.body].concat())
    }
}

impl HttpAnswer {
    /// An empty answer with this status.
    #[must_use]
    pub const fn new(status: u16) -> Self {
        Self { status, headers: Vec::new(), body: Vec::new(), length: None }
    }

    /// The status.
    #[must_use]
    pub const fn status(&self) -> u16 {
        self.status
    }

    /// The value of a header.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        header(&self.headers, name)
    }

    /// The body as it was sent.
    #[must_use]
    pub fn body(&self) -> &[u8] {
        &self.body
    }

    /// With one more header.
    #[must_use]
    pub fn with_header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// With another body.
    #[must_use]
    pub fn with_body(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.body = body.into();
        self
    }

    /// The answer to a request of this method.
    pub(super) fn read(from: &mut impl BufRead, method: &str) -> io::Result<Self> {
        let first = line(from)?;
        let status = first.split(' ').nth(1).and_then(|status| status.parse().ok());
        let status: u16 = status.ok_or_else(|| io::Error::other(format!("no answer: {first:?}")))?;
        let (headers, framing) = head(from)?;
        // Leave to go on; the answer follows.
        if status == 100 {
            return Self::read(from, method);
        }
        let has_none = method == "HEAD" || matches!(status, 204 | 304);
        let body = match (&framing.length, framing.chunked) {
            _ if has_none => Vec::new(),
            (_, true) => chunks(from)?,
            (Some(length), false) => sized(from, Some(length))?,
            (None, false) => {
                let mut rest = Vec::new();
                from.read_to_end(&mut rest)?;
                rest
            }
        };
        Ok(Self { status, headers, body, length: framing.length.filter(|_| has_none) })
    }

    pub(super) fn write(&self, to: &mut impl Write) -> io::Result<()> {
        let mut text = format!("HTTP/1.1 {} -\r\n", self.status);
        push(&self.headers, &mut text);
        let length = self.length.clone().unwrap_or_else(|| self.body.len().to_string());
        if self.status != 204 {
            text.push_str(&format!("content-length: {length}\r\n"));
        }
        text.push_str("\r\n");
        to.write_all(&[text.as_bytes(), &self.body].concat())
    }
}

fn header<'a>(headers: &'a Headers, name: &str) -> Option<&'a str> {
    headers.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
}

fn push(headers: &Headers, text: &mut String) {
    for (name, value) in headers {
        text.push_str(&format!("{name}: {value}\r\n"));
    }
}

/// A line without its end; `None` where nothing comes any more.
fn next_line(from: &mut impl BufRead) -> io::Result<Option<String>> {
    let mut line = String::new();
    from.take(MAX_LINE).read_line(&mut line)?;
    match line.strip_suffix('\n') {
        Some(whole) => Ok(Some(whole.trim_end_matches('\r').to_owned())),
        None if line.is_empty() => Ok(None),
        None => Err(io::ErrorKind::UnexpectedEof.into()),
    }
}

fn line(from: &mut impl BufRead) -> io::Result<String> {
    next_line(from)?.ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
}

fn head(from: &mut impl BufRead) -> io::Result<(Headers, Framing)> {
    let (mut headers, mut framing) = (Headers::new(), Framing::default());
    loop {
        let line = line(from)?;
        let Some((name, value)) = line.split_once(':') else { return Ok((headers, framing)) };
        let value = value.trim().to_owned();
        match name.to_ascii_lowercase().as_str() {
            "content-length" => framing.length = Some(value),
            "transfer-encoding" => framing.chunked = value.eq_ignore_ascii_case("chunked"),
            "expect" => framing.expects = true,
            _ => headers.push((name.to_owned(), value)),
        }
    }
}

fn sized(from: &mut impl BufRead, length: Option<&str>) -> io::Result<Vec<u8>> {
    let length: u64 = length.unwrap_or("0").parse().map_err(io::Error::other)?;
    let mut body = Vec::new();
    let read = from.take(length).read_to_end(&mut body)?;
    if read as u64 == length { Ok(body) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
}

fn chunks(from: &mut impl BufRead) -> io::Result<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let size = line(from)?;
        let size = size.split(';').next().unwrap_or_default().trim();
        let size = u64::from_str_radix(size, 16).map_err(io::Error::other)?;
        body.extend(sized(from, Some(&size.to_string()))?);
        let end = line(from)?;
        if size == 0 {
            // Trailers are passed over.
            let mut trailer = end;
            while !trailer.is_empty() {
                trailer = line(from)?;
            }
            return Ok(body);
        }
    }
}
