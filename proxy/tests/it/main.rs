//! The real `warbler` with real clients and endpoints around it, on loopback. Each test starts its own edge.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail by panicking, like the tests")]

mod edge;
mod ends;

mod parts;

mod connecting;
mod drain;
mod guard;
mod leases;
mod limits;
mod listeners;
mod reload;
mod start;
mod stop;
mod tcp;
mod websocket;

mod forwarding;
mod http2;
mod requests;
mod routing;
mod rtt;
mod upgrades;

mod proxy_header;
mod tls_in;
mod tls_out;

mod affinity;
mod agent;
mod choosing;
mod controls;
mod dns;
mod explain;
mod health;
mod outlier;
mod probes;
mod steering;

mod diff;
mod simulate;

mod foreign;
mod hostile;
mod im;
