//! Why: a TCP proxy that breaks on command and counts what it broke, so that a fault test can show that its fault happened. Never looks further into a
//! protocol than it must to find one request of it.
//!
//! A library for Rust tests (`#[path]`) and, as `cargo run --example fault_proxy -- --to HOST:PORT [--listen HOST:PORT]`, a program for scripts: it prints
//! `{"listening": "127.0.0.1:PORT"}`, then answers each line of standard input with one line of JSON, and ends with standard input:
//!
//! ```text
//! mode pass|refuse|hang                    refuse: accept and reset, those that are open included; hang: accept and hold every byte
//! cut                                      reset every open connection now
//! lose-reply N any|containing TEXT|kafka API
//!                                          let the N-th such request through, drop whatever comes back on its connection, and cut it once its reply was there
//! catch N any|containing TEXT|kafka API    hold the N-th such request, and what follows on its connection, before a byte of it is passed on
//! release                                  let what was caught through
//! caught                                   {"caught":"GET /path"}: the first line of what was caught last
//! disarm                                   forget the last lose-reply or catch that has not come about
//! delay MS | limit BYTES_PER_SECOND | one-byte on|off     0: not any more
//! to HOST:PORT                             where further connections go
//! counts                                   {"accepted":0,"refused":0,"held":0,"cut":0,"unreached":0,"requests":0,"replies_lost":0,"caught":0,"answered":0,"up_bytes":0,"down_bytes":0}
//! ```
#![allow(dead_code, reason = "the test crate that includes this file has no use for its main, and the program none for what only tests ask")]

use std::{
    collections::VecDeque,
    io,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{
        TcpListener, TcpStream,
        tcp::{ReadHalf, WriteHalf},
    },
    sync::watch,
    time::sleep,
};

/// Bytes read at once.
const CHUNK_BYTES: usize = 16 << 10;
/// As much of a line as is told.
const LINE_BYTES_MAX: usize = 1 << 10;
/// Pieces a second of a limited connection.
const PIECES_PER_SECOND: u64 = 20;

/// What becomes of connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// They go through.
    Pass,
    /// They are reset as soon as they are accepted, and those that are open at once.
    Refuse,
    /// They are accepted, and not a byte moves.
    Hang,
}

/// How bytes go through.
#[derive(Debug, Clone, Copy)]
struct Behaviour {
    mode: Mode,
    /// Before each piece.
    delay: Duration,
    /// 0: no limit.
    bytes_per_second: u64,
    one_byte: bool,
}

/// Which request a trap is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wanted {
    /// Bytes from the client after bytes from the server, or the first ones: a request of a protocol without pipelining, as HTTP/1.1 is used.
    Any,
    /// One that contains these bytes.
    Containing(Vec<u8>),
    /// A Kafka request with this API key (0 Produce, 26 EndTxn, …).
    Kafka(i16),
}

#[derive(Debug)]
struct Trap {
    wanted: Wanted,
    /// How many more until it shuts.
    left: u64,
    then: Then,
}

/// What becomes of a request that a trap shut on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Then {
    LoseReply,
    Hold,
}

/// What the proxy did since it started.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Connections taken.
    pub accepted: u64,
    /// Connections reset at once.
    pub refused: u64,
    /// Pieces that were held for a while.
    pub held: u64,
    /// Open connections that were reset.
    pub cut: u64,
    /// Connections whose server could not be reached.
    pub unreached: u64,
    /// Requests, as far as turns tell them.
    pub requests: u64,
    /// Requests that went through and whose reply did not.
    pub replies_lost: u64,
    /// Requests that were held until they were released.
    pub caught: u64,
    /// Replies that came to requests that had been held.
    pub answered: u64,
    /// Bytes passed on to the server.
    pub up_bytes: u64,
    /// Bytes passed on to the client.
    pub down_bytes: u64,
}

impl Counts {
    fn json(self) -> String {
        let Self { accepted, refused, held, cut, unreached, requests, replies_lost, caught, answered, up_bytes, down_bytes } = self;
        format!(
            "{{\"accepted\":{accepted},\"refused\":{refused},\"held\":{held},\"cut\":{cut},\"unreached\":{unreached},\"requests\":{requests},\
             \"replies_lost\":{replies_lost},\"caught\":{caught},\"answered\":{answered},\"up_bytes\":{up_bytes},\"down_bytes\":{down_bytes}}}"
        )
    }
}

/// A running proxy; it ends with its runtime.
#[derive(Debug, Clone)]
pub struct Proxy {
    /// Where it listens.
    pub address: SocketAddr,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    to: Mutex<SocketAddr>,
    behaviour: watch::Sender<Behaviour>,
    /// Grows with every cut.
    cuts: watch::Sender<u64>,
    /// Grows with every release.
    releases: watch::Sender<u64>,
    trap: Mutex<Option<Trap>>,
    /// The first line of what was caught last.
    caught: Mutex<String>,
    counts: watch::Sender<Counts>,
}

impl Proxy {
    /// Listens on `listen` (port 0: any) and passes on to `to`.
    pub async fn start(listen: SocketAddr, to: SocketAddr) -> io::Result<Self> {
        let listener = TcpListener::bind(listen).await?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared {
            to: Mutex::new(to),
            behaviour: watch::Sender::new(Behaviour { mode: Mode::Pass, delay: Duration::ZERO, bytes_per_second: 0, one_byte: false }),
            cuts: watch::Sender::new(0),
            releases: watch::Sender::new(0),
            trap: Mutex::default(),
            caught: Mutex::default(),
            counts: watch::Sender::new(Counts::default()),
        });
        let serving = shared.clone();
        #[expect(clippy::disallowed_methods, reason = "the proxy's one listener, which lives as long as the runtime of its test")]
        tokio::spawn(async move {
            // A listener that cannot accept any more is seen by whoever connects.
            while let Ok((client, _)) = listener.accept().await {
                let shared = serving.clone();
                #[expect(clippy::disallowed_methods, reason = "one task a connection, ended with it")]
                tokio::spawn(async move { shared.serve(client).await });
            }
        });
        Ok(Self { address, shared })
    }

    /// On a free port of loopback.
    pub async fn before(to: SocketAddr) -> io::Result<Self> {
        Self::start(SocketAddr::from(([127, 0, 0, 1], 0)), to).await
    }

    /// What becomes of connections from now on.
    pub fn mode(&self, mode: Mode) {
        self.shared.behaviour.send_modify(|behaviour| behaviour.mode = mode);
        if mode == Mode::Refuse {
            self.cut();
        }
    }

    /// Resets every open connection.
    pub fn cut(&self) {
        self.shared.cuts.send_modify(|cuts| *cuts += 1);
    }

    /// Lets the `nth` (from 1) request like this through, drops what comes back and cuts the connection once its reply was there.
    pub fn lose_reply(&self, wanted: Wanted, nth: u64) {
        *locked(&self.shared.trap) = Some(Trap { wanted, left: nth.max(1), then: Then::LoseReply });
    }

    /// Holds the `nth` (from 1) request like this before a byte of the piece that tells it is passed on.
    pub fn catch(&self, wanted: Wanted, nth: u64) {
        *locked(&self.shared.trap) = Some(Trap { wanted, left: nth.max(1), then: Then::Hold });
    }

    /// Lets what was caught through.
    pub fn release(&self) {
        self.shared.releases.send_modify(|releases| *releases += 1);
    }

    /// Forgets a trap that has not shut.
    pub fn disarm(&self) {
        *locked(&self.shared.trap) = None;
    }

    /// Waits this long before each piece.
    pub fn delay(&self, delay: Duration) {
        self.shared.behaviour.send_modify(|behaviour| behaviour.delay = delay);
    }

    /// Passes no more than this on, each way of each connection; 0: no limit.
    pub fn limit(&self, bytes_per_second: u64) {
        self.shared.behaviour.send_modify(|behaviour| behaviour.bytes_per_second = bytes_per_second);
    }

    /// Passes every byte on by itself.
    pub fn one_byte(&self, on: bool) {
        self.shared.behaviour.send_modify(|behaviour| behaviour.one_byte = on);
    }

    /// Where further connections go.
    pub fn to(&self, to: SocketAddr) {
        *locked(&self.shared.to) = to;
    }

    /// What it did so far.
    pub fn counts(&self) -> Counts {
        *self.shared.counts.borrow()
    }

    /// Returns once the counts are so.
    pub async fn until(&self, so: impl FnMut(&Counts) -> bool) -> Counts {
        let mut counts = self.shared.counts.subscribe();
        *counts.wait_for(so).await.expect("the sender lives in this proxy")
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What both ways of a connection know of it.
#[derive(Debug, Default)]
struct Talk {
    /// The client spoke last.
    asking: bool,
    /// The end of what the client sent, for words that two pieces share.
    tail: Vec<u8>,
    requests: Frames<8>,
    replies: Frames<4>,
    caught: Option<(Reply, Then)>,
}

/// How the reply to a caught request is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reply {
    /// The next bytes from the server are the reply.
    Next,
    /// The Kafka reply with this correlation id is.
    Correlation([u8; 4]),
}

/// Finds Kafka's frames, four bytes of length and then the message, and the first `N` bytes of each message. On another protocol it finds nonsense, which nobody asks for.
#[derive(Debug, Default)]
struct Frames<const N: usize> {
    head: Vec<u8>,
    /// Bytes of the present message still to come.
    left: usize,
}

impl<const N: usize> Frames<N> {
    fn feed(&mut self, mut bytes: &[u8]) -> Vec<[u8; N]> {
        let mut found = Vec::new();
        while !bytes.is_empty() {
            let skipped = self.left.min(bytes.len());
            self.left -= skipped;
            bytes = &bytes[skipped..];
            let taken = (4 + N - self.head.len()).min(bytes.len());
            self.head.extend_from_slice(&bytes[..taken]);
            bytes = &bytes[taken..];
            if self.head.len() == 4 + N {
                let (length, message) = self.head.split_at(4);
                let length = u32::from_be_bytes(length.try_into().expect("four bytes")) as usize;
                found.push(message.try_into().expect("N bytes"));
                self.left = length.saturating_sub(N);
                self.head.clear();
            }
        }
        found
    }
}

/// Why the two ways ended before their time.
enum Broken {
    Io,
    ReplyLost,
}

impl From<io::Error> for Broken {
    fn from(_: io::Error) -> Self {
        Self::Io
    }
}

impl Shared {
    fn count(&self, change: impl FnOnce(&mut Counts)) {
        self.counts.send_modify(change);
    }

    async fn serve(&self, mut client: TcpStream) {
        self.count(|counts| counts.accepted += 1);
        if self.behaviour.borrow().mode == Mode::Refuse {
            reset(&client);
            self.count(|counts| counts.refused += 1);
            return;
        }
        let mut cuts = self.cuts.subscribe();
        let to = *locked(&self.to);
        let Ok(mut server) = TcpStream::connect(to).await else {
            reset(&client);
            self.count(|counts| counts.unreached += 1);
            return;
        };
        // Delays are the proxy's to make, not Nagle's.
        let _ = (client.set_nodelay(true), server.set_nodelay(true));
        let talk = Mutex::new(Talk::default());
        let ended = {
            let ((client_read, client_write), (server_read, server_write)) = (client.split(), server.split());
            tokio::select! {
                ended = async { tokio::try_join!(self.up(client_read, server_write, &talk), self.down(server_read, client_write, &talk)) } => Some(ended),
                _ = cuts.changed() => None,
            }
        };
        match ended {
            Some(Ok(_)) => return,
            Some(Err(Broken::ReplyLost)) => self.count(|counts| counts.replies_lost += 1),
            Some(Err(Broken::Io)) => {}
            None => self.count(|counts| counts.cut += 1),
        }
        reset(&client);
        reset(&server);
    }

    /// Client to server.
    async fn up(&self, mut from: ReadHalf<'_>, mut to: WriteHalf<'_>, talk: &Mutex<Talk>) -> Result<(), Broken> {
        let mut buffer = vec![0; CHUNK_BYTES];
        loop {
            let read = from.read(&mut buffer).await;
            // What was held back still travels, though whoever sent it is gone: a server that heard of that would drop the request half-way.
            let travels = matches!(locked(talk).caught, Some((_, Then::Hold)));
            let read = read.or_else(|fault| if travels { Ok(0) } else { Err(fault) })?;
            if read == 0 {
                if !travels {
                    to.shutdown().await?;
                }
                return Ok(());
            }
            self.hold().await;
            let mut releases = self.releases.subscribe();
            if self.catch(&mut locked(talk), &buffer[..read]) == Some(Then::Hold) {
                let line = buffer[..read].split(|byte| *byte == b'\r').next().unwrap_or_default();
                *locked(&self.caught) = String::from_utf8_lossy(&line[..line.len().min(LINE_BYTES_MAX)]).into_owned();
                self.count(|counts| counts.caught += 1);
                // The sender is ours, so it cannot be gone.
                let _ = releases.changed().await;
            }
            self.write(&mut to, &buffer[..read], |counts| &mut counts.up_bytes).await?;
        }
    }

    /// Server to client.
    async fn down(&self, mut from: ReadHalf<'_>, mut to: WriteHalf<'_>, talk: &Mutex<Talk>) -> Result<(), Broken> {
        let mut buffer = vec![0; CHUNK_BYTES];
        loop {
            let read = from.read(&mut buffer).await?;
            if read == 0 {
                // The server closed without a word after it had the request: the reply is lost either way.
                if let Some((_, Then::LoseReply)) = locked(talk).caught {
                    return Err(Broken::ReplyLost);
                }
                to.shutdown().await?;
                return Ok(());
            }
            self.hold().await;
            let (lose, came) = {
                let mut talk = locked(talk);
                talk.asking = false;
                let replies = talk.replies.feed(&buffer[..read]);
                let came = talk.caught.filter(|(reply, _)| match reply {
                    Reply::Next => true,
                    Reply::Correlation(id) => replies.contains(id),
                });
                let lose = talk.caught.is_some_and(|(_, then)| then == Then::LoseReply);
                if came.is_some() {
                    talk.caught = None;
                }
                (lose, came.is_some())
            };
            match (lose, came) {
                (true, true) => return Err(Broken::ReplyLost),
                (true, false) => continue,
                (false, true) => self.count(|counts| counts.answered += 1),
                (false, false) => {}
            }
            self.write(&mut to, &buffer[..read], |counts| &mut counts.down_bytes).await?;
        }
    }

    /// Waits while nothing may move.
    async fn hold(&self) {
        let mut behaviour = self.behaviour.subscribe();
        if behaviour.borrow_and_update().mode != Mode::Hang {
            return;
        }
        self.count(|counts| counts.held += 1);
        // The sender is ours, so it cannot be gone.
        let _ = behaviour.wait_for(|behaviour| behaviour.mode != Mode::Hang).await;
    }

    /// Whether the trap shuts on a request that this piece begins or contains, and what becomes of that.
    fn catch(&self, talk: &mut Talk, piece: &[u8]) -> Option<Then> {
        let began = !std::mem::replace(&mut talk.asking, true);
        if began {
            self.count(|counts| counts.requests += 1);
        }
        let frames = talk.requests.feed(piece);
        if talk.caught.is_some() {
            return None;
        }
        let mut trap = locked(&self.trap);
        let Some(set) = trap.as_mut() else {
            talk.tail.clear();
            return None;
        };
        let hits: VecDeque<Reply> = match &set.wanted {
            Wanted::Any => began.then_some(Reply::Next).into_iter().collect(),
            Wanted::Containing(word) => {
                let joined = [talk.tail.as_slice(), piece].concat();
                talk.tail = joined[joined.len().saturating_sub(word.len().saturating_sub(1))..].to_vec();
                joined.windows(word.len().max(1)).any(|window| window == word.as_slice()).then_some(Reply::Next).into_iter().collect()
            }
            Wanted::Kafka(api) => {
                let asked = frames.iter().filter(|head| head[..2] == api.to_be_bytes());
                asked.map(|head| Reply::Correlation(head[4..].try_into().expect("four bytes"))).collect()
            }
        };
        for hit in hits {
            set.left -= 1;
            if set.left == 0 {
                let then = set.then;
                talk.caught = Some((hit, then));
                *trap = None;
                return Some(then);
            }
        }
        None
    }

    async fn write(&self, to: &mut WriteHalf<'_>, bytes: &[u8], counter: fn(&mut Counts) -> &mut u64) -> io::Result<()> {
        let Behaviour { delay, bytes_per_second, one_byte, .. } = *self.behaviour.borrow();
        if !delay.is_zero() {
            sleep(delay).await;
        }
        let piece_bytes = match bytes_per_second {
            _ if one_byte => 1,
            0 => bytes.len().max(1),
            limit => usize::try_from(limit.div_ceil(PIECES_PER_SECOND)).unwrap_or(usize::MAX),
        };
        for piece in bytes.chunks(piece_bytes) {
            to.write_all(piece).await?;
            self.count(|counts| *counter(counts) += piece.len() as u64);
            if bytes_per_second > 0 {
                #[expect(clippy::cast_precision_loss, reason = "a piece is small")]
                sleep(Duration::from_secs_f64(piece.len() as f64 / bytes_per_second as f64)).await;
            } else if one_byte {
                tokio::task::yield_now().await;
            }
        }
        Ok(())
    }
}

/// Closes with a reset instead of a farewell. One that fails is closed already.
fn reset(stream: &TcpStream) {
    let _ = stream.set_zero_linger();
}

impl Proxy {
    /// Does what a control line says.
    fn obey(&self, line: &str) -> Result<String, String> {
        let words: Vec<&str> = line.split_whitespace().collect();
        let number = |text: &str| text.parse::<u64>().map_err(|_| format!("{text:?} is not a number"));
        match words.as_slice() {
            ["counts"] => return Ok(self.counts().json()),
            ["mode", "pass"] => self.mode(Mode::Pass),
            ["mode", "refuse"] => self.mode(Mode::Refuse),
            ["mode", "hang"] => self.mode(Mode::Hang),
            ["cut"] => self.cut(),
            ["disarm"] => self.disarm(),
            ["release"] => self.release(),
            ["caught"] => {
                return Ok(format!(
                    "{{\"caught\":\"{}\"}}",
                    locked(&self.shared.caught).replace(|c: char| !matches!(c, ' '..='~') || matches!(c, '"' | '\\'), "?")
                ));
            }
            [what @ ("lose-reply" | "catch"), nth, wanted @ ..] => {
                let wanted = match wanted {
                    ["any"] => Wanted::Any,
                    ["kafka", api] => Wanted::Kafka(api.parse().map_err(|_| format!("{api:?} is not an API key"))?),
                    ["containing", _, ..] => {
                        let (_, text) = line.split_once("containing ").ok_or("one blank belongs between containing and its text")?;
                        Wanted::Containing(text.trim_end().as_bytes().to_vec())
                    }
                    _ => return Err(format!("{line:?} names no request: any, containing TEXT or kafka API")),
                };
                if *what == "catch" { self.catch(wanted, number(nth)?) } else { self.lose_reply(wanted, number(nth)?) }
            }
            ["delay", millis] => self.delay(Duration::from_millis(number(millis)?)),
            ["limit", bytes] => self.limit(number(bytes)?),
            ["one-byte", on @ ("on" | "off")] => self.one_byte(*on == "on"),
            ["to", address] => self.to(address.parse().map_err(|_| format!("{address:?} is not ADDRESS:PORT"))?),
            _ => return Err(format!("{line:?} is no command; the file tests/faults/proxy.rs lists them")),
        }
        Ok("{\"ok\":true}".to_owned())
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let named = |name: &str| words.iter().position(|word| word == name).and_then(|at| words.get(at + 1));
    let to = named("--to").ok_or("usage: fault_proxy --to HOST:PORT [--listen HOST:PORT]")?.parse()?;
    let listen = named("--listen").map_or("127.0.0.1:0", String::as_str).parse()?;
    let proxy = Proxy::start(listen, to).await?;
    println!("{{\"listening\":\"{}\"}}", proxy.address);
    let mut lines = BufReader::new(tokio::io::stdin()).lines();
    while let Some(line) = lines.next_line().await? {
        match proxy.obey(&line) {
            Ok(answer) => println!("{answer}"),
            Err(fault) => println!("{{\"error\":{fault:?}}}"),
        }
    }
    Ok(())
}
