//! Whose fault an error of the database is: decided here, once.

use tokio_postgres::error::{DbError, SqlState};
use tokio_postgres::types::WrongType;

use crate::batch::{ApplyError, InstallationFault};

/// Whose fault it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Fault {
    /// A key that is there already: the careful path knows what to do.
    Taken,
    /// The values of a record.
    Record,
    /// Nobody's, or of a passing state: the same again later.
    Transient,
    /// This installation's: the same again will fail again.
    Installation,
}

/// Why the database refuses a record's values.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Refusal {
    pub(crate) sqlstate: String,
    /// In the database's words: for the operator, never for the partner.
    pub(crate) message: String,
}

impl Refusal {
    pub(crate) fn of(error: &DbError) -> Self {
        Self {
            sqlstate: error.code().code().to_owned(),
            message: error.message().to_owned(),
        }
    }

    /// For the partner: nothing of the database's words, which may quote other people's data.
    pub(crate) fn sentence(&self) -> String {
        let reason = match self.sqlstate.as_str() {
            "22P05" | "22021" => "it contains a character that the database cannot hold",
            "22007" | "22008" => "an instant is out of the database's range",
            "22P02" | "22032" => "a value is not what its column holds",
            "22003" => "a number is out of its column's range",
            "22001" => "a text is too long for its column",
            code if code.starts_with("54") => "it is too large or too deeply nested",
            code if code.starts_with("23") => "it violates a constraint of the database",
            _ => "the database refuses its values",
        };
        format!("{reason} (SQLSTATE {})", self.sqlstate)
    }
}

/// Classifies an error of the driver.
pub(crate) fn classify(error: &tokio_postgres::Error) -> Fault {
    if let Some(error) = error.as_db_error() {
        return classify_state(error.code(), error.table());
    }
    // Without a word from the server: the connection is gone, unless it is our own code that does
    // not fit the columns (another schema).
    let source = std::error::Error::source(error);
    let misfit = source.is_some_and(|source| source.is::<WrongType>());
    if misfit {
        Fault::Installation
    } else {
        Fault::Transient
    }
}

fn classify_state(state: &SqlState, table: Option<&str>) -> Fault {
    if *state == SqlState::UNIQUE_VIOLATION {
        return Fault::Taken;
    }
    // A day's partition was attached while our row was on its way to the default one: the next
    // attempt finds the new partition. The ledger has no other check.
    let moved = table.is_some_and(|table| table.starts_with("requests"));
    if *state == SqlState::CHECK_VIOLATION && moved {
        return Fault::Transient;
    }
    match state.code().get(..2) {
        // Data exception, integrity constraint violation, program limit exceeded.
        Some("22" | "23" | "54") => Fault::Record,
        // Connection, transaction state (a server that turned read-only), statement unknown to
        // this connection, rollback (deadlock, serialization), resources (disk full, too many
        // connections), object not in the state for it (a lock that could not be had), operator
        // intervention (shutdown, terminated, cancelled), system error, internal error.
        Some("08" | "25" | "26" | "40" | "53" | "55" | "57" | "58" | "XX") => Fault::Transient,
        // Credentials (28), database or schema unknown (3D, 3F), syntax and access (42), and
        // whatever nobody thought of.
        _ => Fault::Installation,
    }
}

/// For an operator: SQLSTATE and message, or what became of the connection.
pub(crate) fn reason(error: &tokio_postgres::Error) -> String {
    let Some(db) = error.as_db_error() else {
        return match std::error::Error::source(error) {
            Some(source) => format!("{error}: {source}"),
            None => error.to_string(),
        };
    };
    format!("{} (SQLSTATE {})", db.message(), db.code().code())
}

impl From<tokio_postgres::Error> for ApplyError {
    /// For statements that carry no record's values: a refusal of those is never a record's fault.
    fn from(source: tokio_postgres::Error) -> Self {
        let message = reason(&source);
        match classify(&source) {
            Fault::Transient => Self::Transient {
                reason: message,
                source,
            },
            Fault::Taken | Fault::Record | Fault::Installation => {
                Self::Installation(InstallationFault::Statement { message, source })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_class_has_one_culprit() {
        let table = [
            ("23505", None, Fault::Taken),
            ("22P05", None, Fault::Record),
            ("22008", None, Fault::Record),
            ("23502", Some("rides"), Fault::Record),
            ("23514", Some("rides"), Fault::Record),
            ("23514", Some("requests_default"), Fault::Transient),
            ("54000", None, Fault::Record),
            ("08006", None, Fault::Transient),
            ("25006", None, Fault::Transient),
            ("40001", None, Fault::Transient),
            ("40P01", None, Fault::Transient),
            ("53100", None, Fault::Transient),
            ("53300", None, Fault::Transient),
            ("55P03", None, Fault::Transient),
            ("57014", None, Fault::Transient),
            ("57P01", None, Fault::Transient),
            ("57P03", None, Fault::Transient),
            ("58030", None, Fault::Transient),
            ("XX000", None, Fault::Transient),
            ("28P01", None, Fault::Installation),
            ("3D000", None, Fault::Installation),
            ("3F000", None, Fault::Installation),
            ("42P01", None, Fault::Installation),
            ("42501", None, Fault::Installation),
            ("0A000", None, Fault::Installation),
            ("P0001", None, Fault::Installation),
        ];
        for (code, on, expected) in table {
            let found = classify_state(&SqlState::from_code(code), on);
            assert_eq!(found, expected, "SQLSTATE {code} on {on:?}");
        }
    }

    #[test]
    fn a_refusal_tells_the_partner_the_reason_and_nothing_of_the_database() {
        for code in [
            "22P05", "22008", "22P02", "22003", "22001", "54000", "23514", "22999",
        ] {
            let refusal = Refusal {
                sqlstate: code.to_owned(),
                message: "SECRET".to_owned(),
            };
            let sentence = refusal.sentence();
            assert!(
                sentence.contains(code) && !sentence.contains("SECRET"),
                "{sentence}"
            );
        }
    }
}
