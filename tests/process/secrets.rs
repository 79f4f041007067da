//! Why: finds a secret in whatever form it may have slipped out. Never reports clean without having been seen to find: the tests below plant every form.

use std::{fmt::Write as _, path::Path};

use base64::{
    Engine,
    engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD},
};

/// A secret that must never be seen again once it was sent.
pub struct Canary {
    name: &'static str,
    forms: Vec<(String, Vec<u8>)>,
}

/// Where a secret was seen.
#[derive(Debug, PartialEq, Eq)]
pub struct Sighting {
    pub canary: &'static str,
    pub form: String,
    pub place: String,
}

impl Canary {
    pub fn new(name: &'static str, secret: &[u8]) -> Self {
        assert!(secret.len() >= 16, "short secrets are found by chance");
        let mut forms = vec![("raw".to_owned(), secret.to_vec())];
        forms.extend(base64_forms(secret));
        forms.push(("hex".to_owned(), hex(secret, |out, byte| write!(out, "{byte:02x}"))));
        forms.push(("upper-case hex".to_owned(), hex(secret, |out, byte| write!(out, "{byte:02X}"))));
        // What a derived Debug or a naive serializer makes of bytes.
        forms.push(("list of numbers".to_owned(), numbers(secret, ", ")));
        forms.push(("compact list of numbers".to_owned(), numbers(secret, ",")));
        forms.push(("reversed".to_owned(), secret.iter().rev().copied().collect()));
        let strict = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
        let lenient = |byte: u8| byte.is_ascii_graphic() && !b"\"<>`%#?{}".contains(&byte);
        forms.push(("url-encoded".to_owned(), percent(secret, strict, true)));
        forms.push(("lower-case url-encoded".to_owned(), percent(secret, strict, false)));
        forms.push(("url-encoded as a path".to_owned(), percent(secret, lenient, true)));
        if let Ok(text) = std::str::from_utf8(secret) {
            let json = escaped(text);
            forms.push(("debug-escaped".to_owned(), format!("{text:?}").trim_matches('"').into()));
            forms.push(("json-escaped twice".to_owned(), escaped(&json).into()));
            let ascii: String = json.chars().flat_map(|c| if c.is_ascii() { vec![c] } else { format!("\\u{:04x}", c as u32).chars().collect() }).collect();
            forms.push(("json-escaped in ASCII".to_owned(), ascii.into()));
            forms.push(("json-escaped".to_owned(), json.into()));
        }
        Self { name, forms }
    }
}

/// Looks for all canaries at once.
pub struct Finder {
    canaries: Vec<Canary>,
    /// Whether any form begins with these two bytes: a log of many megabytes is read once.
    begins: Vec<bool>,
}

impl Finder {
    pub fn new(canaries: Vec<Canary>) -> Self {
        let mut begins = vec![false; 1 << 16];
        for (_, form) in canaries.iter().flat_map(|canary| &canary.forms) {
            begins[usize::from(form[0]) << 8 | usize::from(form[1])] = true;
        }
        Self { canaries, begins }
    }

    /// Every form of every canary that is in `haystack`, once each.
    pub fn look(&self, place: &str, haystack: &[u8]) -> Vec<Sighting> {
        let mut sightings = Vec::new();
        for (at, pair) in haystack.windows(2).enumerate() {
            if self.begins[usize::from(pair[0]) << 8 | usize::from(pair[1])] {
                self.look_at(place, &haystack[at..], &mut sightings);
            }
        }
        sightings
    }

    fn look_at(&self, place: &str, haystack: &[u8], sightings: &mut Vec<Sighting>) {
        for canary in &self.canaries {
            for (form, _) in canary.forms.iter().filter(|(_, bytes)| haystack.starts_with(bytes)) {
                let sighting = Sighting { canary: canary.name, form: form.clone(), place: place.to_owned() };
                if !sightings.contains(&sighting) {
                    sightings.push(sighting);
                }
            }
        }
    }

    /// Looks into every file below `folder`, but for files of these names.
    pub fn look_in_files(&self, folder: &Path, but: &[&str]) -> Vec<Sighting> {
        let mut sightings = Vec::new();
        for entry in std::fs::read_dir(folder).expect("the folder is there") {
            let entry = entry.expect("the folder can be listed");
            let (path, name) = (entry.path(), entry.file_name());
            if path.is_dir() {
                sightings.extend(self.look_in_files(&path, but));
            } else if path.is_file() && !but.iter().any(|other| name == *other) {
                sightings.extend(self.look(&path.display().to_string(), &std::fs::read(&path).expect("the file can be read")));
            }
        }
        sightings
    }
}

/// The characters that are the same whatever stands before and behind, for each place of the secret in a group of three bytes.
fn base64_forms(secret: &[u8]) -> Vec<(String, Vec<u8>)> {
    let mut forms = Vec::new();
    for before in 0..3 {
        let mut bytes = vec![0; before];
        bytes.extend_from_slice(secret);
        let from = (before * 8).div_ceil(6);
        let to = bytes.len() * 8 / 6;
        for (alphabet, text) in [("base64", STANDARD_NO_PAD.encode(&bytes)), ("url-safe base64", URL_SAFE_NO_PAD.encode(&bytes))] {
            forms.push((format!("{alphabet} behind {before} bytes"), text.as_bytes()[from..to].to_vec()));
        }
    }
    forms
}

fn hex(secret: &[u8], digits: impl Fn(&mut String, &u8) -> std::fmt::Result) -> Vec<u8> {
    let mut out = String::new();
    for byte in secret {
        digits(&mut out, byte).expect("a string takes all");
    }
    out.into()
}

fn numbers(secret: &[u8], between: &str) -> Vec<u8> {
    secret.iter().map(u8::to_string).collect::<Vec<_>>().join(between).into()
}

fn percent(secret: &[u8], plain: impl Fn(u8) -> bool, upper: bool) -> Vec<u8> {
    let code = |byte: u8| if upper { format!("%{byte:02X}") } else { format!("%{byte:02x}") };
    secret.iter().flat_map(|byte| if plain(*byte) { vec![*byte] } else { code(*byte).into() }).collect()
}

fn escaped(text: &str) -> String {
    let quoted = serde_json::to_string(text).expect("text is JSON");
    quoted[1..quoted.len() - 1].to_owned()
}

#[cfg(test)]
mod tests {
    use base64::engine::general_purpose::{STANDARD, URL_SAFE};

    use super::*;

    const SECRET: &str = "c4n\"ary/1+é>>??~\\end";

    fn finder() -> Finder {
        Finder::new(vec![Canary::new("c", SECRET.as_bytes()), Canary::new("other", b"another secret of 30 characters")])
    }

    fn forms_seen(haystack: &[u8]) -> Vec<String> {
        finder().look("here", haystack).into_iter().map(|sighting| sighting.form).collect()
    }

    #[track_caller]
    fn assert_seen(form: &str, haystack: impl AsRef<[u8]>) {
        let seen = forms_seen(haystack.as_ref());
        assert!(seen.iter().any(|found| found == form), "{form} was not seen, only {seen:?}");
    }

    #[test]
    fn nothing_is_seen_where_nothing_is() {
        assert_eq!(forms_seen(b""), Vec::<String>::new());
        assert_eq!(forms_seen("c4n\"ary/1+é>>??~\\en".as_bytes()), Vec::<String>::new(), "all but the last character");
        assert_eq!(forms_seen(&[b'c'; 10_000]), Vec::<String>::new());
    }

    /// Each form is made by other code than the finder's own.
    #[test]
    fn every_form_is_seen() {
        assert_seen("raw", format!("login {SECRET} refused"));
        assert_seen("reversed", SECRET.bytes().rev().collect::<Vec<_>>());
        assert_seen("json-escaped", serde_json::json!({ "message": format!("it said {SECRET}.") }).to_string());
        let inner = serde_json::json!({ "message": SECRET }).to_string();
        assert_seen("json-escaped twice", serde_json::json!({ "body": inner }).to_string());
        assert_seen("json-escaped in ASCII", br#"{"m":"c4n\"ary/1+\u00e9>>??~\\end"}"#);
        assert_seen("debug-escaped", format!("Body {{ text: {:?} }}", format!("x{SECRET}x")));
        assert_seen("list of numbers", format!("{:?}", SECRET.as_bytes()));
        assert_seen("compact list of numbers", serde_json::to_string(SECRET.as_bytes()).unwrap());
        assert_seen("url-encoded", "https://h/?q=c4n%22ary%2F1%2B%C3%A9%3E%3E%3F%3F~%5Cend&x");
        assert_seen("lower-case url-encoded", "https://h/?q=c4n%22ary%2f1%2b%c3%a9%3e%3e%3f%3f~%5cend&x");
        assert_seen("url-encoded as a path", "/c4n%22ary/1+%C3%A9%3E%3E%3F%3F~\\end");
        assert_seen("hex", "00 6334 6334 63346e226172792f312bc3a93e3e3f3f7e5c656e64");
        assert_seen("upper-case hex", "63346E226172792F312BC3A93E3E3F3F7E5C656E64");
    }

    #[test]
    fn base64_is_seen_wherever_the_secret_stands() {
        for before in 0..6 {
            for behind in 0..4 {
                let text = format!("{}{SECRET}{}", "u".repeat(before), "v".repeat(behind));
                assert_seen(&format!("base64 behind {} bytes", before % 3), STANDARD.encode(&text));
                assert_seen(&format!("url-safe base64 behind {} bytes", before % 3), URL_SAFE.encode(&text));
            }
        }
    }

    #[test]
    fn files_are_looked_into_at_any_depth() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(folder.path().join("a/b")).unwrap();
        std::fs::write(folder.path().join("a/b/db"), [b"\0\0".as_slice(), SECRET.as_bytes()].concat()).unwrap();
        std::fs::write(folder.path().join("key-ring"), SECRET).unwrap();
        let found = finder().look_in_files(folder.path(), &["key-ring"]);
        assert!(!found.is_empty() && found.iter().all(|sighting| sighting.place.ends_with("a/b/db")), "{found:?}");
    }
}
