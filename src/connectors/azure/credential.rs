//! Why: who we are at Azure: an account key, a signature, a token, an application of a directory, or the identity of this host. Never asks for one around the egress filter, and never runs a command line tool for it.

use std::{fmt, sync::Arc, time::Duration};

use async_trait::async_trait;
use http::{HeaderMap, HeaderName, HeaderValue, Method, header};
use object_store::{
    CredentialProvider, StaticCredentialProvider,
    azure::{AzureAccessKey, AzureCredential},
};
use serde::Deserialize;
use url::Url;
use zeroize::Zeroizing;

use super::{
    options::{ACCOUNT_ALLOWED, Inline, Place, is_account, is_tenant},
    sas::{Sas, SasProvider},
};
use crate::connectors::{
    connector::{ConnectContext, SinkKind},
    credential::{CredentialType, OpenCredential},
    error::{ConnectorError, ConnectorErrorKind as Kind},
    object::{Host, Issued, Renewing, TokenService, TokenSource, managed, named_file, pair, refused, secret_text},
};

const SCOPE: &str = "https://storage.azure.com/.default";
const RESOURCE: &str = "https://storage.azure.com/";
const METADATA: &str = "http://169.254.169.254";
const DIRECTORY: &str = "https://login.microsoftonline.com";
/// The directories of the clouds that are apart: (end of a storage host, directory).
const DIRECTORIES: [(&str, &str); 2] = [(".chinacloudapi.cn", "https://login.chinacloudapi.cn"), (".usgovcloudapi.net", "https://login.microsoftonline.us")];

pub(super) type Provider = Arc<dyn CredentialProvider<Credential = AzureCredential>>;

/// Who we are.
pub(super) struct Identity {
    pub(super) account: String,
    pub(super) provider: Provider,
    /// Whether it can be asked for anew.
    pub(super) renewable: bool,
    /// Whether the secret itself travels with each request.
    pub(super) travels: bool,
}

impl Identity {
    /// Of the sink's credential, of its options, or of this host. Makes no request.
    pub(super) fn of(cx: &ConnectContext, place: &Place) -> Result<Self, ConnectorError> {
        let account = account(cx, place)?;
        let fixed = |credential| -> Provider { Arc::new(StaticCredentialProvider::new(credential)) };
        let (provider, renewable, travels) = match (&cx.credential, &place.inline) {
            (Some(credential), _) => match credential.credential_type {
                CredentialType::AzureStorageKey => {
                    let key = Zeroizing::new(secret_text(credential, "the account key")?);
                    let key = AzureAccessKey::try_new(&key).map_err(|_| refused("its secret, the account key, is not base64"))?;
                    (fixed(AzureCredential::AccessKey(key)), false, false)
                }
                CredentialType::AzureSas => (signature(cx, &Zeroizing::new(secret_text(credential, "the shared access signature")?))?, false, true),
                CredentialType::AzureOauth => (fixed(bearer(secret_text(credential, "the bearer token")?)?), false, true),
                _ => (application(cx, place, credential)?, true, true),
            },
            (None, Inline::Sas(text)) => (signature(cx, text)?, false, true),
            (None, Inline::Bearer(token)) => (fixed(bearer(token.to_string())?), false, true),
            (None, Inline::Managed) => (of_this_host(cx, place)?, true, true),
            (None, Inline::Nothing) => return Err(ConnectorError::new(Kind::Internal, "an azure sink without a credential was stored")),
        };
        Ok(Self { account, provider, renewable, travels })
    }
}

/// The storage account: whoever names it must agree.
pub(super) fn account(cx: &ConnectContext, place: &Place) -> Result<String, ConnectorError> {
    let of_credential = cx.credential.as_ref().and_then(|credential| match credential.credential_type {
        CredentialType::AzureAd => credential.options.get("azure_storage_account_name").map(String::as_str),
        _ => Some(credential.identity.as_str()),
    });
    let named = [("its credential", of_credential), ("the option azure_storage_account_name", place.account.as_deref()), ("the host", place.account_of_host())];
    let named: Vec<(&str, &str)> = named.into_iter().filter_map(|(by, name)| Some((by, name?))).filter(|(_, name)| !name.is_empty()).collect();
    let Some((by, name)) = named.first() else {
        let message = "nothing names the sink's storage account; give it the option azure_storage_account_name";
        return Err(ConnectorError::new(Kind::Misconfigured, message));
    };
    if let Some((other, differs)) = named.iter().find(|(_, other)| other != name) {
        let message = format!("{by} of the sink names the storage account {name}, and {other} {differs}; leave one of them out");
        return Err(ConnectorError::new(Kind::Misconfigured, message));
    }
    if !is_account(name) {
        return Err(refused(format!("the storage account {name:?} that it names is none; allowed: {ACCOUNT_ALLOWED}")));
    }
    Ok((*name).to_owned())
}

fn signature(cx: &ConnectContext, text: &str) -> Result<Provider, ConnectorError> {
    let sas = Sas::parse(text).map_err(refused)?;
    sas.check(cx.ambient.now())?;
    Ok(Arc::new(SasProvider::new(sas, cx.ambient.clone())))
}

fn bearer(token: String) -> Result<AzureCredential, ConnectorError> {
    if !token.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(refused("a token has only visible ASCII characters"));
    }
    Ok(AzureCredential::BearerToken(token))
}

/// Where the tenant's tokens are: what the operator's environment says, or Microsoft's directory of the cloud that the host is in. No option or credential has a say: it is told a secret.
fn directory(cx: &ConnectContext, place: &Place, tenant: &str) -> Result<TokenService, ConnectorError> {
    let of_host = place.host.as_ref().map(Host::name).and_then(|host| DIRECTORIES.iter().find(|(end, _)| host.ends_with(end)));
    let authority = cx.egress.cloud().variable("AZURE_AUTHORITY_HOST").unwrap_or(of_host.map_or(DIRECTORY, |(_, directory)| directory));
    let url = Url::parse(&format!("{}/{tenant}/oauth2/v2.0/token", authority.trim_end_matches('/')));
    let url = url.map_err(|fault| ConnectorError::new(Kind::Misconfigured, format!("AZURE_AUTHORITY_HOST is no URL: {fault}")))?;
    TokenService::on_the_net(cx, SinkKind::Azure, &url, "the directory's token service")
}

fn application(cx: &ConnectContext, place: &Place, credential: &OpenCredential) -> Result<Provider, ConnectorError> {
    let (client, secret) = pair(credential, "the application's client id", "its client secret")?;
    let tenant = credential.options.get("azure_tenant_id").or(place.tenant.as_ref()).filter(|tenant| is_tenant(tenant));
    let tenant = tenant.ok_or_else(|| refused("neither it nor the sink has a tenant in the option azure_tenant_id"))?;
    let service = directory(cx, place, tenant)?;
    Ok(Arc::new(Renewing::new(Application { service, client, proof: Proof::Secret(Zeroizing::new(secret)) })))
}

/// The order of Azure's own libraries: workload identity, then the managed identity of the host.
fn of_this_host(cx: &ConnectContext, place: &Place) -> Result<Provider, ConnectorError> {
    let cloud = managed(cx)?;
    let client = cloud.variable("AZURE_CLIENT_ID");
    if let (Some(client), Some(file), Some(tenant)) = (client, cloud.variable("AZURE_FEDERATED_TOKEN_FILE"), &place.tenant) {
        let service = directory(cx, place, tenant)?;
        return Ok(Arc::new(Renewing::new(Application { service, client: client.to_owned(), proof: Proof::File(file.to_owned()) })));
    }
    let mut query = vec![("resource", RESOURCE)];
    query.extend(client.map(|client| ("client_id", client)));
    let (base, version, marker) = match (cloud.variable("IDENTITY_ENDPOINT"), cloud.variable("IDENTITY_HEADER")) {
        (Some(url), Some(key)) => (url.to_owned(), "2019-08-01", ("x-identity-header", key)),
        _ => {
            let host = cloud.variable("AZURE_POD_IDENTITY_AUTHORITY_HOST").unwrap_or(METADATA).trim_end_matches('/');
            (format!("{host}/metadata/identity/oauth2/token"), "2018-02-01", ("metadata", "true"))
        }
    };
    query.push(("api-version", version));
    let query = url::form_urlencoded::Serializer::new(String::new()).extend_pairs(query).finish();
    let service = TokenService::of_this_host(cx, SinkKind::Azure, &format!("{base}?{query}"), "Azure's metadata service")?;
    let mut key =
        HeaderValue::from_str(marker.1).map_err(|_| ConnectorError::new(Kind::Misconfigured, "IDENTITY_HEADER has characters that no header takes"))?;
    key.set_sensitive(true);
    Ok(Arc::new(Renewing::new(Metadata { service, marker: (HeaderName::from_static(marker.0), key) })))
}

/// How an application proves who it is.
enum Proof {
    Secret(Zeroizing<String>),
    /// A token that the cluster gives to this process, in a file.
    File(String),
}

/// A token of the tenant's directory.
struct Application {
    service: TokenService,
    client: String,
    proof: Proof,
}

impl fmt::Debug for Application {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Application").field(&self.client).finish()
    }
}

impl Application {
    fn form(&self, proof: &str) -> String {
        let mut form = url::form_urlencoded::Serializer::new(String::new());
        form.append_pair("client_id", &self.client).append_pair("grant_type", "client_credentials").append_pair("scope", SCOPE);
        match self.proof {
            Proof::Secret(_) => form.append_pair("client_secret", proof),
            Proof::File(_) => {
                form.append_pair("client_assertion_type", "urn:ietf:params:oauth:client-assertion-type:jwt-bearer").append_pair("client_assertion", proof)
            }
        };
        form.finish()
    }
}

#[async_trait]
impl TokenSource for Application {
    type Credential = AzureCredential;

    async fn fetch(&self) -> Result<Issued<AzureCredential>, ConnectorError> {
        let proof = match &self.proof {
            Proof::Secret(secret) => secret.clone(),
            Proof::File(file) => Zeroizing::new(named_file("AZURE_FEDERATED_TOKEN_FILE", file).await?),
        };
        let body = self.form(proof.trim());
        let headers = HeaderMap::from_iter([(header::CONTENT_TYPE, HeaderValue::from_static("application/x-www-form-urlencoded"))]);
        of_json(&self.service.ask(Method::POST, headers, body).await?, &self.service)
    }
}

/// The managed identity of this virtual machine or application.
#[derive(Debug)]
struct Metadata {
    service: TokenService,
    marker: (HeaderName, HeaderValue),
}

#[async_trait]
impl TokenSource for Metadata {
    type Credential = AzureCredential;

    async fn fetch(&self) -> Result<Issued<AzureCredential>, ConnectorError> {
        let headers = HeaderMap::from_iter([self.marker.clone()]);
        of_json(&self.service.ask(Method::GET, headers, "").await?, &self.service)
    }
}

#[derive(Deserialize)]
struct Token {
    access_token: String,
    /// Seconds, as a number by some services and as text by others.
    expires_in: serde_json::Value,
}

fn of_json(body: &[u8], service: &TokenService) -> Result<Issued<AzureCredential>, ConnectorError> {
    let token: Option<Token> = serde_json::from_slice(body).ok();
    let token = token.filter(|token| !token.access_token.is_empty() && token.access_token.bytes().all(|byte| byte.is_ascii_graphic()));
    let issued = token.and_then(|token| {
        let seconds = token.expires_in.as_u64().or_else(|| token.expires_in.as_str()?.parse().ok())?;
        Some(Issued { credential: AzureCredential::BearerToken(token.access_token), life: Duration::from_secs(seconds) })
    });
    issued.ok_or_else(|| service.nonsense())
}
