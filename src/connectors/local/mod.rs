//! Why: `table://` sinks: the tables of this service as destinations. Never touches a table by another way than `store::rows`, and never judges who may.

mod options;
mod writer;

use std::sync::Arc;

use async_trait::async_trait;
use tokio::time::Instant;
use uuid::Uuid;

use self::writer::LocalWriter;
use super::{
    connector::{
        CommitMode, ConnectContext, Connector, Delivery, Descriptor, Epoch, Example, FoundMark, Guarantee, Guide, Kind, Opened, Probe, ProbeStep, SinkKind,
        StepResult, StreamId, TableLookup, Terms, UnitPolicy,
    },
    credential::CredentialType,
    destination::Destination,
    error::{ConnectorError, ConnectorErrorKind},
    options::{ConfigFault, Options},
};
use crate::{
    name::QualifiedName,
    record::{Batch, Encoding, Offset, RecordFault, RecordFaults, RecordSchema},
    store::rows::{OnConflict, Rows},
};

static DESCRIPTOR: Descriptor = Descriptor {
    kind: SinkKind::Local,
    schemes: &["table"],
    example_destination: "table://schema.table",
    options: &options::OPTIONS,
    credential_types: &[],
    guarantee: Guarantee::ExactlyOnce,
    commit_on_finish: true,
    unavailable: None,
    guide: Guide {
        basis: "Rows, mark and fence change in one transaction of the local store, synced to disk before the ack; an older writer's transaction fails in the store.",
        limits: &[
            "Members of a record must be columns of the table; the first one that is not is named.",
            "A record has at most 1 MiB as JSON text, a table at most the server's setting table_bytes_max.",
            "With COMMIT_MODE_ON_FINISH rows lie aside in the store, count towards table_bytes_max, and are all there in one transaction with finish; a stream that is not finished is forgotten with them a day after its last record.",
            "Where on_conflict is error, a finish is refused whole if rows with the same primary keys came into the table since the records were acknowledged.",
        ],
        examples: &[Example { scheme: "none: the table belongs to this service", destination: "table://default.staff", options: &[], credential: None }],
    },
};

/// The kind `local`.
#[derive(Debug, Clone)]
pub struct Local {
    rows: Rows,
    tables: Arc<dyn TableLookup>,
}

impl Local {
    /// Over these tables.
    pub fn new(rows: Rows, tables: Arc<dyn TableLookup>) -> Self {
        Self { rows, tables }
    }
}

impl Kind for Local {
    fn descriptor(&self) -> &'static Descriptor {
        &DESCRIPTOR
    }

    fn configure(&self, destination: &Destination, options: &Options) -> Result<Arc<dyn Connector>, Vec<ConfigFault>> {
        let table = QualifiedName::parse(destination.rest(), None)
            .map_err(|fault| vec![ConfigFault::destination(format!("{destination} does not name a table: {fault}")).with("scheme", "table")])?;
        let on_conflict = match options.text(options::ON_CONFLICT) {
            Some("ignore") => OnConflict::Ignore,
            Some("update") => OnConflict::Update,
            _ => OnConflict::Error,
        };
        Ok(Arc::new(LocalConnector { uri: format!("table://{table}"), table, on_conflict, local: self.clone() }))
    }
}

#[derive(Debug)]
struct LocalConnector {
    uri: String,
    table: QualifiedName,
    on_conflict: OnConflict,
    local: Local,
}

impl LocalConnector {
    async fn find(&self) -> Result<(Uuid, RecordSchema), ConnectorError> {
        self.local.tables.find(&self.table).await?.ok_or_else(|| {
            ConnectorError::new(ConnectorErrorKind::NotFound, format!("there is no table {}; create it first", self.table))
                .with("table", self.table.to_string())
        })
    }
}

#[async_trait]
impl Connector for LocalConnector {
    fn accepts(&self, _: CredentialType) -> bool {
        false
    }

    fn table(&self) -> Option<&str> {
        self.uri.strip_prefix("table://")
    }

    async fn probe(&self, cx: &ConnectContext, _: bool) -> Probe {
        let started = Instant::now();
        let step = |name: &str, result, details| ProbeStep { name: name.to_owned(), result, elapsed: started.elapsed(), details };
        let resolve = match self.find().await {
            Ok((_, schema)) => step("resolve", StepResult::Passed, vec![("columns".to_owned(), schema.columns.len().to_string())]),
            Err(error) => {
                let message = error.to_string();
                step("resolve", StepResult::Failed { error, message }, Vec::new())
            }
        };
        // A row written as a probe could be read by others before it is removed, so there is no write step.
        let steps = vec![step("configuration", StepResult::Passed, Vec::new()), resolve, step("write", StepResult::Skipped, Vec::new())];
        Probe { steps, checked: cx.ambient.now() }
    }

    async fn open(&self, cx: &ConnectContext, stream: &StreamId, epoch: Epoch, terms: &Terms) -> Result<Opened, ConnectorError> {
        let (table, schema) = self.find().await?;
        let key = stream.to_string();
        let (mark, known) = self.local.rows.fence(table, &key, epoch.0).await.map_err(writer::rows_error)?;
        let on_finish = terms.commit_mode == CommitMode::OnFinish;
        // A mark that only an earlier open made says no more than that there is none: what was put aside has been forgotten.
        let forgotten = on_finish && mark.next == 0 && mark.staged.is_none() && !mark.finished;
        let found = if known && !forgotten { FoundMark::At(writer::mark_of(&mark)) } else { FoundMark::Missing };
        let writer = LocalWriter::new(self.local.rows.clone(), table, Arc::new(schema.clone()), key, mark, self.on_conflict, self.uri.clone());
        let writer = if on_finish { writer.on_finish(cx.ambient.clone()) } else { writer };
        let writer = if stream.name.is_adhoc() { writer.once() } else { writer };
        Ok(Opened {
            writer: Box::new(writer),
            epoch: Epoch(mark.epoch),
            mark: found,
            delivery: Delivery {
                guarantee: Guarantee::ExactlyOnce,
                basis: if on_finish {
                    "rows lie aside with the mark, each unit in one transaction of the local store, and all of them count in one with finish".to_owned()
                } else {
                    "rows, mark and fence change in one transaction of the local store, synced to disk before the ack".to_owned()
                },
            },
            takes: Encoding::Ndjson,
            schema: Some(schema),
            units: UnitPolicy {
                records_max: 10_000,
                bytes_max: 2 << 20,
                age_max: std::time::Duration::ZERO,
                idle_max: std::time::Duration::ZERO,
                commits_in_flight: 1,
            },
        })
    }

    async fn check_records(&self, _: &ConnectContext, batch: &Batch) -> Result<Vec<(Offset, RecordFault)>, ConnectorError> {
        let (_, schema) = self.find().await?;
        let text = match batch.to_ndjson() {
            Ok(text) => text,
            Err(RecordFaults(faults)) => return Ok(faults),
        };
        Ok(writer::checked(&schema, &text)?.1)
    }

    async fn forget(&self, _: &ConnectContext, stream: &StreamId) -> Result<(), ConnectorError> {
        match self.local.tables.find(&self.table).await? {
            None => Ok(()),
            Some((table, _)) => self.local.rows.forget(table, &stream.to_string()).await.map_err(writer::rows_error),
        }
    }
}
