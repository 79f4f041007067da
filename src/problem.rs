//! Why: one vocabulary of failures for every room, the same in a status and inside a message. Never knows a transport.

use std::{fmt, time::Duration};

/// One failure: what happened, to which object, what to do next. Never holds a secret or a destination's raw answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The gRPC code it has as a status.
    pub code: Code,
    /// Why, from the closed list.
    pub reason: Reason,
    /// One sentence, lower case, for a person.
    pub message: String,
    /// Every varying part of the message, by key.
    pub metadata: Vec<(&'static str, String)>,
    /// Fields at fault, all at once.
    pub violations: Vec<Violation>,
    /// What must become true first.
    pub preconditions: Vec<Precondition>,
    /// The object that is missing or there already: type and name.
    pub resource: Option<(&'static str, String)>,
    /// Set if and only if the same call may succeed later unchanged: not sooner than this.
    pub retry_after: Option<Duration>,
}

/// A field at fault.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// Its path in the request: `options["kafka_topic"]`, `schema.columns[3].name`.
    pub field: String,
    /// Why this one.
    pub reason: Reason,
    /// One sentence.
    pub description: String,
}

/// Something that must become true first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Precondition {
    /// The sort: CREDENTIAL, DEPENDENT, DESTINATION, …
    pub kind: &'static str,
    /// The object.
    pub subject: String,
    /// One sentence.
    pub description: String,
}

impl Problem {
    /// A failure with the code that its reason usually has.
    pub fn new(reason: Reason, message: impl Into<String>) -> Self {
        Self {
            code: reason.code(),
            reason,
            message: message.into(),
            metadata: Vec::new(),
            violations: Vec::new(),
            preconditions: Vec::new(),
            resource: None,
            retry_after: None,
        }
    }

    /// A failure of one field.
    pub fn field(field: impl Into<String>, reason: Reason, message: impl Into<String>) -> Self {
        let message = message.into();
        let field = field.into();
        let mut problem = Self::new(reason, message.clone()).with("field", field.clone());
        problem.violations.push(Violation { field, reason, description: message });
        problem
    }

    /// Several failures of fields as one: the first one's reason and message lead, every violation is kept. `None` if there are none.
    pub fn all(problems: impl IntoIterator<Item = Self>) -> Option<Self> {
        let mut problems = problems.into_iter();
        let mut first = problems.next()?;
        let mut more = 0_usize;
        for problem in problems {
            more += 1;
            first.violations.extend(problem.violations);
            first.preconditions.extend(problem.preconditions);
        }
        if more > 0 {
            first.message = format!("{} (and {more} more, listed in the details)", first.message);
        }
        Some(first)
    }

    /// Adds a varying part of the message.
    #[must_use]
    pub fn with(mut self, key: &'static str, value: impl Into<String>) -> Self {
        self.metadata.push((key, value.into()));
        self
    }

    /// Another code than the reason's usual one.
    #[must_use]
    pub fn code(mut self, code: Code) -> Self {
        self.code = code;
        self
    }

    /// Names the object that is missing or there already.
    #[must_use]
    pub fn resource(mut self, kind: &'static str, name: impl fmt::Display) -> Self {
        self.resource = Some((kind, name.to_string()));
        self
    }

    /// Names what must become true first.
    #[must_use]
    pub fn precondition(mut self, kind: &'static str, subject: impl fmt::Display, description: impl Into<String>) -> Self {
        self.preconditions.push(Precondition { kind, subject: subject.to_string(), description: description.into() });
        self
    }

    /// The same call may succeed later, not sooner than `after`.
    #[must_use]
    pub fn retry_after(mut self, after: Duration) -> Self {
        self.retry_after = Some(after);
        self
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Problem {}

/// The gRPC status codes that a failure can have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "gRPC's own names")]
pub enum Code {
    Cancelled = 1,
    Unknown = 2,
    InvalidArgument = 3,
    DeadlineExceeded = 4,
    NotFound = 5,
    AlreadyExists = 6,
    PermissionDenied = 7,
    ResourceExhausted = 8,
    FailedPrecondition = 9,
    Aborted = 10,
    OutOfRange = 11,
    Unimplemented = 12,
    Internal = 13,
    Unavailable = 14,
    DataLoss = 15,
    Unauthenticated = 16,
}

/// Why: the values of `datasink.v1.ErrorReason`, with the interface's numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "the interface's own comments in proto/datasink/v1/common.proto")]
pub enum Reason {
    InvalidName = 1,
    SchemaNotFound = 2,
    DataSinkNotFound = 3,
    CredentialNotFound = 4,
    TableNotFound = 5,
    TableMonitorNotFound = 6,
    ExportJobNotFound = 7,
    FileNotFound = 8,
    PrincipalNotFound = 9,
    StreamNotFound = 10,
    GrantNotFound = 11,
    AlreadyExists = 12,
    InUse = 13,
    SchemaNotEmpty = 14,
    EtagMismatch = 15,
    RequestIdReused = 16,
    AccessTokenNotFound = 17,
    RoleNotFound = 18,
    InvalidField = 20,
    InvalidDestination = 21,
    UnknownOption = 22,
    InvalidOption = 23,
    MissingOption = 24,
    OptionConflict = 25,
    CredentialTypeMismatch = 26,
    NothingToAlter = 27,
    InvalidPageToken = 28,
    SqlSyntax = 29,
    SqlUnsupported = 30,
    MessageTooLarge = 31,
    ChecksumMismatch = 32,
    NotImplemented = 33,
    Unauthenticated = 40,
    PermissionDenied = 41,
    RateLimited = 42,
    TooManyStreams = 43,
    QuotaExceeded = 44,
    DestinationUnreachable = 60,
    DestinationTls = 61,
    DestinationAuthFailed = 62,
    DestinationForbidden = 63,
    DestinationNotFound = 64,
    DestinationThrottled = 65,
    DestinationTimeout = 66,
    DestinationRejected = 67,
    DestinationSchemaMismatch = 68,
    DestinationOutcomeUnknown = 69,
    DriverUnavailable = 70,
    KindUnsupported = 71,
    OpenRequired = 80,
    OpenRepeated = 81,
    EmptyFrame = 82,
    OffsetGap = 83,
    StreamInUse = 84,
    StreamFenced = 85,
    StreamFinished = 86,
    StreamMismatch = 87,
    EncodingUnsupported = 88,
    DeliveryUnsupported = 89,
    CommitModeUnsupported = 90,
    RecordUnparsable = 92,
    RecordInvalid = 93,
    RecordTooLarge = 94,
    RecordLimitExceeded = 95,
    RecordCountMismatch = 96,
    IdleTimeout = 97,
    ServerDraining = 110,
    ServerOverloaded = 111,
    StoreUnavailable = 112,
    StoreCorrupt = 113,
    Internal = 114,
}

impl Reason {
    /// Every reason.
    pub const ALL: &'static [Self] = &[
        Self::InvalidName,
        Self::SchemaNotFound,
        Self::DataSinkNotFound,
        Self::CredentialNotFound,
        Self::TableNotFound,
        Self::TableMonitorNotFound,
        Self::ExportJobNotFound,
        Self::FileNotFound,
        Self::PrincipalNotFound,
        Self::StreamNotFound,
        Self::GrantNotFound,
        Self::AlreadyExists,
        Self::InUse,
        Self::SchemaNotEmpty,
        Self::EtagMismatch,
        Self::RequestIdReused,
        Self::AccessTokenNotFound,
        Self::RoleNotFound,
        Self::InvalidField,
        Self::InvalidDestination,
        Self::UnknownOption,
        Self::InvalidOption,
        Self::MissingOption,
        Self::OptionConflict,
        Self::CredentialTypeMismatch,
        Self::NothingToAlter,
        Self::InvalidPageToken,
        Self::SqlSyntax,
        Self::SqlUnsupported,
        Self::MessageTooLarge,
        Self::ChecksumMismatch,
        Self::NotImplemented,
        Self::Unauthenticated,
        Self::PermissionDenied,
        Self::RateLimited,
        Self::TooManyStreams,
        Self::QuotaExceeded,
        Self::DestinationUnreachable,
        Self::DestinationTls,
        Self::DestinationAuthFailed,
        Self::DestinationForbidden,
        Self::DestinationNotFound,
        Self::DestinationThrottled,
        Self::DestinationTimeout,
        Self::DestinationRejected,
        Self::DestinationSchemaMismatch,
        Self::DestinationOutcomeUnknown,
        Self::DriverUnavailable,
        Self::KindUnsupported,
        Self::OpenRequired,
        Self::OpenRepeated,
        Self::EmptyFrame,
        Self::OffsetGap,
        Self::StreamInUse,
        Self::StreamFenced,
        Self::StreamFinished,
        Self::StreamMismatch,
        Self::EncodingUnsupported,
        Self::DeliveryUnsupported,
        Self::CommitModeUnsupported,
        Self::RecordUnparsable,
        Self::RecordInvalid,
        Self::RecordTooLarge,
        Self::RecordLimitExceeded,
        Self::RecordCountMismatch,
        Self::IdleTimeout,
        Self::ServerDraining,
        Self::ServerOverloaded,
        Self::StoreUnavailable,
        Self::StoreCorrupt,
        Self::Internal,
    ];

    /// The value's full name in the interface: `ERROR_REASON_…`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::InvalidName => "ERROR_REASON_INVALID_NAME",
            Self::SchemaNotFound => "ERROR_REASON_SCHEMA_NOT_FOUND",
            Self::DataSinkNotFound => "ERROR_REASON_DATA_SINK_NOT_FOUND",
            Self::CredentialNotFound => "ERROR_REASON_CREDENTIAL_NOT_FOUND",
            Self::TableNotFound => "ERROR_REASON_TABLE_NOT_FOUND",
            Self::TableMonitorNotFound => "ERROR_REASON_TABLE_MONITOR_NOT_FOUND",
            Self::ExportJobNotFound => "ERROR_REASON_EXPORT_JOB_NOT_FOUND",
            Self::FileNotFound => "ERROR_REASON_FILE_NOT_FOUND",
            Self::PrincipalNotFound => "ERROR_REASON_PRINCIPAL_NOT_FOUND",
            Self::StreamNotFound => "ERROR_REASON_STREAM_NOT_FOUND",
            Self::GrantNotFound => "ERROR_REASON_GRANT_NOT_FOUND",
            Self::AlreadyExists => "ERROR_REASON_ALREADY_EXISTS",
            Self::InUse => "ERROR_REASON_IN_USE",
            Self::SchemaNotEmpty => "ERROR_REASON_SCHEMA_NOT_EMPTY",
            Self::EtagMismatch => "ERROR_REASON_ETAG_MISMATCH",
            Self::RequestIdReused => "ERROR_REASON_REQUEST_ID_REUSED",
            Self::AccessTokenNotFound => "ERROR_REASON_ACCESS_TOKEN_NOT_FOUND",
            Self::RoleNotFound => "ERROR_REASON_ROLE_NOT_FOUND",
            Self::InvalidField => "ERROR_REASON_INVALID_FIELD",
            Self::InvalidDestination => "ERROR_REASON_INVALID_DESTINATION",
            Self::UnknownOption => "ERROR_REASON_UNKNOWN_OPTION",
            Self::InvalidOption => "ERROR_REASON_INVALID_OPTION",
            Self::MissingOption => "ERROR_REASON_MISSING_OPTION",
            Self::OptionConflict => "ERROR_REASON_OPTION_CONFLICT",
            Self::CredentialTypeMismatch => "ERROR_REASON_CREDENTIAL_TYPE_MISMATCH",
            Self::NothingToAlter => "ERROR_REASON_NOTHING_TO_ALTER",
            Self::InvalidPageToken => "ERROR_REASON_INVALID_PAGE_TOKEN",
            Self::SqlSyntax => "ERROR_REASON_SQL_SYNTAX",
            Self::SqlUnsupported => "ERROR_REASON_SQL_UNSUPPORTED",
            Self::MessageTooLarge => "ERROR_REASON_MESSAGE_TOO_LARGE",
            Self::ChecksumMismatch => "ERROR_REASON_CHECKSUM_MISMATCH",
            Self::NotImplemented => "ERROR_REASON_NOT_IMPLEMENTED",
            Self::Unauthenticated => "ERROR_REASON_UNAUTHENTICATED",
            Self::PermissionDenied => "ERROR_REASON_PERMISSION_DENIED",
            Self::RateLimited => "ERROR_REASON_RATE_LIMITED",
            Self::TooManyStreams => "ERROR_REASON_TOO_MANY_STREAMS",
            Self::QuotaExceeded => "ERROR_REASON_QUOTA_EXCEEDED",
            Self::DestinationUnreachable => "ERROR_REASON_DESTINATION_UNREACHABLE",
            Self::DestinationTls => "ERROR_REASON_DESTINATION_TLS",
            Self::DestinationAuthFailed => "ERROR_REASON_DESTINATION_AUTH_FAILED",
            Self::DestinationForbidden => "ERROR_REASON_DESTINATION_FORBIDDEN",
            Self::DestinationNotFound => "ERROR_REASON_DESTINATION_NOT_FOUND",
            Self::DestinationThrottled => "ERROR_REASON_DESTINATION_THROTTLED",
            Self::DestinationTimeout => "ERROR_REASON_DESTINATION_TIMEOUT",
            Self::DestinationRejected => "ERROR_REASON_DESTINATION_REJECTED",
            Self::DestinationSchemaMismatch => "ERROR_REASON_DESTINATION_SCHEMA_MISMATCH",
            Self::DestinationOutcomeUnknown => "ERROR_REASON_DESTINATION_OUTCOME_UNKNOWN",
            Self::DriverUnavailable => "ERROR_REASON_DRIVER_UNAVAILABLE",
            Self::KindUnsupported => "ERROR_REASON_KIND_UNSUPPORTED",
            Self::OpenRequired => "ERROR_REASON_OPEN_REQUIRED",
            Self::OpenRepeated => "ERROR_REASON_OPEN_REPEATED",
            Self::EmptyFrame => "ERROR_REASON_EMPTY_FRAME",
            Self::OffsetGap => "ERROR_REASON_OFFSET_GAP",
            Self::StreamInUse => "ERROR_REASON_STREAM_IN_USE",
            Self::StreamFenced => "ERROR_REASON_STREAM_FENCED",
            Self::StreamFinished => "ERROR_REASON_STREAM_FINISHED",
            Self::StreamMismatch => "ERROR_REASON_STREAM_MISMATCH",
            Self::EncodingUnsupported => "ERROR_REASON_ENCODING_UNSUPPORTED",
            Self::DeliveryUnsupported => "ERROR_REASON_DELIVERY_UNSUPPORTED",
            Self::CommitModeUnsupported => "ERROR_REASON_COMMIT_MODE_UNSUPPORTED",
            Self::RecordUnparsable => "ERROR_REASON_RECORD_UNPARSABLE",
            Self::RecordInvalid => "ERROR_REASON_RECORD_INVALID",
            Self::RecordTooLarge => "ERROR_REASON_RECORD_TOO_LARGE",
            Self::RecordLimitExceeded => "ERROR_REASON_RECORD_LIMIT_EXCEEDED",
            Self::RecordCountMismatch => "ERROR_REASON_RECORD_COUNT_MISMATCH",
            Self::IdleTimeout => "ERROR_REASON_IDLE_TIMEOUT",
            Self::ServerDraining => "ERROR_REASON_SERVER_DRAINING",
            Self::ServerOverloaded => "ERROR_REASON_SERVER_OVERLOADED",
            Self::StoreUnavailable => "ERROR_REASON_STORE_UNAVAILABLE",
            Self::StoreCorrupt => "ERROR_REASON_STORE_CORRUPT",
            Self::Internal => "ERROR_REASON_INTERNAL",
        }
    }

    /// The code that a failure with this reason usually has; the few situations that differ say so.
    pub const fn code(self) -> Code {
        match self {
            Self::InvalidName
            | Self::RequestIdReused
            | Self::InvalidField
            | Self::InvalidDestination
            | Self::UnknownOption
            | Self::InvalidOption
            | Self::MissingOption
            | Self::OptionConflict
            | Self::NothingToAlter
            | Self::InvalidPageToken
            | Self::SqlSyntax
            | Self::ChecksumMismatch
            | Self::OpenRequired
            | Self::OpenRepeated
            | Self::EmptyFrame
            | Self::RecordUnparsable
            | Self::RecordInvalid
            | Self::RecordTooLarge
            | Self::RecordCountMismatch => Code::InvalidArgument,
            Self::SchemaNotFound
            | Self::DataSinkNotFound
            | Self::CredentialNotFound
            | Self::TableNotFound
            | Self::TableMonitorNotFound
            | Self::ExportJobNotFound
            | Self::FileNotFound
            | Self::PrincipalNotFound
            | Self::StreamNotFound
            | Self::GrantNotFound
            | Self::AccessTokenNotFound
            | Self::RoleNotFound => Code::NotFound,
            Self::AlreadyExists => Code::AlreadyExists,
            Self::InUse
            | Self::SchemaNotEmpty
            | Self::CredentialTypeMismatch
            | Self::DestinationUnreachable
            | Self::DestinationTls
            | Self::DestinationAuthFailed
            | Self::DestinationForbidden
            | Self::DestinationNotFound
            | Self::DestinationThrottled
            | Self::DestinationTimeout
            | Self::DestinationRejected
            | Self::DestinationSchemaMismatch
            | Self::DriverUnavailable
            | Self::StreamInUse
            | Self::StreamFinished
            | Self::StreamMismatch
            | Self::EncodingUnsupported
            | Self::DeliveryUnsupported
            | Self::CommitModeUnsupported
            | Self::RecordLimitExceeded
            | Self::IdleTimeout => Code::FailedPrecondition,
            Self::EtagMismatch | Self::StreamFenced => Code::Aborted,
            Self::SqlUnsupported | Self::KindUnsupported | Self::NotImplemented => Code::Unimplemented,
            Self::MessageTooLarge | Self::RateLimited | Self::TooManyStreams | Self::QuotaExceeded | Self::ServerOverloaded => Code::ResourceExhausted,
            Self::Unauthenticated => Code::Unauthenticated,
            Self::PermissionDenied => Code::PermissionDenied,
            Self::DestinationOutcomeUnknown => Code::Unknown,
            Self::OffsetGap => Code::OutOfRange,
            Self::ServerDraining | Self::StoreUnavailable => Code::Unavailable,
            Self::StoreCorrupt => Code::DataLoss,
            Self::Internal => Code::Internal,
        }
    }
}
