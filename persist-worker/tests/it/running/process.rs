//! The binary: its words, its exit codes, and what signals do to it.

use std::path::Path;
use std::time::Duration;

use contract::TrackingId;
use devstack::eventually::eventually;
use devstack::process::{Launch, Process, Signal};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};

use super::leases::shared_by_two;
use super::rig::{LIMIT, Rig};

const BINARY: &str = env!("CARGO_BIN_EXE_persist-worker");

fn spawn(rig: &Rig, command: &str, flags: &[&str], log: &Path) -> Process {
    let mut launch = Launch::new(command, Path::new(BINARY), log);
    launch
        .command
        .arg(command)
        .args(["--nats-url", &rig.nats.url()])
        .args(["--database-url", &rig.postgres.database_url()])
        .args(flags);
    launch.captures_first_line = true;
    launch.spawn().unwrap()
}

pub(crate) fn spawn_worker(rig: &Rig, owner: &str) -> Process {
    let log = rig.nats.directory().join(owner);
    let flags = ["--owner", owner, "--admin-listen", "127.0.0.1:0"];
    spawn(rig, "run", &flags, &log)
}

async fn get(address: &str, path: &str) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let request = format!("GET {path} HTTP/1.0\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

#[tokio::test(flavor = "multi_thread")]
async fn it_migrates_announces_tells_and_drains() {
    let rig = Rig::bare().await;
    let log = rig.nats.directory().join("worker.log");
    let flags = ["--partitions", "2", "--stream-bytes-max", "16MiB"];
    let migrating = spawn(&rig, "migrate", &flags, &log);
    let status = timeout(LIMIT, migrating.exited()).await.unwrap();
    assert!(
        status.success(),
        "{}",
        std::fs::read_to_string(&log).unwrap()
    );

    let worker = spawn_worker(&rig, "worker");
    let announced = timeout(LIMIT, worker.first_line()).await.unwrap().unwrap();
    let announced: serde_json::Value = serde_json::from_str(&announced).unwrap();
    let admin = announced["admin"].as_str().unwrap();
    let ready = eventually(LIMIT, async || {
        let answer = get(admin, "/readyz").await;
        answer.starts_with("HTTP/1.0 200").then_some(())
    });
    ready.await.expect("it becomes ready");
    rig.persisted(&rig.publish(1, &[1, 2, 3]).await).await;
    for line in [
        "weir_worker_lease_held{partition=\"000\"} 1",
        "weir_worker_lease_held{partition=\"001\"} 1",
        "weir_worker_records_total{outcome=\"persisted\"",
        "weir_worker_delay_seconds{partition=\"001\"}",
        "weir_worker_backlog_chunks{partition=\"001\"}",
        "weir_worker_transaction_seconds_bucket",
        "weir_worker_events_delay_seconds{partition=\"001\"} 0",
        "weir_worker_events_waiting{partition=\"001\"} 0",
        "weir_worker_events_stream_max_bytes 4294967296",
    ] {
        let there = eventually(LIMIT, async || {
            let metrics = get(admin, "/metrics").await;
            metrics.contains(line).then_some(())
        });
        if there.await.is_none() {
            panic!("no {line} in {}", get(admin, "/metrics").await);
        }
    }
    worker.signal(Signal::TERM);
    let status = timeout(LIMIT, worker.exited()).await.unwrap();
    assert!(status.success());
    assert_eq!(rig.owners().await, [None, None]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_stream_holds_its_partition_and_is_named() {
    let rig = Rig::with_partitions(2).await;
    let worker = spawn_worker(&rig, "worker");
    let announced = timeout(LIMIT, worker.first_line()).await.unwrap().unwrap();
    let announced: serde_json::Value = serde_json::from_str(&announced).unwrap();
    let admin = announced["admin"].as_str().unwrap();
    rig.persisted(&rig.publish(1, &[1]).await).await;
    let name = contract::log::stream_name(contract::Partition(1));
    rig.jetstream.delete_stream(&name).await.unwrap();
    let held = eventually(LIMIT, async || {
        let metrics = get(admin, "/metrics").await;
        metrics
            .contains("weir_worker_held{partition=\"001\"} 1")
            .then_some(())
    });
    held.await.expect("partition 1 is held");
    let answer = get(admin, "/readyz").await;
    let reason = format!("stream {name} does not exist");
    assert!(
        answer.contains("partition-001") && answer.contains(&reason),
        "{answer}"
    );
    worker.signal(Signal::TERM);
    timeout(LIMIT, worker.exited()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_usage_is_64_and_an_unfit_database_1() {
    let rig = Rig::with_partitions(1).await;
    let log = rig.nats.directory().join("worker.log");
    let exit_code = async |command: &str, flags: &[&str]| {
        let process = spawn(&rig, command, flags, &log);
        let status = timeout(LIMIT, process.exited()).await.unwrap();
        status.code()
    };
    assert_eq!(exit_code("run", &["--log-retain", "1"]).await, Some(64));
    assert_eq!(
        exit_code("migrate", &["--partitions", "257"]).await,
        Some(64)
    );
    assert_eq!(exit_code("migrate", &["--partitions", "2"]).await, Some(1));
    let sql = rig.sql().await;
    sql.batch_execute("alter system set fsync = off")
        .await
        .unwrap();
    sql.batch_execute("select pg_reload_conf()").await.unwrap();
    let flags = ["--admin-listen", "127.0.0.1:0"];
    assert_eq!(exit_code("run", &flags).await, Some(1));
    let said = std::fs::read_to_string(&log).unwrap();
    assert!(
        said.contains("error: the database runs with fsync off"),
        "{said}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unusable_url_is_64_before_anything_is_announced_and_is_never_quoted() {
    let good_log = "nats://127.0.0.1:4222";
    let good_database = "postgres://weir:geheim@127.0.0.1:5432/weir";
    for (nats_url, database_url, flag) in [
        (good_log, "nonsense", "--database-url"),
        (
            good_log,
            "postgres://weir:geheim@127.0.0.1:port/weir",
            "--database-url",
        ),
        (good_log, "postgres:///weir", "--database-url"),
        (good_log, "host=127.0.0.1 password=geheim", "--database-url"),
        ("http://[bad", good_database, "--nats-url"),
        (
            "nats://one,http://weir:geheim@two",
            good_database,
            "--nats-url",
        ),
        ("nats://weir:geheim", good_database, "--nats-url"),
    ] {
        for command in ["run", "migrate"] {
            let output = tokio::process::Command::new(BINARY)
                .arg(command)
                .args(["--nats-url", nats_url, "--database-url", database_url])
                .kill_on_drop(true)
                .output();
            let output = timeout(LIMIT, output).await.unwrap().unwrap();
            let said = String::from_utf8(output.stderr).unwrap();
            assert_eq!(output.status.code(), Some(64), "{said}");
            assert!(output.stdout.is_empty(), "it announced itself");
            assert!(said.contains(flag) && !said.contains("geheim"), "{said}");
        }
    }
}

/// Publishes chunks to both partitions for a while; what was published.
async fn publish_for(rig: &Rig, time: Duration, next_ride: &mut i64) -> Vec<TrackingId> {
    let until = Instant::now() + time;
    let mut ids = Vec::new();
    while Instant::now() < until {
        for partition in 0..2 {
            let rides: Vec<i64> = (*next_ride..*next_ride + 5).collect();
            *next_ride += 5;
            ids.extend(rig.publish(partition, &rides).await);
        }
    }
    ids
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frozen_process_is_replaced_and_doubles_nothing_when_thawed() {
    let rig = Rig::with_partitions(2).await;
    let first = spawn_worker(&rig, "first");
    let second = spawn_worker(&rig, "second");
    shared_by_two(&rig, LIMIT).await;
    let mut next_ride = 1;
    let second_of_load = Duration::from_secs(1);
    let mut ids = publish_for(&rig, second_of_load, &mut next_ride).await;
    first.signal(Signal::STOP);
    let frozen_at = Instant::now();
    ids.extend(publish_for(&rig, second_of_load, &mut next_ride).await);
    rig.persisted(&ids).await;
    let took = frozen_at.elapsed();
    assert!(took < Duration::from_secs(8), "taken over after {took:?}");
    first.signal(Signal::CONT);
    ids.extend(publish_for(&rig, second_of_load, &mut next_ride).await);
    shared_by_two(&rig, LIMIT).await;
    ids.extend(publish_for(&rig, second_of_load, &mut next_ride).await);
    rig.persisted(&ids).await;
    let published = i64::try_from(ids.len()).unwrap();
    assert_eq!(rig.count("select count(*) from requests").await, published);
    assert_eq!(rig.count("select count(*) from rides").await, published);
    for worker in [first, second] {
        worker.signal(Signal::TERM);
        let status = timeout(LIMIT, worker.exited()).await.unwrap();
        assert!(status.success());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_process_is_replaced_within_six_seconds() {
    let rig = Rig::with_partitions(2).await;
    let first = spawn_worker(&rig, "first");
    let _second = spawn_worker(&rig, "second");
    shared_by_two(&rig, LIMIT).await;
    let mut next_ride = 1;
    let mut ids = publish_for(&rig, Duration::from_secs(1), &mut next_ride).await;
    first.kill().await;
    let killed_at = Instant::now();
    ids.extend(publish_for(&rig, Duration::from_secs(1), &mut next_ride).await);
    let taken = eventually(LIMIT, async || {
        let owners = rig.owners().await;
        let second =
            |owner: &Option<String>| owner.as_ref().is_some_and(|it| it.starts_with("second"));
        owners.iter().all(second).then_some(killed_at.elapsed())
    });
    let took = taken.await.expect("the other takes over");
    assert!(took < Duration::from_secs(6), "taken over after {took:?}");
    rig.persisted(&ids).await;
    let published = i64::try_from(ids.len()).unwrap();
    assert_eq!(rig.count("select count(*) from rides").await, published);
}
