//! Why: every batch enters through one door, which splits faults of records from faults of the batch. Never trusts a count, a length or an encoding.

use std::sync::Arc;

use super::{
    Incoming, Payload, Piece, RecordSchema, arrow, json, ndjson,
    piece::{Head, Lines},
    typed,
};

/// Why a whole batch cannot be taken. One sentence each, without any part of a record.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// More bytes than a batch may have, as it came or once decoded.
    #[error("the batch has {got_bytes} bytes; at most {limit_bytes} are taken: send smaller batches")]
    TooLarge {
        /// The most, in bytes.
        limit_bytes: usize,
        /// What was found, or where counting stopped.
        got_bytes: u64,
    },
    /// More records than a batch may have.
    #[error("the batch has more than {limit} records: send smaller batches")]
    TooManyRecords {
        /// The most.
        limit: usize,
    },
    /// The sender said another number of records than there are.
    #[error("the batch says it has {stated} records and has {found}")]
    CountMismatch {
        /// What the sender said.
        stated: u64,
        /// What was found.
        found: u64,
    },
    /// Typed records, and nobody said what their columns are.
    #[error("typed records need a schema: state it when the stream is opened, or send ndjson, json or arrow_ipc")]
    SchemaMissing,
    /// The last record's offset would not fit.
    #[error("records from offset {first_offset} on run past the largest offset, 2^63 - 1")]
    OffsetOverflow {
        /// The first offset of the batch.
        first_offset: u64,
    },
    /// An Arrow stream with compressed bodies, whose declared lengths cannot be trusted.
    #[error("the Arrow stream has compressed bodies ({codec}); send them uncompressed, and let gRPC compress the message")]
    Compressed {
        /// The codec's name.
        codec: String,
    },
    /// Not an Arrow stream, or one that contradicts itself.
    #[error("the Arrow stream cannot be read: {reason}")]
    Unreadable {
        /// What is wrong.
        reason: String,
    },
    /// A valid Arrow stream with a type that no other encoding can say exactly.
    #[error("column {column:?} has the Arrow type {arrow_type}, which is not supported: cast it before sending")]
    UnsupportedType {
        /// The column.
        column: String,
        /// Its type.
        arrow_type: String,
    },
}

impl DecodeError {
    /// Every varying part of the message, by key; the keys are part of the interface.
    pub fn metadata(&self) -> Vec<(&'static str, String)> {
        match self {
            Self::TooLarge { limit_bytes, got_bytes } => vec![("limit_bytes", limit_bytes.to_string()), ("got_bytes", got_bytes.to_string())],
            Self::TooManyRecords { limit } => vec![("limit", limit.to_string())],
            Self::CountMismatch { stated, found } => vec![("stated", stated.to_string()), ("found", found.to_string())],
            Self::SchemaMissing => vec![("wanted", "typed".to_owned()), ("available", "ndjson, json, arrow_ipc".to_owned())],
            Self::OffsetOverflow { first_offset } => vec![("first_offset", first_offset.to_string())],
            Self::Compressed { codec } => vec![("codec", codec.clone())],
            Self::Unreadable { reason } => vec![("reason", reason.clone())],
            Self::UnsupportedType { column, arrow_type } => vec![("column", column.clone()), ("arrow_type", arrow_type.clone())],
        }
    }
}

/// The records of a batch, in offset order: runs of good ones, sharing the payload's bytes, and between them the bad ones. All good: exactly one piece; no records: none.
/// `schema` is needed for typed records only. Arrow may take milliseconds: see [`decode_off_thread`].
pub fn decode(incoming: Incoming, schema: Option<&RecordSchema>) -> Result<Vec<Piece>, DecodeError> {
    let Incoming { payload, first_offset, stated_count, change, event_time, traceparent } = incoming;
    let head = Head { first_offset, change, event_time, traceparent };
    match payload {
        Payload::Ndjson(bytes) => finish(ndjson::decode(bytes)?, &head, stated_count),
        Payload::Json(objects) => finish(json::decode(objects)?, &head, stated_count),
        Payload::Typed(records) => finish(typed::decode(records, schema.ok_or(DecodeError::SchemaMissing)?)?, &head, stated_count),
        Payload::ArrowIpc(bytes) => {
            let columns = arrow::decode(&bytes)?;
            check_offsets(&head, stated_count, columns.num_rows())?;
            Ok(if columns.num_rows() == 0 { Vec::new() } else { vec![Piece::Good(head.batch(super::Records::Arrow(columns)))] })
        }
    }
}

/// [`decode`], with Arrow on a thread for blocking work: a hostile stream may not hold up the sessions of others.
pub async fn decode_off_thread(incoming: Incoming, schema: Option<Arc<RecordSchema>>) -> Result<Vec<Piece>, DecodeError> {
    if !matches!(incoming.payload, Payload::ArrowIpc(_)) {
        return decode(incoming, schema.as_deref());
    }
    let decoded = tokio::task::spawn_blocking(move || decode(incoming, schema.as_deref())).await;
    decoded.unwrap_or_else(|_| Err(DecodeError::Unreadable { reason: "the server is stopping".to_owned() }))
}

fn finish(lines: Lines, head: &Head, stated_count: Option<u64>) -> Result<Vec<Piece>, DecodeError> {
    check_offsets(head, stated_count, lines.len())?;
    Ok(lines.pieces(head))
}

fn check_offsets(head: &Head, stated: Option<u64>, found: usize) -> Result<(), DecodeError> {
    let found = found as u64;
    if let Some(stated) = stated.filter(|stated| *stated != found) {
        return Err(DecodeError::CountMismatch { stated, found });
    }
    // On the wire an offset is an int64.
    match head.first_offset.checked_add(found) {
        Some(next) if i64::try_from(next).is_ok() => Ok(()),
        _ => Err(DecodeError::OffsetOverflow { first_offset: head.first_offset }),
    }
}
