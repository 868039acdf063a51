//! The `basalt` command.

use basalt_cli::{args::Arguments, run};
use clap::Parser;
use std::{io::Write, process::ExitCode};

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    match run(Arguments::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            let text = failure.text();
            if !text.is_empty() {
                // Whoever closed standard error still gets the exit code.
                let _ = writeln!(std::io::stderr(), "{text}");
            }
            ExitCode::from(failure.exit_code())
        }
    }
}
