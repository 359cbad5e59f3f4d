//! TLS and its files, the bounds of connections, and what hostile clients do to them, in one
//! process and over real sockets.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use chassis::http::{Limits, TrustedProxies, WhenFull, parse_network};
use chassis::readiness::Readiness;
use chassis::shutdown::Shutdown;
use chassis::tls::{Tls, TlsArgs, TlsError};
use http_body_util::{BodyExt as _, Empty};
use hyper::Request;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// Longer than anything here takes on a busy machine.
const LIMIT: Duration = Duration::from_secs(30);

pub(crate) fn limits(metrics_prefix: &'static str) -> Limits {
    Limits {
        connections_max: 64,
        connections_per_address_max: 64,
        trusted_proxies: TrustedProxies::default(),
        when_full: WhenFull::TurnAway,
        headers_timeout: LIMIT,
        write_wait: chassis::write_bound::WRITE_WAIT,
        head_bytes_max: 16 * 1024,
        read_buffer_bytes_max: 64 * 1024,
        cleartext_http2: true,
        refusal: |status, detail| format!("{{\"status\":{status},\"detail\":\"{detail}\"}}"),
        metrics_prefix,
    }
}

/// A certificate authority, and files that a server reads.
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
        files
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// As those do who renew certificates: by rename.
    fn write(&self, name: &str, content: &str) {
        let new = self.path(&format!("{name}.new"));
        std::fs::write(&new, content).unwrap();
        std::fs::rename(new, self.path(name)).unwrap();
    }

    /// Certificate and key for a name, in PEM.
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

    fn args(&self) -> TlsArgs {
        TlsArgs {
            tls_certificate: Some(self.path("certificate")),
            tls_key: Some(self.path("key")),
            tls_client_ca: None,
            tls_handshake_limit: LIMIT,
        }
    }

    fn client(&self, alpn: &[&str], identity: Option<(String, String)>) -> TlsConnector {
        let mut roots = RootCertStore::empty();
        roots.add(self.authority.der().clone()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots);
        let mut config = match identity {
            None => builder.with_no_client_auth(),
            Some((certificate, key)) => {
                let chain = vec![CertificateDer::from_pem_slice(certificate.as_bytes()).unwrap()];
                let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap();
                builder.with_client_auth_cert(chain, key).unwrap()
            }
        };
        config.alpn_protocols = alpn.iter().map(|it| it.as_bytes().to_vec()).collect();
        TlsConnector::from(Arc::new(config))
    }
}

/// A listener that answers `GET /` and echoes `POST /`.
pub(crate) struct Served {
    pub(crate) address: SocketAddr,
    readiness: Readiness,
    shutdown: Shutdown,
    tasks: Vec<tokio::task::AbortHandle>,
}

impl Drop for Served {
    fn drop(&mut self) {
        self.shutdown.begin();
        self.tasks.iter().for_each(tokio::task::AbortHandle::abort);
    }
}

pub(crate) async fn serve(limits: Limits, tls: Option<Tls>) -> Served {
    let large = Bytes::from(vec![b'x'; 1 << 20]);
    let router = axum::Router::new()
        .route(
            "/",
            axum::routing::get(|| async { "hello" }).post(|body: Bytes| async { body }),
        )
        .route("/large", axum::routing::get(move || async { large }));
    let listener = chassis::listen::bind("127.0.0.1:0".parse().unwrap())
        .await
        .unwrap();
    let address = listener.local_addr().unwrap();
    let (readiness, shutdown) = (Readiness::new(), Shutdown::new());
    let tls = tls.map(Arc::new);
    let mut tasks = Vec::new();
    if let Some(tls) = &tls {
        let follow = Arc::clone(tls).follow(readiness.note("tls"));
        tasks.push(tokio::spawn(follow).abort_handle());
    }
    let served = chassis::http::serve(listener, router, limits, tls, shutdown.clone());
    tasks.push(tokio::spawn(served).abort_handle());
    Served {
        address,
        readiness,
        shutdown,
        tasks,
    }
}

async fn eventually(what: &str, mut condition: impl AsyncFnMut() -> bool) {
    let waited = tokio::time::timeout(LIMIT, async {
        while !condition().await {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    assert!(waited.await.is_ok(), "not {what} in time");
}

async fn connect(
    client: &TlsConnector,
    address: SocketAddr,
    name: &str,
) -> std::io::Result<TlsStream<TcpStream>> {
    let stream = TcpStream::connect(address).await?;
    let name = ServerName::try_from(name.to_owned()).unwrap();
    client.connect(name, stream).await
}

/// Sends all of it: TLS may keep what it took while the socket is not writable, and reading does
/// not send that.
async fn ask(stream: &mut TlsStream<TcpStream>, request: &[u8]) -> std::io::Result<()> {
    stream.write_all(request).await?;
    stream.flush().await
}

/// `GET /` over HTTP/1.1.
async fn get(stream: TlsStream<TcpStream>) -> String {
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .unwrap();
    tokio::spawn(connection);
    let request = Request::get("/").header("host", "x");
    let answer = sender
        .send_request(request.body(Empty::<Bytes>::new()).unwrap())
        .await
        .unwrap();
    assert_eq!(answer.status(), 200);
    let body = answer.into_body().collect().await.unwrap().to_bytes();
    String::from_utf8(body.into()).unwrap()
}

#[tokio::test]
async fn both_protocols_by_alpn_and_tls_1_2_at_least() {
    let files = Files::new();
    files.install("one.example");
    let tls = Tls::load(&files.args()).unwrap();
    let served = serve(limits("alpn"), tls).await;
    for alpn in [&["http/1.1"][..], &[]] {
        let client = files.client(alpn, None);
        let stream = connect(&client, served.address, "one.example")
            .await
            .unwrap();
        assert_ne!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
        assert_eq!(get(stream).await, "hello");
    }

    let client = files.client(&["h2", "http/1.1"], None);
    let stream = connect(&client, served.address, "one.example")
        .await
        .unwrap();
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
    let io = TokioIo::new(stream);
    let (mut sender, connection) = hyper::client::conn::http2::handshake(TokioExecutor::new(), io)
        .await
        .unwrap();
    tokio::spawn(connection);
    for path in ["/", "/large"] {
        let request = Request::get(format!("https://one.example{path}"));
        let answer = sender
            .send_request(request.body(Empty::<Bytes>::new()).unwrap())
            .await
            .unwrap();
        assert_eq!(answer.version(), hyper::Version::HTTP_2);
        let body = answer.into_body().collect().await.unwrap().to_bytes();
        assert_eq!(body.len(), if path == "/" { 5 } else { 1 << 20 });
    }

    // A ClientHello that knows nothing newer than TLS 1.1, by hand: an alert and the end.
    let mut old = TcpStream::connect(served.address).await.unwrap();
    let body = [&[3, 2][..], &[7; 32], &[0, 0, 2, 0xc0, 0x13, 1, 0]].concat();
    let hello = [&[1, 0, 0, body.len() as u8][..], &body].concat();
    let record = [&[22, 3, 1, 0, hello.len() as u8][..], &hello].concat();
    old.write_all(&record).await.unwrap();
    let mut answer = Vec::new();
    let read = tokio::time::timeout(LIMIT, old.read_to_end(&mut answer)).await;
    read.expect("it ends in time").expect("by a close");
    assert_eq!(answer.first(), Some(&21), "an alert: {answer:?}");
    // Neither is plain HTTP served on this port.
    let mut plain = TcpStream::connect(served.address).await.unwrap();
    plain
        .write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
        .await
        .unwrap();
    let mut answer = Vec::new();
    let _ = tokio::time::timeout(LIMIT, plain.read_to_end(&mut answer))
        .await
        .expect("it ends in time");
    assert!(!answer.starts_with(b"HTTP"), "{answer:?}");
}

#[tokio::test]
async fn new_files_are_taken_broken_ones_are_not_and_no_connection_is_dropped() {
    let files = Files::new();
    files.install("one.example");
    let served = serve(limits("reload"), Tls::load(&files.args()).unwrap()).await;
    let client = files.client(&[], None);
    let address = served.address;
    let open = connect(&client, address, "one.example").await.unwrap();

    files.install("two.example");
    eventually("the new certificate", async || {
        connect(&client, address, "two.example").await.is_ok()
    })
    .await;
    assert!(connect(&client, address, "one.example").await.is_err());
    assert_eq!(get(open).await, "hello", "with what it began with");
    assert_eq!(served.readiness.notes(), []);

    let (other, _) = files.issue("three.example");
    for broken in ["", "nonsense", &other] {
        files.write("certificate", broken);
        eventually("a note", async || !served.readiness.notes().is_empty()).await;
        assert!(served.readiness.is_ready(), "it serves all the same");
        let stream = connect(&client, address, "two.example").await.unwrap();
        assert_eq!(get(stream).await, "hello");
    }
    std::fs::remove_file(files.path("key")).unwrap();
    eventually("the missing key is named", async || {
        let notes = served.readiness.notes();
        notes.iter().any(|it| it.text.contains("cannot read"))
    })
    .await;
    connect(&client, address, "two.example").await.unwrap();

    files.install("three.example");
    eventually("all is well", async || served.readiness.notes().is_empty()).await;
    connect(&client, address, "three.example").await.unwrap();
}

#[tokio::test]
async fn a_client_needs_a_certificate_where_one_is_asked_for() {
    let files = Files::new();
    files.install("one.example");
    let mut args = files.args();
    args.tls_client_ca = Some(files.path("ca"));
    let served = serve(limits("mutual"), Tls::load(&args).unwrap()).await;
    let known = files.client(&[], Some(files.issue("a-partner")));
    let stream = connect(&known, served.address, "one.example")
        .await
        .unwrap();
    assert_eq!(get(stream).await, "hello");

    let strangers = Files::new();
    for identity in [None, Some(strangers.issue("a-partner"))] {
        let client = files.client(&[], identity);
        // With TLS 1.3 the client learns of the refusal when it reads.
        if let Ok(mut stream) = connect(&client, served.address, "one.example").await {
            let _ = ask(&mut stream, b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").await;
            let mut answer = Vec::new();
            let read = tokio::time::timeout(LIMIT, stream.read_to_end(&mut answer)).await;
            assert!(read.expect("it ends in time").is_err(), "{answer:?}");
            assert!(answer.is_empty(), "{answer:?}");
        }
    }

    // Whom to believe is read again, too.
    files.write("ca", &strangers.authority.pem());
    let stranger = files.client(&[], Some(strangers.issue("a-partner")));
    eventually("the new authority", async || {
        let Ok(mut stream) = connect(&stranger, served.address, "one.example").await else {
            return false;
        };
        let request = b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
        let sent = ask(&mut stream, request).await;
        let mut answer = Vec::new();
        sent.is_ok() && stream.read_to_end(&mut answer).await.is_ok() && !answer.is_empty()
    })
    .await;
}

#[tokio::test]
async fn a_silent_handshake_is_closed() {
    let files = Files::new();
    files.install("one.example");
    let mut args = files.args();
    args.tls_handshake_limit = Duration::from_millis(200);
    let served = serve(limits("silent"), Tls::load(&args).unwrap()).await;
    for beginning in [&b""[..], &[22, 3, 1, 1, 0, 1]] {
        let mut stream = TcpStream::connect(served.address).await.unwrap();
        stream.write_all(beginning).await.unwrap();
        let mut answer = Vec::new();
        let read = tokio::time::timeout(LIMIT, stream.read_to_end(&mut answer)).await;
        read.expect("it is closed in time").expect("by a close");
    }
    let client = files.client(&[], None);
    let stream = connect(&client, served.address, "one.example")
        .await
        .unwrap();
    assert_eq!(get(stream).await, "hello");
}

#[test]
fn half_a_pair_and_files_that_do_not_fit_are_refused_at_start() {
    let files = Files::new();
    files.install("one.example");
    let whole = files.args();
    let half = |change: fn(&mut TlsArgs)| {
        let mut args = whole.clone();
        change(&mut args);
        Tls::load(&args)
    };
    assert!(half(|_| {}).unwrap().is_some());
    assert!(matches!(half(|it| it.tls_key = None), Err(TlsError::Half)));
    let clients = half(|it| {
        it.tls_client_ca = it.tls_key.take();
        it.tls_certificate = None;
    });
    assert!(matches!(clients, Err(TlsError::ClientsWithoutServer)));
    let swapped = half(|it| std::mem::swap(&mut it.tls_certificate, &mut it.tls_key));
    assert!(matches!(swapped, Err(TlsError::Pem { .. })));
    files.write("key", &files.issue("one.example").1);
    assert!(matches!(half(|_| {}), Err(TlsError::Pair { .. })));
    let error = half(|it| it.tls_key = Some("/nowhere/key".into())).unwrap_err();
    assert!(error.to_string().contains("/nowhere/key"), "{error}");
}

/// Everything that comes until the connection is closed.
pub(crate) async fn exchange(address: SocketAddr, request: &str) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    let read = tokio::time::timeout(LIMIT, stream.read_to_end(&mut answer)).await;
    read.expect("it is closed in time").expect("by a close");
    String::from_utf8(answer).unwrap()
}

#[tokio::test]
async fn hyper_s_own_refusals_are_problems_in_their_turn() {
    let served = serve(limits("refusals"), None).await;
    let good = "POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\n\r\nfirst";
    let many = (0..200).map(|n| format!("h{n}: x\r\n")).collect::<String>();
    for (bad, status) in [
        (
            "GET / HTTP/1.1\r\nhost: x\r\nbad name: x\r\n\r\n".to_owned(),
            400,
        ),
        ("G\0T / HTTP/1.1\r\n\r\n".to_owned(), 400),
        ("GET / HTTP/3.7\r\n\r\n".to_owned(), 400),
        ("GET / HTTP/1.1\r\nhost: x\n\r\n".to_owned(), 400),
        (format!("GET / HTTP/1.1\r\n{many}\r\n"), 431),
        (format!("GET /{} HTTP/1.1\r\n\r\n", "x".repeat(9_000)), 414),
        (
            format!("GET / HTTP/1.1\r\na: {}\r\n\r\n", "x".repeat(20_000)),
            431,
        ),
    ] {
        // What follows is never a request.
        let answers = exchange(served.address, &format!("{good}{bad}{good}")).await;
        let (first, refusal) = answers.split_once("first").expect("the first is answered");
        assert!(first.starts_with("HTTP/1.1 200"), "{first}");
        assert!(
            refusal.starts_with(&format!("HTTP/1.1 {status} ")),
            "{bad:.60}: {refusal}"
        );
        assert!(
            refusal.contains("content-type: application/problem+json\r\n"),
            "{refusal}"
        );
        assert!(
            refusal.contains(&format!("{{\"status\":{status},")),
            "{refusal}"
        );
        assert_eq!(
            refusal.matches("HTTP/1.1").count(),
            1 + usize::from(refusal.contains("not HTTP/1.1")),
            "{refusal}"
        );
    }
}

#[tokio::test]
async fn an_address_has_its_bound_and_others_are_served() {
    let bounded = Limits {
        connections_per_address_max: 2,
        trusted_proxies: TrustedProxies::new(&[parse_network("127.0.0.9").unwrap()]),
        ..limits("address")
    };
    let served = serve(bounded, None).await;
    let from = async |source: &str| {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind(format!("{source}:0").parse().unwrap()).unwrap();
        socket.connect(served.address).await.unwrap()
    };
    let ask = async |mut stream: TcpStream| {
        // Whoever is turned away may have been closed on already.
        let _ = stream
            .write_all(b"GET / HTTP/1.1\r\nhost: x\r\nx-forwarded-for: 127.0.0.5\r\nconnection: close\r\n\r\n")
            .await;
        let mut answer = String::new();
        let _ = stream.read_to_string(&mut answer).await;
        answer
    };
    let held = [from("127.0.0.2").await, from("127.0.0.2").await];
    let refused = ask(from("127.0.0.2").await).await;
    assert!(refused.starts_with("HTTP/1.1 503"), "{refused}");
    assert!(refused.contains("\"status\":503"), "{refused}");
    assert!(
        ask(from("127.0.0.3").await)
            .await
            .starts_with("HTTP/1.1 200")
    );
    let shared = [from("127.0.0.9").await, from("127.0.0.9").await];
    assert!(
        ask(from("127.0.0.9").await)
            .await
            .starts_with("HTTP/1.1 200"),
        "a proxy is exempt"
    );
    drop((held, shared));
    eventually("places are given back", async || {
        ask(from("127.0.0.2").await)
            .await
            .starts_with("HTTP/1.1 200")
    })
    .await;
}
