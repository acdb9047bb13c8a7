//! What a server's words, and its silence, come to: against a server that says what it is told to.

use super::*;
use crate::{
    manifest::SecretRef,
    policy::{Deadline, Policy, PolicyParams, RetryParams, RetryPolicy},
    service::Endpoint,
    telemetry::TraceContext,
};
use base64::{Engine, prelude::BASE64_STANDARD};
use std::{
    collections::HashMap,
    sync::{
        Mutex,
        atomic::{AtomicU32, Ordering::SeqCst},
    },
    time::Duration,
};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    net::TcpListener,
    time::Instant,
};

const CUT: &str = "cut";
const HANG: &str = "hang";

/// A server that answers to the first word of each command, and to the end of a message (`.`), with what it was told, each
/// time with the next and at last with the last.
struct Server {
    port: u16,
    said: Arc<Mutex<Vec<String>>>,
    messages: Arc<AtomicU32>,
    connections: Arc<AtomicU32>,
}

impl Server {
    async fn start(replies: &[(&'static str, &[&'static str])]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let replies: HashMap<_, _> = replies.iter().map(|(to, all)| (*to, all.to_vec())).collect();
        let replies = Arc::new(Mutex::new(replies));
        let server = Self { port, said: Arc::default(), messages: Arc::default(), connections: Arc::default() };
        let (said, messages, connections) = (server.said.clone(), server.messages.clone(), server.connections.clone());
        let reply = move |to: &str| {
            let mut replies = replies.lock().unwrap();
            match replies.get_mut(to) {
                Some(all) if all.len() > 1 => all.remove(0),
                Some(all) => all[0],
                None => match to {
                    "hi" => "220 here",
                    "EHLO" => "250-here\r\n250 AUTH PLAIN",
                    "AUTH" => "235 in",
                    "DATA" => "354 go",
                    _ => "250 ok",
                },
            }
        };
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                connections.fetch_add(1, SeqCst);
                let (said, messages, reply) = (said.clone(), messages.clone(), reply.clone());
                tokio::spawn(async move {
                    let mut stream = BufReader::new(stream);
                    let mut to = "hi".to_owned();
                    let mut in_message = false;
                    loop {
                        let reply = reply(&to);
                        match reply {
                            CUT => return,
                            HANG => std::future::pending().await,
                            reply => stream.write_all(format!("{reply}\r\n").as_bytes()).await.unwrap(),
                        }
                        in_message |= to == "DATA" && reply.starts_with('3');
                        loop {
                            let mut line = String::new();
                            if stream.read_line(&mut line).await.unwrap_or_default() == 0 {
                                return;
                            }
                            said.lock().unwrap().push(line.trim_end().to_owned());
                            if !in_message || line == ".\r\n" {
                                to = line.split_whitespace().next().unwrap_or_default().to_owned();
                                if in_message {
                                    messages.fetch_add(1, SeqCst);
                                }
                                in_message = false;
                                break;
                            }
                        }
                    }
                });
            }
        });
        server
    }

    fn settings(&self) -> SmtpSettings {
        SmtpSettings {
            host: "127.0.0.1".into(),
            port: self.port,
            tls: Tls::None,
            login: None,
            ca: None,
            timeout: Duration::from_secs(20),
        }
    }

    fn mailer(&self, settings: SmtpSettings) -> Mailer {
        let post = Post::new(Way::open(MailSettings::Smtp(settings)).unwrap());
        let retry = RetryParams {
            attempts: 3,
            backoff: Duration::from_millis(1),
            max_backoff: Duration::from_millis(1),
            ..RetryParams::default()
        };
        let params = PolicyParams { retry: RetryPolicy::try_new(retry).unwrap(), ..PolicyParams::default() };
        let edge = Edge::new("shop", "mail", Policy::try_new(params).unwrap(), Endpoint::Mail(post));
        Mailer::new("app", "shop", shop(), edge)
    }

    fn messages(&self) -> u32 {
        self.messages.load(SeqCst)
    }

    fn said(&self) -> Vec<String> {
        self.said.lock().unwrap().clone()
    }
}

fn context() -> CallContext {
    CallContext {
        caller: "shop".into(),
        deadline: Deadline { at: Instant::now() + Duration::from_secs(60), of: "test".into() },
        trace: TraceContext::root(),
        unit: None,
    }
}

async fn send(server: &Server) -> Result<String, SendError> {
    server.mailer(server.settings()).send(&context(), message("s")).await
}

fn fault(sent: Result<String, SendError>) -> Fault {
    match sent {
        Err(SendError::Fault(fault)) => fault,
        other => panic!("no fault: {other:?}"),
    }
}

#[tokio::test]
async fn a_letter_is_handed_over_with_its_envelope_and_connections_are_kept() {
    let server = Server::start(&[]).await;
    let mailer = server.mailer(server.settings());
    for _ in 0..3 {
        let said = Message { bcc: vec![mailbox("eve@example.com")], key: Some("k".into()), ..message("s") };
        let id = mailer.send(&context(), said).await.unwrap();
        assert!(server.said().contains(&format!("Message-ID: {id}")));
    }
    let said = server.said();
    for line in ["MAIL FROM:<shop@example.com>", "RCPT TO:<ada@example.com>", "RCPT TO:<eve@example.com>"] {
        assert_eq!(said.iter().filter(|it| *it == line).count(), 3, "{line} {said:?}");
    }
    assert!(!said.iter().any(|line| line.starts_with("Bcc")), "{said:?}");
    assert_eq!((server.messages(), server.connections.load(SeqCst)), (3, 1));
    let edge = mailer.edge.snapshot();
    assert_eq!((edge.calls, edge.retries, edge.faults.len()), (3, 0, 0));
}

#[tokio::test]
async fn a_refusal_for_good_is_an_answer() {
    for to in ["MAIL", "RCPT", "DATA", "."] {
        let server = Server::start(&[(to, &["550-5.1.1 no\r\n550 such mailbox"])]).await;
        let mailer = server.mailer(server.settings());
        for _ in 0..8 {
            let refused = mailer.send(&context(), message("s")).await.unwrap_err();
            let SendError::Refused(Refused(why)) = &refused else { panic!("{to}: {refused:?}") };
            assert!(why.ends_with(" refused the message: 550 5.1.1 no such mailbox"), "{why}");
        }
        // The breaker would have opened after five.
        let edge = mailer.edge.snapshot();
        assert_eq!((edge.retries, edge.faults.len(), edge.rejected), (0, 0, 0), "{to}");
        assert_eq!(server.connections.load(SeqCst), 1, "{to}");
    }
}

#[tokio::test]
async fn not_now_is_a_fault_with_the_time_that_the_server_says() {
    let server = Server::start(&[("RCPT", &["451 4.7.1 Greylisted, try again in 90 seconds"])]).await;
    let not_now = fault(send(&server).await);
    assert_eq!((not_now.kind(), not_now.retry_after()), (FaultKind::Overloaded, Some(Duration::from_secs(90))));
    let server = Server::start(&[(".", &["452 4.3.1 the disk is full"])]).await;
    let not_now = fault(send(&server).await);
    assert_eq!((not_now.kind(), not_now.retry_after()), (FaultKind::Overloaded, Some(Duration::from_secs(60))));
    // Nobody waits that long within a call.
    assert_eq!(server.messages(), 1);
    let server = Server::start(&[("hi", &["421 too many of you"])]).await;
    assert_eq!(fault(send(&server).await).kind(), FaultKind::Overloaded);
}

#[tokio::test]
async fn a_connection_that_breaks_before_the_message_is_made_again() {
    for to in ["hi", "EHLO", "MAIL", "RCPT", "DATA"] {
        let last = if to == "hi" {
            "220 here"
        } else if to == "DATA" {
            "354 go"
        } else {
            "250 ok"
        };
        let replies: &[&str] = &[CUT, last];
        let server = Server::start(&[(to, replies)]).await;
        assert!(send(&server).await.is_ok(), "{to}");
        assert_eq!((server.messages(), server.connections.load(SeqCst)), (1, 2), "{to}");
    }
}

#[tokio::test]
async fn a_connection_that_breaks_after_the_message_says_that_nobody_knows() {
    let server = Server::start(&[(".", &[CUT, "250 ok"])]).await;
    let unknown = fault(send(&server).await);
    assert_eq!(unknown.kind(), FaultKind::Trapped);
    assert!(unknown.message().contains("whether it took the message is not known"), "{unknown:?}");
    assert_eq!(server.messages(), 1);
}

#[tokio::test]
async fn a_server_that_says_nothing_is_given_up() {
    let settings = |server: &Server| SmtpSettings { timeout: Duration::from_millis(50), ..server.settings() };
    for (to, kind) in
        [("hi", FaultKind::Unreachable), ("RCPT", FaultKind::Unreachable), (".", FaultKind::DeadlineExceeded)]
    {
        let server = Server::start(&[(to, &[HANG])]).await;
        let mailer = server.mailer(settings(&server));
        let silent = fault(mailer.send(&context(), message("s")).await);
        assert_eq!(silent.kind(), kind, "{to}: {silent:?}");
        // What the server may have is not sent once more.
        let tries = if kind == FaultKind::Unreachable { 3 } else { 1 };
        assert_eq!(server.connections.load(SeqCst), tries, "{to}");
    }
}

#[tokio::test]
async fn a_kept_connection_that_has_died_is_replaced_without_a_try() {
    let server = Server::start(&[("NOOP", &[CUT])]).await;
    let mailer = server.mailer(server.settings());
    for _ in 0..2 {
        mailer.send(&context(), message("s")).await.unwrap();
    }
    assert_eq!((server.connections.load(SeqCst), mailer.edge.snapshot().retries), (2, 0));
}

#[tokio::test]
async fn a_login_that_is_refused_is_the_operators_and_no_secret_is_told() {
    const PASSWORD: &str = "correct horse battery staple";
    let plain = BASE64_STANDARD.encode(format!("\0user\0{PASSWORD}"));
    let file = std::env::temp_dir().join(format!("wharf-mail-password-{}", std::process::id()));
    std::fs::write(&file, format!("{PASSWORD}\n")).unwrap();
    let login = Some(Login { username: "user".into(), password: SecretRef::File(file.clone()) });
    // A server that repeats what it was told, as it was told and decoded.
    let echo: &'static str = format!("535 5.7.8 {PASSWORD} {plain}").leak();
    for (replies, kind) in [
        (&[("AUTH", &[echo][..])][..], FaultKind::Unreachable),
        (&[("AUTH", &[echo.replacen("535", "454", 1).leak() as &'static str][..])], FaultKind::Overloaded),
        (&[("AUTH", &[CUT][..])], FaultKind::Unreachable),
        (&[("EHLO", &["250 nothing"][..])], FaultKind::Unreachable),
        (&[("MAIL", &["530 5.7.0 who are you?"][..])], FaultKind::Unreachable),
    ] {
        let server = Server::start(replies).await;
        let settings = SmtpSettings { login: login.clone(), ..server.settings() };
        let told = format!("{settings:?}");
        let mailer = server.mailer(settings);
        let refused = fault(mailer.send(&context(), message("s")).await);
        assert_eq!(refused.kind(), kind, "{refused:?}");
        for told in [told, format!("{refused:?}"), format!("{:?}", mailer.edge.snapshot())] {
            assert!(!told.contains(PASSWORD) && !told.contains(&plain), "{told}");
        }
        assert_eq!(server.messages(), 0);
    }
    let server = Server::start(&[]).await;
    let mailer = server.mailer(SmtpSettings { login, ..server.settings() });
    mailer.send(&context(), message("s")).await.unwrap();
    assert!(server.said().contains(&format!("AUTH PLAIN {plain}")), "{:?}", server.said());
    std::fs::remove_file(&file).unwrap();
    let gone = Server::start(&[]).await;
    let settings = SmtpSettings {
        login: Some(Login { username: "user".into(), password: SecretRef::File(file.clone()) }),
        ..gone.settings()
    };
    let fault = fault(gone.mailer(settings).send(&context(), message("s")).await);
    assert!(fault.message().contains(file.to_str().unwrap()), "{fault:?}");
}

#[tokio::test]
async fn a_server_that_can_not_encrypt_gets_nothing() {
    let server = Server::start(&[]).await;
    let mailer = server.mailer(SmtpSettings { tls: Tls::StartTls, ..server.settings() });
    let refused = fault(mailer.send(&context(), message("s")).await);
    assert!(refused.message().contains("does not offer STARTTLS"), "{refused:?}");
    assert!(server.said().iter().all(|line| line.starts_with("EHLO") || line == "QUIT"), "{:?}", server.said());
}

#[tokio::test]
async fn another_way_is_taken_from_the_next_letter_on() {
    let (before, after) = (Server::start(&[]).await, Server::start(&[]).await);
    let post = Post::new(Way::open(MailSettings::Smtp(before.settings())).unwrap());
    let letter = Arc::new(letter(&message("s")).unwrap());
    post.deliver(&letter).await.unwrap().unwrap();
    post.replace(Way::open(MailSettings::Smtp(after.settings())).unwrap());
    post.deliver(&letter).await.unwrap().unwrap();
    assert_eq!((before.messages(), after.messages()), (1, 1));
}

#[tokio::test]
async fn what_is_under_way_of_a_service_is_bounded() {
    let server = Server::start(&[("hi", &[HANG])]).await;
    let mailer = server.mailer(server.settings());
    let large = || Message { text: "x".repeat(MAX_BODY), html: Some("x".repeat(MAX_BODY)), ..message("s") };
    let room = (ROOM as usize) << 10;
    let fits = room / large().size();
    let under_way: Vec<_> = (0..fits)
        .map(|_| {
            Box::pin({
                let mailer = mailer.clone();
                let large = large();
                async move { mailer.send(&context(), large).await }
            })
        })
        .collect();
    let mut all = futures::future::join_all(under_way);
    // Each has taken its room at its first turn.
    assert!(futures::poll!(&mut all).is_pending());
    let full = fault(mailer.send(&context(), large()).await);
    assert_eq!(full.kind(), FaultKind::Overloaded);
    drop(all);
    assert_eq!(mailer.room.available_permits(), ROOM as usize);
}
