//! Listeners: sockets that stay, plans that change.
//!
//! A listener is known by its name and keeps its [`ListenerSlot`] for the life of the process; each of its addresses is
//! a socket known by (listener, position), so that a port that the kernel chose survives reloads. What a connection is
//! served by is the [`ListenerPlan`] of the snapshot at the time it is accepted.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;

use socket2::{Domain, Protocol, Socket, Type};

use crate::config::{self, Name, TcpOptions};
use crate::route::Routes;
use crate::sys;

/// A listener's identity over reloads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ListenerSlot(pub u32);

/// A listener as one snapshot has it.
pub struct ListenerPlan {
    pub slot: ListenerSlot,
    pub config: config::Listener,
    /// Empty on a tcp listener.
    pub routes: Routes,
    pub tls: Option<Arc<rustls::ServerConfig>>,
    /// Listeners of the snapshot before whose sockets this one has now.
    pub took_over: Vec<ListenerSlot>,
    pub identity: Arc<ListenerIdentity>,
}

/// What stays of a listener over reloads; its connections point here.
#[derive(Debug)]
pub struct ListenerIdentity {
    pub slot: ListenerSlot,
    pub name: Name,
    /// Connections now.
    pub open: AtomicUsize,
}

impl ListenerIdentity {
    pub fn new(slot: ListenerSlot, name: Name) -> ListenerIdentity {
        ListenerIdentity { slot, name, open: AtomicUsize::new(0) }
    }
}

impl ListenerPlan {
    pub fn name(&self) -> &Name {
        &self.config.name
    }
}

/// Opens the sockets of one address, one a worker: the kernel spreads connections over them (`SO_REUSEPORT`), and no
/// worker wakes for another's client.
///
/// # Errors
/// When the address cannot be bound.
pub fn open(address: SocketAddr, workers: usize, options: TcpOptions) -> io::Result<Vec<std::net::TcpListener>> {
    let mut sockets = Vec::with_capacity(workers);
    let mut address = address;
    for _ in 0..workers.max(1) {
        let socket = bind(address, true)?;
        sys::prepare(&socket, options)?;
        socket.listen(i32::try_from(options.backlog).unwrap_or(i32::MAX))?;
        let socket: std::net::TcpListener = socket.into();
        address = socket.local_addr()?;
        sockets.push(socket);
    }
    Ok(sockets)
}

/// Whether nobody else listens there. With `SO_REUSEPORT` a second process of the same user would silently take a share
/// of the clients; without it the kernel objects.
///
/// # Errors
/// When somebody does, or the address is not ours to bind.
pub fn is_free(address: SocketAddr) -> io::Result<()> {
    if address.port() != 0 {
        drop(bind(address, false)?);
    }
    Ok(())
}

fn bind(address: SocketAddr, shared: bool) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    if address.is_ipv6() {
        // [::] and 0.0.0.0 are two addresses; who wants both lists both.
        socket.set_only_v6(true)?;
    }
    socket.set_reuse_address(true)?;
    if shared {
        socket.set_reuse_port(true)?;
    }
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    Ok(socket)
}
