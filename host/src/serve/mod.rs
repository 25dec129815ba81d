//! How others reach a host: a socket for the command line, HTTP for the rest.

pub mod calls;
pub mod claim;
pub mod control;
mod feed;
pub mod http;
pub mod protocol;
