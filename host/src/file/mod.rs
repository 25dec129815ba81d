//! Plugin files as bytes: when one is complete, whether it may be opened, and a private copy to open.
//!
//! The steps before a new generation may be opened, in order:
//!
//! 1. **settle**: [`Settling`] finds out when nobody writes the file any more;
//! 2. **stage**: [`StagingDir::copy`] makes a private copy, everything after works on that;
//! 3. **vet**: [`vet_bytes`] reads the copy, and [`Manifest`] is what the plugin says about itself;
//!    [`check_owner`] asks who could have changed the original, and [`NotSigned`] is said where signatures are
//!    asked for;
//! 4. [`compare`](compare()) decides whether an interface fits, and [`Incoming::name`] gives the copy its
//!    name.
//!
//! Nothing in here opens a library, runs code of one, or starts a thread. What parses is total: hostile bytes
//! give an error.

mod compare;
mod difference;
mod draft;
mod elf;
mod error;
mod example;
mod grammar;
mod hash;
mod identity;
mod lease;
mod manifest;
mod needed;
mod run_dir;
mod settle;
mod signature;
mod signed;
mod stage;
mod trust;
mod vet;

#[cfg(test)]
mod tests;

pub use compare::{Compatibility, Difference, InterfaceDifference, MethodDifference, compare};
pub use draft::is_plugin_name;
pub use error::{DescriptorFault, Exposure, FILE_LIMIT, FileKind, Part, VetError};
pub use hash::{ContentHash, InvalidContentHash};
pub(crate) use identity::FileIdentity;
pub use manifest::{
    InterfaceManifest, InterfaceVersion, InvalidInterfaceVersion, MANIFEST_LIMIT, MANIFEST_VERSION, Manifest,
    ManifestError, MethodManifest, PanicStrategy, RequirementManifest, StateVersions,
};
pub use settle::{Progress, Settling, UNWITNESSED, WaitReason};
pub use signature::{
    DEPTH_LIMIT, Field, Payload, Primitive, Signature, SignatureError, Type, Variant, example_args, human,
};
pub use signed::{KeyId, NotAKey, NotSigned, SIGNATURE_ENDING, TrustedKey, signature_of};
pub(crate) use signed::{SignatureAt, beside, check_signed, claimed_signer};
pub use stage::{Incoming, Kept, StageError, Staged, StagingDir, clear_nodelete};
pub use trust::check_owner;
pub use vet::{Expect, Facts, Vetted, open_file, vet_bytes, vet_path};
