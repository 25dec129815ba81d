//! A state that lies in a region of the host's memory.

use std::sync::atomic::{AtomicU64, Ordering};

use plugin_api::prelude::*;
use plugin_api::region::Region;

/// Has a region.
#[plugin_api::interface(version = "1.0")]
pub trait Field {
    /// Writes to every page of it.
    fn fill(&self);
    /// The sum of what is in it.
    fn touch(&self) -> u64;
}

/// 256 MiB.
const CELLS: usize = 32 << 20;

struct Cells(Region<AtomicU64>);

impl Plugin for Cells {
    const STATE_VERSION: u32 = 1;

    fn create(host: &Services) -> Result<Self> {
        Ok(Cells(host.region("cells", CELLS)?))
    }

    fn save(&self) -> Result<Saved> {
        Saved::encode(&())
    }

    fn restore(host: &Services, saved: Saved) -> Result<Self> {
        saved.decode::<()>()?;
        Cells::create(host)
    }
}

impl Field for Cells {
    fn fill(&self) {
        self.0.iter().step_by(512).for_each(|cell| cell.store(1, Ordering::Relaxed));
    }

    fn touch(&self) -> u64 {
        self.0.iter().step_by(512).map(|cell| cell.load(Ordering::Relaxed)).sum()
    }
}

export_plugin!(Cells: Field);
