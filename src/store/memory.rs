//! Why: the store without a disk, for simulation and tests; the same promises but durability. Never used by `serve`.

use std::{
    collections::BTreeMap,
    path::Path,
    sync::{Mutex, MutexGuard, PoisonError},
};

use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::broadcast;

use super::{Changed, Condition, Entry, FACTS, Store, StoreError, Table, Transaction, Verified, Watch, Write, check_size, export};

type Rows = BTreeMap<(Table, Vec<u8>), Bytes>;

/// Everything in a map.
#[derive(Debug)]
pub struct MemoryStore {
    rows: Mutex<Rows>,
    changes: broadcast::Sender<Changed>,
}

impl Default for MemoryStore {
    fn default() -> Self {
        Self { rows: Mutex::default(), changes: broadcast::channel(1_024).0 }
    }
}

impl MemoryStore {
    /// An empty store.
    pub fn new() -> Self {
        Self::default()
    }

    fn rows(&self) -> MutexGuard<'_, Rows> {
        // A panic while the lock is held leaves whole rows: every change below is one insert or one remove.
        self.rows.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl Store for MemoryStore {
    async fn get(&self, table: Table, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        Ok(self.rows().get(&(table, key.to_vec())).cloned())
    }

    async fn scan(&self, table: Table, prefix: &[u8], after: Option<&[u8]>, limit: usize) -> Result<Vec<Entry>, StoreError> {
        let from = after.filter(|after| *after >= prefix).unwrap_or(prefix).to_vec();
        Ok(self
            .rows()
            .range((table, from)..)
            .take_while(|((of, key), _)| *of == table && key.starts_with(prefix))
            .filter(|((_, key), _)| after.is_none_or(|after| key.as_slice() > after))
            .take(limit)
            .map(|((_, key), value)| (key.clone(), value.clone()))
            .collect())
    }

    async fn transact(&self, transaction: Transaction) -> Result<(), StoreError> {
        check_size(&transaction)?;
        let mut rows = self.rows();
        for (index, condition) in transaction.conditions.iter().enumerate() {
            let holds = match condition {
                Condition::Absent(table, key) => !rows.contains_key(&(*table, key.clone())),
                Condition::Equals(table, key, value) => rows.get(&(*table, key.clone())) == Some(value),
            };
            if !holds {
                return Err(StoreError::Conflict(index));
            }
        }
        for write in &transaction.writes {
            match write {
                Write::Put(table, key, value) => drop(rows.insert((*table, key.clone()), value.clone())),
                Write::Delete(table, key) => drop(rows.remove(&(*table, key.clone()))),
            }
        }
        drop(rows);
        super::tell(&self.changes, &transaction);
        Ok(())
    }

    fn watch(&self, table: Table, prefix: &[u8]) -> Watch {
        Watch::new(table, prefix, self.changes.subscribe())
    }

    async fn sync(&self) -> Result<(), StoreError> {
        Ok(())
    }

    async fn export(&self, to: &Path) -> Result<u64, StoreError> {
        let rows = self.rows().clone();
        export::write(to, rows.into_iter().filter(|((table, _), _)| *table != FACTS).map(|((table, key), value)| Ok((table, key, value))))
    }

    async fn import(&self, from: &Path) -> Result<u64, StoreError> {
        if !self.rows().is_empty() {
            return Err(StoreError::Unavailable("an export can only be read into an empty store".to_owned()));
        }
        let all = export::read(from)?;
        let count = all.len() as u64;
        self.rows().extend(all.into_iter().map(|(table, key, value)| ((table, key), value)));
        Ok(count)
    }

    async fn verify(&self) -> Result<Verified, StoreError> {
        let mut verified = Verified::default();
        for (table, _) in self.rows().keys() {
            *verified.rows.entry(table.name.to_owned()).or_default() += 1;
        }
        Ok(verified)
    }
}
