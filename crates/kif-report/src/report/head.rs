//! The head: what was run, what is best, and how sure one can be.

use kif_eval::Metric;

use super::comparison::Lead;
use super::spread::Spread;
use super::summary::Summary;

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
    let base = &summary.base;
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
            "The next is {next}: the difference is {points:+.1} points in the one cell that both have, and one cell \
             cannot tell them apart. Run more seeds."
        );
    };
    let verdict = if half < mean {
        "the interval is above 0; as the best was chosen by this very number, it still flatters"
    } else if half < -mean {
        "in these cells the next is the better one; the means are over different cells"
    } else {
        "the interval has 0 in it, so their order is open"
    };
    let (low, high) = (100.0 * (mean - half), 100.0 * (mean + half));
    let detectable = comparison.detectable.map_or(String::new(), |d| {
        let d = 100.0 * d;
        format!(" With a spread like theirs, a difference of {d:.1} points would show in 80 % of such runs.")
    });
    format!(
        "The next is {next}: the difference is {points:+.1} points over {cells} that both have (95 % interval \
         [{low:.1}, {high:.1}]); {verdict}.{detectable}"
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::comparison::Comparison;

    fn said(differences: &[(usize, f64)]) -> String {
        how_sure(&Lead {
            best: "a".to_owned(),
            next: "b".to_owned(),
            comparison: Spread::over_orders(differences).map(|difference| Comparison {
                method: "a".to_owned(),
                difference,
                test_rows: None,
                p: None,
                p_holm: None,
                detectable: None,
            }),
        })
    }

    #[test]
    fn a_lead_is_as_sure_as_its_interval() {
        let sure = said(&[(1, 0.10), (1, 0.11), (1, 0.12)]);
        assert!(sure.contains("+11.0 points over 3 cells"), "{sure}");
        assert!(
            sure.contains("[8.5, 13.5]); the interval is above 0"),
            "{sure}"
        );
        let open = said(&[(1, 0.10), (1, -0.09), (1, 0.02)]);
        assert!(open.contains("their order is open"), "{open}");
        let turned = said(&[(1, -0.10), (1, -0.11)]);
        assert!(turned.contains("the next is the better one"), "{turned}");
        assert!(said(&[(1, 0.3)]).contains("one cell cannot"));
        assert!(said(&[]).contains("shares no cell"));
    }
}
