//! A plugin in five versions, of which each keeps its counts in another shape; and the steps between neighbours.
//!
//! | build | reads | writes | its state |
//! | --- | --- | --- | --- |
//! | 1 | 1 | 1 | the total, a bare number |
//! | 2 | 1 to 2 | 1 to 2 | a struct |
//! | 3 | 1 to 3 | 2 to 3 | one field renamed, one split in two |
//! | 4 | 3 to 4 | 4 | a count for each key |
//! | 5 | 2 to 5 | 2 to 5 | one field dropped, an optional section added |

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use plugin_api::prelude::*;
use plugin_api::versions::{Downgrade, Upgrade};

/// Counts, by keys.
#[plugin_api::interface(version = "1.0")]
pub trait Tally {
    /// Adds to the count of a key.
    fn count(&self, key: &str, n: u64);
    /// The whole state, as JSON.
    fn state(&self) -> Result<String>;
    /// Which build answers.
    fn build(&self) -> u32;
}

/// The state of one version, and how its build reads and writes it.
pub trait Version: Default + Clone + Serialize {
    /// Its number, and that of the build that has it.
    const NUMBER: u32;
    /// The oldest version that the build reads.
    const READS_FROM: u32;
    /// The oldest version that it writes.
    const WRITES_FROM: u32;

    /// See [`Tally::count`].
    fn count(&mut self, key: &str, n: u64);

    /// Reads it from any version that its build reads.
    ///
    /// # Errors
    /// It is of another version, or cannot be brought forward.
    fn read(saved: &Saved) -> Result<Self>;

    /// Writes it in one of the versions that its build writes.
    ///
    /// # Errors
    /// It is another version, or the state cannot be brought back to it.
    fn write(self, version: u32) -> Result<Saved>;
}

/// Version 1: the total.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct V1(pub u64);

/// Version 2: a struct with names.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct V2 {
    /// The total.
    pub total: u64,
    /// What was added last.
    pub last: u64,
}

/// Version 3: the total is split, and what was added last has another name.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct V3 {
    /// The total, without its last digit.
    pub tens: u64,
    /// The last digit.
    pub ones: u8,
    /// What was added last.
    pub latest: u64,
}

/// Version 4: a count for each key.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct V4 {
    /// What was counted before there were keys is under [`EARLIER`].
    pub counts: BTreeMap<String, u64>,
    /// What was added last.
    pub latest: u64,
}

/// Version 5: nobody needed what was added last; and an optional section says in which order keys came.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct V5 {
    /// As in version 4.
    pub counts: BTreeMap<String, u64>,
    /// What is in the section [`HISTORY`].
    #[serde(skip)]
    pub history: Vec<String>,
}

/// The key of what was counted before there were keys.
pub const EARLIER: &str = "earlier";
/// The optional section of version 5: the keys of all calls.
pub const HISTORY: &str = "history";

impl V1 {
    /// As version 2.
    pub fn up(self) -> Result<V2> {
        Ok(V2 { total: self.0, last: 0 })
    }
}

impl V2 {
    /// As version 3.
    pub fn up(self) -> Result<V3> {
        Ok(V3 { tens: self.total / 10, ones: (self.total % 10) as u8, latest: self.last })
    }

    /// As version 1.
    pub fn down(self) -> Result<V1> {
        Ok(V1(self.total))
    }
}

impl V3 {
    fn total(&self) -> Option<u64> {
        self.tens.checked_mul(10)?.checked_add(self.ones.into())
    }

    /// As version 4.
    ///
    /// # Errors
    /// The total is no number.
    pub fn up(self) -> Result<V4> {
        let total = self.total().context("the total is too large")?;
        Ok(V4 { counts: BTreeMap::from([(EARLIER.to_owned(), total)]), latest: self.latest })
    }

    /// As version 2.
    ///
    /// # Errors
    /// The total is no number.
    pub fn down(self) -> Result<V2> {
        Ok(V2 { total: self.total().context("the total is too large")?, last: self.latest })
    }
}

impl V4 {
    /// As version 5.
    pub fn up(self) -> Result<V5> {
        Ok(V5 { counts: self.counts, history: Vec::new() })
    }

    /// As version 3.
    ///
    /// # Errors
    /// All counts together are no number.
    pub fn down(self) -> Result<V3> {
        let total = self.counts.values().try_fold(0u64, |total, count| total.checked_add(*count));
        let total = total.context("the total is too large")?;
        Ok(V3 { tens: total / 10, ones: (total % 10) as u8, latest: self.latest })
    }
}

impl V5 {
    /// As version 4.
    pub fn down(self) -> Result<V4> {
        Ok(V4 { counts: self.counts, latest: 0 })
    }
}

impl Version for V1 {
    const NUMBER: u32 = 1;
    const READS_FROM: u32 = 1;
    const WRITES_FROM: u32 = 1;

    fn count(&mut self, _: &str, n: u64) {
        self.0 += n;
    }
    fn read(saved: &Saved) -> Result<Self> {
        Upgrade::from::<V1>(saved, 1).finish()
    }
    fn write(self, version: u32) -> Result<Saved> {
        Downgrade::from(self, 1, version)?.finish()
    }
}

impl Version for V2 {
    const NUMBER: u32 = 2;
    const READS_FROM: u32 = 1;
    const WRITES_FROM: u32 = 1;

    fn count(&mut self, _: &str, n: u64) {
        *self = V2 { total: self.total + n, last: n };
    }
    fn read(saved: &Saved) -> Result<Self> {
        Upgrade::from::<V1>(saved, 1).to(2, V1::up).finish()
    }
    fn write(self, version: u32) -> Result<Saved> {
        Downgrade::from(self, 2, version)?.to(1, V2::down)?.finish()
    }
}

impl Version for V3 {
    const NUMBER: u32 = 3;
    const READS_FROM: u32 = 1;
    const WRITES_FROM: u32 = 2;

    fn count(&mut self, _: &str, n: u64) {
        let ones = u64::from(self.ones) + n;
        *self = V3 { tens: self.tens + ones / 10, ones: (ones % 10) as u8, latest: n };
    }
    fn read(saved: &Saved) -> Result<Self> {
        Upgrade::from::<V1>(saved, 1).to(2, V1::up).to(3, V2::up).finish()
    }
    fn write(self, version: u32) -> Result<Saved> {
        Downgrade::from(self, 3, version)?.to(2, V3::down)?.finish()
    }
}

impl Version for V4 {
    const NUMBER: u32 = 4;
    const READS_FROM: u32 = 3;
    const WRITES_FROM: u32 = 4;

    fn count(&mut self, key: &str, n: u64) {
        *self.counts.entry(key.to_owned()).or_default() += n;
        self.latest = n;
    }
    fn read(saved: &Saved) -> Result<Self> {
        Upgrade::from::<V3>(saved, 3).to(4, V3::up).finish()
    }
    fn write(self, version: u32) -> Result<Saved> {
        Downgrade::from(self, 4, version)?.finish()
    }
}

impl Version for V5 {
    const NUMBER: u32 = 5;
    const READS_FROM: u32 = 2;
    const WRITES_FROM: u32 = 2;

    fn count(&mut self, key: &str, n: u64) {
        *self.counts.entry(key.to_owned()).or_default() += n;
        self.history.push(key.to_owned());
    }
    fn read(saved: &Saved) -> Result<Self> {
        let state = Upgrade::from::<V2>(saved, 2).to(3, V2::up).to(4, V3::up).to(5, V4::up).finish()?;
        let history = saved.section(HISTORY).map_or_else(|| Ok(Vec::new()), Section::decode)?;
        Ok(V5 { history, ..state })
    }
    fn write(self, version: u32) -> Result<Saved> {
        let history = Section::encode(HISTORY, &self.history)?.optional();
        let chain = Downgrade::from(self, 5, version)?.to(4, V5::down)?.to(3, V4::down)?.to(2, V3::down)?;
        Ok(chain.finish()?.with(history))
    }
}

/// What a build of a tally does.
pub struct Tallied<V>(Mutex<V>);

impl<V: Version> Tallied<V> {
    /// From an empty state, or from one that was handed over.
    pub fn new(state: V) -> Self {
        Tallied(Mutex::new(state))
    }

    /// See [`Tally::count`].
    pub fn count(&self, key: &str, n: u64) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).count(key, n);
    }

    /// The state, in one of the versions that the build writes.
    ///
    /// # Errors
    /// It cannot be brought back to that version.
    pub fn save_as(&self, version: u32) -> Result<Saved> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone().write(version)
    }
}

/// The build of a version, exported as plugin `tally`. It signs if any code of it runs.
#[macro_export]
macro_rules! tally {
    ($version:ident) => {
        use plugin_api::prelude::*;
        use reseat_tests::tally::{self, Tallied, Version};

        struct Build(Tallied<tally::$version>);

        impl Plugin for Build {
            const STATE_VERSION: u32 = tally::$version::NUMBER;
            const OLDEST_STATE: u32 = tally::$version::READS_FROM;
            const OLDEST_SAVED: u32 = tally::$version::WRITES_FROM;
            fn create(_: &Services) -> Result<Self> {
                Ok(Build(Tallied::new(Default::default())))
            }
            fn save(&self) -> Result<Saved> {
                self.0.save_as(Self::STATE_VERSION)
            }
            fn save_as(&self, version: u32) -> Result<Saved> {
                self.0.save_as(version)
            }
            fn restore(_: &Services, saved: Saved) -> Result<Self> {
                Ok(Build(Tallied::new(Version::read(&saved)?)))
            }
        }

        impl tally::Tally for Build {
            fn count(&self, key: &str, n: u64) {
                self.0.count(key, n);
            }
            fn state(&self) -> Result<String> {
                Ok(self.save()?.to_json()?.to_string())
            }
            fn build(&self) -> u32 {
                Self::STATE_VERSION
            }
        }

        export_plugin!(Build: tally::Tally, name = "tally");
        reseat_tests::canary!();
    };
}
