//! What only owner and admin may do for the services before they start: users in the database's
//! roles, and the development partners in the log's bucket.

use std::path::PathBuf;

use partners::{Bucket, Seed};
use tokio_postgres::NoTls;

use super::secrets::DatabasePasswords;
use super::{Shared, StackError};
use crate::chain;

/// The user that workers are.
pub(super) const WORKER: &str = "weir_worker_login";
/// The user that status APIs are.
pub(super) const READER: &str = "weir_reader_login";

/// Who is to get access.
pub(super) struct Access {
    /// Only in a database of the stack's own: in another the services are whom its URL names.
    pub(super) database: Option<DatabasePasswords>,
    pub(super) partners_file: PathBuf,
}

impl Access {
    /// Gives it; may be repeated.
    pub(super) async fn grant(&self, shared: &Shared) -> Result<(), StackError> {
        if let Some(passwords) = &self.database {
            make_users(&shared.endpoints.database_url, passwords)
                .await
                .map_err(|error| access_error("the database's users", &error))?;
        }
        let seed = Seed::load(&self.partners_file)
            .map_err(|error| access_error("the development partners", &error))?;
        let client = crate::nats::connect(&shared.log_urls)
            .await
            .map_err(|error| access_error("the development partners", &error))?;
        let bucket = Bucket::open_or_create(&client)
            .await
            .map_err(|error| access_error("the development partners", &error))?;
        bucket
            .sow(&seed)
            .await
            .map_err(|error| access_error("the development partners", &error))
    }
}

/// The roles are `migrate`'s; who may log in as one is the installation's affair.
async fn make_users(url: &str, passwords: &DatabasePasswords) -> Result<(), tokio_postgres::Error> {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await?;
    let connection = tokio::spawn(connection);
    for (user, role, password) in [
        (WORKER, "weir_worker", &passwords.worker),
        (READER, "weir_reader", &passwords.reader),
    ] {
        // The password is of hexadecimal digits.
        let statements = format!(
            "do $$ begin
                 if not exists (select from pg_roles where rolname = '{user}') then
                     create role {user} login;
                 end if;
             end $$;
             alter role {user} login password '{password}';
             grant {role} to {user}"
        );
        client.batch_execute(&statements).await?;
    }
    drop(client);
    connection.await.ok();
    Ok(())
}

fn access_error(what: &'static str, error: &dyn std::error::Error) -> StackError {
    StackError::Access {
        what,
        reason: chain(error),
    }
}
