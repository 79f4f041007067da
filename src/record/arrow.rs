//! Why: columns come in as Arrow IPC and go out as Arrow. Never lets the decoder see lengths that [`super::arrow_guard`] has not checked, and never lets its panic out.

use std::{
    collections::HashSet,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
};

use arrow_array::{
    Array, ArrayRef, RecordBatch, RecordBatchOptions,
    builder::{
        BinaryBuilder, BooleanBuilder, Date32Builder, Decimal128Builder, Float32Builder, Float64Builder, Int8Builder, Int16Builder, Int32Builder, Int64Builder,
        StringBuilder, Time64MicrosecondBuilder, TimestampMicrosecondBuilder, UInt64Builder,
    },
};
use arrow_buffer::Buffer;
use arrow_ipc::{reader::StreamDecoder, writer::StreamWriter};
use arrow_schema::{DataType, Field, Schema, SchemaRef, TimeUnit, extension::EXTENSION_TYPE_NAME_KEY};
use bytes::Bytes;

use super::{
    Batch, Column, ColumnType, DecodeError, RecordFaults, RecordSchema, Records,
    arrow_guard::{self, unreadable},
    arrow_text,
    hash::RecordHashes,
    piece::check_size,
    row::{self, Cell},
};
use crate::limits::BATCH_DECODED_BYTES_MAX;

/// The canonical extension type of JSON text in a string column.
pub(super) const JSON_EXTENSION: &str = "arrow.json";

/// The records of one whole IPC stream, as one batch. Takes the bytes without a copy where they are aligned.
pub(super) fn decode(stream: &Bytes) -> Result<RecordBatch, DecodeError> {
    // The stream is dropped whatever happens, so nothing half-changed is seen after a panic.
    let decoded = catch_unwind(AssertUnwindSafe(|| {
        arrow_guard::check(stream)?;
        let batch = read(stream)?;
        check_columns(&batch)?;
        Ok(batch)
    }));
    decoded.unwrap_or_else(|_| {
        metrics::counter!("datasink_arrow_decode_panics_total").increment(1);
        Err(unreadable("it contradicts itself"))
    })
}

fn read(stream: &Bytes) -> Result<RecordBatch, DecodeError> {
    let refused = |error: arrow_schema::ArrowError| unreadable(error.to_string().chars().take(300).collect::<String>());
    let mut decoder = StreamDecoder::new();
    let mut buffer = Buffer::from(stream.clone());
    let mut batches = Vec::new();
    let mut bytes = 0_usize;
    while let Some(batch) = decoder.decode(&mut buffer).map_err(refused)? {
        // A dictionary is shared by batches but copied when they become one.
        bytes = bytes
            .saturating_add(batch.columns().iter().map(|column| column.to_data().get_slice_memory_size().unwrap_or(usize::MAX)).fold(0, usize::saturating_add));
        check_size(bytes, BATCH_DECODED_BYTES_MAX)?;
        batches.push(batch);
    }
    decoder.finish().map_err(refused)?;
    let schema = decoder.schema().ok_or_else(|| unreadable("it has no schema message"))?;
    match batches.len() {
        1 => Ok(batches.swap_remove(0)),
        _ => arrow_select::concat::concat_batches(&schema, &batches).map_err(refused),
    }
}

/// That every column has a name of its own and a type with a JSON text, and that the JSON text of all is bounded: dictionaries, views and nulls can make much out of little.
fn check_columns(batch: &RecordBatch) -> Result<(), DecodeError> {
    let schema = batch.schema();
    let mut names = HashSet::new();
    for field in schema.fields() {
        if !names.insert(field.name()) {
            return Err(unreadable(format!("two columns are named {:?}", arrow_text::short(field.name()))));
        }
        arrow_text::check_type(field.data_type()).map_err(|arrow_type| DecodeError::UnsupportedType {
            column: arrow_text::short(field.name()),
            arrow_type: arrow_type.chars().take(100).collect(),
        })?;
    }
    let bytes = arrow_text::bytes_at_most(batch);
    check_size(usize::try_from(bytes).unwrap_or(usize::MAX), BATCH_DECODED_BYTES_MAX)
}

/// A whole IPC stream of the records.
pub(super) fn write_stream(batch: &RecordBatch) -> Bytes {
    let mut stream = Vec::new();
    let written = StreamWriter::try_new(&mut stream, &batch.schema()).and_then(|mut writer| {
        writer.write(batch)?;
        writer.finish()
    });
    written.expect("a Vec takes every write, and our own schemas have no dictionaries");
    stream.into()
}

impl RecordSchema {
    /// The Arrow schema of [`Batch::to_arrow`]. UUID is text, JSON is text with the extension type `arrow.json`, TIMESTAMP is microseconds in UTC.
    pub fn to_arrow_schema(&self) -> SchemaRef {
        Arc::new(Schema::new(self.columns.iter().map(arrow_field).collect::<Vec<_>>()))
    }
}

fn arrow_field(column: &Column) -> Field {
    let data_type = match column.column_type {
        ColumnType::Bool => DataType::Boolean,
        ColumnType::Int8 => DataType::Int8,
        ColumnType::Int16 => DataType::Int16,
        ColumnType::Int32 => DataType::Int32,
        ColumnType::Int64 => DataType::Int64,
        ColumnType::Uint64 => DataType::UInt64,
        ColumnType::Float => DataType::Float32,
        ColumnType::Double => DataType::Float64,
        ColumnType::Decimal { precision, scale } => DataType::Decimal128(precision, scale.cast_signed()),
        ColumnType::String | ColumnType::Uuid | ColumnType::Json => DataType::Utf8,
        ColumnType::Bytes => DataType::Binary,
        ColumnType::Date => DataType::Date32,
        ColumnType::Time => DataType::Time64(TimeUnit::Microsecond),
        ColumnType::Timestamp => DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())),
    };
    let field = Field::new(&column.name, data_type, column.nullable);
    if column.column_type == ColumnType::Json {
        let pairs = [(EXTENSION_TYPE_NAME_KEY, JSON_EXTENSION), (arrow_schema::extension::EXTENSION_TYPE_METADATA_KEY, "")];
        return field.with_metadata(pairs.map(|(key, value)| (key.to_owned(), value.to_owned())).into());
    }
    field
}

impl Batch {
    /// These records as columns of `schema`; the same batch if they are that already. Fails with every record that does not fit.
    pub fn to_arrow(&self, schema: &RecordSchema) -> Result<Self, RecordFaults> {
        let lines = match &self.records {
            Records::Arrow(columns) if columns.schema() == schema.to_arrow_schema() => return Ok(self.clone()),
            _ => self.to_ndjson()?,
        };
        let Records::Ndjson(lines) = &lines.records else { unreachable!("to_ndjson gives ndjson") };
        let mut builders: Vec<Builder> = schema.columns.iter().map(Builder::new).collect();
        let mut faults = Vec::new();
        for (offset, line) in (self.first_offset..).zip(lines.iter()) {
            match row::read(schema, line) {
                Ok(cells) if faults.is_empty() => builders.iter_mut().zip(cells).for_each(|(builder, cell)| builder.append(cell)),
                Ok(_) => {}
                Err(fault) => faults.push((offset, fault)),
            }
        }
        if !faults.is_empty() {
            return Err(RecordFaults(faults));
        }
        let arrays = builders.into_iter().map(Builder::finish).collect();
        let options = RecordBatchOptions::new().with_row_count(Some(lines.len()));
        let columns = RecordBatch::try_new_with_options(schema.to_arrow_schema(), arrays, &options).expect("the builders follow the schema");
        let hashes = self.hashes.clone().unwrap_or_else(|| RecordHashes::of(lines));
        Ok(Self { records: Records::Arrow(columns), hashes: Some(hashes), ..self.clone() })
    }
}

/// A column under construction.
enum Builder {
    Bool(BooleanBuilder),
    Int8(Int8Builder),
    Int16(Int16Builder),
    Int32(Int32Builder),
    Int64(Int64Builder),
    Uint64(UInt64Builder),
    Float(Float32Builder),
    Double(Float64Builder),
    Decimal(Decimal128Builder),
    Text(StringBuilder),
    Bytes(BinaryBuilder),
    Date(Date32Builder),
    Time(Time64MicrosecondBuilder),
    Timestamp(TimestampMicrosecondBuilder),
}

impl Builder {
    fn new(column: &Column) -> Self {
        match column.column_type {
            ColumnType::Bool => Self::Bool(BooleanBuilder::new()),
            ColumnType::Int8 => Self::Int8(Int8Builder::new()),
            ColumnType::Int16 => Self::Int16(Int16Builder::new()),
            ColumnType::Int32 => Self::Int32(Int32Builder::new()),
            ColumnType::Int64 => Self::Int64(Int64Builder::new()),
            ColumnType::Uint64 => Self::Uint64(UInt64Builder::new()),
            ColumnType::Float => Self::Float(Float32Builder::new()),
            ColumnType::Double => Self::Double(Float64Builder::new()),
            ColumnType::Decimal { precision, scale } => {
                let data_type = DataType::Decimal128(precision, scale.cast_signed());
                Self::Decimal(Decimal128Builder::new().with_data_type(data_type))
            }
            ColumnType::String | ColumnType::Uuid | ColumnType::Json => Self::Text(StringBuilder::new()),
            ColumnType::Bytes => Self::Bytes(BinaryBuilder::new()),
            ColumnType::Date => Self::Date(Date32Builder::new()),
            ColumnType::Time => Self::Time(Time64MicrosecondBuilder::new()),
            ColumnType::Timestamp => Self::Timestamp(TimestampMicrosecondBuilder::new().with_timezone("UTC")),
        }
    }

    /// Appends a value that was read for this builder's column.
    fn append(&mut self, cell: Cell<'_>) {
        const IN_RANGE: &str = "the column's range was checked";
        match (self, cell) {
            (Self::Bool(builder), cell) => builder.append_option(if let Cell::Bool(truth) = cell { Some(truth) } else { None }),
            (Self::Int8(builder), Cell::Int(number)) => builder.append_value(i8::try_from(number).expect(IN_RANGE)),
            (Self::Int16(builder), Cell::Int(number)) => builder.append_value(i16::try_from(number).expect(IN_RANGE)),
            (Self::Int32(builder), Cell::Int(number)) => builder.append_value(i32::try_from(number).expect(IN_RANGE)),
            (Self::Int64(builder), Cell::Int(number)) => builder.append_value(number),
            (Self::Uint64(builder), Cell::Uint(number)) => builder.append_value(number),
            (Self::Float(builder), Cell::Float(number)) => builder.append_value(number),
            (Self::Double(builder), Cell::Double(number)) => builder.append_value(number),
            (Self::Decimal(builder), Cell::Decimal(unscaled)) => builder.append_value(unscaled),
            (Self::Text(builder), Cell::String(text) | Cell::Json(text)) => builder.append_value(text),
            (Self::Text(builder), Cell::Uuid(uuid)) => builder.append_value(uuid.hyphenated().to_string()),
            (Self::Bytes(builder), Cell::Bytes(bytes)) => builder.append_value(bytes),
            (Self::Date(builder), Cell::Date(days)) => builder.append_value(days),
            (Self::Time(builder), Cell::Time(micros)) => builder.append_value(micros),
            (Self::Timestamp(builder), Cell::Timestamp(micros)) => builder.append_value(micros),
            (builder, Cell::Null) => builder.append_null(),
            (_, cell) => unreachable!("{cell:?} was read for another column"),
        }
    }

    fn append_null(&mut self) {
        match self {
            Self::Bool(builder) => builder.append_null(),
            Self::Int8(builder) => builder.append_null(),
            Self::Int16(builder) => builder.append_null(),
            Self::Int32(builder) => builder.append_null(),
            Self::Int64(builder) => builder.append_null(),
            Self::Uint64(builder) => builder.append_null(),
            Self::Float(builder) => builder.append_null(),
            Self::Double(builder) => builder.append_null(),
            Self::Decimal(builder) => builder.append_null(),
            Self::Text(builder) => builder.append_null(),
            Self::Bytes(builder) => builder.append_null(),
            Self::Date(builder) => builder.append_null(),
            Self::Time(builder) => builder.append_null(),
            Self::Timestamp(builder) => builder.append_null(),
        }
    }

    fn finish(self) -> ArrayRef {
        match self {
            Self::Bool(mut builder) => Arc::new(builder.finish()),
            Self::Int8(mut builder) => Arc::new(builder.finish()),
            Self::Int16(mut builder) => Arc::new(builder.finish()),
            Self::Int32(mut builder) => Arc::new(builder.finish()),
            Self::Int64(mut builder) => Arc::new(builder.finish()),
            Self::Uint64(mut builder) => Arc::new(builder.finish()),
            Self::Float(mut builder) => Arc::new(builder.finish()),
            Self::Double(mut builder) => Arc::new(builder.finish()),
            Self::Decimal(mut builder) => Arc::new(builder.finish()),
            Self::Text(mut builder) => Arc::new(builder.finish()),
            Self::Bytes(mut builder) => Arc::new(builder.finish()),
            Self::Date(mut builder) => Arc::new(builder.finish()),
            Self::Time(mut builder) => Arc::new(builder.finish()),
            Self::Timestamp(mut builder) => Arc::new(builder.finish()),
        }
    }
}
