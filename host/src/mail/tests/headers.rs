//! What a second parser reads is what was said, and nothing else.

use super::{super::binding::wit as wit_message, *};
use mail_parser::{Address, MessageParser};
use proptest::prelude::*;

/// The names of all headers before the body, with repetitions.
fn names(content: &[u8]) -> Vec<String> {
    let parsed = MessageParser::default().parse(content).unwrap();
    parsed.headers().iter().map(|header| header.name().to_owned()).collect()
}

/// Name and address of each mailbox in a header.
fn listed(header: Option<&Address<'_>>) -> Vec<(Option<String>, String)> {
    let all = header.into_iter().flat_map(Address::iter);
    all.map(|it| (it.name().map(str::to_owned), it.address().unwrap_or_default().to_owned())).collect()
}

fn pairs(mailboxes: &[Mailbox]) -> Vec<(Option<String>, String)> {
    mailboxes.iter().map(|it| (it.name().map(str::to_owned), it.address().to_owned())).collect()
}

/// That a message is refused, or is read as it was meant.
fn refused_or_as_meant(message: &Message) {
    let Ok(letter) = letter(message) else { return };
    let content = letter.content();
    let ends = content.iter().enumerate().filter(|(_, b)| matches!(b, b'\r' | b'\n'));
    for (at, b) in ends {
        let is_end = if *b == b'\r' { content.get(at + 1) == Some(&b'\n') } else { at > 0 && content[at - 1] == b'\r' };
        assert!(is_end, "a lone CR or LF at {at}");
    }
    assert!(content.split(|b| *b == b'\n').all(|line| line.len() <= 998), "a line is too long");
    let parsed = MessageParser::default().parse(content).unwrap();
    let mut wanted = vec!["Date", "Message-ID", "From"];
    wanted.extend(message.reply_to.as_ref().map(|_| "Reply-To"));
    wanted.extend((!message.to.is_empty() || message.cc.is_empty()).then_some("To"));
    wanted.extend((!message.cc.is_empty()).then_some("Cc"));
    wanted.extend((!message.subject.is_empty()).then_some("Subject"));
    wanted.extend(["Auto-Submitted", "MIME-Version", "Content-Type"]);
    wanted.extend(message.html.is_none().then_some("Content-Transfer-Encoding"));
    let found = names(content);
    assert_eq!(
        found.iter().map(|name| name.to_ascii_lowercase()).collect::<Vec<_>>(),
        wanted.iter().map(|it| it.to_ascii_lowercase()).collect::<Vec<_>>()
    );
    assert_eq!(parsed.subject().unwrap_or_default(), message.subject);
    assert_eq!(listed(parsed.from()), [(Some("The Shop".into()), "shop@example.com".into())]);
    if !message.to.is_empty() {
        assert_eq!(listed(parsed.to()), pairs(&message.to));
    }
    assert_eq!(listed(parsed.cc()), pairs(&message.cc));
    assert_eq!(listed(parsed.bcc()), []);
    assert_eq!(listed(parsed.reply_to()), pairs(message.reply_to.as_slice()));
    assert_eq!(parsed.message_id().map(|id| format!("<{id}>")).as_deref(), Some(letter.id()));
    let all = [&message.to[..], &message.cc, &message.bcc].concat();
    let envelope: Vec<_> = letter.envelope().to().iter().map(ToString::to_string).collect();
    assert_eq!(envelope, all.iter().map(|it| it.address().to_owned()).collect::<Vec<_>>());
    let plain = |text: &str| text.replace("\r\n", "\n").replace('\r', "\n");
    assert_eq!(plain(&parsed.body_text(0).unwrap_or_default()), plain(&message.text));
    if let Some(html) = &message.html {
        assert_eq!(plain(&parsed.body_html(0).unwrap_or_default()), plain(html));
    }
}

/// Text that is more often than not hostile.
fn text() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        any::<String>(),
        "[a-zA-Z0-9 ]{0,80}",
        Just("\r\nBcc: eve@example.com".to_owned()),
        Just("\n\n<script>".to_owned()),
        Just("\r".to_owned()),
        Just("\r\n.\r\n".to_owned()),
        Just("=?utf-8?q?=0d=0aBcc:_x?=".to_owned()),
        Just("=?utf-8?b?PGV2ZT4=?= ".to_owned()),
        Just("\u{0}\u{85}\u{2028}".to_owned()),
        Just("\"<>,;:@\\()".to_owned()),
        Just("  Grüße, Ада 艾达 👩‍💻 ".to_owned()),
    ];
    proptest::collection::vec(piece, 0..6).prop_map(|pieces| pieces.concat())
}

fn address() -> impl Strategy<Value = String> {
    prop_oneof![
        3 => "[a-z0-9.!#$%&'*+/=?^_`{|}~-]{1,20}@[a-z0-9-]{1,10}(\\.[a-z]{2,5}){0,3}",
        1 => text(),
        1 => text().prop_map(|text| format!("ada{text}@example.com")),
        1 => text().prop_map(|text| format!("ada@example.com{text}")),
    ]
}

type Said = (Option<String>, String);

fn said() -> impl Strategy<Value = Said> {
    (proptest::option::of(text()), address())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn whatever_is_said_is_refused_or_arrives_as_it_was_said(
        to in proptest::collection::vec(said(), 0..4),
        cc in proptest::collection::vec(said(), 0..3),
        bcc in proptest::collection::vec(said(), 0..3),
        reply_to in proptest::option::of(said()),
        subject in text(),
        body in text(),
        html in proptest::option::of(text()),
    ) {
        let one = |(name, address): Said| wit_message::Mailbox { name, address };
        // One that is good too, so that more than a few are taken.
        let mut good = Vec::new();
        for mailboxes in [&to, &cc, &bcc] {
            good.push(mailboxes.iter().filter(|(name, address)| Mailbox::new(name.clone(), address).is_ok()).cloned().map(one).collect::<Vec<_>>());
        }
        let mut good = good.into_iter();
        let mut next = || good.next().unwrap_or_default();
        let (taken_to, taken_cc, taken_bcc) = (next(), next(), next());
        let said = |to, cc, bcc, subject: &str| wit_message::Message {
            key: None, to, cc, bcc, subject: subject.into(), text: body.clone(), html: html.clone(),
            reply_to: reply_to.clone().map(one),
        };
        let all = |mailboxes: Vec<Said>| mailboxes.into_iter().map(one).collect::<Vec<_>>();
        if let Ok(message) = Message::try_from(said(all(to), all(cc), all(bcc), &subject)) {
            refused_or_as_meant(&message);
        }
        let harmless: String = subject.chars().filter(|c| !c.is_control()).collect();
        let taken = wit_message::Message { reply_to: None, text: body.replace('\0', ""), html: html.as_ref().map(|it| it.replace('\0', "")), ..said(taken_to, taken_cc, taken_bcc, &harmless) };
        if let Ok(message) = Message::try_from(taken) {
            refused_or_as_meant(&message);
        }
    }

    #[test]
    fn a_control_character_in_a_header_is_refused(before in "[a-z]{0,9}", after in "[a-z]{0,9}", at in 0_u32..0x20) {
        let text = format!("{before}{}{after}", char::from_u32(at).unwrap());
        assert!(letter(&message(&text)).is_err());
        assert!(Mailbox::new(Some(text.clone()), "ada@example.com").is_err());
        assert!(Mailbox::new(None, &format!("{text}@example.com")).is_err());
        assert!(Mailbox::new(None, &format!("ada@{text}.com")).is_err());
    }
}

#[test]
fn an_address_is_one_or_none() {
    for good in ["ada@example.com", "a.d+a!#$%&'*/=?^_`{|}~-@x-1.example.co", "ada@localhost"] {
        assert_eq!(Mailbox::new(None, good).unwrap().address(), good);
    }
    let long = format!("{}@example.com", "a".repeat(65));
    for bad in [
        "",
        "@",
        "ada",
        "ada@",
        "@example.com",
        "a b@example.com",
        "a@b@example.com",
        ".a@example.com",
        "a.@example.com",
        "a..b@example.com",
        "\"a b\"@example.com",
        "ada@-x.com",
        "ada@x-.com",
        "ada@x..com",
        "ada@x.com.",
        "ada@[127.0.0.1]",
        "ada@ex_ample.com",
        "ädä@example.com",
        "ada@exämple.com",
        "<ada@example.com>",
        "ada@example.com\r\nRCPT TO:<eve@x>",
        "ada@example.com>",
        "a,b@example.com",
        "a(b)@example.com",
        &long,
    ] {
        let error = Mailbox::new(None, bad).unwrap_err().to_string();
        assert!(error.contains("is no address") && !error.contains(['\r', '\n']), "{bad:?}: {error}");
    }
}

#[test]
fn what_is_too_much_is_refused() {
    let refused = |message: Message| letter(&message).unwrap_err().to_string();
    let ada = mailbox("ada@example.com");
    assert_eq!(refused(Message { to: Vec::new(), ..message("s") }), "expected 1 to 50 recipients, found 0");
    assert_eq!(
        refused(Message { to: vec![ada.clone(); 26], bcc: vec![ada; 25], ..message("s") }),
        "expected 1 to 50 recipients, found 51"
    );
    assert_eq!(refused(message(&"x".repeat(999))), "the subject has 999 bytes, and may have 998");
    assert!(letter(&message(&"x".repeat(998))).is_ok());
    assert_eq!(
        refused(Message { text: "x".repeat(MAX_BODY + 1), ..message("s") }),
        "`text` has 1048577 bytes, and may have 1048576"
    );
    assert_eq!(
        refused(Message { html: Some("\0".into()), ..message("s") }),
        "`html` has the character NUL, which mail can't carry"
    );
    assert_eq!(
        refused(Message { key: Some("x".repeat(257)), ..message("s") }),
        "a key has 1 to 256 bytes, and this one 257"
    );
    assert_eq!(refused(message("a\r\nb")), "the subject has the control character U+000D, and may have none");
}

#[test]
fn the_same_key_gives_the_same_id_and_no_other_does() {
    let id = |owner: &str, key| compose::message_id(owner, &shop(), key);
    let first = id("shop/notification", Some("e-1"));
    assert_eq!(first, id("shop/notification", Some("e-1")));
    assert!(first.ends_with("@example.com>") && !first.contains("e-1"), "{first}");
    for other in
        [id("shop/notification", Some("e-2")), id("shop/order", Some("e-1")), id("shop", Some("notification e-1"))]
    {
        assert_ne!(first, other);
    }
    assert_ne!(id("shop/notification", None), id("shop/notification", None));
}

#[test]
fn a_whole_letter_can_be_read_by_people() {
    let said =
        Message { html: Some("<p>Grüße</p>".into()), bcc: vec![mailbox("eve@example.com")], ..message("Grüße") };
    let letter = letter(&said).unwrap();
    let text = String::from_utf8(letter.content().to_vec()).unwrap();
    for line in [
        "From: The Shop\r\n <shop@example.com>\r\n",
        "To: Ada\r\n <ada@example.com>\r\n",
        "Subject: =?UTF-8?B?R3LDvMOfZQ==?=\r\n",
        "Auto-Submitted: auto-generated\r\n",
        "MIME-Version: 1.0\r\n",
        "Content-Type: multipart/alternative;",
        "Content-Type: text/html; charset=utf-8\r\n",
    ] {
        assert!(text.contains(line), "no {line:?} in {text}");
    }
    assert!(!text.contains("eve"), "{text}");
    assert_eq!(letter.bcc(), "Bcc: eve@example.com\r\n");
}
