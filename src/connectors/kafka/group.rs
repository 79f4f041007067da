//! Why: the mark of a stream is kept by a private group of the cluster, and is read here: at open, and after each commit. Never joins the group, and never takes a transaction's word for its outcome.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use rdkafka::{
    ClientConfig, Offset as KafkaOffset, TopicPartitionList,
    consumer::{BaseConsumer, Consumer, ConsumerGroupMetadata},
    types::RDKafkaErrorCode as Code,
};

use super::{
    client::{self, Context, Ears, explain},
    failure,
    mark::{KeptMark, NotAMark},
    options::Target,
};
use crate::connectors::error::{ConnectorError, ConnectorErrorKind as Kind};

/// How long a coordinator that is on its way is waited for before it is asked again.
const COORDINATOR_PAUSE: Duration = Duration::from_millis(100);
/// The same for a transaction's marker, which follows the broker's word within milliseconds.
const MARKER_PAUSE: Duration = Duration::from_millis(2);
/// How long reports are listened to when nothing was read for a while.
const LISTEN: Duration = Duration::from_millis(10);

/// The private group of a stream, which has no members.
pub(super) struct Group {
    /// Reads what the group has committed, and waits while a transaction over it is undecided.
    reader: BaseConsumer<Context>,
    metadata: ConsumerGroupMetadata,
}

impl Group {
    /// The group of the transactional id `id`.
    pub(super) fn new(target: &Target, ears: &Arc<Ears>, config: &ClientConfig, id: &str) -> Result<Self, ConnectorError> {
        let mut settings = config.clone();
        settings
            .set("group.id", id)
            .set("isolation.level", "read_committed")
            .set("enable.auto.commit", "false")
            .set("fetch.wait.max.ms", "10")
            // The producer beside it tells of new brokers.
            .set("statistics.interval.ms", "0");
        let reader: BaseConsumer<Context> =
            settings.create_with_context(Context(ears.clone())).map_err(|fault| client::not_made(&target.shown, ears, &fault))?;
        let metadata = reader.group_metadata().ok_or_else(|| ConnectorError::new(Kind::Internal, "the Kafka client has no group"))?;
        client::listen(&reader, ears);
        Ok(Self { reader, metadata })
    }

    /// What a transaction names the group by.
    pub(super) fn metadata(&self) -> &ConsumerGroupMetadata {
        &self.metadata
    }

    /// The stream's mark, if there is one. While a transaction has it that is neither committed nor aborted at the group's coordinator, this waits. Blocks for at most `limit`.
    pub(super) fn mark(&self, target: &Target, ears: &Ears, limit: Duration) -> Result<Option<KeptMark>, ConnectorError> {
        let doing = "read the mark";
        let mut wanted = TopicPartitionList::new();
        wanted.add_partition(&target.topic, 0);
        // A new token may be due.
        let _ = self.reader.poll(Duration::ZERO);
        let until = Instant::now() + limit;
        let kept = loop {
            let left = until.saturating_duration_since(Instant::now());
            match self.reader.committed_offsets(wanted.clone(), left) {
                Ok(kept) => break kept,
                Err(fault) if failure::code_of(&fault) == Code::UnstableOffsetCommit && left > MARKER_PAUSE => std::thread::sleep(MARKER_PAUSE),
                // Where no group was ever used, the first question makes its coordinator.
                Err(fault) if failure::is_settling(failure::code_of(&fault)) && left > COORDINATOR_PAUSE => std::thread::sleep(COORDINATOR_PAUSE),
                Err(fault) => return Err(explain(target, ears, doing, &fault)),
            }
        };
        let Some(element) = kept.elements().into_iter().next() else { return Ok(None) };
        element.error().map_err(|fault| explain(target, ears, doing, &fault))?;
        if element.offset() == KafkaOffset::Invalid {
            return Ok(None);
        }
        KeptMark::decode(element.metadata()).map_err(|NotAMark| {
            let message = format!(
                "{}: the group that keeps the stream's mark holds something else; another program uses it, or a newer version of this service",
                target.shown
            );
            ConnectorError::new(Kind::Misconfigured, message)
        })
    }

    /// Proves that the transaction with this mark is committed where the mark is kept. The coordinator says so once it has decided, and tells the partitions later; one whose leader is away
    /// just then it leaves out for good (Kafka 4.3.1), and what was confirmed never comes to be. Blocks for at most `limit`.
    pub(super) fn confirm(&self, target: &Target, ears: &Ears, written: &KeptMark, limit: Duration) -> Result<(), ConnectorError> {
        let unknown = |why: String| {
            let message = format!(
                "{}: the brokers confirmed a transaction, but {why}; whether it was committed cannot be told, and the mark is read again",
                target.shown
            );
            ConnectorError::new(Kind::Unknown, message).with("destination", &target.shown)
        };
        match self.mark(target, ears, limit) {
            // A newer writer began where this one ended, or later.
            Ok(Some(kept)) if kept == *written || (kept.epoch > written.epoch && kept.mark.next >= written.mark.next) => Ok(()),
            Ok(Some(kept)) => Err(unknown(format!(
                "the mark beside it says {} of epoch {}, not {} of epoch {}",
                kept.mark.next, kept.epoch, written.mark.next, written.epoch
            ))),
            Ok(None) => Err(unknown("there is no mark".to_owned())),
            Err(error) => Err(unknown(format!("the mark cannot be read ({})", error.message))),
        }
    }

    /// Serves what the client reports; for a while in which nothing is read.
    pub(super) fn listen(&self) {
        // Nothing was subscribed to, so no message comes.
        let _ = self.reader.poll(LISTEN);
    }
}
