//! `GET …/events`: the stream of a rich socket as server-sent events.

use accord_jepsen::{Events, Kind, Socket};

use crate::support::{NOBODY, assert_problem, rich, run, shared_apis, shared_channel};

#[test]
fn an_event_stream_begins_with_hello_and_goes_on_with_what_is_new() {
    run(60, async {
        let [first, second, _] = shared_apis().await;
        let channel = first.new_channel().await.unwrap();
        first.post(&channel, "ann", "before").await.unwrap();
        let mut events = Events::open(second.address(), &channel, None)
            .await
            .unwrap();
        let hello = events.next().await.unwrap();
        assert!(matches!(hello.frame.kind, Kind::Hello { seq: 1 }));
        assert_eq!(hello.id, None);
        let (mut bea, _) = rich(&first, &channel, "bea").await;
        type_something(&mut bea).await;
        let typing = loop {
            let event = events.next().await.unwrap();
            if let Kind::Typing = event.frame.kind {
                break event;
            }
        };
        assert_eq!(typing.id, None, "only messages have ids");
        let posted = first.post(&channel, "ann", "after\nit").await.unwrap();
        let (id, message) = events.message().await.unwrap();
        assert_eq!((id, message), (2, posted));
    });
}

async fn type_something(socket: &mut Socket) {
    let frame = serde_json::json!({ "type": "typing" });
    socket.send_json(&frame).await.unwrap();
}

#[test]
fn a_stream_goes_on_behind_the_last_event() {
    run(60, async {
        let [first, second, third] = shared_apis().await;
        let channel = first.new_channel().await.unwrap();
        // More than one page of history, and more than one node.
        for number in 0..300 {
            let api = if number % 2 == 0 { &first } else { &second };
            let text = format!("message {number}");
            api.post(&channel, "ann", &text).await.unwrap();
        }
        let mut events = Events::open(third.address(), &channel, Some(0))
            .await
            .unwrap();
        for seq in 1..=150 {
            let (id, message) = events.message().await.unwrap();
            assert_eq!((id, message.seq), (seq, seq));
        }
        drop(events);
        let mut events = Events::open(first.address(), &channel, Some(150))
            .await
            .unwrap();
        first.post(&channel, "ann", "live").await.unwrap();
        for seq in 151..=301 {
            let (id, message) = events.message().await.unwrap();
            assert_eq!((id, message.seq), (seq, seq));
        }
    });
}

#[test]
fn what_cannot_be_streamed_is_refused_with_a_problem() {
    run(60, async {
        let (api, channel) = shared_channel().await;
        let path = format!("{}/events", channel.path());
        let header = [("last-event-id", "seven")];
        let answer = api.send("GET", &path, &header, "").await.unwrap();
        assert_problem(&answer, 400);
        let beyond = api.get(&format!("{path}?after=7")).await.unwrap();
        assert_problem(&beyond, 400);
        let nobody = path.replace(&channel.channel, NOBODY);
        assert_problem(&api.get(&nobody).await.unwrap(), 404);
        let posted = api.send("POST", &path, &[], "").await.unwrap();
        assert_problem(&posted, 405);
    });
}
