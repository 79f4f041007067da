//! Why: catalogue rows are read and changed here, so that every change is one transaction on the condition of everything it was decided by. Never decides who may.

use std::{collections::BTreeMap, fmt};

use bytes::Bytes;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use uuid::Uuid;

use super::{
    Domain,
    access::{GrantFacts, GrantKey, Need, ObjectType, Permission, Rights, Standing, Target},
    principal::PrincipalRow,
};
use crate::{
    clock::Timestamp,
    delivery::{Directive, Which},
    name::{Name, PrincipalName, QualifiedName},
    problem::{Problem, Reason},
    store::{Store, StoreError, Table, Transaction, Write, rows::Rows},
};

const fn table(name: &'static str) -> Table {
    Table { name, verified_at_open: true }
}

/// Single rows: the cluster's id, keys, the version of the rights.
pub(super) const META: Table = table("meta");
/// `name` → [`super::schema::SchemaRow`].
pub(super) const SCHEMAS: Table = table("schemas");
/// `schema.name` → [`super::data_sink::SinkRow`].
pub(super) const DATA_SINKS: Table = table("data_sinks");
/// `schema.name` → [`super::credential::CredentialRow`].
pub(super) const CREDENTIALS: Table = table("credentials");
/// `schema.name` → [`super::table::TableRow`].
pub(super) const TABLES: Table = table("tables");
/// An object's uid → [`Place`].
pub(super) const PLACES: Table = table("places");
/// `name` → [`PrincipalRow`].
pub(super) const PRINCIPALS: Table = table("principals");
/// A proven identity → the principal's name.
pub(super) const IDENTITIES: Table = table("identities");
/// See [`grant_key`] → [`GrantFacts`].
pub(super) const GRANTS: Table = table("grants");
/// A token's id → [`super::token::TokenRow`].
pub(super) const TOKENS: Table = table("tokens");
/// `principal NUL request id` → the answer given.
pub(super) const REQUESTS: Table = table("requests");
/// Uid of what is referred to, then uid of what refers to it → [`Place`] of the latter.
pub(super) const USES: Table = table("uses");
/// An object's uid → a number that grows whenever something begins or ceases to refer to it: the guard against references that appear while it is dropped.
pub(super) const GUARDS: Table = table("guards");
/// An object's uid and its secret's version → [`crate::vault::Sealed`].
pub(super) const SECRETS: Table = table("secrets");
/// Sink's uid and stream name → [`super::push::StreamRow`].
pub(super) const STREAMS: Table = table("streams");

/// Every table of the catalogue, for engines that must know them beforehand.
pub const CATALOGUE_TABLES: [Table; 15] =
    [META, SCHEMAS, DATA_SINKS, CREDENTIALS, TABLES, PLACES, PRINCIPALS, IDENTITIES, GRANTS, TOKENS, REQUESTS, USES, GUARDS, SECRETS, STREAMS];

const RIGHTS_VERSION: &[u8] = b"rights";

/// What every object of a schema has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Head {
    pub name: QualifiedName,
    pub uid: Uuid,
    pub owner: PrincipalName,
    pub generation: u64,
    pub created: Timestamp,
    pub updated: Timestamp,
}

impl Head {
    /// Opaque to callers; differs between objects of one name and between states of one object.
    pub(super) fn etag(&self) -> String {
        format!("{}-{}", self.uid, self.generation)
    }

    /// Refuses a change that was decided on another state than this one; an empty `etag` asks for no such check.
    pub(super) fn check_etag(&self, etag: &str, object_type: ObjectType) -> Result<(), Problem> {
        check_etag(etag, &self.etag(), object_type, &self.name)
    }
}

/// See [`Head::check_etag`].
pub(super) fn check_etag(given: &str, current: &str, object_type: ObjectType, name: &(dyn fmt::Display + Sync)) -> Result<(), Problem> {
    if given.is_empty() || given == current {
        return Ok(());
    }
    Err(Problem::new(Reason::EtagMismatch, format!("the {object_type} {name} was changed since; read it again and decide anew"))
        .with("etag", given.chars().take(100).collect::<String>())
        .with("current_etag", current))
}

/// Where an object is: its type and name by its uid.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Place {
    pub object_type: ObjectType,
    pub name: String,
}

/// A row of the catalogue.
pub(super) trait Row: Serialize + DeserializeOwned {
    const TABLE: Table;
}

/// An object of a schema.
pub(super) trait Object: Row {
    const TYPE: ObjectType;
    const NOT_FOUND: Reason;
    fn head(&self) -> &Head;
}

impl Row for Place {
    const TABLE: Table = PLACES;
}

impl Row for GrantFacts {
    const TABLE: Table = GRANTS;
}

/// The key of an object of a schema.
pub(super) fn name_key(name: &QualifiedName) -> Vec<u8> {
    name.to_string().into_bytes()
}

/// The key of a reference from `user` to `used`.
pub(super) fn use_key(used: Uuid, user: Uuid) -> Vec<u8> {
    [used.as_bytes().as_slice(), user.as_bytes()].concat()
}

/// A grant's key: readable back, and all grants of a principal beside each other.
pub(super) fn grant_key(key: &GrantKey) -> Vec<u8> {
    let target = match key.target {
        Target::System => vec![b's'],
        Target::Everywhere => vec![b'*'],
        Target::Schema(uid) => [b"n".as_slice(), uid.as_bytes()].concat(),
        Target::Object(uid) => [b"o".as_slice(), uid.as_bytes()].concat(),
    };
    [key.principal.as_str().as_bytes(), &[0, key.object_type as u8, key.permission as u8], &target].concat()
}

fn parse_grant_key(bytes: &[u8]) -> Option<GrantKey> {
    let at = bytes.iter().position(|byte| *byte == 0)?;
    let principal = PrincipalName::parse(std::str::from_utf8(&bytes[..at]).ok()?).ok()?;
    let [object_type, permission, sort, uid @ ..] = &bytes[at + 1..] else { return None };
    let object_type = ObjectType::ALL.into_iter().find(|known| *known as u8 == *object_type)?;
    let permission = Permission::ALL.into_iter().find(|known| *known as u8 == *permission)?;
    let target = match sort {
        b's' => Target::System,
        b'*' => Target::Everywhere,
        b'n' => Target::Schema(Uuid::from_slice(uid).ok()?),
        b'o' => Target::Object(Uuid::from_slice(uid).ok()?),
        _ => return None,
    };
    Some(GrantKey { principal, object_type, target, permission })
}

pub(super) fn encode<T: Serialize>(row: &T) -> Result<Bytes, Problem> {
    serde_json::to_vec(row).map(Bytes::from).map_err(|fault| Problem::new(Reason::Internal, format!("a catalogue row cannot be written: {fault}")))
}

pub(super) fn decode<T: DeserializeOwned>(table: Table, bytes: &[u8]) -> Result<T, Problem> {
    serde_json::from_slice(bytes).map_err(|fault| {
        Problem::new(Reason::StoreCorrupt, format!("a row of {} cannot be read: {fault}; restore a backup with `datasink store import`", table.name))
    })
}

/// A failure of the store as callers see it.
pub(super) fn store_problem(error: StoreError) -> Problem {
    match error {
        StoreError::Unavailable(_) => Problem::new(Reason::StoreUnavailable, error.to_string()).retry_after(std::time::Duration::from_secs(1)),
        StoreError::Corrupt(_) => Problem::new(Reason::StoreCorrupt, error.to_string()),
        StoreError::TooLarge(_) => Problem::new(Reason::InvalidField, format!("the object is too large to be stored: {error}; make it smaller")),
        StoreError::Conflict(_) => Problem::new(Reason::Internal, "a condition of the store did not hold where none was expected"),
    }
}

/// What happens to open sessions once a change is stored.
#[derive(Debug)]
pub(super) enum Effect {
    /// Tell these sessions.
    Tell(Which, Directive),
    /// Look at every session's right to connect again.
    Recheck,
    /// Sessions that came with this access token end.
    TokenEnded(String),
    /// Rows of this table go.
    RowsDropped(Uuid),
    /// Streams of a dropped sink are to be forgotten by the table they wrote to: those whose names there begin like this.
    StreamsDropped(Uuid, String),
}

/// A change under way: what it read is the condition of what it writes.
pub(super) struct Draft<'a> {
    store: &'a dyn Store,
    read: BTreeMap<(Table, Vec<u8>), Option<Bytes>>,
    writes: Vec<Write>,
    rights_version: u64,
    rights_changes: Vec<RightsChange>,
    /// For the audit log: what was changed, by which right.
    pub(super) permits: Vec<Permit>,
    /// What happens once it is stored.
    pub(super) effects: Vec<Effect>,
}

enum RightsChange {
    Grant(GrantKey, Option<GrantFacts>),
    Standing(PrincipalName, Option<Standing>),
}

/// Proof that a caller may do one thing to one object; what reads an object's row asks for it.
#[derive(Debug, Clone)]
pub(super) struct Permit {
    pub object_type: ObjectType,
    pub object: String,
    pub permission: Permission,
    /// The grant that allowed it, in words.
    pub rule: String,
}

impl<'a> Draft<'a> {
    /// Bytes of a row, which become a condition of the change.
    pub(super) async fn bytes(&mut self, table: Table, key: &[u8]) -> Result<Option<Bytes>, Problem> {
        if let Some(write) = self.writes.iter().rev().find(|write| match write {
            Write::Put(t, k, _) | Write::Delete(t, k) => *t == table && k == key,
        }) {
            return Ok(match write {
                Write::Put(_, _, value) => Some(value.clone()),
                Write::Delete(..) => None,
            });
        }
        if let Some(known) = self.read.get(&(table, key.to_vec())) {
            return Ok(known.clone());
        }
        let value = self.store.get(table, key).await.map_err(store_problem)?;
        self.read.insert((table, key.to_vec()), value.clone());
        Ok(value)
    }

    /// A row, which becomes a condition of the change.
    pub(super) async fn get<T: Row>(&mut self, key: &[u8]) -> Result<Option<T>, Problem> {
        self.bytes(T::TABLE, key).await?.map(|bytes| decode(T::TABLE, &bytes)).transpose()
    }

    /// All rows under a prefix. They are no condition: guard what must not appear meanwhile with [`Draft::guard`].
    pub(super) async fn scan(&self, table: Table, prefix: &[u8]) -> Result<Vec<(Vec<u8>, Bytes)>, Problem> {
        scan_all(self.store, table, prefix).await
    }

    /// Sets a row.
    pub(super) fn put<T: Row>(&mut self, key: Vec<u8>, row: &T) -> Result<(), Problem> {
        self.writes.push(Write::Put(T::TABLE, key, encode(row)?));
        Ok(())
    }

    /// Sets bytes.
    pub(super) fn put_bytes(&mut self, table: Table, key: Vec<u8>, value: Bytes) {
        self.writes.push(Write::Put(table, key, value));
    }

    /// Removes a row.
    pub(super) fn delete(&mut self, table: Table, key: Vec<u8>) {
        self.writes.push(Write::Delete(table, key));
    }

    /// Makes the number of references to `uid` a condition; with `change`, says that it changes.
    pub(super) async fn guard(&mut self, uid: Uuid, change: bool) -> Result<(), Problem> {
        let key = uid.as_bytes().to_vec();
        let seen = self.bytes(GUARDS, &key).await?;
        if change {
            let next = seen.and_then(|bytes| decode::<u64>(GUARDS, &bytes).ok()).unwrap_or(0) + 1;
            self.put_bytes(GUARDS, key, encode(&next)?);
        }
        Ok(())
    }

    /// Notes that `user` refers to `used` from now on.
    pub(super) async fn add_use(&mut self, used: Uuid, user: Uuid, place: &Place) -> Result<(), Problem> {
        self.guard(used, true).await?;
        self.put_bytes(USES, use_key(used, user), encode(place)?);
        Ok(())
    }

    /// Notes that `user` no longer refers to `used`.
    pub(super) async fn end_use(&mut self, used: Uuid, user: Uuid) -> Result<(), Problem> {
        self.guard(used, true).await?;
        self.delete(USES, use_key(used, user));
        Ok(())
    }

    /// What refers to `used`, which may not change before the change is stored.
    pub(super) async fn users_of(&mut self, used: Uuid) -> Result<Vec<Place>, Problem> {
        self.guard(used, false).await?;
        self.scan(USES, used.as_bytes()).await?.iter().map(|(_, bytes)| decode(USES, bytes)).collect()
    }

    /// Sets a grant.
    pub(super) fn put_grant(&mut self, key: GrantKey, facts: GrantFacts) -> Result<(), Problem> {
        self.put(grant_key(&key), &facts)?;
        self.rights_changes.push(RightsChange::Grant(key, Some(facts)));
        Ok(())
    }

    /// Removes a grant.
    pub(super) fn delete_grant(&mut self, key: GrantKey) {
        self.delete(GRANTS, grant_key(&key));
        self.rights_changes.push(RightsChange::Grant(key, None));
    }

    /// Sets a principal.
    pub(super) fn put_principal(&mut self, row: &PrincipalRow) -> Result<(), Problem> {
        self.put(row.name.as_str().into(), row)?;
        self.rights_changes.push(RightsChange::Standing(row.name.clone(), Some(row.standing())));
        Ok(())
    }

    /// Removes a principal.
    pub(super) fn delete_principal(&mut self, name: &PrincipalName) {
        self.delete(PRINCIPALS, name.as_str().into());
        self.rights_changes.push(RightsChange::Standing(name.clone(), None));
    }

    /// Notes that the rows of a table are to be removed, so that a crash does not leave them.
    pub(super) fn note_rows_dropped(&mut self, table: Uuid) {
        self.writes.extend(Rows::note_drop(Transaction::new(), table).writes);
    }

    /// Whether anything would be written.
    pub(super) fn is_empty(&self) -> bool {
        self.writes.is_empty()
    }

    fn transaction(&mut self) -> Result<Transaction, Problem> {
        let mut transaction = Transaction::new();
        let version = (self.rights_version > 0).then(|| encode(&self.rights_version)).transpose()?;
        transaction = transaction.expect(META, RIGHTS_VERSION, version);
        if !self.rights_changes.is_empty() {
            transaction = transaction.put(META, RIGHTS_VERSION, encode(&(self.rights_version + 1))?);
        }
        for ((table, key), value) in std::mem::take(&mut self.read) {
            transaction = transaction.expect(table, key, value);
        }
        transaction.writes.extend(std::mem::take(&mut self.writes));
        Ok(transaction)
    }
}

/// Every entry under a prefix.
pub(super) async fn scan_all(store: &dyn Store, table: Table, prefix: &[u8]) -> Result<Vec<(Vec<u8>, Bytes)>, Problem> {
    const AT_ONCE: usize = 1_000;
    let mut found: Vec<(Vec<u8>, Bytes)> = Vec::new();
    loop {
        let after = found.last().map(|(key, _)| key.clone());
        let more = store.scan(table, prefix, after.as_deref(), AT_ONCE).await.map_err(store_problem)?;
        let last = more.len() < AT_ONCE;
        found.extend(more);
        if last {
            return Ok(found);
        }
    }
}

impl Domain {
    /// A change that begins now.
    pub(super) async fn draft(&self) -> Result<Draft<'_>, Problem> {
        self.refresh_rights().await?;
        let rights_version = self.with_rights(|rights| rights.version);
        Ok(Draft {
            store: &*self.0.store,
            read: BTreeMap::new(),
            writes: Vec::new(),
            rights_version,
            rights_changes: Vec::new(),
            permits: Vec::new(),
            effects: Vec::new(),
        })
    }

    /// Stores a change; `false` where something it rests on has changed meanwhile and it must be made anew. Tells sessions what it means for them.
    pub(super) async fn store_draft(&self, mut draft: Draft<'_>) -> Result<bool, Problem> {
        let transaction = draft.transaction()?;
        match self.0.store.transact(transaction).await {
            Ok(()) => {}
            Err(StoreError::Conflict(_)) => return Ok(false),
            Err(error) => return Err(store_problem(error)),
        }
        if !draft.rights_changes.is_empty() {
            self.0.change_rights(draft.rights_version + 1, draft.rights_changes);
        }
        for effect in draft.effects {
            self.take_effect(effect).await;
        }
        Ok(true)
    }

    /// Brings the rights in memory to what is stored, where another process changed them.
    pub(super) async fn refresh_rights(&self) -> Result<(), Problem> {
        let stored = self.0.store.get(META, RIGHTS_VERSION).await.map_err(store_problem)?;
        let stored: u64 = stored.map(|bytes| decode(META, &bytes)).transpose()?.unwrap_or(0);
        if self.with_rights(|rights| rights.version) >= stored {
            return Ok(());
        }
        let rights = load_rights(&*self.0.store).await?;
        let mut known = self.0.rights.write().expect("no one panics while holding the rights");
        if rights.version > known.version {
            *known = rights;
        }
        Ok(())
    }

    /// Judges with the rights in memory; call [`Domain::refresh_rights`] before, once a call.
    pub(super) fn with_rights<R>(&self, judge: impl FnOnce(&Rights) -> R) -> R {
        judge(&self.0.rights.read().expect("no one panics while holding the rights"))
    }

    /// A row, as it is now.
    pub(super) async fn row<T: Row>(&self, key: &[u8]) -> Result<Option<T>, Problem> {
        let bytes = self.0.store.get(T::TABLE, key).await.map_err(store_problem)?;
        bytes.map(|bytes| decode(T::TABLE, &bytes)).transpose()
    }

    /// The uid of a schema, where there is one of that name.
    pub(super) async fn schema_uid(&self, name: &Name) -> Result<Option<Uuid>, Problem> {
        Ok(self.row::<super::schema::SchemaRow>(name.as_str().as_bytes()).await?.map(|row| row.uid))
    }

    /// What a caller needs for `permission` on the object called `name`, whether it exists or not.
    pub(super) async fn need<T: Object>(&self, name: &QualifiedName, permission: Permission) -> Result<(Need, Option<T>), Problem> {
        let schema = self.schema_uid(&name.schema).await?;
        let row: Option<T> = self.row(&name_key(name)).await?;
        let need = Need { object_type: T::TYPE, permission, schema, object: row.as_ref().map(|row| row.head().uid) };
        Ok((need, row))
    }
}

/// Everything decisions rest on, of one version: read again where it changes meanwhile.
pub(super) async fn load_rights(store: &dyn Store) -> Result<Rights, Problem> {
    loop {
        let before = store.get(META, RIGHTS_VERSION).await.map_err(store_problem)?;
        let mut rights = Rights::default();
        for (_, bytes) in scan_all(store, PRINCIPALS, b"").await? {
            let row: PrincipalRow = decode(PRINCIPALS, &bytes)?;
            rights.principals.insert(row.name.clone(), row.standing());
        }
        for (key, bytes) in scan_all(store, GRANTS, b"").await? {
            let key = parse_grant_key(&key).ok_or_else(|| Problem::new(Reason::StoreCorrupt, "a grant's key cannot be read; restore a backup"))?;
            rights.grants.insert(key, decode(GRANTS, &bytes)?);
        }
        if store.get(META, RIGHTS_VERSION).await.map_err(store_problem)? == before {
            rights.version = before.map(|bytes| decode(META, &bytes)).transpose()?.unwrap_or(0);
            return Ok(rights);
        }
    }
}

impl super::Inner {
    fn change_rights(&self, version: u64, changes: Vec<RightsChange>) {
        let mut rights = self.rights.write().expect("no one panics while holding the rights");
        // Another process's change in between leaves the older number, so that the next call reads everything again.
        if rights.version + 1 != version {
            return;
        }
        rights.version = version;
        for change in changes {
            match change {
                RightsChange::Grant(key, Some(facts)) => {
                    rights.grants.insert(key, facts);
                }
                RightsChange::Grant(key, None) => {
                    rights.grants.remove(&key);
                }
                RightsChange::Standing(name, Some(standing)) => {
                    rights.principals.insert(name, standing);
                }
                RightsChange::Standing(name, None) => {
                    rights.principals.remove(&name);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grant_keys_read_back() {
        let principal = PrincipalName::parse("alice").expect("a name");
        for object_type in ObjectType::ALL {
            for permission in Permission::ALL {
                for target in [Target::System, Target::Everywhere, Target::Schema(Uuid::from_bytes([0; 16])), Target::Object(Uuid::from_bytes([7; 16]))] {
                    let key = GrantKey { principal: principal.clone(), object_type, target, permission };
                    assert_eq!(parse_grant_key(&grant_key(&key)), Some(key));
                }
            }
        }
    }
}
