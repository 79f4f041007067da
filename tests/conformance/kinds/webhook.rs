//! Why: webhooks under test: a receiver that keeps a ledger, refuses what it is told to and de-duplicates by `webhook-id` as the handbook asks of receivers, behind the fault proxy. Never signs for the product.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex},
};

use async_trait::async_trait;
use axum::{Router, body::Bytes, extract::State, http::HeaderMap, http::StatusCode, routing::post};
use datasink::api::pb::{CredentialType, DeliveryGuarantee};

use crate::{
    kind::{CredentialSpec, Fence, Kind, Promises, Seen, SinkSpec, Target},
    proxy::{Mode, Proxy, Wanted},
    support::Caller,
};

/// Records of one request.
const BATCH_RECORDS: u64 = 50;
/// Bytes of one request.
const MESSAGE_BYTES_MAX: usize = 50_000;
/// What the receiver refuses.
const POISON: &str = "poison";
/// Slow enough to be cut in the middle of a request of [`BATCH_RECORDS`].
const SLOW_BYTES_PER_SECOND: u64 = 2_000;
/// Less than such a request.
const HALF_BYTES: u64 = 1_000;

/// HTTP receivers.
pub struct Webhook;

const DECLINES: &[(&str, &str)] = &[
    ("template_field_missing", "requests are not placed by a field"),
    ("partitions_by_value", "requests are not placed by a field"),
    ("partitions_counted_by_manifest", "requests are not placed by a field"),
    ("forms_read_by_strangers", "a request has the form that the receiver is promised"),
    ("upload_of_a_kill_removed", "a request cannot be taken back"),
    ("smaller_object_after_a_kill", "a request cannot be taken back"),
    ("went_back_detected", "the receiver keeps no mark that could go back"),
    ("on_finish", "a request cannot be taken back"),
];

#[async_trait]
impl Kind for Webhook {
    fn name(&self) -> &'static str {
        "webhook"
    }

    fn promises(&self) -> Promises {
        // No copies after a crash: the ledger de-duplicates by id, and one id never carries two bodies.
        Promises { guarantee: DeliveryGuarantee::Idempotent, mark_kept: false, fence: Fence::Note, copies_after_crash: false, declines: DECLINES }
    }

    async fn target(&self) -> Arc<dyn Target> {
        Arc::new(WebhookTarget::start(BATCH_RECORDS).await)
    }
}

#[derive(Default)]
struct Ledger {
    /// Bearer tokens that are let in.
    tokens: BTreeSet<String>,
    /// Accepted requests: id, stream, body.
    taken: Vec<(String, String, Bytes)>,
}

struct WebhookTarget {
    ledger: Arc<Mutex<Ledger>>,
    proxy: Proxy,
    batch_records: u64,
    up_bytes: Mutex<u64>,
}

impl WebhookTarget {
    async fn start(batch_records: u64) -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let ledger = Arc::new(Mutex::new(Ledger { tokens: BTreeSet::from(["first".to_owned()]), ..Ledger::default() }));
        let router = Router::new().route("/hook", post(take)).with_state(ledger.clone());
        #[expect(clippy::disallowed_methods, reason = "the receiver lives as long as its trial's runtime")]
        tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        let proxy = Proxy::before(address).await.unwrap();
        Self { ledger, proxy, batch_records, up_bytes: Mutex::default() }
    }
}

async fn take(State(ledger): State<Arc<Mutex<Ledger>>>, headers: HeaderMap, body: Bytes) -> StatusCode {
    let mut ledger = ledger.lock().unwrap();
    let text = |name: &str| headers.get(name).map(|value| value.to_str().unwrap().to_owned()).unwrap_or_default();
    if !text("authorization").strip_prefix("Bearer ").is_some_and(|token| ledger.tokens.contains(token)) {
        return StatusCode::UNAUTHORIZED;
    }
    if headers.contains_key("datasink-probe") {
        return StatusCode::NO_CONTENT;
    }
    // A dead letter tells of what was refused elsewhere; this receiver refuses the record itself.
    if memchr(&body, POISON) && !memchr(&body, "\"sink\"") {
        return StatusCode::UNPROCESSABLE_ENTITY;
    }
    ledger.taken.push((text("webhook-id"), text("datasink-stream"), body));
    StatusCode::NO_CONTENT
}

fn memchr(body: &[u8], word: &str) -> bool {
    body.windows(word.len()).any(|window| window == word.as_bytes())
}

fn token(secret: &str) -> CredentialSpec {
    CredentialSpec { credential_type: CredentialType::Rest, identity: String::new(), secret: secret.to_owned(), options: Vec::new() }
}

#[async_trait]
impl Target for WebhookTarget {
    fn sink(&self) -> SinkSpec {
        let option = |name: &str, value: String| (name.to_owned(), value);
        SinkSpec {
            destination: format!("http://{}/hook", self.proxy.address),
            options: vec![
                option("json_format", "nested".to_owned()),
                option("max_batch_size", self.batch_records.to_string()),
                option("max_message_size", MESSAGE_BYTES_MAX.to_string()),
            ],
            credential: Some(token("first")),
        }
    }

    async fn read(&self, _: &Caller) -> Vec<Seen> {
        let ledger = self.ledger.lock().unwrap();
        let (mut bodies, mut records) = (BTreeMap::new(), Vec::new());
        for (id, stream, body) in &ledger.taken {
            match bodies.insert(id, body) {
                Some(earlier) => assert_eq!(earlier, body, "one id never carries two bodies"),
                None => match serde_json::from_slice(body).expect("JSON") {
                    serde_json::Value::Array(all) => records.extend(all.into_iter().map(|record| Seen { place: stream.clone(), record })),
                    record => records.push(Seen { place: stream.clone(), record }),
                },
            }
        }
        records
    }

    fn poison(&self, n: u64) -> String {
        format!(r#"{{"n":{n},"pad":"{POISON}"}}"#)
    }

    async fn letters(&self) -> Arc<dyn Target> {
        Arc::new(Self::start(1).await)
    }

    async fn lose_reply(&self) {
        self.proxy.lose_reply(Wanted::Containing(b"POST /hook".to_vec()), 1);
    }

    fn replies_lost(&self) -> u64 {
        self.proxy.counts().replies_lost
    }

    async fn down(&self) {
        self.proxy.mode(Mode::Refuse);
    }

    async fn up(&self) {
        self.proxy.limit(0);
        self.proxy.mode(Mode::Pass);
    }

    async fn slow(&self) {
        *self.up_bytes.lock().unwrap() = self.proxy.counts().up_bytes;
        self.proxy.limit(SLOW_BYTES_PER_SECOND);
    }

    async fn break_in_the_middle(&self) {
        let before = *self.up_bytes.lock().unwrap();
        self.proxy.until(|counts| counts.up_bytes >= before + HALF_BYTES).await;
        self.proxy.mode(Mode::Refuse);
        self.proxy.until(|counts| counts.cut > 0).await;
    }

    fn wrong_credential(&self) -> CredentialSpec {
        token("a-token-nobody-knows")
    }

    async fn rotate(&self) -> CredentialSpec {
        self.ledger.lock().unwrap().tokens.insert("second".to_owned());
        token("second")
    }

    async fn retire_first_credential(&self) {
        self.ledger.lock().unwrap().tokens.remove("first");
    }

    fn attempts(&self) -> u64 {
        self.proxy.counts().requests
    }

    fn nowhere(&self) -> (SinkSpec, String) {
        let sink = self.sink();
        (SinkSpec { destination: format!("http://{}/nowhere", self.proxy.address), ..sink }, "/nowhere".to_owned())
    }

    fn too_large(&self, n: u64) -> String {
        format!(r#"{{"n":{n},"pad":"{}"}}"#, "x".repeat(MESSAGE_BYTES_MAX))
    }
}
