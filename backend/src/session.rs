//! One login on one connection: from `LOGIN` to the close.
//!
//! A session is one task that waits for five things: what the client says, answers of the store, pushes, a request to
//! leave, and its alarm. It reads no further while [`WAITING`] sends and moves of cursors are unanswered, so a client
//! can only fill its own socket. Answers leave in the order of the requests.

use std::{collections::VecDeque, mem, pin::Pin, sync::Arc, time::Duration};

use futures_util::FutureExt as _;
use tokio::{
    sync::mpsc,
    time::{Instant, Sleep, sleep_until, timeout},
};

use crate::{
    allowance::{Allowance, Verdict},
    clock::now,
    connection::{Connection, End},
    conversation::Conversation,
    delivery::{Leave, Push, Seat},
    downstream::Origin,
    frame::{self, Ack, CLIENT_MSG_ID, Frame, KIND_SERVER, Kick, KickReason, MAX_BODY, Ping, Pong, Read, RefusalCode},
    server::{Place, Server},
    store::{Advance, Cursor, NewMessage},
    token::{Identity, LEEWAY},
};

use self::{
    login::log_in,
    record::Record,
    refusal::{refusal, refused, send_err},
    waiting::{Waiting, first_answer},
};

mod login;
mod pages;
mod presence;
mod record;
mod refusal;
mod waiting;

/// Sends, and moves of cursors, of one session that may be unanswered.
const WAITING: usize = 64;
/// Pushes that leave in one write.
const TOGETHER: usize = 64;
/// Heartbeats of silence after which a session is over: two may be lost.
const SILENT_HEARTBEATS: u32 = 3;
/// How long unanswered sends are waited for when the session ends politely.
const SETTLE: Duration = Duration::from_secs(5);

/// Serves a connection on which frames are spoken, from its first one, which has to be there by `login_by`, until it is
/// closed.
pub(crate) async fn run(
    server: Arc<Server>,
    mut connection: Connection,
    from: Origin,
    login_by: Instant,
    place: Place,
) {
    // Boxed, so that a session at rest does not carry the space of its first and last moments.
    match Box::pin(log_in(&server, &mut connection, login_by)).await {
        Ok((seat, identity, pushes)) => {
            let record = Record::begins(Arc::clone(&seat.link), connection.transport(), from);
            let end = Session::new(Arc::clone(&server), &mut connection, seat, &identity, pushes).run().await;
            record.ends(end);
            close(&server, connection, end).await;
        }
        Err(end) => refuse(&server, connection, from, end).await,
    }
    drop(place);
}

/// Says why there is no session, to the client and in the log.
pub(crate) async fn refuse(server: &Server, connection: Connection, from: Origin, end: End) {
    record::no_session(connection.transport(), from, end);
    close(server, connection, end).await;
}

async fn close(server: &Server, connection: Connection, end: End) {
    server.metrics.closed(end);
    Box::pin(connection.close(end)).await;
}

type Pushes = mpsc::Receiver<Arc<Push>>;

struct Session<'a> {
    server: Arc<Server>,
    connection: &'a mut Connection,
    seat: Seat,
    pushes: Pushes,
    waiting: VecDeque<Waiting>,
    allowance: Allowance,
    heard: Instant,
    expires: Instant,
    /// The next moment at which silence or the token's end has to be looked at. Set again only when it rings: a
    /// message moves `heard` and no timer.
    alarm: Pin<Box<Sleep>>,
}

enum Event {
    Heard(Result<Option<Frame>, End>),
    /// There may be nothing to say.
    Answered(Option<Frame>),
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
        let allowance = Allowance::new(server.config.limits.requests_per_second, heard);
        Self { server, connection, seat, pushes, waiting: VecDeque::new(), allowance, heard, expires, alarm }
    }

    async fn run(mut self) -> End {
        loop {
            let event = self.next().await;
            // Boxed, so that a session at rest does not carry the space of its busiest moment.
            let done = Box::pin(self.meet(event)).await;
            if let Err(end) = done {
                if end == End::Bye {
                    self.seat.forget();
                }
                return end;
            }
        }
    }

    async fn next(&mut self) -> Event {
        let load = &self.server.load;
        tokio::select! {
            heard = self.connection.hear(), if self.waiting.len() < WAITING => Event::Heard(heard),
            first = first_answer(&mut self.waiting, load) => Event::Answered(first),
            Some(push) = self.pushes.recv() => Event::Pushed(push),
            why = self.seat.link.asked() => Event::Asked(why),
            () = &mut self.alarm => Event::Alarm,
        }
    }

    async fn meet(&mut self, event: Event) -> Result<(), End> {
        match event {
            Event::Heard(heard) => self.heard(heard).await,
            Event::Answered(first) => self.answered(first).await,
            Event::Pushed(push) => self.pushed(push).await,
            Event::Asked(why) => Err(self.asked(why).await),
            Event::Alarm => self.alarmed(),
        }
    }

    async fn heard(&mut self, heard: Result<Option<Frame>, End>) -> Result<(), End> {
        let frame = match heard {
            // It may still listen, and what it has said is answered.
            Err(End::Finished) => return Err(self.settled(End::Finished).await),
            heard => heard?,
        };
        self.heard = Instant::now();
        match frame {
            None => Ok(()),
            Some(Frame::Ping(Ping { t })) => self.say(&Frame::Pong(Pong { t, server_time: now() })).await,
            Some(Frame::Bye(_)) => Err(self.settled(End::Bye).await),
            Some(Frame::Login(_)) => Err(End::AlreadyLoggedIn),
            Some(request) => {
                self.server.metrics.asked(&request);
                match self.allowance.ask(self.heard) {
                    Verdict::Fine => self.request(request).await,
                    Verdict::Later(wait) => self.too_fast(request, wait).await,
                    Verdict::Enough => Err(self.settled(End::TooFast).await),
                }
            }
        }
    }

    async fn say(&mut self, frame: &Frame) -> Result<(), End> {
        self.server.metrics.answered(frame);
        self.connection.say(frame).await
    }

    async fn request(&mut self, request: Frame) -> Result<(), End> {
        match request {
            Frame::Send(send) => {
                self.send(send);
                Ok(())
            }
            Frame::Ack(Ack { conv, seq }) => self.advance("ack", conv, Cursor::delivered(seq)).await,
            Frame::Read(Read { conv, seq }) => self.advance("read", conv, Cursor::read(seq)).await,
            Frame::Sync(sync) => self.sync(sync).await,
            Frame::History(history) => self.history(history).await,
            Frame::Unread(unread) => self.unread(unread).await,
            Frame::PresenceSub(wanted) => self.watch(wanted).await,
            Frame::PresenceSet(wanted) => self.show(wanted).await,
            _ => Err(End::NotAClientsFrame),
        }
    }

    async fn too_fast(&mut self, request: Frame, wait: Duration) -> Result<(), End> {
        let retry_after_ms = u32::try_from(wait.as_millis()).unwrap_or(u32::MAX).saturating_add(1);
        let answer = refusal(request, RefusalCode::TooFast, retry_after_ms).ok_or(End::NotAClientsFrame)?;
        if let Frame::SendErr(_) = answer {
            self.refuse_send(answer);
            return Ok(());
        }
        self.say(&answer).await
    }

    /// Answers in the order of the sends.
    fn refuse_send(&mut self, answer: Frame) {
        self.waiting.push_back(Waiting::Refused(Some(answer)));
    }

    fn send(&mut self, send: frame::Send) {
        match self.check_send(&send) {
            Ok(client_msg_id) => {
                let message = NewMessage {
                    conv: send.conv.clone(),
                    sender: self.seat.user().to_owned(),
                    device: self.seat.device().to_owned(),
                    client_msg_id,
                    kind: send.kind,
                    body: send.body,
                    sent_at: send.sent_at,
                };
                let answer = self.server.store.append(message);
                let (client_msg_id, conv) = (send.client_msg_id, send.conv);
                self.waiting.push_back(Waiting::Send { client_msg_id, conv, answer });
            }
            Err(code) => self.refuse_send(send_err(send.client_msg_id, send.conv, code, 0)),
        }
    }

    fn check_send(&self, send: &frame::Send) -> Result<[u8; CLIENT_MSG_ID], RefusalCode> {
        let id = <[u8; CLIENT_MSG_ID]>::try_from(&send.client_msg_id[..]).map_err(|_length| RefusalCode::IdInvalid)?;
        if send.body.len() > MAX_BODY {
            return Err(RefusalCode::BodyTooLong);
        }
        if send.kind >= KIND_SERVER {
            return Err(RefusalCode::KindInvalid);
        }
        // Whether somebody is in a group is seen by the store when it writes.
        self.come_in(&send.conv)?;
        Ok(id)
    }

    /// Moves the user's cursor. There is no answer unless it fails: the receipt goes to the others.
    async fn advance(&mut self, of: &'static str, conv: String, to: Cursor) -> Result<(), End> {
        if let Err(code) = Conversation::of(&conv, self.seat.user()) {
            return self.say(&refused(of, conv, code, 0)).await;
        }
        let (user, device) = (self.seat.user().to_owned(), self.seat.device().to_owned());
        let answer = self.server.store.advance(Advance { conv: conv.clone(), user, device, to });
        self.waiting.push_back(Waiting::Advance { of, conv, answer });
        Ok(())
    }

    /// Checks that the user may use a conversation as far as its name says it, and follows it if it is a room.
    fn come_in<'c>(&self, conv: &'c str) -> Result<Conversation<'c>, RefusalCode> {
        let conversation = Conversation::of(conv, self.seat.user())?;
        match conversation {
            Conversation::Room if !self.seat.follow(conv) => Err(RefusalCode::TooManyRooms),
            _ => Ok(conversation),
        }
    }

    /// Sends an answer, and with it those that are there as well.
    async fn answered(&mut self, first: Option<Frame>) -> Result<(), End> {
        let mut frames = Vec::from_iter(first);
        while let Some(next) = first_answer(&mut self.waiting, &self.server.load).now_or_never() {
            frames.extend(next);
        }
        if self.waiting.is_empty() {
            // Lets go of the room of its busiest moment.
            self.waiting = VecDeque::new();
        }
        if frames.is_empty() {
            return Ok(());
        }
        frames.iter().for_each(|frame| self.server.metrics.answered(frame));
        let wire = self.connection.wire();
        let frames: Vec<_> = frames.iter().map(|frame| wire.bytes(frame)).collect();
        self.connection.say_all(frames).await
    }

    /// Waits until nothing is unanswered, so that what is read from the store then has all that this client has written.
    async fn all_answered(&mut self) -> Result<(), End> {
        while !self.waiting.is_empty() {
            let first = first_answer(&mut self.waiting, &self.server.load).await;
            self.answered(first).await?;
        }
        Ok(())
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
                self.say(&kick).await.err().unwrap_or(End::Replaced)
            }
        }
    }

    /// How a session ends that is told its last answers first.
    async fn settled(&mut self, end: End) -> End {
        self.settle().await.err().unwrap_or(end)
    }

    /// Waits for the answers to what was sent, so that a client that is told to leave knows what was stored.
    async fn settle(&mut self) -> Result<(), End> {
        let unanswered = mem::take(&mut self.waiting);
        for mut waiting in unanswered {
            // Unanswered is always a safe answer: the client sends again under the same id.
            let Ok(answer) = timeout(SETTLE, waiting.answer(&self.server.load)).await else { return Ok(()) };
            if let Some(frame) = answer {
                self.say(&frame).await?;
            }
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
