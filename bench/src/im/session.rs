//! One login on one connection.

use std::{
    future::poll_fn,
    io,
    net::SocketAddr,
    task::{Poll, ready},
    time::Duration,
};

use backend::frame::{
    self, Bye, Frame, FrameError, Login, LoginCode, LoginOk, Msg, Ping, RefusalCode, Resume, SendAck, Sync,
};
use bytes::Bytes;
use http::StatusCode;
use tokio::time::{Instant, timeout, timeout_at};

use super::{door::Door, wire::Wire};

/// Messages asked for in one page: the protocol's most.
pub(super) const PAGE: u32 = 500;
/// What a server says about waiting counts up to here (docs/protocol.md, section 2): its numbers reach much further.
const LONGEST_WAIT: Duration = Duration::from_secs(3600);

/// Why a session did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum SessionError {
    #[error("cannot reach {address}")]
    Unreachable {
        address: SocketAddr,
        #[source]
        cause: io::Error,
    },
    /// The upgrade was answered with a no, by the server or by an edge before it.
    #[error("no WebSocket at {address}: {status}")]
    TurnedAway { address: SocketAddr, status: StatusCode, retry_after: Option<Duration> },
    #[error("login refused: {code:?}")]
    LoginRefused { code: LoginCode, retry_after: Duration },
    #[error("refused: {code:?}, again in {retry_after:?}")]
    Refused { code: RefusalCode, retry_after: Duration },
    #[error("the same device logged in elsewhere")]
    Kicked,
    #[error("the server closed the session with {code:?}")]
    Closed { code: Option<u16> },
    #[error("the connection broke")]
    Broken(#[source] Box<dyn std::error::Error + Send + std::marker::Sync>),
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

impl From<io::Error> for SessionError {
    fn from(cause: io::Error) -> Self {
        Self::Broken(Box::new(cause))
    }
}

impl From<tokio_websockets::Error> for SessionError {
    fn from(cause: tokio_websockets::Error) -> Self {
        Self::Broken(Box::new(cause))
    }
}

impl SessionError {
    /// Whether the same thing may work on another connection: what docs/protocol.md, section 7, has in its column
    /// "client". A refusal for good stays one.
    #[must_use]
    pub fn may_pass(&self) -> bool {
        match self {
            Self::LoginRefused { code, retry_after } => *code == LoginCode::TryLater || !retry_after.is_zero(),
            Self::Refused { retry_after, .. } => !retry_after.is_zero(),
            Self::TurnedAway { status, .. } => {
                !status.is_client_error()
                    || matches!(*status, StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS)
            }
            Self::Closed { code: Some(1002 | 1003 | 1007 | 1008 | 1009 | 4002 | 4008) }
            | Self::Kicked
            | Self::Protocol { .. } => false,
            Self::Unreachable { .. } | Self::Closed { .. } | Self::Broken(_) | Self::Silent { .. } => true,
        }
    }

    /// Whether somebody said no, as opposed to nobody having been there to say anything.
    #[must_use]
    pub fn is_refusal(&self) -> bool {
        matches!(self, Self::TurnedAway { .. } | Self::LoginRefused { .. } | Self::Refused { .. })
    }

    /// Whether it is the answer to `BYE`, and so the end that was wanted.
    pub(super) fn is_farewell(&self) -> bool {
        matches!(self, Self::Closed { code: Some(1000) })
    }

    /// How long whoever said no wants to be left alone, an hour at most; nothing if it did not say.
    #[must_use]
    pub fn retry_after(&self) -> Duration {
        match self {
            Self::TurnedAway { retry_after, .. } => retry_after.unwrap_or_default(),
            Self::LoginRefused { retry_after, .. } | Self::Refused { retry_after, .. } => *retry_after,
            _ => Duration::ZERO,
        }
    }
}

/// A session. It reads and writes only while [`next`](Self::next) waits.
#[derive(Debug)]
pub struct Session {
    wire: Wire,
    welcome: LoginOk,
    patience: Duration,
}

impl Session {
    /// Connects and logs in, continuing the session named by `resume` if the server still knows it.
    ///
    /// # Errors
    /// When any of it fails, or takes longer than the door's patience.
    pub async fn open(door: &Door, token: String, device: &str, resume: Option<String>) -> Result<Self, SessionError> {
        let waited = door.patience;
        let silent = |_elapsed| SessionError::Silent { waited };
        let wire = timeout(waited, Wire::open(door)).await.map_err(silent)??;
        let mut session = Self { wire, welcome: LoginOk::default(), patience: waited };
        let resume = resume.map(|session_id| Resume { session_id, last_push: 0 });
        session.say(&Frame::Login(Login { token, device_id: device.into(), resume, caps: Vec::new() }));
        session.welcome = session
            .answer(|frame| match frame {
                Frame::LoginOk(welcome) => Some(Ok(welcome)),
                Frame::LoginErr(refusal) => Some(Err(SessionError::LoginRefused {
                    code: refusal.code(),
                    retry_after: millis(refusal.retry_after_ms),
                })),
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

    /// The id that the server gave the session, to resume it by.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.welcome.session_id
    }

    /// Whether it goes on where the resumed one ended.
    #[must_use]
    pub fn resumed(&self) -> bool {
        self.welcome.resumed
    }

    /// After how long a silence of its own the client has to send `PING`: from a second to an hour.
    #[must_use]
    pub fn heartbeat(&self) -> Duration {
        at_most_an_hour(Duration::from_secs(self.welcome.heartbeat_s.max(1).into()))
    }

    /// Has this sent, as soon as somebody waits for what comes [`next`](Self::next).
    pub fn say(&mut self, frame: &Frame) {
        self.wire.say(frame);
    }

    /// The next frame; meanwhile everything is sent that was said. Frames of a later version of the protocol are passed
    /// over. Nothing is lost when the wait is given up.
    ///
    /// # Errors
    /// When the session is over.
    pub async fn next(&mut self) -> Result<Frame, SessionError> {
        poll_fn(|cx| {
            loop {
                match Frame::from_bytes(ready!(self.wire.poll_hear(cx))?)? {
                    // Over TCP, where the stream itself cannot say it.
                    Some(Frame::Close(close)) => {
                        return Poll::Ready(Err(SessionError::Closed { code: u16::try_from(close.code).ok() }));
                    }
                    Some(frame) => return Poll::Ready(Ok(frame)),
                    None => {}
                }
            }
        })
        .await
    }

    /// Says one message and waits until it is stored. Everything else that comes is passed over: for who does nothing
    /// else.
    ///
    /// # Errors
    /// When it is not known to be stored. To be safe send it again under the same id.
    pub async fn send(&mut self, conv: &str, id: Bytes, body: Bytes) -> Result<SendAck, SessionError> {
        let send = frame::Send { conv: conv.into(), client_msg_id: id.clone(), kind: 0, body, sent_at: 0 };
        self.say(&Frame::Send(send));
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

    /// A heartbeat and its answer: the session is alive on both sides. Everything else that comes is passed over.
    ///
    /// # Errors
    /// When it is not.
    pub async fn ping(&mut self) -> Result<(), SessionError> {
        let t = fastrand::u64(..);
        self.say(&Frame::Ping(Ping { t }));
        self.answer(|frame| matches!(frame, Frame::Pong(pong) if pong.t == t).then_some(Ok(()))).await
    }

    /// The whole history of a conversation after `seq`, page by page. Everything else that comes is passed over: for
    /// who asks and does nothing else.
    ///
    /// # Errors
    /// When a page is refused or does not come.
    pub async fn history(&mut self, conv: &str, mut after_seq: u64) -> Result<Vec<Msg>, SessionError> {
        let mut history = Vec::new();
        loop {
            self.say(&Frame::Sync(Sync { conv: conv.into(), after_seq, limit: PAGE }));
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
            after_seq = further(after_seq, page.next_seq)?;
        }
    }

    /// Says goodbye and waits until the server has said so, too. What comes before is passed over: for who waits for
    /// no answer any more.
    ///
    /// # Errors
    /// When the session ends in another way, such as without a word.
    pub async fn leave(mut self) -> Result<(), SessionError> {
        self.say(&Frame::Bye(Bye {}));
        match self.answer(|_| None::<Result<(), SessionError>>).await {
            Err(error) if !error.is_farewell() => Err(error),
            Ok(()) | Err(_) => Ok(()),
        }
    }

    /// Has the connection end with a reset, without a word, when the session is dropped.
    pub fn break_off(&self) {
        self.wire.end_with_reset();
    }

    /// Waits for the frame that `wanted` picks. Everything else is passed over.
    async fn answer<T>(
        &mut self,
        mut wanted: impl FnMut(Frame) -> Option<Result<T, SessionError>>,
    ) -> Result<T, SessionError> {
        let waited = self.patience;
        let deadline = Instant::now() + waited;
        loop {
            let heard = timeout_at(deadline, self.next()).await;
            let frame = heard.map_err(|_elapsed| SessionError::Silent { waited })??;
            if let Some(outcome) = wanted(frame) {
                return outcome;
            }
        }
    }
}

/// Where the page after this one begins: further on, or the pages never end.
pub(super) fn further(after: u64, next: u64) -> Result<u64, SessionError> {
    if next > after {
        Ok(next)
    } else {
        Err(SessionError::Protocol { what: format!("the page after {after} leads to {next}") })
    }
}

/// A server's milliseconds of waiting.
pub(super) fn millis(count: u32) -> Duration {
    at_most_an_hour(Duration::from_millis(count.into()))
}

/// As much of a server's wish to wait as counts.
pub(super) fn at_most_an_hour(wait: Duration) -> Duration {
    wait.min(LONGEST_WAIT)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use backend::frame::Send;
    use bytes::Bytes;
    use tokio::{net::TcpListener, sync::watch};
    use tokio_rustls::{
        TlsAcceptor,
        rustls::{
            ServerConfig,
            crypto::ring,
            pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject},
        },
    };

    use super::*;
    use crate::{
        harness::TestCa,
        im::{
            Tls, Transport,
            stub::{Script, serve},
        },
    };

    async fn talk(door: &Door) {
        let mut session = Session::open(door, "token".into(), "phone", None).await.unwrap();
        assert_eq!(session.node(), "stub");
        let body = Bytes::from(vec![7; 60 * 1024]);
        let send = Send { conv: "room:a".into(), client_msg_id: vec![1; 16].into(), body, ..Send::default() };
        session.say(&Frame::Send(send));
        let Frame::SendAck(ack) = session.next().await.unwrap() else { panic!("no acknowledgement") };
        assert_eq!((ack.seq, &*ack.client_msg_id), (1, &[1; 16][..]));
        session.leave().await.unwrap();
    }

    #[test]
    fn no_server_is_waited_for_for_longer_than_an_hour() {
        assert_eq!((millis(1500), millis(u32::MAX)), (Duration::from_millis(1500), Duration::from_secs(3600)));
    }

    #[tokio::test]
    async fn an_end_without_a_word_is_no_farewell() {
        let script = Script::start().await;
        let door = script.door();
        let client = async {
            let session = Session::open(&door, "token".into(), "phone", None).await.unwrap();
            session.leave().await.unwrap_err()
        };
        let server = async { assert_eq!(script.login().await.hear().await, Some(Frame::Bye(Bye {}))) };
        let (error, ()) = tokio::join!(client, server);
        assert!(matches!(error, SessionError::Closed { code: None }), "{error}");
    }

    #[tokio::test]
    async fn frames_travel_over_tcp_with_their_length_before_them() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let door = Door { transport: Transport::Tcp, ..Door::new(listener.local_addr().unwrap()) };
        let server = async { serve(listener.accept().await.unwrap().0, watch::channel(false).1).await };
        tokio::join!(server, talk(&door));
    }

    #[tokio::test]
    async fn frames_travel_over_tls_from_a_server_with_the_right_name() {
        let ca = TestCa::new().unwrap();
        let issued = ca.issue(&["im.example.com"]).unwrap();
        let chain = CertificateDer::pem_slice_iter(issued.chain_pem.as_bytes()).map(Result::unwrap).collect();
        let key = PrivateKeyDer::from_pem_slice(issued.key_pem.as_bytes()).unwrap();
        let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()));
        let config = config.with_safe_default_protocol_versions().unwrap().with_no_client_auth();
        let acceptor = TlsAcceptor::from(Arc::new(config.with_single_cert(chain, key).unwrap()));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let name = |name: &'static str| {
            Some(Tls { config: ca.client(&[]).unwrap(), name: ServerName::try_from(name).unwrap() })
        };
        let door = Door {
            transport: Transport::Tcp,
            tls: name("im.example.com"),
            ..Door::new(listener.local_addr().unwrap())
        };
        let server = async {
            while let Ok(stream) = acceptor.accept(listener.accept().await.unwrap().0).await {
                serve(stream, watch::channel(false).1).await;
            }
        };
        let client = async {
            talk(&door).await;
            let stranger = Door { tls: name("im.example.org"), ..door.clone() };
            let error = Session::open(&stranger, "token".into(), "phone", None).await.unwrap_err();
            assert!(matches!(error, SessionError::Unreachable { .. }), "{error}");
        };
        tokio::join!(server, client);
    }
}
