//! The answer to "where is this client": overrides first, then the databases in their order.

use std::{net::IpAddr, sync::Arc};

use ipnet::IpNet;

use crate::{database::Database, overrides::Overrides, place::Place};

/// Everything that knows places, as one value to swap when any file of it changes.
#[derive(Debug, Default)]
pub struct Geo {
    databases: Vec<Database>,
    overrides: Overrides,
}

/// Where an address is, and who says so.
#[derive(Debug, Clone, PartialEq)]
pub struct Located {
    pub place: Place,
    pub source: Source,
}

/// Who said where an address is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Source {
    /// The override for this network.
    Override(IpNet),
    /// The first database that knows where it is (or, if none does, the first that knows its autonomous system). Later
    /// ones may have added to it.
    Database { name: Arc<str>, network: IpNet },
    #[default]
    Unknown,
}

impl Geo {
    /// The order of the databases matters where they disagree: the first that knows something is believed.
    pub fn new(databases: Vec<Database>, overrides: Overrides) -> Self {
        Self { databases, overrides }
    }

    /// Looks an address up.
    ///
    /// Several databases are one: a city file and a file of autonomous systems, or one file each for IPv4 and IPv6. Each
    /// fills in what those before it do not know, unless it names another country. An override decides alone over where
    /// the client is, and only its autonomous system comes from a database if the override gives none.
    pub fn locate(&self, ip: IpAddr) -> Located {
        let ip = ip.to_canonical();
        let known = self.ask_databases(ip);
        match self.overrides.place(ip) {
            Some((place, network)) => {
                let mut place = place.clone();
                place.asn = place.asn.or(known.place.asn);
                Located { place, source: Source::Override(network) }
            }
            None => known,
        }
    }

    /// The place of [`Geo::locate`] without its city: all that steering asks for, in less time.
    pub fn whereabouts(&self, ip: IpAddr) -> Place {
        let ip = ip.to_canonical();
        let mut known = Place::default();
        for place in self.databases.iter().filter_map(|database| database.whereabouts(ip)) {
            known.fill_from(place);
        }
        match self.overrides.place(ip) {
            Some((place, _network)) => Place { asn: place.asn.or(known.asn), city: None, ..place.clone() },
            None => known,
        }
    }

    pub fn databases(&self) -> &[Database] {
        &self.databases
    }

    pub fn overrides(&self) -> &Overrides {
        &self.overrides
    }

    fn ask_databases(&self, ip: IpAddr) -> Located {
        let mut located = Located { place: Place::default(), source: Source::Unknown };
        for database in &self.databases {
            let Some((place, network)) = database.place(ip) else {
                continue;
            };
            let says_where = !located.place.is_somewhere() && place.is_somewhere();
            if says_where || located.source == Source::Unknown {
                located.source = Source::Database { name: Arc::clone(database.name()), network };
            }
            located.place.fill_from(place);
        }
        located
    }
}
