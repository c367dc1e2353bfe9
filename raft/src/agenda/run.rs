//! The task that knows what is due on this node, and has it attended to.

use std::sync::Arc;
use std::time::Duration;

use accord_storage::GroupId;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio::time::Instant;

use super::attend;
use super::timers::News;
use super::timetable::Attended;
use super::timetable::Timetable;
use crate::api::Consistency;
use crate::clock;
use crate::edge;
use crate::shared::Shared;

/// Groups that are attended to at the same time: as many as are opened at a time, and as many again
/// that wait for their commit.
const AT_ONCE_MAX: usize = 128;
/// Rows of the index that are read at a time.
const PAGE_ROWS: usize = 1_024;
/// Between two looks whether a majority is there.
const QUORUM_AGAIN: Duration = Duration::from_millis(50);
/// The longest sleep: the clock that times are told by may be set, and the index is to be read on.
const SLEEP_MAX: Duration = Duration::from_millis(990);

/// Runs until the node stops.
pub(crate) async fn run(shared: Arc<Shared>) {
    let mut stopping = shared.stopping.subscribe();
    tokio::select! {
        _ = stopping.wait_for(|stopping| *stopping) => return,
        () = quorum(&shared) => {}
    }
    let mut table = Timetable::default();
    let mut under_way = FuturesUnordered::new();
    loop {
        let news = shared.timers.take_news();
        let now_ms = clock::now_ms();
        table.at(now_ms);
        for (group, news) in news {
            match news {
                News::Due(due_ms) => table.changed(group, due_ms),
                News::Leads => table.leads(group),
                News::Left => table.left(group, now_ms),
            }
        }
        let read_all = read_on(&shared, &mut table, now_ms).await;
        // While it stops others take over; what it began to do now would be in their way.
        while !shared.is_draining()
            && under_way.len() < AT_ONCE_MAX
            && let Some((group, is_late)) = table.take(now_ms)
        {
            under_way.push(begin(&shared, group, is_late));
        }
        let is_full = under_way.len() >= AT_ONCE_MAX || shared.is_draining();
        let latest = shared.next_beat(SLEEP_MAX);
        let next = match table.next_ms() {
            _ if !read_all => Instant::now(),
            Some(next_ms) if !is_full => {
                let left = Duration::from_millis(next_ms.saturating_sub(now_ms));
                (Instant::now() + left).min(latest)
            }
            _ => latest,
        };
        tokio::select! {
            _ = stopping.wait_for(|stopping| *stopping) => return,
            Some((group, what)) = under_way.next(), if !under_way.is_empty() => {
                let now_ms = clock::now_ms();
                table.at(now_ms);
                table.attended(group, what, now_ms);
            }
            () = shared.timers.arrived() => {}
            () = tokio::time::sleep_until(next) => {}
        }
    }
}

/// Waits until a majority of the nodes is there: what is due cannot be done before, and to try it would
/// only raise terms.
async fn quorum(shared: &Arc<Shared>) {
    let directory = shared.directory();
    while directory
        .caught_up(Consistency::Linearizable)
        .await
        .is_err()
    {
        tokio::time::sleep_until(Instant::now() + QUORUM_AGAIN).await;
    }
}

/// On a task of its own: one that waits for a leader holds up nobody.
async fn begin(shared: &Arc<Shared>, group: GroupId, is_late: bool) -> (GroupId, Attended) {
    let shared = Arc::clone(shared);
    let attending = tokio::spawn(async move { attend::attend(&shared, group, is_late).await });
    (group, attending.await.unwrap_or(Attended::Failed))
}

/// Reads a page of the index if it is time; false if there is more to read at once.
async fn read_on(shared: &Arc<Shared>, table: &mut Timetable, now_ms: u64) -> bool {
    let Some((after, until_ms)) = table.wants(now_ms) else {
        return true;
    };
    let store = shared.store.clone();
    let rows = edge::blocking(move || store.due(after, until_ms, PAGE_ROWS)).await;
    match rows {
        Ok(Ok(rows)) => {
            let all = rows.len() < PAGE_ROWS;
            table.read(&rows, until_ms, all);
            all
        }
        // A store that failed ends the node by itself.
        Ok(Err(error)) => {
            tracing::error!(%error, "the index of due times could not be read");
            true
        }
        Err(_) => true,
    }
}
