//! From POST to row, and everything a partner can learn of it on the way.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::{Value, json};

use crate::support::{System, ride, sample_bookings};

#[tokio::test(flavor = "multi_thread")]
async fn a_ride_is_accepted_persisted_and_shown() {
    let system = System::start(|_| {}).await;
    let answer = system.post("/v1/rides", ride(1).to_string()).await;
    assert_eq!(answer.status, 202, "{answer:?}");
    assert_eq!(answer.json["status"], "accepted");
    let id = answer.json["tracking_id"].as_str().expect("a tracking id");
    let status_url = answer.json["status_url"].as_str().expect("a status URL");
    assert_eq!(status_url, system.status(&format!("/v1/requests/{id}")));
    assert_eq!(answer.header("location"), status_url);

    let outcome = system.settled(id).await;
    assert_eq!(outcome["status"], "persisted");
    assert_eq!(outcome["action"], "created");
    assert_eq!(outcome["resource"], json!({"id": 1}));

    let stored = system.get("/v1/rides/1").await;
    assert_eq!(stored.status, 200);
    assert_eq!(stored.json["tracking_id"], id);
    assert_eq!(stored.json["version"], 1);
    assert_eq!(stored.json["user_id"], ride(1)["user_id"]);
    assert_eq!(stored.json["from_date"], "2026-01-01T04:00:00Z");
    assert_eq!(stored.json["extra"], json!({"note": "gate 2"}));
}

/// Done-when 2, with the shipped sample, and with the real bookings where they are at hand.
#[tokio::test(flavor = "multi_thread")]
async fn a_replayed_file_is_persisted_column_by_column_then_duplicate_conflict_and_replaced() {
    let system = System::start(|_| {}).await;
    for file in sample_bookings() {
        replay_of_a_file(&system, &file).await;
    }
}

async fn replay_of_a_file(system: &System, file: &Path) {
    let rows = read_csv(file);
    let count = rows.len();
    let database = system.database().await;
    database
        .batch_execute("truncate rides")
        .await
        .expect("a clean slate");

    let first = system.replay(file, &[]).finish().await;
    assert_eq!(
        (&first["accepted"], &first["persisted"]),
        (&json!(count), &json!(count)),
        "{first}"
    );
    assert_stored_equals(&database, &rows).await;

    let second = system.replay(file, &[]).finish().await;
    assert_eq!(
        (&second["duplicate"], &second["persisted"]),
        (&json!(count), &json!(0)),
        "{second}"
    );
    assert_stored_equals(&database, &rows).await;

    let changed = with_a_field_changed(&rows, 10);
    let conflicting = system.replay(changed.path(), &[]).finish().await;
    assert_eq!(
        (&conflicting["failed"], &conflicting["duplicate"]),
        (&json!(10), &json!(count - 10))
    );
    assert_eq!(conflicting["failed_by_code"], json!({"conflict": 10}));
    assert_stored_equals(&database, &rows).await;

    let replaced = system
        .replay(changed.path(), &["--method", "put"])
        .finish()
        .await;
    assert_eq!(
        (&replaced["persisted"], &replaced["duplicate"]),
        (&json!(10), &json!(count - 10))
    );
    let versions: i64 = database
        .query_one(
            "select count(*) from rides where version = 2 and user_id = 424242",
            &[],
        )
        .await
        .expect("a count")
        .get(0);
    assert_eq!(versions, 10);

    // POST compares with the creation, so the original is still a resend of it.
    let original = system.replay(file, &[]).finish().await;
    assert_eq!(original["duplicate"], json!(count), "{original}");
}

type Row = BTreeMap<String, String>;

fn read_csv(file: &Path) -> Vec<Row> {
    let mut reader = csv::Reader::from_path(file).expect("a file");
    reader
        .deserialize()
        .map(|row| row.expect("a row"))
        .collect()
}

fn with_a_field_changed(rows: &[Row], changes: usize) -> tempfile::NamedTempFile {
    let file = tempfile::Builder::new()
        .suffix(".csv")
        .tempfile()
        .expect("a temporary file");
    let mut writer = csv::Writer::from_path(file.path()).expect("a writer");
    writer.write_record(rows[0].keys()).expect("a header");
    for (index, row) in rows.iter().enumerate() {
        let mut row = row.clone();
        if index < changes {
            row.insert("user_id".to_owned(), "424242".to_owned());
        }
        writer.write_record(row.values()).expect("a row");
    }
    writer.flush().expect("written");
    file
}

/// PostgreSQL writes each column as the file has it: an oracle that shares nothing with the code.
async fn assert_stored_equals(database: &tokio_postgres::Client, rows: &[Row]) {
    let stored = database
        .query(
            "select to_jsonb(r) - array['from_date', 'to_date', 'booking_created'] || jsonb_build_object(
                'from_date', to_char(from_date at time zone 'Asia/Kolkata', 'FMMM/FMDD/YYYY FMHH24:MI'),
                'booking_created', to_char(booking_created at time zone 'Asia/Kolkata', 'FMMM/FMDD/YYYY FMHH24:MI'),
                'to_date', case when to_date at time zone 'Asia/Kolkata' = date_trunc('day', to_date at time zone 'Asia/Kolkata')
                    then to_char(to_date at time zone 'Asia/Kolkata', 'FMMM/FMDD/YYYY')
                    else to_char(to_date at time zone 'Asia/Kolkata', 'FMMM/FMDD/YYYY FMHH24:MI') end)
             from rides r where partner_id = 1",
            &[],
        )
        .await
        .expect("rides");
    let stored: BTreeMap<i64, Value> = stored
        .into_iter()
        .map(|row| {
            let ride: Value = row.get(0);
            (ride["id"].as_i64().expect("an id"), ride)
        })
        .collect();
    assert_eq!(stored.len(), rows.len());
    for row in rows {
        let ride = &stored[&row["id"].parse().expect("an id")];
        for (column, text) in row {
            assert!(
                same(text, &ride[column]),
                "{column} of {}: file {text:?}, stored {}",
                row["id"],
                ride[column]
            );
        }
    }
}

fn same(text: &str, stored: &Value) -> bool {
    match stored {
        Value::Null => text == "NULL",
        Value::Bool(flag) => text == if *flag { "1" } else { "0" },
        Value::Number(number) => text.parse::<f64>().ok() == number.as_f64(),
        Value::String(instant) => text == instant || text.strip_suffix(" 0:00") == Some(instant),
        Value::Array(_) | Value::Object(_) => false,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_array_is_answered_item_by_item_and_a_put_replaces() {
    let system = System::start(|_| {}).await;
    let body = json!([ride(1), {"id": 0}, ride(2)]);
    let answer = system.post("/v1/rides", body.to_string()).await;
    assert_eq!(answer.status, 202);
    assert_eq!(
        (
            &answer.json["accepted"],
            &answer.json["rejected"],
            &answer.json["unanswered"]
        ),
        (&json!(2), &json!(1), &json!(0))
    );
    let results = answer.json["results"].as_array().expect("results");
    assert_eq!(
        results
            .iter()
            .map(|it| it["index"].as_i64())
            .collect::<Vec<_>>(),
        [Some(0), Some(1), Some(2)]
    );
    for index in [0, 2] {
        let outcome = system
            .settled(results[index]["tracking_id"].as_str().expect("an id"))
            .await;
        assert_eq!(outcome["status"], "persisted");
    }

    let mut other = ride(1);
    other["user_id"] = json!(7);
    let put = system
        .send(
            "PUT",
            &system.gateway("/v1/rides/1"),
            Some(&system.key(0)),
            "application/json",
            other.to_string(),
        )
        .await;
    assert_eq!(put.status, 202, "{put:?}");
    let outcome = system
        .settled(put.json["tracking_id"].as_str().expect("an id"))
        .await;
    assert_eq!(
        (&outcome["status"], &outcome["action"]),
        (&json!("persisted"), &json!("replaced"))
    );
    let stored = system.get("/v1/rides/1").await;
    assert_eq!(
        (&stored.json["user_id"], &stored.json["version"]),
        (&json!(7), &json!(2))
    );

    // The page of failures names the conflict that a POST of other content ends in.
    other["user_id"] = json!(8);
    let conflicting = system.post("/v1/rides", other.to_string()).await;
    let id = conflicting.json["tracking_id"]
        .as_str()
        .expect("an id")
        .to_owned();
    assert_eq!(system.settled(&id).await["code"], "conflict");
    let page = system.get("/v1/requests?status=failed").await;
    assert_eq!(page.json["results"][0]["tracking_id"], id, "{page:?}");
    let of_another = system
        .send(
            "GET",
            &system.status("/v1/requests?status=failed"),
            Some(&system.key(1)),
            "",
            "",
        )
        .await;
    assert_eq!(of_another.json["results"], json!([]));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_old_client_is_served_in_both_spellings() {
    let system = System::start(|_| {}).await;
    let camel = json!({
        "id": 132_512, "userId": 22_177, "vehicleModelId": 28, "packageId": null, "travelTypeId": 2,
        "fromAreaId": 83, "toAreaId": 448, "fromCityId": null, "toCityId": null,
        "fromDate": 1_356_979_500_i64, "toDate": null, "onlineBooking": 0, "mobileSiteBooking": 1,
        "bookingCreated": 1_356_978_000_000_i64, "fromLat": 12.92415, "fromLong": 77.67229,
        "toLat": 12.92732, "toLong": 77.63575, "Car_Cancellation": 0
    });
    let upper = camel
        .to_string()
        .replace("Id\":", "ID\":")
        .replace("132512", "132513");
    for body in [camel.to_string(), upper] {
        let answer = system.post("/save/booking/detail", body).await;
        assert_eq!(answer.status, 202, "{answer:?}");
        assert_eq!(
            (&answer.json["type"], &answer.json["error"]),
            (&json!(1), &json!(""))
        );
        let outcome = system
            .settled(answer.json["tracking_id"].as_str().expect("an id"))
            .await;
        assert_eq!(outcome["status"], "persisted");
        let stored = system
            .get(&format!("/v1/rides/{}", answer.json["id"]))
            .await;
        assert_eq!(stored.json["user_id"], 22_177);
        assert_eq!(stored.json["mobile_site_booking"], true);
        assert_eq!(stored.json["from_date"], "2012-12-31T18:45:00Z");
        assert_eq!(stored.json["extra"], Value::Null);
    }
    let refused = system
        .post("/save/booking/detail", r#"{"id": 5, "userId": "x"}"#)
        .await;
    assert_eq!(refused.status, 422);
    assert_eq!(refused.header("content-type"), "application/json");
    assert_eq!(
        (
            &refused.json["id"],
            &refused.json["type"],
            &refused.json["code"]
        ),
        (&json!(5), &json!(2), &json!("invalid"))
    );
}

/// docs/metrics.md promises every metric that a process serves.
#[tokio::test(flavor = "multi_thread")]
async fn every_metric_is_documented() {
    let system = System::start(|_| {}).await;
    let answer = system
        .post("/v1/rides", json!([ride(1), 1]).to_string())
        .await;
    let id = answer.json["results"][0]["tracking_id"]
        .as_str()
        .expect("an id")
        .to_owned();
    system.settled(&id).await;
    let documented = include_str!("../../../docs/metrics.md");
    let admin = system.stack.endpoints().admin;
    for process in [&admin.gateway[0], &admin.worker[0], &admin.status[0]] {
        let names = system.metric_names(process).await;
        assert!(names.len() > 10, "{names:?}");
        for name in names {
            assert!(
                documented.contains(&format!("`{name}`")),
                "{name} of {process} is not in docs/metrics.md"
            );
        }
    }
}

/// The books of `loadtest run` close against the real services, by either way of following ids.
#[tokio::test(flavor = "multi_thread")]
async fn a_run_is_followed_by_the_status_api_and_in_the_database() {
    let system = System::start(|_| {}).await;
    let database = system.stack.endpoints().database_url;
    let load = [
        "--rate",
        "400",
        "--duration",
        "2s",
        "--duplicates",
        "5%",
        "--bad",
        "1%",
    ];
    let by_database = vec!["--seed", "2", "--database-url", database.as_str()];
    for following in [vec!["--seed", "1"], by_database] {
        let report = system.load(&[&load[..], &following].concat()).await;
        let counts = &report["counts"];
        assert_eq!(counts["intended"], 800, "{report:#}");
        assert_eq!(
            (&counts["lost"], &counts["unsettled"]),
            (&json!(0), &json!(0)),
            "{counts:#}"
        );
        let count = |name: &str| counts[name].as_u64().expect("a count");
        assert_eq!(
            count("accepted"),
            count("persisted") + count("duplicate"),
            "{counts:#}"
        );
        assert!(
            count("duplicate") > 0 && count("rejected") > 0,
            "{counts:#}"
        );
        assert_eq!(counts["unexpected_duplicates"], 0, "{counts:#}");
    }
}
