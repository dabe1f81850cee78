//! `edge-killed`: the edge itself is killed while people talk, and is started again where it was.

use std::time::Duration;

use anyhow::Result;

use super::{
    Drill, Limits,
    scene::{Phase, Scene},
    stage::Stage,
};

pub(super) const DRILL: Drill = Drill {
    name: "edge-killed",
    about: "the edge is killed (SIGKILL) while people talk, and is started again a second later",
    limits: Limits { back: Some(Duration::from_secs(15)), p99_after: Some(Duration::from_secs(1)), ..Limits::NONE },
    stage,
    act: |scene| Box::pin(act(scene)),
};

const CALM: Duration = Duration::from_secs(2);
/// As long as whoever watches over it takes to notice.
const GONE: Duration = Duration::from_secs(1);

fn stage() -> Stage {
    Stage { fixed_port: true, ..Stage::default() }
}

async fn act(scene: &mut Scene<'_>) -> Result<()> {
    scene.talk(CALM).await?;
    let users = scene.crowd.users();
    let blow = scene.mark(Phase::During, "the edge is killed");
    scene.kill_edge()?;
    scene.talk(GONE).await?;
    scene.mark(Phase::During, "it is started again");
    scene.start_edge_again().await?;
    scene.until_back(&users, blow, Duration::from_secs(60)).await?;
    scene.mark(Phase::After, "all are back");
    scene.talk(CALM).await
}
