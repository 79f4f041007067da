//! Why: records that arrive as text are checked in one pass and then never parsed again. Never builds a tree, and never lets a text through that another JSON parser refuses.

use std::fmt;

use bytes::Bytes;

use super::{
    DecodeError, RecordFault,
    piece::{Lines, check_count, check_size},
};
use crate::limits::{BATCH_BYTES_MAX, RECORD_BYTES_MAX, RECORD_DEPTH_MAX};

/// Splits and checks a payload: a record per line, `\n` or `\r\n`, the last newline may be missing.
pub(super) fn decode(payload: Bytes) -> Result<Lines, DecodeError> {
    check_size(payload.len(), BATCH_BYTES_MAX)?;
    // Checking the whole payload at once is several times faster than line by line; only if that fails do lines need a check of their own.
    let all_utf8 = simdutf8::basic::from_utf8(&payload).is_ok();
    let mut lines = Lines::default();
    let mut start = 0;
    for end in memchr::memchr_iter(b'\n', &payload).chain((payload.last() != Some(&b'\n')).then_some(payload.len())) {
        if start == payload.len() {
            break;
        }
        check_count(lines.len() + 1)?;
        let (from, to) = trimmed(&payload, start, end);
        match check_line(&payload[from..to], all_utf8) {
            Ok(()) => lines.good(from, to),
            Err(fault) => lines.bad(fault, payload.slice(start..end)),
        }
        start = end + 1;
    }
    Ok(lines.over(payload))
}

/// Where the text between `start` and `end` begins and ends without the white space around it: what is hashed and written is the object alone.
fn trimmed(payload: &[u8], mut start: usize, mut end: usize) -> (usize, usize) {
    let blank = |byte: u8| matches!(byte, b' ' | b'\t' | b'\r');
    while start < end && blank(payload[start]) {
        start += 1;
    }
    while start < end && blank(payload[end - 1]) {
        end -= 1;
    }
    (start, end)
}

fn check_line(line: &[u8], known_utf8: bool) -> Result<(), RecordFault> {
    check_record_size(line.len())?;
    if !known_utf8 && let Err(error) = std::str::from_utf8(line) {
        return Err(RecordFault::unparsable(format!("the record is not UTF-8 from byte {}; send JSON text in UTF-8", error.valid_up_to())));
    }
    check_object(line).map_err(|flaw| RecordFault::unparsable(format!("the record is not a JSON object: {flaw}")))
}

/// That a record's JSON text is not larger than the product takes.
pub(super) fn check_record_size(len: usize) -> Result<(), RecordFault> {
    if len > RECORD_BYTES_MAX {
        return Err(RecordFault::too_large(format!("the record has {len} bytes as JSON text; at most {RECORD_BYTES_MAX} are taken")));
    }
    Ok(())
}

/// What is wrong with a JSON text, and where.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Flaw {
    what: &'static str,
    at: usize,
}

impl fmt::Display for Flaw {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at byte {}", self.what, self.at)
    }
}

/// That `text`, which must be UTF-8, is exactly one JSON object, nested at most [`RECORD_DEPTH_MAX`] deep.
pub(super) fn check_object(text: &[u8]) -> Result<(), Flaw> {
    let mut scanner = Scanner { text, at: 0 };
    if text.first() != Some(&b'{') {
        return Err(scanner.flaw(if text.is_empty() { "the line is empty" } else { "\"{\" expected" }));
    }
    scanner.whole_value(RECORD_DEPTH_MAX)
}

/// That `text`, which must be UTF-8, is exactly one JSON value that may stand inside a record.
pub(super) fn check_embedded(text: &[u8]) -> Result<(), Flaw> {
    Scanner { text, at: 0 }.whole_value(RECORD_DEPTH_MAX - 1)
}

/// A position in a text. The grammar is RFC 8259's, without half surrogates: no parser could give them back.
struct Scanner<'a> {
    text: &'a [u8],
    at: usize,
}

impl Scanner<'_> {
    fn flaw(&self, what: &'static str) -> Flaw {
        Flaw { what, at: self.at }
    }

    fn whole_value(&mut self, depth_max: usize) -> Result<(), Flaw> {
        self.value(depth_max)?;
        self.skip_blanks();
        if self.at == self.text.len() { Ok(()) } else { Err(self.flaw("something follows the value")) }
    }

    fn value(&mut self, depth_max: usize) -> Result<(), Flaw> {
        let mut depth = 0;
        // A bit per open container, the innermost lowest: 1 is an object. The depth limit makes 64 bits enough.
        let mut objects = 0_u64;
        const _: () = assert!(RECORD_DEPTH_MAX <= u64::BITS as usize);
        loop {
            match self.token()? {
                b'"' => self.string()?,
                b'-' | b'0'..=b'9' => self.number()?,
                open @ (b'{' | b'[') => {
                    depth += 1;
                    if depth > depth_max {
                        return Err(self.flaw("it nests too deep, more than 64 levels"));
                    }
                    self.at += 1;
                    objects = objects << 1 | u64::from(open == b'{');
                    // `{` and `}`, like `[` and `]`, are two apart.
                    if self.token()? != open + 2 {
                        if open == b'{' {
                            self.key()?;
                        }
                        continue;
                    }
                }
                b't' => self.literal(b"true")?,
                b'f' => self.literal(b"false")?,
                b'n' => self.literal(b"null")?,
                _ => return Err(self.flaw("a value expected")),
            }
            loop {
                if depth == 0 {
                    return Ok(());
                }
                let in_object = objects & 1 == 1;
                match self.token()? {
                    b',' => {
                        self.at += 1;
                        if in_object {
                            self.key()?;
                        }
                        break;
                    }
                    b'}' if in_object => {}
                    b']' if !in_object => {}
                    _ => return Err(self.flaw(if in_object { "\",\" or \"}\" expected" } else { "\",\" or \"]\" expected" })),
                }
                self.at += 1;
                depth -= 1;
                objects >>= 1;
            }
        }
    }

    #[inline]
    fn skip_blanks(&mut self) {
        while let Some(b' ' | b'\t' | b'\r' | b'\n') = self.text.get(self.at) {
            self.at += 1;
        }
    }

    /// The next byte that is not white space, not consumed.
    #[inline]
    fn token(&mut self) -> Result<u8, Flaw> {
        self.skip_blanks();
        self.text.get(self.at).copied().ok_or(self.flaw("the text ends too early"))
    }

    #[inline]
    fn key(&mut self) -> Result<(), Flaw> {
        if self.token()? != b'"' {
            return Err(self.flaw("a key in quotes expected"));
        }
        self.string()?;
        if self.token()? != b':' {
            return Err(self.flaw("\":\" expected"));
        }
        self.at += 1;
        Ok(())
    }

    fn literal(&mut self, word: &[u8]) -> Result<(), Flaw> {
        if !self.text[self.at..].starts_with(word) {
            return Err(self.flaw("a value expected"));
        }
        self.at += word.len();
        Ok(())
    }

    #[inline]
    fn string(&mut self) -> Result<(), Flaw> {
        self.at += 1;
        loop {
            self.skip_plain();
            match self.text.get(self.at) {
                Some(b'"') => {
                    self.at += 1;
                    return Ok(());
                }
                Some(b'\\') => self.escape()?,
                Some(0..0x20) => return Err(self.flaw("a control character in a string")),
                Some(_) => self.at += 1,
                None => return Err(self.flaw("a string without an end")),
            }
        }
    }

    /// Skips bytes of a string that mean only themselves, if not always to their end: most strings are short, and a word at a time finds their end fastest.
    #[inline]
    fn skip_plain(&mut self) {
        for _ in 0..SHORT_STRING_BYTES / 8 {
            let Some(word) = self.text.get(self.at..).and_then(|rest| rest.first_chunk::<8>()) else { return };
            let hits = special_bytes(u64::from_le_bytes(*word));
            if hits != 0 {
                self.at += hits.trailing_zeros() as usize / 8;
                return;
            }
            self.at += 8;
        }
        self.skip_long_plain();
    }

    /// The same for a string that turned out long: two passes, each as wide as the processor's registers.
    #[inline(never)]
    fn skip_long_plain(&mut self) {
        let rest = &self.text[self.at..];
        let plain = &rest[..memchr::memchr2(b'"', b'\\', rest).unwrap_or(rest.len())];
        // Without an early end, so that the compiler makes vector instructions of it.
        let control = plain.iter().fold(false, |found, byte| found | (*byte < 0x20));
        self.at += if control { plain.iter().take_while(|byte| **byte >= 0x20).count() } else { plain.len() };
    }

    fn escape(&mut self) -> Result<(), Flaw> {
        match self.text.get(self.at + 1) {
            Some(b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't') => {
                self.at += 2;
                Ok(())
            }
            Some(b'u') => match self.code_unit(self.at)? {
                0xD800..0xDC00 => match self.code_unit(self.at + 6) {
                    Ok(0xDC00..0xE000) => {
                        self.at += 12;
                        Ok(())
                    }
                    _ => Err(self.flaw("half a surrogate pair")),
                },
                0xDC00..0xE000 => Err(self.flaw("half a surrogate pair")),
                _ => {
                    self.at += 6;
                    Ok(())
                }
            },
            _ => Err(self.flaw("an unknown escape")),
        }
    }

    /// The code unit of the `\uXXXX` at `at`.
    fn code_unit(&self, at: usize) -> Result<u16, Flaw> {
        let flaw = self.flaw("\"\\u\" needs four hexadecimal digits");
        let escape = self.text.get(at..at + 6).filter(|escape| escape.starts_with(b"\\u")).ok_or(flaw)?;
        escape[2..].iter().try_fold(0, |unit: u16, byte| Some(unit << 4 | char::from(*byte).to_digit(16)? as u16)).ok_or(flaw)
    }

    #[inline]
    fn number(&mut self) -> Result<(), Flaw> {
        if self.text[self.at] == b'-' {
            self.at += 1;
        }
        match self.text.get(self.at) {
            Some(b'0') => self.at += 1,
            _ => self.digits()?,
        }
        if self.text.get(self.at) == Some(&b'.') {
            self.at += 1;
            self.digits()?;
        }
        if let Some(b'e' | b'E') = self.text.get(self.at) {
            self.at += 1;
            if let Some(b'+' | b'-') = self.text.get(self.at) {
                self.at += 1;
            }
            self.digits()?;
        }
        Ok(())
    }

    #[inline]
    fn digits(&mut self) -> Result<(), Flaw> {
        let from = self.at;
        while let Some(b'0'..=b'9') = self.text.get(self.at) {
            self.at += 1;
        }
        if self.at == from { Err(self.flaw("a digit expected")) } else { Ok(()) }
    }
}

/// How far a string is searched a word at a time before wider steps pay.
const SHORT_STRING_BYTES: usize = 32;

/// Marks the first of eight bytes that ends a plain stretch of a string (quote, backslash, control character) in its highest bit; later marks may be wrong.
#[inline]
fn special_bytes(word: u64) -> u64 {
    const ONES: u64 = 0x0101_0101_0101_0101;
    const HIGHS: u64 = 0x8080_8080_8080_8080;
    let below = |word: u64, bound: u64| word.wrapping_sub(ONES * bound) & !word & HIGHS;
    below(word ^ (ONES * b'"' as u64), 1) | below(word ^ (ONES * b'\\' as u64), 1) | below(word, 0x20)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde::de::IgnoredAny;

    use super::*;

    fn flaw_of(text: &str) -> Option<&'static str> {
        check_object(text.as_bytes()).err().map(|flaw| flaw.what)
    }

    #[test]
    fn takes_what_json_allows() {
        for text in [
            "{}",
            "{ }",
            r#"{"a":1}"#,
            "{\"a\" :\t[ ] , \"b\":[1 ,-0.5e+7,{}]}",
            r#"{"a":"\"\\\/\b\f\n\r\t\u0041\ud83d\ude00"}"#,
            r#"{"":null,"":true,"x":false}"#,
            r#"{"big":123456789012345678901234567890e999}"#,
            "{\"a\":\"ü€😀 and some more than eight bytes\"}",
        ] {
            assert_eq!(check_object(text.as_bytes()), Ok(()), "{text}");
        }
    }

    #[test]
    fn refuses_what_json_forbids() {
        for text in [
            "",
            " {}",
            "[]",
            "1",
            "null",
            "{",
            "{\"a\"",
            "{\"a\":}",
            "{\"a\":1,}",
            "{a:1}",
            "{\"a\":01}",
            "{\"a\":1.}",
            "{\"a\":.5}",
            "{\"a\":+1}",
            "{\"a\":1e}",
            "{\"a\":-}",
            "{\"a\":NaN}",
            "{\"a\":tru}",
            "{\"a\":\"\u{1}\"}",
            "{\"a\":\"\t\"}",
            r#"{"a":"\x"}"#,
            r#"{"a":"\u12g4"}"#,
            r#"{"a":"\u123"#,
            "{\"a\":\"",
            "{} {}",
            "{}x",
            "{\"a\":[1}",
            "{\"a\":[1]",
            "{\"a\":{]}",
            "{\"a\":[,]}",
            "{,}",
            r#"{"a" 1}"#,
        ] {
            assert!(check_object(text.as_bytes()).is_err(), "{text}");
        }
        assert_eq!(flaw_of(r#"{"a":"\ud800"}"#), Some("half a surrogate pair"));
        assert_eq!(flaw_of(r#"{"a":"\udc00\ud800"}"#), Some("half a surrogate pair"));
        assert_eq!(flaw_of(r#"{"a":"\ud800\u0041"}"#), Some("half a surrogate pair"));
    }

    #[test]
    fn finds_what_ends_a_string_wherever_it_stands() {
        for len in 0..200 {
            for at in 0..len {
                let mut text = vec![b'x'; len];
                let with = |byte: u8, text: &mut Vec<u8>| {
                    text[at] = byte;
                    [b"{\"k\":\"", text.as_slice(), b"\"}"].concat()
                };
                for control in [0, b'\n', 0x1f] {
                    let flaw = check_object(&with(control, &mut text)).unwrap_err();
                    assert_eq!((flaw.what, flaw.at), ("a control character in a string", 6 + at));
                }
                assert!(check_object(&with(b'"', &mut text)).is_err(), "{at} of {len}: what follows the string is no member");
                assert!(check_object(&with(b'\\', &mut text)).is_err(), "{at} of {len}: no such escape");
                assert_eq!(check_object(&with(0x7f, &mut text)), Ok(()));
            }
        }
    }

    #[test]
    fn nests_sixty_four_levels_and_no_more() {
        let nested = |levels: usize| format!("{{\"a\":{}{}}}", "[".repeat(levels - 1), "]".repeat(levels - 1));
        assert_eq!(flaw_of(&nested(64)), None);
        assert_eq!(flaw_of(&nested(65)), Some("it nests too deep, more than 64 levels"));
        let objects = |levels: usize| format!("{}1{}", "{\"a\":".repeat(levels), "}".repeat(levels));
        assert_eq!(flaw_of(&objects(64)), None);
        assert!(flaw_of(&objects(65)).is_some());
        assert!(flaw_of(&objects(1_000_000)).is_some());
    }

    fn json_text() -> impl Strategy<Value = String> {
        let leaf = prop_oneof![
            Just("null".to_owned()),
            any::<bool>().prop_map(|b| b.to_string()),
            any::<i64>().prop_map(|n| n.to_string()),
            any::<f64>().prop_filter("finite", |x| x.is_finite()).prop_map(|x| serde_json::to_string(&x).unwrap()),
            any::<String>().prop_map(|s| serde_json::to_string(&s).unwrap()),
        ];
        leaf.prop_recursive(5, 64, 6, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..6).prop_map(|items| format!("[{}]", items.join(" , "))),
                prop::collection::vec((any::<String>(), inner), 0..6).prop_map(|fields| {
                    let fields: Vec<_> = fields.into_iter().map(|(k, v)| format!("{}: {v}", serde_json::to_string(&k).unwrap())).collect();
                    format!("{{{}}}", fields.join(","))
                }),
            ]
        })
        .prop_map(|value| format!("{{\"v\":{value}}}"))
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2_000))]

        #[test]
        fn agrees_with_serde_json(text in json_text(), cut in any::<prop::sample::Index>(), byte in any::<u8>(), edit in 0..4) {
            let mut text = text.into_bytes();
            let place = cut.index(text.len());
            match edit {
                0 => {}
                1 => text.truncate(place),
                2 => text[place] = byte,
                _ => { text.remove(place); }
            }
            if let Ok(str) = std::str::from_utf8(&text) {
                let theirs = text.first() == Some(&b'{') && serde_json::from_str::<IgnoredAny>(str).is_ok();
                let ours = check_object(&text);
                let surrogate = ours.is_err_and(|flaw| flaw.what.contains("surrogate"));
                prop_assert!(ours.is_ok() == theirs || surrogate, "{str}: {ours:?} {theirs}");
            }
        }
    }
}
