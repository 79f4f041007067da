//! Why: a call sent twice with one request id happens once and is answered twice. Never keeps a secret: requests are kept as keyed hashes.

use serde::{Deserialize, Serialize, de::DeserializeOwned};
use uuid::Uuid;
use zeroize::Zeroizing;

use super::{
    Domain, OpContext,
    catalog::{self, Draft, REQUESTS, Row},
};
use crate::{
    clock::Timestamp,
    limits,
    problem::{Problem, Reason},
    secret::Secret,
    store::{StoreError, Table, Transaction},
};

/// A call's request id and what it asked for.
#[derive(Debug)]
pub(super) struct Ticket {
    /// `None`: without an id.
    key: Option<Vec<u8>>,
    id: String,
    digest: [u8; 32],
}

/// An answer as it is kept.
#[derive(Serialize, Deserialize)]
struct Kept {
    digest: [u8; 32],
    answered: Timestamp,
    answer: serde_json::Value,
}

impl Row for Kept {
    const TABLE: Table = REQUESTS;
}

impl Ticket {
    /// The answer given to this request before, if it was; another request with the same id is an error.
    pub(super) async fn replay<A: DeserializeOwned>(&self, domain: &Domain, draft: &mut Draft<'_>) -> Result<Option<A>, Problem> {
        let Some(key) = &self.key else { return Ok(None) };
        let Some(kept) = draft.get::<Kept>(key).await? else { return Ok(None) };
        if domain.0.ambient.now().since(kept.answered) > limits::REQUEST_ID_KEPT {
            return Ok(None);
        }
        if kept.digest != self.digest {
            let message = format!("the request id {} came before with another request; make a new id for a new request", self.id);
            return Err(Problem::new(Reason::RequestIdReused, message).with("request_id", self.id.clone()));
        }
        let answer = serde_json::from_value(kept.answer);
        answer.map(Some).map_err(|fault| Problem::new(Reason::StoreCorrupt, format!("a kept answer cannot be read: {fault}")))
    }

    /// Puts the answer beside the change it belongs to.
    pub(super) fn keep<A: Serialize>(&self, domain: &Domain, draft: &mut Draft<'_>, answer: &A) -> Result<(), Problem> {
        let Some(key) = &self.key else { return Ok(()) };
        let answer = serde_json::to_value(answer).map_err(|fault| Problem::new(Reason::Internal, format!("an answer cannot be kept: {fault}")))?;
        draft.put(key.clone(), &Kept { digest: self.digest, answered: domain.0.ambient.now(), answer })
    }

    /// The place of the answer, in words.
    pub(super) fn place(&self) -> String {
        self.key.as_deref().map(|key| String::from_utf8_lossy(key).replace('\0', " ")).unwrap_or_default()
    }

    /// Whether there is an id, and so an answer to be kept.
    pub(super) fn is_set(&self) -> bool {
        self.key.is_some()
    }
}

impl Domain {
    /// Checks a request id and takes the hash of what it asks for: `request` and, beside it, `secrets`, which are in no serialized form.
    pub(super) fn ticket<R: Serialize>(&self, cx: &OpContext, request_id: &str, request: &R, secrets: &[&Secret]) -> Result<Ticket, Problem> {
        if request_id.is_empty() {
            return Ok(Ticket { key: None, id: String::new(), digest: [0; 32] });
        }
        let id = Uuid::parse_str(request_id)
            .map_err(|_| Problem::field("request_id", Reason::InvalidField, "request_id must be a UUID, such as 6f0c3a1e-0d2b-4c0e-9a53-0d0f6f3e7b11"))?;
        let text = serde_json::to_vec(request).map_err(|fault| Problem::new(Reason::Internal, format!("a request cannot be hashed: {fault}")))?;
        // The request may carry secret options.
        let text = Zeroizing::new(text);
        let mut parts: Vec<&[u8]> = vec![cx.rpc.as_bytes(), &text];
        parts.extend(secrets.iter().map(|secret| secret.expose()));
        let digest = self.0.keys.request(&parts);
        let key = [cx.caller.principal.as_str().as_bytes(), b"\0", id.to_string().as_bytes()].concat();
        Ok(Ticket { key: Some(key), id: id.to_string(), digest })
    }

    /// Forgets answers that are older than they need be, a bounded number a call.
    pub(super) async fn forget_old_answers(&self) -> Result<usize, Problem> {
        const AT_ONCE: usize = 1_000;
        let now = self.0.ambient.now();
        let mut forgotten = 0;
        let mut after: Option<Vec<u8>> = None;
        loop {
            let entries = self.0.store.scan(REQUESTS, b"", after.as_deref(), AT_ONCE).await.map_err(catalog::store_problem)?;
            let Some((last, _)) = entries.last() else { return Ok(forgotten) };
            after = Some(last.clone());
            let mut transaction = Transaction::new();
            for (key, bytes) in entries {
                let kept: Kept = catalog::decode(REQUESTS, &bytes)?;
                if now.since(kept.answered) > limits::REQUEST_ID_KEPT {
                    // An id that came again meanwhile keeps its new answer.
                    transaction = transaction.expect(REQUESTS, key.clone(), Some(bytes)).delete(REQUESTS, key);
                }
            }
            if !transaction.writes.is_empty() {
                let count = transaction.writes.len();
                match self.0.store.transact(transaction).await {
                    Ok(()) => forgotten += count,
                    Err(StoreError::Conflict(_)) => {}
                    Err(error) => return Err(catalog::store_problem(error)),
                }
            }
        }
    }
}
