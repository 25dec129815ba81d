use std::fs::{self, File, OpenOptions, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use object::elf::EM_AARCH64;
use reseat::{Handle, Host, Options, Step, inspect};
use reseat_tests::echo::Echo;

use crate::callers::Callers;
use crate::child::in_child_with;
use crate::library::{find, manifest_range};
use crate::scene::{Build, Refused, Scene};

const FILE: &str = "libecho.so";

fn echo_v2() -> Build {
    Build::of("echo_v2")
}

fn wrong_machine() -> Build {
    echo_v2().changed(|bytes| bytes[18..20].copy_from_slice(&EM_AARCH64.0.to_le_bytes()))
}

fn without_note() -> Build {
    echo_v2().changed(|bytes| {
        let (start, _) = manifest_range(bytes).unwrap();
        bytes[start - 3] = b'X';
        assert_eq!(&bytes[start - 8..start - 1], b"RESEAX\0");
    })
}

fn c_library(scene: &Scene) -> Build {
    let (source, library) = (scene.path("greet.c"), scene.path("greet.so"));
    fs::write(&source, "int greeted; __attribute__((constructor)) void greet(void) { greeted = 1; }")
        .unwrap();
    let cc = Command::new("cc").args(["-shared", "-fPIC", "-o"]).args([&library, &source]).status();
    assert!(cc.expect("a C compiler is there, since Rust links with it").success());
    Build::raw("greet", fs::read(library).unwrap())
}

/// With another name for something that the library needs.
fn renamed(from: &str, to: &str) -> Build {
    assert_eq!(from.len(), to.len());
    echo_v2().changed(|bytes| {
        let at = find(bytes, format!("\0{from}\0").as_bytes())[0] + 1;
        bytes[at..at + to.len()].copy_from_slice(to.as_bytes());
    })
}

/// Calls `echo` without pause; every answer must be one of build 1.
fn calling(echo: &Handle<dyn Echo>) -> Callers {
    Callers::start(1, |_| {
        let echo = echo.clone();
        move || match echo.enter().map_err(|e| e.to_string())?.say("hi") {
            Ok(said) if said == "v1: hi" => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
}

/// Puts a build in the place of one that serves, and sees to it that it keeps serving.
#[track_caller]
fn refused_while_serving(scene: &Scene, build: Build) -> Refused {
    let refused = scene.install(build.in_slot("echo")).refused();
    let callers = calling(&scene.handle("echo"));
    callers.go_on(scene, 10);
    callers.finish();
    assert_eq!(scene.generation("echo"), Some(1));
    refused
}

#[test]
fn a_build_that_does_not_fit_is_refused_by_its_bytes_and_the_old_generation_serves() {
    let scene = Scene::with(&["echo_v1"]);
    let _echo = scene.handle::<dyn Echo>("echo");
    let foreign_target = echo_v2().with_manifest("target x86_64-unknown", "target riscv64-other");
    let kinds = [
        (
            echo_v2().with_manifest("boundary 1\n", "boundary 9\n"),
            "is built for boundary 9, this host speaks 1",
        ),
        (echo_v2().with_manifest("panic unwind\n", "panic abort\n"), "is built with panic=abort"),
        (wrong_machine(), "is built for aarch64, this machine is x86_64"),
        (foreign_target, "is built for target riscv64"),
        (echo_v2().with_manifest("reseat-manifest 1", "reseat-manifest 7"), "unusable manifest"),
        (echo_v2().with_manifest("boundary 1", "boundary ?"), "unusable manifest"),
        (without_note(), "has no reseat manifest"),
        (Build::of("not_a_plugin"), "has no reseat manifest"),
        (c_library(&scene), "has no reseat manifest"),
        (Build::raw("echo", "just a text"), "is not a shared library: it begins with 6a 75 73 74"),
        (Build::raw("echo", vec![0x5a; 100_000]), "is not a shared library"),
        (renamed("libgcc_s.so.1", "libgcc_x.so.1"), "needs libgcc_x.so.1, which was not found in"),
        (Build::of("echo_changed_signature"), "method `say` differs"),
        (Build::of("echo_changed_layout"), "method `measure` differs"),
    ];
    for (build, words) in kinds {
        refused_while_serving(&scene, build).at(Step::Vet, &[words]);
    }
    assert_eq!(scene.install("echo_v2").published(), 2);
}

#[test]
fn a_library_that_is_not_what_its_bytes_promised_is_refused_when_it_is_opened() {
    let scene = Scene::with(&["echo_v1"]);
    let _echo = scene.handle::<dyn Echo>("echo");
    let kinds = [
        (echo_v2().with_descriptor(0, |byte| *byte = b'X'), "is not a descriptor", "rebuild the plugin"),
        (echo_v2().with_descriptor(16, |byte| *byte = 9), "speaks boundary 9, this host speaks 1", "rebuild"),
        (echo_v2().with_descriptor(20, |byte| *byte = 8), "descriptor has 8 bytes", "rebuild the plugin"),
        (
            echo_v2().with_descriptor(24, |byte| *byte ^= 1),
            "belongs to another manifest",
            "rebuild the plugin",
        ),
        (renamed("dlsym", "dlsyx"), "the loader refuses it", "undefined symbol: dlsyx"),
    ];
    for (build, words, more) in kinds {
        refused_while_serving(&scene, build).at(Step::Open, &[words, more]);
        // What was opened has been closed again.
        scene.settled();
    }
    assert_eq!(scene.install("echo_v2").published(), 2 + 5);
}

#[test]
fn what_does_not_claim_to_be_a_plugin_is_passed_over_in_silence() {
    let scene = Scene::with(&["echo_v1"]);
    let silent = [
        Build::raw("text", "just a text"),
        Build::raw("empty", ""),
        Build::raw("garbage", vec![0x5a; 100_000]),
        Build::of("not_a_plugin"),
        c_library(&scene),
        without_note().in_slot("stripped"),
    ];
    for build in &silent {
        drop(scene.install(build.clone()));
        // Asked directly, the host does say why.
        let asked = scene.host.load(&scene.trusted(&build.file_name())).unwrap_err().to_string();
        assert!(asked.contains("is refused at vet"), "{asked}");
    }
    let asked = scene.refusals().len();
    assert_eq!(asked, silent.len());
    assert_eq!(scene.install("echo_v2").published(), 2);
    assert_eq!(scene.refusals().len(), asked);
    assert_eq!(scene.host.status().plugins.len(), 1);
}

#[test]
fn a_fifo_a_directory_and_a_dangling_link_are_no_plugins_and_block_nobody() {
    let scene = Scene::with(&["echo_v1"]);
    let at = |name: &str| scene.plugins().join(name);
    let made = Command::new("mkfifo").arg(at("libfifo.so")).status().unwrap();
    assert!(made.success());
    fs::create_dir(at("libdirectory.so")).unwrap();
    std::os::unix::fs::symlink("/nowhere", at("libdangling.so")).unwrap();
    assert_eq!(scene.install("echo_v2").published(), 2);
    assert_eq!(scene.refusals(), [""; 0]);

    let asked = |name| scene.host.load(&scene.trusted(name)).unwrap_err().to_string();
    assert!(asked("libfifo.so").contains("is a FIFO, expected a regular file"));
    assert!(asked("libdirectory.so").contains("is a directory, expected a regular file"));
    assert!(asked("libdangling.so").contains("there is no such file"));
    assert!(inspect(&at("libfifo.so")).unwrap_err().to_string().contains("is a FIFO"));
}

#[test]
fn a_file_that_others_can_write_to_is_refused() {
    let scene = Scene::with(&["echo_v1"]);
    let expecting = scene.expecting(FILE);
    let shelved = scene.shelve(&echo_v2());
    fs::set_permissions(&shelved, Permissions::from_mode(0o666)).unwrap();
    fs::rename(&shelved, &expecting.file).unwrap();
    expecting.refused().at(Step::Vet, &["is writable by others (mode 0666; chmod o-w)"]);
    assert_eq!(scene.generation("echo"), Some(1));
}

#[test]
fn a_file_in_a_directory_that_others_can_write_to_is_refused() {
    let scene = Scene::with(&["echo_v1"]);
    fs::set_permissions(scene.plugins(), Permissions::from_mode(0o777)).unwrap();
    let refused = scene.install("echo_v2").refused();
    refused
        .at(Step::Vet, &["lies in", scene.plugins().to_str().unwrap(), "is writable by others (mode 0777"]);
    assert_eq!(scene.generation("echo"), Some(1));
}

#[test]
fn a_state_directory_that_others_can_write_to_keeps_a_host_from_starting() {
    let dir = tempfile::tempdir().unwrap();
    let state = dir.path().join("state");
    fs::create_dir_all(state.join("run")).unwrap();
    fs::set_permissions(state.join("run"), Permissions::from_mode(0o777)).unwrap();
    let error = Host::start(Options { state_dir: state, ..Options::default() }).err().unwrap().to_string();
    assert!(
        error.starts_with("the state directory cannot be used: ") && error.contains("writable by others"),
        "{error}"
    );
}

#[test]
fn a_file_cut_short_for_good_is_refused_when_nobody_has_completed_it() {
    let scene = Scene::with(&["echo_v1"]);
    let refused = scene.install(echo_v2().cut(600_000)).refused();
    let refused = refused.at(Step::Vet, &["is cut short", "the file has 600000 bytes"]);
    // The bytes did not get far enough to say which plugin this is, but where they lie does.
    assert_eq!(refused.plugin.as_deref(), Some("echo"));
    assert!(scene.status("echo").last_refusal.unwrap().contains("is cut short"));
    assert_eq!(scene.generation("echo"), Some(1));
    assert_eq!(scene.install("echo_v2").published(), 2);
}

#[test]
fn a_library_cut_anywhere_is_refused_and_no_call_is_lost() {
    let scene = Scene::with(&["echo_v1"]);
    let callers = calling(&scene.handle("echo"));
    let boundaries = echo_v2().boundaries();
    let ends = boundaries.iter().step_by(boundaries.len().div_ceil(24)).copied();
    let cuts: Vec<usize> = ends.chain(random(24, echo_v2().bytes().len())).collect();
    assert!(cuts.len() >= 40);
    for cut in cuts {
        drop(scene.install(echo_v2().cut(cut)));
        // Looked at by the watcher, and by us.
        let refused = scene.host.load(&scene.trusted(FILE)).unwrap_err().to_string();
        assert!(refused.contains("is refused at"), "cut at {cut}: {refused}");
        callers.go_on(&scene, 10);
    }
    callers.finish();
    assert_eq!(scene.generation("echo"), Some(1));
    assert_eq!(scene.install("echo_v2").published(), 2);
}

#[test]
fn a_library_cut_at_every_boundary_and_at_a_thousand_places_is_never_taken_for_whole() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(FILE);
    fs::write(&path, echo_v2().bytes()).unwrap();
    assert_eq!(inspect(&path).unwrap().plugin, "echo");

    let mut cuts = echo_v2().boundaries();
    cuts.extend(random(1000, echo_v2().bytes().len()));
    cuts.sort_unstable_by(|a, b| b.cmp(a));
    let file = OpenOptions::new().write(true).open(&path).unwrap();
    for cut in cuts {
        file.set_len(cut as u64).unwrap();
        assert!(inspect(&path).is_err(), "cut at {cut}");
    }
}

#[test]
fn a_library_with_bytes_changed_at_random_is_inspected_without_harm() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(FILE);
    let whole = echo_v2();
    // Headers, notes and tables are at the beginning: that is where it hurts.
    for (round, at) in random(100, 8192).into_iter().enumerate() {
        let damaged = whole.clone().changed(|bytes| bytes[at] ^= 1 << (round % 8));
        fs::write(&path, damaged.bytes()).unwrap();
        let _ = inspect(&path);
    }
}

#[test]
fn an_inspection_says_what_a_file_is() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("libcounter.so");
    fs::write(&path, Build::of("counter_v2").bytes()).unwrap();
    let found = inspect(&path).unwrap();
    let state = found.state.map(|state| (state.writes_from..=state.writes, state.reads_from));
    assert_eq!((found.plugin.as_str(), state), ("counter", Some((2..=2, 1))));
    assert_eq!(found.bytes, Build::of("counter_v2").bytes().len() as u64);
    let methods: Vec<_> = found.interfaces[0].methods.iter().map(|m| m.signature.as_str()).collect();
    assert_eq!(methods, ["add(n: u64) -> u64", "get() -> u64", "build() -> u32", "hold(until: &str) -> u32"]);

    let older = dir.path().join("older.so");
    fs::write(&older, Build::of("counter_v1").bytes()).unwrap();
    assert_eq!(reseat::compare(&path, &older).unwrap().plugin, "counter");
    let back = reseat::compare(&older, &path).unwrap_err().to_string();
    assert!(back.contains("writes state version 2, this build reads 1..=1"), "{back}");
}

#[test]
fn an_inspection_runs_no_code() {
    let dir = tempfile::tempdir().unwrap();
    let canary = dir.path().join("canary");
    let environment = [("RESEAT_CANARY", canary.to_str().unwrap())];
    in_child_with("bad_files::an_inspection_runs_no_code", &environment, || {
        let canary = std::env::var("RESEAT_CANARY").unwrap();
        let scene = Scene::with(&["echo_v1"]);
        for fixture in ["canary_constructor", "aborts_in_constructor", "loops_in_constructor"] {
            let path = scene.shelve(&Build::of(fixture));
            assert_eq!(inspect(&path).unwrap().plugin, fixture);
            assert!(scene.host.check(&path, "echo").is_err());
        }
        assert!(!Path::new(&canary).exists());
        // The canary does sing when its library is opened.
        scene.install("canary_constructor").published();
        assert!(File::open(&canary).is_ok());
    });
}

#[test]
fn a_host_says_whether_a_file_would_be_accepted() {
    let scene = Scene::with(&["echo_v1"]);
    let _echo = scene.handle::<dyn Echo>("echo");
    let check = |build: Build| scene.host.check(&scene.shelve(&build), "echo").map_err(|e| e.to_string());
    assert_eq!(check(echo_v2()).unwrap().plugin, "echo");
    assert!(check("echo_changed_layout".into()).unwrap_err().contains("method `measure` differs"));
    assert!(check("callback".into()).unwrap_err().contains("it is plugin `callback`, asked was `echo`"));
    assert!(check(echo_v2().cut(5000)).unwrap_err().contains("is cut short"));
    assert_eq!(find(echo_v2().bytes(), b"reseat-manifest 1").len(), 1);
    assert_eq!(scene.generation("echo"), Some(1));
}

/// So many numbers below a limit, always the same ones.
fn random(count: usize, below: usize) -> Vec<usize> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = || {
        // xorshift64
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    (0..count).map(|_| (next() % below as u64) as usize).collect()
}

#[test]
fn a_build_whose_name_was_taken_serves_when_the_file_that_had_it_is_gone() {
    let scene = Scene::with(&["echo_v1"]);
    let echo = scene.handle::<dyn Echo>("echo");
    let refused = scene.install(Build::of("echo_v2").in_slot("another")).refused();
    assert!(refused.reason.contains("remove one of the two"), "{}", refused.reason);
    fs::remove_file(scene.plugins().join(FILE)).unwrap();
    scene.eventually(|_| echo.enter().unwrap().build().unwrap() == 2);
    assert_eq!(scene.status("echo").last_refusal, None);
}

#[test]
fn what_was_refused_for_its_directory_is_looked_at_again_when_somebody_asks() {
    let scene = Scene::with(&["echo_v1"]);
    let permit = |mode| fs::set_permissions(scene.plugins(), Permissions::from_mode(mode)).unwrap();
    permit(0o777);
    let refused = scene.install("echo_v2").refused();
    assert!(refused.reason.contains("writable by others"), "{}", refused.reason);
    permit(0o700);
    scene.host.rescan();
    scene.eventually(|scene| scene.generation("echo") == Some(2));
}

#[test]
fn a_refusal_is_forgotten_when_the_file_holds_what_serves_again() {
    let scene = Scene::with(&["echo_v1"]);
    scene.install("echo_changed_layout").refused();
    assert!(scene.status("echo").last_refusal.is_some());
    drop(scene.install("echo_v1"));
    scene.eventually(|scene| scene.status("echo").last_refusal.is_none());
    assert_eq!(scene.generation("echo"), Some(1));
}
