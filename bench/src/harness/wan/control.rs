//! Telling a running relay what to be like: one command a line over TCP, one line of answer each.
//!
//! For scripts and people (`echo 'silent on' | nc 127.0.0.1 PORT`). Whoever can connect can command: the address is
//! meant to be one of loopback.

use std::{net::SocketAddr, str::SplitWhitespace, sync::Arc, time::Duration};

use anyhow::{Context, Result, bail, ensure};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    time::timeout,
};

use super::{Direction, Way, Ways};
use crate::{harness::echo_tcp::listen, units};

/// What the commands are, for `--help`.
pub(crate) const COMMANDS: &str = "\
show                     what both directions are like
delay TIME [WAY]         bytes arrive so much later: 40ms, 1.5s
jitter TIME [WAY]        up to so much more, evenly drawn
loss PERCENT [WAY]       of segments, each of which stalls the stream for a retransmission time-out (200ms and the round trip);
                         with --namespace, of packets, which are dropped
rate BYTES|none [WAY]    bytes a second: 64000, 64KiB, 1MiB
silent on|off [WAY]      nothing goes through and nobody is told: half-open connections; connects get no answer
cut                      ends all present connections with a reset; not with --namespace
clear                    as if nothing of this had ever been said
WAY is out (towards --to, or into the namespace) or back; both unless given.";

/// The commands that take a value, the last of them `silent`.
const WITH_VALUE: [&str; 5] = ["delay", "jitter", "loss", "rate", "silent"];
/// Longest line that is taken.
const LONGEST_LINE: u64 = 200;
/// Connections at a time; further ones wait.
const CONNECTIONS: usize = 8;
/// How long a connection may say nothing.
const IDLE: Duration = Duration::from_secs(600);

/// What a command does to a direction.
type Change = Box<dyn Fn(&mut Way)>;

/// The ear of a way.
#[derive(Debug)]
pub struct Control {
    listener: TcpListener,
    ways: Arc<Ways>,
}

impl Control {
    /// Binds the address.
    ///
    /// # Errors
    /// When it cannot be bound.
    pub fn bind(address: SocketAddr, ways: Arc<Ways>) -> Result<Self> {
        Ok(Self { listener: listen(address)?, ways })
    }

    /// # Errors
    /// When the kernel does not tell it.
    pub fn address(&self) -> Result<SocketAddr> {
        self.listener.local_addr().context("a listener without an address")
    }

    /// Obeys for ever.
    ///
    /// # Errors
    /// When no more connections can be accepted.
    pub async fn run(self) -> Result<()> {
        let room = Arc::new(Semaphore::new(CONNECTIONS));
        loop {
            let seat = Arc::clone(&room).acquire_owned().await?;
            let (stream, _) = self.listener.accept().await.context("cannot accept")?;
            let ways = Arc::clone(&self.ways);
            tokio::spawn(async move {
                // Whoever commands may go at any time.
                _ = obey(stream, &ways).await;
                drop(seat);
            });
        }
    }
}

async fn obey(mut stream: TcpStream, ways: &Ways) -> Result<()> {
    let (read, mut write) = stream.split();
    let mut read = BufReader::new(read);
    loop {
        let mut line = String::new();
        let mut limited = (&mut read).take(LONGEST_LINE);
        if timeout(IDLE, limited.read_line(&mut line)).await?? == 0 {
            return Ok(());
        }
        let answer = match command(&line, ways) {
            Ok(answer) => answer + "\n",
            Err(error) => format!("error: {error:#}\n"),
        };
        write.write_all(answer.as_bytes()).await?;
    }
}

/// Does what one line says and answers. A line with a mistake in it changes nothing.
fn command(line: &str, ways: &Ways) -> Result<String> {
    let mut words = line.split_whitespace();
    match words.next().context("an empty line is no command")? {
        "show" => {
            end(words)?;
            return Ok(format!("out: {}; back: {}", ways.way(Direction::Out), ways.way(Direction::Back)));
        }
        "cut" => {
            end(words)?;
            ensure!(
                ways.carries_connections(),
                "packets are carried here: there is no connection to cut, only `silent on`"
            );
            ways.cut();
        }
        "clear" => {
            end(words)?;
            ways.change_both(|way| *way = Way::default());
        }
        name => {
            let change = change(name, words.next())?;
            let direction = direction(&mut words)?;
            end(words)?;
            match direction {
                Some(direction) => ways.change(direction, change),
                None => ways.change_both(change),
            }
        }
    }
    Ok("ok".into())
}

fn end(mut words: SplitWhitespace<'_>) -> Result<()> {
    words.next().map_or(Ok(()), |word| bail!("{word:?} is too much"))
}

/// What `name value` makes of a direction.
fn change(name: &str, value: Option<&str>) -> Result<Change> {
    ensure!(WITH_VALUE.contains(&name), "there is no command {name:?}: show, cut, clear, {}", WITH_VALUE.join(", "));
    let value = value.with_context(|| format!("{name} needs a value"))?;
    Ok(match name {
        "delay" => {
            let delay = units::duration(value)?;
            Box::new(move |way| way.delay = delay)
        }
        "jitter" => {
            let jitter = units::duration(value)?;
            Box::new(move |way| way.jitter = jitter)
        }
        "loss" => {
            let loss = units::share(value)?;
            Box::new(move |way| way.loss = loss)
        }
        "rate" => {
            let rate = if value == "none" { None } else { Some(units::bytes(value)?) };
            Box::new(move |way| way.bytes_per_second = rate)
        }
        _ => {
            let silent = match value {
                "on" => true,
                "off" => false,
                _ => bail!("{value:?} is neither on nor off"),
            };
            Box::new(move |way| way.silent = silent)
        }
    })
}

fn direction(words: &mut SplitWhitespace<'_>) -> Result<Option<Direction>> {
    Ok(match words.next() {
        None => None,
        Some("out") => Some(Direction::Out),
        Some("back") => Some(Direction::Back),
        Some(other) => bail!("{other:?} is neither out nor back"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::harness::{EchoTcp, RawClient, Wan};

    async fn wan() -> (EchoTcp, Wan) {
        let server = EchoTcp::start().await.unwrap();
        let anywhere = SocketAddr::from(([127, 0, 0, 1], 0));
        let wan = Wan::start(anywhere, server.address(), Duration::ZERO).await.unwrap();
        (server, wan)
    }

    #[tokio::test]
    async fn each_command_changes_what_it_names() {
        let (_server, wan) = wan().await;
        for line in ["delay 40ms", "jitter 5ms out", "loss 2% back", "rate 64KiB back", "silent on out"] {
            assert_eq!(command(line, wan.ways()).unwrap(), "ok", "{line}");
        }
        let shown = command("show\n", wan.ways()).unwrap();
        let out = "out: delay 40ms, jitter 5ms, loss 0.00%, rate none, silent";
        assert_eq!(shown, format!("{out}; back: delay 40ms, jitter 0ns, loss 2.00%, rate 65536"));
        command("clear", wan.ways()).unwrap();
        assert_eq!(wan.ways().way(Direction::Out), Way::default());
    }

    #[tokio::test]
    async fn what_is_no_command_changes_nothing_and_is_told_so() {
        let (_server, wan) = wan().await;
        for line in [
            "",
            "fly",
            "fly high",
            "delay",
            "delay 40",
            "loss 120%",
            "rate x",
            "silent maybe",
            "delay 1s out in",
            "cut it",
        ] {
            assert!(command(line, wan.ways()).is_err(), "{line}");
        }
        assert!(command("delay 1s sideways", wan.ways()).unwrap_err().to_string().contains("neither out nor back"));
        assert!(command("nonsense 1", wan.ways()).unwrap_err().to_string().contains("jitter, loss"));
        assert_eq!(wan.ways().way(Direction::Back), Way::default());
    }

    #[tokio::test]
    async fn commands_come_over_a_socket_and_reach_open_connections() {
        let (_server, wan) = wan().await;
        let control = Control::bind(SocketAddr::from(([127, 0, 0, 1], 0)), Arc::clone(wan.ways())).unwrap();
        let mut commands = RawClient::connect(control.address().unwrap()).await.unwrap();
        tokio::spawn(control.run());
        let mut client = RawClient::connect(wan.address()).await.unwrap();
        client.send(b"x").await.unwrap();
        client.read_exact(1).await.unwrap();
        commands.send(b"nothing\ncut\n").await.unwrap();
        assert!(commands.read_until(b"\n").await.unwrap().starts_with(b"error: "));
        assert_eq!(commands.read_until(b"\n").await.unwrap(), b"ok\n");
        assert!(client.read_exact(1).await.is_err());
    }

    #[test]
    fn where_packets_are_carried_there_is_no_connection_to_cut() {
        let ways = Ways::new(Way::default(), false);
        assert!(command("cut", &ways).unwrap_err().to_string().contains("silent on"));
        assert_eq!(command("loss 1%", &ways).unwrap(), "ok");
    }
}
