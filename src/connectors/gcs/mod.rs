//! Why: Google Cloud Storage as a sink kind. Never reads a person's login or this host's identity unless the sink and the operator both say so.

mod credential;
mod options;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use async_trait::async_trait;
use http::{HeaderName, HeaderValue};
use object_store::{
    StaticCredentialProvider,
    gcp::{GcpCredential, GcpSigningCredential, GoogleCloudStorageBuilder},
};

use self::options::Place;
use super::{
    connector::{ConnectContext, Connector, Descriptor, Example, ExampleCredential, Guarantee, Guide, Kind, SinkKind},
    credential::CredentialType,
    destination::Destination,
    error::{ConnectorError, ConnectorErrorKind},
    object::{self, Bucket, BucketSource, Endpoint, Gate, Manners},
    options::{ConfigFault, Options},
};

/// The row of the table of kinds.
#[derive(Debug, Clone, Copy, Default)]
pub struct Gcs;

static DESCRIPTOR: Descriptor = Descriptor {
    kind: SinkKind::Gcs,
    schemes: &["gcs"],
    example_destination: "gcs://storage.googleapis.com",
    options: &options::OPTIONS,
    credential_types: &[CredentialType::GcsServiceAccountId, CredentialType::GcsServiceAccountKeys],
    guarantee: Guarantee::ExactlyOnce,
    commit_on_finish: true,
    unavailable: None,
    guide: Guide { basis: object::BASIS, limits: &LIMITS, examples: &EXAMPLES },
};

/// Those of every object store, and one of its own.
static LIMITS: [&str; object::LIMITS.len() + 1] = {
    let mut all = [UNTRIED; object::LIMITS.len() + 1];
    let (shared, _) = all.split_at_mut(object::LIMITS.len());
    shared.copy_from_slice(object::LIMITS);
    all
};

const UNTRIED: &str = "A credential of type gcs_service_account_id is exchanged for a token by Google's own token service, which no test of this service reaches: what is asked of it is tested, what it answers is taken from its documentation. A key file signs for itself and is tried on a server that checks signatures.";

static EXAMPLES: [Example; 4] = [
    Example {
        scheme: "service account (e-mail and private key)",
        destination: "gcs",
        options: &[("gcs_bucket_name", "exports")],
        credential: Some(ExampleCredential {
            credential_type: CredentialType::GcsServiceAccountId,
            identity: "exports@project.iam.gserviceaccount.com",
            secret: "<PEM of the private key>",
            options: &[],
        }),
    },
    Example {
        scheme: "key file in a credential",
        destination: "gcs",
        options: &[("gcs_bucket_name", "exports")],
        credential: Some(ExampleCredential {
            credential_type: CredentialType::GcsServiceAccountKeys,
            identity: "",
            secret: "",
            options: &[("gcs_service_account_keys", "<the key file, JSON text>")],
        }),
    },
    Example {
        scheme: "managed identity",
        destination: "gcs",
        options: &[("gcs_bucket_name", "exports"), ("use_managed_credentials", "true")],
        credential: None,
    },
    Example { scheme: "public", destination: "gcs", options: &[("gcs_bucket_name", "exports")], credential: None },
];

impl Kind for Gcs {
    fn descriptor(&self) -> &'static Descriptor {
        &DESCRIPTOR
    }

    fn configure(&self, destination: &Destination, options: &Options) -> Result<Arc<dyn Connector>, Vec<ConfigFault>> {
        object::connector(Place::check(destination, options), options, DESCRIPTOR.credential_types)
    }
}

#[async_trait]
impl BucketSource for Place {
    fn endpoint(&self, _: &ConnectContext) -> Result<Option<Endpoint>, ConnectorError> {
        Place::endpoint(self).map(Some)
    }

    async fn bucket(&self, cx: &ConnectContext) -> Result<Bucket, ConnectorError> {
        let endpoint = Place::endpoint(self)?;
        let provider = credential::provider(cx, self)?;
        let manners = Manners {
            kind: SinkKind::Gcs,
            renewable: provider.is_some(),
            anonymous: provider.is_none(),
            verify_tls: true,
            // A token is all that it takes to be somebody.
            loopback_only: !self.https && provider.is_some(),
        };
        let gate = Gate::new(cx, endpoint.port(), manners)?;
        let gate = match self.project.as_deref().filter(|_| provider.is_some()).map(HeaderValue::from_str) {
            Some(Ok(project)) => gate.header(HeaderName::from_static("x-goog-user-project"), project),
            _ => gate,
        };
        let anonymous = provider.is_none();
        // Given also where nothing is signed: without it the library's writes would ask the metadata service for one.
        let provider = provider.unwrap_or_else(|| Arc::new(StaticCredentialProvider::new(GcpCredential { bearer: String::new() })));
        let store = GoogleCloudStorageBuilder::new()
            .with_bucket_name(&self.bucket)
            .with_base_url(&endpoint.as_base())
            .with_credentials(provider)
            .with_signing_credentials(Arc::new(StaticCredentialProvider::new(GcpSigningCredential { email: String::new(), private_key: None })))
            .with_skip_signature(anonymous)
            .with_retry(object::no_retries())
            .with_http_connector(gate)
            .build()
            .map_err(|_| ConnectorError::new(ConnectorErrorKind::Internal, format!("the library cannot open the bucket {}", self.bucket)))?;
        let store = Arc::new(store);
        // The XML interface has no conditions for uploads in parts.
        Ok(Bucket { kind: SinkKind::Gcs, name: self.bucket.clone(), parts: store.clone(), store, conditional_completion: false })
    }
}
