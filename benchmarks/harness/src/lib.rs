//! How things are measured here: in rounds, as ratios, at several places of a cache line.

pub mod calls;
pub mod rounds;
pub mod table;
