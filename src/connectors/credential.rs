//! Why: what a connector is handed to authenticate with, opened for the length of a connection. Never stored, never printed.

use std::{collections::BTreeMap, fmt};

use crate::secret::Secret;

/// What a credential's identity and secret are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
#[expect(missing_docs, reason = "the interface's own comments in proto/datasink/v1/credential.proto say what each is")]
pub enum CredentialType {
    AwsAccessKey = 1,
    AwsIamRole = 2,
    AzureAd = 3,
    AzureOauth = 4,
    AzureSas = 5,
    AzureStorageKey = 6,
    GcsServiceAccountId = 7,
    GcsServiceAccountKeys = 8,
    Hdfs = 9,
    Jdbc = 10,
    Kafka = 11,
    Confluent = 12,
    Rest = 13,
}

impl CredentialType {
    /// Every type.
    pub const ALL: [Self; 13] = [
        Self::AwsAccessKey,
        Self::AwsIamRole,
        Self::AzureAd,
        Self::AzureOauth,
        Self::AzureSas,
        Self::AzureStorageKey,
        Self::GcsServiceAccountId,
        Self::GcsServiceAccountKeys,
        Self::Hdfs,
        Self::Jdbc,
        Self::Kafka,
        Self::Confluent,
        Self::Rest,
    ];

    /// The word for it in messages and SQL.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::AwsAccessKey => "aws_access_key",
            Self::AwsIamRole => "aws_iam_role",
            Self::AzureAd => "azure_ad",
            Self::AzureOauth => "azure_oauth",
            Self::AzureSas => "azure_sas",
            Self::AzureStorageKey => "azure_storage_key",
            Self::GcsServiceAccountId => "gcs_service_account_id",
            Self::GcsServiceAccountKeys => "gcs_service_account_keys",
            Self::Hdfs => "hdfs",
            Self::Jdbc => "jdbc",
            Self::Kafka => "kafka",
            Self::Confluent => "confluent",
            Self::Rest => "rest",
        }
    }
}

impl fmt::Display for CredentialType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A credential with its secrets open.
#[derive(Debug)]
pub struct OpenCredential {
    /// Its type.
    pub credential_type: CredentialType,
    /// User, key id, account; may be empty.
    pub identity: String,
    /// The secret, where one is set.
    pub secret: Option<Secret>,
    /// Options that are not secret.
    pub options: BTreeMap<String, String>,
    /// Options that are.
    pub secret_options: BTreeMap<String, Secret>,
    /// Grows with every rotation.
    pub version: u64,
}
