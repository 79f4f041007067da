//! Why: the state machine of one open stream, and the only task below the interface. Never waits for its sender's reading, and never acknowledges what is not durable.

mod line;
mod meters;
mod notes;

use std::{
    collections::BTreeSet,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use futures::FutureExt;
use tokio::{
    sync::mpsc,
    time::{Instant, Sleep, sleep_until, timeout},
};
use tracing::Instrument;

use self::{
    line::{Line, LineEvent},
    meters::Meters,
};
use super::{
    Delivery, DestinationState, DestinationStatus, Disposition, DrainReason, Durable, EndReason, Ended, Event, Incoming, Kept, OpenOrder, RecordError,
    RecordErrorPolicy, RecordErrors,
    batch::{self, Circumstances, Cut, Unit},
    budget::Credit,
    control::Call,
    dead_letters::{self, DeadLetters},
    encoding,
    failpoint::Failpoint,
    held::{self, Item, Retained},
    open::{self, Place, locked},
    outbox::Outbox,
    problems::{self, Occasion, problem_of},
    retry::{Decision, Failures},
    settle::{Books, Resume, WentBack},
};
use crate::{
    clock::Timestamp,
    connectors::{
        connector::{Appended, CommitMode, Finish, FoundMark, Mark, Opened, Outcome, SinkWriter},
        error::{ConnectorError, ConnectorErrorKind, ErrorClass},
    },
    limits,
    problem::Problem,
    record::{Batch, Encoding, Offset, RecordSchema, RejectedRecord, RollingHash},
};

/// Frames that may wait for a session; their records are paid for by credit.
pub(super) const INBOX_MESSAGES: usize = 16;
/// How long the rest of an interrupted unit is waited for before it is cut shorter than it was.
const PLANNED_END_PATIENCE: Duration = Duration::from_secs(30);
/// How long a writer may take to clean up when a session ends early.
const ABANDON_TIMEOUT: Duration = Duration::from_secs(1);

/// What comes from the sender.
#[derive(Debug)]
pub(super) enum Message {
    Batch(Incoming, Credit),
    Flush(String),
    Finish(Finish, Option<Offset>),
    Pass(Offset),
}

/// Everything a session starts with.
pub(super) struct Start {
    pub(super) order: OpenOrder,
    pub(super) delivery: Delivery,
    pub(super) place: Place,
    pub(super) opened: Opened,
    pub(super) resumed: Resume,
    pub(super) note: Kept,
    pub(super) inbox: mpsc::Receiver<Message>,
    pub(super) half_closed: Arc<AtomicBool>,
    pub(super) outbox: Arc<Outbox>,
}

/// How a session is going to end, once what was received is settled.
#[derive(Debug)]
enum Ending {
    HalfClosed,
    Drained,
    Finish(Finish),
    /// STOP met this record.
    Stopped(RejectedRecord),
}

/// Why a session ends at once.
enum Stop {
    Failed(Problem),
    /// STOP: everything before this record is settled.
    Record(RejectedRecord),
    /// Nobody listens any more.
    Lost,
}

impl From<Problem> for Stop {
    fn from(problem: Problem) -> Self {
        Self::Failed(problem)
    }
}

struct Task {
    order: OpenOrder,
    delivery: Delivery,
    place: Place,
    outbox: Arc<Outbox>,
    inbox: mpsc::Receiver<Message>,
    half_closed: Arc<AtomicBool>,
    meters: Meters,

    /// What our store is told, but for the progress: see [`Task::note`].
    note: Kept,
    /// The target keeps no mark: our note is the mark.
    ours: bool,
    /// What the writer takes, and the columns for that where it takes columns.
    takes: Encoding,
    columns: Option<RecordSchema>,
    held: Retained,
    books: Books,
    /// The mark at the end of the last unit that was cut.
    tail: Mark,
    unit: Option<Unit>,
    /// Units must end exactly at these offsets. Where our note is the mark, these are the ends of units that may be on their way: they are noted, and only ever become more, since
    /// one name must not stand for two bodies.
    cuts: BTreeSet<Offset>,
    /// Those of them that are on disk: a unit that ends at one may be sent without another note.
    cuts_on_disk: BTreeSet<Offset>,
    /// The most records of one append, while an unnamed bad record is searched.
    append_max: usize,

    line: Line,
    failures: Failures,
    /// When the line last did something; a line that does nothing for too long has failed.
    stirred: Instant,
    destination: Option<DestinationStatus>,
    last_success: Option<Timestamp>,
    /// When an ack was told last.
    told: Instant,
    /// An ack waits for company until then.
    ack_due: Option<Instant>,
    /// Our note is the mark, and it is behind what is settled: no ack before it is written.
    note_due: bool,

    /// A sender waits for credit.
    pressed: bool,
    /// A new connection is wanted at the next unit.
    reconnect: bool,
    ending: Option<Ending>,
    drain_deadline: Option<Instant>,
    /// Goes off when something is due, or earlier.
    alarm: Pin<Box<Sleep>>,
    /// Open between letters; written in the line's hand.
    dead_letters: Option<DeadLetters>,
}

/// Starts the session's task.
pub(super) fn start(start: Start) {
    let entry = start.place.entry.clone();
    let span = tracing::info_span!(
        "push_session",
        stream = %start.order.stream.name,
        sink = %start.order.sink.name,
        kind = start.order.sink.kind.as_str(),
        epoch = start.note.epoch.0,
        client_id = start.order.writer.client_id,
    );
    let task = Task::new(start);
    #[expect(clippy::disallowed_methods, reason = "a session's task; its place in the registry owns it")]
    let handle = tokio::spawn(task.run().instrument(span));
    *locked(&entry.abort) = Some(handle.abort_handle());
}

/// Tells the sender that its session is over even where the task was aborted or panicked.
struct Farewell {
    outbox: Arc<Outbox>,
    entry: Arc<open::Entry>,
    problem: Problem,
}

impl Drop for Farewell {
    fn drop(&mut self) {
        let stopped = self.entry.control.stopped().now_or_never();
        self.outbox.last([Event::Failed(stopped.unwrap_or_else(|| self.problem.clone()))]);
    }
}

#[expect(clippy::large_enum_variant, reason = "one lives at a time, on its way through one loop")]
enum Woken {
    Call(Call),
    Line(LineEvent),
    Timer,
    Message(Option<Message>),
}

impl Task {
    fn new(start: Start) -> Self {
        let Start { order, delivery, place, opened, resumed, note, inbox, half_closed, outbox } = start;
        let ours = opened.mark == FoundMark::NotKept;
        let books = Books {
            mark: resumed.mark,
            noted: if resumed.from_note { resumed.mark.next } else { 0 },
            duplicates: note.duplicates,
            delivered_bytes: note.delivered_bytes,
            acknowledged: note.acknowledged,
            ..Books::default()
        };
        let planned: BTreeSet<Offset> = note.planned_ends.iter().copied().filter(|end| ours && *end > resumed.mark.next).collect();
        let columns = order.schema.clone().or(opened.schema);
        let task = Self {
            meters: Meters::new(order.sink.kind.as_str()),
            held: Retained::from(resumed.mark.next),
            tail: resumed.mark,
            unit: None,
            cuts_on_disk: planned.clone(),
            cuts: planned,
            append_max: usize::MAX,
            line: Line::open(opened.writer, opened.units, ours),
            failures: Failures::default(),
            stirred: Instant::now(),
            destination: None,
            last_success: None,
            told: Instant::now(),
            ack_due: None,
            note_due: false,
            pressed: false,
            reconnect: false,
            ending: None,
            drain_deadline: None,
            alarm: Box::pin(sleep_until(Instant::now())),
            order,
            delivery,
            place,
            outbox,
            inbox,
            half_closed,
            note,
            ours,
            takes: opened.takes,
            columns,
            books,
            dead_letters: None,
        };
        task.publish();
        task
    }

    async fn run(mut self) {
        let outbox = self.outbox.clone();
        let farewell = Farewell { outbox: outbox.clone(), entry: self.place.entry.clone(), problem: problems::broken(&self.order.stream) };
        self.meters.sessions.increment(1);
        let mut result = self.drive().boxed().await;
        // What a good end says of the stream must be as durable as an ack; of two bad ones the first is told.
        let caught_up = self.catch_up().await;
        if let (Err(stop), Ok(_) | Err(Stop::Record(_))) = (caught_up, &result) {
            result = Err(stop);
        }
        self.wind_up().await;
        let last = self.last_events(result);
        // The stream is free before its sender hears of the end, so that it can be opened again at once.
        drop(self);
        outbox.last(last);
        drop(farewell);
    }

    async fn drive(&mut self) -> Result<Ended, Stop> {
        loop {
            if let Some(ended) = self.advance().await? {
                return Ok(ended);
            }
            match self.wait().await {
                Woken::Call(call) => self.on_call(call)?,
                Woken::Line(event) => {
                    self.stirred = Instant::now();
                    if let Some(ended) = self.on_line(event).await? {
                        return Ok(ended);
                    }
                }
                Woken::Timer => {
                    if let Some(ended) = self.on_timer().await? {
                        return Ok(ended);
                    }
                }
                Woken::Message(Some(message)) => self.on_message(message)?,
                Woken::Message(None) => self.on_input_gone()?,
            }
        }
    }

    async fn wait(&mut self) -> Woken {
        let wake = self.wake_at();
        // Set anew only where it would come too late: what is due moves on with every unit, and each time that a timer is set another thread may have to be woken. Coming early does no harm.
        if let Some(at) = wake
            && (self.alarm.is_elapsed() || at < self.alarm.deadline())
        {
            self.alarm.as_mut().reset(at);
        }
        let control = &self.place.entry.control;
        tokio::select! {
            biased;
            call = control.next() => Woken::Call(call),
            event = self.line.event() => Woken::Line(event),
            () = self.alarm.as_mut(), if wake.is_some() => Woken::Timer,
            message = self.inbox.recv(), if self.ending.is_none() => Woken::Message(message),
        }
    }

    /// The next instant at which something is to be done though nothing happened.
    fn wake_at(&self) -> Option<Instant> {
        let linger = match (self.cut(), &self.line) {
            (Some(Cut::At(due)), Line::Open(_)) => Some(due),
            _ => None,
        };
        let hung = self.line.is_busy().then(|| self.hung_at());
        [linger, hung, self.drain_deadline, self.ack_due].into_iter().flatten().min()
    }

    fn hung_at(&self) -> Instant {
        self.stirred + self.order.wait_timeout + ABANDON_TIMEOUT
    }

    // ---- from outside ----

    fn on_call(&mut self, call: Call) -> Result<(), Stop> {
        match call {
            Call::Stop(problem) => return Err(Stop::Failed(problem)),
            Call::Drain(reason, deadline) => self.drain(reason, deadline)?,
            Call::Reconnect => self.reconnect = true,
            Call::Press => self.pressed = true,
        }
        Ok(())
    }

    /// What is in the inbox was sent before; what comes after is not taken.
    fn drain(&mut self, reason: DrainReason, deadline: Instant) -> Result<(), Stop> {
        let wall = self.delivery.ambient().now().plus(deadline.saturating_duration_since(Instant::now()));
        self.outbox.drain(Event::Drain { reason, deadline: wall, reconnect_after: self.delivery.settings().reconnect_after });
        self.drain_deadline = Some(deadline);
        while self.ending.is_none() {
            match self.inbox.try_recv() {
                Ok(message) => self.on_message(message)?,
                Err(mpsc::error::TryRecvError::Empty) => break,
                Err(mpsc::error::TryRecvError::Disconnected) => self.on_input_gone()?,
            }
        }
        self.ending.get_or_insert(Ending::Drained);
        Ok(())
    }

    fn on_message(&mut self, message: Message) -> Result<(), Stop> {
        match message {
            Message::Batch(incoming, credit) => self.receive(incoming, credit)?,
            Message::Flush(token) => {
                self.books.flush(self.held.next(), token);
                if self.books.flush_due() {
                    self.ack_soon();
                }
            }
            Message::Pass(to) => self.held.pass(to),
            Message::Finish(action, expected) => {
                if let Some(expected) = expected.filter(|expected| *expected != self.held.next()) {
                    return Err(problems::offset_gap(self.held.next(), expected).into());
                }
                if action == Finish::Abort && self.order.commit_mode == CommitMode::Continuous {
                    return Err(problems::abort_continuous().into());
                }
                self.ending = Some(Ending::Finish(action));
            }
        }
        Ok(())
    }

    fn receive(&mut self, incoming: Incoming, credit: Credit) -> Result<(), Stop> {
        Failpoint::Received.reached();
        let expected = self.held.next();
        let first = incoming.first_offset.unwrap_or(expected);
        if first > expected {
            return Err(problems::offset_gap(expected, first).into());
        }
        if first.checked_add(held::weigh(&incoming.pieces).records).is_none() {
            return Err(problems::offset_overflow().into());
        }
        let pieces = encoding::convert(incoming.pieces, self.takes, self.columns.as_ref());
        let duplicates = self.held.receive(first, pieces, credit);
        if duplicates > 0 {
            self.books.duplicates += duplicates;
            self.meters.duplicates.increment(duplicates);
            // Records that were settled before are acknowledged again: their sender may wait for just that.
            self.ack_soon();
        }
        Ok(())
    }

    fn on_input_gone(&mut self) -> Result<(), Stop> {
        if !self.half_closed.load(Ordering::Acquire) {
            return Err(Stop::Lost);
        }
        self.ending = Some(Ending::HalfClosed);
        Ok(())
    }

    async fn on_timer(&mut self) -> Result<Option<Ended>, Stop> {
        let now = Instant::now();
        if self.ack_due.is_some_and(|due| due <= now) {
            self.catch_up().await?;
        }
        if self.drain_deadline.is_some_and(|deadline| deadline <= now) {
            return Ok(Some(self.ended(EndReason::Drained)));
        }
        if self.line.is_busy() && self.hung_at() <= now {
            let silence = self.order.wait_timeout;
            let message = format!("the destination did nothing for {} s; check whether it is reachable and not stuck", silence.as_secs());
            self.line_failed(&ConnectorError::new(ConnectorErrorKind::TimedOut, message), None)?;
        }
        Ok(None)
    }

    // ---- towards the target ----

    /// Does everything that can be done without waiting.
    async fn advance(&mut self) -> Result<Option<Ended>, Stop> {
        loop {
            if let Some(ended) = self.end_if_settled()? {
                return Ok(Some(ended));
            }
            if !self.line.is_free() {
                return Ok(None);
            }
            if self.reconnect && self.unit.is_none() {
                if self.line.commits() == 0 {
                    self.start_reconnect().await?;
                }
                return Ok(None);
            }
            let moved = match self.cut() {
                Some(Cut::Now) => self.may_commit() && self.commit().await?,
                Some(Cut::Idle) => self.take_next() || self.may_commit() && self.commit().await?,
                Some(Cut::At(_)) | None => self.take_next(),
            };
            if !moved {
                return Ok(None);
            }
        }
    }

    /// Whether the open unit is to be cut, and when.
    fn cut(&self) -> Option<Cut> {
        let unit = self.unit.as_ref().filter(|unit| !unit.is_empty())?;
        let policy = self.line.policy()?;
        let hard_end = self.hard_end(unit);
        let on = Circumstances {
            wait: self.order.linger.max(policy.age_max),
            force_before: self.books.flush_before(),
            pressed: self.pressed || self.reconnect || self.ending.is_some(),
            last: matches!(self.ending, Some(Ending::HalfClosed | Ending::Finish(_))),
            hard_end,
            planned_end: hard_end.filter(|_| self.ours),
            patience: PLANNED_END_PATIENCE,
        };
        Some(batch::when(unit, policy, &on, Instant::now()))
    }

    /// Whether the open unit may be handed over now. One with dead letters waits for those ahead: a record refused among them comes first in the numbering.
    fn may_commit(&self) -> bool {
        let letters = self.order.policy == RecordErrorPolicy::DeadLetter && self.unit.as_ref().is_some_and(|unit| unit.rejected > 0);
        self.line.may_commit() && (!letters || self.line.commits() == 0)
    }

    fn hard_end(&self, unit: &Unit) -> Option<Offset> {
        self.cuts.range(unit.first + 1..).next().copied()
    }

    /// Takes what comes next into the open unit; whether there was something.
    fn take_next(&mut self) -> bool {
        let tail = self.tail;
        let cursor = self.unit.as_ref().map_or(tail.next, |unit| unit.mark.next);
        match &self.ending {
            Some(Ending::Finish(Finish::Abort)) => return false,
            Some(Ending::Stopped(record)) if cursor >= record.offset => return false,
            _ => {}
        }
        let Some(item) = self.held.at(cursor) else { return false };
        if let Item::Bad(record) = &item
            && self.order.policy == RecordErrorPolicy::Stop
        {
            self.ending = Some(Ending::Stopped(record.clone()));
            return true;
        }
        let now = Instant::now();
        let mut unit = self.unit.take().unwrap_or_else(|| Unit::after(tail, now));
        let hard_end = self.hard_end(&unit);
        match item {
            // Dead letters are numbered in the order of their records, and the commit may still refuse one of those that the unit has.
            Item::Bad(_) if self.order.policy == RecordErrorPolicy::DeadLetter && unit.records > 0 => unit.full = true,
            Item::Bad(_) => unit.pass(1, now),
            Item::Gone(first, count) => unit.pass(hard_end.map_or(count, |end| count.min(end - first)), now),
            Item::Good(batch, bytes) => self.append(&mut unit, &batch, bytes, hard_end),
        }
        self.unit = Some(unit);
        true
    }

    /// Starts to append as much of `batch` as fits.
    fn append(&mut self, unit: &mut Unit, batch: &Batch, bytes: u64, hard_end: Option<Offset>) {
        let Some(policy) = self.line.policy() else { return };
        let room = batch::room(unit, policy, hard_end, batch, bytes).min(self.append_max);
        if room == 0 {
            unit.full = true;
            return;
        }
        let part = if room < batch.len() { batch.slice(0..room) } else { batch.clone() };
        if unit.traceparent.is_none() {
            unit.traceparent.clone_from(&part.traceparent);
        }
        self.stirred = Instant::now();
        self.line.append(part);
    }

    /// Hands the open unit to the target, after its dead letters.
    async fn commit(&mut self) -> Result<bool, Stop> {
        let Some(mut unit) = self.unit.take() else { return Ok(false) };
        if unit.rejected > 0 && !unit.buried && self.bury(&unit) {
            unit.buried = true;
            self.unit = Some(unit);
            return Ok(false);
        }
        if self.ours {
            // On disk before it is sent: after a crash the same records go under the same name.
            self.cuts.insert(unit.mark.next);
            if !self.cuts_on_disk.contains(&unit.mark.next) {
                self.save(Durable::Now).await?;
            }
        }
        tracing::debug!(first = unit.first, next = unit.mark.next, rejected = unit.rejected, "commit");
        unit.committed = Instant::now();
        self.stirred = unit.committed;
        self.tail = unit.mark;
        self.pressed = false;
        let span = tracing::info_span!("write", first = unit.first, next = unit.mark.next);
        if let Some(traceparent) = &unit.traceparent {
            (self.delivery.settings().link)(&span, traceparent);
        }
        self.line.commit(unit, span);
        Ok(true)
    }

    /// Starts to write the unit's dead letters, if the policy asks for that and there are any.
    fn bury(&mut self, unit: &Unit) -> bool {
        let Some(order) = self.order.dead_letters.as_deref().filter(|_| self.order.policy == RecordErrorPolicy::DeadLetter) else { return false };
        let mut dead = self.dead_letters.take().unwrap_or_else(|| DeadLetters::new(self.delivery.clone(), order.clone()));
        let rejected = self.held.rejected(unit.first, unit.mark.next);
        let letters = dead_letters::write(&self.order.stream, &self.order.sink, self.delivery.ambient().now(), &rejected);
        let first = unit.mark.rejected - unit.rejected;
        self.line.bury(async move {
            let result = dead.bury(first, letters).await;
            (dead, result)
        });
        true
    }

    /// Ends the session, or begins its last step, if everything that the end waits for is settled.
    fn end_if_settled(&mut self) -> Result<Option<Ended>, Stop> {
        let all = self.books.mark.next >= self.held.next();
        match &self.ending {
            Some(Ending::Stopped(record)) if self.books.mark.next >= record.offset => Err(Stop::Record(record.clone())),
            Some(Ending::HalfClosed) if all => Ok(Some(self.ended(EndReason::HalfClosed))),
            // The rest of an interrupted unit comes with the next session: cut shorter, it would go under a name that stands for more.
            Some(Ending::Drained) if all || self.ours && self.cuts.last().is_some_and(|end| *end > self.held.next()) => {
                Ok(Some(self.ended(EndReason::Drained)))
            }
            Some(Ending::Finish(Finish::Commit)) if all && self.line.commits() == 0 && self.line.is_free() => {
                self.stirred = Instant::now();
                self.line.finish(Finish::Commit, Mark { finished: true, ..self.books.mark });
                Ok(None)
            }
            Some(Ending::Finish(Finish::Abort)) if self.line.is_free() => {
                self.unit = None;
                self.stirred = Instant::now();
                self.line.finish(Finish::Abort, self.books.mark);
                Ok(None)
            }
            _ => Ok(None),
        }
    }

    // ---- from the target ----

    async fn on_line(&mut self, event: LineEvent) -> Result<Option<Ended>, Stop> {
        match event {
            LineEvent::Due => self.start_reconnect().await?,
            LineEvent::Opened(Ok(opened)) => return self.on_opened(opened).await,
            LineEvent::Opened(Err(error)) => self.line_failed(&error, None)?,
            LineEvent::Appended(writer, batch, Ok(appended)) => {
                Failpoint::Encoded.reached();
                self.line.free(writer);
                self.append_max = usize::MAX;
                // Where our note is the mark, no one compares hashes.
                let hashed = !self.ours;
                if let Some(unit) = &mut self.unit {
                    unit.take(&batch, hashed, Instant::now());
                    unit.full |= appended == Appended::Full;
                }
            }
            LineEvent::Appended(writer, batch, Err(error)) => self.append_failed(writer, &batch, &error)?,
            LineEvent::Buried(writer, dead, result) => {
                self.line.free(writer);
                self.dead_letters = Some(dead);
                let sink = self.order.dead_letters.as_ref().map_or(&self.order.sink.name, |order| &order.sink.name);
                result.map_err(|problem| problems::dead_letters(problem, sink))?;
                self.commit().await?;
            }
            LineEvent::Settled(unit, Ok(outcome)) => {
                Failpoint::Committed.reached();
                let now = Instant::now();
                self.meters.settled.record(now.duration_since(unit.committed));
                self.meters.ack_lag.record(now.duration_since(unit.opened));
                self.settle(unit.mark, outcome).await?;
            }
            LineEvent::Settled(unit, Err(error)) => self.line_failed(&error, Some(&unit))?,
            LineEvent::Finished(action, Ok(outcome)) => return self.on_finished(action, outcome).await.map(Some),
            LineEvent::Finished(_, Err(error)) => self.line_failed(&error, None)?,
        }
        Ok(None)
    }

    /// A unit is durable with its mark: book it, note it, tell it.
    async fn settle(&mut self, mark: Mark, outcome: Outcome) -> Result<(), Stop> {
        let before = self.books.mark;
        let now = self.delivery.ambient().now();
        if !outcome.artifacts.is_empty() {
            let over = outcome.artifacts.len().saturating_sub(limits::NOTED_RECEIPTS_MAX);
            self.note.receipts = outcome.artifacts[over..].to_vec();
        }
        self.books.settle(mark, outcome, now);
        self.meters.delivered.increment((mark.next - mark.rejected) - (before.next - before.rejected));
        self.meters.rejected.increment(mark.rejected - before.rejected);
        let rejected = self.held.release(mark.next);
        self.cuts.retain(|cut| *cut > mark.next);
        self.note.destination_generation = self.order.sink.destination_generation;
        self.note_settled(!rejected.is_empty()).await?;
        if !rejected.is_empty() {
            self.outbox.errors(report(&rejected, self.disposition()));
        }
        self.last_success = Some(now);
        if self.failures.clear() {
            self.tell_destination(DestinationState::Healthy, None, None);
        }
        self.pace_ack();
        self.delivery.measure();
        Ok(())
    }

    fn disposition(&self) -> Disposition {
        match self.order.policy {
            RecordErrorPolicy::DeadLetter => Disposition::DeadLettered,
            RecordErrorPolicy::Skip | RecordErrorPolicy::Stop => Disposition::Skipped,
        }
    }

    async fn on_finished(&mut self, action: Finish, outcome: Outcome) -> Result<Ended, Stop> {
        let now = self.delivery.ambient().now();
        match action {
            Finish::Commit => self.books.settle(Mark { finished: true, ..self.books.mark }, outcome, now),
            // Nothing is left of the stream, so it may begin anew.
            Finish::Abort => self.books = Books { duplicates: self.books.duplicates, ..Books::default() },
        }
        self.save(if self.ours { Durable::Now } else { Durable::Soon }).await?;
        Ok(self.ended(if action == Finish::Commit { EndReason::Committed } else { EndReason::Aborted }))
    }

    /// The writer refused the batch, or failed.
    fn append_failed(&mut self, writer: Box<dyn SinkWriter>, batch: &Batch, error: &ConnectorError) -> Result<(), Stop> {
        if error.class != ErrorClass::Record {
            drop(writer);
            return self.line_failed(error, None);
        }
        self.line.free(writer);
        let range = batch.first_offset..batch.next_offset();
        let named: Vec<_> = error.records.iter().filter(|(offset, _)| range.contains(offset)).cloned().collect();
        if self.held.reject(&named) > 0 {
            self.append_max = usize::MAX;
        } else if batch.len() == 1 {
            self.held.reject(&[(batch.first_offset, problems::fault_of(error))]);
            self.append_max = usize::MAX;
        } else {
            self.append_max = batch.len() / 2;
        }
        Ok(())
    }

    /// The writer is worth nothing any more: what is not settled will be appended again, to a new one.
    fn line_failed(&mut self, error: &ConnectorError, unit: Option<&Unit>) -> Result<(), Stop> {
        let now = Instant::now();
        self.unit = None;
        self.tail = self.books.mark;
        self.line = Line::Waiting(now);
        tracing::warn!(kind = ?error.kind, %error, next = self.books.mark.next, "the destination failed");
        match (self.failures.decide(error, self.order.wait_timeout, now, &*self.delivery.ambient().ids), unit) {
            (Decision::Isolate, Some(unit)) if self.isolate(unit, error) => Ok(()),
            (Decision::Fenced, _) => Err(problems::fenced(&self.order.stream, self.note.epoch, None, None).into()),
            (Decision::Refuse | Decision::Isolate, _) => {
                let problem = self.problem(error);
                self.tell_destination(DestinationState::Refused, Some(problem.clone()), None);
                Err(problem.into())
            }
            (Decision::GiveUp(pause), _) => {
                let problem = self.problem(error);
                let pause = problem.retry_after.map_or(pause, |advised| advised.max(pause));
                Err(problem.with("attempts", self.failures.attempts().to_string()).retry_after(pause).into())
            }
            (Decision::Wait(pause), _) => {
                let state = if error.kind == ConnectorErrorKind::Throttled { DestinationState::Throttled } else { DestinationState::Retrying };
                self.tell_destination(state, Some(self.problem(error)), Some(pause));
                self.line = Line::Waiting(now + pause);
                Ok(())
            }
        }
    }

    /// A record of the unit can never be taken: reject those that are named, or cut smaller to find it. Whether that leads anywhere.
    fn isolate(&mut self, unit: &Unit, error: &ConnectorError) -> bool {
        let (from, to) = (unit.first, unit.mark.next);
        let named: Vec<_> = error.records.iter().filter(|(offset, _)| (from..to).contains(offset)).cloned().collect();
        if self.held.reject(&named) > 0 {
            if self.ours {
                // After a crash the records are refused again, so what stands before each of them is a unit that can be cut alike.
                self.cuts.extend(named.iter().map(|(offset, _)| *offset).filter(|offset| *offset > from));
            }
            return true;
        }
        let Some(first) = self.held.first_good(from, to) else { return false };
        match self.held.middle(from, to) {
            Some(middle) => self.cuts.extend([middle, to]),
            None => {
                self.held.reject(&[(first, problems::fault_of(error))]);
            }
        }
        true
    }

    fn problem(&self, error: &ConnectorError) -> Problem {
        let sink = &self.order.sink;
        problem_of(error, Occasion::Session { next_offset: self.books.mark.next }, &sink.name, &sink.destination)
    }

    // ---- a new connection ----

    /// Opens again, with an epoch of its own.
    async fn start_reconnect(&mut self) -> Result<(), Stop> {
        self.reconnect = false;
        if let Err(error) = self.claim_epoch().await {
            return self.line_failed(&error, None);
        }
        self.stirred = Instant::now();
        let (order, epoch, terms) = (self.order.clone(), self.note.epoch, open::terms(&self.order, &self.note()));
        self.line = Line::Connecting(async move { open::connect(&order, epoch, &terms).await }.boxed());
        Ok(())
    }

    async fn on_opened(&mut self, opened: Opened) -> Result<Option<Ended>, Stop> {
        tracing::debug!(epoch = %opened.epoch, mark = ?opened.mark, next = self.books.mark.next, "opened again");
        self.note.epoch = self.note.epoch.max(opened.epoch);
        let found = opened.mark;
        self.line = Line::open(opened.writer, opened.units, self.ours);
        let finishing = matches!(self.ending, Some(Ending::Finish(_)));
        let aborting = matches!(self.ending, Some(Ending::Finish(Finish::Abort)));
        match found {
            FoundMark::NotKept => {}
            _ if aborting => {}
            FoundMark::Missing if self.books.mark.next > self.books.noted => return Err(self.went_back(0)),
            FoundMark::At(mark) if mark.next < self.books.mark.next && self.books.mark.next > self.books.noted => return Err(self.went_back(mark.next)),
            FoundMark::At(mark) if mark.next > self.books.mark.next || mark.finished => self.adopt(mark).await?,
            FoundMark::Missing | FoundMark::At(_) => {}
        }
        self.tail = self.books.mark;
        if self.books.mark.finished {
            return Ok(Some(self.ended(EndReason::Committed)));
        }
        // With nothing to write, a connection is all the health that can be seen.
        if self.held.next() == self.books.mark.next && !finishing && self.failures.clear() {
            self.tell_destination(DestinationState::Healthy, None, None);
        }
        self.publish();
        Ok(None)
    }

    /// The target has less than was settled.
    fn went_back(&self, is: Offset) -> Stop {
        let stream = &self.order.stream;
        if self.order.commit_mode == CommitMode::OnFinish && is == 0 {
            return problems::rolled_back(stream).into();
        }
        problems::went_back(stream, &self.order.sink, WentBack { was: self.books.mark.next, is }).into()
    }

    /// The target has more than was settled: a unit whose outcome was unknown, or another writer's. It counts if it is what our sender sends.
    async fn adopt(&mut self, mark: Mark) -> Result<(), Stop> {
        let from = self.books.mark;
        let known_rejected = self.held.rejected(from.next, mark.next).len() as u64;
        let runs = self.held.runs_before(from.next, mark.next).filter(|_| mark.hash != 0 && mark.rejected - from.rejected == known_rejected);
        if let Some(runs) = runs {
            let mut hash = RollingHash::from_value(from.hash);
            for batch in &runs {
                let _ = batch.advance(&mut hash);
            }
            if hash.value() != mark.hash {
                return Err(problems::other_data(&self.order.stream, from.next, mark.next).into());
            }
        }
        self.settle(mark, Outcome::default()).await
    }

    // ---- telling ----

    fn tell_destination(&mut self, state: DestinationState, problem: Option<Problem>, pause: Option<Duration>) {
        let status = DestinationStatus {
            state,
            problem,
            attempt: self.failures.attempts(),
            next_attempt: pause.map(|pause| self.delivery.ambient().now().plus(pause)),
            last_success: self.last_success,
        };
        self.destination = Some(status.clone());
        self.outbox.destination(status);
        self.publish();
    }

    /// What others see of the session.
    fn publish(&self) {
        if let Some(live) = &mut *locked(&self.place.entry.live) {
            live.epoch = self.note.epoch;
            live.next_offset = self.books.mark.next;
            live.counts = self.books.counts();
            live.destination.clone_from(&self.destination);
            live.acknowledged = self.books.acknowledged;
        }
    }

    // ---- the end ----

    fn ended(&mut self, reason: EndReason) -> Ended {
        Ended {
            reason,
            next_offset: self.books.mark.next,
            counts: self.books.counts(),
            artifacts: std::mem::take(&mut self.books.artifacts),
            resumable: !self.order.ephemeral && matches!(reason, EndReason::HalfClosed | EndReason::Drained),
        }
    }

    /// Leaves nothing of the open unit and notes how far it came.
    async fn wind_up(&mut self) {
        let line = std::mem::replace(&mut self.line, Line::Waiting(Instant::now()));
        if let Some(mut writer) = line.into_writer() {
            let _ = timeout(ABANDON_TIMEOUT, writer.abandon()).await;
        }
        if let Err(Stop::Failed(problem)) = self.save(Durable::Soon).await {
            tracing::debug!(%problem, "the last note was not taken");
        }
        self.meters.sessions.decrement(1);
        self.delivery.measure();
    }

    fn last_events(&self, result: Result<Ended, Stop>) -> Vec<Event> {
        match result {
            Ok(ended) => vec![Event::Ended(ended)],
            Err(Stop::Failed(problem)) => vec![Event::Failed(problem)],
            Err(Stop::Record(record)) => {
                let errors = report(std::slice::from_ref(&record), Disposition::Stopped);
                vec![Event::RecordErrors(errors), Event::Failed(problems::stopped_at(&record))]
            }
            Err(Stop::Lost) => Vec::new(),
        }
    }
}

/// The frame for rejected records, capped.
fn report(rejected: &[RejectedRecord], disposition: Disposition) -> RecordErrors {
    let listed = rejected.iter().take(limits::RECORD_ERRORS_PER_FRAME_MAX);
    let errors: Vec<RecordError> =
        listed.map(|record| RecordError { offset: record.offset, index: record.index, fault: record.fault.clone(), disposition }).collect();
    let more = (rejected.len() - errors.len()) as u64;
    RecordErrors { errors, more }
}
