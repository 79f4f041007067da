//! Why: ON_FINISH: one object, which nobody sees before the stream is finished and everybody after, whatever crashes in between. Never visible by halves.
//!
//! Parts go up as units are committed; a commit says no more than that they are there. Finish seals the stream: a small object goes up whole, created only if absent, and is its own mark. A
//! large one needs two steps, so a *plan* is written first, created only if absent: from then on the stream is finished, and whoever opens it completes the upload that the plan names. Before
//! the plan nothing counts: the stream begins anew. Two owners upload side by side and meet at the plan.
//!
//! An upload that a crash left is found by its *note*, written before its first part. Its owner may still live, so it is removed only once it cannot be finished any more: whoever opens the
//! stream writes "given up" where the plan would be, and begins the next attempt, which has a plan of its own.
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
    Attribute, CopyMode, CopyOptions, Error, GetOptions, MultipartId, ObjectStoreExt, PutMode, PutMultipartOptions, PutOptions, PutPayload, multipart::PartId,
    path::Path,
};
use serde::{Deserialize, Serialize};
use tokio::{sync::Mutex, sync::oneshot, time::sleep};

use super::{
    body::Body,
    bucket::Bucket,
    chain::{Found, Link},
    condition::taken,
    errors::is_upload_gone,
    format::{Encoder, internal},
    reader::{Sighting, foreign, look, vanished},
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
/// The most bytes of a note of an upload that are read.
const NOTE_BYTES_MAX: u64 = 16 << 10;
/// The most uploads that crashes left and one open removes; the next one removes more.
const NOTES_MAX: usize = 1_000;
/// The most attempts at one stream: each open reads what became of all of them.
const ATTEMPTS_MAX: u64 = 1_000;
/// The version of plans and notes.
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

/// What became of an attempt.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
enum Decision {
    Finished(Box<Plan>),
    GivenUp { version: u64, given_up: bool },
}

impl Decision {
    const GIVEN_UP: Self = Self::GivenUp { version: VERSION, given_up: true };

    fn is_known(&self) -> bool {
        *self == Self::GIVEN_UP || matches!(self, Self::Finished(plan) if plan.version == VERSION)
    }
}

/// Which upload is under way, for whoever must remove it.
#[derive(Debug, Serialize, Deserialize)]
struct Note {
    version: u64,
    key: String,
    upload: MultipartId,
}

/// One owner's go at a stream.
#[derive(Debug, Clone, Copy)]
struct Attempt {
    /// Attempts before it were given up; owners of one time share it, and its plan.
    number: u64,
    /// A number of this writer's own, for names.
    random: u64,
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
    id: MultipartId,
    /// Where it is written down.
    note: Path,
    parts: Vec<PartId>,
    keep: bool,
}

impl Drop for Upload {
    fn drop(&mut self) {
        if !self.keep {
            let (bucket, note, key, id) = (self.bucket.clone(), self.note.clone(), self.key.clone(), self.id.clone());
            clean_up(async move { remove(&bucket, &note, &key, &id).await });
        }
    }
}

/// The writer of one stream in ON_FINISH mode.
pub(super) struct StagedWriter {
    target: Arc<Target>,
    attempt: Attempt,
    /// The whole object's encoder, and what came out of it since the last commit.
    encoder: Option<Box<dyn Encoder>>,
    fresh: Vec<Bytes>,
    first_record: Option<Offset>,
    records: u64,
    stage: Arc<Mutex<Stage>>,
    ahead: Option<oneshot::Receiver<()>>,
}

impl StagedWriter {
    /// `number`: of the attempt, see [`recover`]; `random`: of this writer's own, for names.
    pub(super) fn new(target: Arc<Target>, number: u64, random: u64) -> Self {
        Self {
            target,
            attempt: Attempt { number, random },
            encoder: None,
            fresh: Vec::new(),
            first_record: None,
            records: 0,
            stage: Arc::default(),
            ahead: None,
        }
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
    async fn send(&mut self, target: &Target, attempt: Attempt, last: bool) -> Result<(), ConnectorError> {
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
            self.upload = Some(Upload::begin(target, attempt).await?);
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
    async fn begin(target: &Target, attempt: Attempt) -> Result<Self, ConnectorError> {
        let (bucket, note) = (&target.bucket, target.place.upload(attempt.number, attempt.random));
        let key = if bucket.conditional_completion { target.place.object(0) } else { target.place.temporary(attempt.random) };
        let options = PutMultipartOptions { attributes: target.kind_of_content.clone(), ..PutMultipartOptions::default() };
        let id = match bucket.parts.create_multipart_opts(&key, options).await {
            // Azure names the content's type on completion only, where its library has no place for it.
            Err(Error::NotSupported { .. }) => bucket.parts.create_multipart(&key).await,
            other => other,
        };
        let id = id.map_err(|error| bucket.explain(&error, &format!("write {}", bucket.uri(key.as_ref()))))?;
        // Dropped if it cannot be written down, and so removed.
        let upload = Self { bucket: bucket.clone(), key, id, note, parts: Vec::new(), keep: false };
        upload.write_down().await?;
        Ok(upload)
    }

    async fn write_down(&self) -> Result<(), ConnectorError> {
        let note = Note { version: VERSION, key: self.key.to_string(), upload: self.id.clone() };
        let body = serde_json::to_vec(&note).map_err(|error| internal("write down an upload", error))?;
        let attributes = [(Attribute::ContentType, "application/json")].into_iter().collect();
        let written = self.bucket.store.put_opts(&self.note, body.into(), PutOptions { attributes, ..PutOptions::default() }).await;
        written.map(|_| ()).map_err(|error| self.bucket.explain(&error, &format!("write {}", self.bucket.uri(self.note.as_ref()))))
    }

    /// One part; the same part again is the same part, so it may be tried again.
    async fn put(&self, index: usize, part: PutPayload) -> Result<PartId, ConnectorError> {
        let mut pause = PAUSE;
        for tried in 1.. {
            match self.bucket.parts.put_part(&self.key, &self.id, index, part.clone()).await {
                Ok(id) => return Ok(id),
                Err(error) if is_upload_gone(&error) => {
                    let uri = self.bucket.uri(self.key.as_ref());
                    let text = format!("the upload of {uri} is gone: a later session of the stream gave it up, or a lifecycle rule removed it");
                    return Err(ConnectorError::new(Kind::Unknown, text).with("object", uri));
                }
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
        let (target, stage, attempt) = (self.target.clone(), self.stage.clone(), self.attempt);
        Box::pin(async move {
            wait_for(ahead).await?;
            let mut stage = stage.lock().await;
            stage.body.extend(fresh);
            stage.send(&target, attempt, false).await?;
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
        stage.send(&self.target, self.attempt, true).await?;
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
        let (number, decision) = (self.attempt.number, Decision::Finished(Box::new(plan.clone())));
        if decide(&self.target, number, &decision).await? != decision {
            upload.keep = false;
            let uri = self.target.bucket.uri(self.target.place.plan(number).as_ref());
            return Err(ConnectorError::new(Kind::Unknown, format!("{uri} was written by another session of the stream")).with("object", uri));
        }
        let outcome = roll_forward(&self.target, number, &plan).await?;
        forget(&self.target.bucket, &upload.note).await;
        Ok(outcome)
    }
}

async fn wait_for(ahead: Option<oneshot::Receiver<()>>) -> Result<(), ConnectorError> {
    let Some(ahead) = ahead else { return Ok(()) };
    ahead.await.map_err(|_| ConnectorError::new(Kind::Unknown, "a unit ahead of this one failed"))
}

async fn drop_upload(stage: &Mutex<Stage>) {
    let Some(mut upload) = stage.lock().await.upload.take() else { return };
    upload.keep = remove(&upload.bucket, &upload.note, &upload.key, &upload.id).await.is_ok();
}

/// Removes an upload, or finds it gone, and then its note.
async fn remove(bucket: &Bucket, note: &Path, key: &Path, id: &MultipartId) -> object_store::Result<()> {
    match bucket.parts.abort_multipart(key, id).await {
        Err(error) if !is_upload_gone(&error) => Err(error),
        _ => {
            forget(bucket, note).await;
            Ok(())
        }
    }
}

/// Removes the note of an upload that is no more. One that stays is looked at again by the next open.
async fn forget(bucket: &Bucket, note: &Path) {
    match bucket.store.delete(note).await {
        Ok(()) | Err(Error::NotFound { .. }) => {}
        Err(error) => tracing::warn!(%error, note = %note, "the note of an upload could not be removed"),
    }
}

/// Decides what becomes of an attempt, unless that is decided already; the decision that counts.
async fn decide(target: &Target, attempt: u64, own: &Decision) -> Result<Decision, ConnectorError> {
    let (bucket, key) = (&target.bucket, target.place.plan(attempt));
    let body = serde_json::to_vec(own).map_err(|error| internal("write down a plan", error))?;
    let attributes = [(Attribute::ContentType, "application/json")].into_iter().collect();
    let options = PutOptions { mode: PutMode::Create, attributes, ..PutOptions::default() };
    if !target.honoured
        && let Some(there) = read_decision(target, attempt).await?
    {
        return Ok(there);
    }
    match bucket.store.put_opts(&key, body.into(), options).await {
        Ok(_) => Ok(own.clone()),
        Err(error) if taken(&error) => read_decision(target, attempt).await?.ok_or_else(|| vanished(bucket, &key)),
        Err(error) => Err(bucket.explain(&error, &format!("write {}", bucket.uri(key.as_ref())))),
    }
}

/// What became of an attempt; `None` where that is open.
async fn read_decision(target: &Target, attempt: u64) -> Result<Option<Decision>, ConnectorError> {
    let (bucket, key) = (&target.bucket, target.place.plan(attempt));
    let Some(body) = read_small(bucket, &key, PLAN_BYTES_MAX).await? else { return Ok(None) };
    let decision: Option<Decision> = serde_json::from_slice(&body).ok().filter(Decision::is_known);
    decision.map(Some).ok_or_else(|| foreign(bucket, &key))
}

/// What a small object of this service holds; `None` where there is none.
async fn read_small(bucket: &Bucket, key: &Path, bytes_max: u64) -> Result<Option<Bytes>, ConnectorError> {
    let explain = |error| bucket.explain(&error, &format!("read {}", bucket.uri(key.as_ref())));
    let there = match bucket.store.get_opts(key, GetOptions::new()).await {
        Ok(there) => there,
        Err(Error::NotFound { .. }) => return Ok(None),
        Err(error) => return Err(explain(error)),
    };
    if there.meta.size > bytes_max {
        return Err(foreign(bucket, key));
    }
    there.bytes().await.map(Some).map_err(explain)
}

/// An upload that somebody wrote down.
struct Left {
    attempt: u64,
    note: Path,
    key: Path,
    id: MultipartId,
}

/// The uploads that owners of the stream have under way, or left behind.
async fn uploads(target: &Target) -> Result<Vec<Left>, ConnectorError> {
    let (bucket, folder) = (&target.bucket, target.place.plans());
    let explain = |error| bucket.explain(&error, &format!("list {}", bucket.uri(folder.as_ref())));
    let (mut found, mut listing) = (Vec::new(), bucket.store.list(Some(&folder)));
    while let Some(object) = listing.try_next().await.map_err(explain)? {
        let Some(attempt) = target.place.attempt_of(object.location.as_ref()) else { continue };
        let Some(body) = read_small(bucket, &object.location, NOTE_BYTES_MAX).await? else { continue };
        let note: Option<Note> = serde_json::from_slice(&body).ok().filter(|note: &Note| note.version == VERSION);
        let Some((Note { upload: id, .. }, key)) = note.and_then(|note| Path::parse(&note.key).ok().map(|key| (note, key))) else {
            return Err(foreign(bucket, &object.location));
        };
        found.push(Left { attempt, note: object.location, key, id });
        if found.len() == NOTES_MAX {
            break;
        }
    }
    Ok(found)
}

/// Makes the object of a plan, if it is not there yet.
async fn roll_forward(target: &Target, attempt: u64, plan: &Plan) -> Result<Outcome, ConnectorError> {
    let (bucket, key) = (&target.bucket, target.place.object(0));
    let plan_key = target.place.plan(attempt);
    if let Some(outcome) = arrived(target, &plan_key, plan, look(bucket, &key).await?)? {
        return Ok(outcome);
    }
    let parts = plan.parts.iter().map(|part| PartId { content_id: part.clone() }).collect();
    let upload_key = match &plan.temporary {
        Some(temporary) => Path::parse(temporary).map_err(|_| foreign(bucket, &plan_key))?,
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
    let Some(outcome) = arrived(target, &plan_key, plan, there)? else {
        let uri = bucket.uri(key.as_ref());
        return Err(match failure {
            Some(error) if !is_upload_gone(&error) => bucket.explain(&error, &format!("complete {uri}")),
            Some(_) | None => {
                let plan_uri = bucket.uri(plan_key.as_ref());
                let text = format!(
                    "{plan_uri} says that {uri} is finished, and neither that object nor its upload is there; if it was never read, delete the plan and send the stream again"
                );
                ConnectorError::new(Kind::WentBack, text).with("object", uri)
            }
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
fn arrived(target: &Target, plan_key: &Path, plan: &Plan, there: Sighting) -> Result<Option<Outcome>, ConnectorError> {
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
                content: digest(&plan.sha256).ok_or_else(|| foreign(&target.bucket, plan_key))?,
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

/// The mark of a finished stream, `None` where nothing counts yet; and the number of the attempt that counts. What earlier attempts left is removed.
pub(super) async fn recover(target: &Target) -> Result<(Option<Mark>, u64), ConnectorError> {
    // A store that overwrites fences nobody off, so there what others have under way is let alone.
    let left = if target.honoured { uploads(target).await? } else { Vec::new() };
    let (attempt, plan) = attempt(target, &left).await?;
    let mark = match &plan {
        Some(plan) => {
            roll_forward(target, attempt, plan).await?;
            Some(plan.mark)
        }
        None => finished_at_once(target).await?,
    };
    // Those of later attempts are another owner's, who opened the stream meanwhile.
    for Left { note, key, id, .. } in left.iter().filter(|left| left.attempt < attempt || plan.is_some() && left.attempt == attempt) {
        if plan.as_ref().is_some_and(|plan| plan.upload == *id) {
            forget(&target.bucket, note).await;
        } else if let Err(error) = remove(&target.bucket, note, key, id).await {
            tracing::warn!(%error, note = %note, "an upload that a crash left could not be removed; the next open tries again");
        }
    }
    Ok((mark, attempt))
}

/// The first attempt that is not given up, and its plan if it has one. One that somebody has uploads of is given up here: they cannot be finished from then on.
async fn attempt(target: &Target, left: &[Left]) -> Result<(u64, Option<Plan>), ConnectorError> {
    for attempt in 0..ATTEMPTS_MAX {
        let decision = match read_decision(target, attempt).await? {
            None if left.iter().any(|left| left.attempt == attempt) => decide(target, attempt, &Decision::GIVEN_UP).await?,
            None => return Ok((attempt, None)),
            Some(decision) => decision,
        };
        if let Decision::Finished(plan) = decision {
            return Ok((attempt, Some(*plan)));
        }
    }
    let text = format!("the stream broke off {ATTEMPTS_MAX} times before it was finished; forget its progress, or give the sink another path_template");
    Err(ConnectorError::new(Kind::Misconfigured, text))
}

/// The mark of a stream whose object was small enough to be put whole.
async fn finished_at_once(target: &Target) -> Result<Option<Mark>, ConnectorError> {
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
