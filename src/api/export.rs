//! Why: export jobs are listed and honestly refused until they are built. Never pretends to run one.

use std::sync::Arc;

use tonic::{Request, Response, Status};

use super::{Edge, pb, status};

/// What is missing, for whoever calls.
const SENTENCE: &str = "export jobs come with the query engine; scan the table and push its rows meanwhile";

/// See `proto/datasink/v1/export.proto`.
#[derive(Debug, Clone)]
pub struct ExportService(pub Arc<Edge>);

#[tonic::async_trait]
impl pb::export_service_server::ExportService for ExportService {
    async fn create_export_job(&self, request: Request<pb::CreateExportJobRequest>) -> Result<Response<pb::CreateExportJobResponse>, Status> {
        self.0.identify("ExportService/CreateExportJob", &request).await?;
        Err(status::not_yet("CreateExportJob", SENTENCE))
    }

    async fn wait_export_job(&self, request: Request<pb::WaitExportJobRequest>) -> Result<Response<pb::WaitExportJobResponse>, Status> {
        self.0.identify("ExportService/WaitExportJob", &request).await?;
        Err(status::not_yet("WaitExportJob", SENTENCE))
    }

    async fn cancel_export_job(&self, request: Request<pb::CancelExportJobRequest>) -> Result<Response<pb::CancelExportJobResponse>, Status> {
        self.0.identify("ExportService/CancelExportJob", &request).await?;
        Err(status::not_yet("CancelExportJob", SENTENCE))
    }

    async fn show_export_job(&self, request: Request<pb::ShowExportJobRequest>) -> Result<Response<pb::ShowExportJobResponse>, Status> {
        self.0.identify("ExportService/ShowExportJob", &request).await?;
        Err(status::not_yet("ShowExportJob", SENTENCE))
    }

    async fn drop_export_job(&self, request: Request<pb::DropExportJobRequest>) -> Result<Response<pb::DropExportJobResponse>, Status> {
        self.0.identify("ExportService/DropExportJob", &request).await?;
        Err(status::not_yet("DropExportJob", SENTENCE))
    }
}
