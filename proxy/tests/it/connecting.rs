//! Tunnels that end while their endpoint connects: clients that leave, an endpoint that goes, a listener or an edge that
//! ends, by random schedules.
//!
//! The endpoint's queue is full, so the edge's connections wait in the kernel until it accepts. What the endpoint hears is
//! the beginning of what one client said, and of each client once; all of it where nobody broke off. Afterwards no lease,
//! connection or descriptor of the edge is left.

use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::time::Duration;

use bench::harness::{RawClient, Signal, Workspace, eventually};
use futures_util::future::join_all;
use proptest::prelude::*;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::Barrier;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::edge::{Edge, SOON};
use crate::ends::cluster;

/// What a client does, its number first.
#[derive(Debug, Clone)]
struct Script {
    /// Bytes sent while the endpoint's queue is full.
    before: usize,
    /// Bytes sent while it accepts; `None` when the client ends before.
    after: Option<usize>,
    end: End,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// Its half, and reads what the endpoint says.
    Half,
    Close,
    Reset,
    /// Stays until the endpoint has said everything, or the edge ends it.
    Stay,
}

/// What happens once every client is at the edge.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Event {
    EndpointAccepts,
    /// It refuses from then on.
    EndpointGoes,
    ListenerRemoved,
    EdgeStops,
}

/// How an endpoint's connection went: what it heard, and whether that ended in order.
type Heard = (Vec<u8>, bool);

fn scripts() -> impl Strategy<Value = Vec<Script>> {
    let end = prop_oneof![Just(End::Half), Just(End::Close), Just(End::Reset), Just(End::Stay)];
    let after = prop::option::of(0usize..40_000);
    let script = (0usize..20_000, after, end).prop_map(|(before, after, end)| Script { before, after, end });
    prop::collection::vec(script, 1..24)
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        2 => Just(Event::EndpointAccepts),
        1 => Just(Event::EndpointGoes),
        1 => Just(Event::ListenerRemoved),
        1 => Just(Event::EdgeStops),
    ]
}

impl Script {
    /// Everything that it sends: its number, and bytes that no other client has.
    fn stream(&self, number: usize) -> Vec<u8> {
        let number = number as u64;
        let mut stream = number.to_be_bytes().to_vec();
        stream.resize(8 + self.before + self.after.unwrap_or(0), 0);
        fastrand::Rng::with_seed(number).fill(&mut stream[8..]);
        stream
    }

    /// Whether the endpoint hears all of it, if nobody else ends the tunnel.
    fn is_heard(&self, greeting: usize) -> bool {
        match self.end {
            End::Half | End::Stay => true,
            // Who is gone when somebody speaks to it answers with a reset, which may overtake.
            End::Close => greeting == 0,
            End::Reset => false,
        }
    }

    /// Plays it, and says what the client got; nothing when it did not wait for it.
    async fn play(&self, number: usize, client: RawClient, greeting: usize, everybody: &Barrier) -> Option<Vec<u8>> {
        let stream = self.stream(number);
        let (before, after) = stream.split_at(8 + self.before);
        let mut client = client.with_patience(SOON);
        client.send(before).await.unwrap();
        if self.after.is_some() {
            everybody.wait().await;
            // An edge that ends the tunnel ends the script.
            client.send(after).await.ok()?;
        }
        let waits = match self.end {
            End::Half => client.finish().await.is_ok().then_some(client),
            End::Stay => Some(client),
            End::Close => None,
            End::Reset => client.reset().map(|()| None).unwrap(),
        };
        if self.after.is_none() {
            everybody.wait().await;
        }
        let mut client = waits?;
        if self.end == End::Half { client.read_to_end().await.ok() } else { client.read_exact(greeting).await.ok() }
    }
}

/// Of the endpoint's queue: with fewer, clients that all come at once when it accepts would overflow it again, and the
/// kernel would answer with SYN cookies, which do not survive that (RFC 4987, section 3.6).
const BACKLOG: u32 = 31;

/// An endpoint whose queue is full: who connects waits until somebody is accepted.
struct Endpoint {
    listener: TcpListener,
    queue: Vec<TcpStream>,
}

impl Endpoint {
    async fn full() -> Endpoint {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let listener = socket.listen(BACKLOG).unwrap();
        let mut queue = Vec::new();
        let connect = || timeout(Duration::from_millis(500), TcpStream::connect(listener.local_addr().unwrap()));
        while let Ok(joined) = connect().await {
            queue.push(joined.unwrap());
        }
        assert_eq!(queue.len(), BACKLOG as usize + 1, "a queue holds one more than its backlog");
        Endpoint { listener, queue }
    }

    fn address(&self) -> SocketAddr {
        self.listener.local_addr().unwrap()
    }

    /// Greets whoever comes, until it is told to stop and its queue is empty. What was heard of the edge.
    async fn serve(self, greeting: usize, stop: CancellationToken) -> Vec<Heard> {
        let strangers: HashSet<SocketAddr> = self.queue.iter().map(|stream| stream.local_addr().unwrap()).collect();
        let mut served = JoinSet::new();
        let mut serve = |stream, peer| {
            if !strangers.contains(&peer) {
                served.spawn(hear(stream, greeting));
            }
        };
        while let Some(accepted) = stop.run_until_cancelled(self.listener.accept()).await {
            let (stream, peer) = accepted.unwrap();
            serve(stream, peer);
        }
        let listener = self.listener.into_std().unwrap();
        while let Ok((stream, peer)) = listener.accept() {
            stream.set_nonblocking(true).unwrap();
            serve(TcpStream::from_std(stream).unwrap(), peer);
        }
        served.join_all().await
    }
}

async fn hear(mut stream: TcpStream, greeting: usize) -> Heard {
    // It may be gone already.
    _ = stream.write_all(&vec![b'g'; greeting]).await;
    let mut heard = Vec::new();
    let end = timeout(SOON, stream.read_to_end(&mut heard)).await.expect("an end");
    (heard, end.is_ok())
}

/// Listeners `im` and `other`, and an endpoint for which the edge waits longer than any test takes.
fn patient(listeners: &[&str], endpoint: SocketAddr) -> String {
    let listener =
        |name| format!("[listeners.{name}]\nbind = [\"127.0.0.1:0\"]\nprotocol = \"tcp\"\ncluster = \"im\"\n\n");
    let listeners: String = listeners.iter().map(listener).collect();
    let cluster = cluster("im", "health.off = true\nconnect-timeout = \"15s\"", &[endpoint]);
    format!("{listeners}{cluster}\n[stop]\ngrace = \"0s\"\ndeadline = \"20s\"\n")
}

/// Sockets of the edge that do not listen. Its workers take listening ones while it runs, and pipes are kept for the next
/// bulk.
fn descriptors(edge: &Edge) -> usize {
    let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
    let listening: HashSet<String> = table
        .lines()
        .map(|line| line.split_whitespace().collect::<Vec<_>>())
        .filter(|fields| fields.get(3) == Some(&"0A"))
        .map(|fields| format!("socket:[{}]", fields[9]))
        .collect();
    let all = std::fs::read_dir(format!("/proc/{}/fd", edge.process.pid())).unwrap();
    // One that is gone by now is none.
    let targets = all.filter_map(|entry| std::fs::read_link(entry.ok()?.path()).ok());
    let targets = targets.map(|target| target.to_string_lossy().into_owned());
    targets.filter(|target| target.starts_with("socket:") && !listening.contains(target)).count()
}

/// What came of it: what the endpoint heard, and what each client got.
struct Outcome {
    heard: Vec<Heard>,
    got: Vec<Option<Vec<u8>>>,
    /// Of the access log.
    lines: Vec<Value>,
}

async fn run(scripts: &[Script], greeting: usize, event: Event) -> Outcome {
    let endpoint = Endpoint::full().await;
    let address = endpoint.address();
    let mut edge = Edge::start_in(Workspace::new().unwrap(), &patient(&["im", "other"], address)).await;
    let before = descriptors(&edge);
    let everybody = Barrier::new(scripts.len() + 1);
    let mut clients = Vec::new();
    for _ in scripts {
        clients.push(RawClient::connect(edge.address("im")).await.unwrap());
    }
    edge.wait_for_count("warbler_connections_total", &[("listener", "im")], scripts.len() as u64).await;
    let players = scripts.iter().zip(clients).enumerate();
    let players = players.map(|(number, (script, client))| script.play(number, client, greeting, &everybody));
    let stop = CancellationToken::new();
    let world = async {
        everybody.wait().await;
        let serving = match event {
            Event::EndpointGoes => {
                drop(endpoint);
                None
            }
            _ => Some(tokio::spawn(endpoint.serve(greeting, stop.clone()))),
        };
        match event {
            Event::ListenerRemoved => _ = edge.reload(&patient(&["other"], address)).await,
            Event::EdgeStops => edge.process.signal(Signal::TERM).unwrap(),
            Event::EndpointAccepts | Event::EndpointGoes => {}
        }
        serving
    };
    let (got, serving) = tokio::join!(join_all(players), world);
    if event == Event::EdgeStops {
        let status = edge.process.wait(SOON).await.unwrap();
        assert_eq!(status.code(), Some(0), "{}", edge.process.last_lines());
    } else {
        edge.wait_until_empty().await;
        assert_eq!(edge.leases(&[address]).await, [0], "a lease is left");
        let as_before = eventually(SOON, "its descriptors", async || (descriptors(&edge) <= before).then_some(()));
        assert!(as_before.await.is_ok(), "{} descriptors are left", descriptors(&edge) - before);
    }
    let lines = edge.wait_for_lines(scripts.len()).await;
    stop.cancel();
    let heard = match serving {
        Some(serving) => serving.await.unwrap(),
        None => Vec::new(),
    };
    Outcome { heard, got, lines }
}

fn check(scripts: &[Script], greeting: usize, event: Event) -> Result<Vec<Value>, TestCaseError> {
    let Outcome { heard, got, lines } = on_one_thread(run(scripts, greeting, event));
    let mut of = HashMap::new();
    // Who broke off may not even have said its number.
    for (bytes, in_order) in heard.into_iter().filter(|(bytes, _)| bytes.len() >= 8) {
        let number = usize::try_from(u64::from_be_bytes(bytes[..8].try_into().unwrap())).unwrap();
        prop_assert!(number < scripts.len(), "nobody said that");
        prop_assert!(scripts[number].stream(number).starts_with(&bytes), "bytes are lost, repeated or mixed");
        prop_assert!(of.insert(number, (bytes.len(), in_order)).is_none(), "a client was heard twice");
    }
    prop_assert!(event != Event::EndpointGoes || of.is_empty(), "who is gone has heard something");
    for (number, (script, got)) in scripts.iter().zip(&got).enumerate().filter(|_| event == Event::EndpointAccepts) {
        if script.is_heard(greeting) {
            let length = script.stream(number).len();
            prop_assert_eq!(of.get(&number), Some(&(length, true)), "client {} was not heard to its end", number);
        }
        if matches!(script.end, End::Half | End::Stay) {
            prop_assert_eq!(got.as_ref().map(Vec::len), Some(greeting), "client {} was not greeted", number);
        }
    }
    Ok(lines)
}

fn on_one_thread<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(work)
}

/// Each starts an edge, and takes a second at least: that long the kernel waits before it asks a full queue again.
fn cases() -> ProptestConfig {
    ProptestConfig { cases: 6, max_shrink_iters: 4, ..ProptestConfig::default() }
}

proptest! {
    #![proptest_config(cases())]

    #[test]
    fn tunnels_that_end_while_their_endpoint_connects_lose_nothing_and_leave_nothing(
        scripts in scripts(),
        greeting in prop_oneof![Just(0), 1usize..20_000],
        event in event(),
    ) {
        check(&scripts, greeting, event)?;
    }
}

#[test]
fn what_a_client_said_before_it_left_reaches_an_endpoint_that_was_slow_to_connect() {
    let left = |end| Script { before: 10, after: None, end };
    let lines = check(&[left(End::Close), left(End::Half)], 0, Event::EndpointAccepts).unwrap();
    for line in lines {
        assert_eq!((&line["outcome"], &line["bytes_to_endpoint"]), (&"client-closed".into(), &18.into()));
    }
}

#[test]
fn a_client_that_breaks_off_while_its_endpoint_connects_leaves_nothing_behind() {
    let scripts = [Script { before: 0, after: None, end: End::Reset }];
    let Outcome { heard, lines, .. } = on_one_thread(run(&scripts, 0, Event::EndpointAccepts));
    assert_eq!(heard.len(), 1);
    assert!(!heard[0].1, "a reset is no end in order");
    assert_eq!(lines[0]["outcome"], "client-reset");
}
