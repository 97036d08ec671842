//! The limits: the driver and zstd by themselves.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::TryStreamExt as _;
use object_store::aws::AmazonS3Builder;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt as _};
use pubsub_pipeline::{LineBatch, RunId};
use regex::bytes::Regex;
use services::S3;
use zstd::bulk::Decompressor;
use zstd::zstd_safe::find_frame_compressed_size;

/// As much as a block of ours: what a bare get of a line reads.
const RANGE: u64 = 32 * 1024;

/// More than a block has, before compression.
const MOST_OF_BLOCK: usize = 1 << 20;

/// What skippable frames begin with, behind their first byte.
const SKIPPABLE: [u8; 3] = [0x2a, 0x4d, 0x18];

pub(crate) fn compressed(batches: &[LineBatch]) -> Bytes {
    let plain: Vec<u8> = batches.iter().flat_map(|batch| batch.bytes().iter().copied()).collect();
    zstd::bulk::compress(&plain, 3).unwrap().into()
}

pub(crate) fn bucket(server: &S3) -> Arc<dyn ObjectStore> {
    let (name, secret) = S3::KEYS;
    let store = AmazonS3Builder::new()
        .with_bucket_name(S3::BUCKET)
        .with_endpoint(format!("http://127.0.0.1:{}", server.port()))
        .with_region("us-east-1")
        .with_allow_http(true)
        .with_access_key_id(name)
        .with_secret_access_key(secret);
    Arc::new(store.build().unwrap())
}

pub(crate) async fn put_all<'a>(
    store: &dyn ObjectStore,
    run: usize,
    appends: impl Iterator<Item = &'a [LineBatch]>,
) {
    for (n, append) in appends.enumerate() {
        store.put(&Path::from(format!("raw/{run}/{n}.zst")), compressed(append).into()).await.unwrap();
    }
}

/// The bytes of all segments.
pub(crate) async fn segments(bucket: &InMemory) -> Vec<Bytes> {
    let listed: Vec<_> = bucket.list(None).try_collect().await.unwrap();
    let mut segments = Vec::new();
    for meta in listed.iter().filter(|meta| meta.location.as_ref().ends_with(".zst")) {
        segments.push(bucket.get(&meta.location).await.unwrap().bytes().await.unwrap());
    }
    segments
}

/// Two threads, each with every other segment: decompress, and find lines.
pub(crate) fn searched(segments: &[Bytes], pattern: &str, hits: u64) -> Duration {
    let regex = Regex::new(pattern).unwrap();
    let begun = Instant::now();
    let many: u64 = std::thread::scope(|scope| {
        let half = |from: usize| {
            let regex = regex.clone();
            let find = move || {
                segments.iter().skip(from).step_by(2).map(|segment| found(segment, &regex)).sum::<u64>()
            };
            scope.spawn(find)
        };
        let halves = [half(0), half(1)];
        halves.map(|half| half.join().unwrap()).into_iter().sum()
    });
    let took = begun.elapsed();
    assert_eq!(many, hits);
    took
}

/// Block by block, each into the same buffer, which stays in the processor's cache.
fn found(segment: &[u8], regex: &Regex) -> u64 {
    let (mut decompressor, mut plain) = (Decompressor::new().unwrap(), Vec::with_capacity(MOST_OF_BLOCK));
    let (mut left, mut lines) = (segment, 0);
    while !left.is_empty() {
        let (frame, rest) = left.split_at(find_frame_compressed_size(left).unwrap());
        left = rest;
        // The index and the filters are no lines.
        if frame.get(1..4) != Some(&SKIPPABLE[..]) {
            plain.clear();
            decompressor.decompress_to_buffer(frame, &mut plain).unwrap();
            lines += matching(&plain, regex);
        }
    }
    lines
}

fn matching(plain: &[u8], regex: &Regex) -> u64 {
    let (mut at, mut lines) = (0, 0);
    while let Some(found) = regex.find_at(plain, at) {
        lines += 1;
        at = memchr::memchr(b'\n', plain.get(found.end()..).unwrap())
            .map_or(plain.len(), |end| found.end() + end + 1);
    }
    lines
}

/// The largest segment of a run, and how long it is.
pub(crate) async fn largest(store: &dyn ObjectStore, run: &RunId) -> (Path, u64) {
    let folder = Path::from(format!("runs/{run}"));
    let listed: Vec<_> = store.list(Some(&folder)).try_collect().await.unwrap();
    let largest = listed.into_iter().max_by_key(|meta| meta.size).unwrap();
    (largest.location, largest.size)
}

/// A bare get of a part in the middle.
pub(crate) async fn ranged(store: &dyn ObjectStore, key: &Path, size: u64) -> Duration {
    let begun = Instant::now();
    let bytes = store.get_range(key, size / 2..size / 2 + RANGE).await.unwrap();
    assert_eq!(bytes.len() as u64, RANGE);
    begun.elapsed()
}
