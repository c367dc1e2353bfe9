//! A network namespace for each node.
//!
//! In each: `api0`, whose other end is in the harness's namespace, for clients; and `peer0`, a TAP
//! whose other end is our switch, for the other nodes. There is no other way from node to node.
//! Everything is named after the harness's process, so that a later one can tell what was left
//! behind, and goes away with its namespace.
//!
//! Nodes enter by `nsenter`, not `ip netns exec`: the latter makes a mount namespace, whose copy
//! of every mount would keep a disk in use that has lost its power.

use std::fs::File;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::OFlags;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::cluster::NodePlace;

use super::WorldError;
use super::command::{exists, run, run_with_input};
use super::ioctl::attach_tap;
use super::rules::Rules;
use super::switch::{Switch, address_of};

/// Begins the names of our namespaces; the process's id and the world's number follow.
pub const NAME_PREFIX: &str = "aw";
/// Few frames keep the switch cheap.
const MTU_BYTES: u32 = 9000;
/// Inside the namespaces; the same ports everywhere, since nobody else lives there.
const API_PORT: u16 = 8080;
const PEER_PORT: u16 = 9080;
/// Addresses of peers: from the range for measurements (RFC 2544), which nothing else uses.
const PEER_NETWORK: [u8; 3] = [198, 18, 0];
/// Each world has a /22 of 10.128.0.0/9: there are this many.
const API_NETWORKS: u64 = 1 << 13;
/// A range has /30s for more; the names of their interfaces have no room for more.
const NODES_MAX: u64 = 60;

static WORLDS: AtomicU64 = AtomicU64::new(0);

/// The namespaces of one world, and the switch between them.
#[derive(Debug)]
pub struct Namespaces {
    names: Vec<String>,
    /// Our ends of the nodes' `api0`. They are deleted one by one: a namespace lives on without a
    /// name while a dead node's connections in it are still being closed.
    links: Vec<String>,
    switch: Option<Switch>,
}

impl Namespaces {
    /// Why there can be none here.
    pub fn missing() -> Option<String> {
        if !rustix::process::geteuid().is_root() {
            return Some("network namespaces need root".to_owned());
        }
        ["ip", "nsenter"]
            .into_iter()
            .find(|tool| !exists(tool))
            .map(|tool| format!("there is no `{tool}`"))
    }

    /// Makes them, and says where each node runs.
    pub fn start(
        nodes: u64,
        rules: &Arc<Rules>,
        seed: u64,
    ) -> Result<(Self, Vec<NodePlace>), WorldError> {
        if nodes > NODES_MAX {
            return Err(WorldError::Impossible(format!(
                "a world has at most {NODES_MAX} nodes"
            )));
        }
        let world = WORLDS.fetch_add(1, Ordering::Relaxed);
        let network = free_network(world)?;
        let stem = format!("{NAME_PREFIX}{}x{}", std::process::id(), world % 100);
        // Made step by step, so that dropping it removes what there is after an error.
        let mut made = Self {
            names: Vec::new(),
            links: Vec::new(),
            switch: None,
        };
        let mut ports = Vec::new();
        let mut places = Vec::new();
        for node in 1..=nodes {
            let name = format!("{stem}n{node}");
            run(&["ip", "netns", "add", &name])?;
            made.names.push(name.clone());
            let (outside, inside) = api_addresses(network, node);
            run_with_input(
                &["ip", "-batch", "-"],
                &outside_script(&stem, &name, node, outside),
            )?;
            made.links.push(format!("{stem}h{node}"));
            run_with_input(
                &["ip", "-n", &name, "-batch", "-"],
                &inside_script(node, nodes, inside),
            )?;
            let port = open_tap(&name).map_err(|source| WorldError::Io {
                what: format!("opening the TAP of node {node}"),
                source,
            })?;
            ports.push((node, port));
            places.push(NodePlace {
                api: Some(SocketAddr::from((inside, API_PORT))),
                peer: Some(SocketAddr::from((peer_address(node), PEER_PORT))),
                prefix: vec!["nsenter".to_owned(), format!("--net=/run/netns/{name}")],
                ..NodePlace::default()
            });
        }
        let switch =
            Switch::start(ports, Arc::clone(rules), seed).map_err(|source| WorldError::Io {
                what: "starting the switch".to_owned(),
                source,
            })?;
        made.switch = Some(switch);
        Ok((made, places))
    }
}

impl Drop for Namespaces {
    fn drop(&mut self) {
        drop(self.switch.take());
        for link in &self.links {
            if let Err(error) = run(&["ip", "link", "del", link]) {
                eprintln!("a network interface stays: {error}");
            }
        }
        for name in &self.names {
            if let Err(error) = run(&["ip", "netns", "del", name]) {
                eprintln!("a network namespace stays: {error}");
            }
        }
    }
}

fn outside_script(stem: &str, namespace: &str, node: u64, outside: Ipv4Addr) -> String {
    format!(
        "link add {stem}h{node} type veth peer name api0 netns {namespace}\n\
         addr add {outside}/30 dev {stem}h{node}\n\
         link set {stem}h{node} up\n"
    )
}

/// The neighbours are permanent: an address that cannot be resolved would be refused at once, where
/// a cut link has to be silent.
fn inside_script(node: u64, nodes: u64, inside: Ipv4Addr) -> String {
    let mut script = format!(
        "link set lo up\n\
         addr add {inside}/30 dev api0\n\
         link set api0 up\n\
         tuntap add dev peer0 mode tap\n\
         link set peer0 address {} mtu {MTU_BYTES} addrgenmode none\n\
         addr add {}/24 dev peer0\n\
         link set peer0 up\n",
        hardware_text(node),
        peer_address(node)
    );
    for other in (1..=nodes).filter(|other| *other != node) {
        script.push_str(&format!(
            "neigh replace {} lladdr {} dev peer0 nud permanent\n",
            peer_address(other),
            hardware_text(other)
        ));
    }
    script
}

/// Opens the TAP from inside its namespace, in a thread that is thrown away afterwards: a thread
/// that has moved does not come back.
fn open_tap(namespace: &str) -> io::Result<OwnedFd> {
    let path = format!("/run/netns/{namespace}");
    let opened = std::thread::spawn(move || -> io::Result<OwnedFd> {
        let namespace = File::open(path)?;
        move_into_link_name_space(
            std::os::fd::AsFd::as_fd(&namespace),
            Some(LinkNameSpaceType::Network),
        )?;
        let device = rustix::fs::open(
            "/dev/net/tun",
            OFlags::RDWR | OFlags::NONBLOCK | OFlags::CLOEXEC,
            rustix::fs::Mode::empty(),
        )?;
        attach_tap(&device, "peer0")?;
        Ok(device)
    });
    opened
        .join()
        .map_err(|_| io::Error::other("the thread that opened it panicked"))?
}

/// The number of a /22 that no route of this machine touches.
fn free_network(world: u64) -> Result<u64, WorldError> {
    let routes = run(&["ip", "-4", "route", "show", "table", "all"])?;
    let first = u64::from(std::process::id()) * 7 + world;
    (0..API_NETWORKS)
        .map(|step| (first + step) % API_NETWORKS)
        .find(|network| is_free(*network, &routes))
        .ok_or_else(|| WorldError::Impossible("every range of 10.128.0.0/9 is in use".to_owned()))
}

/// Routes to our ranges are made of their first three numbers and some fourth.
fn is_free(network: u64, routes: &str) -> bool {
    let [_, second, third, _] = api_addresses(network, 1).0.octets();
    (third..=third | 3).all(|third| !routes.contains(&format!("10.{second}.{third}.")))
}

/// The harness's and the node's end of a /30.
fn api_addresses(network: u64, node: u64) -> (Ipv4Addr, Ipv4Addr) {
    let base: u32 = u32::from(Ipv4Addr::new(10, 128, 0, 0));
    let offset = u32::try_from((network % API_NETWORKS) * 1024 + (node - 1) * 4)
        .expect("8192 ranges of 1024 addresses fit in 32 bits");
    (
        Ipv4Addr::from(base + offset + 1),
        Ipv4Addr::from(base + offset + 2),
    )
}

fn peer_address(node: u64) -> Ipv4Addr {
    let [a, b, c] = PEER_NETWORK;
    Ipv4Addr::new(a, b, c, u8::try_from(node).unwrap_or(u8::MAX))
}

fn hardware_text(node: u64) -> String {
    address_of(node).map(|byte| format!("{byte:02x}")).join(":")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_is_free_without_routes_to_any_of_its_four_parts() {
        // Number 63 ends at 10.128.255.255.
        for network in [0, 1, 63, API_NETWORKS - 1] {
            assert!(is_free(network, "10.127.255.0/24 dev eth0"));
        }
        assert!(!is_free(63, "10.128.252.0/30 dev aw0"));
        assert!(!is_free(63, "10.128.255.4/30 dev aw0"));
        assert!(is_free(63, "10.129.0.0/30 dev aw0"));
    }

    #[test]
    fn ranges_of_worlds_and_nodes_do_not_overlap() {
        let (outside, inside) = api_addresses(0, 1);
        assert_eq!(outside.to_string(), "10.128.0.1");
        assert_eq!(inside.to_string(), "10.128.0.2");
        assert_eq!(api_addresses(0, 60).1.to_string(), "10.128.0.238");
        assert_eq!(api_addresses(1, 1).0.to_string(), "10.128.4.1");
        assert_eq!(
            api_addresses(API_NETWORKS - 1, 1).0.to_string(),
            "10.255.252.1"
        );
        assert!(!is_free(1, "10.128.6.0/30 dev aw1h1 scope link"));
        assert!(is_free(1, "10.128.8.0/30 dev aw1h1 scope link"));
    }

    #[test]
    fn names_fit_an_interface() {
        let longest = format!("{NAME_PREFIX}4194304x99h60");
        assert!(longest.len() <= 15, "{longest}");
    }
}
