//! Mail: to a real server that is well, away, slow, refusing, greylisting or breaks off; with TLS and login; into a folder.

use rcgen::{CertificateParams, KeyPair};
use serde_json::{Value, json};
use std::fs;
use wharf_tests::{App, Host, Smtp, at, eventually, header};

/// A service that sends what it is told to, at `/mailer`. `mail` is what stands under `[mail]`, `more` comes at the end.
fn mailer(mail: &str, more: &str) -> String {
    let grant = "mail = { from = \"The Shop <shop@example.com>\" }";
    format!("{}\n[mail]\n{mail}\n{more}", at("mailer", "mailer", grant))
}

/// The services of users and notifications, without more of a shop.
fn shop(mail: &str, more: &str) -> App {
    App::new(&format!(
        r#"
[services.user]
component = "<user>"
database = true
publishes = ["user.created"]

[services.notification]
component = "<notification>"
database = true
mail = {{ from = "Der Läden <shop@example.com>" }}
subscribes = [{{ topic = "user.created", deduplicate = true, attempts = 1000, backoff = "20ms", max-backoff = "20ms" }}]

[topics."user.created"]

[[gateway.routes]]
path = "/users"
service = "user"

[[gateway.routes]]
path = "/notifications"
service = "notification"

[policy.edges."notification -> mail"]
retry = {{ attempts = 1 }}
breaker = {{ failures = 2, open = "100ms" }}

[mail]
{mail}
{more}
"#
    ))
}

fn plain(smtp: &Smtp) -> String {
    format!("smtp = \"{}\"\ntls = \"none\"", smtp.address())
}

async fn register(host: &Host, name: &str) -> String {
    let first = name.split(' ').next().unwrap_or_default().to_lowercase();
    let user = host.post("/users", &json!({ "email": format!("{first}@example.com"), "name": name })).await;
    assert_eq!(user.status, 201, "{user:?}");
    user.json()["id"].as_str().expect("an id").to_owned()
}

/// The one notification of a user, once there is one.
async fn notification(host: &Host, user: &str) -> Value {
    eventually("a notification", async || {
        let told = host.get(&format!("/notifications?userId={user}")).await.json();
        told.as_array().filter(|told| told.len() == 1).map(|told| told[0].clone()).ok_or(told.clone())
    })
    .await
}

async fn send(host: &Host, query: &str) -> (u16, String) {
    let encoded = [(" ", "%20"), ("<", "%3C"), (">", "%3E"), ("|", "%7C")];
    let query = encoded.iter().fold(query.to_owned(), |query, (from, to)| query.replace(from, to));
    let answer = host.get(&format!("/mailer?{query}")).await;
    (answer.status, answer.text().to_owned())
}

/// A certificate for this address, and its key, as files of the application.
fn certificate(app: &App) -> (String, String) {
    let key = KeyPair::generate().expect("a key");
    let params = CertificateParams::new(["127.0.0.1".to_owned()]).expect("it can be in a certificate");
    let certificate = params.self_signed(&key).expect("it can sign itself");
    let (file, key) = (app.file("mail.pem", certificate.pem()), app.file("mail.key", key.serialize_pem()));
    (file.display().to_string(), key.display().to_string())
}

#[tokio::test]
async fn mail_goes_by_tls_and_login_and_the_password_can_change_meanwhile() {
    const PASSWORDS: [&str; 2] = ["the first secret", "the second secret"];
    for tls in ["starttls", "implicit"] {
        let app = shop("", "");
        let (certificate, key) = certificate(&app);
        let settings = json!({ "tls": tls, "certificate": certificate, "key": key, "password": PASSWORDS[0] });
        let mut smtp = Smtp::start_with(settings).await;
        let password = app.file("password", "wrong and secret\n");
        let mail = format!(
            "smtp = \"{}\"\ntls = \"{tls}\"\nusername = \"shop\"\npassword = \"file:password\"\nca = \"mail.pem\"",
            smtp.address()
        );
        let manifest =
            fs::read_to_string(app.manifest()).expect("it is there").replace("[mail]\n", &format!("[mail]\n{mail}\n"));
        fs::write(app.manifest(), manifest).expect("it can be written");
        let host = app.start().await;

        // The wrong one is the operator's to mend, and mail waits for that.
        let user = register(&host, "Ada Lövelace <b>").await;
        host.logged("does not take the login of [mail] username and password").await;
        assert_eq!(smtp.got(), [] as [Value; 0]);
        fs::write(&password, PASSWORDS[0]).expect("it can be written");
        let told = notification(&host, &user).await;
        assert_eq!((&told["status"], &told["recipient"]), (&json!("sent"), &json!("ada@example.com")));

        let message = &smtp.messages(1).await[0];
        assert_eq!((&message["tls"], &message["authenticated"]), (&json!(true), &json!(true)), "{message}");
        assert_eq!((&message["from"], &message["to"]), (&json!("shop@example.com"), &json!(["ada@example.com"])));
        assert_eq!(header(message, "From"), "Der Läden <shop@example.com>");
        assert_eq!(header(message, "To"), "\"Ada Lövelace <b>\" <ada@example.com>");
        assert_eq!(header(message, "Subject"), "Welcome to The Shop");
        assert_eq!(header(message, "Auto-Submitted"), "auto-generated");
        assert_eq!(header(message, "MIME-Version"), "1.0");
        assert!(header(message, "Date").is_string() && header(message, "Message-ID").is_string(), "{message}");
        assert!(header(message, "Content-Type").as_str().is_some_and(|it| it.starts_with("multipart/alternative")));
        assert_eq!(message["defects"], json!([]));
        let (text, html) = (message["text"].as_str().unwrap_or_default(), message["html"].as_str().unwrap_or_default());
        assert!(text.starts_with("Hello Ada Lövelace <b>,\n"), "{text}");
        assert!(html.contains("<p>Hello Ada Lövelace &lt;b&gt;,</p>"), "{html}");

        // Another password from now on, without a word to the host.
        smtp.stop().await;
        smtp.set("password", json!(PASSWORDS[1]));
        fs::write(&password, PASSWORDS[1]).expect("it can be written");
        smtp.run().await;
        let user = register(&host, "Bob").await;
        notification(&host, &user).await;
        assert_eq!(smtp.got().len(), 2);

        let status = host.wharf(&app, &["status"]).await;
        let told = format!("{}{}{}{}", host.log(), status.stdout, status.stderr, host.status(&app).await);
        for secret in ["wrong and secret", PASSWORDS[0], PASSWORDS[1]] {
            assert!(!told.contains(secret), "{told}");
        }
        assert!(status.stdout.contains("notification -> mail"), "{}", status.stdout);
        host.stop().await;
    }
}

#[tokio::test]
async fn a_certificate_of_somebody_else_is_no_server() {
    let app = App::new("");
    let (certificate, key) = certificate(&app);
    let smtp = Smtp::start_with(json!({ "tls": "implicit", "certificate": certificate, "key": key })).await;
    app.write(&mailer(&format!("smtp = \"{}\"\ntls = \"implicit\"", smtp.address()), ""));
    let host = app.start().await;
    let (status, said) = send(&host, "to=ada@example.com&subject=Hi").await;
    assert!(status == 424 && said.contains("Unreachable") && said.contains("certificate"), "{said}");
    assert_eq!(smtp.got().len(), 0);
    host.stop().await;
}

#[tokio::test]
async fn while_the_server_is_away_the_breaker_opens_and_mail_comes_when_it_is_back() {
    let mut smtp = Smtp::new(json!({}));
    let app = shop(&plain(&smtp), "");
    let host = app.start().await;
    let user = register(&host, "Ada").await;
    eventually("the breaker refuses calls", async || {
        let edge = host.edge(&app, "notification -> mail").await;
        if edge["faults"]["circuit-open"].as_u64() > Some(0) { Ok(()) } else { Err(edge) }
    })
    .await;
    assert_eq!(host.get(&format!("/notifications?userId={user}")).await.json(), json!([]));
    smtp.run().await;
    assert_eq!(notification(&host, &user).await["status"], "sent");
    assert_eq!(smtp.got().len(), 1);
    let edge = host.edge(&app, "notification -> mail").await;
    assert_eq!(edge["breaker"]["state"], "closed", "{edge}");
    assert!(edge["faults"]["unreachable"].as_u64() >= Some(2), "{edge}");
    host.stop().await;
}

#[tokio::test]
async fn a_refusal_for_good_is_recorded_and_not_tried_again() {
    let smtp = Smtp::start_with(json!({ "mode": "refuse" })).await;
    let app = shop(&plain(&smtp), "");
    let host = app.start().await;
    for name in ["Ada", "Bob", "Cy"] {
        let user = register(&host, name).await;
        let told = notification(&host, &user).await;
        assert_eq!((&told["status"], &told["kind"]), (&json!("failed"), &json!("welcome")));
        let error = told["error"].as_str().unwrap_or_default();
        assert!(error.contains("550 5.1.1 No such mailbox here"), "{error}");
    }
    let edge = host.edge(&app, "notification -> mail").await;
    assert_eq!((&edge["calls"], &edge["faults"], &edge["retries"]), (&json!(3), &json!({}), &json!(0)), "{edge}");
    assert_eq!(edge["breaker"]["state"], "closed");
    host.stop().await;
}

#[tokio::test]
async fn what_is_greylisted_comes_later() {
    let smtp = Smtp::start_with(json!({ "mode": "greylist" })).await;
    let app = shop(&plain(&smtp), "");
    let host = app.start().await;
    let user = register(&host, "Ada").await;
    assert_eq!(notification(&host, &user).await["status"], "sent");
    assert_eq!(smtp.got().len(), 1);
    let edge = host.edge(&app, "notification -> mail").await;
    assert_eq!((&edge["calls"], &edge["faults"]["overloaded"]), (&json!(2), &json!(1)), "{edge}");
    host.stop().await;
}

#[tokio::test]
async fn what_a_server_may_have_is_not_sent_once_more_by_the_edge() {
    let mut smtp = Smtp::start_with(json!({ "mode": "cut" })).await;
    let app = App::new(&mailer(
        &plain(&smtp),
        "[policy.edges.\"mailer -> mail\"]\ndeadline = \"2s\"\nretry = { backoff = \"1ms\" }",
    ));
    let host = app.start().await;
    let (status, said) = send(&host, "to=ada@example.com&subject=Hi").await;
    assert!(status == 424 && said.contains("Trapped") && said.contains("is not known"), "{said}");
    assert_eq!(smtp.got().len(), 1);
    // One that is slow.
    smtp.mode("hold").await;
    let (status, said) = send(&host, "to=ada@example.com&subject=Hi").await;
    assert!(status == 424 && said.contains("DeadlineExceeded"), "{said}");
    assert_eq!(smtp.got().len(), 2);
    let edge = host.edge(&app, "mailer -> mail").await;
    assert_eq!(edge["retries"], 0, "{edge}");
    smtp.mode("take").await;
    assert_eq!(send(&host, "to=ada@example.com&subject=Hi").await.0, 200);
    host.stop().await;
}

#[tokio::test]
async fn a_host_that_dies_before_it_knows_sends_that_mail_again_with_the_same_id() {
    let mut smtp = Smtp::start_with(json!({ "mode": "hold" })).await;
    let app = shop(&plain(&smtp), "");
    let mut host = app.start().await;
    let user = register(&host, "Ada").await;
    smtp.messages(1).await;
    host.signal("KILL");
    host.ended().await;
    smtp.mode("take").await;
    let host = app.start().await;
    assert_eq!(notification(&host, &user).await["status"], "sent");
    let got = smtp.got();
    assert_eq!(got.len(), 2);
    assert_eq!(header(&got[0], "Message-ID"), header(&got[1], "Message-ID"));
    host.stop().await;
    let host = app.start().await;
    notification(&host, &user).await;
    host.stop().await;
    assert_eq!(smtp.got().len(), 2);
}

#[tokio::test]
async fn nothing_that_a_guest_says_becomes_a_header_or_a_recipient() {
    let smtp = Smtp::start().await;
    let app = App::new(&mailer(&plain(&smtp), ""));
    let host = app.start().await;
    for query in [
        "to=ada@example.com&subject=Hi%0d%0aBcc:%20eve@example.com",
        "to=ada@example.com&subject=Hi%0aX: y",
        "to=ada@example.com&name=Ada%0d%0aBcc:%20eve@example.com",
        "to=ada@example.com%0d%0aRCPT%20TO:<eve@example.com>",
        "to=ada@example.com>%20SIZE=1",
        "to=ada@example.com&reply-to=a@b.c%0aBcc:%20eve@example.com",
        "to=ada@example.com&cc=eve",
        "subject=to%20nobody",
        "to=ada@example.com&size=1048577",
    ] {
        let (status, said) = send(&host, query).await;
        assert!(status == 422 && said.starts_with("invalid: "), "{query}: {said}");
    }
    let many = vec!["ada@example.com"; 51].join("|");
    assert_eq!(send(&host, &format!("to={}", many)).await.0, 422);
    assert_eq!(smtp.got().len(), 0);

    let name = "%22Eve%22%20%3Ceve@example.com%3E,%20=?utf-8?q?x?=";
    let body = "one%0d%0a.%0d%0aMAIL%20FROM:%3Ceve@example.com%3E%0d%0a%0a.%0atwo";
    let query =
        format!("to=ada@example.com&bcc=bob@example.com&name={name}&subject=%20=?utf-8?b?eA==?=%20&text={body}&key=k");
    let (status, id) = send(&host, &query).await;
    assert_eq!(status, 200, "{id}");
    let message = &smtp.messages(1).await[0];
    assert_eq!(message["to"], json!(["ada@example.com", "bob@example.com"]));
    assert_eq!((header(message, "Subject"), header(message, "Message-ID")), (json!(" =?utf-8?b?eA==?= "), json!(id)));
    let names: Vec<_> = message["headers"].as_array().into_iter().flatten().map(|it| it[0].clone()).collect();
    let expected = [
        "Date",
        "Message-ID",
        "From",
        "To",
        "Subject",
        "Auto-Submitted",
        "MIME-Version",
        "Content-Type",
        "Content-Transfer-Encoding",
    ];
    assert_eq!(names, expected);
    let to = header(message, "To");
    assert!(to.as_str().is_some_and(|to| to.ends_with("<ada@example.com>") && to.contains("Eve")), "{to}");
    assert_eq!(message["text"], "one\n.\nMAIL FROM:<eve@example.com>\n\n.\ntwo\n");
    // The same key, the same id.
    assert_eq!(send(&host, &query).await, (200, id));
    assert_eq!(smtp.messages(2).await.len(), 2);
    host.stop().await;
}

#[tokio::test]
async fn without_a_server_mail_lies_in_a_folder_and_apply_sends_it_to_one() {
    let smtp = Smtp::start().await;
    let app = App::new(&mailer("", ""));
    let host = Host::start_with(&app, &["--no-watch"]).await;
    let (status, id) = send(&host, "to=ada@example.com&bcc=bob@example.com&subject=Hi&text=there").await;
    assert_eq!(status, 200, "{id}");
    let files: Vec<_> =
        fs::read_dir(app.data().join("mail")).expect("a folder").map(|it| it.expect("a file").path()).collect();
    assert_eq!(files.len(), 1, "{files:?}");
    let content = fs::read_to_string(&files[0]).expect("text");
    for line in
        [&format!("Message-ID: {id}\r\n"), "Bcc: bob@example.com\r\n", "To: ada@example.com\r\n", "Subject: Hi\r\n"]
    {
        assert!(content.contains(line), "no {line:?} in {content}");
    }
    app.write(&mailer(&plain(&smtp), ""));
    let plan = app.done(&["apply", "--yes"]).await;
    assert!(plan.stderr.contains(&format!("-> {}", smtp.address())), "{plan:?}");
    assert_eq!(send(&host, "to=ada@example.com&subject=Hi").await.0, 200);
    assert_eq!(smtp.messages(1).await.len(), 1);
    // Without the grant nothing goes anywhere.
    app.write(&mailer(&plain(&smtp), "").replace("mail = {", "config = {"));
    let plan = app.done(&["apply", "--yes"]).await;
    assert!(plan.stderr.contains("mail.from The Shop <shop@example.com> -> none"), "{plan:?}");
    let (status, said) = send(&host, "to=ada@example.com&subject=Hi").await;
    assert!(status == 403 && said.contains("does not let service mailer send mail"), "{said}");
    host.stop().await;
}
