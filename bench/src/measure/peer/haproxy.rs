//! The configuration of HAProxy. What differs from its defaults: upstream connections are shared by requests, a deep
//! accept queue, long timeouts; for bulk, splicing in the kernel.

use super::{super::certificate, Setup};

pub(super) fn configuration(setup: &Setup) -> String {
    let Setup { protocol, port, workers, .. } = setup;
    let mut defaults = if protocol.is_opaque() { "mode tcp" } else { "mode http" }.to_owned();
    if protocol.is_http() {
        defaults += "\n    http-reuse always";
    }
    if setup.bulk {
        defaults += "\n    option splice-auto\n    option splice-response";
    }
    // By default it wants descriptors for so many pipes that a limit of 20 000 is not enough.
    let pipes = if setup.bulk { "\n    maxpipes 100" } else { "" };
    let mut tls = String::new();
    if protocol.is_tls() {
        tls += &format!(" ssl crt {}", certificate::BOTH);
        if !protocol.is_opaque() {
            tls += " alpn h2,http/1.1";
        }
    }
    let endpoints: String = setup
        .endpoints
        .iter()
        .enumerate()
        .map(|(number, endpoint)| format!("    server endpoint-{number} {endpoint}\n"))
        .collect();
    format!(
        "global
    nbthread {workers}
    maxconn 9500{pipes}

defaults
    {defaults}
    timeout connect 5s
    timeout client 1h
    timeout server 1h
    timeout tunnel 1h

frontend load
    bind 127.0.0.1:{port} backlog 4096{tls}
    default_backend endpoint

backend endpoint
{endpoints}"
    )
}
