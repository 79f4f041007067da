//! The kind on its own, and against a real server.
