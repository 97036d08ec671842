//! Reads that wait at the streams of a member: one at all of them, or in a cluster one at each place, on a connection of
//! its own.

use std::ops::Range;
use std::pin::pin;
use std::time::Duration;

use futures::stream::{FuturesUnordered, StreamExt as _};
use pubsub_core::{Error, ErrorKind, Result};
use redis::{Cmd, Value};
use tokio::sync::{Semaphore, watch};
use tokio::time::Instant;

use super::batch::Raw;
use super::keys::Kind;
use super::member::Member;
use super::take::MAX_CALL;
use crate::connect::{Link, Waiter};
use crate::error::is_elsewhere;
use crate::reply::streams;

/// Longest wait of one read, where there are few.
const MAX_WAIT: Duration = Duration::from_secs(5);

/// Where there are many, they wait longer, so that all together end this often by themselves: waiting costs the servers
/// less than two commands a second.
const BETWEEN: Duration = Duration::from_millis(625);

/// Longest wait of one read. A connection that leads nowhere is not missed before.
const MAX_OF_MANY: Duration = Duration::from_secs(60);

/// How many connections are opened at once.
pub(super) const OPENING: usize = 16;

const DOING: &str = "wait for events";

/// What one read can wait at, of so many: at all, or in a cluster each alone, for no command has keys of two hash tags.
pub(super) fn parts(link: &Link, many: usize) -> Vec<Range<usize>> {
    if link.is_cluster() {
        (0..many).map(|at| at..at + 1).collect()
    } else {
        std::iter::once(0..many).collect()
    }
}

/// How long each of so many reads waits.
pub(super) fn longest(parts: usize) -> Duration {
    let parts = u32::try_from(parts).unwrap_or(u32::MAX);
    BETWEEN.saturating_mul(parts).clamp(MAX_WAIT, MAX_OF_MANY)
}

/// The reads of one member; none of them is under way between two waits.
#[derive(Default)]
pub(super) struct Reads {
    parts: Vec<Part>,
}

/// What one read waits at, and with what.
struct Part {
    places: Range<usize>,
    waiter: Option<Waiter>,
}

/// What reads brought.
#[derive(Default)]
pub(super) struct Brought {
    pub(super) raws: Vec<Raw>,
    /// The places of which a server says that what was waited at is gone, or at another node. Nothing was taken there.
    pub(super) gone: Vec<usize>,
    /// Why a read failed. What it took, if anything, only the server knows.
    pub(super) failure: Option<Error>,
}

impl Reads {
    pub(super) fn of(member: &Member) -> Self {
        let parts = parts(&member.shared.link, member.places.len());
        Self { parts: parts.into_iter().map(|places| Part { places, waiter: None }).collect() }
    }

    /// How long each of them waits.
    pub(super) fn longest(&self) -> Duration {
        longest(self.parts.len())
    }

    /// Gives up all connections.
    pub(super) fn close(&mut self) {
        self.parts.iter_mut().for_each(|part| part.waiter = None);
    }

    /// Waits until one of them brings something, or for something else, and ends the others: what is taken has to be had by
    /// somebody. Answers what all brought, since when its leases count, and what else came.
    pub(super) async fn wait<T>(
        &mut self,
        member: &Member,
        other: impl Future<Output = T>,
    ) -> (Brought, Instant, Option<T>) {
        let (end, opening, wait) = (watch::Sender::new(false), Semaphore::new(OPENING), self.longest());
        let parts = self.parts.iter_mut();
        let mut reads: FuturesUnordered<_> =
            parts.map(|part| part.read(member, wait, (end.subscribe(), &opening))).collect();
        let mut brought = Brought::default();
        let other = {
            let mut other = pin!(other);
            tokio::select! {
                biased;
                Some((places, answer)) = reads.next() => {
                    brought.add(places, answer);
                    None
                }
                other = &mut other => Some(other),
            }
        };
        let since = Instant::now();
        end.send_replace(true);
        while let Some((places, answer)) = reads.next().await {
            brought.add(places, answer);
        }
        (brought, since, other)
    }
}

impl Brought {
    fn add(&mut self, places: Range<usize>, answer: Result<Vec<Raw>>) {
        match answer {
            Ok(raws) => self.raws.extend(raws),
            Err(error) if error.kind() == ErrorKind::NotFound || is_elsewhere(&error) => {
                tracing::debug!(error = %error.chain(), "events are waited for elsewhere");
                self.gone.extend(places);
            }
            Err(error) => self.failure = self.failure.take().or(Some(error)),
        }
    }
}

/// What tells a read to end, and how many may connect at once.
type Told<'o> = (watch::Receiver<bool>, &'o Semaphore);

impl Part {
    async fn read(
        &mut self,
        member: &Member,
        wait: Duration,
        told: Told<'_>,
    ) -> (Range<usize>, Result<Vec<Raw>>) {
        let answer = self.try_read(member, wait, told).await;
        if answer.is_err() {
            self.waiter = None;
        }
        (self.places.clone(), answer)
    }

    /// Waits until something is there, or it is told to end.
    async fn try_read(
        &mut self,
        member: &Member,
        wait: Duration,
        (mut end, opening): Told<'_>,
    ) -> Result<Vec<Raw>> {
        let waiter = match self.waiter.take() {
            Some(waiter) => self.waiter.insert(waiter),
            None => tokio::select! {
                biased;
                () = is_told(&mut end) => return Ok(Vec::new()),
                opened = open(member, &self.places, opening) => self.waiter.insert(opened?),
            },
        };
        let (cmd, ender) = (command(member, &self.places, wait), waiter.ender());
        loop {
            let answer = {
                let mut read = pin!(waiter.ask(&cmd, wait, DOING));
                let answer = tokio::select! {
                    biased;
                    answer = &mut read => Some(answer),
                    () = is_told(&mut end) => None,
                };
                match answer {
                    Some(answer) => answer?,
                    None => ender.end(read).await?,
                }
            };
            let raws = raws(member, &self.places, answer)?;
            if !raws.is_empty() || *end.borrow() {
                return Ok(raws);
            }
        }
    }
}

async fn is_told(end: &mut watch::Receiver<bool>) {
    // Whoever would tell waits for this read.
    let _ = end.wait_for(|end| *end).await;
}

async fn open(member: &Member, places: &Range<usize>, opening: &Semaphore) -> Result<Waiter> {
    // Nobody closes it.
    let _one = opening.acquire().await;
    let key = member.places.get(places.start).map_or("", |place| place.stream(Kind::Event));
    member.shared.link.waiter(key.as_bytes()).await
}

fn command(member: &Member, places: &Range<usize>, wait: Duration) -> Cmd {
    let mut cmd = redis::cmd("XREADGROUP");
    cmd.arg("GROUP").arg(member.group.name.as_str()).arg(&*member.owner);
    let (many, most) = (member.places.len(), member.on.prefetch().min(MAX_CALL));
    let each = if many == 1 { most } else { (most / (2 * many).max(1)).max(1) };
    cmd.arg("COUNT").arg(each).arg("BLOCK").arg(u64::try_from(wait.as_millis()).unwrap_or(0));
    cmd.arg("STREAMS");
    // What came back is older than what is new.
    let read = member.places.get(places.clone()).unwrap_or_default();
    for kind in [Kind::Again, Kind::Event] {
        for place in read {
            cmd.arg(place.stream(kind));
        }
    }
    for _ in 0..2 * read.len() {
        cmd.arg(">");
    }
    cmd
}

fn raws(member: &Member, places: &Range<usize>, answer: Value) -> Result<Vec<Raw>> {
    let mut raws = Vec::new();
    for (stream, entries) in streams(answer)? {
        let place = places.clone().find_map(|at| {
            let place = member.places.get(at)?;
            let kind = [Kind::Again, Kind::Event].into_iter().find(|kind| place.stream(*kind) == stream)?;
            Some((at, kind))
        });
        let Some((at, kind)) = place else { continue };
        raws.extend(entries.into_iter().map(|entry| Raw { at, kind, entry }));
    }
    Ok(raws)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{MAX_OF_MANY, MAX_WAIT, longest, parts};
    use crate::connect::Link;
    use crate::{Deployment, RedisConfig};

    #[tokio::test]
    async fn a_read_waits_at_all_places_or_in_a_cluster_at_each() {
        let config = RedisConfig::new("redis://127.0.0.1:1");
        assert_eq!(parts(&Link::new(config.clone()).unwrap(), 3), std::slice::from_ref(&(0..3)));
        let cluster = Link::new(config.with_deployment(Deployment::Cluster)).unwrap();
        assert_eq!(parts(&cluster, 3), [0..1, 1..2, 2..3]);
    }

    #[test]
    fn many_reads_together_end_no_more_often_than_twice_a_second() {
        assert_eq!(longest(1), MAX_WAIT);
        for many in [8, 16, 90] {
            assert!(longest(many).as_secs_f64() >= f64::from(u16::try_from(many).unwrap()) / 2.0, "{many}");
        }
        assert_eq!((longest(1024), longest(16)), (MAX_OF_MANY, Duration::from_secs(10)));
    }
}
