//! Why: when a unit is cut and how much of a batch still fits is decided here, purely, so that every reason to cut can be tested. Never touches a writer or a clock.

use std::time::Duration;

use tokio::time::Instant;

use crate::{
    connectors::connector::{Mark, UnitPolicy},
    record::{Batch, Offset, Records, RollingHash},
};

/// A unit on its way: what was appended since the last cut.
#[derive(Debug, Clone)]
pub(super) struct Unit {
    /// Its first record.
    pub(super) first: Offset,
    /// The mark that its commit makes true.
    pub(super) mark: Mark,
    /// Records appended (rejected ones are not).
    pub(super) records: u64,
    /// Bytes appended.
    pub(super) bytes: u64,
    /// Records passed over because they were rejected.
    pub(super) rejected: u64,
    /// When its first record was taken.
    pub(super) opened: Instant,
    /// When its last one was.
    pub(super) touched: Instant,
    /// When it was handed to the target.
    pub(super) committed: Instant,
    /// The writer asked for the cut.
    pub(super) full: bool,
    /// The rejected ones are durable at the dead letter sink.
    pub(super) buried: bool,
    /// Trace context of the first batch that brought one.
    pub(super) traceparent: Option<std::sync::Arc<str>>,
}

impl Unit {
    /// An empty unit after `tail`.
    pub(super) fn after(tail: Mark, now: Instant) -> Self {
        Self {
            first: tail.next,
            mark: tail,
            records: 0,
            bytes: 0,
            rejected: 0,
            opened: now,
            touched: now,
            committed: now,
            full: false,
            buried: false,
            traceparent: None,
        }
    }

    /// Nothing was taken yet.
    pub(super) fn is_empty(&self) -> bool {
        self.mark.next == self.first
    }

    /// Records that were rejected.
    pub(super) fn pass(&mut self, count: u64, now: Instant) {
        self.touched = now;
        self.mark.next += count;
        self.mark.rejected += count;
        self.rejected += count;
    }

    /// Records that the writer took.
    pub(super) fn take(&mut self, batch: &Batch, hashed: bool, now: Instant) {
        self.touched = now;
        self.mark.next = batch.next_offset();
        self.records += batch.len() as u64;
        self.bytes += batch.byte_count();
        if hashed {
            let mut hash = RollingHash::from_value(self.mark.hash);
            // A record without a JSON text is left out by everyone who computes the hash.
            let _ = batch.advance(&mut hash);
            self.mark.hash = hash.value();
        }
    }
}

/// Everything besides the unit that the decision rests on.
#[derive(Debug, Clone, Copy)]
pub(super) struct Circumstances {
    /// How long records wait for company.
    pub(super) wait: Duration,
    /// Everything before this must be settled without waiting (flush, end, drain).
    pub(super) force_before: Offset,
    /// A sender waits for credit, or a new connection is wanted.
    pub(super) pressed: bool,
    /// No more will be sent.
    pub(super) last: bool,
    /// A unit must end exactly here.
    pub(super) hard_end: Option<Offset>,
    /// A unit interrupted by a crash ended here: nothing shorter is cut before `patience` is over.
    pub(super) planned_end: Option<Offset>,
    /// How long the planned end is waited for once there is another reason to cut.
    pub(super) patience: Duration,
}

/// When to cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cut {
    /// Before anything else goes in.
    Now,
    /// Once nothing more is here to go in: what came together is written together.
    Idle,
    /// Not before this, if nothing else happens.
    At(Instant),
}

/// When the unit, which is not empty, is to be cut.
pub(super) fn when(unit: &Unit, policy: &UnitPolicy, on: &Circumstances, now: Instant) -> Cut {
    if is_full(unit, policy, on.hard_end) {
        return Cut::Now;
    }
    let eager = on.wait.is_zero();
    let forced = on.pressed || unit.first < on.force_before && on.force_before <= unit.mark.next;
    let due = match policy.idle_max {
        _ if forced => unit.opened,
        Duration::ZERO => unit.opened + on.wait,
        idle => (unit.opened + on.wait).min(unit.touched + idle),
    };
    let due = match on.planned_end {
        Some(end) if unit.mark.next < end && !on.last => due + on.patience,
        _ => due,
    };
    match due <= now {
        true if forced || eager => Cut::Idle,
        true => Cut::Now,
        false => Cut::At(due),
    }
}

/// Whether nothing more may go into the unit.
pub(super) fn is_full(unit: &Unit, policy: &UnitPolicy, hard_end: Option<Offset>) -> bool {
    let full = unit.full || unit.records >= policy.records_max || unit.bytes >= policy.bytes_max;
    full || hard_end.is_some_and(|end| unit.mark.next >= end)
}

/// How many of the batch's records may still go into the unit; 0: cut first. A record larger than a whole unit goes alone: the writer judges it.
pub(super) fn room(unit: &Unit, policy: &UnitPolicy, hard_end: Option<Offset>, batch: &Batch, bytes: u64) -> usize {
    let to_end = hard_end.map_or(u64::MAX, |end| end.saturating_sub(batch.first_offset));
    let records = policy.records_max.saturating_sub(unit.records).min(to_end).min(batch.len() as u64);
    let records = usize::try_from(records).unwrap_or(usize::MAX);
    let left = policy.bytes_max.saturating_sub(unit.bytes);
    if bytes <= left {
        return records;
    }
    let fitting = match &batch.records {
        Records::Ndjson(lines) => lines
            .iter()
            .scan(0_u64, |sum, line| {
                *sum += line.len() as u64 + 1;
                Some(*sum)
            })
            .take_while(|sum| *sum <= left)
            .count(),
        Records::Arrow(_) => usize::try_from(u128::from(left) * batch.len() as u128 / u128::from(bytes.max(1))).unwrap_or(0),
    };
    let fitting = if fitting == 0 && unit.records == 0 { 1 } else { fitting };
    fitting.min(records)
}

#[cfg(test)]
mod tests {
    use super::*;

    const POLICY: UnitPolicy = UnitPolicy { records_max: 10, bytes_max: 100, age_max: Duration::ZERO, idle_max: Duration::ZERO, commits_in_flight: 1 };
    const CALM: Circumstances = Circumstances {
        wait: Duration::from_secs(30),
        force_before: 0,
        pressed: false,
        last: false,
        hard_end: None,
        planned_end: None,
        patience: Duration::from_secs(5),
    };

    fn unit(records: u64, now: Instant) -> Unit {
        let mut unit = Unit::after(Mark { next: 5, ..Mark::default() }, now);
        unit.mark.next += records;
        unit.records = records;
        unit
    }

    #[test]
    fn a_unit_waits_for_company_and_no_longer() {
        let now = Instant::now();
        assert_eq!(when(&unit(1, now), &POLICY, &CALM, now), Cut::At(now + CALM.wait));
        assert_eq!(when(&unit(1, now), &POLICY, &CALM, now + CALM.wait), Cut::Now);
        assert_eq!(when(&unit(1, now), &POLICY, &Circumstances { wait: Duration::ZERO, ..CALM }, now), Cut::Idle);
    }

    #[test]
    fn a_unit_that_nothing_more_comes_for_does_not_wait_for_its_age() {
        let now = Instant::now();
        let policy = UnitPolicy { idle_max: Duration::from_secs(2), ..POLICY };
        let touched = Unit { touched: now + Duration::from_secs(9), ..unit(2, now) };
        assert_eq!(when(&touched, &policy, &CALM, now + Duration::from_secs(10)), Cut::At(now + Duration::from_secs(11)));
        assert_eq!(when(&touched, &policy, &CALM, now + Duration::from_secs(11)), Cut::Now);
        let busy = Unit { touched: now + Duration::from_secs(29), ..unit(2, now) };
        assert_eq!(when(&busy, &policy, &CALM, now + Duration::from_secs(30)), Cut::Now, "its age counts all the same");
    }

    #[test]
    fn every_reason_cuts_at_once() {
        let now = Instant::now();
        assert_eq!(when(&unit(10, now), &POLICY, &CALM, now), Cut::Now, "count");
        assert_eq!(when(&Unit { bytes: 100, ..unit(1, now) }, &POLICY, &CALM, now), Cut::Now, "bytes");
        assert_eq!(when(&Unit { full: true, ..unit(1, now) }, &POLICY, &CALM, now), Cut::Now, "the writer");
        assert_eq!(when(&unit(3, now), &POLICY, &Circumstances { pressed: true, ..CALM }, now), Cut::Idle, "a waiting sender");
        assert_eq!(when(&unit(3, now), &POLICY, &Circumstances { force_before: 8, ..CALM }, now), Cut::Idle, "a flush");
        assert_eq!(when(&unit(3, now), &POLICY, &Circumstances { hard_end: Some(8), ..CALM }, now), Cut::Now, "a planned end");
    }

    #[test]
    fn a_flush_of_records_that_are_not_here_yet_or_settled_already_cuts_nothing() {
        let now = Instant::now();
        let waits = Cut::At(now + CALM.wait);
        assert_eq!(when(&unit(3, now), &POLICY, &Circumstances { force_before: 9, ..CALM }, now), waits);
        assert_eq!(when(&unit(3, now), &POLICY, &Circumstances { force_before: 5, ..CALM }, now), waits);
    }

    #[test]
    fn an_interrupted_unit_is_cut_alike_unless_the_rest_never_comes() {
        let now = Instant::now();
        let on = Circumstances { pressed: true, hard_end: Some(9), planned_end: Some(9), ..CALM };
        assert_eq!(when(&unit(3, now), &POLICY, &on, now), Cut::At(now + on.patience));
        assert_eq!(when(&unit(4, now), &POLICY, &on, now), Cut::Now);
        assert_eq!(when(&unit(3, now), &POLICY, &Circumstances { last: true, ..on }, now), Cut::Idle);
        assert_eq!(when(&unit(3, now), &POLICY, &on, now + on.patience), Cut::Idle);
    }
}
