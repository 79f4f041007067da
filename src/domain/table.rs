//! Why: local tables are what local sinks write and exports read; here they get names, owners and rights. Never touches a row but through `store::rows`.

use std::sync::Arc;

use async_trait::async_trait;
use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::{Bytes, BytesMut};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, value::RawValue};
use uuid::Uuid;

use super::{
    Domain, OpContext,
    access::{Need, ObjectType, Permission, Target},
    already_exists,
    catalog::{self, Draft, Effect, Head, Object, Place, Row, TABLES, name_key, store_problem},
    change, comes_with_queries,
    credential::all_of,
    in_use,
    page::Page,
};
use crate::{
    clock::Timestamp,
    connectors::{
        connector::TableLookup,
        error::{ConnectorError, ConnectorErrorKind},
    },
    limits,
    name::{PrincipalName, QualifiedName},
    problem::{Problem, Reason, Violation},
    record::{Batch, Change, DecodeError, Incoming, Ndjson, Payload, Piece, RecordFault, RecordFaultKind, RecordSchema, Records, decode_off_thread},
    store::{
        self, SharedStore,
        row::{self, check_row},
        rows::{RowsError, Scan, StreamMark, Written},
    },
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

/// A table as it is stored; its rows are kept by `store::rows`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct TableRow {
    pub head: Head,
    pub schema: RecordSchema,
}

impl Row for TableRow {
    const TABLE: store::Table = TABLES;
}

impl Object for TableRow {
    const TYPE: ObjectType = ObjectType::Table;
    const NOT_FOUND: Reason = Reason::TableNotFound;
    fn head(&self) -> &Head {
        &self.head
    }
}

impl TableRow {
    fn keyed(&self) -> bool {
        self.schema.columns.iter().any(|column| column.primary_key)
    }
}

/// Finds local tables for the sinks that write to them.
#[derive(Debug, Clone)]
pub struct Tables(SharedStore);

impl Tables {
    /// Over the catalogue's store.
    pub fn new(store: SharedStore) -> Self {
        Self(store)
    }
}

#[async_trait]
impl TableLookup for Tables {
    async fn find(&self, name: &QualifiedName) -> Result<Option<(Uuid, RecordSchema)>, ConnectorError> {
        let failed = |fault: &dyn std::fmt::Display| ConnectorError::new(ConnectorErrorKind::Store, format!("the table {name} cannot be looked up: {fault}"));
        let bytes = self.0.get(TABLES, &name_key(name)).await.map_err(|fault| failed(&fault))?;
        let row = bytes.map(|bytes| catalog::decode::<TableRow>(TABLES, &bytes)).transpose().map_err(|fault| failed(&fault))?;
        Ok(row.map(|row| (row.head.uid, row.schema)))
    }
}

/// A scan under way: permitted when it began, read a page at a time.
pub struct RowScan {
    domain: Domain,
    question: (Uuid, Vec<String>),
    schema: RecordSchema,
    /// Columns to keep, where not all are asked for.
    columns: Option<Vec<String>>,
    left: Option<u64>,
    given: u64,
    scan: Scan,
}

impl std::fmt::Debug for RowScan {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RowScan").field("table", &self.question.0).finish_non_exhaustive()
    }
}

/// Rows of one message of a scan, at most.
const SCAN_ROWS_MAX: usize = 1_000;
/// Faults of rows that one answer tells.
const ROW_FAULTS_MAX: usize = 20;

impl RowScan {
    /// The columns asked for.
    pub fn schema(&self) -> &RecordSchema {
        &self.schema
    }

    /// The next rows; `None` at the end.
    pub async fn next(&mut self) -> Result<Option<ScannedRows>, Problem> {
        let limit = self.left.map_or(SCAN_ROWS_MAX, |left| usize::try_from(left).unwrap_or(SCAN_ROWS_MAX).min(SCAN_ROWS_MAX));
        let rows = if limit == 0 { Vec::new() } else { self.scan.next(limit).await.map_err(store_problem)? };
        if rows.is_empty() {
            return Ok(None);
        }
        let count = rows.len() as u64;
        let rows = match &self.columns {
            None => rows,
            Some(columns) => rows.iter().map(|row| project(row, columns)).collect::<Result<_, _>>()?,
        };
        let records = Records::Ndjson(lines(&rows)?);
        let batch = Batch::new(self.given, records);
        self.given += count;
        self.left = self.left.map(|left| left - count);
        let sealed = Page::default().open(&self.domain.0.keys, &("scan", &self.question))?;
        Ok(Some(ScannedRows { batch, resume_token: sealed.token(&self.domain.0.keys, &self.scan.token()) }))
    }
}

/// Rows one after another, a line each.
fn lines(rows: &[Bytes]) -> Result<Ndjson, Problem> {
    let mut bytes = BytesMut::with_capacity(rows.iter().map(|row| row.len() + 1).sum());
    let mut lines = Vec::with_capacity(rows.len());
    let place = |at: usize| u32::try_from(at).map_err(|_| Problem::new(Reason::Internal, "rows of one message are beyond 4 GiB"));
    for row in rows {
        let start = bytes.len();
        bytes.extend_from_slice(row);
        lines.push((place(start)?, place(bytes.len())?));
        bytes.extend_from_slice(b"\n");
    }
    Ok(Ndjson::from_checked(bytes.freeze(), lines.into()))
}

/// The named columns of a row; a column that is null is absent. Values keep their text.
fn project(row: &Bytes, columns: &[String]) -> Result<Bytes, Problem> {
    let corrupt = |fault| Problem::new(Reason::StoreCorrupt, format!("a row cannot be read: {fault}; restore a backup with `datasink store import`"));
    let values: std::collections::BTreeMap<String, &RawValue> = serde_json::from_slice(row).map_err(corrupt)?;
    let mut kept: Vec<u8> = Vec::with_capacity(row.len());
    kept.push(b'{');
    for (name, value) in columns.iter().filter_map(|name| values.get(name).map(|value| (name, value))) {
        if kept.len() > 1 {
            kept.push(b',');
        }
        kept.extend(serde_json::to_vec(name).map_err(corrupt)?);
        kept.push(b':');
        kept.extend_from_slice(value.get().as_bytes());
    }
    kept.push(b'}');
    Ok(kept.into())
}

impl Domain {
    /// Makes a table.
    pub async fn create_table(&self, cx: &OpContext, request: CreateTable) -> Result<CreatedTable, Problem> {
        let name = self.resolve(cx, "name", &request.name).await;
        let mut faults: Vec<Problem> = name.as_ref().err().cloned().into_iter().collect();
        if let Err(found) = request.schema.check() {
            faults.extend(found.into_iter().map(|fault| Problem::field(fault.field, Reason::InvalidField, fault.message)));
        }
        let Ok(name) = name else { return Err(all_of(faults)) };
        if !faults.is_empty() {
            return Err(all_of(faults));
        }
        let ticket = self.ticket(cx, &request.request_id, &request, &[])?;
        change!(self, cx, ticket, false, |draft| {
            let schema = self.schema_to_create_in(cx, &mut draft, ObjectType::Table, &name).await?;
            match draft.get::<TableRow>(&name_key(&name)).await? {
                Some(row) if request.if_not_exists => {
                    let need = Need { object_type: ObjectType::Table, permission: Permission::Read, schema: Some(schema.uid), object: Some(row.head.uid) };
                    self.permit(cx, &need, &name).await?;
                    CreatedTable { table: self.table_view(&row).await?, created: false }
                }
                Some(_) => return Err(already_exists(ObjectType::Table, &name)),
                None => {
                    draft.guard(schema.uid, true).await?;
                    let owner = cx.caller.principal.clone();
                    let row = TableRow { head: self.next_head(None, &name, &owner), schema: request.schema.clone() };
                    draft.put(name_key(&name), &row)?;
                    draft.put(row.head.uid.as_bytes().to_vec(), &Place { object_type: ObjectType::Table, name: name.to_string() })?;
                    self.own(&mut draft, &owner, ObjectType::Table, Target::Object(row.head.uid))?;
                    CreatedTable { table: self.table_view(&row).await?, created: true }
                }
            }
        })
    }

    /// Drops a table that no sink writes to.
    pub async fn drop_table(&self, cx: &OpContext, request: DropTable) -> Result<DroppedTable, Problem> {
        let name = self.resolve(cx, "name", &request.name).await?;
        let ticket = self.ticket(cx, &request.request_id, &request, &[])?;
        change!(self, cx, ticket, false, |draft| {
            match self.fetch_for_change::<TableRow>(cx, &mut draft, &name, Permission::Admin, request.if_exists).await? {
                None => DroppedTable { dropped: false },
                Some(row) => {
                    row.head.check_etag(&request.etag, ObjectType::Table)?;
                    let users: Vec<String> =
                        draft.users_of(row.head.uid).await?.into_iter().map(|place| format!("{} {}", place.object_type, place.name)).collect();
                    if !users.is_empty() {
                        return Err(in_use(ObjectType::Table, &name, &users, "drop them or give them another destination first"));
                    }
                    self.remove_table(&mut draft, &row).await?;
                    DroppedTable { dropped: true }
                }
            }
        })
    }

    /// Removes a table; its rows go once that is stored.
    pub(super) async fn remove_table(&self, draft: &mut Draft<'_>, row: &TableRow) -> Result<(), Problem> {
        self.remove_object(draft, row).await?;
        draft.note_rows_dropped(row.head.uid);
        draft.effects.push(Effect::RowsDropped(row.head.uid));
        Ok(())
    }

    /// Shows one table, or a page of those the caller may see.
    pub async fn show_table(&self, cx: &OpContext, request: ShowTable) -> Result<ShownTables, Problem> {
        let (rows, next_page_token) = self.show::<TableRow>(cx, "tables", &request.name, &request.page, &(), |_| true).await?;
        let mut tables = Vec::with_capacity(rows.len());
        for row in rows {
            tables.push(self.table_view(&row).await?);
        }
        Ok(ShownTables { tables, next_page_token })
    }

    async fn table_view(&self, row: &TableRow) -> Result<TableView, Problem> {
        let (row_count, _) = self.0.rows.size(row.head.uid).await.map_err(store_problem)?;
        Ok(TableView {
            name: row.head.name.clone(),
            uid: row.head.uid,
            schema: row.schema.clone(),
            owner: row.head.owner.clone(),
            row_count,
            etag: row.head.etag(),
            created: row.head.created,
            table_monitors: Vec::new(),
        })
    }

    /// Inserts rows, all or none. The audit log has one line of the call and nothing of the rows.
    pub async fn insert_rows(&self, cx: &OpContext, request: InsertRows) -> Result<InsertedRows, Problem> {
        let name = self.resolve(cx, "table", &request.table).await?;
        let (table, permit): (TableRow, _) = self.fetch_permitted(cx, &name, Permission::Insert).await?;
        let mut permits = vec![permit];
        if request.on_conflict == OnConflict::Update {
            permits.push(self.fetch_permitted::<TableRow>(cx, &name, Permission::Update).await?.1);
        }
        let stated_count =
            u64::try_from(request.record_count).map_err(|_| Problem::field("batch.record_count", Reason::InvalidField, "record_count must not be negative"))?;
        let digest = payload_digest(&request.payload);
        let ticket = self.ticket(cx, &request.request_id, &("insert", name.to_string(), request.on_conflict, stated_count, digest), &[])?;
        if let Some(answer) = ticket.replay(self, &mut self.draft().await?).await? {
            return Ok(answer);
        }
        let incoming = Incoming {
            payload: request.payload,
            first_offset: 0,
            stated_count: (stated_count > 0).then_some(stated_count),
            change: Change::Insert,
            event_time: None,
            traceparent: None,
        };
        let schema = Arc::new(table.schema);
        let pieces = decode_off_thread(incoming, Some(schema.clone())).await.map_err(|fault| decode_problem(&fault))?;
        let rows = tokio::task::spawn_blocking(move || checked_rows(pieces, &schema))
            .await
            .map_err(|_| Problem::new(Reason::Internal, "the check of the rows broke off"))??;
        let on_conflict = match request.on_conflict {
            OnConflict::Error => store::rows::OnConflict::Error,
            OnConflict::Ignore => store::rows::OnConflict::Ignore,
            OnConflict::Update => store::rows::OnConflict::Update,
        };
        let uid = table.head.uid;
        let inserting = async {
            if !ticket.is_set() {
                return Ok(inserted(self.0.rows.insert(uid, &rows, on_conflict).await.map_err(|fault| rows_problem(fault, &name))?));
            }
            self.insert_once(&name, uid, &rows, on_conflict, &ticket).await
        };
        self.noted(cx, &permits, inserting).await
    }

    /// Inserts under a request id: a mark beside the rows tells, should the answer not get stored, that they are there.
    async fn insert_once(
        &self,
        name: &QualifiedName,
        uid: Uuid,
        rows: &[row::Row],
        on_conflict: store::rows::OnConflict,
        ticket: &super::idempotency::Ticket,
    ) -> Result<InsertedRows, Problem> {
        // No stream's name begins with a control character.
        let stream = format!("\u{1}request {}", ticket.place());
        let (old, _) = self.0.rows.fence(uid, &stream, 0).await.map_err(|fault| rows_problem(fault, name))?;
        let answer = if old.finished {
            // Of the rows that were not new, the mark does not say more than that they met old ones.
            let met = (rows.len() as u64).saturating_sub(old.rows);
            match on_conflict {
                store::rows::OnConflict::Update => InsertedRows { inserted: old.rows, updated: met, ignored: 0 },
                _ => InsertedRows { inserted: old.rows, updated: 0, ignored: met },
            }
        } else {
            let new = StreamMark { next: rows.len() as u64, finished: true, ..old };
            let (_, written) = self.0.rows.commit(uid, &stream, old, new, rows, on_conflict).await.map_err(|fault| rows_problem(fault, name))?;
            inserted(written)
        };
        let mut draft = self.draft().await?;
        if let Some(known) = ticket.replay(self, &mut draft).await? {
            return Ok(known);
        }
        ticket.keep(self, &mut draft, &answer)?;
        if self.store_draft(draft).await? {
            self.0.rows.forget(uid, &stream).await.map_err(|fault| rows_problem(fault, name))?;
        }
        Ok(answer)
    }

    /// Comes with the query engine; answers UNIMPLEMENTED until then. The number is of updated rows.
    pub async fn update_rows(&self, cx: &OpContext, request: UpdateRows) -> Result<u64, Problem> {
        let name = self.resolve(cx, "table", &request.table).await?;
        self.fetch::<TableRow>(cx, &name, Permission::Update).await?;
        Err(comes_with_queries("updating rows"))
    }

    /// Comes with the query engine; answers UNIMPLEMENTED until then. The number is of removed rows.
    pub async fn delete_rows(&self, cx: &OpContext, request: DeleteRows) -> Result<u64, Problem> {
        let name = self.resolve(cx, "table", &request.table).await?;
        self.fetch::<TableRow>(cx, &name, Permission::Delete).await?;
        Err(comes_with_queries("deleting rows"))
    }

    /// Begins to read a table.
    pub async fn scan_rows(&self, cx: &OpContext, request: ScanRows) -> Result<RowScan, Problem> {
        let name = self.resolve(cx, "table", &request.table).await?;
        let table: TableRow = self.fetch(cx, &name, Permission::Read).await?;
        if !request.filter.is_empty() {
            return Err(comes_with_queries("a filter"));
        }
        let mut faults = Vec::new();
        let limit = u64::try_from(request.limit).unwrap_or_else(|_| {
            faults.push(Problem::field("limit", Reason::InvalidField, "limit must not be negative; 0 is no limit"));
            0
        });
        let mut columns = Vec::new();
        for (index, wanted) in request.columns.iter().enumerate() {
            match table.schema.index_of(wanted) {
                Some(at) => columns.push(table.schema.columns[at].clone()),
                None => {
                    let message = format!("the table {name} has no column {wanted:?}; ShowTable lists those it has");
                    faults.push(Problem::field(format!("columns[{index}]"), Reason::InvalidField, message));
                }
            }
        }
        if !faults.is_empty() {
            return Err(all_of(faults));
        }
        let question = (table.head.uid, request.columns.clone());
        let resumed = Page { size: 0, token: request.resume_token.clone() }.open(&self.0.keys, &("scan", &question)).map_err(|mut fault| {
            fault.violations.iter_mut().for_each(|violation| violation.field = "resume_token".to_owned());
            fault
        })?;
        let scan = self.0.rows.scan(table.head.uid, table.keyed(), resumed.after.as_deref()).await.map_err(store_problem)?;
        let all = request.columns.is_empty();
        Ok(RowScan {
            domain: self.clone(),
            question,
            schema: if all { table.schema } else { RecordSchema { columns } },
            columns: (!all).then_some(request.columns),
            left: (limit > 0).then_some(limit),
            given: 0,
            scan,
        })
    }
}

impl Domain {
    /// Forgets in local tables what unfinished ON_FINISH streams have put aside too long ago, and every mark of a stream that nobody can open again; how many streams that were.
    pub async fn forget_unfinished(&self) -> Result<u64, Problem> {
        let now = self.0.ambient.now();
        // Asked anew for each: who opens a stream is among the live before its mark is made.
        let live = |stream: &str| self.0.sessions.live().iter().any(|session| session.stream.to_string() == stream);
        let expired = |stream: &str, touched: Option<Timestamp>| {
            let over = stream.contains("/adhoc:") || touched.is_some_and(|touched| now.since(touched) > limits::UNFINISHED_KEPT);
            over && !live(stream)
        };
        let forgotten = self.0.rows.forget_expired(expired).await;
        forgotten.map_err(|fault| match fault {
            RowsError::Store(error) => store_problem(error),
            _ => super::busy(),
        })
    }
}

fn inserted(written: Written) -> InsertedRows {
    InsertedRows { inserted: written.inserted, updated: written.updated, ignored: written.ignored }
}

/// What tells one payload from another.
pub(super) fn payload_digest(payload: &Payload) -> String {
    use sha2::{Digest, Sha256};
    let digest = match payload {
        Payload::Ndjson(bytes) => Sha256::new().chain_update(b"ndjson").chain_update(bytes),
        Payload::ArrowIpc(bytes) => Sha256::new().chain_update(b"arrow").chain_update(bytes),
        Payload::Json(objects) => Sha256::new().chain_update(b"json").chain_update(format!("{objects:?}")),
        Payload::Typed(records) => Sha256::new().chain_update(b"typed").chain_update(format!("{records:?}")),
    };
    STANDARD.encode(digest.finalize())
}

/// Rows of decoded pieces, each checked against the columns; the first faults are told.
fn checked_rows(pieces: Vec<Piece>, schema: &RecordSchema) -> Result<Vec<row::Row>, Problem> {
    let mut rows = Vec::new();
    let mut faults: Vec<(u64, RecordFault)> = Vec::new();
    for piece in pieces {
        match piece {
            Piece::Bad(rejected) => faults.push((rejected.offset, rejected.fault)),
            Piece::Good(batch) => {
                let first = batch.first_offset;
                let found = match batch.to_ndjson() {
                    Ok(batch) => batch,
                    Err(found) => {
                        faults.extend(found.0);
                        continue;
                    }
                };
                let Records::Ndjson(lines) = &found.records else { continue };
                for index in 0..lines.len() {
                    match check_row(schema, lines.line(index)) {
                        Ok(row) => rows.push(row),
                        Err(fault) => faults.push((first + index as u64, fault)),
                    }
                }
            }
        }
    }
    if faults.is_empty() { Ok(rows) } else { Err(rows_refused(faults)) }
}

fn rows_refused(mut faults: Vec<(u64, RecordFault)>) -> Problem {
    faults.sort_by_key(|(offset, _)| *offset);
    let count = faults.len();
    let (index, first) = faults[0].clone();
    let message = format!("row {index}: {} ({count} rows are refused; nothing was inserted)", first.message);
    let mut problem = Problem::new(record_reason(first.kind), message).with("index", index.to_string());
    if let Some(column) = first.column {
        problem = problem.with("column", column);
    }
    problem.violations = faults
        .into_iter()
        .take(ROW_FAULTS_MAX)
        .map(|(index, fault)| Violation { field: format!("batch.records[{index}]"), reason: record_reason(fault.kind), description: fault.message })
        .collect();
    problem
}

fn record_reason(kind: RecordFaultKind) -> Reason {
    match kind {
        RecordFaultKind::Unparsable => Reason::RecordUnparsable,
        RecordFaultKind::Invalid => Reason::RecordInvalid,
        RecordFaultKind::TooLarge => Reason::RecordTooLarge,
    }
}

fn decode_problem(fault: &DecodeError) -> Problem {
    let reason = match fault {
        DecodeError::TooLarge { .. } => Reason::MessageTooLarge,
        DecodeError::TooManyRecords { .. } | DecodeError::OffsetOverflow { .. } => Reason::InvalidField,
        DecodeError::CountMismatch { .. } => Reason::RecordCountMismatch,
        DecodeError::SchemaMissing | DecodeError::Compressed { .. } | DecodeError::UnsupportedType { .. } => Reason::EncodingUnsupported,
        DecodeError::Unreadable { .. } => Reason::RecordUnparsable,
    };
    fault.metadata().into_iter().fold(Problem::new(reason, fault.to_string()), |problem, (key, value)| problem.with(key, value))
}

fn rows_problem(fault: RowsError, table: &QualifiedName) -> Problem {
    match fault {
        RowsError::Duplicate(index) => {
            let message = format!("row {index} has a primary key that is in the table {table} already; nothing was inserted: set on_conflict, or leave it out");
            Problem::new(Reason::AlreadyExists, message)
                .with("name", table.to_string())
                .with("object_type", "row")
                .with("index", index.to_string())
                .resource("row", index)
        }
        RowsError::Full(limit) => {
            Problem::new(Reason::QuotaExceeded, format!("the table {table} would grow beyond {limit} bytes; drop it or raise the server's limit"))
                .with("limit", limit.to_string())
                .with("window", "table")
        }
        // Only a stream's finish can find its rows taken.
        RowsError::Busy | RowsError::Fenced(_) | RowsError::Taken(_) => super::busy(),
        RowsError::Store(error) => store_problem(error),
    }
}
