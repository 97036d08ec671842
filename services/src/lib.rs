//! Real engines for the tests: started on free ports of 127.0.0.1, each in a folder of its own, and gone with whoever
//! started them.
//!
//! Every call blocks; in a test that runs on a runtime of one thread nothing else goes on meanwhile.
//!
//! ```no_run
//! // Not run: it needs a server.
//! use services::{Redis, RedisOptions};
//! # fn start() -> std::io::Result<()> {
//! let redis = Redis::start(&RedisOptions::new().with_password("secret"))?;
//! assert_eq!(redis.ask(&["PING"])?, "PONG");
//! # Ok(())
//! # }
//! ```

mod certificates;
mod engine;
mod http_faults;
mod install;
mod mongo;
mod opensearch;
mod place;
mod port;
mod proxy;
mod redis;
mod s3;
mod shipper;

pub use certificates::Certificates;
pub use engine::{Data, end, is_running};
pub use http_faults::{Fate, HttpAnswer, HttpFaults, HttpRequest, Mend};
pub use install::{RedisVersion, installed, mongo_server, redis_server};
pub use mongo::{Mongo, MongoKind, MongoOptions};
pub use opensearch::{OpenSearch, SearchEngine, ask_http};
pub use place::Place;
pub use proxy::{Proxy, Weather};
pub use redis::cluster::RedisCluster;
pub use redis::options::{Persistence, RedisOptions};
pub use redis::sentinel::RedisSentinel;
pub use redis::{Redis, encoded};
pub use s3::S3;
pub use shipper::{ShipTo, Shipper, Shipping};
