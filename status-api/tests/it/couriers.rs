//! Stored couriers, one by one and in pages.

use std::collections::HashSet;

use serde_json::{Value, json};

use crate::stage::{ACME, Answer, Ended, Stage, XRIDES};

/// Couriers `0` to `299` of xrides' with 0 to 99 litres available, three of each; every third a
/// van. Acme has one with the same id as one of theirs.
const THREE_HUNDRED: &str = "
    insert into couriers (partner_id, courier_id, name, max_capacity, available_capacity, vehicle_type,
                          tracking_id, created_by, created_hash, version, created_at, updated_at)
    select 1, n::text, 'name', 100, n % 100, case when n % 3 = 0 then 'van' end,
           gen_random_uuid(), gen_random_uuid(), 1, 1, now(), now()
    from generate_series(0, 299) n
    union all
    select 2, '7', 'another''s', 1000, 999, 'van', gen_random_uuid(), gen_random_uuid(), 1, 1, now(), now()";

fn ids(answer: &Answer) -> Vec<String> {
    assert_eq!(answer.status, 200, "{answer:?}");
    let json = answer.json();
    let results = json["results"].as_array().unwrap();
    results
        .iter()
        .map(|it| it["courier_id"].as_str().unwrap().to_owned())
        .collect()
}

/// The target of `Link`, which must be there exactly when the body names a cursor.
fn next(answer: &Answer) -> Option<String> {
    let link = answer.header("link").map(|link| {
        let target = link.strip_suffix(">; rel=\"next\"").expect("rel=next");
        target.strip_prefix('<').expect("a target").to_owned()
    });
    match (&link, &answer.json()["next_cursor"]) {
        (Some(link), Value::String(cursor)) => assert!(link.ends_with(cursor.as_str()), "{link}"),
        (None, Value::Null) => {}
        other => panic!("{other:?}"),
    }
    link
}

/// Every id from `path` on, by following the links.
async fn all(stage: &Stage, path: &str) -> Vec<String> {
    let (mut read, mut path) = (Vec::new(), path.to_owned());
    loop {
        let answer = stage.get(XRIDES, &path).await;
        read.extend(ids(&answer));
        match next(&answer) {
            Some(link) => path = link,
            None => return read,
        }
    }
}

#[tokio::test]
async fn a_courier_shows_its_fields_and_its_nulls() {
    let stage = Stage::new().await;
    stage
        .execute(
            "insert into couriers values
                (1, '7', 'Ada', 100, 45, 'van', '+91 80 1234', '{\"a\": [1.0, null], \"b\": 0.12345678901234567890123}',
                 '018f2f4e-7c3a-7abc-8def-0123456789ac', '018f2f4e-7c3a-7abc-8def-0123456789ab', 1, 3,
                 '2024-05-01 00:00:00+00', '2024-05-02 00:00:00.123+00', null),
                (1, 'ö/ %', 'slash', 0, 0, null, null, null,
                 '018f2f4e-7c3a-7abc-8def-0123456789ab', '018f2f4e-7c3a-7abc-8def-0123456789ab', 1, 1,
                 '2024-05-01 00:00:00+00', '2024-05-01 00:00:00+00', null),
                (1, 'gone', 'deleted', 5, 5, null, null, null,
                 '018f2f4e-7c3a-7abc-8def-0123456789ab', '018f2f4e-7c3a-7abc-8def-0123456789ab', 1, 2,
                 '2024-05-01 00:00:00+00', '2024-05-02 00:00:00+00', '2024-05-02 00:00:00+00')",
        )
        .await;
    let answer = stage.get(XRIDES, "/v1/couriers/7").await;
    assert_eq!(answer.status, 200, "{answer:?}");
    // The database keeps every digit, and so does the answer.
    let attributes = "{\"a\": [1.0, null], \"b\": 0.12345678901234567890123}";
    let expected = format!(
        "{{\"courier_id\":\"7\",\"name\":\"Ada\",\"max_capacity\":100,\"available_capacity\":45,\
         \"vehicle_type\":\"van\",\"phone\":\"+91 80 1234\",\"attributes\":{attributes},\
         \"tracking_id\":\"018f2f4e-7c3a-7abc-8def-0123456789ac\",\"version\":3,\
         \"created_at\":\"2024-05-01T00:00:00Z\",\"updated_at\":\"2024-05-02T00:00:00.123Z\"}}"
    );
    assert_eq!(answer.body, expected);

    let answer = stage.get(XRIDES, "/v1/couriers/%C3%B6%2F%20%25").await;
    assert_eq!(answer.json()["courier_id"], "ö/ %");
    for member in ["vehicle_type", "phone", "attributes"] {
        assert_eq!(answer.json()[member], json!(null), "{member}");
    }

    for (partner, id) in [(ACME, "7"), (XRIDES, "gone"), (XRIDES, "8"), (XRIDES, "07")] {
        let answer = stage.get(partner, &format!("/v1/couriers/{id}")).await;
        answer.is_problem(404, "not-found");
    }
    let listed = ids(&stage.get(XRIDES, "/v1/couriers").await);
    assert_eq!(listed, ["ö/ %", "7"], "the deleted one is not listed");
    let queries = stage.ledger_queries().await;
    for no_courier in ["%00", "a%0a", "%ff", &"x".repeat(65)] {
        let answer = stage
            .get(XRIDES, &format!("/v1/couriers/{no_courier}"))
            .await;
        answer.is_problem(404, "not-found");
    }
    assert_eq!(stage.ledger_queries().await, queries, "not asked for");
}

#[tokio::test]
async fn the_tag_is_the_version_and_spares_who_has_it_already() {
    let stage = Stage::new().await;
    stage.execute(THREE_HUNDRED).await;
    stage
        .execute("update couriers set version = 12 where courier_id = '7'")
        .await;
    let path = "/v1/couriers/7";
    let answer = stage.get(XRIDES, path).await;
    assert_eq!(answer.header("etag"), Some("\"12\""));
    assert_eq!(answer.header("cache-control"), Some("private, no-cache"));
    let has = async |tags: &str| {
        let header = format!("if-none-match: {tags}");
        stage.get_with(XRIDES, path, &header).await
    };
    for tags in ["\"12\"", "W/\"12\"", "\"11\", \"12\"", "*"] {
        let unchanged = has(tags).await;
        assert_eq!((unchanged.status, unchanged.body.as_str()), (304, ""));
        assert_eq!(unchanged.header("etag"), Some("\"12\""));
    }
    stage
        .execute("update couriers set version = 13 where courier_id = '7'")
        .await;
    let changed = has("\"12\"").await;
    assert_eq!(
        (changed.status, changed.header("etag")),
        (200, Some("\"13\""))
    );
    stage
        .execute("update couriers set version = 14, deleted_at = now() where courier_id = '7'")
        .await;
    has("\"14\"").await.is_problem(404, "not-found");
}

#[tokio::test]
async fn pages_hold_who_fits_the_tightest_first_and_nobody_elses() {
    let stage = Stage::new().await;
    stage.execute(THREE_HUNDRED).await;
    // By capacity, then by the id's bytes: "145" before "245" before "45".
    let expected = |min: i32, van: bool| -> Vec<String> {
        let mut those: Vec<(i32, String)> = (0..300)
            .filter(|n| n % 100 >= min && (!van || n % 3 == 0))
            .map(|n| (n % 100, n.to_string()))
            .collect();
        those.sort();
        those.into_iter().map(|(_, id)| id).collect()
    };
    let listed = all(&stage, "/v1/couriers?min_available=45&limit=7").await;
    assert_eq!(listed, expected(45, false));
    let listed = all(
        &stage,
        "/v1/couriers?min_available=98&vehicle_type=van&limit=1",
    )
    .await;
    assert_eq!(listed, expected(98, true));
    assert_eq!(all(&stage, "/v1/couriers").await, expected(0, false));
    let listed = all(&stage, "/v1/couriers?vehicle_type=van&limit=50").await;
    assert_eq!(listed, expected(0, true), "two full pages, then nothing");

    let whole = stage.get(XRIDES, "/v1/couriers?limit=300").await;
    assert_eq!((ids(&whole).len(), next(&whole)), (300, None));
    assert_eq!(whole.header("cache-control"), Some("no-store"));
    let one = &whole.json()["results"][0];
    let same = stage.get(XRIDES, "/v1/couriers/0").await.json();
    assert_eq!(*one, same, "the same form as by itself");
    let empty = stage.get(XRIDES, "/v1/couriers?min_available=100").await;
    assert_eq!(empty.json(), json!({"results": [], "next_cursor": null}));
    let theirs = stage.get(ACME, "/v1/couriers").await;
    assert_eq!(ids(&theirs), ["7"]);
    assert_eq!(theirs.json()["results"][0]["name"], "another's");
}

#[tokio::test]
async fn who_stays_where_it_is_appears_once_while_others_move() {
    let stage = Stage::new().await;
    stage.execute(THREE_HUNDRED).await;
    // Those whose number divides by 4 leap back and forth over the place that is being read, and
    // new ones come and go; nobody else changes.
    const MOVES: [&str; 4] = [
        "update couriers set available_capacity = 99 - available_capacity where partner_id = 1 and courier_id::int % 4 = 0",
        "update couriers set available_capacity = (available_capacity * 37 + 11) % 100 where partner_id = 1 and courier_id::int % 4 = 0",
        "insert into couriers (partner_id, courier_id, name, max_capacity, available_capacity,
                               tracking_id, created_by, created_hash, version, created_at, updated_at)
         select 1, (1000 + 4 * n)::text, 'new', 100, n, gen_random_uuid(), gen_random_uuid(), 1, 1, now(), now()
         from generate_series(0, 99) n on conflict do nothing",
        "update couriers set deleted_at = now() where partner_id = 1 and courier_id::int % 4 = 0 and courier_id::int % 8 = 0",
    ];
    let mut moves = MOVES.into_iter().cycle();
    for path in [
        "/v1/couriers?min_available=10&limit=20",
        "/v1/couriers?min_available=10&vehicle_type=van&limit=6",
    ] {
        let (mut read, mut path, van) = (Vec::new(), path.to_owned(), path.contains("van"));
        loop {
            let answer = stage.get(XRIDES, &path).await;
            read.extend(ids(&answer));
            let Some(link) = next(&answer) else { break };
            path = link;
            stage.execute(moves.next().unwrap()).await;
        }
        let stayed = |id: &String| id.parse::<u32>().unwrap() % 4 != 0;
        let read: Vec<String> = read.into_iter().filter(stayed).collect();
        let once: HashSet<&String> = read.iter().collect();
        assert_eq!(once.len(), read.len(), "nobody twice");
        let expected = (0..300).filter(|n| n % 4 != 0 && n % 100 >= 10 && (!van || n % 3 == 0));
        assert_eq!(read.len(), expected.count(), "nobody missing");
    }
}

#[tokio::test]
async fn a_cursor_goes_on_with_its_own_list_only() {
    let stage = Stage::new().await;
    stage.execute(THREE_HUNDRED).await;
    let first = stage
        .get(XRIDES, "/v1/couriers?min_available=45&limit=2")
        .await;
    let cursor = first.json()["next_cursor"].as_str().unwrap().to_owned();
    // How many a page holds is no part of the question.
    let more = stage
        .get(
            XRIDES,
            &format!("/v1/couriers?min_available=45&limit=3&cursor={cursor}"),
        )
        .await;
    assert_eq!(ids(&more), ["45", "146", "246"]);

    let queries = stage.ledger_queries().await;
    let (last, rest) = (&cursor[cursor.len() - 1..], &cursor[..cursor.len() - 1]);
    for (partner, query) in [
        (XRIDES, format!("min_available=46&cursor={cursor}")),
        (XRIDES, format!("cursor={cursor}")),
        (
            XRIDES,
            format!("min_available=45&vehicle_type=van&cursor={cursor}"),
        ),
        (XRIDES, format!("min_available=45&cursor={rest}")),
        (XRIDES, format!("min_available=45&cursor={last}{rest}")),
        (
            XRIDES,
            "min_available=45&cursor=a00000000000000000000000000000000".into(),
        ),
        (ACME, format!("min_available=45&cursor={cursor}")),
    ] {
        let answer = stage.get(partner, &format!("/v1/couriers?{query}")).await;
        answer.is_problem(400, "bad-parameter");
        let detail = answer.json()["detail"].as_str().unwrap().to_owned();
        assert!(detail.starts_with("cursor: "), "{query}: {detail}");
    }
    assert_eq!(stage.ledger_queries().await, queries);
}

#[tokio::test]
async fn bad_parameters_are_named() {
    let stage = Stage::new().await;
    for (query, name) in [
        ("min_available=-1", "min_available"),
        ("min_available=2147483648", "min_available"),
        ("min_available=x", "min_available"),
        ("vehicle_type=%00", "vehicle_type"),
        ("limit=0", "limit"),
        ("limit=1001", "limit"),
        ("cursor=x", "cursor"),
        ("limit=1&limit=1", "limit"),
        ("minavailable=1", "minavailable"),
        ("wait=1s", "wait"),
        ("vehicle_type=%ff", "vehicle_type"),
    ] {
        let answer = stage.get(XRIDES, &format!("/v1/couriers?{query}")).await;
        answer.is_problem(400, "bad-parameter");
        let detail = answer.json()["detail"].as_str().unwrap().to_owned();
        assert!(
            detail.starts_with(&format!("{name}: ")),
            "{query}: {detail}"
        );
    }
    assert_eq!(stage.ledger_queries().await, 0.0);
}

#[tokio::test]
async fn the_ledger_tells_of_commands() {
    let stage = Stage::new().await;
    let mint = || stage.mint(XRIDES, 0, 5_000);
    let courier = Ended {
        kind: 2,
        resource_id: "7",
        ..Ended::PERSISTED
    };
    for (number, action) in [(1, "created"), (3, "updated"), (4, "deleted")] {
        let id = mint();
        let row = Ended {
            action: Some(number),
            ..courier
        };
        stage.end(id, XRIDES, &row).await;
        let answer = stage.request(XRIDES, id).await.json();
        assert_eq!(answer["kind"], "courier");
        // Digits or not, a courier's id is a text.
        assert_eq!(answer["resource"], json!({"id": "7"}));
        assert_eq!(answer["action"], action);
    }
    let failed = mint();
    let row = Ended {
        outcome: 3,
        action: None,
        code: Some("insufficient-capacity"),
        detail: Some("a pickup of 60 litres from a courier with 45 available"),
        ..courier
    };
    stage.end(failed, XRIDES, &row).await;
    let path = "/v1/requests?status=failed";
    let listed = stage.get(XRIDES, path).await.json()["results"][0].clone();
    assert_eq!(listed, stage.request(XRIDES, failed).await.json());
    assert_eq!(listed["code"], "insufficient-capacity");
    assert_eq!(listed["detail"], row.detail.unwrap());
}
