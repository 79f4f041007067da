//! Why: one function decides who may do what, over one table of rules. Never reads the store: it judges what it is given.

use serde::{Deserialize, Serialize};

/// What a permission is on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[expect(missing_docs, reason = "the interface's own comments in proto/datasink/v1/permission.proto")]
pub enum ObjectType {
    DataSink = 1,
    Credential = 2,
    Schema = 3,
    Table = 4,
    TableMonitor = 5,
    Directory = 6,
    System = 7,
}

/// A permission. `Admin` on an object is every permission on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[expect(missing_docs, reason = "the interface's own comments in proto/datasink/v1/permission.proto")]
pub enum Permission {
    Admin = 1,
    Connect = 2,
    Create = 3,
    Read = 4,
    Insert = 5,
    Update = 6,
    Delete = 7,
    Write = 8,
    Monitor = 9,
    UserAdmin = 10,
}
