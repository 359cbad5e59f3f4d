//! The stack starts, keeps its promises about what dies, and ends in order.

use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use devstack::eventually::eventually;
use devstack::fixture::Fixture;
use devstack::stack::{Endpoints, Role, Stack, StackConfig, StackError};

/// A restart takes a second, crash recovery a few more, on a busy machine.
const SOON: Duration = Duration::from_secs(45);

fn all_pids(endpoints: &Endpoints) -> Vec<u32> {
    let pids = &endpoints.pids;
    [
        &pids.gateway,
        &pids.worker,
        &pids.status,
        &pids.nats,
        &pids.postgres,
    ]
    .into_iter()
    .flatten()
    .copied()
    .collect()
}

fn is_alive(pid: u32) -> bool {
    Path::new(&format!("/proc/{pid}")).exists()
}

#[tokio::test]
async fn what_dies_comes_back_in_its_place() {
    let told = Arc::new(Mutex::new(Vec::new()));
    let file = tempfile::tempdir().unwrap();
    let path = file.path().join("endpoints.json");
    let stack = Fixture::stack(|config| {
        let told = Arc::clone(&told);
        config.notices = Arc::new(move |line| told.lock().unwrap().push(line.to_owned()));
        config.endpoints_file = Some(path.clone());
        config.supervises = true;
        config.gateways = 2;
        config.workers = 2;
    })
    .await;
    let before = Endpoints::read(&path).unwrap();
    assert_eq!(before, stack.endpoints());
    assert_eq!(all_pids(&before).len(), 7);

    let roles = [
        Role::Gateway,
        Role::Worker,
        Role::Status,
        Role::Nats,
        Role::Postgres,
    ];
    for role in roles {
        stack.kill(role, 0).await;
    }
    let replaced = || async {
        let now = Endpoints::read(&path).unwrap();
        let pairs = all_pids(&before).into_iter().zip(all_pids(&now));
        let changed: Vec<bool> = pairs.map(|(old, new)| old != new).collect();
        // The second gateway and the second worker were left alone.
        (changed == [true, false, true, false, true, true, true]).then_some(now)
    };
    let now = eventually(SOON, replaced).await.expect("all five are back");
    assert_eq!(
        Endpoints {
            pids: before.pids.clone(),
            ..now
        },
        before,
        "ports and keys are what they were"
    );
    stack.wait_ready().await.unwrap();
    let told = told.lock().unwrap().join("\n");
    assert!(told.contains("gateway 0 (pid"), "{told}");
    assert!(told.contains("postgres runs again"), "{told}");
}

#[tokio::test]
async fn a_directory_has_one_stack_and_keeps_its_data_and_keys() {
    let first = Fixture::stack(|config| config.partitions = Some(3)).await;
    let endpoints = first.endpoints();
    let config = |fresh: bool| StackConfig {
        fresh,
        ..StackConfig::for_test(
            &first.directory().join("stack"),
            &devstack::workspace::state_directory()
                .unwrap()
                .join("cache"),
        )
    };
    let (again, fresh) = (config(false), config(true));
    let (deps, binaries) = (Fixture::deps().await, Fixture::binaries().await);
    let second = Stack::start(config(false), &deps, &binaries).await;
    assert!(matches!(second, Err(StackError::Running { .. })));
    let (abandoned, files) = first.shutdown().await;
    assert_eq!(abandoned, Vec::<String>::new());
    assert!(all_pids(&endpoints).into_iter().all(|pid| !is_alive(pid)));

    let other = StackConfig {
        partitions: Some(2),
        ..again.clone()
    };
    let refused = Stack::start(other, &deps, &binaries).await;
    assert!(matches!(refused, Err(StackError::Shape { .. })));
    let second = Stack::start(again, &deps, &binaries).await.unwrap();
    second.wait_ready().await.unwrap();
    assert_eq!(second.endpoints().partners, endpoints.partners);
    assert_eq!(partitions(&second).await, 3);
    drop(second);

    let third = Stack::start(fresh, &deps, &binaries).await.unwrap();
    assert_ne!(third.endpoints().partners, endpoints.partners);
    assert_eq!(partitions(&third).await, 2);
    drop(third);
    drop(files);
}

async fn partitions(stack: &Stack) -> i64 {
    let url = stack.endpoints().database_url;
    let (client, connection) = tokio_postgres::connect(&url, tokio_postgres::NoTls)
        .await
        .unwrap();
    tokio::spawn(connection);
    let row = client.query_one("select count(*) from progress", &[]).await;
    row.unwrap().get(0)
}

#[tokio::test]
async fn three_nodes_hold_every_chunk_three_times() {
    let stack = Fixture::stack(|config| config.nats_nodes = Some(3)).await;
    let endpoints = stack.endpoints();
    assert_eq!(endpoints.pids.nats.len(), 3);
    let client = devstack::nats::connect(&endpoints.nats_url).await.unwrap();
    let context = async_nats::jetstream::new(client);
    let stream = context.get_stream("WEIR_INGEST_000").await.unwrap();
    assert_eq!(stream.cached_info().config.num_replicas, 3);
}

#[tokio::test]
async fn even_frozen_processes_end_in_time() {
    let stack = Fixture::stack(|_| {}).await;
    let endpoints = stack.endpoints();
    for role in [Role::Gateway, Role::Worker, Role::Nats, Role::Postgres] {
        stack.freeze(role, 0);
    }
    let begun = Instant::now();
    stack.shutdown().await;
    assert!(
        begun.elapsed() < Duration::from_secs(45),
        "{:?}",
        begun.elapsed()
    );
    assert!(all_pids(&endpoints).into_iter().all(|pid| !is_alive(pid)));
}

#[tokio::test]
async fn what_is_stopped_stays_down_until_it_is_started() {
    let stack = Fixture::stack(|config| config.supervises = true).await;
    let before = stack.endpoints();
    stack.stop(Role::Postgres, 0).await;
    assert!(!is_alive(before.pids.postgres[0]));
    // Long enough for a supervisor to make the mistake.
    let restarted = || async { (stack.endpoints() != before).then_some(()) };
    assert!(
        eventually(Duration::from_secs(3), restarted)
            .await
            .is_none()
    );
    stack.start_again(Role::Postgres, 0).await.unwrap();
    stack.wait_ready().await.unwrap();
}
