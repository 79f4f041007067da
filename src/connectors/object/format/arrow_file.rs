//! Why: records become an Arrow IPC file, which is read without being parsed. Never writes a record batch for every small append.

use arrow_array::RecordBatch;
use arrow_ipc::{
    CompressionType, MetadataVersion,
    writer::{FileWriter, IpcWriteOptions},
};
use arrow_schema::ArrowError;
use bytes::Bytes;

use super::{
    Compression, Encoder,
    columns::{Columns, columns_unknown, mismatch},
    compress::{Out, ZSTD_LEVEL, out},
    internal, some,
};
use crate::{
    connectors::error::ConnectorError,
    record::{Batch, RecordSchema},
};

/// Appends are joined to record batches of at least this many bytes.
const BLOCK_BYTES: usize = 1 << 20;
/// What buffers begin at, in bytes; readers map them into memory.
const ALIGNMENT: usize = 64;

/// Writes an Arrow IPC file.
pub(super) struct ArrowFileEncoder {
    columns: Columns,
    compression: Compression,
    writer: Option<FileWriter<Out>>,
    waiting: Vec<RecordBatch>,
    waiting_bytes: usize,
    /// Bytes taken so far.
    taken: u64,
}

impl ArrowFileEncoder {
    pub(super) fn new(schema: Option<&RecordSchema>, compression: Compression) -> Self {
        let columns = Columns::new(schema, |_| None, true);
        Self { columns, compression, writer: None, waiting: Vec::new(), waiting_bytes: 0, taken: 0 }
    }

    /// The writer, once the columns are known.
    fn writer(&mut self) -> Result<&mut FileWriter<Out>, ConnectorError> {
        if self.writer.is_none() {
            let schema = self.columns.schema().ok_or_else(columns_unknown)?;
            let options = options(self.compression).map_err(|error| internal("set up an Arrow file", error))?;
            let writer = FileWriter::try_new_with_options(out(), schema, options)
                .map_err(|error| mismatch(format!("an Arrow file cannot hold the records' columns: {error}; send other types")))?;
            self.writer = Some(writer);
        }
        Ok(self.writer.as_mut().expect("it was made just now, if not before"))
    }

    /// Writes what waits as one record batch.
    fn write_block(&mut self) -> Result<(), ConnectorError> {
        let Some(first) = self.waiting.first() else { return Ok(()) };
        let block = arrow_select::concat::concat_batches(&first.schema(), &self.waiting).map_err(|error| internal("join record batches", error))?;
        self.waiting.clear();
        self.waiting_bytes = 0;
        self.writer()?.write(&block).map_err(|error| internal("write an Arrow file", error))
    }
}

fn options(compression: Compression) -> Result<IpcWriteOptions, ArrowError> {
    let options = IpcWriteOptions::try_new(ALIGNMENT, false, MetadataVersion::V5)?;
    match compression {
        Compression::Zstd => options.try_with_compression(Some(CompressionType::ZSTD))?.try_with_compression_level(Some(ZSTD_LEVEL)),
        // Gzip and Snappy were refused with the options.
        Compression::None | Compression::Gzip | Compression::Snappy => Ok(options),
    }
}

/// Bytes that the columns take in a file, uncompressed; a slice counts what it shows.
fn bytes_of(columns: &RecordBatch) -> usize {
    use arrow_array::Array;
    columns.columns().iter().map(|array| array.to_data().get_slice_memory_size().unwrap_or_else(|_| array.get_array_memory_size())).sum()
}

impl Encoder for ArrowFileEncoder {
    fn append(&mut self, batch: &Batch) -> Result<(), ConnectorError> {
        if batch.is_empty() {
            return Ok(());
        }
        let columns = self.columns.of(batch)?;
        // Before anything is taken: here it shows whether the types can be written at all.
        self.writer()?;
        self.waiting_bytes += bytes_of(&columns);
        self.waiting.push(columns);
        if self.waiting_bytes >= BLOCK_BYTES { self.write_block() } else { Ok(()) }
    }

    fn take(&mut self) -> Vec<Bytes> {
        let Some(writer) = &mut self.writer else { return Vec::new() };
        let bytes = writer.get_mut().get_mut().split().freeze();
        self.taken += bytes.len() as u64;
        some(bytes)
    }

    fn size(&self) -> u64 {
        let produced = self.writer.as_ref().map_or(0, |writer| writer.get_ref().get_ref().len());
        self.taken + (produced + self.waiting_bytes) as u64
    }

    fn finish(mut self: Box<Self>) -> Result<Vec<Bytes>, ConnectorError> {
        self.write_block()?;
        self.writer()?;
        let writer = self.writer.take().expect("it was made just now, if not before");
        let out = writer.into_inner().map_err(|error| internal("finish an Arrow file", error))?;
        Ok(some(out.into_inner().freeze()))
    }
}
