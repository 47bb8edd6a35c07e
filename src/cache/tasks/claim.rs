//! Which process is at work on what, where no lock reaches: claims, files that live for as long as the work does.
//!
//! A claim is made by a name that only one process can take (an exclusive rename or a hard link, both decided by the file
//! server) and kept alive by its modification time, which its holder moves every few seconds. It only saves work:
//! two processes that both believe to hold one write the same bytes under temporary names of their own. So nothing here
//! trusts a clock. What another machine's claim is worth, an observer finds by watching it change over its own time; what
//! a process of its own machine is worth, by looking at that process.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{ErrorKind, Read};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use crossbeam::channel::{Receiver, RecvTimeoutError, Sender, bounded};

use super::holder::Holder;
use crate::error::{Error, Result};
use crate::files::{self, DirectoryLock};
use crate::signal::Stop;

/// How a claim's name begins.
const PREFIX: &str = ".claim-";

/// How often a holder shows that it is there, and after how long without a sign another takes over.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    /// Time between two signs.
    pub beat: Duration,
    /// Longer than what a network file system may keep a file's times for itself (a minute at most by default), several
    /// beats, and any pause that a machine under load takes.
    pub stale: Duration,
}

/// What is waited for.
pub const PATIENCE: Patience = Patience { beat: Duration::from_secs(5), stale: Duration::from_secs(90) };

/// How long the lock of a process may outlast it: until the system has taken its memory and files apart.
const PARTING: Duration = Duration::from_secs(2);

/// What is known of a claim's holder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Life {
    Alive,
    Dead,
    /// Of another machine, and not watched for long enough.
    Unknown,
}

/// A claim as it was when it was first seen like this.
#[derive(Debug, Clone, PartialEq)]
struct Seen {
    text: Vec<u8>,
    modified: Option<SystemTime>,
    since: Instant,
    /// Whether it has changed while it was watched.
    moved: bool,
}

/// The claims of this process in one directory, and what it has seen of others'. Dropped, it gives up its own.
#[derive(Debug)]
pub struct Claims {
    dir: PathBuf,
    me: Holder,
    patience: Patience,
    held: Arc<Mutex<BTreeSet<PathBuf>>>,
    seen: Mutex<BTreeMap<PathBuf, Seen>>,
    ended: Option<Sender<()>>,
    beat: Option<std::thread::JoinHandle<()>>,
}

impl Claims {
    /// No claims yet, in `dir`.
    pub fn new(dir: &Path, patience: Patience) -> Self {
        Self::of(Holder::this(), dir, patience)
    }

    fn of(me: Holder, dir: &Path, patience: Patience) -> Self {
        let held = Arc::new(Mutex::new(BTreeSet::new()));
        let (ended, end) = bounded(0);
        let beat = std::thread::spawn({
            let (held, text) = (Arc::clone(&held), me.text());
            move || keep_alive(&held, text.as_bytes(), patience.beat, &end)
        });
        let seen = Mutex::default();
        Self { dir: dir.to_path_buf(), me, patience, held, seen, ended: Some(ended), beat: Some(beat) }
    }

    /// Claims `what`, a file's name: from nobody, from a holder that is dead, or from one that has shown no sign of life
    /// for long enough while this process watched. `false` when another may be at work on it.
    ///
    /// # Errors
    /// When the directory cannot be written.
    pub fn take(&self, what: &str) -> Result<bool> {
        let path = self.path(what);
        if lock(&self.held).contains(&path) {
            return Ok(true);
        }
        let text = self.me.text();
        // A claim may vanish, or another come, between two looks; someone then makes progress.
        for _ in 0..3 {
            if files::write_new(&path, text.as_bytes())?
                || read(&path)?.is_some_and(|f| f.0 == text.as_bytes())
            {
                lock(&self.held).insert(path);
                return Ok(true);
            }
            match self.look(&path)? {
                None => {}
                Some((found, Life::Dead)) => self.break_up(&path, &found)?,
                Some(_) => return Ok(false),
            }
        }
        Ok(false)
    }

    /// Gives up a claim, if it is still this process'.
    pub fn release(&self, what: &str) {
        let path = self.path(what);
        if lock(&self.held).remove(&path) {
            let _ = release(&path, self.me.text().as_bytes());
        }
    }

    /// Who has claimed `what`, in words.
    pub fn holder(&self, what: &str) -> String {
        let text = read(&self.path(what)).ok().flatten().map(|found| found.0);
        text.map_or_else(|| "another process".to_owned(), |text| describe(&text))
    }

    /// A process other than this that is at work in the directory, in words, once it is sure whether there is one; claims of
    /// the dead are removed.
    ///
    /// # Errors
    /// When the directory cannot be read or written, or the wait is stopped.
    fn other(&self, stop: &Stop) -> Result<Option<String>> {
        let mut first = true;
        loop {
            let mut unknown = None;
            for path in all(&self.dir)? {
                let new = !lock(&self.seen).contains_key(&path);
                match self.look(&path)? {
                    _ if lock(&self.held).contains(&path) => {}
                    None => {}
                    Some((found, Life::Dead)) => self.break_up(&path, &found)?,
                    // What is claimed while this process watches is claimed by one that is alive.
                    Some((found, Life::Unknown)) if first || !new => unknown = Some(describe(&found.text)),
                    Some((found, _)) => return Ok(Some(describe(&found.text))),
                }
            }
            let Some(unknown) = unknown else { return Ok(None) };
            if stop.requested() {
                return Err(Error::Interrupted("nothing was written".to_owned()));
            }
            if first {
                let seconds = self.patience.stale.as_secs();
                tracing::info!("waiting up to {seconds} s to see whether {unknown} still writes here");
                first = false;
            }
            std::thread::sleep(self.patience.beat / 5);
        }
    }

    /// What lies under a claim's name, and what its holder is worth; `None` when it is gone.
    fn look(&self, path: &Path) -> Result<Option<(Seen, Life)>> {
        let Some((text, modified)) = read(path)? else {
            lock(&self.seen).remove(path);
            return Ok(None);
        };
        let mut seen = lock(&self.seen);
        let new = Seen { text, modified, since: Instant::now(), moved: false };
        let now = match seen.get(path) {
            Some(old) if old.text == new.text && old.modified == new.modified => old.clone(),
            Some(_) => Seen { moved: true, ..new },
            None => new,
        };
        seen.insert(path.to_path_buf(), now.clone());
        let holder = Holder::parse(&now.text);
        let life = match holder.and_then(|holder| self.me.knows_alive(&holder)) {
            Some(true) => Life::Alive,
            Some(false) => Life::Dead,
            None if now.since.elapsed() >= self.patience.stale => Life::Dead,
            None if now.moved => Life::Alive,
            None => Life::Unknown,
        };
        Ok(Some((now, life)))
    }

    /// Removes a claim that was seen dead. Another process may do the same, or have claimed it anew since: the rename moves
    /// it for one of them only, and what turns out not to be what was seen is put back.
    fn break_up(&self, path: &Path, found: &Seen) -> Result<()> {
        tracing::warn!("{}: {} is gone; taking over", path.display(), describe(&found.text));
        let aside = path.with_file_name(format!("{}gone-{}", files::TEMPORARY, self.me.token()));
        match std::fs::rename(path, &aside) {
            Err(e) if e.kind() == ErrorKind::NotFound => return Ok(()),
            moved => moved.map_err(|e| Error::io("rename", path, e))?,
        }
        if read(&aside)?.is_some_and(|(text, _)| text != found.text) {
            // Refused where there is a third by now: then that one goes on, and this one's holder does as well.
            let _ = std::fs::hard_link(&aside, path);
        }
        let _ = std::fs::remove_file(&aside);
        Ok(())
    }

    fn path(&self, what: &str) -> PathBuf {
        self.dir.join(format!("{PREFIX}{what}"))
    }
}

impl Drop for Claims {
    fn drop(&mut self) {
        drop(self.ended.take());
        if let Some(beat) = self.beat.take() {
            let _ = beat.join();
        }
        for path in std::mem::take(&mut *lock(&self.held)) {
            let _ = release(&path, self.me.text().as_bytes());
        }
    }
}

/// Makes this process the only one that writes in `dir`: takes its lock, waits until no claim of another can be alive, and
/// removes temporary files that killed ones left.
///
/// # Errors
/// When another process is at work there; it is named.
pub fn alone(dir: &Path, patience: Patience, stop: &Stop) -> Result<DirectoryLock> {
    let at_work = |who: &str| {
        Error::invalid(format!(
            "{} is being written by another process ({who}); wait for it or stop it",
            dir.display()
        ))
    };
    let mut locked = DirectoryLock::acquire(dir);
    if locked.is_err() || !all(dir)?.is_empty() {
        let claims = Claims::new(dir, patience);
        if let Some(who) = claims.other(stop)? {
            return Err(at_work(&who));
        }
        // The lock of a process that was just killed may outlast the process by a moment.
        let until = Instant::now() + PARTING;
        while matches!(locked, Err(Error::Invalid(_))) && Instant::now() < until && !stop.requested() {
            std::thread::sleep(PARTING / 40);
            locked = DirectoryLock::acquire(dir);
        }
    }
    let locked = locked?;
    files::sweep(dir)?;
    Ok(locked)
}

/// Every claim in `dir`.
fn all(dir: &Path) -> Result<Vec<PathBuf>> {
    let entries = std::fs::read_dir(dir).map_err(|e| Error::io("list", dir, e))?;
    let names = entries.flatten().map(|entry| entry.path());
    let is_claim =
        |path: &PathBuf| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(PREFIX));
    Ok(names.filter(is_claim).collect())
}

/// A claim's bytes and time; `None` when there is none. It is opened and not looked up: opening asks the file server.
fn read(path: &Path) -> Result<Option<(Vec<u8>, Option<SystemTime>)>> {
    let found = File::open(path).and_then(|file| {
        let mut text = Vec::new();
        (&file).take(4096).read_to_end(&mut text)?;
        Ok((text, file.metadata()?.modified().ok()))
    });
    match found {
        Ok(found) => Ok(Some(found)),
        // A file that was replaced on a network file system while it was open is as good as gone.
        Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::StaleNetworkFileHandle) => Ok(None),
        Err(e) => Err(Error::io("read", path, e)),
    }
}

fn describe(text: &[u8]) -> String {
    Holder::parse(text).map_or_else(|| "a process unknown".to_owned(), |holder| holder.to_string())
}

/// Removes a claim if it still says `text`.
fn release(path: &Path, text: &[u8]) -> Result<()> {
    if read(path)?.is_some_and(|(found, _)| found == text) {
        std::fs::remove_file(path).map_err(|e| Error::io("remove", path, e))?;
    }
    Ok(())
}

/// Moves the time of every claim that is held and still ours, until `end` is closed.
fn keep_alive(held: &Mutex<BTreeSet<PathBuf>>, text: &[u8], beat: Duration, end: &Receiver<()>) {
    while end.recv_timeout(beat) == Err(RecvTimeoutError::Timeout) {
        let paths: Vec<PathBuf> = lock(held).iter().cloned().collect();
        for path in paths {
            if !matches!(read(&path), Ok(Some((found, _))) if found == text) {
                tracing::debug!("{}: another process has taken it over", path.display());
                lock(held).remove(&path);
                continue;
            }
            // Any time does as long as it is another; a failure shows as silence.
            let _ = File::options().write(true).open(&path).and_then(|f| f.set_modified(SystemTime::now()));
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Removes what is left of claims.
///
/// # Errors
/// When the directory cannot be written.
pub fn clear(dir: &Path) -> Result<()> {
    all(dir)?.iter().try_for_each(|path| files::remove(path))
}

#[cfg(test)]
mod tests;
