//! Why: what a data sink, a credential, a grant, a table *is*, and who may do what with it: authorize, name, resolve, persist. Never knows a transport.

pub mod access;
mod audit;
mod catalog;
pub mod credential;
pub mod data_sink;
pub mod grant;
mod idempotency;
mod keys;
pub mod page;
mod password;
pub mod principal;
pub mod push;
mod rekey;
pub mod schema;
pub mod server;
mod sessions;
pub mod table;
#[cfg(test)]
mod tests;
pub mod token;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    path::PathBuf,
    sync::{Arc, Mutex, RwLock},
};

use serde::Serialize;
use uuid::Uuid;

use self::{
    access::{ADMIN, Decision, GrantFacts, GrantKey, Need, PUBLIC, Rights, Target},
    audit::{Audit, Line},
    catalog::{Draft, Effect, META, Object, Permit},
    idempotency::Ticket,
    keys::Keys,
    password::Passwords,
    principal::PrincipalRow,
    schema::SchemaRow,
};
use crate::{
    clock::{Ambient, Timestamp},
    connectors::{
        Kinds,
        egress::Egress,
        options::{ConfigFault, ConfigFaultKind},
    },
    name::{Name, NameError, PrincipalName, QualifiedName},
    problem::{Problem, Reason},
    secret::Secret,
    store::{SharedStore, rows::Rows},
    vault::{SealContext, Sealed, Vault, VaultError},
};

pub use self::{
    access::{ObjectType, Permission},
    audit::AuditVerified,
    catalog::CATALOGUE_TABLES,
    credential::*,
    data_sink::*,
    grant::*,
    page::Page,
    principal::*,
    push::*,
    rekey::Rekeyed,
    schema::*,
    server::*,
    sessions::Sessions,
    table::*,
    token::*,
};

/// Who calls, through what, and in which words; made once a call by `api/authn`.
#[derive(Debug, Clone)]
pub struct OpContext {
    /// The authenticated caller.
    pub caller: Caller,
    /// Where a name without a schema lands: metadata `x-datasink-schema`, else the principal's own.
    pub default_schema: Option<Name>,
    /// Address of the connection, for the audit log.
    pub peer: String,
    /// The RPC's name, `Service/Method`, for the audit log.
    pub rpc: &'static str,
    /// The caller's `x-request-id` or a made one, for logs.
    pub call_id: String,
}

/// An authenticated caller.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    /// The principal; `anonymous` where nobody was proved.
    pub principal: PrincipalName,
    /// What proved it.
    pub source: IdentitySource,
    /// The proven identity: a SPIFFE id, a subject name, a token's id; may be empty.
    pub identity: String,
    /// When the proof ends, where it does: a stream opened with it ends then.
    pub expires: Option<Timestamp>,
}

/// What told the server who the caller is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IdentitySource {
    /// Nothing.
    Anonymous,
    /// The caller's own TLS certificate.
    ClientCertificate,
    /// `x-forwarded-client-cert` from a trusted proxy.
    ForwardedCertificate,
    /// `l5d-client-id` from a trusted proxy.
    Linkerd,
    /// `authorization: Bearer`.
    Token,
    /// `authorization: Basic`.
    Password,
}

/// What a caller presented, in order of preference; `api/authn` finds it, [`Domain`] judges it.
#[derive(Debug)]
pub enum Presented {
    /// Nothing at all.
    Nothing,
    /// A verified certificate's identity: its SPIFFE URI, else its subject.
    Certificate(String),
    /// The same, told by a trusted proxy.
    Forwarded(String),
    /// A Linkerd identity, told by a trusted proxy.
    Linkerd(String),
    /// `authorization: Bearer`.
    Bearer(Secret),
    /// `authorization: Basic`.
    Basic {
        /// The user.
        user: String,
        /// The password.
        password: Secret,
    },
}

/// The schema that is there from the first start.
pub const DEFAULT_SCHEMA: &str = "default";
/// How often a change is made anew when what it rests on changed meanwhile.
const ATTEMPTS: usize = 16;

/// What the process decides about the catalogue.
#[derive(Debug, Clone, Default)]
pub struct Settings {
    /// Whoever proves nothing is `admin`. Only ever on loopback; the listener sees to that.
    pub insecure_anonymous_admin: bool,
    /// Environment variables of the server that a credential may refer to, by their very names.
    pub secret_environment: BTreeSet<String>,
    /// Folders of the server whose files a credential may refer to.
    pub secret_folders: Vec<PathBuf>,
    /// What checking a password costs.
    pub passwords: PasswordCost,
}

/// What checking a password costs, and how many are checked at once.
#[derive(Debug, Clone, Copy)]
pub struct PasswordCost {
    /// Memory of one check, in KiB.
    pub memory_kib: u32,
    /// Passes over it.
    pub passes: u32,
    /// Checks at once; the memory of all is bounded by it.
    pub at_once: usize,
}

impl Default for PasswordCost {
    /// OWASP's first choice for Argon2id: 19 MiB, two passes.
    fn default() -> Self {
        Self { memory_kib: 19 * 1024, passes: 2, at_once: 4 }
    }
}

/// What the catalogue is made of.
#[derive(Debug)]
pub struct DomainParts {
    /// Where everything is kept.
    pub store: SharedStore,
    /// Seals secrets.
    pub vault: Vault,
    /// The table of kinds.
    pub kinds: Kinds,
    /// The address filter.
    pub egress: Arc<Egress>,
    /// Clock and ids.
    pub ambient: Ambient,
    /// Local tables, over the same store.
    pub rows: Rows,
    /// What the store knows of streams; the engine of Push has the same one.
    pub progress: Arc<KeptProgress>,
    /// Open sessions.
    pub sessions: Arc<dyn Sessions>,
    /// The audit log's file.
    pub audit: PathBuf,
    /// What the process decides.
    pub settings: Settings,
}

/// The façade that `api` calls: one method an RPC. Cheap to clone.
#[derive(Clone)]
pub struct Domain(Arc<Inner>);

struct Inner {
    store: SharedStore,
    rows: Rows,
    vault: Vault,
    kinds: Kinds,
    egress: Arc<Egress>,
    ambient: Ambient,
    audit: Audit,
    settings: Settings,
    keys: Keys,
    cluster: Uuid,
    instance: Uuid,
    started: Timestamp,
    rights: RwLock<Rights>,
    /// One change of the catalogue at a time in this process: others would only meet conflicts. Never held while a destination is asked.
    turn: tokio::sync::Mutex<()>,
    passwords: Passwords,
    progress: Arc<KeptProgress>,
    sessions: Arc<dyn Sessions>,
    /// Request ids of `PushOnce` calls that are being written.
    once_running: Mutex<BTreeSet<String>>,
    /// Streams by the id of the access token they were opened with.
    opened_with: Mutex<BTreeMap<crate::connectors::connector::StreamId, String>>,
}

impl fmt::Debug for Domain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Domain").field("cluster", &self.0.cluster).finish_non_exhaustive()
    }
}

/// Runs a change of the catalogue: replays a known request, else makes the change in `$draft` and stores it with its answer, anew where what it rests on changed meanwhile.
macro_rules! change {
    ($domain:expr, $cx:expr, $ticket:expr, $dry:expr, |$draft:ident| $body:expr) => {{
        let _turn = $domain.0.turn.lock().await;
        let mut attempt = 1;
        loop {
            let mut $draft = $domain.draft().await?;
            if let Some(answer) = $ticket.replay($domain, &mut $draft).await? {
                break Ok(answer);
            }
            let answer = $body;
            if $domain.commit($cx, &$ticket, $draft, &answer, $dry).await? {
                break Ok(answer);
            }
            attempt += 1;
            if attempt > $crate::domain::ATTEMPTS {
                break Err($crate::domain::busy());
            }
        }
    }};
}
pub(crate) use change;

fn busy() -> Problem {
    Problem::new(Reason::StoreUnavailable, "the catalogue changes too fast for this change to be made; try again")
        .retry_after(std::time::Duration::from_secs(1))
}

impl Domain {
    /// Opens the catalogue, or makes it: the cluster's id and keys, the schema `default`, the user `admin`, the role `public`.
    pub async fn start(parts: DomainParts) -> Result<Self, Problem> {
        let DomainParts { store, vault, kinds, egress, ambient, rows, progress, sessions, audit, settings } = parts;
        let (cluster, master) = found(&store, &vault, &ambient).await?;
        let keys = Keys::from_master(&master);
        let audit = Audit::open(&audit, keys.audit(), ambient.clone())?;
        let rights = catalog::load_rights(&*store).await?;
        let inner = Inner {
            rows,
            progress,
            sessions,
            passwords: Passwords::new(settings.passwords),
            instance: ambient.ids.uuid(),
            started: ambient.now(),
            store,
            vault,
            kinds,
            egress,
            ambient,
            audit,
            settings,
            keys,
            cluster,
            rights: RwLock::new(rights),
            turn: tokio::sync::Mutex::new(()),
            once_running: Mutex::default(),
            opened_with: Mutex::default(),
        };
        let domain = Self(Arc::new(inner));
        domain.furnish().await?;
        domain.0.rows.resume_drops().await.map_err(catalog::store_problem)?;
        domain.forget_old_answers().await?;
        Ok(domain)
    }

    /// Makes what must always be there, where it is not.
    async fn furnish(&self) -> Result<(), Problem> {
        let now = self.0.ambient.now();
        let admin = PrincipalName::parse(ADMIN).expect("a principal's name");
        let public = PrincipalName::parse(PUBLIC).expect("a principal's name");
        let default = Name::parse_schema(DEFAULT_SCHEMA).expect("a schema's name");
        for _ in 0..ATTEMPTS {
            let mut draft = self.draft().await?;
            if draft.get::<SchemaRow>(default.as_str().as_bytes()).await?.is_none() && draft.get::<PrincipalRow>(admin.as_str().as_bytes()).await?.is_none() {
                draft.put(default.as_str().into(), &SchemaRow { name: default.clone(), uid: self.0.ambient.ids.uuid(), owner: admin.clone(), created: now })?;
            }
            for (name, kind) in [(&admin, PrincipalKind::User), (&public, PrincipalKind::Role)] {
                if draft.get::<PrincipalRow>(name.as_str().as_bytes()).await?.is_none() {
                    draft.put_principal(&PrincipalRow::new(name.clone(), kind, self.0.ambient.ids.uuid(), Some(default.clone()), now))?;
                }
            }
            let key = GrantKey { principal: admin.clone(), object_type: ObjectType::System, target: Target::System, permission: Permission::Admin };
            if !self.with_rights(|rights| rights.grants.contains_key(&key)) {
                draft.put_grant(key, GrantFacts { with_grant_option: true, grantor: admin.clone(), created: now })?;
            }
            if draft.is_empty() || self.store_draft(draft).await? {
                return Ok(());
            }
        }
        Err(busy())
    }

    /// This installation's id.
    pub fn cluster(&self) -> Uuid {
        self.0.cluster
    }

    /// This process, new with every start.
    pub fn instance(&self) -> String {
        self.0.instance.to_string()
    }

    /// Reads the audit log at `path` and compares it with its chain and with what the store last saw of it.
    pub async fn verify_audit(&self, path: &std::path::Path) -> Result<AuditVerified, Problem> {
        let kept = self.0.store.get(META, AUDIT_HEAD).await.map_err(catalog::store_problem)?;
        let kept: Option<audit::Head> = kept.map(|bytes| catalog::decode(META, &bytes)).transpose()?;
        let (path, key) = (path.to_owned(), self.0.keys.audit());
        let verified = tokio::task::spawn_blocking(move || Audit::verify(&path, &key, kept.as_ref())).await;
        verified
            .map_err(|fault| fault.to_string())
            .and_then(|read| read.map_err(|fault| fault.to_string()))
            .map_err(|fault| Problem::new(Reason::InvalidField, format!("the audit log cannot be read: {fault}")))
    }

    /// The audit log's file.
    pub fn audit_path(&self) -> &std::path::Path {
        self.0.audit.path()
    }

    /// Judges, and notes a refusal in the audit log. `object` is the name as the caller gave it, resolved.
    async fn permit(&self, cx: &OpContext, need: &Need, object: &(dyn fmt::Display + Sync)) -> Result<Permit, Problem> {
        let decision = self.with_rights(|rights| access::decide(rights, &cx.caller.principal, need));
        self.judged(cx, need, object, decision).await
    }

    async fn judged(&self, cx: &OpContext, need: &Need, object: &(dyn fmt::Display + Sync), decision: Decision) -> Result<Permit, Problem> {
        if let Some(reason) = decision.because.first() {
            return Ok(Permit { object_type: need.object_type, object: object.to_string(), permission: need.permission, rule: reason.in_words() });
        }
        let problem = denied(&cx.caller.principal, need, object);
        self.refused(cx, need.object_type, object, format!("needs {}", need.permission)).await;
        Err(problem)
    }

    /// Notes a refusal; that it cannot be noted does not make the refusal an acceptance, so it is only logged.
    async fn refused(&self, cx: &OpContext, object_type: ObjectType, object: &(dyn fmt::Display + Sync), rule: String) {
        let line =
            Line { object_type: object_type.as_str(), object: object.to_string(), decision: "deny", rule, outcome: "refused".to_owned(), ..Line::of(cx) };
        if let Err(problem) = self.0.audit.write(line).await {
            tracing::error!(%problem, "a refusal is missing in the audit log");
        }
    }

    /// An object that the caller may do `permission` to, for reading.
    async fn fetch<T: Object>(&self, cx: &OpContext, name: &QualifiedName, permission: Permission) -> Result<T, Problem> {
        self.fetch_permitted(cx, name, permission).await.map(|(row, _)| row)
    }

    /// The same, with what allows it.
    async fn fetch_permitted<T: Object>(&self, cx: &OpContext, name: &QualifiedName, permission: Permission) -> Result<(T, Permit), Problem> {
        self.refresh_rights().await?;
        let (need, row) = self.need::<T>(name, permission).await?;
        let permit = self.permit(cx, &need, name).await?;
        row.map(|row| (row, permit)).ok_or_else(|| not_found::<T>(name))
    }

    /// An object that the caller may see, for reading.
    async fn fetch_visible<T: Object>(&self, cx: &OpContext, name: &QualifiedName) -> Result<T, Problem> {
        self.refresh_rights().await?;
        let (need, row) = self.need::<T>(name, Permission::Admin).await?;
        if !self.sees(&cx.caller.principal, &need) {
            // The refusal reads as one of the permission that most would be given.
            self.permit(cx, &need.with(T::TYPE.seen_with()[0]), name).await?;
        }
        row.ok_or_else(|| not_found::<T>(name))
    }

    /// Whether any permission on the object lets the principal see it.
    fn sees(&self, principal: &PrincipalName, need: &Need) -> bool {
        self.with_rights(|rights| need.object_type.seen_with().iter().any(|permission| access::decide(rights, principal, &need.with(*permission)).allowed()))
    }

    /// An object that the caller may do `permission` to, as a condition of `draft`; `None` where it is not there and `if_exists` says that this is fine.
    async fn fetch_for_change<T: Object>(
        &self,
        cx: &OpContext,
        draft: &mut Draft<'_>,
        name: &QualifiedName,
        permission: Permission,
        if_exists: bool,
    ) -> Result<Option<T>, Problem> {
        let schema = draft.get::<SchemaRow>(name.schema.as_str().as_bytes()).await?.map(|row| row.uid);
        let row = draft.get::<T>(&catalog::name_key(name)).await?;
        let need = Need { object_type: T::TYPE, permission, schema, object: row.as_ref().map(|row| row.head().uid) };
        let permit = self.permit(cx, &need, name).await?;
        draft.permits.push(permit);
        match row {
            None if !if_exists => Err(not_found::<T>(name)),
            row => Ok(row),
        }
    }

    /// The schema in which the caller may create objects of a type, as a condition of `draft`.
    async fn schema_to_create_in(&self, cx: &OpContext, draft: &mut Draft<'_>, object_type: ObjectType, name: &QualifiedName) -> Result<SchemaRow, Problem> {
        let schema = draft.get::<SchemaRow>(name.schema.as_str().as_bytes()).await?;
        let need = Need { object_type, permission: Permission::Create, schema: schema.as_ref().map(|row| row.uid), object: None };
        let permit = self.permit(cx, &need, name).await?;
        draft.permits.push(permit);
        schema.ok_or_else(|| schema_not_found(&name.schema))
    }

    /// Notes in the audit log what a caller does that the store does not see.
    async fn note(&self, cx: &OpContext, permit: Permit) -> Result<(), Problem> {
        self.0.audit.write(change_line(cx, &[permit])).await.map(drop)
    }

    /// Notes in the audit log that a connection of a data sink opens a credential: before it does.
    async fn note_use(&self, cx: &OpContext, credential: &QualifiedName, version: u64, sink: &QualifiedName) -> Result<(), Problem> {
        let line = Line {
            object_type: ObjectType::Credential.as_str(),
            object: credential.to_string(),
            decision: "allow",
            rule: format!("a connection of the data sink {sink} uses it"),
            outcome: format!("opened: version {version}"),
            ..Line::of(cx)
        };
        self.0.audit.write(line).await.map(drop)
    }

    /// Notes in the audit log what a caller does to what the store keeps outside of the catalogue, before `doing` does it; a second line says where it then did not happen.
    async fn noted<T>(&self, cx: &OpContext, permits: &[Permit], doing: impl Future<Output = Result<T, Problem>>) -> Result<T, Problem> {
        let line = change_line(cx, permits);
        let head = self.0.audit.write(line.clone()).await?;
        let done = doing.await;
        if done.is_err() {
            self.0.audit.write(Line { outcome: format!("undone: line {} did not happen", head.number), ..line }).await?;
        }
        done
    }

    /// Stores a change and its answer, with a line in the audit log that is on disk before; `false` where it must be made anew. With `dry`, stores nothing.
    async fn commit<A: Serialize>(&self, cx: &OpContext, ticket: &Ticket, mut draft: Draft<'_>, answer: &A, dry: bool) -> Result<bool, Problem> {
        if dry || (draft.is_empty() && !ticket.is_set()) {
            return Ok(true);
        }
        let line = (!draft.is_empty()).then(|| change_line(cx, &draft.permits));
        ticket.keep(self, &mut draft, answer)?;
        let Some(line) = line else { return self.store_draft(draft).await };
        let head = self.0.audit.write(line.clone()).await?;
        draft.put_bytes(META, AUDIT_HEAD.to_vec(), catalog::encode(&head)?);
        let stored = self.store_draft(draft).await;
        if !matches!(stored, Ok(true)) {
            self.0.audit.write(Line { outcome: format!("undone: line {} did not happen", head.number), ..line }).await?;
        }
        stored
    }

    async fn take_effect(&self, effect: Effect) {
        match effect {
            Effect::Tell(which, directive) => {
                self.0.sessions.direct(&which, directive);
            }
            Effect::Recheck => self.recheck_sessions().await,
            Effect::RowsDropped(table) => {
                if let Err(error) = self.0.rows.remove_all(table).await {
                    tracing::warn!(%error, "rows of a dropped table are left; the next start removes them");
                }
            }
            Effect::StreamsDropped(table, beginning) => {
                if let Err(error) = self.0.rows.forget_all(table, &beginning).await {
                    tracing::warn!(%error, "marks of a dropped sink's streams are left; what they have put aside goes a day after their last record");
                }
            }
            Effect::TokenEnded(id) => self.end_sessions_of_token(&id),
        }
    }

    /// Where a bare name of this call lands.
    async fn default_schema(&self, cx: &OpContext) -> Result<Option<Name>, Problem> {
        if cx.default_schema.is_some() {
            return Ok(cx.default_schema.clone());
        }
        let row = self.row::<PrincipalRow>(cx.caller.principal.as_str().as_bytes()).await?;
        Ok(row.and_then(|row| row.default_schema))
    }

    /// Reads the name of an object of a schema.
    async fn resolve(&self, cx: &OpContext, field: &str, text: &str) -> Result<QualifiedName, Problem> {
        let default = if text.contains('.') { None } else { self.default_schema(cx).await? };
        QualifiedName::parse(text, default.as_ref()).map_err(|fault| invalid_name(field, &fault))
    }

    fn seal(&self, name: &QualifiedName, object_id: Uuid, version: u64, kind: &str, secret: &Secret) -> Sealed {
        let context = SealContext { cluster: self.0.cluster, schema: &name.schema, name: &name.name, object_id, version, kind };
        self.0.vault.seal(&*self.0.ambient.ids, &context, secret)
    }

    fn unseal(&self, name: &QualifiedName, object_id: Uuid, version: u64, kind: &str, sealed: &Sealed) -> Result<Secret, Problem> {
        let context = SealContext { cluster: self.0.cluster, schema: &name.schema, name: &name.name, object_id, version, kind };
        self.0.vault.open(&context, sealed).map_err(|fault| Problem::new(Reason::StoreCorrupt, fault.to_string()))
    }

    /// The rights a creator gets on what they made.
    fn own(&self, draft: &mut Draft<'_>, owner: &PrincipalName, object_type: ObjectType, target: Target) -> Result<(), Problem> {
        let key = GrantKey { principal: owner.clone(), object_type, target, permission: Permission::Admin };
        draft.put_grant(key, GrantFacts { with_grant_option: true, grantor: owner.clone(), created: self.0.ambient.now() })
    }

    /// Takes every grant on an object along with it.
    fn drop_grants_on(&self, draft: &mut Draft<'_>, uid: Uuid) {
        for key in self.with_rights(|rights| rights.granted_on(uid).cloned().collect::<Vec<_>>()) {
            draft.delete_grant(key);
        }
    }
}

/// The last line of the audit log that a change was stored with.
const AUDIT_HEAD: &[u8] = b"audit";
/// The cluster's id, and its master key, sealed.
const CLUSTER: &[u8] = b"cluster";

#[derive(Serialize, serde::Deserialize)]
struct Cluster {
    id: Uuid,
    master: Sealed,
}

fn cluster_name() -> Name {
    Name::parse("cluster").expect("a name")
}

/// What the master key is sealed as.
fn cluster_context(name: &Name, cluster: Uuid) -> SealContext<'_> {
    SealContext { cluster, schema: name, name, object_id: cluster, version: 1, kind: "catalogue.master" }
}

/// The cluster's id and master key: those stored, or new ones where the store is new.
async fn found(store: &SharedStore, vault: &Vault, ambient: &Ambient) -> Result<(Uuid, Secret), Problem> {
    let name = cluster_name();
    let context = |cluster| cluster_context(&name, cluster);
    loop {
        if let Some(bytes) = store.get(META, CLUSTER).await.map_err(catalog::store_problem)? {
            let known: Cluster = catalog::decode(META, &bytes)?;
            let master = vault.open(&context(known.id), &known.master).map_err(|fault| {
                // The wrong ring beside a sound store: restoring an export would not mend that.
                let reason = if matches!(fault, VaultError::UnknownKey { .. }) { Reason::StoreUnavailable } else { Reason::StoreCorrupt };
                Problem::new(reason, format!("the catalogue's key does not open: {fault}; start with the key ring that this store was made with"))
            })?;
            return Ok((known.id, master));
        }
        let id = ambient.ids.uuid();
        let mut master = vec![0; keys::MASTER_BYTES];
        ambient.ids.fill(&mut master);
        let master = Secret::new(master);
        let made = Cluster { id, master: vault.seal(&*ambient.ids, &context(id), &master) };
        match store.transact(crate::store::Transaction::new().absent(META, CLUSTER).put(META, CLUSTER, catalog::encode(&made)?)).await {
            Ok(()) => return Ok((id, master)),
            // Another process was first.
            Err(crate::store::StoreError::Conflict(_)) => {}
            Err(error) => return Err(catalog::store_problem(error)),
        }
    }
}

fn change_line(cx: &OpContext, permits: &[Permit]) -> Line {
    let rule: Vec<String> =
        permits.iter().map(|permit| format!("{} on {} {}: {}", permit.permission, permit.object_type, permit.object, permit.rule)).collect();
    let (object_type, object) = permits.first().map_or(("system", String::new()), |permit| (permit.object_type.as_str(), permit.object.clone()));
    Line { object_type, object, decision: "allow", rule: rule.join("; "), outcome: "done".to_owned(), ..Line::of(cx) }
}

/// The one refusal: the same whether the object exists or not.
fn denied(principal: &PrincipalName, need: &Need, object: &(dyn fmt::Display + Sync)) -> Problem {
    let message = match need.object_type {
        ObjectType::System => format!("{principal} has no {} permission on the system; ask an administrator for it", need.permission),
        object_type if need.permission == Permission::Create => {
            format!("{principal} may not create the {object_type} {object}, or its schema does not exist; ask an administrator of the schema for create")
        }
        object_type => format!(
            "{principal} has no {} permission on the {object_type} {object}, or it does not exist; ask its owner or an administrator for it",
            need.permission
        ),
    };
    Problem::new(Reason::PermissionDenied, message)
        .with("principal", principal.as_str())
        .with("permission", need.permission.as_str())
        .with("object_type", need.object_type.as_str())
        .with("object", object.to_string())
}

fn not_found<T: Object>(name: &QualifiedName) -> Problem {
    Problem::new(T::NOT_FOUND, format!("there is no {} {name}; Show lists those you may see", T::TYPE))
        .with("name", name.to_string())
        .resource(T::TYPE.as_str(), name)
}

fn schema_not_found(name: &Name) -> Problem {
    Problem::new(Reason::SchemaNotFound, format!("there is no schema {name}; create it first")).with("name", name.as_str()).resource("schema", name)
}

fn already_exists(object_type: ObjectType, name: &(dyn fmt::Display + Sync)) -> Problem {
    Problem::new(Reason::AlreadyExists, format!("the {object_type} {name} is there already; choose another name or drop it first"))
        .with("name", name.to_string())
        .with("object_type", object_type.as_str())
        .resource(object_type.as_str(), name)
}

/// A drop that others would suffer from: how many, and the first twenty.
fn in_use(object_type: ObjectType, name: &(dyn fmt::Display + Sync), users: &[String], what_next: &str) -> Problem {
    let problem = Problem::new(Reason::InUse, format!("the {object_type} {name} is used by {} other objects; {what_next}", users.len()))
        .with("name", name.to_string())
        .with("count", users.len().to_string());
    with_users(problem, users)
}

fn with_users(problem: Problem, users: &[String]) -> Problem {
    users.iter().take(20).fold(problem, |problem, user| problem.precondition("DEPENDENT", user, "uses it"))
}

fn invalid_name(field: &str, fault: &NameError) -> Problem {
    Problem::field(field, Reason::InvalidName, fault.to_string()).with("name", fault.text.clone()).with("rule", fault.rule.clone())
}

/// A fault of a configuration as callers see it.
fn config_problem(fault: ConfigFault) -> Problem {
    let reason = match fault.kind {
        ConfigFaultKind::Destination => Reason::InvalidDestination,
        ConfigFaultKind::UnknownOption => Reason::UnknownOption,
        ConfigFaultKind::InvalidOption => Reason::InvalidOption,
        ConfigFaultKind::MissingOption => Reason::MissingOption,
        ConfigFaultKind::Conflict => Reason::OptionConflict,
        ConfigFaultKind::Field => Reason::InvalidField,
    };
    fault.details.into_iter().fold(Problem::field(fault.field, reason, fault.message), |problem, (key, value)| problem.with(key, value))
}

fn config_problems(faults: Vec<ConfigFault>) -> Problem {
    Problem::all(faults.into_iter().map(config_problem)).unwrap_or_else(|| Problem::new(Reason::Internal, "a configuration was refused without a reason"))
}

/// A part that the query engine brings.
fn comes_with_queries(what: &str) -> Problem {
    Problem::new(Reason::NotImplemented, format!("{what} is not in this build: conditions come with the query engine; leave it out"))
}
