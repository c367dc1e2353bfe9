//! Disks that lie, fail or run full.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use accord_jepsen::{ApiError, Cluster, ClusterOptions, Message, Oddity, wait_until};

use crate::rejoin::{largest, rejoin};
use crate::support::{SOON, options, own_cluster, run, started};
use crate::writer::{Writer, assert_kept, fill, read_whole, wait_level};

/// How a process ends when its disk cannot be trusted.
const FATAL: Option<i32> = Some(70);

#[test]
fn a_flipped_bit_found_by_a_read_ends_the_process() {
    run(180, async {
        let cluster = own_cluster(3).await;
        let channel = cluster.api(1).new_channel().await.unwrap();
        for number in 0..60 {
            let api = cluster.api(number % 3 + 1);
            api.post(&channel, "ann", &noise(number, 2_000))
                .await
                .unwrap();
        }
        // Opening writes what was in the write-ahead log into tables.
        cluster.kill(3).unwrap();
        cluster.start_node(3).unwrap();
        cluster.wait_ready(3).await.unwrap();
        let table = largest(cluster.data_dir(3), "sst");
        let mut bytes = std::fs::read(&table).unwrap();
        for at in (1_000..bytes.len()).step_by(4_000) {
            bytes[at] ^= 1;
        }
        std::fs::write(&table, bytes).unwrap();
        let api = cluster.api(3);
        let target = format!("{}?limit=1000&consistency=stale", channel.messages());
        wait_until("the end of the process", SOON, || async {
            // Whatever it answers: it must not go on with this.
            let _ = api.get(&target).await;
            match cluster.is_running(3) {
                true => Err("it still runs".to_owned()),
                false => Ok(()),
            }
        })
        .await
        .unwrap();
        let ended = cluster.wait_ended(3, Instant::now(), SOON).await.unwrap();
        assert_eq!(ended.status.code(), FATAL, "{}", cluster.log(3));
        assert!(cluster.log(3).contains("stored data is damaged"));

        let output = rejoin(&cluster, 3);
        assert!(output.status.success(), "{output:?}");
        cluster.start_node(3).unwrap();
        cluster.wait_ready(3).await.unwrap();
        let whole = read_whole(&cluster.api(1), &channel).await;
        assert_eq!(whole.len(), 60);
        wait_level(&api, &channel, &whole).await;
    });
}

/// Fails every sync of a file whose path holds what the trigger file says, from then on.
const SHIM: &str = r#"
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
static int fails(int fd) {
    const char *trigger = getenv("ACCORD_TEST_EIO");
    char wanted[256] = {0}, link[64], path[4096] = {0};
    FILE *file = trigger ? fopen(trigger, "r") : NULL;
    if (!file) return 0;
    if (!fgets(wanted, sizeof wanted, file)) wanted[0] = 0;
    fclose(file);
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    if (readlink(link, path, sizeof path - 1) < 0) return 0;
    return wanted[0] && strstr(path, wanted) != NULL;
}
int fdatasync(int fd) {
    if (fails(fd)) { errno = EIO; return -1; }
    return ((int (*)(int))dlsym(RTLD_NEXT, "fdatasync"))(fd);
}
int fsync(int fd) {
    if (fails(fd)) { errno = EIO; return -1; }
    return ((int (*)(int))dlsym(RTLD_NEXT, "fsync"))(fd);
}
"#;

/// `None`, with the reason on standard error, where there is no compiler.
fn shim(dir: &Path) -> Option<PathBuf> {
    let (source, library) = (dir.join("shim.c"), dir.join("shim.so"));
    std::fs::write(&source, SHIM).unwrap();
    let mut gcc = Command::new("gcc");
    gcc.args(["-shared", "-fPIC", "-O1", "-o"]).arg(&library);
    match gcc.arg(&source).arg("-ldl").output() {
        Ok(output) => {
            let text = String::from_utf8_lossy(&output.stderr).into_owned();
            assert!(output.status.success(), "{text}");
            Some(library)
        }
        Err(error) => {
            eprintln!("skipped: no gcc to build the shim with: {error}");
            None
        }
    }
}

#[test]
fn a_failed_fsync_ends_the_process_and_the_others_go_on() {
    let dir = tempfile::tempdir().unwrap();
    let Some(library) = shim(dir.path()) else {
        return;
    };
    let trigger = dir.path().join("trigger");
    run(180, async {
        let environment = vec![
            ("LD_PRELOAD".to_owned(), library.display().to_string()),
            ("ACCORD_TEST_EIO".to_owned(), trigger.display().to_string()),
        ];
        let cluster = started(ClusterOptions {
            environment,
            ..options(3)
        })
        .await;
        let channel = cluster.api(1).new_channel().await.unwrap();
        let leader = cluster.api(1).leader_of(&channel, SOON).await.unwrap();
        let others = cluster.others(leader);
        let writer = Writer::start(cluster.apis(&others), &channel, "ann");
        writer.wait_more(30, SOON).await;
        // A follower under load, then the leader when all is quiet but for one post.
        fail_syncs(&cluster, &trigger, others[0]).await;
        writer.wait_more(30, SOON).await;
        std::fs::remove_file(&trigger).unwrap();
        cluster.start_node(others[0]).unwrap();
        cluster.wait_ready(others[0]).await.unwrap();
        let acked = writer.finish().await;
        fail_syncs_with(&cluster, &trigger, leader, || async {
            let api = cluster.api(others[0]);
            let _ = api.post_keyed(&channel, "ann", "last", "a key").await;
        })
        .await;
        let api = cluster.api(others[1]);
        accord_jepsen::post_until_acknowledged(&[api], &channel, "ann", "last", "a key", SOON)
            .await
            .unwrap();
        let whole = read_whole(&cluster.api(others[1]), &channel).await;
        assert_kept(&whole[..whole.len() - 1], &acked);
        assert_eq!(whole.last().unwrap().message, "last");
    });
}

async fn fail_syncs(cluster: &Cluster, trigger: &Path, node: u64) {
    fail_syncs_with(cluster, trigger, node, || async {}).await;
}

/// From now on the node's disk answers EIO; waits until its process has ended for that.
async fn fail_syncs_with<F: Future<Output = ()>>(
    cluster: &Cluster,
    trigger: &Path,
    node: u64,
    work: impl FnOnce() -> F,
) {
    let began = Instant::now();
    std::fs::write(trigger, format!("/node-{node}/")).unwrap();
    let (ended, ()) = tokio::join!(cluster.wait_ended(node, began, SOON), work());
    let ended = ended.unwrap();
    eprintln!(
        "node {node} ended {} ms after its disk failed",
        ended.took.as_millis()
    );
    assert_eq!(ended.status.code(), FATAL, "{}", cluster.log(node));
    assert!(
        cluster.log(node).contains("a write failed"),
        "{}",
        cluster.log(node)
    );
}

const MEBIBYTE: u64 = 1 << 20;
const DISK_BYTES: u64 = 160 * MEBIBYTE;
const FREE_BYTES_MIN: u64 = 48 * MEBIBYTE;

/// A small file system of its own, unmounted when dropped.
struct SmallDisk {
    at: PathBuf,
}

impl SmallDisk {
    fn mount(dir: &Path, name: &str) -> Result<SmallDisk, String> {
        let (image, at) = (dir.join(format!("{name}.img")), dir.join(name));
        let file = std::fs::File::create(&image).unwrap();
        file.set_len(DISK_BYTES).unwrap();
        std::fs::create_dir(&at).unwrap();
        let run = |command: &mut Command| match command.output() {
            Ok(output) if output.status.success() => Ok(()),
            other => Err(format!("{command:?}: {other:?}")),
        };
        run(Command::new("mkfs.ext4")
            .args(["-q", "-m", "0"])
            .arg(&image))?;
        run(Command::new("mount")
            .args(["-o", "loop"])
            .arg(&image)
            .arg(&at))?;
        Ok(SmallDisk { at })
    }

    fn filler(&self) -> PathBuf {
        self.at.join("filler")
    }

    /// Leaves so many bytes free.
    fn fill(&self, leave: u64) {
        let disk = rustix::fs::statvfs(&self.at).unwrap();
        let free = disk.f_bavail * disk.f_frsize;
        let had = self.filler().metadata().map_or(0, |file| file.len());
        let file = std::fs::File::options()
            .create(true)
            .append(true)
            .open(self.filler());
        let more = free.saturating_sub(leave);
        let fallocate = rustix::fs::FallocateFlags::empty();
        rustix::fs::fallocate(file.unwrap(), fallocate, had, more).unwrap();
    }

    fn free(&self) {
        std::fs::remove_file(self.filler()).unwrap();
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let unmounted = Command::new("umount").arg("-l").arg(&self.at).status();
        assert!(unmounted.is_ok_and(|status| status.success()));
    }
}

#[test]
fn writes_are_refused_before_a_disk_is_full_and_go_on_when_there_is_room() {
    if !rustix::process::geteuid().is_root() {
        return eprintln!("skipped: only root can mount a small file system");
    }
    let dir = tempfile::tempdir().unwrap();
    let mut disks = Vec::new();
    for node in 1..=3 {
        match SmallDisk::mount(dir.path(), &format!("disk-{node}")) {
            Ok(disk) => disks.push(disk),
            Err(why) => return eprintln!("skipped: {why}"),
        }
    }
    run(240, async {
        let mut options = options(3);
        let free_bytes_min = (
            "ACCORD_FREE_BYTES_MIN".to_owned(),
            FREE_BYTES_MIN.to_string(),
        );
        options.environment = vec![free_bytes_min];
        let cluster = Cluster::prepare(options).unwrap();
        for node in cluster.ids() {
            let oddity = Oddity {
                data_dir: Some(disk(&disks, node).at.join("data")),
                ..Oddity::default()
            };
            cluster.start_odd(node, &oddity).unwrap();
        }
        cluster.wait_all_ready().await.unwrap();
        let api = cluster.api(1);
        let channel = api.new_channel().await.unwrap();
        fill(&cluster.apis(&[1, 2, 3]), &channel, "before", 30).await;
        let leader = api.leader_of(&channel, SOON).await.unwrap();
        let others = cluster.others(leader);

        // The leader is short of room: nobody's writes are taken, reads go on.
        disk(&disks, leader).fill(FREE_BYTES_MIN - 4 * MEBIBYTE);
        for node in cluster.ids() {
            wait_refused(&cluster, node, &channel).await;
            let whole = read_whole(&cluster.api(node), &channel).await;
            assert!(whole.len() >= 30);
        }
        disk(&disks, leader).free();
        wait_taken(&cluster, leader, &channel, "room at the leader").await;
        wait_taken(&cluster, others[0], &channel, "room at the leader").await;

        // One follower is: the others go on, and it follows until its reserve begins.
        disk(&disks, others[0]).fill(FREE_BYTES_MIN / 2 - 4 * MEBIBYTE);
        wait_refused(&cluster, others[0], &channel).await;
        wait_taken(&cluster, leader, &channel, "without one").await;
        wait_taken(&cluster, others[1], &channel, "without one").await;
        let mut more = Vec::new();
        for number in 0..50 {
            let node = if number % 2 == 0 { leader } else { others[1] };
            more.push(wait_taken(&cluster, node, &channel, "without one").await);
        }

        // Both followers are: a commit would need one of them.
        disk(&disks, others[1]).fill(FREE_BYTES_MIN - 4 * MEBIBYTE);
        wait_refused(&cluster, leader, &channel).await;
        for node in &others {
            disk(&disks, *node).free();
        }
        for node in cluster.ids() {
            wait_taken(&cluster, node, &channel, "room everywhere").await;
        }
        let whole = read_whole(&cluster.api(leader), &channel).await;
        assert!(more.iter().all(|message| whole.contains(message)));
        for node in cluster.ids() {
            assert!(cluster.is_running(node));
            wait_level(&cluster.api(node), &channel, &whole).await;
        }
    });
}

fn disk(disks: &[SmallDisk], node: u64) -> &SmallDisk {
    &disks[usize::try_from(node - 1).unwrap()]
}

async fn wait_refused(cluster: &Cluster, node: u64, channel: &accord_jepsen::ChannelRef) {
    wait_until("a 507", SOON, || async {
        match cluster.api(node).post(channel, "ann", "too much").await {
            Err(ApiError::Refused { status: 507, .. }) => Ok(()),
            other => Err(format!("node {node}: {other:?}")),
        }
    })
    .await
    .unwrap();
}

/// Room shows within seconds, not only in the end.
async fn wait_taken(
    cluster: &Cluster,
    node: u64,
    channel: &accord_jepsen::ChannelRef,
    body: &str,
) -> Message {
    let began = Instant::now();
    let taken = wait_until("a write", SOON, || async {
        let posted = cluster.api(node).post(channel, "ann", body).await;
        posted.map_err(|error| error.to_string())
    });
    let taken = taken.await.unwrap();
    let took: Duration = began.elapsed();
    eprintln!(
        "node {node} took a write {} ms after there was room",
        took.as_millis()
    );
    taken
}

/// Letters that do not compress: what is read of them when a group is opened is in memory then, and
/// must not be all.
fn noise(seed: u64, length: usize) -> String {
    let mut state = seed;
    let letters = std::iter::repeat_with(|| {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        char::from(b'a' + u8::try_from(state >> 60).unwrap_or(0))
    });
    letters.take(length).collect()
}
