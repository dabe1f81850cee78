//! `half-open`: the way to one server goes silent. Nobody hears of an end: neither the edge nor the server is told.

use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::{
    Drill, Limits,
    scene::{Phase, Scene},
    stage::{FRANKFURT, Locality, Stage},
};

pub(super) const DRILL: Drill = Drill {
    name: "half-open",
    about: "the way to one of three servers goes silent: no byte, no end, no reset; later it is back with all that it held",
    limits: Limits { back: Some(Duration::from_secs(15)), p99_after: Some(Duration::from_secs(1)), ..Limits::NONE },
    stage,
    act: |scene| Box::pin(act(scene)),
};

const CALM: Duration = Duration::from_secs(2);

fn stage() -> Stage {
    let localities = vec![Locality { way: Some(Duration::from_millis(1)), ..FRANKFURT }];
    Stage { localities, cluster: "cut-on-down = true\n".into(), ..Stage::default() }
}

async fn act(scene: &mut Scene<'_>) -> Result<()> {
    scene.talk(CALM).await?;
    let victim = scene.names(|_| true).swap_remove(0);
    let hit = scene.crowd.diary.at(&victim);
    ensure!(!hit.is_empty(), "nobody was on {victim}");
    let blow = scene.mark(Phase::During, format!("the way to {victim} goes silent"));
    scene.node(&victim)?.wan.as_ref().context("a relay is on the way")?.set_silent(true);
    scene.until_back(&hit, blow, Duration::from_secs(40)).await?;
    scene.until_down(&victim).await?;
    scene.only_these_broke(&hit, blow);
    scene.talk(CALM).await?;
    scene.node(&victim)?.wan.as_ref().context("a relay is on the way")?.set_silent(false);
    scene.until_up(&victim).await?;
    scene.mark(Phase::After, format!("the way to {victim} is back"));
    scene.talk(CALM).await
}
