//! Why: what every call passes through, and in which order, is told in one place. Never decides anything about a single RPC.
//!
//! From the outside in:
//!
//! 1. [`catch_panic`]: outermost, so that a panic in any layer below is an INTERNAL with an id to find in the log, and the connection lives on.
//! 2. [`TraceLayer`]: a span a call, continuing the caller's trace; above everything that can answer, so that every answer is counted.
//! 3. [`RetellLayer`]: what tonic refuses by itself (a message over the limit) is told in our words, with details that clients can tell apart.
//! 4. [`super::deadline::DeadlineLayer`]: below the span, above the work.
//! 5. a global limit of unary calls under way (tower's), so that a flood waits instead of eating memory. Streams are counted by their own service.
//!
//! Who calls is asked by each call itself ([`super::authn`]): health and reflection need no identity, and a refusal must be a typed status.

use std::{
    any::Any,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use http::{HeaderMap, HeaderValue, Request, Response};
use tonic::{Status, body::Body};
use tower::{Layer, Service};
use tower_http::catch_panic::{CatchPanicLayer, ResponseForPanic};
use tracing::Instrument;

use super::status;
use crate::{
    clock::Ids,
    problem::{Problem, Reason},
    telemetry,
};

/// The caller's own name of a call; made up where there is none, and told back.
pub const REQUEST_ID: &str = "x-request-id";
/// The longest one that is taken over, in bytes.
const REQUEST_ID_BYTES_MAX: usize = 128;

/// Turns a panic into INTERNAL with an `error_id` that the log has too.
pub fn catch_panic(ids: Arc<dyn Ids>) -> CatchPanic {
    CatchPanicLayer::custom(PanicAnswer(ids))
}

/// The outermost layer.
pub type CatchPanic = CatchPanicLayer<PanicAnswer>;

/// What answers a panic.
#[derive(Debug, Clone)]
pub struct PanicAnswer(Arc<dyn Ids>);

impl ResponseForPanic for PanicAnswer {
    type ResponseBody = Body;

    fn response_for_panic(&mut self, panic: Box<dyn Any + Send>) -> Response<Body> {
        Status::from(internal(&*self.0, &panic_text(&*panic))).into_http()
    }
}

/// A bug: the log gets what happened under an id, the caller only the id.
pub fn internal(ids: &dyn Ids, what: &str) -> Problem {
    let error_id = ids.uuid().simple().to_string();
    metrics::counter!("datasink_internal_errors_total").increment(1);
    tracing::error!(error_id, what, "internal error");
    Problem::new(Reason::Internal, format!("something broke in the server; its log has the error id {error_id}")).with("error_id", error_id)
}

/// The text a panic was raised with.
pub fn panic_text(panic: &(dyn Any + Send)) -> String {
    panic.downcast_ref::<&str>().map(|text| (*text).to_owned()).or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "a panic".to_owned())
}

/// Tells tonic's own refusals of a request in our words.
#[derive(Debug, Clone, Copy)]
pub struct RetellLayer;

impl<S> Layer<S> for RetellLayer {
    type Service = Retell<S>;

    fn layer(&self, inner: S) -> Retell<S> {
        Retell { inner }
    }
}

/// See [`RetellLayer`].
#[derive(Debug, Clone)]
pub struct Retell<S> {
    inner: S,
}

type Answer<E> = Pin<Box<dyn Future<Output = Result<Response<Body>, E>> + Send>>;

impl<S, B> Service<Request<B>> for Retell<S>
where
    S: Service<Request<B>, Response = Response<Body>>,
    S::Future: Send + 'static,
    S::Error: Send + 'static,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = Answer<S::Error>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let work = self.inner.call(request);
        Box::pin(async move {
            let response = work.await?;
            Ok(retold(response.headers()).unwrap_or(response))
        })
    }
}

/// Another response, where this one is an error that tonic made of the request. An error before any message sits in the headers.
fn retold(headers: &HeaderMap) -> Option<Response<Body>> {
    if !headers.contains_key("grpc-status") || status::has_details(headers) {
        return None;
    }
    let made = Status::from_header_map(headers)?;
    status::retell(made.code(), made.message()).map(|problem| Status::from(problem).into_http())
}

/// A span a call, with the caller's trace as its parent, and an `x-request-id` that is told back.
#[derive(Debug, Clone)]
pub struct TraceLayer(pub Arc<dyn Ids>);

impl<S> Layer<S> for TraceLayer {
    type Service = Trace<S>;

    fn layer(&self, inner: S) -> Trace<S> {
        Trace { inner, ids: self.0.clone() }
    }
}

/// See [`TraceLayer`].
#[derive(Debug, Clone)]
pub struct Trace<S> {
    inner: S,
    ids: Arc<dyn Ids>,
}

impl<S, B> Service<Request<B>> for Trace<S>
where
    S: Service<Request<B>, Response = Response<Body>>,
    S::Future: Send + 'static,
    S::Error: Send + 'static,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = Answer<S::Error>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        let request_id = name_call(request.headers_mut(), &*self.ids);
        let method = request.uri().path().trim_start_matches('/').chars().take(100).collect::<String>();
        let span = tracing::info_span!(
            "rpc",
            otel.kind = "server",
            otel.name = method,
            rpc.system.name = "grpc",
            rpc.method = method,
            rpc.response.status_code = tracing::field::Empty,
            request_id = request_id.to_str().unwrap_or_default()
        );
        telemetry::adopt_parent(&span, request.headers());
        let work = {
            let _entered = span.enter();
            self.inner.call(request)
        };
        let record = span.clone();
        let traced = async move {
            let mut answer = work.await;
            if let Ok(response) = &mut answer {
                response.headers_mut().insert(REQUEST_ID, request_id);
                // Streams that began well have no status yet: theirs is told by their own span.
                let code = response.headers().get("grpc-status").and_then(|code| code.to_str().ok()).unwrap_or("0");
                record.record("rpc.response.status_code", code);
            }
            answer
        };
        Box::pin(traced.instrument(span))
    }
}

/// The call's name: the caller's, where it is printable and short, else a new one.
fn name_call(headers: &mut HeaderMap, ids: &dyn Ids) -> HeaderValue {
    let own =
        headers.get(REQUEST_ID).filter(|id| !id.is_empty() && id.len() <= REQUEST_ID_BYTES_MAX && id.as_bytes().iter().all(u8::is_ascii_graphic)).cloned();
    let name = own.unwrap_or_else(|| ids.uuid().to_string().parse().expect("a UUID is a header value"));
    headers.insert(REQUEST_ID, name.clone());
    name
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::SystemIds;

    #[test]
    fn a_panic_is_told_by_id_alone() {
        let problem = internal(&SystemIds, "index out of bounds: secret");
        assert!(!problem.message.contains("secret"));
        assert_eq!(problem.metadata[0].0, "error_id");
    }

    #[test]
    fn a_too_large_message_is_retold_and_our_own_error_is_not() {
        let tonics = Status::out_of_range("Error, decoded message length too large: found 9 bytes, the limit is: 8 bytes").into_http::<Body>();
        let told = retold(tonics.headers()).unwrap();
        assert_eq!(told.headers()["grpc-status"], "8");
        assert!(status::has_details(told.headers()));
        let ours = Status::from(Problem::new(Reason::OffsetGap, "decoded message length too large")).into_http::<Body>();
        assert!(retold(ours.headers()).is_none());
        assert!(retold(Response::new(Body::empty()).headers()).is_none());
    }

    #[tokio::test]
    async fn the_server_survives_a_panic() {
        let poison = tower::service_fn(async |_: Request<Body>| -> Result<Response<Body>, std::convert::Infallible> { panic!("poison") });
        let mut service = catch_panic(Arc::new(SystemIds)).layer(poison);
        let answer = service.call(Request::new(Body::empty())).await.unwrap();
        assert_eq!(answer.headers()["grpc-status"], "13");
    }
}
