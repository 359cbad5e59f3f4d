//! TLS by rustls, with files that are read again when they change.
//!
//! A pair that cannot be used is said aloud and the one before goes on serving: a half-written
//! file must not take a service down.

use std::hash::{DefaultHasher, Hasher as _};
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use clap::Args;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;
use rustls::{RootCertStore, ServerConfig};
use tokio::sync::watch;

use crate::readiness::Note;
use crate::units::parse_duration;

/// How often the files are looked at: often enough that nobody waits for a new certificate.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Largest file that is read, in bytes: hundreds of certificates fit.
const FILE_BYTES_MAX: u64 = 1024 * 1024;

/// Flags about TLS, for `#[command(flatten)]`.
#[derive(Args, Clone, Debug)]
pub struct TlsArgs {
    /// Certificate chain in PEM, the server's own first; together with --tls-key it turns TLS (1.2 and
    /// 1.3, HTTP/2 and HTTP/1.1 by ALPN) on. Read again when it changes
    #[arg(long, env = "WEIR_TLS_CERTIFICATE", value_name = "FILE")]
    pub tls_certificate: Option<PathBuf>,

    /// The certificate's private key in PEM; read again when it changes
    #[arg(long, env = "WEIR_TLS_KEY", value_name = "FILE")]
    pub tls_key: Option<PathBuf>,

    /// Certificates in PEM of those who sign clients' certificates: then every client must show one.
    /// Read again when it changes
    #[arg(long, env = "WEIR_TLS_CLIENT_CA", value_name = "FILE")]
    pub tls_client_ca: Option<PathBuf>,

    /// How long a TLS handshake may take
    #[arg(long, env = "WEIR_TLS_HANDSHAKE_LIMIT", default_value = "5s", value_parser = parse_duration, value_name = "DURATION")]
    pub tls_handshake_limit: Duration,
}

/// Why TLS cannot be had from its files.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A certificate without its key, or the other way round.
    #[error("--tls-certificate and --tls-key are given together or not at all")]
    Half,
    /// Clients' certificates cannot be asked for without TLS.
    #[error("--tls-client-ca needs --tls-certificate and --tls-key")]
    ClientsWithoutServer,
    /// A handshake needs time.
    #[error("--tls-handshake-limit must be more than 0")]
    NoTime,
    /// A file cannot be read.
    #[error("cannot read {}: {source}", .path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
    /// A file is larger than any certificate.
    #[error("{} is larger than {FILE_BYTES_MAX} bytes", .path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
    },
    /// A file does not hold what it should, in PEM.
    #[error("{} holds no {what} in PEM: {source}", .path.display())]
    Pem {
        /// The file.
        path: PathBuf,
        /// What was looked for.
        what: &'static str,
        /// What is wrong.
        #[source]
        source: rustls::pki_types::pem::Error,
    },
    /// Certificate and key are of no use, or not of each other.
    #[error("the certificate in {} and the key in {} cannot be used: {source}", .certificate.display(), .key.display())]
    Pair {
        /// The certificate's file.
        certificate: PathBuf,
        /// The key's file.
        key: PathBuf,
        /// What is wrong.
        #[source]
        source: rustls::Error,
    },
    /// The certificates in the client CA's file are no authorities.
    #[error("the client CA in {} cannot be used: {reason}", .path.display())]
    ClientCa {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
}

/// What connections are encrypted with: the newest usable content of its files.
#[derive(Debug)]
pub struct Tls {
    files: Files,
    handshake_wait: Duration,
    current: watch::Sender<Arc<ServerConfig>>,
    /// Of the content that was looked at last, usable or not.
    seen: Mutex<u64>,
}

#[derive(Clone, Debug)]
struct Files {
    certificate: PathBuf,
    key: PathBuf,
    client_ca: Option<PathBuf>,
}

/// What the files hold.
struct Content {
    certificate: Vec<u8>,
    key: Vec<u8>,
    client_ca: Option<Vec<u8>>,
}

impl Tls {
    /// Reads the files that the flags name; `None` when they name none: plain HTTP.
    ///
    /// # Errors
    /// [`TlsError`] for half a pair, and for files that cannot be used.
    pub fn load(args: &TlsArgs) -> Result<Option<Self>, TlsError> {
        let files = match (&args.tls_certificate, &args.tls_key) {
            (Some(certificate), Some(key)) => Files {
                certificate: certificate.clone(),
                key: key.clone(),
                client_ca: args.tls_client_ca.clone(),
            },
            (None, None) if args.tls_client_ca.is_some() => {
                return Err(TlsError::ClientsWithoutServer);
            }
            (None, None) => return Ok(None),
            _ => return Err(TlsError::Half),
        };
        if args.tls_handshake_limit.is_zero() {
            return Err(TlsError::NoTime);
        }
        let content = files.read()?;
        let config = files.config(&content)?;
        Ok(Some(Self {
            files,
            handshake_wait: args.tls_handshake_limit,
            seen: Mutex::new(content.hash()),
            current: watch::Sender::new(Arc::new(config)),
        }))
    }

    /// What a connection that comes now is encrypted with. Those that are open keep theirs.
    pub(crate) fn current(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.current.borrow())
    }

    pub(crate) fn handshake_wait(&self) -> Duration {
        self.handshake_wait
    }

    /// Looks at the files every second and takes what is new and usable, for ever. What is not
    /// usable shows in the log, in `weir_tls_reloads_total` and, until it is mended, in `note`.
    pub async fn follow(self: Arc<Self>, note: Note) {
        describe();
        let mut interval = tokio::time::interval(LOOK_EVERY);
        interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            interval.tick().await;
            let tls = Arc::clone(&self);
            let looked = tokio::task::spawn_blocking(move || tls.look()).await;
            match looked.expect("looking at files does not panic") {
                Ok(false) => {}
                Ok(true) => {
                    metrics::counter!(RELOADS, "outcome" => "loaded").increment(1);
                    tracing::info!(certificate = %self.files.certificate.display(), "TLS files read again");
                    note.clear();
                }
                Err(error) => {
                    metrics::counter!(RELOADS, "outcome" => "refused").increment(1);
                    tracing::error!(%error, "new TLS files are not usable: serving with the ones before");
                    note.set(format!("serving with earlier TLS files: {error}"));
                }
            }
        }
    }

    /// Whether there was something new; an error is told once for each content.
    fn look(&self) -> Result<bool, TlsError> {
        let read = self.files.read();
        let hash = match &read {
            Ok(content) => content.hash(),
            Err(error) => hash_of(&error.to_string()),
        };
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if std::mem::replace(&mut *seen, hash) == hash {
            return Ok(false);
        }
        let config = self.files.config(&read?)?;
        self.current.send_replace(Arc::new(config));
        Ok(true)
    }
}

impl Files {
    fn read(&self) -> Result<Content, TlsError> {
        Ok(Content {
            certificate: read(&self.certificate)?,
            key: read(&self.key)?,
            client_ca: self.client_ca.as_deref().map(read).transpose()?,
        })
    }

    fn config(&self, content: &Content) -> Result<ServerConfig, TlsError> {
        let chain = certificates(&self.certificate, &content.certificate)?;
        let key = PrivateKeyDer::from_pem_slice(&content.key).map_err(|source| TlsError::Pem {
            path: self.key.clone(),
            what: "private key",
            source,
        })?;
        let unusable = |source| TlsError::Pair {
            certificate: self.certificate.clone(),
            key: self.key.clone(),
            source,
        };
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
            .map_err(unusable)?;
        let builder = match (&self.client_ca, &content.client_ca) {
            (Some(path), Some(pem)) => {
                builder.with_client_cert_verifier(self.clients(path, pem, provider)?)
            }
            _ => builder.with_no_client_auth(),
        };
        // Refuses a key that is another certificate's.
        let mut config = builder.with_single_cert(chain, key).map_err(unusable)?;
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(config)
    }

    fn clients(
        &self,
        path: &Path,
        pem: &[u8],
        provider: Arc<rustls::crypto::CryptoProvider>,
    ) -> Result<Arc<dyn ClientCertVerifier>, TlsError> {
        let refused = |reason: String| TlsError::ClientCa {
            path: path.to_path_buf(),
            reason,
        };
        let mut roots = RootCertStore::empty();
        for certificate in certificates(path, pem)? {
            roots
                .add(certificate)
                .map_err(|error| refused(error.to_string()))?;
        }
        WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
            .build()
            .map_err(|error| refused(error.to_string()))
    }
}

impl Content {
    fn hash(&self) -> u64 {
        hash_of(&(&self.certificate, &self.key, &self.client_ca))
    }
}

/// Tells changes apart, no more: nothing secret follows from it.
fn hash_of(it: &impl std::hash::Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    it.hash(&mut hasher);
    hasher.finish()
}

fn read(path: &Path) -> Result<Vec<u8>, TlsError> {
    let failed = |source| TlsError::Read {
        path: path.to_path_buf(),
        source,
    };
    let file = std::fs::File::open(path).map_err(failed)?;
    let mut content = Vec::new();
    file.take(FILE_BYTES_MAX + 1)
        .read_to_end(&mut content)
        .map_err(failed)?;
    if content.len() as u64 > FILE_BYTES_MAX {
        return Err(TlsError::TooLarge {
            path: path.to_path_buf(),
        });
    }
    Ok(content)
}

/// At least one.
fn certificates(path: &Path, pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let read: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    let none = || Err(rustls::pki_types::pem::Error::NoItemsFound);
    read.and_then(|chain| if chain.is_empty() { none() } else { Ok(chain) })
        .map_err(|source| TlsError::Pem {
            path: path.to_path_buf(),
            what: "certificate",
            source,
        })
}

const RELOADS: &str = "weir_tls_reloads_total";

fn describe() {
    metrics::describe_counter!(
        RELOADS,
        "Changed TLS files, taken (loaded) or not usable (refused)"
    );
    for outcome in ["loaded", "refused"] {
        metrics::counter!(RELOADS, "outcome" => outcome).increment(0);
    }
}
