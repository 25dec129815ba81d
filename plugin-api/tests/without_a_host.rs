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
    assert_eq!(host.plugin(), "lonely");
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
