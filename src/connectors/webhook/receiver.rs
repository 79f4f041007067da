//! Why: one request to one receiver and what its answer means. Never repeats what the receiver says, never follows it elsewhere, and never sends a credential in the clear.

use std::time::Duration;

use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, StatusCode, header};
use url::Url;
use zeroize::Zeroizing;

use super::{options, signature::Signer};
use crate::{
    clock::{Ambient, Timestamp},
    connectors::{
        connector::{ConnectContext, SinkKind},
        credential::OpenCredential,
        egress::{ExchangeError, HttpConnection, HttpOptions, Stage, retry_after},
        error::{ConnectorError, ConnectorErrorKind as Kind, ErrorClass, Retry},
        options::{ConfigFault, ConfigFaultKind},
    },
    secret::{Redactor, Secret},
};

/// How to reach one receiver and be known there; made anew for each connection, so that it holds the current version of the credential.
#[derive(Debug)]
pub(super) struct Receiver {
    connection: HttpConnection,
    identity: Identity,
    redactor: Redactor,
    ambient: Ambient,
    /// The destination, as it may be shown.
    shown: String,
    reply_timeout: Duration,
}

/// What a request says about us.
#[derive(Debug, Default)]
struct Identity {
    /// The header that carries the credential.
    header: Option<(HeaderName, HeaderValue)>,
    signer: Option<Signer>,
}

impl Receiver {
    /// Checks the credential and the address; connects with the first request.
    pub(super) fn new(url: &Url, shown: &str, cx: &ConnectContext) -> Result<Self, ConnectorError> {
        let (identity, redactor) = Identity::of(cx.credential.as_ref())?;
        let host = url.host().ok_or_else(|| ConnectorError::new(Kind::Internal, "a webhook sink without a host was stored"))?;
        let loopback_only = url.scheme() == "http" && identity.header.is_some();
        // A name is looked at once it is resolved; an address is known now, and the advice is better here.
        if loopback_only && !matches!(host, url::Host::Domain(_)) && !options::is_loopback(&host) {
            return Err(ConnectorError::new(
                Kind::Misconfigured,
                format!(
                    "{shown} would carry the credential of sink {} in the clear; write https:// (http:// with a credential is for loopback addresses only)",
                    cx.sink
                ),
            ));
        }
        let port = url.port_or_known_default().unwrap_or(0);
        cx.egress.check_host(&host, port, SinkKind::Webhook)?;
        let options = HttpOptions {
            kind: SinkKind::Webhook,
            port,
            connect_timeout: cx.connection_timeout,
            exchange_timeout: cx.connection_timeout.saturating_add(cx.reply_timeout),
            loopback_only,
        };
        let connection = HttpConnection::new(&cx.egress, options, url)?;
        let (shown, ambient) = (shown.to_owned(), cx.ambient.clone());
        Ok(Self { connection, identity, redactor, ambient, shown, reply_timeout: cx.reply_timeout })
    }

    /// The destination, as it may be shown.
    pub(super) fn shown(&self) -> &str {
        &self.shown
    }

    /// Posts `body` under `id` and returns the status, which is a success. The error's records are the caller's to name.
    pub(super) async fn post(&self, id: &str, mut headers: HeaderMap, body: Bytes) -> Result<StatusCode, ConnectorError> {
        let now = self.ambient.now().micros().div_euclid(1_000_000);
        // Ids are hexadecimal and signatures base64.
        let plain = |text: &str| HeaderValue::from_str(text).expect("the value is printable ASCII");
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert("webhook-id", plain(id));
        headers.insert("webhook-timestamp", HeaderValue::from(now));
        headers.insert("idempotency-key", plain(id));
        if let Some(signer) = &self.identity.signer {
            headers.insert("webhook-signature", plain(&signer.sign(id, now, &body)));
        }
        if let Some((name, value)) = &self.identity.header {
            headers.insert(name, value.clone());
        }
        let mut request = Request::new(body);
        (*request.method_mut(), *request.headers_mut()) = (Method::POST, headers);
        let reply = self.connection.exchange(request).await.map_err(|fault| self.broken(fault))?;
        judge(reply.status(), reply.headers(), self.ambient.now(), &self.shown)
    }

    /// What a request that got no answer means.
    fn broken(&self, fault: ExchangeError) -> ConnectorError {
        let (shown, reason) = (&self.shown, self.redactor.redact(&fault.reason));
        let (kind, message) = match fault.stage {
            Stage::Refused(kind) => (kind, reason),
            Stage::Tls => (Kind::Tls, format!("TLS with {shown} failed: {reason}")),
            Stage::ConnectTimedOut => (Kind::TimedOut, format!("no connection to {shown} in time; check that it is up and reachable from here")),
            Stage::NoAnswer => {
                let seconds = self.reply_timeout.as_secs_f32();
                (Kind::TimedOut, format!("{shown} did not answer within {seconds} seconds; the request is sent again under the same id"))
            }
            Stage::NotConnected => (Kind::Unreachable, format!("no connection to {shown}: {reason}")),
            Stage::Malformed => (Kind::Internal, format!("no request to {shown} can be made: {reason}")),
            Stage::Broken => {
                (Kind::Unknown, format!("the connection to {shown} broke before the answer came ({reason}); the request is sent again under the same id"))
            }
        };
        ConnectorError::new(kind, message).with("destination", shown)
    }
}

/// Every rule that a credential of type rest breaks, with the field that breaks it.
pub(super) fn check_credential(credential: &OpenCredential) -> Vec<ConfigFault> {
    Identity::of_credential(credential).err().unwrap_or_default()
}

impl Identity {
    /// What `credential` makes of our requests, and a redactor that knows its secrets.
    fn of(credential: Option<&OpenCredential>) -> Result<(Self, Redactor), ConnectorError> {
        let Some(credential) = credential else { return Ok((Self::default(), Redactor::default())) };
        Self::of_credential(credential).map_err(|faults| {
            let rules: Vec<String> = faults.into_iter().map(|fault| fault.message).collect();
            ConnectorError::new(Kind::Misconfigured, format!("the sink's credential cannot be used: {}; alter the credential", rules.join("; ")))
        })
    }

    fn of_credential(credential: &OpenCredential) -> Result<(Self, Redactor), Vec<ConfigFault>> {
        let mut redactor = Redactor::new(credential.secret.iter().chain(credential.secret_options.values()));
        let mut faults = Vec::new();
        let signer = credential.secret_options.get("signing_secret").and_then(|keys| {
            let signer = Signer::parse(keys.expose_text().unwrap_or_default());
            signer.map_err(|rule| faults.push(ConfigFault::option(ConfigFaultKind::InvalidOption, "signing_secret", rule))).ok()
        });
        signer.iter().flat_map(Signer::spellings).for_each(|key| redactor.learn(&key));
        let header = Self::header(credential, &mut faults);
        if let (Some((_, value)), false) = (&header, credential.identity.is_empty()) {
            redactor.learn(&Secret::new(value.as_bytes().to_vec()));
        }
        if faults.is_empty() { Ok((Self { header, signer }, redactor)) } else { Err(faults) }
    }

    /// The header that carries the credential, where it has one.
    fn header(credential: &OpenCredential, faults: &mut Vec<ConfigFault>) -> Option<(HeaderName, HeaderValue)> {
        let secret = credential.secret.as_ref().filter(|secret| !secret.is_empty());
        let name = credential.options.get("header_name");
        let value = credential.secret_options.get("header_value");
        let identity = credential.identity.as_str();
        let mut option = |kind, option: &str, rule: String| faults.push(ConfigFault::option(kind, option, rule));
        let together = || "header_name and header_value go together".to_owned();
        match (name, value) {
            (Some(_), None) => option(ConfigFaultKind::MissingOption, "header_value", together()),
            (None, Some(_)) => option(ConfigFaultKind::MissingOption, "header_name", together()),
            _ => {}
        }
        if (name.is_some() || value.is_some()) && !(identity.is_empty() && secret.is_none()) {
            option(ConfigFaultKind::Conflict, "header_name", "a header of its own cannot go beside an identity or a secret".to_owned());
        }
        let name = name.map(|name| header_name(name).map_err(|rule| option(ConfigFaultKind::InvalidOption, "header_name", rule)));
        let value = value.map(|value| secret_value(value.expose()).map_err(|rule| option(ConfigFaultKind::InvalidOption, "header_value", rule)));
        if let (Some(Ok(name)), Some(Ok(value))) = (name, value) {
            return Some((name, value));
        }
        let field = |field, rule: String| ConfigFault::field(field, rule);
        let made = match (identity, secret) {
            ("", None) => return None,
            ("", Some(token)) => bearer(token).map_err(|rule| field("secret", rule)),
            (_, None) => Err(field("secret", "it has an identity and no secret".to_owned())),
            (user, Some(password)) => basic(user, password).map_err(|rule| field("identity", rule)),
        };
        made.map_err(|fault| faults.push(fault)).ok().map(|value| (header::AUTHORIZATION, value))
    }
}

fn bearer(token: &Secret) -> Result<HeaderValue, String> {
    if !token.expose().iter().all(u8::is_ascii_graphic) {
        return Err("a bearer token has only visible ASCII characters".to_owned());
    }
    secret_value(&Zeroizing::new([b"Bearer ", token.expose()].concat()))
}

fn basic(user: &str, password: &Secret) -> Result<HeaderValue, String> {
    if user.contains(':') || user.chars().any(char::is_control) {
        return Err("a user name must not contain \":\" or control characters".to_owned());
    }
    let pair = Zeroizing::new([user.as_bytes(), b":", password.expose()].concat());
    let encoded = Zeroizing::new(STANDARD.encode(&*pair));
    secret_value(format!("Basic {}", *encoded).as_bytes())
}

/// A header's value that HTTP/2 keeps out of its tables and `Debug` does not show.
fn secret_value(bytes: &[u8]) -> Result<HeaderValue, String> {
    if bytes.is_empty() || !bytes.iter().all(|byte| byte.is_ascii_graphic() || *byte == b' ') || bytes.starts_with(b" ") || bytes.ends_with(b" ") {
        return Err("a header's value must be visible ASCII characters, with spaces only inside".to_owned());
    }
    let mut value = HeaderValue::from_bytes(bytes).map_err(|_| "a header's value has a character that is not allowed".to_owned())?;
    value.set_sensitive(true);
    Ok(value)
}

/// A header that a credential may set: none that frames the message, routes it, or that we set ourselves.
fn header_name(text: &str) -> Result<HeaderName, String> {
    const OURS: [&str; 21] = [
        "accept",
        "accept-encoding",
        "connection",
        "content-encoding",
        "content-length",
        "content-type",
        "date",
        "expect",
        "forwarded",
        "host",
        "http2-settings",
        "idempotency-key",
        "keep-alive",
        "te",
        "traceparent",
        "tracestate",
        "trailer",
        "transfer-encoding",
        "upgrade",
        "user-agent",
        "via",
    ];
    const OUR_PREFIXES: [&str; 5] = ["webhook-", "datasink-", "proxy-", "sec-", "x-forwarded-"];
    let name = text.to_ascii_lowercase();
    let shown: String = text.chars().take(64).collect();
    if name.is_empty() || name.len() > 64 || !name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'_') {
        return Err(format!("header_name {shown:?} is not allowed; it takes 1 to 64 letters, digits, \"-\" and \"_\""));
    }
    if OURS.contains(&name.as_str()) || OUR_PREFIXES.iter().any(|prefix| name.starts_with(prefix)) {
        return Err(format!("header_name {shown:?} is not allowed: HTTP or this service sets that header itself"));
    }
    HeaderName::from_bytes(name.as_bytes()).map_err(|_| format!("header_name {shown:?} is not allowed"))
}

/// What an answer means. Its body, its reason phrase and its headers other than `Retry-After` are never looked at.
fn judge(status: StatusCode, headers: &HeaderMap, now: Timestamp, shown: &str) -> Result<StatusCode, ConnectorError> {
    let code = status.as_u16();
    let (kind, class, meaning) = match code {
        200..=299 => return Ok(status),
        300..=399 => (Kind::Misconfigured, ErrorClass::Configuration, "redirects are not followed; alter the sink's destination to the final address"),
        401 => (Kind::Unauthenticated, ErrorClass::Configuration, "it does not accept the credential; alter the credential"),
        403 => (Kind::PermissionDenied, ErrorClass::Configuration, "it forbids this; check what the credential may do there"),
        404 => (Kind::NotFound, ErrorClass::Configuration, "there is nothing at this path; check the sink's destination"),
        410 => (Kind::NotFound, ErrorClass::Configuration, "the receiver is gone and wants no more; drop the sink or alter its destination"),
        // About how we ask, not about the record: no other record would fare better, so none may be diverted for it.
        402 | 405 | 406 | 407 | 411 | 415 | 417 | 421 | 426 | 431 | 451 => {
            (Kind::Misconfigured, ErrorClass::Configuration, "it does not take requests of this form; check the sink's destination and credential")
        }
        408 => (Kind::TimedOut, ErrorClass::Destination, "it gave up waiting; the request is sent again under the same id"),
        409 => (Kind::Throttled, ErrorClass::Destination, "it is still at work on this id; the request is sent again under the same id"),
        423 | 425 | 429 | 500..=599 => (Kind::Throttled, ErrorClass::Destination, "it cannot take the request now; it is sent again under the same id"),
        413 => (Kind::TooLarge, ErrorClass::Record, "the body is too large for it; lower max_batch_size or max_message_size"),
        400..=499 => (Kind::Rejected, ErrorClass::Record, "it refuses what was sent"),
        _ => (Kind::Internal, ErrorClass::Configuration, "that is no answer to a request"),
    };
    let name = status.canonical_reason().map(|name| format!(" {name}")).unwrap_or_default();
    let mut error = ConnectorError::new(kind, format!("{shown} answered {code}{name}: {meaning}"))
        .class(class)
        .with("destination", shown)
        .with("http_status", code.to_string());
    if let Some(wait) = retry_after(headers, now).filter(|_| class == ErrorClass::Destination) {
        error = error.retry(Retry::After(wait));
    }
    Err(error)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(code: u16, retry_after: Option<&str>) -> Result<StatusCode, ConnectorError> {
        let headers = retry_after.map(|value| (header::RETRY_AFTER, HeaderValue::from_str(value).expect("a value"))).into_iter().collect();
        // 2026-01-01 00:00:00 UTC.
        judge(StatusCode::from_u16(code).expect("a status"), &headers, Timestamp::from_micros(1_767_225_600_000_000), "https://r.example/")
    }

    #[test]
    fn every_status_has_one_meaning() {
        use ErrorClass as C;
        for code in [200, 201, 202, 204, 207] {
            assert_eq!(answer(code, None).expect("a success").as_u16(), code);
        }
        let table = [
            (301, Kind::Misconfigured, C::Configuration),
            (302, Kind::Misconfigured, C::Configuration),
            (304, Kind::Misconfigured, C::Configuration),
            (307, Kind::Misconfigured, C::Configuration),
            (308, Kind::Misconfigured, C::Configuration),
            (400, Kind::Rejected, C::Record),
            (401, Kind::Unauthenticated, C::Configuration),
            (403, Kind::PermissionDenied, C::Configuration),
            (404, Kind::NotFound, C::Configuration),
            (405, Kind::Misconfigured, C::Configuration),
            (408, Kind::TimedOut, C::Destination),
            (409, Kind::Throttled, C::Destination),
            (410, Kind::NotFound, C::Configuration),
            (413, Kind::TooLarge, C::Record),
            (415, Kind::Misconfigured, C::Configuration),
            (418, Kind::Rejected, C::Record),
            (422, Kind::Rejected, C::Record),
            (429, Kind::Throttled, C::Destination),
            (500, Kind::Throttled, C::Destination),
            (502, Kind::Throttled, C::Destination),
            (503, Kind::Throttled, C::Destination),
            (504, Kind::Throttled, C::Destination),
            (999, Kind::Internal, C::Configuration),
        ];
        for (code, kind, class) in table {
            let error = answer(code, None).expect_err("not a success");
            assert_eq!((error.kind, error.class), (kind, class), "{code}");
            assert_eq!(error.retry == Retry::Never, class != C::Destination, "{code}: {:?}", error.retry);
        }
    }

    #[test]
    fn retry_after_is_obeyed_within_reason() {
        let retry = |value| answer(503, Some(value)).expect_err("not a success").retry;
        assert_eq!(retry("7"), Retry::After(Duration::from_secs(7)));
        assert_eq!(retry("Thu, 01 Jan 2026 00:00:42 GMT"), Retry::After(Duration::from_secs(42)));
        assert_eq!(retry("Thursday, 01-Jan-26 00:00:42 GMT"), Retry::After(Duration::from_secs(42)));
        for far in ["86400", "18446744073709551615", "Fri, 01 Jan 2027 00:00:00 GMT"] {
            assert_eq!(retry(far), Retry::After(Duration::from_secs(300)), "{far}");
        }
        for useless in ["0", "soon", "-1", "1.5", "", "Wed, 31 Dec 2025 23:59:00 GMT", "18446744073709551616"] {
            assert_eq!(retry(useless), Retry::Backoff, "{useless:?}");
        }
        assert_eq!(answer(422, Some("7")).expect_err("not a success").retry, Retry::Never, "what is refused for good is not tried again");
    }

    #[test]
    fn headers_that_frame_route_or_are_ours_cannot_be_set() {
        for good in ["X-Api-Key", "authorization", "api_key", "Cookie"] {
            assert!(header_name(good).is_ok(), "{good}");
        }
        let bad = [
            "",
            "Host",
            "content-LENGTH",
            "Transfer-Encoding",
            "Connection",
            "webhook-id",
            "Webhook-Signature",
            "Datasink-Stream",
            "Idempotency-Key",
            "x y",
            "x:y",
            "x\r\ny",
            "x\ny: z",
            "x\0",
            "é",
            ":authority",
            "Content-Type",
            "Proxy-Authorization",
            "Expect",
            "TE",
            "Trailer",
            "Upgrade",
        ];
        for name in bad {
            assert!(header_name(name).is_err(), "{name:?}");
        }
        assert!(header_name(&"x".repeat(65)).is_err());
    }

    #[test]
    fn values_cannot_begin_another_header() {
        for bad in ["", "a\r\nHost: evil", "a\nb", "a\rb", "a\0b", " a", "a ", "a\tb", "ü", "a\u{7f}"] {
            assert!(secret_value(bad.as_bytes()).is_err(), "{bad:?}");
        }
        assert!(secret_value(b"Token a b").expect("a value").is_sensitive());
        for bad in ["a b", "a\r\nb", "ü", "a\tb"] {
            assert!(bearer(&Secret::from(bad.to_owned())).is_err(), "{bad:?}");
        }
        assert!(basic("a:b", &Secret::from("x".to_owned())).is_err());
        assert!(basic("a\r\nb", &Secret::from("x".to_owned())).is_err());
        assert_eq!(basic("Aladdin", &Secret::from("open sesame".to_owned())).expect("a value"), "Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ==");
    }
}
