use plugin_api::desc::Version;
use plugin_api::prelude::*;

use crate::in_process::Loaded;
use crate::kinds::{Echo, Kinds};

#[plugin_api::interface(version = "1.0")]
pub trait Trouble {
    fn panic(&self, message: &str);
    fn panic_with_a_literal(&self) -> Vec<String>;
    fn panic_with_a_number(&self);
    fn panic_with_a_grenade(&self);
    fn index(&self, list: Vec<u32>, index: usize) -> u32;
    fn refuse(&self) -> std::result::Result<(), Unspeakable>;
    fn calls(&self) -> u32;
}

/// An error that panics when it is asked what it is.
pub struct Unspeakable;

impl std::fmt::Display for Unspeakable {
    fn fmt(&self, _: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        panic!("no words")
    }
}

/// A panic payload whose destructor panics.
struct Grenade;

impl Drop for Grenade {
    fn drop(&mut self) {
        panic!("the payload panics too")
    }
}

#[derive(Default)]
struct Troubled(std::sync::atomic::AtomicU32);

impl Plugin for Troubled {
    fn create(_: &Services) -> Result<Self> {
        Ok(Troubled::default())
    }
}

impl Troubled {
    fn count(&self) {
        self.0.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    }
}

impl Trouble for Troubled {
    fn panic(&self, message: &str) {
        self.count();
        panic!("{message}")
    }
    fn panic_with_a_literal(&self) -> Vec<String> {
        self.count();
        panic!("as it stands")
    }
    fn panic_with_a_number(&self) {
        self.count();
        std::panic::panic_any(17u32)
    }
    fn panic_with_a_grenade(&self) {
        self.count();
        std::panic::panic_any(Grenade)
    }
    fn index(&self, list: Vec<u32>, index: usize) -> u32 {
        self.count();
        list[index]
    }
    fn refuse(&self) -> std::result::Result<(), Unspeakable> {
        self.count();
        Err(Unspeakable)
    }
    fn calls(&self) -> u32 {
        self.0.load(std::sync::atomic::Ordering::Relaxed)
    }
}

export_plugin!(Troubled: Trouble, name = "troubled");

/// The message of a panic that happened in this file.
#[track_caller]
fn panicked<T: std::fmt::Debug>(result: std::result::Result<T, CallError>) -> String {
    let CallError::Panicked { message, location } = result.unwrap_err() else { panic!("not a panic") };
    let parts: Vec<_> = location.rsplitn(3, ':').collect();
    assert!(parts[2].ends_with("outcomes.rs"), "{location}");
    assert!(parts[0].parse::<u32>().is_ok() && parts[1].parse::<u32>().is_ok(), "{location}");
    message
}

#[test]
fn a_panic_ends_the_call_with_its_message_and_place() {
    let loaded = Loaded::<Troubled>::create();
    let trouble = loaded.enter::<dyn Trouble>();
    assert_eq!(panicked(trouble.panic("it broke\nin two lines: bad")), "it broke\nin two lines: bad");
    assert_eq!(panicked(trouble.panic("")), "");
    assert_eq!(panicked(trouble.panic_with_a_literal()), "as it stands");
    assert_eq!(panicked(trouble.panic_with_a_number()), "a payload that is not text");
    assert_eq!(panicked(trouble.index(vec![1], 3)), "index out of bounds: the len is 1 but the index is 3");
    assert_eq!(trouble.calls().unwrap(), 5, "and the plugin stays callable");
}

#[test]
fn a_panic_is_shown_as_one_sentence() {
    let error =
        Loaded::<Troubled>::create().enter::<dyn Trouble>().panic("it broke").unwrap_err().to_string();
    assert!(error.starts_with("the plugin panicked at "), "{error}");
    assert!(error.ends_with(": it broke"), "{error}");
}

#[test]
fn a_panic_whose_payload_panics_is_survived() {
    let loaded = Loaded::<Troubled>::create();
    let trouble = loaded.enter::<dyn Trouble>();
    assert_eq!(panicked(trouble.panic_with_a_grenade()), "a payload that is not text");
    assert_eq!(panicked(trouble.panic("again")), "again");
}

#[test]
fn an_error_that_panics_while_it_is_written_is_a_panic() {
    let loaded = Loaded::<Troubled>::create();
    assert_eq!(panicked(loaded.enter::<dyn Trouble>().refuse()), "no words");
}

#[test]
fn an_error_comes_back_with_its_causes() {
    let loaded = Loaded::<Echo>::create();
    let kinds = loaded.enter::<dyn Kinds>();
    assert_eq!(kinds.fallible(None).unwrap(), "fine");
    let error = kinds.fallible(Some("quota of 3 GiB reached".into())).unwrap_err();
    let chain = "the ledger cannot be written: the disk is full: quota of 3 GiB reached";
    assert_eq!(error, CallError::Plugin(chain.into()));
    assert_eq!(error.to_string(), chain);
    assert_eq!(kinds.fallible_unit(true).unwrap_err(), CallError::Plugin("no".into()));
    kinds.fallible_unit(false).unwrap();
}

#[test]
fn an_error_of_the_interfaces_own_comes_back_as_its_text() {
    let loaded = Loaded::<Echo>::create();
    let kinds = loaded.enter::<dyn Kinds>();
    assert_eq!(kinds.own_error(false).unwrap(), 7);
    assert_eq!(kinds.own_error(true).unwrap_err(), CallError::Plugin("refused, politely".into()));
    assert_eq!(kinds.boxed_error().unwrap_err(), CallError::Plugin("boxed".into()));
    assert_eq!(kinds.static_error().unwrap_err(), CallError::Plugin("static".into()));
}

#[test]
fn a_method_that_the_build_does_not_know_is_unsupported_and_the_others_work() {
    let loaded = Loaded::<Echo>::create();
    let kinds = loaded.enter_without::<dyn Kinds>(&["later"]);
    let error = kinds.later(3).unwrap_err();
    assert_eq!(
        error,
        CallError::Unsupported { method: "later".into(), since: Version { major: 1, minor: 1 } }
    );
    assert_eq!(
        error.to_string(),
        "method `later` is not known to the serving build (it came with interface version 1.1): rebuild the plugin"
    );
    assert_eq!(kinds.text("hello").unwrap(), "hello");
    #[expect(deprecated, reason = "the proxy's method carries the attribute of the trait's")]
    let much_later = kinds.much_later();
    assert_eq!(much_later.unwrap(), 9);
}

#[test]
fn a_later_method_that_is_there_works() {
    assert_eq!(Loaded::<Echo>::create().enter::<dyn Kinds>().later(3).unwrap(), 3);
}

#[test]
fn many_threads_call_one_instance() {
    let loaded = Loaded::<Troubled>::create();
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                let trouble = loaded.enter::<dyn Trouble>();
                for n in 0..100 {
                    assert_eq!(panicked(trouble.panic(&n.to_string())), n.to_string());
                }
            });
        }
    });
    assert_eq!(loaded.enter::<dyn Trouble>().calls().unwrap(), 800);
}
