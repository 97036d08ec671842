//! Events as CloudEvents 1.0 in binary mode: a list of attributes, each a name and a text, and the payload as `data`.
//!
//! For brokers that keep fields beside each other. The names, and what becomes of headers, are those of the JSON form.

use std::borrow::Cow;
use std::collections::BTreeMap;

use crate::cloud_event::{Own, SPEC_VERSION, check_content_type, check_version, is_attribute_name, origin};
use crate::event::DEFAULT_SOURCE;
use crate::{Error, ErrorKind, Event, EventId, Headers, Position, Result, Role, Stage, Timestamp};

/// A name and a text.
type Attribute<'a> = (&'a str, Cow<'a, str>);

impl Event {
    /// Its attributes, each a name and a text, the payload last as `data`.
    ///
    /// ```
    /// use pubsub_core::{ActionId, Event, EventType};
    /// let event = Event::new(EventType::new("build-requested")?, ActionId::new("action-123")?);
    /// let attributes = event.to_attributes()?;
    /// assert!(attributes.iter().any(|(name, text)| *name == "subject" && text == "action-123"));
    /// assert_eq!(Event::from_attributes(attributes.iter().map(|(name, text)| (*name, &**text)))?, event);
    /// # Ok::<(), pubsub_core::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Internal`](ErrorKind::Internal), which no event leads to.
    pub fn to_attributes(&self) -> Result<Vec<(&str, Cow<'_, str>)>> {
        let mut all: Vec<Attribute<'_>> = Vec::with_capacity(8 + self.headers.len());
        all.extend([
            ("specversion", SPEC_VERSION.into()),
            ("id", self.id.as_str().into()),
            ("type", self.event_type.as_str().into()),
            ("source", self.source.as_str().into()),
            ("subject", self.action_id.as_str().into()),
            ("time", self.time.to_string().into()),
            ("datacontenttype", "application/json".into()),
        ]);
        if let Some(at) = self.deliver_at {
            all.push(("pipelinedeliverat", at.to_string().into()));
        }
        if let Some(id) = &self.replay_of {
            all.push(("pipelinereplayof", id.as_str().into()));
        }
        if let Some(origin) = &self.origin {
            let role = match origin.role {
                Role::Outcome => "outcome",
                Role::Next => "next",
            };
            all.extend([
                ("pipelinerole", role.into()),
                ("pipelinestage", origin.stage.as_str().into()),
                ("pipelinecause", origin.cause.as_str().into()),
                ("pipelineroot", origin.root.as_str().into()),
                ("pipelinerootposition", origin.root_position.as_str().into()),
                ("pipelinelinks", origin.links.to_string().into()),
            ]);
        }
        let mut rest = BTreeMap::new();
        for (name, text) in &self.headers {
            if is_attribute_name(name) {
                all.push((name, text.as_str().into()));
            } else {
                rest.insert(name, text);
            }
        }
        if !rest.is_empty() {
            let rest = serde_json::to_string(&rest).map_err(|e| {
                Error::new(ErrorKind::Internal, "write an event's headers as JSON").with_source(e)
            })?;
            all.push(("pipelineheaders", rest.into()));
        }
        all.push(("data", self.payload.as_str().into()));
        Ok(all)
    }

    /// Reads attributes. Unknown ones become headers; a missing time is now.
    ///
    /// # Errors
    /// [`Invalid`](ErrorKind::Invalid) says what is wrong: an attribute that is missing or unacceptable, a payload that is
    /// not JSON; [`TooNew`](ErrorKind::TooNew) for a later major version.
    pub fn from_attributes<'a>(attributes: impl IntoIterator<Item = (&'a str, &'a str)>) -> Result<Self> {
        let mut read = Read::default();
        for (name, text) in attributes {
            read.take(name, text)?;
        }
        let missing = |name: &str| {
            Error::invalid("these attributes are no event in CloudEvents 1.0").with("missing", name)
        };
        check_version(read.version.ok_or_else(|| missing("specversion"))?)?;
        check_content_type(read.content_type)?;
        let mut headers: Headers = match &read.own.headers {
            Some(text) => serde_json::from_str(text)
                .map_err(|e| Error::invalid("`pipelineheaders` is a JSON object of texts").with_source(e))?,
            None => Headers::new(),
        };
        headers.extend(read.headers);
        Ok(Self {
            id: read.id.ok_or_else(|| missing("id"))?.parse()?,
            event_type: read.event_type.ok_or_else(|| missing("type"))?.parse()?,
            action_id: read.subject.ok_or_else(|| missing("subject"))?.parse()?,
            payload: read.data.unwrap_or("null").parse()?,
            time: read.time.map_or_else(|| Ok(Timestamp::now()), str::parse)?,
            source: read.source.unwrap_or(DEFAULT_SOURCE).to_owned(),
            headers,
            deliver_at: read.own.deliver_at,
            origin: origin(&read.own)?,
            replay_of: read.own.replay_of,
        })
    }
}

/// What has been read.
#[derive(Default)]
struct Read<'a> {
    version: Option<&'a str>,
    id: Option<&'a str>,
    event_type: Option<&'a str>,
    source: Option<&'a str>,
    subject: Option<&'a str>,
    time: Option<&'a str>,
    content_type: Option<&'a str>,
    data: Option<&'a str>,
    own: Own,
    headers: Headers,
}

impl<'a> Read<'a> {
    fn take(&mut self, name: &'a str, text: &'a str) -> Result<()> {
        match name {
            "specversion" => self.version = Some(text),
            "id" => self.id = Some(text),
            "type" => self.event_type = Some(text),
            "source" => self.source = Some(text),
            "subject" => self.subject = Some(text),
            "time" => self.time = Some(text),
            "datacontenttype" => self.content_type = Some(text),
            // As in the JSON form, where it is read and not kept.
            "dataschema" => {}
            "data" => self.data = Some(text),
            "pipelinedeliverat" => self.own.deliver_at = Some(text.parse()?),
            "pipelinereplayof" => self.own.replay_of = Some(EventId::new(text)?),
            "pipelineheaders" => self.own.headers = Some(text.to_owned()),
            "pipelinerole" => self.own.role = Some(role(text)?),
            "pipelinestage" => self.own.stage = Some(Stage::new(text)?),
            "pipelinecause" => self.own.cause = Some(EventId::new(text)?),
            "pipelineroot" => self.own.root = Some(EventId::new(text)?),
            "pipelinerootposition" => self.own.root_position = Some(Position::new(text)),
            "pipelinelinks" => {
                let links = text.parse();
                self.own.links = Some(links.map_err(|_| {
                    Error::invalid("`pipelinelinks` is a number").with("pipelinelinks", text)
                })?);
            }
            _ => {
                self.headers.insert(name.to_owned(), text.to_owned());
            }
        }
        Ok(())
    }
}

fn role(text: &str) -> Result<Role> {
    match text {
        "outcome" => Ok(Role::Outcome),
        "next" => Ok(Role::Next),
        _ => Err(Error::invalid("`pipelinerole` is outcome or next").with("pipelinerole", text)),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{any, prop_assert_eq, proptest};

    use crate::{ActionId, ErrorKind, Event, EventId, EventType, Origin, Position, Role, Stage, Timestamp};

    fn read(pairs: &[(&str, &str)]) -> crate::Result<Event> {
        Event::from_attributes(pairs.iter().copied())
    }

    fn read_back(event: &Event) -> Event {
        let attributes = event.to_attributes().unwrap();
        Event::from_attributes(attributes.iter().map(|(name, text)| (*name, &**text))).unwrap()
    }

    #[test]
    fn both_forms_say_the_same() {
        let mut event = Event::new(EventType::new("t").unwrap(), ActionId::new("a").unwrap())
            .with_payload(r#"{"n": 1.0, "n":"é\u0000"}"#.parse().unwrap())
            .with_header("traceparent", "00-1")
            .with_header("git_sha", "abc")
            .with_header("data", "of a header")
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
        assert_eq!(read_back(&event), event);
        let json: serde_json::Value = serde_json::from_str(&event.to_cloud_event().unwrap()).unwrap();
        for (name, text) in event.to_attributes().unwrap().iter().filter(|(name, _)| *name != "data") {
            let said = json[*name].as_str().map_or_else(|| json[*name].to_string(), str::to_owned);
            assert_eq!(said, *text, "{name}");
        }
    }

    #[test]
    fn what_is_no_event_says_why() {
        let whole = [("specversion", "1.0"), ("id", "1"), ("type", "t"), ("subject", "a"), ("data", "1")];
        assert_eq!(read(&whole).unwrap().payload.as_str(), "1");
        for missing in 0..4 {
            let mut pairs = whole.to_vec();
            let (name, _) = pairs.remove(missing);
            assert!(read(&pairs).unwrap_err().to_string().contains(name), "{name}");
        }
        for (name, text, kind) in [
            ("specversion", "2.0", ErrorKind::TooNew),
            ("data", "{", ErrorKind::Invalid),
            ("datacontenttype", "text/xml", ErrorKind::Invalid),
            ("subject", "", ErrorKind::Invalid),
            ("pipelinerole", "other", ErrorKind::Invalid),
            ("pipelinelinks", "3", ErrorKind::Invalid),
            ("pipelineheaders", "[]", ErrorKind::Invalid),
            ("time", "yesterday", ErrorKind::Invalid),
        ] {
            let pairs: Vec<_> = whole.iter().copied().chain([(name, text)]).collect();
            assert_eq!(read(&pairs).unwrap_err().kind(), kind, "{name}");
        }
    }

    proptest! {
        #[test]
        fn every_event_reads_back(
            id in "\\PC{1,20}",
            headers in proptest::collection::btree_map("(\\PC|[a-z]){0,25}", ".{0,30}", 0..5),
            due in any::<Option<i64>>(),
            n in any::<i64>(),
        ) {
            let mut event = Event::new(EventType::new("t").unwrap(), ActionId::new(&id).unwrap());
            event.id = EventId::new(&id).unwrap();
            event.payload = n.to_string().parse().unwrap();
            event.deliver_at = due.map(Timestamp::from_micros);
            event.headers = headers;
            prop_assert_eq!(read_back(&event), event);
        }

        #[test]
        fn no_attributes_make_it_panic(pairs in proptest::collection::vec(("\\PC{0,20}", ".{0,20}"), 0..12)) {
            let _ = Event::from_attributes(pairs.iter().map(|(name, text)| (&**name, &**text)));
        }
    }
}
