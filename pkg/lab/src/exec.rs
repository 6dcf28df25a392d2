//! `lab exec`: a program of the host inside a node, a pod or a part of the LAN, with this process's terminal.

use crate::sys::{Namespaces, spawn_inside};
use crate::wire::{Place, Request};
use crate::{LabError, LabName, client};
use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::process::{Command, ExitCode};
use tokio::signal::unix::{SignalKind, signal};

/// Runs `command` in `target` of the lab `name`; the result is the program's exit code, or 128 and the number of the
/// signal that ended it.
///
/// # Errors
/// When there is no such target, or the program cannot be started.
pub async fn exec(name: &LabName, target: &str, command: &[String]) -> Result<ExitCode, LabError> {
    let Some((program, args)) = command.split_first() else {
        return Err(LabError::Refused("there is no command; give one after --".into()));
    };
    let place: Place = client::request(name, &Request::Target { name: target.to_owned() }, |_| {}).await?;
    let gone = format!("enter {target}");
    let namespaces =
        Namespaces::of(place.pid, place.netns.as_deref().map(Path::new)).map_err(LabError::io(gone))?;
    // The terminal's signals are the program's to handle: they reach it as they reach this process, which waits on.
    let handle = |kind: SignalKind| signal(kind).map_err(LabError::io("handle signals"));
    let (mut interrupt, mut quit) = (handle(SignalKind::interrupt())?, handle(SignalKind::quit())?);
    let mut terminate = handle(SignalKind::terminate())?;
    let directory = std::env::current_dir().unwrap_or_else(|_| "/".into());
    // This program needs no place in the PATH to be run in a node.
    let own = (program == "warren").then(std::env::current_exe).and_then(Result::ok);
    let mut command = own.map_or_else(|| Command::new(program), Command::new);
    command.args(args);
    let started = spawn_inside(&mut command, namespaces, &directory);
    let mut child = started.map_err(LabError::io(format!("run {program} in {target}")))?;
    let pid = nix::unistd::Pid::from_raw(i32::try_from(child.id()).unwrap_or(0));
    let mut ended = tokio::task::spawn_blocking(move || child.wait());
    let status = loop {
        tokio::select! {
            status = &mut ended => break status,
            _ = interrupt.recv() => {}
            _ = quit.recv() => {}
            _ = terminate.recv() => {
                // The child is not waited for yet, so this is its id.
                let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM);
            }
        }
    };
    let lost = |e: String| LabError::Refused(format!("wait for {program}: {e}"));
    let status = status.map_err(|e| lost(e.to_string()))?.map_err(|e| lost(e.to_string()))?;
    let code = status.code().or_else(|| Some(128 + status.signal()?)).unwrap_or(1);
    Ok(ExitCode::from(u8::try_from(code).unwrap_or(1)))
}
