//! Why: units go to the brokers from one thread a writer, so that nothing of the library ever blocks the runtime. Never reports a unit as settled that a broker has not confirmed, and never uses a producer again after an unclear outcome.

use std::{
    collections::BTreeMap,
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use rdkafka::{
    Message as _, Offset as KafkaOffset, TopicPartitionList,
    error::KafkaError,
    message::{DeliveryResult, Header, OwnedHeaders},
    producer::{BaseRecord, Producer as _, ProducerContext, ThreadedProducer},
    types::RDKafkaErrorCode as Code,
};
use tokio::{
    sync::{oneshot, watch},
    time::timeout,
};

use super::{
    client::{Context, Ears, locked},
    failure,
    group::Group,
    mark::KeptMark,
    open::BATCH_FRAME_BYTES,
    options::Target,
};
use crate::{
    connectors::{
        connector::{Artifact, Epoch, Mark, Outcome},
        error::{ConnectorError, ConnectorErrorKind as Kind, ErrorClass},
        messages::Cut,
    },
    name::StreamName,
    record::{Offset, RecordFault, RecordFaultKind},
};

/// The library's producer; it has a thread of its own for what brokers confirm.
pub(super) type Producer = ThreadedProducer<Context>;

/// How often a wait for the brokers looks whether it still makes sense.
const LOOK_INTERVAL: Duration = Duration::from_millis(100);
/// How long a transaction may take to be aborted when its outcome matters to nobody.
const ABORT_TIMEOUT: Duration = Duration::from_secs(2);
/// How long after its own limit the library may take to give a message up.
const GIVE_UP_SLACK: Duration = Duration::from_secs(5);
/// How long after its own limit a step may take before the thread is left to itself: there are losses of a coordinator after which the library waits for ever. Longer than
/// [`GIVE_UP_SLACK`], so that whatever can explain itself does.
const STEP_SLACK: Duration = Duration::from_secs(7);
/// Bytes of a message beside its key and value: lengths, headers with the stream's name and a trace context.
const MESSAGE_OVERHEAD_BYTES: u64 = 512;
const _: () = assert!(STEP_SLACK.as_secs() > GIVE_UP_SLACK.as_secs() && STEP_SLACK.as_secs() > ABORT_TIMEOUT.as_secs());
/// How often the client that reads the mark is listened to while no unit comes; a new token may be due.
const LISTEN_INTERVAL: Duration = Duration::from_secs(20);
/// What failures of one unit are kept of.
const FAILURES_MAX: usize = 1_000;

/// One record of a unit; its text is shared with the batch it came in.
#[derive(Debug, Clone)]
pub(super) struct Record {
    pub(super) offset: Offset,
    pub(super) text: Bytes,
    pub(super) key: Option<Bytes>,
    pub(super) traceparent: Option<Arc<str>>,
}

/// One Kafka message in the making.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Message {
    pub(super) first: Offset,
    pub(super) records: u64,
    pub(super) key: Option<Bytes>,
    pub(super) value: Bytes,
    pub(super) traceparent: Option<Arc<str>>,
}

/// A unit as messages, in order. Records share a message only with those beside them of the same key. The same unit is always cut alike.
pub(super) fn messages(cut: Cut, unit: &[Record]) -> Vec<Message> {
    let (mut messages, mut rest) = (Vec::with_capacity(unit.len() / cut.records_per_message().min(unit.len().max(1))), unit);
    while let Some(first) = rest.first() {
        let same_key = rest.iter().take_while(|record| record.key == first.key);
        let (now, later) = rest.split_at(cut.fitting(same_key.map(|record| record.text.len())));
        messages.push(Message {
            first: first.offset,
            records: now.len() as u64,
            key: first.key.clone(),
            value: cut.message(now.iter().map(|record| &record.text)),
            traceparent: now.iter().find_map(|record| record.traceparent.clone()),
        });
        rest = later;
    }
    messages
}

/// What of the unit under way has come back.
#[derive(Debug, Default)]
pub(super) struct Flight {
    /// First offset, records and bytes of each message of the unit.
    plan: Vec<(Offset, u64, u64)>,
    /// Messages that were confirmed or given up.
    done: usize,
    /// The producer's thread waits for this many.
    awaited: Option<usize>,
    landed: BTreeMap<i32, Landed>,
    failed: Vec<(usize, Code)>,
    failures: usize,
}

/// What a partition has taken of a unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Landed {
    first_kafka_offset: i64,
    last_kafka_offset: i64,
    first: Offset,
    records: u64,
    bytes: u64,
}

impl Flight {
    fn land(&mut self, index: usize, partition: i32, kafka_offset: i64) {
        let Some((first, records, bytes)) = self.plan.get(index).copied() else { return };
        let one = Landed { first_kafka_offset: kafka_offset, last_kafka_offset: kafka_offset, first, records: 0, bytes: 0 };
        let landed = self.landed.entry(partition).or_insert(one);
        landed.first_kafka_offset = landed.first_kafka_offset.min(kafka_offset);
        landed.last_kafka_offset = landed.last_kafka_offset.max(kafka_offset);
        landed.first = landed.first.min(first);
        landed.records += records;
        landed.bytes += bytes;
    }

    fn fail(&mut self, index: usize, code: Code) {
        self.failures += 1;
        if self.failed.len() < FAILURES_MAX {
            self.failed.push((index, code));
        }
    }

    fn too_large(&self) -> bool {
        self.failed.iter().any(|(_, code)| is_too_large(*code))
    }

    fn outcome(&self, target: &Target) -> Outcome {
        let artifacts = self.landed.iter().map(|(partition, landed)| Artifact {
            uri: target.uri(*partition),
            first_offset: landed.first,
            record_count: landed.records,
            byte_count: landed.bytes,
            attributes: vec![
                ("topic".to_owned(), target.topic.clone()),
                ("partition".to_owned(), partition.to_string()),
                ("first_kafka_offset".to_owned(), landed.first_kafka_offset.to_string()),
                ("last_kafka_offset".to_owned(), landed.last_kafka_offset.to_string()),
            ],
        });
        Outcome { artifacts: artifacts.collect(), bytes: self.landed.values().map(|landed| landed.bytes).sum() }
    }
}

fn is_too_large(code: Code) -> bool {
    failure::meaning(code).0 == Kind::TooLarge
}

impl ProducerContext for Context {
    type DeliveryOpaque = usize;

    fn delivery(&self, result: &DeliveryResult<'_>, index: usize) {
        let mut flight = locked(&self.0.flight);
        match result {
            Ok(message) => flight.land(index, message.partition(), message.offset()),
            Err((error, _)) => flight.fail(index, failure::code_of(error)),
        }
        flight.done += 1;
        if flight.awaited.is_some_and(|awaited| flight.done >= awaited) {
            flight.awaited = None;
            self.0.landed.notify_one();
        }
    }
}

/// What a unit is written with.
pub(super) struct Wiring {
    pub(super) target: Arc<Target>,
    pub(super) cut: Cut,
    pub(super) stream: StreamName,
    pub(super) ears: Arc<Ears>,
    /// How long the library tries to deliver a message, and how long it may take over a step of a transaction.
    pub(super) limit: Duration,
    /// With transactions.
    pub(super) exact: Option<Exact>,
    /// What the topic takes as one batch, if it is known; batches of several messages are kept below it.
    pub(super) topic_bytes_max: Option<u64>,
}

/// What transactions need.
pub(super) struct Exact {
    pub(super) group: Group,
    pub(super) epoch: Epoch,
    /// The last mark that is known to be there, if any.
    pub(super) mark: Option<Mark>,
    /// After how long without a unit the mark is written again, since groups expire.
    pub(super) refresh: Duration,
}

/// A unit to be written, and who waits for it.
struct Order {
    unit: Vec<Record>,
    mark: Mark,
    reply: oneshot::Sender<Result<Outcome, ConnectorError>>,
}

/// What a producer's thread is at, as errors put it.
type Step = &'static str;

/// A producer's thread. Dropping it ends the thread, which then gives up what is under way.
pub(super) struct ProducerThread {
    orders: SyncSender<Order>,
    dropped: Arc<AtomicBool>,
    /// Told anew with every step.
    steps: watch::Receiver<Step>,
    /// How long each may take.
    step_max: Duration,
    shown: String,
}

impl Drop for ProducerThread {
    fn drop(&mut self) {
        self.dropped.store(true, Ordering::Relaxed);
    }
}

impl ProducerThread {
    /// Starts the thread; from here on the producer is its own.
    pub(super) fn start(producer: Producer, wiring: Wiring) -> io::Result<Self> {
        // One unit is under way at a time, and one may be handed over as its predecessor's answer is read.
        let (orders, inbox) = sync_channel(1);
        let (dropped, shown) = (Arc::new(AtomicBool::new(false)), wiring.target.shown.clone());
        let (step, steps) = watch::channel("write");
        let step_max = wiring.limit + STEP_SLACK;
        let worker = Worker { producer, wiring, dropped: dropped.clone(), step };
        std::thread::Builder::new().name("kafka-producer".to_owned()).spawn(move || worker.run(&inbox))?;
        Ok(Self { orders, dropped, steps, step_max, shown })
    }

    /// Has a unit written; the answer comes when the brokers have confirmed it, with the mark where it goes with it. If the library does not come back from a step within its limit and a
    /// few seconds, the answer is that the outcome is unknown; the thread then ends by itself, whenever the library lets it.
    pub(super) fn write(&self, unit: Vec<Record>, mark: Mark) -> impl Future<Output = Result<Outcome, ConnectorError>> + Send + use<> {
        let (reply, answer) = oneshot::channel();
        let sent = self.orders.try_send(Order { unit, mark, reply });
        let lost = ConnectorError::new(Kind::Unknown, format!("{}: the producer is gone; it is opened again", self.shown));
        let (mut steps, step_max, shown) = (self.steps.clone(), self.step_max, self.shown.clone());
        async move {
            if sent.is_err() {
                return Err(lost);
            }
            let mut answer = answer;
            loop {
                let step = *steps.borrow_and_update();
                tokio::select! {
                    biased;
                    answered = &mut answer => return answered.unwrap_or(Err(lost)),
                    moved = timeout(step_max, steps.changed()) => match moved {
                        Ok(Ok(())) => {}
                        // The thread has ended, so its answer is there, or never comes.
                        Ok(Err(_)) => return answer.await.unwrap_or(Err(lost)),
                        Err(_) => return Err(silent(&shown, step)),
                    },
                }
            }
        }
    }
}

/// The error for a step that the library does not come back from.
fn silent(shown: &str, step: Step) -> ConnectorError {
    tracing::warn!(destination = shown, step, "the Kafka client does not come back; its thread is left to end by itself");
    let message = format!(
        "{shown}: cannot {step}: neither the brokers nor the client library answer in time; whether the unit was written cannot be told, and is looked at again"
    );
    ConnectorError::new(Kind::Unknown, message).with("destination", shown).with("step", step)
}

struct Worker {
    producer: Producer,
    wiring: Wiring,
    dropped: Arc<AtomicBool>,
    step: watch::Sender<Step>,
}

/// Why a wait ended early.
enum Halt {
    /// Nobody waits any more.
    Dropped,
    /// It makes no sense.
    Failed(ConnectorError),
}

impl Worker {
    fn run(mut self, inbox: &Receiver<Order>) {
        let mut broken = None;
        while let Some(order) = self.next(inbox, &mut broken) {
            let result = match broken.take() {
                Some(error) => Err(error),
                None => self.unit(&order.unit, order.mark),
            };
            let over = result.is_err();
            if let (Some(exact), false) = (&mut self.wiring.exact, over) {
                exact.mark = Some(order.mark);
            }
            // Whoever has gone away will open again and read the mark.
            let _ = order.reply.send(result);
            if over {
                break;
            }
        }
        // Dropping the producer throws away what it holds, which may take a while; here nobody waits for it.
    }

    /// The next order. While none comes the mark is written again now and then; an error of that is kept in `broken` for the next order.
    fn next(&self, inbox: &Receiver<Order>, broken: &mut Option<ConnectorError>) -> Option<Order> {
        let Some(exact) = &self.wiring.exact else { return inbox.recv().ok() };
        let mut written = Instant::now();
        loop {
            match inbox.recv_timeout(LISTEN_INTERVAL.min(exact.refresh)) {
                Ok(order) => return Some(order),
                Err(RecvTimeoutError::Disconnected) => return None,
                Err(RecvTimeoutError::Timeout) => exact.group.listen(),
            }
            if let (Some(mark), None, true) = (exact.mark, &broken, written.elapsed() >= exact.refresh) {
                *broken = self.unit(&[], mark).err();
                written = Instant::now();
                tracing::debug!(destination = self.wiring.target.shown, refreshed = broken.is_none(), "the mark of an idle stream was written again");
            }
        }
    }

    fn unit(&self, unit: &[Record], mark: Mark) -> Result<Outcome, ConnectorError> {
        self.step.send_replace("write");
        let messages = messages(self.wiring.cut, unit);
        let Some(exact) = &self.wiring.exact else { return self.deliver(&messages) };
        let kept = KeptMark { mark, epoch: exact.epoch };
        self.producer.begin_transaction().map_err(|fault| self.transaction_error("begin a transaction", &fault))?;
        let delivered = self.deliver(&messages).and_then(|outcome| {
            let offsets = offsets(&self.wiring.target.topic, &kept).map_err(|fault| self.transaction_error("set the mark", &fault))?;
            self.step.send_replace("set the mark");
            let sent = self.producer.send_offsets_to_transaction(&offsets, exact.group.metadata(), self.wiring.limit);
            sent.map_err(|fault| self.transaction_error("set the mark", &fault)).map(|()| outcome)
        });
        match delivered {
            // What is uncommitted would keep readers waiting until the brokers time it out.
            Err(error) => {
                self.step.send_replace("abort the transaction");
                if error.kind != Kind::Fenced
                    && let Err(fault) = self.producer.abort_transaction(ABORT_TIMEOUT)
                {
                    tracing::debug!(code = ?failure::code_of(&fault), "the transaction is left to the brokers' time-out");
                }
                Err(error)
            }
            Ok(outcome) => {
                self.step.send_replace("commit the transaction");
                self.producer.commit_transaction(self.wiring.limit).map_err(|fault| self.commit_error(&fault))?;
                self.step.send_replace("read the mark back");
                exact.group.confirm(&self.wiring.target, &self.wiring.ears, &kept, self.wiring.limit)?;
                Ok(outcome)
            }
        }
    }

    /// Sends the messages and waits until brokers have confirmed every one.
    fn deliver(&self, messages: &[Message]) -> Result<Outcome, ConnectorError> {
        let ears = &self.wiring.ears;
        let plan = messages.iter().map(|message| (message.first, message.records, message.value.len() as u64)).collect();
        *locked(&ears.flight) = Flight { plan, ..Flight::default() };
        let halted = self.send_all(messages).and_then(|sent| self.wait_for(sent));
        if let Err(halt) = halted {
            return Err(match halt {
                Halt::Failed(error) => error,
                Halt::Dropped => ConnectorError::new(Kind::Unknown, format!("{}: the writer was thrown away", self.wiring.target.shown)),
            });
        }
        ears.forget_troubles();
        let flight = std::mem::take(&mut *locked(&ears.flight));
        if flight.failures > 0 { Err(self.delivery_error(messages, &flight)) } else { Ok(flight.outcome(&self.wiring.target)) }
    }

    /// Hands all messages to the library; how many it took. A full queue is waited for.
    fn send_all(&self, messages: &[Message]) -> Result<usize, Halt> {
        let (mut sent, stream) = (0, self.wiring.stream.as_str());
        for (index, message) in messages.iter().enumerate() {
            let mut record = BaseRecord::with_opaque_to(&self.wiring.target.topic, index).payload(&message.value[..]).headers(headers(stream, message));
            if let Some(key) = &message.key {
                record = record.key(&key[..]);
            }
            loop {
                match self.producer.send(record) {
                    Ok(()) => {
                        sent += 1;
                        break;
                    }
                    Err((KafkaError::MessageProduction(Code::QueueFull), back)) => {
                        record = back;
                        let done = locked(&self.wiring.ears.flight).done;
                        self.wait_for((done + 1).max(sent / 2 + done / 2))?;
                    }
                    Err((KafkaError::MessageProduction(code @ Code::MessageSizeTooLarge), _)) => {
                        locked(&self.wiring.ears.flight).fail(index, code);
                        break;
                    }
                    Err((fault, _)) => return Err(Halt::Failed(self.transaction_error("write", &fault))),
                }
            }
        }
        Ok(sent)
    }

    /// Waits until `done` messages of the unit were confirmed or given up.
    fn wait_for(&self, done: usize) -> Result<(), Halt> {
        let ears = &self.wiring.ears;
        self.step.send_replace("write");
        let until = Instant::now() + self.wiring.limit + GIVE_UP_SLACK;
        let mut flight = locked(&ears.flight);
        while flight.done < done {
            // The transaction cannot be committed any more, and what else is on its way would only be waited for.
            if self.wiring.exact.is_some() && self.wiring.topic_bytes_max.is_some() && flight.too_large() {
                break;
            }
            flight.awaited = Some(done);
            flight = ears.landed.wait_timeout(flight, LOOK_INTERVAL).unwrap_or_else(std::sync::PoisonError::into_inner).0;
            if flight.done >= done {
                break;
            }
            if self.dropped.load(Ordering::Relaxed) {
                return Err(Halt::Dropped);
            }
            if let Some(error) = ears.verdict(&self.wiring.target.shown, "write", true).filter(|error| error.class == ErrorClass::Configuration) {
                return Err(Halt::Failed(error));
            }
            if Instant::now() >= until {
                return Err(Halt::Failed(failure::error(&self.wiring.target.shown, "write", Code::Fail)));
            }
        }
        Ok(())
    }

    /// What became of a unit of which some messages were given up.
    fn delivery_error(&self, messages: &[Message], flight: &Flight) -> ConnectorError {
        let shown = &self.wiring.target.shown;
        if let Some((code, _)) = self.producer.client().fatal_error() {
            return self.error("write", code);
        }
        // What else failed did so because of these.
        if let Some(error) = self.oversized(messages, flight) {
            return error;
        }
        let of_a_record = |code: Code| matches!(failure::meaning(code).0, Kind::TooLarge | Kind::Rejected) || code == Code::InvalidDifferentRecord;
        if let Some((_, code)) = flight.failed.iter().find(|(_, code)| !of_a_record(*code)) {
            return self.error("write", *code);
        }
        let (kind, code) = match flight.failed.iter().find(|(_, code)| *code != Code::InvalidDifferentRecord) {
            Some((_, code)) => (failure::meaning(*code).0, *code),
            None => (Kind::Rejected, Code::InvalidRecord),
        };
        let advice = failure::meaning(code).1;
        let error = ConnectorError::new(kind, format!("{shown} refuses a record: {advice}")).with("kafka_error", format!("{code:?}"));
        // Messages are refused by batches. One that fails alone was alone; where brokers tell the bad ones of a batch from the others, the bad ones are known.
        let told_apart = flight.failed.iter().any(|(_, code)| *code == Code::InvalidDifferentRecord);
        if flight.failures > 1 && !told_apart {
            return error;
        }
        let fault_kind = if kind == Kind::TooLarge { RecordFaultKind::TooLarge } else { RecordFaultKind::Invalid };
        let bad = flight.failed.iter().filter(|(_, code)| *code != Code::InvalidDifferentRecord).map(|(index, _)| &messages[*index]);
        // Of several records in one message the session finds the bad one by halving.
        bad.filter(|message| message.records == 1).fold(error, |error, message| {
            let text = format!("{shown} refuses record {} ({} bytes): {advice}", message.first, message.value.len());
            error.record(message.first, RecordFault { kind: fault_kind, message: text, column: None })
        })
    }

    /// The error that names the messages which are larger than the topic takes, if there are such. They were refused alone; others that are refused with them may only be batched too largely,
    /// because the topic takes less than it did when the stream was opened.
    fn oversized(&self, messages: &[Message], flight: &Flight) -> Option<ConnectorError> {
        let (shown, advice, most) = (&self.wiring.target.shown, failure::meaning(Code::MessageSizeTooLarge).1, self.wiring.topic_bytes_max?);
        let bytes = |message: &Message| (message.value.len() + message.key.as_ref().map_or(0, Bytes::len)) as u64 + BATCH_FRAME_BYTES + MESSAGE_OVERHEAD_BYTES;
        let refused = flight.failed.iter().filter(|(_, code)| is_too_large(*code)).map(|(index, _)| &messages[*index]);
        let bad: Vec<&Message> = refused.filter(|message| message.records == 1 && bytes(message) > most).collect();
        let error =
            ConnectorError::new(Kind::TooLarge, format!("{shown} refuses a record: {advice}")).with("kafka_error", format!("{:?}", Code::MessageSizeTooLarge));
        (!bad.is_empty()).then(|| {
            bad.into_iter().fold(error, |error, message| {
                let text = format!("{shown} refuses record {} ({} bytes): {advice}", message.first, message.value.len());
                error.record(message.first, RecordFault { kind: RecordFaultKind::TooLarge, message: text, column: None })
            })
        })
    }

    /// The error for `code`. A message that only ran out of time is explained by what was heard meanwhile.
    fn error(&self, doing: &str, code: Code) -> ConnectorError {
        let shown = &self.wiring.target.shown;
        match failure::meaning(code).0 {
            Kind::TimedOut => self.wiring.ears.verdict(shown, doing, false).unwrap_or_else(|| failure::error(shown, doing, code)),
            // Without transactions there is no fence: the brokers have lost track of the producer, and a new one goes on.
            Kind::Fenced if self.wiring.exact.is_none() => failure::error(shown, doing, Code::Fatal),
            _ => failure::error(shown, doing, code),
        }
    }

    /// A step before the commit failed: nothing of the unit counts.
    fn transaction_error(&self, doing: &str, fault: &KafkaError) -> ConnectorError {
        let code = self.producer.client().fatal_error().map_or_else(|| failure::code_of(fault), |(code, _)| code);
        self.error(doing, code)
    }

    /// The commit failed: unless a newer writer has the stream, only the mark can tell what became of it.
    fn commit_error(&self, fault: &KafkaError) -> ConnectorError {
        let code = self.producer.client().fatal_error().map_or_else(|| failure::code_of(fault), |(code, _)| code);
        if failure::is_fenced(code) {
            return self.error("commit", code);
        }
        let shown = &self.wiring.target.shown;
        let message = format!("{shown}: whether the transaction was committed cannot be told; the mark is read again");
        ConnectorError::new(Kind::Unknown, message).with("destination", shown).with("kafka_error", format!("{code:?}"))
    }
}

/// Writes one message that says it is a probe; where it landed. Blocks.
pub(super) fn write_probe(producer: &Producer, target: &Target, ears: &Ears, value: &[u8], limit: Duration) -> Result<(i32, i64), ConnectorError> {
    *locked(&ears.flight) = Flight { plan: vec![(0, 1, value.len() as u64)], ..Flight::default() };
    let headers = OwnedHeaders::new_with_capacity(1).insert(Header { key: "datasink-probe", value: Some("1") });
    // Compacted topics take no message without a key.
    let record = BaseRecord::with_opaque_to(&target.topic, 0).payload(value).key("datasink-probe").headers(headers);
    let doing = "write a probe";
    producer.send(record).map_err(|(fault, _)| failure::error(&target.shown, doing, failure::code_of(&fault)))?;
    let until = Instant::now() + limit + GIVE_UP_SLACK;
    let mut flight = locked(&ears.flight);
    while flight.done < 1 && Instant::now() < until {
        flight.awaited = Some(1);
        flight = ears.landed.wait_timeout(flight, LOOK_INTERVAL).unwrap_or_else(std::sync::PoisonError::into_inner).0;
    }
    let failed = flight.failed.first().map(|(_, code)| *code);
    let landed = flight.landed.iter().next().map(|(partition, landed)| (*partition, landed.last_kafka_offset));
    drop(flight);
    match (landed, failed) {
        (Some(landed), None) => Ok(landed),
        (_, code) => {
            let code = producer.client().fatal_error().map(|(code, _)| code).or(code).unwrap_or(Code::OperationTimedOut);
            let explained = (failure::meaning(code).0 == Kind::TimedOut).then(|| ears.verdict(&target.shown, doing, false)).flatten();
            Err(explained.unwrap_or_else(|| failure::error(&target.shown, doing, code)))
        }
    }
}

/// The mark as the committed offset of the topic's first partition: brokers take text beside the number, and the text is what counts.
pub(super) fn offsets(topic: &str, kept: &KeptMark) -> Result<TopicPartitionList, KafkaError> {
    metadata(topic, kept.mark.next, &kept.encode())
}

/// One committed offset with a text.
pub(super) fn metadata(topic: &str, next: Offset, text: &str) -> Result<TopicPartitionList, KafkaError> {
    let mut offsets = TopicPartitionList::new();
    offsets.add_partition_offset(topic, 0, KafkaOffset::Offset(i64::try_from(next).unwrap_or(i64::MAX)))?;
    for mut element in offsets.elements() {
        element.set_metadata(text);
    }
    Ok(offsets)
}

fn headers(stream: &str, message: &Message) -> OwnedHeaders {
    let mut digits = [0; 20];
    let headers = OwnedHeaders::new_with_capacity(4)
        .insert(Header { key: "datasink-stream", value: Some(stream) })
        .insert(Header { key: "datasink-offset", value: Some(decimal(message.first, &mut digits)) });
    match &message.traceparent {
        Some(trace) => headers.insert(Header { key: "traceparent", value: Some(&trace[..]) }),
        None => headers,
    }
}

/// A number as text, without asking for memory: there is one a message.
fn decimal(mut number: u64, digits: &mut [u8; 20]) -> &[u8] {
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = b'0' + (number % 10) as u8;
        number /= 10;
        if number == 0 {
            return &digits[at..];
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::connectors::messages::JsonFormat;

    fn record(offset: Offset, text: &'static str, key: Option<&'static str>) -> Record {
        Record { offset, text: Bytes::from_static(text.as_bytes()), key: key.map(|key| Bytes::from_static(key.as_bytes())), traceparent: None }
    }

    #[test]
    fn only_records_of_one_key_share_a_message_and_order_stays() {
        let cut = Cut { format: JsonFormat::Nested, records_max: 2, message_bytes_max: 100 };
        let unit = [record(3, "{}", Some("1")), record(4, "{}", Some("2")), record(6, "{}", Some("2")), record(7, "{}", Some("2")), record(8, "{}", Some("1"))];
        let made: Vec<_> = messages(cut, &unit).into_iter().map(|message| (message.first, message.records, message.value)).collect();
        assert_eq!(made, [(3, 1, "[{}]".into()), (4, 2, "[{},{}]".into()), (7, 1, "[{}]".into()), (8, 1, "[{}]".into())]);
        assert_eq!(messages(Cut::default(), &unit).len(), 5);
    }

    #[test]
    fn receipts_are_by_partition() {
        let mut flight = Flight { plan: vec![(10, 1, 5), (11, 1, 6), (12, 1, 7)], ..Flight::default() };
        flight.land(1, 0, 101);
        flight.land(0, 0, 100);
        flight.land(2, 3, 7);
        assert_eq!(flight.landed[&0], Landed { first_kafka_offset: 100, last_kafka_offset: 101, first: 10, records: 2, bytes: 11 });
        assert_eq!(flight.landed[&3], Landed { first_kafka_offset: 7, last_kafka_offset: 7, first: 12, records: 1, bytes: 7 });
    }

    #[test]
    fn numbers_are_written_as_ever() {
        for number in [0, 7, 10, 1_234_567_890, u64::MAX] {
            assert_eq!(decimal(number, &mut [0; 20]), number.to_string().as_bytes());
        }
    }
}
