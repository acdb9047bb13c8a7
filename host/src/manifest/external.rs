//! `[services.<name>]` of a service outside: where its endpoints are, and how calls are spread over them.

use std::{path::PathBuf, time::Duration};

use super::{
    error::Placed,
    origin::{Origin, Scheme},
    policy::{or_refused, read_breaker_keys, switchable},
    reader::{Table, Value, did_you_mean, quoted},
    values::{LONGEST, SHORTEST},
};
use crate::policy::{
    Balance, BalancePolicy, BreakerParams, BreakerPolicy, HealthParams, HealthPolicy, OutlierPolicy, bounds,
};

/// A service that runs somewhere else and is called by HTTP. Who calls it can't tell, so that a system can move over one
/// service at a time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExternalService {
    /// Its name; the same rule as for services.
    pub name: Placed<String>,
    /// Where its endpoints are.
    pub addresses: Addresses,
    /// How calls are spread over them, and who is left out.
    pub balance: BalancePolicy,
    /// The path and query that probes ask for, where there are probes.
    pub probe: Option<String>,
    /// The file with the certificates of the authorities that are trusted, in place of Mozilla's list. With one, at least
    /// one endpoint is spoken to by TLS.
    pub ca: Option<Placed<PathBuf>>,
}

/// Where the endpoints of an external service are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Addresses {
    /// At these origins, at least one.
    List(Vec<Placed<Origin>>),
    /// At each address that the origin's host resolves to.
    Dns {
        /// The origin.
        origin: Placed<Origin>,
        /// How often its host is resolved again.
        refresh: Duration,
    },
}

/// What only a service that runs here can have.
const OF_COMPONENTS: [&str; 14] = [
    "signed-by",
    "database",
    "buckets",
    "publishes",
    "subscribes",
    "awaits",
    "sagas",
    "calls",
    "outbound",
    "mail",
    "config",
    "secrets",
    "instances",
    "limits",
];
/// What says that a service is a component.
const COMPONENT: [&str; 4] = ["source", "component", "build", "artifact"];
/// What only an external service can have.
const OF_EXTERNAL: [&str; 5] = ["refresh", "balance", "outlier", "health", "ca"];
/// What an error says that finds both.
pub(super) const EITHER: &str = "expected either a component (`source` or `component`) or an external service \
                                 (`endpoints` or `dns`)";

/// More would be probed all the time; a service of that size has a name and a balancer of its own.
const MOST_ENDPOINTS: usize = 1000;

/// Whether a service's table is that of an external one.
pub(super) fn is_external(table: &Table<'_>) -> bool {
    table.has("endpoints") || table.has("dns")
}

/// Reports what makes no sense in the table of a component.
pub(super) fn refuse_in_component(table: &mut Table<'_>) {
    for key in OF_EXTERNAL {
        table.refuse(key, format_args!("`{key}` goes with `endpoints` or `dns`, those of an external service"));
    }
}

// === impl ExternalService ===

impl ExternalService {
    pub(super) fn read(name: Placed<String>, mut table: Table<'_>) -> Self {
        for key in COMPONENT {
            table.refuse(key, format_args!("{EITHER}, found both"));
        }
        for key in OF_COMPONENTS {
            let message = format_args!("`{key}` is for services that run here, and {} is external", quoted(&name));
            table.refuse(key, message);
        }
        let addresses = Addresses::read(&mut table);
        let balance = table.or("balance", Balance::default(), balance);
        let outlier = switchable(&mut table, "outlier", Some(OutlierPolicy::default()), read_outlier);
        let (health, probe) = switchable(&mut table, "health", None, read_health).unzip();
        let ca = table.value("ca").and_then(|value| {
            let ca = value.path()?;
            match addresses.origins().any(|origin| origin.scheme == Scheme::Https) || table.has_errors() {
                true => Some(ca),
                false => value.report("`ca` goes with `https://`: it says whose certificates are trusted"),
            }
        });
        table.finish();
        Self { name, addresses, balance: BalancePolicy { balance, outlier, health }, probe, ca }
    }
}

// === impl Addresses ===

impl Addresses {
    fn read(table: &mut Table<'_>) -> Self {
        // Read through `value`, so that one which is there but wrong is not called missing as well.
        let (list, dns, refresh) = (table.value("endpoints"), table.value("dns"), table.value("refresh"));
        // Never handed out: what could not be read is reported.
        let nothing = table.placed(Origin { scheme: Scheme::Http, host: String::new(), port: 0 });
        match (list, dns) {
            (_, Some(dns)) => {
                if table.has("endpoints") {
                    dns.report::<()>("expected either `endpoints` (a list) or `dns` (a name to resolve), found both");
                }
                let refresh = refresh.and_then(|value| value.duration(SHORTEST..=LONGEST));
                let origin = Origin::read_endpoint(&dns).map(|origin| dns.placed(origin));
                Self::Dns { origin: origin.unwrap_or(nothing), refresh: refresh.unwrap_or(Duration::from_secs(30)) }
            }
            (list, None) => {
                if let Some(refresh) = refresh {
                    refresh.report::<()>("`refresh` goes with `dns`; a list stays as it is");
                }
                let origins = list.and_then(|list| {
                    let origins = Origin::read_endpoints(&list)?;
                    match origins.len() {
                        1..=MOST_ENDPOINTS => Some(origins),
                        // What was in it is reported already.
                        0 if table.has_errors() => None,
                        _ => list.report(format!("expected 1 to {MOST_ENDPOINTS} endpoints, found {}", origins.len())),
                    }
                });
                Self::List(origins.unwrap_or_else(|| vec![nothing]))
            }
        }
    }

    fn origins(&self) -> impl Iterator<Item = &Placed<Origin>> {
        let (list, dns) = match self {
            Self::List(origins) => (origins.as_slice(), None),
            Self::Dns { origin, .. } => (&[][..], Some(origin)),
        };
        list.iter().chain(dns)
    }

    /// What says where the endpoints are: the first of `endpoints`, or `dns`.
    pub fn place(&self) -> Option<&Placed<Origin>> {
        match self {
            Self::List(origins) => origins.first(),
            Self::Dns { origin, .. } => Some(origin),
        }
    }
}

fn balance(value: &Value<'_>) -> Option<Balance> {
    let name = value.str("\"round-robin\" or \"least-loaded\"")?;
    Balance::ALL.into_iter().find(|balance| balance.as_str() == name).or_else(|| {
        let meant = did_you_mean(name, Balance::ALL.iter().map(|balance| balance.as_str()));
        value.expected(format_args!("\"round-robin\" or \"least-loaded\"{meant}"))
    })
}

fn read_outlier(mut table: Table<'_>) -> OutlierPolicy {
    let base = OutlierPolicy::default();
    let mut params = *base.breaker().params();
    let max_open = params.max_open.take().filter(|_| !table.has("max-open"));
    let mut breaker = read_breaker_keys(&mut table, BreakerPolicy::try_new(params).unwrap_or(*base.breaker()));
    if let Some(max_open) = max_open {
        // Nobody wrote it, so it gives way to what is written.
        let params = *breaker.params();
        let longer = BreakerParams { max_open: Some(max_open.max(params.open)), ..params };
        breaker = BreakerPolicy::try_new(longer).unwrap_or(breaker);
    }
    let max_ejected = table.or("max-ejected", base.max_ejected(), |v| v.integer(bounds::PERCENT));
    let policy = or_refused(&table, OutlierPolicy::try_new(breaker, max_ejected), || base);
    table.finish();
    policy
}

fn read_health(mut table: Table<'_>) -> (HealthPolicy, String) {
    let base = HealthParams::default();
    let path = table.required("path", "the path that probes ask for, such as \"/health\"", |value| {
        let path = value.string()?;
        let is_path = path.starts_with('/') && path.parse::<http::uri::PathAndQuery>().is_ok();
        if is_path { Some(path) } else { value.expected("a path such as \"/health\"") }
    });
    let interval = table.or("interval", base.interval, |v| v.duration(SHORTEST..=LONGEST));
    let params = HealthParams {
        interval,
        timeout: table.or("timeout", base.timeout.min(interval), |v| v.duration(SHORTEST..=LONGEST)),
        healthy: table.or("healthy", base.healthy, |v| v.integer(bounds::PROBES)),
        unhealthy: table.or("unhealthy", base.unhealthy, |v| v.integer(bounds::PROBES)),
    };
    let policy = or_refused(&table, HealthPolicy::try_new(params), HealthPolicy::default);
    table.finish();
    (policy, path.unwrap_or_default())
}
