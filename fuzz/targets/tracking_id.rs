//! Tracking ids from foreign text and bytes: whatever is read comes back as it was, and nothing is
//! too strange to be verified.
#![no_main]

use std::sync::LazyLock;

use arbitrary::Arbitrary;
use contract::tracking_id::{KeyRing, Minter};
use contract::{Partition, TrackingId};
use libfuzzer_sys::fuzz_target;
use uuid::Uuid;

const RING: &str = "new 000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f\n\
                    old ff0102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f\n";

static KEYS: LazyLock<KeyRing> = LazyLock::new(|| KeyRing::parse(RING).expect("two keys"));
static MINTER: LazyLock<Minter> = LazyLock::new(|| Minter::new(KEYS.clone()));

#[derive(Arbitrary, Debug)]
enum Input<'a> {
    Text(&'a str),
    Bytes([u8; 16], i32),
    Mint(i32, u8, u64),
    KeyFile(&'a str),
}

fuzz_target!(|input: Input<'_>| {
    match input {
        Input::Text(text) => {
            let read = text.parse::<TrackingId>();
            assert_eq!(read.is_ok(), is_form(text), "{text:?}");
            if let Ok(id) = read {
                assert!(id.to_string().eq_ignore_ascii_case(text), "{text:?}");
                check(id, 1);
            }
        }
        Input::Bytes(bytes, partner) => {
            let uuid = Uuid::from_bytes(bytes);
            let id = TrackingId::from_uuid(uuid);
            let is_v7 = bytes[6] >> 4 == 7 && bytes[8] >> 6 == 0b10;
            assert_eq!(id.is_some(), is_v7, "{uuid}");
            if let Some(id) = id {
                assert_eq!(id.uuid(), uuid);
                assert_eq!(id.partition(), Partition(bytes[13]));
                let millis = bytes[..6]
                    .iter()
                    .fold(0, |ms, byte| ms << 8 | u64::from(*byte));
                assert_eq!(id.unix_ms(), millis);
                check(id, partner);
            }
        }
        Input::Mint(partner, partition, now_ms) => {
            // 48 bits are what an id has; the minter remembers the latest, so leave room.
            let id = MINTER.mint(partner, Partition(partition), now_ms >> 24);
            assert_eq!(id.partition(), Partition(partition));
            assert!(KEYS.verify(id, partner), "{id}");
            check(id, partner);
        }
        Input::KeyFile(text) => {
            // A ring that could be read can mint and verify.
            if let Ok(ring) = KeyRing::parse(text) {
                let id = Minter::new(ring.clone()).mint(1, Partition(0), 1);
                assert!(ring.verify(id, 1));
            }
        }
    }
});

/// By hand: 8-4-4-4-12 hexadecimal digits, version 7, variant 8 to b.
fn is_form(text: &str) -> bool {
    let bytes = text.as_bytes();
    bytes.len() == 36
        && bytes.iter().enumerate().all(|(at, byte)| match at {
            8 | 13 | 18 | 23 => *byte == b'-',
            14 => *byte == b'7',
            19 => matches!(byte, b'8' | b'9' | b'a' | b'b' | b'A' | b'B'),
            _ => byte.is_ascii_hexdigit(),
        })
}

fn check(id: TrackingId, partner: i32) {
    let _ = KEYS.verify(id, partner);
    assert_eq!(TrackingId::from_uuid(id.uuid()), Some(id));
    assert_eq!(id.to_string().parse(), Ok(id));
}
