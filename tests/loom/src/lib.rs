//! Models of the gate, and of the books that say when a library may be closed: loom runs each of them in every
//! order that the memory model allows.
//!
//! membarrier is not part of that model, so a full fence stands for each light and each heavy fence;
//! see the proof in the head of the gate. Time does not pass, so a lost wake-up is a deadlock, which
//! loom reports. A record has two frames here, so three nested calls overflow it.
//!
//! By default a run considers up to three preemptions, which is what a few minutes allow, and more than
//! any mistake known so far has needed. `LOOM_MAX_PREEMPTIONS` changes that; `0` is without a bound.
//!
//! For the books libc is a stand-in, see `teardown`.

#![cfg(test)]

// What is included from the host says where it finds the types of the boundary.
extern crate self as plugin_api;

#[cfg(not(reseat_loom_sampled))]
mod abi;
// The host uses all of it; the models use what they are about.
#[allow(dead_code, unused_imports)]
mod gate;

#[cfg(reseat_loom_sampled)]
mod ages;
#[cfg(not(reseat_loom_sampled))]
mod beside;
#[cfg(not(reseat_loom_sampled))]
mod calls;
#[cfg(not(reseat_loom_sampled))]
mod errands;
#[cfg(not(reseat_loom_sampled))]
mod handover;
#[cfg(not(reseat_loom_sampled))]
mod leases;
#[cfg(not(reseat_loom_sampled))]
mod nested;
mod scene;
#[cfg(not(reseat_loom_sampled))]
mod sets;
#[cfg(not(reseat_loom_sampled))]
mod swaps;
#[cfg(not(reseat_loom_sampled))]
mod teardown;
