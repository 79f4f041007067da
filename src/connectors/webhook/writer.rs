//! Why: units of records become requests, one after another, each under an id that survives restarts. Never sends a record before the unit is committed.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue};

use super::{options::unit_bytes_max, receiver::Receiver, signature::message_id};
use crate::{
    connectors::{
        connector::{Appended, Artifact, Epoch, Finish, Mark, Outcome, Settlement, SinkWriter, StreamId, UnitPolicy},
        error::{ConnectorError, ConnectorErrorKind as Kind, ErrorClass},
        messages::{Cut, is_traceparent},
    },
    record::{Batch, Offset, RecordFault, RecordFaultKind, Records},
};

/// The writer of one stream to one receiver.
pub(super) struct WebhookWriter {
    receiver: Arc<Receiver>,
    stream: StreamId,
    epoch: Epoch,
    cut: Cut,
    /// The open unit.
    unit: Vec<Record>,
    unit_bytes: u64,
    /// The open unit's requests, if it is full: they are made while the one before waits for its answer.
    ready: Option<Vec<Message>>,
}

/// One record of the open unit; its text is shared with the batch it came in.
struct Record {
    offset: Offset,
    text: Bytes,
    traceparent: Option<Arc<str>>,
}

/// One request in the making.
struct Message {
    id: String,
    headers: HeaderMap,
    body: Bytes,
    first: Offset,
    count: u64,
}

impl WebhookWriter {
    pub(super) fn new(receiver: Receiver, stream: StreamId, epoch: Epoch, cut: Cut) -> Self {
        Self { receiver: Arc::new(receiver), stream, epoch, cut, unit: Vec::new(), unit_bytes: 0, ready: None }
    }

    pub(super) fn units(cut: Cut) -> UnitPolicy {
        UnitPolicy {
            records_max: cut.records_max,
            bytes_max: unit_bytes_max(cut),
            age_max: std::time::Duration::ZERO,
            idle_max: std::time::Duration::ZERO,
            commits_in_flight: 1,
        }
    }

    /// The open unit as requests: one a record if flat; as few arrays as the limits allow if nested. The same unit is always cut alike.
    fn messages(&mut self) -> Vec<Message> {
        let unit = std::mem::take(&mut self.unit);
        self.unit_bytes = 0;
        let (mut messages, mut rest) = (Vec::new(), unit.as_slice());
        while !rest.is_empty() {
            let (now, later) = rest.split_at(self.cut.fitting(rest.iter().map(|record| record.text.len())));
            messages.push(self.message(now));
            rest = later;
        }
        messages
    }

    fn message(&self, records: &[Record]) -> Message {
        let (first, last, count) = (records[0].offset, records[records.len() - 1].offset, records.len() as u64);
        let mut headers = HeaderMap::new();
        let mut set = |name: &'static str, value: Result<HeaderValue, http::header::InvalidHeaderValue>| {
            // A stream's name is printable ASCII, and the rest are numbers.
            headers.insert(HeaderName::from_static(name), value.expect("the value is printable ASCII"));
        };
        set("datasink-stream", HeaderValue::from_str(self.stream.name.as_str()));
        set("datasink-epoch", Ok(HeaderValue::from(self.epoch.0)));
        set("datasink-first-offset", Ok(HeaderValue::from(first)));
        set("datasink-last-offset", Ok(HeaderValue::from(last)));
        if let Some(trace) = records.iter().find_map(|record| record.traceparent.as_deref()).and_then(traceparent) {
            set("traceparent", Ok(trace));
        }
        Message { id: message_id(&self.stream, first, last, count), headers, body: self.cut.message(records.iter().map(|record| &record.text)), first, count }
    }

    fn too_large(&self, offset: Offset, bytes: usize) -> (Offset, RecordFault) {
        let message = format!("the record has {bytes} bytes, more than max_message_size ({}) of the sink lets one request have", self.cut.message_bytes_max);
        (offset, RecordFault { kind: RecordFaultKind::TooLarge, message, column: None })
    }
}

/// A W3C trace context, if it is one: it came from a client, and goes into a header.
fn traceparent(text: &str) -> Option<HeaderValue> {
    is_traceparent(text).then(|| HeaderValue::from_str(text).ok()).flatten()
}

#[async_trait]
impl SinkWriter for WebhookWriter {
    async fn append(&mut self, batch: &Batch) -> Result<Appended, ConnectorError> {
        let Records::Ndjson(lines) = &batch.records else {
            return Err(ConnectorError::new(Kind::Internal, "a webhook writer was given columns and takes JSON text"));
        };
        let records = || (batch.first_offset..).zip((0..lines.len()).map(|index| lines.line(index)));
        let too_large: Vec<_> = records()
            .filter(|(_, text)| self.cut.message_bytes(1, text.len() as u64) > self.cut.message_bytes_max)
            .map(|(offset, text)| self.too_large(offset, text.len()))
            .collect();
        if let Some((_, first)) = too_large.first() {
            let mut error = ConnectorError::new(Kind::TooLarge, first.message.clone());
            error.records = too_large;
            return Err(error);
        }
        self.unit.extend(records().map(|(offset, text)| Record { offset, text, traceparent: batch.traceparent.clone() }));
        self.unit_bytes += lines.byte_count();
        let full = self.unit.len() as u64 >= self.cut.records_max || self.unit_bytes >= unit_bytes_max(self.cut);
        if !full {
            return Ok(Appended::Room);
        }
        self.ready = Some(self.messages());
        Ok(Appended::Full)
    }

    fn commit(&mut self, _: Mark) -> Settlement {
        let (receiver, messages) = (self.receiver.clone(), self.ready.take().unwrap_or_else(|| self.messages()));
        Box::pin(async move {
            let mut outcome = Outcome::default();
            for message in messages {
                outcome.bytes += message.body.len() as u64;
                outcome.artifacts.push(deliver(&receiver, message).await?);
            }
            Ok(outcome)
        })
    }

    async fn abandon(&mut self) {
        (self.unit_bytes, self.ready) = (0, None);
        self.unit.clear();
    }

    async fn finish(mut self: Box<Self>, action: Finish, mark: Mark) -> Result<Outcome, ConnectorError> {
        match action {
            Finish::Commit => self.commit(mark).await,
            // Only records that never counted can be taken back: those not sent yet.
            Finish::Abort => Ok(Outcome::default()),
        }
    }
}

/// Sends one request and gives its receipt. If its one record is at fault, the error names it; among several the session finds it by halving.
async fn deliver(receiver: &Receiver, message: Message) -> Result<Artifact, ConnectorError> {
    let byte_count = message.body.len() as u64;
    match receiver.post(&message.id, message.headers, message.body).await {
        Ok(status) => Ok(Artifact {
            uri: receiver.shown().to_owned(),
            first_offset: message.first,
            record_count: message.count,
            byte_count,
            attributes: vec![("http_status".to_owned(), status.as_u16().to_string()), ("webhook_id".to_owned(), message.id)],
        }),
        Err(error) if error.class == ErrorClass::Record && message.count == 1 => {
            let kind = if error.kind == Kind::TooLarge { RecordFaultKind::TooLarge } else { RecordFaultKind::Invalid };
            let fault = RecordFault { kind, message: error.message.clone(), column: None };
            Err(error.with("webhook_id", message.id).record(message.first, fault))
        }
        Err(error) => Err(error.with("webhook_id", message.id)),
    }
}
