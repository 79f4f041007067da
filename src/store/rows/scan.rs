//! Why: a table is read page by page, also where rows lie in a finished stage. Never shows a row of an unfinished stream, and never the same row twice.

use std::collections::BTreeMap;

use bytes::{BufMut, Bytes};
use uuid::Uuid;

use super::{
    OnConflict, ROWS, Rows, number_of, row_key,
    staged::{Published, STAGED, Segment, stage_key},
    unpack,
};
use crate::store::{Entry, StoreError};

/// Entries of the store that are read at once.
const ENTRIES: usize = 64;
/// A page ends with the value that reaches so many bytes.
const PAGE_BYTES: usize = 1 << 20;
/// In a token: no whole value of a segment was given.
const NONE_INSIDE: u64 = u64::MAX;
/// Bytes of a token before the key.
const TOKEN_HEAD: usize = 20;

/// Rows of one table and how far a scan of it is.
#[derive(Debug)]
pub struct Scan {
    rows: Rows,
    table: Uuid,
    /// The last key of the store that was read to its end.
    after: Option<Vec<u8>>,
    /// Where the value behind it is a segment: the number of the last of its own values that was given.
    inside: Option<u64>,
    /// How many rows of the next value were given.
    skip: usize,
    /// Row numbers from here on came after the scan began; keyed tables have none.
    until: Option<u64>,
    ended: bool,
}

/// Rows of one answer.
#[derive(Default)]
struct Page {
    limit: usize,
    rows: Vec<Bytes>,
    bytes: usize,
}

impl Page {
    fn is_full(&self) -> bool {
        self.rows.len() >= self.limit || self.bytes >= PAGE_BYTES
    }
}

impl Rows {
    /// Begins a scan, or goes on with one from its token.
    pub async fn scan(&self, table: Uuid, keyed: bool, token: Option<&[u8]>) -> Result<Scan, StoreError> {
        let until = if keyed { None } else { Some(self.first_free(table).await?) };
        let fresh = Scan { rows: self.clone(), table, after: None, inside: None, skip: 0, until, ended: false };
        Ok(match token {
            None => fresh,
            Some(token) => fresh.resumed(token),
        })
    }
}

impl Scan {
    /// At most `limit` more rows in key order, about a megabyte at most; empty at the end. Tables without a primary key give what was there when the scan
    /// began; others give each row as it is when it is reached.
    pub async fn next(&mut self, limit: usize) -> Result<Vec<Bytes>, StoreError> {
        let mut page = Page { limit, ..Page::default() };
        while !self.ended && !page.is_full() {
            // A value that was cut by a limit is read again.
            let entries = if self.until.is_none() { self.keyed().await? } else { self.read().await? };
            self.ended = entries.is_empty();
            for (key, value) in entries {
                if self.until.is_some_and(|until| number_of(&key).is_ok_and(|number| number >= until)) {
                    self.ended = true;
                    break;
                }
                let whole = match Segment::of(&value)? {
                    Some(segment) => self.segment(segment.stage, &mut page).await?,
                    None => self.give(&value, &mut page)?,
                };
                if !whole {
                    return Ok(page.rows);
                }
                (self.after, self.inside) = (Some(key), None);
                if page.is_full() {
                    return Ok(page.rows);
                }
            }
        }
        Ok(page.rows)
    }

    async fn read(&self) -> Result<Vec<Entry>, StoreError> {
        self.rows.store.scan(ROWS, self.table.as_bytes(), self.after.as_deref(), ENTRIES).await
    }

    /// The next rows of a table with a primary key, those of a finished stage that is not folded yet among them.
    async fn keyed(&self) -> Result<Vec<Entry>, StoreError> {
        let Some(Published { stage, on_conflict }) = self.rows.published(self.table).await?.map(|(_, published)| published) else { return self.read().await };
        let aside = |key: &Vec<u8>| stage_key(self.table, stage, key.get(16..).unwrap_or_default());
        // The stage first: rows go from it to the table, so one that has left it meanwhile is found there.
        let staged = self.rows.store.scan(STAGED, &stage_key(self.table, stage, &[]), self.after.as_ref().map(aside).as_deref(), ENTRIES).await?;
        let rows = self.read().await?;
        let staged: Vec<Entry> = staged.into_iter().map(|(key, value)| (row_key(self.table, key.get(32..).unwrap_or_default()), value)).collect();
        // Beyond the last key of a full answer the other one may have rows that were not read.
        let horizon =
            [&staged, &rows].into_iter().filter(|entries| entries.len() == ENTRIES).filter_map(|entries| entries.last()).map(|(key, _)| key.clone()).min();
        let mut merged = BTreeMap::new();
        let (weak, strong) = if on_conflict == OnConflict::Update { (rows, staged) } else { (staged, rows) };
        merged.extend(weak);
        merged.extend(strong);
        Ok(merged.into_iter().filter(|(key, _)| horizon.as_ref().is_none_or(|horizon| key <= horizon)).collect())
    }

    /// Gives the rows of one value; whether it came to its end.
    fn give(&mut self, value: &Bytes, page: &mut Page) -> Result<bool, StoreError> {
        let all = unpack(value)?;
        let take = (all.len() - self.skip.min(all.len())).min(page.limit - page.rows.len());
        page.rows.extend(all.iter().skip(self.skip).take(take).cloned());
        page.bytes += value.len();
        let whole = self.skip + take >= all.len();
        self.skip = if whole { 0 } else { self.skip + take };
        Ok(whole)
    }

    /// Gives the rows of a finished stage; whether it came to its end.
    async fn segment(&mut self, stage: Uuid, page: &mut Page) -> Result<bool, StoreError> {
        let head = stage_key(self.table, stage, &[]);
        loop {
            let after = self.inside.map(|number| stage_key(self.table, stage, &number.to_be_bytes()));
            let entries = self.rows.store.scan(STAGED, &head, after.as_deref(), ENTRIES).await?;
            if entries.is_empty() {
                return Ok(true);
            }
            for (key, value) in entries {
                if page.is_full() || !self.give(&value, page)? {
                    return Ok(false);
                }
                self.inside = Some(number_of(key.get(16..).unwrap_or_default())?);
            }
        }
    }

    /// Where to go on; opaque to others.
    pub fn token(&self) -> Vec<u8> {
        let mut token = Vec::new();
        token.put_u64(self.until.unwrap_or(u64::MAX));
        token.put_u64(self.inside.unwrap_or(NONE_INSIDE));
        token.put_u32(u32::try_from(self.skip).unwrap_or(u32::MAX));
        token.extend_from_slice(self.after.as_deref().unwrap_or_default());
        token
    }

    fn resumed(mut self, token: &[u8]) -> Self {
        if let Some((head, after)) = token.split_at_checked(TOKEN_HEAD) {
            let number = |from: usize| u64::from_be_bytes(head[from..from + 8].try_into().expect("eight bytes"));
            self.until = self.until.map(|now| now.min(number(0)));
            self.inside = Some(number(8)).filter(|inside| *inside != NONE_INSIDE);
            self.skip = u32::from_be_bytes(head[16..].try_into().expect("four bytes")) as usize;
            // A token of another table would leave this table's keys.
            self.after = Some(after.to_vec()).filter(|after| after.starts_with(self.table.as_bytes()));
        }
        self
    }
}
