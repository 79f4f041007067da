//! Why: what this process is and whom it takes the caller for. Never tells a stranger more than a version and limits.

use std::{collections::BTreeMap, time::Duration};

use super::{
    Domain, IdentitySource, OpContext,
    access::{Need, Permission},
};
use crate::{
    clock::Timestamp,
    delivery::{Directive, DrainReason, Which},
    limits,
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

/// What a client may rely on; the transport adds what is its own.
const FEATURES: [&str; 4] = ["push", "push.arrow", "push.dead_letter", "tables"];

impl Domain {
    /// What this process is; whether it drains is the transport's to add. How many sessions are open is for who monitors the system.
    pub async fn show_server(&self, cx: &OpContext) -> Result<ServerView, Problem> {
        self.refresh_rights().await?;
        let monitors = self.with_rights(|rights| super::access::decide(rights, &cx.caller.principal, &Need::system(Permission::Monitor)).allowed());
        let limits = [
            ("max_request_bytes", limits::PUSH_MESSAGE_BYTES_MAX as u64),
            ("max_batch_bytes", limits::BATCH_BYTES_MAX as u64),
            ("max_batch_records", limits::BATCH_RECORDS_MAX as u64),
            ("max_record_bytes", limits::RECORD_BYTES_MAX as u64),
            ("max_page_size", limits::PAGE_SIZE_MAX as u64),
            ("max_columns", limits::COLUMNS_MAX as u64),
            ("max_outstanding_records", limits::WINDOW_RECORDS),
            ("max_outstanding_bytes", limits::WINDOW_BYTES),
            ("max_sessions", limits::SESSIONS_MAX as u64),
        ];
        Ok(ServerView {
            version: env!("CARGO_PKG_VERSION"),
            git_commit: option_env!("DATASINK_GIT_COMMIT").unwrap_or_default(),
            instance: self.instance(),
            started: self.0.started,
            live_streams: if monitors { self.0.sessions.live().len() as u64 } else { 0 },
            features: FEATURES.to_vec(),
            limits: limits.into_iter().collect(),
        })
    }

    /// Whom the server takes the caller for.
    pub async fn who_am_i(&self, cx: &OpContext) -> Result<WhoAmI, Problem> {
        self.refresh_rights().await?;
        let roles = self.with_rights(|rights| rights.roles_of(&cx.caller.principal));
        Ok(WhoAmI {
            principal: cx.caller.principal.clone(),
            roles: roles.into_iter().filter(|(_, is_role)| *is_role).map(|(role, _)| role).collect(),
            default_schema: self.default_schema(cx).await?,
            source: cx.caller.source,
            identity: cx.caller.identity.clone(),
            peer: cx.peer.clone(),
        })
    }

    /// Drains every session; the caller turns health over first. Needs system admin.
    pub async fn drain_server(&self, cx: &OpContext, request: DrainServer) -> Result<DrainedServer, Problem> {
        self.refresh_rights().await?;
        let permit = self.permit(cx, &Need::system(Permission::Admin), &"").await?;
        self.note(cx, permit).await?;
        let grace = request.grace.unwrap_or(limits::DRAIN_GRACE).min(limits::DRAIN_GRACE);
        let told = self.0.sessions.direct(&Which::All, Directive::Drain { reason: DrainReason::Shutdown, grace });
        Ok(DrainedServer { draining_streams: told as u64 })
    }
}
