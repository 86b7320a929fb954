//! What importance masks identified, and so what was fused: shares of parameters by kind, layer and
//! task.

use maud::{Markup, html};

use super::chart::{cut, heat, heat_key, heat_step, px, svg, text};
use super::{folded, percent, table, tooltip};
use crate::report::density::{Density, Region, TaskDensity};
use crate::report::summary::Summary;
use crate::report::table;

/// Methods that are open from the start.
const N_OPEN: usize = 1;
/// The regions that get maps; neither is the rest.
const MAPPED: [Region; 3] = [Region::InnerOnly, Region::OuterOnly, Region::Both];

/// Nothing where no method has masks.
pub(super) fn section(summary: &Summary) -> Option<Markup> {
    let methods: Vec<_> = (summary.methods.iter())
        .filter_map(|method| Some((method, method.density.as_ref()?)))
        .collect();
    (!methods.is_empty()).then(|| {
        html! {
            p.note {
                "In every round the inner loop marks parameters that matter to the new task, the outer loop those that \
                 matter to the memory, and each parameter is fused by where it lies. Shares in percent of the parameters \
                 concerned, means over the rounds of a task and over seeds, in the first order. The first task has no \
                 memory: nothing is fused in it."
            }
            (table(&table::densities(summary)))
            (heat_key("0 %", "50 % and more"))
            @for (i, (method, density)) in methods.iter().enumerate() {
                (folded(i < N_OPEN, &method.name, method.settings.summary(), html! {
                    div.many { @for region in MAPPED { (by_kind(density, region)) } }
                    h4 { "By layer" }
                    p.note {
                        "A block of columns a task, a column a layer, from the first to the last; rows are kinds of \
                         parameters."
                    }
                    @for region in MAPPED { (by_layer(density, region)) }
                }))
            }
        }
    })
}

/// A share with twice its weight on the scale: masks are seldom denser than half.
fn scaled(share: f64) -> f64 {
    2.0 * share
}

fn place(region: Region) -> usize {
    region as usize
}

/// Kinds by tasks, with the numbers.
fn by_kind(density: &Density, region: Region) -> Markup {
    let share =
        |task: &TaskDensity, kind: usize| task.by_kind.get(kind).map(|all| all[place(region)]);
    html! {
        div.wide {
            table.heat {
                caption { (important_to(region)) }
                thead {
                    tr {
                        th scope="col" { "parameters" }
                        @for task in &density.tasks { th scope="col" title=[tooltip(&task.task)] { (task.task) } }
                    }
                }
                tbody {
                    @for (kind, name) in density.kinds.iter().enumerate() {
                        tr {
                            th scope="row" { (name) }
                            @for task in &density.tasks {
                                @match share(task, kind) {
                                    Some(share) => td class=(heat(scaled(share))) { (percent(share)) },
                                    None => td {},
                                }
                            }
                        }
                    }
                }
            }
        }
    }
}

fn important_to(region: Region) -> &'static str {
    match region {
        Region::InnerOnly => "Important to the new task only",
        Region::OuterOnly => "Important to the memory only",
        Region::Both => "Important to both",
        Region::Neither => "Important to neither",
    }
}

/// Left edge of the cells, after the names of kinds.
const LEFT: f64 = 150.0;
const TOP: f64 = 22.0;
const ROW: f64 = 15.0;
/// Between two tasks.
const GAP: f64 = 8.0;
/// Of the whole chart, unless its cells would be narrower than 2 pixels.
const WIDTH: f64 = 1040.0;
/// Of a cell.
const WIDEST: f64 = 34.0;
/// From this width on a cell has its number in it.
const NUMBERED: f64 = 26.0;

/// Kinds by layers within each task, with the numbers where there is room for them.
fn by_layer(density: &Density, region: Region) -> Markup {
    let n_columns = (density.tasks.len() * density.n_layers) as f64;
    let room = WIDTH - LEFT - GAP * density.tasks.len() as f64;
    let width = (room / n_columns).clamp(2.0, WIDEST).floor();
    let block = width * density.n_layers as f64 + GAP;
    let left = |task: usize| LEFT + block * task as f64;
    let height = ROW * density.kinds.len() as f64;
    let body = html! {
        @for (kind, name) in density.kinds.iter().enumerate() {
            (text("end small", (LEFT - 6.0, TOP + ROW * kind as f64 + 11.0), name))
        }
        @for (t, task) in density.tasks.iter().enumerate() {
            (text("small", (left(t), TOP - 7.0), &cut(&task.task, block)))
            g transform=(format!("translate({} {}) scale({width} {ROW})", px(left(t)), px(TOP + ROW / 2.0))) {
                (cells(task, region))
            }
            @if width >= NUMBERED { (numbers(task, region, left(t), width)) }
            rect.frame x=(px(left(t))) y=(px(TOP)) width=(px(block - GAP)) height=(px(height)) {}
        }
    };
    let label = format!(
        "{}: share of parameters by kind, layer and task",
        important_to(region)
    );
    let size = (left(density.tasks.len()), TOP + height + 6.0);
    html! {
        figure {
            figcaption { (important_to(region)) }
            div.wide { (svg(size, &label, body)) }
        }
    }
}

/// One path for every step of the scale, in units of cells, with a line for every run of equal
/// cells of a row: 24 layers in 14 tasks stay small.
fn cells(task: &TaskDensity, region: Region) -> Markup {
    let mut steps = vec![String::new(); 10];
    for (kind, layers) in task.by_layer.iter().enumerate() {
        let step = |layer: usize| {
            let share = layers.get(layer)?.as_ref()?[place(region)];
            Some(heat_step(scaled(share)))
        };
        let mut start = 0;
        while start < layers.len() {
            let end = (start + 1..layers.len())
                .find(|&layer| step(layer) != step(start))
                .unwrap_or(layers.len());
            if let Some(step) = step(start) {
                steps[step].push_str(&format!("M{start} {kind}h{}", end - start));
            }
            start = end;
        }
    }
    html! {
        // Step 0 has no ink.
        @for (step, way) in steps.iter().enumerate().skip(1).filter(|(_, way)| !way.is_empty()) {
            path class=(format!("cells h{step}")) d=(way) {}
        }
    }
}

fn numbers(task: &TaskDensity, region: Region, left: f64, width: f64) -> Markup {
    html! {
        @for (kind, layers) in task.by_layer.iter().enumerate() {
            @for (layer, shares) in layers.iter().enumerate() {
                @if let Some(shares) = shares {
                    @let at = (left + width * (layer as f64 + 0.5), TOP + ROW * kind as f64 + 11.0);
                    (text("middle small", at, &percent(shares[place(region)])))
                }
            }
        }
    }
}
