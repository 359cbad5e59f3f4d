//! What a gateway's answer says about each item of the request.

use http::StatusCode;
use serde::Deserialize;
use uuid::Uuid;

/// What became of one item at the door.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ItemAnswer {
    /// It got a tracking id.
    Accepted(Uuid),
    /// It was refused and does not exist.
    Rejected {
        /// The problem's code, or `http-<status>` where there is none.
        code: String,
        /// Whether the same item may be accepted later.
        retryable: bool,
    },
    /// Nobody knows whether it was stored: sent again it will not be doubled.
    Unanswered {
        /// Why not: `unanswered`, `connection-lost`, `timeout`, ...
        code: String,
    },
}

/// The answers of one response, and what it says that cannot be true.
#[derive(Debug, Default)]
pub(crate) struct Interpreted {
    /// Index in the request; each at least once.
    pub(crate) items: Vec<(usize, ItemAnswer)>,
    pub(crate) contradictions: Vec<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Envelope {
    tracking_id: Option<Uuid>,
    code: Option<String>,
    retryable: Option<bool>,
    accepted: Option<usize>,
    rejected: Option<usize>,
    unanswered: Option<usize>,
    results: Option<Vec<ResultItem>>,
}

#[derive(Debug, Deserialize)]
struct ResultItem {
    index: usize,
    tracking_id: Option<Uuid>,
    error: Option<ItemError>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct ItemError {
    code: Option<String>,
    retryable: Option<bool>,
}

/// The gateway's code for "may or may not be stored".
const UNANSWERED: &str = "unanswered";

/// Reads the answer to a request of `items` items.
pub(crate) fn interpret(status: StatusCode, body: &[u8], items: usize) -> Interpreted {
    let Ok(envelope) = serde_json::from_slice::<Envelope>(body) else {
        return all(items, &without_document(status));
    };
    if let Some(results) = &envelope.results {
        return from_results(status, &envelope, results, items);
    }
    match (status, envelope.tracking_id) {
        (StatusCode::ACCEPTED, Some(id)) if items == 1 => all(1, &ItemAnswer::Accepted(id)),
        (StatusCode::ACCEPTED, _) => all(items, &unreadable()),
        _ => all(items, &refusal(status, envelope.code, envelope.retryable)),
    }
}

/// The same answer for every item.
pub(crate) fn all(items: usize, answer: &ItemAnswer) -> Interpreted {
    Interpreted {
        items: (0..items).map(|index| (index, answer.clone())).collect(),
        contradictions: Vec::new(),
    }
}

fn unreadable() -> ItemAnswer {
    ItemAnswer::Unanswered {
        code: "unreadable-answer".into(),
    }
}

fn without_document(status: StatusCode) -> ItemAnswer {
    match status {
        StatusCode::ACCEPTED => unreadable(),
        _ => refusal(status, None, None),
    }
}

/// Only a 4xx or a 503 says that nothing was stored; any other status leaves it open.
fn refusal(status: StatusCode, code: Option<String>, retryable: Option<bool>) -> ItemAnswer {
    let code = code.unwrap_or_else(|| format!("http-{}", status.as_u16()));
    let refused = status.is_client_error() || status == StatusCode::SERVICE_UNAVAILABLE;
    if !refused || code == UNANSWERED {
        return ItemAnswer::Unanswered { code };
    }
    let temporary = matches!(status.as_u16(), 408 | 429 | 503);
    ItemAnswer::Rejected {
        code,
        retryable: retryable.unwrap_or(temporary),
    }
}

fn from_results(
    status: StatusCode,
    envelope: &Envelope,
    results: &[ResultItem],
    items: usize,
) -> Interpreted {
    let mut read = Interpreted::default();
    let mut seen = vec![false; items];
    for result in results {
        let index = result.index;
        match seen.get_mut(index) {
            Some(seen) => {
                if *seen {
                    let what = format!("item {index} of {items} is answered twice in one response");
                    read.contradictions.push(what);
                }
                *seen = true;
                read.items.push((index, from_result(result)));
            }
            None => read.contradictions.push(format!(
                "item {index} is answered, but only {items} were sent"
            )),
        }
    }
    for (index, _) in seen.iter().enumerate().filter(|(_, seen)| !**seen) {
        let code = "no-result".to_owned();
        read.items.push((index, ItemAnswer::Unanswered { code }));
    }
    compare_counts(envelope, &mut read);
    let accepted = accepted(&read);
    if (accepted > 0) != (status == StatusCode::ACCEPTED) {
        read.contradictions.push(format!(
            "status {} with {accepted} accepted items",
            status.as_u16()
        ));
    }
    read
}

fn from_result(result: &ResultItem) -> ItemAnswer {
    if let Some(id) = result.tracking_id {
        return ItemAnswer::Accepted(id);
    }
    let Some(error) = &result.error else {
        return unreadable();
    };
    let code = error.code.clone().unwrap_or_else(|| "no-code".into());
    if code == UNANSWERED {
        return ItemAnswer::Unanswered { code };
    }
    ItemAnswer::Rejected {
        code,
        retryable: error.retryable.unwrap_or(false),
    }
}

fn accepted(read: &Interpreted) -> usize {
    read.items
        .iter()
        .filter(|(_, answer)| matches!(answer, ItemAnswer::Accepted(_)))
        .count()
}

fn compare_counts(envelope: &Envelope, read: &mut Interpreted) {
    let count = |of: fn(&ItemAnswer) -> bool| read.items.iter().filter(|(_, it)| of(it)).count();
    let counted = [
        ("accepted", envelope.accepted, accepted(read)),
        (
            "rejected",
            envelope.rejected,
            count(|it| matches!(it, ItemAnswer::Rejected { .. })),
        ),
        (
            "unanswered",
            envelope.unanswered,
            count(|it| matches!(it, ItemAnswer::Unanswered { .. })),
        ),
    ];
    for (name, said, counted) in counted {
        if said.is_some_and(|said| said != counted) {
            let said = said.unwrap_or_default();
            read.contradictions.push(format!(
                "a response says {said} {name}, its results say {counted}"
            ));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "01890a5d-ac96-774b-bcce-b302099a8057";

    fn read(status: u16, body: &str, items: usize) -> Interpreted {
        interpret(
            StatusCode::from_u16(status).unwrap(),
            body.as_bytes(),
            items,
        )
    }

    fn word(answer: &ItemAnswer) -> String {
        match answer {
            ItemAnswer::Accepted(_) => "accepted".into(),
            ItemAnswer::Rejected { code, retryable } => format!("rejected {code} {retryable}"),
            ItemAnswer::Unanswered { code } => format!("unanswered {code}"),
        }
    }

    #[test]
    fn single_answers() {
        let accepted = format!(r#"{{"tracking_id":"{ID}","status":"accepted"}}"#);
        for (status, body, want) in [
            (202, accepted.as_str(), "accepted"),
            (202, "{}", "unanswered unreadable-answer"),
            (202, "<html>", "unanswered unreadable-answer"),
            (
                422,
                r#"{"code":"invalid","retryable":false}"#,
                "rejected invalid false",
            ),
            (
                503,
                r#"{"code":"overloaded","retryable":true}"#,
                "rejected overloaded true",
            ),
            (
                503,
                r#"{"code":"unanswered","retryable":true}"#,
                "unanswered unanswered",
            ),
            (503, "busy", "rejected http-503 true"),
            (502, "bad gateway", "unanswered http-502"),
            (500, r#"{"code":"internal"}"#, "unanswered internal"),
            (401, "", "rejected http-401 false"),
            (200, r#"{"ok":1}"#, "unanswered http-200"),
        ] {
            let read = read(status, body, 1);
            assert_eq!(read.items.len(), 1);
            assert_eq!(word(&read.items[0].1), want, "{status} {body}");
            assert!(read.contradictions.is_empty());
        }
        assert_eq!(read(413, r#"{"code":"too-large"}"#, 3).items.len(), 3);
        assert_eq!(
            word(&read(202, &accepted, 2).items[1].1),
            "unanswered unreadable-answer"
        );
    }

    #[test]
    fn items_of_a_batch_are_read_by_index() {
        let body = format!(
            r#"{{"accepted":1,"rejected":1,"unanswered":1,"results":[
                {{"index":2,"tracking_id":"{ID}"}},
                {{"index":0,"error":{{"code":"invalid","retryable":false}}}},
                {{"index":1,"error":{{"code":"unanswered","retryable":true}}}}]}}"#
        );
        let mut items = read(202, &body, 3).items;
        items.sort_by_key(|(index, _)| *index);
        let words: Vec<_> = items.iter().map(|(_, answer)| word(answer)).collect();
        assert_eq!(
            words,
            [
                "rejected invalid false",
                "unanswered unanswered",
                "accepted"
            ]
        );
        assert!(read(202, &body, 3).contradictions.is_empty());
    }

    #[test]
    fn what_cannot_be_true_is_named() {
        let twice = format!(
            r#"{{"accepted":2,"results":[{{"index":0,"tracking_id":"{ID}"}},{{"index":0,"tracking_id":"{ID}"}}]}}"#
        );
        let answer = read(202, &twice, 2);
        assert_eq!(answer.contradictions.len(), 1, "{answer:?}");
        assert_eq!(answer.items.len(), 3, "both answers and the missing one");
        let outside = format!(r#"{{"results":[{{"index":5,"tracking_id":"{ID}"}}]}}"#);
        assert_eq!(read(202, &outside, 1).contradictions.len(), 2);
        assert_eq!(
            read(202, r#"{"accepted":7,"results":[]}"#, 1)
                .contradictions
                .len(),
            2
        );
        assert_eq!(
            word(&read(503, r#"{"results":[]}"#, 1).items[0].1),
            "unanswered no-result"
        );
    }
}
