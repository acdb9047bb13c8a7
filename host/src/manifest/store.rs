//! `[store]` and `database`: where the services' data lives.

use std::path::PathBuf;

use super::{
    error::Placed,
    reader::{Table, Value},
    server_url::ServerUrl,
};

/// Where the databases of services are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Store {
    /// Each in a file, in the application's data folder.
    #[default]
    Files,
    /// Each in a schema of its own, on a PostgreSQL server.
    Server(StoreServer),
}

/// A PostgreSQL server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoreServer {
    /// Where it is, and the role that makes roles and schemas for the services.
    pub url: Placed<ServerUrl>,
    /// The certificates to trust, in place of the well-known ones.
    pub certificates: Option<Placed<PathBuf>>,
    /// The most connections of all services together; at least 1.
    pub connections: usize,
}

/// A service's database.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServiceDatabase {
    /// The URL of a role that is the service's own, in place of one that Wharf makes. Only on a server.
    pub url: Option<Placed<ServerUrl>>,
    /// The most connections of this service, if it is not the usual number; at least 1. Only on a server.
    pub connections: Option<Placed<usize>>,
}

const CONNECTIONS: usize = 32;
const MOST_CONNECTIONS: usize = 10_000;

fn postgres_url(value: &Value<'_>) -> Option<ServerUrl> {
    ServerUrl::read(value, ["postgres://", "postgresql://"], "postgres://user@127.0.0.1:5432/shop")
}

// === impl Store ===

impl Store {
    pub(super) fn read(mut table: Table<'_>) -> Self {
        let url = table.value("url");
        let certificates = table.optional("certificates", |value| value.path());
        let connections = table.value("connections");
        for (key, given) in [("connections", connections.is_some()), ("certificates", certificates.is_some())] {
            if given && url.is_none() {
                table.report_field(key, "this goes with `url`: databases in files have no server");
            }
        }
        let connections = connections.and_then(|value| value.integer(1..=MOST_CONNECTIONS)).unwrap_or(CONNECTIONS);
        let url = url.and_then(|value| Some(value.placed(postgres_url(&value)?)));
        table.finish();
        url.map_or(Self::Files, |url| Self::Server(StoreServer { url, certificates, connections }))
    }
}

// === impl ServiceDatabase ===

impl ServiceDatabase {
    /// Reads `true`, `false` or a table.
    pub(super) fn read(value: &Value<'_>) -> Option<Option<Self>> {
        if let Some(wanted) = value.as_boolean() {
            return Some(wanted.then(Self::default));
        }
        let Some(mut table) = value.is_table().then(|| value.table()).flatten() else {
            return value.expected("`true`, `false` or a table with `url` or `connections`");
        };
        let database = Self {
            url: table.optional("url", |value| Some(value.placed(postgres_url(value)?))),
            connections: table
                .optional("connections", |value| Some(value.placed(value.integer(1..=MOST_CONNECTIONS)?))),
        };
        table.finish();
        Some(Some(database))
    }
}
