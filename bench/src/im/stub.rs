//! A server of the IM protocol over TCP that stores nothing and can stall: for tests of what clients see then.

use std::net::SocketAddr;

use backend::frame::{Frame, LoginOk, SendAck, SyncPage, UnreadList};
use futures_util::{SinkExt, StreamExt};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpListener,
    sync::watch,
    task::JoinSet,
};
use tokio_util::codec::{Framed, LengthDelimitedCodec};

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

/// Serves one connection until `BYE`.
pub(crate) async fn serve(stream: impl AsyncRead + AsyncWrite + Unpin, mut stalled: watch::Receiver<bool>) {
    let mut frames = Framed::new(stream, LengthDelimitedCodec::new());
    let mut seq = 0;
    while let Some(Ok(bytes)) = frames.next().await {
        // A sender that is gone stalls nobody any more.
        _ = stalled.wait_for(|stalled| !stalled).await;
        let Ok(Some(frame)) = Frame::from_bytes(bytes.freeze()) else { return };
        let answer = match frame {
            Frame::Login(_) => Frame::LoginOk(LoginOk {
                session_id: "session".into(),
                node: "stub".into(),
                heartbeat_s: 50,
                ..LoginOk::default()
            }),
            Frame::Send(send) => {
                seq += 1;
                let (conv, client_msg_id) = (send.conv, send.client_msg_id);
                Frame::SendAck(SendAck { conv, client_msg_id, seq, ..SendAck::default() })
            }
            Frame::Sync(sync) => Frame::SyncPage(SyncPage { conv: sync.conv, ..SyncPage::default() }),
            Frame::Unread(_) => Frame::UnreadList(UnreadList::default()),
            Frame::Bye(_) => return,
            _ => continue,
        };
        if frames.send(answer.to_bytes()).await.is_err() {
            return;
        }
    }
}
