//! Where the store touches the world besides the database: the directory's lock, threads, waiting,
//! randomness. All of it is here so that a simulation can put its own in their place (docs/adr/0013);
//! the code above is the same in both.

#[cfg(not(feature = "sim"))]
mod real;
#[cfg(feature = "sim")]
mod simulated;

#[cfg(not(feature = "sim"))]
pub use real::*;
#[cfg(feature = "sim")]
pub use simulated::*;
