//! Why: who is calling is found in one order, and only a neighbour we trust may speak for another. Never judges an identity: that is the domain's.

use std::net::IpAddr;

use base64::Engine;
use http::HeaderMap;
use ipnet::IpNet;

use super::listener::Peer;
use crate::{
    domain::Presented,
    limits,
    problem::{Problem, Reason},
    secret::Secret,
};

const FORWARDED: &str = "x-forwarded-client-cert";
const LINKERD: &str = "l5d-client-id";
const AUTHORIZATION: &str = "authorization";
/// The longest forwarded header that is read, in bytes.
const FORWARDED_BYTES_MAX: usize = 16 << 10;
/// The longest `authorization` value, in bytes: a password and a user, in base64.
const AUTHORIZATION_BYTES_MAX: usize = 4 << 10;

/// A neighbour whose word about the caller counts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TrustedProxy {
    /// One that proves this identity by its own certificate.
    Identity(String),
    /// One in this network: only where the network itself keeps others out, as between a pod and its sidecar.
    Network(IpNet),
    /// Any on our Unix socket: its file's rights keep others out.
    UnixSocket,
}

impl TrustedProxy {
    /// `unix`, a network or address, or the identity of a certificate (a SPIFFE id or a subject).
    pub fn parse(text: &str) -> Result<Self, String> {
        if text == "unix" {
            return Ok(Self::UnixSocket);
        }
        if let Ok(network) = text.parse::<IpNet>() {
            return Ok(Self::Network(network));
        }
        if let Ok(address) = text.parse::<IpAddr>() {
            return Ok(Self::Network(address.into()));
        }
        if text.starts_with("spiffe://") || text.contains('=') {
            return Ok(Self::Identity(text.to_owned()));
        }
        Err(format!("{text:?} is not a trusted proxy: write unix, an address, a network (10.0.0.0/8), a SPIFFE id or a certificate's subject"))
    }

    fn is(&self, peer: &Peer) -> bool {
        match self {
            Self::Identity(identity) => peer.certificate.as_deref() == Some(identity.as_str()),
            // A dual-stack socket shows IPv4 neighbours in IPv6 clothes.
            Self::Network(network) => peer.address.is_some_and(|address| network.contains(&address.ip().to_canonical())),
            Self::UnixSocket => peer.address.is_none(),
        }
    }
}

/// Everything a caller presents, the best first: a trusted neighbour's word about it, else its own certificate; then `authorization`.
pub fn presented(peer: &Peer, headers: &HeaderMap, trusted: &[TrustedProxy]) -> Result<Vec<Presented>, Problem> {
    let mut found = Vec::new();
    if trusted.iter().any(|proxy| proxy.is(peer)) {
        found.extend(forwarded(headers)?);
    } else if headers.contains_key(FORWARDED) || headers.contains_key(LINKERD) {
        metrics::counter!("datasink_forwarded_identities_ignored_total").increment(1);
    }
    // A trusted proxy's own certificate says who the proxy is; it stands for a caller only where the proxy names none.
    if found.is_empty()
        && let Some(identity) = &peer.certificate
    {
        found.push(Presented::Certificate(identity.to_string()));
    }
    found.extend(authorization(headers)?);
    if found.is_empty() {
        found.push(Presented::Nothing);
    }
    Ok(found)
}

fn refused(scheme: &'static str, sentence: &str) -> Problem {
    Problem::new(Reason::Unauthenticated, sentence).with("scheme", scheme)
}

fn forwarded(headers: &HeaderMap) -> Result<Option<Presented>, Problem> {
    // Our neighbour adds at the end: the last line, and of it the last element. All before are claims of others.
    if let Some(value) = headers.get_all(FORWARDED).iter().next_back() {
        let text = value.to_str().ok().filter(|text| text.len() <= FORWARDED_BYTES_MAX);
        let text = text.ok_or_else(|| refused("x-forwarded-client-cert", "the header x-forwarded-client-cert is not text or is longer than 16 KiB"))?;
        return match certificate_of(text) {
            Ok(identity) => Ok(identity.map(Presented::Forwarded)),
            Err(fault) => Err(refused("x-forwarded-client-cert", fault)),
        };
    }
    let mut ids = headers.get_all(LINKERD).iter();
    match (ids.next(), ids.next()) {
        (None, _) => Ok(None),
        (Some(value), None) => {
            let text = value.to_str().ok().filter(|text| !text.is_empty() && text.len() <= limits::IDENTITY_BYTES_MAX);
            let text = text.ok_or_else(|| refused("l5d-client-id", "the header l5d-client-id is empty, too long or not text"))?;
            Ok(Some(Presented::Linkerd(text.to_owned())))
        }
        (Some(_), Some(_)) => Err(refused("l5d-client-id", "the header l5d-client-id came twice")),
    }
}

/// The identity in the last element of an `x-forwarded-client-cert` value: its URI, else its subject; `None` where it has neither.
fn certificate_of(text: &str) -> Result<Option<String>, &'static str> {
    let element = split_quoted(text, ',')?.pop().unwrap_or_default();
    let (mut uri, mut subject) = (None, None);
    for pair in split_quoted(&element, ';')? {
        let Some((key, value)) = pair.split_once('=') else {
            if pair.trim().is_empty() {
                continue;
            }
            return Err("an x-forwarded-client-cert element has a part without \"=\"");
        };
        let slot = match key.trim().to_ascii_lowercase().as_str() {
            "uri" => &mut uri,
            "subject" => &mut subject,
            _ => continue,
        };
        if slot.replace(unquoted(value.trim())).is_some() {
            return Err("an x-forwarded-client-cert element names its URI or subject twice");
        }
    }
    let identity = uri.filter(|uri| !uri.is_empty()).or(subject.filter(|subject| !subject.is_empty()));
    match identity {
        Some(identity) if identity.len() > limits::IDENTITY_BYTES_MAX => Err("the identity in x-forwarded-client-cert is longer than 512 bytes"),
        other => Ok(other),
    }
}

/// Splits at `separator` outside of quotes; a backslash in quotes takes the next character as it is. Keeps quotes and backslashes.
fn split_quoted(text: &str, separator: char) -> Result<Vec<String>, &'static str> {
    let (mut parts, mut part, mut quoted, mut escaped) = (Vec::new(), String::new(), false, false);
    for c in text.chars() {
        match c {
            _ if escaped => escaped = false,
            '\\' if quoted => escaped = true,
            '"' => quoted = !quoted,
            c if c == separator && !quoted => {
                parts.push(std::mem::take(&mut part));
                continue;
            }
            _ => {}
        }
        part.push(c);
    }
    if quoted {
        return Err("a quote in x-forwarded-client-cert is never closed");
    }
    parts.push(part);
    Ok(parts)
}

fn unquoted(value: &str) -> String {
    let Some(inner) = value.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')) else { return value.to_owned() };
    let (mut out, mut chars) = (String::with_capacity(inner.len()), inner.chars());
    while let Some(c) = chars.next() {
        // A backslash at the very end cannot happen: it would have escaped the closing quote.
        out.extend(if c == '\\' { chars.next() } else { Some(c) });
    }
    out
}

fn authorization(headers: &HeaderMap) -> Result<Option<Presented>, Problem> {
    let mut values = headers.get_all(AUTHORIZATION).iter();
    let Some(value) = values.next() else { return Ok(None) };
    if values.next().is_some() {
        return Err(refused("authorization", "the header authorization came twice; send one"));
    }
    let text = value.to_str().ok().filter(|text| text.len() <= AUTHORIZATION_BYTES_MAX);
    let text = text.ok_or_else(|| refused("authorization", "the header authorization is not text or is too long"))?;
    match text.split_once(' ') {
        Some((scheme, token)) if scheme.eq_ignore_ascii_case("bearer") => Ok(Some(Presented::Bearer(Secret::from(token.trim().to_owned())))),
        Some((scheme, coded)) if scheme.eq_ignore_ascii_case("basic") => basic(coded.trim()).map(Some),
        _ => {
            Err(refused("authorization", "the header authorization has a scheme that is not taken; send Bearer with a token, or Basic with user and password"))
        }
    }
}

fn basic(coded: &str) -> Result<Presented, Problem> {
    let fault = || refused("basic", "authorization: Basic is not the base64 of user:password");
    let decoded = Secret::new(base64::engine::general_purpose::STANDARD.decode(coded).map_err(|_| fault())?);
    let (user, password) = decoded.expose_text().and_then(|text| text.split_once(':')).ok_or_else(fault)?;
    if password.len() > limits::PASSWORD_BYTES_MAX {
        return Err(refused("basic", "the password is longer than 1024 bytes"));
    }
    Ok(Presented::Basic { user: user.to_owned(), password: Secret::from(password.to_owned()) })
}

#[cfg(test)]
mod tests {
    use super::*;

    const PROXY: &str = "spiffe://mesh/proxy";
    const APP: &str = "spiffe://mesh/app";

    fn peer(address: &str, certificate: Option<&str>) -> Peer {
        Peer { address: Some(address.parse().unwrap()), certificate: certificate.map(Into::into) }
    }

    fn headers(lines: &[(&'static str, &str)]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in lines {
            map.append(*name, value.parse().unwrap());
        }
        map
    }

    fn told(peer: &Peer, lines: &[(&'static str, &str)]) -> String {
        let trusted = ["spiffe://mesh/proxy", "10.1.0.0/16", "unix"].map(|text| TrustedProxy::parse(text).unwrap());
        match presented(peer, &headers(lines), &trusted) {
            Ok(found) => match &found[0] {
                Presented::Nothing => "nothing".to_owned(),
                Presented::Certificate(identity) => format!("certificate {identity}"),
                Presented::Forwarded(identity) => format!("forwarded {identity}"),
                Presented::Linkerd(identity) => format!("linkerd {identity}"),
                Presented::Bearer(_) => "bearer".to_owned(),
                Presented::Basic { user, .. } => format!("basic {user}"),
            },
            Err(problem) => {
                assert_eq!(problem.reason, Reason::Unauthenticated);
                "refused".to_owned()
            }
        }
    }

    #[test]
    fn who_speaks_for_whom() {
        let xfcc = FORWARDED;
        let stranger = peer("192.0.2.7:1", None);
        let neighbour = peer("10.1.2.3:1", None);
        let mapped = peer("[::ffff:10.1.2.3]:1", None);
        let proxy = peer("192.0.2.8:1", Some(PROXY));
        let client = peer("192.0.2.9:1", Some(APP));
        let unix = Peer { address: None, certificate: None };
        let uri = format!("By=spiffe://mesh/us;Hash=ab;URI={APP}");
        type Case<'a> = (&'a str, &'a Peer, &'a [(&'static str, &'a str)], String);
        let cases: &[Case<'_>] = &[
            ("nobody", &stranger, &[], "nothing".into()),
            ("forged by a stranger", &stranger, &[(xfcc, &uri)], "nothing".into()),
            ("forged Linkerd id", &stranger, &[(LINKERD, "app.ns.serviceaccount.identity.linkerd.cluster.local")], "nothing".into()),
            ("forged on loopback", &peer("127.0.0.1:1", None), &[(xfcc, &uri)], "nothing".into()),
            ("forged by a client with a certificate", &client, &[(xfcc, "URI=spiffe://mesh/admin")], format!("certificate {APP}")),
            ("a neighbour in a trusted network", &neighbour, &[(xfcc, &uri)], format!("forwarded {APP}")),
            ("the same, seen through a dual-stack socket", &mapped, &[(xfcc, &uri)], format!("forwarded {APP}")),
            ("a proxy with a trusted certificate", &proxy, &[(xfcc, &uri)], format!("forwarded {APP}")),
            ("a proxy that speaks for itself", &proxy, &[], format!("certificate {PROXY}")),
            ("only the last element counts", &neighbour, &[(xfcc, &format!("URI=spiffe://mesh/admin,{uri}"))], format!("forwarded {APP}")),
            ("only the last line counts", &neighbour, &[(xfcc, "URI=spiffe://mesh/admin"), (xfcc, &uri)], format!("forwarded {APP}")),
            ("quoted commas and semicolons", &neighbour, &[(xfcc, r#"Hash=1;Subject="CN=a\"b,O=x;y""#)], "forwarded CN=a\"b,O=x;y".into()),
            ("an open quote", &neighbour, &[(xfcc, "Subject=\"CN=a")], "refused".into()),
            ("two URIs", &neighbour, &[(xfcc, "URI=spiffe://a/b;URI=spiffe://a/c")], "refused".into()),
            ("no URI, no subject", &neighbour, &[(xfcc, "Hash=ab")], "nothing".into()),
            ("a sidecar on the Unix socket", &unix, &[(LINKERD, "app.ns")], "linkerd app.ns".into()),
            ("two Linkerd ids", &unix, &[(LINKERD, "a.ns"), (LINKERD, "b.ns")], "refused".into()),
            ("a token", &stranger, &[(AUTHORIZATION, "bearer dsk_1")], "bearer".into()),
            ("a password", &stranger, &[(AUTHORIZATION, "Basic YWRhOnBhc3M6d29yZA==")], "basic ada".into()),
            ("a password that is none", &stranger, &[(AUTHORIZATION, "Basic !!")], "refused".into()),
            ("an unknown scheme", &stranger, &[(AUTHORIZATION, "Digest x")], "refused".into()),
            ("two tokens", &stranger, &[(AUTHORIZATION, "Bearer a"), (AUTHORIZATION, "Bearer b")], "refused".into()),
            ("certificate before token", &client, &[(AUTHORIZATION, "Bearer a")], format!("certificate {APP}")),
        ];
        for (case, peer, lines, expected) in cases {
            assert_eq!(told(peer, lines), *expected, "{case}");
        }
    }

    #[test]
    fn a_trusted_proxy_is_written_in_four_ways() {
        assert_eq!(TrustedProxy::parse("unix"), Ok(TrustedProxy::UnixSocket));
        assert!(matches!(TrustedProxy::parse("10.0.0.1"), Ok(TrustedProxy::Network(_))));
        assert!(matches!(TrustedProxy::parse("CN=proxy"), Ok(TrustedProxy::Identity(_))));
        assert!(TrustedProxy::parse("everybody").is_err());
    }
}
