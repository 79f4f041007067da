//! Why: the promises that every kind is held to, one function each. A case never asserts on time, never trusts what the server says of the destination, and shows that its fault happened.

mod configuration;
mod failures;
mod forms;
mod partitions;
mod progress;
mod records;

use futures::{FutureExt, future::BoxFuture};

use crate::kind::Kind;

/// One promise.
pub struct Case {
    pub name: &'static str,
    pub run: for<'a> fn(&'a dyn Kind) -> BoxFuture<'a, ()>,
    /// Whether a kind can be of a sort that has nothing to promise here.
    pub may_be_declined: bool,
    /// Whether it runs a program that `cargo test` alone does not install.
    pub needs_python: bool,
}

macro_rules! cases {
    ($($room:ident :: $case:ident $(, $word:ident)?;)*) => {
        /// Every case, in the order of the table.
        pub const CASES: &[Case] = &[$(Case { name: stringify!($case), run: |kind| $room::$case(kind).boxed(), may_be_declined: cases!(@ $($word)?), needs_python: cases!(% $($word)?) }),*];
    };
    (@ unless_declined) => { true };
    (@ $($other:ident)?) => { false };
    (% needs_python) => { true };
    (% $($other:ident)?) => { false };
}

cases! {
    records::order;
    records::no_invention;
    records::pushed_by_a_stranger, needs_python;
    records::poison_skipped;
    records::poison_to_a_dead_letter_table;
    records::poison_to_a_dead_letter_sink;
    records::record_too_large, unless_declined;
    records::template_field_missing, unless_declined;
    partitions::partitions_by_value, unless_declined;
    partitions::partitions_counted_by_manifest, unless_declined;
    forms::forms_read_by_strangers, unless_declined;
    progress::mark_moves_with_data;
    progress::unknown_outcome_reread, unless_declined;
    progress::zombie_fenced;
    progress::went_back_detected, unless_declined;
    progress::half_a_unit_never_visible;
    progress::on_finish, unless_declined;
    progress::upload_of_a_kill_removed, unless_declined;
    progress::smaller_object_after_a_kill, unless_declined;
    failures::unreachable_backs_off_and_heals, unless_declined;
    failures::cut_in_the_middle_of_a_unit, unless_declined;
    failures::wrong_credential_never_retried, unless_declined;
    failures::rotated_credential_taken_up, unless_declined;
    failures::destination_missing, unless_declined;
    configuration::required_options_missing;
    configuration::options_malformed;
}

/// The case of that name.
pub fn case(name: &str) -> &'static Case {
    CASES.iter().find(|case| case.name == name).expect("a case of that name")
}
