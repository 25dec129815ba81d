use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use reseat::Handle;
use reseat_tests::counter::Counter;
use reseat_tests::echo::Echo;
use reseat_tests::misc::{Blocker, Feeder};

use crate::callers::Callers;
use crate::scene::{Build, Scene};
use crate::waiting::slowly;

const PUBLISHES: u32 = 1_000;
/// How often a caller's turn enters a plugin and calls a method of it: twice `echo`, once `counter`, twice
/// `blocker`, and `callback` with two calls from inside.
const CALLS_OF_A_TURN: u64 = 8;

/// What one caller knows of the four plugins: the last generation of each.
struct Caller {
    echo: Handle<dyn Echo>,
    counter: Handle<dyn Counter>,
    blocker: Handle<dyn Blocker>,
    feeder: Handle<dyn Feeder>,
    generations: [u64; 4],
    total: u64,
}

impl Caller {
    fn new(scene: &Scene) -> Caller {
        Caller {
            echo: scene.handle("echo"),
            counter: scene.handle("counter"),
            blocker: scene.handle("blocker"),
            feeder: scene.handle("callback"),
            generations: [0; 4],
            total: 0,
        }
    }

    /// Generations never go backwards.
    fn forward(&mut self, plugin: usize, generation: u64) -> Result<(), String> {
        let last = std::mem::replace(&mut self.generations[plugin], generation);
        if generation < last {
            Err(format!("plugin {plugin}: {last}, and then {generation}"))
        } else {
            Ok(())
        }
    }

    fn turn(&mut self) -> Result<(), String> {
        self.ask().map_err(|e| e.to_string())?
    }

    fn ask(&mut self) -> Result<Result<(), String>, reseat::CallError> {
        let guard = self.echo.enter()?;
        let (generation, said, build) = (guard.generation(), guard.say("hi")?, guard.build()?);
        drop(guard);
        if said != format!("v{build} made by v{build}: hi") {
            return Ok(Err(format!("an answer from two builds: {said} of build {build}")));
        }
        let guard = self.counter.enter()?;
        let (counters, total) = (guard.generation(), guard.add(1)?);
        drop(guard);
        let guard = self.blocker.enter()?;
        let (blockers, first, again) = (guard.generation(), guard.build()?, guard.build()?);
        drop(guard);
        let guard = self.feeder.enter()?;
        let mut inner = Vec::new();
        let fed = guard.feed(2, &mut |_| inner.push(self.feeder.enter().and_then(|guard| guard.build())))?;
        let feeders = guard.generation();
        drop(guard);
        if first != again || inner.iter().any(|build| build.as_ref() != Ok(&fed)) || total <= self.total {
            return Ok(Err(format!("{first}, {again}; {fed}, {inner:?}; {}, {total}", self.total)));
        }
        self.total = total;
        let all = [generation, counters, blockers, feeders];
        Ok(all.into_iter().enumerate().try_for_each(|(plugin, generation)| self.forward(plugin, generation)))
    }
}

#[test]
fn eight_threads_on_four_plugins_get_a_million_right_answers_across_a_thousand_publishes() {
    let fixtures = ["echo_stamped", "counter_stamped", "blocker", "callback"];
    let scene = Scene::with(&fixtures);
    // Somebody who has called all of them, and now waits for something else.
    let (parked, wake) = (Caller::new(&scene), std::sync::Arc::new(std::sync::Barrier::new(2)));
    let parked = std::thread::spawn({
        let (mut parked, wake) = (parked, wake.clone());
        move || {
            parked.turn().unwrap();
            wake.wait();
            wake.wait();
        }
    });
    wake.wait();
    let callers = Callers::start(8, |_| {
        let mut caller = Caller::new(&scene);
        move || caller.turn()
    });
    let mut waiting: Vec<crate::scene::Expecting> = Vec::new();
    for number in 0..PUBLISHES {
        let fixture = fixtures[number as usize % fixtures.len()];
        // Each plugin's builds one after the other, the plugins all at once.
        if waiting.len() == fixtures.len() {
            for expecting in waiting.drain(..) {
                expecting.published();
            }
        }
        waiting.push(scene.install(Build::of(fixture).stamped(2 + number)));
    }
    for expecting in waiting {
        expecting.published();
    }
    let short = (1_000_000 / CALLS_OF_A_TURN).saturating_sub(callers.calls());
    callers.go_on(&scene, short.max(100));
    let turns = callers.finish();
    assert!(turns * CALLS_OF_A_TURN >= 1_000_000);
    assert_eq!(scene.handle::<dyn Counter>("counter").enter().unwrap().get().unwrap(), turns + 1);
    for plugin in ["echo", "counter", "blocker", "callback"] {
        assert_eq!(scene.generation(plugin), Some(1 + u64::from(PUBLISHES) / 4));
    }
    assert_eq!(scene.refusals(), [""; 0]);
    // The parked thread holds nothing.
    scene.settled();
    wake.wait();
    parked.join().unwrap();
}

#[test]
fn eight_threads_count_across_a_thousand_reloads_and_the_sum_is_exact() {
    let scene = Scene::with(&["counter_v2"]);
    let counter = scene.handle::<dyn Counter>("counter");
    let done = AtomicBool::new(false);
    let counted: u64 = std::thread::scope(|scope| {
        let count = || {
            let mut counted = 0;
            while !done.load(Ordering::Relaxed) {
                counter.enter().unwrap().add(1).unwrap();
                counted += 1;
                // Two processors are to be had by the reloads, too.
                slowly(Duration::from_millis(1));
            }
            counted
        };
        let threads: Vec<_> = (0..8).map(|_| scope.spawn(count)).collect();
        for _ in 0..PUBLISHES {
            scene.host.reload("counter").unwrap();
        }
        done.store(true, Ordering::Relaxed);
        threads.into_iter().map(|thread| thread.join().unwrap()).sum()
    });
    assert_eq!(counter.enter().unwrap().get().unwrap(), counted);
    assert_eq!(scene.generation("counter"), Some(u64::from(PUBLISHES) + 1));
    scene.settled();
}
