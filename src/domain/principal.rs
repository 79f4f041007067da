//! Why: users and roles, and which of them a caller is. Never stores a password, only what can check one, and never tells which part of a proof was wrong.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{
    Caller, DEFAULT_SCHEMA, Domain, IdentitySource, OpContext, Presented,
    access::{ADMIN, Need, ObjectType, PUBLIC, Permission, Rights, Standing},
    already_exists,
    audit::Line,
    catalog::{self, Draft, Effect, IDENTITIES, PRINCIPALS, Row, TOKENS, check_etag},
    change,
    grant::Changed,
    invalid_name,
    page::Page,
    token::TokenRow,
};
use crate::{
    clock::Timestamp,
    limits,
    name::{Name, PrincipalName, glob_matches},
    problem::{Problem, Reason},
    secret::Secret,
    store::Table,
};

/// What a principal is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PrincipalKind {
    /// Someone who calls.
    User = 1,
    /// A bundle of rights that users and roles can hold.
    Role = 2,
}

/// A user or a role as it may be shown.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct PrincipalView {
    /// Its name.
    pub name: PrincipalName,
    /// User or role.
    pub kind: PrincipalKind,
    /// What proves a caller to be this user.
    pub identities: Vec<String>,
    /// Roles it holds directly, `public` included.
    pub roles: Vec<PrincipalName>,
    /// Where a bare name lands.
    pub default_schema: Option<Name>,
    /// Opaque.
    pub etag: String,
    /// When it was made.
    pub created: Timestamp,
    /// Whether a password is set.
    pub password_set: bool,
    /// Whether nothing that names it works.
    pub disabled: bool,
}

/// Makes a user or a role.
#[derive(Debug, Serialize)]
#[expect(missing_docs, reason = "the interface's own comments in proto/datasink/v1/permission.proto")]
pub struct CreatePrincipal {
    pub name: String,
    /// `None`: the wire said UNSPECIFIED.
    pub kind: Option<PrincipalKind>,
    pub identities: Vec<String>,
    pub default_schema: String,
    pub if_not_exists: bool,
    pub request_id: String,
    #[serde(skip)]
    pub password: Option<Secret>,
}

/// The answer to [`CreatePrincipal`].
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct CreatedPrincipal {
    /// The principal.
    pub principal: PrincipalView,
    /// False where `if_not_exists` found one.
    pub created: bool,
}

/// Changes a user or a role.
#[derive(Debug, Default, Serialize)]
#[expect(missing_docs, reason = "the interface's own comments in proto/datasink/v1/permission.proto")]
pub struct AlterPrincipal {
    pub name: String,
    pub add_identities: Vec<String>,
    pub remove_identities: Vec<String>,
    pub default_schema: Option<String>,
    pub etag: String,
    pub request_id: String,
    /// Set but empty: no password any more.
    #[serde(skip)]
    pub password: Option<Secret>,
    pub disabled: Option<bool>,
}

/// The answer to [`AlterPrincipal`].
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct AlteredPrincipal {
    /// The principal as it is now.
    pub principal: PrincipalView,
    /// False where every value was already so.
    pub changed: bool,
}

/// Drops a user or a role.
#[derive(Debug, Clone, Default, Serialize)]
#[expect(missing_docs, reason = "the interface's own comments in proto/datasink/v1/permission.proto")]
pub struct DropPrincipal {
    pub name: String,
    pub if_exists: bool,
    pub etag: String,
    pub request_id: String,
}

/// The answer to [`DropPrincipal`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct DroppedPrincipal {
    /// False where `if_exists` found none.
    pub dropped: bool,
}

/// Asks for one principal, or a page of those that match.
#[derive(Debug, Clone, Default)]
#[expect(missing_docs, reason = "the interface's own comments in proto/datasink/v1/permission.proto")]
pub struct ShowPrincipal {
    pub name: String,
    pub kind: Option<PrincipalKind>,
    pub page: Page,
}

/// The answer to [`ShowPrincipal`].
#[derive(Debug, Clone, Default)]
pub struct ShownPrincipals {
    /// In name order.
    pub principals: Vec<PrincipalView>,
    /// Empty on the last page.
    pub next_page_token: String,
}

/// Makes a user or a role a member of a role.
#[derive(Debug, Clone, Default, Serialize)]
#[expect(missing_docs, reason = "the interface's own comments in proto/datasink/v1/permission.proto")]
pub struct GrantRole {
    pub role: String,
    pub member: String,
    pub request_id: String,
}

/// Ends a membership.
#[derive(Debug, Clone, Default, Serialize)]
#[expect(missing_docs, reason = "the interface's own comments in proto/datasink/v1/permission.proto")]
pub struct RevokeRole {
    pub role: String,
    pub member: String,
    pub if_exists: bool,
    pub request_id: String,
}

/// A user or a role as it is stored.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct PrincipalRow {
    pub name: PrincipalName,
    pub uid: Uuid,
    pub kind: PrincipalKind,
    pub identities: BTreeSet<String>,
    pub roles: BTreeSet<PrincipalName>,
    pub default_schema: Option<Name>,
    /// Argon2id, in PHC form.
    pub password: Option<String>,
    pub disabled: bool,
    pub generation: u64,
    pub created: Timestamp,
}

impl Row for PrincipalRow {
    const TABLE: Table = PRINCIPALS;
}

impl PrincipalRow {
    pub(super) fn new(name: PrincipalName, kind: PrincipalKind, uid: Uuid, default_schema: Option<Name>, created: Timestamp) -> Self {
        Self { name, uid, kind, identities: BTreeSet::new(), roles: BTreeSet::new(), default_schema, password: None, disabled: false, generation: 1, created }
    }

    pub(super) fn standing(&self) -> Standing {
        Standing { disabled: self.disabled, roles: self.roles.clone() }
    }

    fn etag(&self) -> String {
        format!("{}-{}", self.uid, self.generation)
    }

    fn view(&self) -> PrincipalView {
        let mut roles: BTreeSet<PrincipalName> = self.roles.clone();
        if self.kind == PrincipalKind::User
            && let Ok(public) = PrincipalName::parse(PUBLIC)
        {
            roles.insert(public);
        }
        PrincipalView {
            name: self.name.clone(),
            kind: self.kind,
            identities: self.identities.iter().cloned().collect(),
            roles: roles.into_iter().collect(),
            default_schema: self.default_schema.clone(),
            etag: self.etag(),
            created: self.created,
            password_set: self.password.is_some(),
            disabled: self.disabled,
        }
    }
}

/// Whether a principal is an administrator of the system, or would be if it were not disabled: such a one is changed by another administrator only.
fn administers_system(rights: &Rights, principal: &PrincipalName) -> bool {
    rights
        .grants
        .keys()
        .filter(|key| key.object_type == ObjectType::System && key.permission == Permission::Admin)
        .any(|key| rights.reaches(principal, &key.principal))
}

/// What changing `principal` needs.
pub(super) fn need_over(rights: &Rights, principal: &PrincipalName) -> Need {
    Need::system(if administers_system(rights, principal) { Permission::Admin } else { Permission::UserAdmin })
}

pub(super) fn parse_principal(field: &str, text: &str) -> Result<PrincipalName, Problem> {
    PrincipalName::parse(text).map_err(|fault| invalid_name(field, &fault))
}

pub(super) fn principal_not_found(name: &PrincipalName) -> Problem {
    Problem::new(Reason::PrincipalNotFound, format!("there is no user or role {name}; create it first")).with("name", name.as_str()).resource("principal", name)
}

fn role_not_found(name: &PrincipalName) -> Problem {
    Problem::new(Reason::RoleNotFound, format!("there is no role {name}; create it first")).with("name", name.as_str()).resource("role", name)
}

fn built_in(name: &PrincipalName, what: &str) -> Problem {
    Problem::new(Reason::InvalidField, format!("{name} is built in and cannot be {what}")).with("field", "name").code(crate::problem::Code::FailedPrecondition)
}

fn check_identity(field: &str, identity: &str) -> Result<(), Problem> {
    if identity.is_empty() || identity.len() > limits::IDENTITY_BYTES_MAX || identity.chars().any(char::is_control) {
        let message = format!("an identity has 1 to {} bytes and no control characters", limits::IDENTITY_BYTES_MAX);
        return Err(Problem::field(field, Reason::InvalidField, message));
    }
    Ok(())
}

fn check_password(password: &Secret) -> Result<(), Problem> {
    if password.expose().len() > limits::PASSWORD_BYTES_MAX {
        let message = format!("a password has at most {} bytes", limits::PASSWORD_BYTES_MAX);
        return Err(Problem::field("password", Reason::InvalidField, message));
    }
    Ok(())
}

impl Domain {
    /// Who a caller is, by what they presented from the address `peer` (`ip:port`). Same text and same work whatever is wrong.
    pub async fn authenticate(&self, presented: Presented, peer: &str) -> Result<Caller, Problem> {
        let scheme = match &presented {
            Presented::Nothing => "none",
            Presented::Certificate(_) => "certificate",
            Presented::Forwarded(_) => "forwarded",
            Presented::Linkerd(_) => "linkerd",
            Presented::Bearer(_) => "bearer",
            Presented::Basic { .. } => "basic",
        };
        let claimed = match &presented {
            Presented::Certificate(identity) | Presented::Forwarded(identity) | Presented::Linkerd(identity) => identity.clone(),
            Presented::Basic { user, .. } => user.clone(),
            Presented::Nothing | Presented::Bearer(_) => String::new(),
        };
        let found = match presented {
            Presented::Nothing if self.0.settings.insecure_anonymous_admin => {
                let admin = PrincipalName::parse(ADMIN).expect("a principal's name");
                return Ok(Caller { principal: admin, source: IdentitySource::Anonymous, identity: String::new(), expires: None });
            }
            Presented::Nothing => None,
            Presented::Certificate(identity) => self.by_identity(identity, IdentitySource::ClientCertificate).await?,
            Presented::Forwarded(identity) => self.by_identity(identity, IdentitySource::ForwardedCertificate).await?,
            Presented::Linkerd(identity) => self.by_identity(identity, IdentitySource::Linkerd).await?,
            Presented::Bearer(token) => self.by_token(&token).await?,
            Presented::Basic { user, password } => self.by_password(&user, &password, peer).await?,
        };
        match found {
            Some(caller) => Ok(caller),
            None => Err(self.not_authenticated(scheme, claimed, peer).await),
        }
    }

    async fn not_authenticated(&self, scheme: &'static str, claimed: String, peer: &str) -> Problem {
        let line = Line {
            identity: claimed,
            source: scheme,
            peer: peer.to_owned(),
            decision: "deny",
            rule: "no proof of a user".to_owned(),
            outcome: "refused".to_owned(),
            ..Line::default()
        };
        if let Err(problem) = self.0.audit.write(line).await {
            tracing::error!(%problem, "a failed authentication is missing in the audit log");
        }
        let message = if scheme == "none" {
            "the call proves no user; send authorization: Bearer with an access token, authorization: Basic, or a client certificate"
        } else {
            "what the call presents proves no user of this server; check the token, the password or the certificate"
        };
        Problem::new(Reason::Unauthenticated, message).with("scheme", scheme)
    }

    async fn by_identity(&self, identity: String, source: IdentitySource) -> Result<Option<Caller>, Problem> {
        if check_identity("identity", &identity).is_err() {
            return Ok(None);
        }
        let Some(name) = self.0.store.get(IDENTITIES, &identity_key(&identity)).await.map_err(catalog::store_problem)? else { return Ok(None) };
        let name: PrincipalName = catalog::decode(IDENTITIES, &name)?;
        let row: Option<PrincipalRow> = self.row(name.as_str().as_bytes()).await?;
        Ok(row.filter(|row| !row.disabled).map(|row| Caller { principal: row.name, source, identity, expires: None }))
    }

    async fn by_password(&self, user: &str, password: &Secret, peer: &str) -> Result<Option<Caller>, Problem> {
        let address = peer.rsplit_once(':').map_or(peer, |(address, _)| address);
        let account = format!("user {}", user.chars().take(limits::PRINCIPAL_CHARS_MAX + 1).collect::<String>());
        let watched = [account.clone(), format!("peer {address}")];
        self.0.passwords.check_pause(&watched)?;
        let row: Option<PrincipalRow> = match PrincipalName::parse(user) {
            Ok(name) => self.row(name.as_str().as_bytes()).await?,
            Err(_) => None,
        };
        let stored = row.as_ref().filter(|row| !row.disabled).and_then(|row| row.password.as_deref());
        let proof = self.0.keys.login(&[user.as_bytes(), stored.unwrap_or_default().as_bytes(), password.expose()]);
        let ids = &*self.0.ambient.ids;
        let right = password.expose().len() <= limits::PASSWORD_BYTES_MAX && self.0.passwords.verify(ids, proof, stored, password).await?;
        if !right {
            self.0.passwords.failed(&watched);
            return Ok(None);
        }
        self.0.passwords.succeeded(&account);
        Ok(row.map(|row| Caller { identity: row.name.to_string(), principal: row.name, source: IdentitySource::Password, expires: None }))
    }

    /// Makes a user or a role.
    pub async fn create_principal(&self, cx: &OpContext, request: CreatePrincipal) -> Result<CreatedPrincipal, Problem> {
        let name = parse_principal("name", &request.name);
        let mut faults = Vec::new();
        if request.kind.is_none() {
            faults.push(Problem::field("kind", Reason::InvalidField, "kind must be USER or ROLE"));
        }
        if request.kind == Some(PrincipalKind::Role) && !request.identities.is_empty() {
            faults.push(Problem::field("identities", Reason::InvalidField, "a role has no identities; give them to users and the role to those"));
        }
        if request.kind == Some(PrincipalKind::Role) && request.password.as_ref().is_some_and(|password| !password.is_empty()) {
            faults.push(Problem::field("password", Reason::InvalidField, "a role has no password; nobody calls as a role"));
        }
        for (index, identity) in request.identities.iter().enumerate() {
            faults.extend(check_identity(&format!("identities[{index}]"), identity).err());
        }
        faults.extend(request.password.as_ref().and_then(|password| check_password(password).err()));
        let default_schema = match request.default_schema.as_str() {
            "" => Name::parse_schema(DEFAULT_SCHEMA),
            given => Name::parse_schema(given),
        };
        faults.extend(default_schema.as_ref().err().map(|fault| invalid_name("default_schema", fault)));
        let (Ok(name), Some(kind), Ok(default_schema)) = (&name, request.kind, default_schema) else {
            return Err(Problem::all(name.err().into_iter().chain(faults)).unwrap_or_else(|| principal_fault("name")));
        };
        if let Some(problem) = Problem::all(faults) {
            return Err(problem);
        }
        let secrets: Vec<&Secret> = request.password.iter().collect();
        let ticket = self.ticket(cx, &request.request_id, &request, &secrets)?;
        self.refresh_rights().await?;
        self.permit(cx, &Need::system(Permission::UserAdmin), &"").await?;
        let password = match request.password.as_ref().filter(|password| !password.is_empty()) {
            Some(password) => Some(self.0.passwords.hash(&*self.0.ambient.ids, password).await?),
            None => None,
        };
        change!(self, cx, ticket, false, |draft| {
            let permit = self.permit(cx, &Need::system(Permission::UserAdmin), name).await?;
            draft.permits.push(permit);
            match draft.get::<PrincipalRow>(name.as_str().as_bytes()).await? {
                Some(row) if request.if_not_exists => CreatedPrincipal { principal: row.view(), created: false },
                Some(_) => return Err(already_exists_principal(name)),
                None => {
                    let mut row = PrincipalRow::new(name.clone(), kind, self.0.ambient.ids.uuid(), Some(default_schema.clone()), self.0.ambient.now());
                    row.password.clone_from(&password);
                    add_identities(&mut draft, &mut row, &request.identities).await?;
                    draft.put_principal(&row)?;
                    CreatedPrincipal { principal: row.view(), created: true }
                }
            }
        })
    }

    /// Changes a user or a role; a user may change their own password and default schema.
    pub async fn alter_principal(&self, cx: &OpContext, request: AlterPrincipal) -> Result<AlteredPrincipal, Problem> {
        let name = parse_principal("name", &request.name)?;
        let mut faults: Vec<Problem> = Vec::new();
        for (index, identity) in request.add_identities.iter().enumerate() {
            faults.extend(check_identity(&format!("add_identities[{index}]"), identity).err());
        }
        faults.extend(request.password.as_ref().and_then(|password| check_password(password).err()));
        let default_schema = match request.default_schema.as_deref() {
            None | Some("") => None,
            Some(given) => match Name::parse_schema(given) {
                Ok(name) => Some(name),
                Err(fault) => {
                    faults.push(invalid_name("default_schema", &fault));
                    None
                }
            },
        };
        if let Some(problem) = Problem::all(faults) {
            return Err(problem);
        }
        let own_only = request.add_identities.is_empty() && request.remove_identities.is_empty() && request.disabled.is_none();
        if own_only && request.password.is_none() && request.default_schema.is_none() {
            return Err(Problem::new(Reason::NothingToAlter, format!("the request changes nothing of {name}; set at least one field")));
        }
        let secrets: Vec<&Secret> = request.password.iter().collect();
        let ticket = self.ticket(cx, &request.request_id, &request, &secrets)?;
        self.refresh_rights().await?;
        self.permit_over(cx, &name, own_only).await?;
        let password = match request.password.as_ref().filter(|password| !password.is_empty()) {
            Some(password) => Some(self.0.passwords.hash(&*self.0.ambient.ids, password).await?),
            None => None,
        };
        change!(self, cx, ticket, false, |draft| {
            let permit = self.permit_over(cx, &name, own_only).await?;
            draft.permits.push(permit);
            let Some(mut row) = draft.get::<PrincipalRow>(name.as_str().as_bytes()).await? else { return Err(principal_not_found(&name)) };
            check_etag(&request.etag, &row.etag(), ObjectType::System, &name)?;
            if row.kind == PrincipalKind::Role && (request.password.is_some() || !request.add_identities.is_empty()) {
                return Err(Problem::field("name", Reason::InvalidField, format!("{name} is a role: it has neither password nor identities")));
            }
            if request.disabled == Some(true) && [ADMIN, PUBLIC].contains(&name.as_str()) {
                return Err(built_in(&name, "disabled"));
            }
            let before = serde_json::to_value(&row).ok();
            add_identities(&mut draft, &mut row, &request.add_identities).await?;
            for identity in &request.remove_identities {
                if row.identities.remove(identity) {
                    draft.delete(IDENTITIES, identity_key(identity));
                }
            }
            if request.default_schema.is_some() {
                row.default_schema.clone_from(&default_schema);
            }
            if request.password.is_some() {
                row.password.clone_from(&password);
            }
            if let Some(disabled) = request.disabled {
                row.disabled = disabled;
            }
            let changed = serde_json::to_value(&row).ok() != before;
            if changed {
                row.generation += 1;
                draft.put_principal(&row)?;
                draft.effects.push(Effect::Recheck);
            }
            AlteredPrincipal { principal: row.view(), changed }
        })
    }

    /// Drops a user or a role, with its grants, memberships and tokens.
    pub async fn drop_principal(&self, cx: &OpContext, request: DropPrincipal) -> Result<DroppedPrincipal, Problem> {
        let name = parse_principal("name", &request.name)?;
        let ticket = self.ticket(cx, &request.request_id, &request, &[])?;
        change!(self, cx, ticket, false, |draft| {
            let permit = self.permit_over(cx, &name, false).await?;
            draft.permits.push(permit);
            match draft.get::<PrincipalRow>(name.as_str().as_bytes()).await? {
                None if request.if_exists => DroppedPrincipal { dropped: false },
                None => return Err(principal_not_found(&name)),
                Some(_) if [ADMIN, PUBLIC].contains(&name.as_str()) => return Err(built_in(&name, "dropped")),
                Some(row) => {
                    check_etag(&request.etag, &row.etag(), ObjectType::System, &name)?;
                    self.drop_with_all(&mut draft, &row).await?;
                    DroppedPrincipal { dropped: true }
                }
            }
        })
    }

    async fn drop_with_all(&self, draft: &mut Draft<'_>, row: &PrincipalRow) -> Result<(), Problem> {
        let (grants, members) = self.with_rights(|rights| {
            let grants: Vec<_> = rights.granted_to(&row.name).map(|(key, _)| key.clone()).collect();
            let members: Vec<_> = rights.principals.iter().filter(|(_, standing)| standing.roles.contains(&row.name)).map(|(name, _)| name.clone()).collect();
            (grants, members)
        });
        for key in grants {
            draft.delete_grant(key);
        }
        for member in members {
            if let Some(mut member) = draft.get::<PrincipalRow>(member.as_str().as_bytes()).await? {
                member.roles.remove(&row.name);
                member.generation += 1;
                draft.put_principal(&member)?;
            }
        }
        for identity in &row.identities {
            draft.delete(IDENTITIES, identity_key(identity));
        }
        for (key, bytes) in draft.scan(TOKENS, b"").await? {
            if catalog::decode::<TokenRow>(TOKENS, &bytes)?.principal == row.name {
                draft.delete(TOKENS, key);
            }
        }
        draft.delete_principal(&row.name);
        draft.effects.push(Effect::Recheck);
        Ok(())
    }

    /// Shows users and roles: oneself and one's roles, or all for who administers users.
    pub async fn show_principal(&self, cx: &OpContext, request: ShowPrincipal) -> Result<ShownPrincipals, Problem> {
        self.refresh_rights().await?;
        let caller = &cx.caller.principal;
        let (all, own) =
            self.with_rights(|rights| (super::access::decide(rights, caller, &Need::system(Permission::UserAdmin)).allowed(), rights.roles_of(caller)));
        if !request.name.is_empty() && !request.name.contains('*') {
            let name = parse_principal("name", &request.name)?;
            if !all && !own.contains_key(&name) {
                self.permit(cx, &Need::system(Permission::UserAdmin), &name).await?;
            }
            let row: PrincipalRow = self.row(name.as_str().as_bytes()).await?.ok_or_else(|| principal_not_found(&name))?;
            let principals = if request.kind.is_none_or(|kind| kind == row.kind) { vec![row.view()] } else { Vec::new() };
            return Ok(ShownPrincipals { principals, next_page_token: String::new() });
        }
        let glob = if request.name.is_empty() { "*" } else { &request.name };
        let page = request.page.open(&self.0.keys, &("principals", caller, glob, request.kind))?;
        let (principals, next_page_token) = self
            .fill(PRINCIPALS, b"", &page, |_, bytes| {
                let row: PrincipalRow = catalog::decode(PRINCIPALS, &bytes)?;
                let shown = (all || own.contains_key(&row.name)) && request.kind.is_none_or(|kind| kind == row.kind) && glob_matches(glob, row.name.as_str());
                Ok(shown.then(|| row.view()))
            })
            .await?;
        Ok(ShownPrincipals { principals, next_page_token })
    }

    /// Makes a user or a role a member of a role.
    pub async fn grant_role(&self, cx: &OpContext, request: GrantRole) -> Result<Changed, Problem> {
        let (role, member) = both_names(&request.role, &request.member)?;
        let ticket = self.ticket(cx, &request.request_id, &request, &[])?;
        change!(self, cx, ticket, false, |draft| {
            let permit = self.permit_role(cx, &role, Some(&member)).await?;
            draft.permits.push(permit);
            self.check_role(&mut draft, &role).await?;
            let Some(mut row) = draft.get::<PrincipalRow>(member.as_str().as_bytes()).await? else { return Err(principal_not_found(&member)) };
            if self.with_rights(|rights| rights.reaches(&role, &member)) {
                let message = format!("{role} holds {member} already, directly or through other roles; roles must not go in circles");
                return Err(Problem::field("member", Reason::InvalidField, message));
            }
            let changed = row.roles.insert(role.clone());
            if changed {
                row.generation += 1;
                draft.put_principal(&row)?;
            }
            Changed { changed }
        })
    }

    /// Ends a membership; sessions that rested on it end within a second.
    pub async fn revoke_role(&self, cx: &OpContext, request: RevokeRole) -> Result<Changed, Problem> {
        let (role, member) = both_names(&request.role, &request.member)?;
        let ticket = self.ticket(cx, &request.request_id, &request, &[])?;
        change!(self, cx, ticket, false, |draft| {
            let permit = self.permit_role(cx, &role, None).await?;
            draft.permits.push(permit);
            self.check_role(&mut draft, &role).await?;
            let Some(mut row) = draft.get::<PrincipalRow>(member.as_str().as_bytes()).await? else { return Err(principal_not_found(&member)) };
            let changed = row.roles.remove(&role);
            if changed {
                row.generation += 1;
                draft.put_principal(&row)?;
                draft.effects.push(Effect::Recheck);
            } else if !request.if_exists {
                let message = format!("{member} does not hold the role {role} itself; ShowPrincipal lists the roles it holds");
                return Err(Problem::new(Reason::GrantNotFound, message).with("name", role.as_str()).resource("role", &role));
            }
            Changed { changed }
        })
    }

    /// What changing a principal needs: nothing for one's own password and default schema, user_admin for others, admin for administrators of the system.
    async fn permit_over(&self, cx: &OpContext, name: &PrincipalName, own_is_fine: bool) -> Result<super::catalog::Permit, Problem> {
        let enabled = self.with_rights(|rights| !rights.roles_of(&cx.caller.principal).is_empty());
        if own_is_fine && enabled && cx.caller.principal == *name {
            return Ok(super::catalog::Permit {
                object_type: ObjectType::System,
                object: name.to_string(),
                permission: Permission::UserAdmin,
                rule: "own".to_owned(),
            });
        }
        let need = self.with_rights(|rights| need_over(rights, name));
        self.permit(cx, &need, name).await
    }

    /// What giving or taking a role needs; nobody but an administrator of the system gives roles to themselves.
    async fn permit_role(&self, cx: &OpContext, role: &PrincipalName, to: Option<&PrincipalName>) -> Result<super::catalog::Permit, Problem> {
        let need = self.with_rights(|rights| {
            let to_oneself = to.is_some_and(|member| rights.roles_of(&cx.caller.principal).contains_key(member));
            if to_oneself { Need::system(Permission::Admin) } else { need_over(rights, role) }
        });
        self.permit(cx, &need, role).await
    }

    async fn check_role(&self, draft: &mut Draft<'_>, role: &PrincipalName) -> Result<(), Problem> {
        if role.as_str() == PUBLIC {
            return Err(Problem::field("role", Reason::InvalidField, "everyone holds public; it is neither given nor taken"));
        }
        match draft.get::<PrincipalRow>(role.as_str().as_bytes()).await? {
            Some(row) if row.kind == PrincipalKind::Role => Ok(()),
            _ => Err(role_not_found(role)),
        }
    }
}

fn both_names(role: &str, member: &str) -> Result<(PrincipalName, PrincipalName), Problem> {
    match (parse_principal("role", role), parse_principal("member", member)) {
        (Ok(role), Ok(member)) => Ok((role, member)),
        (role, member) => Err(Problem::all(role.err().into_iter().chain(member.err())).unwrap_or_else(|| principal_fault("role"))),
    }
}

fn principal_fault(field: &str) -> Problem {
    Problem::field(field, Reason::InvalidName, "the name is not valid")
}

fn already_exists_principal(name: &PrincipalName) -> Problem {
    let mut problem = already_exists(ObjectType::System, name);
    problem.message = format!("there is a user or role {name} already; choose another name");
    problem
}

fn identity_key(identity: &str) -> Vec<u8> {
    identity.as_bytes().to_vec()
}

async fn add_identities(draft: &mut Draft<'_>, row: &mut PrincipalRow, identities: &[String]) -> Result<(), Problem> {
    for identity in identities {
        match draft.bytes(IDENTITIES, &identity_key(identity)).await? {
            Some(bytes) if catalog::decode::<PrincipalName>(IDENTITIES, &bytes)? != row.name => {
                let message = format!("the identity {identity:?} proves another user already; take it from that one first");
                return Err(Problem::new(Reason::AlreadyExists, message)
                    .with("name", identity.clone())
                    .with("object_type", "identity")
                    .resource("identity", identity));
            }
            _ => {
                draft.put_bytes(IDENTITIES, identity_key(identity), catalog::encode(&row.name)?);
                row.identities.insert(identity.clone());
            }
        }
    }
    Ok(())
}
