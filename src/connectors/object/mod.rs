//! Why: what the kinds of object store share: records become objects that appear whole, each named by its first offset and created only if absent. Never knows which cloud it is.

mod body;
mod bucket;
mod chain;
#[cfg(test)]
mod chain_model;
mod condition;
mod connector;
#[cfg(test)]
mod faulty;
mod format;
mod layout;
mod options;
mod path;
mod probe;
mod reader;
mod staged;
#[cfg(test)]
mod tests;
mod writer;

pub(in crate::connectors) use self::{
    bucket::{Bucket, BucketSource},
    connector::connector,
    layout::Layout,
    options::OBJECT_OPTIONS,
};
