//! Why: a bucket in memory that fails on command, keeps count of what was left behind, and can be worse than it says. Never used by the product.

use std::{
    collections::{BTreeMap, VecDeque},
    fmt,
    future::pending,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use async_trait::async_trait;
use futures::{StreamExt, stream::BoxStream};
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartId, MultipartUpload, ObjectMeta, ObjectStore, ObjectStoreExt, PutMode, PutMultipartOptions,
    PutOptions, PutPayload, PutResult, Result, UploadPart,
    memory::InMemory,
    multipart::{MultipartStore, PartId},
    path::Path,
};

/// What a write does instead of succeeding.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    /// An answer of 5xx, without effect.
    Refused,
    /// The effect happens, the answer is lost.
    ReplyLost,
    /// Never answers, without effect.
    Hang,
}

#[derive(Debug, Default)]
struct State {
    puts: VecDeque<Fault>,
    manifests: VecDeque<Fault>,
    parts: VecDeque<Fault>,
    completions: VecDeque<Fault>,
    ignores_condition: bool,
    counts_parts_as_present: bool,
    uploads: BTreeMap<MultipartId, Path>,
    requests: u64,
}

/// The bucket.
#[derive(Debug, Clone, Default)]
pub(super) struct Faulty {
    inner: InMemory,
    state: Arc<Mutex<State>>,
}

impl fmt::Display for Faulty {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Faulty")
    }
}

fn lost() -> Error {
    Error::Generic { store: "Faulty", source: "the connection was closed".into() }
}

/// Does `effect` or not, as `fault` says.
async fn suffer<T>(fault: Option<Fault>, effect: impl Future<Output = Result<T>>) -> Result<T> {
    match fault {
        None => effect.await,
        Some(Fault::Refused) => Err(lost()),
        Some(Fault::ReplyLost) => effect.await.and(Err(lost())),
        Some(Fault::Hang) => pending().await,
    }
}

impl Faulty {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What the next writes of objects of records do; the chain's small companions are spared.
    pub(super) fn at_next_puts(&self, faults: impl IntoIterator<Item = Fault>) {
        self.state().puts.extend(faults);
    }

    /// What the next writes of manifests do; they come before those of [`Self::at_next_puts`].
    pub(super) fn at_next_manifests(&self, faults: impl IntoIterator<Item = Fault>) {
        self.state().manifests.extend(faults);
    }

    pub(super) fn at_next_parts(&self, faults: impl IntoIterator<Item = Fault>) {
        self.state().parts.extend(faults);
    }

    pub(super) fn at_next_completions(&self, faults: impl IntoIterator<Item = Fault>) {
        self.state().completions.extend(faults);
    }

    pub(super) fn ignore_conditions(&self) {
        self.state().ignores_condition = true;
    }

    /// From now on a name that has an upload under way cannot be created whole, though nothing is there: Azurite's way with blocks that no list names.
    pub(super) fn count_parts_as_present(&self) {
        self.state().counts_parts_as_present = true;
    }

    /// Uploads that were begun and neither completed nor removed.
    pub(super) fn uploads(&self) -> usize {
        self.state().uploads.len()
    }

    pub(super) fn forget_uploads(&self) {
        self.state().uploads.clear();
    }

    pub(super) fn requests(&self) -> u64 {
        self.state().requests
    }

    /// Every key, sorted.
    pub(super) async fn keys(&self) -> Vec<String> {
        let listed: Vec<_> = self.inner.list(None).collect().await;
        listed.into_iter().map(|object| object.expect("memory lists").location.to_string()).collect()
    }

    pub(super) async fn remove(&self, key: &str) {
        self.inner.delete(&Path::parse(key).expect("a key")).await.expect("memory deletes");
    }

    pub(super) async fn plant(&self, key: &str, text: &str) {
        self.inner.put(&Path::parse(key).expect("a key"), text.to_owned().into()).await.expect("memory takes it");
    }

    pub(super) async fn text(&self, key: &str) -> String {
        let body = self.inner.get(&Path::parse(key).expect("a key")).await.expect("it is there").bytes().await.expect("memory reads");
        String::from_utf8(body.to_vec()).expect("text")
    }

    async fn is_there(&self, key: &Path) -> bool {
        self.inner.head(key).await.is_ok()
    }

    fn exists(key: &Path) -> Error {
        Error::AlreadyExists { path: key.to_string(), source: "If-None-Match".into() }
    }
}

#[async_trait]
impl ObjectStore for Faulty {
    async fn put_opts(&self, key: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        let fault = {
            let mut state = self.state();
            state.requests += 1;
            let of_manifest = if key.as_ref().contains("/_manifests/") { state.manifests.pop_front() } else { None };
            if key.as_ref().contains("_datasink") { None } else { of_manifest.or_else(|| state.puts.pop_front()) }
        };
        let (ignores, shadowed) = {
            let state = self.state();
            (state.ignores_condition, state.counts_parts_as_present && state.uploads.values().any(|other| other == key))
        };
        let mode = if ignores { PutMode::Overwrite } else { options.mode.clone() };
        if shadowed && mode == PutMode::Create {
            return Err(Self::exists(key));
        }
        suffer(fault, self.inner.put_opts(key, payload, PutOptions { mode, ..options })).await
    }

    async fn put_multipart_opts(&self, key: &Path, options: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        let id = self.create_multipart_opts(key, options).await?;
        Ok(Box::new(FaultyUpload { store: self.clone(), key: key.clone(), id, next: 0 }))
    }

    async fn get_opts(&self, key: &Path, options: GetOptions) -> Result<GetResult> {
        self.state().requests += 1;
        self.inner.get_opts(key, options).await
    }

    fn delete_stream(&self, keys: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        self.inner.delete_stream(keys)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.state().requests += 1;
        self.inner.list(prefix)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.inner.copy_opts(from, to, options).await
    }
}

#[async_trait]
impl MultipartStore for Faulty {
    async fn create_multipart(&self, key: &Path) -> Result<MultipartId> {
        self.create_multipart_opts(key, PutMultipartOptions::default()).await
    }

    async fn create_multipart_opts(&self, key: &Path, options: PutMultipartOptions) -> Result<MultipartId> {
        let id = self.inner.create_multipart_opts(key, options).await?;
        self.state().uploads.insert(id.clone(), key.clone());
        Ok(id)
    }

    async fn put_part(&self, key: &Path, id: &MultipartId, index: usize, data: PutPayload) -> Result<PartId> {
        let fault = self.state().parts.pop_front();
        if !self.state().uploads.contains_key(id) {
            return Err(Error::NotFound { path: key.to_string(), source: "NoSuchUpload".into() });
        }
        suffer(fault, self.inner.put_part(key, id, index, data)).await
    }

    async fn complete_multipart(&self, key: &Path, id: &MultipartId, parts: Vec<PartId>) -> Result<PutResult> {
        let fault = self.state().completions.pop_front();
        let effect = async {
            if !self.state().uploads.contains_key(id) {
                return Err(Error::NotFound { path: key.to_string(), source: "NoSuchUpload".into() });
            }
            if !self.state().ignores_condition && self.is_there(key).await {
                return Err(Self::exists(key));
            }
            let result = self.inner.complete_multipart(key, id, parts).await;
            self.state().uploads.remove(id);
            result
        };
        suffer(fault, effect).await
    }

    async fn abort_multipart(&self, key: &Path, id: &MultipartId) -> Result<()> {
        self.state().uploads.remove(id);
        self.inner.abort_multipart(key, id).await
    }
}

#[derive(Debug)]
struct FaultyUpload {
    store: Faulty,
    key: Path,
    id: MultipartId,
    next: usize,
}

#[async_trait]
impl MultipartUpload for FaultyUpload {
    fn put_part(&mut self, data: PutPayload) -> UploadPart {
        let (store, key, id, index) = (self.store.clone(), self.key.clone(), self.id.clone(), self.next);
        self.next += 1;
        Box::pin(async move { store.put_part(&key, &id, index, data).await.map(|_| ()) })
    }

    async fn complete(&mut self) -> Result<PutResult> {
        self.store.complete_multipart(&self.key, &self.id, Vec::new()).await
    }

    async fn abort(&mut self) -> Result<()> {
        self.store.abort_multipart(&self.key, &self.id).await
    }
}
