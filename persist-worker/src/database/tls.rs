//! Encryption to PostgreSQL, by rustls with ring.
//!
//! | `sslmode` | |
//! |---|---|
//! | `disable` | never |
//! | `prefer`, the default | if the server offers it; whoever it is |
//! | `require` | always; whoever it is |
//! | `verify-full` | always, and its certificate is of its host and vouched for: by `--database-tls-ca`, else by whom the system trusts |

use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;

use sqlx::postgres::{PgConnectOptions, PgSslMode};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_postgres::Config;
use tokio_postgres::config::SslMode;
use tokio_postgres::tls::{ChannelBinding, MakeTlsConnect, TlsConnect};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::client::danger::{
    HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier,
};
use tokio_rustls::rustls::crypto::{CryptoProvider, ring};
use tokio_rustls::rustls::crypto::{verify_tls12_signature, verify_tls13_signature};
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use tokio_rustls::rustls::{
    ClientConfig, DigitallySignedStruct, Error as TlsError, RootCertStore, SignatureScheme,
};

/// A database's address that cannot be used. Never repeats it: it may hold a password.
#[derive(Debug, thiserror::Error)]
pub enum AddressError {
    /// It is none that both drivers can read.
    #[error("not a PostgreSQL URL, postgres://USER:PASSWORD@HOST:PORT/DATABASE")]
    Url,
    /// No such way of encrypting.
    #[error("sslmode is disable, prefer, require or verify-full")]
    Mode,
    /// Who vouches is given, and not asked.
    #[error("--database-tls-ca needs sslmode=verify-full, or no sslmode, which is then that")]
    Half,
    /// The certificates of those who vouch.
    #[error("{}: {reason}", .path.display())]
    Ca {
        /// The file; empty for the system's certificates.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
}

/// Where the database is, for either driver.
#[derive(Clone)]
pub(crate) struct Address {
    pub(crate) config: Config,
    pub(crate) tls: Tls,
    pub(crate) for_migrations: PgConnectOptions,
}

impl Address {
    pub(crate) fn read(url: &str, ca: Option<&Path>) -> Result<Self, AddressError> {
        if !(url.starts_with("postgres://") || url.starts_with("postgresql://")) {
            return Err(AddressError::Url);
        }
        let (url, mode) = split_mode(url);
        let mode = match (mode.as_deref(), ca) {
            (None | Some("verify-full"), Some(_)) | (Some("verify-full"), None) => {
                PgSslMode::VerifyFull
            }
            (Some("disable" | "prefer" | "require"), Some(_)) => return Err(AddressError::Half),
            (None | Some("prefer"), None) => PgSslMode::Prefer,
            (Some("disable"), None) => PgSslMode::Disable,
            (Some("require"), None) => PgSslMode::Require,
            (Some(_), _) => return Err(AddressError::Mode),
        };
        let mut config: Config = url.parse().map_err(|_| AddressError::Url)?;
        if config.get_hosts().is_empty() && config.get_hostaddrs().is_empty() {
            return Err(AddressError::Url);
        }
        config.ssl_mode(match mode {
            PgSslMode::Disable => SslMode::Disable,
            PgSslMode::Prefer => SslMode::Prefer,
            _ => SslMode::Require,
        });
        let for_migrations: PgConnectOptions = url.parse().map_err(|_| AddressError::Url)?;
        let mut for_migrations = for_migrations.ssl_mode(mode);
        if let Some(ca) = ca {
            for_migrations = for_migrations.ssl_root_cert(ca);
        }
        let tls = match mode {
            PgSslMode::VerifyFull => Tls::verified(ca)?,
            _ => Tls::of_anybody(),
        };
        Ok(Self {
            config,
            tls,
            for_migrations,
        })
    }
}

/// The URL without its `sslmode`, and that: the drivers do not know the same ones.
fn split_mode(url: &str) -> (String, Option<String>) {
    let Some((base, query)) = url.split_once('?') else {
        return (url.to_owned(), None);
    };
    let mut mode = None;
    let mut kept = Vec::new();
    for parameter in query.split('&') {
        match parameter.strip_prefix("sslmode=") {
            Some(value) => mode = Some(value.to_owned()),
            None => kept.push(parameter),
        }
    }
    if kept.is_empty() {
        return (base.to_owned(), mode);
    }
    (format!("{base}?{}", kept.join("&")), mode)
}

/// Makes encrypted connections.
#[derive(Clone)]
pub(crate) struct Tls {
    config: Arc<ClientConfig>,
}

impl Tls {
    fn verified(ca: Option<&Path>) -> Result<Self, AddressError> {
        let mut roots = RootCertStore::empty();
        match ca {
            Some(path) => {
                let fault = |reason: String| AddressError::Ca {
                    path: path.to_owned(),
                    reason,
                };
                let certificates = CertificateDer::pem_file_iter(path);
                for certificate in certificates.map_err(|error| fault(error.to_string()))? {
                    let certificate = certificate.map_err(|error| fault(error.to_string()))?;
                    roots
                        .add(certificate)
                        .map_err(|error| fault(error.to_string()))?;
                }
            }
            None => {
                let system = rustls_native_certs::load_native_certs();
                roots.add_parsable_certificates(system.certs);
            }
        }
        if roots.is_empty() {
            return Err(AddressError::Ca {
                path: ca.unwrap_or(Path::new("the system")).to_owned(),
                reason: "holds no certificate in PEM".to_owned(),
            });
        }
        let config = builder().with_root_certificates(roots);
        Ok(Self {
            config: Arc::new(config.with_no_client_auth()),
        })
    }

    /// Encrypted against whoever listens, not against whoever stands in between: what `require`
    /// means to every PostgreSQL client.
    fn of_anybody() -> Self {
        let config = builder()
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Anybody(ring::default_provider())));
        Self {
            config: Arc::new(config.with_no_client_auth()),
        }
    }
}

fn builder()
-> tokio_rustls::rustls::ConfigBuilder<ClientConfig, tokio_rustls::rustls::WantsVerifier> {
    ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("ring has the versions")
}

/// Accepts every certificate whose key the server has.
#[derive(Debug)]
struct Anybody(CryptoProvider);

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, TlsError> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        let algorithms = &self.0.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signed, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        let algorithms = &self.0.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signed, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

/// One connection's way to encryption.
pub(crate) struct Handshake {
    connector: TlsConnector,
    server: ServerName<'static>,
}

impl<S> MakeTlsConnect<S> for Tls
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    type Stream = Encrypted<S>;
    type TlsConnect = Handshake;
    type Error = tokio_rustls::rustls::pki_types::InvalidDnsNameError;

    fn make_tls_connect(&mut self, host: &str) -> Result<Handshake, Self::Error> {
        Ok(Handshake {
            connector: TlsConnector::from(Arc::clone(&self.config)),
            server: ServerName::try_from(host)?.to_owned(),
        })
    }
}

impl<S> TlsConnect<S> for Handshake
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    type Stream = Encrypted<S>;
    type Error = std::io::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Encrypted<S>, Self::Error>> + Send>>;

    fn connect(self, stream: S) -> Self::Future {
        Box::pin(async move {
            let stream = self.connector.connect(self.server, stream).await?;
            Ok(Encrypted(stream))
        })
    }
}

/// An encrypted connection.
pub(crate) struct Encrypted<S>(TlsStream<S>);

impl<S: AsyncRead + AsyncWrite + Unpin> tokio_postgres::tls::TlsStream for Encrypted<S> {
    fn channel_binding(&self) -> ChannelBinding {
        ChannelBinding::none()
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for Encrypted<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
        buffer: &mut tokio::io::ReadBuf<'_>,
    ) -> std::task::Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_read(context, buffer)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Encrypted<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
        buffer: &[u8],
    ) -> std::task::Poll<std::io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(context, buffer)
    }

    fn poll_flush(
        mut self: Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
    ) -> std::task::Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(context)
    }

    fn poll_shutdown(
        mut self: Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
    ) -> std::task::Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode(url: &str) -> SslMode {
        Address::read(url, None).unwrap().config.get_ssl_mode()
    }

    #[test]
    fn every_mode_is_known_and_others_are_refused() {
        let with = |query: &str| format!("postgres://u:p@h:1/d{query}");
        assert_eq!(mode(&with("")), SslMode::Prefer);
        assert_eq!(mode(&with("?sslmode=prefer")), SslMode::Prefer);
        assert_eq!(mode(&with("?sslmode=disable")), SslMode::Disable);
        let require = with("?connect_timeout=3&sslmode=require");
        assert_eq!(mode(&require), SslMode::Require);
        for bad in ["verify-ca", "allow", ""] {
            let error = Address::read(&with(&format!("?sslmode={bad}")), None).err();
            assert!(matches!(error, Some(AddressError::Mode)), "{bad}");
        }
        let plain = Address::read("host=h user=u", None).err();
        assert!(matches!(plain, Some(AddressError::Url)));
    }

    #[test]
    fn who_vouches_is_asked_or_the_flag_is_refused() {
        let here = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml"));
        let read = |query: &str| {
            let url = format!("postgres://u:secret@h:1/d{query}");
            Address::read(&url, Some(here)).err().unwrap()
        };
        assert!(matches!(read("?sslmode=require"), AddressError::Half));
        let error = read("?sslmode=verify-full").to_string();
        assert!(error.contains("holds no certificate"), "{error}");
        assert!(!error.contains("secret"));
    }
}
