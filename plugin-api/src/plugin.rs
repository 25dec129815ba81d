//! What an author implements.

use anyhow::{Result, ensure};

use crate::abi::PluginContractRef;
use crate::desc::StateDesc;
use crate::export::Hooks;
use crate::services::Services;
use crate::state::{Encoding, Saved, StateWriter};

/// A plugin: what is created when its library is loaded, called by many threads at once, and replaced by
/// the next build's.
///
/// All hooks run on threads of the host, one at a time. A hook that returns an error or panics *before* the
/// new generation serves refuses the reload: the old one keeps answering, with its state untouched.
///
/// # What is not promised
/// A plugin is native code in the host's process. A wild pointer, an `abort()` or a stack overflow in it
/// ends the host.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a plugin: it does not implement `Plugin`",
    label = "no `impl Plugin`",
    note = "the least is `impl Plugin for {Self} {{ fn create(host: &Services) -> Result<Self> {{ … }} }}`"
)]
pub trait Plugin: Sized + Send + Sync + 'static {
    /// The version of the state that [`Plugin::save`] writes. 0, the default: the plugin is *stateless*,
    /// every generation starts with [`Plugin::create`], and a reload makes no caller wait.
    const STATE_VERSION: u32 = 0;

    /// The oldest state version that [`Plugin::restore`] reads. A reload that would have to read an older
    /// one is refused before any code runs.
    const OLDEST_STATE: u32 = 1;

    /// The oldest state version that [`Plugin::save_as`] writes. A build that reads none of those from this one to
    /// `STATE_VERSION` cannot take over from this one: an earlier build that is put in its place, say. That is refused
    /// before any code runs.
    const OLDEST_SAVED: u32 = Self::STATE_VERSION;

    /// Whether [`Plugin::save`] gives a state that makes sense while calls go on. Only then does a host take copies of it
    /// every now and then, for the case that its process is killed, and try the next build on a copy of what is now. A
    /// plugin whose state is behind one lock, or whose parts are true each by itself, can say so; one that would be torn
    /// between two parts that must agree, cannot.
    const SAVES_BESIDE_CALLS: bool = false;

    /// Starts empty.
    ///
    /// # Errors
    /// Whatever makes it impossible to serve, e.g. a bad configuration. The load is refused.
    fn create(host: &Services) -> Result<Self>;

    /// Writes the state. It is called while no call is in flight, and also while calls go on if
    /// [`Plugin::SAVES_BESIDE_CALLS`]. Must not change `self`, because a reload that is refused afterwards goes on with
    /// it. May be called more than once.
    ///
    /// Threads that the plugin has begun itself run on meanwhile: what they change between this and the moment at which
    /// the next build serves is lost with the old one.
    ///
    /// # Errors
    /// The state cannot be written. The reload is refused.
    fn save(&self) -> Result<Saved> {
        Ok(Saved::none())
    }

    /// Writes the state in an older version, for an earlier build that is to take over again: this one has proved
    /// bad, or somebody has put it there. A plugin that does not say how writes its own version only; one that does
    /// states from where on in [`Plugin::OLDEST_SAVED`]. For more than one older version see [`Downgrade`](crate::versions::Downgrade).
    ///
    /// # Errors
    /// The state cannot be written in that version. What happens then is for the host to decide: it goes back to the
    /// state that was handed over to this build, or stays with this build.
    fn save_as(&self, version: u32) -> Result<Saved> {
        ensure!(
            version == Self::STATE_VERSION,
            "this build writes state version {}, asked for was {version}: implement `save_as`",
            Self::STATE_VERSION
        );
        self.save()
    }

    /// Writes the state in the version that `out` wants, which [`Plugin::OLDEST_SAVED`] says is possible. Implement this
    /// instead of [`Plugin::save`] and [`Plugin::save_as`] if the state is too large to be held twice: what is written
    /// goes straight into memory of the host.
    ///
    /// # Errors
    /// As for those.
    fn save_to(&self, out: &mut StateWriter<'_>) -> Result<()> {
        let own = out.version() == Self::STATE_VERSION;
        out.put(if own { self.save()? } else { self.save_as(out.version())? })
    }

    /// Starts from the state of an earlier build. `saved.version()` says which version it is; for more than two versions
    /// see [`Upgrade`](crate::versions::Upgrade). A plugin that
    /// does not say how takes over nothing: it starts empty where nothing was saved, and refuses otherwise.
    ///
    /// Sections that it does not ask for are unknown to it: a required one refuses the reload, by its name; an optional
    /// one is kept, and handed on when this build saves.
    ///
    /// # Errors
    /// The state cannot be read. The reload is refused, the old generation keeps its state.
    fn restore(host: &Services, saved: Saved) -> Result<Self> {
        ensure!(
            saved.encoding() == Encoding::None,
            "plugin `{}` has no `restore`: this build cannot take over state version {}",
            host.name(),
            saved.version()
        );
        Self::create(host)
    }

    /// About to serve: start background threads here (see [`Services::spawn`]), not earlier.
    ///
    /// # Errors
    /// It cannot serve. The reload is refused.
    fn started(&self) -> Result<()> {
        Ok(())
    }

    /// Is this instance fit to serve? Asked before it serves; the last veto.
    ///
    /// # Errors
    /// It is not, and why. The reload is refused.
    fn self_check(&self) -> Result<()> {
        Ok(())
    }

    /// No call will come any more. Stop what runs on its own (threads of [`Services::spawn`] have been told
    /// already and are joined after this).
    fn stopping(&self) {}
}

/// Name and version of a plugin; written by `export_plugin!`.
pub trait Identity {
    /// The plugin's name: its identity across builds.
    const NAME: &'static str;
    /// The version of this build, from its `Cargo.toml`.
    const VERSION: &'static str;
}

/// What `export_plugin!` asks of a plugin, all in one place: a type that is none is then one error.
#[doc(hidden)]
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a plugin: it does not implement `Plugin`",
    label = "no `impl Plugin`",
    note = "the least is `impl Plugin for {Self} {{ fn create(host: &Services) -> Result<Self> {{ … }} }}`"
)]
pub trait Exported {
    const NAME: &'static str;
    const VERSION: &'static str;
    const STATE: StateDesc;
    const STATE_IS_POSSIBLE: bool;
    const CONTRACT: PluginContractRef;
}

impl<P: Plugin + Identity> Exported for P {
    const NAME: &'static str = <P as Identity>::NAME;
    const VERSION: &'static str = <P as Identity>::VERSION;
    const STATE: StateDesc = StateDesc {
        writes: P::STATE_VERSION,
        writes_from: P::OLDEST_SAVED,
        reads_from: P::OLDEST_STATE,
        beside_calls: P::SAVES_BESIDE_CALLS,
    };
    const STATE_IS_POSSIBLE: bool = P::STATE_VERSION == 0
        || (1 <= P::OLDEST_STATE
            && P::OLDEST_STATE <= P::STATE_VERSION
            && 1 <= P::OLDEST_SAVED
            && P::OLDEST_SAVED <= P::STATE_VERSION);
    const CONTRACT: PluginContractRef = Hooks::<P>::CONTRACT;
}
