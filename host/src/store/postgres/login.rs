//! Logging in: where the server is, as whom, and how a session is set up before anything runs in it.

use super::{
    connection::Connection,
    stream::{Bounded, Frames, Rustls, Socket, server_name},
};
use crate::store::{OpenError, Settings};
use arc_swap::ArcSwapOption;
use std::{
    fmt,
    net::IpAddr,
    path::Path,
    str::FromStr,
    sync::{Arc, atomic::AtomicBool},
};
use thiserror::Error as ThisError;
use tokio::{
    net::{TcpStream, UnixStream},
    sync::OwnedSemaphorePermit,
    time::{Duration, timeout},
};
use tokio_postgres::{
    Client, Config, NoTls,
    config::{Host, SslMode, TargetSessionAttrs},
    error::SqlState,
    types::ToSql,
};
use tokio_rustls::rustls::{
    ClientConfig, RootCertStore,
    crypto::ring,
    pki_types::{CertificateDer, pem::PemObject},
};
use zeroize::Zeroizing;

/// How long opening a connection may take, setting it up included.
const CONNECT: Duration = Duration::from_secs(5);

/// What a frame of the protocol may have beside the values of a row.
const FRAME_SLACK: usize = 64 << 10;

const PORT: u16 = 5432;

/// Everything that it takes to open a connection.
#[derive(Clone)]
pub(super) struct Login {
    /// All but the password.
    config: Config,
    /// The password, if there is one; the same for all that are made of one login for its role.
    password: Arc<ArcSwapOption<Zeroizing<Vec<u8>>>>,
    tls: Arc<ClientConfig>,
    /// Settings of the session, by name.
    session: Vec<(&'static str, String)>,
}

/// A connection could not be opened.
#[derive(Debug, ThisError)]
pub(super) enum LoginError {
    /// Nobody answers there.
    #[error("PostgreSQL at {at} can't be reached: {error}")]
    Unreachable { at: String, error: std::io::Error },
    /// It took too long.
    #[error("PostgreSQL at {at} did not answer within {CONNECT:?}")]
    Slow { at: String },
    /// It answered, and sent us away.
    #[error("PostgreSQL at {at} does not let us in: {}", words(.error))]
    Refused { at: String, error: tokio_postgres::Error },
    /// Its certificate can't be for that name.
    #[error("`{at}` is no name that a certificate can be for; TLS needs one")]
    Name { at: String },
    /// It is a copy that takes no writes.
    #[error("PostgreSQL at {at} takes no writes")]
    ReadOnly { at: String },
}

fn words(error: &tokio_postgres::Error) -> String {
    match error.as_db_error() {
        Some(said) => said.message().to_owned(),
        None => match std::error::Error::source(error) {
            Some(source) => format!("{error}: {source}"),
            None => error.to_string(),
        },
    }
}

/// A place to try.
enum Place<'c> {
    Tcp(&'c str, u16),
    Unix(&'c Path, u16),
}

// === impl Login ===

impl Login {
    /// Reads a URL. `certificates` is a file with those that are trusted in place of the well-known ones.
    pub(super) fn read(url: &str, certificates: Option<&Path>) -> Result<Self, OpenError> {
        // NB: anything else is read as words with values, and the error may then show the whole of it.
        if !["postgres://", "postgresql://"].iter().any(|scheme| url.starts_with(scheme)) {
            return Err(OpenError::Url("it does not begin with postgres://".into()));
        }
        // Else what follows the first one would be taken for more than a part of the password.
        if url.matches('@').count() > 1 {
            return Err(OpenError::Url(
                "it has more than one `@`; in a user's name or a password it is written %40".into(),
            ));
        }
        let config = Config::from_str(url).map_err(|error| {
            // What the source says shows the name of the part that is wrong, and never the password.
            let reason = std::error::Error::source(&error).map_or_else(|| error.to_string(), ToString::to_string);
            OpenError::Url(reason)
        })?;
        if config.get_hosts().is_empty() {
            return Err(OpenError::Url("it names no host".into()));
        }
        if config.get_dbname().is_none_or(str::is_empty) {
            return Err(OpenError::Url("it names no database; expected one after the host, as in /shop".into()));
        }
        if config.get_user().is_none_or(str::is_empty) {
            return Err(OpenError::Url("it names no user".into()));
        }
        let password = config.get_password().map(|password| Arc::new(Zeroizing::new(password.to_vec())));
        let password = Arc::new(ArcSwapOption::new(password));
        let mut login = Self { config, password, tls: trusting(certificates)?, session: Vec::new() };
        if login.has_password() {
            login.config.password("");
        }
        Ok(login)
    }

    /// Logs in by the password of this URL from now on. `false`, and nothing is done, where the URL says something else too, or
    /// is none.
    pub(super) fn log_in_by(&self, url: &str) -> bool {
        let Ok(other) = Self::read(url, None) else { return false };
        let (one, two) = (&self.config, &other.config);
        let same = one.get_hosts() == two.get_hosts()
            && one.get_ports() == two.get_ports()
            && one.get_dbname() == two.get_dbname()
            && one.get_user() == two.get_user();
        if same {
            self.password.store(other.password.load_full());
        }
        same
    }

    fn has_password(&self) -> bool {
        self.password.load().is_some()
    }

    /// All that a connection takes.
    fn config(&self) -> Config {
        let mut config = self.config.clone();
        if let Some(password) = &*self.password.load() {
            config.password(password.as_slice());
        }
        config
    }

    /// The same as another role.
    pub(super) fn as_role(&self, role: &str, password: Option<&str>) -> Self {
        let mut login = self.clone();
        login.config.user(role);
        if let Some(password) = password {
            let password = Zeroizing::new(password.as_bytes().to_vec());
            login.password = Arc::new(ArcSwapOption::from_pointee(password));
        }
        login
    }

    /// The same with these settings in its sessions.
    pub(super) fn with_session(&self, session: Vec<(&'static str, String)>) -> Self {
        Self { session, ..self.clone() }
    }

    /// The name of the database.
    pub(super) fn database(&self) -> &str {
        self.config.get_dbname().unwrap_or_default()
    }

    /// The role.
    pub(super) fn user(&self) -> &str {
        self.config.get_user().unwrap_or_default()
    }

    /// The password; empty where there is none.
    pub(super) fn password(&self) -> Zeroizing<Vec<u8>> {
        self.password.load().as_deref().cloned().unwrap_or_default()
    }

    /// Opens a connection.
    pub(super) async fn connect(
        &self,
        settings: Arc<Settings>,
        place: OwnedSemaphorePermit,
    ) -> Result<Connection, LoginError> {
        let exceeded = Arc::new(AtomicBool::new(false));
        let client = self.open(settings.max_bytes.saturating_add(FRAME_SLACK), exceeded.clone()).await?;
        Ok(Connection::new(client, settings, exceeded, place))
    }

    async fn open(&self, max_frame: usize, exceeded: Arc<AtomicBool>) -> Result<Client, LoginError> {
        let mut places = self.places().peekable();
        loop {
            let Some(place) = places.next() else {
                // There is at least one host.
                return Err(LoginError::Slow { at: self.to_string() });
            };
            let frames = Frames::new(max_frame, exceeded.clone());
            let result = match timeout(CONNECT, self.open_at(&place, frames)).await {
                Ok(result) => result,
                Err(_) => Err(LoginError::Slow { at: place.to_string() }),
            };
            if result.is_ok() || places.peek().is_none() {
                return result;
            }
        }
    }

    fn places(&self) -> impl Iterator<Item = Place<'_>> {
        let ports = self.config.get_ports();
        self.config.get_hosts().iter().enumerate().map(move |(at, host)| {
            let port = ports.get(at).or(ports.first()).copied().unwrap_or(PORT);
            match host {
                Host::Tcp(host) => Place::Tcp(host, port),
                Host::Unix(folder) => Place::Unix(folder, port),
            }
        })
    }

    async fn open_at(&self, place: &Place<'_>, frames: Frames) -> Result<Client, LoginError> {
        let unreachable = |error| LoginError::Unreachable { at: place.to_string(), error };
        let refused = |error| LoginError::Refused { at: place.to_string(), error };
        let client = match place {
            Place::Unix(folder, port) => {
                let socket = folder.join(format!(".s.PGSQL.{port}"));
                let stream = UnixStream::connect(socket).await.map_err(unreachable)?;
                self.talk(stream, frames).await.map_err(refused)?
            }
            Place::Tcp(host, port) => {
                let stream = TcpStream::connect((*host, *port)).await.map_err(unreachable)?;
                stream.set_nodelay(true).map_err(unreachable)?;
                if self.wants_tls(host) {
                    let name = server_name(host).ok_or_else(|| LoginError::Name { at: (*host).to_owned() })?;
                    let tls = Rustls { config: self.tls.clone(), name, watch: frames };
                    let mut config = self.config();
                    config.ssl_mode(SslMode::Require);
                    let stream = Bounded::new(stream, None);
                    let (client, connection) = config.connect_raw(stream, tls).await.map_err(refused)?;
                    drive(connection);
                    client
                } else {
                    self.talk(stream, frames).await.map_err(refused)?
                }
            }
        };
        self.set_up(&client).await.map_err(refused)?;
        if self.config.get_target_session_attrs() == TargetSessionAttrs::ReadWrite {
            let row =
                client.query_one("SELECT current_setting('transaction_read_only')", &[]).await.map_err(refused)?;
            if row.try_get::<_, &str>(0).map_err(refused)? == "on" {
                return Err(LoginError::ReadOnly { at: place.to_string() });
            }
        }
        Ok(client)
    }

    /// TLS where the URL says so, and to every other machine unless it says not so.
    fn wants_tls(&self, host: &str) -> bool {
        let local = host.eq_ignore_ascii_case("localhost") || host.parse::<IpAddr>().is_ok_and(|it| it.is_loopback());
        match self.config.get_ssl_mode() {
            SslMode::Disable => false,
            SslMode::Require => true,
            _ => !local,
        }
    }

    async fn talk<S: Socket + 'static>(&self, stream: S, frames: Frames) -> Result<Client, tokio_postgres::Error> {
        let mut config = self.config();
        config.ssl_mode(SslMode::Disable);
        let (client, connection) = config.connect_raw(Bounded::new(stream, Some(frames)), NoTls).await?;
        drive(connection);
        Ok(client)
    }

    async fn set_up(&self, client: &Client) -> Result<(), tokio_postgres::Error> {
        if self.session.is_empty() {
            return Ok(());
        }
        let calls: Vec<_> = (1..).step_by(2).take(self.session.len()).collect();
        let calls: Vec<_> = calls.iter().map(|at| format!("set_config(${at}, ${}, false)", at + 1)).collect();
        let params: Vec<&(dyn ToSql + Sync)> =
            self.session.iter().flat_map(|(name, value)| [name as &(dyn ToSql + Sync), value]).collect();
        client.query(&format!("SELECT {}", calls.join(", ")), &params).await.map(drop)
    }
}

/// Where the server is, for people; without a password.
impl fmt::Display for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, place) in self.places().enumerate() {
            write!(f, "{}{place}", if at == 0 { "" } else { ", " })?;
        }
        Ok(())
    }
}

fn drive<S, T>(connection: tokio_postgres::Connection<S, T>)
where
    S: Socket + 'static,
    T: tokio_postgres::tls::TlsStream + Unpin + Send + 'static,
{
    tokio::spawn(async move {
        if let Err(error) = connection.await {
            tracing::debug!(%error, "a connection to the database ended");
        }
    });
}

fn trusting(certificates: Option<&Path>) -> Result<Arc<ClientConfig>, OpenError> {
    let mut roots = RootCertStore::empty();
    match certificates {
        None => roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned()),
        Some(file) => {
            let wrong = |reason: String| OpenError::Certificates { file: file.to_owned(), reason };
            let all = CertificateDer::pem_file_iter(file).map_err(|error| wrong(error.to_string()))?;
            for certificate in all {
                let certificate = certificate.map_err(|error| wrong(error.to_string()))?;
                roots.add(certificate).map_err(|error| wrong(error.to_string()))?;
            }
            if roots.is_empty() {
                return Err(wrong("it has no certificate in it; expected PEM".into()));
            }
        }
    }
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| OpenError::Url(error.to_string()))?;
    Ok(Arc::new(config.with_root_certificates(roots).with_no_client_auth()))
}

// === impl LoginError ===

impl LoginError {
    /// Whether the server has as many connections as it takes.
    pub(super) fn is_busy(&self) -> bool {
        matches!(self, Self::Refused { error, .. } if error.code() == Some(&SqlState::TOO_MANY_CONNECTIONS))
    }
}

// === impl Place ===

impl fmt::Display for Place<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(host, port) => write!(f, "{host}:{port}"),
            Self::Unix(folder, _) => write!(f, "{}", folder.display()),
        }
    }
}
