//! `backend-killed`: one of several servers is killed while people talk, and comes back.

use std::time::Duration;

use anyhow::{Result, ensure};

use super::{
    Drill, Limits,
    scene::{Phase, Scene},
    stage::Stage,
};

pub(super) const DRILL: Drill = Drill {
    name: "backend-killed",
    about: "one of three servers is killed (SIGKILL) while people talk, and comes back",
    limits: Limits { back: Some(Duration::from_secs(10)), p99_after: Some(Duration::from_secs(1)), ..Limits::NONE },
    stage: Stage::default,
    act: |scene| Box::pin(act(scene)),
};

const CALM: Duration = Duration::from_secs(2);

async fn act(scene: &mut Scene<'_>) -> Result<()> {
    scene.talk(CALM).await?;
    let victim = scene.names(|_| true).swap_remove(0);
    let blow = scene.mark(Phase::During, format!("{victim} is killed"));
    let hit = scene.kill(std::slice::from_ref(&victim))?;
    ensure!(!hit.is_empty(), "nobody was on {victim}");
    scene.until_back(&hit, blow, Duration::from_secs(30)).await?;
    scene.until_down(&victim).await?;
    scene.only_these_broke(&hit, blow);
    scene.talk(CALM).await?;
    scene.restart(std::slice::from_ref(&victim)).await?;
    scene.mark(Phase::After, format!("{victim} is back"));
    scene.talk(CALM).await
}
