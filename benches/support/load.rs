//! Why: one sender for the product and for every yardstick, so that only the far side differs. Never waits for a single ack while it could send.

use std::time::{Duration, Instant};

use bytes::Bytes;
use datasink::api::pb::{
    Column, ColumnType, DeliveryGuarantee, FlushStream, OpenStream, PushRequest, RecordBatch, RecordSchema, push_request, push_response,
    push_service_client::PushServiceClient, record_batch,
};
use tokio::sync::{Semaphore, mpsc};
use tokio_stream::{StreamExt, wrappers::ReceiverStream};
use tonic::{
    Request,
    transport::{Channel, Endpoint},
};

/// What to send.
#[derive(Clone)]
pub struct Load {
    pub sink: String,
    pub stream: String,
    pub token: Option<String>,
    pub batches: u64,
    pub batch_records: u64,
    pub record_bytes: usize,
    /// The most batches on their way, however many the far side would let us send: without it a yardstick that takes everything measures how fast memory fills.
    pub batches_in_flight: usize,
    /// Told at open, for destinations that need columns.
    pub schema: Option<RecordSchema>,
    /// What must be announced, for figures that are about that.
    pub announced: Option<DeliveryGuarantee>,
}

/// What came of it.
pub struct Measured {
    pub records_per_second: f64,
    /// From sending a batch to the ack that passes it, sorted.
    pub latencies: Vec<Duration>,
}

impl Measured {
    pub fn percentile(&self, percent: usize) -> Duration {
        self.latencies[(self.latencies.len() - 1) * percent / 100]
    }
}

/// So many batches that only the far side's own window holds the sender.
pub const NO_WINDOW: usize = 1 << 20;
/// Payloads that are made before the clock starts; a longer stream sends them again and again.
const PAYLOADS: u64 = 1_000;

/// A channel with wide windows.
pub async fn channel(address: &str) -> Channel {
    Endpoint::from_shared(format!("http://{address}"))
        .expect("an address")
        .initial_stream_window_size(4 << 20)
        .initial_connection_window_size(16 << 20)
        .tcp_nodelay(true)
        .connect()
        .await
        .expect("the server listens")
}

/// The columns of [`record`].
pub fn schema() -> RecordSchema {
    let column = |name: &str, column_type: ColumnType| Column { name: name.to_owned(), r#type: column_type.into(), ..Column::default() };
    RecordSchema { columns: vec![column("n", ColumnType::Int64), column("pad", ColumnType::String)] }
}

/// One record of about `bytes` bytes for a table of `(n int64, pad string)`.
pub fn record(n: u64, bytes: usize) -> String {
    let head = format!("{{\"n\":{n},\"pad\":\"");
    let pad = bytes.saturating_sub(head.len() + 2);
    format!("{head}{}\"}}", "x".repeat(pad))
}

/// Sends everything, then waits for the last ack; from a thread of its own, as a client is a process of its own.
pub async fn run(address: &str, load: &Load) -> Measured {
    let (address, load) = (address.to_owned(), load.clone());
    let sending = tokio::task::spawn_blocking(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async { send(channel(&address).await, &load).await })
    });
    sending.await.expect("the sender ends well")
}

async fn send(channel: Channel, load: &Load) -> Measured {
    let payloads: Vec<Bytes> = (0..load.batches.min(PAYLOADS))
        .map(|batch| {
            let from = batch * load.batch_records;
            (from..from + load.batch_records).map(|n| record(n, load.record_bytes) + "\n").collect::<String>().into()
        })
        .collect();
    let (frames, outgoing) = mpsc::channel(16);
    let open = OpenStream {
        data_sink: load.sink.clone(),
        stream: load.stream.clone(),
        client_id: "bench".to_owned(),
        schema: load.schema.clone(),
        ..OpenStream::default()
    };
    frames.send(PushRequest { frame: Some(push_request::Frame::Open(open)) }).await.expect("a new channel");
    let mut request = Request::new(ReceiverStream::new(outgoing));
    if let Some(token) = &load.token {
        request.metadata_mut().insert("authorization", format!("Bearer {token}").parse().expect("ASCII"));
    }
    let mut answers = PushServiceClient::new(channel).push(request).await.expect("the call is taken").into_inner();
    let opened = answers.next().await.expect("opened").expect("opened");
    let Some(push_response::Frame::Opened(opened)) = opened.frame else { panic!("expected opened, got {opened:?}") };
    assert!(load.announced.is_none_or(|announced| announced == opened.delivery()), "announced is {:?}: {}", opened.delivery(), opened.delivery_basis);

    let (sent_at, mut sent) = mpsc::channel::<Instant>(usize::try_from(load.batches).expect("small") + 1);
    let per_batch = load.batch_records;
    let total = load.batches * per_batch;
    let window = Semaphore::new(load.batches_in_flight);
    let started = Instant::now();
    let sender = async {
        for (number, payload) in (0..load.batches).zip(payloads.iter().cycle()) {
            window.acquire().await.expect("it is never closed").forget();
            let batch = RecordBatch {
                first_offset: i64::try_from(number * per_batch).ok(),
                record_count: i32::try_from(per_batch).expect("small"),
                payload: Some(record_batch::Payload::Ndjson(payload.clone())),
                ..RecordBatch::default()
            };
            sent_at.send(Instant::now()).await.expect("room for every batch");
            frames.send(PushRequest { frame: Some(push_request::Frame::Batch(batch)) }).await.expect("the server reads");
        }
        // Nothing more comes: the last unit need not wait for company.
        let flush = FlushStream { token: "end".to_owned() };
        frames.send(PushRequest { frame: Some(push_request::Frame::Flush(flush)) }).await.expect("the server reads");
        frames
    };
    let reader = async {
        let mut latencies = Vec::new();
        loop {
            let answer = answers.next().await.expect("an answer").expect("an answer");
            match answer.frame {
                Some(push_response::Frame::Ack(ack)) => {
                    let done = ack.next_offset.unsigned_abs();
                    while (latencies.len() as u64 + 1) * per_batch <= done {
                        latencies.push(sent.recv().await.expect("sent before acknowledged").elapsed());
                        window.add_permits(1);
                    }
                    if done >= total {
                        return latencies;
                    }
                }
                Some(push_response::Frame::RecordErrors(errors)) => panic!("{errors:?}"),
                _ => {}
            }
        }
    };
    let (mut latencies, _open) = tokio::join!(reader, sender);
    let seconds = started.elapsed().as_secs_f64();
    latencies.sort_unstable();
    Measured { records_per_second: total as f64 / seconds, latencies }
}
