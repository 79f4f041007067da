//! Why: says step by step what stands between this service and a receiver. Never posts anything unless a write was asked for.

use bytes::Bytes;
use http::{HeaderMap, HeaderValue};
use url::Url;

use super::receiver::Receiver;
use crate::connectors::{
    connector::{ConnectContext, Probe, SinkKind},
    error::ConnectorError,
    messages::{Cut, JsonFormat},
    steps::Steps,
};

const STEPS: [&str; 7] = ["configuration", "credential", "resolve", "connect", "tls", "authenticate", "write"];

/// Tries the steps one by one; those after a failed one are skipped, and so is whatever only a request could tell unless `write`.
pub(super) async fn probe(url: &Url, shown: &str, cut: Cut, cx: &ConnectContext, write: bool) -> Probe {
    let mut steps = Steps::new();
    let receiver = walk(&mut steps, url, shown, cx).await;
    if let Some(receiver) = receiver.filter(|_| write) {
        // A webhook has no way to ask who one is but the request itself.
        steps.skipped("authenticate");
        let id = format!("msg_{}", cx.ambient.ids.uuid().simple());
        let headers = HeaderMap::from_iter([(http::HeaderName::from_static("datasink-probe"), HeaderValue::from_static("1"))]);
        let body = Bytes::from_static(if cut.format == JsonFormat::Flat { b"{}" } else { b"[]" });
        let result = receiver.post(&id, headers, body).await;
        steps.tried("write", result, |status| vec![("http_status".to_owned(), status.as_u16().to_string()), ("webhook_id".to_owned(), id)]);
    }
    Probe { steps: steps.end(&STEPS), checked: cx.ambient.now() }
}

/// Everything up to TLS; `None` once a step has failed.
async fn walk(steps: &mut Steps, url: &Url, shown: &str, cx: &ConnectContext) -> Option<Receiver> {
    let (host, port) = (url.host_str().unwrap_or_default(), url.port_or_known_default().unwrap_or(0));
    let allowed = match url.host() {
        Some(host) => cx.egress.check_host(&host, port, SinkKind::Webhook).map_err(ConnectorError::from),
        None => Ok(()),
    };
    steps.tried("configuration", allowed, |()| Vec::new())?;
    let receiver = steps.tried("credential", Receiver::new(url, shown, cx), |_| Vec::new())?;
    let addresses = cx.egress.resolve(host, port, SinkKind::Webhook).await.map_err(ConnectorError::from);
    let addresses = steps.tried("resolve", addresses, |found| vec![("addresses".to_owned(), found.len().to_string())])?;
    let stream = cx.egress.connect(host, &addresses, cx.connection_timeout).await.map_err(ConnectorError::from);
    let stream = steps.tried("connect", stream, |stream| stream.peer_addr().map(|peer| ("address".to_owned(), peer.to_string())).into_iter().collect())?;
    if url.scheme() == "http" {
        steps.skipped("tls");
        return Some(receiver);
    }
    let stream = cx.egress.handshake(host, stream, cx.connection_timeout).await.map_err(ConnectorError::from);
    steps.tried("tls", stream, |stream| {
        let version = stream.get_ref().1.protocol_version().and_then(|version| version.as_str());
        version.map(|version| ("version".to_owned(), version.to_owned())).into_iter().collect()
    })?;
    Some(receiver)
}
