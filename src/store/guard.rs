//! Why: a disk that is nearly full is told from one that is full while everything can still be read and the log still has room to end well. Never lets a write through while it is shut.

use std::{
    path::Path,
    sync::{Arc, Mutex, PoisonError},
};

use async_trait::async_trait;
use bytes::Bytes;

use super::{Entry, SharedStore, Store, StoreError, Table, Transaction, Verified, Watch};

/// A store that can be shut for writing.
#[derive(Debug, Clone)]
pub struct Guard {
    store: SharedStore,
    /// Why it is shut, where it is.
    shut: Arc<Mutex<Option<String>>>,
}

impl Guard {
    /// Open.
    pub fn new(store: SharedStore) -> Self {
        Self { store, shut: Arc::default() }
    }

    /// Refuses writes from now on, with this sentence; `None` takes them again. Whether that is a change.
    pub fn shut(&self, why: Option<String>) -> bool {
        // Whole after every change, also where a holder panicked.
        let mut shut = self.shut.lock().unwrap_or_else(PoisonError::into_inner);
        let changed = shut.is_some() != why.is_some();
        *shut = why;
        changed
    }

    fn why(&self) -> Option<String> {
        self.shut.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

#[async_trait]
impl Store for Guard {
    async fn get(&self, table: Table, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        self.store.get(table, key).await
    }

    async fn scan(&self, table: Table, prefix: &[u8], after: Option<&[u8]>, limit: usize) -> Result<Vec<Entry>, StoreError> {
        self.store.scan(table, prefix, after, limit).await
    }

    async fn transact(&self, transaction: Transaction) -> Result<(), StoreError> {
        match self.why() {
            Some(why) => Err(StoreError::Unavailable(why)),
            None => self.store.transact(transaction).await,
        }
    }

    fn watch(&self, table: Table, prefix: &[u8]) -> Watch {
        self.store.watch(table, prefix)
    }

    async fn sync(&self) -> Result<(), StoreError> {
        self.store.sync().await
    }

    async fn export(&self, to: &Path) -> Result<u64, StoreError> {
        self.store.export(to).await
    }

    async fn import(&self, from: &Path) -> Result<u64, StoreError> {
        self.store.import(from).await
    }

    async fn verify(&self) -> Result<Verified, StoreError> {
        self.store.verify().await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::memory::MemoryStore;

    const T: Table = Table { name: "t", verified_at_open: false };

    #[tokio::test]
    async fn a_shut_store_reads_and_takes_nothing_until_it_is_open_again() {
        let guard = Guard::new(Arc::new(MemoryStore::new()));
        guard.transact(Transaction::new().put(T, "a", "1")).await.unwrap();
        assert!(guard.shut(Some("the disk is nearly full".to_owned())));
        assert!(!guard.shut(Some("the disk is nearly full still".to_owned())), "no change");
        let refused = guard.transact(Transaction::new().put(T, "a", "2")).await.unwrap_err();
        assert!(matches!(&refused, StoreError::Unavailable(why) if why.contains("nearly full still")), "{refused}");
        assert_eq!(guard.get(T, b"a").await.unwrap().as_deref(), Some(b"1".as_slice()));
        assert!(guard.shut(None));
        guard.transact(Transaction::new().put(T, "a", "2")).await.unwrap();
        assert_eq!(guard.get(T, b"a").await.unwrap().as_deref(), Some(b"2".as_slice()));
    }
}
