//! Plans of faults, made from a seed, and their execution on a [`World`](crate::world::World).
//!
//! [`plan()`] is a pure function: the same kinds, time and seed give the same steps. [`run()`] strikes
//! with them. Invariants:
//! - a fault never damages the data of a minority's worth of nodes or more at once, and never while
//!   another node's disk is at fault: a majority of the disks is always honest, so whatever a run
//!   loses, the product lost;
//! - every fault is undone at its end, and says by what it was seen to take effect; one that was
//!   not seen is recorded as [`Bite::No`](crate::history::Bite), never as a success;
//! - the nemesis fails no run: what goes wrong while it strikes stands in the fault's record.

mod clients;
mod clocks;
mod disks;
mod networks;
mod plan;
mod processes;
mod run;
mod strike;

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

pub use plan::plan;
pub use run::run;

/// What can be done to a cluster. The names are stable: they stand in command lines and histories.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum FaultKind {
    /// SIGKILL of one node, and its restart.
    Kill,
    KillLeader,
    KillMajority,
    KillAll,
    /// SIGSTOP of one node, and SIGCONT.
    Pause,
    PauseLeader,
    PauseMajority,
    /// The leader hears and reaches no other node.
    PartitionLeader,
    PartitionOne,
    /// Every node reaches a majority, and no two the same one. With fewer than five nodes there is
    /// no such ring: then it is a bridge.
    PartitionRing,
    /// Two halves that do not reach each other, and one node that reaches both.
    PartitionBridge,
    /// One node is not heard, or does not hear.
    PartitionOneWay,
    /// One node is cut off and reconnected, again and again.
    PartitionFlapping,
    /// Frames between nodes are lost at random.
    Loss,
    /// Frames between nodes are late at random.
    Delay,
    /// A node's wall clock jumps, and jumps back; or does so many times (strobe).
    ClockJump,
    /// A node's wall clock runs up to 10 % fast or slow.
    ClockSkew,
    /// One node stops, and its disk forgets whatever was not synced.
    PowerLoss,
    PowerLossMajority,
    PowerLossAll,
    /// Pause A, let clients write, power off B, pause C, resume A, restart B, resume C: what NATS
    /// lost acknowledged messages by.
    Nats,
    /// One bit of a write-ahead log flips while its node is down; the node must refuse to start,
    /// and rejoins.
    CorruptWal,
    CorruptSst,
    CorruptManifest,
    /// A write-ahead log loses its tail while its node is down.
    CutWal,
    /// A node's disk is full.
    DiskFull,
    /// A node's disk takes long to sync.
    SlowDisk,
    /// A node's disk fails to sync once.
    FsyncError,
    /// Clients ask nothing for a while, and then all at once: channels close, and wake while some of
    /// their replicas are still closing. Needs a short `hibernation.idle_ms`.
    Lull,
}

/// Faults of different lanes may overlap; those of one lane follow each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Lane {
    /// Processes and disks: at most one such fault at a time, which keeps a majority of the disks
    /// honest.
    Nodes,
    Network,
    Clocks,
    Clients,
}

/// A fault at its time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Step {
    /// Since the beginning of the run.
    pub at: Duration,
    /// From the strike to the beginning of its undoing.
    pub lasts: Duration,
    pub kind: FaultKind,
    /// Chooses the victims and whatever else the kind leaves open.
    pub seed: u64,
}

/// What a kind needs of a world.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Need {
    Nothing,
    /// A network whose links can be broken, and more than one node.
    Links,
    /// Disks that can lose power or be filled.
    Disks,
    Shim,
    /// The product's `rejoin` command, and more than two nodes.
    Rejoin,
}

impl FaultKind {
    pub const ALL: [Self; 29] = [
        Self::Kill,
        Self::KillLeader,
        Self::KillMajority,
        Self::KillAll,
        Self::Pause,
        Self::PauseLeader,
        Self::PauseMajority,
        Self::PartitionLeader,
        Self::PartitionOne,
        Self::PartitionRing,
        Self::PartitionBridge,
        Self::PartitionOneWay,
        Self::PartitionFlapping,
        Self::Loss,
        Self::Delay,
        Self::ClockJump,
        Self::ClockSkew,
        Self::PowerLoss,
        Self::PowerLossMajority,
        Self::PowerLossAll,
        Self::Nats,
        Self::CorruptWal,
        Self::CorruptSst,
        Self::CorruptManifest,
        Self::CutWal,
        Self::DiskFull,
        Self::SlowDisk,
        Self::FsyncError,
        Self::Lull,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Self::Kill => "kill",
            Self::KillLeader => "kill_leader",
            Self::KillMajority => "kill_majority",
            Self::KillAll => "kill_all",
            Self::Pause => "pause",
            Self::PauseLeader => "pause_leader",
            Self::PauseMajority => "pause_majority",
            Self::PartitionLeader => "partition_leader",
            Self::PartitionOne => "partition_one",
            Self::PartitionRing => "partition_ring",
            Self::PartitionBridge => "partition_bridge",
            Self::PartitionOneWay => "partition_one_way",
            Self::PartitionFlapping => "partition_flapping",
            Self::Loss => "loss",
            Self::Delay => "delay",
            Self::ClockJump => "clock_jump",
            Self::ClockSkew => "clock_skew",
            Self::PowerLoss => "power_loss",
            Self::PowerLossMajority => "power_loss_majority",
            Self::PowerLossAll => "power_loss_all",
            Self::Nats => "nats",
            Self::CorruptWal => "corrupt_wal",
            Self::CorruptSst => "corrupt_sst",
            Self::CorruptManifest => "corrupt_manifest",
            Self::CutWal => "cut_wal",
            Self::DiskFull => "disk_full",
            Self::SlowDisk => "slow_disk",
            Self::FsyncError => "fsync_error",
            Self::Lull => "lull",
        }
    }

    pub fn lane(self) -> Lane {
        match self.need() {
            Need::Links => Lane::Network,
            Need::Shim if matches!(self, Self::ClockJump | Self::ClockSkew) => Lane::Clocks,
            Need::Nothing if self == Self::Lull => Lane::Clients,
            Need::Nothing | Need::Disks | Need::Shim | Need::Rejoin => Lane::Nodes,
        }
    }

    /// Whether it damages what a node has stored for good.
    pub fn corrupts(self) -> bool {
        self.need() == Need::Rejoin
    }

    pub(crate) fn need(self) -> Need {
        match self {
            Self::Kill
            | Self::KillLeader
            | Self::KillMajority
            | Self::KillAll
            | Self::Pause
            | Self::PauseLeader
            | Self::PauseMajority
            | Self::Lull => Need::Nothing,
            Self::PartitionLeader
            | Self::PartitionOne
            | Self::PartitionRing
            | Self::PartitionBridge
            | Self::PartitionOneWay
            | Self::PartitionFlapping
            | Self::Loss
            | Self::Delay => Need::Links,
            Self::ClockJump | Self::ClockSkew | Self::SlowDisk | Self::FsyncError => Need::Shim,
            Self::PowerLoss
            | Self::PowerLossMajority
            | Self::PowerLossAll
            | Self::Nats
            | Self::DiskFull => Need::Disks,
            Self::CorruptWal | Self::CorruptSst | Self::CorruptManifest | Self::CutWal => {
                Need::Rejoin
            }
        }
    }
}

impl fmt::Display for FaultKind {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name())
    }
}

/// A name that no fault has.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("there is no fault {0:?}; there are: {names}", names = FaultKind::ALL.map(FaultKind::name).join(", "))]
pub struct UnknownFault(pub String);

impl FromStr for FaultKind {
    type Err = UnknownFault;

    fn from_str(text: &str) -> Result<Self, UnknownFault> {
        Self::ALL
            .into_iter()
            .find(|kind| kind.name() == text)
            .ok_or_else(|| UnknownFault(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_leads_back_to_its_kind() {
        for kind in FaultKind::ALL {
            assert_eq!(kind.to_string().parse(), Ok(kind));
        }
        let error = "earthquake".parse::<FaultKind>().unwrap_err().to_string();
        assert!(error.contains("earthquake") && error.contains("power_loss_all"));
    }

    #[test]
    fn all_holds_every_kind_once() {
        let names: std::collections::BTreeSet<_> = FaultKind::ALL.iter().collect();
        assert_eq!(names.len(), FaultKind::ALL.len());
    }
}
