//! A plugin in a program without a host (its own unit tests, for example): everything goes where it would go
//! without reseat. Nothing in this program attaches one.

use std::ffi::c_void;
use std::sync::atomic::{AtomicU32, Ordering::SeqCst};

use plugin_api::capture;
use plugin_api::prelude::*;

#[test]
fn a_key_is_created_and_deleted_by_libc() {
    unsafe extern "C" fn destructor(_: *mut c_void) {}
    let mut key = 0;
    // SAFETY: a place for the key, and a function; the key is used between creation and deletion.
    unsafe {
        assert_eq!(capture::key_create(&mut key, Some(destructor)), 0);
        assert_eq!(libc::pthread_setspecific(key, std::ptr::null()), 0);
        assert_eq!(capture::key_delete(key), 0);
    }
}

#[test]
fn a_thread_is_created_by_libc_and_runs_what_it_registered_for_its_end() {
    static ENDED: AtomicU32 = AtomicU32::new(0);
    unsafe extern "C" fn at_end(object: *mut c_void) {
        ENDED.fetch_add(object as u32, SeqCst);
    }
    unsafe extern "C-unwind" fn start(argument: *mut c_void) -> *mut c_void {
        // libc asks by an address which library the destructor is in.
        let library = (&raw const ENDED).cast_mut().cast();
        // SAFETY: a function and an address of this program, which is never unloaded.
        assert_eq!(unsafe { capture::at_thread_exit(at_end, argument, library) }, 0);
        argument
    }
    let argument = 5 as *mut c_void;
    let (mut thread, mut returned) = (0, std::ptr::null_mut());
    // SAFETY: places for the results, default attributes, and a start routine; joined once.
    unsafe {
        assert_eq!(capture::thread_create(&mut thread, std::ptr::null(), start, argument), 0);
        assert_eq!(libc::pthread_join(thread, &mut returned), 0);
    }
    assert_eq!(returned, argument);
    assert_eq!(ENDED.load(SeqCst), 5);
}

#[test]
fn services_count_log_and_read_their_configuration() {
    let host = plugin_api::testing::services("lonely", serde_json::json!({ "size": 3 }));
    #[derive(Deserialize)]
    struct Config {
        size: u32,
    }
    assert_eq!(host.config::<Config>().unwrap().size, 3);
    assert_eq!(host.name(), "lonely");
    let counter = host.counter("seen");
    counter.add(2);
    counter.add(3);
    assert_eq!(counter.get(), 5);
    assert_eq!(host.counter("seen").get(), 0, "without a host, each is its own");
    plugin_api::info!("goes to standard error: {}", counter.get());
}

struct Tally(u32);

impl Plugin for Tally {
    const STATE_VERSION: u32 = 4;
    fn create(_: &Services) -> Result<Self> {
        Ok(Tally(0))
    }
    fn save(&self) -> Result<Saved> {
        // Nothing to keep is not a state.
        if self.0 == 0 { Ok(Saved::none()) } else { Saved::encode(&self.0) }
    }
    fn restore(_: &Services, saved: Saved) -> Result<Self> {
        match saved.version() {
            0 => Ok(Tally(0)),
            4 => saved.decode().map(Tally),
            v => bail!(saved.unsupported(v)),
        }
    }
}

#[test]
fn a_handover_in_a_test_is_that_of_a_reload() {
    let host = plugin_api::testing::services("tally", serde_json::json!({}));
    let new: Tally = plugin_api::testing::hand_over(&Tally(7), &host).unwrap();
    assert_eq!(new.0, 7);
    let new: Tally = plugin_api::testing::hand_over(&Tally(0), &host).unwrap();
    assert_eq!(new.0, 0);
}

/// Counts.
#[plugin_api::interface(version = "1.0")]
pub trait Tallies {
    /// Adds, and says what it was.
    fn add(&self, n: u32) -> u32;
}

/// How many threads of `Busy` have ended.
static STOPPED: AtomicU32 = AtomicU32::new(0);

#[derive(Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Settings {
    start: u32,
}

struct Busy(AtomicU32, Services);

impl Plugin for Busy {
    const STATE_VERSION: u32 = 1;
    fn create(host: &Services) -> Result<Self> {
        Ok(Busy(host.config::<Settings>()?.start.into(), host.clone()))
    }
    fn save(&self) -> Result<Saved> {
        Saved::encode(&self.0)
    }
    fn restore(host: &Services, saved: Saved) -> Result<Self> {
        Ok(Busy(saved.decode()?, host.clone()))
    }
    fn started(&self) -> Result<()> {
        self.1.spawn("busy", |stop| {
            while !stop.wait(std::time::Duration::from_secs(60)) {}
            STOPPED.fetch_add(1, SeqCst);
        })
    }
    fn self_check(&self) -> Result<()> {
        ensure!(self.0.load(SeqCst) < 100, "this is too much");
        Ok(())
    }
}

impl Tallies for Busy {
    fn add(&self, n: u32) -> u32 {
        plugin_api::warn!("{n} more");
        self.0.fetch_add(n, SeqCst)
    }
}

export_plugin!(Busy: Tallies, name = "busy");

#[test]
fn an_instance_in_a_test_goes_the_way_of_a_host() -> Result<()> {
    let create = |config| plugin_api::testing::Instance::<Busy>::create(config);
    let error = |result: Result<plugin_api::testing::Instance<Busy>>| format!("{:#}", result.err().unwrap());
    let said = error(create(serde_json::json!({ "begin": 3 })));
    assert!(said.contains("configuration of plugin `busy`") && said.contains("`begin`"), "{said}");
    assert_eq!(error(create(serde_json::json!({ "start": 100 }))), "this is too much");
    assert_eq!(STOPPED.load(SeqCst), 1, "its thread has ended");

    let old = create(serde_json::json!({ "start": 3 }))?;
    let (result, lines) =
        plugin_api::testing::logged(|| old.call::<dyn Tallies>("add", serde_json::json!({ "n": 4 })));
    assert_eq!(result, Ok(serde_json::json!(3)));
    assert_eq!(lines, [(plugin_api::Level::Warn, "4 more".to_owned())]);
    let refused = old.call::<dyn Tallies>("add", serde_json::json!({ "m": 4 }));
    assert_eq!(refused.unwrap_err().to_string(), "`add` has no parameter `m`: it takes an object with n");
    assert!(old.call::<dyn Tallies>("sub", serde_json::json!({})).is_err());

    let new: plugin_api::testing::Instance<Busy> = old.hand_over(serde_json::json!({}))?;
    assert_eq!((new.add(1), old.add(1)), (7, 7), "saving has not changed the old one");
    drop((old, new));
    assert_eq!(STOPPED.load(SeqCst), 3);
    Ok(())
}

#[test]
fn lines_of_other_threads_and_of_other_times_are_not_taken() {
    let (inner, outer) = plugin_api::testing::logged(|| {
        plugin_api::info!("before");
        let (_, inner) = plugin_api::testing::logged(|| plugin_api::info!("inside"));
        std::thread::spawn(|| plugin_api::info!("another thread's")).join().unwrap();
        plugin_api::info!("after");
        inner
    });
    let texts =
        |lines: Vec<(plugin_api::Level, String)>| lines.into_iter().map(|(_, text)| text).collect::<Vec<_>>();
    assert_eq!(texts(inner), ["inside"]);
    assert_eq!(texts(outer), ["before", "after"]);
    let (result, lines) = plugin_api::testing::logged(|| {
        std::panic::catch_unwind(|| plugin_api::testing::logged(|| panic!("on purpose")))
    });
    assert!(result.is_err() && lines.is_empty());
}

#[plugin_api::interface(version = "1.0")]
trait Greeter {
    fn greet(&self, name: &str) -> String;
}

struct Polite(Services);

impl Plugin for Polite {
    fn create(host: &Services) -> Result<Self> {
        host.register(
            Registration::route("GET /hello").calls("greet").with(&serde_json::json!({ "in": "English" }))?,
        )?;
        host.every("wake", std::time::Duration::from_secs(1), "greet")?;
        Ok(Polite(host.clone()))
    }
}

impl Greeter for Polite {
    fn greet(&self, name: &str) -> String {
        name.to_owned()
    }
}

export_plugin!(Polite: Greeter, name = "polite");

#[test]
fn what_is_registered_is_kept_to_be_looked_at() {
    let plugin = plugin_api::testing::Instance::<Polite>::create(serde_json::json!({})).unwrap();
    let registered = plugin.registered();
    let names: Vec<_> = registered.iter().map(ToString::to_string).collect();
    assert_eq!(names, ["route `GET /hello`", "timer `wake`"]);
    assert_eq!(
        (registered[0].method(), &registered[0].details().unwrap()["in"]),
        ("greet", &"English".into())
    );
    assert_eq!(registered[1].interval(), Some(std::time::Duration::from_secs(1)));
    // The same key again replaces it.
    plugin.0.register(Registration::route("GET /hello").calls("other")).unwrap();
    assert_eq!((plugin.registered().len(), plugin.registered()[0].method()), (2, "other"));
    assert!(plugin.0.withdraw("route", "GET /hello"));
    assert!(!plugin.0.withdraw("route", "GET /hello"));
    assert_eq!(plugin.registered().len(), 1);
}

#[test]
fn what_cannot_be_registered_is_refused_with_what_it_should_be() {
    let host = plugin_api::testing::services("polite", serde_json::json!({}));
    let refused = |registration: Registration| host.register(registration).unwrap_err().to_string();
    let route = |key: &str| Registration::route(key).calls("greet");
    for key in ["/hello", "get /hello", "GET hello", "GET /a b", "GET /a?b=c", "GET", ""] {
        let error = refused(route(key));
        assert!(error.contains("the key of a route is"), "{key:?}: {error}");
    }
    assert!(refused(Registration::command("two words").calls("greet")).contains("one word"));
    assert!(refused(Registration::new("A kind", "x").calls("greet")).contains("1 to 32 of a-z"));
    assert!(refused(Registration::new("menu", "x\n").calls("greet")).contains("no control characters"));
    assert!(refused(Registration::command("greet")).contains("`.calls(\"method\")`"));
    let often = Registration::timer("x", std::time::Duration::from_nanos(1)).calls("greet");
    assert!(refused(often).contains("every millisecond at most"));
    assert!(refused(Registration::new("timer", "x").calls("greet")).contains("says how often"));
    let large = route("GET /x").with(&"x".repeat(70_000)).unwrap();
    assert!(refused(large).contains("more than 64 KiB"));
    for number in 0..plugin_api::registration::LIMIT {
        host.register(Registration::new("menu", number.to_string()).calls("greet")).unwrap();
    }
    assert!(refused(route("GET /x")).contains("is one too many"));
    // What is there already can be replaced.
    host.register(Registration::new("menu", "0").calls("greet")).unwrap();
}
