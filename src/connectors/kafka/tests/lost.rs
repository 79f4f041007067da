//! Why: a broker that falls silent or goes in the middle of a transaction is shown here at the very request, with a real broker behind a line that knows Kafka's frames. Never decides by time what happened.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpListener, TcpStream,
        tcp::{ReadHalf, WriteHalf},
    },
    sync::{Mutex, watch},
};

use super::*;
use crate::connectors::error::ConnectorErrorKind;

/// API keys of what a transaction asks of its coordinators after the records.
const ADD_OFFSETS_TO_TXN: i16 = 25;
const TXN_OFFSET_COMMIT: i16 = 28;
const END_TXN: i16 = 26;
/// Longer than every bound together on a busy machine: whoever has not answered by then hangs.
const HANG: Duration = Duration::from_secs(120);

/// What a line does with what comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Passing,
    /// As a process that is stopped: connections stand, and nothing moves.
    Silent,
    /// As a process that was killed: connections break, and there are no new ones.
    Gone,
    /// The trapped request never arrives, and its answer says that all is well; everything else passes.
    Forging,
}

#[derive(Debug, Clone, Copy)]
struct Conduct {
    state: State,
    /// The request that changes the state, before it is passed on.
    trap: Option<(i16, State)>,
}

/// A line to one listener of the broker, at the address that the broker advertises for it.
#[derive(Clone)]
struct Line {
    address: String,
    conduct: Arc<watch::Sender<Conduct>>,
}

impl Line {
    /// Each test has a listener of its own.
    async fn start(which: usize) -> Self {
        let pairs = std::env::var("KAFKA_PROXIED").expect("the recipe sets it");
        let (advertised, listener) = pairs.split(',').nth(which).and_then(|pair| pair.split_once('=')).expect("ADVERTISED=LISTENER");
        let (address, to): (String, SocketAddr) = (advertised.to_owned(), listener.parse().expect("an address"));
        let listener = TcpListener::bind(advertised).await.expect("nobody else is there");
        let line = Self { address, conduct: Arc::new(watch::Sender::new(Conduct { state: State::Passing, trap: None })) };
        let serving = line.clone();
        #[expect(clippy::disallowed_methods, reason = "the line ends with the runtime of its test")]
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let line = serving.clone();
                #[expect(clippy::disallowed_methods, reason = "one connection of the line")]
                tokio::spawn(async move { line.serve(client, to).await });
            }
        });
        line
    }

    fn set(&self, state: State, trap: Option<(i16, State)>) {
        self.conduct.send_replace(Conduct { state, trap });
    }

    fn state(&self) -> State {
        self.conduct.borrow().state
    }

    async fn serve(&self, mut client: TcpStream, to: SocketAddr) {
        let Ok(mut server) = TcpStream::connect(to).await else { return };
        let ((client_read, client_write), (server_read, server_write)) = (client.split(), server.split());
        let mut conduct = self.conduct.subscribe();
        let client_write = Mutex::new(client_write);
        tokio::select! {
            _ = conduct.wait_for(|conduct| conduct.state == State::Gone) => {}
            _ = self.up(client_read, server_write, &client_write) => {}
            _ = self.down(server_read, &client_write) => {}
        }
    }

    async fn may_pass(&self) {
        let mut conduct = self.conduct.subscribe();
        // The sender is ours, so it cannot be gone.
        let _ = conduct.wait_for(|conduct| matches!(conduct.state, State::Passing | State::Forging)).await;
    }

    /// Requests, frame by frame: a length, then the API key and the rest.
    async fn up(&self, mut from: ReadHalf<'_>, mut to: WriteHalf<'_>, back: &Mutex<WriteHalf<'_>>) -> std::io::Result<()> {
        loop {
            let length = from.read_u32().await?;
            let mut frame = vec![0; length as usize];
            from.read_exact(&mut frame).await?;
            let trapped = self.conduct.send_if_modified(|conduct| match conduct.trap.take_if(|(api, _)| frame.starts_with(&api.to_be_bytes())) {
                Some((_, state)) => {
                    conduct.state = state;
                    true
                }
                None => false,
            });
            if trapped && self.state() == State::Forging {
                // The number of the request is after its API key and version. No pause, no error: EndTxn in the versions that the library speaks.
                back.lock().await.write_all(&[&10_u32.to_be_bytes()[..], &frame[4..8], &[0; 6]].concat()).await?;
                continue;
            }
            self.may_pass().await;
            to.write_u32(length).await?;
            to.write_all(&frame).await?;
        }
    }

    /// Answers, frame by frame.
    async fn down(&self, mut from: ReadHalf<'_>, to: &Mutex<WriteHalf<'_>>) -> std::io::Result<()> {
        loop {
            let length = from.read_u32().await?;
            let mut frame = vec![0; length as usize];
            from.read_exact(&mut frame).await?;
            self.may_pass().await;
            to.lock().await.write_all(&[&length.to_be_bytes()[..], &frame].concat()).await?;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_coordinator_that_is_lost_between_begin_and_commit_is_not_waited_for_without_end() {
    let Some(topic) = Topic::new(1, &[]).await else { return };
    let line = Line::start(0).await;
    let sink = sink(&format!("kafka://{}", line.address), &topic.name, &[("kafka_delivery", "exactly_once")]);
    let (stream, cx) = (stream(), ConnectContext { reply_timeout: Duration::from_secs(2), ..context(None) });
    let open = || async { sink.open(&cx, &stream, Epoch(1), &terms(&["k"], Noted::default())).await.expect("opened") };
    let (mut opened, mut next) = (open().await, 0);
    for lost in [State::Silent, State::Gone] {
        for request in [ADD_OFFSETS_TO_TXN, TXN_OFFSET_COMMIT, END_TXN] {
            commit(&mut opened.writer, next, &[r#"{"k":1}"#]).await.expect("settled");
            next += 1;
            line.set(State::Passing, Some((request, lost)));
            let answer = tokio::time::timeout(HANG, commit(&mut opened.writer, next, &[r#"{"k":2}"#])).await;
            let error = answer.unwrap_or_else(|_| panic!("the writer hangs where request {request} finds {lost:?}")).unwrap_err();
            assert_eq!(line.state(), lost, "the fault happened");
            assert_eq!(error.class, ErrorClass::Destination, "{error}");
            line.set(State::Passing, None);
            opened = open().await;
            // Where the outcome was unknown the broker may have had the request, or the old producer may have gone on before it was fenced, and the mark tells. Any other error is a promise.
            match opened.mark {
                FoundMark::At(mark) if mark == at(next) || (mark == at(next + 1) && error.kind == ConnectorErrorKind::Unknown) => next = mark.next,
                other => panic!("after request {request} found {lost:?} the mark is {other:?}, with {next} acknowledged and {error}"),
            }
        }
    }
    opened.writer.finish(Finish::Commit, at(next)).await.expect("finished");
    let seen: Vec<Offset> = topic.read("read_committed").into_iter().map(|(offset, ..)| offset).collect();
    assert_eq!(seen, (0..next).collect::<Vec<_>>(), "nothing is lost and nothing is there twice");
}

/// What a broker does that loses a partition's leader between its word and the marker, shown without the luck that it takes: it says "committed", and the transaction is not.
#[tokio::test(flavor = "multi_thread")]
async fn a_commit_that_brokers_confirm_and_do_not_carry_out_is_not_acknowledged() {
    let Some(topic) = Topic::new(1, &[]).await else { return };
    let line = Line::start(1).await;
    let sink = sink(&format!("kafka://{}", line.address), &topic.name, &[("kafka_delivery", "exactly_once")]);
    let (stream, cx) = (stream(), ConnectContext { reply_timeout: Duration::from_secs(2), ..context(None) });
    let open = || async { sink.open(&cx, &stream, Epoch(1), &terms(&["k"], Noted::default())).await.expect("opened") };
    let mut opened = open().await;
    commit(&mut opened.writer, 0, &[r#"{"k":1}"#]).await.expect("settled");
    line.set(State::Passing, Some((END_TXN, State::Forging)));
    let error = commit(&mut opened.writer, 1, &[r#"{"k":2}"#]).await.expect_err("nothing was committed");
    assert_eq!(line.state(), State::Forging, "the lie was told");
    assert_eq!((error.kind, error.class), (ConnectorErrorKind::Unknown, ErrorClass::Destination), "{error}");
    assert!(error.message.contains("still open at the broker that keeps it"), "the brokers answer, so it must not say that they do not: {error}");
    line.set(State::Passing, None);
    opened = open().await;
    assert_eq!(opened.mark, FoundMark::At(at(1)));
    commit(&mut opened.writer, 1, &[r#"{"k":2}"#]).await.expect("settled");
    opened.writer.finish(Finish::Commit, at(2)).await.expect("finished");
    let seen: Vec<Offset> = topic.read("read_committed").into_iter().map(|(offset, ..)| offset).collect();
    assert_eq!(seen, [0, 1], "nothing is lost and nothing is there twice");
}
