//! The people of the demo: where they are, and where they should go.

use std::net::{IpAddr, SocketAddr};

use anyhow::{Context, Result, bail, ensure};

use super::world::{FRANKFURT, Place, SINGAPORE, VIRGINIA, World};
use crate::{
    harness::{
        RawClient,
        http::{self, Answer},
        proxy_header,
    },
    im::{Door, Journal, Phone, Secret},
};

/// Where everybody talks.
pub(super) const ROOM: &str = "room:demo";

/// Somebody who connects.
#[derive(Debug, Clone, Copy)]
pub(super) struct Who {
    pub(super) name: &'static str,
    pub(super) from: &'static str,
    /// The address that is announced.
    pub(super) address: &'static str,
    pub(super) goes_to: Place,
    pub(super) because: &'static str,
    pub(super) by: Entrance,
}

/// Which listener somebody uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Entrance {
    WebSocket,
    /// The tcp listener: the edge sees bytes only.
    Opaque,
}

pub(super) const EVERYBODY: [Who; 7] = [
    Who {
        name: "anna",
        from: "Berlin",
        address: "203.0.113.10",
        goes_to: FRANKFURT,
        because: "a rule: Europe stays in Europe (strict)",
        by: Entrance::WebSocket,
    },
    Who {
        name: "bjorn",
        from: "Stockholm",
        address: "203.0.113.140",
        goes_to: FRANKFURT,
        because: "the same rule",
        by: Entrance::WebSocket,
    },
    Who {
        name: "budi",
        from: "Jakarta",
        address: "198.51.100.20",
        goes_to: SINGAPORE,
        because: "distance: 890 km, the others are above 10 000",
        by: Entrance::WebSocket,
    },
    Who {
        name: "carol",
        from: "Toronto",
        address: "192.0.2.30",
        goes_to: VIRGINIA,
        because: "distance: 540 km",
        by: Entrance::WebSocket,
    },
    Who {
        name: "kenji",
        from: "the company's network in Tokyo",
        address: "2001:db8:100::50",
        goes_to: VIRGINIA,
        because: "a rule for that network, though Singapore is nearer",
        by: Entrance::WebSocket,
    },
    Who {
        name: "nobody",
        from: "an address that no database knows",
        address: "198.18.0.40",
        goes_to: FRANKFURT,
        because: "the measured round trip: no place is known, so no distance",
        by: Entrance::WebSocket,
    },
    Who {
        name: "dewi",
        from: "Jakarta",
        address: "198.51.100.21",
        goes_to: SINGAPORE,
        because: "distance, over the tcp listener",
        by: Entrance::Opaque,
    },
];

/// Everybody with a phone, and what they were promised.
#[derive(Debug)]
pub(super) struct Crowd {
    pub(super) people: Vec<Person>,
    pub(super) journal: Journal,
}

#[derive(Debug)]
pub(super) struct Person {
    pub(super) who: Who,
    pub(super) phone: Phone,
}

impl Crowd {
    pub(super) fn new(world: &World<'_>) -> Self {
        let journal = Journal::default();
        let people = EVERYBODY.iter().map(|who| Person { who: *who, phone: who.phone(world, &journal) }).collect();
        Self { people, journal }
    }

    /// Fails unless everybody's first session is alive, save for those who had to log in again before.
    pub(super) async fn check_untouched(&mut self, logins: &[u32]) -> Result<()> {
        for (person, before) in self.people.iter_mut().zip(logins) {
            person.phone.check_alive().await?;
            let now = person.phone.logins();
            ensure!(now == *before, "{} had to log in again ({before} logins before, {now} now)", person.who.name);
        }
        Ok(())
    }

    pub(super) fn logins(&self) -> Vec<u32> {
        self.people.iter().map(|person| person.phone.logins()).collect()
    }
}

impl Who {
    /// A phone at this address.
    pub(super) fn phone(&self, world: &World<'_>, journal: &Journal) -> Phone {
        self.phone_at(world.edge_address(self.by), &world.secret, journal)
    }

    fn phone_at(&self, address: SocketAddr, secret: &Secret, journal: &Journal) -> Phone {
        Phone::new(self.name, Door::new(address).announcing(self.announced()), secret, journal)
    }

    pub(super) fn ip(&self) -> IpAddr {
        self.address.parse().expect("the addresses above are addresses")
    }

    fn announced(&self) -> SocketAddr {
        SocketAddr::new(self.ip(), 40_000)
    }

    /// What a server sees of an HTTP request from here.
    pub(super) async fn ask_whoami(&self, edge: SocketAddr) -> Result<Answer> {
        let mut client = RawClient::connect(edge).await?;
        client.send(&proxy_header::v2(self.announced(), edge)).await?;
        http::request_over(client, "im.example.com", "GET", "/whoami", &[], b"").await
    }
}

impl World<'_> {
    pub(super) fn edge_address(&self, by: Entrance) -> SocketAddr {
        match by {
            Entrance::WebSocket => self.im,
            Entrance::Opaque => self.opaque,
        }
    }

    /// The place of the node that has somebody's session.
    pub(super) fn place_of(&self, phone: &Phone) -> Result<Place> {
        let Some(node) = phone.node() else { bail!("{} is not online", phone.user) };
        Ok(self.node(node).with_context(|| format!("{} is on an unknown node", phone.user))?.place)
    }
}
