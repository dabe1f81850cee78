//! `bad-config`: the configuration is broken in several ways while people talk.

use std::time::Duration;

use anyhow::Result;

use super::{
    Drill, Limits,
    scene::{Phase, Scene},
    stage::{BERLIN, Stage},
};

pub(super) const DRILL: Drill = Drill {
    name: "bad-config",
    about: "the configuration is broken in six ways while people talk, each is refused, and newcomers get in",
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
const BETWEEN: Duration = Duration::from_millis(300);

async fn act(scene: &mut Scene<'_>) -> Result<()> {
    scene.talk(CALM).await?;
    let good = scene.configuration().to_owned();
    let generation = scene.edge.generation().await?;
    for (what, broken) in mistakes(&good) {
        scene.mark(Phase::During, format!("the configuration has {what}"));
        scene.break_configuration(&broken).await?;
        let now = scene.edge.generation().await?;
        let same = (now - generation).abs() < 0.5;
        scene.claim(format!("{what}: refused, and nothing changes"), format!("generation {now:.0}"), same);
        scene.newcomer(&BERLIN).await?;
        scene.talk(BETWEEN).await?;
    }
    scene.repair_configuration().await?;
    scene.mark(Phase::After, "it is right again");
    scene.talk(CALM).await
}

fn mistakes(good: &str) -> [(&'static str, String); 6] {
    let half = &good[..good.find("endpoints = [").unwrap_or(good.len() / 2)];
    [
        ("a route to a cluster that is not there", good.replace("cluster = \"im\"", "cluster = \"in\"")),
        ("a key that does not exist", good.replace("connect-timeout", "connect-time-out")),
        ("a table that does not end", good.replace("[clusters.im]", "[clusters.im")),
        ("only its first half", half.to_owned()),
        (
            "a certificate that is not there",
            format!("{good}\n[listeners.im.tls]\ncertificates = [{{ chain = \"no.pem\", key = \"no.key\" }}]\n"),
        ),
        ("nothing in it", String::new()),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_mistake_changes_the_text() {
        let good = Stage::default().configuration(&[]);
        for (what, broken) in mistakes(&good) {
            assert_ne!(broken, good, "{what}");
        }
    }
}
