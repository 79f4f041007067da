//! Why: one table says what the answers of object stores mean, and one function turns a library's error into ours. Never repeats an answer's body: of it, only a code that the table knows is ever shown.

use std::time::Duration;

use http::{HeaderMap, StatusCode, header};
use object_store::Error;

use super::{bucket::Bucket, http::Manners};
use crate::{
    clock::Timestamp,
    connectors::{
        connector::SinkKind,
        egress::{ExchangeError, Stage, find, retry_after},
        error::{ConnectorError, ConnectorErrorKind as Kind, ErrorClass, Retry},
    },
};

/// Clocks further apart than this make signatures invalid; AWS and Azure both allow 15 minutes.
const SKEW_MAX: Duration = Duration::from_secs(15 * 60);

/// What an answer that is no success says, as far as we listen.
#[derive(Debug, Clone, thiserror::Error)]
#[error("the store answered {status}")]
pub(super) struct Answer {
    status: StatusCode,
    /// The store's word for it, where the table knows it.
    code: Option<&'static Code>,
    retry_after: Option<Duration>,
    /// How far the store's clock is from ours, where that is too far.
    skew: Option<Duration>,
    /// Where a bucket is, when it is not where it was looked for.
    region: Option<String>,
    manners: Manners,
}

/// One code of one or more stores, and what to do about it.
#[derive(Debug)]
struct Code {
    word: &'static str,
    meaning: Meaning,
}

/// What answers can mean.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Meaning {
    UnknownKey,
    WrongSecret,
    Expired,
    Skewed,
    NotAuthenticated,
    Denied,
    Barred,
    AccountClosed,
    NoBucket,
    NoUpload,
    Region,
    NotAsAsked,
    Encryption,
    Throttled,
    Conflict,
    Full,
    TooLarge,
    Unclear,
    Absent,
    Present,
}

const fn code(word: &'static str, meaning: Meaning) -> Code {
    Code { word, meaning }
}

use Meaning as M;
static CODES: [Code; 85] = [
    code("InvalidAccessKeyId", M::UnknownKey),
    code("InvalidClientTokenId", M::UnknownKey),
    code("NotSignedUp", M::UnknownKey),
    code("SignatureDoesNotMatch", M::WrongSecret),
    code("IncompleteSignature", M::WrongSecret),
    // Azure says so of a wrong key and of an expired signature alike.
    code("AuthenticationFailed", M::WrongSecret),
    code("ExpiredToken", M::Expired),
    code("ExpiredTokenException", M::Expired),
    code("InvalidToken", M::Expired),
    code("InvalidTokenId", M::Expired),
    code("TokenRefreshRequired", M::Expired),
    code("InvalidAuthenticationInfo", M::Expired),
    code("InvalidSecurity", M::Expired),
    code("RequestTimeTooSkewed", M::Skewed),
    code("RequestExpired", M::Skewed),
    code("AuthenticationRequired", M::NotAuthenticated),
    code("NoAuthenticationInformation", M::NotAuthenticated),
    code("MissingAuthenticationToken", M::NotAuthenticated),
    code("MissingSecurityHeader", M::NotAuthenticated),
    code("AccessDenied", M::Denied),
    // Of a firewall by Azure, of a wrong key by its emulator.
    code("AuthorizationFailure", M::Barred),
    code("AuthorizationPermissionMismatch", M::Denied),
    code("AuthorizationServiceMismatch", M::Denied),
    code("AuthorizationResourceTypeMismatch", M::Denied),
    code("AuthorizationProtocolMismatch", M::Denied),
    code("AuthorizationSourceIPMismatch", M::Denied),
    code("InsufficientAccountPermissions", M::Denied),
    code("PublicAccessNotPermitted", M::Denied),
    code("BlobImmutableDueToPolicy", M::Denied),
    code("UserProjectAccessDenied", M::Denied),
    code("UserProjectMissing", M::Denied),
    code("MethodNotAllowed", M::Denied),
    code("AccountProblem", M::AccountClosed),
    code("AccountIsDisabled", M::AccountClosed),
    code("AllAccessDisabled", M::AccountClosed),
    code("BillingNotEnabled", M::AccountClosed),
    code("NoSuchBucket", M::NoBucket),
    code("ContainerNotFound", M::NoBucket),
    code("ContainerDisabled", M::NoBucket),
    code("ContainerBeingDeleted", M::NoBucket),
    code("InvalidBucketName", M::NoBucket),
    code("NoSuchUpload", M::NoUpload),
    code("InvalidPart", M::NoUpload),
    code("InvalidBlockList", M::NoUpload),
    code("PermanentRedirect", M::Region),
    code("TemporaryRedirect", M::Region),
    code("AuthorizationHeaderMalformed", M::Region),
    code("IllegalLocationConstraintException", M::Region),
    code("InvalidRequest", M::NotAsAsked),
    code("InvalidArgument", M::NotAsAsked),
    code("InvalidHeaderValue", M::NotAsAsked),
    code("UnsupportedHeader", M::NotAsAsked),
    code("NotImplemented", M::NotAsAsked),
    code("KeyTooLongError", M::NotAsAsked),
    code("MetadataTooLarge", M::NotAsAsked),
    code("InvalidDigest", M::NotAsAsked),
    code("BadDigest", M::Unclear),
    code("InvalidEncryptionAlgorithmError", M::Encryption),
    code("ServerSideEncryptionConfigurationNotFoundError", M::Encryption),
    code("KMS.NotFoundException", M::Encryption),
    code("KMS.DisabledException", M::Encryption),
    code("KMS.KMSInvalidStateException", M::Encryption),
    code("KMSNotConfigured", M::Encryption),
    code("SlowDown", M::Throttled),
    code("SlowDownRead", M::Throttled),
    code("SlowDownWrite", M::Throttled),
    code("ServerBusy", M::Throttled),
    code("Throttling", M::Throttled),
    code("TooManyRequests", M::Throttled),
    code("RequestLimitExceeded", M::Throttled),
    code("ConditionalRequestConflict", M::Conflict),
    code("OperationAborted", M::Conflict),
    code("QuotaExceeded", M::Full),
    code("XMinioStorageFull", M::Full),
    code("XMinioAdminBucketQuotaExceeded", M::Full),
    code("EntityTooLarge", M::TooLarge),
    code("RequestBodyTooLarge", M::TooLarge),
    code("InternalError", M::Unclear),
    code("ServiceUnavailable", M::Unclear),
    code("OperationTimedOut", M::Unclear),
    code("NoSuchKey", M::Absent),
    code("BlobNotFound", M::Absent),
    code("BlobAlreadyExists", M::Present),
    code("ConditionNotMet", M::Present),
    code("PreconditionFailed", M::Present),
];

impl Answer {
    /// Listens to an answer: its status, a few headers, and the code in its body.
    pub(super) fn read(status: StatusCode, headers: &HeaderMap, body: &[u8], manners: Manners, now: Timestamp) -> Self {
        let word = headers.get("x-ms-error-code").and_then(|value| value.to_str().ok()).or_else(|| element(body, "Code"));
        let region = headers.get("x-amz-bucket-region").and_then(|value| value.to_str().ok()).or_else(|| element(body, "Region"));
        let shaped = |region: &&str| region.len() <= 32 && region.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
        Self {
            status,
            code: word.and_then(|word| CODES.iter().find(|code| code.word == word)),
            retry_after: retry_after(headers, now),
            skew: date(headers).map(|theirs| theirs.since(now).max(now.since(theirs))).filter(|apart| *apart > SKEW_MAX),
            region: region.filter(shaped).filter(|region| !region.is_empty()).map(str::to_owned),
            manners,
        }
    }

    /// Whether it says that an object, and nothing more, is not there.
    pub(super) fn is_plain_absence(&self) -> bool {
        self.status == StatusCode::NOT_FOUND && self.code.is_none_or(|code| code.meaning == M::Absent)
    }

    /// Whether it says that an object of the name is there already.
    pub(super) fn is_plain_presence(&self) -> bool {
        let said = (self.status, self.code.map(|code| code.meaning));
        matches!(said, (StatusCode::PRECONDITION_FAILED, None | Some(M::Present)) | (StatusCode::CONFLICT, Some(M::Present)))
    }

    fn meaning(&self) -> Meaning {
        let by_code = self.code.map(|code| code.meaning);
        match (by_code, self.status.as_u16()) {
            // Both clocks are known, so the reason is, whatever the store calls it.
            (Some(M::WrongSecret | M::Expired | M::Denied) | None, 400 | 401 | 403) if self.skew.is_some() => M::Skewed,
            // A refused id of a session means that the session is over.
            (Some(M::UnknownKey), _) if self.manners.renewable => M::Expired,
            (Some(meaning), _) => meaning,
            (None, 301 | 302 | 307 | 308) => M::Region,
            (None, 401) => M::NotAuthenticated,
            (None, 403) => M::Denied,
            (None, 404) => M::NoBucket,
            (None, 409) => M::Conflict,
            (None, 413) => M::TooLarge,
            (None, 429) => M::Throttled,
            (None, 507) => M::Full,
            (None, 408 | 500..=599) => M::Unclear,
            (None, _) => M::NotAsAsked,
        }
    }

    /// What it means for someone who was `doing` something with `bucket`.
    fn explain(&self, bucket: &Bucket, doing: &str) -> ConnectorError {
        let renewable = self.manners.renewable;
        let (kind, advice) = self.advice(bucket);
        let status = self.status.as_u16();
        let word = self.code.map(|code| format!(" {}", code.word)).unwrap_or_default();
        let mut error = ConnectorError::new(kind, format!("cannot {doing}: the store answered {status}{word}: {advice}"))
            .with("bucket", bucket.to_string())
            .with("http_status", status.to_string());
        if let Some(code) = self.code {
            error = error.with("store_code", code.word);
        }
        match self.meaning() {
            M::TooLarge => error = error.class(ErrorClass::Configuration),
            // The next connection asks for a new one.
            M::Expired if renewable => error = error.class(ErrorClass::Destination).retry(Retry::Backoff),
            _ => {}
        }
        match self.retry_after.filter(|_| error.class == ErrorClass::Destination) {
            Some(wait) => error.retry(Retry::After(wait)),
            None => error,
        }
    }

    fn advice(&self, bucket: &Bucket) -> (Kind, String) {
        let (noun, secret) = match self.manners.kind {
            SinkKind::Azure => ("container", "the account key or signature of the credential is wrong, or has expired; alter the credential"),
            SinkKind::Gcs => ("bucket", "the service account's key does not sign for it; alter the credential"),
            _ => ("bucket", "the secret of the credential is not the one that belongs to its key id; alter the credential"),
        };
        let name = &bucket.name;
        match self.meaning() {
            M::UnknownKey => (Kind::Unauthenticated, "it knows no such access key id; alter the credential".to_owned()),
            M::WrongSecret => (Kind::Unauthenticated, secret.to_owned()),
            M::Expired if self.manners.renewable => (Kind::Unauthenticated, "the session of the credential has ended; a new one is asked for".to_owned()),
            M::Expired => (Kind::Unauthenticated, "the token of the credential has expired or is not valid; alter the credential".to_owned()),
            M::Skewed => {
                let apart = self.skew.map(|skew| format!(" by {} minutes", skew.as_secs() / 60)).unwrap_or_default();
                (Kind::Misconfigured, format!("its clock and this host's are apart{apart}, so no signature is valid; set this host's clock"))
            }
            M::NotAuthenticated => (Kind::Unauthenticated, "it wants to know who is asking; give the sink a credential".to_owned()),
            M::Denied if self.manners.anonymous => {
                (Kind::PermissionDenied, format!("without a credential it does not allow this; give the sink one, or open the {noun} {name} to everybody"))
            }
            M::Denied => (Kind::PermissionDenied, format!("the credential may not do this; allow it to list, read and write the {noun} {name}")),
            M::AccountClosed => (Kind::PermissionDenied, "the account is closed or has no billing; settle that with the provider".to_owned()),
            M::Barred => (Kind::PermissionDenied, "it does not take this credential from here; check the credential and the account's firewall".to_owned()),
            M::NoBucket | M::Absent => (Kind::NotFound, format!("there is no {noun} {name}; make it, or alter the sink's options")),
            M::NoUpload => (Kind::Unknown, "it no longer has the upload in parts; whether it was completed is found out".to_owned()),
            M::Region => {
                let there = self.region.as_ref().map(|region| format!(": it is in {region}")).unwrap_or_default();
                (Kind::Misconfigured, format!("the {noun} {name} is not in this region{there}; alter the option s3_region or the destination"))
            }
            M::NotAsAsked => (Kind::Misconfigured, "it does not take requests of this form; check the sink's destination and options".to_owned()),
            M::Encryption => {
                (Kind::Misconfigured, "it cannot encrypt as the sink's options say; alter the options s3_encryption_… or s3_kms_key_id".to_owned())
            }
            M::Throttled => (Kind::Throttled, "it asks to slow down; the request is sent again later".to_owned()),
            M::Conflict => (Kind::Throttled, "another request for the same object was under way; the unit is sent again".to_owned()),
            M::Full => (Kind::Throttled, format!("its storage or quota for {name} is full; make room")),
            M::TooLarge => (Kind::TooLarge, "the object is too large for it; lower max_object_bytes".to_owned()),
            M::Unclear | M::Present => {
                (Kind::Unknown, "whether it did what was asked cannot be told; that is found out before anything is sent again".to_owned())
            }
        }
    }
}

/// The text of the first element of this name, where it is a short word.
fn element<'a>(body: &'a [u8], name: &str) -> Option<&'a str> {
    let text = std::str::from_utf8(body).ok()?;
    let from = text.find(&format!("<{name}>"))? + name.len() + 2;
    let word = &text[from..from + text[from..].find('<')?];
    Some(word).filter(|word| word.len() <= 64)
}

fn date(headers: &HeaderMap) -> Option<Timestamp> {
    let date = httpdate::parse_http_date(headers.get(header::DATE)?.to_str().ok()?).ok()?;
    let since = date.duration_since(std::time::UNIX_EPOCH).ok()?;
    Some(Timestamp::from_micros(i64::try_from(since.as_micros()).ok()?))
}

/// Whether the store says that it has no such upload in parts: completed, removed, or never begun.
pub(super) fn is_upload_gone(error: &Error) -> bool {
    matches!(error, Error::NotFound { .. }) || find::<Answer>(error).is_some_and(|answer| answer.meaning() == M::NoUpload)
}

/// See [`Bucket::explain`].
pub(super) fn explain(bucket: &Bucket, error: &Error, doing: &str) -> ConnectorError {
    if let Some(answer) = find::<Answer>(error) {
        return answer.explain(bucket, doing);
    }
    // A provider of credentials failed in its own words.
    if let Some(known) = find::<ConnectorError>(error) {
        let mut known = known.clone();
        known.message = format!("cannot {doing}: {}", known.message);
        return known;
    }
    if let Some(fault) = find::<ExchangeError>(error) {
        return unanswered(bucket, fault, doing);
    }
    let (kind, reason) = match error {
        Error::NotFound { .. } => (Kind::NotFound, "there is no such object"),
        Error::AlreadyExists { .. } | Error::Precondition { .. } => (Kind::Unknown, "an object of this name is there already"),
        Error::InvalidPath { .. } => (Kind::Misconfigured, "its name cannot be one of an object; alter the option object_prefix"),
        Error::NotSupported { .. } | Error::NotImplemented { .. } => (Kind::Internal, "the library cannot do this with such a store"),
        // Of a success that cannot be read, one thing is sure: it was sent.
        _ => (Kind::Unknown, "the answer makes no sense; whether it did what was asked is found out before anything is sent again"),
    };
    ConnectorError::new(kind, format!("cannot {doing}: {reason}")).with("bucket", bucket.to_string())
}

fn unanswered(bucket: &Bucket, fault: &ExchangeError, doing: &str) -> ConnectorError {
    let reason = &fault.reason;
    let said = match fault.stage {
        Stage::Refused(_) => reason.clone(),
        Stage::NotConnected => format!("no connection: {reason}; check the sink's destination and that it is reachable from here"),
        Stage::ConnectTimedOut => "no connection in time; check the sink's destination and that it is reachable from here".to_owned(),
        Stage::Tls => format!("TLS failed: {reason}"),
        Stage::Malformed => format!("no such request can be made: {reason}"),
        Stage::NoAnswer => "no answer in time; whether it did what was asked is found out before anything is sent again".to_owned(),
        Stage::Broken => format!("the connection broke ({reason}); whether it did what was asked is found out before anything is sent again"),
    };
    ConnectorError::new(fault.kind(), format!("cannot {doing}: {said}")).with("bucket", bucket.to_string())
}
