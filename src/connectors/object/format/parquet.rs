//! Why: records become a Parquet file that other engines read well. Never holds more than one row group.

use arrow_schema::{DataType, TimeUnit};
use bytes::Bytes;
use parquet::{
    arrow::ArrowWriter,
    basic::{Compression as Codec, GzipLevel, ZstdLevel},
    errors::ParquetError,
    file::properties::WriterProperties,
};

use super::{
    Compression, Encoder,
    columns::{Columns, columns_unknown, mismatch},
    compress::{GZIP_LEVEL, Out, ZSTD_LEVEL, out},
    internal, some,
};
use crate::{
    connectors::error::ConnectorError,
    record::{Batch, RecordSchema},
};

/// A row group is closed when it is about this large, in bytes as encoded: it is what an open object costs in memory.
const ROW_GROUP_BYTES: usize = 16 << 20;

/// Writes a Parquet file.
pub(super) struct ParquetEncoder {
    columns: Columns,
    compression: Compression,
    writer: Option<ArrowWriter<Out>>,
    /// A failure left a row group half written.
    broken: bool,
}

impl ParquetEncoder {
    pub(super) fn new(schema: Option<&RecordSchema>, compression: Compression) -> Self {
        Self { columns: Columns::new(schema, substitute, true), compression, writer: None, broken: false }
    }

    /// The writer, once the columns are known.
    fn writer(&mut self) -> Result<&mut ArrowWriter<Out>, ConnectorError> {
        if self.broken {
            return Err(internal("go on with a Parquet file", "an earlier write failed"));
        }
        if self.writer.is_none() {
            let schema = self.columns.schema().ok_or_else(columns_unknown)?;
            let properties = properties(self.compression).map_err(|error| internal("set up a Parquet file", error))?;
            let writer = ArrowWriter::try_new(out(), schema.clone(), Some(properties)).map_err(|error| {
                mismatch(format!("Parquet cannot hold the records' columns: {error}; send other types, or set the option file_format to ndjson"))
            })?;
            self.writer = Some(writer);
        }
        Ok(self.writer.as_mut().expect("it was made just now, if not before"))
    }
}

/// Parquet has no seconds; as plain numbers they would lose their meaning.
fn substitute(data_type: &DataType) -> Option<DataType> {
    match data_type {
        DataType::Timestamp(TimeUnit::Second, zone) => Some(DataType::Timestamp(TimeUnit::Millisecond, zone.clone())),
        DataType::Time32(TimeUnit::Second) => Some(DataType::Time32(TimeUnit::Millisecond)),
        _ => None,
    }
}

fn properties(compression: Compression) -> Result<WriterProperties, ParquetError> {
    let codec = match compression {
        Compression::None => Codec::UNCOMPRESSED,
        Compression::Gzip => Codec::GZIP(GzipLevel::try_new(GZIP_LEVEL)?),
        Compression::Zstd => Codec::ZSTD(ZstdLevel::try_new(ZSTD_LEVEL)?),
        Compression::Snappy => Codec::SNAPPY,
    };
    Ok(WriterProperties::builder()
        .set_compression(codec)
        .set_created_by(concat!("datasink version ", env!("CARGO_PKG_VERSION")).to_owned())
        .set_max_row_group_bytes(Some(ROW_GROUP_BYTES))
        // Dates of 64 bits and the names inside lists as the format's specification wants them, not as Arrow calls them.
        .set_coerce_types(true)
        .build())
}

impl Encoder for ParquetEncoder {
    fn append(&mut self, batch: &Batch) -> Result<(), ConnectorError> {
        if batch.is_empty() {
            return Ok(());
        }
        let columns = self.columns.of(batch)?;
        let written = self.writer()?.write(&columns);
        written.map_err(|error| {
            self.broken = true;
            internal("write a Parquet file", error)
        })
    }

    fn take(&mut self) -> Vec<Bytes> {
        let Some(writer) = &mut self.writer else { return Vec::new() };
        // Through its own buffer; memory takes every write, and a writer that failed is seen by the next append.
        if writer.sync().is_err() {
            self.broken = true;
        }
        some(writer.inner_mut().get_mut().split().freeze())
    }

    fn size(&self) -> u64 {
        self.writer.as_ref().map_or(0, |writer| (writer.bytes_written() + writer.in_progress_size()) as u64)
    }

    fn finish(mut self: Box<Self>) -> Result<Vec<Bytes>, ConnectorError> {
        self.writer()?;
        let writer = self.writer.take().expect("it was made just now, if not before");
        let out = writer.into_inner().map_err(|error| internal("finish a Parquet file", error))?;
        Ok(some(out.into_inner().freeze()))
    }
}
