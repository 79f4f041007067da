//! Why: columns of records and of local tables are described once. Never parses or converts a value.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};

use crate::limits::{COLUMNS_MAX, NAME_CHARS_MAX};

/// The columns of records or of a table, in order.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct RecordSchema {
    /// The columns.
    pub columns: Vec<Column>,
}

/// One column.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Column {
    /// Its name: 1–200 characters.
    pub name: String,
    /// Its type.
    pub column_type: ColumnType,
    /// Whether it may be null or absent.
    pub nullable: bool,
    /// STRING and BYTES only: the most bytes; 0 is no limit.
    pub max_length: u32,
    /// Whether it is part of the primary key, in column order.
    pub primary_key: bool,
}

/// The type of a column.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum ColumnType {
    /// true or false.
    Bool,
    /// 8-bit signed integer.
    Int8,
    /// 16-bit signed integer.
    Int16,
    /// 32-bit signed integer.
    Int32,
    /// 64-bit signed integer.
    Int64,
    /// 64-bit unsigned integer.
    Uint64,
    /// 32-bit float.
    Float,
    /// 64-bit float.
    Double,
    /// Exact decimal: `precision` digits in all, `scale` of them after the point.
    Decimal {
        /// 1–38.
        precision: u8,
        /// 0–precision.
        scale: u8,
    },
    /// UTF-8 text.
    String,
    /// Bytes; base64 in JSON.
    Bytes,
    /// `2026-11-24`.
    Date,
    /// `13:45:00.123456`.
    Time,
    /// `2026-11-24T13:45:00.123456Z`.
    Timestamp,
    /// `6f0c3a1e-0d2b-4c0e-9a53-0d0f6f3e7b11`.
    Uuid,
    /// Any JSON value.
    Json,
}

/// One thing wrong with a schema.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {message}")]
pub struct SchemaFault {
    /// Where, as a path from the request: `schema.columns[3].name`.
    pub field: String,
    /// One sentence, lower case: what is wrong and what would be right.
    pub message: String,
}

impl RecordSchema {
    /// Everything that is wrong with the columns, at once.
    pub fn check(&self) -> Result<(), Vec<SchemaFault>> {
        let mut faults = Vec::new();
        if !(1..=COLUMNS_MAX).contains(&self.columns.len()) {
            let message = format!("a schema has 1 to {COLUMNS_MAX} columns, not {}", self.columns.len());
            faults.push(SchemaFault { field: "schema.columns".to_owned(), message });
        }
        let mut first_uses = HashMap::new();
        // Past the limit nothing is looked at: a request may hold millions of empty columns.
        for (index, column) in self.columns.iter().take(COLUMNS_MAX).enumerate() {
            let mut fault = |part: &str, message: String| faults.push(SchemaFault { field: format!("schema.columns[{index}].{part}"), message });
            if let Some(message) = name_problem(&column.name) {
                fault("name", message);
            } else if let Some(first) = first_uses.insert(column.name.as_str(), index) {
                fault("name", format!("{:?} is the name of column {first} already", column.name));
            }
            check_type(column, &mut fault);
        }
        if faults.is_empty() { Ok(()) } else { Err(faults) }
    }

    /// The place of the column named `name`.
    pub fn index_of(&self, name: &str) -> Option<usize> {
        self.columns.iter().position(|column| column.name == name)
    }
}

fn name_problem(name: &str) -> Option<String> {
    let allowed = |c: &char| c.is_ascii_alphanumeric() || "_{}[]:.".contains(*c);
    match name.chars().find(|c| !allowed(c)) {
        Some(bad) => Some(format!("{bad:?} is not allowed in a column name; letters, digits and _ {{ }} [ ] : . are")),
        None if !(1..=NAME_CHARS_MAX).contains(&name.len()) => Some(format!("a column name has 1 to {NAME_CHARS_MAX} characters, not {}", name.len())),
        None => None,
    }
}

fn check_type(column: &Column, fault: &mut impl FnMut(&str, String)) {
    if let ColumnType::Decimal { precision, scale } = column.column_type {
        if !(1..=38).contains(&precision) {
            fault("precision", format!("a decimal has 1 to 38 digits, not {precision}"));
        }
        if scale > precision {
            fault("scale", format!("a decimal of {precision} digits cannot have {scale} of them after the point"));
        }
    }
    if column.max_length != 0 && !matches!(column.column_type, ColumnType::String | ColumnType::Bytes) {
        fault("max_length", "only STRING and BYTES columns have a max_length; leave it 0".to_owned());
    }
    if column.primary_key && column.nullable {
        fault("nullable", "a column of the primary key cannot be nullable".to_owned());
    }
    if column.primary_key && matches!(column.column_type, ColumnType::Json | ColumnType::Float | ColumnType::Double) {
        fault("primary_key", "a JSON, FLOAT or DOUBLE column cannot be part of the primary key: equal values have several forms".to_owned());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn column(name: &str, column_type: ColumnType) -> Column {
        Column { name: name.to_owned(), column_type, nullable: false, max_length: 0, primary_key: false }
    }

    #[test]
    fn good_columns_pass() {
        let id = Column { primary_key: true, ..column("id", ColumnType::Int64) };
        let name = Column { max_length: 10, ..column("a_{x}[0]:b.c", ColumnType::String) };
        assert_eq!(RecordSchema { columns: vec![id, name, column(&"x".repeat(200), ColumnType::Decimal { precision: 38, scale: 38 })] }.check(), Ok(()));
    }

    #[test]
    fn all_faults_come_at_once_with_their_paths() {
        let columns = vec![
            column("", ColumnType::Bool),
            column("a b", ColumnType::Bool),
            column(&"x".repeat(201), ColumnType::Bool),
            column("twice", ColumnType::Bool),
            column("twice", ColumnType::Bool),
            column("d", ColumnType::Decimal { precision: 0, scale: 1 }),
            column("e", ColumnType::Decimal { precision: 39, scale: 0 }),
            Column { max_length: 1, ..column("f", ColumnType::Int8) },
            Column { primary_key: true, nullable: true, ..column("g", ColumnType::Json) },
        ];
        let faults = RecordSchema { columns }.check().unwrap_err();
        let fields: Vec<_> = faults.iter().map(|fault| fault.field.trim_start_matches("schema.")).collect();
        let expected = [
            "[0].name",
            "[1].name",
            "[2].name",
            "[4].name",
            "[5].precision",
            "[5].scale",
            "[6].precision",
            "[7].max_length",
            "[8].nullable",
            "[8].primary_key",
        ];
        assert_eq!(fields, expected.map(|field| format!("columns{field}")));
    }

    #[test]
    fn the_number_of_columns_is_bounded() {
        assert_eq!(RecordSchema::default().check().unwrap_err()[0].field, "schema.columns");
        let many = |count| RecordSchema { columns: (0..count).map(|index| column(&format!("c{index}"), ColumnType::Bool)).collect() };
        assert_eq!(many(COLUMNS_MAX).check(), Ok(()));
        assert_eq!(many(COLUMNS_MAX + 1).check().unwrap_err().len(), 1);
    }
}
