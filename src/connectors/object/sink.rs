//! Why: a bucket as a sink, as far as it goes without the engine that writes: it is checked and probed. Never claims to have written.

use std::sync::Arc;

use async_trait::async_trait;

use super::{bucket::BucketSource, probe};
use crate::connectors::{
    connector::{ConnectContext, Connector, Epoch, Opened, Probe, StreamId, Terms},
    credential::CredentialType,
    error::{ConnectorError, ConnectorErrorKind},
};

/// A checked sink over `source`.
pub(in crate::connectors) fn connector(source: Arc<dyn BucketSource>) -> Arc<dyn Connector> {
    Arc::new(BucketSink { source })
}

#[derive(Debug)]
struct BucketSink {
    source: Arc<dyn BucketSource>,
}

#[async_trait]
impl Connector for BucketSink {
    fn accepts(&self, credential: CredentialType) -> bool {
        self.source.accepts(credential)
    }

    async fn probe(&self, cx: &ConnectContext, write: bool) -> Probe {
        probe::probe(self.source.as_ref(), cx, "", write).await
    }

    async fn open(&self, _: &ConnectContext, _: &StreamId, _: Epoch, _: &Terms) -> Result<Opened, ConnectorError> {
        Err(ConnectorError::new(ConnectorErrorKind::Misconfigured, "this build checks object stores and cannot write to them yet"))
    }
}
