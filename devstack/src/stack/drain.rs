//! Ends a stack in the order in which a record flows, so that nothing is cut off in mid-air.

use std::time::Duration;

use contract::Partition;
use tokio::time::Instant;

use super::{Role, Shared};
use crate::process::Signal;

/// All of it. `weir up` promises 45 s; the rest is for the last SIGKILLs.
const TOTAL: Duration = Duration::from_secs(43);
/// How long workers may take to write what the gateways have accepted. What is left then is on the
/// log and is written after the next start.
const QUEUE_GRACE: Duration = Duration::from_secs(6);
/// Between two looks at the queue.
const QUEUE_POLL: Duration = Duration::from_millis(100);

/// How long a process of a role may take to end by itself. Together with the queue's: 41 s.
pub(super) fn grace(role: Role) -> Duration {
    Duration::from_secs(match role {
        // Longer than a request's publish deadline: every request begun is answered.
        Role::Gateway => 14,
        Role::Worker => 7,
        Role::Status => 3,
        Role::Nats => 4,
        Role::Postgres => 7,
    })
}

/// Ends everything; gives the sentences about what did not end by itself.
pub(super) async fn all(shared: &Shared) -> Vec<String> {
    let deadline = Instant::now() + TOTAL;
    let mut abandoned = Vec::new();
    for slot in &shared.slots {
        // A frozen process can neither drain nor let another one drain.
        slot.signal(Signal::CONT);
    }
    for role in [
        Role::Gateway,
        Role::Worker,
        Role::Status,
        Role::Nats,
        Role::Postgres,
    ] {
        if role == Role::Worker {
            (shared.notices)("draining: what is queued");
            if !queue_is_empty_within(shared, QUEUE_GRACE).await {
                abandoned.push(
                    "the queue was not empty; what is on the log is written after the next start"
                        .to_owned(),
                );
            }
        }
        let left = deadline.saturating_duration_since(Instant::now());
        abandoned.extend(end_role(shared, role, grace(role).min(left)).await);
    }
    abandoned
}

/// Ends every process of a role at the same time.
async fn end_role(shared: &Shared, role: Role, grace: Duration) -> Vec<String> {
    let slots: Vec<_> = shared
        .slots
        .iter()
        .filter(|slot| slot.role == role)
        .collect();
    if slots.is_empty() {
        return Vec::new();
    }
    (shared.notices)(&format!("draining: {}", plural(role)));
    let mut ending = tokio::task::JoinSet::new();
    for slot in slots {
        let slot = std::sync::Arc::clone(slot);
        ending.spawn(async move { (slot.title(), slot.end(grace).await) });
    }
    let mut abandoned = Vec::new();
    while let Some(ended) = ending.join_next().await {
        let (title, by_itself) = ended.expect("ending does not panic");
        if !by_itself {
            abandoned.push(format!(
                "{title} did not end within {grace:?} and was killed"
            ));
        }
    }
    abandoned
}

fn plural(role: Role) -> &'static str {
    match role {
        Role::Gateway => "gateways",
        Role::Worker => "workers",
        Role::Status => "status APIs",
        Role::Nats => "the log",
        Role::Postgres => "the database",
    }
}

/// Waits until the cursor has passed everything that is on the log now. The gateways have ended,
/// so nothing of theirs comes after it.
async fn queue_is_empty_within(shared: &Shared, grace: Duration) -> bool {
    let queue = async {
        let Some(queue) = Queue::open(shared).await else {
            return false;
        };
        while !queue.is_empty().await {
            tokio::time::sleep(QUEUE_POLL).await;
        }
        true
    };
    tokio::time::timeout(grace, queue).await.unwrap_or(false)
}

/// What is on the log, per partition, and where the cursor is.
struct Queue {
    database: tokio_postgres::Client,
    last_on_log: Vec<(i32, u64)>,
}

impl Queue {
    async fn open(shared: &Shared) -> Option<Self> {
        let url = &shared.endpoints.database_url;
        let (database, connection) = tokio_postgres::connect(url, tokio_postgres::NoTls)
            .await
            .ok()?;
        tokio::spawn(connection);
        let client = crate::nats::connect(&shared.log_urls).await.ok()?;
        let context = async_nats::jetstream::new(client);
        let mut last_on_log = Vec::new();
        for row in database
            .query("select partition from progress", &[])
            .await
            .ok()?
        {
            let number: i32 = row.get(0);
            let partition = Partition(u8::try_from(number).ok()?);
            let stream = context
                .get_stream(contract::log::stream_name(partition))
                .await;
            last_on_log.push((number, stream.ok()?.cached_info().state.last_sequence));
        }
        Some(Self {
            database,
            last_on_log,
        })
    }

    async fn is_empty(&self) -> bool {
        let query = "select partition, last_seq from progress";
        let Ok(rows) = self.database.query(query, &[]).await else {
            return false;
        };
        let committed = |partition: i32| {
            let row = rows.iter().find(|row| row.get::<_, i32>(0) == partition);
            row.map_or(0, |row| row.get::<_, i64>(1))
        };
        self.last_on_log
            .iter()
            .all(|(partition, last)| i128::from(committed(*partition)) >= i128::from(*last))
    }
}
