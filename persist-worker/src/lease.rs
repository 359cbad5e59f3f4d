//! Leases: who works on which partition, shared fairly between the workers that are alive.
//!
//! They only avoid wasted work; what keeps two writers apart is the compare-and-set on the cursor.
//! Nobody's clock is trusted: a lease is up when its `beaten_at` was *seen unchanged* for
//! [`UNBEATEN_MAX`] by the one who wants it, on its own monotonic clock.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, SystemTime};

use contract::Partition;
use tokio::time::Instant;

/// Seen unchanged for this long, a worker is taken for dead and its leases are up.
pub(crate) const UNBEATEN_MAX: Duration = Duration::from_secs(5);
/// A lease seen unchanged for this long is taken even beyond the fair share.
const NEGLECTED_AFTER: Duration = Duration::from_secs(7);
/// Looks further apart than this prove nothing: nobody could beat while the database was away.
const LOOKS_APART_MAX: Duration = Duration::from_secs(2);

/// A row of `leases`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Lease {
    pub(crate) partition: Partition,
    pub(crate) owner: Option<String>,
    pub(crate) beaten_at: Option<SystemTime>,
}

/// What the tables hold at one moment.
#[derive(Clone, Default, Debug)]
pub(crate) struct Look {
    pub(crate) leases: Vec<Lease>,
    /// Each worker's `beaten_at`.
    pub(crate) workers: BTreeMap<String, SystemTime>,
}

/// What a worker does about its share.
#[derive(PartialEq, Eq, Default, Debug)]
pub(crate) struct Plan {
    /// Up, and ours to take.
    pub(crate) take: Vec<Lease>,
    /// Ours, to be handed over after the transaction in flight.
    pub(crate) hand_over: Vec<Partition>,
}

/// Remembers since when each beat was seen unchanged.
pub(crate) struct Watch {
    me: String,
    last_look: Option<Instant>,
    leases: BTreeMap<Partition, (Option<SystemTime>, Instant)>,
    workers: BTreeMap<String, (SystemTime, Instant)>,
}

impl Watch {
    pub(crate) fn new(me: String) -> Self {
        Self {
            me,
            last_look: None,
            leases: BTreeMap::new(),
            workers: BTreeMap::new(),
        }
    }

    /// Takes note of a look made at `now`.
    pub(crate) fn note(&mut self, look: &Look, now: Instant) {
        let blind = self
            .last_look
            .is_none_or(|last| now.duration_since(last) > LOOKS_APART_MAX);
        if blind {
            self.leases.clear();
            self.workers.clear();
        }
        self.last_look = Some(now);
        for lease in &look.leases {
            let seen = self
                .leases
                .entry(lease.partition)
                .or_insert((lease.beaten_at, now));
            if seen.0 != lease.beaten_at {
                *seen = (lease.beaten_at, now);
            }
        }
        self.workers
            .retain(|name, _| look.workers.contains_key(name));
        for (name, beaten_at) in &look.workers {
            let seen = self
                .workers
                .entry(name.clone())
                .or_insert((*beaten_at, now));
            if seen.0 != *beaten_at {
                *seen = (*beaten_at, now);
            }
        }
    }

    /// What to do about a look that was noted at `now`, while working on `mine`.
    pub(crate) fn plan(&self, look: &Look, mine: &BTreeSet<Partition>, now: Instant) -> Plan {
        let live = self.live(now);
        let partitions = look.leases.len();
        // This worker counts even before its first beat is in the table.
        let most = partitions.div_ceil(live.len().max(1));
        let least = partitions / live.len().max(1);
        let mut up: Vec<_> = look
            .leases
            .iter()
            .filter(|lease| !mine.contains(&lease.partition) && self.is_up(lease, now))
            .cloned()
            .collect();
        // Beyond the fair share only what its owner neglects although it is alive, and only once
        // those with room had their chance.
        let room = most.saturating_sub(mine.len());
        let within = up.len().min(room);
        let beyond = up.split_off(within);
        up.extend(beyond.into_iter().filter(|it| self.is_neglected(it, now)));
        let mut excess = mine.len().saturating_sub(most);
        if excess == 0 && mine.len() > least && self.owes_one(look, &live, least) {
            excess = 1;
        }
        Plan {
            take: up,
            // The highest first, so that two workers do not exchange the same ones for ever.
            hand_over: mine.iter().rev().take(excess).copied().collect(),
        }
    }

    /// Whether this worker is the one to give: somebody has less than the least fair share, and
    /// nobody has more than this one (of equals, the first name gives).
    fn owes_one(&self, look: &Look, live: &BTreeSet<&str>, least: usize) -> bool {
        let mut held: BTreeMap<&str, usize> = live.iter().map(|name| (*name, 0)).collect();
        for owner in look
            .leases
            .iter()
            .filter_map(|lease| lease.owner.as_deref())
        {
            if let Some(count) = held.get_mut(owner) {
                *count += 1;
            }
        }
        let richest = held
            .iter()
            .max_by(|a, b| a.1.cmp(b.1).then(b.0.cmp(a.0)))
            .map(|(name, _)| *name);
        let nothing_is_up = look.leases.iter().all(|lease| {
            lease
                .owner
                .as_deref()
                .is_some_and(|owner| live.contains(owner))
        });
        nothing_is_up && held.values().any(|count| *count < least) && richest == Some(&self.me)
    }

    fn live(&self, now: Instant) -> BTreeSet<&str> {
        let beating = self
            .workers
            .iter()
            .filter(|(_, (_, since))| now.duration_since(*since) < UNBEATEN_MAX)
            .map(|(name, _)| name.as_str());
        beating.chain([self.me.as_str()]).collect()
    }

    fn is_up(&self, lease: &Lease, now: Instant) -> bool {
        lease.owner.is_none() || self.unbeaten_for(lease, now) >= UNBEATEN_MAX
    }

    fn is_neglected(&self, lease: &Lease, now: Instant) -> bool {
        lease.owner.is_some() && self.unbeaten_for(lease, now) >= NEGLECTED_AFTER
    }

    fn unbeaten_for(&self, lease: &Lease, now: Instant) -> Duration {
        self.leases
            .get(&lease.partition)
            .map_or(Duration::ZERO, |(_, since)| now.duration_since(*since))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn lease(partition: u8, owner: Option<&str>, beat: u64) -> Lease {
        Lease {
            partition: Partition(partition),
            owner: owner.map(str::to_owned),
            beaten_at: Some(SystemTime::UNIX_EPOCH + SECOND * u32::try_from(beat).unwrap()),
        }
    }

    fn look(beat: u64, leases: &[(u8, Option<&str>)], workers: &[&str]) -> Look {
        let at = SystemTime::UNIX_EPOCH + SECOND * u32::try_from(beat).unwrap();
        Look {
            leases: leases
                .iter()
                .map(|(partition, owner)| lease(*partition, *owner, beat))
                .collect(),
            workers: workers
                .iter()
                .map(|name| ((*name).to_owned(), at))
                .collect(),
        }
    }

    fn partitions(numbers: &[u8]) -> BTreeSet<Partition> {
        numbers.iter().map(|number| Partition(*number)).collect()
    }

    fn taken(plan: &Plan) -> Vec<u8> {
        plan.take.iter().map(|lease| lease.partition.0).collect()
    }

    #[test]
    fn alone_it_takes_all_and_in_company_its_half() {
        let mut watch = Watch::new("a".to_owned());
        let now = Instant::now();
        let free = [(0, None), (1, None), (2, None)];
        let alone = look(1, &free, &["a"]);
        watch.note(&alone, now);
        assert_eq!(taken(&watch.plan(&alone, &partitions(&[]), now)), [0, 1, 2]);
        let two = look(1, &free, &["a", "b"]);
        watch.note(&two, now);
        assert_eq!(taken(&watch.plan(&two, &partitions(&[]), now)), [0, 1]);
    }

    #[test]
    fn a_newcomer_is_given_its_share() {
        let mut watch = Watch::new("a".to_owned());
        let now = Instant::now();
        let all: Vec<_> = (0..4).map(|partition| (partition, Some("a"))).collect();
        let two = look(1, &all, &["a", "b"]);
        watch.note(&two, now);
        let plan = watch.plan(&two, &partitions(&[0, 1, 2, 3]), now);
        assert_eq!(plan.hand_over, [Partition(3), Partition(2)]);
        assert!(plan.take.is_empty());
    }

    #[test]
    fn a_third_worker_gets_one_of_four_from_one_of_two() {
        let now = Instant::now();
        let owners = [
            (0, Some("a")),
            (1, Some("a")),
            (2, Some("b")),
            (3, Some("b")),
        ];
        let three = look(1, &owners, &["a", "b", "c"]);
        let plan_of = |name: &str, mine: &[u8]| {
            let mut watch = Watch::new(name.to_owned());
            watch.note(&three, now);
            watch.plan(&three, &partitions(mine), now)
        };
        assert_eq!(plan_of("a", &[0, 1]).hand_over, [Partition(1)]);
        assert_eq!(plan_of("b", &[2, 3]), Plan::default());
        assert_eq!(plan_of("c", &[]), Plan::default());
    }

    #[test]
    fn a_lease_is_up_only_when_seen_unbeaten_for_long_enough() {
        let mut watch = Watch::new("b".to_owned());
        let start = Instant::now();
        let dead = look(1, &[(0, Some("a"))], &["a", "b"]);
        let mut at = start;
        while at < start + UNBEATEN_MAX {
            watch.note(&dead, at);
            let plan = watch.plan(&dead, &partitions(&[]), at);
            assert!(plan.take.is_empty(), "{:?}", at - start);
            at += SECOND;
        }
        watch.note(&dead, at);
        assert_eq!(taken(&watch.plan(&dead, &partitions(&[]), at)), [0]);
        let beaten = look(2, &[(0, Some("a"))], &["a", "b"]);
        watch.note(&beaten, at);
        assert!(watch.plan(&beaten, &partitions(&[]), at).take.is_empty());
    }

    #[test]
    fn what_a_living_worker_neglects_is_taken_beyond_the_share() {
        let mut watch = Watch::new("b".to_owned());
        let start = Instant::now();
        let mine = partitions(&[1]);
        let mut taken_after = None;
        for second in 0..10_u8 {
            let at = start + SECOND * u32::from(second);
            let mut stuck = look(1, &[(0, Some("a")), (1, Some("b"))], &[]);
            stuck.workers = look(u64::from(second), &[], &["a", "b"]).workers;
            watch.note(&stuck, at);
            if !watch.plan(&stuck, &mine, at).take.is_empty() {
                taken_after.get_or_insert(SECOND * u32::from(second));
            }
        }
        assert_eq!(taken_after, Some(NEGLECTED_AFTER));
    }

    #[test]
    fn an_outage_of_the_database_is_nobodys_death() {
        let mut watch = Watch::new("b".to_owned());
        let start = Instant::now();
        let silent = look(1, &[(0, Some("a"))], &["a", "b"]);
        watch.note(&silent, start);
        let later = start + 60 * SECOND;
        watch.note(&silent, later);
        assert!(watch.plan(&silent, &partitions(&[]), later).take.is_empty());
    }
}
