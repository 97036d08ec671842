//! Makes the driver's store for a URL.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey};
use object_store::azure::MicrosoftAzureBuilder;
use object_store::gcp::GoogleCloudStorageBuilder;
use object_store::limit::LimitStore;
use object_store::local::LocalFileSystem;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{
    BackoffConfig, ClientConfigKey, ClientOptions, ObjectStore, ObjectStoreScheme, RetryConfig,
};
use pubsub_core::{Durability, Error, ErrorKind, Result};

use crate::bucket::Bucket;
use crate::config::S3StoreConfig;
use crate::error::failed;

/// How long one request may take: less than a fan-out gives a call.
const REQUEST_LIMIT: Duration = Duration::from_secs(20);
const CONNECT_LIMIT: Duration = Duration::from_secs(5);

/// A short trouble is bridged here; what lasts longer is an error, for whoever calls has a back-off of its own.
const RETRIES: usize = 3;
const RETRY_LIMIT: Duration = Duration::from_secs(10);
const BACKOFF: BackoffConfig = BackoffConfig {
    init_backoff: Duration::from_millis(100),
    max_backoff: Duration::from_secs(3),
    base: 2.0,
};

/// In a folder: the file by which writers take turns.
const LOCK: &str = ".lock";

const DOING: &str = "set up the bucket";

/// The bucket of this configuration, and what survives in it. Nothing is reached yet.
pub(crate) fn bucket(config: &S3StoreConfig) -> Result<(Bucket, Durability)> {
    let url = config.checked_url()?;
    let (scheme, prefix) = ObjectStoreScheme::parse(&url).map_err(|e| {
        Error::invalid(
            "a bucket is s3://, gs:// or az:// with its name, file:/// with a folder, or memory:///",
        )
        .with("setting", "url")
        .with("scheme", url.scheme())
        .with_source(e)
    })?;
    with_cryptography();
    let retry = RetryConfig { backoff: BACKOFF, max_retries: RETRIES, retry_timeout: RETRY_LIMIT };
    let client = ClientOptions::new().with_timeout(REQUEST_LIMIT).with_connect_timeout(CONNECT_LIMIT);
    let built = |error: object_store::Error| {
        // The driver does not say otherwise that it is about what it was given.
        Error::new(ErrorKind::Invalid, DOING).with("setting", "url").with_source(failed(
            DOING,
            url.scheme(),
            &error,
        ))
    };
    let store = match scheme {
        ObjectStoreScheme::AmazonS3 => {
            let builder = AmazonS3Builder::from_env().with_client_options(client).with_retry(retry);
            let builder = with_options(config, builder.with_url(url.as_str()), |b, key, value| {
                b.with_config(key, value)
            })?;
            with_environment(config, &builder).checked_url()?;
            limited(config, builder.build().map_err(built)?)
        }
        ObjectStoreScheme::GoogleCloudStorage => {
            let builder = GoogleCloudStorageBuilder::from_env().with_client_options(client).with_retry(retry);
            let builder = with_options(config, builder.with_url(url.as_str()), |b, key, value| {
                b.with_config(key, value)
            })?;
            limited(config, builder.build().map_err(built)?)
        }
        ObjectStoreScheme::MicrosoftAzure => {
            let builder = MicrosoftAzureBuilder::from_env().with_client_options(client).with_retry(retry);
            let builder = with_options(config, builder.with_url(url.as_str()), |b, key, value| {
                b.with_config(key, value)
            })?;
            limited(config, builder.build().map_err(built)?)
        }
        ObjectStoreScheme::Local => {
            no_options(config)?;
            let folder = url
                .to_file_path()
                .map_err(|()| Error::invalid("file:/// names no folder").with("url", &url))?;
            return Ok((folder_bucket(config, folder)?, Durability::PowerLoss));
        }
        ObjectStoreScheme::Memory => {
            no_options(config)?;
            return Ok((Bucket::new(limited(config, InMemory::new()), prefix, None), Durability::Memory));
        }
        _ => {
            return Err(Error::unsupported(
                "this is no bucket: s3://, gs://, az://, file:/// and memory:/// are",
            ));
        }
    };
    Ok((Bucket::new(store, prefix, None), Durability::PowerLoss))
}

/// A folder of this machine.
fn folder_bucket(config: &S3StoreConfig, folder: PathBuf) -> Result<Bucket> {
    let made = std::fs::create_dir_all(&folder);
    made.map_err(|e| {
        Error::new(ErrorKind::Refused, "make the folder").with("folder", folder.display()).with_source(e)
    })?;
    let store = LocalFileSystem::new_with_prefix(&folder).map_err(|e| failed(DOING, folder.display(), &e))?;
    let store = store.with_fsync(true).with_automatic_cleanup(true);
    Ok(Bucket::new(limited(config, store), Path::default(), Some(folder.join(LOCK))))
}

fn limited<T: ObjectStore>(config: &S3StoreConfig, store: T) -> Arc<dyn ObjectStore> {
    Arc::new(LimitStore::new(store, config.requests()))
}

/// The configuration with what the environment, or another name of an option, says of the endpoint.
fn with_environment(config: &S3StoreConfig, builder: &AmazonS3Builder) -> S3StoreConfig {
    [
        ("endpoint", AmazonS3ConfigKey::Endpoint),
        ("virtual_hosted_style_request", AmazonS3ConfigKey::VirtualHostedStyleRequest),
        ("allow_http", AmazonS3ConfigKey::Client(ClientConfigKey::AllowHttp)),
    ]
    .into_iter()
    .filter_map(|(name, key)| Some((name, builder.get_config_value(&key)?)))
    .fold(config.clone(), |config, (name, value)| config.with_option(name, value))
}

/// Hands the options to the driver's builder; a name that it does not know is refused.
fn with_options<B, K: std::str::FromStr>(
    config: &S3StoreConfig,
    builder: B,
    with: impl Fn(B, K, String) -> B,
) -> Result<B> {
    config.options().iter().try_fold(builder, |builder, (name, value)| {
        let unknown = |_| Error::invalid("the driver knows no such option").with("setting", name);
        Ok(with(builder, name.to_ascii_lowercase().parse().map_err(unknown)?, value.clone()))
    })
}

fn no_options(config: &S3StoreConfig) -> Result<()> {
    match config.options().keys().next() {
        Some(name) => Err(Error::invalid("a folder and the memory take no options").with("setting", name)),
        None => Ok(()),
    }
}

/// The process has one library of cryptography; where the program chose none, it is ring.
fn with_cryptography() {
    if rustls::crypto::CryptoProvider::get_default().is_none() {
        // Another thread may have chosen it meanwhile, which is as good.
        let _ = rustls::crypto::ring::default_provider().install_default();
    }
}
