//! What can be asked of a channel.
//!
//! Invariant: whatever may become a message says all of it, with [`Command::content`], so that an index
//! row and its log entry are enough to find the message again.

use bincode::{BorrowDecode, Encode};

/// What can be asked of a channel. New kinds are added at the end, because the
/// position is what is encoded.
#[derive(Debug, Clone, PartialEq, Eq, Encode, BorrowDecode)]
pub enum Command<'a> {
    /// Add a message.
    Post(Post<'a>),
    /// Add a message that is a command, and its job with it.
    Call(Post<'a>, Call<'a>),
    /// Put a message down for later.
    Schedule(Schedule<'a>),
    /// Add a scheduled message, whose time has come.
    Deliver(Deliver<'a>),
    /// Forget a scheduled message.
    Unschedule {
        /// Its id.
        id: [u8; 16],
    },
    /// Begin an attempt at a job.
    Claim(Claim),
    /// Add the answer that an attempt has brought, and end the job.
    Reply(Reply<'a>),
    /// The attempt has come to nothing; try again later.
    Retry {
        /// Which job.
        job: [u8; 16],
        /// Which attempt at it.
        attempt: u32,
        /// When the next is due, Unix milliseconds.
        until_ms: u64,
        /// What an operator reads about it.
        reason: &'a str,
    },
    /// Add a message that says that the job came to nothing, and end it.
    Fail {
        /// That message.
        reply: Reply<'a>,
        /// What an operator reads about it.
        reason: &'a str,
    },
    /// End a job without an answer.
    Cancel {
        /// Which job.
        job: [u8; 16],
    },
}

/// A message to be added. The edge has checked its texts; the machine takes any.
#[derive(Debug, Clone, PartialEq, Eq, Encode, BorrowDecode)]
pub struct Post<'a> {
    /// The id that the message gets, minted by whoever asks.
    pub id: [u8; 16],
    /// Who writes it.
    pub username: &'a str,
    /// The message itself.
    pub body: &'a str,
    /// Do this once only: the same key from the same user gives the same
    /// message while the key is remembered.
    pub key: Option<&'a str>,
    /// Refuse unless the last message has this seq.
    pub expected_head: Option<u64>,
    /// Id of the message that this one answers.
    pub reply_to: Option<[u8; 16]>,
}

/// Who is to do what a message says. Which messages are commands the edge decides.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, BorrowDecode)]
pub struct Call<'a> {
    /// Name of the agent.
    pub agent: &'a str,
    /// After so many attempts the executor lets the job fail.
    pub attempts_max: u32,
    /// The agent asks somebody outside. The edge says so, since the machine knows no agents.
    pub is_outward: bool,
}

/// A message for later.
#[derive(Debug, Clone, PartialEq, Eq, Encode, BorrowDecode)]
pub struct Schedule<'a> {
    /// The message. What it expects of the head is not looked at.
    pub post: Post<'a>,
    /// When, Unix milliseconds of the channel's clock.
    pub due_ms: u64,
    /// It will be a command.
    pub call: Option<Call<'a>>,
}

/// A scheduled message again, with all that it says.
#[derive(Debug, Clone, PartialEq, Eq, Encode, BorrowDecode)]
pub struct Deliver<'a> {
    /// Its id, which it keeps.
    pub id: [u8; 16],
    /// Who wrote it.
    pub username: &'a str,
    /// The message itself.
    pub body: &'a str,
    /// Id of the message that this one answers.
    pub reply_to: Option<[u8; 16]>,
}

/// An attempt that a leader begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, BorrowDecode)]
pub struct Claim {
    /// Which job.
    pub job: [u8; 16],
    /// Its number, from 1.
    pub attempt: u32,
    /// The term in which the claimant leads the channel.
    pub term: u64,
    /// Which node that is.
    pub node: u64,
}

/// What an agent answers.
#[derive(Debug, Clone, PartialEq, Eq, Encode, BorrowDecode)]
pub struct Reply<'a> {
    /// Which job; the message answers the one with this id.
    pub job: [u8; 16],
    /// Which attempt at it.
    pub attempt: u32,
    /// The id that the message gets.
    pub id: [u8; 16],
    /// The agent, in whose name it is.
    pub agent: &'a str,
    /// The message itself.
    pub body: &'a str,
}

/// What a message says, whichever command brought it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Content<'a> {
    pub(super) id: [u8; 16],
    pub(super) username: &'a str,
    pub(super) body: &'a str,
    pub(super) reply_to: Option<[u8; 16]>,
    pub(super) agent: Option<&'a str>,
}

impl<'a> Command<'a> {
    /// The id of the message that this command adds, if it does.
    #[must_use]
    pub fn message_id(&self) -> Option<[u8; 16]> {
        self.content().map(|content| content.id)
    }

    /// The message that this command adds, if it does.
    pub(super) fn content(&self) -> Option<Content<'a>> {
        match self {
            Command::Post(post) | Command::Call(post, _) => Some(Content {
                id: post.id,
                username: post.username,
                body: post.body,
                reply_to: post.reply_to,
                agent: None,
            }),
            Command::Deliver(deliver) => Some(Content {
                id: deliver.id,
                username: deliver.username,
                body: deliver.body,
                reply_to: deliver.reply_to,
                agent: None,
            }),
            Command::Reply(reply) | Command::Fail { reply, .. } => Some(Content {
                id: reply.id,
                username: reply.agent,
                body: reply.body,
                reply_to: Some(reply.job),
                agent: Some(reply.agent),
            }),
            Command::Schedule(_)
            | Command::Unschedule { .. }
            | Command::Claim(_)
            | Command::Retry { .. }
            | Command::Cancel { .. } => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::codec;

    #[test]
    fn golden() {
        let check = |command: Command<'_>, expected: &[&[u8]]| {
            assert_eq!(codec::encode(&command), expected.concat(), "{command:?}");
        };
        let id = [7; 16];
        let post = || Post {
            id,
            username: "ada",
            body: "hé",
            key: Some("k"),
            expected_head: Some(300),
            reply_to: Some([8; 16]),
        };
        let posted = [
            &id[..],
            b"\x03ada",
            b"\x03h\xc3\xa9",
            b"\x01\x01k",
            &[1, 251, 44, 1],
            &[1],
            &[8; 16],
        ];
        let posted = posted.concat();
        let call = Call {
            agent: "ask",
            attempts_max: 8,
            is_outward: true,
        };
        check(Command::Post(post()), &[&[0], &posted]);
        check(
            Command::Call(post(), call),
            &[&[1], &posted, b"\x03ask\x08\x01"],
        );
        let schedule = |call| {
            Command::Schedule(Schedule {
                post: post(),
                due_ms: 300,
                call,
            })
        };
        let due = &[251, 44, 1][..];
        check(schedule(None), &[&[2], &posted, due, &[0]]);
        check(
            schedule(Some(call)),
            &[&[2], &posted, due, b"\x01\x03ask\x08\x01"],
        );
        let deliver = Deliver {
            id,
            username: "a",
            body: "b",
            reply_to: None,
        };
        check(Command::Deliver(deliver), &[&[3], &id, b"\x01a\x01b", &[0]]);
        check(Command::Unschedule { id }, &[&[4], &id]);
        let claim = Claim {
            job: id,
            attempt: 2,
            term: 3,
            node: 4,
        };
        check(Command::Claim(claim), &[&[5], &id, &[2, 3, 4]]);
        let reply = || Reply {
            job: id,
            attempt: 2,
            id: [9; 16],
            agent: "ask",
            body: "b",
        };
        let replied = [&id[..], &[2], &[9; 16], b"\x03ask\x01b"].concat();
        check(Command::Reply(reply()), &[&[6], &replied]);
        let retry = Command::Retry {
            job: id,
            attempt: 2,
            until_ms: 300,
            reason: "r",
        };
        check(retry, &[&[7], &id, &[2], due, b"\x01r"]);
        let fail = Command::Fail {
            reply: reply(),
            reason: "r",
        };
        check(fail, &[&[8], &replied, b"\x01r"]);
        check(Command::Cancel { job: id }, &[&[9], &id]);
    }
}
