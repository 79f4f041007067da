//! Why: whatever happens in whatever order (lost replies, late requests, crashes, takeovers, zombies, bad records), the promises hold; thousands of made-up histories say so, each by its seed.
//! Never real time, a socket or a thread.
//!
//! `DATASINK_SEED=n cargo test --test simulation` runs one history and prints it; `DATASINK_SEEDS=n` says how many otherwise.

#[path = "support/sim_connector.rs"]
mod sim;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use datasink::{
    connectors::connector::{CommitMode, Finish, StreamId, UnitPolicy},
    delivery::{
        Counts, Delivery, DeliverySettings, Directive, Disposition, DrainReason, EndReason, Event, Input, OpenOrder, RecordErrorPolicy, Session, SessionOutput,
        Which, Window,
    },
    problem::{Problem, Reason},
    record::Offset,
};
use futures::FutureExt;
use tokio::time::{sleep, timeout};

use self::sim::{Family, Lies, Rng, SimProgress, SimTarget, batch, order, order_with_dead_letters};

/// How many histories a run looks at.
const SEEDS: u64 = 3_000;
/// Simulated time after which a history that goes nowhere is a failure.
const LIFE_MAX: Duration = Duration::from_secs(24 * 3600);

/// What is made up for one history.
#[derive(Debug)]
struct Plan {
    family: Family,
    policy: RecordErrorPolicy,
    mode: CommitMode,
    units: UnitPolicy,
    window: u64,
    linger: Duration,
}

/// What the client knows, kept through all crashes.
struct Ledger {
    rng: Rng,
    /// The records; one that stopped the stream is mended here.
    texts: Vec<String>,
    /// The highest offset that any ack has passed.
    acked: Offset,
    /// The highest offset that was ever sent.
    sent: Offset,
    /// What became of rejected records, as far as it was reported.
    reported: BTreeMap<Offset, Disposition>,
    finish_sent: bool,
    done: bool,
    trace: Vec<String>,
}

struct World {
    plan: Plan,
    target: Arc<SimTarget>,
    letters: Arc<SimTarget>,
    progress: Arc<SimProgress>,
    seed: u64,
}

enum Fate {
    Crashed,
    Done,
}

type Checked<T> = Result<T, String>;

fn is_bad(text: &str) -> bool {
    [sim::REFUSED_AT_APPEND, sim::REFUSED_AT_COMMIT, sim::REFUSED_SILENTLY, sim::UNPARSABLE].iter().any(|word| text.contains(word))
}

impl Plan {
    fn new(rng: &mut Rng) -> Self {
        let family = [Family::Transaction, Family::Objects, Family::Receiver][usize::try_from(rng.below(3)).expect("a small number")];
        let policy = [RecordErrorPolicy::Stop, RecordErrorPolicy::Skip, RecordErrorPolicy::DeadLetter][usize::try_from(rng.below(3)).expect("a small number")];
        let mode = if family != Family::Receiver && rng.chance(25) { CommitMode::OnFinish } else { CommitMode::Continuous };
        let age_max = [Duration::ZERO, Duration::from_millis(20), Duration::from_secs(2)][usize::try_from(rng.below(3)).expect("a small number")];
        let commits_in_flight = 1 + usize::try_from(rng.below(3)).expect("a small number");
        let units = UnitPolicy { records_max: 1 + rng.below(30), bytes_max: 1 << 20, age_max, idle_max: Duration::ZERO, commits_in_flight };
        Self { family, policy, mode, units, window: 5 + rng.below(60), linger: Duration::from_millis(rng.below(2) * rng.below(50)) }
    }
}

impl World {
    fn new(seed: u64, lies: Lies) -> (Self, Ledger) {
        let mut rng = Rng::new(seed);
        let plan = Plan::new(&mut rng);
        let target = SimTarget::new(plan.family).units(plan.units);
        target.chaos(rng.next(), rng.below(30), rng.below(50));
        target.lie(lies);
        let letters = SimTarget::new(Family::Transaction).takes_everything();
        letters.chaos(rng.next(), rng.below(20), rng.below(10));
        let bad_percent = rng.below(2) * rng.below(12);
        let texts = (0..20 + rng.below(150)).map(|offset| text(offset, &mut rng, bad_percent)).collect();
        let ledger = Ledger { rng, texts, acked: 0, sent: 0, reported: BTreeMap::new(), finish_sent: false, done: false, trace: vec![format!("{plan:?}")] };
        (Self { plan, target, letters, progress: Arc::default(), seed }, ledger)
    }

    fn order(&self) -> OpenOrder {
        let order = match self.plan.policy {
            RecordErrorPolicy::DeadLetter => order_with_dead_letters(&self.target, "s", &self.letters),
            RecordErrorPolicy::Stop | RecordErrorPolicy::Skip => order(&self.target, "s"),
        };
        let window = Window { records: self.plan.window, bytes: 0 };
        OpenOrder { policy: self.plan.policy, commit_mode: self.plan.mode, window, linger: self.plan.linger, ..order }
    }

    fn stream(&self) -> StreamId {
        order(&self.target, "s").stream
    }

    fn server(&self, number: u64) -> Delivery {
        Delivery::new(DeliverySettings::default(), sim::ambient(self.seed ^ number), self.progress.clone())
    }
}

fn text(offset: Offset, rng: &mut Rng, bad_percent: u64) -> String {
    let words = [sim::REFUSED_AT_APPEND, sim::REFUSED_AT_COMMIT, sim::REFUSED_SILENTLY, sim::UNPARSABLE];
    let word = if rng.chance(bad_percent) { words[usize::try_from(rng.below(4)).expect("a small number")] } else { "" };
    format!(r#"{{"n":{offset},"x":{},"word":"{word}"}}"#, rng.below(1_000))
}

// ---- the client ----

impl Ledger {
    fn note(&mut self, line: impl Into<String>) {
        self.trace.push(line.into());
    }

    fn total(&self) -> Offset {
        self.texts.len() as Offset
    }

    fn small(&mut self, bound: u64) -> u64 {
        self.rng.below(bound)
    }

    /// Takes in an event; whether it was the last one.
    fn hear(&mut self, world: &World, event: Event) -> Checked<bool> {
        match event {
            Event::Ack(ack) => {
                self.note(format!("ack {}", ack.next_offset));
                self.hear_counts(world, ack.next_offset, ack.counts)?;
                self.acked = self.acked.max(ack.next_offset);
                Ok(false)
            }
            Event::RecordErrors(errors) => {
                for error in &errors.errors {
                    self.note(format!("{:?} {}", error.disposition, error.offset));
                    if !is_bad(&self.texts[usize::try_from(error.offset).expect("a small number")]) {
                        return Err(format!("record {} is good and was reported as bad: {}", error.offset, error.fault.message));
                    }
                    self.reported.insert(error.offset, error.disposition);
                }
                Ok(false)
            }
            Event::Destination(_) | Event::Drain { .. } => Ok(false),
            Event::Ended(ended) => {
                self.note(format!("ended {:?} at {}", ended.reason, ended.next_offset));
                self.hear_counts(world, ended.next_offset, ended.counts)?;
                self.acked = self.acked.max(ended.next_offset);
                let complete = ended.next_offset == self.total();
                self.done |= match ended.reason {
                    EndReason::Committed => complete,
                    EndReason::HalfClosed => complete && world.plan.mode == CommitMode::Continuous,
                    EndReason::Aborted | EndReason::Drained => false,
                };
                Ok(true)
            }
            Event::Failed(problem) => {
                self.note(format!("failed {:?}", problem.reason));
                self.hear_problem(&problem)?;
                Ok(true)
            }
        }
    }

    /// Law 15, and errors before the ack that passes them.
    fn hear_counts(&mut self, world: &World, next: Offset, counts: Counts) -> Checked<()> {
        let bad = self.texts[..usize::try_from(next).expect("a small number")].iter().filter(|text| is_bad(text)).count() as u64;
        if counts.delivered + counts.rejected != next || counts.rejected != bad {
            return Err(format!("law 15: {} delivered and {} rejected of {next}, of which {bad} are bad", counts.delivered, counts.rejected));
        }
        if world.plan.policy == RecordErrorPolicy::Stop && bad > 0 {
            return Err(format!("law 13: the stream passed a bad record before {next} under STOP"));
        }
        Ok(())
    }

    /// Only passing failures, fences and STOP are allowed to end a session here.
    fn hear_problem(&mut self, problem: &Problem) -> Checked<()> {
        match problem.reason {
            Reason::RecordInvalid | Reason::RecordUnparsable | Reason::RecordTooLarge => {
                let (_, offset) = problem.metadata.iter().find(|(key, _)| *key == "offset").ok_or("STOP names the record")?;
                let offset: usize = offset.parse().map_err(|_| "STOP names the record by its offset".to_owned())?;
                if self.acked > offset as Offset {
                    return Err(format!("law 13: stopped at {offset} after {} was acknowledged", self.acked));
                }
                self.texts[offset] = sim::text(offset as Offset);
                Ok(())
            }
            Reason::StreamFenced if problem.metadata.iter().all(|(key, _)| *key != "field") => Ok(()),
            _ if problem.retry_after.is_some() => Ok(()),
            _ => Err(format!("the session ended with {problem:?}")),
        }
    }

    async fn hear_all(&mut self, world: &World, output: &mut SessionOutput) -> Checked<bool> {
        while let Some(event) = output.next().now_or_never() {
            match event {
                Some(event) => {
                    if self.hear(world, event)? {
                        return Ok(true);
                    }
                }
                None => return Ok(true),
            }
        }
        Ok(false)
    }

    async fn hear_to_the_end(&mut self, world: &World, output: &mut SessionOutput) -> Checked<()> {
        while let Some(event) = output.next().await {
            self.hear(world, event)?;
        }
        Ok(())
    }
}

/// One life of two servers over one store.
async fn live(world: &World, ledger: &mut Ledger) -> Checked<Fate> {
    let servers = [world.server(1), world.server(2)];
    let mut zombies: Vec<Session> = Vec::new();
    while !ledger.done {
        let server = &servers[usize::try_from(ledger.small(2)).expect("a small number")];
        let client = format!("client-{}", ledger.small(2));
        let order = OpenOrder { writer: sim::writer(&client), takeover: true, ..world.order() };
        let session = match server.open(order).await {
            Ok(session) => session,
            Err(problem) => {
                ledger.note(format!("not opened: {:?}", problem.reason));
                ledger.hear_problem(&problem)?;
                sleep(problem.retry_after.unwrap_or_default() + Duration::from_millis(1)).await;
                continue;
            }
        };
        let next = session.opened.next_offset;
        ledger.note(format!("opened at {next} with epoch {}", session.opened.epoch));
        if next < ledger.acked {
            return Err(format!("law 2: opened at {next} after {} was acknowledged", ledger.acked));
        }
        if let Some(fate) = push(world, ledger, server, session, &mut zombies).await? {
            return Ok(fate);
        }
        for zombie in &mut zombies {
            ledger.hear_all(world, &mut zombie.output).await?;
        }
    }
    // Zombies that nobody stopped still hold what they were told; all the same, they end.
    for mut zombie in zombies {
        zombie.input.half_close();
        ledger.hear_to_the_end(world, &mut zombie.output).await?;
    }
    for server in &servers {
        server.settled().await;
    }
    Ok(Fate::Done)
}

/// What a client does with one session.
async fn push(world: &World, ledger: &mut Ledger, server: &Delivery, mut session: Session, zombies: &mut Vec<Session>) -> Checked<Option<Fate>> {
    let mut cursor = session.opened.next_offset;
    loop {
        if ledger.hear_all(world, &mut session.output).await? {
            return Ok(None);
        }
        if world.plan.mode == CommitMode::OnFinish && !ledger.finish_sent && !world.target.visible(&world.stream()).is_empty() {
            return Err("records of an unfinished ON_FINISH stream are visible".to_owned());
        }
        // What was sent and not acknowledged is sent again before anything else: so does every client that keeps its records.
        let caught_up = cursor >= ledger.sent;
        match ledger.small(100) {
            0..50 if cursor < ledger.total() => send(ledger, &session, &mut cursor).await,
            50..60 if caught_up => {
                let flush = session.input.send(Input::Flush(cursor.to_string()));
                // A session that has ended says why in its output.
                let _ = timeout(Duration::from_millis(50), flush).await;
            }
            60..75 => sleep(Duration::from_millis(ledger.rng.below(20))).await,
            75..77 => sleep(Duration::from_millis(ledger.rng.below(3_000))).await,
            77..80 => {
                ledger.note("disconnected");
                return Ok(None);
            }
            // Under STOP a record is mended, and no session that holds the bad one may be left.
            80..83 if world.plan.policy != RecordErrorPolicy::Stop => {
                ledger.note("left behind");
                zombies.push(session);
                return Ok(None);
            }
            83..85 => {
                server.direct(&Which::All, Directive::Reconnect);
            }
            85 => {
                server.direct(&Which::All, Directive::Drain { reason: DrainReason::Rebalance, grace: Duration::from_secs(20) });
            }
            86..88 => {
                ledger.note("crash");
                return Ok(Some(Fate::Crashed));
            }
            88..91 if caught_up => return half_close(world, ledger, session).await,
            91..100 if cursor == ledger.total() => return end(world, ledger, session).await,
            _ => {}
        }
    }
}

async fn send(ledger: &mut Ledger, session: &Session, cursor: &mut Offset) {
    let back = if ledger.rng.chance(10) { ledger.small(10).min(*cursor) } else { 0 };
    let first = *cursor - back;
    let next = (first + 1 + ledger.small(20)).min(ledger.total());
    let range = usize::try_from(first).expect("a small number")..usize::try_from(next).expect("a small number");
    let input = batch(Some(first), &ledger.texts[range]);
    if let Ok(Ok(())) = timeout(Duration::from_millis(50), session.input.send(input)).await {
        ledger.note(format!("sent {first}..{next}"));
        *cursor = (*cursor).max(next);
        ledger.sent = ledger.sent.max(next);
    }
}

async fn half_close(world: &World, ledger: &mut Ledger, session: Session) -> Checked<Option<Fate>> {
    ledger.note("half-closed");
    let Session { input, mut output, .. } = session;
    input.half_close();
    ledger.hear_to_the_end(world, &mut output).await?;
    Ok(None)
}

async fn end(world: &World, ledger: &mut Ledger, session: Session) -> Checked<Option<Fate>> {
    if world.plan.mode == CommitMode::Continuous && ledger.rng.chance(50) {
        return half_close(world, ledger, session).await;
    }
    ledger.note("finish");
    ledger.finish_sent = true;
    let Session { input, mut output, .. } = session;
    // A session that has ended says why in its output.
    let _ = input.send(Input::Finish { action: Finish::Commit, expected_next: Some(ledger.total()) }).await;
    ledger.hear_to_the_end(world, &mut output).await?;
    drop(input);
    Ok(None)
}

// ---- the checker ----

/// I1–I6 on what a reader of the target sees.
fn check(world: &World, ledger: &Ledger) -> Checked<()> {
    // Before its finish, a stream's records are durable without being seen.
    let visible = if ledger.done { world.target.visible(&world.stream()) } else { world.target.durable(&world.stream()) };
    for seen in &visible {
        let sent = &ledger.texts[usize::try_from(seen.offset).expect("a small number")];
        if seen.text != sent.as_bytes() || is_bad(sent) {
            return Err(format!("I3: record {} is there as {:?} and was sent as {sent:?}", seen.offset, seen.text));
        }
    }
    for pair in visible.windows(2) {
        if pair[1].offset <= pair[0].offset {
            return Err(format!("I2, I4: record {} follows record {}", pair[1].offset, pair[0].offset));
        }
        // An object of an older epoch may be adopted; nothing else may come late.
        if world.plan.family == Family::Transaction && pair[1].epoch < pair[0].epoch {
            return Err(format!("I6: epoch {} wrote record {} after epoch {} had written", pair[1].epoch, pair[1].offset, pair[0].epoch));
        }
    }
    let mut there = visible.iter().map(|seen| seen.offset).peekable();
    for (offset, text) in (0..).zip(&ledger.texts) {
        let is_there = there.next_if_eq(&offset).is_some();
        if !is_there && !is_bad(text) && offset < ledger.acked {
            return Err(format!("I1: record {offset} was acknowledged and is not there"));
        }
        if !is_there && !is_bad(text) && there.peek().is_some() {
            return Err(format!("I5: record {offset} is missing before others"));
        }
    }
    if world.target.conflicts(&world.stream()) > 0 {
        return Err("I2: one id stood for two bodies".to_owned());
    }
    if world.plan.policy == RecordErrorPolicy::DeadLetter { check_letters(world, ledger) } else { Ok(()) }
}

/// Every bad record that was passed has one letter, in order, with its own text.
fn check_letters(world: &World, ledger: &Ledger) -> Checked<()> {
    let stream = world.order().dead_letters.ok_or("dead letters have a place")?.stream;
    let letters: Vec<(Offset, String)> = world
        .letters
        .visible(&stream)
        .iter()
        .map(|letter| {
            let value: serde_json::Value = serde_json::from_slice(&letter.text).expect("a letter is JSON");
            (value["offset"].as_u64().expect("a letter has an offset"), value["record"].as_str().expect("a letter has the record").to_owned())
        })
        .collect();
    let bad = (0..).zip(&ledger.texts).filter(|(_, text)| is_bad(text)).map(|(offset, text)| (offset, text.clone()));
    let bad: Vec<(Offset, String)> = bad.take(letters.len()).collect();
    if letters != bad {
        return Err(format!("the dead letters are {letters:?} and should be {bad:?}"));
    }
    let passed = ledger.texts[..usize::try_from(ledger.acked).expect("a small number")].iter().filter(|text| is_bad(text)).count();
    if letters.len() < passed { Err(format!("{passed} bad records were passed with {} dead letters", letters.len())) } else { Ok(()) }
}

/// One history from its seed; its trace, or what was broken, with the trace.
fn history(seed: u64, lies: Lies) -> Result<Vec<String>, (String, Vec<String>)> {
    let (world, mut ledger) = World::new(seed, lies);
    let result = lives(&world, &mut ledger);
    let mut trace = ledger.trace;
    trace.extend(world.target.log());
    result.map(|()| trace.clone()).map_err(|broken| (broken, trace))
}

fn lives(world: &World, ledger: &mut Ledger) -> Checked<()> {
    loop {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().map_err(|error| error.to_string())?;
        let fate = runtime.block_on(async { timeout(LIFE_MAX, live(world, ledger)).await });
        // Dropping the runtime drops every task where it stands: that is the crash.
        drop(runtime);
        world.progress.crash();
        check(world, ledger)?;
        match fate.map_err(|_| "I7: nothing goes on".to_owned())?? {
            Fate::Crashed => {}
            Fate::Done => return Ok(()),
        }
    }
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|value| value.parse().unwrap_or_else(|_| panic!("{name} is a number")))
}

#[test]
fn every_history_keeps_the_promises() {
    if let Some(seed) = number("DATASINK_SEED") {
        tracing_subscriber::fmt().without_time().with_target(false).with_ansi(false).with_max_level(tracing::Level::DEBUG).with_test_writer().init();
        match history(seed, Lies::default()) {
            Ok(trace) => println!("{}", trace.join("\n")),
            Err((broken, trace)) => panic!("{}\nseed {seed}: {broken}", trace.join("\n")),
        }
        return;
    }
    let broken: Vec<String> = (0..number("DATASINK_SEEDS").unwrap_or(SEEDS))
        .filter_map(|seed| history(seed, Lies::default()).err().map(|(broken, _)| format!("DATASINK_SEED={seed}: {broken}")))
        .collect();
    assert!(
        broken.is_empty(),
        "{} histories broke a promise; see one with DATASINK_SEED=… cargo test --test simulation every_history -- --nocapture\n{}",
        broken.len(),
        broken.join("\n")
    );
}

#[test]
fn the_same_seed_gives_the_same_history() {
    for seed in 0..30 {
        assert_eq!(history(seed, Lies::default()), history(seed, Lies::default()), "seed {seed}");
    }
}

#[test]
fn a_target_that_reports_durable_what_is_not_is_found_out() {
    let lies = Lies { loses_every: 3, ..Lies::default() };
    let found = (0..200).filter(|seed| history(*seed, lies).is_err()).count();
    assert!(found > 150, "{found} of 200");
}

#[test]
fn a_target_that_does_not_check_the_fence_is_found_out() {
    let lies = Lies { ignores_fence: true, ..Lies::default() };
    let found = (0..1_000).filter(|seed| history(*seed, lies).is_err()).count();
    assert!(found > 0, "no zombie wrote");
}
