//! What the indices are made of: settings and mappings, as templates that are stored once.

use pubsub_core::{Error, ErrorKind, Result};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::config::{ElasticStoreConfig, SearchIndex};
use crate::connect::{Link, Request};
use crate::layout::{FORMAT, Layout};

const DOING: &str = "make the index templates";

/// Above what servers bring along for all names.
const PRIORITY: u32 = 500;

/// Longest text in `metadata` that is found by its whole value, in characters: the server takes 32,766 bytes.
const MOST_CHARS: u32 = 8_000;

/// Stores the templates, and makes the index of the runs. What a newer version made is refused by name.
pub(crate) async fn prepare(link: &Link, layout: &Layout, config: &ElasticStoreConfig) -> Result<()> {
    let (lines, runs) = (layout.lines_template(), layout.runs());
    for (name, pattern, template) in
        [(&lines, layout.all_lines(), of_lines(config)), (&runs, runs.clone(), of_runs(config))]
    {
        let path = format!("_index_template/{name}");
        let there: Option<Templates> = link.find(DOING, Request::get(path.clone())).await?;
        let there = there.into_iter().flat_map(|there| there.index_templates).next();
        let format = there.and_then(|named| named.index_template.meta).map_or(0, |meta| meta.format);
        if format > FORMAT {
            let error = Error::new(ErrorKind::TooNew, "use the index template");
            return Err(error.with("template", name).with("version", format).with("newest known", FORMAT));
        }
        let body = json!({
            "index_patterns": [pattern],
            "priority": PRIORITY,
            "template": template,
            "_meta": {"format": FORMAT, "made_by": "pubsub-pipeline"},
        });
        link.run(DOING, Request::put(path).json(body)).await?;
    }
    make(link, &runs).await
}

/// Makes an index where it is not there yet.
pub(crate) async fn make(link: &Link, index: &str) -> Result<()> {
    const DOING: &str = "make an index";
    let answer = link.send(DOING, Request::put(index)).await?;
    if answer.is_success() {
        return Ok(());
    }
    let complaint = answer.complaint();
    if complaint.name == "resource_already_exists_exception" {
        return Ok(());
    }
    Err(complaint.failed(DOING).with("index", index))
}

#[derive(Deserialize)]
struct Templates {
    index_templates: Vec<NamedTemplate>,
}

#[derive(Deserialize)]
struct NamedTemplate {
    index_template: Template,
}

#[derive(Deserialize)]
struct Template {
    #[serde(rename = "_meta", default)]
    meta: Option<Meta>,
}

#[derive(Deserialize)]
struct Meta {
    #[serde(default)]
    format: u32,
}

fn settings(config: &ElasticStoreConfig, shards: u32) -> Value {
    let mut settings = json!({
        "number_of_shards": shards,
        // Named, so that an index that nobody searches for a while is refreshed as well.
        "refresh_interval": format!("{}ms", config.refresh().as_millis()),
        // What is acknowledged is on disk.
        "translog.durability": "request",
    });
    if let (Some(replicas), Some(settings)) = (config.replicas(), settings.as_object_mut()) {
        settings.insert("number_of_replicas".to_owned(), json!(replicas));
    }
    settings
}

fn of_lines(config: &ElasticStoreConfig) -> Value {
    let mut settings = settings(config, config.shards());
    let mut message = json!({"type": "text", "norms": false});
    if config.search_index() == SearchIndex::Trigrams {
        // Each three characters in a row, whatever they are; without case, so that both kinds of search are narrowed.
        let analysis = json!({
            "tokenizer": {"trigrams": {"type": "ngram", "min_gram": 3, "max_gram": 3}},
            "analyzer": {"trigrams": {"type": "custom", "tokenizer": "trigrams", "filter": ["lowercase"]}},
        });
        let trigrams =
            json!({"type": "text", "analyzer": "trigrams", "norms": false, "index_options": "docs"});
        if let (Some(settings), Some(message)) = (settings.as_object_mut(), message.as_object_mut()) {
            settings.insert("analysis".to_owned(), analysis);
            message.insert("fields".to_owned(), json!({"trigrams": trigrams}));
        }
    }
    let unsearched = json!({"type": "keyword", "index": false, "doc_values": false});
    json!({
        "settings": settings,
        "mappings": {
            "dynamic": false,
            "_meta": {"format": FORMAT},
            "properties": {
                "@timestamp": {"type": "date"},
                "message": message,
                "action_id": {"type": "keyword"},
                "stage": {"type": "keyword"},
                "run_id": {"type": "keyword"},
                "made": {"type": "keyword"},
                "line_number": {"type": "long"},
                "stream": {"type": "keyword"},
                "end": {"type": "keyword"},
                "recovered": {"type": "boolean"},
                "raw": unsearched,
            },
        },
    })
}

fn of_runs(config: &ElasticStoreConfig) -> Value {
    let keyword = || json!({"type": "keyword"});
    json!({
        "settings": settings(config, 1),
        "mappings": {
            "dynamic": false,
            "_meta": {"format": FORMAT},
            "properties": {
                "format": {"type": "integer"},
                "made": keyword(),
                "index": keyword(),
                "@timestamp": {"type": "date"},
                "began_us": {"type": "long"},
                "finished_at": {"type": "date"},
                "beat_at": {"type": "date"},
                "run_id": keyword(),
                "action_id": keyword(),
                "stage": keyword(),
                "event_id": keyword(),
                "attempt": {"type": "long"},
                "owner": keyword(),
                "status": keyword(),
                "outcome": keyword(),
                "cause": keyword(),
                "code": {"type": "integer"},
                "signal": {"type": "integer"},
                "final": {"type": "boolean"},
                "revision": {"type": "long"},
                "lines": {"type": "long"},
                "bytes": {"type": "long"},
                "command": {"type": "text"},
                "metadata": {"type": "keyword", "ignore_above": MOST_CHARS},
                "record": {"type": "keyword", "index": false, "doc_values": false},
            },
        },
    })
}
