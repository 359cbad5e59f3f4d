//! Acts in the database.

use std::path::Path;

use devstack::fixture::{Fixture, PostgresFixture};
use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, NoTls};

/// Who may, beside the owner.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Who {
    Nobody,
    Reader,
    Worker,
}
use Who::{Nobody, Reader, Worker};

/// Each in a transaction that is rolled back. Privileges are looked at before rows: most of these
/// touch none.
const ACTS: &[(&str, Who)] = &[
    ("select from status_requests", Reader),
    ("select from status_progress", Reader),
    ("select from status_rides", Reader),
    ("select from status_couriers", Reader),
    ("select from requests_readable", Reader),
    ("select from rides_readable", Reader),
    ("select from couriers_readable", Reader),
    ("select from installation", Worker),
    ("select from progress", Worker),
    ("select from leases", Worker),
    ("select from workers", Worker),
    ("select from requests", Worker),
    ("select from requests_default", Worker),
    ("select from requests_20300101", Nobody),
    ("select from rides", Worker),
    ("select from couriers", Worker),
    ("select from courier_movements", Worker),
    ("select from outbox", Worker),
    ("select from _sqlx_migrations", Nobody),
    ("select from pg_authid", Nobody),
    ("select from pg_shadow", Nobody),
    // The ledger takes rows and keeps them.
    (
        "insert into requests select * from requests where false",
        Worker,
    ),
    ("update requests set outcome = 1 where false", Nobody),
    ("delete from requests where false", Nobody),
    ("truncate requests", Nobody),
    (
        "insert into requests_default select * from requests_default where false",
        Nobody,
    ),
    ("delete from requests_default where false", Nobody),
    (
        "insert into requests_20300101 values (gen_random_uuid())",
        Nobody,
    ),
    // State.
    ("insert into rides select * from rides where false", Worker),
    ("update rides set version = version where false", Worker),
    ("delete from rides where false", Nobody),
    ("truncate rides", Nobody),
    (
        "insert into couriers select * from couriers where false",
        Worker,
    ),
    ("update couriers set version = version where false", Worker),
    ("delete from couriers where false", Nobody),
    (
        "insert into courier_movements select * from courier_movements where false",
        Worker,
    ),
    (
        "update courier_movements set capacity = 0 where false",
        Nobody,
    ),
    ("delete from courier_movements where false", Nobody),
    (
        "insert into outbox select * from outbox where false",
        Worker,
    ),
    ("update outbox set body = '' where false", Nobody),
    ("delete from outbox where false", Worker),
    (
        "update status_rides set version = version where false",
        Nobody,
    ),
    ("delete from requests_readable where false", Nobody),
    // The cursor moves; it is not made, removed or pointed at another stream.
    (
        "update progress set last_seq = last_seq where false",
        Worker,
    ),
    (
        "update progress set incarnation = gen_random_uuid() where false",
        Nobody,
    ),
    (
        "insert into progress select * from progress where false",
        Nobody,
    ),
    ("delete from progress where false", Nobody),
    ("update leases set owner = owner where false", Worker),
    (
        "update leases set partition = partition where false",
        Nobody,
    ),
    (
        "insert into leases select * from leases where false",
        Nobody,
    ),
    ("delete from leases where false", Nobody),
    (
        "insert into workers select * from workers where false",
        Worker,
    ),
    ("delete from workers where false", Worker),
    (
        "update installation set partitions = partitions where false",
        Nobody,
    ),
    ("delete from installation where false", Nobody),
    // Tables are the owner's, but for a day of the ledger.
    ("select weir_attach_day('2031-01-01')", Worker),
    ("select weir_move_day('2031-01-02')", Worker),
    ("create table another (id int4)", Nobody),
    ("create schema another", Nobody),
    (
        "create function another() returns int4 language sql return 1",
        Nobody,
    ),
    ("alter table rides add column another int4", Nobody),
    ("create index on rides (version)", Nobody),
    ("drop table rides", Nobody),
    ("drop view status_rides", Nobody),
    (
        "alter table requests detach partition requests_20300101",
        Nobody,
    ),
    ("drop table requests_20300101", Nobody),
    ("lock table requests in access exclusive mode", Nobody),
    (
        "alter function weir_attach_day(date) security invoker",
        Nobody,
    ),
    // The cluster is nobody's here.
    ("create role another", Nobody),
    ("create database another", Nobody),
    ("set local role weir", Nobody),
    ("set local session authorization weir", Nobody),
    ("alter system set fsync = off", Nobody),
    ("set local session_replication_role = replica", Nobody),
    (
        "select pg_terminate_backend(pid) from pg_stat_activity where usename = 'weir' and pid <> pg_backend_pid()",
        Nobody,
    ),
    ("select pg_read_file('/etc/passwd')", Nobody),
    ("copy (select 1) to program 'true'", Nobody),
    ("copy (select 1) to '/tmp/weir-privileges'", Nobody),
    ("select pg_reload_conf()", Nobody),
    ("select lo_import('/etc/passwd')", Nobody),
];

const PASSWORD: &str = "0123456789abcdef";

async fn connect(url: &str) -> Client {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await.unwrap();
    tokio::spawn(connection);
    client
}

/// As `migrate` does it.
async fn migrate(client: &Client) {
    let directory = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../migrations"));
    let mut files: Vec<_> = std::fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    files.sort();
    for file in files {
        let sql = std::fs::read_to_string(&file).unwrap();
        let done = if sql.starts_with("-- no-transaction") {
            client.batch_execute(&sql).await
        } else {
            let sql = format!("begin; {sql}; commit");
            client.batch_execute(&sql).await
        };
        done.unwrap_or_else(|error| panic!("{}: {error:?}", file.display()));
    }
}

/// A migrated database with a user in each role, and the owner's connection.
async fn database() -> (PostgresFixture, Client) {
    let postgres = Fixture::postgres().await;
    let owner = connect(&postgres.database_url()).await;
    migrate(&owner).await;
    let users = format!(
        "create role a_worker login password '{PASSWORD}' in role weir_worker;
         create role a_reader login password '{PASSWORD}' in role weir_reader;
         create table _sqlx_migrations (version int8);
         select weir_attach_day('2030-01-01')"
    );
    owner.batch_execute(&users).await.unwrap();
    (postgres, owner)
}

/// Whether the statement is refused for want of a privilege; any other error is the test's.
async fn is_denied(client: &Client, statement: &str) -> bool {
    client.batch_execute("begin").await.unwrap();
    let done = client.batch_execute(statement).await;
    client.batch_execute("rollback").await.unwrap();
    match done {
        Ok(()) => false,
        Err(error) if error.code() == Some(&SqlState::INSUFFICIENT_PRIVILEGE) => true,
        // Privileges are looked at before this.
        Err(error) if error.code() == Some(&SqlState::ACTIVE_SQL_TRANSACTION) => false,
        Err(error) => panic!("{statement}: {error:?}"),
    }
}

#[tokio::test]
async fn each_role_may_what_it_must_in_the_database_and_nothing_else() {
    let (postgres, _owner) = database().await;
    let mut wrong = Vec::new();
    for (who, user) in [(Reader, "a_reader"), (Worker, "a_worker")] {
        let client = connect(&postgres.database_url_as(user, PASSWORD)).await;
        for (statement, may) in ACTS {
            let denied = match *statement {
                // Not in a transaction, and the answer is about that first.
                "create database another" | "alter system set fsync = off" => {
                    let done = client.batch_execute(statement).await;
                    done.is_err_and(|error| error.code() == Some(&SqlState::INSUFFICIENT_PRIVILEGE))
                }
                _ => is_denied(&client, statement).await,
            };
            if denied != (*may != who) {
                wrong.push(format!(
                    "{user} {}: {statement}",
                    if denied { "may not" } else { "may" }
                ));
            }
        }
    }
    assert_eq!(wrong, [""; 0]);
}

#[tokio::test]
async fn a_worker_ends_its_own_users_backends_and_stages_in_temporary_tables() {
    let (postgres, _owner) = database().await;
    let url = postgres.database_url_as("a_worker", PASSWORD);
    let (before, after) = (connect(&url).await, connect(&url).await);
    let pid: i32 = before
        .query_one("select pg_backend_pid()", &[])
        .await
        .unwrap()
        .get(0);
    let ended = after
        .query_one(
            "select pg_terminate_backend(pid, 5000) from pg_stat_activity \
             where pid = $1 and backend_start is not null",
            &[&pid],
        )
        .await;
    assert!(ended.unwrap().get::<_, bool>(0));
    let staged = after
        .batch_execute("create temporary table staged (like rides including constraints)")
        .await;
    staged.unwrap();
}

/// What a worker puts into its own schema never comes between a function of the owner's and the
/// ledger.
#[tokio::test]
async fn the_owners_functions_do_not_look_where_a_worker_may_write() {
    let (postgres, owner) = database().await;
    let worker = connect(&postgres.database_url_as("a_worker", PASSWORD)).await;
    worker
        .batch_execute(
            "create temporary table requests (like public.requests);
             create temporary table requests_default (like public.requests);
             create function pg_temp.to_char(date, text) returns text language sql return 'rides';
             create function pg_temp.format(text, variadic text[]) returns text
                 language sql return 'drop table public.rides';
             set search_path = pg_temp, public, pg_catalog;
             select public.weir_attach_day('2031-05-06'), public.weir_move_day('2031-05-07')",
        )
        .await
        .unwrap();
    let days = owner
        .query_one(
            "select count(*) from pg_inherits where inhparent = 'public.requests'::regclass \
             and inhrelid::regclass::text in ('requests_20310506', 'requests_20310507')",
            &[],
        )
        .await;
    assert_eq!(days.unwrap().get::<_, i64>(0), 2);
    owner.batch_execute("select from rides").await.unwrap();
}

#[tokio::test]
async fn several_installations_share_one_cluster() {
    let (postgres, owner) = database().await;
    owner.batch_execute("create database second").await.unwrap();
    let url = postgres.database_url();
    let (base, _) = url.rsplit_once('/').unwrap();
    let second = connect(&format!("{base}/second")).await;
    migrate(&second).await;
    let sql = "select has_table_privilege('weir_worker', 'requests', 'insert') \
               and not has_table_privilege('weir_reader', 'requests', 'select')";
    let row = second.query_one(sql, &[]).await.unwrap();
    assert!(row.get::<_, bool>(0));
}
