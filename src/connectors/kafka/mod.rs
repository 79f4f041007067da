//! Why: Kafka as a sink kind: an idempotent producer, or transactions with the mark inside. Never passes an option through to the client library: each is one that we know and translate.

mod client;
mod failure;
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
    connector::{ConnectContext, Connector, Descriptor, Epoch, Guarantee, Kind, Opened, Probe, SinkKind, StreamId, Terms},
    credential::CredentialType,
    destination::Destination,
    error::ConnectorError,
    options::{ConfigFault, Options},
};

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
};

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
        open::open(&self.0, cx, stream, epoch, terms).await
    }

    async fn forget(&self, cx: &ConnectContext, stream: &StreamId) -> Result<(), ConnectorError> {
        open::forget(&self.0, cx, stream).await
    }
}
