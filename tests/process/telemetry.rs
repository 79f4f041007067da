//! Why: what an operator sees of the service from outside: spans that join the callers' traces, metrics that stay few. Never with a secret in them.

use std::{
    collections::BTreeSet,
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use datasink::api::pb::{RecordBatch, WhoAmIRequest, push_request};
use opentelemetry_proto::tonic::{
    collector::trace::v1::{
        ExportTraceServiceRequest, ExportTraceServiceResponse,
        trace_service_server::{TraceService, TraceServiceServer},
    },
    trace::v1::Span,
};
use prost::Message;
use tonic::{Request, Response, Status};

use crate::{
    secrets::{Canary, Finder},
    server::{PATIENCE, Place},
    stream::{Stream, lines_batch, numbers, open},
};

const CALLER_TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const CALLER_SPAN: &str = "00f067aa0ba902b7";
const BATCH_TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const BATCH_SPAN: &str = "b7ad6b7169203331";

/// Keeps every export as it came.
#[derive(Clone, Default)]
struct Collector(Arc<Mutex<Vec<ExportTraceServiceRequest>>>);

#[tonic::async_trait]
impl TraceService for Collector {
    async fn export(&self, request: Request<ExportTraceServiceRequest>) -> Result<Response<ExportTraceServiceResponse>, Status> {
        self.0.lock().unwrap().push(request.into_inner());
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

impl Collector {
    async fn start() -> (Self, SocketAddr) {
        let collector = Self::default();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let incoming = tonic::transport::server::TcpIncoming::from(listener);
        let server = tonic::transport::Server::builder().add_service(TraceServiceServer::new(collector.clone()));
        #[expect(clippy::disallowed_methods, reason = "the test's own receiver, gone with its runtime")]
        tokio::spawn(server.serve_with_incoming(incoming));
        (collector, address)
    }

    fn spans(&self) -> Vec<Span> {
        let exports = self.0.lock().unwrap();
        exports.iter().flat_map(|export| &export.resource_spans).flat_map(|resource| &resource.scope_spans).flat_map(|scope| scope.spans.clone()).collect()
    }

    /// Waits for a span that `fits`.
    async fn span(&self, what: &str, fits: impl Fn(&Span) -> bool) -> Span {
        let until = Instant::now() + PATIENCE;
        loop {
            if let Some(span) = self.spans().into_iter().find(&fits) {
                return span;
            }
            assert!(Instant::now() < until, "no {what} among {:#?}", self.spans().iter().map(|span| &span.name).collect::<Vec<_>>());
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn attribute(span: &Span, key: &str) -> Option<String> {
    use opentelemetry_proto::tonic::common::v1::any_value::Value;
    let value = span.attributes.iter().find(|attribute| attribute.key == key)?.value.clone()?.value?;
    Some(match value {
        Value::StringValue(text) => text,
        other => format!("{other:?}"),
    })
}

#[tokio::test]
async fn spans_join_the_callers_traces_and_carry_no_secret() {
    let place = Place::new();
    let (collector, address) = Collector::start().await;
    let server = place.serve().args(&["--otlp-endpoint", &format!("http://{address}")]).start().await;
    let admin = server.admin().await;
    admin.local_sink("default.t").await;

    let mut call = Request::new(WhoAmIRequest {});
    call.metadata_mut().insert("traceparent", format!("00-{CALLER_TRACE}-{CALLER_SPAN}-01").parse().unwrap());
    let who = admin.server().who_am_i(call).await.unwrap().into_inner();
    assert_eq!(who.trace_id, CALLER_TRACE, "the server says which trace it sees");
    let rpc = collector.span("span of the call", |span| span.name.ends_with("ServerService/WhoAmI")).await;
    assert_eq!((hex(&rpc.trace_id).as_str(), hex(&rpc.parent_span_id).as_str()), (CALLER_TRACE, CALLER_SPAN));
    assert_eq!(attribute(&rpc, "rpc.system.name").as_deref(), Some("grpc"));
    assert_eq!(attribute(&rpc, "rpc.method").as_deref(), Some("datasink.v1.ServerService/WhoAmI"));
    assert!(attribute(&rpc, "rpc.response.status_code").is_some());

    let (mut stream, _) = Stream::open(&admin, open("default.t", "traced")).await;
    let batch = RecordBatch { traceparent: format!("00-{BATCH_TRACE}-{BATCH_SPAN}-01"), ..numbers(Some(0), 10) };
    stream.send(push_request::Frame::Batch(batch)).await;
    stream.finish().await;
    stream.ended().await;
    collector.span("span of the session", |span| span.name == "push_session" && attribute(span, "stream").as_deref() == Some("traced")).await;
    let linked = |span: &Span| span.links.iter().any(|link| hex(&link.trace_id) == BATCH_TRACE && hex(&link.span_id) == BATCH_SPAN);
    let write = collector.span("span of the write with a link to the batch's trace", |span| span.name == "write" && linked(span)).await;
    assert_ne!(hex(&write.trace_id), BATCH_TRACE, "linked, not continued");
    drop((stream, admin));

    let secret = server.admin_token().split('_').nth(2).unwrap().to_owned();
    server.stop().await;
    let finder = Finder::new(vec![Canary::new("the admin's token", secret.as_bytes())]);
    let exports = collector.0.lock().unwrap();
    let sightings: Vec<_> = exports.iter().flat_map(|export| finder.look("an export of spans", &export.encode_to_vec())).collect();
    assert!(sightings.is_empty(), "{sightings:?}");
}

#[tokio::test]
async fn a_collector_that_is_down_harms_nothing() {
    let place = Place::new();
    let server = place.serve().args(&["--otlp-endpoint", "http://127.0.0.1:9"]).start().await;
    let admin = server.admin().await;
    admin.local_sink("default.t").await;
    let (mut stream, _) = Stream::open(&admin, open("default.t", "s")).await;
    stream.numbers(0, 10).await;
    stream.finish().await;
    stream.ended().await;
    drop((stream, admin));
    server.stop().await;
}

#[tokio::test]
async fn metrics_have_the_documented_names_and_few_labels() {
    let place = Place::new();
    let server = place.start().await;
    let admin = server.admin().await;
    admin.local_sink("default.t").await;
    let (mut stream, _) = Stream::open(&admin, open("default.t", "a_stream_of_its_own")).await;
    stream.send(push_request::Frame::Batch(lines_batch(Some(0), "{\"n\":1}\n{\"n\":2}\n"))).await;
    stream.flush("f").await;
    stream.flushed("f").await;

    let text = server.metrics();
    for name in [
        "datasink_sessions",
        "datasink_outstanding_bytes",
        "datasink_delivered_records_total",
        "datasink_rejected_records_total",
        "datasink_duplicate_records_total",
        "datasink_settle_seconds",
        "datasink_ack_lag_seconds",
    ] {
        assert!(text.lines().any(|line| line.starts_with(name)), "{name} is not in:\n{text}");
    }
    assert!(text.contains("datasink_sessions{kind=\"local\"} 1"), "{text}");
    assert!(text.contains("datasink_delivered_records_total{kind=\"local\"} 2"), "{text}");
    let labels: BTreeSet<&str> = text
        .lines()
        .filter(|line| !line.starts_with('#'))
        .filter_map(|line| Some(line.split_once('{')?.1.split_once('}')?.0))
        .flat_map(|labels| labels.split(',').filter_map(|label| Some(label.split_once('=')?.0)))
        .collect();
    assert!(labels.iter().all(|label| ["kind", "le", "quantile"].contains(label)), "{labels:?}");
    for word in ["a_stream_of_its_own", "default.t", "admin"] {
        assert!(!text.contains(word), "{word} is one of many: {text}");
    }
    stream.finish().await;
    stream.ended().await;
    assert!(server.metrics().contains("datasink_sessions{kind=\"local\"} 0"));
    drop((stream, admin));
    server.stop().await;
}
