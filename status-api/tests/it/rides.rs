//! Stored rides, one by one and in pages.

use serde_json::json;

use crate::stage::{ACME, Stage, XRIDES, shown};

#[tokio::test]
async fn a_ride_shows_its_fields_and_its_nulls() {
    let stage = Stage::new().await;
    stage
        .execute(
            "insert into rides values (1, 132512, 17712, 12, null, 2, 83, 448, null, null,
                 '2013-01-01 02:00:00+00', null, false, true, '2012-12-31 23:59:59.123456+00',
                 12.92415, 77.67229, -0.0, 77.73205, false, null,
                 '018f2f4e-7c3a-7abc-8def-0123456789ab', 1, '018f2f4e-7c3a-7abc-8def-0123456789ab', 1, 1,
                 '2024-05-01 00:00:00+00', '2024-05-02 00:00:00+00'),
                (1, 132513, 48730, 28, 1, 3, 83, null, 15, null,
                 '2013-01-01 02:00:00+00', '2013-01-02 18:30:00+00', true, false, '2012-12-31 23:59:59+00',
                 null, null, null, null, true, '{\"b\": 1e400, \"a\": [1.0, null]}',
                 '018f2f4e-7c3a-7abc-8def-0123456789ac', 1, '018f2f4e-7c3a-7abc-8def-0123456789ab', 1, 7,
                 '2024-05-01 00:00:00+00', '2024-05-02 00:00:00+00')",
        )
        .await;
    let answer = stage.get(XRIDES, "/v1/rides/132512").await;
    let expected = json!({
        "id": 132_512, "user_id": 17_712, "vehicle_model_id": 12, "package_id": null, "travel_type_id": 2,
        "from_area_id": 83, "to_area_id": 448, "from_city_id": null, "to_city_id": null,
        "from_date": "2013-01-01T02:00:00Z", "to_date": null, "online_booking": false,
        "mobile_site_booking": true, "booking_created": "2012-12-31T23:59:59.123456Z",
        "from_lat": 12.92415, "from_long": 77.67229, "to_lat": -0.0, "to_long": 77.73205,
        "car_cancellation": false, "extra": null, "tracking_id": "018f2f4e-7c3a-7abc-8def-0123456789ab",
        "version": 1, "created_at": "2024-05-01T00:00:00Z", "updated_at": "2024-05-02T00:00:00Z",
    });
    assert_eq!((answer.status, answer.json()), (200, expected));

    let answer = stage.get(XRIDES, "/v1/rides/132513").await;
    assert!(
        answer.body.contains(r#""to_date":"2013-01-02T18:30:00Z""#),
        "{}",
        answer.body
    );
    assert!(answer.body.contains(r#""version":7"#), "{}", answer.body);
    // jsonb keeps every digit (1e400 is no float64), and so does the answer.
    let digits = format!("1{}", "0".repeat(400));
    assert!(
        answer.body.contains(&digits) && answer.body.contains("[1.0, null]"),
        "{}",
        answer.body
    );

    stage
        .get(ACME, "/v1/rides/132512")
        .await
        .is_problem(404, "not-found");
    stage
        .get(XRIDES, "/v1/rides/132514")
        .await
        .is_problem(404, "not-found");
    let queries = stage.ledger_queries().await;
    for no_ride in ["0", "-1", "x", "0132512", "9223372036854775808", "%ff"] {
        stage
            .get(XRIDES, &format!("/v1/rides/{no_ride}"))
            .await
            .is_problem(404, "not-found");
    }
    assert_eq!(
        stage.ledger_queries().await,
        queries,
        "what cannot be a ride is not asked for"
    );
    assert_eq!(shown(0), "1970-01-01T00:00:00Z");
}

#[tokio::test]
async fn a_rides_tag_is_its_version() {
    let stage = Stage::new().await;
    stage.execute(TEN_A_USER).await;
    let path = "/v1/rides/7";
    let answer = stage.get(XRIDES, path).await;
    assert_eq!((answer.status, answer.header("etag")), (200, Some("\"1\"")));
    let unchanged = stage.get_with(XRIDES, path, "if-none-match: \"1\"").await;
    assert_eq!((unchanged.status, unchanged.body.as_str()), (304, ""));
    stage
        .execute("update rides set version = 2 where id = 7")
        .await;
    let changed = stage.get_with(XRIDES, path, "if-none-match: \"1\"").await;
    assert_eq!(
        (changed.status, changed.header("etag")),
        (200, Some("\"2\""))
    );
    let unknown = stage.get(XRIDES, "/v1/rides/7?aftr=x").await;
    unknown.is_problem(400, "bad-parameter");
}

/// Rides 1 to 30 of users 0 to 2, an hour apart but for every fifth, which is at the time of the
/// one before; and one of another partner's with the same user.
const TEN_A_USER: &str = "
    insert into rides
    select partner, n, n % 3, 12, null, 2, 83, 448, null, null,
           timestamptz '2013-01-01 00:00:00+00' + (n - case when n % 5 = 0 then 3 else 0 end) * interval '1 hour',
           null, false, true, '2012-12-31 23:59:59+00', null, null, null, null, false, null,
           '018f2f4e-7c3a-7abc-8def-0123456789ab', 1, '018f2f4e-7c3a-7abc-8def-0123456789ab', 1, 1, now(), now()
    from generate_series(1, 30) n, lateral (values (1), (2)) as partners(partner)
    where partner = 1 or n = 1";

#[tokio::test]
async fn a_users_rides_come_by_time_in_pages() {
    let stage = Stage::new().await;
    stage.execute(TEN_A_USER).await;
    let list = async |query: &str| {
        let (mut read, mut path) = (Vec::new(), format!("/v1/rides?user_id=1{query}"));
        loop {
            let answer = stage.get(XRIDES, &path).await;
            assert_eq!(answer.status, 200, "{answer:?}");
            let json = answer.json();
            let results = json["results"].as_array().unwrap().clone();
            read.extend(results.iter().map(|it| it["id"].as_i64().unwrap()));
            let Some(link) = answer.header("link") else {
                assert_eq!(json["next_cursor"], json!(null));
                return read;
            };
            assert!(link.contains(json["next_cursor"].as_str().unwrap()));
            let target = link.strip_prefix('<').unwrap();
            path = target.strip_suffix(">; rel=\"next\"").unwrap().to_owned();
        }
    };
    let time = |n: i64| (n - if n % 5 == 0 { 3 } else { 0 }, n);
    let mut expected: Vec<i64> = (1..=30).filter(|n| n % 3 == 1).collect();
    expected.sort_by_key(|n| time(*n));
    for limit in [1, 2, 3, 9, 10, 11] {
        assert_eq!(list(&format!("&limit={limit}")).await, expected, "{limit}");
    }
    // Ride 10 is at the time of ride 7, which is in the interval and is not at its end.
    let window = "&from=2013-01-01T07:00:00Z&to=2013-01-01T13:00:00%2B00:00&limit=1";
    assert_eq!(list(window).await, [7, 10]);
    assert_eq!(
        list("&from=2013-01-01T13:00:00Z&limit=1").await[..2],
        [13, 16]
    );
    assert_eq!(list("&to=2013-01-01T01:00:00Z").await, [0_i64; 0]);
    let whole = "&from=-009000-01-01T00:00:00Z&to=9999-12-30T00:00:00Z";
    assert_eq!(
        list(whole).await,
        expected,
        "years that PostgreSQL does not have"
    );

    let one = stage.get(XRIDES, "/v1/rides?user_id=1&limit=1").await;
    let alone = stage.get(XRIDES, "/v1/rides/1").await.json();
    assert_eq!(one.json()["results"][0], alone, "the same form");
    let theirs = stage.get(ACME, "/v1/rides?user_id=1").await.json();
    assert_eq!(theirs["results"].as_array().unwrap().len(), 1);

    let cursor = one.json()["next_cursor"].as_str().unwrap().to_owned();
    for query in [
        "".to_owned(),
        "user_id=x".into(),
        "user_id=1&from=x".into(),
        "user_id=1&from=2013-01-02T00:00:00Z&to=2013-01-01T00:00:00Z".into(),
        "user_id=1&min_available=1".into(),
        format!("user_id=2&cursor={cursor}"),
        format!("user_id=1&to=2014-01-01T00:00:00Z&cursor={cursor}"),
    ] {
        let answer = stage.get(XRIDES, &format!("/v1/rides?{query}")).await;
        answer.is_problem(400, "bad-parameter");
    }
}
