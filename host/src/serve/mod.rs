//! How others reach a host: a socket for the command line, HTTP for the rest.

pub mod access;
pub mod calls;
pub mod claim;
pub mod connections;
pub mod control;
pub mod dashboard;
pub mod feed;
pub mod http;
pub mod metrics;
pub mod named;
pub mod protocol;
pub mod routes;
pub mod token;
