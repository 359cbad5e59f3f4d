//! `loadtest`: what an SRE runs against an installation of Weir.

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Puts load on Weir and accounts for every single record.
#[derive(Parser, Debug)]
#[command(name = "loadtest", version, propagate_version = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand, Debug)]
enum Command {
    /// Generate load at a fixed rate, follow every tracking id to its outcome, judge and report
    Run(Box<loadtest::run::RunArgs>),
    /// Push a recorded file in bursts, follow every tracking id to its outcome, reconcile
    Replay(Box<loadtest::replay::ReplayArgs>),
    /// Compare what two runs wrote with --json: side by side, a verdict, an exit code for CI
    Compare(loadtest::report::compare::CompareArgs),
}

fn main() -> ExitCode {
    let cli: Cli = chassis::cli::parse();
    let runtime = match tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("error: cannot start the runtime: {error}");
            return ExitCode::from(1);
        }
    };
    match cli.command {
        Command::Run(args) => runtime.block_on(loadtest::run::main(*args)),
        Command::Replay(args) => runtime.block_on(loadtest::replay::main(*args)),
        Command::Compare(args) => loadtest::report::compare::main(&args),
    }
}
