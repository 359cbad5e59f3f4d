//! The status API's own TLS: who may connect, and files that change.

use std::sync::Arc;

use rcgen::CertifiedKey;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::{PrivateKeyDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

use crate::stage::{LIMIT, Stage, XRIDES};

const NAME: &str = "status.example";

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
    let mut roots = RootCertStore::empty();
    roots.add(server.cert.der().clone()).unwrap();
    let provider = tokio_rustls::rustls::crypto::ring::default_provider();
    let builder = ClientConfig::builder_with_provider(Arc::new(provider))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots);
    let config = match own {
        None => builder.with_no_client_auth(),
        Some(own) => {
            let key = PrivateKeyDer::try_from(own.signing_key.serialize_der()).unwrap();
            let chain = vec![own.cert.der().clone()];
            builder.with_client_auth_cert(chain, key).unwrap()
        }
    };
    TlsConnector::from(Arc::new(config))
}

/// How a question for a ride that is not there is answered; empty when there is no connection.
async fn ask(stage: &Stage, client: &TlsConnector) -> String {
    let asked = async {
        let stream = stage.connect("").await;
        let name = ServerName::try_from(NAME).unwrap();
        let mut stream = client.connect(name, stream).await.ok()?;
        let head = format!(
            "GET /v1/rides/1 HTTP/1.1\r\nhost: x\r\n{}connection: close\r\n\r\n",
            stage.key_header(XRIDES)
        );
        stream.write_all(head.as_bytes()).await.ok()?;
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
    write(&directory, "ca", &partner.cert.pem());
    let flags = [
        ("certificate", "certificate"),
        ("key", "key"),
        ("client-ca", "ca"),
    ]
    .map(|(flag, name)| format!("--tls-{flag}={}", directory.path().join(name).display()));
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
