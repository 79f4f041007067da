//! Why: a call ends by its deadline with DEADLINE_EXCEEDED; tonic's own timeout answers CANCELLED, which meshes retry. Never ends a stream that is meant to stay open.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use futures::future::Either;
use http::{HeaderMap, Request, Response};
use tonic::body::Body;
use tower::{Layer, Service};

use super::status;

/// Calls that stay open for as long as both sides want, and their methods.
const UNLIMITED: &[&str] = &[
    "/datasink.v1.PushService/Push",
    "/datasink.v1.TableMonitorService/WatchTableMonitor",
    "/datasink.v1.FileService/UploadFile",
    "/datasink.v1.FileService/DownloadFile",
    "/datasink.v1.TableService/ScanRows",
    "/grpc.health.v1.Health/Watch",
    "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
    "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
];
/// The longest a unary call may take that connects to a destination or waits for a job.
const LONG: Duration = Duration::from_secs(330);
/// The longest any other unary call may take.
const SHORT: Duration = Duration::from_secs(60);
/// Calls of the first sort.
const LONG_CALLS: &[&str] = &[
    "/datasink.v1.DataSinkService/CreateDataSink",
    "/datasink.v1.DataSinkService/AlterDataSink",
    "/datasink.v1.DataSinkService/TestDataSink",
    "/datasink.v1.PushService/PushOnce",
    "/datasink.v1.ExportService/CreateExportJob",
    "/datasink.v1.ExportService/WaitExportJob",
    "/datasink.v1.SqlService/ExecuteSql",
    "/datasink.v1.ServerService/DrainServer",
];

/// The longest a call of this path may take; `None`: as long as it likes.
fn longest(path: &str) -> Option<Duration> {
    if UNLIMITED.contains(&path) {
        None
    } else if LONG_CALLS.contains(&path) {
        Some(LONG)
    } else {
        Some(SHORT)
    }
}

/// The client's own deadline: gRPC's `grpc-timeout`, at most eight digits and a unit; anything else is as if it were not there.
fn asked(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get("grpc-timeout")?.to_str().ok()?;
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.is_empty() || digits.len() > 8 || !digits.bytes().all(|digit| digit.is_ascii_digit()) {
        return None;
    }
    let amount: u64 = digits.parse().ok()?;
    match unit {
        "H" => Some(Duration::from_secs(amount * 3_600)),
        "M" => Some(Duration::from_secs(amount * 60)),
        "S" => Some(Duration::from_secs(amount)),
        "m" => Some(Duration::from_millis(amount)),
        "u" => Some(Duration::from_micros(amount)),
        "n" => Some(Duration::from_nanos(amount)),
        _ => None,
    }
}

/// Ends unary calls by the lesser of the client's deadline and the method's own.
#[derive(Debug, Clone, Copy)]
pub struct DeadlineLayer;

impl<S> Layer<S> for DeadlineLayer {
    type Service = Deadline<S>;

    fn layer(&self, inner: S) -> Deadline<S> {
        Deadline { inner }
    }
}

/// See [`DeadlineLayer`].
#[derive(Debug, Clone)]
pub struct Deadline<S> {
    inner: S,
}

impl<S, B> Service<Request<B>> for Deadline<S>
where
    S: Service<Request<B>, Response = Response<Body>>,
    S::Future: Send + 'static,
    S::Error: Send + 'static,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, S::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let Some(longest) = longest(request.uri().path()) else {
            return Box::pin(self.inner.call(request));
        };
        let limit = asked(request.headers()).map_or(longest, |asked| asked.min(longest));
        // Begun here and not at the first poll: tonic's own timer of the same length starts after this call and must lose.
        let timer = Box::pin(tokio::time::sleep(limit));
        let work = Box::pin(self.inner.call(request));
        Box::pin(async move {
            match futures::future::select(work, timer).await {
                Either::Left((answer, _)) => answer,
                // Dropping the work cancels it: writers are safe to cancel at the bounds of a batch.
                Either::Right(((), _)) => Ok(status::deadline_exceeded(limit).into_http()),
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(text: &str) -> HeaderMap {
        [(http::HeaderName::from_static("grpc-timeout"), text.parse().unwrap())].into_iter().collect()
    }

    #[test]
    fn grpc_timeouts_are_read_as_the_protocol_says() {
        assert_eq!(asked(&header("200m")), Some(Duration::from_millis(200)));
        assert_eq!(asked(&header("1H")), Some(Duration::from_secs(3_600)));
        for bad in ["", "S", "999999999S", "-1S", "1x", "1 S"] {
            assert_eq!(asked(&header(bad)), None, "{bad:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_unary_call_ends_with_deadline_exceeded_and_a_push_does_not() {
        let slow = tower::service_fn(async |_: Request<()>| {
            tokio::time::sleep(Duration::from_secs(5)).await;
            Ok::<_, std::convert::Infallible>(Response::new(Body::empty()))
        });
        let mut service = DeadlineLayer.layer(slow);
        let call = |path: &str| {
            let mut request = Request::new(());
            *request.uri_mut() = path.parse().unwrap();
            *request.headers_mut() = header("200m");
            request
        };
        let answer = service.call(call("/datasink.v1.SchemaService/ShowSchema")).await.unwrap();
        assert_eq!(answer.headers()["grpc-status"], "4");
        let answer = service.call(call("/datasink.v1.PushService/Push")).await.unwrap();
        assert!(answer.headers().get("grpc-status").is_none());
    }
}
