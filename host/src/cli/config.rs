//! `reseat config`: what can be set, and whether a file of settings is understood.

use anyhow::Context;

use super::Failure;
use super::args::ConfigArgs;
use super::client::print;
use super::settings::{self, Settings, TEMPLATE};

/// Prints the template, or checks a file.
pub fn config(args: &ConfigArgs) -> Result<(), Failure> {
    match &args.check {
        Some(file) => {
            let text = settings::read(Some(file))?.unwrap_or_default();
            Settings::parse(&text).with_context(|| format!("{} is not understood", file.display()))?;
            print(&format!("{} is understood", file.display()))
        }
        None => print(TEMPLATE.trim_end()),
    }
}
