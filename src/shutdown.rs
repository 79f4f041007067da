//! Why: whether the process serves, drains or stops is known in one place. Never ends anything itself.

use std::{io, sync::Arc};

use tokio::{
    signal::unix::{SignalKind, signal},
    sync::watch,
};

/// Where a server is between start and exit; only ever moves forward.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// Calls are welcome.
    Serving,
    /// Health says so, sessions end, new ones go elsewhere; other calls are still answered.
    Draining,
    /// The listener closes.
    Stopping,
}

/// A handle on the phase: clones are the same server.
#[derive(Debug, Clone)]
pub struct Lifecycle(Arc<watch::Sender<Phase>>);

impl Default for Lifecycle {
    fn default() -> Self {
        Self(Arc::new(watch::Sender::new(Phase::Serving)))
    }
}

impl Lifecycle {
    /// Whether new sessions go elsewhere.
    pub fn is_draining(&self) -> bool {
        *self.0.borrow() >= Phase::Draining
    }

    /// Begins to drain.
    pub fn drain(&self) {
        self.reach(Phase::Draining);
    }

    /// Begins to stop.
    pub fn stop(&self) {
        self.reach(Phase::Stopping);
    }

    /// Returns once the server is at `phase` or beyond.
    pub async fn reached(&self, phase: Phase) {
        // The sender lives in `self`, so it cannot be gone.
        let _ = self.0.subscribe().wait_for(|now| *now >= phase).await;
    }

    fn reach(&self, phase: Phase) {
        self.0.send_if_modified(|now| {
            let forward = *now < phase;
            *now = (*now).max(phase);
            forward
        });
    }
}

/// SIGTERM and SIGINT. Made before anything is announced, so that a signal right after is not lost.
#[derive(Debug)]
pub struct Signals {
    terminate: tokio::signal::unix::Signal,
    interrupt: tokio::signal::unix::Signal,
}

impl Signals {
    /// Begins to listen; from here on neither signal kills the process.
    pub fn listen() -> io::Result<Self> {
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    /// The next signal's name.
    pub async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_server_never_goes_back() {
        let server = Lifecycle::default();
        server.stop();
        server.drain();
        assert!(server.is_draining());
        server.reached(Phase::Stopping).await;
    }
}
