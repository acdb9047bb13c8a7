//! Answers that the gateway gives itself: faults and refusals, as `application/problem+json` (RFC 9457).

use crate::{
    policy::{Fault, FaultKind, TripReason},
    service::Body,
};
use http::{HeaderValue, Response, StatusCode, header};
use std::{borrow::Cow, sync::Arc, time::Duration};

/// Why a request gets no answer from a service.
#[derive(Clone, Debug)]
pub(super) struct Problem {
    pub(super) status: StatusCode,
    pub(super) fault: Option<FaultKind>,
    pub(super) detail: Cow<'static, str>,
    pub(super) retry_after: Option<Duration>,
    /// For `circuit-open`: why the breaker had opened.
    pub(super) trip: Option<TripReason>,
    /// For 429: the name of the rate limit.
    pub(super) violated: Option<Arc<str>>,
    /// For 405: the methods that the path does take.
    pub(super) allow: Option<HeaderValue>,
    /// The rest of the request is not worth reading: the connection ends with this answer.
    pub(super) close: bool,
}

/// The type of a 429 (draft-ietf-httpapi-ratelimit-headers-11, 5.1).
const QUOTA_EXCEEDED: &str = "https://iana.org/assignments/http-problem-types#quota-exceeded";
/// The longest detail that a client is told, in bytes.
const MAX_DETAIL: usize = 400;

// === impl Problem ===

impl Problem {
    /// A problem that HTTP itself explains.
    pub(super) fn new(status: StatusCode, detail: impl Into<Cow<'static, str>>) -> Self {
        Self {
            status,
            fault: None,
            detail: detail.into(),
            retry_after: None,
            trip: None,
            violated: None,
            allow: None,
            close: false,
        }
    }

    /// Ends the connection with this answer.
    pub(super) fn closing(mut self) -> Self {
        self.close = true;
        self
    }

    /// The identifier of the kind of problem.
    pub(super) fn type_uri(&self) -> Cow<'static, str> {
        match (self.fault, &self.violated) {
            (Some(kind), _) => format!("urn:wharf:fault:{kind}").into(),
            (None, Some(_)) => QUOTA_EXCEEDED.into(),
            (None, None) => "about:blank".into(),
        }
    }

    fn title(&self) -> &'static str {
        match self.fault {
            Some(FaultKind::Unreachable) => "The service cannot be reached",
            Some(FaultKind::CircuitOpen) => "The circuit breaker before the service is open",
            Some(FaultKind::Overloaded) => "The service has no room for another request",
            Some(FaultKind::DeadlineExceeded) => "The service did not answer in time",
            Some(FaultKind::Trapped) => "The service ended abnormally",
            Some(FaultKind::Cancelled) => "The request was given up",
            Some(FaultKind::Denied) => "The request is not granted",
            None if self.violated.is_some() => "Request cannot be satisfied as assigned quota has been exceeded",
            None => self.status.canonical_reason().unwrap_or("Error"),
        }
    }

    /// The answer that tells of it, in the trace `trace_id`.
    pub(super) fn into_response(self, trace_id: u128) -> Response<Body> {
        let mut document = serde_json::json!({
            "type": self.type_uri(),
            "title": self.title(),
            "status": self.status.as_u16(),
            "detail": self.detail,
            "instance": format!("urn:wharf:trace:{trace_id:032x}"),
        });
        if let Some(kind) = self.fault {
            document["fault"] = kind.as_str().into();
        }
        if let Some(limit) = self.violated {
            document["violated-policies"] = [&*limit].into();
        }
        if let Some(trip) = self.trip {
            // It is made of numbers and words: there is no way for it not to be JSON.
            document["trip"] = serde_json::to_value(trip).unwrap_or_default();
        }
        let mut response = Response::new(Body::complete(document.to_string()));
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        if let Some(after) = self.retry_after {
            headers.insert(header::RETRY_AFTER, whole_seconds(after).into());
        }
        if let Some(allow) = self.allow {
            headers.insert(header::ALLOW, allow);
        }
        response
    }
}

impl From<Fault> for Problem {
    fn from(fault: Fault) -> Self {
        let kind = fault.kind();
        let waits = matches!(kind, FaultKind::CircuitOpen | FaultKind::Overloaded);
        Self {
            status: StatusCode::from_u16(kind.http_status()).unwrap_or(StatusCode::BAD_GATEWAY),
            fault: Some(kind),
            detail: for_clients(fault.message()).into(),
            retry_after: fault.retry_after().or(waits.then_some(Duration::from_secs(1))),
            trip: fault.trip(),
            violated: None,
            allow: None,
            close: false,
        }
    }
}

/// Seconds as `Retry-After` takes them: rounded up, so that nobody comes too early, and at least one.
pub(super) fn whole_seconds(after: Duration) -> u64 {
    (after.as_secs() + u64::from(after.subsec_nanos() > 0)).max(1)
}

/// What a client may read of a message that was written for operators: its first line, without the absolute file names
/// that a trap's or a database's text may carry.
fn for_clients(message: &str) -> String {
    let mut text = String::with_capacity(message.len().min(MAX_DETAIL));
    for word in message.lines().next().unwrap_or_default().split_inclusive(' ') {
        let inner = word.trim_start_matches(['"', '\'', '`', '(', '[', '<', '=']);
        let absolute = inner.starts_with('/') || inner.starts_with('~') || inner.get(1..3) == Some(":\\");
        let next = match (absolute, word.ends_with(' ')) {
            (false, _) => word,
            (true, true) => "(file) ",
            (true, false) => "(file)",
        };
        if text.len() + next.len() > MAX_DETAIL {
            text.push('…');
            break;
        }
        text.push_str(next);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn document(response: &Response<Body>) -> serde_json::Value {
        serde_json::from_slice(response.body().as_complete().unwrap()).unwrap()
    }

    #[test]
    fn every_fault_has_its_status_and_its_type() {
        for (kind, status) in [
            (FaultKind::Unreachable, 502),
            (FaultKind::CircuitOpen, 503),
            (FaultKind::Overloaded, 503),
            (FaultKind::DeadlineExceeded, 504),
            (FaultKind::Trapped, 502),
            (FaultKind::Cancelled, 503),
            (FaultKind::Denied, 403),
        ] {
            let response = Problem::from(Fault::new(kind, "order: it failed")).into_response(0xab);
            assert_eq!(response.status().as_u16(), status);
            let document = document(&response);
            assert_eq!(document["type"], format!("urn:wharf:fault:{kind}"));
            assert_eq!(document["fault"], kind.as_str());
            assert_eq!(document["status"], status);
            assert_eq!(document["detail"], "order: it failed");
            assert_eq!(document["instance"], "urn:wharf:trace:000000000000000000000000000000ab");
            let waits = matches!(kind, FaultKind::CircuitOpen | FaultKind::Overloaded);
            assert_eq!(response.headers().contains_key(header::RETRY_AFTER), waits, "{kind}");
        }
    }

    #[test]
    fn an_open_breaker_says_why() {
        let reason = TripReason::FailureRate { failed: 6, calls: 10, threshold: 50 };
        let fault = Fault::new(FaultKind::CircuitOpen, "it is open").with_trip(reason);
        let document = document(&Problem::from(fault).into_response(1));
        assert_eq!(
            document["trip"],
            serde_json::json!({ "kind": "failure-rate", "failed": 6, "calls": 10, "threshold": 50 })
        );
    }

    #[test]
    fn retry_after_is_rounded_up() {
        for (millis, seconds) in [(0, "1"), (1, "1"), (1000, "1"), (1001, "2"), (59_900, "60")] {
            let fault = Fault::new(FaultKind::CircuitOpen, "").with_retry_after(Duration::from_millis(millis));
            let response = Problem::from(fault).into_response(1);
            assert_eq!(response.headers()[header::RETRY_AFTER], seconds);
        }
    }

    #[test]
    fn paths_of_the_host_stay_in_the_house() {
        assert_eq!(
            for_clients("cannot open \"/srv/app/user.db\" (as C:\\data\\x) now\n  at /rustc/lib.rs"),
            "cannot open (file) (as (file) now"
        );
        assert_eq!(for_clients("order is not there; 3/4 tries"), "order is not there; 3/4 tries");
        assert!(for_clients(&"long ".repeat(1000)).len() < MAX_DETAIL + 10);
    }
}
