//! Why: the forms that lay records out by column all see the same columns, batch after batch, with types that they can write. Never changes a value: what a type cannot hold is refused.

use std::sync::Arc;

use arrow_array::{Array, ArrayRef, RecordBatch};
use arrow_cast::{CastOptions, cast_with_options};
use arrow_schema::{ArrowError, DataType, Field, Fields, Schema, SchemaRef};

use super::refused;
use crate::{
    connectors::error::{ConnectorError, ConnectorErrorKind},
    record::{Batch, Offset, RecordFault, RecordFaults, RecordSchema, Records},
};

/// The type that a form writes instead of one that it does not know; `None`: it knows the type. Never asked about dictionaries, lists, structs and maps, only about what is in them.
pub(super) type Substitute = fn(&DataType) -> Option<DataType>;

/// The columns of one object.
pub(super) struct Columns {
    /// The stream's, where known: records are converted to them.
    stream: Option<RecordSchema>,
    /// As they come: the stream's, or the first batch's.
    given: Option<SchemaRef>,
    /// As they are written.
    written: Option<SchemaRef>,
    substitute: Substitute,
    keeps_metadata: bool,
}

impl Columns {
    /// `keeps_metadata`: whether what the sender wrote about single columns means something to this form.
    pub(super) fn new(stream: Option<&RecordSchema>, substitute: Substitute, keeps_metadata: bool) -> Self {
        let mut columns = Self { stream: stream.cloned(), given: None, written: None, substitute, keeps_metadata };
        if let Some(stream) = stream {
            columns.settle(&stream.to_arrow_schema());
        }
        columns
    }

    /// What is written, once it is known.
    pub(super) fn schema(&self) -> Option<&SchemaRef> {
        self.written.as_ref()
    }

    fn settle(&mut self, given: &SchemaRef) {
        let fields: Fields = given.fields().iter().map(|field| Arc::new(self.written_field(field))).collect();
        // What the sender says about all columns is left out: it may mean anything to a writer, and maps have no order.
        self.written = Some(Arc::new(Schema::new(fields)));
        self.given = Some(Arc::clone(given));
    }

    fn written_field(&self, field: &Field) -> Field {
        let written = field.clone().with_data_type(self.written_type(field.data_type()));
        if self.keeps_metadata { written } else { written.with_metadata(Default::default()) }
    }

    fn written_type(&self, given: &DataType) -> DataType {
        let inside = |field: &Arc<Field>| Arc::new(self.written_field(field));
        match given {
            DataType::Dictionary(_, values) => self.written_type(values),
            DataType::List(item) => DataType::List(inside(item)),
            DataType::LargeList(item) => DataType::LargeList(inside(item)),
            DataType::FixedSizeList(item, length) => DataType::FixedSizeList(inside(item), *length),
            DataType::Struct(fields) => DataType::Struct(fields.iter().map(inside).collect()),
            DataType::Map(entries, sorted) => DataType::Map(inside(entries), *sorted),
            other => (self.substitute)(other).unwrap_or_else(|| other.clone()),
        }
    }

    /// The batch's records as they are written. A first batch of unknown columns settles what they are.
    pub(super) fn of(&mut self, batch: &Batch) -> Result<RecordBatch, ConnectorError> {
        let converted = match &self.stream {
            Some(stream) => batch.to_arrow(stream).map_err(refused)?,
            None => batch.clone(),
        };
        let Records::Arrow(columns) = converted.records else { return Err(columns_unknown()) };
        if columns.num_columns() == 0 {
            return Err(mismatch("the records have no columns; a file of columns needs at least one"));
        }
        if self.given.is_none() {
            self.settle(&columns.schema());
        }
        let given = self.given.as_ref().expect("it was settled just now, if not before");
        if given.fields() != columns.schema_ref().fields() {
            return Err(changed(given, columns.schema_ref()));
        }
        let written = Arc::clone(self.written.as_ref().expect("it is settled together with what is given"));
        if written.fields() == given.fields() {
            let arrays = columns.columns().to_vec();
            return RecordBatch::try_new(written, arrays).map_err(|error| mismatch(format!("the records' columns contradict themselves: {error}")));
        }
        recast(&columns, &written, batch.first_offset)
    }
}

/// The columns with the types of `written`.
fn recast(columns: &RecordBatch, written: &SchemaRef, first_offset: Offset) -> Result<RecordBatch, ConnectorError> {
    let cast = |(array, field): (&ArrayRef, &Arc<Field>)| recast_column(array, field, first_offset);
    let arrays = columns.columns().iter().zip(written.fields()).map(cast).collect::<Result<Vec<_>, _>>()?;
    RecordBatch::try_new(Arc::clone(written), arrays).map_err(|error| mismatch(format!("the records' columns contradict themselves: {error}")))
}

fn recast_column(array: &ArrayRef, field: &Field, first_offset: Offset) -> Result<ArrayRef, ConnectorError> {
    let exact = CastOptions { safe: false, ..CastOptions::default() };
    let cast = |array: &dyn Array| -> Result<ArrayRef, ArrowError> {
        if array.data_type() == field.data_type() {
            return Ok(array.slice(0, array.len()));
        }
        let cast = cast_with_options(array, field.data_type(), &exact)?;
        // A dictionary may hold a null among its values.
        if !field.is_nullable() && cast.logical_null_count() > 0 {
            return Err(ArrowError::InvalidArgumentError("it holds null and must not".to_owned()));
        }
        Ok(cast)
    };
    cast(array).map_err(|error| blame(first_offset, array.len(), Some(field.name()), &error, |row, count| cast(&array.slice(row, count)).map(drop)))
}

/// The records at fault where a batch failed with `error`: those that fail alone. Where even none fails, it is the columns that do not fit.
pub(super) fn blame(
    first_offset: Offset,
    records: usize,
    column: Option<&str>,
    error: &ArrowError,
    mut attempt: impl FnMut(usize, usize) -> Result<(), ArrowError>,
) -> ConnectorError {
    let said = |error: &ArrowError| {
        let why: String = error.to_string().chars().take(300).collect();
        column.map_or_else(|| why.clone(), |column| format!("column {column:?} cannot be written: {why}"))
    };
    if attempt(0, 0).is_err() {
        return mismatch(said(error));
    }
    let fault = |message: String| match column {
        Some(column) => RecordFault::invalid(column, message),
        None => RecordFault { kind: crate::record::RecordFaultKind::Invalid, message, column: None },
    };
    let faults: Vec<_> =
        (first_offset..).zip(0..records).filter_map(|(offset, row)| attempt(row, 1).err().map(|error| (offset, fault(said(&error))))).collect();
    if faults.is_empty() { super::internal("write a batch whose records can each be written", error) } else { refused(RecordFaults(faults)) }
}

pub(super) fn mismatch(message: impl Into<String>) -> ConnectorError {
    ConnectorError::new(ConnectorErrorKind::SchemaMismatch, message)
}

pub(super) fn columns_unknown() -> ConnectorError {
    mismatch("the columns are not known: give the records' schema when the stream is opened, send Arrow, or set the option file_format to ndjson")
}

/// Says which columns differ, a few of them.
fn changed(given: &Schema, now: &Schema) -> ConnectorError {
    let describe = |field: &Field| format!("{:?} {}{}", field.name(), field.data_type(), if field.is_nullable() { "" } else { " not null" });
    let gone: Vec<_> = given.fields().iter().filter(|field| !now.fields().iter().any(|other| other == *field)).take(3).map(|field| describe(field)).collect();
    let new: Vec<_> = now.fields().iter().filter(|field| !given.fields().iter().any(|other| other == *field)).take(3).map(|field| describe(field)).collect();
    let how = match (gone.is_empty(), new.is_empty()) {
        (true, true) => "they come in another order".to_owned(),
        (false, true) => format!("without {}", gone.join(", ")),
        (true, false) => format!("with {} besides", new.join(", ")),
        (false, false) => format!("{} instead of {}", new.join(", "), gone.join(", ")),
    };
    let how: String = how.chars().take(600).collect();
    mismatch(format!(
        "a batch has other columns than the object that is being written: {how}; give the stream's schema when it is opened, or send the same columns always"
    ))
}
