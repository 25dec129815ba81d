//! `#[derive(Shared)]`: structs of atomics whose memory builds hand on to one another.

use proc_macro2::TokenStream;
use quote::quote;
use syn::ext::IdentExt;
use syn::spanned::Spanned;
use syn::{Data, DeriveInput, Error, Index, Member};

use crate::place::on;

pub fn expand(item: &DeriveInput) -> syn::Result<TokenStream> {
    if let Some(param) = item.generics.params.first() {
        return Err(Error::new(
            param.span(),
            "a struct that is shared between builds cannot be generic: builds tell one layout from another",
        ));
    }
    let fields = match &item.data {
        Data::Struct(data) => &data.fields,
        Data::Enum(data) => {
            return Err(Error::new(
                data.enum_token.span(),
                "an enum cannot be shared between builds: not any number is one of its variants; keep an atomic integer",
            ));
        }
        Data::Union(data) => {
            return Err(Error::new(
                data.union_token.span(),
                "a union cannot be shared between builds: nobody can tell which field is meant",
            ));
        }
    };
    check_repr(item)?;
    let (name, text) = (&item.ident, item.ident.unraw().to_string());
    let types: Vec<_> = fields.iter().map(|field| &field.ty).collect();
    let members: Vec<_> = fields
        .iter()
        .enumerate()
        .map(|(index, field)| field.ident.clone().map_or_else(|| Member::from(index), Member::from))
        .collect();
    let texts = members.iter().map(|member| match member {
        Member::Named(ident) => ident.unraw().to_string(),
        Member::Unnamed(Index { index, .. }) => index.to_string(),
    });
    let layouts: Vec<_> = types.iter().map(|ty| on(ty, quote!(Shared), None, quote!(LAYOUT))).collect();
    Ok(quote! {
        #[allow(deprecated, private_bounds)]
        const _: () = {
            use ::plugin_api::__private as __reseat;

            // Where a field cannot be shared, this is the error; the bounds below take it for granted.
            const _: &[&__reseat::desc::TypeDesc] = &[#(#layouts),*];

            // SAFETY: `#[repr(C)]`, and each field is shared: any bytes are a value, and only atomics change them. The
            // description is that of its memory.
            #[diagnostic::do_not_recommend]
            unsafe impl __reseat::Shared for #name
            where
                #(for<'__a> #types: __reseat::Shared,)*
            {
                const LAYOUT: &'static __reseat::desc::TypeDesc = &__reseat::desc::TypeDesc::Struct {
                    name: #text,
                    fields: &[#(__reseat::desc::FieldDesc {
                        name: #texts,
                        offset: ::core::mem::offset_of!(#name, #members),
                        ty: #layouts,
                    }),*],
                    size: ::core::mem::size_of::<#name>(),
                    align: ::core::mem::align_of::<#name>(),
                };
            }
        };
    })
}

/// A packed one is refused by the compiler: atomics state their alignment.
fn check_repr(item: &DeriveInput) -> syn::Result<()> {
    let mut is_c = false;
    for attr in item.attrs.iter().filter(|attr| attr.path().is_ident("repr")) {
        attr.parse_nested_meta(|meta| {
            if meta.input.peek(syn::token::Paren) {
                // `align(64)` is part of the description, as the compiler understands it.
                let argument;
                syn::parenthesized!(argument in meta.input);
                argument.parse::<TokenStream>()?;
            }
            is_c |= meta.path.is_ident("C");
            Ok(())
        })?;
    }
    if is_c {
        return Ok(());
    }
    Err(Error::new(
        item.ident.span(),
        "a struct that is shared between builds has `#[repr(C)]`: without it each build may lay it out in its own way",
    ))
}
