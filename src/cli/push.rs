//! Why: sends a user's NDJSON through a sink and survives every interruption: the stream's name is all that has to be remembered. Never drops a line before its ack.

use std::{
    collections::VecDeque,
    hash::Hasher,
    io::IsTerminal,
    path::PathBuf,
    time::{Duration, Instant},
};

use indicatif::{HumanBytes, HumanCount, ProgressBar, ProgressStyle};
use tokio::sync::mpsc;
use tokio_stream::{StreamExt, wrappers::ReceiverStream};
use tonic::Status;
use xxhash_rust::xxh3::Xxh3;

use super::{
    CliError,
    client::{Connection, Server, backoff, reopen_after},
    source::{Lines, Source},
};
use crate::api::pb::{
    FinishAction, FinishStream, OpenStream, PushRequest, PushResponse, RecordBatch, RecordErrorPolicy, StreamEnded, open_stream, push_request, push_response,
    push_service_client::PushServiceClient, record_batch,
};

/// How many batches may be sent and not yet acknowledged.
const OUTSTANDING_BATCHES: usize = 64;

/// Arguments of `datasink push`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    server: Server,
    /// The data sink, [schema.]name.
    #[arg(long)]
    sink: String,
    /// The stream's name. Without it one is made from the files' paths, sizes and times, so that the same command goes on where it stopped.
    #[arg(long)]
    stream: Option<String>,
    /// What to do with a record that the destination can never take: stop, skip, or dead-letter (needs a dead letter sink).
    #[arg(long, value_parser = ["stop", "skip", "dead-letter"], default_value = "stop")]
    on_bad_record: String,
    /// Where dead letters go: a data sink, or table://[schema.]table.
    #[arg(long)]
    dead_letter_sink: Option<String>,
    /// Give up after this many seconds without any progress; 0: never.
    #[arg(long, default_value_t = 300)]
    give_up_after: u64,
    /// NDJSON files, a JSON object a line; - is standard input.
    #[arg(required = true)]
    files: Vec<PathBuf>,
}

/// Sends the files and tells what became of them.
pub async fn run(args: Args) -> Result<(), CliError> {
    let stream = match &args.stream {
        Some(name) => name.clone(),
        None => stream_of(&args.files)?,
    };
    let bar = progress_bar(&args.files);
    let started = Instant::now();
    let open = OpenStream {
        data_sink: args.sink.clone(),
        source: Some(open_stream::Source::Adhoc("datasink push".to_owned())),
        stream: stream.clone(),
        record_error_policy: policy(&args.on_bad_record).into(),
        dead_letter_sink: args.dead_letter_sink.clone().unwrap_or_default(),
        client_id: format!("push-{}", uuid::Uuid::new_v4().simple()),
        // The user who starts the command again means to go on with it, also while the server still holds the old session.
        takeover: true,
        ..OpenStream::default()
    };
    let mut pusher = Pusher {
        source: Source::new(args.files),
        waiting: VecDeque::new(),
        source_ended: false,
        acknowledged: None,
        bar: bar.clone(),
        rejected: 0,
        finish_sent: false,
    };
    let ended = pusher.run(&args.server, open, Duration::from_secs(args.give_up_after)).await;
    bar.finish_and_clear();
    let ended = ended?;
    let counts = ended.counts.unwrap_or_default();
    if !pusher.finish_sent {
        println!(
            "nothing was sent: stream {stream:?} is finished since an earlier start of this command, with {} records delivered and {} rejected then",
            HumanCount(counts.delivered_records.unsigned_abs()),
            HumanCount(counts.rejected_records.unsigned_abs()),
        );
        return Ok(());
    }
    let seconds = started.elapsed().as_secs_f64();
    println!(
        "{} records delivered, {} rejected, {} duplicates skipped; {} in {seconds:.1} s; stream {stream:?} is finished",
        HumanCount(counts.delivered_records.unsigned_abs()),
        HumanCount(counts.rejected_records.unsigned_abs()),
        HumanCount(counts.duplicate_records.unsigned_abs()),
        HumanBytes(counts.delivered_bytes.unsigned_abs()),
    );
    Ok(())
}

fn policy(word: &str) -> RecordErrorPolicy {
    match word {
        "skip" => RecordErrorPolicy::Skip,
        "dead-letter" => RecordErrorPolicy::DeadLetter,
        _ => RecordErrorPolicy::Stop,
    }
}

/// A name that the same unchanged files always get. Standard input cannot be read again and gets a new one each time.
fn stream_of(files: &[PathBuf]) -> Result<String, CliError> {
    let mut hash = Xxh3::new();
    for path in files {
        if path.as_os_str() == "-" {
            return Ok(format!("push-stdin-{}", uuid::Uuid::new_v4().simple()));
        }
        let unreadable = |fault| CliError::Usage(format!("cannot read {}: {fault}", path.display()));
        let full = path.canonicalize().map_err(unreadable)?;
        let facts = full.metadata().map_err(unreadable)?;
        hash.write(full.as_os_str().as_encoded_bytes());
        hash.write_u64(facts.len());
        let modified = facts.modified().ok().and_then(|at| at.duration_since(std::time::UNIX_EPOCH).ok()).unwrap_or_default();
        hash.write_u128(modified.as_nanos());
    }
    Ok(format!("push-{:032x}", hash.digest128()))
}

fn progress_bar(files: &[PathBuf]) -> ProgressBar {
    let total: Option<u64> = files.iter().map(|path| path.metadata().ok().filter(std::fs::Metadata::is_file).map(|facts| facts.len())).sum();
    let (bar, template) = match total {
        Some(bytes) => (ProgressBar::new(bytes), "{bar:30} {bytes}/{total_bytes} {binary_bytes_per_sec} ETA {eta} {msg}"),
        None => (ProgressBar::new_spinner(), "{spinner} {bytes} {binary_bytes_per_sec} {msg}"),
    };
    bar.set_style(ProgressStyle::with_template(template).expect("the template above is valid"));
    if std::io::stderr().is_terminal() {
        bar.enable_steady_tick(Duration::from_millis(200));
    }
    bar
}

/// How one session went.
enum Session {
    Done(StreamEnded),
    Lost { wait: Duration, why: String },
}

struct Pusher {
    source: Source,
    /// Sent or about to be, and not yet acknowledged.
    waiting: VecDeque<Lines>,
    source_ended: bool,
    acknowledged: Option<u64>,
    bar: ProgressBar,
    rejected: u64,
    /// Whether this start of the command asked for the end of the stream.
    finish_sent: bool,
}

impl Pusher {
    /// Opens the stream again and again until it is finished, refused, or makes no progress for `give_up_after` (zero: for ever).
    async fn run(&mut self, server: &Server, open: OpenStream, give_up_after: Duration) -> Result<StreamEnded, CliError> {
        let mut attempt = 0;
        let mut progress = (self.acknowledged, Instant::now());
        loop {
            let session = match server.connect().await {
                Ok(connection) => self.session(connection, open.clone()).await?,
                Err(CliError::Unreachable(why)) => Session::Lost { wait: backoff(attempt), why },
                Err(other) => return Err(other),
            };
            let (wait, why) = match session {
                Session::Done(ended) => return Ok(ended),
                Session::Lost { wait, why } => (wait, why),
            };
            if progress.0 == self.acknowledged {
                attempt += 1;
            } else {
                attempt = 0;
                progress = (self.acknowledged, Instant::now());
            }
            if !give_up_after.is_zero() && progress.1.elapsed() > give_up_after {
                return Err(CliError::Unreachable(format!("no progress for {} s: {why}; start the same command again to go on", give_up_after.as_secs())));
            }
            self.bar.set_message(format!("waiting: {why}"));
            tokio::time::sleep(wait).await;
        }
    }

    /// One session: open, send what is not settled, take acks, finish.
    async fn session(&mut self, connection: Connection, open: OpenStream) -> Result<Session, CliError> {
        let mut client = PushServiceClient::new(connection).max_decoding_message_size(16 << 20);
        let (frames, outgoing) = mpsc::channel(OUTSTANDING_BATCHES);
        let send = |frame| PushRequest { frame: Some(frame) };
        frames.try_send(send(push_request::Frame::Open(open))).map_err(|_| CliError::Local("a new channel was full".to_owned()))?;
        let mut incoming = match client.push(ReceiverStream::new(outgoing)).await {
            Ok(response) => response.into_inner(),
            Err(status) => return lost_or(status),
        };
        let mut unsent: Option<VecDeque<Lines>> = None;
        let mut finish_sent = false;
        let mut silence_max = Duration::from_secs(45);
        loop {
            let ready_to_send = unsent.is_some() && !finish_sent && self.waiting.len() < OUTSTANDING_BATCHES;
            tokio::select! {
                biased;
                frame = tokio::time::timeout(silence_max, incoming.next()) => match frame {
                    Err(_) => return Ok(Session::Lost { wait: Duration::ZERO, why: "the server has been silent for too long".to_owned() }),
                    Ok(None) => return Ok(Session::Lost { wait: backoff(0), why: "the stream ended early".to_owned() }),
                    Ok(Some(Err(status))) => return lost_or(status),
                    Ok(Some(Ok(frame))) => match self.take(frame) {
                        Taken::Opened { next_offset, heartbeat } => {
                            silence_max = heartbeat * 3;
                            self.resume(next_offset).await?;
                            unsent = Some(self.waiting.clone());
                        }
                        Taken::Ended(ended) if ended.reason() == crate::api::pb::EndReason::Committed => return Ok(Session::Done(ended)),
                        Taken::Ended(_) => return Ok(Session::Lost { wait: Duration::ZERO, why: "the server drained the stream".to_owned() }),
                        Taken::Drain(wait) => { unsent = None; self.bar.set_message(format!("the server drains; opening again in {wait:?}")); }
                        Taken::Other => {}
                    },
                },
                permit = frames.reserve(), if ready_to_send || unsent.as_ref().is_some_and(|lines| !lines.is_empty()) => {
                    let Ok(permit) = permit else { return Ok(Session::Lost { wait: backoff(0), why: "the connection was lost".to_owned() }) };
                    let next = match unsent.as_mut().and_then(VecDeque::pop_front) {
                        Some(lines) => Some(lines),
                        None => self.read().await?,
                    };
                    match next {
                        Some(lines) => permit.send(send(push_request::Frame::Batch(batch(lines)))),
                        None => {
                            finish_sent = true;
                            self.finish_sent = true;
                            permit.send(send(push_request::Frame::Finish(FinishStream { action: FinishAction::Commit.into(), expected_next_offset: None })));
                        }
                    }
                }
            }
        }
    }

    async fn read(&mut self) -> Result<Option<Lines>, CliError> {
        if self.source_ended {
            return Ok(None);
        }
        let lines = self.source.next().await?;
        match &lines {
            Some(lines) => self.waiting.push_back(lines.clone()),
            None => self.source_ended = true,
        }
        Ok(lines)
    }

    /// Drops what is settled; after a start of this command that may be lines not read yet.
    async fn resume(&mut self, next_offset: u64) -> Result<(), CliError> {
        self.settle(next_offset);
        while self.waiting.is_empty() && !self.source_ended {
            match self.read().await? {
                Some(_) => self.settle(next_offset),
                None => break,
            }
        }
        Ok(())
    }

    fn settle(&mut self, next_offset: u64) {
        self.acknowledged = Some(next_offset);
        while let Some(lines) = self.waiting.pop_front() {
            let all = lines.bytes.len();
            match lines.without_before(next_offset) {
                None => self.bar.inc(all as u64),
                Some(rest) => {
                    self.bar.inc((all - rest.bytes.len()) as u64);
                    self.waiting.push_front(rest);
                    break;
                }
            }
        }
    }

    fn take(&mut self, response: PushResponse) -> Taken {
        match response.frame {
            Some(push_response::Frame::Opened(opened)) => Taken::Opened {
                next_offset: opened.next_offset.unsigned_abs(),
                heartbeat: opened.heartbeat_interval.and_then(|interval| Duration::try_from(interval).ok()).unwrap_or(Duration::from_secs(15)),
            },
            Some(push_response::Frame::Ack(ack)) => {
                self.settle(ack.next_offset.unsigned_abs());
                self.bar.set_message(format!("{} records acknowledged", HumanCount(ack.next_offset.unsigned_abs())));
                Taken::Other
            }
            Some(push_response::Frame::RecordErrors(errors)) => {
                for error in &errors.errors {
                    self.bar.suspend(|| eprintln!("record {}: {}", error.offset, error.message));
                }
                self.rejected += errors.errors.len() as u64 + errors.more.unsigned_abs();
                Taken::Other
            }
            Some(push_response::Frame::DestinationStatus(status)) => {
                if let Some(problem) = status.problem {
                    self.bar.set_message(format!("the destination fails (attempt {}): {}", status.attempt, problem.message));
                }
                Taken::Other
            }
            Some(push_response::Frame::Drain(drain)) => Taken::Drain(drain.reconnect_after.and_then(|wait| Duration::try_from(wait).ok()).unwrap_or_default()),
            Some(push_response::Frame::Ended(ended)) => Taken::Ended(ended),
            Some(push_response::Frame::Window(_) | push_response::Frame::Heartbeat(_)) | None => Taken::Other,
        }
    }
}

enum Taken {
    Opened { next_offset: u64, heartbeat: Duration },
    Drain(Duration),
    Ended(StreamEnded),
    Other,
}

fn lost_or(status: Status) -> Result<Session, CliError> {
    match reopen_after(&status, 0) {
        Some(wait) => Ok(Session::Lost { wait, why: status.message().to_owned() }),
        None => Err(status.into()),
    }
}

fn batch(lines: Lines) -> RecordBatch {
    RecordBatch {
        first_offset: Some(i64::try_from(lines.first_offset).unwrap_or(i64::MAX)),
        record_count: i32::try_from(lines.count).unwrap_or(i32::MAX),
        payload: Some(record_batch::Payload::Ndjson(lines.bytes)),
        ..RecordBatch::default()
    }
}
