//! The users of the log, and what each may do there: the one place where it is written down.
//!
//! nats-server compares subjects token by token, and a stream's name is one token: `WEIR_INGEST_*`
//! would match nothing, and `*` every stream there is. So streams are named one by one.
//!
//! What a role asks for is answered on a subject of its own ([`User::inbox`]), which no other role
//! may listen to.

use std::fmt::Write as _;

use contract::Partitions;
use contract::log::stream_name;
use serde::{Deserialize, Serialize};

/// A user of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum User {
    /// `ingest-gateway`.
    Gateway,
    /// `persist-worker run`.
    Worker,
    /// `status-api`.
    Status,
    /// Whoever reads events.
    Subscriber,
    /// `persist-worker migrate`, `weir partner`, and people.
    Admin,
}

/// The passwords of all users.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Passwords {
    gateway: String,
    worker: String,
    status: String,
    subscriber: String,
    admin: String,
}

/// Streams of KV buckets.
const PARTNERS: &str = "KV_weir_partners";
const GATEWAYS: &str = "KV_weir_gateways";
const EVENTS: &str = "WEIR_EVENTS";

impl User {
    /// All of them.
    pub const ALL: [Self; 5] = [
        Self::Gateway,
        Self::Worker,
        Self::Status,
        Self::Subscriber,
        Self::Admin,
    ];

    /// Its name at the log.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Gateway => "gateway",
            Self::Worker => "worker",
            Self::Status => "status",
            Self::Subscriber => "subscriber",
            Self::Admin => "admin",
        }
    }

    /// What the subjects of its answers begin with.
    #[must_use]
    pub fn inbox(self) -> String {
        format!("_INBOX_{}", self.name())
    }

    /// What it may publish; nothing else.
    fn may_publish(self, partitions: Partitions) -> Vec<String> {
        let of_each = |verbs: &[&str]| -> Vec<String> {
            let streams = partitions.iter().map(stream_name);
            streams
                .flat_map(|stream| verbs.iter().map(move |verb| verb.replace('@', &stream)))
                .collect()
        };
        match self {
            Self::Gateway => {
                let mut subjects = list(&["weir.ingest.*", "$JS.API.STREAM.NAMES"]);
                subjects.extend(of_each(&["$JS.API.STREAM.INFO.@"]));
                subjects.extend(follow(PARTNERS));
                subjects.extend([
                    format!("$JS.API.DIRECT.GET.{GATEWAYS}"),
                    "$KV.weir_gateways.*".to_owned(),
                ]);
                subjects
            }
            Self::Worker => {
                let mut subjects = list(&["weir.ingest.*", "weir.events.>", "weir.relay.*"]);
                // To make room there: nothing younger than it promised to keep.
                subjects.extend([
                    format!("$JS.API.STREAM.INFO.{EVENTS}"),
                    format!("$JS.API.STREAM.MSG.GET.{EVENTS}"),
                    format!("$JS.API.STREAM.PURGE.{EVENTS}"),
                ]);
                subjects.extend(of_each(&[
                    "$JS.API.STREAM.INFO.@",
                    "$JS.API.STREAM.MSG.GET.@",
                    "$JS.API.DIRECT.GET.@",
                    "$JS.API.STREAM.PURGE.@",
                    "$JS.API.CONSUMER.CREATE.@",
                    "$JS.API.CONSUMER.CREATE.@.>",
                    "$JS.API.CONSUMER.MSG.NEXT.@.*",
                    "$JS.API.CONSUMER.DELETE.@.*",
                ]));
                subjects
            }
            Self::Status => follow(PARTNERS),
            Self::Subscriber => {
                let mut subjects = follow(EVENTS);
                subjects.extend([
                    format!("$JS.API.CONSUMER.INFO.{EVENTS}.*"),
                    format!("$JS.API.CONSUMER.DURABLE.CREATE.{EVENTS}.*"),
                    format!("$JS.API.CONSUMER.MSG.NEXT.{EVENTS}.*"),
                    format!("$JS.ACK.{EVENTS}.>"),
                ]);
                subjects
            }
            Self::Admin => list(&[">"]),
        }
    }

    /// What it may listen to; nothing else.
    fn may_subscribe(self) -> Vec<String> {
        let inbox = format!("{}.>", self.inbox());
        match self {
            Self::Gateway | Self::Worker | Self::Status => vec![inbox],
            Self::Subscriber => vec![inbox, "weir.events.>".to_owned()],
            Self::Admin => list(&[">"]),
        }
    }
}

/// Reading a stream, and being told of what is new there.
fn follow(stream: &str) -> Vec<String> {
    vec![
        format!("$JS.API.STREAM.INFO.{stream}"),
        format!("$JS.API.DIRECT.GET.{stream}"),
        format!("$JS.API.DIRECT.GET.{stream}.>"),
        format!("$JS.API.CONSUMER.CREATE.{stream}"),
        format!("$JS.API.CONSUMER.CREATE.{stream}.>"),
        format!("$JS.FC.{stream}.>"),
    ]
}

fn list(subjects: &[&str]) -> Vec<String> {
    subjects.iter().map(|it| (*it).to_owned()).collect()
}

impl Passwords {
    /// New ones.
    ///
    /// # Errors
    /// When the system has no random bytes.
    pub fn generate() -> std::io::Result<Self> {
        let [gateway, worker, status, subscriber, admin] = [(); 5].map(|()| password());
        Ok(Self {
            gateway: gateway?,
            worker: worker?,
            status: status?,
            subscriber: subscriber?,
            admin: admin?,
        })
    }

    /// One user's.
    #[must_use]
    pub fn of(&self, user: User) -> &str {
        match user {
            User::Gateway => &self.gateway,
            User::Worker => &self.worker,
            User::Status => &self.status,
            User::Subscriber => &self.subscriber,
            User::Admin => &self.admin,
        }
    }
}

impl std::fmt::Debug for Passwords {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Passwords(..)")
    }
}

/// 128 random bits in hexadecimal digits, which need no escape in a URL, in SQL or at the log.
pub(crate) fn password() -> std::io::Result<String> {
    let mut bytes = [0_u8; 16];
    getrandom::fill(&mut bytes).map_err(std::io::Error::other)?;
    Ok(hex::encode(bytes))
}

/// nats-server's `authorization` block for a log of so many partitions. `password` gives what
/// stands behind `password:`: a quoted password or bcrypt hash, or the name of a variable.
#[must_use]
pub fn authorization(partitions: Partitions, password: impl Fn(User) -> String) -> String {
    let mut text = "authorization {\n  users: [\n".to_owned();
    for user in User::ALL {
        let quoted = |subjects: Vec<String>| -> String {
            let lines = subjects.iter().map(|it| format!("          \"{it}\"\n"));
            lines.collect()
        };
        // Infallible: a String takes everything.
        let _ = write!(
            text,
            "    {{\n      user: {name}\n      password: {password}\n      permissions: {{\n        \
             publish: {{ allow: [\n{publish}        ] }}\n        \
             subscribe: {{ allow: [\n{subscribe}        ] }}\n      }}\n    }}\n",
            name = user.name(),
            password = password(user),
            publish = quoted(user.may_publish(partitions)),
            subscribe = quoted(user.may_subscribe()),
        );
    }
    text.push_str("  ]\n}\n");
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use contract::Partition;

    fn text(partitions: u32) -> String {
        let partitions = Partitions::new(partitions).unwrap();
        authorization(partitions, |user| {
            format!("$WEIR_NATS_{}", user.name().to_uppercase())
        })
    }

    #[test]
    fn the_documentation_shows_this_block() {
        let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/nats-users.conf");
        let shown = std::fs::read_to_string(file).unwrap();
        let block = text(2);
        assert!(
            shown.ends_with(&block),
            "docs/nats-users.conf lacks:\n{block}"
        );
        let comment = shown.strip_suffix(&block).unwrap();
        assert!(
            comment.lines().all(|line| line.starts_with('#')),
            "{comment}"
        );
    }

    #[test]
    fn streams_are_named_one_by_one_and_only_the_admin_may_everything() {
        let block = text(3);
        for partition in 0..3 {
            let stream = stream_name(Partition(partition));
            assert!(block.contains(&format!("STREAM.PURGE.{stream}\"")));
        }
        assert!(!block.contains("WEIR_INGEST_003"));
        assert_eq!(block.matches("\">\"").count(), 2);
        assert!(!block.contains("STREAM.INFO.*") && !block.contains("$JS.API.>"));
    }

    #[test]
    fn passwords_are_not_shown() {
        let passwords = Passwords::generate().unwrap();
        assert!(!format!("{passwords:?}").contains(passwords.of(User::Admin)));
        assert_ne!(passwords.of(User::Admin), passwords.of(User::Gateway));
    }
}
