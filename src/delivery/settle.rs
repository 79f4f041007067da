//! Why: what is settled, and the counts that follow from it, is plain arithmetic over marks, the same in a live session and after a crash. Never counts a record by itself: delivered is `next - rejected`, always.

use std::collections::VecDeque;

use super::{Ack, Counts, Kept, outbox::keep_newest};
use crate::{
    clock::Timestamp,
    connectors::connector::{Artifact, CommitMode, FoundMark, Mark, Outcome},
    record::Offset,
};

/// The destination's mark is below what was acknowledged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct WentBack {
    /// Acknowledged.
    pub(super) was: Offset,
    /// Found.
    pub(super) is: Offset,
}

/// Where a stream goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Resume {
    /// Its mark.
    pub(super) mark: Mark,
    /// The mark is our own note of progress at an earlier destination; the present one has none of it yet.
    pub(super) from_note: bool,
    /// An unfinished ON_FINISH stream lost its records.
    pub(super) rolled_back: bool,
}

/// Where a stream goes on, given our note and what the target says. The target's mark goes before ours.
pub(super) fn resume(kept: Option<&Kept>, destination_generation: u64, mode: CommitMode, found: FoundMark) -> Result<Resume, WentBack> {
    let noted = kept.map(|kept| kept.mark).unwrap_or_default();
    let same_target = kept.is_some_and(|kept| kept.destination_generation == destination_generation);
    let at = |mark| Ok(Resume { mark, from_note: false, rolled_back: false });
    match found {
        FoundMark::NotKept => at(noted),
        FoundMark::At(mark) if mark.next >= noted.next => at(mark),
        FoundMark::At(_) | FoundMark::Missing if noted.next == 0 => at(noted),
        FoundMark::At(_) | FoundMark::Missing if !same_target => Ok(Resume { mark: noted, from_note: true, rolled_back: false }),
        FoundMark::Missing if mode == CommitMode::OnFinish && !noted.finished => Ok(Resume { mark: Mark::default(), from_note: false, rolled_back: true }),
        FoundMark::At(mark) => Err(WentBack { was: noted.next, is: mark.next }),
        FoundMark::Missing => Err(WentBack { was: noted.next, is: 0 }),
    }
}

/// What a stream has settled.
#[derive(Debug, Clone, Default)]
pub(super) struct Books {
    /// Everything before its `next` is settled.
    pub(super) mark: Mark,
    /// Up to here the mark rests on our note alone: the target need not have it.
    pub(super) noted: Offset,
    /// Records that came again.
    pub(super) duplicates: u64,
    /// Bytes delivered.
    pub(super) delivered_bytes: u64,
    /// When something was settled last.
    pub(super) acknowledged: Option<Timestamp>,
    /// Receipts that no ack has carried yet.
    pub(super) artifacts: Vec<Artifact>,
    /// Flushes to be answered, by the offset that answers them.
    pub(super) flushes: VecDeque<(Offset, String)>,
}

impl Books {
    /// The totals.
    pub(super) fn counts(&self) -> Counts {
        Counts {
            delivered: self.mark.next - self.mark.rejected,
            rejected: self.mark.rejected,
            duplicates: self.duplicates,
            delivered_bytes: self.delivered_bytes,
        }
    }

    /// A flush of everything before `offset`; of several at one offset only the last is answered.
    pub(super) fn flush(&mut self, offset: Offset, token: String) {
        match self.flushes.back_mut() {
            Some((last, kept)) if *last == offset => *kept = token,
            _ => self.flushes.push_back((offset, token)),
        }
    }

    /// Up to where flushes ask for settling.
    pub(super) fn flush_before(&self) -> Offset {
        self.flushes.back().map_or(0, |(offset, _)| *offset)
    }

    /// Whether a flush waits for nothing any more.
    pub(super) fn flush_due(&self) -> bool {
        self.flushes.front().is_some_and(|(offset, _)| *offset <= self.mark.next)
    }

    /// A unit became durable, or was found durable.
    pub(super) fn settle(&mut self, mark: Mark, outcome: Outcome, now: Timestamp) {
        debug_assert!(mark.next >= self.mark.next && mark.rejected >= self.mark.rejected, "a mark never falls");
        self.mark = mark;
        self.delivered_bytes += outcome.bytes;
        self.artifacts.extend(outcome.artifacts);
        keep_newest(&mut self.artifacts);
        self.acknowledged = Some(now);
    }

    /// The ack for everything settled so far.
    pub(super) fn ack(&mut self, now: Timestamp) -> Ack {
        let mut flush_token = None;
        while self.flush_due() {
            flush_token = self.flushes.pop_front().map(|(_, token)| token);
        }
        Ack {
            next_offset: self.mark.next,
            counts: self.counts(),
            flush_token,
            committed: self.acknowledged.unwrap_or(now),
            artifacts: std::mem::take(&mut self.artifacts),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{connectors::connector::Epoch, delivery::Source};

    fn mark(next: Offset, rejected: u64) -> Mark {
        Mark { next, rejected, ..Mark::default() }
    }

    fn kept(next: Offset, generation: u64) -> Kept {
        Kept {
            mark: mark(next, 0),
            epoch: Epoch(1),
            planned_ends: Vec::new(),
            destination_generation: generation,
            receipts: Vec::new(),
            source: Source::Adhoc(String::new()),
            commit_mode: CommitMode::Continuous,
            duplicates: 0,
            delivered_bytes: 0,
            principal: String::new(),
            client_id: String::new(),
            opened: Timestamp::default(),
            acknowledged: None,
        }
    }

    #[test]
    fn the_targets_mark_goes_before_ours_upwards_only() {
        let go = |kept: Option<&Kept>, found| resume(kept, 1, CommitMode::Continuous, found).map(|resume| resume.mark.next);
        assert_eq!(go(None, FoundMark::Missing), Ok(0));
        assert_eq!(go(None, FoundMark::At(mark(9, 1))), Ok(9));
        assert_eq!(go(Some(&kept(5, 1)), FoundMark::At(mark(9, 1))), Ok(9));
        assert_eq!(go(Some(&kept(5, 1)), FoundMark::NotKept), Ok(5));
        assert_eq!(go(Some(&kept(5, 1)), FoundMark::At(mark(4, 0))), Err(WentBack { was: 5, is: 4 }));
        assert_eq!(go(Some(&kept(5, 1)), FoundMark::Missing), Err(WentBack { was: 5, is: 0 }));
    }

    #[test]
    fn another_destination_is_not_bound_by_progress_at_the_earlier_one() {
        let resumed = resume(Some(&kept(5, 1)), 2, CommitMode::Continuous, FoundMark::Missing);
        assert_eq!(resumed, Ok(Resume { mark: mark(5, 0), from_note: true, rolled_back: false }));
        let resumed = resume(Some(&kept(5, 1)), 2, CommitMode::Continuous, FoundMark::At(mark(3, 0)));
        assert_eq!(resumed.map(|resumed| resumed.mark.next), Ok(5));
    }

    #[test]
    fn an_unfinished_stream_may_be_rolled_back_a_finished_one_not() {
        let rolled = resume(Some(&kept(5, 1)), 1, CommitMode::OnFinish, FoundMark::Missing);
        assert_eq!(rolled, Ok(Resume { mark: Mark::default(), from_note: false, rolled_back: true }));
        let mut done = kept(5, 1);
        done.mark.finished = true;
        assert!(resume(Some(&done), 1, CommitMode::OnFinish, FoundMark::Missing).is_err());
    }

    #[test]
    fn counts_add_up_and_an_ack_answers_the_flushes_it_completes() {
        let mut books = Books { mark: mark(10, 2), ..Books::default() };
        books.flush(12, "a".to_owned());
        books.flush(14, "b".to_owned());
        books.flush(14, "c".to_owned());
        books.flush(20, "d".to_owned());
        books.settle(mark(15, 3), Outcome { bytes: 7, ..Outcome::default() }, Timestamp::default());
        let ack = books.ack(Timestamp::default());
        assert_eq!((ack.next_offset, ack.counts.delivered, ack.counts.rejected, ack.counts.delivered_bytes), (15, 12, 3, 7));
        assert_eq!(ack.flush_token.as_deref(), Some("c"));
        assert_eq!(books.flush_before(), 20);
        assert_eq!(books.ack(Timestamp::default()).flush_token, None);
    }
}
