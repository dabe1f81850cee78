//! Agents beside endpoints: what they say counts until they say otherwise, and for tunnels as for picks.

use std::net::SocketAddr;

use bench::harness::{Agent, EchoTcp, eventually};
use serde_json::Value;

use crate::edge::{Edge, SOON};
use crate::ends::echo_client;
use crate::parts::{turned_away, wait_until_picks_know};

/// Two echo endpoints on addresses of their own, each with an agent on the same port.
struct Pair {
    echoes: [EchoTcp; 2],
    agents: [Agent; 2],
}

impl Pair {
    async fn start(line: &str) -> Pair {
        let echoes = [EchoTcp::start_on("127.0.0.2:0").await.unwrap(), EchoTcp::start_on("127.0.0.3:0").await.unwrap()];
        let first = Agent::start_on("127.0.0.2:0", line).await.unwrap();
        let second = Agent::start_on(&format!("127.0.0.3:{}", first.address().port()), line).await.unwrap();
        Pair { echoes, agents: [first, second] }
    }

    fn addresses(&self) -> [SocketAddr; 2] {
        self.echoes.each_ref().map(EchoTcp::address)
    }

    /// With weight 4 each; `keys` go into the cluster.
    fn config(&self, keys: &str) -> String {
        let [a, b] = self.addresses();
        format!(
            "[edge]\nworkers = 1\n[drain]\nrate = \"20/s\"\nclose-wait = \"1s\"\n\
             [listeners.im]\nbind = [\"127.0.0.1:0\"]\nprotocol = \"tcp\"\ncluster = \"c\"\n\
             [clusters.c]\npolicy = \"round-robin\"\nhealth.off = true\n{keys}\n\
             [clusters.c.localities.here]\nendpoints = [{{ address = \"{a}\", weight = 4 }}, {{ address = \"{b}\", weight = 4 }}]\n"
        )
    }

    fn asked(&self, keys: &str) -> String {
        let port = self.agents[0].address().port();
        self.config(&format!("agent-check = {{ port = {port}, interval = \"100ms\"{keys} }}"))
    }
}

/// The vote of one source on an endpoint.
fn vote<'a>(endpoint: &'a Value, source: &str) -> &'a Value {
    let votes = endpoint["votes"].as_array().unwrap();
    votes.iter().find(|vote| vote["source"] == source).unwrap()
}

async fn wait_for(edge: &Edge, address: SocketAddr, what: &str, is_it: impl Fn(&Value) -> bool) -> Value {
    let seen = eventually(SOON, what, async || Some(edge.endpoint(address).await).filter(|endpoint| is_it(endpoint)));
    match seen.await {
        Ok(endpoint) => endpoint,
        Err(_) => panic!("not {what}: {}", edge.endpoint(address).await),
    }
}

#[tokio::test]
async fn an_agent_sets_weight_and_limit_and_what_it_does_not_name_stays() {
    let pair = Pair::start("ready up\n").await;
    let [a, b] = pair.addresses();
    let edge = Edge::start(&pair.asked(", send = \"how are you?\\n\"")).await;
    pair.agents[0].says("25% maxconn:2, hello\r\n");
    let limited = wait_for(&edge, a, "limited", |endpoint| endpoint["max_connections"] == 2).await;
    assert_eq!((&limited["weight"], &limited["agent"]["weight_percent"]), (&1.into(), &25.into()), "{limited}");
    assert_eq!((&limited["standing"], &vote(&limited, "agent")["standing"]), (&"up".into(), &"up".into()));
    edge.process.wait_for_log("agent says a word that is not known", SOON).await.unwrap();
    assert!(edge.count("warbler_agent_checks_total", &[("result", "unclear")]).await >= 1);
    assert!(pair.agents[1].heard().starts_with(b"how are you?\n"));
    // One in five by weight, and never more than two.
    let mut clients = Vec::new();
    for _ in 0..10 {
        clients.push(echo_client(edge.address("im")).await);
    }
    assert_eq!(edge.leases(&[a, b]).await, [2, 8]);
    for _ in 0..10 {
        clients.push(echo_client(edge.address("im")).await);
    }
    assert_eq!(edge.leases(&[a, b]).await, [2, 18]);
    pair.agents[0].says("maxconn:0");
    let unlimited = wait_for(&edge, a, "unlimited", |endpoint| endpoint["max_connections"].is_null()).await;
    assert_eq!(unlimited["weight"], 1, "{unlimited}");
    // Without agents nothing of what they said is left.
    edge.reload(&pair.config("")).await;
    let forgotten = wait_for(&edge, a, "as configured", |endpoint| endpoint["weight"] == 4).await;
    assert!(forgotten["agent"]["weight_percent"].is_null(), "{forgotten}");
}

#[tokio::test]
async fn an_endpoint_whose_agent_drains_it_is_emptied_and_only_the_agent_takes_that_back() {
    let mut pair = Pair::start("ready\n").await;
    let [a, b] = pair.addresses();
    let edge = Edge::start(&pair.asked("")).await;
    let mut clients = Vec::new();
    for _ in 0..20 {
        clients.push(echo_client(edge.address("im")).await);
    }
    assert_eq!(edge.leases(&[a, b]).await, [10, 10]);
    pair.agents[0].says("drain\n");
    let draining = edge.wait_for_standing(a, "draining").await;
    assert_eq!((&draining["source"], &draining["reason"]), (&"agent".into(), &"drain".into()), "{draining}");
    eventually(SOON, "all of them gone", async || (pair.echoes[0].open() == 0).then_some(())).await.unwrap();
    let lines = edge.wait_for_lines(10).await;
    assert!(lines.iter().all(|line| line["leave_reason"] == "endpoint-draining"), "{lines:#?}");
    assert_eq!(edge.count("warbler_asked_to_leave_total", &[("reason", "endpoint-draining")]).await, 10);
    for _ in 0..4 {
        clients.push(echo_client(edge.address("im")).await);
    }
    assert_eq!(edge.leases(&[a, b]).await, [0, 14]);
    // An agent that is gone changes nothing, and neither does a word about something else.
    pair.agents[0].stop().await;
    let failed = edge.count("warbler_agent_checks_total", &[("result", "failed")]).await;
    let unheard =
        async || (edge.count("warbler_agent_checks_total", &[("result", "failed")]).await >= failed + 3).then_some(());
    eventually(SOON, "an agent that does not answer", unheard).await.unwrap();
    assert_eq!(edge.endpoint(a).await["standing"], "draining");
    pair.agents[0].says("up 100%\n");
    let answered = pair.agents[0].answered();
    pair.agents[0].restart().await.unwrap();
    eventually(SOON, "two answers", async || (pair.agents[0].answered() >= answered + 2).then_some(())).await.unwrap();
    assert_eq!(edge.endpoint(a).await["standing"], "draining");
    pair.agents[0].says("ready\n");
    edge.wait_for_standing(a, "up").await;
    wait_until_picks_know(&edge, "im", a, "up").await;
    let _newcomers = [echo_client(edge.address("im")).await, echo_client(edge.address("im")).await];
    assert_eq!(edge.leases(&[a]).await, [1]);
}

/// Whoever was not asked yet stays: the wish is taken back.
#[tokio::test]
async fn an_endpoint_that_is_ready_again_keeps_the_tunnels_that_were_not_asked_yet() {
    let pair = Pair::start("ready\n").await;
    let [a, _] = pair.addresses();
    let edge = Edge::start(&pair.asked("").replace("20/s", "1/s")).await;
    let mut clients = Vec::new();
    for _ in 0..60 {
        clients.push(echo_client(edge.address("im")).await);
    }
    pair.agents[0].says("drain\n");
    edge.wait_for_standing(a, "draining").await;
    let asked = async || edge.count("warbler_asked_to_leave_total", &[]).await;
    eventually(SOON, "the first one asked", async || (asked().await > 0).then_some(())).await.unwrap();
    pair.agents[0].says("ready\n");
    edge.wait_for_standing(a, "up").await;
    wait_until_picks_know(&edge, "im", a, "up").await;
    let kept = pair.echoes[0].open();
    // The pacer goes on with the other endpoint's tunnels: rounds in which none of these may be asked.
    pair.agents[1].says("drain\n");
    let others = async || (pair.echoes[1].open() <= 26).then_some(());
    eventually(SOON, "four of the other endpoint's asked", others).await.unwrap();
    // Whoever was asked just before, or is being asked, has a second until its connection is closed: two at this pace.
    assert!(pair.echoes[0].open() + 2 >= kept, "the order is withdrawn: {} of {kept} are open", pair.echoes[0].open());
    assert!(pair.echoes[0].open() >= 5, "the rest stays: {}", pair.echoes[0].open());
}

#[tokio::test]
async fn an_endpoint_without_weight_gets_nobody_and_keeps_its_tunnels() {
    let pair = Pair::start("ready up\n").await;
    let [a, b] = pair.addresses();
    let edge = Edge::start(&pair.asked("")).await;
    let _clients = [echo_client(edge.address("im")).await, echo_client(edge.address("im")).await];
    pair.agents[0].says("0%\n");
    let out = wait_for(&edge, a, "out of balancing", |endpoint| endpoint["reason"] == "weight 0%").await;
    assert_eq!((&out["source"], &out["standing"]), (&"agent".into(), &"maintenance".into()), "{out}");
    wait_until_picks_know(&edge, "im", a, "maintenance").await;
    let mut clients = Vec::new();
    for _ in 0..4 {
        clients.push(echo_client(edge.address("im")).await);
    }
    assert_eq!(edge.leases(&[a, b]).await, [1, 5]);
    // Not even when there is nobody else: HAProxy has no server left in its farm then, either.
    pair.agents[1].says("0%\n");
    edge.wait_for_standing(b, "maintenance").await;
    wait_until_picks_know(&edge, "im", b, "maintenance").await;
    turned_away(edge.address("im")).await;
    assert_eq!(edge.leases(&[a, b]).await, [1, 5]);
    assert_eq!(edge.count("warbler_asked_to_leave_total", &[]).await, 0);
    // Weight comes back with a percentage, and with no other word.
    pair.agents[1].says("ready up\n");
    let answered = pair.agents[1].answered();
    eventually(SOON, "two answers", async || (pair.agents[1].answered() >= answered + 2).then_some(())).await.unwrap();
    assert_eq!(edge.endpoint(b).await["standing"], "maintenance");
    pair.agents[1].says("100%\n");
    edge.wait_for_standing(b, "up").await;
}

/// Its tunnels kept it known while nothing named it, and nobody asked its agent any more.
#[tokio::test]
async fn an_endpoint_that_comes_back_to_a_cluster_without_agents_is_rid_of_what_its_agent_said() {
    let pair = Pair::start("ready\n").await;
    let [a, _] = pair.addresses();
    let without = |config: String| {
        let whole = config.replace("20/s", "0.01/s");
        let first = format!("{{ address = \"{a}\", weight = 4 }}, ");
        (whole.replace(&first, ""), whole)
    };
    let ((asked_gone, asked), (gone, unasked)) = (without(pair.asked("")), without(pair.config("")));
    let edge = Edge::start(&asked).await;
    let mut clients = Vec::new();
    for _ in 0..10 {
        clients.push(echo_client(edge.address("im")).await);
    }
    pair.agents[0].says("maint 25% maxconn:9\n");
    edge.wait_for_standing(a, "maintenance").await;
    edge.reload(&asked_gone).await;
    edge.reload(&gone).await;
    let leaving = edge.endpoint(a).await;
    assert_eq!(
        (leaving["connections"].as_u64() > Some(0), &vote(&leaving, "agent")["reason"]),
        (true, &"maint".into())
    );
    edge.reload(&unasked).await;
    let back = edge.wait_for_standing(a, "up").await;
    assert_eq!(vote(&back, "agent")["reason"], "nothing said", "{back}");
    let back = wait_for(&edge, a, "as configured", |endpoint| endpoint["weight"] == 4).await;
    assert!(back["max_connections"].is_null() && back["agent"]["weight_percent"].is_null(), "{back}");
}

#[tokio::test]
async fn an_agent_that_never_answers_is_told_of_once_and_so_is_its_return() {
    let mut pair = Pair::start("ready\n").await;
    let [a, b] = pair.addresses();
    pair.agents[0].stop().await;
    let edge = Edge::start(&pair.asked("")).await;
    let silent = "agent has not answered for a while";
    let told = |what: &str| edge.process.stderr_lines().iter().filter(|line| line.contains(what)).count();
    edge.process.wait_for_log(silent, SOON).await.unwrap();
    let failed = async || edge.count("warbler_agent_checks_total", &[("result", "failed")]).await;
    let before = failed().await;
    eventually(SOON, "more failures", async || (failed().await >= before + 12).then_some(())).await.unwrap();
    assert_eq!(told(silent), 1);
    assert!(edge.endpoint(a).await["agent"]["answered_seconds_ago"].is_null());
    assert!(edge.endpoint(b).await["agent"]["answered_seconds_ago"].is_f64());
    pair.agents[0].restart().await.unwrap();
    edge.process.wait_for_log("agent answers again", SOON).await.unwrap();
    assert!(edge.endpoint(a).await["agent"]["answered_seconds_ago"].is_f64());
}

#[tokio::test]
async fn maintenance_and_down_of_an_agent_let_tunnels_stay() {
    let pair = Pair::start("ready up\n").await;
    let [a, b] = pair.addresses();
    let edge = Edge::start(&pair.asked("")).await;
    let _clients = [echo_client(edge.address("im")).await, echo_client(edge.address("im")).await];
    assert_eq!(edge.leases(&[a, b]).await, [1, 1]);
    pair.agents[0].says("down#disk is full\n");
    let down = edge.wait_for_standing(a, "down").await;
    assert_eq!(down["reason"], "down: disk is full", "{down}");
    wait_until_picks_know(&edge, "im", a, "down").await;
    let address = a.to_string();
    let why = |reason| [("endpoint", address.as_str()), ("source", "agent"), ("reason", reason)];
    assert_eq!(edge.metric("warbler_endpoint_standing_reason", &why("down")).await, Some(1.0));
    pair.agents[0].says("maint\n");
    edge.wait_for_standing(a, "maintenance").await;
    assert_eq!(edge.metric("warbler_endpoint_standing_reason", &why("down")).await, None);
    assert_eq!(edge.metric("warbler_endpoint_standing_reason", &why("maintenance")).await, Some(1.0));
    wait_until_picks_know(&edge, "im", a, "maintenance").await;
    let mut clients = Vec::new();
    for _ in 0..4 {
        clients.push(echo_client(edge.address("im")).await);
    }
    assert_eq!(edge.leases(&[a, b]).await, [1, 5]);
    // The word that ends one does not end the other.
    pair.agents[0].says("ready\n");
    edge.wait_for_standing(a, "down").await;
    pair.agents[0].says("up\n");
    edge.wait_for_standing(a, "up").await;
    assert_eq!(edge.count("warbler_asked_to_leave_total", &[]).await, 0);
}
