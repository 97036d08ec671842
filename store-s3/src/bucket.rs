//! The few things that the store asks of an object store, under one prefix.

use std::fs::File;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use futures::stream::{self, BoxStream, StreamExt as _, TryStreamExt as _};
use object_store::path::Path;
use object_store::{
    Error as StoreError, GetOptions, GetRange, ObjectStore, ObjectStoreExt as _, PutMode, PutOptions,
    PutPayload, UpdateVersion,
};
use pubsub_core::{Error, ErrorKind, Result, Timestamp};

use crate::error::{failed, kind_of};

/// A bucket, or the part of it under a prefix.
#[derive(Clone, Debug)]
pub(crate) struct Bucket {
    store: Arc<dyn ObjectStore>,
    prefix: Path,
    lock: Option<PathBuf>,
}

/// An object as it was read.
#[derive(Clone, Debug)]
pub(crate) struct Read {
    pub(crate) bytes: Bytes,
    /// What a write has to find there still.
    pub(crate) version: UpdateVersion,
}

/// An object in a list.
#[derive(Clone, Debug)]
pub(crate) struct Listed {
    /// Its key below the folder that was listed.
    pub(crate) name: String,
    pub(crate) size: u64,
    pub(crate) written: Timestamp,
}

impl Bucket {
    /// `lock` is a file by which writers of a local folder take turns: there nothing is written on a condition.
    pub(crate) fn new(store: Arc<dyn ObjectStore>, prefix: Path, lock: Option<PathBuf>) -> Self {
        Self { store, prefix, lock }
    }

    fn path(&self, key: &str) -> Path {
        Path::from_iter(self.prefix.parts().chain(Path::from(key).parts()))
    }

    /// `None` where there is no such object.
    pub(crate) async fn get(&self, doing: &'static str, key: &str) -> Result<Option<Read>> {
        let read = async {
            let object = self.store.get(&self.path(key)).await?;
            let version =
                UpdateVersion { e_tag: object.meta.e_tag.clone(), version: object.meta.version.clone() };
            Ok(Read { bytes: object.bytes().await?, version })
        };
        there(doing, key, read.await)
    }

    /// `None` where there is no such object.
    pub(crate) async fn get_range(
        &self,
        doing: &'static str,
        key: &str,
        range: Range<u64>,
    ) -> Result<Option<Bytes>> {
        let options = GetOptions::new().with_range(Some(GetRange::Bounded(range)));
        let read = async { self.store.get_opts(&self.path(key), options).await?.bytes().await };
        there(doing, key, read.await)
    }

    /// How long the object is; `None` where there is none.
    pub(crate) async fn size(&self, doing: &'static str, key: &str) -> Result<Option<u64>> {
        Ok(there(doing, key, self.store.head(&self.path(key)).await)?.map(|meta| meta.size))
    }

    /// Writes an object, whatever is there.
    pub(crate) async fn put(&self, doing: &'static str, key: &str, bytes: Bytes) -> Result<()> {
        let put = self.store.put(&self.path(key), bytes.into()).await;
        put.map(drop).map_err(|error| failed(doing, key, &error))
    }

    /// Writes an object where there is none; answers whether it did.
    pub(crate) async fn put_new(&self, doing: &'static str, key: &str, pieces: Vec<Bytes>) -> Result<bool> {
        self.put_if(doing, key, pieces, PutMode::Create).await
    }

    /// Writes an object where it still is what was read, or where there is none yet; answers whether it did.
    pub(crate) async fn put_over(
        &self,
        doing: &'static str,
        key: &str,
        bytes: Bytes,
        seen: Option<&UpdateVersion>,
    ) -> Result<bool> {
        let Some(seen) = seen else { return self.put_new(doing, key, vec![bytes]).await };
        let Some(lock) = &self.lock else {
            return self.put_if(doing, key, vec![bytes], PutMode::Update(seen.clone())).await;
        };
        let _turn = turn(doing, lock.clone()).await?;
        let now = there(doing, key, self.store.head(&self.path(key)).await)?;
        if now.is_none_or(|meta| meta.e_tag != seen.e_tag) {
            return Ok(false);
        }
        self.put(doing, key, bytes).await?;
        Ok(true)
    }

    async fn put_if(
        &self,
        doing: &'static str,
        key: &str,
        pieces: Vec<Bytes>,
        mode: PutMode,
    ) -> Result<bool> {
        let options = PutOptions { mode, ..PutOptions::default() };
        match self.store.put_opts(&self.path(key), PutPayload::from_iter(pieces), options).await {
            Ok(_) => Ok(true),
            Err(error) if kind_of(&error) == ErrorKind::Conflict => Ok(false),
            Err(error) => Err(failed(doing, key, &error)),
        }
    }

    /// All objects below a folder, in no order.
    pub(crate) async fn list(&self, doing: &'static str, folder: &str) -> Result<Vec<Listed>> {
        self.each(doing, folder).try_collect().await
    }

    /// All objects below a folder, in no order, one after the other.
    pub(crate) fn each(&self, doing: &'static str, folder: &str) -> BoxStream<'static, Result<Listed>> {
        let (path, folder) = (self.path(folder), folder.to_owned());
        let listed = self.store.list(Some(&path)).map(move |answer| {
            let Some(meta) = there(doing, &folder, answer)? else { return Ok(None) };
            let name: Vec<_> = meta.location.prefix_match(&path).into_iter().flatten().collect();
            let name = name.iter().map(AsRef::as_ref).collect::<Vec<_>>().join("/");
            let written = Timestamp::from_micros(meta.last_modified.timestamp_micros());
            Ok(Some(Listed { name, size: meta.size, written }))
        });
        listed.try_filter_map(async |listed| Ok(listed)).boxed()
    }

    /// The folders in a folder, in no order.
    pub(crate) async fn folders(&self, doing: &'static str, folder: &str) -> Result<Vec<String>> {
        let listed = there(doing, folder, self.store.list_with_delimiter(Some(&self.path(folder))).await)?;
        let prefixes = listed.into_iter().flat_map(|listed| listed.common_prefixes);
        Ok(prefixes.filter_map(|path| path.filename().map(str::to_owned)).collect())
    }

    /// Deletes these; what is not there needs none.
    pub(crate) async fn delete(&self, doing: &'static str, keys: Vec<String>) -> Result<()> {
        let paths: Vec<_> = keys.iter().map(|key| Ok(self.path(key))).collect();
        let mut deleted = self.store.delete_stream(stream::iter(paths).boxed());
        while let Some(answer) = deleted.next().await {
            if let Err(error) = answer
                && kind_of(&error) != ErrorKind::NotFound
            {
                return Err(failed(doing, keys.first().map_or("", String::as_str), &error));
            }
        }
        Ok(())
    }
}

/// `None` where there is no such object.
fn there<T>(doing: &'static str, key: &str, answer: Result<T, StoreError>) -> Result<Option<T>> {
    match answer {
        Ok(answer) => Ok(Some(answer)),
        Err(error) if kind_of(&error) == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(failed(doing, key, &error)),
    }
}

/// Waits for the turn to write; it ends when the file is dropped, or its process is gone.
async fn turn(doing: &'static str, lock: PathBuf) -> Result<File> {
    let failed = move |e: std::io::Error| Error::new(ErrorKind::Unavailable, doing).with_source(e);
    let locked = tokio::task::spawn_blocking(move || {
        let file = File::options().create(true).append(true).open(lock)?;
        file.lock()?;
        Ok::<_, std::io::Error>(file)
    });
    locked.await.map_err(|e| Error::new(ErrorKind::Internal, doing).with_source(e))?.map_err(failed)
}
