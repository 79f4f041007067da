//! Why: the one map from a [`Problem`] to a gRPC status and to the in-band message. Never put a status together anywhere else.

use std::collections::HashMap;

use bytes::Bytes;
use prost::Message;
use tonic::{
    Status,
    metadata::{MetadataMap, MetadataValue},
};
use tonic_types::pb as rpc;

use super::{pb, to_pb};
use crate::{
    limits,
    problem::{Code, Problem, Reason},
};

/// The domain of every `ErrorInfo` that this service makes.
pub const DOMAIN: &str = "datasink";
/// Tells gRPC's own retry (gRFC A6) when to try again; −1: never.
const PUSHBACK: &str = "grpc-retry-pushback-ms";
/// The trailer that carries the details.
const DETAILS: &str = "grpc-status-details-bin";
/// A metadata value, a description or a subject is cut here, in bytes: one hostile field must not crowd out the rest.
const TEXT_BYTES_MAX: usize = 400;
/// A message is cut here, in bytes; percent-encoding may triple it, and it shares the client's header limit with the details.
const MESSAGE_BYTES_MAX: usize = 600;
/// More field violations than this never fit; the rest is only counted.
const VIOLATIONS_MAX: usize = 200;

impl From<Problem> for Status {
    fn from(problem: Problem) -> Self {
        let mut metadata = MetadataMap::new();
        let pushback = problem.retry_after.map_or(-1, |after| i64::try_from(after.as_millis()).unwrap_or(i64::MAX));
        metadata.insert(PUSHBACK, MetadataValue::from(pushback));
        Self::with_details_and_metadata(tonic_code(problem.code), clip(&problem.message, MESSAGE_BYTES_MAX), details(&problem), metadata)
    }
}

/// The same failure as a message inside a stream, a job or a check.
pub fn in_band(problem: &Problem) -> pb::Problem {
    pb::Problem {
        code: problem.code as i32,
        reason: problem.reason as i32,
        message: clip(&problem.message, MESSAGE_BYTES_MAX),
        metadata: metadata(problem),
        retryable: problem.retry_after.is_some(),
        retry_after: problem.retry_after.map(to_pb::duration),
    }
}

/// What tonic itself answers for a message it cannot take, in the service's own words; anything else is left as it is.
pub fn retold(status: Status) -> Status {
    if !status.details().is_empty() {
        return status;
    }
    match retell(status.code(), status.message()) {
        Some(problem) => problem.into(),
        None => status,
    }
}

/// The problem behind a status that tonic made of a request, where there is one of ours.
pub fn retell(code: tonic::Code, message: &str) -> Option<Problem> {
    match code {
        tonic::Code::OutOfRange if message.contains("decoded message length too large") => Some(too_large(message)),
        // A limit on what comes out of the decompressor: a bomb, or an honest giant.
        tonic::Code::ResourceExhausted if message.contains("decompress") => Some(bomb(message)),
        tonic::Code::Internal if message.contains("failed to decode Protobuf message") || message.contains("Error decompressing") => {
            Some(Problem::new(Reason::InvalidField, "the request is not a valid message of the interface; generate the client from the same proto files"))
        }
        _ => None,
    }
}

fn too_large(message: &str) -> Problem {
    // tonic: "…: found {len} bytes, the limit is: {limit} bytes".
    let mut numbers = message.split(|c: char| !c.is_ascii_digit()).filter(|part| !part.is_empty());
    let got = numbers.next().unwrap_or("unknown").to_owned();
    let limit = numbers.next().unwrap_or("unknown").to_owned();
    Problem::new(Reason::MessageTooLarge, format!("the message has {got} bytes and at most {limit} are taken; send smaller batches"))
        .with("limit_bytes", limit)
        .with("got_bytes", got)
}

fn bomb(message: &str) -> Problem {
    let limit = message.split(|c: char| !c.is_ascii_digit()).find(|part| !part.is_empty()).unwrap_or("unknown");
    Problem::new(Reason::MessageTooLarge, format!("the message has more than {limit} bytes once decompressed; send smaller batches")).with("limit_bytes", limit)
}

/// A call that a later version will answer.
pub fn not_yet(rpc: &'static str, sentence: &'static str) -> Status {
    Problem::new(Reason::NotImplemented, format!("{rpc} is not in this build: {sentence}")).with("rpc", rpc).into()
}

/// The deadline of the call passed here: gRPC's own code, told in our words.
pub fn deadline_exceeded(limit: std::time::Duration) -> Status {
    Status::deadline_exceeded(format!("the call was not done within {}; what it had begun is undone or safe to repeat", humantime::format_duration(limit)))
}

/// gRPC's number of a code.
pub fn tonic_code(code: Code) -> tonic::Code {
    tonic::Code::from_i32(code as i32)
}

/// All details, at most [`limits::ERROR_DETAILS_BYTES_MAX`] bytes: field violations give way first, then preconditions, and the rest says how many.
fn details(problem: &Problem) -> Bytes {
    let mut violations = violations(problem);
    let mut preconditions = preconditions(problem);
    let total = problem.violations.len() + problem.preconditions.len();
    loop {
        let left_out = total - violations.len() - preconditions.len();
        let status = assemble(problem, &violations, &preconditions, left_out);
        if status.encoded_len() <= limits::ERROR_DETAILS_BYTES_MAX {
            return status.encode_to_vec().into();
        }
        // A tenth at a time: the result is near the limit and the loop is short.
        if !violations.is_empty() {
            violations.truncate(violations.len() - violations.len().div_ceil(10));
        } else if !preconditions.is_empty() {
            preconditions.truncate(preconditions.len() - preconditions.len().div_ceil(10));
        } else {
            return bare(problem).encode_to_vec().into();
        }
    }
}

/// The whole `google.rpc.Status` with what is left of the lists.
fn assemble(
    problem: &Problem,
    violations: &[rpc::bad_request::FieldViolation],
    preconditions: &[rpc::precondition_failure::Violation],
    left_out: usize,
) -> rpc::Status {
    let mut info = error_info(problem);
    if left_out > 0 {
        info.metadata.insert("violations_left_out".to_owned(), left_out.to_string());
    }
    let mut details = vec![packed("ErrorInfo", &info)];
    if !violations.is_empty() {
        details.push(packed("BadRequest", &rpc::BadRequest { field_violations: violations.to_vec() }));
    }
    if !preconditions.is_empty() {
        details.push(packed("PreconditionFailure", &rpc::PreconditionFailure { violations: preconditions.to_vec() }));
    }
    if let Some((kind, name)) = &problem.resource {
        let description = clip(&problem.message, TEXT_BYTES_MAX);
        details.push(packed(
            "ResourceInfo",
            &rpc::ResourceInfo { resource_type: (*kind).to_owned(), resource_name: clip(name, TEXT_BYTES_MAX), owner: String::new(), description },
        ));
    }
    if matches!(problem.reason, Reason::RateLimited | Reason::QuotaExceeded) {
        details.push(packed("QuotaFailure", &quota_failure(problem)));
    }
    if let Some(after) = problem.retry_after {
        details.push(packed("RetryInfo", &rpc::RetryInfo { retry_delay: Some(to_pb::duration(after)) }));
    }
    rpc::Status { code: problem.code as i32, message: clip(&problem.message, MESSAGE_BYTES_MAX), details }
}

/// Reason and retry alone: what every client needs even where metadata alone would be too much.
fn bare(problem: &Problem) -> rpc::Status {
    let mut small = problem.clone();
    small.metadata.clear();
    small.violations.clear();
    small.preconditions.clear();
    assemble(&small, &[], &[], problem.violations.len() + problem.preconditions.len())
}

fn error_info(problem: &Problem) -> rpc::ErrorInfo {
    rpc::ErrorInfo { reason: problem.reason.as_str().to_owned(), domain: DOMAIN.to_owned(), metadata: metadata(problem) }
}

fn metadata(problem: &Problem) -> HashMap<String, String> {
    problem.metadata.iter().map(|(key, value)| ((*key).to_owned(), clip(value, TEXT_BYTES_MAX))).collect()
}

fn violations(problem: &Problem) -> Vec<rpc::bad_request::FieldViolation> {
    let one = |violation: &crate::problem::Violation| rpc::bad_request::FieldViolation {
        field: clip(&violation.field, TEXT_BYTES_MAX),
        description: clip(&violation.description, TEXT_BYTES_MAX),
        reason: violation.reason.as_str().to_owned(),
        localized_message: None,
    };
    problem.violations.iter().take(VIOLATIONS_MAX).map(one).collect()
}

fn preconditions(problem: &Problem) -> Vec<rpc::precondition_failure::Violation> {
    let one = |precondition: &crate::problem::Precondition| rpc::precondition_failure::Violation {
        r#type: precondition.kind.to_owned(),
        subject: clip(&precondition.subject, TEXT_BYTES_MAX),
        description: clip(&precondition.description, TEXT_BYTES_MAX),
    };
    problem.preconditions.iter().take(VIOLATIONS_MAX).map(one).collect()
}

fn quota_failure(problem: &Problem) -> rpc::QuotaFailure {
    let subject = problem.metadata.iter().find(|(key, _)| *key == "principal").map_or_else(String::new, |(_, value)| clip(value, TEXT_BYTES_MAX));
    rpc::QuotaFailure { violations: vec![rpc::quota_failure::Violation { subject, description: clip(&problem.message, TEXT_BYTES_MAX), ..Default::default() }] }
}

fn packed<M: Message>(name: &str, message: &M) -> prost_types::Any {
    prost_types::Any { type_url: format!("type.googleapis.com/google.rpc.{name}"), value: message.encode_to_vec() }
}

/// At most `max` bytes of `text`, cut at a character, with "…" where something was cut.
fn clip(text: &str, max: usize) -> String {
    if text.len() <= max {
        return text.to_owned();
    }
    let end = (0..=max - "…".len()).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
    format!("{}…", &text[..end])
}

/// Whether a response's headers carry details, that is, whether a status in them is one of ours.
pub fn has_details(headers: &http::HeaderMap) -> bool {
    headers.contains_key(DETAILS)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn decode(status: &Status) -> rpc::Status {
        rpc::Status::decode(status.details()).unwrap()
    }

    fn info(status: &Status) -> rpc::ErrorInfo {
        let any = decode(status).details.into_iter().find(|any| any.type_url.ends_with("/google.rpc.ErrorInfo")).unwrap();
        rpc::ErrorInfo::decode(any.value.as_slice()).unwrap()
    }

    fn detail<M: Message + Default>(status: &Status, name: &str) -> Option<M> {
        let url = format!("type.googleapis.com/google.rpc.{name}");
        decode(status).details.into_iter().find(|any| any.type_url == url).map(|any| M::decode(any.value.as_slice()).unwrap())
    }

    #[test]
    fn every_reason_maps_to_its_own_name_and_number() {
        for reason in Reason::ALL {
            let status = Status::from(Problem::new(*reason, "it went wrong"));
            assert_eq!(info(&status).reason, reason.as_str());
            assert_eq!(info(&status).domain, "datasink");
            assert_ne!(status.code(), tonic::Code::Ok);
            let in_proto = pb::ErrorReason::try_from(*reason as i32).unwrap();
            assert_eq!(in_proto.as_str_name(), reason.as_str());
        }
        // Nothing in the interface is missing here: ALL plus the unspecified one.
        let known = (0..1_000).filter(|number| pb::ErrorReason::try_from(*number).is_ok()).count();
        assert_eq!(known, Reason::ALL.len() + 1);
    }

    #[test]
    fn every_code_has_grpcs_number() {
        for code in 1..=16 {
            assert!(pb::CanonicalCode::try_from(code).is_ok());
        }
        assert_eq!(tonic_code(Code::Aborted), tonic::Code::Aborted);
        assert_eq!(tonic_code(Code::Unauthenticated), tonic::Code::Unauthenticated);
    }

    #[test]
    fn no_destination_fault_looks_like_a_broken_server() {
        use tonic::Code as C;
        for reason in Reason::ALL.iter().filter(|reason| reason.as_str().starts_with("ERROR_REASON_DESTINATION_")) {
            let code = Status::from(Problem::new(*reason, "the destination failed")).code();
            let the_one_row = *reason == Reason::DestinationOutcomeUnknown && code == C::Unknown;
            assert!(the_one_row || !matches!(code, C::Unavailable | C::Unknown | C::Internal | C::DeadlineExceeded | C::Cancelled), "{reason:?}: {code:?}");
        }
    }

    #[test]
    fn retry_info_and_pushback_go_together() {
        let again = Status::from(Problem::new(Reason::ServerDraining, "draining").retry_after(Duration::from_millis(1_500)));
        assert_eq!(again.metadata().get(PUSHBACK).unwrap(), "1500");
        let retry: rpc::RetryInfo = detail(&again, "RetryInfo").unwrap();
        assert_eq!(retry.retry_delay.unwrap().nanos, 500_000_000);
        let never = Status::from(Problem::new(Reason::DestinationOutcomeUnknown, "who knows"));
        assert_eq!(never.metadata().get(PUSHBACK).unwrap(), "-1");
        assert!(detail::<rpc::RetryInfo>(&never, "RetryInfo").is_none());
    }

    #[test]
    fn details_stay_within_the_bound_and_say_what_is_left_out() {
        let option = |n: usize| Problem::field(format!("options[\"key{n}\"]"), Reason::UnknownOption, format!("unknown option {n}: {}", "é".repeat(900)));
        let status = Status::from(Problem::all((0..500).map(option)).unwrap());
        assert!(status.details().len() <= limits::ERROR_DETAILS_BYTES_MAX, "{}", status.details().len());
        let kept = detail::<rpc::BadRequest>(&status, "BadRequest").unwrap().field_violations.len();
        assert!(kept >= 3, "{kept}");
        assert_eq!(info(&status).metadata["violations_left_out"], (500 - kept).to_string());
    }

    #[test]
    fn metadata_alone_cannot_break_the_bound() {
        const KEYS: [&str; 20] = ["a", "b", "c", "d", "e", "f", "g", "h", "i", "j", "k", "l", "m", "n", "o", "p", "q", "r", "s", "t"];
        let problem = KEYS.iter().fold(Problem::new(Reason::Internal, "x".repeat(9_000)), |problem, key| problem.with(key, "y".repeat(9_000)));
        let status = Status::from(problem.retry_after(Duration::from_secs(1)));
        assert!(status.details().len() <= limits::ERROR_DETAILS_BYTES_MAX);
        assert_eq!(info(&status).reason, "ERROR_REASON_INTERNAL");
        assert!(detail::<rpc::RetryInfo>(&status, "RetryInfo").is_some());
        assert!(status.message().len() <= MESSAGE_BYTES_MAX);
    }

    #[test]
    fn each_list_has_its_detail_type() {
        let status = Status::from(
            Problem::new(Reason::InUse, "it is in use").precondition("DEPENDENT", "s.m", "drop it first").resource("data_sink", "s.k").with("name", "s.k"),
        );
        assert_eq!(detail::<rpc::PreconditionFailure>(&status, "PreconditionFailure").unwrap().violations[0].subject, "s.m");
        assert_eq!(detail::<rpc::ResourceInfo>(&status, "ResourceInfo").unwrap().resource_name, "s.k");
        let quota = Status::from(Problem::new(Reason::RateLimited, "too many calls").with("principal", "ada"));
        assert_eq!(detail::<rpc::QuotaFailure>(&quota, "QuotaFailure").unwrap().violations[0].subject, "ada");
    }

    #[test]
    fn tonics_own_refusals_are_retold() {
        let large = retold(Status::out_of_range("Error, decoded message length too large: found 17 bytes, the limit is: 16 bytes"));
        assert_eq!(large.code(), tonic::Code::ResourceExhausted);
        let told = info(&large);
        assert_eq!(
            (told.reason.as_str(), told.metadata["got_bytes"].as_str(), told.metadata["limit_bytes"].as_str()),
            ("ERROR_REASON_MESSAGE_TOO_LARGE", "17", "16")
        );
        let ours = retold(Problem::new(Reason::OffsetGap, "decoded message length too large").into());
        assert_eq!(info(&ours).reason, "ERROR_REASON_OFFSET_GAP");
    }

    #[test]
    fn in_band_is_the_same_failure() {
        let problem = Problem::new(Reason::DestinationThrottled, "slow down").code(Code::Aborted).with("attempts", "3").retry_after(Duration::from_secs(2));
        let told = in_band(&problem);
        assert_eq!((told.code(), told.reason(), told.retryable), (pb::CanonicalCode::Aborted, pb::ErrorReason::DestinationThrottled, true));
        assert_eq!(told.metadata["attempts"], "3");
    }
}
