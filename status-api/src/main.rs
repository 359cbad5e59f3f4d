//! `status-api`: flags, telemetry, bind, announce, serve, drain.

use std::process::ExitCode;

use chassis::shutdown::Shutdown;
use status_api::{Args, Config};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[tokio::main]
async fn main() -> ExitCode {
    let args: Args = chassis::cli::parse();
    let telemetry = chassis::telemetry::init(&args.telemetry, "status-api");
    let config = Config::read(&args).unwrap_or_else(|faults| chassis::cli::exit_usage(faults));
    let shutdown = Shutdown::on_signals();
    let running = match status_api::start(config, telemetry, shutdown).await {
        Ok(running) => running,
        Err(error) => {
            tracing::error!(%error, "cannot start");
            return ExitCode::FAILURE;
        }
    };
    let sockets = [("listening", running.listening), ("admin", running.admin)];
    if let Err(error) = chassis::announce::announce(&sockets) {
        tracing::warn!(%error, "stdout is closed: the addresses were not announced");
    }
    match running.drained().await {
        Ok(()) => {
            tracing::info!("drained");
            ExitCode::SUCCESS
        }
        Err(error) => {
            tracing::error!(%error, "leaving anyway");
            ExitCode::FAILURE
        }
    }
}
