//! Why: what a session counts for operators, by kind only, so that the number of series stays small. Never by stream or sink.

/// The session's share of the metrics.
pub(super) struct Meters {
    pub(super) sessions: metrics::Gauge,
    pub(super) delivered: metrics::Counter,
    pub(super) rejected: metrics::Counter,
    pub(super) duplicates: metrics::Counter,
    pub(super) settled: metrics::Histogram,
    pub(super) ack_lag: metrics::Histogram,
}

impl Meters {
    pub(super) fn new(kind: &'static str) -> Self {
        Self {
            sessions: metrics::gauge!("datasink_sessions", "kind" => kind),
            delivered: metrics::counter!("datasink_delivered_records_total", "kind" => kind),
            rejected: metrics::counter!("datasink_rejected_records_total", "kind" => kind),
            duplicates: metrics::counter!("datasink_duplicate_records_total", "kind" => kind),
            settled: metrics::histogram!("datasink_settle_seconds", "kind" => kind),
            ack_lag: metrics::histogram!("datasink_ack_lag_seconds", "kind" => kind),
        }
    }
}
