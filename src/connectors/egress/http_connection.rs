//! Why: requests to one origin, one after another, over a connection that whoever waits for the answer moves itself. Never a task of its own, and never sends again what may have arrived.
//!
//! A client with a pool gives its connections to tasks of their own, and each request goes over to one and its answer back: for small requests in sequence that is most of
//! what they cost (`docs/benchmarks.md`).

use std::{
    fmt,
    future::{poll_fn, ready},
    pin::{Pin, pin},
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll, Waker},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderValue, Request, Response, Uri, header};
use http_body::Body;
use http_body_util::{BodyExt, Full};
use hyper::{
    body::Incoming,
    client::conn::{
        TrySendError,
        http1::{self, Connection, SendRequest},
    },
};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    task::unconstrained,
    time::{Instant, timeout, timeout_at},
};
use url::{Position, Url};

use super::{
    Egress, EgressError,
    http_client::{ExchangeError, HttpOptions, Stage, USER_AGENT},
};
use crate::limits;

/// How long a connection may have been idle and be used again; longer, and something on the way may have forgotten it without a word.
const IDLE_MAX: Duration = Duration::from_secs(90);

/// One HTTP/1.1 connection at a time to one origin behind the address filter, made when it is first needed and again when it has ended: keep-alive, no redirects, no proxy,
/// no retries, no cookies, no decompression.
pub struct HttpConnection {
    egress: Arc<Egress>,
    options: HttpOptions,
    url: Url,
    target: Uri,
    host: HeaderValue,
    /// The connection between two exchanges. An exchange takes it out, so that one that is given up takes its half-read answer with it.
    idle: Mutex<Option<Live>>,
}

impl fmt::Debug for HttpConnection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HttpConnection").field("host", &self.host).field("options", &self.options).finish_non_exhaustive()
    }
}

impl HttpConnection {
    /// For requests to `url`, whose port is the one of `options`; connects with the first of them.
    pub fn new(egress: &Arc<Egress>, options: HttpOptions, url: &Url) -> Result<Self, EgressError> {
        let name = url.host_str().ok_or_else(|| EgressError::NotAHost { host: String::new() })?;
        let authority = url.port().map_or_else(|| name.to_owned(), |port| format!("{name}:{port}"));
        let host = HeaderValue::try_from(authority).map_err(|fault| EgressError::Client(fault.to_string()))?;
        let target = url[Position::BeforePath..Position::AfterQuery].parse().map_err(|fault| EgressError::Client(format!("the URL's path: {fault}")))?;
        Ok(Self { egress: egress.clone(), options, url: url.clone(), target, host, idle: Mutex::default() })
    }

    /// Sends `request`, whose URI and host are set here, and returns the head of the answer. Of its body at most [`limits::REPLY_BYTES_MAX`] bytes are read, so that the
    /// connection can serve again, and dropped. A status that is no success is an answer like any other.
    pub async fn exchange(&self, mut request: Request<Bytes>) -> Result<Response<()>, ExchangeError> {
        let deadline = Instant::now() + self.options.exchange_timeout;
        *request.uri_mut() = self.target.clone();
        let headers = request.headers_mut();
        headers.insert(header::HOST, self.host.clone());
        headers.insert(header::USER_AGENT, HeaderValue::from_static(USER_AGENT));
        headers.insert(header::ACCEPT, HeaderValue::from_static("*/*"));
        let sent = timeout_at(deadline, self.send(request.map(Full::new))).await;
        let (mut live, reply) = sent.unwrap_or_else(|_| Err(ExchangeError { stage: Stage::NoAnswer, reason: "no whole answer in time".to_owned() }))?;
        let (head, body) = reply.into_parts();
        if body.is_end_stream() || timeout_at(deadline, live.discard(body)).await == Ok(true) {
            live.used = Instant::now();
            *self.idle.lock().unwrap_or_else(PoisonError::into_inner) = Some(live);
        }
        Ok(Response::from_parts(head, ()))
    }

    /// Sends `request` over the connection that is there, or over a new one if that has ended before any of the request was written.
    async fn send(&self, request: Request<Posted>) -> Result<(Live, Response<Incoming>), ExchangeError> {
        let idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner).take();
        let request = match idle {
            Some(live) if live.used.elapsed() < IDLE_MAX => match live.send(request).await {
                Ok(sent) => return Ok(sent),
                Err(mut fault) => fault.take_message().ok_or_else(|| ExchangeError::broken(&fault.into_error()))?,
            },
            _ => request,
        };
        self.connect().await?.send(request).await.map_err(|fault| ExchangeError::broken(&fault.into_error()))
    }

    /// A new connection, to an address that the filter lets through now.
    async fn connect(&self) -> Result<Live, ExchangeError> {
        let HttpOptions { kind, port, connect_timeout: limit, .. } = self.options;
        let host = self.url.host_str().unwrap_or_default();
        let open = async {
            let addresses = self.options.admit(host, self.egress.resolve(host, port, kind).await?)?;
            let stream = self.egress.connect(host, &addresses, limit).await?;
            let wire: Box<dyn Wire> = if self.url.scheme() == "https" { Box::new(self.egress.handshake(host, stream, limit).await?) } else { Box::new(stream) };
            Ok(wire)
        };
        let opened = timeout(limit, open).await.unwrap_or_else(|_| Err(EgressError::TimedOut { host: host.to_owned(), port, limit }));
        let wire = opened.map_err(|fault| ExchangeError::unconnected(&fault))?;
        let (sender, connection) = http1::handshake(TokioIo::new(wire)).await.map_err(|fault| ExchangeError::broken(&fault))?;
        Ok(Live { sender, connection: Some(connection), used: Instant::now() })
    }
}

/// TCP, or TLS over it.
trait Wire: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Wire for T {}

type Posted = Full<Bytes>;
type Sent = Result<(Live, Response<Incoming>), TrySendError<Request<Posted>>>;

/// An open connection.
struct Live {
    sender: SendRequest<Posted>,
    /// `None` once it has ended.
    connection: Option<Connection<TokioIo<Box<dyn Wire>>, Posted>>,
    /// When its last exchange ended.
    used: Instant,
}

impl Live {
    /// Sends `request` and waits for the head of the answer. The error holds the request if none of it was written.
    async fn send(mut self, request: Request<Posted>) -> Sent {
        // Takes notice of an end that came while nobody looked, and of the end of the last answer.
        self.drive(ready(())).await;
        let reply = self.sender.try_send_request(request);
        let reply = self.drive(reply).await?;
        Ok((self, reply))
    }

    /// Reads `body` to its end; whether it had one soon enough for the connection to be used again.
    async fn discard(&mut self, mut body: Incoming) -> bool {
        let mut read = 0;
        while let Some(frame) = self.drive(body.frame()).await {
            let Ok(frame) = frame else { return false };
            read += frame.data_ref().map_or(0, Bytes::len);
            if read > limits::REPLY_BYTES_MAX {
                return false;
            }
        }
        true
    }

    /// Moves the connection until `step`, which waits for nothing else, is done.
    async fn drive<T>(&mut self, step: impl Future<Output = T>) -> T {
        let mut step = pin!(step);
        // The library hands requests and answers over between its two halves and wakes the other one's task each time. Here that is this task, which looks at both anyway:
        // so it waits for the network alone, and is not woken while it runs.
        unconstrained(poll_fn(|cx| {
            self.turn(&mut quiet());
            if let Poll::Ready(done) = step.as_mut().poll(&mut quiet()) {
                return Poll::Ready(done);
            }
            self.turn(cx);
            step.as_mut().poll(&mut quiet())
        }))
        .await
    }

    /// Reads and writes what can be now.
    fn turn(&mut self, cx: &mut Context<'_>) {
        // How it ended, a request that waits for its answer is told.
        if self.connection.as_mut().is_some_and(|connection| Pin::new(connection).poll(cx).is_ready()) {
            self.connection = None;
        }
    }
}

/// For a poll whose waker is not needed.
fn quiet() -> Context<'static> {
    Context::from_waker(Waker::noop())
}
