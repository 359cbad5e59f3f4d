//! One request, from its head to its answer.
//!
//! [`Gateway::serve`] is the whole story after [admission](crate::admission) in call order: is there
//! room, read, parse, mint and encode, queue, wait for the log, answer.

use std::cell::RefCell;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use contract::tracking_id::Minter;
use contract::{Entry, Partition, Partitions, Problem, TrackingId};
use http::{Request, StatusCode};
use hyper::body::Incoming;
use partners::Partners;
use tokio::sync::oneshot;

use crate::admission::{Admitted, AdmittedWrite};
use crate::answer::{self, Answer, ItemAnswer, Shape};
use crate::body::{self, Refused};
use crate::clock::{Clock, Moment};
use crate::item::Item;
use crate::json::Parsed;
use crate::link::Link;
use crate::many::{Many, PartitionItems, unanswered};
use crate::measure::Measures;
use crate::queue::{Encoded, Queue, ROOM_WAIT, Room, Settled};
use crate::quota::{Cost, Quota, Quotas};
use crate::received::{Received, Records, count};
use crate::refusal::Refusal;
use crate::route;
use crate::work::{STRETCH_RECORDS_MAX, Work};

thread_local! {
    /// One entry, encoded: this thread's, so that a single record allocates nothing for it.
    static ENTRY: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// Everything a request needs, shared by all.
pub(crate) struct Gateway {
    pub(crate) partners: Partners,
    pub(crate) minter: Minter,
    pub(crate) clock: Arc<Clock>,
    pub(crate) measures: Arc<Measures>,
    pub(crate) bodies: body::Room,
    pub(crate) discards: body::Discards,
    /// How much each partner may send.
    pub(crate) quotas: Quotas,
    pub(crate) work: Work,
    /// From a head to the end of its body.
    pub(crate) body_wait: Duration,
    /// From a head to its answer, whatever is waited for in between. Publishers settle well
    /// before.
    pub(crate) request_wait: Duration,
    /// Before `/v1/requests/...` in a status URL; without a slash at its end.
    pub(crate) status_base: String,
    /// Empty until the log was reached for the first time.
    pub(crate) log: OnceLock<Log>,
}

/// The log as it was opened.
pub(crate) struct Log {
    pub(crate) partitions: Partitions,
    pub(crate) queues: Vec<Arc<Queue>>,
    pub(crate) link: Arc<Link>,
}

/// Whose records these are, and until when they are waited for.
#[derive(Clone, Copy)]
pub(crate) struct Sender {
    pub(crate) partner_id: i32,
    pub(crate) answer_by: tokio::time::Instant,
    /// Until when a turn and room in a partition are waited for.
    pub(crate) room_by: tokio::time::Instant,
}

impl Gateway {
    /// Answers a request.
    pub(crate) async fn handle(self: &Arc<Self>, request: Request<Incoming>) -> Answer {
        let begun = Instant::now();
        let answer_by = tokio::time::Instant::from_std(begun + self.request_wait);
        let _in_flight = InFlight::begin(&self.measures);
        let (head, mut body) = request.into_parts();
        let (route, target) = route::find(&head.method, head.uri.path());
        let shape = route::shape(route);
        let goes_on = body::GoesOn::after(&head);
        let admitted = self.admit(&head, target);
        // Up to a kilobyte that would wait with the body otherwise.
        drop(head);
        let answer = match admitted {
            Ok(Admitted::OpenApi) => Ok(answer::document(route::OPEN_API)),
            Ok(Admitted::Write(write)) => self.serve(write, shape, &mut body, answer_by).await,
            Err(refusal) => Err(Refused::Early(refusal)),
        };
        let answer = match answer {
            Ok(answer) => answer,
            Err(Refused::Early(refusal)) => {
                self.discards.discard(body, goes_on);
                answer::refusal(refusal, shape)
            }
            Err(Refused::Late(refusal)) => answer::refusal(refusal, shape),
        };
        self.measures
            .request(route, answer.status().as_u16(), begun.elapsed());
        answer
    }

    /// The story of a request. Each step either goes on or refuses, so that nothing is read of a
    /// request that can be refused by its head, and nothing is queued of one that is refused.
    async fn serve(
        self: &Arc<Self>,
        admitted: AdmittedWrite,
        shape: Shape,
        body: &mut Incoming,
        answer_by: tokio::time::Instant,
    ) -> Result<Answer, Refused> {
        let AdmittedWrite {
            partner_id,
            quota,
            write,
            media_type,
            body: body_head,
        } = admitted;
        let body_by = answer_by.min(tokio::time::Instant::now() + self.body_wait);
        let room = self.bodies.take(partner_id, &body_head, body_by).await;
        let mut room = room.map_err(Refused::Early)?;
        let bytes = body::read(body, &body_head, &mut room).await?;
        self.measures.request_bytes.increment(bytes.len() as u64);
        let room_by = answer_by.min(tokio::time::Instant::now() + ROOM_WAIT);
        let turn = self.work.turn(partner_id, bytes.len(), room_by).await;
        let turn = turn.map_err(|refusal| {
            self.measures.rejected(refusal.problem, 1);
            Refused::Late(refusal)
        })?;
        let sender = Sender {
            partner_id,
            answer_by,
            room_by,
        };
        let received = Received {
            sender,
            quota,
            bytes,
            media_type,
            write,
            shape,
            _turn: turn,
        };
        if received.is_long() && self.work.is_shared() {
            // In a box, as below: what is rare must not make every request's future larger.
            return Box::pin(self.stand_back(received)).await;
        }
        self.store(received, room).await
    }

    /// The same as [`Self::store`], on threads that stand back. Its room goes with its answer.
    async fn stand_back(self: &Arc<Self>, received: Received) -> Result<Answer, Refused> {
        let gateway = Arc::clone(self);
        let stored = async move { gateway.store(received, ()).await };
        self.work.stand_back(stored).await
    }

    /// What is done with a body that has its turn: parse, charge, queue, wait for the log, answer.
    /// Its room goes once it is parsed.
    async fn store(&self, received: Received, room: impl Sized) -> Result<Answer, Refused> {
        let (sender, size) = (received.sender, received.bytes.len());
        let records = self.work.run(received.is_long(), || received.read());
        let cost = Cost {
            records: count(&records),
            bytes: size,
        };
        if let Some(quota) = &received.quota {
            self.charge(quota, cost).map_err(Refused::Late)?;
        }
        let Received {
            quota,
            bytes,
            shape,
            _turn,
            ..
        } = received;
        // From here on the records count, in their partitions' bounds.
        drop((bytes, room));
        // Whether it is reached was asked before the body was read; a refusal here would keep what
        // was charged.
        let log = self.log.get().expect("it was open when the head was read");
        let answer = match records {
            Err(refusal) => {
                self.measures.rejected(refusal.problem, 1);
                Err(Refused::Late(refusal))
            }
            Ok(Records::One(item)) => {
                let ride_id = item.ride_id();
                let stored = self.store_one(log, sender, item).await;
                stored.map(|id| match (shape, ride_id) {
                    (Shape::Save, Some(ride_id)) => answer::saved(ride_id, id),
                    _ => answer::accepted(id, &self.status_base),
                })
            }
            Ok(Records::Many(items)) => {
                let is_long = items.len() > STRETCH_RECORDS_MAX;
                let answers = Box::pin(self.store_many(log, sender, items)).await;
                Ok(self.work.run(is_long, || answer::many(answers)))
            }
        };
        match quota {
            Some(quota) => settle(&quota, cost, answer),
            None => answer,
        }
    }

    /// Takes what a body costs, once it is known.
    fn charge(&self, quota: &Quota, cost: Cost) -> Result<(), Refusal> {
        let taken = self.quotas.take(quota, cost);
        taken.inspect_err(|refusal| {
            let records = cost.records as u64;
            self.measures.rejected(refusal.problem, records);
        })
    }

    fn check_clock(&self, now: &Moment) -> Result<(), Refusal> {
        if self.clock.is_trusted(now) {
            return Ok(());
        }
        Err(Refusal::new(
            Problem::ClockSkew,
            "the gateway's clock and the log's disagree",
        ))
    }

    async fn store_one(
        &self,
        log: &Log,
        sender: Sender,
        item: Item,
    ) -> Result<TrackingId, Refused> {
        let (ride_id, resend) = (item.ride_id(), item.resend());
        let (id, settled) = match self.queue_one(log, sender, item).await {
            Ok((id, settled)) => (id, settled_by(sender.answer_by, settled).await),
            Err(refusal) => {
                self.measures.rejected(refusal.problem, 1);
                return Err(Refused::Late(refusal.about(ride_id)));
            }
        };
        match settled {
            Settled::Stored => Ok(id),
            Settled::Refused(problem, detail) => {
                Err(Refused::Late(Refusal::new(problem, detail).about(ride_id)))
            }
            Settled::Unanswered => Err(Refused::Late(unanswered(resend).about(ride_id))),
        }
    }

    /// Mints, encodes and queues one record. Once there is room, nothing here waits: a client
    /// that hangs up leaves a record either untouched or wholly the queue's.
    async fn queue_one(
        &self,
        log: &Log,
        sender: Sender,
        item: Item,
    ) -> Result<(TrackingId, oneshot::Receiver<Settled>), Refusal> {
        let room_bytes = item.room_bytes();
        let partition = log.partitions.of(sender.partner_id, &item.record);
        let queue = &log.queues[partition.index()];
        let room = match queue.try_room(sender.partner_id, 1, room_bytes) {
            Some(room) => room,
            None => {
                let room = queue.room(sender.partner_id, 1, room_bytes, sender.room_by);
                room.await?
            }
        };
        let minted = self.clock.now();
        self.check_clock(&minted)?;
        let entry = self.entry(sender, partition, item, &minted);
        let settled = ENTRY.with_borrow_mut(|encoded| {
            encoded.clear();
            contract::chunk::encode_entry(&entry, encoded);
            room.add_one(encoded, minted)
        });
        Ok((entry.tracking_id, settled))
    }

    fn entry(&self, sender: Sender, partition: Partition, item: Item, minted: &Moment) -> Entry {
        Entry {
            tracking_id: self
                .minter
                .mint(sender.partner_id, partition, minted.wall_ms()),
            partner_id: sender.partner_id,
            operation: item.operation,
            expected_version: item.expected_version,
            record: item.record,
        }
    }

    async fn store_many(&self, log: &Log, sender: Sender, items: Vec<Parsed>) -> Vec<ItemAnswer> {
        let (mut many, mut shares) = Many::sort(items, sender.partner_id, log.partitions);
        for (share, queue) in shares.iter_mut().zip(&log.queues) {
            let (records, bytes) = (share.indices.len(), share.room_bytes);
            if let Some(room) = queue.try_room(sender.partner_id, records, bytes) {
                self.queue_share(sender, &mut many, share, room);
            }
        }
        // A partition without room holds up its own items only: the others are queued by now.
        for (share, queue) in shares.iter_mut().zip(&log.queues) {
            if share.is_queued() || share.indices.is_empty() {
                continue;
            }
            let (records, bytes) = (share.indices.len(), share.room_bytes);
            let room = queue.room(sender.partner_id, records, bytes, sender.room_by);
            match room.await {
                Ok(room) => self.queue_share(sender, &mut many, share, room),
                Err(refusal) => many.refuse(share, &refusal),
            }
        }
        // What is queued is counted as it is settled.
        for refusal in many.refusals() {
            self.measures.rejected(refusal.problem, 1);
        }
        for share in &mut shares {
            let mut first = 0;
            for piece in std::mem::take(&mut share.pieces) {
                let settled = settled_by(sender.answer_by, piece.settled).await;
                many.settle(share, first, piece.records, settled);
                first += piece.records;
            }
        }
        many.answers()
    }

    /// Mints, encodes and queues a request's records for one partition, in the body's order.
    fn queue_share(
        &self,
        sender: Sender,
        many: &mut Many,
        share: &mut PartitionItems,
        room: Room<'_>,
    ) {
        let minted = self.clock.now();
        if let Err(refusal) = self.check_clock(&minted) {
            many.refuse(share, &refusal);
            return;
        }
        let partition = room.partition();
        let mut encoded = Encoded::with_capacity(share.indices.len());
        self.work
            .run(share.indices.len() > STRETCH_RECORDS_MAX, || {
                for index in &share.indices {
                    let entry = self.entry(sender, partition, many.take(*index), &minted);
                    contract::chunk::encode_entry(&entry, &mut encoded.bytes);
                    encoded.ends.push(encoded.bytes.len());
                    share.ids.push(entry.tracking_id);
                }
            });
        share.pieces = room.add_many(&encoded, minted);
    }
}

/// Tells an acceptance what is left, and gives back what a request took that will come again for no
/// fault of its own.
fn settle(quota: &Quota, cost: Cost, answer: Result<Answer, Refused>) -> Result<Answer, Refused> {
    let status = match &answer {
        Ok(answer) => answer.status().as_u16(),
        Err(Refused::Early(refusal) | Refused::Late(refusal)) => refusal.problem.status(),
    };
    if status == 503 {
        quota.give_back(cost);
    }
    answer.map(|mut answer| {
        if answer.status() == StatusCode::ACCEPTED {
            quota.fields().write(answer.headers_mut());
        }
        answer
    })
}

/// How a piece ended. Its publisher settles it by its deadline; the request's own deadline is there
/// in case the publisher does not.
async fn settled_by(
    answer_by: tokio::time::Instant,
    receiver: oneshot::Receiver<Settled>,
) -> Settled {
    match tokio::time::timeout_at(answer_by, receiver).await {
        Ok(Ok(settled)) => settled,
        Ok(Err(_)) | Err(_) => Settled::Unanswered,
    }
}

/// Counts a request as in flight until it is answered, or its client has gone.
struct InFlight<'m>(&'m Measures);

impl<'m> InFlight<'m> {
    fn begin(measures: &'m Measures) -> Self {
        measures.requests_in_flight.increment(1.0);
        Self(measures)
    }
}

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        self.0.requests_in_flight.decrement(1.0);
    }
}
