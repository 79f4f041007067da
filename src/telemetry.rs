//! Why: logs, traces and metrics leave the process here and nowhere else. Never lets a name break a log line, and never carries a record.

use std::{
    io::{self, IsTerminal, Write},
    sync::OnceLock,
};

use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use opentelemetry::{
    propagation::{Extractor, TextMapPropagator},
    trace::{TraceContextExt, TracerProvider},
};
use opentelemetry_otlp::WithExportConfig;
use opentelemetry_sdk::{Resource, propagation::TraceContextPropagator, trace::SdkTracerProvider};
use tracing::{Level, Span};
use tracing_opentelemetry::OpenTelemetrySpanExt;
use tracing_subscriber::{
    EnvFilter, Layer,
    filter::{FilterExt, LevelFilter, Targets, filter_fn},
    fmt::MakeWriter,
    layer::{Filter, SubscriberExt},
    util::SubscriberInitExt,
};

/// A log line is cut here, in bytes.
const LINE_BYTES_MAX: usize = 16 << 10;

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people on a terminal, JSON anywhere else.
    #[default]
    Auto,
    /// For people.
    Human,
    /// One JSON object a line.
    Json,
}

/// Keeps the exporter alive; its drop sends what is left.
#[derive(Debug, Default)]
pub struct Telemetry {
    traces: Option<SdkTracerProvider>,
}

impl Drop for Telemetry {
    fn drop(&mut self) {
        if let Some(traces) = self.traces.take()
            && let Err(error) = traces.shutdown()
        {
            tracing::warn!(%error, "the last spans could not be sent");
        }
    }
}

/// Starts logging to standard error, and tracing to `otlp_endpoint` where it is not empty. A second start in one process (tests) leaves the first in place.
pub fn start(filter: &str, format: LogFormat, otlp_endpoint: &str) -> Result<Telemetry, String> {
    let filter = EnvFilter::try_new(filter).map_err(|error| format!("log: {filter:?} is not a log filter: {error}"))?;
    let json = match format {
        LogFormat::Auto => !io::stderr().is_terminal(),
        LogFormat::Human => false,
        LogFormat::Json => true,
    };
    let lines = tracing_subscriber::fmt::layer().with_writer(Escaping).with_ansi(false);
    let lines = if json { lines.json().flatten_event(true).boxed() } else { lines.boxed() };
    let traces = (!otlp_endpoint.is_empty()).then(|| exporter(otlp_endpoint)).transpose()?;
    // Our own spans only: those of the libraries below would tell of the exporter's own connection, and so of themselves, for ever.
    let ours = Targets::new().with_target("datasink", LevelFilter::INFO);
    let spans = traces.as_ref().map(|provider| tracing_opentelemetry::layer().with_tracer(provider.tracer("datasink")).with_filter(ours));
    // Fails only where a subscriber is set already.
    let _ = tracing_subscriber::registry().with(lines.with_filter(filter.and(quiet_libraries()))).with(spans).try_init();
    Ok(Telemetry { traces })
}

/// Whatever the filter says, the libraries below tell no more than INFO: their finer lines quote headers and stored rows.
fn quiet_libraries<S>() -> impl Filter<S> {
    filter_fn(|facts| facts.target() == "datasink" || facts.target().starts_with("datasink::") || *facts.level() <= Level::INFO)
}

fn exporter(endpoint: &str) -> Result<SdkTracerProvider, String> {
    let exporter = opentelemetry_otlp::SpanExporter::builder().with_tonic().with_endpoint(endpoint).build();
    let exporter = exporter.map_err(|error| format!("otlp_endpoint: {endpoint:?} cannot be used: {error}"))?;
    let resource = Resource::builder().with_service_name("datasink").build();
    Ok(SdkTracerProvider::builder().with_batch_exporter(exporter).with_resource(resource).build())
}

/// Writes to standard error with every control character escaped: a name with a newline or a terminal sequence stays within its line.
#[derive(Debug, Clone, Copy)]
struct Escaping;

impl<'a> MakeWriter<'a> for Escaping {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        Self
    }
}

impl Write for Escaping {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        io::stderr().lock().write_all(&escaped(line))?;
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().flush()
    }
}

/// One event's line: the subscriber hands over a whole one at a time, with its newline.
fn escaped(line: &[u8]) -> Vec<u8> {
    let text = String::from_utf8_lossy(line);
    let text = text.strip_suffix('\n').unwrap_or(&text);
    let mut out = String::with_capacity(text.len() + 1);
    for c in text.chars() {
        if out.len() >= LINE_BYTES_MAX {
            out.push('…');
            break;
        }
        if c.is_control() { out.extend(c.escape_default()) } else { out.push(c) }
    }
    out.push('\n');
    out.into_bytes()
}

/// Headers as a propagator reads them.
struct Headers<'a>(&'a http::HeaderMap);

impl Extractor for Headers<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key).and_then(|value| value.to_str().ok())
    }

    fn keys(&self) -> Vec<&str> {
        self.0.keys().map(http::HeaderName::as_str).collect()
    }
}

/// Makes the caller's span (W3C `traceparent`, `tracestate`) the parent of `span`.
pub fn adopt_parent(span: &Span, headers: &http::HeaderMap) {
    let context = TraceContextPropagator::new().extract(&Headers(headers));
    if context.span().span_context().is_valid() {
        // Without an exporter there is nothing to set a parent of.
        let _ = span.set_parent(context);
    }
}

/// Links `span` to the trace that `traceparent` names: what produced a batch is not what sends it.
pub fn link(span: &Span, traceparent: &str) {
    let mut headers = http::HeaderMap::new();
    let Ok(value) = traceparent.parse() else { return };
    headers.insert("traceparent", value);
    let context = TraceContextPropagator::new().extract(&Headers(&headers));
    span.add_link(context.span().span_context().clone());
}

/// The current span's trace id, where the caller or the exporter gave it one.
pub fn trace_id() -> Option<String> {
    let context = Span::current().context();
    let span = context.span();
    span.span_context().is_valid().then(|| span.span_context().trace_id().to_string())
}

/// The process's metrics, rendered for Prometheus. The first call makes the recorder; all later ones share it.
pub fn metrics() -> PrometheusHandle {
    static HANDLE: OnceLock<PrometheusHandle> = OnceLock::new();
    let make = || {
        let recorder = PrometheusBuilder::new().build_recorder();
        let handle = recorder.handle();
        // Fails only where another recorder is set: then that one is asked elsewhere.
        let _ = metrics::set_global_recorder(recorder);
        handle
    };
    HANDLE.get_or_init(make).clone()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hostile_name_stays_within_its_line() {
        assert_eq!(escaped(b"a \x1b[31mred\nforged line\n"), b"a \\u{1b}[31mred\\nforged line\n");
        assert!(escaped(&[b'x'; 100_000]).len() < LINE_BYTES_MAX + 8);
    }

    #[test]
    fn a_json_line_is_still_json() {
        let line = serde_json::json!({"name": "a\n\u{1b}[2J\"}"}).to_string() + "\n";
        assert!(serde_json::from_slice::<serde_json::Value>(&escaped(line.as_bytes())).is_ok());
    }

    #[test]
    fn a_bad_filter_is_told() {
        assert!(start("nonsense[", LogFormat::Json, "").is_err());
    }
}
