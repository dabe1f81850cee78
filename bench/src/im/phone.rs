//! A client of the IM protocol, complete: what an app on a phone has in it, obeying all of docs/protocol.md.
//!
//! It stays online until it is told to [`leave`](Phone::leave): connects again with [back-off](super::BackOff) when its
//! connection breaks, earlier than a server has asked for never; continues its session where the server still knows it,
//! and catches up in any case; sends again, under the same id, what was not acknowledged; moves when a `RECONNECT`
//! asks it to; stays away after a `KICK`; says `PING` when it has said nothing else, and what was delivered.
//!
//! Everything happens while somebody waits for its next [`Event`]. Giving such a wait up loses nothing, so an app can
//! wait for other things at the same time.

mod talk;
#[cfg(test)]
mod tests;

use std::{collections::VecDeque, fmt, future::pending, pin::Pin, time::Duration};

use anyhow::{Context, Result, bail};
use backend::frame::{Msg, RefusalCode, SendAck};
use bytes::Bytes;
use tokio::time::{Instant, sleep_until, timeout, timeout_at};

use super::{
    BackOff, Diary, Door, Journal, Secret, Session, SessionError,
    back_off::Tries,
    outbox::{Outbox, OutboxFull},
    shelf::Shelf,
};
use talk::{Next, Talk};

/// How long a token is good.
const TOKEN_LIFETIME: Duration = Duration::from_secs(3600);

/// What happened to a phone.
#[derive(Debug)]
pub enum Event {
    /// It has a session, at this server. `took` is from the beginning of the connect.
    LoggedIn { node: String, resumed: bool, took: Duration },
    /// It has what it missed, and its rooms are followed.
    CaughtUp,
    /// A message of its own is stored.
    Acknowledged { id: Bytes, conv: String, seq: u64, duplicate: bool },
    /// A message of its own was refused for good, and is not tried again.
    Refused { id: Bytes, conv: String, code: RefusalCode },
    /// Somebody else's message came unasked.
    Pushed(Msg),
    /// A conversation cannot be had, and is not asked for again.
    Closed { conv: String, code: RefusalCode },
    /// It leaves its session because the server has asked it to, and connects again.
    Moved,
    /// It got no session, and tries again.
    NotLoggedIn(SessionError),
    /// Its session ended without its doing; it connects again.
    Broke(SessionError),
    /// It has no session and will not try again by itself.
    GaveUp { why: String },
}

/// What a phone tells the server about what it got.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Receipts {
    /// Nothing.
    None,
    /// That it was delivered (`ACK`), half a second after it came, together with what else came meanwhile.
    #[default]
    Delivered,
    /// That it was read (`READ`), likewise: somebody looks at everything.
    Read,
}

/// A user's device.
#[derive(Debug)]
pub struct Phone {
    pub user: String,
    device: String,
    door: Door,
    secret: Secret,
    journal: Journal,
    diary: Diary,
    back_off: BackOff,
    receipts: Receipts,
    line: Line,
    /// The session to continue.
    resume: Option<String>,
    logins: u32,
    tries: Tries,
    outbox: Outbox,
    shelf: Shelf,
    events: VecDeque<Event>,
    /// A whole conversation that somebody waits for.
    whole: Option<Whole>,
    /// Pushes since somebody asked.
    heard: usize,
    /// How it has left its session, while somebody waits for that.
    parting: Option<Result<(), SessionError>>,
    /// Why there is no session, for messages.
    last_trouble: Option<String>,
}

/// A phone's connection.
#[derive(Debug)]
enum Line {
    /// It is not to have one.
    Off,
    /// It connects then.
    Down {
        until: Instant,
    },
    Opening(Opening),
    Up(Box<Talk>),
    /// It has given up.
    Over,
}

/// A connect and login under way, where it does not matter who waits for it.
struct Opening {
    since: Instant,
    work: Pin<Box<dyn Future<Output = Result<Session, SessionError>> + Send>>,
}

impl fmt::Debug for Opening {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Opening").field("since", &self.since).finish_non_exhaustive()
    }
}

/// A conversation that is asked for from its beginning.
#[derive(Debug)]
struct Whole {
    conv: String,
    got: Vec<Msg>,
    outcome: Option<Result<(), SessionError>>,
}

/// How it is made.
impl Phone {
    /// A phone that is not connected. What it is promised goes into `journal`.
    #[must_use]
    pub fn new(user: &str, door: Door, secret: &Secret, journal: &Journal) -> Self {
        Self {
            user: user.into(),
            device: "phone".into(),
            door,
            secret: secret.clone(),
            journal: journal.clone(),
            diary: Diary::default(),
            back_off: BackOff::default(),
            receipts: Receipts::default(),
            line: Line::Off,
            resume: None,
            logins: 0,
            tries: Tries::default(),
            outbox: Outbox::default(),
            shelf: Shelf::default(),
            events: VecDeque::new(),
            whole: None,
            heard: 0,
            parting: None,
            last_trouble: None,
        }
    }

    /// The user's other device: each has a session of its own. The first one is called `phone`.
    #[must_use]
    pub fn on_device(self, device: &str) -> Self {
        Self { device: device.into(), ..self }
    }

    /// Writes what happens to it into this diary.
    #[must_use]
    pub fn telling(self, diary: &Diary) -> Self {
        Self { diary: diary.clone(), ..self }
    }

    /// Waits like this before it connects again.
    #[must_use]
    pub fn backing_off(self, back_off: BackOff) -> Self {
        Self { back_off, ..self }
    }

    /// Tells the server this about what it got.
    #[must_use]
    pub fn confirming(self, receipts: Receipts) -> Self {
        Self { receipts, ..self }
    }

    /// The door, such as to announce another address from the next login on.
    pub fn door(&mut self) -> &mut Door {
        &mut self.door
    }
}

/// What can be seen of it.
impl Phone {
    /// The server process of the present session; `None` while there is none.
    #[must_use]
    pub fn node(&self) -> Option<&str> {
        match &self.line {
            Line::Up(talk) => Some(talk.session.node()),
            _ => None,
        }
    }

    /// How often it has logged in. 1 after all that happened means: never cut off.
    #[must_use]
    pub fn logins(&self) -> u32 {
        self.logins
    }

    /// Whether it has a session and everything that it missed.
    #[must_use]
    pub fn is_caught_up(&self) -> bool {
        matches!(&self.line, Line::Up(talk) if talk.knows_what_is_unread()) && self.shelf.is_caught_up()
    }

    /// Messages of its own that are not acknowledged.
    #[must_use]
    pub fn unacknowledged(&self) -> usize {
        self.outbox.len()
    }

    /// The conversations that it has, and asks for after each login.
    #[must_use]
    pub fn followed(&self) -> Vec<String> {
        self.shelf.names().cloned().collect()
    }

    /// Everything of the conversation up to this place has come.
    #[must_use]
    pub fn known(&self, conv: &str) -> u64 {
        self.shelf.known(conv)
    }
}

/// For apps: things are said, and events tell what came of them.
impl Phone {
    /// Wants to be online from now on.
    pub fn go_online(&mut self) {
        if matches!(self.line, Line::Off) {
            self.line = Line::Down { until: Instant::now() };
        }
    }

    /// Says something: sends it now or when there is a session, again and again until it is acknowledged or refused for
    /// good, which an event tells about the id that is returned.
    ///
    /// # Errors
    /// When 10 000 messages wait already.
    pub fn submit(&mut self, conv: &str, body: Bytes) -> Result<Bytes, OutboxFull> {
        self.outbox.push(conv, body)
    }

    /// Has a conversation from now on, over all sessions: asks for it, and again after each login, and a room is pushed
    /// only to those who asked for it.
    pub fn join(&mut self, conv: &str) {
        self.shelf.follow(conv, Instant::now());
    }

    /// Breaks its connection off with a reset, as a network that changes does, and connects again.
    pub fn break_off(&mut self) {
        if let Line::Up(talk) = &self.line {
            talk.session.break_off();
            self.lost(SessionError::Closed { code: None });
        }
    }

    /// Breaks its connection off like this, and stays away until it is to [go online](Self::go_online). The session is
    /// continued then if the server still knows it.
    pub fn vanish(&mut self) {
        if let Line::Up(talk) = &self.line {
            talk.session.break_off();
            self.session_over();
            self.diary.left(&self.user);
        }
        if !matches!(self.line, Line::Over) {
            self.line = Line::Off;
        }
    }

    /// The next thing that happens. The phone works only while somebody waits here.
    pub async fn next(&mut self) -> Event {
        loop {
            if let Some(event) = self.events.pop_front() {
                return event;
            }
            self.step().await;
        }
    }

    /// Ends the session in order, if there is one, and stays away. What it has sent is answered before, as events tell;
    /// what it has not sent yet waits for the next session.
    ///
    /// # Errors
    /// When it ends in another way, such as because the server takes longer than the door's patience.
    pub async fn leave(&mut self) -> Result<()> {
        let Line::Up(talk) = &mut self.line else {
            self.line = Line::Off;
            return Ok(());
        };
        talk.leave(Instant::now());
        self.parting = None;
        while matches!(self.line, Line::Up(_)) {
            self.step().await;
        }
        let parting =
            self.parting.take().with_context(|| format!("{} lost its session{}", self.user, self.trouble()))?;
        Ok(parting?)
    }
}

/// For people who do one thing after the other.
impl Phone {
    /// Waits until it is online and has what it missed.
    ///
    /// # Errors
    /// When it is not within `within`, or gives up.
    pub async fn online(&mut self, within: Duration) -> Result<()> {
        let deadline = Instant::now() + within;
        self.go_online();
        while !self.is_caught_up() {
            if self.before(deadline).await?.is_none() {
                bail!("{} is not online after {within:?}{}", self.user, self.trouble());
            }
        }
        Ok(())
    }

    /// Says something and comes back when it is stored, over as many connections as that takes.
    ///
    /// # Errors
    /// When it is not acknowledged within `within` (it may be later), or refused for good.
    pub async fn say(&mut self, conv: &str, text: &str, within: Duration) -> Result<u64> {
        let deadline = Instant::now() + within;
        self.go_online();
        let said = self.submit(conv, Bytes::copy_from_slice(text.as_bytes()))?;
        loop {
            match self.before(deadline).await? {
                Some(Event::Acknowledged { id, seq, .. }) if id == said => return Ok(seq),
                Some(Event::Refused { id, code, .. }) if id == said => {
                    bail!("what {} said in {conv} was refused: {code:?}", self.user)
                }
                Some(_) => {}
                None => {
                    bail!("what {} said in {conv} was not acknowledged within {within:?}{}", self.user, self.trouble())
                }
            }
        }
    }

    /// Hears what comes for as long as `within`.
    pub async fn listen(&mut self, within: Duration) {
        let listening = async {
            loop {
                self.next().await;
            }
        };
        // Listening has no other end.
        timeout(within, listening).await.unwrap_or(());
    }

    /// Whether the session that is there answers a heartbeat. It is not replaced if it does not.
    ///
    /// # Errors
    /// When there is no session, or it does not answer.
    pub async fn check_alive(&mut self) -> Result<()> {
        let logins = self.logins;
        let deadline = Instant::now() + self.door.patience;
        let Line::Up(talk) = &mut self.line else { bail!("{} is not online", self.user) };
        let answered = talk.ping();
        loop {
            let Line::Up(talk) = &self.line else { bail!("{} lost its session{}", self.user, self.trouble()) };
            if self.logins != logins || Instant::now() >= deadline {
                bail!("{} lost its session{}", self.user, self.trouble());
            }
            if talk.pongs() >= answered {
                return Ok(());
            }
            _ = timeout_at(deadline, self.step()).await;
        }
    }

    /// Waits until a message at this place of the conversation, or behind it, was pushed, and says how many were pushed
    /// since this was asked last, of all conversations.
    ///
    /// # Errors
    /// When it does not come in time, or the phone gives up.
    pub async fn hear_until(&mut self, conv: &str, seq: u64, within: Duration) -> Result<usize> {
        let deadline = Instant::now() + within;
        while self.shelf.pushed(conv) < seq {
            if self.before(deadline).await?.is_none() {
                let heard = self.heard;
                bail!("{} was not pushed message {seq} of {conv} within {within:?} ({heard} came)", self.user);
            }
        }
        Ok(std::mem::take(&mut self.heard))
    }

    /// [Joins](Self::join) a conversation, and waits until it has it if there is a session.
    ///
    /// # Errors
    /// When it is refused, or not there within the door's patience.
    pub async fn follow(&mut self, conv: &str) -> Result<()> {
        self.join(conv);
        if self.node().is_none() {
            return Ok(());
        }
        let deadline = Instant::now() + self.door.patience;
        while !self.is_caught_up() {
            match self.before(deadline).await? {
                Some(Event::Closed { conv: closed, code }) if closed == conv => {
                    bail!("{} cannot follow {conv}: {code:?}", self.user)
                }
                Some(_) => {}
                None => bail!("{} cannot follow {conv}{}", self.user, self.trouble()),
            }
        }
        Ok(())
    }

    /// Asks for a whole conversation, over as many connections as that takes.
    ///
    /// # Errors
    /// When it does not come within `within`, or is refused for good.
    pub async fn history(&mut self, conv: &str, within: Duration) -> Result<Vec<Msg>> {
        let deadline = Instant::now() + within;
        self.go_online();
        self.whole = Some(Whole { conv: conv.into(), got: Vec::new(), outcome: None });
        let outcome = loop {
            if let Some(outcome) = self.whole.as_mut().and_then(|whole| whole.outcome.take()) {
                match outcome {
                    Err(error) if !error.retry_after().is_zero() => self.listen(error.retry_after()).await,
                    outcome => break outcome,
                }
            }
            // Whoever asks for a whole conversation does not wait for anything else.
            if matches!(self.line, Line::Over) || timeout_at(deadline, self.step()).await.is_err() {
                self.whole = None;
                bail!("{} did not get {conv} within {within:?}{}", self.user, self.trouble());
            }
        };
        let whole = self.whole.take().context("it was just there")?;
        outcome.with_context(|| format!("{} does not get {conv}", self.user))?;
        Ok(whole.got)
    }

    /// Asks for a whole conversation and writes what came into the journal.
    ///
    /// # Errors
    /// As [`history`](Self::history).
    pub async fn catch_up(&mut self, conv: &str, within: Duration) -> Result<()> {
        let messages = self.history(conv, within).await?;
        self.journal.synced(&self.user, conv, &messages);
        Ok(())
    }

    /// The next event before the deadline.
    async fn before(&mut self, deadline: Instant) -> Result<Option<Event>> {
        if matches!(self.line, Line::Over) && self.events.is_empty() {
            bail!("{} gave up{}", self.user, self.trouble());
        }
        match timeout_at(deadline, self.next()).await {
            Ok(Event::GaveUp { why }) => bail!("{} gives up: {why}", self.user),
            Ok(event) => Ok(Some(event)),
            Err(_elapsed) => Ok(None),
        }
    }

    fn trouble(&self) -> String {
        self.last_trouble.as_ref().map_or_else(String::new, |trouble| format!(" (last trouble: {trouble})"))
    }
}

/// How it works.
impl Phone {
    /// Does one thing, or waits for one to do.
    async fn step(&mut self) {
        match &mut self.line {
            Line::Off | Line::Over => pending().await,
            Line::Down { until } => {
                sleep_until(*until).await;
                self.line = Line::Opening(self.open(self.door.clone()));
            }
            Line::Opening(opening) => {
                let outcome = opening.work.as_mut().await;
                let took = opening.since.elapsed();
                self.opened(outcome, took);
            }
            Line::Up(talk) => {
                let want = self.whole.as_ref().filter(|whole| whole.outcome.is_none());
                let want = want.map(|whole| (&*whole.conv, whole.got.last().map_or(0, |last| last.seq)));
                match talk.next(&mut self.outbox, &mut self.shelf, self.receipts, want).await {
                    Ok(next) => self.take(next),
                    Err(error) => self.lost(error),
                }
            }
        }
    }

    fn open(&self, door: Door) -> Opening {
        let (device, resume) = (self.device.clone(), self.resume.clone());
        let token = self.secret.token(&self.user, TOKEN_LIFETIME);
        let work = Box::pin(async move { Session::open(&door, token, &device, resume).await });
        Opening { since: Instant::now(), work }
    }

    fn opened(&mut self, outcome: Result<Session, SessionError>, took: Duration) {
        let session = match outcome {
            Ok(session) => session,
            Err(error) => {
                self.diary.not_logged_in(&self.user, &error);
                return self.try_again(error, Event::NotLoggedIn);
            }
        };
        let now = Instant::now();
        self.logins += 1;
        self.resume = Some(session.id().into());
        self.diary.logged_in(&self.user, session.node(), session.began());
        self.shelf.session_began(now);
        self.events.push_back(Event::LoggedIn { node: session.node().into(), resumed: session.resumed(), took });
        self.line = Line::Up(Box::new(Talk::new(session, self.door.patience, now)));
    }

    fn take(&mut self, next: Next) {
        match next {
            Next::Nothing => {}
            Next::CaughtUp => self.events.push_back(Event::CaughtUp),
            Next::Push(message) => {
                self.heard += 1;
                self.journal.pushed(&self.user, &message);
                self.events.push_back(Event::Pushed(message));
            }
            Next::Acknowledged(ack) => self.acknowledged(ack),
            Next::Refused { id, code } => {
                if let Some(draft) = self.outbox.take(&id) {
                    self.events.push_back(Event::Refused { id, conv: draft.conv, code });
                }
            }
            Next::Closed { conv, code } => self.events.push_back(Event::Closed { conv, code }),
            Next::Whole(outcome) => {
                if let Some(whole) = &mut self.whole {
                    match outcome {
                        Ok((messages, more)) => {
                            whole.got.extend(messages);
                            whole.outcome = (!more).then_some(Ok(()));
                        }
                        Err(error) => whole.outcome = Some(Err(error)),
                    }
                }
            }
            Next::Moves { resume, prefer } => self.moves(resume, prefer),
            Next::Left(parting) => self.left(parting),
        }
    }

    fn acknowledged(&mut self, ack: SendAck) {
        let Some(draft) = self.outbox.take(&ack.client_msg_id) else { return };
        if draft.conv != ack.conv {
            let what = format!("what was said in {} is acknowledged in {}", draft.conv, ack.conv);
            return self.lost(SessionError::Protocol { what });
        }
        self.shelf.acknowledged(&ack.conv, ack.seq, Instant::now());
        self.journal.acknowledged(&self.user, &ack.conv, &ack, &draft.body);
        let SendAck { client_msg_id: id, conv, seq, duplicate, .. } = ack;
        self.events.push_back(Event::Acknowledged { id, conv, seq, duplicate });
    }

    /// The server has asked for it: no back-off, its delay was the server's to choose.
    fn moves(&mut self, resume: bool, prefer: Option<std::net::SocketAddr>) {
        self.diary.left(&self.user);
        self.session_over();
        if !resume {
            self.resume = None;
        }
        let door = Door { address: prefer.unwrap_or(self.door.address), ..self.door.clone() };
        self.line = Line::Opening(self.open(door));
        self.events.push_back(Event::Moved);
    }

    /// It wanted to, and the session is not to be continued.
    fn left(&mut self, parting: Result<(), SessionError>) {
        self.diary.left(&self.user);
        self.session_over();
        self.resume = None;
        self.line = Line::Off;
        self.parting = Some(parting);
    }

    /// However it has ended.
    fn session_over(&mut self) {
        if let Line::Up(talk) = &self.line {
            self.tries.session_lasted(talk.since().elapsed(), self.back_off);
        }
        self.outbox.session_ended();
    }

    fn lost(&mut self, error: SessionError) {
        self.session_over();
        self.diary.broke(&self.user, &error);
        self.try_again(error, Event::Broke);
    }

    /// Comes back later, or never if the server wants it so.
    fn try_again(&mut self, error: SessionError, event: impl FnOnce(SessionError) -> Event) {
        let why = error.to_string();
        self.last_trouble = Some(why.clone());
        if error.may_pass() {
            let wait = error.retry_after() + self.tries.next_wait(self.back_off);
            self.line = Line::Down { until: Instant::now() + wait };
            self.events.push_back(event(error));
        } else {
            self.line = Line::Over;
            self.events.push_back(Event::GaveUp { why });
        }
    }
}
