//! `[mail]` and the `mail` of a service: where mail goes, and who may send it.

use std::{fmt, path::PathBuf, time::Duration};

use super::{
    App,
    error::Placed,
    reader::{Table, Value, quoted},
    secret::SecretRef,
    values::{LONGEST, SHORTEST},
};
use crate::mail::{Mailbox, Tls};

/// Where the mail of all services goes.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(clippy::large_enum_variant, reason = "a manifest has one")]
pub enum Mail {
    /// Into files of this folder.
    Folder(Placed<PathBuf>),
    /// To a server.
    Server(MailServer),
}

/// An SMTP server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MailServer {
    /// Its name or address, and its port.
    pub address: Placed<MailAddress>,
    /// How connections are encrypted.
    pub tls: Tls,
    /// The name to log in with, and where the password is kept.
    pub login: Option<(String, Placed<SecretRef>)>,
    /// The certificates of the authorities that are trusted, in place of Mozilla's list.
    pub ca: Option<Placed<PathBuf>>,
    /// How long it may take over a step.
    pub timeout: Duration,
}

/// Where a server listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MailAddress {
    /// Its name or IP address.
    pub host: String,
    /// Its port.
    pub port: u16,
}

/// What only mail to a server has.
const OF_SERVER: [&str; 6] = ["tls", "plaintext", "username", "password", "ca", "timeout"];
const TIMEOUT: Duration = Duration::from_secs(20);
/// The port of servers that encrypt from the first byte (RFC 8314).
const SUBMISSIONS: u16 = 465;
const LONGEST_USERNAME: usize = 256;

// === impl Mail ===

impl Mail {
    pub(super) fn read(mut table: Table<'_>, app: &App) -> Self {
        let (folder, server) = (table.value("folder"), table.value("smtp"));
        if let (Some(_), Some(server)) = (&folder, &server) {
            server.report::<()>("expected either `folder` or `smtp`, found both: mail goes one way");
        }
        if server.is_none() {
            for key in OF_SERVER {
                table.refuse(key, format_args!("`{key}` goes with `smtp`: a folder is no server"));
            }
        }
        let mail = match server {
            Some(server) => match server_address(&server) {
                Some(address) => Some(Self::Server(MailServer::read(&mut table, address))),
                None => {
                    OF_SERVER.into_iter().for_each(|key| drop(table.value(key)));
                    None
                }
            },
            None => folder.and_then(|folder| folder.path()).map(Self::Folder),
        };
        let default = table.default("folder", app.data.value.join("mail"));
        table.finish();
        mail.unwrap_or(Self::Folder(default))
    }

    /// The key that says so, to report what is wrong with it.
    pub fn place(&self) -> Placed<()> {
        match self {
            Self::Folder(folder) => folder.with(()),
            Self::Server(server) => server.address.with(()),
        }
    }
}

impl fmt::Display for Mail {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Folder(folder) => write!(f, "the folder {}", folder.display()),
            Self::Server(server) => write!(f, "{}", server.address.value),
        }
    }
}

// === impl MailServer ===

impl MailServer {
    fn read(table: &mut Table<'_>, address: Placed<MailAddress>) -> Self {
        let default = if address.port == SUBMISSIONS { Tls::Implicit } else { Tls::StartTls };
        let tls = table.or("tls", default, |value| match value.as_str() {
            Some("starttls") => Some(Tls::StartTls),
            Some("implicit") => Some(Tls::Implicit),
            Some("none") => Some(Tls::None),
            _ => value.expected("\"starttls\", \"implicit\" or \"none\""),
        });
        let plaintext = table.or("plaintext", false, |value| value.boolean());
        if tls == Tls::None && !address.is_loopback() && !plaintext {
            let message = "everybody on the way to this server can read mail and password: expected \"starttls\" or \
                           \"implicit\", or plaintext = true beside it where that is meant";
            table.report_field("tls", message);
        }
        if plaintext && tls != Tls::None {
            table.report_field("plaintext", "this goes with tls = \"none\"");
        }
        let username = table.optional("username", |value| {
            let name = value.string()?;
            let good = (1..=LONGEST_USERNAME).contains(&name.len()) && !name.chars().any(char::is_control);
            if good { Some(name) } else { value.expected(format_args!("a name of 1 to {LONGEST_USERNAME} bytes")) }
        });
        let password = table.optional("password", |value| Some(value.placed(SecretRef::read(value)?)));
        if table.has("username") != table.has("password") {
            let (there, missing) =
                if table.has("username") { ("username", "password") } else { ("password", "username") };
            table.report_field(there, format!("this goes with `{missing}`, which is missing"));
        }
        let ca = table.value("ca").and_then(|value| match tls {
            Tls::None => value.report("`ca` goes with TLS: it says whose certificates are trusted"),
            _ => value.path(),
        });
        let timeout = table.or("timeout", TIMEOUT, |value| value.duration(SHORTEST..=LONGEST));
        Self { address, tls, login: username.zip(password), ca, timeout }
    }
}

// === impl MailAddress ===

impl MailAddress {
    /// Whether it is this machine, as far as that can be seen without asking anybody.
    fn is_loopback(&self) -> bool {
        let ip = self.host.parse().map(|ip: std::net::IpAddr| ip.is_loopback());
        ip.unwrap_or_else(|_| self.host.eq_ignore_ascii_case("localhost"))
    }
}

impl fmt::Display for MailAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { host, port } = self;
        if host.contains(':') { write!(f, "[{host}]:{port}") } else { write!(f, "{host}:{port}") }
    }
}

fn server_address(value: &Value<'_>) -> Option<Placed<MailAddress>> {
    let parse = |text: &str| {
        let (host, port) = text.rsplit_once(':')?;
        let port = port.parse::<u16>().ok().filter(|port| *port > 0)?;
        let inner = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
        let host = match inner {
            Some(ip) => ip.parse::<std::net::Ipv6Addr>().ok()?.to_string(),
            None => host.to_owned(),
        };
        let good = |b: u8| b.is_ascii_alphanumeric() || b == b'.' || b == b'-';
        let is_host = inner.is_some() || (1..=253).contains(&host.len()) && host.bytes().all(good);
        is_host.then_some(MailAddress { host, port })
    };
    let address = value.as_str().and_then(parse);
    let address = address.or_else(|| value.expected("a server and its port such as \"smtp.example.com:587\""))?;
    Some(value.placed(address))
}

/// Reads the `mail` of a service: `{ from = "The Shop <shop@example.com>" }`.
pub(super) fn read_sender(value: &Value<'_>) -> Option<Placed<Mailbox>> {
    if !value.is_table() {
        return value.expected("a table such as { from = \"The Shop <shop@example.com>\" }");
    }
    let mut table = value.table()?;
    let from = table.required("from", "who sends, as in \"The Shop <shop@example.com>\"", |value| {
        let text = value.str("who sends, as in \"The Shop <shop@example.com>\"")?;
        match text.parse::<Mailbox>() {
            Ok(from) => Some(value.placed(from)),
            Err(error) => value.report(format!("{error}, found {}", quoted(text))),
        }
    });
    table.finish();
    from
}
