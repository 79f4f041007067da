//! Why: a stream is opened in one order: look at the cluster, fence older writers, then read the mark. Never reads first: with a transaction of an older writer open, the read would block.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use rdkafka::{
    ClientConfig, Offset as KafkaOffset, TopicPartitionList,
    consumer::{BaseConsumer, Consumer, ConsumerGroupMetadata},
    error::KafkaError,
    producer::Producer as _,
};

use super::{
    client::{self, Context, Ears, millis},
    failure,
    mark::{KeptMark, NotAMark, transactional_id},
    options::{Mode, Target},
    producer::{self, Exact, Producer, ProducerThread, Wiring},
    security::Security,
    writer::{KafkaWriter, UNITS},
};
use crate::{
    connectors::{
        connector::{CommitMode, ConnectContext, Delivery, Epoch, FoundMark, Guarantee, Noted, Opened, StreamId, Terms},
        error::{ConnectorError, ConnectorErrorKind as Kind},
        messages::{Cut, JsonFormat},
    },
    limits,
    record::Encoding,
};

/// The shortest limit for a reply that the library works with.
const LIMIT_MIN: Duration = Duration::from_secs(1);
/// The longest limit for one step of a transaction: it has three (deliver, set the mark, commit), and an open transaction keeps readers waiting for a minute at most.
pub(super) const TRANSACTION_STEP_MAX: Duration = Duration::from_secs(18);
/// What a transaction may take above its steps.
const TRANSACTION_SLACK: Duration = Duration::from_secs(5);
const _: () = assert!(TRANSACTION_STEP_MAX.as_secs() * 3 + TRANSACTION_SLACK.as_secs() <= 60);
/// Bytes of a batch of messages; also below the limit that brokers have unless told otherwise.
const BATCH_BYTES: &str = "1000000";
/// How long messages wait for company.
const LINGER_MS: &str = "2";
/// Bytes that the library holds of one unit, in KiB; a unit and what belongs to its messages fits, so that it is rarely full.
const QUEUE_KBYTES: &str = "65536";
/// Messages that the library holds.
const QUEUE_MESSAGES: &str = "100000";
/// Bytes of a message beside its value and its key: headers and framing.
const MESSAGE_FRAME_BYTES: u64 = 64 << 10;

const IDEMPOTENT: &str = "an idempotent producer: while a session lasts brokers drop what comes twice and keep the order within a partition. Our own store keeps the mark, so after a crash or a \
                          failure what was in flight may be written again, with the same headers datasink-stream and datasink-offset. kafka_delivery=exactly_once does better";
const EXACT: &str =
    "records and mark are committed in one Kafka transaction, and a newer writer fences this one; it holds for readers with isolation.level=read_committed";
const RESTS_ON_OUR_NOTE: &str = "The cluster has no mark of this stream any more (groups expire, by default after 7 days), so this open rests on our own note, and on the topic still having what the \
                                 last receipts name";

/// What a client needs that writes: the cluster was looked at and its addresses were checked.
pub(super) struct Reached {
    pub(super) ears: Arc<Ears>,
    pub(super) config: ClientConfig,
    pub(super) found: client::Found,
}

/// Everything up to the first answer of the cluster.
pub(super) async fn reach(target: &Arc<Target>, cx: &ConnectContext, security: Arc<Security>) -> Result<Reached, ConnectorError> {
    let resolved = client::resolve(cx, target, &security).await?;
    if let Some(tokens) = &security.tokens {
        tokens.ready().await?;
    }
    let config = client::settings(cx, &security, &resolved);
    let ears = Ears::new(security);
    let limit = cx.connection_timeout.saturating_add(cx.reply_timeout);
    let found = blocking({
        let (target, config, ears) = (target.clone(), config.clone(), ears.clone());
        move || client::scout(&target, &config, &ears, limit)
    })
    .await?;
    client::check_advertised(&cx.egress, &ears, &found.brokers).await?;
    Ok(Reached { ears, config, found })
}

/// Does what blocks where it may.
pub(super) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T, ConnectorError> + Send + 'static) -> Result<T, ConnectorError> {
    let broken = |_| ConnectorError::new(Kind::Internal, "the Kafka client broke off; see the log");
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|fault| Err(broken(fault)))
}

/// The limit of one step.
pub(super) fn step_limit(cx: &ConnectContext, mode: Mode) -> Duration {
    let limit = cx.reply_timeout.max(LIMIT_MIN);
    if mode == Mode::ExactlyOnce { limit.min(TRANSACTION_STEP_MAX) } else { limit }
}

/// Settings of a producer; with a transactional id it is one with transactions.
pub(super) fn producer_settings(config: &ClientConfig, target: &Target, cut: Cut, limit: Duration, id: Option<&str>) -> ClientConfig {
    let mut config = config.clone();
    let bytes_max = cut.message_bytes_max + limits::RECORD_BYTES_MAX as u64 + MESSAGE_FRAME_BYTES;
    config
        .set("enable.idempotence", "true")
        .set("acks", "all")
        .set("compression.type", target.compression)
        // The same partition for a key as the Java clients choose.
        .set("partitioner", "murmur2_random")
        .set("batch.size", BATCH_BYTES)
        .set("batch.num.messages", QUEUE_MESSAGES)
        .set("linger.ms", LINGER_MS)
        .set("queue.buffering.max.kbytes", QUEUE_KBYTES)
        .set("queue.buffering.max.messages", QUEUE_MESSAGES)
        .set("message.max.bytes", bytes_max.to_string())
        .set("message.timeout.ms", millis(limit));
    if let Some(id) = id {
        config.set("transactional.id", id).set("transaction.timeout.ms", transaction_timeout(limit));
    }
    config
}

/// How long the brokers wait for a transaction whose steps have this limit, in the library's words.
fn transaction_timeout(limit: Duration) -> String {
    millis(limit.min(TRANSACTION_STEP_MAX) * 3 + TRANSACTION_SLACK)
}

/// Settings of a producer that sends nothing while its transaction lasts.
pub(super) fn silent_settings(config: &ClientConfig, target: &Target, limit: Duration, id: &str) -> ClientConfig {
    let mut config = producer_settings(config, target, target.cut, limit, Some(id));
    let steps = limit.min(TRANSACTION_STEP_MAX) * 3;
    config.set("linger.ms", millis(steps)).set("message.timeout.ms", transaction_timeout(limit));
    config
}

/// A producer with these settings. Blocks.
pub(super) fn producer(target: &Target, ears: &Arc<Ears>, config: &ClientConfig) -> Result<Producer, ConnectorError> {
    config.create_with_context(Context(ears.clone())).map_err(|fault| client::not_made(&target.shown, ears, &fault))
}

/// A producer with transactions, and the group that keeps the mark. Older producers of this id are fenced. Blocks.
pub(super) struct Transactional {
    pub(super) producer: Producer,
    /// Joins nothing: it reads the mark.
    reader: BaseConsumer<Context>,
    pub(super) group: ConsumerGroupMetadata,
}

impl Transactional {
    pub(super) fn begin(target: &Target, ears: &Arc<Ears>, config: &ClientConfig, id: &str, limit: Duration, cut: Cut) -> Result<Self, ConnectorError> {
        Self::with(target, ears, config, &producer_settings(config, target, cut, limit, Some(id)), id, limit)
    }

    /// As [`Transactional::begin`], with settings of the producer's own.
    pub(super) fn with(
        target: &Target,
        ears: &Arc<Ears>,
        config: &ClientConfig,
        producing: &ClientConfig,
        id: &str,
        limit: Duration,
    ) -> Result<Self, ConnectorError> {
        let producer = producer(target, ears, producing)?;
        producer.init_transactions(limit).map_err(|fault| explain(target, ears, "begin transactions", &fault))?;
        let mut settings = config.clone();
        settings.set("group.id", id).set("isolation.level", "read_committed").set("enable.auto.commit", "false").set("fetch.wait.max.ms", "10");
        let reader: BaseConsumer<Context> =
            settings.create_with_context(Context(ears.clone())).map_err(|fault| client::not_made(&target.shown, ears, &fault))?;
        let group = reader.group_metadata().ok_or_else(|| ConnectorError::new(Kind::Internal, "the Kafka client has no group"))?;
        Ok(Self { producer, reader, group })
    }

    /// The stream's mark, if there is one.
    pub(super) fn mark(&self, target: &Target, ears: &Ears, limit: Duration) -> Result<Option<KeptMark>, ConnectorError> {
        let doing = "read the mark";
        let mut wanted = TopicPartitionList::new();
        wanted.add_partition(&target.topic, 0);
        client::listen(&self.reader, ears);
        let kept = self.reader.committed_offsets(wanted, limit).map_err(|fault| explain(target, ears, doing, &fault))?;
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

    /// Whether the topic still has what the last receipts name: below them it went back.
    fn still_has(&self, target: &Target, ears: &Ears, noted: &Noted, limit: Duration) -> Result<(), ConnectorError> {
        for (partition, last) in last_offsets(target, noted) {
            let (_, end) =
                self.reader.fetch_watermarks(&target.topic, partition, limit).map_err(|fault| explain(target, ears, "ask for the topic's end", &fault))?;
            if end <= last {
                let message = format!(
                    "{}: partition {partition} ends at Kafka offset {end}, but a record was acknowledged at {last}: the topic was made anew or restored; reset the stream if that is right",
                    target.shown
                );
                let error = ConnectorError::new(Kind::WentBack, message);
                return Err(error.with("partition", partition.to_string()).with("end_offset", end.to_string()).with("acknowledged_offset", last.to_string()));
            }
        }
        Ok(())
    }

    /// Commits a transaction that holds nothing but a text in the mark's place.
    fn replace_mark(&self, target: &Target, ears: &Ears, text: &str, limit: Duration) -> Result<(), ConnectorError> {
        let explained = |fault: KafkaError| explain(target, ears, "replace the mark", &fault);
        self.producer.begin_transaction().map_err(explained)?;
        let offsets = producer::metadata(&target.topic, 0, text).map_err(explained)?;
        self.producer.send_offsets_to_transaction(&offsets, &self.group, limit).map_err(explained)?;
        self.producer.commit_transaction(limit).map_err(explained)
    }
}

/// The highest Kafka offset that receipts name, by partition of the topic.
fn last_offsets(target: &Target, noted: &Noted) -> BTreeMap<i32, i64> {
    let mut last: BTreeMap<i32, i64> = BTreeMap::new();
    for receipt in &noted.receipts {
        let attribute = |name: &str| receipt.attributes.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str());
        let place =
            (attribute("topic"), attribute("partition").and_then(|text| text.parse().ok()), attribute("last_kafka_offset").and_then(|text| text.parse().ok()));
        if let (Some(topic), Some(partition), Some(offset)) = place
            && topic == target.topic
        {
            let highest = last.entry(partition).or_insert(offset);
            *highest = offset.max(*highest);
        }
    }
    last
}

/// The error for a failed call, explained by what was heard meanwhile.
pub(super) fn explain(target: &Target, ears: &Ears, doing: &str, fault: &KafkaError) -> ConnectorError {
    let code = failure::code_of(fault);
    match failure::meaning(code).0 {
        Kind::TimedOut | Kind::Unknown => ears.verdict(&target.shown, doing, false).unwrap_or_else(|| failure::error(&target.shown, doing, code)),
        _ => failure::error(&target.shown, doing, code),
    }
}

/// Opens a stream.
pub(super) async fn open(target: &Arc<Target>, cx: &ConnectContext, stream: &StreamId, epoch: Epoch, terms: &Terms) -> Result<Opened, ConnectorError> {
    if terms.commit_mode == CommitMode::OnFinish {
        let message = "a Kafka transaction must end within a minute, so it cannot hold records until finish; open the stream in continuous mode";
        return Err(ConnectorError::new(Kind::Misconfigured, message));
    }
    let cut = target.cut.overridden(&terms.options);
    let reached = reach(target, cx, Arc::new(Security::of(cx)?)).await?;
    reached.found.topic.as_ref().map_err(|code| failure::error(&target.shown, "open the topic", *code))?;
    let limit = step_limit(cx, target.mode);
    let begun = match target.mode {
        Mode::Idempotent => idempotent(target, &reached, cut, limit).await?,
        Mode::ExactlyOnce => exactly_once(target, &reached, cut, limit, stream, terms).await?,
    };
    let epoch = begun.seen.map_or(epoch, |seen| epoch.max(Epoch(seen.0.saturating_add(1))));
    let wiring = Wiring {
        target: target.clone(),
        cut,
        stream: stream.name.clone(),
        ears: reached.ears.clone(),
        limit,
        exact: begun.group.map(|group| Exact { group, epoch }),
    };
    let producer = ProducerThread::start(begun.producer, wiring)
        .map_err(|fault| ConnectorError::new(Kind::Throttled, format!("no thread for a Kafka producer can be started ({fault}); fewer sessions would help")))?;
    Ok(Opened {
        writer: Box::new(KafkaWriter {
            producer,
            target: target.clone(),
            cut,
            key_columns: terms.key_columns.clone(),
            ears: reached.ears,
            egress: cx.egress.clone(),
            unit: Vec::new(),
        }),
        epoch,
        mark: begun.mark,
        delivery: begun.delivery,
        takes: Encoding::Ndjson,
        schema: None,
        units: UNITS,
    })
}

/// A producer that is ready, and what it found.
struct Begun {
    producer: Producer,
    group: Option<ConsumerGroupMetadata>,
    mark: FoundMark,
    /// The epoch beside the mark.
    seen: Option<Epoch>,
    delivery: Delivery,
}

async fn idempotent(target: &Arc<Target>, reached: &Reached, cut: Cut, limit: Duration) -> Result<Begun, ConnectorError> {
    let config = producer_settings(&reached.config, target, cut, limit, None);
    let (made_for, ears) = (target.clone(), reached.ears.clone());
    let producer = blocking(move || producer(&made_for, &ears, &config)).await?;
    let arrays = if cut.format == JsonFormat::Nested { ", in the same arrays" } else { "" };
    let basis = format!("{IDEMPOTENT}{arrays}.");
    Ok(Begun { producer, group: None, mark: FoundMark::NotKept, seen: None, delivery: Delivery { guarantee: Guarantee::Idempotent, basis } })
}

async fn exactly_once(target: &Arc<Target>, reached: &Reached, cut: Cut, limit: Duration, stream: &StreamId, terms: &Terms) -> Result<Begun, ConnectorError> {
    let (target, ears, config) = (target.clone(), reached.ears.clone(), reached.config.clone());
    let (id, noted) = (transactional_id(stream), terms.noted.clone());
    blocking(move || {
        let transactional = Transactional::begin(&target, &ears, &config, &id, limit, cut)?;
        let kept = transactional.mark(&target, &ears, limit)?;
        let mut basis = EXACT.to_owned();
        let mark = match kept {
            Some(kept) => FoundMark::At(kept.mark),
            None if noted.mark.next > 0 && noted.here => {
                transactional.still_has(&target, &ears, &noted, limit)?;
                basis = format!("{EXACT}. {RESTS_ON_OUR_NOTE}");
                FoundMark::At(noted.mark)
            }
            None => FoundMark::Missing,
        };
        ears.forget_troubles();
        let Transactional { producer, group, reader } = transactional;
        drop(reader);
        let delivery = Delivery { guarantee: Guarantee::ExactlyOnce, basis: format!("{basis}.") };
        Ok(Begun { producer, group: Some(group), mark, seen: kept.map(|kept| kept.epoch), delivery })
    })
    .await
}

/// Puts a word for "forgotten" in the place of the stream's mark, and fences whoever still writes. The group itself goes as the cluster's groups do. (To delete it would take a right more, and
/// a client that cannot authenticate with tokens.)
pub(super) async fn forget(target: &Arc<Target>, cx: &ConnectContext, stream: &StreamId) -> Result<(), ConnectorError> {
    if target.mode == Mode::Idempotent {
        return Ok(());
    }
    let reached = reach(target, cx, Arc::new(Security::of(cx)?)).await?;
    match reached.found.topic {
        // The mark is gone with it.
        Err(code) if failure::meaning(code).0 == Kind::NotFound => return Ok(()),
        Err(code) => return Err(failure::error(&target.shown, "forget a stream", code)),
        Ok(_) => {}
    }
    let (target, id, limit) = (target.clone(), transactional_id(stream), step_limit(cx, target.mode));
    blocking(move || {
        let transactional = Transactional::begin(&target, &reached.ears, &reached.config, &id, limit, target.cut)?;
        match transactional.mark(&target, &reached.ears, limit)? {
            None => Ok(()),
            Some(_) => transactional.replace_mark(&target, &reached.ears, &KeptMark::forgotten(), limit),
        }
    })
    .await
}
