//! Listening sockets over reloads: opened before a configuration is published, closed after.
//!
//! The control thread keeps a handle of every socket. A listener that keeps an address keeps its socket, whatever else
//! changes; one that takes over the address of another takes the socket with it, queue and all.

use std::collections::BTreeMap;
use std::io;
use std::net::{SocketAddr, TcpListener};

use tokio::sync::mpsc;

use crate::config::{self, Config, Name, TcpOptions};
use crate::events;
use crate::listener::{self, ListenerSlot};
use crate::sys;
use crate::worker::{SocketKey, WorkerCommand};

/// Every socket that is open, and the workers that accept on them.
pub struct Sockets {
    workers: Vec<mpsc::Sender<WorkerCommand>>,
    open: BTreeMap<SocketKey, OpenSocket>,
}

struct OpenSocket {
    listener: Name,
    /// As configured; port 0 for one that the kernel chose.
    asked: SocketAddr,
    bound: SocketAddr,
    /// One a worker.
    handles: Vec<TcpListener>,
}

impl OpenSocket {
    /// Linux takes new options and a new backlog for a socket that listens already.
    fn take(&self, options: TcpOptions) {
        let backlog = i32::try_from(options.backlog).unwrap_or(i32::MAX);
        for handle in &self.handles {
            let taken = sys::prepare(handle, options);
            if let Err(error) = taken.and_then(|()| Ok(rustix::net::listen(handle, backlog)?)) {
                events::socket_lost(&error);
            }
        }
    }
}

/// The sockets for a configuration that is not published yet.
pub struct Prepared {
    keep: BTreeMap<SocketKey, SocketKey>,
    fresh: BTreeMap<SocketKey, OpenSocket>,
}

impl Prepared {
    /// The listeners that give a socket to this one.
    pub fn given_to(&self, slot: ListenerSlot) -> Vec<ListenerSlot> {
        let moved = self.keep.iter().filter(|(key, old)| key.slot == slot && old.slot != slot);
        moved.map(|(_, old)| old.slot).collect()
    }
}

/// A socket that cannot be had.
#[derive(Debug, thiserror::Error)]
#[error("listener `{listener}` cannot listen on {address}: {cause}")]
pub struct BindError {
    pub listener: Name,
    pub address: SocketAddr,
    pub cause: io::Error,
}

impl Sockets {
    pub fn new(workers: Vec<mpsc::Sender<WorkerCommand>>) -> Sockets {
        Sockets { workers, open: BTreeMap::new() }
    }

    /// Finds or opens a socket for each address. Nothing changes for the running listeners.
    ///
    /// # Errors
    /// Every address that cannot be bound.
    pub fn prepare(
        &self,
        config: &Config,
        slot_of: impl Fn(&Name) -> ListenerSlot,
    ) -> Result<Prepared, Vec<BindError>> {
        let mut prepared = Prepared { keep: BTreeMap::new(), fresh: BTreeMap::new() };
        let mut errors = Vec::new();
        let mut free: Vec<SocketKey> = self.open.keys().copied().collect();
        let wanted: Vec<(SocketKey, &config::Listener, SocketAddr)> = config
            .listeners
            .iter()
            .flat_map(|listener| {
                let slot = slot_of(&listener.name);
                listener
                    .bind
                    .iter()
                    .enumerate()
                    .map(move |(index, asked)| (SocketKey { slot, index }, listener, *asked))
            })
            .collect();
        // A listener's own sockets first, then those that another one gives up.
        let mut missing = Vec::new();
        for (key, listener, asked) in wanted {
            match take(&mut free, |old| old.slot == key.slot && self.open[old].asked == asked) {
                Some(old) => drop(prepared.keep.insert(key, old)),
                None => missing.push((key, listener, asked)),
            }
        }
        for (key, listener, asked) in missing {
            if let Some(old) = take(&mut free, |old| asked.port() != 0 && self.open[old].asked == asked) {
                prepared.keep.insert(key, old);
                continue;
            }
            // One of ours on the same port, about to go or on another address, is no stranger.
            let ours = self.open.values().any(|open| open.bound.port() == asked.port());
            match open(listener, asked, self.workers.len(), ours) {
                Ok(socket) => drop(prepared.fresh.insert(key, socket)),
                Err(cause) => errors.push(BindError { listener: listener.name.clone(), address: asked, cause }),
            }
        }
        if errors.is_empty() { Ok(prepared) } else { Err(errors) }
    }

    /// Puts prepared sockets to work and closes those that no configuration names any more.
    pub async fn adopt(&mut self, prepared: Prepared, config: &Config, slot_of: impl Fn(&Name) -> ListenerSlot) {
        let mut before = std::mem::take(&mut self.open);
        let mut opened = Vec::new();
        let mut closed: Vec<SocketKey> = Vec::new();
        for (key, old) in prepared.keep {
            let Some(mut socket) = before.remove(&old) else { continue };
            if key != old {
                closed.push(old);
                opened.push(key);
                socket.listener = name_of(config, key.slot, &slot_of);
            }
            if let Some(listener) = config.listeners.iter().find(|listener| listener.name == socket.listener) {
                socket.take(listener.tcp);
            }
            self.open.insert(key, socket);
        }
        for (key, socket) in prepared.fresh {
            opened.push(key);
            events::listener_opened(&socket.listener, socket.bound);
            self.open.insert(key, socket);
        }
        for (key, socket) in &before {
            closed.push(*key);
            events::listener_closed(&socket.listener, socket.bound);
        }
        // Close before open: a key may be closed for one socket and opened for another.
        for socket in closed {
            self.tell_all(|_| Ok(WorkerCommand::Close { socket })).await;
        }
        for key in opened {
            let Some(socket) = self.open.get(&key) else { continue };
            self.tell_all(|worker| {
                Ok(WorkerCommand::Open { socket: key, listener: socket.handles[worker].try_clone()? })
            })
            .await;
        }
    }

    /// Stops listening everywhere.
    pub async fn close_all(&mut self) {
        for (socket, closed) in std::mem::take(&mut self.open) {
            events::listener_closed(&closed.listener, closed.bound);
            self.tell_all(|_| Ok(WorkerCommand::Close { socket })).await;
        }
    }

    /// The bound addresses of each listener, in the order of its configuration.
    pub fn addresses(&self) -> BTreeMap<String, Vec<String>> {
        let mut addresses: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for socket in self.open.values() {
            addresses.entry(socket.listener.to_string()).or_default().push(socket.bound.to_string());
        }
        addresses
    }

    async fn tell_all(&self, command: impl Fn(usize) -> io::Result<WorkerCommand>) {
        for (ix, worker) in self.workers.iter().enumerate() {
            match command(ix) {
                // A worker ends with the process only; then nobody needs to be told.
                Ok(command) => worker.send(command).await.unwrap_or(()),
                Err(error) => events::socket_lost(&error),
            }
        }
    }
}

fn take(free: &mut Vec<SocketKey>, fits: impl Fn(&SocketKey) -> bool) -> Option<SocketKey> {
    let found = free.iter().position(fits)?;
    Some(free.remove(found))
}

fn open(listener: &config::Listener, asked: SocketAddr, workers: usize, ours: bool) -> io::Result<OpenSocket> {
    if !ours {
        listener::is_free(asked)?;
    }
    let handles = listener::open(asked, workers, listener.tcp)?;
    let bound = handles.first().map(TcpListener::local_addr).transpose()?.unwrap_or(asked);
    Ok(OpenSocket { listener: listener.name.clone(), asked, bound, handles })
}

fn name_of(config: &Config, slot: ListenerSlot, slot_of: &impl Fn(&Name) -> ListenerSlot) -> Name {
    config
        .listeners
        .iter()
        .map(|listener| &listener.name)
        .find(|name| slot_of(name) == slot)
        .cloned()
        .unwrap_or_default()
}
