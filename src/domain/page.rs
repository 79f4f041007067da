//! Why: a long list is read a page at a time, and a page token cannot be forged or used for another question. Never holds state for a reader.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use bytes::Bytes;
use serde::Serialize;
use subtle::ConstantTimeEq;

use super::{Domain, catalog, keys::Keys};
use crate::{
    limits,
    problem::{Problem, Reason},
    store::Table,
};

/// Which part of a list a Show call asks for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Page {
    /// How many at most; 0: the default, larger than the largest: the largest.
    pub size: i32,
    /// From the page before; empty: the first.
    pub token: String,
}

/// A page to be filled: how many, after which key, and what its token must be bound to.
#[derive(Debug)]
pub(super) struct Opened {
    pub size: usize,
    pub after: Option<Vec<u8>>,
    question: [u8; 16],
}

const MAC_BYTES: usize = 16;

impl Page {
    /// Checks size and token; `question` is everything else that was asked, which must be the same from page to page.
    pub(super) fn open(&self, keys: &Keys, question: &impl Serialize) -> Result<Opened, Problem> {
        let size = match usize::try_from(self.size) {
            Ok(0) => limits::PAGE_SIZE_DEFAULT,
            Ok(size) => size.min(limits::PAGE_SIZE_MAX),
            Err(_) => return Err(Problem::field("page_size", Reason::InvalidField, "page_size must not be negative")),
        };
        let text = serde_json::to_vec(question).map_err(|fault| Problem::new(Reason::Internal, format!("a question cannot be hashed: {fault}")))?;
        let question = half(keys.page(&[&text]));
        let after = if self.token.is_empty() { None } else { Some(read(&self.token, keys, &question)?) };
        Ok(Opened { size, after, question })
    }
}

impl Opened {
    /// The token for what comes after `last`.
    pub(super) fn token(&self, keys: &Keys, last: &[u8]) -> String {
        let mac = half(keys.page(&[&self.question, last]));
        URL_SAFE_NO_PAD.encode([mac.as_slice(), last].concat())
    }
}

impl Domain {
    /// A page of the rows under `prefix` that `select` takes, in key order, and the token for the next one.
    pub(super) async fn fill<V>(
        &self,
        table: Table,
        prefix: &[u8],
        page: &Opened,
        mut select: impl FnMut(&[u8], Bytes) -> Result<Option<V>, Problem>,
    ) -> Result<(Vec<V>, String), Problem> {
        const AT_ONCE: usize = 512;
        let mut found = Vec::new();
        let mut last_taken: Vec<u8> = Vec::new();
        let mut after = page.after.clone();
        loop {
            let entries = self.0.store.scan(table, prefix, after.as_deref(), AT_ONCE).await.map_err(catalog::store_problem)?;
            let at_end = entries.len() < AT_ONCE;
            for (key, bytes) in entries {
                if let Some(view) = select(&key, bytes)? {
                    // One more than fits shows that there is a next page.
                    if found.len() == page.size {
                        return Ok((found, page.token(&self.0.keys, &last_taken)));
                    }
                    found.push(view);
                    last_taken.clone_from(&key);
                }
                after = Some(key);
            }
            if at_end {
                return Ok((found, String::new()));
            }
        }
    }
}

fn half(mac: [u8; 32]) -> [u8; MAC_BYTES] {
    let mut half = [0; MAC_BYTES];
    half.copy_from_slice(&mac[..MAC_BYTES]);
    half
}

fn read(token: &str, keys: &Keys, question: &[u8; MAC_BYTES]) -> Result<Vec<u8>, Problem> {
    let bytes = URL_SAFE_NO_PAD.decode(token).unwrap_or_default();
    if let Some((mac, last)) = bytes.split_at_checked(MAC_BYTES)
        && bool::from(half(keys.page(&[question, last])).ct_eq(mac))
    {
        return Ok(last.to_vec());
    }
    let message = "page_token is not one that this question was answered with; repeat the question without it and go on from there";
    Err(Problem::field("page_token", Reason::InvalidPageToken, message))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys() -> Keys {
        Keys::from_master(&crate::secret::Secret::new(vec![3; 32]))
    }

    #[test]
    fn a_token_leads_on_for_the_same_question_only() {
        let keys = keys();
        let first = Page { size: 10, token: String::new() }.open(&keys, &("sinks", "a.*")).expect("a first page");
        assert_eq!((first.size, first.after.clone()), (10, None));
        let token = first.token(&keys, b"a.x");
        let next = Page { size: 0, token: token.clone() }.open(&keys, &("sinks", "a.*")).expect("the next page");
        assert_eq!((next.size, next.after.as_deref()), (limits::PAGE_SIZE_DEFAULT, Some(b"a.x".as_slice())));
        for (page, question) in [
            (Page { size: 1, token: token.clone() }, ("sinks", "b.*")),
            (Page { size: 1, token: format!("{token}A") }, ("sinks", "a.*")),
            (Page { size: 1, token: "?".to_owned() }, ("sinks", "a.*")),
        ] {
            assert_eq!(page.open(&keys, &question).expect_err("refused").reason, Reason::InvalidPageToken);
        }
    }

    #[test]
    fn sizes_are_bounded() {
        let keys = keys();
        assert_eq!(Page { size: 1_000_000, token: String::new() }.open(&keys, &()).expect("clamped").size, limits::PAGE_SIZE_MAX);
        assert_eq!(Page { size: -1, token: String::new() }.open(&keys, &()).expect_err("refused").reason, Reason::InvalidField);
    }
}
