//! Figures for Prometheus under `/metrics`. Nothing secret is among them.

use std::collections::BTreeMap;

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::header;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use surplus_market::store::{LeaseFilter, Store as _, StoreError, Tx as _};

use crate::app::App;
use crate::refusal::Refusal;

type Labelled = Family<[(&'static str, String); 1], Gauge>;

/// What is counted.
#[derive(Debug)]
pub(crate) struct Metrics {
    registry: Registry,
    pub syncs: Counter,
    pub enrolments: Counter,
    pub leases: Counter,
    pub placed_anew: Counter,
    /// 1 while so many hosts are silent that nothing is fenced or placed anew.
    pub alarm: Gauge,
    hosts: Labelled,
    silent: Gauge,
    live: Labelled,
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::with_prefix("surplus");
        let syncs = Counter::default();
        let enrolments = Counter::default();
        let leases = Counter::default();
        let placed_anew = Counter::default();
        let alarm = Gauge::default();
        let hosts = Labelled::default();
        let silent = Gauge::default();
        let live = Labelled::default();
        registry.register("syncs", "Syncs that hosts began", syncs.clone());
        registry.register(
            "enrolments",
            "Certificates issued to joining hosts",
            enrolments.clone(),
        );
        registry.register("leases_made", "Leases made from quotes", leases.clone());
        registry.register(
            "leases_placed_anew",
            "Leases that were lost with their host and that another took",
            placed_anew.clone(),
        );
        registry.register(
            "fencing_suspended",
            "1 while more than 30 % of the hosts are silent at once: no lease is fenced or placed anew",
            alarm.clone(),
        );
        registry.register("hosts", "Hosts in the register", hosts.clone());
        registry.register(
            "hosts_unreachable",
            "Enrolled hosts that are silent",
            silent.clone(),
        );
        registry.register("leases", "Leases that hold a reservation", live.clone());
        Self {
            registry,
            syncs,
            enrolments,
            leases,
            placed_anew,
            alarm,
            hosts,
            silent,
            live,
        }
    }
}

impl Metrics {
    /// Counts hosts and leases anew: with each sweep, not with each reader, who
    /// need not be known to us.
    ///
    /// # Errors
    ///
    /// [`StoreError`] where the store cannot be read.
    pub(crate) async fn recount(&self, app: &App) -> Result<(), StoreError> {
        let mut tx = app.store.read().await?;
        let hosts = tx.hosts().await?;
        let live = tx.leases(LeaseFilter::Live).await?;
        let (presence, now) = (app.presence_now(), app.now());
        let silent = hosts
            .iter()
            .filter(|host| presence.is_unreachable(host, now));
        self.silent
            .set(i64::try_from(silent.count()).unwrap_or(i64::MAX));
        set(
            &self.hosts,
            hosts.iter().map(|host| format!("{:?}", host.state)),
        );
        set(
            &self.live,
            live.iter().map(|lease| format!("{:?}", lease.life.state)),
        );
        Ok(())
    }
}

/// Sets the gauge of each state to how often it occurs.
fn set(gauges: &Labelled, states: impl Iterator<Item = String>) {
    let mut counts = BTreeMap::<String, i64>::new();
    for state in states {
        *counts.entry(state.to_lowercase()).or_default() += 1;
    }
    gauges.clear();
    for (state, count) in counts {
        gauges.get_or_create(&[("state", state)]).set(count);
    }
}

/// The figures as text, as of the last sweep.
pub(crate) async fn show(State(app): State<App>) -> Result<Response, Refusal> {
    let metrics = &app.metrics;
    let mut text = String::new();
    encode(&mut text, &metrics.registry)
        .map_err(|error| Refusal::internal("writing the metrics", &error))?;
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    Ok(([(header::CONTENT_TYPE, kind)], text).into_response())
}

/// Whether the marketplace can do its work: it asks the store.
pub(crate) async fn health(State(app): State<App>) -> Result<&'static str, Refusal> {
    app.store
        .read()
        .await?
        .price_book(app.prices.version)
        .await?;
    Ok("ok\n")
}
