//! What servers answer, read into plain types.

use pubsub_core::{Error, ErrorKind, Result};
use redis::Value;

fn unexpected(wanted: &'static str) -> Error {
    Error::new(ErrorKind::Internal, "the server answered something else").with("wanted", wanted)
}

/// The items of a list; none for nothing.
pub(crate) fn items(value: Value) -> Result<Vec<Value>> {
    match value {
        Value::Nil => Ok(Vec::new()),
        Value::Array(items) | Value::Set(items) => Ok(items),
        _ => Err(unexpected("a list")),
    }
}

/// So many items, in their order.
pub(crate) fn fixed<const N: usize>(value: Value) -> Result<[Value; N]> {
    items(value)?.try_into().map_err(|_| unexpected("a list of another length"))
}

/// Bytes; none for nothing.
pub(crate) fn bytes(value: Value) -> Result<Vec<u8>> {
    match value {
        Value::Nil => Ok(Vec::new()),
        Value::BulkString(bytes) => Ok(bytes),
        Value::SimpleString(text) => Ok(text.into_bytes()),
        Value::Int(number) => Ok(number.to_string().into_bytes()),
        Value::Okay => Ok(b"OK".to_vec()),
        _ => Err(unexpected("a text")),
    }
}

/// Text; empty for nothing.
pub(crate) fn text(value: Value) -> Result<String> {
    String::from_utf8(bytes(value)?).map_err(|_| unexpected("a text in UTF-8"))
}

/// A whole number; `None` for nothing and for an empty text.
pub(crate) fn number(value: Value) -> Result<Option<i64>> {
    match value {
        Value::Int(number) => Ok(Some(number)),
        other => match text(other)?.as_str() {
            "" => Ok(None),
            digits => digits.parse().map(Some).map_err(|_| unexpected("a number")),
        },
    }
}

/// A whole number that is not negative; 0 for nothing.
pub(crate) fn count(value: Value) -> Result<u64> {
    Ok(u64::try_from(number(value)?.unwrap_or(0)).unwrap_or(0))
}

/// The fields of a hash, each a name and a text.
pub(crate) fn pairs(value: Value) -> Result<Vec<(String, String)>> {
    let flat: Vec<Value> = match value {
        Value::Map(pairs) => pairs.into_iter().flat_map(|(name, value)| [name, value]).collect(),
        other => items(other)?,
    };
    let (mut pairs, mut flat) = (Vec::with_capacity(flat.len() / 2), flat.into_iter());
    while let (Some(name), Some(value)) = (flat.next(), flat.next()) {
        pairs.push((text(name)?, text(value)?));
    }
    Ok(pairs)
}

/// An entry of a stream.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Entry {
    /// Its id in its stream.
    pub(crate) id: String,
    /// Names and texts in turn, as the driver read them: copying them once more is felt.
    pub(crate) fields: Vec<Value>,
    /// How often it was delivered, where that was asked for.
    pub(crate) deliveries: u64,
}

impl Entry {
    #[cfg(test)]
    pub(crate) fn new(id: &str, fields: &[(&str, &str)]) -> Self {
        let bulk = |text: &str| Value::BulkString(text.as_bytes().to_vec());
        let fields = fields.iter().flat_map(|(name, value)| [bulk(name), bulk(value)]).collect();
        Self { id: id.to_owned(), fields, deliveries: 1 }
    }

    /// Names and values.
    pub(crate) fn fields(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        let (pairs, _) = self.fields.as_chunks::<2>();
        pairs.iter().filter_map(|[name, value]| Some((bulk(name)?, bulk(value)?)))
    }

    /// The value of a field.
    pub(crate) fn field(&self, name: &str) -> Option<&[u8]> {
        self.fields().find(|(known, _)| *known == name.as_bytes()).map(|(_, value)| value)
    }

    /// The value of a field that is text.
    pub(crate) fn text(&self, name: &str) -> Option<&str> {
        std::str::from_utf8(self.field(name)?).ok()
    }
}

/// The entries of a list of `{id, fields}` or `{id, fields, deliveries}`. One that was removed has no fields and is left
/// out.
pub(crate) fn entries(value: Value) -> Result<Vec<Entry>> {
    let items = items(value)?;
    let mut entries = Vec::with_capacity(items.len());
    for item in items {
        entries.extend(entry(item)?);
    }
    Ok(entries)
}

/// The bytes of a text as every field of an entry is one.
const fn bulk(value: &Value) -> Option<&[u8]> {
    if let Value::BulkString(bytes) = value { Some(bytes.as_slice()) } else { None }
}

fn entry(value: Value) -> Result<Option<Entry>> {
    let mut parts = items(value)?.into_iter();
    let id = text(parts.next().unwrap_or(Value::Nil))?;
    let fields = match parts.next() {
        None | Some(Value::Nil) => return Ok(None),
        Some(fields) => items(fields)?,
    };
    if fields.iter().any(|field| bulk(field).is_none()) {
        return Err(unexpected("a text"));
    }
    let deliveries = parts.next().map_or(Ok(1), count)?;
    Ok(Some(Entry { id, fields, deliveries }))
}

/// The entries of each stream, as `XREAD` and `XREADGROUP` answer.
pub(crate) fn streams(value: Value) -> Result<Vec<(String, Vec<Entry>)>> {
    let pairs: Vec<(Value, Value)> = match value {
        Value::Map(pairs) => pairs,
        other => items(other)?
            .into_iter()
            .map(|one| fixed::<2>(one).map(|[name, entries]| (name, entries)))
            .collect::<Result<_>>()?,
    };
    pairs.into_iter().map(|(name, list)| Ok((text(name)?, entries(list)?))).collect()
}

#[cfg(test)]
mod tests {
    use redis::Value;

    use super::{count, entries, number, streams, text};

    fn of(text: &str) -> Value {
        Value::BulkString(text.as_bytes().to_vec())
    }

    #[test]
    fn entries_are_read_with_and_without_deliveries_and_without_those_that_are_gone() {
        let plain = Value::Array(vec![of("1-0"), Value::Array(vec![of("a"), of("b")])]);
        let counted = Value::Array(vec![of("2-0"), Value::Array(vec![]), Value::Int(3)]);
        let gone = Value::Array(vec![of("3-0"), Value::Nil]);
        let read = entries(Value::Array(vec![plain, counted, gone])).unwrap();
        assert_eq!(
            read.iter().map(|e| (e.id.as_str(), e.deliveries)).collect::<Vec<_>>(),
            [("1-0", 1), ("2-0", 3)]
        );
        assert_eq!((read[0].text("a"), read[0].text("c")), (Some("b"), None));
    }

    #[test]
    fn what_is_not_there_is_empty_and_what_is_something_else_is_an_error() {
        assert_eq!(text(Value::Nil).unwrap(), "");
        assert_eq!((number(of("")).unwrap(), count(Value::Nil).unwrap()), (None, 0));
        assert_eq!(number(of("-7")).unwrap(), Some(-7));
        assert!(streams(Value::Nil).unwrap().is_empty());
        assert!(number(of("x")).is_err() && entries(Value::Int(1)).is_err());
    }
}
