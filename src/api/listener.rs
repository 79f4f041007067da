//! Why: connections come in over TCP, TLS or a Unix socket and carry who is at the other end. Never waits for one slow handshake while others knock.

use std::{
    fmt,
    io::{self, IoSlice},
    net::SocketAddr,
    os::unix::fs::{FileTypeExt, PermissionsExt},
    path::{Path, PathBuf},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use futures::{
    FutureExt, Stream, StreamExt,
    future::BoxFuture,
    stream::{self, FuturesUnordered},
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream, UnixListener, UnixStream},
    sync::{OwnedSemaphorePermit, Semaphore},
};
use tokio_rustls::server::TlsStream;
use tonic::transport::server::{Connected, TcpIncoming};

use super::tls::Tls;

/// How long a handshake may take.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// The most handshakes under way; others wait in the kernel's queue.
const HANDSHAKES_MAX: usize = 256;
/// After how much silence the kernel asks whether the other end is still there.
const TCP_KEEPALIVE: Duration = Duration::from_secs(60);
/// How long to wait after the kernel could not give a connection (no file descriptors left).
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Where to listen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ListenAddress {
    /// An address and a port; port 0: any free one.
    Tcp(SocketAddr),
    /// A Unix socket at this path.
    Unix(PathBuf),
}

impl ListenAddress {
    /// `ADDRESS:PORT` or `unix:PATH`.
    pub fn parse(text: &str) -> Result<Self, String> {
        match text.strip_prefix("unix:") {
            Some("") => Err("unix: needs the path of a socket, as in unix:/run/datasink.sock".to_owned()),
            Some(path) => Ok(Self::Unix(path.into())),
            None => text.parse().map(Self::Tcp).map_err(|_| format!("{text:?} is neither ADDRESS:PORT (127.0.0.1:50051, [::1]:0) nor unix:PATH")),
        }
    }

    /// Whether only this machine can reach it.
    pub fn is_local(&self) -> bool {
        match self {
            Self::Tcp(address) => address.ip().to_canonical().is_loopback(),
            Self::Unix(_) => true,
        }
    }
}

/// Who is at the other end of a connection.
#[derive(Debug, Clone)]
pub struct Peer {
    /// Its address; `None` on a Unix socket.
    pub address: Option<SocketAddr>,
    /// The identity that its verified certificate proves: the SPIFFE id, else the subject.
    pub certificate: Option<Arc<str>>,
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.address {
            Some(address) => address.fmt(f),
            None => f.write_str("unix"),
        }
    }
}

/// A bound listener. Dropping it removes the Unix socket's file.
#[derive(Debug)]
pub struct Listener {
    socket: Socket,
}

#[derive(Debug)]
enum Socket {
    Tcp(TcpListener, SocketAddr),
    Unix(UnixListener, SocketFile),
}

/// Removes the socket's file when the listener goes.
#[derive(Debug)]
struct SocketFile(PathBuf);

impl Drop for SocketFile {
    fn drop(&mut self) {
        // Gone already is as good.
        let _ = std::fs::remove_file(&self.0);
    }
}

impl Listener {
    /// Binds. A socket file that a dead process left is taken over; a live one is an error.
    pub async fn bind(address: &ListenAddress) -> io::Result<Self> {
        let socket = match address {
            ListenAddress::Tcp(address) => {
                let listener = TcpListener::bind(address).await?;
                let bound = listener.local_addr()?;
                Socket::Tcp(listener, bound)
            }
            ListenAddress::Unix(path) => Socket::Unix(bind_unix(path).await?, SocketFile(path.clone())),
        };
        Ok(Self { socket })
    }

    /// Where clients reach it, as `--listen` would say it.
    pub fn address(&self) -> String {
        match &self.socket {
            Socket::Tcp(_, address) => address.to_string(),
            Socket::Unix(_, file) => format!("unix:{}", file.0.display()),
        }
    }

    /// Connections as they are ready, at most as many at once as `connections` has permits.
    pub fn incoming(self, tls: Option<Arc<Tls>>, connections: Arc<Semaphore>) -> impl Stream<Item = io::Result<Connection>> + Send {
        let (raw, file) = match self.socket {
            Socket::Tcp(listener, _) => {
                let incoming = TcpIncoming::from(listener).with_nodelay(Some(true)).with_keepalive(Some(TCP_KEEPALIVE));
                (incoming.map(|stream| stream.map(Raw::Tcp)).boxed(), None)
            }
            Socket::Unix(listener, file) => {
                let accept = stream::unfold(listener, async |listener| {
                    let accepted = listener.accept().await.map(|(stream, _)| Raw::Unix(stream));
                    Some((accepted, listener))
                });
                (accept.boxed(), Some(file))
            }
        };
        let door = Door { raw, tls, connections, handshakes: FuturesUnordered::new(), _file: file };
        stream::unfold(door, async |mut door| door.next().await.map(|connection| (Ok(connection), door)))
    }
}

async fn bind_unix(path: &Path) -> io::Result<UnixListener> {
    if let Ok(found) = std::fs::symlink_metadata(path) {
        let in_use = !found.file_type().is_socket() || UnixStream::connect(path).await.is_ok();
        if in_use {
            return Err(io::Error::new(
                io::ErrorKind::AddrInUse,
                format!("{} exists and is in use; stop what listens there or choose another path", path.display()),
            ));
        }
        std::fs::remove_file(path)?;
    }
    let listener = UnixListener::bind(path)?;
    // A sidecar shares our group, not our user.
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o660))?;
    Ok(listener)
}

/// An accepted connection before its handshake.
enum Raw {
    Tcp(TcpStream),
    Unix(UnixStream),
}

/// What stands between the kernel's queue and the server.
struct Door {
    raw: stream::BoxStream<'static, io::Result<Raw>>,
    tls: Option<Arc<Tls>>,
    connections: Arc<Semaphore>,
    handshakes: FuturesUnordered<BoxFuture<'static, Option<Connection>>>,
    _file: Option<SocketFile>,
}

impl Door {
    /// The next connection that is ready to talk; `None` once the listener is gone.
    async fn next(&mut self) -> Option<Connection> {
        loop {
            tokio::select! {
                Some(done) = self.handshakes.next(), if !self.handshakes.is_empty() => {
                    if let Some(connection) = done {
                        return Some(connection);
                    }
                }
                accepted = accept(&mut self.raw, &self.connections), if self.handshakes.len() < HANDSHAKES_MAX => {
                    let (raw, permit) = accepted?;
                    match (raw, &self.tls) {
                        (Raw::Tcp(stream), Some(tls)) => self.handshakes.push(handshake(stream, tls.clone(), permit).boxed()),
                        (raw, _) => return Some(Connection::plain(raw, permit)),
                    }
                }
            }
        }
    }
}

/// One connection and its permit; errors of single connections are waited out. Safe to cancel: nothing is taken before there is a permit for it.
async fn accept(raw: &mut stream::BoxStream<'static, io::Result<Raw>>, connections: &Arc<Semaphore>) -> Option<(Raw, OwnedSemaphorePermit)> {
    let permit = connections.clone().acquire_owned().await.ok()?;
    loop {
        match raw.next().await? {
            Ok(stream) => return Some((stream, permit)),
            Err(error) => {
                tracing::warn!(%error, "could not accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn handshake(stream: TcpStream, tls: Arc<Tls>, permit: OwnedSemaphorePermit) -> Option<Connection> {
    let address = stream.peer_addr().ok();
    let refused = |why: String| {
        metrics::counter!("datasink_tls_handshakes_failed_total").increment(1);
        tracing::info!(peer = ?address, why, "tls handshake failed");
    };
    match tokio::time::timeout(HANDSHAKE_TIMEOUT, tls.accept(stream)).await {
        Ok(Ok((stream, certificate))) => {
            let peer = Peer { address, certificate };
            Some(Connection { io: Io::Tls(Box::new(stream)), peer, _permit: permit })
        }
        Ok(Err(error)) => {
            refused(error.to_string());
            None
        }
        Err(_) => {
            refused(format!("not done within {} s", HANDSHAKE_TIMEOUT.as_secs()));
            None
        }
    }
}

/// A connection that is ready for HTTP/2.
#[derive(Debug)]
pub struct Connection {
    io: Io,
    peer: Peer,
    _permit: OwnedSemaphorePermit,
}

#[derive(Debug)]
enum Io {
    Tcp(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
    Unix(UnixStream),
}

impl Connection {
    fn plain(raw: Raw, permit: OwnedSemaphorePermit) -> Self {
        let (io, address) = match raw {
            Raw::Tcp(stream) => {
                let address = stream.peer_addr().ok();
                // A TCP connection that is gone already has no address; it must never look like the Unix socket.
                (Io::Tcp(stream), Some(address.unwrap_or_else(|| SocketAddr::from(([0, 0, 0, 0], 0)))))
            }
            Raw::Unix(stream) => (Io::Unix(stream), None),
        };
        Self { io, peer: Peer { address, certificate: None }, _permit: permit }
    }
}

impl Connected for Connection {
    type ConnectInfo = Peer;

    fn connect_info(&self) -> Peer {
        self.peer.clone()
    }
}

macro_rules! each_io {
    ($self:expr, $io:ident => $call:expr) => {
        match &mut $self.get_mut().io {
            Io::Tcp($io) => $call,
            Io::Tls($io) => $call,
            Io::Unix($io) => $call,
        }
    };
}

impl AsyncRead for Connection {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        each_io!(self, io => Pin::new(io).poll_read(cx, buf))
    }
}

impl AsyncWrite for Connection {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        each_io!(self, io => Pin::new(io).poll_write(cx, buf))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        each_io!(self, io => Pin::new(io).poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        each_io!(self, io => Pin::new(io).poll_shutdown(cx))
    }

    fn poll_write_vectored(self: Pin<&mut Self>, cx: &mut Context<'_>, bufs: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        each_io!(self, io => Pin::new(io).poll_write_vectored(cx, bufs))
    }

    fn is_write_vectored(&self) -> bool {
        match &self.io {
            Io::Tcp(io) => io.is_write_vectored(),
            Io::Tls(io) => io.is_write_vectored(),
            Io::Unix(io) => io.is_write_vectored(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_and_told_apart() {
        assert_eq!(ListenAddress::parse("unix:/run/d.sock"), Ok(ListenAddress::Unix("/run/d.sock".into())));
        assert!(ListenAddress::parse("localhost").is_err());
        assert!(ListenAddress::parse("unix:").is_err());
        let local = |text: &str| ListenAddress::parse(text).unwrap().is_local();
        assert!(local("127.0.0.1:0") && local("[::1]:0") && local("unix:x"));
        assert!(!local("0.0.0.0:1") && !local("[::]:1") && !local("192.0.2.1:1"));
    }

    #[tokio::test]
    async fn a_dead_socket_file_is_taken_over_and_a_live_one_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let address = ListenAddress::Unix(folder.path().join("d.sock"));
        let ListenAddress::Unix(path) = &address else { unreachable!() };
        // Bound and dropped without removing the file: what a killed process leaves.
        drop(std::os::unix::net::UnixListener::bind(path).unwrap());
        let live = Listener::bind(&address).await.unwrap();
        assert_eq!(Listener::bind(&address).await.unwrap_err().kind(), io::ErrorKind::AddrInUse);
        drop(live);
        assert!(!path.exists());
    }
}
