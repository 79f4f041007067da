//! Why: what changes in the catalogue reaches open sessions by a call down, never by sessions asking up. Never opens a session.

use std::fmt;

use crate::delivery::{Delivery, Directive, LiveSession, Which};

/// What the catalogue asks of open sessions; the engine of Push answers.
pub trait Sessions: Send + Sync + fmt::Debug {
    /// Tells sessions something; the number is of those told.
    fn direct(&self, which: &Which, directive: Directive) -> usize;

    /// Every open session as it is now.
    fn live(&self) -> Vec<LiveSession>;
}

impl Sessions for Delivery {
    fn direct(&self, which: &Which, directive: Directive) -> usize {
        Self::direct(self, which, directive)
    }

    fn live(&self) -> Vec<LiveSession> {
        Self::live(self)
    }
}
