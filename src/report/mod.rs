//! Runs side by side: tables, plots of the training, decoded examples; as Markdown and as one HTML file.
//!
//! A report reads what runs left on disk (`pipeline.toml`, `metrics.jsonl`, `times.jsonl`,
//! `scores/NAME.json`) and evaluates nothing itself: `tutornet eval --out RUNDIR/scores/NAME.json` does that.
//! Which runs stand in which rows is either the order in which they were given ([`Source::Runs`]) or what a
//! table's file says ([`Source::Tables`]); all that follows is the same.

mod appendix;
mod axis;
mod compare;
mod description;
mod document;
mod examples;
mod html;
mod markdown;
mod metrics;
mod plot;
mod rows;
mod run;
mod scored;
mod table;

use std::path::{Path, PathBuf};
use std::rc::Rc;

pub use description::Description;
pub use metrics::Metrics;
pub use run::RunRecord;
pub use scored::Scored;

use crate::error::{Error, Result};
use crate::files;
use document::{Block, Document, Picture};
use rows::{Comparison, Library};

/// Where rows come from.
#[derive(Debug, Clone)]
pub enum Source {
    /// A row for each run, and for each of some that are shown beside them but not compared.
    Runs {
        /// Run directories.
        runs: Vec<PathBuf>,
        /// More of them.
        references: Vec<PathBuf>,
    },
    /// A table for each description; what it names and is not there leaves empty cells.
    Tables {
        /// TOML files, see [`Description`].
        tables: Vec<PathBuf>,
        /// The directory that holds the runs.
        runs: PathBuf,
    },
}

/// What stands above the tables.
#[derive(Debug, Clone, Default)]
pub struct Heading {
    /// Title of the page; a single table's own, or a general one, when absent.
    pub title: Option<String>,
    /// A paragraph below it.
    pub note: Option<String>,
}

/// What [`write`] made.
#[derive(Debug)]
pub struct Report {
    /// The Markdown text, as it lies in `report.md`.
    pub markdown: String,
    /// Every file written.
    pub files: Vec<PathBuf>,
}

/// Writes `report.md`, `report.html` and the plots that the Markdown shows (`losses.svg`, `dev-cer.svg`; of
/// several tables `TABLE-losses.svg` and so on) to `out`. A plot without any point is not written.
///
/// # Errors
/// When a description or a run cannot be read (the file is named) or `out` cannot be written.
pub fn write(source: &Source, heading: &Heading, out: &Path) -> Result<Report> {
    let document = compose(source, heading)?;
    files::create_dir(out)?;
    let mut written = Vec::new();
    let mut save = |name: &str, text: &str| -> Result<()> {
        let path = out.join(name);
        files::write(&path, text.as_bytes())?;
        written.push(path);
        Ok(())
    };
    for picture in document.pictures() {
        save(&picture.name, &picture.svg)?;
    }
    let markdown = markdown::render(&document);
    save("report.html", &html::render(&document))?;
    save("report.md", &markdown)?;
    Ok(Report { markdown, files: written })
}

fn compose(source: &Source, heading: &Heading) -> Result<Document> {
    let mut comparisons = Vec::new();
    let mut prefixes = Vec::new();
    let root = match source {
        Source::Runs { runs, references } => {
            if runs.is_empty() {
                return Err(Error::invalid("expected at least one run directory, found none"));
            }
            let read = |dirs: &[PathBuf]| {
                dirs.iter().map(|dir| RunRecord::read(dir).map(Rc::new)).collect::<Result<Vec<_>>>()
            };
            let title = heading.title.as_deref().unwrap_or("Distillation runs");
            comparisons.push(Comparison::of_runs(&read(runs)?, &read(references)?, title));
            prefixes.push(String::new());
            Path::new(".")
        }
        Source::Tables { tables, runs } => {
            let mut library = Library::new(runs)?;
            for path in tables {
                comparisons.push(Comparison::of_table(&Description::read(path)?, &mut library)?);
                let stem = path.file_stem().unwrap_or_default().to_string_lossy();
                prefixes.push(if tables.len() > 1 { format!("{stem}-") } else { String::new() });
            }
            runs
        }
    };
    let several = comparisons.len() > 1;
    let title = match (&heading.title, comparisons.as_slice()) {
        (Some(title), _) => title.clone(),
        (None, [one]) => one.title.clone(),
        (None, _) => "Tables".to_owned(),
    };
    let mut blocks: Vec<Block> = heading.note.iter().cloned().map(Block::Paragraph).collect();
    for (comparison, prefix) in comparisons.iter().zip(&prefixes) {
        let depth = if several || comparison.title != title {
            blocks.push(Block::Heading(2, comparison.title.clone()));
            3
        } else {
            2
        };
        blocks.extend(section(comparison, prefix, depth, root)?);
    }
    let runs = appendix::runs(&comparisons);
    if !runs.rows.is_empty() {
        blocks.push(Block::Heading(2, "Runs".to_owned()));
        blocks.push(Block::Table(runs));
    }
    Ok(Document { title, blocks })
}

/// One comparison: numbers, curves, then all that only some want. Headings begin at `depth`.
fn section(comparison: &Comparison, prefix: &str, depth: usize, root: &Path) -> Result<Vec<Block>> {
    let mut blocks: Vec<Block> = comparison.notes.iter().cloned().map(Block::Paragraph).collect();
    blocks.extend(table::overview(comparison)?);
    if comparison.mask {
        blocks.extend(appendix::frame_weights(comparison, root)?);
    }
    if let Some(caption) = &comparison.curves {
        let curves = plot::Curves::of(comparison);
        let plots = [
            ("losses.svg", caption.clone(), curves.losses()?),
            ("dev-cer.svg", "Dev CER".to_owned(), curves.dev_cer()?),
        ];
        for (name, alternative, svg) in plots {
            let name = format!("{prefix}{name}");
            blocks.extend(svg.map(|svg| Block::Picture(Picture { name, alternative, svg })));
        }
    }
    let sets: Vec<String> = comparison.sets().into_iter().filter(|set| comparison.scored_on(set)).collect();
    let mut details = Vec::new();
    for set in &sets {
        if let Some(table) = table::details(comparison, set)? {
            details.extend([Block::Heading(depth + 1, set.clone()), Block::Table(table)]);
        }
    }
    if !details.is_empty() {
        details.push(Block::Paragraph(table::BRACKETS.to_owned()));
        blocks.push(Block::Folded(depth, "Intervals, set by set".to_owned(), details));
    }
    let examples =
        sets.iter().map(|set| (set, examples::of(comparison, set))).find(|(_, found)| !found.is_empty());
    if let Some((set, found)) = examples {
        let each = found.into_iter();
        let each = each.flat_map(|(id, table)| [Block::Heading(depth + 1, id), Block::Table(table)]);
        blocks.push(Block::Folded(
            depth,
            format!("What was recognised: three utterances of {set}"),
            each.collect(),
        ));
    }
    Ok(blocks)
}
