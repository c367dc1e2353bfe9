//! Kills and pauses.

use std::os::unix::process::ExitStatusExt;

use crate::world::proc;

use super::strike::{Strike, StrikeError, Struck, judged, listed};

/// SIGKILL, and a restart. Several are stopped first, so that none notices the others' end.
pub async fn kill(strike: &mut Strike<'_>) -> Result<Struck, StrikeError> {
    let victims = strike.victims().await?;
    let cluster = strike.world.cluster();
    strike.begin();
    let mut seen = Vec::new();
    let mut all_died = true;
    if victims.len() > 1 {
        for node in victims.iter().filter(|node| cluster.is_running(**node)) {
            cluster.pause(*node)?;
        }
    }
    for node in &victims {
        let ran = cluster.is_running(*node);
        let pid = cluster.pid(*node).unwrap_or_default();
        strike.take_down(*node)?;
        let signal = cluster
            .exit_status(*node)
            .and_then(|status| status.signal());
        all_died &= ran && signal == Some(9);
        seen.push(if ran {
            format!("process {pid} of node {node} ended by signal {signal:?}")
        } else {
            format!("node {node} was down already")
        });
    }
    strike.last(strike.step.lasts).await;
    for node in &victims {
        strike.up(*node)?;
    }
    Ok(Struck {
        detail: format!("kill -9 of {}", listed(&victims)),
        nodes: victims,
        bite: judged(all_died, seen.join(", ")),
    })
}

/// SIGSTOP, and SIGCONT.
pub async fn pause(strike: &mut Strike<'_>) -> Result<Struck, StrikeError> {
    let victims = strike.victims().await?;
    let cluster = strike.world.cluster();
    strike.begin();
    let mut seen = Vec::new();
    let mut all_paused = true;
    for node in &victims {
        strike.freeze(*node)?;
    }
    for node in &victims {
        let pid = cluster.pid(*node).unwrap_or_default();
        let threads = proc::all_stopped(pid).await?;
        let answers = strike.answers(*node).await;
        all_paused &= !answers;
        let answered = if answers { "an answer" } else { "no answer" };
        seen.push(format!(
            "all {threads} threads of node {node} in state T, {answered} from its API"
        ));
    }
    strike.last(strike.step.lasts).await;
    for node in &victims {
        let states = proc::thread_states(cluster.pid(*node).unwrap_or_default());
        let still = !states.is_empty() && states.iter().all(|state| *state == 'T');
        all_paused &= still;
        if !still {
            seen.push(format!("node {node} did not stay paused: {states:?}"));
        }
        strike.go(*node)?;
    }
    Ok(Struck {
        detail: format!("pause of {}", listed(&victims)),
        nodes: victims,
        bite: judged(all_paused, seen.join(", ")),
    })
}
