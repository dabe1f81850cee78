//! `slow-readers`: some phones stop reading while much is said, and read on later.

use std::time::Duration;

use anyhow::Result;

use super::{
    Drill, Limits,
    scene::{Phase, Scene},
    stage::{Cast, Stage},
};
use crate::harness::sample;

pub(super) const DRILL: Drill = Drill {
    name: "slow-readers",
    about: "every third phone stops reading while the others say a MiB a second to each, and reads on later",
    limits: Limits {
        p99_during: Some(Duration::from_secs(2)),
        // Those who read on have all that waited for them to read before their own acknowledgements.
        p99_after: Some(Duration::from_secs(5)),
        ..Limits::NONE
    },
    stage,
    act: |scene| Box::pin(act(scene)),
};

const CALM: Duration = Duration::from_secs(2);
/// Until all buffers on the way are full, and then longer than a server waits for a session that takes nothing.
const DEAF: Duration = Duration::from_secs(12);
/// What the edge may keep for each slow reader: 32 KiB a direction (ARCHITECTURE.md, section 5), and as much again for
/// what a connection has anyway. The rest is the allocator's.
const KEPT: u64 = 64 << 10;
const ALLOCATOR: u64 = 16 << 20;

fn stage() -> Stage {
    let cast = Cast { clients: 12, group: 12, deaf: Some(3), body: 48 << 10, ..Cast::default() };
    Stage { cast, server_arguments: &["--stall-timeout", "4s"], ..Stage::default() }
}

async fn act(scene: &mut Scene<'_>) -> Result<()> {
    scene.talk(CALM).await?;
    let edge = scene.edge.process.pid();
    let before = sample::proportional_memory(edge)?;
    let slow = scene.crowd.users().len().div_ceil(3);
    let blow = scene.mark(Phase::During, format!("{slow} phones stop reading"));
    scene.crowd.set_deaf(true);
    scene.talk(DEAF).await?;
    let grown = sample::proportional_memory(edge)?.saturating_sub(before);
    let most = KEPT * slow as u64 + ALLOCATOR;
    let shown = |bytes: u64| format!("{} KiB", bytes >> 10);
    scene.claim(format!("the edge grows by at most {}", shown(most)), shown(grown), grown <= most);
    let others: Vec<String> =
        scene.crowd.users().into_iter().enumerate().filter(|(at, _)| at % 3 != 0).map(|(_, user)| user).collect();
    scene.none_of_these_broke(&others, blow);
    scene.mark(Phase::After, "they read on");
    scene.crowd.set_deaf(false);
    scene.talk(CALM).await?;
    let all = scene.crowd.users();
    scene.until_online(&all, Duration::from_secs(20)).await
}
