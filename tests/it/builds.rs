use std::fs;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use reseat::{BuildFailure, CrateBuild, Event, ReloadError};
use reseat_tests::counter::Counter;
use serde_json::Value;

use crate::browser::Browser;
use crate::cli::{ask, ok, path};
use crate::program::{Running, reseat};
use crate::scene::{Build, Hold, Scene, put};
use crate::waiting::{DEADLINE, until};

/// How long a build by cargo may take.
const LONG: Duration = Duration::from_secs(120);

#[test]
fn a_build_that_has_failed_is_told_of_and_shown_until_one_of_the_same_package_succeeds() {
    let scene = Scene::with(&[]);
    let told = |package: &str, failure: Option<&str>| {
        let failure =
            failure.map(|what| BuildFailure { what: what.into(), diagnostics: "é".repeat(10_000) });
        let took = Duration::from_millis(1500);
        let (package, plugin) = (package.to_owned(), Some("limiter".to_owned()));
        scene.host.tell_build(CrateBuild { package, plugin, took, failure });
    };
    let failed = || {
        let builds = scene.host.status().failed_builds.into_iter();
        builds.map(|build| (build.package, build.what, build.diagnostics.len())).collect::<Vec<_>>()
    };
    told("limiter-plugin", Some("src/lib.rs:1:1: expected `;`"));
    told("other", Some("no"));
    let limiter = ("limiter-plugin".to_owned(), "src/lib.rs:1:1: expected `;`".to_owned(), 16 << 10);
    assert_eq!(failed(), [limiter, ("other".to_owned(), "no".to_owned(), 16 << 10)]);
    told("limiter-plugin", None);
    assert_eq!(failed().len(), 1);
    let said: Vec<String> = scene.events().iter().map(Event::to_string).collect();
    let first = "the build of limiter-plugin has failed: src/lib.rs:1:1: expected `;`";
    assert_eq!(said, [first, "the build of other has failed: no", "limiter-plugin was built in 1.5 s"]);
}

#[test]
fn a_file_that_was_asked_for_is_tried_again_when_whoever_used_the_plugin_has_left() {
    let scene = Scene::with_options(&["counter_stamped"], |options| {
        options.follow = false;
        options.drain_deadline = Duration::from_millis(50);
    });
    let counter = scene.handle::<dyn Counter>("counter");
    let file = scene.trusted("libcounter.so");
    let lease = counter.lease().expect("it serves");
    put(file.path(), &Build::of("counter_stamped").stamped(2));
    let held = scene.host.load_or_retry(&file).expect_err("it is in use");
    assert!(matches!(&held, ReloadError::Refused(refused) if refused.reason.is_passing()), "{held}");
    drop(lease);
    // The second was opened, and has not served.
    scene.eventually(|s| s.generation("counter") == Some(3));
    assert_eq!(counter.enter().expect("it serves").build().expect("it answers"), 2);
    assert_eq!(scene.refusals().len(), 1, "it is told once");
    // What will not be otherwise is not tried again.
    put(file.path(), &Build::of("counter_stamped").stamped(3).cut(2000));
    let before = scene.refusals().len();
    assert!(scene.host.load_or_retry(&file).is_err());
    put(file.path(), &Build::of("counter_stamped").stamped(3));
    scene.host.load(&file).expect("it is whole");
    assert_eq!((scene.generation("counter"), scene.refusals().len()), (Some(4), before + 1));
}

/// Two plugins and what they share, in one workspace, and `reseat dev` that follows them.
struct Crates {
    dir: tempfile::TempDir,
}

impl Crates {
    fn new() -> Crates {
        let dir = tempfile::tempdir().expect("a temporary directory can be made");
        let crates = Crates { dir };
        crates.write(
            "Cargo.toml",
            "[workspace]\nresolver = \"3\"\nmembers = [\"dev-one\", \"dev-two\", \"dev-shared\"]\n\
             [profile.dev]\ndebug = \"line-tables-only\"\n",
        );
        fs::copy(crate::workshop::project().join("Cargo.lock"), crates.path("Cargo.lock"))
            .expect("it is there");
        crates.write("dev-shared/Cargo.toml", "[package]\nname = \"dev-shared\"\nedition = \"2024\"\n");
        crates.shares(1);
        for name in ["dev-one", "dev-two"] {
            crates.write(&format!("{name}/Cargo.toml"), &manifest(name));
            crates.write(&format!("{name}/src/lib.rs"), &source(name));
        }
        crates
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        let path = self.path(name);
        fs::create_dir_all(path.parent().expect("it has one")).expect("it can be written");
        fs::write(path, text).expect("it can be written");
    }

    /// Each time a real edit: what is written again as it was does not count while something is built.
    fn shares(&self, number: u32) {
        static EDITS: AtomicU32 = AtomicU32::new(0);
        let edit = EDITS.fetch_add(1, Ordering::Relaxed);
        self.write("dev-shared/src/lib.rs", &format!("pub const NUMBER: u32 = {number};\n// Edit {edit}\n"));
    }

    fn state(&self) -> PathBuf {
        self.path("state")
    }

    fn dev(&self) -> Running {
        let key = self.path("dev.key");
        let made =
            reseat().args(["sign", "--new-key", path(&key), "--no-password"]).output().expect("it starts");
        let trusted = ok(&made).lines().last().map(|line| line.replace("trust it in reseat.toml: ", ""));
        let trusted = trusted.expect("it says it");
        self.write("reseat.toml", &format!("drain_deadline_ms = 100\n{trusted}\n"));
        let mut command = reseat();
        command.arg("dev").args([self.path("dev-one"), self.path("dev-two")]).args(["--http", "127.0.0.1:0"]);
        command.arg("--config").arg(self.path("reseat.toml")).arg("--state-dir").arg(self.state());
        command.arg("--sign").arg(&key).env("RESEAT_SIGN_PASSWORD", "not used");
        command.args(["--features", "dev-one/ten", "--", "--profile", "dev"]);
        command.env("CARGO_NET_OFFLINE", "true").env("CARGO_BUILD_BUILD_DIR", crate::workshop::build_dir());
        Running::spawn(command)
    }

    fn number(&self, plugin: &str) -> Option<u64> {
        let output = ask(&self.state(), &["call", plugin, "number"]);
        String::from_utf8_lossy(&output.stdout).trim().parse().ok()
    }

    fn numbers(&self) -> (Option<u64>, Option<u64>) {
        (self.number("dev-one"), self.number("dev-two"))
    }

    fn failed(&self) -> Vec<Value> {
        let status = ok(&ask(&self.state(), &["ps", "--json"]));
        let status: Value = serde_json::from_str(&status).expect("it is JSON");
        status["failed_builds"].as_array().expect("it is a list").clone()
    }
}

fn manifest(name: &str) -> String {
    let api = crate::workshop::project().join("plugin-api");
    format!(
        "[package]\nname = \"{name}\"\nedition = \"2024\"\n[lib]\ncrate-type = [\"cdylib\"]\n[features]\nten = []\n\
         [dependencies]\ndev-shared = {{ path = \"../dev-shared\" }}\nreseat-plugin-api = {{ path = {:?} }}\n\
         serde = {{ version = \"1\", features = [\"derive\"] }}\n",
        path(&api)
    )
}

fn source(name: &str) -> String {
    let source = r#"
        use plugin_api::prelude::*;

        #[plugin_api::interface(version = "1.0")]
        pub trait Numbers {
            fn number(&self) -> u32;
            fn hold(&self, until: &str);
        }

        #[derive(Default, Serialize, Deserialize)]
        struct Shares;

        impl Plugin for Shares {
            const STATE_VERSION: u32 = 1;
            fn create(_: &Services) -> Result<Self> {
                Ok(Shares)
            }
            fn save(&self) -> Result<Saved> {
                Saved::encode(self)
            }
            fn restore(_: &Services, saved: Saved) -> Result<Self> {
                saved.decode()
            }
        }

        impl Numbers for Shares {
            fn number(&self) -> u32 {
                // Who builds is told nothing of how the host signs.
                let told = option_env!("RESEAT_SIGN_PASSWORD").map_or(0, |_| 100);
                dev_shared::NUMBER + told + if cfg!(feature = "ten") { 10 } else { 0 }
            }
            fn hold(&self, until: &str) {
                std::fs::write(format!("{until}.in"), "").unwrap();
                while !std::path::Path::new(until).exists() {
                    std::thread::yield_now();
                }
            }
        }

        export_plugin!(Shares: Numbers, name = "NAME");
    "#;
    source.replace("NAME", name)
}

#[test]
fn dev_builds_crates_of_one_workspace_together_and_one_that_is_broken_holds_up_no_other() {
    let crates = Crates::new();
    let running = crates.dev();
    let said = || running.output();
    assert_eq!(crates.numbers(), (Some(11), Some(1)), "{}", said());
    let page = Browser::start();
    if let Some(page) = &page {
        page.open(&format!("http://{}/?token={}", running.authority(), running.token()));
        page.shows("#plugins", "dev-two");
        assert_eq!(page.eval("return document.getElementById('builds').hidden"), true);
    }

    // What they share is built once, by one cargo.
    let finished = || said().matches("Finished").count();
    let before = finished();
    crates.shares(2);
    assert!(until(LONG, || crates.numbers() == (Some(12), Some(2))), "{}", said());
    assert_eq!(finished(), before + 1, "{}", said());

    let good = source("dev-one");
    crates.write("dev-one/src/lib.rs", &good.replace("dev_shared::NUMBER", "dev_shared::NUMBR"));
    assert!(until(LONG, || crates.failed().len() == 1), "{}", said());
    let failed = &crates.failed()[0];
    assert_eq!((&failed["package"], &failed["plugin"]), (&Value::from("dev-one"), &Value::from("dev-one")));
    let what = failed["what"].as_str().expect("it is text");
    assert!(what.contains("src/lib.rs:30:") && what.contains("cannot find value `NUMBR`"), "{what}");
    assert!(failed["diagnostics"].as_str().is_some_and(|text| text.contains("-->")), "{failed}");
    assert!(ok(&ask(&crates.state(), &["ps"])).contains("the build of dev-one has failed: "));
    assert!(ok(&ask(&crates.state(), &["events"])).contains("the build of dev-one has failed: "));
    if let Some(page) = &page {
        page.shows("#builds", "cannot find value `NUMBR`");
    }
    crates.shares(3);
    assert!(until(LONG, || crates.numbers() == (Some(12), Some(3))), "{}", said());
    crates.write("dev-one/src/lib.rs", &good);
    assert!(until(LONG, || crates.numbers() == (Some(13), Some(3))), "{}", said());
    assert_eq!(crates.failed(), [] as [Value; 0]);
    if let Some(page) = page {
        assert!(until(DEADLINE, || page.eval("return document.getElementById('builds').hidden") == true));
    }

    // What their workspace says is followed, too, and what comes of it.
    let before = finished();
    let workspace = fs::read_to_string(crates.path("Cargo.toml")).expect("it is there");
    crates.write("Cargo.toml", &format!("{workspace}[profile.dev.package.dev-one]\nopt-level = 1\n"));
    assert!(until(LONG, || finished() > before), "{}", said());

    // So is what a crate is called. It is built alone, though the features name the other one.
    let renamed = manifest("dev-two").replace("name = \"dev-two\"", "name = \"dev-zwei\"");
    crates.write("dev-two/Cargo.toml", &renamed);
    assert!(until(LONG, || said().contains("dev-zwei was built")), "{}", said());
    crates.write("dev-two/Cargo.toml", &manifest("dev-two"));
    let built = |name: &str| said().rfind(&format!("{name} was built"));
    assert!(until(LONG, || built("dev-two") > built("dev-zwei")), "{}", said());
    assert_eq!(crates.failed(), [] as [Value; 0]);

    // A plugin that is in use is replaced when it is not any more, without another edit.
    let hold = Hold::at(crates.path("hold"));
    let arguments = serde_json::json!({ "until": hold.until() }).to_string();
    let state = crates.state();
    let call = std::thread::spawn(move || ask(&state, &["call", "dev-two", "hold", &arguments]));
    hold.entered();
    crates.shares(4);
    assert!(until(LONG, || said().contains("it is still in use after 100ms")), "{}", said());
    assert!(until(LONG, || crates.number("dev-one") == Some(14)), "{}", said());
    drop(hold);
    assert!(call.join().expect("it does not panic").status.success());
    assert!(until(DEADLINE, || crates.number("dev-two") == Some(4)), "{}", said());
    assert!(!said().contains('\x1b'), "nothing is drawn where nobody sees it: {}", said());
    assert!(running.interrupt().success());
}
