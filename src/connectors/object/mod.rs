//! Why: what the kinds of object store share: records become objects that appear whole, each named by its first offset and created only if absent. Never knows which cloud it is.

#[expect(dead_code, reason = "the engine that writes through it comes next")]
mod bucket;
#[cfg_attr(not(test), expect(dead_code, reason = "the engine that writes through it comes next"))]
mod format;
#[cfg_attr(not(test), expect(dead_code, reason = "the engine that writes through it comes next"))]
mod path;

#[expect(unused_imports, reason = "the kinds of object store come next")]
pub(in crate::connectors) use self::bucket::{Bucket, BucketSource};
