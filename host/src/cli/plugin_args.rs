//! What is said behind the commands that are about a plugin of a running host.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use super::args::StateDir;
use super::time;

#[derive(Args)]
pub struct PluginArgs {
    /// The plugin
    pub plugin: String,
    #[command(flatten)]
    pub state: StateDir,
}

#[derive(Args)]
#[command(after_help = "Example: reseat release limiter 3")]
pub struct ReleaseArgs {
    /// The plugin
    pub plugin: String,
    /// The generation
    pub generation: u64,
    #[command(flatten)]
    pub state: StateDir,
}

#[derive(Args)]
pub struct WhyArgs {
    /// The plugin
    pub plugin: String,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    pub state: StateDir,
}

#[derive(Args)]
pub struct OutcomeArgs {
    /// The plugin
    pub plugin: String,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    pub state: StateDir,
}

#[derive(Args)]
pub struct ReloadArgs {
    /// The plugin; of several, all are reloaded at one moment, or none
    #[arg(value_name = "PLUGIN", required = true)]
    pub plugins: Vec<String>,
    /// Reload it from this file, instead of where it came from
    #[arg(long, value_name = "FILE")]
    pub file: Option<PathBuf>,
    /// Only say whether it would be accepted: look at it, try it in a helper process, change nothing
    #[arg(long, conflicts_with = "leak_old")]
    pub dry_run: bool,
    /// Never close the old generation: its code stays in memory, and the host is tainted
    #[arg(long, conflicts_with = "file")]
    pub leak_old: bool,
    /// Keep the old generation beside the new one, for those who ask for it by its number, as long as it is among the N
    /// youngest that are kept; for stateless plugins
    #[arg(long, value_name = "N", conflicts_with_all = ["file", "dry_run", "leak_old", "canary"])]
    pub keep: Option<usize>,
    /// Give the new build so many of 100 scopes (and calls by name) until it has proved itself; for stateless plugins
    #[arg(long, value_name = "PERCENT", conflicts_with_all = ["dry_run", "leak_old"], value_parser = clap::value_parser!(u8).range(0..=100))]
    pub canary: Option<u8>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    pub state: StateDir,
}

#[derive(Args)]
#[command(
    after_help = "Without an option, the state is printed as JSON. A plugin that does not say that it may be saved beside calls is saved behind its gate: callers wait for a moment.\n\nExample: reseat state limiter --save before.state"
)]
pub struct StateArgs {
    /// The plugin
    pub plugin: String,
    /// Write the state to this file
    #[arg(long, value_name = "FILE", group = "what")]
    pub save: Option<PathBuf>,
    /// Have the build that serves begin again with the state in this file; the present one is gone then
    #[arg(long, value_name = "FILE", group = "what")]
    pub load: Option<PathBuf>,
    /// Keep the state in the state directory now, and say when it is on disk
    #[arg(long, group = "what")]
    pub keep: bool,
    /// Show what is kept in the state directory: builds and states, with their times
    #[arg(long, group = "what")]
    pub history: bool,
    /// With --history: print JSON
    #[arg(long, requires = "history")]
    pub json: bool,
    #[command(flatten)]
    pub state: StateDir,
}

#[derive(Args)]
#[command(after_help = "Example: reseat deny --clear 5f0c1d2e")]
pub struct DenyArgs {
    /// Allow the builds whose hash begins like this
    #[arg(long, value_name = "HASH")]
    pub clear: Option<String>,
    /// Allow all of them
    #[arg(long, conflicts_with = "clear")]
    pub clear_all: bool,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    pub state: StateDir,
}

#[derive(Args)]
#[command(after_help = "Example: reseat events --follow --plugin limiter --since 10m")]
pub struct EventsArgs {
    /// Only those of this plugin
    #[arg(long, value_name = "PLUGIN")]
    pub plugin: Option<String>,
    /// Only those that are not older: a number and s, m, h or d
    #[arg(long, value_name = "TIME", value_parser = time::duration)]
    pub since: Option<Duration>,
    /// Go on showing them as they happen
    #[arg(long, short)]
    pub follow: bool,
    /// Print JSON, one object a line
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    pub state: StateDir,
}
