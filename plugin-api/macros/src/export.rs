//! `export_plugin!(Type: Interface + Other, name = "other")`.

use proc_macro2::TokenStream;
use quote::{quote, quote_spanned};
use syn::parse::{Parse, ParseStream};
use syn::punctuated::Punctuated;
use syn::spanned::Spanned;
use syn::{Error, Expr, Ident, Path, Token, Type};

pub struct Args {
    plugin: Type,
    interfaces: Vec<Path>,
    name: Option<Expr>,
    /// `allocator = host`: the host keeps account of the heap.
    accounting: bool,
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
        let mut args =
            Args { plugin, interfaces: interfaces.into_iter().collect(), name: None, accounting: false };
        while !input.is_empty() {
            input.parse::<Token![,]>()?;
            if input.is_empty() {
                break;
            }
            let key: Ident = input.parse()?;
            input.parse::<Token![=]>().map_err(|_| unknown(&key))?;
            match key.to_string().as_str() {
                "name" => args.name = Some(input.parse()?),
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
    let text = format!("unknown option `{key}`: the options are `name = \"…\"` and `allocator = host`");
    Error::new(key.span(), text)
}

pub fn expand(args: &Args) -> TokenStream {
    let Args { plugin, interfaces, name, accounting } = args;
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
    quote! {
        #allocator
        ::plugin_api::__export!(#plugin, #name, env!("CARGO_PKG_VERSION"), [#(#interfaces),*], heap: #heap);
    }
}
