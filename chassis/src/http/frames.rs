//! A budget for HTTP/2 frames that carry nothing.
//!
//! h2 bounds what such frames make it remember (reset streams, CONTINUATION), but answers or
//! ignores as many as come: a client that sends nothing but PING, SETTINGS, PRIORITY or empty DATA
//! would have a processor to itself.

use std::time::Instant;

/// What every HTTP/2 connection begins with (RFC 9113 section 3.4).
pub(super) const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Idle frames that a connection may have sent beyond its allowance: far more than any client
/// sends at once.
const BURST: u32 = 2_000;

/// Allowance per second: a client that measures its bandwidth pings some ten times.
const PER_SECOND: u32 = 200;

/// Allowance per request: its priority, its windows, its reset.
const PER_REQUEST: u32 = 4;

/// Bytes of answers per window update that they may cause.
const BYTES_PER_UPDATE: usize = 2048;

const FRAME_HEAD_BYTES: usize = 9;
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const END_STREAM: u8 = 1;

/// A connection sent more frames that carry nothing than its budget allows.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Flood;

/// Follows one connection's input, however it is cut into reads.
#[derive(Debug)]
pub(super) struct Frames {
    /// Of the preface or of a frame's payload.
    skipped: usize,
    head: [u8; FRAME_HEAD_BYTES],
    head_bytes: usize,
    budget: u32,
    refilled: Instant,
}

impl Frames {
    /// Before the preface.
    pub(super) fn new() -> Self {
        Self {
            skipped: PREFACE.len(),
            head: [0; FRAME_HEAD_BYTES],
            head_bytes: 0,
            budget: BURST,
            refilled: Instant::now(),
        }
    }

    /// Looks at what was read.
    ///
    /// # Errors
    /// [`Flood`].
    pub(super) fn push(&mut self, mut bytes: &[u8]) -> Result<(), Flood> {
        while !bytes.is_empty() {
            let skipped = self.skipped.min(bytes.len());
            self.skipped -= skipped;
            bytes = &bytes[skipped..];
            let taken = (FRAME_HEAD_BYTES - self.head_bytes).min(bytes.len());
            self.head[self.head_bytes..][..taken].copy_from_slice(&bytes[..taken]);
            self.head_bytes += taken;
            bytes = &bytes[taken..];
            if self.head_bytes == FRAME_HEAD_BYTES {
                self.head_bytes = 0;
                self.frame()?;
            }
        }
        Ok(())
    }

    /// What was written may be answered with window updates.
    pub(super) fn wrote(&mut self, bytes: usize) {
        self.earn(u32::try_from(bytes / BYTES_PER_UPDATE).unwrap_or(BURST));
    }

    fn frame(&mut self) -> Result<(), Flood> {
        let [a, b, c, kind, flags, ..] = self.head;
        self.skipped = u32::from_be_bytes([0, a, b, c]) as usize;
        match kind {
            HEADERS => self.earn(PER_REQUEST),
            DATA if self.skipped > 0 || flags & END_STREAM != 0 => {}
            _ => self.spend()?,
        }
        Ok(())
    }

    fn earn(&mut self, frames: u32) {
        self.budget = self.budget.saturating_add(frames).min(BURST);
    }

    fn spend(&mut self) -> Result<(), Flood> {
        if self.budget == 0 {
            let now = Instant::now();
            let seconds = now.duration_since(self.refilled).as_secs();
            if seconds == 0 {
                return Err(Flood);
            }
            self.refilled = now;
            self.earn(u32::try_from(seconds).map_or(BURST, |it| it.saturating_mul(PER_SECOND)));
        }
        self.budget -= 1;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, flags: u8, payload: usize) -> Vec<u8> {
        let length = u32::try_from(payload).expect("small").to_be_bytes();
        let mut frame = vec![length[1], length[2], length[3], kind, flags, 0, 0, 0, 1];
        frame.resize(FRAME_HEAD_BYTES + payload, 0);
        frame
    }

    /// How many frames pass, however the input is cut.
    fn passed(frames: &[Vec<u8>], piece: usize) -> usize {
        let mut budget = Frames::new();
        budget.push(PREFACE).expect("the preface");
        let pass = |frame: &&Vec<u8>| {
            frame
                .chunks(piece.min(frame.len()))
                .all(|it| budget.push(it).is_ok())
        };
        frames.iter().take_while(pass).count()
    }

    #[test]
    fn frames_that_carry_nothing_have_a_budget() {
        let burst = BURST as usize;
        for (name, idle) in [
            ("PING", frame(6, 0, 8)),
            ("SETTINGS", frame(4, 0, 0)),
            ("PRIORITY", frame(2, 0, 5)),
            ("RST_STREAM", frame(3, 0, 4)),
            ("CONTINUATION", frame(9, 0, 1)),
            ("empty DATA", frame(DATA, 0, 0)),
            ("unknown", frame(77, 0, 100)),
        ] {
            for piece in [1, 5, usize::MAX] {
                let passed = passed(&vec![idle.clone(); burst + 9], piece.min(idle.len()));
                assert_eq!(passed, burst, "{name}");
            }
        }
    }

    #[test]
    fn frames_that_carry_something_do_not() {
        let request = [
            frame(HEADERS, 4, 60),
            frame(DATA, 0, 300),
            frame(DATA, END_STREAM, 0),
            frame(8, 0, 4),
            frame(8, 0, 4),
            frame(3, 0, 4),
        ];
        let frames: Vec<_> = request.iter().cycle().take(60_000).cloned().collect();
        assert_eq!(passed(&frames, usize::MAX), frames.len());
    }
}
