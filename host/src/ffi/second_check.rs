//! The second check: `abi_stable` compares the two tables of functions after the library is open.
//!
//! The checker's global maps keep references into libraries and crash the process after an unload, so only
//! the entry point with private maps is used, and errors become text of the host while the library is mapped.
//! It accepts an interface that the implementation extends, but not the other way round; since both sides may
//! be the older one here, it is asked in both directions.

use abi_stable::StableAbi;
use abi_stable::abi_stability::abi_checking::{CheckingGlobals, check_layout_compatibility_with_globals};
use abi_stable::type_layout::TypeLayout;
use plugin_api::abi::{Descriptor, HostContractRef, PluginContractRef};

/// Compares both tables.
///
/// # Errors
/// What differs.
pub(super) fn check(descriptor: &Descriptor) -> Result<(), String> {
    let tables = [
        ("the plugin's functions", <PluginContractRef as StableAbi>::LAYOUT, (descriptor.contract_layout)()),
        ("the host's functions", <HostContractRef as StableAbi>::LAYOUT, (descriptor.host_layout)()),
    ];
    for (what, ours, theirs) in tables {
        fits(ours, theirs).map_err(|difference| format!("{what} differ: {difference}"))?;
    }
    Ok(())
}

fn fits(ours: &'static TypeLayout, theirs: &'static TypeLayout) -> Result<(), String> {
    let ask = |interface, implementation| {
        check_layout_compatibility_with_globals(interface, implementation, &CheckingGlobals::new())
            .map_err(|errors| errors.to_string())
    };
    ask(ours, theirs).or_else(|first| ask(theirs, ours).map_err(|_| first))
}
