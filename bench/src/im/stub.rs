//! Servers of the IM protocol over TCP that store nothing, for tests of what clients do then: one that can stall, and
//! one that says what a test says.

use std::net::SocketAddr;

use backend::frame::{Close, Frame, LoginOk, SendAck, SyncPage, UnreadList};
use futures_util::{SinkExt, StreamExt};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinSet,
};
use tokio_util::codec::{Framed, LengthDelimitedCodec};

use super::{Door, Transport};

/// A server on a free port. Dropping it ends it.
pub(crate) struct Stub {
    pub(crate) address: SocketAddr,
    _work: JoinSet<()>,
}

impl Stub {
    /// Takes every login and acknowledges every message, and does nothing while `stalled`.
    pub(crate) async fn start(stalled: watch::Receiver<bool>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let mut work = JoinSet::new();
        work.spawn(async move {
            let mut clients = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                clients.spawn(serve(stream, stalled.clone()));
            }
        });
        Self { address, _work: work }
    }
}

/// Serves one connection until its end.
pub(crate) async fn serve(stream: impl AsyncRead + AsyncWrite + Unpin, mut stalled: watch::Receiver<bool>) {
    let mut frames = Framed::new(stream, LengthDelimitedCodec::new());
    let mut seq = 0;
    while let Some(Ok(bytes)) = frames.next().await {
        // A sender that is gone stalls nobody any more.
        _ = stalled.wait_for(|stalled| !stalled).await;
        let Ok(Some(frame)) = Frame::from_bytes(bytes.freeze()) else { return };
        let answer = match frame {
            Frame::Login(_) => welcome(),
            Frame::Send(send) => {
                seq += 1;
                let (conv, client_msg_id) = (send.conv, send.client_msg_id);
                Frame::SendAck(SendAck { conv, client_msg_id, seq, ..SendAck::default() })
            }
            Frame::Sync(sync) => Frame::SyncPage(SyncPage { conv: sync.conv, ..SyncPage::default() }),
            Frame::Unread(_) => Frame::UnreadList(UnreadList::default()),
            Frame::Bye(_) => farewell(),
            _ => continue,
        };
        if frames.send(answer.to_bytes()).await.is_err() {
            return;
        }
    }
}

fn welcome() -> Frame {
    let (session_id, node) = ("session".into(), "stub".into());
    Frame::LoginOk(LoginOk { session_id, node, heartbeat_s: 50, ..LoginOk::default() })
}

/// The answer to `BYE`.
pub(crate) fn farewell() -> Frame {
    Frame::Close(Close { code: 1000, reason: "bye".into() })
}

/// A server on a free port whose every word a test says itself.
pub(crate) struct Script {
    listener: TcpListener,
}

impl Script {
    pub(crate) async fn start() -> Self {
        Self { listener: TcpListener::bind("127.0.0.1:0").await.expect("a port") }
    }

    pub(crate) fn door(&self) -> Door {
        Door { transport: Transport::Tcp, ..Door::new(self.listener.local_addr().expect("an address")) }
    }

    /// The next client, whose login is taken.
    pub(crate) async fn login(&self) -> Client {
        let (stream, _) = self.listener.accept().await.expect("a client");
        let mut client = Client { frames: Framed::new(stream, LengthDelimitedCodec::new()) };
        assert!(matches!(client.hear().await, Some(Frame::Login(_))), "a client says LOGIN first");
        client.say(welcome()).await;
        client
    }

    /// The next client, which has also been told what is unread: nothing unless something is named.
    pub(crate) async fn client(&self, unread: UnreadList) -> Client {
        let mut client = self.login().await;
        client.wait_for(|frame| matches!(frame, Frame::Unread(_)).then_some(())).await;
        client.say(Frame::UnreadList(unread)).await;
        client
    }
}

/// A client as the test sees it.
pub(crate) struct Client {
    frames: Framed<TcpStream, LengthDelimitedCodec>,
}

impl Client {
    /// What it says next; `None` when it has gone.
    pub(crate) async fn hear(&mut self) -> Option<Frame> {
        let bytes = self.frames.next().await?.ok()?;
        Frame::from_bytes(bytes.freeze()).expect("a frame")
    }

    /// The first thing it says that is picked.
    pub(crate) async fn wait_for<T>(&mut self, wanted: impl Fn(Frame) -> Option<T>) -> T {
        loop {
            let frame = self.hear().await.expect("the client is there");
            if let Some(found) = wanted(frame) {
                return found;
            }
        }
    }

    /// A client that has gone hears nothing; the test will see.
    pub(crate) async fn say(&mut self, frame: Frame) {
        _ = self.frames.send(frame.to_bytes()).await;
    }
}
