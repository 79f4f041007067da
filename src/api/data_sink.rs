//! Why: the RPCs of data sinks, translated and nothing more. Never touches a destination.

use std::sync::Arc;

use tonic::{Request, Response, Status};

use super::{Edge, from_pb, pb, to_pb};

/// See `proto/datasink/v1/data_sink.proto`.
#[derive(Debug, Clone)]
pub struct DataSinkService(pub Arc<Edge>);

#[tonic::async_trait]
impl pb::data_sink_service_server::DataSinkService for DataSinkService {
    async fn create_data_sink(&self, request: Request<pb::CreateDataSinkRequest>) -> Result<Response<pb::CreateDataSinkResponse>, Status> {
        let cx = self.0.identify("DataSinkService/CreateDataSink", &request).await?;
        let answer = self.0.domain.create_data_sink(&cx, from_pb::create_data_sink(request.into_inner())).await?;
        Ok(Response::new(pb::CreateDataSinkResponse { data_sink: Some(to_pb::data_sink(answer.data_sink)), created: answer.created }))
    }

    async fn alter_data_sink(&self, request: Request<pb::AlterDataSinkRequest>) -> Result<Response<pb::AlterDataSinkResponse>, Status> {
        let cx = self.0.identify("DataSinkService/AlterDataSink", &request).await?;
        let answer = self.0.domain.alter_data_sink(&cx, from_pb::alter_data_sink(request.into_inner())).await?;
        Ok(Response::new(pb::AlterDataSinkResponse { data_sink: Some(to_pb::data_sink(answer.data_sink)), changed: answer.changed }))
    }

    async fn drop_data_sink(&self, request: Request<pb::DropDataSinkRequest>) -> Result<Response<pb::DropDataSinkResponse>, Status> {
        let cx = self.0.identify("DataSinkService/DropDataSink", &request).await?;
        let answer = self.0.domain.drop_data_sink(&cx, from_pb::drop_data_sink(request.into_inner())).await?;
        Ok(Response::new(pb::DropDataSinkResponse { dropped: answer.dropped, cleared_table_monitors: answer.cleared_table_monitors }))
    }

    async fn show_data_sink(&self, request: Request<pb::ShowDataSinkRequest>) -> Result<Response<pb::ShowDataSinkResponse>, Status> {
        let cx = self.0.identify("DataSinkService/ShowDataSink", &request).await?;
        let answer = self.0.domain.show_data_sink(&cx, from_pb::show_data_sink(request.into_inner())?).await?;
        Ok(Response::new(pb::ShowDataSinkResponse {
            data_sinks: answer.data_sinks.into_iter().map(to_pb::data_sink).collect(),
            next_page_token: answer.next_page_token,
        }))
    }

    async fn test_data_sink(&self, request: Request<pb::TestDataSinkRequest>) -> Result<Response<pb::TestDataSinkResponse>, Status> {
        let cx = self.0.identify("DataSinkService/TestDataSink", &request).await?;
        let answer = self.0.domain.test_data_sink(&cx, from_pb::test_data_sink(request.into_inner())).await?;
        Ok(Response::new(pb::TestDataSinkResponse { check: Some(to_pb::check(answer)) }))
    }

    async fn show_sink_kinds(&self, request: Request<pb::ShowSinkKindsRequest>) -> Result<Response<pb::ShowSinkKindsResponse>, Status> {
        let cx = self.0.identify("DataSinkService/ShowSinkKinds", &request).await?;
        let answer = self.0.domain.show_sink_kinds(&cx, from_pb::show_sink_kinds(request.into_inner())?).await?;
        Ok(Response::new(pb::ShowSinkKindsResponse { kinds: answer.into_iter().map(to_pb::kind).collect() }))
    }
}
