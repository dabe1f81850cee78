//! Starts `warbler-im` on a free port, waits for its ready line, and kills it by its id when the test is over.

use std::{
    net::SocketAddr,
    path::Path,
    process::{ExitStatus, Stdio},
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::TcpStream,
    process::{Child, Command},
    time::{Instant, sleep, timeout},
};

/// Longer than anything here takes on a slow machine; reached only by a failure.
pub(crate) const DEADLINE: Duration = Duration::from_secs(20);
pub(crate) const SECRET: &str = "a secret of the tests, 32 bytes and more";

pub(crate) struct Im {
    child: Child,
    pub(crate) address: SocketAddr,
    pub(crate) ready: Value,
}

/// A free port of loopback.
pub(crate) const ANY: &str = "127.0.0.1:0";

pub(crate) fn command(data: &Path, options: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_warbler-im"));
    command.args(["run", "--bind", "127.0.0.1:0", "--threads", "1", "--data"]).arg(data).args(options);
    command.env("WARBLER_IM_JWT_SECRET", SECRET).stdin(Stdio::null()).kill_on_drop(true);
    command
}

impl Im {
    pub(crate) async fn start(data: &Path, options: &[&str]) -> Self {
        Self::of(command(data, options)).await
    }

    pub(crate) async fn of(mut command: Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let line = timeout(DEADLINE, lines.next_line()).await.expect("a ready line in time").unwrap();
        let ready: Value = serde_json::from_str(&line.expect("a ready line before the end")).unwrap();
        let address = ready["addresses"]["http"][0].as_str().unwrap().parse().unwrap();
        Self { child, address, ready }
    }

    /// The first address of a kind: `tcp`, `agent`.
    pub(crate) fn address_of(&self, kind: &str) -> SocketAddr {
        self.ready["addresses"][kind][0].as_str().expect("it was asked for").parse().unwrap()
    }

    /// Its anonymous memory, in bytes. Not PSS: what of the program's file counts there depends on how many others run it.
    pub(crate) fn memory(&self) -> usize {
        let pid = self.child.id().expect("it runs");
        let rollup = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap();
        let line = rollup.lines().find_map(|line| line.strip_prefix("Anonymous:")).expect("Linux tells it");
        line.trim().strip_suffix(" kB").expect("in kilobytes").parse::<usize>().unwrap() * 1024
    }

    pub(crate) fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(self.child.id().expect("it runs").cast_signed()).unwrap();
        kill_process(pid, signal).unwrap();
    }

    pub(crate) async fn ended(&mut self) -> ExitStatus {
        timeout(DEADLINE, self.child.wait()).await.expect("the process ends in time").unwrap()
    }

    pub(crate) async fn kill_9(mut self) {
        self.signal(Signal::KILL);
        self.ended().await;
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        request(self.address, &format!("GET {path} HTTP/1.1\r\nHost: im\r\nConnection: close\r\n\r\n")).await
    }

    pub(crate) async fn post(&self, path: &str, body: &str) -> Answer {
        let head = format!("POST {path} HTTP/1.1\r\nHost: im\r\nConnection: close\r\nContent-Length: {}", body.len());
        request(self.address, &format!("{head}\r\n\r\n{body}")).await
    }

    /// A request of the HTTP API by a user, with `headers` that end with a line break each.
    pub(crate) async fn api(&self, user: &str, method: &str, path: &str, headers: &str, body: &str) -> Answer {
        let token = crate::ws::token(user, 3600);
        let head = format!(
            "{method} /api/v1/{path} HTTP/1.1\r\nHost: im\r\nConnection: close\r\nAuthorization: Bearer {token}\r\n\
             {headers}Content-Length: {}\r\n\r\n",
            body.len()
        );
        request(self.address, &(head + body)).await
    }

    pub(crate) async fn fault(&self, wanted: &str) {
        assert_eq!(self.post("/admin/fault", wanted).await.status, 200);
    }
}

pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: String,
}

impl Answer {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.body))
    }
}

/// Sends a request as it is and reads until the server closes.
pub(crate) async fn request(address: SocketAddr, text: &str) -> Answer {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(text.as_bytes()).await.unwrap();
    let mut answer = String::new();
    timeout(DEADLINE, stream.read_to_string(&mut answer)).await.expect("an answer in time").unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").expect("a whole head");
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    Answer { status, head: head.to_ascii_lowercase(), body: body.to_owned() }
}

/// Waits for a fact.
pub(crate) async fn eventually<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + DEADLINE;
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(Instant::now() < deadline, "not in time: {what}");
        sleep(Duration::from_millis(10)).await;
    }
}
