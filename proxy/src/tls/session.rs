//! A TLS session that owns no buffer at rest: rustls' unbuffered API, for either side, without a socket.
//!
//! Ciphertext is decrypted where it was read, and plaintext is encrypted into the caller's room. What stays here is the
//! beginning of a record whose end has not come, and what the socket would not take yet; both in buffers of just their
//! size, and idle connections have neither. The buffered API keeps 4 KiB for each (docs/decisions/0008-tls-without-buffers.md).

use std::sync::Arc;

use rustls::client::UnbufferedClientConnection;
use rustls::server::UnbufferedServerConnection;
use rustls::unbuffered::{ConnectionState, EncodeError, EncryptError, UnbufferedStatus, WriteTraffic};
use rustls::{ClientConfig, CommonState, Error, ServerConfig};
use rustls_pki_types::ServerName;

/// Most bytes that one call encrypts: two full records.
pub(super) const MOST_ENCRYPTED: usize = 32 * 1024;
/// Room for them: each of at most three records adds its head, a nonce, a content type and a tag.
pub(super) const ENCRYPTED_ROOM: usize = MOST_ENCRYPTED + 3 * 64;

/// One end of a TLS connection.
pub(super) struct Session {
    machine: Machine,
    /// The beginning of a record, from its first byte on.
    incoming: Vec<u8>,
    /// To be sent, in this order; the first `sent` bytes are.
    outgoing: Vec<u8>,
    sent: usize,
    peer_closed: bool,
    close_said: bool,
    /// What the peer did wrong. The machine must not be asked again then: it would look at what it has refused already.
    failure: Option<Error>,
}

enum Machine {
    Server(UnbufferedServerConnection),
    Client(UnbufferedClientConnection),
}

impl Session {
    /// # Errors
    /// When the configuration cannot be used.
    pub(super) fn server(config: Arc<ServerConfig>) -> Result<Session, Error> {
        Ok(Session::new(Machine::Server(UnbufferedServerConnection::new(config)?)))
    }

    /// # Errors
    /// When the configuration cannot be used.
    pub(super) fn client(config: Arc<ClientConfig>, name: ServerName<'static>) -> Result<Session, Error> {
        let mut session = Session::new(Machine::Client(UnbufferedClientConnection::new(config, name)?));
        // A client begins.
        session.receive(&mut [], |_| {})?;
        Ok(session)
    }

    fn new(machine: Machine) -> Session {
        let (incoming, outgoing) = (Vec::new(), Vec::new());
        Session { machine, incoming, outgoing, sent: 0, peer_closed: false, close_said: false, failure: None }
    }

    pub(super) fn is_handshaking(&self) -> bool {
        self.facts().is_handshaking()
    }

    pub(super) fn alpn_protocol(&self) -> Option<&[u8]> {
        self.facts().alpn_protocol()
    }

    /// The peer has said that nothing more comes.
    pub(super) fn peer_has_closed(&self) -> bool {
        self.peer_closed
    }

    /// # Errors
    /// When the session has failed before.
    pub(super) fn still_works(&self) -> Result<(), Error> {
        self.failure.clone().map_or(Ok(()), Err)
    }

    fn facts(&self) -> &CommonState {
        match &self.machine {
            Machine::Server(server) => server,
            Machine::Client(client) => client,
        }
    }

    /// Puts what is known of the next record in front of `room`, and says how many bytes that are: more are to be read
    /// behind them, and all of it given to [`Session::receive`].
    pub(super) fn begin_record(&self, room: &mut [u8]) -> usize {
        room[..self.incoming.len()].copy_from_slice(&self.incoming);
        self.incoming.len()
    }

    /// Bytes that wait for the rest of their record, or of their handshake message.
    pub(super) fn kept_incoming(&self) -> usize {
        self.incoming.len()
    }

    /// Takes ciphertext and gives the plaintext in it to `plain`, record by record. What the peer is to be told because
    /// of it waits in [`Session::unsent`].
    ///
    /// # Errors
    /// When the peer breaks the protocol, now or before. The alert for it waits to be sent.
    pub(super) fn receive(&mut self, bytes: &mut [u8], mut plain: impl FnMut(&[u8])) -> Result<(), Error> {
        self.still_works()?;
        let mut used = 0;
        loop {
            let (discard, next) = self.step(&mut bytes[used..], Act::Receive(&mut plain));
            used += discard;
            match next {
                Ok(Next::Again) => {}
                Ok(Next::Done(_)) => break,
                Err(error) => {
                    // The alert comes with one more step.
                    let (_, _alert_or_error) = self.step(&mut bytes[used..], Act::Receive(&mut |_| {}));
                    self.failure = Some(error.clone());
                    return Err(error);
                }
            }
        }
        self.keep_incoming(&bytes[used..]);
        Ok(())
    }

    /// Encrypts bytes, at most [`MOST_ENCRYPTED`], into `room`, and says how many bytes of it are to be sent, behind what
    /// waits in [`Session::unsent`].
    ///
    /// # Errors
    /// When the session is over or has failed, or `room` is smaller than [`ENCRYPTED_ROOM`].
    pub(super) fn encrypt(&mut self, bytes: &[u8], room: &mut [u8]) -> Result<usize, Error> {
        self.write(Say::Bytes(bytes), room)
    }

    /// Tells the peer that nothing more comes, once; it waits in [`Session::unsent`].
    ///
    /// # Errors
    /// When the session is over or has failed.
    pub(super) fn say_close(&mut self) -> Result<(), Error> {
        if std::mem::replace(&mut self.close_said, true) {
            return Ok(());
        }
        let mut room = [0; 64];
        let written = self.write(Say::Close, &mut room)?;
        self.queue(&room[..written]);
        Ok(())
    }

    /// Ciphertext that the socket has not taken yet.
    pub(super) fn unsent(&self) -> &[u8] {
        &self.outgoing[self.sent..]
    }

    /// The socket has taken this many bytes of [`Session::unsent`].
    pub(super) fn was_sent(&mut self, bytes: usize) {
        self.sent += bytes;
        if self.sent == self.outgoing.len() {
            (self.outgoing, self.sent) = (Vec::new(), 0);
        }
    }

    /// Keeps ciphertext that the socket would not take.
    pub(super) fn queue(&mut self, bytes: &[u8]) {
        self.outgoing.extend_from_slice(bytes);
    }

    fn keep_incoming(&mut self, rest: &[u8]) {
        // Nothing counts behind a goodbye.
        self.incoming = if self.peer_closed { Vec::new() } else { rest.to_vec() };
    }

    fn write(&mut self, say: Say<'_>, room: &mut [u8]) -> Result<usize, Error> {
        self.still_works()?;
        // The machine remembers how far it is with the record in progress, so it must see it again.
        let mut incoming = std::mem::take(&mut self.incoming);
        let mut used = 0;
        let written = loop {
            let (discard, next) = self.step(&mut incoming[used..], Act::Write(say, room));
            used += discard;
            match next {
                Ok(Next::Again) => {}
                Ok(Next::Done(written)) => break Ok(written),
                Err(error) => break Err(error),
            }
        };
        self.keep_incoming(&incoming[used..]);
        written
    }

    fn step(&mut self, bytes: &mut [u8], act: Act<'_>) -> (usize, Result<Next, Error>) {
        let Session { machine, outgoing, peer_closed, .. } = self;
        match machine {
            Machine::Server(server) => step(server.process_tls_records(bytes), act, outgoing, peer_closed),
            Machine::Client(client) => step(client.process_tls_records(bytes), act, outgoing, peer_closed),
        }
    }
}

/// What is wanted of the machine once it has nothing to do by itself.
enum Act<'a> {
    Receive(&'a mut dyn FnMut(&[u8])),
    Write(Say<'a>, &'a mut [u8]),
}

#[derive(Clone, Copy)]
enum Say<'a> {
    Bytes(&'a [u8]),
    Close,
}

enum Next {
    Again,
    /// With how many bytes were written.
    Done(usize),
}

fn step<Side>(
    status: UnbufferedStatus<'_, '_, Side>,
    act: Act<'_>,
    outgoing: &mut Vec<u8>,
    peer_closed: &mut bool,
) -> (usize, Result<Next, Error>) {
    let UnbufferedStatus { mut discard, state } = status;
    let next = match state {
        Err(error) => Err(error),
        Ok(ConnectionState::EncodeTlsData(mut data)) => {
            append(outgoing, |room| data.encode(room)).map(|()| Next::Again)
        }
        Ok(ConnectionState::TransmitTlsData(data)) => {
            // From here on it is ours to send.
            data.done();
            Ok(Next::Again)
        }
        Ok(ConnectionState::ReadTraffic(mut traffic)) => {
            let Act::Receive(plain) = act else { return (discard, Err(Error::General("plaintext left over".into()))) };
            loop {
                match traffic.next_record() {
                    None => break Ok(Next::Again),
                    Some(Err(error)) => break Err(error),
                    Some(Ok(record)) => {
                        discard += record.discard;
                        plain(record.payload);
                    }
                }
            }
        }
        Ok(ConnectionState::PeerClosed) => {
            *peer_closed = true;
            Ok(Next::Again)
        }
        Ok(ConnectionState::WriteTraffic(traffic)) => perform(traffic, act).map(Next::Done),
        Ok(ConnectionState::BlockedHandshake | ConnectionState::Closed) => match act {
            Act::Receive(_) => Ok(Next::Done(0)),
            Act::Write(..) => Err(Error::HandshakeNotComplete),
        },
        // Early data is never offered.
        Ok(_) => Err(Error::General("a state of TLS that was not asked for".into())),
    };
    (discard, next)
}

fn perform<Side>(mut traffic: WriteTraffic<'_, Side>, act: Act<'_>) -> Result<usize, Error> {
    match act {
        Act::Receive(_) => Ok(0),
        Act::Write(Say::Bytes(bytes), room) => traffic.encrypt(bytes, room).map_err(over),
        Act::Write(Say::Close, room) => traffic.queue_close_notify(room).map_err(over),
    }
}

/// Encodes behind what waits already, in room of just the size that is asked for.
fn append(
    outgoing: &mut Vec<u8>,
    mut encode: impl FnMut(&mut [u8]) -> Result<usize, EncodeError>,
) -> Result<(), Error> {
    let begin = outgoing.len();
    match encode(&mut []) {
        Err(EncodeError::InsufficientSize(room)) => outgoing.resize(begin + room.required_size, 0),
        Ok(_) | Err(EncodeError::AlreadyEncoded) => return Ok(()),
    }
    encode(&mut outgoing[begin..]).map(|_written| ()).map_err(|error| Error::General(error.to_string()))
}

fn over(error: EncryptError) -> Error {
    match error {
        EncryptError::EncryptExhausted => Error::EncryptError,
        EncryptError::InsufficientSize(_) => Error::General(error.to_string()),
    }
}
