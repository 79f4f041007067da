//! Why: a secret in memory can be handed on but not shown. Never derive a printing or serializing trait here.

use std::fmt;

use zeroize::Zeroizing;

/// A secret in memory: redacted wherever it is printed, wiped when dropped.
pub struct Secret(Zeroizing<Vec<u8>>);

impl Secret {
    /// Takes the bytes over; the caller keeps no copy.
    pub fn new(bytes: Vec<u8>) -> Self {
        Self(Zeroizing::new(bytes))
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
