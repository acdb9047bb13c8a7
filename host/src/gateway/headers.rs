//! What is done to headers on their way through, in both directions.

use super::problem::Problem;
use crate::telemetry::TraceContext;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, Uri, Version, header};

const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");

/// How many headers a request may have; hyper's own limit for HTTP/1, kept for HTTP/2 too.
const MAX_HEADERS: usize = 100;

/// Refuses more, or larger, headers than the limit grants.
pub(super) fn check_size(headers: &HeaderMap, max_bytes: usize) -> Result<(), Problem> {
    let bytes: usize = headers.iter().map(|(name, value)| name.as_str().len() + value.len()).sum();
    if bytes > max_bytes || headers.len() > MAX_HEADERS {
        let detail = format!("at most {MAX_HEADERS} headers of together {max_bytes} bytes are taken");
        return Err(Problem::new(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, detail).closing());
    }
    Ok(())
}

/// Removes what concerns only one connection (RFC 9110, 7.6.1): the headers that `Connection` names, and those that
/// are known to.
pub(super) fn remove_hop_by_hop(headers: &mut HeaderMap) {
    // Nearly every message has none: one look at the names is cheaper than eight removals.
    if !headers.keys().any(is_hop_by_hop) {
        return;
    }
    let named: Vec<HeaderName> = headers
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| name.trim().parse().ok())
        // Without these the message would be another one.
        .filter(|name| ![header::HOST, header::CONTENT_LENGTH, header::CONTENT_TYPE].contains(name))
        .collect();
    for name in named {
        headers.remove(name);
    }
    let known: Vec<HeaderName> = headers.keys().filter(|name| is_hop_by_hop(name)).cloned().collect();
    for name in known {
        headers.remove(name);
    }
}

fn is_hop_by_hop(name: &HeaderName) -> bool {
    matches!(
        name.as_str(),
        "connection"
            | "keep-alive"
            | "proxy-connection"
            | "proxy-authenticate"
            | "proxy-authorization"
            | "te"
            | "transfer-encoding"
            | "upgrade"
    )
}

/// Makes sure that the request names exactly one host: what HTTP/1.1 demands in `Host`, an absolute target and HTTP/2
/// say in the target.
pub(super) fn settle_host(headers: &mut HeaderMap, uri: &Uri, version: Version) -> Result<(), Problem> {
    if let Some(authority) = uri.authority() {
        let value = HeaderValue::from_str(authority.as_str())
            .map_err(|_| Problem::new(StatusCode::BAD_REQUEST, "the authority of the target is malformed"))?;
        headers.insert(header::HOST, value);
        return Ok(());
    }
    let mut hosts = headers.get_all(header::HOST).iter();
    match (hosts.next(), hosts.next()) {
        (Some(_), None) => Ok(()),
        (Some(_), Some(_)) => Err(Problem::new(StatusCode::BAD_REQUEST, "more than one Host header").closing()),
        (None, _) if version < Version::HTTP_11 => Ok(()),
        (None, _) => Err(Problem::new(StatusCode::BAD_REQUEST, "the Host header is missing").closing()),
    }
}

/// The trace that the client says it is in, or a new one.
pub(super) fn trace_of(headers: &HeaderMap) -> TraceContext {
    let mut values = headers.get_all(TRACEPARENT).iter();
    let parsed = match (values.next(), values.next()) {
        (Some(value), None) => value.to_str().ok().and_then(|text| text.parse::<TraceContext>().ok()),
        _ => None,
    };
    parsed.map_or_else(TraceContext::root, |parent| parent.child())
}

/// Sets what the upstream is told: hop-by-hop headers go, the forwarding headers say what was seen here.
pub(super) fn for_upstream(headers: &mut HeaderMap, peer: &HeaderValue, trace: &TraceContext) {
    remove_hop_by_hop(headers);
    // Four headers come; the map would grow, and sort itself anew, once for nearly each.
    headers.reserve(4);
    // Answered by this connection as soon as the body is read.
    headers.remove(header::EXPECT);
    headers.remove(header::FORWARDED);
    headers.insert(FORWARDED_FOR, peer.clone());
    headers.insert(FORWARDED_PROTO, HeaderValue::from_static("http"));
    match headers.get(header::HOST).cloned() {
        Some(host) => headers.insert(FORWARDED_HOST, host),
        None => headers.remove(FORWARDED_HOST),
    };
    set_trace(headers, trace);
}

/// Puts the call's own place in the trace into the request.
pub(super) fn set_trace(headers: &mut HeaderMap, trace: &TraceContext) {
    if let Ok(value) = HeaderValue::from_bytes(&trace.encode())
        && headers.insert(TRACEPARENT, value).is_none()
    {
        // A state without its parent belongs to no trace (W3C trace context, 3.3).
        headers.remove(TRACESTATE);
    }
}

/// Takes away what the parts of an aggregate could not answer with one whole JSON document.
pub(super) fn for_part(headers: &mut HeaderMap) {
    for name in [
        header::ACCEPT_ENCODING,
        header::CONTENT_ENCODING,
        header::CONTENT_LENGTH,
        header::CONTENT_TYPE,
        header::IF_MATCH,
        header::IF_MODIFIED_SINCE,
        header::IF_NONE_MATCH,
        header::IF_RANGE,
        header::IF_UNMODIFIED_SINCE,
        header::RANGE,
    ] {
        headers.remove(name);
    }
    headers.insert(header::ACCEPT, HeaderValue::from_static("application/json"));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        pairs.iter().map(|&(n, v)| (HeaderName::from_static(n), HeaderValue::from_static(v))).collect()
    }

    #[test]
    fn hop_by_hop_headers_go_and_so_do_those_that_connection_names() {
        let mut headers = map(&[
            ("connection", "keep-alive, X-Secret-Hop, host"),
            ("connection", "close"),
            ("x-secret-hop", "1"),
            ("keep-alive", "timeout=5"),
            ("te", "trailers"),
            ("upgrade", "websocket"),
            ("proxy-authorization", "Basic x"),
            ("host", "shop"),
            ("accept", "*/*"),
        ]);
        remove_hop_by_hop(&mut headers);
        assert_eq!(headers, map(&[("host", "shop"), ("accept", "*/*")]));
    }

    #[test]
    fn what_a_client_says_of_the_way_is_replaced() {
        let mut headers = map(&[
            ("host", "shop"),
            ("x-forwarded-for", "6.6.6.6"),
            ("x-forwarded-for", "7.7.7.7"),
            ("x-forwarded-proto", "https"),
            ("x-forwarded-host", "evil"),
            ("forwarded", "for=6.6.6.6"),
            ("traceparent", "nonsense"),
            ("tracestate", "a=b"),
        ]);
        let trace = trace_of(&headers);
        for_upstream(&mut headers, &HeaderValue::from_static("127.0.0.1"), &trace);
        assert_eq!(headers.get_all(FORWARDED_FOR).iter().collect::<Vec<_>>(), ["127.0.0.1"]);
        assert_eq!(headers[FORWARDED_PROTO], "http");
        assert_eq!(headers[FORWARDED_HOST], "shop");
        assert!(!headers.contains_key(header::FORWARDED));
        assert_eq!(headers[TRACEPARENT], trace.to_string());
    }

    #[test]
    fn a_valid_trace_is_continued_and_a_second_header_makes_it_invalid() {
        const PARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        let parent: TraceContext = PARENT.parse().unwrap();
        let trace = trace_of(&map(&[("traceparent", PARENT)]));
        assert_eq!(trace.trace_id(), parent.trace_id());
        assert_ne!(trace, parent);
        let twice = trace_of(&map(&[("traceparent", PARENT), ("traceparent", PARENT)]));
        assert_ne!(twice.trace_id(), parent.trace_id());
    }
}
