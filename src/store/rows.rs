//! Why: local tables: the rows of a unit, its stream's mark and its fence change in one transaction. Never authorizes and never knows a sink.

mod scan;
mod staged;

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, PoisonError},
};

use bytes::{BufMut, Bytes, BytesMut};
use serde::{Deserialize, Serialize};
use tokio::sync::Mutex;
use uuid::Uuid;

pub use self::{
    scan::Scan,
    staged::{Finished, Staged, Staging},
};
use super::{SharedStore, StoreError, Table, Transaction, row::Row};
use crate::limits;

/// Rows, keyed by table and row number or primary key.
const ROWS: Table = Table { name: "rows", verified_at_open: false };
/// Marks of streams, keyed by table and stream; they also carry what each stream added to its table.
const MARKS: Table = Table { name: "row_marks", verified_at_open: true };
/// Tables whose rows are still being removed, and stages likewise.
const DROPS: Table = Table { name: "row_drops", verified_at_open: true };

/// The pseudo stream that counts rows inserted without one; no stream name begins like it.
const INSERTS: &str = "\u{1}inserts";
/// Bytes of a packed value's own head: how many rows are in it.
const PACK_HEAD: usize = 4;
/// How often a transaction that met another one is tried again.
const ATTEMPTS_MAX: usize = 64;

/// Local tables over a store.
#[derive(Debug, Clone)]
pub struct Rows {
    store: SharedStore,
    table_bytes_max: u64,
    known: Arc<std::sync::Mutex<HashMap<Uuid, Arc<Mutex<Known>>>>>,
}

/// What this process knows of a table; `None`: to be read from the store.
#[derive(Debug, Default)]
struct Known {
    /// The next free row number, in a table without a primary key.
    next_row: Option<u64>,
    /// Bytes of all its rows, staged ones included.
    bytes: Option<u64>,
    /// Whether no finished stage waits to be folded into the rows.
    folded: bool,
}

/// A stream's progress in a table, and what it added there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct StreamMark {
    /// The fence: a commit with an older one fails.
    pub epoch: u64,
    /// All records before it are settled.
    pub next: u64,
    /// How many of those were rejected.
    pub rejected: u64,
    /// Rolling hash over the settled records.
    pub hash: u64,
    /// Whether the stream is finished for good.
    pub finished: bool,
    /// Rows this stream added.
    pub rows: u64,
    /// By how many bytes it made the table grow; modulo 2^64, because it may have replaced larger rows of other streams.
    pub bytes: u64,
    /// What an unfinished ON_FINISH stream has put aside; nobody sees it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub staged: Option<Staged>,
}

/// What to do with a row whose primary key is there already.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum OnConflict {
    /// Refuse it.
    #[default]
    Error,
    /// Keep the old one.
    Ignore,
    /// Replace the old one.
    Update,
}

/// What a write did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Written {
    /// New rows.
    pub inserted: u64,
    /// Replaced rows.
    pub updated: u64,
    /// Rows left as they were.
    pub ignored: u64,
    /// Bytes of the rows written.
    pub bytes: u64,
    /// Bytes of the rows they replaced.
    pub replaced_bytes: u64,
    /// The number of the first new row, in a table without a primary key.
    pub first_row: Option<u64>,
}

impl Written {
    /// A table's bytes after this.
    fn grown(&self, bytes: u64) -> u64 {
        bytes.wrapping_add(self.bytes).wrapping_sub(self.replaced_bytes)
    }
}

/// Why rows were not written.
#[derive(Debug, Clone, thiserror::Error)]
pub enum RowsError {
    /// Another epoch has the stream.
    #[error("the stream has a newer writer (epoch {0})")]
    Fenced(u64),
    /// The row at this place has a primary key that is there already, or twice among the new rows; [`Rows::duplicates`] tells the others.
    #[error("row {0} has a primary key that is there already")]
    Duplicate(usize),
    /// So many staged rows have primary keys that came to be in the table since they were staged; nothing was written.
    #[error("{0} rows have primary keys that are there already")]
    Taken(u64),
    /// The table would grow beyond its limit of bytes.
    #[error("the table would grow beyond {0} bytes")]
    Full(u64),
    /// Others wrote the same rows again and again.
    #[error("other writers of the same rows were always faster; try again")]
    Busy,
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// What moves with rows: the mark of their stream, or the counter of rows without one.
enum Behind {
    Stream {
        key: Vec<u8>,
        old: StreamMark,
        new: StreamMark,
    },
    /// A stream whose rows are put aside.
    Stage {
        key: Vec<u8>,
        old: StreamMark,
        new: StreamMark,
        stage: Staged,
    },
    Inserts,
}

impl Behind {
    fn stage(&self) -> Option<&Staged> {
        match self {
            Self::Stage { stage, .. } => Some(stage),
            Self::Stream { .. } | Self::Inserts => None,
        }
    }
}

impl Rows {
    /// Tables of at most `table_bytes_max` bytes of rows each.
    pub fn new(store: SharedStore, table_bytes_max: u64) -> Self {
        Self { store, table_bytes_max, known: Arc::default() }
    }

    /// Goes on with removals and with the folding of finished stages that a crash interrupted. Call it once at start.
    pub async fn resume_drops(&self) -> Result<(), StoreError> {
        for (key, _) in self.store.scan(DROPS, b"", None, usize::MAX).await? {
            match (Uuid::from_slice(&key), key.split_at_checked(16).map(|(table, stage)| (Uuid::from_slice(table), Uuid::from_slice(stage)))) {
                (Ok(table), _) => self.remove_all(table).await?,
                (_, Some((Ok(table), Ok(stage)))) => self.remove_stage(table, stage).await?,
                _ => {}
            }
        }
        self.resume_folds().await
    }

    /// Adds to `transaction` the note that `table` is to be emptied; call [`Rows::remove_all`] when it has happened.
    #[must_use]
    pub fn note_drop(transaction: Transaction, table: Uuid) -> Transaction {
        transaction.put(DROPS, table.as_bytes().to_vec(), Bytes::new())
    }

    /// Removes the rows and marks of a table that is noted as dropped.
    pub async fn remove_all(&self, table: Uuid) -> Result<(), StoreError> {
        // Marks first: without its mark no stream can add rows any more.
        for part in [MARKS, staged::PUBLISHED, ROWS, staged::STAGED] {
            loop {
                let entries = self.store.scan(part, table.as_bytes(), None, 256).await?;
                if entries.is_empty() {
                    break;
                }
                let removal = entries.into_iter().fold(Transaction::new(), |transaction, (key, _)| transaction.delete(part, key));
                self.store.transact(removal).await?;
            }
        }
        self.known.lock().unwrap_or_else(PoisonError::into_inner).remove(&table);
        self.store.transact(Transaction::new().delete(DROPS, table.as_bytes().to_vec())).await
    }

    /// How many rows a table has, and their bytes.
    pub async fn size(&self, table: Uuid) -> Result<(u64, u64), StoreError> {
        let mut size = (0_u64, 0_u64);
        for (_, value) in self.store.scan(MARKS, table.as_bytes(), None, usize::MAX).await? {
            let mark = decode_mark(&value)?;
            size = (size.0 + mark.rows, size.1.wrapping_add(mark.bytes));
        }
        Ok(size)
    }

    /// Bytes of all rows of a table, those that unfinished streams have put aside included.
    async fn held(&self, table: Uuid) -> Result<u64, StoreError> {
        let mut held = 0_u64;
        for (_, value) in self.store.scan(MARKS, table.as_bytes(), None, usize::MAX).await? {
            let mark = decode_mark(&value)?;
            held = held.wrapping_add(mark.bytes).wrapping_add(mark.staged.map_or(0, |staged| staged.bytes));
        }
        Ok(held)
    }

    /// Grants an epoch of at least `at_least` and above all granted before, and tells the mark. Older writers fail from here on.
    pub async fn fence(&self, table: Uuid, stream: &str, at_least: u64) -> Result<(StreamMark, bool), RowsError> {
        let key = mark_key(table, stream);
        for _ in 0..ATTEMPTS_MAX {
            let found = self.store.get(MARKS, &key).await?;
            let mut mark = found.as_deref().map(decode_mark).transpose()?.unwrap_or_default();
            mark.epoch = at_least.max(mark.epoch + 1);
            let known = found.is_some();
            // The answer also means that every row applied before it is durable: what the mark says may be told on.
            match self.store.transact(Transaction::new().expect(MARKS, key.clone(), found).put(MARKS, key.clone(), encode_mark(&mark)?)).await {
                Ok(()) => return Ok((mark, known)),
                Err(StoreError::Conflict(_)) => {}
                Err(other) => return Err(other.into()),
            }
        }
        Err(RowsError::Busy)
    }

    /// Forgets a stream. What it added to the table still counts; what it has put aside goes.
    pub async fn forget(&self, table: Uuid, stream: &str) -> Result<(), RowsError> {
        self.forget_if(table, &mark_key(table, stream), |_| true).await.map(drop)
    }

    /// Forgets the stream of a mark, if it is as `wanted`; whether it was.
    async fn forget_if(&self, table: Uuid, key: &[u8], wanted: impl Fn(&StreamMark) -> bool) -> Result<bool, RowsError> {
        let inserts = mark_key(table, INSERTS);
        for _ in 0..ATTEMPTS_MAX {
            let Some(found) = self.store.get(MARKS, key).await? else { return Ok(false) };
            let old = decode_mark(&found)?;
            if !wanted(&old) {
                return Ok(false);
            }
            let mut transaction = Transaction::new().expect(MARKS, key, Some(found)).delete(MARKS, key);
            if (old.rows, old.bytes) != (0, 0) {
                let sum = self.store.get(MARKS, &inserts).await?;
                let mut total = sum.as_deref().map(decode_mark).transpose()?.unwrap_or_default();
                (total.rows, total.bytes) = (total.rows + old.rows, total.bytes.wrapping_add(old.bytes));
                transaction = transaction.expect(MARKS, inserts.clone(), sum).put(MARKS, inserts.clone(), encode_mark(&total)?);
            }
            if let Some(staged) = old.staged {
                transaction = transaction.put(DROPS, staged::stage_key(table, staged.id, &[]), Bytes::new());
            }
            match self.store.transact(transaction).await {
                Ok(()) => {}
                Err(StoreError::Conflict(_)) => continue,
                Err(other) => return Err(other.into()),
            }
            if let Some(staged) = old.staged {
                self.remove_stage(table, staged.id).await?;
            }
            return Ok(true);
        }
        Err(RowsError::Busy)
    }

    /// Writes rows and moves the stream's mark, all or nothing. `old` is the mark as this writer left it; `new` need not count rows.
    pub async fn commit(
        &self,
        table: Uuid,
        stream: &str,
        old: StreamMark,
        new: StreamMark,
        rows: &[Row],
        on_conflict: OnConflict,
    ) -> Result<(StreamMark, Written), RowsError> {
        let key = mark_key(table, stream);
        let written = self.write(table, rows, on_conflict, &Behind::Stream { key: key.clone(), old, new }).await;
        self.fenced(&key, &old, written).await
    }

    /// Tells a writer that was too slow from one that has no right to write any more.
    async fn fenced(&self, key: &[u8], old: &StreamMark, written: Result<(Written, StreamMark), RowsError>) -> Result<(StreamMark, Written), RowsError> {
        match written {
            // A mark that is not as this writer left it belongs to a newer one.
            Err(RowsError::Busy) => match self.store.get(MARKS, key).await? {
                Some(found) if decode_mark(&found)? != *old => Err(RowsError::Fenced(decode_mark(&found)?.epoch)),
                Some(_) => Err(RowsError::Busy),
                None => Err(RowsError::Fenced(old.epoch)),
            },
            done => done.map(|(written, mark)| (mark, written)),
        }
    }

    /// Writes rows that belong to no stream.
    pub async fn insert(&self, table: Uuid, rows: &[Row], on_conflict: OnConflict) -> Result<Written, RowsError> {
        Ok(self.write(table, rows, on_conflict, &Behind::Inserts).await?.0)
    }

    /// Adds the mark's part to the transaction of some rows.
    async fn add_mark(&self, table: Uuid, behind: &Behind, written: Written, transaction: Transaction) -> Result<(Transaction, StreamMark), RowsError> {
        let (key, found, mark) = match behind {
            Behind::Stream { key, old, new } => {
                let mark = StreamMark { epoch: old.epoch, rows: old.rows + written.inserted, bytes: written.grown(old.bytes), staged: old.staged, ..*new };
                (key.clone(), Some(encode_mark(old)?), mark)
            }
            Behind::Stage { key, old, new, stage } => {
                let staged = Staged { rows: stage.rows + written.inserted, bytes: written.grown(stage.bytes), ..*stage };
                let mark = StreamMark { epoch: old.epoch, rows: old.rows, bytes: old.bytes, staged: Some(staged), ..*new };
                (key.clone(), Some(encode_mark(old)?), mark)
            }
            Behind::Inserts => {
                let key = mark_key(table, INSERTS);
                let found = self.store.get(MARKS, &key).await?;
                let mut total = found.as_deref().map(decode_mark).transpose()?.unwrap_or_default();
                (total.rows, total.bytes) = (total.rows + written.inserted, written.grown(total.bytes));
                (key, found, total)
            }
        };
        Ok((transaction.expect(MARKS, key.clone(), found).put(MARKS, key, encode_mark(&mark)?), mark))
    }

    /// Makes the transaction of `rows` and of what stands behind them, and tries again where only other rows were in the way.
    async fn write(&self, table: Uuid, rows: &[Row], on_conflict: OnConflict, behind: &Behind) -> Result<(Written, StreamMark), RowsError> {
        let keyed = rows.iter().any(|row| row.key.is_some());
        let known = self.known(table);
        let mut marks_lost = 0;
        for _ in 0..ATTEMPTS_MAX {
            let mut now = known.lock().await;
            let bytes = match now.bytes {
                Some(bytes) => bytes,
                None => self.held(table).await?,
            };
            if keyed && !now.folded {
                self.fold(table).await?;
                now.folded = true;
            }
            let (written, transaction) = if keyed {
                self.keyed(table, rows, on_conflict, behind.stage()).await?
            } else if rows.is_empty() {
                (Written::default(), Transaction::new())
            } else if let Some(stage) = behind.stage() {
                let (written, transaction) = packed(staged::STAGED, &staged::stage_key(table, stage.id, &[]), stage.rows, rows);
                (Written { first_row: None, ..written }, transaction)
            } else {
                let first = match now.next_row {
                    Some(first) => first,
                    None => self.first_free(table).await?,
                };
                now.next_row = Some(first + rows.len() as u64);
                packed(ROWS, table.as_bytes(), first, rows)
            };
            let grown = written.grown(bytes);
            if grown > self.table_bytes_max && written.bytes > written.replaced_bytes {
                return Err(RowsError::Full(self.table_bytes_max));
            }
            now.bytes = Some(grown);
            let rows_conditions = transaction.conditions.len();
            let (transaction, mark) = self.add_mark(table, behind, written, transaction).await?;
            let mut commit = self.store.transact(transaction);
            // Handed to the store's writer in the order of row numbers; only then may the next caller take numbers.
            let early = futures::poll!(&mut commit);
            drop(now);
            let done = match early {
                std::task::Poll::Ready(done) => done,
                std::task::Poll::Pending => commit.await,
            };
            match done {
                Ok(()) => return Ok((written, mark)),
                Err(StoreError::Conflict(index)) if index < rows_conditions => *known.lock().await = Known::default(),
                Err(StoreError::Conflict(_)) => {
                    *known.lock().await = Known::default();
                    // A stream's mark never comes back to what a fenced writer left; the counter of inserts does move.
                    marks_lost += 1;
                    if marks_lost > 8 {
                        break;
                    }
                }
                Err(other) => return Err(other.into()),
            }
        }
        Err(RowsError::Busy)
    }

    fn known(&self, table: Uuid) -> Arc<Mutex<Known>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).entry(table).or_default().clone()
    }

    /// One above the last row number in the store.
    async fn first_free(&self, table: Uuid) -> Result<u64, StoreError> {
        // Row numbers are dense enough for a search: find a key with nothing behind it.
        let (mut low, mut high) = (0_u64, u64::MAX);
        let mut free = 0;
        while low < high {
            let middle = low + (high - low) / 2;
            let after = row_key(table, &middle.to_be_bytes());
            match self.store.scan(ROWS, table.as_bytes(), Some(&after), 1).await?.first() {
                Some((key, value)) => {
                    low = number_of(key)?;
                    free = low + count_of(value)?;
                    if low == middle {
                        break;
                    }
                }
                None => high = middle,
            }
        }
        if free == 0
            && let Some((key, value)) = self.store.scan(ROWS, table.as_bytes(), None, 1).await?.first()
        {
            free = number_of(key)? + count_of(value)?;
        }
        Ok(free)
    }

    /// What rows with primary keys do to the table, or to a stage of it. Staged rows meet the table's own when the stream is finished; only where a meeting is an error they
    /// do so at once, as long as each can be named.
    async fn keyed(&self, table: Uuid, rows: &[Row], on_conflict: OnConflict, stage: Option<&Staged>) -> Result<(Written, Transaction), RowsError> {
        let (part, head) = stage.map_or_else(|| (ROWS, table.as_bytes().to_vec()), |stage| (staged::STAGED, staged::stage_key(table, stage.id, &[])));
        let mut written = Written::default();
        let mut transaction = Transaction::new();
        let mut mine: HashMap<&[u8], u64> = HashMap::new();
        for (place, row) in rows.iter().enumerate() {
            let Some(primary) = &row.key else { return Err(RowsError::Duplicate(place)) };
            let key = [head.as_slice(), primary].concat();
            let length = row.json.len() as u64;
            // The row this one would meet: one of its own batch, or the stored one.
            let met = match mine.get(primary.as_slice()) {
                Some(length) => Some(*length),
                None => self.store.get(part, &key).await?.map(|value| row_bytes(&value)),
            };
            let met = match met {
                None if stage.is_some() && on_conflict == OnConflict::Error => self.store.get(ROWS, &row_key(table, primary)).await?.map(|_| 0),
                met => met,
            };
            match (met, on_conflict) {
                (Some(_), OnConflict::Error) => return Err(RowsError::Duplicate(place)),
                (Some(_), OnConflict::Ignore) => {
                    written.ignored += 1;
                    continue;
                }
                (Some(old), OnConflict::Update) => {
                    written.updated += 1;
                    written.replaced_bytes += old;
                }
                (None, _) => {
                    written.inserted += 1;
                    transaction = transaction.absent(part, key.clone());
                }
            }
            mine.insert(primary, length);
            written.bytes += length;
            transaction = transaction.put(part, key, pack(std::slice::from_ref(row)));
        }
        Ok((written, transaction))
    }

    /// The places of all rows whose primary key is there already, or came before among them: a caller that must leave them out learns of them at once.
    /// `staged`: what their own stream has put aside.
    pub async fn duplicates(&self, table: Uuid, rows: &[Row], staged: Option<Staged>) -> Result<Vec<usize>, StoreError> {
        let mut mine = HashSet::new();
        let mut places = Vec::new();
        for (place, primary) in rows.iter().enumerate().filter_map(|(place, row)| Some((place, row.key.as_deref()?))) {
            let aside = match staged {
                Some(staged) => self.store.get(staged::STAGED, &staged::stage_key(table, staged.id, primary)).await?,
                None => None,
            };
            if !mine.insert(primary) || aside.is_some() || self.store.get(ROWS, &row_key(table, primary)).await?.is_some() {
                places.push(place);
            }
        }
        Ok(places)
    }
}

fn row_key(table: Uuid, key: &[u8]) -> Vec<u8> {
    [table.as_bytes().as_slice(), key].concat()
}

fn mark_key(table: Uuid, stream: &str) -> Vec<u8> {
    [table.as_bytes().as_slice(), stream.as_bytes()].concat()
}

fn number_of(key: &[u8]) -> Result<u64, StoreError> {
    let number = key.get(16..).and_then(|number| number.try_into().ok()).map(u64::from_be_bytes);
    number.ok_or_else(|| StoreError::Corrupt("a row has a key of another table's shape".to_owned()))
}

fn encode_mark(mark: &StreamMark) -> Result<Bytes, StoreError> {
    serde_json::to_vec(mark).map(Bytes::from).map_err(|fault| StoreError::Corrupt(fault.to_string()))
}

fn decode_mark(value: &[u8]) -> Result<StreamMark, StoreError> {
    serde_json::from_slice(value).map_err(|fault| StoreError::Corrupt(format!("a stream's mark cannot be read: {fault}")))
}

/// Small rows share values: the engine's cost is by key. Keys are `head` and the number of their first row.
fn packed(part: Table, head: &[u8], first: u64, rows: &[Row]) -> (Written, Transaction) {
    let mut written = Written { inserted: rows.len() as u64, first_row: (!rows.is_empty()).then_some(first), ..Written::default() };
    let mut transaction = Transaction::new();
    let mut from = 0;
    while from < rows.len() {
        let mut to = from;
        let mut bytes = PACK_HEAD;
        while to < rows.len() && (to == from || bytes + rows[to].json.len() < limits::STORE_VALUE_BYTES_MAX) {
            bytes += rows[to].json.len() + 1;
            to += 1;
        }
        written.bytes += rows[from..to].iter().map(|row| row.json.len() as u64).sum::<u64>();
        let key = [head, &(first + from as u64).to_be_bytes()].concat();
        transaction = transaction.absent(part, key.clone()).put(part, key, pack(&rows[from..to]));
        from = to;
    }
    (written, transaction)
}

fn pack(rows: &[Row]) -> Bytes {
    let mut value = BytesMut::with_capacity(PACK_HEAD + rows.iter().map(|row| row.json.len() + 1).sum::<usize>());
    value.put_u32(u32::try_from(rows.len()).expect("a value has few rows"));
    for (place, row) in rows.iter().enumerate() {
        if place > 0 {
            value.put_u8(b'\n');
        }
        value.extend_from_slice(&row.json);
    }
    value.freeze()
}

/// The bytes of the one row of a value.
fn row_bytes(value: &[u8]) -> u64 {
    value.len().saturating_sub(PACK_HEAD) as u64
}

fn count_of(value: &[u8]) -> Result<u64, StoreError> {
    if let Some(segment) = staged::Segment::of(value)? {
        return Ok(segment.rows);
    }
    let head = value.get(..PACK_HEAD).and_then(|head| head.try_into().ok()).map(u32::from_be_bytes);
    head.map(u64::from).ok_or_else(|| StoreError::Corrupt("a value of rows has no head".to_owned()))
}

fn unpack(value: &Bytes) -> Result<Vec<Bytes>, StoreError> {
    let count = count_of(value)?;
    let body = value.slice(PACK_HEAD..);
    let rows: Vec<Bytes> = body.split(|byte| *byte == b'\n').map(|line| body.slice_ref(line)).collect();
    if rows.len() as u64 == count { Ok(rows) } else { Err(StoreError::Corrupt("a value of rows has another number of them".to_owned())) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{
        memory::MemoryStore,
        sled::{SledOptions, SledStore},
    };

    fn rows(from: u64, count: u64, width: usize) -> Vec<Row> {
        (from..from + count).map(|n| Row { json: format!("{{\"n\":{n},\"pad\":\"{}\"}}", "x".repeat(width)).into(), key: None }).collect()
    }

    /// Everything, in pages of 7, each with a scan that goes on from the last one's token.
    pub(super) async fn all(rows: &Rows, table: Uuid, keyed: bool) -> Vec<Bytes> {
        let mut scan = rows.scan(table, keyed, None).await.unwrap();
        let mut out = Vec::new();
        loop {
            let page = scan.next(7).await.unwrap();
            if page.is_empty() {
                return out;
            }
            out.extend(page);
            // Going on from a token is the same as going on.
            scan = rows.scan(table, keyed, Some(&scan.token())).await.unwrap();
        }
    }

    pub(super) fn engines() -> (tempfile::TempDir, Vec<SharedStore>) {
        let dir = tempfile::tempdir().unwrap();
        let sled = SledStore::open(dir.path(), SledOptions { ballast: false, ..SledOptions::default() }).unwrap();
        (dir, vec![Arc::new(MemoryStore::new()), Arc::new(sled)])
    }

    #[tokio::test]
    async fn units_follow_one_another_with_their_mark_and_are_read_back_in_order() {
        let (_dir, stores) = engines();
        for store in stores {
            let rows_of = Rows::new(store.clone(), 1 << 30);
            let table = Uuid::new_v4();
            let (mut mark, known) = rows_of.fence(table, "s", 3).await.unwrap();
            assert!(!known);
            assert_eq!(mark.epoch, 3);
            for unit in 0..10 {
                let width = if unit == 5 { 9_000 } else { 20 };
                let new = StreamMark { next: (unit + 1) * 100, ..mark };
                mark = rows_of.commit(table, "s", mark, new, &rows(unit * 100, 100, width), OnConflict::Error).await.unwrap().0;
            }
            let found = all(&rows_of, table, false).await;
            assert_eq!(found.len(), 1_000);
            assert!(found.iter().enumerate().all(|(n, row)| row.starts_with(format!("{{\"n\":{n},").as_bytes())));
            assert_eq!(rows_of.size(table).await.unwrap(), (1_000, found.iter().map(|row| row.len() as u64).sum()));
            // A new process knows nothing and goes on behind the last row.
            let again = Rows::new(store, 1 << 30);
            let (seen, known) = again.fence(table, "s", 1).await.unwrap();
            assert!(known);
            assert_eq!((seen.epoch, seen.next, seen.rows), (4, 1_000, 1_000));
            again.insert(table, &rows(1_000, 1, 0), OnConflict::Error).await.unwrap();
            assert_eq!(all(&again, table, false).await.len(), 1_001);
        }
    }

    #[tokio::test]
    async fn a_fenced_writer_writes_nothing() {
        let (_dir, stores) = engines();
        for store in stores {
            let rows_of = Rows::new(store, 1 << 30);
            let table = Uuid::new_v4();
            let (old, _) = rows_of.fence(table, "s", 1).await.unwrap();
            let (new, _) = rows_of.fence(table, "s", 1).await.unwrap();
            let refused = rows_of.commit(table, "s", old, StreamMark { next: 5, ..old }, &rows(0, 5, 0), OnConflict::Error).await.unwrap_err();
            assert!(matches!(refused, RowsError::Fenced(2)), "{refused}");
            assert!(all(&rows_of, table, false).await.is_empty());
            rows_of.commit(table, "s", new, StreamMark { next: 5, ..new }, &rows(0, 5, 0), OnConflict::Error).await.unwrap();
            assert_eq!(all(&rows_of, table, false).await.len(), 5);
        }
    }

    #[tokio::test]
    async fn several_streams_write_one_table_at_once() {
        let (_dir, stores) = engines();
        for store in stores {
            let rows_of = Rows::new(store, 1 << 30);
            let table = Uuid::new_v4();
            let writers = (0..8_u64).map(|writer| {
                let rows_of = rows_of.clone();
                async move {
                    let stream = format!("s{writer}");
                    let (mut mark, _) = rows_of.fence(table, &stream, 1).await.unwrap();
                    for unit in 0..20 {
                        let new = StreamMark { next: (unit + 1) * 10, ..mark };
                        mark = rows_of.commit(table, &stream, mark, new, &rows(writer * 1_000 + unit * 10, 10, 0), OnConflict::Error).await.unwrap().0;
                    }
                }
            });
            futures::future::join_all(writers).await;
            let found = all(&rows_of, table, false).await;
            let distinct: std::collections::HashSet<_> = found.iter().collect();
            assert_eq!((found.len(), distinct.len()), (1_600, 1_600));
            for writer in 0..8_u64 {
                rows_of.forget(table, &format!("s{writer}")).await.unwrap();
            }
            assert_eq!(rows_of.size(table).await.unwrap().0, 1_600, "what forgotten streams wrote still counts");
            rows_of.remove_all(table).await.unwrap();
            assert!(all(&rows_of, table, false).await.is_empty());
            assert_eq!(rows_of.size(table).await.unwrap(), (0, 0));
        }
    }

    #[tokio::test]
    async fn primary_keys_are_refused_kept_or_replaced() {
        let (_dir, stores) = engines();
        for store in stores {
            let rows_of = Rows::new(store, 1 << 30);
            let table = Uuid::new_v4();
            let row = |key: u8, text: &str| Row { json: Bytes::from(text.to_owned()), key: Some(vec![key]) };
            rows_of.insert(table, &[row(2, "b"), row(1, "a")], OnConflict::Error).await.unwrap();
            let refused = rows_of.insert(table, &[row(3, "c"), row(1, "x")], OnConflict::Error).await.unwrap_err();
            assert!(matches!(refused, RowsError::Duplicate(1)));
            let kept = rows_of.insert(table, &[row(3, "c"), row(1, "x")], OnConflict::Ignore).await.unwrap();
            assert_eq!((kept.inserted, kept.ignored), (1, 1));
            let replaced = rows_of.insert(table, &[row(1, "y"), row(1, "z")], OnConflict::Update).await.unwrap();
            assert_eq!(replaced.updated, 2);
            assert_eq!(all(&rows_of, table, true).await, ["z", "b", "c"].map(Bytes::from));
            assert_eq!(rows_of.size(table).await.unwrap().0, 3);
        }
    }

    #[tokio::test]
    async fn replacing_rows_does_not_fill_a_table() {
        let store: SharedStore = Arc::new(MemoryStore::new());
        let rows_of = Rows::new(store.clone(), 1_000);
        let table = Uuid::new_v4();
        let row = |length: usize| [Row { json: "x".repeat(length).into(), key: Some(vec![1]) }];
        for length in (1..500).rev() {
            rows_of.insert(table, &row(length), OnConflict::Update).await.unwrap();
        }
        assert_eq!(rows_of.size(table).await.unwrap(), (1, 1));
        // A stream that made another's row smaller still leaves a true sum.
        rows_of.insert(table, &row(900), OnConflict::Update).await.unwrap();
        let (mark, _) = rows_of.fence(table, "s", 1).await.unwrap();
        rows_of.commit(table, "s", mark, StreamMark { next: 1, ..mark }, &row(10), OnConflict::Update).await.unwrap();
        assert_eq!(rows_of.size(table).await.unwrap(), (1, 10));
        assert_eq!(Rows::new(store, 1_000).size(table).await.unwrap(), (1, 10));
    }

    #[tokio::test]
    async fn a_table_does_not_grow_beyond_its_limit() {
        let rows_of = Rows::new(Arc::new(MemoryStore::new()), 300);
        let table = Uuid::new_v4();
        rows_of.insert(table, &rows(0, 10, 0), OnConflict::Error).await.unwrap();
        assert!(matches!(rows_of.insert(table, &rows(0, 10, 0), OnConflict::Error).await, Err(RowsError::Full(300))));
        assert_eq!(all(&rows_of, table, false).await.len(), 10);
    }
}
