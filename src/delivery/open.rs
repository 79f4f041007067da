//! Why: one stream has one writer at a time: who writes which stream now is known here, and nowhere is a session opened but through here. Never writes a record.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use futures::{FutureExt, future::BoxFuture};
use tokio::{
    sync::{Notify, mpsc},
    task::AbortHandle,
    time::timeout,
};
use tokio_util::sync::CancellationToken;

use super::{
    Counts, Directive, Durable, EndReason, Ended, Event, Input, Kept, LiveSession, OpenOrder, Progress, RecordErrorPolicy, SessionOpened, Source, Which,
    Window,
    budget::{Budget, Credits},
    control::Control,
    held,
    outbox::{Outbox, SessionOutput},
    problems::{self, Occasion, problem_of},
    session::{self, Message},
    settle::{Resume, resume},
};
use crate::{
    clock::Ambient,
    connectors::{
        connector::{CommitMode, Delivery as Announced, Epoch, Guarantee, Mark, Noted, Opened, StreamId, Terms, UnitPolicy},
        error::ConnectorError,
    },
    limits,
    problem::Problem,
    record::{Encoding, Offset, Piece, RecordFault},
};

/// How long an older session of a stream gets to end by itself before its task is aborted; the target's fence holds it off meanwhile.
const DISPLACED_GRACE: Duration = Duration::from_secs(5);
/// The largest window in records that large units can ask for.
const WINDOW_RECORDS_MAX: u64 = 1_000_000;

/// How many sessions there may be and what they may hold.
#[derive(Debug, Clone)]
pub struct DeliverySettings {
    /// The most sessions.
    pub sessions_max: usize,
    /// The window of a session; larger where the kind's units are, smaller where the sender asks for it.
    pub window: Window,
    /// Bytes that all sessions together may hold.
    pub budget_bytes: u64,
    /// Bytes that the sessions of one principal may hold; 0: no limit of their own.
    pub principal_budget_bytes: u64,
    /// What a drained sender is told to wait before it opens again.
    pub reconnect_after: Duration,
    /// Links the span of a write to the trace context (W3C `traceparent`) of what produced its first batch.
    pub link: fn(&tracing::Span, &str),
}

impl Default for DeliverySettings {
    fn default() -> Self {
        Self {
            sessions_max: limits::SESSIONS_MAX,
            window: Window { records: limits::WINDOW_RECORDS, bytes: limits::WINDOW_BYTES },
            budget_bytes: limits::BUDGET_BYTES,
            principal_budget_bytes: 0,
            reconnect_after: Duration::from_secs(1),
            link: |_, _| {},
        }
    }
}

/// The engine of Push. A handle: clones are the same engine.
#[derive(Debug, Clone)]
pub struct Delivery(Arc<Engine>);

#[derive(Debug)]
struct Engine {
    settings: DeliverySettings,
    ambient: Ambient,
    progress: Arc<dyn Progress>,
    budget: Budget,
    registry: Mutex<Registry>,
    emptied: Notify,
}

#[derive(Debug, Default)]
struct Registry {
    streams: BTreeMap<StreamId, Arc<Entry>>,
    /// Grows with every open.
    opened: u64,
    /// Sessions that have not ended, displaced ones included.
    open: usize,
}

/// A session as others see it.
#[derive(Debug)]
pub(super) struct Entry {
    id: u64,
    stream: StreamId,
    principal: String,
    writer: super::WriterIdentity,
    /// A stream of dead letters: it ends with the stream that it serves.
    nested: bool,
    pub(super) control: Arc<Control>,
    /// `None` while it opens.
    pub(super) live: Mutex<Option<LiveSession>>,
    pub(super) credits: Mutex<Option<Credits>>,
    ended: CancellationToken,
    /// The ends of earlier sessions of the stream that had not ended when this one came.
    before: Vec<CancellationToken>,
    pub(super) abort: Mutex<Option<AbortHandle>>,
}

impl Entry {
    fn epoch(&self) -> Epoch {
        locked(&self.live).as_ref().map_or(Epoch(0), |live| live.epoch)
    }
}

/// A session's place in the registry, given up when dropped.
#[derive(Debug)]
pub(super) struct Place {
    engine: Arc<Engine>,
    pub(super) entry: Arc<Entry>,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut registry = locked(&self.engine.registry);
        if registry.streams.get(&self.entry.stream).is_some_and(|entry| entry.id == self.entry.id) {
            registry.streams.remove(&self.entry.stream);
        }
        registry.open -= 1;
        drop(registry);
        self.entry.ended.cancel();
        self.engine.emptied.notify_waiters();
    }
}

/// Locks a mutex whose holder may have panicked: what it guards is changed in one step, so it is whole all the same.
pub(super) fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Delivery {
    /// An engine without sessions.
    pub fn new(settings: DeliverySettings, ambient: Ambient, progress: Arc<dyn Progress>) -> Self {
        let budget = Budget::new(settings.budget_bytes, settings.principal_budget_bytes);
        Self(Arc::new(Engine { settings, ambient, progress, budget, registry: Mutex::default(), emptied: Notify::new() }))
    }

    /// Opens a stream: fences older writers, reads how far the target is, and starts the session.
    ///
    /// Fails with `StreamInUse`, `TooManyStreams`, `StreamMismatch`, `DeliveryUnsupported`, what `problem_of` makes of the connector's error, or the reason of a [`Directive::Stop`] that
    /// came meanwhile. May be dropped at any time.
    pub async fn open(&self, order: OpenOrder) -> Result<Session, Problem> {
        self.admit(order, false).await
    }

    /// Opens a stream of dead letters: it needs no credit, and drains with the stream that it serves.
    pub(super) fn open_nested(&self, order: OpenOrder) -> BoxFuture<'static, Result<Session, Problem>> {
        let delivery = self.clone();
        async move { delivery.admit(order, true).await }.boxed()
    }

    /// Calls to the sessions that `which` names; how many they are.
    pub fn direct(&self, which: &Which, directive: Directive) -> usize {
        let named: Vec<Arc<Entry>> = locked(&self.0.registry).streams.values().filter(|entry| which.names(entry)).cloned().collect();
        for entry in &named {
            match &directive {
                Directive::Stop(problem) => entry.control.stop(problem.clone()),
                Directive::Drain { .. } if entry.nested => {}
                Directive::Drain { reason, grace } => entry.control.drain(*reason, tokio::time::Instant::now() + *grace),
                Directive::Reconnect => entry.control.reconnect(),
            }
        }
        named.len()
    }

    /// The open sessions, by stream.
    pub fn live(&self) -> Vec<LiveSession> {
        let entries: Vec<Arc<Entry>> = locked(&self.0.registry).streams.values().cloned().collect();
        let live = entries.iter().filter_map(|entry| {
            let mut live = locked(&entry.live).clone()?;
            live.outstanding = locked(&entry.credits).as_ref().map(Credits::outstanding).unwrap_or_default();
            Some(live)
        });
        live.collect()
    }

    /// Returns once no session is open.
    pub async fn settled(&self) {
        loop {
            let emptied = self.0.emptied.notified();
            tokio::pin!(emptied);
            emptied.as_mut().enable();
            if locked(&self.0.registry).open == 0 {
                return;
            }
            emptied.await;
        }
    }

    pub(super) fn ambient(&self) -> &Ambient {
        &self.0.ambient
    }

    pub(super) fn progress(&self) -> &Arc<dyn Progress> {
        &self.0.progress
    }

    pub(super) fn settings(&self) -> &DeliverySettings {
        &self.0.settings
    }

    /// Shows what all sessions hold.
    pub(super) fn measure(&self) {
        #[expect(clippy::cast_precision_loss, reason = "a gauge is a float")]
        metrics::gauge!("datasink_outstanding_bytes").set(self.0.budget.used_bytes() as f64);
    }

    async fn admit(&self, order: OpenOrder, nested: bool) -> Result<Session, Problem> {
        if order.policy == RecordErrorPolicy::DeadLetter && order.dead_letters.is_none() {
            return Err(problems::no_dead_letter_sink());
        }
        let (place, displaced) = self.enter(&order, nested)?;
        let control = place.entry.control.clone();
        let establish = self.establish(order, place, displaced).boxed();
        tokio::select! {
            biased;
            problem = control.stopped() => Err(problem),
            session = establish => session,
        }
    }

    /// Which good records among `pieces` the destination would refuse, found without a session and without writing. Offsets count from 0 within the batch.
    pub async fn check(&self, order: &OpenOrder, pieces: &[Piece]) -> Result<Vec<(Offset, RecordFault)>, Problem> {
        let failed = |error: &ConnectorError| problem_of(error, Occasion::Session { next_offset: 0 }, &order.sink.name, &order.sink.destination);
        let (connector, cx) = order.connections.connect().await.map_err(|error| failed(&error))?;
        let mut faults = Vec::new();
        for piece in pieces {
            if let Piece::Good(batch) = piece {
                faults.extend(connector.check_records(&cx, batch).await.map_err(|error| failed(&error))?);
            }
        }
        Ok(faults)
    }

    /// Takes the stream's place in the registry, from an older session where that is allowed.
    fn enter(&self, order: &OpenOrder, nested: bool) -> Result<(Place, Option<Arc<Entry>>), Problem> {
        let mut registry = locked(&self.0.registry);
        let older = registry.streams.get(&order.stream).cloned();
        if let Some(older) = &older {
            let own = older.writer.client_id == order.writer.client_id && older.writer.principal == order.writer.principal;
            if order.exclusive || !(own || order.takeover) {
                return Err(problems::in_use(&order.stream, &older.writer, older.epoch(), order.exclusive));
            }
        } else if registry.streams.len() >= self.0.settings.sessions_max && !nested {
            return Err(problems::too_many(self.0.settings.sessions_max));
        }
        registry.opened += 1;
        registry.open += 1;
        let before = older.iter().flat_map(|older| older.before.iter().chain([&older.ended])).filter(|ended| !ended.is_cancelled()).cloned().collect();
        let entry = Arc::new(Entry {
            id: registry.opened,
            stream: order.stream.clone(),
            principal: order.writer.principal.clone(),
            writer: order.writer.clone(),
            nested,
            control: Arc::default(),
            live: Mutex::default(),
            credits: Mutex::default(),
            ended: CancellationToken::new(),
            before,
            abort: Mutex::default(),
        });
        registry.streams.insert(order.stream.clone(), entry.clone());
        Ok((Place { engine: self.0.clone(), entry }, older))
    }

    /// Ends the session that held the place before, and those it displaced itself.
    async fn displace(&self, order: &OpenOrder, place: &Place, older: &Entry) {
        let epoch = older.epoch();
        older.control.stop(problems::fenced(&order.stream, epoch, Some(Epoch(epoch.0 + 1)), Some(&order.writer.client_id)));
        let all_ended = futures::future::join_all(place.entry.before.iter().map(CancellationToken::cancelled));
        if timeout(DISPLACED_GRACE, all_ended).await.is_err() {
            tracing::warn!(stream = %order.stream, "the displaced session did not end by itself; its task is aborted");
            if let Some(abort) = locked(&older.abort).take() {
                abort.abort();
            }
            // A task that never yields cannot be aborted; the target's fence is what holds then.
            let _ = timeout(DISPLACED_GRACE, older.ended.cancelled()).await;
        }
    }

    async fn establish(&self, order: OpenOrder, place: Place, displaced: Option<Arc<Entry>>) -> Result<Session, Problem> {
        let mut floor = Epoch(0);
        if let Some(older) = &displaced {
            self.displace(&order, &place, older).await;
            floor = older.epoch();
        }
        let kept = if order.ephemeral { None } else { self.0.progress.load(&order.stream).await? };
        if let Some(kept) = &kept {
            matches_order(&order, kept)?;
            if kept.mark.finished {
                return Ok(finished(&order, place, kept.mark, kept.epoch, Some(kept)));
            }
            floor = floor.max(kept.epoch);
        }
        let asked = Epoch(floor.0 + 1);
        let mut note = self.first_note(&order, asked, kept.as_ref());
        if !order.ephemeral {
            // The epoch is on disk before any target sees it, so that no later open can ask for it again.
            self.0.progress.save(&order.stream, &note, Durable::Now).await?;
        }
        let failed = |error: &ConnectorError| {
            let occasion = Occasion::Session { next_offset: note.mark.next };
            problem_of(error, occasion, &order.sink.name, &order.sink.destination)
        };
        let terms = terms(&order, &note);
        let opened = connect(&order, asked, &terms).await.map_err(|error| failed(&error))?;
        if let Some(wanted) = order.required.filter(|wanted| opened.delivery.guarantee < *wanted) {
            return Err(problems::too_weak(&order.sink, wanted, opened.delivery.guarantee, &opened.delivery.basis));
        }
        let resumed = resume(kept.as_ref(), order.sink.destination_generation, order.commit_mode, opened.mark)
            .map_err(|went| problems::went_back(&order.stream, &order.sink, went))?;
        note.epoch = opened.epoch.max(asked);
        note.mark = resumed.mark;
        if !resumed.from_note {
            note.destination_generation = order.sink.destination_generation;
        }
        if resumed.mark.finished {
            if !order.ephemeral {
                self.0.progress.save(&order.stream, &note, Durable::Soon).await?;
            }
            return Ok(finished(&order, place, note.mark, note.epoch, Some(&note)));
        }
        Ok(self.begin(order, place, opened, resumed, note))
    }

    /// What our store knows of a stream as it opens, before the target was asked.
    fn first_note(&self, order: &OpenOrder, epoch: Epoch, kept: Option<&Kept>) -> Kept {
        let fresh = Kept {
            mark: Mark::default(),
            epoch,
            planned_ends: Vec::new(),
            destination_generation: order.sink.destination_generation,
            receipts: Vec::new(),
            source: order.source.clone(),
            commit_mode: order.commit_mode,
            duplicates: 0,
            delivered_bytes: 0,
            principal: String::new(),
            client_id: String::new(),
            opened: self.0.ambient.now(),
            acknowledged: None,
        };
        let known = kept.cloned().unwrap_or_else(|| fresh.clone());
        Kept { epoch, principal: order.writer.principal.clone(), client_id: order.writer.client_id.clone(), opened: fresh.opened, ..known }
    }

    /// Starts the session.
    fn begin(&self, order: OpenOrder, place: Place, opened: Opened, resumed: Resume, note: Kept) -> Session {
        let window = window(&self.0.settings, order.window, &opened.units);
        let told = opening(&order, note.epoch, &opened.delivery, window, resumed.mark.next);
        let told = SessionOpened { schema: opened.schema.clone(), rolled_back: resumed.rolled_back, ..told };
        let credits = if place.entry.nested { Budget::free() } else { self.0.budget.stream(&place.entry.principal, window, &place.entry.control) };
        *locked(&place.entry.credits) = Some(credits.clone());
        *locked(&place.entry.live) = Some(LiveSession {
            stream: order.stream.clone(),
            sink: order.sink.clone(),
            writer: order.writer.clone(),
            epoch: note.epoch,
            guarantee: opened.delivery.guarantee,
            next_offset: resumed.mark.next,
            counts: Counts::default(),
            outstanding: Window::default(),
            destination: None,
            opened: note.opened,
            acknowledged: note.acknowledged,
        });
        let (outbox, half_closed) = (Arc::new(Outbox::default()), Arc::new(AtomicBool::new(false)));
        let (messages, inbox) = mpsc::channel(session::INBOX_MESSAGES);
        session::start(session::Start {
            order,
            delivery: self.clone(),
            place,
            opened,
            resumed,
            note,
            inbox,
            half_closed: half_closed.clone(),
            outbox: outbox.clone(),
        });
        Session { opened: told, input: SessionInput { messages, credits, half_closed }, output: SessionOutput(outbox) }
    }
}

impl Which {
    fn names(&self, entry: &Entry) -> bool {
        match self {
            Self::Sink(uid) => entry.stream.sink == *uid,
            Self::Principal(principal) => entry.principal == *principal,
            Self::Stream(stream) => entry.stream == *stream,
            Self::All => true,
        }
    }
}

/// A new connection, and the writer over it.
pub(super) async fn connect(order: &OpenOrder, epoch: Epoch, terms: &Terms) -> Result<Opened, ConnectorError> {
    let (connector, cx) = order.connections.connect().await?;
    connector.open(&cx, &order.stream, epoch, terms).await
}

/// What a writer must know of the order.
pub(super) fn terms(order: &OpenOrder, note: &Kept) -> Terms {
    Terms {
        commit_mode: order.commit_mode,
        key_columns: order.key_columns.clone(),
        schema: order.schema.clone(),
        options: order.options.clone(),
        noted: Noted { mark: note.mark, here: note.destination_generation == order.sink.destination_generation, receipts: note.receipts.clone() },
    }
}

/// A stream is opened as it was opened first; an adhoc source's label is not part of what it is.
fn matches_order(order: &OpenOrder, kept: &Kept) -> Result<(), Problem> {
    let same_source = matches!((&kept.source, &order.source), (Source::Adhoc(_), Source::Adhoc(_))) || kept.source == order.source;
    if !same_source {
        return Err(problems::mismatch(&order.stream, "source", &source_name(&kept.source), &source_name(&order.source)));
    }
    if kept.commit_mode != order.commit_mode {
        return Err(problems::mismatch(&order.stream, "commit_mode", mode_name(kept.commit_mode), mode_name(order.commit_mode)));
    }
    Ok(())
}

fn source_name(source: &Source) -> String {
    match source {
        Source::TableMonitor(name) => format!("table monitor {name}"),
        Source::ExportJob(name) => format!("export job {name}"),
        Source::Adhoc(_) => "adhoc records".to_owned(),
    }
}

fn mode_name(mode: CommitMode) -> &'static str {
    match mode {
        CommitMode::Continuous => "CONTINUOUS",
        CommitMode::OnFinish => "ON_FINISH",
    }
}

/// The window: a unit that fills beside those that commit, which are two where the kind lets several be on their way; never more than half of what all may hold.
fn window(settings: &DeliverySettings, asked: Window, units: &UnitPolicy) -> Window {
    let smaller = |asked: u64, ours: u64| if asked == 0 { ours } else { asked.min(ours) };
    let held = 1 + units.commits_in_flight.clamp(1, 2) as u64;
    let records = units.records_max.saturating_mul(held).min(WINDOW_RECORDS_MAX).max(settings.window.records);
    let bytes = units.bytes_max.saturating_mul(held).min(settings.budget_bytes / 2).max(settings.window.bytes);
    Window { records: smaller(asked.records, records), bytes: smaller(asked.bytes, bytes) }
}

fn opening(order: &OpenOrder, epoch: Epoch, delivery: &Announced, window: Window, next_offset: Offset) -> SessionOpened {
    let mut encodings = vec![Encoding::Ndjson, Encoding::Json, Encoding::ArrowIpc];
    if order.schema.is_some() {
        encodings.push(Encoding::Typed);
    }
    SessionOpened {
        stream: order.stream.clone(),
        epoch,
        next_offset,
        sink: order.sink.clone(),
        delivery: delivery.clone(),
        policy: order.policy,
        commit_mode: order.commit_mode,
        window,
        encodings,
        schema: None,
        rolled_back: false,
    }
}

/// The session of a stream that is finished: it has ended already, so that a lost `ended` is recovered by opening again.
fn finished(order: &OpenOrder, place: Place, mark: Mark, epoch: Epoch, kept: Option<&Kept>) -> Session {
    let delivery = Announced { guarantee: order.required.unwrap_or(Guarantee::AtLeastOnce), basis: "the stream is finished".to_owned() };
    let counts = Counts {
        delivered: mark.next - mark.rejected,
        rejected: mark.rejected,
        duplicates: kept.map_or(0, |kept| kept.duplicates),
        delivered_bytes: kept.map_or(0, |kept| kept.delivered_bytes),
    };
    drop(place);
    let outbox = Arc::new(Outbox::default());
    outbox.last([Event::Ended(Ended { reason: EndReason::Committed, next_offset: mark.next, counts, artifacts: Vec::new(), resumable: false })]);
    // The other end is dropped at once: whatever is sent is answered by `Closed`.
    let (messages, _) = mpsc::channel(1);
    Session {
        opened: opening(order, epoch, &delivery, Window::default(), mark.next),
        input: SessionInput { messages, credits: Budget::free(), half_closed: Arc::default() },
        output: SessionOutput(outbox),
    }
}

/// One open stream: what was agreed, and the two ways.
#[derive(Debug)]
pub struct Session {
    /// The answer to open.
    pub opened: SessionOpened,
    /// From the sender.
    pub input: SessionInput,
    /// To the sender.
    pub output: SessionOutput,
}

/// Where a sender's frames go. Dropped without [`SessionInput::half_close`], the connection counts as lost: the open unit is abandoned.
pub struct SessionInput {
    messages: mpsc::Sender<Message>,
    credits: Credits,
    half_closed: Arc<AtomicBool>,
}

impl fmt::Debug for SessionInput {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SessionInput").field("outstanding", &self.credits.outstanding()).finish_non_exhaustive()
    }
}

/// The session has ended; its output says why.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the session has ended")]
pub struct Closed;

impl SessionInput {
    /// Hands over a frame. Waits while the window or the server's budget is spent: that is the back-pressure. If dropped while it waits, nothing was handed over.
    pub async fn send(&self, input: Input) -> Result<(), Closed> {
        let message = match input {
            Input::Batch(incoming) => {
                let amount = held::weigh(&incoming.pieces);
                tokio::select! {
                    biased;
                    () = self.messages.closed() => return Err(Closed),
                    credit = self.credits.acquire(amount) => Message::Batch(incoming, credit),
                }
            }
            Input::Flush(token) => Message::Flush(token),
            Input::Finish { action, expected_next } => Message::Finish(action, expected_next),
        };
        self.pass_on(message).await
    }

    /// Passes over offsets up to `to`: they stand for records that were rejected before there was a place for dead letters.
    pub(super) async fn pass(&self, to: Offset) -> Result<(), Closed> {
        self.pass_on(Message::Pass(to)).await
    }

    async fn pass_on(&self, message: Message) -> Result<(), Closed> {
        self.messages.send(message).await.map_err(|_| Closed)
    }

    /// Nothing more will come; what was sent is to be settled.
    pub fn half_close(self) {
        self.half_closed.store(true, Ordering::Release);
    }
}
