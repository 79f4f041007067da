//! Why: a destination that costs nothing, so that what is measured is the way to it. Never part of the product.

use std::sync::Arc;

use async_trait::async_trait;
use datasink::{
    connectors::{
        connector::{
            Appended, ConnectContext, Connector, Delivery, Descriptor, Epoch, Finish, FoundMark, Guarantee, Guide, Kind, Mark, Opened, Outcome, Probe,
            Settlement, SinkKind, SinkWriter, StreamId, Terms, UnitPolicy,
        },
        credential::CredentialType,
        destination::Destination,
        error::ConnectorError,
        options::{COMMON, ConfigFault, Options},
    },
    record::{Batch, Encoding},
};

static DESCRIPTOR: Descriptor = Descriptor {
    kind: SinkKind::Kafka,
    schemes: &["kafka"],
    example_destination: "kafka://discard",
    options: &COMMON,
    credential_types: &[],
    guarantee: Guarantee::ExactlyOnce,
    commit_on_finish: false,
    unavailable: None,
    guide: Guide::NONE,
};

/// Stands in the place of kafka.
#[derive(Debug)]
pub struct Discard;

impl Kind for Discard {
    fn descriptor(&self) -> &'static Descriptor {
        &DESCRIPTOR
    }

    fn configure(&self, _: &Destination, _: &Options) -> Result<Arc<dyn Connector>, Vec<ConfigFault>> {
        Ok(Arc::new(Self))
    }
}

#[async_trait]
impl Connector for Discard {
    fn accepts(&self, _: CredentialType) -> bool {
        false
    }

    async fn probe(&self, cx: &ConnectContext, _: bool) -> Probe {
        Probe { steps: Vec::new(), checked: cx.ambient.now() }
    }

    async fn open(&self, _: &ConnectContext, _: &StreamId, epoch: Epoch, _: &Terms) -> Result<Opened, ConnectorError> {
        Ok(Opened {
            writer: Box::new(Self),
            epoch,
            mark: FoundMark::Missing,
            delivery: Delivery { guarantee: Guarantee::ExactlyOnce, basis: "nothing is kept".to_owned() },
            takes: Encoding::Ndjson,
            schema: None,
            units: UnitPolicy {
                records_max: 10_000,
                bytes_max: 4 << 20,
                age_max: std::time::Duration::ZERO,
                idle_max: std::time::Duration::ZERO,
                commits_in_flight: 4,
            },
        })
    }
}

#[async_trait]
impl SinkWriter for Discard {
    async fn append(&mut self, _: &Batch) -> Result<Appended, ConnectorError> {
        Ok(Appended::Room)
    }

    fn commit(&mut self, _: Mark) -> Settlement {
        Box::pin(std::future::ready(Ok(Outcome::default())))
    }

    async fn abandon(&mut self) {}

    async fn finish(self: Box<Self>, _: Finish, _: Mark) -> Result<Outcome, ConnectorError> {
        Ok(Outcome::default())
    }
}
