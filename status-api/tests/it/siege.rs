//! An attack on a stage beside an honest client; what all sieges have in common is devstack's.

use devstack::siege::{self, BESIDE_BYTES_MAX, Size};
use tokio::net::TcpStream;

use crate::stage::{Stage, XRIDES};

/// Asks for a ride that is not there: a whole answer, by way of the database.
pub(crate) async fn ask(stage: &Stage) {
    let answer = stage.get(XRIDES, "/v1/rides/1").await;
    answer.is_problem(404, "not-found");
}

/// Runs an attack beside an honest client.
pub(crate) async fn besieged(stage: &Stage, size: Size, attack: impl AsyncFnOnce()) {
    besieged_beside(stage, size, async || ask(stage).await, attack).await;
}

/// Runs an attack beside a client that is honest in its own way.
pub(crate) async fn besieged_beside(
    stage: &Stage,
    size: Size,
    honest: impl AsyncFn(),
    attack: impl AsyncFnOnce(),
) {
    let bytes_max = size.beside(BESIDE_BYTES_MAX);
    siege::besieged(stage.pid(), bytes_max, honest, attack).await;
    assert!(stage.is_running(), "it lives");
    assert_eq!(stage.readyz().await.status, 200);
}

/// A connection from one of the attackers' addresses.
pub(crate) async fn attacker(stage: &Stage, number: usize) -> TcpStream {
    siege::attacker(stage.address(), number).await
}
