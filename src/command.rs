//! Why: the commands of the process that serves or owns a data folder: their arguments, output and exit codes. Never does the work itself.

use std::{path::PathBuf, process::ExitCode};

use clap::{Parser, Subcommand};

use crate::{
    app::{App, AppError, Parts, Running},
    cli,
    config::{self, Flags, Settings},
    shutdown::Signals,
    telemetry,
};

/// Data sinks, their credentials and permissions, and a streaming Push whose acknowledgements are true.
#[derive(Debug, Parser)]
#[command(
    version,
    after_help = "Exit codes: 0 clean; 1 a server that takes no work (health); 64 usage or settings; 65 store corrupt, or a verification found faults; 69 cannot listen, or no server; 70 a bug; 74 store, key ring or audit log unavailable."
)]
pub struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the service. One line of JSON on standard output says when it is ready and where; logs go to standard error.
    Serve(Flags),
    /// List every setting with its value, where that comes from, and what it means.
    Settings(Flags),
    /// Check, save or restore the store of a data folder whose service is not running.
    #[command(subcommand)]
    Store(StoreCommand),
    /// Check the audit log of a data folder whose service is not running.
    #[command(subcommand)]
    Audit(AuditCommand),
    #[command(flatten)]
    Client(cli::Command),
}

#[derive(Debug, Subcommand)]
enum StoreCommand {
    /// Read everything and compare it with its checksums; prints what was found as JSON.
    Verify(DataDir),
    /// Write everything, of one point in time, to a new file.
    Export(DataDirAndFile),
    /// Read an export into a data folder without a store.
    Import(DataDirAndFile),
    /// Seal every secret under the first key of the key ring; all other keys can be taken out of the ring afterwards.
    Rekey(DataDir),
}

#[derive(Debug, Subcommand)]
enum AuditCommand {
    /// Follow the log's chain from its first line and compare its end with the store.
    Verify(DataDir),
}

#[derive(Debug, clap::Args)]
struct DataDir {
    /// The data folder.
    #[arg(long, env = "DATASINK_DATA_DIR", default_value = "datasink-data")]
    data_dir: PathBuf,
}

#[derive(Debug, clap::Args)]
struct DataDirAndFile {
    #[command(flatten)]
    folder: DataDir,
    /// The export's file.
    file: PathBuf,
}

impl Arguments {
    /// Reads the command line; what is wrong with it is told, with exit code 64.
    pub fn read() -> Result<Self, ExitCode> {
        Self::try_parse().map_err(|told| {
            // Nobody reads any more: then there is nobody to tell.
            let _ = told.print();
            if told.use_stderr() { ExitCode::from(64) } else { ExitCode::SUCCESS }
        })
    }

    /// Runs the command; a failure is told on standard error in one sentence.
    pub async fn run(self) -> ExitCode {
        let done = match self.command {
            Command::Serve(flags) => serve(&flags).await,
            Command::Settings(flags) => config::listing(&flags).map(|listing| print!("{listing}")).map_err(AppError::Settings),
            Command::Store(command) => store(command).await,
            Command::Audit(AuditCommand::Verify(folder)) => audit(folder).await,
            Command::Client(command) => return command.run().await,
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

async fn serve(flags: &Flags) -> Result<(), AppError> {
    let settings = Settings::load(flags).map_err(AppError::Settings)?;
    let _telemetry = telemetry::start(&settings.log, settings.log_format, &settings.otlp_endpoint).map_err(AppError::Settings)?;
    telemetry::metrics();
    let mut signals = Signals::listen().map_err(|fault| AppError::Internal(fault.to_string()))?;
    let mut running = App::start(settings, Parts::default()).await?;
    announce(&running);
    tokio::select! {
        ended = running.ended() => return ended,
        signal = signals.next() => tracing::info!(signal, "stopping"),
    }
    tokio::select! {
        stopped = running.stop() => stopped,
        signal = signals.next() => {
            tracing::warn!(signal, "stopping at once; clients resume from their last ack");
            Ok(())
        }
    }
}

/// The one line on standard output.
fn announce(running: &Running) {
    let mut line = serde_json::json!({ "listening": running.address });
    if let Some(path) = &running.admin_token_file {
        line["admin_token_file"] = path.display().to_string().into();
    }
    if let Some(address) = running.metrics_address {
        line["metrics"] = address.to_string().into();
    }
    println!("{line}");
    tracing::info!(address = running.address, "listening");
}

async fn store(command: StoreCommand) -> Result<(), AppError> {
    let cache = Settings::default_cache_bytes();
    match command {
        StoreCommand::Verify(DataDir { data_dir }) => {
            let verified = App::store(&existing(data_dir)?, cache).await?.verify().await?;
            println!("{}", serde_json::to_string(&verified).map_err(|fault| AppError::Internal(fault.to_string()))?);
            match verified.faults.as_slice() {
                [] => Ok(()),
                faults => {
                    Err(AppError::Corrupt(format!("the store has {} faults, listed above; restore an export with `datasink store import`", faults.len())))
                }
            }
        }
        StoreCommand::Export(DataDirAndFile { folder, file }) => {
            let rows = App::store(&existing(folder.data_dir)?, cache).await?.export(&file).await?;
            println!("{}", serde_json::json!({ "exported": rows, "file": file.display().to_string() }));
            Ok(())
        }
        StoreCommand::Rekey(DataDir { data_dir }) => {
            let settings = Settings { data_dir: existing(data_dir)?, ..Settings::defaults() };
            let rekeyed = App::catalogue(&settings).await?.rekey().await?;
            println!("{}", serde_json::to_string(&rekeyed).map_err(|fault| AppError::Internal(fault.to_string()))?);
            Ok(())
        }
        StoreCommand::Import(DataDirAndFile { folder, file }) => {
            let rows = App::store(&folder.data_dir, cache).await?.import(&file).await?;
            println!("{}", serde_json::json!({ "imported": rows, "file": file.display().to_string() }));
            Ok(())
        }
    }
}

async fn audit(folder: DataDir) -> Result<(), AppError> {
    let settings = Settings { data_dir: existing(folder.data_dir)?, ..Settings::defaults() };
    let domain = App::catalogue(&settings).await?;
    let verified = domain.verify_audit(domain.audit_path()).await?;
    println!("{}", serde_json::json!({ "lines": verified.lines, "faults": verified.faults }));
    if verified.faults.is_empty() { Ok(()) } else { Err(AppError::Corrupt("the audit log is not what was written; see above".to_owned())) }
}

/// A data folder that has a store: a mistyped one must not be made.
fn existing(data_dir: PathBuf) -> Result<PathBuf, AppError> {
    if data_dir.join("store").is_dir() {
        Ok(data_dir)
    } else {
        Err(AppError::Settings(format!("{} has no store; name the folder that `datasink serve` was given as --data-dir", data_dir.display())))
    }
}
