//! An attack on a gateway beside an honest client; what all sieges have in common is devstack's.

use std::cell::Cell;

use devstack::siege;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

pub(crate) use devstack::siege::{ATTACKERS, BESIDE_BYTES_MAX, LONG, SHORT, Size, trickle};

use crate::harness::{Gateway, LIMIT, ride};

/// Room for bodies in these tests, in bytes, and the flag that says so.
pub(crate) const ROOM_BYTES: u64 = 64 << 20;
pub(crate) const ROOM_FLAG: &str = "--body-bytes-max=64MiB";

/// What attacks by bodies may make it take, in bytes. A body that outgrows its buffer is moved into
/// one of twice the size; all that it was moved out of is together as large as where it is now, and
/// the allocator may keep that for a while: twice the room, when all grow at once.
pub(crate) const BODIES_BYTES_MAX: u64 = 2 * ROOM_BYTES + BESIDE_BYTES_MAX;

/// Runs an attack beside an honest client.
pub(crate) async fn besieged<T>(
    gateway: &mut Gateway,
    bytes_max: u64,
    attack: impl AsyncFnOnce(&Gateway) -> T,
) -> T {
    let honest = async |gateway: &Gateway, id: i64| gateway.post(&ride(id)).await.status;
    Box::pin(besieged_beside(gateway, bytes_max, honest, attack)).await
}

/// Runs an attack beside an honest client that posts a ride as it likes, and gives the status.
pub(crate) async fn besieged_beside<T>(
    gateway: &mut Gateway,
    bytes_max: u64,
    honest: impl AsyncFn(&Gateway, i64) -> u16,
    attack: impl AsyncFnOnce(&Gateway) -> T,
) -> T {
    let pid = gateway.child.id().expect("running");
    let besieged: &Gateway = gateway;
    let last = Cell::new(0);
    let post = async || {
        last.set(last.get() + 1);
        assert_eq!(honest(besieged, last.get()).await, 202, "an honest client");
    };
    let attack = async || attack(besieged).await;
    let done = Box::pin(siege::besieged(pid, bytes_max, post, attack)).await;
    assert!(gateway.child.try_wait().unwrap().is_none(), "it lives");
    done
}

/// A connection from one of the attackers' addresses.
pub(crate) async fn attacker(gateway: &Gateway, number: usize) -> TcpStream {
    siege::attacker(&gateway.address, number).await
}

/// Sends `head` and then `piece` again and again, as fast as it is taken, until it is closed on;
/// the answer, which a reset may have swallowed.
pub(crate) async fn pour(stream: TcpStream, head: &[u8], piece: &[u8], bytes_max: usize) -> String {
    let (mut reader, mut writer) = stream.into_split();
    let writing = async {
        let mut sent = 0;
        if writer.write_all(head).await.is_err() {
            return;
        }
        while writer.write_all(piece).await.is_ok() {
            sent += piece.len();
            assert!(sent < bytes_max, "it is taken for ever");
            // The answer is to be read as soon as it is there.
            tokio::task::yield_now().await;
        }
    };
    let reading = async {
        let mut answer = Vec::new();
        let _ = reader.read_to_end(&mut answer).await;
        String::from_utf8_lossy(&answer).into_owned()
    };
    let both = async { tokio::join!(writing, reading) };
    let ended = tokio::time::timeout(LIMIT, both).await;
    ended.expect("it is closed in time").1
}
