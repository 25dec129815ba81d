//! `reseat config`: what can be set, and whether a file of settings is understood.

use super::Failure;
use super::args::ConfigArgs;
use super::client::print;
use super::settings::{Settings, TEMPLATE};

/// Prints the template, or checks a file.
pub fn config(args: &ConfigArgs) -> Result<(), Failure> {
    match &args.check {
        Some(file) => {
            Settings::from_file(file)?;
            print(&format!("{} is understood", file.display()))
        }
        None => print(TEMPLATE.trim_end()),
    }
}
