//! Where the state of services is: databases, buckets, outboxes.

use super::{StartError, host_id};
use crate::{
    events::Bus,
    keyvalue::{Buckets, KeyValue, KeyValueConfig, KeyValueError},
    manifest::{self, Manifest, ManifestErrors},
    outbox::{self, Outbox},
    store::{Database, OpenError, Server, ServerSettings, Settings},
};
use futures::future::try_join_all;
use std::collections::BTreeMap;

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

/// The database of each service that has one, opened side by side.
pub(super) async fn databases(manifest: &Manifest) -> Result<BTreeMap<String, Database>, StartError> {
    let server = match &manifest.store {
        manifest::Store::Files => None,
        manifest::Store::Server(store) => Some((store, server(manifest, store)?)),
    };
    let with = manifest.services.iter().filter_map(|(name, service)| Some((name, service.database.as_ref()?)));
    let opening = with.map(|(name, database)| {
        let server = server.as_ref();
        async move {
            let opened = match server {
                None => Database::of_service(&manifest.app.data.value, name, Settings::default()).await?,
                Some((store, server)) => on_server(manifest, store, server, name, database).await?,
            };
            Ok::<_, StartError>((name.clone(), opened))
        }
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

/// The buckets of each service that has some.
pub(super) async fn buckets(manifest: &Manifest) -> Result<BTreeMap<String, Buckets>, StartError> {
    let with: Vec<_> = manifest.services.iter().filter(|(_, service)| !service.buckets.is_empty()).collect();
    if with.is_empty() {
        return Ok(BTreeMap::new());
    }
    let config = match &manifest.key_value {
        None => KeyValueConfig::Sqlite,
        Some(url) => {
            let secret = url.resolve().map_err(|error| manifest.error_at(url, error))?;
            KeyValueConfig::Redis { url: secret.expose().to_owned(), app: manifest.app.name.clone() }
        }
    };
    let key_value = KeyValue::start(config).await?;
    let opening = with.into_iter().map(|(name, service)| {
        let names = service.buckets.iter().map(|bucket| bucket.value.clone());
        let opened = key_value.buckets(&manifest.app.data.value, name, names);
        async move { Ok::<_, KeyValueError>((name.clone(), opened.await?)) }
    });
    Ok(try_join_all(opening).await?.into_iter().collect())
}

/// The outbox of each service that has a database and may publish.
pub(super) async fn outboxes(
    manifest: &Manifest,
    databases: &BTreeMap<String, Database>,
    bus: &Bus,
) -> Result<BTreeMap<String, Outbox>, StartError> {
    let host = match manifest.store {
        manifest::Store::Files => None,
        manifest::Store::Server(_) => Some(host_id(manifest)?),
    };
    let settings = outbox::Settings { host, ..outbox::Settings::default() };
    let publishing = databases.iter().filter(|(name, _)| !manifest.services[*name].publishes.is_empty());
    let opening = publishing.map(|(name, database)| {
        let outbox = Outbox::open(name.as_str(), database.clone(), bus.clone(), settings.clone());
        async move { Ok::<_, StartError>((name.clone(), outbox.await?)) }
    });
    Ok(try_join_all(opening).await?.into_iter().collect())
}
