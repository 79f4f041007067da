//! Why: rights are given, taken and explained by name, and kept by object. Never gives what the giver may not give.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{
    Domain, OpContext,
    access::{ADMIN, GrantFacts, GrantKey, Need, ObjectType, Permission, Reason as Because, Rights, Target, decide, decide_grant},
    catalog::{Draft, Effect, Object, Permit, Place, grant_key},
    change,
    credential::{CredentialRow, all_of},
    data_sink::SinkRow,
    in_use, invalid_name, not_found,
    page::Page,
    principal::{PrincipalRow, parse_principal, principal_not_found},
    schema_not_found,
    table::TableRow,
};
use crate::{
    clock::Timestamp,
    delivery::{Directive, Which},
    name::{Name, PrincipalName, QualifiedName},
    problem::{Code, Problem, Reason},
};

/// One grant as it may be shown.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GrantView {
    /// Who has it.
    pub principal: PrincipalName,
    /// What it is on.
    pub object_type: ObjectType,
    /// `schema.name`; `schema.*` or `*`; a schema's name; empty for the system.
    pub object: String,
    /// What it allows.
    pub permission: Permission,
    /// Whether the holder may hand it on.
    pub with_grant_option: bool,
    /// Who gave it.
    pub grantor: PrincipalName,
    /// When.
    pub created: Timestamp,
    /// For an inherited grant: the role or schema it comes through; empty for a direct one.
    pub via: String,
}

/// Gives a permission.
#[derive(Debug, Clone, Serialize)]
#[expect(missing_docs, reason = "the interface's own comments in proto/datasink/v1/permission.proto")]
pub struct GrantPermission {
    pub principal: String,
    /// `None`: the wire said UNSPECIFIED.
    pub object_type: Option<ObjectType>,
    pub object: String,
    /// `None`: the wire said UNSPECIFIED.
    pub permission: Option<Permission>,
    pub with_grant_option: bool,
    pub request_id: String,
}

/// The answer to [`GrantPermission`].
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct GrantedPermission {
    /// The grant.
    pub grant: GrantView,
    /// False where it was there already.
    pub changed: bool,
}

/// Takes a permission back.
#[derive(Debug, Clone, Serialize)]
#[expect(missing_docs, reason = "the interface's own comments in proto/datasink/v1/permission.proto")]
pub struct RevokePermission {
    pub principal: String,
    /// `None`: the wire said UNSPECIFIED.
    pub object_type: Option<ObjectType>,
    pub object: String,
    /// `None`: the wire said UNSPECIFIED.
    pub permission: Option<Permission>,
    pub if_exists: bool,
    pub request_id: String,
}

/// Whether something changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Changed {
    /// False where everything was already so.
    pub changed: bool,
}

/// Asks for grants; each field narrows, all empty shows the caller's own.
#[derive(Debug, Clone, Default)]
#[expect(missing_docs, reason = "the interface's own comments in proto/datasink/v1/permission.proto")]
pub struct ShowPermission {
    pub principal: String,
    pub object_type: Option<ObjectType>,
    pub object: String,
    pub permission: Option<Permission>,
    pub include_inherited: bool,
    pub page: Page,
}

/// The answer to [`ShowPermission`].
#[derive(Debug, Clone, Default)]
pub struct ShownGrants {
    /// By principal, type and object.
    pub grants: Vec<GrantView>,
    /// Empty on the last page.
    pub next_page_token: String,
}

/// Asks whether something would be allowed.
#[derive(Debug, Clone)]
#[expect(missing_docs, reason = "the interface's own comments in proto/datasink/v1/permission.proto")]
pub struct CheckPermission {
    pub principal: String,
    /// `None`: the wire said UNSPECIFIED.
    pub object_type: Option<ObjectType>,
    pub object: String,
    /// `None`: the wire said UNSPECIFIED.
    pub permission: Option<Permission>,
}

/// The answer to [`CheckPermission`].
#[derive(Debug, Clone, Default)]
pub struct CheckedPermission {
    /// Whether it is.
    pub allowed: bool,
    /// The grants that allow it, the most direct first.
    pub because: Vec<GrantView>,
}

/// What a request's type, object and permission mean.
struct Resolved {
    key_type: ObjectType,
    permission: Permission,
    target: Target,
    need: Need,
    /// As it is shown.
    object: String,
    /// Why there is nothing to grant on, told only to those who may know.
    missing: Option<Problem>,
}

/// What a grant is on, as the wire says it, with every fault.
fn checked_kind(object_type: Option<ObjectType>, permission: Option<Permission>) -> Result<(ObjectType, Permission), Problem> {
    let mut faults = Vec::new();
    if object_type.is_none() {
        faults.push(Problem::field("object_type", Reason::InvalidField, "object_type must be one of the object types; UNSPECIFIED is none"));
    }
    if permission.is_none() {
        faults.push(Problem::field("permission", Reason::InvalidField, "permission must be one of the permissions; UNSPECIFIED is none"));
    }
    let (Some(object_type), Some(permission)) = (object_type, permission) else { return Err(all_of(faults)) };
    if object_type == ObjectType::Directory {
        let message = "directories are not in this build: they come with files";
        return Err(Problem::field("object_type", Reason::InvalidField, message).code(Code::Unimplemented));
    }
    if !object_type.permissions().contains(&permission) {
        let known = object_type.permissions().iter().map(|known| known.as_str()).collect::<Vec<_>>().join(", ");
        let message = format!("{permission} is no permission on a {object_type}; there are {known}");
        return Err(Problem::field("permission", Reason::InvalidField, message).with("allowed", known));
    }
    Ok((object_type, permission))
}

impl Domain {
    /// Gives a permission; it works from the next call on.
    pub async fn grant_permission(&self, cx: &OpContext, request: GrantPermission) -> Result<GrantedPermission, Problem> {
        let principal = parse_principal("principal", &request.principal)?;
        let (object_type, permission) = checked_kind(request.object_type, request.permission)?;
        if request.with_grant_option && object_type == ObjectType::System && matches!(permission, Permission::Admin | Permission::UserAdmin) {
            let message = format!("system {permission} is given by administrators of the system only, so it has no grant option");
            return Err(Problem::field("with_grant_option", Reason::InvalidField, message));
        }
        let ticket = self.ticket(cx, &request.request_id, &request, &[])?;
        change!(self, cx, ticket, false, |draft| {
            let resolved = self.resolve_object(cx, &mut draft, object_type, permission, &request.object).await?;
            let permit = self.permit_grant(cx, &resolved, &principal).await?;
            draft.permits.push(permit);
            if let Some(missing) = resolved.missing {
                return Err(missing);
            }
            if draft.get::<PrincipalRow>(principal.as_str().as_bytes()).await?.is_none() {
                return Err(principal_not_found(&principal));
            }
            let key = GrantKey { principal: principal.clone(), object_type: resolved.key_type, target: resolved.target, permission: resolved.permission };
            let there = draft.get::<GrantFacts>(&grant_key(&key)).await?;
            let (facts, changed) = match there {
                // A grant is never weakened by giving it again.
                Some(facts) if facts.with_grant_option || !request.with_grant_option => (facts, false),
                _ => {
                    let grantor = cx.caller.principal.clone();
                    (GrantFacts { with_grant_option: request.with_grant_option, grantor, created: self.0.ambient.now() }, true)
                }
            };
            if changed {
                draft.put_grant(key.clone(), facts.clone())?;
            }
            GrantedPermission { grant: view(&key, &facts, resolved.object, String::new()), changed }
        })
    }

    /// Takes a permission back; sessions that rested on it end within a second. Grants that its holder gave on by it, and could not give any more, must be taken back
    /// first: nothing is taken silently, and nothing stays that nobody stands for.
    pub async fn revoke_permission(&self, cx: &OpContext, request: RevokePermission) -> Result<Changed, Problem> {
        let principal = parse_principal("principal", &request.principal)?;
        let (object_type, permission) = checked_kind(request.object_type, request.permission)?;
        let ticket = self.ticket(cx, &request.request_id, &request, &[])?;
        change!(self, cx, ticket, false, |draft| {
            let resolved = self.resolve_object(cx, &mut draft, object_type, permission, &request.object).await?;
            let permit = self.permit_grant(cx, &resolved, &principal).await?;
            draft.permits.push(permit);
            if let Some(missing) = resolved.missing {
                return Err(missing);
            }
            let key = GrantKey { principal: principal.clone(), object_type: resolved.key_type, target: resolved.target, permission: resolved.permission };
            if key.principal.as_str() == ADMIN && key.object_type == ObjectType::System && key.permission == Permission::Admin {
                return Err(Problem::field("principal", Reason::InvalidField, "admin administers the system for good").code(Code::FailedPrecondition));
            }
            match draft.get::<GrantFacts>(&grant_key(&key)).await? {
                None if request.if_exists => Changed { changed: false },
                None => {
                    let message = format!("{principal} has no {permission} on {object_type} {} by itself; ShowPermission lists what it has", resolved.object);
                    return Err(Problem::new(Reason::GrantNotFound, message).with("name", resolved.object.clone()).resource("grant", &resolved.object));
                }
                Some(_) => {
                    let dependent = self.resting_on(&key).await?;
                    if !dependent.is_empty() {
                        let what = format!("{permission} of {principal}");
                        return Err(in_use(object_type, &what, &dependent, "revoke the grants that were given on by it first"));
                    }
                    draft.delete_grant(key);
                    draft.effects.push(Effect::Recheck);
                    Changed { changed: true }
                }
            }
        })
    }

    /// Shows grants: one's own, those on objects one administers, or all for who administers users.
    pub async fn show_permission(&self, cx: &OpContext, request: ShowPermission) -> Result<ShownGrants, Problem> {
        self.refresh_rights().await?;
        let caller = &cx.caller.principal;
        let all = self.with_rights(|rights| decide(rights, caller, &Need::system(Permission::UserAdmin)).allowed());
        let on = match (request.object_type, request.object.is_empty()) {
            (Some(object_type), false) => {
                let mut draft = self.draft().await?;
                let permission = request.permission.unwrap_or(Permission::Admin);
                Some(self.resolve_object(cx, &mut draft, object_type, permission, &request.object).await?)
            }
            (None, false) => return Err(Problem::field("object_type", Reason::InvalidField, "an object is named together with its object_type")),
            _ => None,
        };
        let administers = on.as_ref().is_some_and(|on| self.with_rights(|rights| decide(rights, caller, &on.need.with(Permission::Admin)).allowed()));
        let of = match request.principal.as_str() {
            "" if on.is_some() && (all || administers) => None,
            "" => Some(caller.clone()),
            name => Some(parse_principal("principal", name)?),
        };
        let own = of.as_ref().is_some_and(|of| self.with_rights(|rights| rights.roles_of(caller).contains_key(of)));
        if !all && !administers && !own {
            self.permit(cx, &Need::system(Permission::UserAdmin), &request.principal).await?;
        }
        if let Some(missing) = on.as_ref().and_then(|on| on.missing.clone())
            && (all || administers)
        {
            return Err(missing);
        }
        let found = self.with_rights(|rights| select(rights, &request, of.as_ref(), on.as_ref()));
        self.grant_page(cx, &request, found).await
    }

    async fn grant_page(&self, cx: &OpContext, request: &ShowPermission, mut found: Vec<Because>) -> Result<ShownGrants, Problem> {
        let question = (&cx.caller.principal, &request.principal, request.object_type, &request.object, request.permission, request.include_inherited);
        let page = request.page.open(&self.0.keys, &("grants", question))?;
        let place = |because: &Because| [grant_key(&because.key), because.role.as_ref().map(|role| role.as_str().into()).unwrap_or_default()].concat();
        found.sort_by_key(place);
        found.retain(|because| page.after.as_ref().is_none_or(|after| place(because) > *after));
        let more = found.len() > page.size;
        found.truncate(page.size);
        let next_page_token = found.last().filter(|_| more).map(|last| page.token(&self.0.keys, &place(last))).unwrap_or_default();
        Ok(ShownGrants { grants: self.views(found).await?, next_page_token })
    }

    /// Whether something would be allowed, and by which grants. About others than oneself and one's roles only for who administers users.
    pub async fn check_permission(&self, cx: &OpContext, request: CheckPermission) -> Result<CheckedPermission, Problem> {
        let principal = if request.principal.is_empty() { cx.caller.principal.clone() } else { parse_principal("principal", &request.principal)? };
        let (object_type, permission) = checked_kind(request.object_type, request.permission)?;
        let mut draft = self.draft().await?;
        let resolved = self.resolve_object(cx, &mut draft, object_type, permission, &request.object).await?;
        let (all, own) = self.with_rights(|rights| {
            let all = decide(rights, &cx.caller.principal, &Need::system(Permission::UserAdmin)).allowed();
            (all, rights.roles_of(&cx.caller.principal).contains_key(&principal))
        });
        if !all && !own {
            self.permit(cx, &Need::system(Permission::UserAdmin), &principal).await?;
        }
        if all && !self.with_rights(|rights| rights.principals.contains_key(&principal)) {
            return Err(principal_not_found(&principal));
        }
        let decision = self.with_rights(|rights| decide(rights, &principal, &resolved.need));
        // Whoever would be allowed, or administers users, may know that there is nothing; others get the one answer "no".
        match resolved.missing {
            Some(missing) if all || decision.allowed() => Err(missing),
            Some(_) => Ok(CheckedPermission::default()),
            None => Ok(CheckedPermission { allowed: decision.allowed(), because: self.views(decision.because).await? }),
        }
    }

    /// What a grant is on. What is looked up becomes a condition of the change.
    async fn resolve_object(
        &self,
        cx: &OpContext,
        draft: &mut Draft<'_>,
        object_type: ObjectType,
        permission: Permission,
        object: &str,
    ) -> Result<Resolved, Problem> {
        let resolved = |target, schema, object_uid, object: String, missing| Resolved {
            key_type: object_type,
            permission,
            target,
            need: Need { object_type, permission, schema, object: object_uid },
            object,
            missing,
        };
        if object_type == ObjectType::System {
            if !object.is_empty() {
                return Err(Problem::field("object", Reason::InvalidField, "the system has no object; leave it empty"));
            }
            return Ok(resolved(Target::System, None, None, String::new(), None));
        }
        if object == "*" {
            return Ok(resolved(Target::Everywhere, None, None, "*".to_owned(), None));
        }
        let on_schema = permission == Permission::Create || object_type == ObjectType::Schema;
        let pattern = object.strip_suffix(".*");
        if on_schema || pattern.is_some() {
            let name = Name::parse_schema(pattern.unwrap_or(object)).map_err(|fault| invalid_name("object", &fault))?;
            let shown = if on_schema { name.to_string() } else { format!("{name}.*") };
            return Ok(match draft.get::<super::schema::SchemaRow>(name.as_str().as_bytes()).await? {
                Some(row) => resolved(Target::Schema(row.uid), Some(row.uid), None, shown, None),
                None => resolved(Target::Schema(Uuid::nil()), None, None, shown, Some(schema_not_found(&name))),
            });
        }
        let name = self.resolve(cx, "object", object).await?;
        let schema = draft.get::<super::schema::SchemaRow>(name.schema.as_str().as_bytes()).await?.map(|row| row.uid);
        let (uid, missing) = match object_type {
            ObjectType::DataSink => found_in::<SinkRow>(draft, &name).await?,
            ObjectType::Credential => found_in::<CredentialRow>(draft, &name).await?,
            ObjectType::Table => found_in::<TableRow>(draft, &name).await?,
            _ => {
                let problem = Problem::new(Reason::TableMonitorNotFound, format!("there is no {object_type} {name}"));
                (None, Some(problem.with("name", name.to_string()).resource(object_type.as_str(), &name)))
            }
        };
        Ok(resolved(Target::Object(uid.unwrap_or(Uuid::nil())), schema, uid, name.to_string(), missing))
    }

    async fn permit_grant(&self, cx: &OpContext, resolved: &Resolved, to: &PrincipalName) -> Result<Permit, Problem> {
        let decision = self.with_rights(|rights| decide_grant(rights, &cx.caller.principal, &resolved.need, to));
        let allowed = decision.allowed();
        self.judged(cx, &resolved.need, &resolved.object, decision).await.map_err(|mut problem| {
            if !allowed {
                let (permission, object_type, object) = (resolved.permission, resolved.key_type, &resolved.object);
                problem.message = format!(
                    "{} may not give or take {permission} on {object_type} {object}, or it does not exist; it takes that permission with grant option, or an administrator",
                    cx.caller.principal
                );
            }
            problem
        })
    }

    /// Grants that the holder of `key` gave, and could not give without it.
    async fn resting_on(&self, key: &GrantKey) -> Result<Vec<String>, Problem> {
        let given: Vec<(GrantKey, GrantFacts)> = self.with_rights(|rights| {
            let given = rights.grants.iter().filter(|(other, facts)| facts.grantor == key.principal && *other != key && other.principal != key.principal);
            given.map(|(other, facts)| (other.clone(), facts.clone())).collect()
        });
        let mut resting = Vec::new();
        for (other, facts) in given {
            let need = self.need_of(&other).await?;
            let rests = self.with_rights(|rights| {
                let mut without = rights.clone();
                without.grants.remove(key);
                decide_grant(rights, &key.principal, &need, &other.principal).allowed()
                    && !decide_grant(&without, &key.principal, &need, &other.principal).allowed()
            });
            if rests {
                let shown = self.views(vec![Because { key: other, facts, role: None }]).await?;
                resting.extend(shown.into_iter().map(|grant| format!("{} on {} {} of {}", grant.permission, grant.object_type, grant.object, grant.principal)));
            }
        }
        Ok(resting)
    }

    /// What one must have to give a grant.
    async fn need_of(&self, key: &GrantKey) -> Result<Need, Problem> {
        let (schema, object) = match key.target {
            Target::System | Target::Everywhere => (None, None),
            Target::Schema(schema) => (Some(schema), None),
            Target::Object(object) => {
                let place: Option<Place> = self.row(object.as_bytes()).await?;
                let name = place.and_then(|place| QualifiedName::parse(&place.name, None).ok());
                let schema = match name {
                    Some(name) => self.schema_uid(&name.schema).await?,
                    None => None,
                };
                (schema, Some(object))
            }
        };
        Ok(Need { object_type: key.object_type, permission: key.permission, schema, object })
    }

    /// Grants with the names of what they are on.
    async fn views(&self, found: Vec<Because>) -> Result<Vec<GrantView>, Problem> {
        let schemas: BTreeMap<Uuid, Name> = self.schema_uids().await?.into_iter().map(|(name, uid)| (uid, name)).collect();
        let mut views = Vec::with_capacity(found.len());
        for because in found {
            let Because { key, facts, role } = because;
            let on_schema = key.permission == Permission::Create || key.object_type == ObjectType::Schema;
            let (object, schema) = match key.target {
                Target::System => (String::new(), None),
                Target::Everywhere => ("*".to_owned(), None),
                Target::Schema(uid) => match schemas.get(&uid) {
                    Some(name) if on_schema => (name.to_string(), Some(name.to_string())),
                    Some(name) => (format!("{name}.*"), Some(name.to_string())),
                    None => continue,
                },
                Target::Object(uid) => match self.row::<Place>(uid.as_bytes()).await? {
                    Some(place) => (place.name, None),
                    None => continue,
                },
            };
            let via = role.map(|role| role.to_string()).or(schema.filter(|_| key.object_type == ObjectType::Schema)).unwrap_or_default();
            views.push(view(&key, &facts, object, via));
        }
        Ok(views)
    }

    /// Ends every open session whose writer may no longer send through its sink.
    pub(super) async fn recheck_sessions(&self) {
        for session in self.0.sessions.live() {
            let (schema, principal) = match (self.schema_uid(&session.sink.name.schema).await, PrincipalName::parse(&session.writer.principal)) {
                (Ok(schema), Ok(principal)) => (schema, principal),
                (Err(problem), _) => {
                    tracing::error!(%problem, "a session's right to connect could not be looked at; it ends");
                    self.0.sessions.direct(&Which::Stream(session.stream), Directive::Stop(problem));
                    continue;
                }
                (_, Err(_)) => continue,
            };
            // A dead-letter session onto a table rests on the right to insert there.
            let needs = [
                Need { object_type: ObjectType::DataSink, permission: Permission::Connect, schema, object: Some(session.sink.uid) },
                Need { object_type: ObjectType::Table, permission: Permission::Insert, schema, object: Some(session.sink.uid) },
            ];
            let allowed = self.with_rights(|rights| needs.iter().any(|need| decide(rights, &principal, need).allowed()));
            if !allowed {
                self.0.sessions.direct(&Which::Stream(session.stream), Directive::Stop(super::denied(&principal, &needs[0], &session.sink.name)));
            }
        }
    }
}

async fn found_in<T: Object>(draft: &mut Draft<'_>, name: &QualifiedName) -> Result<(Option<Uuid>, Option<Problem>), Problem> {
    let row = draft.get::<T>(&super::catalog::name_key(name)).await?;
    Ok(match row {
        Some(row) => (Some(row.head().uid), None),
        None => (None, Some(not_found::<T>(name))),
    })
}

fn view(key: &GrantKey, facts: &GrantFacts, object: String, via: String) -> GrantView {
    GrantView {
        principal: key.principal.clone(),
        object_type: key.object_type,
        object,
        permission: key.permission,
        with_grant_option: facts.with_grant_option,
        grantor: facts.grantor.clone(),
        created: facts.created,
        via,
    }
}

/// The grants a Show call asks for.
fn select(rights: &Rights, request: &ShowPermission, of: Option<&PrincipalName>, on: Option<&Resolved>) -> Vec<Because> {
    let found: Vec<Because> = match of {
        Some(of) if request.include_inherited => rights.held_by(of).collect(),
        Some(of) => rights.granted_to(of).map(|(key, facts)| Because { key: key.clone(), facts: facts.clone(), role: None }).collect(),
        None => rights.grants.iter().map(|(key, facts)| Because { key: key.clone(), facts: facts.clone(), role: None }).collect(),
    };
    let concerns = |because: &Because| match on {
        None => request.object_type.is_none_or(|wanted| wanted == because.key.object_type),
        Some(on) if request.include_inherited => {
            on.key_type.permissions().iter().any(|permission| super::access::allows(&because.key, &on.need.with(*permission)))
        }
        Some(on) => because.key.object_type == on.key_type && because.key.target == on.target,
    };
    found.into_iter().filter(|because| concerns(because) && request.permission.is_none_or(|wanted| wanted == because.key.permission)).collect()
}
