//! Why: ON_FINISH: one object, which nobody sees before the stream is finished and everybody after, whatever crashes in between. Never visible by halves.
//!
//! Parts go up as units are committed; a commit says no more than that they are there. Finish seals the stream: a small object goes up whole, created only if absent, and is its own mark. A
//! large one needs two steps, so a *plan* is written first, created only if absent: from then on the stream is finished, and whoever opens it completes the upload that the plan names. Before
//! the plan nothing counts: the stream begins anew. Two owners upload side by side and meet at the plan.
//!
//! Where a store cannot complete an upload conditionally (GCS) it goes to a name of its own and is copied, only if absent, once it is whole.
//!
//! Memory, a stream: less than one part ([`OBJECT_PART_BYTES`], up to [`OBJECT_PART_BYTES_MAX`] once an object has thousands), what the encoder holds, and the units under way.
//! Until finish the session forgets what is staged, so a failure that a part's retries do not heal costs the whole stream: it is rolled back, and the sender begins anew.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};
use object_store::{
    Attribute, CopyMode, CopyOptions, Error, GetOptions, ObjectStoreExt, PutMode, PutMultipartOptions, PutOptions, PutPayload, multipart::PartId, path::Path,
};
use serde::{Deserialize, Serialize};
use tokio::{sync::Mutex, sync::oneshot, time::sleep};

use super::{
    body::Body,
    bucket::Bucket,
    chain::{Found, Link},
    condition::taken,
    format::Encoder,
    layout::Place,
    reader::{Sighting, foreign, look},
    writer::{Object, Target, clean_up},
};
use crate::{
    connectors::{
        connector::{Appended, Finish, Mark, Outcome, Settlement, SinkWriter},
        error::{ConnectorError, ConnectorErrorKind as Kind, ErrorClass},
    },
    limits::{OBJECT_PART_BYTES, OBJECT_PARTS_IN_FLIGHT},
    record::{Batch, Offset},
};

/// The largest part, in bytes.
const OBJECT_PART_BYTES_MAX: usize = 64 << 20;
/// Parts after which the next are twice as large.
const PARTS_OF_A_SIZE: usize = 1_000;
/// The most parts that every store takes; with the sizes above, an object of about 490 GiB.
const PARTS_MAX: usize = 10_000;
/// How often one part is tried, with growing pauses: what is staged cannot be sent again by the session.
const TRIES_MAX: u32 = 6;
/// The first of those pauses.
const PAUSE: Duration = Duration::from_millis(200);
/// The most bytes of a plan that are read.
const PLAN_BYTES_MAX: u64 = 4 << 20;
/// The version of plans.
const VERSION: u64 = 1;

/// The size of the nth part.
fn part_bytes(index: usize) -> usize {
    (OBJECT_PART_BYTES << (index / PARTS_OF_A_SIZE).min(8)).min(OBJECT_PART_BYTES_MAX)
}

/// That a stream is finished, and how its object comes to be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Plan {
    version: u64,
    pub(super) mark: Mark,
    epoch: u64,
    records: u64,
    bytes: u64,
    first_record: u64,
    sha256: String,
    upload: String,
    parts: Vec<String>,
    /// Where the upload goes if not to the object's own name.
    temporary: Option<String>,
}

/// What is staged.
#[derive(Default)]
struct Stage {
    /// Bytes that make no part yet.
    body: Body,
    upload: Option<Upload>,
}

/// An upload under way; removed unless it was completed.
struct Upload {
    bucket: Bucket,
    key: Path,
    id: String,
    parts: Vec<PartId>,
    keep: bool,
}

impl Drop for Upload {
    fn drop(&mut self) {
        if !self.keep {
            let (bucket, key, id) = (self.bucket.clone(), self.key.clone(), self.id.clone());
            clean_up(async move { bucket.parts.abort_multipart(&key, &id).await });
        }
    }
}

/// The writer of one stream in ON_FINISH mode.
pub(super) struct StagedWriter {
    target: Arc<Target>,
    /// A number of this writer's own, for the temporary name.
    random: u64,
    /// The whole object's encoder, and what came out of it since the last commit.
    encoder: Option<Box<dyn Encoder>>,
    fresh: Vec<Bytes>,
    first_record: Option<Offset>,
    records: u64,
    stage: Arc<Mutex<Stage>>,
    ahead: Option<oneshot::Receiver<()>>,
}

impl StagedWriter {
    pub(super) fn new(target: Arc<Target>, random: u64) -> Self {
        Self { target, random, encoder: None, fresh: Vec::new(), first_record: None, records: 0, stage: Arc::default(), ahead: None }
    }

    /// One encoder for the whole object: units are only the steps in which it goes up.
    fn encoder(&mut self) -> Result<&mut Box<dyn Encoder>, ConnectorError> {
        if self.encoder.is_none() {
            self.encoder = Some(self.target.format.encoder(self.target.schema.as_ref())?);
        }
        Ok(self.encoder.as_mut().expect("it was made just now"))
    }
}

impl Stage {
    /// Sends all parts that are whole; with `last`, also what is left.
    async fn send(&mut self, target: &Target, random: u64, last: bool) -> Result<(), ConnectorError> {
        let already = self.upload.as_ref().map_or(0, |upload| upload.parts.len());
        let mut parts = Vec::new();
        while self.body.held() >= part_bytes(already + parts.len()) || last && self.body.held() > 0 {
            let index = already + parts.len();
            parts.push((index, self.body.part(part_bytes(index))));
        }
        if parts.is_empty() {
            return Ok(());
        }
        if already + parts.len() > PARTS_MAX {
            let text = format!("the object of this stream grows beyond {} bytes, the largest that is written; end the stream earlier", self.body.bytes());
            return Err(ConnectorError::new(Kind::TooLarge, text).class(ErrorClass::Configuration));
        }
        if self.upload.is_none() {
            self.upload = Some(Upload::begin(target, random).await?);
        }
        let upload = self.upload.as_mut().expect("it was begun just now");
        let sent = {
            let upload = &*upload;
            stream::iter(parts).map(|(index, part)| upload.put(index, part)).buffered(OBJECT_PARTS_IN_FLIGHT).try_collect::<Vec<PartId>>().await?
        };
        upload.parts.extend(sent);
        Ok(())
    }
}

impl Upload {
    async fn begin(target: &Target, random: u64) -> Result<Self, ConnectorError> {
        let bucket = &target.bucket;
        let key = if bucket.conditional_completion { target.place.object(0) } else { target.place.temporary(random) };
        let options = PutMultipartOptions { attributes: target.kind_of_content.clone(), ..PutMultipartOptions::default() };
        let id = match bucket.parts.create_multipart_opts(&key, options).await {
            // Azure names the content's type on completion only, where its library has no place for it.
            Err(Error::NotSupported { .. }) => bucket.parts.create_multipart(&key).await,
            other => other,
        };
        let id = id.map_err(|error| bucket.explain(&error, &format!("write {}", bucket.uri(key.as_ref()))))?;
        Ok(Self { bucket: bucket.clone(), key, id, parts: Vec::new(), keep: false })
    }

    /// One part; the same part again is the same part, so it may be tried again.
    async fn put(&self, index: usize, part: PutPayload) -> Result<PartId, ConnectorError> {
        let mut pause = PAUSE;
        for tried in 1.. {
            match self.bucket.parts.put_part(&self.key, &self.id, index, part.clone()).await {
                Ok(id) => return Ok(id),
                Err(error) => {
                    let error = self.bucket.explain(&error, &format!("write part {} of {}", index + 1, self.bucket.uri(self.key.as_ref())));
                    if error.class != ErrorClass::Destination || tried >= TRIES_MAX {
                        return Err(error);
                    }
                    tracing::warn!(%error, tried, "a part is tried again");
                }
            }
            sleep(pause).await;
            pause *= 2;
        }
        unreachable!("the loop ends by itself")
    }
}

#[async_trait]
impl SinkWriter for StagedWriter {
    async fn append(&mut self, batch: &Batch) -> Result<Appended, ConnectorError> {
        let encoder = self.encoder()?;
        encoder.append(batch)?;
        let chunks = encoder.take();
        self.fresh.extend(chunks);
        self.first_record.get_or_insert(batch.first_offset);
        self.records += batch.len() as u64;
        Ok(Appended::Room)
    }

    fn commit(&mut self, _: Mark) -> Settlement {
        let fresh = std::mem::take(&mut self.fresh);
        let (done, next) = oneshot::channel();
        let ahead = self.ahead.replace(next);
        let (target, stage, random) = (self.target.clone(), self.stage.clone(), self.random);
        Box::pin(async move {
            wait_for(ahead).await?;
            let mut stage = stage.lock().await;
            stage.body.extend(fresh);
            stage.send(&target, random, false).await?;
            let _ = done.send(());
            Ok(Outcome::default())
        })
    }

    async fn abandon(&mut self) {
        self.fresh.clear();
        drop_upload(&self.stage).await;
    }

    async fn finish(mut self: Box<Self>, action: Finish, mark: Mark) -> Result<Outcome, ConnectorError> {
        if action == Finish::Abort {
            drop_upload(&self.stage).await;
            return Ok(Outcome::default());
        }
        wait_for(self.ahead.take()).await?;
        self.encoder()?;
        let (records, first_record, mut fresh) = (self.records, self.first_record.unwrap_or(0), std::mem::take(&mut self.fresh));
        // A stream without records has no columns either, where nobody told them.
        match self.encoder.take().map(Encoder::finish) {
            Some(Ok(chunks)) => fresh.extend(chunks),
            Some(Err(error)) if records > 0 => return Err(error),
            Some(Err(_)) | None => {}
        }
        let mut stage = self.stage.lock().await;
        stage.body.extend(fresh);
        let content = stage.body.content();
        if stage.upload.is_none() && stage.body.held() <= part_bytes(0) {
            let link = Link { stream: self.target.place.tag, first: 0, mark, records, epoch: self.target.epoch.0, begins: true, content };
            let object = Object { link, body: std::mem::take(&mut stage.body), first_record };
            return self.target.create(object, None).await;
        }
        stage.send(&self.target, self.random, true).await?;
        let bytes = stage.body.bytes();
        let Some(upload) = stage.upload.as_mut() else { return Err(ConnectorError::new(Kind::Internal, "an object without parts was to be completed")) };
        let plan = Plan {
            version: VERSION,
            mark,
            epoch: self.target.epoch.0,
            records,
            bytes,
            first_record,
            sha256: content.iter().map(|byte| format!("{byte:02x}")).collect(),
            upload: upload.id.clone(),
            parts: upload.parts.iter().map(|part| part.content_id.clone()).collect(),
            temporary: (!self.target.bucket.conditional_completion).then(|| upload.key.to_string()),
        };
        // From here on the upload is the plan's: whoever opens the stream completes it.
        upload.keep = true;
        if !write_plan(&self.target, &plan).await? {
            upload.keep = false;
            let uri = self.target.bucket.uri(self.target.place.plan().as_ref());
            return Err(ConnectorError::new(Kind::Unknown, format!("{uri} was written by another session of the stream")).with("object", uri));
        }
        roll_forward(&self.target, &plan).await
    }
}

async fn wait_for(ahead: Option<oneshot::Receiver<()>>) -> Result<(), ConnectorError> {
    let Some(ahead) = ahead else { return Ok(()) };
    ahead.await.map_err(|_| ConnectorError::new(Kind::Unknown, "a unit ahead of this one failed"))
}

async fn drop_upload(stage: &Mutex<Stage>) {
    let Some(mut upload) = stage.lock().await.upload.take() else { return };
    upload.keep = upload.bucket.parts.abort_multipart(&upload.key, &upload.id).await.is_ok();
}

/// Whether the plan is at the store now, ours and no other.
async fn write_plan(target: &Target, plan: &Plan) -> Result<bool, ConnectorError> {
    let (bucket, key) = (&target.bucket, target.place.plan());
    let internal = |error| ConnectorError::new(Kind::Internal, format!("a plan cannot be written down: {error}"));
    let body = serde_json::to_vec(plan).map_err(internal)?;
    let attributes = [(Attribute::ContentType, "application/json")].into_iter().collect();
    let options = PutOptions { mode: PutMode::Create, attributes, ..PutOptions::default() };
    let there = if target.honoured { None } else { read_plan(bucket, &target.place).await? };
    if let Some(there) = there {
        return Ok(there == *plan);
    }
    match bucket.store.put_opts(&key, body.into(), options).await {
        Ok(_) => Ok(true),
        Err(error) if taken(&error) => Ok(read_plan(bucket, &target.place).await?.is_some_and(|there| there == *plan)),
        Err(error) => Err(bucket.explain(&error, &format!("write {}", bucket.uri(key.as_ref())))),
    }
}

/// The plan of a stream, if it has one.
pub(super) async fn read_plan(bucket: &Bucket, place: &Place) -> Result<Option<Plan>, ConnectorError> {
    let key = place.plan();
    let explain = |error| bucket.explain(&error, &format!("read {}", bucket.uri(key.as_ref())));
    let there = match bucket.store.get_opts(&key, GetOptions::new()).await {
        Ok(there) => there,
        Err(Error::NotFound { .. }) => return Ok(None),
        Err(error) => return Err(explain(error)),
    };
    if there.meta.size > PLAN_BYTES_MAX {
        return Err(foreign(bucket, &key));
    }
    let body = there.bytes().await.map_err(explain)?;
    let plan: Option<Plan> = serde_json::from_slice(&body).ok().filter(|plan: &Plan| plan.version == VERSION);
    plan.map(Some).ok_or_else(|| foreign(bucket, &key))
}

/// Makes the object of a plan, if it is not there yet.
pub(super) async fn roll_forward(target: &Target, plan: &Plan) -> Result<Outcome, ConnectorError> {
    let (bucket, key) = (&target.bucket, target.place.object(0));
    if let Some(outcome) = arrived(target, plan, look(bucket, &key).await?)? {
        return Ok(outcome);
    }
    let parts = plan.parts.iter().map(|part| PartId { content_id: part.clone() }).collect();
    let upload_key = match &plan.temporary {
        Some(temporary) => Path::parse(temporary).map_err(|_| foreign(bucket, &target.place.plan()))?,
        None => key.clone(),
    };
    let completed = bucket.parts.complete_multipart(&upload_key, &plan.upload, parts).await;
    let failure = match (completed, &plan.temporary) {
        (completed, Some(_)) => {
            // It may have been completed before, by whoever wrote the plan: the copy will tell.
            let create = CopyOptions::new().with_mode(CopyMode::Create);
            let copied = bucket.store.copy_opts(&upload_key, &key, create).await;
            copied.err().map(|copying| completed.err().unwrap_or(copying))
        }
        (completed, None) => completed.err(),
    };
    let there = look(bucket, &key).await?;
    let Some(outcome) = arrived(target, plan, there)? else {
        let uri = bucket.uri(key.as_ref());
        return Err(match failure {
            Some(Error::NotFound { .. }) | None => {
                let plan_uri = bucket.uri(target.place.plan().as_ref());
                let text = format!(
                    "{plan_uri} says that {uri} is finished, and neither that object nor its upload is there; if it was never read, delete the plan and send the stream again"
                );
                ConnectorError::new(Kind::WentBack, text).with("object", uri)
            }
            Some(error) => bucket.explain(&error, &format!("complete {uri}")),
        });
    };
    if plan.temporary.is_some()
        && let Err(error) = bucket.store.delete(&upload_key).await
    {
        tracing::warn!(%error, "a temporary object could not be removed");
    }
    Ok(outcome)
}

/// The receipt of the plan's object, if that is what is there.
fn arrived(target: &Target, plan: &Plan, there: Sighting) -> Result<Option<Outcome>, ConnectorError> {
    let key = target.place.object(0);
    match there.found {
        Found::Absent => Ok(None),
        Found::Foreign if there.size == plan.bytes => {
            let link = Link {
                stream: target.place.tag,
                first: 0,
                mark: plan.mark,
                records: plan.records,
                epoch: plan.epoch,
                begins: true,
                content: digest(&plan.sha256).ok_or_else(|| foreign(&target.bucket, &target.place.plan()))?,
            };
            Ok(Some(target.outcome(&key, &link, plan.first_record, there.e_tag, there.size)))
        }
        Found::Foreign | Found::Link(_) => Err(foreign(&target.bucket, &key)),
    }
}

fn digest(text: &str) -> Option<[u8; 32]> {
    let mut digest = [0; 32];
    for (index, byte) in digest.iter_mut().enumerate() {
        *byte = u8::from_str_radix(text.get(2 * index..2 * index + 2)?, 16).ok()?;
    }
    Some(digest)
}

/// The mark of a finished stream; `None` where nothing counts yet.
pub(super) async fn recover(target: &Target) -> Result<Option<Mark>, ConnectorError> {
    if let Some(plan) = read_plan(&target.bucket, &target.place).await? {
        roll_forward(target, &plan).await?;
        return Ok(Some(plan.mark));
    }
    let key = target.place.object(0);
    match look(&target.bucket, &key).await?.found {
        Found::Absent => Ok(None),
        Found::Link(link) if link.stream == target.place.tag && link.mark.finished => Ok(Some(link.mark)),
        Found::Link(_) | Found::Foreign => Err(foreign(&target.bucket, &key)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_grow_so_that_their_number_never_limits() {
        assert_eq!(part_bytes(0), OBJECT_PART_BYTES);
        assert_eq!(part_bytes(1_000), 2 * OBJECT_PART_BYTES);
        assert_eq!(part_bytes(PARTS_MAX), OBJECT_PART_BYTES_MAX);
        let largest: usize = (0..PARTS_MAX).map(part_bytes).sum();
        assert!(largest > 480 << 30, "{largest}");
    }
}
