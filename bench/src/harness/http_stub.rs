//! An HTTP/1.1 endpoint for tests: says who it is and what arrived, or exactly the bytes that a script tells it to.

use std::{
    fmt,
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU16, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use anyhow::{Result, ensure};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::sleep,
};

use super::{locked, service::Service};

/// The largest head and the largest body that are taken.
const MOST: usize = 8 << 20;
/// How much of everything that arrived is kept for the test to look at.
const RECORDED: usize = 1 << 20;
const MOST_FIELDS: usize = 200;

/// One step of a scripted answer.
#[derive(Debug, Clone)]
pub enum Action {
    /// Sends raw bytes.
    Send(Vec<u8>),
    /// Does nothing for a time.
    Pause(Duration),
    /// Reads this many bytes that follow the head, such as a body.
    Read(usize),
    /// Sends back everything from here on until the peer ends.
    Echo,
    /// Ends the connection in order.
    Close,
    /// Ends the connection with a reset.
    Reset,
}

/// Given a request's head, what to do. Without `Echo`, `Close` or `Reset` the connection then waits for another head.
type Script = dyn Fn(Vec<u8>) -> Vec<Action> + Send + Sync;

/// The endpoint. Without a script it answers `200` (or the status that is set) with a JSON body: `name`, `method`,
/// `path`, `version`, `headers` (names in lower case; repeated ones joined by `, `), `body` (as text) and `peer`.
#[derive(Debug)]
pub struct HttpStub {
    service: Service,
    shared: Arc<Shared>,
}

struct Shared {
    name: String,
    status: AtomicU16,
    script: Option<Box<Script>>,
    requests: AtomicU64,
    connections: AtomicU64,
    received: Mutex<Vec<u8>>,
    heads: Mutex<Vec<String>>,
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").field("name", &self.name).finish_non_exhaustive()
    }
}

impl HttpStub {
    /// Starts on 127.0.0.1 with JSON answers.
    ///
    /// # Errors
    /// When no port can be bound.
    pub async fn start(name: &str) -> Result<Self> {
        Self::start_on("127.0.0.1:0", name, None).await
    }

    /// Starts on 127.0.0.1 with a script.
    ///
    /// # Errors
    /// When no port can be bound.
    pub async fn scripted(name: &str, script: impl Fn(Vec<u8>) -> Vec<Action> + Send + Sync + 'static) -> Result<Self> {
        Self::start_on("127.0.0.1:0", name, Some(Box::new(script))).await
    }

    async fn start_on(bind: &str, name: &str, script: Option<Box<Script>>) -> Result<Self> {
        let shared = Shared {
            name: name.into(),
            status: AtomicU16::new(200),
            script,
            requests: AtomicU64::new(0),
            connections: AtomicU64::new(0),
            received: Mutex::default(),
            heads: Mutex::default(),
        };
        let mut stub = Self { service: Service::at(bind)?, shared: Arc::new(shared) };
        stub.restart().await?;
        Ok(stub)
    }

    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.service.address()
    }

    /// How many heads were read.
    #[must_use]
    pub fn requests(&self) -> u64 {
        self.shared.requests.load(Relaxed)
    }

    /// How many connections were accepted.
    #[must_use]
    pub fn connections(&self) -> u64 {
        self.shared.connections.load(Relaxed)
    }

    /// Every byte that arrived, up to 1 MiB, connections one after the other as their bytes came.
    #[must_use]
    pub fn received(&self) -> Vec<u8> {
        locked(&self.shared.received).clone()
    }

    /// The heads that arrived, as text, up to 1 MiB of them.
    #[must_use]
    pub fn heads(&self) -> Vec<String> {
        locked(&self.shared.heads).clone()
    }

    /// The status of JSON answers from now on, such as 503 to fail a probe.
    pub fn set_status(&self, status: u16) {
        self.shared.status.store(status, Relaxed);
    }

    /// Stops listening and drops every connection.
    pub async fn stop(&mut self) {
        self.service.stop().await;
    }

    /// Listens again on the same port, after [`stop`](Self::stop).
    ///
    /// # Errors
    /// When the port was taken by somebody else meanwhile.
    pub async fn restart(&mut self) -> Result<()> {
        let shared = Arc::clone(&self.shared);
        let connection = move |stream, peer| {
            shared.connections.fetch_add(1, Relaxed);
            Connection { stream, peer, unread: Vec::new(), shared: Arc::clone(&shared) }.run()
        };
        self.service.restart(connection).await
    }
}

struct Connection {
    stream: TcpStream,
    peer: SocketAddr,
    unread: Vec<u8>,
    shared: Arc<Shared>,
}

impl Connection {
    async fn run(mut self) -> Result<()> {
        self.stream.set_nodelay(true)?;
        while let Some(head) = self.head().await? {
            let goes_on = match &self.shared.script {
                Some(script) => {
                    let actions = script(head);
                    self.act(actions).await?
                }
                None => self.answer(&head).await?,
            };
            if !goes_on {
                break;
            }
        }
        Ok(())
    }

    /// The next head; `None` when the peer has ended.
    async fn head(&mut self) -> Result<Option<Vec<u8>>> {
        loop {
            if let Some(at) = self.unread.windows(4).position(|window| window == b"\r\n\r\n") {
                let head: Vec<u8> = self.unread.drain(..at + 4).collect();
                self.shared.requests.fetch_add(1, Relaxed);
                let mut heads = locked(&self.shared.heads);
                if heads.iter().map(String::len).sum::<usize>() < RECORDED {
                    heads.push(String::from_utf8_lossy(&head).into_owned());
                }
                return Ok(Some(head));
            }
            ensure!(self.unread.len() < MOST, "a head without an end");
            if self.read().await? == 0 {
                return Ok(None);
            }
        }
    }

    async fn read(&mut self) -> Result<usize> {
        let before = self.unread.len();
        let read = self.stream.read_buf(&mut self.unread).await?;
        let mut received = locked(&self.shared.received);
        let room = RECORDED.saturating_sub(received.len()).min(read);
        received.extend_from_slice(&self.unread[before..before + room]);
        Ok(read)
    }

    /// Reads until `count` bytes are unread, and takes them.
    async fn take(&mut self, count: usize) -> Result<Vec<u8>> {
        ensure!(count <= MOST, "a body of {count} bytes");
        while self.unread.len() < count {
            ensure!(self.read().await? > 0, "the peer ended inside a body");
        }
        Ok(self.unread.drain(..count).collect())
    }

    /// Does what the script says. False when the connection is over.
    async fn act(&mut self, actions: Vec<Action>) -> Result<bool> {
        for action in actions {
            match action {
                Action::Send(bytes) => self.stream.write_all(&bytes).await?,
                Action::Pause(time) => sleep(time).await,
                Action::Read(count) => _ = self.take(count).await?,
                Action::Echo => {
                    self.echo().await?;
                    return Ok(false);
                }
                Action::Close => {
                    self.stream.shutdown().await?;
                    self.swallow_rest().await?;
                    return Ok(false);
                }
                Action::Reset => {
                    socket2::SockRef::from(&self.stream).set_linger(Some(Duration::ZERO))?;
                    return Ok(false);
                }
            }
        }
        Ok(true)
    }

    /// Reads what still comes, so that closing sends no reset that would overtake the answer.
    async fn swallow_rest(&mut self) -> Result<()> {
        while self.read().await? > 0 {
            self.unread.clear();
        }
        Ok(())
    }

    async fn echo(&mut self) -> Result<()> {
        loop {
            let bytes = std::mem::take(&mut self.unread);
            self.stream.write_all(&bytes).await?;
            if self.read().await? == 0 {
                return Ok(self.stream.shutdown().await?);
            }
        }
    }

    /// The JSON answer. False when the request asked to close.
    async fn answer(&mut self, head: &[u8]) -> Result<bool> {
        let mut fields = [httparse::EMPTY_HEADER; MOST_FIELDS];
        let mut request = httparse::Request::new(&mut fields);
        ensure!(request.parse(head)?.is_complete(), "a head that is none");
        let mut headers = serde_json::Map::new();
        for field in request.headers.iter() {
            let value = String::from_utf8_lossy(field.value);
            match headers.get_mut(&field.name.to_lowercase()) {
                Some(Value::String(known)) => *known += &format!(", {value}"),
                _ => _ = headers.insert(field.name.to_lowercase(), json!(value)),
            }
        }
        let (method, path) = (request.method.unwrap_or_default(), request.path.unwrap_or_default());
        let version = format!("1.{}", request.version.unwrap_or_default());
        let text = |name: &str| headers.get(name).and_then(Value::as_str).unwrap_or_default().to_lowercase();
        let body = if text("transfer-encoding") == "chunked" {
            self.chunks().await?
        } else {
            self.take(text("content-length").parse().unwrap_or(0)).await?
        };
        let closes = text("connection").contains("close") || version == "1.0";
        let answer = json!({
            "name": self.shared.name, "method": method, "path": path, "version": version, "headers": headers,
            "body": String::from_utf8_lossy(&body), "peer": self.peer.to_string(),
        });
        let body = if method == "HEAD" { String::new() } else { answer.to_string() };
        let head = format!(
            "HTTP/1.1 {} stub\r\ncontent-type: application/json\r\ncontent-length: {}\r\n{}\r\n",
            self.shared.status.load(Relaxed),
            answer.to_string().len(),
            if closes { "connection: close\r\n" } else { "" },
        );
        self.stream.write_all((head + &body).as_bytes()).await?;
        Ok(!closes)
    }

    async fn chunks(&mut self) -> Result<Vec<u8>> {
        let mut body = Vec::new();
        loop {
            let line = self.line().await?;
            let size = usize::from_str_radix(line.split(';').next().unwrap_or_default().trim(), 16)?;
            if size == 0 {
                while !self.line().await?.is_empty() {}
                return Ok(body);
            }
            body.extend(self.take(size).await?);
            self.take(2).await?;
        }
    }

    async fn line(&mut self) -> Result<String> {
        loop {
            if let Some(at) = self.unread.windows(2).position(|window| window == b"\r\n") {
                let line = self.take(at + 2).await?;
                return Ok(String::from_utf8_lossy(&line[..at]).into_owned());
            }
            ensure!(self.unread.len() < MOST && self.read().await? > 0, "a line without an end");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::harness::{RawClient, http};

    #[tokio::test]
    async fn it_says_who_it_is_and_what_arrived() {
        let stub = HttpStub::start("one").await.unwrap();
        let fields = [("X-A", "1"), ("x-a", "2")];
        let answer = http::request(stub.address(), "POST", "/p?q", &fields, b"body").await.unwrap().json().unwrap();
        assert_eq!(
            (&answer["name"], &answer["path"], &answer["body"]),
            (&json!("one"), &json!("/p?q"), &json!("body"))
        );
        assert_eq!(answer["headers"]["x-a"], "1, 2");
        stub.set_status(503);
        assert_eq!(http::get(stub.address(), "/").await.unwrap().status, 503);
        assert_eq!((stub.requests(), stub.connections(), stub.heads().len()), (2, 2, 2));
    }

    #[tokio::test]
    async fn a_connection_takes_several_requests_and_chunked_bodies() {
        let stub = HttpStub::start("one").await.unwrap();
        let mut client = RawClient::connect(stub.address()).await.unwrap();
        let request =
            b"POST /1 HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\nGET /2 HTTP/1.1\r\n\r\n";
        client.send(request).await.unwrap();
        assert_eq!(http::read_answer(&mut client, "POST").await.unwrap().json().unwrap()["body"], "abc");
        assert_eq!(http::read_answer(&mut client, "GET").await.unwrap().json().unwrap()["path"], "/2");
        assert_eq!(stub.received(), request);
    }

    #[tokio::test]
    async fn a_script_says_exact_bytes_and_then_echoes_what_came_with_the_head() {
        let answer = b"HTTP/1.1 101 Switching Protocols\r\n\r\nhello";
        let stub = HttpStub::scripted("ws", |_| vec![Action::Send(answer.to_vec()), Action::Echo]).await.unwrap();
        let mut client = RawClient::connect(stub.address()).await.unwrap();
        client.send(b"GET /ws HTTP/1.1\r\n\r\nearly").await.unwrap();
        assert_eq!(client.read_exact(answer.len() + 5).await.unwrap(), [&answer[..], b"early"].concat());
        client.finish().await.unwrap();
        client.expect_eof().await.unwrap();
    }

    #[tokio::test]
    async fn it_comes_back_on_the_same_port() {
        let mut stub = HttpStub::start("one").await.unwrap();
        stub.stop().await;
        assert!(http::get(stub.address(), "/").await.is_err());
        stub.restart().await.unwrap();
        assert_eq!(http::get(stub.address(), "/").await.unwrap().status, 200);
    }
}
