//! Why: the engine sees one bucket with two ways in (whole objects, and parts), whatever cloud it lies in. Never names a credential.

use std::{fmt, sync::Arc};

use async_trait::async_trait;
use object_store::{Error, ObjectStore, multipart::MultipartStore};

use super::endpoint::Endpoint;
use crate::connectors::{
    connector::{ConnectContext, SinkKind},
    error::ConnectorError,
};

/// An opened bucket (a container at Azure). Cheap to clone.
#[derive(Clone)]
pub(in crate::connectors) struct Bucket {
    /// The kind of sink it belongs to; also the scheme of receipts.
    pub(in crate::connectors) kind: SinkKind,
    /// Its name.
    pub(in crate::connectors) name: String,
    /// Whole objects.
    pub(in crate::connectors) store: Arc<dyn ObjectStore>,
    /// Objects in parts.
    pub(in crate::connectors) parts: Arc<dyn MultipartStore>,
    /// Whether completing an upload in parts fails where an object of the name is there already. Where not, an upload in parts goes to a name of its own and is copied if absent.
    pub(in crate::connectors) conditional_completion: bool,
}

impl fmt::Debug for Bucket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for Bucket {
    /// As in `s3://bucket`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}", self.kind, self.name)
    }
}

impl Bucket {
    /// Where an object is, for receipts and messages.
    pub(in crate::connectors) fn uri(&self, key: &str) -> String {
        format!("{}://{}/{key}", self.kind, self.name)
    }

    /// What a failure of the store means. `doing` completes "cannot …", as in `write s3://b/k`; "already exists" is not an error here: callers look at it first.
    pub(in crate::connectors) fn explain(&self, error: &Error, doing: &str) -> ConnectorError {
        super::errors::explain(self, error, doing)
    }
}

/// What a kind must say to have its buckets written to by the engine.
#[async_trait]
pub(in crate::connectors) trait BucketSource: Send + Sync + fmt::Debug {
    /// Where its requests go, for a check step by step; `None` where there is no such place (a store in memory).
    fn endpoint(&self, _cx: &ConnectContext) -> Result<Option<Endpoint>, ConnectorError> {
        Ok(None)
    }

    /// The bucket, with the credential as it is now. Makes no request.
    async fn bucket(&self, cx: &ConnectContext) -> Result<Bucket, ConnectorError>;
}
