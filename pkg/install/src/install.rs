//! Putting everything in place: first a plan by what is there, then the plan's steps, each of which is whole or not at all.

use crate::config::{self, Settings};
use crate::disk::Disk;
use crate::error::InstallError;
use crate::places::Places;
use crate::service::{Daemon, Init, is_marked};
use ring::digest::{SHA256, digest};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use warren_types::defaults;

/// What a machine is to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Control plane, and a node of its own cluster.
    Server,
    /// A node that joins a server.
    Agent,
    /// A node of a cluster that has an API of its own.
    Kubernetes,
}

impl Role {
    /// Its word on the command line.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Server => "server",
            Self::Agent => "agent",
            Self::Kubernetes => "kubernetes",
        }
    }

    /// Its daemons, in the order of their start.
    #[must_use]
    pub fn daemons(self) -> &'static [Daemon] {
        match self {
            Self::Server => &[Daemon::Server, Daemon::Agent],
            Self::Agent | Self::Kubernetes => &[Daemon::Agent],
        }
    }
}

/// What is to be installed.
#[derive(Debug, Clone)]
pub struct Spec {
    /// The role.
    pub role: Role,
    /// Where.
    pub places: Places,
    /// Whose files of services.
    pub init: Init,
    /// The program.
    pub program: PathBuf,
    /// The configuration.
    pub settings: Settings,
    /// Completion scripts: where, and what.
    pub completions: Vec<(&'static str, Vec<u8>)>,
    /// Whether files that somebody changed are written anew.
    pub replace: bool,
}

/// What becomes of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Change {
    /// It is as it is to be.
    Unchanged,
    /// It is made.
    New,
    /// It is replaced.
    Replaced,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Content {
    Dir,
    Copy(PathBuf),
    Text { text: Vec<u8>, mode: u32 },
    Link(String),
}

/// One thing that is put in place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// Where.
    pub path: PathBuf,
    /// What becomes of it.
    pub change: Change,
    content: Content,
    keep_old: bool,
}

/// What an earlier installation put in place: the hash of each text, by path below the root.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Record {
    pub(crate) role: Option<Role>,
    pub(crate) files: BTreeMap<String, String>,
}

impl Record {
    pub(crate) fn load(places: &Places) -> Self {
        fs::read(places.record()).ok().and_then(|text| serde_json::from_slice(&text).ok()).unwrap_or_default()
    }
}

/// Where completion scripts are looked for: `bash`, `zsh`, `fish`.
pub const COMPLETIONS: [&str; 3] = [
    "/usr/local/share/bash-completion/completions/warren",
    "/usr/local/share/zsh/site-functions/_warren",
    "/usr/local/share/fish/vendor_completions.d/warren.fish",
];

fn hash(text: &[u8]) -> String {
    digest(&SHA256, text).as_ref().iter().map(|b| format!("{b:02x}")).collect()
}

/// What is to be done, by what is there. Nothing is changed.
///
/// # Errors
/// [`InstallError`]: then nothing must be done.
pub fn plan(spec: &Spec) -> Result<Vec<Step>, InstallError> {
    let places = &spec.places;
    for (key, values) in &spec.settings {
        let hidden = |path: &&String| ["/home/", "/root/", "/run/user/"].iter().any(|d| path.starts_with(d));
        if let Some(path) =
            values.iter().find(hidden).filter(|_| ["kubeconfig", "token-file"].contains(&key.as_str()))
        {
            return Err(InstallError::Hidden(path.into()));
        }
    }
    let record = Record::load(places);
    let mut steps = Vec::new();
    let private = [defaults::DATA_DIR, "/etc/warren"];
    for dir in private.into_iter().chain([defaults::CNI_CONF_DIR, defaults::CNI_BIN_DIR]) {
        let path = places.at(dir);
        let change = if path.is_dir() { Change::Unchanged } else { Change::New };
        steps.push(Step { path, change, content: Content::Dir, keep_old: false });
    }
    let program = places.program();
    let change = match (program.exists(), same(&spec.program, &program)) {
        (false, _) => Change::New,
        (true, true) => Change::Unchanged,
        (true, false) => Change::Replaced,
    };
    steps.push(Step { path: program, change, content: Content::Copy(spec.program.clone()), keep_old: false });
    for (path, text) in &spec.completions {
        steps.push(text_step(spec, &record, path, text, 0o644)?);
    }
    steps.push(config_step(spec)?);
    for daemon in spec.role.daemons() {
        let Some(unit) = spec.init.unit(*daemon) else { continue };
        steps.push(text_step(spec, &record, &unit.path, unit.text.as_bytes(), unit.mode)?);
        let path = places.at(&unit.enabled_by);
        let there = fs::read_link(&path).is_ok_and(|to| to == Path::new(&unit.path));
        let change = if there { Change::Unchanged } else { Change::New };
        steps.push(Step { path, change, content: Content::Link(unit.path), keep_old: false });
    }
    Ok(steps)
}

fn same(a: &Path, b: &Path) -> bool {
    match (fs::read(a), fs::read(b)) {
        (Ok(a), Ok(b)) => a == b,
        _ => false,
    }
}

fn config_step(spec: &Spec) -> Result<Step, InstallError> {
    let path = spec.places.config();
    let text = config::render(spec.role.word(), &spec.settings).into_bytes();
    let (change, keep_old) = match config::agrees(&path, &spec.settings) {
        Ok(true) => (Change::Unchanged, false),
        Ok(false) => (Change::New, false),
        Err(_) if spec.replace => (Change::Replaced, true),
        Err(error) => return Err(error),
    };
    Ok(Step { path, change, content: Content::Text { text, mode: 0o600 }, keep_old })
}

fn text_step(spec: &Spec, record: &Record, path: &str, text: &[u8], mode: u32) -> Result<Step, InstallError> {
    let at = spec.places.at(path);
    let content = Content::Text { text: text.to_vec(), mode };
    let step = |change, keep_old| Ok(Step { path: at.clone(), change, content, keep_old });
    match fs::read(&at) {
        Ok(old) if old == text => step(Change::Unchanged, false),
        // As an earlier version put it there.
        Ok(old) if record.files.get(path) == Some(&hash(&old)) => step(Change::Replaced, false),
        Ok(_) if spec.replace => step(Change::Replaced, true),
        Ok(_) => Err(InstallError::Edited(at)),
        Err(_) => step(Change::New, false),
    }
}

/// Does what was planned. Each file is as it was or as it is to be, at any moment; done again, it goes on where it stopped.
///
/// # Errors
/// [`InstallError`].
pub fn apply(spec: &Spec, steps: &[Step], disk: &dyn Disk) -> Result<(), InstallError> {
    let before = Record::load(&spec.places);
    let mut record = Record { role: Some(spec.role), ..before.clone() };
    for step in steps.iter().filter(|s| s.path != spec.places.config()) {
        if let Content::Text { text, .. } = &step.content {
            let below = step.path.strip_prefix(spec.places.at("/")).unwrap_or(&step.path);
            record.files.insert(Path::new("/").join(below).display().to_string(), hash(text));
        }
    }
    for step in steps.iter().filter(|s| s.change != Change::Unchanged) {
        if step.keep_old {
            let mut old = step.path.clone().into_os_string();
            old.push(".old");
            disk.rename(&step.path, Path::new(&old))?;
        }
        match &step.content {
            Content::Dir => {
                let private = step.path.ends_with("warren");
                disk.make_dir(&step.path, if private { 0o700 } else { 0o755 })?;
            }
            Content::Copy(source) => drop(disk.copy(source, &step.path)?),
            Content::Text { text, mode } => drop(disk.write(&step.path, text, *mode)?),
            Content::Link(to) => disk.link(Path::new(to), &step.path)?,
        }
    }
    // Last: whoever was cut off before finds the new texts in place, and is asked about nothing.
    if record != before {
        let text = serde_json::to_vec_pretty(&record).unwrap_or_default();
        disk.write(&spec.places.record(), &text, 0o600)?;
    }
    Ok(())
}

/// Files of an installation that are there, below `places`, the program last. Files of others are not among them.
#[must_use]
pub fn installed(places: &Places) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for unit in
        [Init::Systemd, Init::Openrc].iter().flat_map(|i| [Daemon::Agent, Daemon::Server].map(|d| i.unit(d)))
    {
        let Some(unit) = unit else { continue };
        let path = places.at(&unit.path);
        if is_marked(&path) {
            let link = places.at(&unit.enabled_by);
            found.extend(fs::read_link(&link).is_ok_and(|to| to == Path::new(&unit.path)).then_some(link));
            found.push(path);
        }
    }
    let completion = |path: &PathBuf| fs::read(path).is_ok_and(|text| contains(&text, b"warren"));
    found.extend(COMPLETIONS.iter().map(|p| places.at(p)).filter(completion));
    for path in [crate::places::previous(&places.program()), places.program()] {
        found.extend(is_our_program(&path).then_some(path));
    }
    found
}

/// By which a program is known as a Warren.
#[used]
static PROGRAM_MARK: &[u8] = b"warren.dev/program: this file is a Warren";

/// Whether a file is a program of Warren's.
#[must_use]
pub fn is_our_program(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|m| m.is_file())
        && fs::read(path).is_ok_and(|bytes| bytes.starts_with(b"\x7fELF") && contains(&bytes, PROGRAM_MARK))
}

fn contains(text: &[u8], part: &[u8]) -> bool {
    memchr::memmem::find(text, part).is_some()
}

#[cfg(test)]
mod tests;
