//! Why: a credential is a named secret that sinks refer to and nobody can read back. Never returns a secret, to anyone.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt, fs,
    io::Read,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};
use uuid::Uuid;
use zeroize::Zeroize;

use super::{
    Domain, OpContext,
    access::{Need, ObjectType, Permission, Target},
    already_exists,
    catalog::{self, CREDENTIALS, Draft, Effect, GUARDS, Head, Object, PLACES, Place, Row, SECRETS, name_key},
    change, config_problem, in_use,
    page::Page,
};
use crate::{
    clock::Timestamp,
    connectors::{
        credential::{CredentialType, OpenCredential, credential_options},
        options::{OptionSpec, Options},
    },
    delivery::{Directive, Which},
    limits,
    name::{PrincipalName, QualifiedName, Selection},
    problem::{Problem, Reason},
    secret::Secret,
    store::Table,
    vault::Sealed,
};

/// A credential as it may be shown, without its secret.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct CredentialView {
    /// Its full name.
    pub name: QualifiedName,
    /// Differs between a credential and a later one of the same name.
    pub uid: Uuid,
    /// What its identity and secret are.
    pub credential_type: CredentialType,
    /// User, key id, account; may be empty.
    pub identity: String,
    /// Whether a secret is stored or referred to.
    pub secret_set: bool,
    /// Grows by one whenever the secret is replaced.
    pub secret_version: u64,
    /// When that was last.
    pub secret_updated: Option<Timestamp>,
    /// A secret option's value is `***`.
    pub options: BTreeMap<String, String>,
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
    /// Sinks that refer to it, where asked for.
    pub used_by: Vec<String>,
}

/// Where a credential's secret comes from.
#[derive(Debug)]
pub enum SecretSource {
    /// The secret itself; stored sealed.
    Inline(Secret),
    /// Read from this environment variable of the server at each use.
    EnvironmentVariable(String),
    /// Read from this file of the server at each use.
    File(String),
}

/// Makes a credential.
#[derive(Serialize)]
#[expect(missing_docs, reason = "the interface's own comments in proto/datasink/v1/credential.proto")]
pub struct CreateCredential {
    pub name: String,
    /// `None` where the wire said UNSPECIFIED, which is refused with all other faults.
    pub credential_type: Option<CredentialType>,
    pub identity: String,
    #[serde(skip)]
    pub secret: Option<SecretSource>,
    pub options: BTreeMap<String, String>,
    pub or_replace: bool,
    pub if_not_exists: bool,
    pub validate_only: bool,
    pub request_id: String,
}

impl fmt::Debug for CreateCredential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CreateCredential").field("name", &self.name).field("credential_type", &self.credential_type).finish_non_exhaustive()
    }
}

/// The answer to [`CreateCredential`].
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct CreatedCredential {
    /// The credential.
    pub credential: CredentialView,
    /// False where `if_not_exists` found one.
    pub created: bool,
}

/// Changes what is set and nothing else.
#[derive(Serialize)]
#[expect(missing_docs, reason = "the interface's own comments in proto/datasink/v1/credential.proto")]
pub struct AlterCredential {
    pub name: String,
    pub credential_type: Option<CredentialType>,
    pub identity: Option<String>,
    #[serde(skip)]
    pub secret: Option<SecretSource>,
    pub updates: BTreeMap<String, String>,
    pub unset: Vec<String>,
    pub schema_name: Option<String>,
    pub etag: String,
    pub validate_only: bool,
    pub request_id: String,
}

impl fmt::Debug for AlterCredential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AlterCredential").field("name", &self.name).field("updates", &self.updates.keys()).field("unset", &self.unset).finish_non_exhaustive()
    }
}

/// The answer to [`AlterCredential`].
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct AlteredCredential {
    /// The credential as it is now.
    pub credential: CredentialView,
    /// False where every value was already so.
    pub changed: bool,
}

/// Drops a credential that no sink uses.
#[derive(Debug, Clone, Default, Serialize)]
#[expect(missing_docs, reason = "the interface's own comments in proto/datasink/v1/credential.proto")]
pub struct DropCredential {
    pub name: String,
    pub if_exists: bool,
    pub etag: String,
    pub validate_only: bool,
    pub request_id: String,
}

/// The answer to [`DropCredential`].
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct DroppedCredential {
    /// False where `if_exists` found none.
    pub dropped: bool,
}

/// Asks for one credential, or a page of those that match.
#[derive(Debug, Clone, Default)]
#[expect(missing_docs, reason = "the interface's own comments in proto/datasink/v1/credential.proto")]
pub struct ShowCredential {
    pub name: String,
    pub page: Page,
    pub credential_type: Option<CredentialType>,
    pub include_used_by: bool,
}

/// The answer to [`ShowCredential`].
#[derive(Debug, Clone, Default)]
pub struct ShownCredentials {
    /// In name order.
    pub credentials: Vec<CredentialView>,
    /// Empty on the last page.
    pub next_page_token: String,
}

/// A credential as it is stored; what is secret of it is sealed in a row of its own.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct CredentialRow {
    pub head: Head,
    pub credential_type: CredentialType,
    pub identity: String,
    /// Options that are not secret.
    pub options: BTreeMap<String, String>,
    /// Names of those that are.
    pub secret_options: BTreeSet<String>,
    pub source: StoredSource,
    /// Of what is sealed.
    pub secret_version: u64,
    pub secret_updated: Option<Timestamp>,
}

/// Where the secret is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum StoredSource {
    None,
    Sealed,
    Environment(String),
    File(PathBuf),
}

impl Row for CredentialRow {
    const TABLE: Table = CREDENTIALS;
}

impl Object for CredentialRow {
    const TYPE: ObjectType = ObjectType::Credential;
    const NOT_FOUND: Reason = Reason::CredentialNotFound;
    fn head(&self) -> &Head {
        &self.head
    }
}

impl Row for Sealed {
    const TABLE: Table = SECRETS;
}

/// What is sealed of an object: its secret and its secret options. Wiped when dropped.
#[derive(Default, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Bundle {
    pub secret: Option<String>,
    pub options: BTreeMap<String, String>,
}

impl Drop for Bundle {
    fn drop(&mut self) {
        self.secret.zeroize();
        self.options.values_mut().for_each(Zeroize::zeroize);
    }
}

impl Bundle {
    pub(super) fn is_empty(&self) -> bool {
        self.secret.is_none() && self.options.is_empty()
    }
}

/// What is shown in the place of a secret option.
pub(super) const MASK: &str = "***";

fn secret_key(uid: Uuid, version: u64) -> Vec<u8> {
    [uid.as_bytes().as_slice(), &version.to_be_bytes()].concat()
}

impl CredentialRow {
    fn view(&self) -> CredentialView {
        let masked = self.secret_options.iter().map(|name| (name.clone(), MASK.to_owned()));
        CredentialView {
            name: self.head.name.clone(),
            uid: self.head.uid,
            credential_type: self.credential_type,
            identity: self.identity.clone(),
            secret_set: self.source != StoredSource::None,
            secret_version: self.secret_version,
            secret_updated: self.secret_updated,
            options: self.options.clone().into_iter().chain(masked).collect(),
            owner: self.head.owner.clone(),
            generation: self.head.generation,
            etag: self.head.etag(),
            created: self.head.created,
            updated: self.head.updated,
            used_by: Vec::new(),
        }
    }
}

/// A credential's parts as asked for and checked.
struct Checked {
    credential_type: CredentialType,
    identity: String,
    options: BTreeMap<String, String>,
    source: StoredSource,
    bundle: Bundle,
}

/// Faults of an option map that have nothing to do with what the options mean.
pub(super) fn option_faults(field: &str, given: &BTreeMap<String, String>) -> Vec<Problem> {
    let mut faults = Vec::new();
    if given.len() > limits::OPTIONS_MAX {
        faults.push(Problem::field(field, Reason::InvalidField, format!("there are at most {} options", limits::OPTIONS_MAX)));
    }
    for (key, _) in given.iter().filter(|(_, value)| value.len() > limits::OPTION_BYTES_MAX) {
        let message = format!("the value of option {key:?} has more than {} bytes", limits::OPTION_BYTES_MAX);
        faults.push(Problem::field(format!("{field}[{key:?}]"), Reason::InvalidOption, message).with("option", key.clone()));
    }
    faults
}

/// `given` as what may be stored openly and what must be sealed.
pub(super) fn split_secrets(specs: &[OptionSpec], given: BTreeMap<String, String>) -> (BTreeMap<String, String>, BTreeMap<String, String>) {
    given.into_iter().partition(|(key, _)| !specs.iter().any(|spec| spec.name == key && spec.secret))
}

impl Domain {
    /// Makes a credential; its secrets are sealed before they are stored.
    pub async fn create_credential(&self, cx: &OpContext, request: CreateCredential) -> Result<CreatedCredential, Problem> {
        let name = self.resolve(cx, "name", &request.name).await;
        let mut faults: Vec<Problem> = name.as_ref().err().cloned().into_iter().collect();
        if request.or_replace && request.if_not_exists {
            faults.push(Problem::field("or_replace", Reason::InvalidField, "or_replace and if_not_exists exclude each other"));
        }
        let Some(credential_type) = request.credential_type else {
            faults.push(Problem::field("type", Reason::InvalidField, "type must be one of the credential types; UNSPECIFIED is none"));
            return Err(all_of(faults));
        };
        let checked = self.check_credential(credential_type, &request.identity, request.options.clone(), request.secret.as_ref(), None, &mut faults);
        let Ok(name) = name else { return Err(all_of(faults)) };
        if !faults.is_empty() {
            return Err(all_of(faults));
        }
        let ticket = self.ticket(cx, &request.request_id, &(&request, source_words(request.secret.as_ref())), &inline(request.secret.as_ref()))?;
        change!(self, cx, ticket, request.validate_only, |draft| {
            let schema = self.schema_to_create_in(cx, &mut draft, ObjectType::Credential, &name).await?;
            match draft.get::<CredentialRow>(&name_key(&name)).await? {
                Some(row) if request.if_not_exists => {
                    let need = Need { object_type: ObjectType::Credential, permission: Permission::Read, schema: Some(schema.uid), object: Some(row.head.uid) };
                    self.permit(cx, &need, &name).await?;
                    CreatedCredential { credential: row.view(), created: false }
                }
                Some(_) if !request.or_replace => return Err(already_exists(ObjectType::Credential, &name)),
                Some(old) => {
                    let need =
                        Need { object_type: ObjectType::Credential, permission: Permission::Admin, schema: Some(schema.uid), object: Some(old.head.uid) };
                    draft.permits.push(self.permit(cx, &need, &name).await?);
                    self.check_users_take(&mut draft, &old, credential_type).await?;
                    let row = self.put_credential(&mut draft, &checked, Some(&old), &name, &old.head.owner).await?;
                    CreatedCredential { credential: row.view(), created: true }
                }
                None => {
                    draft.guard(schema.uid, true).await?;
                    let row = self.put_credential(&mut draft, &checked, None, &name, &cx.caller.principal).await?;
                    CreatedCredential { credential: row.view(), created: true }
                }
            }
        })
    }

    /// Changes a credential; sinks that use it take it up at their next connection.
    pub async fn alter_credential(&self, cx: &OpContext, request: AlterCredential) -> Result<AlteredCredential, Problem> {
        let name = self.resolve(cx, "name", &request.name).await?;
        let nothing = request.credential_type.is_none()
            && request.identity.is_none()
            && request.secret.is_none()
            && request.updates.is_empty()
            && request.unset.is_empty()
            && request.schema_name.is_none();
        if nothing {
            return Err(Problem::new(Reason::NothingToAlter, format!("the request changes nothing of the credential {name}; set at least one field")));
        }
        let target = match request.schema_name.as_deref() {
            None => name.clone(),
            Some(schema) => self.moved(cx, &name, schema).await?,
        };
        let ticket = self.ticket(cx, &request.request_id, &(&request, source_words(request.secret.as_ref())), &inline(request.secret.as_ref()))?;
        change!(self, cx, ticket, request.validate_only, |draft| {
            let Some(old) = self.fetch_for_change::<CredentialRow>(cx, &mut draft, &name, Permission::Admin, false).await? else {
                return Err(super::not_found::<CredentialRow>(&name));
            };
            old.head.check_etag(&request.etag, ObjectType::Credential)?;
            let bundle = self.open_bundle(&mut draft, &old.head, old.secret_version, SEAL_KIND).await?;
            let mut faults = Vec::new();
            let given = altered_options(&old.options, &bundle.options, &request.updates, &request.unset, &mut faults);
            let credential_type = request.credential_type.unwrap_or(old.credential_type);
            let identity = request.identity.as_deref().unwrap_or(&old.identity);
            let kept = (&old.source, &bundle);
            let checked = self.check_credential(credential_type, identity, given, request.secret.as_ref(), Some(kept), &mut faults);
            if !faults.is_empty() {
                return Err(all_of(faults));
            }
            if credential_type != old.credential_type {
                self.check_users_take(&mut draft, &old, credential_type).await?;
            }
            let same = checked.credential_type == old.credential_type
                && checked.identity == old.identity
                && checked.options == old.options
                && checked.source == old.source
                && checked.bundle == bundle
                && target == name;
            if same {
                AlteredCredential { credential: old.view(), changed: false }
            } else {
                if target != name {
                    self.make_room::<CredentialRow>(cx, &mut draft, &name, &target).await?;
                }
                let row = self.put_credential(&mut draft, &checked, Some(&old), &target, &old.head.owner).await?;
                AlteredCredential { credential: row.view(), changed: true }
            }
        })
    }

    /// Drops a credential that no sink uses.
    pub async fn drop_credential(&self, cx: &OpContext, request: DropCredential) -> Result<DroppedCredential, Problem> {
        let name = self.resolve(cx, "name", &request.name).await?;
        let ticket = self.ticket(cx, &request.request_id, &request, &[])?;
        change!(self, cx, ticket, request.validate_only, |draft| {
            match self.fetch_for_change::<CredentialRow>(cx, &mut draft, &name, Permission::Admin, request.if_exists).await? {
                None => DroppedCredential { dropped: false },
                Some(row) => {
                    row.head.check_etag(&request.etag, ObjectType::Credential)?;
                    let users: Vec<String> =
                        draft.users_of(row.head.uid).await?.into_iter().map(|place| format!("{} {}", place.object_type, place.name)).collect();
                    if !users.is_empty() {
                        return Err(in_use(ObjectType::Credential, &name, &users, "give them another credential or drop them first"));
                    }
                    self.remove_credential(&mut draft, &row).await?;
                    DroppedCredential { dropped: true }
                }
            }
        })
    }

    /// Shows one credential, or a page of those the caller may see.
    pub async fn show_credential(&self, cx: &OpContext, request: ShowCredential) -> Result<ShownCredentials, Problem> {
        let (rows, next_page_token) = self
            .show::<CredentialRow>(cx, "credentials", &request.name, &request.page, &request.credential_type, |row| {
                request.credential_type.is_none_or(|wanted| wanted == row.credential_type)
            })
            .await?;
        let mut credentials = Vec::with_capacity(rows.len());
        for row in rows {
            let mut view = row.view();
            if request.include_used_by {
                view.used_by = self.used_by(row.head.uid).await?;
            }
            credentials.push(view);
        }
        Ok(ShownCredentials { credentials, next_page_token })
    }

    /// Names of what refers to an object.
    pub(super) async fn used_by(&self, uid: Uuid) -> Result<Vec<String>, Problem> {
        let rows = catalog::scan_all(&*self.0.store, catalog::USES, uid.as_bytes()).await?;
        let mut names: Vec<String> =
            rows.iter().map(|(_, bytes)| catalog::decode::<Place>(catalog::USES, bytes).map(|place| place.name)).collect::<Result<_, _>>()?;
        names.sort();
        Ok(names)
    }

    /// Rows that a Show call selects and its caller may see: one by name, or a page.
    pub(super) async fn show<T: Object>(
        &self,
        cx: &OpContext,
        what: &'static str,
        name: &str,
        page: &Page,
        filter: &impl Serialize,
        mut wanted: impl FnMut(&T) -> bool,
    ) -> Result<(Vec<T>, String), Problem> {
        let default = self.default_schema(cx).await?;
        let selection = Selection::parse(name, default.as_ref()).map_err(|fault| super::invalid_name("name", &fault))?;
        if let Selection::One(name) = &selection {
            let row = self.fetch_visible::<T>(cx, name).await?;
            return Ok((if wanted(&row) { vec![row] } else { Vec::new() }, String::new()));
        }
        self.refresh_rights().await?;
        let caller = &cx.caller.principal;
        let page = page.open(&self.0.keys, &(what, caller, name, &default, filter))?;
        let prefix = match &selection {
            Selection::Matching { schema: Some(schema), .. } => format!("{schema}.").into_bytes(),
            _ => Vec::new(),
        };
        let schemas = self.schema_uids().await?;
        self.fill(T::TABLE, &prefix, &page, |_, bytes| {
            let row: T = catalog::decode(T::TABLE, &bytes)?;
            let head = row.head();
            let need = Need { object_type: T::TYPE, permission: Permission::Admin, schema: schemas.get(&head.name.schema).copied(), object: Some(head.uid) };
            Ok((selection.matches(&head.name) && wanted(&row) && self.sees(caller, &need)).then_some(row))
        })
        .await
    }

    /// Removes a credential and everything that is only about it.
    pub(super) async fn remove_credential(&self, draft: &mut Draft<'_>, row: &CredentialRow) -> Result<(), Problem> {
        self.remove_object(draft, row).await?;
        draft.delete(SECRETS, secret_key(row.head.uid, row.secret_version));
        Ok(())
    }

    /// Removes an object's row, place, guard and grants; its schema's guard changes with it.
    pub(super) async fn remove_object<T: Object>(&self, draft: &mut Draft<'_>, row: &T) -> Result<(), Problem> {
        let head = row.head();
        draft.delete(T::TABLE, name_key(&head.name));
        draft.delete(PLACES, head.uid.as_bytes().to_vec());
        draft.delete(GUARDS, head.uid.as_bytes().to_vec());
        self.drop_grants_on(draft, head.uid);
        draft.effects.push(Effect::Recheck);
        Ok(())
    }

    /// The name an object gets when it moves to another schema; empty: the caller's default schema.
    pub(super) async fn moved(&self, cx: &OpContext, name: &QualifiedName, schema: &str) -> Result<QualifiedName, Problem> {
        let schema = if schema.is_empty() {
            let message = "schema_name is empty and the caller has no default schema; name a schema";
            self.default_schema(cx).await?.ok_or_else(|| Problem::field("schema_name", Reason::InvalidName, message))?
        } else {
            crate::name::Name::parse_schema(schema).map_err(|fault| super::invalid_name("schema_name", &fault))?
        };
        Ok(QualifiedName { schema, name: name.name.clone() })
    }

    /// Checks that an object may move to `target`, and takes its old name away. Grants on the object go with it; those on the old schema do not reach it any more.
    pub(super) async fn make_room<T: Object>(
        &self,
        cx: &OpContext,
        draft: &mut Draft<'_>,
        name: &QualifiedName,
        target: &QualifiedName,
    ) -> Result<(), Problem> {
        let schema = self.schema_to_create_in(cx, draft, T::TYPE, target).await?;
        if draft.get::<T>(&name_key(target)).await?.is_some() {
            return Err(already_exists(T::TYPE, target));
        }
        draft.guard(schema.uid, true).await?;
        draft.delete(T::TABLE, name_key(name));
        draft.effects.push(Effect::Recheck);
        Ok(())
    }

    /// Checks a credential as it would be; what is not given again is `kept`.
    fn check_credential(
        &self,
        credential_type: CredentialType,
        identity: &str,
        given: BTreeMap<String, String>,
        secret: Option<&SecretSource>,
        kept: Option<(&StoredSource, &Bundle)>,
        faults: &mut Vec<Problem>,
    ) -> Checked {
        if identity.len() > limits::IDENTITY_BYTES_MAX || identity.chars().any(char::is_control) {
            let message = format!("identity has at most {} bytes and no control characters", limits::IDENTITY_BYTES_MAX);
            faults.push(Problem::field("identity", Reason::InvalidField, message));
        }
        faults.extend(option_faults("options", &given));
        let specs = credential_options(credential_type);
        if let Err(found) = Options::check(credential_type.as_str(), specs, &given) {
            // The catalogue's sentences speak of sinks.
            faults.extend(found.into_iter().map(|mut fault| {
                fault.message = fault.message.replacen(" sink", " credential", 1).replace("; ShowSinkKinds lists those it knows", "");
                config_problem(fault)
            }));
        }
        let (options, secret_options) = split_secrets(specs, given);
        let mut bundle = Bundle { secret: None, options: secret_options };
        let source = match secret {
            None => {
                bundle.secret = kept.and_then(|(_, bundle)| bundle.secret.clone());
                kept.map_or(StoredSource::None, |(source, _)| source.clone())
            }
            Some(SecretSource::Inline(secret)) if secret.is_empty() => StoredSource::None,
            Some(SecretSource::Inline(secret)) => {
                match secret.expose_text().filter(|text| text.len() <= limits::SECRET_BYTES_MAX) {
                    Some(text) => bundle.secret = Some(text.to_owned()),
                    None => faults.push(Problem::field(
                        "secret",
                        Reason::InvalidField,
                        format!("the secret is UTF-8 text of at most {} bytes", limits::SECRET_BYTES_MAX),
                    )),
                }
                StoredSource::Sealed
            }
            Some(SecretSource::EnvironmentVariable(name)) => {
                if !self.0.settings.secret_environment.contains(name) {
                    let message = "the server's settings do not allow credentials to refer to this environment variable; its operator can add its very name";
                    faults.push(Problem::field("secret_ref.environment_variable", Reason::InvalidField, message));
                }
                StoredSource::Environment(name.clone())
            }
            Some(SecretSource::File(path)) => {
                let path = PathBuf::from(path);
                if !allowed_file(&path, &self.0.settings.secret_folders) {
                    let message = "the server's settings do not allow credentials to refer to files of this folder; its operator can add it";
                    faults.push(Problem::field("secret_ref.file", Reason::InvalidField, message));
                }
                StoredSource::File(path)
            }
        };
        let checked = Checked { credential_type, identity: identity.to_owned(), options, source, bundle };
        faults.extend(self.content_faults(&checked));
        checked
    }

    /// What the kinds that take such a credential could never use of it.
    fn content_faults(&self, checked: &Checked) -> Vec<Problem> {
        let secret = match &checked.source {
            StoredSource::None => None,
            StoredSource::Sealed => checked.bundle.secret.clone().map(Secret::from),
            // What it says is read with each connection; here only that there is one matters.
            StoredSource::Environment(_) | StoredSource::File(_) => Some(Secret::from("elsewhere".to_owned())),
        };
        let open = OpenCredential {
            credential_type: checked.credential_type,
            identity: checked.identity.clone(),
            secret,
            options: checked.options.clone(),
            secret_options: checked.bundle.options.iter().map(|(key, value)| (key.clone(), Secret::from(value.clone()))).collect(),
            version: 0,
        };
        let takers = self.0.kinds.iter().filter(|kind| kind.descriptor().credential_types.contains(&checked.credential_type));
        takers.flat_map(|kind| kind.check_credential(&open)).map(config_problem).collect()
    }

    /// Every sink that uses a credential must be able to use its new type.
    async fn check_users_take(&self, draft: &mut Draft<'_>, old: &CredentialRow, credential_type: CredentialType) -> Result<(), Problem> {
        if credential_type == old.credential_type {
            return Ok(());
        }
        for place in draft.users_of(old.head.uid).await? {
            let Some(sink) = draft.get::<super::data_sink::SinkRow>(place.name.as_bytes()).await? else { continue };
            let accepted = self.0.kinds.get(sink.kind).map(|kind| kind.descriptor().credential_types).unwrap_or_default();
            if !accepted.contains(&credential_type) {
                return Err(type_mismatch(&old.head.name, credential_type, sink.kind.as_str(), accepted).precondition(
                    "DEPENDENT",
                    &place.name,
                    "uses it and cannot use the new type",
                ));
            }
        }
        Ok(())
    }

    async fn put_credential(
        &self,
        draft: &mut Draft<'_>,
        checked: &Checked,
        old: Option<&CredentialRow>,
        name: &QualifiedName,
        owner: &PrincipalName,
    ) -> Result<CredentialRow, Problem> {
        let now = self.0.ambient.now();
        let head = self.next_head(old.map(|row| &row.head), name, owner);
        let before = match old {
            Some(old) => Some(self.open_bundle(draft, &old.head, old.secret_version, SEAL_KIND).await?),
            None => None,
        };
        let replaced = before.as_ref() != Some(&checked.bundle) || old.is_none_or(|old| old.source != checked.source);
        let something = !checked.bundle.is_empty() || checked.source != StoredSource::None;
        let old_version = old.map_or(0, |old| old.secret_version);
        let secret_version = if replaced && (something || old_version > 0) { old_version + 1 } else { old_version };
        let row = CredentialRow {
            credential_type: checked.credential_type,
            identity: checked.identity.clone(),
            options: checked.options.clone(),
            secret_options: checked.bundle.options.keys().cloned().collect(),
            source: checked.source.clone(),
            secret_version,
            secret_updated: if secret_version > old_version { Some(now) } else { old.and_then(|old| old.secret_updated) },
            head,
        };
        if let Some(old) = old {
            draft.delete(SECRETS, secret_key(old.head.uid, old.secret_version));
            let sinks = self.sinks_that_use(draft, old.head.uid).await?;
            draft.effects.extend(sinks.into_iter().map(|sink| Effect::Tell(Which::Sink(sink), Directive::Reconnect)));
        } else {
            self.own(draft, owner, ObjectType::Credential, Target::Object(row.head.uid))?;
        }
        self.put_bundle(draft, &row.head, row.secret_version, SEAL_KIND, &checked.bundle)?;
        draft.put(name_key(name), &row)?;
        draft.put(row.head.uid.as_bytes().to_vec(), &Place { object_type: ObjectType::Credential, name: name.to_string() })?;
        Ok(row)
    }

    async fn sinks_that_use(&self, draft: &mut Draft<'_>, uid: Uuid) -> Result<Vec<Uuid>, Problem> {
        let rows = draft.scan(catalog::USES, uid.as_bytes()).await?;
        Ok(rows.iter().filter_map(|(key, _)| Uuid::from_slice(key.get(16..)?).ok()).collect())
    }

    /// The head of an object that is made, or changed.
    pub(super) fn next_head(&self, old: Option<&Head>, name: &QualifiedName, owner: &PrincipalName) -> Head {
        let now = self.0.ambient.now();
        match old {
            Some(old) => Head { name: name.clone(), generation: old.generation + 1, updated: now, ..old.clone() },
            None => Head { name: name.clone(), uid: self.0.ambient.ids.uuid(), owner: owner.clone(), generation: 1, created: now, updated: now },
        }
    }

    /// Seals what is secret of an object, under its name and version.
    pub(super) fn put_bundle(&self, draft: &mut Draft<'_>, head: &Head, version: u64, kind: &str, bundle: &Bundle) -> Result<(), Problem> {
        if bundle.is_empty() {
            return Ok(());
        }
        let text = serde_json::to_vec(bundle).map_err(|fault| Problem::new(Reason::Internal, format!("a secret cannot be sealed: {fault}")))?;
        let sealed = self.seal(&head.name, head.uid, version, kind, &Secret::new(text));
        draft.put(secret_key(head.uid, version), &sealed)
    }

    /// Takes what is sealed of an object away.
    pub(super) fn delete_bundle(&self, draft: &mut Draft<'_>, head: &Head, version: u64) {
        draft.delete(SECRETS, secret_key(head.uid, version));
    }

    /// What is sealed of an object; empty where nothing is.
    pub(super) async fn open_bundle(&self, draft: &mut Draft<'_>, head: &Head, version: u64, kind: &str) -> Result<Bundle, Problem> {
        let sealed = draft.get::<Sealed>(&secret_key(head.uid, version)).await?;
        self.unsealed(sealed, head, version, kind)
    }

    /// The same, outside of a change.
    pub(super) async fn read_bundle(&self, head: &Head, version: u64, kind: &str) -> Result<Bundle, Problem> {
        let sealed = self.row::<Sealed>(&secret_key(head.uid, version)).await?;
        self.unsealed(sealed, head, version, kind)
    }

    fn unsealed(&self, sealed: Option<Sealed>, head: &Head, version: u64, kind: &str) -> Result<Bundle, Problem> {
        let Some(sealed) = sealed else { return Ok(Bundle::default()) };
        let secret = self.unseal(&head.name, head.uid, version, kind, &sealed)?;
        serde_json::from_slice(secret.expose())
            .map_err(|_| Problem::new(Reason::StoreCorrupt, format!("what is sealed of {} cannot be read; set its secret again", head.name)))
    }

    /// A credential with its secrets open, for the length of a connection.
    pub(super) async fn open_credential(&self, row: &CredentialRow) -> Result<OpenCredential, Problem> {
        let mut bundle = self.read_bundle(&row.head, row.secret_version, SEAL_KIND).await?;
        let secret = match &row.source {
            StoredSource::None => None,
            StoredSource::Sealed => bundle.secret.take().map(Secret::from),
            StoredSource::Environment(name) => Some(self.secret_of_environment(name, &row.head.name)?),
            StoredSource::File(path) => Some(self.secret_of_file(path, &row.head.name)?),
        };
        let secret_options = std::mem::take(&mut bundle.options).into_iter().map(|(key, value)| (key, Secret::from(value))).collect();
        Ok(OpenCredential {
            credential_type: row.credential_type,
            identity: row.identity.clone(),
            secret,
            options: row.options.clone(),
            secret_options,
            version: row.secret_version,
        })
    }

    fn secret_of_environment(&self, name: &str, credential: &QualifiedName) -> Result<Secret, Problem> {
        // Asked again at each use: the settings may have become stricter since.
        let allowed = self.0.settings.secret_environment.contains(name);
        allowed.then(|| std::env::var(name).ok()).flatten().map(Secret::from).ok_or_else(|| unresolved(credential, "environment variable"))
    }

    fn secret_of_file(&self, path: &Path, credential: &QualifiedName) -> Result<Secret, Problem> {
        if !allowed_file(path, &self.0.settings.secret_folders) {
            return Err(unresolved(credential, "file"));
        }
        let mut text = Vec::with_capacity(limits::SECRET_BYTES_MAX + 1);
        let read = fs::File::open(path).and_then(|file| file.take(limits::SECRET_BYTES_MAX as u64 + 1).read_to_end(&mut text));
        let mut secret = zeroize::Zeroizing::new(text);
        if read.is_err() || secret.len() > limits::SECRET_BYTES_MAX {
            return Err(unresolved(credential, "file"));
        }
        // Editors end a file with a newline that is no part of the secret.
        while secret.last().is_some_and(|byte| *byte == b'\n' || *byte == b'\r') {
            secret.pop();
        }
        Ok(Secret::new(secret.to_vec()))
    }
}

pub(super) const SEAL_KIND: &str = "credential";

fn unresolved(credential: &QualifiedName, what: &str) -> Problem {
    let message = format!(
        "the secret of the credential {credential} is in {}, which cannot be read on this server now",
        if what == "file" { "a file" } else { "an environment variable" }
    );
    Problem::new(Reason::DestinationAuthFailed, message).with("credential", credential.to_string()).precondition(
        "CREDENTIAL",
        credential,
        format!("its {what} must be readable and allowed"),
    )
}

/// Whether a file lies in one of `folders` once every link is followed. A file that is not there is in none.
fn allowed_file(path: &Path, folders: &[PathBuf]) -> bool {
    let Ok(real) = path.canonicalize() else { return false };
    path.is_absolute() && folders.iter().filter_map(|folder| folder.canonicalize().ok()).any(|folder| real.starts_with(folder))
}

pub(super) fn type_mismatch(credential: &QualifiedName, found: CredentialType, kind: &str, accepted: &[CredentialType]) -> Problem {
    let accepted = accepted.iter().map(|known| known.as_str()).collect::<Vec<_>>().join(", ");
    let wanted = if accepted.is_empty() { "it takes none".to_owned() } else { format!("it takes {accepted}") };
    Problem::new(Reason::CredentialTypeMismatch, format!("a {kind} sink cannot use the credential {credential} of type {found}; {wanted}"))
        .with("type", found.as_str())
        .with("kind", kind)
        .with("accepted", accepted)
        .precondition("CREDENTIAL", credential, wanted)
}

/// Options with `updates` set and `unset` taken away; a key in both is a fault.
pub(super) fn altered_options(
    open: &BTreeMap<String, String>,
    sealed: &BTreeMap<String, String>,
    updates: &BTreeMap<String, String>,
    unset: &[String],
    faults: &mut Vec<Problem>,
) -> BTreeMap<String, String> {
    let mut given: BTreeMap<String, String> = open.iter().chain(sealed).chain(updates).map(|(key, value)| (key.clone(), value.clone())).collect();
    for (index, key) in unset.iter().enumerate() {
        if updates.contains_key(key) {
            let message = format!("option {key:?} is both set and unset; leave one out");
            faults.push(
                Problem::field(format!("unset[{index}]"), Reason::OptionConflict, message).with("option", key.clone()).with("conflicts_with", key.clone()),
            );
        }
        given.remove(key);
    }
    given
}

pub(super) fn all_of(faults: Vec<Problem>) -> Problem {
    Problem::all(faults).unwrap_or_else(|| Problem::new(Reason::Internal, "a request was refused without a reason"))
}

/// A secret's place, for the hash of a request; the secret itself goes in beside it.
fn source_words(secret: Option<&SecretSource>) -> (&'static str, &str) {
    match secret {
        None => ("none", ""),
        Some(SecretSource::Inline(_)) => ("inline", ""),
        Some(SecretSource::EnvironmentVariable(name)) => ("environment", name),
        Some(SecretSource::File(path)) => ("file", path),
    }
}

fn inline(secret: Option<&SecretSource>) -> Vec<&Secret> {
    match secret {
        Some(SecretSource::Inline(secret)) => vec![secret],
        _ => Vec::new(),
    }
}
