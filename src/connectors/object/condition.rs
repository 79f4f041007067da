//! Why: whether a store really creates only what is absent, and which generation of a stream counts, are asked at each open. Never touches an object of records.

use bytes::Bytes;
use object_store::{Attribute, Attributes, Error, GetOptions, PutOptions, PutPayload, path::Path};

use super::{bucket::Bucket, probe::conditional_create_honoured};
use crate::connectors::error::{ConnectorError, ConnectorErrorKind as Kind};

/// The most bytes of a generation object that are read.
const GENERATION_BYTES_MAX: u64 = 64;

/// What a stream stands on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Ground {
    /// Whether a conditional create fails where an object is.
    pub(super) honoured: bool,
    /// How often the stream was forgotten.
    pub(super) generation: u64,
}

/// Tries a conditional create below `folder`, and reads the generation at `key`.
pub(super) async fn survey(bucket: &Bucket, folder: &str, key: &Path) -> Result<Ground, ConnectorError> {
    let honoured = conditional_create_honoured(bucket, folder).await?;
    Ok(Ground { honoured, generation: generation(bucket, key).await? })
}

/// From now on the stream is another one at this place; what was written stays.
pub(super) async fn next_generation(bucket: &Bucket, key: &Path) -> Result<(), ConnectorError> {
    let next = generation(bucket, key).await? + 1;
    let attributes: Attributes = [(Attribute::ContentType, "text/plain")].into_iter().collect();
    let options = PutOptions { attributes, ..PutOptions::default() };
    let written = bucket.store.put_opts(key, PutPayload::from(format!("generation {next}\n")), options).await;
    written.map(|_| ()).map_err(|error| bucket.explain(&error, &format!("write {}", bucket.uri(key.as_ref()))))
}

async fn generation(bucket: &Bucket, key: &Path) -> Result<u64, ConnectorError> {
    let explain = |error| bucket.explain(&error, &format!("read {}", bucket.uri(key.as_ref())));
    let there = match bucket.store.get_opts(key, GetOptions::new()).await {
        Ok(there) => there,
        Err(Error::NotFound { .. }) => return Ok(0),
        Err(error) => return Err(explain(error)),
    };
    let small = there.meta.size <= GENERATION_BYTES_MAX;
    let body = if small { there.bytes().await.map_err(explain)? } else { Bytes::new() };
    let generation = std::str::from_utf8(&body).ok().and_then(|text| text.strip_prefix("generation ")?.trim_end().parse().ok());
    generation.ok_or_else(|| {
        let uri = bucket.uri(key.as_ref());
        ConnectorError::new(Kind::Misconfigured, format!("{uri} is not what this service wrote there; move it away, or give the sink another path_template"))
            .with("object", uri)
    })
}

/// Whether a store says that an object of the name is there already. Of S3's two answers, 409 means that another request for the name is under way: what it came to is looked at, too.
pub(super) fn taken(error: &Error) -> bool {
    matches!(error, Error::AlreadyExists { .. } | Error::Precondition { .. } | Error::NotModified { .. })
}
