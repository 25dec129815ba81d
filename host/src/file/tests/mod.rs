//! Tests of the file modules. `sample` compiles a small library that looks like a plugin, once per run.

mod compare;
#[cfg(not(miri))]
mod hostile;
mod manifest;
#[cfg_attr(miri, allow(dead_code, reason = "no compiler is run there"))]
mod sample;
#[cfg(not(miri))]
mod settle;
mod signature;
#[cfg(not(miri))]
mod signed;
#[cfg(not(miri))]
mod stage;
#[cfg(not(miri))]
mod vet;
