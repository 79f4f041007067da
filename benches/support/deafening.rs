//! Why: a store that never hears "only if absent" is exactly-once turned off, which the product has no switch for: a proxy before a real store makes it one. Never the only one of a pair that
//! has the proxy: what it costs is on both sides.

use std::net::SocketAddr;

use memchr::memmem::Finder;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, copy},
    net::{TcpListener, TcpStream, tcp},
};

/// As hyper writes it; and another header of the same length, which means nothing to anybody.
const CONDITION: &[u8; 20] = b"\r\nif-none-match: *\r\n";
const NOTHING: &[u8; 20] = b"\r\nxx-none-match: *\r\n";
/// Bytes read at once.
const CHUNK_BYTES: usize = 256 << 10;

/// Starts one that passes on to `to`, by name or address, over HTTP without TLS; with `deaf` the condition does not get through.
pub async fn start(to: &str, deaf: bool) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("a bound address");
    let to = to.to_owned();
    #[expect(clippy::disallowed_methods, reason = "it passes on until the process ends")]
    tokio::spawn(async move {
        loop {
            let (near, _) = listener.accept().await.expect("a connection");
            let far = TcpStream::connect(&to).await.expect("the store listens");
            tokio::spawn(between(near, far, deaf));
        }
    });
    address
}

/// Until either end is done; a connection that breaks is for the two ends to notice.
async fn between(near: TcpStream, far: TcpStream, deaf: bool) {
    let _ = (near.set_nodelay(true), far.set_nodelay(true));
    let ((from_near, mut to_near), (mut from_far, to_far)) = (near.into_split(), far.into_split());
    let _ = tokio::join!(requests(from_near, to_far, deaf), async {
        let _ = copy(&mut from_far, &mut to_near).await;
        to_near.shutdown().await
    });
}

/// What the client sends. Looked for in each piece as it comes: a request's head is written at once, and one that is not keeps its condition, which the announced guarantee tells of the first.
async fn requests(mut from: tcp::OwnedReadHalf, mut to: tcp::OwnedWriteHalf, deaf: bool) -> std::io::Result<()> {
    let condition = Finder::new(CONDITION);
    let mut piece = vec![0; CHUNK_BYTES];
    loop {
        let read = from.read(&mut piece).await?;
        if read == 0 {
            return to.shutdown().await;
        }
        if let Some(at) = condition.find(&piece[..read]).filter(|_| deaf) {
            piece[at..at + NOTHING.len()].copy_from_slice(NOTHING);
        }
        to.write_all(&piece[..read]).await?;
    }
}
