//! Why: what a session tells its sender is kept as the newest state, not as a queue: a sender that reads late, or never, costs no memory and blocks nobody. Never reorders errors behind the ack that passes them.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex},
};

use tokio::sync::Notify;

use super::{Ack, DestinationStatus, Event, RecordErrors, failpoint::Failpoint, open::locked};
use crate::limits::{ARTIFACTS_PER_FRAME_MAX, RECORD_ERRORS_PER_FRAME_MAX};

/// The session's end of the outbox.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    slots: Mutex<Slots>,
    filled: Notify,
}

#[derive(Debug, Default)]
struct Slots {
    errors: Option<RecordErrors>,
    ack: Option<Ack>,
    destination: Option<DestinationStatus>,
    drain: Option<Event>,
    /// The last events, in order; what comes after them is not told.
    last: Option<VecDeque<Event>>,
}

impl Outbox {
    /// Records that were not accepted; call it before the ack that passes them.
    pub(super) fn errors(&self, errors: RecordErrors) {
        self.fill(|slots| match &mut slots.errors {
            Some(unsent) => {
                unsent.errors.extend(errors.errors);
                let over = unsent.errors.len().saturating_sub(RECORD_ERRORS_PER_FRAME_MAX);
                unsent.errors.truncate(RECORD_ERRORS_PER_FRAME_MAX);
                unsent.more += errors.more + over as u64;
            }
            empty => *empty = Some(errors),
        });
    }

    /// Progress.
    pub(super) fn ack(&self, ack: Ack) {
        self.fill(|slots| match &mut slots.ack {
            Some(unsent) => {
                let mut artifacts = std::mem::take(&mut unsent.artifacts);
                artifacts.extend(ack.artifacts);
                keep_newest(&mut artifacts);
                let flush_token = ack.flush_token.or(unsent.flush_token.take());
                *unsent = Ack { artifacts, flush_token, ..ack };
            }
            empty => *empty = Some(ack),
        });
    }

    /// How the destination is.
    pub(super) fn destination(&self, status: DestinationStatus) {
        self.fill(|slots| slots.destination = Some(status));
    }

    /// The session will end.
    pub(super) fn drain(&self, event: Event) {
        self.fill(|slots| slots.drain = Some(event));
    }

    /// The last events; only the first call counts.
    pub(super) fn last(&self, events: impl IntoIterator<Item = Event>) {
        self.fill(|slots| {
            slots.last.get_or_insert_with(|| events.into_iter().collect());
        });
    }

    fn fill(&self, change: impl FnOnce(&mut Slots)) {
        let mut slots = locked(&self.slots);
        if slots.last.is_none() {
            change(&mut slots);
            drop(slots);
            self.filled.notify_one();
        }
    }
}

/// The newest receipts, as many as one frame carries.
pub(super) fn keep_newest(artifacts: &mut Vec<crate::connectors::connector::Artifact>) {
    let over = artifacts.len().saturating_sub(ARTIFACTS_PER_FRAME_MAX);
    artifacts.drain(..over);
}

impl Slots {
    /// The next event to tell; `Some(None)`: there will be none.
    fn take(&mut self) -> Option<Option<Event>> {
        if let Some(errors) = self.errors.take() {
            return Some(Some(Event::RecordErrors(errors)));
        }
        if let Some(ack) = self.ack.take() {
            return Some(Some(Event::Ack(ack)));
        }
        if let Some(status) = self.destination.take() {
            return Some(Some(Event::Destination(status)));
        }
        if let Some(drain) = self.drain.take() {
            return Some(Some(drain));
        }
        self.last.as_mut().map(VecDeque::pop_front)
    }
}

/// What a session tells, merged: unsent acks are one, unsent record errors are one, of the destination only the newest state is told.
#[derive(Debug)]
pub struct SessionOutput(pub(super) Arc<Outbox>);

impl SessionOutput {
    /// The next event; `None` after `Ended` or `Failed`. May be dropped without losing one.
    pub async fn next(&mut self) -> Option<Event> {
        loop {
            let taken = locked(&self.0.slots).take();
            if let Some(event) = taken {
                return event;
            }
            self.0.filled.notified().await;
            Failpoint::AckSent.reached();
        }
    }
}
