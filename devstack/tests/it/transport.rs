//! The services' own TLS, and whom they take for the client, from end to end.

use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt as _, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use serde_json::Value;
use tempfile::TempDir;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

use crate::support::{System, ride, until};

/// An authority, and files that both services read.
struct Files {
    directory: TempDir,
    authority: CertifiedIssuer<'static, KeyPair>,
}

impl Files {
    fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let authority = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let files = Self {
            directory: tempfile::tempdir().unwrap(),
            authority,
        };
        files.write("ca", &files.authority.pem());
        files.install("one.example");
        files
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn write(&self, name: &str, content: &str) {
        let new = self.path(&format!("{name}.new"));
        std::fs::write(&new, content).unwrap();
        std::fs::rename(new, self.path(name)).unwrap();
    }

    fn issue(&self, name: &str) -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        let certificate = params.signed_by(&key, &self.authority).unwrap();
        (certificate.pem(), key.serialize_pem())
    }

    fn install(&self, name: &str) {
        let (certificate, key) = self.issue(name);
        self.write("key", &key);
        self.write("certificate", &certificate);
    }

    fn flags(&self) -> Vec<String> {
        vec![
            format!("--tls-certificate={}", self.path("certificate").display()),
            format!("--tls-key={}", self.path("key").display()),
        ]
    }

    fn client(&self, alpn: &str, has_certificate: bool) -> TlsConnector {
        let mut roots = RootCertStore::empty();
        roots.add(self.authority.der().clone()).unwrap();
        let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots);
        let mut config = if has_certificate {
            let (certificate, key) = self.issue("a-partner");
            let chain = vec![CertificateDer::from_pem_slice(certificate.as_bytes()).unwrap()];
            let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap();
            builder.with_client_auth_cert(chain, key).unwrap()
        } else {
            builder.with_no_client_auth()
        };
        config.alpn_protocols = vec![alpn.as_bytes().to_vec()];
        TlsConnector::from(Arc::new(config))
    }
}

/// One request over a TLS connection of its own; `None` when there is no connection or answer.
async fn send(
    client: &TlsConnector,
    server: &str,
    name: &str,
    request: Request<Full<Bytes>>,
) -> Option<(u16, Value)> {
    let stream = TcpStream::connect(server.strip_prefix("http://")?)
        .await
        .ok()?;
    let name = ServerName::try_from(name.to_owned()).unwrap();
    let stream = client.connect(name, stream).await.ok()?;
    let is_http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
    let io = TokioIo::new(stream);
    let answer = if is_http2 {
        let executor = TokioExecutor::new();
        let (mut sender, connection) = hyper::client::conn::http2::handshake(executor, io)
            .await
            .ok()?;
        tokio::spawn(connection);
        sender.send_request(request).await.ok()?
    } else {
        let (mut sender, connection) = hyper::client::conn::http1::handshake(io).await.ok()?;
        tokio::spawn(connection);
        sender.send_request(request).await.ok()?
    };
    let status = answer.status().as_u16();
    let body = answer.into_body().collect().await.ok()?.to_bytes();
    Some((status, serde_json::from_slice(&body).unwrap_or(Value::Null)))
}

fn request(method: &str, path: &str, key: &str, body: String) -> Request<Full<Bytes>> {
    Request::builder()
        .method(method)
        .uri(format!("https://one.example{path}"))
        .header("host", "one.example")
        .header("authorization", format!("Bearer {key}"))
        .header("x-forwarded-for", "203.0.113.66, 198.51.100.7")
        .body(Full::from(body))
        .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn both_services_speak_tls_and_follow_their_files() {
    let files = Files::new();
    let system = System::start(|config| {
        config.gateway_flags.extend(files.flags());
        let client_ca = files.path("ca");
        config
            .gateway_flags
            .push(format!("--tls-client-ca={}", client_ca.display()));
        config
            .gateway_flags
            .push("--trusted-proxies=127.0.0.0/8".into());
        config.status_flags.extend(files.flags());
        for flags in [&mut config.gateway_flags, &mut config.status_flags] {
            flags.push("--log-level=info,chassis=debug".into());
        }
    })
    .await;
    let endpoints = system.stack.endpoints();
    let (gateway, status) = (&endpoints.gateway[0], &endpoints.status[0]);
    let key = system.key(0);
    let post = |id| request("POST", "/v1/rides", &key, ride(id).to_string());

    // The gateway wants a client's certificate, and speaks HTTP/2 with whoever has one.
    let stranger = files.client("h2", false);
    assert!(
        send(&stranger, gateway, "one.example", post(1))
            .await
            .is_none()
    );
    let partner = files.client("h2", true);
    let accepted = send(&partner, gateway, "one.example", post(1)).await;
    let (code, accepted) = accepted.expect("an answer");
    assert_eq!(code, 202, "{accepted}");
    let id = accepted["tracking_id"].as_str().expect("an id");
    let anyone = files.client("http/1.1", false);
    until("it is persisted", async || {
        let path = format!("/v1/requests/{id}?wait=5s");
        let shown = request("GET", &path, &key, String::new());
        let answer = Box::pin(send(&anyone, status, "one.example", shown)).await;
        answer.is_some_and(|(_, shown)| shown["status"] == "persisted")
    })
    .await;

    // Who asked: as the trusted proxy says, and only a trusted one.
    let nobody = request("POST", "/v1/rides", "weir_dev_nobody", String::new());
    let refused = send(&partner, gateway, "one.example", nobody).await;
    assert_eq!(refused.expect("an answer").0, 401);
    let nobody = request("GET", "/v1/rides/1", "weir_dev_nobody", String::new());
    let refused = send(&anyone, status, "one.example", nobody).await;
    assert_eq!(refused.expect("an answer").0, 401);
    for (log, client) in [
        ("gateway-0.log", "198.51.100.7"),
        ("status-0.log", "127.0.0.1"),
    ] {
        let log = std::fs::read_to_string(system.stack.logs().join(log)).unwrap();
        let line = log
            .lines()
            .find(|line| line.contains("refused client") && line.contains("status=401"));
        let line = line.expect("a line about the refusal");
        assert!(line.contains(&format!("client={client} ")), "{line}");
        assert!(!log.contains("weir_dev_nobody"), "no key is logged");
    }

    // A broken pair is told, and the one before goes on serving.
    let admin = &endpoints.admin.gateway[0];
    let readyz = async || {
        let answer = system
            .send("GET", &format!("{admin}/readyz"), None, "", "")
            .await;
        (answer.status, answer.json)
    };
    files.write("key", "nonsense");
    until("the note is on /readyz", async || {
        let (code, said) = readyz().await;
        assert_eq!(code, 200, "{said}");
        said["notes"][0]["note"] == "tls"
    })
    .await;
    let accepted = send(&partner, gateway, "one.example", post(2)).await;
    assert_eq!(accepted.expect("an answer").0, 202);
    files.install("two.example");
    until("the new certificate is served", async || {
        let accepted = Box::pin(send(&partner, gateway, "two.example", post(3))).await;
        accepted.is_some_and(|(code, _)| code == 202)
    })
    .await;
    until("the note is gone", async || {
        readyz().await.1["notes"].is_null()
    })
    .await;
    // Both changes, or one that was seen half way.
    assert!(system.metric(admin, "weir_tls_reloads_total").await >= 2.0);
}
