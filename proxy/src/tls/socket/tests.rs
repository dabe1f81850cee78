//! Both ends of the socket against rustls' own buffered connections: however the bytes are cut, whatever the peer does.

use std::io::{Read, Write};

use proptest::prelude::*;
use rustls::{ClientConnection, ServerConnection};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::*;
use crate::tls::fixture::{client_config, name, server_config};

async fn pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (client, accepted) = tokio::join!(TcpStream::connect(listener.local_addr().unwrap()), listener.accept());
    (client.unwrap(), accepted.unwrap().0)
}

/// Says something each way, and ends both.
async fn talk(mut one: TlsSocket, mut other: TlsSocket) {
    for size in [1, 20_000, 100_000] {
        let said = vec![b'x'; size];
        let mut heard = vec![0; size];
        let (sent, read) = tokio::join!(
            async {
                one.write_all(&said).await?;
                one.flush().await
            },
            other.read_exact(&mut heard)
        );
        sent.unwrap();
        read.unwrap();
        assert_eq!(heard, said);
    }
    one.shutdown().await.unwrap();
    assert_eq!(other.read(&mut [0]).await.unwrap(), 0);
    other.write_all(b"last").await.unwrap();
    other.shutdown().await.unwrap();
    let mut last = Vec::new();
    one.read_to_end(&mut last).await.unwrap();
    assert_eq!(last, b"last");
}

#[tokio::test]
async fn a_handshake_message_may_be_as_large_as_rustls_takes_it() {
    for version in [&rustls::version::TLS13, &rustls::version::TLS12] {
        for (certificates, protocols) in [(0, 0), (150, 0), (0, 240)] {
            let (client, server) = pair().await;
            let (client, server) = tokio::join!(
                TlsSocket::connect(client, client_config(protocols, version), name()),
                TlsSocket::accept(server, server_config(certificates)),
            );
            talk(client.unwrap(), server.unwrap()).await;
        }
    }
}

#[tokio::test]
async fn a_reset_behind_a_last_message_is_no_end() {
    let (client, server) = pair().await;
    let (client, server) = tokio::join!(
        TlsSocket::connect(client, client_config(0, &rustls::version::TLS13), name()),
        TlsSocket::accept(server, server_config(0)),
    );
    let (mut client, mut server) = (client.unwrap(), server.unwrap());
    // Until the client's socket is full, and ciphertext waits here.
    let mut cx = Context::from_waker(std::task::Waker::noop());
    while Pin::new(&mut server).poll_write(&mut cx, &[0; 16_000]).is_ready() {}
    assert!(server.holds_back_writes());
    client.write_all(b"last words").await.unwrap();
    client.flush().await.unwrap();
    socket2::SockRef::from(client.tcp()).set_linger(Some(std::time::Duration::ZERO)).unwrap();
    drop(client);
    let mut said = Vec::new();
    let error = server.read_to_end(&mut said).await.unwrap_err();
    assert_eq!((said, error.kind()), (b"last words".to_vec(), io::ErrorKind::ConnectionReset));
}

/// The beginning of a hello that says it has 60 000 bytes, in two records.
fn large_hello() -> Vec<u8> {
    let mut bytes = Vec::new();
    for head in [[1, 0, 0xea, 0x60], [0; 4]] {
        bytes.extend([0x16, 3, 1, 0x3e, 0x80]);
        bytes.extend(head);
        bytes.extend([0; 15_996]);
    }
    bytes
}

#[tokio::test]
async fn only_so_many_are_in_the_middle_of_a_large_message() {
    let mut clients = Vec::new();
    let mut begun = tokio::task::JoinSet::new();
    let local = tokio::task::LocalSet::new();
    for _ in 0..LARGE_MESSAGES {
        let (mut client, server) = pair().await;
        client.write_all(&large_hello()).await.unwrap();
        clients.push(client);
        begun.spawn_local_on(async { TlsSocket::accept(server, server_config(0)).await.map(drop) }, &local);
    }
    let full = local.run_until(async {
        while LARGE.get() < LARGE_MESSAGES {
            tokio::task::yield_now().await;
        }
        let (mut client, server) = pair().await;
        client.write_all(&large_hello()).await.unwrap();
        TlsSocket::accept(server, server_config(0)).await.err().unwrap().to_string()
    });
    assert_eq!(tokio::time::timeout(std::time::Duration::from_secs(20), full).await.unwrap(), TOO_MANY_LARGE);
    // Others are served meanwhile, and who leaves makes room.
    let (client, server) = pair().await;
    let (client, server) = tokio::join!(
        TlsSocket::connect(client, client_config(0, &rustls::version::TLS13), name()),
        TlsSocket::accept(server, server_config(0)),
    );
    talk(client.unwrap(), server.unwrap()).await;
    clients.clear();
    local.run_until(async { while begun.join_next().await.is_some() {} }).await;
    assert_eq!(LARGE.get(), 0);
}

#[tokio::test]
async fn what_came_before_a_broken_record_is_read() {
    let (client, mut server) = pair().await;
    let tls = TlsSocket::connect(client, client_config(0, &rustls::version::TLS13), name());
    let peer = async {
        let mut peer = ServerConnection::new(server_config(0)).unwrap();
        while peer.is_handshaking() {
            let mut bytes = vec![0; 4096];
            let read = server.read(&mut bytes).await.unwrap();
            peer.read_tls(&mut &bytes[..read]).unwrap();
            peer.process_new_packets().unwrap();
            let mut answer = Vec::new();
            peer.write_tls(&mut answer).unwrap();
            server.write_all(&answer).await.unwrap();
        }
        peer.writer().write_all(b"last words").unwrap();
        let mut bytes = Vec::new();
        while peer.wants_write() {
            peer.write_tls(&mut bytes).unwrap();
        }
        bytes.extend([0x17, 3, 3, 0, 20]);
        bytes.extend([0; 20]);
        server.write_all(&bytes).await.unwrap();
    };
    let (tls, ()) = tokio::join!(tls, peer);
    let (mut tls, mut said) = (tls.unwrap(), Vec::new());
    let error = tls.read_to_end(&mut said).await.unwrap_err();
    assert_eq!((said, error.kind()), (b"last words".to_vec(), io::ErrorKind::InvalidData));
}

/// Records of one byte each make six of every byte, and hardly any message of them; what does not fit is refused.
#[tokio::test]
async fn a_hello_in_more_records_than_fit_is_refused() {
    let mut hello = Vec::new();
    let mut peer = ClientConnection::new(client_config(240, &rustls::version::TLS13), name()).unwrap();
    while peer.wants_write() {
        peer.write_tls(&mut hello).unwrap();
    }
    let mut crumbs = Vec::new();
    let mut rest = &hello[..];
    while let [_, _, _, high, low, behind @ ..] = rest {
        let (payload, next) = behind.split_at(usize::from(u16::from_be_bytes([*high, *low])));
        crumbs.extend(payload.iter().flat_map(|byte| [0x16, 3, 1, 0, 1, *byte]));
        rest = next;
    }
    let (mut client, server) = pair().await;
    let (accepted, _sent_or_cut) = tokio::join!(TlsSocket::accept(server, server_config(0)), client.write_all(&crumbs));
    assert_eq!(accepted.err().unwrap().kind(), io::ErrorKind::InvalidData);
}

#[tokio::test]
async fn a_session_that_has_failed_stays_failed() {
    let (client, server) = pair().await;
    let (client, server) = tokio::join!(
        TlsSocket::connect(client, client_config(0, &rustls::version::TLS13), name()),
        TlsSocket::accept(server, server_config(0)),
    );
    let (mut client, mut server) = (client.unwrap(), server.unwrap());
    // The beginning of a record, and then a whole one that nobody has encrypted.
    client.tcp.write_all(&[0x17, 3, 3, 0, 40]).await.unwrap();
    client.tcp.write_all(&[7; 80]).await.unwrap();
    let failed = server.read(&mut [0; 10]).await.unwrap_err();
    assert_eq!(failed.kind(), io::ErrorKind::InvalidData);
    assert_eq!(server.read(&mut [0; 10]).await.unwrap_err().to_string(), failed.to_string());
    assert!(server.write(b"x").await.is_err());
    assert!(server.shutdown().await.is_err());
    // The peer has been told why.
    assert!(client.read(&mut [0; 10]).await.unwrap_err().to_string().contains("BadRecordMac"));
}

/// One of rustls' buffered connections, and the ciphertext on its way to us and from us.
struct Peer {
    connection: rustls::Connection,
    heard: Vec<u8>,
}

impl Peer {
    fn take(&mut self, mut ciphertext: &[u8]) {
        while !ciphertext.is_empty() {
            self.connection.read_tls(&mut ciphertext).unwrap();
            self.connection.process_new_packets().unwrap();
            let mut plain = vec![0; 1 << 16];
            while let Ok(read @ 1..) = self.connection.reader().read(&mut plain) {
                self.heard.extend(&plain[..read]);
            }
        }
    }

    fn give(&mut self) -> Vec<u8> {
        let mut ciphertext = Vec::new();
        while self.connection.wants_write() {
            self.connection.write_tls(&mut ciphertext).unwrap();
        }
        ciphertext
    }
}

fn check_all_cuts(mut session: Session, connection: rustls::Connection, sizes: &[(bool, usize)], cuts: &[usize]) {
    let mut peer = Peer { connection, heard: Vec::new() };
    let mut cuts = cuts.iter().cycle().copied();
    let mut heard = Vec::new();
    let mut exchange = |session: &mut Session, peer: &mut Peer, heard: &mut Vec<u8>| {
        loop {
            let (ours, theirs) = (session.unsent().to_vec(), peer.give());
            session.was_sent(ours.len());
            if ours.is_empty() && theirs.is_empty() {
                return;
            }
            peer.take(&ours);
            let mut rest = &theirs[..];
            while !rest.is_empty() {
                let mut room = vec![0; INCOMING];
                let known = session.begin_record(&mut room);
                let (piece, behind) = rest.split_at(cuts.next().unwrap().min(rest.len()));
                room[known..known + piece.len()].copy_from_slice(piece);
                session.receive(&mut room[..known + piece.len()], |plain| heard.extend(plain)).unwrap();
                rest = behind;
            }
        }
    };
    exchange(&mut session, &mut peer, &mut heard);
    assert!(!session.is_handshaking());
    let (mut we_said, mut they_said): (Vec<u8>, Vec<u8>) = Default::default();
    for (number, (update, size)) in (0u8..).zip(sizes) {
        let message = vec![number; *size];
        if *update {
            peer.connection.refresh_traffic_keys().unwrap();
        }
        peer.connection.writer().write_all(&message).unwrap();
        they_said.extend(&message);
        let mut room = vec![0; ENCRYPTED_ROOM];
        let written = session.encrypt(&message, &mut room).unwrap();
        session.queue(&room[..written]);
        we_said.extend(&message);
        exchange(&mut session, &mut peer, &mut heard);
    }
    assert!(heard == they_said && peer.heard == we_said);
    session.say_close().unwrap();
    peer.connection.send_close_notify();
    exchange(&mut session, &mut peer, &mut heard);
    assert!(session.peer_has_closed() && session.unsent().is_empty());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn nothing_is_lost_however_the_ciphertext_is_cut(
        we_serve: bool,
        sizes in prop::collection::vec((any::<bool>(), prop_oneof![Just(0usize), 1usize..300, 16_000usize..MOST_ENCRYPTED]), 1..6),
        cuts in prop::collection::vec(prop_oneof![1usize..40, 100usize..5000], 1..20),
    ) {
        let (server, client) = (server_config(0), client_config(0, &rustls::version::TLS13));
        let (session, peer) = if we_serve {
            (Session::server(server).unwrap(), ClientConnection::new(client, name()).unwrap().into())
        } else {
            (Session::client(client, name()).unwrap(), ServerConnection::new(server).unwrap().into())
        };
        check_all_cuts(session, peer, &sizes, &cuts);
    }
}
