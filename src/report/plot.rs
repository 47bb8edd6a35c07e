//! Curves of the training, one a run, as SVG.

use std::collections::BTreeSet;

use plotters::coord::Shift;
use plotters::coord::ranged1d::Ranged;
use plotters::element::DashedPathElement;
use plotters::prelude::*;

use super::axis::Axis;
use super::metrics::TERMS;
use super::run::RunRecord;
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

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;
type Curve = Vec<(f64, f64)>;

/// One coordinate system with a curve (perhaps an empty one) for each run.
struct Panel {
    label: String,
    curves: Vec<Curve>,
    logarithmic: bool,
    /// Points are marked, and stages end at dashed lines.
    markers: bool,
}

/// The losses over the updates, one panel for each term that any run has; `None` without any.
///
/// # Errors
/// When the picture cannot be drawn.
pub fn losses(runs: &[RunRecord]) -> Result<Option<String>> {
    let units = ["nats", "squared error", "squared error"];
    let longest = runs.iter().map(|r| r.metrics.updates).max().unwrap_or(0);
    let bin = longest.div_ceil(POINTS).max(1);
    let mut panels = Vec::new();
    for (index, (term, unit)) in TERMS.iter().zip(units).enumerate() {
        let curves: Vec<Curve> = runs.iter().map(|r| averaged(&r.metrics.losses[index], bin)).collect();
        if curves.iter().any(|c| !c.is_empty()) {
            panels.push(Panel {
                label: format!("{} loss ({unit} per utterance)", term.to_uppercase()),
                curves,
                logarithmic: true,
                markers: false,
            });
        }
    }
    let title = match bin {
        1 => "Training losses".to_owned(),
        bin => format!("Training losses, means over {bin} updates"),
    };
    draw(&title, runs, panels)
}

/// The dev CER after each epoch over the updates; `None` when no run has one.
///
/// # Errors
/// When the picture cannot be drawn.
pub fn dev_cer(runs: &[RunRecord]) -> Result<Option<String>> {
    let curves = runs.iter().map(|r| points(&r.metrics.dev_cer)).collect();
    let panel = Panel { label: "dev CER (%)".to_owned(), curves, logarithmic: false, markers: true };
    let dashed = if ends(runs).is_empty() { "" } else { " (dashed: a stage ends)" };
    draw(&format!("Dev CER after each epoch{dashed}"), runs, vec![panel])
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

fn draw(title: &str, runs: &[RunRecord], panels: Vec<Panel>) -> Result<Option<String>> {
    if panels.iter().all(|p| p.curves.iter().all(Vec::is_empty)) {
        return Ok(None);
    }
    let x = Axis::from_zero(runs.iter().map(|r| r.metrics.updates).max().unwrap_or(0) as f64);
    let count = |n: usize| u32::try_from(n).map_err(failed);
    let legend_height = count(runs.len())? * LEGEND_ROW + 8;
    let height = TITLE_HEIGHT + legend_height + count(panels.len())? * PANEL_HEIGHT;
    let mut svg = String::new();
    {
        let root = SVGBackend::with_string(&mut svg, (WIDTH, height)).into_drawing_area();
        root.fill(&WHITE).map_err(failed)?;
        let (head, rest) = root.split_vertically(TITLE_HEIGHT);
        let style = ("sans-serif", 24).into_font().style(FontStyle::Bold).color(&BLACK);
        head.draw(&Text::new(title.to_owned(), (16, 14), style)).map_err(failed)?;
        let (legend_area, rest) = rest.split_vertically(legend_height);
        legend(&legend_area, runs, panels.iter().any(|p| p.markers))?;
        for (area, panel) in rest.split_evenly((panels.len(), 1)).iter().zip(&panels) {
            panel.draw(area, x.clone(), runs)?;
        }
        root.present().map_err(failed)?;
    }
    Ok(Some(svg))
}

impl Panel {
    fn draw(&self, area: &Area, x: Axis, runs: &[RunRecord]) -> Result<()> {
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
            chart.draw_series(LineSeries::new(curve(), colour(run).stroke_width(2))).map_err(failed)?;
            if self.markers {
                chart.draw_series(curve().map(|p| marker(run, p))).map_err(failed)?;
            }
        }
        if self.markers {
            let (bottom, top) = (shown.range().start, shown.range().end);
            let ends = ends(runs).into_iter().map(|x| [(x as f64, bottom), (x as f64, top)].into_iter());
            let grey = RGBColor(120, 120, 120).stroke_width(1);
            chart.draw_series(ends.map(|end| DashedPathElement::new(end, 5, 5, grey))).map_err(failed)?;
        }
        Ok(())
    }
}

/// The updates after which a stage of any run ended and another began.
fn ends(runs: &[RunRecord]) -> BTreeSet<u64> {
    runs.iter().flat_map(|r| r.metrics.boundaries.iter().copied()).collect()
}

fn colour(run: usize) -> RGBColor {
    PALETTE[run % PALETTE.len()]
}

fn legend(area: &Area, runs: &[RunRecord], markers: bool) -> Result<()> {
    for (index, run) in runs.iter().enumerate() {
        let y = i32::try_from(index * LEGEND_ROW as usize + 10).map_err(failed)?;
        area.draw(&PathElement::new([(18, y), (50, y)], colour(index).stroke_width(2))).map_err(failed)?;
        if markers {
            area.draw(&marker(index, (34, y))).map_err(failed)?;
        }
        let plateau = if run.blank_plateau() { ", blank plateau" } else { "" };
        let text = format!("{} ({}{plateau})", run.method, run.name);
        let style = ("sans-serif", 18).into_font().color(&BLACK);
        area.draw(&Text::new(text, (60, y - 7), style)).map_err(failed)?;
    }
    Ok(())
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
