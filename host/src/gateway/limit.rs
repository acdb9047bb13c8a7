//! Rate limits of routes: who it is that asks, and what the client is told.
//!
//! What it is told, with every answer of a limited route, are the fields of draft-ietf-httpapi-ratelimit-headers-11:
//!
//! ```text
//! RateLimit-Policy: "POST /api/orders";q=100;w=1;wharf-burst=20
//! RateLimit: "POST /api/orders";r=19;t=1
//! ```
//!
//! 100 requests in a second, 20 of them at once, of which 19 are left, and in a second at the latest there are more.
//! The draft knows windows and no bursts, so these are a parameter of this vendor's, where they are not the quota itself.
//! A refusal is a 429 with the draft's problem type, and its `Retry-After` is the same moment as `t`.
//!
//! The draft's partition key is left out: it would be the client's address or secret, which the client knows.

use super::{
    problem::{Problem, whole_seconds},
    routes::methods_and_path,
};
use crate::policy::{Quota, RateLimitKey, RateLimitPolicy, RateLimitSnapshot, RateLimiter};
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use serde::{Deserialize, Serialize};
use std::{
    fmt::Write,
    net::{IpAddr, Ipv6Addr},
    sync::{Arc, OnceLock},
    time::Duration,
};
use tokio::time::Instant;

const RATE_LIMIT: HeaderName = HeaderName::from_static("ratelimit");
const RATE_LIMIT_POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");

/// The largest integer of a structured field (RFC 9651, 3.3.1).
const MAX_INTEGER: u128 = 999_999_999_999_999;

/// The limit of one route.
#[derive(Debug)]
pub(super) struct RouteLimit {
    /// The route's methods and pattern: no two limits have the same.
    name: Arc<str>,
    /// The name as a structured field's string.
    quoted: String,
    policy_field: HeaderValue,
    policy: RateLimitPolicy,
    /// The header that holds the key, if one does.
    header: Option<HeaderName>,
    /// Made when it is first asked for, or taken over from the routes before.
    live: OnceLock<Arc<RateLimiter>>,
}

/// The limit of one route as people see it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RouteLimitSnapshot {
    /// The route's methods, where it does not take all, and its pattern.
    pub route: String,
    /// The limit. What was counted under another one, before the manifest changed, is not in it.
    #[serde(flatten)]
    pub limit: RateLimitSnapshot,
}

/// Whose requests are counted.
#[derive(Hash)]
enum Key<'a> {
    Client(IpAddr),
    Header(&'a [u8]),
}

/// The part of a peer's address that tells one client from another. With IPv6 a client has a network of 64 bits (RFC
/// 6177), and could use an address of its own for each request.
pub(super) fn client_of(peer: IpAddr) -> IpAddr {
    match peer.to_canonical() {
        IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() & (u128::MAX << 64))),
        address => address,
    }
}

// === impl RouteLimit ===

impl RouteLimit {
    /// A limit for the requests of these methods that match the pattern; no methods are all.
    pub(super) fn new(methods: &[Method], pattern: &str, policy: RateLimitPolicy) -> Self {
        let name = methods_and_path(methods, pattern);
        let mut quoted = String::from('"');
        for char in name.chars() {
            match char {
                '"' | '\\' => quoted.extend(['\\', char]),
                ' '..='~' => quoted.push(char),
                _ => quoted.push('?'),
            }
        }
        quoted.push('"');
        let header = match &policy.params().key {
            // The policy has made sure that it can be one.
            RateLimitKey::Header(name) => name.parse().ok(),
            RateLimitKey::Route | RateLimitKey::Client => None,
        };
        let policy_field = policy_field(&quoted, &policy);
        Self { name: name.into(), quoted, policy_field, policy, header, live: OnceLock::new() }
    }

    /// Goes on with what `before` has counted, if that is the same limit.
    pub(super) fn take_over(&self, before: &Self) {
        if self.name == before.name && self.policy == before.policy {
            // Nobody has asked this one yet; and had somebody, it would stay as it is.
            let _ = self.live.set(before.live().clone());
        }
    }

    /// The limit as it is now.
    pub(super) fn snapshot(&self) -> RouteLimitSnapshot {
        let limit = self.live.get().map_or_else(|| self.policy.snapshot(), |live| live.snapshot());
        RouteLimitSnapshot { route: self.name.to_string(), limit }
    }

    fn live(&self) -> &Arc<RateLimiter> {
        self.live.get_or_init(|| Arc::new(RateLimiter::new(self.policy.clone())))
    }

    /// Counts a request.
    pub(super) fn take(&self, client: IpAddr, headers: &HeaderMap) -> Quota {
        let mut values = self.header.as_ref().map(|name| headers.get_all(name).iter()).into_iter().flatten();
        let key = match (values.next(), values.next()) {
            (Some(value), None) => Key::Header(value.as_bytes()),
            // NB: of two values the service may read the other one. Then the first, made up for each request, would
            // take the limit from the second.
            _ => Key::Client(client),
        };
        self.live().take(&key, Instant::now())
    }

    /// The answer to a request that was not granted.
    #[cold]
    pub(super) fn refusal(&self, quota: &Quota) -> Problem {
        let params = self.policy.params();
        let whom = match &params.key {
            RateLimitKey::Route => "this route",
            RateLimitKey::Client => "one client",
            RateLimitKey::Header(name) => &format!("one {name}"),
        };
        let (requests, per) = (params.requests, params.per);
        let detail = format!("the limit of {requests} per {per:?} for {whom} is used up");
        let mut problem = Problem::new(StatusCode::TOO_MANY_REQUESTS, detail);
        problem.retry_after = Some(quota.more_in);
        problem.violated = Some(self.name.clone());
        problem
    }

    /// Puts what the client may know into its answer. A service that has limits of its own has said so in the same
    /// fields, which are lists.
    pub(super) fn tell(&self, headers: &mut HeaderMap, quota: &Quota) {
        let mut field = String::with_capacity(self.quoted.len() + 32);
        // A string takes all.
        let _ = write!(field, "{};r={};t={}", self.quoted, quota.left, whole_seconds(quota.more_in));
        headers.append(RATE_LIMIT_POLICY, self.policy_field.clone());
        if let Ok(field) = HeaderValue::from_maybe_shared(Bytes::from(field)) {
            headers.append(RATE_LIMIT, field);
        }
    }
}

fn policy_field(quoted: &str, policy: &RateLimitPolicy) -> HeaderValue {
    let params = policy.params();
    // Windows are whole seconds there.
    let window = whole_seconds(params.per);
    let scaled = u128::from(params.requests) * Duration::from_secs(window).as_nanos() / params.per.as_nanos();
    let quota = scaled.min(MAX_INTEGER);
    let mut field = format!("{quoted};q={quota};w={window}");
    if u128::from(policy.burst()) != quota {
        // A string takes all.
        let _ = write!(field, ";wharf-burst={}", policy.burst());
    }
    // It is all printable.
    HeaderValue::try_from(field).unwrap_or(HeaderValue::from_static("\"?\""))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::RateLimitParams;

    fn limit(methods: &[Method], pattern: &str, params: RateLimitParams) -> RouteLimit {
        RouteLimit::new(methods, pattern, RateLimitPolicy::try_new(params).unwrap())
    }

    fn params(requests: u32, millis: u64, burst: Option<u32>) -> RateLimitParams {
        RateLimitParams { requests, per: Duration::from_millis(millis), burst, key: RateLimitKey::Client }
    }

    #[test]
    fn the_policy_is_a_structured_field() {
        for (params, field) in [
            (params(100, 1000, None), r#""/a";q=100;w=1"#),
            (params(100, 1000, Some(20)), r#""/a";q=100;w=1;wharf-burst=20"#),
            (params(10, 100, None), r#""/a";q=100;w=1;wharf-burst=10"#),
            (params(1, 1500, None), r#""/a";q=1;w=2"#),
            (params(1_000_000, 86_400_000, None), r#""/a";q=1000000;w=86400"#),
        ] {
            assert_eq!(limit(&[], "/a", params).policy_field, field);
        }
        let params = RateLimitParams { per: Duration::from_nanos(1), ..params(1_000_000, 1, None) };
        assert_eq!(limit(&[], "/a", params).policy_field, r#""/a";q=999999999999999;w=1;wharf-burst=1000000"#);
    }

    #[test]
    fn its_name_is_the_routes_and_a_string_whatever_is_in_it() {
        let quoted = |methods: &[Method], path| limit(methods, path, params(1, 1000, None)).quoted;
        assert_eq!(quoted(&[Method::POST, Method::GET], "/a/{*rest}"), r#""GET,POST /a/{*rest}""#);
        assert_eq!(quoted(&[], "/\"\\ü\n"), r#""/\"\\??""#);
    }

    #[test]
    fn a_client_is_an_address_and_with_ipv6_a_network() {
        let client = |peer: &str| client_of(peer.parse().unwrap()).to_string();
        assert_eq!(client("192.0.2.7"), "192.0.2.7");
        assert_eq!(client("::ffff:192.0.2.7"), "192.0.2.7");
        assert_eq!(client("2001:db8:1:2:3:4:5:6"), "2001:db8:1:2::");
        assert_eq!(client("::1"), "::");
    }

    #[tokio::test(start_paused = true)]
    async fn a_header_that_is_missing_or_ambiguous_counts_for_the_address() {
        let key = RateLimitKey::Header("x-api-key".into());
        let limit = limit(&[], "/", RateLimitParams { key, ..params(1, 1000, None) });
        let client = |last| IpAddr::from([192, 0, 2, last]);
        let take = |last, keys: &[&'static str]| {
            let name = HeaderName::from_static("x-api-key");
            let headers = keys.iter().map(|key| (name.clone(), HeaderValue::from_static(key))).collect();
            limit.take(client(last), &headers).granted
        };
        assert!(take(1, &["a"]));
        assert!(!take(2, &["a"]), "the same key from elsewhere");
        assert!(take(1, &["b"]));
        assert!(take(1, &[]));
        assert!(!take(1, &["c", "d"]), "the address is used up");
        assert!(take(2, &["c", "d"]));
        assert!(!take(2, &[]));
    }
}
