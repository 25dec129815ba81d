//! What a call costs in reseat and in other libraries that replace native code, side by side:
//! `scripts/bench-peers`.
//!
//! `compare <callee>`, the path of the callee's library. The callee is the same function everywhere; a peer
//! that can only call its own kind of library gets one with that function in it. Every peer is called as its
//! documentation shows.

mod contest;
mod libraries;
mod ways;

use std::path::PathBuf;

use contest::Contest;
use ways::{with_dynamic_reload, with_hot_lib_reloader, with_hotload, with_relib, with_reseat, with_tables};

fn main() {
    let callee = std::env::args_os().nth(1).expect("usage: compare <path of the callee's library>");
    libraries::stage(&PathBuf::from(callee));
    measure();
    libraries::remove();
}

fn measure() {
    let bare = with_tables::Bare::load();
    let host = with_reseat::start();
    let reseat = with_reseat::Typed::of(&host);
    let (arc_swap, rw_lock) = (with_tables::InArcSwap::load(), with_tables::InRwLock::load());
    let epoch = with_tables::InEpoch::load();
    let hot_lib_reloader = with_hot_lib_reloader::HotModule;
    let hotload = with_hotload::Loaded::load();
    let module = with_relib::load();
    let relib = with_relib::Export(module.exports());
    let (_reloader, library) = with_dynamic_reload::load();
    let cached = with_dynamic_reload::Cached::of(&library);
    let looked_up = with_dynamic_reload::LookedUp(library.clone());

    let mut contest = Contest::default();
    contest.enter("bare function pointer", &bare, "nothing: the library must stay for ever");
    contest.enter(
        "reseat, typed handle",
        &reseat,
        "drains exactly, then unloads, and checks that it is gone",
    );
    contest.enter("arc-swap 1.9", &arc_swap, KEPT);
    contest.enter("`RwLock<Arc<_>>`, cloned", &rw_lock, KEPT);
    contest.enter(
        "crossbeam-epoch 0.9",
        &epoch,
        "the old library stays until no call is left, and goes at some later pin",
    );
    contest.enter(
        "hot-lib-reloader 0.8.2",
        &hot_lib_reloader,
        "lock held during the call; the reload waits for a moment without calls",
    );
    contest.enter(
        "relib 0.7.2",
        &relib,
        "the program must end all calls first; unloads, and checks that it is gone",
    );
    contest.enter(
        "dynamic_reload 0.10.0, symbol looked up for each call",
        &looked_up,
        "the `Arc` keeps the old library; switching callers is left to the program",
    );
    contest.enter(
        "dynamic_reload 0.10.0, symbol kept",
        &cached,
        "the same; a kept symbol goes on calling the old library",
    );
    contest.enter(
        "hotload 1.2.0",
        &hotload,
        "unloads under calls in flight, which crash, unless the program keeps the old library for good",
    );
    contest.print();
}

const KEPT: &str = "the old library goes with its last call; nobody can wait for that";
