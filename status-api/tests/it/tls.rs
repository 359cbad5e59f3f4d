//! The status API's own TLS: who may connect, and files that change.

use std::sync::Arc;

use rcgen::CertifiedKey;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::pki_types::{PrivateKeyDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

use crate::stage::{LIMIT, Stage, XRIDES};

const NAME: &str = "status.example";

/// A certificate in files, which vouches for itself.
pub(crate) struct Certificate {
    directory: TempDir,
    pair: CertifiedKey<rcgen::KeyPair>,
}

impl Certificate {
    pub(crate) fn new() -> Self {
        let (directory, pair) = (tempfile::tempdir().unwrap(), issue());
        install(&directory, &pair);
        Self { directory, pair }
    }

    pub(crate) fn flags(&self) -> [String; 2] {
        [
            flag(&self.directory, "certificate"),
            flag(&self.directory, "key"),
        ]
    }

    /// A client that trusts it and speaks one protocol, by ALPN.
    pub(crate) fn client(&self, protocol: &str) -> TlsConnector {
        let mut config = config(&self.pair, None);
        config.alpn_protocols = vec![protocol.as_bytes().to_vec()];
        TlsConnector::from(Arc::new(config))
    }
}

fn flag(directory: &TempDir, name: &str) -> String {
    format!("--tls-{name}={}", directory.path().join(name).display())
}

/// Shakes hands over a connection.
pub(crate) async fn encrypt(
    client: &TlsConnector,
    stream: TcpStream,
) -> std::io::Result<TlsStream<TcpStream>> {
    client
        .connect(ServerName::try_from(NAME).unwrap(), stream)
        .await
}

/// A certificate that vouches for itself, and its key.
fn issue() -> CertifiedKey<rcgen::KeyPair> {
    rcgen::generate_simple_self_signed(vec![NAME.to_owned()]).unwrap()
}

/// As those do who renew certificates: by rename.
fn write(directory: &TempDir, name: &str, content: &str) {
    let new = directory.path().join(format!("{name}.new"));
    std::fs::write(&new, content).unwrap();
    std::fs::rename(new, directory.path().join(name)).unwrap();
}

fn install(directory: &TempDir, pair: &CertifiedKey<rcgen::KeyPair>) {
    write(directory, "key", &pair.signing_key.serialize_pem());
    write(directory, "certificate", &pair.cert.pem());
}

/// A client that trusts one server, with or without a certificate of its own.
fn client(
    server: &CertifiedKey<rcgen::KeyPair>,
    own: Option<&CertifiedKey<rcgen::KeyPair>>,
) -> TlsConnector {
    TlsConnector::from(Arc::new(config(server, own)))
}

fn config(
    server: &CertifiedKey<rcgen::KeyPair>,
    own: Option<&CertifiedKey<rcgen::KeyPair>>,
) -> ClientConfig {
    let mut roots = RootCertStore::empty();
    roots.add(server.cert.der().clone()).unwrap();
    let provider = tokio_rustls::rustls::crypto::ring::default_provider();
    let builder = ClientConfig::builder_with_provider(Arc::new(provider))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots);
    match own {
        None => builder.with_no_client_auth(),
        Some(own) => {
            let key = PrivateKeyDer::try_from(own.signing_key.serialize_der()).unwrap();
            let chain = vec![own.cert.der().clone()];
            builder.with_client_auth_cert(chain, key).unwrap()
        }
    }
}

/// How a question for a ride that is not there is answered; empty when there is no connection.
pub(crate) async fn ask(stage: &Stage, client: &TlsConnector) -> String {
    let asked = async {
        let stream = stage.connect("").await;
        let mut stream = encrypt(client, stream).await.ok()?;
        let head = format!(
            "GET /v1/rides/1 HTTP/1.1\r\nhost: x\r\n{}connection: close\r\n\r\n",
            stage.key_header(XRIDES)
        );
        stream.write_all(head.as_bytes()).await.ok()?;
        // What TLS holds back would be sent by nobody else.
        stream.flush().await.ok()?;
        let mut answer = Vec::new();
        // With TLS 1.3 a client learns of its refusal when it reads.
        stream.read_to_end(&mut answer).await.ok()?;
        Some(String::from_utf8(answer).unwrap())
    };
    let asked = tokio::time::timeout(LIMIT, asked).await;
    asked.expect("it ends in time").unwrap_or_default()
}

#[tokio::test]
async fn clients_show_their_certificates_and_new_files_are_taken() {
    let directory = tempfile::tempdir().unwrap();
    let [first, second, partner, stranger] = [(); 4].map(|()| issue());
    install(&directory, &first);
    write(&directory, "client-ca", &partner.cert.pem());
    let flags = ["certificate", "key", "client-ca"].map(|name| flag(&directory, name));
    let stage = Stage::with(&flags.each_ref().map(String::as_str)).await;
    let answer = ask(&stage, &client(&first, Some(&partner))).await;
    assert!(answer.starts_with("HTTP/1.1 404"), "{answer}");
    for own in [None, Some(&stranger)] {
        assert_eq!(ask(&stage, &client(&first, own)).await, "");
    }

    let notes = async || stage.readyz().await.json()["notes"].clone();
    write(&directory, "key", "nonsense");
    stage
        .until("noted", async || notes().await[0]["note"] == "tls")
        .await;
    let answer = ask(&stage, &client(&first, Some(&partner))).await;
    assert!(answer.starts_with("HTTP/1.1 404"), "{answer}");
    install(&directory, &second);
    let renewed = client(&second, Some(&partner));
    stage
        .until("renewed", async || !ask(&stage, &renewed).await.is_empty())
        .await;
    stage
        .until("well again", async || notes().await.is_null())
        .await;
}
