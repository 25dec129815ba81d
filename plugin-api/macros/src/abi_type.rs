//! `#[derive(AbiType)]` on structs and enums.
//!
//! A struct crosses as a C struct of its fields' inline parts. With `#[repr(C)]` its own memory is the same
//! as that, and it can be lent by reference too. An enum crosses as its discriminant; what its variants carry
//! goes into the tail.

use proc_macro2::{Span, TokenStream};
use quote::{format_ident, quote};
use syn::spanned::Spanned;
use syn::{Data, DataEnum, DeriveInput, Error, Expr, ExprLit, ExprUnary, Fields, Ident, Index, Lit, UnOp};

pub fn expand(item: &DeriveInput) -> syn::Result<TokenStream> {
    if let Some(param) = item.generics.params.first() {
        return Err(Error::new(param.span(), "a type that crosses the boundary cannot be generic: both sides must agree on one layout"));
    }
    let repr = Repr::of(item)?;
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
                } else if let Some(ident) = meta.path.get_ident() {
                    if ident != "transparent" && ident != "Rust" {
                        repr.integer = Some(ident.to_string());
                    }
                }
                Ok(())
            })?;
        }
        Ok(repr)
    }
}

fn expand_struct(name: &Ident, fields: &Fields, repr: &Repr) -> TokenStream {
    let text = name.to_string();
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
            syn::Member::Named(ident) => ident.to_string(),
            syn::Member::Unnamed(Index { index, .. }) => index.to_string(),
        })
        .collect();
    let plain = repr.c.then(|| {
        quote! {
            // The struct's own memory is the crossing form: the same fields in C order. What that needs of
            // each field is asked here, so that the error names it.
            const _: () = {
                const fn plain<T: __reseat::Plain>() {}
                #(plain::<#types>();)*
                assert!(::core::mem::size_of::<#name>() == ::core::mem::size_of::<__Crossing>());
                assert!(::core::mem::align_of::<#name>() == ::core::mem::align_of::<__Crossing>());
            };
            // SAFETY: `#[repr(C)]`, every field is `Plain`, and the crossing form has the same fields.
            unsafe impl __reseat::Plain for #name {}
        }
    });
    // Without `Copy` a #[repr(C)] struct still crosses by value; it just cannot be lent.
    let plain = plain.map(|tokens| quote!(#tokens));
    quote! {
        const _: () = {
            use ::plugin_api::__private as __reseat;

            #[repr(C)]
            #[derive(Clone, Copy)]
            pub struct __Crossing { #(#names: <#types as __reseat::AbiType>::Inline),* }

            impl __reseat::AbiType for #name {
                const DESC: &'static __reseat::desc::TypeDesc = &__reseat::desc::TypeDesc::Struct {
                    name: #text,
                    fields: &[#(__reseat::desc::FieldDesc {
                        name: #texts,
                        offset: ::core::mem::offset_of!(__Crossing, #names),
                        ty: <#types as __reseat::AbiType>::DESC,
                    }),*],
                    size: ::core::mem::size_of::<__Crossing>(),
                    align: ::core::mem::align_of::<__Crossing>(),
                };
                const TAIL: bool = false #(|| <#types as __reseat::AbiType>::TAIL)*;
                type Inline = __Crossing;
                #[inline]
                fn lower(self, __tail: &mut __reseat::TailWriter) -> __Crossing {
                    __Crossing { #(#names: __reseat::AbiType::lower(self.#members, __tail)),* }
                }
                #[inline]
                fn lift(
                    __inline: __Crossing,
                    __tail: &mut __reseat::TailReader<'_>,
                ) -> ::core::result::Result<Self, __reseat::Malformed> {
                    ::core::result::Result::Ok(#name {
                        #(#members: __reseat::AbiType::lift(__inline.#names, __tail)?),*
                    })
                }
            }

            #plain
        };
    }
}

fn expand_enum(name: &Ident, data: &DataEnum, repr: &Repr) -> syn::Result<TokenStream> {
    if data.variants.is_empty() {
        return Err(Error::new(name.span(), "an enum without variants has no values that could cross"));
    }
    let text = name.to_string();
    let integer = repr.integer.clone().unwrap_or_else(|| "i32".into());
    let integer_type = Ident::new(&integer, Span::call_site());
    let values = discriminants(data)?;
    let mut lower = Vec::new();
    let mut lift = Vec::new();
    let mut descriptions = Vec::new();
    let mut types = Vec::new();
    for (variant, &value) in data.variants.iter().zip(&values) {
        let (ident, variant_text) = (&variant.ident, variant.ident.to_string());
        let fields: Vec<_> = variant.fields.iter().map(|field| &field.ty).collect();
        types.extend(fields.iter().copied());
        let bound: Vec<_> = (0..fields.len()).map(|index| format_ident!("__{index}")).collect();
        let members: Vec<_> = variant
            .fields
            .iter()
            .enumerate()
            .map(|(index, field)| field.ident.clone().map_or_else(|| syn::Member::from(index), syn::Member::from))
            .collect();
        let literal = proc_macro2::Literal::i64_unsuffixed(value);
        lower.push(quote! {
            #name::#ident { #(#members: #bound),* } => {
                #(__reseat::put_part(#bound, __tail);)*
                #literal
            }
        });
        lift.push(quote! {
            #literal => #name::#ident { #(#members: __reseat::take_part::<#fields>(__tail)?),* },
        });
        let payload = match &variant.fields {
            Fields::Unit => quote!(Unit),
            Fields::Unnamed(_) => quote!(Tuple(&[#(<#fields as __reseat::AbiType>::DESC),*])),
            Fields::Named(named) => {
                let names = named.named.iter().map(|field| field.ident.as_ref().expect("a named field").to_string());
                quote!(Named(&[#((#names, <#fields as __reseat::AbiType>::DESC)),*]))
            }
        };
        descriptions.push(quote! {
            __reseat::desc::VariantDesc { name: #variant_text, value: #literal, payload: __reseat::desc::Payload::#payload }
        });
    }
    let has_payload = !types.is_empty();
    Ok(quote! {
        const _: () = {
            use ::plugin_api::__private as __reseat;

            impl __reseat::AbiType for #name {
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
fn discriminants(data: &DataEnum) -> syn::Result<Vec<i64>> {
    let mut next = 0i64;
    let mut values = Vec::new();
    for variant in &data.variants {
        if let Some((_, expr)) = &variant.discriminant {
            next = integer(expr)?;
        }
        values.push(next);
        next = next.wrapping_add(1);
    }
    Ok(values)
}

fn integer(expr: &Expr) -> syn::Result<i64> {
    match expr {
        Expr::Lit(ExprLit { lit: Lit::Int(int), .. }) => int.base10_parse(),
        Expr::Unary(ExprUnary { op: UnOp::Neg(_), expr, .. }) => integer(expr).map(|value| -value),
        other => Err(Error::new(other.span(), "the discriminant of a variant that crosses is an integer literal")),
    }
}
