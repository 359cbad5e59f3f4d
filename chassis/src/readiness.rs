//! Readiness: named conditions, each ready or not for a stated reason. `/readyz` shows them, and
//! notes: what an operator should know of a process that serves all the same.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use serde::Serialize;

/// Reason of a condition that nobody has reported on yet.
const STARTING: &str = "starting";

/// All conditions of a process. It is ready when every one of them is.
#[derive(Clone, Default)]
pub struct Readiness {
    conditions: Arc<Mutex<Vec<Condition>>>,
    notes: Arc<Mutex<Vec<Note>>>,
}

/// Something that is not as it should be and does not keep the process from serving.
#[derive(Clone)]
pub struct Note {
    shared: Arc<Shared>,
}

/// What a note says.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Noted {
    /// The note's name.
    pub note: String,
    /// In words, for an operator.
    pub text: String,
}

/// One thing that must hold; cheap to clone, and to report on however often.
#[derive(Clone)]
pub struct Condition {
    shared: Arc<Shared>,
}

struct Shared {
    name: String,
    /// Why it does not hold; none when it does.
    reason: Mutex<Option<String>>,
}

/// Why the process is not ready.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct NotReady {
    /// The condition's name.
    pub condition: String,
    /// In words, for an operator.
    pub reason: String,
}

impl Readiness {
    /// No conditions yet: ready.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The condition of that name. The first call makes it, not ready, reason "starting".
    #[must_use]
    pub fn condition(&self, name: impl Into<String>) -> Condition {
        let name = name.into();
        let mut conditions = lock(&self.conditions);
        if let Some(known) = conditions
            .iter()
            .find(|condition| condition.shared.name == name)
        {
            return known.clone();
        }
        let reason = Mutex::new(Some(STARTING.to_owned()));
        let condition = Condition {
            shared: Arc::new(Shared { name, reason }),
        };
        conditions.push(condition.clone());
        condition
    }

    /// A new note of that name, which says nothing yet.
    #[must_use]
    pub fn note(&self, name: impl Into<String>) -> Note {
        let shared = Arc::new(Shared {
            name: name.into(),
            reason: Mutex::new(None),
        });
        let note = Note { shared };
        lock(&self.notes).push(note.clone());
        note
    }

    /// What every note says that says something.
    #[must_use]
    pub fn notes(&self) -> Vec<Noted> {
        let notes = lock(&self.notes);
        let said = notes.iter().filter_map(|note| {
            let text = lock(&note.shared.reason).clone()?;
            Some(Noted {
                note: note.shared.name.clone(),
                text,
            })
        });
        said.collect()
    }

    /// Whether every condition holds.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        lock(&self.conditions)
            .iter()
            .all(|condition| lock(&condition.shared.reason).is_none())
    }

    /// Each condition that does not hold, in the order they were made. Empty when ready.
    #[must_use]
    pub fn reasons(&self) -> Vec<NotReady> {
        let conditions = lock(&self.conditions);
        let not_ready = conditions.iter().filter_map(|condition| {
            let reason = lock(&condition.shared.reason).clone()?;
            Some(NotReady {
                condition: condition.shared.name.clone(),
                reason,
            })
        });
        not_ready.collect()
    }
}

impl Condition {
    /// It holds. Logged when that is news.
    pub fn ready(&self) {
        let was = lock(&self.shared.reason).take();
        if let Some(was) = was {
            tracing::info!(condition = self.shared.name, was, "ready");
        }
    }

    /// It does not hold, and why. Logged when that is news.
    pub fn not_ready(&self, reason: impl AsRef<str>) {
        let reason = reason.as_ref();
        let mut current = lock(&self.shared.reason);
        if current.as_deref() == Some(reason) {
            return;
        }
        *current = Some(reason.to_owned());
        drop(current);
        tracing::warn!(condition = self.shared.name, reason, "not ready");
    }

    /// Whether it holds.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        lock(&self.shared.reason).is_none()
    }
}

impl Note {
    /// Says it until it is cleared, or something else is said.
    pub fn set(&self, text: impl Into<String>) {
        *lock(&self.shared.reason) = Some(text.into());
    }

    /// Nothing more to say.
    pub fn clear(&self) {
        *lock(&self.shared.reason) = None;
    }
}

impl fmt::Debug for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = lock(&self.shared.reason).clone();
        f.debug_struct("Note")
            .field("name", &self.shared.name)
            .field("text", &text)
            .finish()
    }
}

impl fmt::Debug for Readiness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Readiness")
            .field("reasons", &self.reasons())
            .finish()
    }
}

impl fmt::Debug for Condition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let reason = lock(&self.shared.reason).clone();
        f.debug_struct("Condition")
            .field("name", &self.shared.name)
            .field("reason", &reason)
            .finish()
    }
}

/// What is behind these locks is replaced whole, so a panic elsewhere cannot leave it half done.
fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ready_when_every_condition_is() {
        let readiness = Readiness::new();
        assert!(readiness.is_ready());
        let log = readiness.condition("log");
        let clock = readiness.condition("clock");
        assert!(!readiness.is_ready());
        log.ready();
        log.ready();
        let starting = NotReady {
            condition: "clock".into(),
            reason: "starting".into(),
        };
        assert_eq!(readiness.reasons(), [starting]);
        clock.ready();
        assert!(readiness.is_ready());
        log.not_ready("away");
        log.not_ready("still away");
        assert!(!log.is_ready());
        assert_eq!(
            readiness.reasons(),
            [NotReady {
                condition: "log".into(),
                reason: "still away".into()
            }]
        );
    }

    #[test]
    fn a_note_leaves_the_process_ready() {
        let readiness = Readiness::new();
        let note = readiness.note("tls");
        assert_eq!(readiness.notes(), []);
        note.set("old files");
        let noted = Noted {
            note: "tls".into(),
            text: "old files".into(),
        };
        assert_eq!(readiness.notes(), [noted]);
        assert!(readiness.is_ready());
        note.clear();
        assert_eq!(readiness.notes(), []);
    }

    #[test]
    fn one_name_is_one_condition() {
        let readiness = Readiness::new();
        readiness.condition("log").ready();
        assert!(readiness.condition("log").is_ready());
        assert!(readiness.is_ready());
    }
}
