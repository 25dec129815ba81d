//! One method of an interface, and what it becomes on both sides.
//!
//! References are told from values by their syntax; everything else is asked of the type, through `AbiType`,
//! `Lend`, `Callback` and `Returns`.

use proc_macro2::{Delimiter, Group, Span, TokenStream, TokenTree};
use quote::{ToTokens, format_ident, quote, quote_spanned};
use syn::ext::IdentExt;
use syn::spanned::Spanned;
use syn::{
    Attribute, Error, FnArg, GenericArgument, Ident, LitStr, Pat, PatType, PathArguments, ReturnType,
    Signature, TraitItemFn, Type,
};

use crate::errors::Errors;
use crate::interface::Version;

pub struct Method {
    name: Ident,
    /// What the proxy's method carries too: documentation, deprecation.
    attrs: Vec<Attribute>,
    since: Version,
    /// Whether builds of this major version may lack it.
    later: bool,
    params: Vec<Param>,
    result: Type,
}

struct Param {
    name: Ident,
    kind: Kind,
}

enum Kind {
    /// `T`: crosses in parts.
    Value(Type),
    /// `&T`: lent.
    Lent(Type),
    /// `&mut dyn FnMut(…)`: called back.
    Callback(Type),
}

impl Method {
    /// Reads a method and takes `#[since]` off it.
    pub fn parse(function: &mut TraitItemFn, version: Version) -> syn::Result<Self> {
        let since = take_since(&mut function.attrs, version)?;
        refuse_cfg(&function.attrs)?;
        check_signature(&function.sig)?;
        let mut params = Vec::new();
        let mut errors = Errors::default();
        for (index, input) in function.sig.inputs.iter().enumerate() {
            let FnArg::Typed(param) = input else { continue };
            params.extend(errors.note(Param::parse(index, param)));
        }
        let result: Type = match &function.sig.output {
            ReturnType::Default => syn::parse_quote!(()),
            ReturnType::Type(_, ty) => (**ty).clone(),
        };
        if let Some(param) = params.get(12) {
            errors.note::<()>(Err(Error::new(
                param.name.span(),
                "an interface method takes up to twelve arguments: put them into a struct that derives AbiType",
            )));
        }
        errors.note(check_result(&result));
        errors.none()?;
        let carried = |attr: &&Attribute| attr.path().is_ident("doc") || attr.path().is_ident("deprecated");
        let attrs = function.attrs.iter().filter(carried).cloned().collect();
        let base = Version { major: version.major, minor: 0 };
        Ok(Method {
            name: function.sig.ident.clone(),
            attrs,
            since: since.unwrap_or(base),
            later: since.is_some_and(|s| s > base),
            params,
            result,
        })
    }

    /// The description, for manifest and fingerprint.
    pub fn description(&self) -> TokenStream {
        let (name, since, result) = (self.name.unraw().to_string(), self.since.tokens(), &self.result);
        let params = self.params.iter().map(|param| {
            let (name, ty) = (param.name.unraw().to_string(), param.kind.description());
            quote!(::plugin_api::__private::desc::ParamDesc { name: #name, ty: #ty })
        });
        let ty = on(result, quote!(AbiType), Some(self.value()), quote!(DESC));
        let fallible = on(result, quote!(Returns), None, quote!(FALLIBLE));
        quote! {
            ::plugin_api::__private::desc::MethodDesc {
                name: #name,
                since: #since,
                params: &[#(#params),*],
                result: #ty,
                fallible: #fallible,
            }
        }
    }

    /// What the exported function needs of the types. As bounds they are taken for granted inside of it, so
    /// that a type that cannot cross is an error once, at the type, and not again in everything made of it.
    pub fn bounds(&self) -> Vec<TokenStream> {
        let result = &self.result;
        let params = self.params.iter().map(|param| {
            let (ty, trait_name) = (param.kind.ty(), param.kind.trait_name());
            quote!(for<'__a> #ty: __reseat::#trait_name)
        });
        params.chain([quote!(for<'__a> #result: __reseat::Returns)]).collect()
    }

    fn value(&self) -> TokenStream {
        on(&self.result, quote!(Returns), None, quote!(Value))
    }

    fn inline(&self) -> TokenStream {
        on(&self.result, quote!(AbiType), Some(self.value()), quote!(Inline))
    }

    /// The value of `call`, or the text of its error.
    fn split(&self, call: &TokenStream) -> TokenStream {
        call_on(&self.result, quote!(Returns), None, quote!(split), quote!(#call))
    }

    /// Whether any argument has a tail, as a constant expression.
    fn has_tail(&self) -> TokenStream {
        let tails = self.params.iter().filter_map(|param| match &param.kind {
            Kind::Value(ty) => Some(on(ty, quote!(AbiType), None, quote!(TAIL))),
            _ => None,
        });
        quote!(false #(|| #tails)*)
    }

    /// The method of the proxy.
    pub fn proxy(&self, index: usize) -> TokenStream {
        let (name, attrs) = (&self.name, &self.attrs);
        let text = name.unraw().to_string();
        let params = self.params.iter().map(|param| {
            let (name, ty) = (&param.name, param.kind.written());
            quote!(#name: #ty)
        });
        let lower = self.params.iter().map(Param::lower);
        let names = self.params.iter().map(|param| &param.name);
        let finish =
            self.params.iter().filter(|param| matches!(param.kind, Kind::Callback(_))).map(|param| {
                let guard = param.guard();
                quote!(#guard.finish();)
            });
        let (returns, has_tail, value) = (self.returns(), self.has_tail(), Some(self.value()));
        let [lift, result_has_tail] =
            ["lift", "TAIL"].map(|item| on(&self.result, quote!(AbiType), value.clone(), ident(item)));
        let method = if self.later {
            let since = self.since.tokens();
            quote!(self.0.later_method(#index, #text, #since)?)
        } else {
            quote!(self.0.method(#index))
        };
        quote! {
            #(#attrs)*
            #[inline]
            pub fn #name(&self, #(#params),*) -> #returns {
                // SAFETY: `Interface` and the proxy come from the same declaration, so every build whose
                // fingerprint agrees has this method at this index.
                let __method = unsafe { #method };
                let mut __tail = __reseat::TailWriter::collecting();
                let mut __outgoing = __reseat::Outgoing::new();
                #(#lower)*
                if const { #has_tail } {
                    __outgoing.set_tail(__tail.lend());
                }
                // SAFETY: the proxy keeps its generation callable; arguments are lent for the call, in the
                // forms that the exported function takes; the reply is the answer to this call.
                unsafe {
                    let __reply = __reseat::call(__method, self.0.instance(), (#(#names,)*), __outgoing.head());
                    #(#finish)*
                    __reseat::finish(__outgoing, __reply, const { #result_has_tail }, #lift)
                }
            }
        }
    }

    /// `Result<Value, CallError>`, in the place of the result's type: see [`on`].
    fn returns(&self) -> TokenStream {
        let (first, last) = ends(&self.result);
        let value = self.value();
        let open = quote_spanned!(first=> ::core::result::Result<);
        let close = quote_spanned!(last=> , ::plugin_api::CallError>);
        quote!(#open #value #close)
    }

    /// The exported function.
    pub fn shim(&self, interface: &Ident) -> TokenStream {
        let (name, value, output) = (&self.name, self.value(), self.inline());
        let inputs = self.params.iter().map(|param| {
            let (name, abi) = (&param.name, param.kind.abi());
            quote!(#name: #abi)
        });
        let names: Vec<_> = self.params.iter().map(|param| &param.name).collect();
        let has_tail = self.has_tail();
        let lift = self.params.iter().map(Param::lift);
        // Callbacks wrap the call from the outside in.
        let mut call = quote!(<P as #interface>::#name(__plugin, #(#names),*));
        for param in self.params.iter().rev() {
            if let Kind::Callback(_) = &param.kind {
                let name = &param.name;
                call = param.kind.call(quote!(relay), quote!(#name, |#name| #call));
            }
        }
        let split = self.split(&call);
        quote! {
            unsafe extern "C" fn #name(
                __instance: *const ::core::ffi::c_void,
                #(#inputs,)*
                __transfer: *mut __reseat::abi::Transfer,
            ) -> __reseat::abi::Reply<#output> {
                // SAFETY: the host passes a live instance of the plugin that exports this, and lends
                // arguments and transfer for the call.
                unsafe {
                    __reseat::contain::<#value>(__transfer, || {
                        let __plugin = __reseat::export::plugin::<P>(__instance);
                        let mut __tail = if const { #has_tail } {
                            __reseat::incoming(__transfer)
                        } else {
                            __reseat::TailReader::empty()
                        };
                        #(#lift)*
                        #split.map_err(__reseat::Failure::Failed)
                    })
                }
            }
        }
    }

    /// The entry in the table of exported methods.
    pub fn raw_entry(&self) -> TokenStream {
        let (name, description) = (&self.name, self.description());
        let text = name.unraw().to_string();
        quote! {
            __reseat::abi::RawMethod {
                name: __reseat::RStr::from_str(#text),
                fingerprint: __reseat::render::fingerprint(&#description),
                call: __Shims::<P>::#name as *const ::core::ffi::c_void,
            }
        }
    }

    /// The arm of the JSON entry.
    pub fn dynamic_arm(&self, interface: &Ident) -> TokenStream {
        let (name, result, value) = (&self.name, &self.result, self.value());
        let split = self.split(&quote!(__result));
        let text = name.unraw().to_string();
        if self.params.iter().any(|param| matches!(param.kind, Kind::Callback(_))) {
            let why = format!("`{text}` cannot be called with JSON: it takes a callback");
            return quote! {
                #text => return ::core::result::Result::Err(__reseat::Failure::Unsupported(#why.into())),
            };
        }
        let names: Vec<_> = self.params.iter().map(|param| &param.name).collect();
        let readers: Vec<_> = names.iter().map(|name| format_ident!("__read_{}", name.unraw())).collect();
        let owned: Vec<_> = self.params.iter().map(|param| param.kind.owned()).collect();
        let probes = self.params.iter().map(|param| probe(param.kind.ty(), &param.kind.owned()));
        let result_probe = probe(&self.result, &value);
        let texts: Vec<_> = names.iter().map(|name| name.unraw().to_string()).collect();
        let passed = self.params.iter().map(|param| {
            let name = &param.name;
            match &param.kind {
                Kind::Lent(_) => quote!(::core::borrow::Borrow::borrow(&#name)),
                _ => quote!(#name),
            }
        });
        quote! {
            #text => {
                #(let #readers = (&#probes).reader(#text, #texts)?;)*
                let __write = (&#result_probe).writer(#text)?;
                let mut __args = __reseat::Arguments::parse(#text, &[#(#texts),*], __text)?;
                #(let #names: #owned = #readers(&mut __args, #texts)?;)*
                let __result: #result = <P as #interface>::#name(__plugin, #(#passed),*);
                let __value: #value = #split.map_err(__reseat::Failure::Failed)?;
                __write(#text, &__value)?
            }
        }
    }
}

impl Param {
    fn parse(index: usize, param: &PatType) -> syn::Result<Self> {
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

    fn guard(&self) -> Ident {
        format_ident!("__guard_{}", self.name.unraw())
    }

    /// Rebinds the parameter's name to its crossing form.
    fn lower(&self) -> TokenStream {
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
    fn lift(&self) -> TokenStream {
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
    const fn ty(&self) -> &Type {
        match self {
            Kind::Value(ty) | Kind::Lent(ty) | Kind::Callback(ty) => ty,
        }
    }

    fn written(&self) -> TokenStream {
        match self {
            Kind::Value(ty) => quote!(#ty),
            Kind::Lent(ty) => quote!(&#ty),
            Kind::Callback(ty) => quote!(&mut (#ty)),
        }
    }

    /// The trait that says how it crosses.
    fn trait_name(&self) -> TokenStream {
        match self {
            Kind::Value(_) => quote!(AbiType),
            Kind::Lent(_) => quote!(Lend),
            Kind::Callback(_) => quote!(Callback),
        }
    }

    /// Calls a function of that trait.
    fn call(&self, function: TokenStream, arguments: TokenStream) -> TokenStream {
        call_on(self.ty(), self.trait_name(), None, function, arguments)
    }

    fn description(&self) -> TokenStream {
        on(self.ty(), self.trait_name(), None, quote!(DESC))
    }

    fn abi(&self) -> TokenStream {
        match self {
            Kind::Value(ty) => on(ty, quote!(AbiType), None, quote!(Inline)),
            Kind::Lent(ty) => on(ty, quote!(Lend), None, quote!(Abi)),
            Kind::Callback(_) => quote!(::plugin_api::__private::abi::RawCallback),
        }
    }

    /// What a caller without static types keeps the value in.
    fn owned(&self) -> TokenStream {
        match self {
            Kind::Lent(ty) => on(ty, quote!(Lend), None, quote!(Owned)),
            Kind::Value(ty) | Kind::Callback(ty) => quote!(#ty),
        }
    }
}

/// `<Type as Trait>::item`, all of it in the place of `place`, from its first token to its last: where the
/// type does not fit, the compiler says so at the type, in the same words for every use of it, and shows
/// equal errors once.
pub fn on(place: &Type, trait_name: TokenStream, ty: Option<TokenStream>, item: TokenStream) -> TokenStream {
    let (first, last) = ends(place);
    let ty = ty.unwrap_or_else(|| quote!(#place));
    let [trait_name, item] = [trait_name, item].map(|tokens| set_span(tokens, last));
    let open = quote_spanned!(first=> <);
    let rest = quote_spanned!(last=> as ::plugin_api::__private::#trait_name>::#item);
    quote!(#open #ty #rest)
}

/// A call of [`on`], in the same place up to its last bracket.
pub fn call_on(
    place: &Type,
    trait_name: TokenStream,
    ty: Option<TokenStream>,
    item: TokenStream,
    arguments: TokenStream,
) -> TokenStream {
    let function = on(place, trait_name, ty, item);
    let mut arguments = Group::new(Delimiter::Parenthesis, arguments);
    arguments.set_span(ends(place).1);
    quote!(#function #arguments)
}

/// Asks `ty` about JSON; in the place of `place`, see [`on`].
fn probe(place: &Type, ty: &TokenStream) -> TokenStream {
    let (first, last) = ends(place);
    let open = quote_spanned!(first=> ::plugin_api::__private::Probe::<);
    let close = quote_spanned!(last=> >::new());
    quote!(#open #ty #close)
}

/// Where a type begins, and where it ends.
fn ends(ty: &Type) -> (Span, Span) {
    let mut tokens = ty.to_token_stream().into_iter();
    let first = tokens.next().map_or_else(Span::call_site, |token| token.span());
    (first, tokens.last().map_or(first, |token| token.span()))
}

fn ident(text: &str) -> TokenStream {
    Ident::new(text, Span::call_site()).into_token_stream()
}

fn set_span(tokens: TokenStream, span: Span) -> TokenStream {
    let place = |mut token: TokenTree| {
        token.set_span(span);
        token
    };
    tokens.into_iter().map(place).collect()
}

/// Removes `#[since("1.1")]` and reads it.
fn take_since(attrs: &mut Vec<Attribute>, version: Version) -> syn::Result<Option<Version>> {
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

fn check_signature(sig: &Signature) -> syn::Result<()> {
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
fn refuse_cfg(attrs: &[Attribute]) -> syn::Result<()> {
    match attrs.iter().find(|attr| attr.path().is_ident("cfg") || attr.path().is_ident("cfg_attr")) {
        Some(attr) => Err(Error::new(
            attr.span(),
            "an interface is the same in every build: leave the condition out, and add methods with `#[since(\"…\")]`",
        )),
        None => Ok(()),
    }
}

fn kind(ty: &Type) -> syn::Result<Kind> {
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

fn check_result(ty: &Type) -> syn::Result<()> {
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
