//! Origins outside that a service may send requests to.

use std::{fmt, net::Ipv6Addr};

use http::Uri;

use super::{
    error::Placed,
    reader::{Value, quoted},
};

/// A scheme, a host and a port: all that a grant speaks of. Two origins are the same if they are equal.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Origin {
    /// Whether it is spoken to by TLS.
    pub scheme: Scheme,
    /// The host in lower case; an IPv6 address stands in brackets.
    pub host: String,
    /// The port, also where the scheme's own was left out.
    pub port: u16,
}

/// How an origin is spoken to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Scheme {
    /// In the clear.
    Http,
    /// By TLS.
    Https,
}

/// Names under this stand for services in this process.
const INTERNAL: &str = ".internal";

// === impl Scheme ===

impl Scheme {
    /// `http` or `https`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Https => "https",
        }
    }

    /// The port that is meant where none is given.
    pub const fn default_port(self) -> u16 {
        match self {
            Self::Http => 80,
            Self::Https => 443,
        }
    }
}

// === impl Origin ===

impl Origin {
    /// Reads `scheme://host[:port]`; `None` for anything else.
    pub fn parse(text: &str) -> Option<Self> {
        let (scheme, authority) = text.split_once("://")?;
        let scheme = match scheme.to_ascii_lowercase().as_str() {
            "http" => Scheme::Http,
            "https" => Scheme::Https,
            _ => return None,
        };
        // The colons of an IPv6 address are within its brackets.
        let end = authority.rfind(']').map_or(0, |bracket| bracket + 1);
        let (host, port) = match authority[end..].find(':') {
            Some(colon) => (&authority[..end + colon], parse_port(&authority[end + colon + 1..])?),
            None => (authority, scheme.default_port()),
        };
        let host = host.to_ascii_lowercase();
        is_host(&host).then_some(Self { scheme, host, port })
    }

    /// The origin as a URI with the path `/`.
    pub fn to_uri(&self) -> Uri {
        // What `parse` lets through is a URI; the tests hold it to that.
        self.to_string().parse().unwrap_or_default()
    }

    /// Reads the origins that a service may call, none twice.
    pub(super) fn read_all(value: &Value<'_>) -> Option<Vec<Placed<Self>>> {
        Self::read_each(value, |service| {
            format!("services are reached by `calls`, not `outbound`; list {} there", quoted(service))
        })
    }

    /// Reads the endpoints of an external service, none twice.
    pub(super) fn read_endpoints(value: &Value<'_>) -> Option<Vec<Placed<Self>>> {
        Self::read_each(value, not_outside)
    }

    /// Reads the origin of an external service.
    pub(super) fn read_endpoint(value: &Value<'_>) -> Option<Self> {
        Self::read(value, &not_outside)
    }

    fn read_each(value: &Value<'_>, internal: impl Fn(&str) -> String) -> Option<Vec<Placed<Self>>> {
        let mut origins: Vec<Placed<Self>> = Vec::new();
        for item in value.items("an array of origins")? {
            let Some(origin) = Self::read(&item, &internal) else { continue };
            if origins.iter().any(|known| known.value == origin) {
                item.report::<()>(format!("{} is listed twice", quoted(&origin.to_string())));
            } else {
                origins.push(item.placed(origin));
            }
        }
        Some(origins)
    }

    /// Reads an origin outside; `internal` says what is wrong with the name of a service here.
    fn read(value: &Value<'_>, internal: &impl Fn(&str) -> String) -> Option<Self> {
        let Some(origin) = value.as_str().and_then(Self::parse) else {
            return value
                .expected("an origin, scheme://host[:port] without a path, such as \"https://api.example.com\"");
        };
        match origin.host.strip_suffix(INTERNAL) {
            Some(service) => value.report(internal(service)),
            None => Some(origin),
        }
    }
}

fn not_outside(service: &str) -> String {
    format!("{} is a service of this manifest, by its name; an endpoint is outside", quoted(service))
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}", self.scheme.as_str(), self.host)?;
        if self.port == self.scheme.default_port() { Ok(()) } else { write!(f, ":{}", self.port) }
    }
}

fn parse_port(text: &str) -> Option<u16> {
    let digits = text.bytes().all(|b| b.is_ascii_digit());
    text.parse().ok().filter(|port| digits && *port != 0)
}

fn is_host(host: &str) -> bool {
    if let Some(address) = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        return address.parse::<Ipv6Addr>().is_ok();
    }
    let label = |label: &str| {
        !label.is_empty()
            && label.len() <= 63
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
    };
    host.len() <= 253 && host.split('.').all(label)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn origins() {
        for (text, shown) in [
            ("https://api.example.com", "https://api.example.com"),
            ("HTTPS://API.example.com:443", "https://api.example.com"),
            ("http://127.0.0.1:8080", "http://127.0.0.1:8080"),
            ("http://[::1]:8080", "http://[::1]:8080"),
            ("http://[::1]", "http://[::1]"),
            ("http://localhost:80", "http://localhost"),
        ] {
            assert_eq!(Origin::parse(text).map(|o| o.to_string()).as_deref(), Some(shown), "{text}");
        }
        for bad in [
            "",
            "api.example.com",
            "ftp://x",
            "https://",
            "https://x/",
            "https://x/path",
            "https://x?q",
            "https://u@x",
            "https://x:0",
            "https://x:99999",
            "https://x:+1",
            "https://x:",
            "https://*.example.com",
            "https://a..b",
            "http://[::1",
            "http://::1",
            "http://[x]",
            "http://[::1]x:1",
            "https://exämple.com",
        ] {
            assert_eq!(Origin::parse(bad), None, "{bad}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in "(https?://)?(.*|[a-zA-Z0-9._-]{1,12}|\\[[0-9a-f:.]{2,9}\\])(:[0-9]{1,6})?") {
            if let Some(origin) = Origin::parse(&text) {
                let uri = origin.to_uri();
                prop_assert_eq!(uri.host(), Some(origin.host.as_str()));
                prop_assert_eq!(Origin::parse(&origin.to_string()), Some(origin));
            }
        }
    }
}
