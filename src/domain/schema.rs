//! Why: a schema is the namespace of sinks, credentials and tables. Never holds anything but a name and an owner.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{Domain, OpContext, page::Page};
use crate::{
    clock::Timestamp,
    name::{Name, PrincipalName},
    problem::Problem,
};

/// A schema as it may be shown.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct SchemaView {
    /// Its name.
    pub name: Name,
    /// Who made it.
    pub owner: PrincipalName,
    /// When it was made.
    pub created: Timestamp,
    /// Objects in it, by kind: `data_sink`, `credential`, `table`, `table_monitor`.
    pub object_counts: BTreeMap<String, u64>,
}

/// Makes a schema.
#[derive(Debug, Clone, Default, Serialize)]
#[expect(missing_docs, reason = "the interface's own comments in proto/datasink/v1/schema.proto")]
pub struct CreateSchema {
    pub name: String,
    pub if_not_exists: bool,
    pub request_id: String,
}

/// The answer to [`CreateSchema`].
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct CreatedSchema {
    /// The schema.
    pub schema: SchemaView,
    /// False where `if_not_exists` found one.
    pub created: bool,
}

/// Drops a schema.
#[derive(Debug, Clone, Default, Serialize)]
#[expect(missing_docs, reason = "the interface's own comments in proto/datasink/v1/schema.proto")]
pub struct DropSchema {
    pub name: String,
    pub if_exists: bool,
    pub cascade: bool,
    pub request_id: String,
}

/// The answer to [`DropSchema`].
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct DroppedSchema {
    /// False where `if_exists` found none.
    pub dropped: bool,
}

/// Asks for one schema, or a page of those that match.
#[derive(Debug, Clone, Default)]
#[expect(missing_docs, reason = "the interface's own comments in proto/datasink/v1/schema.proto")]
pub struct ShowSchema {
    pub name: String,
    pub page: Page,
}

/// The answer to [`ShowSchema`].
#[derive(Debug, Clone, Default)]
pub struct ShownSchemas {
    /// In name order.
    pub schemas: Vec<SchemaView>,
    /// Empty on the last page.
    pub next_page_token: String,
}

impl Domain {
    /// Makes a schema.
    pub async fn create_schema(&self, cx: &OpContext, request: CreateSchema) -> Result<CreatedSchema, Problem> {
        let _ = (cx, request);
        Err(Self::not_built())
    }

    /// Drops a schema; with `cascade` also what is in it.
    pub async fn drop_schema(&self, cx: &OpContext, request: DropSchema) -> Result<DroppedSchema, Problem> {
        let _ = (cx, request);
        Err(Self::not_built())
    }

    /// Shows one schema, or a page of those the caller may see.
    pub async fn show_schema(&self, cx: &OpContext, request: ShowSchema) -> Result<ShownSchemas, Problem> {
        let _ = (cx, request);
        Err(Self::not_built())
    }
}
