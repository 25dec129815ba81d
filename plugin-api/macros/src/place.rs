//! Where generated code stands, as the compiler sees it: an error about a type belongs at the type.

use proc_macro2::{Delimiter, Group, Span, TokenStream, TokenTree};
use quote::{ToTokens, quote, quote_spanned};
use syn::{Ident, Type};

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
pub fn probe(place: &Type, ty: &TokenStream) -> TokenStream {
    let (first, last) = ends(place);
    let open = quote_spanned!(first=> ::plugin_api::__private::Probe::<);
    let close = quote_spanned!(last=> >::new());
    quote!(#open #ty #close)
}

/// Where a type begins, and where it ends.
pub fn ends(ty: &Type) -> (Span, Span) {
    let mut tokens = ty.to_token_stream().into_iter();
    let first = tokens.next().map_or_else(Span::call_site, |token| token.span());
    (first, tokens.last().map_or(first, |token| token.span()))
}

pub fn ident(text: &str) -> TokenStream {
    Ident::new(text, Span::call_site()).into_token_stream()
}

fn set_span(tokens: TokenStream, span: Span) -> TokenStream {
    let place = |mut token: TokenTree| {
        token.set_span(span);
        token
    };
    tokens.into_iter().map(place).collect()
}
