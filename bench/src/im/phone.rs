//! A device that stays online: connects again when its connection breaks, and sends again what was not acknowledged.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use tokio::time::{Instant, sleep};

use super::{Door, Journal, Secret, Session, SessionError};
use crate::harness::ws;

/// Longest random wait before connecting again. Real clients wait seconds; here time is short and clients are few.
const BACK_OFF: Duration = Duration::from_millis(200);
/// How long a token is good.
const TOKEN_LIFETIME: Duration = Duration::from_secs(3600);

/// A user's device.
#[derive(Debug)]
pub struct Phone {
    pub user: String,
    door: Door,
    secret: Secret,
    journal: Journal,
    session: Option<Session>,
    logins: u32,
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
            session: None,
            logins: 0,
            last_trouble: None,
        }
    }

    /// Connects and logs in once, and says why not if it fails.
    ///
    /// # Errors
    /// When there is no session.
    pub async fn connect(&mut self) -> Result<&mut Session, SessionError> {
        let token = self.secret.token(&self.user, TOKEN_LIFETIME);
        let session = Session::open(&self.door, token, "phone").await?;
        self.logins += 1;
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
                    self.journal.acknowledged(&self.user, &ack, body);
                    return Ok(ack.seq);
                }
                // The same session may store it the next time.
                Err(SessionError::Refused { retry_after, .. }) if !retry_after.is_zero() => {
                    sleep(retry_after.min(left)).await
                }
                Err(error) => {
                    self.session = None;
                    self.bear(error, deadline).await?;
                }
            }
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
        let session = self.session.as_mut().with_context(|| format!("{} is not online", self.user))?;
        let mut count = 0;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let Some(push) = session.next_push(left).await? else {
                bail!("{} was not pushed message {seq} of {conv} within {within:?} ({count} others came)", self.user);
            };
            let found = push.conv == conv && push.seq >= seq;
            self.journal.received(push);
            count += 1;
            if found {
                return Ok(count);
            }
        }
    }

    /// Follows a room from now on: a room's messages are pushed only to those who asked for it.
    ///
    /// # Errors
    /// When there is no session or it refuses.
    pub async fn follow(&mut self, conv: &str) -> Result<()> {
        let session = self.session.as_mut().with_context(|| format!("{} is not online", self.user))?;
        session.history(conv, 0).await.with_context(|| format!("{} cannot follow {conv}", self.user))?;
        Ok(())
    }

    /// Ends the session in order, if there is one.
    ///
    /// # Errors
    /// When it ends in another way.
    pub async fn leave(&mut self) -> Result<()> {
        match self.session.take() {
            Some(session) => Ok(session.leave().await?),
            None => Ok(()),
        }
    }

    /// Waits a little before another try, or gives up.
    async fn bear(&mut self, error: SessionError, deadline: Instant) -> Result<()> {
        let refused = matches!(&error, SessionError::NotUpgraded { cause, .. } if ws::refusal(cause).is_some_and(|status| status.is_client_error()));
        if !error.may_pass() || refused || Instant::now() >= deadline {
            let before = self.last_trouble.take().map_or_else(String::new, |trouble| format!(" (before: {trouble})"));
            return Err(error).with_context(|| format!("{} gives up{before}", self.user));
        }
        self.last_trouble = Some(error.to_string());
        sleep(BACK_OFF.mul_f64(fastrand::f64())).await;
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
        let verdict = checker::check(ROOM, &history, &journal).unwrap();
        assert_eq!((verdict.stored, verdict.acknowledged, verdict.pushed), (700, 700, 700));
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
