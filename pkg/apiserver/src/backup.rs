//! Backup of a running server, and restore.
//!
//! A backup is lines of JSON: what it is; the key and token files; the rows of the store as one commit left them; the
//! end with the count of rows; the SHA-256 of all lines before. The running server sends the rows; the files are read
//! from its data directory, so that the authority's key never travels. Restore raises the revision far above any that
//! the lost state can have given, so that every watcher is told to list again, and no revision is given twice.

use axum::body::Body;
use bytes::Bytes;
use http::{Response, StatusCode};
use jiff::Timestamp;
use ring::digest::{Context, SHA256};
use serde::{Deserialize, Serialize};
use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, BufWriter, Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use warren_store::{Change, Durability, Record, Store, StoreError};

use crate::ServerError;
use crate::authority::{hex, make_private_dir, read_optional, write_private};
use crate::bearer::TokenRow;
use crate::join::NodePassword;
use crate::reply;
use crate::storage::{ApiObject, REVISION_ROW};

/// Where a running server gives its rows.
pub(crate) const PATH: &str = "/v1-warren/backup";
/// Version of the format; those before can be read.
const FORMAT: u32 = 2;
/// Files of a server besides its store.
const FILES: [&str; 6] =
    ["tls/ca.crt", "tls/ca.key", "token", "agent-token", "tls/ingress-ca.crt", "tls/ingress-ca.key"];
/// How many of them, the first, are in a backup of format 1: a server makes the others when it starts.
const FILES_1: usize = 4;
/// How far a restore raises the revision: more writes than a server does between two backups.
const LEAP: u64 = 1_000_000_000;
/// Rows in one commit of a restore.
const BATCH: usize = 500;
/// Bytes in one piece of an answer.
const PIECE: usize = 64 << 10;
/// The last line begins so.
const SUM: &[u8] = b"{\"sha256\":\"";

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Line {
    WarrenBackup { format: u32, created: Timestamp },
    File { name: String, content: String },
    Object(ApiObject),
    Token(TokenRow),
    Password(NodePassword),
    End { rows: usize, revision: u64 },
}

/// Rows of any table, as lines that are made when they are sent.
enum Row {
    Object(Arc<ApiObject>),
    Token(Arc<TokenRow>),
    Password(Arc<NodePassword>),
}

impl Row {
    fn line(&self) -> Line {
        match self {
            Self::Object(o) => Line::Object(ApiObject::clone(o)),
            Self::Token(t) => Line::Token(TokenRow::clone(t)),
            Self::Password(p) => Line::Password(NodePassword::clone(p)),
        }
    }
}

fn rows<R: Record>(store: &Store) -> Vec<Arc<R>> {
    store.table::<R>().snapshot().rows.values().cloned().collect()
}

/// The rows of the store, as they are at this moment.
pub(crate) fn answer(store: &Store) -> Response<Body> {
    let objects = rows::<ApiObject>(store);
    let revision = objects.iter().map(|o| o.revision).max().unwrap_or(1);
    let mut all: Vec<Row> = objects.into_iter().map(Row::Object).collect();
    all.extend(rows(store).into_iter().map(Row::Token));
    all.extend(rows(store).into_iter().map(Row::Password));
    let count = all.len();
    let mut left = all.into_iter();
    let mut ended = false;
    let pieces = std::iter::from_fn(move || {
        let mut out = Vec::new();
        while out.len() < PIECE && !ended {
            let line = match left.next() {
                Some(row) => row.line(),
                None => {
                    ended = true;
                    Line::End { rows: count, revision }
                }
            };
            if let Err(e) = serde_json::to_writer(&mut out, &line) {
                ended = true;
                return Some(Err(std::io::Error::other(e)));
            }
            out.push(b'\n');
        }
        (!out.is_empty()).then(|| Ok(Bytes::from(out)))
    });
    let mut response = reply::typed(StatusCode::OK, "application/x-ndjson", Bytes::new());
    *response.body_mut() = Body::from_stream(futures::stream::iter(pieces));
    response
}

fn at(path: &Path) -> impl Fn(std::io::Error) -> ServerError {
    let path = path.to_owned();
    move |source| ServerError::Io { path: path.clone(), source }
}

fn damaged(path: &Path, why: impl std::fmt::Display) -> ServerError {
    ServerError::Backup(format!("{}: {why}; take another backup", path.display()))
}

/// Writes a backup to `path` (mode 0600, all of it or nothing): the files of the server in `data_dir`, and its rows,
/// which are taken from `next` until it gives none.
///
/// # Errors
/// [`ServerError`]; then there is no file at `path`, or the one that was there before.
pub async fn write(
    path: &Path,
    data_dir: &Path,
    mut next: impl AsyncFnMut() -> Result<Option<Bytes>, ServerError>,
) -> Result<(), ServerError> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}.tmp", std::process::id()));
    let temporary = path.with_file_name(name);
    let _ = fs::remove_file(&temporary);
    let result = async {
        let mut out = Summed::create(&temporary)?;
        out.line(&Line::WarrenBackup { format: FORMAT, created: Timestamp::now() })?;
        for name in FILES {
            let file = data_dir.join("server").join(name);
            let content = read_optional(&file)?.ok_or_else(|| {
                ServerError::Backup(format!(
                    "{} is missing; is this the machine of the server, and its --data-dir?",
                    file.display()
                ))
            })?;
            out.line(&Line::File { name: name.into(), content })?;
        }
        while let Some(bytes) = next().await? {
            out.add(&bytes)?;
        }
        out.finish()?;
        verify(&temporary)?;
        fs::rename(&temporary, path).map_err(at(path))?;
        let directory = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        File::open(directory).and_then(|d| d.sync_all()).map_err(at(directory))
    }
    .await;
    if result.is_err() {
        let _ = fs::remove_file(&temporary);
    }
    result
}

struct Summed {
    path: PathBuf,
    out: BufWriter<File>,
    sum: Context,
}

impl Summed {
    fn create(path: &Path) -> Result<Self, ServerError> {
        let file =
            fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).map_err(at(path))?;
        Ok(Self { path: path.to_owned(), out: BufWriter::new(file), sum: Context::new(&SHA256) })
    }
    fn add(&mut self, bytes: &[u8]) -> Result<(), ServerError> {
        self.sum.update(bytes);
        self.out.write_all(bytes).map_err(at(&self.path))
    }
    fn line(&mut self, line: &Line) -> Result<(), ServerError> {
        let mut bytes = serde_json::to_vec(line).map_err(|e| damaged(&self.path, e))?;
        bytes.push(b'\n');
        self.add(&bytes)
    }
    fn finish(mut self) -> Result<(), ServerError> {
        let sum = hex(self.sum.clone().finish().as_ref());
        let write = |out: &mut BufWriter<File>| {
            out.write_all(SUM)?;
            out.write_all(format!("{sum}\"}}\n").as_bytes())?;
            out.flush()?;
            out.get_ref().sync_all()
        };
        write(&mut self.out).map_err(at(&self.path))
    }
}

/// Checks a backup from its first to its last byte.
///
/// # Errors
/// [`ServerError::Backup`] names what is wrong with it; [`ServerError::Io`].
pub fn verify(path: &Path) -> Result<(), ServerError> {
    let mut file = File::open(path).map_err(at(path))?;
    let length = file.metadata().map_err(at(path))?.len();
    let trailer = (SUM.len() + 64 + 3) as u64;
    let body = length.checked_sub(trailer).ok_or_else(|| damaged(path, "it is no backup, or cut short"))?;
    let mut sum = Context::new(&SHA256);
    let mut reader = (&mut file).take(body);
    let mut buffer = vec![0; PIECE];
    loop {
        let n = reader.read(&mut buffer).map_err(at(path))?;
        if n == 0 {
            break;
        }
        sum.update(&buffer[..n]);
    }
    let mut end = Vec::new();
    file.read_to_end(&mut end).map_err(at(path))?;
    let wanted = [SUM, hex(sum.finish().as_ref()).as_bytes(), b"\"}\n"].concat();
    if end != wanted {
        return Err(damaged(path, "its checksum is wrong: it is no backup, damaged, or cut short"));
    }
    let (mut rows, mut files, mut complete, mut wanted) = (0, 0, false, FILES.len());
    for line in Lines::open(path)? {
        match line? {
            Line::WarrenBackup { format: FORMAT, .. } => {}
            Line::WarrenBackup { format: 1, .. } => wanted = FILES_1,
            Line::WarrenBackup { format, .. } => {
                return Err(damaged(path, format!("its format is {format}, this program knows {FORMAT}")));
            }
            Line::File { .. } => files += 1,
            Line::Object(_) | Line::Token(_) | Line::Password(_) => rows += 1,
            Line::End { rows: n, .. } => complete = n == rows,
        }
    }
    if complete && files == wanted {
        Ok(())
    } else {
        Err(damaged(path, "the server did not send all of its rows"))
    }
}

/// The lines of a backup, without the checksum.
struct Lines {
    path: PathBuf,
    reader: BufReader<File>,
    buffer: Vec<u8>,
}

impl Lines {
    fn open(path: &Path) -> Result<Self, ServerError> {
        let reader = BufReader::new(File::open(path).map_err(at(path))?);
        Ok(Self { path: path.to_owned(), reader, buffer: Vec::new() })
    }
}

impl Iterator for Lines {
    type Item = Result<Line, ServerError>;
    fn next(&mut self) -> Option<Self::Item> {
        self.buffer.clear();
        match self.reader.read_until(b'\n', &mut self.buffer) {
            Err(e) => Some(Err(at(&self.path)(e))),
            Ok(0) => None,
            Ok(_) if self.buffer.starts_with(SUM) => None,
            Ok(_) => Some(serde_json::from_slice(&self.buffer).map_err(|e| damaged(&self.path, e))),
        }
    }
}

/// What a restore did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Restored {
    /// Objects that are there now.
    pub objects: usize,
    /// The revision at which the server goes on.
    pub revision: u64,
    /// When the backup was taken.
    pub created: Timestamp,
    /// Where the state is that was there before.
    pub set_aside: Option<PathBuf>,
}

/// Makes the state of a server in `data_dir` from a backup. State that is there is moved aside when `force` is given,
/// else this is refused.
///
/// # Errors
/// [`ServerError`]; then the state in `data_dir` is as it was.
pub async fn restore(path: &Path, data_dir: &Path, force: bool) -> Result<Restored, ServerError> {
    verify(path)?;
    let target = data_dir.join("server");
    let occupied = fs::read_dir(&target).is_ok_and(|mut entries| entries.next().is_some());
    if occupied {
        free(&target, force)?;
    }
    make_private_dir(data_dir)?;
    let building = data_dir.join("server.restoring");
    let _ = fs::remove_dir_all(&building);
    make_private_dir(&building)?;
    let (objects, revision, created) = match fill(path, &building).await {
        Ok(done) => done,
        Err(e) => {
            let _ = fs::remove_dir_all(&building);
            return Err(e);
        }
    };
    let set_aside = if occupied {
        let aside = data_dir.join(format!("server.before-restore-{}", Timestamp::now().as_millisecond()));
        fs::rename(&target, &aside).map_err(at(&target))?;
        Some(aside)
    } else {
        None
    };
    fs::rename(&building, &target).map_err(at(&target))?;
    File::open(data_dir).and_then(|d| d.sync_all()).map_err(at(data_dir))?;
    Ok(Restored { objects, revision, created, set_aside })
}

/// Whether the state in `target` may be moved aside.
fn free(target: &Path, force: bool) -> Result<(), ServerError> {
    if !force {
        return Err(ServerError::Backup(format!(
            "{} holds the state of a server; --force moves it aside and restores",
            target.display()
        )));
    }
    let store = target.join("store");
    if !store.exists() {
        return Ok(());
    }
    match Store::open(&store) {
        Err(StoreError::Locked(_)) => Err(ServerError::Backup(format!(
            "the server of {} is running; stop it, restore, and start it again",
            target.display()
        ))),
        // State that cannot be opened is a reason to restore.
        _ => Ok(()),
    }
}

async fn fill(path: &Path, directory: &Path) -> Result<(usize, u64, Timestamp), ServerError> {
    let store_dir = directory.join("store");
    let store = tokio::task::spawn_blocking(move || Store::open(&store_dir))
        .await
        .map_err(|e| ServerError::Task(e.to_string()))??
        .store;
    let (table, tokens, passwords) = (store.table::<ApiObject>(), store.table(), store.table());
    let (mut objects, mut revision, mut created) = (0, 1, Timestamp::UNIX_EPOCH);
    let mut batch = Vec::with_capacity(BATCH);
    for line in Lines::open(path)? {
        match line? {
            Line::WarrenBackup { created: at, .. } => created = at,
            Line::File { name, content } if FILES.contains(&name.as_str()) => {
                write_private(&directory.join(name), content.as_bytes())?;
            }
            Line::File { name, .. } => return Err(damaged(path, format!("it holds a file {name:?}"))),
            Line::Object(row) => {
                revision = revision.max(row.revision);
                if row.key != REVISION_ROW {
                    objects += 1;
                    batch.push(Change::Put(row));
                }
            }
            Line::Token(row) => drop(tokens.put(row, Durability::Cached).await?),
            Line::Password(row) => drop(passwords.put(row, Durability::Cached).await?),
            Line::End { .. } => {}
        }
        if batch.len() >= BATCH {
            table.commit(std::mem::take(&mut batch), Durability::Cached).await?;
        }
    }
    revision += LEAP;
    batch.push(Change::Put(ApiObject { key: REVISION_ROW.into(), revision, json: String::new() }));
    table.commit(batch, Durability::Flushed).await?;
    store.close().await?;
    Ok((objects, revision, created))
}
