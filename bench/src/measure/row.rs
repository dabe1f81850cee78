//! What can be measured: rows, each one measure over one protocol, with a name such as `message/websocket-tls`.

use std::fmt;

use anyhow::{Result, bail};
use serde::{Serialize, Serializer};

use super::figure::Figure;
use crate::serve::Kind;

/// One row of a comparison.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Row {
    pub(crate) measure: Measure,
    pub(crate) protocol: Protocol,
}

/// What is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Measure {
    /// User memory by silent tunnel.
    Idle,
    /// CPU by message there and back.
    Message,
    /// CPU and rate of tunnels that come, carry one message and go.
    Connect,
    /// The same with a full TLS handshake.
    HandshakeFull,
    /// The same with a TLS handshake that resumes a session.
    HandshakeResumed,
    /// CPU by HTTP request.
    Request,
    /// What a proxy adds to the time of a message or request, at a fixed rate.
    Latency,
    /// Bytes by CPU second of one large download.
    Bulk,
    /// The memory that comes back when every tunnel has closed.
    GivenBack,
}

/// What is spoken with the client. The endpoint never speaks TLS, and HTTP/1.1 at most.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Protocol {
    Tcp,
    WebSocket,
    /// TLS with opaque bytes in it.
    Tls,
    WebSocketTls,
    Http1,
    Http1Tls,
    /// Over TLS, chosen by ALPN.
    Http2,
}

/// Everything, in the order of measuring and of the report.
pub(crate) const ROWS: [Row; 27] = [
    Row::new(Measure::Idle, Protocol::Tcp),
    Row::new(Measure::Idle, Protocol::WebSocket),
    Row::new(Measure::Idle, Protocol::Tls),
    Row::new(Measure::Idle, Protocol::WebSocketTls),
    Row::new(Measure::Message, Protocol::Tcp),
    Row::new(Measure::Message, Protocol::WebSocket),
    Row::new(Measure::Message, Protocol::Tls),
    Row::new(Measure::Message, Protocol::WebSocketTls),
    Row::new(Measure::Connect, Protocol::Tcp),
    Row::new(Measure::Connect, Protocol::WebSocket),
    Row::new(Measure::Connect, Protocol::WebSocketTls),
    Row::new(Measure::HandshakeFull, Protocol::Tls),
    Row::new(Measure::HandshakeResumed, Protocol::Tls),
    Row::new(Measure::Request, Protocol::Http1),
    Row::new(Measure::Request, Protocol::Http1Tls),
    Row::new(Measure::Request, Protocol::Http2),
    Row::new(Measure::Latency, Protocol::Tcp),
    Row::new(Measure::Latency, Protocol::WebSocket),
    Row::new(Measure::Latency, Protocol::Tls),
    Row::new(Measure::Latency, Protocol::WebSocketTls),
    Row::new(Measure::Latency, Protocol::Http1),
    Row::new(Measure::Latency, Protocol::Http1Tls),
    Row::new(Measure::Latency, Protocol::Http2),
    Row::new(Measure::Bulk, Protocol::Tcp),
    Row::new(Measure::Bulk, Protocol::Tls),
    Row::new(Measure::GivenBack, Protocol::Tcp),
    Row::new(Measure::GivenBack, Protocol::Tls),
];

impl Row {
    pub(crate) const fn new(measure: Measure, protocol: Protocol) -> Self {
        Self { measure, protocol }
    }

    /// The rows that a name stands for: one row (`message/tcp`), or all of a measure (`message`).
    ///
    /// # Errors
    /// When it is no name: the error has those that there are.
    pub fn named(name: &str) -> Result<Vec<Self>> {
        let found: Vec<Self> =
            ROWS.into_iter().filter(|row| row.to_string() == name || row.measure.name() == name).collect();
        if found.is_empty() {
            let mut measures: Vec<&str> = ROWS.iter().map(|row| row.measure.name()).collect();
            measures.dedup();
            let rows: Vec<String> = ROWS.iter().map(ToString::to_string).collect();
            bail!("there is no {name:?}: the measures are {}; the rows are {}", measures.join(", "), rows.join(", "));
        }
        Ok(found)
    }

    /// These rows in their order, each once; all of them if none is given.
    pub(crate) fn chosen(only: &[Self]) -> Vec<Self> {
        ROWS.into_iter().filter(|row| only.is_empty() || only.contains(row)).collect()
    }

    /// The endpoint behind the proxy.
    pub(crate) fn endpoint(self) -> Kind {
        match (self.measure, self.protocol) {
            (Measure::Bulk, _) => Kind::Bulk,
            (_, Protocol::Tcp | Protocol::Tls) => Kind::TcpEcho,
            (_, Protocol::WebSocket | Protocol::WebSocketTls) => Kind::WsEcho,
            (_, Protocol::Http1 | Protocol::Http1Tls | Protocol::Http2) => Kind::Http,
        }
    }

    /// What is told of it.
    pub(crate) fn figures(self) -> &'static [Figure] {
        match self.measure {
            Measure::Idle => &[Figure::Memory],
            Measure::Message | Measure::Request => &[Figure::Cpu],
            Measure::Connect | Measure::HandshakeFull | Measure::HandshakeResumed => &[Figure::Cpu, Figure::Rate],
            Measure::Latency => &[Figure::P50, Figure::QuietP99, Figure::P99, Figure::P999],
            Measure::Bulk => &[Figure::Speed],
            Measure::GivenBack => &[Figure::GivenBack, Figure::LeftOver],
        }
    }

    /// The row in words.
    pub(crate) fn title(self) -> String {
        let protocol = self.protocol;
        match self.measure {
            Measure::Idle => format!("idle {protocol} tunnel"),
            Measure::Message => format!("200-byte message over {protocol}, there and back"),
            Measure::Connect => format!("new {protocol} tunnel with one message"),
            Measure::HandshakeFull => "new TLS tunnel with one message, full handshake".into(),
            Measure::HandshakeResumed => "new TLS tunnel with one message, resumed".into(),
            Measure::Request => format!("small {protocol} request, keep-alive"),
            Measure::Latency => format!("time added, {protocol}"),
            Measure::Bulk => format!("download over {protocol}"),
            Measure::GivenBack => format!("memory of closed {protocol} tunnels"),
        }
    }
}

impl Measure {
    fn name(self) -> &'static str {
        match self {
            Self::Idle => "idle",
            Self::Message => "message",
            Self::Connect => "connect",
            Self::HandshakeFull => "handshake-full",
            Self::HandshakeResumed => "handshake-resumed",
            Self::Request => "request",
            Self::Latency => "latency",
            Self::Bulk => "bulk",
            Self::GivenBack => "given-back",
        }
    }
}

impl Protocol {
    pub(crate) const ALL: [Self; 7] =
        [Self::Tcp, Self::WebSocket, Self::Tls, Self::WebSocketTls, Self::Http1, Self::Http1Tls, Self::Http2];

    /// Whether the client speaks TLS.
    pub(crate) fn is_tls(self) -> bool {
        matches!(self, Self::Tls | Self::WebSocketTls | Self::Http1Tls | Self::Http2)
    }

    /// Whether the proxy sees opaque bytes, and no HTTP.
    pub(crate) fn is_opaque(self) -> bool {
        matches!(self, Self::Tcp | Self::Tls)
    }

    pub(crate) fn is_http(self) -> bool {
        matches!(self, Self::Http1 | Self::Http1Tls | Self::Http2)
    }

    /// What an endpoint understands when nobody stands between.
    pub(crate) fn spoken_directly(self) -> Self {
        match self {
            Self::Tcp | Self::Tls => Self::Tcp,
            Self::WebSocket | Self::WebSocketTls => Self::WebSocket,
            Self::Http1 | Self::Http1Tls | Self::Http2 => Self::Http1,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::WebSocket => "websocket",
            Self::Tls => "tls",
            Self::WebSocketTls => "websocket-tls",
            Self::Http1 => "http1",
            Self::Http1Tls => "http1-tls",
            Self::Http2 => "http2",
        }
    }
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.measure.name(), self.protocol.name())
    }
}

impl Serialize for Row {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "TCP",
            Self::WebSocket => "WebSocket",
            Self::Tls => "TLS",
            Self::WebSocketTls => "WebSocket over TLS",
            Self::Http1 => "HTTP/1.1",
            Self::Http1Tls => "HTTP/1.1 over TLS",
            Self::Http2 => "HTTP/2",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn every_row_has_a_name_of_its_own_by_which_it_is_chosen() {
        let names: HashSet<String> = ROWS.iter().map(ToString::to_string).collect();
        assert_eq!(names.len(), ROWS.len());
        for row in ROWS {
            assert_eq!(Row::named(&row.to_string()).unwrap(), [row]);
        }
    }

    #[test]
    fn a_measure_stands_for_all_its_rows() {
        let idle = Row::named("idle").unwrap();
        assert_eq!(idle.len(), 4);
        assert!(idle.iter().all(|row| row.measure == Measure::Idle));
    }

    #[test]
    fn a_wrong_name_comes_with_the_right_ones() {
        let error = Row::named("mesage/tcp").unwrap_err().to_string();
        assert!(error.contains("message/tcp") && error.contains("handshake-full, "), "{error}");
    }

    #[test]
    fn rows_are_measured_in_their_order_and_once_however_they_were_named() {
        let mut named = Row::named("message/tcp").unwrap();
        named.extend(Row::named("idle/tls").unwrap());
        named.extend(Row::named("idle").unwrap());
        let chosen: Vec<String> = Row::chosen(&named).iter().map(ToString::to_string).collect();
        assert_eq!(chosen, ["idle/tcp", "idle/websocket", "idle/tls", "idle/websocket-tls", "message/tcp"]);
        assert_eq!(Row::chosen(&[]).len(), ROWS.len());
    }
}
