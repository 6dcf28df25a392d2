//! The first process of a lab: builds it, holds it, changes it on request. When it ends, the kernel frees all of it.
//!
//! It gets the API's socket on the host as stdin and a conversation with `lab up` as stdout. Until the lab is up, the
//! end of that conversation is the end of the lab: an `up` that was killed leaves nothing.

mod bring_up;
mod lab;
mod requests;

use crate::dir::{HolderRecord, LabDir, start_time};
use crate::plan::LabConfig;
use crate::reaper::Children;
use crate::rpc::{self, Progress};
use crate::wire::{Event, Request};
use crate::{LabError, pid_in, proxy, root, runtime};
use lab::Lab;
use std::fs::File;
use std::net::TcpListener;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::net::UnixStream;
use std::process::ExitCode;
use std::sync::Arc;
use tokio::io::AsyncReadExt as _;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

/// Runs the process.
pub(crate) fn main(config: &str) -> Result<ExitCode, LabError> {
    let config: LabConfig =
        serde_json::from_str(config).map_err(LabError::message("the lab's configuration"))?;
    let dir = LabDir::of(&config.name);
    // The host's view of processes stays: whoever works with the lab from outside counts as the host does.
    let pid = pid_in("/proc")?;
    let start_time =
        start_time(pid).ok_or_else(|| LabError::Refused(format!("there is no /proc/{pid}/stat")))?;
    dir.write_record(&HolderRecord { version: env!("CARGO_PKG_VERSION").into(), pid, start_time })?;
    root::keep_mounts_private()?;
    nix::unistd::sethostname(config.name.as_str()).map_err(LabError::errno("set the lab's host name"))?;
    root::memory_disk(&dir.state(), "mode=700")?;
    let devices = dir.disk("sys");
    std::fs::create_dir(&devices).map_err(LabError::io("make a directory of the lab"))?;
    root::own_devices(&devices)?;
    let (api, parent) = inherited().map_err(LabError::io("take over the sockets of `lab up`"))?;
    runtime()?.block_on(live(config, dir, pid, api, parent))
}

/// The sockets in the places of stdin and stdout, which become what such usually are.
fn inherited() -> std::io::Result<(TcpListener, UnixStream)> {
    let own = |fd: std::os::fd::BorrowedFd<'_>| fd.try_clone_to_owned();
    let (api, parent): (OwnedFd, OwnedFd) = (own(std::io::stdin().as_fd())?, own(std::io::stdout().as_fd())?);
    let null = File::options().read(true).write(true).open("/dev/null")?;
    nix::unistd::dup2_stdin(&null)?;
    nix::unistd::dup2_stdout(&null)?;
    let (api, parent) = (TcpListener::from(api), UnixStream::from(parent));
    api.set_nonblocking(true)?;
    parent.set_nonblocking(true)?;
    Ok((api, parent))
}

async fn live(
    config: LabConfig,
    dir: LabDir,
    pid: i32,
    api: TcpListener,
    parent: UnixStream,
) -> Result<ExitCode, LabError> {
    let what = "take over the sockets of `lab up`";
    let api_port = api.local_addr().map_err(LabError::io(what))?.port();
    let api = tokio::net::TcpListener::from_std(api).map_err(LabError::io(what))?;
    let parent = tokio::net::UnixStream::from_std(parent).map_err(LabError::io(what))?;
    let control = rpc::bind(&dir.control())?;
    let children = Children::default();
    let mut tasks = JoinSet::new();
    tasks.spawn({
        let children = children.clone();
        async move {
            if let Err(error) = children.reap().await {
                tracing::error!(%error, "wait for children");
            }
        }
    });
    let lab = Lab::build(config, dir.clone(), pid, api_port, children).await;
    let lab = match lab {
        Ok(lab) => Arc::new(lab),
        Err(error) => {
            if !report(parent, Event::Failed(error.to_string())).await {
                vanish(&dir)?;
            }
            return Err(error);
        }
    };
    tasks.spawn(proxy::serve(api, lab.server()));
    tasks.spawn(rpc::serve::<Request, _>(control, Arc::clone(&lab)));
    if !bring_up(&lab, parent).await {
        vanish(&dir)?;
        return Ok(ExitCode::FAILURE);
    }
    while let Some(ended) = tasks.join_next().await {
        tracing::error!(?ended, "a task of the lab ended");
    }
    Ok(ExitCode::FAILURE)
}

/// Tells the parent; false when it is gone.
async fn report(mut parent: tokio::net::UnixStream, event: Event) -> bool {
    rpc::write_line(&mut parent, &event).await.is_ok()
}

/// Removes what is on the host: whoever would clean up may be gone.
fn vanish(dir: &LabDir) -> Result<(), LabError> {
    root::detach(&dir.state()).and_then(|()| dir.remove())
}

/// Brings the lab up, telling the parent; false when that failed or the parent is gone.
async fn bring_up(lab: &Arc<Lab>, parent: tokio::net::UnixStream) -> bool {
    let (mut read, mut write) = parent.into_split();
    let (sender, mut progress) = mpsc::channel(64);
    let work = lab.bring_up(Progress::to(sender));
    tokio::pin!(work);
    let mut byte = [0];
    let result = loop {
        tokio::select! {
            result = &mut work => break result,
            Some(text) = progress.recv() => {
                if rpc::write_line(&mut write, &Event::Progress(text)).await.is_err() {
                    return false;
                }
            }
            // It says nothing; so this is its end.
            _ = read.read(&mut byte) => {
                tracing::warn!("`lab up` ended before the lab was up");
                return false;
            }
        }
    };
    let (event, up) = match result {
        Ok(value) => (Event::Done(value), true),
        Err(error) => {
            tracing::error!(%error, "bring the lab up");
            (Event::Failed(error.to_string()), false)
        }
    };
    rpc::write_line(&mut write, &event).await.is_ok() && up
}
