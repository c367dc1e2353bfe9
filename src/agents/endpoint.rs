//! Where an agent is reached: an absolute URL of the configuration, taken apart once.
//!
//! Invariant: an [`Endpoint`] has a host, a port and a path, and holds no secret. URLs come from
//! the configuration only, never from a message, an answer or a redirect; that is what keeps users
//! from making a node ask whatever it can reach.

use std::fmt;

use hyper::http::Uri;
use hyper::http::uri::Scheme;

/// Most bytes of a URL.
const URL_BYTES_MAX: usize = 2_048;

/// See the module.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// Whether to speak TLS.
    pub tls: bool,
    /// A name or an address, an IPv6 one without brackets.
    pub host: String,
    pub port: u16,
    /// What the header `Host` says: as in the URL.
    pub authority: String,
    /// Path and query, beginning with a slash.
    pub target: String,
}

/// Why a text is no endpoint; each goes on where "the key" left off.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EndpointError {
    #[error("must be an absolute URL such as \"http://127.0.0.1:11434/v1\"")]
    NotAbsolute,
    #[error("must begin with http:// or https://")]
    Scheme,
    #[error("must not hold a user or a password; name the secret's variable or file instead")]
    UserInfo,
    #[error("must not have a query here")]
    Query,
    #[error("must have a port of 1 to 65535, or none")]
    Port,
    #[error("must have 2048 bytes at most")]
    TooLong,
}

impl Endpoint {
    pub fn parse(text: &str) -> Result<Endpoint, EndpointError> {
        if text.len() > URL_BYTES_MAX {
            return Err(EndpointError::TooLong);
        }
        let uri: Uri = text.parse().map_err(|_| EndpointError::NotAbsolute)?;
        let (Some(scheme), Some(authority)) = (uri.scheme(), uri.authority()) else {
            return Err(EndpointError::NotAbsolute);
        };
        let tls = match scheme {
            _ if *scheme == Scheme::HTTP => false,
            _ if *scheme == Scheme::HTTPS => true,
            _ => return Err(EndpointError::Scheme),
        };
        if authority.as_str().contains('@') {
            return Err(EndpointError::UserInfo);
        }
        let host = authority.host();
        if host.is_empty() {
            return Err(EndpointError::NotAbsolute);
        }
        let port = match &authority.as_str()[host.len()..] {
            "" if tls => 443,
            "" => 80,
            text => {
                let port = text.strip_prefix(':').and_then(|text| text.parse().ok());
                port.filter(|port| *port > 0).ok_or(EndpointError::Port)?
            }
        };
        let bare = host
            .strip_prefix('[')
            .and_then(|host| host.strip_suffix(']'));
        let target = uri.path_and_query().map_or("/", |target| target.as_str());
        Ok(Endpoint {
            tls,
            host: bare.unwrap_or(host).to_owned(),
            port,
            authority: authority.as_str().to_owned(),
            target: target.to_owned(),
        })
    }

    /// A path below this one, which must have no query.
    pub fn below(&self, path: &str) -> Result<Endpoint, EndpointError> {
        if self.target.contains('?') {
            return Err(EndpointError::Query);
        }
        let base = self.target.trim_end_matches('/');
        Ok(Endpoint {
            target: format!("{base}/{path}"),
            ..self.clone()
        })
    }

    /// Whether what is sent stays on this machine, so that it needs no TLS.
    pub fn is_loopback(&self) -> bool {
        let address = self.host.parse::<std::net::IpAddr>();
        self.host.eq_ignore_ascii_case("localhost")
            || address.is_ok_and(|address| address.is_loopback())
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.tls { "https" } else { "http" };
        write!(f, "{scheme}://{}{}", self.authority, self.target)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[track_caller]
    fn parts(text: &str, tls: bool, host: &str, port: u16, target: &str) {
        let found = Endpoint::parse(text).unwrap();
        assert_eq!(
            (found.tls, found.host.as_str(), found.port),
            (tls, host, port)
        );
        assert_eq!(found.target, target);
    }

    #[test]
    fn urls_are_taken_apart() {
        parts(
            "http://127.0.0.1:11434/v1",
            false,
            "127.0.0.1",
            11_434,
            "/v1",
        );
        parts("https://api.example", true, "api.example", 443, "/");
        parts("http://[::1]:80/hook?a=1", false, "::1", 80, "/hook?a=1");
        parts("http://[::1]/", false, "::1", 80, "/");
        for (bad, error) in [
            ("", EndpointError::NotAbsolute),
            ("/v1", EndpointError::NotAbsolute),
            ("127.0.0.1:80", EndpointError::NotAbsolute),
            ("http://", EndpointError::NotAbsolute),
            ("ftp://a/", EndpointError::Scheme),
            ("http://me:secret@a/", EndpointError::UserInfo),
            ("http://a:0/", EndpointError::Port),
        ] {
            assert_eq!(Endpoint::parse(bad), Err(error), "{bad}");
        }
    }

    #[test]
    fn paths_go_below_a_base() {
        for base in ["http://a/v1", "http://a/v1/"] {
            let base = Endpoint::parse(base).unwrap();
            let below = base.below("chat/completions").unwrap();
            assert_eq!(below.to_string(), "http://a/v1/chat/completions");
        }
        let bare = Endpoint::parse("http://a").unwrap();
        assert_eq!(bare.below("x").unwrap().to_string(), "http://a/x");
        let query = Endpoint::parse("http://a/v1?x=1").unwrap();
        assert_eq!(query.below("x"), Err(EndpointError::Query));
    }

    #[test]
    fn loopback_is_recognised() {
        let loopback = |text| Endpoint::parse(text).unwrap().is_loopback();
        assert!(loopback("http://localhost:1/") && loopback("http://[::1]/"));
        assert!(loopback("http://127.3.2.1/") && !loopback("http://10.0.0.1/"));
        assert!(!loopback("http://localhost.example/"));
    }

    proptest! {
        #[test]
        fn no_text_panics(text in any::<String>(), tail in "[a-z0-9:/@\\[\\].?#%-]{0,40}") {
            let _ = Endpoint::parse(&text);
            let _ = Endpoint::parse(&format!("http://{tail}"));
        }
    }
}
