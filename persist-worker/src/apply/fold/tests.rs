use contract::chunk::{Chunk, Header};
use contract::{Operation, Partition, Ride, TrackingId};
use proptest::prelude::*;

use super::*;
use crate::apply::kinds::must_look_first;
use crate::apply::rides;
use crate::batch::LoggedChunk;

const PARTNER: i32 = 1;
const ACCEPTED_MS: u128 = 1_700_000_000_000;

fn tracking_id(number: u128) -> TrackingId {
    let id = ACCEPTED_MS << 80 | 0x7 << 76 | 0b10 << 62 | number << 24;
    TrackingId::from_uuid(Uuid::from_u128(id)).unwrap()
}

/// A record whose content is told by `user_id`.
fn entry(number: u128, operation: Operation, ride_id: i64, user_id: i64) -> Entry {
    Entry {
        tracking_id: tracking_id(number),
        partner_id: PARTNER,
        operation,
        expected_version: None,
        record: Record::Ride(Ride {
            id: ride_id,
            user_id,
            ..Ride::default()
        }),
    }
}

fn batch(chunks: Vec<(i64, Vec<Entry>)>) -> Batch {
    let chunks = (1..)
        .zip(chunks)
        .map(|(seq, (late_us, entries))| LoggedChunk {
            seq,
            stored_at_us: 1_000_000_000 + late_us,
            chunk: Chunk {
                header: Header {
                    chunk_id: Uuid::from_u128(seq.into()),
                    partition: Partition(0),
                    publish_by_us: 1_000_000_000,
                    origin: String::new(),
                },
                entries,
            },
        });
    Batch {
        partition: Partition(0),
        incarnation: Uuid::nil(),
        chunks: chunks.collect(),
    }
}

fn verdicts(entries: Vec<Entry>) -> Vec<Verdict> {
    let batch = batch(vec![(0, entries)]);
    let items = Items::of(&batch).unwrap();
    let folded = fold(&items.list, &Known::default(), &BTreeMap::new()).unwrap();
    folded.verdicts.into_iter().map(Option::unwrap).collect()
}

fn id(number: u128) -> Uuid {
    tracking_id(number).uuid()
}

fn conflict(created_by: u128) -> Verdict {
    Verdict::Rejected(Rejection::Conflict {
        created_by: id(created_by),
    })
}

fn ride_of(write: &Write) -> rides::State {
    *write.after.ride().unwrap()
}

#[test]
fn post_compares_with_the_creation_and_put_with_what_is_current() {
    use Operation::{Create, Replace};
    let found = verdicts(vec![
        entry(1, Create, 7, 100),
        entry(2, Create, 7, 100),
        entry(3, Create, 7, 200),
        entry(4, Replace, 7, 100),
        entry(5, Replace, 7, 200),
        entry(6, Replace, 7, 200),
        // What was created, sent again after it was replaced: still a resend.
        entry(7, Create, 7, 100),
        // What is current, sent as a creation: somebody else's idea of this ride.
        entry(8, Create, 7, 200),
        entry(9, Replace, 7, 100),
        entry(10, Replace, 8, 100),
        entry(11, Create, 8, 100),
    ]);
    let expected = vec![
        Verdict::Persisted(Action::Created),
        Verdict::Duplicate(id(1)),
        conflict(1),
        Verdict::Duplicate(id(1)),
        Verdict::Persisted(Action::Replaced),
        Verdict::Duplicate(id(5)),
        Verdict::Duplicate(id(1)),
        conflict(1),
        Verdict::Persisted(Action::Replaced),
        Verdict::Persisted(Action::Created),
        Verdict::Duplicate(id(10)),
    ];
    assert_eq!(found, expected);
}

#[test]
fn a_condition_is_judged_before_the_content() {
    let when = |version, entry| Entry {
        expected_version: Some(version),
        ..entry
    };
    let put = |number, user_id| entry(number, Operation::Replace, 7, user_id);
    let found = verdicts(vec![
        when(1, put(1, 100)),
        put(2, 100),
        when(2, put(3, 200)),
        // The same content does not make a stale version right.
        when(2, put(4, 100)),
        when(1, put(5, 100)),
        when(1, put(6, 300)),
        when(1, put(7, 400)),
        when(2, put(8, 400)),
    ]);
    let stale = |expected, present, by| {
        Verdict::Rejected(Rejection::StaleVersion {
            expected,
            present,
            by: id(by),
        })
    };
    let expected = vec![
        Verdict::Rejected(Rejection::NotFound),
        Verdict::Persisted(Action::Created),
        stale(2, 1, 2),
        stale(2, 1, 2),
        Verdict::Duplicate(id(2)),
        Verdict::Persisted(Action::Replaced),
        stale(1, 2, 6),
        Verdict::Persisted(Action::Replaced),
    ];
    assert_eq!(found, expected);
}

#[test]
fn partners_do_not_meet() {
    let mut other = entry(2, Operation::Create, 7, 200);
    other.partner_id = 2;
    let found = verdicts(vec![entry(1, Operation::Create, 7, 100), other]);
    assert_eq!(
        found,
        [
            Verdict::Persisted(Action::Created),
            Verdict::Persisted(Action::Created)
        ]
    );
}

#[test]
fn a_chunk_stored_twice_is_taken_once_even_if_it_is_late_the_second_time() {
    let entries = || {
        vec![
            entry(1, Operation::Create, 7, 1),
            entry(2, Operation::Create, 8, 1),
        ]
    };
    let batch = batch(vec![(0, entries()), (60_000_000, entries())]);
    let items = Items::of(&batch).unwrap();
    assert_eq!((items.list.len(), items.repeated), (2, 2));
    let folded = fold(&items.list, &Known::default(), &BTreeMap::new()).unwrap();
    assert_eq!(
        folded.verdicts,
        vec![Some(Verdict::Persisted(Action::Created)); 2]
    );
}

#[test]
fn one_id_for_two_records_is_never_dropped_in_silence() {
    for second in [
        entry(1, Operation::Create, 7, 2),
        entry(1, Operation::Replace, 7, 1),
        entry(1, Operation::Create, 8, 1),
        Entry {
            expected_version: Some(1),
            ..entry(1, Operation::Create, 7, 1)
        },
    ] {
        let batch = batch(vec![(0, vec![entry(1, Operation::Create, 7, 1), second])]);
        assert!(matches!(
            Items::of(&batch),
            Err(InstallationFault::TrackingIdReused {
                log_seq: 1,
                log_index: 1,
                ..
            })
        ));
    }
}

#[test]
fn expiry_begins_after_the_slack() {
    let slack_us = i64::try_from(EXPIRY_SLACK.as_micros()).unwrap();
    for (late_us, expired) in [
        (-1, false),
        (0, false),
        (slack_us, false),
        (slack_us + 1, true),
    ] {
        let batch = batch(vec![(late_us, vec![entry(1, Operation::Create, 7, 1)])]);
        let items = Items::of(&batch).unwrap();
        let folded = fold(&items.list, &Known::default(), &BTreeMap::new()).unwrap();
        let found = folded.verdicts[0] == Some(Verdict::Expired { late_us });
        assert_eq!(
            (found, folded.writes.is_empty()),
            (expired, expired),
            "{late_us} µs late"
        );
    }
}

#[test]
fn a_stored_hash_of_another_version_names_the_record_that_met_it() {
    let batch = batch(vec![(0, vec![entry(1, Operation::Create, 7, 1)])]);
    let items = Items::of(&batch).unwrap();
    let newer = ContentHash::from_stored(2 << 60);
    let state = State::Ride(rides::State {
        tracking_id: id(9),
        content_hash: newer,
        created_by: id(9),
        created_hash: newer,
        version: 1,
    });
    let known = Known {
        states: HashMap::from([(items.list[0].key, state)]),
        ..Known::default()
    };
    let error = fold(&items.list, &known, &BTreeMap::new()).unwrap_err();
    assert_eq!((error.item, error.version), (0, UnknownVersion(2)));
}

#[test]
fn without_its_unstorable_record_a_key_goes_on_as_if_it_had_not_been_sent() {
    use Operation::{Create, Replace};
    let batch = batch(vec![(
        0,
        vec![
            entry(1, Create, 7, 1),
            entry(2, Create, 7, 2),
            entry(3, Replace, 7, 3),
        ],
    )]);
    let items = Items::of(&batch).unwrap();
    let refusal = Refusal {
        sqlstate: "22P05".to_owned(),
        message: String::new(),
    };
    let bad = BTreeMap::from([(0, refusal.clone())]);
    let folded = fold(&items.list, &Known::default(), &bad).unwrap();
    let expected = [
        Verdict::Unstorable(refusal),
        Verdict::Persisted(Action::Created),
        Verdict::Persisted(Action::Replaced),
    ];
    assert_eq!(folded.verdicts, expected.map(Some));
    assert!(must_look_first(&folded.writes));
    assert_eq!(ride_of(&folded.writes[1]).created_by, id(2));
    assert_eq!(ride_of(&folded.writes[1]).version, 2);
}

fn any_entries() -> impl Strategy<Value = Vec<Entry>> {
    let one = (any::<bool>(), 1..4_i64, 1..4_i64);
    proptest::collection::vec(one, 0..40).prop_map(|list| {
        let operation = |create| {
            if create {
                Operation::Create
            } else {
                Operation::Replace
            }
        };
        (1..)
            .zip(list)
            .map(|(number, (create, ride, user))| entry(number, operation(create), ride, user))
            .collect()
    })
}

proptest! {
    /// Folding in one go equals folding record by record with a look at the database in between:
    /// how the log is cut into batches decides nothing.
    #[test]
    fn cuts_decide_nothing(entries in any_entries(), cut in 0..40_usize) {
        let whole = batch(vec![(0, entries.clone())]);
        let whole = Items::of(&whole).unwrap();
        let at_once = fold(&whole.list, &Known::default(), &BTreeMap::new()).unwrap();

        let (first, second) = whole.list.split_at(cut.min(whole.list.len()));
        let mut known = Known::default();
        let mut piecewise = Vec::new();
        for part in [first, second] {
            let folded = fold(part, &known, &BTreeMap::new()).unwrap();
            for write in folded.writes.iter().filter(|write| write.last) {
                known
                    .states
                    .insert(part[write.item].key, write.after.clone());
            }
            piecewise.extend(folded.verdicts);
        }
        prop_assert_eq!(&at_once.verdicts, &piecewise);
        let last_writes = at_once.writes.iter().filter(|write| write.last);
        let states: HashMap<_, _> = last_writes
            .map(|write| (whole.list[write.item].key, write.after.clone()))
            .collect();
        prop_assert_eq!(states, known.states);
    }
}
