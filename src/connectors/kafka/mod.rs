//! Why: Kafka as a sink kind: an idempotent producer, or transactions with the mark inside. Never passes an option through to the client library: each is one that we know and translate.

mod client;
mod failure;
mod group;
mod key;
mod mark;
mod open;
mod options;
mod probe;
mod producer;
mod security;
#[cfg(test)]
mod tests;
mod token;
mod writer;

use std::sync::Arc;

use async_trait::async_trait;

use self::options::Target;
use super::{
    connector::{ConnectContext, Connector, Descriptor, Epoch, Example, ExampleCredential, Guarantee, Guide, Kind, Opened, Probe, SinkKind, StreamId, Terms},
    credential::CredentialType,
    destination::Destination,
    error::ConnectorError,
    options::{ConfigFault, Options},
};
use crate::limits;

/// The row of the table of kinds.
#[derive(Debug, Clone, Copy, Default)]
pub struct Kafka;

static DESCRIPTOR: Descriptor = Descriptor {
    kind: SinkKind::Kafka,
    schemes: &["kafka"],
    example_destination: "kafka://host:9092",
    options: &options::OPTIONS,
    credential_types: &[CredentialType::Kafka, CredentialType::Confluent],
    guarantee: Guarantee::ExactlyOnce,
    commit_on_finish: false,
    unavailable: None,
    guide: Guide {
        basis: "kafka_delivery=exactly_once puts records and mark into one transaction, for readers with isolation.level=read_committed; the transactional id fences older writers. \
                kafka_delivery=idempotent, the default, loses, doubles and reorders nothing within a session; a unit that was in flight when a session broke may be there twice, with the same headers.",
        limits: &[
            "The topic must exist; none is created.",
            "Order holds within a partition. The key columns of the stream make the message key; without them partitions are taken in turn.",
            "A record larger than max_message_size, or than the topic takes, is a record error that names its offset.",
            "Kerberos (GSSAPI) is refused: the client library would run a shell command for it. Use SCRAM, OAUTHBEARER or client certificates.",
            "A mark expires with its group (offsets.retention.minutes, seven days by default) unless its stream is open, which writes it again once a day; the stream then goes on from the service's own note and says so.",
            "If the credential may ask for the topic's configuration (DescribeConfigs), a record larger than max.message.bytes is named at once; otherwise it is searched for by halving.",
            "A transaction lasts at most a minute: COMMIT_MODE_ON_FINISH is refused.",
        ],
        examples: &EXAMPLES,
    },
};

const fn example(scheme: &'static str, identity: &'static str, secret: &'static str, options: &'static [(&'static str, &'static str)]) -> Example {
    let credential = ExampleCredential { credential_type: CredentialType::Kafka, identity, secret, options };
    Example {
        scheme,
        destination: "kafka://broker-1.example.com:9093,broker-2.example.com:9093",
        options: &[("kafka_topic_name", "staff")],
        credential: Some(credential),
    }
}

static EXAMPLES: [Example; 7] = [
    Example { scheme: "public", destination: "kafka://broker.example.com:9092", options: &[("kafka_topic_name", "staff")], credential: None },
    Example {
        scheme: "public, exactly-once",
        destination: "kafka://broker.example.com:9092",
        options: &[("kafka_topic_name", "staff"), ("kafka_delivery", "exactly_once")],
        credential: None,
    },
    example("SASL PLAIN over TLS", "alice", "<password>", &[("security.protocol", "SASL_SSL"), ("sasl.mechanism", "PLAIN")]),
    example("SASL SCRAM-SHA-256 over TLS", "alice", "<password>", &[("security.protocol", "SASL_SSL"), ("sasl.mechanism", "SCRAM-SHA-256")]),
    example("SASL SCRAM-SHA-512 over TLS", "alice", "<password>", &[("security.protocol", "SASL_SSL"), ("sasl.mechanism", "SCRAM-SHA-512")]),
    example(
        "OAUTHBEARER, client credentials",
        "datasink",
        "<client secret>",
        &[("security.protocol", "SASL_SSL"), ("sasl.mechanism", "OAUTHBEARER"), ("sasl.oauthbearer.token.endpoint.url", "https://login.example.com/token")],
    ),
    example(
        "client certificate (mTLS)",
        "",
        "",
        &[
            ("security.protocol", "SSL"),
            ("ssl.ca.pem", "-----BEGIN CERTIFICATE-----…"),
            ("ssl.certificate.pem", "-----BEGIN CERTIFICATE-----…"),
            ("ssl.key.pem", "<PEM of the key>"),
        ],
    ),
];

impl Kind for Kafka {
    fn descriptor(&self) -> &'static Descriptor {
        &DESCRIPTOR
    }

    fn configure(&self, destination: &Destination, options: &Options) -> Result<Arc<dyn Connector>, Vec<ConfigFault>> {
        Ok(Arc::new(KafkaSink(Arc::new(Target::new(destination, options)?))))
    }
}

/// A checked Kafka destination.
#[derive(Debug)]
struct KafkaSink(Arc<Target>);

#[async_trait]
impl Connector for KafkaSink {
    fn accepts(&self, credential: CredentialType) -> bool {
        matches!(credential, CredentialType::Kafka | CredentialType::Confluent)
    }

    async fn probe(&self, cx: &ConnectContext, write: bool) -> Probe {
        probe::probe(&self.0, cx, write).await
    }

    async fn open(&self, cx: &ConnectContext, stream: &StreamId, epoch: Epoch, terms: &Terms) -> Result<Opened, ConnectorError> {
        open::open(&self.0, cx, stream, epoch, terms, limits::KAFKA_MARK_REFRESH_INTERVAL).await
    }

    async fn forget(&self, cx: &ConnectContext, stream: &StreamId) -> Result<(), ConnectorError> {
        open::forget(&self.0, cx, stream).await
    }
}
