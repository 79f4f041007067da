//! Why: no template and no record can make an object lie where it must not, and no two values share a path. Never trusts the encoder's own idea of what is safe: the rules are written out again.

use proptest::prelude::*;
use uuid::Uuid;

use super::*;
use crate::{name::StreamName, record::RecordFaultKind};

fn stream(name: &str) -> StreamId {
    StreamId { cluster: Uuid::nil(), sink: Uuid::nil(), name: StreamName::parse(name).unwrap() }
}

fn sink(name: &str) -> QualifiedName {
    QualifiedName::parse(name, None).unwrap()
}

fn template(text: &str) -> PathTemplate {
    PathTemplate::parse(text).unwrap_or_else(|fault| panic!("{text}: {}", fault.message))
}

fn path(template: &PathTemplate, line: impl AsRef<[u8]>) -> Result<String, RecordFault> {
    template.of_record(&stream("s"), &sink("x.y"), line.as_ref())
}

/// `{"v": text}`.
fn holding(text: &str) -> String {
    serde_json::json!({ "v": text }).to_string()
}

/// What every path obeys, whatever made it.
fn assert_harmless(path: &str) {
    assert!(path.len() <= PATH_BYTES_MAX, "{} bytes: {path}", path.len());
    assert!(path.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.=/%".contains(&byte)), "{path}");
    for segment in path.split('/') {
        assert!(!segment.is_empty() && segment.len() <= SEGMENT_BYTES_MAX, "{path}");
        assert!(!segment.starts_with('.'), "{path}");
        assert!(!segment.starts_with('_') || segment.starts_with(EMPTY_VALUE), "{path}");
    }
    assert_eq!(object_store::path::Path::parse(path).unwrap().as_ref(), path, "the store's library leaves it alone");
}

#[test]
fn placeholders_stand_for_names_and_fields() {
    let plain = template("exports/{schema}/{sink}/{stream}");
    assert!(plain.fields().is_empty());
    assert_eq!(plain.constant(&stream("orders:eu/1"), &sink("sales.to s3")).unwrap().unwrap(), "exports/sales/to%20s3/orders%3Aeu%2F1");

    let parted = template("{stream}/dt={field:at|date}/hour={field:at|hour}/{field:kind}");
    assert_eq!(parted.fields(), ["at", "kind"]);
    assert_eq!(parted.constant(&stream("s"), &sink("x.y")), Ok(None));
    assert_eq!(path(&parted, r#"{"kind":7.50,"at":"2026-11-24T23:45:00-01:00","rest":[1]}"#).unwrap(), "s/dt=2026-11-25/hour=00/7.50");
    assert_eq!(path(&template("{stream}/{field:a.b}={field:b}"), r#"{"a.b":true,"b":"x","a":1,"b":"y\u0041"}"#).unwrap(), "s/true=yA");
}

#[test]
fn what_is_the_streams_as_a_whole_lies_where_no_record_decides() {
    for (text, expected) in [
        ("{stream}/{field:a}", "s%2F1"),
        ("exports/{sink}/{stream}/dt={field:a|date}/x", "exports/y/s%2F1"),
        ("exports/dt={field:a|date}/{stream}", "exports/s%2F1"),
        ("{field:a}/{stream}", "s%2F1"),
        ("exports/{stream}={field:a}", "exports/s%2F1"),
        ("exports/{stream}", "exports/s%2F1"),
    ] {
        let lead = template(text).lead(&stream("s/1"), &sink("x.y")).unwrap();
        assert_eq!(lead, expected, "{text}");
        assert_harmless(&lead);
    }
    assert!(template("{stream}/{field:a}").lead(&stream(&("a".to_owned() + &":".repeat(100))), &sink("x.y")).unwrap_err().message.contains("may have 255"));
}

#[test]
fn parts_of_time_are_those_of_utc() {
    let whole = template("{stream}/{field:v|year}/{field:v|month}/{field:v|day}/{field:v|date}");
    for (text, expected) in [
        ("2026-11-24T13:45:00.123456Z", "s/2026/11/24/2026-11-24"),
        ("2026-01-01T00:30:00+01:00", "s/2025/12/31/2025-12-31"),
        ("2026-11-24 13:45:00Z", "s/2026/11/24/2026-11-24"),
        ("0001-02-03", "s/0001/02/03/0001-02-03"),
    ] {
        assert_eq!(path(&whole, holding(text)).unwrap(), expected, "{text}");
    }
    for bad in ["", "yesterday", "2026-11-24T13:45:00", "2026-13-01", "-000001-01-01T00:00:00Z", "0000-01-01T00:00:00+01:00", "1764000000"] {
        let fault = path(&whole, holding(bad)).unwrap_err();
        assert_eq!((fault.kind, fault.column.as_deref()), (RecordFaultKind::Invalid, Some("v")), "{bad}");
    }
    assert!(path(&template("{stream}/{field:v|hour}"), holding("2026-11-24")).unwrap_err().message.contains("RFC 3339 instant like"));
}

#[test]
fn hostile_values_stay_in_their_segment() {
    let template = template("{stream}/{field:v}/x={field:v}");
    for (value, encoded) in [
        ("../../other-tenant/x", "%2E.%2F..%2Fother-tenant%2Fx"),
        ("..", "%2E."),
        (".", "%2E"),
        ("/etc/passwd", "%2Fetc%2Fpasswd"),
        ("a\r\nb", "a%0D%0Ab"),
        ("\u{0}\u{7f}", "%00%7F"),
        ("\u{202e}txt.exe", "%E2%80%AEtxt.exe"),
        ("é", "%C3%A9"),
        ("%2e%2e%2f", "%252e%252e%252f"),
        ("a=b&c?d#e f+g", "a%3Db%26c%3Fd%23e%20f%2Bg"),
        ("_tmp", "%5Ftmp"),
        (".plan", "%2Eplan"),
        ("_datasink", "%5Fdatasink"),
        ("a_b.c-d", "a_b.c-d"),
        ("{stream}", "%7Bstream%7D"),
        ("\\..\\", "%5C..%5C"),
        ("", EMPTY_VALUE),
        (EMPTY_VALUE, "%5F_HIVE_DEFAULT_PARTITION__"),
    ] {
        let path = path(&template, holding(value)).unwrap();
        assert_eq!(path, format!("s/{encoded}/x={encoded}"), "{value:?}");
        assert_harmless(&path);
    }
}

#[test]
fn values_that_are_no_part_of_a_path_are_the_records_faults() {
    let template = template("{stream}/{field:v}");
    for (line, word) in [("{}", "is missing"), (r#"{"v":null}"#, "is null"), (r#"{"v":{"a":1}}"#, "holds an object"), (r#"{"v":["a"]}"#, "holds an array")] {
        let fault = path(&template, line).unwrap_err();
        assert_eq!((fault.kind, fault.column.as_deref()), (RecordFaultKind::Invalid, Some("v")), "{line}");
        assert!(fault.message.contains(word) && fault.message.contains("\"v\""), "{}", fault.message);
    }
    for (size, taken) in [(SEGMENT_BYTES_MAX, true), (SEGMENT_BYTES_MAX + 1, false), (2_048, false)] {
        let made = path(&template, holding(&"x".repeat(size)));
        assert_eq!(made.is_ok(), taken, "{size}");
        if let Err(fault) = made {
            assert_eq!((fault.kind, fault.column.as_deref()), (RecordFaultKind::TooLarge, Some("v")));
        }
    }
    let five = (0..5).map(|place| format!("/{{field:f{place}}}")).collect::<String>();
    let record: serde_json::Map<_, _> = (0..5).map(|place| (format!("f{place}"), "x".repeat(200).into())).collect();
    let fault = path(&self::template(&format!("{{stream}}{five}")), serde_json::Value::from(record).to_string()).unwrap_err();
    assert!(fault.message.contains("may have 896"), "{}", fault.message);
    for broken in [&b"{\"v\":\"\xff\"}"[..], b"{\"v\":\"\\ud800\"}", b"[1]", b"{\"v\":1", b"{\"v\":1}x", b""] {
        assert!(path(&template, broken).is_err(), "{broken:?}");
    }
}

#[test]
fn templates_that_lead_astray_are_refused() {
    for (text, words) in [
        ("", "empty"),
        ("/{stream}", "begins with \"/\""),
        ("{stream}/", "ends with \"/\""),
        ("a//{stream}", "empty segment"),
        ("../{stream}", "begins with"),
        ("a/./{stream}", "begins with"),
        ("{stream}/..", "begins with"),
        (".plan/{stream}", "begins with"),
        ("_tmp/{stream}", "begins with"),
        ("_datasink/{stream}", "begins with"),
        ("x/_{stream}", "begins with"),
        ("-rf/{stream}", "must begin with a letter"),
        ("a b/{stream}", "' ' is not allowed"),
        ("a%2e/{stream}", "'%' is not allowed"),
        ("a\\b/{stream}", "is not allowed"),
        ("a\u{202e}/{stream}", "is not allowed"),
        ("a\r\n/{stream}", "is not allowed"),
        ("é/{stream}", "is not allowed"),
        ("a}/{stream}", "'}' is not allowed"),
        ("exports/{sink}", "lacks {stream}"),
        ("{stream", "no closing brace"),
        ("{streem}", "did you mean {stream}"),
        ("{}/{stream}", "no placeholder"),
        ("{stream}/{date}", "{field:NAME|date}"),
        ("{stream}/{field}", "names no field"),
        ("{stream}/{field:}", "1 to 200 characters"),
        ("{stream}/{field:a|week}", "no part of a field"),
        ("{stream:x}", "behind a colon"),
        ("{stream}{field:a}", "between them"),
        ("{stream}/{field:a}-{field:b}", "between them"),
        ("{sink}.{stream}", "between them"),
    ] {
        let fault = PathTemplate::parse(text).map(|template| panic!("{text}: {template:?}")).unwrap_err();
        assert_eq!((fault.kind, fault.field.as_str()), (ConfigFaultKind::InvalidOption, "options[\"path_template\"]"));
        assert!(fault.message.contains(words), "{text:?}: {}", fault.message);
    }
    for (text, words) in [
        (format!("{{stream}}/{}", "x".repeat(SEGMENT_BYTES_MAX + 1)), "may have 255"),
        (format!("{{stream}}{}", "/abc".repeat(300)), "may have 896"),
        (format!("{{stream}}{}", "/{sink}".repeat(20)), "21 placeholders"),
        (format!("{{stream}}/{{field:{}}}", "x".repeat(201)), "1 to 200 characters"),
    ] {
        let fault = PathTemplate::parse(&text).unwrap_err();
        assert!(fault.message.contains(words), "{text:?}: {}", fault.message);
    }
}

#[test]
fn all_that_is_wrong_with_a_template_is_said_at_once() {
    let message = PathTemplate::parse("/a b//_x/{sinck}/{field:a}{field:b|week}/{stream}{sink}").unwrap_err().message;
    for words in ["begins with \"/\"", "' ' is not allowed", "empty segment", "\"_x\" begins with", "{sinck}", "\"week\"", "between them"] {
        assert!(message.contains(words), "{words}: {message}");
    }
}

#[test]
fn names_too_long_for_a_path_are_a_fault_of_the_template() {
    let long = |letter: &str| format!("x{}", letter.repeat(199));
    let sink = sink(&format!("x.{}", long("#")));
    assert!(template("{stream}/{sink}").constant(&stream("s"), &sink).unwrap_err().message.contains("may have 255"));
    assert_harmless(&template("{stream}").constant(&stream(&long("a")), &sink).unwrap().unwrap());
}

/// Texts short enough that two of them, encoded, fit a segment; many of them of the characters that the encoding is about.
fn scalar() -> impl Strategy<Value = String> {
    let text = prop_oneof![any::<String>(), "[a25%=/._-]{0,3}", "[./_%=A-F0-9-]{0,12}", "\\PC{0,20}"];
    prop_oneof![9 => text.prop_map(|text| text.chars().take(9).collect()), 1 => Just(EMPTY_VALUE.to_owned())]
}

/// The value that a part of a path was made of.
fn decoded(part: &str) -> String {
    if part == EMPTY_VALUE {
        return String::new();
    }
    let (mut bytes, mut rest) = (Vec::new(), part.as_bytes());
    while let [first, behind @ ..] = rest {
        rest = behind;
        if *first == b'%' {
            bytes.push(u8::from_str_radix(std::str::from_utf8(&behind[..2]).unwrap(), 16).unwrap());
            rest = &behind[2..];
        } else {
            bytes.push(*first);
        }
    }
    String::from_utf8(bytes).unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn any_value_makes_a_harmless_path(a in scalar(), b in scalar()) {
        let made = path(&template("{stream}/a={field:a}/{field:b}"), serde_json::json!({ "a": a, "b": b }).to_string()).unwrap();
        assert_harmless(&made);
        prop_assert_eq!(made.split('/').count(), 3);
    }

    /// What can be read back is different for different values.
    #[test]
    fn values_can_be_read_back_from_their_path(a in scalar(), b in scalar(), c in scalar()) {
        let template = template("{stream}/{field:a}-={field:b}.x/c_={field:c}");
        let made = path(&template, serde_json::json!({ "a": a, "b": b, "c": c }).to_string()).unwrap();
        let (first, rest) = made.strip_prefix("s/").unwrap().split_once("-=").unwrap();
        let (second, third) = rest.split_once(".x/c_=").unwrap();
        prop_assert_eq!([decoded(first), decoded(second), decoded(third)], [a, b, c]);
    }

    #[test]
    fn no_template_and_no_record_panics(text in "\\PC{0,40}|[{}a-z:|/._=]{0,40}", line in any::<Vec<u8>>(), value in any::<String>()) {
        if let Ok(template) = PathTemplate::parse(&text) {
            let _ = path(&template, &line);
            if let Ok(path) = path(&template, holding(&value)) {
                assert_harmless(&path);
            }
        }
    }
}
