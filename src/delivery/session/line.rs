//! Why: the way to the target is one value with one future in its hand, so that a session can wait for it and for everything else at the same time. Never decides anything.

use std::{
    collections::VecDeque,
    future::{Future, poll_fn},
    pin::Pin,
    task::{Context, Poll},
};

use futures::{
    FutureExt,
    future::{BoxFuture, MaybeDone, maybe_done},
};
use tokio::time::{Instant, sleep_until};
use tracing::{Instrument, Span};

use crate::{
    connectors::{
        connector::{Appended, Finish, Mark, Opened, Outcome, SinkWriter, UnitPolicy},
        error::ConnectorError,
    },
    delivery::{batch::Unit, dead_letters::DeadLetters, failpoint},
    problem::Problem,
    record::Batch,
};

type Writer = Box<dyn SinkWriter>;
type Settled = (Unit, Result<Outcome, ConnectorError>);
type Committing = MaybeDone<BoxFuture<'static, Settled>>;

/// The way to the target.
pub(super) enum Line {
    /// Down; tried again then.
    Waiting(Instant),
    /// Being opened.
    Connecting(BoxFuture<'static, Result<Opened, ConnectorError>>),
    /// Open.
    Open(Open),
}

/// An open writer and what it is doing.
pub(super) struct Open {
    hand: Hand,
    /// Commits under way; they settle in order. (`FuturesOrdered` has its task polled once more after every commit that has to wait.)
    commits: VecDeque<Committing>,
    policy: UnitPolicy,
}

/// What the writer is doing.
pub(super) enum Hand {
    Free(Writer),
    Appending(BoxFuture<'static, (Writer, Batch, Result<Appended, ConnectorError>)>),
    /// Nothing: the dead letters of the unit are written first.
    Burying(Option<Writer>, BoxFuture<'static, (DeadLetters, Result<(), Problem>)>),
    Finishing(Finish, BoxFuture<'static, Result<Outcome, ConnectorError>>),
    /// It is being handed over.
    Empty,
}

/// What happened on the line.
#[expect(clippy::large_enum_variant, reason = "one lives at a time, on its way through one loop")]
pub(super) enum LineEvent {
    Due,
    Opened(Result<Opened, ConnectorError>),
    Appended(Writer, Batch, Result<Appended, ConnectorError>),
    Buried(Writer, DeadLetters, Result<(), Problem>),
    Settled(Unit, Result<Outcome, ConnectorError>),
    Finished(Finish, Result<Outcome, ConnectorError>),
}

impl Line {
    /// An open line; `serial` where a unit must be settled before the next is sent.
    pub(super) fn open(writer: Writer, policy: UnitPolicy, serial: bool) -> Self {
        let commits_in_flight = if serial { 1 } else { policy.commits_in_flight.max(1) };
        Self::Open(Open { hand: Hand::Free(writer), commits: VecDeque::new(), policy: UnitPolicy { commits_in_flight, ..policy } })
    }

    /// Whether the writer can be used now.
    pub(super) fn is_free(&self) -> bool {
        matches!(self, Self::Open(Open { hand: Hand::Free(_), .. }))
    }

    /// Whether an answer of the target is awaited. (The dead letters' session watches over its own.)
    pub(super) fn is_busy(&self) -> bool {
        match self {
            Self::Waiting(_) => false,
            Self::Connecting(_) => true,
            Self::Open(open) => !open.commits.is_empty() || matches!(open.hand, Hand::Appending(_) | Hand::Finishing(..)),
        }
    }

    /// Commits under way.
    pub(super) fn commits(&self) -> usize {
        if let Self::Open(open) = self { open.commits.len() } else { 0 }
    }

    /// Whether another commit may begin.
    pub(super) fn may_commit(&self) -> bool {
        matches!(self, Self::Open(open) if open.commits.len() < open.policy.commits_in_flight)
    }

    /// How large units may grow; only while it is open.
    pub(super) fn policy(&self) -> Option<&UnitPolicy> {
        if let Self::Open(open) = self { Some(&open.policy) } else { None }
    }

    /// Waits for what happens next. May be dropped: nothing is lost.
    pub(super) async fn event(&mut self) -> LineEvent {
        match self {
            Self::Waiting(until) => {
                sleep_until(*until).await;
                LineEvent::Due
            }
            Self::Connecting(opening) => LineEvent::Opened(opening.await),
            Self::Open(open) => {
                tokio::select! {
                    biased;
                    (unit, result) = poll_fn(|cx| settled(&mut open.commits, cx)) => LineEvent::Settled(unit, result),
                    event = open.hand.event() => event,
                }
            }
        }
    }

    /// Gives the writer back.
    pub(super) fn free(&mut self, writer: Writer) {
        if let Self::Open(open) = self {
            open.hand = Hand::Free(writer);
        }
    }

    fn take(&mut self) -> Option<(&mut Open, Writer)> {
        let Self::Open(open) = self else { return None };
        match std::mem::replace(&mut open.hand, Hand::Empty) {
            Hand::Free(writer) => Some((open, writer)),
            busy => {
                open.hand = busy;
                None
            }
        }
    }

    /// Begins to append; only while it is free.
    pub(super) fn append(&mut self, batch: Batch) {
        let Some((open, mut writer)) = self.take() else { return };
        let appending = async move {
            let result = writer.append(&batch).await;
            (writer, batch, result)
        };
        open.hand = Hand::Appending(appending.boxed());
    }

    /// Begins to commit, within `span`; only while it is free. The writer stays free.
    pub(super) fn commit(&mut self, unit: Unit, span: Span) {
        let Some((open, mut writer)) = self.take() else { return };
        let settlement = failpoint::while_pending(writer.commit(unit.mark));
        open.commits.push_back(maybe_done(async move { (unit, settlement.await) }.instrument(span).boxed()));
        open.hand = Hand::Free(writer);
    }

    /// Begins to write dead letters; only while it is free.
    pub(super) fn bury(&mut self, burying: impl Future<Output = (DeadLetters, Result<(), Problem>)> + Send + 'static) {
        let Some((open, writer)) = self.take() else { return };
        open.hand = Hand::Burying(Some(writer), burying.boxed());
    }

    /// Begins to finish; only while it is free.
    pub(super) fn finish(&mut self, action: Finish, mark: Mark) {
        let Some((open, writer)) = self.take() else { return };
        open.hand = Hand::Finishing(action, writer.finish(action, mark));
    }

    /// The writer, if nothing is being done with it.
    pub(super) fn into_writer(self) -> Option<Writer> {
        match self {
            Self::Open(Open { hand: Hand::Free(writer) | Hand::Burying(Some(writer), _), .. }) => Some(writer),
            _ => None,
        }
    }
}

/// Polls all commits; the oldest is told first.
fn settled(commits: &mut VecDeque<Committing>, cx: &mut Context<'_>) -> Poll<Settled> {
    for commit in &mut *commits {
        let _ = commit.poll_unpin(cx);
    }
    match commits.front_mut().and_then(|oldest| Pin::new(oldest).take_output()) {
        Some(settled) => {
            commits.pop_front();
            Poll::Ready(settled)
        }
        None => Poll::Pending,
    }
}

impl Hand {
    async fn event(&mut self) -> LineEvent {
        match self {
            Self::Appending(appending) => {
                let (writer, batch, result) = appending.await;
                *self = Self::Empty;
                LineEvent::Appended(writer, batch, result)
            }
            Self::Burying(writer, burying) => {
                let (dead, result) = burying.await;
                let writer = writer.take().expect("the writer is taken once, when the letters are written");
                *self = Self::Empty;
                LineEvent::Buried(writer, dead, result)
            }
            Self::Finishing(action, finishing) => {
                let (action, result) = (*action, finishing.await);
                *self = Self::Empty;
                LineEvent::Finished(action, result)
            }
            Self::Free(_) | Self::Empty => std::future::pending().await,
        }
    }
}
