//! Why: users, roles, the identities that prove a user, and access tokens. Never stores a password or a token, only what can check one.

use std::{fmt, time::Duration};

use serde::{Deserialize, Serialize};

use super::{Caller, Domain, OpContext, Presented, grant::Changed, page::Page};
use crate::{
    clock::Timestamp,
    name::{Name, PrincipalName},
    problem::Problem,
    secret::Secret,
};

/// What a principal is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PrincipalKind {
    /// Someone who calls.
    User = 1,
    /// A bundle of rights that users and roles can hold.
    Role = 2,
}

/// A user or a role as it may be shown.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct PrincipalView {
    /// Its name.
    pub name: PrincipalName,
    /// User or role.
    pub kind: PrincipalKind,
    /// What proves a caller to be this user.
    pub identities: Vec<String>,
    /// Roles it holds directly, `public` included.
    pub roles: Vec<PrincipalName>,
    /// Where a bare name lands.
    pub default_schema: Option<Name>,
    /// Opaque.
    pub etag: String,
    /// When it was made.
    pub created: Timestamp,
    /// Whether a password is set.
    pub password_set: bool,
    /// Whether nothing that names it works.
    pub disabled: bool,
}

/// Makes a user or a role.
#[derive(Debug, Serialize)]
#[expect(missing_docs, reason = "the interface's own comments in proto/datasink/v1/permission.proto")]
pub struct CreatePrincipal {
    pub name: String,
    /// `None`: the wire said UNSPECIFIED.
    pub kind: Option<PrincipalKind>,
    pub identities: Vec<String>,
    pub default_schema: String,
    pub if_not_exists: bool,
    pub request_id: String,
    #[serde(skip)]
    pub password: Option<Secret>,
}

/// The answer to [`CreatePrincipal`].
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct CreatedPrincipal {
    /// The principal.
    pub principal: PrincipalView,
    /// False where `if_not_exists` found one.
    pub created: bool,
}

/// Changes a user or a role.
#[derive(Debug, Default, Serialize)]
#[expect(missing_docs, reason = "the interface's own comments in proto/datasink/v1/permission.proto")]
pub struct AlterPrincipal {
    pub name: String,
    pub add_identities: Vec<String>,
    pub remove_identities: Vec<String>,
    pub default_schema: Option<String>,
    pub etag: String,
    pub request_id: String,
    /// Set but empty: no password any more.
    #[serde(skip)]
    pub password: Option<Secret>,
    pub disabled: Option<bool>,
}

/// The answer to [`AlterPrincipal`].
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct AlteredPrincipal {
    /// The principal as it is now.
    pub principal: PrincipalView,
    /// False where every value was already so.
    pub changed: bool,
}

/// Drops a user or a role.
#[derive(Debug, Clone, Default, Serialize)]
#[expect(missing_docs, reason = "the interface's own comments in proto/datasink/v1/permission.proto")]
pub struct DropPrincipal {
    pub name: String,
    pub if_exists: bool,
    pub etag: String,
    pub request_id: String,
}

/// The answer to [`DropPrincipal`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct DroppedPrincipal {
    /// False where `if_exists` found none.
    pub dropped: bool,
}

/// Asks for one principal, or a page of those that match.
#[derive(Debug, Clone, Default)]
#[expect(missing_docs, reason = "the interface's own comments in proto/datasink/v1/permission.proto")]
pub struct ShowPrincipal {
    pub name: String,
    pub kind: Option<PrincipalKind>,
    pub page: Page,
}

/// The answer to [`ShowPrincipal`].
#[derive(Debug, Clone, Default)]
pub struct ShownPrincipals {
    /// In name order.
    pub principals: Vec<PrincipalView>,
    /// Empty on the last page.
    pub next_page_token: String,
}

/// Makes a user or a role a member of a role.
#[derive(Debug, Clone, Default, Serialize)]
#[expect(missing_docs, reason = "the interface's own comments in proto/datasink/v1/permission.proto")]
pub struct GrantRole {
    pub role: String,
    pub member: String,
    pub request_id: String,
}

/// Ends a membership.
#[derive(Debug, Clone, Default, Serialize)]
#[expect(missing_docs, reason = "the interface's own comments in proto/datasink/v1/permission.proto")]
pub struct RevokeRole {
    pub role: String,
    pub member: String,
    pub if_exists: bool,
    pub request_id: String,
}

/// A bearer token as stored: never the token itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AccessTokenView {
    /// The part that may be logged.
    pub id: String,
    /// Whose it is.
    pub principal: PrincipalName,
    /// What it is for, in its maker's words.
    pub description: String,
    /// When it was made.
    pub created: Timestamp,
    /// When it ends.
    pub expires: Timestamp,
    /// To the minute.
    pub last_used: Option<Timestamp>,
}

/// Makes a bearer token for a user.
#[derive(Debug, Clone, Default, Serialize)]
#[expect(missing_docs, reason = "the interface's own comments in proto/datasink/v1/permission.proto")]
pub struct CreateAccessToken {
    pub principal: String,
    pub description: String,
    /// `None`: 90 days.
    pub ttl: Option<Duration>,
    pub request_id: String,
}

/// The answer to [`CreateAccessToken`].
#[derive(Serialize, Deserialize)]
pub struct CreatedAccessToken {
    /// The entry.
    pub access_token: AccessTokenView,
    /// The token itself, this once; `None` for a repeated `request_id`.
    #[serde(skip)]
    pub token: Option<Secret>,
}

impl fmt::Debug for CreatedAccessToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CreatedAccessToken").field("access_token", &self.access_token).finish_non_exhaustive()
    }
}

/// Ends a token.
#[derive(Debug, Clone, Default, Serialize)]
#[expect(missing_docs, reason = "the interface's own comments in proto/datasink/v1/permission.proto")]
pub struct RevokeAccessToken {
    pub id: String,
    pub if_exists: bool,
    pub request_id: String,
}

/// The answer to [`RevokeAccessToken`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct RevokedAccessToken {
    /// False where `if_exists` found none.
    pub revoked: bool,
}

/// Asks for tokens.
#[derive(Debug, Clone, Default)]
pub struct ShowAccessToken {
    /// Empty: the caller's own; `*`: all that the caller may see.
    pub principal: String,
    /// Which part of the list.
    pub page: Page,
}

/// The answer to [`ShowAccessToken`].
#[derive(Debug, Clone, Default)]
pub struct ShownAccessTokens {
    /// By id.
    pub access_tokens: Vec<AccessTokenView>,
    /// Empty on the last page.
    pub next_page_token: String,
}

impl Domain {
    /// Who a caller is, by what they presented from the address `peer` (`ip:port`). Same text and same work whatever is wrong.
    pub async fn authenticate(&self, presented: Presented, peer: &str) -> Result<Caller, Problem> {
        let _ = (presented, peer);
        Err(Self::not_built())
    }

    /// Makes a user or a role.
    pub async fn create_principal(&self, cx: &OpContext, request: CreatePrincipal) -> Result<CreatedPrincipal, Problem> {
        let _ = (cx, request);
        Err(Self::not_built())
    }

    /// Changes a user or a role; a user may change their own password and default schema.
    pub async fn alter_principal(&self, cx: &OpContext, request: AlterPrincipal) -> Result<AlteredPrincipal, Problem> {
        let _ = (cx, request);
        Err(Self::not_built())
    }

    /// Drops a user or a role, with its grants, memberships and tokens.
    pub async fn drop_principal(&self, cx: &OpContext, request: DropPrincipal) -> Result<DroppedPrincipal, Problem> {
        let _ = (cx, request);
        Err(Self::not_built())
    }

    /// Shows users and roles: oneself and one's roles, or all for who administers users.
    pub async fn show_principal(&self, cx: &OpContext, request: ShowPrincipal) -> Result<ShownPrincipals, Problem> {
        let _ = (cx, request);
        Err(Self::not_built())
    }

    /// Makes a user or a role a member of a role.
    pub async fn grant_role(&self, cx: &OpContext, request: GrantRole) -> Result<Changed, Problem> {
        let _ = (cx, request);
        Err(Self::not_built())
    }

    /// Ends a membership; sessions that rested on it end within a second.
    pub async fn revoke_role(&self, cx: &OpContext, request: RevokeRole) -> Result<Changed, Problem> {
        let _ = (cx, request);
        Err(Self::not_built())
    }

    /// Makes a bearer token.
    pub async fn create_access_token(&self, cx: &OpContext, request: CreateAccessToken) -> Result<CreatedAccessToken, Problem> {
        let _ = (cx, request);
        Err(Self::not_built())
    }

    /// Ends a bearer token.
    pub async fn revoke_access_token(&self, cx: &OpContext, request: RevokeAccessToken) -> Result<RevokedAccessToken, Problem> {
        let _ = (cx, request);
        Err(Self::not_built())
    }

    /// Shows tokens, never a token itself.
    pub async fn show_access_token(&self, cx: &OpContext, request: ShowAccessToken) -> Result<ShownAccessTokens, Problem> {
        let _ = (cx, request);
        Err(Self::not_built())
    }
}
