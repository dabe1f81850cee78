//! The people of a drill: all of them online and talking, in pairs and in rooms, through the edge.

mod resident;

use std::{
    collections::BTreeSet,
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use futures_util::{StreamExt, TryStreamExt, stream};
use tokio::{
    sync::watch,
    task::JoinSet,
    time::{sleep, timeout},
};

use super::stage::Cast;
use crate::{
    harness::{eventually, locked},
    im::{Diary, Door, Journal, Phone, Secret, Session, checker::Histories},
};
use resident::{Orders, Resident};

/// New people a second: what a small machine logs in beside everything else.
const ARRIVALS: u32 = 400;
/// How long an arrival, or one conversation of the audit, may take.
const PATIENCE: Duration = Duration::from_secs(60);
/// The receive buffer of those who can be told to stop reading: the kernel would read on for them for megabytes.
const SMALL_BUFFER: u32 = 4096;
/// Conversations that are asked for at a time.
const AT_ONCE: usize = 16;

/// How long something took to be acknowledged, from when it was due.
#[derive(Debug, Clone, Copy)]
pub(super) struct Said {
    pub(super) due: Instant,
    pub(super) took: Duration,
}

/// Everything that was said, shared by those who say it.
pub(super) type SaidByAll = Arc<Mutex<Vec<Said>>>;

/// Everybody.
#[derive(Debug)]
pub(super) struct Crowd {
    pub(super) cast: Cast,
    pub(super) journal: Journal,
    pub(super) diary: Diary,
    pub(super) said: SaidByAll,
    orders: watch::Sender<Orders>,
    residents: JoinSet<Result<Phone>>,
    /// Why somebody gave up, if somebody did.
    given_up: watch::Sender<Option<String>>,
    secret: Secret,
}

impl Crowd {
    /// Lets everybody come, and is done when all of them are online and talk.
    pub(super) async fn arrive(cast: Cast, edge: SocketAddr, secret: &Secret) -> Result<Self> {
        let cast = Cast { clients: cast.clients.max(2) & !1, ..cast };
        let mut crowd = Self {
            cast,
            journal: Journal::default(),
            diary: Diary::default(),
            said: SaidByAll::default(),
            orders: watch::Sender::new(Orders::default()),
            residents: JoinSet::new(),
            given_up: watch::Sender::default(),
            secret: secret.clone(),
        };
        for number in 0..crowd.cast.clients {
            let (resident, given_up) = (crowd.resident(number, edge), crowd.given_up.clone());
            crowd.residents.spawn(async move {
                resident.live().await.inspect_err(|error| _ = given_up.send_replace(Some(format!("{error:#}"))))
            });
            sleep(Duration::from_secs(1) / ARRIVALS).await;
        }
        let all = crowd.cast.clients;
        crowd
            .watched(eventually(PATIENCE, "everybody online", async || (crowd.diary.online() == all).then_some(())))
            .await?;
        Ok(crowd)
    }

    fn resident(&self, number: usize, edge: SocketAddr) -> Resident {
        let cast = &self.cast;
        let user = user(number);
        let home = cast.homes[number % cast.homes.len()];
        let mut door = Door::new(edge).announcing(home.address(number));
        door.from = Some(source(number));
        door.patience = cast.patience;
        let obeys_deafness = cast.deaf.is_some_and(|every| number.is_multiple_of(every));
        door.receive_buffer = obeys_deafness.then_some(SMALL_BUFFER);
        let phone =
            Phone::new(&user, door, &self.secret, &self.journal).telling(&self.diary).backing_off(cast.back_off);
        Resident {
            phone,
            conversations: [pair_of(number), room_of(number, cast.group)],
            period: cast.period,
            body: cast.body,
            obeys_deafness,
            orders: self.orders.subscribe(),
            said: Arc::clone(&self.said),
        }
    }

    /// Everybody's connection breaks, at the same moment.
    pub(super) fn break_all_off(&self) {
        self.orders.send_modify(|orders| orders.broken_off += 1);
    }

    /// Those who can be told so stop reading, or read again.
    pub(super) fn set_deaf(&self, deaf: bool) {
        self.orders.send_modify(|orders| orders.deaf = deaf);
    }

    /// Works while the crowd lives, and fails as soon as somebody gave up.
    pub(super) async fn watched<T>(&self, work: impl Future<Output = Result<T>>) -> Result<T> {
        let mut given_up = self.given_up.subscribe();
        tokio::select! {
            outcome = work => outcome,
            Ok(why) = given_up.wait_for(Option::is_some) => bail!("{}", why.as_deref().unwrap_or_default()),
        }
    }

    /// Waits until all of these have logged in after `since`, and says how long the last one took from there.
    pub(super) async fn until_back(&self, users: &[String], since: Instant, within: Duration) -> Result<Duration> {
        let what = format!("{} people back online", users.len());
        let back = async || {
            let logins = users.iter().map(|user| self.diary.since(user).filter(|login| *login > since));
            logins.collect::<Option<Vec<Instant>>>()
        };
        let logins = eventually(within, &what, back).await.with_context(|| self.troubles())?;
        Ok(logins.into_iter().max().map_or(Duration::ZERO, |last| last - since))
    }

    pub(super) fn users(&self) -> Vec<String> {
        (0..self.cast.clients).map(user).collect()
    }

    pub(super) fn said(&self) -> Vec<Said> {
        locked(&self.said).clone()
    }

    /// The last trouble of each kind, for messages.
    pub(super) fn troubles(&self) -> String {
        format!("what phones met last: {}", self.diary.reasons().join("; "))
    }

    /// Everybody stops talking; then all of them ask for all of their conversations once more, and leave.
    pub(super) async fn fall_silent(&mut self) -> Result<()> {
        self.orders.send_modify(|orders| orders.leave = true);
        let mut phones = Vec::new();
        while let Some(ended) =
            timeout(PATIENCE, self.residents.join_next()).await.context("somebody does not stop talking")?
        {
            phones.push(ended.context("a resident broke off")??);
        }
        stream::iter(phones).map(|phone| self.ask_for_everything(phone)).buffer_unordered(AT_ONCE).try_collect().await
    }

    async fn ask_for_everything(&self, mut phone: Phone) -> Result<()> {
        for conv in phone.followed() {
            phone.catch_up(&conv, PATIENCE).await?;
        }
        phone.leave().await
    }

    /// All conversations as a server has them, asked for round the edge, by a device that took no part.
    pub(super) async fn histories(&self, server: SocketAddr) -> Result<Histories> {
        let pairs = (0..self.cast.clients).step_by(2).map(|number| (pair_of(number), number));
        let rooms =
            (0..self.cast.clients).step_by(self.cast.group).map(|number| (room_of(number, self.cast.group), number));
        let all: BTreeSet<(String, usize)> = pairs.chain(rooms).collect();
        stream::iter(all)
            .map(|(conv, number)| self.history(conv, number, server))
            .buffer_unordered(AT_ONCE)
            .try_collect()
            .await
    }

    async fn history(&self, conv: String, number: usize, server: SocketAddr) -> Result<(String, Vec<crate::im::Msg>)> {
        let token = self.secret.token(&user(number), PATIENCE);
        // Who asks for a pair and for a room at the same time does so with two devices.
        let device = format!("auditor-{}", conv.split(':').next().unwrap_or_default());
        let mut session = Session::open(&Door::new(server), token, &device, None).await?;
        let history = session.history(&conv, 0).await.with_context(|| format!("no history of {conv}"))?;
        session.leave().await?;
        Ok((conv, history))
    }
}

fn user(number: usize) -> String {
    format!("u{number:05}")
}

/// Their names have one length, so the smaller number comes first.
fn pair_of(number: usize) -> String {
    format!("dm:{}:{}", user(number & !1), user(number | 1))
}

fn room_of(number: usize, group: usize) -> String {
    format!("room:{}", number / group)
}

/// Everybody connects from an address of their own: all of 127.0.0.0/8 is at hand on Linux.
fn source(number: usize) -> IpAddr {
    let part = |value: usize| u8::try_from(value % 250 + 1).unwrap_or(1);
    IpAddr::from([127, 20, part(number / 250), part(number)])
}
