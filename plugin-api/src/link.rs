//! The plugin's connection to its host: one per loaded copy of the library.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::abi::{GenerationRef, HostContractRef};

/// A connected host.
#[derive(Clone, Copy)]
pub struct Link {
    /// What it offers.
    pub host: HostContractRef,
    /// Which generation this copy of the library is.
    pub generation: GenerationRef,
}

static LINK: OnceLock<Link> = OnceLock::new();
static ATTACHED: AtomicBool = AtomicBool::new(false);

/// Connects this copy of the library.
pub fn attach(host: HostContractRef, generation: GenerationRef) {
    // A library is attached once in its life; a second copy has its own statics.
    if LINK.set(Link { host, generation }).is_ok() {
        ATTACHED.store(true, Ordering::Release);
    }
}

/// Disconnects it, for good.
pub fn detach() {
    ATTACHED.store(false, Ordering::Release);
}

/// The host, while there is one. A plugin linked into a test or another program has none.
pub fn link() -> Option<Link> {
    if ATTACHED.load(Ordering::Acquire) { LINK.get().copied() } else { None }
}
