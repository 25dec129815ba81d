use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::time::{Duration, Instant};

use reseat::{Batches, CallError, Event, Handle, Options, Outcome, PluginOptions, ReloadMode};
use reseat_tests::counter::Counter;
use reseat_tests::echo::Echo;

use crate::scene::{Build, Scene};
use crate::waiting::{DEADLINE, slowly};

/// A host whose plugins are reloaded on demand, and batches of one of them.
fn scene(fixture: &str, plugin: &str, change: impl FnOnce(&mut Options)) -> (Scene, Batches) {
    let scene = Scene::with_options(&[fixture], |options| {
        options.mode = ReloadMode::OnDemand;
        change(options);
    });
    let batches = scene.host.batches([plugin]);
    (scene, batches)
}

/// Puts a build there, and waits until the host says that it waits.
#[track_caller]
fn waits(scene: &Scene, build: impl Into<Build>) {
    let waiting =
        |scene: &Scene| scene.events().iter().filter(|event| matches!(event, Event::Waiting { .. })).count();
    let before = waiting(scene);
    drop(scene.install(build));
    scene.eventually(|scene| waiting(scene) > before);
}

fn echo(number: u32) -> Build {
    Build::of("echo_stamped").stamped(number)
}

fn troubles(scene: &Scene) -> Vec<String> {
    let all = scene.events().into_iter();
    all.filter(|event| matches!(event, Event::Trouble { .. })).map(|event| event.to_string()).collect()
}

/// What was called between batches, by generation.
fn noted(batches: &Batches) -> Arc<Mutex<Vec<u64>>> {
    let noted = Arc::<Mutex<Vec<u64>>>::default();
    let note = noted.clone();
    batches.between(move |reloads| {
        note.lock().unwrap().extend(reloads.iter().map(|reload| match reload {
            Outcome::Reloaded { generation, .. } => *generation,
            other => panic!("{other}"),
        }));
    });
    noted
}

/// The build that a batch is in.
fn build(batches: &Batches, echo: &Handle<dyn Echo>) -> u32 {
    batches.run(|scope| scope.enter(echo).unwrap().build().unwrap())
}

#[test]
fn reloads_come_once_between_the_batches_of_all_consumers_and_nothing_is_lost() {
    const RELOADS: u64 = 20;
    let (scene, batches) = scene("counter_stamped", "counter", |_| {});
    let counter = scene.handle::<dyn Counter>("counter");
    let noted = noted(&batches);
    // As a cache would be that the callback has to clear.
    let cached = Arc::new(AtomicU64::new(1));
    let under_way = Arc::new(AtomicUsize::new(0));
    batches.between({
        let (cached, under_way, counter) = (cached.clone(), under_way.clone(), counter.clone());
        move |_| {
            assert_eq!(under_way.load(Ordering::SeqCst), 0);
            cached.store(counter.enter().unwrap().generation(), Ordering::SeqCst);
        }
    });
    let (done, seen) = (AtomicBool::new(false), AtomicU64::new(1));
    let batch = |pause| {
        batches.run(|scope| {
            under_way.fetch_add(1, Ordering::SeqCst);
            // From its begin on, also before it has called anything.
            let generation = cached.load(Ordering::SeqCst);
            slowly(pause);
            let first = scope.enter(&counter).unwrap();
            assert_eq!(first.generation(), generation);
            for _ in 0..5 {
                first.add(1).unwrap();
                std::thread::yield_now();
                let again = scope.enter(&counter).unwrap();
                assert_eq!((again.generation(), u64::from(again.build().unwrap())), (generation, generation));
            }
            assert_eq!(cached.load(Ordering::SeqCst), generation);
            seen.fetch_max(generation, Ordering::SeqCst);
            under_way.fetch_sub(1, Ordering::SeqCst);
        });
        5
    };
    let calls: u64 = std::thread::scope(|threads| {
        let (consume, done) = (&batch, &done);
        // One of them is slower than a reload.
        let pauses = [100, 2, 1, 0].map(Duration::from_millis);
        let consumers = pauses.map(|pause| {
            threads.spawn(move || {
                let mut calls = 0;
                while !done.load(Ordering::Relaxed) {
                    calls += consume(pause);
                }
                calls
            })
        });
        for number in 2..=RELOADS + 1 {
            let build = Build::of("counter_stamped").stamped(number as u32);
            assert_eq!(scene.install(build).published(), number);
            scene.eventually(|_| seen.load(Ordering::SeqCst) == number);
        }
        done.store(true, Ordering::Relaxed);
        consumers.into_iter().map(|consumer| consumer.join().unwrap()).sum()
    });
    assert_eq!(counter.enter().unwrap().get().unwrap(), calls);
    assert_eq!(*noted.lock().unwrap(), (2..=RELOADS + 1).collect::<Vec<_>>());
    assert_eq!((scene.refusals(), troubles(&scene)), (vec![], vec![]));
}

#[test]
fn a_batch_that_does_not_end_holds_a_reload_up_for_so_long_and_the_others_go_on() {
    let (scene, batches) = scene("echo_stamped", "echo", |_| {});
    let echo_ = scene.handle::<dyn Echo>("echo");
    let noted = noted(&batches);
    batches.set_wait_limit(Duration::from_millis(100));
    let (end, ended) = mpsc::channel::<()>();
    let ended = Mutex::new(ended);
    let (begun, begins) = mpsc::channel();
    std::thread::scope(|threads| {
        // So that it ends if this fails.
        let end = end;
        let long = || {
            batches.run(|scope| {
                let echo = scope.enter(&echo_).unwrap();
                begun.send(()).unwrap();
                ended.lock().unwrap().recv().unwrap();
                echo.build().unwrap()
            })
        };
        let slow = std::thread::Builder::new().name("slow".into());
        let long = slow.spawn_scoped(threads, long);
        let long = long.unwrap();
        begins.recv().unwrap();
        waits(&scene, echo(2));
        let since = Instant::now();
        for _ in 0..100 {
            assert_eq!(build(&batches, &echo_), 1);
        }
        // It was waited for once, not a hundred times.
        assert!(since.elapsed() < Duration::from_secs(9), "{:?}", since.elapsed());
        let [trouble] = &troubles(&scene)[..] else { panic!("{:?}", troubles(&scene)) };
        for words in ["build of echo", "1 batch under way did not end within 100ms", "by thread slow"] {
            assert!(trouble.contains(words), "{trouble}");
        }
        end.send(()).unwrap();
        assert_eq!(long.join().unwrap(), 1);
    });
    assert_eq!((build(&batches, &echo_), noted.lock().unwrap().as_slice()), (2, [2].as_slice()));
    assert_eq!(troubles(&scene).len(), 1);
}

#[test]
fn a_batch_within_a_batch_is_of_the_same_and_reloads_nothing() {
    let (scene, batches) = scene("echo_stamped", "echo", |_| {});
    let echo_ = scene.handle::<dyn Echo>("echo");
    let noted = noted(&batches);
    batches.run(|scope| {
        scope.enter(&echo_).unwrap();
        waits(&scene, echo(2));
        // At once: nothing waits for the limit here.
        assert_eq!(batches.run(|_| batches.clone().run(|_| build(&batches, &echo_))), 1);
        assert!(noted.lock().unwrap().is_empty());
    });
    assert_eq!((build(&batches, &echo_), noted.lock().unwrap().as_slice()), (2, [2].as_slice()));
    assert_eq!(troubles(&scene), Vec::<String>::new());
}

#[test]
fn a_part_of_a_batch_on_another_thread_begins_at_once_and_the_batch_lasts_as_long() {
    let (scene, batches) = scene("echo_stamped", "echo", |_| {});
    let echo_ = scene.handle::<dyn Echo>("echo");
    assert!(batches.part().is_none());
    let part = batches.run(|_| {
        waits(&scene, echo(2));
        let part = batches.part().unwrap();
        let child =
            || part.run(|scope| (scope.enter(&echo_).unwrap().build().unwrap(), build(&batches, &echo_)));
        assert_eq!(std::thread::scope(|threads| threads.spawn(child).join().unwrap()), (1, 1));
        part
    });
    // The batch has not ended yet, so another one waits until it has.
    std::thread::scope(|threads| {
        let next = threads.spawn(|| build(&batches, &echo_));
        scene.eventually(|_| format!("{batches:?}").contains("way: Closing, under_way: 1"));
        assert_eq!((part.run(|_| build(&batches, &echo_)), scene.generation("echo")), (1, Some(1)));
        drop(part);
        assert_eq!(next.join().unwrap(), 2);
    });
    assert_eq!(troubles(&scene), Vec::<String>::new());
}

#[test]
fn a_batch_that_waits_for_one_of_a_thread_that_it_has_started_ends_after_the_limit() {
    let (scene, batches) = scene("echo_stamped", "echo", |_| {});
    let echo_ = scene.handle::<dyn Echo>("echo");
    batches.set_wait_limit(Duration::from_millis(50));
    batches.run(|_| {
        waits(&scene, echo(2));
        let children = || build(&batches, &echo_);
        std::thread::scope(|threads| {
            let children: Vec<_> = (0..3).map(|_| threads.spawn(children)).collect();
            children.into_iter().for_each(|child| assert_eq!(child.join().unwrap(), 1));
        });
    });
    assert_eq!(troubles(&scene).len(), 1, "{:?}", troubles(&scene));
    assert_eq!(build(&batches, &echo_), 2);
}

#[test]
fn a_batch_that_panics_has_ended() {
    let (scene, batches) = scene("echo_stamped", "echo", |_| {});
    let echo_ = scene.handle::<dyn Echo>("echo");
    let fails = || {
        batches.run(|scope| -> () {
            scope.enter(&echo_).unwrap();
            waits(&scene, echo(2));
            panic!("the batch has a mistake")
        })
    };
    catch_unwind(AssertUnwindSafe(fails)).unwrap_err();
    let elsewhere = || (build(&batches, &echo_), batches.part().is_none());
    assert_eq!(std::thread::scope(|threads| threads.spawn(elsewhere).join().unwrap()), (2, true));
    assert_eq!((elsewhere(), troubles(&scene)), ((2, true), vec![]));
}

#[test]
fn what_is_called_between_batches_may_call_plugins_begin_batches_and_panic() {
    let (scene, batches) = scene("echo_stamped", "echo", |_| {});
    let echo_ = scene.handle::<dyn Echo>("echo");
    let seen = Arc::<Mutex<Vec<u32>>>::default();
    batches.between({
        let (batches, echo, seen) = (batches.clone(), echo_.clone(), seen.clone());
        move |_| {
            seen.lock().unwrap().push(echo.enter().unwrap().build().unwrap());
            seen.lock().unwrap().push(build(&batches, &echo));
            let part = batches.part().unwrap();
            let child = || part.run(|scope| scope.enter(&echo).unwrap().build().unwrap());
            let child = std::thread::scope(|threads| threads.spawn(child).join().unwrap());
            seen.lock().unwrap().push(child);
            panic!("the callback has a mistake");
        }
    });
    let noted = noted(&batches);
    for number in 2..4 {
        waits(&scene, echo(number));
        assert_eq!(build(&batches, &echo_), number);
    }
    assert_eq!(*seen.lock().unwrap(), [2, 2, 2, 3, 3, 3]);
    assert_eq!(*noted.lock().unwrap(), [2, 3], "the next is called all the same");
    let told = troubles(&scene);
    assert!(told.len() == 2 && told[0].contains("panicked: the callback has a mistake"), "{told:?}");
}

#[test]
fn what_is_called_between_batches_and_lasts_is_told_and_no_batch_comes_before_its_end() {
    let (scene, batches) = scene("echo_stamped", "echo", |_| {});
    let echo_ = scene.handle::<dyn Echo>("echo");
    batches.set_wait_limit(Duration::from_millis(20));
    let (end, ended) = mpsc::channel::<()>();
    let (ended, is_over) = (Mutex::new(ended), Arc::new(AtomicBool::new(false)));
    batches.between({
        let is_over = is_over.clone();
        move |_| {
            ended.lock().unwrap().recv().unwrap();
            is_over.store(true, Ordering::SeqCst);
        }
    });
    waits(&scene, echo(2));
    std::thread::scope(|threads| {
        let end = end;
        let batch = || (build(&batches, &echo_), is_over.load(Ordering::SeqCst));
        let both = [threads.spawn(batch), threads.spawn(batch)];
        scene.eventually(|scene| troubles(scene).len() == 1);
        assert!(both.iter().all(|one| !one.is_finished()));
        end.send(()).unwrap();
        both.into_iter().for_each(|one| assert_eq!(one.join().unwrap(), (2, true)));
    });
    let [told] = &troubles(&scene)[..] else { panic!("{:?}", troubles(&scene)) };
    assert!(told.contains("a batch has waited for 20ms because echo"), "{told}");
}

/// How long the calling thread has used the processor.
fn worked() -> Duration {
    let used = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    Duration::from_nanos(used.split(' ').next().unwrap().parse().unwrap())
}

#[test]
fn batches_that_wait_beyond_a_limit_that_was_shortened_rest_meanwhile_and_tell_of_the_gap_that_lasts() {
    const WAITING: usize = 8;
    let (scene, batches) = scene("echo_stamped", "echo", |_| {});
    let echo_ = scene.handle::<dyn Echo>("echo");
    let (end, ended) = mpsc::channel::<()>();
    let ended = Mutex::new(ended);
    batches.between(move |_| ended.lock().unwrap().recv().unwrap());
    let part = batches.run(|_| {
        waits(&scene, echo(2));
        batches.part().unwrap()
    });
    std::thread::scope(|threads| {
        // So that they end if this fails.
        let (end, part) = (end, part);
        let closes = threads.spawn(|| build(&batches, &echo_));
        scene.eventually(|_| format!("{batches:?}").contains("way: Closing"));
        batches.set_wait_limit(Duration::from_millis(20));
        let wait = || {
            let before = worked();
            (build(&batches, &echo_), worked() - before)
        };
        let waiting: Vec<_> = (0..WAITING).map(|_| threads.spawn(wait)).collect();
        slowly(Duration::from_millis(500));
        assert!(format!("{batches:?}").contains("way: Closing"));
        drop(part);
        scene.eventually(|scene| troubles(scene).len() == WAITING);
        end.send(()).unwrap();
        let done = waiting.into_iter().map(|one| one.join().unwrap());
        let (builds, worked): (Vec<_>, Vec<_>) = done.unzip();
        assert_eq!((closes.join().unwrap(), builds), (2, vec![2; WAITING]));
        assert!(worked.iter().sum::<Duration>() < Duration::from_millis(100), "{worked:?}");
    });
    assert!(troubles(&scene).iter().all(|told| told.contains("has waited for 20ms because echo")));
}

#[test]
fn a_build_that_is_refused_in_a_gap_is_told_once_and_not_tried_again() {
    let (scene, batches) = scene("counter_v2", "counter", |_| {});
    let counter = scene.handle::<dyn Counter>("counter");
    let noted = noted(&batches);
    let bad = Build::of("errors_in_restore");
    assert_eq!(bad.file_name(), Build::of("counter_v2").file_name());
    waits(&scene, bad);
    let batch = || batches.run(|scope| scope.enter(&counter).unwrap().add(1).unwrap());
    (1..=50).for_each(|count| assert_eq!(batch(), count));
    let [refused] = &scene.refusals()[..] else { panic!("{:?}", scene.refusals()) };
    assert!(refused.contains("is refused at restore"), "{refused}");
    assert!(noted.lock().unwrap().is_empty());
    // The next one is another build.
    waits(&scene, Build::of("counter_stamped").stamped(7));
    assert_eq!(batch(), 51);
    assert_eq!((counter.enter().unwrap().build().unwrap(), scene.refusals().len()), (7, 1));
    assert_eq!(noted.lock().unwrap().len(), 1);
}

#[test]
fn a_plugin_that_is_in_use_outside_of_batches_is_reloaded_in_a_later_gap_and_told_of_once() {
    let (scene, batches) = scene("counter_v1", "counter", |options| {
        options.drain_deadline = Duration::from_millis(20);
    });
    let counter = scene.handle::<dyn Counter>("counter");
    let held = counter.lease().unwrap();
    waits(&scene, "counter_v2");
    let batch = || batches.run(|scope| scope.enter(&counter).unwrap().build().unwrap());
    // It is tried again after a while, and refused for the same.
    let tried = Instant::now();
    scene.eventually(|_| {
        assert_eq!(batch(), 1);
        tried.elapsed() > Duration::from_millis(700)
    });
    let [refused] = &scene.refusals()[..] else { panic!("{:?}", scene.refusals()) };
    assert!(refused.contains("it is still in use"), "{refused}");
    drop(held);
    scene.eventually(|_| batch() == 2);
}

#[test]
fn a_consumer_that_is_inside_of_the_plugin_itself_is_told_so_and_goes_on() {
    let (scene, batches) = scene("counter_v1", "counter", |_| {});
    let counter = scene.handle::<dyn Counter>("counter");
    let batch = || batches.run(|scope| scope.enter(&counter).unwrap().build().unwrap());
    let guard = counter.enter().unwrap();
    waits(&scene, "counter_v2");
    (0..50).for_each(|_| assert_eq!(batch(), 1));
    let [refused] = &scene.refusals()[..] else { panic!("{:?}", scene.refusals()) };
    assert!(refused.contains("this thread is inside of a call to the plugin"), "{refused}");
    drop(guard);
    scene.eventually(|_| batch() == 2);
}

#[test]
fn of_plugins_in_other_modes_each_batch_sees_one_generation_and_nobody_is_called() {
    let (scene, batches) = scene("echo_stamped", "echo", |options| {
        let own = PluginOptions { mode: Some(ReloadMode::Auto), ..PluginOptions::default() };
        options.plugins.insert("echo".into(), own);
    });
    let echo_ = scene.handle::<dyn Echo>("echo");
    let noted = noted(&batches);
    let seen = batches.run(|scope| {
        let first = scope.enter(&echo_).unwrap().build().unwrap();
        scene.install(echo(2)).published();
        [first, scope.enter(&echo_).unwrap().build().unwrap()]
    });
    assert_eq!((seen, build(&batches, &echo_)), ([1, 1], 2));
    // Nor when somebody else reloads what is reloaded on demand.
    scene.host.reconfigure(Options { plugins: [].into(), ..scene.host.options() });
    waits(&scene, echo(3));
    scene.host.reload("echo").unwrap();
    assert_eq!((build(&batches, &echo_), noted.lock().unwrap().len()), (3, 0));
}

#[test]
fn several_plugins_are_reloaded_in_one_gap() {
    let scene = Scene::with_options(&["echo_stamped", "counter_v1"], |options| {
        options.mode = ReloadMode::OnDemand;
    });
    let batches = scene.host.batches(["counter", "echo", "nobody"]);
    let gaps = Arc::<Mutex<Vec<usize>>>::default();
    batches.between({
        let gaps = gaps.clone();
        move |reloads| gaps.lock().unwrap().push(reloads.len())
    });
    waits(&scene, echo(2));
    waits(&scene, "counter_v2");
    batches.run(|_| assert_eq!((scene.generation("echo"), scene.generation("counter")), (Some(2), Some(2))));
    assert_eq!(*gaps.lock().unwrap(), [2]);
}

#[test]
fn batches_go_on_when_their_host_has_ended_and_nothing_is_reloaded() {
    let (scene, batches) = scene("echo_stamped", "echo", |_| {});
    let echo_ = scene.handle::<dyn Echo>("echo");
    waits(&scene, echo(2));
    assert!(scene.host.shutdown(DEADLINE));
    assert!(matches!(batches.run(|scope| scope.enter(&echo_).err()), Some(CallError::Closed)));
    drop(scene);
    assert!(matches!(batches.run(|scope| scope.enter(&echo_).err()), Some(CallError::Closed)));
}
