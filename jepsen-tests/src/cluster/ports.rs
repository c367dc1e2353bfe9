//! Ports for the nodes of a cluster.
//!
//! A node is killed and started again on its port, and nobody may take the port
//! meanwhile. So ports come from below the range that the kernel hands out to
//! outgoing connections, each is handed out once per process, and different
//! processes begin at different places.

use std::net::{Ipv4Addr, TcpListener};
use std::sync::atomic::{AtomicU32, Ordering};

/// Below Linux's ephemeral range (32768 and up), above the well-known services.
const FIRST: u32 = 12_000;
const COUNT: u32 = 20_000;

static HANDED_OUT: AtomicU32 = AtomicU32::new(0);

/// A port on loopback that nobody listens on. `None` when every port of the
/// range was tried.
pub fn free_port() -> Option<u16> {
    let start = std::process::id().wrapping_mul(211) % COUNT;
    (0..COUNT).find_map(|_| {
        let step = HANDED_OUT.fetch_add(1, Ordering::Relaxed);
        let port = u16::try_from(FIRST + (start + step) % COUNT).ok()?;
        TcpListener::bind((Ipv4Addr::LOCALHOST, port))
            .ok()
            .map(|_| port)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_handed_out_once_and_lie_below_the_ephemeral_range() {
        let mut ports: Vec<u16> = (0..50).map(|_| free_port().unwrap()).collect();
        assert!(ports.iter().all(|port| (12_000..32_000).contains(port)));
        ports.sort_unstable();
        ports.dedup();
        assert_eq!(ports.len(), 50);
    }
}
