//! The proxies that are measured: found, asked for their version, and started with a fair configuration: one worker,
//! keep-alive to the endpoint, no access log, buffers as they come.

mod haproxy;
mod nginx;
mod warbler;

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use serde::Serialize;
use tokio::net::TcpStream;

use super::{Row, row::Protocol};
use crate::{
    harness::{Launch, Process, Workspace, binary, eventually, reserve_port},
    output,
};

/// How long a program may take to say its version, or a peer to listen.
const SOON: Duration = Duration::from_secs(10);
/// Where Debian puts nginx's modules.
const NGINX_STREAM_MODULE: &str = "/usr/lib/nginx/modules/ngx_stream_module.so";

/// Which programs to take.
#[derive(Debug, Clone)]
pub struct Programs {
    /// `None`: the one beside the running program.
    pub warbler: Option<PathBuf>,
    pub nginx: PathBuf,
    pub haproxy: PathBuf,
}

/// A proxy that is there.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Peer {
    product: Product,
    program: PathBuf,
    pub(crate) version: String,
    /// nginx relays opaque bytes only with its stream module, which Debian packs apart.
    stream: Stream,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Product {
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

/// What a proxy is set up to do.
#[derive(Debug, Clone)]
pub(crate) struct Setup {
    pub(crate) protocol: Protocol,
    /// Much in one direction, for which some have a setting.
    pub(crate) bulk: bool,
    pub(crate) port: u16,
    pub(crate) endpoints: Vec<SocketAddr>,
    pub(crate) workers: usize,
}

/// A proxy at work.
#[derive(Debug)]
pub(crate) struct Running {
    pub(crate) process: Process,
    pub(crate) address: SocketAddr,
    /// The name of its configuration in the workspace.
    pub(crate) file: String,
}

/// Finds the proxies and says loudly which are missing.
pub(crate) async fn present(programs: &Programs, workspace: &Workspace) -> Vec<Peer> {
    let warbler = programs.warbler.clone().map_or_else(|| binary("warbler"), Ok);
    let wanted = [
        (Product::Warbler, warbler),
        (Product::Nginx, Ok(programs.nginx.clone())),
        (Product::Haproxy, Ok(programs.haproxy.clone())),
    ];
    let mut found = Vec::new();
    for (product, program) in wanted {
        match look(product, program, workspace).await {
            Ok(peer) => found.push(peer),
            Err(error) => output::talk(format!("LEFT OUT: {}: {error:#}", product.name())),
        }
    }
    found
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
        output::talk(format!(
            "LEFT OUT: nginx where bytes are opaque: no {NGINX_STREAM_MODULE} (package libnginx-mod-stream)"
        ));
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
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Warbler => "warbler",
            Self::Nginx => "nginx",
            Self::Haproxy => "HAProxy",
        }
    }
}

impl Peer {
    pub(crate) fn product(&self) -> Product {
        self.product
    }

    pub(crate) fn name(&self) -> &'static str {
        self.product.name()
    }

    pub(crate) fn is_warbler(&self) -> bool {
        self.product == Product::Warbler
    }

    /// Whether this build can do what the row asks for.
    pub(crate) fn can(&self, row: Row) -> bool {
        self.stream != Stream::Missing || !row.protocol.is_opaque()
    }

    /// Starts it on some cores, and waits until it listens.
    pub(crate) async fn start(&self, workspace: &Workspace, setup: &Setup, cores: &[usize]) -> Result<Running> {
        let name = format!("{}.conf", self.name());
        let file = workspace.write(&name, self.configuration(setup))?;
        let launch = Launch::new(&self.program).pinned(cores.iter().copied());
        let process = match self.product {
            Product::Warbler => Process::start(workspace, launch.args(["run", "--config"]).arg(file)).await?,
            Product::Nginx => {
                let launch = launch.arg("-p").arg(workspace.root()).arg("-e").arg(workspace.path("nginx.log"));
                listening(Process::spawn(workspace, launch.arg("-c").arg(file))?, setup.port).await?
            }
            Product::Haproxy => {
                listening(Process::spawn(workspace, launch.args(["-db", "-f"]).arg(file))?, setup.port).await?
            }
        };
        Ok(Running { process, address: local(setup.port), file: name })
    }

    pub(crate) fn configuration(&self, setup: &Setup) -> String {
        match self.product {
            Product::Warbler => warbler::configuration(setup),
            Product::Nginx => nginx::configuration(setup, &self.stream),
            Product::Haproxy => haproxy::configuration(setup),
        }
    }
}

impl Setup {
    /// One worker before one endpoint, on a port that no client can have by chance.
    pub(crate) fn new(row: Row, endpoints: Vec<SocketAddr>, workers: usize) -> Result<Self> {
        let bulk = row.measure == super::row::Measure::Bulk;
        Ok(Self { protocol: row.protocol, bulk, port: reserve_port()?, endpoints, workers })
    }

    /// With ports that are easy to read, for the report.
    pub(crate) fn shown(protocol: Protocol, bulk: bool) -> Self {
        Self { protocol, bulk, port: 8000, endpoints: vec![local(9000)], workers: 1 }
    }
}

async fn listening(mut process: Process, port: u16) -> Result<Process> {
    let address = local(port);
    let what = format!("`{}` listens on {address}", process.name());
    let seen =
        eventually(SOON, &what, async || (!process.runs() || TcpStream::connect(address).await.is_ok()).then_some(()));
    seen.await.with_context(|| process.last_lines())?;
    ensure!(process.runs(), "`{}` ended at once\n{}", process.name(), process.last_lines());
    Ok(process)
}

fn local(port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nginx_tells_whether_it_relays_opaque_bytes() {
        assert_eq!(nginx_stream("configure arguments: --with-http_v2_module --with-stream"), Stream::BuiltIn);
        assert_ne!(nginx_stream("--with-stream=dynamic --with-stream_ssl_module"), Stream::BuiltIn);
    }
}
