//! Why: sled made durable: one writer commits in groups and answers only after its own `fdatasync`, because sled's flush is none. Never lets a page become a blob.

use std::{
    collections::HashMap,
    fs::{self, File},
    os::unix::fs::FileExt,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        mpsc::{Receiver, SyncSender, TryRecvError, sync_channel},
    },
    thread::JoinHandle,
};

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use tokio::sync::{broadcast, oneshot};

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

/// Where the log counts its groups; no table's key begins like it.
const GROUPS_KEY: &[u8] = b"groups";

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
}

/// The embedded store.
#[derive(Debug)]
pub struct SledStore {
    tree: sled::Tree,
    requests: Mutex<Option<SyncSender<Request>>>,
    writer: Mutex<Option<JoinHandle<()>>>,
    broken: Arc<Mutex<Option<StoreError>>>,
    changes: broadcast::Sender<Changed>,
}

enum Request {
    Transact(Transaction, oneshot::Sender<Result<(), StoreError>>),
    Sync(oneshot::Sender<Result<(), StoreError>>),
}

impl SledStore {
    /// Opens or makes the store in `dir`, and verifies its small tables. Blocks; a corrupt store is an error, not a panic.
    pub fn open(dir: &Path, options: SledOptions) -> Result<Self, StoreError> {
        let new = !dir.join("db").exists();
        fs::create_dir_all(dir).map_err(|fault| unavailable("its directory cannot be made", &fault))?;
        let config = sled::Config::new().path(dir).flush_every_ms(None).cache_capacity(options.cache_bytes);
        // sled panics on damage that it finds while it recovers.
        let db = catch_unwind(AssertUnwindSafe(|| config.open())).map_err(|_| damaged(dir))?.map_err(|fault| open_fault(dir, &fault))?;
        let tree = (*db).clone();
        let opened = |name: &str| {
            let file = File::options().read(true).write(true).create(true).truncate(false).open(dir.join(name));
            file.map_err(|fault| unavailable("its files cannot be opened", &fault))
        };
        let disk = Disk { dir: dir.to_owned(), file: opened("db")?, witness: opened("witness")?, durability: options.durability };
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
        let mut committer = Committer { db, tree: tree.clone(), disk, groups, broken: broken.clone(), changes: changes.clone() };
        let (facts, format) = migrate::PLACE;
        if let Some(note) = migrate::check(committer.read(facts, format)?.as_deref(), new)? {
            committer.apply(&note)?;
            committer.make_durable()?;
        }
        let writer = std::thread::Builder::new()
            .name("store-committer".to_owned())
            .spawn(move || committer.run(&queue))
            .map_err(|fault| unavailable("its writer cannot be started", &fault))?;
        let store = Self { tree, requests: Mutex::new(Some(requests)), writer: Mutex::new(Some(writer)), broken, changes };
        let verified = catch_unwind(AssertUnwindSafe(|| store.verify_tables(|table| table.verified_at_open))).map_err(|_| damaged(dir))??;
        match verified.faults.first() {
            None => Ok(store),
            Some(fault) => {
                Err(StoreError::Corrupt(format!("{fault} ({} faults in all); restore an export with `datasink store import`", verified.faults.len())))
            }
        }
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

    /// Every table that ever had a row, by name, from the root records.
    fn tables(&self) -> Result<Vec<Table>, StoreError> {
        let mut tables = Vec::new();
        for entry in self.tree.scan_prefix([Space::Root as u8]) {
            let (full, stored) = entry.map_err(|fault| sled_fault(&fault))?;
            let name = std::str::from_utf8(&full[1..full.len() - 1]).map_err(|_| StoreError::Corrupt("a table's name cannot be read".to_owned()))?;
            tables.push(Table::named(name, Root::from_stored(name, &stored)?.verified_at_open));
        }
        Ok(tables)
    }

    fn verify_tables(&self, which: impl Fn(Table) -> bool) -> Result<Verified, StoreError> {
        let mut verified = Verified::default();
        for table in self.tables()?.into_iter().filter(|table| which(*table)) {
            let mut found = Root::default();
            for entry in self.tree.scan_prefix(full_key(Space::Row, table, b"")) {
                let (full, stored) = entry.map_err(|fault| sled_fault(&fault))?;
                let key = &full[table.name.len() + 2..];
                match value_of(&self.tree, table, key, &stored) {
                    Ok(value) => found.add(codec::row_hash(key, &value)),
                    Err(StoreError::Corrupt(fault)) => {
                        found.rows += 1;
                        verified.faults.push(format!("table {}: {fault}", table.name));
                    }
                    Err(other) => return Err(other),
                }
            }
            let root = Root::read(&self.tree, table)?;
            if verified.faults.is_empty() && (root.rows, root.hash) != (found.rows, found.hash) {
                verified.faults.push(format!("table {} has {} rows where {} were written, or other ones", table.name, found.rows, root.rows));
            }
            verified.rows.insert(table.name.to_owned(), found.rows);
        }
        Ok(verified)
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
        match self.tree.get(full_key(Space::Row, table, key)).map_err(|fault| sled_fault(&fault))? {
            None => Ok(None),
            Some(stored) => value_of(&self.tree, table, key, &stored).map(Some),
        }
    }

    async fn scan(&self, table: Table, prefix: &[u8], after: Option<&[u8]>, limit: usize) -> Result<Vec<Entry>, StoreError> {
        let start = full_key(Space::Row, table, after.filter(|after| *after >= prefix).unwrap_or(prefix));
        let within = full_key(Space::Row, table, prefix);
        let mut entries = Vec::new();
        for entry in self.tree.range(start..) {
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
        let mut rows = Vec::new();
        for table in self.tables()?.into_iter().filter(|table| *table != FACTS) {
            for entry in self.tree.scan_prefix(full_key(Space::Row, table, b"")) {
                let (full, stored) = entry.map_err(|fault| sled_fault(&fault))?;
                let key = &full[table.name.len() + 2..];
                rows.push((table, key.to_vec(), value_of(&self.tree, table, key, &stored)?));
            }
        }
        export::write(to, rows.into_iter().map(Ok))
    }

    async fn import(&self, from: &Path) -> Result<u64, StoreError> {
        if self.tables()?.iter().any(|table| *table != FACTS) {
            return Err(StoreError::Unavailable("an export can only be read into an empty store".to_owned()));
        }
        let all = export::read(from)?;
        let count = all.len() as u64;
        let mut transaction = Transaction::new();
        for (table, key, value) in all {
            transaction = transaction.put(table, key, value);
            if transaction.writes.len() >= 256 {
                self.transact(std::mem::take(&mut transaction)).await?;
            }
        }
        self.transact(transaction).await?;
        Ok(count)
    }

    async fn verify(&self) -> Result<Verified, StoreError> {
        self.verify_tables(|_| true)
    }
}

/// The one writer: owns the database.
struct Committer {
    db: sled::Db,
    tree: sled::Tree,
    disk: Disk,
    /// Groups committed since the store was made.
    groups: u64,
    broken: Arc<Mutex<Option<StoreError>>>,
    changes: broadcast::Sender<Changed>,
}

impl Committer {
    fn run(mut self, queue: &Receiver<Request>) {
        while let Ok(first) = queue.recv() {
            let mut group = Vec::new();
            let mut bytes = 0;
            let mut next = Some(first);
            while let Some(request) = next.take() {
                if let Request::Transact(transaction, _) = &request {
                    bytes += transaction.byte_count();
                }
                group.push(request);
                if group.len() < GROUP_MAX && bytes < GROUP_BYTES_MAX {
                    next = match queue.try_recv() {
                        Ok(request) => Some(request),
                        Err(TryRecvError::Empty | TryRecvError::Disconnected) => None,
                    };
                }
            }
            self.commit(group);
        }
    }

    /// Applies a group, syncs once, then answers everybody. Readers may see rows of a group that is not synced yet; nothing may be promised on what was only
    /// read: whoever must know that a row is durable writes (a fence, a mark) and waits for that answer, which covers all that was applied before it.
    fn commit(&mut self, group: Vec<Request>) {
        let mut waiting = Vec::new();
        let mut failure = self.broken.lock().unwrap_or_else(PoisonError::into_inner).clone();
        for request in group {
            match request {
                Request::Sync(reply) => waiting.push((reply, None)),
                Request::Transact(transaction, reply) => {
                    if let Some(failure) = &failure {
                        answer(reply, Err(failure.clone()));
                        continue;
                    }
                    match catch_unwind(AssertUnwindSafe(|| self.apply(&transaction))) {
                        Ok(Ok(())) => waiting.push((reply, Some(transaction))),
                        Ok(Err(conflict @ (StoreError::Conflict(_) | StoreError::TooLarge(_) | StoreError::Corrupt(_)))) => answer(reply, Err(conflict)),
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
            }
        }
        if failure.is_none() && !waiting.is_empty() {
            failure = self.make_durable().err();
        }
        if let Some(fault) = &failure {
            self.disk.free_ballast();
            // After a failed sync the page cache no longer tells the truth: nothing is acknowledged until a restart has read the disk again.
            self.broken.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert_with(|| fault.clone());
        }
        for (reply, transaction) in waiting {
            match &failure {
                Some(fault) => answer(reply, Err(fault.clone())),
                None => {
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
        self.no_blobs()
    }

    /// Written after the log is durable and not synced itself: after a power cut it may be behind the log, never ahead of it.
    fn tell_witness(&self, groups: u64) -> Result<(), StoreError> {
        let mut bytes = [0; 12];
        bytes[..8].copy_from_slice(&groups.to_be_bytes());
        bytes[8..].copy_from_slice(&crc32c::crc32c(&groups.to_be_bytes()).to_be_bytes());
        self.witness.write_all_at(&bytes, 0).map_err(|fault| unavailable("its witness cannot be written", &fault))
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
        let written = File::create(self.ballast()).and_then(|mut file| std::io::copy(&mut std::io::Read::take(std::io::repeat(0), BALLAST_BYTES), &mut file));
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

fn open_fault(dir: &Path, fault: &sled::Error) -> StoreError {
    match fault {
        sled::Error::Corruption { .. } => damaged(dir),
        sled::Error::Io(fault) if fault.to_string().contains("lock") => {
            StoreError::Unavailable(format!("another process has {} open; stop it, or use another --data-dir", dir.display()))
        }
        other => sled_fault(other),
    }
}

fn damaged(dir: &Path) -> StoreError {
    StoreError::Corrupt(format!("{} cannot be opened; restore an export into a new directory with `datasink store import`", dir.display()))
}
