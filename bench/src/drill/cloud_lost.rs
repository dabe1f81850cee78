//! `cloud-lost`: all servers of one provider are killed, in all of its regions, and come back.

use std::time::Duration;

use anyhow::{Result, ensure};

use super::{
    Drill, Limits,
    scene::{Phase, Scene},
    stage::{BERLIN, Cast, FRANKFURT, JAKARTA, Locality, SINGAPORE, Stage, TORONTO, VIRGINIA},
};

pub(super) const DRILL: Drill = Drill {
    name: "cloud-lost",
    about: "all four servers of one provider, in two regions, are killed; the other provider's two take everybody",
    limits: Limits { back: Some(Duration::from_secs(15)), p99_after: Some(Duration::from_secs(1)), ..Limits::NONE },
    stage,
    act: |scene| Box::pin(act(scene)),
};

const CALM: Duration = Duration::from_secs(2);

fn stage() -> Stage {
    Stage {
        cast: Cast { homes: &[BERLIN, TORONTO, JAKARTA], ..Cast::default() },
        localities: vec![Locality { servers: 2, ..FRANKFURT }, VIRGINIA, SINGAPORE],
        cluster: "steer = [\"distance\"]\n".into(),
        tables: "[geoip]\ndatabases = [\"places.mmdb\"]\n".into(),
        ..Stage::default()
    }
}

async fn act(scene: &mut Scene<'_>) -> Result<()> {
    scene.talk(CALM).await?;
    let lost = scene.names(|node| node.provider == VIRGINIA.provider);
    let blow =
        scene.mark(Phase::During, format!("all servers of {} are killed: {}", VIRGINIA.provider, lost.join(", ")));
    let hit = scene.kill(&lost)?;
    ensure!(!hit.is_empty(), "nobody was at {}", VIRGINIA.provider);
    scene.until_back(&hit, blow, Duration::from_secs(40)).await?;
    for name in &lost {
        scene.until_down(name).await?;
    }
    scene.only_these_broke(&hit, blow);
    scene.talk(CALM).await?;
    scene.restart(&lost).await?;
    scene.mark(Phase::After, format!("all servers of {} are back", VIRGINIA.provider));
    for (home, locality) in [(TORONTO, VIRGINIA), (JAKARTA, SINGAPORE)] {
        scene.until_newcomers_go(&home, "newcomers go there again", |node| node.locality == locality.name).await?;
    }
    scene.talk(CALM).await
}
