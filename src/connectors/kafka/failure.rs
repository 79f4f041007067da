//! Why: what the client library and the brokers report becomes a typed error with advice, in one table. Never repeats their texts: those may hold what a broker made up, or a secret.

use rdkafka::{error::KafkaError, types::RDKafkaErrorCode as Code};

use crate::connectors::error::{ConnectorError, ConnectorErrorKind as Kind, ErrorClass};

/// What a code means: the kind of the error, and a sentence that says what to do.
pub(super) fn meaning(code: Code) -> (Kind, &'static str) {
    use Code as C;
    match code {
        C::UnknownTopicOrPartition | C::UnknownTopic | C::UnknownPartition | C::UnknownTopicId => {
            (Kind::NotFound, "the topic is not there; create it, or alter the sink's option kafka_topic_name")
        }
        C::InvalidTopic => (Kind::Misconfigured, "brokers do not take a topic of this name; alter the sink's option kafka_topic_name"),
        C::TopicAuthorizationFailed => {
            (Kind::PermissionDenied, "the credential may not do this with the topic; grant it Describe and Write on the topic, and Read for exactly_once")
        }
        C::ClusterAuthorizationFailed => {
            (Kind::PermissionDenied, "the credential may not write idempotently; grant it Write on the topic, or IdempotentWrite on the cluster")
        }
        C::GroupAuthorizationFailed => (
            Kind::PermissionDenied,
            "the credential may not use the group that keeps the mark; grant it Read on groups with the prefix datasink/, or use kafka_delivery=idempotent",
        ),
        C::TransactionalIdAuthorizationFailed => (
            Kind::PermissionDenied,
            "the credential may not use transactions; grant it Write and Describe on transactional ids with the prefix datasink/, or use kafka_delivery=idempotent",
        ),
        C::Authentication | C::SaslAuthenticationFailed | C::UnacceptableCredential => {
            (Kind::Unauthenticated, "the brokers do not accept the credential; alter the credential")
        }
        C::UnsupportedSASLMechanism | C::IllegalSASLState => {
            (Kind::Unauthenticated, "the brokers do not offer this way to authenticate; alter the credential's sasl.mechanism or security.protocol")
        }
        C::SSL => (Kind::Tls, "TLS failed; check the brokers' certificates and the credential's ssl.ca.pem, ssl.certificate.pem and ssl.key.pem"),
        C::Resolve => (Kind::Unreachable, "a broker's name does not resolve; check the sink's destination and what the brokers advertise"),
        C::BrokerTransportFailure | C::AllBrokersDown | C::NetworkException | C::BrokerDestroy => {
            (Kind::Unreachable, "no broker can be reached; check that they are up, and the sink's destination and security.protocol")
        }
        C::BrokerNotAvailable | C::LeaderNotAvailable | C::NotLeaderForPartition | C::ReplicaNotAvailable | C::ISRInsufficient | C::UnknownBroker => {
            (Kind::Unreachable, "a partition has no leader for now")
        }
        C::NotEnoughReplicas | C::NotEnoughReplicasAfterAppend | C::KafkaStorageError => {
            (Kind::Unreachable, "too few replicas of a partition are in sync for now")
        }
        C::CoordinatorLoadInProgress | C::CoordinatorNotAvailable | C::NotCoordinator | C::WaitingForCoordinator | C::ConcurrentTransactions => {
            (Kind::Unreachable, "the coordinator is not ready yet")
        }
        C::MessageTimedOut | C::OperationTimedOut | C::RequestTimedOut | C::TimedOutQueue => (Kind::TimedOut, "the brokers did not answer in time"),
        C::ThrottlingQuotaExceeded | C::QueueFull => (Kind::Throttled, "the brokers ask to slow down"),
        C::MessageSizeTooLarge | C::MessageBatchTooLarge => {
            (Kind::TooLarge, "it is larger than the topic takes; raise the topic's max.message.bytes, or lower max_batch_size or max_message_size")
        }
        C::InvalidRecord => (Kind::Rejected, "the topic refuses the record; a compacted topic needs key columns"),
        C::Fenced | C::ProducerFenced | C::TransactionCoordinatorFenced | C::InvalidProducerEpoch => (Kind::Fenced, "a newer writer has opened the stream"),
        C::UnsupportedFeature | C::UnsupportedVersion | C::NotImplemented | C::UnsupportedForMessageFormat | C::UnsupportedCompressionType => {
            (Kind::Misconfigured, "the brokers are too old for this; transactions need Kafka 0.11, kafka_compression=zstd needs 2.1")
        }
        C::InvalidTransactionTimeout => {
            (Kind::Misconfigured, "the brokers allow shorter transactions only; lower wait_timeout, or raise the brokers' transaction.max.timeout.ms")
        }
        C::InvalidTimestamp | C::PolicyViolation | C::InvalidRequiredAcks | C::InvalidConfig | C::SecurityDisabled => {
            (Kind::Misconfigured, "the brokers' settings forbid it; check the topic's and the brokers' configuration")
        }
        _ => (Kind::Unknown, "whether it was done cannot be told; it is looked at again"),
    }
}

/// The error for `code` while `doing` (completes "cannot …") at `shown`.
pub(super) fn error(shown: &str, doing: &str, code: Code) -> ConnectorError {
    let (kind, advice) = meaning(code);
    let error = ConnectorError::new(kind, format!("{shown}: cannot {doing}: {advice}")).with("destination", shown).with("kafka_error", format!("{code:?}"));
    // Outside of records being written, nothing is the fault of a record.
    if error.class == ErrorClass::Record { error.class(ErrorClass::Configuration) } else { error }
}

/// The code of a library's error; a failure without one is the library's own.
pub(super) fn code_of(error: &KafkaError) -> Code {
    match error {
        KafkaError::ClientConfig(..) => Code::InvalidArgument,
        KafkaError::Canceled => Code::PurgeQueue,
        other => other.rdkafka_error_code().unwrap_or(Code::Fail),
    }
}

/// Whether a coordinator is only on its way: elected, loaded, or made for the first group that was ever used.
pub(super) fn is_settling(code: Code) -> bool {
    matches!(code, Code::CoordinatorLoadInProgress | Code::CoordinatorNotAvailable | Code::NotCoordinator | Code::WaitingForCoordinator)
}

/// Whether the library's error says that a newer writer has the stream.
pub(super) fn is_fenced(code: Code) -> bool {
    meaning(code).0 == Kind::Fenced
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_sort_of_failure_has_its_kind_and_class() {
        use ErrorClass as Class;
        for (code, kind, class) in [
            (Code::UnknownTopicOrPartition, Kind::NotFound, Class::Configuration),
            (Code::TopicAuthorizationFailed, Kind::PermissionDenied, Class::Configuration),
            (Code::TransactionalIdAuthorizationFailed, Kind::PermissionDenied, Class::Configuration),
            (Code::GroupAuthorizationFailed, Kind::PermissionDenied, Class::Configuration),
            (Code::SaslAuthenticationFailed, Kind::Unauthenticated, Class::Configuration),
            (Code::Authentication, Kind::Unauthenticated, Class::Configuration),
            (Code::SSL, Kind::Tls, Class::Configuration),
            (Code::AllBrokersDown, Kind::Unreachable, Class::Destination),
            (Code::NotEnoughReplicas, Kind::Unreachable, Class::Destination),
            (Code::MessageTimedOut, Kind::TimedOut, Class::Destination),
            (Code::ThrottlingQuotaExceeded, Kind::Throttled, Class::Destination),
            (Code::ProducerFenced, Kind::Fenced, Class::Configuration),
            (Code::UnsupportedFeature, Kind::Misconfigured, Class::Configuration),
            (Code::OutOfOrderSequenceNumber, Kind::Unknown, Class::Destination),
            (Code::Fatal, Kind::Unknown, Class::Destination),
            (Code::PurgeInflight, Kind::Unknown, Class::Destination),
            // Of a record only where records are written; see the producer.
            (Code::MessageSizeTooLarge, Kind::TooLarge, Class::Configuration),
            (Code::InvalidRecord, Kind::Rejected, Class::Configuration),
        ] {
            let error = error("kafka://b:9092/t", "write", code);
            assert_eq!((error.kind, error.class), (kind, class), "{code:?}");
            assert!(error.message.starts_with("kafka://b:9092/t: cannot write: "), "{}", error.message);
        }
    }
}
