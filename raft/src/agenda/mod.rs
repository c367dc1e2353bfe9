//! What a channel has yet to do, and when: jobs of agents and scheduled messages (docs/adr/0019).
//!
//! ```text
//! applied rows ─▶ index of due times (storage) ─▶ timetable ─ it is time ─▶ attend: open the group,
//!       └────────── news ──────────────────────────▲                        deliver what is due,
//!                                                                           hand jobs to the executor
//! ```
//!
//! Each node has one task that knows what is due next in all groups that it holds, asleep or awake. A
//! group in which something is due is attended by the node that leads it or led it last, and by any
//! other that sees it late. Nothing depends on who that is: the state machine delivers a message once
//! and takes one attempt at a time, whoever asks.

mod attend;
mod node;
mod read;
mod run;
mod timers;
mod timetable;
mod waits;
mod wire;

pub(crate) use read::find;
pub(crate) use run::run;
pub(crate) use timers::Timers;
pub(crate) use waits::due;
pub(crate) use wire::Found;
pub(crate) use wire::Request;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) use wire::What;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) use wire::decode_answer;
pub(crate) use wire::encode_answer;
