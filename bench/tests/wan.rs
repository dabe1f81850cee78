//! Real networks between this machine and namespaces of it: what kernels see of a long or bad way.
//!
//! Needs root and `/dev/net/tun`; says so where they are missing. Packets stay between devices that the test made.

#![expect(clippy::unwrap_used, reason = "tests")]

use std::{net::SocketAddr, time::Duration};

use bench::{
    harness::{
        EchoTcp, Launch, Process, RawClient, Workspace,
        wan::{Direction, Link},
    },
    output,
};
use tokio::{
    net::TcpStream,
    time::{Instant, timeout},
};

const BENCH: &str = env!("CARGO_BIN_EXE_warbler-bench");
const PATIENCE: Duration = Duration::from_secs(30);

/// A namespace that no other test or process has.
fn name(test: &str) -> String {
    format!("wan-{}-{test}", std::process::id())
}

fn link(test: &str) -> Option<Link> {
    if !rustix::process::getuid().is_root() || !std::path::Path::new("/dev/net/tun").exists() {
        output::talk("NOT TESTED: a network of its own needs root and /dev/net/tun");
        return None;
    }
    match Link::start(&name(test)) {
        Ok(link) => Some(link),
        // Root without the capability, as in some containers.
        Err(error) if format!("{error:#}").contains("not permitted") => {
            output::talk(format!("NOT TESTED: {error:#}"));
            None
        }
        Err(error) => panic!("{error:#}"),
    }
}

/// An echo in the namespace. The link has to be good when it is asked for.
async fn echo(workspace: &Workspace, link: &Link) -> (Process, SocketAddr) {
    let bind = format!("{}:0", link.far());
    let launch = Launch::new(BENCH).args(["serve", "--kind", "tcp-echo", "--bind", &bind]);
    let process = Process::start(workspace, link.inside(launch)).await.expect("an echo");
    let address = process.address("listen", 0).expect("its address");
    (process, address)
}

async fn echoes(client: &mut RawClient, bytes: &[u8]) -> Duration {
    let began = Instant::now();
    client.send(bytes).await.unwrap();
    assert!(client.read_exact(bytes.len()).await.unwrap() == bytes, "not what was sent");
    began.elapsed()
}

#[tokio::test]
async fn a_connect_takes_a_round_trip_and_so_does_a_message() {
    let Some(link) = link("rtt") else { return };
    let workspace = Workspace::new().unwrap();
    let (_echo, address) = echo(&workspace, &link).await;
    link.ways().change_both(|way| way.delay = Duration::from_millis(40));
    let began = Instant::now();
    let mut client = RawClient::connect(address).await.unwrap();
    assert!(began.elapsed() >= Duration::from_millis(80), "{:?}", began.elapsed());
    let took = echoes(&mut client, b"ping").await;
    assert!(took >= Duration::from_millis(80), "{took:?}");
    link.ways().change(Direction::Back, |way| way.delay = Duration::ZERO);
    let took = echoes(&mut client, b"ping").await;
    assert!(took >= Duration::from_millis(40), "{took:?}");
}

/// Segments that the namespace's kernel sent again.
fn sent_again(link: &Link) -> u64 {
    let arguments = ["netns", "exec", link.namespace(), "cat", "/proc/net/snmp"];
    let read = std::process::Command::new("ip").args(arguments).output().unwrap();
    let text = String::from_utf8(read.stdout).unwrap();
    let mut lines = text.lines().filter(|line| line.starts_with("Tcp:")).map(|line| line.split_whitespace());
    let (names, values) = (lines.next().unwrap(), lines.next().unwrap());
    names.zip(values).find(|(name, _)| *name == "RetransSegs").unwrap().1.parse().unwrap()
}

#[tokio::test]
async fn packets_are_lost_and_the_kernel_repeats_them() {
    let Some(link) = link("loss") else { return };
    let workspace = Workspace::new().unwrap();
    let (_echo, address) = echo(&workspace, &link).await;
    let mut client = RawClient::connect(address).await.unwrap().with_patience(PATIENCE);
    let before = sent_again(&link);
    // Of some 140 segments: that none is lost has a chance of one in a million.
    link.ways().change(Direction::Back, |way| way.loss = 0.1);
    echoes(&mut client, &[7; 200_000]).await;
    assert!(sent_again(&link) > before, "nothing was sent again");
}

#[tokio::test]
async fn a_throttled_network_takes_its_time() {
    let Some(link) = link("rate") else { return };
    let workspace = Workspace::new().unwrap();
    let (_echo, address) = echo(&workspace, &link).await;
    let mut client = RawClient::connect(address).await.unwrap().with_patience(PATIENCE);
    link.ways().change(Direction::Back, |way| way.bytes_per_second = Some(100_000));
    // Without the part that the queue takes in at once.
    let took = echoes(&mut client, &[7; 80_000]).await;
    assert!(took >= Duration::from_millis(500), "{took:?}");
    link.ways().change(Direction::Back, |way| way.bytes_per_second = Some(100));
    client.send(&[7; 3000]).await.unwrap();
    client.expect_silence(Duration::from_millis(50)).await.unwrap();
    link.ways().change(Direction::Back, |way| way.bytes_per_second = None);
    // At a hundred bytes a second this would take half a minute.
    let began = Instant::now();
    client.read_exact(3000).await.unwrap();
    assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
}

#[tokio::test]
async fn a_silent_network_answers_nothing_and_comes_back() {
    let Some(link) = link("silent") else { return };
    let workspace = Workspace::new().unwrap();
    let (_echo, address) = echo(&workspace, &link).await;
    let mut client = RawClient::connect(address).await.unwrap().with_patience(PATIENCE);
    echoes(&mut client, b"ping").await;
    link.ways().change_both(|way| way.silent = true);
    client.send(b"later").await.unwrap();
    client.expect_silence(Duration::from_millis(300)).await.unwrap();
    let mut connect = Box::pin(TcpStream::connect(address));
    assert!(timeout(Duration::from_millis(300), &mut connect).await.is_err(), "somebody answered");
    link.ways().change_both(|way| way.silent = false);
    assert_eq!(client.read_exact(5).await.unwrap(), b"later");
    timeout(PATIENCE, connect).await.expect("an answer").unwrap();
}

#[tokio::test]
async fn a_namespace_is_gone_with_its_link_and_nobody_elses_is_taken() {
    let Some(first) = link("twice") else { return };
    let error = format!("{:#}", Link::start(first.namespace()).unwrap_err());
    assert!(error.contains("ip netns delete wan-"), "{error}");
    assert!(format!("{:#}", Link::start("a b").unwrap_err()).contains("no name for a namespace"));
    let second = link("second").unwrap();
    assert_ne!(first.far(), second.far());
    drop(first);
    link("twice").unwrap();
}

#[tokio::test]
async fn the_program_makes_a_network_and_takes_commands() {
    let Some(unused) = link("probe") else { return };
    drop(unused);
    let (workspace, name) = (Workspace::new().unwrap(), name("program"));
    let launch = Launch::new(BENCH).args(["wan", "--namespace", &name, "--delay", "30ms", "--control", "127.0.0.1:0"]);
    let mut wan = Process::start(&workspace, launch).await.unwrap();
    let far = wan.addresses()["far"][0].as_str().unwrap().to_owned();
    let bind = format!("{far}:0");
    let launch = Launch::new(BENCH).args(["serve", "--kind", "tcp-echo", "--bind", &bind]);
    let echo = Process::start(&workspace, launch.through("ip", &["netns", "exec", &name])).await.unwrap();
    let mut client = RawClient::connect(echo.address("listen", 0).unwrap()).await.unwrap();
    assert!(echoes(&mut client, b"ping").await >= Duration::from_millis(60));
    let mut control = RawClient::connect(wan.address("control", 0).unwrap()).await.unwrap();
    control.send(b"delay 0s\ncut\n").await.unwrap();
    assert_eq!(control.read_until(b"\n").await.unwrap(), b"ok\n");
    assert!(control.read_until(b"\n").await.unwrap().starts_with(b"error: packets"));
    wan.signal(bench::harness::Signal::TERM).unwrap();
    assert!(wan.wait(PATIENCE).await.unwrap().success());
    // The name is free again.
    drop(Link::start(&name).unwrap());
}

#[tokio::test]
async fn a_relay_has_to_be_told_where_to_and_a_network_goes_nowhere_else() {
    let server = EchoTcp::start().await.unwrap();
    let workspace = Workspace::new().unwrap();
    let run = |arguments: Vec<String>| Process::run(&workspace, Launch::new(BENCH).args(arguments), PATIENCE);
    let words = |text: &str| text.split_whitespace().map(str::to_owned).collect();
    let nowhere = run(words("wan")).await.unwrap();
    assert!(nowhere.code() == 2 && nowhere.stderr.contains("--to"), "{}", nowhere.stderr);
    let both = run(words(&format!("wan --to {} --namespace x", server.address()))).await.unwrap();
    assert!(both.code() == 2 && both.stderr.contains("cannot be used with"), "{}", both.stderr);
}
