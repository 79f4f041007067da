//! Why: every outbound connection of every kind passes one address filter. Never follows a redirect.

/// The address filter.
#[derive(Debug)]
pub struct Egress;
