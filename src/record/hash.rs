//! Why: one number tells whether two streams of records are the same, however they were cut into batches. Never a defence against an attacker: it is not cryptographic.

use std::{ops::Range, sync::Arc};

use xxhash_rust::xxh3::xxh3_64;

use super::{Batch, Ndjson, RecordFaults, Records};

/// A hash over all records of a stream so far, continuable from its value.
///
/// Each record enters by the JSON text it came as (one that came as Arrow: by the text of [`Batch::to_ndjson`]), in offset order. A refused record does not enter at all: what refuses a record is
/// deterministic, so whoever sends the same records again, in the same encoding, skips the same ones. The same values in another encoding may be another text, and then another hash.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RollingHash(u64);

impl RollingHash {
    /// Continues from a stored value; 0 is a stream without records.
    pub const fn from_value(value: u64) -> Self {
        Self(value)
    }

    /// The value to store.
    pub const fn value(self) -> u64 {
        self.0
    }

    /// Adds one record's JSON text. Hashing the text first keeps `ab` + `c` and `a` + `bc` apart.
    pub fn add(&mut self, record: &[u8]) {
        self.add_hashed(xxh3_64(record));
    }

    fn add_hashed(&mut self, record: u64) {
        let mut pair = [0; 16];
        pair[..8].copy_from_slice(&self.0.to_le_bytes());
        pair[8..].copy_from_slice(&record.to_le_bytes());
        self.0 = xxh3_64(&pair);
    }
}

/// What of each record's text enters a [`RollingHash`]: kept where the text itself is not.
#[derive(Debug, Clone)]
pub(super) struct RecordHashes {
    all: Arc<[u64]>,
    range: Range<usize>,
}

impl RecordHashes {
    pub(super) fn of(lines: &Ndjson) -> Self {
        let all: Arc<[u64]> = lines.iter().map(xxh3_64).collect();
        Self { range: 0..all.len(), all }
    }

    pub(super) fn slice(&self, range: Range<usize>) -> Self {
        Self { all: self.all.clone(), range: self.range.start + range.start..self.range.start + range.end }
    }
}

impl Batch {
    /// With what enters the hash looked up now: whoever has just read the texts has them near at hand, and the session that folds them in works elsewhere.
    #[must_use]
    pub(super) fn hashed(mut self) -> Self {
        if let Records::Ndjson(lines) = &self.records {
            self.hashes = Some(RecordHashes::of(lines));
        }
        self
    }

    /// Adds the batch's records to `hash`, which stays as it was if a record cannot be written as JSON text.
    pub fn advance(&self, hash: &mut RollingHash) -> Result<(), RecordFaults> {
        match (&self.hashes, &self.records) {
            (Some(hashes), _) => hashes.all[hashes.range.clone()].iter().for_each(|record| hash.add_hashed(*record)),
            (None, Records::Ndjson(lines)) => lines.iter().for_each(|line| hash.add(line)),
            (None, Records::Arrow(_)) => self.to_ndjson()?.advance(hash)?,
        }
        Ok(())
    }
}
