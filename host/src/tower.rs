//! A layer for HTTP services in which each request is a unit of work: an [`OwnedScope`].
//!
//! Invariants:
//! 1. A request has one scope. It is made before the service is called, and its parts of it are dropped when the response's
//!    body has ended or was dropped; when there is no response, with the future.
//! 2. Whatever is polled, or dropped, of a request is so inside of its scope.
//! 3. What has panicked, failed or ended has let go of its scope.

use std::future::Future;
use std::ops::Deref;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use http::{Request, Response};
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;
use tower_layer::Layer;
use tower_service::Service;

use crate::host::Host;
use crate::scope::OwnedScope;

/// Makes each request that a service answers a unit of work: for every plugin that it calls through its [`RequestScope`]
/// there is one generation, whatever is reloaded meanwhile, also across `.await`.
///
/// A request lasts until the body of its response has ended, or was dropped because the client has gone; so what is
/// streamed is part of it. [`ScopeObserver`](crate::ScopeObserver)s are told once around each.
///
/// It keeps the host from being dropped, so a program that ends calls [`Host::shutdown`] when its server has ended.
///
/// # What is not promised
/// * Only calls through the [`RequestScope`] see its generations. A [`Handle`](crate::Handle) does not know which request
///   it is used for.
/// * A request that has called a plugin holds up what a lease holds up: the handover of one that has a state. Where
///   requests overlap all the time, such a plugin is reloaded in mode
///   [`BetweenScopes`](crate::ReloadMode::BetweenScopes), or not at all.
/// * What becomes of an upgraded connection is no part of the request, unless who serves it keeps a clone of the scope.
#[derive(Clone)]
pub struct ScopeLayer {
    host: Arc<Host>,
}

impl ScopeLayer {
    /// Scopes of this host.
    pub fn new(host: Arc<Host>) -> Self {
        ScopeLayer { host }
    }
}

impl<S> Layer<S> for ScopeLayer {
    type Service = ScopeService<S>;

    fn layer(&self, inner: S) -> ScopeService<S> {
        ScopeService { inner, host: self.host.clone() }
    }
}

/// A service whose requests are units of work. See [`ScopeLayer`].
#[derive(Clone)]
pub struct ScopeService<S> {
    inner: S,
    host: Arc<Host>,
}

impl<S, B, R> Service<Request<B>> for ScopeService<S>
where
    S: Service<Request<B>, Response = Response<R>>,
    R: Body,
{
    type Response = Response<ScopedBody<R>>;
    type Error = S::Error;
    type Future = ScopedFuture<S::Future>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, mut request: Request<B>) -> ScopedFuture<S::Future> {
        let scope = RequestScope(Arc::new(self.host.owned_scope()));
        request.extensions_mut().insert(scope.clone());
        let inner = scope.inside(|| self.inner.call(request));
        ScopedFuture { part: Part::new(inner, scope) }
    }
}

/// The scope of one request, among its extensions: `Extension<RequestScope>` in axum. Dereferences to [`OwnedScope`].
///
/// A clone that is kept, in a task that was spawned, say, keeps the request's unit of work from being complete, and the
/// generations that it has called.
#[derive(Clone)]
pub struct RequestScope(Arc<OwnedScope>);

impl Deref for RequestScope {
    type Target = OwnedScope;

    fn deref(&self) -> &OwnedScope {
        &self.0
    }
}

pin_project! {
    /// Something of a request that is polled inside of its scope, until it is over.
    struct Part<T> {
        #[pin]
        inner: Option<T>,
        scope: Option<RequestScope>,
    }

    impl<T> PinnedDrop for Part<T> {
        fn drop(this: Pin<&mut Self>) {
            let mut this = this.project();
            if let Some(scope) = this.scope.take() {
                scope.inside(|| this.inner.set(None));
            }
        }
    }
}

impl<T> Part<T> {
    fn new(inner: T, scope: RequestScope) -> Self {
        Part { inner: Some(inner), scope: Some(scope) }
    }

    /// Polls it, and says whether it is over then. `None`: it has been over before, or has panicked.
    fn poll<R>(self: Pin<&mut Self>, poll: impl FnOnce(Pin<&mut T>) -> (R, bool)) -> Option<R> {
        let mut this = self.project();
        // Out of its place meanwhile: a panic drops it, by invariant 3.
        let scope = this.scope.take()?;
        let (polled, is_over) = scope.inside(|| {
            let (polled, is_over) = poll(this.inner.as_mut().as_pin_mut()?);
            if is_over {
                this.inner.set(None);
            }
            Some((polled, is_over))
        })?;
        if !is_over {
            *this.scope = Some(scope);
        }
        Some(polled)
    }
}

pin_project! {
    /// The answer to a request, which is a unit of work. See [`ScopeLayer`].
    pub struct ScopedFuture<F> {
        #[pin]
        part: Part<F>,
    }
}

impl<F, R, E> Future for ScopedFuture<F>
where
    F: Future<Output = Result<Response<R>, E>>,
{
    type Output = Result<Response<ScopedBody<R>>, E>;

    /// # Panics
    /// It is polled after it has ended or panicked.
    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let part = self.project().part;
        // If there is a response, its body goes on with the scope.
        let scope = part.scope.clone();
        let polled = part.poll(|inner| {
            let polled = inner.poll(context);
            let is_over = polled.is_ready();
            (polled, is_over)
        });
        let answer = ready!(polled.expect("a future is not polled after its end"));
        let scope = scope.expect("it was there to be polled in");
        Poll::Ready(answer.map(|response| response.map(|body| ScopedBody { part: Part::new(body, scope) })))
    }
}

pin_project! {
    /// The body of a response to a request that is a unit of work. See [`ScopeLayer`].
    pub struct ScopedBody<B> {
        #[pin]
        part: Part<B>,
    }
}

impl<B: Body> Body for ScopedBody<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        let polled = self.project().part.poll(|mut inner| {
            let polled = inner.as_mut().poll_frame(context);
            let is_over = match &polled {
                Poll::Pending => false,
                Poll::Ready(Some(Ok(_))) => inner.is_end_stream(),
                Poll::Ready(_) => true,
            };
            (polled, is_over)
        });
        polled.unwrap_or(Poll::Ready(None))
    }

    fn is_end_stream(&self) -> bool {
        self.part.inner.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.part.inner.as_ref().map_or_else(|| SizeHint::with_exact(0), Body::size_hint)
    }
}
