use std::path::Path;

use reseat::{Handle, Options, Probation, Probe, Step};
use reseat_tests::misc::Misc;

use crate::callers::Callers;
use crate::child::in_child;
use crate::process::mapped;
use crate::program;
use crate::scene::{Build, Scene, Verdict};
use crate::waiting::DEADLINE;

type Cells = Handle<dyn Misc>;

/// The fixture, as build number `number`, and a plugin `cells` with so many hits.
fn scene(fixture: &str, hits: u64, change: impl FnOnce(&mut Options)) -> (Scene, Cells) {
    let scene = Scene::with_options(&[], change);
    scene.install(fixture).published();
    let cells = scene.handle::<dyn Misc>("cells");
    for number in 0..hits {
        cells.enter().unwrap().call(&number.to_string()).unwrap();
    }
    assert_eq!(sum(&cells), hits);
    (scene, cells)
}

fn build(number: u32) -> Build {
    Build::of("region_cells").stamped(number)
}

fn sum(cells: &Cells) -> u64 {
    cells.enter().unwrap().call("sum").unwrap().parse().unwrap()
}

/// Which build answers; costs a hit.
fn answers(cells: &Cells) -> String {
    cells.enter().unwrap().call("0").unwrap()
}

fn probed(options: &mut Options) {
    options.probe = Some(Probe::with(program::path(), ["probe"]));
}

/// How often the region of this name is mapped here.
fn mappings(name: &str) -> usize {
    mapped(Path::new(&format!("/memfd:reseat-{name}"))).len()
}

/// Waits until a generation is gone; this thread has called it, and comes by.
#[track_caller]
fn gone(scene: &Scene, plugin: &str, generation: u64) {
    scene.eventually(|s| {
        reseat::quiesce();
        s.verdict_of(plugin, generation) == Some(Verdict::Unloaded)
    });
}

/// A hundred builds, while four threads count: nothing is lost, and nothing is counted twice.
fn survives_a_hundred_reloads(fixture: &str) {
    let (scene, cells) = scene(fixture, 0, |_| {});
    let callers = Callers::start(4, |thread| {
        let (cells, mut number) = (cells.clone(), thread);
        move || {
            number += 7;
            let guard = cells.enter().map_err(|error| error.to_string())?;
            guard.call(&number.to_string()).map(drop).map_err(|error| error.to_string())
        }
    });
    for number in 2..=101 {
        scene.install(Build::of(fixture).stamped(number)).published();
        callers.go_on(&scene, 4);
    }
    let hits = callers.finish();
    assert!(hits >= 400);
    assert_eq!(sum(&cells), hits);
    assert_eq!(answers(&cells), "101");
    assert_eq!(scene.refusals(), [""; 0]);
}

#[test]
fn what_four_threads_count_in_a_region_survives_a_hundred_reloads_to_the_last_hit() {
    survives_a_hundred_reloads("region_cells");
}

#[test]
fn so_it_does_where_old_and_new_build_count_at_once() {
    survives_a_hundred_reloads("region_stateless");
}

#[test]
fn a_build_with_another_layout_gets_what_was_there_and_converts_it() {
    for change in [|_: &mut Options| {}, probed] {
        let (scene, cells) = scene("region_cells", 700, change);
        assert_eq!(scene.install("region_converts").published(), 2);
        assert_eq!(cells.enter().unwrap().call("found").unwrap(), "32768 bytes, 700 of 700");
        assert_eq!(sum(&cells), 700);
        // Its own region is the plugin's from now on.
        scene.host.reload("cells").unwrap();
        assert_eq!(cells.enter().unwrap().call("found").unwrap(), "nothing");
        assert_eq!(sum(&cells), 700);
    }
}

#[test]
fn a_build_that_is_refused_has_changed_nothing_of_the_region_not_even_in_its_destructor() {
    let (scene, cells) = scene("region_cells", 50, |_| {});
    for serving in 1..=3 {
        scene.install("region_refused").refused().at(Step::Check, &["two and two are five"]);
        assert_eq!(scene.generation("cells"), Some(serving * 2 - 1));
        scene.settled();
        assert_eq!(sum(&cells), 50);
        // It finds in the region what was saved, or would say so.
        assert_eq!(scene.install(build(serving as u32 + 1)).published(), serving * 2 + 1);
    }
}

#[test]
fn a_build_that_writes_before_it_serves_is_refused_with_the_region_s_name() {
    let words = ["it wrote to region `cells` before it served", "what it wrote would be lost"];
    let (scene, cells) = scene("region_cells", 50, |_| {});
    let refused = scene.install("region_writes_early").refused().at(Step::Check, &words);
    assert_eq!(refused.serving, Some(1));
    scene.settled();
    assert_eq!((sum(&cells), answers(&cells)), (50, "1".into()));
    scene.install(build(2)).published();
    assert_eq!((sum(&cells), answers(&cells)), (51, "2".into()));
}

#[test]
fn a_build_that_writes_before_it_serves_is_seen_to_in_the_helper() {
    let words = ["in a helper process, it wrote to region `cells` before it served"];
    let (scene, cells) = scene("region_cells", 50, probed);
    scene.install("region_writes_early").refused().at(Step::Probe, &words);
    assert_eq!((sum(&cells), answers(&cells)), (50, "1".into()));
    // It may be right in another build of the region.
    assert_eq!(scene.host.denied().len(), 0);
    // What passes finds there what the host has.
    scene.install(build(2)).published();
    assert_eq!((sum(&cells), answers(&cells)), (51, "2".into()));
}

#[test]
fn what_a_build_writes_to_a_region_that_it_makes_is_nobody_else_s() {
    let scene = Scene::with_options(&[], probed);
    scene.install("region_writes_early").published();
    let cells = scene.handle::<dyn Misc>("cells");
    assert_eq!(sum(&cells), 1);
    // The next one takes it over.
    scene.host.reload("cells").unwrap_err();
    assert_eq!(sum(&cells), 1);
}

#[test]
fn a_thread_of_a_build_writes_when_it_serves() {
    let (scene, cells) = scene("region_stateless", 5, |_| {});
    for hits in 6..16 {
        scene.install(Build::of("region_thread").stamped(hits)).published();
        scene.eventually(|_| sum(&cells) == u64::from(hits));
    }
}

#[test]
fn a_region_is_mapped_by_those_who_have_it_and_gone_when_the_plugin_is_unloaded() {
    in_child("regions::a_region_is_mapped_by_those_who_have_it_and_gone_when_the_plugin_is_unloaded", || {
        let (scene, cells) = scene("region_stateless", 5, |_| {});
        assert_eq!(mappings("cells-cells"), 1);
        let guard = cells.enter().unwrap();
        scene.install(Build::of("region_stateless").stamped(2)).published();
        // The call in flight has its own view, at its own address.
        assert_eq!(mappings("cells-cells"), 2);
        guard.call("0").unwrap();
        drop(guard);
        gone(&scene, "cells", 1);
        assert_eq!((mappings("cells-cells"), sum(&cells)), (1, 6));
        // What is refused leaves nothing, and what has another layout replaces it.
        scene.install("region_refused").refused();
        scene.eventually(|_| mappings("cells-cells") == 1);
        scene.install("region_converts").published();
        gone(&scene, "cells", 2);
        assert_eq!((mappings("cells-cells"), sum(&cells)), (1, 6));
        let files = || std::fs::read_dir("/proc/self/fd").unwrap();
        let open = || files().flatten().filter_map(|fd| std::fs::read_link(fd.path()).ok());
        let held = || open().filter(|file| file.to_string_lossy().contains("memfd:reseat-cells-")).count();
        assert_eq!(held(), 1);
        let serving = scene.generation("cells").unwrap();
        scene.host.unload("cells").unwrap();
        gone(&scene, "cells", serving);
        assert_eq!((mappings("cells-cells"), held()), (0, 0));
        // Nothing is left of it for whoever comes next.
        scene.install(build(3)).published();
        assert_eq!(sum(&cells), 0);
        assert!(scene.host.shutdown(DEADLINE));
        assert_eq!((mappings("cells-cells"), held()), (0, 0));
    });
}

#[test]
fn a_build_that_is_gone_back_to_has_the_region_again() {
    let (scene, cells) = scene("region_cells", 50, |options| options.probation = Some(Probation::default()));
    scene.install(build(2)).published();
    assert_eq!(answers(&cells), "2");
    scene.host.roll_back("cells").unwrap();
    // It counts on where the other has stopped.
    assert_eq!((sum(&cells), answers(&cells), sum(&cells)), (51, "1".into(), 52));
}

#[test]
fn what_cannot_be_had_is_said_in_a_sentence() {
    let scene = Scene::with(&["region_any"]);
    let misc = scene.handle::<dyn Misc>("region_any");
    let ask = |what: &str| misc.enter().unwrap().call(what).map_err(|error| error.to_string());
    assert_eq!(ask("bytes 10").unwrap(), "new, 0 before, 0");
    assert_eq!(ask("bytes 10").unwrap(), "known, 0 before, 1");
    let refused = |what: &str, words: &str| {
        let error = ask(what).unwrap_err();
        assert!(error.contains(words), "{error}");
    };
    let mine =
        "this build has region `bytes` already, with 10 elements of 1 bytes; asked for were 11 of 1 bytes";
    refused("bytes 11", mine);
    refused("empty 0", "region `empty` would be empty");
    refused(" 7", "a region's name has 1 to 64 bytes and no control characters, this one is \"\"");
    refused(&format!("{} 7", "n".repeat(65)), "a region's name has 1 to 64 bytes");
    refused("a\0b 7", "no control characters");
    refused(&format!("words {}", usize::MAX), "elements of 8 bytes are more than there can be");
    refused(&format!("huge {}", isize::MAX as u64 / 2), "bytes cannot be had: ");
    // One is there already.
    for number in 1..64 {
        ask(&format!("{} {number}", "ü".repeat(31).replacen('ü', &number.to_string(), 1))).unwrap();
    }
    refused("one 1", "region `one` cannot be made: the plugin has 64 others");
    // They are there for the next build, which can put others in their places.
    scene.host.reload("region_any").unwrap();
    refused("one 1", "the plugin has 64 others");
    assert_eq!(ask("bytes 4096").unwrap(), "new, 10 before, 0");
    assert_eq!(ask("bytes 4096").unwrap(), "known, 0 before, 1");
    scene.host.reload("region_any").unwrap();
    assert_eq!(ask("bytes 4096").unwrap(), "known, 0 before, 2");
}

#[test]
fn an_old_build_that_asks_for_a_region_late_leaves_the_new_one_s_alone() {
    let scene = Scene::with(&["region_any"]);
    let misc = scene.handle::<dyn Misc>("region_any");
    let old = misc.enter().unwrap();
    scene.host.reload("region_any").unwrap();
    let ask = |what: &str| {
        std::thread::scope(|scope| scope.spawn(|| misc.enter().unwrap().call(what).unwrap()).join().unwrap())
    };
    assert_eq!(ask("words 4"), "new, 0 before, 0");
    // The same memory, late; and another of the same name, for nobody else.
    assert_eq!(old.call("words 4").unwrap(), "known, 0 before, 1");
    assert_eq!(ask("words 4"), "known, 0 before, 2");
    assert_eq!(ask("bytes 4"), "new, 0 before, 0");
    assert_eq!(old.call("bytes 5").unwrap(), "new, 4 before, 0");
    drop(old);
    scene.host.reload("region_any").unwrap();
    assert_eq!(ask("bytes 4"), "known, 0 before, 1");
}
