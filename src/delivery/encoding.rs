//! Why: what a session needs to know of a record's text: the rolling hash, the original of a refused record, and the writer's encoding. Never changes a record's value.

use bytes::Bytes;
use xxhash_rust::xxh3::xxh3_64;

use crate::record::{Batch, Records};

/// A hash over all records of a stream so far, independent of how they were cut; a refused record does not enter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct RollingHash(u64);

impl RollingHash {
    /// Continues from a stored value; 0 is a stream without records.
    pub(super) const fn from_value(value: u64) -> Self {
        Self(value)
    }

    /// The value to store.
    pub(super) const fn value(self) -> u64 {
        self.0
    }

    /// Adds the records of `batch`.
    pub(super) fn advance(&mut self, batch: &Batch) {
        match &batch.records {
            Records::Ndjson(lines) => lines.iter().for_each(|line| self.add(line)),
            Records::Arrow(_) => (0..batch.len()).for_each(|index| self.add(&text(batch, index))),
        }
    }

    fn add(&mut self, record: &[u8]) {
        let mut pair = [0; 16];
        pair[..8].copy_from_slice(&self.0.to_le_bytes());
        pair[8..].copy_from_slice(&xxh3_64(record).to_le_bytes());
        self.0 = xxh3_64(&pair);
    }
}

/// The JSON text of one record, for a dead letter.
pub(super) fn text(batch: &Batch, index: usize) -> Bytes {
    match &batch.records {
        Records::Ndjson(lines) => lines.line(index),
        Records::Arrow(columns) => {
            let mut writer = arrow_json::LineDelimitedWriter::new(Vec::new());
            // Writing into memory fails only for a type that JSON has no form for; such a record has no text.
            if writer.write(&columns.slice(index, 1)).and_then(|()| writer.finish()).is_err() {
                return Bytes::new();
            }
            let mut line = writer.into_inner();
            while line.last() == Some(&b'\n') {
                line.pop();
            }
            line.into()
        }
    }
}
