//! Why: records become the bytes of an object, in the form and the compression that the sink's options name. Never holds more of an object than a row group or a block, and never lets one
//! record's fault spoil its neighbours.
//!
//! | `file_format` | `file_compression` | Name ends in | How it is compressed |
//! |---|---|---|---|
//! | `ndjson` | none, gzip, zstd, snappy | `ndjson` + `gz`, `zst`, `sz` | the whole object: gzip level 1, zstd level 1 with a checksum, Snappy's framing format |
//! | `csv` | none, gzip, zstd, snappy | `csv` + `gz`, `zst`, `sz` | likewise |
//! | `parquet` | none, gzip, zstd, snappy | `parquet` | its pages: gzip level 1, zstd level 1, snappy |
//! | `arrow` | none, zstd | `arrow` | its buffers: zstd level 1 |
//! | `avro` | none, gzip, zstd, snappy | `avro` | its blocks; `gzip` is what Avro calls `deflate` (the same algorithm), level 1 |
//!
//! # How values are written
//!
//! | Column | CSV | Parquet | Arrow | Avro |
//! |---|---|---|---|---|
//! | BOOL | `true`, `false` | BOOLEAN | bool | boolean |
//! | INT8 … INT64 | digits | INT(8 … 64, signed) | int8 … int64 | int, int, int, long |
//! | UINT64 | digits | INT(64, unsigned) | uint64 | bytes, decimal(20, 0): a long would lose the upper half |
//! | FLOAT, DOUBLE | shortest form | FLOAT, DOUBLE | float, double | float, double |
//! | DECIMAL | digits | DECIMAL | decimal128 | bytes, decimal |
//! | STRING | text | STRING | utf8 | string |
//! | BYTES | base64 | BYTE_ARRAY | binary | bytes |
//! | DATE | `2026-11-24` | DATE | date32 | int, date |
//! | TIME | `13:45:00.5` | TIME(micros, local) | time64[us] | long, time-micros |
//! | TIMESTAMP | `2026-11-24T13:45:00.5Z` | TIMESTAMP(micros, UTC) | timestamp[us, UTC] | long, timestamp-micros |
//! | UUID | text | STRING | utf8 | string |
//! | JSON | its text | STRING | utf8, extension `arrow.json` | string |
//!
//! UUID and JSON are text everywhere: every reader opens that, and the columns of a stream that comes as Arrow may hold no type for them. Dictionary columns are written as their values.
//!
//! # Same records, same bytes
//!
//! The same records in the same batches always give the same bytes: no clock, no random number enters (gzip's header has no time; Avro's sync marker is a hash of what stands before its first
//! use). NDJSON, CSV and Avro give the same bytes however the records were grouped into appends, in every compression. Parquet's pages and Arrow's record batches follow the appends: other
//! groups give other bytes that mean the same.

mod arrow_file;
mod avro;
mod columns;
mod compress;
mod csv;
mod ndjson;
mod parquet;
#[cfg(test)]
mod tests;

use bytes::Bytes;
use object_store::{Attribute, Attributes};

use crate::{
    connectors::{
        error::{ConnectorError, ConnectorErrorKind},
        options::{ConfigFault, ConfigFaultKind, did_you_mean},
    },
    record::{Batch, Encoding, RecordFaults, RecordSchema},
};

/// The option that names the form of objects.
pub(super) const FILE_FORMAT: &str = "file_format";
/// The words of [`FILE_FORMAT`].
pub(super) const FILE_FORMATS: &[&str] = &["ndjson", "csv", "parquet", "arrow", "avro"];
/// The option that names their compression.
pub(super) const COMPRESSION: &str = "file_compression";
/// The words of [`COMPRESSION`].
pub(super) const COMPRESSIONS: &[&str] = &["none", "gzip", "zstd", "snappy"];

/// The form of an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum FileFormat {
    /// A JSON object a line, the text as it came.
    Ndjson,
    /// RFC 4180 with a header line; null is an empty field, the empty text is `""`.
    Csv,
    /// Apache Parquet.
    Parquet,
    /// Arrow's IPC file.
    ArrowIpc,
    /// Avro's object container file.
    Avro,
}

/// How an object, or what is inside it, is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Compression {
    /// Not at all.
    None,
    /// Deflate, in gzip's frame where the whole object is compressed.
    Gzip,
    /// Zstandard.
    Zstd,
    /// Snappy, in its framing format where the whole object is compressed.
    Snappy,
}

/// How records become the bytes of an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Format {
    /// The form.
    pub(super) file: FileFormat,
    /// The compression; the pair has a meaning.
    pub(super) compression: Compression,
}

impl Format {
    /// From the words of the options; unknown words are faults of their option, and a pair without a meaning is a conflict.
    pub(super) fn parse(file: &str, compression: &str) -> Result<Self, ConfigFault> {
        let file = match file {
            "ndjson" => FileFormat::Ndjson,
            "csv" => FileFormat::Csv,
            "parquet" => FileFormat::Parquet,
            "arrow" => FileFormat::ArrowIpc,
            "avro" => FileFormat::Avro,
            other => return Err(unknown_word(FILE_FORMAT, other, FILE_FORMATS)),
        };
        let compression = match compression {
            "none" => Compression::None,
            "gzip" => Compression::Gzip,
            "zstd" => Compression::Zstd,
            "snappy" => Compression::Snappy,
            other => return Err(unknown_word(COMPRESSION, other, COMPRESSIONS)),
        };
        if file == FileFormat::ArrowIpc && !matches!(compression, Compression::None | Compression::Zstd) {
            let message = "an Arrow file is compressed inside, with zstd or not at all: set file_compression to zstd or none, or file_format to ndjson, csv, parquet or avro, \
                           which take none, gzip, zstd and snappy";
            return Err(ConfigFault::option(ConfigFaultKind::Conflict, COMPRESSION, message).with("conflicts_with", FILE_FORMAT));
        }
        Ok(Self { file, compression })
    }

    /// What an object's name ends in, without the point before it.
    pub(super) fn extension(&self) -> &'static str {
        use Compression as C;
        match (self.file, self.compression) {
            (FileFormat::Ndjson, C::None) => "ndjson",
            (FileFormat::Ndjson, C::Gzip) => "ndjson.gz",
            (FileFormat::Ndjson, C::Zstd) => "ndjson.zst",
            (FileFormat::Ndjson, C::Snappy) => "ndjson.sz",
            (FileFormat::Csv, C::None) => "csv",
            (FileFormat::Csv, C::Gzip) => "csv.gz",
            (FileFormat::Csv, C::Zstd) => "csv.zst",
            (FileFormat::Csv, C::Snappy) => "csv.sz",
            (FileFormat::Parquet, _) => "parquet",
            (FileFormat::ArrowIpc, _) => "arrow",
            (FileFormat::Avro, _) => "avro",
        }
    }

    /// The object's media type: that of the bytes as they lie there, so a compressed text is an archive and not a text.
    pub(super) fn content_type(&self) -> &'static str {
        match (self.file, self.compression) {
            (FileFormat::Ndjson, Compression::None) => "application/x-ndjson",
            (FileFormat::Csv, Compression::None) => "text/csv; charset=utf-8; header=present",
            (FileFormat::Ndjson | FileFormat::Csv, Compression::Gzip) => "application/gzip",
            (FileFormat::Ndjson | FileFormat::Csv, Compression::Zstd) => "application/zstd",
            (FileFormat::Ndjson | FileFormat::Csv, Compression::Snappy) => "application/x-snappy-framed",
            (FileFormat::Parquet, _) => "application/vnd.apache.parquet",
            (FileFormat::ArrowIpc, _) => "application/vnd.apache.arrow.file",
            (FileFormat::Avro, _) => "application/avro",
        }
    }

    /// The object's `Content-Encoding`: never one. With it browsers, SDKs and Google's servers decompress on the way, and what arrives under a name that ends in `gz` is no gzip; sizes and
    /// hashes then differ from the receipt's too.
    pub(super) fn content_encoding(&self) -> Option<&'static str> {
        None
    }

    /// What the store is told of the bytes.
    pub(super) fn kind_of_content(&self) -> Attributes {
        let mut attributes: Attributes = [(Attribute::ContentType, self.content_type())].into_iter().collect();
        if let Some(encoding) = self.content_encoding() {
            attributes.insert(Attribute::ContentEncoding, encoding.into());
        }
        attributes
    }

    /// The encoding of records that it works from.
    pub(super) fn takes(&self) -> Encoding {
        match self.file {
            FileFormat::Ndjson => Encoding::Ndjson,
            FileFormat::Csv | FileFormat::Parquet | FileFormat::ArrowIpc | FileFormat::Avro => Encoding::ArrowIpc,
        }
    }

    /// An encoder for one object. `schema`: the stream's columns where known. Without them all but NDJSON take the columns of the first Arrow batch, refuse text, and refuse a later batch with
    /// other columns ([`ConnectorErrorKind::SchemaMismatch`]).
    pub(super) fn encoder(&self, schema: Option<&RecordSchema>) -> Result<Box<dyn Encoder>, ConnectorError> {
        Ok(match self.file {
            FileFormat::Ndjson => Box::new(ndjson::NdjsonEncoder::new(self.compression)?),
            FileFormat::Csv => Box::new(csv::CsvEncoder::new(schema, self.compression)?),
            FileFormat::Parquet => Box::new(parquet::ParquetEncoder::new(schema, self.compression)),
            FileFormat::ArrowIpc => Box::new(arrow_file::ArrowFileEncoder::new(schema, self.compression)),
            FileFormat::Avro => Box::new(avro::AvroEncoder::new(schema, self.compression)),
        })
    }
}

/// Encodes one object, streaming: memory is bounded by a row group or a block and by the batch at hand, not by the object.
pub(super) trait Encoder: Send {
    /// Takes records. If it fails nothing of `batch` was taken: with the offsets of the records at fault where only they are, and the encoder can go on; of another kind, where it cannot.
    fn append(&mut self, batch: &Batch) -> Result<(), ConnectorError>;

    /// Bytes produced so far and not yet taken.
    fn take(&mut self) -> Vec<Bytes>;

    /// About the object's size, were it closed now, taken bytes included. Exact for uncompressed NDJSON and CSV; elsewhere what waits to be compressed counts as it is, and a footer does not.
    fn size(&self) -> u64;

    /// The rest: what waited, footers, trailers.
    fn finish(self: Box<Self>) -> Result<Vec<Bytes>, ConnectorError>;
}

fn unknown_word(option: &str, word: &str, allowed: &'static [&'static str]) -> ConfigFault {
    let shown: String = word.chars().take(100).collect();
    let hint = did_you_mean(word, allowed.iter().copied()).map(|near| format!("; did you mean {near:?}?")).unwrap_or_default();
    let message = format!("{shown:?} is not allowed for option {option:?}; allowed: {}{hint}", allowed.join(", "));
    ConfigFault::option(ConfigFaultKind::InvalidOption, option, message).with("allowed", allowed.join(", "))
}

/// Records that the format cannot hold.
pub(super) fn refused(RecordFaults(faults): RecordFaults) -> ConnectorError {
    let first = faults.first().map(|(offset, fault)| format!("record {offset} cannot be written: {}", fault.message)).unwrap_or_default();
    let error = ConnectorError::new(ConnectorErrorKind::Rejected, first);
    faults.into_iter().fold(error, |error, (offset, fault)| error.record(offset, fault))
}

/// A failure that no record and no option can be blamed for: memory takes every write.
pub(super) fn internal(doing: &str, error: impl std::fmt::Display) -> ConnectorError {
    let why: String = error.to_string().chars().take(300).collect();
    ConnectorError::new(ConnectorErrorKind::Internal, format!("cannot {doing}: {why}"))
}

/// The bytes as a list, which is empty where there are none.
fn some(bytes: Bytes) -> Vec<Bytes> {
    if bytes.is_empty() { Vec::new() } else { vec![bytes] }
}
