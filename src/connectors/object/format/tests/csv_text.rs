//! Why: the crate's CSV reader takes the empty text for null, so a reader of the grammar's own rules tells them apart. Never used outside tests.

use std::sync::Arc;

use arrow_array::{ArrayRef, BinaryArray, ListArray, StringArray, TimestampSecondArray, types::Int32Type};

use super::*;

/// The fields of each line: quoted or not, and the text. Panics on what RFC 4180 does not allow.
fn fields(text: &str) -> Vec<Vec<(bool, String)>> {
    let mut lines = Vec::new();
    let mut line = Vec::new();
    let mut rest = text;
    while !rest.is_empty() {
        let (field, behind) = if let Some(mut inside) = rest.strip_prefix('"') {
            let mut field = String::new();
            loop {
                let (part, behind) = inside.split_once('"').expect("a closing quote");
                field += part;
                match behind.strip_prefix('"') {
                    Some(behind) => {
                        field.push('"');
                        inside = behind;
                    }
                    None => break ((true, field), behind),
                }
            }
        } else {
            let end = rest.find([',', '\r', '\n']).expect("every line ends");
            assert!(!rest[..end].contains('"'), "a quote in a field without quotes: {:?}", &rest[..end]);
            ((false, rest[..end].to_owned()), &rest[end..])
        };
        line.push(field);
        rest = match behind.strip_prefix(',') {
            Some(behind) => {
                assert!(!behind.is_empty(), "every line ends");
                behind
            }
            None => {
                lines.push(std::mem::take(&mut line));
                behind.strip_prefix("\r\n").expect("a comma or CRLF behind a field")
            }
        };
    }
    lines
}

/// The records as JSON, by the columns' types.
pub(super) fn as_json(text: &str, schema: &RecordSchema) -> Vec<String> {
    let mut lines = fields(text).into_iter();
    let header: Vec<_> = lines.next().expect("a header").into_iter().map(|(_, name)| name).collect();
    assert_eq!(header, schema.columns.iter().map(|column| column.name.clone()).collect::<Vec<_>>());
    lines
        .map(|line| {
            assert_eq!(line.len(), schema.columns.len());
            let pairs = schema.columns.iter().zip(line).map(|(column, (quoted, text))| {
                let value = match column.column_type {
                    _ if text.is_empty() && !quoted => "null".to_owned(),
                    ColumnType::String | ColumnType::Bytes | ColumnType::Decimal { .. } | ColumnType::Date => serde_json::json!(text).to_string(),
                    ColumnType::Time | ColumnType::Timestamp | ColumnType::Uuid => serde_json::json!(text).to_string(),
                    _ => text,
                };
                format!("{:?}:{value}", column.name)
            });
            format!("{{{}}}", pairs.collect::<Vec<_>>().join(","))
        })
        .collect()
}

fn plain() -> Format {
    Format::parse("csv", "none").unwrap()
}

#[test]
fn null_is_not_the_empty_text_and_nothing_breaks_a_line() {
    let texts = StringArray::from(vec![Some("plain"), None, Some(""), Some("a,b"), Some("say \"hi\""), Some("two\nlines"), Some("cr\rhere"), Some(" blank ")]);
    let numbers = Int64Array::from(vec![Some(1), None, Some(2), Some(3), Some(4), Some(5), Some(6), Some(7)]);
    let sent = arrow(0, vec![("te,xt", Arc::new(texts) as ArrayRef), ("n", Arc::new(numbers) as ArrayRef)]);
    let text = String::from_utf8(object(plain(), None, &[sent])).unwrap();
    let expected = "\"te,xt\",n\r\nplain,1\r\n,\r\n\"\",2\r\n\"a,b\",3\r\n\"say \"\"hi\"\"\",4\r\n\"two\nlines\",5\r\n\"cr\rhere\",6\r\n blank ,7\r\n";
    assert_eq!(text, expected);
}

#[test]
fn what_has_no_text_of_its_own_is_json_or_base64() {
    let lists = ListArray::from_iter_primitive::<Int32Type, _, _>([Some(vec![Some(1), None]), None, Some(vec![])]);
    let bytes = BinaryArray::from(vec![Some(&b"\x00\xff\xfe"[..]), None, Some(b"")]);
    let instants = TimestampSecondArray::from(vec![Some(0), None, Some(-1)]).with_timezone("Europe/Berlin");
    let columns = vec![("l\"x", Arc::new(lists) as ArrayRef), ("b", Arc::new(bytes) as ArrayRef), ("t", Arc::new(instants) as ArrayRef)];
    let text = String::from_utf8(object(plain(), None, &[arrow(0, columns)])).unwrap();
    assert_eq!(text, "\"l\"\"x\",b,t\r\n\"[1,null]\",AP/+,1970-01-01T00:00:00Z\r\n,,\r\n[],\"\",1969-12-31T23:59:59Z\r\n");
}

#[test]
fn an_instant_that_has_no_text_is_its_records_fault() {
    let times = |seconds: Vec<i64>| arrow(7, vec![("t", Arc::new(TimestampSecondArray::from(seconds)) as ArrayRef)]);
    let mut encoder = plain().encoder(None).unwrap();
    let error = encoder.append(&times(vec![0, i64::MAX, 1, i64::MIN])).unwrap_err();
    assert_eq!(error.class, ErrorClass::Record);
    assert_eq!(error.records.iter().map(|(offset, _)| *offset).collect::<Vec<_>>(), [8, 10]);
    encoder.append(&times(vec![0])).unwrap();
    assert_eq!(joined(encoder.finish().unwrap()), b"t\r\n1970-01-01T00:00:00Z\r\n");
}
