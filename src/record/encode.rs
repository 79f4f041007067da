//! Why: rows at rest are handed out in whichever encoding a reader asks for. Never rounds: what an encoding cannot say exactly is said as a string, or refused.

use bytes::Bytes;

use super::{
    Batch, Encoding, JsonObject, JsonValue, Ndjson, Offset, Payload, RecordFault, RecordFaults, RecordSchema, Records, arrow,
    row::{self, Cell},
    typed,
};

/// Rows, given as the JSON text they are kept as, in `encoding`. Faults name rows by their place from 0. A protobuf Struct (`Json`) says integers beyond 2^53 and decimals as strings.
pub fn encode(rows: &Ndjson, encoding: Encoding, schema: &RecordSchema) -> Result<Payload, RecordFaults> {
    match encoding {
        Encoding::Ndjson => Ok(Payload::Ndjson(text(rows))),
        Encoding::Json => each(rows, |line| json_object(schema, line)).map(Payload::Json),
        Encoding::Typed => {
            let typed_row = |line| Ok(schema.columns.iter().zip(row::read(schema, line)?).map(|(column, cell)| typed::from_cell(column, cell)).collect());
            each(rows, typed_row).map(Payload::Typed)
        }
        Encoding::ArrowIpc => {
            let batch = Batch::new(0, Records::Ndjson(rows.clone()));
            let Records::Arrow(columns) = batch.to_arrow(schema)?.records else { unreachable!("to_arrow gives columns") };
            Ok(Payload::ArrowIpc(arrow::write_stream(&columns)))
        }
    }
}

fn text(rows: &Ndjson) -> Bytes {
    let mut text = Vec::with_capacity(usize::try_from(rows.byte_count()).unwrap_or(0));
    for line in rows.iter() {
        text.extend_from_slice(line);
        text.push(b'\n');
    }
    text.into()
}

/// `convert` of every row, or the faults of all.
fn each<'a, T>(rows: &'a Ndjson, convert: impl Fn(&'a [u8]) -> Result<T, RecordFault>) -> Result<Vec<T>, RecordFaults> {
    let (mut converted, mut faults) = (Vec::with_capacity(rows.len()), Vec::<(Offset, RecordFault)>::new());
    for (place, line) in (0..).zip(rows.iter()) {
        match convert(line) {
            Ok(row) => converted.push(row),
            Err(fault) => faults.push((place, fault)),
        }
    }
    if faults.is_empty() { Ok(converted) } else { Err(RecordFaults(faults)) }
}

fn json_object(schema: &RecordSchema, line: &[u8]) -> Result<JsonObject, RecordFault> {
    let mut object = JsonObject::default();
    let mut text = Vec::new();
    for (column, cell) in schema.columns.iter().zip(row::read(schema, line)?) {
        let value = match &cell {
            Cell::Double(number) => JsonValue::Number(*number),
            // The double of a float's shortest text is what was meant, and is the same float again: 0.1, not 0.10000000149011612.
            Cell::Float(number) => JsonValue::Number(number.to_string().parse().expect("a float's text is a double's too")),
            _ => {
                text.clear();
                row::write(column, &cell, &mut text);
                serde_json::from_slice(&text).map_err(|error| row::fault(column, format!("has no exact value as a protobuf Struct: {error}")))?
            }
        };
        object.0.push((column.name.clone(), value));
    }
    Ok(object)
}
