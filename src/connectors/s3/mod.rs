//! Why: Amazon S3, and what speaks its protocol, as a sink kind. Never asks for an identity by itself: only the sink's credential, or this host's where the sink says so.

mod credential;
mod options;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use async_trait::async_trait;
use object_store::{
    StaticCredentialProvider,
    aws::{AmazonS3Builder, AwsCredential},
};

use self::{
    credential::Identity,
    options::{Encryption, Place},
};
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
pub struct S3;

static DESCRIPTOR: Descriptor = Descriptor {
    kind: SinkKind::S3,
    schemes: &["s3"],
    example_destination: "s3://s3.eu-central-1.amazonaws.com",
    options: &options::OPTIONS,
    credential_types: &[CredentialType::AwsAccessKey, CredentialType::AwsIamRole],
    guarantee: Guarantee::ExactlyOnce,
    commit_on_finish: true,
    unavailable: None,
    guide: Guide { basis: object::BASIS, limits: object::LIMITS, examples: &EXAMPLES },
};

static EXAMPLES: [Example; 5] = [
    Example {
        scheme: "access key",
        destination: "s3",
        options: &[("s3_bucket_name", "exports"), ("s3_region", "eu-central-1")],
        credential: Some(ExampleCredential {
            credential_type: CredentialType::AwsAccessKey,
            identity: "AKIAIOSFODNN7EXAMPLE",
            secret: "<secret access key>",
            options: &[],
        }),
    },
    Example {
        scheme: "role, assumed with an access key",
        destination: "s3",
        options: &[("s3_bucket_name", "exports"), ("s3_region", "eu-central-1")],
        credential: Some(ExampleCredential {
            credential_type: CredentialType::AwsIamRole,
            identity: "AKIAIOSFODNN7EXAMPLE",
            secret: "<secret access key>",
            options: &[("s3_aws_role_arn", "arn:aws:iam::123456789012:role/exports")],
        }),
    },
    Example {
        scheme: "managed identity",
        destination: "s3",
        options: &[("s3_bucket_name", "exports"), ("s3_region", "eu-central-1"), ("use_managed_credentials", "true")],
        credential: None,
    },
    Example { scheme: "public", destination: "s3", options: &[("s3_bucket_name", "exports"), ("s3_region", "eu-central-1")], credential: None },
    Example {
        scheme: "access key, another store that speaks S3, Parquet",
        destination: "s3://minio.example.com:9000",
        options: &[
            ("s3_bucket_name", "exports"),
            ("s3_region", "eu-central-1"),
            ("s3_use_virtual_addressing", "false"),
            ("file_format", "parquet"),
            ("file_compression", "zstd"),
        ],
        credential: Some(ExampleCredential { credential_type: CredentialType::AwsAccessKey, identity: "exports", secret: "<secret access key>", options: &[] }),
    },
];

impl Kind for S3 {
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
        let identity = Identity::of(cx, self)?;
        let manners = Manners {
            kind: SinkKind::S3,
            renewable: identity.renewable,
            anonymous: identity.provider.is_none(),
            verify_tls: self.verify_tls,
            // A signature gives its key away to nobody; a session's token would be.
            loopback_only: !self.https && identity.has_token,
        };
        let gate = Gate::new(cx, endpoint.port(), manners)?;
        let builder = AmazonS3Builder::new()
            .with_bucket_name(&self.bucket)
            .with_region(&self.region)
            .with_endpoint(endpoint.as_base())
            .with_virtual_hosted_style_request(self.in_host_name)
            // What deletes objects one by one is known by every store that speaks the protocol.
            .with_disable_bulk_delete(true)
            // Over verified TLS nobody can change the bytes on their way, and what they must hash to is in the object's metadata, which is signed.
            .with_unsigned_payload(self.https && self.verify_tls)
            .with_retry(object::no_retries())
            .with_http_connector(gate);
        let builder = match identity.provider {
            Some(provider) => builder.with_credentials(provider),
            // Given although nothing is signed: without it the library would look for one around the filter.
            None => builder.with_skip_signature(true).with_credentials(Arc::new(StaticCredentialProvider::new(AwsCredential {
                key_id: String::new(),
                secret_key: String::new(),
                token: None,
            }))),
        };
        let store = encrypted(builder, &self.encryption)?
            .build()
            .map_err(|_| ConnectorError::new(ConnectorErrorKind::Internal, format!("the library cannot open the bucket {}", self.bucket)))?;
        let store = Arc::new(store);
        Ok(Bucket { kind: SinkKind::S3, name: self.bucket.clone(), parts: store.clone(), store, conditional_completion: true })
    }
}

fn encrypted(builder: AmazonS3Builder, encryption: &Encryption) -> Result<AmazonS3Builder, ConnectorError> {
    use object_store::aws::AmazonS3ConfigKey;
    let option = |key: &str| {
        key.parse::<AmazonS3ConfigKey>().map_err(|_| ConnectorError::new(ConnectorErrorKind::Internal, format!("the library no longer knows its option {key}")))
    };
    let kind = option("aws_server_side_encryption")?;
    Ok(match encryption {
        Encryption::AsTheBucketSays => builder,
        Encryption::Managed => builder.with_config(kind, "AES256"),
        Encryption::Kms { key, twice } => {
            let builder = builder.with_config(kind, if *twice { "aws:kms:dsse" } else { "aws:kms" });
            match key {
                Some(key) => builder.with_config(option("aws_sse_kms_key_id")?, key.as_str()),
                None => builder,
            }
        }
        Encryption::Customer(key) => builder.with_ssec_encryption(key.as_str()),
    })
}
