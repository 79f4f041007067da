//! Why: a destination is parsed once, its secret part split off, and shown only redacted. Never connects.

use std::fmt;

use super::options::ConfigFault;
use crate::{limits, secret::Secret};

/// Where a sink's records go: a scheme and the rest, with user information kept apart.
pub struct Destination {
    scheme: String,
    /// After `scheme://` (or `scheme:` for jdbc), user information replaced by `***`.
    redacted_rest: String,
    /// The whole text as given, where it holds user information.
    full: Option<Secret>,
    /// The text as given, where it holds none; the redacted one otherwise.
    shown: String,
}

impl Destination {
    /// Splits `text` into scheme and rest; the scheme's case does not matter, and whether it is known is the table of kinds' affair.
    pub fn parse(text: &str) -> Result<Self, ConfigFault> {
        if text.is_empty() {
            return Err(ConfigFault::destination(
                "the destination must not be empty; write for example https://host/path, kafka://host:9092 or table://schema.table",
            ));
        }
        if text.len() > limits::DESTINATION_BYTES_MAX {
            return Err(ConfigFault::destination(format!("the destination must have at most {} bytes", limits::DESTINATION_BYTES_MAX)));
        }
        if let Some(bad) = text.chars().find(|c| c.is_control() || c.is_whitespace()) {
            return Err(ConfigFault::destination(format!("the destination must not contain {bad:?}")));
        }
        let (scheme, separator, rest) = match text.split_once("://") {
            Some((scheme, rest)) if !scheme.contains(':') => (scheme, "://", rest),
            _ => match text.split_once(':') {
                Some((scheme, rest)) if scheme.eq_ignore_ascii_case("jdbc") => (scheme, ":", rest),
                Some(_) => return Err(ConfigFault::destination("the destination has no scheme; it begins with one, as in https://host or s3://host")),
                None => (text, "", ""),
            },
        };
        if scheme.is_empty() || !scheme.chars().all(|c| c.is_ascii_alphanumeric() || c == '+' || c == '-') {
            return Err(ConfigFault::destination("the destination has no scheme; it begins with one, as in https://host or s3://host"));
        }
        let authority_end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
        let user_info = rest[..authority_end].rfind('@');
        let redacted_rest = match user_info {
            Some(at) => format!("***{}", &rest[at..]),
            None => rest.to_owned(),
        };
        let shown = format!("{scheme}{separator}{redacted_rest}");
        let full = user_info.map(|_| Secret::from(text.to_owned()));
        Ok(Self { scheme: scheme.to_ascii_lowercase(), redacted_rest, full, shown })
    }

    /// The scheme, lower case.
    pub fn scheme(&self) -> &str {
        &self.scheme
    }

    /// What follows the scheme, user information replaced by `***`.
    pub fn rest(&self) -> &str {
        &self.redacted_rest
    }

    /// The whole text as given, where it holds user information.
    pub fn secret(&self) -> Option<&Secret> {
        self.full.as_ref()
    }

    /// The text as it may be shown and stored.
    pub fn redacted(&self) -> &str {
        &self.shown
    }
}

impl fmt::Display for Destination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.shown)
    }
}

impl fmt::Debug for Destination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.shown)
    }
}
