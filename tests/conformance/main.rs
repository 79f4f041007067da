//! Why: every kind of sink is held to the same promises, one test a kind and case, and what it wrote is read back by strangers. Never counts what did not run as passed.
//!
//! The trials are named `<kind>::<case>` and filtered like any test: `cargo test --test conformance -- webhook::`. Without CONFORMANCE_KINDS the kinds run that need no
//! server (memory, local, webhook); with it (`all`, or names with commas between) exactly those run, and one whose environment is missing fails. A table closes the run.

#![allow(clippy::unwrap_used, reason = "a test that meets what it did not expect has failed")]

mod cases;
mod foreign;
mod kind;
mod kinds;
mod lies;
#[path = "../faults/proxy.rs"]
mod proxy;
mod proxy_trials;
mod report;
mod server;
#[path = "../support/sim_connector.rs"]
mod sim;
#[allow(dead_code, reason = "the other test crate that this file belongs to uses the rest")]
#[path = "../it/stream.rs"]
mod stream;
#[allow(dead_code, reason = "the other test crate that this file belongs to uses the rest")]
#[path = "../it/support.rs"]
mod support;
mod world;

use std::{panic::AssertUnwindSafe, process::ExitCode, sync::Arc, time::Duration};

use libtest_mimic::{Arguments, Failed, Trial};

use crate::{
    cases::{CASES, Case},
    kind::Kind,
    report::{Report, Verdict},
};

/// Longer than any honest case takes on a busy machine; one that is not done by then has failed.
const CASE_MAX: Duration = Duration::from_secs(300);

fn main() -> ExitCode {
    let mut arguments = Arguments::from_args();
    // Every trial has a server and a destination of its own, and most of their time is spent waiting.
    arguments.test_threads.get_or_insert(4);
    report::quiet_about_expected_panics();
    // Whoever chose kinds wants all of each.
    let (kinds, chosen) = (kinds::chosen(), std::env::var_os(kinds::CHOICE).is_some());
    let report = Report::new(&kinds);
    let mut trials = lies::trials();
    trials.extend(proxy_trials::trials());
    for kind in &kinds {
        let cases = CASES.iter().filter(|case| declined(&**kind, case).is_none() && (chosen || !case.needs_python || foreign::has_python()));
        trials.extend(cases.map(|case| trial(kind, case, &report)));
    }
    let outcome = libtest_mimic::run(&arguments, trials);
    if !arguments.list {
        report.print();
    }
    if outcome.has_failed() { ExitCode::from(101) } else { ExitCode::SUCCESS }
}

/// Why the case does not apply to the kind, where it does not.
fn declined(kind: &dyn Kind, case: &Case) -> Option<&'static str> {
    let because = kind.promises().declines.iter().find(|(name, _)| *name == case.name).map(|(_, because)| *because);
    assert!(because.is_none() || case.may_be_declined, "{} declines {}, which every kind must hold", kind.name(), case.name);
    because
}

fn trial(kind: &Arc<dyn Kind>, case: &'static Case, report: &Report) -> Trial {
    let (kind, report) = (kind.clone(), report.clone());
    Trial::test(format!("{}::{}", kind.name(), case.name), move || {
        let result = held(&*kind, case);
        report.note(kind.name(), case.name, if result.is_ok() { Verdict::Held } else { Verdict::Broken });
        result.map_err(Failed::from)
    })
}

/// Runs one case on a runtime of its own; `Err` with what was broken.
fn held(kind: &dyn Kind, case: &Case) -> Result<(), String> {
    if let Some(missing) = kind.missing() {
        return Err(format!("{} did not run: {missing}", kind.name()));
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let run = || runtime.block_on(async { tokio::time::timeout(CASE_MAX, (case.run)(kind)).await });
    let result = std::panic::catch_unwind(AssertUnwindSafe(run));
    runtime.shutdown_background();
    match result {
        Ok(Ok(())) => Ok(()),
        Ok(Err(_)) => Err(format!("not done within {CASE_MAX:?}")),
        Err(panic) => Err(report::words_of(&*panic)),
    }
}
