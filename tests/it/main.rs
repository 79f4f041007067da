//! Why: the product as a client sees it, in process, over a real socket; one module a subject.

mod authorization;
mod bad_input;
mod laws;
mod receiver;
mod stream;
mod support;
mod thread;
