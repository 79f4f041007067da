//! Why: whether a store really creates only what is absent, and which generation of a stream counts, are read from one small object at each open. Never touches an object of records.

use bytes::Bytes;
use object_store::{Attribute, Attributes, Error, GetOptions, PutMode, PutOptions, PutPayload, path::Path};

use super::bucket::Bucket;
use crate::connectors::error::{ConnectorError, ConnectorErrorKind as Kind};

/// The most bytes of a generation object that are read.
const GENERATION_BYTES_MAX: u64 = 64;

/// What the small object tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Ground {
    /// Whether a conditional create fails where an object is.
    pub(super) honoured: bool,
    /// How often the stream was forgotten.
    pub(super) generation: u64,
}

/// Tries a conditional create on the object at `key`, which is made first if it is not there, and reads it.
pub(super) async fn survey(bucket: &Bucket, key: &Path) -> Result<Ground, ConnectorError> {
    if let Some(generation) = read(bucket, key).await? {
        // A store that ignores the condition overwrites it here with what it holds.
        return Ok(Ground { honoured: refuses(bucket, key, generation).await?, generation });
    }
    let made_new = !refuses(bucket, key, 0).await?;
    let honoured = refuses(bucket, key, 0).await?;
    let generation = if made_new { 0 } else { read(bucket, key).await?.unwrap_or(0) };
    Ok(Ground { honoured, generation })
}

/// From now on the stream is another one at this place; what was written stays.
pub(super) async fn next_generation(bucket: &Bucket, key: &Path) -> Result<(), ConnectorError> {
    let generation = read(bucket, key).await?.unwrap_or(0) + 1;
    let doing = || format!("write {}", bucket.uri(key.as_ref()));
    put(bucket, key, generation, PutMode::Overwrite).await.map_err(|error| bucket.explain(&error, &doing()))
}

async fn read(bucket: &Bucket, key: &Path) -> Result<Option<u64>, ConnectorError> {
    let doing = || format!("read {}", bucket.uri(key.as_ref()));
    let there = match bucket.store.get_opts(key, GetOptions::new()).await {
        Ok(there) => there,
        Err(Error::NotFound { .. }) => return Ok(None),
        Err(error) => return Err(bucket.explain(&error, &doing())),
    };
    let small = there.meta.size <= GENERATION_BYTES_MAX;
    let body = if small { there.bytes().await.map_err(|error| bucket.explain(&error, &doing()))? } else { Bytes::new() };
    let generation = std::str::from_utf8(&body).ok().and_then(|text| text.strip_prefix("generation ")?.trim_end().parse().ok());
    generation.map(Some).ok_or_else(|| {
        let uri = bucket.uri(key.as_ref());
        ConnectorError::new(Kind::Misconfigured, format!("{uri} is not what this service wrote there; move it away, or give the sink another path_template"))
            .with("object", uri)
    })
}

/// Whether a conditional create is refused.
async fn refuses(bucket: &Bucket, key: &Path, generation: u64) -> Result<bool, ConnectorError> {
    match put(bucket, key, generation, PutMode::Create).await {
        Ok(()) => Ok(false),
        Err(error) if taken(&error) => Ok(true),
        Err(error) => Err(bucket.explain(&error, &format!("write {}", bucket.uri(key.as_ref())))),
    }
}

async fn put(bucket: &Bucket, key: &Path, generation: u64, mode: PutMode) -> Result<(), Error> {
    let attributes: Attributes = [(Attribute::ContentType, "text/plain")].into_iter().collect();
    let options = PutOptions { mode, attributes, ..PutOptions::default() };
    bucket.store.put_opts(key, PutPayload::from(format!("generation {generation}\n")), options).await.map(|_| ())
}

/// Whether a store says that an object of the name is there already. Of S3's two answers, 409 means that another request for the name is under way: what it came to is looked at, too.
pub(super) fn taken(error: &Error) -> bool {
    matches!(error, Error::AlreadyExists { .. } | Error::Precondition { .. } | Error::NotModified { .. })
}
