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
mod options;
#[cfg_attr(not(test), expect(dead_code, reason = "paths made of what records hold come with partitioned output; until then such templates are refused"))]
mod path;
mod probe;
mod reader;
mod staged;
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
