//! What stands behind the rows: the runs themselves, and how far the teachers' frame weights vary.

use std::collections::BTreeSet;
use std::path::Path;
use std::rc::Rc;

use super::document::{Block, Cell, Column, Table};
use super::markdown::thousands;
use super::rows::Comparison;
use super::run::RunRecord;
use crate::cache::{self, Cache, manifest};
use crate::error::Result;
use crate::models::HiddenLayer;

/// Every run of the comparisons once: student, parameters, updates and training time.
pub fn runs(comparisons: &[Comparison]) -> Table {
    let mut seen = BTreeSet::new();
    let all = comparisons.iter().flat_map(|c| &c.rows).flat_map(|row| &row.runs);
    let rows = all.filter(|run| seen.insert(run.name.clone())).map(|run: &Rc<RunRecord>| {
        let updates = run.metrics.updates;
        let student = run.student.as_ref();
        let cells = [
            run.name.clone(),
            run.method.clone(),
            student.map(|s| s.name.clone()).unwrap_or_default(),
            student.map(|s| thousands(s.parameters)).unwrap_or_default(),
            if updates > 0 { thousands(updates) } else { String::new() },
            time(run),
            devices(run),
        ];
        cells.map(Cell::from).to_vec()
    });
    let rows: Vec<Vec<Cell>> = rows.collect();
    let columns = vec![
        Column::text("Run"),
        Column::text("Method"),
        Column::text("Student"),
        Column::number("Parameters"),
        Column::number("Updates"),
        Column::number("Training time"),
        Column::text("On"),
    ];
    Table { columns, rows }
}

/// Seconds of all stretches; a stretch that was killed left no time.
fn time(run: &RunRecord) -> String {
    let Some(stretches) = &run.stretches else { return String::new() };
    let seconds = stretches.seconds();
    let text = match seconds {
        s if s < 90.0 => format!("{s:.1} s"),
        s if s < 5400.0 => format!("{:.1} min", s / 60.0),
        s => format!("{:.1} h", s / 3600.0),
    };
    if stretches.cover(run.metrics.updates) { text } else { format!("over {text}") }
}

fn devices(run: &RunRecord) -> String {
    let stretches = run.stretches.iter().flat_map(|all| &all.stretches);
    let devices = stretches.map(|s| match s.device.as_str() {
        "cpu" if s.threads == 1 => "cpu, 1 thread".to_owned(),
        "cpu" => format!("cpu, {} threads", s.threads),
        gpu => gpu.to_owned(),
    });
    devices.collect::<BTreeSet<_>>().into_iter().collect::<Vec<_>>().join("; ")
}

/// How far the frame weights vary that the runs of a comparison trained with. Caches are looked for below
/// `root` and as the pipelines name them.
///
/// # Errors
/// When a cache is there and damaged.
pub fn frame_weights(comparison: &Comparison, root: &Path) -> Result<Vec<Block>> {
    let all = comparison.rows.iter().flat_map(|row| &row.runs).flat_map(|run| &run.weighted);
    let mut paragraphs = Vec::new();
    for named in all.collect::<BTreeSet<_>>() {
        let places = [root.join(named), named.clone()];
        let there = places.iter().find(|dir| dir.join(manifest::MANIFEST).is_file());
        let name = named.display();
        paragraphs.push(Block::Paragraph(match there {
            None => format!("Frame weights: the cache `{name}` is not there, so how far they vary is not known."),
            Some(dir) => {
                let cache = Cache::open(dir)?;
                let weights = cache::frame_weights(&cache, HiddenLayer::Last)?;
                let [low, middle, high] = weights.quantiles;
                format!(
                    "Frame weights of `{name}` (teacher {}): mean {:.3}, standard deviation {:.3}; 1 % lie below {low:.3}, \
                     half below {middle:.3}, 99 % below {high:.3}. {}",
                    cache.identity().teacher.name,
                    weights.mean,
                    weights.deviation,
                    weights.meaning
                )
            }
        }));
    }
    Ok(paragraphs)
}
