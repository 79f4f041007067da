//! Why: records are converted to the encoding that the writer takes once, as they come in; what cannot be converted is a bad record like any other. Never converts a batch that fits.

use crate::record::{Batch, Encoding, Piece, RecordFault, RecordFaults, RecordSchema, Records, RejectedRecord};

/// The pieces of a batch (offsets counting from 0) in the encoding that the writer takes.
pub(super) fn convert(pieces: Vec<Piece>, takes: Encoding, schema: Option<&RecordSchema>) -> Vec<Piece> {
    let mut converted = Vec::with_capacity(pieces.len());
    for piece in pieces {
        match piece {
            Piece::Good(batch) if !fits(&batch, takes, schema) => convert_batch(&batch, takes, schema, &mut converted),
            as_is => converted.push(as_is),
        }
    }
    converted
}

fn fits(batch: &Batch, takes: Encoding, schema: Option<&RecordSchema>) -> bool {
    match (&batch.records, takes) {
        (Records::Arrow(_), Encoding::ArrowIpc) => true,
        (Records::Arrow(_), _) => false,
        // Without a schema there are no columns to convert to; the writer says what it makes of the text.
        (Records::Ndjson(_), Encoding::ArrowIpc) => schema.is_none(),
        (Records::Ndjson(_), _) => true,
    }
}

fn to(batch: &Batch, takes: Encoding, schema: Option<&RecordSchema>) -> Result<Batch, RecordFaults> {
    match (takes, schema) {
        (Encoding::ArrowIpc, Some(schema)) => batch.to_arrow(schema),
        _ => batch.to_ndjson(),
    }
}

/// Converts the runs between the records that cannot be converted.
fn convert_batch(batch: &Batch, takes: Encoding, schema: Option<&RecordSchema>, into: &mut Vec<Piece>) {
    let faults = match to(batch, takes, schema) {
        Ok(converted) => return into.push(Piece::Good(converted)),
        Err(RecordFaults(faults)) => faults,
    };
    let mut from = 0;
    for (offset, fault) in faults {
        let Some(at) = offset.checked_sub(batch.first_offset).and_then(|at| usize::try_from(at).ok()).filter(|at| (from..batch.len()).contains(at)) else {
            continue;
        };
        convert_run(batch, from..at, takes, schema, into);
        into.push(bad(batch, at, fault));
        from = at + 1;
    }
    convert_run(batch, from..batch.len(), takes, schema, into);
}

/// Converts a run that should be free of faults; if it is not, the records go one by one.
fn convert_run(batch: &Batch, run: std::ops::Range<usize>, takes: Encoding, schema: Option<&RecordSchema>, into: &mut Vec<Piece>) {
    if run.is_empty() {
        return;
    }
    match to(&batch.slice(run.clone()), takes, schema) {
        Ok(converted) => into.push(Piece::Good(converted)),
        Err(RecordFaults(mut faults)) if run.len() == 1 => {
            let (_, fault) = faults.swap_remove(0);
            into.push(bad(batch, run.start, fault));
        }
        Err(_) => run.for_each(|at| convert_run(batch, at..at + 1, takes, schema, into)),
    }
}

fn bad(batch: &Batch, at: usize, fault: RecordFault) -> Piece {
    let offset = batch.first_offset + at as u64;
    let index = usize::try_from(offset).unwrap_or(usize::MAX);
    Piece::Bad(RejectedRecord { offset, index, original: batch.original(at), fault })
}
