//! Why: records become the next object of their stream's chain, created only if absent and only after the one before. Never claims an object that it has not seen answered for.
//!
//! Memory, a stream: the open unit's encoded bytes and those of the units under way (two at most), so at most three times `max_object_bytes`, beside the raw records of the same three units,
//! which the session holds and pays for. Uncompressed NDJSON shares its bytes with those records where the encoder does. Nothing is at the store before commit, and what a commit has put there before it counts
//! (parts of an upload) is removed when the settlement is dropped; a process that dies leaves it, which is what a lifecycle rule for incomplete uploads is for.

use std::sync::Arc;

use async_trait::async_trait;
use futures::{StreamExt, TryStreamExt, stream};
use object_store::{Attribute, Attributes, MultipartUpload, PutMode, PutMultipartOptions, PutOptions, PutResult, path::Path};
use tokio::{runtime::Handle, sync::oneshot, time::timeout};

use super::{
    body::Body,
    bucket::Bucket,
    chain::{Found, Link, Verdict, judge},
    condition::taken,
    format::{Encoder, Format},
    layout::Place,
    reader::{METADATA, foreign, look, vanished},
};
use crate::{
    connectors::{
        connector::{Appended, Artifact, Epoch, Finish, Mark, Outcome, Settlement, SinkWriter, UnitPolicy},
        error::{ConnectorError, ConnectorErrorKind as Kind},
    },
    limits::{OBJECT_CLEANUP_TIMEOUT, OBJECT_PART_BYTES, OBJECT_PARTS_IN_FLIGHT},
    record::{Batch, Offset, RecordSchema},
};

/// What every object of a stream has in common.
#[derive(Debug, Clone)]
pub(super) struct Target {
    pub(super) bucket: Bucket,
    pub(super) place: Place,
    /// What the store is told of the chain's objects.
    pub(super) kind_of_content: Attributes,
    pub(super) format: Format,
    pub(super) schema: Option<RecordSchema>,
    pub(super) epoch: Epoch,
    /// Whether the store creates only what is absent. Where not, we look first, which leaves a gap.
    pub(super) honoured: bool,
    pub(super) units: UnitPolicy,
}

/// Records of the open unit.
pub(super) struct Unit {
    pub(super) encoder: Box<dyn Encoder>,
    pub(super) body: Body,
    pub(super) first: Option<Offset>,
    pub(super) records: u64,
}

/// The writer of one stream in CONTINUOUS mode.
pub(super) struct ChainWriter {
    target: Arc<Target>,
    /// What the next object is named by, and whether what lies before it is elsewhere.
    at: Offset,
    begins: bool,
    unit: Option<Unit>,
    /// Resolves when the object before is there; fails when it never will be.
    ahead: Option<oneshot::Receiver<()>>,
}

/// What is at a name that was asked for: what was created just now, or what counts as that.
pub(super) struct Placed {
    pub(super) link: Link,
    pub(super) e_tag: Option<String>,
    /// In bytes.
    pub(super) size: u64,
}

/// An object that is ready to be created.
pub(super) struct Object {
    pub(super) link: Link,
    pub(super) body: Body,
    /// The first record in it, which may come after records that were rejected.
    pub(super) first_record: Offset,
}

impl Unit {
    pub(super) fn new(target: &Target) -> Result<Self, ConnectorError> {
        Ok(Self { encoder: target.format.encoder(target.schema.as_ref())?, body: Body::default(), first: None, records: 0 })
    }

    pub(super) fn append(&mut self, batch: &Batch) -> Result<(), ConnectorError> {
        self.encoder.append(batch)?;
        self.body.extend(self.encoder.take());
        self.first.get_or_insert(batch.first_offset);
        self.records += batch.len() as u64;
        Ok(())
    }
}

impl Target {
    /// The object of a unit. One without records is what the format calls an empty file, or no bytes where it has none without columns.
    fn seal(&self, unit: Option<Unit>, first: Offset, begins: bool, mark: Mark) -> Result<Object, ConnectorError> {
        let (mut body, records, first_record) = match unit {
            Some(unit) if unit.records > 0 => {
                let mut body = unit.body;
                body.extend(unit.encoder.finish()?);
                (body, unit.records, unit.first.unwrap_or(first))
            }
            _ => (Body::default(), 0, first),
        };
        if records == 0
            && let Ok(empty) = self.format.encoder(self.schema.as_ref()).and_then(Encoder::finish)
        {
            body.extend(empty);
        }
        let link = Link { stream: self.place.tag, first, mark, records, epoch: self.epoch.0, begins, content: body.content() };
        Ok(Object { link, body, first_record })
    }

    /// Creates an object under the name of its first offset, once `ahead` is there, and gives its receipt.
    pub(super) async fn create(&self, object: Object, ahead: Option<oneshot::Receiver<()>>) -> Result<Outcome, ConnectorError> {
        let Object { link, body, first_record } = object;
        let key = self.place.object(link.first);
        let there = self.place(link, body, ahead).await?;
        Ok(self.outcome(&key, &there.link, first_record, there.e_tag, there.size))
    }

    /// Creates the chain's object that `link` tells of, once `ahead` is there; where one is already that counts as it, that is what is given back.
    pub(super) async fn place(&self, link: Link, mut body: Body, ahead: Option<oneshot::Receiver<()>>) -> Result<Placed, ConnectorError> {
        let key = self.place.object(link.first);
        let uri = self.bucket.uri(key.as_ref());
        let upload = if self.in_parts(&body) { Some(self.upload(&key, self.attributes(&link), &mut body).await?) } else { None };
        if let Some(ahead) = ahead {
            ahead.await.map_err(|_| ConnectorError::new(Kind::Unknown, format!("the object before {uri} failed")))?;
        }
        if !self.honoured
            && let Some(there) = self.meet(&key, &link).await?
        {
            return Ok(there);
        }
        let (size, may_go_in_parts) = (body.bytes(), upload.is_none() && self.completes_if_absent());
        let written = match upload {
            Some(upload) => upload.complete().await,
            None => {
                let options = PutOptions { mode: self.mode(), attributes: self.attributes(&link), ..PutOptions::default() };
                self.bucket.store.put_opts(&key, body.clone().rest(), options).await
            }
        };
        let mut placed = self.placed(&key, &link, size, written).await?;
        if placed.is_none() && may_go_in_parts {
            // To Azurite a name is taken, too, by blocks that an owner sent for a larger object and no list names; a list of our own, put under the same condition, goes over them.
            let written = self.upload(&key, self.attributes(&link), &mut body).await?.complete().await;
            placed = self.placed(&key, &link, size, written).await?;
        }
        placed.ok_or_else(|| vanished(&self.bucket, &key))
    }

    /// What came of creating an object; `None` where the name was taken and nothing is there.
    async fn placed(&self, key: &Path, own: &Link, size: u64, written: object_store::Result<PutResult>) -> Result<Option<Placed>, ConnectorError> {
        match written {
            Ok(PutResult { e_tag, .. }) => Ok(Some(Placed { link: own.clone(), e_tag, size })),
            Err(error) if taken(&error) => self.meet(key, own).await,
            Err(error) => Err(self.bucket.explain(&error, &format!("write {}", self.bucket.uri(key.as_ref())))),
        }
    }

    /// What is at the name, where it counts as `own`; `None` where nothing is.
    async fn meet(&self, key: &Path, own: &Link) -> Result<Option<Placed>, ConnectorError> {
        let there = look(&self.bucket, key).await?;
        match judge(own, &there.found) {
            // The bytes may differ, as those of a form that follows the appends do; told is what is there.
            Verdict::Own => {
                let link = if let Found::Link(link) = there.found { link } else { own.clone() };
                Ok(Some(Placed { link, e_tag: there.e_tag, size: there.size }))
            }
            Verdict::Another => {
                let uri = self.bucket.uri(key.as_ref());
                Err(ConnectorError::new(Kind::Unknown, format!("{uri} was written by another session of the stream")).with("object", uri))
            }
            Verdict::Foreign => Err(foreign(&self.bucket, key)),
            Verdict::Nothing => Ok(None),
        }
    }

    pub(super) fn outcome(&self, key: &Path, link: &Link, first_offset: Offset, e_tag: Option<String>, byte_count: u64) -> Outcome {
        let sha256 = link.content.iter().map(|byte| format!("{byte:02x}")).collect();
        let attributes = e_tag.map(|e_tag| ("etag".to_owned(), e_tag)).into_iter().chain([("sha256".to_owned(), sha256)]).collect();
        let artifact = Artifact { uri: self.bucket.uri(key.as_ref()), first_offset, record_count: link.records, byte_count, attributes };
        // An object without records is the chain's own affair.
        Outcome { artifacts: (link.records > 0).then_some(artifact).into_iter().collect(), bytes: byte_count }
    }

    fn attributes(&self, link: &Link) -> Attributes {
        let mut attributes = self.kind_of_content.clone();
        attributes.insert(Attribute::Metadata(METADATA.into()), link.to_text().into());
        attributes
    }

    /// Whether an object goes up in parts.
    pub(super) fn in_parts(&self, body: &Body) -> bool {
        body.held() > OBJECT_PART_BYTES && self.completes_if_absent()
    }

    /// Whether an upload in parts becomes an object only where there is none.
    fn completes_if_absent(&self) -> bool {
        self.bucket.conditional_completion && self.honoured
    }

    /// How an object is put whole.
    pub(super) fn mode(&self) -> PutMode {
        if self.honoured { PutMode::Create } else { PutMode::Overwrite }
    }

    /// Sends an object's parts, which make no object yet.
    pub(super) async fn upload(&self, key: &Path, attributes: Attributes, body: &mut Body) -> Result<Upload, ConnectorError> {
        let explain = |error| self.bucket.explain(&error, &format!("write {}", self.bucket.uri(key.as_ref())));
        let options = PutMultipartOptions { attributes, ..PutMultipartOptions::default() };
        let mut upload = Upload(Some(self.bucket.store.put_multipart_opts(key, options).await.map_err(explain)?));
        let mut parts = Vec::new();
        while body.held() > 0
            && let Some(inner) = &mut upload.0
        {
            // Of one size but the last, as some stores want it.
            parts.push(inner.put_part(body.part(OBJECT_PART_BYTES)));
        }
        stream::iter(parts).buffer_unordered(OBJECT_PARTS_IN_FLIGHT).try_collect::<Vec<()>>().await.map_err(explain)?;
        Ok(upload)
    }
}

/// An upload in parts that is removed unless it was completed.
pub(super) struct Upload(Option<Box<dyn MultipartUpload>>);

impl Upload {
    pub(super) async fn complete(mut self) -> object_store::Result<PutResult> {
        let Some(inner) = &mut self.0 else { return Err(object_store::Error::NotImplemented { operation: "complete".to_owned(), implementer: String::new() }) };
        let written = inner.complete().await?;
        self.0 = None;
        Ok(written)
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        let Some(mut upload) = self.0.take() else { return };
        clean_up(async move { upload.abort().await });
    }
}

/// Removes what must not stay, though nobody waits for it any more.
pub(super) fn clean_up(cleaning: impl Future<Output = object_store::Result<()>> + Send + 'static) {
    if Handle::try_current().is_err() {
        return;
    }
    #[expect(clippy::disallowed_methods, reason = "a drop cannot wait; the task ends with one request and is bounded in time")]
    let task = tokio::spawn(async move {
        if !matches!(timeout(OBJECT_CLEANUP_TIMEOUT, cleaning).await, Ok(Ok(()))) {
            tracing::warn!("an incomplete upload could not be removed; a lifecycle rule for incomplete uploads will");
        }
    });
    drop(task);
}

impl ChainWriter {
    pub(super) fn new(target: Arc<Target>, at: Offset, begins: bool) -> Self {
        Self { target, at, begins, unit: None, ahead: None }
    }
}

#[async_trait]
impl SinkWriter for ChainWriter {
    async fn append(&mut self, batch: &Batch) -> Result<Appended, ConnectorError> {
        if self.unit.is_none() {
            self.unit = Some(Unit::new(&self.target)?);
        }
        let unit = self.unit.as_mut().expect("it was made just now");
        unit.append(batch)?;
        let full = unit.encoder.size() >= self.target.units.bytes_max || unit.records >= self.target.units.records_max;
        Ok(if full { Appended::Full } else { Appended::Room })
    }

    fn commit(&mut self, mark: Mark) -> Settlement {
        let (unit, first, begins) = (self.unit.take(), self.at, std::mem::replace(&mut self.begins, false));
        self.at = mark.next;
        let (done, next) = oneshot::channel();
        let ahead = self.ahead.replace(next);
        let target = self.target.clone();
        Box::pin(async move {
            let object = target.seal(unit, first, begins, mark)?;
            let outcome = target.create(object, ahead).await?;
            // Nobody listens where no unit follows.
            let _ = done.send(());
            Ok(outcome)
        })
    }

    async fn abandon(&mut self) {
        self.unit = None;
    }

    async fn finish(mut self: Box<Self>, action: Finish, mark: Mark) -> Result<Outcome, ConnectorError> {
        if action == Finish::Abort {
            return Err(ConnectorError::new(Kind::Internal, "records of a CONTINUOUS stream count as they are written and cannot be aborted"));
        }
        self.unit = None;
        self.commit(mark).await
    }
}
