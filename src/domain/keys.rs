//! Why: the catalogue's own keyed hashes, for tokens of pages, repeated requests, the audit chain and remembered logins. Never leaves the process, and is stored sealed.

use std::fmt;

use hmac::{Hmac, Mac};
use sha2::Sha256;

use crate::secret::Secret;

/// Bytes of the master key.
pub(super) const MASTER_BYTES: usize = 32;

/// One key for each use, so that a value of one is worth nothing in another.
pub(super) struct Keys {
    page: Secret,
    request: Secret,
    audit: Secret,
    login: Secret,
}

impl Keys {
    /// Derives them.
    pub(super) fn from_master(master: &Secret) -> Self {
        let derive = |label: &str| Secret::new(mac(master, &[label.as_bytes()]).to_vec());
        Self { page: derive("page"), request: derive("request"), audit: derive("audit"), login: derive("login") }
    }

    pub(super) fn page(&self, parts: &[&[u8]]) -> [u8; 32] {
        mac(&self.page, parts)
    }

    pub(super) fn request(&self, parts: &[&[u8]]) -> [u8; 32] {
        mac(&self.request, parts)
    }

    pub(super) fn audit(&self) -> Secret {
        Secret::new(self.audit.expose().to_vec())
    }

    pub(super) fn login(&self, parts: &[&[u8]]) -> [u8; 32] {
        mac(&self.login, parts)
    }
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Keys")
    }
}

/// HMAC-SHA256 over the parts with their lengths, so that no two lists of parts give the same bytes.
pub(super) fn mac(key: &Secret, parts: &[&[u8]]) -> [u8; 32] {
    let mut mac = <Hmac<Sha256> as Mac>::new_from_slice(key.expose()).expect("HMAC takes a key of any length");
    for part in parts {
        mac.update(&(part.len() as u64).to_be_bytes());
        mac.update(part);
    }
    mac.finalize().into_bytes().into()
}
