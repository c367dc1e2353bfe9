//! WebSockets: the checks before the upgrade, and the life of each connection.
//!
//! Everything that can be refused is refused over HTTP, with a problem that says why; after the
//! upgrade a socket ends only because its client or this node ends.

pub mod close;
pub mod frames;
mod liveness;
mod session;
mod unacked;
pub mod upgrade;
pub mod wire;

use std::sync::Arc;
use std::time::Duration;

use accord_raft::Channel;
use accord_raft::Consistency;
use accord_raft::ReadError;
use accord_raft::names::Username;
use axum::extract::Request;
use axum::extract::State;
use axum::response::Response;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use crate::api::extract::ChannelIds;
use crate::api::problem::Problem;
use crate::api::problem::Subject;
use crate::api::query::Query;
use crate::app::App;
use crate::app::Phase;
use crate::app::Slots;
use crate::delivery::Subscription;
use crate::listen::Accepted;
use session::Dialect;
use session::Session;
use upgrade::Upgrade;
use upgrade::UpgradeError;
use wire::Wire;

/// How long the answer 101 may take to be written.
const UPGRADE_MAX: Duration = Duration::from_secs(10);

/// `GET …/connect?username=&after=&receive=`.
pub async fn connect(
    State(app): State<Arc<App>>,
    ids: ChannelIds,
    mut request: Request,
) -> Result<Response, Problem> {
    let asked = Asked::parse(request.uri().query())?;
    if app.phase() != Phase::Running {
        return Err(Problem::stopping());
    }
    let of_read = |error| Problem::of_read(error, Subject::Channel);
    let channel = app
        .node
        .channel(ids.server, ids.channel)
        .await
        .map_err(of_read)?;
    let upgrade = Upgrade::of(&mut request)?;
    let Some(slot) = Slots::take(&app) else {
        app.counters.sockets_refused.one();
        return Err(UpgradeError::TooManySockets.into());
    };
    let (subscription, head) = match (asked.receive, upgrade.rich) {
        (true, _) => {
            let (subscription, head) = subscribe(&app, &channel, asked.after).await?;
            (Some(subscription), head)
        }
        // Only for its hello: this socket receives nothing.
        (false, true) => {
            let head = app.node.head(&channel, Consistency::Stale).await;
            (None, head.map_err(of_read)?)
        }
        (false, false) => (None, 0),
    };
    let dialect = match upgrade.rich {
        true => Dialect::Rich,
        false => Dialect::Plain,
    };
    let (on_upgrade, response) = upgrade.accept();
    let mut session = Session::new(
        app,
        channel,
        asked.username,
        dialect,
        subscription,
        head,
        slot,
    );
    tokio::spawn(async move {
        if let Some(mut wire) = upgraded(on_upgrade, session.frame_bytes_max()).await {
            session.run(&mut wire).await;
        }
    });
    Ok(response)
}

/// What the query of a connect says.
#[derive(Debug)]
struct Asked {
    username: Username,
    after: Option<u64>,
    receive: bool,
}

impl Asked {
    fn parse(raw: Option<&str>) -> Result<Asked, Problem> {
        let query = Query::parse(raw)?;
        Ok(Asked {
            username: Username::parse(query.required("username")?)?,
            after: query.seq("after")?,
            receive: query.flag("receive", true)?,
        })
    }
}

/// Follows the channel from `after`, or from now on. Answers with the channel's head too.
pub async fn subscribe(
    app: &Arc<App>,
    channel: &Arc<Channel>,
    after: Option<u64>,
) -> Result<(Subscription, u64), Problem> {
    let of_read = |error| Problem::of_read(error, Subject::Channel);
    let mut subscription = app
        .hub
        .subscribe(&app.node, channel)
        .await
        .map_err(of_read)?;
    // What this node has applied may lack messages that were acknowledged elsewhere before this
    // request; without `after` those are old and not to be sent, and with it they count for what
    // the head is. While there is no leader nothing is acknowledged anywhere, and what this node
    // knows has to do: better an open socket that may repeat a moment than none.
    let known = subscription.head();
    let head = match after {
        Some(after) if after <= known => known,
        _ => match app.node.head(channel, Consistency::Linearizable).await {
            Ok(head) => head.max(known),
            Err(ReadError::NoLeader | ReadError::Busy) if after.is_none() => known,
            Err(error) => return Err(of_read(error)),
        },
    };
    let cursor = after.unwrap_or(head);
    // Whoever claims to have seen what does not exist has mixed up channels or clusters; waiting
    // for the channel to grow there would silently skip what comes until then.
    if cursor > head {
        return Err(UpgradeError::AfterHead {
            after: cursor,
            head,
        }
        .into());
    }
    subscription.set_cursor(cursor);
    Ok((subscription, head))
}

/// The connection once its answer 101 is written; `None` if the client has gone before it saw that.
///
/// A future of its own, so that nothing of HTTP lives as long as the socket: what hyper hands over keeps
/// its read buffer of 8 KiB, also where nothing is left in it.
async fn upgraded(on_upgrade: OnUpgrade, frame_bytes_max: usize) -> Option<Wire<TcpStream>> {
    let upgraded = tokio::time::timeout(UPGRADE_MAX, on_upgrade).await;
    let Ok(parts) = upgraded.ok()?.ok()?.downcast::<TokioIo<Accepted>>() else {
        tracing::error!("an upgraded connection is not what was accepted");
        return None;
    };
    let stream = parts.io.into_inner().into_inner();
    let read = parts.read_buf.to_vec();
    Some(Wire::new(stream, read, frame_bytes_max).await)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries() {
        let asked = Asked::parse(Some("username=100%%20me&after=7&receive=false")).unwrap();
        assert_eq!(asked.username.as_str(), "100% me");
        assert_eq!((asked.after, asked.receive), (Some(7), false));
        let long = format!("username={}", "x".repeat(65));
        for bad in [
            "",
            "username=",
            "username=a&after=x",
            "username=a&receive=no",
            &long,
        ] {
            assert!(Asked::parse(Some(bad)).is_err(), "{bad}");
        }
    }
}
