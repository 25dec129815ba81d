#![allow(clippy::result_large_err)] // as in the crate that returns them

use std::collections::BTreeSet;

use reseat::{CallError, Handle, Options, Outcome, PluginOptions, ReloadError, TrustedFile};
use reseat_tests::node::{Node, marked};
use serde_json::json;

use crate::scene::{Build, Scene};

/// Whom each node calls, on the left and on the right: a chain with a diamond in it, twelve in all.
pub const NET: [(Option<u32>, Option<u32>); 12] = [
    (Some(1), None),
    (Some(2), None),
    (Some(3), Some(4)), // the diamond
    (Some(5), None),
    (None, Some(5)),
    (Some(6), None),
    (Some(7), None),
    (Some(8), None),
    (Some(9), None),
    (Some(10), None),
    (Some(11), None),
    (None, None),
];

/// How many are called for one call of node 0: all, and those below the diamond twice.
pub const CALLED: usize = 12 + 7;

pub fn name(number: u32) -> String {
    format!("node{number:02}")
}

pub fn build(fixture: &str, number: u32, build: u32) -> Build {
    Build::of(fixture).stamped(build).named(&name(number))
}

pub fn wire(options: &mut Options) {
    for (number, (left, right)) in (0..).zip(NET) {
        let bind = |on: &str, whom: Option<u32>| whom.map(|whom| (on.to_owned(), name(whom)));
        let bind = [bind("Left", left), bind("Right", right)].into_iter().flatten().collect();
        options.plugins.insert(name(number), PluginOptions { bind, ..PluginOptions::default() });
        let config = json!({ "left": left.is_some(), "right": right.is_some() });
        options.config.insert(name(number), config);
    }
}

/// The net, of which some nodes have a state.
pub fn net(with_state: &[u32]) -> Scene {
    let scene = Scene::with_options(&[], wire);
    for number in (0..12).rev() {
        scene.install(build(fixture(with_state, number), number, 1)).published();
    }
    scene
}

pub fn install_all(scene: &Scene, fixture: &str) {
    for number in (0..12).rev() {
        scene.install(build(fixture, number, 1)).published();
    }
}

pub fn fixture(with_state: &[u32], number: u32) -> &'static str {
    if with_state.contains(&number) { "node_with_state" } else { "node" }
}

/// Puts builds where no host looks, and has them take over at one moment, or none.
pub fn change(scene: &Scene, builds: impl IntoIterator<Item = Build>) -> Result<Vec<Outcome>, ReloadError> {
    // SAFETY: only tests write there, and only builds of our fixtures.
    let shelf = unsafe { reseat::TrustedDir::new(scene.path("shelf")) };
    let put = |build: Build| {
        let path = scene.shelve(&build);
        let named = path.with_extension("so");
        std::fs::rename(path, &named).unwrap();
        (build.plugin(), shelf.file(named.file_name().unwrap()).expect("a bare name"))
    };
    let files: Vec<(String, TrustedFile)> = builds.into_iter().map(put).collect();
    let files: Vec<_> = files.iter().map(|(plugin, file)| (plugin.as_str(), file)).collect();
    scene.host.reload_together_from(&files)
}

/// Which builds of these nodes a call has met.
pub fn met(trace: &[u32], nodes: &[u32]) -> BTreeSet<u32> {
    trace
        .iter()
        .map(|mark| marked(*mark))
        .filter(|(node, _)| nodes.contains(node))
        .map(|(_, build)| build)
        .collect()
}

pub fn down(handle: &Handle<dyn Node>) -> Result<Vec<u32>, CallError> {
    handle.enter()?.down()
}
