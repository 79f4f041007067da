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
/// The longest look at whether brokers that seem to say nothing do answer; at most a quarter of the whole limit.
const LOOK_MAX: Duration = Duration::from_secs(2);
/// How long reports are listened to when nothing was read for a while.
const LISTEN: Duration = Duration::from_millis(10);

/// The private group of a stream, which has no members.
pub(super) struct Group {
    /// Reads what the group has committed, and waits while a transaction over it is undecided.
    reader: BaseConsumer<Context>,
    metadata: ConsumerGroupMetadata,
    /// Settings of a client that asks for the same and does not wait.
    impatient: ClientConfig,
    id: String,
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
        settings.set("isolation.level", "read_uncommitted");
        Ok(Self { reader, metadata, impatient: settings, id: id.to_owned() })
    }

    /// What a transaction names the group by.
    pub(super) fn metadata(&self) -> &ConsumerGroupMetadata {
        &self.metadata
    }

    /// The stream's mark, if there is one. While a transaction has it that is neither committed nor aborted at the group's coordinator, this waits. Blocks for at most `limit`.
    pub(super) fn mark(&self, target: &Target, ears: &Arc<Ears>, limit: Duration) -> Result<Option<KeptMark>, ConnectorError> {
        let doing = "read the mark";
        let mut wanted = TopicPartitionList::new();
        wanted.add_partition(&target.topic, 0);
        // A new token may be due.
        let _ = self.reader.poll(Duration::ZERO);
        let look = LOOK_MAX.min(limit / 4);
        let until = Instant::now() + (limit - look);
        let kept = loop {
            let left = until.saturating_duration_since(Instant::now());
            match self.reader.committed_offsets(wanted.clone(), left) {
                Ok(kept) => break kept,
                Err(fault) if failure::code_of(&fault) == Code::UnstableOffsetCommit && left > MARKER_PAUSE => std::thread::sleep(MARKER_PAUSE),
                // Where no group was ever used, the first question makes its coordinator.
                Err(fault) if failure::is_settling(failure::code_of(&fault)) && left > COORDINATOR_PAUSE => std::thread::sleep(COORDINATOR_PAUSE),
                Err(fault) => {
                    let error = explain(target, ears, doing, &fault);
                    let silent = error.kind == Kind::TimedOut || failure::code_of(&fault) == Code::UnstableOffsetCommit;
                    return Err(if silent && self.answers(&wanted, ears, look) { self.still_open(target) } else { error });
                }
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

    /// Whether the group's coordinator answers who does not mind an open transaction: the library asks on while there is one, which looks like silence.
    fn answers(&self, wanted: &TopicPartitionList, ears: &Arc<Ears>, limit: Duration) -> bool {
        let Ok(asking) = self.impatient.create_with_context::<_, BaseConsumer<Context>>(Context(ears.clone())) else { return false };
        client::listen(&asking, ears);
        asking.committed_offsets(wanted.clone(), limit).is_ok()
    }

    /// Seen on Kafka 4.3.1, whose only broker was killed behind the decision: the coordinator takes the transaction for done, and the partitions do not. Aborted in this order, with records in one
    /// partition, nothing was lost and nothing twice.
    fn still_open(&self, target: &Target) -> ConnectorError {
        let message = format!(
            "{}: cannot read the mark: the transaction of this stream is still open at the broker that keeps it; where that lasts for minutes the cluster has lost the transaction's end: abort it with \
             kafka-transactions.sh, in the topic's partitions first and in __consumer_offsets last",
            target.shown
        );
        ConnectorError::new(Kind::TimedOut, message).with("destination", &target.shown).with("transactional_id", &self.id)
    }

    /// Proves that the transaction with this mark is committed where the mark is kept. The coordinator says so once it has decided, and tells the partitions later; one whose leader is away
    /// just then it leaves out for good (Kafka 4.3.1), and what was confirmed never comes to be. Blocks for at most `limit`.
    pub(super) fn confirm(&self, target: &Target, ears: &Arc<Ears>, written: &KeptMark, limit: Duration) -> Result<(), ConnectorError> {
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
