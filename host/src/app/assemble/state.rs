//! Where the state of services is: databases, buckets, outboxes.

use super::{Post, StartError, host_id, way_of_mail};
use crate::{
    events::Bus,
    keyvalue::{Buckets, KeyValue, KeyValueConfig, KeyValueError},
    manifest::{self, Manifest, ManifestErrors},
    outbound::HttpClient,
    outbox::{self, Outbox},
    store::{Database, OpenError, Server, ServerSettings, Settings},
};
use futures::future::try_join_all;
use std::{collections::BTreeMap, sync::Arc};
use tokio::sync::OnceCell;

/// The server that the databases are on.
pub(super) fn server(manifest: &Manifest, store: &manifest::StoreServer) -> Result<Server, ManifestErrors> {
    let url = store.url.resolve().map_err(|error| manifest.error_at(&store.url, error))?;
    let settings = ServerSettings {
        app: manifest.app.name.clone(),
        url: url.expose().to_owned(),
        certificates: store.certificates.as_ref().map(|file| file.value.clone()),
        connections: store.connections,
    };
    Server::new(settings).map_err(|error| match (&error, &store.certificates) {
        (OpenError::Certificates { .. }, Some(file)) => manifest.error_at(file, error),
        _ => manifest.error_at(&store.url, error),
    })
}

/// What the state of all services stands on, and what their calls outside go by: the same for as long as the host runs.
pub(in crate::app) struct Grounds {
    pub client: HttpClient,
    /// Whom mail is left with; where it takes it can change.
    pub post: Arc<Post>,
    server: Option<Server>,
    key_value: OnceCell<KeyValue>,
}

// === impl Grounds ===

impl Grounds {
    pub fn new(manifest: &Manifest) -> Result<Self, ManifestErrors> {
        let server = match &manifest.store {
            manifest::Store::Files => None,
            manifest::Store::Server(store) => Some(server(manifest, store)?),
        };
        let post = Post::new(way_of_mail(manifest)?);
        Ok(Self { client: HttpClient::new(), post, server, key_value: OnceCell::new() })
    }

    /// The server of the databases, where there is one.
    pub fn server(&self) -> Option<&Server> {
        self.server.as_ref()
    }

    /// What keeps buckets, where any service has had some.
    pub fn opened_key_value(&self) -> Option<&KeyValue> {
        self.key_value.get()
    }

    /// What keeps buckets, from when the first service has some.
    async fn key_value(&self, manifest: &Manifest) -> Result<&KeyValue, StartError> {
        let start = async || {
            let config = match &manifest.key_value {
                None => KeyValueConfig::Sqlite,
                Some(url) => {
                    let secret = url.resolve().map_err(|error| manifest.error_at(url, error))?;
                    KeyValueConfig::Redis { url: secret.expose().to_owned(), app: manifest.app.name.clone() }
                }
            };
            Ok(KeyValue::start(config).await?)
        };
        self.key_value.get_or_try_init(start).await
    }
}

/// The database of each wanted service that has one, opened side by side.
pub(in crate::app) async fn databases(
    manifest: &Manifest,
    grounds: &Grounds,
    wanted: impl Fn(&str) -> bool,
) -> Result<BTreeMap<String, Database>, StartError> {
    let with = manifest.services.iter().filter(|(name, _)| wanted(name));
    let with = with.filter_map(|(name, service)| Some((name, service.database.as_ref()?)));
    let opening = with.map(|(name, database)| async move {
        let opened = match (&manifest.store, &grounds.server) {
            (manifest::Store::Server(store), Some(server)) => {
                on_server(manifest, store, server, name, database).await?
            }
            _ => Database::of_service(&manifest.app.data.value, name, Settings::default()).await?,
        };
        Ok::<_, StartError>((name.clone(), opened))
    });
    Ok(try_join_all(opening).await?.into_iter().collect())
}

async fn on_server(
    manifest: &Manifest,
    store: &manifest::StoreServer,
    server: &Server,
    service: &str,
    database: &manifest::ServiceDatabase,
) -> Result<Database, ManifestErrors> {
    let place = database.url.as_ref().unwrap_or(&store.url);
    let own = database.url.as_ref().map(|url| url.resolve()).transpose();
    let own = own.map_err(|error| manifest.error_at(place, error))?;
    let mut settings = Settings::default();
    if let Some(connections) = &database.connections {
        settings.connections = connections.value;
    }
    let opened = Database::on_server(server, service, own.as_ref().map(|url| url.expose()), settings).await;
    opened.map_err(|error| manifest.error_at(place, error))
}

/// The buckets of each wanted service that has some.
pub(in crate::app) async fn buckets(
    manifest: &Manifest,
    grounds: &Grounds,
    wanted: impl Fn(&str) -> bool,
) -> Result<BTreeMap<String, Buckets>, StartError> {
    let with = manifest.services.iter().filter(|(name, service)| wanted(name) && !service.buckets.is_empty());
    let with: Vec<_> = with.collect();
    if with.is_empty() {
        return Ok(BTreeMap::new());
    }
    let key_value = grounds.key_value(manifest).await?;
    let opening = with.into_iter().map(|(name, service)| {
        let names = service.buckets.iter().map(|bucket| bucket.value.clone());
        let opened = key_value.buckets(&manifest.app.data.value, name, names);
        async move { Ok::<_, KeyValueError>((name.clone(), opened.await?)) }
    });
    Ok(try_join_all(opening).await?.into_iter().collect())
}

/// Whether a service has an outbox: it has a database and may publish.
pub(in crate::app) fn has_outbox(service: &manifest::Service) -> bool {
    service.database.is_some() && !service.publishes.is_empty()
}

/// The outbox of each wanted service that has one.
pub(in crate::app) async fn outboxes(
    manifest: &Manifest,
    databases: &BTreeMap<String, Database>,
    bus: &Bus,
    wanted: impl Fn(&str) -> bool,
) -> Result<BTreeMap<String, Outbox>, StartError> {
    let host = match manifest.store {
        manifest::Store::Files => None,
        manifest::Store::Server(_) => Some(host_id(manifest)?),
    };
    let settings = outbox::Settings { host, ..outbox::Settings::default() };
    let with = manifest.services.iter().filter(|(name, service)| wanted(name) && has_outbox(service));
    let with = with.filter_map(|(name, _)| Some((name, databases.get(name)?)));
    let opening = with.map(|(name, database)| {
        let outbox = Outbox::open(name.as_str(), database.clone(), bus.clone(), settings.clone());
        async move { Ok::<_, StartError>((name.clone(), outbox.await?)) }
    });
    Ok(try_join_all(opening).await?.into_iter().collect())
}
