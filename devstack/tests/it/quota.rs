//! One limit over several gateways.

use std::num::NonZeroU32;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use devstack::stack::Role;
use partners::{Bucket, Limits};
use serde_json::Value;
use tokio::time::{interval, timeout};

use crate::support::{System, ride, until};

/// Of all gateways together, in records a second.
const RATE: u32 = 300;

/// Small beside what a window admits: what has gathered before it hardly counts. Yet each gateway's
/// part is several of its requests: one that could hold only one would waste what comes in between.
const BURST: u32 = 90;

/// What each gateway is offered: several times what it may admit, whoever else is there.
const OFFER: i64 = 5;
const OFFER_INTERVAL: Duration = Duration::from_millis(12);

/// Over how long is counted. Two seconds in which a dead gateway's third is missing are less than
/// a tenth of it.
const WINDOW: Duration = Duration::from_secs(10);

/// The part that may be missing or too much.
const TOLERANCE: f64 = 0.1;

/// Offers records to one gateway for ever, and counts what it admits.
async fn offer(system: &System, gateway: &str, admitted: &AtomicU64) {
    static NEXT: AtomicI64 = AtomicI64::new(1);
    let (url, key) = (format!("{gateway}/v1/rides"), system.key(0));
    let mut ticks = interval(OFFER_INTERVAL);
    loop {
        ticks.tick().await;
        let first = NEXT.fetch_add(OFFER, Ordering::Relaxed);
        let rides: Value = (first..first + OFFER).map(ride).collect();
        let body = rides.to_string().into();
        // A gateway that was killed does not answer.
        let sent = system.try_send("POST", &url, Some(&key), "application/json", body);
        let Some(answer) = sent.await else { continue };
        match answer.status {
            202 => {
                let accepted = answer.json["accepted"].as_u64().expect("a count");
                admitted.fetch_add(accepted, Ordering::Relaxed);
            }
            429 => assert!(!answer.header("retry-after").is_empty()),
            // The gateway has only just started.
            503 => {}
            status => panic!("{status}: {}", answer.json),
        }
    }
}

/// What three gateways admit in a window, as a part of what the limit is.
async fn admitted(system: &System) -> f64 {
    let gateways = system.stack.endpoints().gateway;
    let [a, b, c] = &gateways[..] else {
        panic!("three gateways")
    };
    let admitted = AtomicU64::new(0);
    let begun = Instant::now();
    let all = async {
        tokio::join!(
            offer(system, a, &admitted),
            offer(system, b, &admitted),
            offer(system, c, &admitted),
        )
    };
    let ended = timeout(WINDOW, all).await;
    assert!(ended.is_err(), "offers go on for ever");
    let limit = f64::from(RATE) * begun.elapsed().as_secs_f64();
    admitted.into_inner() as f64 / limit
}

async fn counted(system: &System, gateways: &[usize]) {
    let admins = system.stack.endpoints().admin.gateway;
    let count = gateways.len() as f64;
    for gateway in gateways {
        let admin = &admins[*gateway];
        until("the gateways have counted each other", || async {
            system.metric(admin, "weir_gateway_gateways_live").await == count
        })
        .await;
    }
}

fn assert_is_the_limit(part: f64, when: &str) {
    let is_near = (part - 1.0).abs() <= TOLERANCE;
    assert!(is_near, "{when}: {part:.3} of the limit were admitted");
}

/// Three gateways admit what one would, and go on doing so when one dies and when it is back.
///
/// It counts what is admitted over time, so whatever keeps the offers from being made, other tests
/// for instance, is missing from the count.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "measures a rate: .ci/run runs it by name, alone on the machine"]
async fn three_gateways_admit_what_one_would() {
    let system = System::start(|config| config.gateways = 3).await;
    counted(&system, &[0, 1, 2]).await;
    let log = [system.stack.endpoints().nats_url];
    let client = partners::connect(&log, "test").await;
    let bucket = Bucket::open(&client.expect("the log"))
        .await
        .expect("partners");
    let limits = Limits {
        records_per_second: NonZeroU32::new(RATE),
        records_burst: NonZeroU32::new(BURST),
        ..Limits::default()
    };
    let changed = bucket.change(1, |partner| partner.set_limits(limits));
    changed.await.expect("the limits are set");
    for gateway in system.stack.endpoints().gateway {
        let (url, key) = (format!("{gateway}/v1/rides"), system.key(0));
        until("the gateway has the limits", || async {
            let body = ride(1).to_string();
            let answer = system.send("POST", &url, Some(&key), "application/json", body);
            !answer.await.header("ratelimit").is_empty()
        })
        .await;
    }

    assert_is_the_limit(admitted(&system).await, "three gateways");
    // Counted from the moment of its death: the others take its part over in time.
    system.stack.kill(Role::Gateway, 2).await;
    assert_is_the_limit(admitted(&system).await, "one was killed");
    counted(&system, &[0, 1]).await;
    // And from the moment of its return.
    system
        .stack
        .start_again(Role::Gateway, 2)
        .await
        .expect("it starts");
    assert_is_the_limit(admitted(&system).await, "it is back");
    counted(&system, &[0, 1, 2]).await;
}
