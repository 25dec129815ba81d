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
        let mut args = Args { plugin, interfaces: interfaces.into_iter().collect(), name: None };
        while !input.is_empty() {
            input.parse::<Token![,]>()?;
            if input.is_empty() {
                break;
            }
            let key: Ident = input.parse()?;
            if key != "name" {
                return Err(Error::new(
                    key.span(),
                    format!("unknown option `{key}`: the option is `name = \"…\"`"),
                ));
            }
            input.parse::<Token![=]>()?;
            args.name = Some(input.parse()?);
        }
        Ok(args)
    }
}

pub fn expand(args: &Args) -> TokenStream {
    let Args { plugin, interfaces, name } = args;
    let name = name.as_ref().map_or_else(|| quote!(env!("CARGO_PKG_NAME")), |name| quote!(#name));
    let interfaces = interfaces.iter().map(|path| quote_spanned!(path.span()=> dyn #path));
    quote! {
        ::plugin_api::__export!(#plugin, #name, env!("CARGO_PKG_VERSION"), [#(#interfaces),*]);
    }
}
