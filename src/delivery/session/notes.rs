//! Why: what our own store is told of a session, and when, is decided here: where our note is the mark, neither an ack nor a unit goes out ahead of it. Never waits for a note that nothing depends on.

use std::time::Duration;

use tokio::time::Instant;

use super::{Failpoint, Item, Stop, Task, batch, batch::Unit};
use crate::{
    connectors::{
        connector::{Epoch, Mark, UnitPolicy},
        error::{ConnectorError, ConnectorErrorKind},
    },
    delivery::{Durable, Kept, batch::Cut},
    problem::{Problem, Reason},
    record::Offset,
};

/// The least time between two acks while more records are on their way to being settled: acks are cumulative, and one a unit would cost a fast destination more than its requests.
const ACK_PACE: Duration = Duration::from_millis(1);
/// The most ends of units that are noted ahead.
const PLANNED_ENDS_MAX: usize = 16;

impl Task {
    /// Notes what was just settled. Where our note is the mark it may wait for as long as the ack does, if the next unit's end is on disk already; not where something `urgent` depends on it.
    pub(super) async fn note_settled(&mut self, urgent: bool) -> Result<(), Stop> {
        if !self.ours {
            self.save(Durable::Soon).await?;
        } else if !urgent && self.ack_may_wait() && self.next_end_is_on_disk() {
            self.note_due = true;
            return Ok(());
        } else {
            self.plan_ahead();
            self.save(Durable::Now).await?;
        }
        Failpoint::Noted.reached();
        Ok(())
    }

    /// Whether an ack follows so soon that one frame does for both.
    fn ack_may_wait(&self) -> bool {
        self.ending.is_none() && self.held.next() > self.books.mark.next && !self.books.flush_due() && Instant::now() < self.told + ACK_PACE
    }

    /// Whether another unit can be sent before anything more is noted.
    fn next_end_is_on_disk(&self) -> bool {
        self.cuts_on_disk.range(self.books.mark.next + 1..).next().is_some_and(|end| *end <= self.held.next())
    }

    /// Tells the ack now, or lets it wait for company.
    pub(super) fn pace_ack(&mut self) {
        if self.note_due || self.ack_may_wait() {
            self.ack_due = Some(self.told + ACK_PACE);
        } else {
            self.tell_ack();
        }
    }

    /// Tells the ack as soon as what it says is noted.
    pub(super) fn ack_soon(&mut self) {
        if self.note_due {
            self.ack_due = Some(Instant::now());
        } else {
            self.tell_ack();
        }
    }

    /// Writes the note that is due, and tells the ack that waits for it.
    pub(super) async fn catch_up(&mut self) -> Result<(), Stop> {
        if self.note_due {
            self.plan_ahead();
            self.save(Durable::Now).await?;
            Failpoint::Noted.reached();
        }
        if self.ack_due.is_some() {
            self.tell_ack();
        }
        Ok(())
    }

    fn tell_ack(&mut self) {
        (self.told, self.ack_due) = (Instant::now(), None);
        let ack = self.books.ack(self.delivery.ambient().now());
        self.outbox.ack(ack);
        Failpoint::AckQueued.reached();
        self.publish();
    }

    /// Where our note is the mark, the ends of the units that follow are noted together with the mark before them, as far as it is known where they end: one note for many units instead of
    /// two for each. What comes later than this goes into the units after them.
    fn plan_ahead(&mut self) {
        let Some(policy) = self.line.policy().copied().filter(|_| !self.order.ephemeral) else { return };
        let now = Instant::now();
        let ready = self.line.is_free() && matches!(self.cut(), Some(Cut::Now | Cut::Idle));
        let mut unit = match self.unit.clone() {
            Some(unit) if ready => {
                self.cuts.insert(unit.mark.next);
                Unit::after(unit.mark, now)
            }
            Some(unit) => unit,
            None => Unit::after(self.tail, now),
        };
        while self.cuts.len() < PLANNED_ENDS_MAX
            && let Some(end) = self.full_end(unit, &policy, now)
        {
            self.cuts.insert(end);
            unit = Unit::after(Mark { next: end, ..Mark::default() }, now);
        }
    }

    /// Where a unit will end that is filled with what is here; only if that fills it.
    fn full_end(&self, mut unit: Unit, policy: &UnitPolicy, now: Instant) -> Option<Offset> {
        let hard_end = self.hard_end(&unit);
        loop {
            if batch::is_full(&unit, policy, hard_end) {
                return (!unit.is_empty()).then_some(unit.mark.next);
            }
            let Item::Good(batch, bytes) = self.held.at(unit.mark.next)? else { return None };
            match batch::room(&unit, policy, hard_end, &batch, bytes) {
                0 => return Some(unit.mark.next),
                room if room < batch.len() => unit.take(&batch.slice(0..room), false, now),
                _ => unit.take(&batch, false, now),
            }
        }
    }

    /// What our own store should know now.
    pub(super) fn note(&self) -> Kept {
        Kept {
            mark: self.books.mark,
            planned_ends: if self.ours { self.cuts.iter().copied().collect() } else { Vec::new() },
            duplicates: self.books.duplicates,
            delivered_bytes: self.books.delivered_bytes,
            acknowledged: self.books.acknowledged,
            ..self.note.clone()
        }
    }

    /// Notes progress in our own store. Where the target keeps the mark the note is advisory: failing to write it costs nothing but the warning.
    pub(super) async fn save(&mut self, durable: Durable) -> Result<(), Stop> {
        if self.order.ephemeral {
            self.note_due = false;
            return Ok(());
        }
        let note = self.note();
        let saved = self.delivery.progress().save(&self.order.stream, &note, durable).await;
        if durable == Durable::Now && saved.is_ok() {
            self.note_due = false;
            self.cuts_on_disk.clone_from(&self.cuts);
        }
        match saved {
            Err(problem) if durable == Durable::Now || problem.reason == Reason::StreamFenced => Err(problem.into()),
            Err(problem) => {
                tracing::warn!(%problem, "progress could not be noted");
                Ok(())
            }
            Ok(()) => Ok(()),
        }
    }

    /// Notes the next epoch before any target sees it, unless our store knows of a newer writer: opening would fence that one off.
    pub(super) async fn claim_epoch(&mut self) -> Result<(), ConnectorError> {
        let claimed = Epoch(self.note.epoch.0 + 1);
        if !self.order.ephemeral {
            let progress = self.delivery.progress().clone();
            let kept = progress.load(&self.order.stream).await.map_err(|problem| store_error(&problem))?;
            if kept.is_some_and(|kept| kept.epoch >= claimed) {
                return Err(ConnectorError::new(ConnectorErrorKind::Fenced, "a newer writer has opened the stream"));
            }
            let note = Kept { epoch: claimed, ..self.note() };
            progress.save(&self.order.stream, &note, Durable::Now).await.map_err(|problem| store_error(&problem))?;
        }
        self.note.epoch = claimed;
        Ok(())
    }
}

/// Our own store as a part of the way to the target: it is waited for like one.
fn store_error(problem: &Problem) -> ConnectorError {
    if problem.reason == Reason::StreamFenced {
        return ConnectorError::new(ConnectorErrorKind::Fenced, problem.message.clone());
    }
    ConnectorError::new(ConnectorErrorKind::Store, problem.message.clone())
}
