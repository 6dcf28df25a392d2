//! Whether a file is a Warren that can replace this one: looked at, then asked.

use crate::error::InstallError;
use serde::{Deserialize, Serialize};
use std::fs;
use std::io::Read as _;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;
use tokio::io::AsyncReadExt as _;

/// How long a program may take to say its version.
const PATIENCE: Duration = Duration::from_secs(10);
/// Longest answer.
const LONGEST: u64 = 64 * 1024;
/// As much of a file as has its program headers.
const HEAD: u64 = 4096;

/// What `warren version --output json` says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct VersionReport {
    /// Version.
    pub version: String,
    /// Format of its store: what it writes, and the newest that it reads.
    pub store_format: u32,
}

impl VersionReport {
    /// This program's.
    #[must_use]
    pub fn own() -> Self {
        Self { version: env!("CARGO_PKG_VERSION").into(), store_format: warren_store::FORMAT }
    }
}

/// For which machine an ELF file is (class, byte order, machine), and whether it needs a loader.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Elf {
    machine: (u8, u8, u16),
    dynamic: bool,
}

/// Reads the head of an ELF file (System V ABI: e_ident, e_machine, program headers; 3 is PT_INTERP).
fn elf(head: &[u8]) -> Option<Elf> {
    let head = head.strip_prefix(b"\x7fELF").map(|_| head)?;
    let (class, order) = (*head.get(4)?, *head.get(5)?);
    let number = |at: usize, size: usize| -> Option<u64> {
        let bytes = head.get(at..at.checked_add(size)?)?;
        let fold = |n: u64, b: &u8| n << 8 | u64::from(*b);
        Some(if order == 2 { bytes.iter().fold(0, fold) } else { bytes.iter().rev().fold(0, fold) })
    };
    let (offset, size, count) = match class {
        1 => (number(28, 4)?, number(42, 2)?, number(44, 2)?),
        2 => (number(32, 8)?, number(54, 2)?, number(56, 2)?),
        _ => return None,
    };
    let mut dynamic = false;
    for n in 0..count {
        let at = offset.checked_add(n.checked_mul(size)?)?;
        dynamic |= number(usize::try_from(at).ok()?, 4)? == 3;
    }
    Some(Elf { machine: (class, order, u16::try_from(number(18, 2)?).ok()?), dynamic })
}

fn read(path: &Path) -> Result<Option<Elf>, std::io::Error> {
    let mut head = Vec::new();
    fs::File::open(path)?.take(HEAD).read_to_end(&mut head)?;
    Ok(elf(&head))
}

/// What the program at `path` says of itself, if it can replace this one.
///
/// # Errors
/// [`InstallError::Program`].
pub(crate) async fn judge(path: &Path) -> Result<VersionReport, InstallError> {
    let no = |why: String| InstallError::Program { path: path.to_owned(), why };
    let own = read(Path::new("/proc/self/exe")).ok().flatten();
    let new = read(path).map_err(|e| no(e.to_string()))?;
    let new = new.ok_or_else(|| no("it is not a program of Linux (ELF)".into()))?;
    if own.is_some_and(|own| own.machine != new.machine) {
        return Err(no("it is for another kind of processor".into()));
    }
    if new.dynamic && own.is_some_and(|own| !own.dynamic) {
        return Err(no("it is not static, so that it may not start on this machine".into()));
    }
    let said = ask(path).await.map_err(no)?;
    let known = warren_store::FORMAT;
    if said.store_format != known {
        let why = format!(
            "its store has format {}, that of this node has {known}, and there would be no way back",
            said.store_format
        );
        return Err(no(why));
    }
    Ok(said)
}

async fn ask(path: &Path) -> Result<VersionReport, String> {
    // A copy in memory would be another file: it is the one at `path` that has to start.
    let mut command = tokio::process::Command::new(path);
    command.args(["version", "--output", "json"]).env_clear().kill_on_drop(true);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = command.spawn().map_err(|e| format!("it does not start: {e}"))?;
    let stdout = child.stdout.take().ok_or("it has no output")?;
    let answer = async {
        let mut text = Vec::new();
        stdout.take(LONGEST).read_to_end(&mut text).await.map_err(|e| e.to_string())?;
        let status = child.wait().await.map_err(|e| e.to_string())?;
        if !status.success() {
            return Err(format!("asked for its version, it ends with {status}"));
        }
        serde_json::from_slice(&text).map_err(|_| "it does not say its version as a Warren does".to_owned())
    };
    let answer = tokio::time::timeout(PATIENCE, answer).await;
    answer
        .unwrap_or_else(|_| Err(format!("asked for its version, it is silent for {} s", PATIENCE.as_secs())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn the_own_program_is_read_and_what_is_cut_short_is_none() {
        let own = read(Path::new("/proc/self/exe")).unwrap().unwrap();
        assert_eq!(own.machine.0, 2);
        assert_eq!(elf(b"\x7fELF\x02\x01"), None);
        assert_eq!(elf(b"#!/bin/sh\n"), None);
    }

    #[tokio::test]
    async fn what_is_no_warren_is_refused_by_name() {
        let dir = tempfile::tempdir().unwrap();
        let script = dir.path().join("script");
        fs::write(&script, "#!/bin/sh\necho hello\n").unwrap();
        fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
        let error = judge(&script).await.unwrap_err().to_string();
        assert!(error.contains("ELF") && error.contains("script"), "{error}");
        let error = judge(Path::new("/bin/true")).await.unwrap_err().to_string();
        assert!(error.contains("does not say its version"), "{error}");
        let error = judge(Path::new("/bin/false")).await.unwrap_err().to_string();
        assert!(error.contains("ends with"), "{error}");
        assert!(judge(&dir.path().join("missing")).await.is_err());
    }

    proptest! {
        #[test]
        fn no_bytes_are_too_strange(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = elf(&[b"\x7fELF\x02\x01".as_slice(), &bytes].concat());
        }
    }
}
