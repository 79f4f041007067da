//! Why: one function decides who may do what, over one table of rules. Never reads the store: it judges what it is given.
//!
//! Rights only add up: there are no negative permissions. A principal has its own grants, those of every role it holds, and those of `public`.
//! A grant is on one object (by uid, so that a re-created object starts with none), on all objects of a type in a schema, on all of a type anywhere, or on the system.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    fmt,
};

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::{clock::Timestamp, name::PrincipalName};

/// The role that everyone holds.
pub const PUBLIC: &str = "public";
/// The user that is there from the first start, an administrator of the system for good.
pub const ADMIN: &str = "admin";

/// What a permission is on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[expect(missing_docs, reason = "the interface's own comments in proto/datasink/v1/permission.proto")]
pub enum ObjectType {
    DataSink = 1,
    Credential = 2,
    Schema = 3,
    Table = 4,
    TableMonitor = 5,
    Directory = 6,
    System = 7,
}

impl ObjectType {
    /// Every type.
    pub const ALL: [Self; 7] = [Self::DataSink, Self::Credential, Self::Schema, Self::Table, Self::TableMonitor, Self::Directory, Self::System];

    /// The words for it in messages.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::DataSink => "data sink",
            Self::Credential => "credential",
            Self::Schema => "schema",
            Self::Table => "table",
            Self::TableMonitor => "table monitor",
            Self::Directory => "directory",
            Self::System => "system",
        }
    }

    /// The permissions that can be granted on it.
    pub const fn permissions(self) -> &'static [Permission] {
        use Permission as P;
        match self {
            Self::DataSink => &[P::Connect, P::Admin, P::Create],
            Self::Credential => &[P::Read, P::Admin, P::Create],
            Self::Schema => &[P::Admin],
            Self::Table => &[P::Read, P::Insert, P::Update, P::Delete, P::Admin, P::Create],
            Self::TableMonitor => &[P::Admin, P::Create],
            Self::Directory => &[P::Read, P::Write],
            Self::System => &[P::Admin, P::UserAdmin, P::Create, P::Read, P::Write, P::Monitor],
        }
    }

    /// The permissions of which each alone lets an object be seen.
    pub(super) const fn seen_with(self) -> &'static [Permission] {
        use Permission as P;
        match self {
            Self::DataSink => &[P::Connect],
            Self::Credential | Self::Directory => &[P::Read],
            Self::Table => &[P::Read, P::Insert, P::Update, P::Delete],
            Self::Schema | Self::TableMonitor | Self::System => &[P::Admin],
        }
    }
}

impl fmt::Display for ObjectType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A permission. `Admin` on an object is every permission on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[expect(missing_docs, reason = "the interface's own comments in proto/datasink/v1/permission.proto")]
pub enum Permission {
    Admin = 1,
    Connect = 2,
    Create = 3,
    Read = 4,
    Insert = 5,
    Update = 6,
    Delete = 7,
    Write = 8,
    Monitor = 9,
    UserAdmin = 10,
}

impl Permission {
    /// Every permission.
    pub const ALL: [Self; 10] =
        [Self::Admin, Self::Connect, Self::Create, Self::Read, Self::Insert, Self::Update, Self::Delete, Self::Write, Self::Monitor, Self::UserAdmin];

    /// The word for it in messages.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Admin => "admin",
            Self::Connect => "connect",
            Self::Create => "create",
            Self::Read => "read",
            Self::Insert => "insert",
            Self::Update => "update",
            Self::Delete => "delete",
            Self::Write => "write",
            Self::Monitor => "monitor",
            Self::UserAdmin => "user_admin",
        }
    }
}

impl fmt::Display for Permission {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What a grant covers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Target {
    /// The system.
    System,
    /// All objects of the grant's type, now and later.
    Everywhere,
    /// Objects of the grant's type in this schema, now and later; for `Create` and for the type `Schema` the schema itself.
    Schema(Uuid),
    /// One object.
    Object(Uuid),
}

impl Target {
    /// Whether it reaches what `need` is about.
    fn covers(self, need: &Need) -> bool {
        match self {
            Self::System | Self::Everywhere => true,
            Self::Schema(schema) => need.schema == Some(schema),
            Self::Object(object) => need.object == Some(object),
        }
    }
}

/// What tells one grant from another.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct GrantKey {
    /// Who has it.
    pub principal: PrincipalName,
    /// What it is on.
    pub object_type: ObjectType,
    /// See `object_type`.
    pub target: Target,
    /// What it allows.
    pub permission: Permission,
}

/// The rest of a grant.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GrantFacts {
    /// Whether the holder may hand it on.
    pub with_grant_option: bool,
    /// Who gave it.
    pub grantor: PrincipalName,
    /// When.
    pub created: Timestamp,
}

/// What a decision must know of a principal.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Standing {
    /// Nothing that names it works.
    pub disabled: bool,
    /// Roles it holds directly.
    pub roles: BTreeSet<PrincipalName>,
}

/// Everything a decision rests on, as of one version.
#[derive(Debug, Clone, Default)]
pub struct Rights {
    /// Grows with every change of a principal's standing or of a grant.
    pub version: u64,
    /// Users and roles.
    pub principals: BTreeMap<PrincipalName, Standing>,
    /// Grants.
    pub grants: BTreeMap<GrantKey, GrantFacts>,
}

/// What a caller needs: a permission on an object, or on a place where one is or would be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Need {
    /// The object's type.
    pub object_type: ObjectType,
    /// What is to be done.
    pub permission: Permission,
    /// The schema it is in; `None` for the system, and for "everywhere".
    pub schema: Option<Uuid>,
    /// The object; `None` where there is none (yet), or all of the schema are meant.
    pub object: Option<Uuid>,
}

impl Need {
    /// A permission on the system.
    pub const fn system(permission: Permission) -> Self {
        Self { object_type: ObjectType::System, permission, schema: None, object: None }
    }

    /// The same object with another permission.
    #[must_use]
    pub const fn with(mut self, permission: Permission) -> Self {
        self.permission = permission;
        self
    }
}

/// A grant that allows something, and the role it comes through.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reason {
    /// Which grant.
    pub key: GrantKey,
    /// The rest of it.
    pub facts: GrantFacts,
    /// The role that has it, where it is not the principal's own.
    pub role: Option<PrincipalName>,
}

/// What was decided, and by which grants: the most direct first. Without one, it is refused.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Decision {
    /// The grants that allow it.
    pub because: Vec<Reason>,
}

impl Decision {
    /// Whether it is allowed.
    pub fn allowed(&self) -> bool {
        !self.because.is_empty()
    }
}

/// One row of the table of rules: who holds `held` on a target may do `gives` to what the target covers.
struct Rule {
    held: (ObjectType, Permission),
    gives: &'static [(ObjectType, &'static [Permission])],
}

/// The rules, beside the first one: whoever holds a permission on a target has that permission there.
const RULES: &[Rule] = {
    use ObjectType as T;
    use Permission as P;
    /// Everything that can be done to what is in a schema, creating it included.
    const CONTENTS: &[(ObjectType, &[Permission])] = &[
        (ObjectType::DataSink, ObjectType::DataSink.permissions()),
        (ObjectType::Credential, ObjectType::Credential.permissions()),
        (ObjectType::Table, ObjectType::Table.permissions()),
        (ObjectType::TableMonitor, ObjectType::TableMonitor.permissions()),
    ];
    &[
        // Admin on an object is every permission on it; creating is a right on the schema, not on the object.
        Rule { held: (T::DataSink, P::Admin), gives: &[(T::DataSink, &[P::Connect])] },
        Rule { held: (T::Credential, P::Admin), gives: &[(T::Credential, &[P::Read])] },
        Rule { held: (T::Table, P::Admin), gives: &[(T::Table, &[P::Read, P::Insert, P::Update, P::Delete])] },
        Rule { held: (T::Directory, P::Write), gives: &[(T::Directory, &[P::Read])] },
        // Whoever administers a schema administers what is in it.
        Rule { held: (T::Schema, P::Admin), gives: CONTENTS },
        Rule {
            held: (T::System, P::Admin),
            gives: &[
                (T::System, T::System.permissions()),
                (T::Schema, T::Schema.permissions()),
                (T::Directory, T::Directory.permissions()),
                (T::DataSink, T::DataSink.permissions()),
                (T::Credential, T::Credential.permissions()),
                (T::Table, T::Table.permissions()),
                (T::TableMonitor, T::TableMonitor.permissions()),
            ],
        },
        // `write` administers every schema; users, grants and the server stay with `admin` and `user_admin`.
        Rule {
            held: (T::System, P::Write),
            gives: &[
                (T::System, &[P::Create, P::Read]),
                (T::Schema, T::Schema.permissions()),
                (T::Directory, T::Directory.permissions()),
                (T::DataSink, T::DataSink.permissions()),
                (T::Credential, T::Credential.permissions()),
                (T::Table, T::Table.permissions()),
                (T::TableMonitor, T::TableMonitor.permissions()),
            ],
        },
        Rule {
            held: (T::System, P::Create),
            gives: &[(T::DataSink, &[P::Create]), (T::Credential, &[P::Create]), (T::Table, &[P::Create]), (T::TableMonitor, &[P::Create])],
        },
        // `read` uses credentials and reads tables; it does not send through sinks.
        Rule { held: (T::System, P::Read), gives: &[(T::Table, &[P::Read]), (T::Credential, &[P::Read]), (T::Directory, &[P::Read])] },
    ]
};

/// Whether a grant of `held` gives `need`, were its target right.
fn gives(held: (ObjectType, Permission), need: &Need) -> bool {
    held == (need.object_type, need.permission)
        || RULES
            .iter()
            .filter(|rule| rule.held == held)
            .flat_map(|rule| rule.gives)
            .any(|(object_type, permissions)| *object_type == need.object_type && permissions.contains(&need.permission))
}

/// Whether one grant, in its holder's hands, allows what is needed.
pub(super) fn allows(key: &GrantKey, need: &Need) -> bool {
    key.target.covers(need) && gives((key.object_type, key.permission), need)
}

/// Whether `principal` has what it needs, and why. This is the only place where that is decided.
pub fn decide(rights: &Rights, principal: &PrincipalName, need: &Need) -> Decision {
    let mut because: Vec<Reason> = rights.held_by(principal).filter(|reason| allows(&reason.key, need)).collect();
    because.sort_by_key(|reason| (reason.distance(need), reason.role.clone()));
    Decision { because }
}

/// Whether `grantor` may give (or take) what `need` says, and why: by a grant with grant option that gives it itself, or as an administrator of the system or of its users.
/// `to` must not be one that the grantor acts through where only `user_admin` allows it: nobody raises themselves.
pub fn decide_grant(rights: &Rights, grantor: &PrincipalName, need: &Need, to: &PrincipalName) -> Decision {
    let mut decision = decide(rights, grantor, need);
    decision.because.retain(|reason| reason.facts.with_grant_option || reason.key_held() == (ObjectType::System, Permission::Admin));
    let raises_system = need.object_type == ObjectType::System && matches!(need.permission, Permission::Admin);
    if !raises_system && !rights.roles_of(grantor).contains_key(to) {
        decision.because.extend(decide(rights, grantor, &Need::system(Permission::UserAdmin)).because);
    }
    // System admin and user_admin are given by an administrator of the system only, whatever option a grant carries.
    if need.object_type == ObjectType::System && matches!(need.permission, Permission::Admin | Permission::UserAdmin) {
        decision.because.retain(|reason| reason.key_held() == (ObjectType::System, Permission::Admin));
    }
    decision
}

impl Reason {
    fn key_held(&self) -> (ObjectType, Permission) {
        (self.key.object_type, self.key.permission)
    }

    /// How far a grant is from what it allows: own before a role's, on the object before on a pattern, a schema or the system.
    fn distance(&self, need: &Need) -> (bool, u8, bool) {
        let breadth = match self.key.target {
            Target::Object(_) => 0,
            Target::Schema(_) => 1,
            Target::Everywhere => 2,
            Target::System => 3,
        };
        (self.role.is_some(), breadth, self.key_held() != (need.object_type, need.permission))
    }

    /// The rule in a few words, for the audit log.
    pub fn in_words(&self) -> String {
        let through = self.role.as_ref().map(|role| format!(" through {role}")).unwrap_or_default();
        let on = match self.key.target {
            Target::System => "system".to_owned(),
            Target::Everywhere => format!("every {}", self.key.object_type),
            Target::Schema(schema) => format!("{} in schema {schema}", self.key.object_type),
            Target::Object(object) => format!("{} {object}", self.key.object_type),
        };
        format!("{} on {on}{through}", self.key.permission)
    }
}

impl Rights {
    /// The principal itself and every role it holds, also through roles, `public` included; empty where it is disabled or not there.
    /// The value says whether it is a role (and not the principal itself).
    pub fn roles_of(&self, principal: &PrincipalName) -> BTreeMap<PrincipalName, bool> {
        let mut found = BTreeMap::new();
        let mut next: VecDeque<(PrincipalName, bool)> = VecDeque::from([(principal.clone(), false)]);
        while let Some((name, is_role)) = next.pop_front() {
            let Some(standing) = self.principals.get(&name).filter(|standing| !standing.disabled) else { continue };
            if found.contains_key(&name) {
                continue;
            }
            found.insert(name.clone(), is_role);
            next.extend(standing.roles.iter().map(|role| (role.clone(), true)));
            if !is_role && let Ok(public) = PrincipalName::parse(PUBLIC) {
                next.push_back((public, true));
            }
        }
        found
    }

    /// Every grant that works for `principal`.
    pub fn held_by(&self, principal: &PrincipalName) -> impl Iterator<Item = Reason> {
        self.roles_of(principal).into_iter().flat_map(|(name, is_role)| {
            let role = is_role.then(|| name.clone());
            self.granted_to(&name).map(move |(key, facts)| Reason { key: key.clone(), facts: facts.clone(), role: role.clone() }).collect::<Vec<_>>()
        })
    }

    /// The direct grants of one principal.
    pub fn granted_to(&self, principal: &PrincipalName) -> impl Iterator<Item = (&GrantKey, &GrantFacts)> {
        let from = GrantKey { principal: principal.clone(), object_type: ObjectType::DataSink, target: Target::System, permission: Permission::Admin };
        self.grants.range(from..).take_while(move |(key, _)| key.principal == *principal)
    }

    /// Every grant on one object, or on one schema and its contents.
    pub fn granted_on(&self, uid: Uuid) -> impl Iterator<Item = &GrantKey> {
        self.grants.keys().filter(move |key| key.target == Target::Object(uid) || key.target == Target::Schema(uid))
    }

    /// Whether `role` is reached from `member`, so that making `member` hold it the other way round would close a circle.
    pub fn reaches(&self, from: &PrincipalName, to: &PrincipalName) -> bool {
        let mut seen = BTreeSet::new();
        let mut next = vec![from.clone()];
        while let Some(name) = next.pop() {
            if name == *to {
                return true;
            }
            if seen.insert(name.clone())
                && let Some(standing) = self.principals.get(&name)
            {
                next.extend(standing.roles.iter().cloned());
            }
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn name(text: &str) -> PrincipalName {
        PrincipalName::parse(text).expect("a principal's name")
    }

    fn uid(n: u8) -> Uuid {
        Uuid::from_bytes([n; 16])
    }

    const SCHEMA: u8 = 1;
    const OTHER: u8 = 2;
    const OBJECT: u8 = 10;

    fn facts(with_grant_option: bool) -> GrantFacts {
        GrantFacts { with_grant_option, grantor: name("admin"), created: Timestamp::default() }
    }

    fn world() -> Rights {
        let mut rights = Rights::default();
        for principal in ["alice", "bob", "writers", "leads", PUBLIC] {
            rights.principals.insert(name(principal), Standing::default());
        }
        rights
    }

    fn grant(rights: &mut Rights, principal: &str, object_type: ObjectType, target: Target, permission: Permission, option: bool) {
        rights.grants.insert(GrantKey { principal: name(principal), object_type, target, permission }, facts(option));
    }

    fn need(object_type: ObjectType, permission: Permission) -> Need {
        Need { object_type, permission, schema: Some(uid(SCHEMA)), object: Some(uid(OBJECT)) }
    }

    #[test]
    fn what_each_grant_gives() {
        use ObjectType as T;
        use Permission as P;
        use Target as G;
        let object = G::Object(uid(OBJECT));
        let schema = G::Schema(uid(SCHEMA));
        let table = [
            ((T::DataSink, object, P::Connect), (T::DataSink, P::Connect), true),
            ((T::DataSink, object, P::Connect), (T::DataSink, P::Admin), false),
            ((T::DataSink, object, P::Admin), (T::DataSink, P::Connect), true),
            ((T::DataSink, object, P::Admin), (T::DataSink, P::Create), false),
            ((T::DataSink, G::Object(uid(OTHER)), P::Admin), (T::DataSink, P::Connect), false),
            ((T::DataSink, schema, P::Connect), (T::DataSink, P::Connect), true),
            ((T::DataSink, schema, P::Connect), (T::Table, P::Insert), false),
            ((T::DataSink, G::Schema(uid(OTHER)), P::Connect), (T::DataSink, P::Connect), false),
            ((T::DataSink, G::Everywhere, P::Connect), (T::DataSink, P::Connect), true),
            ((T::DataSink, schema, P::Create), (T::DataSink, P::Create), true),
            ((T::DataSink, schema, P::Create), (T::DataSink, P::Connect), false),
            ((T::Credential, object, P::Read), (T::Credential, P::Read), true),
            ((T::Credential, object, P::Read), (T::Credential, P::Admin), false),
            ((T::Credential, object, P::Admin), (T::Credential, P::Read), true),
            ((T::Table, object, P::Insert), (T::Table, P::Read), false),
            ((T::Table, object, P::Admin), (T::Table, P::Delete), true),
            ((T::Schema, schema, P::Admin), (T::DataSink, P::Create), true),
            ((T::Schema, schema, P::Admin), (T::Credential, P::Admin), true),
            ((T::Schema, schema, P::Admin), (T::System, P::Create), false),
            ((T::Schema, G::Schema(uid(OTHER)), P::Admin), (T::Table, P::Read), false),
            ((T::System, G::System, P::Admin), (T::DataSink, P::Admin), true),
            ((T::System, G::System, P::Admin), (T::System, P::UserAdmin), true),
            ((T::System, G::System, P::Write), (T::DataSink, P::Admin), true),
            ((T::System, G::System, P::Write), (T::System, P::UserAdmin), false),
            ((T::System, G::System, P::Create), (T::Credential, P::Create), true),
            ((T::System, G::System, P::Create), (T::Credential, P::Read), false),
            ((T::System, G::System, P::Read), (T::Credential, P::Read), true),
            ((T::System, G::System, P::Read), (T::DataSink, P::Connect), false),
            ((T::System, G::System, P::UserAdmin), (T::DataSink, P::Connect), false),
            ((T::System, G::System, P::Monitor), (T::System, P::Admin), false),
        ];
        for ((object_type, target, permission), (needed_type, needed), expected) in table {
            let mut rights = world();
            grant(&mut rights, "alice", object_type, target, permission, false);
            let decision = decide(&rights, &name("alice"), &need(needed_type, needed));
            assert_eq!(decision.allowed(), expected, "{permission} on {object_type} ({target:?}) for {needed} on {needed_type}");
            assert!(!decide(&rights, &name("bob"), &need(needed_type, needed)).allowed(), "bob has nothing");
        }
    }

    #[test]
    fn the_most_direct_grant_comes_first() {
        let mut rights = world();
        rights.principals.get_mut(&name("alice")).expect("alice").roles.insert(name("writers"));
        grant(&mut rights, "alice", ObjectType::System, Target::System, Permission::Admin, false);
        grant(&mut rights, "writers", ObjectType::DataSink, Target::Object(uid(OBJECT)), Permission::Connect, false);
        grant(&mut rights, "alice", ObjectType::DataSink, Target::Schema(uid(SCHEMA)), Permission::Connect, false);
        let because = decide(&rights, &name("alice"), &need(ObjectType::DataSink, Permission::Connect)).because;
        let places: Vec<_> = because.iter().map(|reason| (reason.key.target, reason.role.as_ref().map(PrincipalName::as_str))).collect();
        assert_eq!(places, [(Target::Schema(uid(SCHEMA)), None), (Target::System, None), (Target::Object(uid(OBJECT)), Some("writers"))]);
    }

    #[test]
    fn roles_reach_through_roles_and_disabled_ones_reach_nothing() {
        let mut rights = world();
        rights.principals.get_mut(&name("alice")).expect("alice").roles.insert(name("writers"));
        rights.principals.get_mut(&name("writers")).expect("writers").roles.insert(name("leads"));
        grant(&mut rights, "leads", ObjectType::Table, Target::Object(uid(OBJECT)), Permission::Read, false);
        let read = need(ObjectType::Table, Permission::Read);
        assert!(decide(&rights, &name("alice"), &read).allowed());
        assert!(rights.reaches(&name("alice"), &name("leads")) && !rights.reaches(&name("leads"), &name("alice")));
        rights.principals.get_mut(&name("writers")).expect("writers").disabled = true;
        assert!(!decide(&rights, &name("alice"), &read).allowed(), "a disabled role gives nothing");
        rights.principals.get_mut(&name("writers")).expect("writers").disabled = false;
        rights.principals.get_mut(&name("alice")).expect("alice").disabled = true;
        assert!(!decide(&rights, &name("alice"), &read).allowed(), "a disabled user has nothing");
    }

    #[test]
    fn public_is_everyones_and_nobodys_who_is_not_there() {
        let mut rights = world();
        grant(&mut rights, PUBLIC, ObjectType::DataSink, Target::Object(uid(OBJECT)), Permission::Connect, false);
        let connect = need(ObjectType::DataSink, Permission::Connect);
        assert!(decide(&rights, &name("bob"), &connect).allowed());
        assert!(!decide(&rights, &name("nobody"), &connect).allowed());
    }

    #[test]
    fn who_administers_users_gives_rights_but_not_to_themselves_and_not_the_system() {
        let mut rights = world();
        rights.principals.get_mut(&name("alice")).expect("alice").roles.insert(name("writers"));
        grant(&mut rights, "alice", ObjectType::System, Target::System, Permission::UserAdmin, false);
        let connect = need(ObjectType::DataSink, Permission::Connect);
        assert!(decide_grant(&rights, &name("alice"), &connect, &name("bob")).allowed());
        assert!(!decide_grant(&rights, &name("alice"), &connect, &name("alice")).allowed(), "not to oneself");
        assert!(!decide_grant(&rights, &name("alice"), &connect, &name("writers")).allowed(), "not to a role of one's own");
        for permission in [Permission::Admin, Permission::UserAdmin] {
            assert!(!decide_grant(&rights, &name("alice"), &Need::system(permission), &name("bob")).allowed(), "not {permission}");
        }
        assert!(!decide(&rights, &name("alice"), &connect).allowed(), "and sends nothing by that");
    }

    fn needs() -> Vec<Need> {
        let mut needs = Vec::new();
        for object_type in ObjectType::ALL {
            for permission in object_type.permissions() {
                for schema in [None, Some(uid(SCHEMA)), Some(uid(OTHER))] {
                    for object in [None, Some(uid(OBJECT)), Some(uid(OBJECT + 1))] {
                        needs.push(Need { object_type, permission: *permission, schema, object });
                    }
                }
            }
        }
        needs
    }

    /// What granting `permission` on `target` hands out, as something that the grantor must have.
    fn need_of(object_type: ObjectType, target: Target, permission: Permission) -> Need {
        let (schema, object) = match target {
            Target::System | Target::Everywhere => (None, None),
            Target::Schema(schema) => (Some(schema), None),
            Target::Object(object) => (Some(uid(SCHEMA)), Some(object)),
        };
        Need { object_type, permission, schema, object }
    }

    fn any_grant() -> impl Strategy<Value = (ObjectType, Target, Permission)> {
        (0..ObjectType::ALL.len(), 0..4_usize, any::<prop::sample::Index>()).prop_map(|(object_type, target, permission)| {
            let object_type = ObjectType::ALL[object_type];
            let permission = *permission.get(object_type.permissions());
            let target = if object_type == ObjectType::System {
                Target::System
            } else if permission == Permission::Create || object_type == ObjectType::Schema {
                [Target::Everywhere, Target::Schema(uid(SCHEMA)), Target::Schema(uid(OTHER)), Target::Everywhere][target]
            } else {
                [Target::Everywhere, Target::Schema(uid(SCHEMA)), Target::Object(uid(OBJECT)), Target::Object(uid(OBJECT + 1))][target]
            };
            (object_type, target, permission)
        })
    }

    proptest! {
        /// Whatever is handed on under the grant option, nobody gets what the giver has not: the closure of rights never grows by delegation.
        #[test]
        fn delegation_never_grows_the_closure_of_rights(
            start in prop::collection::vec((any_grant(), any::<bool>()), 1..4),
            handed in prop::collection::vec((any_grant(), any::<bool>(), any::<bool>()), 1..12),
        ) {
            let mut rights = world();
            // alice starts with some rights; alice and bob then hand on to each other whatever they may.
            for ((object_type, target, permission), option) in start {
                if (object_type, permission) != (ObjectType::System, Permission::UserAdmin) {
                    grant(&mut rights, "alice", object_type, target, permission, option);
                }
            }
            // Two objects of one schema are the whole world, so an object's grant covers no other schema's needs.
            let universe: Vec<Need> = needs().into_iter().filter(|need| need.object.is_none() || need.schema == Some(uid(SCHEMA))).collect();
            let before: Vec<bool> = universe.iter().map(|need| decide(&rights, &name("alice"), need).allowed()).collect();
            for ((object_type, target, permission), from_alice, option) in handed {
                let (from, to) = if from_alice { ("alice", "bob") } else { ("bob", "alice") };
                if decide_grant(&rights, &name(from), &need_of(object_type, target, permission), &name(to)).allowed() {
                    grant(&mut rights, to, object_type, target, permission, option);
                }
            }
            for (need, had) in universe.iter().zip(before) {
                for who in ["alice", "bob"] {
                    if decide(&rights, &name(who), need).allowed() {
                        prop_assert!(had, "{who} has {need:?}, which alice never had");
                    }
                }
            }
        }

        /// A role is worth exactly what its grants are worth: holding it directly or through others makes no difference.
        #[test]
        fn a_role_gives_what_it_holds(grants in prop::collection::vec(any_grant(), 1..5), depth in 0..3_usize) {
            let mut rights = world();
            for (object_type, target, permission) in grants {
                grant(&mut rights, "leads", object_type, target, permission, false);
            }
            let mut holder = "leads".to_owned();
            for level in 0..depth {
                let next = format!("level{level}");
                rights.principals.insert(name(&next), Standing { disabled: false, roles: [name(&holder)].into() });
                holder = next;
            }
            rights.principals.get_mut(&name("alice")).expect("alice").roles.insert(name(&holder));
            for need in needs() {
                prop_assert_eq!(decide(&rights, &name("alice"), &need).allowed(), decide(&rights, &name("leads"), &need).allowed());
            }
        }
    }
}
