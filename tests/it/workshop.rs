use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use tempfile::TempDir;

/// A copy of the example plugin and its interface in a workspace of its own, with its own target directory: what
/// a plugin author has. Nothing tracked is touched.
pub struct Workshop {
    dir: TempDir,
    /// The plugin's directory. Cargo tells packages in a shared build directory apart by their path within the
    /// workspace, so two copies that are built at the same time need two names.
    name: &'static str,
}

/// Where this project's sources are.
pub fn project() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the tests are in the project")
}

impl Workshop {
    pub fn open(name: &'static str) -> Workshop {
        let dir = tempfile::tempdir().expect("a temporary directory can be made");
        let workshop = Workshop { dir, name };
        copy_tree(&project().join("example-plugin"), &workshop.plugin());
        std::fs::copy(project().join("Cargo.lock"), workshop.path("Cargo.lock"))
            .expect("there is a lock file");
        std::fs::write(workshop.path("Cargo.toml"), workshop.manifest()).expect("it can be written");
        workshop
    }

    /// The project's own workspace manifest, with other members and absolute paths.
    fn manifest(&self) -> String {
        let text = std::fs::read_to_string(project().join("Cargo.toml")).expect("the project has a manifest");
        let mut manifest: toml::Table = text.parse().expect("it is TOML");
        let workspace = manifest["workspace"].as_table_mut().expect("it is a workspace");
        let members = [self.name.to_owned(), format!("{}/interface", self.name)].map(toml::Value::from);
        workspace.insert("members".into(), toml::Value::Array(members.to_vec()));
        let dependencies = workspace["dependencies"].as_table_mut().expect("it shares dependencies");
        for (_, dependency) in dependencies.iter_mut() {
            let Some(path) = dependency.get_mut("path") else { continue };
            let relative = path.as_str().expect("a path is text").to_owned();
            if relative.starts_with("example-plugin") {
                *path = relative.replacen("example-plugin", self.name, 1).into();
            } else {
                *path = project().join(relative).to_str().expect("the project's path is text").into();
            }
        }
        // What is tuned for crates that are not in this workspace.
        manifest["profile"]["dev"].as_table_mut().expect("it is a table").remove("package");
        toml::to_string(&manifest).expect("what was read can be written")
    }

    /// The plugin's crate.
    pub fn plugin(&self) -> PathBuf {
        self.path(self.name)
    }

    /// Where cargo puts what it builds.
    pub fn output(&self) -> PathBuf {
        self.path("target").join("debug")
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Sets a constant in the plugin's `lib.rs`, as a person would with an editor.
    pub fn set(&self, constant: &str, value: &str) {
        let path = self.plugin().join("src").join("lib.rs");
        let text = std::fs::read_to_string(&path).expect("the plugin has a lib.rs");
        let head = format!("const {constant}:");
        let line = text.lines().find(|line| line.trim_start().trim_start_matches("pub ").starts_with(&head));
        let line = line.unwrap_or_else(|| panic!("no {head} in {}", path.display()));
        let (left, _) = line.split_once('=').expect("a constant has a value");
        let changed = text.replacen(line, &format!("{left}= {value};"), 1);
        std::fs::write(&path, changed).expect("it can be written");
    }

    /// `cargo build`, the real one.
    pub fn build(&self) {
        let output = cargo()
            .args(["build", "--offline", "--quiet", "-p", "limiter"])
            .arg("--target-dir")
            .arg(self.path("target"))
            .current_dir(self.dir.path())
            .output()
            .expect("cargo can be started");
        assert!(output.status.success(), "cargo build: {}", String::from_utf8_lossy(&output.stderr));
    }
}

/// A cargo with its own settings, not those of the cargo that runs this test.
pub fn cargo() -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| env!("CARGO").into()));
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        let of_cargo = text.starts_with("CARGO_") && text != "CARGO_HOME";
        if of_cargo || text.starts_with("RUSTC") || text == "RUSTFLAGS" {
            command.env_remove(&name);
        }
    }
    command.stdin(Stdio::null()).env("CARGO_BUILD_BUILD_DIR", build_dir());
    command
}

/// Where cargo keeps what is not the result: shared by all copies, so that what they depend on is compiled once.
pub fn build_dir() -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join("workshop")
}

fn copy_tree(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("it can be written");
    for entry in std::fs::read_dir(from).expect("it is a directory").flatten() {
        let (path, name) = (entry.path(), entry.file_name());
        if name == "target" || name.to_string_lossy().starts_with('.') {
            continue;
        }
        match path.is_dir() {
            true => copy_tree(&path, &to.join(name)),
            false => drop(std::fs::copy(&path, to.join(name)).expect("it can be copied")),
        }
    }
}
