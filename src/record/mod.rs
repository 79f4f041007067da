//! Why: records in motion have one shape, [`Batch`], and every conversion between encodings exists once, here. Never knows who sent a record or where it goes.

mod arrow;
mod arrow_guard;
mod arrow_text;
mod decode;
mod encode;
mod hash;
mod json;
mod ndjson;
mod piece;
mod row;
mod scalar;
mod schema;
#[cfg(test)]
mod tests;
mod typed;

use std::{ops::Range, sync::Arc};

use arrow_array::RecordBatch;
use bytes::Bytes;

pub use decode::{DecodeError, decode, decode_off_thread};
pub use encode::encode;
use hash::RecordHashes;
pub use hash::RollingHash;
pub use json::{JsonObject, JsonValue};
pub use piece::{Incoming, Piece};
pub use schema::{Column, ColumnType, RecordSchema, SchemaFault};

use crate::clock::Timestamp;

/// A record's number in its stream, from 0, without holes.
pub type Offset = u64;

/// Records that follow one another in a stream, all of them well formed. Cheap to clone and to cut: bytes are shared.
#[derive(Debug, Clone)]
pub struct Batch {
    /// The offset of the first record.
    pub first_offset: Offset,
    /// The records.
    pub records: Records,
    /// What all the records say happened to their rows.
    pub change: Change,
    /// When it happened, where the source knows.
    pub event_time: Option<Timestamp>,
    /// W3C trace context of whatever produced the batch; linked, not continued.
    pub traceparent: Option<Arc<str>>,
    /// Where records that came as text are columns now: what [`RollingHash`] takes of their texts.
    hashes: Option<RecordHashes>,
}

/// The records of a batch in the encoding they came in.
#[derive(Debug, Clone)]
pub enum Records {
    /// JSON objects, a line each.
    Ndjson(Ndjson),
    /// Columns.
    Arrow(RecordBatch),
}

/// NDJSON text with the place of every line: checked once, never parsed again by a writer that wants JSON.
#[derive(Debug, Clone)]
pub struct Ndjson {
    bytes: Bytes,
    /// `(start, end)` of each line in `bytes`, without its newline.
    lines: Arc<[(u32, u32)]>,
    range: Range<usize>,
}

impl Ndjson {
    /// Lines of `bytes` that the caller has checked to be JSON objects, as `(start, end)` in ascending order.
    pub fn from_checked(bytes: Bytes, lines: Arc<[(u32, u32)]>) -> Self {
        let range = 0..lines.len();
        Self { bytes, lines, range }
    }

    /// How many records.
    pub fn len(&self) -> usize {
        self.range.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.range.is_empty()
    }

    /// The JSON text of record `index`, without a newline.
    pub fn line(&self, index: usize) -> Bytes {
        let (start, end) = self.lines[self.range.start + index];
        self.bytes.slice(start as usize..end as usize)
    }

    /// The JSON texts, in order, borrowed.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &[u8]> {
        self.lines[self.range.clone()].iter().map(|(start, end)| &self.bytes[*start as usize..*end as usize])
    }

    /// Records `range` of these, sharing the bytes.
    pub fn slice(&self, range: Range<usize>) -> Self {
        assert!(range.end <= self.len(), "the slice lies within the records");
        Self { bytes: self.bytes.clone(), lines: self.lines.clone(), range: self.range.start + range.start..self.range.start + range.end }
    }

    /// The records as one text with a newline after each, sharing the bytes; `None` where they came otherwise: with blanks around a record, or without the last newline.
    pub fn text(&self) -> Option<Bytes> {
        let lines = &self.lines[self.range.clone()];
        let (Some((first, _)), Some((_, last))) = (lines.first(), lines.last()) else { return Some(Bytes::new()) };
        let unbroken = lines.windows(2).all(|pair| pair[0].1 + 1 == pair[1].0) && lines.iter().all(|(_, end)| self.bytes.get(*end as usize) == Some(&b'\n'));
        unbroken.then(|| self.bytes.slice(*first as usize..*last as usize + 1))
    }

    /// Bytes of the records with a newline each.
    pub fn byte_count(&self) -> u64 {
        self.iter().map(|line| line.len() as u64 + 1).sum()
    }
}

impl Batch {
    /// New rows, of which nothing else is known.
    pub fn new(first_offset: Offset, records: Records) -> Self {
        Self { first_offset, records, change: Change::Insert, event_time: None, traceparent: None, hashes: None }
    }

    /// The batch with other records in the place of its own.
    #[must_use]
    pub fn with_records(&self, records: Records) -> Self {
        Self { records, hashes: None, ..self.clone() }
    }

    /// How many records.
    pub fn len(&self) -> usize {
        match &self.records {
            Records::Ndjson(lines) => lines.len(),
            Records::Arrow(columns) => columns.num_rows(),
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The offset after the last record.
    pub fn next_offset(&self) -> Offset {
        self.first_offset + self.len() as u64
    }

    /// Bytes held by the records, as the budget counts them.
    pub fn byte_count(&self) -> u64 {
        match &self.records {
            Records::Ndjson(lines) => lines.byte_count(),
            Records::Arrow(columns) => columns.get_array_memory_size() as u64,
        }
    }

    /// Records `range` of this batch (indexes, not offsets), sharing the bytes.
    pub fn slice(&self, range: Range<usize>) -> Self {
        let records = match &self.records {
            Records::Ndjson(lines) => Records::Ndjson(lines.slice(range.clone())),
            Records::Arrow(columns) => Records::Arrow(columns.slice(range.start, range.len())),
        };
        let hashes = self.hashes.as_ref().map(|hashes| hashes.slice(range.clone()));
        Self { first_offset: self.first_offset + range.start as u64, records, hashes, ..self.clone() }
    }

    /// Without the records before `offset`; `None` if nothing is left.
    pub fn from_offset(&self, offset: Offset) -> Option<Self> {
        if offset <= self.first_offset {
            return Some(self.clone());
        }
        let skip = usize::try_from(offset - self.first_offset).unwrap_or(usize::MAX);
        (skip < self.len()).then(|| self.slice(skip..self.len()))
    }
}

/// What a record says happened to its row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Change {
    /// A new row.
    #[default]
    Insert,
    /// A changed row.
    Update,
    /// A removed row.
    Delete,
}

/// An encoding of records.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Encoding {
    /// UTF-8 text, one JSON object a line.
    Ndjson,
    /// Protobuf structs.
    Json,
    /// Values in schema order.
    Typed,
    /// One whole Arrow IPC stream.
    ArrowIpc,
}

/// A batch's payload as it came over the wire.
#[derive(Debug, Clone)]
pub enum Payload {
    /// UTF-8 text, one JSON object a line.
    Ndjson(Bytes),
    /// JSON objects, as a protobuf `Struct` holds them.
    Json(Vec<JsonObject>),
    /// Values in the order of the stream's schema.
    Typed(Vec<Vec<TypedValue>>),
    /// One whole Arrow IPC stream.
    ArrowIpc(Bytes),
}

/// One value of a typed record.
#[derive(Debug, Clone, PartialEq)]
pub enum TypedValue {
    /// SQL's NULL.
    Null,
    /// A truth value.
    Bool(bool),
    /// A signed integer.
    Int(i64),
    /// An unsigned integer.
    Uint(u64),
    /// A double.
    Double(f64),
    /// Text; also decimals, dates, times, UUIDs and JSON.
    String(String),
    /// Bytes.
    Bytes(Bytes),
    /// An instant.
    Timestamp(Timestamp),
}

/// Why a record cannot be taken, wherever that was found. What makes one must be deterministic: the same record always gives the same fault.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecordFault {
    /// Which sort of fault.
    pub kind: RecordFaultKind,
    /// One sentence, lower case: what is wrong and what would be right.
    pub message: String,
    /// The column at fault, where there is one.
    pub column: Option<String>,
}

impl RecordFault {
    pub(crate) fn unparsable(message: String) -> Self {
        Self { kind: RecordFaultKind::Unparsable, message, column: None }
    }

    pub(crate) fn too_large(message: String) -> Self {
        Self { kind: RecordFaultKind::TooLarge, message, column: None }
    }

    /// `column` is what the record calls it, which may be long and strange: it is cut to what a name may have.
    pub(crate) fn invalid(column: &str, message: String) -> Self {
        let column = column.chars().take(crate::limits::NAME_CHARS_MAX).collect();
        Self { kind: RecordFaultKind::Invalid, message, column: Some(column) }
    }
}

/// The records of a batch that cannot be converted; the others can.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{} of the batch's records cannot be converted, the first at offset {}: {}", .0.len(), .0[0].0, .0[0].1.message)]
pub struct RecordFaults(pub Vec<(Offset, RecordFault)>);

/// The sorts of record faults.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RecordFaultKind {
    /// Not a JSON object, or not UTF-8.
    Unparsable,
    /// Does not fit the schema, or the destination names it as bad.
    Invalid,
    /// Larger than the destination or the product takes.
    TooLarge,
}

/// A record that was refused, with what a dead letter must carry.
#[derive(Debug, Clone)]
pub struct RejectedRecord {
    /// Its offset in its stream.
    pub offset: Offset,
    /// Its place in the batch it came in.
    pub index: usize,
    /// The bytes as they came (JSON text where it was not text).
    pub original: Bytes,
    /// Why.
    pub fault: RecordFault,
}
