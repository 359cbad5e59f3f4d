//! The database's address, and how the way there is encrypted. Errors never repeat the URL: it may
//! hold a password.

use std::fs;
use std::path::Path;

use sqlx::postgres::{PgConnectOptions, PgSslMode};

const HINT: &str = "write it like postgres://user:password@host:5432/name";

/// `sslmode` is one of `disable`, `prefer` (without one), `require` and `verify-full`; with those
/// who vouch for the server it is `verify-full`.
pub(super) fn read(url: &str, ca: Option<&Path>) -> Result<PgConnectOptions, String> {
    // sqlx itself takes any scheme.
    if !(url.starts_with("postgres://") || url.starts_with("postgresql://")) {
        return Err(format!("--database-url: not a PostgreSQL URL; {HINT}"));
    }
    let options: PgConnectOptions = url
        .parse()
        .map_err(|error| format!("--database-url: {error}; {HINT}"))?;
    let mode = match (mode(url), ca) {
        (None | Some("verify-full"), Some(_)) | (Some("verify-full"), None) => {
            PgSslMode::VerifyFull
        }
        (Some("disable" | "prefer" | "require"), Some(_)) => {
            return Err(
                "--database-tls-ca needs sslmode=verify-full in --database-url, or none".to_owned(),
            );
        }
        (None | Some("prefer"), None) => PgSslMode::Prefer,
        (Some("disable"), None) => PgSslMode::Disable,
        (Some("require"), None) => PgSslMode::Require,
        (Some(_), _) => {
            return Err(
                "--database-url: sslmode is disable, prefer, require or verify-full".to_owned(),
            );
        }
    };
    let options = options.ssl_mode(mode);
    let Some(ca) = ca else {
        return Ok(options);
    };
    let text = fs::read_to_string(ca)
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
    query
        .split('&')
        .find_map(|it| it.strip_prefix("sslmode=").or(it.strip_prefix("ssl-mode=")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn encryption_is_as_asked_or_refused() {
        let here = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml"));
        let with = |query: &str| format!("postgres://u:secret@h:1/d{query}");
        for good in [
            "",
            "?sslmode=disable",
            "?sslmode=require",
            "?sslmode=verify-full",
        ] {
            assert!(read(&with(good), None).is_ok(), "{good}");
        }
        for (query, ca, reason) in [
            ("?sslmode=verify-ca", None, "sslmode is"),
            (
                "?sslmode=require",
                Some(here),
                "--database-tls-ca needs sslmode=verify-full",
            ),
            ("", Some(here), "holds no certificate"),
            ("", Some(Path::new("/nowhere/ca")), "cannot read"),
        ] {
            let fault = read(&with(query), ca).expect_err(query);
            assert!(
                fault.contains(reason) && !fault.contains("secret"),
                "{fault}"
            );
        }
    }
}
