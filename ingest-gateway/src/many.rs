//! The items of an array or of lines, sorted by partition and put together again as results.

use contract::{Partitions, Problem, TrackingId};

use crate::answer::ItemAnswer;
use crate::item::{Item, Resend};
use crate::json::Parsed;
use crate::queue::{Piece, Settled};
use crate::refusal::Refusal;

/// The items of one request.
pub(crate) struct Many {
    /// `None` where the item was refused, or is queued.
    items: Vec<Option<Item>>,
    /// Of the good items, by their place in the body.
    resends: Vec<Resend>,
    answers: Vec<Option<ItemAnswer>>,
}

/// What of a request goes to one partition.
#[derive(Default)]
pub(crate) struct PartitionItems {
    /// Where in the body; ascending.
    pub(crate) indices: Vec<usize>,
    /// The bytes of room they need.
    pub(crate) room_bytes: usize,
    /// One per index, once queued.
    pub(crate) ids: Vec<TrackingId>,
    /// Together as many records as `ids`.
    pub(crate) pieces: Vec<Piece>,
}

impl PartitionItems {
    pub(crate) fn is_queued(&self) -> bool {
        !self.ids.is_empty()
    }
}

impl Many {
    /// Keeps the bad items' refusals and sorts the good ones by partition, in the body's order.
    pub(crate) fn sort(
        parsed: Vec<Parsed>,
        partner_id: i32,
        partitions: Partitions,
    ) -> (Self, Vec<PartitionItems>) {
        let mut by_partition: Vec<PartitionItems> = partitions
            .iter()
            .map(|_| PartitionItems::default())
            .collect();
        let mut many = Self {
            items: Vec::with_capacity(parsed.len()),
            resends: Vec::with_capacity(parsed.len()),
            answers: Vec::with_capacity(parsed.len()),
        };
        for (index, parsed) in parsed.into_iter().enumerate() {
            match parsed {
                Ok(item) => {
                    let partition = partitions.of(partner_id, &item.record);
                    let share = &mut by_partition[partition.index()];
                    share.indices.push(index);
                    share.room_bytes += item.room_bytes();
                    many.resends.push(item.resend());
                    many.items.push(Some(item));
                    many.answers.push(None);
                }
                Err(refusal) => {
                    many.resends.push(Resend::Safe);
                    many.items.push(None);
                    many.answers.push(Some(ItemAnswer::Rejected(refusal)));
                }
            }
        }
        (many, by_partition)
    }

    /// An item that is to be queued.
    pub(crate) fn take(&mut self, index: usize) -> Item {
        self.items[index]
            .take()
            .expect("each good item is in one partition, once")
    }

    /// Refuses all that was to go to one partition.
    pub(crate) fn refuse(&mut self, share: &PartitionItems, refusal: &Refusal) {
        for index in &share.indices {
            self.answers[*index] = Some(ItemAnswer::Rejected(Box::new(refusal.clone())));
        }
    }

    /// Of the items refused so far.
    pub(crate) fn refusals(&self) -> impl Iterator<Item = &Refusal> {
        self.answers.iter().filter_map(|answer| match answer {
            Some(ItemAnswer::Rejected(refusal)) => Some(&**refusal),
            _ => None,
        })
    }

    /// Notes how the records from `first` on of a partition ended, `count` of them.
    pub(crate) fn settle(
        &mut self,
        share: &PartitionItems,
        first: usize,
        count: usize,
        settled: Settled,
    ) {
        for position in first..first + count {
            let answer = match settled {
                Settled::Stored => ItemAnswer::Accepted(share.ids[position]),
                Settled::Refused(problem, detail) => {
                    ItemAnswer::Rejected(Box::new(Refusal::new(problem, detail)))
                }
                Settled::Unanswered => {
                    let resend = self.resends[share.indices[position]];
                    ItemAnswer::Unanswered(Box::new(unanswered(resend)))
                }
            };
            self.answers[share.indices[position]] = Some(answer);
        }
    }

    /// One answer per item, in the body's order.
    pub(crate) fn answers(self) -> Vec<ItemAnswer> {
        let answers = self.answers.into_iter();
        answers
            .map(|answer| answer.expect("each item was refused or settled"))
            .collect()
    }
}

/// The refusal of a record of which nobody knows whether it is stored.
pub(crate) fn unanswered(resend: Resend) -> Refusal {
    let detail = match resend {
        Resend::Safe => {
            "the log did not acknowledge in time: the record may be stored or not; send it again, \
             it will not be doubled"
        }
        Resend::MayUndo => {
            "the log did not acknowledge in time: the change may yet apply or not; look at the \
             resource before sending it again, and name the version, so that nothing is overwritten \
             that others changed meanwhile"
        }
    };
    Refusal::new(Problem::Unanswered, detail)
}
