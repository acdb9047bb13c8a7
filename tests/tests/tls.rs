//! Services outside that are spoken to by TLS: whom the host trusts, and what it says of those that it does not.

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use serde_json::{Value, json};
use tokio_rustls::rustls::{
    ServerConfig,
    pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer},
};
use wharf_tests::{App, Host, Origin, eventually, outside};

/// A certificate authority that nobody in the world knows.
struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::new([]).expect("no names are no wrong names");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().expect("a key")).expect("it can sign itself"))
    }

    /// What a host must have to trust it.
    fn pem(&self) -> String {
        self.0.pem()
    }

    /// A server that shows a certificate for this name.
    async fn server(&self, name: &str) -> Origin {
        let key = KeyPair::generate().expect("a key");
        let params = CertificateParams::new([name.to_owned()]).expect("it can be in a certificate");
        let certificate = params.signed_by(&key, &self.0).expect("it can be signed");
        let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let config = ServerConfig::builder().with_no_client_auth();
        let config = config.with_single_cert(vec![certificate.der().clone()], key).expect("they belong together");
        Origin::start_tls(config).await
    }
}

/// `payment` by this table, behind the gateway.
fn manifest(payment: &str) -> String {
    outside(payment) + "[policy.defaults]\nretry = { backoff = \"1ms\" }\nbreaker = false\n"
}

fn listed(origin: &Origin, more: &str) -> String {
    manifest(&format!("endpoints = [\"https://{}\"]\n{more}", origin.address()))
}

/// `payment` by the name `localhost`.
fn resolved(origin: &Origin, more: &str) -> String {
    manifest(&format!("dns = \"https://localhost:{}\"\n{more}", origin.address().port()))
}

const CA: &str = "ca = \"ca.pem\"";

/// That nothing was sent because the certificate is no good, for this reason.
async fn assert_refused(host: &Host, origin: &Origin, reason: &str) {
    for problem in [host.get("/pay/charges").await, host.post("/pay/charges", &json!({ "of": 1 })).await] {
        let problem = problem.assert_fault(502, "unreachable");
        let detail = problem["detail"].as_str().unwrap_or_default();
        assert!(detail.contains(reason), "{problem}");
    }
    assert_eq!(origin.asked(), 0);
}

fn endpoints(status: &Value) -> &[Value] {
    status["external"][0]["endpoints"].as_array().map_or(&[], Vec::as_slice)
}

#[tokio::test]
async fn an_authority_of_ones_own_is_trusted() {
    let authority = Authority::new();
    let origin = authority.server("127.0.0.1").await;
    let health = "health = { path = \"/health\", interval = \"50ms\" }";
    let app = App::new(&listed(&origin, &format!("{CA}\n{health}")));
    app.file("ca.pem", authority.pem());
    let host = app.start().await;
    for _ in 0..2 {
        host.get("/pay/charges").await.assert_text(200, "outside");
    }
    assert_eq!((origin.asked(), origin.host()), (2, origin.address().to_string()));
    // So do probes.
    eventually("a probe has said that it is well", async || {
        let status = host.status(&app).await;
        let health = &endpoints(&status)[0]["health"];
        if health["probes"].as_u64() > Some(0) && health["healthy"] == true { Ok(()) } else { Err(status.to_string()) }
    })
    .await;
    host.stop().await;
}

#[tokio::test]
async fn a_certificate_of_an_authority_that_is_not_trusted_is_refused() {
    let (authority, other) = (Authority::new(), Authority::new());
    let origin = authority.server("127.0.0.1").await;
    let app = App::new(&listed(&origin, ""));
    let host = app.start().await;
    assert_refused(&host, &origin, "its certificate is signed by no authority that is trusted").await;
    host.stop().await;

    app.write(&listed(&origin, CA));
    app.file("ca.pem", other.pem());
    let host = Host::start_with(&app, &["--no-watch"]).await;
    // Both call themselves the same.
    assert_refused(&host, &origin, "names an authority that is trusted, and is signed by another key").await;
    // The authority is renewed, and for a while both are trusted; the manifest says the same.
    app.file("ca.pem", other.pem() + &authority.pem());
    let done = host.wharf(&app, &["reload", "--json"]).await;
    let expected = json!(["other certificates in the file of `ca`"]);
    assert_eq!((done.code(), &done.json()["changes"][0]["details"]), (Some(0), &expected), "{done:?}");
    host.get("/pay/charges").await.assert_text(200, "outside");
    // A file that is no good is not taken over.
    app.file("ca.pem", "nonsense");
    let done = host.wharf(&app, &["reload"]).await;
    let expected = "services.payment.ca: the file `";
    assert!(done.code() == Some(1) && done.stderr.contains(expected), "{done:?}");
    assert!(done.stderr.contains("holds no certificate: expected PEM"), "{done:?}");
    host.get("/pay/charges").await.assert_text(200, "outside");
    host.stop().await;
}

#[tokio::test]
async fn a_certificate_for_another_name_is_refused() {
    let authority = Authority::new();
    let origin = authority.server("elsewhere.example").await;
    for text in [listed(&origin, CA), resolved(&origin, CA)] {
        let app = App::new(&text);
        app.file("ca.pem", authority.pem());
        let host = app.start().await;
        assert_refused(&host, &origin, "elsewhere.example").await;
        host.stop().await;
    }
}

#[tokio::test]
async fn where_a_name_is_resolved_the_certificate_is_the_names() {
    let authority = Authority::new();
    let origin = authority.server("localhost").await;
    let app = App::new(&resolved(&origin, CA));
    app.file("ca.pem", authority.pem());
    let host = Host::start_with(&app, &["--no-watch"]).await;
    for _ in 0..4 {
        host.get("/pay/charges").await.assert_text(200, "outside");
    }
    assert_eq!(origin.host(), format!("localhost:{}", origin.address().port()));
    // Connections went to the address.
    let status = host.status(&app).await;
    let name = format!("https://{}", origin.address());
    assert!(endpoints(&status).iter().any(|it| it["endpoint"] == *name && it["calls"] == 4), "{status}");

    // The same address with nobody's name is the address itself, which the certificate does not say.
    let asked = origin.asked();
    app.write(&listed(&origin, CA));
    let done = host.wharf(&app, &["reload"]).await;
    assert_eq!(done.code(), Some(0), "{done:?}");
    let problem = host.get("/pay/charges").await.assert_fault(502, "unreachable");
    assert!(problem["detail"].as_str().is_some_and(|detail| detail.contains("localhost")), "{problem}");
    assert_eq!(origin.asked(), asked);
    host.stop().await;
}

#[tokio::test]
async fn certificates_that_can_not_be_had_are_named_with_their_line() {
    let origin = Authority::new().server("127.0.0.1").await;
    // The first lines are the application's and the gateway's.
    let app = App::new(&listed(&origin, CA));
    let text = std::fs::read_to_string(app.manifest()).expect("it was just written");
    let line = text.lines().position(|line| line == CA).expect("it is there") + 1;
    for (content, expected) in [
        (None, "can't be read: No such file"),
        (Some("nonsense"), "holds no certificate: expected PEM"),
        (Some("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"), "certificate 1 in the file"),
    ] {
        if let Some(content) = content {
            app.file("ca.pem", content);
        }
        for command in ["check", "up"] {
            let done = app.wharf(&[command]).await;
            let place = format!("wharf.toml:{line}: services.payment.ca: ");
            assert_eq!(done.code(), Some(1), "{done:?}");
            assert!(done.stderr.contains(&place) && done.stderr.contains(expected), "{done:?}");
        }
    }
}
