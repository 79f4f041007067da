//! Why: one small trait over an embedded or a remote key-value store, so that no engine leaks into callers. Never knows what a row means.

mod codec;
pub mod disk;
mod export;
pub mod guard;
pub mod memory;
pub mod migrate;
pub mod row;
pub mod rows;
pub mod sled;
#[cfg(test)]
mod tests;

use std::{
    collections::BTreeMap,
    fmt,
    path::Path,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::broadcast;

use crate::{clock::Timestamp, limits};

/// A table of the store: a name that keeps keys of different sorts apart. Each has a root record `{rows, hash, generation}`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Table {
    /// Its name in the store: lower-case letters and `_`.
    pub name: &'static str,
    /// Whether every row is verified when the store is opened (small tables), or only a sample (row data).
    pub verified_at_open: bool,
}

impl Table {
    /// The table of an export or of a root record. Names are few and live as long as the process.
    fn named(name: &str, verified_at_open: bool) -> Self {
        static NAMES: Mutex<Vec<&'static str>> = Mutex::new(Vec::new());
        let mut names = NAMES.lock().unwrap_or_else(PoisonError::into_inner);
        let name = match names.iter().find(|known| **known == name) {
            Some(known) => known,
            None => {
                let known: &'static str = Box::leak(name.to_owned().into_boxed_str());
                names.push(known);
                known
            }
        };
        Self { name, verified_at_open }
    }
}

/// Facts of the store itself, and its leases.
const FACTS: Table = Table { name: "store_facts", verified_at_open: true };

/// A change of one key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Write {
    /// Set it.
    Put(Table, Vec<u8>, Bytes),
    /// Remove it; absent is fine.
    Delete(Table, Vec<u8>),
}

/// What must hold for a transaction to happen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Condition {
    /// There is no such key.
    Absent(Table, Vec<u8>),
    /// The key has exactly this value.
    Equals(Table, Vec<u8>, Bytes),
}

/// Conditions and writes that happen together or not at all.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Transaction {
    /// All must hold, else nothing is written.
    pub conditions: Vec<Condition>,
    /// Done in order.
    pub writes: Vec<Write>,
}

impl Transaction {
    /// Nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Requires that the key be absent.
    #[must_use]
    pub fn absent(mut self, table: Table, key: impl Into<Vec<u8>>) -> Self {
        self.conditions.push(Condition::Absent(table, key.into()));
        self
    }

    /// Requires the key to have this value, or to be absent for `None`.
    #[must_use]
    pub fn expect(mut self, table: Table, key: impl Into<Vec<u8>>, value: Option<Bytes>) -> Self {
        self.conditions.push(match value {
            Some(value) => Condition::Equals(table, key.into(), value),
            None => Condition::Absent(table, key.into()),
        });
        self
    }

    /// Sets a key.
    #[must_use]
    pub fn put(mut self, table: Table, key: impl Into<Vec<u8>>, value: impl Into<Bytes>) -> Self {
        self.writes.push(Write::Put(table, key.into(), value.into()));
        self
    }

    /// Removes a key.
    #[must_use]
    pub fn delete(mut self, table: Table, key: impl Into<Vec<u8>>) -> Self {
        self.writes.push(Write::Delete(table, key.into()));
        self
    }
}

impl Transaction {
    /// Bytes of keys and values to be written.
    pub fn byte_count(&self) -> usize {
        self.writes
            .iter()
            .map(|write| match write {
                Write::Put(_, key, value) => key.len() + value.len(),
                Write::Delete(_, key) => key.len(),
            })
            .sum()
    }
}

/// Refuses what no engine should see.
fn check_size(transaction: &Transaction) -> Result<(), StoreError> {
    for write in &transaction.writes {
        let (key, value) = match write {
            Write::Put(_, key, value) => (key, value.len()),
            Write::Delete(_, key) => (key, 0),
        };
        if key.len() > limits::STORE_KEY_BYTES_MAX || value > limits::STORE_ENTRY_BYTES_MAX {
            return Err(StoreError::TooLarge(format!("a key of {} bytes with a value of {value} bytes", key.len())));
        }
    }
    Ok(())
}

/// Tells watchers, a message for each table. Nobody listening is fine.
fn tell(changes: &broadcast::Sender<Changed>, transaction: &Transaction) {
    let mut by_table: BTreeMap<Table, Vec<Vec<u8>>> = BTreeMap::new();
    for write in &transaction.writes {
        let (Write::Put(table, key, _) | Write::Delete(table, key)) = write;
        by_table.entry(*table).or_default().push(key.clone());
    }
    for (table, keys) in by_table {
        let _ = changes.send(Changed { table, keys });
    }
}

/// A key and its value.
pub type Entry = (Vec<u8>, Bytes);

/// Who holds a lease. Leases are for liveness only; safety is the epoch checked in the target's commit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lease {
    /// Grows with every grant of this lease, also over restarts.
    pub fencing_number: u64,
    /// Who has it.
    pub holder: String,
}

#[derive(serde::Serialize, serde::Deserialize)]
struct StoredLease {
    fencing_number: u64,
    holder: String,
    expires: Timestamp,
}

/// Something under a watched prefix changed; readers look for themselves. Lagging receivers must assume that anything did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Changed {
    /// The table.
    pub table: Table,
    /// The keys, of one transaction.
    pub keys: Vec<Vec<u8>>,
}

/// What `verify` found.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize)]
pub struct Verified {
    /// Rows read, per table name.
    pub rows: BTreeMap<String, u64>,
    /// What is wrong, a sentence each; empty: sound.
    pub faults: Vec<String>,
}

/// Why the store could not.
#[derive(Debug, Clone, thiserror::Error)]
pub enum StoreError {
    /// A condition of the transaction does not hold (its index); nothing was written.
    #[error("condition {0} of the transaction does not hold")]
    Conflict(usize),
    /// The store cannot be written or read now: disk full, I/O error, closed. Nothing more is acknowledged until a restart.
    #[error("the store is unavailable: {0}")]
    Unavailable(String),
    /// What is stored is not what was written; restore a backup with `datasink store import`.
    #[error("the store is corrupt: {0}")]
    Corrupt(String),
    /// A key or a value beyond the limits: a bug of the caller.
    #[error("a store entry is too large: {0}")]
    TooLarge(String),
}

/// A transactional, ordered, durable key-value store. Everything that returns `Ok` from `transact` survives a power cut.
#[async_trait]
pub trait Store: Send + Sync + fmt::Debug {
    /// The value of a key.
    async fn get(&self, table: Table, key: &[u8]) -> Result<Option<Bytes>, StoreError>;

    /// Entries whose key begins with `prefix`, in key order, strictly after the key `after` where given, at most `limit`.
    async fn scan(&self, table: Table, prefix: &[u8], after: Option<&[u8]>, limit: usize) -> Result<Vec<Entry>, StoreError>;

    /// Checks the conditions, does the writes, and returns when both are durable.
    async fn transact(&self, transaction: Transaction) -> Result<(), StoreError>;

    /// Takes or renews the lease `name` for `holder` until `now + ttl`; `Err(Conflict)` while another holds it.
    async fn lease(&self, name: &str, holder: &str, now: Timestamp, ttl: Duration) -> Result<Lease, StoreError> {
        let key = format!("lease/{name}");
        let found = self.get(FACTS, key.as_bytes()).await?;
        let held: Option<StoredLease> = match &found {
            None => None,
            Some(bytes) => Some(serde_json::from_slice(bytes).map_err(|fault| StoreError::Corrupt(format!("the lease {name:?} cannot be read: {fault}")))?),
        };
        let fencing_number = match &held {
            Some(held) if held.holder == holder && held.expires > now => held.fencing_number,
            Some(held) if held.expires > now => return Err(StoreError::Conflict(0)),
            Some(held) => held.fencing_number + 1,
            None => 1,
        };
        let lease = StoredLease { fencing_number, holder: holder.to_owned(), expires: now.plus(ttl) };
        let bytes = serde_json::to_vec(&lease).map_err(|fault| StoreError::Corrupt(fault.to_string()))?;
        self.transact(Transaction::new().expect(FACTS, key.as_bytes(), found).put(FACTS, key.as_bytes(), bytes)).await?;
        Ok(Lease { fencing_number, holder: lease.holder })
    }

    /// Tells of changes to keys of `table` that begin with `prefix`, from now on.
    fn watch(&self, table: Table, prefix: &[u8]) -> Watch;

    /// Returns when everything written before is durable.
    async fn sync(&self) -> Result<(), StoreError>;

    /// Writes everything, of one point in time, to a new file: engine-neutral, versioned, checksummed.
    async fn export(&self, to: &Path) -> Result<u64, StoreError>;

    /// Reads an export into this store, which must be empty.
    async fn import(&self, from: &Path) -> Result<u64, StoreError>;

    /// Reads everything and compares it with checksums and root records.
    async fn verify(&self) -> Result<Verified, StoreError>;
}

/// A handle on the store.
pub type SharedStore = Arc<dyn Store>;

/// Changes under a prefix.
pub struct Watch {
    table: Table,
    prefix: Vec<u8>,
    changes: broadcast::Receiver<Changed>,
}

impl Watch {
    /// For engines: filters what `changes` brings.
    pub fn new(table: Table, prefix: &[u8], changes: broadcast::Receiver<Changed>) -> Self {
        Self { table, prefix: prefix.to_vec(), changes }
    }

    /// Waits for the next change; `Some` of keys under the prefix, empty where changes were missed; `None` once the store is closed.
    pub async fn next(&mut self) -> Option<Vec<Vec<u8>>> {
        loop {
            match self.changes.recv().await {
                Ok(changed) if changed.table == self.table => {
                    let keys: Vec<_> = changed.keys.into_iter().filter(|key| key.starts_with(&self.prefix)).collect();
                    if !keys.is_empty() {
                        return Some(keys);
                    }
                }
                Ok(_) => {}
                Err(broadcast::error::RecvError::Lagged(_)) => return Some(Vec::new()),
                Err(broadcast::error::RecvError::Closed) => return None,
            }
        }
    }
}

impl fmt::Debug for Watch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watch").field("table", &self.table.name).finish_non_exhaustive()
    }
}
