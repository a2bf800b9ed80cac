//! What the door counts.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use axum::http::StatusCode;

use crate::metrics::{Counter, Gauge, Kind, Latency, Registry};
use crate::server::budget::Budget;
use crate::server::http::routes::ROUTES;

/// A place in [`ROUTES`], or [`UNROUTED`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct RouteId(usize);

/// No route: not found, wrong method, refused before routing.
pub(super) const UNROUTED: RouteId = RouteId(ROUTES_LEN);
const ROUTES_LEN: usize = 64;

impl RouteId {
    /// The route of this method and template.
    pub(super) fn of(method: &str, template: &str) -> Self {
        let found = ROUTES.iter().position(|&(m, t)| m == method && t == template);
        debug_assert!(found.is_some(), "{method} {template} is not in ROUTES");
        found.map_or(UNROUTED, Self)
    }

    fn label(self) -> String {
        ROUTES.get(self.0).map_or_else(|| "none".to_owned(), |(m, t)| format!("{m} {t}"))
    }
}

/// Statuses that the door gives. The last one stands for all others.
const STATUSES: [u16; 27] = [
    200, 201, 204, 300, 304, 400, 401, 403, 404, 405, 408, 409, 410, 412, 413, 414, 415, 421, 422,
    431, 500, 501, 503, 504, 507, 303, 0,
];

type ByStatus = [OnceLock<Counter>; STATUSES.len()];

/// Counters of one door.
pub(super) struct Numbers {
    registry: Arc<Registry>,
    requests: Vec<ByStatus>,
    latency: Vec<OnceLock<Latency>>,
    sent: Counter,
    pub(super) connections: Gauge,
    pub(super) refused_connections: Counter,
    pub(super) broken_connections: Counter,
}

impl Numbers {
    pub(super) fn new(
        registry: &Arc<Registry>,
        bodies: &Arc<Budget>,
        requests: &Arc<Budget>,
    ) -> Self {
        let (body_budget, request_budget) = (bodies.clone(), requests.clone());
        registry.read(
            Kind::Gauge,
            "henge_http_requests_under_way",
            "Requests whose answer has not been sent yet.",
            &[],
            move || request_budget.used() as f64,
        );
        registry.read(
            Kind::Gauge,
            "henge_http_body_bytes_held",
            "Bytes of request and answer bodies in memory.",
            &[],
            move || body_budget.used() as f64,
        );
        Self {
            registry: registry.clone(),
            requests: (0..=ROUTES_LEN).map(|_| ByStatus::default()).collect(),
            latency: (0..=ROUTES_LEN).map(|_| OnceLock::new()).collect(),
            sent: registry.counter(
                "henge_http_sent_bytes_total",
                "Bytes of answer bodies whose length was known beforehand.",
                &[],
            ),
            connections: registry.gauge("henge_http_connections", "Open connections.", &[]),
            refused_connections: registry.counter(
                "henge_http_connections_refused_total",
                "Connections closed because there were too many.",
                &[],
            ),
            broken_connections: registry.counter(
                "henge_http_connections_broken_total",
                "Connections that ended in an error: garbage, a reset, a client too slow.",
                &[],
            ),
        }
    }

    /// An answer's head is made.
    pub(super) fn answered(&self, route: RouteId, status: StatusCode, bytes: Option<u64>) {
        let code = status.as_u16();
        let place = STATUSES.iter().position(|&known| known == code).unwrap_or(STATUSES.len() - 1);
        if let Some(counter) = self.requests.get(route.0).map(|statuses| &statuses[place]) {
            let made = || {
                self.registry.counter(
                    "henge_http_requests_total",
                    "Requests answered, by route and status.",
                    &[("route", &route.label()), ("status", &STATUSES[place].to_string())],
                )
            };
            counter.get_or_init(made).inc();
        }
        self.sent.add(bytes.unwrap_or(0));
    }

    /// An answer has been sent, or given up.
    pub(super) fn finished(&self, route: RouteId, took: Duration) {
        if let Some(latency) = self.latency.get(route.0) {
            let made = || {
                self.registry.latency(
                    "henge_http_request_seconds",
                    "Time from a request's headers to the end of its answer, by route.",
                    &[("route", &route.label())],
                )
            };
            latency.get_or_init(made).record(took);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::http::problem::CATALOGUE;

    #[test]
    fn every_route_and_every_problems_status_has_its_own_counter() {
        assert!(ROUTES.len() < ROUTES_LEN);
        for entry in CATALOGUE {
            assert!(STATUSES.contains(&entry.status), "{}", entry.name);
        }
    }
}
