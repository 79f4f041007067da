//! Why: what happened, whether to try again, and whose fault it is are three answers of one error. Never decides what to do about it: `delivery/retry.rs` does.

use std::time::Duration;

use crate::record::{Offset, RecordFault};

/// What happened at a destination.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ConnectorErrorKind {
    /// No connection: refused, unreachable, name not found.
    Unreachable,
    /// No answer in time.
    TimedOut,
    /// TLS failed: certificate, host name, protocol.
    Tls,
    /// The destination refused the credential.
    Unauthenticated,
    /// The credential is known and may not do this.
    PermissionDenied,
    /// The topic, bucket, table or path is not there.
    NotFound,
    /// The destination asks to slow down.
    Throttled,
    /// A record or a unit is larger than the destination takes.
    TooLarge,
    /// The records do not fit the destination's columns.
    SchemaMismatch,
    /// The destination refused the records.
    Rejected,
    /// The egress filter forbids the address.
    BlockedAddress,
    /// A writer with a newer epoch has the stream.
    Fenced,
    /// The destination's mark is behind what was acknowledged, or its records differ from ours.
    WentBack,
    /// Whether the unit became durable cannot be told from here: open again and read the mark.
    Unknown,
    /// A configuration that cannot work, found only now.
    Misconfigured,
    /// The local store cannot be written.
    Store,
    /// A bug, or an answer that makes no sense.
    Internal,
}

/// Whose fault it is; this alone decides what a session does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorClass {
    /// One or more records can never be taken: isolate, report, go on as the policy says.
    Record,
    /// Passing: hold, back off, heal alone, never divert a record.
    Destination,
    /// A person must mend it: stop loudly.
    Configuration,
}

/// Whether and when the same thing may be tried again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Retry {
    /// Never unchanged.
    Never,
    /// With growing pauses.
    Backoff,
    /// Not before this long.
    After(Duration),
}

/// One failure of a connector or a writer.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{message}")]
pub struct ConnectorError {
    /// What happened.
    pub kind: ConnectorErrorKind,
    /// Whose fault.
    pub class: ErrorClass,
    /// Whether to try again.
    pub retry: Retry,
    /// One sentence, lower case, naming the object and what to do; never a secret, never a raw response body.
    pub message: String,
    /// Every varying part of the message, by key.
    pub details: Vec<(&'static str, String)>,
    /// Class *record*: the records at fault, where the destination names them. Empty: some record of the unit, to be isolated by halving.
    pub records: Vec<(Offset, RecordFault)>,
}

impl ConnectorError {
    /// An error of `kind` with the class and retry that this kind usually has.
    pub fn new(kind: ConnectorErrorKind, message: impl Into<String>) -> Self {
        use ConnectorErrorKind as K;
        let (class, retry) = match kind {
            K::Unreachable | K::TimedOut | K::Throttled | K::Unknown | K::Store => (ErrorClass::Destination, Retry::Backoff),
            K::TooLarge | K::Rejected => (ErrorClass::Record, Retry::Never),
            K::Tls
            | K::Unauthenticated
            | K::PermissionDenied
            | K::NotFound
            | K::SchemaMismatch
            | K::BlockedAddress
            | K::Fenced
            | K::WentBack
            | K::Misconfigured
            | K::Internal => (ErrorClass::Configuration, Retry::Never),
        };
        Self { kind, class, retry, message: message.into(), details: Vec::new(), records: Vec::new() }
    }

    /// Adds a varying part of the message.
    #[must_use]
    pub fn with(mut self, key: &'static str, value: impl Into<String>) -> Self {
        self.details.push((key, value.into()));
        self
    }

    /// Another pause than the kind's usual one.
    #[must_use]
    pub fn retry(mut self, retry: Retry) -> Self {
        self.retry = retry;
        self
    }

    /// Another class than the kind's usual one.
    #[must_use]
    pub fn class(mut self, class: ErrorClass) -> Self {
        self.class = class;
        self
    }

    /// Names a record at fault; the class becomes *record*.
    #[must_use]
    pub fn record(mut self, offset: Offset, fault: RecordFault) -> Self {
        self.class = ErrorClass::Record;
        self.retry = Retry::Never;
        self.records.push((offset, fault));
        self
    }
}
