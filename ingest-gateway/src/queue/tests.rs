//! Room, chunks and wake-ups of a partition.

use std::pin::Pin;

use futures_util::FutureExt as _;

use super::*;
use crate::clock::Clock;
use crate::lanes::ENTRIES_BYTES_MAX;

fn share(entries: usize, entry_bytes: usize) -> Encoded {
    Encoded {
        bytes: (0..entries * entry_bytes).map(|it| it as u8).collect(),
        ends: (1..=entries).map(|it| it * entry_bytes).collect(),
    }
}

fn chunks(queue: &Queue) -> impl Iterator<Item = Vec<Part>> {
    std::iter::repeat_with(|| queue.take(0)).take_while(|chunk| !chunk.is_empty())
}

fn add(queue: &Queue, share: &Encoded) -> Vec<Piece> {
    let room = queue.try_room(1, share.ends.len(), share.bytes.len());
    room.expect("room").add_many(share, Clock::new().now())
}

#[tokio::test]
async fn a_large_share_fills_chunks_in_order_and_gives_all_room_back() {
    let queue = Queue::new(Partition(0));
    let large = share(9_000, 100);
    let pieces = add(&queue, &large);
    assert_eq!(queue.records_in_flight(), 9_000);
    assert_eq!(pieces.iter().map(|it| it.records).sum::<usize>(), 9_000);
    let mut bytes = Vec::new();
    let mut count = 0;
    for chunk in chunks(&queue) {
        count += 1;
        for part in chunk {
            bytes.extend_from_slice(&part.entries);
            for contribution in part.contributions {
                queue.settle(contribution, Settled::Stored);
            }
        }
    }
    assert_eq!(count, 3);
    assert_eq!(bytes, large.bytes);
    assert_eq!(queue.records_in_flight(), 0);
    assert_eq!(queue.room.held(), Amount::default());
    for piece in pieces {
        assert_eq!(piece.settled.await, Ok(Settled::Stored));
    }
}

#[tokio::test]
async fn chunks_are_bounded_in_bytes_as_well() {
    let queue = Queue::new(Partition(0));
    let pieces = add(&queue, &share(300, 4_000));
    assert!(pieces.len() >= 3, "{}", pieces.len());
    for chunk in chunks(&queue) {
        let bytes: usize = chunk.iter().map(|part| part.entries.len()).sum();
        assert!(bytes <= ENTRIES_BYTES_MAX);
    }
}

#[tokio::test(start_paused = true)]
async fn a_full_partition_refuses_after_a_short_wait_and_recovers() {
    let queue = Queue::new(Partition(0));
    let deadline = || tokio::time::Instant::now() + ROOM_WAIT;
    let held = queue.try_room(1, RECORDS_IN_FLIGHT_MAX, 1);
    let refusal = queue.room(1, 1, 300, deadline()).await.err();
    let refusal = refusal.expect("there is no room");
    assert_eq!(refusal.problem, Problem::Overloaded);
    assert!((1..=2).contains(&refusal.retry_after.expect("a time")));
    // 40,000 are in flight, and 4,000 a second drain.
    drain(&queue, 4_000, Duration::from_secs(1)).await;
    let refusal = queue.room(2, 1, 300, deadline()).await.err();
    let refusal = refusal.expect("there is no room for others either");
    assert!((10..=15).contains(&refusal.retry_after.expect("a time")));
    drop(held);
    assert!(queue.room(1, 1, 300, deadline()).await.is_ok());
    queue.set_stalled(1, true);
    let refusal = queue.room(1, 1, 300, deadline()).await.err();
    assert_eq!(refusal.map(|it| it.problem), Some(Problem::LogUnavailable));
}

async fn drain(queue: &Queue, records: usize, takes: Duration) {
    queue.drains();
    tokio::time::advance(takes).await;
    queue.drained(records);
}

#[test]
fn the_wait_is_what_drains_by_then_and_bounded() {
    for (queued, rate, expected) in [
        (0.0, 1_000.0, 1),
        (999.0, 1_000.0, 1),
        (1_001.0, 1_000.0, 2),
        (40_000.0, 4_000.0, 10),
        (40_000.0, 1.0, 30),
        // Nothing was ever measured; and the log stands still.
        (40_000.0, 0.0, 1),
        (40_000.0, 1e-9, 30),
    ] {
        assert_eq!(seconds(queued, rate), expected, "{queued} {rate}");
    }
}

#[tokio::test]
async fn many_singles_share_a_chunk() {
    let queue = Queue::new(Partition(0));
    let mut receivers = Vec::new();
    for number in 0..10_u8 {
        let room = queue.try_room(1, 1, 300).expect("room");
        receivers.push(room.add_one(&[number], Clock::new().now()));
    }
    let chunk = queue.take(0);
    assert_eq!(chunk.len(), 1, "one part");
    assert_eq!(chunk[0].entries, (0..10).collect::<Vec<_>>());
    assert!(queue.take(0).is_empty());
}

/// Polls until it waits, and says whether it is done.
fn is_done(wait: &mut Pin<Box<impl Future<Output = ()>>>) -> bool {
    wait.as_mut().now_or_never().is_some()
}

#[tokio::test]
async fn what_a_partner_brings_wakes_a_publisher_unless_it_has_something_in_flight() {
    let queue = Queue::new(Partition(0));
    let brings = |partner| {
        let room = queue.try_room(partner, 1, 300).expect("room");
        drop(room.add_one(b"entry", Clock::new().now()));
    };
    let mut first = Box::pin(queue.arrival(0));
    let mut second = Box::pin(queue.arrival(1));
    assert!(!is_done(&mut first) && !is_done(&mut second));
    brings(1);
    assert!(is_done(&mut first) && !is_done(&mut second));
    assert_eq!(queue.take(0).len(), 1);
    brings(1);
    assert!(!is_done(&mut second), "it would overtake");
    brings(2);
    assert!(is_done(&mut second));
    let chunk = queue.take(1);
    assert_eq!(chunk.len(), 1);
    assert_eq!(chunk[0].contributions[0].room.partner(), 2);
    // Once its chunk is settled, the first finds what its partner brought meanwhile.
    assert_eq!(queue.take(0).len(), 1);

    let (mut first, mut second) = (Box::pin(queue.arrival(0)), Box::pin(queue.arrival(1)));
    assert!(!is_done(&mut first) && !is_done(&mut second));
    queue.close();
    assert!(is_done(&mut first) && is_done(&mut second));
}

#[tokio::test]
async fn what_does_not_fit_one_chunk_wakes_the_other_publisher() {
    let queue = Queue::new(Partition(0));
    let brings = |partner, entry: &[u8]| {
        let room = queue.try_room(partner, 1, entry.len()).expect("room");
        drop(room.add_one(entry, Clock::new().now()));
    };
    (1..=9).for_each(|partner| brings(partner, b"little"));
    assert_eq!(queue.take(0).len(), 9);
    let mut second = Box::pin(queue.arrival(1));
    assert!(!is_done(&mut second));
    // Nine of these are more than a chunk.
    (1..=9).for_each(|partner| brings(partner, &[0; PART_BYTES_MAX - 1_000]));
    assert!(!is_done(&mut second));
    assert_eq!(queue.take(0).len(), 8);
    assert!(is_done(&mut second));
    assert_eq!(queue.take(1).len(), 1);
}

#[test]
fn how_the_last_chunk_ended_counts_for_both_publishers() {
    let queue = Queue::new(Partition(0));
    assert!(!queue.ended(true));
    assert!(queue.is_suspect());
    assert!(queue.ended(false));
    assert!(!queue.is_suspect() && !queue.ended(false));
}
