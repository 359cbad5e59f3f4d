//! TLS at the gateway's door.

use std::sync::Arc;

use rcgen::CertifiedKey;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, RootCertStore};
use tempfile::TempDir;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

const NAME: &str = "gateway.example";

/// A certificate in files, and clients that trust it.
pub(crate) struct Certificate {
    directory: TempDir,
    roots: RootCertStore,
}

impl Certificate {
    pub(crate) fn new() -> Self {
        let CertifiedKey { cert, signing_key } =
            rcgen::generate_simple_self_signed(vec![NAME.to_owned()]).unwrap();
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("certificate"), cert.pem()).unwrap();
        std::fs::write(directory.path().join("key"), signing_key.serialize_pem()).unwrap();
        let mut roots = RootCertStore::empty();
        roots.add(cert.der().clone()).unwrap();
        Self { directory, roots }
    }

    pub(crate) fn flags(&self) -> [String; 2] {
        ["certificate", "key"].map(|it| {
            let path = self.directory.path().join(it);
            format!("--tls-{it}={}", path.display())
        })
    }

    /// A client that speaks one protocol, by ALPN.
    pub(crate) fn client(&self, protocol: &str) -> Client {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(self.roots.clone())
            .with_no_client_auth();
        config.alpn_protocols = vec![protocol.as_bytes().to_vec()];
        Client {
            connector: TlsConnector::from(Arc::new(config)),
            protocol: protocol.as_bytes().to_vec(),
        }
    }
}

pub(crate) struct Client {
    connector: TlsConnector,
    protocol: Vec<u8>,
}

impl Client {
    pub(crate) async fn encrypt(&self, stream: TcpStream) -> TlsStream<TcpStream> {
        let name = ServerName::try_from(NAME).unwrap();
        let stream = self.connector.connect(name, stream).await.unwrap();
        assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&*self.protocol));
        stream
    }
}
