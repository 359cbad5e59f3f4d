//! Many who change the bucket at once.

use std::collections::HashSet;
use std::num::NonZeroU32;
use std::time::Duration;

use jiff::Timestamp;
use partners::{AddError, Bucket, BucketError, ChangeError, Limits, NewPartner, Scope, later};

use crate::support::{World, new};

#[tokio::test(flavor = "multi_thread")]
async fn of_many_who_add_one_name_one_does() {
    let world = World::start().await;
    let bucket = world.bucket().await;
    let adding: Vec<_> = (0..16)
        .map(|_| {
            let bucket = bucket.clone();
            tokio::spawn(async move { bucket.add(&new("acme"), Timestamp::now()).await })
        })
        .collect();
    let mut added = 0;
    for adding in adding {
        match adding.await.unwrap() {
            Ok(_) => added += 1,
            Err(AddError::NameTaken { .. } | AddError::NameReserved(_)) => {}
            Err(error) => panic!("{error}"),
        }
    }
    assert_eq!(added, 1);
    let documents = bucket.list().await.unwrap();
    assert_eq!(documents.len(), 1, "{documents:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn many_who_add_other_names_get_other_ids() {
    let world = World::start().await;
    let bucket = world.bucket().await;
    let adding: Vec<_> = (0..12)
        .map(|index| {
            let bucket = bucket.clone();
            let name = format!("partner-{index}");
            tokio::spawn(async move { bucket.add(&new(&name), Timestamp::now()).await })
        })
        .collect();
    let mut ids = HashSet::new();
    for adding in adding {
        let (document, _) = adding.await.unwrap().expect("added");
        assert!(ids.insert(document.id), "{}", document.id);
    }
    let documents = bucket.list().await.unwrap();
    assert_eq!(documents.len(), 12);
    let names: HashSet<&str> = documents.values().map(|document| &*document.name).collect();
    assert_eq!(names.len(), 12);
}

#[tokio::test(flavor = "multi_thread")]
async fn no_change_is_lost_among_many() {
    let world = World::start().await;
    let (document, _) = world.add("acme").await;
    let bucket = world.bucket().await;
    let changing: Vec<_> = (0..8)
        .map(|_| {
            let bucket = bucket.clone();
            let id = document.id;
            tokio::spawn(async move {
                let key = partners::ApiKey::generate();
                let now = Timestamp::now();
                let add = |document: &mut partners::Document| {
                    document.add_key(&key, &[Scope::Read], None, now)
                };
                bucket.change(id, add).await
            })
        })
        .collect();
    for changing in changing {
        changing.await.unwrap().expect("changed");
    }
    let found = bucket.get(document.id).await.unwrap().unwrap();
    assert_eq!(found.keys.len(), 9);
}

#[tokio::test(flavor = "multi_thread")]
async fn refusals_say_why_and_leave_nothing_behind() {
    let world = World::start().await;
    assert!(matches!(
        Bucket::open(&world.client).await,
        Err(BucketError::Missing)
    ));
    let (first, _) = world.add("first").await;
    let bucket = world.bucket().await;
    let now = Timestamp::now();
    let with_id = |name: &str, id| NewPartner {
        id: Some(id),
        ..new(name)
    };
    let error = bucket
        .add(&with_id("other", first.id), now)
        .await
        .unwrap_err();
    assert!(matches!(error, AddError::IdTaken(id) if id == first.id));
    let error = bucket.add(&with_id("first", 9), now).await.unwrap_err();
    assert!(matches!(error, AddError::NameTaken { id, .. } if id == first.id));
    let burst = Limits {
        records_burst: NonZeroU32::new(5),
        ..Limits::default()
    };
    let wrong = NewPartner {
        limits: burst,
        ..new("other")
    };
    assert!(matches!(
        bucket.add(&wrong, now).await,
        Err(AddError::Conflict(_))
    ));
    assert!(matches!(
        bucket.add(&new("Other"), now).await,
        Err(AddError::Name(_))
    ));
    let nothing = |_: &mut partners::Document| Ok(());
    let unknown = bucket.change(99, nothing).await;
    assert!(matches!(unknown, Err(ChangeError::Unknown(99))));
    let (other, _) = bucket
        .add(&with_id("other", 41), now)
        .await
        .expect("free after all");
    let (next, _) = bucket.add(&new("next"), now).await.expect("added");
    assert_eq!((other.id, next.id), (41, 42));
}

/// Who reserved it died before its partner was there.
#[tokio::test(flavor = "multi_thread")]
async fn a_name_that_was_only_reserved_is_free_again_after_a_while() {
    let world = World::start().await;
    let bucket = world.bucket().await;
    let context = async_nats::jetstream::new(world.client.clone());
    let store = context.get_key_value("weir_partners").await.unwrap();
    store
        .put("name.acme", r#"{"id":1,"by":"gone"}"#.into())
        .await
        .unwrap();
    let now = Timestamp::now();
    let reserved = bucket.add(&new("acme"), now).await;
    assert!(matches!(reserved, Err(AddError::NameReserved(_))));
    let a_minute_later = later(now, Duration::from_secs(60));
    let (document, _) = bucket
        .add(&new("acme"), a_minute_later)
        .await
        .expect("free");
    assert_eq!(document.name, "acme");
}
