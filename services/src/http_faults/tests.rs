use std::io::Read as _;
use std::sync::mpsc;
use std::time::Duration;

use super::*;

/// A server that answers each request with its method and body, in chunks, and tells what it got.
fn mirror() -> (u16, mpsc::Receiver<HttpRequest>) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    let (tell, told) = mpsc::channel();
    thread::spawn(move || {
        for client in listener.incoming() {
            let (client, tell) = (client.unwrap(), tell.clone());
            thread::spawn(move || {
                let (mut asking, mut answering) = (BufReader::new(&client), &client);
                while let Some(request) = HttpRequest::read(&mut asking, &mut answering).unwrap() {
                    let text = format!("{} {}", request.method(), String::from_utf8_lossy(request.body()));
                    let head = "HTTP/1.1 200 OK\r\nx-it: y\r\nTransfer-Encoding: chunked\r\n\r\n";
                    let chunk = format!("{:x}\r\n{text}\r\n0\r\n\r\n", text.len());
                    answering.write_all(format!("{head}{chunk}").as_bytes()).unwrap();
                    tell.send(request).unwrap();
                }
            });
        }
    });
    (port, told)
}

struct Client(BufReader<TcpStream>);

impl Client {
    fn of(proxy: &HttpFaults) -> Self {
        Self(BufReader::new(TcpStream::connect((Ipv4Addr::LOCALHOST, proxy.port())).unwrap()))
    }

    fn ask(&mut self, body: &str) -> io::Result<HttpAnswer> {
        let request =
            format!("POST /a/_bulk?x=1 HTTP/1.1\r\nHost: h\r\nContent-Length: {}\r\n\r\n{body}", body.len());
        self.0.get_mut().write_all(request.as_bytes())?;
        HttpAnswer::read(&mut self.0, "POST")
    }
}

#[test]
fn what_passes_is_what_was_sent_and_answered() {
    let (port, told) = mirror();
    let proxy = HttpFaults::start(port).unwrap();
    let mut client = Client::of(&proxy);
    for body in ["one", "", &"x".repeat(300_000)] {
        let answer = client.ask(body).unwrap();
        assert_eq!((answer.status(), answer.header("X-It")), (200, Some("y")));
        assert_eq!(answer.body(), format!("POST {body}").as_bytes());
        let got = told.recv().unwrap();
        assert_eq!((got.path(), got.query(), got.header("host")), ("/a/_bulk", "x=1", Some("h")));
        assert_eq!(got.body(), body.as_bytes());
    }
}

#[test]
fn a_chunked_request_passes_whole() {
    let (port, told) = mirror();
    let proxy = HttpFaults::start(port).unwrap();
    let mut client = Client::of(&proxy);
    let request = "PUT /a HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n";
    client.0.get_mut().write_all(request.as_bytes()).unwrap();
    assert_eq!(HttpAnswer::read(&mut client.0, "PUT").unwrap().body(), b"PUT abcde");
    assert_eq!(told.recv().unwrap().body(), b"abcde");
}

#[test]
fn an_answer_of_the_rule_leaves_the_server_alone() {
    let (port, told) = mirror();
    let proxy = HttpFaults::start(port).unwrap();
    let mut left = 1;
    proxy.set(move |request| {
        left -= 1;
        if left < 0 { Fate::Passes } else { Fate::Answered(HttpAnswer::new(429).with_body(request.body())) }
    });
    let mut client = Client::of(&proxy);
    let answer = client.ask("busy").unwrap();
    assert_eq!((answer.status(), answer.body()), (429, &b"busy"[..]));
    assert!(told.try_recv().is_err());
    assert_eq!(client.ask("again").unwrap().status(), 200);
}

#[test]
fn a_cut_tells_the_client_nothing_before_or_after_the_server_did_it() {
    let (port, told) = mirror();
    let proxy = HttpFaults::start(port).unwrap();
    proxy.set(|_| Fate::CutBefore);
    assert!(Client::of(&proxy).ask("one").is_err());
    assert!(told.try_recv().is_err());
    proxy.set(|_| Fate::CutAfter);
    assert!(Client::of(&proxy).ask("two").is_err());
    assert_eq!(told.recv().unwrap().body(), b"two");
    proxy.set(|_| Fate::CutWithin);
    assert!(Client::of(&proxy).ask("three").is_err());
    assert_eq!(told.recv().unwrap().body(), b"three");
    proxy.clear();
    assert!(Client::of(&proxy).ask("four").is_ok());
}

#[test]
fn a_stall_lasts_until_the_rule_changes() {
    let (port, _told) = mirror();
    let proxy = HttpFaults::start(port).unwrap();
    proxy.set(|_| Fate::Stalls);
    let mut client = Client::of(&proxy);
    client.0.get_ref().set_read_timeout(Some(Duration::from_millis(100))).unwrap();
    let error = client.ask("one").unwrap_err();
    assert!(matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut), "{error}");
    client.0.get_ref().set_read_timeout(None).unwrap();
    proxy.clear();
    let mut rest = Vec::new();
    // A connection that was reset has ended as well.
    let _ = client.0.read_to_end(&mut rest);
    assert_eq!(rest, b"");
}

#[test]
fn a_request_and_its_answer_can_be_changed() {
    let (port, told) = mirror();
    let proxy = HttpFaults::start(port).unwrap();
    proxy.set(|request| {
        Fate::Changed(request.clone().with_body("less"), Mend::new(|answer| answer.with_body("mended")))
    });
    assert_eq!(Client::of(&proxy).ask("more").unwrap().body(), b"mended");
    assert_eq!(told.recv().unwrap().body(), b"less");
}
