//! `weir partner` towards a log and a database that speak to nobody in the clear.
//!
//! The PostgreSQL that tests run is built without TLS: a front before it does what PostgreSQL itself
//! does, and lets nobody in who does not ask for encryption (as in devstack's `encryption`).

use std::path::PathBuf;
use std::process::Output;
use std::sync::Arc;

use devstack::fixture::{Fixture, NatsFixture, PostgresFixture};
use devstack::nats::{Door, ServerTls};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_util::task::AbortOnDropHandle;

use super::installation::{LIMIT, partner_with, text};

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
        std::fs::write(files.path("ca"), ca.pem()).unwrap();
        std::fs::write(files.path("other"), other.pem()).unwrap();
        for (name, subject) in [("server", "127.0.0.1"), ("client", "client.test")] {
            let key = KeyPair::generate().unwrap();
            let params = CertificateParams::new(vec![subject.to_owned()]).unwrap();
            let certificate = params.signed_by(&key, &ca).unwrap();
            std::fs::write(files.path(name), certificate.pem()).unwrap();
            let key_file = files.path(&format!("{name}-key"));
            std::fs::write(key_file, key.serialize_pem()).unwrap();
        }
        files
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn text(&self, name: &str) -> String {
        self.path(name).display().to_string()
    }
}

/// A log that asks for a certificate, a database behind a front, and an installation in both.
struct Encrypted {
    files: Files,
    nats: NatsFixture,
    postgres: PostgresFixture,
    database_url: String,
    _front: AbortOnDropHandle<()>,
}

impl Encrypted {
    async fn start() -> Self {
        let files = Files::new();
        let door = Door {
            users: None,
            tls: Some(ServerTls {
                certificate: files.path("server"),
                key: files.path("server-key"),
                client_ca: Some(files.path("ca")),
            }),
        };
        let (nats, postgres) = (
            Fixture::nats_behind(1, &door).await,
            Fixture::postgres().await,
        );
        let plain = postgres.database_url();
        let behind = plain.split('@').nth(1).unwrap().split('/').next().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let front = listener.local_addr().unwrap().to_string();
        let serving = serve(listener, behind.to_owned(), acceptor(&files));
        let this = Self {
            database_url: plain.replace(behind, &front),
            _front: AbortOnDropHandle::new(tokio::spawn(serving)),
            files,
            nats,
            postgres,
        };
        this.migrate().await;
        this
    }

    /// What the services are given, and `weir partner` too.
    fn environment(&self) -> Vec<(&'static str, String)> {
        vec![
            ("WEIR_NATS_URL", self.nats.url()),
            ("WEIR_NATS_TLS_CA", self.files.text("ca")),
            ("WEIR_NATS_TLS_CERT", self.files.text("client")),
            ("WEIR_NATS_TLS_KEY", self.files.text("client-key")),
            ("WEIR_DATABASE_URL", self.database_url.clone()),
            ("WEIR_DATABASE_TLS_CA", self.files.text("ca")),
        ]
    }

    async fn migrate(&self) {
        let mut command = tokio::process::Command::new(Fixture::binaries().await.worker);
        command.arg("migrate").envs(self.environment());
        command.kill_on_drop(true);
        let ended = tokio::time::timeout(LIMIT, command.output()).await;
        let ended = ended.expect("it ends").unwrap();
        assert!(ended.status.success(), "{}", text(&ended.stderr));
    }

    /// With another value of one variable, or none.
    async fn partner_but(&self, other: Option<(&str, &str)>, words: &[&str]) -> Output {
        let environment = self.environment();
        let mut environment: Vec<(&str, &str)> = environment
            .iter()
            .map(|(name, value)| (*name, value.as_str()))
            .filter(|(name, _)| other.is_none_or(|other| other.0 != *name))
            .collect();
        environment.extend(other.filter(|(_, value)| !value.is_empty()));
        partner_with(self.files.0.path(), &environment, words).await
    }

    async fn done(&self, words: &[&str]) -> String {
        let output = self.partner_but(None, words).await;
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(0), "{words:?}: {said}");
        text(&output.stdout)
    }
}

fn acceptor(files: &Files) -> TlsAcceptor {
    let certificate = CertificateDer::from_pem_file(files.path("server")).unwrap();
    let key = PrivateKeyDer::from_pem_file(files.path("server-key")).unwrap();
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate], key)
        .unwrap();
    TlsAcceptor::from(Arc::new(config))
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

/// A ride of user 2's, as a worker leaves it.
const RIDE: &str = "insert into rides (partner_id, id, user_id, vehicle_model_id, travel_type_id, \
    from_date, online_booking, mobile_site_booking, booking_created, car_cancellation, tracking_id, \
    content_hash, created_by, created_hash, version, created_at, updated_at) \
    values (7, 1, 2, 12, 2, now(), false, false, now(), false, gen_random_uuid(), 0, \
    gen_random_uuid(), 0, 1, now(), now())";

#[tokio::test(flavor = "multi_thread")]
async fn partners_are_kept_and_people_erased_by_encrypted_ways() {
    let weir = Encrypted::start().await;
    assert!(
        weir.done(&["add", "demo", "--id", "7"])
            .await
            .contains("weir_live_")
    );
    assert!(weir.done(&["list"]).await.contains("demo"));
    let plain = weir.postgres.database_url();
    let (client, connection) = tokio_postgres::connect(&plain, tokio_postgres::NoTls)
        .await
        .unwrap();
    tokio::spawn(connection);
    client.batch_execute(RIDE).await.unwrap();
    let erase = ["erase", "demo", "--user-id", "2", "--json"];
    let tried = weir.done(&[&erase[..], &["--dry-run"]].concat()).await;
    assert!(tried.contains(r#""rides":1"#), "{tried}");
    // By flags as well: whoever vouches for the server, encrypted is enough.
    let ca = weir.files.text("ca");
    let required = format!("{}?sslmode=require", weir.database_url);
    let flags = [
        &erase[..],
        &["--nats-tls-ca", &ca, "--database-url", &required],
    ]
    .concat();
    let nobody = Some(("WEIR_DATABASE_TLS_CA", ""));
    let erased = weir.partner_but(nobody, &flags).await;
    assert_eq!(erased.status.code(), Some(0), "{}", text(&erased.stderr));
    assert!(text(&erased.stdout).contains(r#""rides":1"#));
    let left = client.query_one("select count(*) from rides", &[]).await;
    assert_eq!(left.unwrap().get::<_, i64>(0), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn servers_that_are_not_to_be_trusted_are_not_spoken_to() {
    let weir = Encrypted::start().await;
    weir.done(&["add", "demo", "--id", "7"]).await;
    let other = weir.files.text("other");
    let nothing = weir.files.text("server-key");
    let by_name = weir.database_url.replace("127.0.0.1", "localhost");
    let disabled = format!("{}?sslmode=disable", weir.database_url);
    for (changed, code, reason) in [
        (("WEIR_NATS_TLS_CA", &*other), 1, "certificate"),
        (("WEIR_NATS_TLS_CERT", ""), 64, "go together"),
        (("WEIR_NATS_TLS_CA", &*nothing), 64, "holds no certificate"),
        (("WEIR_DATABASE_TLS_CA", &*other), 1, "Look at sslmode"),
        (
            ("WEIR_DATABASE_TLS_CA", &*nothing),
            64,
            "holds no certificate",
        ),
        (("WEIR_DATABASE_URL", &*by_name), 1, "Look at sslmode"),
        (
            ("WEIR_DATABASE_URL", &*disabled),
            64,
            "--database-tls-ca needs",
        ),
    ] {
        let erase = ["erase", "demo", "--user-id", "2"];
        let output = weir.partner_but(Some(changed), &erase).await;
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{changed:?}: {said}");
        assert!(said.contains(reason), "{changed:?}: {said}");
    }
    // Without encryption the front, like a server with `hostssl` alone, lets nobody in.
    let environment = weir.environment();
    let mut environment: Vec<(&str, &str)> = environment
        .iter()
        .map(|(name, value)| (*name, value.as_str()))
        .filter(|(name, _)| !name.starts_with("WEIR_DATABASE"))
        .collect();
    environment.push(("WEIR_DATABASE_URL", &disabled));
    let erase = ["erase", "demo", "--user-id", "2"];
    let output = partner_with(weir.files.0.path(), &environment, &erase).await;
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("cannot connect to the database"), "{said}");
}
