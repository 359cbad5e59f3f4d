//! The way to the database, encrypted as the services' is.

use std::path::{Path, PathBuf};

use chassis::cli::exit_usage;
use sqlx::postgres::{PgConnectOptions, PgSslMode};

use super::{CLIENT_NAME, HEADING, Log, endpoints};

const HINT: &str = "write it like postgres://user:password@host:5432/name";

/// Where the database is.
#[derive(clap::Args, Debug)]
pub(in crate::partner) struct Database {
    /// The installation's database, as its owner [default: that of the installation that `weir up`
    /// runs here]
    #[arg(
        long,
        env = "WEIR_DATABASE_URL",
        hide_env_values = true,
        value_name = "URL",
        help_heading = HEADING
    )]
    database_url: Option<String>,

    /// Who vouches for the database's server, certificates in PEM; with it sslmode is verify-full
    #[arg(
        long,
        env = "WEIR_DATABASE_TLS_CA",
        value_name = "FILE",
        help_heading = HEADING
    )]
    database_tls_ca: Option<PathBuf>,
}

/// How the database is reached.
pub(in crate::partner) struct Way {
    pub(in crate::partner) options: PgConnectOptions,
    /// The file that said so, if nobody else did.
    pub(in crate::partner) from: Option<PathBuf>,
}

impl Database {
    /// To the database that was named, or else to the one of this directory. Exits 64 when that is
    /// not of one installation with the log, or cannot be used as it is written.
    pub(in crate::partner) fn way(&self, log: &Log) -> Way {
        let (url, from) = match (&self.database_url, log.nats_url.is_empty()) {
            (Some(url), false) => (url.clone(), None),
            (None, true) => {
                let (file, endpoints) =
                    endpoints("database", "--database-url or WEIR_DATABASE_URL");
                (endpoints.database_url, Some(file))
            }
            // Partners have the same ids everywhere: in another installation's database the rows of
            // somebody else would go.
            (Some(_), true) => exit_usage(
                "the database is named, its log is not: name both, of one installation, by --nats-url \
                 (WEIR_NATS_URL) and --database-url (WEIR_DATABASE_URL)",
            ),
            (None, false) => exit_usage(
                "the log is named, its database is not: name both, of one installation, by --nats-url \
                 (WEIR_NATS_URL) and --database-url (WEIR_DATABASE_URL)",
            ),
        };
        match read(&url, self.database_tls_ca.as_deref()) {
            Ok(options) => Way {
                options: options.application_name(CLIENT_NAME),
                from,
            },
            Err(fault) => exit_usage(fault),
        }
    }
}

/// `sslmode` is one of `disable`, `prefer` (without one), `require` and `verify-full`; with those
/// who vouch for the server it is `verify-full`.
fn read(url: &str, ca: Option<&Path>) -> Result<PgConnectOptions, String> {
    // sqlx itself takes any scheme.
    if !(url.starts_with("postgres://") || url.starts_with("postgresql://")) {
        return Err(format!("--database-url: not a PostgreSQL URL; {HINT}"));
    }
    let verifies = match (mode(url), ca) {
        (Some("disable" | "prefer" | "require"), Some(_)) => {
            return Err(
                "--database-tls-ca needs sslmode=verify-full in --database-url, or none".to_owned(),
            );
        }
        (Some("disable" | "prefer" | "require") | None, None) => false,
        (Some("verify-full") | None, _) => true,
        (Some(_), _) => {
            return Err(
                "--database-url: sslmode is disable, prefer, require or verify-full".to_owned(),
            );
        }
    };
    let options: PgConnectOptions = url
        .parse()
        .map_err(|error| format!("--database-url: {error}; {HINT}"))?;
    let options = match (verifies, mode(url)) {
        (true, _) => options.ssl_mode(PgSslMode::VerifyFull),
        (false, Some("disable")) => options.ssl_mode(PgSslMode::Disable),
        (false, Some("require")) => options.ssl_mode(PgSslMode::Require),
        (false, _) => options.ssl_mode(PgSslMode::Prefer),
    };
    let Some(ca) = ca else {
        return Ok(options);
    };
    let text = std::fs::read_to_string(ca)
        .map_err(|error| format!("--database-tls-ca: cannot read {}: {error}", ca.display()))?;
    if !text.contains("-----BEGIN CERTIFICATE-----") {
        let ca = ca.display();
        return Err(format!(
            "--database-tls-ca: {ca} holds no certificate in PEM"
        ));
    }
    Ok(options.ssl_root_cert(ca))
}

fn mode(url: &str) -> Option<&str> {
    let (_, query) = url.split_once('?')?;
    let mut parameters = query.split('&');
    parameters.find_map(|it| it.strip_prefix("sslmode=").or(it.strip_prefix("ssl-mode=")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn encryption_is_as_asked_or_refused() {
        let here = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml"));
        let with = |query: &str| format!("postgres://u:secret@h:1/d{query}");
        for (query, expected) in [
            ("", "Prefer"),
            ("?sslmode=prefer", "Prefer"),
            ("?sslmode=disable", "Disable"),
            ("?options=-c%20a%3D1&sslmode=require", "Require"),
            ("?sslmode=verify-full", "VerifyFull"),
        ] {
            let options = read(&with(query), None).expect(query);
            assert_eq!(format!("{:?}", options.get_ssl_mode()), expected, "{query}");
        }
        for (query, ca, reason) in [
            ("?sslmode=verify-ca", None, "sslmode is"),
            ("?sslmode=", None, "sslmode is"),
            ("?sslmode=require", Some(here), "needs sslmode=verify-full"),
            ("", Some(here), "holds no certificate"),
            ("", Some(Path::new("/nowhere/ca")), "cannot read"),
        ] {
            let fault = read(&with(query), ca).expect_err(query);
            assert!(
                fault.contains(reason) && !fault.contains("secret"),
                "{fault}"
            );
        }
        for url in ["mysql://u:secret@h/d", "postgres://u:secret@h:port/d"] {
            let fault = read(url, None).expect_err(url);
            assert!(fault.contains(HINT) && !fault.contains("secret"), "{fault}");
        }
    }
}
