//! Why: records that arrive as text are checked in one pass and then never parsed again. Never builds a tree, and never lets a text through that another JSON parser refuses.

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
    while start < payload.len() {
        check_count(lines.len() + 1)?;
        start = match all_utf8.then(|| good_line(&payload, start)).flatten() {
            Some((from, to, next)) => {
                lines.good(from, to);
                next
            }
            None => any_line(&payload, start, all_utf8, &mut lines),
        };
    }
    Ok(lines.over(payload))
}

/// Of the line at `start`, if it is a record as it should be: where the record begins and ends, and the next line. An object ends its line, so nobody has to look for the line's end first.
fn good_line(payload: &[u8], start: usize) -> Option<(usize, usize, usize)> {
    let line = Scanner::<true> { text: payload };
    let from = line.blanks(start);
    let to = line.object(from).ok()?;
    if to - from > RECORD_BYTES_MAX {
        return None;
    }
    let end = line.blanks(to);
    matches!(payload.get(end), Some(b'\n') | None).then_some((from, to, end + 1))
}

/// Takes the line at `start` whatever it is, and says where the next begins.
fn any_line(payload: &Bytes, start: usize, known_utf8: bool, lines: &mut Lines) -> usize {
    let end = memchr::memchr(b'\n', &payload[start..]).map_or(payload.len(), |len| start + len);
    let (from, to) = trimmed(payload, start, end);
    match check_line(&payload[from..to], known_utf8) {
        Ok(()) => lines.good(from, to),
        Err(fault) => lines.bad(fault, payload.slice(start..end)),
    }
    end + 1
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

/// What is wrong with a JSON text, and where. Small, so that it costs the good texts nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{what} at byte {at}")]
pub(super) struct Flaw {
    what: What,
    at: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
enum What {
    #[error("the line is empty")]
    Empty,
    #[error("\"{{\" expected")]
    NoObject,
    #[error("something follows the value")]
    Trailing,
    #[error("the text ends too early")]
    End,
    #[error("a value expected")]
    NoValue,
    #[error("it nests too deep, more than 64 levels")]
    Depth,
    #[error("a key in quotes expected")]
    NoKey,
    #[error("\":\" expected")]
    NoColon,
    #[error("\",\" or \"}}\" expected")]
    InObject,
    #[error("\",\" or \"]\" expected")]
    InArray,
    #[error("a control character in a string")]
    Control,
    #[error("a string without an end")]
    OpenString,
    #[error("an unknown escape")]
    Escape,
    #[error("\"\\u\" needs four hexadecimal digits")]
    Hexadecimal,
    #[error("half a surrogate pair")]
    Surrogate,
    #[error("a digit expected")]
    NoDigit,
}

/// That `text`, which must be UTF-8, is exactly one JSON object, nested at most [`RECORD_DEPTH_MAX`] deep.
pub(super) fn check_object(text: &[u8]) -> Result<(), Flaw> {
    if text.is_empty() {
        return flaw(What::Empty, 0);
    }
    let scanner = Scanner::<false> { text };
    scanner.nothing_after(scanner.object(0)?)
}

/// That `text`, which must be UTF-8, is exactly one JSON value that may stand inside a record.
pub(super) fn check_embedded(text: &[u8]) -> Result<(), Flaw> {
    let scanner = Scanner::<false> { text };
    scanner.nothing_after(scanner.value(0, RECORD_DEPTH_MAX - 1)?)
}

#[cold]
fn flaw<T>(what: What, at: usize) -> Result<T, Flaw> {
    Err(Flaw { what, at: u32::try_from(at).unwrap_or(u32::MAX) })
}

/// A text that is walked through; `ONE_LINE`: a newline is no white space in it. Every step is given where it begins and says where it ended, which stays in a register. The grammar is RFC
/// 8259's, without half surrogates: no parser could give them back.
#[derive(Clone, Copy)]
struct Scanner<'a, const ONE_LINE: bool> {
    text: &'a [u8],
}

impl<const ONE_LINE: bool> Scanner<'_, ONE_LINE> {
    fn nothing_after(self, at: usize) -> Result<(), Flaw> {
        let end = self.blanks(at);
        if end == self.text.len() { Ok(()) } else { flaw(What::Trailing, end) }
    }

    fn object(self, at: usize) -> Result<usize, Flaw> {
        if self.text.get(at) != Some(&b'{') {
            return flaw(What::NoObject, at);
        }
        self.value(at, RECORD_DEPTH_MAX)
    }

    fn value(self, mut at: usize, depth_max: usize) -> Result<usize, Flaw> {
        let mut depth = 0;
        // A bit per open container, the innermost lowest: 1 is an object. The depth limit makes 64 bits enough.
        let mut objects = 0_u64;
        const _: () = assert!(RECORD_DEPTH_MAX <= u64::BITS as usize);
        loop {
            let byte;
            (at, byte) = self.token(at)?;
            match byte {
                b'"' => at = self.string(at + 1)?,
                b'-' | b'0'..=b'9' => at = self.number(at)?,
                b'{' | b'[' => {
                    depth += 1;
                    if depth > depth_max {
                        return flaw(What::Depth, at);
                    }
                    objects = objects << 1 | u64::from(byte == b'{');
                    let next;
                    (at, next) = self.token(at + 1)?;
                    // `{` and `}`, like `[` and `]`, are two apart.
                    if next != byte + 2 {
                        if byte == b'{' {
                            at = self.key(at)?;
                        }
                        continue;
                    }
                }
                b't' => at = self.literal(at, b"true")?,
                b'f' => at = self.literal(at, b"false")?,
                b'n' => at = self.literal(at, b"null")?,
                _ => return flaw(What::NoValue, at),
            }
            loop {
                if depth == 0 {
                    return Ok(at);
                }
                let in_object = objects & 1 == 1;
                let byte;
                (at, byte) = self.token(at)?;
                match byte {
                    b',' => {
                        at += 1;
                        if in_object {
                            at = self.key(at)?;
                        }
                        break;
                    }
                    b'}' if in_object => {}
                    b']' if !in_object => {}
                    _ => return flaw(if in_object { What::InObject } else { What::InArray }, at),
                }
                at += 1;
                depth -= 1;
                objects >>= 1;
            }
        }
    }

    #[inline(always)]
    fn blanks(self, mut at: usize) -> usize {
        while let Some(&byte) = self.text.get(at)
            && (matches!(byte, b' ' | b'\t' | b'\r') || !ONE_LINE && byte == b'\n')
        {
            at += 1;
        }
        at
    }

    /// The next byte that is not white space, and where it is.
    #[inline(always)]
    fn token(self, at: usize) -> Result<(usize, u8), Flaw> {
        let at = self.blanks(at);
        match self.text.get(at) {
            Some(&byte) => Ok((at, byte)),
            None => flaw(What::End, at),
        }
    }

    /// A key and its colon. Records tend to have the same keys: byte by byte, the processor foresees where each ends.
    #[inline(always)]
    fn key(self, at: usize) -> Result<usize, Flaw> {
        let (at, byte) = self.token(at)?;
        if byte != b'"' {
            return flaw(What::NoKey, at);
        }
        let mut end = at + 1;
        while end - at <= SHORT_STRING_BYTES
            && let Some(&byte) = self.text.get(end)
            && PLAIN[usize::from(byte)]
        {
            end += 1;
        }
        let end = if self.text.get(end) == Some(&b'"') { end + 1 } else { self.string(end)? };
        let (end, byte) = self.token(end)?;
        if byte != b':' {
            return flaw(What::NoColon, end);
        }
        Ok(end + 1)
    }

    fn literal(self, at: usize, word: &[u8]) -> Result<usize, Flaw> {
        if !self.text[at..].starts_with(word) {
            return flaw(What::NoValue, at);
        }
        Ok(at + word.len())
    }

    /// A string from behind its first quote, or from within.
    fn string(self, mut at: usize) -> Result<usize, Flaw> {
        loop {
            at = self.plain(at);
            match self.text.get(at) {
                Some(b'"') => return Ok(at + 1),
                Some(b'\\') => at = self.escape(at)?,
                Some(0..0x20) => return flaw(What::Control, at),
                Some(_) => at += 1,
                None => return flaw(What::OpenString, at),
            }
        }
    }

    /// Skips bytes of a string that mean only themselves, if not always to their end: most strings are short, and a word at a time finds their end fastest.
    #[inline(always)]
    fn plain(self, mut at: usize) -> usize {
        for _ in 0..SHORT_STRING_BYTES / 8 {
            let Some(word) = self.text.get(at..).and_then(|rest| rest.first_chunk::<8>()) else { return at };
            let hits = special_bytes(u64::from_le_bytes(*word));
            if hits != 0 {
                return at + hits.trailing_zeros() as usize / 8;
            }
            at += 8;
        }
        self.long_plain(at)
    }

    /// The same for a string that turned out long: two passes, each as wide as the processor's registers.
    #[inline(never)]
    fn long_plain(self, at: usize) -> usize {
        let rest = &self.text[at..];
        let plain = &rest[..memchr::memchr2(b'"', b'\\', rest).unwrap_or(rest.len())];
        // Without an early end, so that the compiler makes vector instructions of it.
        let control = plain.iter().fold(false, |found, byte| found | (*byte < 0x20));
        at + if control { plain.iter().take_while(|byte| **byte >= 0x20).count() } else { plain.len() }
    }

    fn escape(self, at: usize) -> Result<usize, Flaw> {
        match self.text.get(at + 1) {
            Some(b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't') => Ok(at + 2),
            Some(b'u') => match self.code_unit(at) {
                Some(0xD800..0xDC00) => match self.code_unit(at + 6) {
                    Some(0xDC00..0xE000) => Ok(at + 12),
                    _ => flaw(What::Surrogate, at),
                },
                Some(0xDC00..0xE000) => flaw(What::Surrogate, at),
                Some(_) => Ok(at + 6),
                None => flaw(What::Hexadecimal, at),
            },
            _ => flaw(What::Escape, at),
        }
    }

    /// The code unit of the `\uXXXX` at `at`.
    fn code_unit(self, at: usize) -> Option<u16> {
        let escape = self.text.get(at..at + 6).filter(|escape| escape.starts_with(b"\\u"))?;
        escape[2..].iter().try_fold(0, |unit: u16, byte| Some(unit << 4 | char::from(*byte).to_digit(16)? as u16))
    }

    #[inline(always)]
    fn number(self, mut at: usize) -> Result<usize, Flaw> {
        if self.text[at] == b'-' {
            at += 1;
        }
        at = match self.text.get(at) {
            Some(b'0') => at + 1,
            _ => self.digits(at)?,
        };
        if self.text.get(at) == Some(&b'.') {
            at = self.digits(at + 1)?;
        }
        if let Some(b'e' | b'E') = self.text.get(at) {
            at += 1;
            if let Some(b'+' | b'-') = self.text.get(at) {
                at += 1;
            }
            at = self.digits(at)?;
        }
        Ok(at)
    }

    #[inline(always)]
    fn digits(self, from: usize) -> Result<usize, Flaw> {
        let mut at = from;
        while let Some(b'0'..=b'9') = self.text.get(at) {
            at += 1;
        }
        if at == from { flaw(What::NoDigit, at) } else { Ok(at) }
    }
}

/// How far a string is searched in small steps before wider ones pay.
const SHORT_STRING_BYTES: usize = 32;

/// The bytes that mean only themselves in a string.
const PLAIN: [bool; 256] = {
    let mut plain = [true; 256];
    let mut byte = 0;
    while byte < plain.len() {
        plain[byte] = byte >= 0x20 && byte != b'"' as usize && byte != b'\\' as usize;
        byte += 1;
    }
    plain
};

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

    fn flaw_of(text: &str) -> Option<What> {
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
        assert_eq!(flaw_of(r#"{"a":"\ud800"}"#), Some(What::Surrogate));
        assert_eq!(flaw_of(r#"{"a":"\udc00\ud800"}"#), Some(What::Surrogate));
        assert_eq!(flaw_of(r#"{"a":"\ud800\u0041"}"#), Some(What::Surrogate));
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
                    assert_eq!((flaw.what, flaw.at as usize), (What::Control, 6 + at));
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
        assert_eq!(flaw_of(&nested(65)), Some(What::Depth));
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
                let surrogate = ours.is_err_and(|flaw| flaw.what == What::Surrogate);
                prop_assert!(ours.is_ok() == theirs || surrogate, "{str}: {ours:?} {theirs}");
            }
        }

        #[test]
        fn a_line_is_judged_alike_wherever_it_stands(
            texts in prop::collection::vec((json_text(), "[ \t\r]{0,2}", "[ \t\r]{0,2}", "\n|\n\n|"), 1..6),
            cut in any::<prop::sample::Index>(),
            byte in prop_oneof![any::<u8>(), Just(b'\n'), Just(b'"'), Just(b'{')],
            edit in 0..3,
        ) {
            let mut payload = texts.into_iter().flat_map(|(text, before, after, end)| [before, text, after, end]).collect::<String>().into_bytes();
            let place = cut.index(payload.len());
            match edit {
                0 => {}
                1 => payload.truncate(place),
                _ => payload[place] = byte,
            }
            let payload = Bytes::from(payload);
            let (mut one_by_one, mut start) = (Lines::default(), 0);
            while start < payload.len() {
                start = any_line(&payload, start, false, &mut one_by_one);
            }
            prop_assert_eq!(format!("{:?}", decode(payload.clone()).unwrap()), format!("{:?}", one_by_one.over(payload)));
        }
    }
}
