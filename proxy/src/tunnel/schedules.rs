//! The relay over real sockets: peers that send, read, rest, end and break off by random schedules, both at once. With
//! small kernel buffers, so that writes are short and readers slow, or with large ones, so that bulk goes through pipes;
//! with TLS on either side, on both, or on none.
//!
//! What one peer got is what the other sent, from its beginning, each byte once and in order; all of it, unless somebody
//! broke off or the client was asked to leave. When it is over, no lease, registry entry or descriptor is left; descriptors
//! are the process's, so each test has one to itself (as cargo-nextest runs them).

use std::sync::{Arc, LazyLock};
use std::time::Duration;

use proptest::prelude::*;
use socket2::SockRef;
use tokio::io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf, split};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::time::timeout;
use tokio_rustls::{TlsAcceptor, TlsConnector, TlsStream};
use tokio_util::either::Either;

use super::fixture::{Fixture, pattern};
use super::{Framing, SCRATCH, Tunnel, pipe};
use crate::registry::{Command, LeaveReason};
use crate::stream::Io;
use crate::tls::TlsSocket;
use crate::tls::fixture::{client_config, name, server_config};

/// More than any of these takes, also on a busy machine.
const DEADLINE: Duration = Duration::from_secs(20);

/// As on an Ethernet. One of the loopback's own does not fit a small buffer: the kernel drops it, and waits longer each time
/// before it sends it again.
const SEGMENT: u32 = 1460;

/// Nobody is cut for being slow here.
const CLOSE_WAIT: Duration = Duration::from_secs(60);

/// What a peer does with the half that it writes to; the other half is read meanwhile.
#[derive(Debug, Clone)]
enum Write {
    Bytes(usize),
    Rest(u8),
}

/// How a peer reads at first; then it reads what there is.
#[derive(Debug, Clone)]
struct Read {
    at_once: usize,
    rest: u8,
}

#[derive(Debug, Clone)]
struct Peer {
    writes: Vec<Write>,
    reads: Vec<Read>,
    /// Breaks the connection off after its writes, instead of ending its half.
    breaks_off: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Told {
    Nothing,
    Leave(u8),
    Cut(u8),
}

/// Of the kernel, for each socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Buffers {
    Small,
    AsTheKernelLikes,
}

/// What speaks on a socket, at the peer's end. At the relay's it is the code under test.
type Socket = Either<TcpStream, TlsStream<TcpStream>>;

/// Which sockets have TLS on them.
#[derive(Debug, Clone, Copy)]
struct Secured {
    client: bool,
    endpoint: bool,
}

fn secured() -> impl Strategy<Value = Secured> {
    let bare = Secured { client: false, endpoint: false };
    let any = any::<[bool; 2]>().prop_map(|[client, endpoint]| Secured { client, endpoint });
    prop_oneof![1 => Just(bare), 1 => any]
}

fn buffers() -> impl Strategy<Value = Buffers> {
    prop_oneof![Just(Buffers::Small), Just(Buffers::AsTheKernelLikes)]
}

fn sizes() -> impl Strategy<Value = usize> {
    prop_oneof![
        8 => 1usize..300,
        4 => 1000usize..40_000,
        2 => Just(SCRATCH),
        2 => Just(pipe::MOST + 1),
        1 => 200_000usize..900_000,
    ]
}

fn peers() -> impl Strategy<Value = Peer> {
    let write = prop_oneof![4 => sizes().prop_map(Write::Bytes), 1 => any::<u8>().prop_map(Write::Rest)];
    let read = (sizes(), any::<u8>()).prop_map(|(at_once, rest)| Read { at_once, rest });
    let parts = (prop::collection::vec(write, 0..12), prop::collection::vec(read, 0..30), prop::bool::weighted(0.1));
    parts.prop_map(|(writes, reads, breaks_off)| Peer { writes, reads, breaks_off })
}

fn told() -> impl Strategy<Value = Told> {
    prop_oneof![
        6 => Just(Told::Nothing),
        1 => any::<u8>().prop_map(Told::Leave),
        1 => any::<u8>().prop_map(Told::Cut),
    ]
}

/// Gives the others so many turns.
async fn rest(turns: u8) {
    for _ in 0..turns {
        tokio::task::yield_now().await;
    }
}

async fn pair(buffers: Buffers) -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    SockRef::from(&listener).set_tcp_mss(SEGMENT).unwrap();
    let socket = TcpSocket::new_v4().unwrap();
    SockRef::from(&socket).set_tcp_mss(SEGMENT).unwrap();
    let (one, accepted) = tokio::join!(socket.connect(listener.local_addr().unwrap()), listener.accept());
    let (one, other) = (one.unwrap(), accepted.unwrap().0);
    for socket in [&one, &other].into_iter().filter(|_| buffers == Buffers::Small) {
        SockRef::from(socket).set_send_buffer_size(16 * 1024).unwrap();
        SockRef::from(socket).set_recv_buffer_size(16 * 1024).unwrap();
    }
    (one, other)
}

/// A client's end, and the relay's end of it.
async fn with_client(buffers: Buffers, secured: bool) -> (Socket, Io) {
    let (ours, theirs) = pair(buffers).await;
    if !secured {
        return (Either::Left(ours), Io::Plain(theirs));
    }
    let connector = TlsConnector::from(client_tls());
    let (ours, theirs) = tokio::join!(connector.connect(name(), ours), TlsSocket::accept(theirs, server_tls()));
    (Either::Right(ours.unwrap().into()), Io::Tls(Box::new(theirs.unwrap())))
}

/// The relay's end, and an endpoint's end of it.
async fn with_endpoint(buffers: Buffers, secured: bool) -> (Io, Socket) {
    let (theirs, ours) = pair(buffers).await;
    if !secured {
        return (Io::Plain(theirs), Either::Left(ours));
    }
    let acceptor = TlsAcceptor::from(server_tls());
    let (theirs, ours) = tokio::join!(TlsSocket::connect(theirs, client_tls(), name()), acceptor.accept(ours));
    (Io::Tls(Box::new(theirs.unwrap())), Either::Right(ours.unwrap().into()))
}

/// One certificate for all: to make one takes longer than to play most schedules.
fn server_tls() -> Arc<rustls::ServerConfig> {
    static CONFIG: LazyLock<Arc<rustls::ServerConfig>> = LazyLock::new(|| server_config(0));
    CONFIG.clone()
}

fn client_tls() -> Arc<rustls::ClientConfig> {
    static CONFIG: LazyLock<Arc<rustls::ClientConfig>> = LazyLock::new(|| client_config(0, &rustls::version::TLS13));
    CONFIG.clone()
}

fn tcp(socket: &Socket) -> &TcpStream {
    match socket {
        Either::Left(tcp) => tcp,
        Either::Right(tls) => tls.get_ref().0,
    }
}

/// Sends the stream in the pieces of the schedule, and what is left at the end. `None` when it broke off.
async fn write(peer: &Peer, stream: &[u8], mut half: WriteHalf<Socket>) -> Option<WriteHalf<Socket>> {
    let mut at = 0;
    for write in &peer.writes {
        match write {
            Write::Rest(turns) => rest(*turns).await,
            Write::Bytes(bytes) => {
                let end = (at + bytes).min(stream.len());
                half.write_all(&stream[at..end]).await.ok()?;
                half.flush().await.ok()?;
                at = end;
            }
        }
    }
    if peer.breaks_off {
        return None;
    }
    half.write_all(&stream[at..]).await.ok()?;
    half.shutdown().await.ok()?;
    Some(half)
}

/// All that comes, and whether it ended as a stream should.
async fn read(peer: &Peer, mut half: ReadHalf<Socket>) -> (Vec<u8>, bool) {
    let mut got = Vec::new();
    let then = Read { at_once: SCRATCH, rest: 0 };
    for Read { at_once, rest: turns } in peer.reads.iter().chain(std::iter::repeat(&then)) {
        let mut piece = vec![0; *at_once];
        match half.read(&mut piece).await {
            Ok(0) => return (got, true),
            Ok(bytes) => got.extend_from_slice(&piece[..bytes]),
            Err(_) => break,
        }
        rest(*turns).await;
    }
    (got, false)
}

/// Plays a peer. A peer that breaks off reads no more: dropping both halves resets the connection.
async fn play(peer: &Peer, stream: &[u8], socket: Socket) -> (Vec<u8>, bool) {
    if peer.breaks_off {
        SockRef::from(tcp(&socket)).set_linger(Some(Duration::ZERO)).unwrap();
    }
    let (reading, writing) = split(socket);
    let broke_off = Arc::new(tokio::sync::Notify::new());
    let reader = async {
        tokio::select! {
            biased;
            () = broke_off.notified() => (Vec::new(), false),
            got = read(peer, reading) => got,
        }
    };
    let writer = async {
        let half = write(peer, stream, writing).await;
        if half.is_none() && peer.breaks_off {
            broke_off.notify_one();
        }
        half
    };
    tokio::join!(reader, writer).0
}

fn descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

/// What a WebSocket client gets last that is asked to leave: Close 1012.
const CLOSE: [u8; 4] = [0x88, 2, 0x03, 0xf4];

struct Run {
    framing: Framing,
    buffers: Buffers,
    secured: Secured,
    client: (Peer, Vec<u8>),
    endpoint: (Peer, Vec<u8>),
    told: Told,
}

/// What client and endpoint got, each with whether their stream ended in order.
async fn run(run: &Run) -> Result<[(Vec<u8>, bool); 2], TestCaseError> {
    let Fixture { registered, trip, load, registry } = Fixture::new();
    let before = descriptors() - pipe::descriptors().0;
    let entry = registered.entry().clone();
    let (client, a) = with_client(run.buffers, run.secured.client).await;
    let (b, endpoint) = with_endpoint(run.buffers, run.secured.endpoint).await;
    let tunnel = Tunnel::new(a, b, run.framing, &[], registered, trip, CLOSE_WAIT);
    let tunnel = tokio::spawn(tunnel);
    let command = async {
        match run.told {
            Told::Nothing => {}
            Told::Leave(turns) => {
                rest(turns).await;
                entry.tell(Command::Leave(LeaveReason::Stop));
            }
            Told::Cut(turns) => {
                rest(turns).await;
                entry.tell(Command::Cut(LeaveReason::Stop));
            }
        }
    };
    let peers = async {
        let (got, sent, ()) = tokio::join!(
            play(&run.client.0, &run.client.1, client),
            play(&run.endpoint.0, &run.endpoint.1, endpoint),
            command
        );
        [got, sent]
    };
    let got = timeout(DEADLINE, peers).await.map_err(|_elapsed| TestCaseError::fail("the peers wait for ever"))?;
    timeout(DEADLINE, tunnel).await.map_err(|_elapsed| TestCaseError::fail("the tunnel never ends"))?.unwrap();
    prop_assert_eq!(load.leases(), 0, "a lease is left");
    prop_assert_eq!(registry.connections(), 0, "an entry is left in the registry");
    let (of_pipes, all_back) = pipe::descriptors();
    prop_assert!(all_back, "a pipe is left");
    prop_assert_eq!(descriptors() - of_pipes, before, "a descriptor is left");
    Ok(got)
}

fn on_one_thread<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(work)
}

fn length(peer: &Peer) -> usize {
    peer.writes.iter().map(|write| if let Write::Bytes(bytes) = write { *bytes } else { 0 }).sum()
}

/// Plays it, and compares what each side got with what the other sent.
fn check(played: &Run, is_border: impl Fn(usize) -> bool) -> Result<(), TestCaseError> {
    let ((client, sent), (endpoint, answered)) = (&played.client, &played.endpoint);
    let [(client_got, client_end), (endpoint_got, endpoint_end)] = on_one_thread(run(played))?;
    let left = matches!(played.told, Told::Leave(_));
    let said_goodbye = left && played.framing == Framing::WebSocket;
    let data = client_got.strip_suffix(&CLOSE).filter(|_| said_goodbye).unwrap_or(&client_got);
    prop_assert!(sent.starts_with(&endpoint_got), "to the endpoint, bytes are lost, repeated or reordered");
    prop_assert!(answered.starts_with(data), "to the client, bytes are lost, repeated or reordered");
    if !(client.breaks_off || endpoint.breaks_off || matches!(played.told, Told::Cut(_))) {
        prop_assert!(endpoint_end && client_end, "an end was not passed on");
        prop_assert_eq!(endpoint_got.len(), sent.len());
        // Who is asked to leave gets what was on its way.
        prop_assert!(data.len() == answered.len() || left);
        prop_assert!(is_border(data.len()), "a frame was cut");
    }
    Ok(())
}

fn frames() -> impl Strategy<Value = Vec<usize>> {
    let length = prop_oneof![
        4 => 0usize..126,
        1 => Just(126),
        2 => 126usize..65536,
        1 => Just(65535),
        1 => Just(65536),
        1 => 100_000usize..700_000,
    ];
    prop::collection::vec(length, 0..8)
}

fn stream_of(frames: &[usize], masked: bool) -> Vec<u8> {
    let mut stream = Vec::new();
    for length in frames {
        let mask_bit = if masked { 0x80 } else { 0 };
        stream.push(0x82);
        if let Some(short) = u8::try_from(*length).ok().filter(|short| *short < 126) {
            stream.push(mask_bit | short);
        } else if let Ok(medium) = u16::try_from(*length) {
            stream.push(mask_bit | 126);
            stream.extend(medium.to_be_bytes());
        } else {
            stream.push(mask_bit | 127);
            stream.extend((*length as u64).to_be_bytes());
        }
        if masked {
            stream.extend([1, 2, 3, 4]);
        }
        stream.extend(pattern(stream.len(), *length));
    }
    stream
}

/// Where one of the server's frames ends and the next begins.
fn is_border(frames: &[usize], at: usize) -> bool {
    let mut end = 0;
    let ends = frames.iter().map(|length| {
        let head = match length {
            0..126 => 2,
            126..65_536 => 4,
            _ => 10,
        };
        end += head + length;
        end
    });
    at == 0 || ends.into_iter().any(|end| end == at)
}

/// Every case opens sockets of its own; so many a test are seconds.
fn cases() -> ProptestConfig {
    ProptestConfig { cases: 100, ..ProptestConfig::default() }
}

proptest! {
    #![proptest_config(cases())]

    #[test]
    fn peers_of_an_opaque_tunnel_get_what_the_other_sent(
        client in peers(),
        endpoint in peers(),
        told in told(),
        buffers in buffers(),
        secured in secured(),
    ) {
        let (sent, answered) = (pattern(0, length(&client)), pattern(7, length(&endpoint)));
        let (client, endpoint) = ((client, sent), (endpoint, answered));
        check(&Run { framing: Framing::Opaque, buffers, secured, client, endpoint, told }, |_anywhere| true)?;
    }

    #[test]
    fn peers_of_a_websocket_get_what_the_other_sent(
        client in peers(),
        endpoint in peers(),
        from_client in frames(),
        from_endpoint in frames(),
        told in told(),
        buffers in buffers(),
        secured in secured(),
    ) {
        let client = (client, stream_of(&from_client, true));
        let endpoint = (endpoint, stream_of(&from_endpoint, false));
        let run = Run { framing: Framing::WebSocket, buffers, secured, client, endpoint, told };
        check(&run, |at| is_border(&from_endpoint, at))?;
    }
}

#[test]
fn bulk_goes_through_a_pipe_and_messages_do_not() {
    let quiet = |writes| Peer { writes, reads: Vec::new(), breaks_off: false };
    let piped = |bytes: usize| {
        let before = pipe::moved();
        let client = (quiet(vec![Write::Bytes(bytes)]), pattern(0, bytes));
        let endpoint = (quiet(Vec::new()), Vec::new());
        let buffers = Buffers::AsTheKernelLikes;
        let secured = Secured { client: false, endpoint: false };
        let played = Run { framing: Framing::Opaque, buffers, secured, client, endpoint, told: Told::Nothing };
        let [_, (got, ended)] = on_one_thread(run(&played)).unwrap();
        assert!(ended && got == played.client.1);
        pipe::moved() - before
    };
    let bulk = piped(4_000_000);
    assert!(bulk > 2_000_000, "most of four megabytes, not {bulk}");
    assert_eq!(piped(200), 0);
}

#[test]
fn a_frame_that_went_through_a_pipe_ends_where_its_head_said() {
    on_one_thread(async {
        let Fixture { registered, trip, .. } = Fixture::new();
        let entry = registered.entry().clone();
        let large = Buffers::AsTheKernelLikes;
        let ((mut client, a), (b, mut endpoint)) = (pair(large).await, pair(large).await);
        let tunnel = Tunnel::new(Io::Plain(a), Io::Plain(b), Framing::WebSocket, &[], registered, trip, CLOSE_WAIT);
        let tunnel = tokio::spawn(tunnel);
        let stream = stream_of(&[3_000_000], false);
        let mut got = vec![0; stream.len() + 4];
        let asked_half_way = async {
            let (first, last) = got.split_at_mut(1_000_000);
            client.read_exact(first).await.unwrap();
            entry.tell(Command::Leave(LeaveReason::Stop));
            client.read_exact(last).await.unwrap();
        };
        let both = async { tokio::join!(endpoint.write_all(&stream), asked_half_way) };
        timeout(DEADLINE, both).await.unwrap().0.unwrap();
        assert!(got.starts_with(&stream) && got.ends_with(&CLOSE));
        assert!(pipe::moved() > 1_000_000, "{} bytes went through a pipe", pipe::moved());
        drop((client, endpoint));
        timeout(DEADLINE, tunnel).await.unwrap().unwrap();
    });
}
