//! Why: a name is parsed once, at the edge, and carried as a type from there. Never let an unchecked `&str` name cross a room.

use std::{fmt, sync::Arc};

use serde::{Deserialize, Serialize};

use crate::limits;

/// Why a text is not a name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not a valid {what}: {rule}")]
pub struct NameError {
    /// What was given, shortened to 200 characters.
    pub text: String,
    /// What it should have been: "name", "schema name", "stream name", …
    pub what: &'static str,
    /// The rule it breaks, in words.
    pub rule: String,
}

impl NameError {
    fn new(what: &'static str, text: &str, rule: impl Into<String>) -> Self {
        Self { text: text.chars().take(limits::NAME_CHARS_MAX).collect(), what, rule: rule.into() }
    }
}

/// One part of a qualified name: 1–200 characters; ASCII letters, digits and `_` first, then also space and `# { } [ ] ( ) : -`. Case matters.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Name(Arc<str>);

impl Name {
    /// Checks one part of a name.
    pub fn parse(text: &str) -> Result<Self, NameError> {
        Self::checked("name", text)
    }

    /// Checks a schema's name, which must not be a reserved word (KINETICA, PUBLIC, ROOT, SYSTEM in any case).
    pub fn parse_schema(text: &str) -> Result<Self, NameError> {
        const RESERVED: [&str; 4] = ["KINETICA", "PUBLIC", "ROOT", "SYSTEM"];
        let name = Self::checked("schema name", text)?;
        if RESERVED.iter().any(|word| word.eq_ignore_ascii_case(text)) {
            return Err(NameError::new("schema name", text, "KINETICA, PUBLIC, ROOT and SYSTEM are reserved, in any case"));
        }
        Ok(name)
    }

    fn checked(what: &'static str, text: &str) -> Result<Self, NameError> {
        let mut chars = text.chars();
        let Some(first) = chars.next() else {
            return Err(NameError::new(what, text, "it must not be empty"));
        };
        if !(first.is_ascii_alphanumeric() || first == '_') {
            return Err(NameError::new(what, text, format!("it must begin with a letter, a digit or \"_\", not {first:?}")));
        }
        if let Some(bad) = chars.find(|c| !(c.is_ascii_alphanumeric() || " _#{}[]():-".contains(*c))) {
            return Err(NameError::new(what, text, format!("{bad:?} is not allowed; letters, digits, space and _ # {{ }} [ ] ( ) : - are")));
        }
        if text.chars().count() > limits::NAME_CHARS_MAX {
            return Err(NameError::new(what, text, format!("it must have at most {} characters", limits::NAME_CHARS_MAX)));
        }
        Ok(Self(text.into()))
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for Name {
    type Error = NameError;
    fn try_from(text: String) -> Result<Self, NameError> {
        Self::parse(&text)
    }
}

impl From<Name> for String {
    fn from(name: Name) -> Self {
        name.0.as_ref().to_owned()
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// `schema.name`, both parts known.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct QualifiedName {
    /// The schema it is in.
    pub schema: Name,
    /// Its name there.
    pub name: Name,
}

impl QualifiedName {
    /// Resolves `[schema.]name`; a bare name lands in `default_schema`, and is an error where there is none.
    pub fn parse(text: &str, default_schema: Option<&Name>) -> Result<Self, NameError> {
        match text.split_once('.') {
            Some((schema, name)) => Ok(Self { schema: Name::parse_schema(schema)?, name: Name::parse(name)? }),
            None => {
                let name = Name::parse(text)?;
                let schema = default_schema.cloned().ok_or_else(|| {
                    NameError::new("name", text, "it has no schema and the caller has no default schema; write schema.name or send x-datasink-schema")
                })?;
                Ok(Self { schema, name })
            }
        }
    }
}

impl TryFrom<String> for QualifiedName {
    type Error = NameError;
    fn try_from(text: String) -> Result<Self, NameError> {
        Self::parse(&text, None)
    }
}

impl From<QualifiedName> for String {
    fn from(name: QualifiedName) -> Self {
        name.to_string()
    }
}

impl fmt::Display for QualifiedName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.schema, self.name)
    }
}

impl fmt::Debug for QualifiedName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// What a Show call selects: one object, or all that match a pattern with `*`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Selection {
    /// Exactly this one; absent is an error.
    One(QualifiedName),
    /// Every object of this schema (any schema if `None`) whose name matches the glob.
    Matching {
        /// The schema, or any.
        schema: Option<Name>,
        /// A pattern in which `*` stands for any run of characters.
        glob: String,
    },
}

impl Selection {
    /// Empty and `*` select all; `schema.*` all of a schema; a text with `*` is a pattern; anything else is one name.
    pub fn parse(text: &str, default_schema: Option<&Name>) -> Result<Self, NameError> {
        if text.is_empty() || text == "*" {
            return Ok(Self::Matching { schema: None, glob: "*".to_owned() });
        }
        if !text.contains('*') {
            return QualifiedName::parse(text, default_schema).map(Self::One);
        }
        let (schema, glob) = match text.split_once('.') {
            Some(("*", glob)) => (None, glob),
            Some((schema, glob)) => (Some(Name::parse_schema(schema)?), glob),
            None => (default_schema.cloned(), text),
        };
        // The pattern's own characters obey the alphabet of names.
        Name::checked("name pattern", &format!("_{}", glob.replace('*', "_"))).map_err(|fault| NameError::new("name pattern", text, fault.rule))?;
        Ok(Self::Matching { schema, glob: glob.to_owned() })
    }

    /// Whether `name` is selected.
    pub fn matches(&self, name: &QualifiedName) -> bool {
        match self {
            Self::One(one) => one == name,
            Self::Matching { schema, glob } => schema.as_ref().is_none_or(|s| *s == name.schema) && glob_matches(glob, name.name.as_str()),
        }
    }
}

/// Whether `text` matches `glob`, in which `*` stands for any run of characters, also none.
pub fn glob_matches(glob: &str, text: &str) -> bool {
    let Some((head, rest)) = glob.split_once('*') else { return glob == text };
    let Some(mut text) = text.strip_prefix(head) else { return false };
    let mut parts: Vec<&str> = rest.split('*').collect();
    let last = parts.pop().unwrap_or("");
    for part in parts {
        match text.find(part) {
            Some(at) => text = &text[at + part.len()..],
            None => return false,
        }
    }
    text.ends_with(last)
}

/// A stream's name: 1–200 printable ASCII characters; letters, digits and `_` first, then also space and `# { } [ ] ( ) : - . / @ + =`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct StreamName(Arc<str>);

impl StreamName {
    /// Whether it is of one session only: nobody can open it again.
    pub fn is_adhoc(&self) -> bool {
        self.0.starts_with("adhoc:")
    }

    /// Prefixes of streams that the server names itself.
    pub const RESERVED: [&'static str; 5] = ["monitor:", "export:", "dead-letters:", "once:", "adhoc:"];

    /// Checks a client's stream name; the server's own prefixes are refused.
    pub fn parse(text: &str) -> Result<Self, NameError> {
        if let Some(prefix) = Self::RESERVED.iter().find(|prefix| text.starts_with(**prefix)) {
            return Err(NameError::new("stream name", text, format!("the prefix {prefix:?} is the server's own")));
        }
        Self::checked(text)
    }

    /// A stream of the server's own: one of the reserved prefixes (with its colon), then `rest`.
    pub fn reserved(prefix: &str, rest: &str) -> Result<Self, NameError> {
        debug_assert!(Self::RESERVED.contains(&prefix), "{prefix:?} is a reserved prefix");
        Self::checked(&format!("{prefix}{rest}"))
    }

    fn checked(text: &str) -> Result<Self, NameError> {
        let Some(first) = text.chars().next() else {
            return Err(NameError::new("stream name", text, "it must not be empty"));
        };
        if !(first.is_ascii_alphanumeric() || first == '_') {
            return Err(NameError::new("stream name", text, format!("it must begin with a letter, a digit or \"_\", not {first:?}")));
        }
        if let Some(bad) = text.chars().find(|c| !(c.is_ascii_alphanumeric() || " _#{}[]():-./@+=".contains(*c))) {
            return Err(NameError::new("stream name", text, format!("{bad:?} is not allowed; letters, digits, space and _ # {{ }} [ ] ( ) : - . / @ + = are")));
        }
        // The dead letters' prefix must still fit in front of the longest name.
        if text.chars().count() > limits::STREAM_NAME_CHARS_MAX + 16
            || (text.chars().count() > limits::STREAM_NAME_CHARS_MAX && !Self::RESERVED.iter().any(|p| text.starts_with(p)))
        {
            return Err(NameError::new("stream name", text, format!("it must have at most {} characters", limits::STREAM_NAME_CHARS_MAX)));
        }
        Ok(Self(text.into()))
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for StreamName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for StreamName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A user's or a role's name: `[a-z_][a-z0-9_]*`, at most 64 characters.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct PrincipalName(Arc<str>);

impl PrincipalName {
    /// Checks a user's or a role's name.
    pub fn parse(text: &str) -> Result<Self, NameError> {
        const RULE: &str = "it must begin with a lower-case letter or \"_\", go on with lower-case letters, digits and \"_\", and have at most 64 characters";
        let ok = text.starts_with(|c: char| c.is_ascii_lowercase() || c == '_')
            && text.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
            && text.len() <= limits::PRINCIPAL_CHARS_MAX;
        if ok { Ok(Self(text.into())) } else { Err(NameError::new("user or role name", text, RULE)) }
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for PrincipalName {
    type Error = NameError;
    fn try_from(text: String) -> Result<Self, NameError> {
        Self::parse(&text)
    }
}

impl From<PrincipalName> for String {
    fn from(name: PrincipalName) -> Self {
        name.0.as_ref().to_owned()
    }
}

impl fmt::Display for PrincipalName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for PrincipalName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn lengths_and_reserved_words() {
        let longest = "a".repeat(limits::NAME_CHARS_MAX);
        assert!(Name::parse(&longest).is_ok() && Name::parse(&format!("{longest}a")).is_err());
        for word in ["KINETICA", "public", "Root", "sYSTEM"] {
            assert!(Name::parse_schema(word).is_err(), "{word}");
            assert!(Name::parse(word).is_ok(), "{word} is reserved for schemas only");
        }
        assert!(Name::parse_schema("systems").is_ok());
        assert!(QualifiedName::parse("bare", None).is_err(), "no default schema");
        assert!(QualifiedName::parse("public.t", None).is_err(), "a reserved schema");
    }

    proptest! {
        #[test]
        fn the_alphabet_is_taken(text in r"[A-Za-z0-9_][A-Za-z0-9 _#{}\[\]():-]{0,199}") {
            prop_assert_eq!(Name::parse(&text).map(String::from).ok(), Some(text));
        }

        #[test]
        fn nothing_else_is(before in r"[A-Za-z0-9_][A-Za-z0-9 _#{}\[\]():-]{0,20}", bad: char, after in r"[A-Za-z0-9 _#{}\[\]():-]{0,20}") {
            prop_assume!(!(bad.is_ascii_alphanumeric() || " _#{}[]():-".contains(bad)));
            let text = format!("{before}{bad}{after}");
            prop_assert!(Name::parse(&text).is_err());
        }

        #[test]
        fn the_first_character_is_a_letter_a_digit_or_an_underscore(first in r"[ #{}\[\]():.-]", rest in r"[A-Za-z0-9 _#{}\[\]():-]{0,20}") {
            let text = format!("{first}{rest}");
            prop_assert!(Name::parse(&text).is_err());
        }

        #[test]
        fn case_matters(text in "[a-z]{1,20}") {
            prop_assert_ne!(Name::parse(&text).expect("a name"), Name::parse(&text.to_uppercase()).expect("a name"));
        }

        #[test]
        fn a_qualified_name_reads_back_and_a_bare_one_lands_in_the_default(schema in "[a-z][a-z0-9]{5,20}x", name in r"[A-Za-z0-9_][A-Za-z0-9 _#{}\[\]():-]{0,20}") {
            prop_assume!(Name::parse_schema(&schema).is_ok());
            let full = QualifiedName::parse(&format!("{schema}.{name}"), None).expect("a full name");
            prop_assert_eq!(QualifiedName::parse(&full.to_string(), None).expect("reads back"), full.clone());
            let default = Name::parse_schema(&schema).expect("a schema");
            prop_assert_eq!(QualifiedName::parse(&name, Some(&default)).expect("resolved"), full);
            let two_dots = format!("{schema}.{name}.x");
            prop_assert!(QualifiedName::parse(&two_dots, None).is_err());
        }

        #[test]
        fn users_and_roles_have_small_letters(text in r"[a-z_][a-z0-9_]{0,63}", bad in r"[A-Z0-9@ .-][a-z]{0,5}") {
            prop_assert!(PrincipalName::parse(&text).is_ok());
            prop_assert!(PrincipalName::parse(&bad).is_err());
            let too_long = format!("{text}{}", "a".repeat(limits::PRINCIPAL_CHARS_MAX));
            prop_assert!(PrincipalName::parse(&too_long).is_err());
        }

        #[test]
        fn a_glob_with_stars_matches_what_it_was_cut_from(parts in prop::collection::vec("[a-c]{0,3}", 1..5), filler in "[a-c]{0,4}") {
            let text = parts.join(&filler);
            prop_assert!(glob_matches(&parts.join("*"), &text));
            prop_assert_eq!(glob_matches(&text, &text), true);
        }
    }
}
