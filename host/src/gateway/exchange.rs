//! One request and its answer, from head to last byte: what is logged, and what the watch counts.

use super::{
    connection::Connection,
    limit::RouteLimit,
    problem::Problem,
    routes::{AggregateRoute, DocumentRoute, ServiceRoute},
};
use crate::{
    policy::{FaultKind, Quota},
    telemetry::{AccessRecord, TraceContext},
};
use http::{Method, Request, StatusCode, Uri, Version};
use std::sync::Arc;
use tokio::time::{Duration, Instant};

/// What nginx made the name of "the client left before there was an answer"; only the log ever sees it.
const CLIENT_LEFT: u16 = 499;

/// Lives as long as a request is in flight. Whatever ends it (the answer's end, the client's leaving, a cut), its drop
/// is where the request is logged and counted off.
pub(super) struct Exchange {
    connection: Arc<Connection>,
    started: Instant,
    method: Method,
    uri: Uri,
    version: Version,
    pub(super) trace: TraceContext,
    place: Option<Place>,
    status: Option<StatusCode>,
    fault: Option<FaultKind>,
    quota: Option<Quota>,
    bytes: u64,
    complete: bool,
    working: bool,
}

/// Where the request went.
enum Place {
    Service(Arc<ServiceRoute>),
    Aggregate(Arc<AggregateRoute>),
    Document(Arc<DocumentRoute>),
}

// === impl Exchange ===

impl Exchange {
    pub(super) fn begin<B>(connection: Arc<Connection>, request: &Request<B>, trace: TraceContext) -> Self {
        connection.activity.begin(request.version() == Version::HTTP_2);
        Self {
            connection,
            started: Instant::now(),
            method: request.method().clone(),
            uri: request.uri().clone(),
            version: request.version(),
            trace,
            place: None,
            status: None,
            fault: None,
            quota: None,
            bytes: 0,
            complete: false,
            working: true,
        }
    }

    pub(super) fn method(&self) -> &Method {
        &self.method
    }

    pub(super) fn version(&self) -> Version {
        self.version
    }

    pub(super) fn body_timeout(&self) -> Duration {
        self.connection.terms.config.body_timeout
    }

    pub(super) fn goes_to_service(&mut self, route: Arc<ServiceRoute>) {
        self.place = Some(Place::Service(route));
    }

    pub(super) fn goes_to_aggregate(&mut self, route: Arc<AggregateRoute>) {
        self.place = Some(Place::Aggregate(route));
    }

    pub(super) fn goes_to_document(&mut self, route: Arc<DocumentRoute>) {
        self.place = Some(Place::Document(route));
    }

    /// A rate limit was asked, that of where the request goes.
    pub(super) fn counted(&mut self, quota: Quota) {
        self.quota = Some(quota);
    }

    /// The rate limit that was asked, and what it said.
    pub(super) fn quota(&self) -> Option<(&RouteLimit, &Quota)> {
        let limit = match self.place.as_ref()? {
            Place::Service(route) => route.limit.as_deref(),
            Place::Aggregate(route) => route.limit.as_deref(),
            Place::Document(_) => None,
        };
        limit.zip(self.quota.as_ref())
    }

    pub(super) fn failed(&mut self, problem: &Problem) {
        self.fault = problem.fault;
        if problem.close {
            self.connection.activity.answered_early();
        }
    }

    /// The head of the answer goes out; from here on the client has the word.
    pub(super) fn answered(&mut self, status: StatusCode) {
        self.status = Some(status);
        self.waits(false);
    }

    /// Whether the answer waits for the house.
    pub(super) fn waits(&mut self, working: bool) {
        match (self.working, working) {
            (false, true) => self.connection.activity.wait(),
            (true, false) => self.connection.activity.proceed(),
            _ => return,
        }
        self.working = working;
    }

    pub(super) fn sent(&mut self, bytes: usize) {
        self.bytes += bytes as u64;
        self.connection.activity.piece_taken();
    }

    pub(super) fn completed(&mut self) {
        self.complete = true;
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        self.waits(false);
        self.connection.activity.end();
        let Some(log) = &self.connection.front.access_log else { return };
        let (route, service) = match &self.place {
            Some(Place::Service(route)) => (Some(&*route.pattern), Some(&*route.service)),
            Some(Place::Aggregate(route)) => (Some(&*route.pattern), None),
            Some(Place::Document(route)) => (Some(&*route.pattern), None),
            None => (None, None),
        };
        log.record(&AccessRecord {
            method: self.method.as_str(),
            path: self.uri.path(),
            status: self.status.map_or(CLIENT_LEFT, |status| status.as_u16()),
            bytes: self.bytes,
            duration: self.started.elapsed(),
            route,
            service,
            trace_id: self.trace.trace_id(),
            fault: self.fault.map(FaultKind::as_str),
            limited: self.quota.is_some_and(|quota| !quota.granted),
            aborted: !self.complete,
        });
    }
}
