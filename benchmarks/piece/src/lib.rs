//! One of a thousand. Its name and those of its interfaces are numbered in the library's bytes: see `pieces` in `figures`.

use callee_interface::Part;
use plugin_api::prelude::*;

/// What the piece before calls.
#[plugin_api::interface(version = "1.0")]
pub trait Above0000 {
    /// How many pieces there are from here on.
    fn length(&self) -> Result<u64>;
}

/// What the piece after implements.
#[plugin_api::interface(version = "1.0")]
pub trait Below0000 {
    /// As above.
    fn length(&self) -> Result<u64>;
}

struct Piece {
    /// `None`: it is the last, or one by itself.
    below: Option<Handle<dyn Below0000>>,
}

impl Plugin for Piece {
    fn create(host: &Services) -> Result<Self> {
        Ok(Piece { below: host.plugin().ok() })
    }
}

impl Above0000 for Piece {
    fn length(&self) -> Result<u64> {
        Ok(1 + self.below.as_ref().map_or(Ok(0), |below| below.enter()?.length())?)
    }
}

impl Part for Piece {
    fn step(&self, a: u64, b: u64) -> u64 {
        a.wrapping_mul(31).wrapping_add(b)
    }
}

plugin_api::export_plugin!(Piece: Above0000 + Part, name = "piece0000", requires = [Below0000]);
