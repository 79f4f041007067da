//! Why: a case that cannot fail shows nothing, so each of these runs a case on a destination that lies and waits for it to fail, with the words that name the lie. Never counts a case as red for another reason.

use libtest_mimic::{Failed, Trial};

use crate::{
    cases::case,
    held,
    kinds::memory::Memory,
    report::expecting,
    sim::{Family, Lies},
};

/// What the destination does wrong, the case that must notice, and words of its complaint: where a unit is lost that was the last, the case sees the mark first.
const LIES: &[(&str, Lies, &str, &[&str])] = &[
    ("a_unit_reported_durable_and_lost", Lies { loses_every: 3, ..TRUTH }, "mark_moves_with_data", &["records are there", "the stream is at"]),
    ("a_unit_lost_in_quiet_times", Lies { loses_every: 1, ..TRUTH }, "order", &["are not there"]),
    ("records_written_twice", Lies { repeats_every: 2, ..TRUTH }, "no_invention", &["more than once"]),
    ("a_mark_written_after_the_records", Lies { marks_apart: true, ..TRUTH }, "unknown_outcome_reread", &["more than once"]),
    ("a_fence_that_is_not_checked", Lies { ignores_fence: true, ..TRUTH }, "zombie_fenced", &["more than once"]),
    ("records_seen_before_the_commit", Lies { shows_early: true, ..TRUTH }, "half_a_unit_never_visible", &["never sent like this"]),
    ("records_seen_before_finish", Lies { shows_early: true, ..TRUTH }, "on_finish", &["nothing is seen before finish"]),
];

/// No frame says that a batch was appended, so a case can look before a lying destination has shown it; it looks again then.
const LOOKS: usize = 5;
const TRUTH: Lies = Lies { loses_every: 0, ignores_fence: false, repeats_every: 0, marks_apart: false, shows_early: false };

pub fn trials() -> Vec<Trial> {
    let trial = |&(lie, lies, name, words): &(&'static str, Lies, &'static str, &'static [&'static str])| {
        Trial::test(format!("lies::{lie}::turns_{name}_red"), move || {
            let kind = Memory::lying(Family::Transaction, lies);
            for _ in 0..LOOKS {
                match expecting(|| held(&kind, case(name))) {
                    Err(complaint) if words.iter().any(|words| complaint.contains(words)) => return Ok(()),
                    Err(complaint) => return Err(Failed::from(format!("{name} failed for another reason: {complaint}"))),
                    Ok(()) => {}
                }
            }
            Err(Failed::from(format!("{name} did not notice in {LOOKS} looks")))
        })
    };
    LIES.iter().map(trial).collect()
}
