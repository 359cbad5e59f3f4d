//! 202 means stored, in order, in far fewer publishes than records.

use contract::{Operation, Record};
use http::Method;
use serde_json::{Value, json};

use crate::harness::{Gateway, Log, lines, ride};

#[tokio::test]
async fn one_ride_is_stored_before_it_is_answered() {
    let log = Log::start(2).await;
    let gateway = Gateway::ready(&log, &["--status-base-url=http://status.example:1/"]).await;
    let answer = gateway.post(&ride(7)).await;
    assert_eq!(answer.status, 202, "{answer:?}");
    assert_eq!(answer.body["status"], "accepted");
    let id = answer.body["tracking_id"].as_str().unwrap();
    let url = format!("http://status.example:1/v1/requests/{id}");
    assert_eq!(answer.body["status_url"], url);
    assert_eq!(answer.headers["location"], url);

    let entries = log.entries().await;
    assert_eq!(entries.len(), 1);
    let entry = &entries[0];
    assert_eq!(entry.tracking_id.to_string(), id);
    assert_eq!((entry.partner_id, entry.operation), (1, Operation::Create));
    let Record::Ride(stored) = &entry.record else {
        panic!("a ride")
    };
    assert_eq!((stored.id, stored.user_id), (7, 22_177));
    assert_eq!(stored.from_date_us, 1_357_012_800_000_000);
    assert_eq!(
        entry.tracking_id.partition(),
        log.partitions.of(1, &entry.record)
    );
}

#[tokio::test]
async fn put_and_save_replace() {
    let log = Log::start(1).await;
    let gateway = Gateway::ready(&log, &[]).await;
    let mut without_id = ride(1);
    without_id.as_object_mut().unwrap().remove("id");
    let put = |body: Value| {
        gateway.send(
            Method::PUT,
            "/v1/rides/9",
            "application/json",
            body.to_string(),
        )
    };
    let answer = put(without_id).await;
    assert_eq!(answer.status, 202, "{answer:?}");
    let id = answer.body["tracking_id"].as_str().unwrap().to_owned();
    assert_eq!(answer.headers["location"], format!("/v1/requests/{id}"));
    let answer = put(ride(10)).await;
    assert_eq!(answer.status, 422);
    assert_eq!(answer.body["errors"][0]["pointer"], "/id");

    // The literal body of XRides' client, in both spellings of its ids.
    for (record_id, body) in [
        (
            132_512,
            r#"{"id":132512,"userId":22177,"vehicleModelId":28,"packageId":1,"travelTypeId":3,"fromAreaId":83,"toAreaId":448,"fromCityId":null,"toCityId":null,"fromDate":1356979500000,"toDate":null,"onlineBooking":0,"mobileSiteBooking":0,"bookingCreated":1356978000000,"fromLat":12.92415,"fromLong":77.67229,"toLat":12.92732,"toLong":77.63575,"Car_Cancellation":0}"#,
        ),
        (
            132_513,
            r#"{"id":132513,"userID":22177,"vehicleModelID":28,"packageID":1,"travelTypeID":3,"fromAreaID":83,"toAreaID":448,"fromCityID":null,"toCityID":null,"fromDate":1356979500000,"toDate":null,"onlineBooking":false,"mobileSiteBooking":false,"bookingCreated":1356978000000,"fromLat":12.92415,"fromLong":77.67229,"toLat":12.92732,"toLong":77.63575,"Car_Cancellation":false}"#,
        ),
    ] {
        let answer = gateway
            .send(
                Method::POST,
                "/save/booking/detail",
                "application/json",
                body,
            )
            .await;
        assert_eq!(answer.status, 202, "{answer:?}");
        assert_eq!(answer.body["id"], record_id);
        assert_eq!(answer.body["type"], 1);
        assert_eq!(answer.body["error"], "");
        assert!(log.holds(&answer.body["tracking_id"]).await);
    }
    let refused = gateway
        .send(
            Method::POST,
            "/save/booking/detail",
            "application/json",
            r#"{"id":5}"#,
        )
        .await;
    assert_eq!(refused.status, 422);
    assert_eq!(refused.headers["content-type"], "application/json");
    assert_eq!(
        (&refused.body["id"], &refused.body["type"]),
        (&json!(5), &json!(2))
    );
    assert!(!refused.body["error"].as_str().unwrap().is_empty());

    let operations: Vec<_> = log
        .entries()
        .await
        .iter()
        .map(|entry| entry.operation)
        .collect();
    assert_eq!(operations, [Operation::Replace; 3]);
}

#[tokio::test]
async fn many_rides_keep_their_order_and_their_answers() {
    let log = Log::start(4).await;
    let gateway = Gateway::ready(&log, &[]).await;
    let items: Vec<_> = (1..=5_000).map(ride).collect();
    let array = gateway.post(&json!(items)).await;
    let ndjson = gateway
        .send(
            Method::POST,
            "/v1/rides",
            "application/x-ndjson",
            lines(&items),
        )
        .await;
    let mut acknowledged = Vec::new();
    for answer in [array, ndjson] {
        assert_eq!(answer.status, 202, "{answer:?}");
        assert_eq!(answer.body["accepted"], 5_000);
        assert_eq!(answer.body["rejected"], 0);
        assert_eq!(answer.body["unanswered"], 0);
        for (index, result) in answer.body["results"]
            .as_array()
            .unwrap()
            .iter()
            .enumerate()
        {
            assert_eq!(result["index"], index);
            acknowledged.push(result["tracking_id"].as_str().unwrap().to_owned());
        }
    }
    let mut stored = Vec::new();
    for partition in log.partitions.iter() {
        let chunks = log.chunks(partition).await;
        let entries: Vec<_> = chunks.iter().flat_map(|chunk| &chunk.entries).collect();
        let of_one_body = entries.len() / 2;
        assert_eq!(entries.len() % 2, 0);
        // Each body's records in its order: here ascending ids, twice.
        for half in [&entries[..of_one_body], &entries[of_one_body..]] {
            let ids = half
                .iter()
                .map(|entry| entry.record.resource_id().parse::<i64>().unwrap());
            assert!(ids.is_sorted());
        }
        stored.extend(entries.iter().map(|entry| entry.tracking_id.to_string()));
    }
    acknowledged.sort();
    stored.sort();
    assert_eq!(acknowledged, stored, "acknowledged ids are stored ids");
}

#[tokio::test]
async fn publishes_are_far_fewer_than_records() {
    const CONNECTIONS: i64 = 64;
    const EACH: i64 = 40;
    let log = Log::start(2).await;
    let gateway = Gateway::ready(&log, &[]).await;
    let senders = (0..CONNECTIONS).map(|connection| {
        let gateway = &gateway;
        async move {
            for number in 0..EACH {
                let answer = gateway.post(&ride(1 + connection * EACH + number)).await;
                assert_eq!(answer.status, 202, "{answer:?}");
            }
        }
    });
    futures_util::future::join_all(senders).await;
    let records = log.entries().await.len();
    let messages = log.messages().await;
    assert_eq!(records as i64, CONNECTIONS * EACH);
    assert!(
        messages * 4 < records as u64,
        "{messages} publishes for {records} records"
    );
    let accepted = gateway.metric("weir_gateway_records_accepted_total").await;
    assert_eq!(accepted as usize, records);
}
