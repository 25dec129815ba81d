//! A program that embeds reseat and calls the example plugin through a typed handle.
//!
//! `cargo build -p limiter && cargo run --example embed -- target/debug`

use rate_limiter_interface::RateLimiter;
use reseat::{Handle, Host, Options, TrustedDir};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let dir = std::env::args().nth(1).unwrap_or_else(|| "target/debug".into());
    // SAFETY: only our own build writes to this directory.
    let plugins = unsafe { TrustedDir::new(dir) };
    let host = Host::start(Options { watch: vec![plugins], ..Options::default() })?;
    let limiter: Handle<dyn RateLimiter> = host.plugin("limiter")?;

    for cost in [1, 3, 8] {
        let guard = limiter.enter()?;
        let decision = guard.check("alice", cost)?;
        println!("generation {}: cost {cost}: {decision:?}", guard.generation());
    }
    Ok(())
}
