//! A broker in a folder: SQLite keeps the state, a file wakes other processes, one thread writes.

mod broadcast;
mod claims;
mod config;
mod dead;
mod depth;
#[cfg(feature = "fault-points")]
mod faults;
mod group;
mod hindered;
mod open;
mod publish;
mod retention;
mod salvage;
mod session;
mod stream;
mod take;
mod wake;
mod writer;

use std::fmt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use pubsub_core::{
    ActionId, Broker, BrokerAdmin, BrokerCapabilities, DeadLetter, DeadLetters, Durability, Error, ErrorKind,
    Event, EventId, GroupInfo, GroupName, NoLeases, Order, Position, Published, Publisher, Result, Scope,
    Subscribed, Subscriber, Subscription, Support,
};
use rusqlite::Connection;
use tokio::sync::watch;

pub use config::{DEFAULT_MAX_EVENT_BYTES, FileBrokerConfig, FileDurability};
pub use open::Repair;

use open::OpenLock;
use publish::{Row, position};
use wake::WakeFile;
use writer::{Queue, Signals, Writer};

/// What a file broker can do.
pub const FILE_BROKER: BrokerCapabilities = BrokerCapabilities {
    name: "file",
    groups: Support::Yes,
    broadcast: Support::Yes,
    broadcast_start: Support::Yes,
    delay: Support::Yes,
    dead_letters: Support::Yes,
    cancel: Support::Yes,
    order: Order::Member,
    durability: Durability::ProcessCrash,
    dedupe_window: None,
    max_event_bytes: DEFAULT_MAX_EVENT_BYTES,
};

/// Reading connections that are kept; more are opened and closed as needed.
const MAX_READERS: usize = 4;

/// A broker in a folder, shared by any number of processes of one machine.
///
/// Everything is in one SQLite database. All that waits to be written, publishes as well as takes, settlements and
/// claims, goes into one transaction, so that many small calls share its cost. Processes that are idle watch a small
/// file, and look by themselves where the system has no watch left.
///
/// What an acknowledged publish survives is said by [`FileDurability`].
///
/// ```
/// use pubsub_core::{ActionId, Event, EventType, Publisher, PublisherExt};
/// use pubsub_file::{FileBroker, FileBrokerConfig};
/// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
/// let folder = tempfile::tempdir().unwrap();
/// let broker = FileBroker::connect(FileBrokerConfig::new(folder.path())).await?;
/// let event = Event::new(EventType::new("build-requested")?, ActionId::new("action-123")?);
/// broker.publish_one(event).await?;
/// broker.close().await?;
/// # Ok::<(), pubsub_core::Error>(())
/// # }).unwrap();
/// ```
#[derive(Clone)]
pub struct FileBroker {
    shared: Arc<Shared>,
    repair: Option<Repair>,
}

/// What a broker, its streams and its leases share. Fields are dropped in this order: the watch, then the thread with
/// its connection, then the lock that says that the database is open.
struct Shared {
    _watch: Option<notify::RecommendedWatcher>,
    _writer: Writer,
    readers: Mutex<Vec<Connection>>,
    lock: OpenLock,
    queue: Arc<Queue>,
    signals: Arc<Signals>,
    closed: AtomicBool,
    path: PathBuf,
    busy: Duration,
    max_event_bytes: usize,
    durability: Durability,
}

impl Shared {
    fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    fn refuse_closed(&self) -> Result<()> {
        if self.is_closed() { Err(Error::new(ErrorKind::Closed, "the broker is closed")) } else { Ok(()) }
    }

    /// Reads with a connection of its own, off the async threads.
    async fn read<T: Send + 'static>(
        self: &Arc<Self>,
        work: impl FnOnce(&Connection) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let shared = Arc::clone(self);
        let done = tokio::task::spawn_blocking(move || {
            let kept = shared.readers.lock().unwrap_or_else(PoisonError::into_inner).pop();
            let db = match kept {
                Some(db) => db,
                None => session::connect(&shared.path, shared.busy)?,
            };
            // One moment for all that is read.
            db.execute_batch("BEGIN").map_err(crate::sqlite::failed("begin to read"))?;
            let answer = work(&db);
            db.execute_batch("COMMIT").map_err(crate::sqlite::failed("end reading"))?;
            let mut readers = shared.readers.lock().unwrap_or_else(PoisonError::into_inner);
            if readers.len() < MAX_READERS {
                readers.push(db);
            }
            shared.queue.noted(answer)
        });
        done.await
            .map_err(|e| Error::new(ErrorKind::Internal, "read the broker's database").with_source(e))?
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        if self.queue.met_damage() {
            self.lock.doubt();
        }
    }
}

impl fmt::Debug for FileBroker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FileBroker").field("path", &self.shared.path).finish_non_exhaustive()
    }
}

impl FileBroker {
    /// Opens the broker of this folder, making it where it is new. After a crash the database is checked first; a
    /// damaged one is set aside, what can be read of it is copied into a new one, and [`repair`](Self::repair) tells.
    ///
    /// # Errors
    /// [`Invalid`](ErrorKind::Invalid) for a wrong setting, [`TooNew`](ErrorKind::TooNew) for a database of a later
    /// version, and where the folder cannot be read or written.
    pub async fn connect(config: FileBrokerConfig) -> Result<Self> {
        config.check()?;
        tokio::task::spawn_blocking(move || Self::open(&config))
            .await
            .map_err(|e| Error::new(ErrorKind::Internal, "open the broker").with_source(e))?
    }

    fn open(config: &FileBrokerConfig) -> Result<Self> {
        let (session, lock, repair) = open::open(config)?;
        let wake_folder = config.folder().join("wake");
        let signals = Arc::new(Signals {
            events: watch::Sender::new(0),
            cancels: watch::Sender::new(0),
            wake: WakeFile::open(&wake_folder)?,
        });
        let queue = Queue::new();
        let watch = wake::watch(&wake_folder, &queue);
        // Without a watch other processes are heard of by looking alone.
        let scan = if watch.is_some() { config.scan() } else { config.scan().min(UNWATCHED_SCAN) };
        let mut upkeep = retention::Upkeep::default();
        let writer =
            Writer::start(session, &queue, Arc::clone(&signals), (scan, config.upkeep()), move |session| {
                upkeep.step(session)
            })?;
        let shared = Shared {
            _watch: watch,
            _writer: writer,
            readers: Mutex::default(),
            lock,
            queue,
            signals,
            closed: AtomicBool::new(false),
            path: open::database(&config.folder()),
            busy: config.busy(),
            max_event_bytes: config.max_event_bytes(),
            durability: config.durability().into(),
        };
        Ok(Self { shared: Arc::new(shared), repair })
    }

    /// What was found and done when this opening found a damaged database.
    #[must_use]
    pub const fn repair(&self) -> Option<&Repair> {
        self.repair.as_ref()
    }
}

/// How often a process that cannot watch looks.
const UNWATCHED_SCAN: std::time::Duration = std::time::Duration::from_millis(100);

#[async_trait]
impl Publisher for FileBroker {
    async fn publish(&self, events: Vec<Event>) -> Vec<Result<Published>> {
        if let Err(error) = self.shared.refuse_closed() {
            return error.for_each(events.len());
        }
        let mut refused: Vec<Option<Error>> = Vec::with_capacity(events.len());
        let mut rows = Vec::with_capacity(events.len());
        for event in &events {
            match Row::new(event, self.shared.max_event_bytes) {
                Ok(row) => {
                    rows.push(row);
                    refused.push(None);
                }
                Err(error) => refused.push(Some(error)),
            }
        }
        let (many, bytes) = (rows.len(), rows.iter().map(Row::bytes).sum());
        let work = move |session: &mut session::Session| publish::insert(session, &rows);
        let mut answers = match self.shared.queue.call(bytes, work).await {
            Ok(published) => published,
            Err(error) => error.for_each(many),
        }
        .into_iter();
        let unanswered = || Err(Error::new(ErrorKind::Internal, "the broker answered nothing"));
        refused
            .into_iter()
            .map(|refused| refused.map_or_else(|| answers.next().unwrap_or_else(unanswered), Err))
            .collect()
    }

    async fn close(&self) -> Result<()> {
        self.shared.closed.store(true, Ordering::Release);
        // Whatever was asked for before this call is done once it is answered.
        let done = self.shared.queue.call(0, |_| Ok(())).await;
        self.shared.signals.events.send_modify(|count| *count = count.wrapping_add(1));
        done
    }
}

#[async_trait]
impl Subscriber for FileBroker {
    async fn subscribe(&self, subscription: Subscription) -> Result<Subscribed> {
        self.shared.refuse_closed()?;
        let Some(group) = subscription.group().cloned() else {
            let at = subscription.start().clone();
            let cursor =
                self.shared.queue.call(0, move |session| group::start(&at, session.last_seq()?)).await?;
            return Ok(Subscribed {
                entries: broadcast::entries(&self.shared, subscription, cursor),
                leases: Arc::new(NoLeases),
                claims: Arc::new(NoLeases),
            });
        };
        let owner: Arc<str> = format!("{:x}-{:012x}", std::process::id(), fastrand::u64(..1 << 48)).into();
        let (joined, on, me) = (group.clone(), subscription.clone(), Arc::clone(&owner));
        let id = self.shared.queue.call(0, move |session| group::join(session, &joined, &on, &me)).await?;
        let member = stream::Member::new(&self.shared, id, owner, group, subscription);
        let keeper = stream::Keeper::new(&member);
        Ok(Subscribed {
            entries: stream::entries(member),
            leases: Arc::<stream::Keeper>::clone(&keeper),
            claims: keeper,
        })
    }
}

#[async_trait]
impl BrokerAdmin for FileBroker {
    async fn groups(&self, scope: &Scope) -> Result<Vec<GroupInfo>> {
        let scope = scope.clone();
        self.shared
            .read(move |db| {
                let mut infos = Vec::new();
                for group in group::load(db, scope.group.as_ref())? {
                    let fits = |action: &ActionId| group.patterns.iter().any(|p| p.matches_action(action));
                    if scope.action.as_ref().is_some_and(|action| !fits(action)) {
                        continue;
                    }
                    infos.push(GroupInfo {
                        depth: depth::depth(db, &group, scope.action.as_ref())?,
                        members: group::members(db, &group)?,
                        name: group.name,
                        stage: group.stage,
                        patterns: group.patterns,
                        lease: group.lease,
                    });
                }
                Ok(infos)
            })
            .await
    }

    async fn cancel(&self, action: &ActionId) -> Result<Position> {
        let action = action.clone();
        self.shared.queue.call(0, move |session| dead::cancel(session, &action)).await.map(position)
    }

    async fn remove_group(&self, group: &GroupName) -> Result<bool> {
        let name = group.clone();
        self.shared
            .queue
            .call(0, move |session| {
                let Some(stored) = group::load(&session.db, Some(&name))?.pop() else { return Ok(false) };
                let members = group::members(&session.db, &stored)?;
                if members > 0 {
                    return Err(Error::new(ErrorKind::Conflict, "remove a group that has members")
                        .with("group", &name)
                        .with("members", members));
                }
                group::drop_group(session, stored.id)?;
                Ok(true)
            })
            .await
    }
}

#[async_trait]
impl DeadLetters for FileBroker {
    async fn list(&self, group: Option<&GroupName>, limit: usize) -> Result<Vec<DeadLetter>> {
        let group = group.cloned();
        self.shared.read(move |db| dead::list(db, group.as_ref(), limit)).await
    }

    async fn replay(&self, id: &str, group: Option<&GroupName>) -> Result<EventId> {
        let (id, group, new_id) = (id.to_owned(), group.cloned(), EventId::generate());
        let max_bytes = self.shared.max_event_bytes;
        self.shared
            .queue
            .call(0, move |session| dead::replay(session, &id, group.as_ref(), &new_id, max_bytes))
            .await
    }
}

impl Broker for FileBroker {
    fn capabilities(&self) -> BrokerCapabilities {
        BrokerCapabilities {
            durability: self.shared.durability,
            max_event_bytes: self.shared.max_event_bytes,
            ..FILE_BROKER
        }
    }
}
