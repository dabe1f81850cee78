//! What a run does, as the parent decides it and every process of it knows it.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};
use tokio_rustls::rustls::{
    ClientConfig, RootCertStore,
    crypto::ring,
    pki_types::{CertificateDer, ServerName, pem::PemObject},
};

use super::{schedule::Schedule, trace::Entry};
use crate::im::{BackOff, Door, Tls, Transport};

/// Users of one run at most.
pub(crate) const MOST_USERS: usize = 1_000_000;
/// Messages or requests of one run at most.
pub(crate) const MOST_DUE: u64 = 100_000_000;
/// Longest run, longest arrival of users, and longest trace.
pub(crate) const LONGEST: Duration = Duration::from_secs(3600);
/// Steps of the series over time.
const MOST_STEPS: u32 = 300;
/// Where users stand in what is spread evenly over them: the fractions of multiples of an irrational number are, for any
/// number of first users (Weyl's equidistribution). Two of them, so that one spread says nothing of the other.
const GOLDEN: f64 = 0.618_033_988_749_894_9;
const SILVER: f64 = 0.414_213_562_373_095_1;

/// What is spoken to the target.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Over {
    /// The IM protocol over WebSocket.
    Websocket,
    WebsocketTls,
    /// The IM protocol over TCP, frames with their length before them.
    Tcp,
    TcpTls,
    /// Plain HTTP/1.1 requests on connections that are kept.
    Http,
    HttpTls,
}

impl Over {
    pub(crate) fn is_http(self) -> bool {
        matches!(self, Self::Http | Self::HttpTls)
    }

    pub(crate) fn is_tls(self) -> bool {
        matches!(self, Self::WebsocketTls | Self::TcpTls | Self::HttpTls)
    }

    fn transport(self) -> Transport {
        if matches!(self, Self::Tcp | Self::TcpTls) { Transport::Tcp } else { Transport::WebSocket }
    }
}

/// How a user's address is told to the target.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Announce {
    Nothing,
    /// By a PROXY protocol header, version 2, before everything else.
    ProxyV2,
    /// By this field of each request, or of the upgrade.
    Field(String),
}

/// How a user comes and goes.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub(crate) struct Habits {
    /// Mean length of a session in seconds, exponentially distributed; users stay unless set.
    pub(crate) session: Option<f64>,
    /// Mean time between two sessions in seconds, likewise.
    pub(crate) away: f64,
    /// Share of sessions that end by the network breaking off, 0 to 1; the others end in order.
    pub(crate) cut: f64,
    pub(crate) back_off_first: f64,
    pub(crate) back_off_longest: f64,
}

impl Habits {
    pub(crate) fn back_off(&self) -> BackOff {
        BackOff {
            first: Duration::from_secs_f64(self.back_off_first),
            longest: Duration::from_secs_f64(self.back_off_longest),
        }
    }
}

/// Where a user is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Placed {
    pub(crate) country: String,
    pub(crate) address: IpAddr,
}

/// A run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Plan {
    pub(crate) target: SocketAddr,
    /// `Host`, and the name in the certificate.
    pub(crate) host: String,
    pub(crate) path: String,
    pub(crate) over: Over,
    /// The authority that the target's certificate is from, as PEM.
    pub(crate) authority: Option<String>,
    /// Different in each run: its users and conversations have names of their own.
    pub(crate) run: String,
    pub(crate) users: usize,
    /// How many share a room.
    pub(crate) group: usize,
    /// Share of messages that go to the room, 0 to 1; the others go to the partner.
    pub(crate) in_rooms: f64,
    /// Share of users that never say anything, 0 to 1.
    pub(crate) silent: f64,
    /// Bytes of a message, or of a request's body.
    pub(crate) body: usize,
    /// New users a second.
    pub(crate) arrivals: f64,
    pub(crate) schedule: Schedule,
    pub(crate) habits: Habits,
    pub(crate) announce: Announce,
    /// Networks to connect from, one address for each user in turn; the kernel's choice unless there are some.
    pub(crate) sources: Vec<ipnet::IpNet>,
    /// Seconds after which an answer that is not there does not come.
    pub(crate) patience: f64,
    pub(crate) check: bool,
    /// What was asked for by `--countries`, and a fingerprint of the trace: what is left in a report of what is below.
    #[serde(default)]
    pub(crate) drawn_from: Option<String>,
    /// By user: where it is; nothing, or all of them.
    #[serde(skip_serializing_if = "BTreeMap::is_empty", default)]
    pub(crate) places: BTreeMap<usize, Placed>,
    /// What happens when, instead of schedule and habits; in the order of time.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub(crate) trace: Option<Vec<Entry>>,
}

/// Which part of a plan a process does: every user whose block of conversations is in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Part {
    pub(crate) number: usize,
    pub(crate) of: usize,
}

impl Plan {
    pub(crate) fn time(&self) -> Duration {
        Duration::from_secs_f64(self.schedule.time)
    }

    pub(crate) fn patience(&self) -> Duration {
        Duration::from_secs_f64(self.patience)
    }

    /// How long it takes until all users have come. Those of a trace come as it says, requests without waiting.
    pub(crate) fn arriving(&self) -> Duration {
        if self.trace.is_some() || self.over.is_http() {
            return Duration::ZERO;
        }
        arrival(self.users, self.arrivals)
    }

    /// When this user arrives, unless a trace says it.
    pub(crate) fn arrives(&self, number: usize) -> Option<Duration> {
        self.trace.is_none().then(|| arrival(number, self.arrivals))
    }

    /// From the beginning to the end of everything but the check: whatever is not answered then is not waited for.
    pub(crate) fn deadline(&self) -> Duration {
        self.arriving() + self.time() + self.patience()
    }

    /// How long a part of the series over time is: whole seconds, and more of them in a long run.
    pub(crate) fn step(&self) -> Duration {
        let seconds = (self.arriving() + self.time()).as_secs_f64();
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "seconds of an hour or two")]
        Duration::from_secs((seconds / f64::from(MOST_STEPS)).ceil().max(1.0) as u64)
    }

    pub(crate) fn user(&self, number: usize) -> String {
        format!("load-{}-{number:07}", self.run)
    }

    /// The number of a user of this run.
    pub(crate) fn number_of(&self, user: &str) -> Option<usize> {
        let number = user.strip_prefix("load-")?.strip_prefix(&*self.run)?.strip_prefix('-')?.parse().ok()?;
        (number < self.users).then_some(number)
    }

    /// Whether both this user and the sender are in this conversation.
    pub(crate) fn are_in(&self, conv: &str, number: usize, sender: &str) -> bool {
        let Some(sender) = self.number_of(sender) else { return false };
        let in_pair = sender == number || sender == self.partner(number);
        let in_room = sender / self.group == number / self.group;
        in_pair && conv == self.pair(number) || in_room && conv == self.room(number)
    }

    /// Whether this user says anything; over HTTP everybody does.
    pub(crate) fn talks(&self, number: usize) -> bool {
        self.over.is_http() || ((as_float(number) + 0.5) * SILVER).fract() >= self.silent
    }

    /// Whether what this user says next, after so much, goes to its room. Not all of them begin alike, or their first
    /// messages would all go to rooms, or none.
    pub(crate) fn to_room(&self, number: usize, said: usize) -> bool {
        let before = (as_float(number) * GOLDEN).fract() + as_float(said) * self.in_rooms;
        (before + self.in_rooms).floor() > before.floor()
    }

    /// The user with whom this one speaks in private. The last of an odd number speaks with itself.
    fn partner(&self, number: usize) -> usize {
        (number ^ 1).min(self.users - 1)
    }

    /// Names have one length, so their order is that of the numbers.
    pub(crate) fn pair(&self, number: usize) -> String {
        let partner = self.partner(number);
        format!("dm:{}:{}", self.user(number.min(partner)), self.user(number.max(partner)))
    }

    pub(crate) fn room(&self, number: usize) -> String {
        format!("room:load-{}-{}", self.run, number / self.group)
    }

    /// How many others get what this user says there.
    pub(crate) fn others_in(&self, number: usize, conv: &str) -> u64 {
        if conv == self.pair(number) {
            return u64::from(self.partner(number) != number);
        }
        let first = number - number % self.group;
        (self.users.min(first + self.group) - first - 1) as u64
    }

    /// The users of a part: whole blocks, in which everybody is with whom one of them speaks.
    pub(crate) fn users_of(&self, part: Part) -> Vec<usize> {
        let block = block(self.group, self.over.is_http());
        (0..self.users).filter(|number| number / block % part.of == part.number).collect()
    }

    /// Into how many parts the users can be split.
    pub(crate) fn most_parts(&self) -> usize {
        most_parts(self.users, self.group, self.over.is_http())
    }

    /// How many users the largest of so many parts has.
    pub(crate) fn largest_part(&self, of: usize) -> usize {
        let block = block(self.group, self.over.is_http());
        (self.users.div_ceil(block).div_ceil(of) * block).min(self.users)
    }

    /// How many of the users of each of so many parts say something: its share of what is due.
    pub(crate) fn talkers(&self, of: usize) -> Vec<usize> {
        let talkers = |number| self.users_of(Part { number, of }).into_iter().filter(|user| self.talks(*user)).count();
        (0..of).map(talkers).collect()
    }

    /// What a process has to know of the plan: of the places and the trace only its own.
    pub(crate) fn of_part(&self, part: Part) -> Self {
        let own = self.users_of(part);
        let places = own.iter().filter_map(|number| Some((*number, self.places.get(number)?.clone()))).collect();
        let is_own = |entry: &&Entry| own.binary_search(&entry.user).is_ok();
        let trace = self.trace.as_ref().map(|trace| trace.iter().filter(is_own).copied().collect());
        Self { places, trace, ..self.without_lists() }
    }

    /// The plan without the lists that are as long as the run is large.
    pub(crate) fn without_lists(&self) -> Self {
        let Self { target, over, users, group, in_rooms, silent, body, arrivals, schedule, habits, .. } = *self;
        let Self { patience, check, .. } = *self;
        Self {
            target,
            host: self.host.clone(),
            path: self.path.clone(),
            over,
            authority: self.authority.clone(),
            run: self.run.clone(),
            users,
            group,
            in_rooms,
            silent,
            body,
            arrivals,
            schedule,
            habits,
            announce: self.announce.clone(),
            sources: self.sources.clone(),
            patience,
            check,
            drawn_from: self.drawn_from.clone(),
            places: BTreeMap::new(),
            trace: None,
        }
    }

    pub(crate) fn country(&self, number: usize) -> &str {
        self.places.get(&number).map_or("", |placed| &placed.country)
    }

    /// How this user gets in.
    pub(crate) fn door(&self, number: usize, tls: Option<&Tls>) -> Door {
        let mut door = Door::new(self.target);
        door.host.clone_from(&self.host);
        door.path.clone_from(&self.path);
        door.transport = self.over.transport();
        door.tls = tls.cloned();
        door.patience = self.patience();
        door.from = self.source(number);
        if let Some(placed) = self.places.get(&number) {
            match &self.announce {
                Announce::Nothing => {}
                Announce::ProxyV2 => door.announced = Some(SocketAddr::new(placed.address, port(number))),
                Announce::Field(name) => door.fields.push((name.clone(), placed.address.to_string())),
            }
        }
        door
    }

    fn source(&self, number: usize) -> Option<IpAddr> {
        let network = self.sources.get(number % self.sources.len().max(1))?;
        Some(address_in(network, (number / self.sources.len()) as u128))
    }

    /// TLS as the plan says; nothing without.
    pub(crate) fn tls(&self) -> Result<Option<Tls>> {
        if !self.over.is_tls() {
            return Ok(None);
        }
        let authority = self.authority.as_ref().context("TLS needs the authority of the target's certificate")?;
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(authority.as_bytes()) {
            roots
                .add(certificate.context("the authority is no certificate in PEM")?)
                .context("the authority is not taken")?;
        }
        ensure!(!roots.is_empty(), "the authority has no certificate in PEM");
        let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .context("no TLS version")?
            .with_root_certificates(roots)
            .with_no_client_auth();
        let name = ServerName::try_from(name_of(&self.host).to_owned())
            .with_context(|| format!("{:?} is no name for a certificate", self.host))?;
        Ok(Some(Tls { config: Arc::new(config), name }))
    }
}

/// Users that are in one process whatever happens: whole rooms and whole pairs. Connections over HTTP know of no other.
fn block(group: usize, http: bool) -> usize {
    if http {
        1
    } else if group.is_multiple_of(2) {
        group
    } else {
        2 * group
    }
}

/// Into how many parts users can be split who are in rooms of so many.
pub(crate) fn most_parts(users: usize, group: usize, http: bool) -> usize {
    users.div_ceil(block(group, http))
}

/// When so many users have come; what is too long for the machine is as good as for ever.
pub(crate) fn arrival(users: usize, a_second: f64) -> Duration {
    Duration::try_from_secs_f64(as_float(users) / a_second).unwrap_or(Duration::MAX)
}

/// A host without its port.
fn name_of(host: &str) -> &str {
    if let Ok(address) = host.parse::<SocketAddr>() {
        // What stands before the port, or within brackets.
        let end = if address.is_ipv6() { host.rfind("]:") } else { host.rfind(':') };
        return end.map_or(host, |end| host[..end].trim_start_matches('['));
    }
    match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    }
}

/// The address of this number in a network, counted round; without its first and its last one where there are more.
pub(super) fn address_in(network: &ipnet::IpNet, number: u128) -> IpAddr {
    let bits = u32::from(network.max_prefix_len() - network.prefix_len());
    let all = 1_u128.checked_shl(bits).unwrap_or(u128::MAX);
    let offset = if all > 2 { 1 + number % (all - 2) } else { number % all };
    match network.network() {
        IpAddr::V4(first) => {
            let offset = u32::try_from(offset).unwrap_or_default();
            IpAddr::from((u32::from(first).wrapping_add(offset)).to_be_bytes())
        }
        IpAddr::V6(first) => IpAddr::from(u128::from(first).wrapping_add(offset).to_be_bytes()),
    }
}

/// A port such as clients have.
fn port(number: usize) -> u16 {
    u16::try_from(1024 + number % 60_000).unwrap_or(1024)
}

#[expect(clippy::cast_precision_loss, reason = "counts of a run are far below 2^52")]
pub(super) fn as_float(count: usize) -> f64 {
    count as f64
}

/// Whether an address is this machine's or of a private network: one that nobody else is hurt by.
pub(crate) fn is_near(address: IpAddr) -> bool {
    match address.to_canonical() {
        IpAddr::V4(v4) => v4.is_loopback() || v4.is_private() || v4.is_link_local(),
        IpAddr::V6(v6) => v6.is_loopback() || v6.is_unique_local() || v6.is_unicast_link_local(),
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::collections::{BTreeSet, HashSet};

    use super::*;

    pub(in super::super) fn plan() -> Plan {
        Plan {
            target: ([127, 0, 0, 1], 1).into(),
            host: "im.example.com".into(),
            path: "/ws".into(),
            over: Over::Websocket,
            authority: None,
            run: "test".into(),
            users: 12,
            group: 4,
            in_rooms: 0.5,
            silent: 0.0,
            body: 100,
            arrivals: 100.0,
            schedule: Schedule { from: 100.0, to: 100.0, time: 2.0 },
            habits: Habits { session: None, away: 1.0, cut: 0.5, back_off_first: 0.1, back_off_longest: 0.5 },
            announce: Announce::Nothing,
            sources: Vec::new(),
            patience: 10.0,
            check: true,
            drawn_from: None,
            places: BTreeMap::new(),
            trace: None,
        }
    }

    #[test]
    fn everybody_is_in_one_part_with_those_with_whom_they_speak() {
        for (users, group, of) in [(12, 4, 3), (13, 3, 2), (100, 7, 4), (5, 10, 2)] {
            let plan = Plan { users, group, ..plan() };
            let mut all = BTreeSet::new();
            let mut conversations = HashSet::new();
            for number in 0..of {
                let part = plan.users_of(Part { number, of });
                let own: HashSet<String> = part.iter().flat_map(|user| [plan.pair(*user), plan.room(*user)]).collect();
                assert!(part.len() <= plan.largest_part(of));
                assert!(own.is_disjoint(&conversations));
                conversations.extend(own);
                all.extend(part);
            }
            assert_eq!(all, (0..users).collect());
        }
    }

    #[test]
    fn each_part_is_dealt_what_its_talkers_can_say() {
        // Five connections are five parts; two rooms are two, and a third one would have nobody.
        let http = Plan { users: 5, group: 10, over: Over::Http, ..plan() };
        assert_eq!((http.most_parts(), http.talkers(5)), (5, vec![1; 5]));
        let rooms = Plan { users: 14, group: 10, ..plan() };
        assert_eq!((rooms.most_parts(), rooms.talkers(2)), (2, vec![10, 4]));
        assert_eq!((rooms.largest_part(1), rooms.largest_part(2)), (14, 10));
    }

    #[test]
    fn so_many_are_silent_and_so_much_goes_to_rooms_for_any_number_of_users() {
        let plan = Plan { users: 1000, in_rooms: 0.3, silent: 0.4, ..plan() };
        let of = |count: usize| count as f64 / 1000.0;
        // Of everybody's first message, and not only in the long run.
        for said in 0..5 {
            let share = of((0..1000).filter(|user| plan.to_room(*user, said)).count());
            assert!((share - 0.3).abs() < 0.05, "{share} of messages {said} go to rooms");
        }
        let talkers: Vec<usize> = (0..1000).filter(|user| plan.talks(*user)).collect();
        assert!((of(talkers.len()) - 0.6).abs() < 0.01, "{} talk", talkers.len());
        // Whoever talks is no other kind of user.
        let share = talkers.iter().filter(|user| plan.to_room(**user, 0)).count() as f64 / talkers.len() as f64;
        assert!((share - 0.3).abs() < 0.05, "{share}");
    }

    #[test]
    fn it_is_known_who_is_where() {
        let plan = Plan { users: 13, group: 4, ..plan() };
        for number in 0..13 {
            assert_eq!(plan.number_of(&plan.user(number)), Some(number));
            let members =
                |conv: &str| (0..13).filter(|other| plan.are_in(conv, number, &plan.user(*other))).count() as u64;
            for conv in [plan.pair(number), plan.room(number)] {
                assert_eq!(plan.others_in(number, &conv), members(&conv) - 1, "{conv}");
            }
        }
        for stranger in ["load-test-0000013", "load-other-0000001", "alice", "load-test-x"] {
            assert_eq!(plan.number_of(stranger), None);
            assert!(!plan.are_in(&plan.room(0), 0, stranger));
        }
        assert!(!plan.are_in(&plan.room(4), 0, &plan.user(1)), "another room");
    }

    #[test]
    fn a_process_knows_of_its_own_users_alone() {
        let placed =
            |number: usize| Placed { country: "DE".into(), address: [127, 0, 0, u8::try_from(number).unwrap()].into() };
        let entry = |user| Entry { at: 0.0, user, action: super::super::trace::Action::Login };
        let places = (0..12).map(|number| (number, placed(number))).collect();
        let plan = Plan { places, trace: Some((0..12).map(entry).collect()), ..plan() };
        let part = Part { number: 1, of: 3 };
        let own = plan.of_part(part);
        assert!(own.places.keys().copied().eq(4..8) && own.trace.unwrap().iter().map(|entry| entry.user).eq(4..8));
        let whole = plan.of_part(Part { number: 0, of: 1 });
        assert_eq!(whole, plan);
    }

    #[test]
    fn users_connect_from_addresses_of_their_own() {
        let sources = vec!["127.80.0.0/16".parse().unwrap(), "127.90.0.4/31".parse().unwrap()];
        let plan = Plan { sources, ..plan() };
        let first: Vec<String> = (0..5).map(|user| plan.source(user).unwrap().to_string()).collect();
        assert_eq!(first, ["127.80.0.1", "127.90.0.4", "127.80.0.2", "127.90.0.5", "127.80.0.3"]);
        let all: HashSet<IpAddr> = (0..60_000).step_by(2).map(|user| plan.source(user).unwrap()).collect();
        assert_eq!(all.len(), 30_000);
        assert_eq!(address_in(&"fd00::/64".parse().unwrap(), 6).to_string(), "fd00::7");
    }

    #[test]
    fn names_of_certificates_have_no_port() {
        for (host, name) in [
            ("im.example.com", "im.example.com"),
            ("im.example.com:443", "im.example.com"),
            ("127.0.0.1:443", "127.0.0.1"),
            ("[::1]:443", "::1"),
        ] {
            assert_eq!(name_of(host), name);
        }
    }

    #[test]
    fn only_this_machine_and_private_networks_are_near() {
        for near in ["127.0.0.1", "10.1.2.3", "192.168.0.1", "172.31.0.1", "::1", "fd00::1", "::ffff:10.0.0.1"] {
            assert!(is_near(near.parse().unwrap()), "{near}");
        }
        for far in ["8.8.8.8", "172.32.0.1", "2001:db8::1", "0.0.0.0", "::ffff:8.8.8.8"] {
            assert!(!is_near(far.parse().unwrap()), "{far}");
        }
    }
}
