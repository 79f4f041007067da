//! Why: what the kinds of object store share: records become objects that appear whole, each named by its first offset and created only if absent. Never knows which cloud it is.

mod body;
mod bucket;
mod chain;
#[cfg(test)]
mod chain_model;
mod condition;
mod connector;
mod endpoint;
mod errors;
#[cfg(test)]
mod faulty;
mod format;
mod http;
mod layout;
mod manifest;
mod options;
mod partitioned;
mod path;
mod probe;
mod reader;
mod staged;
#[cfg(test)]
pub(in crate::connectors) mod testing;
#[cfg(test)]
mod tests;
mod token;
mod writer;

use super::options::{OptionSpec, OptionType};

pub(in crate::connectors) use self::{
    bucket::{Bucket, BucketSource},
    connector::connector,
    endpoint::{Endpoint, Host, is_plain_name, name_fault, one_scheme},
    http::{COMPLETION_HEADERS, Gate, Manners, Signing, no_retries},
    options::OBJECT_OPTIONS,
    token::{Issued, Renewing, TokenService, TokenSource, life_until, managed, named_file, pair, refused, secret_text},
};

/// Options that the object stores of the clouds share.
pub(in crate::connectors) const CLOUD_OPTIONS: [OptionSpec; 2] = [
    OptionSpec::new("use_managed_credentials", OptionType::Bool, "Use the identity that the cloud gives to this host, where the operator allows it.")
        .or("false"),
    OptionSpec::new("use_https", OptionType::Bool, "Whether to connect with TLS; without it, tokens and signatures that travel go to loopback only.")
        .or("true"),
];

/// What the guarantee of every kind of object store rests on.
pub(in crate::connectors) const BASIS: &str = "Each object appears whole and is created only if its name, which holds the first offset in it, is free; the mark is in the newest object, and the next name follows from it. Whether the store honours the condition is tried at each open: one that ignores it and overwrites is announced as idempotent. Where path_template has fields of records, all this holds for the manifests, each of which lists the objects of one unit and is created after them: who reads what manifests name reads each record once, while who lists folders may also meet objects of a unit that broke off before its manifest.";

/// What no kind of object store takes or does.
pub(in crate::connectors) const LIMITS: &[&str] = &[
    "A record is acknowledged when its object is visible: the sender holds up to three objects, and an ack waits for max_object_bytes, max_object_age or max_object_idle.",
    "With {field:…} in path_template a record without the field, or with null, an object or an array in it, is refused; a unit is closed at 256 paths and never has more than 1,000 objects; ON_FINISH is refused; objects that no manifest names may stay after a broken session.",
    "Parquet, Arrow, Avro and CSV need columns: open the stream with a schema, or send Arrow.",
    "An upload in parts that a crash cuts off stays in the bucket, unseen and paid for: of an ON_FINISH stream until it is opened again, else until a lifecycle rule for unfinished uploads removes it, so set one.",
    "A lifecycle rule that removes the newest object of a stream that is still written makes that stream stop, since its mark is gone (STREAM_MISMATCH): leave those of live streams.",
];
