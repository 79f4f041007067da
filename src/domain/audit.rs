//! Why: who did what, and who was refused, is on disk before the answer is given, in lines that cannot be changed or removed unseen. Never holds record data or a secret.
//!
//! One JSON object a line. Each line ends with a keyed hash over itself and the hash of the line before; the store keeps the last one that a change was stored with,
//! so that lines missing at the end are found, too. A line says `done` *before* its change is stored: there is no change without a line. Where the store then refuses the
//! change, a second line says `undone` and names the first.

use std::{
    fmt,
    fs::{File, OpenOptions},
    io::{BufRead, BufReader, Read, Seek, SeekFrom, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
};

use serde::{Deserialize, Serialize};

use super::{IdentitySource, OpContext, keys};
use crate::{
    clock::Ambient,
    problem::{Problem, Reason},
    secret::Secret,
};

/// The most characters of one field.
const FIELD_CHARS_MAX: usize = 1_000;
/// What stands between a line's own text and its hash.
const MAC_FIELD: &str = ",\"mac\":\"";
/// Before the first line.
const NO_MAC: &str = "";

/// One line to be written.
#[derive(Debug, Clone, Default)]
pub(super) struct Line {
    pub principal: String,
    pub source: &'static str,
    pub identity: String,
    pub peer: String,
    pub rpc: String,
    pub call_id: String,
    pub object_type: &'static str,
    pub object: String,
    /// `allow` or `deny`.
    pub decision: &'static str,
    /// The grant that allowed it, or what was missing.
    pub rule: String,
    /// `done`, `refused`, `undone …`.
    pub outcome: String,
}

impl Line {
    /// What is known of the caller.
    pub(super) fn of(cx: &OpContext) -> Self {
        Self {
            principal: cx.caller.principal.to_string(),
            source: source_word(cx.caller.source),
            identity: cx.caller.identity.clone(),
            peer: cx.peer.clone(),
            rpc: cx.rpc.to_owned(),
            call_id: cx.call_id.clone(),
            ..Self::default()
        }
    }
}

pub(super) const fn source_word(source: IdentitySource) -> &'static str {
    match source {
        IdentitySource::Anonymous => "anonymous",
        IdentitySource::ClientCertificate => "client_certificate",
        IdentitySource::ForwardedCertificate => "forwarded_certificate",
        IdentitySource::Linkerd => "linkerd",
        IdentitySource::Token => "token",
        IdentitySource::Password => "password",
    }
}

#[derive(Serialize)]
struct Written<'a> {
    number: u64,
    time: String,
    principal: &'a str,
    source: &'a str,
    identity: &'a str,
    peer: &'a str,
    rpc: &'a str,
    call_id: &'a str,
    object_type: &'a str,
    object: &'a str,
    decision: &'a str,
    rule: &'a str,
    outcome: &'a str,
}

/// The last line: what the next one is chained to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Head {
    pub number: u64,
    pub mac: String,
}

/// What a verification found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuditVerified {
    /// Lines read.
    pub lines: u64,
    /// What is wrong, a sentence each; empty: sound.
    pub faults: Vec<String>,
}

/// The log.
pub(super) struct Audit {
    path: PathBuf,
    ambient: Ambient,
    state: Arc<Mutex<State>>,
}

struct State {
    file: File,
    head: Head,
    key: Secret,
}

impl fmt::Debug for Audit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Audit").field("path", &self.path).finish_non_exhaustive()
    }
}

fn problem(path: &Path, what: &str, fault: &dyn fmt::Display) -> Problem {
    let message = format!("the audit log {} cannot be {what}: {fault}; nothing is changed until it can", path.display());
    Problem::new(Reason::StoreUnavailable, message).retry_after(std::time::Duration::from_secs(1))
}

impl Audit {
    /// Opens or makes the log, readable by its owner only; a line that was cut off by a crash is removed, because nothing was answered on it.
    pub(super) fn open(path: &Path, key: Secret, ambient: Ambient) -> Result<Self, Problem> {
        let open = || -> std::io::Result<State> {
            let mut file = OpenOptions::new().read(true).append(true).create(true).mode(0o600).open(path)?;
            let head = last_line(&mut file)?;
            Ok(State { file, head, key })
        };
        let state = open().map_err(|fault| problem(path, "opened", &fault))?;
        Ok(Self { path: path.to_owned(), ambient, state: Arc::new(Mutex::new(state)) })
    }

    /// Writes a line and returns when it is on disk.
    pub(super) async fn write(&self, line: Line) -> Result<Head, Problem> {
        let state = self.state.clone();
        let time = self.ambient.now().to_string();
        let written = tokio::task::spawn_blocking(move || state.lock().unwrap_or_else(std::sync::PoisonError::into_inner).append(&line, time)).await;
        match written {
            Ok(Ok(head)) => Ok(head),
            Ok(Err(fault)) => Err(problem(&self.path, "written", &fault)),
            Err(fault) => Err(problem(&self.path, "written", &fault)),
        }
    }

    /// Reads a log and compares it with its chain, and with `kept`, the last line that a change was stored with.
    pub(super) fn verify(path: &Path, key: &Secret, kept: Option<&Head>) -> std::io::Result<AuditVerified> {
        let mut before = Head { number: 0, mac: NO_MAC.to_owned() };
        let mut faults = Vec::new();
        let mut kept_seen = kept.is_none();
        for line in BufReader::new(File::open(path)?).lines() {
            let line = line?;
            let number = before.number + 1;
            match read_line(&line) {
                Some((text, head)) if head.number == number && head.mac == chain(key, &before.mac, text) => before = head,
                Some((_, head)) => {
                    faults.push(format!("line {number} does not follow from the one before: it was changed, or lines were removed or put in"));
                    before = Head { number, mac: head.mac };
                }
                None => {
                    faults.push(format!("line {number} is not a line of an audit log"));
                    before.number = number;
                }
            }
            kept_seen |= kept.is_some_and(|kept| *kept == before);
        }
        if !kept_seen {
            faults.push("the last line that a change was stored with is missing: lines were removed at the end, or this is another log".to_owned());
        }
        Ok(AuditVerified { lines: before.number, faults })
    }

    /// Where it is.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

impl State {
    fn append(&mut self, line: &Line, time: String) -> std::io::Result<Head> {
        let number = self.head.number + 1;
        let text = line.text(number, time)?;
        let mac = chain(&self.key, &self.head.mac, &text);
        let length = self.file.seek(SeekFrom::End(0))?;
        let written = self.file.write_all(format!("{text}{MAC_FIELD}{mac}\"}}\n").as_bytes()).and_then(|()| self.file.sync_data());
        if let Err(fault) = written {
            // What is there of the line must not stand before the next one.
            self.file.set_len(length)?;
            return Err(fault);
        }
        self.head = Head { number, mac };
        Ok(self.head.clone())
    }
}

impl Line {
    /// The line's JSON without its last brace.
    fn text(&self, number: u64, time: String) -> std::io::Result<String> {
        let fields = [&self.principal, &self.identity, &self.peer, &self.rpc, &self.call_id, &self.object, &self.rule, &self.outcome].map(|field| shown(field));
        let [principal, identity, peer, rpc, call_id, object, rule, outcome] = &fields;
        let written = Written {
            number,
            time,
            principal,
            source: self.source,
            identity,
            peer,
            rpc,
            call_id,
            object_type: self.object_type,
            object,
            decision: self.decision,
            rule,
            outcome,
        };
        let mut text = serde_json::to_string(&written)?;
        text.pop();
        Ok(text)
    }
}

/// Printable ASCII only, at most [`FIELD_CHARS_MAX`] characters: whatever a terminal or a log reader could take for a command is written as its code.
fn shown(field: &str) -> String {
    let mut shown = String::new();
    for c in field.chars() {
        let piece: String = if (' '..='~').contains(&c) { c.to_string() } else { c.escape_unicode().to_string() };
        if shown.len() + piece.len() > FIELD_CHARS_MAX {
            shown.push_str("...");
            break;
        }
        shown.push_str(&piece);
    }
    shown
}

fn chain(key: &Secret, before: &str, text: &str) -> String {
    keys::mac(key, &[before.as_bytes(), text.as_bytes()]).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A line's own text, its number and its hash.
fn read_line(line: &str) -> Option<(&str, Head)> {
    #[derive(Deserialize)]
    struct Numbered {
        number: u64,
    }
    let at = line.rfind(MAC_FIELD)?;
    let mac = line[at + MAC_FIELD.len()..].strip_suffix("\"}")?;
    let numbered: Numbered = serde_json::from_str(line).ok()?;
    Some((&line[..at], Head { number: numbered.number, mac: mac.to_owned() }))
}

/// The head of an existing log, after removing what a crash left of a line.
fn last_line(file: &mut File) -> std::io::Result<Head> {
    // The longest line: nine fields of 1,000 characters, escaped quotes twice as long, and the rest.
    const TAIL: u64 = 64 << 10;
    let length = file.seek(SeekFrom::End(0))?;
    file.seek(SeekFrom::Start(length.saturating_sub(TAIL)))?;
    let mut tail = Vec::new();
    file.read_to_end(&mut tail)?;
    let whole = tail.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
    if whole < tail.len() {
        file.set_len(length - (tail.len() - whole) as u64)?;
    }
    let lines = String::from_utf8_lossy(&tail[..whole]).into_owned();
    match lines.lines().next_back() {
        None => Ok(Head { number: 0, mac: NO_MAC.to_owned() }),
        Some(line) => read_line(line).map(|(_, head)| head).ok_or_else(|| std::io::Error::other("its last line is not a line of an audit log")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key() -> Secret {
        Secret::new(vec![5; 32])
    }

    fn line(object: &str) -> Line {
        Line { principal: "alice".to_owned(), object: object.to_owned(), decision: "allow", outcome: "done".to_owned(), ..Line::default() }
    }

    async fn three(path: &Path) -> Head {
        let audit = Audit::open(path, key(), Ambient::system()).expect("opens");
        audit.write(line("a.one")).await.expect("written");
        audit.write(line("a.two\n\u{1b}[2J\"}\u{202e}")).await.expect("written");
        drop(audit);
        let audit = Audit::open(path, key(), Ambient::system()).expect("opens again");
        audit.write(line(&"x".repeat(5_000))).await.expect("written")
    }

    #[tokio::test]
    async fn a_log_is_sound_escaped_and_bounded() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("audit.log");
        let head = three(&path).await;
        let found = Audit::verify(&path, &key(), Some(&head)).expect("readable");
        assert_eq!(found, AuditVerified { lines: 3, faults: Vec::new() });
        let text = std::fs::read_to_string(&path).expect("readable");
        assert!(text.bytes().all(|byte| byte == b'\n' || (b' '..=b'~').contains(&byte)), "printable");
        for line in text.lines() {
            let value: serde_json::Value = serde_json::from_str(line).expect("JSON");
            assert!(value["object"].as_str().expect("a text").len() <= FIELD_CHARS_MAX + 3);
        }
    }

    #[tokio::test]
    async fn every_change_to_a_log_is_found() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("audit.log");
        let head = three(&path).await;
        let good = std::fs::read_to_string(&path).expect("readable");
        let lines: Vec<&str> = good.lines().collect();
        let changed = [
            good.replace("a.one", "a.two"),
            lines[1..].join("\n"),
            lines[..2].join("\n"),
            [lines[0], lines[2], lines[1]].join("\n"),
            [lines[0], lines[2]].join("\n"),
            format!("{good}{{\"number\":4}}"),
        ];
        for text in changed {
            std::fs::write(&path, text.trim_end().to_owned() + "\n").expect("written");
            assert!(!Audit::verify(&path, &key(), Some(&head)).expect("readable").faults.is_empty(), "unseen: {text}");
        }
    }

    #[tokio::test]
    async fn a_line_cut_off_by_a_crash_is_removed() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("audit.log");
        three(&path).await;
        let good = std::fs::read(&path).expect("readable");
        std::fs::write(&path, [good.as_slice(), b"{\"number\":4,\"ti"].concat()).expect("written");
        let audit = Audit::open(&path, key(), Ambient::system()).expect("opens");
        let head = audit.write(line("a.four")).await.expect("written");
        assert_eq!(head.number, 4);
        assert_eq!(Audit::verify(&path, &key(), Some(&head)).expect("readable").faults, Vec::<String>::new());
    }
}
