//! Why: what object_store asks goes out through our own egress filter, and completions of uploads in parts get the condition that the library does not give them. Never follows, retries or repeats an answer's body.

use std::{fmt, sync::Arc};

use async_trait::async_trait;
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use http_body_util::BodyExt;
use object_store::{
    ClientOptions, CredentialProvider, RetryConfig,
    azure::{AzureAuthorizer, AzureCredential},
    client::{HttpClient, HttpConnector, HttpError, HttpErrorKind, HttpRequest, HttpResponse, HttpResponseBody, HttpService},
};

use super::errors::Answer;
use crate::{
    clock::Ambient,
    connectors::{
        connector::{ConnectContext, SinkKind},
        egress::{self, ExchangeError, HttpOptions, ReplyBody, Stage},
        error::ConnectorError,
    },
};

tokio::task_local! {
    /// Headers for the completion that the current task is about to ask for: Azure takes an object's metadata then, and the library has no way to hand it over.
    pub(in crate::connectors) static COMPLETION_HEADERS: HeaderMap;
}

/// What is done to requests on their way out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::connectors) struct Manners {
    /// The kind of sink that is served.
    pub(in crate::connectors) kind: SinkKind,
    /// Whether the credential is one that this service can ask for anew: an expired one then heals by itself.
    pub(in crate::connectors) renewable: bool,
    /// Whether requests go out without a credential.
    pub(in crate::connectors) anonymous: bool,
    /// Whether certificates are verified.
    pub(in crate::connectors) verify_tls: bool,
    /// Whether the credential may go to loopback only: it travels with the request, and there is no TLS.
    pub(in crate::connectors) loopback_only: bool,
}

/// How Azure's requests are signed once more after the condition was added: it is part of what is signed.
#[derive(Clone)]
pub(in crate::connectors) struct Signing {
    /// The credential as it is now.
    pub(in crate::connectors) credentials: Arc<dyn CredentialProvider<Credential = AzureCredential>>,
    /// The storage account.
    pub(in crate::connectors) account: String,
}

/// The way out for one bucket; cheap to clone.
#[derive(Clone)]
pub(in crate::connectors) struct Gate(Arc<Inner>);

struct Inner {
    client: egress::HttpClient,
    manners: Manners,
    ambient: Ambient,
    signing: Option<Signing>,
    /// Added to every request.
    extra: HeaderMap,
}

impl fmt::Debug for Gate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Gate").field(&self.0.manners).finish()
    }
}

/// No retries: a failure is the session's to judge, once.
pub(in crate::connectors) fn no_retries() -> RetryConfig {
    RetryConfig { max_retries: 0, ..RetryConfig::default() }
}

impl Gate {
    /// A way out to `port`.
    pub(in crate::connectors) fn new(cx: &ConnectContext, port: u16, manners: Manners) -> Result<Self, ConnectorError> {
        let options = HttpOptions {
            kind: manners.kind,
            port,
            connect_timeout: cx.connection_timeout,
            exchange_timeout: cx.connection_timeout.saturating_add(cx.reply_timeout),
            loopback_only: manners.loopback_only,
        };
        let client = egress::HttpClient::of_objects(&cx.egress, options, manners.verify_tls)?;
        Ok(Self(Arc::new(Inner { client, manners, ambient: cx.ambient.clone(), signing: None, extra: HeaderMap::new() })))
    }

    /// The same, signing Azure's completions anew.
    #[must_use]
    pub(in crate::connectors) fn signing(self, signing: Signing) -> Self {
        self.changed(|inner| inner.signing = Some(signing))
    }

    /// The same, with one more header on every request.
    #[must_use]
    pub(in crate::connectors) fn header(self, name: HeaderName, value: HeaderValue) -> Self {
        self.changed(|inner| {
            inner.extra.insert(name, value);
        })
    }

    fn changed(self, change: impl FnOnce(&mut Inner)) -> Self {
        let old = self.0;
        let mut inner =
            Inner { client: old.client.clone(), manners: old.manners, ambient: old.ambient.clone(), signing: old.signing.clone(), extra: old.extra.clone() };
        change(&mut inner);
        Self(Arc::new(inner))
    }
}

impl HttpConnector for Gate {
    fn connect(&self, _: &ClientOptions) -> object_store::Result<HttpClient> {
        Ok(HttpClient::new(self.clone()))
    }
}

#[async_trait]
impl HttpService for Gate {
    async fn call(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        let request = self.0.prepared(request).await?;
        let reply = self.0.client.send(request).await.map_err(broken)?;
        let (head, body) = reply.into_parts();
        if head.status.is_success() {
            return Ok(HttpResponse::from_parts(head, HttpResponseBody::new(body.map_err(broken))));
        }
        self.0.judged(head, body).await
    }
}

impl Inner {
    async fn prepared(&self, mut request: HttpRequest) -> Result<HttpRequest, HttpError> {
        request.headers_mut().extend(self.extra.clone());
        if self.manners.anonymous {
            // The library's GCS client sends an empty bearer token even where it was told to send none.
            request.headers_mut().remove(header::AUTHORIZATION);
        }
        match (self.manners.kind, completion(&request)) {
            (SinkKind::S3, Some(Completion::Upload)) => {
                request.headers_mut().insert(header::IF_NONE_MATCH, HeaderValue::from_static("*"));
            }
            (SinkKind::Azure, Some(Completion::BlockList)) => {
                request.headers_mut().insert(header::IF_NONE_MATCH, HeaderValue::from_static("*"));
                let _ = COMPLETION_HEADERS.try_with(|headers| request.headers_mut().extend(headers.clone()));
                self.sign_again(&mut request).await?;
            }
            _ => {}
        }
        Ok(request)
    }

    /// Replaces the signature. A bearer token or a shared access signature does not cover headers and stays.
    async fn sign_again(&self, request: &mut HttpRequest) -> Result<(), HttpError> {
        let Some(signing) = &self.signing else { return Ok(()) };
        let library = |fault: object_store::Error| HttpError::new(HttpErrorKind::Unknown, fault);
        let credential = signing.credentials.get_credential().await.map_err(library)?;
        if matches!(*credential, AzureCredential::AccessKey(_)) {
            request.headers_mut().remove(header::AUTHORIZATION);
            AzureAuthorizer::new(&credential, &signing.account).try_authorize(request).map_err(library)?;
        }
        Ok(())
    }

    /// An answer that is no success: "not there", "there already" and "not modified" go on to the library, without their body; everything else becomes an error that knows what it means.
    async fn judged(&self, mut head: http::response::Parts, body: ReplyBody) -> Result<HttpResponse, HttpError> {
        if head.status == StatusCode::NOT_MODIFIED {
            return Ok(HttpResponse::from_parts(head, Bytes::new().into()));
        }
        let body = egress::read_bounded(body).await;
        let answer = Answer::read(head.status, &head.headers, &body, self.manners, self.ambient.now());
        if answer.is_plain_absence() || answer.is_plain_presence() {
            // S3 reports a lost race as 409, Azure an existing object: the library knows 412 as "there already" for every conditional request.
            if answer.is_plain_presence() {
                head.status = StatusCode::PRECONDITION_FAILED;
            }
            head.headers.remove(header::CONTENT_LENGTH);
            return Ok(HttpResponse::from_parts(head, Bytes::new().into()));
        }
        Err(HttpError::new(HttpErrorKind::Unknown, answer))
    }
}

/// A request that makes an upload in parts count.
#[derive(Debug, PartialEq, Eq)]
enum Completion {
    /// S3's `POST …?uploadId=`.
    Upload,
    /// Azure's `PUT …?comp=blocklist`.
    BlockList,
}

fn completion(request: &HttpRequest) -> Option<Completion> {
    let query = request.uri().query().unwrap_or_default();
    let has = |wanted: &str| query.split('&').any(|pair| pair == wanted || (wanted.ends_with('=') && pair.starts_with(wanted)));
    match *request.method() {
        Method::POST if has("uploadId=") => Some(Completion::Upload),
        Method::PUT if has("comp=blocklist") => Some(Completion::BlockList),
        _ => None,
    }
}

/// An exchange that failed, in the library's terms; what it makes of the sort of failure does not matter, for it retries nothing.
fn broken(fault: ExchangeError) -> HttpError {
    let kind = match fault.stage {
        Stage::Refused(_) | Stage::NotConnected | Stage::ConnectTimedOut | Stage::Tls => HttpErrorKind::Connect,
        Stage::NoAnswer => HttpErrorKind::Timeout,
        Stage::Broken => HttpErrorKind::Interrupted,
        Stage::Malformed => HttpErrorKind::Unknown,
    };
    HttpError::new(kind, fault)
}

#[cfg(test)]
mod tests {
    use object_store::client::HttpRequestBody;

    use super::*;

    #[test]
    fn completions_are_recognised_and_nothing_else_is() {
        let of = |method: Method, uri: &str| {
            let mut request = HttpRequest::new(HttpRequestBody::empty());
            *request.method_mut() = method;
            *request.uri_mut() = uri.parse().expect("a URI");
            completion(&request)
        };
        assert_eq!(of(Method::POST, "http://h/b/k?uploadId=abc"), Some(Completion::Upload));
        assert_eq!(of(Method::PUT, "http://h/c/k?comp=blocklist"), Some(Completion::BlockList));
        assert_eq!(of(Method::PUT, "http://h/c/k?comp=blocklist&sv=2022&sig=x"), Some(Completion::BlockList));
        for (method, uri) in [
            (Method::POST, "http://h/b/k?uploads="),
            (Method::POST, "http://h/b?delete"),
            (Method::PUT, "http://h/b/k?partNumber=1&uploadId=abc"),
            (Method::DELETE, "http://h/b/k?uploadId=abc"),
            (Method::PUT, "http://h/c/k?comp=block&blockid=x"),
            (Method::GET, "http://h/c/k?comp=blocklist"),
            (Method::PUT, "http://h/c/uploadId=comp=blocklist"),
        ] {
            assert_eq!(of(method, uri), None, "{uri}");
        }
    }
}
