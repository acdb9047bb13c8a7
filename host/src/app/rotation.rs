//! Secrets that change while the host runs.
//!
//! Files and folders of secrets are read again every few seconds, and not watched: they are small, watches of them break on
//! the ways in which they are replaced (links to links, mounts, network file systems), and this goes on also where the
//! operator wants no watch of components. What is read twice alike is settled, so that nobody gets the half of a file.
//!
//! A service whose secrets are others is put in place anew, as [`Request::Secrets`], by the manifest that runs: the
//! manifest's file is not looked at. A secret that can't be had any more keeps its value, since whoever takes away a file
//! by mistake must not stop a service that runs.

use super::{
    App, ApplyError, Request,
    admin::{SharedToken, Token},
    assemble::{Settings, rotated},
    audit::{Came, Deed, Who},
};
use crate::manifest::{self, Manifest, Secret, SecretError, ServerUrl, Store};
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::Arc,
    time::Duration,
};
use tokio::time::{Instant, MissedTickBehavior, interval};

/// Between two looks at the secrets.
const PERIOD: Duration = Duration::from_secs(2);
/// The longest pause between two tries to put a service in place that does not take its new secrets.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// What the secrets of one service come to now. Made where they are looked at.
#[derive(Clone, Debug, PartialEq)]
pub struct Rotated {
    pub(super) manifest: Arc<Manifest>,
    pub(super) service: String,
    pub(super) settings: Settings,
}

/// What was found at one time.
#[derive(Debug, Default, PartialEq)]
struct Look {
    /// The services whose settings are not those that they run with.
    services: Vec<Rotated>,
    token: Option<Secret>,
    /// The URLs of servers.
    servers: BTreeMap<Holder, Secret>,
    /// What can't be had, with its place.
    troubles: BTreeSet<String>,
}

#[derive(Default)]
struct Rotation {
    last: Look,
    /// What was said already, and still holds.
    told: BTreeSet<String>,
    failing: BTreeMap<String, Failing>,
    servers: BTreeMap<Holder, Secret>,
}

/// What of the host is reached by a URL with a password.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Holder {
    Store,
    Bus,
    KeyValue,
    /// The database of this service, by a role of its own.
    Database(String),
}

/// A service that did not take its new secrets.
struct Failing {
    reason: String,
    pause: Duration,
    not_before: Instant,
}

/// Looks after them until dropped.
pub(super) async fn rotate(app: Arc<App>) {
    let mut rotation = Rotation { servers: servers(&app.manifest()).0, ..Rotation::default() };
    let mut ticks = interval(PERIOD);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let (manifest, members) = (app.manifest(), app.rollout.members());
        let looking = tokio::task::spawn_blocking(move || {
            Look::new(&manifest, |service| members.get(service).map(|member| member.terms.scope.config.clone()))
        });
        if let Ok(look) = looking.await {
            rotation.go_on(&app, look).await;
        }
    }
}

/// The URLs of servers as they are now, where they are kept in files.
fn servers(manifest: &Manifest) -> (BTreeMap<Holder, Secret>, BTreeSet<String>) {
    let store = match &manifest.store {
        Store::Server(store) => Some((Holder::Store, &store.url)),
        Store::Files => None,
    };
    let bus = match &manifest.bus {
        manifest::Bus::RedisStreams(url, _) | manifest::Bus::RedisPubsub(url) => Some((Holder::Bus, url)),
        manifest::Bus::Embedded(_) => None,
    };
    let key_value = manifest.key_value.as_ref().map(|url| (Holder::KeyValue, url));
    let own = manifest
        .services
        .iter()
        .filter_map(|(name, service)| Some((Holder::Database(name.clone()), service.database.as_ref()?.url.as_ref()?)));
    let (mut urls, mut troubles) = (BTreeMap::new(), BTreeSet::new());
    for (holder, url) in store.into_iter().chain(bus).chain(key_value).chain(own) {
        let ServerUrl::Kept(reference) = &url.value else { continue };
        match reference.resolve_again() {
            Some(Ok(value)) => _ = urls.insert(holder, value),
            Some(Err(error)) => _ = troubles.insert(told(&url.key, &error)),
            None => {}
        }
    }
    (urls, troubles)
}

fn told(key: &str, error: &SecretError) -> String {
    format!("{key}: {error}")
}

/// The keys of settings that are others now.
fn changed(before: &Settings, after: &Settings) -> Vec<String> {
    let keys: BTreeSet<_> = before.keys().chain(after.keys()).collect();
    keys.into_iter().filter(|key| before.get(*key) != after.get(*key)).cloned().collect()
}

// === impl Holder ===

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Store => f.write_str("store.url"),
            Self::Bus => f.write_str("events.redis"),
            Self::KeyValue => f.write_str("key-value.redis"),
            Self::Database(service) => write!(f, "services.{service}.database.url"),
        }
    }
}

// === impl Look ===

impl Look {
    fn new(manifest: &Arc<Manifest>, present: impl Fn(&str) -> Option<Settings>) -> Self {
        let mut look = Self::default();
        for (name, service) in &manifest.services {
            if service.secrets == manifest::Secrets::default() {
                continue;
            }
            let Some(present) = present(name) else { continue };
            let (settings, troubles) = rotated(service, &present);
            look.troubles.extend(troubles.iter().map(|trouble| told(&trouble.key, trouble)));
            if settings != present {
                look.services.push(Rotated { manifest: manifest.clone(), service: name.clone(), settings });
            }
        }
        if let manifest::Admin::Listen { token, .. } = &manifest.admin {
            match token.resolve_again() {
                Some(Ok(secret)) => look.token = Some(secret),
                Some(Err(error)) => _ = look.troubles.insert(told(&token.key, &error)),
                None => {}
            }
        }
        let (servers, troubles) = servers(manifest);
        look.troubles.extend(troubles);
        look.servers = servers;
        look
    }
}

// === impl Rotation ===

impl Rotation {
    /// Takes over what is as it was at the last look.
    async fn go_on(&mut self, app: &Arc<App>, look: Look) {
        let last = std::mem::replace(&mut self.last, look);
        let standing: BTreeSet<_> = self.last.troubles.intersection(&last.troubles).cloned().collect();
        for trouble in standing.difference(&self.told) {
            tracing::warn!("{trouble}; what was there before is used on");
        }
        self.told = standing;
        if let (Some(token), Some(secret)) = (&app.token, &self.last.token)
            && last.token.as_ref() == Some(secret)
        {
            replace_token(app, token, secret).await;
        }
        let settled = self.last.servers.iter().filter(|(holder, url)| last.servers.get(*holder) == Some(*url));
        for (holder, url) in settled {
            // What was not there at the start is of a manifest that was brought about since.
            let known = self.servers.insert(holder.clone(), url.clone());
            if known.is_some_and(|known| known != *url) {
                log_in_by(app, holder, url).await;
            }
        }
        let is_settled = |it: &&Rotated| last.services.contains(it);
        let settled: Vec<_> = self.last.services.iter().filter(is_settled).cloned().collect();
        self.failing.retain(|name, _| settled.iter().any(|it| it.service == *name));
        for rotated in settled {
            self.put_in_place(app, rotated).await;
        }
    }

    async fn put_in_place(&mut self, app: &Arc<App>, rotated: Rotated) {
        let service = rotated.service.clone();
        if self.failing.get(&service).is_some_and(|failing| Instant::now() < failing.not_before) {
            return;
        }
        let Some(member) = app.rollout.members().get(&service).cloned() else { return };
        let secrets = changed(&member.terms.scope.config, &rotated.settings).join(", ");
        let deed = Deed::new("rotate secrets").to(service.as_str()).detailed(secrets.as_str());
        match app.apply(Request::Secrets(rotated)).await {
            Ok(_) => {
                self.failing.remove(&service);
                tracing::info!(service, secrets, "secrets rotated");
                app.audit.note(&Who::Watch, &deed, Came::Done).await;
            }
            // Another manifest was brought about meanwhile: the next look is at that.
            Err(ApplyError::Stale) => {}
            Err(error) => {
                let (reason, before) = (error.to_string(), self.failing.remove(&service));
                let pause = before.as_ref().map_or(PERIOD, |before| (before.pause * 2).min(LONGEST_PAUSE));
                if before.is_none_or(|before| before.reason != reason) {
                    tracing::error!(service, secrets, %error, "the changed secrets are not in use yet; trying again");
                    app.audit.note(&Who::Watch, &deed.because(reason.as_str()), Came::Refused).await;
                }
                self.failing.insert(service, Failing { reason, pause, not_before: Instant::now() + pause });
            }
        }
    }
}

/// What is reached by a URL is reached by its new password from now on.
async fn log_in_by(app: &App, holder: &Holder, url: &Secret) {
    let url = url.expose();
    let done = match holder {
        Holder::Store => app.grounds.server().is_some_and(|server| server.log_in_by(url)),
        Holder::Bus => app.bus.log_in_by(url),
        // What was not opened yet reads it when it is.
        Holder::KeyValue => app.grounds.opened_key_value().is_none_or(|kept| kept.log_in_by(url)),
        Holder::Database(service) => {
            app.parts.load().databases.get(service).is_some_and(|database| database.log_in_by(url))
        }
    };
    let key = holder.to_string();
    if done {
        tracing::info!(key, "the password of the URL was rotated");
        app.audit.note(&Who::Watch, &Deed::new("rotate secrets").detailed(key), Came::Done).await;
    } else {
        tracing::warn!(key, "the URL says something other than another password, and that takes a restart of the host");
    }
}

async fn replace_token(app: &App, token: &SharedToken, secret: &Secret) {
    let new = Token::new(secret.clone());
    if **token.load() == new {
        return;
    }
    token.store(Arc::new(new));
    tracing::info!("the token of the admin API was rotated");
    app.audit.note(&Who::Watch, &Deed::new("rotate secrets").detailed("admin.token"), Came::Done).await;
}
