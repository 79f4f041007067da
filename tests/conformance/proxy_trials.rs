//! Why: a fault that did not happen makes a test pass, so the proxy's own faults are shown here on a plain echo. Never a test of the product.

use std::{net::SocketAddr, time::Duration};

use libtest_mimic::{Failed, Trial};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::mpsc,
};

use crate::proxy::{Mode, Proxy, Wanted};

macro_rules! trials {
    ($($name:ident),* $(,)?) => {
        pub fn trials() -> Vec<Trial> {
            vec![$(Trial::test(concat!("proxy::", stringify!($name)), || { on_a_runtime($name()); Ok::<(), Failed>(()) })),*]
        }
    };
}

trials![
    passes_and_counts,
    refuses,
    hangs_and_goes_on,
    cuts_both_ways,
    loses_the_nth_reply_and_not_the_request,
    catches_a_request_and_lets_it_go,
    what_it_let_go_is_served_though_its_sender_is_gone,
    finds_a_kafka_request_among_others,
    goes_byte_by_byte
];

fn on_a_runtime(what: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async { tokio::time::timeout(Duration::from_secs(60), what).await.expect("it is done within a minute") });
}

/// A server that answers every piece with the same, and says what it got.
async fn echo() -> (SocketAddr, mpsc::Receiver<Vec<u8>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (told, heard) = mpsc::channel(1_000);
    #[expect(clippy::disallowed_methods, reason = "the echo lives as long as its trial's runtime")]
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let told = told.clone();
            #[expect(clippy::disallowed_methods, reason = "one connection of the echo")]
            tokio::spawn(async move {
                let mut buffer = [0; 1_024];
                while let Ok(read) = stream.read(&mut buffer).await {
                    if read == 0 || told.send(buffer[..read].to_vec()).await.is_err() || stream.write_all(&buffer[..read]).await.is_err() {
                        break;
                    }
                }
            });
        }
    });
    (address, heard)
}

async fn ask(stream: &mut TcpStream, question: &[u8]) -> std::io::Result<Vec<u8>> {
    stream.write_all(question).await?;
    let mut answer = vec![0; question.len()];
    stream.read_exact(&mut answer).await?;
    Ok(answer)
}

async fn passes_and_counts() {
    let (address, _heard) = echo().await;
    let proxy = Proxy::before(address).await.unwrap();
    let mut stream = TcpStream::connect(proxy.address).await.unwrap();
    for word in [b"one".as_slice(), b"three"] {
        assert_eq!(ask(&mut stream, word).await.unwrap(), word);
    }
    let counts = proxy.until(|counts| counts.down_bytes == 8).await;
    assert_eq!((counts.accepted, counts.requests, counts.up_bytes, counts.replies_lost), (1, 2, 8, 0));
}

async fn refuses() {
    let (address, _heard) = echo().await;
    let proxy = Proxy::before(address).await.unwrap();
    let mut open = TcpStream::connect(proxy.address).await.unwrap();
    ask(&mut open, b"before").await.unwrap();
    proxy.mode(Mode::Refuse);
    assert!(ask(&mut open, b"after").await.is_err(), "the open connection is gone");
    let mut late = TcpStream::connect(proxy.address).await.unwrap();
    assert!(ask(&mut late, b"late").await.is_err());
    let counts = proxy.counts();
    assert_eq!((counts.refused, counts.cut), (1, 1));
    proxy.mode(Mode::Pass);
    let mut healed = TcpStream::connect(proxy.address).await.unwrap();
    assert_eq!(ask(&mut healed, b"healed").await.unwrap(), b"healed");
}

async fn hangs_and_goes_on() {
    let (address, mut heard) = echo().await;
    let proxy = Proxy::before(address).await.unwrap();
    proxy.mode(Mode::Hang);
    let mut stream = TcpStream::connect(proxy.address).await.unwrap();
    stream.write_all(b"held").await.unwrap();
    proxy.until(|counts| counts.held == 1).await;
    assert!(heard.try_recv().is_err(), "nothing moves");
    proxy.mode(Mode::Pass);
    let mut answer = [0; 4];
    stream.read_exact(&mut answer).await.unwrap();
    assert_eq!(&answer, b"held");
}

async fn cuts_both_ways() {
    let (address, _heard) = echo().await;
    let proxy = Proxy::before(address).await.unwrap();
    let mut stream = TcpStream::connect(proxy.address).await.unwrap();
    ask(&mut stream, b"before").await.unwrap();
    proxy.cut();
    assert!(stream.read(&mut [0; 1]).await.is_err(), "a reset, not a farewell");
    assert_eq!(proxy.counts().cut, 1);
}

async fn loses_the_nth_reply_and_not_the_request() {
    let (address, mut heard) = echo().await;
    let proxy = Proxy::before(address).await.unwrap();
    proxy.lose_reply(Wanted::Containing(b"PUT".to_vec()), 2);
    let mut stream = TcpStream::connect(proxy.address).await.unwrap();
    for word in [b"GET 1".as_slice(), b"PUT 2", b"GET 3"] {
        assert_eq!(ask(&mut stream, word).await.unwrap(), word);
    }
    assert!(ask(&mut stream, b"PUT 4").await.is_err(), "the reply is lost");
    assert_eq!(proxy.counts().replies_lost, 1);
    let mut got = Vec::new();
    while got.len() < 20 {
        got.extend(heard.recv().await.unwrap());
    }
    assert_eq!(got, b"GET 1PUT 2GET 3PUT 4", "every request arrived");
    let mut next = TcpStream::connect(proxy.address).await.unwrap();
    assert_eq!(ask(&mut next, b"PUT 5").await.unwrap(), b"PUT 5", "once only");
}

/// A frame as Kafka has it; the echo answers it with the same bytes, whose first four are then taken for the correlation id, so these are put there, too.
fn frame(api: i16, correlation: u32, length: usize) -> Vec<u8> {
    let mut message = api.to_be_bytes().to_vec();
    message.extend([0, 9]);
    message.extend(correlation.to_be_bytes());
    message.resize(length, 7);
    [u32::try_from(message.len()).unwrap().to_be_bytes().to_vec(), message].concat()
}

async fn catches_a_request_and_lets_it_go() {
    let (address, mut heard) = echo().await;
    let proxy = Proxy::before(address).await.unwrap();
    let mut stream = TcpStream::connect(proxy.address).await.unwrap();
    proxy.catch(Wanted::Containing(b"commit".to_vec()), 2);
    ask(&mut stream, b"commit 1").await.unwrap();
    assert_eq!(heard.recv().await.unwrap(), b"commit 1");
    stream.write_all(b"commit 2").await.unwrap();
    let counts = proxy.until(|counts| counts.caught == 1).await;
    assert_eq!((counts.up_bytes, counts.answered), (8, 0), "not a byte of it is passed on");
    assert!(heard.try_recv().is_err());
    // Whoever sent it may be gone by then: what was on its way arrives all the same.
    drop(stream);
    proxy.release();
    assert_eq!(heard.recv().await.unwrap(), b"commit 2");
    proxy.until(|counts| counts.answered == 1).await;
}

/// Servers in Go give a request up when its connection is closed before they have answered.
async fn what_it_let_go_is_served_though_its_sender_is_gone() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let proxy = Proxy::before(listener.local_addr().unwrap()).await.unwrap();
    proxy.catch(Wanted::Any, 1);
    let mut sender = TcpStream::connect(proxy.address).await.unwrap();
    sender.write_all(b"PUT /object").await.unwrap();
    proxy.until(|counts| counts.caught == 1).await;
    drop(sender);
    proxy.release();
    let (mut stream, _) = listener.accept().await.unwrap();
    let mut buffer = [0; 64];
    assert_eq!(stream.read(&mut buffer).await.unwrap(), 11);
    let closed = tokio::time::timeout(Duration::from_millis(200), stream.read(&mut buffer)).await;
    assert!(closed.is_err(), "it hears of its client's end before it has answered: {closed:?}");
    stream.write_all(b"200 OK").await.unwrap();
    proxy.until(|counts| counts.answered == 1).await;
}

async fn finds_a_kafka_request_among_others() {
    let (address, _heard) = echo().await;
    let proxy = Proxy::before(address).await.unwrap();
    // In the echo's answer the correlation id is what the API key and the version were in the question.
    let wanted = u32::from_be_bytes([0, 26, 0, 9]);
    proxy.lose_reply(Wanted::Kafka(26), 1);
    let mut stream = TcpStream::connect(proxy.address).await.unwrap();
    let first = frame(0, 1, 5_000);
    assert_eq!(ask(&mut stream, &first).await.unwrap(), first, "another request goes through");
    // Two at once, cut over two pieces; the second is the one.
    let both = [frame(3, 2, 40), frame(26, wanted, 30)].concat();
    let (left, right) = both.split_at(50);
    stream.write_all(left).await.unwrap();
    proxy.until(|counts| counts.up_bytes >= (first.len() + left.len()) as u64).await;
    stream.write_all(right).await.unwrap();
    let mut rest = Vec::new();
    assert!(stream.read_to_end(&mut rest).await.is_err(), "the connection is cut");
    assert_eq!(proxy.counts().replies_lost, 1);
}

async fn goes_byte_by_byte() {
    let (address, mut heard) = echo().await;
    let proxy = Proxy::before(address).await.unwrap();
    proxy.one_byte(true);
    let mut stream = TcpStream::connect(proxy.address).await.unwrap();
    assert_eq!(ask(&mut stream, &[5; 300]).await.unwrap(), [5; 300]);
    assert!(heard.recv().await.unwrap().len() < 300, "it did not come in one piece");
}
