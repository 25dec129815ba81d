//! The control socket: `control.sock` in the state directory, for nobody but the host's own user.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use plugin_api::Saved;
use reseat::{Host, Outcome, Recorded, TrustedDir, TrustedFile};
use rustix::fs::{Mode, fchmod};
use rustix::process::geteuid;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixSocket, UnixStream};
use tokio::sync::Semaphore;
use tokio::sync::broadcast::error::RecvError;
use tokio::time::timeout;

use super::calls::Calls;
use super::claim::{Claim, SocketPath};
use super::feed::{Feed, missed, told};
use super::protocol::{REQUEST_LIMIT, Request, Response, SOCKET};

/// How many clients are answered at a time; further ones are told so.
pub const CLIENTS: u32 = 64;
/// How long a client may take to say what it wants.
const PATIENCE: Duration = Duration::from_secs(10);

/// A socket that is removed with the value.
pub struct Control {
    listener: UnixListener,
    path: PathBuf,
    _claim: Claim, // after the socket has been removed
}

impl Control {
    /// Listens in a state directory. Call it within a tokio runtime.
    ///
    /// # Errors
    /// A host listens there already, or the directory cannot be used.
    pub fn bind(state_dir: &Path) -> Result<Control> {
        let claim = Claim::take(state_dir)?;
        let path = state_dir.join(SOCKET);
        // Left behind by a host that was killed: the claim says that there is no other.
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(error).with_context(|| format!("{} cannot be replaced", path.display()));
            }
            _ => {}
        }
        let listener = listen(state_dir)
            .with_context(|| format!("the control socket {} cannot be made", path.display()))?;
        Ok(Control { listener, path, _claim: claim })
    }

    /// Answers clients until it is dropped. Each holds one of `places` ([`CLIENTS`] of them) until it is done.
    pub async fn serve(self, calls: Calls, feed: Feed, places: Arc<Semaphore>) {
        loop {
            match self.listener.accept().await {
                Ok((stream, _)) => {
                    let (place, calls, feed) =
                        (places.clone().try_acquire_owned(), calls.clone(), feed.clone());
                    tokio::spawn(async move {
                        let answered = match &place {
                            _ if !is_ours(&stream) => refuse_stranger(stream).await,
                            Ok(_) => answer(stream, calls, feed).await,
                            Err(_) => turn_away(stream).await,
                        };
                        // A client that goes away in the middle harms nobody.
                        if let Err(error) = answered {
                            tracing::debug!("a client of the control socket: {error}");
                        }
                    });
                }
                Err(error) => {
                    // Out of descriptors, most likely: others will be closed.
                    tracing::warn!("the control socket: {error}");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

fn listen(state_dir: &Path) -> io::Result<UnixListener> {
    let socket = UnixSocket::new_stream()?;
    // Its name in the directory gets the socket's own mode, so there is no moment at which others could connect.
    fchmod(&socket, Mode::RUSR | Mode::WUSR)?;
    socket.bind(SocketPath::of(state_dir)?.as_path())?;
    socket.listen(CLIENTS)
}

/// Whether the client is the host's own user, or root. Its mode keeps others from the socket; this holds even if somebody
/// has changed that, or has put the socket elsewhere.
fn is_ours(stream: &UnixStream) -> bool {
    stream.peer_cred().is_ok_and(|peer| [0, geteuid().as_raw()].contains(&peer.uid()))
}

async fn refuse_stranger(mut stream: UnixStream) -> io::Result<()> {
    let own = geteuid().as_raw();
    let who =
        stream.peer_cred().map_or_else(|_| "nobody known".into(), |peer| format!("user {}", peer.uid()));
    let text = format!("this host answers user {own} and root, and this is {who}");
    write(&mut stream, &Response::Error(text)).await
}

async fn turn_away(mut stream: UnixStream) -> io::Result<()> {
    let text = format!("{CLIENTS} clients are being answered already: try again");
    write(&mut stream, &Response::Error(text)).await
}

async fn answer(mut stream: UnixStream, calls: Calls, feed: Feed) -> io::Result<()> {
    let (reader, mut writer) = stream.split();
    let mut reader = BufReader::new(reader.take(REQUEST_LIMIT));
    let mut line = String::new();
    timeout(PATIENCE, reader.read_line(&mut line)).await??;
    if line.len() as u64 == REQUEST_LIMIT && !line.ends_with('\n') {
        let text = format!("this request is too long: {} MiB is the most", REQUEST_LIMIT >> 20);
        return write(&mut writer, &Response::Error(text)).await;
    }
    let request = match serde_json::from_str::<Request>(&line) {
        Ok(request) => request,
        Err(error) => {
            let text =
                format!("this request is not understood: {error}; are command and host of the same version?");
            return write(&mut writer, &Response::Error(text)).await;
        }
    };
    let response = match request {
        Request::Events { follow } => return events(&mut reader, &mut writer, calls, feed, follow).await,
        Request::SaveState { plugin } => {
            let state = move |host: &Host| host.state(&plugin).map_err(|error| error.to_string());
            return match calls.ask(state).await {
                Ok(Ok(frame)) => {
                    write(&mut writer, &Response::Ok(json!(frame.len()))).await?;
                    writer.write_all(&frame).await
                }
                Ok(Err(error)) => write(&mut writer, &Response::Error(error)).await,
                Err(error) => write(&mut writer, &own(error)).await,
            };
        }
        Request::Call { plugin, method, arguments, generation: None } => {
            calls.call(plugin, method, arguments).await.map(answered)
        }
        Request::Call { plugin, method, arguments, generation: Some(generation) } => {
            calls.call_at(plugin, generation, method, arguments).await.map(answered)
        }
        Request::Dispatch { kind, key, arguments } => {
            calls.dispatch(kind, key, arguments).await.map(answered)
        }
        other => calls.ask(move |host| perform(host, other)).await,
    };
    write(&mut writer, &response.unwrap_or_else(own)).await
}

/// What a plugin has answered with.
fn answered<E: std::fmt::Display>(result: Result<String, E>) -> Response {
    Response::of(result.map(|json| serde_json::from_str::<Value>(&json).unwrap_or(Value::String(json))))
}

fn own(error: impl std::fmt::Display) -> Response {
    Response::Error(format!("the host's own error: {error}"))
}

fn perform(host: &Host, request: Request) -> Response {
    match request {
        Request::Status => Response::of(Ok::<_, String>(host.status())),
        Request::Reload { plugin, file, leak_old, dry_run, keep, canary } => {
            let file = match file.as_deref().map(operators_file).transpose() {
                Ok(file) => file,
                Err(error) => return Response::Error(error),
            };
            if let Some(percent) = canary {
                return Response::of(host.reload_as_canary(&plugin, file.as_ref(), percent));
            }
            if keep > 0 {
                return Response::of(host.reload_keeping(&plugin, keep));
            }
            Response::of(match (file, dry_run, leak_old) {
                (file, true, _) => host.dry_run(&plugin, file.as_ref()),
                (Some(file), false, _) => host.reload_from(&plugin, &file),
                (None, false, true) => host.reload_leaking(&plugin),
                (None, false, false) => host.reload(&plugin),
            })
        }
        Request::ReloadTogether { plugins } => {
            let plugins: Vec<_> = plugins.iter().map(String::as_str).collect();
            Response::of(host.reload_together(&plugins))
        }
        Request::Rollback { plugin } => Response::of(host.roll_back(&plugin)),
        Request::Promote { plugin } => Response::of(host.promote(&plugin)),
        Request::Discard { plugin } => Response::of(host.discard(&plugin)),
        Request::Release { plugin, generation } => Response::of(host.release(&plugin, generation)),
        Request::Cancel { plugin } => {
            let none = || format!("no reload of {plugin} is under way");
            Response::of(host.cancel(&plugin).ok_or_else(none))
        }
        Request::Why { plugin } => Response::of(host.why(&plugin)),
        Request::Denied { allow: None } => Response::of(Ok::<_, String>(host.denied())),
        Request::Denied { allow: Some(hash) } => Response::of(Ok::<_, String>(host.allow(&hash))),
        Request::State { plugin } => Response::of(readable(host, &plugin)),
        Request::LoadState { plugin, file } => Response::of(load_state(host, &plugin, &file)),
        Request::Snapshot { plugin } => Response::of(host.snapshot(&plugin)),
        Request::History { plugin } => Response::of(Ok::<_, String>(host.history(&plugin))),
        Request::Unload { plugin } => Response::of(host.unload(&plugin)),
        Request::Check { file, plugin } => Response::of(host.check(&file, &plugin)),
        Request::Registrations { kind } => Response::of(Ok::<_, String>(host.registrations(kind.as_deref()))),
        Request::Call { .. }
        | Request::Dispatch { .. }
        | Request::Events { .. }
        | Request::SaveState { .. } => Response::Error("this is answered elsewhere".into()),
    }
}

fn readable(host: &Host, plugin: &str) -> Result<Value> {
    Saved::from_shared(Arc::new(host.state(plugin)?.to_vec()))?.to_json()
}

fn load_state(host: &Host, plugin: &str, file: &Path) -> Result<Outcome> {
    let frame = std::fs::read(file).with_context(|| format!("{} cannot be read", file.display()))?;
    Ok(host.load_state(plugin, frame)?)
}

/// A file that the operator has named, who may connect to the control socket: so by this account, or by root. Naming it
/// vouches for it, as naming its directory to `reseat run` does.
#[allow(unsafe_code)]
fn operators_file(path: &Path) -> Result<TrustedFile, String> {
    let (Some(directory), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(format!("{} is no file", path.display()));
    };
    // SAFETY: the operator's word, see above; nothing else in that directory is loaded.
    let directory = unsafe { TrustedDir::new(directory) };
    directory.file(name).ok_or_else(|| format!("{} is no file", path.display()))
}

async fn events(
    reader: &mut (impl AsyncReadExt + Unpin),
    writer: &mut (impl AsyncWriteExt + Unpin),
    calls: Calls,
    feed: Feed,
    follow: bool,
) -> io::Result<()> {
    // Subscribed before the past is read, so that nothing falls between the two.
    let subscription = if follow { feed.subscribe() } else { None };
    let past = calls.host().recent_events();
    // A host that ends is not kept by those who watch it end.
    drop(calls);
    let mut last = 0;
    for recorded in &past {
        last = recorded.sequence;
        write(writer, &line(recorded)).await?;
    }
    let Some(mut subscription) = subscription else { return Ok(()) };
    let mut end = [0];
    loop {
        let next = tokio::select! {
            next = subscription.recv() => next,
            // The client says nothing more, so this is its end.
            _ = reader.read(&mut end) => return Ok(()),
        };
        match next {
            Ok(recorded) if recorded.sequence > last => write(writer, &line(&recorded)).await?,
            Ok(_) => {} // shown as the past
            Err(RecvError::Lagged(count)) => write(writer, &line(&missed(last, count))).await?,
            Err(RecvError::Closed) => return Ok(()),
        }
    }
}

fn line(recorded: &Recorded) -> Response {
    Response::Ok(told(recorded))
}

async fn write(writer: &mut (impl AsyncWriteExt + Unpin), response: &Response) -> io::Result<()> {
    let mut line = serde_json::to_vec(response)?;
    line.push(b'\n');
    writer.write_all(&line).await
}
