//! Bulks as a proxy sees them.

use std::io::{Read as _, Write as _};

use flate2::Compression;
use flate2::read::GzDecoder;
use flate2::write::GzEncoder;
use serde_json::{Value, json};
use services::{Fate, HttpRequest, Mend};

/// One item of a bulk.
pub(crate) struct Item {
    pub(crate) document: Value,
    /// In bytes, before compression.
    pub(crate) size: usize,
    text: String,
}

/// The items of a request, none where it is no bulk of lines.
pub(crate) fn items_of(request: &HttpRequest) -> Vec<Item> {
    if !request.path().ends_with("/_bulk") {
        return Vec::new();
    }
    let mut text = String::new();
    assert_eq!(request.header("content-encoding"), Some("gzip"));
    GzDecoder::new(request.body()).read_to_string(&mut text).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    let item = |pair: &[&str]| {
        let text = format!("{}\n", pair.join("\n"));
        Item { document: serde_json::from_str(pair[1]).unwrap(), size: text.len(), text }
    };
    lines.chunks(2).map(item).collect()
}

/// The server gets the other items; these are answered with this status and error, in growing order of their places.
pub(crate) fn with_answers(request: &HttpRequest, answers: Vec<(usize, u16, Value)>) -> Fate {
    if answers.is_empty() {
        return Fate::Passes;
    }
    let left = items_of(request).into_iter().enumerate();
    let left = left.filter(|(at, _)| answers.iter().all(|(answered, ..)| answered != at));
    let mut gzip = GzEncoder::new(Vec::new(), Compression::fast());
    left.for_each(|(_, item)| gzip.write_all(item.text.as_bytes()).unwrap());
    let body = gzip.finish().unwrap();
    let mend = Mend::new(move |answer| {
        let mut told: Value = serde_json::from_slice(answer.body()).unwrap();
        told["errors"] = json!(true);
        for (at, status, error) in answers {
            let item = json!({"create": {"status": status, "error": error}});
            told["items"].as_array_mut().unwrap().insert(at, item);
        }
        answer.with_body(told.to_string())
    });
    Fate::Changed(request.clone().with_body(body), mend)
}
