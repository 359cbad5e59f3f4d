//! What the database's refusals mean for whoever reads them.

use std::path::PathBuf;

/// Without what sqlx puts before.
pub(super) fn words(error: &sqlx::Error) -> String {
    match error {
        sqlx::Error::Database(refused) => match refused.code() {
            Some(code) => format!("{} ({code})", refused.message()),
            None => refused.message().to_owned(),
        },
        sqlx::Error::Io(error) => error.to_string(),
        sqlx::Error::Tls(error) => error.to_string(),
        other => other.to_string(),
    }
}

/// What to do about it. `from`: the file that the address is from, if nobody named one.
pub(super) fn hint(error: &sqlx::Error, from: Option<&PathBuf>) -> String {
    match (error, from) {
        (sqlx::Error::Database(refused), _) => of_state(refused.code().as_deref()).to_owned(),
        (error, _) if is_of_encryption(error) => {
            "Look at sslmode in --database-url and at --database-tls-ca: the server's certificate has to be \
             of the host that the URL names"
                .to_owned()
        }
        (_, Some(file)) => format!(
            "Is `weir up` running? The address is from {}",
            file.display()
        ),
        (_, None) => "It has to be up, and where --database-url says".to_owned(),
    }
}

/// A handshake that rustls breaks off is data that makes no sense, as far as sqlx says.
fn is_of_encryption(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Tls(_) => true,
        sqlx::Error::Io(error) => error.kind() == std::io::ErrorKind::InvalidData,
        _ => false,
    }
}

/// By SQLSTATE.
fn of_state(state: Option<&str>) -> &'static str {
    match state.unwrap_or_default() {
        "28000" | "28P01" => "Look at user and password in --database-url",
        "3D000" => "Look at the database's name in --database-url",
        "42P01" | "42703" => {
            "That database holds no installation, or one of another release: name the one that \
             `persist-worker migrate` was run for"
        }
        "42501" => "It takes the database's owner, as whom `persist-worker migrate` runs",
        "25006" => "That server only reads: name the one that is written to",
        "40P01" | "55P03" => "Workers were writing the same rows: run it again",
        "57P03" => "It starts or stops: run it again when it is up",
        _ => "If that does not say why, the server's own log does",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_of_fault_says_what_to_do() {
        let away = sqlx::Error::Io(std::io::ErrorKind::ConnectionRefused.into());
        assert_eq!(words(&away), "connection refused");
        let file = PathBuf::from("/somewhere/endpoints.json");
        assert!(hint(&away, Some(&file)).contains("/somewhere/endpoints.json"));
        assert!(hint(&away, None).contains("--database-url"));
        let tls = sqlx::Error::Tls("invalid peer certificate: UnknownIssuer".into());
        assert!(words(&tls).starts_with("invalid peer certificate"));
        assert!(hint(&tls, Some(&file)).contains("--database-tls-ca"));
        for state in ["28P01", "3D000", "42P01", "42501", "40P01", "57P03"] {
            assert_ne!(of_state(Some(state)), of_state(None), "{state}");
        }
    }
}
