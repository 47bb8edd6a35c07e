//! Curves of the training, one a run, as SVG.

use std::collections::BTreeSet;
use std::rc::Rc;

use plotters::coord::Shift;
use plotters::coord::ranged1d::Ranged;
use plotters::element::DashedPathElement;
use plotters::prelude::*;
use plotters::series::DashedLineSeries;

use super::axis::Axis;
use super::metrics::{Metrics, TERMS};
use super::rows::Comparison;
use super::run::RunRecord;
use super::scored::Scored;
use crate::error::{Error, Result};

/// Okabe and Ito's colours, told apart under every form of colour blindness; without the yellow,
/// which white paper swallows.
const PALETTE: [RGBColor; 7] = [
    RGBColor(0, 114, 178),
    RGBColor(213, 94, 0),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(230, 159, 0),
    RGBColor(86, 180, 233),
    RGBColor(0, 0, 0),
];

const WIDTH: u32 = 900;
const TITLE_HEIGHT: u32 = 44;
const LEGEND_ROW: u32 = 24;
const PANEL_HEIGHT: u32 = 300;
/// Most points of a curve; more updates are averaged in bins, which also takes out the noise of single batches.
const POINTS: u64 = 120;
/// Pixels of a dash and of the gap after it.
const DASH: u32 = 7;
const GAP: u32 = 4;

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;
type Curve = Vec<(f64, f64)>;

/// The runs whose curves are drawn: of every row but the references the first seed, each run once.
#[derive(Debug)]
pub struct Curves {
    runs: Vec<Drawn>,
}

#[derive(Debug)]
struct Drawn {
    legend: String,
    run: Rc<RunRecord>,
}

impl Drawn {
    fn metrics(&self) -> &Metrics {
        &self.run.metrics
    }
}

/// One coordinate system with a curve (perhaps an empty one) for each run.
struct Panel {
    label: String,
    curves: Vec<Curve>,
    /// Where the axis of updates ends.
    updates: u64,
    logarithmic: bool,
    /// Points are marked, and stages end at dashed lines.
    markers: bool,
}

impl Curves {
    /// Of a comparison. Where rows are nothing but runs, the legend names these.
    pub fn of(comparison: &Comparison) -> Self {
        let mut runs: Vec<Drawn> = Vec::new();
        for row in comparison.rows.iter().filter(|row| !row.reference) {
            let Some(run) = row.runs.first() else { continue };
            if runs.iter().any(|drawn| Rc::ptr_eq(&drawn.run, run)) {
                continue;
            }
            let stuck = row.decoding.is_none() && run.scores.values().any(Scored::blank_plateau);
            let name = (!comparison.paper).then_some(run.name.as_str());
            let marks: Vec<&str> = name.into_iter().chain(stuck.then_some("blank plateau")).collect();
            let marks = if marks.is_empty() { String::new() } else { format!(" ({})", marks.join(", ")) };
            runs.push(Drawn { legend: format!("{}{marks}", row.label), run: Rc::clone(run) });
        }
        Self { runs }
    }

    /// The losses over the updates, one panel for each term that any run has; `None` without any.
    ///
    /// # Errors
    /// When the picture cannot be drawn.
    pub fn losses(&self) -> Result<Option<String>> {
        let mut panels = Vec::new();
        for (index, (term, unit)) in TERMS.iter().enumerate() {
            let raw = || self.runs.iter().map(|drawn| &drawn.metrics().losses[index]);
            let Some(last) = raw().filter_map(|points| points.last()).map(|point| point.0).max() else {
                continue;
            };
            // What only the first updates have is drawn over these.
            let updates = if 2 * last <= self.longest() { last } else { self.longest() };
            let bin = updates.div_ceil(POINTS).max(1);
            let curves: Vec<Curve> = raw().map(|points| averaged(points, bin)).collect();
            let logarithmic = curves.iter().flatten().all(|point| point.1 > 0.0);
            let means = if bin > 1 { format!("; means over {bin} updates") } else { String::new() };
            let label = format!("{} loss ({unit} per utterance{means})", capitals(term));
            panels.push(Panel { label, curves, updates, logarithmic, markers: false });
        }
        self.draw("Training losses", panels)
    }

    /// Updates of the longest run.
    fn longest(&self) -> u64 {
        self.runs.iter().map(|drawn| drawn.metrics().updates).max().unwrap_or(0)
    }

    /// The dev CER after each epoch over the updates; `None` when no run has one.
    ///
    /// # Errors
    /// When the picture cannot be drawn.
    pub fn dev_cer(&self) -> Result<Option<String>> {
        let curves = self.runs.iter().map(|drawn| points(&drawn.metrics().dev_cer)).collect();
        let (label, updates) = ("dev CER (%)".to_owned(), self.longest());
        let panel = Panel { label, curves, updates, logarithmic: false, markers: true };
        let dashed = if self.ends().is_empty() { "" } else { " (dashed: a stage ends)" };
        self.draw(&format!("Dev CER after each epoch{dashed}"), vec![panel])
    }

    /// The updates after which a stage of any run ended and another began.
    fn ends(&self) -> BTreeSet<u64> {
        self.runs.iter().flat_map(|drawn| drawn.metrics().boundaries.iter().copied()).collect()
    }

    fn draw(&self, title: &str, panels: Vec<Panel>) -> Result<Option<String>> {
        if panels.iter().all(|p| p.curves.iter().all(Vec::is_empty)) {
            return Ok(None);
        }
        let count = |n: usize| u32::try_from(n).map_err(failed);
        let legend_height = count(self.runs.len())? * LEGEND_ROW + 8;
        let height = TITLE_HEIGHT + legend_height + count(panels.len())? * PANEL_HEIGHT;
        let mut svg = String::new();
        {
            let root = SVGBackend::with_string(&mut svg, (WIDTH, height)).into_drawing_area();
            root.fill(&WHITE).map_err(failed)?;
            let (head, rest) = root.split_vertically(TITLE_HEIGHT);
            let style = ("sans-serif", 24).into_font().style(FontStyle::Bold).color(&BLACK);
            head.draw(&Text::new(title.to_owned(), (16, 14), style)).map_err(failed)?;
            let (legend_area, rest) = rest.split_vertically(legend_height);
            self.legend(&legend_area, panels.iter().any(|p| p.markers))?;
            for (area, panel) in rest.split_evenly((panels.len(), 1)).iter().zip(&panels) {
                panel.draw(area, &self.ends())?;
            }
            root.present().map_err(failed)?;
        }
        Ok(Some(svg))
    }

    fn legend(&self, area: &Area, markers: bool) -> Result<()> {
        for (index, drawn) in self.runs.iter().enumerate() {
            let y = i32::try_from(index * LEGEND_ROW as usize + 10).map_err(failed)?;
            line(area, index, vec![(18, y), (50, y)])?;
            if markers {
                area.draw(&marker(index, (34, y))).map_err(failed)?;
            }
            let style = ("sans-serif", 18).into_font().color(&BLACK);
            area.draw(&Text::new(drawn.legend.clone(), (60, y - 7), style)).map_err(failed)?;
        }
        Ok(())
    }
}

/// `ctc` as CTC, `guided` as Guided.
fn capitals(term: &str) -> String {
    match term {
        "guided" => "Guided CTC".to_owned(),
        "sequence" => "Sequence-level".to_owned(),
        acronym => acronym.to_uppercase(),
    }
}

fn points(values: &[(u64, f64)]) -> Curve {
    values.iter().filter(|(_, v)| v.is_finite()).map(|&(x, y)| (x as f64, y)).collect()
}

/// Means over `bin` updates each: of the update and of the value.
fn averaged(values: &[(u64, f64)], bin: u64) -> Curve {
    let values: Vec<(u64, f64)> = values.iter().copied().filter(|(_, v)| v.is_finite()).collect();
    let mean = |chunk: &[(u64, f64)]| {
        let n = chunk.len() as f64;
        let sum = chunk.iter().fold((0.0, 0.0), |sum, p| (sum.0 + p.0 as f64, sum.1 + p.1));
        (sum.0 / n, sum.1 / n)
    };
    let number = |update: u64| update.saturating_sub(1) / bin;
    values.chunk_by(|a, b| number(a.0) == number(b.0)).map(mean).collect()
}

fn failed(e: impl std::fmt::Display) -> Error {
    Error::invalid(format!("cannot draw the plot: {e}"))
}

impl Panel {
    fn draw(&self, area: &Area, ends: &BTreeSet<u64>) -> Result<()> {
        let x = Axis::from_zero(self.updates as f64);
        let values = || self.curves.iter().flatten().map(|p| p.1);
        let y = if self.logarithmic { Axis::logarithmic(values()) } else { Axis::linear(values()) };
        let Some(y) = y else { return Ok(()) };
        let shown = y.clone();
        let mut chart = ChartBuilder::on(area)
            .margin(12)
            .margin_right(28)
            // Above the axis: beside it, a long name runs into its neighbours.
            .caption(&self.label, ("sans-serif", 18))
            .x_label_area_size(46)
            .y_label_area_size(84)
            .build_cartesian_2d(x, y)
            .map_err(failed)?;
        chart
            .configure_mesh()
            .light_line_style(TRANSPARENT)
            .bold_line_style(RGBColor(225, 225, 225))
            .axis_style(RGBColor(90, 90, 90))
            .label_style(("sans-serif", 16))
            .axis_desc_style(("sans-serif", 18))
            .x_desc("updates")
            .draw()
            .map_err(failed)?;
        for (run, curve) in self.curves.iter().enumerate() {
            let curve = || curve.iter().copied().filter(|p| shown.shows(p.1));
            let style = colour(run).stroke_width(2);
            if dashed(run) {
                chart.draw_series(DashedLineSeries::new(curve(), DASH, GAP, style)).map_err(failed)?;
            } else {
                chart.draw_series(LineSeries::new(curve(), style)).map_err(failed)?;
            }
            if self.markers {
                chart.draw_series(curve().map(|p| marker(run, p))).map_err(failed)?;
            }
        }
        if self.markers {
            let (bottom, top) = (shown.range().start, shown.range().end);
            let ends = ends.iter().map(|&x| [(x as f64, bottom), (x as f64, top)].into_iter());
            let grey = RGBColor(120, 120, 120).stroke_width(1);
            chart.draw_series(ends.map(|end| DashedPathElement::new(end, 5, 5, grey))).map_err(failed)?;
        }
        Ok(())
    }
}

fn colour(run: usize) -> RGBColor {
    PALETTE[run % PALETTE.len()]
}

/// Colours come again after as many runs as there are, then dashed.
fn dashed(run: usize) -> bool {
    (run / PALETTE.len()) % 2 == 1
}

/// A straight line in the legend, as the run's curve is drawn.
fn line(area: &Area, run: usize, ends: Vec<(i32, i32)>) -> Result<()> {
    let style = colour(run).stroke_width(2);
    if dashed(run) {
        area.draw(&DashedPathElement::new(ends, DASH, GAP, style)).map_err(failed)
    } else {
        area.draw(&PathElement::new(ends, style)).map_err(failed)
    }
}

/// A run's marker. Shapes and colours repeat after different numbers of runs, so that 21 runs stay apart.
fn marker<'a, C: Clone + 'static>(run: usize, at: C) -> DynElement<'static, SVGBackend<'a>, C> {
    let colour = colour(run);
    match run % 3 {
        0 => Circle::new(at, 4, colour.filled()).into_dyn(),
        1 => TriangleMarker::new(at, 6, colour.filled()).into_dyn(),
        _ => Cross::new(at, 4, colour.stroke_width(2)).into_dyn(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bins_are_means() {
        let values: Vec<(u64, f64)> = (1..=6).map(|u| (u, if u % 2 == 0 { 1.0 } else { 3.0 })).collect();
        assert_eq!(averaged(&values, 2), [(1.5, 2.0), (3.5, 2.0), (5.5, 2.0)]);
        assert_eq!(averaged(&values[3..], 4), [(4.0, 1.0), (5.5, 2.0)]);
        assert_eq!(averaged(&[(1, f64::NAN), (2, 4.0)], 1), [(2.0, 4.0)]);
    }
}
