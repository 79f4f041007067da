//! Why: the values of a record's key columns become the key of its message, so that all versions of a row share a partition. Never parses more of a record than it must.

use std::fmt;

use bytes::{BufMut, Bytes, BytesMut};
use serde::{
    Deserializer,
    de::{DeserializeSeed, IgnoredAny, MapAccess, Visitor},
};
use serde_json::value::RawValue;

use crate::record::{RecordFault, RecordFaultKind};

/// The key of the record with this JSON text: the text of the one key column's value as it was sent, or an array of them if there are several. A column that is given twice counts as given last.
pub(super) fn key_of(columns: &[String], line: &Bytes) -> Result<Bytes, RecordFault> {
    let values = serde_json::Deserializer::from_slice(line).deserialize_map(Picker(columns)).map_err(|_| RecordFault {
        kind: RecordFaultKind::Unparsable,
        message: "the record is not a JSON object".to_owned(),
        column: None,
    })?;
    let mut found = Vec::with_capacity(columns.len());
    for (column, value) in columns.iter().zip(values) {
        match value {
            Some(value) => found.push(value.get().as_bytes()),
            None => {
                let message = format!("the record has no column {column:?}, which is one of the stream's key columns; send it, if only as null");
                return Err(RecordFault { kind: RecordFaultKind::Invalid, message, column: Some(column.clone()) });
            }
        }
    }
    if let [value] = found[..] {
        return Ok(line.slice_ref(value));
    }
    let mut key = BytesMut::with_capacity(found.iter().map(|value| value.len() + 1).sum::<usize>() + 1);
    for (index, value) in found.iter().enumerate() {
        key.put_u8(if index == 0 { b'[' } else { b',' });
        key.put_slice(value);
    }
    key.put_u8(b']');
    Ok(key.freeze())
}

/// Finds the values of columns in an object and skips the others.
struct Picker<'c>(&'c [String]);

impl<'de> Visitor<'de> for Picker<'_> {
    type Value = Vec<Option<&'de RawValue>>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Self::Value, A::Error> {
        let mut values = vec![None; self.0.len()];
        while let Some(place) = entries.next_key_seed(Place(self.0))? {
            match place {
                Some(place) => values[place] = Some(entries.next_value()?),
                None => {
                    entries.next_value::<IgnoredAny>()?;
                }
            }
        }
        Ok(values)
    }
}

/// Which of the columns a name is, without keeping the name.
struct Place<'c>(&'c [String]);

impl<'de> DeserializeSeed<'de> for Place<'_> {
    type Value = Option<usize>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for Place<'_> {
    type Value = Option<usize>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a name")
    }

    fn visit_str<E>(self, name: &str) -> Result<Self::Value, E> {
        Ok(self.0.iter().position(|column| column == name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(columns: &[&str], line: &'static str) -> Result<Bytes, RecordFault> {
        key_of(&columns.iter().map(|column| (*column).to_owned()).collect::<Vec<_>>(), &Bytes::from_static(line.as_bytes()))
    }

    #[test]
    fn a_key_is_the_text_of_its_values() {
        assert_eq!(key(&["id"], r#"{"a":{"id":2},"id": 17 ,"b":[1]}"#).unwrap(), "17");
        assert_eq!(key(&["id"], r#"{"id":"x\"y"}"#).unwrap(), r#""x\"y""#);
        assert_eq!(key(&["b", "a"], r#"{"a":1,"c":null,"b":"two"}"#).unwrap(), r#"["two",1]"#);
        assert_eq!(key(&["id"], r#"{"id":null}"#).unwrap(), "null");
        assert_eq!(key(&["i d"], r#"{"i\u0020d":{"x":[1, 2]}}"#).unwrap(), r#"{"x":[1, 2]}"#);
        assert_eq!(key(&["id"], r#"{"id":1,"id":2}"#).unwrap(), "2");
    }

    #[test]
    fn a_record_without_a_key_column_is_at_fault_and_the_column_is_named() {
        let fault = key(&["a", "b"], r#"{"a":1,"c":{"b":1}}"#).unwrap_err();
        assert_eq!((fault.kind, fault.column.as_deref()), (RecordFaultKind::Invalid, Some("b")));
    }
}
