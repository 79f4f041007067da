//! Why: says at the end, in one table, which kind held which case, which case does not apply to it and why, and what did not run. Never decides what failed.

use std::{
    any::Any,
    cell::Cell,
    collections::BTreeMap,
    sync::{Arc, Mutex},
};

use crate::{cases::CASES, declined, kind::Kind};

/// How a case went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    Held,
    Broken,
}

type Verdicts = BTreeMap<(&'static str, &'static str), Verdict>;

/// What is known so far.
#[derive(Clone)]
pub struct Report {
    kinds: Vec<Arc<dyn Kind>>,
    verdicts: Arc<Mutex<Verdicts>>,
}

impl Report {
    pub fn new(kinds: &[Arc<dyn Kind>]) -> Self {
        Self { kinds: kinds.to_vec(), verdicts: Arc::default() }
    }

    pub fn note(&self, kind: &'static str, case: &'static str, verdict: Verdict) {
        self.verdicts.lock().unwrap().insert((kind, case), verdict);
    }

    /// Cases down, kinds across.
    pub fn print(&self) {
        let verdicts = self.verdicts.lock().unwrap();
        if verdicts.is_empty() {
            return;
        }
        println!("ok: held · FAIL: broken · –: does not apply, reasons below · blank: not run");
        let names: Vec<&str> = self.kinds.iter().map(|kind| kind.name()).collect();
        let widest = CASES.iter().map(|case| case.name.len()).max().unwrap_or_default();
        println!("{:widest$}  {}", "", names.join("  "));
        for case in CASES {
            let cells = self.kinds.iter().map(|kind| {
                let word = match verdicts.get(&(kind.name(), case.name)) {
                    _ if declined(&**kind, case).is_some() => "–",
                    Some(Verdict::Held) => "ok",
                    Some(Verdict::Broken) => "FAIL",
                    None => "",
                };
                format!("{word:width$}", width = kind.name().len())
            });
            println!("{:widest$}  {}", case.name, cells.collect::<Vec<_>>().join("  "));
        }
        for kind in &self.kinds {
            for (case, because) in kind.promises().declines {
                println!("– {} {case}: {because}", kind.name());
            }
        }
    }
}

thread_local! {
    static EXPECTED: Cell<bool> = const { Cell::new(false) };
}

/// Says nothing of panics that a trial waits for.
pub fn quiet_about_expected_panics() {
    let usual = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        if !EXPECTED.with(Cell::get) {
            usual(info);
        }
    }));
}

/// Runs something that is to panic.
pub fn expecting<T>(what: impl FnOnce() -> T) -> T {
    EXPECTED.with(|expected| expected.set(true));
    let result = what();
    EXPECTED.with(|expected| expected.set(false));
    result
}

/// What a panic said.
pub fn words_of(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str).or_else(|| panic.downcast_ref::<&str>().copied());
    text.unwrap_or("a panic without words").to_owned()
}
