//! Why: a session is called from outside (stop, drain, reconnect, "a sender waits") without a queue: each sort of call has one place. Never loses a stop.

use std::sync::{
    Mutex,
    atomic::{AtomicBool, Ordering},
};

use tokio::{sync::Notify, time::Instant};

use super::{DrainReason, open::locked};
use crate::problem::Problem;

/// Where calls to one session are left.
#[derive(Debug, Default)]
pub(super) struct Control {
    calls: Mutex<Calls>,
    pressed: AtomicBool,
    bell: Notify,
}

#[derive(Debug, Default)]
struct Calls {
    stop: Option<Problem>,
    drain: Option<(DrainReason, Instant)>,
    reconnect: bool,
}

/// A call to a session.
#[derive(Debug)]
pub(super) enum Call {
    /// End with this failure; write nothing more.
    Stop(Problem),
    /// Settle what was sent, by then.
    Drain(DrainReason, Instant),
    /// New connection at the next unit.
    Reconnect,
    /// A sender waits for credit.
    Press,
}

impl Control {
    /// Ends the session; the first reason stays.
    pub(super) fn stop(&self, problem: Problem) {
        locked(&self.calls).stop.get_or_insert(problem);
        self.bell.notify_one();
    }

    /// Drains the session; the first deadline stays.
    pub(super) fn drain(&self, reason: DrainReason, deadline: Instant) {
        locked(&self.calls).drain.get_or_insert((reason, deadline));
        self.bell.notify_one();
    }

    /// Asks for a new connection.
    pub(super) fn reconnect(&self) {
        locked(&self.calls).reconnect = true;
        self.bell.notify_one();
    }

    /// Says that a sender waits.
    pub(super) fn press(&self) {
        if !self.pressed.swap(true, Ordering::AcqRel) {
            self.bell.notify_one();
        }
    }

    /// Whether a sender waits; forgets it.
    pub(super) fn take_press(&self) -> bool {
        self.pressed.swap(false, Ordering::AcqRel)
    }

    /// Waits for the next call, a stop before anything else. May be dropped without losing one.
    pub(super) async fn next(&self) -> Call {
        loop {
            if let Some(call) = self.take() {
                // Further calls may be waiting behind this one.
                self.bell.notify_one();
                return call;
            }
            self.bell.notified().await;
        }
    }

    fn take(&self) -> Option<Call> {
        let mut calls = locked(&self.calls);
        if let Some(problem) = calls.stop.clone() {
            return Some(Call::Stop(problem));
        }
        if let Some((reason, deadline)) = calls.drain.take() {
            return Some(Call::Drain(reason, deadline));
        }
        if std::mem::take(&mut calls.reconnect) {
            return Some(Call::Reconnect);
        }
        self.take_press().then_some(Call::Press)
    }

    /// Waits until the session is stopped, for the time in which it cannot take other calls.
    pub(super) async fn stopped(&self) -> Problem {
        loop {
            if let Some(problem) = locked(&self.calls).stop.clone() {
                return problem;
            }
            self.bell.notified().await;
        }
    }
}
