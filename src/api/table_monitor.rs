//! Why: table monitors are listed and honestly refused until they are built. Never pretends to watch.

use std::sync::Arc;

use tonic::{Request, Response, Status};

use super::{Edge, pb, status};

/// What is missing, for whoever calls.
const SENTENCE: &str = "table monitors come with the row log of local tables; push from a client meanwhile";

/// See `proto/datasink/v1/table_monitor.proto`.
#[derive(Debug, Clone)]
pub struct TableMonitorService(pub Arc<Edge>);

#[tonic::async_trait]
impl pb::table_monitor_service_server::TableMonitorService for TableMonitorService {
    async fn create_table_monitor(&self, request: Request<pb::CreateTableMonitorRequest>) -> Result<Response<pb::CreateTableMonitorResponse>, Status> {
        self.0.identify("TableMonitorService/CreateTableMonitor", &request).await?;
        Err(status::not_yet("CreateTableMonitor", SENTENCE))
    }

    async fn alter_table_monitor(&self, request: Request<pb::AlterTableMonitorRequest>) -> Result<Response<pb::AlterTableMonitorResponse>, Status> {
        self.0.identify("TableMonitorService/AlterTableMonitor", &request).await?;
        Err(status::not_yet("AlterTableMonitor", SENTENCE))
    }

    async fn drop_table_monitor(&self, request: Request<pb::DropTableMonitorRequest>) -> Result<Response<pb::DropTableMonitorResponse>, Status> {
        self.0.identify("TableMonitorService/DropTableMonitor", &request).await?;
        Err(status::not_yet("DropTableMonitor", SENTENCE))
    }

    async fn show_table_monitor(&self, request: Request<pb::ShowTableMonitorRequest>) -> Result<Response<pb::ShowTableMonitorResponse>, Status> {
        self.0.identify("TableMonitorService/ShowTableMonitor", &request).await?;
        Err(status::not_yet("ShowTableMonitor", SENTENCE))
    }

    type WatchTableMonitorStream = futures::stream::Empty<Result<pb::WatchTableMonitorResponse, Status>>;

    async fn watch_table_monitor(&self, request: Request<pb::WatchTableMonitorRequest>) -> Result<Response<Self::WatchTableMonitorStream>, Status> {
        self.0.identify("TableMonitorService/WatchTableMonitor", &request).await?;
        Err(status::not_yet("WatchTableMonitor", SENTENCE))
    }
}
