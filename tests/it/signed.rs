use std::fs;
use std::path::Path;

use minisign::KeyPair;
use reseat::file::signature_of;
use reseat::{Change, Host, Observer, Observers, Options, Outcome, Step, TrustedKey};
use reseat_tests::echo::Echo;
use serde_json::Value;

use crate::cli::{ask, ok, path, text};
use crate::program::{Running, reseat};
use crate::scene::{Build, Scene, put};
use crate::waiting::{DEADLINE, until};

/// Somebody who signs.
struct Author(KeyPair);

impl Author {
    fn new() -> Author {
        Author(KeyPair::generate_unencrypted_keypair().expect("there is randomness"))
    }

    fn key(&self) -> TrustedKey {
        self.0.pk.to_base64().parse().expect("it is one")
    }

    fn signature(&self, bytes: &[u8]) -> String {
        minisign::sign(None, &self.0.sk, bytes, None, None).expect("the key is open").into_string()
    }

    /// Signs what is at this path.
    fn signs(&self, library: &Path) {
        let signature = self.signature(&fs::read(library).expect("it is there"));
        fs::write(signature_of(library), signature).expect("it can be written");
    }

    /// A host that trusts this author, and nobody else.
    fn scene(&self, change: impl FnOnce(&mut Options)) -> Scene {
        Scene::with_options(&[], |options| {
            options.trusted_keys = vec![self.key()];
            options.snapshot_every = None;
            change(options);
        })
    }

    /// Puts a build where the host sees it, its signature first.
    fn installs(&self, scene: &Scene, build: impl Into<Build>) -> u64 {
        let build = build.into();
        let place = signature_of(&scene.plugins().join(build.file_name()));
        fs::write(place, self.signature(build.bytes())).expect("it can be written");
        // Of the build that serves it is none, which may be noticed before the next is there.
        let mut expecting = scene.install(build);
        until(DEADLINE, || expecting.outcome().is_ok());
        scene.host.status().plugins[0].generation.expect("it serves")
    }
}

fn stamped(number: u32) -> Build {
    Build::of("counter_stamped").stamped(number)
}

/// Generation, build and total of the counter, by name.
fn now(host: &Host) -> (u64, String, String) {
    let call = |method: &str| host.call("counter", method, "{}").expect("it answers");
    let status = host.status();
    (status.plugins[0].generation.expect("it serves"), call("build"), call("get"))
}

fn at(generation: u64, build: u32, total: u64) -> (u64, String, String) {
    (generation, build.to_string(), total.to_string())
}

fn told(host: &Host, text: &str) -> bool {
    host.recent_events().iter().any(|event| event.event.to_string().contains(text))
}

fn generation(host: &Host) -> Option<u64> {
    host.status().plugins.first().and_then(|plugin| plugin.generation)
}

#[test]
fn what_is_not_signed_is_refused_until_its_signature_comes() {
    let author = Author::new();
    let scene = author.scene(|_| {});
    let refused = scene.install("echo_v1").refused();
    let key = author.key().id().to_string();
    let words = ["libecho.so.minisig", &key, "reseat sign ", "libecho.so --key KEY"];
    let refused = refused.at(Step::Vet, &words);
    assert_eq!(refused.plugin, None, "nothing that it says of itself counts");
    assert_eq!(generation(&scene.host), None);
    assert!(scene.host.dry_run("echo", None).is_err());

    let expecting = scene.expecting("libecho.so");
    author.signs(&expecting.file);
    assert_eq!(expecting.published(), 1);
    // The next build has the signature of the one before beside it, until its own comes.
    let refused = scene.install("echo_v2").refused();
    refused.at(Step::Vet, &["not of these bytes", &key, "an earlier build", "sign it again"]);
    assert_eq!(generation(&scene.host), Some(1));
    let expecting = scene.expecting("libecho.so");
    author.signs(&expecting.file);
    assert_eq!(expecting.published(), 2);
    assert_eq!(scene.host.denied(), [], "it was not the build's fault");
}

#[test]
fn a_library_that_is_asked_for_is_loaded_when_it_is_signed_and_not_before() {
    let author = Author::new();
    let scene = author.scene(|options| options.follow = false);
    let file = scene.plugins().join("libecho.so");
    put(&file, &Build::of("echo_v1"));
    let unsigned = scene.host.load(&scene.trusted("libecho.so")).expect_err("it is not signed");
    assert!(unsigned.to_string().contains("is not signed"), "{unsigned}");
    author.signs(&file);
    let outcome = scene.host.load(&scene.trusted("libecho.so")).expect("it is signed");
    assert_eq!(outcome, Outcome::Loaded { plugin: "echo".into(), generation: 1 });
}

#[test]
fn a_signature_may_come_before_the_library_that_is_to_take_over() {
    let author = Author::new();
    let scene = author.scene(|_| {});
    author.installs(&scene, stamped(1));
    let next = stamped(2);
    let library = scene.plugins().join(next.file_name());
    fs::write(signature_of(&library), author.signature(next.bytes())).expect("it can be written");
    scene.host.rescan();
    put(&library, &next);
    scene.eventually(|scene| generation(&scene.host) == Some(2));
    assert!(scene.refusals().is_empty(), "{scene}");
    // If none comes, something is wrong.
    fs::write(signature_of(&library), author.signature(b"another")).expect("it can be written");
    scene.eventually(|_| told(&scene.host, "has a signature that is not of these bytes"));
}

#[test]
fn every_wrong_signature_is_refused_for_what_is_wrong_with_it_and_none_is_held_against_the_build() {
    let (author, stranger) = (Author::new(), Author::new());
    let scene = author.scene(|_| {});
    author.installs(&scene, "echo_v1");
    let next = Build::of("echo_v2");
    let foreign = stranger.signature(next.bytes());
    let (mine, theirs) = (author.key().id().to_string(), stranger.key().id().to_string());
    let of_another = author.signature(b"another file");
    let own = author.signature(next.bytes());
    let own: Vec<&str> = own.lines().collect();
    let other = if &own[1][40..41] == "A" { "B" } else { "A" };
    let forged = [own[0], &format!("{}{other}{}", &own[1][..40], &own[1][41..]), own[2], own[3]].join("\n");
    let comment = own.join("\n").replace("timestamp:", "timestamp:1");
    let file = scene.plugins().join("libecho.so");
    for (signature, words) in [
        (&foreign, &["is signed by key", &*theirs, "not trusted", &*mine, "`trusted_keys`"][..]),
        (&of_another, &["not of these bytes", &mine]),
        (&forged, &["not of these bytes"]),
        (&comment, &["not of these bytes"]),
        (
            &"no signature at all\n".to_owned(),
            &["a signature that is none", "libecho.so.minisig", "sign it again"],
        ),
        (&String::new(), &["a signature that is none", "is empty"]),
    ] {
        fs::write(signature_of(&file), signature).expect("it can be written");
        let file = scene.trusted("libecho.so");
        put(&scene.path("shelf").join("next"), &next);
        fs::rename(scene.path("shelf").join("next"), file.path()).expect("one file system");
        let refused = scene.host.load(&file).expect_err("it is not signed").to_string();
        for word in words {
            assert!(refused.contains(word), "{word:?} is not in {refused}");
        }
        assert_eq!(scene.handle::<dyn Echo>("echo").enter().unwrap().say("hi").unwrap(), "v1: hi");
    }
    assert_eq!(scene.host.denied(), []);
    author.signs(&file);
    scene.eventually(|s| s.generation("echo") == Some(2));
}

/// Puts another library and its signature where a build came from, when it has been checked.
struct Swaps(std::path::PathBuf, String);

impl Observer for Swaps {
    fn before_reload(&self, _: &Change) -> Result<(), String> {
        put(&self.0, &Build::of("echo_stamped").stamped(666));
        fs::write(signature_of(&self.0), &self.1).expect("it can be written");
        Ok(())
    }
}

#[test]
fn a_signed_library_that_is_swapped_after_it_was_checked_is_opened_as_it_was_signed() {
    let (author, stranger) = (Author::new(), Author::new());
    let shelf = tempfile::tempdir().expect("a temporary directory can be made");
    let file = shelf.path().join("libecho.so");
    let signature = stranger.signature(Build::of("echo_stamped").stamped(666).bytes());
    let swaps = Swaps(file.clone(), signature);
    let scene = author.scene(|options| options.observers = Observers::none().and(swaps));
    author.installs(&scene, "echo_v1");
    put(&file, &Build::of("echo_stamped").stamped(2));
    author.signs(&file);
    // SAFETY: only this test writes there.
    let directory = unsafe { reseat::TrustedDir::new(shelf.path()) };
    let checked = directory.file("libecho.so").expect("a bare name");
    scene.host.reload_from("echo", &checked).expect("it is signed");
    assert_eq!(scene.handle::<dyn Echo>("echo").enter().unwrap().build().unwrap(), 2);
    // And what is there now is not.
    let refused = scene.host.reload_from("echo", &checked).expect_err("a stranger has signed it");
    assert!(refused.to_string().contains("which is not trusted here"), "{refused}");
    assert_eq!(scene.handle::<dyn Echo>("echo").enter().unwrap().build().unwrap(), 2);
}

#[test]
fn a_host_goes_on_with_what_is_kept_if_its_key_is_still_trusted() {
    let (author, next_author) = (Author::new(), Author::new());
    let scene = author.scene(|_| {});
    author.installs(&scene, stamped(1));
    author.installs(&scene, stamped(2));
    scene.host.call("counter", "add", r#"{"n":41}"#).expect("it answers");
    assert!(scene.host.shutdown(DEADLINE), "{scene}");
    let file = scene.plugins().join("libcounter.so");
    // Whoever takes the signature away from where it came takes nothing from what is kept.
    fs::remove_file(signature_of(&file)).expect("it is there");
    let trusting = |author: &Author| {
        let keys = vec![author.key()];
        scene.next_host(|options| options.trusted_keys = keys)
    };
    let next = trusting(&author);
    assert_eq!(now(&next), at(1, 2, 41));
    next.roll_back("counter").expect("it is kept with its signature");
    assert_eq!(now(&next), at(2, 1, 41));
    assert!(next.shutdown(DEADLINE));

    // The key is withdrawn.
    let next = trusting(&next_author);
    assert_eq!(generation(&next), None);
    let id = author.key().id();
    assert!(
        told(&next, &format!("is signed by key {id}, which is not trusted here")),
        "{:?}",
        next.recent_events()
    );
    put(&file, &stamped(3));
    next_author.signs(&file);
    assert!(until(DEADLINE, || generation(&next).is_some()), "{:?}", next.recent_events());
    assert_eq!(now(&next), at(1, 3, 41), "the state has waited for it");
    assert!(next.shutdown(DEADLINE));
}

#[test]
fn what_was_kept_without_a_signature_is_not_gone_on_with_where_one_is_asked_for() {
    let author = Author::new();
    let scene = Scene::with_options(&["counter_v2"], |options| options.snapshot_every = None);
    scene.host.call("counter", "add", r#"{"n":41}"#).expect("it answers");
    assert!(scene.host.shutdown(DEADLINE), "{scene}");
    let next = scene.next_host(|options| options.trusted_keys = vec![author.key()]);
    assert_eq!(generation(&next), None);
    assert!(told(&next, "was kept without a signature"), "{:?}", next.recent_events());
    author.signs(&scene.plugins().join("libcounter.so"));
    assert!(until(DEADLINE, || generation(&next).is_some()), "{:?}", next.recent_events());
    assert_eq!(now(&next), at(1, 2, 41));
    assert!(next.shutdown(DEADLINE));
    // Now it is kept with it.
    fs::remove_file(signature_of(&scene.plugins().join("libcounter.so"))).expect("it is there");
    let last = scene.next_host(|options| options.trusted_keys = vec![author.key()]);
    assert_eq!(now(&last), at(1, 2, 41));
}

#[test]
fn keys_that_change_while_a_host_runs_count_for_what_comes_then_and_for_what_was_refused() {
    let (author, next_author) = (Author::new(), Author::new());
    let scene = author.scene(|_| {});
    author.installs(&scene, stamped(1));
    let id = author.key().id();
    let trust = |keys: Vec<TrustedKey>| {
        let became = scene.host.reconfigure(Options { trusted_keys: keys, ..scene.host.options() });
        assert!(became.in_the_next_host.is_empty() && became.begun_again.is_empty(), "{became:?}");
    };
    trust(vec![next_author.key()]);
    scene.eventually(|s| told(&s.host, &format!("is signed by key {id}, which is not trusted here")));
    assert_eq!(now(&scene.host), at(1, 1, 0), "what serves serves on");
    assert!(scene.host.reload("counter").is_err());
    next_author.signs(&scene.install(stamped(2)).file);
    scene.eventually(|s| s.generation("counter") == Some(2));
    // The build before has the signature of the key that was withdrawn.
    let back = scene.host.roll_back("counter").expect_err("its key is trusted no more").to_string();
    assert!(back.contains(&format!("is signed by key {id}, which is not trusted here")), "{back}");
    author.signs(&scene.install(stamped(3)).file);
    trust(vec![author.key(), next_author.key()]);
    scene.eventually(|s| s.generation("counter") == Some(3));
    // To the one right before, since nobody judges here.
    scene.host.roll_back("counter").expect("both are trusted");
    assert_eq!(now(&scene.host), at(4, 2, 0));
}

#[test]
fn there_is_a_way_back_to_a_signed_build_in_whose_copy_the_mark_against_unloading_was_cleared() {
    let author = Author::new();
    let scene = author.scene(|_| {});
    author.installs(&scene, stamped(1).never_unloaded());
    author.installs(&scene, stamped(2));
    scene.host.roll_back("counter").expect("it is kept");
    assert_eq!(now(&scene.host), at(3, 1, 0));
    scene.unloaded("counter", 2);
    assert!(scene.host.shutdown(DEADLINE), "{scene}");
    let next = scene.next_host(|options| options.trusted_keys = vec![author.key()]);
    assert_eq!(now(&next), at(1, 1, 0));
}

#[test]
fn keys_and_signatures_are_made_and_checked_by_the_command() {
    let dir = tempfile::tempdir().expect("a temporary directory can be made");
    let (plugins, state) = (dir.path().join("plugins"), dir.path().join("state"));
    fs::create_dir(&plugins).expect("it can be written");
    let run = |args: &[&str]| {
        let mut command = reseat();
        command.args(args).current_dir(dir.path()).output().expect("it starts")
    };
    let no = |args: &[&str]| {
        let output = run(args);
        assert_eq!(output.status.code(), Some(1), "{args:?}");
        text(&output.stderr)
    };
    let made = ok(&run(&["sign", "--new-key", "my.key", "--no-password"]));
    assert!(made.contains("trusted_keys = [\"RW"), "{made}");
    let mode =
        std::os::unix::fs::MetadataExt::mode(&fs::metadata(dir.path().join("my.key")).expect("it is there"));
    assert_eq!(mode & 0o777, 0o600);
    assert!(no(&["sign", "--new-key", "my.key", "--no-password"]).contains("is there already"));
    ok(&run(&["sign", "--new-key", "other.key", "--no-password"]));

    let library = plugins.join("libecho.so");
    put(&library, &Build::of("echo_v1"));
    let check = ["check", path(&library), "--trusted-key", "my.key.pub"];
    assert!(no(&check).contains("libecho.so is not signed: expected"));
    assert!(ok(&run(&["check", path(&library)])).contains("\nnot signed\n"));
    ok(&run(&["sign", path(&library), "--key", "other.key"]));
    assert!(no(&check).contains("which is not trusted here"));
    assert!(no(&["sign", path(&library), "--key", "my.key.pub"]).contains("is no secret key"));
    // What the host's settings name is what is checked with, where nothing is named.
    let line = made.lines().last().and_then(|line| line.split_once("trusted_keys")).expect("it says it").1;
    let config = dir.path().join("reseat.toml");
    fs::write(&config, format!("trusted_keys{line}\n")).expect("it can be written");
    let running = Running::start(&plugins, &state, Some(&config));
    assert!(running.output().contains("which is not trusted here"), "{}", running.output());
    assert!(no(&["check", path(&library)]).contains("which is not trusted here"));

    let signed = ok(&run(&["sign", path(&library), "--key", "my.key"]));
    assert!(signed.contains("libecho.so.minisig"), "{signed}");
    let serves = || ask(&state, &["call", "echo", "say", r#"{"text":"hi"}"#]).status.success();
    assert!(until(DEADLINE, serves), "{}", running.output());
    assert!(ok(&run(&["check", path(&library)])).contains(", which is trusted\n"));
    let json: Value =
        serde_json::from_str(&ok(&run(&[&check[..], &["--json"]].concat()))).expect("it is JSON");
    assert_eq!(json["signature"]["is_trusted"], true);
    let live = ["check", path(&library), "--live", "echo"];
    assert!(ok(&ask(&state, &live)).contains(", which is trusted\n"));
    fs::remove_file(signature_of(&library)).expect("it is there");
    assert!(text(&ask(&state, &live).stderr).contains("is not signed"));

    // What `dev` builds would be refused.
    let output = run(&["dev", path(&crate::workshop::project().join("example-plugin"))]);
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output.stderr).contains("--sign KEY"), "{}", text(&output.stderr));
    assert!(running.interrupt().success());
}
