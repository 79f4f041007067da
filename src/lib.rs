//! Datasink: data sinks, their credentials and permissions, and a streaming `Push` whose acknowledgements are true.
//!
//! Modules in reading order; `ARCHITECTURE.md` has the map and the rules of which room may import which.

#![forbid(unsafe_code)]

// Support that unit tests share with the tests outside names this crate as those do.
#[cfg(test)]
extern crate self as datasink;

pub mod clock;
pub mod limits;
pub mod name;
pub mod problem;
pub mod record;
pub mod secret;
pub mod shutdown;
pub mod telemetry;
pub mod vault;

pub mod store;

pub mod api;
pub mod cli;
pub mod connectors;
pub mod delivery;
pub mod domain;

/// Batches and objects are large and short-lived: an allocator that keeps their pages spares the kernel a third of the work of a push.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

pub mod app;
pub mod command;
pub mod config;
