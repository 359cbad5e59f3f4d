//! `persist-worker migrate`.

use std::time::Duration;

use async_nats::jetstream::stream::{Config, DiscardPolicy, RetentionPolicy, StorageType};
use contract::Partition;
use contract::event::STREAM;
use contract::log::{StreamMetadata, stream_name};
use devstack::eventually::eventually;
use sqlx::{Connection as _, PgConnection};

use super::rig::{LIMIT, PARTNER, Rig};

#[tokio::test(flavor = "multi_thread")]
async fn it_may_be_repeated_and_what_is_there_wins() {
    let rig = Rig::bare().await;
    let first = rig
        .migrate(&["--partitions", "3"])
        .await
        .unwrap()
        .join("\n");
    assert!(first.contains("created WEIR_INGEST_002"), "{first}");
    let before = rig.stream(2).await;
    let again = rig.migrate(&[]).await.unwrap().join("\n");
    assert!(!again.contains("created"), "{again}");
    assert!(again.contains("3 partitions"), "{again}");
    assert_eq!(rig.stream(2).await.config, before.config);
    let error = rig.migrate(&["--partitions", "4"]).await.unwrap_err();
    assert!(
        error.to_string().contains("has 3 partitions and 4"),
        "{error}"
    );
    assert_eq!(rig.count("select count(*) from progress").await, 3);
    assert_eq!(rig.count("select count(*) from leases").await, 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_are_as_promised() {
    let rig = Rig::with_partitions(2).await;
    let installation: uuid::Uuid = rig
        .sql()
        .await
        .query_one("select id from installation", &[])
        .await
        .unwrap()
        .get(0);
    let mut incarnations = Vec::new();
    for partition in 0..2 {
        let config = rig.stream(partition).await.config;
        assert_eq!(
            config.discard,
            async_nats::jetstream::stream::DiscardPolicy::New
        );
        assert_eq!(config.max_bytes, 16 * 1024 * 1024);
        assert!(config.max_age.is_zero());
        assert_eq!(config.duplicate_window.as_secs(), 120);
        let metadata = StreamMetadata::from_map(&config.metadata).unwrap();
        assert_eq!(metadata.installation, installation);
        assert_eq!(metadata.partitions.count(), 2);
        incarnations.push(metadata.incarnation);
    }
    assert_ne!(incarnations[0], incarnations[1]);
    let events = rig.jetstream.get_stream(STREAM).await.unwrap();
    let config = &events.cached_info().config;
    assert_eq!(config.discard, DiscardPolicy::New);
    assert_eq!(config.max_bytes, 64 * 1024 * 1024);
    assert_eq!(config.max_age, Duration::from_secs(7 * 24 * 3600));
    assert_eq!(config.duplicate_window, Duration::from_secs(600));
    assert!(config.allow_rollup && config.allow_atomic_publish);
    // A week of days, today, and the default.
    let days = "select count(*) from pg_inherits where inhparent = 'requests'::regclass";
    assert_eq!(rig.count(days).await, 9);
}

/// Takes the database back to what the former release left, rides included.
async fn downgrade(rig: &Rig) {
    rig.jetstream.delete_stream(STREAM).await.unwrap();
    let sql = rig.sql().await;
    sql.batch_execute(
        "create schema kept; \
         alter table installation set schema kept; alter table progress set schema kept; \
         alter table leases set schema kept; \
         drop schema public cascade; create schema public",
    )
    .await
    .unwrap();
    let mut connection = PgConnection::connect(&rig.postgres.database_url())
        .await
        .unwrap();
    let migrator = sqlx::migrate!("../migrations");
    migrator.run_to(2, &mut connection).await.unwrap();
    sql.batch_execute(
        "insert into installation select * from kept.installation; \
         insert into progress select * from kept.progress; \
         insert into leases select * from kept.leases; drop schema kept cascade",
    )
    .await
    .unwrap();
    sql.batch_execute(&insert_rides(1_000, 6_000))
        .await
        .unwrap();
}

fn insert_rides(from: i64, to: i64) -> String {
    format!(
        "insert into rides (partner_id, id, user_id, vehicle_model_id, travel_type_id, from_date, \
         online_booking, mobile_site_booking, booking_created, car_cancellation, tracking_id, \
         content_hash, created_by, created_hash, version, created_at, updated_at) \
         select {PARTNER}, id, id % 100, 12, 2, now(), true, false, now(), false, \
         gen_random_uuid(), 0, gen_random_uuid(), 0, 1, now(), now() \
         from generate_series({from}, {to} - 1) id"
    )
}

const INDEX_IS_VALID: &str = "select count(*) from pg_index \
     where indexrelid = to_regclass('rides_by_user') and indisvalid";

#[tokio::test(flavor = "multi_thread")]
async fn an_upgrade_goes_on_with_what_was_there_and_keeps_no_writer_waiting() {
    let rig = Rig::with_partitions(1).await;
    let old = rig.publish_version_1(0, &[1, 2]).await;
    downgrade(&rig).await;
    // A batch of an old worker that is still there, and keeps the index from being finished.
    let writer = rig.sql().await;
    let begin = format!("begin; {}", insert_rides(6_000, 6_001));
    writer.batch_execute(&begin).await.unwrap();
    let upgrading = rig.migrate(&[]);
    let meanwhile = async {
        let building = eventually(LIMIT, async || {
            let building = "select count(*) from pg_stat_activity \
                 where datname = current_database() and wait_event_type = 'Lock' \
                   and query like '%create index%rides_by_user%' and pid <> pg_backend_pid()";
            (rig.count(building).await > 0).then_some(())
        });
        building.await.expect("the index is being built");
        let other = rig.sql().await;
        other
            .batch_execute("set lock_timeout = '5s'")
            .await
            .unwrap();
        let inserted = other.batch_execute(&insert_rides(6_001, 6_002)).await;
        writer.batch_execute("commit").await.unwrap();
        inserted.expect("writers are not kept waiting");
    };
    let (upgraded, ()) = tokio::join!(upgrading, meanwhile);
    let said = upgraded.unwrap().join("\n");
    assert!(said.contains("created WEIR_EVENTS"), "{said}");
    assert_eq!(rig.count(INDEX_IS_VALID).await, 1);

    let worker = rig.start(&["--ride-events"]);
    rig.persisted(&old).await;
    rig.persisted(&rig.publish(0, &[3]).await).await;
    assert_eq!(rig.count("select count(*) from rides").await, 5_005);
    let told = eventually(LIMIT, async || {
        let stream = rig.jetstream.get_stream(STREAM).await.unwrap();
        // Three rides and a fence.
        (stream.cached_info().state.messages == 4).then_some(())
    });
    told.await.expect("rides are told of");
    worker.drain().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_index_whose_build_broke_off_is_built_anew() {
    let rig = Rig::with_partitions(1).await;
    let sql = rig.sql().await;
    sql.batch_execute(
        "update pg_index set indisvalid = false where indexrelid = 'rides_by_user'::regclass; \
         delete from _sqlx_migrations where version = 4",
    )
    .await
    .unwrap();
    assert_eq!(rig.count(INDEX_IS_VALID).await, 0);
    rig.migrate(&[]).await.unwrap();
    assert_eq!(rig.count(INDEX_IS_VALID).await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn two_that_migrate_at_once_both_succeed() {
    let rig = Rig::with_partitions(1).await;
    downgrade(&rig).await;
    let (one, other) = tokio::join!(rig.migrate(&[]), rig.migrate(&[]));
    one.unwrap();
    other.unwrap();
    assert_eq!(rig.count(INDEX_IS_VALID).await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_stream_is_created_and_an_empty_database_adopts_the_log() {
    let rig = Rig::with_partitions(2).await;
    let kept = rig.stream(0).await.config.metadata;
    rig.jetstream
        .delete_stream(stream_name(Partition(1)))
        .await
        .unwrap();
    let sql = rig.sql().await;
    sql.batch_execute("truncate installation, progress, leases")
        .await
        .unwrap();
    let said = rig.migrate(&[]).await.unwrap().join("\n");
    assert!(said.contains("created WEIR_INGEST_001"), "{said}");
    assert!(!said.contains("created WEIR_INGEST_000"), "{said}");
    let (kept, new) = (
        StreamMetadata::from_map(&kept).unwrap(),
        StreamMetadata::from_map(&rig.stream(1).await.config.metadata).unwrap(),
    );
    assert_eq!(kept.installation, new.installation);
    let worker = rig.start(&[]);
    let ids = [rig.publish(0, &[1]).await, rig.publish(1, &[2]).await].concat();
    rig.persisted(&ids).await;
    worker.drain().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_of_another_installation_is_refused() {
    let rig = Rig::with_partitions(2).await;
    let sql = rig.sql().await;
    sql.batch_execute("update installation set id = gen_random_uuid()")
        .await
        .unwrap();
    let error = rig.migrate(&[]).await.unwrap_err().to_string();
    assert!(error.contains("belongs to installation"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_would_lose_acknowledged_records_is_refused() {
    let rig = Rig::with_partitions(2).await;
    let good = rig.stream(1).await.config;
    let remake = async |config: Config| {
        rig.jetstream.delete_stream(&config.name).await.unwrap();
        rig.jetstream.create_stream(config).await.unwrap();
        rig.migrate(&[]).await
    };
    let bad = [
        ("discard is not new", {
            let discard = DiscardPolicy::Old;
            Config {
                discard,
                ..good.clone()
            }
        }),
        ("max_age is 3600s", {
            let max_age = Duration::from_secs(3600);
            Config {
                max_age,
                ..good.clone()
            }
        }),
        ("storage is not file", {
            let storage = StorageType::Memory;
            Config {
                storage,
                ..good.clone()
            }
        }),
        ("retention is not limits", {
            let retention = RetentionPolicy::Interest;
            Config {
                retention,
                ..good.clone()
            }
        }),
    ];
    for (words, config) in bad {
        let error = remake(config).await.unwrap_err().to_string();
        assert!(
            error.contains("WEIR_INGEST_001") && error.contains(words),
            "{error}"
        );
    }
    remake(good).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_of_another_size_is_kept_and_told_of() {
    let rig = Rig::with_partitions(1).await;
    let before = rig.stream(0).await.config;
    let same = rig.migrate(&[]).await.unwrap().join("\n");
    assert!(!same.contains("warning"), "{same}");
    let flags = ["--replicas", "3", "--stream-bytes-max", "32MiB"];
    let said = rig.migrate(&flags).await.unwrap().join("\n");
    let replicas = "warning: WEIR_INGEST_000 has 1 replicas, --replicas is 3";
    let bytes = "warning: WEIR_INGEST_000 may hold 16MiB, --stream-bytes-max is 32MiB";
    assert!(said.contains(replicas) && said.contains(bytes), "{said}");
    assert_eq!(rig.stream(0).await.config, before);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_without_room_says_what_to_do() {
    let rig = Rig::bare().await;
    let flags = ["--partitions", "1", "--stream-bytes-max", "1000TiB"];
    let error = rig.migrate(&flags).await.unwrap_err().to_string();
    assert!(error.contains("--stream-bytes-max"), "{error}");
    rig.migrate(&["--partitions", "1"]).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn servers_that_stay_away_are_named() {
    let mut rig = Rig::bare().await;
    rig.nats.kill(0).await;
    let error = rig
        .migrate(&["--wait", "1s"])
        .await
        .unwrap_err()
        .to_string();
    assert!(error.contains("the log did not answer"), "{error}");
    rig.postgres.stop().await;
    let error = rig
        .migrate(&["--wait", "1s"])
        .await
        .unwrap_err()
        .to_string();
    assert!(error.contains("the database did not answer"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_of_events_is_made_once_kept_and_compared() {
    let rig = Rig::with_partitions(1).await;
    let done = rig.migrate(&[]).await.unwrap().join("\n");
    assert!(!done.contains("WEIR_EVENTS"), "{done}");
    let flags = ["--events-retain", "1h", "--events-bytes-max", "8MiB"];
    let done = rig.migrate(&flags).await.unwrap().join("\n");
    for said in [
        "WEIR_EVENTS keeps events 604800s, --events-retain is 3600s: kept as it is",
        "WEIR_EVENTS may hold 64MiB, --events-bytes-max is 8MiB: kept as it is",
    ] {
        assert!(done.contains(said), "{done}");
    }
    let stream = rig.jetstream.get_stream(STREAM).await.unwrap();
    let good = stream.cached_info().config.clone();
    rig.jetstream.delete_stream(STREAM).await.unwrap();
    let bad = Config {
        allow_atomic_publish: false,
        discard: DiscardPolicy::Old,
        ..good
    };
    rig.jetstream.create_stream(bad).await.unwrap();
    let error = rig.migrate(&[]).await.unwrap_err().to_string();
    for said in ["allow_atomic is off", "discard is not new"] {
        assert!(error.contains(said), "{error}");
    }
    rig.jetstream.delete_stream(STREAM).await.unwrap();
    let error = rig
        .migrate(&["--events-bytes-max", "1MiB"])
        .await
        .unwrap_err();
    assert!(error.to_string().contains("less than the 4MiB"), "{error}");
}
