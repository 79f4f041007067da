//! The kind on its own, and against a real server.

use base64::{Engine, engine::general_purpose::STANDARD};
use hmac::{Hmac, Mac};
use http::{HeaderMap, Method};
use object_store::{
    ObjectStoreExt, PutMode, PutOptions, PutPayload,
    azure::{AzureAccessKey, AzureAuthorizer, AzureCredential},
    client::{HttpRequest, HttpRequestBody},
    path::Path,
};
use sha2::Sha256;
use url::Url;

use super::*;
use crate::connectors::{
    error::{ConnectorErrorKind as E, ErrorClass, Retry},
    object::{
        TokenService,
        testing::{Canned, answer, context, failure, fields, fresh, laws_of_a_bucket, line, options, server, sink},
    },
};

const KEY: &str = "c2VjcmV0LWNhbmFyeS1rZXk=";
const SAS: &str = "sv=2022-11-02&ss=b&srt=sco&sp=rwdlac&se=2999-12-01T00:00:00Z&sig=c2FzLWNhbmFyeQ%3D%3D";

/// A destination, options, and the fields at fault.
type Row<'a> = (&'a str, &'a [(&'a str, &'a str)], &'a [&'a str]);

fn place(destination: &str, given: &[(&str, &str)]) -> Result<Place, Vec<ConfigFault>> {
    let container = [("azure_container_name", "orders")];
    let given: Vec<(&str, &str)> = container.iter().filter(|(key, _)| !given.iter().any(|(other, _)| other == key)).chain(given).copied().collect();
    Place::check(&Destination::parse(destination).expect("a destination"), &options(&Azure, &given)?)
}

async fn put(bucket: &Bucket) -> Result<(), ConnectorError> {
    let options = PutOptions { mode: PutMode::Create, ..PutOptions::default() };
    let put = bucket.store.put_opts(&Path::from("k"), PutPayload::from_static(b"x"), options).await;
    put.map(|_| ()).map_err(|fault| bucket.explain(&fault, "write azure://orders/k"))
}

#[test]
fn requests_go_where_the_destination_and_the_options_say() {
    let of = |destination: &str, given: &[(&str, &str)]| {
        let given: Vec<(&str, &str)> = [("credential", "s.c")].into_iter().chain(given.iter().copied()).collect();
        place(destination, &given).expect("a place").endpoint("acct").expect("an endpoint").as_base()
    };
    assert_eq!(of("azure", &[]), "https://acct.blob.core.windows.net");
    assert_eq!(of("azure://acct.blob.core.usgovcloudapi.net", &[]), "https://acct.blob.core.usgovcloudapi.net");
    assert_eq!(of("azure://127.0.0.1:10000", &[("use_https", "false")]), "http://127.0.0.1:10000/acct");
    assert_eq!(of("azure://azurite:10000", &[("azure_use_virtual_addressing", "false")]), "https://azurite:10000/acct");
}

#[test]
fn every_fault_is_told_at_once() {
    let table: [Row; 9] = [
        ("azure", &[], &["credential"]),
        (
            "azure://x/y",
            &[("azure_container_name", "a--b"), ("azure_storage_account_name", "A"), ("azure_tenant_id", "a/b")],
            &["azure_container_name", "azure_storage_account_name", "azure_tenant_id", "destination", "credential"],
        ),
        ("azure", &[("use_managed_credentials", "true")], &["azure_tenant_id", "azure_storage_account_name"]),
        ("azure", &[("azure_sas_token", SAS)], &["azure_storage_account_name"]),
        ("azure", &[("azure_sas_token", "sv=1&sr=c&sig=s3cr3t-canary"), ("azure_storage_account_name", "acct")], &["azure_sas_token"]),
        ("azure", &[("azure_oauth_token", "s3cr3t\ncanary"), ("azure_storage_account_name", "acct")], &["azure_oauth_token"]),
        ("azure", &[("azure_oauth_token", "x"), ("azure_sas_token", SAS), ("azure_storage_account_name", "acct")], &["azure_oauth_token"]),
        ("azure", &[("credential", "s.c"), ("azure_sas_token", SAS)], &["azure_sas_token", "azure_storage_account_name"]),
        (
            "azure",
            &[("credential", "s.c"), ("use_managed_credentials", "true"), ("azure_tenant_id", "t"), ("azure_storage_account_name", "acct")],
            &["credential"],
        ),
    ];
    for (destination, given, wanted) in table {
        let faults = place(destination, given).expect_err("faults");
        assert_eq!(fields(&faults), wanted, "{given:?}: {faults:?}");
        assert!(!format!("{faults:?}").contains("canary"));
    }
    assert!(place("azure://acct.blob.core.windows.net", &[("azure_sas_token", SAS)]).is_ok(), "the host names the account");
    assert_eq!(fields(&sink(&Azure, "azure", &[("credential", "s.c")]).expect_err("faults")), ["azure_container_name"]);
}

#[tokio::test]
async fn whoever_names_the_account_must_agree() {
    let known = |identity: &str| context(b"", false, &[]).knowing(CredentialType::AzureStorageKey, identity, KEY, &[]);
    let open = async |destination: &str, given: &[(&str, &str)], cx: &ConnectContext| {
        let given: Vec<(&str, &str)> = [("credential", "s.c")].into_iter().chain(given.iter().copied()).collect();
        place(destination, &given).expect("a place").bucket(cx).await.map(|_| ()).map_err(|fault| (fault.kind, fault.message))
    };
    assert_eq!(open("azure", &[], &known("acct")).await, Ok(()));
    for (destination, given, cx) in [
        ("azure://other.blob.core.windows.net", &[][..], known("acct")),
        ("azure", &[("azure_storage_account_name", "other")][..], known("acct")),
        ("azure", &[][..], known("")),
        ("azure", &[][..], known("No/Account")),
    ] {
        let (kind, message) = open(destination, given, &cx).await.expect_err("no account");
        assert!(kind == E::Misconfigured && message.contains("account"), "{message}");
    }
    let not_base64 = context(b"", false, &[]).knowing(CredentialType::AzureStorageKey, "acct", "s3cr3t canary", &[]);
    let (kind, message) = open("azure", &[], &not_base64).await.expect_err("no key");
    assert!(kind == E::Misconfigured && !message.contains("canary"), "{message}");
    let ended = context(b"", false, &[]).knowing(CredentialType::AzureSas, "acct", &SAS.replace("2999", "2001"), &[]);
    let (kind, message) = open("azure", &[], &ended).await.expect_err("ended");
    assert!(kind == E::Unauthenticated && message.contains("2001-12-01") && !message.contains("sig="), "{message}");
}

#[tokio::test]
async fn every_answer_has_one_meaning_and_no_body_is_repeated() {
    use ErrorClass as C;
    let table = [
        ("403 x", "AuthenticationFailed", "", E::Unauthenticated, C::Configuration, "account key or signature"),
        ("403 x", "AuthenticationFailed", "Date: Thu, 01 Jan 2026 00:00:00 GMT\r\n", E::Misconfigured, C::Configuration, "clock"),
        ("403 x", "AuthorizationPermissionMismatch", "", E::PermissionDenied, C::Configuration, "may not do this"),
        ("401 x", "InvalidAuthenticationInfo", "", E::Unauthenticated, C::Configuration, "expired"),
        ("404 x", "ContainerNotFound", "", E::NotFound, C::Configuration, "there is no container orders"),
        ("409 x", "ContainerBeingDeleted", "", E::NotFound, C::Configuration, "container"),
        ("409 x", "BlobAlreadyExists", "", E::Unknown, C::Destination, "there already"),
        ("412 x", "ConditionNotMet", "", E::Unknown, C::Destination, "there already"),
        ("503 x", "ServerBusy", "Retry-After: 3\r\n", E::Throttled, C::Destination, "slow down"),
        ("500 x", "OperationTimedOut", "", E::Unknown, C::Destination, "cannot be told"),
        ("403 x", "AccountIsDisabled", "", E::PermissionDenied, C::Configuration, "closed"),
    ];
    for (status, code, headers, kind, class, part) in table {
        let headers = format!("x-ms-error-code: {code}\r\n{headers}");
        let store = Canned::start(move |_| answer(status, &headers, "<Error><Code>b0dy-canary</Code></Error>")).await;
        let cx = context(b"", false, &[]).knowing(CredentialType::AzureStorageKey, "acct", KEY, &[]);
        let given = [("credential", "s.c"), ("use_https", "false")];
        let bucket = place(&format!("azure://{}", store.address), &given).expect("a place").bucket(&cx).await.expect("a bucket");
        let fault = put(&bucket).await.expect_err("refused");
        assert_eq!((fault.kind, fault.class), (kind, class), "{status} {code}: {fault}");
        assert!(fault.message.contains(part) && !format!("{fault:?}").contains("canary"), "{status} {code}: {fault:?}");
        assert_eq!(store.seen().len(), 1, "nothing is tried twice");
    }
}

#[tokio::test]
async fn a_directory_gives_tokens_and_a_token_goes_in_the_clear_to_this_machine_only() {
    let directory = Canned::start(|seen| {
        if seen.line() == "POST /tenant-1/oauth2/v2.0/token" && String::from_utf8_lossy(&seen.body).contains("client_secret=right") {
            return answer("200 OK", "", r#"{"access_token":"t0ken","expires_in":3600,"token_type":"Bearer"}"#);
        }
        answer("401 Unauthorized", "", r#"{"error":"invalid_client","error_description":"b0dy-canary"}"#)
    })
    .await;
    let store = Canned::start(|_| answer("200 OK", "ETag: \"e\"\r\nLast-Modified: Thu, 01 Jan 2026 00:00:00 GMT\r\n", "")).await;
    let authority = format!("http://{}", directory.address);
    let known = |secret: &str| {
        let options = [("azure_storage_account_name", "acct"), ("azure_tenant_id", "tenant-1")];
        context(b"", false, &[("AZURE_AUTHORITY_HOST", &authority)]).knowing(CredentialType::AzureAd, "client-1", secret, &options)
    };
    let open = async |host: &str, cx: &ConnectContext| {
        place(&format!("azure://{host}"), &[("credential", "s.c"), ("use_https", "false")]).expect("a place").bucket(cx).await.expect("a bucket")
    };
    let there = store.address.to_string();
    let bucket = open(&there, &known("right")).await;
    put(&bucket).await.expect("written");
    put(&bucket).await.expect("written");
    assert_eq!(directory.seen().len(), 1, "a token is kept");
    assert_eq!(store.seen()[1].header("authorization"), "Bearer t0ken");
    let fault = put(&open(&there, &known("wr0ng-canary")).await).await.expect_err("no token");
    assert_eq!((fault.kind, fault.retry), (E::Unauthenticated, Retry::Never), "{fault}");
    assert!(fault.message.contains("invalid_client") && !format!("{fault:?}").contains("canary"), "{fault:?}");
    let fault = put(&open("8.8.8.8", &known("right")).await).await.expect_err("in the clear");
    assert_eq!(fault.kind, E::Misconfigured, "{fault}");
}

#[tokio::test]
async fn the_identity_of_this_host_is_used_where_both_say_so() {
    let cloud = Canned::start(|seen| {
        let metadata = seen.line().starts_with("GET /metadata/identity/oauth2/token?resource=") && seen.header("metadata") == "true";
        let service = seen.line().starts_with("GET /msi?resource=") && seen.header("x-identity-header") == "h";
        let wanted = seen.line().contains("resource=https%3A%2F%2Fstorage.azure.com%2F");
        if wanted && (metadata || service) {
            answer("200 OK", "", r#"{"access_token":"t0ken","expires_in":"3599"}"#)
        } else {
            answer("400 Bad Request", "", "")
        }
    })
    .await;
    let store = Canned::start(|_| answer("200 OK", "ETag: \"e\"\r\nLast-Modified: Thu, 01 Jan 2026 00:00:00 GMT\r\n", "")).await;
    let (here, service) = (format!("http://{}", cloud.address), format!("http://{}/msi", cloud.address));
    let given = [("use_managed_credentials", "true"), ("azure_tenant_id", "t"), ("azure_storage_account_name", "acct"), ("use_https", "false")];
    let flows: [&[(&str, &str)]; 2] = [&[("AZURE_POD_IDENTITY_AUTHORITY_HOST", &here)], &[("IDENTITY_ENDPOINT", &service), ("IDENTITY_HEADER", "h")]];
    for variables in flows {
        let place = place(&format!("azure://{}", store.address), &given).expect("a place");
        put(&place.bucket(&context(b"", true, variables)).await.expect("a bucket")).await.expect("written");
        let refused = place.bucket(&context(b"", false, variables)).await.expect_err("the operator has not allowed it");
        assert_eq!(refused.kind, E::Misconfigured);
    }
    assert!(store.seen().iter().all(|seen| seen.header("authorization") == "Bearer t0ken"));
}

// ---- against Azurite ----

struct Azurite {
    host: String,
    scheme: String,
    account: String,
    key: String,
    roots: Vec<u8>,
}

impl Azurite {
    fn new() -> Option<Self> {
        Self::of(server("AZURE_ENDPOINT")?, server("AZURE_ACCOUNT")?, server("AZURE_KEY")?, Vec::new())
    }

    fn with_tokens() -> Option<Self> {
        let roots = std::fs::read(server("AZURE_OAUTH_CA")?).expect("the authority");
        Self::of(server("AZURE_OAUTH_ENDPOINT")?, server("AZURE_OAUTH_ACCOUNT")?, server("AZURE_OAUTH_KEY")?, roots)
    }

    fn of(endpoint: String, account: String, key: String, roots: Vec<u8>) -> Option<Self> {
        let url = Url::parse(&endpoint).ok()?;
        Some(Self { host: format!("{}:{}", url.host_str()?, url.port()?), scheme: url.scheme().to_owned(), account, key, roots })
    }

    fn cx(&self, credential_type: CredentialType, secret: &str) -> ConnectContext {
        context(&self.roots, false, &[]).knowing(credential_type, &self.account, secret, &[])
    }

    async fn new_container(&self) -> String {
        let name = fresh("stores");
        let url = Url::parse(&format!("{}://{}/{}/{name}?restype=container", self.scheme, self.host, self.account)).expect("a URL");
        let credential = AzureCredential::AccessKey(AzureAccessKey::try_new(&self.key).expect("a key"));
        let mut request = HttpRequest::new(HttpRequestBody::empty());
        *request.method_mut() = Method::PUT;
        *request.uri_mut() = url.as_str().parse().expect("a URI");
        request.headers_mut().insert("content-length", 0.into());
        AzureAuthorizer::new(&credential, &self.account).try_authorize(&mut request).expect("signed");
        let headers: HeaderMap = request.into_parts().0.headers;
        let service = TokenService::on_the_net(&context(&self.roots, false, &[]), SinkKind::Azure, &url, "Azurite").expect("a client");
        service.ask(Method::PUT, headers, "").await.expect("made");
        name
    }

    async fn open(&self, container: &str, given: &[(&str, &str)], cx: &ConnectContext) -> Result<Bucket, ConnectorError> {
        let https = if self.scheme == "https" { "true" } else { "false" };
        let base = [("azure_container_name", container), ("use_https", https)];
        let given: Vec<(&str, &str)> = base.into_iter().chain(given.iter().copied()).collect();
        place(&format!("azure://{}", self.host), &given).expect("a place").bucket(cx).await
    }

    /// A shared access signature of the account, as Azure's documents say it is made.
    fn signature(&self, permissions: &str, end: &str) -> String {
        let text = format!("{}\n{permissions}\nb\nsco\n\n{end}\n\nhttps,http\n2022-11-02\n\n", self.account);
        let mut mac = Hmac::<Sha256>::new_from_slice(&STANDARD.decode(&self.key).expect("a key")).expect("any length");
        mac.update(text.as_bytes());
        let signature = STANDARD.encode(mac.finalize().into_bytes());
        let pairs = [("sv", "2022-11-02"), ("ss", "b"), ("srt", "sco"), ("sp", permissions), ("se", end), ("spr", "https,http"), ("sig", &signature)];
        url::form_urlencoded::Serializer::new(String::new()).extend_pairs(pairs).finish()
    }
}

const BY_CREDENTIAL: (&str, &str) = ("credential", "s.c");

#[tokio::test]
async fn azurite_keeps_the_laws_for_keys_and_signatures() {
    let Some(azurite) = Azurite::new() else { return };
    let name = azurite.new_container().await;
    let by_key = azurite.open(&name, &[BY_CREDENTIAL], &azurite.cx(CredentialType::AzureStorageKey, &azurite.key)).await.expect("a bucket");
    laws_of_a_bucket(&by_key).await;
    let sas = azurite.signature("rwdlac", "2999-01-01T00:00:00Z");
    laws_of_a_bucket(&azurite.open(&name, &[BY_CREDENTIAL], &azurite.cx(CredentialType::AzureSas, &sas)).await.expect("a bucket")).await;
    let inline = [("azure_sas_token", sas.as_str()), ("azure_storage_account_name", &azurite.account)];
    laws_of_a_bucket(&azurite.open(&name, &inline, &context(b"", false, &[])).await.expect("a bucket")).await;
}

#[tokio::test]
async fn azurite_says_what_is_wrong() {
    let Some(azurite) = Azurite::new() else { return };
    let name = azurite.new_container().await;
    let key = |key: &str| azurite.cx(CredentialType::AzureStorageKey, key);
    let fault = put(&azurite.open(&name, &[BY_CREDENTIAL], &key(KEY)).await.expect("a bucket")).await.expect_err("another key");
    // Azure says AuthenticationFailed here, its emulator AuthorizationFailure.
    assert_eq!((fault.kind, fault.retry), (E::PermissionDenied, Retry::Never), "{fault}");
    assert!(fault.message.contains("check the credential"), "{fault}");

    let missing = azurite.open("no-such-container", &[BY_CREDENTIAL], &key(&azurite.key)).await.expect("a bucket");
    let fault = put(&missing).await.expect_err("no container");
    assert!(fault.kind == E::NotFound && fault.message.contains("there is no container no-such-container"), "{fault}");
    let found = azurite.open(&name, &[BY_CREDENTIAL], &key(&azurite.key)).await.expect("a bucket");
    let fault = found.explain(&found.store.head(&Path::from("k")).await.expect_err("no object"), "read it");
    assert!(fault.message.contains("no such object"), "{fault}");

    let ended = azurite.cx(CredentialType::AzureSas, &azurite.signature("rwdlac", "2020-01-01T00:00:00Z"));
    let fault = azurite.open(&name, &[BY_CREDENTIAL], &ended).await.expect_err("ended");
    assert!(fault.kind == E::Unauthenticated && fault.message.contains("ended at 2020"), "{fault}");
    let tampered = azurite.signature("rwdlac", "2999-01-01T00:00:00Z").replace("2999-01", "2998-01");
    let fault =
        put(&azurite.open(&name, &[BY_CREDENTIAL], &azurite.cx(CredentialType::AzureSas, &tampered)).await.expect("a bucket")).await.expect_err("tampered");
    assert_eq!((fault.kind, fault.retry), (E::PermissionDenied, Retry::Never), "{fault}");

    let probe = async |container: &str, cx: &ConnectContext| {
        let given = [("azure_container_name", container), ("use_https", "false"), BY_CREDENTIAL];
        sink(&Azure, &format!("azure://{}", azurite.host), &given).expect("a sink").probe(cx, true).await
    };
    let all = probe(&name, &key(&azurite.key)).await;
    assert_eq!(line(&all), "configuration+ credential+ resolve+ connect+ tls~ authenticate+ authorize+ write+", "{}", failure(&all));
    let missing = probe("no-such-container", &key(&azurite.key)).await;
    assert_eq!(line(&missing), "configuration+ credential+ resolve+ connect+ tls~ authenticate+ authorize- write~", "{}", failure(&missing));
    let wrong = probe(&name, &key(KEY)).await;
    assert_eq!(line(&wrong), "configuration+ credential+ resolve+ connect+ tls~ authenticate+ authorize- write~", "{}", failure(&wrong));
}

#[tokio::test]
async fn azurite_takes_the_tokens_of_a_directory_and_of_this_host() {
    let Some(azurite) = Azurite::with_tokens() else { return };
    let (Some(authority), Some(tenant), Some(msi)) = (server("FAKE_CLOUD_AZURE_AUTHORITY"), server("FAKE_CLOUD_AZURE_TENANT"), server("FAKE_CLOUD_AZURE_MSI"))
    else {
        return;
    };
    let (client, secret) = (server("FAKE_CLOUD_CLIENT_ID").expect("set beside"), server("FAKE_CLOUD_CLIENT_SECRET").expect("set beside"));
    let (file, header) =
        (server("FAKE_CLOUD_AZURE_FEDERATED_TOKEN_FILE").expect("set beside"), server("FAKE_CLOUD_AZURE_IDENTITY_HEADER").expect("set beside"));
    let name = azurite.new_container().await;

    let application = [("azure_storage_account_name", azurite.account.as_str()), ("azure_tenant_id", &tenant)];
    let directory = context(&azurite.roots, false, &[("AZURE_AUTHORITY_HOST", &authority)]).knowing(CredentialType::AzureAd, &client, &secret, &application);
    laws_of_a_bucket(&azurite.open(&name, &[BY_CREDENTIAL], &directory).await.expect("a bucket")).await;
    let wrong = context(&azurite.roots, false, &[("AZURE_AUTHORITY_HOST", &authority)]).knowing(CredentialType::AzureAd, &client, "wrong", &application);
    let fault = put(&azurite.open(&name, &[BY_CREDENTIAL], &wrong).await.expect("a bucket")).await.expect_err("no token");
    assert_eq!((fault.kind, fault.retry), (E::Unauthenticated, Retry::Never), "{fault}");

    let managed = [("use_managed_credentials", "true"), ("azure_tenant_id", tenant.as_str()), ("azure_storage_account_name", &azurite.account)];
    let here = msi.trim_end_matches("/metadata/identity/oauth2/token").to_owned();
    let flows: [&[(&str, &str)]; 3] = [
        &[("AZURE_POD_IDENTITY_AUTHORITY_HOST", &here)],
        &[("IDENTITY_ENDPOINT", &msi), ("IDENTITY_HEADER", &header)],
        &[("AZURE_AUTHORITY_HOST", &authority), ("AZURE_CLIENT_ID", &client), ("AZURE_FEDERATED_TOKEN_FILE", &file)],
    ];
    for variables in flows {
        laws_of_a_bucket(&azurite.open(&name, &managed, &context(&azurite.roots, true, variables)).await.expect("a bucket")).await;
    }

    // What a directory handed out, given as it is.
    let url = Url::parse(&format!("{msi}?resource=x")).expect("a URL");
    let service = TokenService::on_the_net(&context(b"", false, &[]), SinkKind::Azure, &url, "the fake").expect("a client");
    let headers = HeaderMap::from_iter([(http::HeaderName::from_static("metadata"), http::HeaderValue::from_static("true"))]);
    let answer: serde_json::Value = serde_json::from_slice(&service.ask(Method::GET, headers, "").await.expect("a token")).expect("JSON");
    let token = answer["access_token"].as_str().expect("a token");
    laws_of_a_bucket(&azurite.open(&name, &[BY_CREDENTIAL], &azurite.cx(CredentialType::AzureOauth, token)).await.expect("a bucket")).await;
    let inline = [("azure_oauth_token", token), ("azure_storage_account_name", azurite.account.as_str())];
    laws_of_a_bucket(&azurite.open(&name, &inline, &context(&azurite.roots, false, &[])).await.expect("a bucket")).await;
}
