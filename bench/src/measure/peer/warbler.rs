//! The configuration of warbler.

use super::{super::certificate, Setup};

pub(super) fn configuration(setup: &Setup) -> String {
    let Setup { protocol, port, workers, .. } = setup;
    let mut listener = if protocol.is_opaque() {
        "protocol = \"tcp\"\ncluster = \"endpoint\"\n".to_owned()
    } else {
        "protocol = \"http\"\n".to_owned()
    };
    if protocol.is_tls() {
        let (chain, key) = (certificate::CHAIN, certificate::KEY);
        listener += &format!("tls.certificates = [{{ chain = \"{chain}\", key = \"{key}\" }}]\n");
        if !protocol.is_opaque() {
            listener += "http-versions = [\"1.1\", \"2\"]\n";
        }
    }
    if !protocol.is_opaque() {
        listener += "\n[[listeners.load.routes]]\npath-prefix = \"/\"\ncluster = \"endpoint\"\n";
    }
    let endpoints: Vec<String> =
        setup.endpoints.iter().map(|endpoint| format!("{{ address = \"{endpoint}\" }}")).collect();
    format!(
        r#"[edge]
name = "compare"
workers = {workers}

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
endpoints = [{endpoints}]
"#,
        endpoints = endpoints.join(", ")
    )
}
