//! The sink against a real HTTP receiver on loopback, and every way to spell an address that must not be reached.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex},
    time::Duration,
};

use async_trait::async_trait;
use axum::{
    Router,
    body::Bytes,
    extract::State,
    http::{HeaderMap, HeaderName, StatusCode, header},
    response::{IntoResponse, Response},
};
use base64::{Engine, engine::general_purpose::STANDARD};
use sha2::{Digest, Sha256};
use tokio::{net::TcpListener, task::JoinHandle};
use uuid::Uuid;

use super::*;
use crate::{
    clock::{Ambient, Clock, SystemIds, Timestamp},
    connectors::{
        connector::{Appended, Finish, Mark, Noted, Outcome, SinkWriter, StepResult},
        credential::OpenCredential,
        egress::{Egress, EgressPolicy, Resolver},
        error::{ErrorClass, Retry},
    },
    name::{QualifiedName, StreamName},
    record::{Batch, Ndjson, Records},
    secret::Secret,
};

const CANARY: &str = "s3cr3t-canary";

/// 2026-01-01 00:00:00 UTC, for ever.
#[derive(Debug)]
struct NewYear;

impl Clock for NewYear {
    fn now(&self) -> Timestamp {
        Timestamp::from_micros(1_767_225_600_000_000)
    }
}

/// Every name is this machine.
#[derive(Debug)]
struct EverythingIsHere;

#[async_trait]
impl Resolver for EverythingIsHere {
    async fn lookup(&self, _: &str) -> std::io::Result<Vec<IpAddr>> {
        Ok(vec![IpAddr::from([127, 0, 0, 1])])
    }
}

fn egress(roots: &[u8]) -> Arc<Egress> {
    let allow = vec!["127.0.0.0/8".parse().expect("a network")];
    Arc::new(Egress::with_resolver(EgressPolicy { allow, ..EgressPolicy::default() }, roots, Arc::new(EverythingIsHere)).expect("an egress"))
}

fn context(credential: Option<OpenCredential>) -> ConnectContext {
    ConnectContext {
        sink: QualifiedName::parse("s.hook", None).expect("a name"),
        credential,
        egress: egress(b""),
        ambient: Ambient { clock: Arc::new(NewYear), ids: Arc::new(SystemIds) },
        connection_timeout: Duration::from_secs(5),
        reply_timeout: Duration::from_secs(5),
    }
}

fn credential(identity: &str, secret: Option<&str>, options: &[(&str, &str)], secret_options: &[(&str, &str)]) -> Option<OpenCredential> {
    Some(OpenCredential {
        credential_type: CredentialType::Rest,
        identity: identity.to_owned(),
        secret: secret.map(|text| Secret::from(text.to_owned())),
        options: options.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect(),
        secret_options: secret_options.iter().map(|(key, value)| ((*key).to_owned(), Secret::from((*value).to_owned()))).collect(),
        version: 1,
    })
}

fn sink(destination: &str, options: &[(&str, &str)]) -> Result<Arc<dyn Connector>, Vec<ConfigFault>> {
    let given: BTreeMap<String, String> = options.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
    let destination = Destination::parse(destination).map_err(|fault| vec![fault])?;
    Webhook.configure(&destination, &Options::check("webhook", DESCRIPTOR.options, &given)?)
}

fn stream() -> StreamId {
    StreamId { cluster: Uuid::from_u128(1), sink: Uuid::from_u128(2), name: StreamName::parse("orders/eu #1").expect("a name") }
}

fn terms() -> Terms {
    Terms { commit_mode: CommitMode::Continuous, key_columns: Vec::new(), schema: None, options: Options::default(), noted: Noted::default() }
}

fn batch(first_offset: u64, records: &[&str]) -> Batch {
    let (mut text, mut lines) = (String::new(), Vec::new());
    for record in records {
        lines.push((text.len() as u32, (text.len() + record.len()) as u32));
        text.push_str(record);
        text.push('\n');
    }
    let records = Records::Ndjson(Ndjson::from_checked(text.into(), lines.into()));
    Batch::new(first_offset, records)
}

async fn open(destination: &str, options: &[(&str, &str)], cx: &ConnectContext) -> Result<Box<dyn SinkWriter>, ConnectorError> {
    let sink = sink(destination, options).expect("a good sink");
    sink.open(cx, &stream(), Epoch(4), &terms()).await.map(|opened| opened.writer)
}

/// Appends and commits one unit over a new writer.
async fn deliver(destination: &str, options: &[(&str, &str)], cx: &ConnectContext, batch: &Batch) -> Result<Outcome, ConnectorError> {
    let mut writer = open(destination, options, cx).await?;
    writer.append(batch).await?;
    writer.commit(Mark::default()).await
}

/// A request as the receiver saw it.
#[derive(Debug, Clone)]
struct Seen {
    headers: HeaderMap,
    body: Bytes,
}

impl Seen {
    fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().expect("text"))
    }
}

type Reply = Arc<dyn Fn(usize) -> Response + Send + Sync>;

/// An HTTP receiver on loopback that keeps what it saw and answers request `n` as told.
struct Receiving {
    address: SocketAddr,
    seen: Arc<Mutex<Vec<Seen>>>,
    task: JoinHandle<()>,
}

impl Drop for Receiving {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Receiving {
    async fn start(reply: impl Fn(usize) -> Response + Send + Sync + 'static) -> Self {
        let seen = Arc::new(Mutex::new(Vec::new()));
        let reply: Reply = Arc::new(reply);
        let router = Router::new().fallback(take).with_state((seen.clone(), reply));
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
        let address = listener.local_addr().expect("bound");
        let task = spawn(async move { axum::serve(listener, router).await.expect("serves") });
        Self { address, seen, task }
    }

    async fn answering(status: u16) -> Self {
        Self::start(move |_| StatusCode::from_u16(status).expect("a status").into_response()).await
    }

    fn url(&self) -> String {
        format!("http://{}/in", self.address)
    }

    fn seen(&self) -> Vec<Seen> {
        self.seen.lock().expect("not poisoned").clone()
    }
}

async fn take(State((seen, reply)): State<(Arc<Mutex<Vec<Seen>>>, Reply)>, headers: HeaderMap, body: Bytes) -> Response {
    let number = {
        let mut seen = seen.lock().expect("not poisoned");
        seen.push(Seen { headers, body });
        seen.len()
    };
    reply(number)
}

#[expect(clippy::disallowed_methods, reason = "a test owns its servers and aborts them")]
fn spawn(future: impl Future<Output = ()> + Send + 'static) -> JoinHandle<()> {
    tokio::spawn(future)
}

/// HMAC-SHA256 by its definition, apart from the library under test.
fn hmac_sha256(key: &[u8], message: &[u8]) -> Vec<u8> {
    let mut block = [0_u8; 64];
    block[..key.len()].copy_from_slice(key);
    let inner = Sha256::new().chain_update(block.map(|byte| byte ^ 0x36)).chain_update(message).finalize();
    Sha256::new().chain_update(block.map(|byte| byte ^ 0x5c)).chain_update(inner).finalize().to_vec()
}

#[tokio::test]
async fn a_request_says_who_sends_what() {
    let receiving = Receiving::answering(204).await;
    let keys = [[7_u8; 32], [8_u8; 32]];
    let secret = keys.map(|key| format!("whsec_{}", STANDARD.encode(key))).join(" ");
    let cx = context(credential("", None, &[], &[("signing_secret", &secret)]));
    let mut records = batch(41, &[r#"{"a":1}"#]);
    records.traceparent = Some("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01".into());
    let outcome = deliver(&receiving.url(), &[], &cx, &records).await.expect("delivered");
    let [seen] = &receiving.seen()[..] else { panic!("one request") };
    assert_eq!(seen.body, r#"{"a":1}"#);
    let id = seen.header("webhook-id");
    for (name, value) in [
        ("content-type", "application/json"),
        ("idempotency-key", id),
        ("webhook-timestamp", "1767225600"),
        ("datasink-stream", "orders/eu #1"),
        ("datasink-epoch", "4"),
        ("datasink-first-offset", "41"),
        ("datasink-last-offset", "41"),
        ("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),
        ("authorization", ""),
        ("accept-encoding", ""),
        ("datasink-probe", ""),
    ] {
        assert_eq!(seen.header(name), value, "{name}");
    }
    let signed = [format!("{id}.1767225600.").as_bytes(), &seen.body].concat();
    let expected = keys.map(|key| format!("v1,{}", STANDARD.encode(hmac_sha256(&key, &signed)))).join(" ");
    assert_eq!(seen.header("webhook-signature"), expected);
    let [artifact] = &outcome.artifacts[..] else { panic!("one receipt") };
    assert_eq!((artifact.uri.as_str(), artifact.first_offset, artifact.record_count, artifact.byte_count), (receiving.url().as_str(), 41, 1, 7));
    assert_eq!(artifact.attributes, [("http_status".to_owned(), "204".to_owned()), ("webhook_id".to_owned(), id.to_owned())]);
}

#[tokio::test]
async fn a_forged_trace_context_is_left_out() {
    let receiving = Receiving::answering(200).await;
    for forged in ["00-x\r\nhost: evil", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01\r\nx: y", "00-A-b-c", ""] {
        let mut records = batch(0, &["{}"]);
        records.traceparent = Some(forged.into());
        deliver(&receiving.url(), &[], &context(None), &records).await.expect("delivered");
    }
    assert!(receiving.seen().iter().all(|seen| seen.header("traceparent").is_empty() && seen.header("x").is_empty()));
}

#[tokio::test]
async fn credentials_become_headers() {
    let receiving = Receiving::answering(200).await;
    let table = [
        (credential("user", Some("pass word"), &[], &[]), "authorization", "Basic dXNlcjpwYXNzIHdvcmQ="),
        (credential("", Some("t0ken"), &[], &[]), "authorization", "Bearer t0ken"),
        (credential("", None, &[("header_name", "X-Api-Key")], &[("header_value", "k 1")]), "x-api-key", "k 1"),
    ];
    for (credential, name, value) in table {
        deliver(&receiving.url(), &[], &context(credential), &batch(0, &["{}"])).await.expect("delivered");
        assert_eq!(receiving.seen().last().expect("one").header(name), value);
    }
}

#[tokio::test]
async fn credentials_that_make_no_request_stop_the_open_and_stay_unsaid() {
    let bad = [
        credential("user", None, &[], &[]),
        credential("us:er", Some(CANARY), &[], &[]),
        credential("", Some("s3cr3t-canary\r\nhost: evil"), &[], &[]),
        credential("", None, &[("header_name", "Host")], &[("header_value", CANARY)]),
        credential("", None, &[("header_name", "webhook-id")], &[("header_value", CANARY)]),
        credential("", None, &[("header_name", "x")], &[("header_value", "s3cr3t-canary\r\nwebhook-id: 1")]),
        credential("", None, &[("header_name", "x\r\ny")], &[("header_value", CANARY)]),
        credential("", None, &[("header_name", "x")], &[]),
        credential("", None, &[], &[("header_value", CANARY)]),
        credential("", Some(CANARY), &[("header_name", "x")], &[("header_value", CANARY)]),
        credential("", None, &[], &[("signing_secret", CANARY)]),
    ];
    for credential in bad {
        let shown = format!("{credential:?}");
        let error = open("https://r.example/", &[], &context(credential)).await.err().unwrap_or_else(|| panic!("{shown} was taken"));
        assert_eq!((error.kind, error.class), (ConnectorErrorKind::Misconfigured, ErrorClass::Configuration));
        assert!(!error.message.contains("canary") && !shown.contains("canary"), "{error}");
    }
}

#[test]
fn a_credential_that_makes_no_request_is_known_before_it_is_stored_with_every_field() {
    let cases: [(Option<OpenCredential>, &[&str]); 8] = [
        (credential("user", None, &[], &[]), &["secret"]),
        (credential("us:er", Some(CANARY), &[], &[]), &["identity"]),
        (credential("", Some("s3cr3t-canary\r\nhost: evil"), &[], &[]), &["secret"]),
        (
            credential("", None, &[("header_name", "Host")], &[("header_value", "s3cr3t-canary\r\n"), ("signing_secret", CANARY)]),
            &["options[\"signing_secret\"]", "options[\"header_name\"]", "options[\"header_value\"]"],
        ),
        (credential("", None, &[("header_name", "x")], &[]), &["options[\"header_value\"]"]),
        (credential("", None, &[], &[("header_value", CANARY)]), &["options[\"header_name\"]"]),
        (credential("", Some(CANARY), &[("header_name", "x")], &[("header_value", CANARY)]), &["options[\"header_name\"]"]),
        (credential("user", Some("pass word"), &[], &[("signing_secret", &format!("whsec_{}", STANDARD.encode([1; 24])))]), &[]),
    ];
    for (credential, fields) in cases {
        let faults = Webhook.check_credential(&credential.expect("one was made"));
        assert_eq!(faults.iter().map(|fault| fault.field.as_str()).collect::<Vec<_>>(), fields);
        assert!(!format!("{faults:?}").contains("canary"), "{faults:?}");
    }
}

#[tokio::test]
async fn a_credential_never_travels_in_the_clear() {
    let receiving = Receiving::answering(200).await;
    let port = receiving.address.port();
    let bearer = || context(credential("", Some(CANARY), &[], &[]));
    let records = batch(0, &["{}"]);
    deliver(&receiving.url(), &[], &bearer(), &records).await.expect("loopback is no wire");
    deliver(&format!("http://here.example:{port}/"), &[], &bearer(), &records).await.expect("a name of loopback");
    let error = open("http://1.1.1.1/", &[], &bearer()).await.err().expect("refused");
    assert!(error.kind == ConnectorErrorKind::Misconfigured && error.message.contains("https://"), "{error}");
    // A name that leads elsewhere is found out before anything is sent.
    let mut cx = bearer();
    let policy = EgressPolicy::default();
    cx.egress = Arc::new(Egress::with_resolver(policy, b"", Arc::new(Elsewhere)).expect("an egress"));
    let error = deliver("http://else.example/", &[], &cx, &records).await.expect_err("refused");
    assert!(error.kind == ConnectorErrorKind::Misconfigured && error.message.contains("https://"), "{error}");
    // A signature gives nothing away.
    let signing = credential("", None, &[], &[("signing_secret", &format!("whsec_{}", STANDARD.encode([1; 24])))]);
    assert!(open("http://1.1.1.1/", &[], &context(signing)).await.is_ok());
}

#[derive(Debug)]
struct Elsewhere;

#[async_trait]
impl Resolver for Elsewhere {
    async fn lookup(&self, _: &str) -> std::io::Result<Vec<IpAddr>> {
        Ok(vec![IpAddr::from([1, 1, 1, 1])])
    }
}

#[tokio::test]
async fn ids_and_bodies_are_the_same_over_a_new_connection() {
    let receiving = Receiving::start(|number| if number == 1 { StatusCode::SERVICE_UNAVAILABLE } else { StatusCode::OK }.into_response()).await;
    let options = [("json_format", "nested"), ("max_batch_size", "10")];
    let records = batch(5, &[r#"{"a":1}"#, r#"{"a":2}"#]);
    deliver(&receiving.url(), &options, &context(None), &records).await.expect_err("unavailable");
    deliver(&receiving.url(), &options, &context(None), &records).await.expect("delivered");
    let [one, two] = &receiving.seen()[..] else { panic!("two requests") };
    assert_eq!((one.header("webhook-id"), &one.body), (two.header("webhook-id"), &two.body));
    assert_eq!(one.body, r#"[{"a":1},{"a":2}]"#);
}

#[tokio::test]
async fn flat_sends_a_record_a_request_in_order_and_names_the_one_refused() {
    let receiving = Receiving::start(|number| if number == 3 { StatusCode::UNPROCESSABLE_ENTITY } else { StatusCode::OK }.into_response()).await;
    let options = [("max_batch_size", "4")];
    let records = batch(10, &[r#"{"a":0}"#, r#"{"a":1}"#, r#"{"a":2}"#, r#"{"a":3}"#]);
    let error = deliver(&receiving.url(), &options, &context(None), &records).await.expect_err("one is refused");
    assert_eq!((error.kind, error.class), (ConnectorErrorKind::Rejected, ErrorClass::Record));
    assert_eq!(error.records.iter().map(|(offset, _)| *offset).collect::<Vec<_>>(), [12]);
    let bodies: Vec<Bytes> = receiving.seen().into_iter().map(|seen| seen.body).collect();
    assert_eq!(bodies, [r#"{"a":0}"#, r#"{"a":1}"#, r#"{"a":2}"#], "what follows the refused one is not sent");
    // The rest of the unit, sent again, carries the ids it had.
    let mut writer = open(&receiving.url(), &options, &context(None)).await.expect("opens");
    assert_eq!(writer.append(&records.slice(0..2)).await.expect("taken"), Appended::Room);
    assert_eq!(writer.append(&records.slice(3..4)).await.expect("taken"), Appended::Room);
    let outcome = writer.commit(Mark::default()).await.expect("delivered");
    assert_eq!(outcome.artifacts.iter().map(|artifact| artifact.first_offset).collect::<Vec<_>>(), [10, 11, 13]);
    let seen = receiving.seen();
    assert_eq!(seen[0].header("webhook-id"), seen[3].header("webhook-id"));
    assert_eq!(seen[1].header("webhook-id"), seen[4].header("webhook-id"));
}

#[tokio::test]
async fn nested_leaves_the_refused_record_to_be_found_by_halving() {
    let receiving = Receiving::answering(422).await;
    let options = [("json_format", "nested"), ("max_batch_size", "10")];
    let error = deliver(&receiving.url(), &options, &context(None), &batch(0, &["{}", "{}"])).await.expect_err("refused");
    assert!(error.class == ErrorClass::Record && error.records.is_empty());
    let error = deliver(&receiving.url(), &options, &context(None), &batch(7, &["{}"])).await.expect_err("refused");
    assert_eq!(error.records[0].0, 7);
}

#[tokio::test]
async fn limits_bound_every_unit_and_every_body() {
    let receiving = Receiving::answering(200).await;
    let options = [("json_format", "nested"), ("max_batch_size", "3"), ("max_message_size", "20")];
    let mut writer = open(&receiving.url(), &options, &context(None)).await.expect("opens");
    // Seven bytes each: two and a comma between brackets are 17, three would be 25.
    assert_eq!(writer.append(&batch(0, &[r#"{"a":1}"#, r#"{"a":2}"#])).await.expect("taken"), Appended::Room);
    assert_eq!(writer.append(&batch(2, &[r#"{"a":3}"#])).await.expect("taken"), Appended::Full);
    writer.commit(Mark::default()).await.expect("delivered");
    let bodies: Vec<Bytes> = receiving.seen().into_iter().map(|seen| seen.body).collect();
    assert_eq!(bodies, [r#"[{"a":1},{"a":2}]"#, r#"[{"a":3}]"#]);
    // 18 bytes between two brackets are 20, 19 are one too many.
    let (fits, too_large) = (format!(r#"{{"a":"{}"}}"#, "x".repeat(10)), format!(r#"{{"a":"{}"}}"#, "x".repeat(11)));
    let error = writer.append(&batch(5, &["{}", &too_large, &fits, &too_large])).await.expect_err("too large");
    assert_eq!((error.kind, error.class), (ConnectorErrorKind::TooLarge, ErrorClass::Record));
    assert_eq!(error.records.iter().map(|(offset, _)| *offset).collect::<Vec<_>>(), [6, 8]);
    assert_eq!(writer.append(&batch(5, &[&fits])).await.expect("taken"), Appended::Full);
    writer.commit(Mark::default()).await.expect("nothing of the refused batch was taken");
    assert_eq!(receiving.seen().last().expect("one").body, format!("[{fits}]"));
    let flat = [("max_message_size", "18")];
    deliver(&receiving.url(), &flat, &context(None), &batch(0, &[&fits])).await.expect("18 bytes fit into 18");
    assert!(deliver(&receiving.url(), &flat, &context(None), &batch(0, &[&too_large])).await.is_err());
}

#[tokio::test]
async fn units_fit_bodies_as_the_session_counts_them() {
    for (format, records, bytes) in [("flat", "7", 101), ("nested", "7", 99)] {
        let sink = sink("https://r.example/", &[("json_format", format), ("max_batch_size", records), ("max_message_size", "100")]).expect("a good sink");
        let opened = sink.open(&context(None), &stream(), Epoch(9), &terms()).await.expect("opens");
        assert_eq!((opened.units.records_max, opened.units.bytes_max, opened.units.commits_in_flight), (7, bytes, 1));
        assert_eq!((opened.epoch, opened.mark, opened.delivery.guarantee), (Epoch(9), FoundMark::NotKept, Guarantee::Idempotent));
        assert!(opened.delivery.basis.starts_with("webhooks cannot be exactly-once"));
    }
}

#[tokio::test]
async fn a_stream_may_cut_otherwise_than_its_sink() {
    let sink = sink("https://r.example/", &[("max_batch_size", "7")]).expect("a good sink");
    let given = BTreeMap::from([("max_batch_size".to_owned(), "9".to_owned())]);
    let options = Options::default().overridden("webhook", DESCRIPTOR.options, &given).expect("may be overridden");
    let opened = sink.open(&context(None), &stream(), Epoch(1), &Terms { options, ..terms() }).await.expect("opens");
    assert_eq!((opened.units.records_max, opened.units.bytes_max), (9, 1_000_001));
}

#[tokio::test]
async fn nothing_is_sent_for_an_empty_or_abandoned_unit_and_finish_sends_the_rest() {
    let receiving = Receiving::answering(200).await;
    let mut writer = open(&receiving.url(), &[], &context(None)).await.expect("opens");
    assert!(writer.commit(Mark::default()).await.expect("nothing to do").artifacts.is_empty());
    writer.append(&batch(0, &["{}"])).await.expect("taken");
    writer.abandon().await;
    writer.commit(Mark::default()).await.expect("nothing to do");
    writer.append(&batch(0, &["{}"])).await.expect("taken");
    writer.finish(Finish::Abort, Mark::default()).await.expect("nothing to do");
    assert!(receiving.seen().is_empty());
    let mut writer = open(&receiving.url(), &[], &context(None)).await.expect("opens");
    writer.append(&batch(0, &["{}"])).await.expect("taken");
    writer.finish(Finish::Commit, Mark::default()).await.expect("delivered");
    assert_eq!(receiving.seen().len(), 1);
}

#[tokio::test]
async fn records_cannot_be_held_until_finish() {
    let sink = sink("https://r.example/", &[]).expect("a good sink");
    let error = sink.open(&context(None), &stream(), Epoch(1), &Terms { commit_mode: CommitMode::OnFinish, ..terms() }).await.expect_err("refused");
    assert_eq!(error.kind, ConnectorErrorKind::Misconfigured);
}

#[tokio::test]
async fn a_receiver_that_asks_for_time_gets_it() {
    for (value, seconds) in [("7", 7), ("Thu, 01 Jan 2026 00:01:00 GMT", 60), ("9999", 300)] {
        let receiving = Receiving::start(move |_| (StatusCode::TOO_MANY_REQUESTS, [(header::RETRY_AFTER, value)]).into_response()).await;
        let error = deliver(&receiving.url(), &[], &context(None), &batch(0, &["{}"])).await.expect_err("throttled");
        assert_eq!((error.kind, error.class), (ConnectorErrorKind::Throttled, ErrorClass::Destination));
        assert_eq!(error.retry, Retry::After(Duration::from_secs(seconds)), "{value}");
    }
}

#[tokio::test]
async fn redirects_are_not_followed() {
    let target = Receiving::answering(200).await;
    for status in [301_u16, 302, 303, 307, 308] {
        for location in [target.url(), "http://169.254.169.254/".to_owned(), "file:///etc/passwd".to_owned()] {
            let status = StatusCode::from_u16(status).expect("a status");
            let receiving = Receiving::start(move |_| (status, [(header::LOCATION, location.clone())]).into_response()).await;
            let error = deliver(&receiving.url(), &[], &context(None), &batch(0, &["{}"])).await.expect_err("a redirect");
            assert_eq!((error.kind, error.class), (ConnectorErrorKind::Misconfigured, ErrorClass::Configuration));
            assert_eq!(receiving.seen().len(), 1);
        }
    }
    assert!(target.seen().is_empty());
}

#[tokio::test]
async fn refusals_of_the_whole_sink_stop_it() {
    for (status, kind) in [(401, ConnectorErrorKind::Unauthenticated), (403, ConnectorErrorKind::PermissionDenied), (410, ConnectorErrorKind::NotFound)] {
        let receiving = Receiving::answering(status).await;
        let error = deliver(&receiving.url(), &[], &context(None), &batch(0, &["{}"])).await.expect_err("refused");
        assert_eq!((error.kind, error.class), (kind, ErrorClass::Configuration), "{status}");
        assert!(error.message.contains(&status.to_string()));
    }
}

#[tokio::test]
async fn what_a_receiver_says_is_not_repeated() {
    let body = format!("your token {CANARY} is wrong");
    let receiving = Receiving::start(move |_| (StatusCode::BAD_REQUEST, [(HeaderName::from_static("x-why"), CANARY)], body.clone()).into_response()).await;
    let error = deliver(&receiving.url(), &[], &context(credential("", Some(CANARY), &[], &[])), &batch(0, &["{}"])).await.expect_err("refused");
    assert!(!format!("{error:?}").contains("canary"), "{error:?}");
}

#[tokio::test]
async fn a_large_reply_body_is_not_read_to_its_end() {
    let receiving = Receiving::start(|_| vec![b'x'; 8 << 20].into_response()).await;
    deliver(&receiving.url(), &[], &context(None), &batch(0, &["{}"])).await.expect("the status is what counts");
}

#[tokio::test]
async fn a_slow_answer_is_timed_out() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
    let url = format!("http://{}/", listener.local_addr().expect("bound"));
    let mut cx = context(None);
    (cx.connection_timeout, cx.reply_timeout) = (Duration::from_millis(100), Duration::from_millis(100));
    // The system accepts the connection; nobody ever reads from it.
    let error = deliver(&url, &[], &cx, &batch(0, &["{}"])).await.expect_err("no answer");
    assert_eq!((error.kind, error.class, error.retry), (ConnectorErrorKind::TimedOut, ErrorClass::Destination, Retry::Backoff));
}

#[tokio::test]
async fn a_connection_that_breaks_after_the_request_leaves_the_outcome_open() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
    let url = format!("http://{}/", listener.local_addr().expect("bound"));
    let task = spawn(async move {
        let (mut stream, _) = listener.accept().await.expect("a connection");
        let mut read = [0; 1024];
        tokio::io::AsyncReadExt::read(&mut stream, &mut read).await.expect("a request");
    });
    let error = deliver(&url, &[], &context(None), &batch(0, &["{}"])).await.expect_err("it broke");
    assert_eq!((error.kind, error.class), (ConnectorErrorKind::Unknown, ErrorClass::Destination), "{error}");
    task.abort();
}

#[tokio::test]
async fn a_refused_connection_is_unreachable() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
    let url = format!("http://{}/", listener.local_addr().expect("bound"));
    drop(listener);
    let error = deliver(&url, &[], &context(None), &batch(0, &["{}"])).await.expect_err("refused");
    assert_eq!((error.kind, error.class), (ConnectorErrorKind::Unreachable, ErrorClass::Destination));
}

/// An HTTPS receiver with a certificate of its own for r.example: its address, and the certificate as PEM.
async fn tls_receiver() -> (SocketAddr, String, JoinHandle<()>) {
    let made = rcgen::generate_simple_self_signed(["r.example".to_owned()]).expect("a certificate");
    let key = rustls::pki_types::PrivateKeyDer::try_from(made.signing_key.serialize_der()).expect("a key");
    let config = rustls::ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)
        .expect("a server");
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
    let address = listener.local_addr().expect("bound");
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let task = spawn(async move {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        while let Ok((stream, _)) = listener.accept().await {
            if let Ok(mut stream) = acceptor.accept(stream).await {
                let mut read = [0; 4096];
                if stream.read(&mut read).await.is_ok_and(|count| count > 0) {
                    stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n").await.expect("answers");
                    stream.shutdown().await.ok();
                }
            }
        }
    });
    (address, made.cert.pem(), task)
}

#[tokio::test]
async fn a_certificate_must_be_trusted_and_fit_the_name() {
    let (address, pem, task) = tls_receiver().await;
    let records = batch(0, &["{}"]);
    let (right, wrong) = (format!("https://r.example:{}/", address.port()), format!("https://other.example:{}/", address.port()));
    let error = deliver(&right, &[], &context(None), &records).await.expect_err("self-signed");
    assert_eq!((error.kind, error.class), (ConnectorErrorKind::Tls, ErrorClass::Configuration), "{error}");
    let trusting = ConnectContext { egress: egress(pem.as_bytes()), ..context(credential("", Some(CANARY), &[], &[])) };
    deliver(&right, &[], &trusting, &records).await.expect("trusted by the extra root");
    let error = deliver(&wrong, &[], &trusting, &records).await.expect_err("another name");
    assert_eq!(error.kind, ConnectorErrorKind::Tls, "{error}");
    let probe = sink(&right, &[]).expect("a good sink").probe(&trusting, true).await;
    assert!(probe.passed(), "{probe:?}");
    assert!(probe.steps.iter().any(|step| step.name == "tls" && matches!(step.result, StepResult::Passed)));
    let probe = sink(&wrong, &[]).expect("a good sink").probe(&trusting, true).await;
    assert_eq!(failed_step(&probe), Some("tls"));
    task.abort();
}

#[tokio::test]
async fn plain_text_where_tls_is_due_fails() {
    let receiving = Receiving::answering(200).await;
    let url = receiving.url().replace("http://", "https://");
    let error = deliver(&url, &[], &context(None), &batch(0, &["{}"])).await.expect_err("no TLS there");
    assert_eq!(error.kind, ConnectorErrorKind::Tls, "{error}");
    assert!(receiving.seen().is_empty());
}

fn failed_step(probe: &Probe) -> Option<&str> {
    probe.steps.iter().find(|step| matches!(step.result, StepResult::Failed { .. })).map(|step| step.name.as_str())
}

#[tokio::test]
async fn a_probe_goes_step_by_step_and_posts_only_when_asked() {
    let receiving = Receiving::answering(200).await;
    let good = sink(&receiving.url(), &[]).expect("a good sink");
    let probe = good.probe(&context(None), false).await;
    assert!(probe.passed());
    let names: Vec<&str> = probe.steps.iter().map(|step| step.name.as_str()).collect();
    assert_eq!(names, ["configuration", "credential", "resolve", "connect", "tls", "authenticate", "write"]);
    assert!(receiving.seen().is_empty());
    assert!(good.probe(&context(None), true).await.passed());
    let [seen] = &receiving.seen()[..] else { panic!("one request") };
    assert_eq!((seen.header("datasink-probe"), &seen.body[..]), ("1", &b"{}"[..]));
    assert!(seen.header("webhook-id").starts_with("msg_"));

    let step = |probe| failed_step(&probe).unwrap_or_default().to_owned();
    assert_eq!(step(sink("https://10.0.0.1/", &[]).expect("a good sink").probe(&context(None), false).await), "configuration");
    assert_eq!(step(good.probe(&context(credential("user", None, &[], &[])), false).await), "credential");
    let blind = ConnectContext {
        egress: Arc::new(Egress::with_resolver(EgressPolicy::default(), b"", Arc::new(EverythingIsHere)).expect("an egress")),
        ..context(None)
    };
    assert_eq!(step(sink("https://r.example/", &[]).expect("a good sink").probe(&blind, false).await), "resolve");
    let refusing = Receiving::answering(401).await;
    assert_eq!(step(sink(&refusing.url(), &[]).expect("a good sink").probe(&context(None), true).await), "write");
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
    let url = format!("http://{}/", listener.local_addr().expect("bound"));
    drop(listener);
    let probe = sink(&url, &[]).expect("a good sink").probe(&context(None), false).await;
    assert_eq!(failed_step(&probe), Some("connect"));
    assert!(probe.steps[4..].iter().all(|step| matches!(step.result, StepResult::Skipped)));
}

/// Whether a webhook to `url` is refused for its address or its form, when it is made or when it is opened.
async fn refused(url: &str) -> bool {
    let egress = Egress::new(EgressPolicy::default(), b"").expect("an egress");
    match sink(url, &[]) {
        Err(_) => true,
        Ok(sink) => {
            let cx = ConnectContext { egress: Arc::new(egress), ..context(None) };
            matches!(sink.open(&cx, &stream(), Epoch(1), &terms()).await, Err(error) if error.kind == ConnectorErrorKind::BlockedAddress)
        }
    }
}

#[tokio::test]
async fn no_spelling_of_an_inside_address_gets_through() {
    let spellings = [
        // IPv4 in every base and length.
        "http://169.254.169.254/latest/meta-data/",
        "http://2852039166/",
        "http://0xa9fea9fe/",
        "http://0xA9.0xFE.0xA9.0xFE/",
        "http://0251.0376.0251.0376/",
        "http://025177524776/",
        "http://169.254.43518/",
        "http://169.16689662/",
        "http://0xa9.254.0251.254/",
        "http://0000000251.0376.0251.0376/",
        "http://169.254.169.254./",
        "http://169.254.169.254:80/",
        "HTTP://169.254.169.254/",
        "https://169.254.170.2/v2/credentials",
        "http://127.0.0.1/",
        "http://127.1/",
        "http://127.0.1/",
        "http://2130706433/",
        "http://0x7f000001/",
        "http://0x7f.1/",
        "http://017700000001/",
        "http://0177.0.0.1/",
        "http://127.255.255.254/",
        "http://127.0.0.1.:8080/",
        "http://0/",
        "http://0.0.0.0/",
        "http://0x0/",
        "http://00/",
        "http://0.1.2.3/",
        "http://10.0.0.1/",
        "http://0xa000001/",
        "http://012.0.0.1/",
        "http://172.16.0.1/",
        "http://172.31.255.255/",
        "http://192.168.1.1/",
        "http://192.168.257/",
        "http://100.64.0.1/",
        "http://100.100.100.200/",
        "http://168.63.129.16/",
        "http://192.0.0.192/",
        "http://192.0.0.1/",
        "http://192.0.2.1/",
        "http://198.18.0.1/",
        "http://198.51.100.7/",
        "http://203.0.113.9/",
        "http://224.0.0.1/",
        "http://240.0.0.1/",
        "http://255.255.255.255/",
        "http://4294967295/",
        // Digits and dots from elsewhere in Unicode, and their escapes.
        "http://①⑥⑨.②⑤④.①⑥⑨.②⑤④/",
        "http://１６９.２５４.１６９.２５４/",
        "http://169。254。169。254/",
        "http://169｡254｡169｡254/",
        "http://𝟙𝟞𝟡.254.169.254/",
        "http://%31%36%39.254.169.254/",
        "http://169%2e254%2e169%2e254/",
        // IPv6, and IPv4 inside it.
        "http://[::1]/",
        "http://[0:0:0:0:0:0:0:1]/",
        "http://[::]/",
        "http://[::ffff:a9fe:a9fe]/",
        "http://[::ffff:169.254.169.254]/",
        "http://[0:0:0:0:0:ffff:a9fe:a9fe]/",
        "http://[::FFFF:7f00:1]/",
        "http://[::a9fe:a9fe]/",
        "http://[::127.0.0.1]/",
        "http://[::ffff:0:a9fe:a9fe]/",
        "http://[64:ff9b::a9fe:a9fe]/",
        "http://[64:ff9b::7f00:1]/",
        "http://[64:ff9b:1::a9fe:a9fe]/",
        "http://[2002:a9fe:a9fe::]/",
        "http://[2002:7f00:1::1]/",
        "http://[2001:0:4136:e378:8000:63bf:3fff:fdd2]/",
        "http://[fe80::1]/",
        "http://[fe80::1%25eth0]/",
        "http://[fe80::1%eth0]/",
        "http://[fec0::1]/",
        "http://[fd00:ec2::254]/",
        "http://[fc00::1]/",
        "http://[fd12:3456:789a::1]/",
        "http://[ff02::1]/",
        "http://[2001:db8::1]/",
        "http://[100::1]/",
        // Who is the host?
        "http://good.example@169.254.169.254/",
        "http://good.example:x@169.254.169.254/",
        "http://169.254.169.254@good.example/",
        "http://good.example#@169.254.169.254/",
        "http://169.254.169.254\\@good.example/",
        "http://good.example\\.169.254.169.254/",
        "http:///169.254.169.254/",
        "http:////169.254.169.254/",
        "http:/\\169.254.169.254/",
        "http:169.254.169.254/",
        "http://169.254.169.254?@good.example/",
        "http://169.254.169.254#good.example",
        // No host, no URL, no HTTP.
        "http://",
        "http://:80/",
        "http://good.example:0/",
        "http://good.example:99999/",
        "http://good.example/\r\nhost: evil",
        "http://good.example/a\tb",
        "http://good.example /",
        "http://[::1/",
        "http://1.2.3.4.5/",
        "http://256.256.256.256/",
        "http://0x100000000/",
    ];
    for url in spellings {
        assert!(refused(url).await, "{url:?} got through");
    }
}

#[tokio::test]
async fn public_spellings_pass() {
    for url in [
        "https://good.example/a/b?c=d",
        "http://1.1.1.1/",
        "http://0x01010101/",
        "https://[2606:4700::1111]:8443/",
        "https://bücher.example/",
        "https://a_b.example/",
    ] {
        assert!(!refused(url).await, "{url:?} was refused");
    }
}

#[tokio::test]
async fn names_are_checked_when_they_are_connected_to() {
    let here = ConnectContext {
        egress: Arc::new(Egress::with_resolver(EgressPolicy::default(), b"", Arc::new(EverythingIsHere)).expect("an egress")),
        ..context(None)
    };
    let error = deliver("https://inside.example/", &[], &here, &batch(0, &["{}"])).await.expect_err("loopback");
    assert_eq!((error.kind, error.class), (ConnectorErrorKind::BlockedAddress, ErrorClass::Configuration));
    assert!(!error.message.contains("127.0.0.1"), "{error}");
}

#[test]
fn a_user_in_the_destination_is_sent_to_a_credential_and_not_repeated() {
    let faults = sink(&format!("https://user:{CANARY}@r.example/#x"), &[]).expect_err("refused");
    assert_eq!(faults.len(), 2, "both faults at once: {faults:?}");
    assert!(faults[0].message.contains("credential") && !format!("{faults:?}").contains(CANARY));
}

#[test]
fn options_out_of_bounds_are_refused_together() {
    let bad = [("max_batch_size", "10001"), ("max_message_size", "0"), ("json_format", "deep"), ("method", "GET")];
    assert_eq!(sink("https://r.example/", &bad).expect_err("refused").len(), 4);
    for good in [("max_batch_size", "10000"), ("max_message_size", "4194304"), ("json_format", "nested")] {
        assert!(sink("https://r.example/", &[good]).is_ok());
    }
}
