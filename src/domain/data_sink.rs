//! Why: a data sink is a named destination, checked by connecting to it before it is stored. Never shows a secret and never writes a record.

use std::{collections::BTreeMap, fmt};

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{Domain, OpContext, page::Page};
use crate::{
    clock::Timestamp,
    connectors::connector::{Descriptor, Probe, SinkKind},
    delivery::DestinationStatus,
    name::{PrincipalName, QualifiedName},
    problem::Problem,
};

/// A data sink as it may be shown. Nothing secret is ever in it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct DataSinkView {
    /// Its full name.
    pub name: QualifiedName,
    /// Differs between a sink and a later one of the same name.
    pub uid: Uuid,
    /// What it writes to.
    pub kind: SinkKind,
    /// As given, user information replaced by `***`.
    pub destination: String,
    /// As given; a secret option's value is `***`.
    pub options: BTreeMap<String, String>,
    /// The credential it uses.
    pub credential: Option<QualifiedName>,
    /// Who made it.
    pub owner: PrincipalName,
    /// Grows by one with every change.
    pub generation: u64,
    /// Opaque; from uid and generation.
    pub etag: String,
    /// When it was made.
    pub created: Timestamp,
    /// When it was changed last.
    pub updated: Timestamp,
    /// The last connection check, if there was one.
    pub last_check: Option<Probe>,
    /// As the sessions that write through it see it now; of this moment, so it is not kept with a stored answer.
    #[serde(skip)]
    pub status: Option<DestinationStatus>,
    /// How many sessions write through it now.
    pub live_sessions: u64,
    /// What uses it, where asked for.
    pub dependents: Vec<String>,
}

/// Makes a sink from destination and options.
#[derive(Clone, Default, Serialize)]
#[expect(missing_docs, reason = "the interface's own comments in proto/datasink/v1/data_sink.proto")]
pub struct CreateDataSink {
    pub name: String,
    pub destination: String,
    pub options: BTreeMap<String, String>,
    pub or_replace: bool,
    pub if_not_exists: bool,
    pub validate_only: bool,
    pub request_id: String,
}

impl fmt::Debug for CreateDataSink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CreateDataSink").field("name", &self.name).field("options", &self.options.keys()).finish_non_exhaustive()
    }
}

/// The answer to [`CreateDataSink`].
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct CreatedDataSink {
    /// The sink.
    pub data_sink: DataSinkView,
    /// False where `if_not_exists` found one.
    pub created: bool,
}

/// Changes the keys named and no others.
#[derive(Clone, Default, Serialize)]
#[expect(missing_docs, reason = "the interface's own comments in proto/datasink/v1/data_sink.proto")]
pub struct AlterDataSink {
    pub name: String,
    pub updates: BTreeMap<String, String>,
    pub unset: Vec<String>,
    pub etag: String,
    pub validate_only: bool,
    pub request_id: String,
}

impl fmt::Debug for AlterDataSink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AlterDataSink").field("name", &self.name).field("updates", &self.updates.keys()).field("unset", &self.unset).finish_non_exhaustive()
    }
}

/// The answer to [`AlterDataSink`].
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct AlteredDataSink {
    /// The sink as it is now.
    pub data_sink: DataSinkView,
    /// False where every value was already so.
    pub changed: bool,
}

/// Removes the reference, never anything at the destination.
#[derive(Debug, Clone, Default, Serialize)]
#[expect(missing_docs, reason = "the interface's own comments in proto/datasink/v1/data_sink.proto")]
pub struct DropDataSink {
    pub name: String,
    pub clear_table_monitors: bool,
    pub if_exists: bool,
    pub etag: String,
    pub validate_only: bool,
    pub request_id: String,
}

/// The answer to [`DropDataSink`].
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct DroppedDataSink {
    /// False where `if_exists` found none.
    pub dropped: bool,
    /// Monitors that went with it.
    pub cleared_table_monitors: Vec<String>,
}

/// Asks for one sink, or a page of those that match.
#[derive(Debug, Clone, Default)]
#[expect(missing_docs, reason = "the interface's own comments in proto/datasink/v1/data_sink.proto")]
pub struct ShowDataSink {
    pub name: String,
    pub page: Page,
    pub kind: Option<SinkKind>,
    pub include_dependents: bool,
}

/// The answer to [`ShowDataSink`].
#[derive(Debug, Clone, Default)]
pub struct ShownDataSinks {
    /// In name order.
    pub data_sinks: Vec<DataSinkView>,
    /// Empty on the last page.
    pub next_page_token: String,
}

/// Tries a stored or a proposed sink, step by step.
#[derive(Clone, Default)]
#[expect(missing_docs, reason = "the interface's own comments in proto/datasink/v1/data_sink.proto")]
pub struct TestDataSink {
    pub name: String,
    pub destination: String,
    pub options: BTreeMap<String, String>,
    pub write_probe: bool,
}

impl fmt::Debug for TestDataSink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TestDataSink").field("name", &self.name).field("options", &self.options.keys()).finish_non_exhaustive()
    }
}

/// Asks which kinds there are.
#[derive(Debug, Clone, Default)]
pub struct ShowSinkKinds {
    /// Only this one.
    pub kind: Option<SinkKind>,
}

impl Domain {
    /// Makes a data sink, connecting to its destination first.
    pub async fn create_data_sink(&self, cx: &OpContext, request: CreateDataSink) -> Result<CreatedDataSink, Problem> {
        let _ = (cx, request);
        Err(Self::not_built())
    }

    /// Changes a data sink, connecting to its new destination first; its sessions drain and open again.
    pub async fn alter_data_sink(&self, cx: &OpContext, request: AlterDataSink) -> Result<AlteredDataSink, Problem> {
        let _ = (cx, request);
        Err(Self::not_built())
    }

    /// Drops a data sink; its sessions end.
    pub async fn drop_data_sink(&self, cx: &OpContext, request: DropDataSink) -> Result<DroppedDataSink, Problem> {
        let _ = (cx, request);
        Err(Self::not_built())
    }

    /// Shows one sink, or a page of those the caller may see.
    pub async fn show_data_sink(&self, cx: &OpContext, request: ShowDataSink) -> Result<ShownDataSinks, Problem> {
        let _ = (cx, request);
        Err(Self::not_built())
    }

    /// Tries a sink, step by step; `Ok` also where a step failed.
    pub async fn test_data_sink(&self, cx: &OpContext, request: TestDataSink) -> Result<Probe, Problem> {
        let _ = (cx, request);
        Err(Self::not_built())
    }

    /// The kinds of sink this server has, and every option each one knows. Any authenticated caller may ask.
    pub async fn show_sink_kinds(&self, cx: &OpContext, request: ShowSinkKinds) -> Result<Vec<&'static Descriptor>, Problem> {
        let _ = (cx, request);
        Err(Self::not_built())
    }
}
