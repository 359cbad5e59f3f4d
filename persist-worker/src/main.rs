//! The worker's process: `persist-worker migrate` and `persist-worker run`.

use std::error::Error;
use std::process::ExitCode;

use chassis::readiness::Readiness;
use chassis::shutdown::Shutdown;
use chassis::{admin, announce, cli, listen, telemetry};
use persist_worker::{Cli, Command, MigrateArgs, RunArgs, migrate, run};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const SERVICE: &str = "persist-worker";

#[tokio::main]
async fn main() -> ExitCode {
    let command = cli::parse::<Cli>().command;
    let (Command::Migrate(MigrateArgs { places, .. }) | Command::Run(RunArgs { places, .. })) =
        &command;
    let faults = places.faults();
    if !faults.is_empty() {
        cli::exit_usage(faults.join("\nerror: "));
    }
    let done = match command {
        Command::Migrate(args) => bring_up_to_date(args).await,
        Command::Run(args) => persist(args).await,
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {}", sentence(error.as_ref()));
            ExitCode::FAILURE
        }
    }
}

async fn bring_up_to_date(args: MigrateArgs) -> Result<(), Box<dyn Error>> {
    let _telemetry = telemetry::init(&args.telemetry, SERVICE);
    let done = migrate(args).await?;
    for line in done {
        println!("{line}");
    }
    Ok(())
}

async fn persist(args: RunArgs) -> Result<(), Box<dyn Error>> {
    let telemetry = telemetry::init(&args.telemetry, SERVICE);
    let readiness = Readiness::new();
    for condition in ["log", "database"] {
        let _ = readiness.condition(condition);
    }
    let listener = listen::bind(args.admin_listen).await?;
    let admin_address = listener.local_addr()?;
    let shutdown = Shutdown::on_signals();
    let served = admin::serve(listener, readiness.clone(), telemetry, shutdown.clone());
    let admin = tokio::spawn(served);
    // Whoever closed our stdout does not want to know.
    let _ = announce::announce(&[("admin", admin_address)]);
    let done = run(args, readiness, shutdown).await;
    admin.abort();
    Ok(done?)
}

/// An error and its causes in one line.
fn sentence(error: &dyn Error) -> String {
    let mut words = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let next = error.to_string();
        // Some errors repeat their source in their own words.
        if !words.contains(&next) {
            words.push_str(": ");
            words.push_str(&next);
        }
        cause = error.source();
    }
    words
}
