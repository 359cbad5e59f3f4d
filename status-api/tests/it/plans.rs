//! Lists are read from an index, in its order: the plans of the statements as the service sends
//! them.

use serde_json::Value;
use sqlx::{AssertSqlSafe, PgPool, Row as _};

use crate::stage::{Stage, XRIDES, pool};

const COURIERS: &str = "
    insert into couriers
    select 1 + n % 2, n::text, 'name', 1000, n * 7919 % 1001,
           case when n % 10 < 7 then 'van' when n % 10 < 9 then 'bike' when n % 1000 = 999 then 'truck' end,
           null, null, '018f2f4e-7c3a-7abc-8def-0123456789ab', '018f2f4e-7c3a-7abc-8def-0123456789ab',
           1, 1, now(), now(), case when n % 97 = 0 then now() end
    from generate_series(1, 100000) n";

const RIDES: &str = "
    insert into rides
    select 1 + n % 2, n, n % 500, 12, null, 2, 83, 448, null, null,
           timestamptz '2013-01-01' + n * 7919 % 100000 * interval '1 minute', null, false, true,
           '2012-12-31 23:59:59+00', null, null, null, null, false, null,
           '018f2f4e-7c3a-7abc-8def-0123456789ab', 1, '018f2f4e-7c3a-7abc-8def-0123456789ab', 1, 1, now(), now()
    from generate_series(1, 100000) n";

/// The statement that the service sent for `path`, read back from PostgreSQL.
async fn statement(stage: &Stage, pool: &PgPool, path: &str) -> String {
    let answer = stage.get(XRIDES, path).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    let results = answer.json()["results"].as_array().unwrap().len();
    assert!(results > 0, "{path} lists nothing");
    let last = "select query from pg_stat_activity where application_name = 'weir-status-api'
                and query like '%order by%' order by query_start desc limit 1";
    let text: String = sqlx::query_scalar(last).fetch_one(pool).await.unwrap();
    // PostgreSQL shows so many bytes.
    assert!(text.len() < 1_023, "cut off: {text}");
    text
}

/// Every node and index of a plan.
fn nodes<'p>(plan: &'p Value, found: &mut Vec<(&'p str, &'p str)>) {
    let word = |name: &str| plan[name].as_str().unwrap_or_default();
    found.push((word("Node Type"), word("Index Name")));
    for below in plan["Plans"].as_array().into_iter().flatten() {
        nodes(below, found);
    }
}

async fn is_a_stretch_of(pool: &PgPool, index: &str, statement: &str, calls: &[&str]) {
    let run = async |sql: String| {
        sqlx::raw_sql(AssertSqlSafe(sql.clone()))
            .fetch_all(pool)
            .await
            .unwrap_or_else(|error| panic!("{error}: {sql}"))
    };
    run(format!("prepare asked as {statement}")).await;
    // Where the statistics, a sample, say that all a partner or user has is little, collecting it
    // by page and sorting it costs about the same. What matters is that the order needs no sort.
    run("set enable_bitmapscan = off".into()).await;
    // Planned for these values, and once for all: PostgreSQL does the one at first, then may do
    // the other.
    for mode in ["force_custom_plan", "force_generic_plan"] {
        run(format!("set plan_cache_mode = {mode}")).await;
        for values in calls {
            let rows = run(format!("explain (format json) execute asked({values})")).await;
            let explained: Value = rows[0].try_get(0).unwrap();
            let mut found = Vec::new();
            nodes(&explained[0]["Plan"], &mut found);
            let scan = ("Index Scan", index);
            assert_eq!(
                found,
                [("Limit", ""), scan],
                "{mode} {values}: {explained:#}"
            );
        }
    }
    run("deallocate asked".into()).await;
}

#[tokio::test]
async fn each_list_is_a_stretch_of_its_index() {
    let stage = Stage::new().await;
    stage.execute(COURIERS).await;
    stage.execute(RIDES).await;
    stage.execute("analyze couriers, rides").await;
    let pool = pool(&stage.postgres.database_url()).await;

    // partner_id, available_capacity, courier_id, limit
    let any = statement(&stage, &pool, "/v1/couriers?min_available=45").await;
    let calls = [
        "1, 45, '', 101",
        "1, 500, '12345', 1001",
        "2, 999, '', 1001",
        "3, 0, '', 101",
    ];
    is_a_stretch_of(&pool, "couriers_available", &any, &calls).await;

    // ... and vehicle_type
    let path = "/v1/couriers?min_available=45&vehicle_type=van";
    let of_one_type = statement(&stage, &pool, path).await;
    let calls = [
        "1, 45, '', 101, 'van'",
        "1, 500, '12345', 1001, 'bike'",
        "2, 0, '', 1001, 'truck'",
        "1, 45, '', 101, 'ship'",
    ];
    is_a_stretch_of(&pool, "couriers_available_by_type", &of_one_type, &calls).await;

    // partner_id, user_id, from_date, id, to, limit
    let path = "/v1/rides?user_id=8&from=2013-01-01T00:00:00Z";
    let rides = statement(&stage, &pool, path).await;
    let calls = [
        "1, 8, '-infinity', -9223372036854775808, 'infinity', 101",
        "1, 8, '2013-02-01', 5, '2013-02-02', 1001",
        "2, 7, '2013-03-01', 5, 'infinity', 1001",
        "3, 7, '-infinity', 0, 'infinity', 101",
    ];
    is_a_stretch_of(&pool, "rides_by_user", &rides, &calls).await;
}
