//! What a user writes: places, times, payloads, outcomes, digests, searches.
#![no_main]

use std::fmt::{Debug, Display};
use std::str::FromStr;

use libfuzzer_sys::fuzz_target;
use pubsub_core::{Digest, ErrorKind, Outcome, Payload, RunId, Timestamp};
use pubsub_pipeline::{Place, Scheme};

/// Whose URLs may hold a password.
const SERVERS: [&str; 6] = ["redis:", "rediss:", "elastic+http:", "mongodb:", "s3:", "az:"];

fuzz_target!(|text: &str| {
    match text.parse::<Place>() {
        Ok(place) => a_place_leads_where_it_says(&place),
        Err(error) => assert_eq!(error.kind(), ErrorKind::Invalid),
    }
    if SERVERS.iter().any(|scheme| text.starts_with(scheme))
        && text.contains('@')
        && let Err(error) = text.parse::<Place>()
    {
        assert!(!error.to_string().contains(text), "{error}");
    }
    is_written_as_it_is_read::<Timestamp>(text);
    is_written_as_it_is_read::<Outcome>(text);
    is_written_as_it_is_read::<Digest>(text);
    is_written_as_it_is_read::<RunId>(text);
    if let Ok(payload) = text.parse::<Payload>() {
        assert_eq!(payload.as_str().parse::<Payload>().unwrap(), payload);
        assert!(text.contains(payload.as_str()));
    }
});

fn a_place_leads_where_it_says(place: &Place) {
    if let Scheme::File(folder) = place.scheme() {
        assert!(!folder.as_os_str().is_empty());
        assert!(!folder.as_os_str().as_encoded_bytes().contains(&0));
    }
    let again: Place = place.to_string().parse().unwrap();
    match place.scheme() {
        scheme @ (Scheme::File(_) | Scheme::Memory) => assert_eq!(again.scheme(), scheme, "{place}"),
        // Without user, password and most options.
        _ => assert_eq!(again.to_string(), place.to_string()),
    }
    assert_eq!(again.required(), None);
}

fn is_written_as_it_is_read<T: FromStr + Display + PartialEq + Debug>(text: &str) {
    if let Ok(value) = text.parse::<T>() {
        assert_eq!(value.to_string().parse::<T>().ok(), Some(value), "{text:?}");
    }
}
