//! The proxies that are compared, and a fair configuration for each: one worker, keep-alive to the endpoint, no access
//! log, buffers as they come.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result};
use serde::Serialize;
use tokio::net::TcpStream;

use super::Settings;
use crate::{
    harness::{Launch, Process, Workspace, binary, eventually, reserve_port},
    output,
    serve::Kind,
};

/// How long a program may take to say its version, or a peer to listen.
const SOON: Duration = Duration::from_secs(10);
/// Where Debian puts nginx's modules.
const NGINX_STREAM_MODULE: &str = "/usr/lib/nginx/modules/ngx_stream_module.so";

/// A proxy that is there.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Peer {
    product: Product,
    program: PathBuf,
    pub(super) version: String,
    /// nginx relays TCP only with its stream module, which Debian packs apart.
    stream: Stream,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
enum Product {
    Warbler,
    Nginx,
    Haproxy,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
enum Stream {
    BuiltIn,
    Module(PathBuf),
    Missing,
}

/// A proxy at work.
#[derive(Debug)]
pub(super) struct Running {
    pub(super) process: Process,
    pub(super) address: SocketAddr,
}

/// Finds the proxies and says loudly which are missing.
pub(super) async fn present(settings: &Settings, workspace: &Workspace) -> Result<Vec<Peer>> {
    let warbler = settings.warbler.clone().map_or_else(|| binary("warbler"), Ok);
    let wanted = [
        (Product::Warbler, warbler),
        (Product::Nginx, Ok(settings.nginx.clone())),
        (Product::Haproxy, Ok(settings.haproxy.clone())),
    ];
    let mut found = Vec::new();
    for (product, program) in wanted {
        match look(product, program, workspace).await {
            Ok(peer) => found.push(peer),
            Err(error) => output::talk(format!("LEFT OUT: {}: {error:#}", product.name())),
        }
    }
    Ok(found)
}

async fn look(product: Product, program: Result<PathBuf>, workspace: &Workspace) -> Result<Peer> {
    let program = program?;
    let program = program.canonicalize().with_context(|| format!("there is no {}", program.display()))?;
    let asked = match product {
        Product::Warbler => "--version",
        Product::Nginx => "-V",
        Product::Haproxy => "-v",
    };
    let said = Process::run(workspace, Launch::new(&program).arg(asked), SOON).await?;
    let text = said.stdout + &said.stderr;
    let mut version = text.lines().next().unwrap_or_default().trim().to_owned();
    if product == Product::Warbler && program.components().any(|part| part.as_os_str() == "debug") {
        output::talk("NOT COMPARABLE: this warbler is a debug build; use `cargo build --release`");
        version += " (debug build: not comparable)";
    }
    let stream = match product {
        Product::Nginx => nginx_stream(&text),
        Product::Warbler | Product::Haproxy => Stream::BuiltIn,
    };
    if stream == Stream::Missing {
        output::talk(format!("LEFT OUT: nginx over TCP: no {NGINX_STREAM_MODULE} (package libnginx-mod-stream)"));
    }
    Ok(Peer { product, program, version, stream })
}

fn nginx_stream(build_options: &str) -> Stream {
    if build_options.split_whitespace().any(|option| option == "--with-stream") {
        Stream::BuiltIn
    } else if Path::new(NGINX_STREAM_MODULE).is_file() {
        Stream::Module(NGINX_STREAM_MODULE.into())
    } else {
        Stream::Missing
    }
}

impl Product {
    fn name(self) -> &'static str {
        match self {
            Self::Warbler => "warbler",
            Self::Nginx => "nginx",
            Self::Haproxy => "HAProxy",
        }
    }
}

impl Peer {
    pub(super) fn name(&self) -> &'static str {
        self.product.name()
    }

    pub(super) fn is_warbler(&self) -> bool {
        self.product == Product::Warbler
    }

    /// Whether this build can carry this kind of load.
    pub(super) fn speaks(&self, kind: Kind) -> bool {
        kind != Kind::TcpEcho || self.stream != Stream::Missing
    }

    /// Starts it on one core before an endpoint, and waits until it listens.
    pub(super) async fn start(
        &self,
        workspace: &Workspace,
        kind: Kind,
        endpoint: SocketAddr,
        core: usize,
    ) -> Result<Running> {
        let port = if self.is_warbler() { 0 } else { reserve_port()? };
        let file = workspace.write(format!("{}.conf", self.name()), self.configuration(kind, port, endpoint))?;
        let launch = Launch::new(&self.program).pinned([core]);
        match self.product {
            Product::Warbler => {
                let process = Process::start(workspace, launch.args(["run", "--config"]).arg(file)).await?;
                let address = process.address("listeners.load", 0)?;
                Ok(Running { process, address })
            }
            Product::Nginx => {
                let launch = launch
                    .arg("-p")
                    .arg(workspace.root())
                    .arg("-e")
                    .arg(workspace.path("nginx.log"))
                    .arg("-c")
                    .arg(file);
                listening(Process::spawn(workspace, launch)?, port).await
            }
            Product::Haproxy => listening(Process::spawn(workspace, launch.args(["-db", "-f"]).arg(file))?, port).await,
        }
    }

    /// The configuration for one kind of load.
    pub(super) fn configuration(&self, kind: Kind, port: u16, endpoint: SocketAddr) -> String {
        match self.product {
            Product::Warbler => warbler(kind, port, endpoint),
            Product::Nginx => nginx(kind, port, endpoint, &self.stream),
            Product::Haproxy => haproxy(kind, port, endpoint),
        }
    }
}

async fn listening(mut process: Process, port: u16) -> Result<Running> {
    let address = SocketAddr::from(([127, 0, 0, 1], port));
    let what = format!("`{}` listens on {address}", process.name());
    let seen =
        eventually(SOON, &what, async || (!process.runs() || TcpStream::connect(address).await.is_ok()).then_some(()));
    seen.await.with_context(|| process.last_lines())?;
    anyhow::ensure!(process.runs(), "`{}` ended at once\n{}", process.name(), process.last_lines());
    Ok(Running { process, address })
}

fn warbler(kind: Kind, port: u16, endpoint: SocketAddr) -> String {
    let listener = match kind {
        Kind::TcpEcho => "protocol = \"tcp\"\ncluster = \"endpoint\"\n",
        Kind::WsEcho | Kind::Http => {
            "protocol = \"http\"\n\n[[listeners.load.routes]]\npath-prefix = \"/\"\ncluster = \"endpoint\"\n"
        }
    };
    format!(
        r#"[edge]
name = "compare"
workers = 1

[log]
access = "off"

[admin]
bind = ["127.0.0.1:0"]

[listeners.load]
bind = ["127.0.0.1:{port}"]
{listener}
[clusters.endpoint]
health.off = true

[clusters.endpoint.localities.local]
endpoints = [{{ address = "{endpoint}" }}]
"#
    )
}

fn nginx(kind: Kind, port: u16, endpoint: SocketAddr, stream: &Stream) -> String {
    let (module, work) = match kind {
        Kind::TcpEcho => {
            let module = match stream {
                Stream::Module(path) => format!("load_module {};\n", path.display()),
                Stream::BuiltIn | Stream::Missing => String::new(),
            };
            let work = format!(
                "stream {{
    server {{
        listen 127.0.0.1:{port} backlog=4096;
        proxy_pass {endpoint};
        proxy_timeout 1h;
    }}
}}"
            );
            (module, work)
        }
        Kind::WsEcho => {
            let location = format!(
                "proxy_pass http://{endpoint};
            proxy_set_header Upgrade $http_upgrade;
            proxy_set_header Connection upgrade;"
            );
            (String::new(), nginx_http(port, "", &location))
        }
        Kind::Http => {
            // By default it would open an upstream connection for each request, and close one after 1000.
            let upstream = format!(
                "
    upstream endpoint {{
        server {endpoint};
        keepalive 1024;
        keepalive_requests 100000000;
    }}"
            );
            let location = "proxy_pass http://endpoint;
            proxy_set_header Connection \"\";";
            (String::new(), nginx_http(port, &upstream, location))
        }
    };
    format!(
        // One process, no master: ending it ends nginx, however the measurement ends.
        "{module}daemon off;
master_process off;
worker_processes 1;
worker_rlimit_nofile 20000;
pid nginx.pid;
error_log nginx.log warn;
events {{ worker_connections 19000; }}
{work}
"
    )
}

fn nginx_http(port: u16, upstream: &str, location: &str) -> String {
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
        listen 127.0.0.1:{port} backlog=4096;
        location / {{
            proxy_http_version 1.1;
            proxy_read_timeout 1h;
            proxy_send_timeout 1h;
            {location}
        }}
    }}
}}"
    )
}

fn haproxy(kind: Kind, port: u16, endpoint: SocketAddr) -> String {
    let mode = match kind {
        Kind::TcpEcho => "mode tcp",
        Kind::WsEcho => "mode http",
        Kind::Http => "mode http\n    http-reuse always",
    };
    format!(
        "global
    nbthread 1
    maxconn 9500

defaults
    {mode}
    timeout connect 5s
    timeout client 1h
    timeout server 1h
    timeout tunnel 1h

frontend load
    bind 127.0.0.1:{port} backlog 4096
    default_backend endpoint

backend endpoint
    server one {endpoint}
"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nginx_tells_whether_it_relays_tcp() {
        assert_eq!(nginx_stream("configure arguments: --with-http_v2_module --with-stream"), Stream::BuiltIn);
        assert_ne!(nginx_stream("--with-stream=dynamic --with-stream_ssl_module"), Stream::BuiltIn);
    }
}
