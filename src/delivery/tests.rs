//! Why: each law of Push that needs no socket, as a test that can fail. Never asserts on time; time stands still until everybody waits.

#[path = "../../tests/support/sim_connector.rs"]
pub(crate) mod sim;

use std::{sync::Arc, time::Duration};

use futures::FutureExt;

use self::sim::{Family, Fault, SimProgress, SimTarget, batch, order, order_with_dead_letters, texts};
use super::*;
use crate::{
    connectors::{
        connector::{Finish, UnitPolicy},
        error::ConnectorErrorKind,
    },
    problem::{Code, Reason},
    record::RollingHash,
};

struct World {
    target: Arc<SimTarget>,
    progress: Arc<SimProgress>,
    delivery: Delivery,
}

impl World {
    fn new(family: Family) -> Self {
        Self::with(family, DeliverySettings::default())
    }

    fn with(family: Family, settings: DeliverySettings) -> Self {
        let progress = Arc::new(SimProgress::default());
        let delivery = Delivery::new(settings, sim::ambient(1), progress.clone());
        Self { target: SimTarget::new(family), progress, delivery }
    }

    fn order(&self) -> OpenOrder {
        order(&self.target, "s")
    }

    async fn open(&self) -> Session {
        self.delivery.open(self.order()).await.expect("the stream opens")
    }

    fn stream(&self) -> StreamId {
        self.order().stream
    }

    fn offsets(&self) -> Vec<Offset> {
        self.target.offsets(&self.stream())
    }
}

impl Session {
    async fn push(&self, range: std::ops::Range<Offset>) {
        self.input.send(batch(Some(range.start), &texts(range))).await.expect("the session is open");
    }

    async fn flush(&mut self, token: &str) -> Ack {
        self.input.send(Input::Flush(token.to_owned())).await.expect("the session is open");
        loop {
            match self.output.next().await {
                Some(Event::Ack(ack)) if ack.flush_token.as_deref() == Some(token) => return ack,
                Some(Event::Ack(_) | Event::Destination(_) | Event::RecordErrors(_)) => {}
                other => panic!("instead of the ack of {token:?}: {other:?}"),
            }
        }
    }

    async fn rest(mut self) -> Vec<Event> {
        let mut events = Vec::new();
        while let Some(event) = self.output.next().await {
            events.push(event);
        }
        events
    }

    async fn half_close(self) -> Ended {
        self.input.half_close();
        ended(last(self.output).await)
    }

    async fn finish(self, action: Finish, expected_next: Option<Offset>) -> Event {
        self.input.send(Input::Finish { action, expected_next }).await.expect("the session is open");
        last(self.output).await
    }
}

async fn last(mut output: SessionOutput) -> Event {
    let mut last = None;
    while let Some(event) = output.next().await {
        last = Some(event);
    }
    last.expect("a session says how it ended")
}

fn ended(event: Event) -> Ended {
    match event {
        Event::Ended(ended) => ended,
        other => panic!("instead of an end: {other:?}"),
    }
}

fn failed(event: Event) -> Problem {
    match event {
        Event::Failed(problem) => problem,
        other => panic!("instead of a failure: {other:?}"),
    }
}

fn metadata<'a>(problem: &'a Problem, key: &str) -> &'a str {
    problem.metadata.iter().find(|(known, _)| *known == key).map_or("", |(_, value)| value)
}

fn poison(word: &str, offset: Offset) -> String {
    format!(r#"{{"n":{offset},"word":"{word}"}}"#)
}

#[tokio::test(start_paused = true)]
async fn what_is_acknowledged_is_at_the_destination_and_counted() {
    for family in [Family::Transaction, Family::Objects, Family::Receiver] {
        let world = World::new(family);
        let mut session = world.open().await;
        assert_eq!(session.opened.next_offset, 0);
        session.push(0..3).await;
        session.push(3..10).await;
        let ack = session.flush("t").await;
        assert_eq!((ack.next_offset, ack.counts.delivered, ack.counts.rejected), (10, 10, 0), "{family:?}");
        assert!(!ack.artifacts.is_empty() && ack.counts.delivered_bytes > 0);
        assert_eq!(world.offsets(), (0..10).collect::<Vec<_>>());
        let ended = session.half_close().await;
        assert_eq!((ended.reason, ended.next_offset, ended.resumable), (EndReason::HalfClosed, 10, true));
        assert_eq!(world.open().await.opened.next_offset, 10, "the next session goes on there");
    }
}

#[tokio::test(start_paused = true)]
async fn a_batch_without_an_offset_goes_on_where_the_last_one_ended() {
    let world = World::new(Family::Transaction);
    let session = world.open().await;
    for _ in 0..3 {
        session.input.send(batch(None, &texts(0..2))).await.expect("the session is open");
    }
    assert_eq!(session.half_close().await.next_offset, 6);
    assert_eq!(world.offsets(), [0, 1, 2, 3, 4, 5]);
}

#[tokio::test(start_paused = true)]
async fn law_4_overlap_is_skipped_counted_and_acknowledged() {
    let world = World::new(Family::Transaction);
    let mut session = world.open().await;
    session.push(0..5).await;
    session.flush("a").await;
    session.push(0..5).await;
    let Some(Event::Ack(again)) = session.output.next().await else { panic!("a duplicate is acknowledged") };
    assert_eq!((again.next_offset, again.counts.duplicates), (5, 5));
    session.push(3..8).await;
    let ended = session.half_close().await;
    assert_eq!((ended.next_offset, ended.counts.duplicates, ended.counts.delivered), (8, 7, 8));
    assert_eq!(world.offsets(), (0..8).collect::<Vec<_>>());
}

#[tokio::test(start_paused = true)]
async fn law_4_a_gap_writes_nothing_of_the_batch() {
    let world = World::new(Family::Transaction);
    let mut session = world.open().await;
    session.push(0..5).await;
    session.flush("a").await;
    session.push(6..8).await;
    let problem = failed(last(session.output).await);
    assert_eq!((problem.code, problem.reason), (Code::OutOfRange, Reason::OffsetGap));
    assert_eq!((metadata(&problem, "expected_offset"), metadata(&problem, "first_offset")), ("5", "6"));
    assert_eq!(world.offsets(), [0, 1, 2, 3, 4]);
}

#[tokio::test(start_paused = true)]
async fn offsets_beyond_the_largest_are_refused() {
    let world = World::new(Family::Discard);
    let stream = world.stream();
    let session = world.open().await;
    session.push(0..1).await;
    session.half_close().await;
    let mut kept = world.progress.kept(&stream).expect("it was noted");
    kept.mark.next = u64::MAX - 1;
    world.progress.save(&stream, &kept, Durable::Now).await.expect("the store works");
    world.target.go_back(&stream, Some(kept.mark));
    let session = world.open().await;
    session.push(u64::MAX - 1..u64::MAX).await;
    session.input.send(batch(None, &texts(0..1))).await.expect("the session is open");
    assert_eq!(failed(last(session.output).await).reason, Reason::InvalidField);
}

#[tokio::test(start_paused = true)]
async fn law_7_a_sender_that_reads_only_at_the_end_neither_blocks_nor_loses_anything() {
    let window = Window { records: 10, bytes: 0 };
    let world = World::with(Family::Transaction, DeliverySettings { window, ..DeliverySettings::default() });
    world.target.units(UnitPolicy { records_max: 3, bytes_max: 1 << 20, age_max: Duration::from_secs(30), idle_max: Duration::ZERO, commits_in_flight: 1 });
    let session = world.delivery.open(OpenOrder { policy: RecordErrorPolicy::Skip, window, ..world.order() }).await.expect("the stream opens");
    for offset in 0..500 {
        let text = if offset % 2 == 1 { poison(sim::REFUSED_AT_APPEND, offset) } else { sim::text(offset) };
        session.input.send(batch(Some(offset), &[text])).await.expect("the session is open");
        session.input.send(Input::Flush(offset.to_string())).await.expect("the session is open");
    }
    let Session { input, mut output, .. } = session;
    input.half_close();
    world.delivery.settled().await;
    let mut events = Vec::new();
    while let Some(event) = output.next().await {
        events.push(event);
    }
    let [Event::RecordErrors(errors), Event::Ack(ack), Event::Ended(ended)] = &events[..] else { panic!("merged: {events:?}") };
    assert_eq!((errors.errors.len(), errors.more), (crate::limits::RECORD_ERRORS_PER_FRAME_MAX, 150));
    assert_eq!((ack.next_offset, ack.flush_token.as_deref()), (500, Some("499")));
    assert_eq!((ended.counts.delivered, ended.counts.rejected), (250, 250));
}

#[tokio::test(start_paused = true)]
async fn law_6_a_sender_waits_when_the_window_is_spent_and_no_longer_than_that() {
    let world = World::with(Family::Transaction, DeliverySettings { window: Window { records: 4, bytes: 0 }, ..DeliverySettings::default() });
    world.target.units(UnitPolicy { records_max: 2, bytes_max: 1 << 20, age_max: Duration::ZERO, idle_max: Duration::ZERO, commits_in_flight: 1 });
    world.target.at_next_commit(Fault::Hang);
    let session = world.open().await;
    session.push(0..4).await;
    tokio::time::sleep(Duration::from_millis(10)).await;
    let blocked = tokio::time::timeout(Duration::from_secs(5), session.push(4..5)).await;
    assert!(blocked.is_err(), "four records are outstanding");
    assert_eq!(world.delivery.live()[0].outstanding.records, 4);
    // The destination that never answers is given up; then everything flows again.
    session.push(4..5).await;
    assert_eq!(session.half_close().await.next_offset, 5);
    assert_eq!(world.offsets(), [0, 1, 2, 3, 4]);
}

#[tokio::test(start_paused = true)]
async fn records_that_linger_do_not_keep_their_own_sender_waiting() {
    let world = World::with(Family::Objects, DeliverySettings { window: Window { records: 3, bytes: 0 }, ..DeliverySettings::default() });
    world.target.units(UnitPolicy { records_max: 1, bytes_max: 1 << 20, age_max: Duration::from_secs(3600), idle_max: Duration::ZERO, commits_in_flight: 1 });
    world.target.units(UnitPolicy {
        records_max: u64::MAX,
        bytes_max: 1 << 20,
        age_max: Duration::from_secs(3600),
        idle_max: Duration::ZERO,
        commits_in_flight: 1,
    });
    let window = Window { records: 3, bytes: 0 };
    let session = world.delivery.open(OpenOrder { window, ..world.order() }).await.expect("the stream opens");
    let start = tokio::time::Instant::now();
    for at in 0..10 {
        session.push(at * 3..at * 3 + 3).await;
    }
    assert!(start.elapsed() < Duration::from_secs(60), "the window is pressed out, not waited for");
    assert_eq!(session.half_close().await.next_offset, 30);
}

#[tokio::test(start_paused = true)]
async fn law_5_a_takeover_ends_the_older_session_for_good() {
    let world = World::new(Family::Transaction);
    let mut older = world.open().await;
    older.push(0..5).await;
    older.flush("a").await;
    let refused = world.delivery.open(OpenOrder { writer: sim::writer("other"), ..world.order() }).await.expect_err("somebody writes");
    assert_eq!((refused.code, refused.reason, metadata(&refused, "client_id")), (Code::FailedPrecondition, Reason::StreamInUse, "client"));
    let newer = world.delivery.open(OpenOrder { writer: sim::writer("other"), takeover: true, ..world.order() }).await.expect("takeover is allowed");
    assert!(newer.opened.epoch > older.opened.epoch);
    assert_eq!(newer.opened.next_offset, 5);
    assert!(older.input.send(batch(Some(5), &texts(5..6))).await.is_err());
    let problem = failed(last(older.output).await);
    assert_eq!((problem.code, problem.reason, metadata(&problem, "client_id")), (Code::Aborted, Reason::StreamFenced, "other"));
    assert!(problem.retry_after.is_none());
    assert_eq!(metadata(&problem, "current_epoch"), newer.opened.epoch.to_string());
    newer.push(5..7).await;
    assert_eq!(newer.half_close().await.next_offset, 7);
    assert_eq!(world.offsets(), (0..7).collect::<Vec<_>>());
}

#[tokio::test(start_paused = true)]
async fn law_5_the_same_client_takes_over_at_once_even_from_a_session_that_hangs() {
    let world = World::new(Family::Transaction);
    world.target.at_next_commit(Fault::Hang);
    let older = world.open().await;
    older.push(0..5).await;
    tokio::time::sleep(Duration::from_millis(10)).await;
    let newer = world.open().await;
    assert_eq!(failed(last(older.output).await).reason, Reason::StreamFenced);
    newer.push(0..5).await;
    assert_eq!(newer.half_close().await.next_offset, 5);
    assert_eq!(world.offsets(), [0, 1, 2, 3, 4]);
}

#[tokio::test(start_paused = true)]
async fn an_exclusive_order_never_displaces_anybody() {
    let world = World::new(Family::Transaction);
    let _session = world.open().await;
    let refused = world.delivery.open(OpenOrder { exclusive: true, takeover: true, ..world.order() }).await.expect_err("somebody writes");
    assert_eq!(refused.reason, Reason::StreamInUse);
    assert_eq!(world.delivery.live().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_writer_fenced_at_the_target_ends_fenced() {
    let world = World::new(Family::Transaction);
    let session = world.open().await;
    // Another server opens the stream: this one hears of it from the target alone.
    let other = Delivery::new(DeliverySettings::default(), sim::ambient(2), Arc::new(SimProgress::default()));
    let newer = other.open(world.order()).await.expect("the stream opens");
    session.push(0..5).await;
    assert_eq!(failed(last(session.output).await).reason, Reason::StreamFenced);
    newer.push(0..2).await;
    assert_eq!(newer.half_close().await.next_offset, 2);
    assert_eq!(world.offsets(), [0, 1]);
}

#[tokio::test(start_paused = true)]
async fn law_9_and_14_half_close_settles_everything_and_a_lost_connection_unsettles_nothing() {
    let world = World::new(Family::Objects);
    world.target.units(UnitPolicy { records_max: 100, bytes_max: 1 << 20, age_max: Duration::from_secs(30), idle_max: Duration::ZERO, commits_in_flight: 1 });
    let session = world.open().await;
    session.push(0..5).await;
    assert_eq!(session.half_close().await.next_offset, 5);
    let session = world.open().await;
    session.push(5..9).await;
    tokio::time::sleep(Duration::from_millis(10)).await;
    let Session { input, output, .. } = session;
    drop((input, output));
    world.delivery.settled().await;
    assert_eq!(world.offsets(), [0, 1, 2, 3, 4], "the open unit is abandoned");
    assert_eq!(world.open().await.opened.next_offset, 5);
}

#[tokio::test(start_paused = true)]
async fn law_10_a_finished_stream_answers_that_it_is() {
    for family in [Family::Transaction, Family::Objects, Family::Receiver] {
        let world = World::new(family);
        let session = world.open().await;
        session.push(0..3).await;
        let end = ended(session.finish(Finish::Commit, Some(3)).await);
        assert_eq!((end.reason, end.next_offset, end.resumable), (EndReason::Committed, 3, false));
        // Also where our own store has forgotten it, if the target knows.
        world.progress.crash();
        let again = world.open().await;
        assert_eq!(again.opened.next_offset, 3);
        assert!(again.input.send(batch(None, &texts(3..4))).await.is_err());
        assert_eq!(ended(last(again.output).await).reason, EndReason::Committed, "{family:?}");
        assert_eq!(world.offsets(), [0, 1, 2]);
        world.delivery.settled().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_finish_that_expects_other_records_commits_nothing() {
    let world = World::new(Family::Transaction);
    let session = world.delivery.open(OpenOrder { commit_mode: CommitMode::OnFinish, ..world.order() }).await.expect("the stream opens");
    session.push(0..3).await;
    let problem = failed(session.finish(Finish::Commit, Some(4)).await);
    assert_eq!((problem.reason, metadata(&problem, "expected_offset"), metadata(&problem, "first_offset")), (Reason::OffsetGap, "3", "4"));
    assert_eq!(world.offsets(), [0_u64; 0]);
}

#[tokio::test(start_paused = true)]
async fn on_finish_shows_all_or_nothing() {
    for (action, seen, reason) in [(Finish::Commit, vec![0, 1, 2, 3], EndReason::Committed), (Finish::Abort, vec![], EndReason::Aborted)] {
        for family in [Family::Transaction, Family::Objects] {
            let world = World::new(family);
            let on_finish = || OpenOrder { commit_mode: CommitMode::OnFinish, ..world.order() };
            let mut session = world.delivery.open(on_finish()).await.expect("the stream opens");
            session.push(0..2).await;
            assert_eq!(session.flush("a").await.next_offset, 2);
            assert_eq!(session.half_close().await.next_offset, 2);
            assert_eq!(world.offsets(), [0_u64; 0], "nothing counts before finish");
            let session = world.delivery.open(on_finish()).await.expect("the stream opens");
            assert_eq!(session.opened.next_offset, 2);
            session.push(2..4).await;
            world.target.at_next_commit(Fault::ReplyLost);
            assert_eq!(ended(session.finish(action, Some(4)).await).reason, reason);
            assert_eq!(world.offsets(), seen, "{family:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn an_aborted_stream_begins_anew_and_an_expired_one_says_so() {
    let world = World::new(Family::Transaction);
    let on_finish = || OpenOrder { commit_mode: CommitMode::OnFinish, ..world.order() };
    let session = world.delivery.open(on_finish()).await.expect("the stream opens");
    session.push(0..2).await;
    ended(session.finish(Finish::Abort, None).await);
    let mut session = world.delivery.open(on_finish()).await.expect("the stream opens");
    assert_eq!((session.opened.next_offset, session.opened.rolled_back), (0, false));
    session.push(0..3).await;
    session.flush("a").await;
    session.half_close().await;
    world.target.go_back(&world.stream(), None);
    let session = world.delivery.open(on_finish()).await.expect("the stream opens");
    assert_eq!((session.opened.next_offset, session.opened.rolled_back), (0, true));
}

#[tokio::test(start_paused = true)]
async fn abort_of_a_continuous_stream_is_refused() {
    let world = World::new(Family::Transaction);
    let problem = failed(world.open().await.finish(Finish::Abort, None).await);
    assert_eq!((problem.code, problem.reason), (Code::InvalidArgument, Reason::InvalidField));
    assert_eq!(problem.violations[0].field, "finish.action");
}

#[tokio::test(start_paused = true)]
async fn law_11_a_stop_ends_the_session_also_while_it_backs_off() {
    let world = World::new(Family::Transaction);
    for _ in 0..100 {
        world.target.at_next_commit(Fault::Before(ConnectorErrorKind::Unreachable));
    }
    let mut session = world.open().await;
    session.push(0..5).await;
    let Some(Event::Destination(status)) = session.output.next().await else { panic!("a failing destination is told") };
    assert_eq!((status.state, status.attempt), (DestinationState::Retrying, 1));
    let denied = Problem::new(Reason::PermissionDenied, "revoked");
    assert_eq!(world.delivery.direct(&Which::Sink(world.stream().sink), Directive::Stop(denied)), 1);
    let start = tokio::time::Instant::now();
    assert_eq!(failed(last(session.output).await).reason, Reason::PermissionDenied);
    assert!(start.elapsed() < Duration::from_secs(1));
    world.delivery.settled().await;
    assert_eq!(world.offsets(), [0_u64; 0]);
}

#[tokio::test(start_paused = true)]
async fn law_11_a_drain_settles_what_was_sent_and_ends_well() {
    let world = World::new(Family::Objects);
    world.target.units(UnitPolicy { records_max: 100, bytes_max: 1 << 20, age_max: Duration::from_secs(30), idle_max: Duration::ZERO, commits_in_flight: 1 });
    let session = world.open().await;
    session.push(0..5).await;
    let directive = Directive::Drain { reason: DrainReason::SinkAltered, grace: Duration::from_secs(20) };
    assert_eq!(world.delivery.direct(&Which::Principal("somebody".to_owned()), directive), 1);
    let events = session.rest().await;
    assert!(events.iter().any(|event| matches!(event, Event::Drain { reason: DrainReason::SinkAltered, .. })), "{events:?}");
    let Some(Event::Ended(ended)) = events.last() else { panic!("it ends well: {events:?}") };
    assert_eq!((ended.reason, ended.next_offset, ended.resumable), (EndReason::Drained, 5, true));
}

#[tokio::test(start_paused = true)]
async fn law_11_a_drain_ends_at_its_deadline_though_the_destination_hangs() {
    let world = World::new(Family::Transaction);
    world.target.at_next_commit(Fault::Hang);
    let session = world.open().await;
    session.push(0..5).await;
    world.delivery.direct(&Which::All, Directive::Drain { reason: DrainReason::Shutdown, grace: Duration::from_secs(20) });
    let Some(Event::Ended(ended)) = session.rest().await.pop() else { panic!("it ends well") };
    assert_eq!((ended.reason, ended.next_offset), (EndReason::Drained, 0));
}

#[tokio::test(start_paused = true)]
async fn law_11_a_rotated_credential_is_taken_up_at_the_next_unit() {
    let world = World::new(Family::Transaction);
    let mut session = world.open().await;
    session.push(0..2).await;
    session.flush("a").await;
    world.delivery.direct(&Which::Stream(world.stream()), Directive::Reconnect);
    session.push(2..4).await;
    assert_eq!(session.flush("b").await.next_offset, 4);
    assert_eq!(world.target.granted(&world.stream()).len(), 2, "a second connection was made");
    session.push(4..6).await;
    assert_eq!(session.half_close().await.next_offset, 6);
    assert_eq!(world.offsets(), (0..6).collect::<Vec<_>>());
}

#[tokio::test(start_paused = true)]
async fn law_12_a_failing_destination_is_told_waited_for_and_healed_alone() {
    let world = World::new(Family::Transaction);
    world.target.at_next_commit(Fault::Before(ConnectorErrorKind::Unreachable));
    world.target.at_next_commit(Fault::Throttled(Duration::from_secs(7)));
    let mut session = world.open().await;
    session.push(0..5).await;
    session.input.send(Input::Flush("a".to_owned())).await.expect("the session is open");
    let (mut states, mut acked) = (Vec::new(), false);
    while !acked {
        match session.output.next().await {
            Some(Event::Destination(status)) => states.push(status.state),
            Some(Event::Ack(ack)) => acked = ack.next_offset == 5,
            other => panic!("the session lives on: {other:?}"),
        }
    }
    if let Some(Some(Event::Destination(status))) = session.output.next().now_or_never() {
        states.push(status.state);
    }
    assert_eq!(states, [DestinationState::Retrying, DestinationState::Throttled, DestinationState::Healthy]);
    assert_eq!(world.offsets(), [0, 1, 2, 3, 4]);
}

#[tokio::test(start_paused = true)]
async fn law_12_a_destination_that_stays_away_is_given_up_with_a_retry() {
    for (fault, reason) in [
        (Fault::Before(ConnectorErrorKind::Unreachable), Reason::DestinationUnreachable),
        (Fault::Before(ConnectorErrorKind::TimedOut), Reason::DestinationTimeout),
        (Fault::Throttled(Duration::from_secs(20)), Reason::DestinationThrottled),
        (Fault::Hang, Reason::DestinationTimeout),
    ] {
        let world = World::new(Family::Transaction);
        let session = world.open().await;
        for _ in 0..1_000 {
            world.target.at_next_commit(fault.clone());
        }
        session.push(0..5).await;
        let problem = failed(last(session.output).await);
        assert_eq!((problem.code, problem.reason), (Code::Aborted, reason));
        assert!(problem.retry_after.is_some() && metadata(&problem, "next_offset") == "0", "{problem:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn law_12_at_open_a_passing_failure_is_told_at_once() {
    let world = World::new(Family::Transaction);
    world.target.at_next_open(Fault::Before(ConnectorErrorKind::Unreachable));
    let problem = world.delivery.open(world.order()).await.expect_err("the target is away");
    assert_eq!((problem.code, problem.reason, problem.retry_after.is_some()), (Code::Aborted, Reason::DestinationUnreachable, true));
    assert_eq!(world.delivery.live().len(), 0);
    world.open().await;
}

#[tokio::test(start_paused = true)]
async fn what_a_person_must_mend_ends_the_session_loudly() {
    let world = World::new(Family::Transaction);
    world.target.at_next_commit(Fault::Before(ConnectorErrorKind::PermissionDenied));
    let session = world.open().await;
    session.push(0..5).await;
    let events = session.rest().await;
    let [.., Event::Destination(status), Event::Failed(problem)] = &events[..] else { panic!("{events:?}") };
    assert_eq!(status.state, DestinationState::Refused);
    assert_eq!((problem.code, problem.reason, problem.retry_after), (Code::FailedPrecondition, Reason::DestinationForbidden, None));
    assert_eq!(problem.preconditions[0].kind, "DESTINATION");
}

/// Records 3, 7 and 8 of 10 are bad, in each way there is.
fn bad_ones(offset: Offset) -> String {
    match offset {
        3 => poison(sim::REFUSED_AT_APPEND, 3),
        7 => poison(sim::REFUSED_SILENTLY, 7),
        8 => poison(sim::REFUSED_AT_COMMIT, 8),
        9 => sim::UNPARSABLE.to_owned(),
        good => sim::text(good),
    }
}

#[tokio::test(start_paused = true)]
async fn law_13_stop_settles_what_is_before_and_names_the_record() {
    for (word, reason) in [
        (sim::REFUSED_AT_APPEND, Reason::RecordInvalid),
        (sim::REFUSED_AT_COMMIT, Reason::RecordInvalid),
        (sim::REFUSED_SILENTLY, Reason::RecordInvalid),
        (sim::UNPARSABLE, Reason::RecordUnparsable),
    ] {
        for family in [Family::Transaction, Family::Objects, Family::Receiver] {
            let world = World::new(family);
            let session = world.open().await;
            let mut records = texts(0..10);
            records[6] = poison(word, 6);
            session.push(0..2).await;
            session.input.send(batch(Some(0), &records)).await.expect("the session is open");
            let events = session.rest().await;
            let [.., Event::Ack(ack), Event::RecordErrors(errors), Event::Failed(problem)] = &events[..] else { panic!("{word} {family:?}: {events:?}") };
            assert_eq!((ack.next_offset, ack.counts.delivered), (6, 6));
            assert_eq!((errors.errors[0].offset, errors.errors[0].index, errors.errors[0].disposition), (6, 6, Disposition::Stopped));
            assert_eq!((problem.code, problem.reason), (Code::InvalidArgument, reason), "{word}");
            assert_eq!((metadata(problem, "offset"), metadata(problem, "index")), ("6", "6"));
            assert_eq!(world.offsets(), (0..6).collect::<Vec<_>>());
        }
    }
}

#[tokio::test(start_paused = true)]
async fn law_13_stop_settles_what_is_before_also_if_the_destination_fails_meanwhile() {
    let world = World::new(Family::Transaction);
    for _ in 0..3 {
        world.target.at_next_commit(Fault::Before(ConnectorErrorKind::Unreachable));
    }
    let session = world.open().await;
    let mut records = texts(0..10);
    records[6] = poison(sim::REFUSED_AT_APPEND, 6);
    session.input.send(batch(Some(0), &records)).await.expect("the session is open");
    assert_eq!(metadata(&failed(last(session.output).await), "offset"), "6");
    assert_eq!(world.offsets(), (0..6).collect::<Vec<_>>());
}

#[tokio::test(start_paused = true)]
async fn a_receivers_unit_that_was_cut_smaller_is_cut_so_again_after_a_crash() {
    let world = World::new(Family::Receiver);
    world.target.units(UnitPolicy { records_max: 8, bytes_max: 1 << 20, age_max: Duration::ZERO, idle_max: Duration::ZERO, commits_in_flight: 1 });
    let skip = || OpenOrder { policy: RecordErrorPolicy::Skip, ..world.order() };
    let mut records = texts(0..12);
    records[3] = poison(sim::REFUSED_SILENTLY, 3);
    let session = world.delivery.open(skip()).await.expect("the stream opens");
    session.input.send(batch(Some(0), &records[..8])).await.expect("the session is open");
    // The first half without the bad record arrives, and its reply is lost with the server.
    tokio::time::sleep(Duration::from_millis(2)).await;
    drop(session);
    world.delivery.settled().await;
    world.progress.crash();
    let ends = world.progress.kept(&world.stream()).expect("it was noted").planned_ends;
    assert!(ends.contains(&8) && ends.len() > 1, "the whole and its half: {ends:?}");
    let session = world.delivery.open(skip()).await.expect("the stream opens");
    session.input.send(batch(Some(0), &records)).await.expect("the session is open");
    assert_eq!(session.half_close().await.counts.rejected, 1);
    assert_eq!(world.offsets(), [0, 1, 2, 4, 5, 6, 7, 8, 9, 10, 11]);
    assert_eq!(world.target.conflicts(&world.stream()), 0);
}

#[tokio::test(start_paused = true)]
async fn law_13_and_15_skip_reports_before_the_ack_and_the_counts_add_up() {
    for family in [Family::Transaction, Family::Objects, Family::Receiver] {
        let world = World::new(family);
        let session = world.delivery.open(OpenOrder { policy: RecordErrorPolicy::Skip, ..world.order() }).await.expect("the stream opens");
        let records: Vec<String> = (0..12).map(bad_ones).collect();
        session.input.send(batch(Some(0), &records)).await.expect("the session is open");
        let Session { input, mut output, .. } = session;
        input.half_close();
        let mut reported = Vec::new();
        let end = loop {
            match output.next().await.expect("it ends well") {
                Event::RecordErrors(errors) => reported.extend(errors.errors.iter().map(|error| (error.offset, error.index, error.disposition))),
                Event::Ack(ack) => {
                    let passed = [3_u64, 7, 8, 9].iter().filter(|bad| **bad < ack.next_offset).count();
                    assert!(reported.len() >= passed, "errors come before the ack that passes them");
                    assert_eq!(ack.counts.delivered + ack.counts.rejected, ack.next_offset);
                }
                Event::Ended(end) => break end,
                Event::Destination(_) => {}
                other => panic!("{other:?}"),
            }
        };
        assert_eq!(reported, [3, 7, 8, 9].map(|bad| (bad, usize::try_from(bad).expect("small"), Disposition::Skipped)));
        assert_eq!((end.next_offset, end.counts.delivered, end.counts.rejected), (12, 8, 4), "{family:?}");
        assert_eq!(world.offsets(), [0, 1, 2, 4, 5, 6, 10, 11]);
        assert_eq!(world.target.conflicts(&world.stream()), 0);
        let again = world.delivery.open(OpenOrder { policy: RecordErrorPolicy::Skip, ..world.order() }).await.expect("the stream opens");
        assert_eq!(again.half_close().await.counts.rejected, 4, "the mark carries the count");
    }
}

#[tokio::test(start_paused = true)]
async fn law_13_dead_letters_are_durable_first_and_once() {
    let world = World::new(Family::Transaction);
    let letters = SimTarget::new(Family::Transaction).takes_everything();
    let order = || order_with_dead_letters(&world.target, "s", &letters);
    let stream = order().dead_letters.expect("they have a place").stream;
    let session = world.delivery.open(order()).await.expect("the stream opens");
    let records: Vec<String> = (0..10).map(bad_ones).collect();
    // The main unit fails after its letters were written: they must not be written again.
    world.target.at_next_commit(Fault::Before(ConnectorErrorKind::Unreachable));
    session.input.send(batch(Some(0), &records)).await.expect("the session is open");
    let end = session.half_close().await;
    assert_eq!((end.counts.delivered, end.counts.rejected), (6, 4));
    let written = letters.visible(&stream);
    let values: Vec<serde_json::Value> = written.iter().map(|letter| serde_json::from_slice(&letter.text).expect("a letter is JSON")).collect();
    assert_eq!(values.iter().map(|value| value["offset"].as_u64()).collect::<Vec<_>>(), [Some(3), Some(7), Some(8), Some(9)]);
    assert_eq!(values[0]["record"].as_str(), Some(bad_ones(3).as_str()));
    assert_eq!((values[0]["reason"].as_str(), values[0]["stream"].as_str()), (Some("ERROR_REASON_RECORD_INVALID"), Some("s")));
    assert_eq!((values[0]["sink"].as_str(), values[0]["column"].as_str()), (Some("s.sim"), Some("x")));
    world.delivery.settled().await;
}

#[tokio::test(start_paused = true)]
async fn dead_letters_begin_where_the_count_is_if_records_were_skipped_before() {
    let world = World::new(Family::Transaction);
    let letters = SimTarget::new(Family::Transaction).takes_everything();
    let session = world.delivery.open(OpenOrder { policy: RecordErrorPolicy::Skip, ..world.order() }).await.expect("the stream opens");
    session.input.send(batch(Some(0), &[sim::UNPARSABLE.to_owned(), sim::text(1), sim::UNPARSABLE.to_owned()])).await.expect("the session is open");
    session.half_close().await;
    let order = order_with_dead_letters(&world.target, "s", &letters);
    let stream = order.dead_letters.clone().expect("they have a place").stream;
    let session = world.delivery.open(order).await.expect("the stream opens");
    session.input.send(batch(Some(3), &[sim::UNPARSABLE.to_owned()])).await.expect("the session is open");
    let end = session.half_close().await;
    assert_eq!((end.next_offset, end.counts.rejected), (4, 3));
    assert_eq!(letters.offsets(&stream), [2]);
}

#[tokio::test(start_paused = true)]
async fn a_stream_does_not_pass_a_record_whose_dead_letter_is_refused() {
    let world = World::new(Family::Transaction);
    let letters = SimTarget::new(Family::Transaction).takes_everything();
    letters.at_next_commit(Fault::Before(ConnectorErrorKind::NotFound));
    let order = order_with_dead_letters(&world.target, "s", &letters);
    let session = world.delivery.open(order).await.expect("the stream opens");
    session.input.send(batch(Some(0), &[sim::text(0), sim::UNPARSABLE.to_owned()])).await.expect("the session is open");
    let problem = failed(last(session.output).await);
    assert_eq!((problem.reason, metadata(&problem, "dead_letter_sink")), (Reason::DestinationNotFound, "s.letters"));
    assert_eq!(metadata(&problem, "next_offset"), "0", "of the dead letters' own stream");
    assert_eq!(world.offsets(), [0]);
    let skip = OpenOrder { policy: RecordErrorPolicy::Skip, ..world.order() };
    let session = world.delivery.open(skip).await.expect("the stream opens");
    assert_eq!(session.opened.next_offset, 1, "the bad record was not passed");
    session.half_close().await;
    let without = OpenOrder { policy: RecordErrorPolicy::DeadLetter, ..world.order() };
    assert_eq!(world.delivery.open(without).await.expect_err("there is no place").reason, Reason::InvalidField);
}

#[tokio::test(start_paused = true)]
async fn a_lost_reply_is_looked_up_not_repeated() {
    for family in [Family::Transaction, Family::Objects, Family::Receiver] {
        let world = World::new(family);
        world.target.at_next_commit(Fault::ReplyLost);
        let session = world.open().await;
        session.push(0..5).await;
        session.push(5..8).await;
        assert_eq!(session.half_close().await.next_offset, 8);
        assert_eq!(world.offsets(), (0..8).collect::<Vec<_>>(), "{family:?}");
        assert_eq!(world.target.conflicts(&world.stream()), 0);
    }
}

#[tokio::test(start_paused = true)]
async fn a_destination_that_went_back_stops_the_stream_and_says_what_to_do() {
    let world = World::new(Family::Transaction);
    let session = world.open().await;
    session.push(0..5).await;
    session.half_close().await;
    world.target.go_back(&world.stream(), Some(connectors_mark(3)));
    let problem = world.delivery.open(world.order()).await.expect_err("records are gone");
    assert_eq!((problem.code, problem.reason), (Code::FailedPrecondition, Reason::StreamMismatch));
    assert_eq!((metadata(&problem, "field"), metadata(&problem, "was"), metadata(&problem, "is")), ("destination mark", "5", "3"));
    assert!(problem.message.contains("DropPushStream"));
    // Where the sink was pointed elsewhere since, that is no fault.
    let mut elsewhere = world.order();
    elsewhere.sink.destination_generation = 2;
    world.target.go_back(&world.stream(), None);
    let session = world.delivery.open(elsewhere.clone()).await.expect("another destination starts without");
    assert_eq!(session.opened.next_offset, 5);
    // Nor is it one before the new destination has anything.
    session.half_close().await;
    let session = world.delivery.open(elsewhere).await.expect("it still has nothing");
    session.push(5..7).await;
    assert_eq!(session.half_close().await.next_offset, 7);
    assert_eq!(world.offsets(), [5, 6]);
}

fn connectors_mark(next: Offset) -> Mark {
    Mark { next, ..Mark::default() }
}

#[tokio::test(start_paused = true)]
async fn a_destination_that_goes_back_under_a_session_stops_it() {
    let world = World::new(Family::Transaction);
    let mut session = world.open().await;
    session.push(0..5).await;
    session.flush("a").await;
    world.target.go_back(&world.stream(), None);
    world.target.at_next_commit(Fault::Before(ConnectorErrorKind::Unreachable));
    session.push(5..6).await;
    assert_eq!(failed(last(session.output).await).reason, Reason::StreamMismatch);
}

#[tokio::test(start_paused = true)]
async fn an_object_with_the_same_records_is_adopted_and_one_with_others_stops_the_stream() {
    for honest in [true, false] {
        let world = World::new(Family::Objects);
        let session = world.open().await;
        let records: Vec<_> = (0..3).map(|offset| (offset, bytes::Bytes::from(sim::text(if honest { offset } else { offset + 50 })))).collect();
        let mut hash = RollingHash::default();
        records.iter().for_each(|(_, text)| hash.add(text));
        world.target.plant(&world.stream(), 0, records, Mark { next: 3, hash: hash.value(), ..Mark::default() });
        session.push(0..5).await;
        let events = {
            let Session { input, mut output, .. } = session;
            input.half_close();
            let mut last = None;
            while let Some(event) = output.next().await {
                last = Some(event);
            }
            last.expect("it ends")
        };
        if honest {
            assert_eq!(ended(events).counts.delivered, 5);
            assert_eq!(world.offsets(), [0, 1, 2, 3, 4]);
        } else {
            let problem = failed(events);
            assert_eq!((problem.code, problem.reason), (Code::Aborted, Reason::StreamFenced));
            assert!(problem.message.contains("exist at the destination with other data"));
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_receivers_unit_is_cut_alike_after_a_crash() {
    let world = World::new(Family::Receiver);
    world.target.units(UnitPolicy { records_max: 5, bytes_max: 1 << 20, age_max: Duration::from_secs(1), idle_max: Duration::ZERO, commits_in_flight: 4 });
    let session = world.open().await;
    session.push(0..3).await;
    session.input.send(Input::Flush("a".to_owned())).await.expect("the session is open");
    world.target.at_next_commit(Fault::Hang);
    tokio::time::sleep(Duration::from_millis(1)).await;
    assert_eq!(world.progress.kept(&world.stream()).map(|kept| kept.planned_ends), Some(vec![3]), "noted before it is sent");
    drop(session);
    world.delivery.settled().await;
    // The same records come again in one large batch and in small ones.
    let session = world.open().await;
    session.push(0..2).await;
    session.push(2..9).await;
    assert_eq!(session.half_close().await.next_offset, 9);
    assert_eq!(world.target.unit_sizes(&world.stream()), [3, 5, 1]);
}

#[tokio::test(start_paused = true)]
async fn a_receivers_unit_that_is_ready_is_planned_in_the_note_of_the_one_before() {
    let world = World::new(Family::Receiver);
    world.target.units(UnitPolicy { records_max: 5, bytes_max: 1 << 20, age_max: Duration::ZERO, idle_max: Duration::ZERO, commits_in_flight: 1 });
    let session = world.open().await;
    let before = world.progress.puts();
    session.push(0..23).await;
    assert_eq!(session.half_close().await.next_offset, 23);
    assert_eq!(world.target.unit_sizes(&world.stream()), [5, 5, 5, 5, 3]);
    assert_eq!(world.progress.puts() - before, 6, "the first plan, then a mark with the next plan for each unit");
}

#[tokio::test(start_paused = true)]
async fn a_unit_planned_with_the_mark_before_it_is_cut_alike_after_a_crash() {
    let world = World::new(Family::Receiver);
    world.target.units(UnitPolicy { records_max: 5, bytes_max: 1 << 20, age_max: Duration::ZERO, idle_max: Duration::ZERO, commits_in_flight: 1 });
    let mut session = world.open().await;
    session.push(0..5).await;
    session.push(5..8).await;
    let Some(Event::Ack(_)) = session.output.next().await else { panic!("the first unit is acknowledged") };
    let kept = world.progress.kept(&world.stream()).expect("it was noted");
    assert_eq!((kept.mark.next, kept.planned_ends), (5, vec![8]));
    drop(session);
    world.delivery.settled().await;
    world.progress.crash();
    let session = world.open().await;
    session.push(5..12).await;
    assert_eq!(session.half_close().await.next_offset, 12);
    assert_eq!(world.target.unit_sizes(&world.stream()), [5, 3, 4]);
    assert_eq!(world.target.conflicts(&world.stream()), 0);
}

#[tokio::test(start_paused = true)]
async fn acks_that_follow_one_another_at_once_are_told_together_and_wait_for_nothing_else() {
    let one = UnitPolicy { records_max: 1, bytes_max: 1 << 20, age_max: Duration::ZERO, idle_max: Duration::ZERO, commits_in_flight: 1 };
    let world = World::new(Family::Transaction);
    world.target.units(one);
    (0..200).for_each(|_| world.target.at_next_commit(Fault::Delay(Duration::ZERO)));
    let mut session = world.open().await;
    session.push(0..200).await;
    let mut acks = 0;
    loop {
        let Some(Event::Ack(ack)) = session.output.next().await else { panic!("an ack") };
        acks += 1;
        if ack.next_offset == 200 {
            break;
        }
    }
    assert!(acks < 10, "{acks} acks for 200 units that settle at once");

    let world = World::new(Family::Transaction);
    world.target.units(one);
    world.target.at_next_commit(Fault::Delay(Duration::ZERO));
    world.target.at_next_commit(Fault::Delay(Duration::ZERO));
    world.target.at_next_commit(Fault::Hang);
    let mut session = world.open().await;
    session.push(0..3).await;
    let mut told = 0;
    while told < 2 {
        let Some(Event::Ack(ack)) = session.output.next().await else { panic!("the second unit is acknowledged though the third hangs") };
        told = ack.next_offset;
    }
}

#[tokio::test(start_paused = true)]
async fn a_note_that_is_the_mark_is_on_disk_before_the_ack() {
    let world = World::new(Family::Receiver);
    let mut session = world.open().await;
    session.push(0..3).await;
    session.flush("a").await;
    world.progress.crash();
    assert_eq!(world.progress.kept(&world.stream()).map(|kept| kept.mark.next), Some(3));
    world.progress.fail(true);
    session.push(3..4).await;
    let problem = failed(last(session.output).await);
    assert_eq!((problem.code, problem.reason), (Code::Unavailable, Reason::StoreUnavailable));
}

#[tokio::test(start_paused = true)]
async fn a_note_that_is_not_the_mark_may_be_lost() {
    let world = World::new(Family::Transaction);
    let mut session = world.open().await;
    world.progress.fail(true);
    session.push(0..3).await;
    assert_eq!(session.flush("a").await.next_offset, 3);
    session.half_close().await;
    world.progress.fail(false);
    world.progress.crash();
    assert_eq!(world.open().await.opened.next_offset, 3, "the target's mark goes before ours");
}

#[tokio::test(start_paused = true)]
async fn a_stream_is_opened_as_it_was_first() {
    let world = World::new(Family::Transaction);
    world.open().await.half_close().await;
    let problem = world.delivery.open(OpenOrder { commit_mode: CommitMode::OnFinish, ..world.order() }).await.expect_err("another mode");
    assert_eq!((problem.reason, metadata(&problem, "field"), metadata(&problem, "was")), (Reason::StreamMismatch, "commit_mode", "CONTINUOUS"));
    let source = Source::TableMonitor("s.m".to_owned());
    let problem = world.delivery.open(OpenOrder { source, ..world.order() }).await.expect_err("another source");
    assert_eq!((problem.reason, metadata(&problem, "field")), (Reason::StreamMismatch, "source"));
    let label = Source::Adhoc("another label".to_owned());
    assert!(world.delivery.open(OpenOrder { source: label, ..world.order() }).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_weaker_guarantee_than_required_is_refused() {
    let world = World::new(Family::Receiver);
    let order = OpenOrder { required: Some(Guarantee::ExactlyOnce), ..world.order() };
    let problem = world.delivery.open(order).await.expect_err("a receiver cannot");
    assert_eq!((problem.reason, metadata(&problem, "available")), (Reason::DeliveryUnsupported, "IDEMPOTENT"));
}

#[tokio::test(start_paused = true)]
async fn there_are_no_more_sessions_than_the_limit() {
    let world = World::with(Family::Transaction, DeliverySettings { sessions_max: 1, ..DeliverySettings::default() });
    let _session = world.open().await;
    let problem = world.delivery.open(order(&world.target, "another")).await.expect_err("one is all");
    assert_eq!((problem.code, problem.reason, problem.retry_after.is_some()), (Code::ResourceExhausted, Reason::TooManyStreams, true));
    world.open().await;
}

#[tokio::test(start_paused = true)]
async fn an_ephemeral_stream_leaves_no_note() {
    let world = World::new(Family::Transaction);
    let session = world.delivery.open(OpenOrder { ephemeral: true, ..world.order() }).await.expect("the stream opens");
    session.push(0..3).await;
    let ended = session.half_close().await;
    assert!(!ended.resumable && ended.next_offset == 3);
    assert_eq!(world.progress.kept(&world.stream()), None);
}

#[tokio::test(start_paused = true)]
async fn a_large_batch_is_cut_to_the_targets_units_and_commits_overlap() {
    let world = World::new(Family::Objects);
    world.target.units(UnitPolicy { records_max: 7, bytes_max: 1 << 20, age_max: Duration::from_secs(30), idle_max: Duration::ZERO, commits_in_flight: 3 });
    let session = world.open().await;
    session.push(0..30).await;
    assert_eq!(session.half_close().await.next_offset, 30);
    assert_eq!(world.target.unit_sizes(&world.stream()), [7, 7, 7, 7, 2]);
    assert_eq!(world.offsets(), (0..30).collect::<Vec<_>>());
}
