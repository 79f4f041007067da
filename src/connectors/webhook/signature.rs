//! Why: a receiver can tell that a request is ours, and that it has seen it before (Standard Webhooks). Never puts anything a user controls into an id.

use std::fmt;

use base64::{Engine, engine::general_purpose::STANDARD};
use hmac::{Hmac, Mac};
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use crate::{connectors::connector::StreamId, record::Offset, secret::Secret};

/// Lengths of a signing key, by the specification.
const KEY_BYTES_MIN: usize = 24;
const KEY_BYTES_MAX: usize = 64;
/// More than one key is for rotation; each makes the header longer.
const KEYS_MAX: usize = 4;

/// Signs with every key of a `signing_secret`, so that a receiver that knows any of them can verify.
pub(super) struct Signer(Vec<Secret>);

impl Signer {
    /// Reads `whsec_…` keys separated by spaces. A fault does not repeat them.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let keys: Vec<Secret> = text.split(' ').filter(|key| !key.is_empty()).map(Self::key).collect::<Result<_, _>>()?;
        if keys.is_empty() || keys.len() > KEYS_MAX {
            return Err(format!("signing_secret has {} keys; it takes 1 to {KEYS_MAX}, separated by spaces", keys.len()));
        }
        Ok(Self(keys))
    }

    fn key(text: &str) -> Result<Secret, String> {
        let encoded = text.strip_prefix("whsec_").ok_or("a key of signing_secret does not begin with \"whsec_\"")?;
        let key = Secret::from_base64(encoded).ok_or("what follows \"whsec_\" in signing_secret is not base64")?;
        if !(KEY_BYTES_MIN..=KEY_BYTES_MAX).contains(&key.len()) {
            return Err(format!("a key of signing_secret has {} bytes; it takes {KEY_BYTES_MIN} to {KEY_BYTES_MAX}", key.len()));
        }
        Ok(key)
    }

    /// The value of `webhook-signature`: one `v1,…` for each key.
    pub(super) fn sign(&self, id: &str, timestamp: i64, body: &[u8]) -> String {
        let signatures: Vec<String> = self.0.iter().map(|key| sign_with(key, id, timestamp, body)).collect();
        signatures.join(" ")
    }

    /// The keys in the base64 they were given in, for a redactor to know.
    pub(super) fn spellings(&self) -> impl Iterator<Item = Secret> {
        self.0.iter().map(|key| Secret::from(STANDARD.encode(key.expose())))
    }
}

impl fmt::Debug for Signer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Signer({} keys)", self.0.len())
    }
}

fn sign_with(key: &Secret, id: &str, timestamp: i64, body: &[u8]) -> String {
    let mut mac = Hmac::<Sha256>::new_from_slice(key.expose()).expect("HMAC takes a key of any length");
    mac.update(format!("{id}.{timestamp}.").as_bytes());
    mac.update(body);
    let code = Zeroizing::new(mac.finalize().into_bytes().to_vec());
    format!("v1,{}", STANDARD.encode(&*code))
}

/// The id of the request with `count` records from `first` to `last`: the same after any restart, and never the same for another set of records.
pub(super) fn message_id(stream: &StreamId, first: Offset, last: Offset, count: u64) -> String {
    let mut hash = Sha256::new();
    hash.update(b"datasink-webhook-v1");
    hash.update(stream.cluster.as_bytes());
    hash.update(stream.sink.as_bytes());
    // The name alone has no fixed length, so it goes last.
    for number in [first, last, count] {
        hash.update(number.to_be_bytes());
    }
    hash.update(stream.name.as_str().as_bytes());
    hash.finalize()[..16].iter().fold("msg_".to_owned(), |id, byte| format!("{id}{byte:02x}"))
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use uuid::Uuid;

    use super::*;
    use crate::name::StreamName;

    fn stream(name: &str, sink: u128) -> StreamId {
        StreamId { cluster: Uuid::from_u128(1), sink: Uuid::from_u128(sink), name: StreamName::parse(name).expect("a name") }
    }

    #[test]
    fn the_published_example_signs_alike() {
        // From the reference libraries of Standard Webhooks.
        let signer = Signer::parse("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").expect("a key");
        let signed = signer.sign("msg_p5jXN8AQM9LWM0D4loKWxJek", 1_614_265_330, br#"{"test": 2432232314}"#);
        assert_eq!(signed, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
    }

    #[test]
    fn every_key_signs_while_one_replaces_another() {
        let (old, new) = (STANDARD.encode([1; 24]), STANDARD.encode([2; 32]));
        let both = Signer::parse(&format!("whsec_{new} whsec_{old}")).expect("two keys").sign("msg_1", 1, b"x");
        let alone = |key| Signer::parse(&format!("whsec_{key}")).expect("a key").sign("msg_1", 1, b"x");
        assert_eq!(both, format!("{} {}", alone(&new), alone(&old)));
    }

    #[test]
    fn keys_of_no_use_are_refused_and_not_repeated() {
        let short = STANDARD.encode([1; 23]);
        let many = vec![format!("whsec_{}", STANDARD.encode([1; 24])); KEYS_MAX + 1].join(" ");
        for bad in ["", "  ", "secret", "whsec_***", &format!("whsec_{short}"), &format!("whsec_{}", STANDARD.encode([1; 65])), &many] {
            let fault = Signer::parse(bad).expect_err("refused");
            assert!(!fault.contains(&short) && !fault.contains("***"), "{fault}");
        }
    }

    #[test]
    fn ids_are_stable_plain_and_one_for_each_set_of_records() {
        let id = message_id(&stream("s", 2), 5, 7, 3);
        assert_eq!(id, message_id(&stream("s", 2), 5, 7, 3));
        // Computed elsewhere: receivers keep ids, so the recipe must never change.
        assert_eq!(id, "msg_a8761bef7d542db8f41556c803b86a9f");
        assert!(id.len() == 36 && id.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_'));
        let others = [("s", 2, 5, 8, 3), ("s", 2, 5, 7, 2), ("s", 2, 4, 7, 3), ("s", 3, 5, 7, 3), ("t", 2, 5, 7, 3)];
        let ids: HashSet<String> = others.iter().map(|(name, sink, first, last, count)| message_id(&stream(name, *sink), *first, *last, *count)).collect();
        assert!(ids.len() == others.len() && !ids.contains(&id));
    }
}
