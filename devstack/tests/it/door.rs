//! Done-when 6: who may come in, and what hostile input meets.

use bytes::Bytes;
use serde_json::{Value, json};

use crate::support::{System, ride};

#[tokio::test(flavor = "multi_thread")]
async fn keys_are_asked_for_and_partners_kept_apart() {
    let system = System::start(|_| {}).await;
    for key in [None, Some("weir_dev_nobody")] {
        for (method, url) in [
            ("POST", system.gateway("/v1/rides")),
            ("PUT", system.gateway("/v1/rides/1")),
            ("POST", system.gateway("/save/booking/detail")),
            ("GET", system.status("/v1/requests/x")),
            ("POST", system.status("/v1/requests/lookup")),
            ("GET", system.status("/v1/requests?status=failed")),
            ("GET", system.status("/v1/rides/1")),
        ] {
            let answer = system
                .send(method, &url, key, "application/json", "{}")
                .await;
            assert_eq!(answer.status, 401, "{method} {url} with {key:?}");
            assert!(!answer.header("www-authenticate").is_empty());
        }
    }
    let accepted = system.post("/v1/rides", ride(1).to_string()).await;
    let id = accepted.json["tracking_id"].as_str().expect("an id");
    system.settled(id).await;
    let other = system.key(1);
    for path in [format!("/v1/requests/{id}"), "/v1/rides/1".to_owned()] {
        let answer = system
            .send("GET", &system.status(&path), Some(&other), "", "")
            .await;
        assert_eq!(answer.status, 404, "{path}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_made_up_id_is_404_without_a_query() {
    let system = System::start(|_| {}).await;
    let admin = system.stack.endpoints().admin.status[0].clone();
    let before = system
        .metric(&admin, "weir_status_ledger_queries_total")
        .await;
    // The tag of a made-up id fits once in 65,536; three ids make a false alarm impossible to meet.
    for last in 1..=3 {
        let answer = system
            .get(&format!(
                "/v1/requests/0199a5b0-0000-7000-8000-00000000000{last}"
            ))
            .await;
        assert_eq!(answer.status, 404);
    }
    assert_eq!(
        system
            .metric(&admin, "weir_status_ledger_queries_total")
            .await,
        before
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_items_are_named_and_their_neighbours_unharmed() {
    let system = System::start(|_| {}).await;
    let answer = system
        .post("/v1/rides", json!([1, {"id": 0}, ride(1)]).to_string())
        .await;
    assert_eq!(answer.status, 202, "{answer:?}");
    let results = &answer.json["results"];
    assert_eq!(results[0]["error"]["errors"][0]["pointer"], "");
    let pointers: Vec<_> = results[1]["error"]["errors"]
        .as_array()
        .expect("faults")
        .iter()
        .map(|it| &it["pointer"])
        .collect();
    assert!(
        pointers.contains(&&json!("/id")) && pointers.contains(&&json!("/user_id")),
        "{pointers:?}"
    );
    assert!(results[2]["tracking_id"].is_string());

    for poison in [r#""\u0000""#, r#""\ud800""#, r#"{"deep": "\u0000"}"#] {
        let bad = ride(2).to_string().replace(r#""gate 2""#, poison);
        let single = system.post("/v1/rides", bad.clone()).await;
        assert_eq!(single.status, 422, "{poison}: {single:?}");
        let array = system
            .post("/v1/rides", format!("[{bad},{}]", ride(3)))
            .await;
        assert_eq!(
            (array.status, &array.json["rejected"]),
            (202, &json!(1)),
            "{poison}"
        );
        let lines = system
            .send(
                "POST",
                &system.gateway("/v1/rides"),
                Some(&system.key(0)),
                "application/x-ndjson",
                format!("{bad}\n{}\n", ride(4)),
            )
            .await;
        assert_eq!(
            (lines.status, &lines.json["rejected"]),
            (202, &json!(1)),
            "{poison}"
        );
    }
    let large = system
        .post("/v1/rides", Bytes::from(vec![b' '; 9 * 1024 * 1024]))
        .await;
    assert_eq!(large.status, 413);
    for (body, status) in [
        ("", 400),
        ("[]", 400),
        ("{", 400),
        ("[{},]", 400),
        ("1", 422),
        ("nul", 400),
    ] {
        let answer = system.post("/v1/rides", body).await;
        assert_eq!(answer.status, status, "{body:?}");
        assert_eq!(answer.header("content-type"), "application/problem+json");
        assert_ne!(answer.json["code"], Value::Null);
    }
    // Nothing of all this failed in the database: what was refused never reached it.
    system
        .settled(results[2]["tracking_id"].as_str().expect("an id"))
        .await;
    system
        .reached(
            "select count(*) from requests where resource_id in ('1', '3', '4')",
            3,
        )
        .await;
    assert_eq!(
        system
            .count("select count(*) from requests where outcome = 3")
            .await,
        Some(0)
    );
}
