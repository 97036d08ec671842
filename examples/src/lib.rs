//! The examples of `pubsub-pipeline`; each stands in a folder of its own.
