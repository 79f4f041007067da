//! Why: stand-in. Never kept.
use super::bucket::BucketSource;
use crate::connectors::connector::{ConnectContext, Probe};
pub(super) async fn probe(_: &dyn BucketSource, cx: &ConnectContext, _: &str, _: bool) -> Probe { Probe { steps: Vec::new(), checked: cx.ambient.now() } }
