//! Why: a credential is a named secret that sinks refer to and nobody can read back. Never returns a secret, to anyone.

use std::{collections::BTreeMap, fmt};

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{Domain, OpContext, page::Page};
use crate::{
    clock::Timestamp,
    connectors::credential::CredentialType,
    name::{PrincipalName, QualifiedName},
    problem::Problem,
    secret::Secret,
};

/// A credential as it may be shown, without its secret.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct CredentialView {
    /// Its full name.
    pub name: QualifiedName,
    /// Differs between a credential and a later one of the same name.
    pub uid: Uuid,
    /// What its identity and secret are.
    pub credential_type: CredentialType,
    /// User, key id, account; may be empty.
    pub identity: String,
    /// Whether a secret is stored or referred to.
    pub secret_set: bool,
    /// Grows by one whenever the secret is replaced.
    pub secret_version: u64,
    /// When that was last.
    pub secret_updated: Option<Timestamp>,
    /// A secret option's value is `***`.
    pub options: BTreeMap<String, String>,
    /// Who made it.
    pub owner: PrincipalName,
    /// Grows by one with every change.
    pub generation: u64,
    /// Opaque; from uid and generation.
    pub etag: String,
    /// When it was made.
    pub created: Timestamp,
    /// When it was changed last.
    pub updated: Timestamp,
    /// Sinks that refer to it, where asked for.
    pub used_by: Vec<String>,
}

/// Where a credential's secret comes from.
#[derive(Debug)]
pub enum SecretSource {
    /// The secret itself; stored sealed.
    Inline(Secret),
    /// Read from this environment variable of the server at each use.
    EnvironmentVariable(String),
    /// Read from this file of the server at each use.
    File(String),
}

/// Makes a credential.
#[derive(Serialize)]
#[expect(missing_docs, reason = "the interface's own comments in proto/datasink/v1/credential.proto")]
pub struct CreateCredential {
    pub name: String,
    /// `None` where the wire said UNSPECIFIED, which is refused with all other faults.
    pub credential_type: Option<CredentialType>,
    pub identity: String,
    #[serde(skip)]
    pub secret: Option<SecretSource>,
    pub options: BTreeMap<String, String>,
    pub or_replace: bool,
    pub if_not_exists: bool,
    pub validate_only: bool,
    pub request_id: String,
}

impl fmt::Debug for CreateCredential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CreateCredential").field("name", &self.name).field("credential_type", &self.credential_type).finish_non_exhaustive()
    }
}

/// The answer to [`CreateCredential`].
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct CreatedCredential {
    /// The credential.
    pub credential: CredentialView,
    /// False where `if_not_exists` found one.
    pub created: bool,
}

/// Changes what is set and nothing else.
#[derive(Serialize)]
#[expect(missing_docs, reason = "the interface's own comments in proto/datasink/v1/credential.proto")]
pub struct AlterCredential {
    pub name: String,
    pub credential_type: Option<CredentialType>,
    pub identity: Option<String>,
    #[serde(skip)]
    pub secret: Option<SecretSource>,
    pub updates: BTreeMap<String, String>,
    pub unset: Vec<String>,
    pub schema_name: Option<String>,
    pub etag: String,
    pub validate_only: bool,
    pub request_id: String,
}

impl fmt::Debug for AlterCredential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AlterCredential").field("name", &self.name).field("updates", &self.updates.keys()).field("unset", &self.unset).finish_non_exhaustive()
    }
}

/// The answer to [`AlterCredential`].
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct AlteredCredential {
    /// The credential as it is now.
    pub credential: CredentialView,
    /// False where every value was already so.
    pub changed: bool,
}

/// Drops a credential that no sink uses.
#[derive(Debug, Clone, Default, Serialize)]
#[expect(missing_docs, reason = "the interface's own comments in proto/datasink/v1/credential.proto")]
pub struct DropCredential {
    pub name: String,
    pub if_exists: bool,
    pub etag: String,
    pub validate_only: bool,
    pub request_id: String,
}

/// The answer to [`DropCredential`].
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct DroppedCredential {
    /// False where `if_exists` found none.
    pub dropped: bool,
}

/// Asks for one credential, or a page of those that match.
#[derive(Debug, Clone, Default)]
#[expect(missing_docs, reason = "the interface's own comments in proto/datasink/v1/credential.proto")]
pub struct ShowCredential {
    pub name: String,
    pub page: Page,
    pub credential_type: Option<CredentialType>,
    pub include_used_by: bool,
}

/// The answer to [`ShowCredential`].
#[derive(Debug, Clone, Default)]
pub struct ShownCredentials {
    /// In name order.
    pub credentials: Vec<CredentialView>,
    /// Empty on the last page.
    pub next_page_token: String,
}

impl Domain {
    /// Makes a credential; its secrets are sealed before they are stored.
    pub async fn create_credential(&self, cx: &OpContext, request: CreateCredential) -> Result<CreatedCredential, Problem> {
        let _ = (cx, request);
        Err(Self::not_built())
    }

    /// Changes a credential; sinks that use it take it up at their next connection.
    pub async fn alter_credential(&self, cx: &OpContext, request: AlterCredential) -> Result<AlteredCredential, Problem> {
        let _ = (cx, request);
        Err(Self::not_built())
    }

    /// Drops a credential that no sink uses.
    pub async fn drop_credential(&self, cx: &OpContext, request: DropCredential) -> Result<DroppedCredential, Problem> {
        let _ = (cx, request);
        Err(Self::not_built())
    }

    /// Shows one credential, or a page of those the caller may see.
    pub async fn show_credential(&self, cx: &OpContext, request: ShowCredential) -> Result<ShownCredentials, Problem> {
        let _ = (cx, request);
        Err(Self::not_built())
    }
}
