//! Events as CloudEvents 1.0 in structured JSON ("JSON Event Format for CloudEvents", version 1.0.2).
//!
//! The action id is the `subject`. A header whose name is a valid attribute name travels as an extension attribute;
//! all others together as the JSON text `pipelineheaders`. What the library knows of an event beside that stands in
//! extension attributes that begin with `pipeline`.

use std::collections::BTreeMap;

use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::event::DEFAULT_SOURCE;
use crate::{
    ActionId, Error, ErrorKind, Event, EventId, EventType, Headers, Origin, Payload, Position, Result, Role,
    Stage, Timestamp,
};

/// The media type of a structured CloudEvent.
pub const CLOUD_EVENT_TYPE: &str = "application/cloudevents+json";

/// The version of CloudEvents that is written and read.
pub(crate) const SPEC_VERSION: &str = "1.0";

const OWN_PREFIX: &str = "pipeline";

/// The attributes that CloudEvents names, in the order in which they are written.
#[derive(Serialize, Deserialize)]
struct Wire {
    specversion: String,
    id: EventId,
    #[serde(rename = "type")]
    event_type: EventType,
    #[serde(default = "default_source")]
    source: String,
    subject: ActionId,
    #[serde(default = "Timestamp::now")]
    time: Timestamp,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    datacontenttype: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    dataschema: Option<String>,
    /// Read on its own: among the others, a payload that is nested deeply could not be read at all.
    #[serde(rename = "data", skip_serializing, default)]
    _data: IgnoredAny,
    #[serde(flatten)]
    own: Own,
    #[serde(flatten)]
    others: BTreeMap<String, Value>,
}

/// What this library adds.
#[derive(Default, Serialize, Deserialize)]
pub(crate) struct Own {
    #[serde(rename = "pipelinedeliverat", skip_serializing_if = "Option::is_none", default)]
    pub(crate) deliver_at: Option<Timestamp>,
    #[serde(rename = "pipelinereplayof", skip_serializing_if = "Option::is_none", default)]
    pub(crate) replay_of: Option<EventId>,
    #[serde(rename = "pipelineheaders", skip_serializing_if = "Option::is_none", default)]
    pub(crate) headers: Option<String>,
    #[serde(rename = "pipelinerole", skip_serializing_if = "Option::is_none", default)]
    pub(crate) role: Option<Role>,
    #[serde(rename = "pipelinestage", skip_serializing_if = "Option::is_none", default)]
    pub(crate) stage: Option<Stage>,
    #[serde(rename = "pipelinecause", skip_serializing_if = "Option::is_none", default)]
    pub(crate) cause: Option<EventId>,
    #[serde(rename = "pipelineroot", skip_serializing_if = "Option::is_none", default)]
    pub(crate) root: Option<EventId>,
    #[serde(rename = "pipelinerootposition", skip_serializing_if = "Option::is_none", default)]
    pub(crate) root_position: Option<Position>,
    #[serde(rename = "pipelinelinks", skip_serializing_if = "Option::is_none", default)]
    pub(crate) links: Option<u32>,
}

fn default_source() -> String {
    DEFAULT_SOURCE.to_owned()
}

/// The payload alone: serde cannot keep raw text beside flattened fields, so it is read on its own.
#[derive(Deserialize)]
struct Data {
    #[serde(default = "Payload::null")]
    data: Payload,
}

/// Attribute names: lower-case letters and digits, at most 20 ("CloudEvents 1.0, Naming conventions").
pub(crate) fn is_attribute_name(name: &str) -> bool {
    const TAKEN: [&str; 10] = [
        "specversion",
        "id",
        "type",
        "source",
        "subject",
        "time",
        "datacontenttype",
        "dataschema",
        "data",
        "database64",
    ];
    (1..=20).contains(&name.len())
        && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit())
        && !name.starts_with(OWN_PREFIX)
        && !TAKEN.contains(&name)
}

impl Event {
    /// Writes it as CloudEvents 1.0 JSON, the payload as the text it is.
    ///
    /// # Errors
    /// [`Internal`](ErrorKind::Internal), which no event leads to.
    pub fn to_cloud_event(&self) -> Result<String> {
        let internal =
            |e: serde_json::Error| Error::new(ErrorKind::Internal, "write an event as JSON").with_source(e);
        let (plain, rest): (Headers, Headers) =
            self.headers.clone().into_iter().partition(|(name, _)| is_attribute_name(name));
        let origin = self.origin.as_ref();
        let wire = Wire {
            specversion: SPEC_VERSION.to_owned(),
            id: self.id.clone(),
            event_type: self.event_type.clone(),
            source: self.source.clone(),
            subject: self.action_id.clone(),
            time: self.time,
            datacontenttype: Some("application/json".to_owned()),
            dataschema: None,
            _data: IgnoredAny,
            own: Own {
                deliver_at: self.deliver_at,
                replay_of: self.replay_of.clone(),
                headers: (!rest.is_empty())
                    .then(|| serde_json::to_string(&rest))
                    .transpose()
                    .map_err(internal)?,
                role: origin.map(|o| o.role),
                stage: origin.map(|o| o.stage.clone()),
                cause: origin.map(|o| o.cause.clone()),
                root: origin.map(|o| o.root.clone()),
                root_position: origin.map(|o| o.root_position.clone()),
                links: origin.map(|o| o.links),
            },
            others: plain.into_iter().map(|(name, value)| (name, Value::String(value))).collect(),
        };
        let mut text = serde_json::to_string(&wire).map_err(internal)?;
        // The object is never empty, so its closing brace is replaced by the payload and a new one.
        text.pop();
        text.push_str(",\"data\":");
        text.push_str(self.payload.as_str());
        text.push('}');
        Ok(text)
    }

    /// Reads CloudEvents 1.0 JSON. Unknown extension attributes become headers; a missing time is now.
    ///
    /// # Errors
    /// [`Invalid`](ErrorKind::Invalid) says what is wrong: no JSON, an attribute that is missing or unacceptable, a
    /// payload that is not JSON; [`TooNew`](ErrorKind::TooNew) for a later major version.
    pub fn from_cloud_event(bytes: &[u8]) -> Result<Self> {
        let invalid =
            |e: serde_json::Error| Error::invalid("this is no event in CloudEvents 1.0 JSON").with_source(e);
        let wire: Wire = serde_json::from_slice(bytes).map_err(invalid)?;
        check_version(&wire.specversion)?;
        if wire.others.contains_key("data_base64") {
            return Err(Error::invalid("a payload is JSON in `data`; `data_base64` is not taken"));
        }
        check_content_type(wire.datacontenttype.as_deref())?;
        let Data { data } = serde_json::from_slice(bytes).map_err(invalid)?;
        let origin = origin(&wire.own)?;
        let mut headers: Headers = wire
            .own
            .headers
            .as_deref()
            .map(serde_json::from_str)
            .transpose()
            .map_err(invalid)?
            .unwrap_or_default();
        for (name, value) in wire.others {
            let text = match value {
                Value::String(text) => text,
                Value::Null => continue,
                Value::Bool(_) | Value::Number(_) => value.to_string(),
                Value::Array(_) | Value::Object(_) => {
                    return Err(Error::invalid("an extension attribute is no array and no object")
                        .with("attribute", name));
                }
            };
            headers.insert(name, text);
        }
        Ok(Self {
            id: wire.id,
            event_type: wire.event_type,
            action_id: wire.subject,
            payload: data,
            time: wire.time,
            source: wire.source,
            headers,
            deliver_at: wire.own.deliver_at,
            origin,
            replay_of: wire.own.replay_of,
        })
    }
}

/// A later major version is not read.
pub(crate) fn check_version(version: &str) -> Result<()> {
    if version == SPEC_VERSION || version.starts_with("1.") {
        return Ok(());
    }
    Err(Error::new(ErrorKind::TooNew, "read a CloudEvent")
        .with("specversion", version)
        .with("newest known", SPEC_VERSION))
}

/// A payload is JSON.
pub(crate) fn check_content_type(kind: Option<&str>) -> Result<()> {
    let Some(kind) = kind else { return Ok(()) };
    let kind = kind.split(';').next().unwrap_or_default().trim();
    if kind == "application/json" || kind.ends_with("+json") || kind == "text/json" {
        return Ok(());
    }
    Err(Error::invalid("a payload is JSON").with("datacontenttype", kind))
}

/// All parts of an origin, or none.
pub(crate) fn origin(own: &Own) -> Result<Option<Origin>> {
    match (own.role, &own.stage, &own.cause, &own.root, &own.root_position, own.links) {
        (None, None, None, None, None, None) => Ok(None),
        (Some(role), Some(stage), Some(cause), Some(root), Some(position), Some(links)) => Ok(Some(Origin {
            role,
            stage: stage.clone(),
            cause: cause.clone(),
            root: root.clone(),
            root_position: position.clone(),
            links,
        })),
        _ => Err(Error::invalid(
            "an event of the library has pipelinerole, -stage, -cause, -root, -rootposition and -links",
        )),
    }
}

#[cfg(test)]
mod tests {
    use crate::{ActionId, ErrorKind, Event, EventId, EventType, Origin, Position, Role, Stage, Timestamp};
    use proptest::prelude::{prop_assert_eq, proptest};

    fn event() -> Event {
        Event::new(EventType::new("build-requested").unwrap(), ActionId::new("action-123").unwrap())
    }

    #[test]
    fn the_payload_keeps_its_text_and_the_origin_its_parts() {
        let mut event = event()
            .with_payload(r#"{"n": 1.0, "e":1e2,"n":"é\u0000"}"#.parse().unwrap())
            .with_header("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
            .with_header("git_sha", "abc")
            .with_deliver_at(Timestamp::from_micros(5));
        event.origin = Some(Origin {
            role: Role::Outcome,
            stage: Stage::new("build").unwrap(),
            cause: EventId::new("c").unwrap(),
            root: EventId::new("r").unwrap(),
            root_position: Position::new("17"),
            links: 2,
        });
        event.replay_of = Some(EventId::new("before").unwrap());
        let text = event.to_cloud_event().unwrap();
        assert!(text.contains(r#""data":{"n": 1.0, "e":1e2,"n":"é\u0000"}"#), "{text}");
        assert!(text.contains(r#""traceparent":"00-"#) && text.contains(r#""specversion":"1.0""#), "{text}");
        assert_eq!(Event::from_cloud_event(text.as_bytes()).unwrap(), event);
    }

    #[test]
    fn a_foreign_event_is_taken_with_its_attributes_as_headers() {
        let text = r#"{"specversion":"1.0","id":"1","type":"push","source":"//github","subject":"repo:main",
            "comexampleext":7,"datacontenttype":"application/json; charset=utf-8","data":[1, 2]}"#;
        let event = Event::from_cloud_event(text.as_bytes()).unwrap();
        assert_eq!(event.headers.get("comexampleext").unwrap(), "7");
        assert_eq!((event.payload.as_str(), event.source.as_str()), ("[1, 2]", "//github"));
    }

    #[test]
    fn a_payload_reads_back_however_deeply_it_is_nested() {
        let payload = format!("{}{}", "[".repeat(5000), "]".repeat(5000));
        let event = event().with_payload(payload.parse().unwrap());
        let text = event.to_cloud_event().unwrap();
        assert_eq!(Event::from_cloud_event(text.as_bytes()).unwrap(), event);
    }

    #[test]
    fn what_is_no_event_says_why() {
        let of = |text: &str| Event::from_cloud_event(text.as_bytes()).unwrap_err();
        assert!(of("not JSON").chain().contains("CloudEvents 1.0 JSON"));
        assert!(of(r#"{"specversion":"1.0","id":"1","subject":"a"}"#).chain().contains("`type`"));
        assert!(
            of(r#"{"specversion":"1.0","id":"1","type":"t","subject":""}"#)
                .chain()
                .contains("the action id is empty")
        );
        assert_eq!(
            of(r#"{"specversion":"2.0","id":"1","type":"t","subject":"a"}"#).kind(),
            ErrorKind::TooNew
        );
        let xml = r#"{"specversion":"1.0","id":"1","type":"t","subject":"a","datacontenttype":"text/xml","data":"x"}"#;
        assert!(of(xml).chain().contains("text/xml"));
        let half = r#"{"specversion":"1.0","id":"1","type":"t","subject":"a","pipelinelinks":3}"#;
        assert!(of(half).chain().contains("pipelinerole"));
    }

    proptest! {
        #[test]
        fn every_event_reads_back(id in "\\PC{1,20}", name in "\\PC{1,25}", value in ".{0,30}", n in proptest::num::i64::ANY) {
            let event = event().with_id(EventId::new(&id).unwrap()).with_header(name, value)
                .with_payload(n.to_string().parse().unwrap());
            let text = event.to_cloud_event().unwrap();
            prop_assert_eq!(Event::from_cloud_event(text.as_bytes()).unwrap(), event);
        }

        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..200)) {
            let _ = Event::from_cloud_event(&bytes);
        }
    }
}
