//! The users of the log, and what each may do there: the one place where it is written down.
//!
//! nats-server compares subjects token by token, and a stream's name is one token: `WEIR_INGEST_*`
//! would match nothing, and `*` every stream there is. So streams are named one by one.
//!
//! What a role asks for is answered on a subject of its own ([`User::inbox`]), which no other role
//! may listen to.
//!
//! The server does not check where it sends an answer: whoever may ask anything names any subject
//! of its account for it, the one that purges a stream included. So only those who may destroy the
//! log anyway are in its account, [`WEIR`]. Every other role has an account of its own, which
//! imports exactly what the role may do: questions pass, and answers stay in the role's account.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;
use std::{fs, io};

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

/// The account that has the streams.
const WEIR: &str = "WEIR";

/// JetStream's own subjects.
const API: &str = "$JS.API.";

/// What they are called within an account that imports some of them. The server answers `$JS.API.>`
/// in every account, with "not enabled" where there are no streams: a question under that name
/// would have two answers. So an account's mapping renames what its clients ask.
const IMPORTED_API: &str = "weir.api.";

/// Questions that may have several answers, and what that makes of their export. The server cannot
/// know which answer is the last, and remembers who asked until there has been none for so long:
/// by default two minutes, as long as a fetch may wait. What is read comes at once, and may be read
/// a thousand times a second.
const ANSWERED_OFTEN: [(&str, &str); 2] = [
    (
        "$JS.API.DIRECT.GET.",
        ", response_type: Stream, response_threshold: \"5s\"",
    ),
    ("$JS.API.CONSUMER.MSG.NEXT.", ", response_type: Stream"),
];

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

    /// The account that it is in.
    fn account(self) -> &'static str {
        match self {
            Self::Worker | Self::Admin => WEIR,
            Self::Gateway => "WEIR_GATEWAY",
            Self::Status => "WEIR_STATUS",
            Self::Subscriber => "WEIR_SUBSCRIBER",
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
                subjects.extend(read(PARTNERS));
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
            Self::Status => read(PARTNERS),
            // Its consumers are made by the admin: whoever makes one says in the question's body,
            // which permissions do not see, where messages go.
            Self::Subscriber => {
                let mut subjects = read(EVENTS);
                subjects.extend([
                    format!("$JS.API.CONSUMER.INFO.{EVENTS}.*"),
                    format!("$JS.API.CONSUMER.MSG.NEXT.{EVENTS}.*"),
                    format!("$JS.ACK.{EVENTS}.>"),
                ]);
                subjects
            }
            Self::Admin => list(&[">"]),
        }
    }

    /// What a subject is called in its account, where permissions are checked.
    fn publishes(self, subject: &str) -> String {
        match subject.strip_prefix(API) {
            Some(rest) if self.account() != WEIR => format!("{IMPORTED_API}{rest}"),
            _ => subject.to_owned(),
        }
    }

    /// What it may listen to beside its answers; nothing else.
    fn may_hear(self) -> Vec<String> {
        match self {
            Self::Gateway | Self::Worker | Self::Status => Vec::new(),
            Self::Subscriber => list(&["weir.events.>"]),
            Self::Admin => list(&[">"]),
        }
    }
}

/// Reading a stream by asking.
fn read(stream: &str) -> Vec<String> {
    vec![
        format!("$JS.API.STREAM.INFO.{stream}"),
        format!("$JS.API.DIRECT.GET.{stream}"),
        format!("$JS.API.DIRECT.GET.{stream}.>"),
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
    pub fn generate() -> io::Result<Self> {
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
pub(crate) fn password() -> io::Result<String> {
    let mut bytes = [0_u8; 16];
    getrandom::fill(&mut bytes).map_err(io::Error::other)?;
    Ok(hex::encode(bytes))
}

/// Gives the streams of a store to the account [`WEIR`] that it has from a time without accounts,
/// when everybody was in the server's own. Only while no server runs on it.
///
/// # Errors
/// When the directory cannot be renamed.
pub(super) fn adopt(store: &Path) -> io::Result<()> {
    let accounts = store.join("jetstream");
    let (before, now) = (accounts.join("$G"), accounts.join(WEIR));
    if before.is_dir() && !now.exists() {
        fs::rename(before, now)?;
    }
    Ok(())
}

/// nats-server's `accounts` block for a log of so many partitions. `password` gives what stands
/// behind `password:`: a quoted password or bcrypt hash, or the name of a variable.
#[must_use]
pub fn accounts(partitions: Partitions, password: impl Fn(User) -> String) -> String {
    let mut text = format!("accounts {{\n  {WEIR} {{\n    jetstream: enabled\n");
    let (inside, outside): (Vec<_>, Vec<_>) =
        User::ALL.into_iter().partition(|it| it.account() == WEIR);
    users(&mut text, &inside, partitions, &password);
    exports(&mut text, &outside, partitions);
    text.push_str("  }\n");
    for user in outside {
        // Infallible: a String takes everything.
        let _ = write!(
            text,
            "  {} {{\n    mappings: {{ \"{API}>\": \"{IMPORTED_API}>\" }}\n",
            user.account()
        );
        users(&mut text, &[user], partitions, &password);
        imports(&mut text, user, partitions);
        text.push_str("  }\n");
    }
    text.push_str("}\n");
    text
}

/// The users of one account. What they may do is said here once more: a second belt beside what
/// their account imports.
fn users(
    text: &mut String,
    users: &[User],
    partitions: Partitions,
    password: impl Fn(User) -> String,
) {
    let quoted = |subjects: Vec<String>| -> String {
        let lines = subjects.iter().map(|it| format!("            \"{it}\"\n"));
        lines.collect()
    };
    text.push_str("    users: [\n");
    for user in users {
        let publish = user.may_publish(partitions);
        let publish = publish.iter().map(|it| user.publishes(it)).collect();
        let mut subscribe = vec![format!("{}.>", user.inbox())];
        subscribe.extend(user.may_hear());
        let _ = write!(
            text,
            "      {{\n        user: {name}\n        password: {password}\n        permissions: {{\n          \
             publish: {{ allow: [\n{publish}          ] }}\n          \
             subscribe: {{ allow: [\n{subscribe}          ] }}\n        }}\n      }}\n",
            name = user.name(),
            password = password(*user),
            publish = quoted(publish),
            subscribe = quoted(subscribe),
        );
    }
    text.push_str("    ]\n");
}

/// What the log's account lets others ask and hear, each subject only to those who must.
fn exports(text: &mut String, users: &[User], partitions: Partitions) {
    let by_subject = |subjects: &dyn Fn(User) -> Vec<String>| {
        let mut accounts: BTreeMap<String, Vec<&str>> = BTreeMap::new();
        for user in users {
            for subject in subjects(*user) {
                accounts.entry(subject).or_default().push(user.account());
            }
        }
        accounts
    };
    text.push_str("    exports: [\n");
    for (subject, accounts) in by_subject(&|user| user.may_publish(partitions)) {
        let often = ANSWERED_OFTEN.iter();
        let response = often.filter(|(prefix, _)| subject.starts_with(prefix));
        let response = response.map(|(_, response)| *response).next().unwrap_or("");
        let accounts = accounts.join(", ");
        let _ = writeln!(
            text,
            "      {{ service: \"{subject}\"{response}, accounts: [{accounts}] }}"
        );
    }
    for (subject, accounts) in by_subject(&User::may_hear) {
        let accounts = accounts.join(", ");
        let _ = writeln!(
            text,
            "      {{ stream: \"{subject}\", accounts: [{accounts}] }}"
        );
    }
    text.push_str("    ]\n");
}

/// The other end of [`exports`].
fn imports(text: &mut String, user: User, partitions: Partitions) {
    text.push_str("    imports: [\n");
    for subject in user.may_publish(partitions) {
        let renamed = user.publishes(&subject);
        let to = if renamed == subject {
            String::new()
        } else {
            format!(", to: \"{renamed}\"")
        };
        let _ = writeln!(
            text,
            "      {{ service: {{ account: {WEIR}, subject: \"{subject}\" }}{to} }}"
        );
    }
    for subject in user.may_hear() {
        let _ = writeln!(
            text,
            "      {{ stream: {{ account: {WEIR}, subject: \"{subject}\" }} }}"
        );
    }
    text.push_str("    ]\n");
}

#[cfg(test)]
mod tests {
    use super::*;
    use contract::Partition;

    fn text(partitions: u32) -> String {
        let partitions = Partitions::new(partitions).unwrap();
        accounts(partitions, |user| {
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
        let allowed = block.lines().filter(|line| !line.contains("mappings:"));
        assert!(
            !allowed
                .into_iter()
                .any(|it| it.contains("STREAM.INFO.*") || it.contains(".API.>"))
        );
    }

    #[test]
    fn only_who_may_destroy_the_log_is_in_its_account_and_nobody_else_makes_consumers() {
        let partitions = Partitions::new(2).unwrap();
        for user in User::ALL {
            let is_outside = ![User::Worker, User::Admin].contains(&user);
            assert_eq!(user.account() != WEIR, is_outside, "{user:?}");
            let subjects = user.may_publish(partitions);
            let dangerous = [
                "CONSUMER.CREATE",
                "PURGE",
                "DELETE",
                "MSG.GET",
                "$JS.FC",
                "$SYS",
            ];
            for subject in subjects.iter().filter(|_| is_outside) {
                assert!(
                    !dangerous.iter().any(|it| subject.contains(it)),
                    "{subject}"
                );
            }
        }
        let block = text(2);
        assert_eq!(block.matches("jetstream: enabled").count(), 1);
        // Nothing is for everybody.
        let exports = block.lines().filter(|line| {
            line.starts_with("      { service: \"") || line.starts_with("      { stream: \"")
        });
        assert!(exports.clone().count() > 10);
        for export in exports {
            assert!(export.contains("accounts: [WEIR_"), "{export}");
        }
    }

    #[test]
    fn passwords_are_not_shown() {
        let passwords = Passwords::generate().unwrap();
        assert!(!format!("{passwords:?}").contains(passwords.of(User::Admin)));
        assert_ne!(passwords.of(User::Admin), passwords.of(User::Gateway));
    }
}
