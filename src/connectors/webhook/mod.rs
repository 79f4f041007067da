//! Why: HTTP receivers as a sink kind, by the Standard Webhooks specification. Never claims exactly-once: a lost answer cannot be told from a lost request.

mod options;
mod probe;
mod receiver;
mod signature;
#[cfg(test)]
mod tests;
mod writer;

use std::sync::Arc;

use async_trait::async_trait;
use url::Url;

use self::{receiver::Receiver, writer::WebhookWriter};
use super::{
    connector::{CommitMode, ConnectContext, Connector, Delivery, Descriptor, Epoch, FoundMark, Guarantee, Kind, Opened, Probe, SinkKind, StreamId, Terms},
    credential::CredentialType,
    destination::Destination,
    error::{ConnectorError, ConnectorErrorKind},
    messages::Cut,
    options::{ConfigFault, Options},
};
use crate::record::Encoding;

/// The row of the table of kinds.
#[derive(Debug, Clone, Copy, Default)]
pub struct Webhook;

static DESCRIPTOR: Descriptor = Descriptor {
    kind: SinkKind::Webhook,
    schemes: &["http", "https"],
    example_destination: "https://host/path",
    options: &options::OPTIONS,
    credential_types: &[CredentialType::Rest],
    guarantee: Guarantee::Idempotent,
    commit_on_finish: false,
    unavailable: None,
};

const BASIS: &str = "webhooks cannot be exactly-once: an answer may be lost after the receiver has acted. Requests come in order, one at a time, and a request that is sent again \
                     carries the same webhook-id and Idempotency-Key and the same body, so the receiver can drop what it has seen.";

impl Kind for Webhook {
    fn descriptor(&self) -> &'static Descriptor {
        &DESCRIPTOR
    }

    fn configure(&self, destination: &Destination, options: &Options) -> Result<Arc<dyn Connector>, Vec<ConfigFault>> {
        let url = options::url(destination)?;
        Ok(Arc::new(WebhookSink { url, shown: destination.redacted().to_owned(), cut: Cut::default().overridden(options) }))
    }
}

/// A checked webhook destination.
#[derive(Debug)]
struct WebhookSink {
    url: Url,
    shown: String,
    cut: Cut,
}

#[async_trait]
impl Connector for WebhookSink {
    fn accepts(&self, credential: CredentialType) -> bool {
        credential == CredentialType::Rest
    }

    async fn probe(&self, cx: &ConnectContext, write: bool) -> Probe {
        probe::probe(&self.url, &self.shown, self.cut, cx, write).await
    }

    async fn open(&self, cx: &ConnectContext, stream: &StreamId, epoch: Epoch, terms: &Terms) -> Result<Opened, ConnectorError> {
        if terms.commit_mode == CommitMode::OnFinish {
            return Err(ConnectorError::new(
                ConnectorErrorKind::Misconfigured,
                "a webhook cannot take records back, so it cannot hold them until finish; open the stream in continuous mode",
            ));
        }
        let cut = self.cut.overridden(&terms.options);
        let receiver = Receiver::new(&self.url, &self.shown, cx)?;
        Ok(Opened {
            writer: Box::new(WebhookWriter::new(receiver, stream.clone(), epoch, cut)),
            epoch,
            mark: FoundMark::NotKept,
            delivery: Delivery { guarantee: Guarantee::Idempotent, basis: BASIS.to_owned() },
            takes: Encoding::Ndjson,
            schema: None,
            units: WebhookWriter::units(cut),
        })
    }
}
