//! The settings: what each is called in JSON and in the environment, and what it takes.

use serde_json::{Map, Value, json};

/// How the environment, which has texts alone, writes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// A whole number, from this one up.
    Number(u64),
    /// `true` or `false`.
    Flag,
    /// A text; one of these where there are any.
    Text(&'static [&'static str]),
    /// Names and URLs.
    Backends,
}

/// One setting.
#[derive(Debug)]
pub(super) struct Setting {
    /// In JSON.
    pub(super) name: &'static str,
    /// In the environment.
    pub(super) variable: &'static str,
    pub(super) kind: Kind,
    /// What it takes, as part of a sentence.
    pub(super) takes: &'static str,
    /// What it says.
    pub(super) says: &'static str,
}

/// All of them.
pub(super) const SETTINGS: [Setting; 13] = [
    Setting {
        name: "timeout",
        variable: "PIPELINE_TIMEOUT",
        kind: Kind::Number(1),
        takes: "a whole number of seconds from 1 up",
        says: "Longest time that the work at an event may take, in seconds; without it there is none",
    },
    Setting {
        name: "message_broker",
        variable: "MESSAGE_BROKER",
        kind: Kind::Text(&[]),
        takes: "redis, file, or the URL of a broker",
        says: "Where events go: a folder (`file`, the default), the Redis that `redis_url` names, or a URL",
    },
    Setting {
        name: "retry_policy",
        variable: "RETRY_POLICY",
        kind: Kind::Text(&["none", "fixed", "exponential"]),
        takes: "none, fixed or exponential",
        says: "When work that failed is tried again: never, each time after the same time, or after longer and longer (the \
               default)",
    },
    Setting {
        name: "retry_attempts",
        variable: "RETRY_ATTEMPTS",
        kind: Kind::Number(0),
        takes: "a whole number from 0 up",
        says: "How often work that failed is tried again after the first time; 2 by default",
    },
    Setting {
        name: "escape_enabled",
        variable: "ESCAPE_ENABLED",
        kind: Kind::Flag,
        takes: "true or false",
        says: "Whether exit code 42 is a graceful escape, after which the chain goes on (the default), or a failure",
    },
    Setting {
        name: "stream_enabled",
        variable: "STREAM_ENABLED",
        kind: Kind::Flag,
        takes: "true or false",
        says: "Whether output goes to the stores while it is printed (the default), or is gathered first: then at most a \
               mebibyte of it is on its way, and the rest comes at the end of its run",
    },
    Setting {
        name: "datastore_backends",
        variable: "DATASTORE_BACKENDS",
        kind: Kind::Backends,
        takes: "elasticsearch, mongodb, s3, redis, file, or URLs of stores: at least one, each once",
        says: "Where output goes, the nearest first; a folder by default. Each must have all of it, but for those whose URL \
               says `required=false`",
    },
    Setting {
        name: "redis_url",
        variable: "REDIS_URL",
        kind: Kind::Text(&[]),
        takes: "a URL as redis://user:password@host:6379",
        says: "The Redis that `redis` names",
    },
    Setting {
        name: "elasticsearch_url",
        variable: "ELASTICSEARCH_URL",
        kind: Kind::Text(&[]),
        takes: "a URL as http://user:password@host:9200 or https://host",
        says: "The Elasticsearch or OpenSearch that `elasticsearch` names",
    },
    Setting {
        name: "mongodb_url",
        variable: "MONGODB_URL",
        kind: Kind::Text(&[]),
        takes: "a URL as mongodb://user:password@host/database",
        says: "The MongoDB that `mongodb` names",
    },
    Setting {
        name: "s3_bucket",
        variable: "S3_BUCKET",
        kind: Kind::Text(&[]),
        takes: "the name of a bucket, perhaps with a prefix (bucket/prefix), or a URL as s3://bucket/prefix",
        says: "The bucket that `s3` names; region, keys and endpoint are those of the usual variables (AWS_REGION and so on)",
    },
    Setting {
        name: "dir",
        variable: "PIPELINE_DIR",
        kind: Kind::Text(&[]),
        takes: "the path of a folder",
        says: "The folder that `file` names; .pipeline by default",
    },
    Setting {
        name: "spool",
        variable: "PIPELINE_SPOOL",
        kind: Kind::Text(&[]),
        takes: "the path of a folder",
        says: "Where output waits, durably, for stores that are away; without it an event waits for its stores",
    },
];

impl Setting {
    /// The one of this name in JSON.
    pub(super) fn named(name: &str) -> Option<&'static Self> {
        SETTINGS.iter().find(|setting| setting.name == name)
    }

    /// What a text of the environment is in JSON; the text itself where it is none of its kind, which is refused then.
    pub(super) fn value(&self, text: &str) -> Value {
        match self.kind {
            Kind::Number(_) => {
                text.trim().parse::<u64>().map_or_else(|_| json!(text), |number| json!(number))
            }
            Kind::Flag => match text.trim() {
                "true" | "1" => json!(true),
                "false" | "0" => json!(false),
                _ => json!(text),
            },
            Kind::Text(_) => json!(text),
            Kind::Backends => json!(listed(text)),
        }
    }

    /// Its JSON schema.
    fn schema(&self) -> Value {
        let mut schema = match self.kind {
            Kind::Number(least) => json!({"type": "integer", "minimum": least}),
            Kind::Flag => json!({"type": "boolean"}),
            Kind::Text([]) => json!({"type": "string", "minLength": 1}),
            Kind::Text(names) => json!({"type": "string", "enum": names}),
            Kind::Backends => {
                json!({"type": "array", "items": {"type": "string"}, "minItems": 1, "uniqueItems": true})
            }
        };
        if let Some(schema) = schema.as_object_mut() {
            let says =
                format!("{}. It takes {}. In the environment: {}.", self.says, self.takes, self.variable);
            schema.insert("description".to_owned(), says.into());
        }
        schema
    }
}

/// The JSON schema of all of them.
pub(super) fn schema() -> Value {
    let properties: Map<String, Value> =
        SETTINGS.iter().map(|setting| (setting.name.to_owned(), setting.schema())).collect();
    json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "action_config",
        "description": "How the pipeline of an action is put together.",
        "type": "object",
        "properties": properties,
        "additionalProperties": false,
    })
}

/// The names and URLs of a list, between commas or spaces. A part that is neither belongs to the URL before it: one of
/// MongoDB has commas of its own.
fn listed(text: &str) -> Vec<String> {
    let mut all: Vec<String> = Vec::new();
    for word in text.split_whitespace() {
        let mut is_of_url = false;
        for part in word.split(',').filter(|part| !part.is_empty()) {
            let is_url = part.contains("://") || part.starts_with("file:");
            match all.last_mut() {
                Some(url) if is_of_url && !is_url && !is_name(part) => {
                    url.push(',');
                    url.push_str(part);
                }
                _ => {
                    is_of_url = is_url;
                    all.push(part.to_owned());
                }
            }
        }
    }
    all
}

fn is_name(part: &str) -> bool {
    matches!(part, "elasticsearch" | "mongodb" | "s3" | "redis" | "file")
}

#[cfg(test)]
mod tests {
    use super::{SETTINGS, listed};

    #[test]
    fn each_setting_stands_in_the_readme_and_in_the_docs_of_the_configuration() {
        for text in [include_str!("../../README.md"), include_str!("mod.rs")] {
            for setting in &SETTINGS {
                let row = format!("| `{}` | `{}` | ", setting.name, setting.variable);
                assert_eq!(text.matches(&row).count(), 1, "{row}");
            }
        }
    }

    #[test]
    fn a_list_has_commas_or_spaces_and_urls_keep_their_own_commas() {
        let table: [(&str, &[&str]); 6] = [
            ("", &[]),
            ("elasticsearch,mongodb,s3", &["elasticsearch", "mongodb", "s3"]),
            (" redis,  file ,", &["redis", "file"]),
            ("mongodb://a:1,b:2/ci?w=1,s3", &["mongodb://a:1,b:2/ci?w=1", "s3"]),
            ("file:runs,redis://h s3", &["file:runs", "redis://h", "s3"]),
            ("redis nonsense,file", &["redis", "nonsense", "file"]),
        ];
        for (text, names) in table {
            assert_eq!(listed(text), names, "{text:?}");
        }
    }
}
