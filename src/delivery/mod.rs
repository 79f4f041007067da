//! Why: one stream's records go from a sender to a writer and are settled in order. Never knows a destination, a permission or a transport.

mod batch;
mod budget;
mod control;
mod dead_letters;
mod encoding;
mod failpoint;
mod held;
mod open;
mod outbox;
mod problems;
mod retry;
mod session;
mod settle;
#[cfg(test)]
pub(crate) mod tests;

use std::{fmt, sync::Arc, time::Duration};

use async_trait::async_trait;
use uuid::Uuid;

use crate::{
    clock::Timestamp,
    connectors::{
        connector::{Artifact, CommitMode, ConnectContext, Connector, Delivery as Announced, Epoch, Finish, Guarantee, Mark, SinkKind, StreamId},
        error::ConnectorError,
        options::Options,
    },
    name::QualifiedName,
    problem::Problem,
    record::{Encoding, Offset, RecordFault, RecordSchema},
};

pub use self::{
    open::{Closed, Delivery, DeliverySettings, Session, SessionInput},
    outbox::SessionOutput,
    problems::{Occasion, problem_of},
};

/// What a session is asked to do. Everything in it is resolved and permitted: no look-up happens after it.
#[derive(Debug, Clone)]
pub struct OpenOrder {
    /// The sink, as it is now.
    pub sink: SinkSnapshot,
    /// Makes connections to it; a rotated credential is taken up with the next one.
    pub connections: Arc<dyn Connections>,
    /// The stream.
    pub stream: StreamId,
    /// Whether the stream ends with the session and leaves no progress behind (ad hoc, PushOnce without a stream).
    pub ephemeral: bool,
    /// On whose behalf, for `ShowPushStream`.
    pub source: Source,
    /// Who writes.
    pub writer: WriterIdentity,
    /// Take the stream over from another `client_id`.
    pub takeover: bool,
    /// Refuse if another session writes the stream, whoever it is (PushOnce).
    pub exclusive: bool,
    /// What happens to a record that can never be taken.
    pub policy: RecordErrorPolicy,
    /// Where rejected records go under `DeadLetter`: an order of its own, for the stream `dead-letters:<stream>`.
    pub dead_letters: Option<Box<OpenOrder>>,
    /// When records become visible.
    pub commit_mode: CommitMode,
    /// Columns that identify a record.
    pub key_columns: Vec<String>,
    /// The records' schema, where the client gave one.
    pub schema: Option<RecordSchema>,
    /// The least guarantee to accept.
    pub required: Option<Guarantee>,
    /// Options of the sink with the stream's own over them.
    pub options: Options,
    /// How long records may wait for company.
    pub linger: Duration,
    /// A smaller window than the server's; 0: the server's.
    pub window: Window,
    /// How long the destination may fail without any progress.
    pub wait_timeout: Duration,
}

/// A sink as it was when a session opened.
#[derive(Debug, Clone)]
pub struct SinkSnapshot {
    /// Its name.
    pub name: QualifiedName,
    /// Its uid.
    pub uid: Uuid,
    /// Grows with every change.
    pub generation: u64,
    /// The generation at which the destination last changed: progress noted before it does not bind the new target.
    pub destination_generation: u64,
    /// Its kind.
    pub kind: SinkKind,
    /// Its destination, redacted.
    pub destination: String,
}

/// Makes connections to one sink.
#[async_trait]
pub trait Connections: Send + Sync + fmt::Debug {
    /// The connector and what it needs, with the credential as it is now.
    async fn connect(&self) -> Result<(Arc<dyn Connector>, ConnectContext), ConnectorError>;
}

/// On whose behalf a stream is written.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum Source {
    /// A table monitor.
    TableMonitor(String),
    /// An export job.
    ExportJob(String),
    /// A client's own records, with its label.
    Adhoc(String),
}

/// Who writes a stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WriterIdentity {
    /// The principal.
    pub principal: String,
    /// Stable for one instance of the client, also across reconnects.
    pub client_id: String,
    /// Address of the connection.
    pub peer: String,
}

/// What happens to a record that the destination can never take.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum RecordErrorPolicy {
    /// End the stream at that record.
    #[default]
    Stop,
    /// Report it and go on.
    Skip,
    /// Write it, with the reason, to the dead letter sink, report it and go on.
    DeadLetter,
}

/// How much may be sent and not yet settled; 0: no limit of that sort.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Window {
    /// Records.
    pub records: u64,
    /// Bytes.
    pub bytes: u64,
}

/// Keeps what our own store knows of streams; the domain implements it over the store.
#[async_trait]
pub trait Progress: Send + Sync + fmt::Debug {
    /// What is known of a stream.
    async fn load(&self, stream: &StreamId) -> Result<Option<Kept>, Problem>;

    /// Notes it; with `Durable::Now` it is on disk when this returns, with `Durable::Soon` within a second.
    /// Must refuse, with `Reason::StreamFenced`, a note of an older epoch than the noted one: that is the fence of kinds whose target has none.
    async fn save(&self, stream: &StreamId, kept: &Kept, durable: Durable) -> Result<(), Problem>;
}

/// When a note must be on disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durable {
    /// Before the call returns.
    Now,
    /// Within a second; losing it loses nothing that was promised.
    Soon,
}

/// What our own store keeps of a stream.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Kept {
    /// Progress as last acknowledged (authoritative only where the target keeps no mark).
    pub mark: Mark,
    /// The last epoch granted.
    pub epoch: Epoch,
    /// For kinds whose target keeps no mark: where units end that may be on their way, ascending, noted before each is sent, so that they are cut alike after a crash.
    /// More than one where a refused unit was cut smaller.
    #[serde(default)]
    pub planned_ends: Vec<Offset>,
    /// The sink's `destination_generation` that this belongs to.
    pub destination_generation: u64,
    /// Receipts of the last unit that had any: see [`crate::connectors::connector::Noted::receipts`].
    #[serde(default)]
    pub receipts: Vec<Artifact>,
    /// How the stream was opened first; another source or mode later is a mismatch.
    pub source: Source,
    /// See `source`.
    pub commit_mode: CommitMode,
    /// Records sent again after they were settled.
    pub duplicates: u64,
    /// Bytes delivered.
    pub delivered_bytes: u64,
    /// Who wrote last.
    pub principal: String,
    /// The writer's `client_id`.
    pub client_id: String,
    /// When it was opened last.
    pub opened: Timestamp,
    /// When it was acknowledged last.
    pub acknowledged: Option<Timestamp>,
}

/// The answer to open.
#[derive(Debug, Clone)]
pub struct SessionOpened {
    /// The stream.
    pub stream: StreamId,
    /// Its epoch.
    pub epoch: Epoch,
    /// Send from here on; all before is settled.
    pub next_offset: Offset,
    /// The sink.
    pub sink: SinkSnapshot,
    /// What is promised and why.
    pub delivery: Announced,
    /// What happens to bad records.
    pub policy: RecordErrorPolicy,
    /// When records become visible.
    pub commit_mode: CommitMode,
    /// The window.
    pub window: Window,
    /// Encodings the session takes.
    pub encodings: Vec<Encoding>,
    /// The destination's own columns, where it has them.
    pub schema: Option<RecordSchema>,
    /// An unfinished ON_FINISH stream expired: its records are gone.
    pub rolled_back: bool,
}

/// Totals since the stream began.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    /// Records at the destination.
    pub delivered: u64,
    /// Records refused.
    pub rejected: u64,
    /// Records sent again after they were settled.
    pub duplicates: u64,
    /// Bytes at the destination.
    pub delivered_bytes: u64,
}

/// Something a session tells its sender.
#[derive(Debug, Clone)]
pub enum Event {
    /// Everything before `next_offset` is settled.
    Ack(Ack),
    /// Records that were not accepted; always before the ack that passes them.
    RecordErrors(RecordErrors),
    /// How the destination is: when acks stop, and when it heals.
    Destination(DestinationStatus),
    /// The session will end: stop sending, take the last acks.
    Drain {
        /// Why.
        reason: DrainReason,
        /// What is not settled by then is not settled here.
        deadline: Timestamp,
        /// Wait this long before opening again.
        reconnect_after: Duration,
    },
    /// The last one of a session that ended well.
    Ended(Ended),
    /// The last one of a session that did not.
    Failed(Problem),
}

/// Progress, cumulative.
#[derive(Debug, Clone, Default)]
pub struct Ack {
    /// Every record before this one is settled.
    pub next_offset: Offset,
    /// Totals.
    pub counts: Counts,
    /// Of the flushes that this ack completes, the last one's token.
    pub flush_token: Option<String>,
    /// When the last unit became durable.
    pub committed: Timestamp,
    /// Receipts since the last ack.
    pub artifacts: Vec<Artifact>,
}

/// Records that were not accepted.
#[derive(Debug, Clone, Default)]
pub struct RecordErrors {
    /// In offset order, at most `limits::RECORD_ERRORS_PER_FRAME_MAX`.
    pub errors: Vec<RecordError>,
    /// Further ones, not listed.
    pub more: u64,
}

/// One record that was not accepted.
#[derive(Debug, Clone)]
pub struct RecordError {
    /// Its offset.
    pub offset: Offset,
    /// Its place in the batch it came in.
    pub index: usize,
    /// Why.
    pub fault: RecordFault,
    /// What became of it.
    pub disposition: Disposition,
}

/// What became of a rejected record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Disposition {
    /// The stream stops before it.
    Stopped,
    /// Skipped.
    Skipped,
    /// At the dead letter sink, durably.
    DeadLettered,
}

/// How a destination is, as a session sees it.
#[derive(Debug, Clone)]
pub struct DestinationStatus {
    /// In a word.
    pub state: DestinationState,
    /// The last failure.
    pub problem: Option<Problem>,
    /// Of the current run of failures.
    pub attempt: u32,
    /// When it is tried again.
    pub next_attempt: Option<Timestamp>,
    /// When it last took something.
    pub last_success: Option<Timestamp>,
}

/// How a destination is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DestinationState {
    /// It takes records.
    Healthy,
    /// It fails and is tried again.
    Retrying,
    /// It asked to slow down.
    Throttled,
    /// It refuses in a way that only a person can mend.
    Refused,
}

/// Why a session drains.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DrainReason {
    /// The server stops.
    Shutdown,
    /// The session is old enough to move.
    Rebalance,
    /// The sink was altered.
    SinkAltered,
}

/// How a session ended well.
#[derive(Debug, Clone)]
pub struct Ended {
    /// Why.
    pub reason: EndReason,
    /// All before it is settled.
    pub next_offset: Offset,
    /// Totals.
    pub counts: Counts,
    /// The last receipts.
    pub artifacts: Vec<Artifact>,
    /// Whether the stream can be opened again to go on.
    pub resumable: bool,
}

/// Why a session ended well.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EndReason {
    /// Finished for good.
    Committed,
    /// Finished with nothing left.
    Aborted,
    /// The sender half-closed; everything it had sent is settled.
    HalfClosed,
    /// Drained.
    Drained,
}

/// A frame from the sender, decoded.
#[derive(Debug)]
pub enum Input {
    /// Records.
    Batch(Incoming),
    /// Settle everything sent so far, then acknowledge with this token.
    Flush(String),
    /// End the stream for good.
    Finish {
        /// How.
        action: Finish,
        /// If set, must be the offset after the last record.
        expected_next: Option<Offset>,
    },
}

/// A decoded batch on its way into a session.
#[derive(Debug)]
pub struct Incoming {
    /// The offset the sender stated; `None`: the next one.
    pub first_offset: Option<Offset>,
    /// Good runs and bad records in order; their offsets count from 0 within the batch and are shifted by the session.
    pub pieces: Vec<crate::record::Piece>,
}

/// A stream as it is now, for `ShowPushStream`.
#[derive(Debug, Clone)]
pub struct LiveSession {
    /// The stream.
    pub stream: StreamId,
    /// The sink.
    pub sink: SinkSnapshot,
    /// Who writes.
    pub writer: WriterIdentity,
    /// Its epoch.
    pub epoch: Epoch,
    /// What is promised.
    pub guarantee: Guarantee,
    /// All before is settled.
    pub next_offset: Offset,
    /// Totals.
    pub counts: Counts,
    /// Sent and not yet settled.
    pub outstanding: Window,
    /// How the destination is.
    pub destination: Option<DestinationStatus>,
    /// When it was opened.
    pub opened: Timestamp,
    /// When it was acknowledged last.
    pub acknowledged: Option<Timestamp>,
}

/// Which sessions a call down is about.
#[derive(Debug, Clone)]
pub enum Which {
    /// Those of a sink.
    Sink(Uuid),
    /// Those of a principal.
    Principal(String),
    /// One stream.
    Stream(StreamId),
    /// All.
    All,
}

/// What happens to them.
#[derive(Debug, Clone)]
pub enum Directive {
    /// Stop at the next batch boundary with this failure; nothing more is written.
    Stop(Problem),
    /// Settle what was sent, then end well.
    Drain {
        /// Why.
        reason: DrainReason,
        /// How long it may take.
        grace: Duration,
    },
    /// Take a new connection at the next unit (rotated credential).
    Reconnect,
}
