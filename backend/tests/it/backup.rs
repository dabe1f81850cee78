//! Backups of a store that is written to, and stores made of them.

use std::{
    collections::HashMap,
    fs,
    path::{Path, PathBuf},
    process::Stdio,
    time::{SystemTime, UNIX_EPOCH},
};

use futures_util::SinkExt as _;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;
use tokio::{process::Command, sync::watch};
use tokio_websockets::Message;

use crate::{
    process::{Im, eventually},
    ws::{Client, send},
};
use backend::frame::Frame;

const ROOM: &str = "room:a";

fn tool(arguments: &[&str], paths: &[(&str, &Path)]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_warbler-im"));
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    for (option, path) in paths {
        command.arg(option).arg(path);
    }
    command
}

/// What a sub-command said, and whether it did it.
async fn run(arguments: &[&str], paths: &[(&str, &Path)]) -> Result<Value, String> {
    let output = tool(arguments, paths).output().await.unwrap();
    match output.status.code() {
        Some(0) => Ok(serde_json::from_slice(&output.stdout).unwrap()),
        Some(1) => Err(String::from_utf8(output.stderr).unwrap()),
        other => panic!("{other:?}: {}", String::from_utf8_lossy(&output.stderr)),
    }
}

async fn back_up(data: &Path, to: &Path) -> Result<Value, String> {
    run(&["backup"], &[("--data", data), ("--to", to)]).await
}

async fn restore(from: &Path, data: &Path) -> Result<Value, String> {
    run(&["restore"], &[("--from", from), ("--data", data)]).await
}

/// A store with so many messages of this size, and a backup of it.
async fn backed_up(directory: &Path, messages: u128, size: usize) -> (PathBuf, PathBuf) {
    let (data, backup) = (directory.join("data"), directory.join("backup"));
    let im = Im::start(&data, &["--request-rate", "0"]).await;
    fill(&im, messages, size).await;
    back_up(&data, &backup).await.unwrap();
    im.kill_9().await;
    (data, backup)
}

async fn fill(im: &Im, messages: u128, size: usize) {
    let mut client = Client::login(im.address, "alice", "phone").await;
    let body = vec![b'x'; size];
    for id in 0..messages {
        client.websocket.feed(Message::binary(send(ROOM, id, &body).to_bytes())).await.unwrap();
        if id % 32 == 31 || id + 1 == messages {
            client.websocket.flush().await.unwrap();
            while !matches!(client.hear().await, Frame::SendAck(ack) if u128::from(ack.seq) == id + 1) {}
        }
    }
}

/// Sends as fast as it can, and notes what was acknowledged when: Unix time in milliseconds.
async fn write_on(mut client: Client, mut go: watch::Receiver<bool>) -> HashMap<u128, (u64, u64)> {
    let mut acked = HashMap::new();
    for id in 0.. {
        if !*go.borrow_and_update() {
            break;
        }
        let ack = client.send(ROOM, id, &id.to_be_bytes()).await;
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis();
        acked.insert(id, (ack.seq, u64::try_from(now).unwrap()));
    }
    acked
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_under_load_holds_all_that_was_acknowledged_before_it_and_repeated_sends_bring_the_rest() {
    let directory = TempDir::new().unwrap();
    let (data, backup, restored) =
        (directory.path().join("data"), directory.path().join("backup"), directory.path().join("restored"));
    let im = Im::start(&data, &["--request-rate", "0"]).await;
    let (go, going) = watch::channel(true);
    let writer = tokio::spawn(write_on(Client::login(im.address, "alice", "phone").await, going));
    let mut bob = Client::login(im.address, "bob", "phone").await;
    let enough = async |client: &mut Client, count| {
        eventually("messages are stored", async || (client.sync(ROOM, 0, 1).await.last_seq >= count).then_some(()))
            .await;
    };
    enough(&mut bob, 200).await;
    let manifest = back_up(&data, &backup).await.unwrap();
    let so_far = bob.sync(ROOM, 0, 1).await.last_seq;
    enough(&mut bob, so_far + 200).await;
    go.send_replace(false);
    let acked = writer.await.unwrap();
    im.kill_9().await;
    assert_eq!(manifest["event"], "backed-up");
    assert_eq!(run(&["verify"], &[("--from", &backup)]).await.unwrap()["messages"], manifest["messages"]);

    let said = restore(&backup, &restored).await.unwrap();
    assert_eq!((&said["event"], &said["messages"]), (&"restored".into(), &manifest["messages"]));
    let im = Im::start(&restored, &["--request-rate", "0"]).await;
    let mut carol = Client::login(im.address, "carol", "phone").await;
    let history = carol.history(ROOM).await;
    let began = manifest["began"].as_u64().unwrap();
    let held: HashMap<u128, u64> =
        history.iter().map(|msg| (u128::from_be_bytes(msg.client_msg_id[..].try_into().unwrap()), msg.seq)).collect();
    assert_eq!(history.len(), usize::try_from(manifest["messages"].as_u64().unwrap()).unwrap());
    assert!(history.iter().zip(1..).all(|(msg, seq)| msg.seq == seq), "dense");
    for (id, (seq, time)) in &acked {
        match held.get(id) {
            Some(held) => assert_eq!(held, seq, "{id}"),
            None => assert!(*time >= began, "{id} was acknowledged at {time}, before {began}"),
        }
    }
    assert!(acked.len() > held.len(), "some came after the backup");
    // Whoever sends again under the same id finds what is there, and adds what is not.
    let mut alice = Client::login(im.address, "alice", "phone").await;
    let mut ids: Vec<_> = acked.keys().copied().collect();
    ids.sort_unstable();
    for id in ids {
        let again = alice.send(ROOM, id, &id.to_be_bytes()).await;
        assert_eq!((again.duplicate, again.seq), (held.contains_key(&id), acked[&id].0), "{id}");
    }
    assert_eq!(carol.history(ROOM).await.len(), acked.len());
}

#[tokio::test]
async fn nothing_is_overwritten() {
    let directory = TempDir::new().unwrap();
    let (data, backup) = backed_up(directory.path(), 3, 10).await;
    let refused = back_up(&data, &backup).await.unwrap_err();
    assert!(refused.contains("is there already"), "{refused}");
    let refused = restore(&backup, &data).await.unwrap_err();
    assert!(refused.contains("a store is in"), "{refused}");
    // A log that has lost its database is a store, too.
    let other = directory.path().join("other");
    fs::create_dir(&other).unwrap();
    fs::write(other.join("messages.db-wal"), "the last messages").unwrap();
    assert!(restore(&backup, &other).await.unwrap_err().contains("a store is in"));
    assert_eq!(fs::read(other.join("messages.db-wal")).unwrap(), b"the last messages");
    let refused = back_up(&directory.path().join("nowhere"), &directory.path().join("b2")).await.unwrap_err();
    assert!(refused.contains("there is no store in"), "{refused}");
    assert!(!directory.path().join("b2").exists());
    let im = Im::start(&data, &[]).await;
    assert_eq!(Client::login(im.address, "bob", "phone").await.sync(ROOM, 0, 0).await.last_seq, 3);
}

/// A server keeps its files open when they are moved away, and would go on with them.
#[tokio::test]
async fn nothing_is_restored_under_a_living_server() {
    let directory = TempDir::new().unwrap();
    let (_, backup) = backed_up(directory.path(), 3, 10).await;
    let data = directory.path().join("other");
    let im = Im::start(&data, &[]).await;
    fill(&im, 1, 10).await;
    let refused = restore(&backup, &data).await.unwrap_err();
    assert!(refused.contains("a server runs on") && refused.contains("stop"), "{refused}");
    for entry in fs::read_dir(&data).unwrap().map(Result::unwrap) {
        if entry.file_name().to_string_lossy().starts_with("messages.db") {
            fs::remove_file(entry.path()).unwrap();
        }
    }
    let refused = restore(&backup, &data).await.unwrap_err();
    assert!(refused.contains("a server runs on"), "{refused}");
    im.kill_9().await;
    assert_eq!(restore(&backup, &data).await.unwrap()["messages"], 3);
    let refused = restore(&backup, &data).await.unwrap_err();
    assert!(refused.contains("a store is in") && refused.contains("stop all servers"), "{refused}");
}

/// Names in a directory are durable when that is synced, and so is the directory's own name in the one above.
#[tokio::test]
async fn directories_that_are_made_are_synced_where_their_names_stand() {
    let directory = TempDir::new().unwrap();
    let (_, backup) = backed_up(directory.path(), 3, 10).await;
    let data = directory.path().join("new").join("data");
    let calls = directory.path().join("calls");
    let mut traced = Command::new("strace");
    traced.args(["-f", "-y", "-e", "trace=fsync", "-o"]).arg(&calls).arg(env!("CARGO_BIN_EXE_warbler-im"));
    traced.args(["restore", "--from"]).arg(&backup).arg("--data").arg(&data).stdin(Stdio::null());
    let output = traced.output().await.expect("Debian's strace is installed");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let calls = fs::read_to_string(&calls).unwrap();
    for synced in [directory.path(), &directory.path().join("new"), &data] {
        assert!(calls.contains(&format!("<{}>", synced.display())), "{}: {calls}", synced.display());
    }
}

#[tokio::test]
async fn a_damaged_backup_is_refused_and_leaves_nothing() {
    let directory = TempDir::new().unwrap();
    let (_, backup) = backed_up(directory.path(), 200, 1000).await;
    let database = backup.join("messages.db");
    let manifest = backup.join("manifest.json");
    let (whole, text) = (fs::read(&database).unwrap(), fs::read_to_string(&manifest).unwrap());
    let target = directory.path().join("target");
    let check = async |what: &str, reason: &str| {
        for refused in [restore(&backup, &target).await, run(&["verify"], &[("--from", &backup)]).await] {
            let refused = refused.expect_err(what);
            assert!(refused.contains(reason), "{what}: {refused}");
        }
        assert!(!target.join("messages.db").exists(), "{what}");
        fs::write(&database, &whole).unwrap();
        fs::write(&manifest, &text).unwrap();
    };
    let mut flipped = whole.clone();
    flipped[whole.len() / 2] ^= 1;
    fs::write(&database, flipped).unwrap();
    check("one bit is another", "SHA-256").await;
    fs::write(&database, &whole[..whole.len() - 4096]).unwrap();
    check("the end is missing", "by the manifest").await;
    fs::remove_file(&database).unwrap();
    check("the file is missing", "cannot open").await;
    fs::remove_file(&manifest).unwrap();
    check("the manifest is missing", "no whole backup").await;
    fs::write(&manifest, &text[..text.len() / 2]).unwrap();
    check("half of the manifest is missing", "is damaged").await;
    fs::write(&manifest, text.replace("\"format\": 1", "\"format\": 2")).unwrap();
    check("a later format", "of format 2").await;
    fs::write(&manifest, text.replace("messages.db", "../messages.db")).unwrap();
    check("a file from elsewhere", "it names the file").await;
    fs::write(&manifest, text.replace("\"messages\": 200", "\"messages\": 201")).unwrap();
    check("another number of messages", "by its manifest").await;
    let mut fileless: Value = serde_json::from_str(&text).unwrap();
    fileless["files"] = Value::Array(Vec::new());
    fs::write(&manifest, fileless.to_string()).unwrap();
    check("no file", "it does not name the file `messages.db`").await;
    assert_eq!(restore(&backup, &target).await.unwrap()["messages"], 200);
}

/// What its maker has hashed may still be wrong, or of a later version: the copy is looked at before it gets its name.
#[tokio::test]
async fn what_is_no_database_of_ours_is_refused_though_its_hash_fits() {
    let directory = TempDir::new().unwrap();
    let (_, backup) = backed_up(directory.path(), 200, 1000).await;
    let database = backup.join("messages.db");
    let whole = fs::read(&database).unwrap();
    let target = directory.path().join("target");
    let check = async |bytes: &[u8], reason: &str| {
        fs::write(&database, bytes).unwrap();
        let hash = ring::digest::digest(&ring::digest::SHA256, bytes);
        let hash: String = hash.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
        let manifest = backup.join("manifest.json");
        let mut text: Value = serde_json::from_slice(&fs::read(&manifest).unwrap()).unwrap();
        text["files"][0]["sha256"] = hash.into();
        fs::write(&manifest, text.to_string()).unwrap();
        for refused in [restore(&backup, &target).await, run(&["verify"], &[("--from", &backup)]).await] {
            let refused = refused.expect_err(reason);
            assert!(refused.contains(reason) && !refused.contains("cannot be copied"), "{reason}: {refused}");
        }
        assert!(!target.join("messages.db").exists());
    };
    let mut later = whole.clone();
    // SQLite's file format, section 1.3: the user version is at offset 60.
    later[60..64].copy_from_slice(&99_u32.to_be_bytes());
    check(&later, "schema version 99").await;
    let mut broken = whole.clone();
    broken[8 * 4096..12 * 4096].fill(0xee);
    check(&broken, "messages.db is damaged").await;
    check(&vec![7; whole.len()], "not a database").await;
}

#[tokio::test]
async fn a_backup_that_is_killed_leaves_nothing_that_can_be_restored() {
    let directory = TempDir::new().unwrap();
    let (data, whole) = backed_up(directory.path(), 500, 60_000).await;
    let partial = |number: u32| {
        let named =
            |entry: &fs::DirEntry| entry.file_name().to_string_lossy().starts_with(&format!("b{number}.partial-"));
        fs::read_dir(directory.path()).unwrap().map(Result::unwrap).find(named).map(|entry| entry.path())
    };
    let mut killed = 0;
    for number in 0..30 {
        let to = directory.path().join(format!("b{number}"));
        let mut backup = tool(&["backup"], &[("--data", &data), ("--to", &to)]).spawn().unwrap();
        let pid = Pid::from_raw(backup.id().unwrap().cast_signed()).unwrap();
        eventually("it has begun", async || (partial(number).is_some() || to.exists()).then_some(())).await;
        // Later each time, to hit it at different work.
        tokio::time::sleep(std::time::Duration::from_millis(killed * 5)).await;
        // It may have ended by itself, and waits for us until then.
        kill_process(pid, Signal::KILL).unwrap();
        backup.wait().await.unwrap();
        let target = directory.path().join(format!("t{number}"));
        if to.exists() {
            assert_eq!(restore(&to, &target).await.unwrap()["messages"], 500, "what has its name is whole");
            if killed >= 2 {
                break;
            }
            // It was faster than we this time.
            continue;
        }
        killed += 1;
        let left = partial(number).expect("it was in the middle");
        match restore(&left, &target).await {
            // Only its name was missing.
            Ok(manifest) => assert_eq!(manifest["messages"], 500),
            Err(refused) => assert!(refused.contains("no whole backup") || refused.contains("damaged"), "{refused}"),
        }
    }
    assert!(killed >= 2, "{killed}");
    assert_eq!(restore(&whole, &directory.path().join("t")).await.unwrap()["messages"], 500);
}

#[tokio::test]
async fn presence_is_in_no_backup_and_what_is_left_of_it_harms_no_restore() {
    let directory = TempDir::new().unwrap();
    let data = directory.path().join("data");
    let im = Im::start(&data, &[]).await;
    fill(&im, 3, 10).await;
    eventually("it is there", async || data.join("presence.db").exists().then_some(())).await;
    let backup = directory.path().join("backup");
    back_up(&data, &backup).await.unwrap();
    im.kill_9().await;
    let mut files: Vec<_> = fs::read_dir(&backup).unwrap().map(|file| file.unwrap().file_name()).collect();
    files.sort();
    assert_eq!(files, ["manifest.json", "messages.db"]);

    for file in fs::read_dir(&data).unwrap().map(Result::unwrap) {
        if file.file_name().to_string_lossy().starts_with("messages.db") {
            fs::remove_file(file.path()).unwrap();
        }
    }
    assert!(data.join("presence.db").exists());
    assert_eq!(restore(&backup, &data).await.unwrap()["messages"], 3);
    let im = Im::start(&data, &[]).await;
    assert_eq!(Client::login(im.address, "bob", "phone").await.sync(ROOM, 0, 0).await.last_seq, 3);
}
