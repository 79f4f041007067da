//! Why: every way a session or a check of a destination can fail is said in one place, with the code, the reason and the advice of the error table. Never holds a secret.

use std::time::Duration;

use super::{SinkSnapshot, WriterIdentity, settle::WentBack};
use crate::{
    connectors::{
        connector::{Epoch, Guarantee, StreamId},
        error::{ConnectorError, ConnectorErrorKind, ErrorClass, Retry},
    },
    name::QualifiedName,
    problem::{Code, Problem, Reason},
    record::{Offset, RecordFault, RecordFaultKind, RejectedRecord},
};

/// What a sender waits after a passing failure that names no pause of its own.
const RETRY_AFTER: Duration = Duration::from_secs(5);

/// When a destination failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Occasion {
    /// While a sink was created, altered or tested: somebody looks on, so nothing is promised to pass.
    Check,
    /// While a stream was opened or written.
    Session {
        /// Everything before it is settled.
        next_offset: Offset,
    },
}

/// The failure that a caller sees for an error of `sink`'s connector. `destination` is redacted.
pub fn problem_of(error: &ConnectorError, occasion: Occasion, sink: &QualifiedName, destination: &str) -> Problem {
    let reason = reason_of(error.kind);
    let mut problem = Problem::new(reason, format!("data sink {sink}: {error}")).with("data_sink", sink.to_string()).with("destination", destination);
    problem.metadata.extend(error.details.iter().filter(|(key, _)| !["data_sink", "destination", "next_offset"].contains(key)).cloned());
    if let Occasion::Session { next_offset } = occasion {
        problem = problem.with("next_offset", next_offset.to_string());
    }
    let passing = error.class == ErrorClass::Destination && error.retry != Retry::Never;
    let after = if let Retry::After(asked) = error.retry { asked } else { RETRY_AFTER };
    match (reason, occasion) {
        (Reason::Internal | Reason::StreamFenced, _) => problem,
        (Reason::StoreUnavailable, _) => problem.retry_after(after),
        (_, Occasion::Session { .. }) if passing => problem.code(Code::Aborted).retry_after(after),
        _ => problem.code(Code::FailedPrecondition).precondition("DESTINATION", destination, error.message.clone()),
    }
}

fn reason_of(kind: ConnectorErrorKind) -> Reason {
    use ConnectorErrorKind as K;
    match kind {
        K::Unreachable => Reason::DestinationUnreachable,
        // In a session an unknown outcome is looked up at the target, so all that is left to say is that it does not answer.
        K::TimedOut | K::Unknown => Reason::DestinationTimeout,
        K::Tls => Reason::DestinationTls,
        K::Unauthenticated => Reason::DestinationAuthFailed,
        K::PermissionDenied | K::BlockedAddress => Reason::DestinationForbidden,
        K::NotFound => Reason::DestinationNotFound,
        K::Throttled => Reason::DestinationThrottled,
        K::SchemaMismatch => Reason::DestinationSchemaMismatch,
        K::TooLarge | K::Rejected | K::Misconfigured => Reason::DestinationRejected,
        K::Fenced => Reason::StreamFenced,
        K::WentBack => Reason::StreamMismatch,
        K::Store => Reason::StoreUnavailable,
        K::Internal => Reason::Internal,
    }
}

/// The reason of a record's fault.
pub(super) fn record_reason(kind: RecordFaultKind) -> Reason {
    match kind {
        RecordFaultKind::Unparsable => Reason::RecordUnparsable,
        RecordFaultKind::Invalid => Reason::RecordInvalid,
        RecordFaultKind::TooLarge => Reason::RecordTooLarge,
    }
}

/// The fault of a record that was found by halving: the destination refused it and did not say which column.
pub(super) fn fault_of(error: &ConnectorError) -> RecordFault {
    let kind = if error.kind == ConnectorErrorKind::TooLarge { RecordFaultKind::TooLarge } else { RecordFaultKind::Invalid };
    RecordFault { kind, message: error.message.clone(), column: None }
}

/// STOP met a bad record.
pub(super) fn stopped_at(record: &RejectedRecord) -> Problem {
    let fault = &record.fault;
    let problem = Problem::new(record_reason(fault.kind), format!("the stream stops before record {}: {}", record.offset, fault.message))
        .with("offset", record.offset.to_string())
        .with("index", record.index.to_string());
    match &fault.column {
        Some(column) => problem.with("column", column.clone()),
        None => problem,
    }
}

/// Records are missing between what came and what was expected.
pub(super) fn offset_gap(expected: Offset, first: Offset) -> Problem {
    Problem::new(Reason::OffsetGap, format!("record {first} came where {expected} was expected; nothing of it was written, send from {expected}"))
        .with("expected_offset", expected.to_string())
        .with("first_offset", first.to_string())
}

/// A batch whose offsets pass the end of numbers.
pub(super) fn offset_overflow() -> Problem {
    Problem::field("first_offset", Reason::InvalidField, "the offsets of the batch are beyond the largest possible one")
}

/// ABORT of records that count already.
pub(super) fn abort_continuous() -> Problem {
    Problem::field(
        "finish.action",
        Reason::InvalidField,
        "a CONTINUOUS stream cannot be aborted: its records count as they are written; open it with ON_FINISH",
    )
}

/// Another writer has taken the stream over.
pub(super) fn fenced(stream: &StreamId, epoch: Epoch, current: Option<Epoch>, client_id: Option<&str>) -> Problem {
    let by = client_id.map_or_else(|| "another writer".to_owned(), |client| format!("client {client:?}"));
    let mut problem = Problem::new(Reason::StreamFenced, format!("stream {:?} was taken over by {by}; do not reconnect", stream.name.as_str()))
        .with("epoch", epoch.to_string());
    if let Some(current) = current {
        problem = problem.with("current_epoch", current.to_string());
    }
    match client_id {
        Some(client_id) => problem.with("client_id", client_id),
        None => problem,
    }
}

/// Somebody writes the stream.
pub(super) fn in_use(stream: &StreamId, writer: &WriterIdentity, epoch: Epoch, exclusive: bool) -> Problem {
    let advice = if exclusive { "wait until its session ends" } else { "open with takeover to fence it off" };
    Problem::new(Reason::StreamInUse, format!("stream {:?} is being written by client {:?}; {advice}", stream.name.as_str(), writer.client_id))
        .with("client_id", writer.client_id.clone())
        .with("principal", writer.principal.clone())
        .with("epoch", epoch.to_string())
}

/// The server has as many sessions as it takes.
pub(super) fn too_many(limit: usize) -> Problem {
    Problem::new(Reason::TooManyStreams, format!("the server has its {limit} sessions; try again later"))
        .with("limit", limit.to_string())
        .retry_after(RETRY_AFTER)
}

/// The stream is known with another property.
pub(super) fn mismatch(stream: &StreamId, field: &'static str, was: &str, is: &str) -> Problem {
    Problem::new(Reason::StreamMismatch, format!("stream {:?} was opened with {field} {was} and now with {is}; use another stream name", stream.name.as_str()))
        .with("field", field)
        .with("was", was)
        .with("is", is)
}

/// The destination has less than was acknowledged.
pub(super) fn went_back(stream: &StreamId, sink: &SinkSnapshot, went: WentBack) -> Problem {
    Problem::new(
        Reason::StreamMismatch,
        format!(
            "the destination of data sink {} has stream {:?} up to record {} but {} were acknowledged: it was restored, truncated or replaced; \
             bring the records back, or drop the stream with DropPushStream to begin it anew",
            sink.name,
            stream.name.as_str(),
            went.is,
            went.was
        ),
    )
    .with("field", "destination mark")
    .with("was", went.was.to_string())
    .with("is", went.is.to_string())
    .precondition("DESTINATION", &sink.destination, "it must hold what was acknowledged, or the stream must be dropped")
}

/// Records that were not committed are gone with the destination's unfinished work.
pub(super) fn rolled_back(stream: &StreamId) -> Problem {
    Problem::new(
        Reason::StreamMismatch,
        format!(
            "the destination lost the unfinished records of ON_FINISH stream {:?}; open it again and send them from the offset it names",
            stream.name.as_str()
        ),
    )
    .code(Code::Aborted)
    .with("field", "destination mark")
    .retry_after(Duration::ZERO)
}

/// The target holds other records under our offsets.
pub(super) fn other_data(stream: &StreamId, from: Offset, to: Offset) -> Problem {
    Problem::new(
        Reason::StreamFenced,
        format!(
            "records {from} to {} of stream {:?} exist at the destination with other data: another sender used the stream's name; use a name of your own",
            to.saturating_sub(1),
            stream.name.as_str()
        ),
    )
    .with("field", "destination mark")
    .with("first_offset", from.to_string())
    .with("next_offset", to.to_string())
}

/// The destination cannot promise what was required.
pub(super) fn too_weak(sink: &SinkSnapshot, wanted: Guarantee, available: Guarantee, basis: &str) -> Problem {
    let (wanted, available) = (guarantee_name(wanted), guarantee_name(available));
    Problem::new(Reason::DeliveryUnsupported, format!("data sink {} delivers {available}, not {wanted}: {basis}", sink.name))
        .with("wanted", wanted)
        .with("available", available)
}

fn guarantee_name(guarantee: Guarantee) -> &'static str {
    match guarantee {
        Guarantee::AtLeastOnce => "AT_LEAST_ONCE",
        Guarantee::Idempotent => "IDEMPOTENT",
        Guarantee::ExactlyOnce => "EXACTLY_ONCE",
    }
}

/// The session's task ended without saying why: a bug.
pub(super) fn broken(stream: &StreamId) -> Problem {
    Problem::new(Reason::Internal, format!("the session of stream {:?} broke off; open it again", stream.name.as_str()))
}

/// DEAD_LETTER without a place for dead letters.
pub(super) fn no_dead_letter_sink() -> Problem {
    Problem::field("dead_letter_sink", Reason::InvalidField, "DEAD_LETTER needs a dead letter sink: name one, or set the sink's option dead_letter_sink")
}

/// A failure of the dead letter sink, as one of the stream that needs it.
pub(super) fn dead_letters(mut problem: Problem, sink: &QualifiedName) -> Problem {
    problem.message = format!("dead letter sink {sink}: {}", problem.message);
    problem.with("dead_letter_sink", sink.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(error: &ConnectorError, occasion: Occasion) -> Problem {
        let sink = QualifiedName::parse("s.sink", None).expect("a name");
        problem_of(error, occasion, &sink, "https://receiver")
    }

    #[test]
    fn a_passing_failure_is_aborted_with_a_pause_in_a_session_and_a_precondition_at_a_check() {
        let error = ConnectorError::new(ConnectorErrorKind::Unreachable, "connection refused").with("address", "192.0.2.1:443");
        let in_session = seen(&error, Occasion::Session { next_offset: 7 });
        assert_eq!((in_session.code, in_session.reason), (Code::Aborted, Reason::DestinationUnreachable));
        assert!(in_session.retry_after.is_some() && in_session.metadata.contains(&("next_offset", "7".to_owned())));
        assert!(in_session.metadata.contains(&("address", "192.0.2.1:443".to_owned())));
        let at_check = seen(&error, Occasion::Check);
        assert_eq!(at_check.code, Code::FailedPrecondition);
        assert!(at_check.retry_after.is_none() && at_check.preconditions[0].kind == "DESTINATION");
    }

    #[test]
    fn what_a_person_must_mend_never_says_to_retry() {
        use ConnectorErrorKind as K;
        for kind in [K::Tls, K::Unauthenticated, K::PermissionDenied, K::NotFound, K::SchemaMismatch, K::BlockedAddress, K::WentBack, K::Misconfigured] {
            let problem = seen(&ConnectorError::new(kind, "no"), Occasion::Session { next_offset: 0 });
            assert_eq!(problem.code, Code::FailedPrecondition, "{kind:?}");
            assert!(problem.retry_after.is_none(), "{kind:?}");
        }
    }

    #[test]
    fn our_own_store_is_unavailable_and_a_fence_is_final() {
        let store = seen(&ConnectorError::new(ConnectorErrorKind::Store, "disk full"), Occasion::Session { next_offset: 0 });
        assert_eq!((store.code, store.retry_after.is_some()), (Code::Unavailable, true));
        let fenced = seen(&ConnectorError::new(ConnectorErrorKind::Fenced, "epoch 3"), Occasion::Session { next_offset: 0 });
        assert_eq!((fenced.code, fenced.retry_after), (Code::Aborted, None));
    }
}
