//! Why: an Arrow stream declares its own lengths, and the decoder believes them: a false one allocates until the process dies. Everything declared is compared here with what is there,
//! before the decoder sees a byte. Never decodes a value.

use arrow_ipc::{CompressionType, DictionaryBatch, Field, Message, MessageHeader, MetadataVersion, RecordBatch, Schema, root_as_message};

use super::{
    DecodeError,
    piece::{check_count, check_size},
};
use crate::limits::{BATCH_BYTES_MAX, BATCH_DECODED_BYTES_MAX, COLUMNS_MAX};

/// How deep columns may nest. Every level is a call in the decoder; a record's own depth is counted on its JSON text.
const DEPTH_MAX: usize = 32;
/// The most columns at all depths.
const FIELDS_MAX: usize = 4 * COLUMNS_MAX;
/// The most dictionary messages: each delta makes the decoder copy its dictionary.
const DICTIONARIES_MAX: usize = 1_000;
/// The most values of one column at any depth; even bits make no more out of a batch.
const VALUES_MAX: i64 = BATCH_DECODED_BYTES_MAX as i64;

/// That `stream` is one whole, uncompressed IPC stream whose every declared length lies within it.
pub(super) fn check(stream: &[u8]) -> Result<(), DecodeError> {
    check_size(stream.len(), BATCH_BYTES_MAX)?;
    let mut walk = Walk { rest: stream, ..Walk::default() };
    while let Some((message, body)) = walk.message()? {
        walk.check_message(&message, body)?;
    }
    if !walk.schema_seen {
        return Err(unreadable("it has no schema message"));
    }
    if !walk.rest.is_empty() {
        return Err(unreadable(format!("{} bytes follow its end", walk.rest.len())));
    }
    Ok(())
}

pub(super) fn unreadable(reason: impl Into<String>) -> DecodeError {
    DecodeError::Unreadable { reason: reason.into() }
}

/// A walk over the messages, and sums over all of them.
#[derive(Debug, Default)]
struct Walk<'a> {
    rest: &'a [u8],
    schema_seen: bool,
    rows: usize,
    dictionaries: usize,
    /// Declared by all buffers together: buffers may overlap, so the payload's size does not bound it.
    buffer_bytes: usize,
}

impl<'a> Walk<'a> {
    fn take(&mut self, len: usize, what: &str) -> Result<&'a [u8], DecodeError> {
        let (taken, rest) = self.rest.split_at_checked(len).ok_or_else(|| unreadable(format!("{what} runs past its last byte")))?;
        self.rest = rest;
        Ok(taken)
    }

    fn length(&mut self, what: &str) -> Result<i32, DecodeError> {
        let bytes = self.take(4, what)?;
        Ok(i32::from_le_bytes(bytes.try_into().expect("four bytes were taken")))
    }

    /// The next message and its body; `None` at the end mark, which must be there: without it nobody can tell whether batches are missing.
    fn message(&mut self) -> Result<Option<(Message<'a>, &'a [u8])>, DecodeError> {
        if self.rest.is_empty() {
            return Err(unreadable("it ends without an end-of-stream mark"));
        }
        // Before Arrow 0.15 there was no marker; the decoder would take that form, and nobody sends it.
        if self.length("a message marker")? != -1 {
            return Err(unreadable("a message does not begin with the continuation marker"));
        }
        let length = self.length("a message length")?;
        if length == 0 {
            return Ok(None);
        }
        let length = usize::try_from(length).map_err(|_| unreadable("a message has a negative length"))?;
        let metadata = self.take(length, "a message")?;
        let message = root_as_message(metadata).map_err(|_| unreadable("a message is not well formed"))?;
        let body = usize::try_from(message.bodyLength()).map_err(|_| unreadable("a body has a negative length"))?;
        Ok(Some((message, self.take(body, "a body")?)))
    }

    fn check_message(&mut self, message: &Message<'a>, body: &[u8]) -> Result<(), DecodeError> {
        if message.version() < MetadataVersion::V4 {
            return Err(unreadable("its format version is older than V4"));
        }
        match message.header_type() {
            MessageHeader::Schema if self.schema_seen => Err(unreadable("it has two schemas")),
            MessageHeader::Schema => {
                self.schema_seen = true;
                check_schema(message.header_as_schema().ok_or_else(missing_header)?)
            }
            _ if !self.schema_seen => Err(unreadable("its first message is not a schema")),
            MessageHeader::RecordBatch => {
                let batch = message.header_as_record_batch().ok_or_else(missing_header)?;
                let rows = usize::try_from(batch.length()).map_err(|_| unreadable("a record batch has a negative length"))?;
                self.rows = self.rows.saturating_add(rows);
                check_count(self.rows)?;
                self.check_batch(batch, body)
            }
            MessageHeader::DictionaryBatch => self.check_dictionary(message.header_as_dictionary_batch().ok_or_else(missing_header)?, body),
            _ => Err(unreadable("it has a message that is neither a schema, a dictionary nor a record batch")),
        }
    }

    fn check_dictionary(&mut self, dictionary: DictionaryBatch<'_>, body: &[u8]) -> Result<(), DecodeError> {
        self.dictionaries += 1;
        if self.dictionaries > DICTIONARIES_MAX {
            return Err(unreadable(format!("it has more than {DICTIONARIES_MAX} dictionary messages")));
        }
        let data = dictionary.data().ok_or_else(missing_header)?;
        if !(0..=VALUES_MAX).contains(&data.length()) {
            return Err(unreadable("a dictionary declares an impossible length"));
        }
        self.check_batch(data, body)
    }

    fn check_batch(&mut self, batch: RecordBatch<'_>, body: &[u8]) -> Result<(), DecodeError> {
        if let Some(compression) = batch.compression() {
            let codec = match compression.codec() {
                CompressionType::LZ4_FRAME => "lz4",
                CompressionType::ZSTD => "zstd",
                _ => "unknown",
            };
            return Err(DecodeError::Compressed { codec: codec.to_owned() });
        }
        let buffers = batch.buffers().ok_or_else(|| unreadable("a record batch has no list of buffers"))?;
        for buffer in &buffers {
            let (Ok(offset), Ok(length)) = (usize::try_from(buffer.offset()), usize::try_from(buffer.length())) else {
                return Err(unreadable("a buffer has a negative offset or length"));
            };
            if offset.checked_add(length).is_none_or(|end| end > body.len()) {
                return Err(unreadable("a buffer runs past its body"));
            }
            self.buffer_bytes = self.buffer_bytes.saturating_add(length);
        }
        check_size(self.buffer_bytes, BATCH_DECODED_BYTES_MAX)?;
        let nodes = batch.nodes().ok_or_else(|| unreadable("a record batch has no list of columns"))?;
        if nodes.iter().any(|node| !(0..=VALUES_MAX).contains(&node.length()) || !(0..=node.length()).contains(&node.null_count())) {
            return Err(unreadable("a column declares an impossible length or number of nulls"));
        }
        // What views declare as their number of buffers is bounded by the buffers that are there.
        let declared = batch.variadicBufferCounts().into_iter().flatten();
        let views = declared.map(|count| usize::try_from(count).ok()).try_fold(0_usize, |sum, count| sum.checked_add(count?));
        if views.is_none_or(|views| views > buffers.len()) {
            return Err(unreadable("a column of views declares more buffers than there are"));
        }
        Ok(())
    }
}

fn missing_header() -> DecodeError {
    unreadable("a message has no header")
}

fn check_schema(schema: Schema<'_>) -> Result<(), DecodeError> {
    let fields = schema.fields().ok_or_else(|| unreadable("its schema has no list of columns"))?;
    if fields.len() > COLUMNS_MAX {
        return Err(unreadable(format!("its schema has {} columns; at most {COLUMNS_MAX} are taken", fields.len())));
    }
    let mut found = 0;
    fields.iter().try_for_each(|field| check_field(field, 1, &mut found))
}

fn check_field(field: Field<'_>, depth: usize, found: &mut usize) -> Result<(), DecodeError> {
    *found += 1;
    if *found > FIELDS_MAX {
        return Err(unreadable(format!("its schema has more than {FIELDS_MAX} columns at all depths")));
    }
    if depth > DEPTH_MAX {
        return Err(unreadable(format!("its columns nest more than {DEPTH_MAX} levels deep")));
    }
    if field.name().is_none() {
        return Err(unreadable("a column has no name"));
    }
    field.children().into_iter().flatten().try_for_each(|child| check_field(child, depth + 1, found))
}
