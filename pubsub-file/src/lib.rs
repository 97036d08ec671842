//! The embedded default of `pubsub-pipeline`: a broker and an output store in a folder.
