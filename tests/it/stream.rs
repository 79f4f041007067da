//! Why: one Push as a test sees it: frames out, frames in, every wait bounded. Never hides a frame.

use std::time::Duration;

use datasink::api::pb::{
    FinishAction, FinishStream, FlushStream, OpenStream, PingStream, PushRequest, PushResponse, RecordBatch, RecordErrors, StreamAck, StreamEnded,
    StreamOpened, push_request, push_response, record_batch,
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status, Streaming};
use tonic_types::StatusExt;

use crate::support::Caller;

/// Long enough for any honest answer on a busy machine; a test that waits this long has failed.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// One session.
pub struct Stream {
    frames: Option<mpsc::Sender<PushRequest>>,
    answers: Streaming<PushResponse>,
}

/// What can come next.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "one lives at a time")]
pub enum Next {
    Frame(push_response::Frame),
    /// The RPC ended well.
    Ok,
    /// The RPC failed.
    Failed(Status),
}

impl Stream {
    /// Calls Push without sending a frame: returning at all is law 8.
    pub async fn call(caller: &Caller) -> Self {
        let (frames, outgoing) = mpsc::channel(64);
        let answers = tokio::time::timeout(PATIENCE, caller.push().push(ReceiverStream::new(outgoing)))
            .await
            .expect("the response stream comes before the first frame is read")
            .expect("the call is taken")
            .into_inner();
        Self { frames: Some(frames), answers }
    }

    /// Opens and takes `opened`.
    pub async fn open(caller: &Caller, open: OpenStream) -> (Self, StreamOpened) {
        let mut stream = Self::call(caller).await;
        stream.send(push_request::Frame::Open(open)).await;
        match stream.next().await {
            Next::Frame(push_response::Frame::Opened(opened)) => (stream, opened),
            other => panic!("expected opened, got {other:?}"),
        }
    }

    /// Opens, expecting a refusal.
    pub async fn refused(caller: &Caller, open: OpenStream) -> Status {
        let mut stream = Self::call(caller).await;
        stream.send(push_request::Frame::Open(open)).await;
        match stream.next().await {
            Next::Failed(status) => status,
            other => panic!("expected a refusal, got {other:?}"),
        }
    }

    /// Sends one frame.
    pub async fn send(&mut self, frame: push_request::Frame) {
        let frames = self.frames.as_ref().expect("not half-closed yet");
        // The server may have ended the call already; what it said comes from `next`.
        let _ = tokio::time::timeout(PATIENCE, frames.send(PushRequest { frame: Some(frame) })).await.expect("the server reads");
    }

    /// Sends `{"n":first}` … as NDJSON, `count` of them.
    pub async fn numbers(&mut self, first: u64, count: u64) {
        self.send(push_request::Frame::Batch(numbers(Some(first), count))).await;
    }

    /// Sends lines as they are.
    pub async fn lines(&mut self, first: u64, lines: &str) {
        self.send(push_request::Frame::Batch(lines_batch(Some(first), lines))).await;
    }

    pub async fn flush(&mut self, token: &str) {
        self.send(push_request::Frame::Flush(FlushStream { token: token.to_owned() })).await;
    }

    pub async fn finish(&mut self) {
        self.send(push_request::Frame::Finish(FinishStream { action: FinishAction::Commit.into(), expected_next_offset: None })).await;
    }

    pub async fn ping(&mut self, id: i64) {
        self.send(push_request::Frame::Ping(PingStream { id })).await;
    }

    /// Ends the client's side.
    pub fn half_close(&mut self) {
        self.frames = None;
    }

    /// The next frame or the end.
    pub async fn next(&mut self) -> Next {
        match tokio::time::timeout(PATIENCE, self.answers.message()).await.expect("the server says something") {
            Ok(Some(PushResponse { frame: Some(frame) })) => Next::Frame(frame),
            Ok(Some(PushResponse { frame: None })) => panic!("the server sent an empty frame"),
            Ok(None) => Next::Ok,
            Err(status) => Next::Failed(status),
        }
    }

    /// Reads until an ack of at least `next_offset`.
    pub async fn acked(&mut self, next_offset: u64) -> StreamAck {
        loop {
            match self.next().await {
                Next::Frame(push_response::Frame::Ack(ack)) if ack.next_offset.unsigned_abs() >= next_offset => return ack,
                Next::Frame(_) => {}
                end => panic!("expected an ack of {next_offset}, got {end:?}"),
            }
        }
    }

    /// Reads until the ack that carries `token`.
    pub async fn flushed(&mut self, token: &str) -> StreamAck {
        loop {
            match self.next().await {
                Next::Frame(push_response::Frame::Ack(ack)) if ack.flush_token == token => return ack,
                Next::Frame(_) => {}
                end => panic!("expected the ack of flush {token:?}, got {end:?}"),
            }
        }
    }

    /// Reads until `record_errors`.
    pub async fn record_errors(&mut self) -> RecordErrors {
        loop {
            match self.next().await {
                Next::Frame(push_response::Frame::RecordErrors(errors)) => return errors,
                Next::Frame(_) => {}
                end => panic!("expected record_errors, got {end:?}"),
            }
        }
    }

    /// Reads to `ended` and the status OK behind it.
    pub async fn ended(&mut self) -> StreamEnded {
        loop {
            match self.next().await {
                Next::Frame(push_response::Frame::Ended(ended)) => {
                    assert!(matches!(self.next().await, Next::Ok), "nothing but OK follows ended");
                    return ended;
                }
                Next::Frame(_) => {}
                end => panic!("expected ended, got {end:?}"),
            }
        }
    }

    /// Reads to the failure of the call.
    pub async fn failure(&mut self) -> Status {
        loop {
            match self.next().await {
                Next::Failed(status) => return status,
                Next::Frame(_) => {}
                Next::Ok => panic!("expected a failure, got OK"),
            }
        }
    }
}

/// `{"n":first}` … as a batch.
pub fn numbers(first: Option<u64>, count: u64) -> RecordBatch {
    let from = first.unwrap_or_default();
    let lines: String = (from..from + count).map(|n| format!("{{\"n\":{n}}}\n")).collect();
    lines_batch(first, &lines)
}

/// NDJSON lines as a batch.
pub fn lines_batch(first: Option<u64>, lines: &str) -> RecordBatch {
    RecordBatch {
        first_offset: first.map(|first| i64::try_from(first).expect("small")),
        payload: Some(record_batch::Payload::Ndjson(lines.as_bytes().to_vec().into())),
        ..RecordBatch::default()
    }
}

/// An open frame for `sink` and `stream`.
pub fn open(sink: &str, stream: &str) -> OpenStream {
    OpenStream { data_sink: sink.to_owned(), stream: stream.to_owned(), client_id: "test".to_owned(), ..OpenStream::default() }
}

/// The reason in a status, without its prefix.
pub fn reason(status: &Status) -> String {
    let details = status.get_error_details();
    let info = details.error_info().unwrap_or_else(|| panic!("every error carries ErrorInfo, this one does not: {status:?}"));
    assert_eq!(info.domain, "datasink");
    info.reason.strip_prefix("ERROR_REASON_").expect("the full name of the reason").to_owned()
}

/// One value of the error's metadata.
pub fn fact(status: &Status, key: &str) -> String {
    let details = status.get_error_details();
    details.error_info().and_then(|info| info.metadata.get(key).cloned()).unwrap_or_else(|| panic!("no {key:?} in {status:?}"))
}

/// Fails unless the status is this one.
pub fn assert_error(status: &Status, code: Code, why: &str) {
    assert_eq!((status.code(), reason(status).as_str()), (code, why), "{}", status.message());
}
