//! How others reach a host: a socket for the command line, HTTP for the rest.

pub mod control;
pub mod http;
pub mod protocol;
