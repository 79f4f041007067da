//! Why: records become lines that spreadsheets and loaders read, and null stays apart from the empty text. Never changes a text, not even one that a spreadsheet would take for a formula.
//!
//! RFC 4180: commas, CRLF, a header line. The crate writes numbers, dates and times; it has one text for null and for the empty string, so texts get their quotes here and it adds none. Bytes are
//! base64, lists, structs, maps and JSON columns are JSON text, by the one conversion that the product has for them. In a file of one column a null is `""` as well: an empty line is no record.

use std::{fmt::Write, sync::Arc};

use arrow_array::{Array, ArrayRef, LargeStringArray, RecordBatch, RecordBatchOptions, StringArray, builder::StringBuilder, cast::AsArray};
use arrow_csv::{QuoteStyle, WriterBuilder, writer::Terminator};
use arrow_schema::{ArrowError, DataType, Field, Schema, SchemaRef, extension::EXTENSION_TYPE_NAME_KEY};
use bytes::Bytes;

use super::{
    Compression, Encoder,
    columns::{Columns, blame, columns_unknown, mismatch},
    compress::Text,
    internal, refused,
};
use crate::{
    connectors::error::ConnectorError,
    record::{Batch, Offset, RecordSchema, Records},
};

/// What Arrow calls a column of JSON text.
const JSON_EXTENSION: &str = "arrow.json";

/// Writes a header line, then a line a record.
pub(super) struct CsvEncoder {
    columns: Columns,
    text: Text,
    headed: bool,
}

impl CsvEncoder {
    pub(super) fn new(schema: Option<&RecordSchema>, compression: Compression) -> Result<Self, ConnectorError> {
        Ok(Self { columns: Columns::new(schema, substitute, true), text: Text::new(compression)?, headed: false })
    }

    /// Writes the header, once the columns are known.
    fn head(&mut self) -> Result<(), ConnectorError> {
        if self.headed {
            return Ok(());
        }
        let schema = self.columns.schema().ok_or_else(columns_unknown)?;
        let mut line = String::new();
        for (index, field) in schema.fields().iter().enumerate() {
            if index > 0 {
                line.push(',');
            }
            quote(field.name(), &mut line);
        }
        line += "\r\n";
        self.headed = true;
        self.text.write(line.as_bytes())
    }
}

/// Instants are written in UTC, also those whose zone the crate has no table for; what has no zone counts as UTC, as everywhere in the product.
fn substitute(data_type: &DataType) -> Option<DataType> {
    match data_type {
        DataType::Timestamp(unit, _) => Some(DataType::Timestamp(*unit, Some("+00:00".into()))),
        _ => None,
    }
}

/// Appends a text with the quotes that it needs; the empty text needs them, to be no null.
fn quote(text: &str, out: &mut String) {
    if !needs_quotes(text) {
        out.push_str(text);
        return;
    }
    out.push('"');
    for (index, part) in text.split('"').enumerate() {
        if index > 0 {
            out.push_str("\"\"");
        }
        out.push_str(part);
    }
    out.push('"');
}

fn needs_quotes(text: &str) -> bool {
    text.is_empty() || memchr::memchr3(b'"', b',', b'\n', text.as_bytes()).is_some() || memchr::memchr(b'\r', text.as_bytes()).is_some()
}

/// The column as the crate can write it: numbers and times as they are, all else as text with its quotes.
fn writable(field: &Field, array: &ArrayRef, first_offset: Offset) -> Result<ArrayRef, ConnectorError> {
    let is_json = field.metadata().get(EXTENSION_TYPE_NAME_KEY).is_some_and(|name| name == JSON_EXTENSION);
    match array.data_type() {
        data_type if is_json || data_type.is_nested() => json_texts(field, array, first_offset, quote),
        // Between quotes as JSON; base64 needs none here, unless there are no bytes at all.
        DataType::Binary | DataType::LargeBinary | DataType::BinaryView | DataType::FixedSizeBinary(_) => {
            json_texts(field, array, first_offset, |text, out| quote(text.trim_matches('"'), out))
        }
        DataType::Utf8 => {
            let texts: &StringArray = array.as_string();
            Ok(quoted(array, texts.iter()))
        }
        DataType::LargeUtf8 => {
            let texts: &LargeStringArray = array.as_string();
            Ok(quoted(array, texts.iter()))
        }
        DataType::Utf8View => Ok(quoted(array, array.as_string_view().iter())),
        _ => Ok(Arc::clone(array)),
    }
}

/// The texts with the quotes they need; the same array where none does.
fn quoted<'a>(array: &ArrayRef, texts: impl Iterator<Item = Option<&'a str>> + Clone) -> ArrayRef {
    if !texts.clone().flatten().any(needs_quotes) {
        return Arc::clone(array);
    }
    let mut builder = StringBuilder::with_capacity(array.len(), array.get_array_memory_size());
    let mut cell = String::new();
    for text in texts {
        match text {
            None => builder.append_null(),
            Some(text) => {
                cell.clear();
                quote(text, &mut cell);
                builder.append_value(&cell);
            }
        }
    }
    Arc::new(builder.finish())
}

/// The column's values as the product writes them in JSON, each passed through `write`.
fn json_texts(field: &Field, array: &ArrayRef, first_offset: Offset, write: impl Fn(&str, &mut String)) -> Result<ArrayRef, ConnectorError> {
    let schema = Arc::new(Schema::new(vec![field.clone()]));
    let alone = RecordBatch::try_new(schema, vec![Arc::clone(array)]).map_err(|error| internal("take a column out of a batch", error))?;
    let batch = Batch::new(first_offset, Records::Arrow(alone));
    let Records::Ndjson(lines) = batch.to_ndjson().map_err(refused)?.records else { unreachable!("to_ndjson gives ndjson") };
    let mut key = String::new();
    write!(key, "{{{}:", serde_json::Value::from(field.name().as_str())).expect("a String takes every write");
    let mut builder = StringBuilder::new();
    let mut cell = String::new();
    for (row, line) in lines.iter().enumerate() {
        if array.is_null(row) {
            builder.append_null();
            continue;
        }
        let value = line.get(key.len()..line.len() - 1).and_then(|value| std::str::from_utf8(value).ok());
        cell.clear();
        write(value.expect("a line of one column is its key, its value in UTF-8 and a brace"), &mut cell);
        builder.append_value(&cell);
    }
    Ok(Arc::new(builder.finish()))
}

/// The lines of the records.
fn lines(columns: &RecordBatch) -> Result<Vec<u8>, ArrowError> {
    let mut lines = Vec::new();
    let mut writer = WriterBuilder::new().with_header(false).with_line_terminator(Terminator::CRLF).with_quote_style(QuoteStyle::Never).build(&mut lines);
    writer.write(columns)?;
    drop(writer);
    Ok(lines)
}

fn all_writable(columns: &RecordBatch, first_offset: Offset) -> Result<RecordBatch, ConnectorError> {
    let pairs = columns.schema_ref().fields().iter().zip(columns.columns());
    let arrays = pairs.map(|(field, array)| writable(field, array, first_offset)).collect::<Result<Vec<_>, _>>()?;
    let fields: Vec<_> =
        columns.schema_ref().fields().iter().zip(&arrays).map(|(field, array)| Field::new(field.name(), array.data_type().clone(), true)).collect();
    let schema: SchemaRef = Arc::new(Schema::new(fields));
    let options = RecordBatchOptions::new().with_row_count(Some(columns.num_rows()));
    RecordBatch::try_new_with_options(schema, arrays, &options).map_err(|error| mismatch(format!("CSV cannot hold the records' columns: {error}")))
}

impl Encoder for CsvEncoder {
    fn append(&mut self, batch: &Batch) -> Result<(), ConnectorError> {
        if batch.is_empty() {
            return Ok(());
        }
        let columns = all_writable(&self.columns.of(batch)?, batch.first_offset)?;
        // Aside first: a date that has no text shows only when it is written.
        let lines = lines(&columns).map_err(|error| {
            let attempt = |row, count| lines(&columns.slice(row, count)).map(drop);
            blame(batch.first_offset, columns.num_rows(), None, &error, attempt)
        })?;
        self.head()?;
        self.text.reserve(lines.len());
        self.text.write(&lines)
    }

    fn take(&mut self) -> Vec<Bytes> {
        self.text.take()
    }

    fn size(&self) -> u64 {
        self.text.size()
    }

    fn finish(mut self: Box<Self>) -> Result<Vec<Bytes>, ConnectorError> {
        self.head()?;
        self.text.finish()
    }
}
