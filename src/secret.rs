//! Why: a secret in memory can be handed on but not shown. Never derive a printing or serializing trait here.

use std::fmt;

use base64::{
    Engine,
    engine::general_purpose::{STANDARD, STANDARD_NO_PAD, URL_SAFE_NO_PAD},
};
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

/// A secret in memory: redacted wherever it is printed, wiped when dropped.
pub struct Secret(Zeroizing<Vec<u8>>);

impl Secret {
    /// Takes the bytes over; the caller keeps no copy.
    pub fn new(bytes: Vec<u8>) -> Self {
        Self(Zeroizing::new(bytes))
    }

    /// The bytes that `text` stands for in standard base64, padded or not; `None` where it is not base64.
    pub fn from_base64(text: &str) -> Option<Self> {
        STANDARD.decode(text).or_else(|_| STANDARD_NO_PAD.decode(text)).ok().map(Self::new)
    }

    /// The bytes themselves. Every caller is on the allow-list of `tests/tidy.rs`.
    pub fn expose(&self) -> &[u8] {
        &self.0
    }

    /// The secret as text, or `None` where it is not UTF-8. Every caller is on the allow-list of `tests/tidy.rs`.
    pub fn expose_text(&self) -> Option<&str> {
        std::str::from_utf8(&self.0).ok()
    }

    /// Whether there is nothing in it.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// How many bytes it has.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether both are the same, in a time that depends on their lengths only.
    pub fn same_as(&self, other: &Self) -> bool {
        self.0.ct_eq(&other.0).into()
    }
}

impl From<String> for Secret {
    fn from(text: String) -> Self {
        Self::new(text.into_bytes())
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// Removes the live secrets of one connection from texts that others wrote: error messages of libraries and of destinations.
///
/// Found are the secret itself, and what it becomes URL-encoded, in base64 (both alphabets, at any alignment inside a longer value, as in `Authorization: Basic`),
/// JSON-escaped, and in hex.
#[derive(Default)]
pub struct Redactor {
    /// Spellings to remove, longest first, so that a secret inside another one leaves no rest.
    spellings: Vec<Zeroizing<String>>,
}

impl Redactor {
    /// The shortest base64 or hex spelling that is looked for: shorter ones would match ordinary words.
    const ENCODED_CHARS_MIN: usize = 6;

    /// Knows `secrets`, each in all its spellings.
    pub fn new<'a>(secrets: impl IntoIterator<Item = &'a Secret>) -> Self {
        let mut redactor = Self::default();
        for secret in secrets {
            redactor.learn(secret);
        }
        redactor
    }

    /// Knows `secret` as well.
    pub fn learn(&mut self, secret: &Secret) {
        if let Some(text) = secret.expose_text().filter(|text| !text.is_empty()) {
            self.add(text.to_owned(), 1);
            self.add(percent_encoded(text, false, false), 1);
            self.add(percent_encoded(text, true, false), 1);
            self.add(percent_encoded(text, false, true), 1);
            self.add(json_escaped(text), 1);
        }
        let hex: String = secret.expose().iter().map(|byte| format!("{byte:02x}")).collect();
        self.add(hex.to_ascii_uppercase(), Self::ENCODED_CHARS_MIN);
        self.add(hex, Self::ENCODED_CHARS_MIN);
        for shift in 0..3 {
            let (standard, url) = (base64_inside(&STANDARD_NO_PAD, secret, shift), base64_inside(&URL_SAFE_NO_PAD, secret, shift));
            self.add(standard, Self::ENCODED_CHARS_MIN);
            self.add(url, Self::ENCODED_CHARS_MIN);
        }
        self.spellings.sort_by(|a, b| b.len().cmp(&a.len()).then_with(|| a.cmp(b)));
        self.spellings.dedup();
    }

    fn add(&mut self, spelling: String, chars_min: usize) {
        if spelling.len() >= chars_min {
            self.spellings.push(Zeroizing::new(spelling));
        }
    }

    /// `text` with `***` for every spelling of every known secret.
    pub fn redact(&self, text: &str) -> String {
        self.spellings
            .iter()
            .fold(text.to_owned(), |text, spelling| if text.contains(spelling.as_str()) { text.replace(spelling.as_str(), "***") } else { text })
    }
}

impl fmt::Debug for Redactor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Redactor({} spellings)", self.spellings.len())
    }
}

/// `text` as a URL would carry it: with lower-case hex, or as a form does with `+` for a space, where asked.
fn percent_encoded(text: &str, lower_hex: bool, form: bool) -> String {
    text.bytes().fold(String::new(), |mut encoded, byte| {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => encoded.push(char::from(byte)),
            b' ' if form => encoded.push('+'),
            _ if lower_hex => encoded.push_str(&format!("%{byte:02x}")),
            _ => encoded.push_str(&format!("%{byte:02X}")),
        }
        encoded
    })
}

/// `text` as it stands between the quotes of a JSON text.
fn json_escaped(text: &str) -> String {
    let quoted = serde_json::Value::from(text).to_string();
    quoted[1..quoted.len() - 1].to_owned()
}

/// The characters that `secret` alone decides when it stands `shift` bytes (modulo 3) into a longer value that is then base64-encoded.
fn base64_inside(engine: &impl Engine, secret: &Secret, shift: usize) -> String {
    let padded = Zeroizing::new([&[0; 2][..shift], secret.expose()].concat());
    let encoded = Zeroizing::new(engine.encode(&*padded));
    let from = [0, 2, 3][shift];
    // The last character also carries bits of whatever follows, unless the secret ends on a boundary of three bytes.
    let to = encoded.len() - usize::from(!padded.len().is_multiple_of(3));
    encoded.get(from..to).unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use base64::engine::general_purpose::URL_SAFE;

    use super::*;

    fn secret(text: &str) -> Secret {
        Secret::from(text.to_owned())
    }

    #[test]
    fn debug_shows_nothing() {
        assert_eq!(format!("{:?}", secret("canary")), "***");
        assert!(!format!("{:?}", Redactor::new([&secret("canary")])).contains("canary"));
    }

    #[test]
    fn equality_compares_bytes() {
        assert!(secret("a").same_as(&secret("a")));
        assert!(!secret("a").same_as(&secret("b")));
        assert!(!secret("a").same_as(&secret("aa")));
    }

    #[test]
    fn base64_with_and_without_padding() {
        assert_eq!(Secret::from_base64("YWI=").expect("padded").expose(), b"ab");
        assert_eq!(Secret::from_base64("YWI").expect("bare").expose(), b"ab");
        assert!(Secret::from_base64("Y W").is_none());
    }

    #[test]
    fn every_encoding_of_a_secret_is_removed() {
        let canary = "k3y \"/+?&ü\\end";
        let redactor = Redactor::new([&secret(canary)]);
        let hex: String = canary.bytes().map(|byte| format!("{byte:02x}")).collect();
        let form: String = url::form_urlencoded::byte_serialize(canary.as_bytes()).collect();
        let spellings = [
            canary.to_owned(),
            form,
            percent_encoded(canary, false, false),
            percent_encoded(canary, true, false),
            STANDARD.encode(canary),
            URL_SAFE.encode(canary),
            serde_json::to_string(canary).expect("text"),
            hex.to_ascii_uppercase(),
            hex,
        ];
        for spelling in spellings {
            let shown = redactor.redact(&format!("login failed: {spelling} (try again)"));
            assert!(shown.contains("***") && !shown.contains("end") && shown.len() < 45, "{spelling:?} left {shown:?}");
        }
    }

    #[test]
    fn base64_of_a_longer_value_around_the_secret_is_removed_at_every_alignment() {
        let redactor = Redactor::new([&secret("s3cr3t-canary")]);
        for user in ["", "a", "ab", "abc", "alice"] {
            let basic = STANDARD.encode(format!("{user}:s3cr3t-canary!"));
            let shown = redactor.redact(&basic);
            assert!(shown.contains("***"), "{user:?}: {basic} left {shown}");
        }
    }

    #[test]
    fn a_secret_inside_another_leaves_no_rest() {
        let redactor = Redactor::new([&secret("pass"), &secret("password-canary")]);
        assert_eq!(redactor.redact("got password-canary"), "got ***");
    }
}
