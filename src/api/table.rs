//! Why: the RPCs of local tables, translated, and rows encoded as the reader asked. Never reads a row itself.

use std::{pin::Pin, sync::Arc};

use futures::{Stream, stream};
use tonic::{Request, Response, Status};

use super::{Edge, from_pb, pb, to_pb};
use crate::{
    domain::{RowScan, ScannedRows},
    problem::{Problem, Reason},
    record::{Encoding, RecordFaults},
};

/// See `proto/datasink/v1/table.proto`.
#[derive(Debug, Clone)]
pub struct TableService(pub Arc<Edge>);

#[tonic::async_trait]
impl pb::table_service_server::TableService for TableService {
    async fn create_table(&self, request: Request<pb::CreateTableRequest>) -> Result<Response<pb::CreateTableResponse>, Status> {
        let cx = self.0.identify("TableService/CreateTable", &request).await?;
        let answer = self.0.domain.create_table(&cx, from_pb::create_table(request.into_inner())?).await?;
        Ok(Response::new(pb::CreateTableResponse { table: Some(to_pb::table(answer.table)), created: answer.created }))
    }

    async fn drop_table(&self, request: Request<pb::DropTableRequest>) -> Result<Response<pb::DropTableResponse>, Status> {
        let cx = self.0.identify("TableService/DropTable", &request).await?;
        let answer = self.0.domain.drop_table(&cx, from_pb::drop_table(request.into_inner())).await?;
        Ok(Response::new(pb::DropTableResponse { dropped: answer.dropped }))
    }

    async fn show_table(&self, request: Request<pb::ShowTableRequest>) -> Result<Response<pb::ShowTableResponse>, Status> {
        let cx = self.0.identify("TableService/ShowTable", &request).await?;
        let answer = self.0.domain.show_table(&cx, from_pb::show_table(request.into_inner())).await?;
        let tables = answer.tables.into_iter().map(to_pb::table).collect();
        Ok(Response::new(pb::ShowTableResponse { tables, next_page_token: answer.next_page_token }))
    }

    async fn insert_rows(&self, request: Request<pb::InsertRowsRequest>) -> Result<Response<pb::InsertRowsResponse>, Status> {
        let cx = self.0.identify("TableService/InsertRows", &request).await?;
        let answer = self.0.domain.insert_rows(&cx, from_pb::insert_rows(request.into_inner())?).await?;
        Ok(Response::new(to_pb::inserted_rows(answer)))
    }

    async fn update_rows(&self, request: Request<pb::UpdateRowsRequest>) -> Result<Response<pb::UpdateRowsResponse>, Status> {
        let cx = self.0.identify("TableService/UpdateRows", &request).await?;
        let updated = self.0.domain.update_rows(&cx, from_pb::update_rows(request.into_inner())).await?;
        Ok(Response::new(pb::UpdateRowsResponse { updated: to_pb::int(updated) }))
    }

    async fn delete_rows(&self, request: Request<pb::DeleteRowsRequest>) -> Result<Response<pb::DeleteRowsResponse>, Status> {
        let cx = self.0.identify("TableService/DeleteRows", &request).await?;
        let deleted = self.0.domain.delete_rows(&cx, from_pb::delete_rows(request.into_inner())).await?;
        Ok(Response::new(pb::DeleteRowsResponse { deleted: to_pb::int(deleted) }))
    }

    type ScanRowsStream = Pin<Box<dyn Stream<Item = Result<pb::ScanRowsResponse, Status>> + Send>>;

    async fn scan_rows(&self, request: Request<pb::ScanRowsRequest>) -> Result<Response<Self::ScanRowsStream>, Status> {
        let cx = self.0.identify("TableService/ScanRows", &request).await?;
        let (scan, encoding) = from_pb::scan_rows(request.into_inner())?;
        let scan = Scan { rows: self.0.domain.scan_rows(&cx, scan).await?, encoding, first: true };
        // Pulled by the client's own pace: nothing is read ahead of what HTTP/2 lets through.
        Ok(Response::new(Box::pin(stream::try_unfold(scan, Scan::step))))
    }
}

/// A scan and how its rows are told.
struct Scan {
    rows: RowScan,
    encoding: Encoding,
    first: bool,
}

impl Scan {
    /// The next message; the first one also tells the columns, and comes even of an empty table.
    async fn step(mut self) -> Result<Option<(pb::ScanRowsResponse, Self)>, Status> {
        let rows = self.rows.next().await?;
        let schema = std::mem::take(&mut self.first).then(|| to_pb::record_schema(self.rows.schema()));
        let message = match rows {
            Some(ScannedRows { batch, resume_token }) => {
                let batch = to_pb::record_batch(&batch, self.encoding, self.rows.schema()).map_err(|faults| unreadable(&faults))?;
                pb::ScanRowsResponse { schema, batch: Some(batch), resume_token }
            }
            None if schema.is_some() => pb::ScanRowsResponse { schema, batch: None, resume_token: String::new() },
            None => return Ok(None),
        };
        Ok(Some((message, self)))
    }
}

/// A row that cannot be said in the encoding asked for: the reader must ask for another.
fn unreadable(faults: &RecordFaults) -> Problem {
    let why = faults.0.first().map(|(place, fault)| format!("row {place} of the message: {}", fault.message)).unwrap_or_default();
    Problem::new(Reason::EncodingUnsupported, format!("a row cannot be said exactly in the encoding asked for: {why}"))
}
