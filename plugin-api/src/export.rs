//! The plugin's side of the boundary: what `export_plugin!` puts into the library.

use std::ffi::c_void;
use std::marker::PhantomData;
use std::sync::Arc;

use abi_stable::StableAbi;
use abi_stable::prefix_type::WithMetadata;
use abi_stable::std_types::RStr;
use abi_stable::type_layout::TypeLayout;
use anyhow::{Result, bail, ensure};

use crate::abi::{
    GenerationRef, HostContractRef, InstanceRef, PluginContract, PluginContractRef, RawState, RawStopping,
    Reply, Status, Transfer,
};
use crate::contain::{Failure, contain, contain_raw, install_hook, remove_hook};
use crate::interface::{CallError, ExportedBy};
use crate::link;
use crate::plugin::{Identity, Plugin, Stopping};
use crate::services::Services;
use crate::state::{HostBytes, Saved, Section, SharedBytes, StateWriter};
use crate::transfer::{Outgoing, answer};
use crate::types::Lend;

/// What an [`InstanceRef`] points to.
pub struct Instance<P> {
    plugin: P,
    services: Services,
    /// Optional sections of the state that it does not know.
    unknown: Vec<Section>,
}

impl<P: Plugin + Identity> Instance<P> {
    pub(crate) fn create(config: String) -> Result<Self> {
        let unfinished = Unfinished(Services::new(P::NAME, config));
        let plugin = P::create(&unfinished.0)?;
        if P::STATE_VERSION == 0 {
            // A plugin that saves but forgot to say so would lose its state silently.
            let mut ignore = |_: &[u8]| {};
            let mut writer = StateWriter::new(0, &mut ignore);
            plugin.save_to(&mut writer)?;
            ensure!(
                writer.is_empty(),
                "plugin `{}` has a `save`, but no `const STATE_VERSION: u32 = 1;`: without it every reload would lose its state",
                P::NAME
            );
        }
        Ok(Instance { plugin, services: unfinished.finish(), unknown: Vec::new() })
    }

    pub(crate) fn restore(config: String, frame: SharedBytes) -> Result<Self> {
        let unfinished = Unfinished(Services::new(P::NAME, config));
        let saved = Saved::from_checked(frame)?;
        let plugin = P::restore(&unfinished.0, saved.clone())?;
        if let Some(section) = saved.not_looked_at().find(|section| section.is_required()) {
            bail!(
                "the state has a section `{}` that this build does not know and that must not be lost: load a build that knows it",
                section.name()
            );
        }
        let unknown = saved.not_looked_at().map(Section::to_owned_section).collect();
        Ok(Instance { plugin, services: unfinished.finish(), unknown })
    }

    pub(crate) fn save(&self, target: u32, sink: &mut dyn FnMut(&[u8])) -> Result<()> {
        let version = if target == 0 { P::STATE_VERSION } else { target };
        let mut writer = StateWriter::new(version, sink);
        self.plugin.save_to(&mut writer)?;
        let unknown = self.unknown.iter().filter(|_| P::STATE_VERSION != 0);
        for section in unknown.cloned() {
            if !writer.has(section.name()) {
                writer.put_section(section)?;
            }
        }
        writer.finish()
    }

    /// The end of an instance that no host has: what `stopping` does, without its door.
    pub(crate) fn stop(&self, why: Stopping) {
        self.services.stop_token().stop();
        self.plugin.stopping(why);
        self.services.join_threads();
    }

    pub(crate) fn plugin(&self) -> &P {
        &self.plugin
    }

    pub(crate) fn services(&self) -> &Services {
        &self.services
    }

    /// A call by name, as a host makes it.
    pub(crate) fn call<I>(&self, method: &str, arguments: &str) -> Result<String, CallError>
    where
        I: ExportedBy<P> + ?Sized,
    {
        let mut outgoing = Outgoing::new();
        let instance = (&raw const *self).cast();
        // SAFETY: the instance is one of `P` and lives for the call, as do both texts and the transfer.
        let reply = unsafe { I::DYNAMIC(instance, method.lend(), arguments.lend(), outgoing.head()) };
        match reply.status {
            Status::OK => Ok(outgoing.into_string()),
            failed => Err(CallError::of(failed, outgoing.into_string())),
        }
    }
}

/// The services of an instance that may yet fail to come about: then its threads are joined at once, because
/// nobody else will know of them.
struct Unfinished(Services);

impl Unfinished {
    fn finish(self) -> Services {
        let this = std::mem::ManuallyDrop::new(self);
        // SAFETY: read once, out of a value that is never dropped.
        unsafe { std::ptr::read(&this.0) }
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        self.0.join_threads();
    }
}

/// The plugin behind an instance pointer.
///
/// # Safety
/// `instance` came from this library's `create` or `restore`, for a plugin of type `P`, and has not been
/// destroyed.
#[inline(always)]
pub unsafe fn plugin<'a, P>(instance: *const c_void) -> &'a P {
    // SAFETY: promised by the caller.
    unsafe { &(*instance.cast::<Instance<P>>()).plugin }
}

/// The functions of a plugin's life, for one plugin type.
pub struct Hooks<P>(PhantomData<P>);

impl<P: Plugin + Identity> Hooks<P> {
    const TABLE: &'static WithMetadata<PluginContract> = &WithMetadata::new(PluginContract {
        attach: Self::attach,
        create: Self::create,
        restore: Self::restore,
        save: Self::save,
        started: Self::started,
        self_check: Self::self_check,
        leave_now: Self::leave_now,
        stopping: Self::stopping,
        destroy: Self::destroy,
        detach: Self::detach,
    });

    /// The table for the descriptor.
    pub const CONTRACT: PluginContractRef = PluginContractRef(Self::TABLE.static_as_prefix());

    unsafe extern "C" fn attach(host: HostContractRef, generation: GenerationRef) {
        link::attach(host, generation);
        install_hook();
    }

    unsafe extern "C" fn detach() {
        remove_hook();
        link::detach();
    }

    unsafe extern "C" fn create(config: RStr<'static>, transfer: *mut Transfer) -> Reply<InstanceRef> {
        // SAFETY: the host lends the configuration and the transfer for this call.
        unsafe {
            let config = <str as Lend>::borrow(config);
            contain_raw(transfer, || Ok(Self::hand_out(Instance::create(config.to_owned())?)))
        }
    }

    unsafe extern "C" fn restore(
        config: RStr<'static>,
        saved: RawState,
        transfer: *mut Transfer,
    ) -> Reply<InstanceRef> {
        // SAFETY: the host lends configuration and transfer for this call, and hands the state over.
        unsafe {
            let config = <str as Lend>::borrow(config);
            let saved = HostBytes::new(saved);
            contain_raw(transfer, || {
                Ok(Self::hand_out(Instance::restore(config.to_owned(), Arc::new(saved))?))
            })
        }
    }

    unsafe extern "C" fn save(
        instance: InstanceRef,
        target: u32,
        state: *mut Transfer,
        transfer: *mut Transfer,
    ) -> Reply<()> {
        // SAFETY: the host passes a live instance of this library, and its transfers.
        unsafe {
            contain_raw(transfer, || {
                Ok(Self::instance(instance).save(target, &mut |bytes| answer(state, bytes))?)
            })
        }
    }

    unsafe extern "C" fn started(instance: InstanceRef, transfer: *mut Transfer) -> Reply<()> {
        // SAFETY: as for `save`.
        unsafe { contain(transfer, || Ok(Self::instance(instance).plugin.started()?)) }
    }

    unsafe extern "C" fn self_check(instance: InstanceRef, transfer: *mut Transfer) -> Reply<()> {
        // SAFETY: as for `save`.
        unsafe { contain(transfer, || Ok(Self::instance(instance).plugin.self_check()?)) }
    }

    unsafe extern "C" fn leave_now(instance: InstanceRef, transfer: *mut Transfer) -> Reply<()> {
        // SAFETY: as for `save`.
        unsafe {
            contain_raw(transfer, || {
                Self::instance(instance).plugin.leave_now();
                Ok(())
            })
        }
    }

    unsafe extern "C" fn stopping(
        instance: InstanceRef,
        why: RawStopping,
        transfer: *mut Transfer,
    ) -> Reply<()> {
        // SAFETY: as for `save`.
        unsafe {
            let instance = Self::instance(instance);
            instance.services.stop_token().stop();
            let told = contain_raw(transfer, || {
                instance.plugin.stopping(Stopping::of(why));
                Ok(())
            });
            // Joined whether the hook panicked or not: a thread that runs on would keep the library.
            let joined = contain_raw(transfer, || {
                instance.services.join_threads();
                Ok(())
            });
            if told.status == Status::OK { joined } else { told }
        }
    }

    unsafe extern "C" fn destroy(instance: InstanceRef, transfer: *mut Transfer) -> Reply<()> {
        // SAFETY: the host passes each instance once, last; `hand_out` made it from a box.
        unsafe {
            contain_raw(transfer, || {
                drop(Box::from_raw(instance.0.cast::<Instance<P>>().cast_mut()));
                Ok::<_, Failure>(())
            })
        }
    }

    fn hand_out(instance: Instance<P>) -> InstanceRef {
        InstanceRef(Box::into_raw(Box::new(instance)).cast_const().cast())
    }

    unsafe fn instance<'a>(instance: InstanceRef) -> &'a Instance<P> {
        // SAFETY: promised by the callers.
        unsafe { &*instance.0.cast() }
    }
}

/// The layout of the plugin's contract, for the host's second check.
pub extern "C" fn contract_layout() -> &'static TypeLayout {
    <PluginContractRef as StableAbi>::LAYOUT
}

/// The layout of the host's contract as this build expects it.
pub extern "C" fn host_layout() -> &'static TypeLayout {
    <HostContractRef as StableAbi>::LAYOUT
}

/// What `export_plugin!` expands to once its arguments are understood.
///
/// Everything is asked of `Exported` and `ExportedBy`: then a type that is no plugin, or does not implement
/// the interface, is one error.
#[doc(hidden)]
#[macro_export]
macro_rules! __export {
    (
        $plugin:ty, $name:expr, $version:expr, [$($interface:ty),+ $(,)?],
        requires: [$(($required:ty, $least:expr, $optional:expr)),* $(,)?], heap: $heap:expr
    ) => {
        impl $crate::__private::Identity for $plugin {
            const NAME: &'static str = $name;
            const VERSION: &'static str = $version;
        }

        // A module, so that this may stand in a function, as in a documentation test.
        #[cfg(not(test))]
        mod __reseat_capture {
            $crate::__capture!();
        }

        const _: () = {
            use $crate::__private as __reseat;

            const DESC: __reseat::desc::ManifestDesc = __reseat::desc::ManifestDesc {
                plugin: <$plugin as __reseat::Exported>::NAME,
                version: <$plugin as __reseat::Exported>::VERSION,
                state: <$plugin as __reseat::Exported>::STATE,
                panic: if cfg!(panic = "unwind") { "unwind" } else { "abort" },
                profile: if cfg!(debug_assertions) { "debug" } else { "release" },
                interfaces: &[$(<$interface as __reseat::ExportedBy<$plugin>>::DESCRIPTION),+],
                requires: &[$(__reseat::desc::RequirementDesc::new(
                    <$required as __reseat::Interface>::DESC,
                    $least,
                    $optional,
                )),*],
            };

            const _: () = assert!(
                __reseat::desc::is_plugin_name($name),
                "a plugin's name consists of 1 to 64 of a-z, 0-9, `_` and `-`, and begins with a letter or digit: say `name = \"…\"` in export_plugin!"
            );
            const _: () = assert!(
                <$plugin as __reseat::Exported>::STATE_IS_POSSIBLE,
                "OLDEST_STATE and OLDEST_SAVED lie between 1 and STATE_VERSION"
            );

            // Rendering a large interface takes the compiler a while; that is not a mistake.
            #[allow(long_running_const_eval)]
            const LEN: usize = __reseat::render::manifest::<0>(&DESC).len.next_multiple_of(4);
            #[allow(long_running_const_eval)]
            const TEXT: __reseat::render::Text<LEN> = __reseat::render::manifest::<LEN>(&DESC);

            // In the plugin's own crate: a static in a dependency would not be linked in.
            #[used]
            #[cfg_attr(target_os = "linux", unsafe(link_section = ".note.reseat"))]
            static NOTE: __reseat::render::Note<LEN> = __reseat::render::Note::new(TEXT.bytes);

            #[cfg(not(test))]
            #[unsafe(no_mangle)]
            static RESEAT_PLUGIN: __reseat::abi::Descriptor = __reseat::abi::Descriptor {
                magic: __reseat::abi::MAGIC,
                boundary: __reseat::abi::BOUNDARY_VERSION,
                size: ::core::mem::size_of::<__reseat::abi::Descriptor>() as u32,
                manifest_hash: TEXT.hash,
                contract_layout: __reseat::export::contract_layout,
                host_layout: __reseat::export::host_layout,
                contract: <$plugin as __reseat::Exported>::CONTRACT,
                interfaces: __reseat::RSlice::from_slice(&[
                    $(<$interface as __reseat::ExportedBy<$plugin>>::EXPORT),+
                ]),
                heap: $heap,
            };
        };
    };
}
