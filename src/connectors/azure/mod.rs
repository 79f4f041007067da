//! Why: Azure Blob Storage as a sink kind. Never asks for an identity by itself: only the sink's credential and options, or this host's where the sink says so.

mod credential;
mod options;
mod parts;
mod sas;
mod store;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use async_trait::async_trait;
use object_store::azure::MicrosoftAzureBuilder;

use self::{
    credential::Identity,
    options::Place,
    parts::Parts,
    store::{Deleting, Whole},
};
use super::{
    connector::{ConnectContext, Connector, Descriptor, Example, ExampleCredential, Guarantee, Guide, Kind, SinkKind},
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
    guide: Guide { basis: object::BASIS, limits: object::LIMITS, examples: &EXAMPLES },
};

static EXAMPLES: [Example; 5] = [
    Example {
        scheme: "storage account key",
        destination: "azure",
        options: &[("azure_container_name", "exports")],
        credential: Some(ExampleCredential { credential_type: CredentialType::AzureStorageKey, identity: "account", secret: "<account key>", options: &[] }),
    },
    Example {
        scheme: "shared access signature",
        destination: "azure",
        options: &[("azure_container_name", "exports")],
        credential: Some(ExampleCredential { credential_type: CredentialType::AzureSas, identity: "account", secret: "<sas token>", options: &[] }),
    },
    Example {
        scheme: "OAuth token",
        destination: "azure://account.blob.core.windows.net",
        options: &[("azure_container_name", "exports")],
        credential: Some(ExampleCredential { credential_type: CredentialType::AzureOauth, identity: "", secret: "<token>", options: &[] }),
    },
    Example {
        scheme: "Active Directory application",
        destination: "azure",
        options: &[("azure_container_name", "exports")],
        credential: Some(ExampleCredential {
            credential_type: CredentialType::AzureAd,
            identity: "00000000-0000-0000-0000-000000000001",
            secret: "<client secret>",
            options: &[("azure_storage_account_name", "account"), ("azure_tenant_id", "00000000-0000-0000-0000-000000000002")],
        }),
    },
    Example {
        scheme: "managed identity",
        destination: "azure",
        options: &[
            ("azure_container_name", "exports"),
            ("use_managed_credentials", "true"),
            ("azure_storage_account_name", "account"),
            ("azure_tenant_id", "00000000-0000-0000-0000-000000000002"),
        ],
        credential: None,
    },
];

impl Kind for Azure {
    fn descriptor(&self) -> &'static Descriptor {
        &DESCRIPTOR
    }

    fn configure(&self, destination: &Destination, options: &Options) -> Result<Arc<dyn Connector>, Vec<ConfigFault>> {
        object::connector(Place::check(destination, options), options, DESCRIPTOR.credential_types)
    }
}

#[async_trait]
impl BucketSource for Place {
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
        let gate = Gate::new(cx, endpoint.port(), manners)?.signing(signing.clone());
        let store = MicrosoftAzureBuilder::new()
            .with_account(&identity.account)
            .with_container_name(&self.container)
            .with_endpoint(endpoint.as_base())
            .with_credentials(identity.provider)
            .with_retry(object::no_retries())
            .with_http_connector(gate.clone())
            .build()
            .map_err(|_| ConnectorError::new(ConnectorErrorKind::Internal, format!("the library cannot open the container {}", self.container)))?;
        let parts = Arc::new(Parts(store.clone()));
        let deleting = Arc::new(Deleting { gate, signing, base: endpoint.url, container: self.container.clone() });
        let store = Arc::new(Whole { library: store, deleting });
        Ok(Bucket { kind: SinkKind::Azure, name: self.container.clone(), store, parts, conditional_completion: true })
    }
}
