//! hotload: a wrapper that is generated from the library's source.

use harness::calls::Way;
use hotload::types::Hotload;

use crate::libraries;

hotload::gen_rust_no_mangle!((HotLib, "../hot-lib/src/lib.rs", false));

/// The wrapper; the library is watched from the start, as the peer always does.
pub struct Loaded(Hotload<HotLib>);

impl Loaded {
    pub fn load() -> Loaded {
        let path = libraries::dir().join(libraries::HOT_LIB).into_os_string();
        let path = path.into_string().expect("temporary directories have plain names");
        let library = Hotload::<HotLib>::new(path.leak());
        library.init_load(|new, _old| drop(new)).expect("it loads");
        Loaded(library)
    }
}

impl Way for Loaded {
    #[inline(always)]
    fn step(&self, a: u64, b: u64) -> u64 {
        self.0.hot_step(a, b)
    }
}
