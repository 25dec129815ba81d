use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, OnceLock};
use std::thread::ThreadId;

use reseat::{Event, Host, Observers, ScopeObserver};
use reseat_tests::echo::Echo;

use crate::scene::Scene;
use crate::waiting::{DEADLINE, until};

type Told = Arc<Mutex<Vec<(String, ThreadId)>>>;

/// Writes down what it is told, and where.
struct Around {
    name: &'static str,
    told: Told,
}

impl Around {
    fn note(&self, hook: &str) {
        self.told.lock().unwrap().push((format!("{} {hook}", self.name), std::thread::current().id()));
    }
}

impl ScopeObserver for Around {
    fn to_run(&self) {
        self.note("to_run");
    }
    fn to_complete(&self) {
        self.note("to_complete");
    }
}

/// A host with two of them, and an echo.
fn scene() -> (Scene, Told) {
    let told = Told::default();
    let around = |name| Around { name, told: told.clone() };
    let observers = Observers::none().around_scopes(around("first")).around_scopes(around("second"));
    let scene = Scene::with_options(&["echo_v1"], |options| options.observers = observers);
    (scene, told)
}

fn taken(told: &Told) -> Vec<String> {
    std::mem::take(&mut *told.lock().unwrap()).into_iter().map(|(what, _)| what).collect()
}

const BEGIN: [&str; 2] = ["first to_run", "second to_run"];
const END: [&str; 2] = ["second to_complete", "first to_complete"];

#[test]
fn a_unit_of_work_is_told_around_the_outermost_scope_of_its_thread() {
    let (scene, told) = scene();
    let echo = scene.handle::<dyn Echo>("echo");
    scene.host.scope(|scope| {
        assert_eq!(taken(&told), BEGIN);
        assert_eq!(scope.enter(&echo).unwrap().build().unwrap(), 1);
        scene.host.scope(|inner| assert_eq!(inner.enter(&echo).unwrap().build().unwrap(), 1));
        let owned = scene.host.owned_scope();
        assert_eq!(owned.enter(&echo).unwrap().build().unwrap(), 1);
        drop(owned);
        assert!(told.lock().unwrap().is_empty(), "nested scopes are of the same unit");
        // Another thread is at another unit.
        std::thread::scope(|s| s.spawn(|| scene.host.scope(|_| {})).join().unwrap());
        assert_eq!(taken(&told), [BEGIN, END].concat());
    });
    assert_eq!(taken(&told), END);
    scene.host.scope(|_| {});
    assert_eq!(taken(&told), [BEGIN, END].concat());
}

#[test]
fn a_unit_of_work_is_complete_when_nothing_of_it_is_in_a_plugin_any_more() {
    struct Looks(Arc<OnceLock<Host>>, Arc<Mutex<Vec<bool>>>);
    impl ScopeObserver for Looks {
        fn to_complete(&self) {
            // A stateless plugin can be replaced at any time; its old generation goes when nobody is in it.
            let host = self.0.get().unwrap();
            let gone = until(DEADLINE, || host.status().plugins[0].generations.len() == 1);
            self.1.lock().unwrap().push(gone);
            // A scope of an observer is no unit: this would never end.
            host.scope(|_| {});
        }
    }
    let (at, seen) = (Arc::<OnceLock<Host>>::default(), Arc::<Mutex<Vec<bool>>>::default());
    let looks = Looks(at.clone(), seen.clone());
    let scene = Scene::with(&["echo_v1"]);
    let host = scene.next_host(|options| {
        options.state_dir = scene.path("other");
        options.observers = Observers::none().around_scopes(looks);
    });
    let host = at.get_or_init(|| host);
    let echo = host.plugin::<dyn Echo>("echo").unwrap();
    host.scope(|scope| {
        scope.enter(&echo).unwrap();
        host.reload("echo").unwrap();
        assert!(until(DEADLINE, || host.status().plugins[0].generations.len() == 2));
    });
    assert_eq!(*seen.lock().unwrap(), [true]);
    host.shutdown(DEADLINE);
}

#[test]
fn a_unit_of_work_that_panics_is_complete_all_the_same() {
    let (scene, told) = scene();
    let work = || scene.host.scope(|_| -> () { panic!("the work has failed") });
    catch_unwind(AssertUnwindSafe(work)).unwrap_err();
    assert_eq!(taken(&told), [BEGIN, END].concat());
    // The thread is at no unit any more.
    scene.host.scope(|_| {});
    assert_eq!(taken(&told), [BEGIN, END].concat());
}

#[test]
fn an_owned_scope_is_a_unit_of_work_wherever_it_begins_and_ends() {
    let (scene, told) = scene();
    let echo = scene.handle::<dyn Echo>("echo");
    let owned = scene.host.owned_scope();
    assert_eq!(taken(&told), BEGIN);
    let host = &scene.host;
    std::thread::scope(|s| {
        let elsewhere = s.spawn(|| {
            owned.inside(|| host.scope(|scope| assert_eq!(scope.enter(&echo).unwrap().build().unwrap(), 1)));
            let nested = owned.inside(|| host.owned_scope());
            assert!(told.lock().unwrap().is_empty(), "they are of the same unit");
            drop(owned);
            assert!(told.lock().unwrap().is_empty(), "one of its scopes has not ended");
            drop(nested);
            std::thread::current().id()
        });
        let there = elsewhere.join().unwrap();
        assert!(told.lock().unwrap().iter().all(|(_, thread)| *thread == there));
    });
    assert_eq!(taken(&told), END);
}

#[test]
fn an_observer_of_units_that_panics_is_named_and_the_work_goes_on() {
    struct Fails;
    impl ScopeObserver for Fails {
        fn name(&self) -> String {
            "fails".into()
        }
        fn to_run(&self) {
            panic!("not today");
        }
        fn to_complete(&self) {
            panic!("nor now");
        }
    }
    let told = Told::default();
    let around = Around { name: "first", told: told.clone() };
    let scene = Scene::with_options(&["echo_v1"], |options| {
        options.observers = Observers::none().around_scopes(around).around_scopes(Fails);
    });
    assert_eq!(scene.host.scope(|_| 7), 7);
    assert_eq!(taken(&told), ["first to_run", "first to_complete"]);
    let troubles = scene.events().into_iter().filter(|event| matches!(event, Event::Trouble { .. }));
    let troubles: Vec<_> = troubles.map(|event| event.to_string()).collect();
    assert!(troubles[0].contains("to_run: the observer `fails` panicked: not today"), "{troubles:?}");
    assert!(troubles[1].contains("to_complete: the observer `fails` panicked: nor now"), "{troubles:?}");
}
