//! `config-churn`: the configuration changes every 200 ms while people talk.

use std::time::{Duration, Instant};

use anyhow::Result;

use super::{
    Drill, Limits,
    scene::{Phase, Scene},
    stage::Stage,
};

pub(super) const DRILL: Drill = Drill {
    name: "config-churn",
    about: "the configuration changes every 200 ms while people talk: policy, limits, rules, rates",
    limits: Limits {
        broken: Some(0),
        p99_during: Some(Duration::from_secs(1)),
        p99_after: Some(Duration::from_secs(1)),
        ..Limits::NONE
    },
    stage: Stage::default,
    act: |scene| Box::pin(act(scene)),
};

const CALM: Duration = Duration::from_secs(2);
const CHURN: Duration = Duration::from_secs(6);
const EVERY: Duration = Duration::from_millis(200);
/// A busy machine takes longer than [`EVERY`] for some.
const LEAST_RELOADS: usize = 10;

/// Further keys of the cluster, in turn. None removes an endpoint: who must go is another matter.
const TURNS: [&str; 4] = [
    "policy = \"least-connections\"\nlimits = { max-connections = 100000 }\n",
    "policy = \"maglev\"\nmaglev = { table-size = 1009 }\nhash-on = [\"address\"]\n",
    "policy = \"round-robin\"\naccept-rate = \"5000/s\"\npanic-threshold = \"20%\"\n",
    "outlier.consecutive = 7\nmap = { EU = \"frankfurt\" }\n",
];

async fn act(scene: &mut Scene<'_>) -> Result<()> {
    scene.talk(CALM).await?;
    let plain = scene.configuration().to_owned();
    let end = Instant::now() + CHURN;
    scene.mark(Phase::During, "the configuration begins to change");
    let mut reloads = 0;
    while Instant::now() < end {
        let next = plain.replace("[clusters.im]\n", &format!("[clusters.im]\n{}", TURNS[reloads % TURNS.len()]));
        scene.edit(|configuration| *configuration = next).await?;
        reloads += 1;
        scene.talk(EVERY).await?;
    }
    scene.edit(|configuration| *configuration = plain).await?;
    scene.mark(Phase::After, format!("it is as before, after {reloads} reloads that counted"));
    scene.claim(format!("at least {LEAST_RELOADS} reloads"), reloads.to_string(), reloads >= LEAST_RELOADS);
    scene.talk(CALM).await
}
