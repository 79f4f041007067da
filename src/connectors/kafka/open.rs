//! Why: a stream is opened in one order: look at the cluster, fence older writers, then read the mark. Never reads first: with a transaction of an older writer open, the read would block.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use rdkafka::{
    ClientConfig,
    admin::{AdminClient, AdminOptions, ResourceSpecifier},
    consumer::{BaseConsumer, Consumer},
    error::KafkaError,
    producer::Producer as _,
};

use super::{
    client::{self, Context, Ears, explain, millis},
    failure,
    group::Group,
    mark::{KeptMark, transactional_id},
    options::{Mode, Target},
    producer::{self, Exact, Producer, ProducerThread, Wiring},
    security::Security,
    writer::{KafkaWriter, UNITS},
};
use crate::{
    connectors::{
        connector::{CommitMode, ConnectContext, Delivery, Epoch, FoundMark, Guarantee, Mark, Noted, Opened, StreamId, Terms},
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
/// The longest wait for the topic's configuration; without it a stream goes on.
const DESCRIBE_MAX: Duration = Duration::from_secs(5);
/// What a few calls with limits of their own may take above these.
const BLOCKING_SLACK: Duration = Duration::from_secs(10);
/// Bytes of a batch of messages; also below the limit that brokers have unless told otherwise.
const BATCH_BYTES: u64 = 1_000_000;
/// Bytes of a batch beside its messages.
pub(super) const BATCH_FRAME_BYTES: u64 = 61;
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
    /// The topic's `max.message.bytes`, which limits a batch as the topic keeps it; none where the credential may not ask.
    pub(super) topic_bytes_max: Option<u64>,
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
    let found = blocking(limit, {
        let (target, config, ears) = (target.clone(), config.clone(), ears.clone());
        move || client::scout(&target, &config, &ears, limit)
    })
    .await?;
    client::check_advertised(&cx.egress, &ears, &found.brokers).await?;
    let topic_bytes_max = if found.topic.is_ok() { topic_bytes_max(target, &config, &ears, limit.min(DESCRIBE_MAX)).await } else { None };
    Ok(Reached { ears, config, found, topic_bytes_max })
}

/// The topic's `max.message.bytes`, if the brokers tell. The library's client for such questions has no ears for tokens, so with OAUTHBEARER it is not asked.
async fn topic_bytes_max(target: &Arc<Target>, config: &ClientConfig, ears: &Arc<Ears>, limit: Duration) -> Option<u64> {
    if ears.security.tokens.is_some() {
        return None;
    }
    let (target, config, security, runtime) = (target.clone(), config.clone(), ears.security.clone(), tokio::runtime::Handle::current());
    let asked = blocking(limit, move || {
        // With ears of its own: a right that is missing here is no trouble.
        let ears = Ears::new(security);
        let admin: AdminClient<Context> = config.create_with_context(Context(ears.clone())).map_err(|fault| client::not_made(&target.shown, &ears, &fault))?;
        let topic = ResourceSpecifier::Topic(&target.topic);
        let described = runtime.block_on(admin.describe_configs([&topic], &AdminOptions::new().request_timeout(Some(limit))));
        described.map_err(|fault| failure::error(&target.shown, "ask for the topic's configuration", failure::code_of(&fault)))
    });
    let told = asked.await.ok()?.into_iter().next()?.ok()?;
    told.get("max.message.bytes")?.value.as_ref()?.parse().ok()
}

/// Does what blocks where it may. `limit` is the sum of the limits of all that it calls: what takes much longer is left to end by itself, since some losses of a broker make the library
/// wait for ever.
pub(super) async fn blocking<T: Send + 'static>(
    limit: Duration,
    work: impl FnOnce() -> Result<T, ConnectorError> + Send + 'static,
) -> Result<T, ConnectorError> {
    match tokio::time::timeout(limit + BLOCKING_SLACK, tokio::task::spawn_blocking(work)).await {
        Ok(Ok(result)) => result,
        Ok(Err(_)) => Err(ConnectorError::new(Kind::Internal, "the Kafka client broke off; see the log")),
        Err(_) => Err(ConnectorError::new(Kind::TimedOut, "neither the brokers nor the Kafka client answer in time")),
    }
}

/// The limit of one step.
pub(super) fn step_limit(cx: &ConnectContext, mode: Mode) -> Duration {
    let limit = cx.reply_timeout.max(LIMIT_MIN);
    if mode == Mode::ExactlyOnce { limit.min(TRANSACTION_STEP_MAX) } else { limit }
}

/// Settings of a producer; with a transactional id it is one with transactions.
pub(super) fn producer_settings(
    config: &ClientConfig,
    target: &Target,
    cut: Cut,
    topic_bytes_max: Option<u64>,
    limit: Duration,
    id: Option<&str>,
) -> ClientConfig {
    let mut config = config.clone();
    // Larger than any message that is made, so that only the topic decides what is too large.
    let bytes_max = cut.message_bytes_max + limits::RECORD_BYTES_MAX as u64 + MESSAGE_FRAME_BYTES;
    // The brokers refuse a batch as a whole; one of several messages is kept below what they take.
    let batch_bytes = topic_bytes_max.map_or(BATCH_BYTES, |most| most.clamp(1, BATCH_BYTES));
    config
        .set("enable.idempotence", "true")
        .set("acks", "all")
        .set("compression.type", target.compression)
        // The same partition for a key as the Java clients choose.
        .set("partitioner", "murmur2_random")
        .set("batch.size", batch_bytes.to_string())
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
    let mut config = producer_settings(config, target, target.cut, None, limit, Some(id));
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
    /// Settings of a client that asks where partitions end, whatever transactions of others are open there.
    ends: ClientConfig,
    pub(super) group: Group,
}

impl Transactional {
    pub(super) fn begin(target: &Target, reached: &Reached, id: &str, limit: Duration, cut: Cut) -> Result<Self, ConnectorError> {
        let settings = producer_settings(&reached.config, target, cut, reached.topic_bytes_max, limit, Some(id));
        Self::with(target, &reached.ears, &reached.config, &settings, id, limit)
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
        let group = Group::new(target, ears, config, id)?;
        let mut ends = config.clone();
        ends.set("isolation.level", "read_uncommitted");
        Ok(Self { producer, ends, group })
    }

    /// Whether the topic still has what the last receipts name: below them it went back.
    fn still_has(&self, target: &Target, ears: &Arc<Ears>, noted: &Noted, limit: Duration) -> Result<(), ConnectorError> {
        // For a reader of committed records a partition seems to end where the first open transaction begins, and markers of the last one may still be on their way.
        let asking: BaseConsumer<Context> =
            self.ends.create_with_context(Context(ears.clone())).map_err(|fault| client::not_made(&target.shown, ears, &fault))?;
        client::listen(&asking, ears);
        for (partition, last) in last_offsets(target, noted) {
            let (_, end) =
                asking.fetch_watermarks(&target.topic, partition, limit).map_err(|fault| explain(target, ears, "ask for the topic's end", &fault))?;
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
        self.producer.send_offsets_to_transaction(&offsets, self.group.metadata(), limit).map_err(explained)?;
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

/// Opens a stream. With transactions its mark is written again after each `refresh` without a unit.
pub(super) async fn open(
    target: &Arc<Target>,
    cx: &ConnectContext,
    stream: &StreamId,
    epoch: Epoch,
    terms: &Terms,
    refresh: Duration,
) -> Result<Opened, ConnectorError> {
    if terms.commit_mode == CommitMode::OnFinish {
        let message = "a Kafka transaction must end within a minute, so it cannot hold records until finish; open the stream in continuous mode";
        return Err(ConnectorError::new(Kind::Misconfigured, message));
    }
    let mut cut = target.cut.overridden(&terms.options);
    let reached = Arc::new(reach(target, cx, Arc::new(Security::of(cx)?)).await?);
    reached.found.topic.as_ref().map_err(|code| failure::error(&target.shown, "open the topic", *code))?;
    let limit = step_limit(cx, target.mode);
    // What is compressed may still fit, and an idempotent writer cuts its arrays alike for ever, so there only the brokers can tell.
    let record_bytes_max = reached.topic_bytes_max.filter(|_| target.compression == "none");
    if let (Some(most), Mode::ExactlyOnce, JsonFormat::Nested) = (record_bytes_max, target.mode, cut.format) {
        cut.message_bytes_max = cut.message_bytes_max.min(most / 2).max(1);
    }
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
        exact: begun.group.map(|group| Exact { group, epoch, mark: kept_mark(begun.mark), refresh }),
        topic_bytes_max: reached.topic_bytes_max,
    };
    let producer = ProducerThread::start(begun.producer, wiring)
        .map_err(|fault| ConnectorError::new(Kind::Throttled, format!("no thread for a Kafka producer can be started ({fault}); fewer sessions would help")))?;
    Ok(Opened {
        writer: Box::new(KafkaWriter {
            producer,
            target: target.clone(),
            cut,
            record_bytes_max,
            key_columns: terms.key_columns.clone(),
            ears: reached.ears.clone(),
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

/// The mark that a stream begins with, where it is not its first.
fn kept_mark(found: FoundMark) -> Option<Mark> {
    match found {
        FoundMark::At(mark) => Some(mark),
        FoundMark::Missing | FoundMark::NotKept => None,
    }
}

/// A producer that is ready, and what it found.
struct Begun {
    producer: Producer,
    group: Option<Group>,
    mark: FoundMark,
    /// The epoch beside the mark.
    seen: Option<Epoch>,
    delivery: Delivery,
}

async fn idempotent(target: &Arc<Target>, reached: &Reached, cut: Cut, limit: Duration) -> Result<Begun, ConnectorError> {
    let config = producer_settings(&reached.config, target, cut, reached.topic_bytes_max, limit, None);
    let (made_for, ears) = (target.clone(), reached.ears.clone());
    let producer = blocking(limit, move || producer(&made_for, &ears, &config)).await?;
    let arrays = if cut.format == JsonFormat::Nested { ", in the same arrays" } else { "" };
    let basis = format!("{IDEMPOTENT}{arrays}.");
    Ok(Begun { producer, group: None, mark: FoundMark::NotKept, seen: None, delivery: Delivery { guarantee: Guarantee::Idempotent, basis } })
}

async fn exactly_once(
    target: &Arc<Target>,
    reached: &Arc<Reached>,
    cut: Cut,
    limit: Duration,
    stream: &StreamId,
    terms: &Terms,
) -> Result<Begun, ConnectorError> {
    let (target, reached) = (target.clone(), reached.clone());
    let (id, noted) = (transactional_id(stream), terms.noted.clone());
    // Fence, read the mark, and ask for the end of each partition that a receipt names.
    blocking(limit * (2 + limits::NOTED_RECEIPTS_MAX as u32), move || {
        let ears = &reached.ears;
        let transactional = Transactional::begin(&target, &reached, &id, limit, cut)?;
        let kept = transactional.group.mark(&target, ears, limit)?;
        let mut basis = EXACT.to_owned();
        let mark = match kept {
            Some(kept) => FoundMark::At(kept.mark),
            None if noted.mark.next > 0 && noted.here => {
                transactional.still_has(&target, ears, &noted, limit)?;
                basis = format!("{EXACT}. {RESTS_ON_OUR_NOTE}");
                FoundMark::At(noted.mark)
            }
            None => FoundMark::Missing,
        };
        ears.forget_troubles();
        let Transactional { producer, group, ends: _ } = transactional;
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
    blocking(limit * 4, move || {
        let transactional = Transactional::begin(&target, &reached, &id, limit, target.cut)?;
        match transactional.group.mark(&target, &reached.ears, limit)? {
            None => Ok(()),
            Some(_) => transactional.replace_mark(&target, &reached.ears, &KeptMark::forgotten(), limit),
        }
    })
    .await
}
