//! Why: Azure Blob Storage as a sink kind. Never asks for an identity by itself: only the sink's credential and options, or this host's where the sink says so.

mod credential;
mod options;
mod parts;
mod sas;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use async_trait::async_trait;
use object_store::azure::MicrosoftAzureBuilder;

use self::{credential::Identity, options::Place, parts::Parts};
use super::{
    connector::{ConnectContext, Connector, Descriptor, Guarantee, Kind, SinkKind},
    credential::CredentialType,
    destination::Destination,
    error::{ConnectorError, ConnectorErrorKind},
    object::{self, Bucket, BucketSource, Endpoint, Gate, Manners, Signing},
    options::{ConfigFault, Options},
};

/// The row of the table of kinds.
#[derive(Debug, Clone, Copy, Default)]
pub struct Azure;

static DESCRIPTOR: Descriptor = Descriptor {
    kind: SinkKind::Azure,
    schemes: &["azure"],
    example_destination: "azure://account.blob.core.windows.net",
    options: &options::OPTIONS,
    credential_types: &[CredentialType::AzureAd, CredentialType::AzureOauth, CredentialType::AzureSas, CredentialType::AzureStorageKey],
    guarantee: Guarantee::ExactlyOnce,
    commit_on_finish: true,
    unavailable: None,
};

impl Kind for Azure {
    fn descriptor(&self) -> &'static Descriptor {
        &DESCRIPTOR
    }

    fn configure(&self, destination: &Destination, options: &Options) -> Result<Arc<dyn Connector>, Vec<ConfigFault>> {
        Ok(object::connector(Arc::new(Place::check(destination, options)?)))
    }
}

#[async_trait]
impl BucketSource for Place {
    fn accepts(&self, credential: CredentialType) -> bool {
        DESCRIPTOR.credential_types.contains(&credential)
    }

    fn endpoint(&self, cx: &ConnectContext) -> Result<Option<Endpoint>, ConnectorError> {
        Place::endpoint(self, &credential::account(cx, self)?).map(Some)
    }

    async fn bucket(&self, cx: &ConnectContext) -> Result<Bucket, ConnectorError> {
        let identity = Identity::of(cx, self)?;
        let endpoint = Place::endpoint(self, &identity.account)?;
        let manners = Manners {
            kind: SinkKind::Azure,
            renewable: identity.renewable,
            anonymous: false,
            verify_tls: true,
            // An account key only signs; everything else is all that it takes to be somebody.
            loopback_only: !self.https && identity.travels,
        };
        let signing = Signing { credentials: identity.provider.clone(), account: identity.account.clone() };
        let gate = Gate::new(cx, endpoint.port(), manners)?.signing(signing);
        let store = MicrosoftAzureBuilder::new()
            .with_account(&identity.account)
            .with_container_name(&self.container)
            .with_endpoint(endpoint.as_base())
            .with_credentials(identity.provider)
            .with_retry(object::no_retries())
            .with_http_connector(gate)
            .build()
            .map_err(|_| ConnectorError::new(ConnectorErrorKind::Internal, format!("the library cannot open the container {}", self.container)))?;
        let parts = Arc::new(Parts(store.clone()));
        Ok(Bucket { kind: SinkKind::Azure, name: self.container.clone(), store: Arc::new(store), parts, conditional_completion: true })
    }
}
