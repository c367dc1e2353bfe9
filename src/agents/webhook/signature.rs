//! How a webhook knows that a request is this cluster's, and a new one. No I/O.
//!
//! The header is `Accord-Signature: t=SECONDS,v1=HEX`, where HEX is the HMAC-SHA-256, in lower-case
//! hexadecimal, of the text `SECONDS.BODY` under the shared secret; SECONDS is Unix time in whole
//! seconds when the attempt began, BODY the request's body to the byte. A receiver recomputes it,
//! compares in constant time, and refuses a time that is more than a few minutes away: so what
//! somebody recorded cannot be sent again later. Within these minutes the `Idempotency-Key` tells
//! repetitions apart (docs/agents.md).

use std::fmt::Write as _;

use hmac::Hmac;
use hmac::Mac as _;
use sha2::Sha256;

/// The value of the header.
pub fn header(secret: &str, unix_s: u64, body: &[u8]) -> String {
    let mut mac =
        Hmac::<Sha256>::new_from_slice(secret.as_bytes()).expect("HMAC takes keys of any length");
    mac.update(unix_s.to_string().as_bytes());
    mac.update(b".");
    mac.update(body);
    let mut text = format!("t={unix_s},v1=");
    for byte in mac.finalize().into_bytes() {
        write!(text, "{byte:02x}").expect("a String takes any text");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The same as `printf '1700000000.{"a":1}' | openssl dgst -sha256 -hmac secret`.
    #[test]
    fn golden() {
        assert_eq!(
            header("secret", 1_700_000_000, b"{\"a\":1}"),
            "t=1700000000,v1=49f24e537407743fa4a0242bb63b94b9a47ee99cbbe071ccd8a22550ae411686"
        );
    }

    #[test]
    fn everything_counts() {
        let one = header("secret", 1, b"body");
        assert_ne!(header("secret", 2, b"body"), one);
        assert_ne!(header("secret", 1, b"bodz"), one);
        assert_ne!(header("secreu", 1, b"body"), one);
        // A digit cannot move from the time into the body.
        let (_, moved) = header("secret", 12, b"x")
            .split_once("v1=")
            .map(|(a, b)| (a.to_owned(), b.to_owned()))
            .unwrap();
        assert!(!header("secret", 1, b"2.x").ends_with(&moved));
    }
}
