//! Why: the three object stores under test: a bucket of its own a trial, behind the fault proxy, read by the vendor's own client. Never knows how objects are named.

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicU64, Ordering},
};

use async_trait::async_trait;
use datasink::api::pb::{CredentialType, DeliveryGuarantee};
use tokio::process::Command;

use crate::{
    foreign,
    kind::{CredentialSpec, Fence, Form, Kind, Promises, Seen, SinkSpec, Target},
    proxy::{Mode, Proxy, Wanted},
    support::Caller,
};

/// Slow enough to be cut in the middle of an object.
const SLOW_BYTES_PER_SECOND: u64 = 20_000;
/// More than what is said before an object, and less than the object.
const HALF_BYTES: u64 = 30_000;

/// Objects in the buckets of one store.
pub struct Objects {
    store: Store,
    /// Whether records say by their field `region` where they lie; then what counts is what manifests name.
    partitioned: bool,
}

/// Amazon S3, as MinIO speaks it.
pub const S3: Objects = Objects { store: Store::S3, partitioned: false };
/// Google Cloud Storage: fake-gcs-server behind a front for the XML interface. What the front does itself (copies, parts) is the front's.
pub const GCS: Objects = Objects { store: Store::Gcs, partitioned: false };
/// Azure Blob Storage, as Azurite speaks it.
pub const AZURE: Objects = Objects { store: Store::Azure, partitioned: false };
/// The same with objects placed by what records hold.
pub const S3_PARTITIONED: Objects = Objects { store: Store::S3, partitioned: true };
/// See [`S3_PARTITIONED`].
pub const GCS_PARTITIONED: Objects = Objects { store: Store::Gcs, partitioned: true };
/// See [`S3_PARTITIONED`].
pub const AZURE_PARTITIONED: Objects = Objects { store: Store::Azure, partitioned: true };

/// The template of the partitioned kinds. Its beginning, with the stream's name, is where manifests are.
const TEMPLATE: &str = "by/{stream}/region={field:region}";
/// Regions of the records of every case, each of which becomes an object of each unit.
const REGIONS: u64 = crate::world::REGIONS.len() as u64;

const ONE_KEY: (&str, &str) = ("rotated_credential_taken_up", "the local server knows one key, so none can follow it");
const ONE_PATH_BY_VALUE: (&str, &str) = ("partitions_by_value", "its template has no field; the partitioned kinds have");
const ONE_PATH_BY_MANIFEST: (&str, &str) = ("partitions_counted_by_manifest", "its template has no field; the partitioned kinds have");
const ONE_OBJECT: (&str, &str) = ("on_finish", "such a stream is one object, so a template with fields is refused at open");
const NO_UPLOADS: (&str, &str) = ("upload_of_a_kill_removed", "its own client has no list of uploads in parts, so no stranger could tell");
const NO_PARTS: (&str, &str) = ("upload_of_a_kill_removed", "such a stream is never staged");
const NOTHING_STAGED: (&str, &str) = ("smaller_object_after_a_kill", "such a stream is never staged");
const FORMS_ONCE: (&str, &str) = ("forms_read_by_strangers", "no store has a say in the bytes of an object: s3 shows them");

impl Objects {
    fn declines(&self) -> &'static [(&'static str, &'static str)] {
        match (self.store, self.partitioned) {
            (Store::S3, false) => &[ONE_KEY, ONE_PATH_BY_VALUE, ONE_PATH_BY_MANIFEST],
            (Store::Gcs, false) => &[ONE_KEY, ONE_PATH_BY_VALUE, ONE_PATH_BY_MANIFEST, FORMS_ONCE, NO_UPLOADS],
            (Store::Azure, false) => &[ONE_PATH_BY_VALUE, ONE_PATH_BY_MANIFEST, FORMS_ONCE, NO_UPLOADS],
            (Store::S3 | Store::Gcs, true) => &[ONE_KEY, ONE_OBJECT, FORMS_ONCE, NO_PARTS, NOTHING_STAGED],
            (Store::Azure, true) => &[ONE_OBJECT, FORMS_ONCE, NO_PARTS, NOTHING_STAGED],
        }
    }
}

#[async_trait]
impl Kind for Objects {
    fn name(&self) -> &'static str {
        match (self.store, self.partitioned) {
            (store, false) => store.name(),
            (Store::S3, true) => "s3-partitioned",
            (Store::Gcs, true) => "gcs-partitioned",
            (Store::Azure, true) => "azure-partitioned",
        }
    }

    fn promises(&self) -> Promises {
        Promises { guarantee: DeliveryGuarantee::ExactlyOnce, mark_kept: true, fence: Fence::Names, copies_after_crash: false, declines: self.declines() }
    }

    fn missing(&self) -> Option<String> {
        foreign::lacking(match self.store {
            Store::S3 => &["S3_ENDPOINT", "S3_ACCESS_KEY", "S3_SECRET_KEY", "SERVICES_PYTHON"],
            Store::Gcs => &["GCS_ENDPOINT", "GCS_JSON_ENDPOINT", "GCS_SERVICE_ACCOUNT", "SERVICES_PYTHON"],
            Store::Azure => &["AZURE_ENDPOINT", "AZURE_ACCOUNT", "AZURE_KEY", "AZURE_KEY_2", "SERVICES_PYTHON"],
        })
    }

    async fn target(&self) -> Arc<dyn Target> {
        Arc::new(Bucket::start(self.store, self.partitioned).await)
    }
}

/// What differs between the three.
#[derive(Debug, Clone, Copy)]
enum Store {
    S3,
    Gcs,
    Azure,
}

impl Store {
    fn name(self) -> &'static str {
        match self {
            Self::S3 => "s3",
            Self::Gcs => "gcs",
            Self::Azure => "azure",
        }
    }

    /// Where its server is.
    fn address(self) -> std::net::SocketAddr {
        let endpoint = foreign::variable(match self {
            Self::S3 => "S3_ENDPOINT",
            Self::Gcs => "GCS_ENDPOINT",
            Self::Azure => "AZURE_ENDPOINT",
        });
        let authority = endpoint.strip_prefix("http://").expect("a plain address").split('/').next().expect("an authority").to_owned();
        authority.parse().expect("an address and a port")
    }

    fn bucket_option(self) -> &'static str {
        match self {
            Self::S3 => "s3_bucket_name",
            Self::Gcs => "gcs_bucket_name",
            Self::Azure => "azure_container_name",
        }
    }

    fn options(self) -> Vec<(&'static str, String)> {
        match self {
            Self::S3 => vec![("s3_region", "us-east-1".to_owned()), ("s3_use_virtual_addressing", "false".to_owned())],
            Self::Gcs => Vec::new(),
            Self::Azure => vec![("azure_storage_account_name", foreign::variable("AZURE_ACCOUNT"))],
        }
    }

    fn credential(self) -> CredentialSpec {
        let spec = |credential_type, identity: String, secret: String| CredentialSpec { credential_type, identity, secret, options: Vec::new() };
        match self {
            Self::S3 => spec(CredentialType::AwsAccessKey, foreign::variable("S3_ACCESS_KEY"), foreign::variable("S3_SECRET_KEY")),
            Self::Gcs => spec(CredentialType::GcsServiceAccountKeys, String::new(), service_account().to_string()),
            Self::Azure => spec(CredentialType::AzureStorageKey, foreign::variable("AZURE_ACCOUNT"), foreign::variable("AZURE_KEY")),
        }
    }

    fn wrong_credential(self) -> CredentialSpec {
        let right = self.credential();
        let secret = match self {
            Self::S3 => "not-the-secret-of-this-access-key".to_owned(),
            Self::Gcs => {
                let mut account = service_account();
                account["private_key"] = another_key().into();
                account.to_string()
            }
            // A key of the right shape.
            Self::Azure => "d3Jvbmcga2V5IG9mIHRoZSByaWdodCBzaGFwZSwgd2hpY2ggbm9ib2R5IGhhcyBzdG9yZWQgYW55d2hlcmU=".to_owned(),
        };
        CredentialSpec { secret, ..right }
    }
}

fn service_account() -> serde_json::Value {
    let text = std::fs::read_to_string(foreign::variable("GCS_SERVICE_ACCOUNT")).expect("the key file is there");
    serde_json::from_str(&text).expect("JSON")
}

/// A private key that no store knows.
fn another_key() -> String {
    let made = std::process::Command::new("openssl").args(["genrsa", "2048"]).output().expect("openssl runs");
    String::from_utf8(made.stdout).expect("PEM is text")
}

struct Bucket {
    store: Store,
    partitioned: bool,
    name: String,
    proxy: Proxy,
    up_bytes: Mutex<u64>,
    /// Replies that were to be lost so far.
    traps: AtomicU64,
}

impl Bucket {
    async fn start(store: Store, partitioned: bool) -> Self {
        // The front asks for a token only for buckets that are called so.
        let name = format!("private-{}", uuid::Uuid::new_v4().simple());
        foreign::run(Command::new(foreign::file("tests/services/make-bucket")).args([store.name(), &name]), "").await;
        let proxy = Proxy::before(store.address()).await.unwrap();
        Self { store, partitioned, name, proxy, up_bytes: Mutex::default(), traps: AtomicU64::new(0) }
    }

    async fn reader(&self, words: &[&str]) -> String {
        let script = foreign::file("tests/conformance/read_objects.py");
        foreign::run(Command::new(foreign::variable("SERVICES_PYTHON")).arg(script).args([self.store.name(), &self.name]).args(words), "").await
    }
}

#[async_trait]
impl Target for Bucket {
    fn sink(&self) -> SinkSpec {
        let mut options = self.store.options();
        options.extend([
            (self.store.bucket_option(), self.name.clone()),
            ("use_https", "false".to_owned()),
            // Units are cut by flushes, and soon where none comes; an idle one stays open as long as the case wants it open.
            ("max_object_age", "1".to_owned()),
            ("max_object_idle", "0".to_owned()),
        ]);
        if self.partitioned {
            options.push(("path_template", TEMPLATE.to_owned()));
        }
        SinkSpec {
            destination: format!("{}://{}", self.store.name(), self.proxy.address),
            options: options.into_iter().map(|(name, value)| (name.to_owned(), value)).collect(),
            credential: Some(self.store.credential()),
        }
    }

    async fn read(&self, _: &Caller) -> Vec<Seen> {
        let lines = self.reader(if self.partitioned { &["named"] } else { &[] }).await;
        let seen = |line: &str| {
            let found: serde_json::Value = serde_json::from_str(line).expect("JSON");
            Seen { place: found["place"].as_str().expect("a folder").to_owned(), record: found["record"].clone() }
        };
        lines.lines().map(seen).collect()
    }

    /// Lines of text take every record, so what is refused is one that is none.
    fn poison(&self, n: u64) -> String {
        format!(r#"{{"n":{n},"pad":"not closed}}"#)
    }

    async fn letters(&self) -> Arc<dyn Target> {
        // Letters are of one form, whatever the records were: they have no region.
        Arc::new(Self::start(self.store, false).await)
    }

    async fn lose_reply(&self) {
        // Of a partitioned unit, in turns: of its manifest, which comes after an object a region, and of its first object.
        let turn = self.traps.fetch_add(1, Ordering::Relaxed);
        let nth = if self.partitioned && turn.is_multiple_of(2) { REGIONS + 1 } else { 1 };
        self.proxy.lose_reply(Wanted::Containing(b"PUT /".to_vec()), nth);
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

    /// A lifecycle rule, or somebody, removed the last object.
    async fn go_back(&self, _: &str, _: u64) {
        self.reader(&[if self.partitioned { "delete-manifests" } else { "delete" }, "1"]).await;
    }

    fn wrong_credential(&self) -> CredentialSpec {
        self.store.wrong_credential()
    }

    async fn rotate(&self) -> CredentialSpec {
        CredentialSpec { secret: foreign::variable("AZURE_KEY_2"), ..self.store.credential() }
    }

    /// Azurite knows both keys for as long as it runs.
    async fn retire_first_credential(&self) {}

    fn attempts(&self) -> u64 {
        self.proxy.counts().requests
    }

    fn nowhere(&self) -> (SinkSpec, String) {
        let (mut sink, absent) = (self.sink(), format!("private-absent-{}", uuid::Uuid::new_v4().simple()));
        sink.options.retain(|(name, _)| name != self.store.bucket_option());
        sink.options.push((self.store.bucket_option().to_owned(), absent.clone()));
        (sink, absent)
    }

    fn template(&self) -> (Vec<(String, String)>, String) {
        (vec![("path_template".to_owned(), "{stream}/{field:region}".to_owned())], r#"{"n":10,"pad":"no region"}"#.to_owned())
    }

    fn forms(&self) -> Vec<Form> {
        let form = |format: &&str, compression: &&str| -> Form {
            vec![("file_format".to_owned(), (*format).to_owned()), ("file_compression".to_owned(), (*compression).to_owned())]
        };
        if self.partitioned {
            // One that is text, one of columns, one of rows; the rest is of the bytes, not of the places.
            return ["ndjson", "parquet", "avro"].iter().map(|format| form(format, &"none")).collect();
        }
        let all = ["none", "gzip", "zstd", "snappy"];
        let mut forms: Vec<Form> = ["ndjson", "csv", "parquet", "avro"].iter().flat_map(|format| all.iter().map(move |word| form(format, word))).collect();
        forms.extend(["none", "zstd"].iter().map(|word| form(&"arrow", word)));
        forms
    }

    async fn uploads(&self, known: &[String]) -> Vec<String> {
        let words: Vec<&str> = ["uploads"].into_iter().chain(known.iter().map(String::as_str)).collect();
        self.reader(&words).await.lines().map(str::to_owned).collect()
    }

    async fn unnamed(&self) -> usize {
        self.reader(&["unnamed"]).await.lines().count()
    }
}
