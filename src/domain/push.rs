//! Why: the open of a stream is resolved once, here, into an order that needs no look-up any more. Never moves a record.

#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{
    Domain, IdentitySource, OpContext,
    access::{Need, ObjectType, Permission, decide},
    catalog::{self, DATA_SINKS, Row, STREAMS, store_problem},
    config_problems,
    credential::all_of,
    data_sink::{Configured, SinkRow},
    idempotency::Ticket,
    invalid_name,
    page::Page,
    table::{TableRow, payload_digest},
};
use crate::{
    clock::Timestamp,
    connectors::{
        connector::{Artifact, CommitMode, ConnectContext, Connector, Epoch, Guarantee, SinkKind, StreamId},
        error::{ConnectorError, ConnectorErrorKind},
        options::Options,
    },
    delivery::{
        Connections, Counts, DestinationStatus, Directive, Disposition, Durable, Kept, LiveSession, Occasion, OpenOrder, Progress, RecordError,
        RecordErrorPolicy, RecordErrors, SinkSnapshot, Source, Which, Window, WriterIdentity, problem_of,
    },
    limits,
    name::{QualifiedName, StreamName, glob_matches},
    problem::{Code, Problem, Reason},
    record::{Encoding, Offset, Payload, RecordFault, RecordFaultKind, RecordSchema},
    store::{SharedStore, Table, Transaction},
};

/// The first frame of a session.
#[derive(Clone, Default)]
#[expect(missing_docs, reason = "the interface's own comments in proto/datasink/v1/push.proto")]
pub struct OpenStream {
    pub data_sink: String,
    /// `None`: the caller's own records, without a label.
    pub source: Option<Source>,
    pub stream: String,
    pub encoding: Option<Encoding>,
    pub schema: Option<RecordSchema>,
    pub key_columns: Vec<String>,
    pub required_delivery: Option<Guarantee>,
    /// `None`: STOP.
    pub record_error_policy: Option<RecordErrorPolicy>,
    pub commit_mode: Option<CommitMode>,
    pub window: Window,
    /// Clamped by the transport, which sends the heartbeats.
    pub heartbeat_interval: Option<Duration>,
    pub linger: Option<Duration>,
    pub options: BTreeMap<String, String>,
    pub client_id: String,
    pub takeover: bool,
    pub dead_letter_sink: String,
}

impl fmt::Debug for OpenStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OpenStream")
            .field("data_sink", &self.data_sink)
            .field("stream", &self.stream)
            .field("client_id", &self.client_id)
            .finish_non_exhaustive()
    }
}

/// One batch in one call; its payload is given beside it, so that it is not copied.
#[derive(Clone, Default)]
#[expect(missing_docs, reason = "the interface's own comments in proto/datasink/v1/push.proto")]
pub struct PushOnce {
    pub data_sink: String,
    pub source: Option<Source>,
    pub stream: String,
    /// Of the batch.
    pub first_offset: Option<Offset>,
    pub schema: Option<RecordSchema>,
    pub key_columns: Vec<String>,
    pub required_delivery: Option<Guarantee>,
    pub record_error_policy: Option<RecordErrorPolicy>,
    pub options: BTreeMap<String, String>,
    pub validate_only: bool,
    pub request_id: String,
    pub dead_letter_sink: String,
}

impl fmt::Debug for PushOnce {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PushOnce").field("data_sink", &self.data_sink).field("stream", &self.stream).finish_non_exhaustive()
    }
}

/// What is to be done for a `PushOnce`.
#[derive(Debug)]
pub enum OnceTurn {
    /// Write the batch with this order, then call [`Domain::push_once_done`].
    Write(Box<OpenOrder>, OnceTicket),
    /// The request id is known: this was the answer, nothing is to be done.
    Replayed(PushedOnce),
}

/// Holds the place of a `PushOnce`'s answer until it is known; while it is held, the same request id is not written a second time.
#[derive(Debug)]
pub struct OnceTicket {
    ticket: Ticket,
    domain: Domain,
}

impl Drop for OnceTicket {
    fn drop(&mut self) {
        self.domain.once_running().remove(&self.ticket.place());
    }
}

/// The answer to [`PushOnce`].
#[derive(Debug, Clone)]
pub struct PushedOnce {
    /// Everything before it is settled.
    pub next_offset: Offset,
    /// Of this call alone.
    pub counts: Counts,
    /// Records that were not accepted.
    pub record_errors: RecordErrors,
    /// Receipts.
    pub artifacts: Vec<Artifact>,
    /// What was promised.
    pub guarantee: Guarantee,
    /// When it became durable.
    pub committed: Timestamp,
}

/// Asks for streams.
#[derive(Debug, Clone, Default)]
#[expect(missing_docs, reason = "the interface's own comments in proto/datasink/v1/push.proto")]
pub struct ShowPushStream {
    pub data_sink: String,
    pub stream: String,
    pub only_live: bool,
    pub page: Page,
}

/// The answer to [`ShowPushStream`].
#[derive(Debug, Clone, Default)]
pub struct ShownPushStreams {
    /// By sink and stream name.
    pub streams: Vec<PushStreamView>,
    /// Empty on the last page.
    pub next_page_token: String,
}

/// A stream as it is now.
#[derive(Debug, Clone)]
pub struct PushStreamView {
    /// Its name.
    pub stream: String,
    /// Its sink.
    pub data_sink: QualifiedName,
    /// On whose behalf.
    pub source: Source,
    /// The last epoch granted.
    pub epoch: Epoch,
    /// All before it is settled.
    pub next_offset: Offset,
    /// Totals.
    pub counts: Counts,
    /// What is promised, while a session is open.
    pub guarantee: Option<Guarantee>,
    /// When records become visible.
    pub commit_mode: CommitMode,
    /// Whether it is finished for good.
    pub finished: bool,
    /// Whether a session is open.
    pub live: bool,
    /// Who writes it, or wrote it last.
    pub principal: String,
    /// See `principal`.
    pub client_id: String,
    /// Of the live session.
    pub peer: String,
    /// Sent and not yet settled.
    pub outstanding: Window,
    /// How the destination is, as the live session sees it.
    pub destination_status: Option<DestinationStatus>,
    /// When it was opened last.
    pub opened: Option<Timestamp>,
    /// When it was acknowledged last.
    pub acknowledged: Option<Timestamp>,
}

/// Forgets a stream and its offset.
#[derive(Debug, Clone, Default, Serialize)]
#[expect(missing_docs, reason = "the interface's own comments in proto/datasink/v1/push.proto")]
pub struct DropPushStream {
    pub data_sink: String,
    pub stream: String,
    pub if_exists: bool,
}

/// The answer to [`DropPushStream`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct DroppedPushStream {
    /// False where `if_exists` found none.
    pub dropped: bool,
}

/// A `PushOnce`'s answer as it is kept.
#[derive(Serialize, Deserialize)]
struct KeptOnce {
    next_offset: Offset,
    counts: [u64; 4],
    errors: Vec<KeptError>,
    more: u64,
    artifacts: Vec<Artifact>,
    guarantee: u8,
    committed: Timestamp,
}

#[derive(Serialize, Deserialize)]
struct KeptError {
    offset: Offset,
    index: usize,
    kind: u8,
    message: String,
    column: Option<String>,
    disposition: u8,
}

impl From<&PushedOnce> for KeptOnce {
    fn from(answer: &PushedOnce) -> Self {
        let Counts { delivered, rejected, duplicates, delivered_bytes } = answer.counts;
        let errors = answer.record_errors.errors.iter().map(|error| KeptError {
            offset: error.offset,
            index: error.index,
            kind: error.fault.kind as u8,
            message: error.fault.message.clone(),
            column: error.fault.column.clone(),
            disposition: error.disposition as u8,
        });
        Self {
            next_offset: answer.next_offset,
            counts: [delivered, rejected, duplicates, delivered_bytes],
            errors: errors.collect(),
            more: answer.record_errors.more,
            artifacts: answer.artifacts.clone(),
            guarantee: answer.guarantee as u8,
            committed: answer.committed,
        }
    }
}

impl From<KeptOnce> for PushedOnce {
    fn from(kept: KeptOnce) -> Self {
        let [delivered, rejected, duplicates, delivered_bytes] = kept.counts;
        let errors = kept.errors.into_iter().map(|error| RecordError {
            offset: error.offset,
            index: error.index,
            fault: RecordFault {
                kind: [RecordFaultKind::Unparsable, RecordFaultKind::Invalid]
                    .into_iter()
                    .find(|kind| *kind as u8 == error.kind)
                    .unwrap_or(RecordFaultKind::TooLarge),
                message: error.message,
                column: error.column,
            },
            disposition: [Disposition::Stopped, Disposition::Skipped]
                .into_iter()
                .find(|word| *word as u8 == error.disposition)
                .unwrap_or(Disposition::DeadLettered),
        });
        Self {
            next_offset: kept.next_offset,
            counts: Counts { delivered, rejected, duplicates, delivered_bytes },
            record_errors: RecordErrors { errors: errors.collect(), more: kept.more },
            artifacts: kept.artifacts,
            guarantee: [Guarantee::AtLeastOnce, Guarantee::Idempotent].into_iter().find(|word| *word as u8 == kept.guarantee).unwrap_or(Guarantee::ExactlyOnce),
            committed: kept.committed,
        }
    }
}

impl Row for Kept {
    const TABLE: Table = STREAMS;
}

/// A stream's key: all streams of a sink beside each other, in name order.
fn stream_key(sink: Uuid, name: &str) -> Vec<u8> {
    [sink.as_bytes().as_slice(), name.as_bytes()].concat()
}

/// What our own store knows of streams: the engine of Push notes it here.
pub struct KeptProgress {
    store: SharedStore,
    /// Notes that need not be on disk at once.
    soon: Arc<Mutex<Soon>>,
    turns: Arc<Turns>,
}

/// An older note must never land on a newer one: the notes of one stream are written one after the other. Those of others are not waited for, so that the store can write many at once.
struct Turns {
    all: tokio::sync::RwLock<()>,
    some: [tokio::sync::Mutex<()>; TURNS],
}

/// Streams share a turn by their key's hash.
const TURNS: usize = 64;

impl Turns {
    async fn of(&self, key: &[u8]) -> (tokio::sync::MutexGuard<'_, ()>, tokio::sync::RwLockReadGuard<'_, ()>) {
        let among_others = self.all.read().await;
        let place = usize::try_from(xxhash_rust::xxh3::xxh3_64(key) % TURNS as u64).expect("it is below the number of turns");
        (self.some[place].lock().await, among_others)
    }
}

impl Default for Turns {
    fn default() -> Self {
        Self { all: tokio::sync::RwLock::default(), some: std::array::from_fn(|_| tokio::sync::Mutex::default()) }
    }
}

#[derive(Default)]
struct Soon {
    notes: BTreeMap<Vec<u8>, Kept>,
    /// Whether a flush is under way that will take them.
    scheduled: bool,
}

/// How long notes wait for company.
const SOON: Duration = Duration::from_millis(500);

impl fmt::Debug for KeptProgress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("KeptProgress")
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What the lock guards is whole at every point where a panic could happen.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl KeptProgress {
    /// Over the catalogue's store.
    pub fn new(store: SharedStore) -> Self {
        Self { store, soon: Arc::default(), turns: Arc::default() }
    }

    /// Puts every waiting note on disk; call it before the process ends.
    pub async fn flush(&self) -> Result<(), Problem> {
        flush(&self.store, &self.soon, &self.turns).await
    }

    async fn stored(&self, key: &[u8]) -> Result<Option<(Bytes, Kept)>, Problem> {
        let bytes = self.store.get(STREAMS, key).await.map_err(store_problem)?;
        bytes.map(|bytes| catalog::decode(STREAMS, &bytes).map(|kept| (bytes, kept))).transpose()
    }

    fn waiting(&self, key: &[u8]) -> Option<Kept> {
        locked(&self.soon).notes.get(key).cloned()
    }

    /// Forgets the streams of which `idle` says so, by when anything was heard of them last, but for those that `live` names; how many they were.
    async fn forget_idle(&self, idle: impl Fn(Timestamp) -> bool, live: impl Fn(&[u8]) -> bool) -> Result<u64, Problem> {
        let (mut after, mut forgotten) = (None::<Vec<u8>>, 0);
        loop {
            let notes = self.store.scan(STREAMS, b"", after.as_deref(), 1_000).await.map_err(store_problem)?;
            let Some((last, _)) = notes.last() else { return Ok(forgotten) };
            after = Some(last.clone());
            for (key, bytes) in notes {
                let kept: Kept = catalog::decode(STREAMS, &bytes)?;
                if !idle(kept.acknowledged.unwrap_or_default().max(kept.opened)) {
                    continue;
                }
                let _turn = self.turns.of(&key).await;
                if live(&key) || self.waiting(&key).is_some() {
                    continue;
                }
                match self.store.transact(Transaction::new().expect(STREAMS, key.clone(), Some(bytes)).delete(STREAMS, key)).await {
                    Ok(()) => forgotten += 1,
                    // Somebody has opened it meanwhile.
                    Err(crate::store::StoreError::Conflict(_)) => {}
                    Err(error) => return Err(store_problem(error)),
                }
            }
        }
    }

    async fn forget(&self, key: Vec<u8>) -> Result<(), Problem> {
        let _turn = self.turns.of(&key).await;
        locked(&self.soon).notes.remove(&key);
        self.store.transact(Transaction::new().delete(STREAMS, key)).await.map_err(store_problem)
    }

    #[expect(clippy::disallowed_methods, reason = "the one task of the catalogue: it ends by itself after one flush")]
    fn schedule(&self) {
        let (store, soon, turns) = (self.store.clone(), self.soon.clone(), self.turns.clone());
        tokio::spawn(async move {
            tokio::time::sleep(SOON).await;
            if let Err(problem) = flush(&store, &soon, &turns).await {
                // Such notes are advisory: losing one loses nothing that was promised.
                tracing::warn!(%problem, "progress of streams was not noted");
            }
        });
    }
}

async fn flush(store: &SharedStore, soon: &Mutex<Soon>, turns: &Turns) -> Result<(), Problem> {
    let _turn = turns.all.write().await;
    let notes = {
        let mut soon = locked(soon);
        soon.scheduled = false;
        std::mem::take(&mut soon.notes)
    };
    if notes.is_empty() {
        return Ok(());
    }
    let mut transaction = Transaction::new();
    for (key, kept) in notes {
        transaction = transaction.put(STREAMS, key, catalog::encode(&kept)?);
    }
    store.transact(transaction).await.map_err(store_problem)
}

#[async_trait]
impl Progress for KeptProgress {
    async fn load(&self, stream: &StreamId) -> Result<Option<Kept>, Problem> {
        let key = stream_key(stream.sink, stream.name.as_str());
        match self.waiting(&key) {
            Some(kept) => Ok(Some(kept)),
            None => Ok(self.stored(&key).await?.map(|(_, kept)| kept)),
        }
    }

    async fn save(&self, stream: &StreamId, kept: &Kept, durable: Durable) -> Result<(), Problem> {
        let key = stream_key(stream.sink, stream.name.as_str());
        let _turn = self.turns.of(&key).await;
        let stored = self.stored(&key).await?;
        let newest = self.waiting(&key).map(|kept| kept.epoch).max(stored.as_ref().map(|(_, kept)| kept.epoch));
        if newest.is_some_and(|newest| newest > kept.epoch) {
            let message = format!("another session writes the stream {} since; this one may not go on", stream.name);
            let current = newest.map(|epoch| epoch.to_string()).unwrap_or_default();
            return Err(Problem::new(Reason::StreamFenced, message).with("epoch", kept.epoch.to_string()).with("current_epoch", current));
        }
        if durable == Durable::Soon {
            let mut soon = locked(&self.soon);
            soon.notes.insert(key, kept.clone());
            if !std::mem::replace(&mut soon.scheduled, true) {
                self.schedule();
            }
            return Ok(());
        }
        // On the condition of what was compared: another process may open the stream, too.
        let note = Transaction::new().expect(STREAMS, key.clone(), stored.map(|(bytes, _)| bytes)).put(STREAMS, key.clone(), catalog::encode(kept)?);
        match self.store.transact(note).await {
            Ok(()) => {
                locked(&self.soon).notes.remove(&key);
                Ok(())
            }
            Err(crate::store::StoreError::Conflict(_)) => {
                let message = format!("another session noted the stream {} at the same time; open it again", stream.name);
                Err(Problem::new(Reason::StreamFenced, message).with("epoch", kept.epoch.to_string()))
            }
            Err(error) => Err(store_problem(error)),
        }
    }
}

/// Makes connections to one sink, each with the sink and its credential as they are then.
struct SinkConnections {
    domain: Domain,
    /// Who opened the stream: connections are made in their name, also those after the first.
    cx: OpContext,
    sink: Uuid,
    name: QualifiedName,
}

impl fmt::Debug for SinkConnections {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SinkConnections").field("sink", &self.name).finish_non_exhaustive()
    }
}

#[async_trait]
impl Connections for SinkConnections {
    async fn connect(&self) -> Result<(Arc<dyn Connector>, ConnectContext), ConnectorError> {
        let row = self.domain.sink_by_uid(self.sink).await.map_err(|problem| connector_error(&problem))?;
        let Some(row) = row else {
            return Err(ConnectorError::new(ConnectorErrorKind::Misconfigured, format!("the data sink {} was dropped", self.name)));
        };
        self.domain.connection(&self.cx, &row).await.map_err(|problem| connector_error(&problem))
    }
}

/// A dead-letter destination that is a table without a sink of its own.
struct TableConnections {
    domain: Domain,
    table: QualifiedName,
}

impl fmt::Debug for TableConnections {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TableConnections").field("table", &self.table).finish_non_exhaustive()
    }
}

#[async_trait]
impl Connections for TableConnections {
    async fn connect(&self) -> Result<(Arc<dyn Connector>, ConnectContext), ConnectorError> {
        let configured =
            self.domain.configured(&format!("table://{}", self.table), &BTreeMap::new(), None).map_err(|faults| connector_error(&all_of(faults)))?;
        let connect = ConnectContext {
            sink: self.table.clone(),
            credential: None,
            egress: self.domain.0.egress.clone(),
            ambient: self.domain.0.ambient.clone(),
            connection_timeout: limits::CONNECTION_TIMEOUT,
            reply_timeout: limits::WAIT_TIMEOUT,
        };
        Ok((configured.connector, connect))
    }
}

fn connector_error(problem: &Problem) -> ConnectorError {
    let kind = match problem.reason {
        Reason::StoreUnavailable => ConnectorErrorKind::Store,
        Reason::DestinationAuthFailed => ConnectorErrorKind::Unauthenticated,
        _ => ConnectorErrorKind::Misconfigured,
    };
    ConnectorError::new(kind, problem.message.clone())
}

impl Domain {
    /// Resolves and permits the open of a session: what comes back goes to `Delivery` as it is.
    pub async fn open_stream(&self, cx: &OpContext, request: OpenStream) -> Result<OpenOrder, Problem> {
        let mut faults = Vec::new();
        let sink = match self.resolve(cx, "data_sink", &request.data_sink).await {
            Ok(sink) => Some(sink),
            Err(fault) => {
                faults.push(fault);
                None
            }
        };
        let ephemeral = request.stream.is_empty();
        let stream = if ephemeral { StreamName::reserved("adhoc:", &self.0.ambient.ids.uuid().to_string()) } else { StreamName::parse(&request.stream) };
        faults.extend(stream.as_ref().err().map(|fault| invalid_name("stream", fault)));
        faults.extend(open_faults(&request));
        let (Some(sink), Ok(stream), true) = (sink, stream, faults.is_empty()) else { return Err(all_of(faults)) };
        let row: SinkRow = self.fetch(cx, &sink, Permission::Connect).await?;
        let source = self.source(&request)?;
        let configured = self.stored(&row).await?;
        let order = self.order(cx, &row, configured, stream, source, &request, ephemeral)?;
        self.check_writer(cx, &row, &order).await?;
        let dead_letters =
            if order.policy == RecordErrorPolicy::DeadLetter { Some(Box::new(self.dead_letters(cx, &row, &request, &order).await?)) } else { None };
        self.remember_token(cx, &order.stream);
        Ok(OpenOrder { dead_letters, ..order })
    }

    fn order(
        &self,
        cx: &OpContext,
        row: &SinkRow,
        configured: Configured,
        stream: StreamName,
        source: Source,
        request: &OpenStream,
        ephemeral: bool,
    ) -> Result<OpenOrder, Problem> {
        let Configured { descriptor, options, .. } = configured;
        let options = options.overridden(row.kind.as_str(), descriptor.options, &request.options).map_err(config_problems)?;
        let commit_mode = request.commit_mode.unwrap_or_default();
        if commit_mode == CommitMode::OnFinish && !descriptor.commit_on_finish {
            let message = format!("a {} sink cannot keep records invisible until finish; open with CONTINUOUS", row.kind);
            return Err(Problem::new(Reason::CommitModeUnsupported, message).with("wanted", "ON_FINISH").with("available", "CONTINUOUS"));
        }
        Ok(OpenOrder {
            sink: snapshot(row),
            connections: Arc::new(SinkConnections { domain: self.clone(), cx: cx.clone(), sink: row.head.uid, name: row.head.name.clone() }),
            stream: StreamId { cluster: self.0.cluster, sink: row.head.uid, name: stream },
            ephemeral,
            source,
            writer: WriterIdentity { principal: cx.caller.principal.to_string(), client_id: request.client_id.clone(), peer: cx.peer.clone() },
            takeover: request.takeover,
            exclusive: false,
            policy: request.record_error_policy.unwrap_or_default(),
            dead_letters: None,
            commit_mode,
            key_columns: request.key_columns.clone(),
            schema: request.schema.clone(),
            required: request.required_delivery,
            linger: request.linger.unwrap_or_default(),
            window: request.window,
            wait_timeout: options.seconds("wait_timeout").unwrap_or(limits::WAIT_TIMEOUT),
            options,
        })
    }

    fn source(&self, request: &OpenStream) -> Result<Source, Problem> {
        match &request.source {
            None => Ok(Source::Adhoc(String::new())),
            Some(Source::Adhoc(label)) => Ok(Source::Adhoc(label.clone())),
            Some(Source::TableMonitor(name)) => {
                let message = format!("there is no table monitor {name}; write for yourself with the source adhoc");
                Err(Problem::new(Reason::TableMonitorNotFound, message).with("name", name.clone()).resource("table monitor", name))
            }
            Some(Source::ExportJob(name)) => {
                let message = format!("there is no export job {name}; write for yourself with the source adhoc");
                Err(Problem::new(Reason::ExportJobNotFound, message).with("name", name.clone()).resource("export job", name))
            }
        }
    }

    /// A stream belongs to the principal who began it: whoever else has `connect` must not fence it. Who administers the sink may.
    async fn check_writer(&self, cx: &OpContext, row: &SinkRow, order: &OpenOrder) -> Result<(), Problem> {
        if order.ephemeral {
            return Ok(());
        }
        let known = self.0.progress.load(&order.stream).await?;
        if known.is_none_or(|kept| kept.principal == order.writer.principal) {
            return Ok(());
        }
        let schema = self.schema_uid(&row.head.name.schema).await?;
        let need = Need { object_type: ObjectType::DataSink, permission: Permission::Admin, schema, object: Some(row.head.uid) };
        self.permit(cx, &need, &row.head.name).await.map(drop).map_err(|mut problem| {
            problem.message = format!(
                "the stream {} of data sink {} was begun by another principal; use another name, or ask for admin on the sink",
                order.stream.name, row.head.name
            );
            problem
        })
    }

    /// The order for rejected records: a sink or a table that the caller may write to, on a stream of its own.
    async fn dead_letters(&self, cx: &OpContext, row: &SinkRow, request: &OpenStream, order: &OpenOrder) -> Result<OpenOrder, Problem> {
        let text = match (request.dead_letter_sink.as_str(), order.options.text("dead_letter_sink")) {
            ("", None) => {
                let message = "the policy DEAD_LETTER needs a dead_letter_sink, in the open frame or as an option of the sink";
                return Err(Problem::field("dead_letter_sink", Reason::MissingOption, message)
                    .with("option", "dead_letter_sink")
                    .with("kind", row.kind.as_str()));
            }
            ("", Some(option)) => option,
            (given, _) => given,
        };
        let stream = StreamName::reserved("dead-letters:", order.stream.name.as_str()).map_err(|fault| invalid_name("stream", &fault))?;
        let common = |sink: SinkSnapshot, connections: Arc<dyn Connections>, options: Options| OpenOrder {
            stream: StreamId { cluster: self.0.cluster, sink: sink.uid, name: stream.clone() },
            sink,
            connections,
            ephemeral: order.ephemeral,
            source: order.source.clone(),
            writer: order.writer.clone(),
            takeover: true,
            exclusive: false,
            policy: RecordErrorPolicy::Stop,
            dead_letters: None,
            commit_mode: CommitMode::Continuous,
            key_columns: Vec::new(),
            schema: None,
            required: None,
            options,
            linger: Duration::ZERO,
            window: Window::default(),
            wait_timeout: order.wait_timeout,
        };
        let default = self.default_schema(cx).await?.unwrap_or_else(|| row.head.name.schema.clone());
        if let Some(table) = text.strip_prefix("table://") {
            let table = QualifiedName::parse(table, Some(&default)).map_err(|fault| invalid_name("dead_letter_sink", &fault))?;
            let found: TableRow = self.fetch(cx, &table, Permission::Insert).await?;
            let configured = self.configured(&format!("table://{table}"), &BTreeMap::new(), None).map_err(all_of)?;
            let sink = SinkSnapshot {
                name: table.clone(),
                uid: found.head.uid,
                generation: found.head.generation,
                destination_generation: 1,
                kind: SinkKind::Local,
                destination: format!("table://{table}"),
            };
            return Ok(common(sink, Arc::new(TableConnections { domain: self.clone(), table }), configured.options));
        }
        let name = QualifiedName::parse(text, Some(&default)).map_err(|fault| invalid_name("dead_letter_sink", &fault))?;
        if name == row.head.name {
            let message = "a sink cannot be its own dead letter sink: what it refuses once it refuses again";
            return Err(Problem::field("dead_letter_sink", Reason::InvalidField, message));
        }
        let letters: SinkRow = self.fetch(cx, &name, Permission::Connect).await?;
        let configured = self.stored(&letters).await?;
        let connections = SinkConnections { domain: self.clone(), cx: cx.clone(), sink: letters.head.uid, name: name.clone() };
        Ok(common(snapshot(&letters), Arc::new(connections), configured.options))
    }

    /// Keeps which access token a session came with, so that it ends when the token does.
    fn remember_token(&self, cx: &OpContext, stream: &StreamId) {
        let live: BTreeSet<StreamId> = self.0.sessions.live().into_iter().map(|session| session.stream).collect();
        let mut opened = locked(&self.0.opened_with);
        if opened.len() > 2 * limits::SESSIONS_MAX {
            opened.retain(|stream, _| live.contains(stream));
        }
        if cx.caller.source == IdentitySource::Token {
            opened.insert(stream.clone(), cx.caller.identity.clone());
        } else {
            opened.remove(stream);
        }
    }

    /// Resolves and permits a `PushOnce`, or finds its answer; `payload` only tells a repeated request from another one with the same id.
    pub async fn push_once(&self, cx: &OpContext, request: PushOnce, payload: &Payload) -> Result<OnceTurn, Problem> {
        let asked = (&request.data_sink, &request.stream, request.first_offset, &request.options, &request.dead_letter_sink, payload_digest(payload));
        let ticket = self.ticket(cx, &request.request_id, &asked, &[])?;
        if let Some(kept) = ticket.replay::<KeptOnce>(self, &mut self.draft().await?).await? {
            return Ok(OnceTurn::Replayed(kept.into()));
        }
        if ticket.is_set() && !request.validate_only && !self.once_running().insert(ticket.place()) {
            let message = "the first call with this request id is still under way; ask again for its answer";
            return Err(Problem::new(Reason::StreamInUse, message).code(Code::Aborted).retry_after(Duration::from_secs(1)));
        }
        let once = OnceTicket { ticket, domain: self.clone() };
        let open = OpenStream {
            data_sink: request.data_sink,
            source: request.source,
            stream: request.stream,
            schema: request.schema,
            key_columns: request.key_columns,
            required_delivery: request.required_delivery,
            record_error_policy: request.record_error_policy,
            options: request.options,
            dead_letter_sink: request.dead_letter_sink,
            ..OpenStream::default()
        };
        let order = self.open_stream(cx, open).await?;
        Ok(OnceTurn::Write(Box::new(OpenOrder { exclusive: true, ..order }), once))
    }

    /// Keeps the answer of a `PushOnce` for its request id. Call it before answering, also where nothing must be kept: the ticket knows.
    pub async fn push_once_done(&self, ticket: OnceTicket, answer: &PushedOnce) -> Result<(), Problem> {
        if !ticket.ticket.is_set() {
            return Ok(());
        }
        for _ in 0..super::ATTEMPTS {
            let mut draft = self.draft().await?;
            // Read so that an answer of another process is not overwritten unseen.
            ticket.ticket.replay::<KeptOnce>(self, &mut draft).await?;
            ticket.ticket.keep(self, &mut draft, &KeptOnce::from(answer))?;
            if self.store_draft(draft).await? {
                return Ok(());
            }
        }
        Err(super::busy())
    }

    fn once_running(&self) -> MutexGuard<'_, BTreeSet<String>> {
        locked(&self.0.once_running)
    }

    /// Shows streams of sinks that the caller may write through, or of all for who monitors the system.
    pub async fn show_push_stream(&self, cx: &OpContext, request: ShowPushStream) -> Result<ShownPushStreams, Problem> {
        self.refresh_rights().await?;
        let caller = &cx.caller.principal;
        let page = request.page.open(&self.0.keys, &("streams", caller, &request.data_sink, &request.stream, request.only_live))?;
        let sinks = self.sinks_of_streams(cx, &request.data_sink).await?;
        let glob = if request.stream.is_empty() { "*" } else { &request.stream };
        let mut found: BTreeMap<Vec<u8>, PushStreamView> = BTreeMap::new();
        let mut live: BTreeMap<Vec<u8>, LiveSession> = BTreeMap::new();
        for session in self.0.sessions.live() {
            live.insert(stream_key(session.stream.sink, session.stream.name.as_str()), session);
        }
        for (uid, sink) in &sinks {
            for (key, bytes) in catalog::scan_all(&*self.0.store, STREAMS, uid.as_bytes()).await? {
                let name = String::from_utf8_lossy(&key[16..]).into_owned();
                let kept = match self.0.progress.waiting(&key) {
                    Some(kept) => kept,
                    None => catalog::decode(STREAMS, &bytes)?,
                };
                if glob_matches(glob, &name) && (!request.only_live || live.contains_key(&key)) {
                    let view = stream_view(name, sink.clone(), Some(kept), live.get(&key));
                    found.insert(key, view);
                }
            }
        }
        for (key, session) in &live {
            if let Some(sink) = sinks.get(&session.stream.sink)
                && glob_matches(glob, session.stream.name.as_str())
                && !found.contains_key(key)
            {
                found.insert(key.clone(), stream_view(session.stream.name.to_string(), sink.clone(), None, Some(session)));
            }
        }
        let mut after: Vec<(Vec<u8>, PushStreamView)> = found.into_iter().filter(|(key, _)| page.after.as_ref().is_none_or(|after| key > after)).collect();
        let more = after.len() > page.size;
        after.truncate(page.size);
        let next_page_token = after.last().filter(|_| more).map(|(key, _)| page.token(&self.0.keys, key)).unwrap_or_default();
        Ok(ShownPushStreams { streams: after.into_iter().map(|(_, view)| view).collect(), next_page_token })
    }

    /// The sinks whose streams are asked for, as far as the caller may see them.
    async fn sinks_of_streams(&self, cx: &OpContext, data_sink: &str) -> Result<BTreeMap<Uuid, QualifiedName>, Problem> {
        let caller = &cx.caller.principal;
        let monitors = self.with_rights(|rights| decide(rights, caller, &Need::system(Permission::Monitor)).allowed());
        if !data_sink.is_empty() {
            let name = self.resolve(cx, "data_sink", data_sink).await?;
            let row: SinkRow = if monitors {
                self.need(&name, Permission::Connect).await?.1.ok_or_else(|| super::not_found::<SinkRow>(&name))?
            } else {
                self.fetch(cx, &name, Permission::Connect).await?
            };
            return Ok([(row.head.uid, row.head.name)].into());
        }
        let schemas = self.schema_uids().await?;
        let mut sinks = BTreeMap::new();
        for (_, bytes) in catalog::scan_all(&*self.0.store, DATA_SINKS, b"").await? {
            let row: SinkRow = catalog::decode(DATA_SINKS, &bytes)?;
            let schema = schemas.get(&row.head.name.schema).copied();
            let need = Need { object_type: ObjectType::DataSink, permission: Permission::Connect, schema, object: Some(row.head.uid) };
            if monitors || self.sees(caller, &need) {
                sinks.insert(row.head.uid, row.head.name);
            }
        }
        Ok(sinks)
    }

    /// Forgets a stream and its offset; a live writer is stopped. One's own needs `connect`, others' `admin` on the sink.
    pub async fn drop_push_stream(&self, cx: &OpContext, request: DropPushStream) -> Result<DroppedPushStream, Problem> {
        let sink = self.resolve(cx, "data_sink", &request.data_sink).await?;
        let name = StreamName::parse(&request.stream).or_else(|fault| {
            // The server's own streams can be forgotten, too.
            let own = StreamName::RESERVED.iter().find_map(|prefix| request.stream.strip_prefix(prefix).map(|rest| StreamName::reserved(prefix, rest)));
            own.unwrap_or(Err(fault))
        });
        let name = name.map_err(|fault| invalid_name("stream", &fault))?;
        let row: SinkRow = self.fetch(cx, &sink, Permission::Connect).await?;
        let stream = StreamId { cluster: self.0.cluster, sink: row.head.uid, name };
        let kept = self.0.progress.load(&stream).await?;
        let live = self.0.sessions.live().into_iter().find(|session| session.stream == stream);
        let writer = kept.as_ref().map(|kept| kept.principal.clone()).or_else(|| live.as_ref().map(|session| session.writer.principal.clone()));
        let Some(writer) = writer else {
            if request.if_exists {
                return Ok(DroppedPushStream { dropped: false });
            }
            let message = format!("the data sink {sink} has no stream {}; ShowPushStream lists those it has", stream.name);
            return Err(Problem::new(Reason::StreamNotFound, message).with("name", stream.name.to_string()).resource("stream", &stream.name));
        };
        let schema = self.schema_uid(&sink.schema).await?;
        let permission = if writer == cx.caller.principal.as_str() { Permission::Connect } else { Permission::Admin };
        let permit = self.permit(cx, &Need { object_type: ObjectType::DataSink, permission, schema, object: Some(row.head.uid) }, &sink).await?;
        self.note(cx, permit).await?;
        let message = format!("the stream {} was dropped", stream.name);
        let fenced = Problem::new(Reason::StreamFenced, message).with("epoch", kept.as_ref().map_or(0, |kept| kept.epoch.0).to_string());
        self.0.sessions.direct(&Which::Stream(stream.clone()), Directive::Stop(fenced));
        self.gone(&stream).await;
        // The target's mark first: while it is there, a new session would go on from it.
        let (connector, connect) = self.connection(cx, &row).await?;
        connector.forget(&connect, &stream).await.map_err(|error| problem_of(&error, Occasion::Check, &sink, &row.destination))?;
        self.0.progress.forget(stream_key(stream.sink, stream.name.as_str())).await?;
        Ok(DroppedPushStream { dropped: true })
    }
}

impl Domain {
    /// Forgets named streams that nobody has opened or been acknowledged on for [`limits::IDLE_STREAM_KEPT`]; how many they were. A mark that their destination keeps stays there, and is where
    /// such a stream goes on; where our note was the mark it begins anew.
    pub async fn forget_idle_streams(&self) -> Result<u64, Problem> {
        let now = self.0.ambient.now();
        let live = |key: &[u8]| self.0.sessions.live().iter().any(|session| stream_key(session.stream.sink, session.stream.name.as_str()) == key);
        self.0.progress.forget_idle(|last| now.since(last) > limits::IDLE_STREAM_KEPT, live).await
    }

    /// Returns once no session writes the stream: its last note would bring a forgotten stream back.
    async fn gone(&self, stream: &StreamId) {
        for _ in 0..500 {
            if !self.0.sessions.live().iter().any(|session| session.stream == *stream) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

/// Faults of an open frame that need no look-up, all at once.
fn open_faults(request: &OpenStream) -> Vec<Problem> {
    let mut faults = Vec::new();
    let mut fault = |field: &str, message: String| faults.push(Problem::field(field, Reason::InvalidField, message));
    if request.linger.is_some_and(|linger| linger > limits::LINGER_MAX) {
        fault("linger", format!("linger is at most {} seconds", limits::LINGER_MAX.as_secs()));
    }
    if request.key_columns.len() > limits::COLUMNS_MAX {
        fault("key_columns", format!("there are at most {} key columns", limits::COLUMNS_MAX));
    }
    if request.client_id.chars().count() > limits::NAME_CHARS_MAX || request.client_id.chars().any(char::is_control) {
        fault("client_id", format!("client_id has at most {} characters and no control characters", limits::NAME_CHARS_MAX));
    }
    if let Some(Source::Adhoc(label)) = &request.source
        && (label.chars().count() > limits::NAME_CHARS_MAX || label.chars().any(char::is_control))
    {
        fault("adhoc", format!("the label has at most {} characters and no control characters", limits::NAME_CHARS_MAX));
    }
    if let Some(schema) = &request.schema {
        for found in schema.check().err().into_iter().flatten() {
            fault(&found.field, found.message);
        }
        for (index, column) in request.key_columns.iter().enumerate().filter(|(_, column)| schema.index_of(column).is_none()) {
            fault(&format!("key_columns[{index}]"), format!("the schema has no column {column:?}"));
        }
    }
    faults
}

fn snapshot(row: &SinkRow) -> SinkSnapshot {
    SinkSnapshot {
        name: row.head.name.clone(),
        uid: row.head.uid,
        generation: row.head.generation,
        destination_generation: row.destination_generation,
        kind: row.kind,
        destination: row.destination.clone(),
    }
}

fn stream_view(stream: String, data_sink: QualifiedName, kept: Option<Kept>, live: Option<&LiveSession>) -> PushStreamView {
    let counts = kept.as_ref().map(|kept| Counts {
        delivered: kept.mark.next.saturating_sub(kept.mark.rejected),
        rejected: kept.mark.rejected,
        duplicates: kept.duplicates,
        delivered_bytes: kept.delivered_bytes,
    });
    PushStreamView {
        stream,
        data_sink,
        source: kept.as_ref().map_or_else(|| Source::Adhoc(String::new()), |kept| kept.source.clone()),
        epoch: live.map(|session| session.epoch).or(kept.as_ref().map(|kept| kept.epoch)).unwrap_or_default(),
        next_offset: live.map(|session| session.next_offset).or(kept.as_ref().map(|kept| kept.mark.next)).unwrap_or_default(),
        counts: live.map(|session| session.counts).or(counts).unwrap_or_default(),
        guarantee: live.map(|session| session.guarantee),
        commit_mode: kept.as_ref().map(|kept| kept.commit_mode).unwrap_or_default(),
        finished: kept.as_ref().is_some_and(|kept| kept.mark.finished),
        live: live.is_some(),
        principal: live.map(|session| session.writer.principal.clone()).or_else(|| kept.as_ref().map(|kept| kept.principal.clone())).unwrap_or_default(),
        client_id: live.map(|session| session.writer.client_id.clone()).or_else(|| kept.as_ref().map(|kept| kept.client_id.clone())).unwrap_or_default(),
        peer: live.map(|session| session.writer.peer.clone()).unwrap_or_default(),
        outstanding: live.map(|session| session.outstanding).unwrap_or_default(),
        destination_status: live.and_then(|session| session.destination.clone()),
        opened: live.map(|session| session.opened).or(kept.as_ref().map(|kept| kept.opened)),
        acknowledged: live.and_then(|session| session.acknowledged).or(kept.as_ref().and_then(|kept| kept.acknowledged)),
    }
}
