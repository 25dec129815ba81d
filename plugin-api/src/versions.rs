//! Chains of conversions between the versions of a plugin's state.
//!
//! Each version is a type of its own, and each step knows two of them: what came before a version need not be thought
//! of again when the next one comes.

use anyhow::{Context, Result, bail};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::state::Saved;

/// Reads a state of any known version as the newest one.
///
/// ```
/// use plugin_api::prelude::*;
/// use plugin_api::versions::Upgrade;
///
/// #[derive(Serialize, Deserialize)]
/// struct V1(u64);
/// #[derive(Serialize, Deserialize)]
/// struct V2 { total: u64 }
/// #[derive(Serialize, Deserialize)]
/// struct V3 { total: u64, names: Vec<String> }
///
/// fn read(saved: &Saved) -> Result<V3> {
///     Upgrade::from::<V1>(saved, 1)
///         .to(2, |V1(total)| Ok(V2 { total }))
///         .to(3, |V2 { total }| Ok(V3 { total, names: Vec::new() }))
///         .finish()
/// }
///
/// let saved = Saved::encode(&V1(5))?.with_version(1);
/// assert_eq!(read(&saved)?.total, 5);
/// # Ok::<(), anyhow::Error>(())
/// ```
#[must_use = "`finish` gives the value"]
pub struct Upgrade<'s, T> {
    saved: &'s Saved,
    /// Nothing was read yet, the version is a newer one; or what was read, converted so far.
    value: Result<Option<T>>,
}

impl<'s> Upgrade<'s, ()> {
    /// Begins with the oldest version that is known.
    pub fn from<T: DeserializeOwned>(saved: &'s Saved, version: u32) -> Upgrade<'s, T> {
        Upgrade { saved, value: read(saved, version) }
    }
}

impl<'s, T> Upgrade<'s, T> {
    /// The next version, and how the one before becomes it.
    pub fn to<U: DeserializeOwned>(
        self,
        version: u32,
        convert: impl FnOnce(T) -> Result<U>,
    ) -> Upgrade<'s, U> {
        let Upgrade { saved, value } = self;
        let value = value.and_then(|value| match value {
            Some(value) => {
                convert(value).map(Some).with_context(|| format!("the step to state version {version}"))
            }
            None => read(saved, version),
        });
        Upgrade { saved, value }
    }

    /// The state in the newest version.
    ///
    /// # Errors
    /// Its version is none of those, it cannot be read as what it claims to be, or a step has failed: the error says
    /// which.
    pub fn finish(self) -> Result<T> {
        match self.value? {
            Some(value) => Ok(value),
            None => bail!(self.saved.unsupported(self.saved.version())),
        }
    }
}

fn read<T: DeserializeOwned>(saved: &Saved, version: u32) -> Result<Option<T>> {
    if saved.version() == version { saved.decode().map(Some) } else { Ok(None) }
}

/// Writes a state in an older version: for [`Plugin::save_as`](crate::Plugin::save_as).
///
/// ```
/// # use plugin_api::prelude::*;
/// # use plugin_api::versions::Downgrade;
/// # #[derive(Serialize, Deserialize)] struct V1(u64);
/// # #[derive(Serialize, Deserialize)] struct V2 { total: u64 }
/// # #[derive(Serialize, Deserialize)] struct V3 { total: u64, names: Vec<String> }
/// fn save_as(state: V3, version: u32) -> Result<Saved> {
///     Downgrade::from(state, 3, version)?
///         .to(2, |V3 { total, .. }| Ok(V2 { total }))?
///         .to(1, |V2 { total }| Ok(V1(total)))?
///         .finish()
/// }
///
/// let saved = save_as(V3 { total: 5, names: vec!["alice".into()] }, 2)?;
/// assert_eq!((saved.version(), saved.decode::<V2>()?.total), (2, 5));
/// # Ok::<(), anyhow::Error>(())
/// ```
#[must_use = "`finish` gives what is to be saved"]
pub struct Downgrade<T> {
    /// The value in the version that was come to, until the one that is wanted has been written.
    value: Option<T>,
    wanted: u32,
    written: Option<Saved>,
}

impl<T: Serialize> Downgrade<T> {
    /// Begins with the newest version.
    ///
    /// # Errors
    /// It is the one that is wanted, and cannot be written.
    pub fn from(value: T, version: u32, wanted: u32) -> Result<Self> {
        let start = Downgrade { value: Some(value), wanted, written: None };
        start.write_at(version)
    }

    /// The version before, and how this one becomes it.
    ///
    /// # Errors
    /// The step has failed, or what is wanted cannot be written: the error says which.
    pub fn to<U: Serialize>(
        self,
        version: u32,
        convert: impl FnOnce(T) -> Result<U>,
    ) -> Result<Downgrade<U>> {
        let Downgrade { value, wanted, written } = self;
        let value = value
            .map(|value| convert(value).with_context(|| format!("the step back to state version {version}")))
            .transpose()?;
        Downgrade { value, wanted, written }.write_at(version)
    }

    fn write_at(mut self, version: u32) -> Result<Self> {
        if version == self.wanted
            && let Some(value) = self.value.take()
        {
            self.written = Some(Saved::encode(&value)?.with_version(version));
        }
        Ok(self)
    }

    /// What is to be saved.
    ///
    /// # Errors
    /// The version that is wanted was not come to.
    pub fn finish(self) -> Result<Saved> {
        let wanted = self.wanted;
        self.written.with_context(|| format!("this build cannot write state version {wanted}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::ensure;
    use serde::Deserialize;

    #[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
    struct V1(u64);
    #[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
    struct V2 {
        total: u64,
    }
    #[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
    struct V3 {
        total: u64,
        twice: u64,
    }

    fn read(saved: &Saved) -> Result<V3> {
        Upgrade::from::<V1>(saved, 1)
            .to(2, |V1(total)| {
                ensure!(total != 13, "13 cannot be brought forward");
                Ok(V2 { total })
            })
            .to(3, |V2 { total }| Ok(V3 { total, twice: 2 * total }))
            .finish()
    }

    fn write(value: V3, version: u32) -> Result<Saved> {
        Downgrade::from(value, 3, version)?
            .to(2, |V3 { total, .. }| Ok(V2 { total }))?
            .to(1, |V2 { total }| {
                ensure!(total != 13, "13 cannot be brought back");
                Ok(V1(total))
            })?
            .finish()
    }

    #[test]
    fn a_state_of_any_version_comes_to_the_newest_and_back_to_any() {
        let newest = V3 { total: 7, twice: 14 };
        for version in 1..=3 {
            let saved = write(newest.clone(), version).unwrap();
            assert_eq!(saved.version(), version);
            assert_eq!(read(&saved).unwrap(), newest);
        }
    }

    #[test]
    fn what_is_not_known_or_not_possible_is_said_with_the_version() {
        let unknown = Saved::encode(&5u64).unwrap().with_version(4);
        assert!(read(&unknown).unwrap_err().to_string().contains("cannot read state version 4"));
        let wrong = Saved::encode("text").unwrap().with_version(2);
        assert!(read(&wrong).unwrap_err().to_string().contains("state version 2 cannot be read as"));
        let unlucky = Saved::encode(&V1(13)).unwrap().with_version(1);
        assert_eq!(
            format!("{:#}", read(&unlucky).unwrap_err()),
            "the step to state version 2: 13 cannot be brought forward"
        );
        let thirteen = V3 { total: 13, twice: 26 };
        assert_eq!(
            format!("{:#}", write(thirteen, 1).unwrap_err()),
            "the step back to state version 1: 13 cannot be brought back"
        );
        let seven = V3 { total: 7, twice: 14 };
        assert_eq!(write(seven, 5).unwrap_err().to_string(), "this build cannot write state version 5");
    }
}
