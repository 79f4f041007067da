//! Why: the two traits every sink kind implements, and the few types they speak in. Never knows a kind, a session or the store.

use std::{fmt, sync::Arc, time::Duration};

use async_trait::async_trait;
use futures::future::BoxFuture;
use uuid::Uuid;

pub use super::SinkKind;
use super::{
    credential::{CredentialType, OpenCredential},
    destination::Destination,
    egress::Egress,
    error::ConnectorError,
    options::{ConfigFault, OptionSpec, Options},
};
use crate::{
    clock::{Ambient, Timestamp},
    name::{QualifiedName, StreamName},
    record::{Batch, Encoding, Offset, RecordFault, RecordSchema},
};

/// One row of the table of kinds: what may be said about such a sink, and how a checked one is made.
pub trait Kind: Send + Sync + fmt::Debug {
    /// What the kind is and which options it knows; the catalogue that validation, `ShowSinkKinds` and the docs come from.
    fn descriptor(&self) -> &'static Descriptor;

    /// Checks destination and options together, purely: no network, no file. All faults at once.
    fn configure(&self, destination: &Destination, options: &Options) -> Result<Arc<dyn Connector>, Vec<ConfigFault>>;

    /// What in a credential of a type that it takes could never work here, purely and all at once, each with its field: `identity`, `secret` or `options["key"]`. Never repeats a secret.
    fn check_credential(&self, _credential: &OpenCredential) -> Vec<ConfigFault> {
        Vec::new()
    }
}

/// What a kind is and can do.
#[derive(Debug)]
pub struct Descriptor {
    /// Which kind.
    pub kind: SinkKind,
    /// Schemes of a destination, lower case: `kafka`, `s3`, …
    pub schemes: &'static [&'static str],
    /// For documentation.
    pub example_destination: &'static str,
    /// Every option the kind knows, the common ones included.
    pub options: &'static [OptionSpec],
    /// Credential types it takes; empty: none.
    pub credential_types: &'static [CredentialType],
    /// The strongest guarantee it gives.
    pub guarantee: Guarantee,
    /// Whether records can stay invisible until finish.
    pub commit_on_finish: bool,
    /// Why it cannot be used in this build, where it cannot.
    pub unavailable: Option<&'static str>,
    /// What a person must know beside the catalogue; `docs/sinks/` is made of both.
    pub guide: Guide,
}

/// What a person must know of a kind beside its catalogue.
#[derive(Debug)]
pub struct Guide {
    /// What the guarantee rests on and what degrades it, in sentences.
    pub basis: &'static str,
    /// What it does not take or do, a sentence each.
    pub limits: &'static [&'static str],
    /// One for each scheme of authentication.
    pub examples: &'static [Example],
}

impl Guide {
    /// Of a kind that is not documented: those of tests, and those that a build lists and refuses.
    pub const NONE: Self = Self { basis: "", limits: &[], examples: &[] };
}

/// How a sink with one scheme of authentication is made.
#[derive(Debug)]
pub struct Example {
    /// The scheme, in the field's words: `access key`, `managed identity`, `public`.
    pub scheme: &'static str,
    /// The destination.
    pub destination: &'static str,
    /// The sink's options but for `credential`, which is named where there is one.
    pub options: &'static [(&'static str, &'static str)],
    /// The credential, where the scheme has one.
    pub credential: Option<ExampleCredential>,
}

/// The credential of an example. Whatever is secret in it is a word in angle brackets.
#[derive(Debug)]
pub struct ExampleCredential {
    /// Its type.
    pub credential_type: CredentialType,
    /// User, key id, account; may be empty.
    pub identity: &'static str,
    /// The secret; may be empty.
    pub secret: &'static str,
    /// Its options.
    pub options: &'static [(&'static str, &'static str)],
}

/// A checked destination: knows how to reach it, holds no connection.
#[async_trait]
pub trait Connector: Send + Sync + fmt::Debug {
    /// Whether it can use a credential of this type.
    fn accepts(&self, credential: CredentialType) -> bool;

    /// The local table it writes to, for the kind that does: the catalogue checks rights on it and counts it as a dependent.
    fn table(&self) -> Option<&str> {
        None
    }

    /// What this endpoint can really do today, step by step; with `write`, also one small record or object, removed again where that can be.
    async fn probe(&self, cx: &ConnectContext, write: bool) -> Probe;

    /// Fences older writers of `stream` first, *then* reads the target's own mark, then opens.
    async fn open(&self, cx: &ConnectContext, stream: &StreamId, epoch: Epoch, terms: &Terms) -> Result<Opened, ConnectorError>;

    /// Which of these records it would refuse for what they are, found without writing any: whether they fit columns, not whether their keys are taken.
    async fn check_records(&self, _cx: &ConnectContext, _batch: &Batch) -> Result<Vec<(Offset, RecordFault)>, ConnectorError> {
        Ok(Vec::new())
    }

    /// Forgets the stream's mark at the target; what was written stays. Kinds whose target keeps none have nothing to do.
    async fn forget(&self, _cx: &ConnectContext, _stream: &StreamId) -> Result<(), ConnectorError> {
        Ok(())
    }
}

/// Finds a table by name; the catalogue implements it.
#[async_trait]
pub trait TableLookup: Send + Sync + fmt::Debug {
    /// The table's uid and columns, or `None` where there is none of this name.
    async fn find(&self, name: &QualifiedName) -> Result<Option<(Uuid, RecordSchema)>, ConnectorError>;
}

/// What a connector needs from outside to connect. Made anew for each connection, so a rotated credential is taken up.
#[derive(Debug)]
pub struct ConnectContext {
    /// The sink's name, for messages and headers.
    pub sink: QualifiedName,
    /// The credential, opened, where the sink has one.
    pub credential: Option<OpenCredential>,
    /// The address filter and what connects through it.
    pub egress: Arc<Egress>,
    /// Clock and ids.
    pub ambient: Ambient,
    /// Limit for establishing a connection.
    pub connection_timeout: Duration,
    /// Limit for waiting on a reply.
    pub reply_timeout: Duration,
}

/// A stream's identity at a destination; outlives sessions and renames of the sink.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct StreamId {
    /// This installation, so that two services on one target do not fence each other.
    pub cluster: Uuid,
    /// The sink's uid.
    pub sink: Uuid,
    /// The stream's name.
    pub name: StreamName,
}

impl StreamId {
    /// How the texts of all streams of a sink begin.
    pub fn beginning(cluster: Uuid, sink: Uuid) -> String {
        format!("{}/{}/", cluster.simple(), sink.simple())
    }
}

impl fmt::Display for StreamId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", Self::beginning(self.cluster, self.sink), self.name)
    }
}

/// The fence: grows with every open of a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, serde::Serialize, serde::Deserialize)]
#[serde(transparent)]
pub struct Epoch(pub u64);

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

/// What a session has agreed on, as far as a writer must know it.
#[derive(Debug, Clone)]
pub struct Terms {
    /// When records become visible.
    pub commit_mode: CommitMode,
    /// Columns that identify a record.
    pub key_columns: Vec<String>,
    /// The records' schema, where the client gave one.
    pub schema: Option<RecordSchema>,
    /// Options of the sink that the stream overrides, checked.
    pub options: Options,
    /// What our own store knows of the stream.
    pub noted: Noted,
}

/// What our own store knows of a stream as a writer is opened: a hint where the target keeps the mark, and what tells a mark that expired from one that went back.
#[derive(Debug, Clone, Default)]
pub struct Noted {
    /// Progress as last noted; at or behind what was acknowledged, and behind the target's own mark after a crash.
    pub mark: Mark,
    /// Whether that progress was made at this destination: not so after the sink was pointed elsewhere.
    pub here: bool,
    /// Receipts of the last unit that had any, newest last, at most [`crate::limits::NOTED_RECEIPTS_MAX`].
    pub receipts: Vec<Artifact>,
}

/// When records can be seen at the destination.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
pub enum CommitMode {
    /// As they are written.
    #[default]
    Continuous,
    /// All of them at finish, or none.
    OnFinish,
}

/// What a sender can rely on after an ack, weakest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Guarantee {
    /// Settled records reached the destination; some may be there twice.
    AtLeastOnce,
    /// As above, and every copy carries the same key or name.
    Idempotent,
    /// The mark is committed with the records: no copies.
    ExactlyOnce,
}

/// A guarantee and what it rests on, or what a stronger one lacks, in words.
#[derive(Debug, Clone)]
pub struct Delivery {
    /// How strong.
    pub guarantee: Guarantee,
    /// One or two sentences.
    pub basis: String,
}

/// An open writer and what it found.
pub struct Opened {
    /// The writer.
    pub writer: Box<dyn SinkWriter>,
    /// Granted: at least the one asked for, and above any that the target has seen (our store may be a restored one).
    pub epoch: Epoch,
    /// The target's own mark.
    pub mark: FoundMark,
    /// What is promised, and why not more.
    pub delivery: Delivery,
    /// The encoding the writer wants; the session converts to it, once a batch.
    pub takes: Encoding,
    /// The destination's own columns, where it has them.
    pub schema: Option<RecordSchema>,
    /// How large units may grow and how many commits may be under way.
    pub units: UnitPolicy,
}

impl fmt::Debug for Opened {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Opened").field("epoch", &self.epoch).field("mark", &self.mark).field("delivery", &self.delivery).finish_non_exhaustive()
    }
}

/// The mark as the target has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FoundMark {
    /// The stream's progress, kept in the target.
    At(Mark),
    /// The target keeps marks and has none of this stream.
    Missing,
    /// The target keeps no marks: our store does, written before each ack; so is the cut of each unit before it is sent.
    NotKept,
}

/// A stream's progress.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, serde::Serialize, serde::Deserialize)]
pub struct Mark {
    /// All records before this one are settled.
    pub next: Offset,
    /// How many of those were rejected; the others were delivered.
    pub rejected: u64,
    /// Rolling hash over the settled records' JSON text (see `record::RollingHash`), independent of how they were cut; 0 where the kind keeps none.
    pub hash: u64,
    /// Whether the stream is finished for good.
    pub finished: bool,
}

/// How large units may grow.
#[derive(Debug, Clone, Copy)]
pub struct UnitPolicy {
    /// The most records of a unit.
    pub records_max: u64,
    /// The most bytes of a unit.
    pub bytes_max: u64,
    /// How long a unit may stay open for company when there is nothing to wait for otherwise; zero: commit as soon as the line is free.
    pub age_max: Duration,
    /// How long a unit waits for the next record before it is cut; zero: only its age counts.
    pub idle_max: Duration,
    /// Commits that may be under way at once; they settle in order.
    pub commits_in_flight: usize,
}

/// Takes the records of one stream to one destination, a unit at a time. Dropping it must leave nothing of the open unit visible.
#[async_trait]
pub trait SinkWriter: Send {
    /// Takes the next records of the open unit, in order, without holes other than rejected records. May send them on already; never makes them count.
    /// `Err` of class *record* names the records this kind cannot take: nothing of `batch` was taken then.
    async fn append(&mut self, batch: &Batch) -> Result<Appended, ConnectorError>;

    /// Makes the open unit durable and moves the mark to `mark` with it, all or nothing; the unit may be empty (every record of it was rejected). The settlement
    /// borrows nothing, so the next unit can be appended meanwhile; settlements resolve in order. After any `Err` the writer is thrown away: open again and read the mark.
    /// `Err(Unknown)`: nothing may be claimed about the unit; any other `Err`: the unit is surely not durable.
    fn commit(&mut self, mark: Mark) -> Settlement;

    /// Leaves nothing of the open unit at the destination.
    async fn abandon(&mut self);

    /// Ends the stream for good: with `Commit` makes everything visible and the mark final (in ON_FINISH mode this is where records begin to count), with `Abort` leaves nothing.
    async fn finish(self: Box<Self>, action: Finish, mark: Mark) -> Result<Outcome, ConnectorError>;
}

/// A commit under way.
pub type Settlement = BoxFuture<'static, Result<Outcome, ConnectorError>>;

/// Whether the open unit can grow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Appended {
    /// More may come.
    Room,
    /// Commit now.
    Full,
}

/// How a stream ends for good.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Finish {
    /// Everything counts.
    Commit,
    /// Nothing counts (ON_FINISH only).
    Abort,
}

/// What a commit did.
#[derive(Debug, Clone, Default)]
pub struct Outcome {
    /// Receipts.
    pub artifacts: Vec<Artifact>,
    /// Bytes written at the destination, as it counts them.
    pub bytes: u64,
}

/// A receipt: one thing written at a destination.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Artifact {
    /// Where: `table://schema.table`, `https://…`, `s3://bucket/key`, …
    pub uri: String,
    /// The first record in it.
    pub first_offset: Offset,
    /// How many records.
    pub record_count: u64,
    /// How many bytes.
    pub byte_count: u64,
    /// What the destination calls this version of it.
    pub attributes: Vec<(String, String)>,
}

/// A check of a destination, step by step.
#[derive(Debug, Clone, serde::Serialize, serde::Deserialize)]
pub struct Probe {
    /// The steps in order; those after a failed one are skipped.
    pub steps: Vec<ProbeStep>,
    /// When.
    pub checked: Timestamp,
}

impl Probe {
    /// Whether no step failed.
    pub fn passed(&self) -> bool {
        self.steps.iter().all(|step| !matches!(step.result, StepResult::Failed { .. }))
    }
}

/// One step of a check.
#[derive(Debug, Clone, serde::Serialize, serde::Deserialize)]
pub struct ProbeStep {
    /// configuration, credential, resolve, connect, tls, authenticate, authorize, write.
    pub name: String,
    /// How it went.
    pub result: StepResult,
    /// How long it took.
    pub elapsed: Duration,
    /// What was found: versions, addresses, columns.
    pub details: Vec<(String, String)>,
}

/// How a step went.
#[derive(Debug, Clone, serde::Serialize, serde::Deserialize)]
pub enum StepResult {
    /// As it should.
    Passed,
    /// Not.
    Failed {
        /// Why.
        #[serde(skip, default = "unknown_failure")]
        error: ConnectorError,
        /// The error's text, which outlives a restart.
        message: String,
    },
    /// Not tried.
    Skipped,
}

fn unknown_failure() -> ConnectorError {
    ConnectorError::new(super::error::ConnectorErrorKind::Internal, "the check failed before the last restart; test the sink again")
}
