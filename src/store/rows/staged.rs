//! Why: rows of an ON_FINISH stream lie aside until it is finished and are there in one transaction then, however many they are. Never visible before, and never held in memory.
//!
//! A *stage* is a run of entries of a table of its own, kept under the table's and the stage's ids; the stream's mark moves with them and names the stage, so a crash, a fence and a resumed
//! stream are what they are without a stage. To finish is one small transaction with the mark:
//!
//! - Without a primary key the next row numbers are given to a *segment*: one entry among the rows that says where the others lie. It stays so; a scan reads through it.
//! - With one, rows must lie where their keys are looked for. The transaction *publishes* the stage: readers see it merged into the rows from then on, and writers of the table wait until
//!   it is *folded* into them, some entries a transaction. Whoever comes first goes on with a folding that a crash interrupted.
//!
//! What a table holds is decided within one process, by the lock that orders its writers.

use bytes::{BufMut, Bytes, BytesMut};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{Behind, DROPS, Known, MARKS, OnConflict, ROWS, Rows, RowsError, StreamMark, Written, decode_mark, encode_mark, mark_key, row_bytes, row_key};
use crate::{
    clock::Timestamp,
    limits,
    store::{StoreError, Table, Transaction, row::Row},
};

/// Rows put aside, keyed by table, stage and what their key in the table will be; where there is no primary key, their number in the stage.
pub(super) const STAGED: Table = Table { name: "rows_staged", verified_at_open: false };
/// Finished stages that are not folded yet, by table.
pub(super) const PUBLISHED: Table = Table { name: "row_folds", verified_at_open: true };
/// Entries that are moved or removed at once.
const AT_ONCE: usize = 64;

/// What a stream has put aside.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Staged {
    /// The stage.
    pub id: Uuid,
    /// Whether its rows have primary keys.
    pub keyed: bool,
    /// How many rows.
    pub rows: u64,
    /// Their bytes.
    pub bytes: u64,
    /// The offset of the first record that became one.
    pub first_offset: Option<u64>,
    /// When something was put aside last.
    pub touched: Timestamp,
}

/// What a unit that is put aside needs to be told.
#[derive(Debug, Clone, Copy)]
pub struct Staging {
    /// The id of a stage that must be begun.
    pub id: Uuid,
    /// The offset of the unit's first row.
    pub first_offset: Option<u64>,
    /// The time.
    pub now: Timestamp,
}

/// What became of a stage.
#[derive(Debug, Clone, Copy, Default)]
pub struct Finished {
    /// What its rows did to the table.
    pub written: Written,
    /// The offset of the first record of it; `None`: it had no rows.
    pub first_offset: Option<u64>,
}

/// A finished stage that readers merge into the rows.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(super) struct Published {
    pub(super) stage: Uuid,
    pub(super) on_conflict: OnConflict,
}

/// An entry among the rows that stands for those of a stage.
pub(super) struct Segment {
    pub(super) stage: Uuid,
    pub(super) rows: u64,
}

impl Segment {
    /// No value of rows has so many.
    const HEAD: u32 = u32::MAX;
    const BYTES: usize = 28;

    /// The segment that a value is; `None`: it is rows.
    pub(super) fn of(value: &[u8]) -> Result<Option<Self>, StoreError> {
        let Some(rest) = value.strip_prefix(&Self::HEAD.to_be_bytes()) else { return Ok(None) };
        let parts = rest.split_first_chunk::<16>().zip(rest.last_chunk::<8>()).filter(|_| value.len() == Self::BYTES);
        let ((stage, _), rows) = parts.ok_or_else(|| StoreError::Corrupt("a segment of rows has another length".to_owned()))?;
        Ok(Some(Self { stage: Uuid::from_bytes(*stage), rows: u64::from_be_bytes(*rows) }))
    }

    fn encode(&self) -> Bytes {
        let mut value = BytesMut::with_capacity(Self::BYTES);
        value.put_u32(Self::HEAD);
        value.put_slice(self.stage.as_bytes());
        value.put_u64(self.rows);
        value.freeze()
    }
}

pub(super) fn stage_key(table: Uuid, stage: Uuid, key: &[u8]) -> Vec<u8> {
    [table.as_bytes().as_slice(), stage.as_bytes(), key].concat()
}

impl Rows {
    /// Puts rows aside and moves the stream's mark, all or nothing. `old` is the mark as this writer left it; `new` need not count rows.
    pub async fn stage(
        &self,
        table: Uuid,
        stream: &str,
        old: StreamMark,
        new: StreamMark,
        rows: &[Row],
        on_conflict: OnConflict,
        staging: Staging,
    ) -> Result<(StreamMark, Written), RowsError> {
        let before = old.staged.unwrap_or(Staged { id: staging.id, keyed: false, rows: 0, bytes: 0, first_offset: None, touched: staging.now });
        let stage = Staged {
            keyed: before.keyed || rows.iter().any(|row| row.key.is_some()),
            first_offset: before.first_offset.or(staging.first_offset),
            touched: staging.now,
            ..before
        };
        let key = mark_key(table, stream);
        let written = self.write(table, rows, on_conflict, &Behind::Stage { key: key.clone(), old, new, stage }).await;
        self.fenced(&key, &old, written).await
    }

    /// Lets everything that the stream has put aside count, in one transaction with its mark. Fails with [`RowsError::Taken`], and changes nothing, where that cannot be.
    pub async fn finish(
        &self,
        table: Uuid,
        stream: &str,
        old: StreamMark,
        new: StreamMark,
        on_conflict: OnConflict,
    ) -> Result<(StreamMark, Finished), RowsError> {
        let key = mark_key(table, stream);
        let known = self.known(table);
        let mut now = known.lock().await;
        // Others have handed their rows to the store before they left the lock: what is looked up from here on has them.
        self.store.sync().await?;
        let staged = old.staged.filter(|staged| staged.rows > 0);
        let (written, transaction) = match staged {
            None => (Written::default(), Transaction::new()),
            Some(staged) if staged.keyed => {
                self.fold(table).await?;
                let published = serde_json::to_vec(&Published { stage: staged.id, on_conflict }).map_err(|fault| StoreError::Corrupt(fault.to_string()))?;
                let transaction = Transaction::new().absent(PUBLISHED, table.as_bytes().as_slice()).put(PUBLISHED, table.as_bytes().as_slice(), published);
                (self.tally(table, staged.id, on_conflict).await?, transaction)
            }
            Some(staged) => {
                let first = match now.next_row {
                    Some(first) => first,
                    None => self.first_free(table).await?,
                };
                let at = row_key(table, &first.to_be_bytes());
                let segment = Segment { stage: staged.id, rows: staged.rows }.encode();
                let written = Written { inserted: staged.rows, bytes: staged.bytes, first_row: Some(first), ..Written::default() };
                (written, Transaction::new().absent(ROWS, at.clone()).put(ROWS, at, segment))
            }
        };
        let mark = StreamMark { epoch: old.epoch, rows: old.rows + written.inserted, bytes: written.grown(old.bytes), staged: None, ..new };
        let done = self.store.transact(transaction.expect(MARKS, key.clone(), Some(encode_mark(&old)?)).put(MARKS, key.clone(), encode_mark(&mark)?)).await;
        // Whatever happened, the next writer reads anew what the table is.
        *now = Known::default();
        match done {
            Ok(()) => {}
            Err(StoreError::Conflict(_)) => return self.fenced(&key, &old, Err(RowsError::Busy)).await.map(|(mark, _)| (mark, Finished::default())),
            Err(other) => return Err(other.into()),
        }
        if let Err(error) = self.fold(table).await {
            // It counts already; readers see it, and the next writer goes on.
            tracing::warn!(%error, "rows of a finished stream are not folded into their table yet");
        }
        Ok((mark, Finished { written, first_offset: staged.and_then(|staged| staged.first_offset) }))
    }

    /// Forgets an unfinished stream with all that it has put aside, if no newer writer than that of `epoch` has it.
    pub async fn abort(&self, table: Uuid, stream: &str, epoch: u64) -> Result<(), RowsError> {
        let key = mark_key(table, stream);
        if self.forget_if(table, &key, |mark| mark.epoch == epoch && !mark.finished).await? {
            return Ok(());
        }
        match self.store.get(MARKS, &key).await? {
            // Done before, and the answer was lost.
            None => Ok(()),
            Some(found) => Err(RowsError::Fenced(decode_mark(&found)?.epoch)),
        }
    }

    /// Forgets the streams of `table` whose names begin like this, with what they have put aside.
    pub async fn forget_all(&self, table: Uuid, beginning: &str) -> Result<(), RowsError> {
        for (key, _) in self.store.scan(MARKS, &mark_key(table, beginning), None, usize::MAX).await? {
            self.forget_if(table, &key, |_| true).await?;
        }
        Ok(())
    }

    /// Forgets the streams of which `expired` says so, by their names and, of those that have put rows aside, by when they did so last; how many they were.
    pub async fn forget_expired(&self, expired: impl Fn(&str, Option<Timestamp>) -> bool) -> Result<u64, RowsError> {
        let (mut after, mut forgotten) = (None::<Vec<u8>>, 0);
        loop {
            let entries = self.store.scan(MARKS, b"", after.as_deref(), 1_000).await?;
            let Some((last, _)) = entries.last() else { return Ok(forgotten) };
            after = Some(last.clone());
            for (key, value) in entries {
                let mark = decode_mark(&value)?;
                let Some((table, stream)) = key.split_at_checked(16) else { continue };
                let Ok(table) = Uuid::from_slice(table) else { continue };
                let touched = mark.staged.map(|staged| staged.touched);
                if expired(&String::from_utf8_lossy(stream), touched) && self.forget_if(table, &key, |now| *now == mark).await? {
                    forgotten += 1;
                }
            }
        }
    }

    /// Removes what is put aside in a stage that is noted as dropped.
    pub(super) async fn remove_stage(&self, table: Uuid, stage: Uuid) -> Result<(), StoreError> {
        let head = stage_key(table, stage, &[]);
        loop {
            let entries = self.store.scan(STAGED, &head, None, AT_ONCE).await?;
            if entries.is_empty() {
                break;
            }
            let removal = entries.into_iter().fold(Transaction::new(), |transaction, (key, _)| transaction.delete(STAGED, key));
            self.store.transact(removal).await?;
        }
        // Its bytes are free again.
        *self.known(table).lock().await = Known::default();
        self.store.transact(Transaction::new().delete(DROPS, head)).await
    }

    /// The finished stage that waits to be folded into a table, and its entry.
    pub(super) async fn published(&self, table: Uuid) -> Result<Option<(Bytes, Published)>, StoreError> {
        let Some(found) = self.store.get(PUBLISHED, table.as_bytes()).await? else { return Ok(None) };
        let published = serde_json::from_slice(&found).map_err(|fault| StoreError::Corrupt(format!("a finished stage cannot be read: {fault}")))?;
        Ok(Some((found, published)))
    }

    /// Goes on with all foldings.
    pub(super) async fn resume_folds(&self) -> Result<(), StoreError> {
        for (key, _) in self.store.scan(PUBLISHED, b"", None, usize::MAX).await? {
            if let Ok(table) = Uuid::from_slice(&key) {
                self.fold(table).await?;
            }
        }
        Ok(())
    }

    /// Moves the rows of the finished stage of a table, if there is one, to where their keys are looked for. The caller has the table's lock, or is alone.
    pub(super) async fn fold(&self, table: Uuid) -> Result<(), StoreError> {
        let Some((found, Published { stage, on_conflict })) = self.published(table).await? else { return Ok(()) };
        let head = stage_key(table, stage, &[]);
        loop {
            let entries = self.store.scan(STAGED, &head, None, AT_ONCE).await?;
            if entries.is_empty() {
                break;
            }
            let mut transaction = Transaction::new();
            for (key, value) in entries {
                let row = row_key(table, &key[head.len()..]);
                if on_conflict != OnConflict::Ignore || self.store.get(ROWS, &row).await?.is_none() {
                    transaction = transaction.put(ROWS, row, value);
                }
                transaction = transaction.delete(STAGED, key);
                if transaction.byte_count() >= limits::STORE_ENTRY_BYTES_MAX {
                    self.store.transact(std::mem::take(&mut transaction)).await?;
                }
            }
            self.store.transact(transaction).await?;
        }
        let done = Transaction::new().expect(PUBLISHED, table.as_bytes().as_slice(), Some(found)).delete(PUBLISHED, table.as_bytes().as_slice());
        match self.store.transact(done).await {
            // The table was dropped meanwhile.
            Ok(()) | Err(StoreError::Conflict(_)) => Ok(()),
            Err(other) => Err(other),
        }
    }

    /// What the rows of a stage will do to the table.
    async fn tally(&self, table: Uuid, stage: Uuid, on_conflict: OnConflict) -> Result<Written, RowsError> {
        let head = stage_key(table, stage, &[]);
        let (mut written, mut taken, mut after) = (Written::default(), 0, None::<Vec<u8>>);
        loop {
            let entries = self.store.scan(STAGED, &head, after.as_deref(), AT_ONCE).await?;
            let Some((last, _)) = entries.last() else { break };
            after = Some(last.clone());
            for (key, value) in entries {
                match (self.store.get(ROWS, &row_key(table, &key[head.len()..])).await?, on_conflict) {
                    (Some(_), OnConflict::Error) => taken += 1,
                    (Some(_), OnConflict::Ignore) => {
                        written.ignored += 1;
                        continue;
                    }
                    (Some(old), OnConflict::Update) => {
                        written.updated += 1;
                        written.replaced_bytes += row_bytes(&old);
                    }
                    (None, _) => written.inserted += 1,
                }
                written.bytes += row_bytes(&value);
            }
        }
        if taken > 0 { Err(RowsError::Taken(taken)) } else { Ok(written) }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::{
        super::tests::{all, engines},
        *,
    };
    use crate::store::{SharedStore, memory::MemoryStore};

    const STREAM: &str = "cluster/sink/s";

    fn at(second: i64) -> Timestamp {
        Timestamp::from_micros(second * 1_000_000)
    }

    fn staging(second: i64) -> Staging {
        Staging { id: Uuid::new_v4(), first_offset: Some(7), now: at(second) }
    }

    fn plain(from: u64, count: u64) -> Vec<Row> {
        (from..from + count).map(|n| Row { json: format!("{{\"n\":{n},\"pad\":\"{}\"}}", "x".repeat(300)).into(), key: None }).collect()
    }

    fn keyed(keys: impl IntoIterator<Item = u16>, text: &str) -> Vec<Row> {
        keys.into_iter().map(|key| Row { json: format!("{{\"k\":{key},\"t\":\"{text}\"}}").into(), key: Some(key.to_be_bytes().to_vec()) }).collect()
    }

    fn texts(rows: &[Row]) -> Vec<Bytes> {
        rows.iter().map(|row| row.json.clone()).collect()
    }

    async fn aside(store: &SharedStore) -> usize {
        let mut left = 0;
        for part in [STAGED, PUBLISHED, DROPS] {
            left += store.scan(part, b"", None, usize::MAX).await.unwrap().len();
        }
        left
    }

    async fn put_aside(rows_of: &Rows, table: Uuid, mark: StreamMark, rows: &[Row], on_conflict: OnConflict) -> Result<StreamMark, RowsError> {
        let new = StreamMark { next: mark.next + rows.len() as u64, ..mark };
        rows_of.stage(table, STREAM, mark, new, rows, on_conflict, staging(1)).await.map(|(mark, _)| mark)
    }

    async fn finish(rows_of: &Rows, table: Uuid, mark: StreamMark, on_conflict: OnConflict) -> Result<(StreamMark, Finished), RowsError> {
        rows_of.finish(table, STREAM, mark, StreamMark { finished: true, ..mark }, on_conflict).await
    }

    #[tokio::test]
    async fn nothing_counts_before_finish_and_everything_after_in_its_order() {
        let (_dir, stores) = engines();
        for store in stores {
            let rows_of = Rows::new(store.clone(), 1 << 30);
            let table = Uuid::new_v4();
            rows_of.insert(table, &plain(0, 10), OnConflict::Error).await.unwrap();
            let (mut mark, _) = rows_of.fence(table, STREAM, 1).await.unwrap();
            for unit in 0..10 {
                mark = put_aside(&rows_of, table, mark, &plain(1_000 + unit * 50, 50), OnConflict::Error).await.unwrap();
                assert_eq!((all(&rows_of, table, false).await.len(), rows_of.size(table).await.unwrap().0), (10, 10));
            }
            // The stream goes on in another process, with what it has put aside.
            let rows_of = Rows::new(store.clone(), 1 << 30);
            let (found, known) = rows_of.fence(table, STREAM, 1).await.unwrap();
            assert!(known && found.next == 500 && found.staged.is_some_and(|staged| staged.rows == 500));
            let late = put_aside(&rows_of, table, mark, &plain(9_000, 1), OnConflict::Error).await;
            assert!(matches!(late, Err(RowsError::Fenced(epoch)) if epoch == found.epoch), "{late:?}");
            let late = finish(&rows_of, table, mark, OnConflict::Error).await;
            assert!(matches!(late, Err(RowsError::Fenced(_))), "{late:?}");
            assert!(matches!(rows_of.abort(table, STREAM, mark.epoch).await, Err(RowsError::Fenced(_))));
            rows_of.insert(table, &plain(10, 10), OnConflict::Error).await.unwrap();
            let mut before = rows_of.scan(table, false, None).await.unwrap();
            let (done, finished) = finish(&rows_of, table, found, OnConflict::Error).await.unwrap();
            assert_eq!((finished.written.inserted, finished.written.first_row, finished.first_offset), (500, Some(20), Some(7)));
            assert_eq!((done.rows, done.staged, done.finished), (500, None, true));
            rows_of.insert(table, &plain(20, 5), OnConflict::Error).await.unwrap();
            Rows::new(store.clone(), 1 << 30).insert(table, &plain(25, 5), OnConflict::Error).await.unwrap();
            let wanted: Vec<Bytes> = [plain(0, 20), plain(1_000, 500), plain(20, 10)].iter().flat_map(|rows| texts(rows)).collect();
            assert_eq!(all(&rows_of, table, false).await, wanted);
            assert_eq!(rows_of.size(table).await.unwrap(), (530, wanted.iter().map(|row| row.len() as u64).sum()));
            let mut old = Vec::new();
            loop {
                let page = before.next(1_000).await.unwrap();
                if page.is_empty() {
                    break;
                }
                old.extend(page);
            }
            assert_eq!(old, texts(&plain(0, 20)), "a scan that began before shows what there was then");
            rows_of.forget(table, STREAM).await.unwrap();
            assert_eq!((all(&rows_of, table, false).await.len(), rows_of.size(table).await.unwrap().0), (530, 530), "finished rows are the table's");
            rows_of.remove_all(table).await.unwrap();
            assert_eq!((aside(&store).await, all(&rows_of, table, false).await.len()), (0, 0));
        }
    }

    #[tokio::test]
    async fn primary_keys_meet_the_tables_rows_at_finish() {
        let (_dir, stores) = engines();
        for store in stores {
            for (on_conflict, winner, counts) in [(OnConflict::Ignore, "old", (270, 0, 30)), (OnConflict::Update, "new", (270, 30, 0))] {
                let rows_of = Rows::new(store.clone(), 1 << 30);
                let table = Uuid::new_v4();
                rows_of.insert(table, &keyed((0..300).step_by(20), "old"), OnConflict::Error).await.unwrap();
                let (mark, _) = rows_of.fence(table, STREAM, 1).await.unwrap();
                let mark = put_aside(&rows_of, table, mark, &keyed(0..200, "new"), on_conflict).await.unwrap();
                let mark = put_aside(&rows_of, table, mark, &keyed(199..300, "new"), on_conflict).await.unwrap();
                // These come after the records were acknowledged.
                rows_of.insert(table, &keyed((10..300).step_by(20), "old"), OnConflict::Error).await.unwrap();
                assert_eq!((all(&rows_of, table, true).await.len(), rows_of.size(table).await.unwrap().0), (30, 30));
                let (mark, Finished { written, .. }) = finish(&rows_of, table, mark, on_conflict).await.unwrap();
                assert_eq!((written.inserted, written.updated, written.ignored), counts);
                let found = all(&rows_of, table, true).await;
                let wanted: Vec<Row> = (0..300).flat_map(|key| keyed([key], if key % 10 == 0 { winner } else { "new" })).collect();
                assert_eq!(found, texts(&wanted));
                assert_eq!(rows_of.size(table).await.unwrap(), (300, found.iter().map(|row| row.len() as u64).sum()));
                assert!(mark.finished && aside(&store).await == 0, "a stage is folded and gone");
            }
        }
    }

    #[tokio::test]
    async fn where_a_meeting_is_an_error_it_is_told_as_early_as_can_be_and_a_finish_is_refused_whole() {
        let (_dir, stores) = engines();
        for store in stores {
            let rows_of = Rows::new(store.clone(), 1 << 30);
            let table = Uuid::new_v4();
            rows_of.insert(table, &keyed([5], "old"), OnConflict::Error).await.unwrap();
            let (mark, _) = rows_of.fence(table, STREAM, 1).await.unwrap();
            let mark = put_aside(&rows_of, table, mark, &keyed(10..20, "new"), OnConflict::Error).await.unwrap();
            for taken in [5, 12] {
                let refused = put_aside(&rows_of, table, mark, &keyed([40, taken], "new"), OnConflict::Error).await;
                assert!(matches!(refused, Err(RowsError::Duplicate(1))), "{refused:?}");
            }
            let places = rows_of.duplicates(table, &keyed([5, 12, 40, 40], "new"), mark.staged).await.unwrap();
            assert_eq!(places, [0, 1, 3]);
            rows_of.insert(table, &keyed([15, 16], "old"), OnConflict::Error).await.unwrap();
            let refused = finish(&rows_of, table, mark, OnConflict::Error).await;
            assert!(matches!(refused, Err(RowsError::Taken(2))), "{refused:?}");
            assert_eq!(all(&rows_of, table, true).await, texts(&keyed([5, 15, 16], "old")));
            // It can still be finished otherwise.
            finish(&rows_of, table, mark, OnConflict::Ignore).await.unwrap();
            assert_eq!((all(&rows_of, table, true).await.len(), rows_of.size(table).await.unwrap().0), (11, 11));
        }
    }

    #[tokio::test]
    async fn a_folding_that_was_interrupted_is_seen_whole_and_goes_on() {
        let (_dir, stores) = engines();
        for store in stores {
            for (on_conflict, winner) in [(OnConflict::Ignore, "old"), (OnConflict::Update, "new")] {
                let rows_of = Rows::new(store.clone(), 1 << 30);
                let table = Uuid::new_v4();
                rows_of.insert(table, &keyed((0..400).step_by(3), "old"), OnConflict::Error).await.unwrap();
                let (mark, _) = rows_of.fence(table, STREAM, 1).await.unwrap();
                let mark = put_aside(&rows_of, table, mark, &keyed(100..300, "new"), on_conflict).await.unwrap();
                let stage = mark.staged.unwrap().id;
                // As a crash leaves it: the stream is finished, and some rows have left the stage.
                let published = serde_json::to_vec(&Published { stage, on_conflict }).unwrap();
                let mut half = Transaction::new().put(PUBLISHED, table.as_bytes().as_slice(), published);
                for (row, key) in keyed(100..150, "new").iter().zip(100_u16..) {
                    let place = row_key(table, &key.to_be_bytes());
                    if on_conflict == OnConflict::Update || key % 3 != 0 {
                        half = half.put(ROWS, place, super::super::pack(std::slice::from_ref(row)));
                    }
                    half = half.delete(STAGED, stage_key(table, stage, &key.to_be_bytes()));
                }
                store.transact(half).await.unwrap();
                let wanted: Vec<Row> = (0..400)
                    .filter(|key| key % 3 == 0 || (100..300).contains(key))
                    .flat_map(|key| {
                        keyed(
                            [key],
                            if key % 3 != 0 {
                                "new"
                            } else if (100..300).contains(&key) {
                                winner
                            } else {
                                "old"
                            },
                        )
                    })
                    .collect();
                assert_eq!(all(&rows_of, table, true).await, texts(&wanted), "readers see all of it, whatever lies where");
                let again = Rows::new(store.clone(), 1 << 30);
                let refused = again.insert(table, &keyed([299], "late"), OnConflict::Error).await;
                assert!(matches!(refused, Err(RowsError::Duplicate(0))), "a writer meets rows of the stage: {refused:?}");
                assert_eq!((all(&again, table, true).await, aside(&store).await), (texts(&wanted), 0));
            }
        }
    }

    #[tokio::test]
    async fn what_is_not_finished_leaves_nothing() {
        let (_dir, stores) = engines();
        for store in stores {
            let rows_of = Rows::new(store.clone(), 1_000_000);
            let table = Uuid::new_v4();
            let begin = async |second| {
                let (mark, known) = rows_of.fence(table, STREAM, 1).await.unwrap();
                assert!(!known, "nothing is known of a stream that is gone");
                rows_of.stage(table, STREAM, mark, StreamMark { next: 100, ..mark }, &plain(0, 200), OnConflict::Error, staging(second)).await.unwrap().0
            };
            let mark = begin(1).await;
            rows_of.abort(table, STREAM, mark.epoch).await.unwrap();
            rows_of.abort(table, STREAM, mark.epoch).await.unwrap();
            assert_eq!(aside(&store).await, 0);
            begin(2).await;
            rows_of.forget(table, STREAM).await.unwrap();
            assert_eq!(aside(&store).await, 0);
            begin(3).await;
            rows_of.forget_all(table, "cluster/other").await.unwrap();
            assert_ne!(aside(&store).await, 0);
            rows_of.forget_all(table, "cluster/sink/").await.unwrap();
            assert_eq!(aside(&store).await, 0);
            begin(10).await;
            assert_eq!(rows_of.forget_expired(|stream, touched| stream == STREAM && touched < Some(at(10))).await.unwrap(), 0);
            assert_ne!(aside(&store).await, 0);
            assert_eq!(rows_of.forget_expired(|stream, touched| stream == STREAM && touched <= Some(at(10))).await.unwrap(), 1);
            assert_eq!(aside(&store).await, 0);
            begin(11).await;
            rows_of.remove_all(table).await.unwrap();
            assert_eq!(aside(&store).await, 0);
            // A removal that a crash interrupted goes on with the next start.
            let staged = begin(12).await.staged.unwrap();
            let note = Transaction::new().delete(MARKS, mark_key(table, STREAM)).put(DROPS, stage_key(table, staged.id, &[]), Bytes::new());
            store.transact(note).await.unwrap();
            rows_of.resume_drops().await.unwrap();
            assert_eq!((aside(&store).await, all(&rows_of, table, false).await.len()), (0, 0));
        }
    }

    #[tokio::test]
    async fn rows_put_aside_count_towards_the_tables_limit() {
        let rows_of = Rows::new(Arc::new(MemoryStore::new()), 5_000);
        let table = Uuid::new_v4();
        let (mark, _) = rows_of.fence(table, STREAM, 1).await.unwrap();
        let mark = put_aside(&rows_of, table, mark, &plain(0, 10), OnConflict::Error).await.unwrap();
        let over = put_aside(&rows_of, table, mark, &plain(0, 10), OnConflict::Error).await;
        assert!(matches!(over, Err(RowsError::Full(5_000))), "{over:?}");
        assert!(matches!(rows_of.insert(table, &plain(0, 10), OnConflict::Error).await, Err(RowsError::Full(5_000))));
        rows_of.abort(table, STREAM, mark.epoch).await.unwrap();
        rows_of.insert(table, &plain(0, 10), OnConflict::Error).await.unwrap();
    }
}
