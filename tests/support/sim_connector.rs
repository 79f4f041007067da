//! Why: a destination that lives in memory, fails on command and sees everything, so that promises of delivery can be tested without a network. Never used by the product.
//!
//! [`SimTarget`] is the destination: it outlives crashes of the server. It stands for one of three families (and for none: [`Family::Discard`]), takes faults from a script or a seed,
//! and can be told to lie, so that a test can show that its own checks would notice.
#![allow(dead_code, reason = "each of the test crates that include this file uses another part of it")]

use std::{
    collections::{BTreeMap, VecDeque},
    fmt,
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use datasink::{
    clock::{Ambient, Clock, Ids, Timestamp},
    connectors::{
        connector::{
            Appended, Artifact, CommitMode, ConnectContext, Connector, Delivery as Announced, Descriptor, Epoch, Finish, FoundMark, Guarantee, Guide, Kind,
            Mark, Opened, Outcome, Probe, Settlement, SinkKind, SinkWriter, StreamId, Terms, UnitPolicy,
        },
        credential::CredentialType,
        destination::Destination,
        egress::{Egress, EgressPolicy},
        error::{ConnectorError, ConnectorErrorKind, Retry},
        options::{ConfigFault, Options},
    },
    delivery::{Connections, Durable, Incoming, Input, Kept, OpenOrder, Progress, RecordErrorPolicy, SinkSnapshot, Source, Window, WriterIdentity},
    name::{QualifiedName, StreamName},
    problem::{Problem, Reason},
    record::{Batch, Encoding, Ndjson, Offset, Piece, RecordFault, RecordFaultKind, Records},
};
use uuid::Uuid;

/// A small generator of reproducible numbers (SplitMix64).
#[derive(Debug, Clone)]
pub(crate) struct Rng(u64);

impl Rng {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `bound`, which is not 0.
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    /// Whether something of `percent` probability happens.
    pub(crate) fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }
}

/// How a destination keeps progress.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Family {
    /// Records, mark and fence in one transaction.
    Transaction,
    /// Objects that appear whole, named by their first offset, created only if absent; the mark is in the last one.
    Objects,
    /// A receiver that de-duplicates by id; keeps no mark.
    Receiver,
    /// Takes everything and keeps nothing but the mark.
    Discard,
}

/// What one operation at the target does instead of succeeding.
#[derive(Debug, Clone)]
pub(crate) enum Fault {
    /// Takes this long, then succeeds.
    Delay(Duration),
    /// Never answers.
    Hang,
    /// Fails without effect.
    Before(ConnectorErrorKind),
    /// The effect happens, the reply is lost.
    ReplyLost,
    /// Asks to slow down, without effect.
    Throttled(Duration),
}

/// Ways in which a target can be worse than it says. A test that passes over one of them tests nothing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Lies {
    /// Every n-th commit is reported durable and is not; 0: never.
    pub(crate) loses_every: u64,
    /// Commits of older epochs are taken.
    pub(crate) ignores_fence: bool,
    /// Every n-th commit's records are there twice; 0: never. A transaction's target only, as the next two.
    pub(crate) repeats_every: u64,
    /// The mark is written after the records, in a second step: a commit whose reply is lost has moved only the records.
    pub(crate) marks_apart: bool,
    /// Records can be seen as soon as they are appended.
    pub(crate) shows_early: bool,
}

/// Random faults.
#[derive(Debug, Clone)]
struct Chaos {
    rng: Rng,
    /// Out of a hundred operations.
    percent: u64,
    /// How many faults are left: in the end every target recovers.
    left: u64,
}

/// A visible record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Visible {
    pub(crate) offset: Offset,
    pub(crate) epoch: u64,
    pub(crate) text: Bytes,
}

/// A unit on its way to the target.
#[derive(Debug, Clone)]
struct Unit {
    stream: StreamId,
    epoch: u64,
    /// Where its predecessor ended: an object's name.
    at: Offset,
    records: Vec<(Offset, Bytes)>,
    mark: Mark,
    mode: CommitMode,
}

#[derive(Debug, Clone)]
struct Object {
    unit: Unit,
}

#[derive(Debug, Default)]
struct Stream {
    epoch: u64,
    /// Every epoch that was granted and how many records were visible by then.
    granted: Vec<(u64, usize)>,
    mark: Option<Mark>,
    visible: Vec<Visible>,
    /// ON_FINISH: durable, not visible.
    staged: Vec<Visible>,
    objects: BTreeMap<Offset, Object>,
    /// Receiver: bodies by id.
    received: BTreeMap<Offset, Vec<(Offset, Bytes)>>,
    /// Receiver: one id came with two bodies.
    conflicts: u64,
}

struct State {
    family: Family,
    units: UnitPolicy,
    streams: BTreeMap<StreamId, Stream>,
    opens: VecDeque<Fault>,
    appends: VecDeque<Fault>,
    commits: VecDeque<Fault>,
    chaos: Option<Chaos>,
    lies: Lies,
    /// Whether records can be refused at all.
    picky: bool,
    committed: u64,
    replies_lost: u64,
    /// Requests whose sender is gone: they may still arrive.
    in_the_wire: Vec<(u64, Unit)>,
    log: Vec<String>,
}

/// A destination in memory.
pub(crate) struct SimTarget(Mutex<State>);

impl fmt::Debug for SimTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SimTarget").field("family", &self.state().family).finish_non_exhaustive()
    }
}

impl SimTarget {
    pub(crate) fn new(family: Family) -> Arc<Self> {
        let units = UnitPolicy { records_max: 1_000, bytes_max: 1 << 20, age_max: Duration::ZERO, idle_max: Duration::ZERO, commits_in_flight: 1 };
        Arc::new(Self(Mutex::new(State {
            family,
            units,
            streams: BTreeMap::new(),
            opens: VecDeque::new(),
            appends: VecDeque::new(),
            commits: VecDeque::new(),
            chaos: None,
            lies: Lies::default(),
            picky: true,
            committed: 0,
            replies_lost: 0,
            in_the_wire: Vec::new(),
            log: Vec::new(),
        })))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn units(self: &Arc<Self>, units: UnitPolicy) -> Arc<Self> {
        self.state().units = units;
        self.clone()
    }

    pub(crate) fn chaos(&self, seed: u64, percent: u64, faults: u64) {
        self.state().chaos = Some(Chaos { rng: Rng::new(seed), percent, left: faults });
    }

    /// Takes every record, also one that tells of a refusal, as a dead letter does.
    pub(crate) fn takes_everything(self: &Arc<Self>) -> Arc<Self> {
        self.state().picky = false;
        self.clone()
    }

    pub(crate) fn lie(&self, lies: Lies) {
        self.state().lies = lies;
    }

    pub(crate) fn at_next_open(&self, fault: Fault) {
        self.state().opens.push_back(fault);
    }

    pub(crate) fn at_next_append(&self, fault: Fault) {
        self.state().appends.push_back(fault);
    }

    pub(crate) fn at_next_commit(&self, fault: Fault) {
        self.state().commits.push_back(fault);
    }

    /// No script and no chance any more.
    pub(crate) fn calm(&self) {
        let mut state = self.state();
        state.chaos = None;
        state.opens.clear();
        state.appends.clear();
        state.commits.clear();
    }

    /// The records of a stream that a reader sees, in the target's order.
    pub(crate) fn visible(&self, stream: &StreamId) -> Vec<Visible> {
        self.state().streams.get(stream).map(|stream| stream.visible.clone()).unwrap_or_default()
    }

    /// The same with the records that are durable and wait for finish to be seen.
    pub(crate) fn durable(&self, stream: &StreamId) -> Vec<Visible> {
        let state = self.state();
        let Some(stream) = state.streams.get(stream) else { return Vec::new() };
        stream.visible.iter().chain(&stream.staged).cloned().collect()
    }

    /// Everything that a reader sees, stream by stream.
    pub(crate) fn everything(&self) -> Vec<(StreamId, Vec<Visible>)> {
        self.state().streams.iter().map(|(id, stream)| (id.clone(), stream.visible.clone())).collect()
    }

    /// How many commits took effect and did not say so.
    pub(crate) fn replies_lost(&self) -> u64 {
        self.state().replies_lost
    }

    /// The offsets of [`Self::visible`].
    pub(crate) fn offsets(&self, stream: &StreamId) -> Vec<Offset> {
        self.visible(stream).iter().map(|visible| visible.offset).collect()
    }

    pub(crate) fn granted(&self, stream: &StreamId) -> Vec<(u64, usize)> {
        self.state().streams.get(stream).map(|stream| stream.granted.clone()).unwrap_or_default()
    }

    pub(crate) fn conflicts(&self, stream: &StreamId) -> u64 {
        self.state().streams.get(stream).map_or(0, |stream| stream.conflicts)
    }

    /// How many units were made durable, or are said to be.
    pub(crate) fn commits(&self) -> u64 {
        self.state().committed
    }

    /// Sizes of the units of a receiver or of the objects, in order.
    pub(crate) fn unit_sizes(&self, stream: &StreamId) -> Vec<usize> {
        let state = self.state();
        let Some(stream) = state.streams.get(stream) else { return Vec::new() };
        let objects = stream.objects.values().map(|object| object.unit.records.len());
        objects.chain(stream.received.values().map(Vec::len)).collect()
    }

    /// The target is restored from a backup: what came from `to` on is gone.
    pub(crate) fn go_back(&self, stream: &StreamId, to: Option<Mark>) {
        let mut state = self.state();
        if let Some(stream) = state.streams.get_mut(stream) {
            let next = to.map_or(0, |mark| mark.next);
            stream.mark = to;
            stream.visible.retain(|visible| visible.offset < next);
            stream.staged.retain(|staged| staged.offset < next);
            stream.objects.retain(|first, _| *first < next);
        }
    }

    /// Another owner of the stream's name committed this unit.
    pub(crate) fn plant(&self, stream: &StreamId, at: Offset, records: Vec<(Offset, Bytes)>, mark: Mark) {
        let unit = Unit { stream: stream.clone(), epoch: u64::MAX, at, records, mark, mode: CommitMode::Continuous };
        self.state().create(&unit).expect("the name is free");
    }

    pub(crate) fn log(&self) -> Vec<String> {
        self.state().log.clone()
    }
}

impl State {
    /// What the next operation is to do: the script first, then chance.
    fn fault(&mut self, script: fn(&mut Self) -> &mut VecDeque<Fault>, may_lose_reply: bool) -> Option<Fault> {
        if let Some(fault) = script(self).pop_front() {
            return Some(fault);
        }
        let chaos = self.chaos.as_mut().filter(|chaos| chaos.left > 0)?;
        if !chaos.rng.chance(chaos.percent) {
            return None;
        }
        chaos.left -= 1;
        Some(match chaos.rng.below(if may_lose_reply { 7 } else { 5 }) {
            0 | 1 => Fault::Delay(Duration::from_millis(chaos.rng.below(3_000))),
            2 => Fault::Before(ConnectorErrorKind::Unreachable),
            3 => Fault::Throttled(Duration::from_millis(chaos.rng.below(2_000))),
            4 => Fault::Before(ConnectorErrorKind::TimedOut),
            5 => Fault::Before(ConnectorErrorKind::Unknown),
            _ => Fault::ReplyLost,
        })
    }

    /// Late requests arrive in their own time.
    fn tick(&mut self) {
        let mut due = Vec::new();
        self.in_the_wire.retain_mut(|(wait, unit)| {
            *wait = wait.saturating_sub(1);
            if *wait == 0 {
                due.push(unit.clone());
            }
            *wait > 0
        });
        for unit in due {
            let result = self.apply(&unit);
            self.log.push(format!("late {}..{} of epoch {}: {}", unit.at, unit.mark.next, unit.epoch, result.is_ok()));
        }
    }

    fn apply(&mut self, unit: &Unit) -> Result<Outcome, ConnectorError> {
        if let Some(error) = self.refusal(&unit.records, REFUSED_AT_COMMIT) {
            return Err(error);
        }
        if let Some(error) = self.refusal(&unit.records, REFUSED_SILENTLY) {
            return Err(ConnectorError { records: Vec::new(), ..error });
        }
        self.committed += 1;
        if self.lies.loses_every > 0 && self.committed.is_multiple_of(self.lies.loses_every) {
            return Ok(outcome(unit));
        }
        self.log.push(format!("commit {}..{} of epoch {}", unit.at, unit.mark.next, unit.epoch));
        match self.family {
            Family::Transaction | Family::Discard => self.transact(unit),
            Family::Objects => self.create(unit),
            Family::Receiver => self.receive(unit),
        }
    }

    fn transact(&mut self, unit: &Unit) -> Result<Outcome, ConnectorError> {
        let keep = self.family != Family::Discard;
        let Lies { ignores_fence, repeats_every, shows_early, .. } = self.lies;
        let times = if repeats_every > 0 && self.committed.is_multiple_of(repeats_every) { 2 } else { usize::from(!shows_early) };
        let stream = self.streams.entry(unit.stream.clone()).or_default();
        if unit.epoch != stream.epoch && !ignores_fence {
            let newer = ConnectorError::new(ConnectorErrorKind::Fenced, format!("epoch {} has the stream", stream.epoch));
            return Err(newer.with("current_epoch", stream.epoch.to_string()));
        }
        stream.mark = Some(unit.mark);
        if keep {
            let records = unit.records.iter().map(|(offset, text)| Visible { offset: *offset, epoch: unit.epoch, text: text.clone() });
            let place = if unit.mode == CommitMode::OnFinish { &mut stream.staged } else { &mut stream.visible };
            for _ in 0..times {
                place.extend(records.clone());
            }
        }
        Ok(outcome(unit))
    }

    fn create(&mut self, unit: &Unit) -> Result<Outcome, ConnectorError> {
        let stream = self.streams.entry(unit.stream.clone()).or_default();
        if let Some(there) = stream.objects.get(&unit.at) {
            let own = there.unit.mark == unit.mark && there.unit.records == unit.records;
            return if own { Ok(outcome(unit)) } else { Err(ConnectorError::new(ConnectorErrorKind::Unknown, format!("object {:020} exists", unit.at))) };
        }
        stream.objects.insert(unit.at, Object { unit: unit.clone() });
        let records = unit.records.iter().map(|(offset, text)| Visible { offset: *offset, epoch: unit.epoch, text: text.clone() });
        let place = if unit.mode == CommitMode::OnFinish { &mut stream.staged } else { &mut stream.visible };
        place.extend(records);
        Ok(outcome(unit))
    }

    fn receive(&mut self, unit: &Unit) -> Result<Outcome, ConnectorError> {
        let stream = self.streams.entry(unit.stream.clone()).or_default();
        let Some((id, _)) = unit.records.first() else { return Ok(outcome(unit)) };
        match stream.received.get(id) {
            Some(body) if *body != unit.records => stream.conflicts += 1,
            Some(_) => {}
            None => {
                stream.received.insert(*id, unit.records.clone());
                stream.visible.extend(unit.records.iter().map(|(offset, text)| Visible { offset: *offset, epoch: unit.epoch, text: text.clone() }));
            }
        }
        Ok(outcome(unit))
    }

    /// Fences, then reads the mark.
    fn open(&mut self, id: &StreamId, asked: Epoch) -> (u64, FoundMark) {
        let family = self.family;
        let stream = self.streams.entry(id.clone()).or_default();
        let seen = if family == Family::Receiver { 0 } else { stream.epoch };
        stream.epoch = asked.0.max(seen + 1);
        stream.granted.push((stream.epoch, stream.visible.len()));
        let mark = match family {
            Family::Receiver => FoundMark::NotKept,
            Family::Transaction | Family::Discard => stream.mark.map_or(FoundMark::Missing, FoundMark::At),
            Family::Objects => chain_end(stream).map_or(FoundMark::Missing, FoundMark::At),
        };
        let epoch = stream.epoch;
        self.log.push(format!("open {} with epoch {epoch}: {mark:?}", id.name));
        (epoch, mark)
    }

    fn finish(&mut self, id: &StreamId, epoch: u64, action: Finish, mark: Mark) -> Result<Outcome, ConnectorError> {
        self.log.push(format!("finish {action:?} at {} of epoch {epoch}", mark.next));
        let (ignores_fence, fenced) = (self.lies.ignores_fence, self.family == Family::Transaction);
        let stream = self.streams.entry(id.clone()).or_default();
        if fenced && epoch != stream.epoch && !ignores_fence {
            return Err(ConnectorError::new(ConnectorErrorKind::Fenced, format!("epoch {} has the stream", stream.epoch)));
        }
        let staged = std::mem::take(&mut stream.staged);
        match action {
            Finish::Commit => {
                stream.visible.extend(staged);
                stream.mark = Some(mark);
            }
            Finish::Abort => {
                stream.mark = None;
                stream.objects.clear();
            }
        }
        Ok(Outcome::default())
    }
}

/// The end of the chain of objects: each begins where the one before ended. The final mark lies beside them.
fn chain_end(stream: &Stream) -> Option<Mark> {
    if let Some(mark) = stream.mark.filter(|mark| mark.finished) {
        return Some(mark);
    }
    let (mut at, mut end) = (0, None);
    while let Some(object) = stream.objects.get(&at) {
        end = Some(object.unit.mark);
        if object.unit.mark.next == at {
            break;
        }
        at = object.unit.mark.next;
    }
    end
}

fn outcome(unit: &Unit) -> Outcome {
    let bytes = unit.records.iter().map(|(_, text)| text.len() as u64 + 1).sum();
    let artifact = unit.records.first().map(|(first, _)| Artifact {
        uri: format!("sim://{}/{first:020}", unit.stream.name),
        first_offset: *first,
        record_count: unit.records.len() as u64,
        byte_count: bytes,
        attributes: Vec::new(),
    });
    Outcome { artifacts: artifact.into_iter().collect(), bytes }
}

/// The connector over a [`SimTarget`].
#[derive(Debug)]
pub(crate) struct SimConnector(pub(crate) Arc<SimTarget>);

#[async_trait]
impl Connector for SimConnector {
    fn accepts(&self, _: CredentialType) -> bool {
        true
    }

    async fn probe(&self, cx: &ConnectContext, _: bool) -> Probe {
        Probe { steps: Vec::new(), checked: cx.ambient.now() }
    }

    async fn open(&self, _: &ConnectContext, stream: &StreamId, epoch: Epoch, terms: &Terms) -> Result<Opened, ConnectorError> {
        let fault = {
            let mut state = self.0.state();
            state.tick();
            state.fault(|state| &mut state.opens, false)
        };
        if let Some(fault) = fault {
            suffer(fault).await?;
        }
        let mut state = self.0.state();
        let (epoch, mark) = state.open(stream, epoch);
        let at = if let FoundMark::At(mark) = mark { mark.next } else { terms.noted.mark.next };
        let writer = SimWriter {
            target: self.0.clone(),
            stream: stream.clone(),
            epoch,
            mode: terms.commit_mode,
            at,
            unit: Vec::new(),
            taken: 0,
            whole: Arc::new(tokio::sync::Mutex::new(true)),
        };
        let guarantee = if state.family == Family::Receiver { Guarantee::Idempotent } else { Guarantee::ExactlyOnce };
        Ok(Opened {
            writer: Box::new(writer),
            epoch: Epoch(epoch),
            mark,
            delivery: Announced { guarantee, basis: "kept in memory".to_owned() },
            takes: Encoding::Ndjson,
            schema: None,
            units: state.units,
        })
    }
}

/// Waits or fails as the fault says; a lost reply is the caller's affair.
async fn suffer(fault: Fault) -> Result<(), ConnectorError> {
    match fault {
        Fault::Delay(delay) => tokio::time::sleep(delay).await,
        Fault::Hang => std::future::pending().await,
        Fault::Before(kind) => return Err(ConnectorError::new(kind, "the target failed as it was told to")),
        Fault::Throttled(pause) => {
            return Err(ConnectorError::new(ConnectorErrorKind::Throttled, "the target was told to throttle").retry(Retry::After(pause)));
        }
        Fault::ReplyLost => {}
    }
    Ok(())
}

struct SimWriter {
    target: Arc<SimTarget>,
    stream: StreamId,
    epoch: u64,
    mode: CommitMode,
    at: Offset,
    unit: Vec<(Offset, Bytes)>,
    taken: u64,
    /// Whether every commit so far was taken; commits take effect one after the other.
    whole: Arc<tokio::sync::Mutex<bool>>,
}

/// A commit request: if nobody waits for the answer any more it may arrive late, or never.
struct InFlight {
    target: Arc<SimTarget>,
    unit: Option<Unit>,
}

impl Drop for InFlight {
    fn drop(&mut self) {
        let Some(unit) = self.unit.take() else { return };
        let mut state = self.target.state();
        if let Some(chaos) = &mut state.chaos
            && chaos.rng.chance(50)
        {
            let wait = 1 + chaos.rng.below(4);
            state.in_the_wire.push((wait, unit));
        }
    }
}

/// One commit request and its answer.
async fn commit(target: &Arc<SimTarget>, unit: Unit) -> Result<Outcome, ConnectorError> {
    let mut in_flight = InFlight { target: target.clone(), unit: Some(unit.clone()) };
    let (fault, at_once) = {
        let mut state = target.state();
        state.tick();
        let fault = state.fault(|state| &mut state.commits, true);
        (fault, state.chaos.as_mut().is_some_and(|chaos| chaos.rng.chance(50)))
    };
    let reply_lost = matches!(fault, Some(Fault::ReplyLost));
    match fault {
        Some(fault) => suffer(fault).await.inspect_err(|error| {
            // An error that leaves the outcome open may be followed by the effect.
            if error.kind != ConnectorErrorKind::Unknown {
                in_flight.unit = None;
            }
        })?,
        // Many a destination is faster than acks are told.
        None if at_once => tokio::task::yield_now().await,
        // A commit takes a moment, in which anything may happen.
        None => tokio::time::sleep(Duration::from_millis(1)).await,
    }
    in_flight.unit = None;
    let result = {
        let mut state = target.state();
        let before = state.streams.get(&unit.stream).and_then(|stream| stream.mark);
        let result = state.apply(&unit);
        state.replies_lost += u64::from(reply_lost);
        if reply_lost && state.lies.marks_apart {
            state.streams.entry(unit.stream).or_default().mark = before;
        }
        result
    };
    if reply_lost { Err(ConnectorError::new(ConnectorErrorKind::Unknown, "the reply was lost")) } else { result }
}

/// A record says by its own text how the target refuses it.
pub(crate) const REFUSED_AT_APPEND: &str = "refused-at-append";
/// See [`REFUSED_AT_APPEND`].
pub(crate) const REFUSED_AT_COMMIT: &str = "refused-at-commit";
/// Refused without saying which record it was.
pub(crate) const REFUSED_SILENTLY: &str = "refused-silently";
/// Not JSON: refused before it comes here.
pub(crate) const UNPARSABLE: &str = "unparsable";

fn says(text: &[u8], word: &str) -> bool {
    text.windows(word.len()).any(|window| window == word.as_bytes())
}

fn fault(text: &str) -> RecordFault {
    RecordFault { kind: RecordFaultKind::Invalid, message: format!("the target refuses it: {text}"), column: Some("x".to_owned()) }
}

impl State {
    /// The refusal of those records that say `word`.
    fn refusal(&self, records: &[(Offset, Bytes)], word: &str) -> Option<ConnectorError> {
        let refused = records.iter().filter(|(_, text)| self.picky && says(text, word));
        refused.fold(None, |error: Option<ConnectorError>, (offset, _)| {
            let error = error.unwrap_or_else(|| ConnectorError::new(ConnectorErrorKind::Rejected, "the target refused records"));
            Some(error.record(*offset, fault(word)))
        })
    }
}

#[async_trait]
impl SinkWriter for SimWriter {
    async fn append(&mut self, batch: &Batch) -> Result<Appended, ConnectorError> {
        let fault = {
            let mut state = self.target.state();
            state.tick();
            // Nothing counts yet, so a reply cannot be lost here.
            state.fault(|state| &mut state.appends, false)
        };
        if let Some(fault) = fault {
            suffer(fault).await?;
        }
        let Records::Ndjson(lines) = &batch.records else { return Err(ConnectorError::new(ConnectorErrorKind::Internal, "not the encoding asked for")) };
        let records: Vec<(Offset, Bytes)> = (batch.first_offset..).zip((0..lines.len()).map(|index| lines.line(index))).collect();
        if let Some(error) = self.target.state().refusal(&records, REFUSED_AT_APPEND) {
            return Err(error);
        }
        let mut state = self.target.state();
        if state.lies.shows_early {
            let seen = records.iter().map(|(offset, text)| Visible { offset: *offset, epoch: self.epoch, text: text.clone() });
            state.streams.entry(self.stream.clone()).or_default().visible.extend(seen);
        }
        if state.family == Family::Discard {
            self.taken += records.len() as u64;
        } else {
            self.unit.extend(records);
        }
        Ok(Appended::Room)
    }

    fn commit(&mut self, mark: Mark) -> Settlement {
        let records = std::mem::take(&mut self.unit);
        let unit = Unit { stream: self.stream.clone(), epoch: self.epoch, at: self.at, records, mark, mode: self.mode };
        self.at = mark.next;
        let (target, whole) = (self.target.clone(), self.whole.clone());
        Box::pin(async move {
            let mut whole = whole.lock().await;
            if !*whole {
                return Err(ConnectorError::new(ConnectorErrorKind::Unknown, "a unit ahead of this one failed"));
            }
            let result = commit(&target, unit).await;
            *whole = result.is_ok();
            result
        })
    }

    async fn abandon(&mut self) {
        self.unit.clear();
    }

    async fn finish(self: Box<Self>, action: Finish, mark: Mark) -> Result<Outcome, ConnectorError> {
        let fault = {
            let mut state = self.target.state();
            state.tick();
            state.fault(|state| &mut state.commits, true)
        };
        let reply_lost = matches!(fault, Some(Fault::ReplyLost));
        if let Some(fault) = fault {
            suffer(fault).await?;
        }
        let result = self.target.state().finish(&self.stream, self.epoch, action, mark);
        if reply_lost { Err(ConnectorError::new(ConnectorErrorKind::Unknown, "the reply was lost")) } else { result }
    }
}

/// The row of a table of kinds whose connectors all write to one [`SimTarget`].
#[derive(Debug)]
pub(crate) struct SimKind(pub(crate) Arc<SimTarget>);

static DESCRIPTOR: Descriptor = Descriptor {
    kind: SinkKind::Webhook,
    schemes: &["http", "https"],
    example_destination: "https://receiver",
    options: &[],
    credential_types: &[],
    guarantee: Guarantee::ExactlyOnce,
    commit_on_finish: true,
    unavailable: None,
    guide: Guide::NONE,
};

impl Kind for SimKind {
    fn descriptor(&self) -> &'static Descriptor {
        &DESCRIPTOR
    }

    fn configure(&self, _: &Destination, _: &Options) -> Result<Arc<dyn Connector>, Vec<ConfigFault>> {
        Ok(Arc::new(SimConnector(self.0.clone())))
    }
}

// ---- what a session needs around it ----

/// A clock that follows `tokio::time`, so that a paused runtime pauses it.
#[derive(Debug)]
struct SimClock;

impl Clock for SimClock {
    fn now(&self) -> Timestamp {
        static START: OnceLock<tokio::time::Instant> = OnceLock::new();
        let since = tokio::time::Instant::now().saturating_duration_since(*START.get_or_init(tokio::time::Instant::now));
        Timestamp::from_micros(1_700_000_000_000_000).plus(since)
    }
}

/// Reproducible ids.
#[derive(Debug)]
struct SimIds(Mutex<Rng>);

impl Ids for SimIds {
    fn fill(&self, bytes: &mut [u8]) {
        let mut rng = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for chunk in bytes.chunks_mut(8) {
            chunk.copy_from_slice(&rng.next().to_le_bytes()[..chunk.len()]);
        }
    }
}

/// Clock and ids of a simulation.
pub(crate) fn ambient(seed: u64) -> Ambient {
    Ambient { clock: Arc::new(SimClock), ids: Arc::new(SimIds(Mutex::new(Rng::new(seed)))) }
}

/// A progress store that forgets what was not durable when it crashes.
#[derive(Debug, Default)]
pub(crate) struct SimProgress(Mutex<Notes>);

#[derive(Debug, Default)]
struct Notes {
    durable: BTreeMap<StreamId, Kept>,
    soon: BTreeMap<StreamId, Kept>,
    fail: bool,
    /// How many notes were put on disk.
    puts: u64,
}

impl SimProgress {
    fn notes(&self) -> MutexGuard<'_, Notes> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn crash(&self) {
        self.notes().soon.clear();
    }

    /// Whether every note is refused from now on.
    pub(crate) fn fail(&self, fail: bool) {
        self.notes().fail = fail;
    }

    /// How many notes were put on disk so far.
    pub(crate) fn puts(&self) -> u64 {
        self.notes().puts
    }

    pub(crate) fn kept(&self, stream: &StreamId) -> Option<Kept> {
        let notes = self.notes();
        notes.soon.get(stream).or_else(|| notes.durable.get(stream)).cloned()
    }
}

#[async_trait]
impl Progress for SimProgress {
    async fn load(&self, stream: &StreamId) -> Result<Option<Kept>, Problem> {
        Ok(self.kept(stream))
    }

    async fn save(&self, stream: &StreamId, kept: &Kept, durable: Durable) -> Result<(), Problem> {
        if self.kept(stream).is_some_and(|noted| noted.epoch > kept.epoch) {
            return Err(Problem::new(Reason::StreamFenced, "a newer epoch is noted"));
        }
        let mut notes = self.notes();
        if notes.fail {
            return Err(Problem::new(Reason::StoreUnavailable, "the store was told to fail"));
        }
        match durable {
            Durable::Now => {
                notes.puts += 1;
                notes.soon.remove(stream);
                notes.durable.insert(stream.clone(), kept.clone());
            }
            Durable::Soon => {
                notes.soon.insert(stream.clone(), kept.clone());
            }
        }
        Ok(())
    }
}

/// Connections to a [`SimTarget`].
#[derive(Debug)]
pub(crate) struct SimConnections(pub(crate) Arc<SimTarget>);

#[async_trait]
impl Connections for SimConnections {
    async fn connect(&self) -> Result<(Arc<dyn Connector>, ConnectContext), ConnectorError> {
        let cx = ConnectContext {
            sink: sink_name("sim"),
            credential: None,
            egress: egress(),
            ambient: ambient(0),
            connection_timeout: Duration::from_secs(10),
            reply_timeout: Duration::from_secs(10),
        };
        Ok((Arc::new(SimConnector(self.0.clone())), cx))
    }
}

fn egress() -> Arc<Egress> {
    static EGRESS: OnceLock<Arc<Egress>> = OnceLock::new();
    EGRESS.get_or_init(|| Arc::new(Egress::new(EgressPolicy::default(), &[]).expect("the default policy is whole"))).clone()
}

pub(crate) fn sink_name(name: &str) -> QualifiedName {
    QualifiedName::parse(&format!("s.{name}"), None).expect("a name")
}

pub(crate) fn sink(name: &str, number: u128) -> SinkSnapshot {
    SinkSnapshot {
        name: sink_name(name),
        uid: Uuid::from_u128(number),
        generation: 1,
        destination_generation: 1,
        kind: SinkKind::Webhook,
        destination: "https://receiver".to_owned(),
    }
}

pub(crate) fn writer(client_id: &str) -> WriterIdentity {
    WriterIdentity { principal: "somebody".to_owned(), client_id: client_id.to_owned(), peer: "127.0.0.1:1".to_owned() }
}

/// An order for stream `stream` of a sink over `target`.
pub(crate) fn order(target: &Arc<SimTarget>, stream: &str) -> OpenOrder {
    let sink = sink("sim", 1);
    OpenOrder {
        stream: StreamId { cluster: Uuid::nil(), sink: sink.uid, name: StreamName::parse(stream).expect("a stream name") },
        sink,
        connections: Arc::new(SimConnections(target.clone())),
        ephemeral: false,
        source: Source::Adhoc(String::new()),
        writer: writer("client"),
        takeover: false,
        exclusive: false,
        policy: RecordErrorPolicy::Stop,
        dead_letters: None,
        commit_mode: CommitMode::Continuous,
        key_columns: Vec::new(),
        schema: None,
        required: None,
        options: Options::default(),
        linger: Duration::ZERO,
        window: Window::default(),
        wait_timeout: Duration::from_secs(60),
    }
}

/// The same, with dead letters of the stream going to `letters`.
pub(crate) fn order_with_dead_letters(target: &Arc<SimTarget>, stream: &str, letters: &Arc<SimTarget>) -> OpenOrder {
    let mut order = order(target, stream);
    let mut dead = self::order(letters, stream);
    dead.sink = sink("letters", 2);
    dead.stream = StreamId { sink: dead.sink.uid, name: StreamName::reserved("dead-letters:", stream).expect("a stream name"), ..dead.stream };
    order.policy = RecordErrorPolicy::DeadLetter;
    order.dead_letters = Some(Box::new(dead));
    order
}

/// A batch of these JSON texts; texts that say [`UNPARSABLE`] are bad records.
pub(crate) fn batch(first_offset: Option<Offset>, texts: &[String]) -> Input {
    let mut pieces: Vec<Piece> = Vec::new();
    let mut run: Vec<(u64, &String)> = Vec::new();
    for (at, text) in (0..).zip(texts) {
        if says(text.as_bytes(), UNPARSABLE) {
            close_run(&mut run, &mut pieces);
            let fault = RecordFault { kind: RecordFaultKind::Unparsable, message: "not a JSON object".to_owned(), column: None };
            let index = usize::try_from(at).expect("a small number");
            pieces.push(Piece::Bad(datasink::record::RejectedRecord { offset: at, index, original: text.clone().into(), fault }));
        } else {
            run.push((at, text));
        }
    }
    close_run(&mut run, &mut pieces);
    Input::Batch(Incoming { first_offset, pieces })
}

fn close_run(run: &mut Vec<(u64, &String)>, pieces: &mut Vec<Piece>) {
    let Some((first_offset, _)) = run.first().copied() else { return };
    let (mut bytes, mut lines) = (Vec::new(), Vec::new());
    for (_, text) in run.drain(..) {
        let start = u32::try_from(bytes.len()).expect("a small batch");
        bytes.extend_from_slice(text.as_bytes());
        lines.push((start, u32::try_from(bytes.len()).expect("a small batch")));
        bytes.push(b'\n');
    }
    let records = Records::Ndjson(Ndjson::from_checked(bytes.into(), lines.into()));
    pieces.push(Piece::Good(Batch::new(first_offset, records)));
}

/// The text of record `offset`.
pub(crate) fn text(offset: Offset) -> String {
    format!(r#"{{"n":{offset}}}"#)
}

/// The texts of records `range`.
pub(crate) fn texts(range: std::ops::Range<Offset>) -> Vec<String> {
    range.map(text).collect()
}
