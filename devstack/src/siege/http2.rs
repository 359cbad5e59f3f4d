//! HTTP/2 frames by hand, and floods of them.

use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

/// Kinds of frames (RFC 9113 section 6).
pub const DATA: u8 = 0;
/// Begins a stream.
pub const HEADERS: u8 = 1;
/// Deprecated, and to be ignored.
pub const PRIORITY: u8 = 2;
/// Ends a stream at once.
pub const RST_STREAM: u8 = 3;
/// Has to be acknowledged.
pub const SETTINGS: u8 = 4;
/// Has to be answered.
pub const PING: u8 = 6;
/// Lets the other side send more.
pub const WINDOW_UPDATE: u8 = 8;
/// More of a head.
pub const CONTINUATION: u8 = 9;

/// A flag of DATA and HEADERS: nothing follows on this stream.
pub const END_STREAM: u8 = 1;
/// A flag of HEADERS: no CONTINUATION follows.
pub const END_HEADERS: u8 = 4;

/// Most frames that an attacker gets to send before it must have been closed on.
const FRAMES_MAX: u32 = 200_000;

/// Longest that this may take, on a busy machine.
const FLOOD_WAIT: Duration = Duration::from_secs(60);

/// The head of `GET path` from HPACK's static table, with a literal path.
#[must_use]
pub fn get(path: &str) -> Vec<u8> {
    head(0x82, path)
}

/// The head of `POST path`, likewise.
#[must_use]
pub fn post(path: &str) -> Vec<u8> {
    head(0x83, path)
}

fn head(method: u8, path: &str) -> Vec<u8> {
    let length = u8::try_from(path.len()).expect("a short path");
    [&[method, 0x86, 1, 1, b'x', 4, length], path.as_bytes()].concat()
}

/// One frame.
#[must_use]
pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("a short payload");
    let head = [
        &length.to_be_bytes()[1..],
        &[kind, flags],
        &stream.to_be_bytes(),
    ]
    .concat();
    [&head, payload].concat()
}

/// How a connection begins.
#[must_use]
pub fn preface(settings: &[u8]) -> Vec<u8> {
    let settings = frame(SETTINGS, 0, 0, settings);
    [&b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"[..], &settings].concat()
}

/// Sends `first` and then frames, reading whatever comes, until the other side closes; whether it
/// did before there were too many.
///
/// # Panics
/// When it takes them more slowly than any attacker would wait.
pub async fn flood(
    stream: impl AsyncRead + AsyncWrite,
    first: &[u8],
    mut frames: impl FnMut(u32) -> Vec<u8>,
) -> bool {
    let (mut reader, mut writer) = tokio::io::split(stream);
    let reading = async move {
        let mut buffer = vec![0; 16 * 1024];
        while let Ok(1..) = reader.read(&mut buffer).await {}
        true
    };
    let writing = async move {
        if writer.write_all(first).await.is_err() {
            return true;
        }
        for number in (0..FRAMES_MAX).step_by(64) {
            let batch: Vec<u8> = (number..number + 64).flat_map(&mut frames).collect();
            // What TLS holds back would be sent by nobody else.
            if writer.write_all(&batch).await.is_err() || writer.flush().await.is_err() {
                return true;
            }
        }
        false
    };
    // Whichever notices first.
    let flood = async {
        tokio::select! {
            ended = writing => ended,
            ended = reading => ended,
        }
    };
    tokio::time::timeout(FLOOD_WAIT, flood)
        .await
        .expect("it ends in time")
}

/// A kind of flood: its name, and what is sent after the preface, over and over, given the head of
/// a POST that has a body.
pub type Flood = (&'static str, fn(&[u8], u32) -> Vec<u8>);

/// All that one connection can send without end although it carries nothing. `/openapi.json` is
/// asked for in some of them.
pub const FLOODS: [Flood; 9] = [
    ("rapid reset", |_, n| {
        let stream = 2 * n + 1;
        let flags = END_STREAM | END_HEADERS;
        let request = frame(HEADERS, flags, stream, &get("/openapi.json"));
        [request, frame(RST_STREAM, 0, stream, &[0, 0, 0, 8])].concat()
    }),
    // The other side is made to reset: a window that overflows.
    ("made to reset", |post, n| {
        let stream = 2 * n + 1;
        let request = frame(HEADERS, END_HEADERS, stream, post);
        let overflow = frame(WINDOW_UPDATE, 0, stream, &[0x7f, 0xff, 0xff, 0xff]);
        [request, overflow].concat()
    }),
    ("CONTINUATION", |_, n| match n {
        0 => frame(HEADERS, 0, 1, &get("/openapi.json")),
        _ => frame(CONTINUATION, 0, 1, b"\x00\x01a\x01b"),
    }),
    ("large CONTINUATION", |_, n| match n {
        0 => frame(HEADERS, 0, 1, &get("/openapi.json")),
        _ => frame(CONTINUATION, 0, 1, &b"\x40\x01a\x7f\x81\x01".repeat(2_000)),
    }),
    ("SETTINGS", |_, _| {
        frame(SETTINGS, 0, 0, &[0, 3, 0, 0, 0, 9])
    }),
    ("PING", |_, _| frame(PING, 0, 0, &[7; 8])),
    ("PRIORITY", |_, _| frame(PRIORITY, 0, 1, &[0, 0, 0, 3, 1])),
    ("empty DATA", |post, n| match n {
        0 => frame(HEADERS, END_HEADERS, 1, post),
        _ => frame(DATA, 0, 1, b""),
    }),
    ("unknown", |_, _| frame(99, 0, 0, b"x")),
];
