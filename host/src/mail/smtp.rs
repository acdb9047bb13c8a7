//! Mail by SMTP (RFC 5321), with TLS and login.
//!
//! `lettre` speaks the protocol. Its own transport is not used, for two reasons: it knows a login for as long as it lives,
//! and here the password and the authorities are read anew for each connection, so that both can be changed while the host
//! runs; and from its errors one can't tell whether the server may have the message already, which decides about another
//! try.
//!
//! NB: what a server says to a login is never shown: it may repeat what it was told.

mod trouble;

use self::trouble::{NotInTime, Trouble};
use super::{Handed, Letter, Refused};
use crate::{
    manifest::SecretRef,
    outbound::Authorities,
    policy::{Fault, FaultKind},
};
use lettre::transport::smtp::{
    authentication::{Credentials, Mechanism},
    client::{AsyncSmtpConnection, Certificate, CertificateStore, TlsParameters},
    commands::{Data, Mail, Noop, Rcpt, Rset},
    extension::ClientId,
};
use std::{
    path::PathBuf,
    sync::{Mutex, PoisonError},
    time::Duration,
};
use tokio::{
    sync::Semaphore,
    time::{Instant, timeout},
};

/// A server, and how it is spoken to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SmtpSettings {
    /// Its name or address.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// How what is said is kept from others.
    pub tls: Tls,
    /// Who the host is to it.
    pub login: Option<Login>,
    /// The certificates of the authorities that are trusted, in place of Mozilla's list.
    pub ca: Option<PathBuf>,
    /// How long it may take over a step: to connect and log in, to take the envelope, to take the message.
    pub timeout: Duration,
}

/// How a connection is encrypted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tls {
    /// It begins in plain text, and nothing but the wish for TLS is said in it (RFC 3207). A server that can't is not used.
    StartTls,
    /// From its first byte (RFC 8314).
    Implicit,
    /// Not at all: everybody on the way can read and change everything, the password too.
    None,
}

/// A name and the place of a password.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Login {
    /// The name.
    pub username: String,
    /// Where the password is kept. It is fetched for each new connection.
    pub password: SecretRef,
}

/// The most connections at a time. What is beyond waits, within its deadline.
const CONNECTIONS: usize = 8;
/// How long a connection is kept that has nothing to do. It is also how long a login lives on after its password was changed.
const IDLE: Duration = Duration::from_secs(15);

/// Connections to a server.
#[derive(Debug)]
pub(super) struct Smtp {
    settings: SmtpSettings,
    idle: Mutex<Vec<Idle>>,
    slots: Semaphore,
}

struct Idle {
    connection: AsyncSmtpConnection,
    since: Instant,
}

/// What has to be read before a connection is made.
struct Papers {
    credentials: Option<Credentials>,
    tls: Option<TlsParameters>,
}

// === impl Smtp ===

impl Smtp {
    pub fn new(settings: SmtpSettings) -> Self {
        Self { settings, idle: Mutex::default(), slots: Semaphore::new(CONNECTIONS) }
    }

    /// Hands a letter over. What is dropped in the middle drops its connection.
    pub async fn deliver(&self, letter: &Letter) -> Result<Handed, Fault> {
        let _slot = self.slots.acquire().await.map_err(|_| self.unreachable("it is closed"))?;
        let mut connection = match self.idle().await {
            Some(connection) => connection,
            None => self.connect().await?,
        };
        let handed = match self.in_time(envelope(&mut connection, letter)).await {
            Err(NotInTime) => {
                return Err(self.unreachable(format_args!("no answer within {:?}", self.settings.timeout)));
            }
            Ok(Err(error)) => Trouble::of(&error).before_the_message(),
            Ok(Ok(())) => match self.in_time(connection.message(letter.content())).await {
                Err(NotInTime) => {
                    let why = format!(
                        "{} did not say within {:?} whether it took the message",
                        self.name(),
                        self.settings.timeout
                    );
                    return Err(Fault::new(FaultKind::DeadlineExceeded, why));
                }
                Ok(Ok(_)) => Trouble::None,
                Ok(Err(error)) => Trouble::of(&error),
            },
        };
        if handed.leaves_connection() {
            self.keep(connection, !matches!(handed, Trouble::None)).await;
        }
        match handed {
            Trouble::None => Ok(Ok(())),
            Trouble::Refused(said) => Ok(Err(Refused(format!("{} refused the message: {said}", self.name())))),
            Trouble::Later { said, after, .. } => {
                let why = format!("{} does not take the message now: {said}", self.name());
                Err(Fault::new(FaultKind::Overloaded, why).with_retry_after(after))
            }
            Trouble::NoLogin(code) => {
                Err(self
                    .unreachable(format_args!("it wants a login, which the manifest has under [mail] (reply {code})")))
            }
            Trouble::Broken(why) => Err(self.unreachable(why)),
            Trouble::BrokenMidway(why) => {
                let why = format!("{}: {why}, and whether it took the message is not known", self.name());
                Err(Fault::new(FaultKind::Trapped, why))
            }
        }
    }

    /// A connection that is there already and still alive.
    async fn idle(&self) -> Option<AsyncSmtpConnection> {
        loop {
            let Idle { mut connection, since } = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop()?;
            if since.elapsed() < IDLE && matches!(self.in_time(connection.command(Noop)).await, Ok(Ok(_))) {
                return Some(connection);
            }
        }
    }

    /// Keeps a connection for the next letter; `reset` where an envelope was begun.
    async fn keep(&self, mut connection: AsyncSmtpConnection, reset: bool) {
        if reset && !matches!(self.in_time(connection.command(Rset)).await, Ok(Ok(_))) {
            return;
        }
        let now = Instant::now();
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        idle.retain(|idle| now.duration_since(idle.since) < IDLE);
        idle.push(Idle { connection, since: now });
    }

    async fn connect(&self) -> Result<AsyncSmtpConnection, Fault> {
        let settings = self.settings.clone();
        let reading = tokio::task::spawn_blocking(move || Papers::read(&settings));
        let papers =
            reading.await.unwrap_or_else(|error| Err(error.to_string())).map_err(|why| self.unreachable(why))?;
        match self.in_time(self.connect_with(papers)).await {
            Ok(connected) => connected,
            Err(NotInTime) => Err(self.unreachable(format_args!("no connection within {:?}", self.settings.timeout))),
        }
    }

    async fn connect_with(&self, papers: Papers) -> Result<AsyncSmtpConnection, Fault> {
        let Papers { credentials, tls } = papers;
        let SmtpSettings { host, port, timeout, .. } = &self.settings;
        let trouble = |error| match Trouble::of(&error) {
            Trouble::Later { said, after, .. } => {
                let why = format!("{} takes no mail now: {said}", self.name());
                Fault::new(FaultKind::Overloaded, why).with_retry_after(after)
            }
            trouble => self.unreachable(trouble.before_the_message().into_words()),
        };
        // Who the host is called is nothing to the servers that it logs in to.
        let hello = ClientId::default();
        let (implicit, upgrade) = match self.settings.tls {
            Tls::Implicit => (tls, None),
            Tls::StartTls => (None, tls),
            Tls::None => (None, None),
        };
        let connecting =
            AsyncSmtpConnection::connect_tokio1((host.as_str(), *port), Some(*timeout), &hello, implicit, None);
        let mut connection = connecting.await.map_err(trouble)?;
        if let Some(tls) = upgrade {
            if !connection.can_starttls() {
                let why = "it does not offer STARTTLS; [mail] tls = \"implicit\" is for servers that encrypt from the first byte";
                return Err(self.unreachable(why));
            }
            connection.starttls(tls, &hello).await.map_err(trouble)?;
        }
        if let Some(credentials) = credentials {
            let known = [Mechanism::Plain, Mechanism::Login];
            connection.auth(&known, &credentials).await.map_err(|error| match error.status() {
                Some(code) if error.is_transient() => {
                    let why = format!("{} takes no login now (reply {code})", self.name());
                    Fault::new(FaultKind::Overloaded, why).with_retry_after(trouble::LATER)
                }
                Some(code) => self.unreachable(format_args!(
                    "it does not take the login of [mail] username and password (reply {code})"
                )),
                None if error.is_client() => self.unreachable("it offers no login by PLAIN or LOGIN"),
                None => self.unreachable("the connection broke at the login"),
            })?;
        }
        Ok(connection)
    }

    async fn in_time<T>(&self, work: impl Future<Output = T>) -> Result<T, NotInTime> {
        timeout(self.settings.timeout, work).await.map_err(|_| NotInTime)
    }

    fn name(&self) -> String {
        format!("the mail server {}:{}", self.settings.host, self.settings.port)
    }

    fn unreachable(&self, why: impl std::fmt::Display) -> Fault {
        Fault::new(FaultKind::Unreachable, format!("{} can't be used: {why}", self.name()))
    }
}

/// Says who sends to whom, up to where the message itself may follow.
async fn envelope(connection: &mut AsyncSmtpConnection, letter: &Letter) -> Result<(), lettre::transport::smtp::Error> {
    let envelope = letter.envelope();
    connection.command(Mail::new(envelope.from().cloned(), Vec::new())).await?;
    for to in envelope.to() {
        connection.command(Rcpt::new(to.clone(), Vec::new())).await?;
    }
    connection.command(Data).await?;
    Ok(())
}

// === impl Papers ===

impl Papers {
    /// Reads files, so not where calls run.
    fn read(settings: &SmtpSettings) -> Result<Self, String> {
        let credentials = match &settings.login {
            None => None,
            Some(Login { username, password }) => {
                let password = password.resolve().map_err(|error| error.to_string())?;
                Some(Credentials::new(username.clone(), password.expose().to_owned()))
            }
        };
        let tls = match settings.tls {
            Tls::None => None,
            Tls::StartTls | Tls::Implicit => Some(Self::tls(settings)?),
        };
        Ok(Self { credentials, tls })
    }

    fn tls(settings: &SmtpSettings) -> Result<TlsParameters, String> {
        let mut tls = TlsParameters::builder(settings.host.clone()).certificate_store(CertificateStore::WebpkiRoots);
        if let Some(ca) = &settings.ca {
            tls = tls.certificate_store(CertificateStore::None);
            for certificate in Authorities::read(ca).map_err(|error| error.to_string())?.certificates() {
                let certificate = Certificate::from_der(certificate.to_vec()).map_err(|error| error.to_string())?;
                tls = tls.add_root_certificate(certificate);
            }
        }
        tls.build_rustls().map_err(|error| error.to_string())
    }
}

// === impl Idle ===

impl std::fmt::Debug for Idle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Idle(since {:?})", self.since)
    }
}
