//! Why: sled made durable: one writer commits in groups and answers only after its own `fdatasync`, because sled's flush is none. Never lets a page become a blob.

use std::{
    collections::{BTreeSet, HashMap},
    fs::{self, File},
    os::unix::fs::FileExt,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        mpsc::{Receiver, SyncSender, sync_channel},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use tokio::sync::{broadcast, oneshot, watch};

use super::{
    Changed, Condition, Entry, FACTS, Store, StoreError, Table, Transaction, Verified, Watch, Write, check_size,
    codec::{self, Decoded, Space, chunk_key, full_key},
    export, migrate,
};

/// Transactions that share one sync at most.
const GROUP_MAX: usize = 512;
/// Bytes that share one sync at most.
const GROUP_BYTES_MAX: usize = 8 << 20;
/// Freed when the disk is full, so that the process can still be opened and can still delete.
const BALLAST_BYTES: u64 = 64 << 20;
/// How long a locked database is waited for.
const LOCK_PATIENCE: Duration = Duration::from_secs(2);
/// How often it is tried meanwhile.
const LOCK_PAUSE: Duration = Duration::from_millis(20);

/// Where the log counts its groups; no table's key begins like it.
const GROUPS_KEY: &[u8] = b"groups";
/// Noted while an import is under way, in the store's own facts.
const IMPORTING: &[u8] = b"importing";
/// Bytes of an import that become durable together.
const IMPORT_BYTES: usize = 4 << 20;

/// How a store is opened.
#[derive(Debug, Clone, Copy)]
pub struct SledOptions {
    /// sled's page cache, in bytes.
    pub cache_bytes: u64,
    /// Whether the ballast file is kept.
    pub ballast: bool,
    /// What an answer means.
    pub durability: Durability,
}

impl Default for SledOptions {
    fn default() -> Self {
        Self { cache_bytes: 96 << 20, ballast: true, durability: Durability::Full }
    }
}

/// What an answer of the store means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// It survives a power cut.
    Full,
    /// sled's flush alone: only for the control run of the crash test, which must go red.
    WithoutSync,
    /// Every sync after the first takes a while and then fails, as on a disk that is full or dying.
    #[cfg(test)]
    FailingSync,
}

/// The embedded store.
#[derive(Debug)]
pub struct SledStore {
    tree: sled::Tree,
    requests: Mutex<Option<SyncSender<Request>>>,
    writer: Mutex<Option<JoinHandle<()>>>,
    broken: Arc<Mutex<Option<StoreError>>>,
    unsettled: Arc<Unsettled>,
    changes: broadcast::Sender<Changed>,
}

enum Request {
    Transact(Transaction, oneshot::Sender<Result<(), StoreError>>),
    Sync(oneshot::Sender<Result<(), StoreError>>),
    /// Reads between two groups, when nothing changes.
    Look(Box<dyn FnOnce(&sled::Tree) + Send>),
}

/// A caller, and what it is told once the group is durable; the transaction is for those who watch.
type Waiting = (oneshot::Sender<Result<(), StoreError>>, Result<Option<Transaction>, StoreError>);

/// Keys that are applied and not durable yet. A reader that met one waits for the sync: otherwise a power cut could take back what it went on to tell,
/// such as the kept answer of a request.
#[derive(Debug)]
struct Unsettled {
    keys: Mutex<BTreeSet<Vec<u8>>>,
    settled: watch::Sender<()>,
}

impl Unsettled {
    fn new() -> Self {
        Self { keys: Mutex::default(), settled: watch::Sender::new(()) }
    }

    /// Before a transaction is applied.
    fn add(&self, transaction: &Transaction) {
        let mut keys = self.keys.lock().unwrap_or_else(PoisonError::into_inner);
        for write in &transaction.writes {
            let (Write::Put(table, key, _) | Write::Delete(table, key)) = write;
            keys.insert(full_key(Space::Row, *table, key));
        }
    }

    /// After the sync.
    fn clear(&self) {
        self.keys.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}

impl SledStore {
    /// Opens or makes the store in `dir`, and verifies its small tables. Blocks; a corrupt store is an error, not a panic.
    pub fn open(dir: &Path, options: SledOptions) -> Result<Self, StoreError> {
        let missing = !dir.join("db").exists();
        fs::create_dir_all(dir).map_err(|fault| unavailable("its directory cannot be made", &fault))?;
        let config = sled::Config::new().path(dir).flush_every_ms(None).cache_capacity(options.cache_bytes);
        let db = open_unlocked(dir, &config)?;
        let tree = (*db).clone();
        let opened = |name: &str| {
            let file = File::options().read(true).write(true).create(true).truncate(false).open(dir.join(name));
            file.map_err(|fault| unavailable("its files cannot be opened", &fault))
        };
        let disk = Disk { dir: dir.to_owned(), file: opened("db")?, witness: opened("witness")?, durability: options.durability };
        // Files without a row and without a witness are of a first start that did not come to its end; nothing was acknowledged there.
        let new = missing || disk.never_used(&tree)?;
        if new {
            disk.sync_all_of_a_new_store()?;
        }
        disk.no_blobs()?;
        if options.ballast {
            disk.keep_ballast();
        }
        let broken = Arc::new(Mutex::new(None));
        let changes = broadcast::channel(1_024).0;
        let (requests, queue) = sync_channel(1_024);
        let groups = disk.compare_with_witness(&tree)?;
        let unsettled = Arc::new(Unsettled::new());
        let mut committer =
            Committer { db, tree: tree.clone(), disk, groups, broken: broken.clone(), unsettled: Arc::clone(&unsettled), changes: changes.clone() };
        let (facts, format) = migrate::PLACE;
        if let Some(note) = migrate::check(committer.read(facts, format)?.as_deref(), new)? {
            committer.apply(&note)?;
            committer.make_durable()?;
        }
        if committer.read(FACTS, IMPORTING)?.is_some() {
            return Err(StoreError::Corrupt(format!("an import into {} was interrupted; import again into a new directory", dir.display())));
        }
        let verified = catch_unwind(AssertUnwindSafe(|| verify_tables(&tree, |table| table.verified_at_open))).map_err(|_| damaged(dir))??;
        if let Some(fault) = verified.faults.first() {
            let count = verified.faults.len();
            return Err(StoreError::Corrupt(format!("{fault} ({count} faults in all); restore an export with `datasink store import`")));
        }
        let writer = std::thread::Builder::new()
            .name("store-committer".to_owned())
            .spawn(move || committer.run(&queue))
            .map_err(|fault| unavailable("its writer cannot be started", &fault))?;
        Ok(Self { tree, requests: Mutex::new(Some(requests)), writer: Mutex::new(Some(writer)), broken, unsettled, changes })
    }

    fn sound(&self) -> Result<(), StoreError> {
        self.broken.lock().unwrap_or_else(PoisonError::into_inner).clone().map_or(Ok(()), Err)
    }

    async fn request<T>(&self, make: impl FnOnce(oneshot::Sender<T>) -> Request) -> Result<T, StoreError> {
        let closed = || StoreError::Unavailable("it is closed".to_owned());
        let sender = self.requests.lock().unwrap_or_else(PoisonError::into_inner).clone().ok_or_else(closed)?;
        let (reply, answer) = oneshot::channel();
        let mut request = make(reply);
        // The queue is full only while the disk is slower than all callers together.
        loop {
            match sender.try_send(request) {
                Ok(()) => break,
                Err(std::sync::mpsc::TrySendError::Full(back)) => {
                    request = back;
                    tokio::time::sleep(std::time::Duration::from_millis(1)).await;
                }
                Err(std::sync::mpsc::TrySendError::Disconnected(_)) => return Err(closed()),
            }
        }
        answer.await.map_err(|_| self.sound().err().unwrap_or_else(closed))
    }

    /// Reads what is durable; sled's panics on damage become errors.
    fn reading<T>(&self, read: impl FnOnce() -> Result<T, StoreError>) -> Result<T, StoreError> {
        self.sound()?;
        catch_unwind(AssertUnwindSafe(read))
            .unwrap_or_else(|_| Err(StoreError::Corrupt("its engine failed to read; restore an export with `datasink store import`".to_owned())))
    }

    /// Waits until no key that `met` knows is applied and not durable. Keys are noted before they are applied, so a read that came first has missed none.
    async fn settled(&self, met: impl Fn(&BTreeSet<Vec<u8>>) -> bool) -> Result<(), StoreError> {
        let mut settled = self.unsettled.settled.subscribe();
        loop {
            self.sound()?;
            if !met(&self.unsettled.keys.lock().unwrap_or_else(PoisonError::into_inner)) {
                return Ok(());
            }
            if settled.changed().await.is_err() {
                return self.sound();
            }
        }
    }

    /// Runs `look` in the writer's thread between two groups, so that it sees one point in time and only what is durable.
    async fn look<T: Send + 'static>(&self, look: impl FnOnce(&sled::Tree) -> Result<T, StoreError> + Send + 'static) -> Result<T, StoreError> {
        self.sound()?;
        self.request(|reply| {
            Request::Look(Box::new(move |tree| {
                let failed = |_| Err(StoreError::Corrupt("its engine failed to read; restore an export with `datasink store import`".to_owned()));
                let _ = reply.send(catch_unwind(AssertUnwindSafe(|| look(tree))).unwrap_or_else(failed));
            }))
        })
        .await?
    }
}

impl Drop for SledStore {
    fn drop(&mut self) {
        // Closing the queue ends the writer, which owns the database: its lock is free once this returns.
        self.requests.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(writer) = self.writer.lock().unwrap_or_else(PoisonError::into_inner).take() {
            let _ = writer.join();
        }
    }
}

#[async_trait]
impl Store for SledStore {
    async fn get(&self, table: Table, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        let full = full_key(Space::Row, table, key);
        let found = self.reading(|| match self.tree.get(&full).map_err(|fault| sled_fault(&fault))? {
            None => Ok(None),
            Some(stored) => value_of(&self.tree, table, key, &stored).map(Some),
        });
        self.settled(|unsettled| unsettled.contains(&full)).await?;
        found
    }

    async fn scan(&self, table: Table, prefix: &[u8], after: Option<&[u8]>, limit: usize) -> Result<Vec<Entry>, StoreError> {
        let start = full_key(Space::Row, table, after.filter(|after| *after >= prefix).unwrap_or(prefix));
        let within = full_key(Space::Row, table, prefix);
        let found = self.reading(|| {
            let mut entries = Vec::new();
            for entry in self.tree.range(start.as_slice()..) {
                let (full, stored) = entry.map_err(|fault| sled_fault(&fault))?;
                if !full.starts_with(&within) || entries.len() == limit {
                    break;
                }
                let key = &full[table.name.len() + 2..];
                if after.is_none_or(|after| key > after) {
                    entries.push((key.to_vec(), value_of(&self.tree, table, key, &stored)?));
                }
            }
            Ok(entries)
        });
        // Where the limit ended the scan, what lies behind its last row was not met.
        let end =
            found.as_ref().ok().filter(|entries| entries.len() == limit).and_then(|entries| entries.last()).map(|(key, _)| full_key(Space::Row, table, key));
        let met = |key: &Vec<u8>| key.starts_with(&within) && end.as_ref().is_none_or(|end| key <= end);
        self.settled(|unsettled| unsettled.range(start.clone()..).next().is_some_and(met)).await?;
        found
    }

    async fn transact(&self, transaction: Transaction) -> Result<(), StoreError> {
        check_size(&transaction)?;
        self.sound()?;
        self.request(|reply| Request::Transact(transaction, reply)).await?
    }

    fn watch(&self, table: Table, prefix: &[u8]) -> Watch {
        Watch::new(table, prefix, self.changes.subscribe())
    }

    async fn sync(&self) -> Result<(), StoreError> {
        self.sound()?;
        self.request(Request::Sync).await?
    }

    async fn export(&self, to: &Path) -> Result<u64, StoreError> {
        let to = to.to_owned();
        self.look(move |tree| export_tree(tree, &to)).await
    }

    async fn import(&self, from: &Path) -> Result<u64, StoreError> {
        if self.look(tables).await?.iter().any(|table| *table != FACTS) {
            return Err(StoreError::Unavailable("an export can only be read into an empty store".to_owned()));
        }
        let all = export::read(from)?;
        let count = all.len() as u64;
        // A crash from here to the end leaves a part, which must not pass for the whole.
        self.transact(Transaction::new().put(FACTS, IMPORTING, Bytes::new())).await?;
        let mut transaction = Transaction::new();
        let mut bytes = 0;
        for (table, key, value) in all {
            bytes += key.len() + value.len();
            transaction = transaction.put(table, key, value);
            if bytes >= IMPORT_BYTES {
                bytes = 0;
                self.transact(std::mem::take(&mut transaction)).await?;
            }
        }
        self.transact(transaction.delete(FACTS, IMPORTING)).await?;
        Ok(count)
    }

    async fn verify(&self) -> Result<Verified, StoreError> {
        self.look(|tree| verify_tables(tree, |_| true)).await
    }
}

/// Every table that ever had a row, by name, from the root records.
fn tables(tree: &sled::Tree) -> Result<Vec<Table>, StoreError> {
    let mut tables = Vec::new();
    for entry in tree.scan_prefix([Space::Root as u8]) {
        let (full, stored) = entry.map_err(|fault| sled_fault(&fault))?;
        let name = std::str::from_utf8(&full[1..full.len() - 1]).map_err(|_| StoreError::Corrupt("a table's name cannot be read".to_owned()))?;
        tables.push(Table::named(name, Root::from_stored(name, &stored)?.verified_at_open));
    }
    Ok(tables)
}

fn verify_tables(tree: &sled::Tree, which: impl Fn(Table) -> bool) -> Result<Verified, StoreError> {
    let mut verified = Verified::default();
    for table in tables(tree)?.into_iter().filter(|table| which(*table)) {
        let mut found = Root::default();
        for entry in tree.scan_prefix(full_key(Space::Row, table, b"")) {
            let (full, stored) = entry.map_err(|fault| sled_fault(&fault))?;
            let key = &full[table.name.len() + 2..];
            match value_of(tree, table, key, &stored) {
                Ok(value) => found.add(codec::row_hash(key, &value)),
                Err(StoreError::Corrupt(fault)) => {
                    found.rows += 1;
                    verified.faults.push(format!("table {}: {fault}", table.name));
                }
                Err(other) => return Err(other),
            }
        }
        let root = Root::read(tree, table)?;
        if verified.faults.is_empty() && (root.rows, root.hash) != (found.rows, found.hash) {
            verified.faults.push(format!("table {} has {} rows where {} were written, or other ones", table.name, found.rows, root.rows));
        }
        verified.rows.insert(table.name.to_owned(), found.rows);
    }
    Ok(verified)
}

/// Every row but the store's own facts.
fn export_tree(tree: &sled::Tree, to: &Path) -> Result<u64, StoreError> {
    let tables = tables(tree)?.into_iter().filter(|table| *table != FACTS);
    let rows = tables.flat_map(|table| {
        tree.scan_prefix(full_key(Space::Row, table, b"")).map(move |entry| {
            let (full, stored) = entry.map_err(|fault| sled_fault(&fault))?;
            let key = &full[table.name.len() + 2..];
            Ok((table, key.to_vec(), value_of(tree, table, key, &stored)?))
        })
    });
    export::write(to, rows)
}

/// The one writer: owns the database.
struct Committer {
    db: sled::Db,
    tree: sled::Tree,
    disk: Disk,
    /// Groups committed since the store was made.
    groups: u64,
    broken: Arc<Mutex<Option<StoreError>>>,
    unsettled: Arc<Unsettled>,
    changes: broadcast::Sender<Changed>,
}

impl Committer {
    fn run(mut self, queue: &Receiver<Request>) {
        while let Ok(first) = queue.recv() {
            let mut group = Vec::new();
            let mut bytes = 0;
            let mut next = Some(first);
            let mut look = None;
            while let Some(request) = next.take() {
                match request {
                    Request::Look(wanted) => {
                        look = Some(wanted);
                        break;
                    }
                    Request::Transact(ref transaction, _) => bytes += transaction.byte_count(),
                    Request::Sync(_) => {}
                }
                group.push(request);
                if group.len() < GROUP_MAX && bytes < GROUP_BYTES_MAX {
                    next = queue.try_recv().ok();
                }
            }
            self.commit(group);
            if let Some(look) = look {
                look(&self.tree);
            }
        }
    }

    /// Applies a group, syncs once, then answers everybody, also those whose conditions do not hold: they may not hold because of a change that is not durable yet.
    fn commit(&mut self, group: Vec<Request>) {
        let mut waiting: Vec<Waiting> = Vec::new();
        let mut changed = false;
        let mut failure = self.broken.lock().unwrap_or_else(PoisonError::into_inner).clone();
        for request in group {
            let (transaction, reply) = match request {
                Request::Transact(transaction, reply) => (transaction, reply),
                Request::Sync(reply) => {
                    waiting.push((reply, Ok(None)));
                    continue;
                }
                Request::Look(_) => unreachable!("`run` keeps these out of a group"),
            };
            if let Some(failure) = &failure {
                answer(reply, Err(failure.clone()));
                continue;
            }
            self.unsettled.add(&transaction);
            match catch_unwind(AssertUnwindSafe(|| self.apply(&transaction))) {
                Ok(Ok(())) => {
                    changed = true;
                    waiting.push((reply, Ok(Some(transaction))));
                }
                Ok(Err(refusal @ (StoreError::Conflict(_) | StoreError::TooLarge(_) | StoreError::Corrupt(_)))) => waiting.push((reply, Err(refusal))),
                Ok(Err(fault)) => {
                    failure = Some(fault.clone());
                    answer(reply, Err(fault));
                }
                Err(_) => {
                    let fault = StoreError::Unavailable("its engine failed; restart the service".to_owned());
                    failure = Some(fault.clone());
                    answer(reply, Err(fault));
                }
            }
        }
        if failure.is_none() && changed {
            failure = self.make_durable().err();
        }
        self.settle(waiting, failure);
    }

    /// Says how a group ended.
    fn settle(&self, waiting: Vec<Waiting>, failure: Option<StoreError>) {
        if let Some(fault) = &failure {
            self.disk.free_ballast();
            // After a failed sync the page cache no longer tells the truth: nothing is acknowledged or read until a restart has read the disk again.
            self.broken.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert_with(|| fault.clone());
        } else {
            self.unsettled.clear();
        }
        self.unsettled.settled.send_replace(());
        for (reply, result) in waiting {
            match (&failure, result) {
                (Some(fault), _) => answer(reply, Err(fault.clone())),
                (None, Err(refusal)) => answer(reply, Err(refusal)),
                (None, Ok(transaction)) => {
                    if let Some(transaction) = transaction {
                        super::tell(&self.changes, &transaction);
                    }
                    answer(reply, Ok(()));
                }
            }
        }
    }

    /// Counts the group in the log, syncs, then tells the witness.
    fn make_durable(&mut self) -> Result<(), StoreError> {
        self.groups += 1;
        self.tree.insert(GROUPS_KEY, &self.groups.to_be_bytes()).map_err(|fault| sled_fault(&fault))?;
        self.disk.make_durable(&self.db)?;
        self.disk.tell_witness(self.groups)
    }

    /// Checks and applies one transaction as one batch of sled, which is atomic over a crash.
    fn apply(&self, transaction: &Transaction) -> Result<(), StoreError> {
        let mut now: HashMap<(Table, &[u8]), Option<Bytes>> = HashMap::new();
        for (index, condition) in transaction.conditions.iter().enumerate() {
            let holds = match condition {
                Condition::Absent(table, key) => self.read(*table, key)?.is_none(),
                Condition::Equals(table, key, value) => self.read(*table, key)?.as_ref() == Some(value),
            };
            if !holds {
                return Err(StoreError::Conflict(index));
            }
        }
        let mut roots: HashMap<Table, Root> = HashMap::new();
        let mut batch = sled::Batch::default();
        for write in &transaction.writes {
            let (table, key) = match write {
                Write::Put(table, key, _) | Write::Delete(table, key) => (*table, key.as_slice()),
            };
            let root = match roots.entry(table) {
                std::collections::hash_map::Entry::Occupied(root) => root.into_mut(),
                std::collections::hash_map::Entry::Vacant(root) => root.insert(Root::read(&self.tree, table)?),
            };
            let old = match now.remove(&(table, key)) {
                Some(old) => old,
                None => self.read(table, key)?,
            };
            if let Some(old) = &old {
                root.remove(codec::row_hash(key, old));
                for index in 0..chunk_count(old) {
                    batch.remove(chunk_key(table, key, index));
                }
            }
            match write {
                Write::Put(_, _, value) => {
                    root.add(codec::row_hash(key, value));
                    let pieces = codec::encode(key, value);
                    batch.insert(full_key(Space::Row, table, key), pieces.row);
                    for (index, chunk) in (0..).zip(pieces.chunks) {
                        batch.insert(chunk_key(table, key, index), chunk);
                    }
                    now.insert((table, key), Some(value.clone()));
                }
                Write::Delete(..) => {
                    batch.remove(full_key(Space::Row, table, key));
                    now.insert((table, key), None);
                }
            }
        }
        for (table, root) in roots {
            batch.insert(full_key(Space::Root, table, b""), codec::encode(table.name.as_bytes(), &root.next_generation().to_bytes()).row);
        }
        self.tree.apply_batch(batch).map_err(|fault| sled_fault(&fault))
    }

    fn read(&self, table: Table, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        match self.tree.get(full_key(Space::Row, table, key)).map_err(|fault| sled_fault(&fault))? {
            None => Ok(None),
            Some(stored) => value_of(&self.tree, table, key, &stored).map(Some),
        }
    }
}

/// A caller that went away needs no answer.
fn answer(reply: oneshot::Sender<Result<(), StoreError>>, result: Result<(), StoreError>) {
    let _ = reply.send(result);
}

fn chunk_count(value: &[u8]) -> u32 {
    let size = crate::limits::STORE_VALUE_BYTES_MAX;
    if value.len() <= size { 0 } else { u32::try_from(value.len().div_ceil(size)).expect("entries are limited to a few megabytes") }
}

fn value_of(tree: &sled::Tree, table: Table, key: &[u8], stored: &[u8]) -> Result<Bytes, StoreError> {
    let (chunks, hash) = match codec::decode(key, stored)? {
        Decoded::Whole(value) => return Ok(value),
        Decoded::Chunked { chunks, hash } => (chunks, hash),
    };
    let mut value = BytesMut::new();
    for index in 0..chunks {
        let chunk = tree.get(chunk_key(table, key, index)).map_err(|fault| sled_fault(&fault))?;
        let chunk = chunk.ok_or_else(|| codec::corrupt(key, "a piece is missing"))?;
        value.extend_from_slice(codec::decode_chunk(key, &chunk)?);
    }
    codec::whole(key, value, hash)
}

/// What a table's rows must add up to.
#[derive(Debug, Clone, Copy, Default)]
struct Root {
    rows: u64,
    hash: u64,
    generation: u64,
    verified_at_open: bool,
}

impl Root {
    fn read(tree: &sled::Tree, table: Table) -> Result<Self, StoreError> {
        match tree.get(full_key(Space::Root, table, b"")).map_err(|fault| sled_fault(&fault))? {
            None => Ok(Self { verified_at_open: table.verified_at_open, ..Self::default() }),
            Some(stored) => Self::from_stored(table.name, &stored),
        }
    }

    fn from_stored(table: &str, stored: &[u8]) -> Result<Self, StoreError> {
        match codec::decode(table.as_bytes(), stored)? {
            Decoded::Whole(value) if value.len() == 25 => {
                let number = |at: usize| u64::from_be_bytes(value[at..at + 8].try_into().expect("eight bytes"));
                Ok(Self { rows: number(0), hash: number(8), generation: number(16), verified_at_open: value[24] == 1 })
            }
            _ => Err(StoreError::Corrupt(format!("the root record of table {table} was not read as it was written"))),
        }
    }

    fn to_bytes(self) -> Vec<u8> {
        [self.rows, self.hash, self.generation].into_iter().flat_map(u64::to_be_bytes).chain([u8::from(self.verified_at_open)]).collect()
    }

    fn add(&mut self, hash: u64) {
        self.rows += 1;
        self.hash = self.hash.wrapping_add(hash);
    }

    fn remove(&mut self, hash: u64) {
        // A store that lost rows behind our back is told by verify, not by an overflow here.
        self.rows = self.rows.saturating_sub(1);
        self.hash = self.hash.wrapping_sub(hash);
    }

    fn next_generation(self) -> Self {
        Self { generation: self.generation + 1, ..self }
    }
}

/// The files under sled.
#[derive(Debug)]
struct Disk {
    dir: PathBuf,
    file: File,
    /// How many groups were durable, beside the log: damage makes sled forget the end of its log without a word, and this is what notices.
    witness: File,
    durability: Durability,
}

impl Disk {
    /// sled writes its log, then the kernel writes the disk.
    fn make_durable(&self, db: &sled::Db) -> Result<(), StoreError> {
        catch_unwind(AssertUnwindSafe(|| db.flush()))
            .map_err(|_| StoreError::Unavailable("its engine failed to flush; restart the service".to_owned()))?
            .map_err(|fault| sled_fault(&fault))?;
        if self.durability == Durability::Full {
            self.file.sync_data().map_err(|fault| unavailable("its file cannot be synced", &fault))?;
        }
        #[cfg(test)]
        if self.durability == Durability::FailingSync && self.witness.metadata().is_ok_and(|facts| facts.len() > 0) {
            std::thread::sleep(std::time::Duration::from_millis(100));
            return Err(unavailable("its file cannot be synced", &std::io::ErrorKind::StorageFull.into()));
        }
        self.no_blobs()
    }

    /// Written after the log is durable and not synced itself: after a power cut it may be behind the log, never ahead of it.
    fn tell_witness(&self, groups: u64) -> Result<(), StoreError> {
        let mut bytes = [0; 12];
        bytes[..8].copy_from_slice(&groups.to_be_bytes());
        bytes[8..].copy_from_slice(&crc32c::crc32c(&groups.to_be_bytes()).to_be_bytes());
        self.witness.write_all_at(&bytes, 0).map_err(|fault| unavailable("its witness cannot be written", &fault))
    }

    /// Whether no commit was ever acknowledged here.
    fn never_used(&self, tree: &sled::Tree) -> Result<bool, StoreError> {
        let witness = self.witness.metadata().map_err(|fault| unavailable("its witness cannot be read", &fault))?;
        Ok(witness.len() == 0 && tree.is_empty())
    }

    /// How many groups the log has; an error where the witness has seen more. A torn or missing witness says nothing.
    fn compare_with_witness(&self, tree: &sled::Tree) -> Result<u64, StoreError> {
        let stored = tree.get(GROUPS_KEY).map_err(|fault| sled_fault(&fault))?;
        let groups = stored.and_then(|bytes| bytes.as_ref().try_into().ok()).map_or(0, u64::from_be_bytes);
        let mut bytes = [0; 12];
        if self.witness.read_exact_at(&mut bytes, 0).is_ok() {
            let seen = u64::from_be_bytes(bytes[..8].try_into().expect("eight bytes"));
            if bytes[8..] == crc32c::crc32c(&bytes[..8]).to_be_bytes() && seen > groups {
                return Err(StoreError::Corrupt(format!(
                    "{} lost the last {} of {seen} commits to damage; restore an export into a new directory with `datasink store import`",
                    self.dir.display(),
                    seen - groups
                )));
            }
        }
        Ok(groups)
    }

    /// sled writes blobs without ever syncing them; values are cut so small that there are none, and this makes sure.
    fn no_blobs(&self) -> Result<(), StoreError> {
        match fs::read_dir(self.dir.join("blobs")).map(|mut blobs| blobs.next().is_some()) {
            Ok(true) => Err(StoreError::Unavailable("its engine wrote a page outside its log, which no sync covers; export it and report this".to_owned())),
            _ => Ok(()),
        }
    }

    fn sync_all_of_a_new_store(&self) -> Result<(), StoreError> {
        let parent = self.dir.canonicalize().ok().and_then(|dir| dir.parent().map(Path::to_owned));
        let paths = [Some(self.dir.join("db")), Some(self.dir.join("conf")), Some(self.dir.join("blobs")), Some(self.dir.clone()), parent];
        for path in paths.into_iter().flatten().filter(|path| path.exists()) {
            File::open(&path).and_then(|file| file.sync_all()).map_err(|fault| unavailable("its new files cannot be synced", &fault))?;
        }
        Ok(())
    }

    fn ballast(&self) -> PathBuf {
        self.dir.join("ballast")
    }

    /// Without ballast the store works all the same, so a disk too small for it is only less comfortable when it is full.
    fn keep_ballast(&self) {
        if fs::metadata(self.ballast()).is_ok_and(|facts| facts.len() >= BALLAST_BYTES) {
            return;
        }
        // As much again must be free, or a disk that has just been full would be filled by the ballast itself.
        let written = File::create(self.ballast()).and_then(|mut file| {
            std::io::copy(&mut std::io::Read::take(std::io::repeat(0), 2 * BALLAST_BYTES), &mut file).and_then(|_| file.set_len(BALLAST_BYTES))
        });
        if written.is_err() {
            self.free_ballast();
        }
    }

    fn free_ballast(&self) {
        let _ = fs::remove_file(self.ballast());
    }
}

fn unavailable(what: &str, fault: &std::io::Error) -> StoreError {
    StoreError::Unavailable(format!("{what} ({fault}); free space or mend the disk, then restart the service"))
}

fn sled_fault(fault: &sled::Error) -> StoreError {
    match fault {
        sled::Error::Corruption { .. } => StoreError::Corrupt("its engine found damage; restore an export with `datasink store import`".to_owned()),
        sled::Error::Io(fault) => unavailable("it cannot be written or read", fault),
        other => StoreError::Unavailable(format!("its engine failed ({other}); restart the service")),
    }
}

/// Opens the database, waiting a moment for its lock: a process that has just ended, and sled's own threads after a close, still hold it for a while.
fn open_unlocked(dir: &Path, config: &sled::Config) -> Result<sled::Db, StoreError> {
    let last = Instant::now() + LOCK_PATIENCE;
    loop {
        // sled panics on damage that it finds while it recovers.
        match catch_unwind(AssertUnwindSafe(|| config.open())).map_err(|_| damaged(dir))? {
            Err(sled::Error::Io(fault)) if is_locked(&fault) && Instant::now() < last => std::thread::sleep(LOCK_PAUSE),
            other => return other.map_err(|fault| open_fault(dir, &fault)),
        }
    }
}

/// sled has only words for it.
fn is_locked(fault: &std::io::Error) -> bool {
    fault.to_string().contains("lock")
}

fn open_fault(dir: &Path, fault: &sled::Error) -> StoreError {
    match fault {
        sled::Error::Corruption { .. } => damaged(dir),
        sled::Error::Io(fault) if is_locked(fault) => {
            StoreError::Unavailable(format!("another process has {} open; stop it, or use another --data-dir", dir.display()))
        }
        other => sled_fault(other),
    }
}

fn damaged(dir: &Path) -> StoreError {
    StoreError::Corrupt(format!("{} cannot be opened; restore an export into a new directory with `datasink store import`", dir.display()))
}
