//! What `weir partner` cannot do, and what it says to that.

use devstack::fixture::Fixture;

use super::installation::{Installation, partner, partner_with, text};

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_done_is_said_with_what_to_do() {
    let weir = Installation::start(|_| {}).await;
    weir.refused(&["add", "acme"], 1, "rotate-key").await;
    weir.refused(&["add", "fresh", "--id", "1"], 1, "Leave --id out")
        .await;
    weir.refused(&["show", "acne"], 1, "did you mean acme?")
        .await;
    weir.refused(&["disable", "somebody"], 1, "weir partner list")
        .await;
    weir.refused(&["revoke-key", "k1"], 1, "weir partner show")
        .await;
    weir.refused(&["limit", "acme", "--records-burst", "5"], 1, "rate")
        .await;
    weir.refused(&["add", "Not A Name"], 64, "a-z 0-9").await;
    weir.refused(&["add", "fresh", "--scope", "write"], 64, "ingest or read")
        .await;
    weir.refused(&["add", "fresh", "--records-burst", "5"], 64, "rate")
        .await;
    weir.refused(&["limit", "acme"], 64, "--records-per-second")
        .await;
    weir.refused(
        &["list", "--nats-url", "http://me:secret@h"],
        64,
        "nats://host",
    )
    .await;
    weir.refused(
        &["list", "--nats-url", "nats://127.0.0.1:1"],
        1,
        "cannot connect",
    )
    .await;

    let elsewhere = tempfile::tempdir().unwrap();
    let output = partner(elsewhere.path(), &["list"]).await;
    assert_eq!(output.status.code(), Some(64));
    assert!(text(&output.stderr).contains("--nats-url"));

    let empty = Fixture::nats().await;
    let output = partner(elsewhere.path(), &["list", "--nats-url", &empty.url()]).await;
    assert_eq!(output.status.code(), Some(1));
    assert!(
        text(&output.stderr).contains("weir partner add"),
        "{}",
        text(&output.stderr)
    );
    let output = partner(
        elsewhere.path(),
        &["add", "first", "--nats-url", &empty.url()],
    )
    .await;
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    assert!(text(&output.stdout).contains("weir_live_"));
}

/// Neither flags nor environment may be of two installations: partners have the same ids in both.
#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_erased_is_said_with_what_to_do() {
    let weir = Installation::start(|_| {}).await;
    let endpoints = weir.stack.endpoints();
    let (log, database) = (endpoints.nats_url, endpoints.database_url);
    let erase = ["erase", "xrides", "--ride-id", "7"];
    weir.refused(
        &["erase", "xride", "--ride-id", "7"],
        1,
        "did you mean xrides?",
    )
    .await;
    for half in [["--nats-url", &log], ["--database-url", &database]] {
        weir.refused(&[&erase[..], &half].concat(), 64, "name both")
            .await;
    }
    let elsewhere = tempfile::tempdir().unwrap();
    let output = partner(elsewhere.path(), &erase).await;
    assert_eq!(output.status.code(), Some(64));
    assert!(text(&output.stderr).contains("--database-url"));

    let (client, connection) = tokio_postgres::connect(&database, tokio_postgres::NoTls)
        .await
        .unwrap();
    tokio::spawn(connection);
    let somebody = "create role somebody login password 'secret'";
    client.batch_execute(somebody).await.unwrap();
    let host = database.split('@').nth(1).unwrap();
    let server = host.split('/').next().unwrap();
    let empty = format!("{}/postgres", database.rsplit_once('/').unwrap().0);
    for (url, code, reason) in [
        (format!("mysql://me:secret@{host}"), 64, "write it like"),
        (
            format!("postgres://me:secret@{host}?sslmode=maybe"),
            64,
            "verify-full",
        ),
        (
            "postgres://me:secret@127.0.0.1:1/weir".to_owned(),
            1,
            "refused (os error 111). It has to be up",
        ),
        (
            format!("postgres://me:secret@{host}"),
            1,
            "Look at user and password",
        ),
        (
            format!("postgres://somebody:secret@{server}/nowhere"),
            1,
            "Look at the database's name",
        ),
        (empty, 1, "holds no installation"),
        (
            format!("postgres://somebody:secret@{host}"),
            1,
            "It takes the database's owner",
        ),
        (
            format!("{database}?sslmode=require"),
            1,
            "does not support TLS. Look at sslmode",
        ),
    ] {
        let environment = [("WEIR_NATS_URL", &*log), ("WEIR_DATABASE_URL", &*url)];
        let output = partner_with(elsewhere.path(), &environment, &erase).await;
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{reason}: {said}");
        assert!(said.contains(reason), "{reason}: {said}");
        assert_eq!(said.contains("Nothing was removed"), code == 1, "{said}");
        assert!(!said.contains("secret"), "{said}");
    }
    let help = text(&weir.partner(&["erase", "--help"]).await.stdout);
    for told in ["--log-retain", "Exit codes: 0", "applied afterwards"] {
        assert!(help.contains(told), "{told}: {help}");
    }
    // The log's user and password are in its URL, and are needed.
    let (before, after) = log.split_once('@').expect("a user");
    let stranger = format!("{}x@{after}", before);
    let output = partner_with(
        elsewhere.path(),
        &[("WEIR_NATS_URL", &*stranger)],
        &["list"],
    )
    .await;
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    let password = before.rsplit(':').next().unwrap();
    assert!(
        said.contains("authorization") && !said.contains(password),
        "{said}"
    );
}
