//! `restore`: a backup is taken while people talk, the store is destroyed, and the backup takes its place.
//!
//! What was acknowledged before the backup began has to be there, each at its place, and with it everything that is
//! acknowledged after. What was acknowledged between is what a backup cannot hold: it is counted, and whoever sends it
//! again gets it stored. So the journal is set back to the point of the backup when nobody is online, and the check at the
//! end is that of every drill.

use std::{collections::HashSet, fs, time::Duration};

use anyhow::{Context, Result, ensure};
use bytes::Bytes;

use super::{
    Drill, Limits,
    scene::{Phase, Scene},
    stage::Stage,
};
use crate::{
    harness::{Launch, Process, binary, eventually},
    im::{Promise, Server, checker::Histories},
};

pub(super) const DRILL: Drill = Drill {
    name: "restore",
    about: "a backup is taken while people talk; the store of all three servers is destroyed and restored from it",
    limits: Limits { back: Some(Duration::from_secs(20)), p99_after: Some(Duration::from_secs(1)), ..Limits::NONE },
    stage: Stage::default,
    act: |scene| Box::pin(act(scene)),
};

const CALM: Duration = Duration::from_secs(2);
/// How long a backup, or restoring it, may take.
const SOON: Duration = Duration::from_secs(20);
/// The backup's directory in the workspace of a run.
const BACKUP: &str = "backup";

async fn act(scene: &mut Scene<'_>) -> Result<()> {
    scene.talk(CALM).await?;
    let point = scene.crowd.journal.copy();
    warbler_im(scene, "backup", "--data", "--to").await?;
    scene.mark(Phase::Before, format!("a backup is taken, {} messages are acknowledged", point.promises()));
    scene.talk(CALM).await?;

    let servers = scene.names(|_| true);
    let blow = scene.mark(Phase::During, "all servers are killed and their store is destroyed");
    scene.kill(&servers)?;
    fs::remove_dir_all(Server::store(scene.workspace)).context("the store cannot be destroyed")?;
    let nobody = async || (scene.crowd.diary.online() == 0).then_some(());
    scene.crowd.watched(eventually(SOON, "everybody has lost their session", nobody)).await?;
    let said = scene.crowd.journal.set_back(&point).acknowledgements();
    warbler_im(scene, "restore", "--from", "--data").await?;
    let workspace = scene.workspace;
    for node in &mut scene.nodes {
        // Not waited for by the edge's standing: it has ejected all of them for longer, and in panic tries them.
        node.server.start_again(workspace).await?;
    }
    let all = scene.crowd.users();
    scene.until_back(&all, blow, Duration::from_secs(40)).await?;

    let server = scene.living_server()?;
    let restored = scene.crowd.histories(server).await?;
    let missing = what_is_missing(&said, &restored);
    scene.mark(Phase::After, format!("restored; {} messages that were acknowledged later are gone", missing.len()));
    let promised = point.acknowledgements();
    judge(scene, &promised, &missing);
    send_again(scene, &promised, &missing).await?;
    scene.talk(CALM).await
}

/// Runs a sub-command of `warbler-im` over the store and the backup.
async fn warbler_im(scene: &Scene<'_>, command: &str, first: &str, second: &str) -> Result<()> {
    let (store, backup) = (Server::store(scene.workspace), scene.workspace.path(BACKUP));
    let (one, other) = if first == "--data" { (store, backup) } else { (backup, store) };
    let launch = Launch::new(binary("warbler-im")?).name(command).arg(command);
    let launch = launch.arg(first).arg(one).arg(second).arg(other);
    let done = scene.crowd.watched(Process::run(scene.workspace, launch, SOON)).await?;
    ensure!(done.code() == 0, "`warbler-im {command}` ended with {}: {}", done.status, done.stderr);
    Ok(())
}

fn what_is_missing(said: &[Promise], restored: &Histories) -> Vec<Promise> {
    let stored: HashSet<(&str, &str, &[u8])> = restored
        .iter()
        .flat_map(|(conv, history)| history.iter().map(|msg| (&**conv, &*msg.sender, &*msg.client_msg_id)))
        .collect();
    said.iter().filter(|said| !stored.contains(&(&*said.conv, &*said.sender, &*said.id))).cloned().collect()
}

fn judge(scene: &mut Scene<'_>, promised: &[Promise], missing: &[Promise]) {
    let ids: HashSet<(&str, &[u8])> = promised.iter().map(|said| (&*said.sender, &*said.id)).collect();
    let lost = missing.iter().filter(|said| ids.contains(&(&*said.sender, &*said.id))).count();
    let before = promised.len();
    let limit = format!("the backup holds all {before} messages that were acknowledged before it");
    scene.claim(limit, format!("{lost} are missing"), lost == 0 && before > 0);
    let limit = "messages acknowledged after it are what it does not hold";
    scene.claim(limit, missing.len().to_string(), !missing.is_empty());
}

/// Somebody sends again what the backup holds, and somebody what it does not.
async fn send_again(scene: &mut Scene<'_>, promised: &[Promise], missing: &[Promise]) -> Result<()> {
    let body = Bytes::from_static(b"said again");
    let held = promised.last().context("nothing was said before the backup")?;
    let ack = scene.say_again(held, body.clone()).await?;
    let found = if ack.duplicate { format!("at {}", ack.seq) } else { "stored anew".into() };
    let limit = format!("what it holds and is sent again is found at its place, {}", held.seq);
    scene.claim(limit, found, ack.duplicate && ack.seq == held.seq);
    let gone = missing.last().context("nothing was said after the backup")?;
    let ack = scene.say_again(gone, body.clone()).await?;
    let found = if ack.duplicate { "it was there".into() } else { format!("stored at {}", ack.seq) };
    scene.claim("what it does not hold and is sent again is stored", found, !ack.duplicate);
    // Now it is promised again, and looked for at the end.
    scene.crowd.journal.acknowledged(&gone.sender, &gone.conv, &ack, &body);
    Ok(())
}
