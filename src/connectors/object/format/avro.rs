//! Why: records become an Avro object container file whose bytes depend on the records alone. Never writes a number that another type would have to round.
//!
//! The crate's own container writer makes a block of every append and a random sync marker, and compresses at levels that are slower than the network. So it encodes the rows and writes the
//! header here, and the blocks (a count, a length, the rows, the marker) are put together below. The marker is a hash of the header and the first block: a sender cannot know it before that
//! block is full, and the same records give the same file.

use std::{collections::HashMap, io::Write, sync::Arc};

use arrow_array::RecordBatch;
use arrow_avro::{
    compression::CompressionCodec,
    schema::AVRO_NAME_METADATA_KEY,
    writer::{
        Encoder as RowEncoder, WriterBuilder,
        format::{AvroBinaryFormat, AvroFormat, AvroOcfFormat},
    },
};
use arrow_schema::{ArrowError, DataType, Field, Fields, Schema, SchemaRef, TimeUnit};
use bytes::{BufMut, Bytes, BytesMut};
use flate2::write::DeflateEncoder;
use sha2::{Digest, Sha256};

use super::{
    Compression, Encoder,
    columns::{Columns, blame, columns_unknown, mismatch},
    compress::{GZIP_LEVEL, ZSTD_LEVEL},
    internal, some,
};
use crate::{
    connectors::error::ConnectorError,
    record::{Batch, RecordSchema},
};

/// A block is closed with the row that makes it this long, in bytes before compression.
const BLOCK_BYTES: usize = 256 << 10;
/// Length of a sync marker, in bytes.
const MARKER_BYTES: usize = 16;
/// What the rows' record is called; Avro wants a name.
const RECORD_NAME: &str = "record";

/// Writes an Avro object container file.
pub(super) struct AvroEncoder {
    columns: Columns,
    compression: Compression,
    rows: Option<Rows>,
    block: Vec<u8>,
    block_rows: i64,
    /// Known with the first block.
    marker: Option<[u8; MARKER_BYTES]>,
    out: BytesMut,
    /// Bytes taken so far.
    taken: u64,
}

/// What turns columns into rows.
struct Rows {
    encoder: RowEncoder,
    /// The columns under names that Avro allows.
    schema: SchemaRef,
    /// Everything before the sync marker.
    header: Vec<u8>,
}

impl AvroEncoder {
    pub(super) fn new(schema: Option<&RecordSchema>, compression: Compression) -> Self {
        let columns = Columns::new(schema, substitute, false);
        Self { columns, compression, rows: None, block: Vec::new(), block_rows: 0, marker: None, out: BytesMut::new(), taken: 0 }
    }

    fn rows(&mut self) -> Result<&mut Rows, ConnectorError> {
        if self.rows.is_none() {
            let schema = self.columns.schema().ok_or_else(columns_unknown)?;
            self.rows = Some(Rows::new(schema, self.compression)?);
        }
        Ok(self.rows.as_mut().expect("it was made just now, if not before"))
    }

    /// Writes the block, and before the first one the header.
    fn write_block(&mut self) -> Result<(), ConnectorError> {
        let marker = match self.marker {
            Some(marker) => marker,
            None => {
                let header = std::mem::take(&mut self.rows()?.header);
                let hash = Sha256::new().chain_update(&header).chain_update(&self.block).finalize();
                let marker = *hash.first_chunk().expect("a hash of 32 bytes has 16");
                self.out.extend_from_slice(&header);
                self.out.extend_from_slice(&marker);
                *self.marker.insert(marker)
            }
        };
        if self.block_rows == 0 {
            return Ok(());
        }
        let packed = match self.compression {
            Compression::None => None,
            other => Some(pack(other, &self.block).map_err(|error| internal("compress an Avro block", error))?),
        };
        let body = packed.as_deref().unwrap_or(&self.block);
        put_long(&mut self.out, self.block_rows);
        put_long(&mut self.out, i64::try_from(body.len()).expect("a block is one row longer than a few hundred KiB"));
        self.out.extend_from_slice(body);
        self.out.extend_from_slice(&marker);
        self.block.clear();
        self.block_rows = 0;
        Ok(())
    }
}

impl Rows {
    fn new(schema: &SchemaRef, compression: Compression) -> Result<Self, ConnectorError> {
        let named = [(AVRO_NAME_METADATA_KEY.to_owned(), RECORD_NAME.to_owned())];
        let schema = Schema::new_with_metadata(avro_fields(schema.fields())?, HashMap::from(named));
        let cannot = |error: &dyn std::fmt::Display| {
            mismatch(format!("Avro cannot hold the records' columns: {error}; send other types or names, or set the option file_format to ndjson"))
        };
        let encoder = WriterBuilder::new(schema.clone()).build_encoder::<AvroBinaryFormat>().map_err(|error| cannot(&error))?;
        let codec = match compression {
            Compression::None => None,
            Compression::Gzip => Some(CompressionCodec::Deflate),
            Compression::Zstd => Some(CompressionCodec::ZStandard),
            Compression::Snappy => Some(CompressionCodec::Snappy),
        };
        let mut header = Vec::new();
        AvroOcfFormat::default().start_stream(&mut header, &schema, codec).map_err(|error| cannot(&error))?;
        // It ends with a random marker; ours comes in its place.
        header.truncate(header.len() - MARKER_BYTES);
        // The encoder looks at its own schema's fields only.
        Ok(Self { encoder, schema: Arc::new(schema), header })
    }

    fn encode(&mut self, columns: &RecordBatch) -> Result<(), ArrowError> {
        let renamed = RecordBatch::try_new(Arc::clone(&self.schema), columns.columns().to_vec())?;
        self.encoder.encode(&renamed).map_err(|error| ArrowError::AvroError(error.to_string()))
    }
}

/// What Avro has no exact type for, where another type has.
fn substitute(data_type: &DataType) -> Option<DataType> {
    match data_type {
        DataType::UInt64 => Some(DataType::Decimal128(20, 0)),
        DataType::Decimal32(precision, scale) | DataType::Decimal64(precision, scale) => Some(DataType::Decimal128(*precision, *scale)),
        // Always null, of whatever type.
        DataType::Null => Some(DataType::Utf8),
        _ => None,
    }
}

/// The columns under names of letters, digits and `_`; what has no exact type at all is refused, and so are names that would become one.
fn avro_fields(fields: &Fields) -> Result<Fields, ConnectorError> {
    let renamed: Vec<_> = fields.iter().map(|field| field.as_ref().clone().with_name(avro_name(field.name()))).collect();
    check_fields(fields)?;
    Ok(renamed.into())
}

fn check_fields(fields: &Fields) -> Result<(), ConnectorError> {
    let mut seen: HashMap<String, &str> = HashMap::new();
    for field in fields {
        if let Some(other) = seen.insert(avro_name(field.name()), field.name()) {
            let message =
                format!("Avro's names have letters, digits and _ only, so the columns {other:?} and {:?} would be one; rename one of them", field.name());
            return Err(mismatch(message));
        }
        check_field(field)?;
    }
    Ok(())
}

fn check_field(field: &Field) -> Result<(), ConnectorError> {
    match field.data_type() {
        DataType::Time64(TimeUnit::Nanosecond) => {
            Err(mismatch(format!("Avro has no time of day in nanoseconds, which column {:?} is; send microseconds", field.name())))
        }
        DataType::Struct(fields) => check_fields(fields),
        DataType::List(item) | DataType::LargeList(item) | DataType::FixedSizeList(item, _) => check_field(item),
        DataType::Map(entries, _) => check_field(entries),
        _ => Ok(()),
    }
}

fn avro_name(name: &str) -> String {
    let mut allowed: String = name.chars().map(|c| if c.is_ascii_alphanumeric() || c == '_' { c } else { '_' }).collect();
    if !allowed.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_') {
        allowed.insert(0, '_');
    }
    allowed
}

fn pack(compression: Compression, block: &[u8]) -> std::io::Result<Vec<u8>> {
    match compression {
        Compression::None => Ok(block.to_vec()),
        Compression::Gzip => {
            let mut encoder = DeflateEncoder::new(Vec::new(), flate2::Compression::new(GZIP_LEVEL));
            encoder.write_all(block)?;
            encoder.finish()
        }
        Compression::Zstd => zstd::bulk::compress(block, ZSTD_LEVEL),
        Compression::Snappy => {
            let mut packed = snap::raw::Encoder::new().compress_vec(block)?;
            // Avro wants the checksum of the rows behind them, high byte first.
            let mut checksum = flate2::Crc::new();
            checksum.update(block);
            packed.extend_from_slice(&checksum.sum().to_be_bytes());
            Ok(packed)
        }
    }
}

/// Avro's long: zigzag, seven bits a byte, the lowest first.
fn put_long(out: &mut BytesMut, number: i64) {
    let mut rest = ((number << 1) ^ (number >> 63)).cast_unsigned();
    while rest >= 0x80 {
        out.put_u8(rest as u8 | 0x80);
        rest >>= 7;
    }
    out.put_u8(rest as u8);
}

impl Encoder for AvroEncoder {
    fn append(&mut self, batch: &Batch) -> Result<(), ConnectorError> {
        if batch.is_empty() {
            return Ok(());
        }
        let columns = self.columns.of(batch)?;
        let rows = self.rows()?;
        if let Err(error) = rows.encode(&columns) {
            let attempt = |row, count| {
                let encoded = rows.encode(&columns.slice(row, count));
                rows.encoder.flush();
                encoded
            };
            return Err(blame(batch.first_offset, columns.num_rows(), None, &error, attempt));
        }
        let encoded = rows.encoder.flush();
        for ends in encoded.offsets().windows(2) {
            self.block.extend_from_slice(&encoded.bytes()[ends[0]..ends[1]]);
            self.block_rows += 1;
            if self.block.len() >= BLOCK_BYTES {
                self.write_block()?;
            }
        }
        Ok(())
    }

    fn take(&mut self) -> Vec<Bytes> {
        let bytes = self.out.split().freeze();
        self.taken += bytes.len() as u64;
        some(bytes)
    }

    fn size(&self) -> u64 {
        let header = self.rows.as_ref().map_or(0, |rows| rows.header.len());
        self.taken + (header + self.out.len() + self.block.len()) as u64
    }

    fn finish(mut self: Box<Self>) -> Result<Vec<Bytes>, ConnectorError> {
        self.write_block()?;
        Ok(some(self.out.freeze()))
    }
}
