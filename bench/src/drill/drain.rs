//! `drain`: an operator empties a server, whose people are asked to go elsewhere before anything ends.

use std::time::Duration;

use anyhow::{Result, ensure};

use super::{
    Drill, Limits,
    scene::{Phase, Scene},
    stage::Stage,
};
use crate::harness::http;

pub(super) const DRILL: Drill = Drill {
    name: "drain",
    about: "one of three servers is drained: its people are asked to go elsewhere, some a second, and it is started anew",
    limits: Limits {
        back: Some(Duration::from_secs(20)),
        broken: Some(0),
        p99_during: Some(Duration::from_secs(1)),
        p99_after: Some(Duration::from_secs(1)),
    },
    stage,
    act: |scene| Box::pin(act(scene)),
};

const CALM: Duration = Duration::from_secs(2);
/// Sessions a second that are asked to go, and that the edge lets through to each of the others.
const RATE: u32 = 4;

fn stage() -> Stage {
    // Until the edge has seen that the server takes nobody any more.
    Stage { server_arguments: &["--admin", "--stop-grace", "2s"], ..Stage::default() }
}

async fn act(scene: &mut Scene<'_>) -> Result<()> {
    scene.talk(CALM).await?;
    scene.cap_logins(RATE.into()).await?;
    let victim = scene.names(|_| true).swap_remove(0);
    let on_it = scene.crowd.diary.at(&victim);
    ensure!(!on_it.is_empty(), "nobody is on {victim}");
    let blow = scene.mark(Phase::During, format!("{victim} is drained, {RATE} sessions a second"));
    let drain = format!("/admin/drain?rate={RATE}&deadline=60s");
    let begun = http::request(scene.node(&victim)?.server.address, "POST", &drain, &[], b"").await?;
    ensure!(begun.status == 202, "the drain was answered with {}: {}", begun.status, begun.text());
    scene.until_back(&on_it, blow, Duration::from_secs(60)).await?;
    let left = scene.crowd.diary.at(&victim).len();
    scene.claim(format!("nobody is left on {victim}"), left.to_string(), left == 0);
    scene.kill(std::slice::from_ref(&victim))?;
    scene.restart(std::slice::from_ref(&victim)).await?;
    scene.mark(Phase::After, format!("{victim} is started anew"));
    scene.talk(CALM).await
}
