//! What a reload changes, in words an operator can check at a glance.

use std::fmt::Debug;

use crate::config::{Cluster, Config, Listener, Name};

/// One line for each part that differs; empty when the configurations are the same.
pub fn changes(before: &Config, after: &Config) -> Vec<String> {
    let mut changes = Vec::new();
    let mut part = |name: &str, differs: bool| changes.extend(differs.then(|| format!("{name} changed")));
    part("edge", before.edge != after.edge);
    part("admin", before.admin != after.admin);
    part("log", before.log != after.log);
    part("dns", before.dns != after.dns);
    part("geoip", before.geoip != after.geoip);
    part("stop", before.stop != after.stop);
    part("drain", before.drain != after.drain);
    changes.extend(named("listener", &before.listeners, &after.listeners, |listener: &Listener| &listener.name));
    changes.extend(named("cluster", &before.clusters, &after.clusters, |cluster: &Cluster| &cluster.name));
    changes
}

/// Keys that a running process cannot change (effect class `start`), of those that differ.
pub fn at_next_start(before: &Config, after: &Config) -> Vec<String> {
    let mut keys = Vec::new();
    let mut key = |name: &str, differs: bool| keys.extend(differs.then(|| name.to_owned()));
    key("edge.workers", before.edge.workers != after.edge.workers);
    key("admin.bind", before.admin.bind != after.admin.bind);
    key("admin.socket", before.admin.socket != after.admin.socket);
    key("log.format", before.log.format != after.log.format);
    key("log.access", before.log.access != after.log.access);
    keys
}

fn named<T: PartialEq + Debug>(kind: &str, before: &[T], after: &[T], name: impl Fn(&T) -> &Name) -> Vec<String> {
    let find = |list: &[T], wanted: &Name| list.iter().position(|item| name(item) == wanted);
    let mut lines = Vec::new();
    for item in after {
        match find(before, name(item)) {
            None => lines.push(format!("{kind} `{}` added", name(item))),
            Some(old) if before[old] != *item => lines.push(format!("{kind} `{}` changed", name(item))),
            Some(_) => {}
        }
    }
    let removed = before.iter().filter(|item| find(after, name(item)).is_none());
    lines.extend(removed.map(|item| format!("{kind} `{}` removed", name(item))));
    lines
}
