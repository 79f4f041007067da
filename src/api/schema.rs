//! Why: the RPCs of schemas, translated and nothing more. Never decides.

use std::sync::Arc;

use tonic::{Request, Response, Status};

use super::{Edge, from_pb, pb, to_pb};

/// See `proto/datasink/v1/schema.proto`.
#[derive(Debug, Clone)]
pub struct SchemaService(pub Arc<Edge>);

#[tonic::async_trait]
impl pb::schema_service_server::SchemaService for SchemaService {
    async fn create_schema(&self, request: Request<pb::CreateSchemaRequest>) -> Result<Response<pb::CreateSchemaResponse>, Status> {
        let cx = self.0.identify("SchemaService/CreateSchema", &request).await?;
        let answer = self.0.domain.create_schema(&cx, from_pb::create_schema(request.into_inner())).await?;
        Ok(Response::new(pb::CreateSchemaResponse { schema: Some(to_pb::schema(answer.schema)), created: answer.created }))
    }

    async fn drop_schema(&self, request: Request<pb::DropSchemaRequest>) -> Result<Response<pb::DropSchemaResponse>, Status> {
        let cx = self.0.identify("SchemaService/DropSchema", &request).await?;
        let answer = self.0.domain.drop_schema(&cx, from_pb::drop_schema(request.into_inner())).await?;
        Ok(Response::new(pb::DropSchemaResponse { dropped: answer.dropped }))
    }

    async fn show_schema(&self, request: Request<pb::ShowSchemaRequest>) -> Result<Response<pb::ShowSchemaResponse>, Status> {
        let cx = self.0.identify("SchemaService/ShowSchema", &request).await?;
        let answer = self.0.domain.show_schema(&cx, from_pb::show_schema(request.into_inner())).await?;
        Ok(Response::new(pb::ShowSchemaResponse { schemas: answer.schemas.into_iter().map(to_pb::schema).collect(), next_page_token: answer.next_page_token }))
    }
}
