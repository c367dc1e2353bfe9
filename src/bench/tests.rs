//! The load's checks are trusted because they catch what a server does wrong on purpose here.

use std::net::TcpListener;
use std::net::TcpStream;
use std::time::Duration;

use tokio_tungstenite::tungstenite;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::WebSocket;

use super::checks::Faults;
use super::load;
use super::load::Means;
use super::load::Outcome;
use super::plan::Room;
use super::plan::Seating;
use super::workload::Crew;
use super::workload::Workload;

/// What a server does with every message but a few.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Manner {
    Honest,
    /// This message is delivered a second time.
    Repeats,
    /// This one is acknowledged and not delivered.
    Loses,
    /// This one is delivered after the next.
    Swaps,
    /// This one is delivered and not acknowledged.
    ForgetsAck,
    Refuses,
    /// The connection ends here.
    HangsUp,
    /// This frame is no JSON.
    Babbles,
}

/// Which message it is that something happens to.
const VICTIM: u64 = 5;

/// One user's server: until the user goes.
fn serve(stream: TcpStream, manner: Manner) -> Option<()> {
    let mut socket = tungstenite::accept(stream).ok()?;
    let mut held = None;
    for count in 0.. {
        let text = loop {
            match socket.read().ok()? {
                Message::Text(text) => break text,
                Message::Close(_) => return Some(()),
                _ => {}
            }
        };
        let frame = |kind: &str| {
            let text = text.as_str();
            format!(
                "{{\"type\":\"{kind}\",\"username\":\"u\",\"message\":\"{text}\",\"seq\":{count}}}"
            )
        };
        let (message, ack) = (frame("message"), frame("ack"));
        let manner = if count == VICTIM {
            manner
        } else {
            Manner::Honest
        };
        match manner {
            Manner::Swaps => held = Some(message.clone()),
            Manner::Loses | Manner::Refuses => {}
            _ => say(&mut socket, message.clone())?,
        }
        if manner != Manner::Swaps
            && let Some(held) = held.take()
        {
            say(&mut socket, held)?;
        }
        match manner {
            Manner::Repeats => say(&mut socket, message)?,
            Manner::Babbles => say(&mut socket, "babble".to_owned())?,
            Manner::HangsUp => return None,
            _ => {}
        }
        match manner {
            Manner::ForgetsAck => {}
            Manner::Refuses => say(&mut socket, "{\"type\":\"error\"}".to_owned())?,
            _ => say(&mut socket, ack)?,
        }
    }
    Some(())
}

fn say(socket: &mut WebSocket<TcpStream>, text: String) -> Option<()> {
    socket.send(Message::text(text)).ok()
}

/// A short load of one user with a window.
fn load(manner: Manner) -> Outcome {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    std::thread::spawn(move || {
        let (stream, _) = listener.accept().unwrap();
        serve(stream, manner)
    });
    let short = Duration::from_millis(200);
    let seating = Seating {
        workload: Workload {
            warm_up: Duration::ZERO,
            measured: short,
            // What is lost for good is waited for in vain; what is sound must come in any case.
            drain_max: match manner {
                Manner::Honest => Duration::from_secs(20),
                _ => short,
            },
            ..Workload::new(Crew::talkers(1, 1).with_window(4))
        },
        rooms: vec![Room {
            path: "/room".to_owned(),
            crew: 0,
        }],
        nodes: vec![address],
    };
    let means = Means {
        threads: 1,
        pids: Vec::new(),
        at_warm: Box::new(|_| {}),
        show: Box::new(|_| {}),
    };
    load::run(seating, means).unwrap()
}

#[test]
fn a_sound_server_has_no_faults() {
    let outcome = load(Manner::Honest);
    assert_eq!(outcome.tally.faults, Faults::default());
    let (least, most) = outcome.sender_acks[0];
    assert!(least > VICTIM && least == most, "{outcome:?}");
}

#[track_caller]
fn caught(manner: Manner, fault: fn(&Faults) -> u64) {
    let faults = load(manner).tally.faults;
    assert!(fault(&faults) > 0, "{manner:?}: {faults:?}");
}

#[test]
fn what_a_server_does_wrong_is_caught() {
    caught(Manner::Repeats, |faults| faults.duplicates);
    caught(Manner::Loses, |faults| faults.gaps);
    caught(Manner::Swaps, |faults| faults.out_of_order);
    caught(Manner::ForgetsAck, |faults| faults.unacked);
    caught(Manner::Refuses, |faults| faults.refused);
    caught(Manner::HangsUp, |faults| faults.lost_connections);
    caught(Manner::Babbles, |faults| faults.odd_frames);
}
