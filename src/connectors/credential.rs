//! Why: what a connector is handed to authenticate with, opened for the length of a connection. Never stored, never printed.

use std::{collections::BTreeMap, fmt};

use super::options::{OptionSpec, OptionType};
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

const AZURE_AD: &[OptionSpec] = &[
    OptionSpec::new("azure_storage_account_name", OptionType::Text, "Storage account; used only with a tenant id."),
    OptionSpec::new("azure_tenant_id", OptionType::Text, "Active Directory tenant."),
];
const AWS_IAM_ROLE: &[OptionSpec] = &[OptionSpec::new("s3_aws_role_arn", OptionType::Text, "Role to assume with the identity's keys.").required()];
const GCS_KEYS: &[OptionSpec] = &[OptionSpec::new(
    "gcs_service_account_keys",
    OptionType::Text,
    "The service account's key file as JSON text; the credential's secret is another place for it.",
)
.secret()];
const HDFS: &[OptionSpec] = &[
    OptionSpec::new("hdfs_kerberos_keytab", OptionType::Text, "Keytab of the user, kifs://…"),
    OptionSpec::new("hdfs_use_kerberos", OptionType::Bool, "Whether to authenticate with Kerberos.").or("false"),
];
const KAFKA: &[OptionSpec] = &[
    OptionSpec::new(
        "security.protocol",
        OptionType::Enum(&["SSL", "SASL_SSL", "SASL_PLAINTEXT"]),
        "How connections are protected and authenticated; SASL_SSL where sasl options are given, SSL otherwise.",
    ),
    OptionSpec::new(
        "sasl.mechanism",
        OptionType::Enum(&["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512", "OAUTHBEARER", "GSSAPI"]),
        "How SASL authenticates: PLAIN and SCRAM take a user and password, OAUTHBEARER a token; GSSAPI (Kerberos) is not supported.",
    ),
    OptionSpec::new("sasl.username", OptionType::Text, "User for PLAIN and SCRAM; the credential's identity is another place for it."),
    OptionSpec::new("sasl.password", OptionType::Text, "Password for PLAIN and SCRAM; the credential's secret is another place for it.").secret(),
    OptionSpec::new("sasl.oauthbearer.token", OptionType::Text, "Token for OAUTHBEARER; the credential's secret is another place for it.").secret(),
    OptionSpec::new("sasl.oauthbearer.token.endpoint.url", OptionType::Text, "Where tokens for OAUTHBEARER are fetched with client credentials, https://…"),
    OptionSpec::new("sasl.oauthbearer.client.id", OptionType::Text, "Client id at the token endpoint; the credential's identity is another place for it."),
    OptionSpec::new(
        "sasl.oauthbearer.client.secret",
        OptionType::Text,
        "Client secret at the token endpoint; the credential's secret is another place for it.",
    )
    .secret(),
    OptionSpec::new("sasl.oauthbearer.scope", OptionType::Text, "Scope to ask for at the token endpoint."),
    OptionSpec::new("sasl.kerberos.service.name", OptionType::Text, "Name of the brokers' Kerberos service; GSSAPI is not supported."),
    OptionSpec::new("sasl.kerberos.keytab", OptionType::Text, "Keytab for GSSAPI, which is not supported."),
    OptionSpec::new("sasl.kerberos.principal", OptionType::Text, "Principal for GSSAPI, which is not supported."),
    OptionSpec::new(
        "ssl.ca.pem",
        OptionType::Text,
        "Certificate authorities, as PEM, that the brokers' certificates may come from, beside those of the platform.",
    ),
    OptionSpec::new("ssl.certificate.pem", OptionType::Text, "Our own certificate and its chain, as PEM."),
    OptionSpec::new("ssl.key.pem", OptionType::Text, "The key of our own certificate, as PEM.").secret(),
    OptionSpec::new("ssl.key.password", OptionType::Text, "Password of the key.").secret(),
    OptionSpec::new("ssl.ca.location", OptionType::Text, "Certificate authorities in a file, which is not supported: give the PEM by value in ssl.ca.pem."),
    OptionSpec::new(
        "ssl.certificate.location",
        OptionType::Text,
        "Our own certificate in a file, which is not supported: give the PEM by value in ssl.certificate.pem.",
    ),
    OptionSpec::new("ssl.key.location", OptionType::Text, "The key in a file, which is not supported: give the PEM by value in ssl.key.pem."),
];
const REST: &[OptionSpec] = &[
    OptionSpec::new("header_name", OptionType::Text, "Header that carries header_value, for receivers that take neither basic nor bearer authentication."),
    OptionSpec::new("header_value", OptionType::Text, "Value of the header named in header_name.").secret(),
    OptionSpec::new(
        "signing_secret",
        OptionType::Text,
        "Standard Webhooks key, whsec_ and base64 of 24 to 64 bytes; several, separated by spaces, while one replaces another.",
    )
    .secret(),
];

/// Every option of credentials of this type; a secret one is sealed and never shown.
pub const fn credential_options(credential_type: CredentialType) -> &'static [OptionSpec] {
    match credential_type {
        CredentialType::AwsIamRole => AWS_IAM_ROLE,
        CredentialType::AzureAd => AZURE_AD,
        CredentialType::GcsServiceAccountKeys => GCS_KEYS,
        CredentialType::Hdfs => HDFS,
        CredentialType::Kafka | CredentialType::Confluent => KAFKA,
        CredentialType::Rest => REST,
        CredentialType::AwsAccessKey
        | CredentialType::AzureOauth
        | CredentialType::AzureSas
        | CredentialType::AzureStorageKey
        | CredentialType::GcsServiceAccountId
        | CredentialType::Jdbc => &[],
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn option_names_are_unique_and_whatever_sounds_secret_is() {
        for credential_type in CredentialType::ALL {
            let options = credential_options(credential_type);
            let names: HashSet<&str> = options.iter().map(|option| option.name).collect();
            assert_eq!(names.len(), options.len(), "{credential_type}");
            for option in options {
                let sounds_secret = ["password", "secret", "header_value", "account_keys"].iter().any(|word| option.name.contains(word))
                    || [".token", "key.pem"].iter().any(|end| option.name.ends_with(end));
                assert_eq!(option.secret, sounds_secret, "{credential_type}: {}", option.name);
            }
        }
    }
}
