//! Entries for the fuzz targets: each takes any bytes, as they could come from a client or an
//! operator, and asserts more than that nothing panics. Compiled for tests, which feed them the kept
//! corpus, and with the feature `fuzzing`.

use crate::agents::delta::Delta;
use crate::agents::openai;
use crate::api::extract;
use crate::api::query::Query;
use crate::config::Config;
use crate::config::Overrides;
use crate::socket::frames;
use crate::socket::frames::FrameError;
use crate::socket::frames::Request;

/// A text frame of a rich socket.
pub fn socket_frame(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return;
    };
    let parsed = frames::parse(text);
    if let Some(nonce) = &parsed.nonce {
        // Whatever it is, the answer that carries it is JSON and carries it unchanged.
        let problem = FrameError::UnknownType.into();
        let answer = frames::error(Some(nonce), &problem);
        let answer: serde_json::Value = serde_json::from_slice(&answer).expect("an answer is JSON");
        assert_eq!(answer["nonce"], *nonce.as_str());
    }
    let Ok(Request::Send { message, reply_to }) = &parsed.request else {
        return;
    };
    assert!(message.len() <= text.len(), "a message out of nothing");
    let again = serde_json::json!({
        "type": "send",
        "nonce": parsed.nonce,
        "message": message,
        "reply_to": reply_to,
    });
    assert_eq!(frames::parse(&again.to_string()), parsed);
}

/// A query string, its cursors and options.
pub fn api_query(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return;
    };
    let Ok(query) = Query::parse(Some(text)) else {
        return;
    };
    for name in ["after", "before", "cursor", "limit"] {
        if let Ok(Some(seq)) = query.seq(name) {
            let digits = query.text(name).ok().flatten().unwrap_or_default();
            let digits = digits.trim_start_matches('0');
            assert_eq!(seq.to_string().trim_start_matches('0'), digits);
        }
        if let Ok(Some(limit)) = query.number(name, 1..=500) {
            assert!((1..=500).contains(&limit));
        }
        if let Ok(Some(text)) = query.text(name)
            && let Some(id) = extract::parse_id(text)
        {
            assert!(id.to_string().eq_ignore_ascii_case(text));
        }
    }
    let _ = (query.flag("publish_only", false), query.consistency());
    let _ = query.required("username");
}

/// The text of `cluster.toml`.
pub fn cluster_toml(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return;
    };
    match Config::parse(text, "fuzz", 1, &Overrides::default()) {
        Ok(config) => {
            assert!(config.node(1).is_some());
            assert!((1..=config.nodes.len()).contains(&config.replication));
            assert!(config.heartbeat < config.election_timeout);
        }
        Err(error) => assert!(!error.to_string().is_empty()),
    }
}

/// What a model server streams, in pieces of whatever size.
pub fn agent_answer(bytes: &[u8]) {
    const BYTES_MAX: usize = 1_000;
    let Some((first, bytes)) = bytes.split_first() else {
        return;
    };
    let whole = openai::said(bytes, bytes.len(), BYTES_MAX);
    let in_pieces = openai::said(bytes, usize::from(*first), BYTES_MAX);
    assert_eq!(whole, in_pieces, "how it was cut matters");
    assert!(whole.1.len() <= BYTES_MAX, "a reply too long");
    // Nodes send each other deltas of it.
    let _ = Delta::parse(bytes);
}

#[cfg(test)]
#[path = "../fuzz/corpus.rs"]
mod corpus;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_corpus_passes() {
        corpus::feed("socket_frame", socket_frame);
        corpus::feed("api_query", api_query);
        corpus::feed("cluster_toml", cluster_toml);
        corpus::feed("agent_answer", agent_answer);
    }

    #[test]
    #[ignore = "writes fuzz/corpus: cargo test --bin accord write_seeds -- --ignored"]
    fn write_seeds() {
        let id = "01890a5d-ac96-774b-bcce-b302099a8057";
        let seed = |label: &'static str, text: &str| (label, text.as_bytes().to_vec());
        let send = format!(
            r#"{{"type":"send","nonce":"n-1","message":"Hei \u00e4 \"you\"","reply_to":"{id}"}}"#
        );
        corpus::keep(
            "socket_frame",
            &[
                seed("send", &send),
                seed("typing", r#"{"type":"typing"}"#),
                seed(
                    "ping",
                    r#"{"type":"ping","nonce":null,"more":[1,{"a":2.5e3}]}"#,
                ),
                seed("malformed", r#"{"type":7,"nonce":"n"}"#),
            ],
        );
        corpus::keep(
            "api_query",
            &[
                seed("page", "after=41&limit=50&consistency=stale"),
                seed("cursor", "cursor=18446744073709551615&limit=1000"),
                seed("username", "username=100%%20me+%C3%A4&publish_only=true"),
                seed("id", &format!("after={id}&limit=0")),
            ],
        );
        let event = |text: &str| format!("data: {{\"choices\":[{text}]}}\n\n");
        let stream = [
            "\u{7}\u{feff}: hello\r\n".to_owned(),
            event(r#"{"index":0,"delta":{"role":"assistant"}}"#),
            event(r#"{"index":0,"delta":{"content":"Hei \u00e4"}}"#),
            event(r#"{"index":0,"delta":{},"finish_reason":"stop"}"#),
            "data: [DONE]\n\n".to_owned(),
        ];
        corpus::keep(
            "agent_answer",
            &[
                seed("stream", &stream.concat()),
                seed(
                    "error",
                    "\u{3}data: {\"error\":{\"message\":\"no\"}}\r\n\r\n",
                ),
                seed("page", "\u{1}<html>\n\n</html>"),
            ],
        );
        corpus::keep(
            "cluster_toml",
            &[seed("checkout", include_str!("../cluster.toml"))],
        );
    }
}
