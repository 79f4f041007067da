//! Why: where the template has fields of records, a unit becomes an object a path, and a manifest in the stream's chain that lists them. Never lets a record count before its manifest is there.
//!
//! The manifest is the link: `chain.rs`, its model and `reader.rs` know nothing else. The objects are named by their content, so that one which is there already is the one that was wanted; what a
//! unit left that broke off before its manifest is named by no manifest, and is not removed, since a twin may be about to name it.
//!
//! Memory, a stream: as for a chain, the encoded bytes of the open unit and of those under way, and beside that the buffers of one encoder for each of at most [`OBJECT_GROUPS_MAX`] paths, and for
//! the time of an append the records at hand once more as text or sorted by path. A unit has at most [`OBJECTS_OF_A_UNIT_MAX`] objects. A form of columns encodes each batch twice: whether it can hold every record must be known before any is taken.

use std::{collections::BTreeMap, sync::Arc};

use arrow_array::UInt64Array;
use arrow_select::take::take_record_batch;
use async_trait::async_trait;
use futures::{StreamExt, TryStreamExt, stream};
use object_store::{PutOptions, PutResult};
use tokio::sync::oneshot;

use super::{
    body::Body,
    chain::{Found, Link},
    condition::taken,
    format::{Encoder, FileFormat, internal, refused},
    layout::data_object,
    manifest::{Entry, Manifest, hex},
    path::PathTemplate,
    reader::{foreign, look, vanished},
    writer::Target,
};
use crate::{
    connectors::{
        connector::{Appended, Finish, Mark, Outcome, Settlement, SinkWriter, StreamId},
        error::{ConnectorError, ConnectorErrorKind as Kind},
    },
    limits::{OBJECT_GROUPS_MAX, OBJECT_PARTS_IN_FLIGHT, OBJECTS_OF_A_UNIT_MAX},
    name::QualifiedName,
    record::{Batch, Offset, RecordFaults, Records},
};

/// What the paths of a stream's records are made of.
#[derive(Debug, Clone)]
pub(super) struct Paths {
    pub(super) template: PathTemplate,
    pub(super) stream: StreamId,
    pub(super) sink: QualifiedName,
}

/// The writer of one stream in CONTINUOUS mode whose records say where they lie.
pub(super) struct PartitionedWriter {
    target: Arc<Target>,
    paths: Paths,
    /// What the next manifest is named by, and whether what lies before it is elsewhere.
    at: Offset,
    begins: bool,
    unit: Unit,
    /// Resolves when the manifest before is there; fails when it never will be.
    ahead: Option<oneshot::Receiver<()>>,
}

/// Records of the open unit, by path.
#[derive(Default)]
struct Unit {
    open: BTreeMap<String, Group>,
    /// Closed because others needed their place.
    closed: Vec<DataObject>,
    records: u64,
}

/// Records of one path.
struct Group {
    encoder: Box<dyn Encoder>,
    body: Body,
    first: Offset,
    records: u64,
}

/// An object that is ready to be created.
struct DataObject {
    folder: String,
    first: Offset,
    records: u64,
    body: Body,
}

impl Paths {
    /// The places in `lines` of the records of each path. Fails with every record that has none, and where there are more than `most` paths.
    fn sort(&self, lines: &Batch, most: usize) -> Result<BTreeMap<String, Vec<usize>>, ConnectorError> {
        let Records::Ndjson(text) = &lines.records else { return Err(internal("find the paths of records", "they are no text")) };
        let (mut sorted, mut faults) = (BTreeMap::<String, Vec<usize>>::new(), Vec::new());
        for ((index, line), offset) in text.iter().enumerate().zip(lines.first_offset..) {
            match self.template.of_record(&self.stream, &self.sink, line) {
                Ok(path) => sorted.entry(path).or_default().push(index),
                Err(fault) => faults.push((offset, fault)),
            }
            if sorted.len() > most {
                return Err(crowded());
            }
        }
        if faults.is_empty() { Ok(sorted) } else { Err(refused(RecordFaults(faults))) }
    }
}

/// More paths than a unit may have objects. It names no record: a session appends fewer at once then, down to one, which always fits.
fn crowded() -> ConnectorError {
    let text = format!(
        "the records make more than {OBJECTS_OF_A_UNIT_MAX} objects of one unit; they are cut into more units: a path_template with fewer different values makes fewer and larger objects"
    );
    ConnectorError::new(Kind::TooLarge, text)
}

impl Group {
    fn close(self, folder: String) -> Result<DataObject, ConnectorError> {
        let mut body = self.body;
        body.extend(self.encoder.finish()?);
        Ok(DataObject { folder, first: self.first, records: self.records, body })
    }
}

impl Unit {
    /// Takes the records of `source` at `places`, all of which have the path `folder`.
    fn append(&mut self, target: &Target, folder: String, source: &Batch, places: &[usize]) -> Result<(), ConnectorError> {
        if self.open.len() >= OBJECT_GROUPS_MAX && !self.open.contains_key(&folder) {
            self.close()?;
        }
        let group = match self.open.entry(folder) {
            std::collections::btree_map::Entry::Occupied(there) => there.into_mut(),
            std::collections::btree_map::Entry::Vacant(free) => {
                let first = source.first_offset + places.first().map_or(0, |place| *place as u64);
                free.insert(Group { encoder: target.format.encoder(target.schema.as_ref())?, body: Body::default(), first, records: 0 })
            }
        };
        for piece in pieces(source, places)? {
            group.encoder.append(&piece)?;
        }
        group.body.extend(group.encoder.take());
        group.records += places.len() as u64;
        self.records += places.len() as u64;
        Ok(())
    }

    /// Closes the groups that are open; their paths may come again.
    fn close(&mut self) -> Result<(), ConnectorError> {
        for (folder, group) in std::mem::take(&mut self.open) {
            self.closed.push(group.close(folder)?);
        }
        Ok(())
    }

    /// Its objects, by their first offsets.
    fn objects(mut self) -> Result<Vec<DataObject>, ConnectorError> {
        self.close()?;
        self.closed.sort_by_key(|object| object.first);
        Ok(self.closed)
    }

    /// About its objects' size, in bytes.
    fn size(&self) -> u64 {
        let closed: u64 = self.closed.iter().map(|object| object.body.bytes()).sum();
        closed + self.open.values().map(|group| group.encoder.size()).sum::<u64>()
    }

    fn is_full(&self, target: &Target) -> bool {
        let crowded = self.open.len() >= OBJECT_GROUPS_MAX || !self.closed.is_empty();
        crowded || self.size() >= target.units.bytes_max || self.records >= target.units.records_max
    }
}

/// Some of a batch's records: lines as they lie, columns copied once, so that a row group does not fall apart into rows.
fn pieces(source: &Batch, places: &[usize]) -> Result<Vec<Batch>, ConnectorError> {
    if places.len() == source.len() {
        return Ok(vec![source.clone()]);
    }
    match &source.records {
        Records::Ndjson(_) => {
            let run = |run: &[usize]| source.slice(run[0]..run[0] + run.len());
            Ok(places.chunk_by(|one, next| one + 1 == *next).map(run).collect())
        }
        Records::Arrow(columns) => {
            let rows = UInt64Array::from_iter_values(places.iter().map(|place| *place as u64));
            let taken = take_record_batch(columns, &rows).map_err(|error| internal("sort records by their paths", error))?;
            Ok(vec![source.with_records(Records::Arrow(taken))])
        }
    }
}

impl PartitionedWriter {
    pub(super) fn new(target: Arc<Target>, paths: Paths, at: Offset, begins: bool) -> Self {
        Self { target, paths, at, begins, unit: Unit::default(), ahead: None }
    }

    /// The records in what the form is made from, once it is sure that it can hold each of them.
    fn source(&self, batch: &Batch, text: Batch) -> Result<Batch, ConnectorError> {
        let target = &self.target;
        if target.format.file == FileFormat::Ndjson {
            return Ok(text);
        }
        let columns = match &target.schema {
            Some(schema) => batch.to_arrow(schema).map_err(refused)?,
            None => batch.clone(),
        };
        target.format.encoder(target.schema.as_ref())?.append(&columns)?;
        Ok(columns)
    }
}

/// Creates the object, or finds it there: its name holds what it holds.
async fn put(target: Arc<Target>, object: DataObject) -> Result<Entry, ConnectorError> {
    let DataObject { folder, first, records, mut body } = object;
    let (content, byte_count) = (body.content(), body.bytes());
    let key = data_object(&folder, target.place.tag, first, &content, target.format);
    let (bucket, uri, attributes) = (&target.bucket, target.bucket.uri(key.as_ref()), target.format.kind_of_content());
    let written = if target.in_parts(&body) {
        target.upload(&key, attributes, &mut body).await?.complete().await
    } else {
        bucket.store.put_opts(&key, body.rest(), PutOptions { mode: target.mode(), attributes, ..PutOptions::default() }).await
    };
    let e_tag = match written {
        Ok(PutResult { e_tag, .. }) => e_tag,
        Err(error) if taken(&error) => {
            let there = look(bucket, &key).await?;
            match there.found {
                Found::Absent => return Err(vanished(bucket, &key)),
                _ if there.size != byte_count => return Err(foreign(bucket, &key)),
                _ => there.e_tag,
            }
        }
        Err(error) => return Err(bucket.explain(&error, &format!("write {uri}"))),
    };
    Ok(Entry { key: key.to_string(), first_offset: first, record_count: records, byte_count, sha256: hex(&content), e_tag })
}

/// Writes a unit: its objects, a few at once, and then the manifest, once `ahead` is there.
async fn write(target: Arc<Target>, unit: Unit, link: Link, ahead: Option<oneshot::Receiver<()>>) -> Result<Outcome, ConnectorError> {
    let objects = unit.objects()?.into_iter().map(|object| put(target.clone(), object));
    let entries: Vec<Entry> = stream::iter(objects).buffered(OBJECT_PARTS_IN_FLIGHT).try_collect().await?;
    let own = Manifest::new(target.place.tag, link.first, link.mark, entries);
    let body = own.to_body()?;
    let key = target.place.object(link.first);
    let content = body.content();
    let there = target.place(Link { content, ..link }, body, ahead).await?;
    // A twin's objects may have other bytes, and so other names: those count that its manifest lists.
    let manifest = if there.link.content == content { own } else { Manifest::read(&target.bucket, &key).await? };
    let receipt = manifest.receipt(target.bucket.uri(key.as_ref()), there.e_tag, &there.link.content, there.size);
    Ok(manifest.outcome(&target.bucket, receipt))
}

#[async_trait]
impl SinkWriter for PartitionedWriter {
    async fn append(&mut self, batch: &Batch) -> Result<Appended, ConnectorError> {
        let text = batch.to_ndjson().map_err(refused)?;
        // A unit is full before its open groups are as many, so that there is room for one more path at least.
        let sorted = self.paths.sort(&text, OBJECTS_OF_A_UNIT_MAX - self.unit.open.len())?;
        let source = self.source(batch, text)?;
        for (folder, places) in sorted {
            self.unit.append(&self.target, folder, &source, &places)?;
        }
        Ok(if self.unit.is_full(&self.target) { Appended::Full } else { Appended::Room })
    }

    fn commit(&mut self, mark: Mark) -> Settlement {
        let (unit, first) = (std::mem::take(&mut self.unit), self.at);
        let begins = std::mem::replace(&mut self.begins, false);
        self.at = mark.next;
        let (done, next) = oneshot::channel();
        let ahead = self.ahead.replace(next);
        let target = self.target.clone();
        let link = Link { stream: target.place.tag, first, mark, records: unit.records, epoch: target.epoch.0, begins, content: [0; 32] };
        Box::pin(async move {
            let outcome = write(target, unit, link, ahead).await?;
            // Nobody listens where no unit follows.
            let _ = done.send(());
            Ok(outcome)
        })
    }

    async fn abandon(&mut self) {
        self.unit = Unit::default();
    }

    async fn finish(mut self: Box<Self>, action: Finish, mark: Mark) -> Result<Outcome, ConnectorError> {
        if action == Finish::Abort {
            return Err(ConnectorError::new(Kind::Internal, "records of a CONTINUOUS stream count as they are written and cannot be aborted"));
        }
        self.unit = Unit::default();
        self.commit(mark).await
    }
}
