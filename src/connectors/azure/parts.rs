//! Why: Azure takes an object's metadata with the list of its blocks, where other stores take it as an upload begins; here it is as there. Never keeps anything between the calls: what is needed later is in the upload's id.

use async_trait::async_trait;
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use http::{HeaderMap, HeaderName, HeaderValue};
use object_store::{
    Attribute, Error, MultipartId, PutMultipartOptions, PutPayload, PutResult, Result,
    azure::MicrosoftAzure,
    multipart::{MultipartStore, PartId},
    path::Path,
};

use crate::connectors::object::COMPLETION_HEADERS;

/// Uploads in parts to one container. An upload's id is its metadata: it can be completed by another process.
#[derive(Debug)]
pub(super) struct Parts(pub(super) MicrosoftAzure);

#[async_trait]
impl MultipartStore for Parts {
    async fn create_multipart(&self, path: &Path) -> Result<MultipartId> {
        self.create_multipart_opts(path, PutMultipartOptions::default()).await
    }

    /// Makes no request: an upload begins with its first block.
    async fn create_multipart_opts(&self, _: &Path, options: PutMultipartOptions) -> Result<MultipartId> {
        let named = |(attribute, value)| Some((name(attribute)?, AsRef::<str>::as_ref(value)));
        let headers: Option<Vec<(String, &str)>> = options.attributes.iter().map(named).collect();
        let headers = headers.ok_or_else(|| Error::NotSupported { source: "an attribute that Azure has no header for".into() })?;
        let text = serde_json::to_string(&headers).map_err(|fault| Error::Generic { store: "azure", source: Box::new(fault) })?;
        Ok(URL_SAFE_NO_PAD.encode(text))
    }

    async fn put_part(&self, path: &Path, id: &MultipartId, part: usize, data: PutPayload) -> Result<PartId> {
        self.0.put_part(path, id, part, data).await
    }

    async fn complete_multipart(&self, path: &Path, id: &MultipartId, parts: Vec<PartId>) -> Result<PutResult> {
        let headers = headers_of(id).ok_or_else(|| Error::Generic { store: "azure", source: "the id of the upload is none".into() })?;
        COMPLETION_HEADERS.scope(headers, self.0.complete_multipart(path, id, parts)).await
    }

    /// Blocks that no list names go away by themselves after a week.
    async fn abort_multipart(&self, path: &Path, id: &MultipartId) -> Result<()> {
        self.0.abort_multipart(path, id).await
    }
}

fn name(attribute: &Attribute) -> Option<String> {
    Some(match attribute {
        Attribute::CacheControl => "x-ms-blob-cache-control".to_owned(),
        Attribute::ContentDisposition => "x-ms-blob-content-disposition".to_owned(),
        Attribute::ContentEncoding => "x-ms-blob-content-encoding".to_owned(),
        Attribute::ContentLanguage => "x-ms-blob-content-language".to_owned(),
        Attribute::ContentType => "x-ms-blob-content-type".to_owned(),
        Attribute::StorageClass => "x-ms-access-tier".to_owned(),
        Attribute::Metadata(key) => format!("x-ms-meta-{key}"),
        _ => return None,
    })
}

fn headers_of(id: &str) -> Option<HeaderMap> {
    let text = URL_SAFE_NO_PAD.decode(id).ok()?;
    let headers: Vec<(String, String)> = serde_json::from_slice(&text).ok()?;
    headers.into_iter().map(|(name, value)| Some((HeaderName::try_from(name).ok()?, HeaderValue::try_from(value).ok()?))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_carries_headers_and_nothing_else_is_one() {
        let id = URL_SAFE_NO_PAD.encode(r#"[["x-ms-meta-next","12"],["x-ms-blob-content-type","text/csv"]]"#);
        let headers = headers_of(&id).expect("headers");
        assert_eq!((headers["x-ms-meta-next"].as_bytes(), headers.len()), (&b"12"[..], 2));
        assert!(headers_of("").is_none() && headers_of("nonsense").is_none());
        assert!(headers_of(&URL_SAFE_NO_PAD.encode(r#"[["a b","c"]]"#)).is_none());
    }
}
