//! Why: the figures of the product, each beside a yardstick in the same run; `docs/benchmarks.md` tells how to read them. Never a test: nothing here fails for being slow.

#[path = "support/bare.rs"]
mod bare;
#[path = "support/discard.rs"]
mod discard;
#[path = "support/figures.rs"]
mod figures;
#[path = "support/load.rs"]
mod load;
#[path = "support/product.rs"]
mod product;

use std::{
    path::Path,
    process::Command,
    sync::Arc,
    time::{Duration, Instant},
};

use datasink::{
    api::pb::{CreateTableRequest, OpenStream, PushRequest, push_request, push_service_client::PushServiceClient, table_service_client::TableServiceClient},
    app::Parts,
    store::{
        Store, Table, Transaction,
        memory::MemoryStore,
        sled::{SledOptions, SledStore},
    },
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use crate::{
    figures::{Spread, pair, row, wanted},
    load::{Load, NO_WINDOW, channel, record, run, schema},
    product::{Process, server, sink},
};

const RUNS: usize = 7;

fn main() {
    // `cargo test --benches` and `cargo bench` both end here; only the latter passes this flag.
    if !std::env::args().any(|argument| argument == "--bench") {
        return;
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    // As in `make bench ARGS="-- webhook local"`.
    runtime.block_on(async {
        if wanted("discard") {
            discarded().await;
        }
        if wanted("local") {
            local_table().await;
        }
        if wanted("webhook") {
            webhook().await;
        }
        if wanted("idle") {
            idle_streams().await;
        }
    });
}

async fn table(address: &str, name: &str) {
    let request = CreateTableRequest { name: name.to_owned(), schema: Some(schema()), ..CreateTableRequest::default() };
    TableServiceClient::new(channel(address).await).create_table(request).await.expect("the table is made");
}

/// Push to a destination that costs nothing, beside a bare tonic stream of the same messages.
async fn discarded() {
    let dir = tempfile::tempdir().expect("a folder");
    let parts = Parts { store: Some(Arc::new(MemoryStore::new())), kinds: vec![Arc::new(discard::Discard)], ..Parts::default() };
    let ours = server(dir.path(), parts).await;
    sink(&ours.address, "default.discard", "kafka://discard", &[]).await;
    let (bare, checking) = (bare::start(false).await.to_string(), bare::start(true).await.to_string());
    // What a client keeps on its way, and about a second of it.
    const WINDOW: usize = 32;
    for (record_bytes, batches) in [(200, 6_000), (1_024, 2_000)] {
        let load = |run: usize, yardstick: &str| Load {
            sink: "default.discard".to_owned(),
            stream: format!("{yardstick}-{record_bytes}-{run}"),
            token: None,
            batches,
            batch_records: 1_000,
            record_bytes,
            batches_in_flight: WINDOW,
            schema: None,
            announced: None,
        };
        for (yardstick, far, goal) in [("a bare tonic stream", &bare, Some(0.8)), ("one that checks and hashes the records as we do", &checking, None)] {
            pair(
                &format!("Push of {record_bytes} B records, 1,000 a batch, to a discarding connector / {yardstick}"),
                "records/s",
                goal,
                RUNS,
                async |number| run(&ours.address, &load(number, yardstick)).await.records_per_second,
                async |number| run(far, &load(number, yardstick)).await.records_per_second,
            )
            .await;
        }
    }
    ours.stop().await.expect("the server stops");
}

/// Push into a table on disk, beside the store alone with the same commits.
async fn local_table() {
    const BATCHES: u64 = 200;
    let dir = tempfile::tempdir().expect("a folder");
    let ours = server(dir.path(), Parts::default()).await;
    table(&ours.address, "default.t").await;
    sink(&ours.address, "default.table", "table://default.t", &[]).await;
    let store = SledStore::open(&dir.path().join("alone"), SledOptions { ballast: false, ..SledOptions::default() }).expect("the store opens");
    let (mut p50, mut p99) = (Vec::new(), Vec::new());
    let address = ours.address.clone();
    pair(
        "Push of 200 B records, 1,000 a batch, into a local table / the store alone with the same commits",
        "records/s",
        0.7,
        RUNS,
        async |number| {
            let load = Load {
                sink: "default.table".to_owned(),
                stream: format!("s{number}"),
                token: None,
                batches: BATCHES,
                batch_records: 1_000,
                record_bytes: 200,
                batches_in_flight: NO_WINDOW,
                schema: None,
                announced: None,
            };
            let measured = run(&address, &load).await;
            p50.push(measured.percentile(50).as_secs_f64() * 1e3);
            p99.push(measured.percentile(99).as_secs_f64() * 1e3);
            measured.records_per_second
        },
        async |number| alone(&store, number as u64, BATCHES).await,
    )
    .await;
    row("ack p50", Spread::of(p50), "ms");
    row("ack p99", Spread::of(p99), "ms");
    ours.stop().await.expect("the server stops");
}

/// The same rows as a session's units hold them, twenty to a value, one commit after the other.
async fn alone(store: &SledStore, run: u64, batches: u64) -> f64 {
    const ROWS: Table = Table { name: "bench_rows", verified_at_open: false };
    let rows: Vec<String> = (0..1_000).map(|n| record(n, 200)).collect();
    let started = Instant::now();
    for batch in 0..batches {
        let mut transaction = Transaction::new();
        for (place, packed) in rows.chunks(20).enumerate() {
            let key = [run.to_be_bytes(), batch.to_be_bytes(), (place as u64).to_be_bytes()].concat();
            transaction = transaction.absent(ROWS, key.clone()).put(ROWS, key, packed.join("\n"));
        }
        store.transact(transaction.put(ROWS, b"mark".to_vec(), batch.to_string())).await.expect("the store takes it");
    }
    (batches * 1_000) as f64 / started.elapsed().as_secs_f64()
}

/// Push to a webhook in batches of a thousand, a hundred records a request, beside wrk with one connection against the same receiver.
async fn webhook() {
    const BATCHES: u64 = 1_000;
    let dir = tempfile::tempdir().expect("a folder");
    let receiver = receiver();
    let ours = server(dir.path(), Parts { store: Some(Arc::new(MemoryStore::new())), ..Parts::default() }).await;
    sink(&ours.address, "default.hook", &receiver, &[("json_format", "nested"), ("max_batch_size", "100")]).await;
    let script = dir.path().join("post.lua");
    let body = format!("[{}]", (0..100).map(|n| record(n, 200)).collect::<Vec<_>>().join(","));
    std::fs::write(&script, format!("wrk.method=\"POST\"\nwrk.headers[\"content-type\"]=\"application/json\"\nwrk.body=[==[{body}]==]\n")).expect("a script");
    let address = ours.address.clone();
    pair(
        "Push to a webhook, 100 records of 200 B a request / wrk with one connection and the same body",
        "requests/s",
        0.7,
        RUNS,
        async |number| {
            let load = Load {
                sink: "default.hook".to_owned(),
                stream: format!("s{number}"),
                token: None,
                batches: BATCHES,
                batch_records: 1_000,
                record_bytes: 200,
                batches_in_flight: NO_WINDOW,
                schema: None,
                announced: None,
            };
            run(&address, &load).await.records_per_second / 100.0
        },
        async |_| wrk(&script, &receiver),
    )
    .await;
    ours.stop().await.expect("the server stops");
}

/// A receiver with threads of its own.
fn receiver() -> String {
    let (told, address) = std::sync::mpsc::sync_channel(1);
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async {
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
            told.send(listener.local_addr().expect("a bound address")).expect("the bench waits");
            let router = axum::Router::new().route("/", axum::routing::post(|_: axum::body::Bytes| async { axum::http::StatusCode::NO_CONTENT }));
            axum::serve(listener, router).await.expect("the receiver serves");
        });
    });
    format!("http://{}/", address.recv().expect("the receiver starts"))
}

fn wrk(script: &Path, url: &str) -> f64 {
    let run = Command::new("wrk").args(["-t1", "-c1", "-d2s", "-s"]).arg(script).arg(url).output().expect("wrk is needed: install the package of that name");
    let said = String::from_utf8_lossy(&run.stdout);
    let line = said.lines().find_map(|line| line.trim().strip_prefix("Requests/sec:"));
    line.and_then(|number| number.trim().parse().ok()).unwrap_or_else(|| panic!("wrk said no rate: {said}"))
}

/// What a thousand open streams cost a server that does nothing else.
async fn idle_streams() {
    const STREAMS: usize = 1_000;
    let dir = tempfile::tempdir().expect("a folder");
    let ours = Process::start(dir.path(), &[]);
    let address = ours.address.clone();
    table(&address, "default.t").await;
    sink(&address, "default.table", "table://default.t", &[]).await;
    let before = ours.resident();
    let mut open = Vec::new();
    for number in 0..STREAMS {
        if number % 100 == 0 {
            open.push((channel(&address).await, Vec::new()));
        }
        let (channel, streams) = open.last_mut().expect("just pushed");
        let (frames, outgoing) = mpsc::channel(1);
        let frame =
            OpenStream { data_sink: "default.table".to_owned(), stream: format!("idle-{number}"), client_id: "bench".to_owned(), ..OpenStream::default() };
        frames.send(PushRequest { frame: Some(push_request::Frame::Open(frame)) }).await.expect("a new channel");
        let mut answers = PushServiceClient::new(channel.clone()).push(ReceiverStream::new(outgoing)).await.expect("the call is taken").into_inner();
        answers.message().await.expect("opened").expect("opened");
        streams.push((frames, answers));
    }
    tokio::time::sleep(Duration::from_secs(2)).await;
    let after = ours.resident();
    println!("\nMemory of {STREAMS} idle streams (10 connections, one local table)");
    println!("  {before} KiB before, {after} KiB with them: {:.1} KiB a stream", (after - before) as f64 / STREAMS as f64);
}
