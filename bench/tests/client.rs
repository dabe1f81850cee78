//! The client of the IM protocol against real servers: that it does what docs/protocol.md asks of a client.
//!
//! Needs `warbler-im` beside `warbler-bench`, as `./check` builds it.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use backend::frame::{Frame, Unread};
use bench::{
    harness::{Wan, Workspace, eventually, http, reserve_port},
    im::{Diary, Door, Event, Happening, Journal, Phone, Receipts, Secret, Server, Session, Transport, checker},
};
use tokio::time::timeout;

const SOON: Duration = Duration::from_secs(20);
const ROOM: &str = "room:test";
const PAIR: &str = "dm:alice:bob";

/// Servers that share what was said, and everything that clients need.
struct Place {
    workspace: Workspace,
    secret: Secret,
    journal: Journal,
    servers: Vec<Server>,
}

impl Place {
    async fn new(names: &[&str], arguments: &[&'static str]) -> Self {
        let (workspace, secret) = (Workspace::new().expect("a directory"), Secret::random());
        let file = workspace.write("jwt.secret", secret.reveal()).expect("a file");
        let mut servers = Vec::new();
        for name in names {
            let address = SocketAddr::from(([127, 0, 0, 1], reserve_port().expect("a port")));
            servers.push(Server::start(&workspace, name, address, &file, arguments).await.expect("a server"));
        }
        Self { workspace, secret, journal: Journal::default(), servers }
    }

    fn door(&self) -> Door {
        Door::new(self.servers[0].address)
    }

    /// The door for frames over TCP of a server with `--tcp`.
    fn tcp_door(&self, server: usize) -> Door {
        let address = self.servers[server].process.address("tcp", 0).expect("an address for TCP");
        Door { transport: Transport::Tcp, ..Door::new(address) }
    }

    fn phone(&self, user: &str) -> Phone {
        Phone::new(user, self.door(), &self.secret, &self.journal)
    }

    async fn online(&self, user: &str) -> Phone {
        let mut phone = self.phone(user);
        phone.online(SOON).await.expect("a session");
        phone
    }

    async fn command(&self, path: &str, body: &str) {
        let answer =
            http::request(self.servers[0].address, "POST", path, &[], body.as_bytes()).await.expect("an answer");
        assert!(matches!(answer.status, 200 | 202), "{path}: {} {}", answer.status, answer.text());
    }

    /// Every promise was kept.
    async fn check(&self, conv: &str, stored: usize) {
        let mut alice = self.online("alice").await;
        let history = alice.history(conv, SOON).await.expect("a history");
        let verdict = checker::check(conv, &history, &self.journal).expect("kept promises");
        assert_eq!(verdict.stored, stored, "{verdict:?}");
    }
}

/// The first event that fits.
async fn event<T>(phone: &mut Phone, mut fits: impl FnMut(Event) -> Option<T>) -> T {
    let searched = async {
        loop {
            if let Some(found) = fits(phone.next().await) {
                return found;
            }
        }
    };
    timeout(SOON, searched).await.expect("the event comes")
}

#[tokio::test]
async fn people_talk_and_every_promise_is_kept() {
    let place = Place::new(&["im-1"], &[]).await;
    let (mut alice, mut bob) = (place.phone("alice"), place.online("bob").await);
    bob.follow(ROOM).await.unwrap();
    let mut last = 0;
    for count in 0..600 {
        last = alice.say(ROOM, &format!("message {count}"), SOON).await.unwrap();
    }
    assert_eq!(bob.hear_until(ROOM, last, SOON).await.unwrap(), 600);
    bob.check_alive().await.unwrap();
    assert_eq!((bob.node(), bob.logins()), (Some("im-1"), 1));
    // More than one page.
    let history = bob.history(ROOM, SOON).await.unwrap();
    alice.catch_up(ROOM, SOON).await.unwrap();
    let verdict = checker::check(ROOM, &history, &place.journal).unwrap();
    assert_eq!((verdict.stored, verdict.acknowledged, verdict.pushed, verdict.synced), (600, 600, 600, 1));
    alice.leave().await.unwrap();
    bob.leave().await.unwrap();
}

#[tokio::test]
async fn more_than_the_server_reads_at_once_is_said_in_order() {
    let place = Place::new(&["im-1"], &[]).await;
    let mut alice = place.online("alice").await;
    let ids: Vec<_> =
        (0..200).map(|count: u32| alice.submit(ROOM, count.to_be_bytes().to_vec().into()).unwrap()).collect();
    for (place, wanted) in (1..).zip(ids) {
        let acknowledged = |event| match event {
            Event::Acknowledged { id, seq, .. } => Some((id, seq)),
            _ => None,
        };
        assert_eq!(event(&mut alice, acknowledged).await, (wanted, place));
    }
    assert_eq!(alice.unacknowledged(), 0);
}

#[tokio::test]
async fn who_is_cut_off_continues_the_session_and_gets_what_was_missed() {
    let place = Place::new(&["im-1"], &[]).await;
    let diary = Diary::default();
    let mut alice = place.online("alice").await;
    let mut bob = place.phone("bob").telling(&diary);
    bob.online(SOON).await.unwrap();
    bob.follow(ROOM).await.unwrap();
    bob.break_off();
    assert_eq!((diary.online(), diary.since("bob")), (0, None));
    for conv in [ROOM, PAIR] {
        alice.say(conv, "missed", SOON).await.unwrap();
    }
    let resumed = |event| match event {
        Event::LoggedIn { resumed, .. } => Some(resumed),
        _ => None,
    };
    assert!(event(&mut bob, resumed).await, "the server remembers the session");
    bob.online(SOON).await.unwrap();
    // The pair was not followed: the list of unread conversations told of it.
    assert_eq!((bob.known(ROOM), bob.known(PAIR)), (1, 1));
    let second = alice.say(ROOM, "second", SOON).await.unwrap();
    bob.hear_until(ROOM, second, SOON).await.unwrap();
    // Whoever left in order begins a new session.
    bob.leave().await.unwrap();
    bob.go_online();
    assert!(!event(&mut bob, resumed).await);
}

#[tokio::test]
async fn what_was_not_acknowledged_is_sent_again_when_the_server_is_killed() {
    let mut place = Place::new(&["im-1"], &["--faults"]).await;
    let mut alice = place.online("alice").await;
    // Stored, and not acknowledged before the end.
    place.command("/admin/fault", r#"{"ack_delay_ms":60000}"#).await;
    for text in ["one", "two", "three"] {
        alice.submit(ROOM, text.into()).unwrap();
    }
    let mut auditor = place.online("carol").await;
    let stored = eventually(SOON, "all three are stored", async || {
        alice.listen(Duration::from_millis(20)).await;
        (auditor.history(ROOM, SOON).await.ok()?.len() == 3).then_some(())
    });
    stored.await.unwrap();
    place.servers[0].kill().unwrap();
    let Place { workspace, servers, .. } = &mut place;
    servers[0].start_again(workspace).await.unwrap();
    for wanted in 1..=3 {
        let acknowledged = |event| match event {
            Event::Acknowledged { seq, duplicate, .. } => Some((seq, duplicate)),
            _ => None,
        };
        assert_eq!(event(&mut alice, acknowledged).await, (wanted, true));
    }
    assert_eq!(alice.logins(), 2);
    place.check(ROOM, 3).await;
}

#[tokio::test]
async fn a_hint_to_reconnect_is_obeyed_without_a_broken_connection() {
    let place = Place::new(&["im-1", "im-2"], &["--admin"]).await;
    let diary = Diary::default();
    let mut alice = place.phone("alice").telling(&diary);
    alice.online(SOON).await.unwrap();
    alice.door().address = place.servers[1].address;
    place.command("/admin/drain?rate=100&deadline=10s", "").await;
    for count in 1..=50 {
        assert_eq!(alice.say(ROOM, "on the way", SOON).await.unwrap(), count);
        alice.listen(Duration::from_millis(20)).await;
    }
    let moved = eventually(SOON, "alice has moved", async || {
        alice.listen(Duration::from_millis(20)).await;
        (alice.node() == Some("im-2")).then_some(())
    });
    moved.await.unwrap();
    assert_eq!(alice.logins(), 2);
    let broke = diary.entries().into_iter().any(|entry| entry.what == Happening::Broke);
    assert!(!broke, "{:?}", diary.entries());
    let mut auditor = Phone::new("carol", Door::new(place.servers[1].address), &place.secret, &Journal::default());
    let history = auditor.history(ROOM, SOON).await.unwrap();
    assert_eq!(checker::check(ROOM, &history, &place.journal).unwrap().stored, 50);
}

#[tokio::test]
async fn the_older_of_two_logins_of_a_device_stays_away() {
    let place = Place::new(&["im-1"], &[]).await;
    let mut first = place.online("alice").await;
    let mut second = place.online("alice").await;
    let why = event(&mut first, |event| match event {
        Event::GaveUp { why } => Some(why),
        _ => None,
    });
    assert_eq!(why.await, "the same device logged in elsewhere");
    first.go_online();
    first.listen(Duration::from_millis(500)).await;
    assert_eq!((first.logins(), first.node()), (1, None));
    assert!(first.online(SOON).await.is_err());
    second.check_alive().await.unwrap();
}

#[tokio::test]
async fn a_refusal_for_good_is_not_tried_again() {
    let place = Place::new(&["im-1"], &[]).await;
    let mut mallory = Phone::new("mallory", place.door(), &Secret::random(), &place.journal);
    let error = format!("{:#}", mallory.online(SOON).await.unwrap_err());
    assert!(error.contains("login refused: TokenSignature"), "{error}");
    let mut alice = place.phone("alice");
    let error = format!("{:#}", alice.say("dm:bob:carol", "x", SOON).await.unwrap_err());
    assert!(error.contains("NotAMember"), "{error}");
    assert_eq!((alice.unacknowledged(), alice.logins()), (0, 1));
    let error = format!("{:#}", alice.follow("dm:bob:carol").await.unwrap_err());
    assert!(error.contains("NotAMember"), "{error}");
    let error = format!("{:#}", alice.history("dm:bob:carol", SOON).await.unwrap_err());
    assert!(error.contains("NotAMember"), "{error}");
}

/// Tries of a phone until it is in, each with how long it had to wait after the refusal before.
async fn tries(phone: &mut Phone) -> Vec<(Duration, Duration)> {
    phone.go_online();
    let (mut tries, mut last) = (Vec::new(), None);
    let mut told = Duration::ZERO;
    loop {
        let entered = event(phone, |event| match event {
            Event::NotLoggedIn(error) => Some(Some(error.retry_after())),
            Event::LoggedIn { .. } => Some(None),
            _ => None,
        });
        let entered = entered.await;
        if let Some(last) = last.replace(Instant::now()) {
            tries.push((last.elapsed(), told));
        }
        match entered {
            Some(retry_after) => told = retry_after,
            None => return tries,
        }
    }
}

#[tokio::test]
async fn a_full_server_is_left_alone_for_as_long_as_it_asks() {
    let place = Place::new(&["im-1"], &["--max-sessions", "1"]).await;
    let mut alice = place.online("alice").await;
    let mut bob = place.phone("bob");
    let (tries, ()) = tokio::join!(tries(&mut bob), async {
        alice.listen(Duration::from_millis(300)).await;
        alice.leave().await.unwrap();
    });
    assert!(!tries.is_empty());
    for (waited, told) in tries {
        assert!(!told.is_zero() && waited >= told, "told {told:?}, waited {waited:?}");
    }
}

#[tokio::test]
async fn a_login_that_is_refused_for_now_is_tried_again_when_the_server_said() {
    let place = Place::new(&["im-1"], &["--user-sessions", "1", "--heartbeat", "1s"]).await;
    let mut phone = place.online("alice").await;
    let mut tablet = place.phone("alice").on_device("tablet");
    let (tries, ()) = tokio::join!(tries(&mut tablet), async {
        phone.listen(Duration::from_millis(300)).await;
        phone.leave().await.unwrap();
    });
    assert!(!tries.is_empty());
    for (waited, told) in tries {
        assert!(!told.is_zero() && waited >= told, "told {told:?}, waited {waited:?}");
    }
}

#[tokio::test]
async fn a_client_with_nothing_to_say_says_ping_and_stays() {
    let place = Place::new(&["im-1"], &["--heartbeat", "1s"]).await;
    let mut alice = place.online("alice").await;
    // Longer than the three heartbeats after which a silent session is closed.
    alice.listen(Duration::from_secs(4)).await;
    alice.check_alive().await.unwrap();
    assert_eq!(alice.logins(), 1);
}

#[tokio::test]
async fn a_server_that_falls_silent_is_left() {
    let place = Place::new(&["im-1"], &[]).await;
    let anywhere = SocketAddr::from(([127, 0, 0, 1], 0));
    let way = Wan::start(anywhere, place.servers[0].address, Duration::ZERO).await.unwrap();
    let door = Door { patience: Duration::from_secs(1), ..Door::new(way.address()) };
    let mut alice = Phone::new("alice", door, &place.secret, &place.journal);
    alice.online(SOON).await.unwrap();
    way.set_silent(true);
    alice.submit(ROOM, "unheard".into()).unwrap();
    let broke = |event| match event {
        Event::Broke(error) => Some(error.to_string()),
        _ => None,
    };
    assert_eq!(event(&mut alice, broke).await, "the server was silent for 1s");
    way.set_silent(false);
    alice.say(ROOM, "again", SOON).await.unwrap();
    assert_eq!(alice.unacknowledged(), 0);
    place.check(ROOM, 2).await;
}

#[tokio::test]
async fn what_was_read_is_told_to_the_server() {
    let place = Place::new(&["im-1"], &[]).await;
    let mut alice = place.online("alice").await;
    let mut bob = place.phone("bob").confirming(Receipts::Read);
    bob.online(SOON).await.unwrap();
    let last = alice.say(PAIR, "have you read this?", SOON).await.unwrap();
    bob.hear_until(PAIR, last, SOON).await.unwrap();
    let mut auditor = Session::open(&place.door(), place.secret.token("bob", SOON), "auditor", None).await.unwrap();
    let read = eventually(SOON, "the server knows that it was read", async || {
        bob.listen(Duration::from_millis(50)).await;
        auditor.say(&Frame::Unread(Unread::default()));
        loop {
            if let Frame::UnreadList(list) = auditor.next().await.ok()? {
                return (list.convs[0].n == 0).then_some(());
            }
        }
    });
    read.await.unwrap();
}

#[tokio::test]
async fn a_push_that_was_lost_is_asked_for_when_the_next_one_shows_the_hole() {
    let place = Place::new(&["im-1"], &["--faults"]).await;
    let (mut alice, mut bob) = (place.online("alice").await, place.online("bob").await);
    place.command("/admin/fault", r#"{"drop_push":true}"#).await;
    alice.say(PAIR, "lost", SOON).await.unwrap();
    // A push follows its acknowledgement when it gets round to it.
    let dropped = eventually(SOON, "the push is lost", async || {
        let load = http::get(place.servers[0].address, "/load").await.ok()?.json().ok()?;
        (load["pushes_dropped"].as_u64() > Some(0)).then_some(())
    });
    dropped.await.unwrap();
    place.command("/admin/fault", r#"{"drop_push":false}"#).await;
    let second = alice.say(PAIR, "heard", SOON).await.unwrap();
    assert_eq!(bob.hear_until(PAIR, second, SOON).await.unwrap(), 1);
    let healed = eventually(SOON, "the hole is closed", async || {
        bob.listen(Duration::from_millis(50)).await;
        (bob.known(PAIR) == second).then_some(())
    });
    healed.await.unwrap();
}

const TCP: [&str; 3] = ["--tcp", "127.0.0.1:0", "--admin"];

#[tokio::test]
async fn people_meet_over_tcp_and_over_websocket() {
    let place = Place::new(&["im-1"], &TCP).await;
    let mut alice = Phone::new("alice", place.tcp_door(0), &place.secret, &place.journal);
    let mut bob = place.online("bob").await;
    alice.follow(ROOM).await.unwrap();
    bob.follow(ROOM).await.unwrap();
    let mut last = 0;
    for count in 0..100 {
        let speaker = if count % 2 == 0 { &mut alice } else { &mut bob };
        last = speaker.say(ROOM, &format!("message {count}"), SOON).await.unwrap();
    }
    alice.say(PAIR, "only for you", SOON).await.unwrap();
    alice.catch_up(ROOM, SOON).await.unwrap();
    bob.hear_until(ROOM, last - 1, SOON).await.unwrap();
    alice.check_alive().await.unwrap();
    alice.leave().await.unwrap();
    place.check(ROOM, 100).await;
    place.check(PAIR, 1).await;
}

#[tokio::test]
async fn over_tcp_the_hint_and_the_kick_and_the_close_are_obeyed() {
    let place = Place::new(&["im-1", "im-2"], &TCP).await;
    let diary = Diary::default();
    let phone = |server| Phone::new("alice", place.tcp_door(server), &place.secret, &place.journal);
    let mut alice = phone(0).telling(&diary);
    alice.online(SOON).await.unwrap();
    alice.door().address = place.tcp_door(1).address;
    place.command("/admin/drain?rate=100&deadline=10s", "").await;
    let moved = eventually(SOON, "alice has moved", async || {
        alice.say(ROOM, "on the way", SOON).await.unwrap();
        alice.listen(Duration::from_millis(20)).await;
        (alice.node() == Some("im-2")).then_some(())
    });
    moved.await.unwrap();
    let broke = diary.entries().into_iter().any(|entry| entry.what == Happening::Broke);
    assert!(!broke, "{:?}", diary.entries());
    // The one that is draining says so, and nothing else.
    let token = place.secret.token("bob", SOON);
    let refused = Session::open(&place.tcp_door(0), token, "phone", None).await.unwrap_err();
    assert!(refused.to_string().contains("1012") && refused.may_pass(), "{refused}");
    let mut second = phone(1);
    second.online(SOON).await.unwrap();
    let why = event(&mut alice, |event| match event {
        Event::GaveUp { why } => Some(why),
        _ => None,
    });
    assert_eq!(why.await, "the same device logged in elsewhere");
    second.check_alive().await.unwrap();
}
