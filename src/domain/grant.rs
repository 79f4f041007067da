//! Why: rights are given, taken and explained by name, and kept by object. Never gives what the giver may not give.

use serde::{Deserialize, Serialize};

use super::{
    Domain, OpContext,
    access::{ObjectType, Permission},
    page::Page,
};
use crate::{clock::Timestamp, name::PrincipalName, problem::Problem};

/// One grant as it may be shown.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GrantView {
    /// Who has it.
    pub principal: PrincipalName,
    /// What it is on.
    pub object_type: ObjectType,
    /// `schema.name`; `schema.*` or `*`; a schema's name; empty for the system.
    pub object: String,
    /// What it allows.
    pub permission: Permission,
    /// Whether the holder may hand it on.
    pub with_grant_option: bool,
    /// Who gave it.
    pub grantor: PrincipalName,
    /// When.
    pub created: Timestamp,
    /// For an inherited grant: the role or schema it comes through; empty for a direct one.
    pub via: String,
}

/// Gives a permission.
#[derive(Debug, Clone, Serialize)]
#[expect(missing_docs, reason = "the interface's own comments in proto/datasink/v1/permission.proto")]
pub struct GrantPermission {
    pub principal: String,
    /// `None`: the wire said UNSPECIFIED.
    pub object_type: Option<ObjectType>,
    pub object: String,
    /// `None`: the wire said UNSPECIFIED.
    pub permission: Option<Permission>,
    pub with_grant_option: bool,
    pub request_id: String,
}

/// The answer to [`GrantPermission`].
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct GrantedPermission {
    /// The grant.
    pub grant: GrantView,
    /// False where it was there already.
    pub changed: bool,
}

/// Takes a permission back.
#[derive(Debug, Clone, Serialize)]
#[expect(missing_docs, reason = "the interface's own comments in proto/datasink/v1/permission.proto")]
pub struct RevokePermission {
    pub principal: String,
    /// `None`: the wire said UNSPECIFIED.
    pub object_type: Option<ObjectType>,
    pub object: String,
    /// `None`: the wire said UNSPECIFIED.
    pub permission: Option<Permission>,
    pub if_exists: bool,
    pub request_id: String,
}

/// Whether something changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Changed {
    /// False where everything was already so.
    pub changed: bool,
}

/// Asks for grants; each field narrows, all empty shows the caller's own.
#[derive(Debug, Clone, Default)]
#[expect(missing_docs, reason = "the interface's own comments in proto/datasink/v1/permission.proto")]
pub struct ShowPermission {
    pub principal: String,
    pub object_type: Option<ObjectType>,
    pub object: String,
    pub permission: Option<Permission>,
    pub include_inherited: bool,
    pub page: Page,
}

/// The answer to [`ShowPermission`].
#[derive(Debug, Clone, Default)]
pub struct ShownGrants {
    /// By principal, type and object.
    pub grants: Vec<GrantView>,
    /// Empty on the last page.
    pub next_page_token: String,
}

/// Asks whether something would be allowed.
#[derive(Debug, Clone)]
#[expect(missing_docs, reason = "the interface's own comments in proto/datasink/v1/permission.proto")]
pub struct CheckPermission {
    pub principal: String,
    /// `None`: the wire said UNSPECIFIED.
    pub object_type: Option<ObjectType>,
    pub object: String,
    /// `None`: the wire said UNSPECIFIED.
    pub permission: Option<Permission>,
}

/// The answer to [`CheckPermission`].
#[derive(Debug, Clone, Default)]
pub struct CheckedPermission {
    /// Whether it is.
    pub allowed: bool,
    /// The grants that allow it, the most direct first.
    pub because: Vec<GrantView>,
}

impl Domain {
    /// Gives a permission; open sessions are looked at again where it matters.
    pub async fn grant_permission(&self, cx: &OpContext, request: GrantPermission) -> Result<GrantedPermission, Problem> {
        let _ = (cx, request);
        Err(Self::not_built())
    }

    /// Takes a permission back; sessions that rested on it end within a second.
    pub async fn revoke_permission(&self, cx: &OpContext, request: RevokePermission) -> Result<Changed, Problem> {
        let _ = (cx, request);
        Err(Self::not_built())
    }

    /// Shows grants: one's own, or all that the caller may see.
    pub async fn show_permission(&self, cx: &OpContext, request: ShowPermission) -> Result<ShownGrants, Problem> {
        let _ = (cx, request);
        Err(Self::not_built())
    }

    /// Whether something would be allowed, and by which grants.
    pub async fn check_permission(&self, cx: &OpContext, request: CheckPermission) -> Result<CheckedPermission, Problem> {
        let _ = (cx, request);
        Err(Self::not_built())
    }
}
