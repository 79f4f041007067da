//! Why: the walls between rooms hold because a test reads the source and fails on an arrow that ARCHITECTURE.md does not allow. Never looks at behaviour.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

/// What every room may stand on.
const FLOOR: &[&str] = &["name", "record", "secret", "limits", "clock", "problem"];

/// The table of ARCHITECTURE.md: a room, and what it may import beside itself and the floor. `a::b` allows that part of a room only.
const ARROWS: &[(&str, &[&str])] = &[
    ("api", API_MAY_IMPORT),
    ("cli", &["api::pb"]),
    // Settings are parsed once into the types that will use them.
    ("config", &["api::authn::TrustedProxy", "api::listener::ListenAddress", "api::tls::TlsFiles", "telemetry::LogFormat"]),
    ("connectors", &[]),
    ("delivery", &["connectors", "shutdown"]),
    ("domain", &["delivery", "connectors", "query", "store", "vault"]),
    ("query", &["store::rows"]),
    ("shutdown", &[]),
    ("sql", &[]),
    ("store", &[]),
    ("telemetry", &[]),
    ("vault", &[]),
];

/// The edge translates words and so must know them: the plain values that the domain answers with, one by one, and no trait or writer among them.
const API_MAY_IMPORT: &[&str] = &[
    "domain",
    "delivery",
    "sql",
    "shutdown",
    "telemetry",
    "connectors::connector::Artifact",
    "connectors::connector::CommitMode",
    "connectors::connector::Descriptor",
    "connectors::connector::Finish",
    "connectors::connector::Guarantee",
    "connectors::connector::Probe",
    "connectors::connector::ProbeStep",
    "connectors::connector::SinkKind",
    "connectors::connector::StepResult",
    "connectors::connector::StreamId",
    "connectors::credential::CredentialType",
    "connectors::error::ConnectorErrorKind",
    "connectors::options::OptionSpec",
    "connectors::options::OptionType",
];

/// The composition root, the command line and the entry point import every room.
const UNBOUND: &[&str] = &["app", "command", "lib", "main"];

/// Arrows that only one folder of a room may have: (files that begin with, what they may import).
const FOLDER_ARROWS: &[(&str, &str)] =
    &[("src/connectors/local/", "store::rows"), ("src/connectors/local/", "store::row"), ("src/connectors/local/", "store::StoreError")];

/// Third-party crates that one room owns: (crate, path prefixes under `src/`). A crate that is not named here may be used anywhere.
const OWNED_CRATES: &[(&str, &[&str])] = &[
    ("tonic", &["api/", "cli/", "app.rs"]),
    ("tonic_health", &["api/", "cli/", "app.rs"]),
    ("tonic_prost", &["api/"]),
    ("tonic_reflection", &["api/"]),
    ("tonic_types", &["api/", "cli/"]),
    ("prost", &["api/", "cli/"]),
    ("prost_types", &["api/", "cli/"]),
    ("sled", &["store/sled.rs", "store/sled/"]),
    ("rdkafka", &["connectors/kafka/"]),
    ("object_store", &["connectors/object/", "connectors/azure/", "connectors/gcs/", "connectors/s3/"]),
    ("quick_xml", &["connectors/s3/"]),
    ("hdfs_native", &["connectors/hdfs/"]),
    ("reqwest", &["connectors/egress.rs", "connectors/egress/"]),
    ("hyper", &["connectors/egress/"]),
    ("hyper_util", &["connectors/egress/"]),
    ("jni", &["connectors/jdbc/"]),
    ("opentelemetry", &["telemetry.rs"]),
    ("opentelemetry_otlp", &["telemetry.rs"]),
    ("opentelemetry_sdk", &["telemetry.rs"]),
    ("tracing_opentelemetry", &["telemetry.rs"]),
    ("tracing_subscriber", &["telemetry.rs"]),
    ("datafusion", &["query/"]),
    ("figment", &["config.rs"]),
];

/// The files that may look inside a `Secret`, each because it is where the secret is used, sealed or compared.
const MAY_EXPOSE: &[&str] = &[
    // Writes the first admin's token to its file.
    "src/app.rs",
    "src/api/authn.rs",
    "src/api/to_pb.rs",
    "src/app.rs",
    "src/connectors/gcs/credential.rs",
    "src/connectors/object/token.rs",
    // Hands them to the client library.
    "src/connectors/kafka/security.rs",
    "src/connectors/kafka/token.rs",
    "src/connectors/options.rs",
    "src/connectors/webhook/mod.rs",
    "src/connectors/webhook/receiver.rs",
    "src/connectors/webhook/signature.rs",
    "src/connectors/webhook/writer.rs",
    "src/domain/credential.rs",
    "src/domain/data_sink.rs",
    "src/domain/idempotency.rs",
    "src/domain/keys.rs",
    "src/domain/password.rs",
    "src/domain/principal.rs",
    "src/domain/token.rs",
    "src/secret.rs",
    "src/vault.rs",
];

/// Folders of `src/connectors/` that are shared by kinds instead of being one.
const SHARED_BY_KINDS: &[&str] = &["egress", "object"];

const FUNCTION_LINES_MAX: usize = 100;
const FILE_LINES_MAX: usize = 1_000;

/// Functions that may be longer, with the reason: (file, function, reason).
const LONG_FUNCTIONS: &[(&str, &str, &str)] =
    &[("src/connectors/webhook/tests.rs", "no_spelling_of_an_inside_address_gets_through", "one table of spellings, a line each")];

const UNFINISHED: &[&str] = &["todo!", "unimplemented!", "dbg!", "#[ignore"];

#[test]
fn rooms_import_only_what_the_table_allows() {
    let faults: Vec<String> = sources("src").iter().flat_map(|source| arrow_faults(&source.path, &source.code)).collect();
    assert_none(&faults, "an import points the wrong way; see \"Which way imports may point\" in ARCHITECTURE.md");
}

#[test]
fn every_room_is_in_the_table() {
    let faults: Vec<String> = sources("src")
        .iter()
        .map(|source| room_of(&source.path))
        .filter(|room| !known(room))
        .map(|room| format!("src/{room} has no row in ARROWS"))
        .collect::<BTreeSet<_>>()
        .into_iter()
        .collect();
    assert_none(&faults, "a new room says first what it may import");
}

#[test]
fn third_party_crates_stay_in_their_rooms() {
    let faults: Vec<String> = sources("src").iter().flat_map(|source| crate_faults(&source.path, &source.code)).collect();
    assert_none(&faults, "a crate is used outside the room that owns it");
}

#[test]
fn one_kind_is_known_to_one_existing_file() {
    let kinds = kinds();
    let faults: Vec<String> = sources("src").iter().flat_map(|source| kind_faults(&source.path, &source.code, &kinds)).collect();
    assert_none(&faults, "adding a kind must touch src/connectors/mod.rs and no other existing file");
}

#[test]
fn every_file_says_why_it_exists() {
    let faults: Vec<String> = sources("src").iter().filter(|source| !opens_with_a_sentence(&source.text)).map(|source| source.path.clone()).collect();
    assert_none(&faults, "a file opens with //! and one sentence: why this exists and what it must never do");
}

#[test]
fn secrets_are_looked_into_only_where_they_are_used() {
    let faults: Vec<String> =
        sources("src").iter().filter(|source| exposes(&source.code) && !MAY_EXPOSE.contains(&source.path.as_str())).map(|source| source.path.clone()).collect();
    assert_none(&faults, "expose() is called outside the allow-list MAY_EXPOSE");
}

#[test]
fn nothing_is_left_unfinished() {
    let faults: Vec<String> = everything().iter().flat_map(|source| unfinished(&source.path, &source.code_with_tests)).collect();
    assert_none(&faults, "unfinished or switched-off code");
}

#[test]
fn functions_and_files_fit_a_reader() {
    let faults: Vec<String> = everything().iter().flat_map(size_faults).collect();
    assert_none(&faults, "too long to read at once: cut it, or say why not in LONG_FUNCTIONS");
}

// ---- the checkers, each seen to fail ----

#[test]
fn the_arrow_rule_fails_on_a_wrong_arrow() {
    let fails = |path: &str, code: &str| !arrow_faults(path, &strip(code, true)).is_empty();
    assert!(fails("src/store/sled.rs", "use crate::domain::Domain;"));
    assert!(fails("src/store/sled.rs", "use crate::{name::Name, api::pb};"));
    assert!(fails("src/name.rs", "fn f() { crate::store::open(); }"));
    assert!(fails("src/delivery/session.rs", "use super::super::vault::Vault;"));
    assert!(fails("src/connectors/webhook/writer.rs", "use crate::store::rows::Rows;"));
    assert!(fails("src/cli/push.rs", "use crate::api::status;"));
    assert!(fails("src/api/push.rs", "use crate::{\n  connectors::{connector::Kind},\n};"));
    assert!(fails("src/api/push.rs", "use crate::connectors::connector::SinkWriter;"));
    assert!(fails("src/sql/parse.rs", "use crate as all;"));
}

#[test]
fn the_arrow_rule_passes_right_arrows_and_blank_text() {
    let passes = |path: &str, code: &str| arrow_faults(path, &strip(code, true)).is_empty();
    assert!(passes("src/connectors/local/writer.rs", "use crate::store::rows::Rows;"));
    assert!(passes("src/cli/push.rs", "use crate::{api::pb::{Column, push_request}, record::Batch};"));
    assert!(passes("src/app.rs", "use crate::{api, domain::Domain, store};"));
    assert!(passes("src/delivery/batch.rs", "use super::session::Session; use crate::connectors::connector::Kind;"));
    assert!(passes("src/store/sled.rs", "// crate::domain\nfn f() { g(\"crate::domain\"); }\n#[cfg(test)]\nmod tests { use crate::domain::Domain; }"));
}

#[test]
fn the_crate_rule_fails_outside_the_room() {
    assert_eq!(crate_faults("src/domain/mod.rs", "use tonic::Status;").len(), 1);
    assert_eq!(crate_faults("src/store/memory.rs", "fn f(t: sled::Tree) {}").len(), 1);
    assert_eq!(crate_faults("src/store/mod.rs", "mod sled; pub use self::sled::Engine;").len(), 0);
    assert_eq!(crate_faults("src/api/status.rs", "use tonic::Status;").len(), 0);
}

#[test]
fn the_kind_rule_fails_on_a_second_file() {
    let kinds = vec!["kafka".to_owned(), "s3".to_owned()];
    assert_eq!(kind_faults("src/domain/data_sink.rs", "use crate::connectors::kafka::Writer;", &kinds).len(), 1);
    assert_eq!(kind_faults("src/connectors/s3/mod.rs", "use super::kafka::Writer;", &kinds).len(), 1);
    assert_eq!(kind_faults("src/api/to_pb.rs", "match kind { SinkKind::Kafka => 5 }", &kinds).len(), 1);
    assert_eq!(kind_faults("src/api/to_pb.rs", "SinkKind::ALL", &kinds).len(), 0);
    assert_eq!(kind_faults("src/connectors/mod.rs", "mod kafka; fn f() { self::kafka::new(); }", &kinds).len(), 0);
    assert_eq!(kind_faults("src/connectors/kafka/writer.rs", "use super::options::KafkaOptions;", &kinds).len(), 0);
}

#[test]
fn the_other_rules_fail_too() {
    assert!(!opens_with_a_sentence("//! stub\nfn main() {}"));
    assert!(!opens_with_a_sentence("use std::fs;\n//! Why: nothing at all, and never anything."));
    assert!(opens_with_a_sentence("//! Why: it keeps a secret. Never prints one.\n"));
    assert!(exposes("let k = secret.expose();") && exposes("secret\n    .expose_text()"));
    assert_eq!(unfinished("x.rs", &strip("fn f() { todo!() }\n#[ignore]\nfn g() {}", false)).len(), 2);
    assert!(unfinished("x.rs", &strip("// todo!()\nconst A: &str = \"todo!\";", false)).is_empty());
    let long = format!("fn long() {{\n{}}}\nfn short() {{}}\n", "    f();\n".repeat(FUNCTION_LINES_MAX));
    assert_eq!(functions(&long).into_iter().filter(|(_, lines)| *lines > FUNCTION_LINES_MAX).count(), 1);
}

// ---- rules ----

fn known(room: &str) -> bool {
    FLOOR.contains(&room) || UNBOUND.contains(&room) || ARROWS.iter().any(|(name, _)| *name == room)
}

fn arrow_faults(path: &str, code: &str) -> Vec<String> {
    let room = room_of(path);
    if UNBOUND.contains(&room.as_str()) {
        return Vec::new();
    }
    let mut faults = Vec::new();
    if code.contains("use crate as ") || code.contains("use crate;") {
        faults.push(format!("{path}: the crate under another name hides arrows"));
    }
    for import in imports(path, code) {
        let Some(target) = import.first().filter(|target| known(target) && **target != room) else { continue };
        if !allowed(path, &room, &import) {
            faults.push(format!("{path}: {room} may not import {target} ({})", import.join("::")));
        }
    }
    faults
}

fn allowed(path: &str, room: &str, import: &[String]) -> bool {
    if FLOOR.contains(&import[0].as_str()) {
        // `sql` is pure text to statement; it shares only names with the rest.
        return room != "sql" || matches!(import[0].as_str(), "name" | "limits" | "problem");
    }
    let covers = |rule: &str| rule.split("::").enumerate().all(|(at, part)| import.get(at).is_some_and(|found| found == part));
    let by_room = ARROWS.iter().filter(|(name, _)| *name == room).flat_map(|(_, may)| may.iter()).any(|rule| covers(rule));
    by_room || FOLDER_ARROWS.iter().any(|(prefix, rule)| path.starts_with(prefix) && covers(rule))
}

fn crate_faults(path: &str, code: &str) -> Vec<String> {
    let inside = path.trim_start_matches("src/");
    OWNED_CRATES
        .iter()
        .filter(|(name, places)| !places.iter().any(|place| inside.starts_with(place)) && uses_crate(code, name))
        .map(|(name, places)| format!("{path}: uses {name}, which belongs to {}", places.join(", ")))
        .collect()
}

/// Whether `name::` is written as the start of a path; a module of that name inside a `use crate::{…}` is ours.
fn uses_crate(code: &str, name: &str) -> bool {
    let code = &without_own_imports(code);
    let own_module = code.contains(&format!("mod {name};")) || code.contains(&format!("mod {name} {{"));
    let path = format!("{name}::");
    !own_module
        && code.match_indices(&path).any(|(at, _)| {
            let before = code[..at].chars().next_back().unwrap_or(' ');
            !(before.is_alphanumeric() || before == '_' || before == ':') || code[..at].ends_with(" ::")
        })
}

/// The code without its `use crate::…;` items.
fn without_own_imports(code: &str) -> String {
    let mut parts = code.split("use crate::");
    let first = parts.next().unwrap_or_default().to_owned();
    parts.fold(first, |kept, part| kept + part.split_once(';').map_or("", |(_, rest)| rest))
}

fn kind_faults(path: &str, code: &str, kinds: &[String]) -> Vec<String> {
    if path == "src/connectors/mod.rs" || path == "src/app.rs" {
        return Vec::new();
    }
    let own = path.strip_prefix("src/connectors/").and_then(|rest| rest.split('/').next());
    let imported = imports(path, code).into_iter().filter(|import| import[0] == "connectors").filter_map(|import| import.get(1).cloned());
    let named = code.split("SinkKind::").skip(1).map(|rest| rest.split(|c: char| !c.is_ascii_alphanumeric()).next().unwrap_or_default().to_lowercase());
    // What object stores share may tell them apart, and a table that takes dead letters is a sink without a row.
    let excused = |kind: &str| path.starts_with("src/connectors/object/") || path == "src/domain/push.rs" && kind == "local";
    let foreign = |kind: &String| kinds.contains(kind) && own != Some(kind.as_str());
    imported.filter(foreign).chain(named.filter(|kind| foreign(kind) && !excused(kind))).map(|kind| format!("{path}: names the kind {kind}")).collect()
}

fn opens_with_a_sentence(text: &str) -> bool {
    let first = text.lines().next().unwrap_or_default();
    first.starts_with("//! ") && first.len() > 24 && text.lines().take_while(|line| line.starts_with("//!")).any(|line| line.trim_end().contains('.'))
}

fn exposes(code: &str) -> bool {
    code.contains(".expose(") || code.contains(".expose_text(")
}

fn unfinished(path: &str, code: &str) -> Vec<String> {
    UNFINISHED.iter().flat_map(|mark| code.matches(mark).map(move |_| format!("{path}: {mark}"))).collect()
}

fn size_faults(source: &Source) -> Vec<String> {
    let lines = source.text.lines().count();
    let mut faults = Vec::new();
    if lines > FILE_LINES_MAX {
        faults.push(format!("{}: {lines} lines (at most {FILE_LINES_MAX})", source.path));
    }
    for (name, lines) in functions(&source.code_with_tests) {
        let excused = LONG_FUNCTIONS.iter().any(|(file, function, _)| *file == source.path && *function == name);
        if lines > FUNCTION_LINES_MAX && !excused {
            faults.push(format!("{}: fn {name} has {lines} lines (at most {FUNCTION_LINES_MAX})", source.path));
        }
    }
    faults
}

// ---- reading ----

struct Source {
    path: String,
    text: String,
    /// Without comments, literals and what `#[cfg(test)]` hides; nothing of a file `tests.rs`.
    code: String,
    /// Without comments and literals.
    code_with_tests: String,
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn everything() -> Vec<Source> {
    ["src", "tests", "benches"].iter().flat_map(|folder| sources(folder)).collect()
}

fn sources(folder: &str) -> Vec<Source> {
    let mut paths = Vec::new();
    walk(&root().join(folder), &mut paths);
    paths.sort();
    paths
        .into_iter()
        .map(|file| {
            let text = fs::read_to_string(&file).expect("a source file is readable UTF-8");
            let path = file.strip_prefix(root()).expect("found below the root").to_string_lossy().replace('\\', "/");
            Source { code: if path.ends_with("/tests.rs") { String::new() } else { strip(&text, true) }, code_with_tests: strip(&text, false), path, text }
        })
        .collect()
}

fn walk(folder: &Path, into: &mut Vec<PathBuf>) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    for entry in entries {
        let path = entry.expect("a folder entry is readable").path();
        if path.is_dir() {
            walk(&path, into);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            into.push(path);
        }
    }
}

fn kinds() -> Vec<String> {
    let entries = fs::read_dir(root().join("src/connectors")).expect("src/connectors exists");
    let folders = entries.map(|entry| entry.expect("a folder entry is readable").path()).filter(|path| path.join("mod.rs").is_file());
    folders
        .filter_map(|path| path.file_name().map(|name| name.to_string_lossy().into_owned()))
        .filter(|name| !SHARED_BY_KINDS.contains(&name.as_str()))
        .collect()
}

/// The first part of a path under `src/`, without `.rs`.
fn room_of(path: &str) -> String {
    module_of(path).first().cloned().unwrap_or_else(|| "lib".to_owned())
}

/// `src/a/b.rs` and `src/a/b/mod.rs` are both the module `a::b`.
fn module_of(path: &str) -> Vec<String> {
    let inside = path.trim_start_matches("src/").trim_end_matches(".rs");
    inside.split('/').filter(|part| *part != "mod").map(str::to_owned).collect()
}

/// Every path that starts at `crate`, `super` or `self`, resolved from the crate's root; groups are spread out.
fn imports(path: &str, code: &str) -> Vec<Vec<String>> {
    let module = module_of(path);
    let mut found = Vec::new();
    for start in ["crate::", "super::", "self::"] {
        for (at, _) in code.match_indices(start) {
            let before = code[..at].chars().next_back().unwrap_or(' ');
            if before.is_alphanumeric() || before == '_' || before == ':' {
                continue;
            }
            let mut base = if start == "crate::" { Vec::new() } else { module.clone() };
            let mut rest = &code[at..];
            while let Some(after) = rest.strip_prefix("super::") {
                base.pop();
                rest = after;
            }
            let rest = rest.trim_start_matches("crate::").trim_start_matches("self::");
            spread(&base, rest, &mut found);
        }
    }
    found.retain(|import| !import.is_empty());
    found
}

/// Follows one path and the groups in it: `a::{b, c::d}` becomes `a::b` and `a::c::d`. Returns what was not read.
fn spread<'a>(base: &[String], mut rest: &'a str, found: &mut Vec<Vec<String>>) -> &'a str {
    let mut here = base.to_vec();
    loop {
        rest = rest.trim_start();
        if let Some(mut inner) = rest.strip_prefix('{') {
            loop {
                inner = spread(&here, inner, found).trim_start();
                match inner.strip_prefix(',') {
                    Some(next) if !next.trim_start().starts_with('}') => inner = next,
                    Some(next) => inner = next.trim_start(),
                    None => break,
                }
                if inner.starts_with('}') {
                    break;
                }
            }
            return inner.strip_prefix('}').unwrap_or(inner);
        }
        let length = rest.find(|c: char| !(c.is_alphanumeric() || c == '_')).unwrap_or(rest.len());
        if length > 0 {
            here.push(rest[..length].to_owned());
            rest = &rest[length..];
        }
        match rest.strip_prefix("::") {
            Some(next) => rest = next,
            None => {
                found.push(here);
                let renamed = rest.trim_start().strip_prefix("as ").map(str::trim_start);
                return renamed.map_or(rest, |name| name.trim_start_matches(|c: char| c.is_alphanumeric() || c == '_'));
            }
        }
    }
}

/// The functions of stripped code with how many lines each has, signature to closing brace.
fn functions(code: &str) -> Vec<(String, usize)> {
    let mut found = Vec::new();
    for (at, _) in code.match_indices("fn ") {
        if code[..at].chars().next_back().is_some_and(|c| c.is_alphanumeric() || c == '_') {
            continue;
        }
        let name: String = code[at + 3..].chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
        let Some(open) = code[at..].find(['{', ';']).filter(|open| !name.is_empty() && code.as_bytes()[at + *open] == b'{') else { continue };
        let end = closing(code, at + open);
        found.push((name, code[at..end].matches('\n').count() + 1));
    }
    found
}

/// Where the brace opened at `open` is closed.
fn closing(code: &str, open: usize) -> usize {
    let mut depth = 0_usize;
    for (at, c) in code[open..].char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth == 1 => return open + at + 1,
            '}' => depth -= 1,
            _ => {}
        }
    }
    code.len()
}

/// Blanks comments and literals, keeping every line where it is; with `hide_tests` also the items under `#[cfg(test)]`.
fn strip(text: &str, hide_tests: bool) -> String {
    let chars: Vec<char> = text.chars().collect();
    let mut out = String::with_capacity(text.len());
    let mut at = 0;
    while at < chars.len() {
        let end = blank_until(&chars, at);
        if end == at {
            out.push(chars[at]);
            at += 1;
        } else {
            out.extend(chars[at..end].iter().map(|c| if *c == '\n' { '\n' } else { ' ' }));
            at = end;
        }
    }
    if hide_tests { without_tests(&out) } else { out }
}

/// The end of the comment or literal that begins at `at`, or `at` where none does.
fn blank_until(chars: &[char], at: usize) -> usize {
    let next = |offset: usize| chars.get(at + offset).copied().unwrap_or('\0');
    let find = |from: usize, wanted: &str| {
        let wanted: Vec<char> = wanted.chars().collect();
        (from..chars.len()).find(|i| chars[*i..].starts_with(&wanted)).map_or(chars.len(), |i| i + wanted.len())
    };
    let in_word = at > 0 && (chars[at - 1].is_alphanumeric() || chars[at - 1] == '_');
    match (chars[at], next(1)) {
        ('/', '/') => find(at, "\n") - 1,
        ('/', '*') => find(at + 2, "*/"),
        ('"', _) => escaped_end(chars, at + 1, '"'),
        ('r', '"' | '#') if !in_word || chars[at - 1] == 'b' => {
            let hashes = (1..).take_while(|offset| next(*offset) == '#').count();
            if next(1 + hashes) == '"' { find(at + hashes + 2, &format!("\"{}", "#".repeat(hashes))) } else { at }
        }
        ('\'', '\\') => escaped_end(chars, at + 1, '\''),
        ('\'', _) if next(2) == '\'' => at + 3,
        _ => at,
    }
}

fn escaped_end(chars: &[char], mut at: usize, quote: char) -> usize {
    while at < chars.len() && chars[at] != quote {
        at += if chars[at] == '\\' { 2 } else { 1 };
    }
    (at + 1).min(chars.len())
}

fn without_tests(code: &str) -> String {
    const MARK: &str = "#[cfg(test)]";
    let mut out = code.to_owned();
    let mut from = 0;
    while let Some(found) = out[from..].find(MARK) {
        let start = from + found;
        let Some(stop) = out[start..].find(['{', ';']) else { break };
        let end = if out.as_bytes()[start + stop] == b'{' { closing(&out, start + stop) } else { start + stop + 1 };
        let blank: String = out[start..end].chars().map(|c| if c == '\n' { '\n' } else { ' ' }).collect();
        out.replace_range(start..end, &blank);
        from = start + blank.len();
    }
    out
}

fn assert_none(faults: &[String], why: &str) {
    assert!(faults.is_empty(), "{why}:\n  {}", faults.join("\n  "));
}
