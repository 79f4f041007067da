//! Why: an object in the making is a list of bytes with their count and hash, cut into parts without a copy. Never holds more than it was given.

use bytes::Bytes;
use object_store::PutPayload;
use sha2::{Digest as _, Sha256};

/// The bytes of an object, or of what is left of it.
#[derive(Debug, Default, Clone)]
pub(super) struct Body {
    chunks: std::collections::VecDeque<Bytes>,
    /// Bytes in `chunks`.
    held: usize,
    /// All bytes that ever came.
    bytes: u64,
    digest: Sha256,
}

impl Body {
    pub(super) fn extend(&mut self, chunks: Vec<Bytes>) {
        for chunk in chunks {
            self.digest.update(&chunk);
            self.held += chunk.len();
            self.bytes += chunk.len() as u64;
            self.chunks.push_back(chunk);
        }
    }

    /// Bytes that are here.
    pub(super) fn held(&self) -> usize {
        self.held
    }

    /// Bytes that ever came: the object's size in the end.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// SHA-256 of all bytes that ever came.
    pub(super) fn content(&self) -> [u8; 32] {
        self.digest.clone().finalize().into()
    }

    /// The first `size` bytes, or what there is.
    pub(super) fn part(&mut self, size: usize) -> PutPayload {
        let mut wanted = size.min(self.held);
        self.held -= wanted;
        let mut part = Vec::new();
        while wanted > 0 {
            let Some(mut chunk) = self.chunks.pop_front() else { break };
            if chunk.len() > wanted {
                self.chunks.push_front(chunk.split_off(wanted));
            }
            wanted -= chunk.len();
            part.push(chunk);
        }
        part.into_iter().collect()
    }

    /// All that is here.
    pub(super) fn rest(&mut self) -> PutPayload {
        self.part(usize::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_all_the_bytes_in_order() {
        let text: Vec<u8> = (0..=255).cycle().take(1_000).collect();
        for (chunk, size) in [(1, 7), (7, 1), (10, 10), (333, 100), (1_000, 999), (100, 2_000)] {
            let mut body = Body::default();
            body.extend(text.chunks(chunk).map(Bytes::copy_from_slice).collect());
            assert_eq!(body.content(), <[u8; 32]>::from(Sha256::digest(&text)));
            let mut joined = Vec::new();
            while body.held() > 0 {
                let part = Bytes::from(body.part(size));
                assert!(part.len() == size || body.held() == 0, "only the last part is shorter");
                joined.extend_from_slice(&part);
            }
            assert_eq!((joined.as_slice(), body.bytes()), (text.as_slice(), 1_000));
        }
    }
}
