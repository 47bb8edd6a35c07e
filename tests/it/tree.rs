//! A LibriSpeech tree made for a test.

use std::path::PathBuf;
use std::process::Command;

use crate::flac::{flac, tone};
use crate::harness::tutornet;

/// A LibriSpeech tree in a directory that goes with it.
pub struct Tree {
    dir: tempfile::TempDir,
}

impl Tree {
    pub fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap() }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn root(&self) -> PathBuf {
        self.path("LibriSpeech")
    }

    /// Adds an utterance `speaker-chapter-number`; no transcript without `text`, no file without `audio`.
    pub fn add(&self, subset: &str, id: &str, audio: Option<&[u8]>, text: Option<&str>) -> &Self {
        let parts: Vec<&str> = id.split('-').collect();
        let chapter = self.root().join(subset).join(parts[0]).join(parts[1]);
        std::fs::create_dir_all(&chapter).unwrap();
        if let Some(audio) = audio {
            std::fs::write(chapter.join(format!("{id}.flac")), audio).unwrap();
        }
        let list = chapter.join(format!("{}-{}.trans.txt", parts[0], parts[1]));
        let mut lines = std::fs::read_to_string(&list).unwrap_or_default();
        if let Some(text) = text {
            lines += &format!("{id} {text}\n");
        }
        std::fs::write(list, lines).unwrap();
        self
    }

    /// Adds `count` usable utterances of a chapter.
    pub fn speech(&self, subset: &str, chapter: &str, count: u32) -> &Self {
        for i in 0..count {
            let file = flac(&tone(1600 + 80 * i as usize, i), 1, 16_000);
            self.add(subset, &format!("{chapter}-{i:04}"), Some(&file), Some("SOME WORDS"));
        }
        self
    }

    /// `prep librispeech ROOT --subset SUBSET --out OUT`.
    pub fn prep(&self, subset: &str, out: &str) -> Command {
        let mut command = tutornet();
        command.args(["prep", "librispeech"]).arg(self.root());
        command.args(["--subset", subset, "--out"]).arg(self.path(out));
        command
    }
}
