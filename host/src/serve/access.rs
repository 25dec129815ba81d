//! Who may ask over HTTP: whoever shows the token, from a page of this host or from no page at all.
//!
//! Invariants:
//! 1. Nothing of a request is acted on before its `Host`, its `Origin` and its token have been looked at, in this order;
//!    nothing of its body is read before.
//! 2. The address is a place for the token only in `GET /?token=…`, which moves it into a cookie at once: addresses end up
//!    in histories and logs.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Result;
use axum::Extension;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use super::connections::Newcomer;
use super::http::{bind, refuse};
use super::token::{Token, TokenFile};
use tokio::net::TcpListener;

/// Where clients come in, with the token that they need.
pub struct Entrance {
    pub listener: TcpListener,
    pub address: SocketAddr,
    pub access: Arc<Access>,
    /// There as long as the host answers.
    pub file: TokenFile,
}

impl Entrance {
    /// Listens (see [`bind`]), with a new token in a claimed state directory.
    ///
    /// # Errors
    /// Nobody can listen there, or the token cannot be written.
    pub async fn open(wish: Option<SocketAddr>, remote: bool, state_dir: &Path) -> Result<Entrance> {
        let listener = bind(wish, remote).await?;
        let address = listener.local_addr()?;
        let token = Token::random()?;
        let file = TokenFile::write(state_dir, &token)?;
        let access = Access { token, file: file.path().to_owned(), port: address.port(), remote };
        Ok(Entrance { listener, address, access: Arc::new(access), file })
    }

    /// What people have to know of it.
    pub fn sign(&self) -> Sign {
        let token = self.access.token.as_str().to_owned();
        Sign { url: format!("http://{}", self.address), token, file: self.file.path().to_owned() }
    }
}

/// Where a host is reached over HTTP.
pub struct Sign {
    pub url: String,
    pub token: String,
    pub file: PathBuf,
}

/// What a request is measured by.
pub struct Access {
    pub token: Token,
    /// Where the token is found; refusals name it.
    pub file: PathBuf,
    pub port: u16,
    /// Whether the host may be reached from other machines.
    pub remote: bool,
}

impl Access {
    /// A browser hands a cookie to every port of a machine, so that each host needs a name of its own for it.
    fn cookie(&self) -> String {
        format!("reseat-{}", self.port)
    }

    /// Whether `name` or `name:port` is this machine. A name that somebody else can make point here is not.
    fn is_ours(&self, authority: &str) -> bool {
        let name = match authority.strip_prefix('[') {
            Some(rest) => rest.split_once(']').map_or(rest, |(name, _)| name),
            None => authority.rsplit_once(':').map_or(authority, |(name, _)| name),
        };
        if name.eq_ignore_ascii_case("localhost") {
            return true;
        }
        let address = name.parse::<std::net::IpAddr>();
        if !self.remote {
            return address.is_ok_and(|address| address.is_loopback());
        }
        address.is_ok()
            || rustix::system::uname().nodename().to_str().is_ok_and(|own| own.eq_ignore_ascii_case(name))
    }

    fn is_in_header(&self, headers: &HeaderMap) -> bool {
        let values = headers.get_all(header::AUTHORIZATION).iter().filter_map(|value| value.to_str().ok());
        values
            .filter_map(|value| value.split_once(' '))
            .any(|(scheme, shown)| scheme.eq_ignore_ascii_case("bearer") && self.token.is(shown.trim()))
    }

    fn is_in_cookie(&self, headers: &HeaderMap) -> bool {
        let name = self.cookie();
        let values = headers.get_all(header::COOKIE).iter().filter_map(|value| value.to_str().ok());
        let mut cookies =
            values.flat_map(|value| value.split(';')).filter_map(|pair| pair.trim().split_once('='));
        cookies.any(|(found, shown)| found == name && self.token.is(shown))
    }

    fn is_in_address(&self, request: &Request) -> bool {
        let query = request.uri().query().unwrap_or("");
        *request.method() == Method::GET
            && request.uri().path() == "/"
            && query
                .split('&')
                .filter_map(|pair| pair.strip_prefix("token="))
                .any(|shown| self.token.is(shown))
    }
}

/// Lets a request pass, or says why not.
pub async fn check(
    State(access): State<Arc<Access>>,
    newcomer: Option<Extension<Newcomer>>,
    request: Request,
    next: Next,
) -> Response {
    let headers = request.headers();
    let hosts: Vec<_> =
        headers.get_all(header::HOST).iter().map(|host| host.to_str().unwrap_or("")).collect();
    let [host] = hosts[..] else {
        return refuse(StatusCode::BAD_REQUEST, "host", "a request has one Host header");
    };
    if !access.is_ours(host) {
        return refuse(StatusCode::MISDIRECTED_REQUEST, "host", "the Host header does not name this machine");
    }
    // The very same authority: another port of this machine may be another user's.
    let own = |origin: &HeaderValue| origin.to_str().is_ok_and(|origin| origin == format!("http://{host}"));
    if !headers.get_all(header::ORIGIN).iter().all(own) {
        return refuse(StatusCode::FORBIDDEN, "origin", "requests of pages from elsewhere are refused");
    }
    let in_address = access.is_in_address(&request);
    if !in_address && !access.is_in_header(headers) && !access.is_in_cookie(headers) {
        let error = format!(
            "this needs the token in {}: send it as `Authorization: Bearer TOKEN`, or open the address that was printed at the start",
            access.file.display()
        );
        let challenge = [(header::WWW_AUTHENTICATE, "Bearer")];
        return (challenge, refuse(StatusCode::UNAUTHORIZED, "token", &error)).into_response();
    }
    if let Some(Extension(newcomer)) = newcomer {
        newcomer.is_known();
    }
    if in_address {
        return into_cookie(&access);
    }
    next.run(request).await
}

/// Puts the token where pages cannot read it and addresses do not show it.
fn into_cookie(access: &Access) -> Response {
    let cookie = format!("{}={}; HttpOnly; SameSite=Strict; Path=/", access.cookie(), access.token.as_str());
    let headers: [(HeaderName, &str); 4] = [
        (header::SET_COOKIE, &cookie),
        (header::LOCATION, "/"),
        (header::CACHE_CONTROL, "no-store"),
        (header::REFERRER_POLICY, "no-referrer"),
    ];
    (StatusCode::SEE_OTHER, headers).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn access(remote: bool) -> Access {
        Access { token: Token::random().unwrap(), file: "http.token".into(), port: 7380, remote }
    }

    #[test]
    fn only_names_of_this_machine_are_ours() {
        let access = access(false);
        for ours in ["localhost", "localhost:7380", "127.0.0.1:1", "127.0.0.1", "[::1]:7380", "LOCALHOST:1"] {
            assert!(access.is_ours(ours), "{ours}");
        }
        for foreign in ["example.org", "localhost.example.org:7380", "10.0.0.1:7380", "", "[2001:db8::1]:80"]
        {
            assert!(!access.is_ours(foreign), "{foreign}");
        }
    }

    #[test]
    fn a_host_for_other_machines_has_its_addresses_for_names_and_no_strange_ones() {
        let access = access(true);
        assert!(access.is_ours("10.0.0.1:7380") && access.is_ours("[2001:db8::1]:80"));
        assert!(!access.is_ours("rebound.example.org:7380") && !access.is_ours(""));
    }

    #[test]
    fn a_cookie_counts_by_its_whole_name_and_value() {
        let access = access(false);
        let shows = |cookie: String| {
            let mut headers = HeaderMap::new();
            headers.insert(header::COOKIE, cookie.parse().unwrap());
            access.is_in_cookie(&headers)
        };
        let token = access.token.as_str();
        assert!(shows(format!("a=b; reseat-7380={token}; c=d")));
        for wrong in [format!("reseat-7381={token}"), format!("xreseat-7380={token}"), token.to_owned()] {
            assert!(!shows(wrong));
        }
    }
}
