//! Why: the library deletes Azure's objects only in batches, which not every store that speaks the protocol takes with every credential; here each is one request. Never changes anything else.

use std::{fmt, ops::Range, sync::Arc};

use async_trait::async_trait;
use bytes::Bytes;
use futures::{StreamExt, stream::BoxStream};
use http::Method;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore, PutMultipartOptions, PutOptions, PutPayload, PutResult,
    Result,
    azure::{AzureAuthorizer, MicrosoftAzure},
    client::{HttpRequest, HttpRequestBody, HttpService},
    path::Path,
};
use url::Url;

use crate::connectors::object::{Gate, Signing};

/// Deletes that are under way at once.
const DELETES_AT_ONCE: usize = 8;

/// One container.
pub(super) struct Whole {
    pub(super) library: MicrosoftAzure,
    pub(super) deleting: Arc<Deleting>,
}

/// What it takes to delete an object.
pub(super) struct Deleting {
    pub(super) gate: Gate,
    pub(super) signing: Signing,
    /// The account.
    pub(super) base: Url,
    pub(super) container: String,
}

impl Deleting {
    async fn delete(&self, path: &Path) -> Result<()> {
        let generic = |source: Box<dyn std::error::Error + Send + Sync>| Error::Generic { store: "azure", source };
        let mut url = self.base.clone();
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.pop_if_empty().push(&self.container).extend(path.parts());
        }
        let mut request = HttpRequest::new(HttpRequestBody::empty());
        *request.method_mut() = Method::DELETE;
        *request.uri_mut() = url.as_str().parse().map_err(|fault| generic(Box::new(fault)))?;
        let credential = self.signing.credentials.get_credential().await?;
        AzureAuthorizer::new(&credential, &self.signing.account).try_authorize(&mut request)?;
        let answer = self.gate.call(request).await.map_err(|fault| generic(Box::new(fault)))?;
        match answer.status() {
            status if status.is_success() => Ok(()),
            _ => Err(Error::NotFound { path: path.to_string(), source: "there is no such object".into() }),
        }
    }
}

impl fmt::Debug for Whole {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for Whole {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "azure://{}", self.deleting.container)
    }
}

#[async_trait]
impl ObjectStore for Whole {
    async fn put_opts(&self, location: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        self.library.put_opts(location, payload, options).await
    }

    async fn put_multipart_opts(&self, location: &Path, options: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        self.library.put_multipart_opts(location, options).await
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        self.library.get_opts(location, options).await
    }

    async fn get_ranges(&self, location: &Path, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        self.library.get_ranges(location, ranges).await
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        let deleting = self.deleting.clone();
        locations
            .map(move |location| {
                let deleting = deleting.clone();
                async move {
                    let location = location?;
                    deleting.delete(&location).await?;
                    Ok(location)
                }
            })
            .buffered(DELETES_AT_ONCE)
            .boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.library.list(prefix)
    }

    fn list_with_offset(&self, prefix: Option<&Path>, offset: &Path) -> BoxStream<'static, Result<ObjectMeta>> {
        self.library.list_with_offset(prefix, offset)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.library.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.library.copy_opts(from, to, options).await
    }
}
