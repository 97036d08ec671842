//! An HTTP proxy with faults: a rule, changed at any time, says of each request what becomes of it.

mod message;
mod wire;

use std::io::{self, BufReader, Write as _};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};

pub use message::{HttpAnswer, HttpRequest};
use rustls::ServerConfig;
use wire::{Wire, identity};

use crate::certificates::Certificates;

/// What becomes of a request.
#[derive(Debug)]
pub enum Fate {
    /// The server gets it, the client gets the answer.
    Passes,
    /// The client gets this answer, the server nothing.
    Answered(HttpAnswer),
    /// Its connection is cut; the server gets nothing.
    CutBefore,
    /// The server does it, then the connection is cut: nobody learns what was done.
    CutAfter,
    /// The server does it, the client gets half of the answer; then the connection is cut.
    CutWithin,
    /// Nothing comes, and the connection stays, until the rule changes; then it is cut. The server gets nothing.
    Stalls,
    /// The server gets this request instead, and the client what is made of the answer, which is not compressed.
    Changed(HttpRequest, Mend),
}

/// Changes an answer.
pub struct Mend(Box<dyn FnOnce(HttpAnswer) -> HttpAnswer + Send>);

impl Mend {
    /// By this function.
    #[must_use]
    pub fn new(mend: impl FnOnce(HttpAnswer) -> HttpAnswer + Send + 'static) -> Self {
        Self(Box::new(mend))
    }
}

impl std::fmt::Debug for Mend {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Mend").finish_non_exhaustive()
    }
}

/// Says what becomes of a request. Requests of several connections are asked of one after the other.
type Rule = Box<dyn FnMut(&HttpRequest) -> Fate + Send>;

/// A proxy at a port of 127.0.0.1, over HTTP/1.1: plain, or with TLS on the client's side. Dropping it cuts everything.
///
/// A request and its answer are held in memory as a whole, chunked ones as well.
///
/// ```no_run
/// // Not run: it needs a server at port 9200.
/// use services::{Fate, HttpAnswer, HttpFaults};
/// # fn start() -> std::io::Result<()> {
/// let proxy = HttpFaults::start(9200)?;
/// let mut left = 3;
/// proxy.set(move |request| {
///     if left == 0 || !request.path().ends_with("/_bulk") {
///         return Fate::Passes;
///     }
///     left -= 1;
///     Fate::Answered(HttpAnswer::new(503).with_body("busy"))
/// });
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct HttpFaults {
    port: u16,
    shared: Arc<Shared>,
    listening: Option<JoinHandle<()>>,
}

struct Shared {
    target: SocketAddr,
    tls: Option<Arc<ServerConfig>>,
    rule: Mutex<Rule>,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// How often the rule was changed.
    rules: u64,
    /// The client's end of each connection.
    open: Vec<TcpStream>,
    closed: bool,
}

impl HttpFaults {
    /// A proxy in front of this port of 127.0.0.1. At first everything passes.
    ///
    /// # Errors
    /// Where no port is free.
    pub fn start(target: u16) -> io::Result<Self> {
        Self::start_as(target, None)
    }

    /// The same for clients that speak TLS, to whom it shows the server's certificate of these.
    ///
    /// # Errors
    /// Where no port is free, and where the certificate cannot be read.
    pub fn start_tls(target: u16, certificates: &Certificates) -> io::Result<Self> {
        Self::start_as(target, Some(identity(certificates)?))
    }

    fn start_as(target: u16, tls: Option<Arc<ServerConfig>>) -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let port = listener.local_addr()?.port();
        let shared = Arc::new(Shared {
            target: SocketAddr::from((Ipv4Addr::LOCALHOST, target)),
            tls,
            rule: Mutex::new(Box::new(|_| Fate::Passes)),
            state: Mutex::default(),
            changed: Condvar::new(),
        });
        let listening = thread::spawn({
            let shared = Arc::clone(&shared);
            move || shared.accept(&listener)
        });
        Ok(Self { port, shared, listening: Some(listening) })
    }

    /// Where it listens.
    #[must_use]
    pub const fn port(&self) -> u16 {
        self.port
    }

    /// From now on this rule decides.
    pub fn set(&self, rule: impl FnMut(&HttpRequest) -> Fate + Send + 'static) {
        *self.shared.rule.lock().unwrap_or_else(PoisonError::into_inner) = Box::new(rule);
        self.shared.state().rules += 1;
        self.shared.changed.notify_all();
    }

    /// From now on everything passes.
    pub fn clear(&self) {
        self.set(|_| Fate::Passes);
    }
}

impl Drop for HttpFaults {
    fn drop(&mut self) {
        let mut state = self.shared.state();
        state.closed = true;
        for client in std::mem::take(&mut state.open) {
            // One that is cut already.
            let _ = client.shutdown(Shutdown::Both);
        }
        drop(state);
        self.shared.changed.notify_all();
        // Wakes whoever listens.
        let _ = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port));
        let _ = self.listening.take().map(JoinHandle::join);
    }
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared").field("target", &self.target).finish_non_exhaustive()
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn accept(self: &Arc<Self>, listener: &TcpListener) {
        for client in listener.incoming() {
            let Ok(client) = client else { continue };
            let mut state = self.state();
            if state.closed {
                return;
            }
            // Those that have ended have no address any more.
            state.open.retain(|client| client.peer_addr().is_ok());
            state.open.extend(client.try_clone());
            drop(state);
            let shared = Arc::clone(self);
            thread::spawn(move || {
                let client = Cut(client);
                // How it ended, the client sees.
                let _ = shared.serve(&client.0);
            });
        }
    }

    /// The requests of one connection, until it is cut or the client closes it.
    fn serve(&self, client: &TcpStream) -> io::Result<()> {
        client.set_nodelay(true)?;
        let wire = Wire::new(client, self.tls.as_ref())?;
        let (mut asking, mut answering) = (BufReader::new(&wire), &wire);
        let mut server = None;
        while let Some(request) = HttpRequest::read(&mut asking, &mut answering)? {
            let rules = self.state().rules;
            let fate = self.rule.lock().unwrap_or_else(PoisonError::into_inner)(&request);
            match fate {
                Fate::Passes => self.ask(&mut server, &request)?.write(&mut answering)?,
                Fate::Answered(answer) => answer.write(&mut answering)?,
                Fate::CutBefore => return Ok(()),
                Fate::CutAfter => return self.ask(&mut server, &request).map(drop),
                Fate::CutWithin => {
                    let mut whole = Vec::new();
                    self.ask(&mut server, &request)?.write(&mut whole)?;
                    return answering.write_all(whole.get(..whole.len() / 2).unwrap_or_default());
                }
                Fate::Stalls => {
                    self.wait(rules);
                    return Ok(());
                }
                Fate::Changed(other, mend) => {
                    let other = other.without_header("accept-encoding");
                    (mend.0)(self.ask(&mut server, &other)?).write(&mut answering)?;
                }
            }
        }
        Ok(())
    }

    /// Until the rule is another than it was after so many changes.
    fn wait(&self, rules: u64) {
        let mut state = self.state();
        while state.rules == rules && !state.closed {
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn ask(
        &self,
        server: &mut Option<BufReader<TcpStream>>,
        request: &HttpRequest,
    ) -> io::Result<HttpAnswer> {
        let reader = match server.take() {
            Some(reader) => server.insert(reader),
            None => {
                let stream = TcpStream::connect(self.target)?;
                stream.set_nodelay(true)?;
                server.insert(BufReader::new(stream))
            }
        };
        request.write(reader.get_mut())?;
        HttpAnswer::read(reader, request.method())
    }
}

/// A connection that is cut when it is dropped, also where a rule panics: another handle to it keeps it open otherwise.
struct Cut(TcpStream);

impl Drop for Cut {
    fn drop(&mut self) {
        let _ = self.0.shutdown(Shutdown::Both);
    }
}

#[cfg(test)]
mod tests;
