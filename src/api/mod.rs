//! Why: the interface over gRPC: who calls, in which words, and in which words they are answered. Never decides what the domain decides, and never knows a destination.

pub mod authn;
mod credential;
mod data_sink;
pub mod deadline;
mod export;
mod file;
mod from_pb;
pub mod health;
pub mod layers;
pub mod listener;
pub mod pb;
mod permission;
mod push;
mod schema;
mod server;
mod sql;
pub mod status;
mod table;
mod table_monitor;
pub mod tls;
mod to_pb;

use std::{sync::Arc, time::Duration};

use tokio_util::task::TaskTracker;
use tonic::{Request, codec::CompressionEncoding, service::Routes};

pub use self::pb::DESCRIPTORS;
use self::{authn::TrustedProxy, listener::Peer};
use crate::{
    clock::Ambient,
    delivery::Delivery,
    domain::{Domain, OpContext},
    limits,
    name::Name,
    problem::{Problem, Reason},
    shutdown::Lifecycle,
};

/// What every service of the interface shares.
#[derive(Debug)]
pub struct Edge {
    /// The catalogue.
    pub domain: Domain,
    /// The engine of Push.
    pub delivery: Delivery,
    /// Clock and ids.
    pub ambient: Ambient,
    /// Whether the server serves, drains or stops.
    pub lifecycle: Lifecycle,
    /// Neighbours whose word about a caller counts.
    pub trusted_proxies: Vec<TrustedProxy>,
    /// What is open that should not be, for `ShowServer`.
    pub warnings: Vec<&'static str>,
    /// Times of a Push.
    pub push: PushTimes,
    /// The tasks that read what clients push.
    pub readers: TaskTracker,
}

/// Times of a Push.
#[derive(Debug, Clone, Copy)]
pub struct PushTimes {
    /// How long a client may take to send `open`.
    pub first_frame: Duration,
    /// How often an otherwise silent session sends a heartbeat, where the client asks for nothing else.
    pub heartbeat: Duration,
    /// How old a session gets before it is asked to move; jittered by a tenth.
    pub session_age: Duration,
    /// How long a session may settle once it drains.
    pub drain_grace: Duration,
}

impl Edge {
    /// Who calls `rpc`, and in which words.
    async fn identify<T>(&self, rpc: &'static str, request: &Request<T>) -> Result<OpContext, Problem> {
        let headers = request.metadata().as_ref();
        let peer = request.extensions().get::<Peer>().cloned().unwrap_or(Peer { address: None, certificate: None });
        let told = peer.to_string();
        let mut refused = None;
        let mut caller = None;
        for presented in authn::presented(&peer, headers, &self.trusted_proxies)? {
            match self.domain.authenticate(presented, &told).await {
                Ok(found) => {
                    caller = Some(found);
                    break;
                }
                // A certificate that names no principal may still carry a token.
                Err(problem) if problem.reason == Reason::Unauthenticated => refused = Some(problem),
                Err(problem) => return Err(problem),
            }
        }
        let Some(caller) = caller else {
            return Err(refused.unwrap_or_else(|| Problem::new(Reason::Unauthenticated, "the call names no caller; send a token or a certificate")));
        };
        let call_id = headers.get(layers::REQUEST_ID).and_then(|id| id.to_str().ok()).unwrap_or_default().to_owned();
        Ok(OpContext { caller, default_schema: default_schema(headers)?, peer: told, rpc, call_id })
    }

    /// Refuses new work while the server drains; nothing of it has begun, so another replica may take it at once.
    fn admit(&self) -> Result<(), Problem> {
        if self.lifecycle.is_draining() {
            return Err(
                Problem::new(Reason::ServerDraining, "this server is stopping; call again, another one will answer").retry_after(Duration::from_secs(1))
            );
        }
        Ok(())
    }
}

/// Where names without a schema land, by the caller's own word.
fn default_schema(headers: &http::HeaderMap) -> Result<Option<Name>, Problem> {
    const HEADER: &str = "x-datasink-schema";
    let Some(value) = headers.get(HEADER) else { return Ok(None) };
    let fault = |rule: String| Problem::field(HEADER, Reason::InvalidName, format!("the header {HEADER} does not name a schema: {rule}"));
    let text = value.to_str().map_err(|_| fault("it is not text".to_owned()))?;
    Name::parse_schema(text).map(Some).map_err(|error| fault(error.rule))
}

/// Every service, with its limits; `reflection` also tells tools what there is.
pub fn routes(edge: &Arc<Edge>, health: Routes, reflection: bool) -> Routes {
    use pb::{
        credential_service_server::CredentialServiceServer, data_sink_service_server::DataSinkServiceServer, export_service_server::ExportServiceServer,
        file_service_server::FileServiceServer, permission_service_server::PermissionServiceServer, push_service_server::PushServiceServer,
        schema_service_server::SchemaServiceServer, server_service_server::ServerServiceServer, sql_service_server::SqlServiceServer,
        table_monitor_service_server::TableMonitorServiceServer, table_service_server::TableServiceServer,
    };
    /// A service with its message limit and the compressions it takes; answers are not compressed, for the latency of streams.
    macro_rules! service {
        ($server:ident, $service:expr, $limit:expr) => {
            $server::new($service)
                .max_decoding_message_size($limit)
                .max_encoding_message_size(usize::MAX)
                .accept_compressed(CompressionEncoding::Gzip)
                .accept_compressed(CompressionEncoding::Zstd)
        };
    }
    let one = || edge.clone();
    let mut routes = health
        .add_service(service!(SchemaServiceServer, schema::SchemaService(one()), limits::MESSAGE_BYTES_MAX))
        .add_service(service!(CredentialServiceServer, credential::CredentialService(one()), limits::MESSAGE_BYTES_MAX))
        .add_service(service!(DataSinkServiceServer, data_sink::DataSinkService(one()), limits::MESSAGE_BYTES_MAX))
        .add_service(service!(PermissionServiceServer, permission::PermissionService(one()), limits::MESSAGE_BYTES_MAX))
        .add_service(service!(PushServiceServer, push::PushService(one()), limits::PUSH_MESSAGE_BYTES_MAX))
        .add_service(service!(TableServiceServer, table::TableService(one()), limits::PUSH_MESSAGE_BYTES_MAX))
        .add_service(service!(TableMonitorServiceServer, table_monitor::TableMonitorService(one()), limits::MESSAGE_BYTES_MAX))
        .add_service(service!(ExportServiceServer, export::ExportService(one()), limits::MESSAGE_BYTES_MAX))
        .add_service(service!(SqlServiceServer, sql::SqlService(one()), limits::MESSAGE_BYTES_MAX))
        .add_service(service!(FileServiceServer, file::FileService(one()), limits::MESSAGE_BYTES_MAX))
        .add_service(service!(ServerServiceServer, server::ServerService(one()), limits::MESSAGE_BYTES_MAX));
    if reflection {
        let builder = || {
            tonic_reflection::server::Builder::configure()
                .register_encoded_file_descriptor_set(pb::DESCRIPTORS)
                .register_encoded_file_descriptor_set(tonic_types::pb::FILE_DESCRIPTOR_SET)
                .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        };
        // Older tools ask for v1alpha only.
        routes = routes
            .add_service(builder().build_v1().expect("our own descriptors are whole"))
            .add_service(builder().build_v1alpha().expect("our own descriptors are whole"));
    }
    routes
}
