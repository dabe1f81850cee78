//! One login on one connection: from `LOGIN` to the close.
//!
//! A session is one task that waits for five things: what the client says, answers of the store, pushes, a request to
//! leave, and its alarm. It reads no further while [`WAITING`] sends are unanswered, so a client can only fill its own
//! socket. Answers leave in the order of the sends.

use std::{collections::VecDeque, error::Error as _, future::pending, mem, pin::Pin, sync::Arc, time::Duration};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use bytes::Bytes;
use futures_util::FutureExt as _;
use ring::rand::{SecureRandom as _, SystemRandom};
use tokio::{
    sync::mpsc,
    time::{Instant, Sleep, sleep_until, timeout},
};

use crate::{
    clock::now,
    connection::{Connection, End},
    conversation::{Conversation, is_id},
    delivery::{Leave, Push, Seat},
    frame::{
        self, CLIENT_MSG_ID, Frame, Kick, KickReason, Login, LoginCode, LoginErr, LoginOk, MAX_BODY, MAX_FRAME, Ping,
        Pong, RefusalCode, SendAck, SendErr, SyncErr, SyncPage,
    },
    load::Load,
    server::{Place, Server},
    store::{Appending, NewMessage, StoreError, Stored},
    token::{Identity, LEEWAY},
    upgrade::Downstream,
    wire::Wire,
};

/// Sends of one session that may be unanswered.
const WAITING: usize = 64;
/// Pushes that leave in one write.
const TOGETHER: usize = 64;
/// Heartbeats of silence after which a session is over: two may be lost.
const SILENT_HEARTBEATS: u32 = 3;
/// How long unanswered sends are waited for when the session ends politely.
const SETTLE: Duration = Duration::from_secs(5);
/// Messages in a page when the client does not say, and at most.
const PAGE: u32 = 100;
const PAGE_MAX: u32 = 500;
/// What a page needs besides its messages, in bytes.
const PAGE_HEAD: usize = 256;
/// When a refused request may be repeated, in milliseconds.
const RETRY_BUSY: u32 = 200;
const RETRY_FAILED: u32 = 1000;
/// When another server may be tried, in milliseconds.
const RETRY_ELSEWHERE: u32 = 500;

/// Serves a connection after its `101` until it is closed.
pub(crate) async fn run(server: Arc<Server>, stream: Downstream, wire: Wire, place: Place) {
    let mut connection = Connection::new(stream, wire, server.config.stall_timeout);
    // Boxed, so that a session at rest does not carry the space of its first and last moments.
    let end = match Box::pin(log_in(&server, &mut connection)).await {
        Ok((seat, identity, pushes)) => Session::new(server, &mut connection, seat, &identity, pushes).run().await,
        Err(end) => end,
    };
    tracing::debug!(?end, "connection ends");
    Box::pin(connection.close(end)).await;
    drop(place);
}

type Pushes = mpsc::Receiver<Arc<Push>>;

async fn log_in(server: &Arc<Server>, connection: &mut Connection) -> Result<(Seat, Identity, Pushes), End> {
    let first = timeout(server.config.login_timeout, first_frame(connection));
    let login = tokio::select! {
        first = first => first.map_err(|_elapsed| End::LoginTimeout)??,
        () = server.leaving.cancelled() => return Err(End::Restart),
    };
    let identity = match check(server, &login) {
        Ok(identity) => identity,
        Err(code) => {
            let retry_after_ms = if code == LoginCode::TryLater { RETRY_ELSEWHERE } else { 0 };
            connection.say(&Frame::LoginErr(LoginErr { code: code.into(), retry_after_ms })).await?;
            return Err(End::LoginRefused);
        }
    };
    let session_id = session_id()?;
    // Online before the answer: what is stored after it is pushed, and what was stored before it the client asks for.
    let (seat, pushes) = Seat::take(server, identity.user.clone(), login.device_id);
    let heartbeat_s = u32::try_from(server.config.heartbeat.as_secs()).unwrap_or(u32::MAX).max(1);
    let node = server.config.node.clone();
    let ok = LoginOk { session_id, server_time: now(), heartbeat_s, resumed: false, node, caps: Vec::new() };
    connection.say(&Frame::LoginOk(ok)).await?;
    tracing::debug!(user = %seat.user, device = %seat.device(), "logged in");
    Ok((seat, identity, pushes))
}

async fn first_frame(connection: &mut Connection) -> Result<Login, End> {
    loop {
        match connection.hear().await? {
            None => {}
            Some(Frame::Login(login)) => return Ok(login),
            Some(Frame::Bye(_)) => return Err(End::Bye),
            Some(_) => return Err(End::LoginFirst),
        }
    }
}

fn check(server: &Server, login: &Login) -> Result<Identity, LoginCode> {
    if server.draining() {
        return Err(LoginCode::TryLater);
    }
    let now = Duration::from_millis(now()).as_secs_f64();
    let identity = server.config.verifier.verify(&login.token, now)?;
    if !is_id(&login.device_id) {
        return Err(LoginCode::DeviceInvalid);
    }
    Ok(identity)
}

fn session_id() -> Result<String, End> {
    let mut id = [0; 15];
    SystemRandom::new().fill(&mut id).map_err(|_no_entropy| End::Internal)?;
    Ok(URL_SAFE_NO_PAD.encode(id))
}

struct Session<'a> {
    server: Arc<Server>,
    connection: &'a mut Connection,
    seat: Seat,
    pushes: Pushes,
    waiting: VecDeque<Waiting>,
    heard: Instant,
    expires: Instant,
    /// The next moment at which silence or the token's end has to be looked at. Set again only when it rings: a
    /// message moves `heard` and no timer.
    alarm: Pin<Box<Sleep>>,
}

/// A send that the store has not answered.
struct Waiting {
    client_msg_id: Bytes,
    conv: String,
    answer: Appending,
}

enum Event {
    Heard(Result<Option<Frame>, End>),
    Answered(Frame),
    Pushed(Arc<Push>),
    Asked(Leave),
    Alarm,
}

impl<'a> Session<'a> {
    fn new(
        server: Arc<Server>,
        connection: &'a mut Connection,
        seat: Seat,
        identity: &Identity,
        pushes: Pushes,
    ) -> Self {
        let heard = Instant::now();
        let expires = heard + until(identity.expires);
        let alarm = Box::pin(sleep_until(expires.min(heard + silence(&server))));
        Self { server, connection, seat, pushes, waiting: VecDeque::new(), heard, expires, alarm }
    }

    async fn run(mut self) -> End {
        loop {
            let done = match self.next().await {
                Event::Heard(heard) => self.heard(heard).await,
                Event::Answered(frame) => self.answered(frame).await,
                Event::Pushed(push) => self.pushed(push).await,
                Event::Asked(why) => Err(self.asked(why).await),
                Event::Alarm => self.alarmed(),
            };
            if let Err(end) = done {
                return end;
            }
        }
    }

    async fn next(&mut self) -> Event {
        let load = &self.server.load;
        tokio::select! {
            heard = self.connection.hear(), if self.waiting.len() < WAITING => Event::Heard(heard),
            frame = first_answer(&mut self.waiting, load) => Event::Answered(frame),
            Some(push) = self.pushes.recv() => Event::Pushed(push),
            why = self.seat.link.asked() => Event::Asked(why),
            () = &mut self.alarm => Event::Alarm,
        }
    }

    async fn heard(&mut self, heard: Result<Option<Frame>, End>) -> Result<(), End> {
        let frame = heard?;
        self.heard = Instant::now();
        match frame {
            None => Ok(()),
            Some(Frame::Ping(Ping { t })) => self.connection.say(&Frame::Pong(Pong { t, server_time: now() })).await,
            Some(Frame::Send(send)) => self.send(send).await,
            Some(Frame::Sync(sync)) => self.sync(sync).await,
            Some(Frame::Bye(_)) => Err(self.settle().await.err().unwrap_or(End::Bye)),
            Some(Frame::Login(_)) => Err(End::AlreadyLoggedIn),
            Some(_) => Err(End::NotAClientsFrame),
        }
    }

    async fn send(&mut self, send: frame::Send) -> Result<(), End> {
        match self.check_send(&send) {
            Ok(client_msg_id) => {
                let message = NewMessage {
                    conv: send.conv.clone(),
                    sender: self.seat.user.clone(),
                    device: self.seat.device().to_owned(),
                    client_msg_id,
                    kind: send.kind,
                    body: send.body,
                    sent_at: send.sent_at,
                };
                let answer = self.server.store.append(message);
                self.waiting.push_back(Waiting { client_msg_id: send.client_msg_id, conv: send.conv, answer });
                Ok(())
            }
            Err(code) => self.connection.say(&send_err(send.client_msg_id, send.conv, code, 0)).await,
        }
    }

    fn check_send(&mut self, send: &frame::Send) -> Result<[u8; CLIENT_MSG_ID], RefusalCode> {
        let id = <[u8; CLIENT_MSG_ID]>::try_from(&send.client_msg_id[..]).map_err(|_length| RefusalCode::IdInvalid)?;
        if send.body.len() > MAX_BODY {
            return Err(RefusalCode::BodyTooLong);
        }
        self.enter(&send.conv)?;
        Ok(id)
    }

    /// Checks that the user may use a conversation, and follows it if it is a room.
    fn enter(&mut self, conv: &str) -> Result<(), RefusalCode> {
        match Conversation::of(conv, &self.seat.user)? {
            Conversation::Room if !self.seat.follow(conv) => Err(RefusalCode::TooManyRooms),
            Conversation::Room | Conversation::Direct(..) => Ok(()),
        }
    }

    async fn sync(&mut self, sync: frame::Sync) -> Result<(), End> {
        let refuse = |conv, code: RefusalCode, retry_after_ms| {
            Frame::SyncErr(SyncErr { conv, code: code.into(), retry_after_ms })
        };
        // A room is followed before it is read, so that no message falls between the page and the first push.
        if let Err(code) = self.enter(&sync.conv) {
            return self.connection.say(&refuse(sync.conv, code, 0)).await;
        }
        let limit = if sync.limit == 0 { PAGE } else { sync.limit.min(PAGE_MAX) };
        let page = self.server.store.page(&sync.conv, sync.after_seq, limit, MAX_FRAME - PAGE_HEAD).await;
        let frame = match page {
            Ok(page) => {
                let next_seq = page.msgs.last().map_or(sync.after_seq, |msg| msg.seq);
                let more = next_seq < page.last_seq;
                let (msgs, last_seq) = (page.msgs, page.last_seq);
                Frame::SyncPage(SyncPage { conv: sync.conv, msgs, next_seq, last_seq, more })
            }
            Err(error) => {
                tracing::error!(error = &error as &dyn std::error::Error, "a page cannot be read");
                refuse(sync.conv, RefusalCode::Busy, RETRY_FAILED)
            }
        };
        self.connection.say(&frame).await
    }

    /// Sends an answer, and with it those that are there as well.
    async fn answered(&mut self, first: Frame) -> Result<(), End> {
        let wire = self.connection.wire();
        let mut frames = vec![wire.bytes(&first)];
        while let Some(next) = first_answer(&mut self.waiting, &self.server.load).now_or_never() {
            frames.push(wire.bytes(&next));
        }
        self.connection.say_all(frames).await
    }

    /// Sends a push, and with it those that wait as well.
    async fn pushed(&mut self, first: Arc<Push>) -> Result<(), End> {
        let wire = self.connection.wire();
        let mut frames = vec![first.bytes(wire)];
        while frames.len() < TOGETHER
            && let Ok(next) = self.pushes.try_recv()
        {
            frames.push(next.bytes(wire));
        }
        self.connection.say_all(frames).await
    }

    async fn asked(&mut self, why: Leave) -> End {
        if let Err(end) = self.settle().await {
            return end;
        }
        match why {
            Leave::Restart => End::Restart,
            Leave::Replaced => {
                let kick = Frame::Kick(Kick { reason: KickReason::SameDevice.into() });
                self.connection.say(&kick).await.err().unwrap_or(End::Replaced)
            }
        }
    }

    /// Waits for the answers to what was sent, so that a client that is told to leave knows what was stored.
    async fn settle(&mut self) -> Result<(), End> {
        let unanswered = mem::take(&mut self.waiting);
        for waiting in unanswered {
            // Unanswered is always a safe answer: the client sends again under the same id.
            let Ok(answer) = timeout(SETTLE, waiting.answer).await else { return Ok(()) };
            let frame = answer_frame(waiting.client_msg_id, waiting.conv, answer, &self.server.load);
            self.connection.say(&frame).await?;
        }
        Ok(())
    }

    fn alarmed(&mut self) -> Result<(), End> {
        let now = Instant::now();
        let silent = self.heard + silence(&self.server);
        if now >= self.expires {
            return Err(End::TokenExpired);
        }
        if now >= silent {
            return Err(End::Silent);
        }
        self.alarm.as_mut().reset(silent.min(self.expires));
        Ok(())
    }
}

fn silence(server: &Server) -> Duration {
    server.config.heartbeat * SILENT_HEARTBEATS
}

/// How long a token is good from now on. At most a year, so that a date far away cannot overflow the clock.
fn until(expires: f64) -> Duration {
    const YEAR: Duration = Duration::from_secs(365 * 24 * 3600);
    let seconds = expires + LEEWAY.as_secs_f64() - Duration::from_millis(now()).as_secs_f64();
    Duration::try_from_secs_f64(seconds.max(0.0)).unwrap_or(YEAR).min(YEAR)
}

/// Waits for the oldest unanswered send; for ever when there is none. May be dropped and called again.
async fn first_answer(waiting: &mut VecDeque<Waiting>, load: &Load) -> Frame {
    let Some(first) = waiting.front_mut() else { return pending().await };
    let answer = (&mut first.answer).await;
    let Some(first) = waiting.pop_front() else { return pending().await };
    answer_frame(first.client_msg_id, first.conv, answer, load)
}

fn answer_frame(client_msg_id: Bytes, conv: String, answer: Result<Stored, StoreError>, load: &Load) -> Frame {
    match answer {
        Ok(Stored { seq, time, duplicate }) => {
            load.stored();
            Frame::SendAck(SendAck { client_msg_id, conv, seq, server_time: time, duplicate })
        }
        Err(error) => {
            load.failed();
            tracing::warn!(%error, cause = error.source(), "a message was not acknowledged");
            match error {
                StoreError::Busy => send_err(client_msg_id, conv, RefusalCode::Busy, RETRY_BUSY),
                StoreError::Failed(_) | StoreError::Closed | StoreError::Injected => {
                    send_err(client_msg_id, conv, RefusalCode::NotStored, RETRY_FAILED)
                }
            }
        }
    }
}

fn send_err(client_msg_id: Bytes, conv: String, code: RefusalCode, retry_after_ms: u32) -> Frame {
    Frame::SendErr(SendErr { client_msg_id, conv, code: code.into(), retry_after_ms })
}
