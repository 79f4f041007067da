//! Why: the process: arguments in, exit code out. Never more than that.

use std::process::ExitCode;

use datasink::command::Arguments;

fn main() -> ExitCode {
    let arguments = match Arguments::read() {
        Ok(arguments) => arguments,
        Err(code) => return code,
    };
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(fault) => {
            eprintln!("datasink: the runtime cannot be started: {fault}");
            return ExitCode::from(70);
        }
    };
    let code = runtime.block_on(arguments.run());
    // A blocked thread (a name that is being resolved, a slow disk) must not keep the process from its exit.
    runtime.shutdown_background();
    code
}
