//! Why: an error's class alone decides what a session does, and the pauses between attempts are decided in one place. Never waits itself.

use std::time::Duration;

use tokio::time::Instant;

use crate::{
    clock::Ids,
    connectors::error::{ConnectorError, ConnectorErrorKind, ErrorClass, Retry},
};

/// The first pause; each further one is twice as long.
const PAUSE_MIN: Duration = Duration::from_millis(100);
/// The longest pause of our own choice.
const PAUSE_MAX: Duration = Duration::from_secs(10);
/// The longest pause that a destination may ask for.
const ASKED_MAX: Duration = Duration::from_secs(3600);

/// What to do about a failure.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Decision {
    /// Throw the writer away and open again after this long.
    Wait(Duration),
    /// Find the record and go on as the policy says.
    Isolate,
    /// End the session: a newer writer has the stream.
    Fenced,
    /// End the session: a person must mend it.
    Refuse,
    /// End the session: it failed for too long; come back after this long.
    GiveUp(Duration),
}

/// A run of failures without progress between them.
#[derive(Debug, Default)]
pub(super) struct Failures {
    attempts: u32,
    since: Option<Instant>,
}

impl Failures {
    /// How many in a row.
    pub(super) fn attempts(&self) -> u32 {
        self.attempts
    }

    /// Something was settled: the run is over. Whether there was one.
    pub(super) fn clear(&mut self) -> bool {
        std::mem::take(self).attempts > 0
    }

    /// What to do about `error`, given that the destination may fail for `budget` without progress.
    pub(super) fn decide(&mut self, error: &ConnectorError, budget: Duration, now: Instant, ids: &dyn Ids) -> Decision {
        match (error.kind, error.class) {
            (ConnectorErrorKind::Fenced, _) => return Decision::Fenced,
            (_, ErrorClass::Record) => return Decision::Isolate,
            (_, ErrorClass::Configuration) => return Decision::Refuse,
            (_, ErrorClass::Destination) if error.retry == Retry::Never => return Decision::Refuse,
            (_, ErrorClass::Destination) => {}
        }
        let since = *self.since.get_or_insert(now);
        let pause = pause(self.attempts, ids);
        self.attempts = self.attempts.saturating_add(1);
        let pause = match error.retry {
            Retry::After(asked) => pause.max(asked.min(ASKED_MAX)),
            Retry::Backoff | Retry::Never => pause,
        };
        // A pause that ends after the budget could only be followed by giving up: say so now, with the pause as the advice.
        if now + pause >= since + budget { Decision::GiveUp(pause) } else { Decision::Wait(pause) }
    }
}

/// The pause after `attempts` failures: doubling from [`PAUSE_MIN`] to [`PAUSE_MAX`], of which at least half is waited, so that many streams do not come back at once.
fn pause(attempts: u32, ids: &dyn Ids) -> Duration {
    let ceiling = PAUSE_MIN.saturating_mul(1 << attempts.min(10)).min(PAUSE_MAX);
    let mut bytes = [0; 4];
    ids.fill(&mut bytes);
    let share = f64::from(u32::from_le_bytes(bytes)) / f64::from(u32::MAX);
    ceiling.mul_f64(0.5 + share / 2.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::SystemIds;

    const BUDGET: Duration = Duration::from_secs(60);

    fn error(kind: ConnectorErrorKind) -> ConnectorError {
        ConnectorError::new(kind, "no")
    }

    #[test]
    fn pauses_grow_within_bounds() {
        for attempts in 0..40 {
            let pause = pause(attempts, &SystemIds);
            let ceiling = PAUSE_MIN.saturating_mul(1 << attempts.min(10)).min(PAUSE_MAX);
            assert!(pause >= ceiling / 2 && pause <= ceiling, "{attempts}: {pause:?}");
        }
    }

    #[test]
    fn the_class_alone_decides() {
        let now = Instant::now();
        let mut failures = Failures::default();
        assert_eq!(failures.decide(&error(ConnectorErrorKind::Fenced), BUDGET, now, &SystemIds), Decision::Fenced);
        assert_eq!(failures.decide(&error(ConnectorErrorKind::Rejected), BUDGET, now, &SystemIds), Decision::Isolate);
        assert_eq!(failures.decide(&error(ConnectorErrorKind::NotFound), BUDGET, now, &SystemIds), Decision::Refuse);
        assert_eq!(failures.attempts(), 0, "those are not attempts");
        assert!(matches!(failures.decide(&error(ConnectorErrorKind::Unknown), BUDGET, now, &SystemIds), Decision::Wait(_)));
        let lenient = error(ConnectorErrorKind::Rejected).class(ErrorClass::Destination).retry(Retry::Backoff);
        assert!(matches!(failures.decide(&lenient, BUDGET, now, &SystemIds), Decision::Wait(_)));
    }

    #[test]
    fn a_destination_that_asks_for_a_pause_gets_it() {
        let asked = Duration::from_secs(17);
        let throttled = error(ConnectorErrorKind::Throttled).retry(Retry::After(asked));
        assert_eq!(Failures::default().decide(&throttled, BUDGET, Instant::now(), &SystemIds), Decision::Wait(asked));
        let asked = Duration::from_secs(90);
        let throttled = error(ConnectorErrorKind::Throttled).retry(Retry::After(asked));
        assert_eq!(Failures::default().decide(&throttled, BUDGET, Instant::now(), &SystemIds), Decision::GiveUp(asked));
    }

    #[test]
    fn the_budget_is_spent_only_without_progress() {
        let start = Instant::now();
        let down = error(ConnectorErrorKind::Unreachable);
        let mut failures = Failures::default();
        assert!(matches!(failures.decide(&down, BUDGET, start, &SystemIds), Decision::Wait(_)));
        assert!(matches!(failures.decide(&down, BUDGET, start + BUDGET / 2, &SystemIds), Decision::Wait(_)));
        assert!(failures.clear());
        assert!(matches!(failures.decide(&down, BUDGET, start + BUDGET, &SystemIds), Decision::Wait(_)));
        assert!(matches!(failures.decide(&down, BUDGET, start + BUDGET * 2, &SystemIds), Decision::GiveUp(_)));
    }
}
