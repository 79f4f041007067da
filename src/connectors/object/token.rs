//! Why: credentials that expire are fetched through the egress filter, kept until shortly before their end, and fetched again. Never shows one, and never repeats what a token service says.

use std::{fmt, sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use http::{HeaderMap, StatusCode};
use http_body_util::Full;
use object_store::CredentialProvider;
use tokio::{sync::Mutex, time::Instant};
use url::Url;

use crate::{
    clock::{Ambient, Timestamp},
    connectors::{
        connector::{ConnectContext, SinkKind},
        credential::OpenCredential,
        egress::{self, Cloud, HttpOptions, retry_after},
        error::{ConnectorError, ConnectorErrorKind as Kind, Retry},
    },
    secret::Secret,
};

/// How long before its end a token is fetched anew, unless half of its life is shorter.
const RENEWED_BEFORE: Duration = Duration::from_secs(300);
/// The longest life that is believed.
const LIFE_MAX: Duration = Duration::from_secs(24 * 3600);

/// Fetches a credential that expires.
#[async_trait]
pub(in crate::connectors) trait TokenSource: fmt::Debug + Send + Sync {
    /// What it fetches.
    type Credential: Send + Sync;

    /// A fresh one.
    async fn fetch(&self) -> Result<Issued<Self::Credential>, ConnectorError>;
}

/// A credential and how long it is good for.
pub(in crate::connectors) struct Issued<C> {
    /// The credential.
    pub(in crate::connectors) credential: C,
    /// From now on.
    pub(in crate::connectors) life: Duration,
}

/// A provider that keeps what its source fetched until shortly before the end.
pub(in crate::connectors) struct Renewing<S: TokenSource> {
    source: S,
    kept: Mutex<Option<(Arc<S::Credential>, Instant)>>,
}

impl<S: TokenSource> Renewing<S> {
    /// Fetches with the first request.
    pub(in crate::connectors) fn new(source: S) -> Self {
        Self { source, kept: Mutex::new(None) }
    }
}

impl<S: TokenSource> fmt::Debug for Renewing<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Renewing").field(&self.source).finish()
    }
}

#[async_trait]
impl<S: TokenSource> CredentialProvider for Renewing<S> {
    type Credential = S::Credential;

    /// One request at a time: those that come meanwhile wait for its answer.
    async fn get_credential(&self) -> object_store::Result<Arc<S::Credential>> {
        let mut kept = self.kept.lock().await;
        if let Some((credential, until)) = kept.as_ref().filter(|(_, until)| Instant::now() < *until) {
            let _ = until;
            return Ok(credential.clone());
        }
        let issued = self.source.fetch().await.map_err(|fault| object_store::Error::Generic { store: "credential", source: Box::new(fault) })?;
        let life = issued.life.min(LIFE_MAX);
        let credential = Arc::new(issued.credential);
        *kept = Some((credential.clone(), Instant::now() + life.saturating_sub(RENEWED_BEFORE.min(life / 2))));
        Ok(credential)
    }
}

/// What the environment says of the identity of this host, where the operator lets sinks use it.
pub(in crate::connectors) fn managed(cx: &ConnectContext) -> Result<&Cloud, ConnectorError> {
    let cloud = cx.egress.cloud();
    if cloud.managed_credentials {
        return Ok(cloud);
    }
    Err(ConnectorError::new(
        Kind::Misconfigured,
        "use_managed_credentials is not allowed here: the operator must set egress_managed_credentials, for whoever may create a sink could then act as this host",
    ))
}

/// A file that the environment of this process names: an operator's, never a user's.
pub(in crate::connectors) async fn named_file(variable: &'static str, path: &str) -> Result<String, ConnectorError> {
    tokio::fs::read_to_string(path).await.map_err(|fault| {
        ConnectorError::new(Kind::Misconfigured, format!("the file that {variable} names cannot be read: {fault}; mend the environment of this service"))
    })
}

/// The identity and secret of the sink's credential; both must be there.
pub(in crate::connectors) fn pair(credential: &OpenCredential, identity: &str, secret: &str) -> Result<(String, String), ConnectorError> {
    if credential.identity.is_empty() {
        return Err(refused(format!("it has no identity, which is {identity}")));
    }
    if !credential.identity.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(refused(format!("its identity, {identity}, must be visible ASCII characters")));
    }
    Ok((credential.identity.clone(), secret_text(credential, secret)?))
}

/// The secret of the sink's credential, which must be there.
pub(in crate::connectors) fn secret_text(credential: &OpenCredential, secret: &str) -> Result<String, ConnectorError> {
    let text = credential.secret.as_ref().and_then(Secret::expose_text).map(str::trim).filter(|text| !text.is_empty());
    text.map(str::to_owned).ok_or_else(|| refused(format!("it has no secret, which is {secret}")))
}

/// A credential that cannot be used, and why.
pub(in crate::connectors) fn refused(why: impl fmt::Display) -> ConnectorError {
    ConnectorError::new(Kind::Misconfigured, format!("the sink's credential cannot be used: {why}; alter the credential"))
}

/// How long something that ends at `end` (RFC 3339) is good for.
pub(in crate::connectors) fn life_until(end: &str, now: Timestamp) -> Option<Duration> {
    let end: jiff::Timestamp = end.parse().ok()?;
    Some(Timestamp::from_micros(end.as_microsecond()).since(now))
}

/// One service that hands out tokens.
#[derive(Debug, Clone)]
pub(in crate::connectors) struct TokenService {
    client: egress::HttpClient,
    url: Url,
    /// What it is called in messages, as in "the AWS token service".
    name: &'static str,
    ambient: Ambient,
}

impl TokenService {
    /// A service on the net. Without TLS only on loopback: what it is told and what it answers are secrets.
    pub(in crate::connectors) fn on_the_net(cx: &ConnectContext, kind: SinkKind, url: &Url, name: &'static str) -> Result<Self, ConnectorError> {
        let client = egress::HttpClient::of_objects(&cx.egress, Self::options(cx, kind, url), true)?;
        Ok(Self { client, url: url.clone(), name, ambient: cx.ambient.clone() })
    }

    /// A cloud's metadata service, whose URL is a constant or comes from the process's environment. Only where the operator allows it.
    pub(in crate::connectors) fn of_this_host(cx: &ConnectContext, kind: SinkKind, url: &str, name: &'static str) -> Result<Self, ConnectorError> {
        managed(cx)?;
        let url = Url::parse(url).map_err(|fault| {
            ConnectorError::new(Kind::Misconfigured, format!("the environment of this service names a URL of {name} that is none: {fault}"))
        })?;
        if url.scheme() == "https" {
            return Self::on_the_net(cx, kind, &url, name);
        }
        let client = egress::HttpClient::of_metadata(&cx.egress, HttpOptions { loopback_only: false, ..Self::options(cx, kind, &url) })?;
        Ok(Self { client, url, name, ambient: cx.ambient.clone() })
    }

    fn options(cx: &ConnectContext, kind: SinkKind, url: &Url) -> HttpOptions {
        HttpOptions {
            kind,
            port: url.port_or_known_default().unwrap_or(0),
            connect_timeout: cx.connection_timeout,
            exchange_timeout: cx.connection_timeout.saturating_add(cx.reply_timeout),
            loopback_only: url.scheme() != "https",
        }
    }

    /// Where it is asked.
    pub(in crate::connectors) fn url(&self) -> &Url {
        &self.url
    }

    /// The same service asked at another path.
    #[must_use]
    pub(in crate::connectors) fn at(&self, path: &str) -> Self {
        let mut there = self.clone();
        there.url.set_path(path);
        there.url.set_query(None);
        there
    }

    /// Asks it: the body of a success, of which at most 64 KiB are read.
    pub(in crate::connectors) async fn ask(&self, method: http::Method, headers: HeaderMap, body: impl Into<Bytes>) -> Result<Vec<u8>, ConnectorError> {
        let name = self.name;
        let mut request = http::Request::new(Full::new(body.into()));
        *request.method_mut() = method;
        *request.uri_mut() = self.url.as_str().parse().map_err(|_| ConnectorError::new(Kind::Internal, format!("the URL of {name} is none")))?;
        *request.headers_mut() = headers;
        let reply = self.client.send(request).await.map_err(|fault| {
            // Nothing was to be made durable here, so nothing is unknown.
            let kind = if fault.kind() == Kind::Unknown { Kind::Unreachable } else { fault.kind() };
            ConnectorError::new(kind, format!("no token from {name} at {}: {}", self.place(), fault.reason))
        })?;
        let (head, body) = reply.into_parts();
        let body = egress::read_bounded(body).await;
        if head.status.is_success() {
            return Ok(body);
        }
        let status = head.status.as_u16();
        let word = refusal(&body).map(|word| format!(" {word}")).unwrap_or_default();
        let passing = matches!(head.status, StatusCode::TOO_MANY_REQUESTS | StatusCode::REQUEST_TIMEOUT) || head.status.is_server_error();
        let (kind, advice) = if passing {
            (Kind::Throttled, "it is asked again later")
        } else {
            (Kind::Unauthenticated, "it does not accept the credential, or has no identity for this sink; alter the credential")
        };
        let error = ConnectorError::new(kind, format!("{name} answered {status}{word}: {advice}")).with("http_status", status.to_string());
        Err(match retry_after(&head.headers, self.ambient.now()).filter(|_| passing) {
            Some(wait) => error.retry(Retry::After(wait)),
            None => error,
        })
    }

    /// An answer that is a success and makes no sense.
    pub(in crate::connectors) fn nonsense(&self) -> ConnectorError {
        ConnectorError::new(Kind::Misconfigured, format!("{} at {} does not answer as one; check the sink's destination and options", self.name, self.place()))
    }

    fn place(&self) -> &str {
        self.url.host_str().unwrap_or_default()
    }
}

/// The word of a refusal, where it is one of those that the token services are known to say.
fn refusal(body: &[u8]) -> Option<&'static str> {
    const KNOWN: [&str; 14] = [
        "AccessDenied",
        "ExpiredToken",
        "IDPCommunicationError",
        "InvalidAccessKeyId",
        "InvalidClientTokenId",
        "InvalidIdentityToken",
        "InvalidParameterValue",
        "RegionDisabledException",
        "SignatureDoesNotMatch",
        "invalid_client",
        "invalid_grant",
        "invalid_request",
        "invalid_scope",
        "unauthorized_client",
    ];
    let text = std::str::from_utf8(body).ok()?;
    KNOWN.into_iter().find(|word| text.contains(word))
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[derive(Debug)]
    struct Counted(AtomicUsize, Duration);

    #[async_trait]
    impl TokenSource for Counted {
        type Credential = usize;

        async fn fetch(&self) -> Result<Issued<usize>, ConnectorError> {
            Ok(Issued { credential: self.0.fetch_add(1, Ordering::SeqCst), life: self.1 })
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_token_is_kept_and_renewed_before_its_end() {
        let long = Renewing::new(Counted(AtomicUsize::new(0), Duration::from_secs(3600)));
        assert_eq!(*long.get_credential().await.expect("a token"), 0);
        tokio::time::advance(Duration::from_secs(3299)).await;
        assert_eq!(*long.get_credential().await.expect("a token"), 0);
        tokio::time::advance(Duration::from_secs(2)).await;
        assert_eq!(*long.get_credential().await.expect("a token"), 1);

        let short = Renewing::new(Counted(AtomicUsize::new(0), Duration::from_secs(60)));
        assert_eq!(*short.get_credential().await.expect("a token"), 0);
        tokio::time::advance(Duration::from_secs(29)).await;
        assert_eq!(*short.get_credential().await.expect("a token"), 0, "a short life is not a request each time");
        tokio::time::advance(Duration::from_secs(2)).await;
        assert_eq!(*short.get_credential().await.expect("a token"), 1);

        let dead = Renewing::new(Counted(AtomicUsize::new(0), Duration::ZERO));
        assert_eq!(*dead.get_credential().await.expect("a token"), 0);
        assert_eq!(*dead.get_credential().await.expect("a token"), 1, "what is over is not kept");
    }
}
