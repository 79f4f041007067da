//! Why: how a row looks on disk, for every engine: checksummed, and cut into pieces that sled never turns into unsynced blobs. Never does I/O.

use bytes::{BufMut, Bytes, BytesMut};
use xxhash_rust::xxh3::xxh3_64;

use super::{StoreError, Table};
use crate::limits;

const VERSION: u8 = 1;
const WHOLE: u8 = 0;
const CHUNKED: u8 = 1;
const HEAD_BYTES: usize = 6;

/// Rows, the chunks of large rows, root records and the store's own facts lie in spaces of their own.
#[derive(Clone, Copy)]
#[repr(u8)]
pub(super) enum Space {
    Row = b'r',
    Chunk = b'c',
    Root = b't',
}

/// The key in the engine: space, table, NUL, key.
pub(super) fn full_key(space: Space, table: Table, key: &[u8]) -> Vec<u8> {
    let mut full = Vec::with_capacity(table.name.len() + key.len() + 2);
    full.push(space as u8);
    full.extend_from_slice(table.name.as_bytes());
    full.push(0);
    full.extend_from_slice(key);
    full
}

/// The key of chunk `index`; four bytes at the end, so that chunks of different keys never meet.
pub(super) fn chunk_key(table: Table, key: &[u8], index: u32) -> Vec<u8> {
    let mut full = full_key(Space::Chunk, table, key);
    full.extend_from_slice(&index.to_be_bytes());
    full
}

/// A value as pieces: the row's own, then its chunks.
pub(super) struct Pieces {
    pub(super) row: Vec<u8>,
    pub(super) chunks: Vec<Vec<u8>>,
}

/// Cuts and checksums a value.
pub(super) fn encode(key: &[u8], value: &[u8]) -> Pieces {
    if value.len() <= limits::STORE_VALUE_BYTES_MAX {
        return Pieces { row: sealed(key, WHOLE, value), chunks: Vec::new() };
    }
    let chunks: Vec<Vec<u8>> = value.chunks(limits::STORE_VALUE_BYTES_MAX).map(|chunk| sealed(key, CHUNKED, chunk)).collect();
    let mut head = Vec::with_capacity(16);
    head.put_u32(u32::try_from(chunks.len()).expect("entries are limited to a few megabytes"));
    head.put_u64(xxh3_64(value));
    Pieces { row: sealed(key, CHUNKED, &head), chunks }
}

/// What a row says of itself.
pub(super) enum Decoded {
    Whole(Bytes),
    Chunked { chunks: u32, hash: u64 },
}

/// Checks a row's own piece.
pub(super) fn decode(key: &[u8], stored: &[u8]) -> Result<Decoded, StoreError> {
    let (kind, payload) = opened(key, stored)?;
    match kind {
        WHOLE => Ok(Decoded::Whole(Bytes::copy_from_slice(payload))),
        CHUNKED if payload.len() == 12 => {
            let (count, hash) = payload.split_at(4);
            Ok(Decoded::Chunked {
                chunks: u32::from_be_bytes(count.try_into().expect("four bytes")),
                hash: u64::from_be_bytes(hash.try_into().expect("eight bytes")),
            })
        }
        _ => Err(corrupt(key, "its shape is unknown")),
    }
}

/// Checks one chunk.
pub(super) fn decode_chunk<'a>(key: &[u8], stored: &'a [u8]) -> Result<&'a [u8], StoreError> {
    opened(key, stored).map(|(_, payload)| payload)
}

/// Checks a value put together from chunks.
pub(super) fn whole(key: &[u8], value: BytesMut, hash: u64) -> Result<Bytes, StoreError> {
    if xxh3_64(&value) == hash { Ok(value.freeze()) } else { Err(corrupt(key, "its pieces do not fit together")) }
}

/// The row's share of its table's hash: sums of these do not depend on the order of rows.
pub(super) fn row_hash(key: &[u8], value: &[u8]) -> u64 {
    xxh3_64(key) ^ xxh3_64(value).rotate_left(17)
}

fn sealed(key: &[u8], kind: u8, payload: &[u8]) -> Vec<u8> {
    let mut row = Vec::with_capacity(payload.len() + HEAD_BYTES);
    row.push(VERSION);
    row.put_u32(checksum(key, kind, payload));
    row.push(kind);
    row.extend_from_slice(payload);
    row
}

fn opened<'a>(key: &[u8], stored: &'a [u8]) -> Result<(u8, &'a [u8]), StoreError> {
    if stored.len() < HEAD_BYTES || stored[0] != VERSION {
        return Err(corrupt(key, "it is too short or of an unknown version"));
    }
    let (kind, payload) = (stored[5], &stored[HEAD_BYTES..]);
    if stored[1..5] != checksum(key, kind, payload).to_be_bytes() {
        return Err(corrupt(key, "its checksum is wrong"));
    }
    Ok((kind, payload))
}

fn checksum(key: &[u8], kind: u8, payload: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c_append(crc32c::crc32c(key), &[kind]), payload)
}

pub(super) fn corrupt(key: &[u8], why: &str) -> StoreError {
    StoreError::Corrupt(format!(
        "the row {:?} was not read as it was written: {why}; restore an export with `datasink store import`",
        String::from_utf8_lossy(key)
    ))
}
