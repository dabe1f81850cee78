//! One MMDB file, held in memory.
//!
//! Read and not mapped: a mapped file that somebody truncates while it is in use kills the process, and tools that copy
//! over the old file do exactly that. And verified as a whole when it is opened: a damaged file must be noticed by the
//! reload that brings it, not by the client whose record is damaged.

use std::{
    net::{IpAddr, Ipv4Addr},
    sync::Arc,
};

use ipnet::{IpNet, Ipv4Net};
use maxminddb::{LookupResult, MaxMindDbError, Reader};

use crate::{
    place::{Knows, Place},
    record,
};

/// A database that was verified: every lookup in it succeeds, though it may find nothing.
#[derive(Debug)]
pub struct Database {
    name: Arc<str>,
    reader: Reader<Vec<u8>>,
    knows: Knows,
}

/// Why a file is not used.
#[derive(Debug, thiserror::Error)]
pub enum DatabaseError {
    #[error("{name} is not an MMDB database")]
    NotMmdb { name: String },
    #[error("{name} is damaged")]
    Damaged {
        name: String,
        #[source]
        cause: MaxMindDbError,
    },
    #[error(
        "{name} (type {kind:?}) says nothing about places: no record has a country, a location or an autonomous system under a known name"
    )]
    NothingKnown { name: String, kind: String },
}

/// How many records are asked for what a file knows at all: a kind of fact that none of so many has is not in it. To ask
/// all of a large file would take longer than to verify it.
const SAMPLE: usize = 50_000;

/// What every MMDB file has near its end.
const MARKER: &[u8] = b"\xab\xcd\xefMaxMind.com";

impl Database {
    /// Opens a database from the bytes of its file. `name` is what errors and [`Source`](crate::Source) call it.
    ///
    /// This reads every record: about a second for a file of 100 MB, so do it where nobody waits.
    ///
    /// # Errors
    /// If the bytes are no MMDB, if any part of them is damaged, or if no record says anything that this crate reads.
    pub fn from_bytes(name: impl Into<String>, bytes: Vec<u8>) -> Result<Self, DatabaseError> {
        let name = name.into();
        if !bytes.windows(MARKER.len()).any(|window| window == MARKER) {
            return Err(DatabaseError::NotMmdb { name });
        }
        match verified(bytes) {
            Err(cause) => Err(DatabaseError::Damaged { name, cause }),
            Ok((reader, None)) => {
                Err(DatabaseError::NothingKnown { name, kind: reader.metadata().database_type.clone() })
            }
            Ok((reader, Some(knows))) => Ok(Self { name: name.into(), reader, knows }),
        }
    }

    /// What is known of an address, and the network that all of it goes for. `None` if nothing is.
    pub fn place(&self, ip: IpAddr) -> Option<(Place, IpNet)> {
        let ip = ip.to_canonical();
        // The only error is an IPv6 address in a file that has none, which is not to be found in it.
        let found = self.reader.lookup(ip).ok()?;
        Some((record::place(&found)?, network(&found, ip)))
    }

    /// What is known of an address, save the city.
    pub(crate) fn whereabouts(&self, ip: IpAddr) -> Option<Place> {
        record::whereabouts(&self.reader.lookup(ip.to_canonical()).ok()?)
    }

    /// What it was called when it was opened.
    pub fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// Which facts its records have, to judge by the first of them.
    pub fn knows(&self) -> Knows {
        self.knows
    }

    /// What the file calls itself, for example `GeoLite2-City`.
    pub fn kind(&self) -> &str {
        &self.reader.metadata().database_type
    }

    /// When the file was built, in seconds since 1970, if that can be believed.
    pub fn build_epoch(&self) -> u64 {
        self.reader.metadata().build_epoch
    }

    /// The size of the search tree: free to ask, and near the number of networks. A new file with less than half of the old
    /// one's deserves doubt.
    pub fn node_count(&self) -> u32 {
        self.reader.metadata().node_count
    }
}

/// The reader, and what its records say, if they say anything.
fn verified(bytes: Vec<u8>) -> Result<(Reader<Vec<u8>>, Option<Knows>), MaxMindDbError> {
    let reader = Reader::from_source(bytes)?;
    reader.verify()?;
    let mut known: Option<Knows> = None;
    let mut asked = 0;
    for found in reader.networks(Default::default())? {
        // Not every record has to decode: some files carry one that is larger than the decoder's limits.
        if let Some(place) = record::place(&found?) {
            known = Some(known.unwrap_or_default().or(Knows::of(&place)));
        }
        asked += 1;
        if known == Some(Knows::EVERYTHING) || (known.is_some() && asked >= SAMPLE) {
            break;
        }
    }
    Ok((reader, known))
}

/// The network of a lookup. Where an IPv6 tree ends above its IPv4 part, that is an IPv6 network around all of IPv4.
fn network(found: &LookupResult<'_, Vec<u8>>, ip: IpAddr) -> IpNet {
    let network = found.network().ok().and_then(|net| IpNet::new(net.ip(), net.prefix()).ok());
    match (network, ip) {
        (Some(IpNet::V6(_)), IpAddr::V4(_)) => Ipv4Net::new_assert(Ipv4Addr::UNSPECIFIED, 0).into(),
        (Some(network), _) => network.trunc(),
        (None, _) => ip.into(),
    }
}
