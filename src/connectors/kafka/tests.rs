//! The sink against a real broker, which `KAFKA_BOOTSTRAP` names. Without it the tests of this file only say so, and fail where `CONFORMANCE_REQUIRED` is set.

mod lost;

use std::{collections::BTreeMap, net::IpAddr, sync::Arc, time::Duration};

use async_trait::async_trait;
use rdkafka::{
    ClientConfig, Message as _,
    admin::{AdminClient, AdminOptions, NewTopic, TopicReplication},
    client::DefaultClientContext,
    consumer::{BaseConsumer, Consumer},
    message::Headers,
};
use uuid::Uuid;

use super::{
    client::{self, Ears},
    options::Broker,
    security::Security,
    *,
};
use crate::{
    clock::{Ambient, SystemClock, SystemIds},
    connectors::{
        connector::{CommitMode, Finish, FoundMark, Mark, Noted, SinkWriter, StepResult},
        credential::OpenCredential,
        egress::{Egress, EgressPolicy, Resolver},
        error::{ConnectorErrorKind, ErrorClass},
    },
    name::{QualifiedName, StreamName},
    record::{Batch, Ndjson, Offset, Records},
    secret::Secret,
};

/// Every name is this machine.
#[derive(Debug)]
struct EverythingIsHere;

#[async_trait]
impl Resolver for EverythingIsHere {
    async fn lookup(&self, _: &str) -> std::io::Result<Vec<IpAddr>> {
        Ok(vec![IpAddr::from([127, 0, 0, 1])])
    }
}

pub(super) fn context(credential: Option<OpenCredential>) -> ConnectContext {
    ConnectContext {
        sink: QualifiedName::parse("s.topic", None).expect("a name"),
        credential,
        egress: Arc::new(Egress::with_resolver(EgressPolicy::default(), b"", Arc::new(EverythingIsHere)).expect("an egress")),
        ambient: Ambient { clock: Arc::new(SystemClock), ids: Arc::new(SystemIds) },
        connection_timeout: Duration::from_secs(5),
        reply_timeout: Duration::from_secs(10),
    }
}

pub(super) fn no_security() -> Security {
    Security::of(&context(None)).expect("nothing to be wrong")
}

#[tokio::test]
async fn a_broker_that_advertises_an_address_inside_is_named() {
    let (cx, ears) = (context(None), Ears::new(Arc::new(no_security())));
    let broker = |host: &str| Broker { host: host.to_owned(), port: 9092 };
    client::check_advertised(&cx.egress, &ears, &[broker("10.0.0.1"), broker("b1")]).await.unwrap();
    let refused = client::check_advertised(&cx.egress, &ears, &[broker("b1"), broker("169.254.169.254")]).await.unwrap_err();
    assert_eq!(refused.kind, ConnectorErrorKind::BlockedAddress);
    assert!(refused.message.contains("169.254.169.254:9092") && refused.message.contains("advertise"), "{}", refused.message);
}

#[test]
fn all_faults_of_a_sink_are_told_at_once() {
    let destination = Destination::parse("kafka://a:0,b:0").unwrap();
    let given = BTreeMap::from([("kafka_topic_name".to_owned(), "a/b".to_owned())]);
    let options = Options::check("kafka", Kafka.descriptor().options, &given).unwrap();
    assert_eq!(Kafka.configure(&destination, &options).unwrap_err().len(), 3);
    let unknown = BTreeMap::from([("linger.ms".to_owned(), "5".to_owned())]);
    assert_eq!(Options::check("kafka", Kafka.descriptor().options, &unknown).unwrap_err().len(), 2, "unknown, and no topic");
}

// ---- against a real broker ----

/// The one place that asks for a broker.
fn bootstrap() -> Option<String> {
    let found = std::env::var("KAFKA_BOOTSTRAP").ok();
    assert!(found.is_some() || std::env::var_os("CONFORMANCE_REQUIRED").is_none(), "CONFORMANCE_REQUIRED is set and KAFKA_BOOTSTRAP is not");
    if found.is_none() {
        eprintln!("not tried: KAFKA_BOOTSTRAP names no broker");
    }
    found
}

/// A topic of its own.
struct Topic {
    bootstrap: String,
    name: String,
}

impl Topic {
    async fn new(partitions: i32, settings: &[(&str, &str)]) -> Option<Self> {
        let bootstrap = bootstrap()?;
        let topic = Self { bootstrap, name: format!("t-{}", Uuid::new_v4().simple()) };
        topic.create(partitions, settings).await;
        Some(topic)
    }

    fn admin(&self) -> AdminClient<DefaultClientContext> {
        ClientConfig::new().set("bootstrap.servers", &self.bootstrap).create().expect("a client")
    }

    async fn create(&self, partitions: i32, settings: &[(&str, &str)]) {
        let new = NewTopic::new(&self.name, partitions, TopicReplication::Fixed(1));
        let new = settings.iter().fold(new, |new, (name, value)| new.set(name, value));
        let made = self.admin().create_topics([&new], &AdminOptions::new()).await.expect("an answer");
        assert!(made.iter().all(Result::is_ok), "{made:?}");
    }

    fn sink(&self, options: &[(&str, &str)]) -> Arc<dyn Connector> {
        sink(&format!("kafka://{}", self.bootstrap), &self.name, options)
    }

    /// Everything that a reader sees: offset header, key and value, in the order of each partition.
    fn read(&self, isolation: &str) -> Vec<(Offset, Option<String>, String)> {
        let reader: BaseConsumer = ClientConfig::new()
            .set("bootstrap.servers", &self.bootstrap)
            .set("group.id", Uuid::new_v4().to_string())
            .set("isolation.level", isolation)
            .set("auto.offset.reset", "earliest")
            .set("enable.partition.eof", "true")
            .create()
            .expect("a reader");
        let partitions = reader.fetch_metadata(Some(&self.name), Duration::from_secs(10)).expect("metadata").topics()[0].partitions().len();
        let mut from = rdkafka::TopicPartitionList::new();
        (0..partitions).for_each(|partition| from.add_partition_offset(&self.name, partition as i32, rdkafka::Offset::Beginning).expect("a partition"));
        reader.assign(&from).expect("assigned");
        let (mut seen, mut ended) = (Vec::new(), 0);
        while ended < partitions {
            match reader.poll(Duration::from_secs(10)).expect("something within ten seconds") {
                Err(rdkafka::error::KafkaError::PartitionEOF(_)) => ended += 1,
                Err(fault) => panic!("{fault}"),
                Ok(message) => {
                    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).expect("text");
                    let offset = message.headers().and_then(|headers| {
                        let found = headers.iter().find(|header| header.key == "datasink-offset")?;
                        text(found.value?).parse().ok()
                    });
                    seen.push((offset.unwrap_or(u64::MAX), message.key().map(text), message.payload().map(text).unwrap_or_default()));
                }
            }
        }
        seen
    }
}

fn sink(destination: &str, topic: &str, options: &[(&str, &str)]) -> Arc<dyn Connector> {
    let given = options.iter().chain(&[("kafka_topic_name", topic)]).map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    let options = Options::check("kafka", Kafka.descriptor().options, &given).expect("good options");
    Kafka.configure(&Destination::parse(destination).expect("a destination"), &options).expect("a good destination")
}

fn stream() -> StreamId {
    StreamId { cluster: Uuid::new_v4(), sink: Uuid::new_v4(), name: StreamName::parse("orders").expect("a name") }
}

fn terms(keys: &[&str], noted: Noted) -> Terms {
    let key_columns = keys.iter().map(|key| (*key).to_owned()).collect();
    Terms { commit_mode: CommitMode::Continuous, key_columns, schema: None, options: Options::default(), noted }
}

fn batch(first_offset: Offset, lines: &[&str]) -> Batch {
    let (mut text, mut places) = (String::new(), Vec::new());
    for line in lines {
        let start = text.len() as u32;
        text += line;
        places.push((start, text.len() as u32));
        text.push('\n');
    }
    let records = Records::Ndjson(Ndjson::from_checked(text.into(), places.into()));
    Batch::new(first_offset, records)
}

fn at(next: Offset) -> Mark {
    Mark { next, hash: next * 7, ..Mark::default() }
}

async fn open(sink: &Arc<dyn Connector>, stream: &StreamId, epoch: u64, noted: Noted) -> Opened {
    sink.open(&context(None), stream, Epoch(epoch), &terms(&["k"], noted)).await.expect("opened")
}

async fn commit(writer: &mut Box<dyn SinkWriter>, first: Offset, lines: &[&str]) -> Result<crate::connectors::connector::Outcome, ConnectorError> {
    writer.append(&batch(first, lines)).await?;
    writer.commit(at(first + lines.len() as u64)).await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idempotent_writer_settles_what_readers_find() {
    let Some(topic) = Topic::new(3, &[]).await else { return };
    let sink = topic.sink(&[]);
    let mut opened = open(&sink, &stream(), 4, Noted::default()).await;
    assert_eq!((opened.mark, opened.epoch, opened.delivery.guarantee), (FoundMark::NotKept, Epoch(4), Guarantee::Idempotent));
    let lines: Vec<String> = (0..2_000).map(|number| format!("{{\"k\":\"{}\",\"n\":{number}}}", number % 7)).collect();
    let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
    let outcome = commit(&mut opened.writer, 0, &lines[..1_500]).await.expect("settled");
    assert_eq!(outcome.artifacts.iter().map(|artifact| artifact.record_count).sum::<u64>(), 1_500);
    commit(&mut opened.writer, 1_500, &lines[1_500..]).await.expect("settled");
    opened.writer.finish(Finish::Commit, at(2_000)).await.expect("finished");
    let mut seen = topic.read("read_uncommitted");
    for key in 0..7 {
        let of_key: Vec<Offset> = seen.iter().filter(|(_, found, _)| found.as_deref() == Some(&format!("\"{key}\""))).map(|(offset, ..)| *offset).collect();
        assert!(of_key.is_sorted() && !of_key.is_empty(), "one key, one partition, one order");
    }
    seen.sort();
    assert_eq!(seen.len(), 2_000);
    assert!(seen.iter().enumerate().all(|(number, (offset, _, value))| *offset == number as u64 && value == lines[number]));
}

#[tokio::test(flavor = "multi_thread")]
async fn arrays_hold_records_of_one_key() {
    let Some(topic) = Topic::new(1, &[]).await else { return };
    let sink = topic.sink(&[("json_format", "nested"), ("max_batch_size", "2"), ("kafka_compression", "lz4")]);
    let mut opened = open(&sink, &stream(), 1, Noted::default()).await;
    commit(&mut opened.writer, 0, &[r#"{"k":1}"#, r#"{"k":1}"#, r#"{"k":1}"#, r#"{"k":2}"#]).await.expect("settled");
    let seen = topic.read("read_uncommitted");
    let values: Vec<(Offset, &str)> = seen.iter().map(|(offset, _, value)| (*offset, value.as_str())).collect();
    assert_eq!(values, [(0, r#"[{"k":1},{"k":1}]"#), (2, r#"[{"k":1}]"#), (3, r#"[{"k":2}]"#)]);
    let refused = opened.writer.append(&batch(4, &[r#"{"k":1}"#, r#"{"x":1}"#])).await.unwrap_err();
    assert_eq!((refused.class, refused.records[0].0), (ErrorClass::Record, 5));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_mark_is_in_the_transaction_and_an_older_writer_is_fenced() {
    let Some(topic) = Topic::new(2, &[]).await else { return };
    let (sink, stream) = (topic.sink(&[("kafka_delivery", "exactly_once")]), stream());
    let mut old = open(&sink, &stream, 3, Noted::default()).await;
    assert_eq!((old.mark, old.delivery.guarantee), (FoundMark::Missing, Guarantee::ExactlyOnce));
    let outcome = commit(&mut old.writer, 0, &[r#"{"k":1}"#, r#"{"k":2}"#]).await.expect("settled");
    assert!(!outcome.artifacts.is_empty());
    // A unit of nothing but rejected records moves the mark all the same.
    old.writer.commit(Mark { next: 3, rejected: 1, hash: 9, finished: false }).await.expect("settled");
    let mut new = open(&sink, &stream, 1, Noted::default()).await;
    assert_eq!(new.mark, FoundMark::At(Mark { next: 3, rejected: 1, hash: 9, finished: false }));
    assert_eq!(new.epoch, Epoch(4), "above any that the target has seen");
    let fenced = commit(&mut old.writer, 3, &[r#"{"k":"zombie"}"#]).await.unwrap_err();
    assert_eq!(fenced.kind, ConnectorErrorKind::Fenced, "{fenced}");
    commit(&mut new.writer, 3, &[r#"{"k":3}"#]).await.expect("settled");
    new.writer.finish(Finish::Commit, at(4)).await.expect("finished");
    let last = open(&sink, &stream, 1, Noted::default()).await;
    assert_eq!(last.mark, FoundMark::At(Mark { finished: true, ..at(4) }));
    drop(last);
    let mut seen: Vec<Offset> = topic.read("read_committed").into_iter().map(|(offset, ..)| offset).collect();
    seen.sort_unstable();
    assert_eq!(seen, [0, 1, 3]);
    sink.forget(&context(None), &stream).await.expect("forgotten");
    assert_eq!(open(&sink, &stream, 1, Noted::default()).await.mark, FoundMark::Missing);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_that_the_topic_refuses_is_named_and_its_transaction_leaves_nothing() {
    let Some(topic) = Topic::new(1, &[("max.message.bytes", "5000")]).await else { return };
    for mode in ["idempotent", "exactly_once"] {
        let (sink, stream) = (topic.sink(&[("kafka_delivery", mode)]), stream());
        let mut opened = open(&sink, &stream, 1, Noted::default()).await;
        let large = format!("{{\"k\":1,\"x\":\"{}\"}}", "x".repeat(10_000));
        let refused = commit(&mut opened.writer, 7, &[&large]).await.unwrap_err();
        assert_eq!((refused.kind, refused.class), (ConnectorErrorKind::TooLarge, ErrorClass::Record), "{refused}");
        assert_eq!(refused.records.iter().map(|(offset, _)| *offset).collect::<Vec<_>>(), [7]);
        // Among others it is named at once, and those before it in its batch are not blamed.
        let mut opened = open(&sink, &stream, 2, Noted::default()).await;
        let refused = commit(&mut opened.writer, 7, &[r#"{"k":1}"#, &large, r#"{"k":2}"#, &large]).await.unwrap_err();
        assert_eq!((refused.kind, refused.class), (ConnectorErrorKind::TooLarge, ErrorClass::Record), "{refused}");
        assert_eq!(refused.records.iter().map(|(offset, _)| *offset).collect::<Vec<_>>(), [8, 10]);
        let opened = open(&sink, &stream, 3, Noted::default()).await;
        assert_eq!(opened.mark, if mode == "idempotent" { FoundMark::NotKept } else { FoundMark::Missing });
        assert!(topic.read("read_committed").is_empty());
    }
    let sink = topic.sink(&[("max_message_size", "100")]);
    let mut opened = open(&sink, &stream(), 1, Noted::default()).await;
    let long = format!("{{\"k\":1,\"x\":\"{}\"}}", "x".repeat(100));
    let refused = opened.writer.append(&batch(0, &[r#"{"k":1}"#, &long, &long])).await.unwrap_err();
    assert_eq!(refused.records.iter().map(|(offset, _)| *offset).collect::<Vec<_>>(), [1, 2]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mark_that_expired_is_told_from_a_topic_that_went_back() {
    let Some(topic) = Topic::new(1, &[]).await else { return };
    let sink = topic.sink(&[("kafka_delivery", "exactly_once")]);
    let mut opened = open(&sink, &stream(), 1, Noted::default()).await;
    let outcome = commit(&mut opened.writer, 0, &[r#"{"k":1}"#, r#"{"k":2}"#]).await.expect("settled");
    // Another stream's name stands for one whose group has expired.
    let noted = Noted { mark: at(2), here: true, receipts: outcome.artifacts.clone() };
    let resting = open(&sink, &stream(), 1, noted.clone()).await;
    assert_eq!(resting.mark, FoundMark::At(at(2)));
    assert!(resting.delivery.basis.contains("our own note"), "{}", resting.delivery.basis);
    assert_eq!(open(&sink, &stream(), 1, Noted { here: false, ..noted.clone() }).await.mark, FoundMark::Missing);
    let mut receipts = outcome.artifacts;
    for (_, value) in receipts[0].attributes.iter_mut().filter(|(key, _)| key == "last_kafka_offset") {
        *value = "1000".to_owned();
    }
    let gone = sink.open(&context(None), &stream(), Epoch(1), &terms(&[], Noted { receipts, ..noted })).await.unwrap_err();
    assert_eq!((gone.kind, gone.class), (ConnectorErrorKind::WentBack, ErrorClass::Configuration), "{gone}");
}

/// The mark that the stream's group has in the cluster, as text.
fn mark_in_the_cluster(topic: &Topic, group: &str) -> Option<String> {
    let reader: BaseConsumer = ClientConfig::new().set("bootstrap.servers", &topic.bootstrap).set("group.id", group).create().expect("a reader");
    let mut wanted = rdkafka::TopicPartitionList::new();
    wanted.add_partition(&topic.name, 0);
    let kept = reader.committed_offsets(wanted, Duration::from_secs(10)).expect("an answer");
    let element = kept.elements().into_iter().next()?;
    (element.offset() != rdkafka::Offset::Invalid).then(|| element.metadata().to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_mark_of_an_idle_stream_is_written_again_and_a_newer_writer_still_wins() {
    let Some(topic) = Topic::new(1, &[]).await else { return };
    let given = BTreeMap::from([("kafka_topic_name".to_owned(), topic.name.clone()), ("kafka_delivery".to_owned(), "exactly_once".to_owned())]);
    let options = Options::check("kafka", Kafka.descriptor().options, &given).expect("good options");
    let target = Arc::new(Target::new(&Destination::parse(&format!("kafka://{}", topic.bootstrap)).expect("a destination"), &options).expect("a target"));
    let (stream, group) = (stream(), |stream: &StreamId| mark::transactional_id(stream));
    let opening = |refresh| {
        let (target, stream) = (target.clone(), stream.clone());
        async move { open::open(&target, &context(None), &stream, Epoch(1), &terms(&[], Noted::default()), refresh).await.expect("opened") }
    };
    // So long that the group is not deleted between a refresh and the look whether it is there: that is an unclear outcome, and would end the writer.
    let refresh = Duration::from_secs(2);
    let mut opened = opening(refresh).await;
    commit(&mut opened.writer, 0, &["{}", "{}"]).await.expect("settled");
    let written = mark_in_the_cluster(&topic, &group(&stream)).expect("a mark");
    // The group is deleted, as it is when it expires; the open stream brings its mark back.
    let gone = topic.admin().delete_groups(&[&group(&stream)], &AdminOptions::new()).await.expect("an answer");
    assert!(gone.iter().all(Result::is_ok), "{gone:?}");
    let back = async {
        while mark_in_the_cluster(&topic, &group(&stream)).as_ref() != Some(&written) {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), back).await.expect("the mark comes back");
    commit(&mut opened.writer, 2, &["{}"]).await.expect("it goes on");
    // A newer writer fences the refresh, too, and the older one is told so with its next unit.
    let newer = opening(Duration::from_secs(3600)).await;
    assert_eq!(newer.mark, FoundMark::At(at(3)));
    tokio::time::sleep(refresh * 3 / 2).await;
    let fenced = commit(&mut opened.writer, 3, &["{}"]).await.unwrap_err();
    assert_eq!(fenced.kind, ConnectorErrorKind::Fenced, "{fenced}");
    assert_eq!(topic.read("read_committed").len(), 3);
}

fn failed_step(probe: &Probe) -> Option<(&str, ConnectorErrorKind)> {
    probe.steps.iter().find_map(|step| match &step.result {
        StepResult::Failed { error, .. } => Some((step.name.as_str(), error.kind)),
        StepResult::Passed | StepResult::Skipped => None,
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_probe_proves_what_it_can_and_leaves_nothing_to_be_seen() {
    let Some(topic) = Topic::new(2, &[]).await else { return };
    for mode in ["idempotent", "exactly_once"] {
        let probe = topic.sink(&[("kafka_delivery", mode)]).probe(&context(None), false).await;
        assert_eq!(failed_step(&probe), None, "{probe:?}");
        assert!(format!("{:?}", probe.steps).contains("proved: the brokers took"), "{probe:?}");
        assert!(topic.read("read_uncommitted").is_empty(), "not even in an aborted transaction");
    }
    let probe = topic.sink(&[("kafka_delivery", "exactly_once")]).probe(&context(None), true).await;
    assert!(failed_step(&probe).is_none() && topic.read("read_committed").is_empty(), "{probe:?}");
    let probe = topic.sink(&[]).probe(&context(None), true).await;
    assert!(failed_step(&probe).is_none() && topic.read("read_committed").len() == 1, "{probe:?}");
    let nothing = Topic { name: "no-such-topic".to_owned(), ..topic };
    assert_eq!(failed_step(&nothing.sink(&[]).probe(&context(None), false).await), Some(("authorize", ConnectorErrorKind::NotFound)));
    let missing = nothing.sink(&[]).open(&context(None), &stream(), Epoch(1), &terms(&[], Noted::default())).await.unwrap_err();
    assert_eq!(missing.kind, ConnectorErrorKind::NotFound, "{missing}");
}

#[tokio::test(flavor = "multi_thread")]
async fn where_nobody_listens_is_unreachable_and_not_waited_for() {
    let port = std::net::TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("an address").port();
    let sink = sink(&format!("kafka://127.0.0.1:{port}"), "t", &[]);
    assert_eq!(failed_step(&sink.probe(&context(None), false).await), Some(("connect", ConnectorErrorKind::Unreachable)));
    let refused = sink.open(&context(None), &stream(), Epoch(1), &terms(&[], Noted::default())).await.unwrap_err();
    assert_eq!((refused.kind, refused.class), (ConnectorErrorKind::Unreachable, ErrorClass::Destination), "{refused}");
}

// ---- against a broker with TLS, SASL and ACLs ----

/// What the secured broker's recipe has set.
fn secured(name: &str) -> Option<String> {
    let found = std::env::var(name).ok();
    if found.is_none() {
        eprintln!("not tried: {name} is not set");
    }
    found
}

fn credential(options: &[(&str, &str)], secret_options: &[(&str, &str)]) -> Option<OpenCredential> {
    Some(OpenCredential {
        credential_type: CredentialType::Kafka,
        identity: String::new(),
        secret: None,
        options: options.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect(),
        secret_options: secret_options.iter().map(|(name, value)| ((*name).to_owned(), Secret::from((*value).to_owned()))).collect(),
        version: 1,
    })
}

/// Probes a topic of the secured broker that the variable `broker` names; the failed step, and everything that was said.
async fn probed(broker: &str, topic: &str, mode: &str, credential: Option<OpenCredential>, write: bool) -> (Option<(String, ConnectorErrorKind)>, String) {
    let sink = sink(&format!("kafka://{}", std::env::var(broker).expect("the recipe sets it")), topic, &[("kafka_delivery", mode)]);
    let probe = sink.probe(&context(credential), write).await;
    (failed_step(&probe).map(|(step, kind)| (step.to_owned(), kind)), format!("{:?}", probe.steps))
}

#[tokio::test(flavor = "multi_thread")]
async fn each_way_to_authenticate_works_and_what_it_may_not_is_told_at_its_step() {
    use ConnectorErrorKind as K;
    let Some(password) = secured("KAFKA_ALICE_PASSWORD") else { return };
    let variable = |name: &str| std::env::var(name).expect("the recipe sets it");
    let file = |name: &str| std::fs::read_to_string(variable(name)).expect("a file of the recipe");
    let ca = file("KAFKA_CA");
    let sasl = |mechanism: &str, protocol: &str, user: &str, password: &str| {
        let mut options = vec![("sasl.mechanism", mechanism), ("security.protocol", protocol), ("sasl.username", user)];
        options.extend((protocol == "SASL_SSL").then_some(("ssl.ca.pem", ca.as_str())));
        credential(&options, &[("sasl.password", password)])
    };
    for mechanism in ["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] {
        for (broker, protocol) in [("KAFKA_SASL_SSL", "SASL_SSL"), ("KAFKA_SASL_PLAINTEXT", "SASL_PLAINTEXT")] {
            let (failed, said) = probed(broker, "allowed", "exactly_once", sasl(mechanism, protocol, "alice", &password), true).await;
            assert_eq!(failed, None, "{mechanism} {protocol}: {said}");
            let (failed, said) = probed(broker, "allowed", "idempotent", sasl(mechanism, protocol, "alice", "wr0ng-canary"), false).await;
            assert_eq!(failed, Some(("authenticate".to_owned(), K::Unauthenticated)), "{mechanism} {protocol}: {said}");
            assert!(!said.contains("wr0ng-canary"));
        }
    }
    let alice = || sasl("PLAIN", "SASL_SSL", "alice", &password);
    let bob = variable("KAFKA_BOB_PASSWORD");
    let told = |step: &str, kind| Some((step.to_owned(), kind));
    for mode in ["idempotent", "exactly_once"] {
        let (failed, said) = probed("KAFKA_SASL_SSL", "denied", mode, alice(), false).await;
        assert_eq!(failed, told("authorize", K::PermissionDenied), "described, not written: {said}");
        let (failed, said) = probed("KAFKA_SASL_SSL", "allowed", mode, sasl("PLAIN", "SASL_SSL", "bob", &bob), false).await;
        assert_eq!(failed, told("authorize", K::PermissionDenied), "{said}");
    }
    let (failed, said) = probed("KAFKA_SSL_WRONG_HOST", "allowed", "idempotent", alice(), false).await;
    assert_eq!(failed, told("tls", K::Tls), "{said}");
    assert!(said.contains("another host"), "{said}");
    let distrusting = credential(&[("sasl.username", "alice")], &[("sasl.password", &password)]);
    let (failed, said) = probed("KAFKA_SASL_SSL", "allowed", "idempotent", distrusting, false).await;
    assert_eq!(failed, told("tls", K::Tls), "{said}");
    let mutual = |certificate: &str, key: &str| {
        let (certificate, key) = (file(certificate), file(key));
        credential(&[("security.protocol", "SSL"), ("ssl.ca.pem", &ca), ("ssl.certificate.pem", &certificate)], &[("ssl.key.pem", &key)])
    };
    let (failed, said) = probed("KAFKA_SSL", "allowed", "exactly_once", mutual("KAFKA_CLIENT_CERT", "KAFKA_CLIENT_KEY"), true).await;
    assert_eq!(failed, None, "{said}");
    let (failed, said) = probed("KAFKA_SSL", "allowed", "idempotent", mutual("KAFKA_STRANGER_CERT", "KAFKA_STRANGER_KEY"), false).await;
    assert_eq!(failed, told("tls", K::Tls), "{said}");
    let nobody = || credential(&[("security.protocol", "SSL"), ("ssl.ca.pem", &ca)], &[]);
    let (failed, said) = probed("KAFKA_TLS", "open", "idempotent", nobody(), false).await;
    assert_eq!(failed, None, "{said}");
    assert!(said.contains("not proved"), "no right to transactions: {said}");
    let (failed, said) = probed("KAFKA_TLS", "open", "idempotent", nobody(), true).await;
    assert_eq!(failed, None, "{said}");
    let (failed, said) = probed("KAFKA_TLS", "open", "exactly_once", nobody(), false).await;
    assert_eq!(failed, told("authorize", K::PermissionDenied), "{said}");
    assert!(said.contains("kafka_delivery=idempotent"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_are_taken_given_or_fetched() {
    let ca = match secured("KAFKA_CA") {
        Some(ca) => std::fs::read_to_string(ca).expect("a file of the recipe"),
        None => return,
    };
    let options = [("sasl.mechanism", "OAUTHBEARER"), ("ssl.ca.pem", ca.as_str())];
    if let Some(token) = secured("KAFKA_OAUTH_TOKEN") {
        let (failed, said) = probed("KAFKA_SASL_SSL", "allowed", "exactly_once", credential(&options, &[("sasl.oauthbearer.token", &token)]), true).await;
        assert_eq!(failed, None, "{said}");
    }
    let (failed, said) = probed("KAFKA_SASL_SSL", "allowed", "idempotent", credential(&options, &[("sasl.oauthbearer.token", "n0.t0k3n")]), false).await;
    assert_eq!(failed, Some(("authenticate".to_owned(), ConnectorErrorKind::Unauthenticated)), "{said}");
    if let (Some(url), Some(id), Some(secret)) = (secured("FAKE_CLOUD_OAUTH_TOKEN_URL"), secured("FAKE_CLOUD_CLIENT_ID"), secured("FAKE_CLOUD_CLIENT_SECRET")) {
        let options = [&options[..], &[("sasl.oauthbearer.token.endpoint.url", &url), ("sasl.oauthbearer.client.id", &id)]].concat();
        let fetched = |secret: &str| credential(&options, &[("sasl.oauthbearer.client.secret", secret)]);
        let (failed, said) = probed("KAFKA_SASL_SSL", "allowed", "idempotent", fetched(&secret), true).await;
        assert_eq!(failed, None, "{said}");
        let (failed, said) = probed("KAFKA_SASL_SSL", "allowed", "idempotent", fetched("wrong"), false).await;
        assert_eq!(failed, Some(("credential".to_owned(), ConnectorErrorKind::Unauthenticated)), "{said}");
    }
}
