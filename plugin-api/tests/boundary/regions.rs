use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::SeqCst};

use plugin_api::prelude::*;
use plugin_api::region::layout_of;

use crate::in_process::{Loaded, RELEASED, SERVES};

/// Asks the host for regions.
#[plugin_api::interface(version = "1.0")]
pub trait Asks {
    /// What the region of this name is like.
    fn ask(&self, name: &str, len: u64) -> Result<String>;
}

struct Asking {
    host: Services,
}

impl Plugin for Asking {
    fn create(host: &Services) -> Result<Self> {
        Ok(Asking { host: host.clone() })
    }
}

impl Asks for Asking {
    fn ask(&self, name: &str, len: u64) -> Result<String> {
        let region = self.host.region::<AtomicU64>(name, len as usize)?;
        region[region.len() - 1].store(3, SeqCst);
        let before = region.take_before();
        let words = before.as_ref().and_then(|before| before.as_slice_of::<AtomicU64>());
        let words = words.map(|words| words.iter().map(|word| word.load(SeqCst)).collect::<Vec<_>>());
        let released = RELEASED.load(SeqCst);
        drop(before);
        let released = RELEASED.load(SeqCst) - released;
        let (is_new, serves) = (region.is_new(), region.clone().serves());
        Ok(format!("new: {is_new}, serves: {serves}, before: {words:?}, released: {released}"))
    }
}

export_plugin!(Asking: Asks, name = "asking");

#[test]
fn a_region_is_what_the_host_says_that_it_is() {
    let asking = Loaded::<Asking>::create();
    let asks = asking.enter::<dyn Asks>();
    assert_eq!(asks.ask("plain", 512).unwrap(), "new: true, serves: false, before: None, released: 0");
    SERVES.store(1, SeqCst);
    let before = asks.ask("before", 1).unwrap();
    assert_eq!(before, "new: false, serves: true, before: Some([7, 8]), released: 1");
    let error = asks.ask("plain", 513).unwrap_err().to_string();
    let layout = layout_of::<AtomicU64>();
    assert!(error.contains(&format!("8 times 513, like {layout:x}")), "{error}");
    // What cannot be is not even asked for.
    assert!(asks.ask("", 1).unwrap_err().to_string().contains("a region's name has 1 to 64 bytes"));
}

#[test]
fn a_layout_is_names_offsets_sizes_and_types() {
    mod first {
        #[derive(super::Shared)]
        #[repr(C)]
        pub struct Cell {
            pub hits: super::AtomicU64,
            pub kinds: [super::AtomicU32; 2],
        }
    }
    macro_rules! like {
        ($name:ident { $($field:ident: $ty:ty),* } $(, $align:meta)?) => {{
            #[derive(Shared)]
            #[repr(C)]
            $(#[$align])?
            #[allow(dead_code)]
            struct $name { $($field: $ty),* }
            layout_of::<$name>() == layout_of::<first::Cell>()
        }};
    }
    assert!(like!(Cell { hits: AtomicU64, kinds: [AtomicU32; 2] }));
    assert!(!like!(Other { hits: AtomicU64, kinds: [AtomicU32; 2] }));
    assert!(!like!(Cell { kinds: [AtomicU32; 2], hits: AtomicU64 }));
    assert!(!like!(Cell { hits: AtomicU64, sorts: [AtomicU32; 2] }));
    assert!(!like!(Cell { hits: AtomicU64, kinds: [AtomicU32; 3] }));
    assert!(!like!(Cell { hits: AtomicU64, kinds: AtomicU64 }));
    assert!(!like!(Cell { hits: AtomicU64, kinds: [AtomicU32; 2] }, repr(align(64))));
}
