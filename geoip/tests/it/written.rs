//! Small databases, written by the test that reads them.

use std::net::{IpAddr, Ipv4Addr};

use geoip::Database;
use ipnet::IpNet;
use maxminddb_writer::{metadata::IpVersion, paths::IpAddrWithMask};
use serde::{Serialize, Serializer};

/// A value of a record.
#[derive(Debug, Clone)]
pub(crate) enum Value {
    Text(&'static str),
    Double(f64),
    Float(f32),
    U16(u16),
    U32(u32),
    Bool(bool),
    Map(Vec<(&'static str, Value)>),
    List(Vec<Value>),
}

pub(crate) use Value::{Bool, Double, Float, List, Map, Text, U16, U32};

impl Serialize for Value {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Text(text) => serializer.serialize_str(text),
            Double(number) => serializer.serialize_f64(*number),
            Float(number) => serializer.serialize_f32(*number),
            U16(number) => serializer.serialize_u16(*number),
            U32(number) => serializer.serialize_u32(*number),
            Bool(value) => serializer.serialize_bool(*value),
            Map(entries) => serializer.collect_map(entries.iter().map(|(key, value)| (key, value))),
            List(items) => serializer.collect_seq(items),
        }
    }
}

/// An object with a code, as GeoIP2 nests them.
pub(crate) fn coded(key: &'static str, code: &'static str) -> Value {
    Map(vec![(key, Text(code))])
}

/// The bytes of a database with these networks. Wide networks go before those inside them.
pub(crate) fn bytes(version: IpVersion, networks: &[(&str, Value)]) -> Vec<u8> {
    let mut database = maxminddb_writer::Database::default();
    database.metadata.ip_version = version;
    database.metadata.binary_format_major_version = 2;
    database.metadata.database_type = "Test-City".to_owned();
    database.metadata.build_epoch = 1_790_000_000;
    database.metadata.description.insert("en".to_owned(), "written by a test".to_owned());
    for (network, record) in networks {
        let data = database.insert_value(record).unwrap();
        database.insert_node(path(version, network.parse().unwrap()), data);
    }
    database.write_to(Vec::new()).unwrap()
}

/// A database for IPv6, in which IPv4 is under `::/96`.
pub(crate) fn database(name: &str, networks: &[(&str, Value)]) -> Database {
    Database::from_bytes(name, bytes(IpVersion::V6, networks)).unwrap()
}

fn path(version: IpVersion, network: IpNet) -> IpAddrWithMask {
    match (version, network) {
        (IpVersion::V6, IpNet::V4(net)) => {
            let address: Ipv4Addr = net.addr();
            IpAddrWithMask::new(IpAddr::V6(address.to_ipv6_compatible()), net.prefix_len() + 96)
        }
        (_, network) => IpAddrWithMask::new(network.addr(), network.prefix_len()),
    }
}

pub(crate) fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}
