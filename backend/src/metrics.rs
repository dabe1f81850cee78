//! What Prometheus sees. Names are constants of this file and of the store; labels come from closed sets, never from a
//! client. docs/protocol.md lists them all, a test holds the list against the page that the server gives.
//!
//! Counters move when things happen; what is known anyway (sessions, size of the store) is read when somebody asks.

use http::StatusCode;
use prometheus::{
    Encoder as _, Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, Opts, Registry, TextEncoder,
    core::Collector, process_collector::ProcessCollector,
};

use crate::{
    connection::End,
    frame::{Frame, LoginCode, RefusalCode},
    json::{Named, name},
    server::Server,
};

pub(crate) struct Metrics {
    registry: Registry,
    sessions: IntGauge,
    connections: IntGauge,
    draining: IntGauge,
    store_bytes: IntGauge,
    logins: IntCounterVec,
    closes: IntCounterVec,
    requests: IntCounterVec,
    acks: IntCounterVec,
    refusals: IntCounterVec,
    api_answers: IntCounterVec,
    /// Pushes put into queues.
    pub(crate) pushes: IntCounter,
    /// Pushes that found a full queue or a fault.
    pub(crate) pushes_dropped: IntCounter,
    /// From a change of presence at another process to its being known here.
    pub(crate) presence_lag: Histogram,
    /// Transactions that wrote how users are seen here.
    pub(crate) presence_writes: IntCounter,
    pub(crate) presence_failures: IntCounter,
}

/// Seconds: from what two turns take to a process that ended without a word and whose lease had to pass.
const PRESENCE_LAG: &[f64] = &[0.05, 0.1, 0.2, 0.4, 0.8, 1.5, 3.0, 6.0, 12.0, 15.0];

impl Metrics {
    /// With those of the store.
    ///
    /// # Errors
    /// When two metrics have one name, which a test rules out.
    pub(crate) fn new(of_store: Vec<Box<dyn Collector>>) -> prometheus::Result<Self> {
        let registry = Registry::new();
        registry.register(Box::new(ProcessCollector::for_self()))?;
        of_store.into_iter().try_for_each(|collector| registry.register(collector))?;
        let metrics = Self {
            sessions: gauge(&registry, "warbler_im_sessions", "Sessions that are logged in.")?,
            connections: gauge(
                &registry,
                "warbler_im_connections",
                "Connections for sessions over WebSocket and TCP, with and without login.",
            )?,
            draining: gauge(&registry, "warbler_im_draining", "1 when no new session is taken, else 0.")?,
            store_bytes: gauge(&registry, "warbler_im_store_bytes", "What the store takes on the disk.")?,
            logins: counters(
                &registry,
                "warbler_im_logins_total",
                "Logins by result: ok, resumed, or the code of LOGIN_ERR.",
                "result",
            )?,
            closes: counters(
                &registry,
                "warbler_im_closes_total",
                "Connections for sessions that ended, by the server's close code; gone if it sent none.",
                "code",
            )?,
            requests: counters(
                &registry,
                "warbler_im_requests_total",
                "Requests of clients by the name of their frame, those that were refused too.",
                "frame",
            )?,
            acks: counters(
                &registry,
                "warbler_im_acks_total",
                "Messages acknowledged; result is stored, or duplicate if the message was there already.",
                "result",
            )?,
            refusals: counters(
                &registry,
                "warbler_im_refusals_total",
                "Requests refused with SEND_ERR, SYNC_ERR or REFUSED, by code.",
                "code",
            )?,
            api_answers: counters(
                &registry,
                "warbler_im_api_answers_total",
                "Answers of the HTTP API by status.",
                "status",
            )?,
            pushes: counter(&registry, "warbler_im_pushes_total", "Pushes put into the queues of sessions.")?,
            pushes_dropped: counter(
                &registry,
                "warbler_im_pushes_dropped_total",
                "Pushes that were lost because a session's queue was full, or by an injected fault.",
            )?,
            presence_lag: register(
                &registry,
                Histogram::with_opts(
                    HistogramOpts::new(
                        "warbler_im_presence_lag_seconds",
                        "Time from a change of presence at another process to its being known here.",
                    )
                    .buckets(PRESENCE_LAG.to_vec()),
                )?,
            )?,
            presence_writes: counter(
                &registry,
                "warbler_im_presence_writes_total",
                "Transactions by which other processes were told how users are seen here, or that this one is there.",
            )?,
            presence_failures: counter(
                &registry,
                "warbler_im_presence_failures_total",
                "Times when presence could not be exchanged with other processes.",
            )?,
            registry,
        };
        metrics.begin_at_zero();
        Ok(metrics)
    }

    /// So that a rate over the first event is not lost, and an alert can be written before it.
    fn begin_at_zero(&self) {
        let begin = |counters: &IntCounterVec, labels: Vec<&str>| {
            labels.into_iter().for_each(|label| drop(counters.with_label_values(&[label])));
        };
        begin(&self.logins, ["ok", "resumed"].into_iter().chain(names::<LoginCode>()).collect());
        begin(&self.refusals, names::<RefusalCode>().collect());
        begin(&self.acks, vec!["stored", "duplicate"]);
        begin(&self.api_answers, vec!["200"]);
        begin(&self.requests, REQUESTS.to_vec());
    }

    pub(crate) fn logged_in(&self, resumed: bool) {
        self.logins.with_label_values(&[if resumed { "resumed" } else { "ok" }]).inc();
    }

    pub(crate) fn login_refused(&self, code: LoginCode) {
        self.logins.with_label_values(&[name::<LoginCode>(code.into())]).inc();
    }

    pub(crate) fn closed(&self, end: End) {
        match end.code() {
            Some((code, _)) => self.closes.with_label_values(&[&code.to_string()]).inc(),
            None => self.closes.with_label_values(&["gone"]).inc(),
        }
    }

    /// A client asked for something.
    pub(crate) fn asked(&self, request: &Frame) {
        if let Some(frame) = request_name(request) {
            self.requests.with_label_values(&[frame]).inc();
        }
    }

    /// A request of the HTTP API is answered.
    pub(crate) fn api_answered(&self, status: StatusCode) {
        self.api_answers.with_label_values(&[status.as_str()]).inc();
    }

    /// A session is answered.
    pub(crate) fn answered(&self, answer: &Frame) {
        let refused = |code| self.refusals.with_label_values(&[name::<RefusalCode>(code)]).inc();
        match answer {
            Frame::SendAck(ack) => {
                self.acks.with_label_values(&[if ack.duplicate { "duplicate" } else { "stored" }]).inc();
            }
            Frame::SendErr(error) => refused(error.code),
            Frame::SyncErr(error) => refused(error.code),
            Frame::Refused(error) => refused(error.code),
            _ => {}
        }
    }
}

/// The page for Prometheus, in its text format.
pub(crate) async fn page(server: &Server) -> prometheus::Result<String> {
    let metrics = &server.metrics;
    let count = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
    metrics.sessions.set(count(server.delivery.sessions()));
    metrics.connections.set(count(server.sessions()));
    metrics.draining.set(server.draining().into());
    match server.store.bytes().await {
        Ok(bytes) => metrics.store_bytes.set(i64::try_from(bytes).unwrap_or(i64::MAX)),
        Err(error) => tracing::warn!(error = &error as &dyn std::error::Error, "the store's size cannot be read"),
    }
    let mut page = Vec::new();
    TextEncoder::new().encode(&metrics.registry.gather(), &mut page)?;
    Ok(String::from_utf8_lossy(&page).into_owned())
}

/// Frames by which clients ask for something.
const REQUESTS: [&str; 8] = ["send", "ack", "read", "sync", "history", "unread", "presence_sub", "presence_set"];

fn request_name(request: &Frame) -> Option<&'static str> {
    Some(match request {
        Frame::Send(_) => "send",
        Frame::Ack(_) => "ack",
        Frame::Read(_) => "read",
        Frame::Sync(_) => "sync",
        Frame::History(_) => "history",
        Frame::Unread(_) => "unread",
        Frame::PresenceSub(_) => "presence_sub",
        Frame::PresenceSet(_) => "presence_set",
        _ => return None,
    })
}

fn names<C: Named>() -> impl Iterator<Item = &'static str> {
    C::ALL.iter().map(|(name, _)| *name).filter(|name| *name != "unspecified")
}

fn gauge(registry: &Registry, name: &str, help: &str) -> prometheus::Result<IntGauge> {
    register(registry, IntGauge::new(name, help)?)
}

fn counter(registry: &Registry, name: &str, help: &str) -> prometheus::Result<IntCounter> {
    register(registry, IntCounter::new(name, help)?)
}

fn counters(registry: &Registry, name: &str, help: &str, label: &str) -> prometheus::Result<IntCounterVec> {
    register(registry, IntCounterVec::new(Opts::new(name, help), &[label])?)
}

fn register<C: Collector + Clone + 'static>(registry: &Registry, metric: C) -> prometheus::Result<C> {
    registry.register(Box::new(metric.clone()))?;
    Ok(metric)
}
