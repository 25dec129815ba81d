//! One method of an interface, and what it becomes on both sides.
//!
//! References are told from values by their syntax; everything else is asked of the type, through `AbiType`,
//! `Lend`, `Callback` and `Returns`.

use proc_macro2::TokenStream;
use quote::{format_ident, quote, quote_spanned};
use syn::ext::IdentExt;
use syn::{Attribute, Error, FnArg, Ident, ReturnType, TraitItemFn, Type};

use crate::check::{check_result, check_signature, refuse_cfg, take_since};
use crate::errors::Errors;
use crate::interface::Version;
use crate::param::{Kind, Param};
use crate::place::{call_on, ends, ident, on, probe};

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
                    let __result =
                        __reseat::finish(&mut __outgoing, __reply, const { #result_has_tail }, #lift);
                    // Empty by now: not even worth the look.
                    ::core::mem::forget(__outgoing);
                    __result
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
