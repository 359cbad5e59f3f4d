//! A 202 means that the log has it on disk.

use std::collections::HashMap;

use crate::support::{System, ride, until};

/// What the server does for one chunk, in the order in which the kernel sees it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Step {
    Publish,
    /// Of the partition's block file, by this thread.
    FsyncBegins(u32),
    FsyncEnds(u32),
    Ack,
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs strace; .ci/run installs it and runs this by name"]
async fn an_fsync_stands_between_every_publish_and_its_ack() {
    let system = System::start(|config| config.partitions = Some(1)).await;
    let pid = system.stack.endpoints().pids.nats[0];
    let directory = tempfile::tempdir().expect("a temporary directory");
    let trace = directory.path().join("trace");
    let mut strace = tokio::process::Command::new("strace")
        .args([
            "-f",
            "-y",
            "-s",
            "4096",
            "-e",
            "trace=read,write,writev,fsync,fdatasync",
            "-p",
            &pid.to_string(),
            "-o",
        ])
        .arg(&trace)
        .stderr(std::process::Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .expect("strace starts: apt-get install strace");
    let read = || steps(&std::fs::read(&trace).unwrap_or_default());
    // The worker's empty chunks show that strace is attached.
    until("strace sees an ack", || async {
        read().contains(&Step::Ack)
    })
    .await;
    let already = read().iter().filter(|step| **step == Step::Ack).count();

    const RECORDS: usize = 20;
    for id in 1..=RECORDS {
        let answer = system
            .post(
                "/v1/rides",
                ride(i64::try_from(id).expect("small")).to_string(),
            )
            .await;
        assert_eq!(answer.status, 202);
    }
    until("strace has written every ack", || async {
        read().iter().filter(|step| **step == Step::Ack).count() >= already + RECORDS
    })
    .await;
    strace.kill().await.expect("strace ends");

    let acks = acks_after_fsync(&read());
    assert!(acks >= RECORDS, "{acks} acks seen for {RECORDS} records");
}

/// Counts the acks, each of which needs an fsync that began after its publish was read and ended
/// before the ack. One partition: an ack belongs to the oldest publish that has none.
fn acks_after_fsync(steps: &[Step]) -> usize {
    let (mut published, mut synced, mut acked) = (0, 0, 0);
    let mut under_way = HashMap::new();
    for step in steps {
        match step {
            Step::Publish => published += 1,
            Step::FsyncBegins(thread) => drop(under_way.insert(*thread, published)),
            Step::FsyncEnds(thread) => synced = synced.max(under_way.remove(thread).unwrap_or(0)),
            // What was published before strace was attached is not known.
            Step::Ack if acked < published => {
                acked += 1;
                assert!(
                    acked <= synced,
                    "ack {acked} of {published} without an fsync after its publish"
                );
            }
            Step::Ack => {}
        }
    }
    acked
}

/// A call that another thread interrupts stands on two lines: `unfinished ...` and `resumed`.
fn steps(trace: &[u8]) -> Vec<Step> {
    let mut steps = Vec::new();
    for line in String::from_utf8_lossy(trace).lines() {
        let thread = line
            .split_whitespace()
            .next()
            .and_then(|it| it.parse().ok())
            .unwrap_or(0);
        let (unfinished, resumed) = (line.contains("<unfinished"), line.contains(" resumed>"));
        if line.contains("PUB weir.ingest.") && line.contains("read") {
            steps.push(Step::Publish);
        } else if line.contains("sync(") && line.contains(".blk>") {
            steps.push(Step::FsyncBegins(thread));
            if !unfinished {
                steps.push(Step::FsyncEnds(thread));
            }
        } else if line.contains("sync resumed>") {
            steps.push(Step::FsyncEnds(thread));
        } else if line.contains("write")
            && !resumed
            && line.contains(r#"\"stream\":\"WEIR_INGEST_"#)
        {
            steps.push(Step::Ack);
        }
    }
    steps
}

#[test]
fn an_ack_without_an_fsync_would_be_noticed() {
    let good = [
        Step::Publish,
        Step::FsyncBegins(1),
        Step::FsyncEnds(1),
        Step::Ack,
    ];
    assert_eq!(acks_after_fsync(&good), 1);
    for bad in [
        vec![Step::Publish, Step::Ack],
        vec![
            Step::FsyncBegins(1),
            Step::FsyncEnds(1),
            Step::Publish,
            Step::Ack,
        ],
        vec![
            Step::FsyncBegins(1),
            Step::Publish,
            Step::FsyncEnds(1),
            Step::Ack,
        ],
        vec![
            Step::Publish,
            Step::FsyncBegins(1),
            Step::Ack,
            Step::FsyncEnds(1),
        ],
    ] {
        assert!(
            std::panic::catch_unwind(|| acks_after_fsync(&bad)).is_err(),
            "{bad:?}"
        );
    }
}
