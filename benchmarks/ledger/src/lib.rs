//! A state of any size, written and read piece by piece; and how long that takes by itself.

use std::io::{Read, Write};
use std::sync::{Arc, RwLock};
use std::time::Instant;

use plugin_api::prelude::*;

/// Has a state.
#[plugin_api::interface(version = "1.0")]
pub trait Ledger {
    /// Makes the state this large, in bytes.
    fn resize(&self, bytes: u64);
    /// Uses it.
    fn touch(&self) -> u64;
    /// Writes the state down and begins again with it, with no host between: how long that takes, in ns.
    fn alone(&self) -> u64;
}

const PIECE: usize = 64 << 10;

/// In pieces, as a map or a tree would be.
#[derive(Default)]
struct Pieces(RwLock<Vec<Box<[u8]>>>);

impl Plugin for Pieces {
    const STATE_VERSION: u32 = 1;

    fn create(_: &Services) -> Result<Self> {
        Ok(Pieces::default())
    }

    fn save_to(&self, out: &mut StateWriter<'_>) -> Result<()> {
        let mut bytes = out.bytes()?;
        for piece in self.0.read().expect("nobody panics").iter() {
            bytes.write_all(piece)?;
        }
        Ok(())
    }

    fn restore(_: &Services, saved: Saved) -> Result<Self> {
        let mut reader = saved.reader();
        let mut left = saved.section("").map_or(0, Section::len);
        let mut pieces = Vec::with_capacity(left.div_ceil(PIECE));
        while left > 0 {
            let mut piece = vec![0; left.min(PIECE)].into_boxed_slice();
            reader.read_exact(&mut piece)?;
            left -= piece.len();
            pieces.push(piece);
        }
        Ok(Pieces(RwLock::new(pieces)))
    }
}

impl Ledger for Pieces {
    fn resize(&self, bytes: u64) {
        let bytes = usize::try_from(bytes).expect("it fits into memory");
        let sizes = (0..bytes.div_ceil(PIECE)).map(|number| PIECE.min(bytes - number * PIECE));
        let pieces = sizes.enumerate().map(|(number, size)| vec![number as u8; size].into_boxed_slice());
        *self.0.write().expect("nobody panics") = pieces.collect();
    }

    fn touch(&self) -> u64 {
        self.0.read().expect("nobody panics").len() as u64
    }

    fn alone(&self) -> u64 {
        let host = plugin_api::testing::services("ledger", Default::default());
        let begun = Instant::now();
        let mut frame = Vec::new();
        plugin_api::testing::save(self, 1, &mut frame).expect("it can be written");
        let saved = Saved::from_shared(Arc::new(frame)).expect("it is whole");
        let again = Pieces::restore(&host, saved).expect("it can be read");
        let taken = begun.elapsed();
        std::hint::black_box(again);
        u64::try_from(taken.as_nanos()).unwrap_or(u64::MAX)
    }
}

export_plugin!(Pieces: Ledger);
