//! `export_plugin!(Type: Interface + Other, name = "other", requires = [Storage >= 1.1, optional Cache])`.

use proc_macro2::TokenStream;
use quote::{quote, quote_spanned};
use syn::parse::{Parse, ParseStream};
use syn::punctuated::Punctuated;
use syn::spanned::Spanned;
use syn::{Error, Expr, Ident, LitFloat, Path, Token, Type, bracketed};

pub struct Args {
    plugin: Type,
    interfaces: Vec<Path>,
    name: Option<Expr>,
    requires: Vec<Requirement>,
    /// `allocator = host`: the host keeps account of the heap.
    accounting: bool,
}

/// `Storage >= 1.1`, or `optional Storage`.
struct Requirement {
    interface: Path,
    version: Option<(u32, u32)>,
    optional: bool,
}

impl Parse for Requirement {
    fn parse(input: ParseStream<'_>) -> syn::Result<Self> {
        let optional = input.peek(Ident) && input.peek2(Ident);
        if optional {
            let word: Ident = input.parse()?;
            if word != "optional" {
                let text = format!("`{word}`: the only word before an interface is `optional`");
                return Err(Error::new(word.span(), text));
            }
        }
        let interface = input.parse()?;
        let version = match input.peek(Token![>=]) {
            true => Some(least(input)?),
            false => None,
        };
        Ok(Requirement { interface, version, optional })
    }
}

/// `>= 1.1`
fn least(input: ParseStream<'_>) -> syn::Result<(u32, u32)> {
    input.parse::<Token![>=]>()?;
    let number: LitFloat = input.parse().map_err(|error| {
        Error::new(error.span(), "a version of the interface stands here, as in `>= 1.1`")
    })?;
    // By its digits: 1.10 comes after 1.9.
    let version = number.base10_digits().split_once('.');
    let version = version.and_then(|(major, minor)| Some((major.parse().ok()?, minor.parse().ok()?)));
    version.ok_or_else(|| Error::new(number.span(), "a version of the interface stands here, as in `>= 1.1`"))
}

impl Parse for Args {
    fn parse(input: ParseStream<'_>) -> syn::Result<Self> {
        if input.is_empty() {
            return Err(Error::new(
                input.span(),
                "export_plugin! takes a type and its interfaces: `export_plugin!(MyPlugin: MyInterface);`",
            ));
        }
        let plugin: Type = input.parse()?;
        if !input.peek(Token![:]) {
            return Err(Error::new(
                plugin.span(),
                "which interface does it implement? `export_plugin!(MyPlugin: MyInterface);`",
            ));
        }
        input.parse::<Token![:]>()?;
        let interfaces = Punctuated::<Path, Token![+]>::parse_separated_nonempty(input)?;
        let interfaces = interfaces.into_iter().collect();
        let mut args = Args { plugin, interfaces, name: None, requires: Vec::new(), accounting: false };
        while !input.is_empty() {
            input.parse::<Token![,]>()?;
            if input.is_empty() {
                break;
            }
            let key: Ident = input.parse()?;
            input.parse::<Token![=]>().map_err(|_| unknown(&key))?;
            match key.to_string().as_str() {
                "name" => args.name = Some(input.parse()?),
                "requires" => {
                    let list;
                    bracketed!(list in input);
                    let all = Punctuated::<Requirement, Token![,]>::parse_terminated(&list)?;
                    args.requires.extend(all);
                }
                "allocator" => {
                    let whose: Ident = input.parse()?;
                    if whose != "host" {
                        let text = format!(
                            "`allocator = {whose}`: the only value is `host`, which lets the host keep account of the heap"
                        );
                        return Err(Error::new(whose.span(), text));
                    }
                    args.accounting = true;
                }
                _ => return Err(unknown(&key)),
            }
        }
        Ok(args)
    }
}

fn unknown(key: &Ident) -> Error {
    let text = format!(
        "unknown option `{key}`: the options are `name = \"…\"`, `requires = […]` and `allocator = host`"
    );
    Error::new(key.span(), text)
}

pub fn expand(args: &Args) -> TokenStream {
    let Args { plugin, interfaces, name, requires, accounting } = args;
    let name = name.as_ref().map_or_else(|| quote!(env!("CARGO_PKG_NAME")), |name| quote!(#name));
    let interfaces = interfaces.iter().map(|path| quote_spanned!(path.span()=> dyn #path));
    let (allocator, heap) = if *accounting {
        let allocator = quote! {
            #[cfg(not(test))]
            #[global_allocator]
            static __RESEAT_HEAP: ::plugin_api::heap::Accounting = ::plugin_api::heap::Accounting;
        };
        (allocator, quote!(::core::option::Option::Some(::plugin_api::heap::in_use)))
    } else {
        (TokenStream::new(), quote!(::core::option::Option::None))
    };
    let requires = requires.iter().map(|Requirement { interface, version, optional }| {
        let version = match version {
            Some((major, minor)) => quote!(::core::option::Option::Some((#major, #minor))),
            None => quote!(::core::option::Option::None),
        };
        quote_spanned!(interface.span()=> (dyn #interface, #version, #optional))
    });
    quote! {
        #allocator
        ::plugin_api::__export!(
            #plugin, #name, env!("CARGO_PKG_VERSION"), [#(#interfaces),*], requires: [#(#requires),*], heap: #heap
        );
    }
}
