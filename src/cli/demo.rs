//! Why: what a newcomer sees first: a service, a table, a sink, a stream with true acks, and rows read back. Never starts a server that others can reach.

use std::{
    path::PathBuf,
    process::Stdio,
    time::{Duration, Instant},
};

use bytes::{BufMut, Bytes, BytesMut};
use indicatif::{HumanCount, ProgressBar, ProgressStyle};
use rustix::process::{Pid, Signal, kill_process};
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::{Child, Command},
    sync::mpsc,
};
use tokio_stream::{StreamExt, wrappers::ReceiverStream};

use super::{
    CliError,
    client::{Connection, Server},
};
use crate::api::pb::{
    Column, ColumnType, CreateDataSinkRequest, CreateTableRequest, OpenStream, PushRequest, RecordBatch, RecordSchema, ScanRowsRequest, StreamCounts,
    data_sink_service_client::DataSinkServiceClient, push_request, push_response, push_service_client::PushServiceClient, record_batch,
    table_service_client::TableServiceClient,
};

const TABLE: &str = "default.demo_trades";
const SINK: &str = "default.demo_sink";
const STREAM: &str = "demo";
const BATCH_RECORDS: u64 = 1_000;

/// Arguments of `datasink demo`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Where the service keeps everything.
    #[arg(long, default_value = "./datasink-data")]
    data_dir: PathBuf,
    /// Where the service listens; loopback only, because the demonstration needs no token.
    #[arg(long, default_value = "127.0.0.1:50051")]
    listen: String,
    /// How many records to push.
    #[arg(long, default_value_t = 200_000)]
    records: u64,
    /// How long to stay up afterwards, in seconds; unset: until Ctrl-C.
    #[arg(long, env = "DEMO_SECONDS")]
    seconds: Option<u64>,
}

/// Runs the demonstration.
pub async fn run(args: Args) -> Result<(), CliError> {
    println!("starting the service on {} with its data in {}", args.listen, args.data_dir.display());
    let (mut child, address) = start(&args).await?;
    let shown = demonstrate(&args, &address).await;
    if shown.is_ok() {
        stay(&args, &address, &mut child).await;
    }
    stop(&mut child).await?;
    shown
}

async fn demonstrate(args: &Args, address: &str) -> Result<(), CliError> {
    let connection = Server { address: format!("http://{address}"), token_file: None, ca_file: None }.connect().await?;
    create(connection.clone()).await?;
    println!("pushing {} generated trades through the data sink {SINK}; each ack means they are on disk", HumanCount(args.records));
    let started = Instant::now();
    let (counts, delivery) = push(connection.clone(), args.records).await?;
    let rate = args.records as f64 / started.elapsed().as_secs_f64();
    println!("{} records acknowledged, {} records/s; {delivery}", HumanCount(args.records), HumanCount(rate as u64));
    println!("the stream {STREAM:?} now counts {} delivered, {} rejected", HumanCount(counts.delivered_records.unsigned_abs()), counts.rejected_records);
    show_rows(connection).await
}

/// The service is a process of its own, as it would be anywhere else.
async fn start(args: &Args) -> Result<(Child, String), CliError> {
    let program = std::env::current_exe().map_err(|fault| CliError::Local(format!("the running program cannot be found: {fault}")))?;
    let mut child = Command::new(program)
        .args(["serve", "--insecure-anonymous-admin", "--drain-delay", "0s", "--listen", &args.listen, "--data-dir"])
        .arg(&args.data_dir)
        .env("DATASINK_LOG", std::env::var("DATASINK_LOG").unwrap_or_else(|_| "warn".to_owned()))
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(|fault| CliError::Local(format!("the service cannot be started: {fault}")))?;
    let stdout = child.stdout.take().ok_or_else(|| CliError::Local("the service has no output".to_owned()))?;
    let line = BufReader::new(stdout).lines().next_line().await.ok().flatten();
    let ready: Option<serde_json::Value> = line.and_then(|line| serde_json::from_str(&line).ok());
    match ready.as_ref().and_then(|ready| ready["listening"].as_str()) {
        Some(address) => Ok((child, address.to_owned())),
        None => Err(CliError::Local("the service did not start; its own message is above".to_owned())),
    }
}

async fn create(connection: Connection) -> Result<(), CliError> {
    let column = |name: &str, column_type: ColumnType| Column { name: name.to_owned(), r#type: column_type.into(), ..Column::default() };
    let columns =
        vec![column("id", ColumnType::Int64), column("symbol", ColumnType::String), column("price", ColumnType::Double), column("at", ColumnType::Timestamp)];
    TableServiceClient::new(connection.clone())
        .create_table(CreateTableRequest { name: TABLE.to_owned(), schema: Some(RecordSchema { columns }), if_not_exists: true, request_id: String::new() })
        .await?;
    DataSinkServiceClient::new(connection)
        .create_data_sink(CreateDataSinkRequest {
            name: SINK.to_owned(),
            destination: format!("table://{TABLE}"),
            if_not_exists: true,
            ..CreateDataSinkRequest::default()
        })
        .await?;
    Ok(())
}

/// Pushes `records` more on the stream and waits for the ack that passes the last.
async fn push(connection: Connection, records: u64) -> Result<(StreamCounts, String), CliError> {
    let (frames, outgoing) = mpsc::channel(8);
    let open = OpenStream { data_sink: SINK.to_owned(), stream: STREAM.to_owned(), client_id: "demo".to_owned(), takeover: true, ..OpenStream::default() };
    frames.try_send(PushRequest { frame: Some(push_request::Frame::Open(open)) }).map_err(|_| CliError::Local("a new channel was full".to_owned()))?;
    let mut incoming = PushServiceClient::new(connection).push(ReceiverStream::new(outgoing)).await?.into_inner();
    let Some(push_response::Frame::Opened(opened)) = incoming.next().await.transpose()?.and_then(|response| response.frame) else {
        return Err(CliError::Local("the service did not open the stream".to_owned()));
    };
    let from = opened.next_offset.unsigned_abs();
    let acks = async {
        let bar = ProgressBar::new(records)
            .with_style(ProgressStyle::with_template("{bar:30} {human_pos}/{human_len} acknowledged {per_sec} ETA {eta}").expect("the template is valid"));
        while let Some(response) = incoming.next().await {
            match response?.frame {
                Some(push_response::Frame::Ack(ack)) => {
                    let done = ack.next_offset.unsigned_abs() - from;
                    bar.set_position(done);
                    if done >= records {
                        bar.finish();
                        return Ok(ack.counts.unwrap_or_default());
                    }
                }
                Some(push_response::Frame::RecordErrors(errors)) => {
                    let first = errors.errors.into_iter().next().unwrap_or_default();
                    return Err(CliError::Local(format!("record {} was refused: {}", first.offset, first.message)));
                }
                _ => {}
            }
        }
        Err(CliError::Local("the service closed the stream".to_owned()))
    };
    // The sender's half stays open until the last ack is here.
    let (counts, _open) = tokio::join!(acks, generate(from, records, frames));
    Ok((counts?, opened.delivery_basis))
}

async fn generate(from: u64, records: u64, frames: mpsc::Sender<PushRequest>) -> mpsc::Sender<PushRequest> {
    for start in (from..from + records).step_by(BATCH_RECORDS as usize) {
        let count = BATCH_RECORDS.min(from + records - start);
        let batch = RecordBatch {
            first_offset: i64::try_from(start).ok(),
            payload: Some(record_batch::Payload::Ndjson(trades(start, count))),
            ..RecordBatch::default()
        };
        if frames.send(PushRequest { frame: Some(push_request::Frame::Batch(batch)) }).await.is_err() {
            break;
        }
    }
    frames
}

/// Made from the record's number alone, so that a record sent again is the same record.
fn trades(start: u64, count: u64) -> Bytes {
    const SYMBOLS: [&str; 5] = ["AAPL", "ASML", "NVDA", "SAP", "TSM"];
    let mut out = BytesMut::new();
    for id in start..start + count {
        let mixed = id.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
        let symbol = SYMBOLS[(mixed % 5) as usize];
        let (price, cents) = (100 + mixed % 400, mixed % 100);
        let (hour, minute, second) = (id / 3_600 % 24, id / 60 % 60, id % 60);
        out.put_slice(
            format!("{{\"id\":{id},\"symbol\":\"{symbol}\",\"price\":{price}.{cents:02},\"at\":\"2026-01-05T{hour:02}:{minute:02}:{second:02}Z\"}}\n")
                .as_bytes(),
        );
    }
    out.freeze()
}

async fn show_rows(connection: Connection) -> Result<(), CliError> {
    let mut rows = TableServiceClient::new(connection)
        .scan_rows(ScanRowsRequest { table: TABLE.to_owned(), limit: 5, encoding: crate::api::pb::RecordEncoding::Ndjson.into(), ..ScanRowsRequest::default() })
        .await?
        .into_inner();
    println!("the first rows of {TABLE}, read back:");
    while let Some(message) = rows.next().await {
        if let Some(record_batch::Payload::Ndjson(lines)) = message?.batch.and_then(|batch| batch.payload) {
            print!("{}", String::from_utf8_lossy(&lines).lines().map(|line| format!("  {line}\n")).collect::<String>());
        }
    }
    Ok(())
}

async fn stay(args: &Args, address: &str, child: &mut Child) {
    println!("\nThe service is up on {address}. Try, in another terminal:\n");
    println!("  grpcurl -plaintext -d '{{\"kind\":\"SINK_KIND_WEBHOOK\"}}' {address} datasink.v1.DataSinkService/ShowSinkKinds");
    println!(
        "  grpcurl -plaintext -d '{{\"data_sink\":\"{SINK}\",\"batch\":{{\"json\":{{\"records\":[{{\"id\":-1,\"symbol\":\"ME\",\"price\":1.5,\"at\":\"2026-01-05T00:00:00Z\"}}]}}}}}}' {address} datasink.v1.PushService/PushOnce"
    );
    println!("  grpcurl -plaintext -d '{{\"table\":\"{TABLE}\",\"limit\":3}}' {address} datasink.v1.TableService/ScanRows\n");
    let wait = async {
        match args.seconds {
            Some(seconds) => tokio::time::sleep(Duration::from_secs(seconds)).await,
            None => {
                println!("Ctrl-C ends it.");
                // Without a signal handler there is nothing better than staying up.
                if tokio::signal::ctrl_c().await.is_err() {
                    std::future::pending::<()>().await;
                }
            }
        }
    };
    tokio::select! {
        () = wait => {}
        _ = child.wait() => println!("the service has ended"),
    }
}

/// Asks the service to drain and waits for it.
async fn stop(child: &mut Child) -> Result<(), CliError> {
    if let Some(id) = child.id().and_then(|id| Pid::from_raw(id.try_into().ok()?)) {
        kill_process(id, Signal::TERM).map_err(|fault| CliError::Local(format!("the service cannot be stopped: {fault}")))?;
    }
    child.wait().await.map_err(|fault| CliError::Local(format!("the service's end was not seen: {fault}")))?;
    Ok(())
}
