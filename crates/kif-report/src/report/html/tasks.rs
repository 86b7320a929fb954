//! The tasks, and what every method scores on them in the end.

use maud::{Markup, html};

use super::table;
use crate::report::summary::Summary;
use crate::report::table;

pub(super) fn section(summary: &Summary) -> Markup {
    html! {
        (table(&table::tasks(summary)))
        p.note {
            "Rows of training and test, prompts that lost tokens (cut), the score of always answering the most frequent \
             training label (majority), and of the model before any task (base), in percent."
        }
        h3 { "Scores after the last task" }
        (table(&table::last_scores(summary)))
        p.note { "In percent, mean ± standard deviation over orders and seeds." }
    }
}
