//! What happens in the demo, one function for each step. Every sentence that is printed was verified before.

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use futures_util::future::try_join_all;

use super::{
    people::{Crowd, Entrance, Person, ROOM},
    world::{FRANKFURT, SINGAPORE, World, replace_once},
};
use crate::{
    harness::{Signal, eventually, http},
    im::{Journal, checker},
    output,
};

/// How long a person may take to get through: several tries on a busy machine.
const SOON: Duration = Duration::from_secs(20);
/// Messages that everybody says while a server dies.
const SAID_MEANWHILE: u32 = 40;
/// Of all of them together, how many come before it dies.
const SAID_BEFORE_DEATH: usize = 60;
/// How many new clients a server that is back may miss: each goes to it with a chance of one half or more.
const VISITORS: u32 = 40;

pub(super) async fn everything_starts(world: &World<'_>) -> Result<()> {
    title("An edge in Frankfurt, and two IM servers in each of three places");
    world.edge.ready().await?;
    for node in &world.nodes {
        let labels = [("locality", node.place.name), ("endpoint", &*node.endpoint.to_string())];
        world.edge.wait_for("warbler_endpoint_up", &labels, |up| up > 0.5).await?;
        let probe = [&labels[..], &[("figure", "probe")]].concat();
        let least = 2.0 * node.place.one_way.as_secs_f64();
        let rtt = world
            .edge
            .wait_for("warbler_endpoint_rtt_seconds", &probe, |rtt| rtt >= least && rtt < least + 0.5)
            .await?;
        told(&format!(
            "{:<12} pid {:<7} up, a probe takes {:.1} ms there and back",
            node.name,
            node.server.process.pid(),
            rtt * 1000.0
        ));
    }
    Ok(())
}

pub(super) async fn people_arrive(world: &World<'_>, crowd: &mut Crowd) -> Result<()> {
    title("People connect, and each goes where it is best for them");
    for Person { who, phone } in &mut crowd.people {
        phone.online(SOON).await?;
        let place = world.place_of(phone)?;
        ensure!(place == who.goes_to, "{} went to {}, not to {}", who.name, place.name, who.goes_to.name);
        let explained = world.edge.explain(world.workspace, who.ip()).await?;
        ensure!(
            explained.contains(place.name),
            "`warbler explain --from {}` does not name {}:\n{explained}",
            who.address,
            place.name
        );
        told(&format!(
            "{} from {} ({}) is at {}: {}",
            who.name,
            who.from,
            who.address,
            phone.node().unwrap_or("?"),
            who.because
        ));
        if who.by == Entrance::WebSocket {
            let seen = who.ask_whoami(world.im).await?.json()?;
            let forwarded = seen["headers"]["x-forwarded-for"].as_str().unwrap_or_default();
            ensure!(forwarded == who.address, "a server saw {} as {forwarded:?}: {seen}", who.address);
        }
    }
    told("`warbler explain` says the same for each of them; servers see the addresses that were announced");
    let anna = crowd.people[0].who;
    for line in world.edge.explain(world.workspace, anna.ip()).await?.lines() {
        told(&format!("  | {line}"));
    }
    Ok(())
}

pub(super) async fn they_talk(crowd: &mut Crowd) -> Result<()> {
    title("They talk, across all three places");
    for person in &mut crowd.people {
        person.phone.follow(ROOM).await?;
    }
    let mut places = Vec::new();
    for Person { who, phone } in &mut crowd.people {
        places.push(phone.say(ROOM, &format!("hello from {}", who.from), SOON).await?);
    }
    // Nobody is pushed their own message, so whoever spoke last waits for the one before.
    let last = places.len() - 1;
    for (at, person) in crowd.people.iter_mut().enumerate() {
        let wanted = if at == last { places[last - 1] } else { places[last] };
        person.phone.hear_until(ROOM, wanted, SOON).await?;
    }
    verify_promises(crowd).await?;
    told("everybody was pushed what the others said");
    Ok(())
}

pub(super) async fn the_page_is_served(world: &World<'_>) -> Result<()> {
    title("There is a chat page for people with a browser");
    let page = http::get(world.chat, "/chat/").await?;
    ensure!(page.status == 200 && page.text().contains("<title>warbler chat"), "the edge answered {}", page.status);
    let node = page.field("x-im-node").context("the page does not say who served it")?;
    told(&format!("{}   (served by {node}; sign in under any name)", world.page()));
    Ok(())
}

pub(super) async fn a_server_dies(world: &mut World<'_>, crowd: &mut Crowd) -> Result<()> {
    let victim = crowd.people[0].phone.node().context("anna is online")?.to_owned();
    title(&format!("{victim} is killed while everybody talks"));
    let before: Vec<(u32, bool)> =
        crowd.people.iter().map(|person| (person.phone.logins(), person.phone.node() == Some(&victim))).collect();
    let journal = crowd.journal.clone();
    let talking = try_join_all(crowd.people.iter_mut().map(talk));
    let killing = async {
        let enough = journal.promises() + SAID_BEFORE_DEATH;
        eventually(SOON, "enough messages", async || (journal.promises() >= enough).then_some(())).await?;
        world.kill(&victim)
    };
    tokio::try_join!(talking, killing)?;
    for (Person { who, phone }, (logins, hit)) in crowd.people.iter().zip(before) {
        let now = phone.logins();
        ensure!(hit || now == logins, "{} was not on {victim} and had to log in again", who.name);
        if hit {
            let place = world.place_of(phone)?;
            ensure!(phone.node() != Some(&victim) && now > logins, "{} is still on {victim}", who.name);
            let strict = who.because.contains("rule") && who.goes_to == FRANKFURT;
            ensure!(!strict || place == FRANKFURT, "{} left Europe against a strict rule: {}", who.name, place.name);
            told(&format!("{} was on it and went on at {}", who.name, phone.node().unwrap_or("?")));
        }
    }
    told("nobody else noticed anything: no other session was touched");
    let endpoint = world.node(&victim)?.endpoint.to_string();
    world.edge.wait_for("warbler_endpoint_up", &[("endpoint", &endpoint)], |up| up < 0.5).await?;
    told(&format!("the edge has taken {victim} out"));
    verify_promises(crowd).await
}

async fn talk(person: &mut Person) -> Result<()> {
    for count in 0..SAID_MEANWHILE {
        person.phone.say(ROOM, &format!("{} {count}", person.who.name), SOON).await?;
    }
    Ok(())
}

pub(super) async fn it_returns(world: &mut World<'_>) -> Result<()> {
    let Some(dead) = world.nodes.iter_mut().find_map(|node| (!node.server.process.runs()).then_some(node.name)) else {
        bail!("no server is dead");
    };
    title(&format!("{dead} returns"));
    world.restart(dead).await?;
    let endpoint = world.node(dead)?.endpoint.to_string();
    world.edge.wait_for("warbler_endpoint_up", &[("endpoint", &endpoint)], |up| up > 0.5).await?;
    told("the edge has seen it come back");
    let anna = super::people::EVERYBODY[0];
    let mut visitors = Vec::new();
    for count in 1..=VISITORS {
        let mut visitor = anna.phone(world, &Journal::default());
        visitor.user = format!("visitor-{count}");
        visitor.online(SOON).await?;
        let node = visitor.node().unwrap_or_default().to_owned();
        visitors.push(visitor);
        if node == dead {
            told(&format!("new clients go there again (visitor {count} did)"));
            for visitor in &mut visitors {
                visitor.leave().await?;
            }
            return Ok(());
        }
    }
    bail!("{VISITORS} new clients from {} came, none of them to {dead}", anna.from)
}

pub(super) async fn the_configuration_changes(world: &mut World<'_>, crowd: &mut Crowd) -> Result<()> {
    title("The configuration is edited: Indonesia now goes to Frankfurt");
    let (logins, generation) = (crowd.logins(), world.edge.generation().await?);
    world.configuration += "\n[[clusters.im.rules]]\ncountry = \"ID\"\nlocalities = \"frankfurt\"\n";
    world.workspace.replace("demo.toml", &world.configuration)?;
    world.edge.wait_for("warbler_config_generation", &[], |now| now > generation).await?;
    told("the edge noticed, checked it, and took it over");
    crowd.check_untouched(&logins).await?;
    told(&format!("all {} tunnels are still open", crowd.people.len()));
    let budi = crowd.people.iter().find(|person| person.who.name == "budi").context("budi is there")?;
    ensure!(world.place_of(&budi.phone)? == SINGAPORE, "budi was moved");
    let mut newcomer = budi.who.phone(world, &Journal::default());
    newcomer.user = "newcomer".into();
    newcomer.online(SOON).await?;
    let place = world.place_of(&newcomer)?;
    ensure!(place == FRANKFURT, "a newcomer from Jakarta went to {}", place.name);
    newcomer.leave().await?;
    told("a newcomer from Jakarta goes to Frankfurt; budi, who was there before, stays in Singapore");
    Ok(())
}

pub(super) async fn a_mistake_changes_nothing(world: &mut World<'_>, crowd: &mut Crowd) -> Result<()> {
    title("The configuration is edited badly: a route to a cluster that is not there");
    let (logins, generation) = (crowd.logins(), world.edge.generation().await?);
    let mut broken = world.configuration.clone();
    replace_once(
        &mut broken,
        "path-prefix = \"/whoami\"\ncluster = \"im\"",
        "path-prefix = \"/whoami\"\ncluster = \"in\"",
    )?;
    let mark = world.edge.process.log_mark();
    world.workspace.write("demo.toml", &broken)?;
    world.edge.wait_for("warbler_config_last_reload_successful", &[], |ok| ok < 0.5).await?;
    let line = world.edge.process.wait_for_log_since(mark, "no cluster is named", SOON).await?;
    told("the edge refused it, and says where the mistake is:");
    told(&format!("  | {line}"));
    ensure!((world.edge.generation().await? - generation).abs() < 0.5, "the edge published a broken configuration");
    crowd.check_untouched(&logins).await?;
    let mut newcomer = crowd.people[0].who.phone(world, &Journal::default());
    newcomer.user = "newcomer".into();
    newcomer.online(SOON).await?;
    newcomer.leave().await?;
    told(&format!("all {} tunnels are open, and new clients get in", crowd.people.len()));
    world.workspace.replace("demo.toml", &world.configuration)?;
    world.edge.wait_for("warbler_config_last_reload_successful", &[], |ok| ok > 0.5).await?;
    told("the mistake is undone, and the edge is content again");
    verify_promises(crowd).await
}

pub(super) fn where_to_look(world: &World<'_>) {
    title("Everything stays up until Ctrl-C");
    let edge = &world.edge;
    told(&format!("chat page           {}   (open it twice, talk, and kill the server that it names)", world.page()));
    told(&format!("WebSocket and HTTP  {}   (each connection starts with a PROXY header)", world.im));
    told(&format!("TCP                 {}   (likewise)", world.opaque));
    told(&format!("metrics             http://{}/metrics", edge.admin));
    told(&format!("status              http://{}/api/v1/status", edge.admin));
    told(&format!("configuration       {}   (edit it, and watch)", edge.file.display()));
    told(&format!("logs                {}", world.workspace.root().display()));
    for node in &world.nodes {
        told(&format!("{:<12}        pid {}   (kill it, and watch)", node.name, node.server.process.pid()));
    }
}

pub(super) async fn everything_stops(world: &mut World<'_>, crowd: &mut Crowd) -> Result<()> {
    title("Everybody leaves, and the edge stops");
    for person in &mut crowd.people {
        person.phone.leave().await.with_context(|| format!("{} could not leave in order", person.who.name))?;
    }
    let process = &mut world.edge.process;
    process.signal(Signal::TERM)?;
    let status = process.wait(Duration::from_secs(30)).await?;
    ensure!(status.code() == Some(0), "the edge ended with {status}\n{}", process.last_lines());
    told("it ended with exit code 0: nobody was cut off");
    Ok(())
}

/// Asks a server for everything that was said, and holds it against what everybody was promised.
async fn verify_promises(crowd: &mut Crowd) -> Result<()> {
    let history = crowd.people[0].phone.history(ROOM, SOON).await?;
    for person in &mut crowd.people {
        person.phone.catch_up(ROOM, SOON).await?;
    }
    let verdict = checker::check(ROOM, &history, &crowd.journal)?;
    told(&format!(
        "{} messages were acknowledged; each of them is stored exactly once, {} in all",
        verdict.acknowledged, verdict.stored
    ));
    Ok(())
}

fn title(text: &str) {
    output::data(format!("\n{text}"));
}

fn told(text: &str) {
    output::data(format!("  {text}"));
}
