//! nats-server and PostgreSQL start, die, come back with their data, and leave nothing behind.

use std::path::Path;
use std::time::Duration;

use devstack::eventually::eventually;
use devstack::fixture::Fixture;
use devstack::identity::Identity;
use devstack::postgres::{Postgres, Setup, identity_for};
use tokio_postgres::NoTls;

const SOON: Duration = Duration::from_secs(20);

fn is_alive(pid: u32) -> bool {
    Path::new(&format!("/proc/{pid}")).exists()
}

/// Every process whose current directory is below `directory`.
pub(crate) fn processes_in(directory: &Path) -> Vec<u32> {
    std::fs::read_dir("/proc")
        .unwrap()
        .flatten()
        .filter_map(|entry| {
            let pid = entry.file_name().to_str()?.parse().ok()?;
            let cwd = std::fs::read_link(entry.path().join("cwd")).ok()?;
            cwd.starts_with(directory).then_some(pid)
        })
        .collect()
}

async fn connect(url: &str) -> tokio_postgres::Client {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await.unwrap();
    tokio::spawn(connection);
    client
}

async fn setting(client: &tokio_postgres::Client, name: &str) -> String {
    let row = client
        .query_one("select current_setting($1)", &[&name])
        .await
        .unwrap();
    row.get(0)
}

#[tokio::test]
async fn nats_keeps_acknowledged_messages_through_a_kill() {
    let mut nats = Fixture::nats().await;
    let pid = nats.pids()[0];
    let client = async_nats::connect(nats.url()).await.unwrap();
    let context = async_nats::jetstream::new(client);
    let stream = || async_nats::jetstream::stream::Config {
        name: "KEPT".to_owned(),
        subjects: vec!["kept".to_owned()],
        ..Default::default()
    };
    context.create_stream(stream()).await.unwrap();
    let ack = context.publish("kept", "water".into()).await.unwrap();
    assert_eq!(ack.await.unwrap().sequence, 1);

    nats.kill(0).await;
    assert!(!is_alive(pid));
    nats.restart(0).await.unwrap();
    let client = async_nats::connect(nats.url()).await.unwrap();
    let context = async_nats::jetstream::new(client);
    let info = context.get_stream("KEPT").await.unwrap();
    assert_eq!(info.cached_info().state.messages, 1);

    let (pid, directory) = (nats.pids()[0], nats.directory().to_path_buf());
    drop(nats);
    assert!(!is_alive(pid));
    assert!(!directory.exists());
}

#[tokio::test]
async fn nats_syncs_before_it_acknowledges() {
    let nats = Fixture::nats().await;
    let configuration = nats.directory().join("nats-0/nats-server.conf");
    let text = std::fs::read_to_string(configuration).unwrap();
    assert!(text.contains("sync_interval: always"), "{text}");
}

#[tokio::test]
async fn a_cluster_takes_streams_with_three_replicas() {
    let mut nats = Fixture::nats_cluster().await;
    let urls: Vec<String> = nats.url().split(',').map(str::to_owned).collect();
    assert_eq!(urls.len(), 3);
    let client = async_nats::connect(&urls).await.unwrap();
    let context = async_nats::jetstream::new(client);
    context
        .create_stream(async_nats::jetstream::stream::Config {
            name: "REPLICATED".to_owned(),
            subjects: vec!["replicated".to_owned()],
            num_replicas: 3,
            ..Default::default()
        })
        .await
        .unwrap();
    nats.kill(0).await;
    let publish = || async {
        let ack = context.publish("replicated", "water".into()).await.ok()?;
        ack.await.ok()
    };
    assert!(eventually(SOON, publish).await.is_some());
    nats.restart(0).await.unwrap();
}

#[tokio::test]
async fn postgres_is_durable_and_survives_a_kill() {
    let mut postgres = Fixture::postgres().await;
    let client = connect(&postgres.database_url()).await;
    assert_eq!(setting(&client, "fsync").await, "on");
    assert_eq!(setting(&client, "synchronous_commit").await, "on");
    assert_eq!(setting(&client, "listen_addresses").await, "127.0.0.1");
    client
        .batch_execute("create table kept (drop int); insert into kept values (1)")
        .await
        .unwrap();

    // A backend that works while its postmaster is killed is what a restart finds in its way.
    let busy = connect(&postgres.database_url()).await;
    let busy = tokio::spawn(async move { busy.batch_execute("select pg_sleep(60)").await });
    postgres.kill().await;
    postgres.restart().await.unwrap();
    assert!(busy.await.unwrap().is_err());
    let client = connect(&postgres.database_url()).await;
    let row = client.query_one("select * from kept", &[]).await.unwrap();
    assert_eq!(row.get::<_, i32>(0), 1);

    postgres.stop().await;
    assert_eq!(postgres.pid(), 0);
    postgres.restart().await.unwrap();
    connect(&postgres.database_url()).await;

    let directory = postgres.directory().to_path_buf();
    assert!(!processes_in(&directory).is_empty());
    drop(postgres);
    assert_eq!(processes_in(&directory), Vec::<u32>::new());
    assert!(!directory.exists());
}

#[tokio::test]
async fn a_frozen_postgres_answers_once_thawed() {
    let postgres = Fixture::postgres().await;
    let client = connect(&postgres.database_url()).await;
    postgres.freeze();
    let query = client.query_one("select 1", &[]);
    tokio::pin!(query);
    let early = tokio::time::timeout(Duration::from_millis(300), &mut query).await;
    assert!(early.is_err(), "a frozen backend answered");
    postgres.thaw();
    assert!(query.await.is_ok());
}

#[tokio::test]
async fn a_killed_postgres_leaves_no_shared_memory() {
    let mut postgres = Fixture::postgres().await;
    let lock_file = postgres.directory().join("data/postmaster.pid");
    let text = std::fs::read_to_string(lock_file).unwrap();
    let segment = text
        .lines()
        .nth(6)
        .unwrap()
        .split_whitespace()
        .nth(1)
        .unwrap()
        .to_owned();
    let exists = || {
        let table = std::fs::read_to_string("/proc/sysvipc/shm").unwrap();
        table
            .lines()
            .any(|line| line.split_whitespace().nth(1) == Some(segment.as_str()))
    };
    assert!(exists());
    postgres.kill().await;
    drop(postgres);
    assert!(!exists());
}

/// Containers forbid namespaces; then PostgreSQL runs as uid 65534 instead.
#[tokio::test]
async fn postgres_runs_as_nobody_where_namespaces_are_forbidden() {
    if !rustix::process::geteuid().is_root() {
        // Only root can become nobody. A plain user needs no namespace either.
        let identity = identity_for(&Fixture::deps().await.postgres_bin).unwrap();
        assert_eq!(identity, Identity::Own);
        return;
    }
    let cache = tempfile::tempdir().unwrap();
    let setup = Setup {
        identity: Some(Identity::Nobody),
        ..Setup::small(cache.path().to_path_buf())
    };
    let mut postgres = Fixture::postgres_with(setup.clone()).await;
    let status = std::fs::read_to_string(format!("/proc/{}/status", postgres.pid())).unwrap();
    assert!(status.contains("Uid:\t65534\t65534"), "{status}");
    let client = connect(&postgres.database_url()).await;
    client
        .batch_execute("create table kept (drop int)")
        .await
        .unwrap();
    postgres.kill().await;
    postgres.restart().await.unwrap();

    // The same data where namespaces are allowed.
    let (deps, directory) = (Fixture::deps().await, postgres.directory().to_path_buf());
    postgres.stop().await;
    let setup = Setup {
        identity: None,
        ..setup
    };
    let again = Postgres::start(&deps, &directory, setup).await.unwrap();
    let client = connect(&again.database_url()).await;
    client
        .batch_execute("insert into kept values (1)")
        .await
        .unwrap();
}
