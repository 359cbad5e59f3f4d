//! Whom to ask what became of tracking ids: a status API, or the ledger's own table.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_TYPE, HeaderValue};
use http::{Method, Request, StatusCode};
use http_body_util::Full;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::books::Outcome;
use crate::base_url::BaseUrl;
use crate::connection::Connection;

/// Most ids in one look-up: the status API's bound.
const LOOKUP_IDS_MAX: usize = 1_000;
/// Ids in one query to the database.
const QUERY_IDS_MAX: usize = 5_000;
/// How long the database may take to answer.
const QUERY_WAIT: Duration = Duration::from_secs(30);

/// One id's answer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Found {
    pub(crate) tracking_id: Uuid,
    /// The resource's id, if it was named.
    pub(crate) resource: Option<String>,
    pub(crate) verdict: Verdict,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Verdict {
    /// Not yet.
    Queued,
    /// The status API says there is no such id.
    Unknown,
    Settled(Outcome),
    /// Something else entirely.
    Nonsense(String),
}

/// Why there is no answer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Miss {
    /// To be asked again, at the earliest after so long.
    Again(Option<Duration>),
    /// It will never answer.
    Refused(String),
}

/// Asked by one follower at a time.
#[derive(Debug)]
pub(crate) enum Source {
    Status(Box<Status>),
    Database(Box<Database>),
}

impl Source {
    /// Most ids that can be asked about at once.
    pub(crate) fn ids_max(&self) -> usize {
        match self {
            Self::Status(_) => LOOKUP_IDS_MAX,
            Self::Database(_) => QUERY_IDS_MAX,
        }
    }

    /// Asks about ids; what the answer leaves out is not there.
    pub(crate) async fn ask(&mut self, ids: &[Uuid]) -> Result<Vec<Found>, Miss> {
        match self {
            Self::Status(it) => it.ask(ids).await,
            Self::Database(it) => it.ask(ids).await,
        }
    }

    /// Whether silence about an id means that it is not there yet.
    pub(crate) fn silence_is_queued(&self) -> bool {
        matches!(self, Self::Database(_))
    }
}

/// The status APIs, in turn, with one partner's key.
#[derive(Debug)]
pub(crate) struct Status {
    bases: Vec<Arc<BaseUrl>>,
    connections: Vec<Connection>,
    authorization: HeaderValue,
    timeout: Duration,
    next: usize,
}

#[derive(Serialize)]
struct LookupRequest<'a> {
    tracking_ids: &'a [Uuid],
}

#[derive(Deserialize)]
struct LookupAnswer {
    results: Vec<LookupResult>,
}

#[derive(Deserialize)]
struct LookupResult {
    tracking_id: Uuid,
    status: String,
    code: Option<String>,
    resource: Option<Resource>,
}

#[derive(Deserialize)]
struct Resource {
    id: Option<serde_json::Value>,
}

impl Status {
    pub(crate) fn new(
        bases: &[Arc<BaseUrl>],
        authorization: HeaderValue,
        timeout: Duration,
    ) -> Self {
        Self {
            bases: bases.to_vec(),
            connections: bases.iter().cloned().map(Connection::new).collect(),
            authorization,
            timeout,
            next: 0,
        }
    }

    async fn exchange(
        &mut self,
        method: Method,
        route: &str,
        body: Vec<u8>,
    ) -> Result<(StatusCode, Bytes), Miss> {
        self.next = (self.next + 1) % self.connections.len();
        let request = Request::builder()
            .method(method)
            .uri(self.bases[self.next].target(route))
            .header(AUTHORIZATION, self.authorization.clone())
            .header(CONTENT_TYPE, "application/json")
            .body(Full::new(Bytes::from(body)))
            .expect("a base URL and a route make a request");
        let connection = &mut self.connections[self.next];
        let answer = connection
            .exchange(request, self.timeout)
            .await
            .map_err(|_| Miss::Again(None))?;
        if answer.status.is_server_error() || matches!(answer.status.as_u16(), 408 | 429) {
            return Err(Miss::Again(answer.retry_after));
        }
        Ok((answer.status, answer.body))
    }

    async fn ask(&mut self, ids: &[Uuid]) -> Result<Vec<Found>, Miss> {
        let body =
            serde_json::to_vec(&LookupRequest { tracking_ids: ids }).expect("ids are always JSON");
        let (status, body) = self
            .exchange(Method::POST, "/v1/requests/lookup", body)
            .await?;
        let from = format!(
            "{} answers a look-up with {}",
            self.bases[self.next],
            status.as_u16()
        );
        if status != StatusCode::OK {
            let text: String = String::from_utf8_lossy(&body).chars().take(300).collect();
            return Err(Miss::Refused(format!("{from}: {text}")));
        }
        let answer: LookupAnswer = serde_json::from_slice(&body)
            .map_err(|error| Miss::Refused(format!("{from} that cannot be read: {error}")))?;
        Ok(answer.results.into_iter().map(found).collect())
    }

    /// Whether what a route names is stored.
    pub(crate) async fn is_stored(&mut self, route: &str) -> Result<bool, Miss> {
        Ok(self.get(route).await?.is_some())
    }

    /// A courier as it is now; `None` if there is none.
    pub(crate) async fn courier(&mut self, id: &str) -> Result<Option<CourierState>, Miss> {
        let route = format!("/v1/couriers/{}", segment(id));
        let Some(body) = self.get(&route).await? else {
            return Ok(None);
        };
        let state = serde_json::from_slice(&body).map_err(|error| {
            let base = &self.bases[self.next];
            Miss::Refused(format!("{base} answers GET {route} unreadably: {error}"))
        })?;
        Ok(Some(state))
    }

    async fn get(&mut self, route: &str) -> Result<Option<Bytes>, Miss> {
        let (status, body) = self.exchange(Method::GET, route, Vec::new()).await?;
        match status {
            StatusCode::OK => Ok(Some(body)),
            StatusCode::NOT_FOUND => Ok(None),
            other => {
                let base = &self.bases[self.next];
                let status = other.as_u16();
                Err(Miss::Refused(format!(
                    "{base} answers GET {route} with {status}"
                )))
            }
        }
    }
}

/// Text as one segment of a path (RFC 3986).
fn segment(text: &str) -> String {
    let mut segment = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'-' | b'.' | b'_' | b'~' | b'0'..=b'9' | b'A'..=b'Z' | b'a'..=b'z' => {
                segment.push(char::from(byte));
            }
            _ => segment.push_str(&format!("%{byte:02X}")),
        }
    }
    segment
}

/// What is compared of a courier.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Deserialize)]
pub(crate) struct CourierState {
    pub(crate) max_capacity: i64,
    pub(crate) available_capacity: i64,
    pub(crate) version: i64,
}

fn found(result: LookupResult) -> Found {
    let verdict = match result.status.as_str() {
        "queued" => Verdict::Queued,
        "unknown" => Verdict::Unknown,
        "persisted" => Verdict::Settled(Outcome::Persisted),
        "duplicate" => Verdict::Settled(Outcome::Duplicate),
        "failed" => {
            let code = result.code.unwrap_or_else(|| "no-code".into());
            Verdict::Settled(Outcome::Failed(code))
        }
        other => Verdict::Nonsense(format!("has the status {other:?}")),
    };
    let resource = result.resource.and_then(|it| it.id).map(|id| match id {
        serde_json::Value::String(text) => text,
        other => other.to_string(),
    });
    Found {
        tracking_id: result.tracking_id,
        resource,
        verdict,
    }
}

/// The database, by SQL: the ledger's row, and whether the ride it speaks of is really there.
#[derive(Debug)]
pub(crate) struct Database {
    url: String,
    open: Option<OpenDatabase>,
}

#[derive(Debug)]
struct OpenDatabase {
    client: tokio_postgres::Client,
    statement: tokio_postgres::Statement,
}

/// Bounds beside the list let the planner leave out other days' partitions.
const QUERY: &str = "\
    select q.tracking_id, q.outcome, q.code, q.resource_id, \
           q.kind <> 1 or r.id is not null as stored \
      from requests q \
      left join rides r on q.kind = 1 and r.partner_id = q.partner_id \
           and r.id = case when q.kind = 1 then q.resource_id::int8 end \
     where q.tracking_id = any($1) and q.tracking_id between $2 and $3";

/// Couriers by id, of the partner that a tracking id of theirs was given to.
const COURIERS_QUERY: &str = "\
    select courier_id, max_capacity::int8, available_capacity::int8, version::int8 \
      from couriers \
     where partner_id = (select partner_id from requests where tracking_id = $1) \
           and courier_id = any($2) and deleted_at is null";

impl Database {
    pub(crate) fn new(url: String) -> Self {
        Self { url, open: None }
    }

    /// Makes sure there is a connection, and tables to read.
    pub(crate) async fn open(&mut self) -> Result<(), tokio_postgres::Error> {
        if self
            .open
            .as_ref()
            .is_some_and(|open| !open.client.is_closed())
        {
            return Ok(());
        }
        self.open = None;
        let (client, connection) =
            tokio_postgres::connect(&self.url, tokio_postgres::NoTls).await?;
        // It ends with its client; its errors reach the queries they break.
        tokio::spawn(connection);
        let statement = client.prepare(QUERY).await?;
        self.open = Some(OpenDatabase { client, statement });
        Ok(())
    }

    async fn ask(&mut self, ids: &[Uuid]) -> Result<Vec<Found>, Miss> {
        let answer = tokio::time::timeout(QUERY_WAIT, self.query(ids)).await;
        match answer {
            Ok(Ok(rows)) => rows,
            Ok(Err(_)) | Err(_) => {
                self.open = None;
                Err(Miss::Again(None))
            }
        }
    }

    async fn query(
        &mut self,
        ids: &[Uuid],
    ) -> Result<Result<Vec<Found>, Miss>, tokio_postgres::Error> {
        self.open().await?;
        let open = self.open.as_ref().expect("was just opened");
        let (Some(first), Some(last)) = (ids.iter().min(), ids.iter().max()) else {
            return Ok(Ok(Vec::new()));
        };
        let rows = open
            .client
            .query(&open.statement, &[&ids, first, last])
            .await?;
        let mut found = Vec::with_capacity(rows.len());
        for row in rows {
            found.push(Found {
                tracking_id: row.try_get(0)?,
                resource: Some(row.try_get(3)?),
                verdict: verdict(row.try_get(1)?, row.try_get(2)?, row.try_get(4)?),
            });
        }
        Ok(Ok(found))
    }

    /// Couriers as they are now, of the partner whose tracking id is given.
    pub(crate) async fn couriers(
        &mut self,
        witness: Uuid,
        ids: &[String],
    ) -> Result<HashMap<String, CourierState>, tokio_postgres::Error> {
        self.open().await?;
        let client = &self.open.as_ref().expect("was just opened").client;
        let rows = client.query(COURIERS_QUERY, &[&witness, &ids]).await?;
        let state = |row: &tokio_postgres::Row| {
            let state = CourierState {
                max_capacity: row.try_get(1)?,
                available_capacity: row.try_get(2)?,
                version: row.try_get(3)?,
            };
            Ok((row.try_get(0)?, state))
        };
        rows.iter().map(state).collect()
    }

    /// How far every partition is applied, Unix milliseconds; `None` if nobody can tell.
    pub(crate) async fn applied_to_ms(&mut self) -> Option<u64> {
        self.open().await.ok()?;
        let client = &self.open.as_ref()?.client;
        let query = "select (extract(epoch from min(committed_to)) * 1000)::int8 from progress";
        let row = tokio::time::timeout(QUERY_WAIT, client.query_one(query, &[])).await;
        let ms: Option<i64> = row.ok()?.ok()?.try_get(0).ok()?;
        ms.and_then(|ms| u64::try_from(ms).ok())
    }
}

fn verdict(outcome: i16, code: Option<String>, stored: bool) -> Verdict {
    match outcome {
        // The ledger's word without the ride is worth nothing.
        1 | 2 if !stored => Verdict::Settled(Outcome::Lost),
        1 => Verdict::Settled(Outcome::Persisted),
        2 => Verdict::Settled(Outcome::Duplicate),
        3 => Verdict::Settled(Outcome::Failed(code.unwrap_or_else(|| "no-code".into()))),
        other => Verdict::Nonsense(format!("has the outcome {other}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_id_is_one_segment_of_a_path() {
        assert_eq!(segment("blr-001_a~.Z"), "blr-001_a~.Z");
        assert_eq!(segment("a/b?c d%é"), "a%2Fb%3Fc%20d%25%C3%A9");
    }
}
