//! Why: a unit of records is collected here and handed to the producer's thread as a whole. Never sends a record before the unit is committed: where our own store keeps the mark, the cut must be noted first.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;

use super::{
    client::{self, Ears},
    key::key_of,
    open::BATCH_FRAME_BYTES,
    options::Target,
    producer::{ProducerThread, Record},
};
use crate::{
    connectors::{
        connector::{Appended, Finish, Mark, Outcome, Settlement, SinkWriter, UnitPolicy},
        egress::Egress,
        error::{ConnectorError, ConnectorErrorKind as Kind},
        messages::{Cut, is_traceparent},
    },
    record::{Batch, Offset, RecordFault, RecordFaultKind, Records},
};

/// The most records of a unit. Units grow while the one before commits, so at a low rate they are small.
const UNIT_RECORDS_MAX: u64 = 50_000;
/// The most bytes of a unit.
const UNIT_BYTES_MAX: u64 = 16 << 20;

/// The writer of one stream to one topic.
pub(super) struct KafkaWriter {
    pub(super) producer: ProducerThread,
    pub(super) target: Arc<Target>,
    pub(super) cut: Cut,
    /// What the topic takes as one batch, where it is known and nothing is compressed.
    pub(super) record_bytes_max: Option<u64>,
    pub(super) key_columns: Vec<String>,
    pub(super) ears: Arc<Ears>,
    /// What brokers that appear later are checked with.
    pub(super) egress: Arc<Egress>,
    pub(super) unit: Vec<Record>,
}

/// How large units may grow.
pub(super) const UNITS: UnitPolicy =
    UnitPolicy { records_max: UNIT_RECORDS_MAX, bytes_max: UNIT_BYTES_MAX, age_max: Duration::ZERO, idle_max: Duration::ZERO, commits_in_flight: 1 };

impl KafkaWriter {
    fn taken(&self, batch: &Batch, offset: Offset, text: bytes::Bytes) -> Result<Record, RecordFault> {
        if self.cut.message_bytes(1, text.len() as u64) > self.cut.message_bytes_max {
            let message =
                format!("the record has {} bytes, more than max_message_size ({}) of the sink lets one message have", text.len(), self.cut.message_bytes_max);
            return Err(RecordFault { kind: RecordFaultKind::TooLarge, message, column: None });
        }
        let key = if self.key_columns.is_empty() { None } else { Some(key_of(&self.key_columns, &text)?) };
        let least = BATCH_FRAME_BYTES + text.len() as u64 + key.as_ref().map_or(0, |key| key.len() as u64);
        // Headers and lengths come on top; a record that only they make too large is refused by the brokers.
        if let Some(most) = self.record_bytes_max.filter(|most| *most < least) {
            let message =
                format!("the record and its key have {} bytes, more than the topic's max.message.bytes ({most}) takes; raise it", least - BATCH_FRAME_BYTES);
            return Err(RecordFault { kind: RecordFaultKind::TooLarge, message, column: None });
        }
        let traceparent = batch.traceparent.clone().filter(|trace| is_traceparent(trace));
        Ok(Record { offset, text, key, traceparent })
    }
}

#[async_trait]
impl SinkWriter for KafkaWriter {
    async fn append(&mut self, batch: &Batch) -> Result<Appended, ConnectorError> {
        let Records::Ndjson(lines) = &batch.records else {
            return Err(ConnectorError::new(Kind::Internal, "a Kafka writer was given columns and takes JSON text"));
        };
        let appeared = self.ears.appeared();
        if !appeared.is_empty() {
            client::check_advertised(&self.egress, &self.ears, &appeared).await?;
        }
        let before = self.unit.len();
        let mut error: Option<ConnectorError> = None;
        for (index, offset) in (0..lines.len()).zip(batch.first_offset..) {
            match self.taken(batch, offset, lines.line(index)) {
                Ok(record) => self.unit.push(record),
                Err(fault) => {
                    let kind = if fault.kind == RecordFaultKind::TooLarge { Kind::TooLarge } else { Kind::Rejected };
                    let refused = error
                        .take()
                        .unwrap_or_else(|| ConnectorError::new(kind, format!("{} cannot take record {offset}: {}", self.target.shown, fault.message)));
                    error = Some(refused.record(offset, fault));
                }
            }
        }
        match error {
            None => Ok(Appended::Room),
            Some(error) => {
                self.unit.truncate(before);
                Err(error)
            }
        }
    }

    fn commit(&mut self, mark: Mark) -> Settlement {
        Box::pin(self.producer.write(std::mem::take(&mut self.unit), mark))
    }

    async fn abandon(&mut self) {
        self.unit.clear();
    }

    async fn finish(mut self: Box<Self>, action: Finish, mark: Mark) -> Result<Outcome, ConnectorError> {
        match action {
            Finish::Commit => self.commit(Mark { finished: true, ..mark }).await,
            Finish::Abort => Err(ConnectorError::new(Kind::Misconfigured, "records in Kafka are there already and cannot be taken back by finish")),
        }
    }
}
