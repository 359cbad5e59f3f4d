//! What is kept of people goes when it is asked to.

use devstack::eventually::eventually;
use devstack::stack::Role;
use serde_json::{Value, json};

use super::installation::{Installation, LIMIT, ride, text};

/// Sends a record and waits until it is settled; its tracking id and its outcome.
async fn settled(weir: &Installation, key: &str, path: &str, body: &Value) -> (String, Value) {
    let request = http::Request::post(weir.gateway(path));
    let request = request.header("authorization", format!("Bearer {key}"));
    let answer = weir.send(request, &body.to_string()).await;
    assert_eq!(answer.status, 202, "{}", answer.whole);
    let id = answer.json["tracking_id"].as_str().unwrap().to_owned();
    let outcome = outcome(weir, key, &id).await;
    (id, outcome)
}

async fn outcome(weir: &Installation, key: &str, id: &str) -> Value {
    let asked = eventually(LIMIT, || async {
        let request = http::Request::get(weir.status(&format!("/v1/requests/{id}?wait=5s")));
        let request = request.header("authorization", format!("Bearer {key}"));
        let answer = weir.send(request, "").await;
        (answer.status == 200 && answer.json["status"] != "queued").then_some(answer.json)
    });
    asked.await.expect("an outcome")
}

async fn found(weir: &Installation, key: &str, path: &str) -> u16 {
    let request = http::Request::get(weir.status(path));
    let request = request.header("authorization", format!("Bearer {key}"));
    weir.send(request, "").await.status
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_erased_is_gone_and_the_ledger_still_says_what_became_of_it() {
    let weir = Installation::start(|_| {}).await;
    let key = weir.stack.endpoints().partners[0].api_key.clone();
    let other = weir.stack.endpoints().partners[1].api_key.clone();
    let (created, _) = settled(&weir, &key, "/v1/rides", &ride()).await;
    settled(&weir, &other, "/v1/rides", &ride()).await;
    let mut second = ride();
    second["vehicle_model_id"] = 13.into();
    let (refused, conflict) = settled(&weir, &key, "/v1/rides", &second).await;
    assert_eq!(conflict["code"], "conflict");
    second["id"] = 2.into();
    second["user_id"] = 3.into();
    settled(&weir, &key, "/v1/rides", &second).await;

    let tried = weir
        .json(&["erase", "xrides", "--user-id", "2", "--dry-run"])
        .await;
    assert_eq!(
        (&tried["rides"], &tried["dry_run"]),
        (&json!(1), &json!(true))
    );
    assert_eq!(
        found(&weir, &key, "/v1/rides/1").await,
        200,
        "it was only tried"
    );

    let erased = weir.json(&["erase", "xrides", "--user-id", "2"]).await;
    assert_eq!(
        (&erased["rides"], &erased["ledger_details"]),
        (&json!(1), &json!(1)),
        "{erased}"
    );
    assert!(erased["log_until"].is_string());
    assert_eq!(found(&weir, &key, "/v1/rides/1").await, 404);
    assert_eq!(
        found(&weir, &key, "/v1/rides/2").await,
        200,
        "another user's"
    );
    assert_eq!(
        found(&weir, &other, "/v1/rides/1").await,
        200,
        "another partner's"
    );
    assert_eq!(outcome(&weir, &key, &created).await["status"], "persisted");
    assert_eq!(outcome(&weir, &key, &refused).await["detail"], Value::Null);

    let erased = weir.json(&["erase", "xrides", "--ride-id", "2"]).await;
    assert_eq!(erased["rides"], 1);
    assert_eq!(found(&weir, &key, "/v1/rides/2").await, 404);
    let again = weir.json(&["erase", "xrides", "--ride-id", "2"]).await;
    assert_eq!(again["rides"], 0, "there is nothing left");
    let said = weir.partner(&["erase", "xrides", "--ride-id", "2"]).await;
    assert_eq!(said.status.code(), Some(0));
    assert!(text(&said.stdout).starts_with("nothing is left to remove"));
    let whose = ["erase", "xrides", "--ride-id", "99"];
    weir.refused(&whose, 1, "xrides has no ride 99").await;

    let (_, anew) = settled(&weir, &key, "/v1/rides", &ride()).await;
    assert_eq!(anew["action"], "created", "the worker goes on: {anew}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_courier_is_erased_once_it_is_deleted() {
    let weir = Installation::start(|_| {}).await;
    let key = weir.stack.endpoints().partners[0].api_key.clone();
    let create = json!({
        "command": "create", "courier_id": "c-1", "name": "Ada Lovelace", "max_capacity": 60,
        "phone": "+44 20 7946 0000", "vehicle_type": "cargo bike",
        "attributes": {"note": "left handed"},
    });
    settled(&weir, &key, "/v1/courier-commands", &create).await;
    let mut other = create.clone();
    other["max_capacity"] = 50.into();
    let (refused, conflict) = settled(&weir, &key, "/v1/courier-commands", &other).await;
    assert!(conflict["detail"].is_string(), "{conflict}");
    let erase = ["erase", "xrides", "--courier-id", "c-1"];
    weir.refused(&erase, 1, "courier c-1 of xrides is not deleted")
        .await;
    weir.refused(
        &["erase", "xrides", "--courier-id", "c-2"],
        1,
        "xrides has no courier c-2 and never had",
    )
    .await;
    weir.refused(&["erase", "xrides"], 64, "--user-id").await;
    let delete = json!({"command": "delete", "courier_id": "c-1"});
    settled(&weir, &key, "/v1/courier-commands", &delete).await;
    let database = unrelayed(&weir).await;
    let erased = weir.json(&erase).await;
    assert_eq!(
        (
            &erased["couriers"],
            &erased["ledger_details"],
            &erased["outbox"]
        ),
        (&json!(1), &json!(1), &json!(1)),
        "{erased}"
    );
    assert_eq!(outcome(&weir, &key, &refused).await["detail"], Value::Null);
    assert_eq!(
        events(&database).await,
        [
            "ride 1",
            "ride 2",
            "ride named as the courier",
            "theirs: c-1",
            "theirs: ride 1"
        ]
    );
    let query = "select name, vehicle_type is null, phone is null, attributes is null, \
                 max_capacity::text from couriers";
    let row = database.query_one(query, &[]).await.unwrap();
    assert_eq!(row.get::<_, String>(0), "erased");
    let is_null: [bool; 3] = [row.get(1), row.get(2), row.get(3)];
    assert_eq!(is_null, [true; 3]);
    assert_eq!(row.get::<_, String>(4), "60", "the id is not used again");
}

/// Rows of the whole database that say `words`: where is not what a test has to think of.
async fn rows_that_say(database: &tokio_postgres::Client, words: &str) -> i64 {
    let tables = "select format('%I.%I', table_schema, table_name) from information_schema.tables \
                  where table_schema not in ('pg_catalog', 'information_schema') \
                  and table_type = 'BASE TABLE'";
    let mut rows = 0;
    for table in database.query(tables, &[]).await.unwrap() {
        let table: String = table.get(0);
        let count = format!("select count(*) from {table} as any_row where any_row::text like $1");
        let words = format!("%{words}%");
        let counted = database.query_one(&count, &[&words]).await.unwrap();
        rows += counted.get::<_, i64>(0);
    }
    rows
}

/// Deleted couriers of whom one thing each is known: it goes although there is nothing else.
#[tokio::test(flavor = "multi_thread")]
async fn whatever_is_the_only_thing_known_of_a_courier_goes() {
    let weir = Installation::start(|_| {}).await;
    let database = connect(&weir).await;
    let couriers = r#"
        insert into couriers (courier_id, name, vehicle_type, phone, attributes, partner_id,
            max_capacity, available_capacity, tracking_id, created_by, created_hash, version,
            created_at, updated_at, deleted_at)
        select courier_id, name, vehicle_type, phone, attributes::json, 1,
            60, 60, gen_random_uuid(), gen_random_uuid(), 7, 2, now(), now(), now()
        from (values ('by-name', 'private', null, null, null),
                     ('by-vehicle', 'erased', 'private', null, null),
                     ('by-phone', 'erased', null, 'private', null),
                     ('by-attributes', 'erased', null, null, '{"note":"private"}'))
            as known (courier_id, name, vehicle_type, phone, attributes);
        insert into courier_movements
        select partner_id, courier_id, 1, 'order-1', 45, tracking_id from couriers"#;
    database.batch_execute(couriers).await.unwrap();
    let mut left = rows_that_say(&database, "private").await;
    assert_eq!(left, 4);
    for known in ["by-name", "by-vehicle", "by-phone", "by-attributes"] {
        let erased = weir.json(&["erase", "xrides", "--courier-id", known]).await;
        assert_eq!(erased["couriers"], 1, "{known}: {erased}");
        left -= 1;
        let rows = rows_that_say(&database, "private").await;
        assert_eq!(rows, left, "{known}");
        // The row without it, and what it moved.
        assert_eq!(rows_that_say(&database, known).await, 2, "{known}");
    }
}

async fn connect(weir: &Installation) -> tokio_postgres::Client {
    let url = weir.stack.endpoints().database_url;
    let (client, connection) = tokio_postgres::connect(&url, tokio_postgres::NoTls)
        .await
        .unwrap();
    tokio::spawn(connection);
    client
}

/// Events that nobody relays: both partners', of two rides and a courier.
async fn unrelayed(weir: &Installation) -> tokio_postgres::Client {
    let client = connect(weir).await;
    let relayed = eventually(LIMIT, || async {
        let row = client.query_one("select count(*) from outbox", &[]).await;
        (row.unwrap().get::<_, i64>(0) == 0).then_some(())
    });
    relayed.await.expect("what happened is relayed");
    weir.stack.stop(Role::Worker, 0).await;
    let rows = r#"insert into outbox values
        (0, 9000, 0, 1, 'ride_created', 'ride 1', '{"data":{"id":1}}'),
        (0, 9000, 1, 1, 'ride_created', 'ride 2', '{"data":{"id":2}}'),
        (0, 9000, 2, 1, 'ride_created', 'ride named as the courier', '{"data":{"id":3,"courier_id":"c-1"}}'),
        (0, 9000, 3, 1, 'courier_created', 'c-1', '{"data":{"courier_id":"c-1","id":1}}'),
        (0, 9000, 4, 2, 'ride_created', 'theirs: ride 1', '{"data":{"id":1}}'),
        (0, 9000, 5, 2, 'courier_created', 'theirs: c-1', '{"data":{"courier_id":"c-1"}}')"#;
    client.batch_execute(rows).await.unwrap();
    client
}

/// What is still to be relayed of it, sorted.
async fn events(database: &tokio_postgres::Client) -> Vec<String> {
    let query = "select event_id from outbox where log_seq = 9000 order by event_id collate \"C\"";
    let rows = database.query(query, &[]).await.unwrap();
    rows.iter().map(|row| row.get(0)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn events_that_are_not_relayed_go_too_and_all_of_it_or_nothing() {
    let weir = Installation::start(|_| {}).await;
    let key = weir.stack.endpoints().partners[0].api_key.clone();
    settled(&weir, &key, "/v1/rides", &ride()).await;
    let database = unrelayed(&weir).await;
    let before = events(&database).await;
    // The outbox comes last: when it refuses, the ride was removed before.
    let refusing = "create function refuse() returns trigger language plpgsql as \
                    $$ begin raise exception 'not today'; end $$; \
                    create trigger refuse before delete on outbox \
                    for each row execute function refuse()";
    database.batch_execute(refusing).await.unwrap();
    let erase = ["erase", "xrides", "--user-id", "2"];
    weir.refused(&erase, 1, "not today").await;
    weir.refused(&erase, 1, "Nothing was removed").await;
    assert_eq!(found(&weir, &key, "/v1/rides/1").await, 200);
    assert_eq!(events(&database).await, before);

    let allowing = "drop trigger refuse on outbox";
    database.batch_execute(allowing).await.unwrap();
    let erased = weir.json(&erase).await;
    assert_eq!(
        (&erased["rides"], &erased["outbox"]),
        (&json!(1), &json!(1)),
        "{erased}"
    );
    assert_eq!(found(&weir, &key, "/v1/rides/1").await, 404);
    let left = before.into_iter().filter(|event| event != "ride 1");
    assert_eq!(events(&database).await, left.collect::<Vec<_>>());
}
