//! The stored ride.

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
