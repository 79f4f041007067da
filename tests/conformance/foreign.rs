//! Why: runs the programs that are not ours: clients in other languages, readers of the vendors. Never hides what one of them said when it failed.

use std::{path::PathBuf, process::Stdio};

use tokio::{io::AsyncWriteExt, process::Command};

/// The interpreter that has grpcio; its PYTHONPATH has the stubs. tests/run sets both.
const PYTHON: &str = "CONFORMANCE_PYTHON";

/// Whether the stubs of another language can be run.
pub fn has_python() -> bool {
    std::env::var_os(PYTHON).is_some()
}

/// A file of the repository.
pub fn file(path: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// A variable of the environment that `tests/services/with` sets.
pub fn variable(name: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| panic!("{name} is not set: run this inside tests/services/with"))
}

/// The first of these that the environment lacks, in words.
pub fn lacking(names: &[&str]) -> Option<String> {
    let absent: Vec<&str> = names.iter().filter(|name| std::env::var_os(name).is_none()).copied().collect();
    (!absent.is_empty()).then(|| format!("{} not set: run it inside tests/services/with", absent.join(", ")))
}

/// Runs a program to its end; what it wrote to standard output.
pub async fn run(command: &mut Command, input: &str) -> String {
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true).spawn().expect("the program starts");
    let mut stdin = child.stdin.take().expect("it was piped");
    // A program that ends without reading says why on standard error.
    let _ = stdin.write_all(input.as_bytes()).await;
    drop(stdin);
    let output = child.wait_with_output().await.expect("the program ends");
    // The program and its arguments, never its environment: there are secrets in it.
    let (program, words) = (command.as_std().get_program(), command.as_std().get_args().collect::<Vec<_>>());
    assert!(output.status.success(), "{program:?} {words:?} ended with {}: {}", output.status, String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("text")
}

/// Pushes NDJSON lines by generated Python stubs; the next offset of the last ack.
pub async fn push(address: &str, token: &str, sink: &str, stream: &str, lines: &str) -> u64 {
    let python = variable(PYTHON);
    let told = run(Command::new(python).arg(file("tests/conformance/push.py")).args([address, sink, stream]).env("TOKEN", token), lines).await;
    told.trim().parse().expect("a number")
}
