//! Room that partners share: one that floods leaves room for the others.
//!
//! As in the buffers of switches (Choudhury and Hahne, "Dynamic queue length thresholds", 1998), a
//! partner may hold as much as is free, so that however many flood, each newcomer finds room; and
//! with several there never less than an equal part. A partner that holds nothing may always take
//! what one request needs, if there is any room at all. Who waits is served partner by partner in
//! turn, and in order within a partner.
//!
//! A partner that is alone may hold more than one of several: as much as the process bears. With
//! others there it may hold what keeps their way short.

use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

/// How long a partner counts as being there after its last request: several of a second's requests
/// are one presence, and after a pause nobody is hindered for its sake.
const PRESENT_FOR: Duration = Duration::from_secs(1);

/// How often it is looked who is still there.
const SWEEP_INTERVAL: Duration = Duration::from_millis(250);

/// So much of a room: things (requests, records) and their bytes.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(crate) struct Amount {
    pub(crate) count: u32,
    pub(crate) bytes: u32,
}

/// How much of a room may be held.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bounds {
    /// By all together, never more.
    pub(crate) all: Amount,
    /// By a partner that is alone.
    pub(crate) alone: Amount,
    /// What several partners share by the rule above.
    pub(crate) shared: Amount,
}

/// A room.
pub(crate) struct Shares {
    bounds: Bounds,
    ledger: Mutex<Ledger>,
}

struct Ledger {
    held: Amount,
    partners: HashMap<i32, Partner, BuildHasherDefault<IdHasher>>,
    /// Partners that wait, each once, the next first.
    turns: VecDeque<i32>,
    swept_at: Instant,
}

struct Partner {
    held: Amount,
    waiting: VecDeque<Waiter>,
    /// Not kept true for a partner that is alone: nobody asks.
    seen_at: Instant,
}

/// Ids of partners are given by the operator, so nobody chooses them to collide.
#[derive(Default)]
struct IdHasher(u64);

impl Hasher for IdHasher {
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_i32(i32::from(*byte));
        }
    }

    fn write_i32(&mut self, id: i32) {
        // Fibonacci hashing: ids that follow each other lie far apart.
        self.0 = (self.0 ^ u64::from(id.cast_unsigned())).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

struct Waiter {
    amount: Amount,
    granted: oneshot::Sender<Hold>,
}

/// A part of a room; given back when dropped.
#[must_use]
pub(crate) struct Hold {
    shares: Arc<Shares>,
    partner: i32,
    amount: Amount,
}

impl Amount {
    pub(crate) const fn new(count: u32, bytes: u32) -> Self {
        Self { count, bytes }
    }

    fn each(self, other: Self, with: impl Fn(u32, u32) -> u32) -> Self {
        Self {
            count: with(self.count, other.count),
            bytes: with(self.bytes, other.bytes),
        }
    }

    fn plus(self, other: Self) -> Self {
        self.each(other, u32::saturating_add)
    }

    fn minus(self, other: Self) -> Self {
        self.each(other, u32::saturating_sub)
    }

    fn is_within(self, bound: Self) -> bool {
        self.count <= bound.count && self.bytes <= bound.bytes
    }
}

impl Bounds {
    /// What a partner may hold at most, with so many there and so much held by all.
    fn limit(&self, present: usize, held: Amount) -> Amount {
        if present <= 1 {
            return self.alone;
        }
        let parts = u32::try_from(present + 1).unwrap_or(u32::MAX);
        let equal = Amount::new(self.shared.count / parts, self.shared.bytes / parts);
        let free = self.shared.minus(held);
        equal.each(free, u32::max)
    }

    /// Whether a partner that holds `own` may take more.
    fn admit(&self, present: usize, held: Amount, own: Amount, more: Amount) -> bool {
        let is_first = own == Amount::default();
        held.plus(more).is_within(self.all)
            && (is_first || own.plus(more).is_within(self.limit(present, held)))
    }
}

impl Shares {
    pub(crate) fn new(bounds: Bounds) -> Arc<Self> {
        Arc::new(Self {
            bounds,
            ledger: Mutex::new(Ledger {
                held: Amount::default(),
                partners: HashMap::default(),
                turns: VecDeque::new(),
                swept_at: Instant::now(),
            }),
        })
    }

    /// A part of the room, if the partner may have it now and waits for none. More than there is
    /// in all counts as all there is.
    pub(crate) fn try_take(self: &Arc<Self>, partner: i32, amount: Amount) -> Option<Hold> {
        let amount = amount.each(self.bounds.all, u32::min);
        let mut ledger = self.lock();
        let is_free = ledger.arrive(partner).waiting.is_empty();
        (is_free && ledger.take(&self.bounds, partner, amount)).then(|| self.hold(partner, amount))
    }

    /// A part of the room, now or by the deadline; `None` if there is none by then.
    ///
    /// # Cancel safety
    /// Safe: what is granted to one who no longer waits is given back.
    pub(crate) async fn take(
        self: &Arc<Self>,
        partner: i32,
        amount: Amount,
        deadline: tokio::time::Instant,
    ) -> Option<Hold> {
        if let Some(hold) = self.try_take(partner, amount) {
            return Some(hold);
        }
        let amount = amount.each(self.bounds.all, u32::min);
        let granted = self.wait(partner, amount);
        let granted = tokio::time::timeout_at(deadline, granted).await;
        if granted.is_err() {
            // It may have stood before others that fit.
            self.grant(&mut self.lock());
        }
        granted.ok().and_then(Result::ok)
    }

    fn wait(self: &Arc<Self>, partner: i32, amount: Amount) -> oneshot::Receiver<Hold> {
        let (granted, receiver) = oneshot::channel();
        let mut ledger = self.lock();
        let known = ledger.arrive(partner);
        let is_first = known.waiting.is_empty();
        known.waiting.push_back(Waiter { amount, granted });
        if is_first {
            ledger.turns.push_back(partner);
        }
        // What was in the way may have gone since it was tried.
        self.grant(&mut ledger);
        receiver
    }

    /// Lets in who may, one of each partner in turn.
    fn grant(self: &Arc<Self>, ledger: &mut Ledger) {
        let mut passed_over = 0;
        while passed_over < ledger.turns.len() {
            let Some(partner) = ledger.turns.pop_front() else {
                return;
            };
            let Some(amount) = ledger.next_of(partner) else {
                continue;
            };
            if !ledger.take(&self.bounds, partner, amount) {
                ledger.turns.push_back(partner);
                passed_over += 1;
                continue;
            }
            passed_over = 0;
            let waiting = &mut ledger.arrive(partner).waiting;
            let waiter = waiting.pop_front().expect("the next of those who wait");
            if !waiting.is_empty() {
                ledger.turns.push_back(partner);
            }
            let hold = self.hold(partner, amount);
            if let Err(mut refused) = waiter.granted.send(hold) {
                // Its drop must not take the lock that is held here.
                ledger.give_back(partner, amount);
                refused.amount = Amount::default();
            }
        }
    }

    fn hold(self: &Arc<Self>, partner: i32, amount: Amount) -> Hold {
        Hold {
            shares: Arc::clone(self),
            partner,
            amount,
        }
    }

    /// How many partners are there, or were a moment ago.
    pub(crate) fn present(&self) -> usize {
        self.lock().partners.len()
    }

    /// How much is held by all.
    pub(crate) fn held(&self) -> Amount {
        self.lock().held
    }

    fn lock(&self) -> MutexGuard<'_, Ledger> {
        // Nothing in there can be left half done.
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Ledger {
    /// The partner is there.
    fn arrive(&mut self, partner: i32) -> &mut Partner {
        // While it is alone the clock is not read.
        if self.partners.len() != 1 || !self.partners.contains_key(&partner) {
            self.meet(partner);
        }
        let known = self.partners.get_mut(&partner);
        known.expect("it was there, or is now")
    }

    /// Notes who is there, and forgets who is no longer.
    fn meet(&mut self, partner: i32) {
        let now = Instant::now();
        if now.duration_since(self.swept_at) >= SWEEP_INTERVAL {
            self.swept_at = now;
            self.partners.retain(|id, known| {
                *id == partner
                    || known.held != Amount::default()
                    || !known.waiting.is_empty()
                    || now.duration_since(known.seen_at) < PRESENT_FOR
            });
        }
        let known = self.partners.entry(partner).or_insert_with(|| Partner {
            held: Amount::default(),
            waiting: VecDeque::new(),
            seen_at: now,
        });
        known.seen_at = now;
    }

    fn take(&mut self, bounds: &Bounds, partner: i32, amount: Amount) -> bool {
        let present = self.partners.len();
        let known = self.partners.get_mut(&partner).expect("it has arrived");
        let may = bounds.admit(present, self.held, known.held, amount);
        if may {
            known.held = known.held.plus(amount);
            self.held = self.held.plus(amount);
        }
        may
    }

    fn give_back(&mut self, partner: i32, amount: Amount) {
        self.held = self.held.minus(amount);
        let known = self.partners.get_mut(&partner);
        let known = known.expect("who holds something is known");
        known.held = known.held.minus(amount);
    }

    /// What the first of a partner wants that still waits.
    fn next_of(&mut self, partner: i32) -> Option<Amount> {
        let waiting = &mut self.partners.get_mut(&partner)?.waiting;
        while waiting
            .front()
            .is_some_and(|waiter| waiter.granted.is_closed())
        {
            waiting.pop_front();
        }
        waiting.front().map(|waiter| waiter.amount)
    }
}

impl Hold {
    pub(crate) fn amount(&self) -> Amount {
        self.amount
    }

    pub(crate) fn partner(&self) -> i32 {
        self.partner
    }

    /// Splits a part off, at most all of it.
    pub(crate) fn split(&mut self, part: Amount) -> Self {
        let part = part.each(self.amount, u32::min);
        self.amount = self.amount.minus(part);
        self.shares.hold(self.partner, part)
    }

    /// Makes one of two parts of one room.
    pub(crate) fn join(&mut self, mut other: Self) {
        assert_eq!(self.partner, other.partner, "parts of one partner");
        self.amount = self.amount.plus(std::mem::take(&mut other.amount));
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        if self.amount == Amount::default() {
            return;
        }
        let mut ledger = self.shares.lock();
        ledger.give_back(self.partner, self.amount);
        if !ledger.turns.is_empty() {
            self.shares.grant(&mut ledger);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const BOUNDS: Bounds = Bounds {
        all: Amount::new(1_000, 100_000),
        alone: Amount::new(500, 50_000),
        shared: Amount::new(120, 12_000),
    };

    fn flood(shares: &Arc<Shares>, partner: i32) -> Vec<Hold> {
        std::iter::from_fn(|| shares.try_take(partner, Amount::new(1, 10))).collect()
    }

    #[test]
    fn alone_a_partner_has_more_and_with_others_what_is_free() {
        let shares = Shares::new(BOUNDS);
        let alone = flood(&shares, 1);
        assert_eq!(alone.len(), 500);
        // The first that comes gets in, whatever the flood holds.
        let other = flood(&shares, 2);
        assert_eq!(other.len(), 40, "an equal part of three");
        drop(alone);
        let flooding = flood(&shares, 1);
        assert_eq!(flooding.len(), 40);
        drop(other);
        let flooding_on = flood(&shares, 1);
        assert_eq!(
            flooding.len() + flooding_on.len(),
            60,
            "half of what they share"
        );
        assert_eq!(flood(&shares, 2).len(), 40);
    }

    #[test]
    fn a_large_request_gets_in_when_its_partner_holds_nothing() {
        let shares = Shares::new(BOUNDS);
        let small = shares.try_take(2, Amount::new(1, 1)).expect("room");
        let large = shares.try_take(1, Amount::new(900, 1)).expect("room");
        assert!(shares.try_take(1, Amount::new(1, 1)).is_none());
        assert!(
            shares.try_take(3, Amount::new(100, 1)).is_none(),
            "no room at all"
        );
        drop((large, small));
        let all = shares.try_take(1, Amount::new(u32::MAX, u32::MAX));
        assert_eq!(all.expect("as much as there is").amount(), BOUNDS.all);
        assert_eq!(shares.held(), Amount::default());
    }

    #[tokio::test(start_paused = true)]
    async fn who_waits_is_served_in_turn_and_in_order() {
        let shares = Shares::new(BOUNDS);
        let holds = (flood(&shares, 1), flood(&shares, 2), flood(&shares, 1));
        let mut waiting = Vec::new();
        for partner in [1, 1, 1, 2, 2] {
            waiting.push(shares.wait(partner, Amount::new(40, 1)));
        }
        drop(holds);
        assert_eq!(shares.held().count, 80, "one of each");
        let first = waiting.remove(0).try_recv().expect("granted");
        let other = waiting.remove(2).try_recv().expect("granted");
        assert!(waiting.iter_mut().all(|it| it.try_recv().is_err()));
        // Who no longer waits is passed over.
        drop(waiting.remove(0));
        drop(first);
        assert!(waiting[0].try_recv().is_ok());
        drop(other);
        assert!(waiting[1].try_recv().is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn who_waits_in_vain_is_told_at_the_deadline() {
        let shares = Shares::new(BOUNDS);
        let held = flood(&shares, 1);
        let deadline = tokio::time::Instant::now() + Duration::from_millis(200);
        assert!(shares.take(1, Amount::new(1, 1), deadline).await.is_none());
        drop(held);
        let deadline = tokio::time::Instant::now() + Duration::from_millis(200);
        assert!(shares.take(1, Amount::new(1, 1), deadline).await.is_some());
        assert_eq!(shares.held(), Amount::default());
    }

    #[test]
    fn parts_of_a_part_are_given_back_each() {
        let shares = Shares::new(BOUNDS);
        let mut hold = shares.try_take(1, Amount::new(10, 100)).expect("room");
        let part = hold.split(Amount::new(4, 1_000));
        assert_eq!(part.amount(), Amount::new(4, 100));
        drop(part);
        assert_eq!(shares.held(), Amount::new(6, 0));
        hold.join(shares.try_take(1, Amount::new(1, 7)).expect("room"));
        assert_eq!(hold.amount(), Amount::new(7, 7));
        drop(hold);
        assert_eq!(shares.held(), Amount::default());
    }

    proptest! {
        /// Whoever takes and gives back how much in whatever order: never more than all; what is
        /// held is what was taken; several never hold more than the rule, but for one request each;
        /// and one that holds nothing gets in while there is room.
        #[test]
        fn the_room_adds_up(
            steps in prop::collection::vec((1_i32..6, 1_u32..60, 1_u32..9_000, any::<bool>()), 1..400),
        ) {
            let shares = Shares::new(BOUNDS);
            let mut holds: Vec<Hold> = Vec::new();
            for (partner, count, bytes, gives_back) in steps {
                if gives_back && !holds.is_empty() {
                    drop(holds.swap_remove(count as usize % holds.len()));
                } else {
                    let amount = Amount::new(count, bytes);
                    let own: Vec<_> = holds.iter().filter(|it| it.partner == partner).collect();
                    let own = own.iter().fold(Amount::default(), |sum, it| sum.plus(it.amount));
                    let held = shares.held();
                    let taken = shares.try_take(partner, amount);
                    let fits = held.plus(amount).is_within(BOUNDS.all);
                    if own == Amount::default() {
                        prop_assert_eq!(taken.is_some(), fits);
                    } else if taken.is_some() {
                        let most = BOUNDS.alone;
                        prop_assert!(own.plus(amount).is_within(most));
                    }
                    holds.extend(taken);
                }
                let sum = holds.iter().fold(Amount::default(), |sum, it| sum.plus(it.amount));
                prop_assert_eq!(sum, shares.held());
                prop_assert!(sum.is_within(BOUNDS.all));
            }
            drop(holds);
            prop_assert_eq!(shares.held(), Amount::default());
        }

        /// However many flood, each of them holds its part, and room is left for one more.
        #[test]
        fn floods_leave_room_for_a_newcomer(floods in 2_i32..40) {
            let shares = Shares::new(BOUNDS);
            // All are there before any of them takes much.
            let first: Vec<_> = (0..floods).map(|it| shares.try_take(it, Amount::new(1, 1))).collect();
            let holds: Vec<_> = (0..floods).map(|it| flood(&shares, it)).collect();
            prop_assert!(first.iter().all(Option::is_some));
            let equal = BOUNDS.shared.count / (floods.unsigned_abs() + 1);
            prop_assert!(holds.iter().all(|it| it.len() as u32 + 1 >= equal));
            // The first few took what was free, the others their equal part.
            prop_assert!(shares.held().count <= 2 * BOUNDS.shared.count);
            prop_assert!(shares.try_take(floods, Amount::new(1, 1)).is_some());
        }
    }
}
