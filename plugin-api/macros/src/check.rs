//! What can be said of a declaration by looking at it, as sentences for its author.

use syn::spanned::Spanned;
use syn::{Attribute, Error, GenericArgument, LitStr, PathArguments, ReturnType, Signature, Type};

use crate::interface::Version;
use crate::param::Kind;

/// Removes `#[since("1.1")]` and reads it.
pub fn take_since(attrs: &mut Vec<Attribute>, version: Version) -> syn::Result<Option<Version>> {
    let Some(at) = attrs.iter().position(|attr| attr.path().is_ident("since")) else { return Ok(None) };
    let attr = attrs.remove(at);
    let text: LitStr = attr.parse_args().map_err(|e| {
        Error::new(
            e.span(),
            "`#[since]` takes the interface version that introduced the method: `#[since(\"1.1\")]`",
        )
    })?;
    let since = Version::parse(&text)?;
    if since > version || since.major != version.major {
        let Version { major, minor } = version;
        return Err(Error::new(
            text.span(),
            format!(
                "`#[since(\"{}\")]` lies outside of the interface, whose version is {major}.{minor}: raise `version`",
                text.value()
            ),
        ));
    }
    Ok(Some(since))
}

pub fn check_signature(sig: &Signature) -> syn::Result<()> {
    let refuse = |span, text: &str| Err(Error::new(span, text));
    if let Some(asyncness) = &sig.asyncness {
        return refuse(
            asyncness.span(),
            "an interface method cannot be async: a future's code would be in the library; call it from a blocking task and hold a lease",
        );
    }
    if let Some(unsafety) = &sig.unsafety {
        return refuse(unsafety.span(), "an interface method cannot be unsafe");
    }
    if let Some(abi) = &sig.abi {
        return refuse(
            abi.span(),
            "an interface method is an ordinary Rust method: the macro gives it its calling convention",
        );
    }
    if let Some(param) = sig.generics.params.first() {
        return refuse(
            param.span(),
            "an interface method cannot be generic: it is compiled once, in the plugin, for all callers",
        );
    }
    if let Some(clause) = &sig.generics.where_clause {
        return refuse(clause.span(), "an interface method cannot have a where clause");
    }
    let Some(receiver) = sig.receiver() else {
        return refuse(
            sig.ident.span(),
            "an interface method takes `&self`: it is called on the plugin's instance",
        );
    };
    if let Some((_, Some(lifetime))) = &receiver.reference {
        return refuse(
            lifetime.span(),
            "an interface method takes a plain `&self`: the instance is lent for the duration of the call",
        );
    }
    if receiver.reference.is_none() || receiver.mutability.is_some() || receiver.colon_token.is_some() {
        return refuse(
            receiver.span(),
            "an interface method takes `&self`: many threads call a plugin at once",
        );
    }
    Ok(())
}

/// Both sides read the declaration, each with its own `cfg`s.
pub fn refuse_cfg(attrs: &[Attribute]) -> syn::Result<()> {
    match attrs.iter().find(|attr| attr.path().is_ident("cfg") || attr.path().is_ident("cfg_attr")) {
        Some(attr) => Err(Error::new(
            attr.span(),
            "an interface is the same in every build: leave the condition out, and add methods with `#[since(\"…\")]`",
        )),
        None => Ok(()),
    }
}

pub fn kind(ty: &Type) -> syn::Result<Kind> {
    match ty {
        Type::Reference(reference) => {
            let inner = &*reference.elem;
            if let Some(lifetime) = &reference.lifetime {
                return Err(Error::new(
                    lifetime.span(),
                    "an argument is lent for the duration of the call: leave the lifetime out",
                ));
            }
            match (reference.mutability, inner) {
                (Some(_), Type::TraitObject(object)) if is_fn_mut(object) => {
                    check_callback(object)?;
                    Ok(Kind::Callback(inner.clone()))
                }
                (_, Type::TraitObject(object)) => Err(Error::new(object.span(), TRAIT_OBJECT)),
                (Some(mutability), _) => Err(Error::new(
                    mutability.span(),
                    "a `&mut` cannot cross: return the new value instead, or take a callback `&mut dyn FnMut(T)`",
                )),
                (None, inner) => {
                    check_type(inner)?;
                    check_lent(reference, inner)?;
                    Ok(Kind::Lent(inner.clone()))
                }
            }
        }
        other => {
            check_type(other)?;
            Ok(Kind::Value(other.clone()))
        }
    }
}

const TRAIT_OBJECT: &str = "a trait object cannot cross: its code would be in one library and its user in another; take a callback `&mut dyn FnMut(T)`, which is valid for the call";

fn is_fn_mut(object: &syn::TypeTraitObject) -> bool {
    object.bounds.len() == 1
        && matches!(&object.bounds[0], syn::TypeParamBound::Trait(bound)
            if bound.path.segments.last().is_some_and(|last| last.ident == "FnMut"))
}

/// The two owners that are often lent by habit.
fn check_lent(reference: &syn::TypeReference, inner: &Type) -> syn::Result<()> {
    let Type::Path(path) = inner else { return Ok(()) };
    let Some(last) = path.path.segments.last() else { return Ok(()) };
    if last.ident == "String" {
        return Err(Error::new(reference.span(), "a `&String` cannot be lent: take `&str`"));
    }
    if last.ident == "Vec" {
        return Err(Error::new(reference.span(), "a `&Vec<T>` cannot be lent: take `&[T]`"));
    }
    Ok(())
}

fn check_callback(object: &syn::TypeTraitObject) -> syn::Result<()> {
    let Some(syn::TypeParamBound::Trait(bound)) = object.bounds.first() else { return Ok(()) };
    let Some(last) = bound.path.segments.last() else { return Ok(()) };
    let PathArguments::Parenthesized(args) = &last.arguments else { return Ok(()) };
    if let ReturnType::Type(_, ty) = &args.output {
        return Err(Error::new(
            ty.span(),
            "a callback returns nothing: hand values over in its arguments, or in the method's result",
        ));
    }
    if let Some(fourth) = args.inputs.iter().nth(3) {
        return Err(Error::new(
            fourth.span(),
            "a callback takes up to three arguments: put them into a struct that derives AbiType",
        ));
    }
    args.inputs.iter().try_for_each(|ty| match ty {
        Type::Reference(reference) => Err(Error::new(
            reference.span(),
            "a callback's arguments cross by value: String instead of &str, Vec<T> instead of &[T]",
        )),
        other => check_type(other),
    })
}

const REFERENCE_INSIDE: &str =
    "a reference inside another type cannot cross: only a whole argument can be lent";
const REFERENCE_RETURNED: &str = "a result cannot hold a reference: it would point into a library that may be unloaded; return an owned value (String, Vec<T>)";

pub fn check_result(ty: &Type) -> syn::Result<()> {
    // The error of a `Result` crosses as its text, whatever it is.
    if let Type::Path(path) = ty
        && let Some(last) = path.path.segments.last()
        && last.ident == "Result"
        && let PathArguments::AngleBracketed(args) = &last.arguments
        && let Some(GenericArgument::Type(value)) = args.args.first()
    {
        return check_parts(value, REFERENCE_RETURNED);
    }
    check_parts(ty, REFERENCE_RETURNED)
}

fn check_type(ty: &Type) -> syn::Result<()> {
    check_parts(ty, REFERENCE_INSIDE)
}

/// What can be said of a type by looking at it; the rest is said by the traits.
fn check_parts(ty: &Type, reference: &str) -> syn::Result<()> {
    let refuse = |span, text: &str| Err(Error::new(span, text));
    let check = |inner| check_parts(inner, reference);
    match ty {
        Type::ImplTrait(it) => {
            refuse(it.span(), "`impl Trait` cannot cross: name a type that derives AbiType")
        }
        Type::TraitObject(it) => refuse(it.span(), TRAIT_OBJECT),
        Type::BareFn(it) => refuse(
            it.span(),
            "a function pointer cannot cross: it would outlive its library; take a callback `&mut dyn FnMut(T)`",
        ),
        Type::Ptr(it) => {
            refuse(it.span(), "a raw pointer cannot cross: nobody could say who owns what it points to")
        }
        Type::Reference(it) => refuse(it.span(), reference),
        Type::Path(path) => {
            for segment in &path.path.segments {
                if segment.ident == "Self" {
                    return refuse(segment.span(), "`Self` cannot cross: the instance stays in its library");
                }
                let PathArguments::AngleBracketed(args) = &segment.arguments else { continue };
                for arg in &args.args {
                    if let GenericArgument::Type(inner) = arg {
                        check(inner)?;
                    }
                }
            }
            Ok(())
        }
        Type::Tuple(tuple) => tuple.elems.iter().try_for_each(check),
        Type::Array(array) => check(&array.elem),
        Type::Slice(slice) => check(&slice.elem),
        Type::Paren(inner) => check(&inner.elem),
        Type::Group(inner) => check(&inner.elem),
        _ => Ok(()),
    }
}
