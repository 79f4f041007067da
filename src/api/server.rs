//! Why: people, scripts and meshes ask this process what it is and whom it takes them for. Never exits because someone asked it to drain.

use std::sync::Arc;

use tonic::{Request, Response, Status};

use super::{Edge, from_pb, pb, to_pb};
use crate::telemetry;

/// See `proto/datasink/v1/server.proto`.
#[derive(Debug, Clone)]
pub struct ServerService(pub Arc<Edge>);

#[tonic::async_trait]
impl pb::server_service_server::ServerService for ServerService {
    async fn show_server(&self, request: Request<pb::ShowServerRequest>) -> Result<Response<pb::ShowServerResponse>, Status> {
        let cx = self.0.identify("ServerService/ShowServer", &request).await?;
        let answer = self.0.domain.show_server(&cx).await?;
        Ok(Response::new(to_pb::server(answer, self.0.lifecycle.is_draining(), &self.0.warnings)))
    }

    async fn who_am_i(&self, request: Request<pb::WhoAmIRequest>) -> Result<Response<pb::WhoAmIResponse>, Status> {
        let cx = self.0.identify("ServerService/WhoAmI", &request).await?;
        let answer = self.0.domain.who_am_i(&cx).await?;
        Ok(Response::new(to_pb::who_am_i(answer, telemetry::trace_id().unwrap_or_default())))
    }

    async fn drain_server(&self, request: Request<pb::DrainServerRequest>) -> Result<Response<pb::DrainServerResponse>, Status> {
        let cx = self.0.identify("ServerService/DrainServer", &request).await?;
        // The domain judges the right first: health turns over only for who may do this.
        let answer = self.0.domain.drain_server(&cx, from_pb::drain_server(request.into_inner())?).await?;
        self.0.lifecycle.drain();
        Ok(Response::new(to_pb::drained(answer)))
    }
}
