//! `reconnect-storm`: everybody's connection breaks at the same moment, and all want back in.

use std::time::Duration;

use anyhow::Result;

use super::{
    Drill, Limits,
    scene::{Phase, Scene},
    stage::{Cast, Stage},
};
use crate::im::BackOff;

pub(super) const DRILL: Drill = Drill {
    name: "reconnect-storm",
    about: "everybody's connection is reset at the same moment; each server takes so many logins a second and no more",
    limits: Limits { back: Some(Duration::from_secs(30)), p99_after: Some(Duration::from_secs(2)), ..Limits::NONE },
    stage,
    act: |scene| Box::pin(act(scene)),
};

const CALM: Duration = Duration::from_secs(3);
/// In how many seconds the servers together could take everybody, if nobody came at a time when all are taken.
const AT_BEST: f64 = 12.0;

fn stage() -> Stage {
    let cast = Cast {
        clients: 1000,
        group: 10,
        period: Duration::from_secs(10),
        // Real clients wait longer. The longest wait has to fit into the limit of the drill some times.
        back_off: BackOff { first: Duration::from_secs(4), longest: Duration::from_secs(4) },
        ..Cast::default()
    };
    Stage { cast, ..Stage::default() }
}

async fn act(scene: &mut Scene<'_>) -> Result<()> {
    scene.talk(CALM).await?;
    let users = scene.crowd.users();
    #[expect(clippy::cast_precision_loss, reason = "people of a drill are far below 2^52")]
    let cap = (users.len() as f64 / scene.nodes.len() as f64 / AT_BEST).ceil();
    // Only now: all of them had to arrive first.
    scene.cap_logins(cap).await?;
    scene.talk(Duration::from_secs(1)).await?;
    let blow = scene
        .mark(Phase::During, format!("{} connections are reset; each server takes {cap} logins a second", users.len()));
    scene.crowd.break_all_off();
    scene.until_back(&users, blow, Duration::from_secs(120)).await?;
    scene.mark(Phase::After, "all are back");
    scene.talk(CALM).await
}
