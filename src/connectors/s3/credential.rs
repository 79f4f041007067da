//! Why: who we are at S3: keys, a role assumed with them, or the identity of this host, in the order that AWS's own libraries look for it. Never reads a developer's own login, and never asks for an identity around the egress filter.

use std::{fmt, sync::Arc, time::Duration};

use async_trait::async_trait;
use http::{HeaderMap, HeaderValue, Method, header};
use object_store::{
    CredentialProvider, StaticCredentialProvider,
    aws::{AwsAuthorizer, AwsCredential},
    client::{HttpRequest, HttpRequestBody},
};
use serde::Deserialize;
use url::Url;

use super::options::Place;
use crate::{
    clock::Ambient,
    connectors::{
        connector::{ConnectContext, SinkKind},
        credential::{CredentialType, OpenCredential},
        egress::Cloud,
        error::{ConnectorError, ConnectorErrorKind as Kind},
        object::{Issued, Renewing, TokenService, TokenSource, life_until, managed, named_file, pair, refused},
    },
};

/// How long a session is asked for: what a role allows by default.
const SESSION_SECONDS: &str = "3600";
const STS_VERSION: &str = "2011-06-15";
const METADATA: &str = "http://169.254.169.254";
const CONTAINERS: &str = "http://169.254.170.2";

type Provider = Arc<dyn CredentialProvider<Credential = AwsCredential>>;

/// Who we are.
pub(super) struct Identity {
    /// What signs; absent where nothing does.
    pub(super) provider: Option<Provider>,
    /// Whether it can be asked for anew.
    pub(super) renewable: bool,
    /// Whether a session's token travels with each request.
    pub(super) has_token: bool,
}

impl Identity {
    /// Of the sink's credential, of this host, or nobody. Makes no request.
    pub(super) fn of(cx: &ConnectContext, place: &Place) -> Result<Self, ConnectorError> {
        let (base, of_credential) = match &cx.credential {
            None if place.managed => (of_this_host(cx, place)?, None),
            None => return Ok(Self { provider: None, renewable: false, has_token: false }),
            Some(credential) => (Self::fixed(keys(credential)?), role_of(credential)?),
        };
        let role = match (of_credential, place.role.clone()) {
            (Some(one), Some(other)) if one != other => {
                let message = "the sink and its credential name different roles; leave s3_aws_role_arn out of one of them";
                return Err(ConnectorError::new(Kind::Misconfigured, message));
            }
            (one, other) => one.or(other),
        };
        let Some(role) = role else { return Ok(base) };
        let (sts, Some(base)) = (token_service(cx, place)?, base.provider) else { return Err(refused("it has no keys")) };
        let source = AssumedRole { base, role, region: place.region.clone(), sts, ambient: cx.ambient.clone() };
        Ok(Self::renewing(source))
    }

    fn fixed(credential: AwsCredential) -> Self {
        let has_token = credential.token.is_some();
        Self { provider: Some(Arc::new(StaticCredentialProvider::new(credential))), renewable: false, has_token }
    }

    fn renewing(source: impl TokenSource<Credential = AwsCredential> + 'static) -> Self {
        Self { provider: Some(Arc::new(Renewing::new(source))), renewable: true, has_token: true }
    }
}

fn keys(credential: &OpenCredential) -> Result<AwsCredential, ConnectorError> {
    let (key_id, secret_key) = pair(credential, "the access key id", "the secret access key")?;
    Ok(AwsCredential { key_id, secret_key, token: None })
}

fn role_of(credential: &OpenCredential) -> Result<Option<String>, ConnectorError> {
    let role = credential.options.get("s3_aws_role_arn").cloned();
    if credential.credential_type == CredentialType::AwsIamRole && role.is_none() {
        return Err(refused("it has no option s3_aws_role_arn"));
    }
    Ok(role)
}

/// The order of AWS's own libraries: keys, web identity, container, instance.
fn of_this_host(cx: &ConnectContext, place: &Place) -> Result<Identity, ConnectorError> {
    let cloud = managed(cx)?;
    if let (Some(key_id), Some(secret_key)) = (cloud.variable("AWS_ACCESS_KEY_ID"), cloud.variable("AWS_SECRET_ACCESS_KEY")) {
        let token = cloud.variable("AWS_SESSION_TOKEN").map(str::to_owned);
        return Ok(Identity::fixed(AwsCredential { key_id: key_id.to_owned(), secret_key: secret_key.to_owned(), token }));
    }
    let ambient = cx.ambient.clone();
    if let (Some(file), Some(role)) = (cloud.variable("AWS_WEB_IDENTITY_TOKEN_FILE"), cloud.variable("AWS_ROLE_ARN")) {
        let source = WebIdentity { file: file.to_owned(), role: role.to_owned(), sts: token_service(cx, place)?, ambient };
        return Ok(Identity::renewing(source));
    }
    let relative = cloud.variable("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI").map(|path| format!("{CONTAINERS}{path}"));
    if let Some(url) = relative.or_else(|| cloud.variable("AWS_CONTAINER_CREDENTIALS_FULL_URI").map(str::to_owned)) {
        let service = TokenService::of_this_host(cx, SinkKind::S3, &url, "the container's credential service")?;
        let source = Container { service, authorization: Authorization::of(cloud), ambient };
        return Ok(Identity::renewing(source));
    }
    let url = cloud.variable("AWS_EC2_METADATA_SERVICE_ENDPOINT").unwrap_or(METADATA);
    let service = TokenService::of_this_host(cx, SinkKind::S3, url, "the instance's metadata service")?;
    Ok(Identity::renewing(Instance { service, ambient }))
}

/// Where roles are assumed: what the operator's environment says, Amazon's service of the region, or, for any other store, the store itself.
fn token_service(cx: &ConnectContext, place: &Place) -> Result<TokenService, ConnectorError> {
    let wrong = |fault: url::ParseError| ConnectorError::new(Kind::Misconfigured, format!("the token service has no URL: {fault}"));
    if let Some(url) = cx.egress.cloud().variable("AWS_ENDPOINT_URL_STS") {
        return TokenService::on_the_net(cx, SinkKind::S3, &Url::parse(url).map_err(wrong)?, "the AWS token service");
    }
    if place.is_amazon() {
        let url = Url::parse(&format!("https://sts.{}.{}/", place.region, place.domain())).map_err(wrong)?;
        return TokenService::on_the_net(cx, SinkKind::S3, &url, "the AWS token service");
    }
    let url = place.host().url(place.https, None, None).map_err(wrong)?;
    TokenService::on_the_net(cx, SinkKind::S3, &url, "the store's token service")
}

/// What a token service answers, in XML.
#[derive(Deserialize)]
struct StsAnswer {
    #[serde(rename = "AssumeRoleResult", alias = "AssumeRoleWithWebIdentityResult")]
    result: StsResult,
}

#[derive(Deserialize)]
struct StsResult {
    #[serde(rename = "Credentials")]
    credentials: Session,
}

/// The keys of a session.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Session {
    access_key_id: String,
    secret_access_key: String,
    #[serde(alias = "Token")]
    session_token: String,
    expiration: String,
}

impl Session {
    fn issued(self, ambient: &Ambient) -> Option<Issued<AwsCredential>> {
        // It becomes a header.
        HeaderValue::from_str(&self.session_token).ok()?;
        let life = life_until(&self.expiration, ambient.now())?;
        Some(Issued { credential: AwsCredential { key_id: self.access_key_id, secret_key: self.secret_access_key, token: Some(self.session_token) }, life })
    }
}

fn of_xml(body: &[u8], service: &TokenService, ambient: &Ambient) -> Result<Issued<AwsCredential>, ConnectorError> {
    let answer: Option<StsAnswer> = std::str::from_utf8(body).ok().and_then(|text| quick_xml::de::from_str(text).ok());
    answer.and_then(|answer| answer.result.credentials.issued(ambient)).ok_or_else(|| service.nonsense())
}

fn of_json(body: &[u8], service: &TokenService, ambient: &Ambient) -> Result<Issued<AwsCredential>, ConnectorError> {
    serde_json::from_slice::<Session>(body).ok().and_then(|session| session.issued(ambient)).ok_or_else(|| service.nonsense())
}

fn form(pairs: &[(&str, &str)]) -> String {
    url::form_urlencoded::Serializer::new(String::new()).extend_pairs(pairs).finish()
}

/// A role assumed with somebody's keys.
struct AssumedRole {
    base: Provider,
    role: String,
    region: String,
    sts: TokenService,
    ambient: Ambient,
}

impl fmt::Debug for AssumedRole {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("AssumedRole").field(&self.role).finish()
    }
}

#[async_trait]
impl TokenSource for AssumedRole {
    type Credential = AwsCredential;

    async fn fetch(&self) -> Result<Issued<AwsCredential>, ConnectorError> {
        let library = |fault: object_store::Error| match crate::connectors::egress::find::<ConnectorError>(&fault) {
            Some(known) => known.clone(),
            None => ConnectorError::new(Kind::Internal, "the request for a role cannot be signed"),
        };
        let keys = self.base.get_credential().await.map_err(library)?;
        let body = form(&[
            ("Action", "AssumeRole"),
            ("Version", STS_VERSION),
            ("RoleArn", &self.role),
            ("RoleSessionName", "datasink"),
            ("DurationSeconds", SESSION_SECONDS),
        ]);
        let mut request = HttpRequest::new(HttpRequestBody::from(body.clone()));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = self.sts.url().as_str().parse().map_err(|_| self.sts.nonsense())?;
        request.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/x-www-form-urlencoded"));
        AwsAuthorizer::new(&keys, "sts", &self.region).try_authorize(&mut request, None).map_err(library)?;
        let answer = self.sts.ask(Method::POST, request.into_parts().0.headers, body).await?;
        of_xml(&answer, &self.sts, &self.ambient)
    }
}

/// A role assumed with a token that the cluster gives to this process.
struct WebIdentity {
    file: String,
    role: String,
    sts: TokenService,
    ambient: Ambient,
}

impl fmt::Debug for WebIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("WebIdentity").field(&self.role).finish()
    }
}

#[async_trait]
impl TokenSource for WebIdentity {
    type Credential = AwsCredential;

    async fn fetch(&self) -> Result<Issued<AwsCredential>, ConnectorError> {
        let token = named_file("AWS_WEB_IDENTITY_TOKEN_FILE", &self.file).await?;
        let body = form(&[
            ("Action", "AssumeRoleWithWebIdentity"),
            ("Version", STS_VERSION),
            ("RoleArn", &self.role),
            ("RoleSessionName", "datasink"),
            ("DurationSeconds", SESSION_SECONDS),
            ("WebIdentityToken", token.trim()),
        ]);
        let headers = HeaderMap::from_iter([(header::CONTENT_TYPE, HeaderValue::from_static("application/x-www-form-urlencoded"))]);
        of_xml(&self.sts.ask(Method::POST, headers, body).await?, &self.sts, &self.ambient)
    }
}

/// How a container's credential service is told who asks.
enum Authorization {
    Nothing,
    Token(String),
    File(String),
}

impl Authorization {
    fn of(cloud: &Cloud) -> Self {
        match (cloud.variable("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE"), cloud.variable("AWS_CONTAINER_AUTHORIZATION_TOKEN")) {
            (Some(file), _) => Self::File(file.to_owned()),
            (None, Some(token)) => Self::Token(token.to_owned()),
            (None, None) => Self::Nothing,
        }
    }
}

/// The role of a task (ECS) or pod (EKS).
struct Container {
    service: TokenService,
    authorization: Authorization,
    ambient: Ambient,
}

impl fmt::Debug for Container {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Container")
    }
}

#[async_trait]
impl TokenSource for Container {
    type Credential = AwsCredential;

    async fn fetch(&self) -> Result<Issued<AwsCredential>, ConnectorError> {
        let token = match &self.authorization {
            Authorization::Nothing => None,
            Authorization::Token(token) => Some(token.clone()),
            Authorization::File(file) => Some(named_file("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", file).await?),
        };
        let mut headers = HeaderMap::new();
        if let Some(token) = token {
            headers.insert(header::AUTHORIZATION, secret_header(token.trim())?);
        }
        of_json(&self.service.ask(Method::GET, headers, "").await?, &self.service, &self.ambient)
    }
}

/// The role of a virtual machine, by version 2 of its metadata service: a token first, so that nobody who can merely make us fetch a URL gets anything.
#[derive(Debug)]
struct Instance {
    service: TokenService,
    ambient: Ambient,
}

#[async_trait]
impl TokenSource for Instance {
    type Credential = AwsCredential;

    async fn fetch(&self) -> Result<Issued<AwsCredential>, ConnectorError> {
        const ROLES: &str = "/latest/meta-data/iam/security-credentials/";
        const LIFE: Duration = Duration::from_secs(60);
        let life =
            HeaderMap::from_iter([("x-aws-ec2-metadata-token-ttl-seconds".parse().map_err(|_| self.service.nonsense())?, HeaderValue::from(LIFE.as_secs()))]);
        let token = self.service.at("/latest/api/token").ask(Method::PUT, life, "").await?;
        let token = secret_header(std::str::from_utf8(&token).map_err(|_| self.service.nonsense())?.trim())?;
        let headers = HeaderMap::from_iter([("x-aws-ec2-metadata-token".parse().map_err(|_| self.service.nonsense())?, token)]);
        let roles = self.service.at(ROLES).ask(Method::GET, headers.clone(), "").await?;
        let role = std::str::from_utf8(&roles).ok().and_then(|roles| roles.lines().next()).map(str::trim);
        let role = role.filter(|role| !role.is_empty() && role.bytes().all(|b| b.is_ascii_alphanumeric() || b"+=,.@_-".contains(&b)));
        let role = role.ok_or_else(|| self.service.nonsense())?;
        let answer = self.service.at(&format!("{ROLES}{role}")).ask(Method::GET, headers, "").await?;
        of_json(&answer, &self.service, &self.ambient)
    }
}

fn secret_header(text: &str) -> Result<HeaderValue, ConnectorError> {
    let mut value = HeaderValue::from_str(text)
        .map_err(|_| ConnectorError::new(Kind::Misconfigured, "the token of this host's identity has characters that no header takes"))?;
    value.set_sensitive(true);
    Ok(value)
}
