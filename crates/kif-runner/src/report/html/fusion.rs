//! What importance masks identified, and so what was fused: shares of parameters by kind, layer and task.

use maud::{Markup, PreEscaped, html};

use super::chart::{cut, heat, heat_key, heat_step, svg, text};
use super::{folded, percent, table};
use crate::report::table;
use crate::report::{Density, Region, Summary, TaskDensity};

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
                caption { "important to " (important_to(region)) }
                thead {
                    tr {
                        th scope="col" { "parameters" }
                        @for task in &density.tasks { th scope="col" title=(task.task) { (task.task) } }
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
        Region::InnerOnly => "the new task only",
        Region::OuterOnly => "the memory only",
        Region::Both => "both",
        Region::Neither => "neither",
    }
}

/// Left edge of the cells, behind the names of kinds.
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

/// Kinds by layers within each task: all cells of one step of the scale are one path, so that 24 layers stay small.
fn by_layer(density: &Density, region: Region) -> Markup {
    let n_columns = (density.tasks.len() * density.n_layers) as f64;
    let room = WIDTH - LEFT - GAP * density.tasks.len() as f64;
    let width = (room / n_columns).clamp(2.0, WIDEST).floor();
    let block = width * density.n_layers as f64 + GAP;
    let left = |task: usize, layer: usize| LEFT + block * task as f64 + width * layer as f64;
    let mut steps = vec![String::new(); 10];
    let mut numbers = Vec::new();
    for (t, task) in density.tasks.iter().enumerate() {
        for (kind, layers) in task.by_layer.iter().enumerate() {
            for (layer, shares) in layers.iter().enumerate() {
                let Some(shares) = shares else { continue };
                let share = shares[place(region)];
                let (x, y) = (left(t, layer), TOP + ROW * kind as f64);
                steps[heat_step(scaled(share))]
                    .push_str(&format!("M{x} {y}h{width}v{ROW}h-{width}z"));
                if width >= NUMBERED {
                    numbers.push((x + width / 2.0, y + 11.0, share));
                }
            }
        }
    }
    let height = ROW * density.kinds.len() as f64;
    let body = html! {
        @for (step, d) in steps.iter().enumerate().filter(|(_, d)| !d.is_empty()) {
            path class=(format!("h{step}")) d=(PreEscaped(d)) {}
        }
        @for (x, y, share) in &numbers { (text("middle small", (*x, *y), &percent(*share))) }
        @for (kind, name) in density.kinds.iter().enumerate() {
            (text("end small", (LEFT - 6.0, TOP + ROW * kind as f64 + 11.0), name))
        }
        @for (t, task) in density.tasks.iter().enumerate() {
            rect.frame x=(left(t, 0)) y=(TOP) width=(block - GAP) height=(height) {}
            (text("small", (left(t, 0), TOP - 7.0), &cut(&task.task, block)))
        }
    };
    let label = format!(
        "Share of parameters important to {}, by kind, layer and task",
        important_to(region)
    );
    let size = (
        LEFT + block * density.tasks.len() as f64,
        TOP + height + 6.0,
    );
    html! {
        figure {
            figcaption { "Important to " (important_to(region)) }
            div.wide { (svg(size, &label, body)) }
        }
    }
}
