//! `weir partner`: who may call. Works on any installation, through its log.

use std::io::{self, Write as _};
use std::process::ExitCode;

use chassis::cli::exit_usage;
use clap::Subcommand;
use jiff::Timestamp;
use partners::{
    AddError, ApiKey, Bucket, BucketError, ChangeError, Conflict, ConnectError, Document,
    NewPartner, later,
};

use self::find::{FindError, find, find_key};

mod erase;
mod find;
mod flags;
mod place;
mod show;

/// It did not happen.
const EXIT_FAILED: u8 = 1;

/// Add partners, give and take their keys, and set their limits.
///
/// A change is known to every gateway and status API within a second.
///
/// Exit codes: 0, it is done; 1, it is not, and why is on stderr; 64, the command line cannot be
/// used.
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    #[command(flatten)]
    log: place::Log,

    /// Print JSON, for programs
    #[arg(long, global = true)]
    json: bool,

    #[command(subcommand)]
    command: Command,
}

// Those without a comment here have theirs where their flags are: one here would hide it.
#[derive(Subcommand, Debug)]
enum Command {
    Add(flags::Add),
    /// List all partners
    List,
    /// Show a partner: its state, limits and keys
    Show {
        /// Its name or id
        partner: String,
    },
    Limit(flags::Limit),
    RotateKey(flags::RotateKey),
    /// Take a key back, at once and for good
    RevokeKey {
        /// Its id, as `weir partner show` lists it
        key_id: String,
    },
    /// Refuse all of a partner's keys until it is enabled again
    Disable {
        /// Its name or id
        partner: String,
    },
    /// Accept a disabled partner's keys again
    Enable {
        /// Its name or id
        partner: String,
    },
    Erase(erase::Erase),
}

/// Why it did not happen.
#[derive(Debug, thiserror::Error)]
enum PartnerError {
    #[error("{0}. Is `weir up` running? The address is from {1}")]
    NotUp(#[source] ConnectError, String),
    #[error(
        "{0}. It has to be up where --nats-url says, let its user in, and encrypt as --nats-tls-ca asks"
    )]
    Connect(#[from] ConnectError),
    #[error(transparent)]
    Bucket(#[from] BucketError),
    #[error("{0}. {hint}", hint = hint(.0))]
    Add(#[from] AddError),
    #[error(transparent)]
    Change(#[from] ChangeError),
    #[error(transparent)]
    Find(#[from] FindError),
    #[error("the partner has no live key whose scopes a new one could have: name them by --scope")]
    NoScopes,
    #[error(transparent)]
    Erase(#[from] erase::EraseError),
    #[error("cannot print: {0}")]
    Print(#[source] io::Error),
    #[error("cannot show the new key ({0}), and nothing else can: `weir partner revoke-key {1}`")]
    KeyLost(#[source] io::Error, String),
}

/// What to do about it.
fn hint(error: &AddError) -> &'static str {
    match error {
        AddError::NameTaken { .. } => {
            "Choose another name, or give that partner another key by `weir partner rotate-key`"
        }
        AddError::IdTaken(_) => "Leave --id out to get the next free one",
        _ => "Nothing was added",
    }
}

/// Runs one command and gives the process's exit code.
pub(crate) async fn run(args: Args) -> ExitCode {
    match act(&args).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::from(EXIT_FAILED)
        }
    }
}

async fn act(args: &Args) -> Result<(), PartnerError> {
    let now = Timestamp::now();
    if let Command::Add(add) = &args.command {
        // Said before anything is asked of the log.
        let limits = add.limits();
        if let Err(conflict) = partners::check_limits(&limits) {
            exit_usage(conflict);
        }
        let new = NewPartner {
            name: add.name.clone(),
            id: add.id,
            limits,
            scopes: add.scopes(),
            expires_at: add.expires.map(|expires| later(now, expires)),
        };
        let bucket = Bucket::open_or_create(&args.log.connect().await?).await?;
        let (document, key) = bucket.add(&new, now).await?;
        return reveal(args, &document, &key, now);
    }
    if let Command::Erase(erase) = &args.command {
        return erase.run(&args.log, args.json, now).await;
    }
    let bucket = Bucket::open(&args.log.connect().await?).await?;
    let known = bucket.list().await?;
    match &args.command {
        Command::Add(_) | Command::Erase(_) => unreachable!("done above"),
        Command::List => print(&show::list(&known, args.json, now)),
        Command::Show { partner } => print(&show::one(find(&known, partner)?, args.json, now)),
        Command::Limit(limit) => {
            let id = find(&known, &limit.partner)?.id;
            let set = |document: &mut Document| {
                let limits = limit.applied_to(document.limits());
                document.set_limits(limits)
            };
            let (document, ()) = bucket.change(id, set).await?;
            print(&show::one(&document, args.json, now))
        }
        Command::RotateKey(rotate) => {
            let partner = find(&known, &rotate.partner)?;
            rotate_key(args, &bucket, partner, rotate, now).await
        }
        Command::RevokeKey { key_id } => {
            let (partner, key_id) = find_key(&known, key_id)?;
            let revoke = |document: &mut Document| document.revoke_key(&key_id, now);
            let (document, _) = bucket.change(partner.id, revoke).await?;
            print(&show::one(&document, args.json, now))
        }
        Command::Disable { partner } => {
            let id = find(&known, partner)?.id;
            set_disabled(args, &bucket, id, true, now).await
        }
        Command::Enable { partner } => {
            let id = find(&known, partner)?.id;
            set_disabled(args, &bucket, id, false, now).await
        }
    }
}

async fn set_disabled(
    args: &Args,
    bucket: &Bucket,
    id: i32,
    disabled: bool,
    now: Timestamp,
) -> Result<(), PartnerError> {
    let set = |document: &mut Document| -> Result<(), Conflict> {
        document.disabled = disabled;
        Ok(())
    };
    let (document, ()) = bucket.change(id, set).await?;
    print(&show::one(&document, args.json, now))
}

async fn rotate_key(
    args: &Args,
    bucket: &Bucket,
    partner: &Document,
    rotate: &flags::RotateKey,
    now: Timestamp,
) -> Result<(), PartnerError> {
    let scopes = rotate.scopes(&partner.live_scopes(now));
    if scopes.is_empty() {
        return Err(PartnerError::NoScopes);
    }
    let key = ApiKey::generate();
    let expires_at = rotate.expires.map(|expires| later(now, expires));
    let change = |document: &mut Document| {
        if let Some(grace) = rotate.grace {
            document.expire_keys(&scopes, later(now, grace), now);
        }
        document.add_key(&key, &scopes, expires_at, now)
    };
    let (document, ()) = bucket.change(partner.id, change).await?;
    reveal(args, &document, &key, now)
}

/// The only time that a key is shown.
fn reveal(
    args: &Args,
    document: &Document,
    key: &ApiKey,
    now: Timestamp,
) -> Result<(), PartnerError> {
    let text = show::new_key(document, key, args.json, now);
    write(&text).map_err(|error| PartnerError::KeyLost(error, key.id().to_owned()))
}

fn print(text: &str) -> Result<(), PartnerError> {
    write(text).map_err(PartnerError::Print)
}

fn write(text: &str) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    writeln!(stdout, "{text}")?;
    stdout.flush()
}
