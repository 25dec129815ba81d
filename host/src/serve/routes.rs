//! What plugins have registered as routes: `METHOD /routes/PATH` is answered by the plugin whose serving build has
//! `METHOD /PATH`. Who may ask is up to [`access`](super::access), as for everything else.

use axum::extract::{Path, Request, State};
use axum::http::StatusCode;
use axum::response::Response;
use reseat::DispatchError;
use serde_json::{Map, Value};

use super::calls::Calls;
use super::http::{body_in_time, in_json, refuse, status_of};

/// The kind under which plugins register them.
const ROUTE: &str = "route";

pub async fn answer(State(calls): State<Calls>, path: Option<Path<String>>, request: Request) -> Response {
    let path = path.map_or_else(String::new, |Path(path)| path);
    let key = format!("{} /{path}", request.method());
    let query = arguments(request.uri().query().unwrap_or(""));
    let body = match body_in_time(&calls, request).await {
        Ok(body) => body,
        Err(refusal) => return refusal,
    };
    let arguments = match (body.trim().is_empty(), query) {
        (false, _) => body,
        (true, Ok(arguments)) => arguments,
        (true, Err(error)) => return refuse(StatusCode::BAD_REQUEST, "bad-arguments", &error),
    };
    match calls.dispatch(ROUTE.to_owned(), key, arguments).await {
        Ok(Ok(json)) => in_json(json),
        Ok(Err(error)) => {
            let (status, kind) = match &error {
                DispatchError::NotRegistered { .. } => (StatusCode::NOT_FOUND, "no-such-route"),
                DispatchError::Call { error, .. } => status_of(error),
                DispatchError::Closed => (StatusCode::SERVICE_UNAVAILABLE, "closed"),
                _ => (StatusCode::INTERNAL_SERVER_ERROR, "host"),
            };
            refuse(status, kind, &error.to_string())
        }
        Err(error) => refuse(StatusCode::INTERNAL_SERVER_ERROR, "host", &error.to_string()),
    }
}

/// A query as an object: what is JSON is taken for that, and what is not for text.
fn arguments(query: &str) -> Result<String, String> {
    let mut object = Map::new();
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let (name, value) = (decoded(name), decoded(value));
        let value = serde_json::from_str(&value).unwrap_or(Value::String(value));
        if object.insert(name.clone(), value).is_some() {
            return Err(format!("`{name}` is there twice: an array is written `{name}=[…]`"));
        }
    }
    Ok(Value::Object(object).to_string())
}

/// Text as forms and addresses write it: a `+` is a space, `%` and two digits are a byte.
fn decoded(text: &str) -> String {
    let (mut bytes, mut rest) = (Vec::with_capacity(text.len()), text.as_bytes());
    while let [first, more @ ..] = rest {
        let digits = more.get(..2).filter(|_| *first == b'%').and_then(|two| std::str::from_utf8(two).ok());
        let escaped = digits.filter(|two| two.bytes().all(|digit| digit.is_ascii_hexdigit()));
        match escaped.and_then(|two| u8::from_str_radix(two, 16).ok()) {
            Some(byte) => {
                bytes.push(byte);
                rest = &more[2..];
            }
            None => {
                bytes.push(if *first == b'+' { b' ' } else { *first });
                rest = more;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::arguments;

    #[test]
    fn a_query_is_an_object_of_json_and_of_text() {
        let read = |query| arguments(query).unwrap();
        assert_eq!(read(""), "{}");
        assert_eq!(read("name=alice+b%26c&cost=3"), r#"{"name":"alice b&c","cost":3}"#);
        assert_eq!(read("name=%22123%22&all=true"), r#"{"name":"123","all":true}"#);
        assert_eq!(read("list=[1,2]&half=[1,"), r#"{"list":[1,2],"half":"[1,"}"#);
        assert_eq!(read("a=100%&b=%c3%A4%2&c&&d=%+1"), r#"{"a":"100%","b":"ä%2","c":"","d":"% 1"}"#);
        assert!(arguments("a=1&a=2").unwrap_err().contains("`a` is there twice"));
    }
}
