//! Why: a schema is the namespace of sinks, credentials and tables. Never holds anything but a name and an owner.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{
    DEFAULT_SCHEMA, Domain, OpContext,
    access::{Need, ObjectType, Permission, Rights, Target, decide},
    already_exists,
    catalog::{self, CREDENTIALS, DATA_SINKS, Draft, Effect, GUARDS, Place, Row, SCHEMAS, TABLES},
    change,
    credential::CredentialRow,
    data_sink::SinkRow,
    in_use, invalid_name,
    page::Page,
    schema_not_found,
    table::TableRow,
    with_users,
};
use crate::{
    clock::Timestamp,
    name::{Name, PrincipalName, glob_matches},
    problem::{Problem, Reason},
    store::Table,
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

/// A schema as it is stored.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct SchemaRow {
    pub name: Name,
    pub uid: Uuid,
    pub owner: PrincipalName,
    pub created: Timestamp,
}

impl Row for SchemaRow {
    const TABLE: Table = SCHEMAS;
}

impl SchemaRow {
    fn view(&self, object_counts: BTreeMap<String, u64>) -> SchemaView {
        SchemaView { name: self.name.clone(), owner: self.owner.clone(), created: self.created, object_counts }
    }
}

/// The tables whose keys begin with the schema's name, and the words for their rows.
const CONTENTS: [(Table, &str); 3] = [(DATA_SINKS, "data_sink"), (CREDENTIALS, "credential"), (TABLES, "table")];

fn contents_prefix(schema: &Name) -> Vec<u8> {
    format!("{schema}.").into_bytes()
}

/// Everything in a schema, read for a drop of it.
struct Contents {
    sinks: Vec<SinkRow>,
    credentials: Vec<CredentialRow>,
    tables: Vec<TableRow>,
}

impl Contents {
    async fn read(draft: &Draft<'_>, schema: &Name) -> Result<Self, Problem> {
        async fn all<T: Row>(draft: &Draft<'_>, schema: &Name) -> Result<Vec<T>, Problem> {
            draft.scan(T::TABLE, &contents_prefix(schema)).await?.iter().map(|(_, bytes)| catalog::decode(T::TABLE, bytes)).collect()
        }
        Ok(Self { sinks: all(draft, schema).await?, credentials: all(draft, schema).await?, tables: all(draft, schema).await? })
    }

    fn names(&self) -> Vec<String> {
        let sinks = self.sinks.iter().map(|row| format!("data sink {}", row.head.name));
        let credentials = self.credentials.iter().map(|row| format!("credential {}", row.head.name));
        let tables = self.tables.iter().map(|row| format!("table {}", row.head.name));
        sinks.chain(credentials).chain(tables).collect()
    }

    fn holds(&self, place: &Place) -> bool {
        place.object_type == ObjectType::DataSink && self.sinks.iter().any(|row| row.head.name.to_string() == place.name)
    }
}

impl Domain {
    /// Makes a schema.
    pub async fn create_schema(&self, cx: &OpContext, request: CreateSchema) -> Result<CreatedSchema, Problem> {
        let name = Name::parse_schema(&request.name).map_err(|fault| invalid_name("name", &fault))?;
        let ticket = self.ticket(cx, &request.request_id, &request, &[])?;
        change!(self, cx, ticket, false, |draft| {
            let permit = self.permit(cx, &Need::system(Permission::Create), &name).await?;
            draft.permits.push(permit);
            match draft.get::<SchemaRow>(name.as_str().as_bytes()).await? {
                Some(row) if request.if_not_exists => CreatedSchema { schema: row.view(self.object_counts(&row.name).await?), created: false },
                Some(_) => return Err(already_exists(ObjectType::Schema, &name)),
                None => {
                    let owner = cx.caller.principal.clone();
                    let row = SchemaRow { name: name.clone(), uid: self.0.ambient.ids.uuid(), owner: owner.clone(), created: self.0.ambient.now() };
                    draft.put(name.as_str().into(), &row)?;
                    self.own(&mut draft, &owner, ObjectType::Schema, Target::Schema(row.uid))?;
                    CreatedSchema { schema: row.view(BTreeMap::new()), created: true }
                }
            }
        })
    }

    /// Drops a schema; with `cascade` also what is in it, all in one transaction.
    pub async fn drop_schema(&self, cx: &OpContext, request: DropSchema) -> Result<DroppedSchema, Problem> {
        let name = Name::parse_schema(&request.name).map_err(|fault| invalid_name("name", &fault))?;
        let ticket = self.ticket(cx, &request.request_id, &request, &[])?;
        change!(self, cx, ticket, false, |draft| {
            let row = draft.get::<SchemaRow>(name.as_str().as_bytes()).await?;
            let need = Need { object_type: ObjectType::Schema, permission: Permission::Admin, schema: row.as_ref().map(|row| row.uid), object: None };
            let permit = self.permit(cx, &need, &name).await?;
            draft.permits.push(permit);
            match row {
                None if request.if_exists => DroppedSchema { dropped: false },
                None => return Err(schema_not_found(&name)),
                Some(row) => {
                    self.empty_and_drop(&mut draft, &row, request.cascade).await?;
                    DroppedSchema { dropped: true }
                }
            }
        })
    }

    async fn empty_and_drop(&self, draft: &mut Draft<'_>, row: &SchemaRow, cascade: bool) -> Result<(), Problem> {
        // Whoever puts an object into a schema changes its guard, so nothing can appear in it before the drop is stored.
        draft.guard(row.uid, false).await?;
        let contents = Contents::read(draft, &row.name).await?;
        let names = contents.names();
        if !cascade && !names.is_empty() {
            let message = format!("the schema {} is not empty: {} objects are in it; drop them first, or set cascade", row.name, names.len());
            let problem = Problem::new(Reason::SchemaNotEmpty, message).with("name", row.name.as_str()).with("count", names.len().to_string());
            return Err(with_users(problem, &names));
        }
        let used =
            contents.credentials.iter().map(|row| (ObjectType::Credential, &row.head)).chain(contents.tables.iter().map(|row| (ObjectType::Table, &row.head)));
        for (object_type, head) in used {
            let outside: Vec<String> = draft
                .users_of(head.uid)
                .await?
                .into_iter()
                .filter(|place| !contents.holds(place))
                .map(|place| format!("{} {}", place.object_type, place.name))
                .collect();
            if !outside.is_empty() {
                return Err(in_use(object_type, &head.name, &outside, "they are in other schemas: drop or alter them first"));
            }
        }
        for sink in &contents.sinks {
            self.remove_sink(draft, sink).await?;
        }
        for credential in &contents.credentials {
            self.remove_credential(draft, credential).await?;
        }
        for table in &contents.tables {
            self.remove_table(draft, table).await?;
        }
        self.drop_grants_on(draft, row.uid);
        draft.delete(GUARDS, row.uid.as_bytes().to_vec());
        draft.delete(SCHEMAS, row.name.as_str().into());
        draft.effects.push(Effect::Recheck);
        Ok(())
    }

    /// Shows one schema, or a page of those the caller may see.
    pub async fn show_schema(&self, cx: &OpContext, request: ShowSchema) -> Result<ShownSchemas, Problem> {
        self.refresh_rights().await?;
        let seen = self.schemas_seen(cx).await?;
        if !request.name.is_empty() && !request.name.contains('*') {
            let name = Name::parse_schema(&request.name).map_err(|fault| invalid_name("name", &fault))?;
            let row = self.row::<SchemaRow>(name.as_str().as_bytes()).await?;
            let need = Need { object_type: ObjectType::Schema, permission: Permission::Admin, schema: row.as_ref().map(|row| row.uid), object: None };
            if !row.as_ref().is_some_and(|row| seen.holds(row)) {
                self.permit(cx, &need, &name).await?;
            }
            let row = row.ok_or_else(|| schema_not_found(&name))?;
            let counts = self.object_counts(&row.name).await?;
            return Ok(ShownSchemas { schemas: vec![row.view(counts)], next_page_token: String::new() });
        }
        let glob = if request.name.is_empty() { "*" } else { &request.name };
        let page = request.page.open(&self.0.keys, &("schemas", &cx.caller.principal, glob))?;
        let (rows, next_page_token) = self
            .fill(SCHEMAS, b"", &page, |_, bytes| {
                let row: SchemaRow = catalog::decode(SCHEMAS, &bytes)?;
                Ok((seen.holds(&row) && glob_matches(glob, row.name.as_str())).then_some(row))
            })
            .await?;
        let mut schemas = Vec::with_capacity(rows.len());
        for row in rows {
            let counts = self.object_counts(&row.name).await?;
            schemas.push(row.view(counts));
        }
        Ok(ShownSchemas { schemas, next_page_token })
    }

    async fn object_counts(&self, schema: &Name) -> Result<BTreeMap<String, u64>, Problem> {
        let mut counts = BTreeMap::new();
        for (table, word) in CONTENTS {
            let count = catalog::scan_all(&*self.0.store, table, &contents_prefix(schema)).await?.len();
            if count > 0 {
                counts.insert(word.to_owned(), count as u64);
            }
        }
        Ok(counts)
    }

    /// Every schema's uid by its name.
    pub(super) async fn schema_uids(&self) -> Result<BTreeMap<Name, Uuid>, Problem> {
        let rows = catalog::scan_all(&*self.0.store, SCHEMAS, b"").await?;
        rows.iter().map(|(_, bytes)| catalog::decode::<SchemaRow>(SCHEMAS, bytes).map(|row| (row.name, row.uid))).collect()
    }

    /// Which schemas a caller sees: those with anything in them that the caller has a right on, one's own default schema and `default`.
    async fn schemas_seen(&self, cx: &OpContext) -> Result<Seen, Problem> {
        let caller = &cx.caller.principal;
        let (all, schemas, objects) = self.with_rights(|rights| held_targets(rights, caller));
        let mut names: BTreeSet<Name> = self.default_schema(cx).await?.into_iter().chain(Name::parse_schema(DEFAULT_SCHEMA)).collect();
        for object in objects {
            if let Some(place) = self.row::<Place>(object.as_bytes()).await?
                && let Some((schema, _)) = place.name.split_once('.')
            {
                names.extend(Name::parse_schema(schema));
            }
        }
        Ok(Seen { all, schemas, names })
    }
}

struct Seen {
    all: bool,
    schemas: BTreeSet<Uuid>,
    names: BTreeSet<Name>,
}

impl Seen {
    fn holds(&self, row: &SchemaRow) -> bool {
        self.all || self.schemas.contains(&row.uid) || self.names.contains(&row.name)
    }
}

/// What a principal's grants are on: everything, which schemas, which objects.
fn held_targets(rights: &Rights, principal: &PrincipalName) -> (bool, BTreeSet<Uuid>, BTreeSet<Uuid>) {
    let system = [Permission::Create, Permission::Read].iter().any(|permission| decide(rights, principal, &Need::system(*permission)).allowed());
    let (mut all, mut schemas, mut objects) = (system, BTreeSet::new(), BTreeSet::new());
    for reason in rights.held_by(principal) {
        match reason.key.target {
            Target::System => {}
            Target::Everywhere => all = true,
            Target::Schema(uid) => drop(schemas.insert(uid)),
            Target::Object(uid) => drop(objects.insert(uid)),
        }
    }
    (all, schemas, objects)
}
