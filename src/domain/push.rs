//! Why: the open of a stream is resolved once, here, into an order that needs no look-up any more. Never moves a record.

use std::{collections::BTreeMap, fmt, time::Duration};

use serde::{Deserialize, Serialize};

use super::{Domain, OpContext, page::Page};
use crate::{
    clock::Timestamp,
    connectors::connector::{Artifact, CommitMode, Epoch, Guarantee},
    delivery::{Counts, DestinationStatus, OpenOrder, RecordErrorPolicy, RecordErrors, Source, Window},
    name::QualifiedName,
    problem::Problem,
    record::{Encoding, Offset, Payload, RecordSchema},
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

/// Holds the place of a `PushOnce`'s answer until it is known.
#[derive(Debug)]
pub struct OnceTicket;

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

impl Domain {
    /// Resolves and permits the open of a session: what comes back goes to `Delivery` as it is.
    pub async fn open_stream(&self, cx: &OpContext, request: OpenStream) -> Result<OpenOrder, Problem> {
        let _ = (cx, request);
        Err(Self::not_built())
    }

    /// Resolves and permits a `PushOnce`, or finds its answer; `payload` only tells a repeated request from another one with the same id.
    pub async fn push_once(&self, cx: &OpContext, request: PushOnce, payload: &Payload) -> Result<OnceTurn, Problem> {
        let _ = (cx, request, payload);
        Err(Self::not_built())
    }

    /// Keeps the answer of a `PushOnce` for its request id. Call it before answering, also where nothing must be kept: the ticket knows.
    pub async fn push_once_done(&self, ticket: OnceTicket, answer: &PushedOnce) -> Result<(), Problem> {
        let _ = (ticket, answer);
        Err(Self::not_built())
    }

    /// Shows streams of sinks that the caller may write through, or of all for who monitors the system.
    pub async fn show_push_stream(&self, cx: &OpContext, request: ShowPushStream) -> Result<ShownPushStreams, Problem> {
        let _ = (cx, request);
        Err(Self::not_built())
    }

    /// Forgets a stream and its offset; a live writer is stopped.
    pub async fn drop_push_stream(&self, cx: &OpContext, request: DropPushStream) -> Result<DroppedPushStream, Problem> {
        let _ = (cx, request);
        Err(Self::not_built())
    }
}
