//! A place of its own at the far end of a real network: a network namespace, reached through two TUN devices between which
//! this process carries packets, later, not all of them, or none.
//!
//! The kernels at both ends see what they would see of a long way: connects that take the round trip, round trips in
//! `TCP_INFO`, retransmissions, time-outs. (This is for machines whose kernel has no `netem`.) It needs root
//! (`CAP_NET_ADMIN` and `CAP_SYS_ADMIN`), `/dev/net/tun`, and the program `ip` of Debian's iproute2.
//!
//! Addresses are of 198.18.0.0/15, which RFC 2544 sets apart for benchmarks. While the link is there, no packet leaves the
//! machine; whoever still sends to the far address when it is gone takes the machine's default route.

use std::{
    net::{IpAddr, Ipv4Addr},
    process::Command,
    sync::Arc,
};

use anyhow::{Context, Result, anyhow, bail, ensure};
use tokio::task::JoinSet;
use tun_rs::{AsyncDevice, DeviceBuilder};

use super::{Direction, Way, Ways, packets};
use crate::harness::Launch;

/// Links of a machine at a time.
const LINKS: u8 = u8::MAX;
/// As on an Ethernet.
const MTU: u16 = 1500;

/// The namespace and the way there. Dropping it removes both; what still runs in there stays without a network.
#[derive(Debug)]
pub struct Link {
    namespace: Namespace,
    near: Ipv4Addr,
    far: Ipv4Addr,
    ways: Arc<Ways>,
    carriers: JoinSet<Result<()>>,
}

impl Link {
    /// Makes a namespace of this name, with a way there that hands everything on at once.
    ///
    /// # Errors
    /// When there is such a namespace already, or the privileges, the device or the program are missing.
    pub fn start(namespace: &str) -> Result<Self> {
        let namespace = Namespace::create(namespace)?;
        let (number, near_device) = near_device()?;
        let far_device = device(&far_name(number)).context("cannot make a TUN device")?;
        let (near, far) = (Ipv4Addr::new(198, 18, number, 1), Ipv4Addr::new(198, 18, number, 2));
        ip(&["link", "set", &far_name(number), "netns", &namespace.0])?;
        ip(&["address", "add", &format!("{near}/30"), "dev", &near_name(number)])?;
        ip(&["link", "set", &near_name(number), "up"])?;
        namespace.ip(&["address", "add", &format!("{far}/30"), "dev", &far_name(number)])?;
        namespace.ip(&["link", "set", &far_name(number), "up"])?;
        namespace.ip(&["link", "set", "lo", "up"])?;
        let ways = Arc::new(Ways::new(Way::default(), false));
        let (here, there) = (Arc::new(near_device), Arc::new(far_device));
        let mut carriers = JoinSet::new();
        carriers.spawn(packets::carry(here.clone(), there.clone(), Direction::Out, ways.told()));
        carriers.spawn(packets::carry(there, here, Direction::Back, ways.told()));
        Ok(Self { namespace, near, far, ways, carriers })
    }

    /// This end's address.
    #[must_use]
    pub fn near(&self) -> IpAddr {
        self.near.into()
    }

    /// The address of the namespace.
    #[must_use]
    pub fn far(&self) -> IpAddr {
        self.far.into()
    }

    #[must_use]
    pub fn namespace(&self) -> &str {
        &self.namespace.0
    }

    /// What both directions are like, to be read and changed. `Out` is into the namespace.
    #[must_use]
    pub fn ways(&self) -> &Arc<Ways> {
        &self.ways
    }

    /// Waits until packets are carried no more, which is not meant to happen, and says why.
    pub async fn broken(&mut self) -> anyhow::Error {
        match self.carriers.join_next().await {
            Some(Ok(Err(error))) => error,
            Some(Err(error)) => error.into(),
            Some(Ok(Ok(()))) | None => anyhow!("nobody carries packets"),
        }
    }

    /// The same program, in the namespace.
    #[must_use]
    pub fn inside(&self, launch: Launch) -> Launch {
        launch.through("ip", &["netns", "exec", &self.namespace.0])
    }
}

/// A network namespace by its name (`ip netns`). Dropping it removes it.
#[derive(Debug)]
struct Namespace(String);

impl Namespace {
    fn create(name: &str) -> Result<Self> {
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-_".contains(&byte);
        ensure!(
            (1..=64).contains(&name.len()) && name.bytes().all(allowed) && !name.starts_with('-'),
            "{name:?} is no name for a namespace: 1 to 64 letters, digits, - and _"
        );
        match ip(&["netns", "add", name]) {
            Ok(()) => Ok(Self(name.to_owned())),
            Err(error) if error.to_string().contains("File exists") => {
                Err(error
                    .context(format!("there is a namespace {name:?}: if nobody uses it, `ip netns delete {name}`")))
            }
            Err(error) => {
                Err(error
                    .context("a network of its own needs root, /dev/net/tun and the program ip (Debian: iproute2)"))
            }
        }
    }

    fn ip(&self, arguments: &[&str]) -> Result<()> {
        ip(&[&["-n", &self.0], arguments].concat())
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        // One that somebody else removed is gone, too.
        _ = ip(&["netns", "delete", &self.0]);
    }
}

/// The first number whose device is free, and the device.
fn near_device() -> Result<(u8, AsyncDevice)> {
    for number in 0..LINKS {
        match device(&near_name(number)) {
            Ok(device) => return Ok((number, device)),
            Err(error) if error.kind() == std::io::ErrorKind::ResourceBusy => {}
            Err(error) => return Err(error).context("cannot make a TUN device"),
        }
    }
    bail!("there are {LINKS} links on this machine already")
}

/// A device, which is down and has no address.
fn device(name: &str) -> std::io::Result<AsyncDevice> {
    DeviceBuilder::new().name(name).mtu(MTU).enable(false).build_async()
}

fn near_name(number: u8) -> String {
    format!("wan{number}-near")
}

fn far_name(number: u8) -> String {
    format!("wan{number}-far")
}

fn ip(arguments: &[&str]) -> Result<()> {
    let done = Command::new("ip").args(arguments).output().context("cannot run `ip`")?;
    let said = String::from_utf8_lossy(&done.stderr);
    ensure!(done.status.success(), "`ip {}`: {}", arguments.join(" "), said.trim());
    Ok(())
}
