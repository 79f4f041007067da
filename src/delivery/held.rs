//! Why: a session keeps what it received until it is settled, so that a unit can be cut again after any failure. Never holds a hole, and never a settled record.

use std::{collections::VecDeque, sync::Arc};

use bytes::Bytes;

use super::{Window, budget::Credit};
use crate::record::{Batch, Offset, Piece, RecordFault, RejectedRecord};

/// One run of what was received.
#[derive(Debug, Clone)]
pub(super) enum Item {
    /// Records to be delivered, and their bytes.
    Good(Batch, u64),
    /// A record that never will be.
    Bad(RejectedRecord),
    /// Offsets that stand for records rejected earlier and elsewhere.
    Gone(Offset, u64),
}

impl Item {
    fn first(&self) -> Offset {
        match self {
            Self::Good(batch, _) => batch.first_offset,
            Self::Bad(record) => record.offset,
            Self::Gone(first, _) => *first,
        }
    }

    fn next(&self) -> Offset {
        match self {
            Self::Good(batch, _) => batch.next_offset(),
            Self::Bad(record) => record.offset + 1,
            Self::Gone(first, count) => first + count,
        }
    }
}

#[derive(Debug)]
struct Held {
    item: Item,
    /// The offset of the first record of the batch it came in.
    origin: Offset,
    /// Given back when the whole batch is settled.
    credit: Option<Arc<Credit>>,
}

/// What was received and is not settled, in offset order without holes.
#[derive(Debug, Default)]
pub(super) struct Retained {
    items: VecDeque<Held>,
    next: Offset,
}

impl Retained {
    /// Nothing, from `next` on.
    pub(super) fn from(next: Offset) -> Self {
        Self { items: VecDeque::new(), next }
    }

    /// The offset after the last record received.
    pub(super) fn next(&self) -> Offset {
        self.next
    }

    /// Takes the pieces of a batch whose first record is `origin`, which must not be beyond [`Self::next`]; says how many records were here already.
    pub(super) fn receive(&mut self, origin: Offset, pieces: Vec<Piece>, credit: Credit) -> u64 {
        let (credit, before) = (Arc::new(credit), self.next);
        let mut end = origin;
        for piece in pieces {
            let item = match piece {
                Piece::Good(mut batch) => {
                    batch.first_offset += origin;
                    end = end.max(batch.next_offset());
                    let Some(batch) = batch.from_offset(self.next).filter(|batch| !batch.is_empty()) else { continue };
                    let bytes = batch.byte_count();
                    Item::Good(batch, bytes)
                }
                Piece::Bad(mut record) => {
                    record.offset += origin;
                    end = end.max(record.offset + 1);
                    if record.offset < self.next {
                        continue;
                    }
                    Item::Bad(record)
                }
            };
            debug_assert_eq!(item.first(), self.next, "pieces follow one another");
            self.next = item.next();
            self.items.push_back(Held { item, origin, credit: Some(credit.clone()) });
        }
        before.min(end).saturating_sub(origin)
    }

    /// Passes over offsets up to `to` that stand for records rejected elsewhere.
    pub(super) fn pass(&mut self, to: Offset) {
        if to > self.next {
            let item = Item::Gone(self.next, to - self.next);
            self.items.push_back(Held { item, origin: self.next, credit: None });
            self.next = to;
        }
    }

    /// What is at `offset`, cut to begin there.
    pub(super) fn at(&self, offset: Offset) -> Option<Item> {
        let held = self.items.get(self.index_of(offset)?)?;
        Some(match &held.item {
            Item::Good(batch, _) if batch.first_offset < offset => {
                let batch = batch.from_offset(offset).expect("the item reaches beyond the offset");
                let bytes = batch.byte_count();
                Item::Good(batch, bytes)
            }
            Item::Gone(first, count) => Item::Gone(offset, first + count - offset),
            whole => whole.clone(),
        })
    }

    fn index_of(&self, offset: Offset) -> Option<usize> {
        let index = self.items.partition_point(|held| held.item.next() <= offset);
        (index < self.items.len()).then_some(index)
    }

    /// Forgets what lies before `offset` and returns the rejected records among it.
    pub(super) fn release(&mut self, offset: Offset) -> Vec<RejectedRecord> {
        let mut rejected = Vec::new();
        while self.items.front().is_some_and(|held| held.item.next() <= offset) {
            if let Some(Held { item: Item::Bad(record), .. }) = self.items.pop_front() {
                rejected.push(record);
            }
        }
        self.next = self.next.max(offset);
        rejected
    }

    /// Turns good records into rejected ones; says how many of the offsets named a good record.
    pub(super) fn reject(&mut self, faults: &[(Offset, RecordFault)]) -> usize {
        faults.iter().filter(|(offset, fault)| self.reject_one(*offset, fault)).count()
    }

    fn reject_one(&mut self, offset: Offset, fault: &RecordFault) -> bool {
        let Some(place) = self.index_of(offset) else { return false };
        let Held { item: Item::Good(batch, _), origin, credit } = &self.items[place] else { return false };
        let Some(index) = offset.checked_sub(batch.first_offset).and_then(|index| usize::try_from(index).ok()) else { return false };
        let (batch, origin, credit) = (batch.clone(), *origin, credit.clone());
        let part = |range: std::ops::Range<usize>| {
            (!range.is_empty()).then(|| {
                let part = batch.slice(range);
                let bytes = part.byte_count();
                Item::Good(part, bytes)
            })
        };
        let bad =
            RejectedRecord { offset, index: usize::try_from(offset - origin).unwrap_or(usize::MAX), original: batch.original(index), fault: fault.clone() };
        let parts = [part(0..index), Some(Item::Bad(bad)), part(index + 1..batch.len())];
        self.items.remove(place);
        for (at, item) in (place..).zip(parts.into_iter().flatten()) {
            self.items.insert(at, Held { item, origin, credit: credit.clone() });
        }
        true
    }

    /// How many good records lie in `[from, to)`.
    pub(super) fn good(&self, from: Offset, to: Offset) -> u64 {
        self.good_runs(from, to).map(|(first, next)| next - first).sum()
    }

    /// The offset that splits the good records of `[from, to)` into halves; only if there are two at least.
    pub(super) fn middle(&self, from: Offset, to: Offset) -> Option<Offset> {
        let mut left = self.good(from, to) / 2;
        for (first, next) in self.good_runs(from, to) {
            if left == 0 {
                return None;
            }
            if next - first >= left {
                return Some(first + left);
            }
            left -= next - first;
        }
        None
    }

    /// The first good record of `[from, to)`.
    pub(super) fn first_good(&self, from: Offset, to: Offset) -> Option<Offset> {
        self.good_runs(from, to).next().map(|(first, _)| first)
    }

    fn good_runs(&self, from: Offset, to: Offset) -> impl Iterator<Item = (Offset, Offset)> {
        self.items.iter().filter_map(move |held| match &held.item {
            Item::Good(batch, _) => {
                let (first, next) = (batch.first_offset.max(from), batch.next_offset().min(to));
                (first < next).then_some((first, next))
            }
            Item::Bad(_) | Item::Gone(..) => None,
        })
    }

    /// The good records and the number of other ones from the first record held to `to`, if all of them are here.
    pub(super) fn runs_before(&self, from: Offset, to: Offset) -> Option<Vec<Batch>> {
        if to > self.next || self.items.front().is_some_and(|held| held.item.first() > from) {
            return None;
        }
        let runs = self.items.iter().filter_map(|held| match &held.item {
            Item::Good(batch, _) => batch.from_offset(from).and_then(|batch| {
                let fit = usize::try_from(to.saturating_sub(batch.first_offset)).unwrap_or(usize::MAX).min(batch.len());
                (fit > 0).then(|| batch.slice(0..fit))
            }),
            Item::Bad(_) | Item::Gone(..) => None,
        });
        Some(runs.collect())
    }

    /// The rejected records of `[from, to)`.
    pub(super) fn rejected(&self, from: Offset, to: Offset) -> Vec<RejectedRecord> {
        let records = self.items.iter().filter_map(|held| match &held.item {
            Item::Bad(record) if (from..to).contains(&record.offset) => Some(record.clone()),
            _ => None,
        });
        records.collect()
    }
}

/// What a decoded batch weighs against the budget.
pub(super) fn weigh(pieces: &[Piece]) -> Window {
    pieces.iter().fold(Window::default(), |sum, piece| match piece {
        Piece::Good(batch) => Window { records: sum.records + batch.len() as u64, bytes: sum.bytes + batch.byte_count() },
        Piece::Bad(record) => Window { records: sum.records + 1, bytes: sum.bytes + Bytes::len(&record.original) as u64 },
    })
}
