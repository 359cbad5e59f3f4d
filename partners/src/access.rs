//! How a process reaches the log: where, as whom, and how the way there is encrypted.

use std::fs;
use std::path::{Path, PathBuf};

use async_nats::rustls::pki_types::pem::PemObject as _;
use async_nats::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use async_nats::{ConnectOptions, ServerAddr};

use crate::connection::ConnectError;

/// Where the log is and what to show there.
#[derive(Clone, Default)]
pub struct Access {
    /// Servers of one cluster: `nats://host:port`, or `tls://`, with `user:password@` where the log
    /// asks for it. The first user and password are for all of them, also for those that the
    /// cluster tells of.
    pub urls: Vec<String>,
    /// What the subjects of answers begin with; NATS's usual `_INBOX` without. A role that may only
    /// listen to its own cannot read another's answers.
    pub inbox: Option<String>,
    /// Encryption.
    pub tls: TlsFiles,
}

/// The files that encryption needs, each PEM.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub struct TlsFiles {
    /// Who vouches for the servers; the system's certificates without. With it a connection is
    /// always encrypted, whatever the URLs say.
    pub ca: Option<PathBuf>,
    /// This process's certificate, where the servers ask for one.
    pub certificate: Option<PathBuf>,
    /// The key of that certificate.
    pub key: Option<PathBuf>,
}

/// Access that cannot be used. Never repeats an address: it may hold a password.
#[derive(Debug, thiserror::Error)]
pub enum AccessError {
    /// An address is none.
    #[error(transparent)]
    Address(#[from] ConnectError),
    /// A certificate without its key, or the reverse.
    #[error("a client certificate and its key go together: one of the two files is missing")]
    Half,
    /// Files of encryption, and no URL that asks for it.
    #[error("a client certificate is given, but neither a CA nor a tls:// URL asks for encryption")]
    Plain,
    /// A file cannot be read, or does not hold what it should.
    #[error("{}: {reason}", .path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
}

impl Access {
    /// By URLs alone.
    #[must_use]
    pub fn by(urls: &[String]) -> Self {
        Self {
            urls: urls.to_vec(),
            ..Self::default()
        }
    }

    /// Whether it can be used, as far as that shows without the log.
    ///
    /// # Errors
    /// [`AccessError`].
    pub fn check(&self) -> Result<(), AccessError> {
        self.addresses()?;
        let TlsFiles {
            ca,
            certificate,
            key,
        } = &self.tls;
        if certificate.is_some() != key.is_some() {
            return Err(AccessError::Half);
        }
        if certificate.is_some() && !self.is_encrypted() {
            return Err(AccessError::Plain);
        }
        for path in [ca, certificate].into_iter().flatten() {
            check_certificates(path)?;
        }
        if let Some(path) = key {
            let text = read(path)?;
            PrivateKeyDer::from_pem_slice(&text).map_err(|_| fault(path, "holds no key in PEM"))?;
        }
        Ok(())
    }

    /// The servers, without user and password: async-nats takes those from the options, and shows
    /// addresses in its own logs.
    ///
    /// # Errors
    /// [`ConnectError::Address`].
    pub fn addresses(&self) -> Result<Vec<ServerAddr>, ConnectError> {
        let addresses = self.urls.iter().map(|url| {
            // As it was given, first: without a user, `nats://user@` would pass.
            let _: ServerAddr = url.trim().parse()?;
            without_user(url.trim()).parse()
        });
        addresses
            .collect::<Result<_, _>>()
            .map_err(ConnectError::Address)
    }

    /// Options that carry user and password, inbox and encryption; the rest is the caller's.
    #[must_use]
    pub fn options(&self) -> ConnectOptions {
        let mut options = ConnectOptions::new();
        if let Some((user, password)) = self.urls.iter().find_map(|url| user_of(url.trim())) {
            options = options.user_and_password(user, password);
        }
        if let Some(inbox) = &self.inbox {
            options = options.custom_inbox_prefix(inbox);
        }
        if let Some(ca) = &self.tls.ca {
            options = options.add_root_certificates(ca.clone());
        }
        if let (Some(certificate), Some(key)) = (&self.tls.certificate, &self.tls.key) {
            options = options.add_client_certificate(certificate.clone(), key.clone());
        }
        if self.is_encrypted() {
            // Also towards servers that the cluster tells of, whose addresses say nothing of it.
            options = options.require_tls(true);
        }
        options
    }

    fn is_encrypted(&self) -> bool {
        let mut urls = self.urls.iter();
        self.tls.ca.is_some() || urls.any(|url| url.trim().starts_with("tls://"))
    }
}

impl std::fmt::Debug for Access {
    /// Without addresses, which may hold passwords.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Access")
            .field("urls", &self.urls.len())
            .field("inbox", &self.inbox)
            .field("tls", &self.tls)
            .finish()
    }
}

fn check_certificates(path: &Path) -> Result<(), AccessError> {
    let text = read(path)?;
    let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&text).collect();
    match certificates {
        Ok(found) if !found.is_empty() => Ok(()),
        _ => Err(fault(path, "holds no certificate in PEM")),
    }
}

fn read(path: &Path) -> Result<Vec<u8>, AccessError> {
    fs::read(path).map_err(|error| fault(path, &format!("cannot be read: {error}")))
}

fn fault(path: &Path, reason: &str) -> AccessError {
    AccessError::File {
        path: path.to_owned(),
        reason: reason.to_owned(),
    }
}

/// Scheme, what stands before the `@` of the authority, and the rest of it.
fn split(url: &str) -> (&str, Option<&str>, &str) {
    let (scheme, rest) = url.split_once("://").unwrap_or(("", url));
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    match rest[..end].rfind('@') {
        Some(at) => (scheme, Some(&rest[..at]), &rest[at + 1..]),
        None => (scheme, None, rest),
    }
}

fn without_user(url: &str) -> String {
    match split(url) {
        (_, None, _) => url.to_owned(),
        ("", Some(_), rest) => rest.to_owned(),
        (scheme, Some(_), rest) => format!("{scheme}://{rest}"),
    }
}

fn user_of(url: &str) -> Option<(String, String)> {
    let (user, password) = split(url).1?.split_once(':')?;
    Some((decoded(user), decoded(password)))
}

/// Without percent-encoding (RFC 3986, section 2.1); what is none stays as it is.
fn decoded(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, behind)) = rest.split_first() {
        let byte = match behind.get(..2) {
            Some(digits) if *first == b'%' => {
                let digits = std::str::from_utf8(digits).ok();
                digits.and_then(|digits| u8::from_str_radix(digits, 16).ok())
            }
            _ => None,
        };
        match byte {
            Some(byte) => {
                bytes.push(byte);
                rest = &behind[2..];
            }
            None => {
                bytes.push(*first);
                rest = behind;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn access(urls: &[&str]) -> Access {
        let urls: Vec<String> = urls.iter().map(|url| (*url).to_owned()).collect();
        Access::by(&urls)
    }

    #[test]
    fn user_and_password_leave_the_address() {
        let access = access(&["tls://gate%40way:p%3Aw@h:4222", "nats://h2"]);
        let addresses = access.addresses().expect("two");
        assert!(addresses.iter().all(|it| !it.has_user_pass()));
        assert_eq!((addresses[0].host(), addresses[1].host()), ("h", "h2"));
        assert!(addresses[0].tls_required());
        let known = user_of(&access.urls[0]).expect("a user");
        assert_eq!(known, ("gate@way".to_owned(), "p:w".to_owned()));
        assert_eq!(user_of("nats://h:1"), None);
        assert!(!format!("{access:?}").contains("p%3Aw"));
        assert_eq!(decoded("100%"), "100%");
        assert_eq!(decoded("%zz%41"), "%zzA");
    }

    #[test]
    fn addresses_are_checked_and_never_repeated() {
        for bad in [
            "http://me:secret@h",
            "nats://me:secret@h:x",
            "nats://me:secret@",
        ] {
            let error = access(&[bad]).check().expect_err(bad).to_string();
            assert!(!error.contains("secret"), "{error}");
        }
    }

    #[test]
    fn half_of_a_client_certificate_and_files_that_hold_nothing_are_refused() {
        let here = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml"));
        let with = |url: &str, tls: TlsFiles| Access {
            tls,
            ..access(&[url])
        };
        let half = TlsFiles {
            certificate: Some(here.clone()),
            ..TlsFiles::default()
        };
        let error = with("tls://h", half.clone()).check().expect_err("half");
        assert!(matches!(error, AccessError::Half), "{error}");
        let both = TlsFiles {
            key: Some(here.clone()),
            ..half
        };
        let error = with("nats://h", both).check().expect_err("plain");
        assert!(matches!(error, AccessError::Plain), "{error}");
        for (ca, reason) in [
            (here, "holds no certificate"),
            ("/nowhere".into(), "cannot be read"),
        ] {
            let tls = TlsFiles {
                ca: Some(ca),
                ..TlsFiles::default()
            };
            let error = with("nats://h", tls).check().expect_err(reason).to_string();
            assert!(error.contains(reason), "{error}");
        }
    }
}
