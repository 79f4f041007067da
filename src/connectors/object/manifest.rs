//! Why: a manifest lists the objects that hold one unit's records, and makes them count. Never lists an object that was not seen to be there, and never says anything that differs between twins.

use std::fmt::Write as _;

use object_store::{GetOptions, path::Path};
use serde::{Deserialize, Serialize};

use super::{body::Body, bucket::Bucket, chain::StreamTag, format::internal, reader::foreign};
use crate::{
    connectors::{
        connector::{Artifact, Mark, Outcome},
        error::ConnectorError,
    },
    limits::OBJECT_MANIFEST_BYTES_MAX,
    record::Offset,
};

/// The version of manifests.
const VERSION: u64 = 1;

/// The objects of one unit. Its name and its metadata are those of a link of the chain.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Manifest {
    version: u64,
    /// The stream's tag.
    stream: String,
    /// The first offset of the unit, and the one after its last; what `objects` do not hold of it was refused.
    first_offset: Offset,
    next_offset: Offset,
    /// Whether the stream ends with this unit.
    finished: bool,
    /// By their first offsets.
    pub(super) objects: Vec<Entry>,
}

/// One object.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Entry {
    /// Where it is in the bucket.
    pub(super) key: String,
    /// Its first record; between its records may be ones of other objects.
    pub(super) first_offset: Offset,
    pub(super) record_count: u64,
    pub(super) byte_count: u64,
    /// Of its bytes.
    pub(super) sha256: String,
    /// What the store called it when it was put; for receipts, since a twin may have had another answer.
    #[serde(skip)]
    pub(super) e_tag: Option<String>,
}

impl Manifest {
    pub(super) fn new(stream: StreamTag, first_offset: Offset, mark: Mark, objects: Vec<Entry>) -> Self {
        Self { version: VERSION, stream: stream.to_string(), first_offset, next_offset: mark.next, finished: mark.finished, objects }
    }

    /// As the bytes of an object.
    pub(super) fn to_body(&self) -> Result<Body, ConnectorError> {
        let mut text = serde_json::to_vec(self).map_err(|error| internal("write a manifest", error))?;
        text.push(b'\n');
        let mut body = Body::default();
        body.extend(vec![text.into()]);
        Ok(body)
    }

    /// What is at `key`, which another owner of the stream put there.
    pub(super) async fn read(bucket: &Bucket, key: &Path) -> Result<Self, ConnectorError> {
        let explain = |error| bucket.explain(&error, &format!("read {}", bucket.uri(key.as_ref())));
        let there = bucket.store.get_opts(key, GetOptions::new()).await.map_err(explain)?;
        if there.meta.size > OBJECT_MANIFEST_BYTES_MAX {
            return Err(foreign(bucket, key));
        }
        let body = there.bytes().await.map_err(explain)?;
        serde_json::from_slice(&body).ok().filter(|manifest: &Self| manifest.version == VERSION).ok_or_else(|| foreign(bucket, key))
    }

    /// The receipts of the unit: one an object, and the manifest's own last, which counts no record and by which the next open finds the chain's end.
    pub(super) fn outcome(&self, bucket: &Bucket, own: Artifact) -> Outcome {
        let receipt = |entry: &Entry| Artifact {
            uri: bucket.uri(&entry.key),
            first_offset: entry.first_offset,
            record_count: entry.record_count,
            byte_count: entry.byte_count,
            attributes: attributes(entry.e_tag.clone(), entry.sha256.clone()),
        };
        let bytes = self.objects.iter().map(|entry| entry.byte_count).sum::<u64>() + own.byte_count;
        // A unit without records is the chain's own affair.
        let last = (!self.objects.is_empty()).then_some(own);
        Outcome { artifacts: self.objects.iter().map(receipt).chain(last).collect(), bytes }
    }

    /// The manifest's own receipt; `objects` tells how many it lists.
    pub(super) fn receipt(&self, uri: String, e_tag: Option<String>, content: &[u8; 32], byte_count: u64) -> Artifact {
        let mut attributes = attributes(e_tag, hex(content));
        attributes.push(("objects".to_owned(), self.objects.len().to_string()));
        let first_offset = self.objects.first().map_or(self.first_offset, |entry| entry.first_offset);
        Artifact { uri, first_offset, record_count: 0, byte_count, attributes }
    }
}

fn attributes(e_tag: Option<String>, sha256: String) -> Vec<(String, String)> {
    e_tag.map(|e_tag| ("etag".to_owned(), e_tag)).into_iter().chain([("sha256".to_owned(), sha256)]).collect()
}

/// Lower-case hexadecimal digits.
pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").expect("a string takes every text");
        text
    })
}
