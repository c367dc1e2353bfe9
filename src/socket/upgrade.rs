//! From a request to a WebSocket: what the headers must say, and the answer 101.

use axum::body::Body;
use axum::extract::Request;
use axum::http::HeaderMap;
use axum::http::HeaderName;
use axum::http::HeaderValue;
use axum::http::Method;
use axum::http::StatusCode;
use axum::http::Version;
use axum::http::header;
use axum::response::Response;
use hyper::upgrade::OnUpgrade;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

/// The subprotocol of rich sockets.
pub const RICH: &str = "accord.v1";

/// Bytes of a `Sec-WebSocket-Key`: 16 bytes in base64.
const KEY_BYTES: usize = 24;

/// Why a request does not become a socket.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UpgradeError {
    #[error("This path takes WebSockets: send the headers of an upgrade.")]
    NotAsked,
    #[error("The WebSocket handshake is not right: {0}.")]
    Malformed(&'static str),
    #[error("This node has as many sockets as it may. Try again, best on another node.")]
    TooManySockets,
    #[error(
        "The query parameter \"after\" is {after}, beyond the channel's head, which is {head}."
    )]
    AfterHead { after: u64, head: u64 },
}

/// A request that may become a socket.
#[derive(Debug)]
pub struct Upgrade {
    pub rich: bool,
    on_upgrade: OnUpgrade,
    accept: HeaderValue,
}

impl Upgrade {
    pub fn of(request: &mut Request) -> Result<Upgrade, UpgradeError> {
        let asked = request.method() == Method::GET
            && request.version() == Version::HTTP_11
            && lists(request.headers(), &header::CONNECTION, "upgrade")
            && lists(request.headers(), &header::UPGRADE, "websocket");
        if !asked {
            return Err(UpgradeError::NotAsked);
        }
        let headers = request.headers();
        let version = headers.get(header::SEC_WEBSOCKET_VERSION);
        if version.is_none_or(|version| version.as_bytes() != b"13") {
            return Err(UpgradeError::Malformed("Sec-WebSocket-Version must be 13"));
        }
        let key = headers.get(header::SEC_WEBSOCKET_KEY);
        let Some(key) = key.filter(|key| key.len() == KEY_BYTES) else {
            return Err(UpgradeError::Malformed(
                "Sec-WebSocket-Key must be 16 bytes in base64",
            ));
        };
        let accept = HeaderValue::try_from(derive_accept_key(key.as_bytes()))
            .expect("base64 is visible ASCII");
        let rich = lists(headers, &header::SEC_WEBSOCKET_PROTOCOL, RICH);
        Ok(Upgrade {
            on_upgrade: hyper::upgrade::on(request),
            rich,
            accept,
        })
    }

    /// The answer after which the connection is a socket.
    pub fn accept(self) -> (OnUpgrade, Response) {
        let mut response = Response::new(Body::empty());
        *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        let headers = response.headers_mut();
        headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
        headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
        headers.insert(header::SEC_WEBSOCKET_ACCEPT, self.accept);
        if self.rich {
            let protocol = HeaderValue::from_static(RICH);
            headers.insert(header::SEC_WEBSOCKET_PROTOCOL, protocol);
        }
        (self.on_upgrade, response)
    }
}

/// Whether a comma-separated header holds a word, in any case.
fn lists(headers: &HeaderMap, name: &HeaderName, word: &str) -> bool {
    let values = headers.get_all(name).iter();
    values
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .any(|listed| listed.trim().eq_ignore_ascii_case(word))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(edit: impl FnOnce(&mut Request)) -> Result<bool, UpgradeError> {
        let mut request = Request::new(Body::empty());
        for (name, value) in [
            (header::CONNECTION, "keep-alive, Upgrade"),
            (header::UPGRADE, "WebSocket"),
            (header::SEC_WEBSOCKET_VERSION, "13"),
            (header::SEC_WEBSOCKET_KEY, "dGhlIHNhbXBsZSBub25jZQ=="),
        ] {
            let value = HeaderValue::from_static(value);
            request.headers_mut().insert(name, value);
        }
        edit(&mut request);
        Upgrade::of(&mut request).map(|upgrade| {
            assert_eq!(upgrade.accept, "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
            let rich = upgrade.rich;
            let (_, response) = upgrade.accept();
            assert_eq!(response.status(), StatusCode::SWITCHING_PROTOCOLS);
            let protocol = response.headers().get(header::SEC_WEBSOCKET_PROTOCOL);
            assert_eq!(protocol.is_some(), rich);
            rich
        })
    }

    #[test]
    fn handshakes() {
        assert_eq!(request(|_| {}), Ok(false));
        let offers = |text: &'static str| {
            request(move |request| {
                let value = HeaderValue::from_static(text);
                let name = header::SEC_WEBSOCKET_PROTOCOL;
                request.headers_mut().insert(name, value);
            })
        };
        assert_eq!(offers("chat, accord.v1"), Ok(true));
        assert_eq!(offers("chat"), Ok(false));
        let without = |name: HeaderName| {
            request(move |request| {
                request.headers_mut().remove(name);
            })
        };
        assert_eq!(without(header::UPGRADE), Err(UpgradeError::NotAsked));
        assert_eq!(without(header::CONNECTION), Err(UpgradeError::NotAsked));
        assert!(without(header::SEC_WEBSOCKET_KEY).is_err());
        assert!(without(header::SEC_WEBSOCKET_VERSION).is_err());
        let old = request(|request| *request.version_mut() = Version::HTTP_10);
        assert_eq!(old, Err(UpgradeError::NotAsked));
    }
}
