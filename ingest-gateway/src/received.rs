//! A request whose body is there, and what is read from it.

use std::sync::Arc;

use bytes::Bytes;

use crate::answer::Shape;
use crate::ingest::Sender;
use crate::item::Item;
use crate::json::{self, Body, Parsed};
use crate::quota::Quota;
use crate::refusal::Refusal;
use crate::route::{MediaType, Write};
use crate::shares::Hold;
use crate::work::STRETCH_BYTES_MAX;

/// What a body was read into.
pub(crate) enum Records {
    One(Item),
    Many(Vec<Parsed>),
}

/// A request whose body is there, and which has its turn.
pub(crate) struct Received {
    pub(crate) sender: Sender,
    pub(crate) quota: Option<Arc<Quota>>,
    pub(crate) bytes: Bytes,
    pub(crate) media_type: MediaType,
    pub(crate) write: Write,
    pub(crate) shape: Shape,
    pub(crate) _turn: Hold,
}

impl Received {
    /// Whether it takes long to work on.
    pub(crate) fn is_long(&self) -> bool {
        self.bytes.len() > STRETCH_BYTES_MAX
    }

    /// # Errors
    /// What refuses the body whole.
    pub(crate) fn read(&self) -> Result<Records, Refusal> {
        let (bytes, form) = (&self.bytes, &self.write.form);
        if self.media_type == MediaType::Lines {
            return Ok(Records::Many(json::read_lines(bytes, form)?));
        }
        if self.write.single {
            return Ok(Records::One(json::read_one(bytes, form)?));
        }
        Ok(match json::read(bytes, form)? {
            Body::One(item) => Records::One(item.map_err(|refusal| *refusal)?),
            Body::Many(items) => Records::Many(items),
        })
    }
}

/// How many records a body has, good or bad; one if it cannot be read.
pub(crate) fn count(records: &Result<Records, Refusal>) -> usize {
    match records {
        Ok(Records::Many(items)) => items.len(),
        Ok(Records::One(_)) | Err(_) => 1,
    }
}
