//! Why: the product as an operator sees it, the real program as a process of its own; one module a subject. Never reaches beyond loopback.

#![allow(clippy::unwrap_used, reason = "a test that meets what it did not expect has failed")]

mod audit;
mod canary;
mod cli;
mod on_finish;
mod reflection;
mod secrets;
mod server;
mod settings;
mod shutdown;
mod store_faults;
#[allow(dead_code, reason = "the in-process tests use the rest of it")]
#[path = "../it/stream.rs"]
mod stream;
mod telemetry;
mod transport;

/// Where `stream.rs` looks for its caller.
mod support {
    pub use crate::server::Caller;
}
