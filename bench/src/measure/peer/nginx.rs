//! The configuration of nginx. What differs from its defaults: keep-alive to the endpoint and without an end, a deep
//! accept queue, no logs, TLS 1.3 (1.22 does not speak it unless told), HTTP/2 where clients ask for it.

use super::{super::certificate, Setup, Stream};
use crate::measure::row::Protocol;

pub(super) fn configuration(setup: &Setup, stream: &Stream) -> String {
    let (module, work) = if setup.protocol.is_opaque() {
        let module = match stream {
            Stream::Module(path) => format!("load_module {};\n", path.display()),
            Stream::BuiltIn | Stream::Missing => String::new(),
        };
        (module, relay(setup))
    } else {
        (String::new(), web(setup))
    };
    format!(
        // One process, no master: ending it ends nginx, however the measurement ends. Connections for more than it needs:
        // it closes idle ones when a sixteenth is left.
        "{module}daemon off;
master_process off;
worker_processes {workers};
worker_rlimit_nofile 20000;
pid nginx.pid;
error_log nginx.log warn;
events {{ worker_connections 19900; }}
{work}
",
        workers = setup.workers,
    )
}

/// Opaque bytes.
fn relay(setup: &Setup) -> String {
    format!(
        "stream {{{upstream}
    server {{
        listen 127.0.0.1:{port} backlog=4096{tls};
        proxy_pass endpoint;
        proxy_timeout 1h;{certificate}
    }}
}}",
        upstream = upstream(setup, ""),
        port = setup.port,
        tls = if setup.protocol.is_tls() { " ssl" } else { "" },
        certificate = tls_settings(setup.protocol),
    )
}

fn web(setup: &Setup) -> String {
    let (upstream, fields) = if setup.protocol.is_http() {
        // By default it would open an upstream connection for each request, and close one after 1000.
        let keep_alive = "\n        keepalive 1024;\n        keepalive_requests 100000000;";
        (upstream(setup, keep_alive), "proxy_set_header Connection \"\";")
    } else {
        let upgrade = "proxy_set_header Upgrade $http_upgrade;\n            proxy_set_header Connection upgrade;";
        (upstream(setup, ""), upgrade)
    };
    let tls = match setup.protocol {
        Protocol::WebSocketTls | Protocol::Http1Tls | Protocol::Http2 => " ssl http2",
        _ => "",
    };
    format!(
        "http {{
    access_log off;
    keepalive_timeout 1h;
    keepalive_requests 100000000;
    client_body_temp_path body;
    proxy_temp_path proxy;
    fastcgi_temp_path fastcgi;
    uwsgi_temp_path uwsgi;
    scgi_temp_path scgi;{upstream}
    server {{
        listen 127.0.0.1:{port} backlog=4096{tls};{certificate}
        location / {{
            proxy_http_version 1.1;
            proxy_read_timeout 1h;
            proxy_send_timeout 1h;
            proxy_pass http://endpoint;
            {fields}
        }}
    }}
}}",
        port = setup.port,
        certificate = tls_settings(setup.protocol),
    )
}

fn upstream(setup: &Setup, keep_alive: &str) -> String {
    let servers: String = setup.endpoints.iter().map(|endpoint| format!("\n        server {endpoint};")).collect();
    format!("\n    upstream endpoint {{{servers}{keep_alive}\n    }}")
}

/// Sessions are resumed by tickets, which nginx gives by default; `ssl_buffer_size` stays at its 16 KiB.
fn tls_settings(protocol: Protocol) -> String {
    if !protocol.is_tls() {
        return String::new();
    }
    format!(
        "
        ssl_certificate {};
        ssl_certificate_key {};
        ssl_protocols TLSv1.2 TLSv1.3;
        ssl_session_tickets on;",
        certificate::CHAIN,
        certificate::KEY
    )
}
