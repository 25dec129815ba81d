//! `#[interface(version = "1.1")]` on a trait.

use proc_macro2::TokenStream;
use quote::{format_ident, quote};
use syn::ext::IdentExt;
use syn::parse::{Parse, ParseStream};
use syn::spanned::Spanned;
use syn::{Error, Ident, Item, ItemTrait, LitStr, Token, TraitItem, parse_quote};

use crate::errors::Errors;
use crate::method::Method;

/// `major.minor`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version {
    pub major: u32,
    pub minor: u32,
}

impl Version {
    pub fn parse(text: &LitStr) -> syn::Result<Self> {
        let value = text.value();
        let parts =
            value.split_once('.').and_then(|(a, b)| Some((a.parse::<u32>().ok()?, b.parse::<u32>().ok()?)));
        // One way to write each: "1.01" and "+1.1" would be a second one.
        let Some((major, minor)) = parts.filter(|(major, minor)| format!("{major}.{minor}") == value) else {
            return Err(Error::new(
                text.span(),
                format!("`{value}` is not a version: expected `major.minor`, e.g. \"1.0\""),
            ));
        };
        Ok(Version { major, minor })
    }

    pub fn tokens(self) -> TokenStream {
        let Version { major, minor } = self;
        quote!(::plugin_api::__private::desc::Version { major: #major, minor: #minor })
    }
}

pub struct Args {
    version: Version,
}

impl Parse for Args {
    fn parse(input: ParseStream<'_>) -> syn::Result<Self> {
        let missing = "an interface has a version: `#[interface(version = \"1.0\")]`";
        if input.is_empty() {
            return Err(Error::new(input.span(), missing));
        }
        let key: Ident = input.parse()?;
        if key != "version" {
            return Err(Error::new(key.span(), format!("unknown option `{key}`; {missing}")));
        }
        input.parse::<Token![=]>()?;
        let text =
            input.parse().map_err(|e| Error::new(e.span(), "the version is a text: `version = \"1.0\"`"))?;
        let version = Version::parse(&text)?;
        let _ = input.parse::<Option<Token![,]>>()?;
        if !input.is_empty() {
            return Err(input.error("nothing follows the version"));
        }
        Ok(Args { version })
    }
}

/// The trait under the attribute.
pub struct Declaration(pub ItemTrait);

impl Parse for Declaration {
    fn parse(input: ParseStream<'_>) -> syn::Result<Self> {
        let item: Item = input.parse()?;
        match item {
            Item::Trait(item) => Ok(Declaration(item)),
            other => {
                Err(Error::new(other.span(), "an interface is a trait: plugins implement it, hosts call it"))
            }
        }
    }
}

pub fn expand(args: &Args, mut item: ItemTrait) -> syn::Result<TokenStream> {
    check_trait(&item)?;
    let mut methods = Vec::new();
    let mut errors = Errors::default();
    for member in &mut item.items {
        let method = match member {
            TraitItem::Fn(function) => Method::parse(function, args.version),
            other => Err(Error::new(
                other.span(),
                "an interface has methods only: constants and associated types cannot cross the boundary",
            )),
        };
        methods.extend(errors.note(method));
    }
    errors.none()?;
    if methods.is_empty() {
        return Err(Error::new(
            item.ident.span(),
            "an interface without methods: a host would have nothing to call",
        ));
    }
    item.supertraits = parse_quote!(::core::marker::Send + ::core::marker::Sync + 'static);
    item.colon_token = Some(<Token![:]>::default());

    let (name, vis, proxy) = (&item.ident, &item.vis, format_ident!("{}Proxy", item.ident));
    let doc = format!("[`{name}`] as a caller sees it: each method returns `Result<T, CallError>`.");
    let caller = caller(args, &item, &proxy, &methods);
    let callee = callee(&item, &methods);
    let text = name.unraw().to_string();
    let message = format!("`{{Self}}` does not implement the interface `{text}`");
    let label = format!("no `impl {text}`");
    Ok(quote! {
        #[diagnostic::on_unimplemented(message = #message, label = #label)]
        #item

        #[doc = #doc]
        #vis struct #proxy(::plugin_api::__private::RawProxy);

        // The author answers for the declaration, not for what it becomes.
        #[allow(deprecated, improper_ctypes_definitions, unreachable_code, unused_mut, unused_variables)]
        #[allow(clippy::too_many_arguments, clippy::type_complexity, clippy::unit_arg)]
        const _: () = {
            use ::plugin_api::__private as __reseat;

            #caller
            #callee
        };
    })
}

fn check_trait(item: &ItemTrait) -> syn::Result<()> {
    let refuse = |span, text: &str| Err(Error::new(span, text));
    if !item.generics.params.is_empty() || item.generics.where_clause.is_some() {
        return refuse(
            item.generics.span(),
            "an interface cannot be generic: its methods are looked up by name in a compiled library",
        );
    }
    if !item.supertraits.is_empty() {
        return refuse(
            item.supertraits.span(),
            "an interface has no supertraits; `Send + Sync + 'static` is implied",
        );
    }
    if let Some(unsafety) = &item.unsafety {
        return refuse(unsafety.span(), "an interface cannot be an unsafe trait");
    }
    Ok(())
}

/// The proxy and the description: what a host (or another plugin) needs.
fn caller(args: &Args, item: &ItemTrait, proxy: &Ident, methods: &[Method]) -> TokenStream {
    let name = &item.ident;
    let text = name.unraw().to_string();
    let version = args.version.tokens();
    let descriptions = methods.iter().map(Method::description);
    let calls = methods.iter().enumerate().map(|(index, method)| method.proxy(index));
    quote! {
        impl ::core::convert::From<__reseat::RawProxy> for #proxy {
            #[inline(always)]
            fn from(raw: __reseat::RawProxy) -> Self {
                #proxy(raw)
            }
        }

        impl #proxy {
            #(#calls)*
        }

        // SAFETY: proxy and description come from the same declaration.
        unsafe impl __reseat::Interface for dyn #name {
            const DESC: &'static __reseat::desc::InterfaceDesc = &__reseat::desc::InterfaceDesc {
                name: #text,
                version: #version,
                methods: &[#(#descriptions),*],
            };
            type Proxy = #proxy;
        }
    }
}

/// The shims and the JSON entry: what a plugin needs. Generic over the plugin, so that they are compiled in
/// the library that exports it.
fn callee(item: &ItemTrait, methods: &[Method]) -> TokenStream {
    let name = &item.ident;
    let shims = methods.iter().map(|method| method.shim(name));
    let entries = methods.iter().map(Method::raw_entry);
    let bounds: Vec<_> = methods.iter().flat_map(Method::bounds).collect();
    let arms = methods.iter().map(|method| method.dynamic_arm(name));
    quote! {
        struct __Shims<P>(::core::marker::PhantomData<P>);

        impl<P: #name> __Shims<P>
        where
            #(#bounds,)*
        {
            #(#shims)*
        }

        impl<P: #name> __Shims<P> {
            unsafe extern "C" fn __dynamic(
                __instance: *const ::core::ffi::c_void,
                __method: __reseat::RStr<'static>,
                __arguments: __reseat::RStr<'static>,
                __transfer: *mut __reseat::abi::Transfer,
            ) -> __reseat::abi::Reply<()> {
                // SAFETY: the host lends method, arguments and transfer for this call, and passes a live
                // instance of the plugin that exports this.
                unsafe {
                    __reseat::contain_raw(__transfer, || {
                        let __plugin = __reseat::export::plugin::<P>(__instance);
                        let __text = <str as __reseat::Lend>::borrow(__arguments);
                        #[allow(unused_imports)]
                        use __reseat::{CannotReadJson as _, CannotWriteJson as _, ReadJson as _, WriteJson as _};
                        let __json: ::std::string::String = match <str as __reseat::Lend>::borrow(__method) {
                            #(#arms)*
                            __other => return ::core::result::Result::Err(__reseat::Failure::Unsupported(
                                ::std::format!("there is no method `{__other}`"),
                            )),
                        };
                        __reseat::answer(__transfer, __json.as_bytes());
                        ::core::result::Result::Ok(())
                    })
                }
            }
        }

        // SAFETY: shims and description come from the same declaration.
        #[doc(hidden)]
        unsafe impl<P: #name> __reseat::ExportedBy<P> for dyn #name
        where
            #(#bounds,)*
        {
            const METHODS: &'static [__reseat::abi::RawMethod] = &[#(#entries),*];
            const DYNAMIC: __reseat::abi::DynamicFn = __Shims::<P>::__dynamic;
        }
    }
}
