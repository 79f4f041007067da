//! Why: who we are at Google: a service account whose key signs for it, or the identity of this host. Never lets a key file say where requests or tokens go.

use std::{fmt, sync::Arc, time::Duration};

use async_trait::async_trait;
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use http::{HeaderMap, HeaderValue, Method, header};
use object_store::{CredentialProvider, gcp::GcpCredential};
use rustls::{
    SignatureScheme,
    crypto::ring::sign::any_supported_type,
    pki_types::{PrivateKeyDer, pem::PemObject},
    sign::SigningKey,
};
use serde::Deserialize;
use url::Url;
use zeroize::Zeroizing;

use super::options::Place;
use crate::{
    clock::Ambient,
    connectors::{
        connector::{ConnectContext, SinkKind},
        credential::{CredentialType, OpenCredential},
        error::{ConnectorError, ConnectorErrorKind as Kind},
        object::{Issued, Renewing, TokenService, TokenSource, managed, named_file, pair, refused, secret_text},
    },
    secret::Secret,
};

const SCOPE: &str = "https://www.googleapis.com/auth/devstorage.read_write";
/// Google's own: the `token_uri` of a key file is not asked, for it would be told a signed assertion wherever it points.
const TOKEN_URL: &str = "https://oauth2.googleapis.com/token";
const METADATA_HOST: &str = "metadata.google.internal";
const METADATA_PATH: &str = "/computeMetadata/v1/instance/service-accounts/default/token";
const LIFE: Duration = Duration::from_secs(3600);

type Provider = Arc<dyn CredentialProvider<Credential = GcpCredential>>;

/// A service account and the key that signs for it.
pub(super) struct Key {
    email: String,
    /// Which of its keys; a key file says so.
    id: Option<String>,
    signer: Arc<dyn SigningKey>,
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Key").field(&self.email).finish()
    }
}

/// What is read of a key file. Its URLs are not.
#[derive(Deserialize)]
struct KeyFile {
    #[serde(rename = "type")]
    kind: String,
    client_email: String,
    private_key: String,
    #[serde(default)]
    private_key_id: String,
}

impl Key {
    /// From a key file's JSON text. The fault names what is wrong and repeats nothing.
    pub(super) fn of_json(text: &str) -> Result<Self, &'static str> {
        let file: KeyFile = serde_json::from_str(text).map_err(|_| "it is JSON with the texts type, client_email, private_key and private_key_id")?;
        if file.kind != "service_account" {
            return Err("its type is not service_account; other identities are for people, or would fetch from wherever they say");
        }
        let pem = Zeroizing::new(file.private_key);
        Self::of_pem(&file.client_email, Some(file.private_key_id).filter(|id| !id.is_empty()), &pem)
    }

    fn of_pem(email: &str, id: Option<String>, pem: &str) -> Result<Self, &'static str> {
        if !email.contains('@') || !email.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err("its client_email is no e-mail address");
        }
        let der =
            PrivateKeyDer::from_pem_slice(pem.as_bytes()).map_err(|_| "its private_key is not PEM text (\"-----BEGIN PRIVATE KEY-----\", with line breaks)")?;
        let signer = any_supported_type(&der).map_err(|_| "its private_key cannot be used")?;
        if signer.choose_scheme(&[SignatureScheme::RSA_PKCS1_SHA256]).is_none() {
            return Err("its private_key is not an RSA key");
        }
        Ok(Self { email: email.to_owned(), id, signer })
    }

    /// A JSON Web Token with `claims`, signed.
    fn sign(&self, claims: &serde_json::Value) -> Option<String> {
        let mut head = serde_json::json!({"alg": "RS256", "typ": "JWT"});
        if let Some(id) = &self.id {
            head["kid"] = id.as_str().into();
        }
        let message = format!("{}.{}", URL_SAFE_NO_PAD.encode(head.to_string()), URL_SAFE_NO_PAD.encode(claims.to_string()));
        let signature = self.signer.choose_scheme(&[SignatureScheme::RSA_PKCS1_SHA256])?.sign(message.as_bytes()).ok()?;
        Some(format!("{message}.{}", URL_SAFE_NO_PAD.encode(signature)))
    }
}

/// What signs for the sink; `None` where nobody does. Makes no request.
pub(super) fn provider(cx: &ConnectContext, place: &Place) -> Result<Option<Provider>, ConnectorError> {
    let key = match (&cx.credential, &place.key) {
        (Some(credential), _) => of_credential(credential)?,
        (None, Some(text)) => Key::of_json(text).map_err(refused)?,
        (None, None) if place.managed => return of_this_host(cx).map(Some),
        (None, None) => return Ok(None),
    };
    of_key(cx, key).map(Some)
}

fn of_key(cx: &ConnectContext, key: Key) -> Result<Provider, ConnectorError> {
    let ambient = cx.ambient.clone();
    if key.id.is_some() {
        return Ok(Arc::new(Renewing::new(SelfSigned { key, ambient })));
    }
    let url = Url::parse(TOKEN_URL).map_err(|_| ConnectorError::new(Kind::Internal, "Google's token service has no URL"))?;
    let service = TokenService::on_the_net(cx, SinkKind::Gcs, &url, "Google's token service")?;
    Ok(Arc::new(Renewing::new(Exchanged { key, service, ambient })))
}

fn of_credential(credential: &OpenCredential) -> Result<Key, ConnectorError> {
    if credential.credential_type == CredentialType::GcsServiceAccountId {
        let (email, pem) = pair(credential, "the service account's e-mail address", "its private key as PEM text")?;
        return Key::of_pem(&email, None, &Zeroizing::new(pem)).map_err(refused);
    }
    let in_option = credential.secret_options.get("gcs_service_account_keys").and_then(Secret::expose_text);
    let text = match in_option {
        Some(text) => Zeroizing::new(text.to_owned()),
        None => Zeroizing::new(secret_text(
            credential,
            "the service account's key file as JSON text (the option gcs_service_account_keys is another place for it)",
        )?),
    };
    Key::of_json(&text).map_err(refused)
}

/// The order of Google's own libraries, without a person's login: a key file that the environment names, then the metadata service.
fn of_this_host(cx: &ConnectContext) -> Result<Provider, ConnectorError> {
    let cloud = managed(cx)?;
    if let Some(file) = cloud.variable("GOOGLE_APPLICATION_CREDENTIALS") {
        return Ok(Arc::new(Renewing::new(Named { file: file.to_owned(), ambient: cx.ambient.clone() })));
    }
    let host = cloud.variable("GCE_METADATA_HOST").unwrap_or(METADATA_HOST);
    let service = TokenService::of_this_host(cx, SinkKind::Gcs, &format!("http://{host}{METADATA_PATH}"), "Google's metadata service")?;
    Ok(Arc::new(Renewing::new(Metadata { service })))
}

/// A token that the key signs itself: Google takes it from a key that it can name.
#[derive(Debug)]
struct SelfSigned {
    key: Key,
    ambient: Ambient,
}

#[async_trait]
impl TokenSource for SelfSigned {
    type Credential = GcpCredential;

    async fn fetch(&self) -> Result<Issued<GcpCredential>, ConnectorError> {
        self_signed(&self.key, &self.ambient)
    }
}

fn self_signed(key: &Key, ambient: &Ambient) -> Result<Issued<GcpCredential>, ConnectorError> {
    let now = ambient.now().micros().div_euclid(1_000_000);
    let claims = serde_json::json!({"iss": key.email, "sub": key.email, "scope": SCOPE, "iat": now, "exp": now.saturating_add(LIFE.as_secs() as i64)});
    let bearer = key.sign(&claims).ok_or_else(|| ConnectorError::new(Kind::Internal, "the service account's key does not sign"))?;
    Ok(Issued { credential: GcpCredential { bearer }, life: LIFE })
}

/// The key file that the environment names, read anew each time.
#[derive(Debug)]
struct Named {
    file: String,
    ambient: Ambient,
}

#[async_trait]
impl TokenSource for Named {
    type Credential = GcpCredential;

    async fn fetch(&self) -> Result<Issued<GcpCredential>, ConnectorError> {
        let text = Zeroizing::new(named_file("GOOGLE_APPLICATION_CREDENTIALS", &self.file).await?);
        let key = Key::of_json(&text).map_err(|fault| {
            ConnectorError::new(Kind::Misconfigured, format!("the file that GOOGLE_APPLICATION_CREDENTIALS names is not a service account's key file: {fault}"))
        })?;
        self_signed(&key, &self.ambient)
    }
}

/// A token for an assertion that the key signed: which of the account's keys it is, Google finds out.
#[derive(Debug)]
struct Exchanged {
    key: Key,
    service: TokenService,
    ambient: Ambient,
}

#[async_trait]
impl TokenSource for Exchanged {
    type Credential = GcpCredential;

    async fn fetch(&self) -> Result<Issued<GcpCredential>, ConnectorError> {
        let now = self.ambient.now().micros().div_euclid(1_000_000);
        let claims = serde_json::json!({"iss": self.key.email, "scope": SCOPE, "aud": TOKEN_URL, "iat": now, "exp": now.saturating_add(LIFE.as_secs() as i64)});
        let assertion = self.key.sign(&claims).ok_or_else(|| ConnectorError::new(Kind::Internal, "the service account's key does not sign"))?;
        let grant = "urn:ietf:params:oauth:grant-type:jwt-bearer";
        let body = url::form_urlencoded::Serializer::new(String::new()).append_pair("grant_type", grant).append_pair("assertion", &assertion).finish();
        let headers = HeaderMap::from_iter([(header::CONTENT_TYPE, HeaderValue::from_static("application/x-www-form-urlencoded"))]);
        of_json(&self.service.ask(Method::POST, headers, body).await?, &self.service)
    }
}

/// The service account of this virtual machine.
#[derive(Debug)]
struct Metadata {
    service: TokenService,
}

#[async_trait]
impl TokenSource for Metadata {
    type Credential = GcpCredential;

    async fn fetch(&self) -> Result<Issued<GcpCredential>, ConnectorError> {
        let headers = HeaderMap::from_iter([(header::HeaderName::from_static("metadata-flavor"), HeaderValue::from_static("Google"))]);
        of_json(&self.service.ask(Method::GET, headers, "").await?, &self.service)
    }
}

#[derive(Deserialize)]
struct Token {
    access_token: String,
    expires_in: u64,
}

fn of_json(body: &[u8], service: &TokenService) -> Result<Issued<GcpCredential>, ConnectorError> {
    let token: Option<Token> = serde_json::from_slice(body).ok();
    // It becomes a header.
    let token = token.filter(|token| !token.access_token.is_empty() && token.access_token.bytes().all(|byte| byte.is_ascii_graphic()));
    let token = token.ok_or_else(|| service.nonsense())?;
    Ok(Issued { credential: GcpCredential { bearer: token.access_token }, life: Duration::from_secs(token.expires_in) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::connectors::object::testing::{Canned, answer, context};

    #[tokio::test]
    async fn a_key_without_a_name_is_exchanged_for_a_token() {
        let google = Canned::start(|_| answer("200 OK", "", r#"{"access_token":"t0ken","expires_in":3599,"token_type":"Bearer"}"#)).await;
        let cx = context(b"", false, &[]);
        let url = Url::parse(&format!("http://{}/token", google.address)).expect("a URL");
        let service = TokenService::on_the_net(&cx, SinkKind::Gcs, &url, "Google's token service").expect("a client");
        let key = Key::of_pem("a@b.iam.gserviceaccount.com", None, include_str!("key_for_tests.pem")).expect("a key");
        let issued = Exchanged { key, service, ambient: cx.ambient.clone() }.fetch().await.expect("a token");
        assert_eq!((issued.credential.bearer.as_str(), issued.life), ("t0ken", Duration::from_secs(3599)));
        let seen = google.seen();
        assert_eq!((seen.len(), seen[0].line(), seen[0].header("content-type")), (1, "POST /token", "application/x-www-form-urlencoded"));
        let form: std::collections::BTreeMap<_, _> = url::form_urlencoded::parse(&seen[0].body).into_owned().collect();
        assert_eq!(form["grant_type"], "urn:ietf:params:oauth:grant-type:jwt-bearer");
        let claims: serde_json::Value =
            serde_json::from_slice(&URL_SAFE_NO_PAD.decode(form["assertion"].split('.').nth(1).expect("three parts")).expect("base64")).expect("JSON");
        assert_eq!((&claims["iss"], &claims["aud"], &claims["scope"]), (&"a@b.iam.gserviceaccount.com".into(), &TOKEN_URL.into(), &SCOPE.into()));
        assert_eq!(claims["exp"].as_i64().zip(claims["iat"].as_i64()).map(|(end, begin)| end - begin), Some(3600));
    }
}
