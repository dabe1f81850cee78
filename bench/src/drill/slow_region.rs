//! `slow-region`: the way to the nearest region becomes long, and short again.

use std::time::Duration;

use anyhow::{Context, Result};

use super::{
    Drill, Limits,
    outcome::seconds,
    scene::{Phase, Scene},
    stage::{BERLIN, Cast, FRANKFURT, Locality, Stage, VIRGINIA},
};

pub(super) const DRILL: Drill = Drill {
    name: "slow-region",
    about: "bytes to the nearest region take 150 ms instead of 2 ms; newcomers go elsewhere, and those who are there stay",
    limits: Limits {
        broken: Some(0),
        p99_during: Some(Duration::from_secs(1)),
        p99_after: Some(Duration::from_secs(1)),
        ..Limits::NONE
    },
    stage,
    act: |scene| Box::pin(act(scene)),
};

const CALM: Duration = Duration::from_secs(2);
const NEAR: Duration = Duration::from_millis(2);
const SLOW: Duration = Duration::from_millis(150);
/// From the change of the way until newcomers go by it: a window of 1.5 s must have forgotten the old round trips, and
/// the band is changed after two rounds of a second. The rest is for a busy machine.
const NOTICED: Duration = Duration::from_secs(15);

fn stage() -> Stage {
    let near = Locality { servers: 2, way: Some(NEAR), ..FRANKFURT };
    let far = Locality { way: Some(Duration::from_millis(30)), ..VIRGINIA };
    Stage {
        // Less often than a round trip takes then, so that what is measured is the way and no queue in a phone.
        cast: Cast { period: Duration::from_secs(1), ..Cast::default() },
        localities: vec![near, far],
        cluster: "steer = [\"rtt\"]\nrtt = { window = \"1500ms\", dwell = 2 }\n".into(),
        ..Stage::default()
    }
}

async fn act(scene: &mut Scene<'_>) -> Result<()> {
    let is_near = |node: &super::scene::Node| node.locality == FRANKFURT.name;
    scene.until_newcomers_go(&BERLIN, "newcomers go to the nearest region", is_near).await?;
    scene.talk(CALM).await?;
    scene.mark(Phase::During, format!("the way to {} becomes slow", FRANKFURT.name));
    set_delay(scene, SLOW)?;
    let noticed = scene.until_newcomers_go(&BERLIN, "newcomers go to the other region", |node| !is_near(node)).await?;
    scene.claim(format!("newcomers go elsewhere within {NOTICED:?}"), seconds(noticed), noticed <= NOTICED);
    scene.talk(CALM).await?;
    scene.mark(Phase::After, format!("the way to {} is as it was", FRANKFURT.name));
    set_delay(scene, NEAR)?;
    let noticed = scene.until_newcomers_go(&BERLIN, "newcomers return to the nearest region", is_near).await?;
    scene.claim(format!("newcomers return within {NOTICED:?}"), seconds(noticed), noticed <= NOTICED);
    scene.talk(CALM).await
}

fn set_delay(scene: &Scene<'_>, delay: Duration) -> Result<()> {
    for name in scene.names(|node| node.locality == FRANKFURT.name) {
        scene.node(&name)?.wan.as_ref().context("a relay is on the way")?.set_delay(delay);
    }
    Ok(())
}
