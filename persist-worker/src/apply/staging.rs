//! The temporary tables of a writer's connection: made by the first batch that needs them, emptied
//! by every commit, and never by a batch of new rides alone.
//!
//! A table of one transaction's own would write its whole definition into the catalog and out of it
//! again with every batch, which costs a small batch more than all the rest.

use std::time::Duration;

use tokio::time::Instant;
use tokio_postgres::{Error, Transaction};

use super::kinds::DROP_TEMPORARY;

/// After so long the tables are made anew. No vacuum reaches another connection's temporary tables,
/// and as long as they are as they were created, the database cannot forget the transactions since.
/// At ten thousand transactions a second this is six million of the two billion that there are.
const AGE_MAX: Duration = Duration::from_mins(10);

/// That a table is there already, or is not, is as it should be: a notice would be logged with every
/// batch.
const QUIETLY: &str = "set local client_min_messages = warning";

/// What is remembered of the tables between batches: their age and no more. Whether they are there
/// the server is asked every time, because a rollback takes back what its transaction made.
#[derive(Default, Debug)]
pub(super) struct Staging {
    /// They may be as old as this. Of the connection before ours, they are younger.
    since: Option<Instant>,
    /// When the transaction began that makes them anew.
    renewed: Option<Instant>,
}

impl Staging {
    /// What makes the tables; `None` if nothing has to be done.
    fn statements(&mut self, create: &[&str], now: Instant) -> Option<String> {
        let old = self.since.is_some_and(|since| now - since >= AGE_MAX);
        self.renewed = old.then_some(now);
        if !create.is_empty() {
            self.since.get_or_insert(now);
        }
        let drop = old.then_some(DROP_TEMPORARY);
        let make: Vec<_> = drop.into_iter().chain(create.iter().copied()).collect();
        (!make.is_empty()).then(|| format!("{QUIETLY}; {}", make.join("; ")))
    }

    /// Makes those of the tables that are not there, and does away with all that are old.
    pub(super) async fn make(
        &mut self,
        transaction: &Transaction<'_>,
        create: &[&str],
    ) -> Result<(), Error> {
        match self.statements(create, Instant::now()) {
            Some(statements) => transaction.batch_execute(&statements).await,
            None => Ok(()),
        }
    }

    /// The transaction is committed.
    pub(super) fn committed(&mut self) {
        if let Some(renewed) = self.renewed.take() {
            self.since = Some(renewed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CREATE: &[&str] = &["create it"];

    #[test]
    fn batches_that_need_no_table_do_nothing_until_the_tables_are_old() {
        let mut staging = Staging::default();
        let began = Instant::now();
        assert_eq!(staging.statements(&[], began + AGE_MAX), None);
        let made = staging.statements(CREATE, began);
        assert_eq!(made, Some(format!("{QUIETLY}; create it")));
        staging.committed();
        let young = began + AGE_MAX - Duration::from_millis(1);
        assert_eq!(staging.statements(&[], young), None);
        // A partition that has become idle must not keep them either.
        let renewed = Some(format!("{QUIETLY}; {DROP_TEMPORARY}"));
        assert_eq!(staging.statements(&[], began + AGE_MAX), renewed);
        staging.committed();
        assert_eq!(staging.statements(&[], young + AGE_MAX), None);
    }

    #[test]
    fn what_is_rolled_back_is_still_due() {
        let mut staging = Staging::default();
        let began = Instant::now();
        // The commit's answer may be lost: they may be there from here on.
        staging.statements(CREATE, began);
        let renewed = Some(format!("{QUIETLY}; {DROP_TEMPORARY}; create it"));
        for _ in 0..2 {
            assert_eq!(staging.statements(CREATE, began + AGE_MAX), renewed);
        }
        staging.committed();
        let made = staging.statements(CREATE, began + AGE_MAX);
        assert_eq!(made, Some(format!("{QUIETLY}; create it")));
    }

    #[tokio::test]
    async fn the_server_has_young_tables_after_that() {
        let postgres = devstack::fixture::Fixture::postgres().await;
        let url = postgres.database_url();
        let (client, connection) = tokio_postgres::connect(&url, tokio_postgres::NoTls)
            .await
            .unwrap();
        tokio::spawn(connection);
        let create = ["create temporary table if not exists incoming () on commit delete rows"];
        let mut staging = Staging::default();
        let began = Instant::now();
        let mut made = Vec::new();
        for minutes in [0, 1, 10, 11, 20] {
            let now = began + Duration::from_mins(minutes);
            let statements = staging.statements(&create, now).unwrap();
            client.batch_execute(&statements).await.unwrap();
            staging.committed();
            let sql = "select 'pg_temp.incoming'::regclass::oid";
            let oid: u32 = client.query_one(sql, &[]).await.unwrap().get(0);
            made.push(oid);
        }
        let [first, second, third, fourth, fifth] = made[..] else {
            unreachable!("five times")
        };
        assert_eq!((first, third), (second, fourth));
        assert!(second < third && fourth < fifth);
    }
}
