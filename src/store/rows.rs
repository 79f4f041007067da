//! Why: local tables: rows, marks and fences of one table change together. Never authorizes and never knows a sink.

use super::SharedStore;

/// Local tables over a store.
#[derive(Debug, Clone)]
pub struct Rows {
    /// Where everything is kept.
    pub store: SharedStore,
}
