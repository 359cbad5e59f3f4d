//! Encryption towards log and database, with real servers and certificates.
//!
//! The PostgreSQL that these tests run is built without TLS. A front before it does what
//! PostgreSQL itself does: it answers an SSLRequest, makes the handshake, and passes on what is said
//! inside. Whoever does not ask for encryption is not let in.
//!
//! `migrate` uses every kind of connection that there is: async-nats, tokio-postgres, sqlx. What it
//! says of a server that is not to be trusted is what the services say.

use std::path::{Path, PathBuf};
use std::process::Output;
use std::sync::Arc;
use std::time::Duration;

use devstack::eventually::eventually;
use devstack::fixture::{Fixture, NatsFixture, PostgresFixture};
use devstack::http;
use devstack::nats::{Door, ServerTls};
use devstack::process::{Launch, Process};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use serde_json::Value;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_util::task::AbortOnDropHandle;

use crate::support::PATIENCE;

/// Certificates, as files: `ca` vouches for `server` (127.0.0.1 alone) and `client`, `other` for
/// nothing.
struct Files(TempDir);

impl Files {
    fn new() -> Self {
        let files = Self(tempfile::tempdir().unwrap());
        let [ca, other] = [(); 2].map(|()| {
            let mut params = CertificateParams::new(Vec::new()).unwrap();
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
        });
        files.write("ca", &ca.pem());
        files.write("other", &other.pem());
        for (name, subject) in [("server", "127.0.0.1"), ("client", "client.test")] {
            let key = KeyPair::generate().unwrap();
            let params = CertificateParams::new(vec![subject.to_owned()]).unwrap();
            let certificate = params.signed_by(&key, &ca).unwrap();
            files.write(name, &certificate.pem());
            files.write(&format!("{name}-key"), &key.serialize_pem());
        }
        files
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn write(&self, name: &str, content: &str) {
        std::fs::write(self.path(name), content).unwrap();
    }

    fn flag(&self, flag: &str, name: &str) -> String {
        format!("{flag}={}", self.path(name).display())
    }

    fn server(&self, client_ca: Option<&str>) -> Option<ServerTls> {
        Some(ServerTls {
            certificate: self.path("server"),
            key: self.path("server-key"),
            client_ca: client_ca.map(|name| self.path(name)),
        })
    }

    async fn nats(&self, client_ca: Option<&str>) -> NatsFixture {
        let door = Door {
            users: None,
            tls: self.server(client_ca),
        };
        Fixture::nats_behind(1, &door).await
    }

    async fn postgres(&self) -> Encrypted {
        let postgres = Fixture::postgres().await;
        let certificate = CertificateDer::from_pem_file(self.path("server")).unwrap();
        let key = PrivateKeyDer::from_pem_file(self.path("server-key")).unwrap();
        let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate], key)
            .unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let front = listener.local_addr().unwrap().to_string();
        let plain = postgres.database_url();
        let behind = plain.split('@').nth(1).unwrap().split('/').next().unwrap();
        let url = plain.replace(behind, &front);
        let serving = serve(
            listener,
            behind.to_owned(),
            TlsAcceptor::from(Arc::new(config)),
        );
        Encrypted {
            url,
            _front: AbortOnDropHandle::new(tokio::spawn(serving)),
            _postgres: postgres,
        }
    }

    /// `persist-worker migrate`, giving up after two seconds.
    async fn migrate(&self, nats_url: &str, database_url: &str, flags: &[String]) -> Output {
        let mut command = tokio::process::Command::new(Fixture::binaries().await.worker);
        command
            .args(["migrate", "--wait=2s", "--nats-url", nats_url])
            .args(["--database-url", database_url])
            .args(flags)
            .kill_on_drop(true);
        let ended = tokio::time::timeout(PATIENCE, command.output());
        ended.await.expect("it ends").unwrap()
    }

    /// What `migrate` says when it must not get through.
    async fn refusal(&self, nats_url: &str, database_url: &str, flags: &[String]) -> String {
        let output = self.migrate(nats_url, database_url, flags).await;
        let said = format!(
            "{}{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
        assert!(!output.status.success(), "{said}");
        said
    }
}

/// PostgreSQL behind a front that lets nobody in without encryption.
struct Encrypted {
    url: String,
    _front: AbortOnDropHandle<()>,
    _postgres: PostgresFixture,
}

async fn serve(listener: TcpListener, behind: String, tls: TlsAcceptor) {
    loop {
        let (client, _) = listener.accept().await.unwrap();
        let (behind, tls) = (behind.clone(), tls.clone());
        tokio::spawn(async move {
            // Whatever fails ends the connection, which is all that its client is to see.
            let _ = pass_on(client, &behind, &tls).await;
        });
    }
}

async fn pass_on(mut client: TcpStream, behind: &str, tls: &TlsAcceptor) -> std::io::Result<()> {
    /// Length and code of an SSLRequest.
    const SSL_REQUEST: [u8; 8] = [0, 0, 0, 8, 0x04, 0xd2, 0x16, 0x2f];
    let mut request = [0; 8];
    client.read_exact(&mut request).await?;
    if request != SSL_REQUEST {
        return Ok(());
    }
    client.write_all(b"S").await?;
    let mut client = tls.accept(client).await?;
    let mut server = TcpStream::connect(behind).await?;
    copy_bidirectional(&mut client, &mut server).await?;
    Ok(())
}

#[tokio::test]
async fn the_services_reach_encrypted_servers() {
    let files = Files::new();
    let nats = files.nats(Some("ca")).await;
    let postgres = files.postgres().await;
    let database_url = postgres.url.clone();
    let log = [
        files.flag("--nats-tls-ca", "ca"),
        files.flag("--nats-tls-cert", "client"),
        files.flag("--nats-tls-key", "client-key"),
    ];
    let both = [&log[..], &[files.flag("--database-tls-ca", "ca")]].concat();
    let migrated = files.migrate(&nats.url(), &database_url, &both).await;
    let said = String::from_utf8_lossy(&migrated.stderr);
    assert!(migrated.status.success(), "{said}");

    files.write("keys", &format!("test {}\n", "00".repeat(32)));
    let binaries = Fixture::binaries().await;
    let keys = files.flag("--tracking-keys", "keys");
    let listen = "--listen=127.0.0.1:0".to_owned();
    let database = format!("--database-url={database_url}");
    let worker = [&["run".to_owned(), database.clone()], &both[..]].concat();
    let gateway = [&[listen.clone(), keys.clone()], &log[..]].concat();
    let status = [&[listen, keys, database], &both[..]].concat();
    let mut running = Vec::new();
    for (program, flags) in [
        (&binaries.worker, worker),
        (&binaries.gateway, gateway),
        (&binaries.status, status),
    ] {
        running.push(files.until_ready(program, &flags, &nats.url()).await);
    }
}

impl Files {
    /// Starts a service and waits until it is ready.
    async fn until_ready(&self, program: &Path, flags: &[String], nats_url: &str) -> Process {
        let name = program.file_name().unwrap().to_str().unwrap();
        let log = self.path(&format!("{name}.log"));
        let mut launch = Launch::new(name, program, &log);
        launch.captures_first_line = true;
        launch.command.args(flags);
        launch.command.arg("--admin-listen=127.0.0.1:0");
        launch.command.args(["--nats-url", nats_url]);
        let process = launch.spawn().unwrap();
        let line = tokio::time::timeout(PATIENCE, process.first_line()).await;
        let shown = || std::fs::read_to_string(&log).unwrap_or_default();
        let line = line.expect("it announces in time");
        let line: Value = serde_json::from_str(&line.unwrap_or_else(|| panic!("{}", shown())))
            .unwrap_or_else(|error| panic!("{error}"));
        let admin = line["admin"].as_str().unwrap().rsplit(':').next().unwrap();
        let port: u16 = admin.parse().unwrap();
        let ready = eventually(PATIENCE, || async {
            let answer = http::get(port, "/readyz").await;
            answer.is_some_and(|it| it.status == 200).then_some(())
        });
        assert!(ready.await.is_some(), "{name} is not ready:\n{}", shown());
        process
    }
}

#[tokio::test]
async fn a_log_that_is_not_to_be_trusted_is_not_spoken_to() {
    let files = Files::new();
    let (nats, strict) = (files.nats(None).await, files.nats(Some("ca")).await);
    let plain = Fixture::nats().await;
    let postgres = Fixture::postgres().await;
    let database = postgres.database_url();
    let ca = files.flag("--nats-tls-ca", "ca");
    let by_name = nats.url().replace("127.0.0.1", "localhost");
    let tls_to_plain = plain.url().replace("nats://", "tls://");
    for (what, url, flag, reason) in [
        (
            "another CA",
            nats.url(),
            files.flag("--nats-tls-ca", "other"),
            "certificate",
        ),
        ("another name", by_name, ca.clone(), "certificate"),
        ("no client certificate", strict.url(), ca.clone(), "log"),
        ("a plain server", tls_to_plain, ca.clone(), "log"),
        (
            "a plain server, by the flag alone",
            plain.url(),
            ca.clone(),
            "log",
        ),
    ] {
        let said = files.refusal(&url, &database, &[flag]).await;
        assert!(
            said.contains("the log did not answer") && said.contains(reason),
            "{what}: {said}"
        );
    }
    let trusted = files.migrate(&nats.url(), &database, &[ca]).await;
    let said = String::from_utf8_lossy(&trusted.stderr);
    assert!(trusted.status.success(), "{said}");
}

#[tokio::test]
async fn a_database_that_is_not_to_be_trusted_is_not_spoken_to() {
    let files = Files::new();
    let nats = Fixture::nats().await;
    let (postgres, unencrypted) = (files.postgres().await, Fixture::postgres().await);
    let (url, plain) = (postgres.url.clone(), unencrypted.database_url());
    let ca = vec![files.flag("--database-tls-ca", "ca")];
    let other = vec![files.flag("--database-tls-ca", "other")];
    let by_name = url.replace("127.0.0.1", "localhost");
    let required = |url: &str| format!("{url}?sslmode=require");
    let verified = |url: &str| format!("{url}?sslmode=verify-full");
    for (what, url, flags, reason) in [
        ("another CA", url.clone(), &other, "certificate"),
        ("another name", by_name, &ca, "certificate"),
        (
            "nobody the system trusts",
            verified(&url),
            &vec![],
            "certificate",
        ),
        (
            "a plain server",
            required(&plain),
            &vec![],
            "does not support TLS",
        ),
        (
            "a plain server, with a CA",
            plain.clone(),
            &ca,
            "does not support TLS",
        ),
    ] {
        let said = files.refusal(&nats.url(), &url, flags).await;
        assert!(said.contains(reason), "{what}: {said}");
    }
    let disabled = |url: &str| format!("{url}?sslmode=disable");
    let said = files.refusal(&nats.url(), &disabled(&url), &[]).await;
    assert!(said.contains("the database did not answer"), "{said}");
    // One installation: whose database it is, the log remembers.
    for (url, flags) in [
        (url.clone(), &vec![]),
        (required(&url), &vec![]),
        (verified(&url), &ca),
    ] {
        let migrated = files.migrate(&nats.url(), &url, flags).await;
        let said = String::from_utf8_lossy(&migrated.stderr);
        assert!(migrated.status.success(), "{said}");
    }
}

/// The status API's way to the database is sqlx's alone.
#[tokio::test]
async fn a_status_api_says_why_it_does_not_trust_its_database() {
    let files = Files::new();
    let postgres = files.postgres().await;
    files.write("keys", &format!("test {}\n", "00".repeat(32)));
    let partner = partners::toml_entry(1, "xrides", &[partners::sha256_hex("key")]);
    files.write("partners", &partner);
    let log = files.path("log");
    let mut launch = Launch::new("status-api", &Fixture::binaries().await.status, &log);
    launch.captures_first_line = true;
    launch.command.args([
        "--listen=127.0.0.1:0".to_owned(),
        "--admin-listen=127.0.0.1:0".to_owned(),
        files.flag("--tracking-keys", "keys"),
        files.flag("--partners", "partners"),
        format!("--database-url={}", postgres.url),
        files.flag("--database-tls-ca", "other"),
    ]);
    let process = launch.spawn().unwrap();
    let line = tokio::time::timeout(PATIENCE, process.first_line()).await;
    let line = line.expect("in time").unwrap_or_default();
    let line: Value = serde_json::from_str(&line)
        .unwrap_or_else(|_| panic!("{}", std::fs::read_to_string(&log).unwrap()));
    let admin = line["admin"].as_str().unwrap().rsplit(':').next().unwrap();
    let port: u16 = admin.parse().unwrap();
    let told = eventually(Duration::from_secs(30), || async {
        let answer = http::get(port, "/readyz").await?;
        (answer.status == 503 && answer.body.contains("certificate")).then_some(())
    });
    assert!(
        told.await.is_some(),
        "{}",
        std::fs::read_to_string(&log).unwrap()
    );
}
