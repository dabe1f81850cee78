//! Everything about a configuration that can fail before it is published: the files themselves, and what they name.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::files::{self, FileState, GeoFiles};
use crate::affinity::Keys;
use crate::config::{self, Loaded, OpenFiles, Report, Serves};
use crate::tls::{self, Tickets, UpstreamTls};

/// What is resolved of a configuration before it is published: everything that can fail.
pub(super) struct Resolved {
    pub(super) loaded: Loaded,
    pub(super) listener_tls: Vec<Option<Arc<rustls::ServerConfig>>>,
    pub(super) cluster_tls: Vec<Option<UpstreamTls>>,
    pub(super) cluster_keys: Vec<Option<Arc<Keys>>>,
    pub(super) geo: Arc<geoip::Geo>,
    pub(super) files: FileState,
}

/// Why files were refused, and which ones to watch for the mend.
pub(super) struct Refused {
    pub(super) problems: Vec<String>,
    pub(super) report: Option<Report>,
    pub(super) files: Vec<PathBuf>,
}

impl Refused {
    pub(super) fn text(&self, consequence: &str) -> String {
        match &self.report {
            Some(report) => report.render(consequence),
            None => {
                let count = config::diagnostic::counted(self.problems.len(), "problem");
                let lines: Vec<String> = self.problems.iter().map(|problem| format!("error: {problem}")).collect();
                format!("{}\n{count}; {consequence}", lines.join("\n"))
            }
        }
    }
}

/// Reads, checks and opens; nothing of the running process is touched.
pub(super) fn resolve(path: &Path, tickets: &Tickets, geo_files: &mut GeoFiles) -> Result<Resolved, Refused> {
    let loaded = config::load(path, OpenFiles::Yes).map_err(|report| {
        // What is wrong may be a file that it names: that one is to be watched, too.
        let files =
            config::load(path, OpenFiles::No).map_or_else(|_| Vec::new(), |loaded| files::named_files(&loaded.config));
        Refused { problems: Vec::new(), report: Some(report), files }
    })?;
    let config = &loaded.config;
    let named = files::named_files(config);
    let files = FileState::look(path, named.clone()).as_loaded(&loaded.sources);
    let mut problems = Vec::new();
    let listener_tls = config
        .listeners
        .iter()
        .map(|listener| {
            let http = match &listener.serves {
                Serves::Tcp { .. } => None,
                Serves::Http(http) => Some((http.http1, http.http2)),
            };
            let tls = listener.tls.as_ref().map(|tls| tls::server_config(tls, http, tickets)).transpose();
            tls.unwrap_or_else(|error| {
                problems.push(format!("listener `{}`: {error}", listener.name));
                None
            })
        })
        .collect();
    let cluster_tls = config
        .clusters
        .iter()
        .map(|cluster| {
            cluster.tls.as_ref().map(UpstreamTls::new).transpose().unwrap_or_else(|error| {
                problems.push(format!("cluster `{}`: {error}", cluster.name));
                None
            })
        })
        .collect();
    let cluster_keys = config
        .clusters
        .iter()
        .map(|cluster| {
            let keys = Keys::open(cluster).unwrap_or_else(|error| {
                problems.push(format!("cluster `{}`: {error}", cluster.name));
                None
            });
            keys.map(Arc::new)
        })
        .collect();
    let geo = geo_files.load(&config.geoip).unwrap_or_else(|error| {
        problems.push(error);
        Arc::default()
    });
    if !problems.is_empty() {
        return Err(Refused { problems, report: None, files: named });
    }
    Ok(Resolved { listener_tls, cluster_tls, cluster_keys, geo, files, loaded })
}
