//! `dns-lost`: the resolver fails, is silent, and denies that the name exists, while people talk and come.

use std::time::Duration;

use anyhow::{Context, Result};

use super::{
    Drill, Limits,
    scene::{Phase, Scene},
    stage::{BERLIN, NAME, Stage},
};
use crate::harness::{DnsServer, dns::Reply};

pub(super) const DRILL: Drill = Drill {
    name: "dns-lost",
    about: "the resolver of the servers' name fails, goes silent, and says that there is no such name; then an address goes",
    limits: Limits {
        broken: Some(0),
        p99_during: Some(Duration::from_secs(1)),
        p99_after: Some(Duration::from_secs(1)),
        ..Limits::NONE
    },
    stage: || Stage { by_name: true, ..Stage::default() },
    act: |scene| Box::pin(act(scene)),
};

const CALM: Duration = Duration::from_secs(2);
/// Some look-ups: the answers are good for a second.
const OUTAGE: Duration = Duration::from_secs(3);

async fn act(scene: &mut Scene<'_>) -> Result<()> {
    scene.talk(CALM).await?;
    let failures = [("result", "failed")];
    let outages = [
        ("fails", Reply::Failure),
        ("goes silent", Reply::Silence),
        ("says that there is no such name", Reply::NoSuchName),
    ];
    for (what, outage) in outages {
        let before = scene.edge.metric("warbler_dns_lookups_total", &failures).await?.unwrap_or_default();
        scene.mark(Phase::During, format!("the resolver {what}"));
        dns(scene)?.set_outage(Some(outage));
        scene.talk(OUTAGE).await?;
        scene.newcomer(&BERLIN).await?;
        let failed = scene.edge.metric("warbler_dns_lookups_total", &failures).await?.unwrap_or_default() - before;
        scene.claim(
            format!("the resolver {what}: look-ups that fail are counted"),
            format!("{failed:.0}"),
            failed > 0.5,
        );
    }
    let gone = scene.names(|_| true).swap_remove(0);
    scene.mark(Phase::After, format!("it answers again, and without {gone}"));
    let left: Vec<String> = scene.nodes.iter().skip(1).map(|node| node.endpoint.ip().to_string()).collect();
    dns(scene)?.set_addresses(NAME, &left.iter().map(String::as_str).collect::<Vec<_>>(), 1);
    dns(scene)?.set_outage(None);
    scene.talk(OUTAGE).await?;
    let mut at_gone = 0;
    for _ in 0..10 {
        at_gone += usize::from(scene.newcomer(&BERLIN).await? == gone);
    }
    scene.claim(format!("no newcomer goes to {gone} any more"), format!("{at_gone} of 10"), at_gone == 0);
    Ok(())
}

fn dns<'a>(scene: &'a Scene<'_>) -> Result<&'a DnsServer> {
    scene.dns.as_ref().context("a drill with a name has a resolver")
}
