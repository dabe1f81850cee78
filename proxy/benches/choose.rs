//! What it costs a new connection to be given its endpoint: the look-up of its address in a GeoIP database, the class,
//! the pick with its lease, and the note for `explain`.
//!
//! `cargo bench -p proxy --bench choose`. The figures of docs/performance.md come from here.

use std::collections::BTreeMap;
use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bench::harness::mmdb::{Layout, Row, build};
use criterion::{Criterion, criterion_group, criterion_main};
use geoip::Geo;
use policies::{Kind, Tried};
use proxy::access_log::AccessLog;
use proxy::affinity::Affinity;
use proxy::cluster::plan::offline;
use proxy::config::{ClusterIx, Config, OpenFiles, load_text};
use proxy::log::LogFilter;
use proxy::metrics::Metrics;
use proxy::pick::pick;
use proxy::registry::Registry;
use proxy::reload::files::GeoFiles;
use proxy::snapshot::Snapshot;
use proxy::state::{Clock, State};
use proxy::tls::Tickets;
use proxy::trip::{Kind as TripKind, Origin, Trip};

/// About what a cache of this processor's does not hold; MaxMind's City file has some 4 million.
const NETWORKS: u32 = 400_000;

/// Enough that no address comes again while its path is in a cache.
const ADDRESSES: u32 = 1 << 17;

const COUNTRIES: [(&str, &str, f64, f64); 8] = [
    ("DE", "EU", 50.1, 8.7),
    ("FR", "EU", 48.9, 2.4),
    ("US", "NA", 37.8, -122.4),
    ("BR", "SA", -23.6, -46.6),
    ("SG", "AS", 1.4, 103.8),
    ("JP", "AS", 35.7, 139.7),
    ("ZA", "AF", -33.9, 18.4),
    ("AU", "OC", -33.9, 151.2),
];

/// Multiplication by an odd number reaches every network once, far from the one before.
fn network(nth: u32) -> Ipv4Addr {
    Ipv4Addr::from_bits((nth.wrapping_mul(0x9e37_79b1) & 0x00ff_ffff) << 8)
}

fn database() -> Vec<u8> {
    let rows = (0..NETWORKS).map(|nth| {
        let (country, continent, latitude, longitude) = COUNTRIES[nth as usize % COUNTRIES.len()];
        let shift = f64::from(nth % 97) / 10.0;
        let row = Row::new(&format!("{}/24", network(nth))).country(country).continent(continent);
        row.city("A city of an ordinary name").at(latitude + shift, longitude - shift)
    });
    build(Layout::GeoIp2City, &rows.collect::<Vec<_>>()).expect("rows that are records")
}

/// Endpoints in each of the eight localities: 96 and 10 000 in all.
const ENDPOINTS: [u32; 2] = [12, 1250];

fn config(database: &Path, endpoints: u32) -> Config {
    let mut text = format!(
        "[edge]\nlocation = [50.1, 8.7]\n[log]\naccess = \"off\"\n[geoip]\ndatabases = [{:?}]\n\
         [listeners.l]\nbind = [\"127.0.0.1:0\"]\nprotocol = \"tcp\"\ncluster = \"im\"\n\
         [[clusters.im.rules]]\ncontinent = \"EU\"\nlocalities = [\"de\", \"fr\"]\nstrict = true\n\
         [[clusters.im.rules]]\ncountry = \"BR\"\nlocalities = [\"br\", \"us\"]\n",
        database
    );
    for (nth, (country, _, latitude, longitude)) in COUNTRIES.iter().enumerate() {
        let name = country.to_lowercase();
        let place = Ipv4Addr::new(10, u8::try_from(nth).expect("eight places"), 0, 0).to_bits();
        let hosts = (1..=endpoints).map(|host| Ipv4Addr::from_bits(place + host));
        let endpoints: Vec<String> = hosts.map(|host| format!("{{ address = \"{host}:5222\" }}")).collect();
        text += &format!(
            "[clusters.im.localities.{name}]\nlocation = [{latitude:?}, {longitude:?}]\nendpoints = [{}]\n",
            endpoints.join(", ")
        );
    }
    load_text("bench.toml", &text, OpenFiles::Yes).unwrap_or_else(|report| panic!("{report}")).config
}

fn state(config: Config) -> (Arc<State>, Arc<Snapshot>) {
    let geo: Arc<Geo> = GeoFiles::default().load(&config.geoip).expect("a database that was just written");
    let access_log = AccessLog::open(&config.log.access).expect("no access log");
    let clusters = vec![Arc::new(offline(&config, ClusterIx(0)))];
    let snapshot = Snapshot { generation: 1, config: Arc::new(config), clusters, listeners: Vec::new(), geo };
    let snapshot = Arc::new(snapshot);
    let state = State::new(
        snapshot.clone(),
        Arc::new(Registry::new(1)),
        Metrics::new().expect("metrics"),
        access_log,
        Clock::start(),
        Tickets::new().expect("tickets"),
        LogFilter::none(),
        PathBuf::from("bench.toml"),
        20_000,
        BTreeMap::new(),
    );
    (Arc::new(state), snapshot)
}

fn choose(criterion: &mut Criterion) {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("city.mmdb");
    std::fs::write(&path, database()).expect("a file");
    let addresses: Vec<IpAddr> =
        (0..ADDRESSES).map(|nth| IpAddr::V4(network(nth.wrapping_mul(40_503) % NETWORKS))).collect();
    let mut next = addresses.iter().cycle();
    let mut group = criterion.benchmark_group("choose");
    for endpoints in ENDPOINTS {
        let (state, snapshot) = state(config(&path, endpoints));
        if endpoints == ENDPOINTS[0] {
            group.bench_function("geo look-up", |bencher| {
                bencher.iter(|| black_box(snapshot.client(*next.next().expect("a cycle"))));
            });
        }
        let cluster = snapshot.cluster(ClusterIx(0));
        let client: std::net::SocketAddr = "127.0.0.1:1".parse().expect("an address");
        let origin = Origin { listener: "l".into(), client, peer: client, connection: 1 };
        let mut trip = Trip::new(state.clone(), TripKind::Tcp, origin);
        trip.cluster = Some(cluster.config.name.clone());
        group.bench_function(format!("geo look-up and pick, {} endpoints", 8 * endpoints), |bencher| {
            bencher.iter(|| {
                let client = snapshot.client(*next.next().expect("a cycle"));
                let affinity = Affinity::default();
                drop(black_box(pick(&state, cluster, &client, affinity, Kind::Tunnel, &Tried::default(), &trip)));
            });
        });
    }
}

criterion_group!(benches, choose);
criterion_main!(benches);
