//! Why: columns of records and of local tables are described once. Never parses or converts a value.

use serde::{Deserialize, Serialize};

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
