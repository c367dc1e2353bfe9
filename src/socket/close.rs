//! Why a socket ends: the close codes of the contract.

use std::borrow::Cow;

/// Most bytes of a reason: a control frame holds 125, two of them the code.
const REASON_BYTES_MAX: usize = 123;

/// A close code and a reason for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Close {
    pub code: u16,
    reason: Cow<'static, str>,
}

impl Close {
    /// The node stops: connect to another one with `after`.
    pub const GOING_AWAY: Close = Close::new(1001, "this node is stopping");
    pub const PROTOCOL: Close = Close::new(1002, "this is not the WebSocket protocol");
    pub const NOT_UTF8: Close = Close::new(1007, "text must be valid UTF-8");
    pub const BINARY: Close = Close::new(1008, "binary frames are not understood here");
    pub const SILENT: Close = Close::new(1008, "a ping was not answered in time");
    pub const TOO_BIG: Close = Close::new(1009, "the frame is too big");
    /// The client may well have been stuck for a while only.
    pub const SLOW_READER: Close = Close::new(1013, "messages were not read in time");
    pub const TRY_AGAIN: Close = Close::new(1013, "history cannot be read at the moment");
    pub const NO_SUCH_CHANNEL: Close = Close::new(4404, "there is no such channel");

    const fn new(code: u16, reason: &'static str) -> Close {
        Close {
            code,
            reason: Cow::Borrowed(reason),
        }
    }

    /// What the client wants to resume from is no longer kept.
    pub fn gone(oldest: u64) -> Close {
        Close {
            code: 4410,
            reason: format!("the oldest seq kept is {oldest}").into(),
        }
    }

    /// Short enough for a close frame.
    pub fn reason(&self) -> &str {
        let mut end = self.reason.len().min(REASON_BYTES_MAX);
        while !self.reason.is_char_boundary(end) {
            end -= 1;
        }
        &self.reason[..end]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_fit() {
        assert_eq!(Close::gone(7).reason(), "the oldest seq kept is 7");
        let long = Close {
            code: 1008,
            reason: "é".repeat(100).into(),
        };
        assert_eq!(long.reason().len(), 122);
    }
}
