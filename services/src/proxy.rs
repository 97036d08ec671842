//! A TCP proxy with bad weather, driven by method calls.

use std::io::{self, Read as _, Write as _};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle, sleep};
use std::time::Duration;

use crate::engine::until;
use crate::port;

/// What happens to what passes, also on connections that are open already.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Weather {
    /// All passes.
    #[default]
    Clear,
    /// Each piece passes this much later; a piece is up to 64 KiB, and the next is read after it.
    Delayed(Duration),
    /// Nothing passes, and connections stay: what was sent waits.
    Stalled,
    /// The first half of the next piece passes, in either direction; then its connection is cut.
    Halved,
    /// What is asked passes; at the first answer its connection is cut, so nobody learns what was done.
    AnswersLost,
    /// New connections are refused, and open ones cut.
    Refused,
}

/// A proxy at a port of 127.0.0.1. Dropping it cuts everything.
#[derive(Debug)]
pub struct Proxy {
    port: u16,
    shared: Arc<Shared>,
    listening: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    target: SocketAddr,
    sky: Mutex<Sky>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Sky {
    weather: Weather,
    /// Both ends of each open connection.
    open: Vec<(TcpStream, TcpStream)>,
    accepted: u64,
    cuts: u64,
    closed: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Direction {
    Asking,
    Answering,
}

impl Proxy {
    /// A proxy in front of this port of 127.0.0.1.
    ///
    /// # Errors
    /// Where no port is free.
    pub fn start(target: u16) -> io::Result<Self> {
        let shared = Arc::new(Shared {
            target: SocketAddr::from((Ipv4Addr::LOCALHOST, target)),
            sky: Mutex::default(),
            changed: Condvar::new(),
        });
        let mut proxy = Self { port: port::free()?, shared, listening: None };
        proxy.listen()?;
        Ok(proxy)
    }

    /// Where it listens.
    #[must_use]
    pub const fn port(&self) -> u16 {
        self.port
    }

    /// How many connections it has accepted.
    #[must_use]
    pub fn accepted(&self) -> u64 {
        self.shared.lock().accepted
    }

    /// From now on the weather is this.
    ///
    /// # Errors
    /// Where its port is taken by another after [`Weather::Refused`].
    pub fn set(&mut self, weather: Weather) -> io::Result<()> {
        self.shared.lock().weather = weather;
        self.shared.changed.notify_all();
        match weather {
            Weather::Refused => {
                self.deafen();
                self.cut();
                Ok(())
            }
            _ => self.listen(),
        }
    }

    /// Cuts every open connection.
    pub fn cut(&self) {
        let mut sky = self.shared.lock();
        sky.cuts += 1;
        let open = std::mem::take(&mut sky.open);
        drop(sky);
        for (client, server) in open {
            // One that is cut already.
            let _ = (client.shutdown(Shutdown::Both), server.shutdown(Shutdown::Both));
        }
        self.shared.changed.notify_all();
    }

    fn listen(&mut self) -> io::Result<()> {
        if self.listening.is_some() {
            return Ok(());
        }
        self.shared.lock().closed = false;
        let mut listener = None;
        // The last connection to the old listener may still be on its way out.
        until("listen", || {
            listener = TcpListener::bind((Ipv4Addr::LOCALHOST, self.port)).ok();
            listener.is_some()
        })?;
        let (Some(listener), shared) = (listener, Arc::clone(&self.shared)) else { return Ok(()) };
        self.listening = Some(thread::spawn(move || shared.accept(&listener)));
        Ok(())
    }

    fn deafen(&mut self) {
        let Some(listening) = self.listening.take() else { return };
        self.shared.lock().closed = true;
        // Wakes it.
        let _ = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port));
        let _ = listening.join();
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.deafen();
        self.shared.lock().closed = true;
        self.cut();
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Sky> {
        self.sky.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn accept(self: &Arc<Self>, listener: &TcpListener) {
        for client in listener.incoming() {
            if self.lock().closed {
                return;
            }
            // Where the server does not listen, the client sees its connection end.
            let Ok(client) = client else { continue };
            let Ok(server) = TcpStream::connect(self.target) else { continue };
            let _ = self.join(client, server);
        }
    }

    fn join(self: &Arc<Self>, client: TcpStream, server: TcpStream) -> io::Result<()> {
        client.set_nodelay(true)?;
        server.set_nodelay(true)?;
        let mut sky = self.lock();
        sky.accepted += 1;
        sky.open.push((client.try_clone()?, server.try_clone()?));
        let cuts = sky.cuts;
        drop(sky);
        for (from, to, direction) in [
            (client.try_clone()?, server.try_clone()?, Direction::Asking),
            (server, client, Direction::Answering),
        ] {
            let shared = Arc::clone(self);
            thread::spawn(move || {
                // How it ended, both sides see.
                let _ = shared.pass(&from, &to, direction, cuts);
                let _ = (from.shutdown(Shutdown::Both), to.shutdown(Shutdown::Both));
            });
        }
        Ok(())
    }

    fn pass(
        &self,
        mut from: &TcpStream,
        mut to: &TcpStream,
        direction: Direction,
        cuts: u64,
    ) -> io::Result<()> {
        let mut piece = vec![0; 64 * 1024];
        loop {
            let read = from.read(&mut piece)?;
            let piece = piece.get(..read).unwrap_or_default();
            if piece.is_empty() {
                return Ok(());
            }
            let mut sky = self.lock();
            while sky.weather == Weather::Stalled && sky.cuts == cuts {
                // Whoever cuts or changes the weather wakes it.
                sky = self.changed.wait(sky).unwrap_or_else(PoisonError::into_inner);
            }
            let weather = sky.weather;
            drop(sky);
            match weather {
                Weather::Delayed(by) => sleep(by),
                Weather::Halved => return to.write_all(piece.get(..read / 2).unwrap_or_default()),
                Weather::AnswersLost if direction == Direction::Answering => return Ok(()),
                Weather::Refused => return Ok(()),
                _ => {}
            }
            to.write_all(piece)?;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead as _, BufReader};

    use super::*;

    /// A server that sends each line back.
    fn echo() -> u16 {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        thread::spawn(move || {
            for client in listener.incoming() {
                let mut client = client.unwrap();
                thread::spawn(move || {
                    let lines = BufReader::new(client.try_clone().unwrap()).lines();
                    for line in lines.map_while(Result::ok) {
                        let _ = client.write_all(format!("{line}\n").as_bytes());
                    }
                });
            }
        });
        port
    }

    struct Client(BufReader<TcpStream>);

    impl Client {
        fn of(proxy: &Proxy) -> Self {
            let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, proxy.port())).unwrap();
            Self(BufReader::new(stream))
        }

        fn say(&mut self, text: &str) -> String {
            let _ = self.0.get_mut().write_all(format!("{text}\n").as_bytes());
            self.hear()
        }

        /// What comes until the end of the line, or of the connection.
        fn hear(&mut self) -> String {
            let mut heard = Vec::new();
            // A connection that was reset has ended as well.
            let _ = self.0.read_until(b'\n', &mut heard);
            String::from_utf8(heard).unwrap()
        }
    }

    #[test]
    fn in_clear_weather_everything_passes() {
        let proxy = Proxy::start(echo()).unwrap();
        let mut client = Client::of(&proxy);
        assert_eq!(client.say("one"), "one\n");
        assert_eq!(client.say(&"x".repeat(300_000)).len(), 300_001);
        assert_eq!(proxy.accepted(), 1);
    }

    #[test]
    fn what_is_cut_ends_and_a_new_connection_passes() {
        let proxy = Proxy::start(echo()).unwrap();
        let mut client = Client::of(&proxy);
        client.say("one");
        proxy.cut();
        assert_eq!(client.say("two"), "");
        assert_eq!(Client::of(&proxy).say("three"), "three\n");
    }

    #[test]
    fn a_stall_holds_what_was_sent_and_ends_in_order() {
        let mut proxy = Proxy::start(echo()).unwrap();
        let mut client = Client::of(&proxy);
        client.say("one");
        proxy.set(Weather::Stalled).unwrap();
        client.0.get_mut().write_all(b"two\nthree\n").unwrap();
        client.0.get_ref().set_read_timeout(Some(Duration::from_millis(100))).unwrap();
        assert_eq!(client.hear(), "");
        client.0.get_ref().set_read_timeout(None).unwrap();
        proxy.set(Weather::Clear).unwrap();
        assert_eq!([client.hear(), client.hear()], ["two\n", "three\n"]);
    }

    #[test]
    fn a_stalled_connection_can_be_cut() {
        let mut proxy = Proxy::start(echo()).unwrap();
        let mut client = Client::of(&proxy);
        client.say("one");
        proxy.set(Weather::Stalled).unwrap();
        client.0.get_mut().write_all(b"two\n").unwrap();
        proxy.cut();
        assert_eq!(client.hear(), "");
    }

    #[test]
    fn half_of_a_piece_passes_and_then_nothing() {
        let mut proxy = Proxy::start(echo()).unwrap();
        let mut client = Client::of(&proxy);
        client.say("one");
        proxy.set(Weather::Halved).unwrap();
        assert!(client.say("0123456789").len() < 11);
        proxy.set(Weather::Clear).unwrap();
        assert_eq!(Client::of(&proxy).say("two"), "two\n");
    }

    #[test]
    fn an_answer_is_lost_after_its_request_has_passed() {
        let mut proxy = Proxy::start(echo()).unwrap();
        let mut client = Client::of(&proxy);
        proxy.set(Weather::AnswersLost).unwrap();
        assert_eq!(client.say("one"), "");
    }

    #[test]
    fn a_delay_is_added() {
        let mut proxy = Proxy::start(echo()).unwrap();
        let mut client = Client::of(&proxy);
        proxy.set(Weather::Delayed(Duration::from_millis(30))).unwrap();
        let began = std::time::Instant::now();
        assert_eq!(client.say("one"), "one\n");
        assert!(began.elapsed() >= Duration::from_millis(60), "there and back");
    }

    #[test]
    fn what_is_refused_connects_again_later() {
        let mut proxy = Proxy::start(echo()).unwrap();
        let mut client = Client::of(&proxy);
        client.say("one");
        proxy.set(Weather::Refused).unwrap();
        assert_eq!(client.say("two"), "");
        assert!(TcpStream::connect((Ipv4Addr::LOCALHOST, proxy.port())).is_err());
        proxy.set(Weather::Clear).unwrap();
        assert_eq!(Client::of(&proxy).say("three"), "three\n");
    }
}
