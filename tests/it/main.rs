//! Why: the product as a client sees it, in process, over a real socket; one module a subject.

#![allow(clippy::unwrap_used, reason = "a test that meets what it did not expect has failed")]

mod authorization;
mod bad_input;
mod laws;
mod on_finish;
mod receiver;
mod stream;
mod support;
mod thread;
