//! Reading the bucket without a consumer, which only an administrator may make: whoever makes one
//! says where its messages go, and the server sends them there unchecked. Instead the stream's
//! messages are asked for page by page, from a revision on. Any replica may answer.

use std::collections::BTreeMap;
use std::time::Duration;

use async_nats::Message;
use async_nats::jetstream::stream::Info;
use bytes::Bytes;
use futures_util::StreamExt as _;
use tokio::time::sleep;

use super::{BUCKET, Bucket, BucketError, failed, in_time};

/// Most messages of one answer: a page of the largest documents is a few MB.
const PAGE_MESSAGES: usize = 256;

/// How often, and how far apart, a replica is asked again that has less than the leader: together a
/// second, which one that works does not lag.
const LAG_TRIES: u32 = 10;
const LAG_PAUSE: Duration = Duration::from_millis(100);

const DOING: &str = "cannot read the bucket of partners";

/// One message of the bucket.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub(crate) key: String,
    pub(crate) value: Bytes,
    pub(crate) revision: u64,
    pub(crate) is_deleted: bool,
}

/// Some messages, oldest first and none left out.
#[derive(Debug, Default)]
pub(crate) struct Page {
    pub(crate) entries: Vec<Entry>,
    /// Whether the next page is not empty.
    pub(crate) has_more: bool,
}

/// Everything that the bucket holds.
#[derive(Debug)]
pub(crate) struct Listed {
    /// The last entry of every key, deleted ones included.
    pub(crate) entries: Vec<Entry>,
    /// The revision of the last message that was read; 0 without any.
    pub(crate) read_to: u64,
    /// What the stream said of itself just before.
    pub(crate) info: Info,
}

/// An answer that is not what was asked for.
#[derive(Debug, thiserror::Error)]
enum Unexpected {
    #[error("nobody answers for the bucket")]
    NobodyThere,
    #[error("it answered with status {0}")]
    Status(async_nats::StatusCode),
    #[error("a message without {0}")]
    Header(&'static str),
    #[error("a part of the answer was lost on the way")]
    Torn,
    #[error("the answer does not end")]
    Endless,
}

impl Bucket {
    /// What the bucket holds by now.
    pub(crate) async fn entries(&self) -> Result<Listed, BucketError> {
        let info = self.info().await?;
        let mut latest = BTreeMap::new();
        let mut read_to = 0;
        for _ in 0..LAG_TRIES {
            loop {
                let page = self.page(read_to + 1).await?;
                for entry in page.entries {
                    read_to = entry.revision;
                    latest.insert(entry.key.clone(), entry);
                }
                if !page.has_more {
                    break;
                }
            }
            if read_to >= info.state.last_sequence || info.state.messages == 0 {
                break;
            }
            sleep(LAG_PAUSE).await;
        }
        // Otherwise the last message was removed by hand.
        Ok(Listed {
            entries: latest.into_values().collect(),
            read_to,
            info,
        })
    }

    /// What the bucket holds from a revision on.
    pub(crate) async fn page(&self, from: u64) -> Result<Page, BucketError> {
        in_time(DOING, Box::pin(self.ask(from))).await
    }

    async fn ask(&self, from: u64) -> Result<Page, BucketError> {
        let inbox = self.client.new_inbox();
        let answers = self.client.subscribe(inbox.clone()).await;
        let mut answers = answers.map_err(failed(DOING))?.take(PAGE_MESSAGES + 1);
        let question =
            format!(r#"{{"seq":{from},"batch":{PAGE_MESSAGES},"next_by_subj":"$KV.{BUCKET}.>"}}"#);
        let subject = format!("$JS.API.DIRECT.GET.KV_{BUCKET}");
        let asked = self
            .client
            .publish_with_reply(subject, inbox, question.into());
        asked.await.map_err(failed(DOING))?;
        let mut page = Page::default();
        let mut last = 0;
        while let Some(answer) = answers.next().await {
            if is_over(&answer, last, &mut page).map_err(failed(DOING))? {
                return Ok(page);
            }
            let entry = read(&answer).map_err(failed(DOING))?;
            last = entry.revision;
            page.entries.push(entry);
        }
        Err(failed(DOING)(Unexpected::Endless))
    }
}

/// Whether the page ends here. Every answer names the one before, 0 if there is none: over a
/// connection that was lost in between, some may be missing.
fn is_over(answer: &Message, last: u64, page: &mut Page) -> Result<bool, Unexpected> {
    match answer.status.map(|status| (status, status.as_u16())) {
        None | Some((_, 200 | 204)) => {}
        // Nothing from there on.
        Some((_, 404)) => return Ok(true),
        Some((_, 503)) => return Err(Unexpected::NobodyThere),
        Some((status, _)) => return Err(Unexpected::Status(status)),
    }
    if number(answer, "Nats-Last-Sequence")? != last {
        return Err(Unexpected::Torn);
    }
    let is_end = answer.status.is_some_and(|status| status.as_u16() == 204);
    page.has_more = is_end && last > 0 && number(answer, "Nats-Num-Pending")? > 0;
    Ok(is_end)
}

fn read(message: &Message) -> Result<Entry, Unexpected> {
    let subject = header(message, "Nats-Subject")?;
    let key = subject.strip_prefix("$KV.").and_then(|subject| {
        let key = subject.strip_prefix(BUCKET)?;
        key.strip_prefix('.')
    });
    Ok(Entry {
        key: key.ok_or(Unexpected::Header("its key"))?.to_owned(),
        revision: number(message, "Nats-Sequence")?,
        is_deleted: header(message, "KV-Operation").is_ok_and(|it| it != "PUT")
            || header(message, "Nats-Marker-Reason").is_ok(),
        value: message.payload.clone(),
    })
}

fn header<'a>(message: &'a Message, name: &'static str) -> Result<&'a str, Unexpected> {
    let headers = message.headers.as_ref();
    let value = headers.and_then(|headers| headers.get(name));
    value
        .map(async_nats::HeaderValue::as_str)
        .ok_or(Unexpected::Header(name))
}

fn number(message: &Message, name: &'static str) -> Result<u64, Unexpected> {
    let text = header(message, name)?;
    text.parse().map_err(|_| Unexpected::Header(name))
}

#[cfg(test)]
mod tests {
    use async_nats::{HeaderMap, StatusCode};

    use super::*;

    fn answer(status: Option<u16>, headers: &[(&str, &str)]) -> Message {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.insert(*name, *value);
        }
        Message {
            subject: "_INBOX.x".into(),
            reply: None,
            payload: Bytes::from_static(b"{}"),
            headers: Some(map),
            status: status.map(|code| StatusCode::from_u16(code).expect("a status")),
            description: None,
            length: 0,
        }
    }

    #[test]
    fn entries_are_puts_or_deletions() {
        let at = [
            ("Nats-Subject", "$KV.weir_partners.7"),
            ("Nats-Sequence", "12"),
        ];
        let entry = read(&answer(None, &at)).expect("an entry");
        assert_eq!((entry.key.as_str(), entry.revision), ("7", 12));
        assert!(!entry.is_deleted);
        for (name, value, is_deleted) in [
            ("KV-Operation", "PUT", false),
            ("KV-Operation", "DEL", true),
            ("KV-Operation", "PURGE", true),
            ("Nats-Marker-Reason", "MaxAge", true),
        ] {
            let mut headers = at.to_vec();
            headers.push((name, value));
            let entry = read(&answer(None, &headers)).expect("an entry");
            assert_eq!(entry.is_deleted, is_deleted, "{name}: {value}");
        }
        assert!(read(&answer(None, &at[..1])).is_err());
        assert!(read(&answer(None, &[("Nats-Subject", "$KV.other.7"), at[1]])).is_err());
    }

    #[test]
    fn a_page_from_which_something_was_lost_is_none() {
        let mut page = Page::default();
        let says = |status, last, pending| {
            answer(
                status,
                &[("Nats-Last-Sequence", last), ("Nats-Num-Pending", pending)],
            )
        };
        assert!(!is_over(&says(None, "0", "2"), 0, &mut page).expect("the first"));
        assert!(!is_over(&says(None, "5", "1"), 5, &mut page).expect("the next"));
        assert!(is_over(&says(Some(204), "6", "0"), 6, &mut page).expect("the end"));
        assert!(!page.has_more);
        assert!(is_over(&says(Some(204), "6", "3"), 6, &mut page).expect("the end"));
        assert!(page.has_more);
        for (status, last) in [(None, 4), (None, 0), (Some(204), 5)] {
            let torn = is_over(&says(status, "6", "0"), last, &mut page);
            assert!(matches!(torn, Err(Unexpected::Torn)), "{torn:?}");
        }
        assert!(is_over(&answer(Some(404), &[]), 0, &mut page).expect("nothing"));
        assert!(is_over(&answer(Some(503), &[]), 0, &mut page).is_err());
        assert!(is_over(&answer(Some(408), &[]), 0, &mut page).is_err());
    }
}
