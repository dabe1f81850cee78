//! `region-lost`: the way to a whole region breaks, with a reset and then silence, and comes back.

use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::{
    Drill, Limits,
    scene::{Phase, Scene},
    stage::{BERLIN, Cast, FRANKFURT, Locality, Stage, TORONTO, VIRGINIA},
};

pub(super) const DRILL: Drill = Drill {
    name: "region-lost",
    about: "all ways to one of two regions are cut and stay silent; its people go to the other, and newcomers return later",
    limits: Limits { back: Some(Duration::from_secs(15)), p99_after: Some(Duration::from_secs(1)), ..Limits::NONE },
    stage,
    act: |scene| Box::pin(act(scene)),
};

const CALM: Duration = Duration::from_secs(2);

fn stage() -> Stage {
    let near = Locality { servers: 2, way: None, ..FRANKFURT };
    let far = Locality { way: Some(Duration::from_millis(20)), ..VIRGINIA };
    Stage {
        cast: Cast { homes: &[BERLIN, TORONTO], ..Cast::default() },
        localities: vec![near, far],
        cluster: "steer = [\"distance\"]\n".into(),
        tables: "[geoip]\ndatabases = [\"places.mmdb\"]\n".into(),
        ..Stage::default()
    }
}

async fn act(scene: &mut Scene<'_>) -> Result<()> {
    scene.talk(CALM).await?;
    let lost = scene.names(|node| node.locality == VIRGINIA.name);
    let hit: Vec<String> = lost.iter().flat_map(|name| scene.crowd.diary.at(name)).collect();
    ensure!(!hit.is_empty(), "nobody was in {}", VIRGINIA.name);
    let blow = scene.mark(Phase::During, format!("{} is cut off: {} people are hit", VIRGINIA.name, hit.len()));
    for name in &lost {
        let wan = scene.node(name)?.wan.as_ref().context("a relay is on the way")?;
        wan.set_silent(true);
        wan.cut();
    }
    scene.until_back(&hit, blow, Duration::from_secs(40)).await?;
    for name in &lost {
        scene.until_down(name).await?;
    }
    scene.only_these_broke(&hit, blow);
    scene.talk(CALM).await?;
    for name in &lost {
        scene.node(name)?.wan.as_ref().context("a relay is on the way")?.set_silent(false);
    }
    for name in &lost {
        scene.until_up(name).await?;
    }
    let returned = scene.mark(Phase::After, format!("the ways to {} are back", VIRGINIA.name));
    scene.until_newcomers_go(&TORONTO, "newcomers go there again", |node| node.locality == VIRGINIA.name).await?;
    scene.talk(CALM).await?;
    let users = scene.crowd.users();
    scene.none_of_these_broke(&users, returned);
    Ok(())
}
