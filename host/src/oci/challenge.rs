//! What a registry wants to see before it answers: the header `WWW-Authenticate`.

use std::collections::BTreeMap;

/// How a registry wants a client to say who it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Challenge {
    /// By name and password.
    Basic,
    /// By a token, which is got from `realm` for these.
    Bearer { realm: String, service: Option<String>, scope: Option<String> },
}

// === impl Challenge ===

impl Challenge {
    /// Reads one value of the header; `None` for a way that is not known here.
    pub(super) fn parse(header: &str) -> Option<Self> {
        let (scheme, rest) = header.trim().split_once(' ').unwrap_or((header.trim(), ""));
        if scheme.eq_ignore_ascii_case("basic") {
            return Some(Self::Basic);
        }
        if !scheme.eq_ignore_ascii_case("bearer") {
            return None;
        }
        let mut parameters = parameters(rest);
        let realm = parameters.remove("realm")?;
        Some(Self::Bearer { realm, service: parameters.remove("service"), scope: parameters.remove("scope") })
    }
}

/// `a="b",c=d`, as far as it is well-formed. A value in quotes may hold commas, as scopes do.
fn parameters(mut text: &str) -> BTreeMap<String, String> {
    let mut all = BTreeMap::new();
    while let Some((name, rest)) = text.split_once('=') {
        let name = name.trim_matches([' ', ',', '\t']).to_ascii_lowercase();
        let (value, rest) = match rest.trim_start().strip_prefix('"') {
            None => {
                let (value, rest) = rest.split_once(',').unwrap_or((rest, ""));
                (value.trim().to_owned(), rest)
            }
            Some(quoted) => {
                let (mut value, mut escaped, mut end) = (String::new(), false, quoted.len());
                for (at, c) in quoted.char_indices() {
                    match c {
                        '"' if !escaped => {
                            end = at + 1;
                            break;
                        }
                        '\\' if !escaped => escaped = true,
                        c => {
                            escaped = false;
                            value.push(c);
                        }
                    }
                }
                (value, &quoted[end..])
            }
        };
        all.entry(name).or_insert(value);
        text = rest;
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_registries_want_is_understood() {
        let bearer = |realm: &str, service: Option<&str>, scope: Option<&str>| {
            let owned = |text: Option<&str>| text.map(str::to_owned);
            Some(Challenge::Bearer { realm: realm.to_owned(), service: owned(service), scope: owned(scope) })
        };
        let realm = "https://auth.docker.io/token";
        for (header, expected) in [
            ("Basic realm=\"Registry Realm\"", Some(Challenge::Basic)),
            ("basic", Some(Challenge::Basic)),
            (
                "Bearer realm=\"https://auth.docker.io/token\",service=\"registry.docker.io\",scope=\"repository:a/b:pull,push\"",
                bearer(realm, Some("registry.docker.io"), Some("repository:a/b:pull,push")),
            ),
            (
                "bearer  Realm = \"https://auth.docker.io/token\" , error=\"x\\\"y\" ,service=s",
                bearer(realm, Some("s"), None),
            ),
            ("Bearer service=\"s\"", None),
            ("Bearer realm=\"https://auth.docker.io/token", bearer(realm, None, None)),
            ("Negotiate", None),
            ("", None),
        ] {
            assert_eq!(Challenge::parse(header), expected, "{header}");
        }
    }

    proptest! {
        #[test]
        fn any_header_is_read_or_refused(text in ".*") {
            let _ = Challenge::parse(&text);
            let _ = Challenge::parse(&format!("Bearer {text}"));
        }
    }
}
