//! Why: the commands that talk to a running server, as any other client would. Never touches a server room.

mod client;
mod demo;
mod health;
mod push;
mod source;

use std::process::ExitCode;

pub use client::CliError;

/// Commands of a client.
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Send NDJSON files (or `-` for standard input) through a data sink; goes on where it stopped after any interruption.
    Push(push::Args),
    /// Start a service, push a generated stream into a local table, show rows and rate, and stay up for grpcurl.
    Demo(demo::Args),
    /// Ask a server whether it takes work (grpc.health.v1); exit code 0 only if it does.
    Health(health::Args),
}

impl Command {
    /// Runs the command; what fails is told on standard error in one sentence. Exit codes: 0 done, 1 not serving, 64 usage, 69 no server, 65 refused by the server.
    pub async fn run(self) -> ExitCode {
        let done = match self {
            Self::Push(args) => push::run(args).await,
            Self::Demo(args) => demo::run(args).await,
            Self::Health(args) => health::run(args).await,
        };
        match done {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("datasink: {error}");
                error.exit_code()
            }
        }
    }
}
