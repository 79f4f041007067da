//! Why: local tables are what local sinks write and exports read; here they get names, owners and rights. Never touches a row but through `store::rows`.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use uuid::Uuid;

use super::{Domain, OpContext, page::Page};
use crate::{
    clock::Timestamp,
    name::{PrincipalName, QualifiedName},
    problem::Problem,
    record::{Batch, Payload, RecordSchema},
};

/// A table as it may be shown.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct TableView {
    /// Its full name.
    pub name: QualifiedName,
    /// Differs between a table and a later one of the same name.
    pub uid: Uuid,
    /// Its columns.
    pub schema: RecordSchema,
    /// Who made it.
    pub owner: PrincipalName,
    /// How many rows it has.
    pub row_count: u64,
    /// Opaque; from uid and generation.
    pub etag: String,
    /// When it was made.
    pub created: Timestamp,
    /// Monitors that watch it.
    pub table_monitors: Vec<String>,
}

/// Makes a table.
#[derive(Debug, Clone, Default, Serialize)]
#[expect(missing_docs, reason = "the interface's own comments in proto/datasink/v1/table.proto")]
pub struct CreateTable {
    pub name: String,
    pub schema: RecordSchema,
    pub if_not_exists: bool,
    pub request_id: String,
}

/// The answer to [`CreateTable`].
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct CreatedTable {
    /// The table.
    pub table: TableView,
    /// False where `if_not_exists` found one.
    pub created: bool,
}

/// Drops a table and its rows.
#[derive(Debug, Clone, Default, Serialize)]
#[expect(missing_docs, reason = "the interface's own comments in proto/datasink/v1/table.proto")]
pub struct DropTable {
    pub name: String,
    pub if_exists: bool,
    pub clear_table_monitors: bool,
    pub etag: String,
    pub request_id: String,
}

/// The answer to [`DropTable`].
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct DroppedTable {
    /// False where `if_exists` found none.
    pub dropped: bool,
}

/// Asks for one table, or a page of those that match.
#[derive(Debug, Clone, Default)]
#[expect(missing_docs, reason = "the interface's own comments in proto/datasink/v1/table.proto")]
pub struct ShowTable {
    pub name: String,
    pub page: Page,
}

/// The answer to [`ShowTable`].
#[derive(Debug, Clone, Default)]
pub struct ShownTables {
    /// In name order.
    pub tables: Vec<TableView>,
    /// Empty on the last page.
    pub next_page_token: String,
}

/// What to do with a row whose primary key is there already.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub enum OnConflict {
    /// Refuse the whole call.
    #[default]
    Error,
    /// Leave the old row.
    Ignore,
    /// Replace the old row.
    Update,
}

/// Inserts rows, all or none.
#[derive(Debug)]
pub struct InsertRows {
    /// `[schema.]name`.
    pub table: String,
    /// The rows.
    pub payload: Payload,
    /// How many the caller says there are; 0: not said.
    pub record_count: i32,
    /// What to do with a row whose primary key is there already.
    pub on_conflict: OnConflict,
    /// A UUID; the same one again changes nothing.
    pub request_id: String,
}

/// The answer to [`InsertRows`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct InsertedRows {
    /// New rows.
    pub inserted: u64,
    /// Replaced rows.
    pub updated: u64,
    /// Rows left as they were.
    pub ignored: u64,
}

/// Changes rows that meet a condition.
#[derive(Debug, Clone, Default, Serialize)]
#[expect(missing_docs, reason = "the interface's own comments in proto/datasink/v1/table.proto")]
pub struct UpdateRows {
    pub table: String,
    pub filter: String,
    pub set: Map<String, Value>,
    pub request_id: String,
}

/// Removes rows that meet a condition.
#[derive(Debug, Clone, Default, Serialize)]
#[expect(missing_docs, reason = "the interface's own comments in proto/datasink/v1/table.proto")]
pub struct DeleteRows {
    pub table: String,
    pub filter: String,
    pub request_id: String,
}

/// Reads rows in key order.
#[derive(Debug, Clone, Default)]
#[expect(missing_docs, reason = "the interface's own comments in proto/datasink/v1/table.proto")]
pub struct ScanRows {
    pub table: String,
    pub columns: Vec<String>,
    pub filter: String,
    /// 0: no limit.
    pub limit: i64,
    pub resume_token: String,
}

/// Rows of one message of a scan.
#[derive(Debug, Clone)]
pub struct ScannedRows {
    /// The rows; the caller encodes them as asked.
    pub batch: Batch,
    /// To go on after them.
    pub resume_token: String,
}

/// A scan under way: permitted when it began, read a page at a time.
#[derive(Debug)]
pub struct RowScan {
    schema: RecordSchema,
}

impl RowScan {
    /// The columns asked for.
    pub fn schema(&self) -> &RecordSchema {
        &self.schema
    }

    /// The next rows; `None` at the end.
    pub async fn next(&mut self) -> Result<Option<ScannedRows>, Problem> {
        Err(Domain::not_built())
    }
}

impl Domain {
    /// Makes a table.
    pub async fn create_table(&self, cx: &OpContext, request: CreateTable) -> Result<CreatedTable, Problem> {
        let _ = (cx, request);
        Err(Self::not_built())
    }

    /// Drops a table that no sink writes to.
    pub async fn drop_table(&self, cx: &OpContext, request: DropTable) -> Result<DroppedTable, Problem> {
        let _ = (cx, request);
        Err(Self::not_built())
    }

    /// Shows one table, or a page of those the caller may see.
    pub async fn show_table(&self, cx: &OpContext, request: ShowTable) -> Result<ShownTables, Problem> {
        let _ = (cx, request);
        Err(Self::not_built())
    }

    /// Inserts rows, all or none.
    pub async fn insert_rows(&self, cx: &OpContext, request: InsertRows) -> Result<InsertedRows, Problem> {
        let _ = (cx, request);
        Err(Self::not_built())
    }

    /// Comes with the query engine; answers UNIMPLEMENTED until then. The number is of updated rows.
    pub async fn update_rows(&self, cx: &OpContext, request: UpdateRows) -> Result<u64, Problem> {
        let _ = (cx, request);
        Err(Self::not_built())
    }

    /// Comes with the query engine; answers UNIMPLEMENTED until then. The number is of removed rows.
    pub async fn delete_rows(&self, cx: &OpContext, request: DeleteRows) -> Result<u64, Problem> {
        let _ = (cx, request);
        Err(Self::not_built())
    }

    /// Begins to read a table.
    pub async fn scan_rows(&self, cx: &OpContext, request: ScanRows) -> Result<RowScan, Problem> {
        let _ = (cx, request);
        Err(Self::not_built())
    }
}
