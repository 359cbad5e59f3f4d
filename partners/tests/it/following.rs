//! What a process knows, and how soon.

use std::fs;
use std::num::NonZeroU32;
use std::os::unix::fs::PermissionsExt as _;
use std::time::Duration;

use devstack::eventually::eventually;
use futures_util::StreamExt as _;
use jiff::Timestamp;
use partners::{Denied, Limits, Scope, Seed, Sources, generate_key, later, sha256_hex, toml_entry};

use crate::support::{Follower, LIMIT, SOON, World, cached_in, new};

#[tokio::test(flavor = "multi_thread")]
async fn every_change_is_known_everywhere_within_a_second() {
    let world = World::start().await;
    let bucket = world.bucket().await;
    let followers = [
        world.follower(Sources::default()).await,
        world.follower(Sources::default()).await,
    ];
    for follower in &followers {
        follower.until_loaded().await;
    }
    let (document, key) = world.add("acme").await;
    let id = document.id;
    for follower in &followers {
        follower.until(SOON, &key, Scope::Ingest, Ok(id)).await;
    }
    let limits = Limits {
        records_per_second: NonZeroU32::new(100),
        ..Limits::default()
    };
    bucket
        .change(id, |document| document.set_limits(limits))
        .await
        .unwrap();
    for follower in &followers {
        let known = eventually(SOON, || async {
            let now = std::time::SystemTime::now();
            let found = follower
                .partners
                .authenticate(key.reveal(), Scope::Read, now);
            (found.unwrap().limits == limits).then_some(())
        });
        known.await.expect("the limits are known");
    }
    for (is_disabled, expected) in [(true, Err(Denied::Disabled)), (false, Ok(id))] {
        let disable = |document: &mut partners::Document| {
            document.disabled = is_disabled;
            Ok(())
        };
        bucket.change(id, disable).await.unwrap();
        for follower in &followers {
            follower.until(SOON, &key, Scope::Ingest, expected).await;
        }
    }
    let now = Timestamp::now();
    bucket
        .change(id, |document| document.revoke_key(key.id(), now))
        .await
        .unwrap();
    for follower in &followers {
        follower
            .until(SOON, &key, Scope::Ingest, Err(Denied::Revoked))
            .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn scopes_and_expiry() {
    let world = World::start().await;
    let follower = world.follower(Sources::default()).await;
    let expires_at = later(Timestamp::now(), Duration::from_secs(3));
    let reading = partners::NewPartner {
        scopes: vec![Scope::Read],
        expires_at: Some(expires_at),
        ..new("reader")
    };
    let bucket = world.bucket().await;
    let (document, key) = bucket.add(&reading, Timestamp::now()).await.unwrap();
    follower
        .until(LIMIT, &key, Scope::Read, Ok(document.id))
        .await;
    assert_eq!(
        follower.ask(&key, Scope::Ingest),
        Err(Denied::Scope(Scope::Ingest))
    );
    // Nothing happens at that moment; the time has come, that is all.
    follower
        .until(LIMIT, &key, Scope::Read, Err(Denied::Expired))
        .await;
    assert!(Timestamp::now() >= expires_at);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rotated_key_works_until_its_grace_is_over() {
    let world = World::start().await;
    let follower = world.follower(Sources::default()).await;
    let (document, old) = world.add("acme").await;
    let new_key = partners::ApiKey::generate();
    let now = Timestamp::now();
    let ends_at = later(now, Duration::from_secs(3));
    let rotate = |document: &mut partners::Document| {
        let scopes = document.live_scopes(now);
        document.expire_keys(&scopes, ends_at, now);
        document.add_key(&new_key, &scopes, None, now)
    };
    world
        .bucket()
        .await
        .change(document.id, rotate)
        .await
        .unwrap();
    follower
        .until(LIMIT, &new_key, Scope::Ingest, Ok(document.id))
        .await;
    follower
        .until(LIMIT, &old, Scope::Ingest, Err(Denied::Expired))
        .await;
    assert!(Timestamp::now() >= ends_at);
    assert_eq!(follower.ask(&new_key, Scope::Read), Ok(document.id));
}

/// Twice: also after the second, everything is as quick as at first.
#[tokio::test(flavor = "multi_thread")]
async fn the_log_is_killed_and_comes_back_and_no_change_is_missed() {
    let mut world = World::start().await;
    let follower = world.follower(Sources::default()).await;
    let (first, key) = world.add("first").await;
    follower.until(LIMIT, &key, Scope::Read, Ok(first.id)).await;
    for round in 0..2 {
        world.nats.kill(0).await;
        assert_eq!(
            follower.ask(&key, Scope::Read),
            Ok(first.id),
            "what is known stays"
        );
        world.nats.restart(0).await.unwrap();
        let name = format!("after-{round}");
        let (document, another) = world.add(&name).await;
        follower
            .until(LIMIT, &another, Scope::Read, Ok(document.id))
            .await;
        let now = Timestamp::now();
        let revoke = |document: &mut partners::Document| document.revoke_key(another.id(), now);
        world
            .bucket()
            .await
            .change(document.id, revoke)
            .await
            .unwrap();
        follower
            .until(SOON, &another, Scope::Read, Err(Denied::Revoked))
            .await;
    }
}

/// Whoever makes a consumer says where its messages go, so those who only follow may make none.
#[tokio::test(flavor = "multi_thread")]
async fn following_takes_no_consumer() {
    let world = World::start().await;
    let follower = world.follower(Sources::default()).await;
    let (first, key) = world.add("first").await;
    follower.until(LIMIT, &key, Scope::Read, Ok(first.id)).await;
    let context = async_nats::jetstream::new(world.client.clone());
    let stream = context.get_stream("KV_weir_partners").await.unwrap();
    assert_eq!(stream.consumer_names().count().await, 0);
}

/// With fewer revisions than the old one had, and with more.
#[tokio::test(flavor = "multi_thread")]
async fn a_bucket_that_is_made_anew_is_read_anew() {
    let world = World::start().await;
    let follower = world.follower(Sources::default()).await;
    let (first, mut old) = world.add("first").await;
    follower.until(LIMIT, &old, Scope::Read, Ok(first.id)).await;
    let context = async_nats::jetstream::new(world.client.clone());
    for names in [["a", "b"].as_slice(), &["c", "d", "e", "f"]] {
        context.delete_key_value("weir_partners").await.unwrap();
        let mut last = None;
        for name in names {
            last = Some(world.add(name).await);
        }
        let (document, key) = last.unwrap();
        follower
            .until(LIMIT, &key, Scope::Read, Ok(document.id))
            .await;
        follower
            .until(LIMIT, &old, Scope::Read, Err(Denied::Unknown))
            .await;
        old = key;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn more_than_one_answer_holds_is_read_at_the_start_and_later() {
    let world = World::start().await;
    let early = world.follower(Sources::default()).await;
    let (first, key) = world.add("first").await;
    early.until(LIMIT, &key, Scope::Read, Ok(first.id)).await;
    let context = async_nats::jetstream::new(world.client.clone());
    let store = context.get_key_value("weir_partners").await.unwrap();
    for number in 0..600 {
        let name = format!("name.other-{number}");
        store.put(name, "{}".into()).await.unwrap();
    }
    let (last, key) = world.add("last").await;
    early.until(LIMIT, &key, Scope::Read, Ok(last.id)).await;
    let late = world.follower(Sources::default()).await;
    late.until(LIMIT, &key, Scope::Read, Ok(last.id)).await;
    assert_eq!(world.bucket().await.list().await.unwrap().len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_without_the_log_knows_what_the_cache_knows() {
    let directory = tempfile::tempdir().unwrap();
    let cache = directory.path().join("partners.json");
    let world = World::start().await;
    let (document, key) = world.add("acme").await;
    {
        let follower = world.follower(cached_in(cache.clone())).await;
        follower
            .until(LIMIT, &key, Scope::Read, Ok(document.id))
            .await;
        eventually(LIMIT, || async { fs::metadata(&cache).ok() })
            .await
            .unwrap();
    }
    let mode = fs::metadata(&cache).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let text = fs::read_to_string(&cache).unwrap();
    assert!(!text.contains(key.reveal()), "hashes only");

    world.nats.kill(0).await;
    let without = world.follower(Sources::default()).await;
    let with = world.follower(cached_in(cache)).await;
    assert_eq!(with.ask(&key, Scope::Read), Ok(document.id));
    assert_eq!(
        with.ask_text("weir_live_x", Scope::Read),
        Err(Denied::Unknown)
    );
    // Nobody can say that a key is nobody's before it is known whose keys there are.
    assert_eq!(without.ask(&key, Scope::Read), Err(Denied::NotLoaded));
    let told = eventually(LIMIT, || async { without.state.lock().unwrap().clone() }).await;
    assert_eq!(told, Some(Err("not connected to the log".into())));
    let told = eventually(LIMIT, || async { with.state.lock().unwrap().clone() }).await;
    assert_eq!(told, Some(Ok(())));
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_bucket_nobody_is_known_and_the_reason_says_what_to_do() {
    let world = World::start().await;
    let follower = world.follower(Sources::default()).await;
    let told = eventually(LIMIT, || async {
        let told = follower.state.lock().unwrap().clone();
        told?
            .err()
            .filter(|reason| reason.contains("weir partner add"))
    });
    told.await.expect("a reason");
    let (document, key) = world.add("first").await;
    follower
        .until(SOON, &key, Scope::Ingest, Ok(document.id))
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_seed_is_written_once_and_never_over_what_is_there() {
    let world = World::start().await;
    let keys = [(); 4].map(|()| generate_key());
    let seed = |entries: &[(i32, &str, &str)]| {
        let entries = entries.iter();
        let entries = entries.map(|(id, name, key)| toml_entry(*id, name, &[sha256_hex(key)]));
        Sources {
            seed: Seed::parse(&entries.collect::<String>()).unwrap(),
            cache: None,
        }
    };
    let sources = seed(&[(1, "xrides", &keys[0]), (2, "Two Words", &keys[1])]);
    // Both at once, as gateways and status APIs do.
    let [one, other] = [
        world.follower(sources.clone()).await,
        world.follower(sources.clone()).await,
    ];
    let bucket = world.bucket().await;
    eventually(LIMIT, || async {
        (bucket.list().await.ok()?.len() == 2).then_some(())
    })
    .await
    .expect("both are written");
    for follower in [&one, &other] {
        assert_eq!(follower.ask_text(&keys[0], Scope::Ingest), Ok(1));
        assert_eq!(follower.ask_text(&keys[1], Scope::Read), Ok(2));
    }
    let disable = |document: &mut partners::Document| {
        document.disabled = true;
        Ok(())
    };
    let (before, ()) = bucket.change(1, disable).await.unwrap();
    let third = seed(&[(1, "renamed", &keys[2]), (3, "Two Words", &keys[3])]);
    let third = world.follower(third).await;
    let expected = Err(Denied::Disabled);
    eventually(LIMIT, || async {
        (third.ask_text(&keys[0], Scope::Read) == expected).then_some(())
    })
    .await
    .expect("it follows the bucket");
    assert_eq!(third.ask_text(&keys[2], Scope::Read), Err(Denied::Unknown));
    let documents = bucket.list().await.unwrap();
    assert_eq!(documents.len(), 2, "the name of 3 is 2's");
    assert_eq!(documents[&1], before);
}

/// A seed is not put over the cache either.
#[tokio::test(flavor = "multi_thread")]
async fn a_seed_does_not_bring_a_revoked_key_back_while_the_log_is_away() {
    let directory = tempfile::tempdir().unwrap();
    let world = World::start().await;
    let key = generate_key();
    let seed = Seed::parse(&toml_entry(1, "xrides", &[sha256_hex(&key)])).unwrap();
    let sources = Sources {
        seed,
        cache: Some(directory.path().join("partners.json")),
    };
    {
        let follower = world.follower(sources.clone()).await;
        let bucket = world.bucket().await;
        let written = eventually(LIMIT, || async { bucket.get(1).await.ok()? }).await;
        let key_id = written.expect("written").keys[0].id.clone();
        let now = Timestamp::now();
        bucket
            .change(1, |document| document.revoke_key(&key_id, now))
            .await
            .unwrap();
        let revoked = eventually(LIMIT, || async {
            let text = fs::read_to_string(directory.path().join("partners.json")).ok()?;
            (!text.contains("\"revoked_at\":null")).then_some(())
        });
        revoked.await.expect("the cache knows");
        assert_eq!(follower.ask_text(&key, Scope::Read), Err(Denied::Revoked));
    }
    world.nats.kill(0).await;
    let restarted = Follower::start(&world.nats.url(), sources).await;
    assert_eq!(restarted.ask_text(&key, Scope::Read), Err(Denied::Revoked));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_document_that_cannot_be_read_leaves_what_was_known() {
    let world = World::start().await;
    let follower = world.follower(Sources::default()).await;
    let (document, key) = world.add("acme").await;
    follower
        .until(LIMIT, &key, Scope::Read, Ok(document.id))
        .await;
    let context = async_nats::jetstream::new(world.client.clone());
    let store = context.get_key_value("weir_partners").await.unwrap();
    store
        .put(document.id.to_string(), "nonsense".into())
        .await
        .unwrap();
    let (second, another) = {
        let bucket = world.bucket().await;
        // A command does not go on over what it cannot read.
        let refused = bucket.add(&new("second"), Timestamp::now()).await;
        assert!(refused.unwrap_err().to_string().contains("partner 1"));
        store.put("1", document.to_json().into()).await.unwrap();
        let added = bucket.add(&new("second"), Timestamp::now()).await.unwrap();
        store.put("1", "nonsense".into()).await.unwrap();
        added
    };
    follower
        .until(LIMIT, &another, Scope::Read, Ok(second.id))
        .await;
    assert_eq!(follower.ask(&key, Scope::Read), Ok(document.id));
    store.delete(document.id.to_string()).await.unwrap();
    follower
        .until(SOON, &key, Scope::Read, Err(Denied::Unknown))
        .await;
}
