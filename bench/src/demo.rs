//! The demo: an edge, six IM servers in three places, and people who talk while things happen to them.
//!
//! Everything is real: the programs are the ones that are shipped, each message is stored before it is acknowledged, a
//! server is killed with SIGKILL. Only the places are pretended: by a database made for the occasion, by addresses that
//! clients announce with PROXY protocol, and by relays that delay the way to two of the places.
//!
//! Each step says what happens and what was verified, and the first thing that is not as told ends the demo with an
//! error. So the exit code is 0 only if all of it happened.

mod people;
mod story;
mod world;

use crate::{harness::Workspace, output, stop};
use anyhow::Result;
use people::Crowd;
use world::World;

/// What happens after the story.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Afterwards {
    Stop,
    /// Everything stays up until Ctrl-C.
    Stay,
}

/// Runs the demo.
///
/// # Errors
/// When something did not happen as told. The directory with configuration and logs is kept then.
pub async fn run(afterwards: Afterwards) -> Result<()> {
    let workspace = Workspace::new()?;
    let outcome = tell(&workspace, afterwards).await;
    if outcome.is_err() {
        workspace.keep();
    }
    outcome
}

async fn tell(workspace: &Workspace, afterwards: Afterwards) -> Result<()> {
    let mut world = stop::unless_asked(World::start(workspace)).await?;
    let mut crowd = Crowd::new(&world);
    stop::unless_asked(story(&mut world, &mut crowd)).await?;
    if afterwards == Afterwards::Stay {
        story::where_to_look(&world);
        // A Ctrl-C reaches all programs at once: nothing is left to verify then.
        return stop::asked().await;
    }
    stop::unless_asked(story::everything_stops(&mut world, &mut crowd)).await?;
    output::data("\nAll of it happened as told.");
    Ok(())
}

async fn story(world: &mut World<'_>, crowd: &mut Crowd) -> Result<()> {
    story::everything_starts(world).await?;
    story::people_arrive(world, crowd).await?;
    story::they_talk(crowd).await?;
    story::the_page_is_served(world).await?;
    story::a_server_dies(world, crowd).await?;
    story::it_returns(world).await?;
    story::the_configuration_changes(world, crowd).await?;
    story::a_mistake_changes_nothing(world, crowd).await
}
