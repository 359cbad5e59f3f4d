//! Chunks from foreign bytes: what is read says the same when it is written again, so nothing of
//! it was passed over in silence.
#![no_main]

use contract::chunk::{self, Chunk, Encoder};
use libfuzzer_sys::fuzz_target;
use xxhash_rust::xxh3::xxh3_64;

const FRAME_BYTES: usize = 16;

fuzz_target!(|data: &[u8]| {
    check(data);
    // Nobody guesses a checksum: the first byte is the version, the rest a payload.
    if let Some((version, payload)) = data.split_first() {
        let mut message = b"WEIR".to_vec();
        message.extend([*version, 0, 0, 0]);
        message.extend(xxh3_64(payload).to_le_bytes());
        message.extend(payload);
        check(&message);
    }
});

fn check(message: &[u8]) {
    let Ok(read) = chunk::decode(message) else {
        return;
    };
    let written = write(&read);
    let again = chunk::decode(&written).expect("what was written can be read");
    // By their text, which tells one NaN from a number but not from another.
    assert_eq!(format!("{read:?}"), format!("{again:?}"));
    assert_eq!(write(&again), written, "writing is stable");
    // But for the version, of which only the latest is written.
    assert_eq!(
        written[FRAME_BYTES..],
        message[FRAME_BYTES..],
        "the same bytes: {read:?}"
    );
}

fn write(chunk: &Chunk) -> Vec<u8> {
    let mut encoder = Encoder::new();
    for entry in &chunk.entries {
        let mut encoded = Vec::new();
        chunk::encode_entry(entry, &mut encoded);
        encoder.push_encoded(&encoded);
    }
    encoder.seal(chunk.header.clone()).to_vec()
}
