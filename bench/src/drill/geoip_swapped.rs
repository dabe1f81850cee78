//! `geoip-swapped`: the database of places is replaced by another one, then by a damaged one.

use std::time::Duration;

use anyhow::Result;

use super::{
    Drill, Limits,
    outcome::seconds,
    scene::{DATABASE, Node, Phase, Scene, database},
    stage::{BERLIN, Cast, FRANKFURT, Locality, Stage, TORONTO, VIRGINIA},
};

pub(super) const DRILL: Drill = Drill {
    name: "geoip-swapped",
    about: "a database that puts Berlin into Canada replaces the right one, then one that is damaged; sessions stay where they are",
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
const NOTICED: Duration = Duration::from_secs(10);

fn stage() -> Stage {
    Stage {
        cast: Cast { homes: &[BERLIN, TORONTO], ..Cast::default() },
        localities: vec![Locality { servers: 2, ..FRANKFURT }, VIRGINIA],
        cluster: "steer = [\"distance\"]\n".into(),
        tables: format!("[geoip]\ndatabases = [\"{DATABASE}\"]\n"),
        ..Stage::default()
    }
}

async fn act(scene: &mut Scene<'_>) -> Result<()> {
    let in_frankfurt = |node: &Node| node.locality == FRANKFURT.name;
    scene.talk(CALM).await?;
    scene.until_newcomers_go(&BERLIN, "Berlin goes to Frankfurt", in_frankfurt).await?;

    scene.mark(Phase::During, "a database that puts Berlin into Canada");
    let right = database([BERLIN.row(), TORONTO.row()])?;
    let moved = super::stage::Home { network: BERLIN.network, ..TORONTO };
    scene.workspace.replace(DATABASE, database([moved.row(), TORONTO.row()])?)?;
    let noticed = scene.until_newcomers_go(&BERLIN, "Berlin goes to Virginia", |node| !in_frankfurt(node)).await?;
    scene.claim(format!("newcomers go by it within {NOTICED:?}"), seconds(noticed), noticed <= NOTICED);
    scene.talk(CALM).await?;

    scene.mark(Phase::During, "a damaged database");
    let mark = scene.edge.process.log_mark();
    scene.workspace.replace(DATABASE, &right[..right.len() / 2])?;
    let refused = scene.edge.process.wait_for_log_since(mark, DATABASE, NOTICED).await;
    scene.claim(
        "the damaged one is refused, and the log names it",
        if refused.is_ok() { "yes" } else { "no" },
        refused.is_ok(),
    );
    let node = scene.newcomer(&BERLIN).await?;
    let stays = !in_frankfurt(scene.node(&node)?);
    scene.claim("newcomers go by the last good one", node, stays);
    scene.talk(CALM).await?;

    scene.mark(Phase::After, "the right database");
    scene.workspace.replace(DATABASE, right)?;
    let noticed = scene.until_newcomers_go(&BERLIN, "Berlin goes to Frankfurt again", in_frankfurt).await?;
    scene.claim(format!("newcomers go by it within {NOTICED:?}"), seconds(noticed), noticed <= NOTICED);
    scene.talk(CALM).await
}
