//! Why: a rejected record is written, with the reason, to a stream of its own through the same engine, once. Never lets the stream pass a rejected record whose dead letter is not durable.

use std::sync::Arc;

use base64::Engine as _;
use bytes::Bytes;
use serde::Serialize;

use super::{Delivery, Event, Incoming, Input, OpenOrder, Session, SinkSnapshot, problems};
use crate::{
    clock::Timestamp,
    connectors::connector::StreamId,
    problem::Problem,
    record::{Batch, Ndjson, Offset, Piece, Records, RejectedRecord},
};

/// The stream of dead letters of one stream. Opened with the first letter.
#[derive(Debug)]
pub(super) struct DeadLetters {
    delivery: Delivery,
    order: OpenOrder,
    session: Option<Session>,
}

/// A dead letter as it is written: what is needed to mend the record and send it again.
#[derive(Debug, Serialize)]
struct Letter<'a> {
    stream: &'a str,
    offset: Offset,
    sink: String,
    sink_generation: u64,
    reason: &'static str,
    message: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    column: Option<&'a str>,
    time: String,
    /// `text`, or `base64` where the record is not UTF-8.
    record_encoding: &'static str,
    record: std::borrow::Cow<'a, str>,
}

/// The letters of `records`, a line each.
pub(super) fn write(stream: &StreamId, sink: &SinkSnapshot, time: Timestamp, records: &[RejectedRecord]) -> Vec<Bytes> {
    let letters = records.iter().map(|rejected| {
        let (record_encoding, record) = match std::str::from_utf8(&rejected.original) {
            Ok(text) => ("text", text.into()),
            Err(_) => ("base64", base64::engine::general_purpose::STANDARD.encode(&rejected.original).into()),
        };
        let letter = Letter {
            stream: stream.name.as_str(),
            offset: rejected.offset,
            sink: sink.name.to_string(),
            sink_generation: sink.generation,
            reason: problems::record_reason(rejected.fault.kind).as_str(),
            message: &rejected.fault.message,
            column: rejected.fault.column.as_deref(),
            time: time.to_string(),
            record_encoding,
            record,
        };
        serde_json::to_vec(&letter).expect("text and numbers are JSON").into()
    });
    letters.collect()
}

fn batch(letters: &[Bytes]) -> Batch {
    let mut bytes = Vec::with_capacity(letters.iter().map(|letter| letter.len() + 1).sum());
    let mut lines = Vec::with_capacity(letters.len());
    let place = |at: usize| u32::try_from(at).expect("the letters of one unit are far below 4 GiB");
    for letter in letters {
        let start = bytes.len();
        bytes.extend_from_slice(letter);
        lines.push((place(start), place(bytes.len())));
        bytes.push(b'\n');
    }
    let records = Records::Ndjson(Ndjson::from_checked(bytes.into(), Arc::from(lines)));
    Batch::new(0, records)
}

impl DeadLetters {
    pub(super) fn new(delivery: Delivery, order: OpenOrder) -> Self {
        Self { delivery, order, session: None }
    }

    /// Makes the letters durable; the first of them is the stream's number `first`. Letters that are there already are skipped.
    pub(super) async fn bury(&mut self, first: Offset, letters: Vec<Bytes>) -> Result<(), Problem> {
        let buried = first + letters.len() as u64;
        // A session that was ended from outside (drained, or its connection moved) is opened once more; a second end is told.
        for last_try in [false, true] {
            let mut session = match self.session.take() {
                Some(session) => session,
                None => self.delivery.open_nested(self.order.clone()).await?,
            };
            // A session that takes no more says why in its output.
            let _ = send(&session, first, &letters).await;
            match wait(&mut session, buried).await {
                Waited::Durable => {
                    self.session = Some(session);
                    return Ok(());
                }
                Waited::Failed(problem) => return Err(problem),
                Waited::Ended if last_try => break,
                Waited::Ended => {}
            }
        }
        Err(problems::broken(&self.order.stream))
    }
}

async fn send(session: &Session, first: Offset, letters: &[Bytes]) -> Result<(), super::Closed> {
    // Records that were rejected while there was no dead letter sink leave their numbers unused.
    session.input.pass(first).await?;
    let mut at = first;
    for letters in letters.chunks(crate::limits::BATCH_RECORDS_MAX) {
        session.input.send(Input::Batch(Incoming { first_offset: Some(at), pieces: vec![Piece::Good(batch(letters))] })).await?;
        at += letters.len() as u64;
    }
    session.input.send(Input::Flush(String::new())).await
}

enum Waited {
    Durable,
    Ended,
    Failed(Problem),
}

async fn wait(session: &mut Session, buried: Offset) -> Waited {
    loop {
        match session.output.next().await {
            Some(Event::Ack(ack)) if ack.next_offset >= buried => return Waited::Durable,
            Some(Event::Failed(problem)) => return Waited::Failed(problem),
            Some(Event::Ended(_)) | None => return Waited::Ended,
            Some(_) => {}
        }
    }
}
