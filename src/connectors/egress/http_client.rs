//! Why: the one place an HTTP client is made, so that none resolves, redirects, proxies or retries by itself. Never hands out the client inside.

use std::{
    error::Error,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, header};
use http_body::Body as HttpBody;
use http_body_util::{BodyExt, combinators::BoxBody};
use reqwest::{
    Method, RequestBuilder, Url,
    dns::{Addrs, Name, Resolve, Resolving},
};
use rustls::{
    ClientConfig, DigitallySignedStruct, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::WebPkiSupportedAlgorithms,
    pki_types::{CertificateDer, ServerName, UnixTime},
};

use super::{Egress, EgressError, address, literal};
use crate::{
    clock::Timestamp,
    connectors::{
        connector::SinkKind,
        error::{ConnectorError, ConnectorErrorKind as Kind},
    },
    limits,
};

/// The longest a peer may make us wait.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(300);
/// What every request says it comes from.
pub(super) const USER_AGENT: &str = concat!("datasink/", env!("CARGO_PKG_VERSION"));
/// The slowest that a body may go out, in bytes a second: a large one gets as much longer than [`HttpOptions::exchange_timeout`].
const BODY_BYTES_PER_SECOND_MIN: u64 = 128 << 10;

/// Where the clouds' metadata services are: AWS (instances, containers, pods), Azure and Google. Reached by [`HttpClient::of_metadata`] and by nothing else.
const METADATA_SERVICES: [IpAddr; 5] = [
    IpAddr::V4(Ipv4Addr::new(169, 254, 169, 254)),
    IpAddr::V4(Ipv4Addr::new(169, 254, 170, 2)),
    IpAddr::V4(Ipv4Addr::new(169, 254, 170, 23)),
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254)),
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x23)),
];

/// What a client or a connection is for.
#[derive(Debug, Clone, Copy)]
pub struct HttpOptions {
    /// The kind of sink that it serves.
    pub kind: SinkKind,
    /// The port that every request goes to.
    pub port: u16,
    /// Limit for establishing a connection, TLS included.
    pub connect_timeout: Duration,
    /// Limit for a whole exchange, connecting included.
    pub exchange_timeout: Duration,
    /// Whether only loopback addresses will do, whatever else the filter allows: for requests that carry a credential without TLS.
    pub loopback_only: bool,
}

impl HttpOptions {
    /// Those of `addresses`, which the filter let through for `host`, that will do; never none.
    pub(super) fn admit(&self, host: &str, mut addresses: Vec<SocketAddr>) -> Result<Vec<SocketAddr>, EgressError> {
        if self.loopback_only {
            addresses.retain(|address| address.ip().is_loopback());
        }
        if addresses.is_empty() { Err(EgressError::NotLoopback { host: host.to_owned() }) } else { Ok(addresses) }
    }
}

/// An HTTP client behind the address filter: HTTP/1.1 or 2, keep-alive, no redirects, no proxy, no retries, no cookies, no decompression.
#[derive(Debug, Clone)]
pub struct HttpClient {
    client: reqwest::Client,
    egress: Arc<Egress>,
    options: HttpOptions,
    reach: Reach,
}

/// Which addresses a client may reach.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reach {
    /// Whatever the filter lets through.
    Filtered,
    /// The metadata services, which the filter never lets through, and loopback, where their stand-ins are. Nothing else.
    Metadata,
}

impl HttpClient {
    /// A client of `egress`.
    pub fn new(egress: &Arc<Egress>, options: HttpOptions) -> Result<Self, EgressError> {
        let mut tls = egress.tls_config().as_ref().clone();
        tls.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Self::build(egress, options, Reach::Filtered, tls)
    }

    /// A client for the large bodies of object stores, which travel faster over several HTTP/1.1 connections than over one of HTTP/2.
    /// Without `verify_tls` it talks to whoever answers: for the one option of a sink that says so.
    pub fn of_objects(egress: &Arc<Egress>, options: HttpOptions, verify_tls: bool) -> Result<Self, EgressError> {
        let mut tls = egress.tls_config().as_ref().clone();
        tls.alpn_protocols = vec![b"http/1.1".to_vec()];
        if !verify_tls {
            let algorithms = tls.crypto_provider().signature_verification_algorithms;
            tls.dangerous().set_certificate_verifier(Arc::new(AnyCertificate(algorithms)));
        }
        Self::build(egress, options, Reach::Filtered, tls)
    }

    /// A client that reaches the clouds' metadata services and loopback, and nothing else. Its URLs come from constants and from the environment of the process, never from
    /// what a user says, and only where the operator lets sinks use the identity of this host.
    pub fn of_metadata(egress: &Arc<Egress>, options: HttpOptions) -> Result<Self, EgressError> {
        Self::build(egress, options, Reach::Metadata, egress.tls_config().as_ref().clone())
    }

    fn build(egress: &Arc<Egress>, options: HttpOptions, reach: Reach, tls: ClientConfig) -> Result<Self, EgressError> {
        let client = reqwest::Client::builder()
            .tls_backend_preconfigured(tls)
            .dns_resolver(FilteringResolver { egress: egress.clone(), options, reach })
            .redirect(reqwest::redirect::Policy::none())
            .retry(reqwest::retry::never())
            .no_proxy()
            .referer(false)
            .connect_timeout(options.connect_timeout)
            .timeout(options.exchange_timeout)
            .user_agent(USER_AGENT)
            .build()
            .map_err(|fault| EgressError::Client(fault.without_url().to_string()))?;
        Ok(Self { client, egress: egress.clone(), options, reach })
    }

    /// A request to `url`. A host that is an address is checked here, each time: nothing asks a resolver about it.
    pub fn request(&self, method: Method, url: &Url) -> Result<RequestBuilder, EgressError> {
        let host = url.host().ok_or_else(|| EgressError::NotAHost { host: String::new() })?;
        let port = url.port_or_known_default().unwrap_or(0);
        if port != self.options.port {
            return Err(EgressError::Client(format!("it is for port {} and the request for port {port}", self.options.port)));
        }
        match self.reach {
            Reach::Filtered => self.egress.check_host(&host, port, self.options.kind)?,
            Reach::Metadata if literal(&host).is_some_and(|address| !is_metadata_service(address)) => {
                return Err(EgressError::NotMetadata { host: host.to_string() });
            }
            Reach::Metadata => {}
        }
        if self.options.loopback_only && literal(&host).is_some_and(|address| !address.to_canonical().is_loopback()) {
            return Err(EgressError::NotLoopback { host: host.to_string() });
        }
        Ok(self.client.request(method, url.clone()))
    }

    /// Sends `request` and returns the answer's head as soon as it is there; its body follows. A status that is no success is an answer like any other.
    pub async fn send<B>(&self, request: http::Request<B>) -> Result<http::Response<ReplyBody>, ExchangeError>
    where
        B: HttpBody<Data = Bytes> + Send + Sync + 'static,
        B::Error: Into<Box<dyn Error + Send + Sync>>,
    {
        let (parts, body) = request.into_parts();
        let url = Url::parse(&parts.uri.to_string()).map_err(|fault| ExchangeError::new(Stage::Malformed, &fault))?;
        let length = body.size_hint().exact().unwrap_or(0);
        let limit = self.options.exchange_timeout.saturating_add(Duration::from_secs(length / BODY_BYTES_PER_SECOND_MIN));
        let request = self.request(parts.method, &url).map_err(|refused| ExchangeError::refused(&refused))?.headers(parts.headers).timeout(limit);
        let request = if length == 0 { request } else { request.body(reqwest::Body::wrap(body)) };
        let reply: http::Response<reqwest::Body> = request.send().await.map_err(ExchangeError::of)?.into();
        let (head, body) = reply.into_parts();
        Ok(http::Response::from_parts(head, BoxBody::new(body.map_err(ExchangeError::of))))
    }
}

/// The body of an answer, as it comes in.
pub type ReplyBody = BoxBody<Bytes, ExchangeError>;

/// The first [`limits::REPLY_BYTES_MAX`] bytes of `body`; what cannot be read is left out.
pub async fn read_bounded(mut body: ReplyBody) -> Vec<u8> {
    let mut read = Vec::new();
    while let Some(Ok(frame)) = body.frame().await {
        if let Ok(piece) = frame.into_data() {
            let room = limits::REPLY_BYTES_MAX - read.len();
            read.extend_from_slice(&piece[..piece.len().min(room)]);
            if piece.len() >= room {
                break;
            }
        }
    }
    read
}

/// How far an exchange came before it failed; decides whether the peer can have acted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// The filter refused the address, or the name does not resolve; nothing was sent.
    Refused(Kind),
    /// No connection; nothing was sent.
    NotConnected,
    /// No connection in time; nothing was sent.
    ConnectTimedOut,
    /// TLS failed; nothing was sent.
    Tls,
    /// The request cannot be written as HTTP; nothing was sent.
    Malformed,
    /// No whole answer in time; the peer may have acted.
    NoAnswer,
    /// The connection broke; the peer may have acted.
    Broken,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
#[error("{reason}")]
pub struct ExchangeError {
    /// How far it came.
    pub stage: Stage,
    /// The innermost cause, as a library words it: redact it before it is shown.
    pub reason: String,
}

impl ExchangeError {
    fn new(stage: Stage, cause: &(dyn Error + 'static)) -> Self {
        Self { stage, reason: innermost(cause) }
    }

    fn refused(refused: &EgressError) -> Self {
        Self { stage: Stage::Refused(refused.kind()), reason: refused.to_string() }
    }

    /// TLS failed, if that is among the causes.
    fn tls(fault: &(dyn Error + 'static)) -> Option<Self> {
        find::<rustls::Error>(fault).map(|tls| Self { stage: Stage::Tls, reason: tls_reason(tls) })
    }

    /// There is no connection.
    pub(super) fn unconnected(fault: &EgressError) -> Self {
        match fault {
            EgressError::TimedOut { .. } => Self { stage: Stage::ConnectTimedOut, reason: fault.to_string() },
            EgressError::Connect { source, .. } => Self::new(Stage::NotConnected, source),
            EgressError::Tls { source, .. } => Self::tls(source).unwrap_or_else(|| Self::new(Stage::NotConnected, source)),
            _ => Self::refused(fault),
        }
    }

    /// There was a connection, and no answer came over it.
    pub(super) fn broken(fault: &hyper::Error) -> Self {
        Self::tls(fault).unwrap_or_else(|| Self::new(Stage::Broken, fault))
    }

    fn of(fault: reqwest::Error) -> Self {
        let fault = fault.without_url();
        if let Some(refused) = find::<EgressError>(&fault) {
            return Self::refused(refused);
        }
        if let Some(tls) = Self::tls(&fault) {
            return tls;
        }
        let stage = if fault.is_connect() && fault.is_timeout() {
            Stage::ConnectTimedOut
        } else if fault.is_timeout() {
            Stage::NoAnswer
        } else if fault.is_connect() {
            Stage::NotConnected
        } else if fault.is_builder() {
            Stage::Malformed
        } else {
            Stage::Broken
        };
        Self::new(stage, &fault)
    }

    /// What a connector calls it. What the peer may have acted upon is *unknown*.
    pub fn kind(&self) -> Kind {
        match self.stage {
            Stage::Refused(kind) => kind,
            Stage::NotConnected => Kind::Unreachable,
            Stage::ConnectTimedOut => Kind::TimedOut,
            Stage::Tls => Kind::Tls,
            Stage::Malformed => Kind::Internal,
            Stage::NoAnswer | Stage::Broken => Kind::Unknown,
        }
    }
}

/// What to do about the commonest failures of TLS, which the library names by their cause alone.
fn tls_reason(fault: &rustls::Error) -> String {
    use rustls::CertificateError as C;
    let advice = match fault {
        rustls::Error::InvalidCertificate(C::UnknownIssuer) => {
            "; it is signed by an authority that this service does not trust: add it to the setting egress_ca"
        }
        rustls::Error::InvalidCertificate(C::NotValidForName | C::NotValidForNameContext { .. }) => "; it is another host's: check the host of the destination",
        rustls::Error::InvalidCertificate(C::Expired | C::ExpiredContext { .. }) => "; it has expired: renew it, or set this host's clock",
        _ => "",
    };
    format!("{fault}{advice}")
}

impl From<ExchangeError> for ConnectorError {
    fn from(fault: ExchangeError) -> Self {
        Self::new(fault.kind(), fault.reason)
    }
}

fn is_metadata_service(address: IpAddr) -> bool {
    let address = address::canonical(address);
    address.is_loopback() || METADATA_SERVICES.contains(&address)
}

/// Takes any certificate, and still wants proof that the peer has its key.
#[derive(Debug)]
struct AnyCertificate(WebPkiSupportedAlgorithms);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(message, certificate, signed, &self.0)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(message, certificate, signed, &self.0)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_schemes()
    }
}

/// Gives a new connection the addresses that the filter let through, and no others; asked once for each connection.
struct FilteringResolver {
    egress: Arc<Egress>,
    options: HttpOptions,
    reach: Reach,
}

impl Resolve for FilteringResolver {
    fn resolve(&self, name: Name) -> Resolving {
        let (egress, options, reach) = (self.egress.clone(), self.options, self.reach);
        Box::pin(async move {
            let host = name.as_str();
            let addresses: Vec<SocketAddr> = match reach {
                Reach::Filtered => egress.resolve(host, options.port, options.kind).await?,
                Reach::Metadata => {
                    let found = egress.lookup(host).await?.into_iter().filter(|address| is_metadata_service(*address));
                    found.map(|address| (address, options.port).into()).collect()
                }
            };
            if reach == Reach::Metadata && addresses.is_empty() {
                return Err(EgressError::NotMetadata { host: host.to_owned() }.into());
            }
            Ok(Box::new(options.admit(host, addresses)?.into_iter()) as Addrs)
        })
    }
}

/// How long `Retry-After` asks us to wait, in seconds or as a date, but never longer than is good for a stream.
pub fn retry_after(headers: &HeaderMap, now: Timestamp) -> Option<Duration> {
    let text = headers.get(header::RETRY_AFTER)?.to_str().ok()?.trim();
    let wait = match text.parse::<u64>() {
        Ok(seconds) => Duration::from_secs(seconds),
        Err(_) => {
            let date = httpdate::parse_http_date(text).ok()?.duration_since(std::time::UNIX_EPOCH).ok()?;
            Timestamp::from_micros(i64::try_from(date.as_micros()).unwrap_or(i64::MAX)).since(now)
        }
    };
    Some(wait.min(RETRY_AFTER_MAX)).filter(|wait| !wait.is_zero())
}

/// The first error of type `T` in the chain of causes; I/O errors hide theirs from the chain.
pub fn find<'a, T: Error + 'static>(fault: &'a (dyn Error + 'static)) -> Option<&'a T> {
    let mut next = Some(fault);
    while let Some(fault) = next {
        let wrapped = fault.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
        if let Some(found) = fault.downcast_ref::<T>().or_else(|| wrapped.and_then(|inner| inner.downcast_ref::<T>())) {
            return Some(found);
        }
        next = match wrapped {
            Some(inner) => Some(inner),
            None => fault.source(),
        };
    }
    None
}

/// The text of the last cause: the only one that is not a library's wrapping.
fn innermost(fault: &(dyn Error + 'static)) -> String {
    let mut last = fault;
    while let Some(next) = last.source() {
        last = next;
    }
    last.to_string()
}
