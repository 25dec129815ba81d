use std::future::{Ready, ready};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Waker};

use axum::body::{Body, Bytes};
use axum::http::{Request, Response, StatusCode};
use axum::routing::get;
use axum::{Extension, Router};
use http_body::Body as _;
use reseat::tower::{RequestScope, ScopeLayer};
use reseat::{Event, Handle, Observers, ScopeObserver};
use reseat_tests::echo::Echo;
use reseat_tests::misc::Feeder;
use tokio::runtime::Runtime;
use tokio::sync::{Semaphore, watch};
use tower_layer::Layer;
use tower_service::Service;

use crate::scene::{Build, Scene};
use crate::waiting::{DEADLINE, until};

/// An HTTP service on a port of its own, until it is dropped.
struct Server {
    address: SocketAddr,
    _runtime: Runtime,
}

impl Server {
    fn of(scene: &Scene, routes: Router) -> Server {
        let runtime = Runtime::new().unwrap();
        let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).unwrap();
        let address = listener.local_addr().unwrap();
        let routes = routes.layer(ScopeLayer::new(scene.host.clone()));
        runtime.spawn(async move { axum::serve(listener, routes).await });
        Server { address, _runtime: runtime }
    }

    /// Asks, and leaves the answer to be read.
    fn ask(&self, path: &str) -> TcpStream {
        let mut stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        write!(stream, "GET {path} HTTP/1.1\r\nHost: here\r\nConnection: close\r\n\r\n").unwrap();
        stream
    }

    /// What the answer says behind its head.
    fn get(&self, path: &str) -> String {
        let mut answer = String::new();
        self.ask(path).read_to_string(&mut answer).unwrap();
        answer.split_once("\r\n\r\n").map(|(_, body)| body.to_owned()).unwrap_or_default()
    }
}

/// A place where handlers wait.
struct Place {
    arrived: AtomicUsize,
    go: Semaphore,
}

impl Place {
    fn new() -> Arc<Place> {
        Arc::new(Place { arrived: AtomicUsize::new(0), go: Semaphore::new(0) })
    }

    async fn wait(&self) {
        self.arrived.fetch_add(1, Ordering::SeqCst);
        self.go.acquire().await.unwrap().forget();
    }

    #[track_caller]
    fn arrived(&self, count: usize) {
        assert!(until(DEADLINE, || self.arrived.load(Ordering::SeqCst) >= count), "nobody has come");
    }
}

fn build(scope: &RequestScope, echo: &Handle<dyn Echo>) -> u32 {
    scope.enter(echo).unwrap().build().unwrap()
}

/// The leases that keep an old generation, as they were told.
fn is_held_by_one_lease(scene: &Scene) -> bool {
    let told = |event: &Event| matches!(event, Event::Draining { holders, .. } if holders == "1 lease");
    scene.events().iter().any(told)
}

#[test]
fn a_request_sees_one_generation_of_each_plugin_whatever_is_published_while_it_waits() {
    let scene = Scene::with(&["echo_v1", "callback"]);
    let (echo, feeder) = (scene.handle::<dyn Echo>("echo"), scene.handle::<dyn Feeder>("callback"));
    let place = Place::new();
    let handler = {
        let place = place.clone();
        async move |Extension(scope): Extension<RequestScope>| {
            let both = || [build(&scope, &echo), scope.enter(&feeder).unwrap().build().unwrap()];
            let before = both();
            place.wait().await;
            format!("{before:?} {:?} {}", both(), echo.enter().unwrap().build().unwrap())
        }
    };
    let server = Server::of(&scene, Router::new().route("/", get(handler)));
    let answer = std::thread::scope(|threads| {
        let asked = threads.spawn(|| server.get("/"));
        place.arrived(1);
        scene.install("echo_v2").published();
        scene.install(Build::of("callback").stamped(2)).published();
        place.go.add_permits(2);
        asked.join().unwrap()
    });
    // The handle alone, too: it is used inside of the request, which has the plugin already.
    assert_eq!(answer, "[1, 1] [1, 1] 1");
    assert_eq!(server.get("/"), "[2, 2] [2, 2] 2");
    scene.unloaded("echo", 1);
    scene.unloaded("callback", 1);
}

#[test]
fn a_streamed_body_holds_what_its_request_has_called_until_it_ends() {
    let scene = Scene::with(&["echo_v1"]);
    let echo = scene.handle::<dyn Echo>("echo");
    let place = Place::new();
    let handler = {
        let place = place.clone();
        async move |Extension(scope): Extension<RequestScope>| {
            build(&scope, &echo);
            streamed(place)
        }
    };
    let server = Server::of(&scene, Router::new().route("/", get(handler)));
    let mut answer = server.ask("/");
    // What it has called is left, but the answer is not complete.
    place.arrived(1);
    scene.install("echo_v2").published();
    scene.eventually(is_held_by_one_lease);
    assert_eq!(scene.verdict_of("echo", 1), None);
    place.go.add_permits(2);
    let mut text = String::new();
    answer.read_to_string(&mut text).unwrap();
    assert!(text.contains("one") && text.contains("two"), "{text}");
    scene.unloaded("echo", 1);
}

/// Two pieces, each of which has to be waited for. Holds nothing of a scope.
fn streamed(place: Arc<Place>) -> Body {
    let pieces = futures_util::stream::unfold(["two", "one"].to_vec(), move |mut left| {
        let place = place.clone();
        async move {
            let piece = left.pop()?;
            place.wait().await;
            Some((Ok::<_, std::io::Error>(piece), left))
        }
    });
    Body::from_stream(pieces)
}

#[test]
fn a_request_whose_client_has_gone_lets_go_of_what_it_has_called() {
    let scene = Scene::with(&["echo_v1"]);
    let echo = scene.handle::<dyn Echo>("echo");
    let place = Place::new();
    let calls = {
        let (place, echo) = (place.clone(), echo.clone());
        async move |Extension(scope): Extension<RequestScope>| {
            build(&scope, &echo);
            place.wait().await;
        }
    };
    let streams = {
        let place = place.clone();
        async move |Extension(scope): Extension<RequestScope>| {
            build(&scope, &echo);
            streamed(place)
        }
    };
    let server = Server::of(&scene, Router::new().route("/", get(calls)).route("/stream", get(streams)));
    for (generation, path) in [(1, "/"), (2, "/stream")] {
        let asked = server.ask(path);
        place.arrived(generation as usize);
        scene.host.reload("echo").unwrap();
        assert_eq!(scene.verdict_of("echo", generation), None);
        // Nobody lets the handler go on.
        drop(asked);
        scene.unloaded("echo", generation);
    }
}

/// Counts what it is told.
#[derive(Clone, Default)]
struct Counts(Arc<[AtomicUsize; 2]>);

impl Counts {
    fn told(&self) -> [usize; 2] {
        self.0.each_ref().map(|count| count.load(Ordering::SeqCst))
    }
}

impl ScopeObserver for Counts {
    fn to_run(&self) {
        self.0[0].fetch_add(1, Ordering::SeqCst);
    }
    fn to_complete(&self) {
        self.0[1].fetch_add(1, Ordering::SeqCst);
    }
}

/// A host with somebody around its units of work.
fn observed() -> (Scene, Counts) {
    let counts = Counts::default();
    let around = counts.clone();
    let scene = Scene::with_options(&["echo_v1"], |options| {
        options.observers = Observers::none().around_scopes(around);
    });
    (scene, counts)
}

#[test]
fn observers_are_told_once_around_each_request_however_it_ends() {
    let (scene, counts) = observed();
    let (echo, host) = (scene.handle::<dyn Echo>("echo"), scene.host.clone());
    let place = Place::new();
    // Scopes of any kind that begin in it are of the same unit, also after it has waited.
    let nests = async move |Extension(scope): Extension<RequestScope>| {
        tokio::task::yield_now().await;
        host.scope(|inner| inner.enter(&echo).unwrap().build().unwrap());
        drop(host.owned_scope());
        build(&scope, &echo).to_string()
    };
    let streams = {
        let place = place.clone();
        async move || streamed(place)
    };
    let fails = async || StatusCode::IM_A_TEAPOT;
    let panics = async || -> &'static str { panic!("the handler has a mistake") };
    let routes = Router::new().route("/nests", get(nests)).route("/streams", get(streams));
    let routes = routes.route("/fails", get(fails)).route("/panics", get(panics));
    let server = Server::of(&scene, routes);
    place.go.add_permits(2);
    for (number, path) in (1..).zip(["/nests", "/fails", "/panics", "/streams"]) {
        let answer = server.get(path);
        assert_eq!(answer.is_empty(), path == "/fails" || path == "/panics", "{path}: {answer}");
        scene.eventually(|_| counts.told()[1] == number);
        assert_eq!(counts.told(), [number, number], "{path}");
    }
    // One that lasts has begun and is not complete.
    let asked = server.ask("/streams");
    place.arrived(3);
    assert_eq!(counts.told(), [5, 4]);
    drop(asked);
    scene.eventually(|_| counts.told() == [5, 5]);
}

/// A service without HTTP. What it does is in the path.
struct Plain;

type Answer = Result<Response<Plainly>, &'static str>;

impl Service<Request<()>> for Plain {
    type Response = Response<Plainly>;
    type Error = &'static str;
    type Future = Either;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), &'static str>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<()>) -> Either {
        match request.uri().path() {
            "/fails" => Either::Answers(ready(Err("it has failed"))),
            "/panics" => Either::Panics,
            _ => Either::Answers(ready(Ok(Response::new(Plainly)))),
        }
    }
}

/// A future that panics, or does not.
enum Either {
    Answers(Ready<Answer>),
    Panics,
}

impl Future for Either {
    type Output = Answer;
    fn poll(self: std::pin::Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Answer> {
        match self.get_mut() {
            Either::Answers(answer) => pin!(answer).poll(context),
            Either::Panics => panic!("the service has a mistake"),
        }
    }
}

/// A body that panics.
struct Plainly;

impl http_body::Body for Plainly {
    type Data = Bytes;
    type Error = &'static str;
    fn poll_frame(
        self: std::pin::Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<http_body::Frame<Bytes>, &'static str>>> {
        panic!("the body has a mistake")
    }
}

#[test]
fn what_fails_or_panics_has_ended_its_unit_before_it_is_dropped() {
    let (scene, counts) = observed();
    let mut service = ScopeLayer::new(scene.host.clone()).layer(Plain);
    let mut context = Context::from_waker(Waker::noop());
    let ask = |path: &str| Request::builder().uri(path).body(()).unwrap();

    let mut fails = pin!(service.call(ask("/fails")));
    assert_eq!(counts.told(), [1, 0]);
    assert!(matches!(fails.as_mut().poll(&mut context), Poll::Ready(Err("it has failed"))));
    assert_eq!(counts.told(), [1, 1]);

    let mut panics = pin!(service.call(ask("/panics")));
    let poll = AssertUnwindSafe(|| panics.as_mut().poll(&mut context).is_ready());
    catch_unwind(poll).unwrap_err();
    assert_eq!(counts.told(), [2, 2]);

    let Poll::Ready(Ok(answer)) = pin!(service.call(ask("/"))).poll(&mut context) else {
        panic!("it answers at once")
    };
    assert_eq!(counts.told(), [3, 2]);
    let mut body = pin!(answer.into_body());
    let poll = AssertUnwindSafe(|| body.as_mut().poll_frame(&mut context).is_ready());
    catch_unwind(poll).unwrap_err();
    assert_eq!(counts.told(), [3, 3]);
}

#[test]
fn of_a_hundred_requests_beside_reloads_none_sees_two_generations() {
    const REQUESTS: usize = 100;
    const RELOADS: u32 = 10;
    let scene = Scene::with(&["echo_stamped"]);
    let echo = scene.handle::<dyn Echo>("echo");
    let (published, seen) = watch::channel(1);
    let arrived = Arc::new(AtomicUsize::new(0));
    let handler = {
        let arrived = arrived.clone();
        async move |Extension(scope): Extension<RequestScope>| {
            let mut seen = seen.clone();
            let before = build(&scope, &echo);
            arrived.fetch_add(1, Ordering::SeqCst);
            seen.wait_for(|published| *published > before).await.unwrap();
            format!("{before} {}", build(&scope, &echo))
        }
    };
    let server = Server::of(&scene, Router::new().route("/", get(handler)));
    std::thread::scope(|threads| {
        for number in 1..=RELOADS {
            let asked: Vec<_> = (0..REQUESTS).map(|_| threads.spawn(|| server.get("/"))).collect();
            scene.eventually(|_| arrived.load(Ordering::SeqCst) == REQUESTS * number as usize);
            scene.install(Build::of("echo_stamped").stamped(number + 1)).published();
            // They are all in the middle, and a newer one serves.
            published.send(number + 1).unwrap();
            for one in asked {
                assert_eq!(one.join().unwrap(), format!("{number} {number}"));
            }
        }
    });
    (1..=u64::from(RELOADS)).for_each(|generation| scene.unloaded("echo", generation));
}
