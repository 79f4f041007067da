//! Why: frames of a Push become inputs of a session, and its events frames. Never lets a client that does not read hold up what is being settled.
//!
//! Two halves. A task reads what the client sends and waits for credit; the response stream, polled by the connection, tells what the session says. They meet only in [`Between`],
//! which keeps the latest ping and the first fault, so neither can block the other. Dropping the response stream (the client is gone) aborts the reader, which drops the session's input.

use std::{
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use futures::{Stream, stream};
use tokio::{
    sync::{Notify, oneshot},
    time::{Instant, sleep_until, timeout},
};
use tokio_util::task::AbortOnDropHandle;
use tonic::{Request, Response, Status, Streaming};
use tracing::Instrument;

use super::{
    Edge,
    from_pb::{self, WireBatch},
    layers, pb,
    pb::{push_request::Frame as In, push_response::Frame as Out},
    status, to_pb,
};
use crate::{
    clock::{Ambient, Timestamp},
    connectors::connector::{Artifact, StreamId},
    delivery::{
        Counts, Directive, Disposition, DrainReason, Event, Incoming, Input, OpenOrder, RecordError, RecordErrorPolicy, RecordErrors, Session, SessionInput,
        SessionOutput, Which,
    },
    domain::{OnceTurn, OpContext, PushedOnce},
    limits,
    problem::{Code, Problem, Reason, Violation},
    record::{self, DecodeError, Encoding, Offset, Payload, Piece, RecordFault, RecordSchema},
    telemetry,
};

/// How long an end of the client's half waits before it counts as a half-close: a cancelled call looks the same at first, and then this task is aborted.
const HALF_CLOSE_PAUSE: Duration = Duration::from_millis(10);
/// The longest time between two looks at the clock for a stream whose access token will expire.
const EXPIRY_LOOK: Duration = Duration::from_secs(1);
/// The most field violations that a refused `PushOnce` lists.
const ONCE_VIOLATIONS_MAX: usize = 20;

/// See `proto/datasink/v1/push.proto`.
#[derive(Debug, Clone)]
pub struct PushService(pub Arc<Edge>);

#[tonic::async_trait]
impl pb::push_service_server::PushService for PushService {
    type PushStream = Pin<Box<dyn Stream<Item = Result<pb::PushResponse, Status>> + Send>>;

    async fn push(&self, request: Request<Streaming<pb::PushRequest>>) -> Result<Response<Self::PushStream>, Status> {
        let edge = self.0.clone();
        let cx = edge.identify("PushService/Push", &request).await?;
        edge.admit()?;
        let between = Arc::new(Between::default());
        let (started, starts) = oneshot::channel();
        let reader = Reader { edge: edge.clone(), cx, frames: request.into_inner(), between: between.clone() };
        let span = tracing::info_span!("push", stream = tracing::field::Empty, data_sink = tracing::field::Empty, epoch = tracing::field::Empty);
        let reader = AbortOnDropHandle::new(edge.readers.spawn(reader.run(started).instrument(span)));
        // Returned before the first frame is read: clients that wait for our headers before they send would wait for ever otherwise.
        let told = Told { edge, between, reader: Some(reader), state: State::Opening(starts) };
        Ok(Response::new(Box::pin(stream::unfold(told, async |mut told| told.next().await.map(|frame| (frame, told))))))
    }

    async fn push_once(&self, request: Request<pb::PushOnceRequest>) -> Result<Response<pb::PushOnceResponse>, Status> {
        let cx = self.0.identify("PushService/PushOnce", &request).await?;
        self.0.admit()?;
        let answer = Box::pin(once(&self.0, &cx, request.into_inner())).await?;
        Ok(Response::new(answer))
    }

    async fn show_push_stream(&self, request: Request<pb::ShowPushStreamRequest>) -> Result<Response<pb::ShowPushStreamResponse>, Status> {
        let cx = self.0.identify("PushService/ShowPushStream", &request).await?;
        let answer = self.0.domain.show_push_stream(&cx, from_pb::show_push_stream(request.into_inner())).await?;
        let streams = answer.streams.into_iter().map(to_pb::push_stream).collect();
        Ok(Response::new(pb::ShowPushStreamResponse { streams, next_page_token: answer.next_page_token }))
    }

    async fn drop_push_stream(&self, request: Request<pb::DropPushStreamRequest>) -> Result<Response<pb::DropPushStreamResponse>, Status> {
        let cx = self.0.identify("PushService/DropPushStream", &request).await?;
        let answer = self.0.domain.drop_push_stream(&cx, from_pb::drop_push_stream(request.into_inner())).await?;
        Ok(Response::new(pb::DropPushStreamResponse { dropped: answer.dropped }))
    }
}

/// What the reader tells the response stream: the latest ping, the first fault. Bounded by being that little.
#[derive(Debug, Default)]
struct Between {
    news: Mutex<News>,
    wake: Notify,
}

#[derive(Debug, Default)]
struct News {
    ping: Option<i64>,
    fault: Option<Problem>,
}

impl Between {
    fn tell(&self, change: impl FnOnce(&mut News)) {
        // Whole after every change, also where a holder panicked.
        change(&mut self.news.lock().unwrap_or_else(PoisonError::into_inner));
        self.wake.notify_one();
    }

    /// A fault that was told and not heard yet.
    fn fault(&self) -> Option<Problem> {
        self.news.lock().unwrap_or_else(PoisonError::into_inner).fault.take()
    }

    /// Waits for a fault or a ping. Safe to cancel: what is taken is returned at once.
    async fn news(&self) -> News {
        loop {
            let news = std::mem::take(&mut *self.news.lock().unwrap_or_else(PoisonError::into_inner));
            if news.ping.is_some() || news.fault.is_some() {
                return news;
            }
            self.wake.notified().await;
        }
    }
}

/// The client's half.
struct Reader {
    edge: Arc<Edge>,
    cx: OpContext,
    frames: Streaming<pb::PushRequest>,
    between: Arc<Between>,
}

/// What the response stream needs once the session is open.
struct Started {
    opened: pb::StreamOpened,
    stream: StreamId,
    output: SessionOutput,
    next_offset: Offset,
    heartbeat: Duration,
}

/// What every batch of the session is read by.
struct Reading {
    encoding: Option<Encoding>,
    known: Vec<Encoding>,
    schema: Option<Arc<RecordSchema>>,
}

impl Reader {
    /// Reads until the client is done, the session has ended, or something is wrong.
    async fn run(mut self, started: oneshot::Sender<Result<Box<Started>, Problem>>) {
        let (session, reading) = match Box::pin(self.open()).await {
            Ok((start, input, reading)) => {
                // Nobody listens any more: the client is gone, and the input with it.
                if started.send(Ok(start)).is_err() {
                    return;
                }
                (input, reading)
            }
            Err(problem) => {
                let _ = started.send(Err(problem));
                return;
            }
        };
        let expired = expired(self.edge.ambient.clone(), self.cx.caller.expires);
        let ending = tokio::select! {
            biased;
            () = expired => Err(token_expired()),
            ending = self.read(&session, &reading) => ending,
        };
        match ending {
            Ok(Ending::HalfClosed) => {
                tokio::time::sleep(HALF_CLOSE_PAUSE).await;
                session.half_close();
            }
            Ok(Ending::SessionEnded) => {}
            // The connection broke: the input is dropped, and the session knows.
            Ok(Ending::Lost) => {}
            Err(problem) => self.between.tell(|news| news.fault = Some(problem)),
        }
    }

    /// The open frame, resolved and carried out.
    async fn open(&mut self) -> Result<(Box<Started>, SessionInput, Reading), Problem> {
        let limit = self.edge.push.first_frame;
        let first = match timeout(limit, self.frames.message()).await {
            Ok(first) => first.map_err(told_by_tonic)?,
            Err(_) => return Err(Problem::new(Reason::IdleTimeout, format!("no open frame came within {}; send it first", humantime::format_duration(limit)))),
        };
        let Some(pb::PushRequest { frame: Some(In::Open(open)) }) = first else {
            return Err(Problem::new(Reason::OpenRequired, "the first frame of a Push must be open; nothing was written"));
        };
        let open = from_pb::open_stream(open)?;
        let heartbeat = open
            .heartbeat_interval
            .unwrap_or(self.edge.push.heartbeat)
            .clamp(limits::HEARTBEAT_INTERVAL_MIN.min(self.edge.push.heartbeat), limits::HEARTBEAT_INTERVAL_MAX);
        let encoding = open.encoding;
        let schema = open.schema.clone().map(Arc::new);
        let order = self.edge.domain.open_stream(&self.cx, open).await?;
        let Session { opened, input, output } = self.edge.delivery.open(order).await?;
        let span = tracing::Span::current();
        span.record("stream", opened.stream.name.as_str());
        span.record("data_sink", tracing::field::display(&opened.sink.name));
        span.record("epoch", opened.epoch.0);
        let by = to_pb::OpenedBy { heartbeat_interval: heartbeat, instance: &self.edge.domain.instance() };
        let start = Started { opened: to_pb::opened(&opened, &by), stream: opened.stream, output, next_offset: opened.next_offset, heartbeat };
        Ok((Box::new(start), input, Reading { encoding, known: opened.encodings, schema }))
    }

    async fn read(&mut self, session: &SessionInput, reading: &Reading) -> Result<Ending, Problem> {
        let mut finished = false;
        loop {
            let frame = match self.frames.message().await {
                Ok(Some(pb::PushRequest { frame })) => frame,
                Ok(None) => return Ok(Ending::HalfClosed),
                Err(made) => match status::retell(made.code(), made.message()) {
                    Some(problem) => return Err(problem),
                    None => return Ok(Ending::Lost),
                },
            };
            if finished {
                return Err(Problem::new(Reason::StreamFinished, "a frame came after finish; only half-close may follow it, and nothing of it was written"));
            }
            let input = match frame {
                None => return Err(Problem::new(Reason::EmptyFrame, "a frame had nothing in it; this server may be older than the client")),
                Some(In::Open(_)) => return Err(Problem::new(Reason::OpenRepeated, "open came twice; one Push writes one stream")),
                Some(In::Ping(pb::PingStream { id })) => {
                    self.between.tell(|news| news.ping = Some(id));
                    continue;
                }
                Some(In::Batch(batch)) => Input::Batch(batch_input(batch, reading).await?),
                Some(In::Flush(pb::FlushStream { token })) => Input::Flush(token),
                Some(In::Finish(finish)) => {
                    finished = true;
                    let (action, expected_next) = from_pb::finish_stream(finish)?;
                    Input::Finish { action, expected_next }
                }
            };
            if session.send(input).await.is_err() {
                return Ok(Ending::SessionEnded);
            }
        }
    }
}

/// Returns when the wall clock has passed `at`; the clock may jump, so it is looked at again and again.
async fn expired(ambient: Ambient, at: Option<Timestamp>) {
    let Some(at) = at else { return std::future::pending().await };
    loop {
        let left = at.since(ambient.now());
        if left.is_zero() {
            return;
        }
        tokio::time::sleep(left.min(EXPIRY_LOOK)).await;
    }
}

fn token_expired() -> Problem {
    let message = "the access token that opened this stream has expired; open the stream again with a new one: what was acknowledged stays";
    Problem::new(Reason::Unauthenticated, message).with("scheme", "bearer")
}

/// Why the reader stopped without a fault.
enum Ending {
    HalfClosed,
    SessionEnded,
    Lost,
}

/// What tonic says about a frame it could not read.
fn told_by_tonic(made: Status) -> Problem {
    status::retell(made.code(), made.message())
        .unwrap_or_else(|| Problem::new(Reason::InvalidField, "the connection broke before a whole frame had come").code(Code::Cancelled))
}

/// A batch frame, decoded.
async fn batch_input(batch: pb::RecordBatch, reading: &Reading) -> Result<Incoming, Problem> {
    let wire = from_pb::record_batch("batch", batch)?;
    let came = encoding_of(&wire.payload);
    if let Some(agreed) = reading.encoding.filter(|agreed| *agreed != came) {
        return Err(Problem::field("batch.payload", Reason::InvalidField, format!("the stream was opened for {agreed:?} and a batch came as {came:?}")));
    }
    if !reading.known.contains(&came) {
        return Err(Problem::new(Reason::EncodingUnsupported, format!("this stream does not take batches encoded as {came:?}"))
            .with("wanted", format!("{came:?}"))
            .with("available", reading.known.iter().map(|known| format!("{known:?}")).collect::<Vec<_>>().join(", ")));
    }
    let first_offset = wire.first_offset;
    let pieces = decode(wire, reading.schema.clone()).await?;
    Ok(Incoming { first_offset, pieces })
}

fn encoding_of(payload: &Payload) -> Encoding {
    match payload {
        Payload::Ndjson(_) => Encoding::Ndjson,
        Payload::Json(_) => Encoding::Json,
        Payload::Typed(_) => Encoding::Typed,
        Payload::ArrowIpc(_) => Encoding::ArrowIpc,
    }
}

/// The records of a batch; their offsets count from 0, the session shifts them.
async fn decode(wire: WireBatch, schema: Option<Arc<RecordSchema>>) -> Result<Vec<Piece>, Problem> {
    let WireBatch { first_offset: _, record_count, payload, change, event_time, traceparent } = wire;
    if let Some(traceparent) = &traceparent {
        telemetry::link(&tracing::Span::current(), traceparent);
    }
    let stated_count = (record_count > 0).then_some(u64::from(record_count));
    let incoming = record::Incoming { payload, first_offset: 0, stated_count, change, event_time, traceparent };
    record::decode_off_thread(incoming, schema).await.map_err(|error| decode_problem(&error))
}

fn decode_problem(error: &DecodeError) -> Problem {
    let reason = match error {
        DecodeError::TooLarge { .. } | DecodeError::TooManyRecords { .. } => Reason::MessageTooLarge,
        DecodeError::CountMismatch { .. } => Reason::RecordCountMismatch,
        DecodeError::SchemaMissing | DecodeError::Compressed { .. } | DecodeError::UnsupportedType { .. } => Reason::EncodingUnsupported,
        DecodeError::OffsetOverflow { .. } => Reason::InvalidField,
        DecodeError::Unreadable { .. } => Reason::RecordUnparsable,
    };
    let mut problem = Problem::new(reason, error.to_string());
    problem.metadata = error.metadata();
    problem
}

/// The server's half.
struct Told {
    edge: Arc<Edge>,
    between: Arc<Between>,
    /// Aborted with the stream: a client that is gone drops the session's input.
    reader: Option<AbortOnDropHandle<()>>,
    state: State,
}

enum State {
    Opening(oneshot::Receiver<Result<Box<Started>, Problem>>),
    Open(Box<Open>),
    Done,
}

struct Open {
    stream: StreamId,
    output: SessionOutput,
    next_offset: Offset,
    heartbeat: Duration,
    /// When the client has heard nothing for too long.
    silent_until: Instant,
    /// When the session is asked to move; `None` once it was.
    move_at: Option<Instant>,
}

/// What happened next to an open session.
enum Next {
    News(News),
    Event(Option<Event>),
    Silence,
    Age,
}

impl Told {
    /// The next frame, or the failure that ends the call; `None`: OK.
    async fn next(&mut self) -> Option<Result<pb::PushResponse, Status>> {
        match &mut self.state {
            State::Done => None,
            State::Opening(starts) => match starts.await {
                Ok(Ok(start)) => Some(Ok(self.begin(*start))),
                Ok(Err(problem)) => Some(Err(self.fail(problem))),
                Err(_) => Some(Err(self.broken().await)),
            },
            State::Open(_) => Some(self.step().await),
        }
    }

    fn begin(&mut self, start: Started) -> pb::PushResponse {
        let Started { opened, stream, output, next_offset, heartbeat } = start;
        let now = Instant::now();
        let age = jittered(self.edge.push.session_age, &self.edge);
        let open = Open { stream, output, next_offset, heartbeat, silent_until: now + heartbeat, move_at: Some(now + age) };
        self.state = State::Open(Box::new(open));
        frame(Out::Opened(opened))
    }

    async fn step(&mut self) -> Result<pb::PushResponse, Status> {
        loop {
            let State::Open(open) = &mut self.state else { unreachable!("only an open session steps") };
            let next = tokio::select! {
                biased;
                event = open.output.next() => Next::Event(event),
                news = self.between.news() => Next::News(news),
                () = sleep_until(open.move_at.unwrap_or_else(far)), if open.move_at.is_some() => Next::Age,
                () = sleep_until(open.silent_until) => Next::Silence,
            };
            open.silent_until = Instant::now() + open.heartbeat;
            match next {
                Next::Event(Some(event)) => return self.tell(event),
                Next::Event(None) => return Err(self.broken().await),
                Next::News(News { fault: Some(problem), .. }) => return Err(self.fail(problem)),
                Next::News(News { ping, .. }) => {
                    return Ok(frame(Out::Heartbeat(to_pb::heartbeat(open.next_offset, self.edge.ambient.now(), ping.unwrap_or(0)))));
                }
                Next::Silence => return Ok(frame(Out::Heartbeat(to_pb::heartbeat(open.next_offset, self.edge.ambient.now(), 0)))),
                Next::Age => {
                    open.move_at = None;
                    let drain = Directive::Drain { reason: DrainReason::Rebalance, grace: self.edge.push.drain_grace };
                    self.edge.delivery.direct(&Which::Stream(open.stream.clone()), drain);
                }
            }
        }
    }

    fn tell(&mut self, event: Event) -> Result<pb::PushResponse, Status> {
        let out = match event {
            Event::Ack(ack) => {
                if let State::Open(open) = &mut self.state {
                    open.next_offset = ack.next_offset;
                }
                Out::Ack(to_pb::ack(ack))
            }
            Event::RecordErrors(errors) => Out::RecordErrors(to_pb::record_errors(errors)),
            Event::Destination(state) => Out::DestinationStatus(to_pb::destination_status(&state)),
            Event::Drain { reason, deadline, reconnect_after } => Out::Drain(to_pb::drain(reason, deadline, reconnect_after)),
            Event::Ended(ended) => {
                self.state = State::Done;
                Out::Ended(to_pb::ended(ended))
            }
            Event::Failed(problem) => return Err(self.fail(problem)),
        };
        Ok(frame(out))
    }

    fn fail(&mut self, problem: Problem) -> Status {
        self.state = State::Done;
        problem.into()
    }

    /// The session ended without a word: because the reader found a fault and let go of it, or because of a bug. Then the log has what happened.
    async fn broken(&mut self) -> Status {
        if let Some(problem) = self.between.fault() {
            return self.fail(problem);
        }
        let what = match self.reader.take() {
            Some(reader) if reader.is_finished() => match reader.await {
                Err(error) => error.try_into_panic().map_or_else(|_| "the reader was aborted".to_owned(), |panic| layers::panic_text(&*panic)),
                Ok(()) => "the session ended without a word".to_owned(),
            },
            _ => "the session ended without a word".to_owned(),
        };
        self.fail(layers::internal(&*self.edge.ambient.ids, &what))
    }
}

fn frame(frame: Out) -> pb::PushResponse {
    pb::PushResponse { frame: Some(frame) }
}

/// Never waited for; stands in where there is no time to wait for.
fn far() -> Instant {
    Instant::now() + Duration::from_secs(86_400)
}

/// `age` give or take a tenth, so that sessions that began together do not move together.
fn jittered(age: Duration, edge: &Edge) -> Duration {
    let mut byte = [0];
    edge.ambient.ids.fill(&mut byte);
    age.mul_f64(0.9 + 0.2 * f64::from(byte[0]) / 255.0)
}

/// One batch in one call: the same engine, opened, fed and half-closed.
async fn once(edge: &Edge, cx: &OpContext, request: pb::PushOnceRequest) -> Result<pb::PushOnceResponse, Problem> {
    let (request, batch) = from_pb::push_once(request)?;
    let (validate_only, schema) = (request.validate_only, request.schema.clone().map(Arc::new));
    let policy = request.record_error_policy.unwrap_or_default();
    let (order, ticket) = match edge.domain.push_once(cx, request, &batch.payload).await? {
        OnceTurn::Replayed(answer) => return Ok(to_pb::pushed_once(answer, true)),
        OnceTurn::Write(order, ticket) => (order, ticket),
    };
    let first_offset = batch.first_offset;
    let pieces = decode(batch, schema).await?;
    if validate_only {
        let refused = edge.delivery.check(&order, &pieces).await?;
        return validated(edge, &pieces, refused, policy, first_offset);
    }
    let answer = write_once(edge, *order, Incoming { first_offset, pieces }).await?;
    edge.domain.push_once_done(ticket, &answer).await?;
    Ok(to_pb::pushed_once(answer, false))
}

/// What is known of a call so far.
#[derive(Default)]
struct OnceSoFar {
    errors: RecordErrors,
    artifacts: Vec<Artifact>,
    committed: Option<Timestamp>,
}

async fn write_once(edge: &Edge, order: OpenOrder, batch: Incoming) -> Result<PushedOnce, Problem> {
    let sent = count(&batch.pieces);
    let Session { opened, input, mut output } = edge.delivery.open(order).await?;
    let known = batch.first_offset.map_or(0, |first| opened.next_offset.saturating_sub(first).min(sent));
    // A session that ends before it took the batch says why in its events.
    if input.send(Input::Batch(batch)).await.is_ok() {
        input.half_close();
    }
    let mut so_far = OnceSoFar::default();
    let ended = loop {
        match output.next().await {
            Some(Event::Ended(ended)) => break ended,
            Some(Event::Failed(problem)) => return Err(with_record_errors(problem, &so_far.errors)),
            Some(Event::Ack(ack)) => {
                so_far.committed = Some(ack.committed);
                so_far.artifacts.extend(ack.artifacts);
            }
            Some(Event::RecordErrors(errors)) => merge(&mut so_far.errors, errors),
            Some(Event::Destination(_) | Event::Drain { .. }) => {}
            None => return Err(layers::internal(&*edge.ambient.ids, "a session ended without a word")),
        }
    };
    for artifact in ended.artifacts {
        if !so_far.artifacts.contains(&artifact) {
            so_far.artifacts.push(artifact);
        }
    }
    let rejected = so_far.errors.errors.len() as u64 + so_far.errors.more;
    let own = Counts {
        delivered: sent.saturating_sub(rejected + known),
        rejected,
        duplicates: known,
        delivered_bytes: so_far.artifacts.iter().map(|artifact| artifact.byte_count).sum(),
    };
    so_far.artifacts.truncate(limits::ARTIFACTS_PER_FRAME_MAX);
    Ok(PushedOnce {
        next_offset: ended.next_offset,
        counts: own,
        record_errors: so_far.errors,
        artifacts: so_far.artifacts,
        guarantee: opened.delivery.guarantee,
        committed: so_far.committed.unwrap_or_else(|| edge.ambient.now()),
    })
}

/// How many records a decoded batch has, the bad ones included.
fn count(pieces: &[Piece]) -> u64 {
    pieces.iter().map(|piece| if let Piece::Good(batch) = piece { batch.len() as u64 } else { 1 }).sum()
}

fn merge(all: &mut RecordErrors, mut more: RecordErrors) {
    let room = limits::RECORD_ERRORS_PER_FRAME_MAX.saturating_sub(all.errors.len()).min(more.errors.len());
    let unlisted = more.errors.split_off(room).len() as u64;
    all.errors.append(&mut more.errors);
    all.more += more.more + unlisted;
}

/// A refused batch names its bad records as fields of the request.
fn with_record_errors(mut problem: Problem, errors: &RecordErrors) -> Problem {
    if problem.violations.is_empty() {
        problem.violations = errors.errors.iter().take(ONCE_VIOLATIONS_MAX).map(violation).collect();
    }
    problem
}

fn violation(error: &RecordError) -> Violation {
    let column = error.fault.column.as_ref().map(|column| format!("[{column:?}]")).unwrap_or_default();
    Violation {
        field: format!("batch.records[{}]{column}", error.index),
        reason: to_pb::fault_reason(error.fault.kind),
        description: error.fault.message.clone(),
    }
}

/// The answer to `validate_only`: what the parser and the destination's columns say of every record, and nothing is written. Whether a key is taken only writing tells.
fn validated(
    edge: &Edge,
    pieces: &[Piece],
    refused: Vec<(Offset, RecordFault)>,
    policy: RecordErrorPolicy,
    first_offset: Option<Offset>,
) -> Result<pb::PushOnceResponse, Problem> {
    let unparsable = pieces.iter().filter_map(|piece| match piece {
        Piece::Bad(record) => Some((record.offset, record.fault.clone())),
        Piece::Good(_) => None,
    });
    let mut bad: Vec<(Offset, RecordFault)> = unparsable.chain(refused).collect();
    bad.sort_by_key(|(offset, _)| *offset);
    let disposition = match policy {
        RecordErrorPolicy::Stop => Disposition::Stopped,
        RecordErrorPolicy::Skip | RecordErrorPolicy::DeadLetter => Disposition::Skipped,
    };
    let mut errors = RecordErrors::default();
    for (offset, fault) in bad {
        // Offsets of a decoded batch count from 0: they are the indexes.
        let index = usize::try_from(offset).unwrap_or(usize::MAX);
        let error = RecordError { offset, index, fault, disposition };
        merge(&mut errors, RecordErrors { errors: vec![error], more: 0 });
    }
    if policy == RecordErrorPolicy::Stop
        && let Some(first) = errors.errors.first()
    {
        let problem = Problem::new(to_pb::fault_reason(first.fault.kind), format!("record {} of the batch: {}", first.index, first.fault.message))
            .with("index", first.index.to_string())
            .with("offset", first.offset.to_string());
        return Err(with_record_errors(problem, &errors));
    }
    let next_offset = i64::try_from(first_offset.unwrap_or(0)).unwrap_or(i64::MAX);
    Ok(pb::PushOnceResponse {
        next_offset,
        counts: Some(pb::StreamCounts::default()),
        record_errors: Some(to_pb::record_errors(errors)),
        commit_time: Some(to_pb::timestamp(edge.ambient.now())),
        ..Default::default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::{RecordFault, RecordFaultKind};

    fn error(index: usize) -> RecordError {
        let fault = RecordFault { kind: RecordFaultKind::Invalid, message: "not a number".to_owned(), column: Some("id".to_owned()) };
        RecordError { offset: index as u64, index, fault, disposition: Disposition::Stopped }
    }

    #[test]
    fn a_refused_batch_names_at_most_twenty_records() {
        let mut all = RecordErrors::default();
        merge(&mut all, RecordErrors { errors: (0..150).map(error).collect(), more: 7 });
        assert_eq!((all.errors.len(), all.more), (100, 57));
        let problem = with_record_errors(Problem::new(Reason::RecordInvalid, "bad records"), &all);
        assert_eq!(problem.violations.len(), 20);
        assert_eq!(problem.violations[3].field, "batch.records[3][\"id\"]");
    }

    #[tokio::test]
    async fn the_latest_ping_and_the_first_word_get_through_without_a_queue() {
        let between = Between::default();
        for id in 0..1_000 {
            between.tell(|news| news.ping = Some(id));
        }
        assert_eq!(between.news().await.ping, Some(999));
        between.tell(|news| news.fault = Some(Problem::new(Reason::EmptyFrame, "empty")));
        assert_eq!(between.news().await.fault.unwrap().reason, Reason::EmptyFrame);
    }
}
