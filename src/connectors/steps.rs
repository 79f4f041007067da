//! Why: a check of a destination is a list of steps, told the same way by every kind. Never tries anything itself.

use std::time::Duration;

use tokio::time::Instant;

use super::{
    connector::{ProbeStep, StepResult},
    error::ConnectorError,
};

/// The steps so far.
pub(super) struct Steps {
    steps: Vec<ProbeStep>,
    began: Instant,
}

impl Steps {
    /// None yet; the first one begins now.
    pub(super) fn new() -> Self {
        Self { steps: Vec::new(), began: Instant::now() }
    }

    /// Records how step `name`, tried since the last one, went.
    pub(super) fn tried<T>(&mut self, name: &str, result: Result<T, ConnectorError>, details: impl FnOnce(&T) -> Vec<(String, String)>) -> Option<T> {
        let (result, details, value) = match result {
            Ok(value) => (StepResult::Passed, details(&value), Some(value)),
            Err(error) => (StepResult::Failed { message: error.message.clone(), error }, Vec::new(), None),
        };
        let elapsed = self.began.elapsed();
        self.began = Instant::now();
        self.steps.push(ProbeStep { name: name.to_owned(), result, elapsed, details });
        value
    }

    /// Records that step `name` was not tried.
    pub(super) fn skipped(&mut self, name: &str) {
        self.steps.push(ProbeStep { name: name.to_owned(), result: StepResult::Skipped, elapsed: Duration::ZERO, details: Vec::new() });
    }

    /// The steps, those of `all` that were not reached as skipped.
    pub(super) fn end(mut self, all: &[&str]) -> Vec<ProbeStep> {
        for name in all.iter().skip(self.steps.len()) {
            self.skipped(name);
        }
        self.steps
    }
}
