//! The head: what was run, what is best, and how sure one can be.

use kif_eval::Metric;

use super::{Lead, Spread, Summary};

/// A paragraph each.
pub(super) fn sentences(summary: &Summary) -> Vec<String> {
    let mut sentences = vec![what_was_run(summary)];
    sentences.extend(findings(summary));
    sentences
}

/// Protocol, base, tasks, cells and program, in a sentence or two.
fn what_was_run(summary: &Summary) -> String {
    let extent = &summary.extent;
    let methods = count(summary.methods.len(), "method", "methods");
    let tasks = count(summary.tasks.len(), "task", "tasks");
    let orders = count(extent.orders.len(), "order", "orders");
    let seeds = count(extent.seeds.len(), "seed", "seeds");
    let cells = count(extent.n_cells, "finished cell", "finished cells");
    let base = summary.base.as_deref().unwrap_or("the embedded base");
    let mut text =
        format!("{methods} on a stream of {tasks}, from {base}: {orders}, {seeds}, {cells}.");
    if let Some(lock) = &summary.lock {
        let (program, compute) = (&lock.program, &lock.compute);
        let device = format!("{:?} in {:?}", compute.device, compute.precision).to_lowercase();
        let made = format!(
            " kif {}, commit {}, on {device}.",
            program.version, program.git_commit
        );
        text.push_str(&made);
    }
    text
}

/// What is best, and how sure that is.
fn findings(summary: &Summary) -> Vec<String> {
    let Some(best) = summary.methods.iter().find(|method| method.is_stream()) else {
        return Vec::new();
    };
    let Some(op) = best.metrics.get(&Metric::Op) else {
        return Vec::new();
    };
    let interval = op
        .interval()
        .map_or(String::new(), |ends| format!(" (95 % interval {ends})"));
    let highest = format!(
        "{} has the highest overall performance: {} % after the last task{interval}, over {}.",
        best.name,
        percent(op.mean),
        count(op.n, "cell", "cells"),
    );
    let mut texts = vec![highest];
    texts.extend(summary.lead.as_ref().map(how_sure));
    texts
}

/// The lead of the best over the next, in words.
fn how_sure(lead: &Lead) -> String {
    let Lead { best, next, .. } = lead;
    let Some(comparison) = &lead.comparison else {
        return format!(
            "The next is {next}, which shares no cell with {best}: their order is open."
        );
    };
    let Spread { mean, n, .. } = comparison.difference;
    let points = 100.0 * mean;
    let cells = count(n, "cell", "cells");
    let Some(half) = comparison.difference.half_width else {
        return format!(
            "The next is {next}, {points:.1} points lower in the one cell that both have: one cell cannot tell them \
             apart. Run more seeds."
        );
    };
    let verdict = if half < mean {
        "the interval of the difference is above 0; as the best was chosen by this very number, it still flatters"
    } else {
        "the interval of the difference has 0 in it, so their order is open"
    };
    let (low, high) = (100.0 * (mean - half), 100.0 * (mean + half));
    let detectable = comparison.detectable.map_or(String::new(), |d| {
        let d = 100.0 * d;
        format!(" With a spread like theirs, a difference of {d:.1} points would show in 80 % of such runs.")
    });
    format!(
        "The next is {next}, {points:.1} points lower over {cells} that both have (95 % interval of the difference \
         [{low:.1}, {high:.1}]): {verdict}.{detectable}"
    )
}

/// A score in percent with one decimal.
fn percent(score: f64) -> String {
    format!("{:.1}", 100.0 * score)
}

/// `3 seeds`, `1 seed`.
fn count(n: usize, one: &str, many: &str) -> String {
    format!("{n} {}", if n == 1 { one } else { many })
}
