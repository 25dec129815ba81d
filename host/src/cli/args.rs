//! What can be asked.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;

pub use super::plugin_args::*;

/// Replaces native code in a running process.
#[derive(Parser)]
#[command(name = "reseat", version, about, max_term_width = 100)]
#[command(
    after_help = "Exit codes: 0 done, 1 refused (the reason is on standard error), 2 usage, 3 no host reachable, 4 the host has ended, but something in it was still in use at the deadline."
)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Subcommand)]
pub enum Command {
    /// Serve the plugins of directories, follow them, reload them
    Run(RunArgs),
    /// Build plugin crates with cargo, follow their sources, rebuild and reload them
    Dev(DevArgs),
    /// Write a plugin crate that builds, tests and reloads as it is
    New(NewArgs),
    /// What is this file, would it be accepted, and if not why; runs no code of it
    Check(CheckArgs),
    /// Sign libraries, for hosts that ask for it with `trusted_keys`; or make a key
    Sign(SignArgs),
    /// Call a method of a plugin in the running host
    Call(CallArgs),
    /// Run a command that a plugin of the running host has registered
    #[command(name = "command")]
    Do(CommandArgs),
    /// List the plugins of the running host
    Ps(PsArgs),
    /// List what the plugins of the running host have registered: routes, commands, subscriptions, timers
    Registrations(RegistrationsArgs),
    /// Watch the running host on one screen; reload and roll back by a key
    Top(TopArgs),
    /// Look at a plugin's file again and reload it, even if it is unchanged
    Reload(ReloadArgs),
    /// Go back to the build before, with the state if it can be written for it; the build that is left is denied
    Rollback(OutcomeArgs),
    /// Publish the candidate of a plugin for everybody, whatever it has proved
    Promote(OutcomeArgs),
    /// Discard the candidate of a plugin; its build is denied
    Discard(PluginArgs),
    /// Let a generation go that was kept with `reload --keep`
    Release(ReleaseArgs),
    /// Cancel the reload of a plugin that is under way
    Cancel(PluginArgs),
    /// Say who waits for whom: what a plugin's reload waits for, who waits for it, what keeps an old generation
    Why(WhyArgs),
    /// Take a plugin out of service; its state is gone, also the one that was kept
    Unload(PluginArgs),
    /// Show the state of a plugin, write it to a file, or have the plugin begin again with one from a file
    State(StateArgs),
    /// List the builds that are refused for what they have done before, or allow them again
    Deny(DenyArgs),
    /// Print the settings that there are with their defaults, or look whether a file of them is understood
    Config(ConfigArgs),
    /// The helper of a running host: tries one build, in a process that may die of it
    #[command(hide = true)]
    Probe,
    /// Show what happens in the running host
    Events(EventsArgs),
    /// Print what a shell needs to complete this command
    Completions(CompletionsArgs),
    /// Print the manual page, or that of a subcommand
    Man(ManArgs),
}

#[derive(Args)]
#[command(after_help = "Example: reseat config --print-default > reseat.toml")]
#[group(required = true, multiple = false)]
pub struct ConfigArgs {
    /// Print a reseat.toml with every key, its unit and its default
    #[arg(long)]
    pub print_default: bool,
    /// Say whether a file is understood [default: reseat.toml]
    #[arg(long, value_name = "FILE", num_args = 0..=1, default_missing_value = "reseat.toml")]
    pub check: Option<PathBuf>,
}

/// Which host.
#[derive(Args, Clone)]
pub struct StateDir {
    /// The host's state directory
    #[arg(long, value_name = "DIR", default_value = ".reseat")]
    pub state_dir: PathBuf,
}

/// How a host serves.
#[derive(Args, Clone)]
pub struct ServeArgs {
    #[command(flatten)]
    pub state: StateDir,
    /// Serve HTTP on this loopback address; port 0 picks a free one [default: 127.0.0.1:7380, or a free port]
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub http: Option<SocketAddr>,
    /// With --http: the address may be one that other machines can reach. Whoever has the token runs what plugins
    /// do, and it crosses the network in the clear
    #[arg(long, requires = "http")]
    pub http_remote: bool,
    /// Serve no HTTP
    #[arg(long, conflicts_with = "http")]
    pub no_http: bool,
    /// Settings [default: reseat.toml, if there is one]
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Load what is there, and then only what is asked for: files that change are left alone
    #[arg(long)]
    pub no_watch: bool,
    /// Begin without the states and builds that were kept before: they are set aside in the state directory
    #[arg(long)]
    pub fresh: bool,
    /// Say nothing but warnings
    #[arg(long, short)]
    pub quiet: bool,
    /// How the log is written
    #[arg(long, value_enum, default_value_t = LogFormat::Human)]
    pub log: LogFormat,
}

/// How the log is written.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people
    Human,
    /// One JSON object a line
    Json,
}

#[derive(Args)]
#[command(
    after_help = "Naming a directory vouches for it: every library that is put there runs in the host.\n\nExample: reseat run target/debug"
)]
pub struct RunArgs {
    /// Directories with plugins
    #[arg(required = true, value_name = "DIR")]
    pub dirs: Vec<PathBuf>,
    #[command(flatten)]
    pub serve: ServeArgs,
}

/// What cargo is told.
#[derive(Args, Clone)]
pub struct CargoArgs {
    /// Build with optimisations
    #[arg(long)]
    pub release: bool,
    /// Features to build with, as cargo takes them
    #[arg(long, value_name = "FEATURES")]
    pub features: Vec<String>,
    /// Build with all features
    #[arg(long)]
    pub all_features: bool,
    /// Build without the default features
    #[arg(long)]
    pub no_default_features: bool,
    /// Whatever else `cargo build` takes, after `--`
    #[arg(last = true, value_name = "CARGO ARGUMENT")]
    pub more: Vec<String>,
}

impl CargoArgs {
    /// These arguments, in the words of cargo, for a build without these packages: it refuses features of what it does not
    /// build.
    pub fn words_without(&self, packages: &[&str]) -> Vec<String> {
        let flags = [
            (self.release, "--release"),
            (self.all_features, "--all-features"),
            (self.no_default_features, "--no-default-features"),
        ];
        let mut words: Vec<String> =
            flags.iter().filter(|(given, _)| *given).map(|(_, word)| (*word).to_owned()).collect();
        let features = self.features.iter().flat_map(|features| features.split([',', ' ']));
        let is_of_one =
            |feature: &str| feature.split_once('/').is_some_and(|(package, _)| packages.contains(&package));
        for feature in features.filter(|feature| !feature.is_empty() && !is_of_one(feature)) {
            words.extend(["--features".to_owned(), feature.to_owned()]);
        }
        words.extend(self.more.iter().cloned());
        words
    }
}

#[derive(Args)]
#[command(
    after_help = "Crates of one workspace are built together, so that a change of what they share is one build.\n\nExample: reseat dev example-plugin\nExample: reseat dev a b --release -- --locked"
)]
pub struct DevArgs {
    /// Directories of plugin crates
    #[arg(required = true, value_name = "CRATE")]
    pub crates: Vec<PathBuf>,
    #[command(flatten)]
    pub cargo: CargoArgs,
    /// Sign what is built with this secret key: for settings with `trusted_keys`
    #[arg(long, value_name = "KEY")]
    pub sign: Option<PathBuf>,
    #[command(flatten)]
    pub serve: ServeArgs,
}

#[derive(Args)]
#[command(after_help = "Example: reseat new greeter && cd greeter && cargo test && cargo build")]
pub struct NewArgs {
    /// The plugin's name: a-z, 0-9, `_` and `-`, beginning with a letter
    pub name: String,
    /// What to begin from
    #[arg(long, value_enum, default_value_t = Template::Stateful)]
    pub template: Template,
    /// Where to put the crate [default: a directory of the plugin's name]
    #[arg(long, value_name = "DIR")]
    pub path: Option<PathBuf>,
    /// Where reseat's plugin-api is [default: the one this program was built from]
    #[arg(long, value_name = "DIR")]
    pub api: Option<PathBuf>,
}

/// What a new plugin begins from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Template {
    /// Its state crosses every reload
    Stateful,
    /// Every build begins empty, and no caller waits for a reload
    Stateless,
    /// Stateful, with a crate for its interface, on which hosts and other crates can depend
    OwnInterface,
}

#[derive(Args)]
pub struct CheckArgs {
    /// The library
    pub file: PathBuf,
    /// Would it be accepted where this library serves?
    #[arg(long, value_name = "FILE", conflicts_with = "live")]
    pub against: Option<PathBuf>,
    /// Would it be accepted as the next generation of this plugin of the running host?
    #[arg(long, value_name = "PLUGIN")]
    pub live: Option<String>,
    /// Has this key signed it? The line of the public key that begins with RW, or the file that it is in; may be given
    /// again [default: trusted_keys of reseat.toml, if there are any]
    #[arg(long, value_name = "KEY", conflicts_with = "live")]
    pub trusted_key: Vec<String>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    pub state: StateDir,
}

#[derive(Args)]
#[command(
    after_help = "The signature of libx.so is written to libx.so.minisig, in the format of minisign. A password is asked for, or taken from RESEAT_SIGN_PASSWORD.\n\nExample: reseat sign --new-key release.key && reseat sign target/release/liblimiter.so --key release.key"
)]
pub struct SignArgs {
    /// The libraries
    #[arg(value_name = "FILE", required_unless_present = "new_key")]
    pub files: Vec<PathBuf>,
    /// The secret key to sign with
    #[arg(long, value_name = "KEY", required_unless_present = "new_key")]
    pub key: Option<PathBuf>,
    /// Where to write the signature of the one library instead [default: beside it]
    #[arg(long, short, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// Make a key: the secret one is written to KEY, for nobody but you, the public one to KEY.pub
    #[arg(long, value_name = "KEY", conflicts_with_all = ["files", "key", "output"])]
    pub new_key: Option<PathBuf>,
    /// The secret key is not protected by a password
    #[arg(long)]
    pub no_password: bool,
}

#[derive(Args)]
#[command(after_help = "Example: reseat call limiter check '{\"key\":\"alice\",\"cost\":1}'")]
pub struct CallArgs {
    /// The plugin
    pub plugin: String,
    /// The method, or Interface.method
    pub method: String,
    /// The arguments: a JSON object by parameter name; `-` reads standard input
    #[arg(default_value = "{}")]
    pub arguments: String,
    /// In this generation: the one that serves, one that is kept, or a candidate
    #[arg(long, value_name = "NUMBER")]
    pub generation: Option<u64>,
    #[command(flatten)]
    pub state: StateDir,
}

#[derive(Args)]
#[command(
    after_help = "What there is: reseat registrations --kind command\n\nExample: reseat command greet '{\"name\":\"alice\"}'"
)]
pub struct CommandArgs {
    /// The command
    pub command: String,
    /// The arguments: a JSON object by parameter name; `-` reads standard input
    #[arg(default_value = "{}")]
    pub arguments: String,
    #[command(flatten)]
    pub state: StateDir,
}

#[derive(Args)]
#[command(after_help = "Example: reseat registrations --kind route")]
pub struct RegistrationsArgs {
    /// Only those of this kind
    #[arg(long, value_name = "KIND")]
    pub kind: Option<String>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    pub state: StateDir,
}

#[derive(Args)]
pub struct PsArgs {
    /// Print JSON
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    pub state: StateDir,
}

#[derive(Args)]
pub struct TopArgs {
    #[command(flatten)]
    pub state: StateDir,
}

#[derive(Args)]
#[command(
    after_help = "Example: reseat completions bash > ~/.local/share/bash-completion/completions/reseat"
)]
pub struct CompletionsArgs {
    /// The shell
    pub shell: Shell,
}

#[derive(Args)]
#[command(after_help = "Example: reseat man | man -l -")]
pub struct ManArgs {
    /// The subcommand
    pub command: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn features_of_crates_that_are_built_another_time_are_left_out() {
        let features = vec!["shared,one/ten two/ten".to_owned(), "dep/ten".to_owned()];
        let more = vec!["--locked".to_owned()];
        let args =
            CargoArgs { release: true, features, all_features: false, no_default_features: false, more };
        assert_eq!(
            args.words_without(&["one", "three"]).join(" "),
            "--release --features shared --features two/ten --features dep/ten --locked"
        );
    }
}
