//! `#[derive(AbiType)]` on structs and enums.
//!
//! A struct crosses as a C struct of its fields' inline parts. With `#[repr(C)]` its own memory is the same
//! as that, and it can be lent by reference too. An enum crosses as its discriminant; what its variants carry
//! goes into the tail.

use proc_macro2::{Span, TokenStream, TokenTree};
use quote::{ToTokens, format_ident, quote};
use syn::ext::IdentExt;
use syn::spanned::Spanned;
use syn::{
    Data, DataEnum, DeriveInput, Error, Expr, ExprLit, ExprUnary, Fields, Ident, Index, Lit, Type, UnOp,
};

pub fn expand(item: &DeriveInput) -> syn::Result<TokenStream> {
    if let Some(param) = item.generics.params.first() {
        return Err(Error::new(
            param.span(),
            "a type that crosses the boundary cannot be generic: both sides must agree on one layout",
        ));
    }
    let repr = Repr::of(item)?;
    refuse_recursion(item)?;
    match &item.data {
        Data::Struct(data) => Ok(expand_struct(&item.ident, &data.fields, &repr)),
        Data::Enum(data) => expand_enum(&item.ident, data, &repr),
        Data::Union(data) => Err(Error::new(
            data.union_token.span(),
            "a union cannot cross: nobody can tell which field is meant; use an enum",
        )),
    }
}

/// What `#[repr(…)]` says.
#[derive(Default)]
struct Repr {
    c: bool,
    integer: Option<String>,
}

impl Repr {
    fn of(item: &DeriveInput) -> syn::Result<Self> {
        let mut repr = Repr::default();
        for attr in item.attrs.iter().filter(|attr| attr.path().is_ident("repr")) {
            attr.parse_nested_meta(|meta| {
                if meta.path.is_ident("C") {
                    repr.c = true;
                } else if meta.path.is_ident("packed") || meta.path.is_ident("simd") {
                    return Err(meta.error("a packed or simd type cannot cross: use `#[repr(C)]`"));
                } else if meta.path.is_ident("align") {
                    return Err(meta.error("a type with its own alignment cannot cross: use `#[repr(C)]`"));
                } else if !meta.path.is_ident("transparent") && !meta.path.is_ident("Rust") {
                    repr.integer = meta.path.get_ident().map(ToString::to_string);
                }
                Ok(())
            })?;
        }
        Ok(repr)
    }
}

fn expand_struct(name: &Ident, fields: &Fields, repr: &Repr) -> TokenStream {
    let text = name.unraw().to_string();
    let types: Vec<_> = fields.iter().map(|field| &field.ty).collect();
    let members: Vec<_> = fields
        .iter()
        .enumerate()
        .map(|(index, field)| field.ident.clone().map_or_else(|| syn::Member::from(index), syn::Member::from))
        .collect();
    let names: Vec<_> = fields
        .iter()
        .enumerate()
        .map(|(index, field)| field.ident.clone().unwrap_or_else(|| format_ident!("_{index}")))
        .collect();
    let texts: Vec<_> = members
        .iter()
        .map(|member| match member {
            syn::Member::Named(ident) => ident.unraw().to_string(),
            syn::Member::Unnamed(Index { index, .. }) => index.to_string(),
        })
        .collect();
    // `for<'a>` keeps the compiler from refusing a bound that does not hold: a `#[repr(C)]` struct that is
    // not `Copy`, or has a String inside, still crosses by value; it just cannot be lent.
    let plain = repr.c.then(|| {
        quote! {
            // SAFETY: `#[repr(C)]`, every field is `Plain`, and the crossing form has the same fields.
            #[doc(hidden)]
            unsafe impl __reseat::Plain for #name
            where
                for<'__a> #name: ::core::marker::Copy,
                #(for<'__a> #types: __reseat::Plain,)*
            {
            }
        }
    });
    let checks = types.iter().map(|ty| on(ty, quote!(DESC)));
    let inline = types.iter().map(|ty| on(ty, quote!(Inline)));
    let tails = types.iter().map(|ty| on(ty, quote!(TAIL)));
    let descriptions = types.iter().map(|ty| on(ty, quote!(DESC)));
    let lower = types.iter().map(|ty| on(ty, quote!(lower)));
    let lift = types.iter().map(|ty| on(ty, quote!(lift)));
    quote! {
        #[allow(deprecated, private_bounds, clippy::type_complexity)]
        const _: () = {
            use ::plugin_api::__private as __reseat;

            #[repr(C)]
            #[derive(Clone, Copy)]
            pub struct __Crossing
            where
                #(for<'__a> #types: __reseat::AbiType,)*
            {
                #(#names: #inline),*
            }

            // Where a type cannot cross, this is the error; the bounds below take it for granted.
            const _: &[&__reseat::desc::TypeDesc] = &[#(#checks),*];

            // SAFETY: the description is that of the fields, in their order, and so are both ways of crossing.
            #[diagnostic::do_not_recommend]
            unsafe impl __reseat::AbiType for #name
            where
                #(for<'__a> #types: __reseat::AbiType,)*
            {
                const DESC: &'static __reseat::desc::TypeDesc = &__reseat::desc::TypeDesc::Struct {
                    name: #text,
                    fields: &[#(__reseat::desc::FieldDesc {
                        name: #texts,
                        offset: ::core::mem::offset_of!(__Crossing, #names),
                        ty: #descriptions,
                    }),*],
                    size: ::core::mem::size_of::<__Crossing>(),
                    align: ::core::mem::align_of::<__Crossing>(),
                };
                const TAIL: bool = false #(|| #tails)*;
                type Inline = __Crossing;
                #[inline]
                fn lower(self, __tail: &mut __reseat::TailWriter) -> Self::Inline {
                    __Crossing { #(#names: #lower(self.#members, __tail)),* }
                }
                #[inline]
                fn lift(
                    __inline: Self::Inline,
                    __tail: &mut __reseat::TailReader<'_>,
                ) -> ::core::result::Result<Self, __reseat::Malformed> {
                    ::core::result::Result::Ok(#name {
                        #(#members: __reseat::lift_part(__inline.#names, __tail, #lift)?),*
                    })
                }
            }

            #plain
        };
    }
}

/// `<Type as AbiType>::item`, all of it in the place of the type: see `place::on`.
fn on(ty: &Type, item: TokenStream) -> TokenStream {
    crate::place::on(ty, quote!(AbiType), None, item)
}

fn expand_enum(name: &Ident, data: &DataEnum, repr: &Repr) -> syn::Result<TokenStream> {
    if data.variants.is_empty() {
        return Err(Error::new(name.span(), "an enum without variants has no values that could cross"));
    }
    let text = name.unraw().to_string();
    let integer = repr.integer.clone().unwrap_or_else(|| "i32".into());
    let integer_type = Ident::new(&integer, Span::call_site());
    let values = discriminants(data, repr)?;
    let mut lower = Vec::new();
    let mut lift = Vec::new();
    let mut descriptions = Vec::new();
    let mut types = Vec::new();
    for (variant, &value) in data.variants.iter().zip(&values) {
        let (ident, variant_text) = (&variant.ident, variant.ident.unraw().to_string());
        let fields: Vec<_> = variant.fields.iter().map(|field| &field.ty).collect();
        types.extend(fields.iter().copied());
        let bound: Vec<_> = (0..fields.len()).map(|index| format_ident!("__{index}")).collect();
        let members: Vec<_> = variant
            .fields
            .iter()
            .enumerate()
            .map(|(index, field)| {
                field.ident.clone().map_or_else(|| syn::Member::from(index), syn::Member::from)
            })
            .collect();
        let literal = proc_macro2::Literal::i64_unsuffixed(value);
        let (put, take, shapes) = (
            fields.iter().map(|ty| on(ty, quote!(put))),
            fields.iter().map(|ty| on(ty, quote!(take))),
            fields.iter().map(|ty| on(ty, quote!(DESC))),
        );
        lower.push(quote! {
            #name::#ident { #(#members: #bound),* } => {
                #(#put(#bound, __tail);)*
                #literal
            }
        });
        lift.push(quote! {
            #literal => #name::#ident { #(#members: #take(__tail)?),* },
        });
        let payload = match &variant.fields {
            Fields::Unit => quote!(Unit),
            Fields::Unnamed(_) => quote!(Tuple(&[#(#shapes),*])),
            Fields::Named(named) => {
                let names = named
                    .named
                    .iter()
                    .map(|field| field.ident.as_ref().expect("a named field").unraw().to_string());
                quote!(Named(&[#((#names, #shapes)),*]))
            }
        };
        descriptions.push(quote! {
            __reseat::desc::VariantDesc { name: #variant_text, value: #literal, payload: __reseat::desc::Payload::#payload }
        });
    }
    let has_payload = !types.is_empty();
    Ok(quote! {
        #[allow(deprecated, private_bounds, clippy::type_complexity)]
        const _: () = {
            use ::plugin_api::__private as __reseat;

            // SAFETY: the description is that of the fields or variants, in their order, and so are both ways
            // of crossing.
            #[diagnostic::do_not_recommend]
            unsafe impl __reseat::AbiType for #name {
                const DESC: &'static __reseat::desc::TypeDesc = &__reseat::desc::TypeDesc::Enum {
                    name: #text,
                    repr: #integer,
                    variants: &[#(#descriptions),*],
                };
                const TAIL: bool = #has_payload;
                type Inline = #integer_type;
                #[inline]
                fn lower(self, __tail: &mut __reseat::TailWriter) -> #integer_type {
                    match self { #(#lower)* }
                }
                #[inline]
                fn lift(
                    __inline: #integer_type,
                    __tail: &mut __reseat::TailReader<'_>,
                ) -> ::core::result::Result<Self, __reseat::Malformed> {
                    ::core::result::Result::Ok(match __inline {
                        #(#lift)*
                        __other => return ::core::result::Result::Err(__reseat::unknown_variant(#text, __other as i64)),
                    })
                }
            }
        };
    })
}

/// The discriminants, as the compiler will number them. Only integer literals are understood: the manifest
/// states them.
fn discriminants(data: &DataEnum, repr: &Repr) -> syn::Result<Vec<i64>> {
    let mut next = 0i128;
    let mut values = Vec::new();
    for variant in &data.variants {
        let span = match &variant.discriminant {
            Some((_, expr)) => {
                next = integer(expr)?;
                expr.span()
            }
            None => variant.ident.span(),
        };
        let fits = repr.integer.is_some() || i32::try_from(next).is_ok();
        match i64::try_from(next) {
            Ok(value) if fits => values.push(value),
            Ok(_) => {
                return Err(Error::new(
                    span,
                    "without a `#[repr(…)]` a discriminant crosses as an i32, and this one does not fit: put `#[repr(i64)]` on the enum",
                ));
            }
            Err(_) => {
                return Err(Error::new(span, "the discriminant of a variant that crosses fits into an i64"));
            }
        }
        next += 1;
    }
    Ok(values)
}

fn integer(expr: &Expr) -> syn::Result<i128> {
    match expr {
        Expr::Lit(ExprLit { lit: Lit::Int(int), .. }) => int.base10_parse(),
        Expr::Unary(ExprUnary { op: UnOp::Neg(_), expr, .. }) => integer(expr).map(|value| -value),
        other => Err(Error::new(
            other.span(),
            "the discriminant of a variant that crosses is an integer literal: the manifest states it",
        )),
    }
}

/// A type whose description would have no end. Only the direct case can be seen here; the compiler finds
/// the others, as a cycle.
fn refuse_recursion(item: &DeriveInput) -> syn::Result<()> {
    let fields: Vec<_> = match &item.data {
        Data::Struct(data) => data.fields.iter().collect(),
        Data::Enum(data) => data.variants.iter().flat_map(|variant| &variant.fields).collect(),
        Data::Union(_) => Vec::new(),
    };
    match fields.into_iter().find_map(|field| mention(field.ty.to_token_stream(), &item.ident)) {
        Some(span) => Err(Error::new(
            span,
            "a type that contains itself cannot cross: its description would have no end; send a flat list, with indices for the links",
        )),
        None => Ok(()),
    }
}

/// Where a type is named on its own, not as a part of a path: `Node` and `Vec<Node>`, not `other::Node`.
fn mention(ty: TokenStream, name: &Ident) -> Option<Span> {
    let mut after_colon = false;
    for token in ty {
        match token {
            TokenTree::Ident(ident) if !after_colon && (ident == *name || ident == "Self") => {
                return Some(ident.span());
            }
            TokenTree::Group(group) => {
                if let Some(span) = mention(group.stream(), name) {
                    return Some(span);
                }
                after_colon = false;
            }
            TokenTree::Punct(punct) => after_colon = punct.as_char() == ':',
            _ => after_colon = false,
        }
    }
    None
}
