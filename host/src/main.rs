//! The `reseat` command: a host to run, and the means to steer it. Built on the public library alone.
#![deny(unsafe_code)]

mod cli;
mod serve;

use std::process::ExitCode;

fn main() -> ExitCode {
    cli::main()
}
