//! Why: Kafka under test: a topic of its own a trial, read by Kafka's console consumer in `read_committed`, reached through the fault proxy whose address the broker advertises; where a
//! credential is asked for, on the secured broker, with users of the trial's own. Never speaks the protocol.

use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use datasink::api::pb::{CredentialType, DeliveryGuarantee};
use tokio::process::Command;

use crate::{
    foreign,
    kind::{CredentialSpec, Fence, Kind, Promises, Seen, SinkSpec, Target},
    proxy::{Mode, Proxy, Wanted},
    support::Caller,
};

/// Partitions of a topic: order is promised within one.
const PARTITIONS: &str = "3";
/// Bytes of one message, for the sink; the topic takes more.
const MESSAGE_BYTES_MAX: usize = 20_000;
/// How long the console consumer waits for a further record; on a busy machine the first one takes long to come.
const IDLE_MS: &str = "10000";
const LONG_IDLE_MS: &str = "40000";
/// API keys.
const PRODUCE: i16 = 0;
const END_TXN: i16 = 26;
/// Slow enough to be cut in the middle of a unit.
const SLOW_BYTES_PER_SECOND: u64 = 20_000;
/// More than what is said before the records of a unit, and less than the unit.
const HALF_BYTES: u64 = 30_000;

/// A topic of a real broker.
pub struct Kafka {
    pub exactly_once: bool,
}

const EXACTLY_ONCE_DECLINES: &[(&str, &str)] = &[
    ("template_field_missing", "records are placed by their key"),
    ("partitions_by_value", "records are placed by their key"),
    ("partitions_counted_by_manifest", "records are placed by their key"),
    ("forms_read_by_strangers", "a message is JSON"),
    ("upload_of_a_kill_removed", "it does not offer COMMIT_MODE_ON_FINISH"),
    ("smaller_object_after_a_kill", "it does not offer COMMIT_MODE_ON_FINISH"),
    ("on_finish", "it does not offer COMMIT_MODE_ON_FINISH"),
];
const IDEMPOTENT_DECLINES: &[(&str, &str)] = &[
    ("template_field_missing", "records are placed by their key"),
    ("partitions_by_value", "records are placed by their key"),
    ("partitions_counted_by_manifest", "records are placed by their key"),
    ("forms_read_by_strangers", "a message is JSON"),
    ("upload_of_a_kill_removed", "it does not offer COMMIT_MODE_ON_FINISH"),
    ("smaller_object_after_a_kill", "it does not offer COMMIT_MODE_ON_FINISH"),
    ("on_finish", "it does not offer COMMIT_MODE_ON_FINISH"),
    ("cut_in_the_middle_of_a_unit", "without a transaction each record is seen as it arrives"),
    ("went_back_detected", "the topic keeps no mark that could go back"),
];

#[async_trait]
impl Kind for Kafka {
    fn name(&self) -> &'static str {
        if self.exactly_once { "kafka-exactly-once" } else { "kafka-idempotent" }
    }

    fn promises(&self) -> Promises {
        Promises {
            guarantee: if self.exactly_once { DeliveryGuarantee::ExactlyOnce } else { DeliveryGuarantee::Idempotent },
            mark_kept: self.exactly_once,
            fence: if self.exactly_once { Fence::Destination } else { Fence::Note },
            copies_after_crash: !self.exactly_once,
            declines: if self.exactly_once { EXACTLY_ONCE_DECLINES } else { IDEMPOTENT_DECLINES },
        }
    }

    fn missing(&self) -> Option<String> {
        foreign::lacking(&["KAFKA_BOOTSTRAP", "KAFKA_LIB", "KAFKA_PROXIED", "KAFKA_SSL", "KAFKA_SASL_PROXIED", "KAFKA_CA", "KAFKA_ADMIN_CONFIG"])
    }

    async fn target(&self) -> Arc<dyn Target> {
        let slot = Slot::take(&OPEN);
        let proxy = slot.proxy().await;
        Arc::new(KafkaTarget {
            topic: topic().await,
            exactly_once: self.exactly_once,
            proxied: Some((proxy, slot)),
            letters: false,
            up_bytes: Mutex::default(),
            login: None,
        })
    }

    async fn guarded_target(&self) -> Arc<dyn Target> {
        let slot = Slot::take(&GUARDED);
        let proxy = slot.proxy().await;
        let topic = format!("conformance-{}", uuid::Uuid::new_v4().simple());
        admin_tool(TOPIC_TOOL, &["--create", "--topic", &topic, "--partitions", PARTITIONS, "--replication-factor", "1"]).await;
        let login = Login::new(&topic).await;
        Arc::new(KafkaTarget {
            topic,
            exactly_once: self.exactly_once,
            proxied: Some((proxy, slot)),
            letters: false,
            up_bytes: Mutex::default(),
            login: Some(login),
        })
    }
}

/// An address that the broker advertises on one of its listeners, and where that listener is; one trial has it at a time.
struct Slot {
    advertised: String,
    listener: String,
    pool: &'static Pool,
}

/// Those of one broker that no trial has.
struct Pool {
    variable: &'static str,
    free: Mutex<Option<Vec<(String, String)>>>,
}

/// Of the broker that asks for nothing.
static OPEN: Pool = Pool { variable: "KAFKA_PROXIED", free: Mutex::new(None) };
/// Of the secured one, with SASL over TLS.
static GUARDED: Pool = Pool { variable: "KAFKA_SASL_PROXIED", free: Mutex::new(None) };

impl Slot {
    fn take(pool: &'static Pool) -> Self {
        let mut free = pool.free.lock().unwrap();
        let slots = free.get_or_insert_with(|| {
            let pairs = foreign::variable(pool.variable);
            pairs.split(',').map(|pair| pair.split_once('=').expect("ADVERTISED=LISTENER")).map(|(one, two)| (one.to_owned(), two.to_owned())).collect()
        });
        let (advertised, listener) = slots.pop().expect("as many proxied listeners as trials at once: see --test-threads");
        Self { advertised, listener, pool }
    }

    /// The proxy of the trial before may still be going.
    async fn proxy(&self) -> Proxy {
        loop {
            match Proxy::start(self.advertised.parse().unwrap(), self.listener.parse().unwrap()).await {
                Ok(proxy) => return proxy,
                Err(fault) if fault.kind() == std::io::ErrorKind::AddrInUse => tokio::task::yield_now().await,
                Err(fault) => panic!("the proxy cannot listen on {}: {fault}", self.advertised),
            }
        }
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        if let Some(free) = self.pool.free.lock().unwrap().as_mut() {
            free.push((self.advertised.clone(), self.listener.clone()));
        }
    }
}

/// A new topic.
async fn topic() -> String {
    let name = format!("conformance-{}", uuid::Uuid::new_v4().simple());
    make_topic(&name).await;
    name
}

async fn make_topic(name: &str) {
    foreign::run(Command::new(foreign::file("tests/services/kafka-topic")).args([name, PARTITIONS]), "").await;
}

struct KafkaTarget {
    topic: String,
    exactly_once: bool,
    /// A target for dead letters is reached without a proxy.
    proxied: Option<(Proxy, Slot)>,
    letters: bool,
    up_bytes: Mutex<u64>,
    /// On the secured broker.
    login: Option<Login>,
}

/// Whoever writes to a topic of the secured broker: first one user, then another.
struct Login {
    topic: String,
    first: CredentialSpec,
}

impl Login {
    async fn new(topic: &str) -> Self {
        Self { topic: topic.to_owned(), first: Self::user(topic).await }
    }

    /// A new user with SCRAM, who may write to the topic and keep a mark; made by the broker's own tools.
    async fn user(topic: &str) -> CredentialSpec {
        let (name, password) = (format!("user-{}", uuid::Uuid::new_v4().simple()), uuid::Uuid::new_v4().simple().to_string());
        let scram = format!("SCRAM-SHA-512=[iterations=4096,password={password}]");
        admin_tool(CONFIG_TOOL, &["--alter", "--add-config", &scram, "--entity-type", "users", "--entity-name", &name]).await;
        admin_tool(ACL_TOOL, &[&["--add", "--allow-principal", &format!("User:{name}")][..], &Self::rights(topic)].concat()).await;
        Self::spec(name, password)
    }

    fn rights(topic: &str) -> [&str; 9] {
        // As prefixes: of the stream's transactional id and group nobody here knows more.
        ["--operation", "All", "--resource-pattern-type", "prefixed", "--topic", topic, "--transactional-id", "datasink/", "--group=datasink/"]
    }

    fn spec(identity: String, secret: String) -> CredentialSpec {
        let ca = std::fs::read_to_string(foreign::variable("KAFKA_CA")).expect("the authority's certificate is there");
        let option = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        let options = vec![option("security.protocol", "SASL_SSL"), option("sasl.mechanism", "SCRAM-SHA-512"), option("ssl.ca.pem", &ca)];
        CredentialSpec { credential_type: CredentialType::Kafka, identity, secret, options }
    }

    /// The first user has no right any more, which ends what it has open, and no password, which keeps it out.
    async fn retire_first(&self) {
        let name = self.first.identity.as_str();
        admin_tool(ACL_TOOL, &[&["--remove", "--force", "--allow-principal", &format!("User:{name}")][..], &Self::rights(&self.topic)].concat()).await;
        admin_tool(CONFIG_TOOL, &["--alter", "--delete-config", "SCRAM-SHA-512", "--entity-type", "users", "--entity-name", name]).await;
    }
}

const TOPIC_TOOL: &str = "org.apache.kafka.tools.TopicCommand";
const ACL_TOOL: &str = "org.apache.kafka.tools.AclCommand";
const CONFIG_TOOL: &str = "kafka.admin.ConfigCommand";

/// Runs one of Kafka's own tools as the secured broker's admin.
async fn admin_tool(class: &str, words: &[&str]) -> String {
    let script = r#"exec java -Xmx128m -XX:+UseSerialGC -XX:TieredStopAtLevel=1 -Dorg.slf4j.simpleLogger.defaultLogLevel=warn -cp "$KAFKA_LIB/*" \
        "$0" --bootstrap-server "$KAFKA_SSL" --command-config "$KAFKA_ADMIN_CONFIG" "$@""#;
    foreign::run(Command::new("bash").args(["-c", script, class]).args(words), "").await
}

impl KafkaTarget {
    fn proxy(&self) -> &Proxy {
        &self.proxied.as_ref().expect("nobody breaks the line to dead letters").0
    }
}

/// Runs one of Kafka's own tools.
async fn tool(class: &str, words: &[&str]) -> String {
    let script = r#"exec java -Xmx128m -XX:+UseSerialGC -XX:TieredStopAtLevel=1 -Dorg.slf4j.simpleLogger.defaultLogLevel=warn -cp "$KAFKA_LIB/*" \
        "org.apache.kafka.tools.$0" --bootstrap-server "$KAFKA_BOOTSTRAP" "$@""#;
    foreign::run(Command::new("bash").args(["-c", script, class]).args(words), "").await
}

impl KafkaTarget {
    /// Whether nothing was ever written to any partition, aborted records and marks of transactions included.
    async fn is_blank(&self) -> bool {
        let words = ["--topic", &self.topic];
        let ends = match &self.login {
            None => tool("GetOffsetShell", &words).await,
            Some(_) => admin_tool("org.apache.kafka.tools.GetOffsetShell", &words).await,
        };
        ends.lines().all(|line| line.ends_with(":0"))
    }
}

#[async_trait]
impl Target for KafkaTarget {
    fn sink(&self) -> SinkSpec {
        let option = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        let address = self.proxied.as_ref().map_or_else(|| foreign::variable("KAFKA_BOOTSTRAP"), |(proxy, _)| proxy.address.to_string());
        // A dead letter holds a record that was too large for its own sink.
        let message_bytes_max = if self.letters { 10 * MESSAGE_BYTES_MAX } else { MESSAGE_BYTES_MAX };
        SinkSpec {
            destination: format!("kafka://{address}"),
            options: vec![
                option("kafka_topic_name", &self.topic),
                option("kafka_delivery", if self.exactly_once { "exactly_once" } else { "idempotent" }),
                option("max_message_size", &message_bytes_max.to_string()),
            ],
            credential: self.login.as_ref().map(|login| login.first.clone()),
        }
    }

    async fn read(&self, _: &Caller) -> Vec<Seen> {
        let mut arguments = [self.topic.as_str(), "--isolation", "read_committed", "--print", "partition"].map(str::to_owned).to_vec();
        if self.login.is_some() {
            arguments.extend(["--bootstrap".to_owned(), foreign::variable("KAFKA_SSL"), "--config".to_owned(), foreign::variable("KAFKA_ADMIN_CONFIG")]);
        }
        let reader = |idle| {
            let mut command = Command::new(foreign::file("tests/services/kafka-read"));
            command.args(&arguments).args(["--idle-ms", idle]);
            async move { foreign::run(&mut command, "").await }
        };
        let mut lines = reader(IDLE_MS).await;
        // A reader that found nothing may only have come too late on a busy machine; the partitions' ends tell.
        if lines.is_empty() && !self.is_blank().await {
            lines = reader(LONG_IDLE_MS).await;
        }
        let seen = |line: &str| {
            let (partition, value) = line.split_once('\t').expect("the partition and the value");
            let record: serde_json::Value = serde_json::from_str(value).expect("JSON");
            // Streams share partitions; the cases tell them by ranges of numbers.
            Seen { place: format!("{partition}/{}", record["n"].as_u64().unwrap_or(0) / 1_000), record }
        };
        lines.lines().map(seen).collect()
    }

    fn poison(&self, n: u64) -> String {
        self.too_large(n)
    }

    async fn letters(&self) -> Arc<dyn Target> {
        Arc::new(Self { topic: topic().await, exactly_once: self.exactly_once, proxied: None, letters: true, up_bytes: Mutex::default(), login: None })
    }

    async fn lose_reply(&self) {
        self.proxy().lose_reply(Wanted::Kafka(if self.exactly_once { END_TXN } else { PRODUCE }), 1);
    }

    fn replies_lost(&self) -> u64 {
        self.proxy().counts().replies_lost
    }

    async fn down(&self) {
        self.proxy().mode(Mode::Refuse);
    }

    async fn up(&self) {
        self.proxy().limit(0);
        self.proxy().mode(Mode::Pass);
    }

    async fn slow(&self) {
        *self.up_bytes.lock().unwrap() = self.proxy().counts().up_bytes;
        self.proxy().limit(SLOW_BYTES_PER_SECOND);
    }

    async fn break_in_the_middle(&self) {
        let before = *self.up_bytes.lock().unwrap();
        self.proxy().until(|counts| counts.up_bytes >= before + HALF_BYTES).await;
        self.proxy().mode(Mode::Refuse);
        self.proxy().until(|counts| counts.cut > 0).await;
    }

    /// Kafka has no way to take back the newest records alone: the topic is deleted and made anew, empty.
    async fn go_back(&self, _: &str, _: u64) {
        tool("TopicCommand", &["--delete", "--topic", &self.topic]).await;
        make_topic(&self.topic).await;
    }

    /// The right user with a password that is not its own.
    fn wrong_credential(&self) -> CredentialSpec {
        let first = &self.login.as_ref().expect("a destination that asks for a credential").first;
        CredentialSpec { secret: "not-the-password-of-this-user".to_owned(), ..first.clone() }
    }

    async fn rotate(&self) -> CredentialSpec {
        Login::user(&self.topic).await
    }

    async fn retire_first_credential(&self) {
        self.login.as_ref().expect("a destination that asks for a credential").retire_first().await;
    }

    /// Each connection is one attempt to log in.
    fn attempts(&self) -> u64 {
        self.proxy().counts().accepted
    }

    fn nowhere(&self) -> (SinkSpec, String) {
        let (mut sink, absent) = (self.sink(), "there-is-no-such-topic".to_owned());
        sink.options.retain(|(name, _)| name != "kafka_topic_name");
        sink.options.push(("kafka_topic_name".to_owned(), absent.clone()));
        (sink, absent)
    }

    fn too_large(&self, n: u64) -> String {
        format!(r#"{{"n":{n},"pad":"{}"}}"#, "x".repeat(MESSAGE_BYTES_MAX))
    }
}
