//! Why: one bad record must not cost its neighbours: good runs and refused records leave a decoder in offset order. Never copies a good record.

use std::sync::Arc;

use bytes::Bytes;

use super::{Batch, Change, DecodeError, Ndjson, Offset, Payload, RecordFault, Records, RejectedRecord};
use crate::{
    clock::Timestamp,
    limits::{BATCH_DECODED_BYTES_MAX, BATCH_RECORDS_MAX},
};

/// A batch as it came, before anything is known about its records.
#[derive(Debug, Clone)]
pub struct Incoming {
    /// The records.
    pub payload: Payload,
    /// The offset of the first one.
    pub first_offset: Offset,
    /// How many there are, if the sender says so; then it is checked.
    pub stated_count: Option<u64>,
    /// What all the records say happened to their rows.
    pub change: Change,
    /// When it happened, where the source knows.
    pub event_time: Option<Timestamp>,
    /// W3C trace context of whatever produced the batch.
    pub traceparent: Option<Arc<str>>,
}

/// A part of a decoded payload. Parts follow one another without a hole or an overlap.
#[derive(Debug, Clone)]
pub enum Piece {
    /// A run of records that can go on.
    Good(Batch),
    /// One that cannot.
    Bad(RejectedRecord),
}

/// What the records of an incoming batch have in common once its payload is taken out.
#[derive(Debug, Clone)]
pub(super) struct Head {
    pub(super) first_offset: Offset,
    pub(super) change: Change,
    pub(super) event_time: Option<Timestamp>,
    pub(super) traceparent: Option<Arc<str>>,
}

impl Head {
    pub(super) fn batch(&self, records: Records) -> Batch {
        Batch { change: self.change, event_time: self.event_time, traceparent: self.traceparent.clone(), ..Batch::new(self.first_offset, records) }
    }
}

/// The records of a payload, line by line, the refused ones set aside.
#[derive(Debug, Default)]
pub(super) struct Lines {
    bytes: Bytes,
    /// Every record's place; a refused one has an empty place so that indexes agree.
    places: Vec<(u32, u32)>,
    /// The refused ones by index, ascending.
    refused: Vec<(usize, RecordFault, Bytes)>,
}

impl Lines {
    pub(super) fn len(&self) -> usize {
        self.places.len()
    }

    pub(super) fn good(&mut self, start: usize, end: usize) {
        let place = |at: usize| u32::try_from(at).expect("payloads are far below 4 GiB");
        self.places.push((place(start), place(end)));
    }

    pub(super) fn bad(&mut self, fault: RecordFault, original: Bytes) {
        self.refused.push((self.places.len(), fault, original));
        self.places.push((0, 0));
    }

    /// Sets the bytes that the places are places of.
    pub(super) fn over(mut self, bytes: Bytes) -> Self {
        self.bytes = bytes;
        self
    }

    /// Good runs and refused records in offset order.
    pub(super) fn pieces(self, head: &Head) -> Vec<Piece> {
        let whole = head.batch(Records::Ndjson(Ndjson::from_checked(self.bytes, self.places.into()))).hashed();
        let mut pieces = Vec::with_capacity(2 * self.refused.len() + 1);
        let mut from = 0;
        for (index, fault, original) in self.refused {
            if from < index {
                pieces.push(Piece::Good(whole.slice(from..index)));
            }
            pieces.push(Piece::Bad(RejectedRecord { offset: head.first_offset + index as u64, index, original, fault }));
            from = index + 1;
        }
        if from < whole.len() {
            pieces.push(Piece::Good(whole.slice(from..whole.len())));
        }
        pieces
    }
}

/// Records that are written as text one after the other: each is kept whole or taken back.
#[derive(Debug, Default)]
pub(super) struct LineWriter {
    text: Vec<u8>,
    lines: Lines,
}

impl LineWriter {
    /// Appends what `write` writes; if it refuses, nothing of it stays and `original` is kept for whoever reports the record.
    pub(super) fn record(
        &mut self,
        write: impl FnOnce(&mut Vec<u8>) -> Result<(), RecordFault>,
        original: impl FnOnce() -> Vec<u8>,
    ) -> Result<(), DecodeError> {
        check_count(self.lines.len() + 1)?;
        let start = self.text.len();
        let written = write(&mut self.text).and_then(|()| super::ndjson::check_record_size(self.text.len() - start));
        match written {
            Ok(()) => {
                self.lines.good(start, self.text.len());
                self.text.push(b'\n');
                check_size(self.text.len(), BATCH_DECODED_BYTES_MAX)
            }
            Err(fault) => {
                self.text.truncate(start);
                self.lines.bad(fault, original().into());
                Ok(())
            }
        }
    }

    pub(super) fn finish(self) -> Lines {
        self.lines.over(self.text.into())
    }
}

pub(super) fn check_size(got_bytes: usize, limit_bytes: usize) -> Result<(), DecodeError> {
    if got_bytes > limit_bytes { Err(DecodeError::TooLarge { limit_bytes, got_bytes: got_bytes as u64 }) } else { Ok(()) }
}

pub(super) fn check_count(found: usize) -> Result<(), DecodeError> {
    if found > BATCH_RECORDS_MAX { Err(DecodeError::TooManyRecords { limit: BATCH_RECORDS_MAX }) } else { Ok(()) }
}
