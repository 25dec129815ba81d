//! What an author implements.

use anyhow::{Result, ensure};

use crate::abi::{PluginContractRef, RawStopping};
use crate::desc::StateDesc;
use crate::export::Hooks;
use crate::services::Services;
use crate::state::{Encoding, Saved, StateWriter};

/// A plugin: what is created when its library is loaded, called by many threads at once, and replaced by
/// the next build's.
///
/// All hooks run on threads of the host, one at a time, in this order: [`create`](Plugin::create) or
/// [`restore`](Plugin::restore), [`started`](Plugin::started), [`self_check`](Plugin::self_check); while it serves perhaps
/// [`save`](Plugin::save), `self_check` again and [`leave_now`](Plugin::leave_now); at the end
/// [`stopping`](Plugin::stopping), and then it is dropped. A hook that returns an error or panics *before* the
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

    /// Something has begun to wait for the calls that are in flight: a reload, or the end of this instance. Ends those that
    /// would last (streams, long polls, calls that wait for something), so that nobody waits for them until a deadline; calls
    /// that are short need nothing. It runs beside calls, once for each such wait, and not at all if nobody is inside.
    ///
    /// It tells those who are inside now, and is no farewell: a reload may yet be refused, and then this instance serves
    /// on, and calls come again.
    fn leave_now(&self) {}

    /// No call will come any more. Stop what runs on its own (threads of [`Services::spawn`] have been told
    /// already and are joined after this). `why` says what comes after: what another build goes on with need not be
    /// undone by one that is [`Replaced`](Stopping::Replaced), say.
    fn stopping(&self, why: Stopping) {
        let _ = why;
    }
}

/// Why an instance stops: see [`Plugin::stopping`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Stopping {
    /// A newer build has taken over, with the state if there is one.
    Replaced,
    /// The build before has taken over again.
    RolledBack,
    /// The plugin was taken out of service, and the host goes on. Its state is gone.
    Removed,
    /// The host ends. A state is kept for the next one, if that was asked for.
    HostEnds,
    /// It has never served: it was refused after it had been created.
    NeverServed,
    /// A newer host has a reason that this build does not know.
    Other(u32),
}

impl Stopping {
    pub(crate) fn of(raw: RawStopping) -> Self {
        match raw {
            RawStopping::REPLACED => Stopping::Replaced,
            RawStopping::ROLLED_BACK => Stopping::RolledBack,
            RawStopping::REMOVED => Stopping::Removed,
            RawStopping::HOST_ENDS => Stopping::HostEnds,
            RawStopping::NEVER_SERVED => Stopping::NeverServed,
            RawStopping(other) => Stopping::Other(other),
        }
    }

    /// As it crosses the boundary.
    #[doc(hidden)]
    pub fn raw(self) -> RawStopping {
        match self {
            Stopping::Replaced => RawStopping::REPLACED,
            Stopping::RolledBack => RawStopping::ROLLED_BACK,
            Stopping::Removed => RawStopping::REMOVED,
            Stopping::HostEnds => RawStopping::HOST_ENDS,
            Stopping::NeverServed => RawStopping::NEVER_SERVED,
            Stopping::Other(other) => RawStopping(other),
        }
    }
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
