//! One login on one connection, over WebSocket with binary frames.

use std::{
    collections::VecDeque,
    io,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use backend::frame::{
    Bye, Frame, FrameError, LoginCode, LoginOk, Msg, Ping, RefusalCode, SUBPROTOCOL, Send, SendAck, Sync,
};
use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use socket2::SockRef;
use tokio::{
    io::AsyncWriteExt,
    net::{TcpSocket, TcpStream},
    time::{Instant, timeout, timeout_at},
};
use tokio_websockets::{Message, WebSocketStream};

use crate::harness::{proxy_header, ws};

/// How long a server may take to answer unless the door says otherwise.
const PATIENCE: Duration = Duration::from_secs(10);
/// Messages asked for in one page: the protocol's most.
const PAGE: u32 = 500;
/// Pushes kept until somebody asks for them; older ones are forgotten, `SYNC` has them.
const KEPT_PUSHES: usize = 10_000;

/// Where a client connects and how it gets in.
#[derive(Debug, Clone)]
pub struct Door {
    pub address: SocketAddr,
    /// The `Host` of the upgrade.
    pub host: String,
    pub path: String,
    /// The address that the client announces by PROXY protocol v2, as if a proxy in front had seen it.
    pub announced: Option<SocketAddr>,
    /// The address that it connects from, such as 127.0.1.7; the kernel's choice unless set.
    pub from: Option<IpAddr>,
    /// How long a server may take to answer.
    pub patience: Duration,
    /// Bytes of the kernel's receive buffer, for a client that is to be a slow reader; the kernel's choice unless set.
    pub receive_buffer: Option<u32>,
}

impl Door {
    /// A server or edge that is entered directly, on the protocol's own path.
    #[must_use]
    pub fn new(address: SocketAddr) -> Self {
        let host = address.to_string();
        Self {
            address,
            host,
            path: "/ws".into(),
            announced: None,
            from: None,
            patience: PATIENCE,
            receive_buffer: None,
        }
    }

    /// The same door for a client from elsewhere.
    #[must_use]
    pub fn announcing(self, client: SocketAddr) -> Self {
        Self { announced: Some(client), ..self }
    }
}

/// Why a session did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum SessionError {
    #[error("cannot reach {address}")]
    Unreachable {
        address: SocketAddr,
        #[source]
        cause: io::Error,
    },
    #[error("no WebSocket at {address}: {cause:#}")]
    NotUpgraded { address: SocketAddr, cause: anyhow::Error },
    #[error("login refused: {code:?}")]
    LoginRefused { code: LoginCode },
    #[error("refused: {code:?}, again in {retry_after:?}")]
    Refused { code: RefusalCode, retry_after: Duration },
    #[error("the server closed the session with {code:?}")]
    Closed { code: Option<u16> },
    #[error("the connection broke")]
    Broken(#[from] tokio_websockets::Error),
    #[error("the server was silent for {waited:?}")]
    Silent { waited: Duration },
    #[error("the server broke the protocol: {what}")]
    Protocol { what: String },
}

impl From<FrameError> for SessionError {
    fn from(cause: FrameError) -> Self {
        Self::Protocol { what: cause.to_string() }
    }
}

impl SessionError {
    /// Whether the same thing may work on another connection. A refusal for good stays one.
    #[must_use]
    pub fn may_pass(&self) -> bool {
        match self {
            Self::LoginRefused { code } => *code == LoginCode::TryLater,
            Self::Refused { code, .. } => matches!(code, RefusalCode::NotStored | RefusalCode::Busy),
            Self::Protocol { .. } => false,
            Self::Unreachable { .. }
            | Self::NotUpgraded { .. }
            | Self::Closed { .. }
            | Self::Broken(_)
            | Self::Silent { .. } => true,
        }
    }

    /// Whether somebody said no, as opposed to nobody having been there to say anything.
    #[must_use]
    pub fn is_refusal(&self) -> bool {
        match self {
            Self::NotUpgraded { cause, .. } => ws::refusal(cause).is_some(),
            Self::LoginRefused { .. } | Self::Refused { .. } => true,
            _ => false,
        }
    }
}

/// A session. It reads only while it waits for something; pushes that come meanwhile are kept.
#[derive(Debug)]
pub struct Session {
    socket: WebSocketStream<TcpStream>,
    welcome: LoginOk,
    pushes: VecDeque<Msg>,
    patience: Duration,
}

impl Session {
    /// Connects, upgrades and logs in.
    ///
    /// # Errors
    /// When any of it fails, or takes longer than the door's patience.
    pub async fn open(door: &Door, token: String, device: &str) -> Result<Self, SessionError> {
        let (address, waited) = (door.address, door.patience);
        let silent = |_elapsed| SessionError::Silent { waited };
        let stream = timeout(waited, reach(door)).await.map_err(silent)?;
        let stream = stream.map_err(|cause| SessionError::Unreachable { address, cause })?;
        let protocol = [("sec-websocket-protocol", SUBPROTOCOL)];
        let socket = timeout(waited, ws::connect_over(stream, &door.host, &door.path, &protocol)).await;
        let socket = socket.map_err(silent)?.map_err(|cause| SessionError::NotUpgraded { address, cause })?;
        let mut session = Self { socket, welcome: LoginOk::default(), pushes: VecDeque::new(), patience: waited };
        let login = backend::frame::Login { token, device_id: device.into(), resume: None, caps: Vec::new() };
        session.say(&Frame::Login(login)).await?;
        session.welcome = session
            .answer(|frame| match frame {
                Frame::LoginOk(welcome) => Some(Ok(welcome)),
                Frame::LoginErr(refusal) => Some(Err(SessionError::LoginRefused { code: refusal.code() })),
                _ => None,
            })
            .await?;
        Ok(session)
    }

    /// The name of the server process that took the login.
    #[must_use]
    pub fn node(&self) -> &str {
        &self.welcome.node
    }

    /// When the server took the login, since 1970 by its clock.
    #[must_use]
    pub fn began(&self) -> Duration {
        Duration::from_millis(self.welcome.server_time)
    }

    /// The id that the server gave the session.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.welcome.session_id
    }

    /// Sends a message and waits until it is stored.
    ///
    /// # Errors
    /// When it is not known to be stored. To be safe send it again under the same id.
    pub async fn send(&mut self, conv: &str, id: Bytes, body: Bytes) -> Result<SendAck, SessionError> {
        let send = Send { conv: conv.into(), client_msg_id: id.clone(), kind: 0, body, sent_at: 0 };
        self.say(&Frame::Send(send)).await?;
        self.answer(|frame| match frame {
            Frame::SendAck(ack) if ack.client_msg_id == id && ack.conv != conv => Some(Err(SessionError::Protocol {
                what: format!("what was said in {conv} is acknowledged in {}", ack.conv),
            })),
            Frame::SendAck(ack) if ack.client_msg_id == id => Some(Ok(ack)),
            Frame::SendErr(refusal) if refusal.client_msg_id == id => {
                Some(Err(SessionError::Refused { code: refusal.code(), retry_after: millis(refusal.retry_after_ms) }))
            }
            _ => None,
        })
        .await
    }

    /// The whole history of a conversation after `seq`, page by page.
    ///
    /// # Errors
    /// When a page is refused or does not come.
    pub async fn history(&mut self, conv: &str, mut after_seq: u64) -> Result<Vec<Msg>, SessionError> {
        let mut history = Vec::new();
        loop {
            self.say(&Frame::Sync(Sync { conv: conv.into(), after_seq, limit: PAGE })).await?;
            let page = self
                .answer(|frame| match frame {
                    Frame::SyncPage(page) if page.conv == conv => Some(Ok(page)),
                    Frame::SyncErr(refusal) if refusal.conv == conv => Some(Err(SessionError::Refused {
                        code: refusal.code(),
                        retry_after: millis(refusal.retry_after_ms),
                    })),
                    _ => None,
                })
                .await?;
            history.extend(page.msgs);
            if !page.more {
                return Ok(history);
            }
            if page.next_seq <= after_seq {
                return Err(SessionError::Protocol {
                    what: format!("page after {after_seq} leads to {}", page.next_seq),
                });
            }
            after_seq = page.next_seq;
        }
    }

    /// A heartbeat and its answer: the session is alive on both sides.
    ///
    /// # Errors
    /// When it is not.
    pub async fn ping(&mut self) -> Result<(), SessionError> {
        let t = fastrand::u64(..);
        self.say(&Frame::Ping(Ping { t })).await?;
        self.answer(|frame| matches!(frame, Frame::Pong(pong) if pong.t == t).then_some(Ok(()))).await
    }

    /// The next push, one that was kept first; `None` when none came in time.
    ///
    /// # Errors
    /// When the session is over.
    pub async fn next_push(&mut self, within: Duration) -> Result<Option<Msg>, SessionError> {
        let deadline = Instant::now() + within;
        while self.pushes.is_empty() {
            match timeout_at(deadline, self.hear()).await {
                Ok(Ok(Some(Frame::Msg(push)))) => self.keep(push),
                Ok(Ok(_)) => {}
                Ok(Err(error)) => return Err(error),
                Err(_elapsed) => return Ok(None),
            }
        }
        Ok(self.pushes.pop_front())
    }

    /// Says goodbye and waits for the server's Close.
    ///
    /// # Errors
    /// When the session ends in any other way than with 1000.
    pub async fn leave(mut self) -> Result<(), SessionError> {
        self.say(&Frame::Bye(Bye {})).await?;
        match self.answer(|_| None::<Result<(), SessionError>>).await {
            Err(SessionError::Closed { code: Some(1000) }) => Ok(()),
            Err(error) => Err(error),
            Ok(()) => Ok(()),
        }
    }

    /// Ends the connection with a reset, without a word.
    pub fn break_off(self) {
        // A connection that is gone already is what was wanted.
        _ = SockRef::from(self.socket.get_ref()).set_linger(Some(Duration::ZERO));
    }

    async fn say(&mut self, frame: &Frame) -> Result<(), SessionError> {
        let waited = self.patience;
        let said = timeout(waited, self.socket.send(Message::binary(frame.to_bytes()))).await;
        Ok(said.map_err(|_elapsed| SessionError::Silent { waited })??)
    }

    /// Waits for the frame that `wanted` picks. Pushes are kept, everything else is passed over.
    async fn answer<T>(
        &mut self,
        mut wanted: impl FnMut(Frame) -> Option<Result<T, SessionError>>,
    ) -> Result<T, SessionError> {
        let waited = self.patience;
        let deadline = Instant::now() + waited;
        loop {
            let heard = timeout_at(deadline, self.hear()).await;
            match heard.map_err(|_elapsed| SessionError::Silent { waited })?? {
                Some(Frame::Msg(push)) => self.keep(push),
                Some(frame) => {
                    if let Some(outcome) = wanted(frame) {
                        return outcome;
                    }
                }
                None => {}
            }
        }
    }

    /// The next frame; `None` for one of a later version of the protocol.
    async fn hear(&mut self) -> Result<Option<Frame>, SessionError> {
        loop {
            let Some(message) = self.socket.next().await else { return Err(SessionError::Closed { code: None }) };
            let message = message?;
            if let Some((code, _)) = message.as_close() {
                return Err(SessionError::Closed { code: Some(code.into()) });
            }
            if message.is_binary() {
                return Ok(Frame::from_bytes(message.into_payload().into())?);
            }
        }
    }

    fn keep(&mut self, push: Msg) {
        if self.pushes.len() == KEPT_PUSHES {
            self.pushes.pop_front();
        }
        self.pushes.push_back(push);
    }
}

async fn reach(door: &Door) -> io::Result<TcpStream> {
    let socket = if door.address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    if let Some(from) = door.from {
        socket.bind((from, 0).into())?;
    }
    if let Some(bytes) = door.receive_buffer {
        socket.set_recv_buffer_size(bytes)?;
    }
    let mut stream = socket.connect(door.address).await?;
    stream.set_nodelay(true)?;
    if let Some(client) = door.announced {
        stream.write_all(&proxy_header::v2(client, door.address)).await?;
    }
    Ok(stream)
}

fn millis(count: u32) -> Duration {
    Duration::from_millis(count.into())
}
