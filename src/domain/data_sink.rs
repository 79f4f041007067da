//! Why: a data sink is a named destination, checked by connecting to it before it is stored. Never shows a secret and never writes a record.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::Arc,
};

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{
    Domain, OpContext,
    access::{Need, ObjectType, Permission, Target},
    already_exists,
    catalog::{self, DATA_SINKS, Draft, Effect, Head, Object, PLACES, Place, Row, STREAMS, name_key},
    change, config_problem,
    credential::{Bundle, CredentialRow, MASK, all_of, altered_options, option_faults, split_secrets, type_mismatch},
    page::Page,
    table::TableRow,
};
use crate::{
    clock::Timestamp,
    connectors::{
        connector::{ConnectContext, Connector, Descriptor, Probe, SinkKind, StepResult, StreamId},
        destination::Destination,
        options::{Bearing, OptionSpec, Options},
    },
    delivery::{DestinationStatus, Directive, DrainReason, LiveSession, Occasion, Which, problem_of},
    limits,
    name::{Name, PrincipalName, QualifiedName},
    problem::{Code, Problem, Reason},
    store::Table,
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

/// A data sink as it is stored; what is secret of it is sealed in a row of its own.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct SinkRow {
    pub head: Head,
    pub kind: SinkKind,
    /// Redacted; the whole one is sealed where it holds user information.
    pub destination: String,
    /// As given, without the secret ones.
    pub options: BTreeMap<String, String>,
    pub secret_options: BTreeSet<String>,
    /// By uid, so that it is found wherever it moves.
    pub credential: Option<Uuid>,
    /// The local table it writes to.
    pub table: Option<Uuid>,
    /// The generation at which it last began to write somewhere else.
    pub destination_generation: u64,
    /// Of what is sealed.
    pub secret_version: u64,
    pub last_check: Option<Probe>,
}

impl Row for SinkRow {
    const TABLE: Table = DATA_SINKS;
}

impl Object for SinkRow {
    const TYPE: ObjectType = ObjectType::DataSink;
    const NOT_FOUND: Reason = Reason::DataSinkNotFound;
    fn head(&self) -> &Head {
        &self.head
    }
}

pub(super) const SEAL_KIND: &str = "data_sink";
/// The longest wait for one reply, whatever `wait_timeout` says.
const REPLY_TIMEOUT_MAX: std::time::Duration = std::time::Duration::from_secs(30);
/// How long sessions of an altered sink get to settle what they have.
const ALTERED_GRACE: std::time::Duration = std::time::Duration::from_secs(5);

/// A sink as asked for, checked as far as that goes without connecting.
pub(super) struct Plan {
    pub name: QualifiedName,
    pub kind: SinkKind,
    pub destination: Destination,
    /// As given, secret ones included.
    given: BTreeMap<String, String>,
    pub options: Options,
    specs: &'static [OptionSpec],
    pub connector: Arc<dyn Connector>,
    credential: Option<CredentialRow>,
    table: Option<TableRow>,
}

impl Plan {
    fn skips_validation(&self) -> bool {
        self.options.flag("skip_validation")
    }
}

/// A destination and options that belong together, checked purely.
pub(super) struct Configured {
    pub kind: SinkKind,
    pub descriptor: &'static Descriptor,
    pub options: Options,
    pub connector: Arc<dyn Connector>,
}

impl Domain {
    /// Makes a data sink, connecting to its destination first.
    pub async fn create_data_sink(&self, cx: &OpContext, request: CreateDataSink) -> Result<CreatedDataSink, Problem> {
        let name = self.resolve(cx, "name", &request.name).await;
        let mut faults: Vec<Problem> = Vec::new();
        if request.or_replace && request.if_not_exists {
            faults.push(Problem::field("or_replace", Reason::InvalidField, "or_replace and if_not_exists exclude each other"));
        }
        let name = match name {
            Ok(name) => name,
            Err(fault) => {
                // The configuration is looked at all the same, so that every fault is told at once.
                faults.insert(0, fault);
                faults.extend(self.configured_faults(cx, &request.destination, &request.options).await?);
                return Err(all_of(faults));
            }
        };
        faults.extend(self.configured_faults(cx, &request.destination, &request.options).await?);
        if !faults.is_empty() {
            return Err(all_of(faults));
        }
        let ticket = self.ticket(cx, &request.request_id, &request, &[])?;
        if let Some(answer) = ticket.replay(self, &mut self.draft().await?).await? {
            return Ok(answer);
        }
        // Rights first: nobody learns about a destination, or whether a name is taken, who may not create there.
        let there: Option<SinkRow> = {
            let mut draft = self.draft().await?;
            self.schema_to_create_in(cx, &mut draft, ObjectType::DataSink, &name).await?;
            draft.get(&name_key(&name)).await?
        };
        if there.is_some() && !request.or_replace && !request.if_not_exists {
            return Err(already_exists(ObjectType::DataSink, &name));
        }
        let found_one = there.is_some() && request.if_not_exists;
        let (plan, check) = if found_one {
            (None, None)
        } else {
            let plan = self.plan(cx, &name, &request.destination, request.options.clone(), true).await?;
            let check = self.checked(cx, &plan).await?;
            (Some(plan), check)
        };
        change!(self, cx, ticket, request.validate_only, |draft| {
            let schema = self.schema_to_create_in(cx, &mut draft, ObjectType::DataSink, &name).await?;
            let old = draft.get::<SinkRow>(&name_key(&name)).await?;
            match (old, &plan) {
                (Some(row), _) if request.if_not_exists => {
                    let need =
                        Need { object_type: ObjectType::DataSink, permission: Permission::Connect, schema: Some(schema.uid), object: Some(row.head.uid) };
                    self.permit(cx, &need, &name).await?;
                    CreatedDataSink { data_sink: self.sink_view(&row).await?, created: false }
                }
                (Some(_), _) if !request.or_replace => return Err(already_exists(ObjectType::DataSink, &name)),
                // It was there a moment ago; the caller's next try makes it.
                (None, None) | (Some(_), None) => return Err(super::busy()),
                (old, Some(plan)) => {
                    let owner = match &old {
                        Some(old) => {
                            let need =
                                Need { object_type: ObjectType::DataSink, permission: Permission::Admin, schema: Some(schema.uid), object: Some(old.head.uid) };
                            draft.permits.push(self.permit(cx, &need, &name).await?);
                            old.head.owner.clone()
                        }
                        None => {
                            draft.guard(schema.uid, true).await?;
                            cx.caller.principal.clone()
                        }
                    };
                    self.recheck_plan(cx, &mut draft, plan, true).await?;
                    let row = self.put_sink(&mut draft, plan, old.as_ref(), &owner, check.clone()).await?;
                    CreatedDataSink { data_sink: self.view_of(&row, plan.credential.as_ref()), created: true }
                }
            }
        })
    }

    /// Changes a data sink, connecting to its new destination first; its sessions drain and open again.
    pub async fn alter_data_sink(&self, cx: &OpContext, request: AlterDataSink) -> Result<AlteredDataSink, Problem> {
        let name = self.resolve(cx, "name", &request.name).await?;
        if request.updates.is_empty() && request.unset.is_empty() {
            return Err(Problem::new(Reason::NothingToAlter, format!("the request changes nothing of the data sink {name}; name options in updates or unset")));
        }
        let ticket = self.ticket(cx, &request.request_id, &request, &[])?;
        if let Some(answer) = ticket.replay(self, &mut self.draft().await?).await? {
            return Ok(answer);
        }
        let old: SinkRow = self.fetch(cx, &name, Permission::Admin).await?;
        old.head.check_etag(&request.etag, ObjectType::DataSink)?;
        let bundle = self.read_bundle(&old.head, old.secret_version, SEAL_KIND).await?;
        let before = bundle.secret.clone().unwrap_or_else(|| old.destination.clone());
        let wanted = self.wanted(cx, &name, &request, &old, &bundle, &before).await?;
        let changes = Changes::between(self.specs_of(old.kind), &old, &bundle, &before, &wanted);
        if changes.none() && wanted.name == name {
            let view = self.sink_view(&old).await?;
            return Ok(AlteredDataSink { data_sink: view, changed: false });
        }
        let plan = self.plan(cx, &wanted.name, &wanted.destination, wanted.options.clone(), changes.asks_again).await?;
        let check = self.checked(cx, &plan).await?;
        change!(self, cx, ticket, request.validate_only, |draft| {
            let Some(row) = self.fetch_for_change::<SinkRow>(cx, &mut draft, &name, Permission::Admin, false).await? else {
                return Err(super::not_found::<SinkRow>(&name));
            };
            row.head.check_etag(&request.etag, ObjectType::DataSink)?;
            if row.head.etag() != old.head.etag() {
                // What was checked is not what would be stored.
                row.head.check_etag(&old.head.etag(), ObjectType::DataSink)?;
            }
            if wanted.name != name {
                self.make_room::<SinkRow>(cx, &mut draft, &name, &wanted.name).await?;
            }
            self.recheck_plan(cx, &mut draft, &plan, changes.asks_again).await?;
            let row = self.put_sink(&mut draft, &plan, Some(&row), &row.head.owner, check.clone()).await?;
            AlteredDataSink { data_sink: self.view_of(&row, plan.credential.as_ref()), changed: true }
        })
    }

    /// What an alter asks the sink to become.
    async fn wanted(
        &self,
        cx: &OpContext,
        name: &QualifiedName,
        request: &AlterDataSink,
        old: &SinkRow,
        bundle: &Bundle,
        before: &str,
    ) -> Result<Wanted, Problem> {
        let mut faults = Vec::new();
        let mut updates = request.updates.clone();
        let destination = updates.remove("destination").unwrap_or_else(|| before.to_owned());
        let target = match updates.remove("schema_name") {
            None => name.clone(),
            Some(schema) => self.moved(cx, name, &schema).await?,
        };
        let specs = self.specs_of(old.kind);
        for (index, key) in request.unset.iter().enumerate() {
            let field = format!("unset[{index}]");
            if key == "destination" || key == "schema_name" {
                faults.push(Problem::field(field, Reason::InvalidField, format!("a sink always has a {key}; set another one instead")));
            } else if !specs.iter().any(|spec| spec.name == key) && !old.options.contains_key(key) {
                let near = crate::connectors::options::did_you_mean(key, specs.iter().map(|spec| spec.name));
                let hint = near.map(|near| format!("; did you mean {near:?}?")).unwrap_or_default();
                let fault = Problem::field(field, Reason::UnknownOption, format!("unknown option {key:?} for a {} sink{hint}", old.kind));
                let fault = fault.with("option", key.clone()).with("kind", old.kind.as_str());
                faults.push(near.map(|near| fault.clone().with("did_you_mean", near)).unwrap_or(fault));
            }
        }
        let options = altered_options(&old.options, &bundle.options, &updates, &request.unset, &mut faults);
        faults.extend(self.configured_faults(cx, &destination, &options).await?);
        if !faults.is_empty() {
            return Err(all_of(faults));
        }
        Ok(Wanted { name: target, destination, options })
    }

    /// Drops a data sink; its sessions end. Nothing at the destination is touched.
    pub async fn drop_data_sink(&self, cx: &OpContext, request: DropDataSink) -> Result<DroppedDataSink, Problem> {
        let name = self.resolve(cx, "name", &request.name).await?;
        let ticket = self.ticket(cx, &request.request_id, &request, &[])?;
        change!(self, cx, ticket, request.validate_only, |draft| {
            match self.fetch_for_change::<SinkRow>(cx, &mut draft, &name, Permission::Admin, request.if_exists).await? {
                None => DroppedDataSink::default(),
                Some(row) => {
                    row.head.check_etag(&request.etag, ObjectType::DataSink)?;
                    self.remove_sink(&mut draft, &row).await?;
                    DroppedDataSink { dropped: true, cleared_table_monitors: Vec::new() }
                }
            }
        })
    }

    /// Removes a sink, what is known of its streams, and everything that is only about it.
    pub(super) async fn remove_sink(&self, draft: &mut Draft<'_>, row: &SinkRow) -> Result<(), Problem> {
        for used in [row.credential, row.table].into_iter().flatten() {
            draft.end_use(used, row.head.uid).await?;
        }
        self.remove_object(draft, row).await?;
        self.delete_bundle(draft, &row.head, row.secret_version);
        for (key, _) in draft.scan(STREAMS, row.head.uid.as_bytes()).await? {
            draft.delete(STREAMS, key);
        }
        draft.effects.push(Effect::Tell(Which::Sink(row.head.uid), Directive::Stop(super::not_found::<SinkRow>(&row.head.name))));
        if let Some(table) = row.table {
            draft.effects.push(Effect::StreamsDropped(table, StreamId::beginning(self.0.cluster, row.head.uid)));
        }
        Ok(())
    }

    /// Shows one sink, or a page of those the caller may see.
    pub async fn show_data_sink(&self, cx: &OpContext, request: ShowDataSink) -> Result<ShownDataSinks, Problem> {
        let wanted = |row: &SinkRow| request.kind.is_none_or(|kind| kind == row.kind);
        let (rows, next_page_token) = self.show::<SinkRow>(cx, "data_sinks", &request.name, &request.page, &request.kind, wanted).await?;
        let mut data_sinks = Vec::with_capacity(rows.len());
        for row in rows {
            data_sinks.push(self.sink_view(&row).await?);
        }
        Ok(ShownDataSinks { data_sinks, next_page_token })
    }

    /// Tries a sink, step by step; `Ok` also where a step failed. A proposed one needs the right to create sinks in the caller's default schema.
    pub async fn test_data_sink(&self, cx: &OpContext, request: TestDataSink) -> Result<Probe, Problem> {
        if request.name.is_empty() {
            return self.test_proposed(cx, &request).await;
        }
        if !request.destination.is_empty() || !request.options.is_empty() {
            return Err(Problem::field("destination", Reason::InvalidField, "give the name of a stored sink, or a destination with options, not both"));
        }
        let name = self.resolve(cx, "name", &request.name).await?;
        let row: SinkRow = self.fetch(cx, &name, Permission::Connect).await?;
        let (connector, connect) = self.connection(cx, &row).await?;
        let probe = connector.probe(&connect, request.write_probe).await;
        let tested = SinkRow { last_check: Some(probe.clone()), ..row.clone() };
        let key = name_key(&name);
        let note =
            crate::store::Transaction::new().expect(DATA_SINKS, key.clone(), Some(catalog::encode(&row)?)).put(DATA_SINKS, key, catalog::encode(&tested)?);
        // A convenience for Show: that the sink changed meanwhile is no reason to withhold the answer.
        if let Err(error) = self.0.store.transact(note).await {
            tracing::debug!(%error, "the last check of a sink was not noted");
        }
        Ok(probe)
    }

    async fn test_proposed(&self, cx: &OpContext, request: &TestDataSink) -> Result<Probe, Problem> {
        let faults = self.configured_faults(cx, &request.destination, &request.options).await?;
        if !faults.is_empty() {
            return Err(all_of(faults));
        }
        let name = self.resolve(cx, "name", "proposed").await?;
        let mut draft = self.draft().await?;
        self.schema_to_create_in(cx, &mut draft, ObjectType::DataSink, &name).await?;
        drop(draft);
        let plan = self.plan(cx, &name, &request.destination, request.options.clone(), true).await?;
        let connect = self.connect_context(cx, &plan.name, plan.credential.as_ref(), &plan.options).await?;
        Ok(plan.connector.probe(&connect, request.write_probe).await)
    }

    /// The kinds of sink this server has, and every option each one knows. Any authenticated caller may ask.
    pub async fn show_sink_kinds(&self, _: &OpContext, request: ShowSinkKinds) -> Result<Vec<&'static Descriptor>, Problem> {
        Ok(self.0.kinds.iter().map(|kind| kind.descriptor()).filter(|descriptor| request.kind.is_none_or(|kind| kind == descriptor.kind)).collect())
    }

    /// Everything that is wrong with a destination and options by themselves.
    async fn configured_faults(&self, cx: &OpContext, destination: &str, given: &BTreeMap<String, String>) -> Result<Vec<Problem>, Problem> {
        let default = self.default_schema(cx).await?;
        let mut faults = option_faults("options", given);
        if let Err(found) = self.configured(destination, given, default.as_ref()) {
            faults.extend(found);
        }
        Ok(faults)
    }

    /// Reads a destination and options; a table's name without a schema gets `default`'s.
    pub(super) fn configured(&self, destination: &str, given: &BTreeMap<String, String>, default: Option<&Name>) -> Result<Configured, Vec<Problem>> {
        let destination = parse_destination(destination, default).map_err(|fault| vec![fault])?;
        let kind = self.0.kinds.of(&destination).map_err(|fault| vec![config_problem(fault)])?;
        let descriptor = kind.descriptor();
        if let Some(reason) = descriptor.unavailable {
            let problem = Problem::new(Reason::KindUnsupported, format!("{} sinks cannot be used here: {reason}", descriptor.kind));
            return Err(vec![problem.with("kind", descriptor.kind.as_str())]);
        }
        let options = Options::check(descriptor.kind.as_str(), descriptor.options, given);
        let mut faults: Vec<Problem> = Vec::new();
        if let Some(credential) = given.get("credential")
            && let Err(fault) = QualifiedName::parse(credential, default)
        {
            faults.push(super::invalid_name("options[\"credential\"]", &fault));
        }
        match options {
            Err(found) => Err(faults.into_iter().chain(found.into_iter().map(config_problem)).collect()),
            Ok(options) => match kind.configure(&destination, &options) {
                Ok(connector) if faults.is_empty() => Ok(Configured { kind: descriptor.kind, descriptor, options, connector }),
                Ok(_) => Err(faults),
                Err(found) => Err(faults.into_iter().chain(found.into_iter().map(config_problem)).collect()),
            },
        }
    }

    /// A sink as asked for: configured, its credential and table found. With `ask`, the caller needs the right to use them now.
    pub(super) async fn plan(
        &self,
        cx: &OpContext,
        name: &QualifiedName,
        destination: &str,
        given: BTreeMap<String, String>,
        ask: bool,
    ) -> Result<Plan, Problem> {
        let default = self.default_schema(cx).await?;
        let Configured { kind, descriptor, options, connector } = self.configured(destination, &given, default.as_ref()).map_err(all_of)?;
        let destination = parse_destination(destination, default.as_ref())?;
        let credential = match given.get("credential") {
            None => None,
            Some(text) => {
                let used = QualifiedName::parse(text, default.as_ref()).map_err(|fault| super::invalid_name("options[\"credential\"]", &fault))?;
                let row = self.referred::<CredentialRow>(cx, &used, Permission::Read, name, ask).await?;
                if !descriptor.credential_types.contains(&row.credential_type) || !connector.accepts(row.credential_type) {
                    return Err(type_mismatch(&used, row.credential_type, kind.as_str(), descriptor.credential_types));
                }
                Some(row)
            }
        };
        let table = match connector.table() {
            None => None,
            Some(text) => {
                let used = QualifiedName::parse(text, default.as_ref()).map_err(|fault| super::invalid_name("destination", &fault))?;
                Some(self.referred::<TableRow>(cx, &used, Permission::Insert, name, ask).await?)
            }
        };
        Ok(Plan { name: name.clone(), kind, destination, given, options, specs: descriptor.options, connector, credential, table })
    }

    /// An object that a sink refers to. Absent, it is a precondition of the sink, not what the caller asked for.
    async fn referred<T: Object>(&self, cx: &OpContext, used: &QualifiedName, permission: Permission, by: &QualifiedName, ask: bool) -> Result<T, Problem> {
        self.refresh_rights().await?;
        let (need, row) = self.need::<T>(used, permission).await?;
        if ask {
            self.permit(cx, &need, used).await?;
        }
        row.ok_or_else(|| referred_not_found::<T>(used, by))
    }

    /// Makes what a plan rests on a condition of the change: the same credential and table, and, with `ask`, still the right to use them.
    async fn recheck_plan(&self, cx: &OpContext, draft: &mut Draft<'_>, plan: &Plan, ask: bool) -> Result<(), Problem> {
        if let Some(credential) = &plan.credential {
            self.same::<CredentialRow>(cx, draft, &credential.head, Permission::Read, &plan.name, ask).await?;
        }
        if let Some(table) = &plan.table {
            self.same::<TableRow>(cx, draft, &table.head, Permission::Insert, &plan.name, ask).await?;
        }
        Ok(())
    }

    async fn same<T: Object>(
        &self,
        cx: &OpContext,
        draft: &mut Draft<'_>,
        seen: &Head,
        permission: Permission,
        by: &QualifiedName,
        ask: bool,
    ) -> Result<(), Problem> {
        let row = if ask { self.fetch_for_change::<T>(cx, draft, &seen.name, permission, true).await? } else { draft.get::<T>(&name_key(&seen.name)).await? };
        match row {
            Some(row) if row.head().uid == seen.uid => Ok(()),
            _ => Err(referred_not_found::<T>(&seen.name, by)),
        }
    }

    /// Connects, unless the sink says not to; a step that fails is the failure of the call.
    async fn checked(&self, cx: &OpContext, plan: &Plan) -> Result<Option<Probe>, Problem> {
        if plan.skips_validation() {
            return Ok(None);
        }
        let connect = self.connect_context(cx, &plan.name, plan.credential.as_ref(), &plan.options).await?;
        let probe = plan.connector.probe(&connect, false).await;
        let failed = probe.steps.iter().find_map(|step| match &step.result {
            StepResult::Failed { error, .. } => Some((step, error)),
            StepResult::Passed | StepResult::Skipped => None,
        });
        let Some((step, error)) = failed else { return Ok(Some(probe)) };
        let address = step.details.iter().find(|(key, _)| key == "address").map(|(_, address)| address.clone());
        let mut problem = problem_of(error, Occasion::Check, &plan.name, plan.destination.redacted()).with("step", step.name.clone());
        if let Some(address) = address.filter(|_| !problem.metadata.iter().any(|(key, _)| *key == "address")) {
            problem = problem.with("address", address);
        }
        Err(problem)
    }

    /// What a connector needs to connect now. The audit log has a line of every credential that is opened for it.
    async fn connect_context(
        &self,
        cx: &OpContext,
        name: &QualifiedName,
        credential: Option<&CredentialRow>,
        options: &Options,
    ) -> Result<ConnectContext, Problem> {
        let credential = match credential {
            Some(row) => {
                self.note_use(cx, &row.head.name, row.secret_version, name).await?;
                Some(self.open_credential(row).await?)
            }
            None => None,
        };
        Ok(ConnectContext {
            sink: name.clone(),
            credential,
            egress: self.0.egress.clone(),
            ambient: self.0.ambient.clone(),
            connection_timeout: options.seconds("connection_timeout").unwrap_or(limits::CONNECTION_TIMEOUT),
            reply_timeout: options.seconds("wait_timeout").unwrap_or(limits::WAIT_TIMEOUT).min(REPLY_TIMEOUT_MAX),
        })
    }

    /// A stored sink's connector and what it needs, with the credential as it is now.
    pub(super) async fn connection(&self, cx: &OpContext, row: &SinkRow) -> Result<(Arc<dyn Connector>, ConnectContext), Problem> {
        let configured = self.stored(row).await?;
        let credential = match row.credential {
            Some(uid) => Some(self.credential_by_uid(uid, &row.head.name).await?),
            None => None,
        };
        let connect = self.connect_context(cx, &row.head.name, credential.as_ref(), &configured.options).await?;
        Ok((configured.connector, connect))
    }

    /// A stored sink's configuration, with its secrets in place.
    pub(super) async fn stored(&self, row: &SinkRow) -> Result<Configured, Problem> {
        let bundle = self.read_bundle(&row.head, row.secret_version, SEAL_KIND).await?;
        let destination = bundle.secret.as_deref().unwrap_or(&row.destination);
        let given = row.options.iter().chain(&bundle.options).map(|(key, value)| (key.clone(), value.clone())).collect();
        self.configured(destination, &given, Some(&row.head.name.schema)).map_err(all_of)
    }

    async fn credential_by_uid(&self, uid: Uuid, by: &QualifiedName) -> Result<CredentialRow, Problem> {
        let place: Option<Place> = self.row(uid.as_bytes()).await?;
        let row: Option<CredentialRow> = match place {
            Some(place) => self.row(place.name.as_bytes()).await?,
            None => None,
        };
        row.filter(|row| row.head.uid == uid).ok_or_else(|| {
            let message = format!("the credential of the data sink {by} is gone; give it another one");
            Problem::new(Reason::CredentialNotFound, message).code(Code::FailedPrecondition).with("referred_by", by.to_string())
        })
    }

    /// A sink by its uid, wherever it moved.
    pub(super) async fn sink_by_uid(&self, uid: Uuid) -> Result<Option<SinkRow>, Problem> {
        let Some(place) = self.row::<Place>(uid.as_bytes()).await? else { return Ok(None) };
        Ok(self.row::<SinkRow>(place.name.as_bytes()).await?.filter(|row| row.head.uid == uid))
    }

    fn specs_of(&self, kind: SinkKind) -> &'static [OptionSpec] {
        self.0.kinds.get(kind).map(|kind| kind.descriptor().options).unwrap_or_default()
    }

    async fn put_sink(
        &self,
        draft: &mut Draft<'_>,
        plan: &Plan,
        old: Option<&SinkRow>,
        owner: &PrincipalName,
        check: Option<Probe>,
    ) -> Result<SinkRow, Problem> {
        let head = self.next_head(old.map(|row| &row.head), &plan.name, owner);
        let (options, secret_options) = split_secrets(plan.specs, plan.given.clone());
        let full = plan.destination.secret().and_then(|secret| secret.expose_text()).map(str::to_owned);
        let bundle = Bundle { secret: full, options: secret_options };
        let (credential, table) = (plan.credential.as_ref().map(|row| row.head.uid), plan.table.as_ref().map(|row| row.head.uid));
        let elsewhere = old.is_none_or(|old| {
            old.destination != plan.destination.redacted() || old.kind != plan.kind || places(plan.specs, &old.options) != places(plan.specs, &options)
        });
        let row = SinkRow {
            kind: plan.kind,
            destination: plan.destination.redacted().to_owned(),
            options,
            secret_options: bundle.options.keys().cloned().collect(),
            credential,
            table,
            destination_generation: if elsewhere { head.generation } else { old.map_or(head.generation, |old| old.destination_generation) },
            secret_version: old.map_or(1, |old| old.secret_version + 1),
            last_check: check.or_else(|| old.filter(|_| !elsewhere).and_then(|old| old.last_check.clone())),
            head,
        };
        let place = Place { object_type: ObjectType::DataSink, name: row.head.name.to_string() };
        if let Some(old) = old {
            self.delete_bundle(draft, &old.head, old.secret_version);
            for used in [old.credential, old.table].into_iter().flatten() {
                draft.end_use(used, old.head.uid).await?;
            }
            let drain = Directive::Drain { reason: DrainReason::SinkAltered, grace: ALTERED_GRACE };
            draft.effects.push(Effect::Tell(Which::Sink(old.head.uid), drain));
        } else {
            self.own(draft, owner, ObjectType::DataSink, Target::Object(row.head.uid))?;
        }
        for used in [credential, table].into_iter().flatten() {
            draft.add_use(used, row.head.uid, &place).await?;
        }
        self.put_bundle(draft, &row.head, row.secret_version, SEAL_KIND, &bundle)?;
        draft.put(name_key(&row.head.name), &row)?;
        draft.put_bytes(PLACES, row.head.uid.as_bytes().to_vec(), catalog::encode(&place)?);
        Ok(row)
    }

    async fn sink_view(&self, row: &SinkRow) -> Result<DataSinkView, Problem> {
        let credential = match row.credential {
            Some(uid) => self.row::<Place>(uid.as_bytes()).await?.and_then(|place| QualifiedName::parse(&place.name, None).ok()),
            None => None,
        };
        Ok(self.view_with(row, credential))
    }

    fn view_of(&self, row: &SinkRow, credential: Option<&CredentialRow>) -> DataSinkView {
        self.view_with(row, credential.map(|row| row.head.name.clone()))
    }

    fn view_with(&self, row: &SinkRow, credential: Option<QualifiedName>) -> DataSinkView {
        let live: Vec<LiveSession> = self.0.sessions.live().into_iter().filter(|session| session.sink.uid == row.head.uid).collect();
        let masked = row.secret_options.iter().map(|name| (name.clone(), MASK.to_owned()));
        DataSinkView {
            name: row.head.name.clone(),
            uid: row.head.uid,
            kind: row.kind,
            destination: row.destination.clone(),
            options: row.options.clone().into_iter().chain(masked).collect(),
            credential,
            owner: row.head.owner.clone(),
            generation: row.head.generation,
            etag: row.head.etag(),
            created: row.head.created,
            updated: row.head.updated,
            last_check: row.last_check.clone(),
            live_sessions: live.len() as u64,
            // The worst that any session sees: one refused stream must not hide behind a healthy one.
            status: live.into_iter().filter_map(|session| session.destination).max_by_key(|status| status.state as u8),
            dependents: Vec::new(),
        }
    }
}

struct Wanted {
    name: QualifiedName,
    destination: String,
    options: BTreeMap<String, String>,
}

/// What an alter changes, by what it asks for.
struct Changes {
    any: bool,
    /// Something that decides where the credential's secret goes, or how safely.
    asks_again: bool,
}

impl Changes {
    fn between(specs: &[OptionSpec], old: &SinkRow, bundle: &Bundle, before: &str, wanted: &Wanted) -> Self {
        let given: BTreeMap<&String, &String> = old.options.iter().chain(&bundle.options).collect();
        let keys: BTreeSet<&String> = given.keys().copied().chain(wanted.options.keys()).collect();
        let changed: Vec<&String> = keys.into_iter().filter(|key| given.get(*key).copied() != wanted.options.get(*key)).collect();
        let moved = wanted.destination != before;
        Self { any: moved || !changed.is_empty(), asks_again: moved || changed.iter().any(|key| bearing(specs, key) != Bearing::Manner) }
    }

    fn none(&self) -> bool {
        !self.any
    }
}

/// The options that say where records go.
fn places<'a>(specs: &[OptionSpec], options: &'a BTreeMap<String, String>) -> Vec<(&'a String, &'a String)> {
    options.iter().filter(|(key, _)| bearing(specs, key) == Bearing::Place).collect()
}

/// What a change of an option means; one that the kind no longer knows may be anything.
fn bearing(specs: &[OptionSpec], key: &str) -> Bearing {
    specs.iter().find(|spec| spec.name == key).map_or(Bearing::Place, |spec| spec.bearing)
}

/// Reads a destination; `table://name` becomes `table://schema.name`.
fn parse_destination(text: &str, default: Option<&Name>) -> Result<Destination, Problem> {
    let destination = Destination::parse(text).map_err(config_problem)?;
    match default {
        Some(schema) if destination.scheme() == "table" && !destination.rest().is_empty() && !destination.rest().contains('.') => {
            Destination::parse(&format!("table://{schema}.{}", destination.rest())).map_err(config_problem)
        }
        _ => Ok(destination),
    }
}

fn referred_not_found<T: Object>(used: &QualifiedName, by: &QualifiedName) -> Problem {
    let message = format!("the {} {used}, which the data sink {by} refers to, does not exist; create it first", T::TYPE);
    Problem::new(T::NOT_FOUND, message).code(Code::FailedPrecondition).with("name", used.to_string()).with("referred_by", by.to_string()).precondition(
        if T::TYPE == ObjectType::Credential { "CREDENTIAL" } else { "TABLE" },
        used,
        "it must exist",
    )
}
