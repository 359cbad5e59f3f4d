//! `weir up`: everything on one machine, until Ctrl-C.

use std::process::ExitCode;
use std::sync::Arc;

use chassis::shutdown::Shutdown;
use devstack::chain;
use devstack::deps::Wanted;
use devstack::process;
use devstack::stack::{PortChoice, Stack, StackConfig, StackError};
use devstack::workspace;

use crate::screen::Screen;
use crate::tools::{ToolsError, tools};

mod banner;
mod live;
mod sample;

/// Start-up failed.
const EXIT_FAILED: u8 = 1;
/// Interrupted before it was ready: as shells report SIGINT.
const EXIT_INTERRUPTED: u8 = 130;
/// Memory for PostgreSQL's buffers, in MiB.
pub(crate) const SHARED_BUFFERS_MIB: u32 = 256;
/// More processes of one kind than this are a slip of the finger.
const COUNT_MAX: u64 = 64;

/// Run log, database and services on this machine until Ctrl-C.
///
/// Data, logs and keys are kept in .weir at the root of the checkout (without a checkout: of the
/// current directory).
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    /// How many gateways, 1 to 64
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = count())]
    gateways: u64,

    /// How many workers, 1 to 64; more than partitions wait for one to fall free
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = count())]
    workers: u64,

    /// Nodes of the log: 1, or 3 for a cluster that keeps each chunk three times [default: as the
    /// data has, else 1]
    #[arg(long, value_name = "1|3", value_parser = ["1", "3"])]
    nats_nodes: Option<String>,

    /// How many partitions, 1 to 256; fixed once there is data [default: as the data has, else 2]
    #[arg(long, value_name = "P", value_parser = clap::value_parser!(u32).range(1..=256))]
    partitions: Option<u32>,

    /// Start over: remove data, logs and keys of earlier runs first
    #[arg(long)]
    fresh: bool,

    /// Do not push the sample of five rides
    #[arg(long)]
    no_sample: bool,

    /// Use this log instead of starting one: a NATS URL, or several with commas between
    #[arg(long, value_name = "URL", env = "WEIR_NATS_URL")]
    nats_url: Option<String>,

    /// Use this database, as its owner, instead of starting one
    #[arg(
        long,
        value_name = "URL",
        env = "WEIR_DATABASE_URL",
        hide_env_values = true
    )]
    database_url: Option<String>,
}

fn count() -> clap::builder::RangedU64ValueParser {
    clap::value_parser!(u64).range(1..=COUNT_MAX)
}

/// Why it is not running.
#[derive(Debug, thiserror::Error)]
enum UpError {
    #[error("cannot find the current directory")]
    Directory(#[source] std::io::Error),
    #[error(transparent)]
    Tools(#[from] ToolsError),
    #[error(transparent)]
    Stack(#[from] StackError),
    #[error(transparent)]
    Sample(#[from] sample::SampleError),
}

/// Runs it to its end and gives the process's exit code.
pub(crate) async fn run(args: Args) -> ExitCode {
    let shutdown = Shutdown::on_signals();
    let screen = Arc::new(Screen::new());
    let stack = tokio::select! {
        () = shutdown.begun() => {
            process::end_tools();
            screen.line("interrupted before it was ready");
            leave(EXIT_INTERRUPTED);
        }
        started = start(&args, &screen) => started,
    };
    let stack = match stack {
        Ok(stack) => stack,
        Err(error) => {
            eprintln!("error: {}", chain(&error));
            leave(EXIT_FAILED);
        }
    };
    let introduced = tokio::select! {
        () = shutdown.begun() => Ok(()),
        introduced = introduce(&args, &stack, &screen) => introduced,
    };
    let failed = introduced.is_err();
    match introduced {
        Ok(()) => live::run(&stack, &screen, &shutdown).await,
        Err(error) => eprintln!("error: {}", chain(&error)),
    }
    screen.end_live();
    let abandoned = stack.shutdown().await;
    for sentence in &abandoned {
        screen.line(sentence);
    }
    screen.line("everything has ended; the data is kept");
    if failed {
        ExitCode::from(EXIT_FAILED)
    } else {
        ExitCode::SUCCESS
    }
}

/// Fetches, builds, starts, and waits until everything is ready.
async fn start(args: &Args, screen: &Arc<Screen>) -> Result<Stack, UpError> {
    let wanted = Wanted {
        nats_server: args.nats_url.is_none(),
        postgres: args.database_url.is_none(),
    };
    let (deps, binaries) = tools(wanted, screen).await?;
    let root = workspace::root().map_err(UpError::Directory)?;
    let state = root.join(workspace::STATE_DIRECTORY);
    let told = Arc::clone(screen);
    let config = StackConfig {
        endpoints_file: Some(state.join("endpoints.json")),
        fresh: args.fresh,
        gateways: to_usize(args.gateways),
        workers: to_usize(args.workers),
        nats_nodes: args
            .nats_nodes
            .as_deref()
            .map(|it| if it == "3" { 3 } else { 1 }),
        partitions: args.partitions,
        nats_url: args.nats_url.clone(),
        database_url: args.database_url.clone(),
        ports: PortChoice::Usual,
        supervises: true,
        shared_buffers_mib: SHARED_BUFFERS_MIB,
        notices: Arc::new(move |sentence| told.line(sentence)),
        ..StackConfig::for_test(&state.join("stack"), &state.join("cache"))
    };
    let stack = Stack::start(config, &deps, &binaries).await?;
    screen.line("waiting until everything is ready");
    stack.wait_ready().await?;
    Ok(stack)
}

/// Shows that it works and how to use it.
async fn introduce(args: &Args, stack: &Stack, screen: &Screen) -> Result<(), UpError> {
    let endpoints = stack.endpoints();
    let mut example = None;
    if !args.no_sample {
        example = sample::push(&endpoints, screen).await?;
    }
    screen.line(&banner::text(&endpoints, stack.logs(), example.as_deref()));
    screen.line("ready");
    Ok(())
}

fn to_usize(count: u64) -> usize {
    usize::try_from(count).expect("at most COUNT_MAX")
}

/// Ends the process without waiting for a build that was just killed on another thread.
fn leave(code: u8) -> ! {
    std::process::exit(i32::from(code))
}
