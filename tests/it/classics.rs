use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex, OnceLock, Weak};
use std::thread::{Builder, Scope, ScopedJoinHandle};
use std::time::{Duration, Instant};

use reseat::{
    CallError, Change, DispatchError, DrainPolicy, Event, Handle, Host, Observer, Observers, Options,
    Outcome, PluginOptions, RefusalReason, ReloadError, ReloadMode, Step,
};
use reseat_tests::counter::Counter;
use reseat_tests::echo::Echo;
use reseat_tests::misc::Misc;
use reseat_tests::node::Node;
use serde_json::json;

use crate::callers::Callers;
use crate::child::in_child;
use crate::long_lived::LongLived;
use crate::process::mapped;
use crate::scene::{Build, Expecting, Hold, Scene};
use crate::waiting::{DEADLINE, until};

/// So long that whoever waits for it makes a test fail.
const FOR_EVER: Duration = Duration::from_secs(3600);
/// Short enough to be waited for.
const SHORT: Duration = Duration::from_millis(400);

/// A thread of this name.
fn named<'s, 'e, T: Send + 's>(
    threads: &'s Scope<'s, 'e>,
    name: &str,
    run: impl FnOnce() -> T + Send + 's,
) -> ScopedJoinHandle<'s, T> {
    Builder::new().name(name.into()).spawn_scoped(threads, run).expect("a thread")
}

#[test]
fn whoever_begins_between_a_look_and_an_unload_has_all_of_its_plugin_or_nothing() {
    let name = "classics::whoever_begins_between_a_look_and_an_unload_has_all_of_its_plugin_or_nothing";
    // In a process of its own: code that is called and gone ends it.
    in_child(name, || {
        let scene = Scene::with(&["echo_stamped"]);
        let echo = scene.handle::<dyn Echo>("echo");
        let callers = Callers::start(3, |_| {
            let (echo, host) = (echo.clone(), scene.host.clone());
            let work = move || {
                host.scope(|scope| {
                    let first = match scope.enter(&echo) {
                        Err(CallError::NotLoaded { .. }) => return Ok(()),
                        entered => entered?,
                    };
                    let generation = first.generation();
                    for _ in 0..3 {
                        std::thread::yield_now();
                        let again = scope.enter(&echo)?;
                        assert_eq!((again.generation(), again.say("hi")?), (generation, first.say("hi")?));
                    }
                    Ok::<_, CallError>(())
                })
            };
            move || work().map_err(|error| error.to_string())
        });
        for _ in 0..40 {
            // What a reloader does that has no gate: it looks whether anything runs, and then acts.
            until(Duration::from_millis(20), || scene.status("echo").in_flight == Some(0));
            scene.host.unload("echo").unwrap();
            scene.host.reload("echo").unwrap();
            callers.go_on(&scene, 3);
        }
        callers.finish();
        scene.settled();
    });
}

/// A counter that has counted to 5, and a `parent` in a scope that holds it and does this; what came of it.
fn in_a_parents_scope<T: Send>(
    options: impl FnOnce(&mut Options),
    work: impl FnOnce(&Scene, &Handle<dyn Counter>) -> T + Send,
) -> (T, Duration) {
    let scene = Scene::with_options(&["counter_stamped"], options);
    let counter = scene.handle::<dyn Counter>("counter");
    let begun = Instant::now();
    let came = std::thread::scope(|threads| {
        let parent = named(threads, "parent", || {
            scene.host.scope(|scope| {
                let held = scope.enter(&counter).unwrap();
                assert_eq!(held.add(5), Ok(5));
                let came = work(&scene, &counter);
                // It goes on where it was, and nothing is lost.
                assert_eq!((held.generation(), held.add(2)), (1, Ok(7)));
                came
            })
        });
        parent.join().unwrap()
    });
    let took = begun.elapsed();
    // When it has ended, nothing stands in the way any more.
    scene.eventually(|scene| scene.host.reload("counter").is_ok());
    assert_eq!(counter.enter().unwrap().get(), Ok(7));
    (came, took)
}

/// A thread that the calling one starts and waits for, and that asks for a reload.
fn child_reloads(scene: &Scene, plugin: &str) -> Result<Outcome, ReloadError> {
    std::thread::scope(|threads| {
        named(threads, "child", || scene.host.reload(plugin)).join().expect("it does not panic")
    })
}

#[test]
fn a_scope_that_waits_for_a_child_that_reloads_its_plugin_is_told_who_stands_in_the_way_and_goes_on() {
    for mode in [ReloadMode::Auto, ReloadMode::BetweenScopes] {
        let short = |options: &mut Options| {
            options.mode = mode;
            (options.drain_deadline, options.scope_wait) = (SHORT, SHORT);
        };
        let (came, took) = in_a_parents_scope(short, |scene, _| child_reloads(scene, "counter"));
        let Err(ReloadError::Refused(refusal)) = came else { panic!("{mode:?}: {came:?}") };
        let RefusalReason::Held { limit, holders } = &refusal.reason else { panic!("{mode:?}: {refusal}") };
        assert_eq!((refusal.step, refusal.serving, *limit), (Step::Drain, Some(1), SHORT));
        let said = holders.to_string();
        assert!(said.contains("1 guard") && said.contains("thread parent (last call: add)"), "{said}");
        // Once for a gap between scopes, once for the drain; the rest is what a busy machine takes.
        assert!(took < SHORT * 2 + DEADLINE / 2, "{mode:?}: {took:?}");
    }
}

#[test]
fn a_scope_that_waits_for_a_child_whose_reload_may_wait_for_ever_is_named_and_freed_by_whoever_cancels() {
    let patient = |options: &mut Options| options.drain_policy = DrainPolicy::Wait;
    let (came, _) = in_a_parents_scope(patient, |scene, _| {
        std::thread::scope(|threads| {
            let child = named(threads, "child", || scene.host.reload("counter"));
            let stands =
                |line: &String| line.contains("it waits for 1 guard") && line.contains("thread parent");
            scene.eventually(|scene| scene.host.why("counter").unwrap().lines.iter().any(stands));
            assert_eq!(scene.host.cancel("counter"), Some(Step::Drain));
            child.join().unwrap()
        })
    });
    assert!(came.unwrap_err().to_string().contains("it was cancelled"));
}

/// Has a build come that waits for the calling thread, which is in a scope that holds the counter.
fn waits_for_me(scene: &Scene) -> Expecting {
    let expecting = scene.install(Build::of("counter_stamped").stamped(2));
    scene.eventually(|scene| scene.status("counter").busy.is_some_and(|busy| busy.starts_with("drain")));
    expecting
}

#[test]
fn a_child_that_calls_behind_the_gate_that_its_parent_holds_up_is_answered_by_the_old_build() {
    let options = |options: &mut Options| (options.drain_deadline, options.call_wait) = (SHORT, FOR_EVER);
    let (refused, _) = in_a_parents_scope(options, |scene, counter| {
        let expecting = waits_for_me(scene);
        std::thread::scope(|threads| {
            let child = named(threads, "child", || counter.enter().unwrap().generation());
            assert_eq!(child.join().unwrap(), 1);
        });
        expecting.refused()
    });
    refused.at(Step::Drain, &["still in use after 400ms", "thread parent (last call: add)"]);
}

#[test]
fn a_child_that_is_handed_its_parents_owned_scope_passes_the_gate_at_which_others_wait() {
    // Nothing here ends by itself.
    let options = |options: &mut Options| {
        (options.drain_policy, options.call_wait) = (DrainPolicy::Wait, FOR_EVER);
    };
    let (refused, _) = in_a_parents_scope(options, |scene, counter| {
        let handed = scene.host.owned_scope();
        assert_eq!(handed.enter(counter).unwrap().get(), Ok(5));
        let expecting = waits_for_me(scene);
        std::thread::scope(|threads| {
            let other = named(threads, "other", || counter.enter().unwrap().generation());
            scene.eventually(|scene| scene.status("counter").waiting == 1);
            let child = named(threads, "child", || handed.enter(counter).unwrap().get());
            assert_eq!(child.join().unwrap(), Ok(5));
            assert!(!other.is_finished());
            assert_eq!(scene.host.cancel("counter"), Some(Step::Drain));
            assert_eq!(other.join().unwrap(), 1);
        });
        expecting.refused()
    });
    refused.at(Step::Drain, &["it was cancelled"]);
}

#[test]
fn a_child_that_reloads_the_stateless_plugin_of_its_parents_scope_is_done_at_once() {
    let scene = Scene::with_options(&["echo_stamped"], |options| {
        (options.drain_deadline, options.call_wait) = (FOR_EVER, FOR_EVER);
    });
    let echo = scene.handle::<dyn Echo>("echo");
    scene.host.scope(|scope| {
        let held = scope.enter(&echo).unwrap();
        let outcome = child_reloads(&scene, "echo").unwrap();
        assert_eq!(outcome, Outcome::Reloaded { plugin: "echo".into(), from: 1, generation: 2 });
        assert_eq!((held.generation(), scope.enter(&echo).unwrap().generation()), (1, 1));
        let child = std::thread::scope(|threads| threads.spawn(|| echo.enter().unwrap().generation()).join());
        assert_eq!(child.unwrap(), 2);
    });
    scene.unloaded("echo", 1);
}

#[test]
fn what_a_removed_file_has_left_is_all_there_until_its_plugin_is_unloaded_and_then_nothing_is() {
    let scene = Scene::with(&["registers_v1"]);
    let host = &scene.host;
    let file = scene.plugins().join(Build::of("registers_v1").file_name());
    let hello = |host: &Host| host.dispatch("route", "GET /hello", r#"{"name":"alice"}"#);
    let (all, answer) = (host.registrations(None), hello(host).unwrap());
    std::fs::remove_file(&file).unwrap();
    host.rescan();
    // The host has looked: another plugin has come.
    scene.install("echo_v1").published();
    assert_eq!((host.registrations(None), hello(host).unwrap()), (all, answer));

    host.unload("greeter").unwrap();
    scene.unloaded("greeter", 1);
    assert_eq!(host.registrations(None), []);
    assert!(matches!(hello(host), Err(DispatchError::NotRegistered { .. })));
    assert!(host.notify("news", r#"{"text":"x"}"#).is_empty());
    let copies = scene.state().join("run").join(std::process::id().to_string()).join("greeter-");
    assert_eq!(mapped(&copies), [""; 0]);
    assert!(host.shutdown(DEADLINE));
    let next = scene.next_host(|_| {});
    assert!(next.registrations(None).is_empty() && next.plugin::<dyn Echo>("echo").is_ok());
}

/// Each requires the one behind it: its fixture, and its name.
const CHAIN: [(&str, &str); 3] =
    [("calls_counter", "caller"), ("counts_with_echo", "counts_with_echo"), ("echo_v1", "echo")];
/// All orders of three.
const ORDERS: [[usize; 3]; 6] = [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]];

/// What can be seen of the three from outside.
fn seen(scene: &Scene) -> (Vec<Option<u64>>, String, u32, Vec<String>) {
    let generations = CHAIN.map(|(_, plugin)| scene.generation(plugin)).to_vec();
    let answer = scene.handle::<dyn Misc>("caller").enter().unwrap().call("3").unwrap();
    let build = scene.handle::<dyn Counter>("counts_with_echo").enter().unwrap().build().unwrap();
    (generations, answer, build, scene.refusals())
}

#[test]
fn plugins_that_call_one_another_come_to_the_same_in_whatever_order_they_are_loaded_and_reloaded() {
    for order in ORDERS {
        let fixtures = order.map(|number| CHAIN[number].0);
        let at_start = Scene::with(&fixtures);
        let later = Scene::with(&[]);
        for (fixture, plugin) in order.map(|number| CHAIN[number]) {
            drop(later.install(fixture));
            // It serves, or it has been looked at and waits.
            let known =
                |scene: &Scene| scene.host.status().plugins.iter().any(|status| status.name == plugin);
            later.eventually(known);
        }
        for scene in [at_start, later] {
            scene.eventually(|scene| CHAIN.iter().all(|(_, plugin)| scene.generation(plugin).is_some()));
            assert_eq!(seen(&scene), (vec![Some(1); 3], "3".into(), 1, vec![]), "{order:?}");
            for number in order {
                scene.host.reload(CHAIN[number].1).unwrap();
            }
            assert_eq!(seen(&scene), (vec![Some(2); 3], "3".into(), 1, vec![]), "{order:?}");
            // And they end in one order: whoever calls others before them.
            assert!(scene.host.shutdown(DEADLINE));
            let gone = scene.events().into_iter().filter_map(|event| match event {
                Event::Unloaded { plugin, generation: 2, .. } => Some(plugin),
                _ => None,
            });
            assert_eq!(gone.collect::<Vec<_>>(), CHAIN.map(|(_, plugin)| plugin), "{order:?}");
        }
    }
}

#[test]
fn a_worker_that_sleeps_inside_of_a_scope_is_named_and_outside_it_keeps_nothing_once_it_quiesces() {
    const PLUGIN: &str = "tls_with_drop";
    let scene = Scene::with(&[PLUGIN]);
    let misc = scene.handle::<dyn Misc>(PLUGIN);
    let outside = LongLived::new("outside", &misc);
    outside.call("awake");
    std::thread::scope(|threads| {
        let (wake, sleeps) = channel::<()>();
        let (asleep, is_asleep) = channel();
        let (host, misc) = (&scene.host, &misc);
        let inside = named(threads, "inside", move || {
            host.scope(|scope| {
                let held = scope.enter(misc).unwrap();
                held.call("awake").unwrap();
                // In the middle of its work it may not clear anything away.
                asleep.send(reseat::quiesce()).unwrap();
                let _ = sleeps.recv();
                held.call("awake").unwrap()
            })
        });
        assert!(!is_asleep.recv().unwrap());
        scene.host.reload(PLUGIN).unwrap();
        let names = |why: &reseat::Why| -> Vec<String> {
            let holders = why.old.iter().filter_map(|old| old.holders.as_ref());
            holders.flat_map(|holders| &holders.threads).map(|holder| holder.thread.clone()).collect()
        };
        scene.eventually(|scene| names(&scene.host.why(PLUGIN).unwrap()) == ["inside"]);
        let named_by_status = |scene: &Scene| {
            let old = &scene.status(PLUGIN).generations[0];
            old.reason.as_ref().is_some_and(|reason| reason.contains("thread inside (last call: call)"))
        };
        scene.eventually(named_by_status);
        drop(wake);
        assert_eq!(inside.join().unwrap(), "awake");
    });
    // What the other keeps is no call, and it says so.
    scene.lingers(PLUGIN, 1, &["thread \"outside\"", "has not come by since"]);
    crate::long_lived::all_quiesce(std::slice::from_ref(&outside));
    scene.unloaded(PLUGIN, 1);
    outside.end();
}

/// `node00` to `node07`, each of which calls the next, all with a state.
fn chain_of_eight(options: &mut Options) {
    for number in 0..8 {
        let next = (number < 7).then(|| ("Left".to_owned(), format!("node{:02}", number + 1)));
        let own = PluginOptions { bind: next.into_iter().collect(), ..PluginOptions::default() };
        options.plugins.insert(format!("node{number:02}"), own);
        options.config.insert(format!("node{number:02}"), json!({ "left": number < 7 }));
    }
}

#[test]
fn a_host_ends_within_one_deadline_whose_eight_plugins_are_all_held_and_keeps_the_states_of_others() {
    let scene = Scene::with_options(&[], chain_of_eight);
    for number in (0..8).rev() {
        let build = Build::of("node_with_state").named(&format!("node{number:02}"));
        assert_eq!(scene.install(build).published(), 1);
    }
    // In front of them and behind them.
    let free = ["basting_calls", "zasting_calls"].map(|name| {
        scene.install(Build::of("lasting_calls").named(name)).published();
        assert_eq!(scene.handle::<dyn Misc>(name).enter().unwrap().call("0").unwrap(), "0 by 1");
        name
    });
    let holds: Vec<_> = (0..8).map(|_| scene.hold()).collect();
    let held: Vec<_> = (0..8)
        .zip(&holds)
        .map(|(number, hold)| {
            let (node, until) = (scene.handle::<dyn Node>(&format!("node{number:02}")), hold.until());
            std::thread::spawn(move || node.enter().unwrap().down_later(&until))
        })
        .collect();
    holds.iter().for_each(Hold::entered);
    let limit = Duration::from_secs(3);
    let begun = Instant::now();
    assert!(!scene.host.shutdown(limit));
    let took = begun.elapsed();
    assert!(limit <= took && took < limit * 4, "eight deadlines would be {:?}, it was {took:?}", limit * 8);
    drop(holds);
    // Each ends in the code in which it began; whom it would call has ended with the host.
    for (number, held) in (0..8).zip(held) {
        let outcome = held.join().unwrap();
        assert_eq!(outcome.is_ok(), number == 7, "node{number:02}: {outcome:?}");
    }
    let next = scene.next_host(chain_of_eight);
    for name in free {
        let answer = next.plugin::<dyn Misc>(name).unwrap().enter().unwrap().call("0");
        assert_eq!(answer.unwrap(), "1 by 1", "{name}");
    }
}

/// Asks for reloads when it is told of one.
struct Eager {
    host: Arc<OnceLock<Weak<Host>>>,
    answers: Mutex<Sender<[Result<Outcome, ReloadError>; 2]>>,
}

impl Observer for Eager {
    fn after_reload(&self, change: &Change) {
        if change.plugin == "echo" && change.to == 2 {
            let host = self.host.get().and_then(Weak::upgrade).expect("it is running");
            let answers = ["echo", "counter"].map(|plugin| host.reload(plugin));
            self.answers.lock().unwrap().send(answers).unwrap();
        }
    }
}

#[test]
fn whoever_asks_for_reloads_in_the_middle_of_one_finds_that_plugin_busy_and_others_not() {
    let (answers, answered) = channel();
    let host = Arc::<OnceLock<Weak<Host>>>::default();
    let eager = Eager { host: host.clone(), answers: Mutex::new(answers) };
    let scene = Scene::with_options(&["echo_v1", "counter_v1"], |options| {
        options.observers = Observers::none().and(eager);
    });
    host.set(Arc::downgrade(&scene.host)).unwrap();
    let outcome = scene.host.reload("echo").unwrap();
    assert_eq!(outcome, Outcome::Reloaded { plugin: "echo".into(), from: 1, generation: 2 });
    let [own, other] = answered.recv_timeout(DEADLINE).unwrap();
    assert!(matches!(own, Err(ReloadError::Busy { .. })), "{own:?}");
    assert_eq!(other.unwrap(), Outcome::Reloaded { plugin: "counter".into(), from: 1, generation: 2 });
    // And when that is over, it is not.
    scene.eventually(|scene| scene.status("echo").busy.is_none());
    assert_eq!(scene.generation("echo"), Some(2));
    scene.host.reload("echo").unwrap();
    assert_eq!(scene.generation("echo"), Some(3));
}
