//! What the checker is trusted for: it catches every anomaly that it is for, and finds none in
//! what a correct system shows.

mod edn;
mod independent;
mod planted;
mod random;
mod simulated;
mod sketch;
