//! The gateway's process: flags, sockets, serve, drain.

use std::process::ExitCode;

use chassis::shutdown::Shutdown;
use ingest_gateway::{Args, Bound, Config, RunError};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let args: Args = chassis::cli::parse();
    let config = match Config::check(args) {
        Ok(config) => config,
        Err(error) => chassis::cli::exit_usage(error),
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .expect("the system gives threads");
    match runtime.block_on(serve(config)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {}", chain(&error));
            ExitCode::FAILURE
        }
    }
}

async fn serve(config: Config) -> Result<(), RunError> {
    let shutdown = Shutdown::on_signals();
    let bound = Bound::bind(config).await?;
    let (listening, admin) = bound.addresses()?;
    let serving = bound.run(shutdown);
    // Whoever started this process may have closed its end: that is no reason not to serve.
    let _ = chassis::announce::announce(&[("listening", listening), ("admin", admin)]);
    serving.await
}

/// An error and what it came from, in one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text.push_str(&format!(": {error}"));
        source = error.source();
    }
    text
}
