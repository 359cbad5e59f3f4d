//! `weir`, the operator's command. `weir up` runs the whole system on one machine, `weir bench` measures
//! it, `weir partner` says who may call.

mod bench;
mod client;
mod partner;
mod screen;
mod tools;
mod up;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Takes bursts of records over HTTP, makes each durable, and writes them to PostgreSQL
#[derive(Parser, Debug)]
#[command(name = "weir", version, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand, Debug)]
enum Command {
    /// Run log, database and services on this machine until Ctrl-C
    Up(up::Args),
    Bench(bench::Args),
    Partner(partner::Args),
}

#[tokio::main]
async fn main() -> ExitCode {
    let cli: Cli = chassis::cli::parse();
    match cli.command {
        Command::Up(args) => Box::pin(up::run(args)).await,
        Command::Bench(args) => Box::pin(bench::run(args)).await,
        Command::Partner(args) => Box::pin(partner::run(args)).await,
    }
}
