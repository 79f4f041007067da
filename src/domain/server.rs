//! Why: what this process is and whom it takes the caller for. Never tells a stranger more than a version and limits.

use std::{collections::BTreeMap, time::Duration};

use super::{Domain, IdentitySource, OpContext};
use crate::{
    clock::Timestamp,
    name::{Name, PrincipalName},
    problem::Problem,
};

/// What this process is.
#[derive(Debug, Clone)]
pub struct ServerView {
    /// The crate's version.
    pub version: &'static str,
    /// The commit it was built from; empty where the build did not say.
    pub git_commit: &'static str,
    /// This process, new with every start.
    pub instance: String,
    /// When it started.
    pub started: Timestamp,
    /// How many sessions are open.
    pub live_streams: u64,
    /// What a client may rely on.
    pub features: Vec<&'static str>,
    /// The bounds a client meets.
    pub limits: BTreeMap<&'static str, u64>,
}

/// Whom the server takes the caller for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WhoAmI {
    /// The principal.
    pub principal: PrincipalName,
    /// Every role it holds, also through roles.
    pub roles: Vec<PrincipalName>,
    /// Where a bare name of this call lands.
    pub default_schema: Option<Name>,
    /// What proved it.
    pub source: IdentitySource,
    /// The proven identity.
    pub identity: String,
    /// Of the connection.
    pub peer: String,
}

/// Drains every stream.
#[derive(Debug, Clone, Copy, Default)]
pub struct DrainServer {
    /// `None`: the server's own.
    pub grace: Option<Duration>,
}

/// The answer to [`DrainServer`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DrainedServer {
    /// How many streams were told.
    pub draining_streams: u64,
}

impl Domain {
    /// What this process is; whether it drains is the transport's to add.
    pub async fn show_server(&self, cx: &OpContext) -> Result<ServerView, Problem> {
        let _ = cx;
        Err(Self::not_built())
    }

    /// Whom the server takes the caller for.
    pub async fn who_am_i(&self, cx: &OpContext) -> Result<WhoAmI, Problem> {
        let _ = cx;
        Err(Self::not_built())
    }

    /// Drains every session; the caller turns health over first. Needs system admin.
    pub async fn drain_server(&self, cx: &OpContext, request: DrainServer) -> Result<DrainedServer, Problem> {
        let _ = (cx, request);
        Err(Self::not_built())
    }
}
