//! The kind on its own, and against a real server.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use http::{HeaderMap, HeaderValue, Method, header};
use object_store::{ObjectStoreExt, PutMode, PutOptions, PutPayload, path::Path};
use url::Url;

use super::*;
use crate::connectors::{
    error::{ConnectorErrorKind as E, Retry},
    object::{
        TokenService,
        testing::{Canned, answer, context, fields, fresh, laws_of_a_bucket, line, options, server, sink},
    },
};

/// Made for these tests: it opens nothing.
const PEM: &str = include_str!("key_for_tests.pem");

fn key_file(pem: &str, more: serde_json::Value) -> String {
    let mut file = serde_json::json!({"type": "service_account", "client_email": "a@b.iam.gserviceaccount.com", "private_key": pem, "private_key_id": "k1"});
    if let (Some(file), Some(more)) = (file.as_object_mut(), more.as_object()) {
        file.extend(more.clone());
    }
    file.to_string()
}

/// A destination, options, and the fields at fault.
type Row<'a> = (&'a str, &'a [(&'a str, &'a str)], &'a [&'a str]);

fn place(destination: &str, given: &[(&str, &str)]) -> Result<Place, Vec<ConfigFault>> {
    let bucket = [("gcs_bucket_name", "orders")];
    let given: Vec<(&str, &str)> = bucket.iter().filter(|(key, _)| !given.iter().any(|(other, _)| other == key)).chain(given).copied().collect();
    Place::check(&Destination::parse(destination).expect("a destination"), &options(&Gcs, &given)?)
}

async fn put(bucket: &Bucket) -> Result<(), ConnectorError> {
    let options = PutOptions { mode: PutMode::Create, ..PutOptions::default() };
    let put = bucket.store.put_opts(&Path::from("k"), PutPayload::from_static(b"x"), options).await;
    put.map(|_| ()).map_err(|fault| bucket.explain(&fault, "write gcs://orders/k"))
}

#[test]
fn every_fault_is_told_at_once() {
    assert_eq!(place("gcs", &[]).expect("a place").endpoint().expect("an endpoint").as_base(), "https://storage.googleapis.com");
    assert_eq!(place("gcs://127.0.0.1:8", &[("use_https", "false")]).expect("a place").endpoint().expect("an endpoint").as_base(), "http://127.0.0.1:8");
    let ec = rcgen::KeyPair::generate().expect("a key").serialize_pem();
    let canary = key_file("s3cr3t-canary", serde_json::json!({}));
    let elliptic = key_file(&ec, serde_json::json!({}));
    let person = key_file("x", serde_json::json!({"type": "authorized_user"}));
    let external = r#"{"type":"external_account","token_url":"http://169.254.169.254/","credential_source":{"file":"/etc/passwd"}}"#;
    let table: [Row; 8] = [
        ("gcs://x:0", &[("gcs_bucket_name", "No"), ("gcs_project_id", "a b")], &["gcs_bucket_name", "gcs_project_id", "destination"]),
        ("gcs", &[("credential", "s.c"), ("use_managed_credentials", "true")], &["credential"]),
        ("gcs", &[("credential", "s.c"), ("gcs_service_account_keys", "{}")], &["credential", "gcs_service_account_keys"]),
        ("gcs", &[("gcs_service_account_keys", &canary)], &["gcs_service_account_keys"]),
        ("gcs", &[("gcs_service_account_keys", &elliptic)], &["gcs_service_account_keys"]),
        ("gcs", &[("gcs_service_account_keys", &person)], &["gcs_service_account_keys"]),
        ("gcs", &[("gcs_service_account_keys", external)], &["gcs_service_account_keys"]),
        ("gcs", &[("gcs_bucket_name", "a..b")], &["gcs_bucket_name"]),
    ];
    for (destination, given, wanted) in table {
        let faults = place(destination, given).expect_err("faults");
        assert_eq!(fields(&faults), wanted, "{faults:?}");
        assert!(!format!("{faults:?}").contains("canary"));
    }
    assert_eq!(fields(&sink(&Gcs, "gcs", &[]).expect_err("faults")), ["gcs_bucket_name"]);
}

#[tokio::test]
async fn a_key_signs_for_itself_and_its_file_moves_nothing() {
    let elsewhere = Canned::start(|_| answer("200 OK", "", "{}")).await;
    let store = Canned::start(|_| answer("200 OK", "ETag: \"e\"\r\n", "")).await;
    let there = format!("http://{}", elsewhere.address);
    let file = key_file(PEM, serde_json::json!({"gcs_base_url": there, "token_uri": there, "disable_oauth": true}));
    let given = [("use_https", "false"), ("gcs_service_account_keys", file.as_str()), ("gcs_project_id", "payer-1")];
    let bucket = place(&format!("gcs://{}", store.address), &given).expect("a place").bucket(&context(b"", false, &[])).await.expect("a bucket");
    put(&bucket).await.expect("written");
    let seen = store.seen();
    let token = seen[0].header("authorization").strip_prefix("Bearer ").expect("a token").to_owned();
    let claims: Vec<serde_json::Value> =
        token.split('.').take(2).map(|part| serde_json::from_slice(&URL_SAFE_NO_PAD.decode(part).expect("base64")).expect("JSON")).collect();
    assert_eq!((&claims[0]["kid"], &claims[1]["iss"]), (&"k1".into(), &"a@b.iam.gserviceaccount.com".into()));
    assert_eq!((seen[0].header("x-goog-if-generation-match"), seen[0].header("x-goog-user-project")), ("0", "payer-1"));
    assert!(elsewhere.seen().is_empty(), "neither requests nor tokens go where a key file says");

    let nobody = place(&format!("gcs://{}", store.address), &[("use_https", "false")]).expect("a place").bucket(&context(b"", false, &[])).await;
    put(&nobody.expect("a bucket")).await.expect("written");
    assert_eq!(store.seen()[1].header("authorization"), "", "nobody sends no token, not even an empty one");
}

#[tokio::test]
async fn a_token_goes_in_the_clear_to_this_machine_only() {
    let file = key_file(PEM, serde_json::json!({}));
    let there = place("gcs://8.8.8.8", &[("use_https", "false"), ("gcs_service_account_keys", &file)]).expect("a place");
    let fault = put(&there.bucket(&context(b"", false, &[])).await.expect("a bucket")).await.expect_err("in the clear");
    assert_eq!((fault.kind, fault.retry), (E::Misconfigured, Retry::Never), "{fault}");
}

#[tokio::test]
async fn answers_mean_what_they_mean() {
    let table = [
        ("403 x", "AccessDenied", E::PermissionDenied),
        ("401 x", "AuthenticationRequired", E::Unauthenticated),
        ("404 x", "NoSuchBucket", E::NotFound),
        ("412 x", "PreconditionFailed", E::Unknown),
    ];
    for (status, code, kind) in table {
        let store = Canned::start(move |_| answer(status, "", &format!("<Error><Code>{code}</Code><Details>b0dy-canary</Details></Error>"))).await;
        let nobody =
            place(&format!("gcs://{}", store.address), &[("use_https", "false")]).expect("a place").bucket(&context(b"", false, &[])).await.expect("a bucket");
        let fault = put(&nobody).await.expect_err("refused");
        assert!(fault.kind == kind && !format!("{fault:?}").contains("canary"), "{status}: {fault:?}");
    }
}

// ---- against fake-gcs-server behind our front ----

async fn new_bucket(word: &str) -> Option<(String, String)> {
    let (front, json) = (server("GCS_ENDPOINT")?, server("GCS_JSON_ENDPOINT")?);
    let name = fresh(word);
    let url = Url::parse(&format!("{json}/storage/v1/b?project=p")).expect("a URL");
    let service = TokenService::on_the_net(&context(b"", false, &[]), SinkKind::Gcs, &url, "the server").expect("a client");
    let headers = HeaderMap::from_iter([(header::CONTENT_TYPE, HeaderValue::from_static("application/json"))]);
    service.ask(Method::POST, headers, format!("{{\"name\":\"{name}\"}}")).await.expect("made");
    Some((front.trim_start_matches("http://").to_owned(), name))
}

#[tokio::test]
async fn the_server_keeps_the_laws() {
    let Some((front, name)) = new_bucket("stores").await else { return };
    let given = [("gcs_bucket_name", name.as_str()), ("use_https", "false")];
    let place = place(&format!("gcs://{front}"), &given).expect("a place");
    laws_of_a_bucket(&place.bucket(&context(b"", false, &[])).await.expect("a bucket")).await;
    let probe = sink(&Gcs, &format!("gcs://{front}"), &given).expect("a sink").probe(&context(b"", false, &[]), true).await;
    assert_eq!(line(&probe), "configuration+ credential+ resolve+ connect+ tls~ authenticate+ authorize+ write+");
}

#[tokio::test]
async fn the_server_knows_who_signs() {
    let Some((front, name)) = new_bucket("private").await else { return };
    let Some(file) = server("GCS_SERVICE_ACCOUNT") else { return };
    let key = std::fs::read_to_string(file).expect("a key file");
    let open = async |given: &[(&str, &str)], cx: &ConnectContext| {
        let given: Vec<(&str, &str)> = [("gcs_bucket_name", name.as_str()), ("use_https", "false")].into_iter().chain(given.iter().copied()).collect();
        place(&format!("gcs://{front}"), &given).expect("a place").bucket(cx).await.expect("a bucket")
    };
    let nobody = context(b"", false, &[]);
    let fault = put(&open(&[], &nobody).await).await.expect_err("not for everybody");
    assert!(matches!(fault.kind, E::Unauthenticated | E::PermissionDenied), "{fault}");
    laws_of_a_bucket(&open(&[("gcs_service_account_keys", &key)], &nobody).await).await;
    let credential = context(b"", false, &[]).knowing(CredentialType::GcsServiceAccountKeys, "", &key, &[]);
    laws_of_a_bucket(&open(&[], &credential).await).await;
    let stranger = key_file(PEM, serde_json::json!({}));
    let fault = put(&open(&[("gcs_service_account_keys", &stranger)], &nobody).await).await.expect_err("another key");
    assert!(matches!(fault.kind, E::Unauthenticated | E::PermissionDenied), "{fault}");

    let Some(metadata) = server("FAKE_CLOUD_GCE_HOST") else { return };
    laws_of_a_bucket(&open(&[("use_managed_credentials", "true")], &context(b"", true, &[("GCE_METADATA_HOST", &metadata)])).await).await;
}

#[tokio::test]
async fn a_missing_bucket_is_told_from_a_missing_object() {
    let Some((front, name)) = new_bucket("stores").await else { return };
    let open = async |bucket: &str| {
        place(&format!("gcs://{front}"), &[("gcs_bucket_name", bucket), ("use_https", "false")])
            .expect("a place")
            .bucket(&context(b"", false, &[]))
            .await
            .expect("a bucket")
    };
    let fault = put(&open("no-such-bucket-here").await).await.expect_err("no bucket");
    assert!(fault.kind == E::NotFound && fault.message.contains("there is no bucket no-such-bucket-here"), "{fault}");
    let found = open(&name).await;
    let fault = found.explain(&found.store.head(&Path::from("k")).await.expect_err("no object"), "read it");
    assert!(fault.message.contains("no such object"), "{fault}");
}
