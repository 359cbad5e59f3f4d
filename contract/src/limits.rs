//! Every bound that a sender can meet, with its unit and its reason.

/// Largest request body, in bytes, before and after decompression. 8 MiB holds 10,000 rides of
/// 800 bytes, more than twice what a real booking takes as JSON.
pub const BODY_BYTES_MAX: usize = 8 * 1024 * 1024;

/// Most items in one array or NDJSON body.
pub const ITEMS_MAX: usize = 10_000;

/// Largest `extra` of a record, in bytes of compact JSON.
pub const EXTRA_BYTES_MAX: usize = 4 * 1024;

/// Deepest nesting inside `extra`; the object that holds the unknown members is depth 1.
pub const EXTRA_DEPTH_MAX: usize = 8;

/// Longest courier id, in characters.
pub const COURIER_ID_CHARS_MAX: usize = 64;

/// Longest name of a courier, in characters.
pub const COURIER_NAME_CHARS_MAX: usize = 200;

/// Longest vehicle type of a courier, in characters.
pub const VEHICLE_TYPE_CHARS_MAX: usize = 64;

/// Longest telephone number of a courier, in characters: E.164 has 15 digits, people add spaces
/// and extensions.
pub const PHONE_CHARS_MAX: usize = 32;

/// Longest reference of a pickup or dropoff, in characters.
pub const REFERENCE_CHARS_MAX: usize = 128;

/// Largest capacity, in litres: what an int4 column holds.
pub const CAPACITY_LITRES_MAX: i32 = i32::MAX;

/// Largest `attributes` of a courier, in bytes of compact JSON; also after a patch.
pub const ATTRIBUTES_BYTES_MAX: usize = 4 * 1024;

/// Deepest nesting inside `attributes`; the object itself is depth 1.
pub const ATTRIBUTES_DEPTH_MAX: usize = 8;

/// Most partitions of an installation: the tracking id has 8 bits for the partition.
pub const PARTITIONS_MAX: u16 = 256;

/// Largest chunk, in bytes, framing included. Half of the server's default `max_payload` (1 MiB,
/// headers included), so that headers and a smaller configured payload still fit.
pub const CHUNK_BYTES_MAX: usize = 512 * 1024;

/// Most records in one chunk: bounds what one lost ack leaves unanswered.
pub const CHUNK_RECORDS_MAX: usize = 4_000;

/// Most tracking ids in one bulk look-up.
pub const LOOKUP_IDS_MAX: usize = 1_000;
