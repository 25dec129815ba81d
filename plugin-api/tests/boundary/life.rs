use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::SeqCst};
use std::time::Duration;

use plugin_api::abi::RawStopping;
use plugin_api::prelude::*;

use crate::in_process::{Loaded, logged};

/// Something to export: these tests are about the hooks.
#[plugin_api::interface(version = "1.0")]
pub trait Any {
    fn any(&self) -> u32;
}

macro_rules! exported {
    ($($plugin:ident = $name:literal),+) => {
        $(
            impl Any for $plugin {
                fn any(&self) -> u32 { 1 }
            }
            export_plugin!($plugin: Any, name = $name);
        )+
    };
}

exported!(
    Counting = "counting",
    Forgetful = "forgetful",
    Careless = "careless",
    Threaded = "threaded",
    Patient = "patient",
    Returning = "returning",
    Hasty = "hasty",
    Falling = "falling",
    Stumbling = "stumbling",
    Picky = "picky"
);

/// Keeps a number across reloads.
#[derive(Serialize, Deserialize)]
struct Counting {
    #[serde(default)]
    start: u32,
}

impl Plugin for Counting {
    const STATE_VERSION: u32 = 3;
    const OLDEST_STATE: u32 = 2;
    fn create(host: &Services) -> Result<Self> {
        host.config()
    }
    fn save(&self) -> Result<Saved> {
        Saved::encode(self)
    }
    fn restore(_: &Services, saved: Saved) -> Result<Self> {
        match saved.version() {
            3 => saved.decode(),
            2 => Ok(Counting { start: saved.decode()? }),
            v => bail!(saved.unsupported(v)),
        }
    }
}

#[test]
fn state_is_saved_and_restored_through_the_contract() {
    let old = Loaded::<Counting>::create_with(r#"{"start":5}"#).unwrap();
    let frame = old.save(0).unwrap();
    assert_eq!(Saved::from_frame(&frame).unwrap().version(), 3);
    assert_eq!(old.save(3).unwrap(), frame, "saving may be repeated");
    let new = Loaded::<Counting>::restore(&frame).unwrap();
    assert_eq!(new.save(0).unwrap(), frame);
}

#[test]
fn state_of_an_older_version_is_converted_by_the_plugin() {
    let old = Saved::encode(&5u32).unwrap().with_version(2);
    let new = Loaded::<Counting>::restore(&old.to_frame()).unwrap();
    let saved = Saved::from_frame(&new.save(0).unwrap()).unwrap();
    assert_eq!(saved.to_json().unwrap(), serde_json::json!({ "start": 5 }));
}

#[test]
fn state_of_an_unknown_version_is_refused_with_a_sentence() {
    let newer = Saved::encode(&5u32).unwrap().with_version(9);
    assert_eq!(
        error(Loaded::<Counting>::restore(&newer.to_frame())),
        "this build cannot read state version 9: load a build that can, or start without the old state"
    );
}

#[test]
fn state_that_is_damaged_is_refused_before_the_plugin_sees_it() {
    let mut frame = Saved::encode(&5u32).unwrap().with_version(3).to_frame();
    // Its checksum has been compared by the host.
    let last = frame.len() - 5;
    frame[last] ^= 1;
    let text = error(Loaded::<Counting>::restore(&frame));
    assert!(text.starts_with("saved state is cut short or too long: "), "{text}");
    assert!(error(Loaded::<Counting>::restore(&[])).starts_with("saved state is cut short"));
}

#[test]
fn a_state_version_that_the_build_does_not_write_is_refused() {
    assert_eq!(
        error(Loaded::<Returning>::create().save(3)),
        "this build can also write state version 1, asked for was 3"
    );
    // One that does not say how.
    assert_eq!(
        error(Loaded::<Counting>::create().save(2)),
        "this build writes state version 3, asked for was 2: implement `save_as`"
    );
}

/// Writes its state also for the build before it; and, by mistake, once in another version than it says.
struct Returning;

impl Plugin for Returning {
    const STATE_VERSION: u32 = 2;
    fn create(_: &Services) -> Result<Self> {
        Ok(Returning)
    }
    fn save(&self) -> Result<Saved> {
        Saved::encode(&2)
    }
    fn save_as(&self, version: u32) -> Result<Saved> {
        match version {
            1 => Saved::encode(&1),
            4 => Ok(Saved::encode(&1)?.with_version(1)),
            other => bail!("this build can also write state version 1, asked for was {other}"),
        }
    }
}

#[test]
fn state_is_written_in_an_older_version_by_a_build_that_can() {
    let returning = Loaded::<Returning>::create();
    let version = |frame: Vec<u8>| Saved::from_frame(&frame).unwrap().version();
    assert_eq!((version(returning.save(0).unwrap()), version(returning.save(1).unwrap())), (2, 1));
    assert_eq!(error(returning.save(4)), "it has written state version 1, asked for was 4");
}

#[test]
fn a_configuration_that_does_not_fit_is_refused_with_the_fields_name() {
    let text = error(Loaded::<Picky>::create_with(r#"{"burts":5}"#));
    assert!(
        text.starts_with(
            "the configuration of plugin `picky` does not fit: unknown field `burts`, expected `burst`"
        ),
        "{text}"
    );
    Loaded::<Picky>::create_with(r#"{"burst":5}"#).unwrap();
}

struct Picky;

impl Plugin for Picky {
    fn create(host: &Services) -> Result<Self> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Config {
            burst: u32,
        }
        let config: Config = host.config()?;
        ensure!(config.burst > 0, "burst is at least 1");
        Ok(Picky)
    }
}

/// Has a `save`, but no `STATE_VERSION`.
struct Forgetful;

impl Plugin for Forgetful {
    fn create(_: &Services) -> Result<Self> {
        Ok(Forgetful)
    }
    fn save(&self) -> Result<Saved> {
        Saved::encode(&1)
    }
}

#[test]
fn a_plugin_that_saves_without_saying_so_is_refused_at_create() {
    assert_eq!(
        error(Loaded::<Forgetful>::create_with("{}")),
        "plugin `forgetful` has a `save`, but no `const STATE_VERSION: u32 = 1;`: \
         without it every reload would lose its state"
    );
}

/// Has a `save`, but no `restore`.
struct Careless;

impl Plugin for Careless {
    const STATE_VERSION: u32 = 1;
    fn create(_: &Services) -> Result<Self> {
        Ok(Careless)
    }
    fn save(&self) -> Result<Saved> {
        Saved::encode(&1)
    }
}

#[test]
fn a_plugin_without_restore_does_not_lose_state_silently() {
    let old = Loaded::<Careless>::create();
    assert_eq!(
        error(Loaded::<Careless>::restore(&old.save(0).unwrap())),
        "plugin `careless` has no `restore`: this build cannot take over state version 1"
    );
    Loaded::<Careless>::restore(&Saved::none().to_frame()).unwrap();
}

static JOINED: AtomicU32 = AtomicU32::new(0);

/// Runs two threads until it stops; one of them starts a third when it is told to.
struct Threaded(Services);

impl Plugin for Threaded {
    fn create(host: &Services) -> Result<Self> {
        Ok(Threaded(host.clone()))
    }
    fn started(&self) -> Result<()> {
        self.0.spawn("sleeper", |stop| {
            assert!(stop.wait(Duration::MAX));
            JOINED.fetch_add(1, SeqCst);
        })?;
        let host = self.0.clone();
        self.0.spawn("starter", move |stop| {
            while !stop.wait(Duration::from_secs(3600)) {}
            host.spawn("late", |stop| {
                assert!(stop.is_stopped());
                JOINED.fetch_add(1, SeqCst);
            })
            .unwrap();
            JOINED.fetch_add(1, SeqCst);
        })
    }
    fn stopping(&self, _: Stopping) {
        assert!(self.0.stop_token().is_stopped(), "threads are told before the hook");
    }
}

#[test]
fn threads_of_an_instance_are_told_and_joined_when_it_stops() {
    let threaded = Loaded::<Threaded>::create();
    threaded.started().unwrap();
    assert_eq!(JOINED.load(SeqCst), 0);
    threaded.stopping(RawStopping::REPLACED).unwrap();
    assert_eq!(JOINED.load(SeqCst), 3);
}

#[test]
fn a_stop_token_waits_no_longer_than_it_is_told() {
    let services = plugin_api::testing::services("waiting", serde_json::json!({}));
    assert!(!services.stop_token().wait(Duration::ZERO));
    assert!(!services.stop_token().wait(Duration::from_millis(1)));
}

struct Patient(CancelToken);

impl Plugin for Patient {
    fn create(host: &Services) -> Result<Self> {
        assert!(!host.is_probe());
        Ok(Patient(host.cancel_token()))
    }
    fn self_check(&self) -> Result<()> {
        ensure!(!self.0.is_cancelled(), "asked to leave");
        Ok(())
    }
}

#[test]
fn a_call_can_learn_that_it_is_asked_to_end_soon() {
    let patient = Loaded::<Patient>::create();
    patient.self_check().unwrap();
    crate::in_process::LEAVE.store(1, SeqCst);
    assert!(patient.self_check().unwrap_err().to_string().contains("asked to leave"));
    crate::in_process::LEAVE.store(0, SeqCst);
    patient.self_check().unwrap();
    // Without a host nobody asks.
    assert!(!plugin_api::testing::services("alone", serde_json::json!({})).cancel_token().is_cancelled());
}

static HASTY_JOINED: AtomicU32 = AtomicU32::new(0);

/// Starts a thread, and then cannot be created, in one of two ways.
struct Hasty;

impl Hasty {
    fn begin(host: &Services) -> Result<Self> {
        host.spawn("hasty", |stop| {
            stop.wait(Duration::MAX);
            HASTY_JOINED.fetch_add(1, SeqCst);
        })?;
        ensure!(host.config::<Option<bool>>()?.is_none(), "not like this");
        panic!("neither like this")
    }
}

impl Plugin for Hasty {
    const STATE_VERSION: u32 = 1;
    fn create(host: &Services) -> Result<Self> {
        Self::begin(host)
    }
    fn restore(host: &Services, _: Saved) -> Result<Self> {
        Self::begin(host)
    }
}

#[test]
fn a_plugin_that_cannot_be_created_leaves_no_thread_behind() {
    assert_eq!(error(Loaded::<Hasty>::create_with("true")), "not like this");
    assert_eq!(HASTY_JOINED.load(SeqCst), 1);
    assert_eq!(panic_message(Loaded::<Hasty>::create_with("null")), "neither like this");
    assert_eq!(HASTY_JOINED.load(SeqCst), 2);
    assert!(Loaded::<Hasty>::restore(&Saved::none().to_frame()).is_err());
    assert_eq!(HASTY_JOINED.load(SeqCst), 3);
}

static FALLING_JOINED: AtomicBool = AtomicBool::new(false);

/// Panics in every hook but `create`.
struct Falling(Services);

impl Plugin for Falling {
    const STATE_VERSION: u32 = 1;
    fn create(host: &Services) -> Result<Self> {
        host.spawn("falling", |stop| {
            stop.wait(Duration::MAX);
            FALLING_JOINED.store(true, SeqCst);
        })?;
        Ok(Falling(host.clone()))
    }
    fn save(&self) -> Result<Saved> {
        panic!("in save")
    }
    fn restore(_: &Services, _: Saved) -> Result<Self> {
        panic!("in restore")
    }
    fn started(&self) -> Result<()> {
        panic!("in started")
    }
    fn self_check(&self) -> Result<()> {
        panic!("in self_check")
    }
    fn leave_now(&self) {
        panic!("in leave_now")
    }
    fn stopping(&self, _: Stopping) {
        panic!("in stopping")
    }
}

impl Drop for Falling {
    fn drop(&mut self) {
        panic!("in drop of {}", self.0.name())
    }
}

#[test]
fn a_panic_in_any_hook_ends_that_hook_only() {
    let falling = Loaded::<Falling>::create();
    assert_eq!(panic_message(falling.save(0)), "in save");
    assert_eq!(panic_message(Loaded::<Falling>::restore(&Saved::none().to_frame())), "in restore");
    assert_eq!(panic_message(falling.started()), "in started");
    assert_eq!(panic_message(falling.self_check()), "in self_check");
    assert_eq!(panic_message(falling.leave_now()), "in leave_now");
    assert_eq!(panic_message(falling.stopping(RawStopping::HOST_ENDS)), "in stopping");
    assert!(FALLING_JOINED.load(SeqCst), "threads are joined although the hook panicked");
    assert_eq!(panic_message(falling.destroy()), "in drop of falling");
}

/// Refuses in the hooks that may, and has a thread that panics.
struct Stumbling;

impl Plugin for Stumbling {
    const STATE_VERSION: u32 = 1;
    fn create(host: &Services) -> Result<Self> {
        host.spawn("clumsy", |_| panic!("tripped over {}", "a cable"))?;
        Ok(Stumbling)
    }
    fn save(&self) -> Result<Saved> {
        bail!("no save")
    }
    fn started(&self) -> Result<()> {
        bail!("no start")
    }
    fn self_check(&self) -> Result<()> {
        Err(anyhow!("the sensor is gone").context("not fit"))
    }
}

#[test]
fn a_hook_that_refuses_gives_its_reason() {
    let stumbling = Loaded::<Stumbling>::create();
    assert_eq!(error(stumbling.save(0)), "no save");
    assert_eq!(error(stumbling.started()), "no start");
    assert_eq!(error(stumbling.self_check()), "not fit: the sensor is gone");
}

#[test]
fn a_thread_that_panics_is_logged_with_place_and_message() {
    let stumbling = Loaded::<Stumbling>::create();
    stumbling.stopping(RawStopping::REPLACED).unwrap();
    let lines = logged("thread `clumsy` panicked at ");
    let line = lines.first().expect("it is logged");
    assert!(line.starts_with("1 stumbling: "), "{line}");
    assert!(line.contains("life.rs:") && line.ends_with(": tripped over a cable"), "{line}");
}

#[track_caller]
fn error<T>(result: std::result::Result<T, CallError>) -> String {
    match result {
        Err(CallError::Plugin(text)) => text,
        Err(other) => panic!("{other:?}"),
        Ok(_) => panic!("it worked"),
    }
}

#[track_caller]
fn panic_message<T>(result: std::result::Result<T, CallError>) -> String {
    match result {
        Err(CallError::Panicked { message, .. }) => message,
        Err(other) => panic!("{other:?}"),
        Ok(_) => panic!("it worked"),
    }
}
