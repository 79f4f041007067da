//! Why: OAUTHBEARER wants a token again and again: a given one, or one fetched with client credentials through the address filter. Never logs a token, and never shows a token endpoint's answer.

use std::{fmt, sync::Mutex, time::Duration};

use base64::{
    Engine,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};
use http::{HeaderValue, Method, StatusCode, header};
use rdkafka::client::OAuthToken;
use serde::Deserialize;
use tokio::runtime::Handle;
use url::{Url, form_urlencoded};
use zeroize::Zeroizing;

use crate::{
    clock::{Ambient, Timestamp},
    connectors::{
        connector::{ConnectContext, SinkKind},
        egress::{HttpClient, HttpOptions},
        error::{ConnectorError, ConnectorErrorKind as Kind},
    },
    limits,
    secret::Secret,
};

/// How long a token is taken to be good that does not say so itself.
const LIFE_DEFAULT: Duration = Duration::from_secs(3600);

/// Where tokens come from.
pub(super) struct TokenSource {
    grant: Grant,
    principal: String,
    ambient: Ambient,
    /// The library asks on threads of its own.
    runtime: Handle,
    kept: Mutex<Option<Token>>,
}

enum Grant {
    Given(Secret),
    Fetched(Endpoint),
}

struct Endpoint {
    client: HttpClient,
    url: Url,
    authorization: HeaderValue,
    form: String,
}

struct Token {
    text: Secret,
    since: Timestamp,
    until: Timestamp,
}

impl fmt::Debug for TokenSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let from = match &self.grant {
            Grant::Given(_) => "the credential",
            Grant::Fetched(endpoint) => endpoint.url.as_str(),
        };
        write!(f, "TokenSource({from})")
    }
}

/// An answer of a token endpoint.
#[derive(Deserialize)]
struct Answer {
    access_token: String,
    expires_in: Option<u64>,
}

impl TokenSource {
    /// A token that the credential holds.
    pub(super) fn given(cx: &ConnectContext, principal: Option<&str>, token: &Secret) -> Result<Self, String> {
        let token = token.expose_text().filter(|text| text.bytes().all(|b| b.is_ascii_graphic())).ok_or("a token has only visible ASCII characters")?;
        Ok(Self::new(cx, Grant::Given(Secret::from(token.to_owned())), principal.unwrap_or("datasink")))
    }

    /// Tokens fetched with client credentials (RFC 6749 §4.4).
    pub(super) fn fetched(cx: &ConnectContext, url: &str, id: &str, secret: &Secret, scope: Option<&str>) -> Result<Self, String> {
        let url = Url::parse(url).map_err(|fault| format!("sasl.oauthbearer.token.endpoint.url is not a URL: {fault}"))?;
        if !matches!(url.scheme(), "https" | "http") || !url.username().is_empty() || url.password().is_some() || url.fragment().is_some() {
            return Err("sasl.oauthbearer.token.endpoint.url must be written https://host[:port]/path, without a user".to_owned());
        }
        let encoded = |text: &str| form_urlencoded::byte_serialize(text.as_bytes()).collect::<String>();
        let secret = secret.expose_text().ok_or("sasl.oauthbearer.client.secret is not text")?;
        let pair = Zeroizing::new(format!("{}:{}", encoded(id), encoded(secret)));
        let basic = Zeroizing::new(format!("Basic {}", STANDARD.encode(pair.as_bytes())));
        let mut authorization = HeaderValue::from_str(&basic).map_err(|_| "sasl.oauthbearer.client.id cannot be sent")?;
        authorization.set_sensitive(true);
        let mut form = form_urlencoded::Serializer::new("grant_type=client_credentials".to_owned());
        if let Some(scope) = scope {
            form.append_pair("scope", scope);
        }
        let options = HttpOptions {
            kind: SinkKind::Kafka,
            port: url.port_or_known_default().unwrap_or(0),
            connect_timeout: cx.connection_timeout,
            exchange_timeout: cx.connection_timeout.saturating_add(cx.reply_timeout),
            // The client's secret does not go over a network in the clear.
            loopback_only: url.scheme() == "http",
        };
        let client = HttpClient::new(&cx.egress, options).map_err(|fault| fault.to_string())?;
        Ok(Self::new(cx, Grant::Fetched(Endpoint { client, url, authorization, form: form.finish() }), id))
    }

    fn new(cx: &ConnectContext, grant: Grant, principal: &str) -> Self {
        Self { grant, principal: principal.to_owned(), ambient: cx.ambient.clone(), runtime: Handle::current(), kept: Mutex::default() }
    }

    /// Makes sure that there is a token with at least half of its life before it.
    pub(super) async fn ready(&self) -> Result<(), ConnectorError> {
        if self.with_kept(|_| ()).is_some() {
            return Ok(());
        }
        let token = match &self.grant {
            Grant::Given(token) => self.given_token(token)?,
            Grant::Fetched(endpoint) => endpoint.fetch(self.ambient.now()).await?,
        };
        *self.kept.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = Some(token);
        Ok(())
    }

    /// The token for the library, fetched if need be. Blocks; never called on the runtime.
    pub(super) fn next(&self) -> Result<OAuthToken, ConnectorError> {
        self.runtime.block_on(self.ready())?;
        let token = self.with_kept(|token| OAuthToken {
            token: token.text.expose_text().unwrap_or_default().to_owned(),
            principal_name: self.principal.clone(),
            lifetime_ms: token.until.micros() / 1_000,
        });
        token.ok_or_else(|| ConnectorError::new(Kind::Unauthenticated, "the token has expired; alter the credential"))
    }

    /// Looks at the kept token, if it is still good. A given one is as good as it gets until it expires.
    fn with_kept<T>(&self, look: impl FnOnce(&Token) -> T) -> Option<T> {
        let kept = self.kept.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let token = kept.as_ref()?;
        let (life, left) = (token.until.since(token.since), token.until.since(self.ambient.now()));
        let wanted = if matches!(self.grant, Grant::Given(_)) { Duration::ZERO } else { life / 2 };
        (left > wanted).then(|| look(token))
    }

    fn given_token(&self, token: &Secret) -> Result<Token, ConnectorError> {
        let now = self.ambient.now();
        let text = token.expose_text().unwrap_or_default();
        let until = expiry(text).unwrap_or_else(|| now.plus(LIFE_DEFAULT));
        if until <= now {
            return Err(ConnectorError::new(Kind::Unauthenticated, format!("the credential's OAUTHBEARER token expired at {until}; alter the credential")));
        }
        Ok(Token { text: Secret::from(text.to_owned()), since: now, until })
    }
}

/// When a token says that it expires, if it is a JWT. Nothing is verified: the brokers do that.
fn expiry(token: &str) -> Option<Timestamp> {
    #[derive(Deserialize)]
    struct Claims {
        exp: f64,
    }
    let claims = URL_SAFE_NO_PAD.decode(token.split('.').nth(1)?).ok()?;
    let claims: Claims = serde_json::from_slice(&claims).ok()?;
    (claims.exp.is_finite() && claims.exp > 0.0).then(|| Timestamp::from_micros((claims.exp * 1e6) as i64))
}

impl Endpoint {
    async fn fetch(&self, now: Timestamp) -> Result<Token, ConnectorError> {
        let url = &self.url;
        let request = self
            .client
            .request(Method::POST, url)?
            .header(header::AUTHORIZATION, self.authorization.clone())
            .header(header::CONTENT_TYPE, "application/x-www-form-urlencoded")
            .header(header::ACCEPT, "application/json")
            .body(self.form.clone());
        let unreachable =
            |what: &str| ConnectorError::new(Kind::Unreachable, format!("the token endpoint {url} {what}; check that it is up and reachable from here"));
        let mut reply = request.send().await.map_err(|_| unreachable("cannot be reached"))?;
        match reply.status() {
            StatusCode::OK => {}
            status @ (StatusCode::TOO_MANY_REQUESTS | StatusCode::REQUEST_TIMEOUT) => return Err(unreachable(&format!("answered {status}"))),
            status if status.is_server_error() => return Err(unreachable(&format!("answered {status}"))),
            status => {
                let message = format!("the token endpoint {url} answered {status}; check the credential's client id, client secret and scope");
                return Err(ConnectorError::new(Kind::Unauthenticated, message));
            }
        }
        let mut body = Zeroizing::new(Vec::new());
        while let Some(chunk) = reply.chunk().await.map_err(|_| unreachable("broke off its answer"))? {
            body.extend_from_slice(&chunk);
            if body.len() > limits::REPLY_BYTES_MAX {
                return Err(unreachable("gave too long an answer"));
            }
        }
        let answer: Answer = serde_json::from_slice(&body).map_err(|_| {
            ConnectorError::new(Kind::Unauthenticated, format!("the token endpoint {url} answered without an access_token; check that it is one"))
        })?;
        let until = answer.expires_in.map(|seconds| now.plus(Duration::from_secs(seconds))).or_else(|| expiry(&answer.access_token));
        Ok(Token { text: Secret::from(answer.access_token), since: now, until: until.unwrap_or_else(|| now.plus(LIFE_DEFAULT)) })
    }
}

#[cfg(test)]
mod tests {
    use axum::{Router, http::HeaderMap, routing::post};

    use super::*;
    use crate::connectors::kafka::tests::context;

    #[test]
    fn a_token_may_say_when_it_expires() {
        let token = format!("e30.{}.sig", URL_SAFE_NO_PAD.encode(r#"{"sub":"me","exp":1767225600}"#));
        assert_eq!(expiry(&token), Some(Timestamp::from_micros(1_767_225_600_000_000)));
        assert_eq!(expiry("opaque"), None);
        assert_eq!(expiry("a.b.c"), None);
    }

    #[tokio::test]
    async fn an_expired_token_is_refused_before_any_broker_sees_it() {
        let token = format!("e30.{}.sig", URL_SAFE_NO_PAD.encode(r#"{"exp":1}"#));
        let source = TokenSource::given(&context(None), None, &Secret::from(token.clone())).unwrap();
        let refused = source.ready().await.unwrap_err();
        assert_eq!(refused.kind, Kind::Unauthenticated);
        assert!(!refused.message.contains(&token));
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn tokens_are_fetched_with_client_credentials() {
        let answer = |headers: HeaderMap, body: String| async move {
            let authorized = headers.get("authorization").is_some_and(|value| value == "Basic aWQ6czNjcjN0");
            match authorized && body == "grant_type=client_credentials&scope=a+b" {
                true => (StatusCode::OK, r#"{"access_token":"t0k3n","token_type":"Bearer","expires_in":300}"#),
                false => (StatusCode::UNAUTHORIZED, r#"{"error":"canary"}"#),
            }
        };
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/token", listener.local_addr().unwrap());
        #[expect(clippy::disallowed_methods, reason = "the test's own server")]
        let server = tokio::spawn(async move { axum::serve(listener, Router::new().route("/token", post(answer))).await });
        let source = |secret: &str| TokenSource::fetched(&context(None), &url, "id", &Secret::from(secret.to_owned()), Some("a b")).unwrap();
        let right = std::sync::Arc::new(source("s3cr3t"));
        let token = tokio::task::spawn_blocking({
            let right = right.clone();
            move || right.next()
        });
        let token = token.await.unwrap().unwrap();
        assert_eq!((token.token.as_str(), token.principal_name.as_str()), ("t0k3n", "id"));
        let refused = source("wrong").ready().await.unwrap_err();
        assert_eq!(refused.kind, Kind::Unauthenticated);
        assert!(!refused.message.contains("canary") && !refused.message.contains("wrong"), "{}", refused.message);
        server.abort();
    }
}
