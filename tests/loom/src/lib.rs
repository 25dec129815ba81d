//! Models of the gate: loom runs each of them in every order that the memory model allows.
//!
//! membarrier is not part of that model, so a full fence stands for each light and each heavy fence;
//! see the proof in the head of the gate. Time does not pass, so a lost wake-up is a deadlock, which
//! loom reports. A record has two frames here, so three nested calls overflow it.
//!
//! By default a run considers up to three preemptions, which is what a few minutes allow.
//! `LOOM_MAX_PREEMPTIONS=4` finds everything that is known to be findable; `0` has no bound.

#![cfg(test)]

// The host uses all of it; the models use what they are about.
#[allow(dead_code, unused_imports)]
#[path = "../../../host/src/gate/mod.rs"]
mod gate;

mod calls;
mod errands;
mod handover;
mod leases;
mod scene;
mod swaps;
