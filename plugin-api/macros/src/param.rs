//! One parameter of a method, and how it crosses.

use proc_macro2::TokenStream;
use quote::{format_ident, quote};
use syn::ext::IdentExt;
use syn::spanned::Spanned;
use syn::{Error, Ident, Pat, PatType, Type};

use crate::check::{kind, refuse_cfg};
use crate::place::{call_on, on};

pub struct Param {
    pub name: Ident,
    pub kind: Kind,
}

pub enum Kind {
    /// `T`: crosses in parts.
    Value(Type),
    /// `&T`: lent.
    Lent(Type),
    /// `&mut dyn FnMut(…)`: called back.
    Callback(Type),
}

impl Param {
    pub fn parse(index: usize, param: &PatType) -> syn::Result<Self> {
        refuse_cfg(&param.attrs)?;
        let name = match &*param.pat {
            Pat::Ident(pat) if pat.subpat.is_none() => pat.ident.clone(),
            Pat::Wild(_) => format_ident!("arg{index}"),
            other => {
                return Err(Error::new(other.span(), "a parameter of an interface method is a plain name"));
            }
        };
        Ok(Param { name, kind: kind(&param.ty)? })
    }

    pub fn guard(&self) -> Ident {
        format_ident!("__guard_{}", self.name.unraw())
    }

    /// Rebinds the parameter's name to its crossing form.
    pub fn lower(&self) -> TokenStream {
        let name = &self.name;
        match &self.kind {
            Kind::Value(_) => {
                let lower = self.kind.call(quote!(lower), quote!(#name, &mut __tail));
                quote!(let #name = #lower;)
            }
            Kind::Lent(_) => {
                let lend = self.kind.call(quote!(lend), quote!(#name));
                quote!(let #name = #lend;)
            }
            Kind::Callback(_) => {
                let guard = self.guard();
                let lend = self.kind.call(quote!(lend), quote!(&mut #guard));
                quote! {
                    let mut #guard = __reseat::CallbackGuard::new(#name);
                    let #name = #lend;
                }
            }
        }
    }

    /// Rebinds the parameter's name to its value.
    pub fn lift(&self) -> TokenStream {
        let name = &self.name;
        match &self.kind {
            Kind::Value(_) => {
                let lift = self.kind.call(quote!(lift), quote!(#name, &mut __tail));
                quote!(let #name = #lift?;)
            }
            Kind::Lent(_) => {
                let borrow = self.kind.call(quote!(borrow), quote!(#name));
                quote!(let #name = #borrow;)
            }
            Kind::Callback(_) => quote!(),
        }
    }
}

impl Kind {
    pub const fn ty(&self) -> &Type {
        match self {
            Kind::Value(ty) | Kind::Lent(ty) | Kind::Callback(ty) => ty,
        }
    }

    pub fn written(&self) -> TokenStream {
        match self {
            Kind::Value(ty) => quote!(#ty),
            Kind::Lent(ty) => quote!(&#ty),
            Kind::Callback(ty) => quote!(&mut (#ty)),
        }
    }

    /// The trait that says how it crosses.
    pub fn trait_name(&self) -> TokenStream {
        match self {
            Kind::Value(_) => quote!(AbiType),
            Kind::Lent(_) => quote!(Lend),
            Kind::Callback(_) => quote!(Callback),
        }
    }

    /// Calls a function of that trait.
    pub fn call(&self, function: TokenStream, arguments: TokenStream) -> TokenStream {
        call_on(self.ty(), self.trait_name(), None, function, arguments)
    }

    pub fn description(&self) -> TokenStream {
        on(self.ty(), self.trait_name(), None, quote!(DESC))
    }

    pub fn abi(&self) -> TokenStream {
        match self {
            Kind::Value(ty) => on(ty, quote!(AbiType), None, quote!(Inline)),
            Kind::Lent(ty) => on(ty, quote!(Lend), None, quote!(Abi)),
            Kind::Callback(_) => quote!(::plugin_api::__private::abi::RawCallback),
        }
    }

    /// What a caller without static types keeps the value in.
    pub fn owned(&self) -> TokenStream {
        match self {
            Kind::Lent(ty) => on(ty, quote!(Lend), None, quote!(Owned)),
            Kind::Value(ty) | Kind::Callback(ty) => quote!(#ty),
        }
    }
}
