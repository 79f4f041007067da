//! Why: a fault test ends the process exactly between two steps of a unit's life, where a kill at random hardly ever falls. Never in a build without the feature `failpoints`.
//!
//! The variable `FAILPOINTS` names a folder; a process that reaches a point whose name is a file there aborts. So a test arms a point when it likes. (The crate `fail` reads its points as the
//! process starts, and has no action that ends it.)

use crate::connectors::connector::Settlement;

/// A step of a unit's life that has just been taken.
#[derive(Debug, Clone, Copy)]
pub(super) enum Failpoint {
    /// The session has a frame of records.
    Received,
    /// The writer has encoded them, or sent them ahead of the commit.
    Encoded,
    /// The commit was begun and is not done.
    #[cfg_attr(not(feature = "failpoints"), expect(dead_code, reason = "without the feature nobody looks at a commit that waits"))]
    Sent,
    /// The destination has said that it is durable.
    Committed,
    /// Our store was told.
    Noted,
    /// The ack waits for its sender to read.
    AckQueued,
    /// The transport has taken what was told, and has waited for more.
    AckSent,
}

impl Failpoint {
    /// Aborts if the point is armed.
    #[cfg(feature = "failpoints")]
    pub(super) fn reached(self) {
        static FOLDER: std::sync::LazyLock<Option<std::path::PathBuf>> = std::sync::LazyLock::new(|| std::env::var_os("FAILPOINTS").map(Into::into));
        let name = match self {
            Self::Received => "received",
            Self::Encoded => "encoded",
            Self::Sent => "sent",
            Self::Committed => "committed",
            Self::Noted => "noted",
            Self::AckQueued => "ack-queued",
            Self::AckSent => "ack-sent",
        };
        if FOLDER.as_deref().is_some_and(|folder| folder.join(name).exists()) {
            tracing::warn!(name, "this failpoint is armed");
            std::process::abort();
        }
    }

    /// Nothing.
    #[cfg(not(feature = "failpoints"))]
    pub(super) fn reached(self) {}
}

/// The settlement, with [`Failpoint::Sent`] wherever it waits.
#[cfg(feature = "failpoints")]
pub(super) fn while_pending(mut settlement: Settlement) -> Settlement {
    Box::pin(std::future::poll_fn(move |cx| {
        let polled = settlement.as_mut().poll(cx);
        if polled.is_pending() {
            Failpoint::Sent.reached();
        }
        polled
    }))
}

/// The settlement.
#[cfg(not(feature = "failpoints"))]
pub(super) fn while_pending(settlement: Settlement) -> Settlement {
    settlement
}
