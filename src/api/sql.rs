//! Why: SQL is listed and honestly refused until it is built. Never parses half a statement.

use std::sync::Arc;

use tonic::{Request, Response, Status};

use super::{Edge, pb, status};

/// What is missing, for whoever calls.
const SENTENCE: &str = "SQL comes with the statement parser; every statement has an RPC of the same verb meanwhile";

/// See `proto/datasink/v1/sql.proto`.
#[derive(Debug, Clone)]
pub struct SqlService(pub Arc<Edge>);

#[tonic::async_trait]
impl pb::sql_service_server::SqlService for SqlService {
    async fn execute_sql(&self, request: Request<pb::ExecuteSqlRequest>) -> Result<Response<pb::ExecuteSqlResponse>, Status> {
        self.0.identify("SqlService/ExecuteSql", &request).await?;
        Err(status::not_yet("ExecuteSql", SENTENCE))
    }
}
