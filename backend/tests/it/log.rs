//! What is written to stderr: a line when a session begins and ends, in both forms, and not too many.

use std::{fs::File, path::PathBuf};

use backend::frame::{Bye, Frame};
use serde_json::Value;
use tempfile::TempDir;

use crate::{
    process::{Im, command, eventually},
    ws::{Client, token},
};

/// The log of a server.
pub(crate) struct Logged {
    file: PathBuf,
}

impl Logged {
    fn text(&self) -> String {
        std::fs::read_to_string(&self.file).unwrap()
    }

    fn lines(&self) -> impl Iterator<Item = Value> {
        let text = self.text();
        // The last line may be half written.
        let whole = text.rsplit_once('\n').map_or(String::new(), |(whole, _)| whole.to_owned());
        whole.lines().map(|line| serde_json::from_str(line).unwrap()).collect::<Vec<_>>().into_iter()
    }

    /// Waits for a line.
    pub(crate) async fn line(&self, fits: impl Fn(&Value) -> bool) -> Value {
        eventually("the line is in the log", async || self.now(&fits)).await
    }

    /// A line, if it is there.
    pub(crate) fn now(&self, fits: impl Fn(&Value) -> bool) -> Option<Value> {
        self.lines().find(fits)
    }

    /// Waits for these words.
    pub(crate) async fn said(&self, words: &str) {
        eventually(words, async || self.text().contains(words).then_some(())).await;
    }
}

/// A server whose log is kept.
pub(crate) async fn start_logged(options: &[&str]) -> (Im, TempDir, Logged) {
    let data = TempDir::new().unwrap();
    let file = data.path().join("log");
    let mut command = command(&data.path().join("data"), options);
    command.stderr(File::create(&file).unwrap());
    (Im::of(command).await, data, Logged { file })
}

#[tokio::test]
async fn a_session_is_logged_when_it_begins_and_when_it_ends_and_why() {
    let (im, _data, logged) = start_logged(&[]).await;
    let mut alice = Client::connect(im.address).await;
    let session = alice.log_in("alice", "phone").await.session_id;
    alice.say(&Frame::Bye(Bye {})).await;
    assert_eq!(alice.closed().await, 1000);
    let ends = logged.line(|line| line["fields"]["message"] == "session ends").await;
    let begins = logged.line(|line| line["fields"]["message"] == "session begins").await;
    for (field, want) in [("user", "alice"), ("device", "phone"), ("session", &session), ("transport", "websocket")] {
        assert!(begins["fields"][field] == want && ends["fields"][field] == want, "{begins} {ends}");
    }
    assert!(begins["fields"]["address"].as_str().unwrap().starts_with("127.0.0.1:"), "{begins}");
    assert_eq!((&ends["fields"]["code"], &ends["fields"]["reason"]), (&1000.into(), &"bye".into()));
    assert!(ends["fields"]["seconds"].is_f64());
    let mut stranger = Client::connect(im.address).await;
    stranger.say_login(token("alice", -3600), "phone").await;
    assert_eq!(stranger.closed().await, 4001);
    let none = logged.line(|line| line["fields"]["message"] == "no session").await;
    assert_eq!(none["fields"]["reason"], "login refused");
    assert!(!logged.text().contains("eyJ"), "no token is in the log");
}

#[tokio::test]
async fn lines_may_be_written_for_people() {
    let (im, _data, logged) = start_logged(&["--log-format", "text"]).await;
    drop(Client::login(im.address, "alice", "phone").await);
    logged.said(r#"session begins user="alice" device="phone""#).await;
    logged.said(r#"reason="the client has gone""#).await;
}

#[tokio::test]
async fn a_crowd_does_not_flood_the_log_and_what_is_left_out_is_told() {
    let (im, _data, logged) = start_logged(&["--log-rate", "3"]).await;
    for _ in 0..30 {
        drop(Client::login(im.address, "alice", "phone").await);
    }
    logged.said("were left out").await;
    let told: u64 = logged.lines().filter_map(|line| line["fields"]["left_out"].as_u64()).sum();
    let begins = logged.lines().filter(|line| line["fields"]["message"] == "session begins").count();
    assert!(told > 0 && begins < 30, "{told} {begins}");
}
