//! Why: what a sink on a real server costs beside the plain tool for the same job, in one run: `tests/services/with kafka s3 s3-tls -- cargo bench --bench sinks`. Never a test.

#[path = "support/deafening.rs"]
mod deafening;
#[path = "support/figures.rs"]
mod figures;
#[path = "support/load.rs"]
mod load;
#[path = "support/product.rs"]
mod product;

use std::{
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use datasink::{
    api::pb::{
        CreateCredentialRequest, CredentialType, DeliveryGuarantee, create_credential_request::SecretSource, credential_service_client::CredentialServiceClient,
    },
    app::{Parts, Running},
    store::memory::MemoryStore,
};
use rdkafka::{
    ClientConfig,
    error::{KafkaError, RDKafkaErrorCode},
    producer::{BaseRecord, Producer, ThreadedProducer},
};

use crate::{
    figures::{Spread, pair, row, wanted},
    load::{Load, Measured, NO_WINDOW, channel, record, run, schema},
    product::{Process, server, server_with, sink},
};

const RUNS: usize = 5;
/// Of a run to S3, a thousand records each.
const BATCHES: u64 = 1_200;

fn main() {
    // `cargo test --benches` and `cargo bench` both end here; only the latter passes this flag.
    if !std::env::args().any(|argument| argument == "--bench") {
        return;
    }
    // For the client of the yardstick; the product names its own.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    // As in `make sinks ARGS="-- once objects"`.
    runtime.block_on(async {
        match std::env::var("KAFKA_BOOTSTRAP") {
            Ok(bootstrap) if wanted("kafka") => kafka(&bootstrap).await,
            Ok(_) => {}
            Err(_) => println!("no KAFKA_BOOTSTRAP: run this under tests/services/with kafka"),
        }
        // Before the others, whose many gigabytes a disk is still writing afterwards.
        if wanted("once")
            && let Some(s3) = S3::in_the_clear()
        {
            once_and_not(&s3).await;
        }
        match S3::over_tls() {
            Some(s3) if wanted("objects") => objects(&s3).await,
            Some(_) => {}
            None => println!("no S3_TLS_ENDPOINT: run this under tests/services/with s3-tls"),
        }
        match S3::in_the_clear() {
            Some(s3) => {
                if wanted("objects") {
                    objects(&s3).await;
                }
                if wanted("hanging") {
                    hanging(&s3).await;
                }
            }
            None => println!("no S3_ENDPOINT: run this under tests/services/with s3"),
        }
    });
}

fn service(script: &str, words: &[&str]) {
    service_in(script, words, &[]);
}

/// Runs a script of the servers' with other variables than ours, and gives what it prints.
fn service_in(script: &str, words: &[&str], variables: &[(&str, &str)]) -> String {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/services").join(script);
    let python = std::env::var("SERVICES_PYTHON");
    let mut command = match python {
        Ok(python) if script.ends_with(".py") => {
            let mut command = Command::new(python);
            command.arg(path);
            command
        }
        _ => Command::new(path),
    };
    let run = command.args(words).envs(variables.iter().copied()).stderr(Stdio::inherit()).output().expect("the script runs");
    assert!(run.status.success(), "tests/services/{script} {words:?} failed");
    String::from_utf8_lossy(&run.stdout).into_owned()
}

async fn fresh(dir: &Path) -> Running {
    server(dir, Parts { store: Some(Arc::new(MemoryStore::new())), ..Parts::default() }).await
}

async fn credential(address: &str, name: &str, credential_type: CredentialType, identity: &str, secret: &str) {
    let request = CreateCredentialRequest {
        name: name.to_owned(),
        r#type: credential_type.into(),
        identity: identity.to_owned(),
        secret_source: Some(SecretSource::Secret(secret.to_owned())),
        ..CreateCredentialRequest::default()
    };
    CredentialServiceClient::new(channel(address).await).create_credential(request).await.expect("the credential is made");
}

fn load(sink: &str, stream: String, batches: u64, record_bytes: usize) -> Load {
    Load {
        sink: sink.to_owned(),
        stream,
        token: None,
        batches,
        batch_records: 1_000,
        record_bytes,
        batches_in_flight: NO_WINDOW,
        schema: Some(schema()),
        announced: None,
    }
}

async fn push(address: &str, sink: &str, stream: String, batches: u64, record_bytes: usize) -> Measured {
    run(address, &load(sink, stream, batches, record_bytes)).await
}

/// Push to Kafka beside librdkafka alone and Apache's own tool, and exactly-once beside idempotent.
async fn kafka(bootstrap: &str) {
    let dir = tempfile::tempdir().expect("a folder");
    let ours = fresh(dir.path()).await;
    for topic in ["bench-ours", "bench-bare", "bench-once"] {
        service("kafka-topic", &[topic, "1"]);
    }
    let destination = format!("kafka://{bootstrap}");
    sink(&ours.address, "default.kafka", &destination, &[("kafka_topic_name", "bench-ours")]).await;
    sink(&ours.address, "default.once", &destination, &[("kafka_topic_name", "bench-once"), ("kafka_delivery", "exactly_once")]).await;
    let address = ours.address.as_str();
    for (record_bytes, batches) in [(200, 600), (1_024, 200)] {
        let (mut p50, mut p99) = (Vec::new(), Vec::new());
        pair(
            &format!("Push of {record_bytes} B records to Kafka, idempotent / librdkafka alone, the same settings"),
            "records/s",
            0.8,
            RUNS,
            async |number| {
                let measured = push(address, "default.kafka", format!("bare-{record_bytes}-{number}"), batches, record_bytes).await;
                p50.push(measured.percentile(50).as_secs_f64() * 1e3);
                p99.push(measured.percentile(99).as_secs_f64() * 1e3);
                measured.records_per_second
            },
            async |_| bare_producer(bootstrap, batches, record_bytes).await,
        )
        .await;
        row("ack p50", Spread::of(p50), "ms");
        row("ack p99", Spread::of(p99), "ms");
        pair(
            &format!("Push of {record_bytes} B records to Kafka, idempotent / Apache's kafka-producer-perf-test"),
            "records/s",
            0.8,
            RUNS,
            async |number| push(address, "default.kafka", format!("apache-{record_bytes}-{number}"), batches, record_bytes).await.records_per_second,
            async |_| apache(bootstrap, batches, record_bytes),
        )
        .await;
        pair(
            &format!("Push of {record_bytes} B records to Kafka, exactly-once / idempotent"),
            "records/s",
            0.9,
            RUNS,
            async |number| push(address, "default.once", format!("once-{record_bytes}-{number}"), batches, record_bytes).await.records_per_second,
            async |number| push(address, "default.kafka", format!("idem-{record_bytes}-{number}"), batches, record_bytes).await.records_per_second,
        )
        .await;
    }
    ours.stop().await.expect("the server stops");
}

/// The client library alone, on a thread of its own: idempotent, acknowledged by all, everything delivered before the clock stops.
async fn bare_producer(bootstrap: &str, batches: u64, record_bytes: usize) -> f64 {
    let producer: ThreadedProducer<_> = ClientConfig::new()
        .set("bootstrap.servers", bootstrap)
        .set("enable.idempotence", "true")
        .set("acks", "all")
        .set("linger.ms", "5")
        .set("batch.size", "1000000")
        .set("queue.buffering.max.messages", "1000000")
        .set("queue.buffering.max.kbytes", "131072")
        .create()
        .expect("a producer");
    let texts: Vec<String> = (0..1_000).map(|n| record(n, record_bytes)).collect();
    let sending = tokio::task::spawn_blocking(move || {
        let started = Instant::now();
        for n in 0..batches * 1_000 {
            let mut next = BaseRecord::<(), _>::to("bench-bare").payload(texts[(n % 1_000) as usize].as_bytes());
            while let Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), back)) = producer.send(next) {
                std::thread::sleep(Duration::from_millis(1));
                next = back;
            }
        }
        producer.flush(Duration::from_secs(60)).expect("all delivered");
        (batches * 1_000) as f64 / started.elapsed().as_secs_f64()
    });
    sending.await.expect("it sends")
}

/// Apache's own tool, as it tells its rate.
fn apache(bootstrap: &str, batches: u64, record_bytes: usize) -> f64 {
    let jars = std::env::var("KAFKA_LIB").expect("tests/services/with kafka tells where Kafka's jars are");
    let count = (batches * 1_000).to_string();
    let run = Command::new("java")
        .args(["-Xmx256m", "-cp", &format!("{jars}/*"), "org.apache.kafka.tools.ProducerPerformance", "--topic", "bench-bare", "--num-records", &count])
        .args(["--record-size", &record_bytes.to_string(), "--throughput", "-1", "--bootstrap-server", bootstrap, "--command-property", "acks=all"])
        .output()
        .expect("java is needed");
    let said = String::from_utf8_lossy(&run.stdout);
    let last = said.lines().rev().find(|line| line.contains("records/sec")).unwrap_or_else(|| panic!("no rate in {said}"));
    let before = last.split(" records/sec").next().and_then(|text| text.rsplit(' ').next());
    before.and_then(|rate| rate.parse().ok()).unwrap_or_else(|| panic!("no rate in {last}"))
}

/// An object store that speaks S3.
struct S3 {
    endpoint: String,
    key: String,
    secret: String,
    /// The authority of its certificate; empty where it speaks HTTP.
    ca: String,
}

impl S3 {
    fn in_the_clear() -> Option<Self> {
        let get = |name| std::env::var(name).ok();
        Some(Self { endpoint: get("S3_ENDPOINT")?, key: get("S3_ACCESS_KEY")?, secret: get("S3_SECRET_KEY")?, ca: String::new() })
    }

    fn over_tls() -> Option<Self> {
        let get = |name| std::env::var(name).ok();
        Some(Self { endpoint: get("S3_TLS_ENDPOINT")?, key: get("S3_TLS_ACCESS_KEY")?, secret: get("S3_TLS_SECRET_KEY")?, ca: get("S3_CA")? })
    }

    /// What scripts find the store by.
    fn variables(&self) -> Vec<(&str, &str)> {
        let all = [("S3_ENDPOINT", &self.endpoint), ("S3_ACCESS_KEY", &self.key), ("S3_SECRET_KEY", &self.secret), ("AWS_CA_BUNDLE", &self.ca)];
        all.into_iter().filter(|(_, value)| !value.is_empty()).map(|(name, value)| (name, value.as_str())).collect()
    }

    /// Makes a bucket; `open`: that anybody may write to.
    fn bucket(&self, name: &str, open: bool) {
        service_in("make-bucket", &["s3", name], &self.variables());
        if open {
            service_in("stores.py", &["s3", "open", name], &self.variables());
        }
    }

    fn scheme(&self) -> &'static str {
        if self.ca.is_empty() { "HTTP" } else { "HTTPS" }
    }

    /// The sink's option of that name.
    fn https(&self) -> &'static str {
        if self.ca.is_empty() { "false" } else { "true" }
    }

    /// The yardstick's client.
    fn client(&self) -> reqwest::Client {
        let authority = (!self.ca.is_empty()).then(|| reqwest::Certificate::from_pem(&std::fs::read(&self.ca).expect("the authority")).expect("a certificate"));
        let builder = reqwest::Client::builder().no_proxy();
        let builder = if let Some(authority) = authority { builder.tls_certs_only([authority]) } else { builder };
        builder.build().expect("a client")
    }

    /// A sink with the store's credential.
    async fn sink(&self, address: &str, name: &str, bucket: &str, more: &[(&str, &str)]) {
        let options = [&[("credential", "default.s3_login"), ("use_https", self.https())], more].concat();
        self.sink_at(self.host(), address, name, bucket, &options).await;
    }

    /// A sink without a credential, in a bucket that is open to all, at this store or at what stands before it.
    async fn sink_at(&self, host: &str, address: &str, name: &str, bucket: &str, more: &[(&str, &str)]) {
        let options = [&[("s3_bucket_name", bucket), ("s3_region", "us-east-1"), ("s3_use_virtual_addressing", "false")], more].concat();
        sink(address, name, &format!("s3://{host}"), &options).await;
    }

    fn host(&self) -> &str {
        self.endpoint.split_once("://").expect("a URL").1
    }
}

/// Push to S3 as NDJSON and Parquet, beside plain PUTs of the same records as text, as many at once as the engine has parts under way. Like beside like: where the sink has a credential, the
/// vendor's SDK with the same one; where the bucket is open to all, bare PUTs, which nobody signs either.
async fn objects(s3: &S3) {
    let dir = tempfile::tempdir().expect("a folder");
    let parts = Parts { store: Some(Arc::new(MemoryStore::new())), ..Parts::default() };
    let ours = server_with(dir.path(), parts, |settings| settings.egress_ca = s3.ca.clone().into()).await;
    s3.bucket("bench-ours", false);
    s3.bucket("bench-open", true);
    s3.bucket("bench-plain", true);
    credential(&ours.address, "default.s3_login", CredentialType::AwsAccessKey, &s3.key, &s3.secret).await;
    let parquet = [("file_format", "parquet"), ("file_compression", "snappy")];
    for (form, options) in [("ndjson", [].as_slice()), ("parquet", &parquet)] {
        s3.sink(&ours.address, &format!("default.{form}"), "bench-ours", options).await;
        s3.sink_at(s3.host(), &ours.address, &format!("default.open_{form}"), "bench-open", &[&[("use_https", s3.https())], options].concat()).await;
    }
    let address = ours.address.as_str();
    let pushed = async |sink: &str, yardstick: &str, number: usize| {
        push(address, &format!("default.{sink}"), format!("{yardstick}-{number}"), BATCHES, 200).await.records_per_second
    };
    for (form, called) in [("ndjson", "NDJSON"), ("parquet", "Parquet")] {
        let what = format!("Push of 200 B records to S3 over {} as {called}, exactly-once", s3.scheme());
        pair(
            &format!("{what} / PUTs of the records as text by the vendor's SDK with the same credential"),
            "records/s",
            0.8,
            RUNS,
            async |number| pushed(form, "sdk", number).await,
            async |number| sdk_puts(s3, &format!("sdk-{form}-{number}"), BATCHES),
        )
        .await;
        pair(
            &format!("{what}, to a bucket open to all / bare PUTs of the records as text to another"),
            "records/s",
            0.8,
            RUNS,
            async |number| pushed(&format!("open_{form}"), "open", number).await,
            async |number| bare_puts(s3, &format!("open-{form}-{number}"), BATCHES).await,
        )
        .await;
    }
    ours.stop().await.expect("the server stops");
}

/// Exactly-once beside the same sink at a store that never hears the condition, which is announced as idempotent and looks whether a name is free before it writes. A proxy is before both; in the
/// clear, for it reads the requests.
async fn once_and_not(s3: &S3) {
    let dir = tempfile::tempdir().expect("a folder");
    let ours = fresh(dir.path()).await;
    s3.bucket("bench-once", true);
    // The first goes up whole, the default in parts where the store hears the condition.
    for object_bytes in ["8388608", "33554432"] {
        let sinks = ["once", "not"].map(|name| format!("default.{name}_{object_bytes}"));
        for (name, deaf) in sinks.iter().zip([false, true]) {
            let proxy = deafening::start(s3.host(), deaf).await.to_string();
            s3.sink_at(&proxy, &ours.address, name, "bench-once", &[("use_https", "false"), ("max_object_bytes", object_bytes)]).await;
        }
        let pushed = async |sink: &str, number: usize, announced: DeliveryGuarantee| {
            let load = Load { announced: Some(announced), ..load(sink, number.to_string(), BATCHES, 200) };
            run(&ours.address, &load).await.records_per_second
        };
        pair(
            &format!("Push of 200 B records to S3 over HTTP as NDJSON, {object_bytes} bytes an object, exactly-once / idempotent: a store that never hears the condition"),
            "records/s",
            0.9,
            RUNS,
            async |number| pushed(&sinks[0], number, DeliveryGuarantee::ExactlyOnce).await,
            async |number| pushed(&sinks[1], number, DeliveryGuarantee::Idempotent).await,
        )
        .await;
    }
    ours.stop().await.expect("the server stops");
}

/// The records of `batches` batches as objects of 8 MiB of text: how many objects, the records in each, and its bytes.
fn as_objects(batches: u64) -> (u64, u64, Bytes) {
    const OBJECT_BYTES: usize = 8 << 20;
    let body: Bytes = (0..)
        .map(|n| record(n % 1_000, 200) + "\n")
        .scan(0, |sum, line| {
            *sum += line.len();
            (*sum <= OBJECT_BYTES).then_some(line)
        })
        .collect::<String>()
        .into();
    let per_object = OBJECT_BYTES as u64 / 201;
    ((batches * 1_000).div_ceil(per_object), per_object, body)
}

/// What somebody would write without us: the vendor's SDK as it comes, with the sink's own credential, four objects at a time. Its start is not counted.
fn sdk_puts(s3: &S3, prefix: &str, batches: u64) -> f64 {
    let (objects, per_object, body) = as_objects(batches);
    let file = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(file.path(), body).expect("room for an object");
    let path = file.path().to_str().expect("a name in UTF-8");
    let seconds = service_in("stores.py", &["s3", "put-many", "bench-plain", prefix, path, &objects.to_string()], &s3.variables());
    (objects * per_object) as f64 / seconds.trim().parse::<f64>().expect("it says the seconds")
}

/// The least that can be done: four PUTs at a time, nobody looking at what they are or who asks.
async fn bare_puts(s3: &S3, run: &str, batches: u64) -> f64 {
    let (client, endpoint) = (s3.client(), &s3.endpoint);
    let (objects, per_object, body) = as_objects(batches);
    let started = Instant::now();
    let puts = (0..objects).map(|object| {
        let (client, body) = (client.clone(), body.clone());
        async move {
            let answer = client.put(format!("{endpoint}/bench-plain/bare-{run}/{object}")).body(body).send().await.expect("the store answers");
            assert!(answer.status().is_success(), "PUT: {}", answer.status());
        }
    });
    futures::StreamExt::for_each(futures::StreamExt::buffer_unordered(futures::stream::iter(puts), 4), |()| async {}).await;
    (objects * per_object) as f64 / started.elapsed().as_secs_f64()
}

/// What a server holds while its target hangs and its sender does not stop.
async fn hanging(s3: &S3) {
    let dir = tempfile::tempdir().expect("a folder");
    let ours = Process::start(dir.path(), &["--egress-allow", "127.0.0.0/8"]);
    let address = ours.address.clone();
    credential(&address, "default.s3_login", CredentialType::AwsAccessKey, &s3.key, &s3.secret).await;
    s3.sink(&address, "default.s3", "bench-ours", &[("wait_timeout", "120")]).await;
    push(&address, "default.s3", "warm".to_owned(), 400, 200).await;
    let before = ours.resident();
    service("ctl", &["s3", "pause"]);
    let sender = {
        let address = address.clone();
        #[expect(clippy::disallowed_methods, reason = "a sender beside the one who watches; it is awaited")]
        tokio::spawn(async move { push(&address, "default.s3", "hang".to_owned(), 4_000, 200).await })
    };
    let mut most = before;
    for _ in 0..20 {
        tokio::time::sleep(Duration::from_millis(500)).await;
        most = most.max(ours.resident());
    }
    service("ctl", &["s3", "resume"]);
    sender.await.expect("the sender ends well once the store answers again");
    println!("\nMemory while S3 hangs for ten seconds and a sender has 800 MB for it");
    println!("  {before} KiB before, {most} KiB at most");
}
