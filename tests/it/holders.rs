use std::sync::mpsc::channel;
use std::thread::Builder;
use std::time::{Duration, Instant};

use reseat::{Event, Handle};
use reseat_tests::counter::Counter;
use reseat_tests::misc::Blocker;

use crate::scene::{Build, Hold, Scene};

/// Lets a thread of this name hold the plugin by `enter`, publishes, and returns what is said of who holds it.
fn holders(name: &str, enter: impl FnOnce(&Scene, &Handle<dyn Blocker>, &Hold) + Send) -> String {
    let scene = Scene::with(&["blocker"]);
    let blocker = scene.handle::<dyn Blocker>("blocker");
    let hold = scene.hold();
    std::thread::scope(|threads| {
        let thread = Builder::new().name(name.into());
        let thread = thread.spawn_scoped(threads, || enter(&scene, &blocker, &hold)).unwrap();
        hold.entered();
        scene.install(Build::of("blocker").stamped(2)).published();
        let holders = draining(&scene).0;
        hold.release();
        thread.join().unwrap();
        scene.unloaded("blocker", 1);
        holders
    })
}

/// The first report, and how long after the publish it came.
fn draining(scene: &Scene) -> (String, u64) {
    let find = |event| match event {
        Event::Draining { holders, since_ms, .. } => Some((holders, since_ms)),
        _ => None,
    };
    scene.eventually(|s| s.events().into_iter().any(|event| find(event).is_some()));
    scene.events().into_iter().find_map(find).unwrap()
}

#[track_caller]
fn names(holders: &str, end: &str) {
    assert!(holders.starts_with("1 guard, entered at least ") && holders.ends_with(end), "{holders}");
}

#[test]
fn a_typed_call_is_named_by_thread_and_method() {
    let holders = holders("typist", |_, blocker, hold| {
        blocker.enter().unwrap().hold(&hold.until()).unwrap();
    });
    names(&holders, "by thread typist (last call: hold)");
}

#[test]
fn a_dynamic_call_is_named_by_thread_and_method() {
    let holders = holders("reader", |scene, _, hold| {
        let arguments = serde_json::json!({ "until": hold.until() }).to_string();
        scene.host.call("blocker", "hold", &arguments).unwrap();
    });
    names(&holders, "by thread reader (last call: hold)");
}

#[test]
fn a_call_in_a_scope_is_named_by_thread_and_method() {
    let holders = holders("worker", |scene, blocker, hold| {
        scene.host.scope(|scope| {
            let blocker = scope.enter(blocker).unwrap();
            blocker.build().unwrap();
            blocker.hold(&hold.until()).unwrap();
        });
    });
    names(&holders, "by thread worker (last call: hold)");
}

#[test]
fn who_holds_up_a_handover_is_named_while_it_waits() {
    let scene = Scene::with(&["counter_v1"]);
    let hold = scene.hold();
    let patient = Builder::new().name("patient".into()).spawn({
        let (counter, until) = (scene.handle::<dyn Counter>("counter"), hold.until());
        move || counter.enter().unwrap().hold(&until).unwrap()
    });
    hold.entered();
    let expecting = scene.install("counter_v2");
    names(&draining(&scene).0, "by thread patient (last call: hold)");
    assert_eq!(scene.generation("counter"), Some(1));
    hold.release();
    assert_eq!(expecting.published(), 2);
    assert_eq!(patient.unwrap().join().unwrap(), 1);
}

#[test]
fn a_lease_is_counted_but_not_named() {
    let scene = Scene::with(&["blocker"]);
    let lease = scene.handle::<dyn Blocker>("blocker").lease().unwrap();
    scene.install(Build::of("blocker").stamped(2)).published();
    assert_eq!(draining(&scene).0, "1 lease");
    assert_eq!(lease.build().unwrap(), 1);
    drop(lease);
    scene.unloaded("blocker", 1);
}

#[test]
fn the_age_of_a_call_counts_from_before_the_publish() {
    const BEFORE: Duration = Duration::from_millis(400);
    let scene = Scene::with(&["blocker"]);
    let blocker = scene.handle::<dyn Blocker>("blocker");
    let hold = scene.hold();
    let (said, entering) = channel();
    let thread = std::thread::spawn({
        let (blocker, until) = (blocker.clone(), hold.until());
        move || {
            said.send(Instant::now()).unwrap();
            blocker.enter().unwrap().hold(&until).unwrap()
        }
    });
    let entering = entering.recv().unwrap();
    hold.entered();
    let entered = Instant::now();
    scene.eventually(|_| entered.elapsed() >= BEFORE);
    scene.install(Build::of("blocker").stamped(2)).published();
    let (holders, since_publish) = draining(&scene);
    // Seconds are rounded to a tenth.
    let at_most = entering.elapsed().as_millis() as u64 + 50;
    let age = holders.strip_prefix("1 guard, entered at least ").unwrap();
    let (age, _) = age.split_once(" ago").unwrap();
    let age = match age.split_once(' ').unwrap() {
        (number, "ms") => number.parse::<u64>().unwrap(),
        (number, "s") => (number.parse::<f64>().unwrap() * 1e3) as u64,
        _ => panic!("{holders}"),
    };
    assert!(age <= at_most, "{age} of {at_most} ms");
    // Known to within a sampling; and certainly not from the publish on only.
    assert!(age >= since_publish + BEFORE.as_millis() as u64 / 2, "{age}, {since_publish} ms");
    hold.release();
    assert_eq!(thread.join().unwrap(), 1);
}
