//! The benchmarks of `pubsub-pipeline`.
