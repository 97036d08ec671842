//! What users would pick instead, measured for rows of `pubsub-pipeline-benches`.
