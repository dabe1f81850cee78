//! A device that stays online: connects again when its connection breaks, and sends again what was not acknowledged.

use std::{collections::BTreeMap, time::Duration};

use anyhow::{Context, Result, bail};
use backend::frame::Msg;
use bytes::Bytes;
use tokio::time::{Instant, sleep};

use super::{Diary, Door, Journal, Secret, Session, SessionError};
use crate::harness::ws;

/// How long a token is good.
const TOKEN_LIFETIME: Duration = Duration::from_secs(3600);

/// How long a phone waits before it connects again: a random part of a time that doubles with each try in vain. Random,
/// because phones that were cut off together must not come back together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BackOff {
    /// The most before the first try.
    pub first: Duration,
    /// The most before any.
    pub longest: Duration,
}

impl BackOff {
    fn wait(self, tries: u32) -> Duration {
        let most = self.first.saturating_mul(2_u32.saturating_pow(tries)).min(self.longest);
        most.mul_f64(fastrand::f64())
    }
}

impl Default for BackOff {
    /// Real clients wait seconds; where nothing else is asked for time is short and clients are few.
    fn default() -> Self {
        let short = Duration::from_millis(200);
        Self { first: short, longest: short }
    }
}

/// A user's device.
#[derive(Debug)]
pub struct Phone {
    pub user: String,
    door: Door,
    secret: Secret,
    journal: Journal,
    diary: Diary,
    back_off: BackOff,
    session: Option<Session>,
    logins: u32,
    /// Tries in vain since the last login.
    tries: u32,
    /// Conversations to ask for after each login, with the newest place that is known of them.
    followed: BTreeMap<String, u64>,
    /// Why the last connection ended, for messages.
    last_trouble: Option<String>,
}

impl Phone {
    /// A phone that is not connected yet. What it is promised goes into `journal`.
    #[must_use]
    pub fn new(user: &str, door: Door, secret: &Secret, journal: &Journal) -> Self {
        Self {
            user: user.into(),
            door,
            secret: secret.clone(),
            journal: journal.clone(),
            diary: Diary::default(),
            back_off: BackOff::default(),
            session: None,
            logins: 0,
            tries: 0,
            followed: BTreeMap::new(),
            last_trouble: None,
        }
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

    /// Connects, logs in and asks for what it follows, once, and says why not if it fails.
    ///
    /// # Errors
    /// When there is no session.
    pub async fn connect(&mut self) -> Result<&mut Session, SessionError> {
        let token = self.secret.token(&self.user, TOKEN_LIFETIME);
        let mut session = Session::open(&self.door, token, "phone")
            .await
            .inspect_err(|error| self.diary.not_logged_in(&self.user, error))?;
        self.logins += 1;
        self.tries = 0;
        self.diary.logged_in(&self.user, session.node(), session.began());
        for (conv, known) in &mut self.followed {
            let missed =
                session.history(conv, *known).await.inspect_err(|error| self.diary.broke(&self.user, error))?;
            *known = missed.last().map_or(*known, |newest| newest.seq);
        }
        Ok(self.session.insert(session))
    }

    /// The door, such as to announce another address from the next login on.
    pub fn door(&mut self) -> &mut Door {
        &mut self.door
    }

    /// The server process of the present session; `None` while there is none.
    #[must_use]
    pub fn node(&self) -> Option<&str> {
        self.session.as_ref().map(Session::node)
    }

    /// How often it has logged in. 1 after all that happened means: never cut off.
    #[must_use]
    pub fn logins(&self) -> u32 {
        self.logins
    }

    /// A session, a new one if the last one broke, trying for as long as `within`.
    ///
    /// # Errors
    /// When there is none by then, or a refusal is for good.
    pub async fn online(&mut self, within: Duration) -> Result<&mut Session> {
        let deadline = Instant::now() + within;
        while self.session.is_none() {
            match self.connect().await {
                Ok(_) => break,
                Err(error) => self.bear(error, deadline).await?,
            }
        }
        self.session.as_mut().context("a session was just made")
    }

    /// Says something and comes back when it is stored, over as many connections as that takes.
    ///
    /// # Errors
    /// When it is not acknowledged within `within`, or refused for good.
    pub async fn say(&mut self, conv: &str, text: &str, within: Duration) -> Result<u64> {
        let deadline = Instant::now() + within;
        let id = Bytes::copy_from_slice(&fastrand::u128(..).to_be_bytes());
        let body = Bytes::copy_from_slice(text.as_bytes());
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.online(left).await?.send(conv, id.clone(), body.clone()).await {
                Ok(ack) => {
                    self.journal.acknowledged(&self.user, conv, &ack, body);
                    return Ok(ack.seq);
                }
                // The same session may store it the next time.
                Err(SessionError::Refused { retry_after, .. }) if !retry_after.is_zero() => {
                    sleep(retry_after.min(left)).await
                }
                Err(error) => {
                    self.lose_session(&error);
                    self.bear(error, deadline).await?;
                }
            }
        }
    }

    /// Waits for pushes for as long as `within` and takes them into the journal. A session that ends meanwhile is given
    /// up, and after a rest the next [`online`](Self::online) may make another one.
    pub async fn listen(&mut self, within: Duration) {
        let deadline = Instant::now() + within;
        while let Some(session) = &mut self.session {
            match session.next_push(deadline.saturating_duration_since(Instant::now())).await {
                Ok(Some(push)) => self.take(push),
                Ok(None) => return,
                Err(error) => {
                    self.lose_session(&error);
                    self.rest().await;
                }
            }
        }
    }

    /// Breaks its connection off with a reset, as a network that changes does.
    pub fn break_off(&mut self) {
        if let Some(session) = self.session.take() {
            self.diary.broke(&self.user, &SessionError::Closed { code: None });
            session.break_off();
        }
    }

    /// Whether the session that is there answers a heartbeat. It is not replaced if it does not.
    ///
    /// # Errors
    /// When there is no session, or it does not answer.
    pub async fn check_alive(&mut self) -> Result<()> {
        let session = self.session.as_mut().with_context(|| format!("{} is not online", self.user))?;
        session.ping().await.with_context(|| format!("{} lost its session", self.user))
    }

    /// Takes pushes into the journal until one has this place in the conversation, and says how many came.
    ///
    /// # Errors
    /// When it does not come in time, or the session ends.
    pub async fn hear_until(&mut self, conv: &str, seq: u64, within: Duration) -> Result<usize> {
        let deadline = Instant::now() + within;
        let mut count = 0;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let session = self.session.as_mut().with_context(|| format!("{} is not online", self.user))?;
            let Some(push) = session.next_push(left).await? else {
                bail!("{} was not pushed message {seq} of {conv} within {within:?} ({count} others came)", self.user);
            };
            let found = push.conv == conv && push.seq >= seq;
            self.take(push);
            count += 1;
            if found {
                return Ok(count);
            }
        }
    }

    /// Follows a conversation from now on, over all sessions: it is asked for after each login, and a room's messages
    /// are pushed only to those who asked for it.
    ///
    /// # Errors
    /// When the session that is there refuses.
    pub async fn follow(&mut self, conv: &str) -> Result<()> {
        let mut known = 0;
        if let Some(session) = &mut self.session {
            let history = session.history(conv, 0).await;
            let history = history.with_context(|| format!("{} cannot follow {conv}", self.user))?;
            known = history.last().map_or(0, |newest| newest.seq);
        }
        self.followed.insert(conv.into(), known);
        Ok(())
    }

    /// Asks for a whole conversation and writes what came into the journal, over as many connections as that takes.
    ///
    /// # Errors
    /// When it does not come within `within`, or is refused for good.
    pub async fn catch_up(&mut self, conv: &str, within: Duration) -> Result<()> {
        let deadline = Instant::now() + within;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.online(left).await?.history(conv, 0).await {
                Ok(messages) => {
                    self.journal.synced(&self.user, conv, messages);
                    return Ok(());
                }
                Err(error) => {
                    self.lose_session(&error);
                    self.bear(error, deadline).await?;
                }
            }
        }
    }

    /// What it asks for after each login.
    #[must_use]
    pub fn followed(&self) -> Vec<String> {
        self.followed.keys().cloned().collect()
    }

    /// Waits as it does before it connects again.
    pub async fn rest(&self) {
        sleep(self.back_off.wait(self.tries)).await;
    }

    /// Ends the session in order, if there is one.
    ///
    /// # Errors
    /// When it ends in another way.
    pub async fn leave(&mut self) -> Result<()> {
        match self.session.take() {
            Some(session) => {
                self.diary.left(&self.user);
                Ok(session.leave().await?)
            }
            None => Ok(()),
        }
    }

    fn lose_session(&mut self, error: &SessionError) {
        if self.session.take().is_some() {
            self.diary.broke(&self.user, error);
        }
    }

    fn take(&mut self, push: Msg) {
        if let Some(known) = self.followed.get_mut(&push.conv) {
            *known = push.seq.max(*known);
        }
        self.journal.pushed(&self.user, push);
    }

    /// Waits a little before another try, or gives up.
    async fn bear(&mut self, error: SessionError, deadline: Instant) -> Result<()> {
        let refused = matches!(&error, SessionError::NotUpgraded { cause, .. } if ws::refusal(cause).is_some_and(|status| status.is_client_error()));
        if !error.may_pass() || refused || Instant::now() >= deadline {
            let before = self.last_trouble.take().map_or_else(String::new, |trouble| format!(" (before: {trouble})"));
            return Err(error).with_context(|| format!("{} gives up{before}", self.user));
        }
        self.last_trouble = Some(error.to_string());
        self.rest().await;
        self.tries += 1;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        harness::{Wan, Workspace},
        im::checker,
    };
    use backend::{Backend, Config, Limits, Pace, token::Verifier};
    use std::net::SocketAddr;

    const SOON: Duration = Duration::from_secs(20);
    const ROOM: &str = "room:test";

    async fn server(workspace: &Workspace, secret: &Secret, node: &str) -> Backend {
        let config = Config {
            bind: vec![SocketAddr::from(([127, 0, 0, 1], 0))],
            data: workspace.path("messages"),
            node: node.into(),
            verifier: Verifier::default().with_secret(secret.reveal().as_bytes()).unwrap(),
            heartbeat: Duration::from_secs(50),
            login_timeout: SOON,
            stall_timeout: SOON,
            max_sessions: 100,
            limits: Limits::default(),
            stop_grace: Duration::ZERO,
            drain: Pace { deadline: Duration::ZERO, ..Pace::default() },
            stop_deadline: SOON,
            admin: false,
            faults: false,
            demo_login: None,
        };
        Backend::start(config).await.unwrap()
    }

    #[tokio::test]
    async fn people_talk_and_every_promise_is_kept() {
        let (workspace, secret, journal) = (Workspace::new().unwrap(), Secret::random(), Journal::default());
        let server = server(&workspace, &secret, "im-1").await;
        let door = Door::new(server.addresses()[0]);
        let mut alice = Phone::new("alice", door.clone(), &secret, &journal);
        let mut bob = Phone::new("bob", door, &secret, &journal);
        bob.online(SOON).await.unwrap();
        bob.follow(ROOM).await.unwrap();
        let mut last = 0;
        for count in 0..700 {
            last = alice.say(ROOM, &format!("message {count}"), SOON).await.unwrap();
        }
        assert_eq!(bob.hear_until(ROOM, last, SOON).await.unwrap(), 700);
        bob.check_alive().await.unwrap();
        assert_eq!(bob.node(), Some("im-1"));
        // More than one page.
        let history = bob.online(SOON).await.unwrap().history(ROOM, 0).await.unwrap();
        alice.catch_up(ROOM, SOON).await.unwrap();
        let verdict = checker::check(ROOM, &history, &journal).unwrap();
        assert_eq!((verdict.stored, verdict.acknowledged, verdict.pushed, verdict.synced), (700, 700, 700, 1));
        alice.leave().await.unwrap();
        bob.leave().await.unwrap();
        server.stop().await;
    }

    #[tokio::test]
    async fn a_phone_that_is_cut_off_connects_again_and_says_what_it_wanted_to() {
        let (workspace, secret, journal) = (Workspace::new().unwrap(), Secret::random(), Journal::default());
        let server = server(&workspace, &secret, "im-1").await;
        let anywhere = SocketAddr::from(([127, 0, 0, 1], 0));
        let way = Wan::start(anywhere, server.addresses()[0], Duration::ZERO).await.unwrap();
        let mut alice = Phone::new("alice", Door::new(way.address()), &secret, &journal);
        alice.say(ROOM, "before", SOON).await.unwrap();
        let address = way.address();
        way.stop().await;
        let _way = Wan::start(address, server.addresses()[0], Duration::ZERO).await.unwrap();
        alice.say(ROOM, "after", SOON).await.unwrap();
        assert_eq!(alice.logins(), 2);
        let history = alice.online(SOON).await.unwrap().history(ROOM, 0).await.unwrap();
        assert_eq!(checker::check(ROOM, &history, &journal).unwrap().stored, 2);
    }

    #[tokio::test]
    async fn a_phone_that_follows_gets_what_it_missed_and_tells_what_happened_to_it() {
        let (workspace, secret, journal) = (Workspace::new().unwrap(), Secret::random(), Journal::default());
        let server = server(&workspace, &secret, "im-1").await;
        let door = Door::new(server.addresses()[0]);
        let diary = Diary::default();
        let mut alice = Phone::new("alice", door.clone(), &secret, &journal);
        let mut bob = Phone::new("bob", door, &secret, &journal).telling(&diary);
        bob.follow(ROOM).await.unwrap();
        bob.online(SOON).await.unwrap();
        let first = alice.say(ROOM, "first", SOON).await.unwrap();
        bob.hear_until(ROOM, first, SOON).await.unwrap();
        bob.break_off();
        assert_eq!((diary.online(), diary.since("bob")), (0, None));
        alice.say(ROOM, "missed", SOON).await.unwrap();
        bob.online(SOON).await.unwrap();
        assert_eq!(bob.followed[ROOM], 2);
        let third = alice.say(ROOM, "third", SOON).await.unwrap();
        bob.hear_until(ROOM, third, SOON).await.unwrap();
        assert_eq!(diary.at("im-1"), ["bob"]);
        alice.leave().await.unwrap();
        let told = async {
            while bob.node().is_some() {
                bob.listen(SOON).await;
            }
        };
        tokio::join!(server.stop(), told);
        assert_eq!(diary.entries().len(), 4, "{:?}", diary.entries());
    }

    #[test]
    fn a_phone_waits_longer_with_each_try_in_vain_and_never_longer_than_the_longest() {
        let back_off = BackOff { first: Duration::from_millis(100), longest: Duration::from_secs(2) };
        for tries in 0..100 {
            let most = Duration::from_millis(100 << tries.min(5)).min(Duration::from_secs(2));
            assert!(back_off.wait(tries) <= most);
        }
        assert!((0..100).any(|_| back_off.wait(10) > Duration::from_secs(1)));
    }

    #[tokio::test]
    async fn a_refusal_for_good_is_not_tried_again() {
        let (workspace, secret, journal) = (Workspace::new().unwrap(), Secret::random(), Journal::default());
        let server = server(&workspace, &secret, "im-1").await;
        let mut mallory = Phone::new("mallory", Door::new(server.addresses()[0]), &Secret::random(), &journal);
        let error = format!("{:#}", mallory.online(SOON).await.unwrap_err());
        assert!(error.contains("login refused: TokenSignature"), "{error}");
        let mut alice = Phone::new("alice", Door::new(server.addresses()[0]), &secret, &journal);
        let error = format!("{:#}", alice.say("dm:bob:carol", "x", SOON).await.unwrap_err());
        assert!(error.contains("NotAMember"), "{error}");
    }
}
