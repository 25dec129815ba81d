//! `reseat.toml`.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use reseat::{Canary, MaxLingering, Options, PluginOptions, Probation, TrustedKey};
use serde::Deserialize;

use super::keys;
use super::words::{Lost, Mode, Policy, Watching, percent, trusted_keys};

/// The file that is read if none is named.
pub const DEFAULT: &str = "reseat.toml";

/// Nobody writes longer ones. What is wrong with a file is told with the line that it is in, which may be all of it.
const LIMIT: u64 = 256 << 10;

/// A file that says what is so without one. Tests hold it to the options' defaults, and to the keys that there are.
pub const TEMPLATE: &str = include_str!("default.toml");

/// What the file may say. Unknown keys are refused, with what was meant. A key that is added here, and to
/// [`Settings::apply`], is added to the template as well.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// The public keys whose signatures are accepted; with none, nobody need sign.
    #[serde(default, deserialize_with = "trusted_keys")]
    trusted_keys: Vec<TrustedKey>,
    /// How long a handover waits for calls in flight, in milliseconds.
    drain_deadline_ms: Option<u64>,
    /// What becomes of a handover for which they do not end: `refuse`, `wait` or `overlap`.
    drain_policy: Option<Policy>,
    /// How long one hook of a plugin may take, in milliseconds.
    hook_deadline_ms: Option<u64>,
    /// How long a caller waits during a handover, in milliseconds.
    call_wait_ms: Option<u64>,
    /// How often directories are read in full, in milliseconds.
    rescan_every_ms: Option<u64>,
    /// Whether all calls are counted, and one in 32 timed, for `GET /metrics`.
    measure_calls: Option<bool>,
    /// Whether what serves, with its state, is kept for the next host.
    persist: Option<bool>,
    /// How often the state of plugins that say that this may be is kept while they serve, in milliseconds; 0: never.
    snapshot_every_ms: Option<u64>,
    /// For how long a host has to live after a build has taken over for that build not to be blamed, in milliseconds.
    proving_ms: Option<u64>,
    /// How many old generations may linger in memory before further builds are refused.
    max_lingering: Option<usize>,
    /// How many bytes of address space they may take.
    max_lingering_bytes: Option<u64>,
    /// How long thread-locals of an old generation wait for their threads before the host destroys them, in
    /// milliseconds; see `Options::adopt_after` for the risk.
    adopt_after_ms: Option<u64>,
    /// Whether every stack is looked through before a library is closed.
    second_witness: Option<bool>,
    /// How many callers may wait during a handover.
    max_waiting: Option<usize>,
    /// Whether files that change are acted on; otherwise only what is asked for is reloaded.
    watch: Option<bool>,
    /// How that is noticed: `native`, `poll` or `none`.
    watcher: Option<Watching>,
    /// How often directories are read with `poll`, in milliseconds.
    poll_every_ms: Option<u64>,
    /// When new builds take over: `auto`, `on-demand`, `between-scopes` or `never`.
    reload: Option<Mode>,
    /// How long a build waits for a moment between scopes, in milliseconds.
    scope_wait_ms: Option<u64>,
    /// How long a changed plugin that has to do with others is kept back for what changes with it, in milliseconds.
    gather_ms: Option<u64>,
    /// After a reload, how long the next one waits that nobody has asked for, in milliseconds.
    cooldown_ms: Option<u64>,
    /// Whether plugins are opened only when they are called for the first time.
    lazy: Option<bool>,
    /// Whether builds that were not seen before are tried in a helper process first.
    probe: Option<bool>,
    /// How long that may take, in milliseconds.
    probe_deadline_ms: Option<u64>,
    /// How many bytes of memory it may take, besides twice the size of the state.
    probe_memory_bytes: Option<u64>,
    /// Whether builds that have taken over are watched for a while, and sent back if they prove bad.
    probation: Option<bool>,
    /// For how long, in milliseconds.
    probation_period_ms: Option<u64>,
    /// And for how many calls.
    probation_calls: Option<u64>,
    /// Sent back after so many panics,
    probation_panics: Option<u64>,
    /// if they are more than this part of all calls.
    probation_panic_ratio: Option<f64>,
    /// How much larger the part of calls that fail may be than before.
    probation_error_ratio: Option<f64>,
    /// How many times as long as before 99 of 100 calls may take; 0: any time.
    probation_latency_factor: Option<f64>,
    /// What becomes of a state that cannot be written for the build before: `earlier` or `stay`.
    probation_lost_state: Option<Lost>,
    /// How many of 100 scopes a new build of a stateless plugin gets before it takes over; 0: it takes over at once.
    #[serde(default, deserialize_with = "percent")]
    canary_percent: Option<u8>,
    /// By plugin.
    #[serde(default)]
    plugins: BTreeMap<String, PluginSettings>,
}

/// The table of a plugin: what is otherwise for it, under the same names, and its configuration.
#[derive(Debug, Default, Deserialize)]
struct PluginSettings {
    /// Handed to the plugin as it stands.
    #[serde(default)]
    config: serde_json::Map<String, serde_json::Value>,
    /// Which plugin implements an interface for it, by the interface's name.
    #[serde(default)]
    bind: BTreeMap<String, String>,
    #[serde(flatten)]
    otherwise: Settings,
}

/// What may be otherwise for one plugin.
const OF_A_PLUGIN: [&str; 18] = [
    "bind",
    "canary_percent",
    "config",
    "cooldown_ms",
    "drain_deadline_ms",
    "drain_policy",
    "lazy",
    "probe",
    "reload",
    "snapshot_every_ms",
    "probation",
    "probation_calls",
    "probation_error_ratio",
    "probation_latency_factor",
    "probation_lost_state",
    "probation_panic_ratio",
    "probation_panics",
    "probation_period_ms",
];

/// How often directories are read with `watcher = "poll"`, if the file does not say.
const POLL_EVERY_MS: u64 = 500;

/// The file that was named, or the default one.
pub fn path(named: Option<&Path>) -> &Path {
    named.unwrap_or(Path::new(DEFAULT))
}

/// What the file says that was named, or the default one if it exists.
///
/// # Errors
/// It cannot be read.
pub fn read(named: Option<&Path>) -> Result<Option<String>> {
    let path = path(named);
    match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound && named.is_none() => Ok(None),
        file => {
            let text = file.map_err(Into::into).and_then(text);
            Ok(Some(text.with_context(|| format!("{} cannot be read", path.display()))?))
        }
    }
}

/// The text of such a file.
///
/// # Errors
/// It cannot be read, or is too large to have been written for this.
pub fn text(file: impl Read) -> Result<String> {
    let mut text = String::new();
    file.take(LIMIT + 1).read_to_string(&mut text)?;
    ensure!(text.len() as u64 <= LIMIT, "it is larger than {} KiB: these are no settings", LIMIT >> 10);
    Ok(text)
}

impl Settings {
    /// Reads a text.
    ///
    /// # Errors
    /// It says something that is not understood.
    pub fn parse(text: &str) -> Result<Settings> {
        keys::refuse_unknown(text, keys::of::<Settings>(), &OF_A_PLUGIN)?;
        // It ends in an empty line.
        toml::from_str(text).map_err(|error| anyhow!("{}", error.to_string().trim_end()))
    }

    /// What the file that was named says, or the default one, if it exists.
    ///
    /// # Errors
    /// As for [`read`] and [`Settings::parse`].
    pub fn from(named: Option<&Path>) -> Result<Settings> {
        let text = read(named)?;
        let settings = Settings::parse(text.as_deref().unwrap_or_default());
        settings.with_context(|| format!("{} is not understood", path(named).display()))
    }

    /// The public keys whose signatures are accepted.
    pub fn trusted_keys(&self) -> &[TrustedKey] {
        &self.trusted_keys
    }

    /// Puts them into a host's options.
    pub fn apply(self, options: &mut Options) {
        options.trusted_keys = self.trusted_keys;
        let set = |option: &mut Duration, value: Option<u64>| {
            if let Some(ms) = value {
                *option = Duration::from_millis(ms);
            }
        };
        set(&mut options.drain_deadline, self.drain_deadline_ms);
        set(&mut options.hook_deadline, self.hook_deadline_ms);
        set(&mut options.call_wait, self.call_wait_ms);
        set(&mut options.rescan_every, self.rescan_every_ms);
        set(&mut options.proving, self.proving_ms);
        set(&mut options.scope_wait, self.scope_wait_ms);
        set(&mut options.gather, self.gather_ms);
        set(&mut options.cooldown, self.cooldown_ms);
        let every = Duration::from_millis(self.poll_every_ms.unwrap_or(POLL_EVERY_MS));
        options.watcher = match self.watcher {
            None => options.watcher.clone(),
            Some(watching) => watching.every(every),
        };
        options.mode = self.reload.map_or(options.mode, Into::into);
        options.lazy = self.lazy.unwrap_or(options.lazy);
        options.measure_calls = self.measure_calls.unwrap_or(options.measure_calls);
        options.persist = self.persist.unwrap_or(options.persist);
        options.snapshot_every = match self.snapshot_every_ms {
            Some(0) => None,
            every => every.map(Duration::from_millis).or(options.snapshot_every),
        };
        options.adopt_after = self.adopt_after_ms.map(Duration::from_millis).or(options.adopt_after);
        options.second_witness = self.second_witness.unwrap_or(options.second_witness);
        let MaxLingering { generations, bytes } = options.max_lingering;
        options.max_lingering = MaxLingering {
            generations: self.max_lingering.unwrap_or(generations),
            bytes: self.max_lingering_bytes.unwrap_or(bytes),
        };
        options.drain_policy = self.drain_policy.map_or(options.drain_policy, Into::into);
        options.max_waiting = self.max_waiting.unwrap_or(options.max_waiting);
        options.follow = self.watch.unwrap_or(options.follow);
        options.probe = options.probe.take().filter(|_| self.probe != Some(false)).map(|mut probe| {
            set(&mut probe.deadline, self.probe_deadline_ms);
            probe.memory = self.probe_memory_bytes.unwrap_or(probe.memory);
            probe
        });
        options.probation = options.probation.take().filter(|_| self.probation != Some(false)).map(|terms| {
            let lost_state = self.probation_lost_state.map(Into::into);
            Probation {
                period: self.probation_period_ms.map_or(terms.period, Duration::from_millis),
                calls: self.probation_calls.unwrap_or(terms.calls),
                panics: self.probation_panics.unwrap_or(terms.panics),
                panic_ratio: self.probation_panic_ratio.unwrap_or(terms.panic_ratio),
                error_ratio: self.probation_error_ratio.unwrap_or(terms.error_ratio),
                latency_factor: self.probation_latency_factor.unwrap_or(terms.latency_factor),
                lost_state: lost_state.unwrap_or(terms.lost_state),
                ..terms
            }
        });
        options.canary = match self.canary_percent {
            None => options.canary,
            Some(0) => None,
            Some(percent) => Some(Canary { percent }),
        };
        for (name, PluginSettings { config, bind, otherwise }) in self.plugins {
            let own = PluginOptions { bind, ..otherwise.of_a_plugin(options) };
            options.plugins.insert(name.clone(), own);
            options.config.insert(name, serde_json::Value::Object(config));
        }
    }

    /// What is otherwise for one plugin, by its table.
    fn of_a_plugin(self, all: &Options) -> PluginOptions {
        let (probe, mode, lazy, is_judged) = (self.probe, self.reload, self.lazy, self.probation);
        let has_canary = self.canary_percent.is_some();
        let terms = all.probation.clone().unwrap_or_default();
        let mut own = Options { probation: Some(terms.clone()), ..all.clone() };
        self.apply(&mut own);
        let judged_otherwise = is_judged.is_some() || own.probation.as_ref() != Some(&terms);
        PluginOptions {
            drain_policy: (own.drain_policy != all.drain_policy).then_some(own.drain_policy),
            drain_deadline: (own.drain_deadline != all.drain_deadline).then_some(own.drain_deadline),
            snapshot_every: (own.snapshot_every != all.snapshot_every).then_some(own.snapshot_every),
            probation: judged_otherwise.then_some(own.probation),
            probe,
            mode: mode.map(Into::into),
            lazy,
            canary: has_canary.then_some(own.canary),
            cooldown: (own.cooldown != all.cooldown).then_some(own.cooldown),
            ..PluginOptions::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use reseat::{ReloadMode, WatcherKind};

    use super::*;

    /// What `reseat run` begins with.
    fn options() -> Options {
        let probe = Some(reseat::Probe::with("", [""; 0]));
        Options { probe, measure_calls: true, ..Options::default() }
    }

    /// The template with what it leaves unset: lines that are no prose.
    fn with_all_set() -> String {
        let set = |line: &'static str| match line.strip_prefix('#') {
            Some(unset) if unset.starts_with(|c: char| c.is_ascii_lowercase() || c == '[') => unset,
            _ => line,
        };
        TEMPLATE.lines().map(set).collect::<Vec<_>>().join("\n")
    }

    #[test]
    fn a_plugins_table_reaches_the_options() {
        let text = "drain_deadline_ms = 250\nmax_lingering = 7\n[plugins.limiter.config]\nburst = 3\n";
        let mut options = Options::default();
        Settings::parse(text).unwrap().apply(&mut options);
        assert_eq!(options.drain_deadline, Duration::from_millis(250));
        assert_eq!(options.max_lingering, MaxLingering { generations: 7, ..MaxLingering::default() });
        assert_eq!(options.config["limiter"], serde_json::json!({ "burst": 3 }));
    }

    #[test]
    fn a_plugins_table_says_what_is_otherwise_for_it_under_the_same_names() {
        let text = "probation_calls = 7\n[plugins.limiter]\ndrain_deadline_ms = 9\nreload = \"on-demand\"\nsnapshot_every_ms = 0\n\
                    probation_panics = 2\n[plugins.other]\nprobation = false\n";
        let mut options = Options::default();
        Settings::parse(text).unwrap().apply(&mut options);
        let terms = Probation { calls: 7, panics: 2, ..Probation::default() };
        let limiter = PluginOptions {
            drain_deadline: Some(Duration::from_millis(9)),
            mode: Some(ReloadMode::OnDemand),
            snapshot_every: Some(None),
            probation: Some(Some(terms)),
            ..PluginOptions::default()
        };
        assert_eq!(options.plugins["limiter"], limiter);
        let other = PluginOptions { probation: Some(None), ..PluginOptions::default() };
        assert_eq!(options.plugins["other"], other);
    }

    #[test]
    fn the_watcher_is_named_and_polls_as_often_as_is_said() {
        let named = |text: &str| {
            let mut options = Options::default();
            Settings::parse(text).unwrap().apply(&mut options);
            options.watcher
        };
        let poll = |ms| WatcherKind::Poll(Duration::from_millis(ms));
        assert_eq!(named("watcher = \"poll\""), poll(500));
        assert_eq!(named("watcher = \"poll\"\npoll_every_ms = 7"), poll(7));
        assert_eq!(named("watcher = \"none\""), WatcherKind::None);
        assert_eq!(named("poll_every_ms = 7"), WatcherKind::Native);
    }

    #[test]
    fn trusted_keys_are_read_and_one_that_is_none_is_refused_with_its_line() {
        let key = "RWQf6LRCGA9i53mlYecO4IzT51TGPpvWucNSCh1CBM0QTaLn73Y7GFO3";
        let mut options = Options::default();
        Settings::parse(&format!("trusted_keys = [{key:?}]")).unwrap().apply(&mut options);
        assert_eq!(options.trusted_keys[0].id().to_string(), "E7620F1842B4E81F");
        let cut = &key[..55];
        let text = format!("probe = true\ntrusted_keys = [{key:?}, {cut:?}]");
        let error = format!("{:#}", Settings::parse(&text).unwrap_err());
        assert!(error.contains("line 2") && error.contains("this is no public key of minisign"), "{error}");
    }

    #[test]
    fn the_template_changes_nothing_of_the_defaults() {
        let mut set = options();
        Settings::parse(TEMPLATE).unwrap().apply(&mut set);
        assert_eq!(format!("{set:#?}"), format!("{:#?}", options()));
    }

    #[test]
    fn the_template_has_every_key_and_no_other() {
        let text = with_all_set();
        Settings::parse(&text).unwrap();
        let table: toml::Table = text.parse().unwrap();
        let sorted = |keys: &mut dyn Iterator<Item = &str>| {
            let mut keys: Vec<_> = keys.map(str::to_owned).collect();
            keys.sort();
            keys
        };
        let top = sorted(&mut table.keys().map(String::as_str));
        assert_eq!(top, sorted(&mut keys::of::<Settings>().iter().copied()));
        let plugin = table["plugins"]["limiter"].as_table().unwrap();
        let plugin = sorted(&mut plugin.keys().map(String::as_str));
        assert_eq!(plugin, sorted(&mut OF_A_PLUGIN.iter().copied()));
    }

    #[test]
    fn what_the_readme_shows_is_understood_and_says_what_the_template_says() {
        let readme = include_str!("../../../README.md");
        let (_, from) = readme.split_once("```toml\ndrain_deadline_ms").expect("it shows some");
        let (text, _) = from.split_once("```").expect("the excerpt ends");
        let text = format!("drain_deadline_ms{text}");
        Settings::parse(&text).unwrap();
        let (shown, all): (toml::Table, toml::Table) =
            (text.parse().unwrap(), with_all_set().parse().unwrap());
        let (plugin, of_all) = (&shown["plugins"]["limiter"], &all["plugins"]["limiter"]);
        for (key, value) in shown.iter().filter(|(key, _)| *key != "plugins") {
            assert_eq!(value, &all[key], "{key}");
        }
        for (key, value) in plugin.as_table().unwrap() {
            assert_eq!(value, &of_all[key], "{key}");
        }
    }

    #[test]
    fn an_unknown_key_is_refused_with_the_one_that_was_meant() {
        let error = format!("{:#}", Settings::parse("drain_deadline = 5").unwrap_err());
        assert_eq!(error, "line 1: unknown key `drain_deadline`: did you mean `drain_deadline_ms`?");
        let error = format!("{:#}", Settings::parse("[plugins.limiter]\nburst = 3").unwrap_err());
        assert!(
            error.contains("`burst` of [plugins.limiter]: there is `bind`, `canary_percent`, `config`"),
            "{error}"
        );
    }

    #[test]
    fn a_text_that_is_too_long_is_refused_without_being_told() {
        let long = text(io::repeat(b'x')).unwrap_err().to_string();
        assert_eq!(long, "it is larger than 256 KiB: these are no settings");
        assert_eq!(text(&b"probe = true"[..]).unwrap(), "probe = true");
    }

    #[test]
    fn a_value_of_the_wrong_kind_is_refused_with_its_line() {
        let error = format!("{:#}", Settings::parse("probe = true\nmax_waiting = \"many\"").unwrap_err());
        assert!(error.contains("line 2") && error.contains("max_waiting"), "{error}");
        assert_eq!(error.trim_end(), error, "more may be said after it");
    }
}
