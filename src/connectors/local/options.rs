//! Why: what may be said about a `table://` sink. Never reads a value.

use crate::connectors::options::{COMMON, OptionSpec, OptionType};

/// The option that says what happens to a record whose primary key is in the table already.
pub(super) const ON_CONFLICT: &str = "on_conflict";

/// The catalogue. A local table needs no credential, so that option is not in it.
pub(super) static OPTIONS: [OptionSpec; 5] = [
    COMMON[1],
    COMMON[2],
    COMMON[3],
    COMMON[4],
    OptionSpec::new(
        ON_CONFLICT,
        OptionType::Enum(&["error", "ignore", "update"]),
        "What happens to a record whose primary key is in the table already: it is refused, left out, or replaces the row.",
    )
    .or("error"),
];
