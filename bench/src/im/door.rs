//! Where a client connects, by what, and from where.

use std::{
    fmt, io,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
};
use tokio_rustls::{
    TlsConnector,
    client::TlsStream,
    rustls::{ClientConfig, pki_types::ServerName},
};

use crate::harness::proxy_header;

/// How long a server may take to answer unless the door says otherwise.
const PATIENCE: Duration = Duration::from_secs(10);

/// What carries the frames (docs/protocol.md, section 1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Transport {
    /// One binary message for each, under the subprotocol `im.v1`.
    #[default]
    WebSocket,
    /// Their length in four bytes, big-endian, before each.
    Tcp,
}

/// TLS around the transport.
#[derive(Debug, Clone)]
pub struct Tls {
    pub config: Arc<ClientConfig>,
    /// Whose certificate it must be.
    pub name: ServerName<'static>,
}

/// Where a client connects and how it gets in.
#[derive(Debug, Clone)]
pub struct Door {
    pub address: SocketAddr,
    pub transport: Transport,
    /// Without it the bytes are plain.
    pub tls: Option<Tls>,
    /// The `Host` of the upgrade.
    pub host: String,
    /// The path of the upgrade.
    pub path: String,
    /// Further fields of the upgrade, such as `X-Forwarded-For`.
    pub fields: Vec<(String, String)>,
    /// The address that the client announces by PROXY protocol v2, as if a proxy in front had seen it.
    pub announced: Option<SocketAddr>,
    /// The address that it connects from, such as 127.0.1.7; the kernel's choice unless set.
    pub from: Option<IpAddr>,
    /// How long a server may take to answer.
    pub patience: Duration,
    /// Bytes of the kernel's receive buffer, for a client that is to be a slow reader; the kernel's choice unless set.
    pub receive_buffer: Option<u32>,
}

impl Door {
    /// A server or edge that is entered directly: over WebSocket without TLS, on the protocol's own path.
    #[must_use]
    pub fn new(address: SocketAddr) -> Self {
        Self {
            address,
            transport: Transport::WebSocket,
            tls: None,
            host: address.to_string(),
            path: "/ws".into(),
            fields: Vec::new(),
            announced: None,
            from: None,
            patience: PATIENCE,
            receive_buffer: None,
        }
    }

    /// The same door for a client from elsewhere.
    #[must_use]
    pub fn announcing(self, client: SocketAddr) -> Self {
        Self { announced: Some(client), ..self }
    }

    /// Connects, announces the client, and shakes hands where there is TLS.
    pub(crate) async fn reach(&self) -> io::Result<Pipe> {
        let socket = if self.address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
        if let Some(from) = self.from {
            socket.bind((from, 0).into())?;
        }
        if let Some(bytes) = self.receive_buffer {
            socket.set_recv_buffer_size(bytes)?;
        }
        let mut stream = socket.connect(self.address).await?;
        stream.set_nodelay(true)?;
        if let Some(client) = self.announced {
            stream.write_all(&proxy_header::v2(client, self.address)).await?;
        }
        let Some(Tls { config, name }) = self.tls.clone() else { return Ok(Box::new(stream)) };
        Ok(Box::new(TlsConnector::from(config).connect(name, stream).await?))
    }
}

/// A connection, plain or TLS.
pub(crate) type Pipe = Box<dyn Io>;

/// What both kinds of connection can do.
pub(crate) trait Io: AsyncRead + AsyncWrite + Unpin + Send + fmt::Debug {
    fn socket(&self) -> &TcpStream;
}

impl Io for TcpStream {
    fn socket(&self) -> &TcpStream {
        self
    }
}

impl Io for TlsStream<TcpStream> {
    fn socket(&self) -> &TcpStream {
        self.get_ref().0
    }
}
