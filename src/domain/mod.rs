//! Why: what a data sink, a credential, a grant, a table *is*, and who may do what with it: authorize, name, resolve, persist. Never knows a transport.

pub mod access;
pub mod credential;
pub mod data_sink;
pub mod grant;
pub mod page;
pub mod principal;
pub mod push;
pub mod schema;
pub mod server;
pub mod table;

use std::sync::Arc;

use crate::{
    name::{Name, PrincipalName},
    problem::{Problem, Reason},
    secret::Secret,
};

pub use self::{
    access::{ObjectType, Permission},
    credential::*,
    data_sink::*,
    grant::*,
    page::Page,
    principal::*,
    push::*,
    schema::*,
    server::*,
    table::*,
};

/// Who calls, through what, and in which words; made once a call by `api/authn`.
#[derive(Debug, Clone)]
pub struct OpContext {
    /// The authenticated caller.
    pub caller: Caller,
    /// Where a name without a schema lands: metadata `x-datasink-schema`, else the principal's own.
    pub default_schema: Option<Name>,
    /// Address of the connection, for the audit log.
    pub peer: String,
    /// The RPC's name, `Service/Method`, for the audit log.
    pub rpc: &'static str,
    /// The caller's `x-request-id` or a made one, for logs.
    pub call_id: String,
}

/// An authenticated caller.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    /// The principal; `anonymous` where nobody was proved.
    pub principal: PrincipalName,
    /// What proved it.
    pub source: IdentitySource,
    /// The proven identity: a SPIFFE id, a subject name, a token's id; may be empty.
    pub identity: String,
}

/// What told the server who the caller is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IdentitySource {
    /// Nothing.
    Anonymous,
    /// The caller's own TLS certificate.
    ClientCertificate,
    /// `x-forwarded-client-cert` from a trusted proxy.
    ForwardedCertificate,
    /// `l5d-client-id` from a trusted proxy.
    Linkerd,
    /// `authorization: Bearer`.
    Token,
    /// `authorization: Basic`.
    Password,
}

/// What a caller presented, in order of preference; `api/authn` finds it, [`Domain`] judges it.
#[derive(Debug)]
pub enum Presented {
    /// Nothing at all.
    Nothing,
    /// A verified certificate's identity: its SPIFFE URI, else its subject.
    Certificate(String),
    /// The same, told by a trusted proxy.
    Forwarded(String),
    /// A Linkerd identity, told by a trusted proxy.
    Linkerd(String),
    /// `authorization: Bearer`.
    Bearer(Secret),
    /// `authorization: Basic`.
    Basic {
        /// The user.
        user: String,
        /// The password.
        password: Secret,
    },
}

/// The façade that `api` calls: one method an RPC. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Domain(#[expect(dead_code, reason = "filled in with the rooms")] Arc<()>);

impl Domain {
    fn not_built() -> Problem {
        Problem::new(Reason::Internal, "this call is not built yet")
    }
}
