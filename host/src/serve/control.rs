//! The control socket: `control.sock` in the state directory, for nobody but the host's own user.

use std::fs::{DirBuilder, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::os::unix::net::UnixStream as StdStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use reseat::Host;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Semaphore, mpsc};

use super::protocol::{REQUEST_LIMIT, Request, Response, SOCKET};

/// How many clients are answered at a time; further ones wait.
const CLIENTS: usize = 64;

/// A socket that is removed with the value.
pub struct Control {
    listener: UnixListener,
    path: PathBuf,
}

impl Control {
    /// Listens in a state directory. Call it within a tokio runtime.
    ///
    /// # Errors
    /// A host listens there already, or the directory cannot be used.
    pub fn bind(state_dir: &Path) -> Result<Control> {
        let path = state_dir.join(SOCKET);
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(state_dir)
            .with_context(|| format!("the state directory {} cannot be made", state_dir.display()))?;
        match StdStream::connect(&path) {
            Ok(_) => bail!(
                "a host already runs in {}: stop it, or give this one another --state-dir",
                state_dir.display()
            ),
            // Left behind by a host that was killed.
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                std::fs::remove_file(&path)
                    .with_context(|| format!("{} cannot be replaced", path.display()))?;
            }
            Err(_) => {}
        }
        // Bound under another name and given its mode before anybody can know it: there is no moment at which
        // others could connect.
        let unnamed = state_dir.join(format!(".{SOCKET}.{}", std::process::id()));
        let _ = std::fs::remove_file(&unnamed);
        let listener = UnixListener::bind(&unnamed)
            .with_context(|| format!("the control socket {} cannot be made", unnamed.display()))?;
        std::fs::set_permissions(&unnamed, Permissions::from_mode(0o600))?;
        std::fs::rename(&unnamed, &path)?;
        Ok(Control { listener, path })
    }

    /// Answers clients until it is dropped.
    pub async fn serve(self, host: Arc<Host>) {
        let places = Arc::new(Semaphore::new(CLIENTS));
        loop {
            let Ok(place) = places.clone().acquire_owned().await else { return };
            match self.listener.accept().await {
                Ok((stream, _)) => {
                    let host = host.clone();
                    tokio::spawn(async move {
                        // A client that goes away in the middle harms nobody.
                        if let Err(error) = answer(stream, host).await {
                            tracing::debug!("a client of the control socket: {error}");
                        }
                        drop(place);
                    });
                }
                Err(error) => {
                    // Out of descriptors, most likely: others will be closed.
                    tracing::warn!("the control socket: {error}");
                    tokio::time::sleep(std::time::Duration::from_millis(100)).await;
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

async fn answer(mut stream: UnixStream, host: Arc<Host>) -> io::Result<()> {
    let (reader, mut writer) = stream.split();
    let mut line = String::new();
    let mut reader = BufReader::new(reader.take(REQUEST_LIMIT));
    reader.read_line(&mut line).await?;
    let request = match serde_json::from_str::<Request>(&line) {
        Ok(request) => request,
        Err(error) => {
            let text =
                format!("this request is not understood: {error}; are command and host of the same version?");
            return write(&mut writer, &Response::Error(text)).await;
        }
    };
    if let Request::Events { follow } = request {
        return events(&mut reader, &mut writer, host, follow).await;
    }
    // Calls of plugins block for as long as they take.
    let response = tokio::task::spawn_blocking(move || perform(&host, request))
        .await
        .unwrap_or_else(|error| Response::Error(format!("the host's own error: {error}")));
    write(&mut writer, &response).await
}

fn perform(host: &Host, request: Request) -> Response {
    match request {
        Request::Call { plugin, method, arguments } => {
            let result = host.call(&plugin, &method, &arguments);
            Response::of(
                result.map(|json| serde_json::from_str::<Value>(&json).unwrap_or(Value::String(json))),
            )
        }
        Request::Status => Response::of(Ok::<_, String>(host.status())),
        Request::Reload { plugin } => Response::of(host.reload(&plugin)),
        Request::Unload { plugin } => Response::of(host.unload(&plugin)),
        Request::Check { file, plugin } => Response::of(host.check(&file, &plugin)),
        Request::Events { .. } => Response::Error("events are answered elsewhere".into()),
    }
}

async fn events(
    reader: &mut (impl AsyncReadExt + Unpin),
    writer: &mut (impl AsyncWriteExt + Unpin),
    host: Arc<Host>,
    follow: bool,
) -> io::Result<()> {
    // Subscribed before the past is read, so that nothing falls between the two.
    let subscription = follow.then(|| host.events());
    let past = host.recent_events();
    let last = past.last().map_or(0, |recorded| recorded.sequence);
    for recorded in &past {
        write(writer, &line(recorded)).await?;
    }
    drop(host);
    let Some(mut subscription) = subscription else { return Ok(()) };
    // The subscription blocks, so it has a thread; it ends with the client or with the host.
    let (sender, mut receiver) = mpsc::channel(64);
    std::thread::Builder::new().name("reseat-follow".into()).spawn(move || {
        while let Some(recorded) = subscription.next_recorded() {
            if recorded.sequence > last && sender.blocking_send(line(&recorded)).is_err() {
                return;
            }
        }
    })?;
    let mut end = [0];
    loop {
        tokio::select! {
            next = receiver.recv() => match next {
                Some(line) => write(writer, &line).await?,
                None => return Ok(()),
            },
            // The client says nothing more, so this is its end.
            _ = reader.read(&mut end) => return Ok(()),
        }
    }
}

fn line(recorded: &reseat::Recorded) -> Response {
    let mut value = json!(recorded);
    value["text"] = Value::String(recorded.event.to_string());
    Response::Ok(value)
}

async fn write(writer: &mut (impl AsyncWriteExt + Unpin), response: &Response) -> io::Result<()> {
    let mut line = serde_json::to_vec(response)?;
    line.push(b'\n');
    writer.write_all(&line).await
}
