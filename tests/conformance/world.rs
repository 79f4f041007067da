//! Why: what every case begins with (a fresh destination, a server, a sink onto it) and ends with (what was sent compared with what is there). Never asks the server what is there.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use datasink::api::pb::{CreateCredentialRequest, CreateDataSinkRequest, OpenStream};
use serde_json::Value;
use tonic::Status;

use crate::{
    kind::{CredentialSpec, Kind, Promises, Seen, SinkSpec, Target},
    server::{Left, Server},
    stream::open,
    support::Caller,
};

/// The sink of every case.
pub const SINK: &str = "default.sink";

/// What records have in the field `region`, in turns; some of it is hard to make a place of.
pub const REGIONS: [&str; 4] = ["eu", "b/../c", "", "100% ü"];

/// A server with a sink onto a fresh destination.
pub struct World {
    pub promises: Promises,
    pub target: Arc<dyn Target>,
    pub server: Server,
    left: Left,
}

impl World {
    /// With the sink made and checked.
    pub async fn new(kind: &dyn Kind) -> Self {
        let world = Self::bare(kind).await;
        world.create_sink(SINK, &world.target.sink()).await.expect("the sink is made");
        world
    }

    /// Without the sink.
    pub async fn bare(kind: &dyn Kind) -> Self {
        Self::before(kind, kind.target().await).await
    }

    /// Without the sink, and before a destination that asks for a credential.
    pub async fn guarded(kind: &dyn Kind) -> Self {
        Self::before(kind, kind.guarded_target().await).await
    }

    async fn before(kind: &dyn Kind, target: Arc<dyn Target>) -> Self {
        let left = Left::new(target.rows());
        let server = Server::start(&left).await;
        target.prepare(&server.admin()).await;
        Self { promises: kind.promises(), target, server, left }
    }

    pub fn admin(&self) -> Caller {
        self.server.admin()
    }

    /// Kills the server and starts another one on what it left.
    pub async fn kill(&mut self) {
        self.server.kill();
        self.server = Server::start(&self.left).await;
    }

    /// Another server on the same store, beside the one that runs.
    pub async fn another(&self) -> Server {
        Server::start(&self.left).await
    }

    /// Makes a sink and the credential it needs, called as the sink.
    pub async fn create_sink(&self, name: &str, spec: &SinkSpec) -> Result<(), Status> {
        create_sink(&self.admin(), name, spec).await
    }

    /// An open frame for a stream of the sink.
    pub fn open(&self, stream: &str) -> OpenStream {
        open(SINK, stream)
    }

    pub async fn read(&self) -> Vec<Seen> {
        self.target.read(&self.admin()).await
    }

    /// Everything sent is there, once each, unbent, in order, and nothing else is.
    pub async fn check(&self, sent: &Sent) {
        sent.check(&self.read().await, false);
    }

    /// As [`World::check`], after a crash: copies are a fault only where the kind promises none.
    pub async fn check_after_crash(&self, sent: &Sent) {
        sent.check(&self.read().await, self.promises.copies_after_crash);
    }
}

/// See [`World::create_sink`].
pub async fn create_sink(admin: &Caller, name: &str, spec: &SinkSpec) -> Result<(), Status> {
    let mut options: HashMap<String, String> = spec.options.iter().cloned().collect();
    if let Some(credential) = &spec.credential {
        create_credential(admin, name, credential).await;
        options.insert("credential".to_owned(), name.to_owned());
    }
    let request = CreateDataSinkRequest { name: name.to_owned(), destination: spec.destination.clone(), options, ..CreateDataSinkRequest::default() };
    admin.sinks().create_data_sink(request).await.map(|_| ())
}

async fn create_credential(admin: &Caller, name: &str, spec: &CredentialSpec) {
    use datasink::api::pb::create_credential_request::SecretSource;
    let request = CreateCredentialRequest {
        name: name.to_owned(),
        r#type: spec.credential_type.into(),
        identity: spec.identity.clone(),
        secret_source: Some(SecretSource::Secret(spec.secret.clone())),
        options: spec.options.iter().cloned().collect(),
        or_replace: true,
        ..CreateCredentialRequest::default()
    };
    admin.credentials().create_credential(request).await.expect("the credential is stored");
}

/// What was sent and must be there, by number.
#[derive(Debug, Clone, Default)]
pub struct Sent {
    records: BTreeMap<u64, Value>,
}

impl Sent {
    /// Records `range` as NDJSON lines; the same number always makes the same record.
    pub fn lines(&mut self, range: std::ops::Range<u64>) -> String {
        range.map(|n| self.line(n) + "\n").collect()
    }

    /// One of them. What is hard to carry is in it: quotes, what is not ASCII, a line's end.
    pub fn line(&mut self, n: u64) -> String {
        let pad = format!("{n} \"ü\" \\ \n☃ {}", "x".repeat(usize::try_from(n % 40).expect("small")));
        let region = REGIONS[usize::try_from(n % REGIONS.len() as u64).expect("small")];
        self.record(n, serde_json::json!({ "n": n, "pad": pad, "region": region }))
    }

    /// One that a case makes up itself, whose field `n` is its number.
    pub fn record(&mut self, n: u64, record: Value) -> String {
        let line = record.to_string();
        self.records.insert(n, record);
        line
    }

    pub fn len(&self) -> u64 {
        self.records.len() as u64
    }

    /// Fails with the first numbers of what is missing, too much, bent or out of order.
    pub fn check(&self, seen: &[Seen], copies_allowed: bool) {
        self.invented(seen);
        let mut count: BTreeMap<u64, u64> = BTreeMap::new();
        let mut last: BTreeMap<&str, u64> = BTreeMap::new();
        let mut disorder = Vec::new();
        for one in seen {
            let times = count.entry(one.n()).or_default();
            *times += 1;
            if *times == 1 {
                // The first occurrence is what has an order.
                if last.get(one.place.as_str()).is_some_and(|before| *before > one.n()) {
                    disorder.push(one.n());
                }
                last.insert(&one.place, one.n());
            }
        }
        let missing: Vec<u64> = self.records.keys().filter(|n| !count.contains_key(n)).copied().collect();
        let twice: Vec<u64> = count.iter().filter(|(_, times)| **times > 1).map(|(n, _)| *n).collect();
        assert!(missing.is_empty(), "{} of {} records are not there: {}", missing.len(), self.len(), few(&missing));
        assert!(copies_allowed || twice.is_empty(), "{} records are there more than once: {}", twice.len(), few(&twice));
        assert!(disorder.is_empty(), "{} records come after later ones: {}", disorder.len(), few(&disorder));
    }

    /// Fails on a record that was never sent, or not so.
    pub fn invented(&self, seen: &[Seen]) {
        let invented: Vec<&Value> = seen.iter().filter(|one| self.records.get(&one.n()) != Some(&one.record)).map(|one| &one.record).collect();
        assert!(invented.is_empty(), "{} records are there that were never sent like this, the first is {}", invented.len(), invented[0]);
    }
}

fn few(numbers: &[u64]) -> String {
    let shown: Vec<String> = numbers.iter().take(10).map(u64::to_string).collect();
    shown.join(", ") + if numbers.len() > 10 { ", …" } else { "" }
}

/// How many different records there are.
pub fn distinct(seen: &[Seen]) -> u64 {
    seen.iter().map(Seen::n).collect::<std::collections::BTreeSet<_>>().len() as u64
}
