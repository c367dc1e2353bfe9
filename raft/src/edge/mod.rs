//! Where this crate touches the world besides the clock: sockets, randomness, threads that may block,
//! the end of the process. All of it is here so that a simulation can put its own in their place
//! (docs/adr/0013); the code above is the same in both.

#[cfg(not(feature = "sim"))]
mod real;
#[cfg(feature = "sim")]
mod simulated;

#[cfg(not(feature = "sim"))]
pub(crate) use real::*;
#[cfg(feature = "sim")]
pub(crate) use simulated::*;
