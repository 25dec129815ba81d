//! The macros of `reseat-plugin-api`. Use them through that crate, which documents them.
//!
//! They read declarations and write calls into `plugin_api::__private`; decisions about types are left to
//! traits there, so that an alias crosses exactly as the type it stands for.

mod abi_type;
mod check;
mod errors;
mod export;
mod interface;
mod method;
mod param;
mod place;
mod shared;

use proc_macro::TokenStream;
use syn::parse_macro_input;

/// See `plugin_api::interface`.
#[proc_macro_attribute]
pub fn interface(args: TokenStream, item: TokenStream) -> TokenStream {
    let args = parse_macro_input!(args as interface::Args);
    let item = parse_macro_input!(item as interface::Declaration).0;
    interface::expand(&args, item).unwrap_or_else(syn::Error::into_compile_error).into()
}

/// See `plugin_api::AbiType`.
#[proc_macro_derive(AbiType)]
pub fn derive_abi_type(item: TokenStream) -> TokenStream {
    let item = parse_macro_input!(item as syn::DeriveInput);
    abi_type::expand(&item).unwrap_or_else(syn::Error::into_compile_error).into()
}

/// See `plugin_api::Shared`.
#[proc_macro_derive(Shared)]
pub fn derive_shared(item: TokenStream) -> TokenStream {
    let item = parse_macro_input!(item as syn::DeriveInput);
    shared::expand(&item).unwrap_or_else(syn::Error::into_compile_error).into()
}

/// See `plugin_api::export_plugin`.
#[proc_macro]
pub fn export_plugin(args: TokenStream) -> TokenStream {
    let args = parse_macro_input!(args as export::Args);
    export::expand(&args).into()
}
